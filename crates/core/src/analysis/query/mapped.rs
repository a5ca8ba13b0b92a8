//! What an account's `mappings` make of what a service publishes.
//!
//! nats-server looks for a mapping before it looks at permissions, and then asks for leave to
//! publish where it leads, and for no other (seen on 2.10.25 to 2.15.1). So a grant of the subject
//! that is mapped does not help, and one of where it leads does.

use std::collections::BTreeMap;

use serde::Serialize;

use super::{Question, Reach, Verb, may};
use crate::grant::Grant;
use crate::policy::model::FoundName;
use solewriter_types::kv_operation::{self, Needed};
use solewriter_types::subject::Pattern;

/// An account's mappings: where from, and to what.
pub type Mappings = BTreeMap<String, Vec<String>>;

/// A mapping that meets something which a service publishes.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Mapped {
    /// What is mapped.
    pub from: String,
    /// Where it goes.
    pub to: Vec<String>,
    /// How much of where it goes is granted and, of a question about a keyspace, belongs to that.
    pub reach: Reach,
    /// Whether it leads away from the keyspace that was asked about.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub elsewhere: bool,
    /// Whether it takes everything that was asked about.
    #[serde(skip)]
    whole: bool,
}

impl Mapped {
    /// What it does, for people.
    #[must_use]
    pub fn sentence(&self, account: &str) -> String {
        let outcome = match self.reach {
            _ if self.elsewhere => "it goes there, and not to what is asked about",
            Reach::All => "it is published there, which is granted",
            Reach::Part => "nats-server asks for leave to publish there, and only part is granted",
            Reach::None => "nats-server asks for leave to publish there, and that is not granted",
        };
        let to = self.to.join("`, `");
        format!("account {account} maps `{}` to `{to}`: {outcome}", self.from)
    }
}

/// Each mapping that meets what is published for a question; or, without one, what is granted.
#[must_use]
pub fn mapped(grant: &Grant, mappings: &Mappings, question: Option<&Question>) -> Vec<Mapped> {
    if mappings.is_empty() {
        return Vec::new();
    }
    let published = question.map_or_else(|| granted(grant), published);
    let of_keyspace =
        question.is_some_and(|q| !matches!(q, Question::Publish(_) | Question::Subscribe(_)));
    // What is published for a keyspace and goes elsewhere writes or reads nothing of it.
    let stays = |to: &Option<Pattern>| {
        !of_keyspace || to.as_ref().is_some_and(|to| published.iter().any(|p| to.is_subset_of(p)))
    };
    let meets = |(from, to): (&String, &Vec<String>)| {
        let pattern = Pattern::parse(from).ok()?;
        let met: Vec<&Pattern> = published.iter().filter(|p| p.overlaps(&pattern)).collect();
        let ways = met.iter().flat_map(|subject| to.iter().map(move |to| (subject, to)));
        let destinations: Vec<Option<Pattern>> =
            ways.map(|(subject, to)| destination(from, to, subject)).collect();
        let elsewhere = !destinations.iter().all(stays);
        let of = |to: Option<Pattern>| if stays(&to) { reach(grant, to) } else { Reach::None };
        let reaches: Vec<Reach> = destinations.into_iter().map(of).collect();
        let least = *reaches.iter().min()?;
        let most = *reaches.iter().max()?;
        Some(Mapped {
            from: from.clone(),
            to: to.iter().filter(|to| *to != from).cloned().collect(),
            reach: if least == most { least } else { Reach::Part },
            elsewhere,
            whole: published.iter().all(|subject| subject.is_subset_of(&pattern)),
        })
    };
    mappings.iter().filter_map(meets).filter(|mapped| !mapped.to.is_empty()).collect()
}

/// Each mapping that leads to what is written or published for a question, as its two subjects.
/// Whoever is granted that may get there by the first of them, too.
#[must_use]
pub fn leading_to<'m>(mappings: &'m Mappings, question: &Question) -> Vec<(&'m str, &'m str)> {
    if !matches!(question, Question::Publish(_) | Question::Write(_) | Question::WriteStore(_)) {
        return Vec::new();
    }
    let published = published(question);
    let ways = mappings.iter().flat_map(|(from, to)| to.iter().map(move |to| (from, to)));
    let leads = |(from, to): &(&String, &String)| {
        let to = Pattern::parse(from).ok().and_then(|all| destination(from, to, &all));
        to.is_some_and(|to| published.iter().any(|subject| subject.overlaps(&to)))
    };
    let found = ways.filter(|(from, to)| from != to).filter(leads);
    found.map(|(from, to)| (from.as_str(), to.as_str())).collect()
}

