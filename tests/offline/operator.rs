//! What is wrong with the settings of operator mode is said before anything is connected.

use std::path::Path;
use std::process::Command;

use solewriter::scaffold::{Deployment, write_secret};
use solewriter_core::account_jwt::{self, AccountBody, SigningKey};
use solewriter_core::keys::{Account, Operator, Seed, Signer};

use super::settings::initialised;

/// What `serve` says, which ends by itself because the settings are wrong.
fn said(deployment: &Deployment) -> String {
    let output = Command::new(env!("CARGO_BIN_EXE_solewriter"))
        .args(["serve", "--config"])
        .arg(deployment.settings())
        .output()
        .unwrap();
    assert_eq!(output.status.code(), Some(1));
    String::from_utf8(output.stderr).unwrap()
}

fn seed<K: solewriter_core::keys::Role>(file: &Path) -> Seed<K> {
    Seed::parse(&std::fs::read_to_string(file).unwrap()).unwrap()
}

/// Changes an account as its operator would.
fn push(deployment: &Deployment, name: &str, change: &dyn Fn(&mut AccountBody)) {
    let file = deployment.dir.join("accounts").join(format!("{name}.jwt"));
    let old = std::fs::read_to_string(&file).unwrap();
    let mut claims = account_jwt::read::<AccountBody>(&old).unwrap();
    change(&mut claims.nats);
    let operator = seed::<Operator>(&deployment.dir.join("keys/operator/operator.nk"));
    let operator = Signer::new(&operator).unwrap();
    let new = account_jwt::sign(&operator, &claims.sub, name, claims.nats, 1).unwrap();
    std::fs::write(&file, new).unwrap();
}

fn replace(deployment: &Deployment, from: &str, to: &str) {
    let text = std::fs::read_to_string(deployment.settings()).unwrap();
    assert!(text.contains(from), "{from}");
    std::fs::write(deployment.settings(), text.replace(from, to)).unwrap();
}

#[test]
fn what_a_jwt_lacks_is_said_at_the_start() {
    type Change = fn(&mut AccountBody);
    let rows: [(&str, Change, &str); 6] = [
        (
            "AUTH",
            |body| body.authorization.allowed_accounts = vec!["*".to_owned()],
            "`allowed_accounts` has `*`",
        ),
        ("AUTH", |body| body.authorization.allowed_accounts.clear(), "does not have APP"),
        ("AUTH", |body| body.authorization.xkey.clear(), "requests are not sealed to [xkey] seed"),
        ("AUTH", |body| body.authorization = <_>::default(), "has no `authorization`"),
        ("AUTH", |body| body.signing_keys.clear(), "which no JWT in [operator] accounts has"),
        ("APP", |body| body.signing_keys.clear(), "signs for no account"),
    ];
    for (account, change, text) in rows {
        let (_dir, deployment) = initialised(true);
        push(&deployment, account, &change);
        let said = said(&deployment);
        assert!(said.contains(text), "{text}: {said}");
    }
}

#[test]
fn a_scoped_key_is_refused() {
    let (_dir, deployment) = initialised(true);
    let key = Signer::new(&seed::<Account>(&deployment.dir.join("keys/app.nk"))).unwrap();
    let key = key.public().to_string();
    push(&deployment, "APP", &move |body| {
        let (kind, role, template) =
            ("user_scope".to_owned(), "r".to_owned(), serde_json::json!({}));
        body.signing_keys = vec![SigningKey::Scoped { kind, key: key.clone(), role, template }];
    });
    let said = said(&deployment);
    assert!(said.contains("error[scoped-key]") && said.contains("keys/app.nk"), "{said}");
}

#[test]
fn files_that_do_not_fit_are_named() {
    for (from, to, text) in [
        ("  \"accounts/APP.jwt\",\n", "", "and there is no JWT of it"),
        ("\"keys/app.nk\"", "\"keys/operator/STATE.nk\"", "and there is no seed of it"),
        ("\"keys/app.nk\"", "\"keys/none.nk\"", "none.nk cannot be read"),
        ("accounts/APP.jwt", "solewriter.toml", "it has no account JWT"),
        ("accounts/APP.jwt", "accounts/AUTH.jwt", "two JWTs are of AUTH"),
        ("keys/system.creds", "keys/app.nk", "is no credentials file"),
    ] {
        let (_dir, deployment) = initialised(true);
        replace(&deployment, from, to);
        let said = said(&deployment);
        assert!(said.contains(text), "{text}: {said}");
    }
}

#[test]
fn a_changed_jwt_is_no_jwt() {
    let (_dir, deployment) = initialised(true);
    let file = deployment.dir.join("accounts/APP.jwt");
    let text = std::fs::read_to_string(&file).unwrap();
    let (signed, _) = text.rsplit_once('.').unwrap();
    std::fs::write(&file, format!("{signed}.{}", "A".repeat(86))).unwrap();
    assert!(said(&deployment).contains("no operator signed it"));
}

/// Of several keys of an account the first one signs; the others may be there already.
#[test]
fn two_keys_of_an_account_are_no_mistake() {
    let (_dir, deployment) = initialised(true);
    let (new, file) = (Seed::<Account>::generate(), deployment.dir.join("keys/app-2.nk"));
    write_secret(&file, new.expose()).unwrap();
    let new = *Signer::new(&new).unwrap().public();
    push(&deployment, "APP", &move |body| {
        body.signing_keys.push(SigningKey::Plain(new.to_string()));
    });
    replace(&deployment, "\"keys/app.nk\"", "\"keys/app-2.nk\", \"keys/app.nk\"");
    let (settings, _) =
        solewriter::config::load(&deployment.settings(), &solewriter::config::Overrides::default())
            .unwrap_or_else(|problems| panic!("{}", problems.summary()));
    let operator = settings.operator.unwrap();
    assert_eq!(*operator.accounts["APP"].signer.public(), new);
}
