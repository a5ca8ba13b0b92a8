//! What a violation means: who it was, what it was for, whose keys those are, and which entry the
//! policy lacks. Everything about the policy is answered by [`solewriter_core::analysis::query`].

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;

use crate::policy_source::snapshot_store::Snapshot;
use solewriter_core::analysis::query::advice::{advise, claim, remedy, said};
use solewriter_core::analysis::query::{Question, may, owners};
use solewriter_core::callout::issue::ConnectionName;
use solewriter_core::grant::{Defaults, Grant};
use solewriter_core::policy::model::{FoundName, Policy, Service, short};
use solewriter_types::audit_event::{About, Source, Violation, cut, words};
use solewriter_types::dedup::Told;
use solewriter_types::kv_operation::{Act, Operation, Target, Usage};
use solewriter_types::server_log::line::Refusal;
use solewriter_types::subject::{MAX_SUBJECT_BYTES, Pattern};

/// How many services' grants are kept, to tell whether the policy in force grants something.
const MAX_GRANTS: usize = 16_384;

/// Explains violations by one policy after the other.
pub struct Explainer {
    defaults: Defaults,
    snapshot: Option<Arc<Snapshot>>,
    /// Of that snapshot.
    grants: HashMap<Arc<str>, Option<Arc<Grant>>>,
}

impl Explainer {
    /// Without a policy, until one is given.
    #[must_use]
    pub fn new(defaults: Defaults) -> Self {
        Self { defaults, snapshot: None, grants: HashMap::new() }
    }

    /// The policy to go by from now on.
    pub fn set(&mut self, snapshot: Arc<Snapshot>) {
        if !self.snapshot.as_ref().is_some_and(|before| Arc::ptr_eq(before, &snapshot)) {
            self.grants.clear();
            self.snapshot = Some(snapshot);
        }
    }

    /// The event of a violation. `source` names the first of repeats.
    pub fn event(
        &mut self,
        told: &Told<Refusal>,
        server: Option<&str>,
        source: &Source,
    ) -> Violation {
        let Told { refusal, number: _, count, first, last, repeats } = told;
        let usage = Usage::of(refusal.act, &refusal.subject);
        // What may be made up is told, and ascribed to nobody.
        let named = if refusal.unproved { None } else { refusal.user.as_deref() };
        let granted = named.and_then(ConnectionName::parse);
        let Findings { owner, missing_rule, detail } =
            self.findings(refusal, granted.as_ref(), &usage);
        let mut about = About::of(usage.target.as_ref());
        about.stream = about.stream.or_else(|| self.keeping(refusal, &usage));
        let (service, nkey, revision) = match granted {
            Some(ConnectionName { service, key, revision, .. }) => {
                (Some(service), Some(key.to_string()), Some(revision))
            }
            None => (None, None, None),
        };
        Violation {
            seen_by: "server_log".to_owned(),
            unproved: refusal.unproved,
            service,
            nkey,
            account: refusal.account.as_deref().map(words),
            revision,
            host: Some(words(&refusal.address)),
            server: server.map(words),
            cid: Some(refusal.connection),
            client: refusal.client.as_deref().map(words),
            operation: usage.operation,
            subject: cut(&refusal.subject, MAX_SUBJECT_BYTES),
            queue: refusal.queue.as_deref().map(words),
            about,
            owner,
            missing_rule,
            detail,
            repeats: repeats.map(|number| source.id(number)),
            count: *count,
            first: *first,
            last: *last,
        }
    }

    /// The stream that keeps the plain subject that was refused.
    fn keeping(&self, refusal: &Refusal, usage: &Usage) -> Option<String> {
        if usage.operation != Operation::Publish {
            return None;
        }
        let subject = Pattern::parse(&refusal.subject).ok()?;
        let stream = self.snapshot.as_ref()?.policy.keeping(&subject).next()?;
        Some(words(stream.name.as_str()))
    }

