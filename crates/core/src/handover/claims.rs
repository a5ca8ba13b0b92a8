//! What services may still write because an older policy said so.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::keys::UserKey;
use crate::policy::model::{
    Access, Excluded, Location, Policy, Rule, STORE_PREFIX, Service, ServiceKey, exclusive,
};
use solewriter_types::connection_type::ConnectionType;
use solewriter_types::subject::Pattern;
use solewriter_types::subject::tree::{NO_BOUND, PatternTree};

/// More subjects than this are not told apart: then everything is in transit.
const MAX_SUBJECTS: usize = 10_000;

/// The subjects that each service may still publish, although the policy in force does not say so.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Claims {
    by_service: BTreeMap<String, BTreeSet<String>>,
    /// Whether somebody may have anything.
    everything: bool,
}

/// Something in transit.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct InTransit {
    /// The subjects.
    pub subjects: Pattern,
    /// Who may still write them; `None` where that is not known.
    pub from: Option<Arc<str>>,
    /// Who is to write them.
    pub to: Arc<str>,
}

impl InTransit {
    /// What it is, in the words of the policy.
    #[must_use]
    pub fn what(&self) -> String {
        named(self.subjects.as_str())
    }
}

/// Subjects in the words of the policy: `orders/line.>` for `$KV.orders.line.>`.
#[must_use]
pub fn named(subjects: &str) -> String {
    let kept = |rest: &str, prefix: &str, whole: &str| match rest.split_once('.') {
        Some((name, keys)) if keys == whole => format!("{prefix}{name}"),
        Some((name, keys)) => format!("{prefix}{name}/{keys}"),
        None => format!("{prefix}{rest}"),
    };
    if let Some(rest) = subjects.strip_prefix("$KV.") {
        kept(rest, "", ">")
    } else if let Some(rest) = subjects.strip_prefix("$O.") {
        kept(rest, STORE_PREFIX, ">")
    } else {
        subjects.to_owned()
    }
}

impl Claims {
    /// Nobody knows what connections have.
    #[must_use]
    pub fn unknown() -> Self {
        Self { everything: true, ..Self::default() }
    }

    /// Whether nobody has more than the policy in force says.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.by_service.is_empty() && !self.everything
    }

    /// The claims after `next` took the place of `before`: those that there were, and what `before`
    /// let a service publish and `next` does not.
    #[must_use]
    pub fn next(&self, before: &Policy, next: &Policy) -> Self {
        let mut claims = self.clone();
        for (service, now) in next.compared(before) {
            let Some(service) = service else { continue };
            let denied = now.map_or(&[][..], |now| &now.excluded.publish);
            let now = now.map_or(&[][..], |now| &now.rules);
            // Almost all services are as they were.
            let same = |(before, now): (&_, &_)| access(before) == access(now);
            if service.rules.len() == now.len()
                && service.rules.iter().zip(now).all(same)
                && service.excluded.publish == denied
            {
                continue;
            }
            let has: HashSet<&Access> = now.iter().map(access).collect();
            let lost = service.rules.iter().map(access).filter(|access| !has.contains(access));
            let lost = lost.filter_map(Access::written);
            // What is taken out of a rule from now on.
            let out = denied.iter().filter(|out| !service.excluded.publish.contains(out));
            let out = out.flat_map(|out| {
                let written = service.rules.iter().filter_map(|rule| rule.access.written());
                written.filter_map(|written| written.intersection(out))
            });
            let lost: Vec<String> = lost.chain(out).map(|lost| lost.to_string()).collect();
            if !lost.is_empty() {
                claims.by_service.entry(service.name.to_string()).or_default().extend(lost);
            }
        }
        if claims.by_service.values().map(BTreeSet::len).sum::<usize>() > MAX_SUBJECTS {
            return Self::unknown();
        }
        claims
    }

    /// The subjects of buckets and object stores that somebody may still write, whoever may by the
    /// policy in force.
    #[must_use]
    pub fn kept(&self) -> Vec<Pattern> {
        let all = self.by_service.values().flatten();
        let kept = all.filter(|text| text.starts_with("$KV.") || text.starts_with("$O."));
        kept.filter_map(|text| Pattern::parse(text).ok()).collect()
    }

    /// What is in transit by a policy: what it lets one service write alone, and another one may
    /// still write.
    #[must_use]
    pub fn in_transit(&self, policy: &Policy) -> Vec<InTransit> {
        if self.is_empty() {
            return Vec::new();
        }
        let parsed = |(service, all): (&String, &BTreeSet<String>)| {
            let service: Arc<str> = service.as_str().into();
            let patterns = all.iter().filter_map(|text| Pattern::parse(text).ok());
            patterns.map(|pattern| (Arc::clone(&service), pattern)).collect::<Vec<_>>()
        };
        let claims: Vec<(Arc<str>, Pattern)> = self.by_service.iter().flat_map(parsed).collect();
        let mut tree = PatternTree::new();
        for (entry, (_, pattern)) in claims.iter().enumerate() {
            tree.insert(pattern, entry, 0);
        }
        let mut found = Vec::new();
        for service in policy.services() {
            for own in exclusive(service, &policy.streams().iter()) {
                let to = || Arc::clone(&service.name);
                if self.everything {
                    found.push(InTransit { subjects: own, from: None, to: to() });
                    continue;
                }
                if tree.overlaps(own.as_str(), &mut { NO_BOUND }) == Ok(false) {
                    continue;
                }
                let others = claims.iter().filter(|(from, _)| *from != service.name);
                found.extend(others.filter_map(|(from, claim)| {
                    let (subjects, from) = (own.intersection(claim)?, Some(Arc::clone(from)));
                    Some(InTransit { subjects, from, to: to() })
                }));
            }
        }
        found.sort();
        found.dedup();
        found
    }

    /// The policy as it counts while these are in transit: nobody is given them, but who settles it.
    #[must_use]
    pub fn held(policy: &Policy, in_transit: &[InTransit], settler: Option<Service>) -> Policy {
        let mut held: HashMap<Arc<str>, Vec<Pattern>> = HashMap::new();
        for InTransit { subjects, to, .. } in in_transit {
            let list = held.entry(Arc::clone(to)).or_default();
            if !list.contains(subjects) {
                list.push(subjects.clone());
            }
        }
        policy.holding(held, settler)
    }
}

