//! solewriter reaches a server that wants TLS, with a client certificate, and no other.

use std::path::Path;

use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair};
use serde_json::{Value, json};

use super::deployment::Prepared;

/// Writes `ca.pem`, and certificate and key for a server and a client.
pub fn write_certificates(folder: &Path) {
    let mut authority = CertificateParams::new(Vec::new()).unwrap();
    authority.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let authority = CertifiedIssuer::self_signed(authority, KeyPair::generate().unwrap()).unwrap();
    std::fs::write(folder.join("ca.pem"), authority.pem()).unwrap();
    for name in ["server", "client"] {
        let key = KeyPair::generate().unwrap();
        let params = CertificateParams::new(vec!["127.0.0.1".to_owned()]).unwrap();
        let certificate = params.signed_by(&key, &authority).unwrap();
        std::fs::write(folder.join(format!("{name}.pem")), certificate.pem()).unwrap();
        std::fs::write(folder.join(format!("{name}.key")), key.serialize_pem()).unwrap();
    }
}

on_every_server!(it_connects_over_tls_with_a_certificate);
/// With the authority and a certificate it gets in; without either it says why not.
async fn it_connects_over_tls_with_a_certificate(version: &'static str) {
    let prepared = Prepared::new();
    let folder = prepared.files.dir.clone();
    write_certificates(&folder);
    let file = |name: &str| folder.join(name).display().to_string();
    let tls = format!(
        "listen: $CLIENT_LISTEN\ntls {{ cert_file: \"{}\", key_file: \"{}\", ca_file: \"{}\", verify: true }}\n",
        file("server.pem"),
        file("server.key"),
        file("ca.pem")
    );
    let mut deployment = prepared
        .with_server("listen: $CLIENT_LISTEN\n", &tls)
        .start_broker(version, "[service.a]\nnkeys = [\"{a}\"]\n")
        .await;
    let without = deployment.launch_instance(&[]);
    let failed = deployment.instances[without].says("connect_failed").await;
    assert!(failed["error"].as_str().unwrap().contains("UnknownIssuer"), "{failed}");
    assert!(failed["message"].as_str().unwrap().contains("[nats.tls] ca"), "{failed}");
    // The doctor says that, and not what it does not see for it.
    let said = deployment.tool(&["doctor", "--format", "json"]).await;
    let findings = said.json()["findings"].as_array().unwrap().clone();
    let but_ok: Vec<&Value> = findings.iter().filter(|f| f["outcome"] != "ok").collect();
    let [finding] = *but_ok else { panic!("{but_ok:#?}") };
    assert_eq!((&finding["check"], &finding["outcome"]), (&json!("tls"), &json!("problem")));
    assert!(finding["found"].as_str().unwrap().contains("UnknownIssuer"), "{finding}");
    assert!(finding["mend"].as_str().unwrap().contains("[nats.tls] ca"), "{finding}");
    assert_eq!(said.code, 1);

    let ca = file("ca.pem");
    let only_ca = deployment.launch_instance(&["--nats-tls-ca", &ca]);
    deployment.instances[only_ca].says("connect_failed").await;

    let (cert, key) = (file("client.pem"), file("client.key"));
    // The files are read anew each time, so this one has its own.
    let own = file("own-ca.pem");
    std::fs::copy(&ca, &own).unwrap();
    let both = ["--nats-tls-ca", &own, "--nats-tls-cert", &cert, "--nats-tls-key", &key];
    let arguments = [both.as_slice(), &["--nats-tls-required", "true"]].concat();
    let inside = deployment.add_instance(&arguments).await;

    // Every connection of an instance fails for the same reason, which is told once at first.
    let lines = deployment.instances[without].lines();
    let told = lines.iter().filter(|line| line["event"] == "connect_failed");
    let attempts: Vec<u64> = told.map(|line| line["attempts"].as_u64().unwrap()).collect();
    assert_eq!(attempts[0], 1, "{attempts:?}");
    assert!(attempts[1..].iter().all(|attempts| *attempts > 1), "{attempts:?}");

    // The server comes back with a certificate of another authority.
    write_certificates(&folder);
    deployment.server.restart().await.unwrap();
    let unknown =
        |line: &Value| line["cause"].as_str().is_some_and(|cause| cause.contains("invalid peer"));
    let line = deployment.instances[inside].says_where("client_error", unknown).await;
    let cause = line["cause"].as_str().unwrap();
    assert!(cause.contains("[nats.tls] ca"), "{line}");
}
