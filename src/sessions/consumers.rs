//! Consumers: what they deliver must end with the grant that they were made under.
//!
//! A consumer lives in the stream's account, and not with the connection that made it. nats-server
//! goes on delivering to its inbox when that connection is closed, and its client may still listen
//! there, whatever the policy says meanwhile. So the sweeper lists the consumers of every stream,
//! and deletes each that no grant in force covers; and of those that are covered, what is too much
//! for one service. On streams that are neither buckets nor object stores nor for audit events, it
//! leaves what reaches no service. As with connections, it compares states: nothing is
//! remembered, and what outlived every instance is found like anything else.
//!
//! [`verdict`] decides (pure), [`listing`] asks and deletes, [`sweep`] does one round, [`sweeper`]
//! goes on for ever.
//!
//! Seen on nats-server 2.10.25, 2.12.8 and 2.15.1: a `deliver_subject` is listed as its client
//! wrote it, also when it came across an import; the consumers that mirrors and sources read with
//! are not listed; and a page of the list is 256 consumers, however large.

pub mod listing;
pub mod sweep;
pub mod sweeper;
pub mod verdict;

/// What is done about consumers that reach no service.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum Strangers {
    /// They are deleted when they are a minute old.
    #[default]
    Delete,
    /// They are left: whoever made them is not in the policy yet, and works in the account itself.
    Leave,
}

/// What is allowed of consumers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Settings {
    /// How many one service may have on one stream.
    pub per_service: usize,
    /// What is done about those that reach no service.
    pub strangers: Strangers,
}
