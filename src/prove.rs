//! Attacks on "one keyspace, one writer", as data: what is sent, who sends it, what would show
//! that it worked, and why it does not.
//!
//! `tests/attacks` runs them all against real servers and renders them into `docs/attacks.md`;
//! `solewriter prove` runs the harmless ones against a live deployment. An attack is tried twice:
//! where it must work (its [`Control`]), so that a mistyped one does not pass for a closed one, and
//! where it must not. Both times the same lines go over the wire, and both times it is the effect
//! that is looked at: what the victim's bucket holds, what arrived where, what is still there.

#![allow(
    clippy::indexing_slicing,
    reason = "a JSON value that is not there is null; nothing but JSON is indexed in this room"
)]

pub mod attacks;
pub mod identity;
pub mod needs;
pub mod outlive;
pub mod page;
pub mod probers;
pub mod run;
pub mod target;
pub mod testbed;
pub mod verdict;

use std::time::Duration;

use semver::Version;

use solewriter_types::advisories::Advisory;
use target::{Need, Target};

/// Who attacks: a service with ordinary grants.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Who {
    /// Owns a bucket of its own, publishes its events, calls the responders; nothing of the
    /// victim's.
    Neighbour,
    /// The same, and reads the victim's whole bucket.
    Reader,
    /// The same, and reads the keys below `open` in the victim's bucket, and every `*.shown`.
    PartReader,
    /// The same, and owns the keys below `mine` in a bucket whose keys below `theirs` are the
    /// victim's.
    Sharer,
    /// A service without rules.
    Nobody,
    /// Who has no key of any service, or not the one that it claims.
    Stranger,
    /// Who has the seed of one of solewriter's own users, or of a service.
    Thief,
}

impl Who {
    /// In words, for the page.
    #[must_use]
    pub fn words(self) -> &'static str {
        match self {
            Self::Neighbour => "neighbour",
            Self::Reader => "reader",
            Self::PartReader => "part reader",
            Self::Sharer => "part owner",
            Self::Nobody => "no rules",
            Self::Stranger => "stranger",
            Self::Thief => "thief",
        }
    }
}

/// One thing that is done in an attack. In every text, `{mine}` is the attacker's bucket,
/// `{victim}` the bucket under attack, `{me}` and `{them}` the two services, `{secret}` a value
/// that the victim wrote, `{plain}` and `{deputy}` the subjects of two responders: one that owns
/// nothing, and the victim itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Step {
    /// The attacker publishes.
    Send {
        /// Subject.
        to: String,
        /// Reply subject, or empty.
        reply: String,
        /// Header lines, or empty.
        headers: String,
        /// Payload.
        body: String,
        /// How often.
        times: u32,
    },
    /// The attacker subscribes.
    Listen {
        /// Subject.
        to: String,
        /// Queue group, or empty.
        queue: String,
    },
    /// The victim writes a key of its own; whether it can is what [`Effect::Blocked`] looks at.
    VictimWrites {
        /// Header lines, or empty.
        headers: String,
        /// Where the victim has it answered, or empty: then in an inbox that nobody knows.
        reply: String,
    },
    /// Nothing for so many milliseconds: a window of the server's passes.
    Pass(u64),
    /// The admin subscribes in the account of the buckets, as a tool would.
    AdminListens(String),
    /// The admin asks JetStream for something: what follows `$JS.API.`, and the body.
    AdminAsks(String, String),
    /// A connection of its own, with such credentials.
    Knock(Offer),
    /// What the words say; it has code of its own.
    Told(&'static str),
}

/// What is offered at the door, by someone who knows the victim's public key and no seed of a
/// service.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Offer {
    /// Nothing at all.
    Nothing,
    /// A key that no service has, with its signature.
    UnknownKey,
    /// The victim's key, without a signature.
    KeyAlone,
    /// The victim's key, with a signature that the victim gave on another connection.
    Captured,
    /// The victim's key, with the signature of another key.
    ForeignSignature,
    /// The victim's key, with 64 zero bytes.
    ZeroSignature,
    /// The victim's key, with what the victim signs where no nonce is sent: nothing.
    EmptyNonce,
    /// A JWT of its own making, with a signature.
    Jwt,
    /// The victim's name, and a password.
    Password,
    /// A token.
    Token,
    /// The victim's own key and signature, with a password beside.
    PasswordBeside,
    /// The same with a JWT beside, of another key.
    JwtBeside,
    /// The same with a token beside.
    TokenBeside,
    /// The name of an admin or system user.
    AdminName,
    /// The admin's key, without a signature.
    AdminKey,
    /// The admin's key, with the signature of another key.
    AdminForeign,
    /// The admin's key, with the victim's own key and signature beside: one name for two.
    AdminBeside,
}

