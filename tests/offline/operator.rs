//! What is wrong with the settings of operator mode is said before anything is connected.

use std::path::Path;
use std::process::Command;

use solewriter::operator::Account as Read;
use solewriter::operator::situation::sentinel;
use solewriter::scaffold::{Deployment, write_secret};
use solewriter_core::account_jwt::{
    self, AccountBody, Limits, PassKind, SigningKey, Subjects, UserBody,
};
use solewriter_core::keys::{Account, AccountKey, Operator, Seed, Signer, User};

use super::settings::initialised;

/// What `serve` says, which ends by itself because the settings are wrong.
fn said(deployment: &Deployment) -> String {
    let loaded =
        solewriter::config::load(&deployment.settings(), &solewriter::config::Overrides::default());
    assert!(loaded.is_err(), "the settings are good, and `serve` would not end");
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

/// What `operator plan` prints, and its exit code.
fn plan(deployment: &Deployment) -> (Option<i32>, String) {
    let output = Command::new(env!("CARGO_BIN_EXE_solewriter"))
        .args(["operator", "plan", "--config"])
        .arg(deployment.settings())
        .output()
        .unwrap();
    (output.status.code(), String::from_utf8(output.stdout).unwrap())
}

#[test]
fn the_plan_says_what_a_jwt_has_otherwise() {
    type Change = fn(&mut AccountBody);
    let rows: [(&str, Change, &str); 14] = [
        (
            "AUTH",
            |body| body.authorization.auth_users.push("UX".to_owned()),
            "`auth_users` has UX: that user gets in, and nobody is asked",
        ),
        (
            "AUTH",
            |body| body.authorization.allowed_accounts.push("*".to_owned()),
            "--rm-allowed-account '*'",
        ),
        ("AUTH", |body| body.authorization.allowed_accounts.clear(), " --allowed-account A"),
        ("AUTH", |body| body.authorization.xkey.clear(), " --curve X"),
        ("AUTH", |body| body.authorization = <_>::default(), "so nobody is asked"),
        ("AUTH", |body| body.signing_keys.clear(), "nsc edit account --name AUTH --sk A"),
        ("APP", |body| body.signing_keys.clear(), "nsc edit account --name APP --sk A"),
        ("APP", |body| drop(body.imports.remove(0)), "nsc add import --account APP --name '$KV.>'"),
        (
            "APP",
            |body| body.imports[0].token = body.imports[1].token.clone(),
            "with an activation that is for another subject",
        ),
        (
            "APP",
            |body| {
                let thief = Signer::<Account>::new(&Seed::generate()).unwrap();
                let claims =
                    account_jwt::read::<serde_json::Value>(&body.imports[0].token).unwrap();
                let importer = AccountKey::parse(&claims.sub).unwrap();
                let token =
                    account_jwt::activation(&thief, &importer, "$KV.>", PassKind::Service, 1);
                body.imports[0].token = token.unwrap();
            },
            "with an activation that its exporter did not sign",
        ),
        ("APP", |body| body.limits.disallow_bearer = false, "--disallow-bearer"),
        (
            "APP",
            |body| body.limits = Limits::none(true),
            "nsc edit account --name APP --js-disable",
        ),
        ("STATE", |body| body.limits = Limits::none(false), "JetStream is not enabled in it"),
        ("STATE", |body| body.exports[0].token_req = false, "to any account of the operator"),
    ];
    let (_dir, deployment) = initialised(true);
    assert_eq!(plan(&deployment), (Some(0), String::new()));
    for (account, change, text) in rows {
        let file = deployment.dir.join("accounts").join(format!("{account}.jwt"));
        let before = std::fs::read_to_string(&file).unwrap();
        push(&deployment, account, &change);
        let (code, out) = plan(&deployment);
        assert!(code == Some(1) && out.contains(text), "{text}: {out}");
        std::fs::write(file, before).unwrap();
    }
}

#[test]
fn the_plan_is_of_operator_mode() {
    let (_dir, deployment) = initialised(false);
    assert_eq!(plan(&deployment), (Some(2), String::new()));
    let (_dir, deployment) = initialised(true);
    let output = Command::new(env!("CARGO_BIN_EXE_solewriter"))
        .arg("upgrade")
        .arg(&deployment.dir)
        .output()
        .unwrap();
    let said = String::from_utf8(output.stderr).unwrap();
    assert!(output.status.code() == Some(2) && said.contains("is in operator mode"), "{said}");
}

/// The default sentinel's JWT, which everybody has, leads to the callout and does nothing else.
#[test]
fn what_is_wrong_with_a_sentinel_is_said() {
    let (_dir, deployment) = initialised(true);
    let read = |name: &str| {
        let file = deployment.dir.join("accounts").join(format!("{name}.jwt"));
        Read::read(std::fs::read_to_string(file).unwrap().trim()).unwrap()
    };
    let (mut auth, app) = (read("AUTH"), read("APP"));
    let own = Signer::new(&seed::<Account>(&deployment.dir.join("keys/operator/AUTH.nk"))).unwrap();
    let issuer = Signer::new(&seed::<Account>(&deployment.dir.join("keys/issuer.nk"))).unwrap();
    let user = Signer::<User>::new(&Seed::generate()).unwrap().public().to_string();
    let jwt = |by: &Signer<Account>, body: UserBody| {
        account_jwt::sign(by, &user, "sentinel", body, 1).unwrap()
    };
    let nothing = || UserBody::new(&auth.key, Subjects::nothing(), Subjects::nothing());
    let something = UserBody::new(&auth.key, Subjects::default(), Subjects::nothing());
    let elsewhere = UserBody::new(&app.key, Subjects::nothing(), Subjects::nothing());
    let good = jwt(&own, nothing());
    assert_eq!(sentinel(&good, &auth, 1), Vec::<String>::new());
    for (token, text) in [
        (jwt(&own, something), "it permits something"),
        (jwt(&own, elsewhere), "and AUTH asks"),
        (jwt(&issuer, nothing()), "a signing key signed it"),
        ("no JWT".to_owned(), "it cannot be read"),
    ] {
        let wrong = sentinel(&token, &auth, 1);
        assert!(wrong.iter().any(|wrong| wrong.contains(text)), "{text}: {wrong:?}");
    }
    auth.body.authorization.auth_users.push(user.clone());
    assert!(sentinel(&good, &auth, 1)[0].contains("everybody gets in"));
}
