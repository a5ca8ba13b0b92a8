//! What no test can break on a real server of this machine: clocks, old versions, other machines,
//! listeners, and users in the wrong place.

use std::time::Duration;

use jiff::Timestamp;

use super::seen::{
    AccountOn, Address, Blind, Connection, Content, Entry, Info, Probe, Request, Role, SeenLogin,
    SeenServer, Settings, Taker, User,
};
use super::*;
use crate::fleet::{Report as Instance, Transit, Waiting};
use crate::nats::certificate::Validity;
use crate::sessions::consumers::sweep::{Doomed, Survey};
use crate::sessions::consumers::verdict::{Cause, Consumer, Owner};
use solewriter_core::diagnostics::SourceFile;
use solewriter_core::policy::model::Policy;
use solewriter_core::policy::validate::validate;

const ISSUER: &str = "AISSUER";
/// A service's key.
const KEY: &str = "UCRAFZAHGBQKZ5WVGGAZTW3N7PIO7NNEZC77U2TFP7DSBDSFHKEUCIHK";

/// One server, everything in order; two instances and no bucket.
fn healthy() -> Seen {
    let file = SourceFile::new("p.toml", "[service.a]\nnkeys = []\n");
    let account = |role| match role {
        Role::Callout => "AUTH",
        Role::Control => "CONTROL",
        Role::Publisher => "PUBLISH",
        Role::System => "MONITOR",
        Role::Admin => "STATE",
        Role::AuditAdmin => "AUDIT",
    };
    let user = |role| User {
        role,
        key: Some(format!("U{role:?}")),
        login: SeenLogin::In,
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
            signer: None,
            xkey: Ok(Some("XKEY".to_owned())),
            accounts: vec!["APP".into()],
            lifetime: Duration::from_secs(3600),
            patience: Duration::from_secs(10),
            clock_leeway: Duration::from_secs(2),
            queue_group: "solewriter".to_owned(),
            audit: None,
            audit_streams: solewriter_core::grant::AuditStreams::default(),
            cluster: None,
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
            certificate: None,
        }],
        certificates: Vec::new(),
        now: Timestamp::UNIX_EPOCH,
        users: Role::ALL.map(user).into(),
        servers: Ok(vec![server("n1", "2.15.1")]),
        active_servers: 1,
        untold: Vec::new(),
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
                    jwt: String::new(),
                }),
            }),
        }]),
        anonymous: vec![("127.0.0.1:4222".to_owned(), Ok(entry))],
        connections: Ok(vec![connection(&format!(
            "a/{KEY}/{}/{}/1",
            policy.revision().whole(),
            "0123456789abcdef".repeat(4)
        ))]),
        guests: Ok(Vec::new()),
        instances: Ok(vec![instance("i1", &policy), instance("i2", &policy)]),
        policy: Ok(policy),
        policy_is_wrong: false,
        policy_bucket: Vec::new(),
        consumers: Ok(Ok(Survey { streams: 1, kept: 2, ..Survey::default() })),
        domain: None,
        streams: Ok(Vec::new()),
        audit_streams: Ok(Vec::new()),
        adoption: None,
        operator: None,
    }
}

/// A connection in the services' account.
fn connection(user: &str) -> Connection {
    Connection {
        kind: "Client".to_owned(),
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
        revision: Some(policy.revision().whole().to_owned()),
        number: Some(1),
        lineage: Some("l".to_owned()),
        since: Some(0),
        too_old: None,
        refused_since: None,
        refused_number: None,
        refused_errors: 0,
        refused_first: None,
        waiting: Vec::new(),
        transit: Vec::new(),
        settled: Some(true),
        handed_over: Vec::new(),
        documents: None,
        emergencies: Vec::new(),
        keys: None,
    }
}

