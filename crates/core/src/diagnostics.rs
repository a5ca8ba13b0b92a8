//! Source texts that people write (policy, settings), and problems in them.
//!
//! A [`SourceFile`] is a name and a text. Whatever is read from it keeps its [`Span`], so that a
//! [`Problem`] can show file, line, column and the underlined text long after the reading. Nothing
//! here stops at the first problem: readers put what they find into a [`Collector`] and go on.
//!
//! - [`toml`] reads TOML tables with typed, reporting accessors.
//! - [`render`] prints problems the way that rustc does; as JSON they come with
//!   `serde_json::to_string(&problems)`: `{"errors": 1, ..., "problems": [...]}`.

pub mod json;
mod redact;
pub mod render;
pub mod toml;
mod unclosed;

use std::borrow::Cow;
use std::cell::RefCell;
use std::cmp::Ordering;
use std::collections::HashSet;
use std::fmt;
use std::ops::Range;
use std::sync::Arc;

use redact::redact;

use solewriter_types::clean;

/// The most problems that one run reports; beyond it, [`Problems::unreported`] counts.
pub const MAX_PROBLEMS: usize = 1000;

/// Bytes between two checkpoints of the character count.
const STRIDE: usize = 256;

/// A text with its name. Cloning shares it.
#[derive(Clone)]
pub struct SourceFile(Arc<Text>);

struct Text {
    name: Arc<str>,
    text: String,
    /// The byte offset at which each line begins.
    lines: Vec<u32>,
    /// How many characters begin before byte `i * STRIDE`: a column is found without counting
    /// through a line of megabytes.
    characters: Vec<usize>,
}

impl SourceFile {
    /// Takes a text and the name to show for it (a path relative to where the reading began).
    #[must_use]
    pub fn new(name: impl Into<Arc<str>>, text: impl Into<String>) -> Self {
        let (name, text): (Arc<str>, String) = (name.into(), text.into());
        // Whoever made the file chose its name.
        let name = match clean::line(&name) {
            Cow::Borrowed(_) => name,
            Cow::Owned(cleaned) => cleaned.into(),
        };
        let ends = text.match_indices('\n').map(|(at, _)| small(at + 1));
        let mut lines: Vec<u32> = [0].into_iter().chain(ends).collect();
        lines.shrink_to_fit();
        let characters = if text.is_ascii() {
            (0..text.len()).step_by(STRIDE).collect()
        } else {
            let before = text.as_bytes().chunks(STRIDE).scan(0, |count, chunk| {
                let before = *count;
                *count += chunk.iter().filter(|byte| is_character_start(**byte)).count();
                Some(before)
            });
            before.collect()
        };
        Self(Arc::new(Text { name, text, lines, characters }))
    }

    /// The name, shared.
    #[must_use]
    pub fn name(&self) -> &Arc<str> {
        &self.0.name
    }

    /// The whole text.
    #[must_use]
    pub fn text(&self) -> &str {
        &self.0.text
    }

    /// Line and column of a byte offset, both counted from 1, the column in characters. An offset
    /// past the end is taken as the end.
    #[must_use]
    pub fn line_column(&self, offset: usize) -> (u32, u32) {
        let offset = offset.min(self.0.text.len());
        let line = self.line_index(offset);
        let start = self.line_start(line);
        let column = self.characters_before(offset) - self.characters_before(start);
        (small(line + 1), small(column + 1))
    }

    /// The index of the line that holds `offset`, from 0.
    fn line_index(&self, offset: usize) -> usize {
        let offset = small(offset);
        self.0.lines.partition_point(|start| *start <= offset).saturating_sub(1)
    }

    /// Where the line of that index begins; the end of the text for one past the last.
    fn line_start(&self, line: usize) -> usize {
        let start = self.0.lines.get(line).and_then(|start| usize::try_from(*start).ok());
        start.unwrap_or(self.0.text.len())
    }

