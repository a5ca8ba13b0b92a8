//! A violation as a log line: the same fields from a guard inside a client and from the follower
//! of a server's log.

use crate::audit_event::{About, Violation};

/// Logs a violation. `id` is the event's in the audit stream; none when it is not told there.
pub fn log(id: Option<&str>, event: &Violation) {
    let Violation {
        seen_by,
        unproved,
        service,
        nkey,
        account,
        revision,
        host,
        server,
        cid,
        client,
        operation,
        subject,
        queue,
        about: About { keyspace, stream, consumer, store, found_as },
        owner,
        missing_rule,
        detail,
        repeats,
        count,
        first,
        last,
    } = event;
    tracing::error!(
        event = "violation", audit = id, seen_by, unproved = unproved.then_some(true), service, nkey, account, revision, host, server,
        cid, client, operation = operation.as_str(), subject, queue, keyspace, stream, consumer, store, found_as, owner,
        missing_rule, detail, repeats, count, first = %first, last = %last,
        "a client went beyond its grant",
    );
}
