//! The policy: everything that says who is who and who may do what.
//!
//! In reading order: [`model`] is what the rest of the program sees.

pub mod model;
