//! What stands in the JWTs of operator mode: of an operator, its accounts, users who log in without
//! a callout, and activations. A mirror of nats-server's `jwt` v2 format, written by `init` and read
//! by `doctor`. `nats-jwt` has neither operators nor what an account exports, imports and delegates.

use serde::{Deserialize, Serialize};

use crate::callout::claims::VERSION;
use crate::callout::jwt::{self, JwtError, Unverified};
use crate::keys::{Account, AccountKey, BadSignature, PublicKey, Role, Signer, Signs};

/// About how long claims are, in bytes.
const ROOM: usize = 4096;

/// A JWT's claims, around the NATS part.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Claims<N> {
    /// Identifies the JWT.
    #[serde(default)]
    pub jti: String,
    /// Seconds since the Unix epoch.
    #[serde(default)]
    pub iat: i64,
    /// Who signed.
    pub iss: String,
    /// The name, for people.
    #[serde(default)]
    pub name: String,
    /// Whose claims these are.
    pub sub: String,
    /// Seconds since the Unix epoch; 0 is never.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub exp: i64,
    /// The NATS part.
    pub nats: N,
}

/// What an operator says.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct OperatorBody {
    /// Other keys that may sign account JWTs.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub signing_keys: Vec<String>,
    /// The system account's public key.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub system_account: String,
    /// `operator`.
    #[serde(rename = "type")]
    pub kind: String,
    /// The format.
    pub version: u32,
}

/// What an account's JWT says.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct AccountBody {
    /// What it takes from other accounts.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub imports: Vec<Import>,
    /// What it gives to other accounts.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub exports: Vec<Export>,
    /// Limits. Where none is written, nothing is allowed.
    #[serde(default)]
    pub limits: Limits,
    /// Keys beside the identity that may sign users.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub signing_keys: Vec<SigningKey>,
    /// The authorization callout.
    #[serde(default, skip_serializing_if = "Authorization::is_empty")]
    pub authorization: Authorization,
    /// `account`.
    #[serde(rename = "type")]
    pub kind: String,
    /// The format.
    pub version: u32,
}

/// `allowed_accounts` of every account.
pub const EVERY: &str = "*";

/// `service` or `stream`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum PassKind {
    /// Requests go from the importer to the exporter.
    Service,
    /// Messages go from the exporter to the importer.
    Stream,
}

/// What an account takes.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Import {
    /// A name; the server wants none twice.
    #[serde(default)]
    pub name: String,
    /// The subject in the exporting account.
    pub subject: String,
    /// The exporting account's public key.
    pub account: String,
    /// The activation, where the export asks for one.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub token: String,
    /// The subject here, where it is another.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub local_subject: String,
    /// Which way it goes.
    #[serde(rename = "type")]
    pub kind: PassKind,
}

/// What an account gives.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Export {
    /// A name.
    #[serde(default)]
    pub name: String,
    /// The subject.
    pub subject: String,
    /// Which way it goes.
    #[serde(rename = "type")]
    pub kind: PassKind,
    /// Whether an importer needs an activation.
    #[serde(default, skip_serializing_if = "is_false")]
    pub token_req: bool,
    /// `Stream` where one request may have many answers.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub response_type: String,
}

/// Limits of an account. -1 is none.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Limits {
    /// Subscriptions.
    pub subs: i64,
    /// Bytes.
    pub data: i64,
    /// Bytes of a message.
    pub payload: i64,
    /// Imports.
    pub imports: i64,
    /// Exports.
    pub exports: i64,
    /// Whether exports may have wildcards.
    pub wildcards: bool,
    /// Connections.
    pub conn: i64,
    /// Leafnode connections.
    pub leaf: i64,
    /// Bytes of JetStream in memory; 0 with the others is no JetStream.
    pub mem_storage: i64,
    /// Bytes of JetStream on disk.
    pub disk_storage: i64,
    /// Streams.
    pub streams: i64,
    /// Consumers.
    pub consumer: i64,
    /// Whether users that need no seed are refused.
    #[serde(skip_serializing_if = "is_false")]
    pub disallow_bearer: bool,
}

impl Limits {
    /// No limit on messaging, no leafnodes, and JetStream or not.
    #[must_use]
    pub fn none(jetstream: bool) -> Self {
        let kept = if jetstream { -1 } else { 0 };
        Self {
            subs: -1,
            data: -1,
            payload: -1,
            imports: -1,
            exports: -1,
            wildcards: true,
            conn: -1,
            leaf: 0,
            mem_storage: kept,
            disk_storage: kept,
            streams: kept,
            consumer: kept,
            disallow_bearer: false,
        }
    }
}

/// A signing key: plain, or with a scope that replaces what its users are given.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum SigningKey {
    /// Its users have the permissions in their JWTs.
    Plain(String),
    /// Its users have those of the template here.
    Scoped {
        /// `user_scope`.
        kind: String,
        /// The public key.
        key: String,
        /// The scope's name.
        #[serde(default)]
        role: String,
        /// What its users get.
        #[serde(default)]
        template: serde_json::Value,
    },
}

