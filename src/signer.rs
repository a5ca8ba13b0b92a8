//! The signer: a process of its own that holds the keys of accounts and signs with them for `serve`,
//! so that whoever takes the host of `serve` over does not have the keys. `docs/signer.md` has the
//! protocol, for those who write an adapter to another place where keys are.
//!
//! - `client` is what `serve` asks with;
//! - `desk` judges one question and answers it;
//! - `socket` listens, and asks who is at the other end;
//! - `keys` holds seeds, adapters and tokens; `token` signs with a key in a PKCS#11 token.

pub mod client;
pub mod desk;
pub mod keys;
mod line;
pub mod socket;
pub mod token;

use std::borrow::Cow;

use serde::{Deserialize, Serialize};

/// The protocol's version.
pub const VERSION: u32 = 1;

/// The longest question, in bytes.
pub const QUESTION_AT_MOST: usize = 4 * 1024 * 1024;
/// The longest answer, in bytes.
const ANSWER_AT_MOST: usize = 64 * 1024;

/// A question: one line of JSON.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Question<'a> {
    /// [`VERSION`].
    v: u32,
    /// What is asked.
    ask: Ask,
    /// The public key that is to sign.
    #[serde(borrow, default, skip_serializing_if = "Option::is_none")]
    key: Option<Cow<'a, str>>,
    /// What it is to sign.
    #[serde(borrow, default, skip_serializing_if = "Option::is_none")]
    text: Option<Cow<'a, str>>,
}

/// What is asked.
#[derive(Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
enum Ask {
    /// For a signature.
    Sign,
    /// Which keys there are.
    Keys,
}

/// An answer: one line of JSON. One of the fields is there, and `detail` beside `error`.
#[derive(Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
struct Answer {
    /// 64 bytes in base64url without padding.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    signature: Option<String>,
    /// Public keys.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    keys: Option<Vec<String>>,
    /// Why not: [`REFUSED`], [`BUSY`] or [`FAILED`].
    #[serde(default, skip_serializing_if = "Option::is_none")]
    error: Option<Cow<'static, str>>,
    /// The same, for people.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    detail: Option<String>,
}

/// The question is none, or what it asks for is not signed.
const REFUSED: &str = "refused";
/// There were too many questions in this second.
const BUSY: &str = "busy";
/// The key cannot be used now.
const FAILED: &str = "failed";
