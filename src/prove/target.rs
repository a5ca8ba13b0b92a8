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

/// A stream to make.
pub(super) struct Made {
    /// Its name.
    pub name: String,
    /// Its settings.
    pub config: Value,
    /// What is stored in it: subjects and texts.
    pub stored: Vec<(String, &'static str)>,
}

impl Target {
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
            Self::Stream => "log.{victim}.new",
            Self::WorkQueue => "work.{victim}.new",
            Self::Shared => "both.{victim}.theirs.new",
            Self::Store => "$O.{victim}.M.b25l",
        }
    }

    /// What the subjects begin with that are the attacker's to write.
    pub(super) fn attackers(self) -> Option<&'static str> {
        match self {
            Self::Bucket => Some("$KV.{victim}.mine."),
            Self::Shared => Some("both.{victim}.mine."),
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
        let config = |subjects: &[&str], more: &Value| {
            let mut config = json!({"subjects": subjects, "description": MADE_BY,
                "storage": "memory", "allow_direct": true});
            if let (Some(config), Some(more)) = (config.as_object_mut(), more.as_object()) {
                config.extend(more.clone());
            }
            config
        };
        let own = |text: &str| text.replace("{victim}", "{mine}");
        let plain = |subjects: &str, settings: &Value, owner: &str, text: &'static str| {
            let written = vec![(owner.to_owned(), text), (owner.to_owned(), text)];
            (config(&[subjects], settings), written)
        };
        match self {
            Self::Bucket => Vec::new(),
            Self::Stream | Self::WorkQueue => {
                let (all, settings) = match self {
                    Self::WorkQueue => ("work.{victim}.>", json!({"retention": "workqueue"})),
                    _ => ("log.{victim}.>", Value::Null),
                };
                let (theirs, stored) = plain(all, &settings, self.written(), "{secret}");
                let (mine, own_stored) =
                    plain("log.{mine}.>", &Value::Null, "log.{mine}.payload", "the attacker's");
                vec![
                    Made { name: self.stream().to_owned(), config: theirs, stored },
                    Made { name: "log-{mine}".to_owned(), config: mine, stored: own_stored },
                ]
            }
            Self::Shared => {
                let window = json!({"duplicate_window": 100_000_000, "allow_rollup_hdrs": false});
                let (both, stored) = plain("both.{victim}.>", &window, self.written(), "{secret}");
                vec![Made { name: self.stream().to_owned(), config: both, stored }]
            }
            Self::Store => {
                let subjects = ["$O.{victim}.C.>", "$O.{victim}.M.>"];
                let settings = json!({"allow_rollup_hdrs": true, "discard": "new"});
                let stored = |subject: &str, text| (subject.to_owned(), text);
                let theirs = vec![
                    stored("$O.{victim}.C.chunk", "{secret}"),
                    stored(self.written(), "{\"name\":\"one\",\"nuid\":\"chunk\"}"),
                ];
                let mine = vec![stored("$O.{mine}.C.payload", "the attacker's")];
                let own_subjects = subjects.map(own);
                let own_subjects = [own_subjects[0].as_str(), own_subjects[1].as_str()];
                vec![
                    Made {
                        name: self.stream().to_owned(),
                        config: config(&subjects, &settings),
                        stored: theirs,
                    },
                    Made {
                        name: own(self.stream()),
                        config: config(&own_subjects, &settings),
                        stored: mine,
                    },
                ]
            }
        }
    }
}
