//! A policy held against what clients really do: what would be refused, for whom, and which rule
//! would be needed.
//!
//! A client is the service that [`Mapping`] and the policy say. What it may do is read off the
//! grant that `serve` would sign; which rule would be needed is what `explain` says. What repeats is
//! counted, and memory is bounded.

mod assign;
mod finding;

use std::collections::hash_map::RandomState;
use std::collections::{HashMap, VecDeque};
use std::hash::BuildHasher;
use std::sync::Arc;

pub use assign::{read_map, service};
pub use finding::{Finding, Needed, What, folded};

use super::deed::{Act, Client, Deed};
use super::mapping::Mapping;
use solewriter_core::analysis::query::advice::advise;
use solewriter_core::analysis::query::{Question, may, signed};
use solewriter_core::callout::decide::admit;
use solewriter_core::grant::{Defaults, Grant, GrantError, inbox_prefix};
use solewriter_core::policy::model::{Policy, Service};
use solewriter_types::connection_type::ConnectionType;
use solewriter_types::kv_operation::{self, Operation, Usage};
use solewriter_types::server_log::line::Kind;
use solewriter_types::subject::Pattern;
use solewriter_types::subject::tree::{NO_BOUND, PatternTree};

/// The most findings that are told apart. What is found after that is only counted.
pub const MAX_FINDINGS: usize = 10_000;
/// From so many findings on that differ in their last token only, they are one.
pub const MANY: u32 = 16;
/// The most clients and refused subjects that are remembered; they are looked up anew after that.
const MAX_REMEMBERED: usize = 65_536;
/// Of how many requests and subscriptions a service that may not answer is remembered.
const MAX_REQUESTS: usize = 256;

/// What each service of a policy gets.
pub struct Grants<'p>(Vec<(&'p Service, Grant)>);

impl<'p> Grants<'p> {
    /// Compiles them, as `serve` does when the services connect.
    ///
    /// # Errors
    /// The service that `serve` would refuse, and why.
    pub fn of(policy: &'p Policy, defaults: &Defaults) -> Result<Self, (&'p Service, GrantError)> {
        let grant = |service: &'p Service| match Grant::of(service, defaults) {
            Ok(grant) => Ok((service, grant)),
            Err(error) => Err((service, error)),
        };
        policy.services().iter().map(|service| grant(service)).collect::<Result<_, _>>().map(Self)
    }
}

/// One service, and what it may do.
struct Bound<'g> {
    service: &'g Service,
    grant: &'g Grant,
    publish: Side<'g>,
    subscribe: Side<'g>,
    /// Whether it may answer.
    answers: bool,
    /// Of a service that may not answer: requests that it was sent, as reply and subject.
    requests: VecDeque<(String, String)>,
    /// And what it subscribed to.
    subscriptions: VecDeque<Pattern>,
}

/// The lists of one side that would be signed.
struct Side<'g> {
    allow: PatternTree<'g>,
    deny: PatternTree<'g>,
    denies: bool,
}

impl<'g> Side<'g> {
    fn of(allow: &'g [String], deny: &'g [String]) -> Self {
        let tree = |list: &'g [String]| {
            let mut tree = PatternTree::new();
            for (entry, text) in list.iter().enumerate() {
                tree.insert_text(text, entry, 0);
            }
            tree
        };
        Self { allow: tree(allow), deny: tree(deny), denies: !deny.is_empty() }
    }

    /// Whether nats-server takes a subject without wildcards.
    fn takes(&self, subject: &str) -> bool {
        let holds = |tree: &PatternTree<'_>| {
            tree.cover(subject, None, &mut { NO_BOUND }).is_ok_and(|found| found.is_some())
        };
        holds(&self.allow) && !(self.denies && holds(&self.deny))
    }
}

/// What a client is.
#[derive(Clone)]
enum Who {
    /// The service of that index.
    Service(usize),
    /// One that would not be let in; the finding that says so.
    Barred(Option<usize>),
    /// None of the policy's.
    Stranger(Arc<str>),
}

/// Holds a policy against deeds.
pub struct Rehearsal<'g> {
    policy: &'g Policy,
    map: Mapping,
    services: Vec<Bound<'g>>,
    by_name: HashMap<&'g str, usize>,
    clients: HashMap<Client, Who>,
    findings: Vec<Finding>,
    by_reason: HashMap<String, usize>,
    /// Refused subjects, by who used them and how.
    seen: HashMap<u64, Option<usize>>,
    hasher: RandomState,
    /// How many findings there are that differ in their last token only.
    families: HashMap<String, u32>,
    beyond: u64,
    refused: u64,
}

