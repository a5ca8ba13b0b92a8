//! What of the victim's is under attack: a bucket, or something else that JetStream keeps.

use serde_json::{Value, json};

/// The description of every stream that is made for attacks, or by one, by which it can be told.
pub const MADE_BY: &str = "made by solewriter for its attacks on itself; may be deleted";
/// The consumer that the victim watches with; its name is known to the attacker.
pub const WATCH: &str = "watch";
/// A consumer that the victim pulls from.
pub const PULL: &str = "pull";
/// The same, but durable.
pub const DURABLE: &str = "durable";

/// What of the victim's is under attack. Each is kept by one stream. In every text, `{victim}`
/// stands for its name, and `{mine}` for the name of the attacker's own.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Target {
    /// A bucket.
    #[default]
    Bucket,
    /// A stream that the victim alone writes, with a durable consumer of the victim's. It has been
    /// given the first message, and has not acknowledged it.
    Stream,
    /// The same as a work queue.
    WorkQueue,
    /// A stream in which the attacker has subjects of its own.
    Shared,
    /// An object store.
    Store,
}

/// What an attack needs that not every deployment has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Need {
    /// What the victim writes there is stored: its subjects pass into the account of the buckets.
    Stored,
    /// The attacker may look at a durable consumer of its own.
    Consumer,
    /// Acknowledgements pass, and the attacker may acknowledge what it was given.
    Acks,
    /// The attacker may open the victim's stream, of which it replays a part.
    Replay,
}

/// A stream to make.
pub(super) struct Made {
    /// Its name.
    pub name: &'static str,
    /// What it is like beside what every one is.
    pub settings: Value,
    /// What is stored in it: subjects and texts.
    pub stored: Vec<(&'static str, &'static str)>,
}

impl Target {
    /// Every one.
    pub(super) const ALL: [Self; 5] =
        [Self::Bucket, Self::Stream, Self::WorkQueue, Self::Shared, Self::Store];

    /// Its stream.
    #[must_use]
    pub fn stream(self) -> &'static str {
        match self {
            Self::Bucket => "KV_{victim}",
            Self::Stream => "log-{victim}",
            Self::WorkQueue => "work-{victim}",
            Self::Shared => "both-{victim}",
            Self::Store => "OBJ_{victim}",
        }
    }

    /// A subject that the victim writes.
    #[must_use]
    pub fn written(self) -> &'static str {
        match self {
            Self::Bucket => "$KV.{victim}.theirs.k1",
            Self::Stream => "attack.log.{victim}.new",
            Self::WorkQueue => "attack.work.{victim}.new",
            Self::Shared => "attack.both.{victim}.theirs.new",
            Self::Store => "$O.{victim}.M.b25l",
        }
    }

    /// What the subjects begin with that are the attacker's to write.
    pub(super) fn attackers(self) -> Option<&'static str> {
        match self {
            Self::Bucket => Some("$KV.{victim}.mine."),
            Self::Shared => Some("attack.both.{victim}.mine."),
            Self::Stream | Self::WorkQueue | Self::Store => None,
        }
    }

    /// The victim's consumers.
    pub(super) fn consumers(self) -> &'static [&'static str] {
        match self {
            Self::Bucket => &[WATCH, PULL, DURABLE],
            Self::Stream | Self::WorkQueue => &[DURABLE],
            Self::Shared | Self::Store => &[],
        }
    }

    /// The streams to make: the victim's, and the attacker's own of that kind. A bucket is made in any
    /// case.
    pub(super) fn streams(self) -> Vec<Made> {
        let twice = |subject: &'static str, text| vec![(subject, text), (subject, text)];
        let theirs = |settings, stored| Made { name: self.stream(), settings, stored };
        let log = Made {
            name: "log-{mine}",
            settings: json!({"subjects": ["attack.log.{mine}.>"]}),
            stored: twice("attack.log.{mine}.payload", "the attacker's"),
        };
        match self {
            Self::Bucket => Vec::new(),
            Self::Stream => {
                let settings = json!({"subjects": ["attack.log.{victim}.>"]});
                vec![theirs(settings, twice(self.written(), "{secret}")), log]
            }
            Self::WorkQueue => {
                let settings =
                    json!({"subjects": ["attack.work.{victim}.>"], "retention": "workqueue"});
                vec![theirs(settings, twice(self.written(), "{secret}")), log]
            }
            Self::Shared => {
                let settings = json!({"subjects": ["attack.both.{victim}.>"],
                    "duplicate_window": 100_000_000, "allow_rollup_hdrs": false});
                vec![theirs(settings, twice(self.written(), "{secret}"))]
            }
            Self::Store => {
                let settings = |store: &str| {
                    json!({"subjects": [format!("$O.{store}.C.>"), format!("$O.{store}.M.>")],
                        "allow_rollup_hdrs": true, "discard": "new"})
                };
                let stored = vec![
                    ("$O.{victim}.C.chunk", "{secret}"),
                    (self.written(), "{\"name\":\"one\",\"nuid\":\"chunk\"}"),
                ];
                let own = Made {
                    name: "OBJ_{mine}",
                    settings: settings("{mine}"),
                    stored: vec![("$O.{mine}.C.payload", "the attacker's")],
                };
                vec![theirs(settings("{victim}"), stored), own]
            }
        }
    }
}