    fn characters_before(&self, offset: usize) -> usize {
        let checkpoint = offset / STRIDE;
        let Some(before) = self.0.characters.get(checkpoint) else {
            // Only the offset at the very end can be beyond the last checkpoint.
            return self.0.text.chars().count();
        };
        let rest = self.0.text.as_bytes().get(checkpoint * STRIDE..offset).unwrap_or_default();
        before + rest.iter().filter(|byte| is_character_start(**byte)).count()
    }

    /// A part of this text. Bounds are moved to the nearest character boundaries inside it.
    #[must_use]
    pub fn span(&self, range: Range<usize>) -> Span {
        let text = self.text();
        let mut start = range.start.min(text.len());
        while !text.is_char_boundary(start) {
            start -= 1;
        }
        let mut end = range.end.clamp(start, text.len());
        while !text.is_char_boundary(end) {
            end += 1;
        }
        Span { file: self.clone(), start, end }
    }
}

/// Whether the byte begins a UTF-8 character.
fn is_character_start(byte: u8) -> bool {
    byte & 0xC0 != 0x80
}

fn small(number: usize) -> u32 {
    u32::try_from(number).unwrap_or(u32::MAX)
}

impl PartialEq for SourceFile {
    fn eq(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.0, &other.0)
            || (self.0.name == other.0.name && self.0.text == other.0.text)
    }
}
impl Eq for SourceFile {}

impl fmt::Debug for SourceFile {
    /// The name and size only: a settings file may hold what no log should.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "SourceFile({:?}, {} bytes)", self.name(), self.text().len())
    }
}

/// A part of a source text: whole characters, in order.
#[derive(Clone, PartialEq, Eq)]
pub struct Span {
    file: SourceFile,
    start: usize,
    end: usize,
}

impl Span {
    /// The file it is in.
    #[must_use]
    pub fn file(&self) -> &SourceFile {
        &self.file
    }

    /// The byte range in the file's text.
    #[must_use]
    pub fn range(&self) -> Range<usize> {
        self.start..self.end
    }

    /// The text it covers.
    #[must_use]
    pub fn text(&self) -> &str {
        self.file.text().get(self.range()).unwrap_or_default()
    }

    /// Line and column of its first character, both counted from 1.
    #[must_use]
    pub fn line_column(&self) -> (u32, u32) {
        self.file.line_column(self.start)
    }

    /// A sort key: file name, then place.
    fn order(&self) -> (&str, usize, usize) {
        (self.file.name(), self.start, self.end)
    }
}

impl fmt::Display for Span {
    /// `file:line:column`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (line, column) = self.line_column();
        write!(f, "{}:{line}:{column}", self.file.name())
    }
}

impl fmt::Debug for Span {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{self}")
    }
}

/// A value and where it was written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Spanned<T> {
    /// The value.
    pub value: T,
    /// Where it was written.
    pub span: Span,
}

impl<T> Spanned<T> {
    /// Puts the two together.
    pub fn new(value: T, span: Span) -> Self {
        Self { value, span }
    }

    /// Another value at the same place.
    pub fn map<U>(self, change: impl FnOnce(T) -> U) -> Spanned<U> {
        Spanned { value: change(self.value), span: self.span }
    }
}

/// How bad a problem is. Sorts worst first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, serde::Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Severity {
    /// The texts cannot be used.
    Error,
    /// They can be used, and are likely not what was meant.
    Warning,
    /// Worth knowing.
    Note,
}

/// A place with what to say about it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Label {
    /// The place.
    pub span: Span,
    /// What to print beside the underlined text. May be empty.
    pub text: String,
}

/// One thing that is wrong with, or worth saying about, source texts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    /// How bad it is.
    pub severity: Severity,
    /// Names the kind of problem in kebab-case. Stable: scripts may rely on it.
    pub code: &'static str,
    /// The problem in one line, without a full stop.
    pub message: String,
    /// The place to look at first; `None` when the problem is in no text (a missing folder).
    pub primary: Option<Label>,
    /// Other places that belong to it, perhaps in other files.
    pub related: Vec<Label>,
    /// What to do about it.
    pub help: Option<String>,
}

