//! Downloads: bounded in time and size, and the addresses in a package index.

use std::sync::Arc;
use std::time::Duration;

use ureq::tls::{Certificate, RootCerts, TlsConfig, TlsProvider};
use ureq::{Agent, Proxy, ResponseExt};

use super::RouteError;

const RESOLVE_WITHIN: Duration = Duration::from_secs(10);
const CONNECT_WITHIN: Duration = Duration::from_secs(10);
const ANSWER_WITHIN: Duration = Duration::from_secs(30);
const DOWNLOAD_WITHIN: Duration = Duration::from_secs(180);

/// A bounded, proxied HTTP client.
pub(super) struct Web {
    agent: Agent,
    no_roots: Option<String>,
}

impl Web {
    pub(super) fn new(proxy: Option<Proxy>) -> Self {
        let native = rustls_native_certs::load_native_certs();
        let roots: Vec<_> =
            native.certs.iter().map(|der| Certificate::from_der(der).to_owned()).collect();
        let no_roots =
            roots.is_empty().then(|| native.errors.iter().map(|e| format!(" ({e})")).collect());
        let tls = TlsConfig::builder()
            .provider(TlsProvider::Rustls)
            .unversioned_rustls_crypto_provider(Arc::new(
                rustls::crypto::aws_lc_rs::default_provider(),
            ))
            .root_certs(RootCerts::Specific(Arc::new(roots)))
            .build();
        let agent = Agent::config_builder()
            .tls_config(tls)
            .proxy(proxy)
            .user_agent(concat!("solewriter/", env!("CARGO_PKG_VERSION")))
            .timeout_resolve(Some(RESOLVE_WITHIN))
            .timeout_connect(Some(CONNECT_WITHIN))
            .timeout_recv_response(Some(ANSWER_WITHIN))
            .timeout_global(Some(DOWNLOAD_WITHIN))
            .build()
            .new_agent();
        Self { agent, no_roots }
    }

    /// The address that answered, after redirects, and its answer of at most `limit` bytes.
    pub(super) fn get(
        &self,
        url: &str,
        accept: &str,
        what: &'static str,
        limit: u64,
    ) -> Result<(String, Vec<u8>), RouteError> {
        if let Some(detail) = self.no_roots.as_ref().filter(|_| url.starts_with("https:")) {
            return Err(RouteError::NoRoots { detail: detail.clone() });
        }
        let shown = without_userinfo(url);
        tracing::debug!(url = shown, "downloading {what}");
        let failed = |error| match error {
            ureq::Error::BodyExceedsLimit(_) => RouteError::TooLarge { what, limit },
            // This one repeats the address, password and all.
            ureq::Error::BadUri(_) => {
                RouteError::Http { url: shown.clone(), reason: "not a usable address".to_owned() }
            }
            other => RouteError::Http { url: shown.clone(), reason: other.to_string() },
        };
        let mut answer = self.agent.get(url).header("Accept", accept).call().map_err(failed)?;
        let address = answer.get_uri().to_string();
        let body = answer.body_mut().with_config().limit(limit).read_to_vec().map_err(failed)?;
        Ok((address, body))
    }
}

/// The address to show: a mirror's may carry a user name and password.
pub(super) fn without_userinfo(url: &str) -> String {
    let Some((scheme, rest)) = url.split_once("://") else {
        return url.to_owned();
    };
    let authority = rest.split(['/', '?', '#']).next().unwrap_or(rest);
    match authority.rsplit_once('@') {
        Some((userinfo, _)) => {
            let tail = rest.get(userinfo.len() + 1..).unwrap_or_default();
            format!("{scheme}://{tail}")
        }
        None => url.to_owned(),
    }
}

/// The address that `reference`, found in the document at `base`, stands for.
pub(super) fn resolve(base: &str, reference: &str) -> String {
    let reference = reference.split('#').next().unwrap_or(reference);
    if reference.contains("://") {
        return reference.to_owned();
    }
    let Some((scheme, rest)) = base.split_once("://") else {
        return reference.to_owned();
    };
    if let Some(other_host) = reference.strip_prefix("//") {
        return format!("{scheme}://{other_host}");
    }
    let (authority, path) = rest.split_once('/').unwrap_or((rest, ""));
    let path = path.split(['?', '#']).next().unwrap_or(path);
    let mut segments: Vec<&str> = match reference.strip_prefix('/') {
        Some(_) => Vec::new(),
        // The last segment is the document itself; mirrors do use "../../packages/…".
        None => {
            path.rsplit_once('/').map(|(folder, _)| folder.split('/').collect()).unwrap_or_default()
        }
    };
    for segment in reference.trim_start_matches('/').split('/') {
        match segment {
            "." => {}
            ".." => drop(segments.pop()),
            other => segments.push(other),
        }
    }
    format!("{scheme}://{authority}/{}", segments.join("/"))
}
