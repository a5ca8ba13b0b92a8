//! The table: every attack, by family.

#![allow(clippy::too_many_lines, reason = "a table is as long as it is")]

mod administration;
mod audit;
mod found;
mod headers;
mod push;
mod reading;
mod replies;
mod responders;
mod streams;

use super::Family;

/// Every attack that is nothing but lines of the protocol.
#[must_use]
pub fn families() -> Vec<Family> {
    vec![
        super::identity::family(),
        replies::family(),
        responders::family(),
        push::family(),
        administration::streams(),
        administration::consumers(),
        administration::servers(),
        headers::family(),
        reading::values(),
        reading::others(),
        streams::writing(),
        streams::consumers(),
        streams::replays(),
        streams::shared(),
        streams::stores(),
        found::family(),
        audit::family(),
    ]
}

/// JetStream's own account is why.
const ACCOUNT: &str = "the answer is made in STATE and goes back to APP, where no stream listens";
/// Permissions are why.
const NOT_GRANTED: &str = "no rule grants the subject";
/// It is on the list of what nothing grants.
const NEVER: &str = "never granted, whatever the policy says";