impl Problem {
    /// A problem of that severity, with no place yet.
    #[must_use]
    pub fn new(severity: Severity, code: &'static str, message: impl Into<String>) -> Self {
        Self {
            severity,
            code,
            message: message.into(),
            primary: None,
            related: Vec::new(),
            help: None,
        }
    }

    /// An error.
    #[must_use]
    pub fn error(code: &'static str, message: impl Into<String>) -> Self {
        Self::new(Severity::Error, code, message)
    }

    /// A warning.
    #[must_use]
    pub fn warning(code: &'static str, message: impl Into<String>) -> Self {
        Self::new(Severity::Warning, code, message)
    }

    /// A note.
    #[must_use]
    pub fn note(code: &'static str, message: impl Into<String>) -> Self {
        Self::new(Severity::Note, code, message)
    }

    /// Sets the place to look at first, and what to print beside it.
    #[must_use]
    pub fn at(mut self, span: &Span, text: impl Into<String>) -> Self {
        self.primary = Some(Label { span: span.clone(), text: text.into() });
        self
    }

    /// Adds another place.
    #[must_use]
    pub fn also(mut self, span: &Span, text: impl Into<String>) -> Self {
        self.related.push(Label { span: span.clone(), text: text.into() });
        self
    }

    /// Sets what to do about it.
    #[must_use]
    pub fn help(mut self, help: impl Into<String>) -> Self {
        self.help = Some(help.into());
        self
    }
}

impl Problem {
    /// The place to look at first.
    #[must_use]
    pub fn place(&self) -> Option<&Span> {
        self.primary.as_ref().map(|label| &label.span)
    }

    /// Whether the place to look at first is in one of these files.
    pub(crate) fn is_in(&self, files: &HashSet<Arc<str>>) -> bool {
        self.place().is_some_and(|span| files.contains(span.file().name()))
    }

    /// Whether one of the other places that belong to it is in one of these files.
    pub(crate) fn points_into(&self, files: &HashSet<Arc<str>>) -> bool {
        self.related.iter().any(|label| files.contains(label.span.file().name()))
    }

    /// Problems without a place first, then by file name and place; the worse first at one place.
    pub(crate) fn in_order(&self, other: &Self) -> Ordering {
        self.place()
            .map(Span::order)
            .cmp(&other.place().map(Span::order))
            .then(self.severity.cmp(&other.severity))
            .then(self.code.cmp(other.code))
            .then_with(|| self.message.cmp(&other.message))
    }

    /// Takes seeds out of every text of it, and whatever could deceive who looks: texts quote what
    /// others wrote.
    fn clean(&mut self) {
        let labels = self.primary.iter_mut().chain(&mut self.related).map(|l| &mut l.text);
        for text in labels.chain([&mut self.message]).chain(&mut self.help) {
            if let Cow::Owned(redacted) = redact(text) {
                *text = redacted;
            }
            if let Cow::Owned(cleaned) = clean::lines(text) {
                *text = cleaned;
            }
        }
    }
}

/// Gathers problems while texts are read and checked. Shared by reference among the readers, so
/// that a table and its sub-tables can be read side by side.
#[derive(Debug)]
pub struct Collector {
    problems: RefCell<Problems>,
    limit: usize,
}

impl Default for Collector {
    fn default() -> Self {
        Self::keeping(MAX_PROBLEMS)
    }
}

impl Collector {
    /// An empty collector.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// One that keeps so many problems, in place of [`MAX_PROBLEMS`].
    #[must_use]
    pub fn keeping(limit: usize) -> Self {
        Self { problems: RefCell::default(), limit }
    }

    /// How many problems it keeps.
    #[must_use]
    pub fn limit(&self) -> usize {
        self.limit
    }

    /// Adds a problem.
    pub fn push(&self, problem: Problem) {
        self.problems.borrow_mut().push(problem, self.limit);
    }

