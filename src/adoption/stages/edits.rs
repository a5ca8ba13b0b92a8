//! Small edits of texts by byte ranges, and what they change as a unified diff.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::ops::Range;

use solewriter_core::diagnostics::Span;
use zeroize::Zeroizing;

use crate::adoption::server_config::syntax::blank;

/// The lines around a change in a diff.
const CONTEXT: usize = 3;

/// The texts of a configuration by file name, as they are on disk, secrets included.
pub type Texts = BTreeMap<String, Zeroizing<String>>;

/// One change of one file.
struct Edit {
    range: Range<usize>,
    text: String,
}

/// Changes of the files of a configuration.
pub(super) struct Edits<'t> {
    texts: &'t Texts,
    of: BTreeMap<String, Vec<Edit>>,
}

fn is_blank(c: char) -> bool {
    matches!(c, ' ' | '\t')
}

impl<'t> Edits<'t> {
    pub fn new(texts: &'t Texts) -> Self {
        Self { texts, of: BTreeMap::new() }
    }

    fn text(&self, file: &str) -> &'t str {
        self.texts.get(file).map_or("", |text| text.as_str())
    }

    /// What replaces a range of a file.
    pub fn replace(&mut self, file: &str, range: Range<usize>, text: impl Into<String>) {
        let edit = Edit { range, text: text.into() };
        self.of.entry(file.to_owned()).or_default().push(edit);
    }

    /// The spaces before the first word of the line.
    pub fn indent(&self, file: &str, at: usize) -> String {
        let before = self.text(file).get(..at).unwrap_or_default();
        let line = before.rsplit('\n').next().unwrap_or_default();
        line.chars().take_while(|c| is_blank(*c)).collect()
    }

    /// Lines right behind the bracket that ends at `at`, which opens what stands at `indent`. What
    /// follows the bracket on its line goes to a line of its own.
    pub fn behind(&mut self, file: &str, opened: Range<usize>, before: &str, lines: &[String]) {
        let indent = self.indent(file, opened.start);
        let rest = self.text(file).get(opened.end..).unwrap_or_default();
        let blank = rest.len() - rest.trim_start_matches(is_blank).len();
        let next = rest.get(blank..).and_then(|rest| rest.chars().next());
        let mut text = before.to_owned();
        for line in lines {
            for part in line.lines() {
                let _ = write!(text, "\n{indent}  {part}");
            }
        }
        match next {
            None | Some('\n' | '\r') => {}
            Some('}' | ']') => {
                let _ = write!(text, "\n{indent}");
            }
            Some(_) => {
                let _ = write!(text, "\n{indent}  ");
            }
        }
        let to = match next {
            None | Some('\n' | '\r') => opened.end,
            Some(_) => opened.end.saturating_add(blank),
        };
        let from = if before.is_empty() { opened.end } else { opened.start };
        self.replace(file, from..to, text);
    }

    /// Lines at the beginning of a list or a map.
    pub fn first(&mut self, whole: &Span, lines: &[String]) {
        let start = whole.range().start;
        self.behind(whole.file().name(), start..start.saturating_add(1), "", lines);
    }

    /// Takes an element of a list or a setting of a map out, with the comma behind it, and its lines
    /// when nothing else is on them.
    pub fn remove(&mut self, file: &str, range: Range<usize>) {
        let text = self.text(file);
        let rest = text.get(range.end..).unwrap_or_default();
        let trimmed = rest.trim_start_matches(is_blank);
        let mut end = range.end;
        if trimmed.starts_with([',', ';']) {
            end = text.len().saturating_sub(trimmed.len()).saturating_add(1);
        }
        let rest = text.get(end..).unwrap_or_default();
        let after = rest.trim_start_matches(is_blank);
        let before = text.get(..range.start).unwrap_or_default();
        let line = before.rsplit('\n').next().unwrap_or_default();
        let alone = line.chars().all(is_blank);
        let range = match after.strip_prefix('\n').or_else(|| after.strip_prefix("\r\n")) {
            Some(next) if alone => {
                range.start.saturating_sub(line.len())..text.len().saturating_sub(next.len())
            }
            _ if after.starts_with(['\n', '\r']) => range.start..end,
            _ => range.start..text.len().saturating_sub(after.len()),
        };
        self.replace(file, range, "");
    }

    /// The lines that are new, without the spaces around them.
    pub fn lines(&self) -> BTreeSet<String> {
        let texts = self.of.values().flatten().flat_map(|edit| edit.text.lines());
        texts.map(|line| line.trim().to_owned()).filter(|line| !line.is_empty()).collect()
    }

    /// The texts with all edits. `None` when two are about the same bytes.
    pub fn applied(mut self) -> Option<Texts> {
        let mut applied = self.texts.clone();
        for (file, edits) in &mut self.of {
            edits.sort_by_key(|edit| (edit.range.start, edit.range.end));
            let text = self.texts.get(file)?;
            let mut new = Zeroizing::new(String::new());
            let mut at = 0;
            for Edit { range, text: with } in edits.iter() {
                new.push_str(text.get(at..range.start)?);
                new.push_str(with);
                at = range.end;
            }
            new.push_str(text.get(at..)?);
            applied.insert(file.clone(), new);
        }
        Some(applied)
    }
}