fn server(name: &str, version: &str) -> SeenServer {
    SeenServer {
        id: name.to_owned(),
        name: name.to_owned(),
        version: version.to_owned(),
        auth_timeout: 10.0,
        ..SeenServer::default()
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
        {"account_name": "AUTH", "exports": [
            {"subject": "solewriter.instance.*", "type": "stream", "approved_accounts": ["PUBLISH"]}],
         "imports": [
            {"subject": "$KV.solewriter_policy.revision.*", "account": "PUBLISH", "local_subject": "$KV.solewriter_policy.revision.*", "type": "stream"},
            {"subject": "$SYS.REQ.ACCOUNT.AUTH.CONNZ", "account": "SYS", "local_subject": "$SYS.REQ.SERVER.PING.CONNZ", "type": "service"},
            {"subject": "$SYS.REQ.USER.AUTH.INFO", "account": "SYS", "local_subject": "$SYS.REQ.USER.INFO", "type": "service"},
            {"subject": "$JS.API.>", "account": "SYS", "local_subject": "$JS.API.>", "type": "service"},
            {"subject": "$JS.API.CONSUMER.LIST.>", "account": "STATE", "local_subject": "$JS.STATE.API.CONSUMER.LIST.>", "type": "service"},
            {"subject": "$JS.API.CONSUMER.DELETE.>", "account": "STATE", "local_subject": "$JS.STATE.API.CONSUMER.DELETE.>", "type": "service"},
            {"subject": "$JS.API.STREAM.NAMES", "account": "STATE", "local_subject": "$JS.STATE.API.STREAM.NAMES", "type": "service"}]},
        {"account_name": "POLICY", "jetstream_enabled": true},
        {"account_name": "PUBLISH"},
        {"account_name": "AUDIT", "jetstream_enabled": true},
        {"account_name": "MONITOR", "imports": [
            {"subject": "$SYS.REQ.SERVER.PING", "account": "SYS", "local_subject": "$SYS.REQ.SERVER.PING", "type": "service"},
            {"subject": "$SYS.REQ.SERVER.*.KICK", "account": "SYS", "local_subject": "$SYS.REQ.SERVER.*.KICK", "type": "service"},
            {"subject": "$SYS.REQ.ACCOUNT.MONITOR.STATZ", "account": "SYS", "local_subject": "$SYS.REQ.ACCOUNT.PING.STATZ", "type": "service"}]},
        {"account_name": "SYS", "is_system": true}
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
fn what_declared_streams_and_stores_need_passes() {
    let mut seen = healthy();
    // Nothing of the kind is declared.
    let import = |subject: &str| super::seen::Import {
        subject: subject.to_owned(),
        account: "STATE".to_owned(),
        local_subject: subject.to_owned(),
        kind: "service".to_owned(),
    };
    let export = |subject: &str| super::seen::Export {
        subject: subject.to_owned(),
        kind: "service".to_owned(),
    };
    let add = |seen: &mut Seen, subject: &str| {
        for account in seen.accounts.as_mut().unwrap() {
            match account.name.as_str() {
                "STATE" => account.exports.push(export(subject)),
                "APP" => account.imports.push(import(subject)),
                _ => {}
            }
        }
    };
    add(&mut seen, "events.>");
    let found: Vec<&str> = with(&seen, Outcome::Problem).iter().map(|found| found.0).collect();
    assert_eq!(found, ["exports", "imports"]);

    let text = "[stream.EVENTS]\nsubjects = [\"events.>\", \"sold.>\", \"more.now\"]\n\
                [stream.EVENTS.consumer.shipping]\n[store.files]\n[service.a]\nnkeys = []\n";
    seen.policy = Ok(validate(&[SourceFile::new("p.toml", text)]).unwrap().policy);
    let missing = |seen: &Seen| -> Vec<String> {
        let found = with(seen, Outcome::Problem).into_iter();
        let of_accounts = |f: &(&str, String)| ["exports", "imports"].contains(&f.0);
        found.filter(of_accounts).map(|(_, found)| found).collect()
    };
    let found = missing(&seen);
    for subject in ["$O.>", "$JS.ACK.>", "sold.>", "more.now"] {
        for who in ["STATE does not export", "APP does not import"] {
            let line = format!("{who} the service `{subject}`");
            assert!(found.iter().any(|f| f.contains(&line)), "{line}: {found:?}");
        }
    }
    assert!(!found.iter().any(|f| f.contains("`events.>`")), "{found:?}");
    let report = Report::of(&seen);
    let advice: Vec<&str> = report.findings.iter().filter_map(|f| f.mend.as_deref()).collect();
    // A literal import is interest by itself: JetStream would publish there for anybody.
    assert!(advice.iter().any(|a| a.contains("subject: \"more.*\"")), "{advice:?}");

    for subject in ["$O.>", "$JS.ACK.>", "more.*"] {
        add(&mut seen, subject);
    }
    let found = missing(&seen);
    assert!(!found.is_empty() && found.iter().all(|f| f.contains("`sold.>`")), "{found:?}");
    // Another account's users are no services of the policy.
    seen.accounts.as_mut().unwrap().iter_mut().find(|a| a.name == "MONITOR").unwrap().imports =
        vec![import("$O.>")];
    assert!(missing(&seen).iter().any(|f| f.starts_with("MONITOR imports `$O.>`")));
}

#[test]
fn what_passes_by_a_leafnode_passes_whole() {
    let mut seen = healthy();
    let text = "[bucket.near]\ndomain = \"hub\"\n[bucket.far]\ndomain = \"edge\"\n\
                [bucket.copy]\ndomain = \"hub\"\ncopy_of = \"far\"\n\
                [service.r]\nnkeys = []\nreads = [\"near\"]\n";
    let policy = validate(&[SourceFile::new("p.toml", text)]).unwrap().policy;
    seen.domain = Some("hub".to_owned());
    let defaults = solewriter_core::grant::Defaults {
        account: "APP".into(),
        lifetime: seen.settings.lifetime,
        audit: seen.settings.audit_streams.clone(),
    };
    let hub = solewriter_core::policy::model::Domain::parse("hub").unwrap();
    let reader = policy.service("r").unwrap();
    let passes = crate::passes::link::read_by(reader, &hub, &defaults).unwrap();
    seen.policy = Ok(policy);
    let found = |seen: &Seen| -> Vec<String> {
        let found = with(seen, Outcome::Problem).into_iter();
        found.filter(|f| ["exports", "imports"].contains(&f.0)).map(|(_, found)| found).collect()
    };
    // The copy here has no way to its values.
    let nothing = found(&seen);
    assert!(
        nothing.len() == 2 && nothing.iter().all(|f| f.contains("the copy copy")),
        "{nothing:?}"
    );

    let import = |account: &str, kind: &str, subject: &str, local: &str| super::seen::Import {
        subject: subject.to_owned(),
        account: account.to_owned(),
        local_subject: local.to_owned(),
        kind: kind.to_owned(),
    };
    let services = passes.requests.iter().chain(&passes.answers).map(|s| ("service", s));
    let all: Vec<_> = services.chain(passes.sent.iter().map(|s| ("stream", s))).collect();
    let mut link =
        AccountOn { name: "LINK".to_owned(), ..seen.accounts.as_ref().unwrap()[4].clone() };
    let state = &mut seen.accounts.as_mut().unwrap()[0];
    for (kind, subject) in all {
        let (kind_of, subject_of) = (kind.to_owned(), subject.clone());
        state.exports.push(super::seen::Export { subject: subject_of, kind: kind_of });
        let local = subject.replacen("$JS.API.", "hub.", 1);
        link.imports.push(import("STATE", kind, subject, &local));
    }
    state.imports.push(import("LINK", "service", "edge.>", "$JS.edge.API.>"));
    state.imports.push(import("LINK", "stream", "_COPY.copy.>", "_COPY.copy.>"));
    seen.accounts.as_mut().unwrap().push(link);
    assert_eq!(found(&seen), Vec::<String>::new());
    let said = with(&seen, Outcome::Ok);
    assert!(said.iter().any(|(_, f)| f.contains("what r reads from another domain")), "{said:?}");

    // One line that is missing, and one too many.
    let link = seen.accounts.as_mut().unwrap().last_mut().unwrap();
    let at = link.imports.iter().position(|i| i.subject.contains("DIRECT.GET")).unwrap();
    let missing = link.imports.remove(at);
    link.imports.push(import("STATE", "service", "$JS.API.STREAM.NAMES", "hub.STREAM.NAMES"));
    let wrong = found(&seen);
    assert_eq!(wrong.len(), 2, "{wrong:?}");
    assert!(wrong[0].contains(&missing.local_subject), "{wrong:?}");
    assert!(wrong[1].starts_with("LINK imports `$JS.API.STREAM.NAMES`"), "{wrong:?}");
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
fn what_servers_send_and_take_otherwise() {
    let said = |seen: &Seen| with(seen, Outcome::Warning).into_iter().filter(|w| w.0 == "features");
    let mut seen = healthy();
    assert_eq!(said(&seen).count(), 0);
    seen.servers.as_mut().unwrap()[0].newer_flow_control = true;
    let found: Vec<_> = said(&seen).collect();
    assert!(found.len() == 1 && found[0].1.contains("js_ack_fc_v2"), "{found:?}");
    seen.servers.as_mut().unwrap()[0].max_payload = 65_536;
    assert_eq!(said(&seen).count(), 2);
    seen.servers.as_mut().unwrap()[0].max_payload = 1_048_576;
    assert_eq!(said(&seen).count(), 1);
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
    assert!(
        warned
            .iter()
            .any(|w| w.1.contains("newer than the versions that solewriter was tested with"))
    );
    seen.servers = Ok(vec![server("n1", "dev")]);
    assert!(with(&seen, Outcome::Warning).iter().any(|w| w.1.contains("not a version number")));
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
fn certificates_that_expire() {
    const DAY: i64 = 24 * 3600;
    let year = |left: i64| Validity { from: left - 365 * DAY, until: left };
    let hour = |left: i64| Validity { from: left - 3600, until: left };
    for (validity, outcome, said) in [
        (year(31 * DAY), Outcome::Ok, "is valid for 31 days more"),
        (year(29 * DAY), Outcome::Warning, "expires in 29 days"),
        (hour(1000), Outcome::Ok, "is valid for 16 minutes more"),
        (hour(800), Outcome::Warning, "expires in 13 minutes"),
        (year(-3 * 3600), Outcome::Problem, "expired 3 hours ago"),
        (year(370 * DAY), Outcome::Problem, "is valid in 5 days"),
    ] {
        let mut seen = healthy();
        seen.certificates = vec![("[nats.tls] cert", validity)];
        let found = with(&seen, outcome);
        let said = format!("the certificate in [nats.tls] cert {said}");
        assert!(found.contains(&("certificates", said.clone())), "{said}: {found:?}");
        seen.addresses[0].certificate = seen.certificates.pop().map(|(_, validity)| validity);
        let of_server = said.replace("in [nats.tls] cert", "of 127.0.0.1:4222");
        assert!(with(&seen, outcome).contains(&("certificates", of_server)));
    }
}

#[test]
fn users_in_the_wrong_place() {
    for (role, place, said) in [
        (Role::AuditAdmin, "APP", "audit admin: it is in APP, where services are placed"),
        (
            Role::Publisher,
            "AUTH",
            "publisher: it is in AUTH, beside the callout user: where the policy's bucket is there \
             too, the callout's seed alone writes the policy, through a reply subject",
        ),
    ] {
        let mut seen = healthy();
        let user = seen.users.iter_mut().find(|user| user.role == role).unwrap();
        user.account = Ok(place.to_owned());
        assert_eq!(problem(&seen), ("users", said.to_owned()));
    }
    let mut seen = healthy();
    seen.users[0].account = Ok("STATE".to_owned());
    seen.accounts = Err(Blind::new("", ""));
    assert_eq!(problem(&seen).1, "callout user: it is in STATE, beside the buckets");
    // What it asks is imported where it is; in the system account nothing bounds it.
    let mut seen = healthy();
    seen.users[1].account = Ok("SYS".to_owned());
    let monitor = |a: &&mut AccountOn| a.name == "MONITOR";
    seen.accounts.as_mut().unwrap().iter_mut().find(monitor).unwrap().imports.clear();
    assert_eq!(
        problem(&seen),
        (
            "users",
            "system user: it logs in to SYS, the system account. In a cluster its seed alone \
             purges \
             any account, whatever its permissions, through a reply subject"
                .to_owned()
        )
    );
    let mut seen = healthy();
    seen.users[0].called_out = Some(true);
    assert!(problem(&seen).1.contains("only through solewriter, in account AUTH"));
}

#[test]
fn what_moves_and_where_two_may_write() {
    let first = |change: fn(&mut Instance)| {
        let mut seen = healthy();
        change(&mut seen.instances.as_mut().unwrap()[0]);
        seen
    };
    let warned = |seen: &Seen| {
        let found = with(seen, Outcome::Warning).into_iter().find(|w| w.0 == "handover");
        found.map(|(_, found)| found)
    };
    assert_eq!(warned(&healthy()), None);
    let waits = |seconds| Transit {
        what: "k".to_owned(),
        from: Some("a".to_owned()),
        to: "b".to_owned(),
        seconds,
        waits_for: "1 server does not answer: n2".to_owned(),
    };
    let mut seen = first(|i| i.settled = Some(false));
    seen.instances.as_mut().unwrap()[0].transit = vec![waits(5)];
    assert_eq!(warned(&seen), None, "a moment is no trouble");
    seen.instances.as_mut().unwrap()[0].transit = vec![waits(31)];
    let said = "`k` is between `a` and `b` for 31 s: 1 server does not answer: n2";
    assert_eq!(warned(&seen).as_deref(), Some(said));
    // An instance without a system user, or of an older version.
    let found = warned(&first(|i| i.settled = None)).unwrap();
    assert!(found.starts_with("1 of 2 instances do not hold back what moves"), "{found}");
    let mut seen = healthy();
    for instance in seen.instances.as_mut().unwrap() {
        (instance.number, instance.lineage) = (None, None);
    }
    let found = warned(&seen).unwrap();
    assert!(found.starts_with("2 instances read the policy from directories"), "{found}");
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
    assert!(warned(&seen).unwrap().1.starts_with("instances serve revision 0ld, but the policy"));
    let mut seen = healthy();
    seen.instances.as_mut().unwrap().truncate(1);
    assert!(warned(&seen).unwrap().1.starts_with("requests are taken on 2 connections"));
    let (_, found) = warned(&first(|i| i.source_state = "unreachable".to_owned())).unwrap();
    assert!(
        found.contains("the directory policy is unreachable; it uses the policy that it has"),
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
fn who_waits_for_what_the_policy_gives_is_named() {
    let mut seen = healthy();
    let service = seen.policy.as_ref().unwrap().services()[0].name.to_string();
    let waiting = |service: &str| Waiting {
        service: service.to_owned(),
        connections: 3,
        what: "read x\u{1b}[2J".to_owned(),
    };
    let mut first = instance("i1", seen.policy.as_ref().unwrap());
    // Whoever has the callout's seed can say anything.
    first.waiting = vec![waiting("nobody; rm -r"), waiting(&service)];
    let second = instance("i2", seen.policy.as_ref().unwrap());
    seen.instances = Ok(vec![first, second]);
    let warnings = with(&seen, Outcome::Warning);
    let about: Vec<&String> =
        warnings.iter().filter(|f| f.0 == "connections").map(|f| &f.1).collect();
    assert_eq!(about.len(), 1, "{about:?}");
    assert!(about[0].starts_with(&format!("3 of {service} will gain read x")), "{about:?}");
    assert!(!about[0].contains('\u{1b}'), "{about:?}");
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
    let revision = healthy().policy.unwrap().revision().clone();
    let (current, other) = (revision.whole(), "0123456789abcdef".repeat(4));
    assert_eq!(found(&format!("a/{KEY}/{current}/{other}/1/2")), (false, false));
    assert_eq!(found(&format!("a/{KEY}/{current}/{other}/1")), (false, false));
    assert_eq!(found(&format!("a/{KEY}/{other}/{other}/1")), (false, true));
    // As older versions named them, which says too little.
    assert_eq!(found(&format!("a/{KEY}/{revision}/0123456789abcdef")), (false, true));
    assert_eq!(found(&format!("a/{KEY}/{revision}")), (false, true));
    for stranger in ["guest", KEY, "a/b/c/d", &format!("a/{KEY}/{current}/{other}/1/2/3")] {
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
    assert!(problem(&seen).1.contains("that no server signed"));
}

#[test]
fn a_listener_with_a_user_for_whoever_has_none() {
    let mut seen = healthy();
    seen.servers.as_mut().unwrap()[0].guests = vec![("mqtt", "guest".to_owned())];
    let (check, found) = problem(&seen);
    assert_eq!(check, "anonymous");
    assert_eq!(found, "n1: `mqtt` lets in clients without credentials, as \"guest\"");
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
fn jetstream_beside_the_callout() {
    let mut seen = healthy();
    let auth = |a: &&mut AccountOn| a.name == "AUTH";
    seen.accounts.as_mut().unwrap().iter_mut().find(auth).unwrap().jetstream_enabled = true;
    assert_eq!(
        problem(&seen),
        (
            "jetstream",
            "JetStream is enabled in AUTH, where the callout user is: its seed alone makes \
             JetStream write there, through a reply subject"
                .to_owned()
        )
    );
    let mut seen = healthy();
    let publish = |a: &&mut AccountOn| a.name == "PUBLISH";
    seen.accounts.as_mut().unwrap().iter_mut().find(publish).unwrap().jetstream_enabled = true;
    assert_eq!(
        problem(&seen),
        (
            "jetstream",
            "JetStream is enabled in PUBLISH, where the publisher is: its seed alone deletes the \
             policy's bucket with its log, through a reply subject"
                .to_owned()
        )
    );
}

#[test]
fn what_is_imported_that_is_dangerous() {
    let import = |into: &str, account: &str, subject: &str, local: &str| {
        let mut seen = healthy();
        let place = seen.accounts.as_mut().unwrap().iter_mut().find(|a| a.name == into).unwrap();
        place.imports.push(super::seen::Import {
            subject: subject.to_owned(),
            local_subject: local.to_owned(),
            account: account.to_owned(),
            kind: "service".to_owned(),
        });
        with(&seen, Outcome::Problem)
    };
    let purge = "$JS.API.ACCOUNT.PURGE.>";
    for (into, subject) in [("MONITOR", purge), ("APP", "$SYS.REQ.SERVER.*.KICK"), ("POLICY", ">")]
    {
        let said = format!(
            "{into} imports `{subject}` of SYS, the system account: who logs in there can do what \
             that does, to any account"
        );
        assert_eq!(import(into, "SYS", subject, subject), [("imports", said)]);
    }
    assert_eq!(
        import("APP", "AUDIT", "audit.services.*.*", "audit.events.*.*"),
        [(
            "imports",
            "APP imports `audit.services.*.*` of AUDIT as `audit.events.*.*`: any user of APP \
             crashes a server of 2.10 with that as a reply subject"
                .to_owned()
        )]
    );
    for (subject, local) in
        [("audit.services.>", "audit.events.>"), ("audit.events.*.*", "audit.events.*.*")]
    {
        assert_eq!(import("APP", "AUDIT", subject, local), []);
    }
    // A name without a wildcard is reached by reply subjects.
    assert_eq!(
        import("APP", "OTHER", "lamps.all.off", "lamps.off"),
        [(
            "imports",
            "APP imports the service `lamps.all.off` of OTHER as `lamps.off`: any service has \
             JetStream publish there, with that as a reply subject"
                .to_owned()
        )]
    );
    for (account, subject) in [("APP", "lamps.>"), ("APP", "lamps.*"), ("POLICY", "lamps.off")] {
        assert_eq!(import(account, "OTHER", subject, subject), []);
    }
    // The callout's account may list and end consumers of the buckets' account, and no more.
    assert_eq!(import("AUTH", "STATE", "$JS.API.STREAM.DELETE.>", "$JS.STATE.API.D.>").len(), 1);
    assert_eq!(import("POLICY", "STATE", "$JS.API.CONSUMER.LIST.>", "$JS.L.>").len(), 1);
}

#[test]
fn whoever_else_is_in_an_account_of_ours() {
    let mut seen = healthy();
    for account in ["SYS", "AUTH", "POLICY", "AUDIT", "MONITOR", "STATE"] {
        let known = Connection {
            account: account.to_owned(),
            ..connection(&format!("U{:?}", Role::Callout))
        };
        seen.guests = Ok(vec![known]);
        assert_eq!(with(&seen, Outcome::Problem), []);
        let stranger = Connection { account: account.to_owned(), ..connection("somebody") };
        seen.guests = Ok(vec![stranger]);
        let said = format!(
            "users are connected that no policy limits\nin {account}: \"somebody\" (\"a client\")"
        );
        assert_eq!(problem(&seen), ("logins", said));
        let leaf = Connection { kind: "Leafnode".to_owned(), ..seen.guests.unwrap().remove(0) };
        seen.guests = Ok(vec![leaf]);
        let (check, said) = problem(&seen);
        assert!(check == "logins" && said.starts_with("leafnodes are connected"), "{said}");
    }
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
fn consumers_that_no_grant_covers_are_a_problem_and_strangers_a_warning() {
    let doomed = |cause, owner| {
        let consumer = Consumer { name: "c\n".to_owned(), ..Consumer::default() };
        ("KV_orders".to_owned(), Doomed { consumer, owner, cause })
    };
    let mut seen = healthy();
    seen.consumers = Ok(Ok(Survey {
        doomed: vec![doomed(Cause::Lost, Owner::Service("a".into()))],
        ..Survey::default()
    }));
    let (check, found) = problem(&seen);
    assert_eq!(check, "consumers");
    assert!(found.contains("KV_orders: c\\n, of a: the service may not read"), "{found}");
    seen.consumers = Ok(Ok(Survey {
        doomed: vec![doomed(Cause::Stranger, Owner::Nobody); 10],
        untold: vec![("KV_more".to_owned(), "x".to_owned())],
        ..Survey::default()
    }));
    assert_eq!(with(&seen, Outcome::Problem), []);
    let mut warnings = with(&seen, Outcome::Warning);
    warnings.retain(|(check, _)| *check == "consumers");
    assert_eq!(warnings.len(), 2, "{warnings:?}");
    assert!(warnings[0].1.ends_with("and 2 more"), "{warnings:?}");
    seen.consumers = Ok(Ok(Survey {
        exposed: vec![("EVENTS".to_owned(), "hand\n".to_owned(), vec!["a".into(), "b".into()])],
        ..Survey::default()
    }));
    let mut warnings = with(&seen, Outcome::Warning);
    warnings.retain(|(check, _)| *check == "consumers");
    assert_eq!(warnings.len(), 1, "{warnings:?}");
    let said = "EVENTS: hand\\n is not declared, so services that replay the stream can change, use and \
                delete it: a, b";
    assert_eq!(warnings[0].1, said);
    seen.consumers = Ok(Err("nobody answers".to_owned()));
    let (check, found) = problem(&seen);
    assert!(check == "consumers" && found.contains("nobody answers"), "{found}");
}

#[test]
fn every_check_has_a_place_and_a_family_in_one_piece() {
    let mut ids: Vec<&str> = CHECKS.iter().map(|check| check.id).collect();
    ids.sort_unstable();
    ids.dedup();
    assert_eq!(ids.len(), CHECKS.len());
    let mut families: Vec<&str> = CHECKS.iter().map(|check| check.family).collect();
    families.dedup();
    assert_eq!(families, ["servers", "callout", "accounts", "operator mode", "state", "adoption"]);
    let report = Report::of(&healthy());
    assert!(report.findings.iter().all(|f| CHECKS.iter().any(|check| check.id == f.check)));
}

/// An import of the account AUDIT.
fn import_of_audit(seen: &mut Seen, into: &str, kind: &str, subject: &str, local: &str) {
    let place = seen.accounts.as_mut().unwrap().iter_mut().find(|a| a.name == into).unwrap();
    place.imports.push(super::seen::Import {
        subject: subject.to_owned(),
        local_subject: local.to_owned(),
        account: "AUDIT".to_owned(),
        kind: kind.to_owned(),
    });
}

/// The audit streams are reached as deploy/nats-server.conf does it, and not otherwise.
#[test]
fn how_the_audit_is_reached() {
    let sound = || {
        let mut seen = healthy();
        seen.settings.audit = Some("AUDIT_EVENTS".to_owned());
        let policy = seen.policy.as_ref().unwrap();
        let streams = crate::buckets::audit_streams(&seen.settings.audit_streams, policy);
        let stream = |config| crate::buckets::Stream { config, ..Default::default() };
        seen.audit_streams = Ok(streams.map(stream).into());
        let own = "audit.events.solewriter.*";
        let last = "$JS.API.DIRECT.GET.AUDIT_EVENTS.audit.events.solewriter.*";
        for (into, kind, subject, local) in [
            ("AUTH", "service", own, own),
            ("AUTH", "service", last, last),
            ("AUTH", "service", "$JS.API.CONSUMER.LIST.>", "$JS.AUDIT.API.CONSUMER.LIST.>"),
            ("APP", "service", "audit.services.>", "audit.events.>"),
            ("APP", "service", "$JS.API.>", "$JS.AUDIT.API.>"),
            ("APP", "service", "$JS.FC.AUDIT_EVENTS.>", "$JS.FC.AUDIT_EVENTS.>"),
            ("APP", "stream", "_INBOX.>", "_INBOX.>"),
        ] {
            import_of_audit(&mut seen, into, kind, subject, local);
        }
        seen
    };
    assert_eq!(with(&sound(), Outcome::Problem), []);
    for (into, subject, local) in [
        // Services that reach solewriter's own stream.
        ("APP", "audit.events.solewriter.*", "audit.events.solewriter.*"),
        ("APP", "audit.>", "audit.>"),
        // The same name as another service's, or somebody who is none.
        ("APP", "audit.services.>", "events.>"),
        ("MONITOR", "audit.services.>", "audit.events.>"),
        ("POLICY", "$JS.API.>", "$JS.AUDIT.API.>"),
        ("AUTH", "$JS.API.>", "$JS.AUDIT.API.>"),
    ] {
        let mut seen = sound();
        import_of_audit(&mut seen, into, "service", subject, local);
        let (check, found) = problem(&seen);
        let said = format!("{into} imports `{subject}` of AUDIT as `{local}`: its users reach the");
        assert!(check == "imports" && found.starts_with(&said), "{found}");
    }
    for (into, subject, said) in [
        ("APP", "audit.services.>", "APP does not import the service `audit.services.>` of AUDIT"),
        ("APP", "$JS.API.>", "APP does not import the service `$JS.API.>` of AUDIT"),
        ("AUTH", "audit.events.solewriter.*", "AUTH does not import `audit.events.solewriter.*`"),
    ] {
        let mut seen = sound();
        let accounts = seen.accounts.as_mut().unwrap();
        let place = accounts.iter_mut().find(|a| a.name == into).unwrap();
        place.imports.retain(|i| i.account != "AUDIT" || i.subject != subject);
        let (check, found) = problem(&seen);
        assert!(check == "imports" && found.starts_with(said), "{found}");
    }
    // One stream for everybody, beside the buckets.
    let mut old = healthy();
    old.settings.audit = Some("AUDIT_EVENTS".to_owned());
    old.settings.audit_streams =
        solewriter_core::grant::AuditStreams::new(None, None, Some("$JS.API")).unwrap();
    assert_eq!(problem(&old).0, "audit");
    assert!(with(&old, Outcome::Warning).iter().any(|(check, found)| {
        *check == "audit" && found.contains("one of them pushes out everybody's events")
    }));
}

/// An adoption in which these users may log in to the old account, by a configuration, and these are
/// connected there.
fn adopting(users: Option<&str>, left: &[(&str, Option<&str>)]) -> Seen {
    use super::seen::{Adoption, Left, Login, Side};
    use crate::adoption::server_config::accounts::tests::view;
    use crate::adoption::server_config::permissions::rights;
    let policy = "[bucket.b]\n[service.a]\nnkeys = []\nowns = [\"b\"]\n[service.c]\nnkeys = []\n";
    let policy = validate(&[SourceFile::new("p.toml", policy)]).unwrap().policy;
    let service = |name: &str| policy.service(name).map(|service| service.name.clone());
    let side = Side { connections: 1, ..Side::default() };
    let logins = users.map(|users| {
        let config = view(&format!("accounts {{ OLD {{ users: [ {users} ] }} }}")).0;
        let users = &config.account("OLD").unwrap().users;
        let login = |user: &crate::adoption::server_config::accounts::User| Login {
            user: user.label().to_owned(),
            service: service(user.label()),
            rights: Some(rights(user)),
        };
        users.iter().map(login).collect()
    });
    let left = left.iter().map(|(user, of)| Left {
        user: (*user).to_owned(),
        service: of.and_then(service),
        side: side.clone(),
    });
    let adoption =
        Adoption { old: "OLD".into(), logins, left: left.collect(), ..Adoption::default() };
    Seen { policy: Ok(policy), adoption: Some(Ok(adoption)), ..healthy() }
}

/// How the checks of an adoption came out, with the first words of what they found.
fn of_adoption(seen: &Seen) -> Vec<(&'static str, Outcome, String)> {
    let findings = Report::of(seen).findings.into_iter();
    findings
        .filter(|finding| ["movers", "one-writer"].contains(&finding.check))
        .map(|finding| (finding.check, finding.outcome, finding.found))
        .collect()
}

#[test]
fn without_an_adoption_nobody_moves() {
    assert!(of_adoption(&healthy()).is_empty());
}

#[test]
fn who_may_log_in_is_left_though_not_connected() {
    let reader = "{ user: c, password: p, permissions: { publish: \"plain\" } }";
    let found = of_adoption(&adopting(Some(reader), &[]));
    let [(_, Outcome::Warning, left), (_, Outcome::Ok, gone), (_, Outcome::Ok, holds)] =
        found.as_slice()
    else {
        panic!("{found:?}")
    };
    assert_eq!(gone, "not connected in either account: a");
    assert!(left.contains("user c: not connected, but may log in"), "{left}");
    assert_eq!(holds, "nobody of OLD can write b");
}

#[test]
fn each_way_to_write_is_in_the_way() {
    for (permission, way) in [
        ("\"$KV.b.x\"", "writes it by publishing ($KV.b.x)"),
        ("\"$KV.other.x\"", "may have JetStream write it by a reply subject ($KV.other.x)"),
        ("\"$JS.API.STREAM.PURGE.KV_b\"", "may change, empty or delete its stream"),
        (
            "{ allow: \"$KV.>\", deny: \"$KV.b.>\" }",
            "may have JetStream write it by a reply subject",
        ),
    ] {
        let user =
            format!("{{ user: tool, password: p, permissions: {{ publish: {permission} }} }}");
        let found = of_adoption(&adopting(Some(&user), &[("tool", None)]));
        let text = format!("{found:?}");
        assert!(text.contains(way), "{permission}: {text}");
        assert!(text.contains("not yet: b; in the way: tool"), "{permission}: {text}");
    }
    let answers =
        "{ user: tool, password: p, permissions: { publish: \"x\", allow_responses: true } }";
    let text = format!("{:?}", of_adoption(&adopting(Some(answers), &[])));
    assert!(text.contains("by a reply subject (allow_responses)"), "{text}");
}

#[test]
fn the_end_needs_a_configuration_and_all_servers() {
    let text = format!("{:?}", of_adoption(&adopting(Some(""), &[])));
    assert!(text.contains("nobody is left in OLD, and every keyspace has one writer"), "{text}");
    let text = format!("{:?}", of_adoption(&adopting(None, &[])));
    assert!(text.contains("who may log in there is in nats-server's configuration"), "{text}");
    assert!(!text.contains("nobody is left"), "{text}");
    let mut silent = adopting(Some(""), &[]);
    if let Some(Ok(adoption)) = &mut silent.adoption {
        adoption.untold.push("n2: no answer".to_owned());
    }
    let text = format!("{:?}", of_adoption(&silent));
    assert!(text.contains("n2: no answer") && !text.contains("nobody is left"), "{text}");
    // One who is connected and that no configuration names may do everything.
    let text = format!("{:?}", of_adoption(&adopting(Some(""), &[("ghost", None)])));
    assert!(text.contains("nothing is known of its permissions"), "{text}");
}

#[test]
fn who_is_observed_is_told_of_and_owns_nothing_by_that() {
    let policy = "[bucket.b]\n[bucket.free]\n[service.a]\nowns = [\"b\"]\n[service.c]\n\
                  enforce = \"observe\"\nbefore.publish = [\">\"]\n";
    let policy = validate(&[SourceFile::new("p.toml", policy)]).unwrap().policy;
    let seen = Seen { policy: Ok(policy), ..adopting(Some(""), &[]) };
    let text = format!("{:?}", of_adoption(&seen));
    assert!(text.contains("observed, with what they could do before: c"), "{text}");
    assert!(text.contains("nobody owns free, and observed services write it: c"), "{text}");
    assert!(!text.contains("every keyspace has one writer"), "{text}");
}