    fn findings(
        &mut self,
        refusal: &Refusal,
        granted: Option<&ConnectionName>,
        usage: &Usage,
    ) -> Findings {
        let stranger = match (&refusal.user, granted) {
            (user, None) if refusal.unproved => {
                let user = user.as_deref().unwrap_or("nobody");
                Some(format!(
                    "unproved: a leafnode or an MQTT client may have written this line, which \
                     names {}",
                    words(user)
                ))
            }
            (_, Some(_)) => None,
            (None, None) => Some("the server's log does not name the user".to_owned()),
            (Some(user), None) => {
                Some(format!("the user {} was not let in by solewriter", words(user)))
            }
        };
        let Some(snapshot) = self.snapshot.clone() else {
            return Findings { detail: stranger, ..Findings::default() };
        };
        let policy = &snapshot.policy;
        let owner = owner(policy, refusal, usage);
        let Some(granted) = granted else {
            return Findings { owner, detail: stranger, ..Findings::default() };
        };
        let Some(service) = policy.service(&granted.service) else {
            let detail = Some(format!("policy {} has no such service", policy.revision()));
            return Findings { owner, detail, ..Findings::default() };
        };
        let Some(question) = question(refusal, usage) else {
            let detail = Some("no rule can grant it".to_owned());
            return Findings { owner, detail, ..Findings::default() };
        };
        if refusal.act != Act::Reply && self.is_granted(service, &question) {
            let (now, then) = (policy.revision(), &granted.revision);
            let detail = if now.whole() == then {
                format!("policy {now} grants it: was this connection let in with other settings?")
            } else {
                format!("policy {now} grants it; the connection is still on {}", short(then))
            };
            return Findings { owner, detail: Some(detail), ..Findings::default() };
        }
        let advice = advise(policy, service, &question);
        let detail = match (advice.never, advice.owner) {
            (Some(never), _) => Some(format!("no rule can grant it: {never}")),
            (None, Some((owner, rule))) => {
                let (claim, remedy) = (claim(&rule.access), remedy(&rule.access));
                Some(format!("{owner} {}: {claim}; {remedy}", said(&rule)))
            }
            (None, None) => None,
        };
        Findings { owner, missing_rule: advice.add.map(|entry| entry.to_string()), detail }
    }

    /// Whether the policy in force grants it: a connection lives on by the one it was let in by.
    fn is_granted(&mut self, service: &Service, question: &Question) -> bool {
        if self.grants.len() >= MAX_GRANTS && !self.grants.contains_key(&service.name) {
            self.grants.clear();
        }
        let grant = self
            .grants
            .entry(Arc::clone(&service.name))
            .or_insert_with(|| Grant::of(service, &self.defaults).ok().map(Arc::new));
        grant.as_ref().is_some_and(|grant| may(grant, question).is_yes())
    }
}

#[derive(Default)]
struct Findings {
    owner: Option<String>,
    missing_rule: Option<String>,
    detail: Option<String>,
}

/// The service that has it for itself; several with commas, when they share what was asked for.
fn owner(policy: &Policy, refusal: &Refusal, usage: &Usage) -> Option<String> {
    let publish = |subject: &str| Pattern::parse(subject).ok().map(Question::Publish);
    let about: Vec<Question> = match &usage.target {
        Some(target @ Target::Keys { .. }) => {
            target.keyspace().map(Question::Read).into_iter().collect()
        }
        Some(Target::Store(store)) => vec![Question::ReadStore(store.clone())],
        Some(target @ Target::Stream { stream, subject, .. }) => {
            let consumer = Question::consumer_of(target).filter(|c| policy.consumer(c).is_some());
            match (consumer, subject) {
                (Some(consumer), _) => vec![Question::Consume(consumer)],
                (None, Some(subject)) => publish(subject).into_iter().collect(),
                (None, None) => {
                    let kept = policy.stream(stream).map_or(&[][..], |stream| &stream.subjects);
                    kept.iter().cloned().map(Question::Publish).collect()
                }
            }
        }
        Some(Target::Found(name)) => {
            FoundName::parse(name).map(Question::Found).into_iter().collect()
        }
        None if usage.operation == Operation::Publish => {
            publish(&refusal.subject).into_iter().collect()
        }
        None => Vec::new(),
    };
    let owners = about.iter().flat_map(|question| owners(policy, question));
    let names: BTreeSet<&str> = owners.map(|(service, _)| &*service.name).collect();
    let names: Vec<&str> = names.into_iter().collect();
    (!names.is_empty()).then(|| words(&names.join(", ")))
}

/// What would have to be allowed. `None` where nothing could be: the subject is none, or it is a
/// reply that only servers name.
fn question(refusal: &Refusal, usage: &Usage) -> Option<Question> {
    let pattern = || Pattern::parse(&refusal.subject).ok();
    match usage.operation {
        Operation::Reply => None,
        Operation::Subscribe => pattern().map(Question::Subscribe),
        _ => Question::meant(usage).or_else(|| pattern().map(Question::Publish)),
    }
}

