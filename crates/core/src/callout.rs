//! The authorization callout protocol, from bytes to a [`request::VerifiedRequest`] and back.
//!
//! Source: nats-server's `server/auth_callout.go` and the NATS JWT v2 format, as measured on
//! 2.10 to 2.15. In reading order: [`claims`] mirrors the wire and decides nothing, [`jwt`] splits
//! and signs tokens, [`xkey`] encrypts to a server's curve key, [`request`] turns bytes into a
//! request that a server provably sent, [`response`] turns an answer into bytes. [`signable`] says what
//! an issuer's key may sign.

pub mod asked;
pub mod authorizer;
pub mod claims;
pub mod connection_name;
pub mod decide;
pub mod identity;
pub mod issue;
pub mod jwt;
pub mod rate_limit;
pub mod request;
pub mod response;
pub mod signable;
pub mod xkey;
