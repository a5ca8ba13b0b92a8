//! The ways in which a user writes what is not its own: by publishing, by a reply subject, by
//! JetStream's API.

use solewriter_types::subject::Pattern;

use crate::adoption::server_config::permissions::{Allowed, Rights};

/// Requests to JetStream's API that change, empty or delete a stream.
const CHANGES: [&str; 6] = [
    "STREAM.CREATE.*",
    "STREAM.UPDATE.*",
    "STREAM.DELETE.*",
    "STREAM.PURGE.*",
    "STREAM.MSG.DELETE.*",
    "STREAM.RESTORE.*",
];

/// What JetStream answers: its API, a put, and an acknowledgement that asks for one. A publish to
/// what another stream keeps is answered too, but no configuration says what that is.
const ANSWERED: [&str; 4] = ["$JS.API.>", "$JS.*.API.>", "$KV.*.>", "$JS.ACK.>"];

pub(super) fn pattern(text: &str) -> Option<Pattern> {
    Pattern::parse(text).ok()
}

/// JetStream's API, under its own name and a domain's.
fn api(request: &str) -> impl Iterator<Item = Pattern> + use<> {
    [format!("$JS.API.{request}"), format!("$JS.*.API.{request}")]
        .into_iter()
        .filter_map(|text| pattern(&text))
}

/// The requests that change, empty or delete a stream; `*` is any.
pub(super) fn changes(stream: &str) -> Vec<Pattern> {
    CHANGES.iter().flat_map(|request| api(&request.replacen('*', stream, 1))).collect()
}

/// By what a user may change, empty or delete a stream.
#[must_use]
pub fn by_change<'r>(rights: &'r Rights, stream: &str) -> Option<&'r Allowed> {
    changes(stream).iter().find_map(|request| rights.publishes(request).next())
}

/// By what a user may have its answer stored under a subject of its choice: it publishes what
/// JetStream answers, or one of `answered`, and names that subject as the reply.
#[must_use]
pub fn by_reply<'r>(rights: &'r Rights, answered: &[Pattern]) -> Option<&'r Allowed> {
    let always = ANSWERED.into_iter().filter_map(pattern);
    always.chain(answered.iter().cloned()).find_map(|wanted| rights.publishes(&wanted).next())
}

/// What a permission says, for a message.
#[must_use]
pub fn says(allowed: &Allowed) -> String {
    let what = if allowed.by_silence { "no list of subjects" } else { allowed.subject.as_str() };
    let mut except: Vec<&str> = allowed.except.iter().map(|rule| rule.subject.as_str()).collect();
    except.truncate(3);
    match except.as_slice() {
        [] => what.to_owned(),
        _ => format!("{what} without {}", except.join(", ")),
    }
}
