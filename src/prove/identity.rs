//! At the door: who has no seed tries to get in.

use data_encoding::BASE64URL_NOPAD;
use serde_json::{Value, json};
use tokio::time::Instant;

use super::{Attack, Control, Effect, Ending, Family, Offer, Report, Step, Who};
use crate::nats::raw_client::{RawLogin, Wire, WireError};
use crate::prove::testbed::{StageError, Testbed};
use solewriter_core::keys::{Seed, Signer, User};

pub(super) fn family() -> Family {
    let knock = |id, title, offer, why| {
        Attack::new(id, title, Who::Stranger, Effect::Enters)
            .step(Step::Knock(offer))
            .closed(Ending::Refused, why)
            .control(Control::Told("with the victim's own seed"))
            .in_prove()
    };
    let proof = "who has no signature of this connection's nonce does not have the seed";
    let nkeys = "an NKEY is the only credential that counts";
    let server = "nats-server proves its own users itself, and asks nobody about them";
    let alone = "one credential, or none: two could mean two identities";
    Family {
        title: "Identity",
        about: "Who attacks knows the victim's public key, and no seed. Success is to be let in.",
        attacks: vec![
            knock("enter-with-nothing", "No credential", Offer::Nothing, nkeys),
            knock(
                "enter-unknown",
                "A key that no service has",
                Offer::UnknownKey,
                "no rule names it",
            ),
            knock(
                "enter-key-alone",
                "The victim's key without a signature",
                Offer::KeyAlone,
                proof,
            ),
            knock(
                "enter-captured",
                "The victim's key with a signature captured from another connection",
                Offer::Captured,
                proof,
            ),
            knock(
                "enter-foreign-signature",
                "The victim's key with another key's signature",
                Offer::ForeignSignature,
                proof,
            ),
            knock(
                "enter-zeros",
                "The victim's key with a zero signature",
                Offer::ZeroSignature,
                proof,
            ),
            knock(
                "enter-no-nonce",
                "The victim's key with the signature of no nonce",
                Offer::EmptyNonce,
                proof,
            ),
            knock("enter-jwt", "A JWT that it made", Offer::Jwt, nkeys),
            knock("enter-password", "The victim's name with a password", Offer::Password, nkeys),
            knock("enter-token", "A token", Offer::Token, nkeys),
            knock(
                "enter-password-beside",
                "The victim's own proof with a password beside it",
                Offer::PasswordBeside,
                alone,
            ),
            knock(
                "enter-jwt-beside",
                "The victim's own proof with the JWT of another beside it",
                Offer::JwtBeside,
                "",
            )
            .known(
                "a nats-server without an operator discards a JWT before it asks anybody. The proof \
                 of the key is what counts, and lets in as that key's service alone",
            ),
            knock(
                "enter-token-beside",
                "The victim's own proof with a token beside it",
                Offer::TokenBeside,
                alone,
            ),
            knock("enter-admin", "The name of the admin", Offer::AdminName, nkeys),
            knock("enter-admin-key", "The admin's key without a signature", Offer::AdminKey, server),
            knock(
                "enter-admin-foreign",
                "The admin's key with another key's signature",
                Offer::AdminForeign,
                server,
            ),
            knock(
                "enter-admin-beside",
                "The victim's own proof with the admin's key as user beside it",
                Offer::AdminBeside,
                alone,
            ),
        ],
    }
}

/// Tries to get in, as someone without a seed.
pub(super) async fn knock(offer: Offer, stage: &Testbed) -> Result<Report, StageError> {
    let lost = |error| StageError::Wire("the stranger".to_owned(), error);
    let mut wire = Wire::dial(stage.near()?).await.map_err(lost)?;
    let options = match offered(offer, stage, &wire).await {
        Ok(options) => options,
        Err(error) => return Err(lost(error)),
    };
    let began = Instant::now();
    let entered = wire.enter(&options).await;
    let took = began.elapsed();
    match entered {
        Ok(()) => Ok(Report {
            ending: Ending::Succeeded,
            evidence: "nats-server let it in".to_owned(),
            took,
        }),
        Err(WireError::Refused(said)) => {
            Ok(Report { ending: Ending::Refused, evidence: said, took })
        }
        Err(error) => Err(lost(error)),
    }
}

