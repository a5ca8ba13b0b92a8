//! An operator who has accounts already gets to solewriter by what `solewriter operator plan` prints, and
//! `doctor` says what is wrong with account JWTs.

use std::collections::BTreeMap;

use async_nats::ConnectOptions;
use async_nats::jetstream;
use serde_json::Value;
use solewriter::scaffold::{self, write_secret};
use solewriter_core::account_jwt::{
    self, AccountBody, Claims, Export, Limits, OperatorBody, PassKind, SigningKey, Subjects,
    UserBody,
};
use solewriter_core::keys::{Account, AccountKey, Curve, Operator, Seed, Signer, User};

use super::deployment::{Deployment, Prepared, binary, eventually, read};
use super::operator::{planned, push_jwt};
use super::raw::Raw;
use solewriter_sandbox::Server;

/// Who signs: an operator, and accounts with names of their own.
struct Company {
    operator: Signer<Operator>,
    accounts: BTreeMap<&'static str, Signer<Account>>,
}

const POLICY: &str = r#"
[bucket.orders]
[stream.EVENTS]
subjects = ["events.>"]
[service.orders]
nkeys = ["{orders}"]
owns = ["orders"]
publishes = ["events.orders.>"]
"#;

fn account(jetstream: bool) -> AccountBody {
    AccountBody {
        limits: Limits::none(jetstream),
        kind: "account".to_owned(),
        version: 2,
        ..AccountBody::default()
    }
}

impl Company {
    fn new() -> Self {
        let names = ["SYS", "COMPANY", "CALLOUT", "APPS", "WATCH", "JOURNAL"];
        Self {
            operator: Signer::new(&Seed::generate()).unwrap(),
            accounts: names.map(|name| (name, Signer::new(&Seed::generate()).unwrap())).into(),
        }
    }

    fn key(&self, name: &str) -> AccountKey {
        *self.accounts[name].public()
    }

    fn by_key(&self, key: &str) -> &Signer<Account> {
        self.accounts.values().find(|signer| signer.public().as_str() == key).unwrap()
    }

    fn sign(&self, name: &str, claims: impl serde::Serialize) -> String {
        account_jwt::sign(&self.operator, self.key(name).as_str(), name, claims, 1).unwrap()
    }

    fn user(&self, account: &str, seed: &Seed<User>, subjects: &Subjects) -> String {
        let signer = &self.accounts[account];
        let body = UserBody::new(signer.public(), subjects.clone(), subjects.clone());
        let key = *Signer::new(seed).unwrap().public();
        account_jwt::sign(signer, key.as_str(), "somebody", body, 1).unwrap()
    }

    /// The accounts as they are before anybody thinks of solewriter. JetStream is where it is used, and
    /// where it should not be; everybody may import the buckets.
    fn before(name: &str) -> AccountBody {
        let mut body = account(["COMPANY", "APPS"].contains(&name));
        let export = |subject: &str, kind| Export {
            name: subject.to_owned(),
            subject: subject.to_owned(),
            kind,
            token_req: false,
            response_type: String::new(),
        };
        if name == "COMPANY" {
            body.exports.push(export("$KV.>", PassKind::Service));
            body.exports.push(export("metrics.>", PassKind::Stream));
            body.limits.leaf = -1;
        }
        body
    }

    fn write(files: &scaffold::Deployment, name: &str, jwt: &str) {
        std::fs::write(files.dir.join(format!("accounts/{name}.jwt")), jwt).unwrap();
    }

