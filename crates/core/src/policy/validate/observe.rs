//! What a service could do before it had a policy, as rules: `enforce = "observe"`.
//!
//! Permissions of nats-server are read in the terms of the policy, so that the same subjects are
//! never granted as ever: declared buckets, streams, consumers and object stores are read and
//! written as a policy lets services do that, and plain subjects stay what they are. What another
//! service has by a rule is taken out.

use std::cell::Cell;
use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::sync::atomic::AtomicUsize;

use super::draft::Draft;
use super::settings::{Place, one_more, shown};
use super::store;
use super::stream::{self, Declaration};
use super::usage::check_stars;
use crate::diagnostics::{Collector, Problem, Span, Spanned};
use crate::grant::reaches_audit;
use crate::policy::document::BeforeEntry;
use crate::policy::model::{
    Access, Bucket, Consumed, ConsumerName, Location, Replayed, Retention, Rule, STORE_PREFIX,
    StreamName, Terms, Way, exclusive,
};
use solewriter_types::connection_type::ConnectionType;
use solewriter_types::keyspace::Keyspace;
use solewriter_types::kv_operation::{API, store_stream};
use solewriter_types::subject::{Pattern, SubjectError};

/// The longest search for what all permissions reach, in pairs of subjects: about a second.
const MAX_STEPS: usize = 20_000_000;

/// What is declared, and what may still be made of it.
pub struct Declared<'d> {
    pub buckets: &'d [Bucket],
    pub streams: &'d [Declaration],
    pub stores: &'d [store::Declaration],
    /// Which service, by its index, writes into which stream by a rule.
    pub writers: &'d BTreeSet<(usize, StreamName)>,
    /// How many rules may still be made.
    pub left: &'d AtomicUsize,
    pub problems: &'d Collector,
}

/// Adds to each observed service the rules of what it could do before.
pub fn widen(drafts: &mut [Draft], declared: &Declared<'_>) {
    if !drafts.iter().any(|draft| draft.before.is_some()) {
        return;
    }
    let steps = Cell::new(MAX_STEPS);
    let known = Known::of(drafts, declared);
    let mut widened = Vec::new();
    for (index, draft) in drafts.iter().enumerate() {
        let Some(before) = &draft.before else { continue };
        let mut of = Observed {
            index,
            draft,
            before: Before::parse(before, &draft.service.name, declared.problems),
            known: &known,
            declared,
            steps: &steps,
            had: draft.service.rules.iter().map(|rule| rule.access.clone()).collect(),
            rules: Vec::new(),
            publish: BTreeMap::new(),
            subscribe: BTreeMap::new(),
        };
        of.all();
        if steps.get() == 0 {
            declared.problems.push(
                Problem::error(
                    "too-entangled",
                    "what services could do before takes too long to compare",
                )
                .at(&before.span, "")
                .help("observe fewer services at once, or write fewer wildcards"),
            );
            return;
        }
        of.check_own();
        let Observed { rules, publish, subscribe, .. } = of;
        widened.push((index, rules, publish, subscribe));
    }
    for (index, rules, publish, subscribe) in widened {
        let Some(draft) = drafts.get_mut(index) else { continue };
        for (access, span) in rules {
            let terms = Terms { observed: true, ..Terms::default() };
            draft.service.rules.push(Rule::new(access, Location::from(&span)).on(terms));
            draft.places.push(Place { span, everything: true });
        }
        draft.service.excluded.publish = publish.into_keys().collect();
        draft.service.excluded.subscribe = subscribe.into_keys().collect();
        check_stars(draft, &mut { MAX_STEPS }, declared.problems);
    }
    tell(drafts, declared.problems);
}

/// Says once who is observed: it is meant for a while.
fn tell(drafts: &[Draft], problems: &Collector) {
    const SHOWN: usize = 10;
    let observed = || drafts.iter().filter_map(|draft| Some((draft, draft.before.as_ref()?)));
    let Some((_, first)) = observed().next() else { return };
    let names: Vec<&str> = observed().map(|(draft, _)| &*draft.service.name).collect();
    let list = names.iter().take(SHOWN).copied().collect::<Vec<_>>().join(", ");
    let more = match names.len().saturating_sub(SHOWN) {
        0 => String::new(),
        more => format!(" and {more} more"),
    };
    problems.push(
        Problem::note("observed", format!("observed: {list}{more} may do what they could before"))
            .at(&first.span, "and only what others own is taken out")
            .help(
                "hold their rules against what they do (`solewriter rehearse`), then take \
                 `enforce` out",
            ),
    );
}

