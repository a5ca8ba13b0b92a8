//! The configuration of nats-server, as a company has it today: what it says, who may do what by
//! it, and what nobody noticed.
//!
//! - [`syntax`] reads the language, exactly as nats-server does, and keeps every position.
//! - [`accounts`] is the typed view: accounts, users, permissions. No secret is in it.
//! - [`permissions`] says what each user may do once denies are considered.
//! - [`findings`] says what does not hold in such a system; [`report`] prints all of it.

pub mod accounts;
pub mod findings;
pub mod permissions;
pub mod report;
pub mod syntax;
