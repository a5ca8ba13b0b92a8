//! Which events to show.

use std::collections::BTreeSet;

use clap::Args;
use serde_json::Value;

use crate::cli::common::{line, meant};
use solewriter_types::keyspace::Keyspace;

/// Filters; an event has to pass all that are given.
#[derive(Args)]
pub struct Filter {
    /// Only events about this service.
    #[arg(long, value_name = "NAME")]
    service: Option<String>,
    /// Only events with this outcome.
    #[arg(long, value_name = "OUTCOME", value_parser = OUTCOMES)]
    outcome: Option<String>,
    /// Only violations and changes of owner in this keyspace, or in a part of it.
    #[arg(long, value_name = "KEYSPACE")]
    keyspace: Option<String>,
}

const OUTCOMES: [&str; 11] = [
    "granted",
    "denied",
    "rejected",
    "accepted",
    "refused",
    "closed",
    "violation",
    "started",
    "stopped",
    "trouble",
    "lost",
];

/// Filters that were understood.
pub struct Checked {
    service: Option<String>,
    outcome: Option<String>,
    keyspace: Option<Keyspace>,
}

impl Filter {
    pub fn check(self) -> Result<Checked, String> {
        let keyspace = self.keyspace.map(|text| {
            Keyspace::parse(&text).map_err(|error| format!("`{text}` is not a keyspace: {error}"))
        });
        Ok(Checked {
            service: self.service,
            outcome: self.outcome,
            keyspace: keyspace.transpose()?,
        })
    }
}

impl Checked {
    /// Whether every event passes.
    pub fn is_open(&self) -> bool {
        self.service.is_none() && self.outcome.is_none() && self.keyspace.is_none()
    }

    pub fn takes(&self, event: &Value) -> bool {
        let data = event.get("data").unwrap_or(&Value::Null);
        let outcome = self.outcome.as_ref().is_none_or(|wanted| {
            let kind = event.get("type").and_then(Value::as_str).unwrap_or_default();
            kind.rsplit('.').next() == Some(wanted)
        });
        let service = self.service.as_ref().is_none_or(|wanted| concerns(data, wanted));
        let keyspace = self.keyspace.as_ref().is_none_or(|wanted| touches(data, wanted));
        outcome && service && keyspace
    }
}

/// So many names of services are remembered.
const MAX_SERVICES: usize = 1000;

/// What passed a filter so far, to say so when nothing did.
#[derive(Default)]
pub struct Passed {
    any: bool,
    services: BTreeSet<String>,
}

impl Passed {
    /// Takes note of an event, and whether it passed.
    pub fn note(&mut self, event: &Value, passed: bool) {
        self.any |= passed;
        let data = event.get("data").unwrap_or(&Value::Null);
        let names = ["service", "former_service"].iter().filter_map(|name| text(data, name));
        for name in names {
            if self.services.len() < MAX_SERVICES && !self.services.contains(name) {
                self.services.insert(name.to_owned());
            }
        }
    }

    /// What to say when nothing passed.
    pub fn nothing(&self, filter: &Checked) -> Option<String> {
        if self.any || filter.is_open() {
            return None;
        }
        match &filter.service {
            Some(name) if !self.services.contains(name) => {
                let meant = meant(name, self.services.iter().map(String::as_str));
                Some(format!("no event so far is about a service `{}`{meant}", line(name)))
            }
            _ => Some("no event so far passes the filter".to_owned()),
        }
    }
}

fn text<'v>(data: &'v Value, name: &str) -> Option<&'v str> {
    data.get(name).and_then(Value::as_str)
}

/// Whether an event is about a service: as who did it, who had the key of who did, who owns what it
/// is about, or who is in the list of what a policy changed.
fn concerns(data: &Value, service: &str) -> bool {
    // Owners that share keys are in one text, with commas.
    let owns = text(data, "owner").is_some_and(|all| all.split(", ").any(|one| one == service));
    let named = text(data, "service") == Some(service)
        || text(data, "former_service") == Some(service)
        || owns;
    let changes = data.get("changes");
    let listed = ["added", "removed", "changed"].iter().any(|list| {
        let names = changes.and_then(|c| c.get(list)?.get("names")?.as_array());
        names.is_some_and(|names| names.iter().any(|name| name.as_str() == Some(service)))
    });
    named || listed
}

