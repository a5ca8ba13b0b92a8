//! Tenants: each has a file of its own, whose settings go over those that hold for all.

use std::path::{Path, PathBuf};

use super::checks::missing;
use super::reading::read_file;
use super::settings;
use super::table::Raw;
use super::{Policy, PolicySource};
use crate::nats::Nats;
use solewriter_core::diagnostics::{Collector, Problem, Problems, Spanned};

/// The tables that a tenant's file may have.
const OF_A_TENANT: [&str; 11] = [
    "nats",
    "tenant",
    "admin",
    "state",
    "audit_admin",
    "publisher",
    "policy",
    "grants",
    "emergency",
    "sessions",
    "audit",
];

/// Of those, the ones that each tenant has to have for itself: what the other file says there holds
/// for no tenant.
const OF_EACH: [&str; 7] =
    ["tenant", "admin", "audit_admin", "publisher", "policy", "emergency", "audit"];

/// The longest name.
const MAX_NAME: usize = 32;

/// A tenant's settings, over those for all.
pub(super) struct Read {
    pub(super) name: String,
    pub(super) path: PathBuf,
    pub(super) raw: Raw,
}

/// What a tenant is called: as its file, without the ending.
pub(super) fn name_of(path: &Path) -> Option<String> {
    path.file_stem()?.to_str().filter(|name| is_tenant_name(name)).map(ToOwned::to_owned)
}

/// Whether a tenant may be called so.
#[must_use]
pub fn is_tenant_name(name: &str) -> bool {
    let plain = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-';
    name.len() <= MAX_NAME
        && name.starts_with(|c: char| c.is_ascii_lowercase())
        && name.chars().all(plain)
}

/// What the settings that list tenants say for each of them. Defaults come below that.
fn for_each(mut main: Raw) -> Raw {
    main.answering = Some((main.nats.nkey_seed.take(), main.nats.credentials.take()));
    main.grants.account = None;
    main.grants.accounts = None;
    main.without(&OF_EACH).without(&["tenants"])
}

/// The tenants that these settings list. What is wrong is among the problems.
pub(super) fn all(main: &Raw, problems: &Collector) -> Vec<Read> {
    let Some(files) = &main.tenants.files else { return Vec::new() };
    for table in main.tables().filter(|table| OF_EACH.contains(table)) {
        let message = format!("[{table}] stands beside [tenants]");
        problems.push(
            Problem::error("of-a-tenant", message)
                .help(format!("each tenant has its own: move [{table}] into the tenants' files")),
        );
    }
    for key in ["account", "accounts"].into_iter().filter(|key| main.has("grants", key)) {
        let message = format!("[grants] {key} stands beside [tenants]");
        problems.push(
            Problem::error("of-a-tenant", message)
                .help("each tenant has its own accounts: move it into the tenants' files"),
        );
    }
    if files.is_empty() {
        problems.push(
            Problem::error("no-tenants", "`files` in [tenants] is empty")
                .help("list the tenants' files: files = [\"tenants/shop.toml\"]"),
        );
    }
    let mut tenants: Vec<Read> = Vec::new();
    for file in files {
        let Some(read) = one(file, main, problems) else { continue };
        if let Some(other) = tenants.iter().find(|other| other.name == read.name) {
            let message = format!("two tenants are called {}", read.name);
            problems.push(Problem::error("two-tenants", message).at(&file.span, "").help(format!(
                "each is named after its file, the other one is {}",
                other.path.display()
            )));
            continue;
        }
        tenants.push(read);
    }
    tenants
}

fn one(file: &Spanned<PathBuf>, main: &Raw, problems: &Collector) -> Option<Read> {
    let path = file.value.clone();
    let Some(name) = name_of(&path) else {
        let message = format!("{} gives a tenant no name", path.display());
        problems.push(Problem::error("bad-name", message).at(&file.span, "").help(format!(
            "name the file after the tenant: lower-case letters, digits and `-`, a letter first, \
             {MAX_NAME} characters at most"
        )));
        return None;
    };
    match read_file(&path, problems) {
        Ok(tenant) => {
            let raw = over(tenant, main.clone(), &path, problems);
            Some(Read { name, raw: raw.over(Raw::defaults(problems)), path })
        }
        Err(error) => {
            problems.extend(error);
            None
        }
    }
}

