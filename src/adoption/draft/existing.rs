//! What the servers keep today, and its settings in the words of a policy.

use std::collections::BTreeSet;
use std::time::Duration;

use serde::Deserialize;
use serde_json::{Map, Value};

use crate::adoption::evidence::fact::Durables;
use crate::buckets::{Consumer, Consumers, State, Stream};
use solewriter_core::diagnostics::toml::{show_duration, show_size};
use solewriter_core::policy::model::Feature;

/// JetStream's usual time for message ids.
const USUAL_WINDOW: Duration = Duration::from_secs(120);

/// What JetStream has for a consumer that says nothing else.
const USUAL_ACK_WAIT: Duration = Duration::from_secs(30);
const USUAL_PENDING: u64 = 1000;

/// The streams and consumers of today, buckets and object stores among them, as JetStream tells.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Existing {
    /// Every stream; `None` where nobody asked.
    pub streams: Option<Vec<Stream>>,
    /// The consumers of each.
    pub consumers: Vec<Consumers>,
}

/// What a server tells at `/jsz?streams=true&consumers=true&config=true`.
#[derive(Deserialize)]
struct Jsz {
    /// Missing where the question did not ask for it, and where there is no JetStream.
    account_details: Option<Vec<AccountDetail>>,
}

#[derive(Deserialize)]
struct AccountDetail {
    name: String,
    #[serde(default)]
    stream_detail: Vec<StreamDetail>,
}

#[derive(Deserialize)]
struct StreamDetail {
    name: String,
    /// Missing where the question did not ask for it.
    config: Option<Map<String, Value>>,
    #[serde(default)]
    state: State,
    #[serde(default)]
    consumer_detail: Vec<ConsumerDetail>,
}

#[derive(Deserialize)]
struct ConsumerDetail {
    name: String,
    config: Option<Map<String, Value>>,
}

impl Existing {
    /// Adds what one server tells of its streams: the text of its `/jsz`. Each server of a cluster
    /// tells of those that it has; what was told before stays. Without `account`, streams may be in
    /// one account only. Gives the account, if there is one.
    ///
    /// # Errors
    /// A sentence: the text is none of that, or lacks the configurations, or has several accounts.
    pub fn add_jsz(
        &mut self,
        text: &[u8],
        account: Option<&str>,
    ) -> Result<Option<String>, String> {
        const ASK: &str = "ask for /jsz?accounts=true&streams=true&consumers=true&config=true";
        let Jsz { account_details } = serde_json::from_slice(text)
            .map_err(|error| format!("it is not what a server tells at /jsz: {error}"))?;
        let account_details = account_details.ok_or_else(|| format!("it lacks accounts: {ASK}"))?;
        let kept = |one: &AccountDetail| match account {
            Some(account) => one.name == account,
            None => !one.stream_detail.is_empty(),
        };
        let accounts: Vec<AccountDetail> = account_details.into_iter().filter(kept).collect();
        if account.is_none() && accounts.len() > 1 {
            let names: Vec<&str> = accounts.iter().map(|one| one.name.as_str()).collect();
            return Err(format!("it has streams of {}: say of which account", names.join(", ")));
        }
        let name = accounts.first().map(|one| one.name.clone());
        let streams = self.streams.get_or_insert_default();
        for detail in accounts.into_iter().flat_map(|one| one.stream_detail) {
            if streams.iter().any(|known| known.name() == detail.name) {
                continue;
            }
            let config = detail.config.ok_or_else(|| format!("it lacks settings: {ASK}"))?;
            let mut consumers = Vec::new();
            for ConsumerDetail { name, config } in detail.consumer_detail {
                let config = config.ok_or_else(|| format!("it lacks settings: {ASK}"))?;
                consumers.push(Consumer { name, config, num_ack_pending: 0 });
            }
            self.consumers.push(Consumers { stream: detail.name, consumers });
            streams.push(Stream { config, state: detail.state, cluster: None });
        }
        Ok(name)
    }

