//! What passes between two servers of different JetStream domains, by a leafnode that joins an
//! account in which nobody is: for services that read in the other domain, and for copies of
//! buckets. And the lines of both servers' configurations for that.
//!
//! What services need comes from their grants, so it is no more than they may but for what has to be said with `>`. In the account of
//! the link, a request to the API of a domain begins with the domain's name: nats-server lets
//! `$JS.API.>` through no leafnode, and takes `$JS.<domain>.API.>` for itself.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;

use solewriter_core::grant::{Defaults, Grant, GrantError, Side};
use solewriter_core::policy::model::{Access, Bucket, Domain, Policy, Service};
use solewriter_types::keyspace::Keyspace;
use solewriter_types::kv_operation::{API, copied_to, copying, domain_api, exactly};

use super::{STATE, quoted, within};

/// What one domain gives to another server.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Crossing {
    /// Requests to the API, as they are here: `$JS.API.…`.
    pub requests: BTreeSet<String>,
    /// What readers answer: flow control and acknowledgements.
    pub answers: BTreeSet<String>,
    /// What is sent to them.
    pub sent: BTreeSet<String>,
}

impl Crossing {
    fn is_empty(&self) -> bool {
        self.requests.is_empty()
    }

    fn add(&mut self, other: &Self) {
        self.requests.extend(other.requests.iter().cloned());
        self.answers.extend(other.answers.iter().cloned());
        self.sent.extend(other.sent.iter().cloned());
    }

    /// Whether some of it covers that.
    #[must_use]
    pub fn covers(&self, kind: &str, subject: &str) -> bool {
        let covered = |all: &BTreeSet<String>| all.iter().any(|may| within(subject, may));
        if kind == "service" {
            covered(&self.requests) || covered(&self.answers)
        } else {
            covered(&self.sent)
        }
    }
}

/// Whether a service writes in that domain, so that it is at home there.
#[must_use]
pub fn is_at_home(policy: &Policy, service: &Service, domain: &Domain) -> bool {
    service.rules.iter().any(|rule| match &rule.access {
        Access::Owns(_) | Access::OwnsStore(_) => rule.domain() == Some(domain),
        Access::Publishes(subjects) => {
            policy.keeping(subjects).any(|stream| stream.domain.as_ref() == Some(domain))
        }
        _ => false,
    })
}

/// What a service needs of that domain, when it is connected elsewhere.
///
/// # Errors
/// The service has no grant.
pub fn read_by(
    service: &Service,
    domain: &Domain,
    defaults: &Defaults,
) -> Result<Crossing, GrantError> {
    let mut crossing = Crossing::default();
    if !service.rules.iter().any(|rule| rule.domain() == Some(domain)) {
        return Ok(crossing);
    }
    let grant = Grant::of(service, defaults)?;
    let far = format!("{}.", domain_api(domain.as_str()));
    let of = |side| {
        let of_domain =
            |rule: usize| grant.rules().get(rule).is_some_and(|rule| rule.domain() == Some(domain));
        let all = grant.permissions(side).iter().filter(move |p| of_domain(p.rule));
        all.map(|permission| permission.subject.as_str())
    };
    for subject in of(Side::Publish) {
        if let Some(rest) = subject.strip_prefix(&far) {
            crossing.requests.insert(renamable(&format!("{API}{rest}")));
        } else if let Some(answer) = exactly(subject) {
            crossing.answers.insert(answer);
        }
    }
    crossing.sent.extend(of(Side::Subscribe).map(ToOwned::to_owned));
    // Without a request there is nothing to answer: what cannot be read from elsewhere.
    Ok(if crossing.is_empty() { Crossing::default() } else { crossing })
}

/// The subject with `>` from its first `*` on: where an import gives a subject with `*` another
/// name, whoever names that as a reply crashes a server of 2.10. So of a part of a bucket, what
/// makes consumers of the whole passes.
fn renamable(subject: &str) -> String {
    match subject.split_once(".*") {
        Some((front, _)) => format!("{front}.>"),
        None => subject.to_owned(),
    }
}

/// What one copy needs of its original in another domain.
#[must_use]
pub fn copied_by(copy: &Bucket) -> Crossing {
    let Some(of) = &copy.copy_of else { return Crossing::default() };
    let (request, answers) = copying(&Keyspace::whole(of.clone()));
    Crossing {
        requests: [request].into(),
        answers: answers.into_iter().collect(),
        sent: [format!("{}.>", copied_to(copy.name.as_str()))].into(),
    }
}

/// What the copies in `to` need of their originals in `from`; without `to`, those of all domains.
#[must_use]
pub fn copied(policy: &Policy, from: &Domain, to: Option<&Domain>) -> Crossing {
    let mut crossing = Crossing::default();
    let is_wanted = |copy: &&Bucket| {
        copy.copied_from.as_ref() == Some(from) && (to.is_none() || copy.domain.as_ref() == to)
    };
    policy.buckets().iter().filter(is_wanted).for_each(|copy| crossing.add(&copied_by(copy)));
    crossing
}

