//! One thing that an account's JWT says otherwise than it has to: for people, as `nsc` commands, and as a
//! change of the claims.

use std::sync::Arc;

use serde::Serialize;
use serde_json::{Map, Value, json};
use solewriter_core::account_jwt::{
    self, AccountBody, Authorization, Export, Import, PassKind, SigningKey,
};
use solewriter_core::keys::AccountKey;
use solewriter_types::clean;

/// The longest JWT that is read, in bytes: what an answer of a server may have.
const LONGEST: usize = 1024 * 1024;

/// An account as its JWT has it.
#[derive(Clone, Debug)]
pub struct Account {
    /// Its name.
    pub name: Arc<str>,
    /// Its public key.
    pub key: AccountKey,
    /// When the JWT ends, in seconds since the Unix epoch; 0 is never.
    pub expires: i64,
    /// The NATS part, with all that is in it.
    pub claims: Value,
    /// The same, as far as we know it.
    pub body: AccountBody,
}

impl Account {
    /// Reads a JWT, without verifying who signed it.
    #[must_use]
    pub fn read(jwt: &str) -> Option<Self> {
        if jwt.len() > LONGEST {
            return None;
        }
        let read = account_jwt::read::<Value>(jwt).ok()?;
        let body: AccountBody = serde_json::from_value(read.nats.clone()).ok()?;
        (body.kind == "account").then_some(())?;
        let key = AccountKey::parse(&read.sub).ok()?;
        let name = clean::line(&read.name).into();
        Some(Self { name, key, expires: read.exp, claims: read.nats, body })
    }

    /// Whether JetStream is on in it.
    #[must_use]
    pub fn has_jetstream(&self) -> bool {
        let limits = &self.body.limits;
        limits.mem_storage != 0 || limits.disk_storage != 0 || self.has_tiers()
    }

    fn has_tiers(&self) -> bool {
        let tiers = self.claims.pointer("/limits/tiered_limits").and_then(Value::as_object);
        tiers.is_some_and(|tiers| !tiers.is_empty())
    }

    /// The signing key of that public key.
    #[must_use]
    pub fn signing_key(&self, key: &AccountKey) -> Option<&SigningKey> {
        self.body.signing_keys.iter().find(|signing| signing.key() == key.as_str())
    }

    /// Whether that key may sign for it.
    #[must_use]
    pub fn signs(&self, key: &AccountKey) -> bool {
        *key == self.key || self.signing_key(key).is_some()
    }
}

/// What a change is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum About {
    /// `authorization`: who is asked, about whom, and where somebody may be placed.
    Delegation,
    /// Keys that sign.
    SigningKeys,
    /// Exports and imports that there are, and should not be, or the other way round.
    Passes,
    /// Exports that any account may import, and activations.
    Private,
    /// `JetStream`.
    Jetstream,
    /// Users that need no seed.
    Bearer,
}

/// An exporter's leave that an import takes.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Activation {
    /// The exporting account, by key.
    pub exporter: String,
    /// The importing account, by key.
    pub importer: String,
    /// The subject there.
    pub subject: String,
    /// The subject here.
    pub local_subject: String,
    /// Which way it goes.
    #[serde(rename = "type")]
    pub kind: PassKind,
}

/// How the claims change.
#[derive(Clone, Debug)]
pub(super) enum Edit {
    AddExport(Export),
    MendExport(Export),
    RemoveExport(Export),
    AddImport(Import),
    RemoveImport(Import),
    Authorization(Authorization),
    SigningKey(AccountKey),
    Limits(Vec<(&'static str, Value)>),
}

/// One thing to change.
#[derive(Clone, Debug)]
pub struct Change {
    /// The account.
    pub account: Arc<str>,
    /// What it is about.
    pub about: About,
    /// What is wrong.
    pub found: String,
    /// The `nsc` commands that change it.
    pub nsc: Vec<String>,
    pub(super) edit: Edit,
}

/// A text as one word of a shell command.
#[must_use]
pub fn word(text: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || "/._-:,".contains(c);
    if !text.is_empty() && text.chars().all(plain) {
        return text.to_owned();
    }
    format!("'{}'", text.replace('\'', r"'\''"))
}

/// The member of an object with that name, made where it is missing.
fn member<'a>(object: &'a mut Value, name: &str, empty: Value) -> &'a mut Value {
    if !object.is_object() {
        *object = Value::Object(Map::new());
    }
    match object {
        Value::Object(map) => map.entry(name.to_owned()).or_insert(empty),
        other => other,
    }
}