impl<'g> Rehearsal<'g> {
    /// Nothing rehearsed yet.
    #[must_use]
    pub fn new(policy: &'g Policy, grants: &'g Grants<'g>, map: Mapping) -> Self {
        let bound = |(service, grant): &'g (&'g Service, Grant)| {
            let (publish, subscribe) = signed(grant);
            let publish = Side::of(&publish.allow, &publish.deny);
            Bound {
                service,
                grant,
                answers: publish.takes("_INBOX.a.b"),
                publish,
                subscribe: Side::of(&subscribe.allow, &subscribe.deny),
                requests: VecDeque::new(),
                subscriptions: VecDeque::new(),
            }
        };
        let named = |(at, (service, _)): (usize, &'g (&'g Service, Grant))| (&*service.name, at);
        Self {
            policy,
            map,
            services: grants.0.iter().map(bound).collect(),
            by_name: grants.0.iter().enumerate().map(named).collect(),
            clients: HashMap::new(),
            findings: Vec::new(),
            by_reason: HashMap::new(),
            seen: HashMap::new(),
            hasher: RandomState::new(),
            families: HashMap::new(),
            beyond: 0,
            refused: 0,
        }
    }

    /// How many deeds would have been refused.
    #[must_use]
    pub fn refused(&self) -> u64 {
        self.refused
    }

    /// How many of them are in no finding, because there are [`MAX_FINDINGS`] already.
    #[must_use]
    pub fn beyond(&self) -> u64 {
        self.beyond
    }

    /// What was found, put together and sorted.
    #[must_use]
    pub fn findings(&self) -> Vec<Finding> {
        folded(self.findings.clone())
    }

    /// Takes what a client did. Gives what is found for the first time.
    pub fn take(&mut self, deed: &Deed<'_>) -> Option<&Finding> {
        let before = self.findings.len();
        let found = self.judge(deed)?;
        self.refused += 1;
        let Some(found) = found else {
            self.beyond += 1;
            return None;
        };
        let finding = self.findings.get_mut(found)?;
        finding.again(deed.at);
        (found >= before).then_some(&*finding)
    }

    /// The finding that a deed belongs to; the outer `None` is one that is allowed, the inner one is
    /// beyond what is told apart.
    #[allow(clippy::option_option)]
    fn judge(&mut self, deed: &Deed<'_>) -> Option<Option<usize>> {
        let who = match self.clients.get(deed.by) {
            Some(who) => who.clone(),
            None => self.meet(deed.by),
        };
        match who {
            Who::Service(at) => self.of_service(at, deed),
            Who::Barred(finding) => Some(finding),
            Who::Stranger(who) => match deed.act {
                Act::Receive { .. } => None,
                Act::Publish { subject, .. } | Act::Subscribe { subject, .. } => {
                    let number = self.hasher.hash_one((&who, side(&deed.act), subject));
                    Some(self.remembered(number, |this| this.of_stranger(&who, deed)))
                }
            },
        }
    }

    /// Finds out who a client is.
    fn meet(&mut self, client: &Client) -> Who {
        if self.clients.len() >= MAX_REMEMBERED {
            self.clients.clear();
        }
        let service = service(self.policy, &self.map, client);
        let found = service.and_then(|s| Some((s, *self.by_name.get(&*s.name)?)));
        let who = match found {
            Some((service, at)) => match bar(service, client) {
                Some(why) => Who::Barred(self.find(
                    Finding { what: What::Connect, ..blank(Some(service), client) },
                    &why,
                    vec![why.clone()],
                )),
                None => Who::Service(at),
            },
            None => Who::Stranger(client.to_string().into()),
        };
        self.clients.insert(client.clone(), who.clone());
        who
    }

    #[allow(clippy::option_option)]
    fn of_service(&mut self, at: usize, deed: &Deed<'_>) -> Option<Option<usize>> {
        let bound = self.services.get_mut(at)?;
        let (subject, allowed) = match deed.act {
            Act::Receive { subject, reply } => {
                bound.asked(subject, reply);
                return None;
            }
            Act::Publish { subject, .. } => (subject, bound.may_publish(subject)),
            Act::Subscribe { subject, .. } => (subject, bound.may_subscribe(subject)),
        };
        if allowed {
            return None;
        }
        // An answer is of whatever was asked, and every inbox is another.
        let answers = match deed.act {
            Act::Publish { subject, .. } if kv_operation::is_inbox(subject) => {
                bound.answered(subject)
            }
            _ => None,
        };
        let key = answers.as_ref().map_or(subject, Pattern::as_str);
        let way = (side(&deed.act), answers.is_some(), is_call(&deed.act));
        let number = self.hasher.hash_one((at, way, key));
        Some(self.remembered(number, |this| this.refusal(at, deed, answers.as_ref())))
    }

    /// What was found for the same before, or else what is found now.
    fn remembered(
        &mut self,
        number: u64,
        find: impl FnOnce(&mut Self) -> Option<usize>,
    ) -> Option<usize> {
        if let Some(found) = self.seen.get(&number) {
            return *found;
        }
        let found = find(self);
        if self.seen.len() >= MAX_REMEMBERED {
            self.seen.clear();
        }
        self.seen.insert(number, found);
        found
    }

    fn refusal(&mut self, at: usize, deed: &Deed<'_>, answers: Option<&Pattern>) -> Option<usize> {
        let service = self.services.get(at)?.service;
        let (usage, mut finding) = described(Some(service), deed);
        if finding.what == What::Subscribe && finding.subject.starts_with("_INBOX") {
            finding.what = What::Inbox;
            "use an inbox".clone_into(&mut finding.meaning);
            let is_own = finding.is_own_inbox();
            let advice = if is_own {
                "no rule of it needs an inbox".to_owned()
            } else {
                let prefix = inbox_prefix(&service.name);
                format!("set the inbox prefix of this client to `{prefix}`")
            };
            let reason = format!("inbox {is_own} {}", finding.client);
            return self.find(finding, &reason, vec![advice]);
        }
        if let Some(asked) = answers {
            finding.meaning = format!("answer requests to {asked}");
            finding.rule = Some(Needed { key: "answers", value: asked.to_string() });
            return self.find(finding, "", Vec::new());
        }
        let Some(question) = question(deed, &usage) else {
            let advice = vec!["no rule can grant it: it is not a subject".to_owned()];
            return self.find(finding, "not a subject", advice);
        };
        let advice = advise(self.policy, service, &question);
        let mut sentences = Vec::new();
        if let Some(never) = &advice.never {
            sentences.push(format!("no rule can grant it: {never}"));
        } else if advice.add.is_none() {
            let reach = solewriter_core::analysis::query::Reach::Part;
            sentences = advice.sentences(reach);
        }
        if let Some(entry) = &advice.add {
            // Who wants an answer calls, unless it is a stream that answers.
            let kept = !question.kept(self.policy).is_empty();
            let calls = entry.key == "publishes" && is_call(&deed.act) && !kept;
            let key = if calls { "calls" } else { entry.key };
            finding.rule = Some(Needed { key, value: entry.value.clone() });
        }
        let reason = format!("{} {}", finding.what as u8, shape(&usage, &finding));
        self.find(finding, &(reason + &sentences.join(" ")), sentences)
    }

    fn of_stranger(&mut self, who: &str, deed: &Deed<'_>) -> Option<usize> {
        let (usage, finding) = described(None, deed);
        let reason = format!("{who}\n{} {}", finding.what as u8, shape(&usage, &finding));
        let advice = vec!["no service: no client is let in that is none".to_owned()];
        self.find(finding, &reason, advice)
    }

    /// The finding with that rule or, without one, for that reason.
    fn find(&mut self, mut finding: Finding, reason: &str, advice: Vec<String>) -> Option<usize> {
        let service = finding.service.clone().unwrap_or_default();
        if let Some(rule) = &finding.rule
            && let Some(wider) = rule.widened()
        {
            let family = format!("{service}\n{wider}");
            let room = self.families.len() < MAX_REMEMBERED || self.families.contains_key(&family);
            let known = self.by_reason.contains_key(&format!("{service}\n{rule}"));
            if !known && room {
                let members = self.families.entry(family).or_default();
                *members += 1;
                if *members > MANY {
                    finding.rule = Some(wider);
                }
            }
        }
        let key = match &finding.rule {
            Some(rule) => format!("{service}\n{rule}"),
            None => format!("{service}\n{reason}"),
        };
        if let Some(found) = self.by_reason.get(&key) {
            return Some(*found);
        }
        if self.findings.len() >= MAX_FINDINGS {
            return None;
        }
        finding.advice = advice;
        self.findings.push(finding);
        self.by_reason.insert(key, self.findings.len() - 1);
        Some(self.findings.len() - 1)
    }
}

