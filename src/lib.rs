//! solewriter
pub mod keys;
pub mod keyspace;
pub mod policy;
pub mod subject;