    /// The durable consumers, where they are known.
    #[must_use]
    pub fn durables(&self) -> Durables {
        self.streams.as_ref()?;
        let of = |listed: &Consumers| {
            let durable = listed.consumers.iter().filter(|consumer| consumer.is_durable());
            durable.map(|c| (listed.stream.clone(), c.name.clone())).collect::<Vec<_>>()
        };
        Some(self.consumers.iter().flat_map(of).collect::<BTreeSet<_>>())
    }

    /// The stream of that name.
    pub(super) fn stream(&self, name: &str) -> Option<&Stream> {
        self.streams.as_ref()?.iter().find(|stream| stream.name() == name)
    }

    /// The durable consumers of a stream.
    pub(super) fn consumers<'e>(&'e self, stream: &'e str) -> impl Iterator<Item = &'e Consumer> {
        let of = self.consumers.iter().filter(move |listed| listed.stream == stream);
        of.flat_map(|listed| &listed.consumers).filter(|consumer| consumer.is_durable())
    }
}

/// A key of a table and its value, as TOML.
pub(super) type Setting = (&'static str, String);

/// A text as TOML, on one line.
pub(super) fn quoted(text: &str) -> String {
    let mut quoted = String::from("\"");
    for c in text.chars() {
        match c {
            '"' | '\\' => quoted.extend(['\\', c]),
            c if c.is_control() || matches!(c, '\u{2028}' | '\u{2029}') => {
                quoted += &format!("\\U{:08X}", u32::from(c));
            }
            c => quoted.push(c),
        }
    }
    quoted + "\""
}

pub(super) fn listed(texts: impl IntoIterator<Item = impl AsRef<str>>) -> String {
    let all: Vec<String> = texts.into_iter().map(|text| quoted(text.as_ref())).collect();
    format!("[{}]", all.join(", "))
}

/// A configuration, read field by field.
#[derive(Clone, Copy)]
pub(super) struct Config<'c>(pub &'c Map<String, Value>);

