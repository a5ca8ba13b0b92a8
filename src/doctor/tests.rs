//! What no test can break on a real server of this machine: clocks, old versions, other machines,
//! listeners, and users in the wrong place.

use std::time::Duration;

use super::seen::{
    AccountOn, Address, Blind, Connection, Content, Entry, Info, Login, Probe, Request, Role,
    Server, Settings, Taker, User,
};
use super::*;
use crate::fleet::Report as Instance;
use crate::policy::model::Policy;
use crate::policy::validate::validate;
use crate::source::SourceFile;

const ISSUER: &str = "AISSUER";
/// A service's key.
const KEY: &str = "UCRAFZAHGBQKZ5WVGGAZTW3N7PIO7NNEZC77U2TFP7DSBDSFHKEUCIHK";

/// One server, everything in order; two instances and no bucket.
fn healthy() -> Seen {
    let file = SourceFile::new("p.toml", "[service.a]\nnkeys = []\n");
    let account = |role| match role {
        Role::Callout | Role::Publisher => "AUTH",
        Role::System => "SYS",
        Role::Admin => "STATE",
    };
    let user = |role| User {
        role,
        key: Some(format!("U{role:?}")),
        login: Login::In,
        account: Ok(account(role).to_owned()),
        called_out: Some(false),
    };
    let taker = |connection| Taker {
        server: "n1".to_owned(),
        connection,
        account: "AUTH".to_owned(),
        queue: Some("solewriter".to_owned()),
        user: "UCallout".to_owned(),
        name: "solewriter".to_owned(),
        watches: false,
    };
    let entry = Entry::Refused(Duration::from_millis(5));
    let policy = validate(&[file]).unwrap().policy;
    Seen {
        settings: Settings {
            issuer: Ok(ISSUER.to_owned()),
            xkey: Ok(Some("XKEY".to_owned())),
            accounts: vec!["APP".into()],
            lifetime: Duration::from_secs(3600),
            patience: Duration::from_secs(10),
            clock_leeway: Duration::from_secs(2),
            queue_group: "solewriter".to_owned(),
            audit: None,
        },
        addresses: vec![Address {
            name: "127.0.0.1:4222".to_owned(),
            loopback: true,
            tls: false,
            info: Ok(Info {
                server_name: "n1".to_owned(),
                version: "2.15.1".to_owned(),
                nonce: "nonce".to_owned(),
                ..Info::default()
            }),
        }],
        users: Role::ALL.map(user).into(),
        servers: Ok(vec![server("n1", "2.15.1")]),
        active_servers: 1,
        accounts: Ok(accounts()),
        takers: Ok(vec![taker(5), taker(6)]),
        probes: Ok(vec![Probe {
            address: "127.0.0.1:4222".to_owned(),
            entry: Ok(entry.clone()),
            request: Some(Request {
                sealed: true,
                content: Some(Content {
                    server: "n1".to_owned(),
                    issuer: ISSUER.to_owned(),
                    waits: 10,
                    nonce: true,
                    verified: true,
                    nkey: "U".to_owned(),
                }),
            }),
        }]),
        anonymous: vec![("127.0.0.1:4222".to_owned(), Ok(entry))],
        connections: Ok(vec![connection(&format!(
            "a/{KEY}/{}/0123456789abcdef",
            policy.revision()
        ))]),
        guests: Ok(Vec::new()),
        instances: Ok(vec![instance("i1", &policy), instance("i2", &policy)]),
        policy: Ok(policy),
        policy_is_wrong: false,
        policy_bucket: Vec::new(),
        streams: Ok(Vec::new()),
    }
}

/// A connection in the services' account.
fn connection(user: &str) -> Connection {
    Connection {
        cid: 9,
        name: "a client".to_owned(),
        authorized_user: user.to_owned(),
        account: "APP".to_owned(),
    }
}