    /// Adds what is no error and stands at `span`. It is made only if it may be kept: a large policy
    /// may have a note for each of its entries.
    pub fn advise(&self, span: &Span, advice: impl FnOnce() -> Problem) {
        {
            let mut problems = self.problems.borrow_mut();
            if problems.is_past(span) {
                problems.unreported += 1;
                return;
            }
        }
        let advice = advice();
        debug_assert_ne!(advice.severity, Severity::Error, "an error is never left out");
        self.push(advice);
    }

    /// Adds all of them.
    pub fn extend(&self, problems: Problems) {
        let mut all = self.problems.borrow_mut();
        let listed = problems.list.iter().filter(|p| p.severity == Severity::Error).count();
        all.unreported += problems.unreported;
        all.errors += problems.errors - listed;
        for problem in problems.list {
            all.push(problem, self.limit);
        }
    }

    /// Whether an error was added so far.
    #[must_use]
    pub fn has_errors(&self) -> bool {
        self.problems.borrow().has_errors()
    }

    /// Whether no more errors are kept, so that looking for more is of no use. However many warnings
    /// there are says nothing about errors.
    #[must_use]
    pub fn is_full(&self) -> bool {
        self.problems.borrow().errors >= self.limit
    }

    /// What was gathered, in the order of files and places: if there is more than is kept, errors
    /// first, and then what stands first.
    #[must_use]
    pub fn finish(self) -> Problems {
        let mut problems = self.problems.into_inner();
        problems.cut(self.limit);
        problems.last = None;
        problems.list.sort_by(Problem::in_order);
        problems
    }
}

/// Problems, in the order of files and places.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Problems {
    list: Vec<Problem>,
    /// How many more there were than are kept.
    unreported: usize,
    errors: usize,
    /// While they are gathered: where the last one stands of those that are kept. What is no error and
    /// stands behind it is not kept.
    last: Option<Span>,
}

impl Problems {
    fn push(&mut self, mut problem: Problem, limit: usize) {
        let error = problem.severity == Severity::Error;
        self.errors += usize::from(error);
        if !error && problem.place().is_some_and(|span| self.is_past(span)) {
            self.unreported += 1;
            return;
        }
        problem.clean();
        self.list.push(problem);
        // Sorted once for as many as are kept.
        if self.list.len() >= limit.saturating_mul(2) {
            self.cut(limit);
        }
    }

    /// Leaves the first of those that come first.
    fn cut(&mut self, limit: usize) {
        if self.list.len() <= limit {
            return;
        }
        // A flood of warnings must not hide an error.
        let rank = |p: &Problem| p.severity != Severity::Error;
        self.list.sort_by(|a, b| rank(a).cmp(&rank(b)).then_with(|| a.in_order(b)));
        self.unreported += self.list.len() - limit;
        self.list.truncate(limit);
        self.last = self.list.last().and_then(Problem::place).cloned();
    }

    /// Whether what is no error is not kept any more if it stands there.
    fn is_past(&self, span: &Span) -> bool {
        self.last.as_ref().is_some_and(|last| span.order() > last.order())
    }

    /// The problems.
    pub fn iter(&self) -> std::slice::Iter<'_, Problem> {
        self.list.iter()
    }

    /// The message of the first. What looks like a seed was masked when it was made.
    #[must_use]
    pub fn first(&self) -> String {
        self.list.first().map_or_else(|| self.summary(), |problem| problem.message.clone())
    }

    /// How many are reported.
    #[must_use]
    pub fn len(&self) -> usize {
        self.list.len()
    }

    /// Whether there is none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.list.is_empty()
    }

    /// These problems without those that stand in some files, and with others in their place, which
    /// are all that are said of those files: `before` and `now` of them, none an error. `None` when
    /// that needs to be known of what is not kept.
    pub(crate) fn with_other(
        &self,
        files: &HashSet<Arc<str>>,
        before: usize,
        now: Vec<Problem>,
    ) -> Option<Self> {
        let (all, mut list) = (self.list.len() + self.unreported + now.len(), now);
        let all = all.checked_sub(before)?;
        list.extend(self.list.iter().filter(|problem| !problem.is_in(files)).cloned());
        list.sort_by(Problem::in_order);
        if self.unreported > 0 {
            // Of other files, only what stands before the last is known.
            let last = self.list.last()?;
            let place = last.place()?;
            let end = files.contains(place.file().name()).then_some(place.file().name());
            let is_known = |problem: &&Problem| match end {
                Some(end) => problem.place().is_some_and(|span| span.file().name() <= end),
                None => problem.in_order(last).is_le(),
            };
            let known = list.iter().take_while(is_known).count();
            if known < MAX_PROBLEMS.min(all) {
                return None;
            }
        }
        list.truncate(MAX_PROBLEMS);
        Some(Self { unreported: all - list.len(), list, errors: 0, last: None })
    }

    /// How many were found beyond the first [`MAX_PROBLEMS`].
    #[must_use]
    pub fn unreported(&self) -> usize {
        self.unreported
    }

    /// Whether one of them is an error.
    #[must_use]
    pub fn has_errors(&self) -> bool {
        self.errors > 0
    }

    /// How many of a severity are reported.
    #[must_use]
    pub fn count(&self, severity: Severity) -> usize {
        self.list.iter().filter(|p| p.severity == severity).count()
    }
}

