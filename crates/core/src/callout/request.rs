//! From the bytes on `$SYS.REQ.USER.AUTH` to a request that a server provably sent.
//!
//! Every byte is untrusted until [`VerifiedRequest::open`] returned. What fails here gets no
//! reply: the sender did not prove to be a server, so it is owed none, and a real server refuses
//! its client by itself when its timeout passes.

use std::net::IpAddr;

use super::claims::{self, ClientInfo, ConnectOptions};
use super::jwt::{JwtError, Unverified};
use crate::callout::xkey::Sealer;
use crate::keys::{self, AccountKey, CurveKey, KeyError, ServerKey, UserKey, Verifier};
use solewriter_types::connection_type::ConnectionType;

/// The largest payload that is looked at, in bytes. A request is about 1.5 KB; client
/// certificates (which a server with TLS verification adds) take a few KB each. What a client says
/// of itself stands in it twice, in base64, and may have the server's `max_control_line` (4 KB
/// unless raised): up to 256 KB of that is answered, because whoever gets no answer waits for it
/// until the server's own time is up.
pub const MAX_REQUEST_BYTES: usize = 768 * 1024;

/// Why a request was ignored.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Rejection {
    /// Larger than [`MAX_REQUEST_BYTES`].
    #[error("the request has {0} bytes, more than the {MAX_REQUEST_BYTES} allowed")]
    TooLarge(usize),
    /// An xkey is configured here and the request is not sealed.
    #[error(
        "the request is not sealed, and an xkey is configured here: set `xkey` in the server's \
         auth_callout block"
    )]
    NotSealed,
    /// No xkey is configured here and the request is sealed.
    #[error(
        "the request is sealed, and no xkey is configured here: set [xkey] seed, or remove \
         `xkey` from the server's auth_callout block"
    )]
    Sealed,
    /// The header `Nats-AskingServer-Xkey` is missing or no curve key.
    #[error("the header Nats-Server-Xkey is not a curve key: {0}")]
    ServerXkey(KeyError),
    /// The seal did not open.
    #[error(
        "the request cannot be opened with the configured xkey: check that `xkey` in the server's \
         auth_callout block is this service's public curve key"
    )]
    Unopened,
    /// The header's curve key is not the one that the server signed.
    #[error("the header Nats-Server-Xkey differs from the server's signed xkey")]
    XkeyMismatch,
    /// Not a JWT of the right form.
    #[error("the request is not a NATS JWT: {0}")]
    Jwt(#[from] JwtError),
    /// Type, version or audience of something else.
    #[error("the JWT is not an authorization request: {0}")]
    NotARequest(&'static str),
    /// The server no longer waits.
    #[error("the request expired {0} s ago (if that is constant, check the clocks)")]
    Expired(i64),
    /// The issuer is not a server key.
    #[error("the issuer is not a server: {0}")]
    Issuer(KeyError),
    /// Issued by another key than `server_id.id`.
    #[error("the issuer is not the server that the request names")]
    IssuerMismatch,
    /// The server's signature is wrong.
    #[error("the server's signature does not verify")]
    Signature,
    /// The server expects answers from another account.
    #[error(transparent)]
    OtherIssuer(Box<OtherIssuer>),
    /// `sub` is no account key.
    #[error("the expected issuer in the request is not an account: {0}")]
    NotAnAccount(KeyError),
    /// `user_nkey` is not a user key.
    #[error("user_nkey is not a user key: {0}")]
    UserNkey(KeyError),
}

/// A server that takes the answers of another issuer. It says so itself: its signature holds.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "server {server} has `issuer` {theirs} in auth_callout, but [issuer] seed here belongs to \
     {ours}"
)]
pub struct OtherIssuer {
    /// The server's name.
    pub server: String,
    /// Whose answers it takes.
    pub theirs: AccountKey,
    /// Who we are.
    pub ours: AccountKey,
}

impl Rejection {
    /// The name of [`Rejection::OtherIssuer`]: nobody gets in on that server, and only a person can
    /// mend it.
    pub const OTHER_ISSUER: &str = "other_issuer";

    /// Every name that [`Rejection::code`] gives.
    pub const CODES: [&'static str; 15] = [
        "too_large",
        "not_sealed",
        "sealed",
        "server_xkey",
        "unopened",
        "xkey_mismatch",
        "malformed",
        "not_a_request",
        "expired",
        "issuer",
        "issuer_mismatch",
        "signature",
        Self::OTHER_ISSUER,
        "not_an_account",
        "user_nkey",
    ];

