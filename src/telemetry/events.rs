//! Audit events as log lines: the same fields, by the same names, from the same values.

use solewriter_core::callout::request::{AskingServer, Rejection};
use solewriter_types::advisories;
use solewriter_types::audit_event::words;
use solewriter_types::audit_event::{
    Authorisation, EmergencyBegan, EmergencyEnded, EmergencyIgnored, Event, HandedOver, Lost,
    Names, Outcome, PolicyAccepted, PolicyRefused, Record, RequestRejected, SessionClosed, Source,
    Started, Stopped, Trouble,
};
use solewriter_types::violation_log;

/// Logs what a server's version is known to let through. Not an audit event: it is about the
/// deployment, and `doctor` says it too.
pub fn log_defects(server: &AskingServer) {
    for (defect, opens) in advisories::opened_in(&server.version) {
        tracing::error!(
            event = "server_defect",
            server = words(&server.name),
            server_id = %server.key,
            version = words(&server.version),
            defect = defect.name,
            detail = opens.reason,
            "{}",
            opens.mitigation,
        );
    }
}

/// Problems as text for a line of the log: the first error, and how many more there are.
pub fn brief(problems: &str, errors: u64) -> String {
    let mut parts = problems.split("\n\n");
    let is_error = |part: &&str| part.starts_with("error");
    let first = parts.clone().find(is_error).or_else(|| parts.next()).unwrap_or_default();
    match errors.saturating_sub(1) {
        0 => first.to_owned(),
        1 => format!("{first}\n\n... and 1 more error: `solewriter check` shows it"),
        more => format!("{first}\n\n... and {more} more errors: `solewriter check` shows them"),
    }
}

/// Logs that servers of several clusters work together. Not an audit event: as above.
pub fn log_gateways(clusters: &str) {
    tracing::error!(
        event = "gateways",
        clusters = words(clusters),
        "servers of several clusters are joined by gateways: if more than one of them has streams, \
         any service that reads a bucket overwrites and erases buckets of another cluster. Have all \
         streams in one cluster, and name it in [state] cluster: docs/shapes.md",
    );
}

/// Logs one event. `audit` in the line is the event's id in the audit stream.
pub fn log_event(source: &Source, record: &Record) {
    let id = source.id(record.sequence);
    match &record.event {
        Event::Authorisation(event) => authorisation(&id, event),
        Event::RequestRejected(event) => {
            let RequestRejected { reason, detail } = event;
            // Nobody gets in then, and it does not mend itself.
            if reason == Rejection::OTHER_ISSUER {
                tracing::error!(event = "request_rejected", audit = id, reason, detail);
            } else {
                tracing::warn!(
                    event = "request_rejected",
                    audit = id,
                    reason,
                    detail,
                    "a request on $SYS.REQ.USER.AUTH was ignored",
                );
            }
        }
        Event::PolicyAccepted(event) => policy_accepted(&id, event),
        Event::PolicyRefused(event) => {
            let PolicyRefused { revision, origin, errors, faults: _, problems } = &**event;
            tracing::error!(
                event = "policy_refused",
                audit = id,
                revision,
                from = origin.from,
                place = origin.place,
                author = origin.author,
                message_of_push = origin.message,
                number = origin.number,
                errors,
                problems = brief(problems, *errors),
                "{}",
                if revision.is_some() {
                    "the change was refused as a whole; the previous policy stays in force"
                } else {
                    "the policy was refused as a whole; none is in force, and nobody is let in"
                },
            );
        }
        Event::SessionClosed(event) => session_closed(&id, event),
        Event::HandedOver(event) => handed_over(&id, event),
        Event::EmergencyBegan(_) | Event::EmergencyEnded(_) | Event::EmergencyIgnored(_) => {
            emergency(&id, &record.event);
        }
        Event::Violation(event) => violation_log::log(Some(&id), event),
        Event::Started(event) => {
            let Started { version, issuer, xkey } = event;
            tracing::info!(
                event = "started",
                audit = id,
                producer = source.producer,
                instance = source.instance,
                version,
                issuer,
                xkey,
            );
        }
        Event::Stopped(event) => {
            let Stopped { version, reason, detail, ran_seconds } = event;
            tracing::info!(
                event = "ended",
                audit = id,
                producer = source.producer,
                instance = source.instance,
                version,
                reason,
                detail,
                ran_seconds,
            );
        }
        Event::Trouble(event) => {
            let Trouble { reason, detail, service } = event;
            tracing::error!(event = reason, audit = id, service, "{detail}");
        }
        Event::Lost(event) => {
            let Lost { reason, count, instance, first, last } = event;
            tracing::error!(
                event = "audit_lost",
                audit = id,
                reason,
                count,
                instance,
                first,
                last,
                "events are missing from the audit stream; this log has them",
            );
        }
    }
}

