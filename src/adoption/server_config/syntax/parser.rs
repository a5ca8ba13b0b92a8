//! From the text to the tree: keys, maps, lists, includes, variables.

use std::ops::Range;
use std::path::PathBuf;

use solewriter_core::diagnostics::{Problem, SourceFile, Span, Spanned};

use super::files::Shared;
use super::{Entry, MAX_DEPTH, MAX_VALUES, Map, Node, Value, Variable};

/// An error ends the reading, so it is on its way out only once.
pub(super) type Read<T> = Result<T, Box<Problem>>;

/// Reads one text.
pub(super) struct Parser<'p, 's> {
    shared: &'p mut Shared<'s>,
    pub(super) text: &'p str,
    pub(super) at: usize,
    file: SourceFile,
    folder: PathBuf,
    /// The maps that are open, the innermost last.
    scopes: Vec<Map>,
    depth: usize,
}

/// What values stand in, and what may follow one of them.
struct Within {
    what: &'static str,
    separators: &'static [char],
    close: char,
    message: &'static str,
    label: &'static str,
    help: &'static str,
}

const LIST: Within = Within {
    what: "a list",
    separators: &[',', '/', '\n', '\r'],
    close: ']',
    message: "two values of a list have nothing between them",
    label: "a comma or `]` is missing here",
    help: "write a comma or a new line between them; a number must not stand right before `]`",
};

const MAP: Within = Within {
    what: "a map",
    separators: &[',', ';', '/', '\n', '\r'],
    close: '}',
    message: "something follows a value in a map",
    label: "a comma or `}` is missing here",
    help: "write a comma or a new line between two settings",
};

/// A key, or the word that includes a file.
enum Key {
    Name(Spanned<String>),
    Include,
}

fn is_separator(c: char) -> bool {
    matches!(c, '=' | ':')
}

/// What may stand before a value on its line.
pub(super) fn is_blank(c: char) -> bool {
    matches!(c, ' ' | '\t')
}

pub(super) fn is_new_line(c: char) -> bool {
    matches!(c, '\n' | '\r')
}

fn too_much<T>(span: &Span) -> Read<T> {
    let message =
        format!("there are more than {MAX_VALUES} values, or more than {MAX_DEPTH} in each other");
    let problem = Problem::error("server-config-size", message).at(span, "here");
    Err(Box::new(problem.help("use fewer variables that stand for lists or maps")))
}

impl<'p, 's> Parser<'p, 's> {
    pub(super) fn new(
        shared: &'p mut Shared<'s>,
        text: &'p str,
        file: SourceFile,
        folder: PathBuf,
        depth: usize,
    ) -> Self {
        Self { shared, text, at: 0, file, folder, scopes: vec![Map::default()], depth }
    }

    pub(super) fn peek(&self) -> Option<char> {
        self.text.get(self.at..)?.chars().next()
    }

    fn peek_second(&self) -> Option<char> {
        self.text.get(self.at..)?.chars().nth(1)
    }

    pub(super) fn next(&mut self) -> Option<char> {
        let c = self.peek()?;
        self.at += c.len_utf8();
        Some(c)
    }

    pub(super) fn skip(&mut self, skipped: impl Fn(char) -> bool) {
        while self.peek().is_some_and(&skipped) {
            self.next();
        }
    }

    pub(super) fn span(&self, range: Range<usize>) -> Span {
        self.file.span(range)
    }

    /// An error in the grammar, at the next character.
    pub(super) fn wrong<T>(&self, message: &str, help: &str) -> Read<T> {
        self.wrong_at(self.at..self.at.saturating_add(1), message, "here", help)
    }

    pub(super) fn wrong_at<T>(
        &self,
        range: Range<usize>,
        message: &str,
        label: &str,
        help: &str,
    ) -> Read<T> {
        let problem = Problem::error("server-config-syntax", message);
        Err(Box::new(problem.at(&self.span(range), label).help(help)))
    }

    /// The whole text, which is a map without its brackets.
    pub(super) fn whole(mut self) -> Read<Map> {
        if let Some(at) = self.text.find('\0') {
            return self.wrong_at(
                at..at + 1,
                "a byte with the value 0",
                "here",
                "nats-server takes it as the end of the text; remove it",
            );
        }
        loop {
            self.skip(char::is_whitespace);
            match self.peek() {
                None => return Ok(self.scopes.pop().unwrap_or_default()),
                // A whole file may stand in brackets, as JSON does.
                Some('{') => {
                    self.next();
                }
                Some('#') => self.comment(),
                Some('/') if self.peek_second() == Some('/') => self.comment(),
                Some('/') => return self.wrong("a lone `/`", "write comments with `#` or `//`"),
                Some(_) => {
                    if !self.top_entry()? {
                        return Ok(self.scopes.pop().unwrap_or_default());
                    }
                }
            }
        }
    }

