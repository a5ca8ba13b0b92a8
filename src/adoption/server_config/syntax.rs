//! The language of nats-server's configuration, as its package `conf` takes it.
//!
//! Its grammar is looser than it looks. A key ends at whitespace, `=` or `:` only, so that
//! `accounts{` is a key; a `}` that is too much ends a value at the top level; numbers with
//! letters behind them are strings; a list needs a comma or a new line between values. Where the
//! server silently takes something else than what is written (a key without a value in a map, a
//! number with a suffix that does not exist), this reader refuses it.
//!
//! A tree keeps the place of every key and value. The text behind a place is the file's with its
//! secrets blanked, byte for byte ([`blank`]): so no message can show one. Whoever edits a file
//! reads it again and uses the byte ranges.

pub mod blank;
mod files;
mod parser;
mod scalar;
mod source;

use std::collections::HashMap;
use std::fmt;
use std::path::Path;

use solewriter_core::diagnostics::{Problems, SourceFile, Span, Spanned};

pub use source::{Disk, Source};

/// The most bytes that a file and all that it includes may have together.
pub const MAX_BYTES: usize = 16 << 20;

/// How deep maps and lists may be nested.
pub const MAX_DEPTH: usize = 64;

/// How deep files may include others.
pub const MAX_INCLUDES: usize = 16;

/// The most values, each use of a variable counted with all that it stands for.
pub const MAX_VALUES: usize = 2_000_000;

/// A configuration: one file and all that it includes.
#[derive(Clone, Debug)]
pub struct Tree {
    /// What stands at the top level.
    pub root: Map,
    /// Every file that was read, the first one first. Their texts have no secrets.
    pub files: Vec<SourceFile>,
}

/// A key and its value.
#[derive(Clone, Debug)]
pub struct Entry {
    /// The key as it is written, without quotes; its place is with them.
    pub key: Spanned<String>,
    /// The value.
    pub value: Node,
    /// Whether it was used as a variable. The server then takes any name for it.
    pub used: bool,
}

/// A value and where it is written.
#[derive(Clone, Debug)]
pub struct Node {
    /// The value.
    pub value: Value,
    /// The whole of it, with quotes and brackets. Of a variable, the place that uses it.
    pub span: Span,
    /// The variable that it came from.
    pub variable: Option<Variable>,
}

/// Where a variable's value came from.
#[derive(Clone, Debug)]
pub struct Variable {
    /// Its name, without `$`.
    pub name: String,
    /// The value that it stands for; `None` for one of the environment.
    pub defined: Option<Span>,
}

/// A value.
#[derive(Clone)]
pub enum Value {
    /// A text, quoted or not, a block, or an address.
    String(String),
    /// A whole number, its suffix applied.
    Integer(i64),
    /// A number with a point.
    Float(f64),
    /// `true`, `yes`, `on`, or `false`, `no`, `off`.
    Bool(bool),
    /// A date with its time.
    DateTime(String),
    /// `[…]`
    List(Vec<Node>),
    /// `{…}`
    Map(Map),
}

impl Value {
    /// What kind of value, in words for a message.
    #[must_use]
    pub fn kind(&self) -> &'static str {
        match self {
            Self::String(_) => "a text",
            Self::Integer(_) => "a whole number",
            Self::Float(_) => "a number",
            Self::Bool(_) => "true or false",
            Self::DateTime(_) => "a date",
            Self::List(_) => "a list",
            Self::Map(_) => "a map",
        }
    }
}

impl fmt::Debug for Value {
    /// Without the words of a text: any may be a password.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::String(text) => write!(f, "String({} bytes)", text.len()),
            Self::Integer(_) => f.write_str("Integer"),
            Self::Float(_) => f.write_str("Float"),
            Self::Bool(value) => write!(f, "{value}"),
            Self::DateTime(value) => f.write_str(value),
            Self::List(list) => f.debug_list().entries(list).finish(),
            Self::Map(map) => map.fmt(f),
        }
    }
}

/// What stands between `{` and `}`, or at the top level.
#[derive(Clone, Debug, Default)]
pub struct Map {
    entries: Vec<Entry>,
    /// The last entry of each key: the server forgets those before.
    last: HashMap<String, usize>,
}

impl Map {
    /// Every entry, in the order of the text, with those that a later one replaces.
    pub fn all(&self) -> impl Iterator<Item = &Entry> {
        self.entries.iter()
    }

    /// The entries that count, in the order of the text: of equal keys, the last.
    pub fn entries(&self) -> impl Iterator<Item = &Entry> {
        self.entries
            .iter()
            .enumerate()
            .filter(|(at, entry)| self.counts(*at, entry))
            .map(|(_, e)| e)
    }

    /// The entries that a later one replaces.
    pub fn replaced(&self) -> impl Iterator<Item = &Entry> {
        let replaced = |(at, entry): &(usize, &Entry)| !self.counts(*at, entry);
        self.entries.iter().enumerate().filter(replaced).map(|(_, entry)| entry)
    }

    /// What a key is set to, whatever the case of its letters. `name` is in small letters.
    #[must_use]
    pub fn get(&self, name: &str) -> Option<&Entry> {
        let exact = self.last.get(name).and_then(|at| self.entries.get(*at));
        exact.or_else(|| self.entries().find(|entry| entry.key.value.eq_ignore_ascii_case(name)))
    }

    /// Whether nothing is in it.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    fn counts(&self, at: usize, entry: &Entry) -> bool {
        self.last.get(&entry.key.value) == Some(&at)
    }

    fn push(&mut self, entry: Entry) {
        self.last.insert(entry.key.value.clone(), self.entries.len());
        self.entries.push(entry);
    }

    /// The value of that very key, which is then known to be a variable.
    fn variable(&mut self, name: &str) -> Option<&Node> {
        let entry = self.entries.get_mut(*self.last.get(name)?)?;
        entry.used = true;
        Some(&entry.value)
    }
}

/// Reads a configuration.
///
/// # Errors
/// What nats-server would refuse as well, and what is beyond the bounds of this module. The first
/// error ends the reading.
pub fn read(path: &Path, source: &dyn Source) -> Result<Tree, Problems> {
    files::read(path, source).map_err(|problem| Problems::from(*problem))
}

#[cfg(test)]
pub(crate) mod tests;