/// What differs between two texts of a file, as a unified diff without secrets. Empty when nothing
/// does. `own` are lines that were written here, so there is no secret in them.
#[must_use]
pub fn diff(file: &str, old: &str, new: &str, own: &BTreeSet<String>) -> String {
    if old == new {
        return String::new();
    }
    let (old_shown, new_shown) = (blank::blank(old), blank::blank(new));
    let lines = |text: &'_ str| text.split_inclusive('\n').map(ToOwned::to_owned).collect();
    let (was, is): (Vec<String>, Vec<String>) = (lines(old), lines(new));
    let mut shown: (Vec<String>, Vec<String>) = (lines(&old_shown), lines(&new_shown));
    for (texts, shown) in [(&was, &mut shown.0), (&is, &mut shown.1)] {
        for (line, shown) in texts.iter().zip(shown).filter(|(line, _)| own.contains(line.trim())) {
            shown.clone_from(line);
        }
    }
    let changes = changes(&was, &is);
    let mut out = format!("--- a/{file}\n+++ b/{file}\n");
    let mut at = 0;
    while let Some(first) = changes.get(at) {
        let mut until = at;
        while let (Some(this), Some(next)) = (changes.get(until), changes.get(until + 1)) {
            if next.0.start.saturating_sub(this.0.end) > CONTEXT.saturating_mul(2) {
                break;
            }
            until += 1;
        }
        let group = changes.get(at..=until).unwrap_or_default();
        let last = group.last().unwrap_or(first);
        let from = first.0.start.saturating_sub(CONTEXT);
        let to = last.0.end.saturating_add(CONTEXT).min(was.len());
        let new_from = first.1.start.saturating_sub(first.0.start.saturating_sub(from));
        let new_to = last.1.end.saturating_add(to.saturating_sub(last.0.end));
        let _ = writeln!(
            out,
            "@@ -{},{} +{},{} @@",
            from + usize::from(to > from),
            to - from,
            new_from + usize::from(new_to > new_from),
            new_to - new_from
        );
        let mut copied = from;
        for (olds, news) in group {
            put(&mut out, ' ', shown.0.get(copied..olds.start));
            put(&mut out, '-', shown.0.get(olds.clone()));
            put(&mut out, '+', shown.1.get(news.clone()));
            copied = olds.end;
        }
        put(&mut out, ' ', shown.0.get(copied..to));
        at = until + 1;
    }
    out
}

fn put(out: &mut String, mark: char, lines: Option<&[String]>) {
    for line in lines.unwrap_or_default() {
        let _ = writeln!(out, "{mark}{}", line.trim_end_matches(['\n', '\r']));
    }
}