    /// One setting at the top level. `false` at the end of the text.
    fn top_entry(&mut self) -> Read<bool> {
        match self.key()? {
            Key::Include => self.include()?,
            Key::Name(key) => {
                self.skip(char::is_whitespace);
                match self.peek() {
                    // The last bracket of a file that stands in brackets.
                    None if key.value == "}" => return Ok(false),
                    None => return self.no_value(&key),
                    Some(c) if is_separator(c) => {
                        self.next();
                    }
                    Some(_) => {}
                }
                let value = self.value()?;
                self.set(key, value)?;
            }
        }
        self.top_end()?;
        Ok(true)
    }

    /// What may follow a value at the top level.
    fn top_end(&mut self) -> Read<()> {
        loop {
            match self.peek() {
                None | Some('#') => return Ok(()),
                Some('/') if self.peek_second() == Some('/') => return Ok(()),
                Some(' ' | '\t' | '/') => {
                    self.next();
                }
                Some('\n' | '\r' | ';' | ',' | '}') => {
                    self.next();
                    return Ok(());
                }
                Some(_) => {
                    return self.wrong(
                        "something follows a value on its line",
                        "begin a new line, or put quotes around the whole value",
                    );
                }
            }
        }
    }

    fn comment(&mut self) {
        self.skip(|c| !is_new_line(c));
    }

    fn key(&mut self) -> Read<Key> {
        let start = self.at;
        match self.peek() {
            Some(c) if is_separator(c) => {
                self.wrong("`:` or `=` without a key before it", "write the key, or remove it")
            }
            Some(quote @ ('"' | '\'')) => {
                self.next();
                let inner = self.at;
                self.skip(|c| c != quote);
                let text = self.text.get(inner..self.at).unwrap_or_default().to_owned();
                if self.next().is_none() {
                    return self.wrong_at(
                        start..start + 1,
                        "a quoted key has no end",
                        "it begins here",
                        "add the closing quote",
                    );
                }
                Ok(Key::Name(Spanned::new(text, self.span(start..self.at))))
            }
            _ => {
                self.next();
                self.skip(|c| !c.is_whitespace() && !is_separator(c));
                let text = self.text.get(start..self.at).unwrap_or_default();
                if text.eq_ignore_ascii_case("include")
                    && self.peek().is_some_and(char::is_whitespace)
                {
                    return Ok(Key::Include);
                }
                Ok(Key::Name(Spanned::new(text.to_owned(), self.span(start..self.at))))
            }
        }
    }

    fn no_value<T>(&self, key: &Spanned<String>) -> Read<T> {
        // The place only: what is taken for a key may be half of a password.
        self.wrong_at(
            key.span.range(),
            "a key has no value",
            "its value is missing",
            "write `key: value`, or remove it; a bracket or a quote before it may be missing",
        )
    }

    fn set(&mut self, key: Spanned<String>, value: Node) -> Read<()> {
        if !self.shared.count_one() {
            return too_much(&value.span);
        }
        if let Some(scope) = self.scopes.last_mut() {
            scope.push(Entry { key, value, used: false });
        }
        Ok(())
    }

    /// The name of the file after `include`, and what is in it.
    fn include(&mut self) -> Read<()> {
        self.skip(is_blank);
        let start = self.at;
        let name = match self.peek() {
            Some(quote @ ('"' | '\'')) => {
                self.next();
                let inner = self.at;
                self.skip(|c| c != quote);
                let name = self.text.get(inner..self.at).unwrap_or_default();
                if self.next().is_none() {
                    return self.wrong_at(
                        start..start + 1,
                        "the quoted name of an included file has no end",
                        "it begins here",
                        "add the closing quote",
                    );
                }
                name
            }
            None | Some('[' | '{' | '(' | '-' | '\\' | '\n' | '\r' | '0'..='9') => {
                return self.wrong(
                    "`include` without the name of a file",
                    "write `include \"name.conf\"`",
                );
            }
            Some(_) => {
                self.skip(|c| !is_new_line(c) && !is_blank(c) && !matches!(c, ';' | '}' | '\''));
                let name = self.text.get(start..self.at).unwrap_or_default();
                if self.peek() == Some('\'') {
                    self.next();
                }
                name
            }
        };
        let span = self.span(start..self.at);
        // Go's `filepath.Join`: a name that begins with `/` is taken as relative, too.
        let path = self.folder.join(name.trim_start_matches('/'));
        let map = self.shared.file(&path, Some(&span), self.depth)?;
        if let Some(scope) = self.scopes.last_mut() {
            for entry in map.entries {
                scope.push(entry);
            }
        }
        Ok(())
    }

    /// A value, wherever one may stand. Spaces may be before it, and no new line.
    pub(super) fn value(&mut self) -> Read<Node> {
        self.skip(is_blank);
        let start = self.at;
        let value = match self.peek() {
            Some('[') => self.nested(start, Self::list)?,
            Some('{') => self.nested(start, Self::map)?,
            Some(c) if is_new_line(c) => {
                return self.wrong(
                    "a value is missing",
                    "write it on the line of its key; a bracket that opens may stand on the next \
                     line only when there is no `:` or `=` before it",
                );
            }
            _ => match self.scalar()? {
                Ok(value) => value,
                Err(name) => return self.variable(start, name),
            },
        };
        Ok(Node { value, span: self.span(start..self.at), variable: None })
    }

