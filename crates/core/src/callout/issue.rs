//! From a decision to signed bytes.

pub use crate::callout::connection_name::ConnectionName;
use crate::callout::decide::Granted;
use crate::callout::jwt::JwtError;
use crate::callout::request::VerifiedRequest;
use crate::callout::response::{self, Envelope, UserToken};
use crate::callout::xkey::Sealer;
use crate::keys::{Account, Signer};

/// Signs, and seals where the request was sealed.
pub struct Issuer {
    signer: Signer<Account>,
    sealer: Option<Sealer>,
}

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
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum IssueError {
    /// The claims could not be written.
    #[error("the answer could not be written: {0}")]
    Jwt(#[from] JwtError),
    /// The answer could not be sealed, so it is not sent.
    #[error("the answer could not be sealed, and is not sent in the clear")]
    Seal,
}

impl Issuer {
    /// An issuer that signs with the account key and, when `sealer` is given, seals.
    #[must_use]
    pub fn new(signer: Signer<Account>, sealer: Option<Sealer>) -> Self {
        Self { signer, sealer }
    }

    /// The issuer account's public key.
    #[must_use]
    pub fn account(&self) -> &crate::keys::AccountKey {
        self.signer.public()
    }

    /// What opens and seals, when an xkey is configured.
    #[must_use]
    pub fn sealer(&self) -> Option<&Sealer> {
        self.sealer.as_ref()
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
        let token = self.envelope(request, stamp).grant(&UserToken {
            name: &ConnectionName::of(granted).text(),
            account: granted.grant().account(),
            expires: granted.expires(),
            claims: granted.grant().claims(),
        })?;
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