impl Offer {
    /// As CONNECT has it, for the page.
    #[must_use]
    pub fn words(self) -> &'static str {
        match self {
            Self::Nothing => "CONNECT {}",
            Self::UnknownKey => "CONNECT {nkey: another, sig: its own}",
            Self::KeyAlone => "CONNECT {nkey: victim's}",
            Self::Captured => "CONNECT {nkey: victim's, sig: of another nonce}",
            Self::ForeignSignature => "CONNECT {nkey: victim's, sig: another's}",
            Self::ZeroSignature => "CONNECT {nkey: victim's, sig: zeros}",
            Self::EmptyNonce => "CONNECT {nkey: victim's, sig: of no nonce}",
            Self::Jwt => "CONNECT {jwt: self-made, sig: its own}",
            Self::Password => "CONNECT {user: victim's, pass}",
            Self::Token => "CONNECT {auth_token}",
            Self::PasswordBeside => "CONNECT {nkey: victim's, sig: its own, user, pass}",
            Self::JwtBeside => "CONNECT {nkey: victim's, sig: its own, jwt: another's}",
            Self::TokenBeside => "CONNECT {nkey: victim's, sig: its own, auth_token}",
            Self::AdminName => "CONNECT {user: admin, pass: admin}",
            Self::AdminKey => "CONNECT {nkey: admin's}",
            Self::AdminForeign => "CONNECT {nkey: admin's, sig: another's}",
            Self::AdminBeside => "CONNECT {user: admin's key, nkey: victim's, sig: victim's}",
        }
    }
}

/// What shows that an attack worked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Effect {
    /// The victim's keys are not what they were: written, erased or rewritten.
    Changed,
    /// A write of the victim's is not stored.
    Blocked,
    /// The attacker is sent this text.
    Learns(&'static str),
    /// The attacker is answered, without an error.
    Answered,
    /// Something that the victim did not ask for arrives at its inbox or its subjects, and
    /// nothing in it tells that JetStream sent it.
    Delivered,
    /// The same with the header `Nats-Stream`, by which it can be told.
    Stamped,
    /// A consumer of the victim's is not what it was, or gone.
    Consumer,
    /// The victim's stream is not what it was, or gone.
    Stream,
    /// A stream of this name is there.
    Appears(&'static str),
    /// The server takes it without a complaint: what it would do shows nowhere else.
    Accepted,
    /// The server lets it in.
    Enters,
}

/// Where the same attack works, which shows that it is one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Control {
    /// Services and buckets in one account, with the very same permissions.
    OneAccount,
    /// These accounts, with these subjects granted beside: to publish, to subscribe.
    Granted(Vec<String>, Vec<String>),
    /// One account, and such grants.
    OneAccountGranted(Vec<String>, Vec<String>),
    /// These accounts and permissions; the bucket's stream has these settings.
    Bucket(serde_json::Value),
    /// These accounts; the responder may reply wherever it is asked to (`allow_responses`).
    AllowResponses,
    /// The attacker's reply subject is its own inbox: then it is answered.
    OwnInbox,
    /// The admin does the same, and may.
    Admin,
    /// With this line in the place of its own, and a grant for it: a subject that carries no
    /// filter to compare the body with.
    Instead(Step, String),
    /// These accounts: it works here too, and is told in the table as what it is.
    Here,
    /// Nowhere: no supported server does this.
    Nowhere,
    /// As the words say; only attacks that have code of their own.
    Told(&'static str),
}

/// How an attack ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Ending {
    /// It had the effect.
    Succeeded,
    /// nats-server refused the client: a permissions violation, or no connection at all.
    Refused,
    /// JetStream answered with an error.
    Rejected,
    /// It was taken, and nothing came of it.
    NoEffect,
}

