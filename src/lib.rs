//! solewriter

pub mod audit;
pub mod buckets;
pub mod cli;
pub mod config;
pub mod doctor;
pub mod fleet;
pub mod http;
pub mod nats;
pub mod policy_source;
pub mod prove;
pub mod scaffold;
pub mod schema;
pub mod service;
pub mod sessions;
pub mod telemetry;
pub mod violations;
