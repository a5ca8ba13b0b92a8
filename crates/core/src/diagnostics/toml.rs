//! Typed reading of TOML that reports every problem, each with its place.
//!
//! ```
//! use solewriter_core::diagnostics::{Collector, SourceFile, toml};
//!
//! let file = SourceFile::new("solewriter.toml", "[grants]\nlifetime = \"1h\"\nacount = \"APP\"\n");
//! let problems = Collector::new();
//! if let Some(mut root) = toml::read(&file, &problems) {
//!     if let Some(mut grants) = root.table("grants") {
//!         let lifetime = grants.duration("lifetime");
//!         assert_eq!(lifetime.map(|l| l.value.as_secs()), Some(3600));
//!         let account = grants.string("account");
//!         assert!(account.is_none());
//!         grants.finish(); // reports `acount`, and suggests `account`
//!     }
//!     root.finish();
//! }
//! assert!(problems.finish().has_errors());
//! ```
//!
//! Every accessor takes the key out of the table. It gives `None` when the key is absent, and
//! also when its value is not usable, after reporting why; so "`None` and no error reported"
//! means absent. A key that must be there is named to [`Table::require`] first.

use std::ops::RangeInclusive;
use std::time::Duration;

use toml::de::{DeTable, DeValue};

use super::unclosed::{Missing, missing};
use super::{Collector, Problem, SourceFile, Span, Spanned};

/// The longest string accepted, in bytes.
pub const MAX_STRING_BYTES: usize = 4096;

/// A table being read: every key that is asked for is taken out, and [`Table::finish`] reports
/// what is left.
#[must_use = "call finish(), which reports unknown keys"]
pub struct Table<'a> {
    file: &'a SourceFile,
    problems: &'a Collector,
    /// The dotted path from the root; empty for the root.
    path: String,
    /// The header or key that opened it.
    span: Span,
    entries: DeTable<'a>,
    known: Vec<&'static str>,
}

