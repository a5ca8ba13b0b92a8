//! What a service may do, as subjects. How KV operations become subjects is [`solewriter_types::kv_operation`].
//!
//! Nothing here is a convenience: each subject is needed by an operation that a rule promises, and
//! names that operation and that rule.
//!
//! - `compile` turns rules into a [`Grant`];
//! - `digest` names it, and what it was made from;
//! - `reserved` has the subjects that no service is granted: the last gate;
//! - `streams` has the audit streams that a service may be granted.

mod compile;
mod digest;
mod reserved;
mod streams;

pub use self::compile::{
    CompiledGrant, Defaults, Grant, GrantError, MANY_SUBJECTS, MAX_SUBJECT_BYTES, MAX_SUBJECTS,
    Permission, TooLarge,
};
pub use self::digest::{Digest, GrantInputs};
pub use self::reserved::{Side, is_own_audit_subject, never_granted, reaches_audit};
pub use self::streams::AuditStreams;
pub use solewriter_types::kv_operation::inbox_prefix;

#[cfg(test)]
mod tests;