    /// What the settings name, and nothing of `init`.
    fn files(&self, version: &str) -> Prepared {
        let dir = tempfile::tempdir().unwrap();
        let files = scaffold::Deployment { dir: dir.path().join("deployment") };
        for folder in ["keys", "accounts", "policy"] {
            std::fs::create_dir_all(files.dir.join(folder)).unwrap();
        }
        let secret = |name: &str, text: &str| {
            write_secret(&files.dir.join("keys").join(name), text).unwrap();
        };
        secret("issuer.nk", Seed::<Account>::generate().expose());
        secret("app.nk", Seed::<Account>::generate().expose());
        secret("callout.xk", Seed::<Curve>::generate().expose());
        let nothing = Subjects::default();
        for (name, account) in [
            ("callout", "CALLOUT"),
            ("admin", "COMPANY"),
            ("system", "WATCH"),
            ("audit-admin", "JOURNAL"),
        ] {
            let seed = Seed::generate();
            let jwt = self.user(account, &seed, &nothing);
            secret(&format!("{name}.creds"), &account_jwt::credentials(&jwt, &seed));
        }
        let mut preload = String::new();
        for (name, signer) in &self.accounts {
            let jwt = self.sign(name, Self::before(name));
            Self::write(&files, name, &jwt);
            preload += &format!("  {}: {jwt}\n", signer.public());
        }
        let body = OperatorBody {
            system_account: self.key("SYS").to_string(),
            kind: "operator".to_owned(),
            version: 2,
            ..OperatorBody::default()
        };
        let key = *self.operator.public();
        let operator = account_jwt::sign(&self.operator, key.as_str(), "company", body, 1).unwrap();
        let seed = Seed::<User>::generate();
        let key = *Signer::new(&seed).unwrap().public();
        let signer = &self.accounts["CALLOUT"];
        let mut body = UserBody::new(signer.public(), Subjects::nothing(), Subjects::nothing());
        body.bearer_token = true;
        let sentinel = account_jwt::sign(signer, key.as_str(), "sentinel", body, 1).unwrap();
        let sentinel = if version == "2.10.25" {
            String::new()
        } else {
            format!("default_sentinel: {sentinel}\n")
        };
        let config = format!(
            "server_name: test\nlisten: \"127.0.0.1:-1\"\noperator: {operator}\nsystem_account: {}\n\
             jetstream {{ store_dir: \"{}\", max_file_store: 64GB }}\n{sentinel}\
             authorization {{ timeout: 10 }}\nresolver: {{ type: full, dir: \"{}\" }}\n\
             resolver_preload: {{\n{preload}}}\n",
            self.key("SYS"),
            files.dir.join("jetstream").display(),
            files.dir.join("resolver").display(),
        );
        std::fs::write(files.server_config(), config).unwrap();
        let list: Vec<String> =
            self.accounts.keys().map(|name| format!("accounts/{name}.jwt")).collect();
        let settings = format!(
            "[nats]\nservers = [\"nats://127.0.0.1:4222\"]\ncredentials = \"keys/callout.creds\"\n\
             [issuer]\nseed = \"keys/issuer.nk\"\n[xkey]\nseed = \"keys/callout.xk\"\n\
             [operator]\naccounts = {list:?}\nseeds = [\"keys/app.nk\"]\n\
             [system]\ncredentials = \"keys/system.creds\"\n\
             [admin]\ncredentials = \"keys/admin.creds\"\n\
             [audit_admin]\ncredentials = \"keys/audit-admin.creds\"\n\
             [policy]\ndirectory = \"policy\"\nkeep = \"policy.kept\"\n\
             [grants]\naccount = \"APPS\"\n[http]\nlisten = \"127.0.0.1:0\"\n\
             [audit]\nstream = \"AUDIT_EVENTS\"\nspool = \"audit-spool\"\n"
        );
        std::fs::write(files.settings(), settings).unwrap();
        Prepared { files, dir }
    }

    /// Makes the changes that `operator plan --format json` printed, as whoever has the keys would: signs
    /// the activations, and the accounts, and pushes them.
    async fn make(&self, deployment: &Deployment, plan: &Value) {
        for account in plan["accounts"].as_array().unwrap() {
            let claims = planned(account, |key| self.by_key(key));
            self.push(deployment, account["account"].as_str().unwrap(), &claims).await;
        }
    }

    async fn push(&self, deployment: &Deployment, name: &str, claims: &impl serde::Serialize) {
        let jwt = self.sign(name, claims);
        Self::write(&deployment.files, name, &jwt);
        push_jwt(deployment.url(), &self.accounts["SYS"], jwt.clone()).await;
    }

    /// Changes an account, in the file and on the server.
    async fn change(
        &self,
        deployment: &Deployment,
        name: &str,
        change: impl FnOnce(&mut AccountBody),
    ) {
        let file = deployment.files.dir.join(format!("accounts/{name}.jwt"));
        let mut claims: Claims<AccountBody> = account_jwt::read(&read(&file)).unwrap();
        change(&mut claims.nats);
        self.push(deployment, name, &claims.nats).await;
    }
}

async fn plan(deployment: &Deployment, more: &[&str]) -> Value {
    deployment.tool(&[&["operator", "plan", "--format", "json"], more].concat()).await.json()
}

/// What `doctor` calls a problem, beside the holes of an old server.
async fn problems(deployment: &Deployment) -> Vec<String> {
    let ran = deployment.tool(&["doctor"]).await;
    let problems = ran.out.lines().filter(|line| line.contains("PROBLEM"));
    problems.filter(|line| !line.contains("advisories")).map(ToOwned::to_owned).collect()
}

