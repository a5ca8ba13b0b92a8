//! The audit streams that services may be granted.

use std::sync::Arc;

use crate::policy::model::StreamName;
use solewriter_types::audit_event::{DEFAULT_API, DEFAULT_SERVICES_STREAM, DEFAULT_STREAM};

/// Where audit events are published.
pub(super) const AUDIT_SUBJECTS: &str = "audit.events.>";
/// Where those of services arrive.
pub(super) const SERVICES_SUBJECTS: &str = "audit.services.>";

/// The audit streams, as services see them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AuditStreams {
    events: Arc<str>,
    services: Arc<str>,
    api: Arc<str>,
}

impl Default for AuditStreams {
    fn default() -> Self {
        Self {
            events: DEFAULT_STREAM.into(),
            services: DEFAULT_SERVICES_STREAM.into(),
            api: DEFAULT_API.into(),
        }
    }
}

impl AuditStreams {
    /// Checks what a setting gives; the default stands for each that none does.
    ///
    /// # Errors
    /// What is wrong: the streams have one name, or what the API begins with is neither `$JS.API`
    /// nor `$JS.<TOKEN>.API`.
    pub fn new(
        events: Option<&StreamName>,
        services: Option<&StreamName>,
        api: Option<&str>,
    ) -> Result<Self, &'static str> {
        let default = Self::default();
        let name = |given: Option<&StreamName>, default: Arc<str>| {
            given.map_or(default, |name| name.as_str().into())
        };
        let (events, services) = (name(events, default.events), name(services, default.services));
        if events == services {
            return Err("services' events go into a stream of their own");
        }
        let api = match api {
            None => default.api,
            Some(api) if is_api(api) => api.into(),
            Some(_) => return Err("expected \"$JS.<ACCOUNT>.API\", or \"$JS.API\""),
        };
        Ok(Self { events, services, api })
    }

    /// The stream of what solewriter decided.
    #[must_use]
    pub fn events(&self) -> &str {
        &self.events
    }

    /// The stream of what services report.
    #[must_use]
    pub fn services(&self) -> &str {
        &self.services
    }

    /// What requests to the JetStream that has them begin with, in services' accounts.
    #[must_use]
    pub fn api(&self) -> &str {
        &self.api
    }

    /// Whether they are in the account of the buckets, as deployments of older versions have them.
    #[must_use]
    pub fn are_beside_buckets(&self) -> bool {
        &*self.api == "$JS.API"
    }

    /// The subjects in one of the two; `None` for any other stream.
    #[must_use]
    pub fn subjects_of(&self, stream: &str) -> Option<&'static str> {
        if stream == &*self.events {
            Some(AUDIT_SUBJECTS)
        } else if stream == &*self.services {
            Some(SERVICES_SUBJECTS)
        } else {
            None
        }
    }
}

/// Whether this is what JetStream's API begins with, here or through an import with a name of its
/// own.
fn is_api(text: &str) -> bool {
    let is_name = |token: &str| {
        let allowed = |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | '-');
        (1..=64).contains(&token.len())
            && token.chars().all(allowed)
            && !["API", "ACK", "FC"].contains(&token)
    };
    text == "$JS.API"
        || text.strip_prefix("$JS.").and_then(|rest| rest.strip_suffix(".API")).is_some_and(is_name)
}
