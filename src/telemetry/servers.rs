//! The servers that send requests, and their clusters: each is reported once.

use std::collections::BTreeSet;
use std::sync::Mutex;

/// More clusters than this are not named.
const CLUSTERS_AT_MOST: usize = 16;

/// The clusters that servers said to be in. More than one are joined by gateways, across which
/// JetStream delivers into another cluster's buckets whatever a consumer's maker may publish.
#[derive(Debug, Default)]
pub(super) struct Clusters(Mutex<BTreeSet<String>>);

impl Clusters {
    /// All that were seen, when this is a new one. Servers without a cluster are in none.
    pub(super) fn see(&self, cluster: &str) -> Option<Vec<String>> {
        let mut seen = self.0.lock().ok()?;
        let known = cluster.is_empty() || seen.contains(cluster) || seen.len() >= CLUSTERS_AT_MOST;
        (!known && seen.insert(cluster.to_owned())).then(|| seen.iter().cloned().collect())
    }
}

/// More servers than this are not told apart.
const SERVERS_AT_MOST: usize = 1000;

/// The servers that were checked, so that each is reported once.
#[derive(Debug, Default)]
pub(super) struct Seen(Mutex<BTreeSet<String>>);

impl Seen {
    /// Whether it is seen for the first time.
    pub(super) fn first(&self, server: &str) -> bool {
        let Ok(mut seen) = self.0.lock() else { return false };
        if seen.contains(server) || seen.len() >= SERVERS_AT_MOST {
            return false;
        }
        seen.insert(server.to_owned())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_second_cluster_is_told_of_once() {
        let clusters = Clusters::default();
        let see = |cluster: &str| clusters.see(cluster).map(|all| all.join(" "));
        assert_eq!([see(""), see("a"), see("a")], [None, Some("a".to_owned()), None]);
        assert_eq!([see("b"), see("b"), see("")], [Some("a b".to_owned()), None, None]);
        for number in 0..2 * CLUSTERS_AT_MOST {
            see(&number.to_string());
        }
        assert_eq!(see("another"), None);
    }

    #[test]
    fn each_server_is_told_of_once_and_not_without_end() {
        let seen = Seen::default();
        assert!(seen.first("a") && !seen.first("a") && seen.first("b"));
        for number in 0..2 * SERVERS_AT_MOST {
            seen.first(&number.to_string());
        }
        assert!(!seen.first("another"));
    }
}
