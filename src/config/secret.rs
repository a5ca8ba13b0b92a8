//! Seeds and credentials: from files that others cannot read, from the environment, or handed over by
//! systemd (`LoadCredential=`).

use std::path::{Path, PathBuf};

use zeroize::Zeroizing;

use super::table::{self, Kind, SETTINGS};
use crate::nats::{Login, Secret};
use solewriter_core::diagnostics::{Collector, Problem, Problems, SourceFile, Span, Spanned};
use solewriter_core::keys::{Role, Seed};

/// The largest settings or seed file read, in bytes.
const MAX_FILE_BYTES: u64 = 1024 * 1024;

/// Where systemd puts the credentials of a unit.
const CREDENTIALS_DIRECTORY: &str = "CREDENTIALS_DIRECTORY";

/// A setting that names a file with a seed. Platforms that hand secrets over in the environment
/// give the seed itself, in a variable that goes before the file; systemd gives a file of its own,
/// which goes before it too.
#[derive(Clone, Copy, Debug)]
pub(super) struct SeedSetting<'a> {
    pub(super) table: &'static str,
    pub(super) key: &'static str,
    /// What the file is called by `init`.
    file: &'static str,
    /// Whose it is, where there are tenants.
    tenant: Option<&'a str>,
}

const fn setting(
    table: &'static str,
    key: &'static str,
    file: &'static str,
) -> SeedSetting<'static> {
    SeedSetting { table, key, file, tenant: None }
}

pub(super) const CALLOUT: SeedSetting<'static> = setting("nats", "nkey_seed", "callout.nk");
pub(super) const ISSUER: SeedSetting<'static> = setting("issuer", "seed", "issuer.nk");
pub(super) const XKEY: SeedSetting<'static> = setting("xkey", "seed", "callout.xk");
pub(super) const SYSTEM: SeedSetting<'static> = setting("system", "nkey_seed", "system.nk");
pub(super) const ADMIN: SeedSetting<'static> = setting("admin", "nkey_seed", "admin.nk");
pub(super) const AUDIT_ADMIN: SeedSetting<'static> =
    setting("audit_admin", "nkey_seed", "audit-admin.nk");
pub(super) const PUBLISHER: SeedSetting<'static> =
    setting("publisher", "nkey_seed", "publisher.nk");
pub(super) const OPERATOR_SEEDS: SeedSetting<'static> = setting("operator", "seeds", "app.nk");

impl<'a> SeedSetting<'a> {
    /// That of a tenant; this one, without a name.
    pub(super) fn of(self, tenant: Option<&'a str>) -> Self {
        Self { tenant, ..self }
    }

    /// `SOLEWRITER_NATS_NKEY_SEED_VALUE`, or `SOLEWRITER_SHOP_NATS_NKEY_SEED_VALUE` of a tenant.
    fn variable(self) -> String {
        let table = match self.tenant {
            Some(tenant) => format!("{}_{}", tenant.replace('-', "_"), self.table),
            None => self.table.to_owned(),
        };
        value_variable(&table::variable(&table, self.key))
    }

    /// What the file is called, with the tenant's name before it.
    fn file(self) -> String {
        self.tenant.map_or_else(|| self.file.to_owned(), |name| format!("{name}-{}", self.file))
    }

    /// Whether the platform hands the seed over: in the environment, or as a systemd credential.
    pub(super) fn is_handed_over(self) -> bool {
        std::env::var_os(self.variable()).is_some() || self.credential().is_some()
    }

    /// The systemd credential of the file's name, such as `issuer.nk`, if the unit has it.
    fn credential(self) -> Option<Spanned<PathBuf>> {
        let directory = std::env::var_os(CREDENTIALS_DIRECTORY).filter(|dir| !dir.is_empty())?;
        let value = PathBuf::from(directory).join(self.file());
        // What is there and no use, or cannot be seen, is an error, as with any other file.
        let found = value.symlink_metadata();
        if found.is_err_and(|error| error.kind() == std::io::ErrorKind::NotFound) {
            return None;
        }
        let given =
            SourceFile::new(format!("LoadCredential={}", self.file()), value.display().to_string());
        let span = given.span(0..given.text().len());
        Some(Spanned { value, span })
    }