fn instance(name: &str, policy: &Policy) -> Instance {
    Instance {
        instance: name.to_owned(),
        host: "h".to_owned(),
        version: "0.1.0".to_owned(),
        connections: 1,
        started: 0,
        source: "the directory policy".to_owned(),
        source_state: "answered".to_owned(),
        confirmed: Some(0),
        revision: Some(policy.revision().to_string()),
        number: None,
        lineage: None,
        since: Some(0),
        too_old: None,
        refused_since: None,
        refused_number: None,
        refused_errors: 0,
        refused_first: None,
    }
}

fn server(name: &str, version: &str) -> Server {
    Server {
        id: name.to_owned(),
        name: name.to_owned(),
        version: version.to_owned(),
        auth_timeout: 10.0,
        ..Server::default()
    }
}

/// The shipped deployment's, as `ACCOUNTZ` of nats-server 2.15.1 gives them.
fn accounts() -> Vec<AccountOn> {
    let text = r#"[
        {"account_name": "STATE", "jetstream_enabled": true, "exports": [
            {"subject": "$KV.>", "type": "service", "response_type": "Streamed"},
            {"subject": "$JS.API.>", "type": "service", "response_type": "Streamed"},
            {"subject": "$JS.FC.>", "type": "service", "response_type": "Singleton"},
            {"subject": "_INBOX.>", "type": "stream"}],
         "imports": [
            {"subject": "$JS.API.>", "account": "SYS", "to": "$JS.API.>", "local_subject": "$JS.API.>", "type": "service"}]},
        {"account_name": "APP", "imports": [
            {"subject": "_INBOX.>", "account": "STATE", "local_subject": "_INBOX.>", "type": "stream"},
            {"subject": "$KV.>", "account": "STATE", "local_subject": "$KV.>", "type": "service"},
            {"subject": "$JS.API.>", "account": "STATE", "local_subject": "$JS.API.>", "type": "service"},
            {"subject": "$JS.FC.>", "account": "STATE", "local_subject": "$JS.FC.>", "type": "service"}]},
        {"account_name": "AUTH", "jetstream_enabled": true},
        {"account_name": "SYS"}
    ]"#;
    let mut accounts: Vec<AccountOn> = serde_json::from_str(text).unwrap();
    for account in &mut accounts {
        account.server = "n1".to_owned();
    }
    accounts
}

/// The checks with that outcome, each with what was found.
fn with(seen: &Seen, outcome: Outcome) -> Vec<(&'static str, String)> {
    let report = Report::of(seen);
    let findings = report.findings.into_iter().filter(|f| f.outcome == outcome);
    findings.map(|f| (f.check, f.found)).collect()
}

/// The only problem.
fn problem(seen: &Seen) -> (&'static str, String) {
    let mut problems = with(seen, Outcome::Problem);
    assert_eq!(problems.len(), 1, "{problems:?}");
    problems.remove(0)
}

#[test]
fn nothing_is_wrong_with_what_is_healthy() {
    let seen = healthy();
    assert_eq!(with(&seen, Outcome::Problem), []);
    assert_eq!(with(&seen, Outcome::NotSeen), []);
    let warned: Vec<&str> = with(&seen, Outcome::Warning).iter().map(|w| w.0).collect();
    assert_eq!(warned, ["audit"]);
}

#[test]
fn gateways_and_leafnodes_that_are_not_held() {
    let mut seen = healthy();
    seen.servers.as_mut().unwrap()[0].gateway = "east".to_owned();
    let problems = with(&seen, Outcome::Problem);
    assert_eq!(problems.len(), 1);
    assert!(problems[0].0 == "gateways" && problems[0].1.contains("(of east)"), "{problems:?}");
    for (version, held) in [("2.10.25", false), ("2.11.15", false), ("2.15.1", true)] {
        let mut seen = healthy();
        seen.servers = Ok(vec![server("n1", version)]);
        let warned = |seen: &Seen| with(seen, Outcome::Warning).iter().any(|w| w.0 == "leafnodes");
        assert!(!warned(&seen), "it takes none");
        seen.servers.as_mut().unwrap()[0].leafnodes = true;
        assert_eq!(warned(&seen), !held, "{version}");
    }
}

