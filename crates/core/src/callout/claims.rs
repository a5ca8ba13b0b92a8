//! The JSON of requests and responses, field by field. A mirror: nothing is decided here.
//!
//! Known fields must have the right type and occur once; unknown ones are ignored, because each
//! nats-server release may add some.

use std::fmt;

use serde::{Deserialize, Deserializer, Serialize};
use serde_json::value::RawValue;

/// `nats.type` of a request.
pub const REQUEST_TYPE: &str = "authorization_request";
/// `nats.type` of a response.
pub const RESPONSE_TYPE: &str = "authorization_response";
/// `aud` of a request.
pub const REQUEST_AUDIENCE: &str = "nats-authorization-request";
/// `nats.version` of everything in the v2 format.
pub const VERSION: u32 = 2;

/// The claims of an authorization request.
#[derive(Deserialize)]
pub struct Request {
    /// The server's public key.
    pub iss: String,
    /// The account that the server expects answers from.
    pub sub: String,
    /// [`REQUEST_AUDIENCE`].
    pub aud: String,
    /// When the server asked, in seconds since the Unix epoch.
    pub iat: i64,
    /// When the server stops waiting, in seconds since the Unix epoch.
    pub exp: i64,
    /// The NATS part.
    pub nats: RequestBody,
}

/// The `nats` object of a request.
#[derive(Deserialize)]
pub struct RequestBody {
    /// Which server asks.
    pub server_id: ServerId,
    /// The key that the server made for this connection; the user JWT's subject.
    pub user_nkey: String,
    /// The connection, as the server sees it.
    pub client_info: ClientInfo,
    /// What the client sent in its CONNECT.
    pub connect_opts: ConnectOptions,
    /// [`REQUEST_TYPE`].
    #[serde(rename = "type")]
    pub kind: String,
    /// [`VERSION`].
    pub version: u32,
}

/// `nats.server_id`.
#[derive(Deserialize)]
pub struct ServerId {
    /// The configured or generated name.
    #[serde(default)]
    pub name: String,
    /// The address that it listens on.
    #[serde(default)]
    pub host: String,
    /// Its public key, the same as `iss`.
    pub id: String,
    /// For example `2.15.1`.
    #[serde(default)]
    pub version: String,
    /// The cluster's name, when there is one.
    #[serde(default)]
    pub cluster: String,
    /// The curve key to seal the response to.
    #[serde(default)]
    pub xkey: String,
}

/// `nats.client_info`.
#[derive(Deserialize)]
pub struct ClientInfo {
    /// The client's address.
    #[serde(default)]
    pub host: String,
    /// The connection's number on its server.
    #[serde(default)]
    pub id: u64,
    /// `Client`, `Leafnode` and so on.
    #[serde(default)]
    pub kind: String,
    /// `nats`, `websocket` or `mqtt`.
    #[serde(default, rename = "type")]
    pub protocol: String,
    /// What the client was asked to sign.
    #[serde(default)]
    pub nonce: String,
}

/// `nats.connect_opts`. Secrets are reduced to whether there is one while they are parsed.
#[derive(Deserialize)]
pub struct ConnectOptions {
    /// The public key that the client claims.
    #[serde(default)]
    pub nkey: String,
    /// The signature over the nonce.
    #[serde(default)]
    pub sig: String,
    /// The client's JWT, which a server in operator mode has verified, or its own sentinel's.
    #[serde(default)]
    pub jwt: String,
    /// Whether there is a token.
    #[serde(default)]
    pub auth_token: Present,
    /// Whether there is a user name.
    #[serde(default)]
    pub user: Present,
    /// Whether there is a password.
    #[serde(default)]
    pub pass: Present,
    /// The client's own name for itself.
    #[serde(default)]
    pub name: String,
    /// The client library.
    #[serde(default)]
    pub lang: String,
    /// The client library's version.
    #[serde(default)]
    pub version: String,
}

/// Whether a string was there and not empty; the string itself is not kept.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Present(pub bool);

impl<'de> Deserialize<'de> for Present {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Visitor;
        impl serde::de::Visitor<'_> for Visitor {
            type Value = Present;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a string")
            }
            fn visit_str<E>(self, text: &str) -> Result<Present, E> {
                Ok(Present(!text.is_empty()))
            }
        }
        deserializer.deserialize_str(Visitor)
    }
}

/// The claims of a user JWT. The envelope is ours because `nats-jwt` has no `aud`; the `nats`
/// object is that crate's, written once for each grant.
#[derive(Serialize)]
pub struct User<'a> {
    /// A random identifier, also in the log line.
    pub jti: &'a str,
    /// Seconds since the Unix epoch.
    pub iat: i64,
    /// The key that signs: the issuer's, or in operator mode one of the target account.
    pub iss: &'a str,
    /// Leads back to service, key and policy revision.
    pub name: &'a str,
    /// The connection's key (`user_nkey` of the request).
    pub sub: &'a str,
    /// The name of the account that the connection is placed in; none in operator mode.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub aud: Option<&'a str>,
    /// Seconds since the Unix epoch.
    pub exp: i64,
    /// Permissions and limits.
    pub nats: &'a RawValue,
}

/// The claims of an authorization response.
#[derive(Serialize)]
pub struct Response<'a> {
    /// A random identifier, also in the log line.
    pub jti: &'a str,
    /// Seconds since the Unix epoch.
    pub iat: i64,
    /// The issuer account's key.
    pub iss: &'a str,
    /// `user_nkey` of the request.
    pub sub: &'a str,
    /// The server's public key.
    pub aud: &'a str,
    /// The answer.
    pub nats: ResponseBody<'a>,
}

/// The `nats` object of a response: exactly one of `jwt` and `error`.
#[derive(Serialize)]
pub struct ResponseBody<'a> {
    /// The signed user JWT.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub jwt: Option<&'a str>,
    /// The refusal; only the server's log shows it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub error: Option<&'a str>,
    /// In operator mode, the account that the signing key belongs to.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub issuer_account: Option<&'a str>,
    /// [`RESPONSE_TYPE`].
    #[serde(rename = "type")]
    pub kind: &'static str,
    /// [`VERSION`].
    pub version: u32,
}