/// The list of that name.
fn list<'a>(claims: &'a mut Value, name: &str) -> Option<&'a mut Vec<Value>> {
    let list = member(claims, name, json!([]));
    if !list.is_array() {
        *list = json!([]);
    }
    list.as_array_mut()
}

fn text<'a>(value: &'a Value, name: &str) -> &'a str {
    value.get(name).and_then(Value::as_str).unwrap_or_default()
}

fn kind(kind: PassKind) -> &'static str {
    match kind {
        PassKind::Service => "service",
        PassKind::Stream => "stream",
    }
}

fn is_export(value: &Value, export: &Export) -> bool {
    text(value, "subject") == export.subject && text(value, "type") == kind(export.kind)
}

fn is_import(value: &Value, import: &Import) -> bool {
    text(value, "subject") == import.subject
        && text(value, "account") == import.account
        && text(value, "type") == kind(import.kind)
        && text(value, "local_subject") == import.local_subject
}

impl Change {
    /// Makes the change in the claims' NATS part. An import gets its activation by who has the key.
    pub fn apply(&self, claims: &mut Value) {
        match &self.edit {
            Edit::AddExport(export) => push(list(claims, "exports"), export),
            Edit::MendExport(export) => {
                let exports = list(claims, "exports").map(Vec::as_mut_slice).unwrap_or_default();
                for found in exports.iter_mut().filter(|found| is_export(found, export)) {
                    *member(found, "token_req", Value::Null) = true.into();
                    if !export.response_type.is_empty() {
                        *member(found, "response_type", Value::Null) =
                            export.response_type.clone().into();
                    }
                }
            }
            Edit::RemoveExport(export) => {
                if let Some(exports) = list(claims, "exports") {
                    exports.retain(|found| !is_export(found, export));
                }
            }
            Edit::AddImport(import) => {
                if let Some(imports) = list(claims, "imports") {
                    imports.retain(|found| !is_import(found, import));
                }
                push(list(claims, "imports"), import);
            }
            Edit::RemoveImport(import) => {
                if let Some(imports) = list(claims, "imports") {
                    imports.retain(|found| !is_import(found, import));
                }
            }
            Edit::Authorization(authorization) => {
                *member(claims, "authorization", Value::Null) = json!(authorization);
            }
            Edit::SigningKey(key) => {
                if let Some(keys) = list(claims, "signing_keys") {
                    // A scoped one is an object.
                    keys.retain(|found| text(found, "key") != key.as_str());
                    keys.push(key.as_str().into());
                }
            }
            Edit::Limits(limits) => {
                let place = member(claims, "limits", json!({}));
                for (name, value) in limits {
                    if value.is_null() {
                        if let Some(place) = place.as_object_mut() {
                            place.remove(*name);
                        }
                    } else {
                        *member(place, name, Value::Null) = value.clone();
                    }
                }
            }
        }
    }

    /// The subject that it lets pass.
    #[must_use]
    pub fn passes(&self) -> Option<&str> {
        match &self.edit {
            Edit::AddExport(export) => Some(&export.subject),
            Edit::AddImport(import) => Some(&import.subject),
            _ => None,
        }
    }

    /// The activation that it takes, for an account of that key.
    #[must_use]
    pub fn activation(&self, importer: &AccountKey) -> Option<Activation> {
        let Edit::AddImport(import) = &self.edit else { return None };
        Some(Activation {
            exporter: import.account.clone(),
            importer: importer.to_string(),
            subject: import.subject.clone(),
            local_subject: import.local_subject.clone(),
            kind: import.kind,
        })
    }

    /// The export that an account lacks.
    pub(super) fn export(account: &Account, export: Export) -> Self {
        let Export { subject, kind: way, response_type, .. } = &export;
        let mut nsc = format!(
            "nsc add export --account {} --name {} --subject {} --private",
            word(&account.name),
            word(&export.name),
            word(subject)
        );
        if *way == PassKind::Service {
            nsc += " --service";
        }
        if !response_type.is_empty() {
            nsc += &format!(" --response-type {}", word(response_type));
        }
        Self {
            account: account.name.clone(),
            about: About::Passes,
            found: format!("it does not export the {} `{subject}`", kind(*way)),
            nsc: vec![nsc],
            edit: Edit::AddExport(export),
        }
    }

    /// An export that any account may import, or that gives one answer where many come.
    pub(super) fn mended_export(account: &Account, export: Export, found: String) -> Self {
        let Export { subject, kind: way, response_type, .. } = &export;
        let service = if *way == PassKind::Service { " --service" } else { "" };
        let many = if response_type.is_empty() {
            String::new()
        } else {
            format!(" --response-type {}", word(response_type))
        };
        let nsc = format!(
            "nsc edit export --account {} --subject {} --private{service}{many}",
            word(&account.name),
            word(subject)
        );
        Self {
            account: account.name.clone(),
            about: About::Private,
            found,
            nsc: vec![nsc],
            edit: Edit::MendExport(export),
        }
    }