impl<'c> Config<'c> {
    pub fn text(self, field: &str) -> Option<&'c str> {
        self.0.get(field).and_then(Value::as_str).filter(|text| !text.is_empty())
    }

    pub fn texts(self, field: &str) -> Vec<String> {
        let all = self.0.get(field).and_then(Value::as_array).into_iter().flatten();
        all.filter_map(Value::as_str).map(ToOwned::to_owned).collect()
    }

    fn number(self, field: &str) -> Option<u64> {
        self.0.get(field).and_then(Value::as_u64).filter(|number| *number > 0)
    }

    fn time(self, field: &str) -> Option<Duration> {
        self.number(field).map(Duration::from_nanos)
    }

    fn flag(self, field: &str) -> bool {
        self.0.get(field).and_then(Value::as_bool).unwrap_or_default()
    }

    /// What the filter lets through; nothing for all.
    pub fn filters(self) -> Vec<String> {
        let one = self.text("filter_subject").map(ToOwned::to_owned);
        one.map_or_else(|| self.texts("filter_subjects"), |one| vec![one])
    }

    /// What all that is kept in streams has in common.
    fn kept(self) -> Vec<Setting> {
        let mut all: Vec<Setting> = Vec::new();
        let mut add = |key, value: Option<String>| all.extend(value.map(|value| (key, value)));
        add("description", self.text("description").map(quoted));
        add("max_bytes", self.number("max_bytes").map(|size| quoted(&show_size(size))));
        add("replicas", self.number("num_replicas").filter(|n| *n > 1).map(|n| n.to_string()));
        add("storage", self.text("storage").filter(|s| *s != "file").map(quoted));
        add("compression", self.text("compression").filter(|c| *c == "s2").map(|_| yes()));
        all
    }

    fn duplicate_window(self) -> Option<String> {
        let usual = self.time("max_age").map_or(USUAL_WINDOW, |age| age.min(USUAL_WINDOW));
        self.time("duplicate_window").filter(|w| *w != usual).map(time)
    }

    /// The settings of a bucket that differ from what a policy has without them.
    pub fn bucket(self) -> Vec<Setting> {
        let mut all = self.kept();
        let mut add = |key, value: Option<String>| all.extend(value.map(|value| (key, value)));
        let history = self.number("max_msgs_per_subject").filter(|n| *n > 1);
        add("history", history.map(|n| n.to_string()));
        add("ttl", self.time("max_age").map(time));
        add("key_ttl", self.flag("allow_msg_ttl").then(yes));
        add("limit_markers", self.time("subject_delete_marker_ttl").map(time));
        add("max_value_size", self.number("max_msg_size").map(|size| quoted(&show_size(size))));
        add("discard", self.text("discard").filter(|d| *d == "old").map(quoted));
        add("direct", (!self.flag("allow_direct")).then(no));
        add("rollup", (!self.flag("allow_rollup_hdrs")).then(no));
        add("duplicate_window", self.duplicate_window());
        all
    }

    /// The settings of an object store.
    pub fn store(self) -> Vec<Setting> {
        let mut all = self.kept();
        all.extend(self.time("max_age").map(|age| ("ttl", time(age))));
        all
    }

    /// The settings of a stream, without its subjects.
    pub fn stream(self) -> Vec<Setting> {
        let mut all = self.kept();
        let mut add = |key, value: Option<String>| all.extend(value.map(|value| (key, value)));
        add("retention", self.text("retention").filter(|r| *r != "limits").map(quoted));
        add("max_age", self.time("max_age").map(time));
        add("max_messages", self.number("max_msgs").map(|n| n.to_string()));
        add("max_per_subject", self.number("max_msgs_per_subject").map(|n| n.to_string()));
        add("max_message_size", self.number("max_msg_size").map(|size| quoted(&show_size(size))));
        add("discard", self.text("discard").filter(|d| *d == "new").map(quoted));
        add("duplicate_window", self.duplicate_window());
        add("direct", (!self.flag("allow_direct")).then(no));
        for feature in Feature::ALL {
            add(feature.as_str(), self.flag(feature.config()).then(yes));
        }
        all
    }

    /// The settings of a consumer that `state apply` makes, without its filter.
    pub fn consumer(self) -> Vec<Setting> {
        let mut all: Vec<Setting> = Vec::new();
        let mut add = |key, value: Option<String>| all.extend(value.map(|value| (key, value)));
        let backoff: Vec<String> = self
            .0
            .get("backoff")
            .and_then(Value::as_array)
            .into_iter()
            .flatten()
            .filter_map(Value::as_u64)
            .map(|pause| show_duration(Duration::from_nanos(pause)))
            .collect();
        let acks = self.text("ack_policy") != Some("none");
        let wait =
            self.time("ack_wait").filter(|wait| *wait != USUAL_ACK_WAIT && backoff.is_empty());
        let pending = self.number("max_ack_pending").filter(|most| *most != USUAL_PENDING);
        let push = self.text("deliver_subject").is_some();
        let group = self.text("deliver_group").filter(|_| push);
        let heartbeat = self.time("idle_heartbeat").filter(|_| push && group.is_none());
        add("description", self.text("description").map(quoted));
        add("ack", self.text("ack_policy").filter(|ack| *ack != "explicit").map(quoted));
        add("ack_wait", wait.filter(|_| acks).map(time));
        add("max_deliver", self.number("max_deliver").map(|n| n.to_string()));
        add("backoff", (acks && !backoff.is_empty()).then(|| listed(&backoff)));
        add("max_ack_pending", pending.filter(|_| acks).map(|n| n.to_string()));
        add("deliver", self.text("deliver_policy").filter(|d| *d != "all").map(quoted));
        add("start_sequence", self.number("opt_start_seq").map(|n| n.to_string()));
        add("start_time", self.text("opt_start_time").map(quoted));
        add("replay", self.text("replay_policy").filter(|r| *r != "instant").map(quoted));
        add("inactive", self.time("inactive_threshold").map(time));
        add("push", push.then(yes));
        add("group", group.map(quoted));
        add("heartbeat", heartbeat.map(time));
        add("flow_control", (heartbeat.is_some() && self.flag("flow_control")).then(yes));
        let priority = self.text("priority_policy").filter(|p| *p != "none" && !push);
        add("priority", priority.map(quoted));
        let named = self.texts("priority_groups").into_iter().next();
        add("priority_group", named.filter(|_| priority.is_some()).map(|name| quoted(&name)));
        let pinned = priority == Some("pinned_client");
        add("priority_timeout", self.time("priority_timeout").filter(|_| pinned).map(time));
        all
    }

    /// Why a stream with these settings is not safe for several writers, apart from the time for
    /// message ids, which can be shortened.
    pub fn harm(self) -> Option<String> {
        let capped = self.number("max_bytes").is_some() || self.number("max_msgs").is_some();
        if capped && self.text("discard") != Some("new") {
            return Some(
                "when it is full, one writer's messages drop those of the others".to_owned(),
            );
        }
        let harmful = Feature::ALL.into_iter().filter(|feature| feature.harm().is_some());
        let mut on = harmful.filter(|feature| self.flag(feature.config()));
        on.next().map(|feature| {
            format!("it has `{}`, by which one writer reaches the others", feature.as_str())
        })
    }
}

