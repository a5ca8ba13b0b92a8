//! Reading: defaults, the file, and what overrides it, put together and not judged yet.

use std::path::{Path, PathBuf};

use super::Overrides;
use super::secret::read_text;
use super::table::Raw;
use super::tenants;
use solewriter_core::diagnostics::{Collector, Problem, Problems, SourceFile, Spanned, toml};
use solewriter_core::keys::{Seed, User};

/// The file and what overrides it, put together and not judged yet. A tenant's file goes over the
/// settings that list it.
pub(super) fn read(
    path: &Path,
    overrides: &Overrides,
    problems: &Collector,
) -> Result<Raw, Problems> {
    let from_file = tenants::with_main(read_file(path, problems)?, path, problems)?;
    Ok(overridden(from_file, overrides, problems))
}

/// The file alone.
pub(super) fn read_file(path: &Path, problems: &Collector) -> Result<Raw, Problems> {
    let base = path.parent().unwrap_or(Path::new("."));
    let text = read_text(path).map_err(|error| {
        let message = format!("{} cannot be read: {error}", path.display());
        Problem::error("no-settings", message)
            .help("name the settings file with --config; `solewriter init DIR` writes one")
    })?;
    let file = SourceFile::new(path.display().to_string(), text.as_str());
    Ok(Raw::read(&file, base, problems))
}

/// Puts what flags and the environment say over settings, and defaults below them.
pub(super) fn overridden(settings: Raw, overrides: &Overrides, problems: &Collector) -> Raw {
    let settings = settings.over(Raw::defaults(problems));
    // Paths given by flag or environment are relative to where the command runs.
    overrides
        .documents
        .iter()
        .fold(settings, |under, document| Raw::read(document, Path::new(""), problems).over(under))
}

/// A path, relative to `base`.
pub(super) fn path(
    table: &mut toml::Table<'_>,
    key: &'static str,
    base: &Path,
) -> Option<Spanned<PathBuf>> {
    let text = table.string(key)?;
    named(table, key, base, text)
}

/// Paths, relative to `base`.
pub(super) fn paths(
    table: &mut toml::Table<'_>,
    key: &'static str,
    base: &Path,
) -> Option<Vec<Spanned<PathBuf>>> {
    let texts = table.strings(key)?;
    texts.into_iter().map(|text| named(table, key, base, text)).collect()
}

fn named(
    table: &toml::Table<'_>,
    key: &'static str,
    base: &Path,
    text: Spanned<String>,
) -> Option<Spanned<PathBuf>> {
    if Seed::<User>::looks_like(&text.value) {
        // Without the place: showing the line would print the seed.
        let (line, _) = text.span.line_column();
        table.problems().push(
            Problem::error(
                "seed-in-settings",
                format!("{}:{line}: `{key}` is a seed itself", text.span.file().name()),
            )
            .help(
                "write it to a file that only you can read, and give that file's path here; \
                 replace the key if these settings were shared",
            ),
        );
        return None;
    }
    if text.value.is_empty() {
        let problem = Problem::error("empty-path", format!("`{key}` is empty"));
        table.problems().push(problem.at(&text.span, "expected a path"));
        return None;
    }
    Some(text.map(|t| base.join(t)))
}