/// A tenant's settings over those that list it.
fn over(tenant: Raw, main: Raw, path: &Path, problems: &Collector) -> Raw {
    for table in tenant.tables().filter(|table| !OF_A_TENANT.contains(table)) {
        let message = format!("{}: [{table}] is of no tenant", path.display());
        problems.push(Problem::error("not-of-a-tenant", message).help(
            "it holds for all of them: write it into the settings that list them in [tenants]",
        ));
    }
    for key in ["servers", "queue_group", "name", "connections"] {
        if tenant.has("nats", key) {
            let message = format!("{}: [nats] {key} is of no tenant", path.display());
            problems.push(
                Problem::error("not-of-a-tenant", message)
                    .help("of [nats], a tenant has `nkey_seed` or `credentials` alone"),
            );
        }
    }
    for (table, key, example) in
        [("tenant", "of", "\"../solewriter.toml\""), ("grants", "account", "\"SHOP\"")]
    {
        if !tenant.has(table, key) {
            problems.push(missing(path, table, key, example));
        }
    }
    tenant.over(for_each(main))
}

/// The settings of a tenant, from its file: over those that list it.
///
/// # Errors
/// When those cannot be read, or do not list it.
pub(super) fn with_main(tenant: Raw, path: &Path, problems: &Collector) -> Result<Raw, Problems> {
    let Some(of) = tenant.tenant.of.clone() else { return Ok(tenant) };
    let main = read_file(&of.value, problems)?;
    let same = |one: &Path| std::fs::canonicalize(one).ok();
    let listed = main.tenants.files.iter().flatten().any(|file| same(&file.value) == same(path));
    if name_of(path).is_none() || !listed {
        let message = format!("{} does not list this tenant", of.value.display());
        return Err(Problem::error("not-listed", message)
            .at(&of.span, "the settings that should have it in [tenants] files")
            .help(format!("add {} to [tenants] files there", path.display()))
            .into());
    }
    Ok(over(tenant, main, path, problems))
}

/// What two tenants must not have in common.
pub(super) fn apart(tenants: &[settings::Tenant], callout: &Nats, problems: &Collector) {
    let refuse = |code: &'static str, message: String, help: &str| {
        problems.push(Problem::error(code, message).help(help.to_owned()));
    };
    for (index, one) in tenants.iter().enumerate() {
        let name = one.name.as_deref().unwrap_or_default();
        if one.name.is_some() && one.nats.login.key() == callout.login.key() {
            refuse(
                "one-user",
                format!("the tenant {name} logs in as the callout's user"),
                "give it a user of its own in [nats], in an account of its own: whoever answers for \
                 all is of no tenant",
            );
        }
        for other in tenants.iter().skip(index + 1) {
            let names = format!("{name} and {}", other.name.as_deref().unwrap_or_default());
            let accounts = |tenant: &settings::Tenant| {
                let mut all = tenant.accounts.clone();
                all.push(tenant.defaults.account.clone());
                all
            };
            for account in accounts(one).iter().filter(|a| accounts(other).contains(a)) {
                refuse(
                    "one-account",
                    format!("the tenants {names} place services in one account, {account}"),
                    "who is in an account reaches everybody in it: give each tenant its own in \
                     [grants] account and accounts",
                );
            }
            if one.nats.login.key() == other.nats.login.key() {
                refuse(
                    "one-user",
                    format!("the tenants {names} log in as one user"),
                    "give each a user of its own in [nats], in an account of its own",
                );
            }
            for (what, (a, b)) in [
                ("[policy] directory", (directory(&one.policy), directory(&other.policy))),
                ("[policy] keep", (one.policy.keep.as_deref(), other.policy.keep.as_deref())),
                ("[audit] spool", (spool(one), spool(other))),
            ] {
                if a.is_some() && a == b {
                    refuse(
                        "one-place",
                        format!("the tenants {names} have one {what}"),
                        "give each a place of its own",
                    );
                }
            }
        }
    }
}

fn directory(policy: &Policy) -> Option<&Path> {
    match &policy.source {
        PolicySource::Directory(path) => Some(path),
        PolicySource::Bucket(_) => None,
    }
}

fn spool(tenant: &settings::Tenant) -> Option<&Path> {
    tenant.audit.as_ref().map(|audit| audit.spool.dir.as_path())
}