/// The name of who settles a handover. No service of a policy can have it.
pub const SETTLER: &str = "$handover";

/// Who may publish these subjects for a moment, to have a stream answer behind all that was sent
/// before. It is let in with the key that every instance has ([`crate::callout::issue::Issuer`]).
#[must_use]
pub fn settler(key: UserKey, subjects: impl IntoIterator<Item = Pattern>) -> Service {
    let at = Location { file: Arc::from(""), line: 0, column: 0 };
    let rule = |subject| {
        let access = Access::Publishes(subject);
        Rule::new(access, at.clone())
    };
    Service {
        name: Arc::from(SETTLER),
        description: None,
        keys: vec![ServiceKey { key, not_before: None, not_after: None }],
        rules: subjects.into_iter().map(rule).collect(),
        account: None,
        lifetime: Some(SETTLER_LIFETIME),
        sources: Vec::new(),
        connections: vec![ConnectionType::Standard],
        disabled: None,
        held: Vec::new(),
        observed: false,
        excluded: Excluded::default(),
        at: at.clone(),
    }
}

/// How long a connection of the settler lasts, at most: it sends a few messages.
const SETTLER_LIFETIME: Duration = Duration::from_secs(60);

fn access(rule: &Rule) -> &Access {
    &rule.access
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::diagnostics::SourceFile;
    use crate::grant::{AuditStreams, Defaults, Grant, Side};
    use crate::policy::validate::validate;

    fn policy(text: &str) -> Policy {
        validate(&[SourceFile::new("p.toml", text)]).unwrap().policy
    }

    /// What is in transit after these policies, one after the other.
    fn after(policies: &[&str]) -> (Claims, Vec<String>) {
        let policies: Vec<Policy> = policies.iter().map(|text| policy(text)).collect();
        let claims = policies
            .windows(2)
            .fold(Claims::default(), |claims, pair| claims.next(&pair[0], &pair[1]));
        let found = claims.in_transit(policies.last().unwrap());
        let said = found.iter().map(|one| {
            let from = one.from.as_deref().unwrap_or("?");
            format!("{} {from}-{}", one.what(), one.to)
        });
        (claims, said.collect())
    }

    const A: &str = "[bucket.k]\n[service.a]\nowns = ['k']\n[service.b]\n";
    const B: &str = "[bucket.k]\n[service.a]\n[service.b]\nowns = ['k']\n";
    const C: &str = "[bucket.k]\n[service.a]\n[service.b]\n[service.c]\nowns = ['k']\n";
    const NOBODY: &str = "[bucket.k]\n[service.a]\n[service.b]\n";

    #[test]
    fn what_moves_is_in_transit_until_that_is_settled() {
        assert!(after(&[A]).0.is_empty());
        assert!(after(&[A, A]).0.is_empty());
        assert_eq!(after(&[A, B]).1, ["k a-b"]);
        assert_eq!(after(&[A, B, B]).1, ["k a-b"], "the next policy does not end it");
        assert_eq!(after(&[A, B, C]).1, ["k a-c", "k b-c"], "either may have it");
        assert_eq!(after(&[A, B, A]).1, ["k b-a"], "who pushed it back is waited for");
        // What nobody has for now, too.
        let (claims, said) = after(&[A, NOBODY]);
        assert_eq!((claims.is_empty(), said.len()), (false, 0));
        assert_eq!(after(&[A, NOBODY, B]).1, ["k a-b"]);
        assert_eq!(after(&[A, NOBODY, A]).1, Vec::<String>::new(), "its own claim is none");
    }

    #[test]
    fn only_what_both_have_is_in_transit() {
        let parts = |a: &str, b: &str, c: &str| {
            format!(
                "[bucket.k]\npart_owners = true\nrollup = false\nduplicate_window = '100ms'\n\
                 [bucket.l]\n[service.a]\nowns = [{a}]\n[service.b]\nowns = [{b}]\n\
                 [service.c]\nowns = [{c}]\n"
            )
        };
        let one = parts("'k/x.>', 'k/y.>'", "'l'", "");
        assert_eq!(after(&[&one, &parts("'k/x.>'", "'l', 'k/y.>'", "")]).1, ["k/y.> a-b"]);
        assert_eq!(
            after(&[&one, &parts("", "'l', 'k/x.>'", "'k/y.>'")]).1,
            ["k/x.> a-b", "k/y.> a-c"],
            "split among two"
        );
        assert_eq!(after(&[&one, &parts("'k/x.>', 'k/y.>'", "", "'l'")]).1, ["l b-c"]);
        // A service of another name is another service, whatever its keys.
        let renamed = A.replace("service.a", "service.a2");
        assert_eq!(after(&[A, &renamed]).1, ["k a-a2"]);
    }

    #[test]
    fn subjects_of_streams_and_object_stores_are_kept_by_one_writer_too() {
        let stream = |writers: &str, a: &str, b: &str| {
            format!(
                "[stream.E]\nsubjects = ['e.>']\nduplicate_window = '100ms'\n{writers}[store.s]\n\
                 [service.a]\n{a}\n[service.b]\n{b}\n"
            )
        };
        let (a, b) = ("publishes = ['e.x', 'plain.x']", "publishes = ['e.y']");
        let one = stream("", a, b);
        let moved = stream("", "", "publishes = ['e.y', 'e.x', 'plain.x']");
        assert_eq!(after(&[&one, &moved]).1, ["e.x a-b"], "what no stream keeps is not stored");
        let calls = stream("", "", "calls = ['e.x']\npublishes = ['e.y']");
        assert_eq!(after(&[&one, &calls]).1, ["e.x a-b"]);
        let many = "writers = 'many'\nreason = 'x'\n";
        assert!(after(&[&one, &stream(many, "", "publishes = ['e.x']")]).1.is_empty());
        let store = stream("", "owns = ['store:s']", "");
        assert_eq!(after(&[&store, &stream("", "", "owns = ['store:s']")]).1, ["store:s a-b"]);
    }

    #[test]
    fn what_is_in_transit_nobody_is_given() {
        let parts = "[bucket.k]\npart_owners = true\nrollup = false\nduplicate_window = '100ms'\n\
                     [service.a]\nowns = ['k/a.>']\n[service.b]\nowns = ['k/b.>']\n";
        let whole = "[bucket.k]\n[service.a]\n[service.b]\nowns = ['k']\n";
        let (before, now) = (policy(parts), policy(whole));
        let claims = Claims::default().next(&before, &now);
        let in_transit = claims.in_transit(&now);
        assert_eq!(in_transit.len(), 1);
        let held = Claims::held(&now, &in_transit, None);
        assert_ne!(held.service("b").unwrap().held, now.service("b").unwrap().held);
        let defaults = Defaults {
            account: "APP".into(),
            lifetime: Duration::from_secs(60),
            audit: AuditStreams::default(),
        };
        let grant = |policy: &Policy| Grant::of(policy.service("b").unwrap(), &defaults).unwrap();
        let (for_now, then) = (grant(&held), grant(&now));
        assert_ne!(for_now.digest(), then.digest());
        let publish = |grant: &Grant| {
            let list = grant.permissions(Side::Publish).iter();
            list.map(|p| p.subject.to_string()).collect::<Vec<_>>()
        };
        let nats_jwt::NatsClaims::User { permissions, .. } = for_now.claims() else { panic!() };
        assert_eq!(permissions.publish.deny, ["$KV.k.a.>"], "b writes what nobody else wrote");
        assert!(publish(&for_now).contains(&"$KV.k.>".to_owned()));
        let purge = "$JS.API.STREAM.PURGE.KV_k".to_owned();
        assert!(publish(&then).contains(&purge) && !publish(&for_now).contains(&purge));
        // Without any claims known, nobody writes alone, and everybody reads.
        let none = Claims::held(&now, &Claims::unknown().in_transit(&now), None);
        let nothing = publish(&grant(&none));
        assert!(nothing.contains(&"$JS.API.STREAM.INFO.KV_k".to_owned()));
        assert!(!nothing.iter().any(|subject| subject.starts_with("$KV.") || *subject == purge));
    }

    #[test]
    fn claims_are_kept_for_a_restart() {
        let (claims, _) = after(&[A, B, C]);
        let text = serde_json::to_string(&claims).unwrap();
        assert_eq!(serde_json::from_str::<Claims>(&text).unwrap(), claims);
    }
}
