//! What names may be, and what may be defined once.

use super::settings::shown;
use crate::diagnostics::{Collector, Problem, Span, Spanned};
use crate::policy::model::StreamName;
use solewriter_types::audit_event::PRODUCER;

/// The longest service name. It is one token of its inbox, and part of its user name.
pub const MAX_NAME_CHARS: usize = 64;

/// A problem: two tables of one name. Within a file, TOML refuses it already.
pub fn defined_twice(what: &str, name: &Spanned<String>, first: &Span) -> Problem {
    let code = match what {
        "bucket" => "duplicate-bucket",
        "role" => "duplicate-role",
        "stream" => "duplicate-stream",
        "store" => "duplicate-store",
        _ => "duplicate-service",
    };
    Problem::error(code, format!("{what} `{}` is defined twice", name.value))
        .at(&name.span, "defined again here")
        .also(first, "first defined here")
        .help("merge the two tables, or give one of them another name")
}

/// Reports a name that is not one token of safe characters.
pub fn check_name(what: &str, name: &Spanned<String>, problems: &Collector) {
    let text = name.value.as_str();
    let allowed = |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | '-');
    let reason = if text.is_empty() {
        "it is empty".to_owned()
    } else if let Some(bad) = text.chars().find(|c| !allowed(*c)) {
        format!("it contains {bad:?}")
    } else if text.len() > MAX_NAME_CHARS {
        format!("it has {} characters", text.len())
    } else if what == "service" && text == PRODUCER {
        // Inboxes of admins pass from their accounts into the services'.
        let problem = Problem::error("reserved-name", format!("`{text}` cannot name a service"))
            .at(&name.span, "it would hear the answers to solewriter's own users, values and all")
            .help("give it another name");
        problems.push(problem);
        return;
    } else {
        return;
    };
    problems.push(
        Problem::error("bad-name", format!("`{}` cannot name a {what}: {reason}", shown(text)))
            .at(&name.span, "")
            .help(format!("use 1 to {MAX_NAME_CHARS} letters, digits, `_` and `-`")),
    );
}

/// A name of a stream or consumer that nothing else can be taken for.
pub fn stream_name(what: &str, name: &Spanned<String>, problems: &Collector) -> Option<StreamName> {
    let text = name.value.as_str();
    let reason = match StreamName::parse(text).and_then(StreamName::acknowledged) {
        Err(error) => error,
        Ok(name) => return Some(name),
    };
    problems.push(
        Problem::error("bad-name", format!("`{}` cannot name a {what}: {reason}", shown(text)))
            .at(&name.span, "")
            .help("use 1 to 64 letters, digits, `_` and `-`, and at least one letter"),
    );
    None
}

/// Reports all but the first table of a kind that a policy has once.
pub fn only_one<'s>(name: &str, mut spans: impl Iterator<Item = &'s Span>, problems: &Collector) {
    let Some(first) = spans.next() else { return };
    for span in spans {
        problems.push(
            Problem::error("duplicate-table", format!("`{name}` is defined twice"))
                .at(span, "defined again here")
                .also(first, "first defined here")
                .help("merge the two tables"),
        );
    }
}