impl Bound<'_> {
    fn may_publish(&self, subject: &str) -> bool {
        if is_literal(subject) {
            return self.publish.takes(subject);
        }
        let pattern = Pattern::parse(subject).ok();
        pattern.is_some_and(|p| may(self.grant, &Question::Publish(p)).accepted)
    }

    fn may_subscribe(&mut self, subject: &str) -> bool {
        let pattern = Pattern::parse(subject).ok();
        if !self.answers
            && let Some(pattern) = &pattern
            && pattern.first_token() != "_INBOX"
            && !self.subscriptions.contains(pattern)
        {
            bounded(&mut self.subscriptions, pattern.clone());
        }
        if is_literal(subject) {
            return self.subscribe.takes(subject);
        }
        pattern.is_some_and(|p| may(self.grant, &Question::Subscribe(p)).is_yes())
    }

    /// A message came; with a reply subject, that was a request.
    fn asked(&mut self, subject: &str, reply: Option<&str>) {
        if let Some(reply) = reply.filter(|reply| kv_operation::is_inbox(reply))
            && !self.answers
        {
            bounded(&mut self.requests, (reply.to_owned(), subject.to_owned()));
        }
    }

    /// What an answer to that reply subject answers: the subscription that the request came by.
    fn answered(&self, reply: &str) -> Option<Pattern> {
        let (_, subject) = self.requests.iter().rev().find(|(sent, _)| sent == reply)?;
        let by = self.subscriptions.iter().find(|pattern| pattern.matches_wire(subject));
        by.cloned().or_else(|| Pattern::parse(subject).ok())
    }
}