/// Permissions, with the place of each.
struct Before {
    publish: Vec<(Pattern, Span)>,
    deny_publish: Vec<(Pattern, Span)>,
    subscribe: Vec<(Pattern, Span)>,
    deny_subscribe: Vec<(Pattern, Span)>,
    /// Whether it could answer requests.
    answers: bool,
    /// Its table.
    span: Span,
}

impl Before {
    fn parse(entry: &BeforeEntry, name: &str, problems: &Collector) -> Self {
        let list = |entries: &[Spanned<String>]| {
            entries.iter().filter_map(|entry| pattern(entry, problems)).collect::<Vec<_>>()
        };
        let (publish, deny_publish) = (list(&entry.publish), list(&entry.deny_publish));
        let (subscribe, deny_subscribe) = (list(&entry.subscribe), list(&entry.deny_subscribe));
        let empty = |key: &str, allowed: &[Spanned<String>], denied: &[Spanned<String>]| {
            let Some(first) = denied.first().filter(|_| allowed.is_empty()) else { return };
            problems.push(
                Problem::error(
                    "denied-nothing",
                    format!("`{name}` could not {key} at all, so there is nothing to deny"),
                )
                .at(&first.span, "")
                .help(format!("for all but that, write `{key} = [\">\"]` beside it")),
            );
        };
        empty("publish", &entry.publish, &entry.deny_publish);
        empty("subscribe", &entry.subscribe, &entry.deny_subscribe);
        let inbox = publish.iter().any(|(allowed, _)| allowed.as_str() == ">")
            || publish.iter().any(|(allowed, _)| allowed.as_str() == "_INBOX.>");
        let answers = inbox || entry.allow_responses.as_ref().is_some_and(|said| said.value);
        Self { publish, deny_publish, subscribe, deny_subscribe, answers, span: entry.span.clone() }
    }
}

fn pattern(entry: &Spanned<String>, problems: &Collector) -> Option<(Pattern, Span)> {
    match Pattern::parse(&entry.value) {
        Ok(pattern) => Some((pattern, entry.span.clone())),
        Err(error) => {
            let help = match error {
                SubjectError::BadCharacter(' ') => {
                    "a permission for a queue group cannot be kept: leave it out, and give the \
                     service `subscribes` or `answers`"
                }
                _ => "write a subject as nats-server's permissions have it, such as \"orders.>\"",
            };
            let message = format!("`{}` is not a subject: {error}", shown(&entry.value));
            problems.push(Problem::error("bad-subject", message).at(&entry.span, "").help(help));
            None
        }
    }
}

/// What rules and declarations say of all services.
struct Known {
    /// The first token of each plain subject that is known, and whether it is a subject itself.
    trees: BTreeMap<String, bool>,
    /// What services have for themselves, by [`tree`].
    exclusive: HashMap<String, Vec<(usize, Pattern)>>,
    /// Who owns of a bucket or an object store, which stands there with its prefix.
    owners: HashMap<String, BTreeSet<usize>>,
    /// Who consumes what, by rules.
    consumers: HashMap<ConsumerName, BTreeSet<usize>>,
    /// Who consumes anything of a stream, by rules.
    takers: HashMap<StreamName, BTreeSet<usize>>,
    /// Who writes into a stream, by rules, where it is not safe for several writers.
    soft_writers: HashMap<StreamName, BTreeSet<usize>>,
}

/// Where to look for what a subject has in common with others: its first token, and for keys and
/// objects the bucket or store, too.
fn tree(pattern: &Pattern) -> String {
    let mut tokens = pattern.as_str().split('.');
    let first = tokens.next().unwrap_or_default();
    match tokens.next() {
        Some(second) if matches!(first, "$KV" | "$O") => format!("{first}.{second}"),
        _ => first.to_owned(),
    }
}

/// Whether a subject is neither JetStream's, nor the server's, nor an inbox, nor the audit's.
fn is_plain(pattern: &Pattern) -> bool {
    !pattern.starts_with_wildcard()
        && !pattern.first_token().starts_with(['$', '_'])
        && !reaches_audit(pattern)
}

