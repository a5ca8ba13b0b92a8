//! solewriter reaches a server that wants TLS, with a client certificate, and no other.

use std::path::Path;

use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair};

use super::deployment::Prepared;

/// Writes `ca.pem`, and certificate and key for a server and a client.
fn write_certificates(folder: &Path) {
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

/// With the authority and a certificate it gets in; without either it says why not.
pub async fn it_connects_over_tls_with_a_certificate(version: &'static str) {
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

    let ca = file("ca.pem");
    let only_ca = deployment.launch_instance(&["--nats-tls-ca", &ca]);
    deployment.instances[only_ca].says("connect_failed").await;

    let (cert, key) = (file("client.pem"), file("client.key"));
    let both = ["--nats-tls-ca", &ca, "--nats-tls-cert", &cert, "--nats-tls-key", &key];
    deployment.add_instance(&[both.as_slice(), &["--nats-tls-required", "true"]].concat()).await;
}
