//! The edits of the company's own files.

use std::collections::BTreeSet;

use solewriter_core::diagnostics::{Problem, Problems, Span, Spanned};
use zeroize::Zeroizing;

use super::NEW_FILE;
use super::edits::{Edits, Texts};
use super::generated::{Generated, system_exports, variable};
use super::situation::{Home, Situation, written};
use crate::adoption::server_config::accounts::Account;
use crate::adoption::server_config::syntax::{Entry, Map, Node, Value};

/// The edits of one stage.
struct Editor<'g, 's> {
    generated: &'g Generated<'s>,
    edits: Edits<'s>,
}

/// All files of a stage, and the lines in them that are new. `unused` are variables that nobody uses
/// any more.
pub(super) fn edited(
    generated: &Generated<'_>,
    gone: &BTreeSet<String>,
    unused: &BTreeSet<String>,
) -> Result<(Texts, BTreeSet<String>), Problems> {
    let situation = generated.situation;
    let current = situation.current;
    let new_file = current.new_file();
    if current.texts.contains_key(&new_file) {
        let message = format!("{new_file} is there already");
        return Err(Problem::error("adopt-file", message)
            .help("give the configuration as it was before `solewriter adopt`")
            .into());
    }
    let mut editor = Editor { generated, edits: Edits::new(&current.texts) };
    editor.include();
    match &situation.home {
        Home::Named(account, map) => editor.named(account, map)?,
        Home::Global(entry, map) => editor.global(entry, map, gone)?,
        Home::Open => {}
    }
    editor.accounts()?;
    editor.system()?;
    editor.callout()?;
    for (name, span) in situation.users() {
        if let Some(span) = span.filter(|_| gone.contains(&name)) {
            editor.edits.remove(span.file().name(), span.range());
        }
    }
    editor.anonymous(gone);
    editor.imported_too();
    for entry in current.tree.root.all().filter(|entry| unused.contains(&entry.key.value)) {
        if let Some((file, range)) = range(entry) {
            editor.edits.remove(&file, range);
        }
    }
    let lines = editor.edits.lines();
    let Some(mut texts) = editor.edits.applied() else {
        let message = "two edits would be about the same place";
        return Err(Problem::error("adopt-edit", message)
            .help("write a list that is used in two places where it is used")
            .into());
    };
    texts.insert(new_file, Zeroizing::new(generated.text()));
    Ok((texts, lines))
}

/// The place of a value that is to be edited.
fn place(node: &Node, what: &str) -> Result<Span, Problem> {
    written(node).cloned().ok_or_else(|| {
        Problem::error("adopt-edit", format!("{what} is a variable of the environment"))
            .at(&node.span, "used here")
            .help("write it into the file")
    })
}

fn range(entry: &Entry) -> Option<(String, std::ops::Range<usize>)> {
    let (key, value) = (&entry.key.span, &entry.value.span);
    (key.file() == value.file())
        .then(|| (key.file().name().to_string(), key.range().start..value.range().end))
}

