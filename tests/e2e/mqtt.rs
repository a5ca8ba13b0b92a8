//! A device that comes by MQTT is nobody's service, and is told so.

use solewriter_sandbox::free_ports;

use super::attacks::doors::by_mqtt;
use super::deployment::{Deployment, Prepared, read};
use super::operator::token;

/// Refused, with a reason that says what to do, in the log and in the event.
async fn is_told(deployment: &mut Deployment, address: &str, user: &str, password: &str) {
    let before = deployment.instances[0].decisions().len();
    by_mqtt(address, user, password).await.unwrap_err();
    let refusals = deployment.instances[0].says_times("authorisation", before + 1).await;
    let refusal = refusals.last().unwrap();
    assert_eq!(refusal["reason"], "mqtt", "{refusal}");
    assert_eq!(refusal["connection"], "MQTT", "{refusal}");
    assert_eq!(refusal["service"], "-", "{refusal}");
    let detail = refusal["detail"].as_str().unwrap();
    assert!(detail.contains("connect it by NATS or WebSocket with its NKEY seed"), "{refusal}");
    assert!(!password.is_empty() && !refusal.to_string().contains(password), "{refusal}");
}

on_every_server!(a_device_is_refused_with_a_reason);
async fn a_device_is_refused_with_a_reason(version: &'static str) {
    let address = format!("127.0.0.1:{}", free_ports(1).unwrap()[0]);
    let listener = format!("mqtt {{ listen: \"{address}\" }}\nsystem_account: SYS");
    let prepared = Prepared::new().with_server("system_account: SYS", &listener);
    let mut deployment = prepared.start(version, "[service.a]\nnkeys = [\"{a}\"]\n").await;
    let key = deployment.service("a").key();
    is_told(&mut deployment, &address, "device", "secret").await;
    is_told(&mut deployment, &address, &key, &key).await;
    let text = deployment.instances[0].get("/metrics").await.1;
    assert!(text.contains("reason=\"mqtt\""), "{text}");
}

on_every_server!(a_device_with_a_jwt_is_refused_by_an_operators_server);
/// The sentinel's JWT is a bearer token in the account where solewriter is asked, and everybody may
/// have it.
async fn a_device_with_a_jwt_is_refused_by_an_operators_server(version: &'static str) {
    let prepared = Prepared::operator(version);
    let accounts = prepared.files.dir.join("accounts.conf");
    let sentinel = read(&accounts)
        .split_once("default_sentinel: ")
        .map(|(_, rest)| rest.split_whitespace().next().unwrap().trim_matches('"').to_owned());
    let address = format!("127.0.0.1:{}", free_ports(1).unwrap()[0]);
    let config = prepared.files.server_config();
    let text = read(&config);
    std::fs::write(&config, format!("{text}\nmqtt {{ listen: \"{address}\" }}\n")).unwrap();
    let mut deployment = prepared.start_as_is(version).await;
    // A service's own JWT is no bearer token: the server wants a signature, which MQTT has not.
    let own = token(&deployment, "orders");
    by_mqtt(&address, "orders", &own).await.unwrap_err();
    assert_eq!(deployment.instances[0].decisions().len(), 0);
    if let Some(sentinel) = sentinel {
        is_told(&mut deployment, &address, "x", &sentinel).await;
    }
    // The same service by TCP.
    let client = deployment.login("orders").custom_inbox_prefix("_INBOX.orders");
    client.connect(deployment.url()).await.unwrap().flush().await.unwrap();
}
