//! solewriter
pub mod authorizer;
pub mod cli;
pub mod config;
pub mod decide;
pub mod diff;
pub mod expect;
pub mod http;
pub mod identity;
pub mod issue;
pub mod keys;
pub mod keyspace;
pub mod permissions;
pub mod policy;
pub mod protocol;
pub mod query;
#[cfg(all(unix, feature = "sandbox"))]
pub mod sandbox;
pub mod service;
pub mod source;
pub mod subject;
pub mod telemetry;
