//! The table of authors as it is written: a file of its own, beside the settings.

use std::collections::HashMap;

use super::{Author, Authors, Keys, Name, Part, Uses};
use crate::diagnostics::toml::{self, Table};
use crate::diagnostics::{Collector, Problem, Problems, SourceFile, Span, Spanned};
use crate::keys::UserKey;
use crate::signed;
use solewriter_types::keyspace::Keyspace;
use solewriter_types::kv_operation::STORE_PREFIX;
use solewriter_types::subject::Pattern;

/// The most authors.
const MAX_AUTHORS: usize = 1000;

/// Reads the table.
///
/// # Errors
/// Every problem found.
pub fn read(file: &SourceFile) -> Result<Authors, Problems> {
    let problems = Collector::new();
    let authors = toml::read(file, &problems).map(|root| authors(root, file, &problems));
    if problems.has_errors() {
        return Err(problems.finish());
    }
    authors.ok_or_else(|| problems.finish())
}

fn authors(mut root: Table<'_>, file: &SourceFile, problems: &Collector) -> Authors {
    root.require("fleet", "\"production\"");
    let fleet = root.string("fleet");
    signed::check_fleet(fleet.as_ref(), problems);
    let tables = root.tables("author");
    root.finish();
    if tables.len() > MAX_AUTHORS {
        let message = format!("there are more than {MAX_AUTHORS} authors");
        problems.push(Problem::error("too-many-authors", message));
        return Authors::default();
    }
    let mut list: Vec<Author> =
        tables.into_iter().map(|(name, table)| author(&name, table, problems)).collect();
    // Who comes later could not change anything that these cannot.
    if !list.iter().any(|author| author.part.is_none()) {
        problems.push(
            Problem::error("nobody-for-all", "no author may change everything")
                .at(&file.span(0..0), "")
                .help("give one author `all = true`: somebody has to push first"),
        );
    }
    list.sort_by(|a, b| a.name.cmp(&b.name));
    unshared(&list, file, problems);
    Authors { fleet: fleet.map(|fleet| fleet.value).unwrap_or_default(), list }
}

/// A key says who it is.
fn unshared(list: &[Author], file: &SourceFile, problems: &Collector) {
    let mut holders: HashMap<&UserKey, &str> = HashMap::new();
    for author in list {
        for key in &author.keys {
            if let Some(other) = holders.insert(key, &author.name) {
                let message = format!("{key} is a key of `{other}` and of `{}`", author.name);
                problems.push(Problem::error("shared-key", message).at(&file.span(0..0), ""));
            }
        }
    }
}

fn author(name: &Spanned<String>, mut table: Table<'_>, problems: &Collector) -> Author {
    let allowed = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-' | '@');
    if name.value.is_empty() || name.value.len() > 64 || !name.value.chars().all(allowed) {
        problems.push(
            Problem::error("bad-author", "this cannot be the name of an author")
                .at(&name.span, "")
                .help("write 1 to 64 letters, digits, `.`, `_`, `-` and `@`"),
        );
    }
    table.require("keys", "[\"U...\"]");
    let keys = signed::keys(table.strings("keys").iter().flatten(), problems);
    let all = table.boolean("all").is_some_and(|all| all.value);
    let span = table.span().clone();
    let part = part(&mut table, problems);
    table.finish();
    if all && part != Part::default() {
        problems.push(
            Problem::error("all-and-parts", format!("`{}` has `all`, and parts", name.value))
                .at(&span, "")
                .help("take out one or the other"),
        );
    }
    Author { name: name.value.clone(), keys, part: (!all).then_some(part) }
}