fn touches(data: &Value, wanted: &Keyspace) -> bool {
    let shares = |found: Option<&str>| {
        let found = found.and_then(|text| Keyspace::parse(text).ok());
        found.is_some_and(|found| found.shared_key(wanted).is_some())
    };
    let transfers = data.get("changes").and_then(|changes| changes.get("transfers")?.as_array());
    shares(text(data, "keyspace"))
        || transfers.is_some_and(|all| all.iter().any(|one| shares(text(one, "keyspace"))))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_filter_that_nothing_passes_says_so_with_the_name_that_was_meant() {
        let filter = |service: Option<&str>, outcome: Option<&str>| {
            let (service, outcome) = (service.map(str::to_owned), outcome.map(str::to_owned));
            Filter { service, outcome, keyspace: None }.check().unwrap()
        };
        let mut passed = Passed::default();
        for event in
            [json!({"data": {"service": "orders"}}), json!({"data": {"former_service": "billing"}})]
        {
            passed.note(&event, false);
        }
        let said = |service, outcome| passed.nothing(&filter(service, outcome));
        let about = "no event so far is about a service";
        assert_eq!(
            said(Some("ordrs"), None),
            Some(format!("{about} `ordrs`; did you mean `orders`?"))
        );
        assert_eq!(
            said(Some("biling"), None),
            Some(format!("{about} `biling`; did you mean `billing`?"))
        );
        assert_eq!(said(Some("zzz"), Some("lost")), Some(format!("{about} `zzz`")));
        let open = Some("no event so far passes the filter".to_owned());
        assert_eq!(
            [said(Some("orders"), Some("lost")), said(None, Some("lost"))],
            [open.clone(), open]
        );
        assert_eq!(said(None, None), None);
        passed.note(&json!({}), true);
        assert_eq!(passed.nothing(&filter(Some("ordrs"), None)), None);
    }

    #[test]
    fn an_event_passes_when_it_is_about_all_that_is_asked() {
        let violation = json!({"type": "solewriter.violation", "data": {
            "service": "billing", "keyspace": "orders/a.b", "owner": "orders"}});
        let policy = json!({"type": "solewriter.policy.accepted", "data": {"changes": {
            "changed": {"count": 1, "names": ["billing"]},
            "transfers": [{"keyspace": "rates", "from": "billing", "to": "quotes"}]}}});
        let granted = json!({"type": "solewriter.authorisation.granted", "data": {
            "service": "orders", "outcome": "granted"}});
        let shared = json!({"type": "solewriter.violation", "data": {
            "service": "billing", "keyspace": "x", "owner": "orders, other"}});
        let removed = json!({"type": "solewriter.authorisation.denied", "data": {
            "reason": "unknown_key", "former_service": "orders"}});
        assert!(concerns(&removed["data"], "orders") && !concerns(&removed["data"], "billing"));
        for (service, taken) in [("orders", true), ("other", true), ("order", false)] {
            assert_eq!(concerns(&shared["data"], service), taken, "{service}");
        }
        for (service, outcome, keyspace, taken) in [
            (None, None, None, [true, true, true]),
            (Some("billing"), None, None, [true, true, false]),
            (Some("orders"), None, None, [true, false, true]),
            (None, Some("granted"), None, [false, false, true]),
            (None, Some("accepted"), None, [false, true, false]),
            (None, None, Some("orders"), [true, false, false]),
            (None, None, Some("orders/a.>"), [true, false, false]),
            (None, None, Some("orders/b.>"), [false, false, false]),
            (None, None, Some("rates/eur.>"), [false, true, false]),
            (Some("orders"), Some("violation"), Some("orders"), [true, false, false]),
        ] {
            let filter = Filter {
                service: service.map(str::to_owned),
                outcome: outcome.map(str::to_owned),
                keyspace: keyspace.map(str::to_owned),
            };
            let filter = filter.check().unwrap();
            let found = [&violation, &policy, &granted].map(|event| filter.takes(event));
            assert_eq!(found, taken, "{service:?} {outcome:?} {keyspace:?}");
        }
    }
}