impl Known {
    fn of(drafts: &[Draft], declared: &Declared<'_>) -> Self {
        let mut trees = BTreeMap::new();
        let mut add = |pattern: &Pattern| {
            let first = pattern.first_token();
            let whole = Pattern::parse(&format!("{first}.>"));
            if is_plain(pattern) && whole.is_ok_and(|whole| !reaches_audit(&whole)) {
                let alone = trees.entry(first.to_owned()).or_insert(false);
                *alone |= pattern.as_str() == first;
            }
        };
        let mut known = Self {
            trees: BTreeMap::new(),
            exclusive: HashMap::new(),
            owners: HashMap::new(),
            consumers: HashMap::new(),
            takers: HashMap::new(),
            soft_writers: HashMap::new(),
        };
        for declared in declared.streams {
            declared.stream.subjects.iter().for_each(&mut add);
            if !stream::is_hardened(declared) {
                known.soft_writers.insert(declared.stream.name.clone(), BTreeSet::new());
            }
        }
        for (writer, stream) in declared.writers {
            if let Some(writers) = known.soft_writers.get_mut(stream) {
                writers.insert(*writer);
            }
        }
        let streams = || declared.streams.iter().map(|declared| &declared.stream);
        for (index, draft) in drafts.iter().enumerate() {
            for own in exclusive(&draft.service, &streams()) {
                known.exclusive.entry(tree(&own)).or_default().push((index, own));
            }
            for rule in &draft.service.rules {
                match &rule.access {
                    Access::Publishes(p)
                    | Access::Subscribes(p)
                    | Access::Answers(p)
                    | Access::Calls(p) => add(p),
                    Access::Owns(keyspace) => {
                        let owners = known.owners.entry(keyspace.bucket().to_string());
                        owners.or_default().insert(index);
                    }
                    Access::OwnsStore(store) => {
                        let owners = known.owners.entry(format!("{STORE_PREFIX}{store}"));
                        owners.or_default().insert(index);
                    }
                    Access::Consumes(Consumed { name, .. }) => {
                        known.consumers.entry(name.clone()).or_default().insert(index);
                        known.takers.entry(name.stream().clone()).or_default().insert(index);
                    }
                    _ => {}
                }
            }
            let Some(before) = &draft.before else { continue };
            let entries = before.publish.iter().chain(&before.subscribe);
            entries.filter_map(|entry| Pattern::parse(&entry.value).ok()).for_each(|p| add(&p));
        }
        known.trees = trees;
        known
    }
}

/// Whether somebody is there beside that service.
fn beside(services: Option<&BTreeSet<usize>>, index: usize) -> bool {
    services.is_some_and(|all| all.iter().any(|other| *other != index))
}

/// One service, while its rules are made.
struct Observed<'o> {
    index: usize,
    draft: &'o Draft,
    before: Before,
    known: &'o Known,
    declared: &'o Declared<'o>,
    steps: &'o Cell<usize>,
    /// What it has already.
    had: HashSet<Access>,
    rules: Vec<(Access, Span)>,
    /// What is taken out of these: whether by its own permissions, and where.
    publish: BTreeMap<Pattern, Option<Span>>,
    subscribe: BTreeMap<Pattern, Option<Span>>,
}