    /// A short, stable name for metrics and logs.
    #[must_use]
    pub fn code(&self) -> &'static str {
        match self {
            Self::TooLarge(_) => "too_large",
            Self::NotSealed => "not_sealed",
            Self::Sealed => "sealed",
            Self::ServerXkey(_) => "server_xkey",
            Self::Unopened => "unopened",
            Self::XkeyMismatch => "xkey_mismatch",
            Self::Jwt(_) => "malformed",
            Self::NotARequest(_) => "not_a_request",
            Self::Expired(_) => "expired",
            Self::Issuer(_) => "issuer",
            Self::IssuerMismatch => "issuer_mismatch",
            Self::Signature => "signature",
            Self::OtherIssuer(_) => Self::OTHER_ISSUER,
            Self::NotAnAccount(_) => "not_an_account",
            Self::UserNkey(_) => "user_nkey",
        }
    }
}

/// What a request has to fit, from the settings.
pub struct Expectation<'a> {
    /// Our issuer account; in operator mode, the account that asks.
    pub issuer: &'a AccountKey,
    /// Whether this is operator mode, where each client has a JWT, its own or the sentinel's.
    pub operator: bool,
    /// Opens sealed requests, when an xkey is configured.
    pub sealer: Option<&'a Sealer>,
    /// Verifies what servers signed.
    pub servers: &'a Verifier<keys::Server>,
    /// How far a server's clock may be behind ours, in seconds.
    pub clock_leeway: i64,
}

/// The server that asks.
#[derive(Clone, Debug)]
pub struct AskingServer {
    /// Its public key, which is also its id.
    pub key: ServerKey,
    /// Its name.
    pub name: String,
    /// Its version.
    pub version: String,
    /// Its cluster, or empty.
    pub cluster: String,
}

/// The connection to authorise, as the server sees it.
#[derive(Clone, Debug)]
pub struct Client {
    /// Its address as text.
    pub host: String,
    /// Its address, when the server gave one.
    pub address: Option<IpAddr>,
    /// Its number on the server.
    pub id: u64,
    /// How it connects; `None` for what solewriter does not know.
    pub connection: Option<ConnectionType>,
    /// Its name for itself: the client's own words, to be escaped wherever printed.
    pub name: String,
    /// Its library, also its own words.
    pub library: String,
}

/// What the client offers as proof; judged by [`crate::callout::identity`].
#[derive(Clone)]
pub(crate) struct Credentials {
    pub(crate) nkey: String,
    pub(crate) signature: String,
    pub(crate) nonce: String,
    /// The first other kind of credential that came along.
    pub(crate) other: Option<&'static str>,
}

/// A request that is in form, in time and signed by the server that it names.
#[derive(Clone)]
pub struct VerifiedRequest {
    server: AskingServer,
    client: Client,
    user_nkey: UserKey,
    asked: i64,
    reply_xkey: Option<CurveKey>,
    pub(crate) credentials: Credentials,
}

impl VerifiedRequest {
    /// Opens, decodes and verifies. `server_xkey` is the header `Nats-AskingServer-Xkey`; `now` is in
    /// seconds since the Unix epoch. Size and form are checked before anything is decoded, and
    /// expiry before any signature.
    ///
    /// # Errors
    /// [`Rejection`], for which no reply is owed.
    pub fn open(
        payload: &[u8],
        server_xkey: Option<&str>,
        expected: &Expectation<'_>,
        now: i64,
    ) -> Result<Self, Rejection> {
        if payload.len() > MAX_REQUEST_BYTES {
            return Err(Rejection::TooLarge(payload.len()));
        }
        let Some(sealer) = expected.sealer else {
            if payload.starts_with(b"xkv1") {
                return Err(Rejection::Sealed);
            }
            return Self::verify(payload, None, expected, now);
        };
        let Some(header) = server_xkey else { return Err(Rejection::NotSealed) };
        let sender = CurveKey::parse(header).map_err(Rejection::ServerXkey)?;
        let plain = sealer.open(payload, &sender).map_err(|_| Rejection::Unopened)?;
        Self::verify(&plain, Some(sender), expected, now)
    }