impl Editor<'_, '_> {
    fn situation(&self) -> &Situation<'_> {
        self.generated.situation
    }

    /// A variable, or its value, at a place.
    fn reference(&self, at: &Span, name: &str) -> String {
        self.generated.reference(at.file().name(), name)
    }

    /// The new file is included before the first setting.
    fn include(&mut self) {
        let main = self.situation().current.main.clone();
        let text = self.situation().current.texts.get(&main).map_or("", |text| text.as_str());
        let mut at = 0;
        for line in text.split_inclusive('\n') {
            let words = line.trim();
            if !(words.is_empty() || words.starts_with('#') || words.starts_with("//")) {
                break;
            }
            at += line.len();
        }
        let line = format!("include \"{NEW_FILE}\"\n");
        let wrapped = text.get(at..).is_some_and(|rest| rest.trim_start().starts_with('{'));
        if wrapped {
            let bracket = text.get(at..).and_then(|rest| rest.find('{')).unwrap_or_default();
            let at = at.saturating_add(bracket).saturating_add(1);
            self.edits.replace(&main, at..at, format!("\n{line}"));
        } else {
            self.edits.replace(&main, at..at, line);
        }
    }

    /// The account of state where it has a name.
    fn named(&mut self, account: &Account, map: &Map) -> Result<(), Problem> {
        self.not_restricted(account)?;
        let whole = self.account_place(&account.name.value, &account.span)?;
        let mut lines = Vec::new();
        match map.get("exports") {
            Some(exports) => {
                let span = place(&exports.value, "`exports`")?;
                self.edits.first(&span, &self.generated.exports());
            }
            None => lines.push(format!("exports: {}", self.reference(&whole, "EXPORTS"))),
        }
        let defaults = account.default_permissions.is_some();
        self.admin(map, whole.file().name(), &mut lines, defaults)?;
        self.edits.first(&whole, &lines);
        Ok(())
    }

    /// Where the map of an account is written.
    fn account_place(&self, name: &str, span: &Span) -> Result<Span, Problem> {
        let accounts = self.situation().accounts();
        let entry =
            accounts.and_then(|(_, map)| map.entries().find(|entry| entry.key.value == name));
        entry.map_or_else(|| Ok(span.clone()), |entry| place(&entry.value, "the account"))
    }

    /// What the account exports to some accounts only cannot be exported to others by a second line.
    fn not_restricted(&self, account: &Account) -> Result<(), Problem> {
        for line in self.generated.exports() {
            let subject = line.split('"').nth(1).unwrap_or_default();
            let kind = if line.starts_with("{ service") { "service" } else { "stream" };
            let same = account.exports.iter().find(|export| {
                let passage = format!("{:?}", export.passage).to_lowercase();
                export.subject.value == subject && passage == kind
            });
            if let Some(export) = same {
                let message =
                    format!("{} exports the {kind} {subject} already", account.name.value);
                return Err(Problem::error("adopt-export", message)
                    .at(&export.span, "exported here")
                    .help(
                        "nats-server takes one export of a subject; share a smaller or a larger tree \
                         with --shared, or take this line out and give who imports it a line of \
                         its own",
                    ));
            }
        }
        Ok(())
    }

    /// The admin of the buckets becomes the first of the users.
    fn admin(
        &mut self,
        map: &Map,
        file: &str,
        lines: &mut Vec<String>,
        defaults: bool,
    ) -> Result<(), Problem> {
        match map.get("users") {
            Some(users) => {
                let span = place(&users.value, "`users`")?;
                let admin = self.generated.admin(span.file().name(), defaults);
                self.edits.first(&span, &[admin]);
            }
            None => lines.push(format!("users: [ {} ]", self.generated.admin(file, defaults))),
        }
        Ok(())
    }

    /// `authorization` becomes the account of state: its users stay where they are written.
    fn global(&mut self, entry: &Entry, map: &Map, gone: &BTreeSet<String>) -> Result<(), Problem> {
        let Some((file, whole)) = range(entry) else { return Ok(()) };
        let opened = entry.value.span.range().start;
        let closed = whole.end.saturating_sub(1)..whole.end;
        let single = map.get("users").is_none();
        let empty = self.situation().single().is_some_and(|user| gone.contains(&user));
        for setting in map.entries() {
            let Some((file, range)) = range(setting) else { continue };
            match setting.key.value.to_ascii_lowercase().as_str() {
                "timeout" => self.edits.remove(&file, range),
                _ if empty => self.edits.remove(&file, range),
                "permissions" | "permission" | "authorization" if !single => {
                    let key = setting.key.span.range();
                    self.edits.replace(&file, key, "default_permissions");
                }
                "default_permissions" if single => {
                    let key = setting.key.span.range();
                    self.edits.replace(&file, key, "permissions");
                }
                _ => {}
            }
        }
        let mut lines = vec![
            "jetstream: enabled".to_owned(),
            format!("exports: {}", self.generated.reference(&file, "EXPORTS")),
        ];
        let has = |name: &str| map.get(name).is_some();
        let defaults = has("default_permissions") || has("permissions") || has("permission");
        if empty {
            lines.push(format!("users: [ {} ]", self.generated.admin(&file, false)));
        } else if single {
            lines.push(format!("users: [\n  {}\n  {{", self.generated.admin(&file, false)));
        } else {
            self.admin(map, &file, &mut lines, defaults)?;
        }
        let end = if single && !empty { "} ] }" } else { "}" };
        let beside = self.situation().accounts().is_some();
        let indent = self.edits.indent(&file, whole.start);
        let head = if beside {
            format!("{} {{", variable("STATE"))
        } else {
            let mut head = "accounts {".to_owned();
            for line in self.generated.accounts(&file) {
                head =
                    format!("{head}\n{indent}  {}", line.replace('\n', &format!("\n{indent}  ")));
            }
            format!("{head}\n{indent}  {} {{", self.situation().state)
        };
        let end = if beside { end.to_owned() } else { format!("  {end}\n{indent}}}") };
        self.edits.behind(&file, whole.start..opened.saturating_add(1), &head, &lines);
        self.edits.replace(&file, closed, end);
        Ok(())
    }

    /// solewriter's accounts in the file's own map of accounts.
    fn accounts(&mut self) -> Result<(), Problem> {
        let Some((entry, _)) = self.situation().accounts() else { return Ok(()) };
        let span = place(&entry.value, "`accounts`")?;
        let mut lines = self.generated.accounts(span.file().name());
        if matches!(self.situation().home, Home::Global(..)) {
            lines.push(format!("{}: ${}", self.situation().state, variable("STATE")));
        }
        self.edits.first(&span, &lines);
        Ok(())
    }

    /// What MONITOR sees of the servers.
    fn system(&mut self) -> Result<(), Problem> {
        let Some((entry, map)) = self.situation().system_account() else { return Ok(()) };
        if let Some(exports) = map.get("exports") {
            let span = place(&exports.value, "`exports`")?;
            self.edits.first(&span, &system_exports());
        } else {
            let span = place(&entry.value, "the account")?;
            let line = format!("exports: {}", self.reference(&span, "SYSTEM"));
            self.edits.first(&span, &[line]);
        }
        Ok(())
    }

    /// The callout, where the file has an `authorization` of its own that stays one.
    fn callout(&mut self) -> Result<(), Problem> {
        let Some((entry, _)) = self.situation().authorization() else { return Ok(()) };
        if matches!(self.situation().home, Home::Global(..)) {
            return Ok(());
        }
        let span = place(&entry.value, "`authorization`")?;
        let line = format!("auth_callout: {}", self.reference(&span, "CALLOUT"));
        self.edits.first(&span, &[line]);
        Ok(())
    }

    /// What the account of state imports, the new account imports, too: where only some accounts may,
    /// it becomes one of them.
    fn imported_too(&mut self) {
        let situation = self.generated.situation;
        // A list that is a variable of two exports is written once.
        let mut places = BTreeSet::new();
        for export in situation.restricted() {
            let Some(Spanned { span, .. }) = export.accounts.first() else { continue };
            let (file, at) = (span.file().name(), span.range().start);
            if places.insert((file, at)) {
                self.edits.replace(file, at..at, format!("{}, ", situation.services));
            }
        }
    }

    /// Whom a client without a login was is gone, too.
    fn anonymous(&mut self, gone: &BTreeSet<String>) {
        let root = &self.situation().current.tree.root;
        let inner = ["websocket", "ws", "mqtt"].into_iter().filter_map(|name| root.get(name));
        let inner = inner.filter_map(|entry| match &entry.value.value {
            Value::Map(map) => map.get("no_auth_user"),
            _ => None,
        });
        let entries: Vec<&Entry> = root.get("no_auth_user").into_iter().chain(inner).collect();
        let mut removed = Vec::new();
        for entry in entries {
            let Value::String(user) = &entry.value.value else { continue };
            if gone.contains(user) {
                removed.extend(range(entry));
            }
        }
        for (file, range) in removed {
            self.edits.remove(&file, range);
        }
    }
}
