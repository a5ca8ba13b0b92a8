//! What an issuer's key may sign: nothing but what [`super::issue`] makes. A signer that holds the key
//! for others asks this about each text, so that whoever may ask it cannot have anything else signed.
//!
//! Unknown fields are refused at each level. So nothing is signed that nats-server would read otherwise
//! than it is read here: Go takes a field for another one whose name differs in case alone.

use std::borrow::Cow;
use std::collections::BTreeSet;

use data_encoding::BASE64URL_NOPAD;
use serde::Deserialize;
use serde::de::IgnoredAny;

use super::claims::{RESPONSE_TYPE, VERSION};
use super::issue::{HANDOVER_USER, INSTANCE_SAYS};
use super::jwt::HEADER;
use crate::keys::{AccountKey, ServerKey, UserKey};

/// How far `iat` may be from now, in seconds. Who asks is on the same machine.
const CLOCKS: i64 = 60;
/// The longest name of a connection or account, in bytes.
const NAME_AT_MOST: usize = 1024;

/// What a signer signs at all.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Bounds {
    /// The accounts that users may be placed in: by name or, in operator mode, by public key.
    pub accounts: BTreeSet<String>,
    /// How long a user may stay at most, in seconds.
    pub longest: i64,
}

/// What a text is that may be signed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Signable {
    /// A user who is let in.
    User {
        /// The key of the connection.
        subject: String,
        /// The name of the connection: service, key, revision.
        name: String,
        /// The account, by name or public key.
        account: String,
    },
    /// The user that only leads to the callout, in operator mode: it may do nothing.
    Sentinel {
        /// Its key.
        subject: String,
    },
    /// An answer to a server.
    Response {
        /// The key of the connection.
        subject: String,
        /// The server.
        server: String,
        /// Whether it lets somebody in.
        granted: bool,
    },
    /// What one instance tells the others.
    Instance,
    /// What the user is made from who settles handovers.
    Handover,
}

impl Signable {
    /// One word for it.
    #[must_use]
    pub fn kind(&self) -> &'static str {
        match self {
            Self::User { .. } => "user",
            Self::Sentinel { .. } => "sentinel",
            Self::Response { .. } => "response",
            Self::Instance => "instance",
            Self::Handover => "handover",
        }
    }
}

/// Why a text is not signed. It holds none of the text.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Unsignable {
    /// Not the header and the claims of a JWT.
    #[error("it is no header and claims of a NATS JWT")]
    Form,
    /// The claims are not those of a user or of an authorization response.
    #[error("its claims are not those of a user or of an authorization response")]
    Claims,
    /// Signed by one key, and by another one as it says.
    #[error("`iss` is another key than the one that is to sign")]
    Issuer,
    /// A key that is none.
    #[error("`sub` or `aud` is no key of that kind")]
    Key,
    /// Made at another time.
    #[error("`iat` is more than a minute away from now")]
    Time,
    /// A user for longer than is allowed, or for ever.
    #[error("`exp` is over, or later than --longest allows")]
    Expiry,
    /// A user in an account that is not allowed.
    #[error("its account is not among --account")]
    Account,
    /// A user without permissions, which is one who may do everything.
    #[error("a user without permissions may do everything")]
    Unlimited,
    /// A user whose JWT alone is enough.
    #[error("a bearer's JWT")]
    Bearer,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Claims<'a> {
    #[serde(borrow)]
    jti: Cow<'a, str>,
    iat: i64,
    #[serde(borrow)]
    iss: Cow<'a, str>,
    #[serde(borrow)]
    sub: Cow<'a, str>,
    #[serde(borrow, default)]
    name: Option<Cow<'a, str>>,
    #[serde(borrow, default)]
    aud: Option<Cow<'a, str>>,
    #[serde(default)]
    exp: Option<i64>,
    #[serde(borrow)]
    nats: Body<'a>,
}

/// The NATS part, of a user or of a response. Nothing else has only these fields.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Body<'a> {
    #[serde(borrow, rename = "type")]
    kind: Cow<'a, str>,
    version: u32,
    #[serde(borrow, default)]
    issuer_account: Option<Cow<'a, str>>,
    // Of a response.
    #[serde(borrow, default)]
    jwt: Option<Cow<'a, str>>,
    #[serde(borrow, default)]
    error: Option<Cow<'a, str>>,
    // Of a user.
    #[serde(borrow, default, rename = "pub")]
    publish: Option<Subjects<'a>>,
    #[serde(borrow, default, rename = "sub")]
    subscribe: Option<Subjects<'a>>,
    #[serde(default)]
    resp: Option<IgnoredAny>,
    #[serde(default)]
    subs: Option<i64>,
    #[serde(default)]
    data: Option<i64>,
    #[serde(default)]
    payload: Option<i64>,
    #[serde(default)]
    bearer_token: bool,
}

