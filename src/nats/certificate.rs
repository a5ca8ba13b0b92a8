//! For how long certificates are valid.

use std::path::Path;

use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;
use x509_parser::parse_x509_certificate;

/// From when until when a certificate is valid, in seconds since the Unix epoch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Validity {
    /// Its first second.
    pub from: i64,
    /// Its last one.
    pub until: i64,
}

impl Validity {
    /// A certificate's; `None` for bytes that are none.
    #[must_use]
    pub fn of(certificate: &CertificateDer<'_>) -> Option<Self> {
        let (_, certificate) = parse_x509_certificate(certificate).ok()?;
        let validity = certificate.validity();
        Some(Self { from: validity.not_before.timestamp(), until: validity.not_after.timestamp() })
    }

    /// The one in a file that ends first.
    #[must_use]
    pub fn of_file(file: &Path) -> Option<Self> {
        let all = CertificateDer::pem_file_iter(file).ok()?.flatten();
        all.filter_map(|certificate| Self::of(&certificate)).min_by_key(|validity| validity.until)
    }
}