#[test]
fn a_mapping_in_an_account_of_services() {
    let mut seen = healthy();
    let accounts = seen.accounts.as_mut().unwrap();
    let app = accounts.iter_mut().find(|account| account.name == "APP").unwrap();
    // As ACCOUNTZ of 2.10.25 and 2.15.1 has it.
    let mappings = r#"{"orders.*": [{"subject": "orders.{{wildcard(1)}}.0", "weight": 100}]}"#;
    app.mappings = serde_json::from_str(mappings).unwrap();
    let problems = with(&seen, Outcome::Problem);
    assert_eq!(problems.len(), 1);
    let (check, found) = &problems[0];
    assert!(*check == "mappings" && found.contains("orders.{{wildcard(1)}}.0"), "{found}");
}

#[test]
fn a_clock_that_is_wrong() {
    for (ahead, outcome) in [
        (0.3, None),
        (-1.0, Some(Outcome::Warning)),
        (-2.5, Some(Outcome::Problem)),
        (600.0, Some(Outcome::Problem)),
    ] {
        let mut seen = healthy();
        seen.servers.as_mut().unwrap()[0].ahead = ahead;
        for tried in [Outcome::Warning, Outcome::Problem] {
            let said = with(&seen, tried).into_iter().find(|f| f.0 == "clock");
            assert_eq!(said.is_some(), Some(tried) == outcome, "{ahead}: {said:?}");
            let direction = if ahead > 0.0 { "s ahead of" } else { "s behind" };
            assert!(said.is_none_or(|s| s.1.contains(direction)));
        }
    }
}

#[test]
fn a_server_without_the_callout() {
    let mut seen = healthy();
    seen.servers = Ok(vec![server("n1", "2.9.25"), server("n2", "2.15.1")]);
    seen.active_servers = 2;
    assert_eq!(problem(&seen).0, "version");
    assert!(problem(&seen).1.contains("n1: nats-server 2.9.25 has no authorization callout"));
    seen.servers = Ok(vec![server("n1", "2.99.0")]);
    seen.active_servers = 1;
    let warned = with(&seen, Outcome::Warning);
    assert!(warned.iter().any(|w| w.1.contains("newer than what solewriter was tested with")));
    seen.servers = Ok(vec![server("n1", "dev")]);
    assert!(with(&seen, Outcome::Warning).iter().any(|w| w.1.contains("no version")));
}

#[test]
fn a_hole_counts_where_it_is_open() {
    let mut seen = healthy();
    seen.servers = Ok(vec![server("n1", "2.14.2")]);
    assert_eq!(with(&seen, Outcome::Problem), []);
    let closed = with(&seen, Outcome::Warning);
    assert!(
        closed
            .iter()
            .any(|w| w.0 == "advisories" && w.1.contains("2026-26 needs an MQTT listener"))
    );
    seen.servers.as_mut().unwrap()[0].mqtt = true;
    let (check, found) = problem(&seen);
    assert!(check == "advisories" && found.contains("2026-26 (GHSA-7qmq-8cc4-hxwg)"), "{found}");
    assert!(!found.contains("2026-20"), "no leafnodes: {found}");
    seen.servers.as_mut().unwrap()[0].mqtt = false;
    seen.anonymous[0].1 = Ok(Entry::Entered(None));
    let problems = with(&seen, Outcome::Problem);
    assert!(
        problems.iter().any(|p| p.0 == "advisories" && p.1.contains("2026-24")),
        "{problems:?}"
    );
    seen.anonymous.clear();
    // Whether there is a listener cannot be told without a system user: it counts as open.
    seen.servers = Err(Blind::new("", ""));
    seen.addresses[0].info.as_mut().unwrap().version = "2.14.2".to_owned();
    assert!(problem(&seen).1.contains("2026-20"));
}

#[test]
fn a_server_that_is_silent() {
    let mut seen = healthy();
    seen.active_servers = 3;
    assert_eq!(
        problem(&seen),
        ("address", "2 of 3 servers did not answer the system user".to_owned())
    );
}