#[cfg(test)]
mod tests {
    use jiff::Timestamp;

    use super::*;
    use crate::policy_source::snapshot_store::Store;
    use solewriter_core::diagnostics::SourceFile;
    use solewriter_core::policy::validate::validate;
    use solewriter_types::server_log::line::{Line, parse};

    const KEY: &str = "UCRAFZAHGBQKZ5WVGGAZTW3N7PIO7NNEZC77U2TFP7DSBDSFHKEUCIHK";
    const POLICY: &str = r#"
[bucket.orders]
[bucket.shared]
part_owners = true
rollup = false
duplicate_window = "100ms"
[service.orders]
nkeys = ["UCRAFZAHGBQKZ5WVGGAZTW3N7PIO7NNEZC77U2TFP7DSBDSFHKEUCIHK"]
owns = ["orders", "shared/a.>"]
[service.other]
owns = ["shared/b.>"]
[service.evil]
reads = ["shared"]

[stream.SHIPMENTS]
subjects = ["shipments.>"]
[stream.SHIPMENTS.consumer.billing]
filter = ["shipments.done"]
[stream.SHIPMENTS.consumer.spare]
filter = ["shipments.late"]
[stream.SHIPMENTS.consumer.both]
shared = "either may bill"
[stream.CHATTER]
subjects = ["chatter.>"]
writers = "many"
reason = "anybody may say something"
duplicate_window = "100ms"
[store.invoices]
[service.shipping]
publishes = ["shipments.>", "chatter.>"]
owns = ["store:invoices"]
[service.billing]
consumes = ["SHIPMENTS/billing", "SHIPMENTS/both"]
[service.quotes]
found_as = ["quotes"]
"#;