fn authorisation(id: &str, event: &Authorisation) {
    let Authorisation {
        outcome,
        reason,
        detail,
        service,
        nkey,
        former_service,
        former_revision,
        host,
        connection,
        client,
        library,
        server,
        server_id,
        cid,
        account,
        revision,
        grant,
        expires,
        decision,
        took_us,
        unanswered,
        traceparent,
    } = event;
    if let Some(error) = unanswered {
        tracing::error!(event = "answer_failed", decision, server, server_id, cid, error);
    }
    let denied = *outcome == Outcome::Denied;
    let outcome = outcome.as_str();
    let expires = expires.map(jiff::Timestamp::as_second);
    // A refusal always has these two, so that its lines can be compared.
    let nobody = denied.then_some("-");
    let (service, nkey) = (service.as_deref().or(nobody), nkey.as_deref().or(nobody));
    macro_rules! told {
        ($level:ident) => {
            tracing::$level!(
                event = "authorisation",
                audit = id,
                outcome,
                reason,
                service,
                nkey,
                former_service,
                former_revision,
                host,
                connection,
                client,
                library,
                server,
                server_id,
                cid,
                account,
                revision,
                grant,
                expires,
                decision,
                took_us,
                traceparent,
                detail,
            )
        };
    }
    if denied {
        told!(warn);
    } else {
        told!(info);
    }
}

fn policy_accepted(id: &str, event: &PolicyAccepted) {
    let PolicyAccepted { revision, before, origin, services, buckets, warnings, changes } = event;
    let names = |list: Option<&Names>| list.map(|list| list.names.join(" "));
    tracing::info!(
        event = if before.is_some() { "policy_changed" } else { "policy_loaded" },
        audit = id,
        revision,
        before,
        from = origin.from,
        place = origin.place,
        author = origin.author,
        signed_by = origin.signed_by,
        message_of_push = origin.message,
        number = origin.number,
        services,
        buckets,
        warnings,
        added = names(changes.as_ref().map(|c| &c.added)),
        removed = names(changes.as_ref().map(|c| &c.removed)),
        changed = names(changes.as_ref().map(|c| &c.changed)),
        transferred = changes.as_ref().map(|c| c.transferred),
        gained = changes.as_ref().map(|c| c.gained),
        gains = changes.as_ref().map(|c| c.gains.join("; ")),
        lost = changes.as_ref().map(|c| c.lost),
        losses = changes.as_ref().map(|c| c.losses.join("; ")),
        "policy read",
    );
}

/// What became of an emergency grant.
fn emergency(id: &str, event: &Event) {
    match event {
        Event::EmergencyBegan(event) => {
            let EmergencyBegan { id: grant, service, keyspace, owner, by, reason, .. } = event;
            tracing::warn!(
                event = "emergency_began",
                audit = id,
                grant,
                service,
                keyspace,
                owner,
                by,
                reason,
                until = %event.until,
                revision = event.revision,
                "a person broke the glass: this service writes the keyspace until then",
            );
        }
        Event::EmergencyEnded(event) => {
            let EmergencyEnded { id: grant, service, keyspace, by, cause, detail, .. } = event;
            tracing::warn!(
                event = "emergency_ended",
                audit = id,
                grant,
                service,
                keyspace,
                by,
                cause,
                detail,
                reason = event.reason,
                until = %event.until,
                revision = event.revision,
            );
        }
        Event::EmergencyIgnored(event) => {
            let EmergencyIgnored { cause, detail } = event;
            tracing::error!(
                event = "emergency_ignored",
                audit = id,
                cause,
                detail,
                "somebody put a document of an emergency in place that grants nothing",
            );
        }
        _ => {}
    }
}

fn handed_over(id: &str, event: &HandedOver) {
    let HandedOver { what, from, to, vacant_ms, forced, revision, number } = event;
    macro_rules! told {
        ($level:ident) => {
            tracing::$level!(
                event = "handed_over",
                audit = id,
                what,
                from,
                to,
                vacant_ms,
                forced,
                revision,
                number,
            )
        };
    }
    // Somebody may still write it on a server that did not answer.
    if *forced {
        told!(warn);
    } else {
        told!(info);
    }
}

fn session_closed(id: &str, event: &SessionClosed) {
    let SessionClosed {
        outcome,
        reason,
        detail,
        service,
        nkey,
        host,
        server,
        server_id,
        cid,
        account,
        revision,
        had_revision,
        grant,
        had_grant,
    } = event;
    macro_rules! told {
        ($level:ident) => {
            tracing::$level!(
                event = "session_closed",
                audit = id,
                outcome,
                reason,
                detail,
                service,
                nkey,
                host,
                server,
                server_id,
                cid,
                account,
                revision,
                had_revision,
                grant,
                had_grant,
            )
        };
    }
    // What happens to every connection by and by is no warning.
    if reason == SessionClosed::EXPIRING && outcome != "failed" {
        told!(info);
    } else {
        told!(warn);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_of_the_log_has_the_first_error_and_counts_the_rest() {
        let problem = |severity: &str| format!("{severity}: a\n --> p.toml:1:1\n  |\n1 | x\n");
        let text = |list: &[&str]| list.iter().map(|s| problem(s) + "\n").collect::<String>();
        let first = problem("error[b]").trim_end().to_owned();
        for (list, errors, said) in [
            (&["warning[a]", "error[b]"][..], 1, ""),
            (&["error[b]", "error[c]"], 2, "\n\n... and 1 more error: `solewriter check` shows it"),
            (
                &["note[a]", "error[b]", "x"],
                127,
                "\n\n... and 126 more errors: `solewriter check` shows them",
            ),
        ] {
            let brief = brief(&text(list), errors);
            assert_eq!(brief.replace("\n\n\n", "\n\n"), format!("{first}{said}"), "{list:?}");
        }
        assert_eq!(super::brief("", 0), "");
    }
}