/// All that may pass from that domain to other servers.
///
/// # Errors
/// A service has no grant.
pub fn all_from(
    policy: &Policy,
    domain: &Domain,
    defaults: &Defaults,
) -> Result<Crossing, GrantError> {
    let mut all = copied(policy, domain, None);
    for service in policy.services() {
        all.add(&read_by(service, domain, defaults)?);
    }
    Ok(all)
}

/// A link between two servers.
#[derive(Clone, Debug)]
pub struct Link<'p> {
    /// What both servers' policy says.
    pub policy: &'p Policy,
    /// The domain of the server that listens.
    pub hub: Domain,
    /// The domain of the one that connects.
    pub leaf: Domain,
    /// The account that the leafnode joins, on both.
    pub account: &'p str,
    /// Who reads across; nobody named is everybody who is not at home there.
    pub readers: &'p [String],
}

/// What a domain gives across, by who takes it there.
type Taken<'s> = BTreeMap<&'s str, Crossing>;

impl<'p> Link<'p> {
    /// What `from` gives to the accounts of the other server: `STATE` for copies, those of services
    /// for readers.
    fn given(&self, from: &Domain, defaults: &'p Defaults) -> Result<Taken<'p>, GrantError> {
        let to = if *from == self.hub { &self.leaf } else { &self.hub };
        let mut taken = Taken::new();
        let copies = copied(self.policy, from, Some(to));
        if !copies.is_empty() {
            taken.insert(STATE, copies);
        }
        for service in self.policy.services() {
            let reads = match self.readers {
                [] => !is_at_home(self.policy, service, from),
                readers => readers.iter().any(|name| **name == *service.name),
            };
            let crossing = read_by(service, from, defaults)?;
            if reads && !crossing.is_empty() {
                let account = service.account.as_deref().unwrap_or(&defaults.account);
                taken.entry(account).or_default().add(&crossing);
            }
        }
        Ok(taken)
    }

    /// The lines of one of the two servers, each under the place where it belongs.
    ///
    /// # Errors
    /// A service has no grant.
    pub fn lines(&self, at: &Domain, defaults: &'p Defaults) -> Result<String, GrantError> {
        let link = self.account;
        let is_hub = *at == self.hub;
        let other = if is_hub { &self.leaf } else { &self.hub };
        let given = self.given(at, defaults)?;
        let taken = self.given(other, defaults)?;
        let mut all = Crossing::default();
        for crossing in given.values() {
            all.add(crossing);
        }

        let joins = if is_hub {
            format!(
                "leafnodes {{\n  listen: ${link}_LISTEN\n  authorization {{ nkey: ${link}_KEY, account: {link} }}\n}}\n"
            )
        } else {
            format!(
                "leafnodes {{\n  remotes: [ {{ url: $HUB, nkey: ${link}_SEED, account: {link} }} ]\n}}\n"
            )
        };
        let mut text = format!("# at the top\n{joins}# in jetstream\n  domain: {at}\n");
        if !given.is_empty() {
            text += &format!("# in {STATE}.exports\n");
            for subject in all.requests.iter().chain(&all.answers) {
                let many = many(subject);
                let _ = writeln!(
                    text,
                    "      {{ service: {}{many}, accounts: [ {link} ] }}",
                    quoted(subject)
                );
            }
            for subject in &all.sent {
                let _ =
                    writeln!(text, "      {{ stream: {}, accounts: [ {link} ] }}", quoted(subject));
            }
        }
        for (account, crossing) in &taken {
            // What `init` writes has no imports there.
            let whole = *account == STATE;
            text += &format!("# in {account}{}\n", if whole { "" } else { ".imports" });
            if whole {
                text += "    imports: [\n";
            }
            let _ = writeln!(
                text,
                "      {{ service: {{ account: {link}, subject: \"{other}.>\" }}, to: \"{}.>\" }}",
                domain_api(other.as_str())
            );
            text += &imports(link, crossing);
            if whole {
                text += "    ]\n";
            }
        }
        let _ = write!(text, "# in accounts\n  {link} {{\n    imports: [\n");
        for subject in &all.requests {
            let rest = subject.strip_prefix(API).unwrap_or(subject);
            let _ = writeln!(
                text,
                "      {{\n        service: {{ account: {STATE}, subject: {} }}\n        to: {}\n      }}",
                quoted(subject),
                quoted(&format!("{at}.{rest}"))
            );
        }
        text += &imports(STATE, &all);
        text += "    ]\n    exports: [\n";
        let accounts = |wanted: &dyn Fn(&Crossing) -> bool| {
            let who = taken.iter().filter(|(_, crossing)| wanted(crossing));
            who.map(|(account, _)| *account).collect::<Vec<_>>().join(", ")
        };
        if !taken.is_empty() {
            let to = accounts(&|_| true);
            let _ = writeln!(
                text,
                "      {{ service: \"{other}.>\", response: stream, accounts: [ {to} ] }}"
            );
        }
        let mut back = Crossing::default();
        for crossing in taken.values() {
            back.add(crossing);
        }
        for subject in &back.answers {
            let to = accounts(&|crossing| crossing.answers.contains(subject));
            let _ = writeln!(text, "      {{ service: {}, accounts: [ {to} ] }}", quoted(subject));
        }
        for subject in &back.sent {
            let to = accounts(&|crossing| crossing.sent.contains(subject));
            let _ = writeln!(text, "      {{ stream: {}, accounts: [ {to} ] }}", quoted(subject));
        }
        text += "    ]\n  }\n";
        Ok(text)
    }
}

/// The imports of what passes under its own name.
fn imports(from: &str, crossing: &Crossing) -> String {
    let line = |kind, subject: &String| {
        format!("      {{ {kind}: {{ account: {from}, subject: {} }} }}\n", quoted(subject))
    };
    let answers = crossing.answers.iter().map(|subject| line("service", subject));
    answers.chain(crossing.sent.iter().map(|subject| line("stream", subject))).collect()
}

/// What an export says where one request has many answers.
fn many(subject: &str) -> &'static str {
    let many = ["DIRECT.GET.", "CONSUMER.MSG.NEXT."];
    let rest = subject.strip_prefix(API).unwrap_or_default();
    if many.iter().any(|api| rest.starts_with(api)) { ", response: stream" } else { "" }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use solewriter_core::diagnostics::SourceFile;
    use solewriter_core::grant::AuditStreams;
    use solewriter_core::policy::validate::validate;

