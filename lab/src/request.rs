//! Requests as nats-server makes them: signed by its key, sealed where the callout has an xkey.

use std::time::Duration;

use serde_json::{Value, json};

use super::Error;
use crate::fixture_policy::Client;
use crate::testbed::Testbed;
use solewriter_core::callout::claims::{REQUEST_AUDIENCE, REQUEST_TYPE, VERSION};
use solewriter_core::callout::jwt::{self, Unverified};
use solewriter_core::callout::xkey::Sealer;
use solewriter_core::keys::{
    Account, Curve, CurveKey, CurveSecret, Seed, Server, Signer, User, UserKey,
};

/// What is asked.
#[derive(
    Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum, serde::Deserialize, serde::Serialize,
)]
#[serde(rename_all = "kebab-case")]
pub enum Kind {
    /// Clients that the policy knows, with good signatures: they are granted.
    Good,
    /// Keys that no service has: they are refused.
    UnknownKey,
    /// Signatures by another key than the one claimed: they are refused.
    BadSignature,
    /// Requests that another key than the server's signed: they get no answer.
    Forged,
}

/// One request, ready to be sent as often as wanted until it expires.
pub struct Request {
    /// The bytes on the wire.
    pub payload: Vec<u8>,
    /// The key that the server made for the connection.
    pub user_nkey: UserKey,
    /// The JWT alone.
    pub token: String,
}

/// Plays the server's side: it has a server's keys.
pub struct Minter {
    server: Signer<Server>,
    xkey: CurveKey,
    sealer: Option<Sealer>,
    callout_xkey: CurveKey,
    issuer: Signer<Account>,
}

impl Minter {
    /// A server that asks the callout of a stage.
    ///
    /// # Errors
    /// When the stage's keys cannot be read.
    pub fn new(stage: &Testbed) -> Result<Self, Error> {
        let secret = CurveSecret::new(&Seed::<Curve>::generate())?;
        let xkey = *secret.public();
        let theirs = CurveSecret::new(&Seed::<Curve>::parse(&stage.secret("callout.xk")?)?)?;
        Ok(Self {
            server: Signer::new(&Seed::generate())?,
            xkey,
            sealer: stage.sealed.then(|| Sealer::new(secret)),
            callout_xkey: *theirs.public(),
            issuer: Signer::new(&Seed::parse(&stage.secret("issuer.nk")?)?)?,
        })
    }

    /// The server's public key, which is its id.
    #[must_use]
    pub fn server(&self) -> &Signer<Server> {
        &self.server
    }

    /// The issuer of grants.
    #[must_use]
    pub fn issuer(&self) -> &Signer<Account> {
        &self.issuer
    }

    /// The header line that comes with a sealed request.
    #[must_use]
    pub fn header(&self) -> Option<String> {
        self.sealer.as_ref().map(|_| format!("Nats-Server-Xkey: {}", self.xkey))
    }

    /// Makes a request that counts for so long.
    ///
    /// # Errors
    /// When it cannot be written or sealed.
    pub fn mint(&self, kind: Kind, client: &Client, valid: Duration) -> Result<Request, Error> {
        let user_nkey = *Signer::<User>::new(&Seed::generate())?.public();
        let nonce = data_encoding::BASE64URL_NOPAD.encode(&rand::random::<[u8; 11]>());
        let signed = if kind == Kind::BadSignature { "something else" } else { &nonce };
        let signature = client.signer.sign(signed.as_bytes());
        let claims = self.claims(client, &user_nkey, &nonce, &signature, valid);
        let token = if kind == Kind::Forged {
            jwt::sign(&claims, 2048, &Signer::<Server>::new(&Seed::generate())?)?
        } else {
            jwt::sign(&claims, 2048, &self.server)?
        };
        let payload = match &self.sealer {
            None => token.clone().into_bytes(),
            Some(sealer) => sealer.seal(token.as_bytes(), &self.callout_xkey, &rand::random())?,
        };
        Ok(Request { payload, user_nkey, token })
    }

    fn claims(
        &self,
        client: &Client,
        user_nkey: &UserKey,
        nonce: &str,
        signature: &[u8; 64],
        valid: Duration,
    ) -> Value {
        let now = jiff::Timestamp::now().as_second();
        let id = data_encoding::BASE32_NOPAD.encode(&rand::random::<[u8; 32]>());
        json!({
            "jti": id, "iat": now,
            "exp": now.saturating_add(i64::try_from(valid.as_secs()).unwrap_or(i64::MAX)),
            "iss": self.server.public().as_str(),
            "sub": self.issuer.public().as_str(),
            "aud": REQUEST_AUDIENCE,
            "nats": {
                "server_id": {
                    "name": "load", "host": "0.0.0.0", "id": self.server.public().as_str(),
                    "version": "2.15.1", "xkey": self.xkey.as_str(),
                },
                "user_nkey": user_nkey.as_str(),
                "client_info": {
                    "host": "127.0.0.1", "id": rand::random::<u32>(),
                    "user": client.signer.public().as_str(), "name": client.service,
                    "kind": "Client", "type": "nats", "nonce": nonce,
                },
                "connect_opts": {
                    "nkey": client.signer.public().as_str(),
                    "sig": data_encoding::BASE64URL_NOPAD.encode(signature),
                    "name": client.service, "lang": "rust", "version": "0.51.0", "protocol": 1,
                },
                "type": REQUEST_TYPE, "version": VERSION,
            },
        })
    }

    /// Whether an answer lets the connection in. It is opened, and its signature verified.
    ///
    /// # Errors
    /// When it is no answer to that request.
    pub fn granted(&self, request: &Request, answer: &[u8]) -> Result<bool, Error> {
        let opened;
        let token = match &self.sealer {
            None => answer,
            Some(sealer) => {
                opened = sealer.open(answer, &self.callout_xkey)?;
                &opened
            }
        };
        let token = Unverified::split(token)?;
        token.verify(self.issuer.public())?;
        let claims: Value = token.claims()?;
        let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
        let field = |name: &str| claims.get(name).map(text).unwrap_or_default();
        if field("sub") != request.user_nkey.as_str()
            || field("aud") != self.server.public().as_str()
        {
            return Err("an answer to another request".into());
        }
        let user = claims.pointer("/nats/jwt").map(text).unwrap_or_default();
        if user.is_empty() {
            return Ok(false);
        }
        let user = Unverified::split(user.as_bytes())?;
        user.verify(self.issuer.public())?;
        Ok(true)
    }

    /// An answer as it was before it was sealed, and the user JWT in it.
    ///
    /// # Errors
    /// When it is no answer.
    pub fn parts(&self, answer: &[u8]) -> Result<(Vec<u8>, String), Error> {
        let token = match &self.sealer {
            None => answer.to_vec(),
            Some(sealer) => sealer.open(answer, &self.callout_xkey)?,
        };
        let claims: Value = Unverified::split(&token)?.claims()?;
        let user = claims.pointer("/nats/jwt").and_then(Value::as_str).unwrap_or_default();
        Ok((token, user.to_owned()))
    }
}
