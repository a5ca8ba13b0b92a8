//! The files of a draft: tables with a comment at each entry, and which line came from where.

use super::existing::quoted;
use crate::adoption::evidence::fact::Fact;

/// One setting of a table, or one element of one of its lists.
#[derive(Clone, Debug)]
pub struct Item {
    /// The key.
    pub key: &'static str,
    /// The value, as TOML.
    pub value: String,
    /// Whether it is an element of a list.
    pub in_list: bool,
    /// What is said beside it.
    pub note: String,
    /// What it is to grant.
    pub facts: Vec<Fact>,
    /// Why it is only a comment.
    pub off: Option<String>,
}

impl Item {
    /// A setting.
    pub fn setting(key: &'static str, value: String, note: impl Into<String>) -> Self {
        Self { key, value, in_list: false, note: note.into(), facts: Vec::new(), off: None }
    }

    /// An element of a list.
    pub fn element(
        key: &'static str,
        text: &str,
        note: impl Into<String>,
        facts: Vec<Fact>,
    ) -> Self {
        Self { key, value: quoted(text), in_list: true, note: note.into(), facts, off: None }
    }
}

/// One table.
#[derive(Clone, Debug, Default)]
pub struct Table {
    /// What stands in its brackets.
    pub header: String,
    /// What is said above it.
    pub notes: Vec<String>,
    /// What is in it.
    pub items: Vec<Item>,
    /// Why it is only a comment.
    pub off: Option<String>,
}

/// One file.
#[derive(Clone, Debug, Default)]
pub struct Page {
    /// Its name.
    pub name: &'static str,
    /// What is said at its beginning, as lines without `#`.
    pub head: Vec<String>,
    /// Its tables.
    pub tables: Vec<Table>,
}

/// Where a line comes from: the table, and the item.
pub type Origin = Option<(usize, Option<usize>)>;

/// A text that grows by lines.
#[derive(Default)]
struct Lines {
    text: String,
    origins: Vec<Origin>,
}

impl Lines {
    fn push(&mut self, line: &str, origin: Origin) {
        self.text += line.trim_end();
        self.text.push('\n');
        self.origins.push(origin);
    }
}

impl Page {
    /// The text, and where each of its lines comes from.
    pub fn render(&self) -> (String, Vec<Origin>) {
        let mut lines = Lines::default();
        for line in &self.head {
            lines.push(&format!("# {line}"), None);
        }
        for (index, table) in self.tables.iter().enumerate() {
            lines.push("", None);
            table.render(index, &mut lines);
        }
        (lines.text, lines.origins)
    }
}

impl Table {
    fn render(&self, index: usize, lines: &mut Lines) {
        for note in &self.notes {
            lines.push(&format!("# {note}"), None);
        }
        let off = if self.off.is_some() { "# " } else { "" };
        if let Some(why) = &self.off {
            lines.push(&format!("# Not declared: {why}."), None);
        }
        lines.push(&format!("{off}[{}]", self.header), Some((index, None)));
        let mut items = self.items.iter().enumerate().peekable();
        while let Some((at, item)) = items.next() {
            let origin = Some((index, Some(at)));
            let off = if self.off.is_some() || item.off.is_some() { "# " } else { "" };
            let note = noted(item);
            if !item.in_list {
                lines.push(&format!("{off}{} = {}{note}", item.key, item.value), origin);
                continue;
            }
            let mut elements = vec![(at, item)];
            while let Some(element) =
                items.next_if(|(_, next)| next.in_list && next.key == item.key)
            {
                elements.push(element);
            }
            let none = self.off.is_some() || elements.iter().all(|(_, item)| item.off.is_some());
            let whole = if none { "# " } else { "" };
            lines.push(&format!("{whole}{} = [", item.key), Some((index, None)));
            for (at, item) in elements {
                let off = if none || item.off.is_some() { "# " } else { "" };
                let line = format!("{off}    {},{}", item.value, noted(item));
                lines.push(&line, Some((index, Some(at))));
            }
            lines.push(&format!("{whole}]"), Some((index, None)));
        }
    }
}

fn noted(item: &Item) -> String {
    let why = item.off.as_ref().map(|why| format!("not written, because {why}"));
    let all: Vec<String> =
        why.into_iter().chain((!item.note.is_empty()).then(|| item.note.clone())).collect();
    if all.is_empty() { String::new() } else { format!(" # {}", all.join("; ")) }
}
