//! Metrics of what is kept in memory to be found again.

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::{Registry, Unit};

use solewriter_core::callout::decide::CacheSizes;

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct CacheLabel {
    cache: &'static str,
}

/// What Prometheus reads about caches.
#[derive(Default)]
pub(super) struct CacheMetrics {
    entries: Family<CacheLabel, Gauge>,
    grant_bytes: Gauge,
}

impl CacheMetrics {
    pub fn register(&self, registry: &mut Registry) {
        registry.register("cache_entries", "Entries in memory, by cache", self.entries.clone());
        registry.register_with_unit(
            "grant_cache",
            "Size of the compiled grants in memory",
            Unit::Bytes,
            self.grant_bytes.clone(),
        );
    }

    pub fn set(&self, sizes: CacheSizes) {
        let CacheSizes {
            grants,
            grant_bytes,
            client_keys,
            server_keys,
            server_xkeys,
            limited_keys,
            limited_hosts,
            asked_connections,
            past_policies,
        } = sizes;
        let number = |size: u64| i64::try_from(size).unwrap_or(i64::MAX);
        self.grant_bytes.set(number(grant_bytes));
        for (cache, size) in [
            ("grants", grants),
            ("client_keys", client_keys),
            ("server_keys", server_keys),
            ("server_xkeys", server_xkeys),
            ("limited_keys", limited_keys),
            ("limited_hosts", limited_hosts),
            ("asked_connections", asked_connections),
            ("past_policies", past_policies),
        ] {
            self.entries.get_or_create(&CacheLabel { cache }).set(number(size));
        }
    }
}
