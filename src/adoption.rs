//! From the NATS that a company runs today to a policy that the broker enforces.
//!
//! [`deed`] is what much of it is about: one thing that one client did. [`trace`] reads deeds from the
//! trace of nats-server, [`connected`] makes clients of open connections, and [`mapping`] says which client
//! is which service. [`evidence`] is what each
//! service was seen to do, [`mod@draft`] makes a policy of it, and [`learn`] is the whole of that.
//! [`rehearsal`] holds a policy against deeds. [`server_config`] reads nats-server's configuration: who
//! may do what today. [`stages`] writes its next configuration, with solewriter beside everybody.

pub mod connected;
pub mod deed;
pub mod draft;
pub mod evidence;
pub mod learn;
pub mod mapping;
pub mod rehearsal;
pub mod server_config;
pub mod stages;
pub mod trace;