/// The ranges of lines that differ, old and new. A line that comes back is looked for nearby, so a
/// file of thousands of lines is fast.
fn changes(was: &[String], is: &[String]) -> Vec<(Range<usize>, Range<usize>)> {
    const FAR: usize = 4000;
    let mut found = Vec::new();
    let (mut a, mut b) = (0, 0);
    while a < was.len() || b < is.len() {
        if was.get(a).is_some() && was.get(a) == is.get(b) {
            (a, b) = (a + 1, b + 1);
            continue;
        }
        let most = (was.len() - a).saturating_add(is.len() - b).min(FAR);
        // The nearest pair of equal lines with a word on them, or the ends of both.
        let meets = |skip: usize| {
            (0..=skip).find_map(|old| {
                let (x, y) = (a + old, b + (skip - old));
                let same = was.get(x).is_some_and(|line| {
                    Some(line) == is.get(y) && line.chars().any(char::is_alphanumeric)
                });
                (same || (x == was.len() && y == is.len())).then_some((x, y))
            })
        };
        let (mut x, mut y) = (1..=most).find_map(meets).unwrap_or((was.len(), is.len()));
        let before = |x: usize, y: usize| was.get(x - 1).is_some_and(|l| Some(l) == is.get(y - 1));
        while x > a && y > b && before(x, y) {
            (x, y) = (x - 1, y - 1);
        }
        found.push((a..x, b..y));
        (a, b) = (x, y);
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;
    use solewriter_core::diagnostics::SourceFile;

    fn texts(text: &str) -> Texts {
        BTreeMap::from([("f".to_owned(), Zeroizing::new(text.to_owned()))])
    }

    fn removed(text: &str, what: &str) -> String {
        let texts = texts(text);
        let mut edits = Edits::new(&texts);
        let at = text.find(what).unwrap();
        edits.remove("f", at..at + what.len());
        edits.applied().unwrap()["f"].to_string()
    }

    #[test]
    fn what_is_removed_takes_its_comma_and_its_line() {
        assert_eq!(removed("[\n  {a}\n  {b}\n]", "{a}"), "[\n  {b}\n]");
        assert_eq!(removed("[\n  {a},\n  {b}\n]", "{a}"), "[\n  {b}\n]");
        assert_eq!(removed("[{a}, {b}]", "{a}"), "[{b}]");
        assert_eq!(removed("[{a}, {b}]", "{b}"), "[{a}, ]");
        assert_eq!(removed("[ {a} # who\n {b}]", "{a}"), "[ # who\n {b}]");
        assert_eq!(removed("[ {a}\n {b}]", "{a}"), "[ \n {b}]");
    }

    #[test]
    fn what_comes_first_is_on_a_line_of_its_own() {
        for (text, wanted) in [
            ("  x: [\n    a\n  ]", "  x: [\n    n\n    a\n  ]"),
            ("x: [ a ]", "x: [\n  n\n  a ]"),
            ("x: []", "x: [\n  n\n]"),
            ("x: [ # why\n a ]", "x: [\n  n\n  # why\n a ]"),
        ] {
            let texts = texts(text);
            let mut edits = Edits::new(&texts);
            let at = text.find('[').unwrap();
            let file = SourceFile::new("f", text);
            edits.first(&file.span(at..text.len()), &["n".to_owned()]);
            assert_eq!(edits.applied().unwrap()["f"].as_str(), wanted);
        }
    }

    #[test]
    fn a_diff_says_what_differs_and_no_secret() {
        let old = "a: 1\nusers: [\n  {user: x, password: hunterword}\n  {user: y, password: \
                   hunterword}\n]\n";
        let new = old.replacen("  {user: x, password: hunterword}\n", "", 1);
        let wanted = "--- a/f\n+++ b/f\n@@ -1,5 +1,4 @@\n a: 1\n users: [\n-  {**** *, ********: \
                      **********}\n";
        let shown = diff("f", old, &new, &BTreeSet::new());
        assert!(!shown.contains("hunterword"), "{shown}");
        assert!(shown.starts_with("--- a/f\n+++ b/f\n@@ -1,5 +1,4 @@\n"), "{shown}\n{wanted}");
        assert_eq!(shown.matches("\n-").count(), 1, "{shown}");
        assert_eq!(diff("f", old, old, &BTreeSet::new()), "");
    }
}
