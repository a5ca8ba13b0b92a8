//! Operator mode: what the JWTs of accounts have to say, and where they say something else. There is one
//! picture of the accounts, the shipped configuration of nats-server. `init` writes JWTs from it,
//! `solewriter operator plan` and `doctor` hold JWTs against it.

pub mod change;
pub mod picture;
pub mod situation;

pub use self::change::{About, Account, Activation, Change, word};
pub use self::situation::{Missing, Situation};