    /// What to write as its value.
    pub(super) fn example(self) -> String {
        format!("\"keys/{}\"", self.file())
    }
}

fn value_variable(variable: &str) -> String {
    format!("{variable}_VALUE")
}

/// The environment variables that hold seeds themselves, in the order of the file.
pub fn seed_variables() -> impl Iterator<Item = String> {
    let seeds = SETTINGS.iter().filter(|setting| matches!(setting.kind, Kind::Seed | Kind::Seeds));
    seeds.map(|setting| value_variable(&setting.variable()))
}

/// Reads a seed from the file that a flag names, which nobody else may read.
///
/// # Errors
/// What is wrong with the file.
pub fn seed_file<K: Role>(flag: &str, path: &Path) -> Result<Seed<K>, Problems> {
    let problems = Collector::new();
    let file = named_by(flag, path);
    let seed = secret_file(&file, &problems)
        .and_then(|text| parsed(&text, &path.display().to_string(), Some(&file.span), &problems));
    seed.ok_or_else(|| problems.finish())
}

/// Reads another secret from the file that a flag names, which nobody else may read.
///
/// # Errors
/// What is wrong with the file.
pub fn secret_text(flag: &str, path: &Path) -> Result<Zeroizing<String>, Problems> {
    let problems = Collector::new();
    secret_file(&named_by(flag, path), &problems).ok_or_else(|| problems.finish())
}

fn named_by(flag: &str, path: &Path) -> Spanned<PathBuf> {
    let given = SourceFile::new(flag, path.display().to_string());
    Spanned { value: path.to_owned(), span: given.span(0..given.text().len()) }
}

/// Reads a user's credentials from the file that a flag names, which nobody else may read.
///
/// # Errors
/// What is wrong with the file.
pub fn credentials_file(flag: &str, path: &Path) -> Result<Login, Problems> {
    let problems = Collector::new();
    credentials(&named_by(flag, path), &problems).ok_or_else(|| problems.finish())
}

/// A user's credentials.
pub(super) fn credentials(file: &Spanned<PathBuf>, problems: &Collector) -> Option<Login> {
    let text = secret_file(file, problems)?;
    let login = Login::Credentials(Secret::new(text));
    if login.key().is_none() {
        let message = format!("{} is no credentials file", file.value.display());
        problems.push(
            Problem::error("bad-credentials", message)
                .at(&file.span, "expected a user's JWT, and its seed behind it"),
        );
        return None;
    }
    Some(login)
}

/// A seed from the environment, from a systemd credential or, failing both, from its file.
pub(super) fn seed<K: Role>(
    file: Option<&Spanned<PathBuf>>,
    setting: SeedSetting<'_>,
    problems: &Collector,
) -> Option<Seed<K>> {
    let variable = setting.variable();
    let credential = setting.credential();
    let (text, source, span): (Zeroizing<String>, String, Option<&Span>) =
        if let Ok(value) = std::env::var(&variable) {
            (Zeroizing::new(value), format!("the environment variable {variable}"), None)
        } else {
            let file = credential.as_ref().or(file)?;
            (secret_file(file, problems)?, file.value.display().to_string(), Some(&file.span))
        };
    parsed(&text, &source, span, problems)
}

/// Seeds from the environment, separated by commas, from a systemd credential, one a line, or failing
/// both, from their files; each with where it is from.
pub(super) fn seeds<K: Role>(
    files: Option<&[Spanned<PathBuf>]>,
    setting: SeedSetting<'_>,
    problems: &Collector,
) -> Vec<(String, Seed<K>)> {
    let variable = setting.variable();
    let credential = setting.credential();
    let texts: Vec<(String, Zeroizing<String>, Option<&Span>)> =
        if let Ok(value) = std::env::var(&variable) {
            let value = Zeroizing::new(value);
            let source = format!("the environment variable {variable}");
            let each = value.split(',').map(|text| Zeroizing::new(text.to_owned()));
            each.map(|text| (source.clone(), text, None)).collect()
        } else if let Some(file) = &credential {
            let source = file.value.display().to_string();
            let text = secret_file(file, problems).unwrap_or_default();
            let each = text.lines().filter(|line| !line.trim().is_empty());
            each.map(|line| (source.clone(), Zeroizing::new(line.to_owned()), Some(&file.span)))
                .collect()
        } else {
            let read = files.unwrap_or_default().iter().filter_map(|file| {
                let source = file.value.display().to_string();
                Some((source, secret_file(file, problems)?, Some(&file.span)))
            });
            read.collect()
        };
    let parsed = texts.into_iter().filter_map(|(source, text, span)| {
        Some((source.clone(), parsed(&text, &source, span, problems)?))
    });
    parsed.collect()
}