fn bounded<T>(queue: &mut VecDeque<T>, next: T) {
    if queue.len() >= MAX_REQUESTS {
        queue.pop_front();
    }
    queue.push_back(next);
}

/// Why a service would not be let in as that client.
fn bar(service: &Service, client: &Client) -> Option<String> {
    let way = match client.kind {
        Kind::Cid => ConnectionType::Standard,
        Kind::Wid => ConnectionType::Websocket,
        Kind::Mid => ConnectionType::Mqtt,
        Kind::Lid => ConnectionType::Leafnode,
    };
    let address = client.address.parse().ok();
    admit(service, Some(way), address, &client.address).err().map(|denial| denial.to_string())
}

fn blank(service: Option<&Service>, client: &Client) -> Finding {
    Finding {
        service: service.map(|service| Arc::clone(&service.name)),
        client: client.to_string(),
        what: What::Publish,
        subject: String::new(),
        queue: None,
        meaning: "connect".to_owned(),
        rule: None,
        advice: Vec::new(),
        count: 0,
        first: None,
        last: None,
    }
}

/// What a deed means, and a finding about it without its reason.
fn described(service: Option<&Service>, deed: &Deed<'_>) -> (Usage, Finding) {
    let (what, act, subject, queue) = match deed.act {
        Act::Subscribe { subject, queue } => {
            (What::Subscribe, kv_operation::Act::Subscribe, subject, queue)
        }
        Act::Publish { subject, .. } | Act::Receive { subject, .. } => {
            (What::Publish, kv_operation::Act::Publish, subject, None)
        }
    };
    let usage = Usage::of(act, subject);
    let meaning = match &usage.target {
        Some(target) => format!("{} {target}", usage.operation),
        None => usage.operation.to_string(),
    };
    let finding = Finding {
        what,
        subject: subject.to_owned(),
        queue: queue.map(ToOwned::to_owned),
        meaning,
        ..blank(service, deed.by)
    };
    (usage, finding)
}

/// What is the same for what no rule grants: what it is for, or else its first tokens.
fn shape(usage: &Usage, finding: &Finding) -> String {
    if usage.target.is_some() {
        return finding.meaning.clone();
    }
    // Inboxes are all alike, and the API says what it is about in its fourth token.
    let telling = match finding.subject.split('.').next() {
        Some("_INBOX") => 1,
        Some("$JS") => 4,
        _ => 2,
    };
    let tokens: Vec<&str> = finding.subject.split('.').take(telling).collect();
    format!("{} {}", finding.meaning, tokens.join("."))
}

fn side(act: &Act<'_>) -> bool {
    matches!(act, Act::Subscribe { .. })
}

fn is_call(act: &Act<'_>) -> bool {
    matches!(act, Act::Publish { reply: Some(_), .. })
}

fn is_literal(subject: &str) -> bool {
    !subject.split('.').any(|token| token == "*" || token == ">")
}

/// What would have to be allowed.
fn question(deed: &Deed<'_>, usage: &Usage) -> Option<Question> {
    let Act::Publish { subject, .. } = deed.act else {
        let (Act::Subscribe { subject, .. } | Act::Receive { subject, .. }) = deed.act else {
            return None;
        };
        return Pattern::parse(subject).ok().map(Question::Subscribe);
    };
    let pattern = || Pattern::parse(subject).ok().map(Question::Publish);
    match usage.operation {
        Operation::Publish => pattern(),
        _ => Question::meant(usage).or_else(pattern),
    }
}

#[cfg(test)]
mod tests;