/// What the mappings leave of a yes.
#[must_use]
pub fn left(reach: Reach, mapped: &[Mapped]) -> Reach {
    let refused = mapped.iter().filter(|mapped| mapped.reach != Reach::All);
    refused.fold(reach, |left, one| match one.reach {
        Reach::None if one.whole => Reach::None,
        _ => left.min(Reach::Part),
    })
}

fn granted(grant: &Grant) -> Vec<Pattern> {
    let all = grant.permissions(crate::grant::Side::Publish);
    all.iter().map(|permission| permission.subject.clone()).collect()
}

/// What a client publishes to for what is asked.
fn published(question: &Question) -> Vec<Pattern> {
    let parsed = |subject: &str| Pattern::parse(subject).ok();
    let all =
        |needed: &[Needed]| needed.iter().filter_map(|(_, subject)| parsed(subject)).collect();
    match question {
        Question::Publish(pattern) => vec![pattern.clone()],
        Question::Write(keyspace) => parsed(&keyspace.subjects()).into_iter().collect(),
        Question::Read(keyspace) => all(&kv_operation::reading(keyspace)),
        Question::Find(name) => {
            all(&kv_operation::discovering(name.as_ref().map(FoundName::as_str)))
        }
        Question::Replay(replayed) => all(&super::replaying(replayed)),
        Question::Subscribe(_) | Question::Found(_) => Vec::new(),
        Question::WriteStore(store) => all(&kv_operation::writing_store(store.as_str())),
        Question::ReadStore(store) => all(&kv_operation::reading_store(store.as_str())),
        Question::Consume(name) | Question::Ack(name) => {
            let needed = kv_operation::consuming(name.stream().as_str(), name.consumer().as_str());
            let acks = |subject: &str| subject.starts_with("$JS.ACK.");
            let asked = |needed: &&Needed| question.verb() == Verb::Consume || acks(&needed.1);
            needed.iter().filter(asked).filter_map(|(_, subject)| parsed(subject)).collect()
        }
    }
}

/// How much of a destination is granted; what cannot be read counts as refused.
fn reach(grant: &Grant, destination: Option<Pattern>) -> Reach {
    destination.map_or(Reach::None, |to| may(grant, &Question::Publish(to)).reach)
}

/// Where `published` goes by the mapping: exactly where it has no wildcard at those places, and
/// else everywhere that it may go.
fn destination(from: &str, to: &str, published: &Pattern) -> Option<Pattern> {
    let said: Vec<&str> = published.as_str().split('.').collect();
    let literal = |at: usize| said.get(at).copied().filter(|token| !matches!(*token, "*" | ">"));
    let open = said.last() == Some(&">");
    // The token for each `*` of what is mapped, and what its `>` stands for.
    let mut wild = Vec::new();
    let mut rest = ">".to_owned();
    for (at, token) in from.split('.').enumerate() {
        match token {
            "*" => wild.push(literal(at).unwrap_or("*")),
            ">" if !open => rest = said.get(at..)?.join("."),
            _ => {}
        }
    }
    let mut tokens: Vec<&str> = Vec::new();
    for token in to.split('.') {
        if token == ">" {
            tokens.push(&rest);
        } else if let Some(number) = wildcard(token) {
            tokens.push(wild.get(number.checked_sub(1)?)?);
        } else if token.starts_with("{{partition(") {
            tokens.push("*");
        } else if token.contains("{{") {
            // A function that may make any number of tokens.
            tokens.push(">");
            break;
        } else {
            tokens.push(token);
        }
    }
    Pattern::parse(&tokens.join(".")).ok()
}

