//! solewriter
pub mod keys;
pub mod keyspace;
pub mod policy;
pub mod source;
pub mod subject;
