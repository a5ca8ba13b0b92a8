//! A server without a callout, where attacks work: the same permissions, written into its
//! configuration, with the one thing changed that an attack needs.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use nats_jwt::{NatsClaims, NatsPermissions};
use serde_json::{Map, Value, json};
use solewriter::nats::raw_client::{RawLogin, TlsServer};
use solewriter::prove::testbed::Testbed;
use solewriter::prove::{Attack, Control};
use solewriter_core::grant::{Defaults, Grant};
use solewriter_core::policy::model::Policy;
use tempfile::TempDir;

use super::deployment::binary;
use super::lane;

/// The server and its folder.
pub struct Controls {
    pub server: solewriter_sandbox::Server,
    _dir: TempDir,
}

/// Whether an attack's control is on this server.
pub fn is_here(attack: &Attack) -> bool {
    matches!(
        attack.control,
        Control::OneAccount
            | Control::OneAccountGranted(..)
            | Control::Granted(..)
            | Control::Instead(..)
            | Control::Bucket(_)
            | Control::AllowResponses
    )
}

fn one_account(control: &Control) -> bool {
    matches!(control, Control::OneAccount | Control::OneAccountGranted(..))
}

fn side(side: &NatsPermissions, more: &[String]) -> Value {
    let mut allow = side.allow.clone();
    allow.extend_from_slice(more);
    let mut said = Map::new();
    // What denies everything makes place for the one grant.
    if more.is_empty() && !side.deny.is_empty() {
        said.insert("deny".to_owned(), json!(side.deny));
    }
    if !allow.is_empty() {
        said.insert("allow".to_owned(), json!(allow));
    }
    Value::Object(said)
}

/// A user of the configuration with the permissions that the policy gives a service, and more.
fn user(name: &str, grant: &Grant, publish: &[String], subscribe: &[String]) -> Value {
    let NatsClaims::User { permissions, .. } = grant.claims() else { panic!("no user claims") };
    json!({"user": name, "password": name, "permissions": {
        "publish": side(&permissions.publish, publish),
        "subscribe": side(&permissions.subscribe, subscribe),
    }})
}

impl Controls {
    pub async fn start(
        version: &'static str,
        attacks: &[(usize, Attack)],
        policy: &Policy,
    ) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let config = dir.path().join("control.conf");
        std::fs::write(&config, configuration(attacks, policy, dir.path())).unwrap();
        let server = solewriter_sandbox::Server::start(&binary(version).await, &config, dir.path())
            .await
            .unwrap();
        Self { server, _dir: dir }
    }

    /// Where an attack's control takes place.
    pub fn stage(&self, attack: &Attack, lane: usize) -> Testbed {
        let account = if one_account(&attack.control) { "flat" } else { "app" };
        let login = |service: &str| RawLogin::Password(format!("{account}-{service}"));
        let responder = lane::responder(lane);
        let open = if attack.control == Control::AllowResponses { "open" } else { account };
        Testbed {
            servers: vec![TlsServer::plain(self.server.client_url().parse().unwrap())],
            names: lane::names(attack, lane),
            attacker: RawLogin::Password(attack.id.to_owned()),
            victim: login(&lane::victim(lane)),
            responder: Some((responder.clone(), RawLogin::Password(format!("{open}-{responder}")))),
            admin: login("admin"),
            replicas: 1,
            placement: Value::Null,
            bucket: lane::bucket(attack),
            patience: Duration::from_secs(5),
            control_bucket: match &attack.control {
                Control::Bucket(settings) => settings.clone(),
                _ => Value::Null,
            },
        }
    }
}

fn configuration(attacks: &[(usize, Attack)], policy: &Policy, dir: &std::path::Path) -> String {
    let defaults = Defaults {
        account: Arc::from("APP"),
        lifetime: std::time::Duration::from_secs(3600),
        audit: solewriter_core::grant::AuditStreams::default(),
    };
    let grants: BTreeMap<String, Grant> = policy
        .services()
        .iter()
        .map(|service| (service.name.to_string(), Grant::of(service, &defaults).unwrap()))
        .collect();
    let (mut flat, mut app) = (Vec::new(), Vec::new());
    for (name, grant) in &grants {
        flat.push(user(&format!("flat-{name}"), grant, &[], &[]));
        app.push(user(&format!("app-{name}"), grant, &[], &[]));
        if name.starts_with("responder") {
            let mut open = user(&format!("open-{name}"), grant, &[], &[]);
            open["permissions"]["allow_responses"] = json!(true);
            app.push(open);
        }
    }
    for (lane, attack) in attacks.iter().filter(|(_, attack)| is_here(attack)) {
        let names = lane::names(attack, *lane);
        let filled = |list: &[String]| list.iter().map(|s| names.fill(s)).collect::<Vec<_>>();
        let (publish, subscribe) = match &attack.control {
            Control::Granted(publish, subscribe)
            | Control::OneAccountGranted(publish, subscribe) => {
                (filled(publish), filled(subscribe))
            }
            Control::Instead(_, publish) => (vec![names.fill(publish)], Vec::new()),
            _ => (Vec::new(), Vec::new()),
        };
        let grant = &grants[&names.me];
        let list = if one_account(&attack.control) { &mut flat } else { &mut app };
        list.push(user(attack.id, grant, &publish, &subscribe));
    }
    flat.push(json!({"user": "flat-admin", "password": "flat-admin"}));
    let accounts = json!({
        "STATE": {
            "jetstream": true,
            "users": [{"user": "app-admin", "password": "app-admin"}],
            "exports": [
                {"service": "$KV.>", "response": "stream"},
                {"service": "$JS.API.>", "response": "stream"},
                {"service": "$JS.FC.>"},
                {"service": "$JS.ACK.>"},
                {"service": "$O.>", "response": "stream"},
                {"service": "attack.>", "response": "stream"},
                {"stream": "_INBOX.>"},
            ],
        },
        "APP": {
            "users": app,
            "imports": [
                {"service": {"account": "STATE", "subject": "$KV.>"}},
                {"service": {"account": "STATE", "subject": "$JS.API.>"}},
                {"service": {"account": "STATE", "subject": "$JS.FC.>"}},
                {"service": {"account": "STATE", "subject": "$JS.ACK.>"}},
                {"service": {"account": "STATE", "subject": "$O.>"}},
                {"service": {"account": "STATE", "subject": "attack.>"}},
                {"stream": {"account": "STATE", "subject": "_INBOX.>"}},
            ],
        },
        "FLAT": {"jetstream": true, "users": flat},
        "SYS": {"users": [{"user": "sys", "password": "sys"}]},
    });
    format!(
        "listen: \"127.0.0.1:-1\"\nserver_name: control\njetstream {{ store_dir: \"{}\" }}\n\
         system_account: SYS\naccounts: {accounts:#}\n",
        dir.join("jetstream").display()
    )
}
