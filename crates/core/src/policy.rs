//! The policy: everything that says who is who and who may do what.
//!
//! [`document`] reads texts, [`validate`] judges them as one whole and makes the [`model`] that the
//! rest of the program sees. Where the texts come from is not known here.

pub mod document;
pub mod model;
pub mod validate;
