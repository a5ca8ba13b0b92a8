//! Where a server is, and TLS with it, as the settings have it.

use std::error::Error;
use std::path::Path;
use std::sync::Arc;

use async_nats::ServerAddr;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::{AlertDescription, CertificateError, ClientConfig, RootCertStore};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use crate::nats::Tls;

/// What bytes travel over: TCP, TLS, or what a test puts in between.
pub trait Stream: AsyncRead + AsyncWrite + Send + Unpin + 'static {}
impl<T: AsyncRead + AsyncWrite + Send + Unpin + 'static> Stream for T {}

/// TLS failed, or cannot be set up.
#[derive(Debug, thiserror::Error)]
#[error("TLS with {address}: {reason}")]
pub struct TlsError {
    address: String,
    reason: String,
}

/// A nats-server, and how to reach it.
#[derive(Clone, Debug)]
pub struct TlsServer {
    /// Where it is.
    pub address: ServerAddr,
    /// Refuse to go on without TLS.
    pub tls_required: bool,
    /// TLS before the server's INFO.
    pub tls_first: bool,
    config: Option<Arc<ClientConfig>>,
}

impl TlsServer {
    /// Without TLS.
    #[must_use]
    pub fn plain(address: ServerAddr) -> Self {
        Self { address, tls_required: false, tls_first: false, config: None }
    }

    /// As the settings say: with TLS where the server wants it, or they do.
    ///
    /// # Errors
    /// When a certificate or key cannot be read.
    pub fn new(address: ServerAddr, tls: &Tls) -> Result<Self, TlsError> {
        let name = format!("{}:{}", address.host(), address.port());
        let config =
            client_config(tls, false).map_err(|reason| TlsError { address: name, reason })?;
        Ok(Self {
            tls_required: tls.required || address.tls_required(),
            tls_first: tls.first,
            address,
            config: Some(Arc::new(config)),
        })
    }

    /// `HOST:PORT`.
    #[must_use]
    pub fn name(&self) -> String {
        format!("{}:{}", self.address.host(), self.address.port())
    }

    /// The stream with TLS on it.
    pub(super) async fn secured(
        &self,
        stream: Box<dyn Stream>,
    ) -> Result<TlsStream<Box<dyn Stream>>, TlsError> {
        let failed = |reason: String| TlsError { address: self.name(), reason };
        let config = self.config.clone().ok_or_else(|| failed("it is not set up".to_owned()))?;
        let host = ServerName::try_from(self.address.host().to_owned())
            .map_err(|error| failed(error.to_string()))?;
        let secured = TlsConnector::from(config).connect(host, stream).await;
        secured.map_err(|error| match cause(&error) {
            Some(cause) => failed(format!("{cause}: {}", advice(cause))),
            None => failed(error.to_string()),
        })
    }
}

/// What TLS failed for, if that is what an error or one of its causes is about.
pub fn cause<'a>(error: &'a (dyn Error + 'static)) -> Option<&'a rustls::Error> {
    let mut link = Some(error);
    while let Some(error) = link {
        if let Some(found) = error.downcast_ref::<rustls::Error>() {
            return Some(found);
        }
        // The source of an I/O error is its content's source, not its content.
        let content = error.downcast_ref::<std::io::Error>().and_then(std::io::Error::get_ref);
        if let Some(found) = content.and_then(|content| cause(content)) {
            return Some(found);
        }
        link = error.source();
    }
    None
}

/// What to look at first.
#[must_use]
pub fn advice(error: &rustls::Error) -> &'static str {
    use AlertDescription::{
        BadCertificate, CertificateExpired, CertificateRequired, CertificateUnknown, UnknownCA,
    };
    use CertificateError::{
        Expired, ExpiredContext, NotValidForName, NotValidForNameContext, NotValidYet,
        NotValidYetContext,
    };
    match error {
        rustls::Error::InvalidCertificate(Expired | ExpiredContext { .. }) => {
            "the server's certificate has expired: renew it, and have nats-server read it \
             (`nats-server --signal reload`)"
        }
        rustls::Error::InvalidCertificate(NotValidYet | NotValidYetContext { .. }) => {
            "the server's certificate is not valid yet: compare the clocks"
        }
        rustls::Error::InvalidCertificate(NotValidForName | NotValidForNameContext { .. }) => {
            "the server's certificate is for another name: write a name of it in [nats] servers, \
             or make one that has this name (subjectAltName)"
        }
        rustls::Error::InvalidCertificate(_) => {
            "the server's certificate is not trusted: set [nats.tls] ca to the certificate of the \
             authority that signed it"
        }
        rustls::Error::AlertReceived(CertificateRequired) => {
            "the server demands a client certificate: set [nats.tls] cert and key"
        }
        rustls::Error::AlertReceived(CertificateExpired) => {
            "the server says that the client certificate has expired: renew the files of \
             [nats.tls] cert and key; they are read again for each connection"
        }
        rustls::Error::AlertReceived(BadCertificate | CertificateUnknown | UnknownCA) => {
            "the server does not take the client certificate: has an authority of its `ca_file` \
             signed [nats.tls] cert, for client authentication?"
        }
        rustls::Error::InvalidMessage(_) => {
            "the server does not begin with TLS: [nats.tls] first = true is for servers with \
             `handshake_first`"
        }
        _ => "TLS failed: check [nats.tls], and the server's certificate",
    }
}

/// The authorities of the settings, or the system's where they name none, or with `system` both; a
/// client certificate if there is one.
///
/// # Errors
/// When a certificate or key cannot be read: which, and why.
pub fn client_config(tls: &Tls, system: bool) -> Result<ClientConfig, String> {
    let mut roots = RootCertStore::empty();
    if system || tls.ca.is_none() {
        // A certificate of the system's that cannot be read is none that we need to trust.
        roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
    }
    if let Some(file) = &tls.ca {
        for certificate in certificates(file)? {
            roots.add(certificate).map_err(|error| named(file, &error))?;
        }
    }
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let builder = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(|error| error.to_string())?
        .with_root_certificates(roots);
    let Some((certificate, key)) = &tls.identity else {
        return Ok(builder.with_no_client_auth());
    };
    let secret = PrivateKeyDer::from_pem_file(key).map_err(|error| named(key, &error))?;
    builder
        .with_client_auth_cert(certificates(certificate)?, secret)
        .map_err(|error| named(certificate, &error))
}

fn certificates(file: &Path) -> Result<Vec<CertificateDer<'static>>, String> {
    CertificateDer::pem_file_iter(file)
        .and_then(Iterator::collect)
        .map_err(|error| named(file, &error))
}

fn named(file: &Path, error: &dyn std::fmt::Display) -> String {
    format!("{}: {error}", file.display())
}