#[test]
fn a_connection_in_the_clear() {
    let mut seen = healthy();
    seen.addresses[0].loopback = false;
    assert!(with(&seen, Outcome::Warning).iter().any(|w| w.0 == "tls"));
    seen.addresses[0].info.as_mut().unwrap().tls_required = true;
    assert!(with(&seen, Outcome::Warning).iter().all(|w| w.0 != "tls"));
}

#[test]
fn users_in_the_wrong_place() {
    for (role, place, said) in [
        (Role::System, "APP", "system user: it is in APP, where services are placed"),
        (Role::Publisher, "STATE", "publisher: it is in STATE, and the policy's bucket in AUTH"),
    ] {
        let mut seen = healthy();
        let user = seen.users.iter_mut().find(|user| user.role == role).unwrap();
        user.account = Ok(place.to_owned());
        assert_eq!(problem(&seen), ("users", said.to_owned()));
    }
    let mut seen = healthy();
    for user in &mut seen.users {
        if matches!(user.role, Role::Callout | Role::Publisher) {
            user.account = Ok("STATE".to_owned());
        }
    }
    assert_eq!(problem(&seen).1, "callout user: it is in STATE, beside the buckets");
    let mut seen = healthy();
    seen.users[0].called_out = Some(true);
    assert!(problem(&seen).1.contains("only because solewriter let it, in account AUTH"));
}

#[test]
fn instances_that_are_behind() {
    let first = |change: fn(&mut Instance)| {
        let mut seen = healthy();
        change(&mut seen.instances.as_mut().unwrap()[0]);
        seen
    };
    let warned =
        |seen: &Seen| with(seen, Outcome::Warning).into_iter().find(|w| w.0 == "revisions");
    let (_, found) = warned(&first(|i| i.revision = Some("0ld".to_owned()))).unwrap();
    assert!(found.starts_with("instances serve different revisions: 0ld on i1 (h, "), "{found}");
    let mut seen = healthy();
    for instance in seen.instances.as_mut().unwrap() {
        instance.revision = Some("0ld".to_owned());
    }
    assert!(warned(&seen).unwrap().1.starts_with("instances serve revision 0ld, and the policy"));
    let mut seen = healthy();
    seen.instances.as_mut().unwrap().truncate(1);
    assert!(warned(&seen).unwrap().1.starts_with("requests are taken on 2 connections"));
    let (_, found) = warned(&first(|i| i.source_state = "unreachable".to_owned())).unwrap();
    assert!(
        found.contains("the directory policy is unreachable; it goes by what it has"),
        "{found}"
    );
    let (check, found) = problem(&first(|i| i.refused_since = Some(9)));
    assert!(check == "revisions" && found.contains("refuses the newest policy"), "{found}");
    let (check, found) = problem(&first(|i| i.too_old = Some(9)));
    assert!(check == "revisions" && found.contains("denies everything"), "{found}");
    let mut seen = healthy();
    seen.instances = Ok(Vec::new());
    assert_eq!(problem(&seen).0, "revisions");
}

#[test]
fn connections_are_known_by_the_names_that_solewriter_gave_them() {
    let found = |user: &str| {
        let mut seen = healthy();
        seen.connections = Ok(vec![connection(user)]);
        let strangers = with(&seen, Outcome::Problem).iter().any(|f| f.0 == "logins");
        let said = with(&seen, Outcome::Ok).into_iter().find(|f| f.0 == "connections").unwrap();
        (strangers, said.1.contains("1 open, 1 with permissions of another revision"))
    };
    let current = healthy().policy.unwrap().revision().to_string();
    let (older, digest) = ("0123456789ab", "0123456789abcdef");
    assert_eq!(found(&format!("a/{KEY}/{current}/{digest}")), (false, false));
    assert_eq!(found(&format!("a/{KEY}/{older}/{digest}")), (false, true));
    // As solewriter 0.1 named them.
    assert_eq!(found(&format!("a/{KEY}/{current}")), (false, false));
    assert_eq!(found(&format!("a/{KEY}/{older}")), (false, true));
    for stranger in ["guest", KEY, "a/b/c/d", &format!("a/{KEY}/{older}/{digest}/more")] {
        assert_eq!(found(stranger), (true, false), "{stranger}");
    }
}