/// The seed that a text is.
fn parsed<K: Role>(
    text: &str,
    source: &str,
    span: Option<&Span>,
    problems: &Collector,
) -> Option<Seed<K>> {
    match Seed::parse(text) {
        Ok(seed) => Some(seed),
        Err(error) => {
            let mut problem =
                Problem::error("bad-seed", format!("{source} does not hold the seed: {error}"));
            if let Some(span) = span {
                problem = problem
                    .at(span, format!("expected a file with a seed of this kind: {}", K::NAME));
            }
            problems.push(problem);
            None
        }
    }
}

/// Reads a file that only its owner (and, as Kubernetes mounts secrets, its group) can read.
pub(super) fn secret_file(
    file: &Spanned<PathBuf>,
    problems: &Collector,
) -> Option<Zeroizing<String>> {
    let path = file.value.display();
    // The mode is that of the very file that is read, whatever the path leads to a moment later.
    let opened = std::fs::File::open(&file.value).and_then(|open| Ok((exposed(&open)?, open)));
    let problem = match opened {
        Ok((Some(mode), _)) => {
            Problem::error("secret-readable", format!("{path} is open to others (mode {mode:04o})"))
                .at(&file.span, "a secret that others can read is none")
                .help(format!("chmod 600 {path}"))
        }
        Ok((None, open)) => match read(open) {
            Ok(text) => return Some(text),
            Err(error) => unreadable(file, &error),
        },
        Err(error) => unreadable(file, &error),
    };
    problems.push(problem);
    None
}

fn unreadable(file: &Spanned<PathBuf>, error: &std::io::Error) -> Problem {
    Problem::error("unreadable", format!("{} cannot be read: {error}", file.value.display()))
        .at(&file.span, "")
}

/// The mode, when others may read or anyone but the owner may write.
#[cfg(unix)]
fn exposed(file: &std::fs::File) -> std::io::Result<Option<u32>> {
    use std::os::unix::fs::PermissionsExt;
    let mode = file.metadata()?.permissions().mode() & 0o7777;
    Ok((mode & 0o027 != 0).then_some(mode))
}

#[cfg(not(unix))]
fn exposed(_: &std::fs::File) -> std::io::Result<Option<u32>> {
    Ok(None)
}

/// Reads a text, up to [`MAX_FILE_BYTES`].
pub(crate) fn read_text(path: &Path) -> std::io::Result<Zeroizing<String>> {
    read(std::fs::File::open(path)?)
}

fn read(file: std::fs::File) -> std::io::Result<Zeroizing<String>> {
    use std::io::Read;
    let mut text = Zeroizing::new(String::new());
    file.take(MAX_FILE_BYTES + 1).read_to_string(&mut text)?;
    if u64::try_from(text.len()).is_ok_and(|len| len > MAX_FILE_BYTES) {
        return Err(std::io::Error::other(format!("it is larger than {MAX_FILE_BYTES} bytes")));
    }
    Ok(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_setting_that_names_a_seed_is_here() {
        let here = [CALLOUT, ISSUER, OPERATOR_SEEDS, XKEY, SYSTEM, ADMIN, AUDIT_ADMIN, PUBLISHER];
        let here: Vec<String> = here.iter().map(|setting| setting.variable()).collect();
        assert_eq!(here, seed_variables().collect::<Vec<_>>());
    }

    #[test]
    fn a_seed_of_a_tenant_is_handed_over_under_its_name() {
        let setting = AUDIT_ADMIN.of(Some("north-shop"));
        assert_eq!(setting.variable(), "SOLEWRITER_NORTH_SHOP_AUDIT_ADMIN_NKEY_SEED_VALUE");
        assert_eq!(setting.example(), "\"keys/north-shop-audit-admin.nk\"");
        assert_eq!(CALLOUT.of(None).variable(), CALLOUT.variable());
    }
}
