//! From a decision to signed bytes.

use std::collections::HashMap;
use std::sync::Arc;

use zeroize::Zeroizing;

use crate::account_jwt::{self, Subjects, UserBody};

pub use crate::callout::connection_name::ConnectionName;
use crate::callout::decide::Granted;
use crate::callout::jwt::JwtError;
use crate::callout::request::VerifiedRequest;
use crate::callout::response::{self, Envelope, Target, UserToken};
use crate::callout::xkey::Sealer;
use crate::keys::{AccountKey, AccountSigner, Seed, SignError, Signer, User};

/// Signs, and seals where the request was sealed.
pub struct Issuer {
    signer: AccountSigner,
    sealer: Option<Sealer>,
    operator: Option<Operator>,
}

/// What signs in operator mode besides the issuer's own key.
#[derive(Debug)]
pub struct Operator {
    /// The account that asks: what a request names. The issuer's key is one of its keys.
    pub asking: AccountKey,
    /// The accounts that connections are placed in, by name.
    pub accounts: HashMap<Arc<str>, Placed>,
}

/// An account that connections are placed in.
#[derive(Debug)]
pub struct Placed {
    /// Its public key.
    pub account: AccountKey,
    /// Its key, or one of its signing keys that has no scope.
    pub signer: AccountSigner,
}

/// How a text begins that [`Issuer::vouch`] signs. The signing input of a JWT is base64.
pub(super) const INSTANCE_SAYS: &[u8] = b"solewriter instance says\n";
/// What is signed to make [`Issuer::handover_seed`]; its signature is never shown.
pub(super) const HANDOVER_USER: &[u8] = b"solewriter handover user\n";

/// What one answer needs besides the decision.
#[derive(Clone, Copy, Debug)]
pub struct Stamp<'a> {
    /// Identifies the answer, in the log and in the JWT (`jti`).
    pub id: &'a str,
    /// Seconds since the Unix epoch.
    pub now: i64,
    /// Fresh randomness for the seal.
    pub nonce: &'a [u8; 24],
}

/// The answer could not be made; the server will refuse its client when its timeout passes.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum IssueError {
    /// The claims could not be written.
    #[error("the answer could not be written: {0}")]
    Jwt(#[from] JwtError),
    /// In operator mode, no key signs for the account.
    #[error("no key signs for the account {0}: its JWT is not in [operator] accounts")]
    NoKey(Arc<str>),
    /// The answer could not be sealed, so it is not sent.
    #[error("the answer could not be sealed, and is not sent in the clear")]
    Seal,
}

/// The seed with which an instance connects to send a message behind those of a closed connection:
/// the same for all instances of this issuer, and nobody else has it. Each tenant has one of its own.
///
/// # Errors
/// [`SignError`], when who holds the key does not sign.
pub fn handover_seed(
    issuer: &AccountSigner,
    tenant: Option<&str>,
) -> Result<Seed<User>, SignError> {
    let signed = Zeroizing::new(issuer.sign(HANDOVER_USER)?);
    let text = Zeroizing::new([&*signed, tenant.unwrap_or_default().as_bytes()].concat());
    let digest = aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, &text);
    let mut secret = Zeroizing::new([0; 32]);
    secret.iter_mut().zip(digest.as_ref()).for_each(|(to, from)| *to = *from);
    Ok(Seed::of_secret(&secret))
}

impl Issuer {
    /// An issuer that signs with the account key and, when `sealer` is given, seals.
    #[must_use]
    pub fn new(signer: impl Into<AccountSigner>, sealer: Option<Sealer>) -> Self {
        let signer = signer.into();
        Self { signer, sealer, operator: None }
    }

    /// The same in operator mode.
    #[must_use]
    pub fn with_operator(self, operator: Option<Operator>) -> Self {
        Self { operator, ..self }
    }

    /// What signs in operator mode.
    #[must_use]
    pub fn operator(&self) -> Option<&Operator> {
        self.operator.as_ref()
    }

    /// The account that servers expect answers of.
    #[must_use]
    pub fn account(&self) -> &AccountKey {
        self.operator.as_ref().map_or(self.signer.public(), |operator| &operator.asking)
    }

