//! Permissions in every shape that nats-server takes.

use solewriter_core::diagnostics::{Problem, Spanned};

use super::reader::Reader;
use super::{Permissions, Responses, Rule, Rules};
use crate::adoption::server_config::syntax::{Node, Value};

impl Reader<'_> {
    pub fn permissions(self, node: &Node) -> Option<Permissions> {
        let map = self.map(node, "a map with `publish` and `subscribe`")?;
        let mut permissions = Permissions {
            span: node.span.clone(),
            publish: None,
            subscribe: None,
            responses: None,
        };
        for entry in map.entries() {
            match entry.key.value.to_ascii_lowercase().as_str() {
                "pub" | "publish" | "import" => {
                    permissions.publish = Some(self.rules(&entry.value, false));
                }
                "sub" | "subscribe" | "export" => {
                    permissions.subscribe = Some(self.rules(&entry.value, true));
                }
                "publish_allow_responses" | "allow_responses" => {
                    permissions.responses = self.responses(&entry.value);
                }
                _ => self.unknown(entry, "permissions"),
            }
        }
        // Who may answer, and is allowed nothing else in words, may publish nothing else.
        if let Some(responses) = &permissions.responses {
            let rules = permissions.publish.get_or_insert_with(|| Rules {
                span: responses.span.clone(),
                allow: None,
                deny: Vec::new(),
            });
            rules.allow.get_or_insert_with(Vec::new);
        }
        Some(permissions)
    }

    /// A subject, a list of them, or `{allow, deny}`.
    fn rules(self, node: &Node, queues: bool) -> Rules {
        let span = node.span.clone();
        let Value::Map(map) = &node.value else {
            let allow = self.subjects(node, queues);
            return Rules { span, allow, deny: Vec::new() };
        };
        let mut rules = Rules { span, allow: None, deny: Vec::new() };
        for entry in map.entries() {
            match entry.key.value.to_ascii_lowercase().as_str() {
                "allow" => rules.allow = self.subjects(&entry.value, queues),
                "deny" => rules.deny = self.subjects(&entry.value, queues).unwrap_or_default(),
                _ => self.unknown(entry, "publish or subscribe permissions"),
            }
        }
        rules
    }

    /// `None` for an empty list: to the server, that is no list.
    fn subjects(self, node: &Node, queues: bool) -> Option<Vec<Rule>> {
        let texts = self.texts(node);
        if texts.is_empty() {
            return None;
        }
        Some(texts.iter().filter_map(|text| self.rule(text, queues)).collect())
    }

    fn rule(self, text: &Spanned<String>, queues: bool) -> Option<Rule> {
        let mut words = text.value.split_whitespace();
        let (subject, queue, more) = (words.next().unwrap_or_default(), words.next(), words.next());
        if more.is_some() || (queue.is_some() && !queues) {
            self.problems.push(
                Problem::error("server-config-subject", "a subject with spaces")
                    .at(&text.span, "not a subject")
                    .help("write a list; only what may be subscribed to has a queue group"),
            );
            return None;
        }
        let subject = self.subject(&Spanned::new(subject.to_owned(), text.span.clone()))?;
        Some(Rule { subject, queue: queue.map(str::to_owned), span: text.span.clone() })
    }

    fn responses(self, node: &Node) -> Option<Responses> {
        let mut responses = Responses { span: node.span.clone(), max: None, expires: None };
        match &node.value {
            Value::Bool(on) => on.then_some(responses),
            Value::Map(map) => {
                for entry in map.entries() {
                    let value = &entry.value.value;
                    match entry.key.value.to_ascii_lowercase().as_str() {
                        "max" | "max_msgs" | "max_messages" | "max_responses" => match value {
                            Value::Integer(max) => responses.max = Some(*max),
                            _ => self.unfit(&entry.value, "a whole number"),
                        },
                        "expires" | "expiration" | "ttl" => match value {
                            Value::String(text) => responses.expires = Some(text.clone()),
                            _ => self.unfit(&entry.value, "a duration in quotes"),
                        },
                        _ => self.unknown(entry, "allow_responses"),
                    }
                }
                Some(responses)
            }
            _ => {
                self.unfit(node, "true, or a map with `max` and `expires`");
                None
            }
        }
    }
}