impl From<Problem> for Problems {
    fn from(problem: Problem) -> Self {
        let mut problems = Self::default();
        problems.push(problem, MAX_PROBLEMS);
        problems
    }
}

impl<'a> IntoIterator for &'a Problems {
    type Item = &'a Problem;
    type IntoIter = std::slice::Iter<'a, Problem>;
    fn into_iter(self) -> Self::IntoIter {
        self.iter()
    }
}

impl fmt::Display for Problems {
    /// Every problem, rendered without colour.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.render(render::Style::Plain))
    }
}

impl std::error::Error for Problems {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_and_columns_count_characters() {
        let file = SourceFile::new("f", "ab\nüé\u{1F600}x\n");
        for (offset, place) in
            [(0, (1, 1)), (2, (1, 3)), (3, (2, 1)), (5, (2, 2)), (11, (2, 4)), (999, (3, 1))]
        {
            assert_eq!(file.line_column(offset), place, "{offset}");
        }
        let long = format!("\n{}x", "é".repeat(1000));
        assert_eq!(SourceFile::new("f", long).line_column(2001), (2, 1001));
        assert_eq!(SourceFile::new("f", "a".repeat(256)).line_column(256), (1, 257));
    }

    #[test]
    fn a_flood_of_warnings_does_not_hide_an_error() {
        let problems = Collector::new();
        for _ in 0..MAX_PROBLEMS + 5 {
            problems.push(Problem::warning("w", "w"));
        }
        problems.push(Problem::error("e", "e"));
        let problems = problems.finish();
        assert_eq!((problems.len(), problems.unreported()), (MAX_PROBLEMS, 6));
        assert_eq!(problems.count(Severity::Error), 1);
    }

    #[test]
    fn renders_what_where_and_what_to_do() {
        let one = SourceFile::new("one.toml", "a = 1\nb = [\"x\", \"yy\"]\n");
        let two = SourceFile::new("sub/two.toml", "c = \"ü\" # long\n");
        let problem = Problem::error("two-owners", "both own it")
            .at(&one.span(15..19), "second")
            .also(&two.span(4..8), "first")
            .help("keep one");
        assert_eq!(
            problem.render(render::Style::Plain),
            "\
error[two-owners]: both own it
 --> one.toml:2:10
  |
2 | b = [\"x\", \"yy\"]
  |          ^^^^ second
  |
 ::: sub/two.toml:1:5
  |
1 | c = \"ü\" # long
  |     --- first
  |
  = help: keep one
"
        );
    }

    #[test]
    fn names_but_does_not_print_a_line_of_megabytes() {
        let text = format!("a = [{}]\n", "\"x\", ".repeat(1 << 20));
        let file = SourceFile::new("big.toml", text);
        let problem = Problem::error("e", "wrong").at(&file.span(4_000_001..4_000_004), "here");
        assert_eq!(problem.to_string(), "error[e]: wrong\n--> big.toml:1:4000002\n");
    }
}
