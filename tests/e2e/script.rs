//! Scripts of operations with what each must come to, the same for every client library.

use serde_json::{Value, json};
use solewriter_types::subject::Pattern;

use super::clients::Library;
use super::deployment::{Deployment, Service, Violation};

/// What an operation must come to.
enum Outcome {
    /// It gives this.
    Gives(Value),
    /// It fails, and not for want of permission.
    Fails(&'static str),
    /// The server refuses what is tried on this side: each a subject of one of these patterns.
    Refused(&'static str, Vec<String>),
}

/// Operations on one bucket, each with its outcome.
pub struct Script {
    bucket: String,
    steps: Vec<(Value, Outcome)>,
}

impl Script {
    /// Opens the bucket, which works.
    pub fn open(bucket: &str) -> Self {
        Self::on(bucket).gives(json!({"op": "open"}), Value::Null)
    }

    /// Opens the bucket without direct get: nats.js has to be told, the others ask the server.
    pub fn open_without_direct_get(bucket: &str) -> Self {
        Self::on(bucket).gives(json!({"op": "open", "allow_direct": false}), Value::Null)
    }

    /// Opens nothing.
    pub fn on(bucket: &str) -> Self {
        Self { bucket: bucket.to_owned(), steps: Vec::new() }
    }

    pub fn gives(self, operation: Value, result: Value) -> Self {
        self.step(operation, Outcome::Gives(result))
    }

    pub fn fails(self, operation: Value, class: &'static str) -> Self {
        self.step(operation, Outcome::Fails(class))
    }

    /// The operation is refused, because its client may not publish to a subject of `pattern`.
    pub fn refused(self, operation: Value, pattern: &str) -> Self {
        self.step(operation, Outcome::Refused("publish", vec![pattern.to_owned()]))
    }

    /// The same for an operation that tries one subject after the other.
    pub fn refused_both(self, operation: Value, first: &str, then: &str) -> Self {
        self.step(operation, Outcome::Refused("publish", vec![first.to_owned(), then.to_owned()]))
    }

    /// The same for a subscription.
    pub fn refused_to_subscribe(self, operation: Value, pattern: &str) -> Self {
        self.step(operation, Outcome::Refused("subscribe", vec![pattern.to_owned()]))
    }

    /// Adds what only some libraries have or do.
    pub fn when(self, condition: bool, more: impl FnOnce(Self) -> Self) -> Self {
        if condition { more(self) } else { self }
    }

    fn step(mut self, mut operation: Value, outcome: Outcome) -> Self {
        operation["bucket"] = json!(self.bucket);
        self.steps.push((operation, outcome));
        self
    }

    /// Runs it as a service. Every step comes to its outcome; and the server logs a violation
    /// for each refusal, of that service, and none else.
    pub async fn run(self, library: Library, deployment: &Deployment, service: &Service) {
        let operations: Vec<Value> = self.steps.iter().map(|(op, _)| op.clone()).collect();
        let before = deployment.violations().len();
        let lines = library.run(deployment, service, &operations).await;
        assert_eq!(lines.len(), self.steps.len(), "{library:?}: {lines:?}");
        let mut refusals = Vec::new();
        for ((operation, outcome), line) in self.steps.iter().zip(&lines) {
            let shown = format!("{library:?}: {operation}\n  came to {line}");
            let told = line["violations"].as_array().cloned().unwrap_or_default();
            match outcome {
                Outcome::Gives(result) => {
                    assert_eq!(line["ok"], true, "{shown}");
                    assert_eq!(&line["result"], result, "{shown}");
                    assert!(told.is_empty(), "{shown}");
                }
                Outcome::Fails(class) => {
                    assert_eq!(line["error"], *class, "{shown}");
                    assert!(told.is_empty(), "{shown}");
                }
                Outcome::Refused(side, subjects) => {
                    assert_eq!(line["error"], "permissions", "{shown}");
                    assert!(told.len() >= subjects.len(), "{shown}");
                    refusals.push((*side, subjects, told.len(), shown));
                }
            }
        }
        // Every script ends with an answer from the server, so that it has dealt with all of it.
        let logged = deployment.violations().split_off(before);
        let mut logged: &[Violation] = &logged;
        for (side, subjects, count, shown) in refusals {
            let (of_this, rest) = logged.split_at(count.min(logged.len()));
            assert_eq!(of_this.len(), count, "the server did not log it: {shown}");
            for (at, violation) in of_this.iter().enumerate() {
                let (act, subject) = violation.act.split_once(' ').unwrap();
                let pattern = &subjects[at.min(subjects.len() - 1)];
                // What is refused may itself be a pattern, and is compared as the server does.
                let fits = violation.service == service.name
                    && act == side
                    && Pattern::parse(pattern).unwrap().matches_wire(subject);
                assert!(fits, "{violation:?} is no {side} of {pattern}: {shown}");
            }
            logged = rest;
        }
        assert!(logged.is_empty(), "{library:?}: more violations than refusals: {logged:?}");
    }
}

/// An entry, as every library shows it.
pub fn entry(key: &str, value: &str, revision: u64) -> Value {
    json!({"key": key, "value": value, "revision": revision, "operation": "PUT"})
}
