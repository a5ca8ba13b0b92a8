//! Keys in a PKCS#11 token: a hardware security module, a smart card, or one in software.
//!
//! The vendor's library runs in the signer, and never in `serve`: neither a fault of it nor the open
//! session is where strangers' bytes arrive.

use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use cryptoki::context::{CInitializeArgs, CInitializeFlags, Pkcs11};
use cryptoki::mechanism::Mechanism;
use cryptoki::mechanism::eddsa::{EddsaParams, EddsaSignatureScheme};
use cryptoki::object::{Attribute, AttributeType, KeyType, ObjectClass, ObjectHandle};
use cryptoki::session::{Session, UserType};
use cryptoki::types::AuthPin;

use solewriter_core::keys::{AccountKey, KeyHolder, SignError};

/// A token with the keys of some labels. It is opened again when its session is lost.
pub struct Token {
    path: PathBuf,
    name: String,
    pin: AuthPin,
    labels: Vec<String>,
    keys: Vec<AccountKey>,
    state: Mutex<State>,
}

/// What is lost when the token is.
#[derive(Default)]
struct State {
    // Ends before the module that it is a session of.
    opened: Option<Opened>,
    module: Option<Pkcs11>,
}

/// A session with the handles of its keys. Both end together.
struct Opened {
    session: Session,
    keys: Vec<(AccountKey, ObjectHandle)>,
}

impl Token {
    /// Loads a module, and opens the token of that name.
    ///
    /// # Errors
    /// What is wrong, in words, without the PIN.
    pub fn open(module: &Path, name: &str, labels: &[String], pin: &str) -> Result<Self, String> {
        let mut token = Self {
            path: module.to_owned(),
            name: name.to_owned(),
            pin: AuthPin::new(pin.into()),
            labels: labels.to_vec(),
            keys: Vec::new(),
            state: Mutex::default(),
        };
        let module = token.load()?;
        let opened = token.opened(&module)?;
        token.keys = opened.keys.iter().map(|(key, _)| *key).collect();
        token.state = Mutex::new(State { opened: Some(opened), module: Some(module) });
        Ok(token)
    }

    fn load(&self) -> Result<Pkcs11, String> {
        let failed = |error: cryptoki::error::Error| {
            format!("the PKCS#11 module {} cannot be used: {error}", self.path.display())
        };
        let module = Pkcs11::new(&self.path).map_err(failed)?;
        let arguments = CInitializeArgs::new(CInitializeFlags::OS_LOCKING_OK);
        module.initialize(arguments).map_err(failed)?;
        Ok(module)
    }

    /// The public keys, in the order of the labels.
    pub fn keys(&self) -> impl Iterator<Item = &AccountKey> {
        self.keys.iter()
    }

    fn opened(&self, module: &Pkcs11) -> Result<Opened, String> {
        let name = &self.name;
        let failed = |error: cryptoki::error::Error| format!("the token {name:?}: {error}");
        let mut found = None;
        for slot in module.get_slots_with_token().map_err(failed)? {
            // A slot may lose its token meanwhile.
            let Ok(info) = module.get_token_info(slot) else { continue };
            if info.label() == name && found.replace(slot).is_some() {
                return Err(format!("two tokens have the label {name:?}"));
            }
        }
        let slot = found.ok_or_else(|| format!("there is no token with the label {name:?}"))?;
        let session = module.open_ro_session(slot).map_err(failed)?;
        session.login(UserType::User, Some(&self.pin)).map_err(failed)?;
        let mut keys = Vec::new();
        for label in &self.labels {
            keys.push(key(&session, label).map_err(|why| format!("the token {name:?}: {why}"))?);
        }
        Ok(Opened { session, keys })
    }

    /// Signs in the session that is open, or in a new one.
    fn signed(&self, key: &AccountKey, text: &[u8]) -> Result<Vec<u8>, String> {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(opened) = &state.opened {
            match opened.sign(key, text) {
                Ok(signature) => return Ok(signature),
                Err(error) => {
                    tracing::warn!(event = "token_session_lost", error, "opening it again");
                }
            }
        }
        // A session that is left open keeps the user logged in, and a second login is an error.
        state.opened = None;
        let again = |module: &Pkcs11| -> Result<_, String> {
            let opened = self.opened(module)?;
            Ok((opened.sign(key, text)?, opened))
        };
        let kept = state.module.as_ref().map(again);
        let (signature, opened) = if let Some(Ok(signed)) = kept {
            signed
        } else {
            // A token that is back may be seen only by a module that begins anew.
            if let Some(Err(error)) = state.module.take().map(Pkcs11::finalize) {
                tracing::warn!(event = "token_not_closed", %error);
            }
            let module = self.load()?;
            let signed = again(&module);
            state.module = Some(module);
            signed?
        };
        state.opened = Some(opened);
        Ok(signature)
    }
}

impl KeyHolder for Token {
    fn sign(&self, key: &AccountKey, text: &[u8]) -> Result<[u8; 64], SignError> {
        if !self.keys.contains(key) {
            return Err(SignError::Refused);
        }
        let signature = self.signed(key, text).map_err(|error| {
            tracing::error!(event = "token_failed", error, "the token does not sign");
            SignError::Unreachable
        })?;
        signature.try_into().map_err(|_| SignError::Wrong)
    }
}

impl Opened {
    fn sign(&self, key: &AccountKey, text: &[u8]) -> Result<Vec<u8>, String> {
        let found = self.keys.iter().find(|(held, _)| held == key);
        let (_, handle) = found.ok_or("the key is no longer in it")?;
        let mechanism = Mechanism::Eddsa(EddsaParams::new(EddsaSignatureScheme::Ed25519));
        self.session.sign(&mechanism, *handle, text).map_err(|error| error.to_string())
    }
}

/// The private key of that label, and the public half of it.
fn key(session: &Session, label: &str) -> Result<(AccountKey, ObjectHandle), String> {
    let one = |class: ObjectClass, what: &str| {
        let template = [
            Attribute::Class(class),
            Attribute::KeyType(KeyType::EC_EDWARDS),
            Attribute::Label(label.as_bytes().to_vec()),
        ];
        let found = session.find_objects(&template).map_err(|error| error.to_string())?;
        match found[..] {
            [handle] => Ok(handle),
            [] => Err(format!("there is no {what} Ed25519 key with the label {label:?}")),
            _ => Err(format!("there are {} {what} keys with the label {label:?}", found.len())),
        }
    };
    let private = one(ObjectClass::PRIVATE_KEY, "private")?;
    let public = one(ObjectClass::PUBLIC_KEY, "public")?;
    let point = session.get_attributes(public, &[AttributeType::EcPoint]);
    let point = point.map_err(|error| error.to_string())?;
    let bytes = point.iter().find_map(|attribute| match attribute {
        Attribute::EcPoint(point) => raw(point),
        _ => None,
    });
    let bytes = bytes.ok_or_else(|| format!("the public key {label:?} is not 32 bytes long"))?;
    Ok((AccountKey::from_bytes(bytes), private))
}

/// 32 bytes, which some tokens give as they are, and others as an octet string in DER.
fn raw(point: &[u8]) -> Option<[u8; 32]> {
    point.strip_prefix(&[0x04, 0x20]).unwrap_or(point).try_into().ok()
}