    /// An export too many.
    pub(super) fn no_export(account: &Account, export: Export) -> Self {
        let Export { subject, kind: way, .. } = &export;
        Self {
            account: account.name.clone(),
            about: About::Passes,
            found: format!("it exports the {} `{subject}`, which nobody needs", kind(*way)),
            nsc: vec![format!(
                "nsc delete export --account {} --subject {}",
                word(&account.name),
                word(subject)
            )],
            edit: Edit::RemoveExport(export),
        }
    }

    /// An import that an account lacks, or whose activation does not hold.
    pub(super) fn import(
        account: &Account,
        exporter: &Account,
        import: Import,
        wrong: Option<&str>,
    ) -> Self {
        let Import { subject, kind: way, local_subject, name, .. } = &import;
        let (to, from) = (word(&account.name), word(&exporter.name));
        // The exporter signs the leave; nobody else can.
        let file: String = format!("{}-{}-{name}.jwt", exporter.name, account.name)
            .chars()
            .map(|c| if c.is_ascii_alphanumeric() || "-._".contains(c) { c } else { '_' })
            .collect();
        let mut nsc = Vec::new();
        if wrong.is_some() {
            nsc.push(format!(
                "nsc delete import --account {to} --subject {} --src-account {}",
                word(subject),
                exporter.key
            ));
        }
        nsc.push(format!(
            "nsc generate activation --account {from} --subject {} --target-account {} \
             --output-file {file}",
            word(subject),
            account.key
        ));
        let local = if local_subject.is_empty() { subject } else { local_subject };
        nsc.push(format!(
            "nsc add import --account {to} --name {} --token {file} --local-subject {}",
            word(name),
            word(local)
        ));
        let what = format!("the {} `{subject}` of {}", kind(*way), exporter.name);
        let found = match wrong {
            None if local_subject.is_empty() => format!("it does not import {what}"),
            None => format!("it does not import {what} as `{local_subject}`"),
            Some(wrong) => format!("it imports {what} with an activation that {wrong}"),
        };
        let about = if wrong.is_some() { About::Private } else { About::Passes };
        Self { account: account.name.clone(), about, found, nsc, edit: Edit::AddImport(import) }
    }

    /// An import too many.
    pub(super) fn no_import(account: &Account, exporter: &Account, import: Import) -> Self {
        let Import { subject, kind: way, .. } = &import;
        Self {
            account: account.name.clone(),
            about: About::Passes,
            found: format!(
                "it imports the {} `{subject}` of {}, past the policy",
                kind(*way),
                exporter.name
            ),
            nsc: vec![format!(
                "nsc delete import --account {} --subject {} --src-account {}",
                word(&account.name),
                word(subject),
                exporter.key
            )],
            edit: Edit::RemoveImport(import),
        }
    }

    /// Another `authorization`.
    pub(super) fn authorization(
        account: &Account,
        found: String,
        wanted: Authorization,
        flags: &str,
    ) -> Self {
        Self {
            account: account.name.clone(),
            about: About::Delegation,
            found,
            nsc: vec![format!("nsc edit authcallout --account {}{flags}", word(&account.name))],
            edit: Edit::Authorization(wanted),
        }
    }

    /// A key that has to sign for it, freely.
    pub(super) fn signing_key(account: &Account, key: AccountKey, found: String) -> Self {
        let edit = format!("nsc edit account --name {}", word(&account.name));
        let mut nsc = Vec::new();
        if account.signing_key(&key).is_some() {
            nsc.push(format!("{edit} --rm-sk {key}"));
        }
        nsc.push(format!("{edit} --sk {key}"));
        Self {
            account: account.name.clone(),
            about: About::SigningKeys,
            found,
            nsc,
            edit: Edit::SigningKey(key),
        }
    }

    /// Other limits.
    pub(super) fn limits(
        account: &Account,
        about: About,
        found: &str,
        flags: &str,
        limits: Vec<(&'static str, Value)>,
    ) -> Self {
        Self {
            account: account.name.clone(),
            about,
            found: found.to_owned(),
            nsc: vec![format!("nsc edit account --name {} {flags}", word(&account.name))],
            edit: Edit::Limits(limits),
        }
    }
}

fn push(list: Option<&mut Vec<Value>>, what: &impl Serialize) {
    if let (Some(list), Ok(value)) = (list, serde_json::to_value(what)) {
        list.push(value);
    }
}