fn part(table: &mut Table<'_>, problems: &Collector) -> Part {
    let (reads_stores, reads): (Vec<_>, Vec<_>) =
        strings(table, "reads").partition(|entry| entry.value.starts_with(STORE_PREFIX));
    let store = |entry: Spanned<String>| {
        entry.map(|text| text.strip_prefix(STORE_PREFIX).unwrap_or_default().to_owned())
    };
    let list = |entries: Vec<Spanned<String>>| {
        entries.into_iter().filter_map(|entry| name(&entry, problems)).collect()
    };
    let uses = Uses {
        reads: reads.iter().filter_map(|entry| keys(entry, problems)).collect(),
        reads_stores: list(reads_stores.into_iter().map(store).collect()),
        subscribes: subjects(table, "subscribes", problems),
        calls: subjects(table, "calls", problems),
        consumes: strings(table, "consumes").filter_map(|e| consumer(&e, problems)).collect(),
        replays: list(strings(table, "replays").collect()),
        discovers: list(strings(table, "discovers").collect()),
    };
    Part {
        files: strings(table, "files").filter_map(|entry| path(entry, problems)).collect(),
        services: list(strings(table, "services").collect()),
        buckets: strings(table, "buckets").filter_map(|e| keys(&e, problems)).collect(),
        stores: list(strings(table, "stores").collect()),
        streams: list(strings(table, "streams").collect()),
        subjects: subjects(table, "subjects", problems),
        found_as: list(strings(table, "found_as").collect()),
        accounts: list(strings(table, "accounts").collect()),
        uses,
    }
}

fn strings(
    table: &mut Table<'_>,
    key: &'static str,
) -> impl Iterator<Item = Spanned<String>> + use<> {
    table.strings(key).unwrap_or_default().into_iter()
}

fn subjects(table: &mut Table<'_>, key: &'static str, problems: &Collector) -> Vec<Pattern> {
    let read = |entry: Spanned<String>| match Pattern::parse(&entry.value) {
        Ok(pattern) if pattern.starts_with_wildcard() => {
            wrong("it would be everybody's: begin with a name", &entry.span, problems)
        }
        Ok(pattern) if pattern.first_token().starts_with('$') => {
            wrong("it is the server's own: name buckets, stores and streams", &entry.span, problems)
        }
        Ok(pattern) => Some(pattern),
        Err(error) => wrong(&error.to_string(), &entry.span, problems),
    };
    strings(table, key).filter_map(read).collect()
}

/// `name`, or `beginning*`.
fn name(entry: &Spanned<String>, problems: &Collector) -> Option<Name> {
    let (text, begins) = match entry.value.strip_suffix('*') {
        Some(beginning) => (beginning, true),
        None => (entry.value.as_str(), false),
    };
    let allowed = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_');
    if text.is_empty() || !text.chars().all(allowed) {
        let why = "write a name, or the beginning of names with a `*` after it";
        return wrong(why, &entry.span, problems);
    }
    let text = text.to_owned();
    Some(if begins { Name::Begins(text) } else { Name::Is(text) })
}

/// A keyspace, or `beginning*`.
fn keys(entry: &Spanned<String>, problems: &Collector) -> Option<Keys> {
    if entry.value.contains('/') || !entry.value.ends_with('*') {
        return match Keyspace::parse(&entry.value) {
            Ok(keyspace) => Some(Keys::Of(keyspace)),
            Err(error) => wrong(&error.to_string(), &entry.span, problems),
        };
    }
    match name(entry, problems)? {
        Name::Begins(beginning) => Some(Keys::Begins(beginning)),
        Name::Is(_) => None,
    }
}

/// `STREAM/consumer`, or `STREAM/beginning*`.
fn consumer(entry: &Spanned<String>, problems: &Collector) -> Option<(String, Name)> {
    let Some((stream, consumer)) = entry.value.split_once('/') else {
        return wrong("write STREAM/CONSUMER", &entry.span, problems);
    };
    let of = |text: &str| name(&Spanned::new(text.to_owned(), entry.span.clone()), problems);
    match (of(stream)?, of(consumer)?) {
        (Name::Is(stream), consumer) => Some((stream, consumer)),
        (Name::Begins(_), _) => wrong("name one stream", &entry.span, problems),
    }
}

/// `team-a/` or `team-a.toml`.
fn path(entry: Spanned<String>, problems: &Collector) -> Option<String> {
    let text = &entry.value;
    let folder = text.strip_suffix('/');
    let inside = |text: &str| {
        text.split('/').all(|part| !part.is_empty() && !part.starts_with('.'))
            && !text.contains(['\\', ':', '*'])
    };
    let fine = folder.map_or_else(|| text.ends_with(".toml") && inside(text), inside);
    if !fine {
        let why = "write a file (`a.toml`) or a folder (`team-a/`) of the policy";
        return wrong(why, &entry.span, problems);
    }
    Some(entry.value)
}

fn wrong<T>(why: &str, span: &Span, problems: &Collector) -> Option<T> {
    problems.push(Problem::error("bad-part", "this is no part of a policy").at(span, why));
    None
}