    fn nested(&mut self, start: usize, read: fn(&mut Self, usize) -> Read<Value>) -> Read<Value> {
        if self.depth >= MAX_DEPTH {
            return self.wrong(
                &format!("more than {MAX_DEPTH} brackets stand in each other"),
                "a bracket that closes may be missing somewhere before",
            );
        }
        self.next();
        self.depth += 1;
        let value = read(self, start);
        self.depth -= 1;
        value
    }

    fn unclosed<T>(&self, start: usize, what: &str, bracket: char) -> Read<T> {
        self.wrong_at(
            start..start + 1,
            &format!("{what} has no end"),
            "it begins here",
            &format!(
                "add `{bracket}` where it ends; a number takes a `]` right behind it for itself"
            ),
        )
    }

    /// After `[`.
    fn list(&mut self, start: usize) -> Read<Value> {
        let mut list = Vec::new();
        loop {
            self.skip(char::is_whitespace);
            match self.peek() {
                None => return self.unclosed(start, "a list", ']'),
                Some('#') => self.comment(),
                Some('/') if self.peek_second() == Some('/') => self.comment(),
                Some(',' | '/') => {
                    return self.wrong(
                        "no value stands before this",
                        "write one comma between two values, on the line of the first",
                    );
                }
                Some(']') => {
                    self.next();
                    return Ok(Value::List(list));
                }
                Some(_) => {
                    let value = self.value()?;
                    if !self.shared.count_one() {
                        return too_much(&value.span);
                    }
                    list.push(value);
                    if self.after_value(start, &LIST)? {
                        return Ok(Value::List(list));
                    }
                }
            }
        }
    }

    /// What follows a value: `true` at the end of what it is in.
    fn after_value(&mut self, start: usize, within: &Within) -> Read<bool> {
        loop {
            self.skip(is_blank);
            match self.peek() {
                None => return self.unclosed(start, within.what, within.close),
                Some('#') => self.comment(),
                Some('/') if self.peek_second() == Some('/') => self.comment(),
                Some(c) => {
                    let range = self.at..self.at + c.len_utf8();
                    self.next();
                    return if within.separators.contains(&c) {
                        Ok(false)
                    } else if c == within.close {
                        Ok(true)
                    } else {
                        self.wrong_at(range, within.message, within.label, within.help)
                    };
                }
            }
        }
    }

    /// After `{`.
    fn map(&mut self, start: usize) -> Read<Value> {
        self.scopes.push(Map::default());
        loop {
            self.skip(char::is_whitespace);
            match self.peek() {
                None => return self.unclosed(start, "a map", '}'),
                Some('}') => {
                    self.next();
                    break;
                }
                Some(']') => {
                    return self.wrong("`]` in a map", "close the map with `}` first");
                }
                Some('#') => self.comment(),
                Some('/') if self.peek_second() == Some('/') => self.comment(),
                Some(_) => {
                    if self.map_entry(start)? {
                        break;
                    }
                }
            }
        }
        Ok(Value::Map(self.scopes.pop().unwrap_or_default()))
    }

    /// A key of a map with its value: `true` at the map's end.
    fn map_entry(&mut self, start: usize) -> Read<bool> {
        if self.peek() == Some('/') {
            self.next();
        }
        match self.key()? {
            Key::Include => self.include()?,
            Key::Name(key) => {
                self.skip(char::is_whitespace);
                if self.peek().is_some_and(is_separator) {
                    self.next();
                    self.skip(char::is_whitespace);
                }
                match self.peek() {
                    None => return self.unclosed(start, "a map", '}'),
                    // The server takes the name of this key for the map itself.
                    Some('}' | ',') => return self.no_value(&key),
                    Some(_) => {}
                }
                let value = self.value()?;
                self.set(key, value)?;
            }
        }
        self.after_value(start, &MAP)
    }

    /// What a variable stands for: the nearest of that name that was set before, or one of the
    /// environment.
    fn variable(&mut self, start: usize, name: String) -> Read<Node> {
        let span = self.span(start..self.at);
        let scopes = self.scopes.iter_mut().rev();
        let found = scopes.into_iter().find_map(|scope| scope.variable(&name));
        if let Some(node) = found {
            if !self.shared.count(&node.value, self.depth) {
                return too_much(&span);
            }
            let (value, defined) = (node.value.clone(), Some(node.span.clone()));
            return Ok(Node { value, span, variable: Some(Variable { name, defined }) });
        }
        if let Some(value) = self.shared.environment(&name, &span)? {
            if !self.shared.count(&value, self.depth) {
                return too_much(&span);
            }
            return Ok(Node { value, span, variable: Some(Variable { name, defined: None }) });
        }
        // A password without quotes may begin with `$`, so the name is not told.
        let problem = Problem::error("server-config-variable", "a variable is set nowhere")
            .at(&span, "used here")
            .help(
                "set it before this line, in this map or one around it, or in the environment; \
                 put quotes around a text that begins with `$`",
            );
        Err(Box::new(problem))
    }
}