/// What goes into CONNECT. In operator mode the victim's own JWT is beside it, which goes over the wire
/// as its key does; but where the offer is another JWT.
async fn offered(offer: Offer, stage: &Testbed, wire: &Wire) -> Result<Value, WireError> {
    let (seed, token) = match &stage.victim {
        RawLogin::Nkey(seed) => (seed, None),
        RawLogin::Jwt(token, seed) => (seed, Some(token)),
        RawLogin::Password(_) | RawLogin::Nobody => return Ok(json!({})),
    };
    let mut options = beside(offer, stage, wire, seed).await?;
    if let (Some(token), Some(options)) = (token, options.as_object_mut()) {
        options.entry("jwt").or_insert_with(|| (&**token).into());
    }
    Ok(options)
}

async fn beside(
    offer: Offer,
    stage: &Testbed,
    wire: &Wire,
    seed: &Seed<User>,
) -> Result<Value, WireError> {
    let own = Signer::new(&Seed::<User>::generate())?;
    let own_signature = sig(&own.sign(wire.nonce().as_bytes()));
    // Of the victim, only what goes over the wire: its key, and signatures that it gave.
    let victim = Signer::new(seed)?;
    let key = victim.public().as_str().to_owned();
    let proof = sig(&victim.sign(wire.nonce().as_bytes()));
    // Of the admin as well: its public key is in the configuration of each server.
    let admin = match &stage.admin {
        RawLogin::Nkey(seed) | RawLogin::Jwt(_, seed) => {
            Signer::new(seed)?.public().as_str().to_owned()
        }
        _ => String::new(),
    };
    Ok(match offer {
        Offer::Nothing => json!({}),
        Offer::UnknownKey => json!({"nkey": own.public().as_str(), "sig": own_signature}),
        Offer::KeyAlone => json!({"nkey": key}),
        Offer::Captured => {
            let other = Wire::dial(stage.near().map_err(|_| WireError::Closed(None))?).await?;
            json!({"nkey": key, "sig": sig(&victim.sign(other.nonce().as_bytes()))})
        }
        Offer::ForeignSignature => json!({"nkey": key, "sig": own_signature}),
        Offer::ZeroSignature => json!({"nkey": key, "sig": sig(&[0; 64])}),
        Offer::EmptyNonce => json!({"nkey": key, "sig": sig(&victim.sign(b""))}),
        Offer::Jwt => json!({"jwt": jwt(&own, &stage.names.them), "sig": own_signature}),
        Offer::Password => json!({"user": stage.names.them, "pass": stage.names.them}),
        Offer::Token => json!({"auth_token": key}),
        Offer::PasswordBeside => json!({"nkey": key, "user": stage.names.them, "pass": "x",
            "sig": proof}),
        Offer::JwtBeside => json!({"nkey": key, "jwt": jwt(&own, &stage.names.them),
            "sig": proof}),
        Offer::TokenBeside => json!({"nkey": key, "auth_token": key, "sig": proof}),
        Offer::AdminName => json!({"user": "admin", "pass": "admin"}),
        Offer::AdminKey => json!({"nkey": admin}),
        Offer::AdminForeign => json!({"nkey": admin, "sig": own_signature}),
        Offer::AdminBeside => json!({"user": admin, "pass": "", "nkey": key, "sig": proof}),
    })
}

/// A user JWT that its holder made and signed.
fn jwt(own: &Signer<User>, name: &str) -> String {
    let part = |value: Value| BASE64URL_NOPAD.encode(value.to_string().as_bytes());
    let head = part(json!({"typ": "JWT", "alg": "ed25519-nkey"}));
    let claims = part(json!({"sub": own.public().as_str(), "iss": own.public().as_str(),
        "name": name, "aud": "APP",
        "nats": {"type": "user", "version": 2, "pub": {}, "sub": {}}}));
    let signed = format!("{head}.{claims}");
    format!("{signed}.{}", sig(&own.sign(signed.as_bytes())))
}

fn sig(signature: &[u8]) -> String {
    BASE64URL_NOPAD.encode(signature)
}