#[test]
fn a_weak_policy_bucket() {
    let mut seen = healthy();
    seen.policy_bucket = vec!["it can be purged"];
    assert_eq!(problem(&seen), ("policy", "the bucket that it is in: it can be purged".to_owned()));
}

#[test]
fn a_key_that_nobody_has_is_let_in() {
    let mut seen = healthy();
    let probe = &mut seen.probes.as_mut().unwrap()[0];
    probe.entry = Ok(Entry::Entered(Some("APP".to_owned())));
    assert_eq!(problem(&seen).0, "callout");
}

#[test]
fn a_request_that_no_server_signed() {
    let mut seen = healthy();
    let request = seen.probes.as_mut().unwrap()[0].request.as_mut().unwrap();
    request.content.as_mut().unwrap().verified = false;
    assert!(problem(&seen).1.contains("a request that no server signed"));
}

#[test]
fn a_listener_with_a_user_for_whoever_has_none() {
    let mut seen = healthy();
    seen.servers.as_mut().unwrap()[0].guests = vec![("mqtt", "guest".to_owned())];
    let (check, found) = problem(&seen);
    assert_eq!(check, "anonymous");
    assert_eq!(found, "n1: `mqtt` lets in whoever shows no credentials, as \"guest\"");
}

#[test]
fn who_only_calls_itself_the_doctor_takes_requests() {
    let mut seen = healthy();
    let takers = seen.takers.as_mut().unwrap();
    let doctor = Taker { queue: None, name: "solewriter doctor".to_owned(), ..takers[0].clone() };
    takers.push(Taker { watches: true, ..doctor.clone() });
    assert_eq!(with(&seen, Outcome::Problem), []);
    seen.takers.as_mut().unwrap().push(doctor);
    assert!(problem(&seen).1.contains("takes each request a second time: it is in no queue group"));
}

#[test]
fn one_server_of_several_is_named() {
    let mut seen = healthy();
    let mut other = accounts();
    for account in &mut other {
        account.server = "n2".to_owned();
        account.jetstream_enabled |= account.name == "APP";
    }
    seen.accounts.as_mut().unwrap().extend(other);
    let (check, found) = problem(&seen);
    assert!(check == "jetstream" && found.ends_with("(on n2)"), "{found}");
}

#[test]
fn events_may_pass_between_accounts_and_nothing_else() {
    let pass = |subject: &str, local: &str| {
        let mut seen = healthy();
        let auth = seen.accounts.as_mut().unwrap().iter_mut().find(|a| a.name == "AUTH").unwrap();
        auth.imports.push(super::seen::Import {
            subject: subject.to_owned(),
            local_subject: local.to_owned(),
            account: "STATE".to_owned(),
            kind: "service".to_owned(),
        });
        with(&seen, Outcome::Problem)
    };
    let last = "$JS.API.DIRECT.GET.AUDIT_EVENTS.audit.events.solewriter.*";
    assert_eq!(pass("audit.events.solewriter.*", "audit.events.solewriter.*"), []);
    assert_eq!(pass(last, last), []);
    assert_eq!(pass("$KV.>", "kv.>").len(), 1);
    assert_eq!(pass("audit.>", "audit.>").len(), 1);
}

#[test]
fn every_check_has_a_place_and_a_family_in_one_piece() {
    let mut ids: Vec<&str> = CHECKS.iter().map(|check| check.id).collect();
    ids.sort_unstable();
    ids.dedup();
    assert_eq!(ids.len(), CHECKS.len());
    let mut families: Vec<&str> = CHECKS.iter().map(|check| check.family).collect();
    families.dedup();
    assert_eq!(families, ["servers", "callout", "accounts", "state"]);
    let report = Report::of(&healthy());
    assert!(report.findings.iter().all(|f| CHECKS.iter().any(|check| check.id == f.check)));
}