on_every_server!(an_existing_operator_gets_there);
async fn an_existing_operator_gets_there(version: &'static str) {
    let company = Company::new();
    let Prepared { files, dir } = company.files(version);
    let server = Server::start(&binary(version).await, &files.server_config(), dir.path()).await;
    let (server, peers, instances) = (server.unwrap(), Vec::new(), Vec::new());
    let mut deployment = Deployment { server, peers, files, instances, dir };
    deployment.write_policy(POLICY);
    // Nobody asks yet, and there is a bucket with something in it.
    let admin = deployment.admin().await;
    let bucket = jetstream::kv::Config { bucket: "orders".to_owned(), ..Default::default() };
    admin.create_key_value(bucket).await.unwrap().put("before", "kept".into()).await.unwrap();

    let ran = deployment.tool(&["operator", "plan"]).await;
    assert_eq!(ran.code, 1, "{ran:?}");
    for text in [
        "CALLOUT (A",
        "nobody is asked",
        "nsc edit authcallout --account CALLOUT --auth-user U",
        "nsc edit account --name APPS --sk A",
        "nsc edit account --name APPS --js-disable",
        "nsc edit account --name JOURNAL --js-mem-storage -1",
        "nsc edit export --account COMPANY --subject '$KV.>' --private --service --response-type Stream",
        "nsc delete export --account COMPANY --subject 'metrics.>'",
        "nsc add export --account COMPANY --name 'events.>' --subject 'events.>' --private --service",
        "nsc generate activation --account COMPANY --subject '$KV.>' --target-account A",
    ] {
        assert!(ran.out.contains(text), "{text}: {}", ran.out);
    }
    company.make(&deployment, &plan(&deployment, &[]).await).await;
    // Nothing is left to do, by the files and by the server.
    let ran = deployment.tool(&["operator", "plan"]).await;
    assert_eq!((ran.code, ran.out.as_str()), (0, ""), "{ran:?}");
    eventually("the server has all of it", async || {
        let ran = deployment.tool(&["operator", "plan", "--live"]).await;
        (ran.code == 0 && ran.out.is_empty()).then_some(())
    })
    .await;
    // What the plan does not know is still there.
    let company_jwt = read(&deployment.files.dir.join("accounts/COMPANY.jwt"));
    let claims: Claims<Value> = account_jwt::read(&company_jwt).unwrap();
    assert_eq!(claims.nats["limits"]["leaf"], -1);

    deployment.add_instance(&[]).await;
    deployment.apply(&["--allow-data-loss"]).await;
    assert_eq!(problems(&deployment).await, Vec::<String>::new());
    let orders = deployment.service("orders");
    let jwt = company.user("CALLOUT", &orders.seed, &Subjects::nothing());
    let options = ConnectOptions::with_credentials(&account_jwt::credentials(&jwt, &orders.seed));
    let options = options.unwrap().custom_inbox_prefix("_INBOX.orders");
    let context = jetstream::new(options.connect(deployment.url()).await.unwrap());
    let bucket = context.get_key_value("orders").await.unwrap();
    assert_eq!(bucket.get("before").await.unwrap().unwrap(), "kept");
    bucket.put("after", "new".into()).await.unwrap();
    context.publish("events.orders.new", "1".into()).await.unwrap().await.unwrap();

    // What is new in the policy needs changes of JWTs.
    deployment.write_policy(&format!("{POLICY}[stream.MORE]\nsubjects = [\"more.>\"]\n"));
    let ran = deployment.tool(&["state", "plan"]).await;
    for text in
        ["nsc add export --account COMPANY --name 'more.>'", "nsc add import --account APPS"]
    {
        assert!(ran.out.contains(text), "{text}: {}", ran.out);
    }
    deployment.write_policy(POLICY);

    // What is wrong with a JWT on the server is said, and by what it is mended.
    let stranger = Signer::new(&Seed::<Account>::generate()).unwrap().public().to_string();
    let (other, unasked) = (company.key("COMPANY").to_string(), Seed::<User>::generate());
    let guest = Signer::new(&unasked).unwrap().public().to_string();
    company
        .change(&deployment, "CALLOUT", |body| {
            body.authorization.auth_users.push(guest);
            body.authorization.allowed_accounts.push(other);
        })
        .await;
    company
        .change(&deployment, "APPS", |body| {
            body.limits.disallow_bearer = false;
            body.signing_keys.push(SigningKey::Plain(stranger));
        })
        .await;
    company.change(&deployment, "COMPANY", |body| body.exports[0].token_req = false).await;
    let ran = eventually("doctor sees it", async || {
        let ran = deployment.tool(&["doctor"]).await;
        ran.out.contains("PROBLEM   activations").then_some(ran)
    })
    .await;
    for text in [
        "PROBLEM   delegation",
        "that user gets in, and nobody is asked",
        "`allowed_accounts` has COMPANY",
        "--rm-auth-user U",
        "PROBLEM   bearer",
        "warning   signing-keys",
        "to any account of the operator",
    ] {
        assert!(ran.out.contains(text), "{text}: {}", ran.out);
    }
    // It is so: that user is asked nobody about.
    let mut raw = Raw::dial(deployment.url()).await;
    let mut options = raw.proof(&unasked);
    options["jwt"] = company.user("CALLOUT", &unasked, &Subjects::default()).into();
    let before = deployment.instances[0].decisions().len();
    raw.enter(&options).await.unwrap();
    assert_eq!(deployment.instances[0].decisions().len(), before);
    drop(raw);
    company.make(&deployment, &plan(&deployment, &["--live"]).await).await;
    eventually("doctor is content", async || problems(&deployment).await.is_empty().then_some(()))
        .await;
}
