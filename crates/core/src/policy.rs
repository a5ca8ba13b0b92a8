//! The policy: everything that says who is who and who may do what.
//!
//! In reading order: [`directory`] and [`bucket`] give texts, [`document`] reads them, [`validate`] judges them
//! as one whole and makes the [`model`] that the rest of the program sees, [`store`] holds the one
//! in force, [`removed`] the keys that it no longer has, and [`standing`] what is known of where it
//! came from; [`kept`] is for the next start.

pub mod document;
pub mod model;
pub mod validate;