    const POLICY: &str = "
        [bucket.near]
        domain = \"hub\"
        [bucket.copy]
        domain = \"edge\"
        copy_of = \"near\"
        [bucket.b]
        domain = \"edge\"
        [bucket.other]
        domain = \"else\"
        [stream.S]
        subjects = [\"s.>\"]
        domain = \"edge\"
        [stream.S.consumer.w]
        [service.home]
        nkeys = []
        owns = [\"b\"]
        publishes = [\"s.>\"]
        consumes = [\"S/w\"]
        [service.part]
        nkeys = []
        account = \"ONE\"
        reads = [\"b/x.>\"]
        [service.all]
        nkeys = []
        replays = [\"S\"]
        reads = [\"other\"]
    ";

    fn lines(readers: &[&str], at: &str) -> String {
        let policy = validate(&[SourceFile::new("p.toml", POLICY)]).unwrap().policy;
        let readers: Vec<String> = readers.iter().map(ToString::to_string).collect();
        let [hub, leaf] = ["hub", "edge"].map(|name| Domain::parse(name).unwrap());
        let link = Link { policy: &policy, hub, leaf, account: "LINK", readers: &readers };
        let defaults = Defaults {
            account: "APP".into(),
            lifetime: Duration::from_secs(60),
            audit: AuditStreams::default(),
        };
        link.lines(&Domain::parse(at).unwrap(), &defaults).unwrap()
    }

    #[test]
    fn what_is_granted_passes_and_nothing_else() {
        let edge = lines(&[], "edge");
        // Of a part of a bucket, that part; nothing of who is at home, and no consumer.
        for passes in [
            "$JS.API.DIRECT.GET.KV_b.$KV.b.x.>",
            "$JS.FC.KV_b.*.*",
            "_INBOX.part.>",
            "hub.>",
            "_COPY.copy.>",
        ] {
            assert!(edge.contains(&format!("\"{passes}\"")), "{passes}: {edge}");
        }
        for stays in
            ["STREAM.MSG.GET", "_INBOX.home", "_INBOX.all", "API.$KV", ".S.", "other", "PURGE"]
        {
            assert!(!edge.contains(stays), "{stays}: {edge}");
        }
        let hub = lines(&[], "hub");
        assert!(hub.contains("# in ONE.imports\n") && !hub.contains("# in APP.imports"), "{hub}");
        assert!(
            hub.contains("{ service: \"edge.>\", response: stream, accounts: [ ONE ] }"),
            "{hub}"
        );
        assert!(hub.contains("\"$JS.API.CONSUMER.CREATE.KV_near.>\""), "{hub}");
    }

    #[test]
    fn readers_that_are_named_are_those_who_read() {
        let edge = lines(&["home"], "edge");
        assert!(edge.contains("\"$JS.API.CONSUMER.MSG.NEXT.S.w\", response: stream"), "{edge}");
        assert!(edge.contains("\"$JS.ACK.S.w.*.*.*.*.*\""), "{edge}");
        assert!(edge.contains("_INBOX.home.>") && !edge.contains("_INBOX.part"), "{edge}");
        assert!(!edge.contains("CONSUMER.CREATE.S") && !edge.contains("NEXT.S.*"), "{edge}");
    }
}