impl Observed<'_> {
    fn all(&mut self) {
        let publish = std::mem::take(&mut self.before.publish);
        for (allowed, span) in &publish {
            let made = self.rules.len();
            self.buckets(allowed, span);
            self.stores(allowed, span);
            self.streams(allowed, span);
            for subjects in self.plain(allowed) {
                self.write(Access::Publishes(subjects.clone()), &subjects, span);
            }
            if self.reach(allowed, "$SRV.PING").is_some() {
                self.add(Access::DiscoversAll, span);
            }
            self.tell_lost(allowed, span, self.rules.len() > made);
        }
        let subscribe = std::mem::take(&mut self.before.subscribe);
        for (allowed, span) in &subscribe {
            let made = self.rules.len();
            for bucket in self.declared.buckets {
                // Puts are heard by who may subscribe to the keys.
                let reach = self.reach(allowed, &format!("$KV.{}.>", bucket.name));
                if let Some(keyspace) = reach.and_then(|keys| keyspace(&keys)) {
                    self.add(Access::Reads(keyspace), span);
                }
            }
            for subjects in self.plain(allowed) {
                self.listen(&subjects, span);
            }
            self.tell_lost(allowed, span, self.rules.len() > made);
        }
    }

    /// An entry that names something of its own, of which nothing is left.
    fn tell_lost(&self, allowed: &Pattern, span: &Span, made: bool) {
        let first = allowed.first_token();
        let apart = allowed.starts_with_wildcard() || first.starts_with('_');
        let known = matches!(first, "$JS" | "$SRV" | "$SYS" | "$NRG" | "$MQTT");
        // What others own is meant to be taken out, and entries may repeat each other.
        let reached = self.known.exclusive.contains_key(&tree(allowed));
        let repeated = self.rules.iter().any(|(access, _)| {
            access.written().is_some_and(|written| allowed.is_subset_of(&written))
        });
        if made || apart || known || reached || repeated || self.had_all(allowed) {
            return;
        }
        let help = match first {
            "$KV" => "declare the bucket; keys that end in `*` are written with `>`",
            "$O" => "declare the object store",
            _ => "leave it out: no service is granted that",
        };
        self.declared.problems.push(
            Problem::warning("not-kept", format!("nothing of `{allowed}` is kept"))
                .at(span, "the service could use it before")
                .help(help),
        );
    }

    /// Whether the service's rules say all of it.
    fn had_all(&self, allowed: &Pattern) -> bool {
        self.had.iter().any(|access| match access {
            Access::Subscribes(own) | Access::Answers(own) => allowed.is_subset_of(own),
            other => other.written().is_some_and(|own| allowed.is_subset_of(&own)),
        })
    }

    fn step(&self) -> bool {
        self.steps.set(self.steps.get().saturating_sub(1));
        self.steps.get() > 0
    }

    /// What of these subjects an entry allows to publish, unless all of it is denied.
    fn reach(&self, allowed: &Pattern, subjects: &str) -> Option<Pattern> {
        if !self.step() {
            return None;
        }
        let reached = allowed.intersection(&Pattern::parse(subjects).ok()?)?;
        let denied = |(denied, _): &(Pattern, Span)| reached.is_subset_of(denied);
        (!self.before.deny_publish.iter().any(denied)).then_some(reached)
    }

    fn add(&mut self, access: Access, span: &Span) {
        if self.had.contains(&access) {
            return;
        }
        if !one_more(self.declared.left) {
            return;
        }
        self.had.insert(access.clone());
        self.rules.push((access, span.clone()));
    }

    /// Plain subjects that an entry allows. `>` stands for all that are known.
    fn plain(&self, allowed: &Pattern) -> Vec<Pattern> {
        if !allowed.starts_with_wildcard() {
            return if is_plain(allowed) { vec![allowed.clone()] } else { Vec::new() };
        }
        let mut all = Vec::new();
        for (first, alone) in &self.known.trees {
            if !self.step() {
                break;
            }
            let forms = [Some(format!("{first}.>")), alone.then(|| first.clone())];
            let forms = forms.into_iter().flatten().filter_map(|form| Pattern::parse(&form).ok());
            all.extend(forms.filter_map(|form| form.intersection(allowed)));
        }
        all
    }

    /// Adds a rule by which these subjects are written, without what others have for themselves
    /// and what was denied.
    fn write(&mut self, access: Access, subjects: &Pattern, span: &Span) {
        let mut out: Vec<(Pattern, Option<Span>)> = Vec::new();
        let others = self.known.exclusive.get(&tree(subjects)).map_or(&[][..], Vec::as_slice);
        for (owner, own) in others {
            if !self.step() {
                return;
            }
            if *owner != self.index
                && let Some(common) = own.intersection(subjects)
            {
                out.push((common, None));
            }
        }
        for kept in self.kept_from(subjects) {
            out.extend(kept.intersection(subjects).map(|common| (common, None)));
        }
        for (denied, at) in &self.before.deny_publish {
            out.extend(denied.intersection(subjects).map(|common| (common, Some(at.clone()))));
        }
        if out.iter().any(|(out, _)| subjects.is_subset_of(out)) {
            return;
        }
        self.add(access, span);
        for (pattern, at) in out {
            self.publish.entry(pattern).or_insert(at);
        }
    }

    /// The subjects of streams that are another's to write, and not safe for several writers.
    fn kept_from(&self, subjects: &Pattern) -> Vec<Pattern> {
        let mut kept = Vec::new();
        for declared in self.declared.streams {
            let stream = &declared.stream;
            let reached = stream.subjects.iter().any(|kept| kept.overlaps(subjects));
            if reached
                && self.step()
                && beside(self.known.soft_writers.get(&stream.name), self.index)
            {
                kept.extend(stream.subjects.iter().cloned());
            }
        }
        kept
    }

    fn listen(&mut self, subjects: &Pattern, span: &Span) {
        let denied: Vec<(Pattern, Span)> = self
            .before
            .deny_subscribe
            .iter()
            .filter_map(|(denied, at)| Some((denied.intersection(subjects)?, at.clone())))
            .collect();
        if denied.iter().any(|(denied, _)| subjects.is_subset_of(denied)) {
            return;
        }
        // nats-server takes `a.>` from a client that may subscribe to `a.*`.
        let below = subjects.as_str().strip_suffix(".*").map(|above| format!("{above}.>"));
        let subjects =
            below.and_then(|below| Pattern::parse(&below).ok()).unwrap_or(subjects.clone());
        let answers = self.before.answers;
        self.add(
            if answers { Access::Answers(subjects) } else { Access::Subscribes(subjects) },
            span,
        );
        for (pattern, at) in denied {
            self.subscribe.entry(pattern).or_insert(Some(at));
        }
    }

    fn buckets(&mut self, allowed: &Pattern, span: &Span) {
        for bucket in self.declared.buckets {
            let name = bucket.name.as_str();
            // A copy has no writer of its own; where a part has an owner, the rest is another's to
            // write only if the bucket is made for that.
            let apart = bucket.part_owners || !beside(self.known.owners.get(name), self.index);
            if let Some(keys) = self.reach(allowed, &format!("$KV.{name}.>"))
                && let Some(keyspace) =
                    keyspace(&keys).filter(|_| bucket.copy_of.is_none() && apart)
            {
                self.write(Access::Writes(keyspace), &keys, span);
            }
            let stream = format!("KV_{name}");
            if self.reads_all(allowed, &stream) {
                self.add(Access::Reads(Keyspace::whole(bucket.name.clone())), span);
                continue;
            }
            for form in ["DIRECT.GET", "CONSUMER.CREATE"] {
                let between = if form == "CONSUMER.CREATE" { ".*" } else { "" };
                let forms = format!("{API}{form}.{stream}{between}.$KV.{name}.>");
                let Some(reached) = self.reach(allowed, &forms) else { continue };
                let keys = reached.as_str().split_once(".$KV.").map(|(_, keys)| keys);
                let keys = keys.and_then(|keys| Pattern::parse(&format!("$KV.{keys}")).ok());
                if let Some(keyspace) = keys.and_then(|keys| keyspace(&keys)) {
                    self.add(Access::Reads(keyspace), span);
                }
            }
        }
    }

    /// Whether an entry lets a stream be read by requests whose body chooses the subjects.
    fn reads_all(&self, allowed: &Pattern, stream: &str) -> bool {
        [
            format!("{API}STREAM.MSG.GET.{stream}"),
            format!("{API}DIRECT.GET.{stream}"),
            format!("{API}CONSUMER.CREATE.{stream}"),
            format!("{API}CONSUMER.CREATE.{stream}.*"),
            format!("{API}CONSUMER.CREATE.{stream}.*.>"),
            format!("{API}CONSUMER.DURABLE.CREATE.{stream}.*"),
        ]
        .iter()
        .any(|form| match self.reach(allowed, form) {
            // With keys in the subject, it is a part.
            Some(reached) if form.ends_with(".>") => reached.as_str().ends_with(".*.>"),
            other => other.is_some(),
        })
    }

    fn stores(&mut self, allowed: &Pattern, span: &Span) {
        for declared in self.declared.stores {
            let store = &declared.store.name;
            let owned =
                beside(self.known.owners.get(&format!("{STORE_PREFIX}{store}")), self.index);
            let objects = format!("$O.{store}.>");
            if let Some(reached) = self.reach(allowed, &objects).filter(|_| !owned)
                // A part of an object store is nothing that a client can use.
                && reached.as_str() == objects
            {
                self.write(Access::WritesStore(store.clone()), &reached, span);
            }
            if self.reads_all(allowed, &store_stream(store.as_str())) {
                self.add(Access::ReadsStore(store.clone()), span);
            }
        }
    }

    fn streams(&mut self, allowed: &Pattern, span: &Span) {
        for declared in self.declared.streams {
            let stream = &declared.stream.name;
            // Who reads a work queue takes what it reads: that is others' where one consumes it.
            let taken = declared.stream.retention == Retention::WorkQueue
                && beside(self.known.takers.get(stream), self.index);
            if !taken && self.reads_all(allowed, stream.as_str()) {
                let durables = declared.consumers().map(|(consumer, _)| consumer.name.clone());
                let replayed = Replayed::parse(stream.as_str(), |_| durables.collect());
                if let Ok(replayed) = replayed {
                    self.add(Access::Replays(replayed), span);
                }
            }
            for (consumer, _) in declared.consumers() {
                let Ok(name) = ConsumerName::of(stream.clone(), consumer.name.clone()) else {
                    continue;
                };
                let way = consumer.way();
                let next = format!("{API}CONSUMER.MSG.NEXT.{stream}.{}", consumer.name);
                let others = beside(self.known.consumers.get(&name), self.index);
                let free = !others || consumer.shared.is_some();
                if free && way == Way::Pulls && self.reach(allowed, &next).is_some() {
                    self.add(Access::Consumes(Consumed { name, way }), span);
                }
            }
        }
    }

    /// What was denied is denied to the connection, whatever the service's own rules say. Where it
    /// is a part of what a rule grants, that part comes when the service is observed no more.
    fn check_own(&self) {
        let name = &self.draft.service.name;
        if self.draft.service.connections.contains(&ConnectionType::Leafnode) {
            self.declared.problems.push(
                Problem::error(
                    "observed-leafnode",
                    format!("`{name}` may connect as LEAFNODE and is observed"),
                )
                .at(&self.before.span, "")
                .help("give a leafnode rules of its own; nats-server keeps no permission of a client's on its link"),
            );
        }
        for (rule, place) in self.draft.rules() {
            let (denied, own) = match &rule.access {
                Access::Subscribes(own) | Access::Answers(own) => {
                    (&self.subscribe, Some(own.clone()))
                }
                other => (&self.publish, other.written()),
            };
            let Some(own) = own else { continue };
            let found = denied.iter().find_map(|(denied, at)| {
                Some((denied, at.as_ref().filter(|_| own.is_subset_of(denied))?))
            });
            if let Some((denied, at)) = found {
                self.declared.problems.push(
                    Problem::error(
                        "denied-and-granted",
                        format!("`{name}` {}, and `{denied}` was denied to it before", rule.access),
                    )
                    .at(&place.span, "granted here, and nats-server would deny it")
                    .also(at, "it was denied here")
                    .help("narrow what was denied, or take one of the two out"),
                );
            }
        }
    }
}