/// Which wildcard a token of a destination stands for: `$1`, `{{wildcard(1)}}`.
fn wildcard(token: &str) -> Option<usize> {
    let inner = token.strip_prefix("{{").and_then(|t| t.strip_suffix("}}"));
    let number = match inner {
        Some(call) => call.trim().strip_prefix("wildcard(")?.strip_suffix(')')?.trim(),
        None => token.strip_prefix('$')?,
    };
    number.parse().ok()
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::diagnostics::SourceFile;
    use crate::grant::{AuditStreams, Defaults};
    use crate::policy::validate::validate;

    fn grant(publishes: &str) -> Grant {
        let text = format!("[service.a]\nnkeys = []\npublishes = [{publishes}]\n");
        let policy = validate(&[SourceFile::new("p.toml", text)]).unwrap().policy;
        let defaults = Defaults {
            account: "APP".into(),
            lifetime: Duration::from_secs(60),
            audit: AuditStreams::default(),
        };
        Grant::of(policy.service("a").unwrap(), &defaults).unwrap()
    }

    fn mappings(from: &str, to: &[&str]) -> Mappings {
        Mappings::from([(from.to_owned(), to.iter().map(|to| (*to).to_owned()).collect())])
    }

    /// What is left of a yes to publishing, and how many mappings are told of.
    fn asked(publishes: &str, subject: &str, from: &str, to: &[&str]) -> (Reach, usize) {
        let (grant, question) =
            (grant(publishes), Question::parse(Verb::Publish, subject).unwrap());
        let found = mapped(&grant, &mappings(from, to), Some(&question));
        (left(may(&grant, &question).reach, &found), found.len())
    }

    #[test]
    fn where_it_leads_decides() {
        use Reach::{All, None, Part};
        let one = ["ev.{{wildcard(1)}}.0"];
        for (publishes, subject, from, to, expected) in [
            ("'ev.*'", "ev.7", "ev.*", &one[..], (None, 1)),
            ("'ev.*'", "ev.*", "ev.*", &one, (None, 1)),
            ("'ev.>'", "ev.7", "ev.*", &one, (All, 1)),
            ("'ev.>'", "ev.>", "ev.*", &one, (All, 1)),
            ("'ev.*', 'ev.7.0'", "ev.7", "ev.*", &one, (All, 1)),
            ("'ev.*', 'ev.7.0'", "ev.8", "ev.*", &one, (None, 1)),
            ("'ev.*', 'ev.7.0'", "ev.*", "ev.*", &one, (Part, 1)),
            ("'ev.*', 'ev.7.0'", "ev.7", "ev.*", &["ev.$1.0"], (All, 1)),
            ("'ev.*'", "other.7", "ev.*", &one, (None, 0)),
            ("'ev.*', 'other.7'", "other.7", "ev.*", &one, (All, 0)),
            // Only some of what is asked is mapped away.
            ("'a.*'", "a.*", "a.b", &["c"], (Part, 1)),
            // By weight, one goes where it may and one where it may not.
            ("'w', 'w1'", "w", "w", &["w1", "w2"], (Part, 1)),
            ("'w', 'w1'", "w", "w", &["w1", "w"], (All, 1)),
            ("'w'", "w", "w", &["w"], (All, 0)),
            ("'a.>', 'b.x.y'", "a.x.y", "a.>", &["b.>"], (All, 1)),
            ("'a.>', 'b.x.y'", "a.x.z", "a.>", &["b.>"], (None, 1)),
            ("'a.>', 'b.x.y'", "a.>", "a.>", &["b.>"], (Part, 1)),
            ("'a.*', 'p.>'", "a.x", "a.*", &["p.{{partition(3,1)}}.{{wildcard(1)}}"], (All, 1)),
            ("'a.*', 'p.>'", "a.x", "a.*", &["p.{{split(1,-)}}"], (All, 1)),
            ("'a.*', 'p.*'", "a.x", "a.*", &["p.{{split(1,-)}}"], (Part, 1)),
            // What nobody can read is refused.
            ("'a.*'", "a.x", "a.*", &["p.{{wildcard(9)}}"], (None, 1)),
            ("'a.*'", "a.x", "a.*", &["$0"], (None, 1)),
        ] {
            assert_eq!(
                asked(publishes, subject, from, to),
                expected,
                "{publishes} {subject} {from}"
            );
        }
    }

    #[test]
    fn what_goes_elsewhere_writes_nothing() {
        use Reach::{All, None, Part};
        let text = "[bucket.orders]\n[service.a]\nowns = [\"orders\"]\npublishes = [\"ev.>\"]\n";
        let policy = validate(&[SourceFile::new("p.toml", text)]).unwrap().policy;
        let defaults = Defaults {
            account: "APP".into(),
            lifetime: Duration::from_secs(60),
            audit: AuditStreams::default(),
        };
        let grant = Grant::of(policy.service("a").unwrap(), &defaults).unwrap();
        for (verb, from, to, expected) in [
            // Granted, and no write of the keyspace.
            (Verb::Write, "$KV.orders.>", &["ev.>"][..], None),
            (Verb::Write, "$KV.orders.a", &["ev.a"], Part),
            (Verb::Write, "$KV.orders.*", &["$KV.orders.x.$1"], All),
            (Verb::Write, "$KV.orders.>", &["ev.>", "$KV.orders.>"], Part),
            // Reading asks for more than that.
            (Verb::Read, "$JS.API.>", &["ev.>"], Part),
        ] {
            let question = Question::parse(verb, "orders").unwrap();
            let found = mapped(&grant, &mappings(from, to), Some(&question));
            assert_eq!(left(may(&grant, &question).reach, &found), expected, "{from} {to:?}");
            assert_eq!(found[0].elsewhere, expected != All, "{from} {to:?}");
            let said =
                found[0].sentence("APP").ends_with("it goes there, and not to what is asked about");
            assert_eq!(said, expected != All);
        }
        // A subject that is published may go anywhere that is granted.
        let question = Question::parse(Verb::Publish, "$KV.orders.a").unwrap();
        let found = mapped(&grant, &mappings("$KV.orders.a", &["ev.a"]), Some(&question));
        assert_eq!((found[0].reach, found[0].elsewhere), (All, false));
    }

    #[test]
    fn what_leads_to_what_is_asked_is_found() {
        let all = Mappings::from([
            ("a.*".to_owned(), vec!["$KV.orders.$1".to_owned(), "b".to_owned()]),
            ("b".to_owned(), vec!["b".to_owned()]),
            ("$KV.orders.x".to_owned(), vec!["c".to_owned()]),
        ]);
        let found = |verb, target: &str| {
            let question = Question::parse(verb, target).unwrap();
            leading_to(&all, &question)
                .into_iter()
                .map(|(from, to)| format!("{from} {to}"))
                .collect()
        };
        let found = |verb, target: &str| -> Vec<String> { found(verb, target) };
        assert_eq!(found(Verb::Write, "orders"), ["a.* $KV.orders.$1"]);
        assert_eq!(found(Verb::Write, "orders/x.>"), [""; 0]);
        assert_eq!(found(Verb::Publish, "b"), ["a.* b"]);
        assert_eq!(found(Verb::Publish, ">"), ["$KV.orders.x c", "a.* $KV.orders.$1", "a.* b"]);
        assert_eq!(found(Verb::Read, "orders"), [""; 0]);
    }

    #[test]
    fn everything_that_is_granted_is_looked_at() {
        let grant = grant("'ev.*', 'b'");
        let found = mapped(&grant, &mappings("ev.7", &["b", "c"]), None);
        assert_eq!(found.len(), 1);
        assert_eq!(
            found[0].sentence("APP"),
            "account APP maps `ev.7` to `b`, `c`: nats-server asks for leave to publish there, and \
             only part is granted"
        );
        assert_eq!(mapped(&grant, &mappings("d", &["c"]), None), []);
        let write = Question::parse(Verb::Write, "orders/a").unwrap();
        assert_eq!(mapped(&grant, &mappings("$KV.orders.*", &["c"]), Some(&write)).len(), 1);
        let read = Question::parse(Verb::Read, "orders").unwrap();
        assert_eq!(mapped(&grant, &mappings("$JS.API.>", &["c"]), Some(&read)).len(), 1);
        let subscribe = Question::parse(Verb::Subscribe, "ev.7").unwrap();
        assert_eq!(mapped(&grant, &mappings("ev.7", &["c"]), Some(&subscribe)), []);
    }

    proptest::proptest! {
        #[test]
        fn no_mapping_is_too_strange(
            from in "[a*>.$]{0,12}", to in "[a*>.$19{}()wildcr]{0,24}", subject in "(a|\\*)(\\.(a|\\*)){0,3}(\\.>)?"
        ) {
            if let Ok(pattern) = Pattern::parse(&subject) {
                let _ = mapped(&grant("'a.*'"), &mappings(&from, &[&to]), Some(&Question::Publish(pattern)));
            }
        }
    }
}