impl SigningKey {
    /// The public key.
    #[must_use]
    pub fn key(&self) -> &str {
        match self {
            Self::Plain(key) | Self::Scoped { key, .. } => key,
        }
    }
}

/// The authorization callout of an account.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Authorization {
    /// Users that log in without a callout.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub auth_users: Vec<String>,
    /// Other accounts that an answer may place somebody in; `*` is every one.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub allowed_accounts: Vec<String>,
    /// What requests are sealed to.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub xkey: String,
}

impl Authorization {
    /// Whether there is no callout.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }
}

/// What the JWT of a user says who logs in without a callout, or who is nothing but the way to it.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct UserBody {
    /// What it may publish.
    #[serde(default, rename = "pub", skip_serializing_if = "Subjects::is_empty")]
    pub publish: Subjects,
    /// What it may subscribe to.
    #[serde(default, rename = "sub", skip_serializing_if = "Subjects::is_empty")]
    pub subscribe: Subjects,
    /// Subscriptions; -1 is no limit.
    pub subs: i64,
    /// Bytes.
    pub data: i64,
    /// Bytes of a message.
    pub payload: i64,
    /// Whether whoever has the JWT needs no seed.
    #[serde(default, skip_serializing_if = "is_false")]
    pub bearer_token: bool,
    /// The account, where a signing key signed.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub issuer_account: String,
    /// `user`.
    #[serde(rename = "type")]
    pub kind: String,
    /// The format.
    pub version: u32,
}

impl UserBody {
    /// A user of that account with these permissions; without any, it may do everything.
    #[must_use]
    pub fn new(account: &AccountKey, publish: Subjects, subscribe: Subjects) -> Self {
        Self {
            publish,
            subscribe,
            subs: -1,
            data: -1,
            payload: -1,
            bearer_token: false,
            issuer_account: account.to_string(),
            kind: "user".to_owned(),
            version: VERSION,
        }
    }
}

/// Subjects of one side. Two empty lists permit everything.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Subjects {
    /// What is allowed.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub allow: Vec<String>,
    /// What is denied.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub deny: Vec<String>,
}

impl Subjects {
    fn is_empty(&self) -> bool {
        *self == Self::default()
    }

    /// Nothing.
    #[must_use]
    pub fn nothing() -> Self {
        Self { allow: Vec::new(), deny: vec![">".to_owned()] }
    }
}

/// An exporter's leave for one importer.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct ActivationBody {
    /// The exported subject.
    pub subject: String,
    /// Which way it goes.
    pub kind: PassKind,
    /// `activation`.
    #[serde(rename = "type")]
    pub typed: String,
    /// The format.
    pub version: u32,
}

/// Signs claims about `sub`, which never expire.
///
/// # Errors
/// [`JwtError`] when they cannot be written or signed.
pub fn sign<K: Role, N: Serialize>(
    signer: &impl Signs<K>,
    sub: &str,
    name: &str,
    nats: N,
    now: i64,
) -> Result<String, JwtError> {
    let id: [u8; 20] = rand::random();
    let claims = Claims {
        jti: data_encoding::BASE32_NOPAD.encode(&id),
        iat: now,
        iss: signer.key().to_string(),
        name: name.to_owned(),
        sub: sub.to_owned(),
        exp: 0,
        nats,
    };
    jwt::sign(&claims, ROOM, signer)
}

/// Reads claims without verifying who signed them.
///
/// # Errors
/// [`JwtError`] when they are none of that kind.
pub fn read<N: for<'de> Deserialize<'de>>(token: &str) -> Result<Claims<N>, JwtError> {
    Unverified::split(token.trim().as_bytes())?.claims()
}

/// Verifies that `key` signed a token.
///
/// # Errors
/// [`BadSignature`] when it did not, or it is no token.
pub fn verify<K: Role>(token: &str, key: &PublicKey<K>) -> Result<(), BadSignature> {
    Unverified::split(token.trim().as_bytes()).map_err(|_| BadSignature)?.verify(key)
}

/// Signs the leave for `importer` to import an export.
///
/// # Errors
/// [`JwtError`] when it cannot be written.
pub fn activation(
    exporter: &Signer<Account>,
    importer: &AccountKey,
    subject: &str,
    kind: PassKind,
    now: i64,
) -> Result<String, JwtError> {
    let body = ActivationBody {
        subject: subject.to_owned(),
        kind,
        typed: "activation".to_owned(),
        version: VERSION,
    };
    sign(exporter, importer.as_str(), subject, body, now)
}

/// The text of a `.creds` file.
#[must_use]
pub fn credentials(
    token: &str,
    seed: &crate::keys::Seed<crate::keys::User>,
) -> zeroize::Zeroizing<String> {
    zeroize::Zeroizing::new(format!(
        "-----BEGIN NATS USER JWT-----\n{token}\n------END NATS USER JWT------\n\n\
         -----BEGIN USER NKEY SEED-----\n{}\n------END USER NKEY SEED------\n",
        seed.expose()
    ))
}

#[allow(clippy::trivially_copy_pass_by_ref)]
fn is_zero(number: &i64) -> bool {
    *number == 0
}

#[allow(clippy::trivially_copy_pass_by_ref)]
fn is_false(flag: &bool) -> bool {
    !*flag
}
