//! What became of a request, as an event.

use std::time::Duration;

use solewriter_core::callout::authorizer::Authorisation;
use solewriter_core::callout::request::Rejection;
use solewriter_core::policy::model::Revision;
use solewriter_types::audit_event::{self, Event, RequestRejected};

/// The longest piece of a client's own words in an event, in characters.
const CLIENT_WORDS: usize = 64;

/// What is recorded of a decision: no secret, and what the client says of itself escaped and cut.
/// `decision` identifies the answer.
#[must_use]
pub fn decided(authorisation: &Authorisation, decision: &str, took: Duration) -> Event {
    let (server, client) = (authorisation.request.server(), authorisation.request.client());
    let mut event = audit_event::Authorisation {
        outcome: audit_event::Outcome::Granted,
        reason: "granted".to_owned(),
        detail: None,
        service: None,
        nkey: None,
        former_service: None,
        former_revision: None,
        host: audit_event::cut(&client.host, CLIENT_WORDS),
        connection: client.connection.map_or("unknown", |c| c.as_str()).to_owned(),
        client: audit_event::cut(&client.name, CLIENT_WORDS),
        library: audit_event::cut(&client.library, CLIENT_WORDS),
        server: audit_event::cut(&server.name, CLIENT_WORDS),
        server_id: server.key.to_string(),
        cid: client.id,
        account: None,
        revision: String::new(),
        grant: None,
        expires: None,
        decision: decision.to_owned(),
        took_us: u64::try_from(took.as_micros()).unwrap_or(u64::MAX),
        unanswered: authorisation.answer.as_ref().err().map(ToString::to_string),
        traceparent: None,
    };
    match &authorisation.decision {
        Ok(granted) => {
            let grant = granted.grant();
            event.service = Some(grant.service().to_string());
            event.nkey = Some(granted.identity().key().to_string());
            event.account = Some(grant.account().to_owned());
            granted.revision().whole().clone_into(&mut event.revision);
            event.grant = Some(grant.digest().to_string());
            event.expires = jiff::Timestamp::from_second(granted.expires()).ok();
        }
        Err(denied) => {
            event.outcome = audit_event::Outcome::Denied;
            denied.reason.code().clone_into(&mut event.reason);
            event.detail = Some(audit_event::words(&denied.reason.to_string()));
            event.service = denied.service.as_deref().map(ToOwned::to_owned);
            event.nkey = denied.key.map(|key| key.to_string());
            let revision = denied.revision.as_ref().map(Revision::whole);
            revision.unwrap_or_default().clone_into(&mut event.revision);
        }
    }
    Event::Authorisation(Box::new(event))
}

/// What is recorded of a request that did not come from a server.
#[must_use]
pub fn rejected(rejection: &Rejection) -> Event {
    Event::RequestRejected(RequestRejected {
        reason: rejection.code().to_owned(),
        detail: audit_event::words(&rejection.to_string()),
    })
}