#[derive(Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct Subjects<'a> {
    #[serde(borrow, default)]
    allow: Vec<Cow<'a, str>>,
    #[serde(borrow, default)]
    deny: Vec<Cow<'a, str>>,
}

impl Subjects<'_> {
    fn nothing(&self) -> bool {
        self.allow.is_empty() && self.deny == [">"]
    }

    /// To a server, a list of nothing allows everything.
    fn unlimited(&self) -> bool {
        self.allow.is_empty() && !self.deny.iter().any(|denied| denied == ">")
    }
}

/// What a text is that `key` is to sign at that time (seconds since the Unix epoch).
///
/// # Errors
/// [`Unsignable`], when it is nothing that an issuer signs.
pub fn judge(
    text: &[u8],
    key: &AccountKey,
    bounds: &Bounds,
    now: i64,
) -> Result<Signable, Unsignable> {
    if text == HANDOVER_USER {
        return Ok(Signable::Handover);
    }
    if text.starts_with(INSTANCE_SAYS) {
        return Ok(Signable::Instance);
    }
    let claims = text
        .strip_prefix(HEADER.as_bytes())
        .and_then(|rest| rest.strip_prefix(b"."))
        .ok_or(Unsignable::Form)?;
    let claims = BASE64URL_NOPAD.decode(claims).map_err(|_| Unsignable::Form)?;
    let claims: Claims<'_> = serde_json::from_slice(&claims).map_err(|_| Unsignable::Claims)?;
    let long = |text: &Option<Cow<'_, str>>| text.as_ref().is_some_and(|t| t.len() > NAME_AT_MOST);
    if claims.nats.version != VERSION || claims.jti.len() > NAME_AT_MOST || long(&claims.name) {
        return Err(Unsignable::Claims);
    }
    if claims.iss != key.as_str() {
        return Err(Unsignable::Issuer);
    }
    if claims.iat.abs_diff(now) > CLOCKS.unsigned_abs() {
        return Err(Unsignable::Time);
    }
    UserKey::parse(&claims.sub).map_err(|_| Unsignable::Key)?;
    match &*claims.nats.kind {
        "user" => user(claims, bounds, now),
        RESPONSE_TYPE => response(&claims, bounds),
        _ => Err(Unsignable::Claims),
    }
}

fn user(claims: Claims<'_>, bounds: &Bounds, now: i64) -> Result<Signable, Unsignable> {
    let Claims { sub, name, aud, exp, nats, .. } = claims;
    if nats.jwt.is_some() || nats.error.is_some() {
        return Err(Unsignable::Claims);
    }
    if nats.bearer_token {
        return Err(Unsignable::Bearer);
    }
    // One of the two says where it is placed. With both, that would depend on the reader.
    let issuer_account = nats.issuer_account.filter(|account| !account.is_empty());
    let account = match (aud, issuer_account) {
        (Some(account), None) | (None, Some(account)) => account.into_owned(),
        _ => return Err(Unsignable::Account),
    };
    if !bounds.accounts.contains(&account) {
        return Err(Unsignable::Account);
    }
    let subject = sub.into_owned();
    let (publish, subscribe) =
        (nats.publish.unwrap_or_default(), nats.subscribe.unwrap_or_default());
    if publish.unlimited() || subscribe.unlimited() {
        return Err(Unsignable::Unlimited);
    }
    match exp.filter(|exp| *exp != 0) {
        Some(exp) if exp > now && exp <= now.saturating_add(bounds.longest) => {
            Ok(Signable::User { subject, name: name.unwrap_or_default().into_owned(), account })
        }
        None if publish.nothing() && subscribe.nothing() => Ok(Signable::Sentinel { subject }),
        _ => Err(Unsignable::Expiry),
    }
}

