//! Typed access to a tree that reports what does not fit.

use solewriter_core::diagnostics::{Collector, Problem, Spanned};
use solewriter_types::subject::Pattern;

use super::super::syntax::{Entry, Map, Node, Value};

/// Takes values apart. What does not fit becomes a problem.
#[derive(Clone, Copy)]
pub(super) struct Reader<'c> {
    pub problems: &'c Collector,
}

impl Reader<'_> {
    /// Something is of the wrong kind. Its words are not told.
    pub fn unfit(self, node: &Node, expected: &str) {
        let message = format!("{} where {expected} should be", node.value.kind());
        let mut problem = Problem::error("server-config-kind", message)
            .at(&node.span, format!("write {expected}"));
        if let Some(defined) = node.variable.as_ref().and_then(|v| v.defined.as_ref()) {
            problem = problem.also(defined, "the variable is set here");
        }
        self.problems.push(problem);
    }

    /// A key that nobody here knows.
    pub fn unknown(self, entry: &Entry, of: &str) {
        if !entry.used {
            self.problems.push(
                Problem::note("server-config-unknown", format!("a key of {of} is not known"))
                    .at(&entry.key.span, "not looked at"),
            );
        }
    }

    pub fn map<'n>(self, node: &'n Node, expected: &str) -> Option<&'n Map> {
        if let Value::Map(map) = &node.value {
            return Some(map);
        }
        self.unfit(node, expected);
        None
    }

    pub fn list<'n>(self, node: &'n Node, expected: &str) -> &'n [Node] {
        if let Value::List(list) = &node.value {
            return list;
        }
        self.unfit(node, expected);
        &[]
    }

    pub fn text(self, node: &Node) -> Option<Spanned<String>> {
        if let Value::String(text) = &node.value {
            return Some(Spanned::new(text.clone(), node.span.clone()));
        }
        self.unfit(node, "a text in quotes");
        None
    }

    /// One text, or a list of them.
    pub fn texts(self, node: &Node) -> Vec<Spanned<String>> {
        match &node.value {
            Value::List(list) => list.iter().filter_map(|node| self.text(node)).collect(),
            _ => self.text(node).into_iter().collect(),
        }
    }

    pub fn boolean(self, node: &Node) -> bool {
        if let Value::Bool(value) = &node.value {
            return *value;
        }
        self.unfit(node, "true or false");
        false
    }

    /// On or off, in the words that the server takes for JetStream. A map is on.
    pub fn switch(self, node: &Node) -> bool {
        match &node.value {
            Value::Bool(on) => *on,
            Value::Map(map) => map.get("enabled").is_none_or(|entry| self.boolean(&entry.value)),
            Value::String(text) => match text.to_ascii_lowercase().as_str() {
                "enabled" | "enable" => true,
                "disabled" | "disable" => false,
                _ => {
                    self.unfit(node, "`enabled` or `disabled`");
                    false
                }
            },
            _ => {
                self.unfit(node, "`enabled`, `disabled` or a map");
                false
            }
        }
    }

    /// A subject, maybe with wildcards.
    pub fn subject(self, text: &Spanned<String>) -> Option<Pattern> {
        match Pattern::parse(&text.value) {
            Ok(pattern) => Some(pattern),
            Err(error) => {
                self.problems.push(
                    Problem::error("server-config-subject", format!("no subject: {error}"))
                        .at(&text.span, "not a subject"),
                );
                None
            }
        }
    }
}