    /// In operator mode, a JWT with which the holder of that seed gets as far as to be asked about.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn sentinel(&self, seed: &Seed<User>, now: i64) -> Result<Option<String>, IssueError> {
        let Some(operator) = &self.operator else { return Ok(None) };
        let user = Signer::new(seed).map_err(|_| JwtError::Claims)?;
        let body = UserBody::new(&operator.asking, Subjects::nothing(), Subjects::nothing());
        let token =
            account_jwt::sign(&self.signer, user.public().as_str(), "solewriter", body, now)?;
        Ok(Some(token))
    }

    /// What opens and seals, when an xkey is configured.
    #[must_use]
    pub fn sealer(&self) -> Option<&Sealer> {
        self.sealer.as_ref()
    }

    /// Signs what one instance says to the others. No token's text begins so, and nothing else that
    /// the issuer signs.
    ///
    /// # Errors
    /// [`SignError`], when who holds the key does not sign.
    pub fn vouch(&self, text: &[u8]) -> Result<[u8; 64], SignError> {
        self.signer.sign(&[INSTANCE_SAYS, text].concat())
    }

    /// Whether an instance with this issuer said that.
    #[must_use]
    pub fn vouches(&self, text: &[u8], signature: &[u8; 64]) -> bool {
        self.signer.public().verify(&[INSTANCE_SAYS, text].concat(), signature).is_ok()
    }

    /// As [`handover_seed`].
    ///
    /// # Errors
    /// As [`handover_seed`].
    pub fn handover_seed(&self, tenant: Option<&str>) -> Result<Seed<User>, SignError> {
        handover_seed(&self.signer, tenant)
    }

    /// The bytes that grant. The request is the one that was proved: there is no other way to a
    /// [`Granted`].
    ///
    /// ```
    /// use solewriter_core::callout::decide::Granted;
    /// use solewriter_core::callout::issue::{Issuer, Stamp};
    /// fn answer(issuer: &Issuer, granted: &Granted, stamp: &Stamp<'_>) {
    ///     let _ = issuer.grant(granted, stamp);
    /// }
    /// ```
    ///
    /// So no grant is signed for a request that only a server signed, nor by a grant alone:
    ///
    /// ```compile_fail,E0308
    /// use solewriter_core::callout::issue::{Issuer, Stamp};
    /// use solewriter_core::callout::request::VerifiedRequest;
    /// fn answer(issuer: &Issuer, request: &VerifiedRequest, stamp: &Stamp<'_>) {
    ///     let _ = issuer.grant(request, stamp);
    /// }
    /// ```
    ///
    /// ```compile_fail,E0308
    /// use solewriter_core::callout::issue::{Issuer, Stamp};
    /// use solewriter_core::grant::CompiledGrant;
    /// fn answer(issuer: &Issuer, grant: &CompiledGrant, stamp: &Stamp<'_>) {
    ///     let _ = issuer.grant(grant, stamp);
    /// }
    /// ```
    ///
    /// # Errors
    /// [`IssueError`]: then nothing may be sent.
    pub fn grant(&self, granted: &Granted, stamp: &Stamp<'_>) -> Result<Vec<u8>, IssueError> {
        let request = granted.identity().request();
        let (name, grant) = (ConnectionName::of(granted).text(), granted.grant());
        let token = |account, claims| {
            let (name, expires) = (&*name, granted.expires());
            self.envelope(request, stamp).grant(&UserToken { name, account, expires, claims })
        };
        let token = match &self.operator {
            None => token(Target::Named(grant.account()), grant.claims()),
            Some(operator) => {
                let target = operator
                    .accounts
                    .get(grant.account())
                    .ok_or_else(|| IssueError::NoKey(grant.account().into()))?;
                let claims = grant.claims_of(&target.account).ok_or(JwtError::Claims)?;
                token(Target::SignedBy(&target.signer), &claims)
            }
        }?;
        self.seal(token, request, stamp)
    }

    /// The bytes that refuse a request.
    ///
    /// # Errors
    /// [`IssueError`]: then nothing may be sent.
    pub fn refuse(
        &self,
        request: &VerifiedRequest,
        stamp: &Stamp<'_>,
    ) -> Result<Vec<u8>, IssueError> {
        // The text reaches the server's log only. It says nothing but where to look.
        let why = format!("denied by solewriter, decision {}", stamp.id);
        self.seal(self.envelope(request, stamp).refuse(&why)?, request, stamp)
    }

    fn envelope<'a>(&'a self, request: &'a VerifiedRequest, stamp: &Stamp<'a>) -> Envelope<'a> {
        Envelope {
            issuer: &self.signer,
            issuer_account: self.operator.as_ref().map(|operator| &operator.asking),
            server: &request.server().key,
            user_nkey: request.user_nkey(),
            id: stamp.id,
            now: stamp.now,
        }
    }

    fn seal(
        &self,
        token: String,
        request: &VerifiedRequest,
        stamp: &Stamp<'_>,
    ) -> Result<Vec<u8>, IssueError> {
        response::seal(token, request.reply_xkey(), self.sealer.as_ref(), stamp.nonce)
            .ok_or(IssueError::Seal)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_an_instance_says_is_known_by_its_issuer() {
        let issuer = || Issuer::new(Signer::new(&Seed::generate()).unwrap(), None);
        let (one, other) = (issuer(), issuer());
        let said = one.vouch(b"settled").unwrap();
        assert!(one.vouches(b"settled", &said));
        assert!(!one.vouches(b"settled ", &said) && !other.vouches(b"settled", &said));
        // What is signed otherwise is not taken for it.
        assert!(!one.vouches(b"settled", &one.signer.sign(b"settled").unwrap()));
    }

    #[test]
    fn the_user_of_handovers_is_one_for_each_issuer_and_tenant() {
        let seed = Seed::generate();
        let user = |seed: &Seed<crate::keys::Account>, tenant| {
            let issuer = Issuer::new(Signer::new(seed).unwrap(), None);
            *Signer::new(&issuer.handover_seed(tenant).unwrap()).unwrap().public()
        };
        for tenant in [None, Some("shop"), Some("bank")] {
            assert_eq!(user(&seed, tenant), user(&seed, tenant));
            assert_ne!(user(&seed, tenant), user(&Seed::generate(), tenant));
        }
        assert_ne!(user(&seed, None), user(&seed, Some("shop")));
        assert_ne!(user(&seed, Some("bank")), user(&seed, Some("shop")));
    }
}
