//! Plays nats-server towards the request path: signed, optionally sealed requests, each part of
//! which a test can spoil.

use serde_json::{Value, json};
use solewriter_core::callout::authorizer::{Authorizer, Moment};
use solewriter_core::callout::decide::Decider;
use solewriter_core::callout::issue::Issuer;
use solewriter_core::callout::rate_limit::RateLimits;
use solewriter_core::callout::xkey::Sealer;
use solewriter_core::diagnostics::SourceFile;
use solewriter_core::grant::Defaults;
use solewriter_core::keys::{Account, Curve, CurveSecret, Seed, Server, Signer};
use solewriter_core::policy::model::Policy;
use solewriter_core::policy::validate::validate;

/// A policy with one service, which owns one bucket.
pub const POLICY: &str =
    "[bucket.orders]\n[service.orders]\nnkeys = [\"CLIENT\"]\nowns = [\"orders\"]\n";
/// The time in every test, in seconds since the Unix epoch.
pub const NOW: i64 = 1_800_000_000;
/// The header `{"typ":"JWT","alg":"ed25519-nkey"}`.
const HEADER: &str = "eyJ0eXAiOiJKV1QiLCJhbGciOiJlZDI1NTE5LW5rZXkifQ";

/// One of everything that a callout needs.
pub struct Bench {
    pub server: Signer<Server>,
    pub server_xkey: nkeys::XKey,
    pub issuer: Signer<Account>,
    pub our_xkey: nkeys::XKey,
    pub client: nkeys::KeyPair,
    pub user_nkey: String,
    pub authorizer: Authorizer,
    pub decider: Decider,
}

/// The same keys in every run, so that what a fuzzer keeps stays meaningful.
fn key(kind: nkeys::KeyPairType, number: u8) -> nkeys::KeyPair {
    nkeys::KeyPair::new_from_raw(kind, [number; 32]).unwrap()
}

fn seed<K: solewriter_core::keys::Role>(pair: &nkeys::KeyPair) -> Seed<K> {
    Seed::parse(&pair.seed().unwrap()).unwrap()
}

impl Bench {
    /// Requests in the clear.
    pub fn plain() -> Self {
        Self::new(false)
    }

    /// Sealed requests.
    pub fn sealed() -> Self {
        Self::new(true)
    }

    /// Requests in the clear, so many of each key and address in a minute.
    pub fn limited(per_key: Option<u32>, per_host: Option<u32>) -> Self {
        Self::with(false, RateLimits::new(per_key, per_host))
    }

    fn new(sealed: bool) -> Self {
        Self::with(sealed, RateLimits::default())
    }

    fn with(sealed: bool, limits: RateLimits) -> Self {
        let issuer = || Signer::new(&seed(&key(nkeys::KeyPairType::Account, 1))).unwrap();
        let our_xkey = nkeys::XKey::new_from_raw([2; 32]);
        let sealer = sealed.then(|| {
            let seed = Seed::<Curve>::parse(&our_xkey.seed().unwrap()).unwrap();
            Sealer::new(CurveSecret::new(&seed).unwrap())
        });
        let defaults = Defaults {
            account: "APP".into(),
            lifetime: std::time::Duration::from_secs(3600),
            audit: solewriter_core::grant::AuditStreams::default(),
        };
        Self {
            server: Signer::new(&seed(&key(nkeys::KeyPairType::Server, 3))).unwrap(),
            server_xkey: nkeys::XKey::new_from_raw([4; 32]),
            our_xkey,
            user_nkey: key(nkeys::KeyPairType::User, 5).public_key(),
            client: key(nkeys::KeyPairType::User, 6),
            authorizer: Authorizer::new(Issuer::new(issuer(), sealer), 2).with_limits(limits),
            decider: Decider::new(defaults, vec!["APP2".into()], 0.1),
            issuer: issuer(),
        }
    }

    /// A policy from its text; `CLIENT` stands for the client's key.
    pub fn policy(&self, text: &str) -> Policy {
        let text = text.replace("CLIENT", &self.client.public_key());
        match validate(&[SourceFile::new("test.toml", text)]) {
            Ok(validated) => validated.policy,
            Err(problems) => panic!("{}", problems.summary()),
        }
    }

    /// The claims of a request in which everything is right.
    pub fn claims(&self) -> Value {
        let nonce = "abcdefghijklmno";
        let signature = self.client.sign(nonce.as_bytes()).unwrap();
        json!({
            "iss": self.server.public().as_str(),
            "sub": self.issuer.public().as_str(),
            "aud": "nats-authorization-request",
            "iat": NOW, "exp": NOW + 2, "jti": "X",
            "nats": {
                "type": "authorization_request", "version": 2,
                "user_nkey": self.user_nkey,
                "server_id": {
                    "name": "n1", "host": "0.0.0.0", "id": self.server.public().as_str(),
                    "version": "2.15.1", "xkey": self.server_xkey.public_key(),
                },
                "client_info": {
                    "host": "10.1.2.3", "id": 7, "kind": "Client", "type": "nats", "nonce": nonce,
                },
                "connect_opts": {
                    "nkey": self.client.public_key(), "protocol": 1,
                    "sig": data_encoding::BASE64URL_NOPAD.encode(&signature),
                    "name": "c", "lang": "rust", "version": "1",
                },
            },
        })
    }

    /// Claims, signed by a key, as a token.
    pub fn token(claims: &Value, signer: &Signer<Server>) -> Vec<u8> {
        let claims = data_encoding::BASE64URL_NOPAD.encode(claims.to_string().as_bytes());
        let signed = format!("{HEADER}.{claims}");
        let signature = signer.sign(signed.as_bytes());
        format!("{signed}.{}", data_encoding::BASE64URL_NOPAD.encode(&signature)).into_bytes()
    }

    /// Claims, signed by the server.
    pub fn signed(&self, claims: &Value) -> Vec<u8> {
        Self::token(claims, &self.server)
    }

    /// Sealed to us by the server.
    pub fn seal(&self, token: &[u8]) -> Vec<u8> {
        let ours = nkeys::XKey::from_public_key(&self.our_xkey.public_key()).unwrap();
        self.server_xkey.seal(token, &ours).unwrap()
    }

    /// This moment of every test.
    pub fn moment() -> Moment {
        Moment { now: NOW, id: "DECISION".to_owned(), nonce: [9; 24], chance: 0.0 }
    }
}

/// The claims of a token, not verified.
pub fn decode(token: &[u8]) -> Value {
    let claims = token.split(|b| *b == b'.').nth(1).unwrap();
    serde_json::from_slice(&data_encoding::BASE64URL_NOPAD.decode(claims).unwrap()).unwrap()
}
