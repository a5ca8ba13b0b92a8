//! The files of a configuration, each read by a parser of its own, and the variables of the
//! environment; and the bounds on all of them together.

use std::collections::HashSet;
use std::path::{Component, Path, PathBuf};

use solewriter_core::diagnostics::{Problem, SourceFile, Span};

use super::parser::{Parser, Read};
use super::{MAX_BYTES, MAX_DEPTH, MAX_INCLUDES, MAX_VALUES, Map, Source, Tree, Value, blank};

/// What is common to all files of a configuration.
pub(super) struct Shared<'s> {
    source: &'s dyn Source,
    files: Vec<SourceFile>,
    /// The files that are being read, each included by the one before.
    open: Vec<PathBuf>,
    /// The variables of the environment that are being read.
    variables: HashSet<String>,
    bytes: usize,
    values: usize,
}

pub(super) fn read(path: &Path, source: &dyn Source) -> Read<Tree> {
    let mut shared = Shared {
        source,
        files: Vec::new(),
        open: Vec::new(),
        variables: HashSet::new(),
        bytes: 0,
        values: 0,
    };
    let root = shared.file(path, None, 0)?;
    if root.is_empty() {
        let name = path.display();
        return Err(Box::new(
            Problem::error("server-config-empty", format!("{name} has no settings"))
                .help("give the file that nats-server is started with (`-c`)"),
        ));
    }
    Ok(Tree { root, files: shared.files })
}

impl Shared<'_> {
    /// Reads a file. `included` is where another one asks for it.
    pub(super) fn file(&mut self, path: &Path, included: Option<&Span>, depth: usize) -> Read<Map> {
        let place = |problem: Problem| match included {
            Some(span) => problem.at(span, "included here"),
            None => problem,
        };
        let name = path.display();
        let path = clean(path);
        if self.open.contains(&path) {
            return Err(Box::new(
                place(Problem::error("server-config-include", format!("{name} includes itself")))
                    .help("remove this `include`; nats-server never ends with it"),
            ));
        }
        if self.open.len() >= MAX_INCLUDES {
            let message = format!("{name} is the {MAX_INCLUDES}th file that includes another");
            return Err(Box::new(
                place(Problem::error("server-config-include", message))
                    .help("include fewer files from within included ones"),
            ));
        }
        let left = MAX_BYTES.saturating_sub(self.bytes);
        let bytes = self.source.file(&path, left).map_err(|error| {
            let problem =
                Problem::error("server-config-file", format!("cannot read {name}: {error}"));
            let help = if included.is_some() {
                "nats-server looks for an included file relative to the one that includes it, \
                 even when the path begins with `/`"
            } else {
                "give the path of nats-server's configuration, readable for this user"
            };
            Box::new(place(problem).help(help))
        })?;
        self.bytes = self.bytes.saturating_add(bytes.len());
        if bytes.len() > left {
            let message = format!("{name} and what belongs to it is larger than {MAX_BYTES} bytes");
            return Err(Box::new(place(Problem::error("server-config-size", message))));
        }
        let text = String::from_utf8(bytes).map_err(|error| {
            let at = error.utf8_error().valid_up_to();
            let message = format!("{name} is not UTF-8: see byte {at}");
            Box::new(place(Problem::error("server-config-text", message)).help("save it as UTF-8"))
        })?;
        let file = SourceFile::new(path.display().to_string(), blank::blank(&text));
        self.files.push(file.clone());
        self.open.push(path.clone());
        let folder = path.parent().map(Path::to_path_buf).unwrap_or_default();
        let map = Parser::new(self, &text, file, folder, depth).whole();
        self.open.pop();
        map
    }

    /// The value of a variable of the environment.
    pub(super) fn environment(&mut self, name: &str, used: &Span) -> Read<Option<Value>> {
        let Some(text) = self.source.environment(name) else { return Ok(None) };
        let unread = |why: &str| {
            let message = format!("the environment's variable `{name}` {why}");
            Box::new(Problem::error("server-config-variable", message).at(used, "used here"))
        };
        if text.len() > MAX_BYTES || !self.variables.insert(name.to_owned()) {
            return Err(unread("is too large, or refers to itself"));
        }
        // As the server does it: as what stands behind a key.
        let text = format!("pk={text}");
        let file = SourceFile::new(format!("${name}"), blank::blank("pk="));
        let map = Parser::new(self, &text, file, PathBuf::new(), 0).whole();
        self.variables.remove(name);
        let mut map =
            map.map_err(|problem| unread(&format!("is no value: {}", problem.message)))?;
        Ok(map.variable("pk").map(|node| node.value.clone()))
    }

    /// Counts one value. `false` when it is too much.
    pub(super) fn count_one(&mut self) -> bool {
        self.values += 1;
        self.values <= MAX_VALUES
    }

    /// Counts what a variable stands for, before it is copied: a few lines can stand for millions of
    /// values. `false` when it is too much, or would nest too deep at `depth`.
    pub(super) fn count(&mut self, value: &Value, depth: usize) -> bool {
        let mut left: Vec<(&Value, usize)> = vec![(value, depth)];
        while let Some((value, depth)) = left.pop() {
            self.values += 1;
            if self.values > MAX_VALUES || depth > MAX_DEPTH {
                return false;
            }
            match value {
                Value::List(list) => left.extend(list.iter().map(|node| (&node.value, depth + 1))),
                Value::Map(map) => {
                    left.extend(map.all().map(|entry| (&entry.value.value, depth + 1)));
                }
                _ => {}
            }
        }
        true
    }
}

/// As Go cleans a path: so that one file has one name.
fn clean(path: &Path) -> PathBuf {
    let mut cleaned = PathBuf::new();
    for part in path.components() {
        match part {
            Component::ParentDir
                if matches!(cleaned.components().next_back(), Some(Component::Normal(_))) =>
            {
                cleaned.pop();
            }
            Component::CurDir => {}
            other => cleaned.push(other),
        }
    }
    cleaned
}