/// A value being read: for entries that may have one of several types.
pub enum Value<'a> {
    /// A string.
    String(Spanned<String>),
    /// A table.
    Table(Table<'a>),
    /// A date and time as TOML has them.
    Datetime(Spanned<toml::value::Datetime>),
    /// Of any other type: its name with article ("an integer"), and where it stands.
    Other(&'static str, Span),
}

/// How `toml` calls a key that is there twice.
const DUPLICATE: &str = "duplicate key";

/// Parses a file. When it is not TOML, the first syntax error is reported, and how many follow:
/// one bracket that is missing makes an error of every line below it. Then `None` is returned:
/// what could be recovered of a broken file would only give misleading problems.
pub fn read<'a>(file: &'a SourceFile, problems: &'a Collector) -> Option<Table<'a>> {
    let (document, errors) = DeTable::parse_recoverable(file.text());
    let broken = !errors.is_empty();
    let start = |error: &::toml::de::Error| error.span().map_or(0, |span| span.start);
    let unformed =
        errors.iter().filter(|error| error.message() != DUPLICATE).min_by_key(|e| start(e));
    // What is said of one place twice is said once.
    let beyond = |error: &&::toml::de::Error| {
        unformed.is_some_and(|first| start(error) >= start(first) && !std::ptr::eq(first, *error))
    };
    let follow = errors.iter().filter(beyond).count();
    for error in errors.iter().filter(|error| !beyond(error)) {
        let span = file.span(error.span().unwrap_or(0..0));
        let message = error.message();
        problems.push(if message == DUPLICATE {
            let problem =
                Problem::error("duplicate-key", format!("`{}` is defined twice", span.text()))
                    .help("keep one of the two, or merge them");
            match first_definition(file, &span) {
                Some(first) => problem.at(&span, "again here").also(&first, "first here"),
                None => problem.at(&span, "defined before in this file"),
            }
        } else {
            let problem = unformed_at(file, start(error), &span, message);
            match follow {
                0 => problem,
                1 => problem.help("one more error below may follow from it"),
                more => problem.help(format!("{more} more errors below may follow from it")),
            }
        });
    }
    (!broken).then(|| Table {
        file,
        problems,
        path: String::new(),
        span: file.span(0..0),
        entries: document.into_inner(),
        known: Vec::new(),
    })
}

/// A syntax error, where whoever wrote it has to mend it.
fn unformed_at(file: &SourceFile, start: usize, span: &Span, message: &str) -> Problem {
    let problem = |message: &str| Problem::error("toml-syntax", format!("not TOML: {message}"));
    let Some(Missing { wrong, at, label, opened }) = missing(file.text(), start) else {
        return problem(message).at(span, "");
    };
    let problem = problem(wrong.unwrap_or(message)).at(&file.span(at), label);
    match opened {
        Some(opened) => problem.also(&file.span(opened), "opened here"),
        None => problem,
    }
}

/// Where a key that is defined twice was defined first, if that is easily seen: the same header,
/// or a line of the same table that begins with the same key.
fn first_definition(file: &SourceFile, again: &Span) -> Option<Span> {
    // The search is repeated for every such key.
    const LONGEST_TEXT: usize = 1 << 20;
    if file.text().len() > LONGEST_TEXT {
        return None;
    }
    let key = again.text();
    let start = again.range().start;
    let before = file.text().get(..start)?;
    let line_start = before.rfind('\n').map_or(0, |at| at + 1);
    let header = file.text().get(line_start..again.range().end)?.trim_start();
    let mut end = line_start;
    for line in before.get(..line_start)?.split_inclusive('\n').rev() {
        end -= line.len();
        let text = line.trim_start();
        let found = if header.starts_with('[') {
            text.strip_prefix(header).is_some_and(|rest| rest.trim_start().starts_with(']'))
        } else if text.starts_with('[') {
            return None;
        } else {
            text.strip_prefix(key).is_some_and(|rest| rest.trim_start().starts_with('='))
        };
        if found {
            let at = end + line.find(key)?;
            return Some(file.span(at..at + key.len()));
        }
    }
    None
}

/// The name of a value's type with its article.
fn type_name(value: &DeValue<'_>) -> &'static str {
    match value {
        DeValue::String(_) => "a string",
        DeValue::Integer(_) => "an integer",
        DeValue::Float(_) => "a float",
        DeValue::Boolean(_) => "a boolean",
        DeValue::Datetime(_) => "a datetime",
        DeValue::Array(_) => "an array",
        DeValue::Table(_) => "a table",
    }
}

/// The known name nearest to a misspelled one, if one is near enough to be meant. Looks at the
/// first thousand known names only: it is a courtesy, and must not become the main work.
#[must_use]
pub fn nearest<'n>(name: &str, known: impl IntoIterator<Item = &'n str>) -> Option<&'n str> {
    // Beyond this length nothing known is near, and comparing costs length squared.
    if name.len() > 64 {
        return None;
    }
    let lower = name.to_lowercase();
    known
        .into_iter()
        .take(1000)
        .map(|candidate| {
            let distance = strsim::damerau_levenshtein(&lower, &candidate.to_lowercase());
            (distance, candidate)
        })
        .filter(|(distance, candidate)| *distance <= candidate.chars().count().max(3) / 3)
        .min_by_key(|(distance, _)| *distance)
        .map(|(_, candidate)| candidate)
}

impl<'a> Table<'a> {
    /// Where the table begins: its header, or its key.
    #[must_use]
    pub fn span(&self) -> &Span {
        &self.span
    }