fn response(claims: &Claims<'_>, bounds: &Bounds) -> Result<Signable, Unsignable> {
    let Claims { sub, name, aud, exp, nats, .. } = claims;
    let of_user = nats.publish.is_some() || nats.subscribe.is_some() || nats.resp.is_some();
    let limits = nats.subs.is_some() || nats.data.is_some() || nats.payload.is_some();
    if of_user || limits || nats.bearer_token || name.is_some() || exp.is_some() {
        return Err(Unsignable::Claims);
    }
    let granted = match (&nats.jwt, &nats.error) {
        (Some(_), None) => true,
        (None, Some(_)) => false,
        _ => return Err(Unsignable::Claims),
    };
    if nats.issuer_account.as_ref().is_some_and(|account| !bounds.accounts.contains(&**account)) {
        return Err(Unsignable::Account);
    }
    let server = aud.as_deref().ok_or(Unsignable::Key)?;
    ServerKey::parse(server).map_err(|_| Unsignable::Key)?;
    Ok(Signable::Response { subject: sub.to_string(), server: server.to_owned(), granted })
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;
    use crate::keys::{Account, Seed, Server, Signer, User};

    const NOW: i64 = 1_800_000_000;

    fn key<K: crate::keys::Role>() -> crate::keys::PublicKey<K> {
        *Signer::<K>::new(&Seed::generate()).unwrap().public()
    }

    fn bounds(accounts: &[&str]) -> Bounds {
        let accounts = accounts.iter().map(|account| (*account).to_owned()).collect();
        Bounds { accounts, longest: 3600 }
    }

    fn text(claims: &Value) -> Vec<u8> {
        let claims = BASE64URL_NOPAD.encode(claims.to_string().as_bytes());
        format!("{HEADER}.{claims}").into_bytes()
    }

    fn a_user(issuer: &AccountKey) -> Value {
        json!({
            "jti": "1", "iat": NOW, "iss": issuer.as_str(), "name": "orders/1/2",
            "sub": key::<User>().as_str(), "aud": "APP", "exp": NOW + 3600,
            "nats": {"type": "user", "version": 2, "pub": {"allow": ["a"]}, "sub": {"deny": [">"]},
                "subs": -1, "data": -1, "payload": -1},
        })
    }

    fn a_response(issuer: &AccountKey) -> Value {
        json!({
            "jti": "1", "iat": NOW, "iss": issuer.as_str(), "sub": key::<User>().as_str(),
            "aud": key::<Server>().as_str(),
            "nats": {"type": "authorization_response", "version": 2, "jwt": "a.b.c"},
        })
    }

    /// The claims with a change: what is null goes.
    fn changed(mut claims: Value, path: &str, to: Value) -> Value {
        let (parent, name) = path.rsplit_once('/').unwrap();
        let parent = claims.pointer_mut(parent).unwrap().as_object_mut().unwrap();
        if to.is_null() {
            parent.remove(name)
        } else {
            parent.insert(name.to_owned(), to)
        };
        claims
    }

    #[test]
    fn what_an_issuer_makes_is_signed() {
        let issuer = key::<Account>();
        let judge = |claims: &Value| judge(&text(claims), &issuer, &bounds(&["APP"]), NOW);
        assert_eq!(judge(&a_user(&issuer)).unwrap().kind(), "user");
        assert_eq!(judge(&a_response(&issuer)).unwrap().kind(), "response");
    }

    #[test]
    fn nothing_else_is_signed() {
        use Unsignable as U;
        let issuer = key::<Account>();
        let account = key::<Account>();
        let other = account.as_str();
        let (user, response) = (a_user(&issuer), a_response(&issuer));
        for (claims, path, to, why) in [
            (&user, "/iss", json!(other), U::Issuer),
            (&user, "/sub", json!(other), U::Key),
            (&user, "/exp", json!(NOW + 3601), U::Expiry),
            (&user, "/exp", json!(NOW), U::Expiry),
            (&user, "/exp", json!(i64::MAX), U::Expiry),
            (&user, "/exp", json!(0), U::Expiry),
            (&user, "/exp", Value::Null, U::Expiry),
            (&user, "/iat", json!(NOW - 61), U::Time),
            (&user, "/iat", json!(i64::MIN), U::Time),
            (&user, "/aud", json!("STATE"), U::Account),
            (&user, "/aud", Value::Null, U::Account),
            (&user, "/nats/issuer_account", json!(other), U::Account),
            (&user, "/nats/type", json!("account"), U::Claims),
            (&user, "/nats/type", json!("operator"), U::Claims),
            (&user, "/nats/type", json!("activation"), U::Claims),
            (&user, "/nats/type", json!("generic"), U::Claims),
            (&user, "/nats/version", json!(1), U::Claims),
            (&user, "/nats/Type", json!("account"), U::Claims),
            (&user, "/nats/limits", json!({}), U::Claims),
            (&user, "/nats/signing_keys", json!([other]), U::Claims),
            (&user, "/nats/bearer_token", json!(true), U::Bearer),
            (&user, "/nats/jwt", json!("a.b.c"), U::Claims),
            (&user, "/nats/pub", Value::Null, U::Unlimited),
            (&user, "/nats/sub", json!({"deny": ["a"]}), U::Unlimited),
            (&user, "/nats/pub", json!({"Allow": [">"]}), U::Claims),
            (&user, "/Exp", json!(0), U::Claims),
            (&user, "/nbf", json!(0), U::Claims),
            (&user, "/name", json!("n".repeat(1025)), U::Claims),
            (&response, "/aud", json!("APP"), U::Key),
            (&response, "/aud", Value::Null, U::Key),
            (&response, "/exp", json!(NOW + 1), U::Claims),
            (&response, "/nats/error", json!("and"), U::Claims),
            (&response, "/nats/jwt", Value::Null, U::Claims),
            (&response, "/nats/pub", json!({}), U::Claims),
            (&response, "/nats/issuer_account", json!(other), U::Account),
            (&response, "/iss", json!(other), U::Issuer),
        ] {
            let claims = changed(claims.clone(), path, to);
            let found = judge(&text(&claims), &issuer, &bounds(&["APP"]), NOW);
            assert_eq!(found, Err(why), "{claims}");
        }
        // An account's JWT, as its operator would sign it.
        let account = json!({"jti": "1", "iat": NOW, "iss": issuer.as_str(), "name": "APP",
            "sub": other, "nats": {"type": "account", "version": 2, "limits": {"subs": -1}}});
        for (text, why) in [
            (text(&account), U::Claims),
            (b"anything".to_vec(), U::Form),
            (Vec::new(), U::Form),
            ([HANDOVER_USER, b"x"].concat(), U::Form),
            ([&text(&user)[..], b".c2ln"].concat(), U::Form),
            (format!("{HEADER}.e30=").into_bytes(), U::Form),
            // Another header, and one that says the same in another way.
            (text(&user)[1..].to_vec(), U::Form),
            (text(&json!({})), U::Claims),
        ] {
            assert_eq!(judge(&text, &issuer, &bounds(&["APP"]), NOW), Err(why));
        }
        // A field twice: Go takes the last one.
        let twice = user.to_string().replacen("\"aud\"", "\"aud\":\"STATE\",\"aud\"", 1);
        let twice = format!("{HEADER}.{}", BASE64URL_NOPAD.encode(twice.as_bytes()));
        let found = judge(twice.as_bytes(), &issuer, &bounds(&["APP"]), NOW);
        assert_eq!(found, Err(U::Claims));
    }

    #[test]
    fn who_never_expires_may_do_nothing() {
        let (issuer, asking) = (key::<Account>(), key::<Account>());
        let nothing = json!({"deny": [">"]});
        let sentinel = json!({
            "jti": "1", "iat": NOW, "iss": issuer.as_str(), "name": "solewriter",
            "sub": key::<User>().as_str(),
            "nats": {"type": "user", "version": 2, "pub": nothing, "sub": nothing, "subs": -1,
                "data": -1, "payload": -1, "issuer_account": asking.as_str()},
        });
        let judge =
            |claims: &Value| judge(&text(claims), &issuer, &bounds(&[asking.as_str()]), NOW);
        assert_eq!(judge(&sentinel).unwrap().kind(), "sentinel");
        for to in [json!({"allow": ["a"]}), json!({"allow": ["a"], "deny": [">"]})] {
            let claims = changed(sentinel.clone(), "/nats/sub", to);
            assert_eq!(judge(&claims), Err(Unsignable::Expiry), "{claims}");
        }
    }

    proptest::proptest! {
        #[test]
        fn any_bytes_are_survived(bytes in proptest::collection::vec(proptest::prelude::any::<u8>(), 0..300)) {
            let issuer = AccountKey::from_bytes([7; 32]);
            let _ = judge(&bytes, &issuer, &bounds(&["APP"]), NOW);
            let _ = judge(&[HEADER.as_bytes(), b".", &bytes].concat(), &issuer, &bounds(&["APP"]), NOW);
        }
    }
}