impl Ending {
    /// In a word.
    #[must_use]
    pub fn word(self) -> &'static str {
        match self {
            Self::Succeeded => "succeeds",
            Self::Refused => "refused",
            Self::Rejected => "rejected",
            Self::NoEffect => "no effect",
        }
    }
}

/// How an attack ended, and what shows it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Report {
    /// How.
    pub ending: Ending,
    /// What was seen.
    pub evidence: String,
    /// How long after the last line the effect showed, where it did.
    pub took: Duration,
}

/// What must come of an attack, and why.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Expected {
    /// It fails, in this way.
    Closed {
        /// How.
        by: Ending,
        /// Why.
        why: &'static str,
    },
    /// It works: a risk that remains.
    Residual {
        /// Why it cannot be closed.
        reason: &'static str,
        /// What to do about it.
        mitigation: &'static str,
    },
    /// It works, and is meant to.
    Known {
        /// Why.
        reason: &'static str,
    },
}

/// One attack.
#[derive(Clone, Debug)]
pub struct Attack {
    /// A short name that never changes.
    pub id: &'static str,
    /// What it does, as a sentence.
    pub title: &'static str,
    /// Who does it.
    pub who: Who,
    /// How.
    pub steps: Vec<Step>,
    /// What shows that it worked.
    pub effect: Effect,
    /// What must come of it.
    pub expected: Expected,
    /// Where it works.
    pub control: Control,
    /// The first server version that has what it uses, as (major, minor).
    pub since: (u64, u64),
    /// What of the victim's it is about.
    pub target: Target,
    /// Settings of that stream, beside those that the policy declares.
    pub bucket: serde_json::Value,
    /// Whether responders answer meanwhile.
    pub responders: bool,
    /// Whether `prove` runs it.
    pub in_prove: bool,
    /// What a deployment needs for that, which not every one has.
    pub needs: &'static [Need],
    /// Whether it needs more than one server.
    pub cluster: bool,
    /// A defect of some versions that opens it.
    pub defect: Option<&'static Advisory>,
    /// Whether what it asks must be answered where the attacker asks for itself: otherwise that
    /// nothing came of it would say nothing.
    pub rehearsed: bool,
}

/// Attacks of one kind.
#[derive(Clone, Debug)]
pub struct Family {
    /// A heading.
    pub title: &'static str,
    /// What they have in common.
    pub about: &'static str,
    /// The attacks.
    pub attacks: Vec<Attack>,
}

/// The attacker publishes to `to`.
#[must_use]
pub fn send(to: &str) -> Step {
    Step::Send {
        to: to.to_owned(),
        reply: String::new(),
        headers: String::new(),
        body: String::new(),
        times: 1,
    }
}

/// The attacker asks, and waits in its own inbox.
#[must_use]
pub fn ask(to: &str) -> Step {
    send(to).reply("_INBOX.{me}.answer")
}

/// The attacker subscribes to `to`.
#[must_use]
pub fn listen(to: &str) -> Step {
    Step::Listen { to: to.to_owned(), queue: String::new() }
}

/// The victim writes a key of its own.
#[must_use]
pub fn victim_writes(headers: &str) -> Step {
    Step::VictimWrites { headers: headers.to_owned(), reply: String::new() }
}

impl Step {
    /// With a reply subject.
    #[must_use]
    pub fn reply(mut self, subject: &str) -> Self {
        if let Self::Send { reply, .. } | Self::VictimWrites { reply, .. } = &mut self {
            subject.clone_into(reply);
        }
        self
    }

    /// With header lines.
    #[must_use]
    pub fn headers(mut self, lines: &str) -> Self {
        if let Self::Send { headers, .. } = &mut self {
            lines.clone_into(headers);
        }
        self
    }

    /// With a payload.
    #[must_use]
    pub fn body(mut self, text: &str) -> Self {
        if let Self::Send { body, .. } = &mut self {
            text.clone_into(body);
        }
        self
    }

    /// So often.
    #[must_use]
    pub fn times(mut self, number: u32) -> Self {
        if let Self::Send { times, .. } = &mut self {
            *times = number;
        }
        self
    }

