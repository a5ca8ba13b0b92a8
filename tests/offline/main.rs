//! What needs no nats-server: the policy and its tools, the way of one request, and that
//! pages, schemas and messages are as the code has them.

// Helpers of tests fail the test when something is not as it must be.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]
#![allow(missing_docs)]

mod audit;
mod dependencies;
mod docs;
mod fixtures;
mod permissions;
mod pipeline;
mod properties;
mod questions;
mod readme;
mod revisions;
mod schema;
mod settings;
#[path = "../support/mod.rs"]
mod support;
mod tools;
