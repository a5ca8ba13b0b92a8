//! Whether a policy grants what was seen: asked of the same code that decides.

use std::sync::Arc;
use std::time::Duration;

use crate::adoption::evidence::Record;
use crate::adoption::evidence::fact::Fact;
use crate::adoption::evidence::generalise::Level;
use solewriter_core::analysis::query::{Held, Reach};
use solewriter_core::grant::{AuditStreams, Defaults, Grant, Side};
use solewriter_core::policy::model::Service;
use solewriter_types::subject::Pattern;

/// A consumer's name that no policy declares.
const OWN: &str = "solewriter-learn-asks-for-a-consumer-of-a-name-that-nobody-would-ever-give";

/// What a service gets; `None` when that is nothing at all.
pub fn grant(service: &Service) -> Option<Grant> {
    let defaults = Defaults {
        account: Arc::from("APP"),
        lifetime: Duration::from_secs(3600),
        audit: AuditStreams::default(),
    };
    Grant::of(service, &defaults).ok()
}

/// Whether all that was seen of a fact is granted.
pub fn is_granted(held: &Held<'_>, fact: &Fact, record: &Record) -> bool {
    if record.subjects.lost().count > 0 {
        return false;
    }
    let seen = record.subjects.patterns(Level::None);
    let texts: Vec<&str> = seen.iter().map(|seen| &*seen.pattern).collect();
    let Some(needed) = needed(fact, &texts) else { return false };
    needed.iter().all(|(side, subject)| {
        Pattern::parse(subject).is_ok_and(|wanted| held.covered(*side, &wanted) == Reach::All)
    })
}

/// What a client needs for that; `None` for what is never granted.
fn needed(fact: &Fact, seen: &[&str]) -> Option<Vec<(Side, String)>> {
    let publish = |subject: String| Some(vec![(Side::Publish, subject)]);
    let each = |side: Side, make: &dyn Fn(&str) -> String| {
        Some(seen.iter().map(|seen| (side, make(seen))).collect())
    };
    match fact {
        Fact::Writes(bucket) => each(Side::Publish, &|key| format!("$KV.{bucket}.{key}")),
        Fact::Purges(bucket) => publish(format!("$JS.API.STREAM.PURGE.KV_{bucket}")),
        Fact::Reads(bucket) => {
            let opens = (Side::Publish, format!("$JS.API.STREAM.INFO.KV_{bucket}"));
            let read = seen.iter().map(|keys| {
                let subject = match *keys {
                    ">" => format!("$JS.API.CONSUMER.CREATE.KV_{bucket}"),
                    keys => format!("$JS.API.DIRECT.GET.KV_{bucket}.$KV.{bucket}.{keys}"),
                };
                (Side::Publish, subject)
            });
            Some(read.chain([opens]).collect())
        }
        Fact::Opens(bucket) => publish(format!("$JS.API.STREAM.INFO.KV_{bucket}")),
        Fact::WritesStore(store) => publish(format!("$O.{store}.M.x")),
        Fact::ReadsStore(store) => publish(format!("$JS.API.CONSUMER.CREATE.OBJ_{store}")),
        Fact::Publishes | Fact::Requests => each(Side::Publish, &ToString::to_string),
        Fact::Subscribes | Fact::Found(_) | Fact::FoundByAll => {
            each(Side::Subscribe, &ToString::to_string)
        }
        Fact::Answers => {
            let into = (Side::Publish, "_INBOX.x.y".to_owned());
            let heard = seen.iter().map(|seen| (Side::Subscribe, (*seen).to_owned()));
            Some(heard.chain([into]).collect())
        }
        Fact::Pulls(stream, name) => publish(format!("$JS.API.CONSUMER.MSG.NEXT.{stream}.{name}")),
        Fact::Consumes(stream, name) => publish(format!("$JS.API.CONSUMER.INFO.{stream}.{name}")),
        Fact::Acks(stream, name) => publish(format!("$JS.ACK.{stream}.{name}.1.1.1.1.1")),
        Fact::Makes(stream, name) => {
            let made = format!("$JS.API.CONSUMER.CREATE.{stream}.{name}");
            each(Side::Publish, &|filter| match filter {
                ">" => made.clone(),
                filter => format!("{made}.{filter}"),
            })
        }
        Fact::Replays(stream) => {
            let made = format!("$JS.API.CONSUMER.CREATE.{stream}.{OWN}");
            let used = (Side::Publish, format!("$JS.API.CONSUMER.MSG.NEXT.{stream}.{OWN}"));
            let read = seen.iter().map(|filter| match *filter {
                ">" => (Side::Publish, made.clone()),
                filter => (Side::Publish, format!("{made}.{filter}")),
            });
            Some(read.chain([used]).collect())
        }
        Fact::Unnamed(stream) => publish(format!("$JS.API.CONSUMER.CREATE.{stream}")),
        Fact::OpensStream(stream) => publish(format!("$JS.API.STREAM.INFO.{stream}")),
        Fact::Finds(name) => publish(format!("$SRV.INFO.{name}")),
        Fact::FindsAll => publish("$SRV.INFO".to_owned()),
        Fact::Manages(request, on) if on.is_empty() => publish(format!("$JS.API.{request}")),
        Fact::Manages(..)
        | Fact::AcksKept(_)
        | Fact::Elsewhere
        | Fact::PublishesSystem
        | Fact::SubscribesSystem
        | Fact::HearsInboxes
        | Fact::IntoInboxes
        | Fact::OddReplies
        | Fact::More => None,
    }
}

/// Why something is not granted that no decision was about.
pub fn usual_reason(fact: &Fact) -> &'static str {
    match fact {
        Fact::Manages(..) => {
            "no service is granted that: declare buckets, streams and consumers, and let `solewriter \
             state apply` make them"
        }
        Fact::AcksKept(_) => "who reads a bucket or an object store acknowledges nothing there",
        Fact::Elsewhere => "a policy is about the buckets and streams of one account",
        Fact::PublishesSystem => "these subjects belong to the server",
        Fact::SubscribesSystem => {
            "these subjects belong to the server; keys are read with `reads`, which the client \
             library does when it gets or watches"
        }
        Fact::HearsInboxes => "each service hears its own inbox alone",
        Fact::IntoInboxes => "only who answers requests may publish into inboxes",
        Fact::OddReplies => "an answer goes to an inbox: the client has to set an inbox prefix",
        Fact::OpensStream(_) => {
            "`consumes` does not need it: the client has to name the consumer in one step"
        }
        Fact::Unnamed(_) => {
            "the client has to give its consumers names: without one, the body of the request may \
             name another's"
        }
        Fact::FoundByAll => "only who is found by a name hears what all are asked",
        Fact::More => "there was too much to keep",
        Fact::Pulls(..) => "the consumer sends its messages, and is not asked for them",
        Fact::Purges(_) => "only who owns the whole bucket may",
        _ => "the draft grants only a part of it",
    }
}
