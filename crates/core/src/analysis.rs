//! What a policy says: questions, changes, assertions, a picture. All of it reads the grants that
//! `serve` signs.

pub mod assertions;
pub mod authorship;
pub mod diff;
pub mod map;
pub mod query;
