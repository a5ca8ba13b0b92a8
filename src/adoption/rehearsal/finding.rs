//! What would have been refused, and what of it is the same.

use std::collections::HashMap;
use std::fmt;
use std::sync::Arc;

use jiff::civil::DateTime;
use serde::Serialize;
use solewriter_core::grant::inbox_prefix;
use solewriter_types::keyspace::Keyspace;
use solewriter_types::subject::Pattern;

/// What kind of thing would have been refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum What {
    /// The connection itself.
    Connect,
    /// Subscriptions to inboxes that are not the service's own.
    Inbox,
    /// A publish.
    Publish,
    /// A subscription.
    Subscribe,
}

/// A rule that would be needed: an element of one of a service's lists.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize)]
pub struct Needed {
    /// The list: `owns`, `reads` and so on.
    pub key: &'static str,
    /// The element.
    pub value: String,
}

impl Needed {
    /// Whether a service that has this does not need the other.
    #[must_use]
    pub fn covers(&self, other: &Self) -> bool {
        let keyspaces = || {
            let mine = Keyspace::parse(&self.value).ok()?;
            Some(Keyspace::parse(&other.value).ok()?.is_within(&mine))
        };
        let patterns = || {
            let mine = Pattern::parse(&self.value).ok()?;
            Some(Pattern::parse(&other.value).ok()?.is_subset_of(&mine))
        };
        self.value == other.value && covers_list(self.key, other.key)
            || match (self.key, other.key) {
                ("owns", "owns" | "reads") | ("reads", "reads") => keyspaces() == Some(true),
                ("calls" | "publishes", "publishes" | "calls")
                | ("answers", "answers" | "subscribes")
                | ("subscribes", "subscribes") => patterns() == Some(true),
                _ => false,
            }
    }

    /// Whether it may cover one of another value: a whole bucket, or wildcards.
    fn is_wide(&self) -> bool {
        let whole = matches!(self.key, "owns" | "reads") && !self.value.contains('/');
        whole || self.value.contains(['*', '>'])
    }

    /// The bucket, or the first token: the same in whatever this covers.
    fn beginning(&self) -> &str {
        let end = if matches!(self.key, "owns" | "reads") { '/' } else { '.' };
        self.value.split(end).next().unwrap_or_default()
    }

    /// The same for all that differ from this in the last token only.
    pub(super) fn widened(&self) -> Option<Self> {
        let at = self.value.rfind(['.', '/'])?;
        let is_plain =
            matches!(self.key, "owns" | "reads" | "publishes" | "calls" | "subscribes" | "answers");
        let value = format!("{}*", self.value.get(..=at)?);
        is_plain.then_some(Self { key: self.key, value })
    }
}

fn covers_list(mine: &str, other: &str) -> bool {
    mine == other || matches!((mine, other), ("owns", "reads") | ("answers", "subscribes"))
}

impl fmt::Display for Needed {
    /// As it would be written: `reads = ["orders"]`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} = [{:?}]", self.key, self.value)
    }
}

/// Things that would have been refused for the same reason.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Finding {
    /// The service; `None` for a client that is none.
    pub service: Option<Arc<str>>,
    /// The first client that did it.
    pub client: String,
    /// What would have been refused.
    pub what: What,
    /// The subject of the first time; empty for a connection.
    pub subject: String,
    /// The queue group of the first time.
    pub queue: Option<String>,
    /// What the subject is for: `write orders/k1`.
    pub meaning: String,
    /// The rule that would be needed, if one could grant it.
    pub rule: Option<Needed>,
    /// What else there is to say, one sentence each.
    pub advice: Vec<String>,
    /// How often.
    pub count: u64,
    /// When the first time was, by the server's clock.
    pub first: Option<DateTime>,
    /// When the last time was.
    pub last: Option<DateTime>,
}

impl Finding {
    /// The rule as it would be written, with its service.
    #[must_use]
    pub fn entry(&self) -> Option<String> {
        Some(format!("[service.{}] {}", self.service.as_ref()?, self.rule.as_ref()?))
    }

    pub(super) fn again(&mut self, at: Option<DateTime>) {
        self.count += 1;
        self.first = self.first.or(at);
        self.last = at.or(self.last);
    }

    fn absorb(&mut self, other: &Self) {
        self.count += other.count;
        self.first = match (self.first, other.first) {
            (Some(mine), Some(theirs)) => Some(mine.min(theirs)),
            (mine, theirs) => mine.or(theirs),
        };
        self.last = self.last.max(other.last);
    }

    /// Whether it is about the inbox that the service would have.
    pub(super) fn is_own_inbox(&self) -> bool {
        let own = self.service.as_deref().map(inbox_prefix);
        let rest = own.and_then(|own| self.subject.strip_prefix(&*own));
        self.what == What::Inbox && rest.is_some_and(|rest| rest.starts_with('.'))
    }

    /// Whether the rule that is needed comes with an inbox.
    fn brings_inbox(&self) -> bool {
        let with = ["owns", "reads", "publishes", "calls", "consumes", "discovers", "replays"];
        self.rule.as_ref().is_some_and(|rule| with.contains(&rule.key))
    }
}

/// Puts together what one rule would grant, and sorts: by service, most frequent first.
#[must_use]
pub fn folded(mut findings: Vec<Finding>) -> Vec<Finding> {
    // What covers much comes first, and takes what it covers.
    let width = |finding: &Finding| finding.rule.as_ref().map(|rule| rule.value.len());
    let rank = |finding: &Finding| {
        finding.rule.as_ref().map(|rule| !matches!(rule.key, "owns" | "answers" | "calls"))
    };
    findings.sort_by(|a, b| {
        (&a.service, rank(a), width(a), &a.rule).cmp(&(&b.service, rank(b), width(b), &b.rule))
    });
    let mut kept: Vec<Finding> = Vec::new();
    // Those that may cover others, by the beginning that they share with these.
    let mut wide: HashMap<(Option<Arc<str>>, String), Vec<usize>> = HashMap::new();
    for finding in findings {
        let Some(rule) = finding.rule.as_ref() else {
            kept.push(finding);
            continue;
        };
        let near = |word: &str| (finding.service.clone(), word.to_owned());
        let places = [near(rule.beginning()), near(&format!("={}", rule.value))];
        let mut others = places.iter().filter_map(|place| wide.get(place)).flatten();
        let covers = |at: &&usize| {
            kept.get(**at).and_then(|k| k.rule.as_ref()).is_some_and(|kept| kept.covers(rule))
        };
        if let Some(wider) = others.find(covers).copied().and_then(|at| kept.get_mut(at)) {
            wider.absorb(&finding);
            continue;
        }
        let [beginning, same] = places;
        if rule.is_wide() {
            wide.entry(beginning).or_default().push(kept.len());
        }
        wide.entry(same).or_default().push(kept.len());
        kept.push(finding);
    }
    // The inbox comes with such a rule.
    let (inboxes, mut kept): (Vec<Finding>, Vec<Finding>) =
        kept.into_iter().partition(Finding::is_own_inbox);
    for inbox in inboxes {
        let brings = |other: &&mut Finding| other.service == inbox.service && other.brings_inbox();
        match kept.iter_mut().find(brings) {
            Some(other) => other.absorb(&inbox),
            None => kept.push(inbox),
        }
    }
    kept.sort_by(|a, b| {
        let order = |f: &Finding| (f.service.is_none(), f.service.clone());
        order(a).cmp(&order(b)).then(b.count.cmp(&a.count)).then(a.subject.cmp(&b.subject))
    });
    kept
}