    /// In a queue group.
    #[must_use]
    pub fn queue(mut self, name: &str) -> Self {
        if let Self::Listen { queue, .. } = &mut self {
            name.clone_into(queue);
        }
        self
    }
}

impl Attack {
    fn new(id: &'static str, title: &'static str, who: Who, effect: Effect) -> Self {
        Self {
            id,
            title,
            who,
            steps: Vec::new(),
            effect,
            expected: Expected::Closed { by: Ending::NoEffect, why: "" },
            control: Control::OneAccount,
            since: (2, 10),
            target: Target::Bucket,
            bucket: serde_json::Value::Null,
            responders: false,
            in_prove: false,
            needs: &[],
            cluster: false,
            defect: None,
            rehearsed: false,
        }
    }

    fn step(mut self, step: Step) -> Self {
        self.steps.push(step);
        self
    }

    fn instead(mut self, step: Step) -> Self {
        self.steps = vec![step];
        self
    }

    fn first(mut self, step: Step) -> Self {
        self.steps.insert(0, step);
        self
    }

    fn closed(mut self, by: Ending, why: &'static str) -> Self {
        self.expected = Expected::Closed { by, why };
        self
    }

    fn residual(mut self, reason: &'static str, mitigation: &'static str) -> Self {
        self.expected = Expected::Residual { reason, mitigation };
        self.control = Control::Here;
        self
    }

    fn known(mut self, reason: &'static str) -> Self {
        self.expected = Expected::Known { reason };
        self.control = Control::Here;
        self
    }

    fn control(mut self, control: Control) -> Self {
        self.control = control;
        self
    }

    /// Works once these subjects may be published to.
    fn once_granted(self, publish: &[&str]) -> Self {
        self.control(Control::Granted(owned(publish), Vec::new()))
    }

    /// Works once these subjects may be subscribed to.
    fn once_heard(self, subscribe: &[&str]) -> Self {
        self.control(Control::Granted(Vec::new(), owned(subscribe)))
    }

    fn since(mut self, major: u64, minor: u64) -> Self {
        self.since = (major, minor);
        self
    }

    fn on(mut self, target: Target) -> Self {
        self.target = target;
        self
    }

    fn by(mut self, who: Who) -> Self {
        self.who = who;
        self
    }

    fn bucket(mut self, settings: serde_json::Value) -> Self {
        self.bucket = settings;
        self
    }

    fn with_responders(mut self) -> Self {
        self.responders = true;
        self
    }

    fn rehearsed(mut self) -> Self {
        self.rehearsed = true;
        self
    }

    fn in_prove(mut self) -> Self {
        self.in_prove = true;
        self
    }

    /// The same, where a deployment has what it needs.
    fn in_prove_with(mut self, needs: &'static [Need]) -> Self {
        self.in_prove = true;
        self.needs = needs;
        self
    }

    fn not_in_prove(mut self) -> Self {
        self.in_prove = false;
        self
    }

    fn on_a_cluster(mut self) -> Self {
        self.cluster = true;
        self.control = Control::Admin;
        self
    }

    fn opened_by(mut self, defect: &'static Advisory) -> Self {
        self.defect = Some(defect);
        self
    }

    /// Whether that server version has what it uses.
    #[must_use]
    pub fn exists_in(&self, version: &Version) -> bool {
        self.control == Control::Nowhere || (version.major, version.minor) >= self.since
    }

    /// Whether that is what must come of it on that version.
    #[must_use]
    pub fn expects(&self, ending: Ending, version: &Version) -> bool {
        if self.defect.is_some_and(|defect| defect.affects(version)) {
            return ending == Ending::Succeeded;
        }
        match self.expected {
            // Where nothing shows that it is one, how it fails says nothing either.
            Expected::Closed { .. } if self.control == Control::Nowhere => {
                ending != Ending::Succeeded
            }
            Expected::Closed { by, .. } => ending == by,
            Expected::Residual { .. } | Expected::Known { .. } => ending == Ending::Succeeded,
        }
    }
}

fn owned(list: &[&str]) -> Vec<String> {
    list.iter().map(|s| (*s).to_owned()).collect()
}
