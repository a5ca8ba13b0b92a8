//! Seeds and credentials: from files that others cannot read, or from the environment.

use std::path::{Path, PathBuf};

use zeroize::Zeroizing;

use solewriter_core::diagnostics::{Collector, Problem, Span, Spanned};
use solewriter_core::keys::{Role, Seed};

/// The largest settings or seed file read, in bytes.
const MAX_FILE_BYTES: u64 = 1024 * 1024;

/// Environment variables that hold a seed itself, for platforms that hand secrets over so.
pub(super) const NATS_SEED_VALUE: &str = "SOLEWRITER_NATS_NKEY_SEED_VALUE";
pub(super) const ISSUER_SEED_VALUE: &str = "SOLEWRITER_ISSUER_SEED_VALUE";
pub(super) const XKEY_SEED_VALUE: &str = "SOLEWRITER_XKEY_SEED_VALUE";
pub(super) const SYSTEM_SEED_VALUE: &str = "SOLEWRITER_SYSTEM_NKEY_SEED_VALUE";
pub(super) const ADMIN_SEED_VALUE: &str = "SOLEWRITER_ADMIN_NKEY_SEED_VALUE";
pub(super) const AUDIT_ADMIN_SEED_VALUE: &str = "SOLEWRITER_AUDIT_ADMIN_NKEY_SEED_VALUE";
pub(super) const PUBLISHER_SEED_VALUE: &str = "SOLEWRITER_PUBLISHER_NKEY_SEED_VALUE";

/// A seed from the environment or, failing that, from its file.
pub(super) fn seed<K: Role>(
    file: Option<&Spanned<PathBuf>>,
    variable: &'static str,
    problems: &Collector,
) -> Option<Seed<K>> {
    let (text, source, span): (Zeroizing<String>, String, Option<&Span>) =
        if let Ok(value) = std::env::var(variable) {
            (Zeroizing::new(value), format!("the environment variable {variable}"), None)
        } else {
            let file = file?;
            (secret_file(file, problems)?, file.value.display().to_string(), Some(&file.span))
        };
    match Seed::parse(&text) {
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
pub(super) fn read_text(path: &Path) -> std::io::Result<Zeroizing<String>> {
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