fn time(time: Duration) -> String {
    quoted(&show_duration(time))
}

fn yes() -> String {
    "true".to_owned()
}

fn no() -> String {
    "false".to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn servers_of_a_cluster_tell_together_what_there_is() {
        let stream = |name: &str| {
            format!(
                r#"{{"name": "{name}", "config": {{"name": "{name}"}}, "consumer_detail":
                   [{{"name": "c", "config": {{"durable_name": "c"}}}}]}}"#
            )
        };
        let said = |accounts: &[(&str, &[&str])]| {
            let detail = |(name, streams): &(&str, &[&str])| {
                let streams: Vec<String> = streams.iter().map(|name| stream(name)).collect();
                format!(r#"{{"name": "{name}", "stream_detail": [{}]}}"#, streams.join(","))
            };
            let accounts: Vec<String> = accounts.iter().map(detail).collect();
            format!(r#"{{"memory": 0, "account_details": [{}]}}"#, accounts.join(","))
        };
        let mut existing = Existing::default();
        let (one, two) = (said(&[("A", &["X"]), ("B", &[])]), said(&[("A", &["X", "Y"])]));
        existing.add_jsz(one.as_bytes(), None).unwrap();
        existing.add_jsz(two.as_bytes(), None).unwrap();
        let names = |existing: &Existing| {
            let streams = existing.streams.iter().flatten();
            streams.map(|stream| stream.name().to_owned()).collect::<Vec<_>>()
        };
        assert_eq!(names(&existing), ["X", "Y"], "each once");
        assert_eq!(existing.durables().unwrap().len(), 2);

        let both = said(&[("A", &["X"]), ("B", &["Z"])]);
        let mut existing = Existing::default();
        let said = existing.add_jsz(both.as_bytes(), None).unwrap_err();
        assert_eq!(said, "it has streams of A, B: say of which account");
        existing.add_jsz(both.as_bytes(), Some("B")).unwrap();
        assert_eq!(names(&existing), ["Z"]);
        for (text, part) in [
            ("", "not what a server tells"),
            (r#"{"disabled": true}"#, "it lacks accounts: ask for /jsz?"),
            (
                r#"{"account_details": [{"name": "A", "stream_detail": [{"name": "X"}]}]}"#,
                "settings",
            ),
        ] {
            let error = Existing::default().add_jsz(text.as_bytes(), None).unwrap_err();
            assert!(error.contains(part), "{error}");
        }
    }
}