/// The keyspace of `$KV.<bucket>.<keys>`; `None` if a policy cannot say it.
fn keyspace(keys: &Pattern) -> Option<Keyspace> {
    let (bucket, keys) = keys.as_str().strip_prefix("$KV.")?.split_once('.')?;
    Keyspace::parse(&format!("{bucket}/{keys}")).ok()
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::diagnostics::SourceFile;
    use crate::grant::{AuditStreams, Defaults, Grant};
    use crate::handover::claims::{Claims, InTransit};
    use crate::policy::model::Policy;
    use crate::policy::validate::{Validated, sketch, validate};
    use nats_jwt::NatsClaims;

    fn validated(text: &str) -> Validated {
        validate(&[SourceFile::new("p.toml", text)])
            .unwrap_or_else(|problems| panic!("{:?}", problems.iter().collect::<Vec<_>>()))
    }

    /// The codes of errors and warnings.
    fn codes(text: &str) -> Vec<&'static str> {
        let found = sketch(&[SourceFile::new("p.toml", text)]).problems;
        found.iter().map(|problem| problem.code).collect()
    }

    /// Whether nats-server would take it: allowed, and not denied.
    fn may(policy: &Policy, service: &str, publish: bool, subject: &str) -> bool {
        let defaults = Defaults {
            account: "APP".into(),
            lifetime: Duration::from_secs(60),
            audit: AuditStreams::default(),
        };
        let grant = Grant::of(policy.service(service).unwrap(), &defaults).unwrap();
        let NatsClaims::User { permissions, .. } = grant.claims() else { panic!() };
        let side = if publish { &permissions.publish } else { &permissions.subscribe };
        let holds = |list: &[String]| {
            list.iter().any(|text| Pattern::parse(text).unwrap().matches_wire(subject))
        };
        holds(&side.allow) && !holds(&side.deny)
    }

    const COMPANY: &str = "
        [bucket.mine]
        [bucket.theirs]
        [bucket.nobodys]
        [bucket.copy]
        copy_of = 'theirs'
        [bucket.shared]
        part_owners = true
        rollup = false
        duplicate_window = '100ms'
        [store.files]
        [store.free]
        [stream.EVENTS]
        subjects = ['events.>']
        duplicate_window = '100ms'
        [stream.SOFT]
        subjects = ['soft.>']
        [stream.EVENTS.consumer.ship]
        [stream.EVENTS.consumer.spare]
        [stream.WORK]
        subjects = ['work.>']
        retention = 'workqueue'
        [stream.WORK.consumer.a]
        filter = ['work.a']
        [stream.IDLE]
        subjects = ['idle.>']
        retention = 'workqueue'
        [stream.IDLE.consumer.idle]
        [service.other]
        owns = ['theirs', 'shared/eu.>', 'store:files']
        publishes = ['events.other.>', 'soft.x', 'plain.other']
        answers = ['ask.other']
        consumes = ['EVENTS/ship', 'WORK/a']
        found_as = 'x'
        [service.one]
        owns = ['mine']
        enforce = 'observe'
        before.publish = ['>']
        before.subscribe = ['>']
    ";

    fn company() -> String {
        COMPANY.replace("found_as = 'x'", "found_as = ['other-api']")
    }

    #[test]
    fn what_it_could_do_it_may_do() {
        let policy = validated(&company()).policy;
        let one = |publish, subject: &str| may(&policy, "one", publish, subject);
        for subject in [
            "$KV.mine.k",
            "$KV.nobodys.k",
            "$KV.shared.us.k",
            "$O.free.M.x",
            "$JS.API.STREAM.PURGE.KV_mine",
            "$JS.API.STREAM.PURGE.KV_nobodys",
            "$JS.API.DIRECT.GET.KV_theirs.$KV.theirs.k",
            "$JS.API.CONSUMER.CREATE.KV_shared.c.$KV.shared.>",
            "$JS.API.CONSUMER.CREATE.EVENTS.own.events.>",
            "$JS.API.CONSUMER.MSG.NEXT.EVENTS.spare",
            "$JS.API.STREAM.MSG.GET.OBJ_files",
            "$JS.API.CONSUMER.MSG.NEXT.IDLE.idle",
            "work.b",
            "events.one.x",
            "plain.x",
            "ask.other",
            "$SRV.PING",
            "_INBOX.other.1",
        ] {
            assert!(one(true, subject), "{subject}");
        }
        for subject in ["events.other.x", "plain.other", "ask.other", "soft.x", "_INBOX.one.1"] {
            assert!(one(false, subject), "{subject}");
        }
    }

    #[test]
    fn what_others_own_it_never_reaches() {
        let policy = validated(&company()).policy;
        let one = |publish, subject: &str| may(&policy, "one", publish, subject);
        for subject in [
            "$KV.theirs.k",
            "$KV.copy.k",
            "$KV.shared.eu.k",
            "$JS.API.STREAM.PURGE.KV_theirs",
            "$JS.API.STREAM.PURGE.KV_shared",
            "$O.files.M.x",
            "$O.files.C.x",
            "events.other.x",
            // Not safe for several writers, so the rest is the other's too.
            "soft.x",
            "soft.y",
            "$JS.API.CONSUMER.MSG.NEXT.EVENTS.ship",
            "$JS.ACK.EVENTS.ship.1.1.1.1.0",
            "$JS.API.CONSUMER.CREATE.EVENTS.ship.events.>",
            "$JS.API.CONSUMER.DELETE.EVENTS.spare",
            // A consumer of its own would take what others' are there for.
            "$JS.API.CONSUMER.CREATE.WORK.own.work.b",
            "$JS.API.CONSUMER.MSG.NEXT.WORK.a",
            "$JS.API.STREAM.CREATE.X",
            "$JS.API.STREAM.DELETE.KV_nobodys",
            "$JS.API.STREAM.MSG.DELETE.KV_nobodys",
            "$SYS.x",
            "audit.events.x",
        ] {
            assert!(!one(true, subject), "{subject}");
        }
        for subject in ["_INBOX.other.1", "$KV.theirs.k", "$SRV.PING.other-api", "$JS.x", "$SYS.x"]
        {
            assert!(!one(false, subject), "{subject}");
        }
        // Who is not observed gets what the rules say.
        assert!(!may(&policy, "other", true, "$KV.nobodys.k"));
        assert_eq!(policy.service("one").unwrap().enforced().rules.len(), 1);
        assert!(!may(&policy.enforced(), "one", true, "$KV.nobodys.k"));
    }

    #[test]
    fn narrow_permissions_stay_narrow() {
        let before = "before.publish = ['$KV.*.one.>', 'plain.>', '$JS.API.DIRECT.GET.KV_theirs.$KV.theirs.a.>', '$KV.nobodys.x']
            before.deny_publish = ['plain.no.>', '$KV.shared.one.no']
            before.subscribe = ['news.*', 'plain.>', '$KV.theirs.b.>']
            before.deny_subscribe = ['plain.secret']";
        let text = company();
        let (rest, _) = text.split_once("before.publish").unwrap();
        let policy = validated(&format!("{rest}{before}")).policy;
        let one = |publish, subject: &str| may(&policy, "one", publish, subject);
        for (subject, expected) in [
            ("$KV.nobodys.one.k", true),
            ("$KV.nobodys.x", true),
            ("$KV.nobodys.k", false),
            ("$KV.theirs.one.k", false),
            ("$KV.shared.one.k", true),
            ("$KV.shared.one.no", false),
            ("$KV.shared.us.k", false),
            ("$JS.API.STREAM.PURGE.KV_nobodys", false),
            ("$JS.API.DIRECT.GET.KV_theirs.$KV.theirs.a.k", true),
            ("$JS.API.DIRECT.GET.KV_theirs.$KV.theirs.b.k", true),
            ("$JS.API.DIRECT.GET.KV_theirs.$KV.theirs.c.k", false),
            ("$JS.API.STREAM.MSG.GET.KV_theirs", false),
            ("plain.x", true),
            ("plain.no.x", false),
            ("events.one", false),
            ("_INBOX.other.1", false),
            ("$SRV.PING", false),
        ] {
            assert_eq!(one(true, subject), expected, "{subject}");
        }
        for (subject, expected) in
            [("news.x", true), ("plain.x", true), ("plain.secret", false), ("events.x", false)]
        {
            assert_eq!(one(false, subject), expected, "{subject}");
        }
    }

    #[test]
    fn what_is_gained_by_a_rule_is_taken_from_who_is_observed() {
        let before = validated(&company()).policy;
        let owned = company().replace("'store:files'", "'store:files', 'nobodys'");
        let now = validated(&owned).policy;
        assert!(!may(&now, "one", true, "$KV.nobodys.k"));
        let claims = Claims::default().next(&before, &now);
        let in_transit = claims.in_transit(&now);
        let said: Vec<String> = in_transit.iter().map(InTransit::what).collect();
        assert_eq!(said, ["nobodys"], "the new owner waits for who could write it");
        // A subject that is taken out of a rule which stays.
        let wider = company().replace("'events.other.>'", "'events.other.>', 'events.new'");
        let claims = Claims::default().next(&before, &validated(&wider).policy);
        let in_transit = claims.in_transit(&validated(&wider).policy);
        let said: Vec<String> = in_transit.iter().map(InTransit::what).collect();
        assert_eq!(said, ["events.new"]);
    }

    #[test]
    fn what_is_wrong_is_said() {
        let with = |service: &str| format!("[bucket.b]\n[service.s]\n{service}\n");
        let has = |service: &str, code: &str| {
            let found = codes(&with(service));
            assert!(found.contains(&code), "{service}: {found:?}");
        };
        has("enforce = 'observed'", "bad-enforce");
        has("enforce = 'observe'", "no-before");
        has("before.publish = ['>']", "before-unused");
        has("enforce = 'observe'\nbefore.publish = ['a..b']", "bad-subject");
        has("enforce = 'observe'\nbefore.subscribe = ['a workers']", "bad-subject");
        has("enforce = 'observe'\nbefore.deny_publish = ['a']", "denied-nothing");
        has("enforce = 'observe'\nbefore.publish = ['$KV.other.>']", "not-kept");
        has("enforce = 'observe'\nbefore.publish = ['>']", "observed");
        has(
            "enforce = 'observe'\nconnections = ['LEAFNODE']\nbefore.publish = ['>']",
            "observed-leafnode",
        );
        has(
            "publishes = ['a.b']\nenforce = 'observe'\nbefore.publish = ['a.>']\nbefore.deny_publish = ['a.*']",
            "denied-and-granted",
        );
        has(
            "enforce = 'observe'\nbefore.subscribe = ['a.b.*']\nsubscribes = ['a.*']",
            "star-conflict",
        );
        let quiet = codes(&with("owns = ['b']\nenforce = 'rules'"));
        assert!(!quiet.contains(&"bad-enforce"), "{quiet:?}");
    }

    #[test]
    fn a_policy_of_many_who_are_observed_is_bounded() {
        use std::fmt::Write as _;
        let mut text = String::new();
        for i in 0..250 {
            writeln!(text, "[bucket.b{i}]").unwrap();
        }
        for i in 0..250 {
            write!(
                text,
                "[service.s{i}]\nowns = ['b{i}']\nenforce = 'observe'\nbefore.publish = ['>']\nbefore.subscribe = ['>']\n"
            )
            .unwrap();
        }
        let began = std::time::Instant::now();
        let found = codes(&text);
        assert!(found.contains(&"observed") && !found.contains(&"too-entangled"), "{found:?}");
        assert!(began.elapsed() < Duration::from_secs(60));
    }
}
