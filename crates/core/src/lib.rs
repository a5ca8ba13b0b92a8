//! How solewriter decides: who asks, what the policy says, and the answer, from bytes to bytes.
//!
//! Nothing here does I/O, waits, or knows a runtime. The way of one request is [`callout`]:
//!
//! ```text
//! bytes ─ request ─▶ VerifiedRequest ─ identity ─▶ Identity ─ decide ─▶ Decision ─ issue ─▶ bytes
//! ```
//!
//! In reading order: [`keys`], [`diagnostics`], [`policy`], [`grant`], [`callout`]; [`analysis`]
//! answers questions about a policy with the grants that are signed.

pub mod account_jwt;
pub mod analysis;
pub mod authors;
pub mod callout;
pub mod diagnostics;
pub mod emergency;
pub mod grant;
pub mod handover;
pub mod keys;
pub mod policy;
pub mod signed;
