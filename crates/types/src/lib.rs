//! The words that solewriter and its guard share: subjects and patterns, keyspaces, KV operations,
//! audit events, lines of nats-server's log. Pure: nothing here does I/O.

pub mod advisories;
pub mod audit_event;
pub mod audit_loss;
pub mod clean;
pub mod connection_type;
pub mod dedup;
pub mod go_quote;
pub mod keyspace;
pub mod kv_operation;
pub mod server_log;
pub mod subject;
pub mod violation_log;
