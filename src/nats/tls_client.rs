//! Where a server is, and TLS with it, as the settings have it.

use std::path::Path;
use std::sync::Arc;

use async_nats::ServerAddr;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::{ClientConfig, RootCertStore};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio_rustls::TlsConnector;

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
        let config = client_config(tls).map_err(|reason| TlsError { address: name, reason })?;
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
    ) -> Result<Box<dyn Stream>, TlsError> {
        let failed = |reason: String| TlsError { address: self.name(), reason };
        let config = self.config.clone().ok_or_else(|| failed("it is not set up".to_owned()))?;
        let host = ServerName::try_from(self.address.host().to_owned())
            .map_err(|error| failed(error.to_string()))?;
        let secured = TlsConnector::from(config).connect(host, stream).await;
        Ok(Box::new(secured.map_err(|error| failed(error.to_string()))?))
    }
}

/// The system's authorities and those of the settings; a client certificate if there is one.
///
/// # Errors
/// When a certificate or key cannot be read: which, and why.
pub fn client_config(tls: &Tls) -> Result<ClientConfig, String> {
    let mut roots = RootCertStore::empty();
    // A certificate of the system's that cannot be read is none that we need to trust.
    roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
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