    fn explained(name: &str, said: &str) -> Violation {
        let store = Store::new();
        let policy = [SourceFile::new("p.toml", POLICY)];
        let snapshot = store.replace(validate(&policy).unwrap(), None, Timestamp::UNIX_EPOCH).after;
        let lifetime = std::time::Duration::from_secs(60);
        let mut explainer = Explainer::new(Defaults {
            account: "APP".into(),
            lifetime,
            audit: solewriter_core::grant::AuditStreams::default(),
        });
        explainer.set(snapshot);
        let line = format!(r#"[1] [ERR] h:1 - cid:7 - "APP/user:{name}" - {said}"#);
        let Line::Refusal(refusal) = parse(line.as_bytes()) else { panic!("{line}") };
        let told = Told {
            refusal: *refusal,
            number: 3,
            count: 2,
            first: Timestamp::UNIX_EPOCH,
            last: Timestamp::UNIX_EPOCH,
            repeats: Some(1),
        };
        let source = Source { producer: "violations".to_owned(), instance: "i".to_owned() };
        explainer.event(&told, Some("nats-1"), &source)
    }

    /// Operation, what it is about, owner, missing rule, detail.
    fn brief(said: &str) -> [Option<String>; 5] {
        let v = explained(&format!("evil/{KEY}/0123456789ab"), said);
        let operation = Some(v.operation.to_string());
        let About { keyspace, stream, consumer, store, found_as } = v.about;
        let store = store.map(|store| format!("store {store}"));
        let parts = [keyspace, stream, consumer, store, found_as];
        let about: Vec<String> = parts.into_iter().flatten().collect();
        let about = (!about.is_empty()).then(|| about.join(" "));
        [operation, about, v.owner, v.missing_rule, v.detail]
    }

    #[allow(clippy::too_many_lines)]
    #[test]
    fn names_the_true_owner_and_the_rule_that_would_be_needed() {
        let publish = |subject: &str| format!("Publish Violation - Subject \"{subject}\"");
        let subscribe = |s: &str| format!("Subscription Violation - Subject \"{s}\", SID 1");
        for (said, expected) in [
            (
                publish("$KV.orders.k1"),
                [
                    "write",
                    "orders/k1",
                    "orders",
                    "",
                    "orders owns orders (p.toml:9:9): a key has one writer; to allow it, the ownership has \
                     to be transferred",
                ],
            ),
            (
                publish("$KV.shared.b.x"),
                [
                    "write",
                    "shared/b.x",
                    "other",
                    "",
                    "other owns shared/b.> (p.toml:11:9): a key has one writer; to allow it, the \
                     ownership has to be transferred",
                ],
            ),
            (
                publish("$KV.shared.c"),
                ["write", "shared/c", "", "[service.evil] owns = [\"shared/c\"]", ""],
            ),
            (
                publish("$JS.API.DIRECT.GET.KV_orders.$KV.orders.k1"),
                ["get", "orders/k1", "orders", "[service.evil] reads = [\"orders/k1\"]", ""],
            ),
            (
                publish("$JS.API.CONSUMER.CREATE.KV_orders"),
                ["watch", "orders", "orders", "[service.evil] reads = [\"orders\"]", ""],
            ),
            (
                publish("$JS.API.STREAM.INFO.KV_nowhere"),
                ["open", "nowhere", "", "[service.evil] reads = [\"nowhere\"]", ""],
            ),
            (
                publish("$JS.API.STREAM.DELETE.KV_shared"),
                [
                    "administer",
                    "shared",
                    "orders, other",
                    "",
                    "no rule can grant it: `$JS.API.STREAM.DELETE.>` is never granted to any service",
                ],
            ),
            (
                publish("events.x"),
                ["publish", "", "", "[service.evil] publishes = [\"events.x\"]", ""],
            ),
            (publish("a b"), ["publish", "", "", "", "no rule can grant it"]),
            (
                subscribe("events.>"),
                ["subscribe", "", "", "[service.evil] subscribes = [\"events.>\"]", ""],
            ),
            (
                subscribe("_INBOX.orders.>"),
                [
                    "subscribe",
                    "",
                    "",
                    "",
                    "no rule can grant it: inboxes are private: set the inbox prefix of this client \
                     to `_INBOX.evil`; `_INBOX.evil.>` comes with `reads`, `owns` and `calls`",
                ],
            ),
            (
                subscribe("$KV.orders.>"),
                [
                    "subscribe",
                    "orders",
                    "orders",
                    "",
                    "no rule can grant it: `$KV.>` is never granted to any service",
                ],
            ),
            (
                "Publish Violation - Reply \"$JS.ACK.x\"".to_owned(),
                ["reply", "", "", "", "no rule can grant it"],
            ),
            (
                publish("$JS.API.STREAM.INFO.KV_shared"),
                [
                    "open",
                    "shared",
                    "orders, other",
                    "",
                    &format!(
                        "policy {} grants it; the connection is still on 0123456789ab",
                        revision()
                    ),
                ],
            ),
        ] {
            let expected = expected.map(|text| Some(text.to_owned()).filter(|t| !t.is_empty()));
            assert_eq!(brief(&said), expected, "{said}");
        }
    }

    /// A refused acknowledgement is told as plainly as a refused put.
    #[allow(clippy::too_many_lines)]
    #[test]
    fn names_who_has_the_consumer_the_subject_or_the_store() {
        const DECLARED: &str = "no rule can grant it: `SHIPMENTS/billing` is declared: \
                                `solewriter state apply` alone makes, changes and deletes it";
        const TAKEN: &str = "billing consumes SHIPMENTS/billing (p.toml:33:13): each message goes \
                             to one of those who take it; to allow it, declare a consumer for this \
                             service, or write `shared = \"why\"` in the consumer's table";
        const WRITTEN: &str = "shipping publishes shipments.> (p.toml:30:14): a subject of a stream \
                               has one writer; to allow it, take the subject from the other \
                               service, or declare the stream with `writers = \"many\"` and a \
                               `reason`";
        const STORED: &str = "shipping owns store:invoices (p.toml:31:9): an object store has one \
                              writer; to allow it, the ownership has to be transferred";
        const OPEN: &str = "no rule can grant it: it comes only with `consumes` of a declared \
                            consumer, or with `replays` of a part of the stream";
        const BARE: &str = "no rule can grant it: `replays` grants consumers with a name and one \
                            filter, because the stream has declared consumers: give this one both";
        const ALL: &str = "[service.evil] replays = [\"SHIPMENTS\"]";
        const DONE: &str = "[service.evil] replays = [\"SHIPMENTS/shipments.done\"]";
        const STORE: &str = "[service.evil] reads = [\"store:invoices\"]";
        let acks = "no rule can grant it: the policy declares no consumer `SHIPMENTS/x1`";
        for (subject, expected) in [
            (
                "$JS.ACK.SHIPMENTS.billing.1.7.7.1795919999.0",
                ["ack", "SHIPMENTS billing", "billing", "", TAKEN],
            ),
            (
                "$JS.ACK._.ACtJ5Xr0.SHIPMENTS.billing.1.7.7.1795919999.0",
                ["ack", "SHIPMENTS billing", "billing", "", TAKEN],
            ),
            (
                "$JS.API.CONSUMER.MSG.NEXT.SHIPMENTS.billing",
                ["consume", "SHIPMENTS billing", "billing", "", TAKEN],
            ),
            (
                "$JS.API.CONSUMER.INFO.SHIPMENTS.billing",
                ["consume", "SHIPMENTS billing", "billing", "", TAKEN],
            ),
            (
                "$JS.API.CONSUMER.MSG.NEXT.SHIPMENTS.spare",
                [
                    "consume",
                    "SHIPMENTS spare",
                    "",
                    "[service.evil] consumes = [\"SHIPMENTS/spare\"]",
                    "",
                ],
            ),
            (
                "$JS.ACK.SHIPMENTS.both.1.7.7.1795919999.0",
                [
                    "ack",
                    "SHIPMENTS both",
                    "billing",
                    "[service.evil] consumes = [\"SHIPMENTS/both\"]",
                    "",
                ],
            ),
            (
                "$JS.ACK.SHIPMENTS.x1.1.7.7.1795919999.0",
                ["ack", "SHIPMENTS x1", "shipping", "", acks],
            ),
            (
                "$JS.API.CONSUMER.DELETE.SHIPMENTS.billing",
                ["administer", "SHIPMENTS billing", "billing", "", DECLARED],
            ),
            (
                "$JS.API.CONSUMER.PAUSE.SHIPMENTS.billing",
                ["administer", "SHIPMENTS billing", "billing", "", DECLARED],
            ),
            (
                "$JS.API.CONSUMER.UNPIN.SHIPMENTS.billing",
                ["administer", "SHIPMENTS billing", "billing", "", DECLARED],
            ),
            (
                "$JS.API.CONSUMER.RESET.SHIPMENTS.billing",
                ["administer", "SHIPMENTS billing", "billing", "", DECLARED],
            ),
            (
                "$JS.API.CONSUMER.DELETE.SHIPMENTS.x1",
                [
                    "administer",
                    "SHIPMENTS x1",
                    "shipping",
                    "",
                    "no rule can grant it: only the admin of the streams makes, changes and \
                     deletes consumers",
                ],
            ),
            (
                "$JS.API.CONSUMER.CREATE.SHIPMENTS.billing.shipments.>",
                ["replay", "SHIPMENTS billing", "billing", "", DECLARED],
            ),
            (
                "$JS.API.CONSUMER.CREATE.SHIPMENTS.x1.shipments.done",
                ["replay", "SHIPMENTS x1", "shipping", DONE, ""],
            ),
            (
                "$JS.API.CONSUMER.CREATE.SHIPMENTS.x1",
                ["replay", "SHIPMENTS x1", "shipping", ALL, ""],
            ),
            ("$JS.API.CONSUMER.CREATE.SHIPMENTS", ["replay", "SHIPMENTS", "shipping", "", BARE]),
            (
                "$JS.API.CONSUMER.CREATE.CHATTER",
                ["replay", "CHATTER", "shipping", "[service.evil] replays = [\"CHATTER\"]", ""],
            ),
            (
                "$JS.API.CONSUMER.CREATE.NOTHING.x1",
                [
                    "replay",
                    "NOTHING x1",
                    "",
                    "",
                    "no rule can grant it: the policy declares no stream `NOTHING`",
                ],
            ),
            ("$JS.API.STREAM.MSG.GET.SHIPMENTS", ["replay", "SHIPMENTS", "shipping", ALL, ""]),
            (
                "$JS.API.DIRECT.GET.SHIPMENTS.shipments.done",
                ["replay", "SHIPMENTS", "shipping", DONE, ""],
            ),
            ("$JS.API.STREAM.INFO.SHIPMENTS", ["open", "SHIPMENTS", "shipping", "", OPEN]),
            (
                "$JS.API.STREAM.PURGE.SHIPMENTS",
                [
                    "purge",
                    "SHIPMENTS",
                    "shipping",
                    "",
                    "no rule can grant it: only the admin of the streams purges one",
                ],
            ),
            (
                "$JS.API.STREAM.DELETE.SHIPMENTS",
                [
                    "administer",
                    "SHIPMENTS",
                    "shipping",
                    "",
                    "no rule can grant it: `$JS.API.STREAM.DELETE.>` is never granted to any service",
                ],
            ),
            ("shipments.done", ["publish", "SHIPMENTS", "shipping", "", WRITTEN]),
            (
                "chatter.hello",
                [
                    "publish",
                    "CHATTER",
                    "shipping",
                    "[service.evil] publishes = [\"chatter.hello\"]",
                    "",
                ],
            ),
            ("$O.invoices.C.abc", ["write", "store invoices", "shipping", "", STORED]),
            ("$O.invoices.M.YQ==", ["write", "store invoices", "shipping", "", STORED]),
            (
                "$JS.API.STREAM.PURGE.OBJ_invoices",
                ["purge", "store invoices", "shipping", "", STORED],
            ),
            ("$JS.API.STREAM.INFO.OBJ_invoices", ["open", "store invoices", "shipping", STORE, ""]),
            (
                "$JS.API.CONSUMER.CREATE.OBJ_invoices",
                ["watch", "store invoices", "shipping", STORE, ""],
            ),
            (
                "$JS.API.STREAM.NAMES",
                [
                    "administer",
                    "",
                    "",
                    "",
                    "no rule can grant it: it tells of the whole account, and comes only with an \
                     object store: name the stream (nats.py, nats.go), or leave out the check of \
                     the API (nats.js)",
                ],
            ),
            (
                "$SRV.INFO.quotes",
                ["find", "quotes", "quotes", "[service.evil] discovers = [\"quotes\"]", ""],
            ),
            (
                "$SRV.INFO.quotas",
                ["find", "quotas", "", "", "no rule can grant it: no service is found as `quotas`"],
            ),
            ("$SRV.PING", ["find", "", "", "[service.evil] discovers = [\"*\"]", ""]),
        ] {
            let expected = expected.map(|text| Some(text.to_owned()).filter(|t| !t.is_empty()));
            let said = format!("Publish Violation - Subject \"{subject}\"");
            assert_eq!(brief(&said), expected, "{said}");
        }
        let said =
            "Subscription Violation - Subject \"_INBOX.$push.SHIPMENTS.billing.0123\", SID 1";
        let expected = ["subscribe", "SHIPMENTS billing", "billing", "", TAKEN];
        assert_eq!(brief(said), expected.map(|t| Some(t.to_owned()).filter(|t| !t.is_empty())));
        let said = "Subscription Violation - Subject \"$SRV.INFO.quotes\", SID 1";
        let expected = ["subscribe", "quotes", "quotes"].map(|text| Some(text.to_owned()));
        let found = brief(said);
        assert_eq!(found[..3], expected);
        let why = "quotes is found as quotes (p.toml:35:13): a name has one service; to allow it, \
                   take the name from the other service";
        assert_eq!(found[3..], [None, Some(why.to_owned())]);
    }

    fn revision() -> String {
        validate(&[SourceFile::new("p.toml", POLICY)]).unwrap().policy.revision().to_string()
    }

    #[test]
    fn names_connection_service_and_key() {
        let name = format!("evil/{KEY}/0123456789ab/0123456789abcdef");
        let v = explained(&name, "Publish Violation - Subject \"$KV.orders.k1\"");
        assert_eq!((v.service.as_deref(), v.nkey.as_deref()), (Some("evil"), Some(KEY)));
        assert_eq!((v.cid, v.host.as_deref()), (Some(7), Some("h:1")));
        assert_eq!((v.account.as_deref(), v.server.as_deref()), (Some("APP"), Some("nats-1")));
        assert_eq!((v.count, v.repeats.as_deref()), (2, Some("i-1")));
    }

    #[test]
    fn says_who_is_none_of_ours() {
        let said = "Publish Violation - Subject \"$KV.orders.k1\"";
        let v = explained("admin", said);
        assert_eq!((v.service, v.owner.as_deref()), (None, Some("orders")));
        assert_eq!(v.detail.as_deref(), Some("the user admin was not let in by solewriter"));
        let v = explained(&format!("gone/{KEY}/0123456789ab"), said);
        assert_eq!(v.detail, Some(format!("policy {} has no such service", revision())));
    }
}