    /// Where problems go.
    #[must_use]
    pub fn problems(&self) -> &'a Collector {
        self.problems
    }

    /// The table in words: "`[nats]`", or "this file" for the root.
    #[must_use]
    pub fn title(&self) -> String {
        if self.path.is_empty() { "this file".to_owned() } else { format!("`[{}]`", self.path) }
    }

    /// Whether the key is in the table and not yet taken.
    #[must_use]
    pub fn has(&self, key: &str) -> bool {
        self.entries.keys().any(|k| k.get_ref() == key)
    }

    /// Reports an error when the key is missing. `example` is what to write after `key = `.
    pub fn require(&mut self, key: &'static str, example: &str) {
        if !self.has(key) {
            self.problems.push(
                Problem::error("missing-key", format!("`{key}` is missing in {}", self.title()))
                    .at(&self.span, "")
                    .help(format!("add `{key} = {example}`")),
            );
        }
    }

    fn take(&mut self, key: &'static str) -> Option<(Span, toml::Spanned<DeValue<'a>>)> {
        self.known.push(key);
        let (key, value) = self.entries.remove_entry(key)?;
        Some((self.file.span(key.span()), value))
    }

    fn wrong_type(&self, key: &str, expected: &str, found: &str, span: &Span) {
        self.problems.push(
            Problem::error("wrong-type", format!("`{key}` must be {expected}"))
                .at(span, format!("expected {expected}, found {found}")),
        );
    }

    fn checked_string(&self, key: &str, text: &str, span: Span) -> Option<Spanned<String>> {
        if text.len() > MAX_STRING_BYTES {
            self.problems.push(
                Problem::error(
                    "too-long",
                    format!(
                        "`{key}` is {} bytes long; at most {MAX_STRING_BYTES} are allowed",
                        text.len()
                    ),
                )
                .at(&span, ""),
            );
            return None;
        }
        Some(Spanned::new(text.to_owned(), span))
    }

    /// A string.
    pub fn string(&mut self, key: &'static str) -> Option<Spanned<String>> {
        let (_, value) = self.take(key)?;
        let span = self.file.span(value.span());
        match value.get_ref() {
            DeValue::String(text) => self.checked_string(key, text, span),
            other => {
                self.wrong_type(key, "a string", type_name(other), &span);
                None
            }
        }
    }

    /// An array of strings. Elements that are none are reported and left out, so `Some` of a
    /// shorter list is possible when problems were reported.
    pub fn strings(&mut self, key: &'static str) -> Option<Vec<Spanned<String>>> {
        Some(self.spanned_strings(key)?.value)
    }

    /// An array of strings with the place of the array itself.
    pub fn spanned_strings(&mut self, key: &'static str) -> Option<Spanned<Vec<Spanned<String>>>> {
        const EXPECTED: &str = "an array of strings";
        let (_, value) = self.take(key)?;
        let span = self.file.span(value.span());
        let DeValue::Array(array) = value.get_ref() else {
            let found = type_name(value.get_ref());
            let mut problem = Problem::error("wrong-type", format!("`{key}` must be {EXPECTED}"))
                .at(&span, format!("expected {EXPECTED}, found {found}"));
            if matches!(value.get_ref(), DeValue::String(_)) {
                problem = problem.help("put it in brackets: [\"...\"]");
            }
            self.problems.push(problem);
            return None;
        };
        let mut strings = Vec::with_capacity(array.len());
        for element in array {
            let span = self.file.span(element.span());
            match element.get_ref() {
                DeValue::String(text) => strings.extend(self.checked_string(key, text, span)),
                other => self.wrong_type(key, EXPECTED, type_name(other), &span),
            }
        }
        Some(Spanned::new(strings, span))
    }

    /// A boolean.
    pub fn boolean(&mut self, key: &'static str) -> Option<Spanned<bool>> {
        let (_, value) = self.take(key)?;
        let span = self.file.span(value.span());
        match value.get_ref() {
            DeValue::Boolean(flag) => Some(Spanned::new(*flag, span)),
            other => {
                self.wrong_type(key, "true or false", type_name(other), &span);
                None
            }
        }
    }

    /// An integer within bounds.
    pub fn integer(
        &mut self,
        key: &'static str,
        bounds: RangeInclusive<i64>,
    ) -> Option<Spanned<i64>> {
        let (_, value) = self.take(key)?;
        let span = self.file.span(value.span());
        let DeValue::Integer(number) = value.get_ref() else {
            self.wrong_type(key, "an integer", type_name(value.get_ref()), &span);
            return None;
        };
        match i64::from_str_radix(number.as_str(), number.radix()) {
            Ok(number) if bounds.contains(&number) => Some(Spanned::new(number, span)),
            _ => {
                self.problems.push(
                    Problem::error("out-of-range", format!("`{key}` is out of range"))
                        .at(&span, format!("must be {} to {}", bounds.start(), bounds.end())),
                );
                None
            }
        }
    }

    /// A length of time, written as a string such as `"90s"`, `"1h30m"` or `"30d"` (the units of
    /// the `jiff` crate's friendly format up to weeks). Never negative.
    pub fn duration(&mut self, key: &'static str) -> Option<Spanned<Duration>> {
        let (_, value) = self.take(key)?;
        let span = self.file.span(value.span());
        let DeValue::String(text) = value.get_ref() else {
            self.wrong_type(key, "a duration such as \"90s\"", type_name(value.get_ref()), &span);
            return None;
        };
        let text = self.checked_string(key, text, span)?;
        if let Some(duration) = parse_duration(&text.value) {
            Some(text.map(|_| duration))
        } else {
            self.problems.push(
                Problem::error(
                    "bad-duration",
                    format!("`{key}` is not a duration: {:?}", text.value),
                )
                .at(&text.span, "")
                .help(
                    "write a number and a unit (w, d, h, m, s or ms), such as \"90s\", \"1h30m\", \
                     \"30d\"",
                ),
            );
            None
        }
    }

    /// A value of any type.
    pub fn value(&mut self, key: &'static str) -> Option<Value<'a>> {
        let (_, value) = self.take(key)?;
        self.typed(key, value)
    }

    /// The elements of an array, of any types.
    pub fn values(&mut self, key: &'static str, expected: &str) -> Option<Vec<Value<'a>>> {
        let (_, value) = self.take(key)?;
        let span = self.file.span(value.span());
        match value.into_inner() {
            DeValue::Array(array) => {
                Some(array.into_iter().filter_map(|element| self.typed(key, element)).collect())
            }
            other => {
                let found = type_name(&other);
                let mut problem =
                    Problem::error("wrong-type", format!("`{key}` must be {expected}"))
                        .at(&span, format!("found {found}"));
                if matches!(other, DeValue::String(_)) {
                    problem = problem.help("put it in brackets: [\"...\"]");
                }
                self.problems.push(problem);
                None
            }
        }
    }

    fn typed(&self, key: &'static str, value: toml::Spanned<DeValue<'a>>) -> Option<Value<'a>> {
        let span = self.file.span(value.span());
        Some(match value.into_inner() {
            DeValue::String(text) => Value::String(self.checked_string(key, &text, span)?),
            DeValue::Datetime(datetime) => Value::Datetime(Spanned::new(datetime, span)),
            DeValue::Table(entries) => Value::Table(self.sub_table(key, span, entries)),
            other => Value::Other(type_name(&other), span),
        })
    }

    /// A sub-table.
    pub fn table(&mut self, key: &'static str) -> Option<Table<'a>> {
        let (key_span, value) = self.take(key)?;
        let span = self.file.span(value.span());
        match value.into_inner() {
            DeValue::Table(entries) => Some(self.sub_table(key, key_span, entries)),
            other => {
                self.wrong_type(key, "a table", type_name(&other), &span);
                None
            }
        }
    }

    /// The tables under a key that the writer names: `[service.orders]`, `[service.billing]`. In
    /// the order of the text. Each comes with its name, and the name's place.
    pub fn tables(&mut self, key: &'static str) -> Vec<(Spanned<String>, Table<'a>)> {
        let Some(mut parent) = self.table(key) else { return Vec::new() };
        let mut tables = Vec::with_capacity(parent.entries.len());
        for (name, value) in std::mem::take(&mut parent.entries) {
            let span = self.file.span(name.span());
            let Some(name) = self.checked_string(key, name.get_ref(), span) else { continue };
            let value_span = self.file.span(value.span());
            match value.into_inner() {
                DeValue::Table(entries) => {
                    let table = parent.sub_table(&name.value, name.span.clone(), entries);
                    tables.push((name, table));
                }
                other => self.problems.push(
                    Problem::error("wrong-type", format!("`{key}.{}` must be a table", name.value))
                        .at(&name.span, "")
                        .also(&value_span, format!("expected a table, found {}", type_name(&other)))
                        .help(format!("begin a table with `[{key}.NAME]`")),
                ),
            }
        }
        tables.sort_by_key(|(name, _)| name.span.range().start);
        tables
    }

    fn sub_table(&self, key: &str, span: Span, entries: DeTable<'a>) -> Table<'a> {
        let path =
            if self.path.is_empty() { key.to_owned() } else { format!("{}.{key}", self.path) };
        Table { file: self.file, problems: self.problems, path, span, entries, known: Vec::new() }
    }

    /// The tables of `[[key]]`, or of an array of tables.
    pub fn table_array(&mut self, key: &'static str) -> Vec<Table<'a>> {
        const EXPECTED: &str = "an array of tables";
        let mut tables = Vec::new();
        for value in self.values(key, EXPECTED).unwrap_or_default() {
            match value {
                Value::Table(table) => tables.push(table),
                Value::String(other) => self.wrong_type(key, EXPECTED, "a string", &other.span),
                Value::Datetime(other) => self.wrong_type(key, EXPECTED, "a datetime", &other.span),
                Value::Other(found, span) => self.wrong_type(key, EXPECTED, found, &span),
            }
        }
        tables
    }

    /// A number of bytes: an integer, or a string with a unit (`B`, `KiB`, `MiB`, `GiB`, `TiB`).
    /// At least 1, and no more than NATS can say (an `i64`).
    pub fn size(&mut self, key: &'static str) -> Option<Spanned<u64>> {
        const EXPECTED: &str = "a number of bytes, or a string such as \"64KiB\"";
        let (_, value) = self.take(key)?;
        let span = self.file.span(value.span());
        let bytes = match value.get_ref() {
            DeValue::Integer(number) => u64::from_str_radix(number.as_str(), number.radix()).ok(),
            DeValue::String(text) => parse_size(text),
            other => {
                self.wrong_type(key, EXPECTED, type_name(other), &span);
                return None;
            }
        };
        let bytes = bytes.filter(|bytes| *bytes > 0 && i64::try_from(*bytes).is_ok());
        if bytes.is_none() {
            self.problems.push(
                Problem::error("bad-size", format!("`{key}` is not a size"))
                    .at(&span, format!("expected {EXPECTED}"))
                    .help("the units are B, KiB, MiB, GiB and TiB"),
            );
        }
        Some(Spanned::new(bytes?, span))
    }

    /// Reports every key that was never asked for, with the nearest known one.
    pub fn finish(self) {
        for key in self.entries.keys() {
            let name = key.get_ref();
            let span = self.file.span(key.span());
            let help = match nearest(name, self.known.iter().copied()) {
                Some(known) => format!("did you mean `{known}`?"),
                None => format!("known keys: {}", self.known.join(", ")),
            };
            self.problems.push(
                Problem::error("unknown-key", format!("unknown key `{name}` in {}", self.title()))
                    .at(&span, "")
                    .help(help),
            );
        }
    }
}

/// Parses a number of bytes such as `64KiB` or `1 GiB`.
fn parse_size(text: &str) -> Option<u64> {
    let text = text.trim();
    let digits = text.trim_end_matches(|c: char| !c.is_ascii_digit());
    let unit = text.get(digits.len()..)?.trim_start();
    let power = ["B", "KiB", "MiB", "GiB", "TiB"].iter().position(|known| *known == unit)?;
    digits.parse::<u64>().ok()?.checked_mul(1 << (10 * power))
}

/// Parses a length of time such as `90s`, `1h30m` or `30d`. A day has 24 hours; months and years
/// have no fixed length, so they are none.
#[must_use]
pub fn parse_duration(text: &str) -> Option<Duration> {
    let text = text.trim();
    let exact = || text.parse::<jiff::SignedDuration>().ok();
    let with_days = || {
        let span: jiff::Span = text.parse().ok()?;
        span.to_duration(jiff::SpanRelativeTo::days_are_24_hours()).ok()
    };
    Duration::try_from(exact().or_else(with_days)?).ok()
}

/// A number of bytes as policy files write it, in the largest unit that needs no fraction.
#[must_use]
pub fn show_size(bytes: u64) -> String {
    let units = [(40, "TiB"), (30, "GiB"), (20, "MiB"), (10, "KiB")];
    let whole = |(power, _): &&(u32, &str)| bytes > 0 && bytes.trailing_zeros() >= *power;
    match units.iter().find(whole) {
        Some((power, unit)) => format!("{}{unit}", bytes >> power),
        None => format!("{bytes}B"),
    }
}

/// A point in time, in seconds since the Unix epoch, as RFC 3339 writes it.
#[must_use]
pub fn show_time(seconds: i64) -> String {
    jiff::Timestamp::from_second(seconds).map_or_else(|_| seconds.to_string(), |t| t.to_string())
}

/// A length of time as [`parse_duration`] reads it: `1h30m`, `30d`.
#[must_use]
pub fn show_duration(duration: Duration) -> String {
    const DAY: u64 = 24 * 3600;
    let (days, rest) = (duration.as_secs() / DAY, duration.as_secs() % DAY);
    let (hours, rest) = (rest / 3600, rest % 3600);
    let (minutes, seconds) = (rest / 60, rest % 60);
    let mut text = String::new();
    for (number, unit) in [(days, "d"), (hours, "h"), (minutes, "m"), (seconds, "s")] {
        if number > 0 {
            text += &format!("{number}{unit}");
        }
    }
    match duration.subsec_millis() {
        0 if text.is_empty() => "0s".to_owned(),
        0 => text,
        milliseconds => text + &format!("{milliseconds}ms"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::diagnostics::render::Style;

    /// Reads `text` with `f` and gives every problem, rendered.
    fn problems(text: &str, f: impl FnOnce(&mut Table<'_>)) -> String {
        let file = SourceFile::new("s.toml", text);
        let problems = Collector::new();
        if let Some(mut table) = read(&file, &problems) {
            f(&mut table);
            table.finish();
        }
        problems.finish().render(Style::Plain)
    }

    #[test]
    fn lengths_of_time_are_shown_as_they_are_read() {
        for (text, seconds, shown) in [
            ("90s", 90, "1m30s"),
            ("1h30m", 5_400, "1h30m"),
            ("24h", 86_400, "1d"),
            ("30d", 30 * 86_400, "30d"),
            ("2w", 14 * 86_400, "14d"),
            ("1w 1d 1h", 8 * 86_400 + 3_600, "8d1h"),
            (" 36h ", 36 * 3_600, "1d12h"),
        ] {
            let time = parse_duration(text).unwrap();
            assert_eq!(time, Duration::from_secs(seconds), "{text}");
            assert_eq!(show_duration(time), shown, "{text}");
            assert_eq!(parse_duration(shown), Some(time), "{shown}");
        }
        for none in ["", "30", "d", "1mo", "1y", "-1d", "1d ago", "99999999999999999999d", "1.5d"] {
            assert_eq!(parse_duration(none), None, "{none}");
        }
    }

    #[test]
    fn reads_every_type() {
        let text = "s = 'a'\nl = ['a', 'b']\nb = true\ni = 0x10\nd = '1h30m'\nz = '64 KiB'\ny = 7\n\
            [t]\n[n.y]\n[n.x]\n[[a]]\n[[a]]\n";
        let found = problems(text, |t| {
            assert_eq!(t.string("s").unwrap().value, "a");
            assert_eq!(t.strings("l").unwrap().len(), 2);
            assert!(t.boolean("b").unwrap().value);
            assert_eq!(t.integer("i", 0..=16).unwrap().value, 16);
            assert_eq!(t.duration("d").unwrap().value.as_secs(), 5400);
            assert_eq!(t.size("z").unwrap().value, 65_536);
            assert_eq!(t.size("y").unwrap().value, 7);
            assert_eq!(t.table_array("a").len(), 2);
            assert_eq!(t.table("t").unwrap().title(), "`[t]`");
            let names: Vec<_> = t.tables("n").into_iter().map(|(name, _)| name.value).collect();
            assert_eq!(names, ["y", "x"], "in the order of the text");
            assert!(t.string("absent").is_none());
        });
        assert_eq!(found, "");
    }

    #[test]
    fn says_what_was_expected() {
        let found = problems("s = 1\nl = 'a'\nm = ['a', 2]\nt = 3\n", |t| {
            assert!(t.string("s").is_none());
            assert!(t.strings("l").is_none());
            assert_eq!(t.strings("m").unwrap().len(), 1);
            assert!(t.table("t").is_none());
        });
        assert_eq!(
            found,
            "\
error[wrong-type]: `s` must be a string
 --> s.toml:1:5
  |
1 | s = 1
  |     ^ expected a string, found an integer

error[wrong-type]: `l` must be an array of strings
 --> s.toml:2:5
  |
2 | l = 'a'
  |     ^^^ expected an array of strings, found a string
  |
  = help: put it in brackets: [\"...\"]

error[wrong-type]: `m` must be an array of strings
 --> s.toml:3:11
  |
3 | m = ['a', 2]
  |           ^ expected an array of strings, found an integer

error[wrong-type]: `t` must be a table
 --> s.toml:4:5
  |
4 | t = 3
  |     ^ expected a table, found an integer

"
        );
    }

    #[test]
    fn says_what_is_missing_or_unknown() {
        let found = problems("[nats]\nservrs = []\nfoo = 1\n", |t| {
            let mut nats = t.table("nats").unwrap();
            nats.require("servers", "[\"nats://127.0.0.1:4222\"]");
            assert!(nats.strings("servers").is_none());
            nats.finish();
        });
        assert_eq!(
            found,
            "\
error[missing-key]: `servers` is missing in `[nats]`
 --> s.toml:1:2
  |
1 | [nats]
  |  ^^^^
  |
  = help: add `servers = [\"nats://127.0.0.1:4222\"]`

error[unknown-key]: unknown key `servrs` in `[nats]`
 --> s.toml:2:1
  |
2 | servrs = []
  | ^^^^^^
  |
  = help: did you mean `servers`?

error[unknown-key]: unknown key `foo` in `[nats]`
 --> s.toml:3:1
  |
3 | foo = 1
  | ^^^
  |
  = help: known keys: servers

"
        );
    }

    #[test]
    fn bounds_numbers_and_durations() {
        let found =
            problems("i = 99999999999999999999\nj = 7\nd = '-1h'\ne = '1 fortnight'\n", |t| {
                assert!(t.integer("i", 0..=5).is_none());
                assert!(t.integer("j", 0..=5).is_none());
                assert!(t.duration("d").is_none());
                assert!(t.duration("e").is_none());
            });
        assert_eq!(
            found,
            "\
error[out-of-range]: `i` is out of range
 --> s.toml:1:5
  |
1 | i = 99999999999999999999
  |     ^^^^^^^^^^^^^^^^^^^^ must be 0 to 5

error[out-of-range]: `j` is out of range
 --> s.toml:2:5
  |
2 | j = 7
  |     ^ must be 0 to 5

error[bad-duration]: `d` is not a duration: \"-1h\"
 --> s.toml:3:5
  |
3 | d = '-1h'
  |     ^^^^^
  |
  = help: write a number and a unit (w, d, h, m, s or ms), such as \"90s\", \"1h30m\", \"30d\"

error[bad-duration]: `e` is not a duration: \"1 fortnight\"
 --> s.toml:4:5
  |
4 | e = '1 fortnight'
  |     ^^^^^^^^^^^^^
  |
  = help: write a number and a unit (w, d, h, m, s or ms), such as \"90s\", \"1h30m\", \"30d\"

"
        );
    }

    #[test]
    fn reports_what_is_twice_and_the_first_syntax_error() {
        let found = problems("b = 1\nb = 2\nc = [1,,2]\na = \n[t]\n[t]\n", |_| {});
        assert_eq!(
            found,
            "\
error[duplicate-key]: `b` is defined twice
 --> s.toml:2:1
  |
1 | b = 1
  | - first here
2 | b = 2
  | ^ again here
  |
  = help: keep one of the two, or merge them

error[toml-syntax]: not TOML: extra comma in array, expected value
 --> s.toml:3:8
  |
3 | c = [1,,2]
  |        ^
  |
  = help: 2 more errors below may follow from it

"
        );
    }

    /// Each line below an array without an end is an error of its own.
    #[test]
    fn one_bracket_that_is_missing_is_one_error() {
        let text = "a = [1,\n".to_owned() + &"[t]\nb = [\"x\"]\nc = \"y\"\n".repeat(50);
        let found = problems(&text, |_| {});
        assert_eq!(found.matches("error[").count(), 1, "{found}");
        assert!(found.contains("more errors below may follow from it"), "{found}");
    }

    /// What is said of the first syntax error, and at which places.
    fn said(text: &str) -> String {
        let file = SourceFile::new("s.toml", text);
        let problems = Collector::new();
        assert!(read(&file, &problems).is_none(), "{text}");
        let problems = problems.finish();
        let problem = problems.iter().next().unwrap();
        let at = problem.primary.iter().chain(&problem.related).map(|label| {
            let (line, column) = label.span.line_column();
            format!("; {line}:{column} {}", label.text)
        });
        let message = problem.message.strip_prefix("not TOML: ").unwrap();
        message.to_owned() + &at.collect::<String>()
    }

    /// The parser notices it at the line after.
    #[test]
    fn what_is_missing_is_said_of_the_line_that_lacks_it() {
        let array = "an array has no end";
        let table = "an inline table has no end";
        for (text, expected) in [
            // Behind it comes a key, or a header.
            (
                "a = [\"x\"\nb = [\"y\"]\n",
                format!("{array}; 1:9 `]` is missing here; 1:5 opened here"),
            ),
            ("a = [\"x\",\nb = 1\n", format!("{array}; 1:10 `]` is missing here; 1:5 opened here")),
            (
                "a = [\"x\"\n[t.\"b c\"] # t\n",
                format!("{array}; 1:9 `]` is missing here; 1:5 opened here"),
            ),
            ("a = [\"x\",\n[[t]]\n", format!("{array}; 1:10 `]` is missing here; 1:5 opened here")),
            (
                "a = [\n  \"x]\", # ]\n  '''\n]'''\n\nb.c = 1\n",
                format!("{array}; 4:5 `]` is missing here; 1:5 opened here"),
            ),
            (
                "a = [[\"x\"],\n  [\"y\"]\nb = 1\n",
                format!("{array}; 2:8 `]` is missing here; 1:5 opened here"),
            ),
            ("a = [{ b = 1\n[t]\n", format!("{table}; 1:13 `}}` is missing here; 1:6 opened here")),
            // Or a comma is.
            (
                "a = [{ b = 1\nc = 2\n",
                "missing comma between key-value pairs, expected `,`; \
              1:13 a comma or `}` is missing here; 1:6 opened here"
                    .to_owned(),
            ),
            (
                "a = [\n  \"x\"\n  \"y\",\n]\n",
                "missing comma between array elements, expected `,`; \
              2:6 a comma is missing here; 1:5 opened here"
                    .to_owned(),
            ),
            ("a = \"\"\"x\nb = 1\n", "a string has no end; 1:5 it begins here".to_owned()),
            // What is wrong on its own line stays there.
            (
                "a = [\"x\" \"y\"]\n",
                "missing comma between array elements, expected `,`; 1:10 ".to_owned(),
            ),
            (
                "a = [\n  \"x\",\n  \"y\" \"z\"\n]\n",
                "missing comma between array elements, expected `,`; 3:7 ".to_owned(),
            ),
            (
                "a = [{\n  b = 1,\n  c = @,\n}]\n",
                "string values must be quoted, expected literal string; 3:7 ".to_owned(),
            ),
            (
                "a = [\n  [b],\n]\n",
                "string values must be quoted, expected literal string; 2:4 ".to_owned(),
            ),
            ("a = [\"x\"\n\n# c ]\n", "unclosed array, expected `]`; 1:9 ".to_owned()),
            ("a = [\"\"\"x\n\"\"\"", "unclosed array, expected `]`; 2:4 ".to_owned()),
            ("[t\na = [\"x\"]\n", "unclosed table, expected `]`; 1:3 ".to_owned()),
            (
                "a = [\"x\"]\nb = \n",
                "string values must be quoted, expected literal string; 2:5 ".to_owned(),
            ),
        ] {
            assert_eq!(said(text), expected, "{text}");
        }
    }

    #[test]
    fn depth_is_bounded() {
        for text in ["a = ".to_owned() + &"[".repeat(100_000), "a.".repeat(100_000) + "b = 1"] {
            assert!(problems(&text, |_| {}).contains("toml-syntax"));
        }
    }
}