    fn verify(
        token: &[u8],
        reply_xkey: Option<CurveKey>,
        expected: &Expectation<'_>,
        now: i64,
    ) -> Result<Self, Rejection> {
        let token = Unverified::split(token)?;
        let claims::Request { iss, sub, aud, iat, exp, nats } = token.claims()?;
        let claims::RequestBody { server_id, user_nkey, client_info, connect_opts, kind, version } =
            nats;
        if kind != claims::REQUEST_TYPE {
            return Err(Rejection::NotARequest("its type is another"));
        }
        if version != claims::VERSION {
            return Err(Rejection::NotARequest("its version is not 2"));
        }
        if aud != claims::REQUEST_AUDIENCE {
            return Err(Rejection::NotARequest("its audience is another"));
        }
        let deadline = exp.saturating_add(expected.clock_leeway);
        if deadline <= now {
            return Err(Rejection::Expired(now.saturating_sub(exp)));
        }
        let key = ServerKey::parse(&iss).map_err(Rejection::Issuer)?;
        if server_id.id != iss {
            return Err(Rejection::IssuerMismatch);
        }
        let wanted = AccountKey::parse(&sub).map_err(Rejection::NotAnAccount)?;
        let user_nkey = UserKey::parse(&user_nkey).map_err(Rejection::UserNkey)?;
        token.verify_with(expected.servers, &key).map_err(|_| Rejection::Signature)?;
        // From here on, the server's own words.
        if wanted != *expected.issuer {
            return Err(Rejection::OtherIssuer(Box::new(OtherIssuer {
                server: server_id.name,
                theirs: wanted,
                ours: *expected.issuer,
            })));
        }
        if reply_xkey.is_some_and(|header| header.as_str() != server_id.xkey) {
            return Err(Rejection::XkeyMismatch);
        }
        let claims::ServerId { name, host: _, id: _, version, cluster, xkey: _ } = server_id;
        let (client, credentials) = client_of(client_info, connect_opts, expected.operator);
        let server = AskingServer { key, name, version, cluster };
        Ok(Self { server, client, user_nkey, asked: iat, reply_xkey, credentials })
    }

    /// The server that asks.
    #[must_use]
    pub fn server(&self) -> &AskingServer {
        &self.server
    }

    /// The connection to authorise.
    #[must_use]
    pub fn client(&self) -> &Client {
        &self.client
    }

    /// The key that the server made for this connection.
    #[must_use]
    pub fn user_nkey(&self) -> &UserKey {
        &self.user_nkey
    }

    /// When the server asked, on its own clock, in seconds since the Unix epoch.
    #[must_use]
    pub fn asked(&self) -> i64 {
        self.asked
    }

    /// Whom to seal the answer to; `None` when the request came unsealed.
    #[must_use]
    pub fn reply_xkey(&self) -> Option<&CurveKey> {
        self.reply_xkey.as_ref()
    }
}

/// The address that a server writes of a client; `None` when it is none. A link-local one comes with
/// its zone, `fe80::1%eth0`, which says on which of the server's networks it is and is left out.
#[must_use]
pub fn address(host: &str) -> Option<IpAddr> {
    let plain = host.split_once('%').map_or(host, |(address, _zone)| address);
    plain.parse::<IpAddr>().ok().map(|address| address.to_canonical())
}

/// Whose JWT it is. It proves nothing: what does is the signature with that key.
#[must_use]
pub fn subject(jwt: &str) -> Option<String> {
    #[derive(serde::Deserialize)]
    struct Subject {
        sub: String,
    }
    let claims: Subject = Unverified::split(jwt.as_bytes()).ok()?.claims().ok()?;
    Some(claims.sub)
}

fn client_of(info: ClientInfo, options: ConnectOptions, operator: bool) -> (Client, Credentials) {
    let ClientInfo { host, id, kind, protocol, nonce } = info;
    let ConnectOptions { nkey, sig, jwt, auth_token, user, pass, name, lang, version } = options;
    // Everybody may have the sentinel's JWT. Who has one of his own need not name its key again.
    let nkey = match (operator, nkey.is_empty()) {
        (true, true) => subject(&jwt).unwrap_or_default(),
        _ => nkey,
    };
    let others = [
        (!operator && !jwt.is_empty(), "a JWT"),
        (auth_token.0, "a token"),
        (user.0, "a user name"),
        (pass.0, "a password"),
    ];
    let other = others.iter().find_map(|(present, what)| present.then_some(*what));
    let connection = ConnectionType::of(&kind, &protocol);
    let address = address(&host);
    let library = if version.is_empty() { lang } else { format!("{lang} {version}") };
    (
        Client { host, address, id, connection, name, library },
        Credentials { nkey, signature: sig, nonce, other },
    )
}

#[cfg(test)]
mod tests {
    use super::address;

    #[test]
    fn a_zone_is_no_part_of_an_address() {
        let is = |host: &str, plain: &str| address(host) == plain.parse().ok();
        assert!(is("fe80::1c2:3ff:fe04:5%eth0", "fe80::1c2:3ff:fe04:5"));
        assert!(is("::ffff:10.1.2.3", "10.1.2.3") && is("10.1.2.3", "10.1.2.3"));
        for host in ["", "%eth0", "localhost", "10.1.2.3:4222"] {
            assert_eq!(address(host), None, "{host}");
        }
    }
}
