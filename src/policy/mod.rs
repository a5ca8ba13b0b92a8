//! The policy: everything that says who is who and who may do what.
//!
//! In reading order: [`directory`] gives texts, [`document`] reads them, [`validate`] judges them
//! as one whole and makes the [`model`] that the rest of the program sees, [`store`] holds the one
//! in force. [`overlap`] is how a whole policy is searched for two owners of a key.

pub mod directory;
pub mod document;
pub mod look;
pub mod model;
pub mod overlap;
pub mod store;
pub mod validate;
