//! Changes as text, JSON and Markdown.

use std::fmt::Write as _;

use serde::Serialize;
use serde::ser::{SerializeStruct, Serializer};
use serde_json::{Value, json};

use crate::cli::common::{RuleView, count, line, said};
use solewriter_core::analysis::diff::{
    DeclaredChange, DeclaredSetting, Diff, Effect, Fate, Right, ServiceChange, SettingChange,
    Transfer,
};
use solewriter_core::policy::model::short;
use solewriter_types::audit_event::About;

/// What is printed: names and revisions of both policies, and the changes.
pub(super) struct DiffView<'a> {
    pub old: (&'a str, &'a str),
    pub new: (&'a str, &'a str),
    pub diff: &'a Diff,
}

impl DiffView<'_> {
    fn summary(&self) -> String {
        let services = &self.diff.services;
        let gains = services.iter().flat_map(ServiceChange::all_gains).count();
        let losses = services.iter().flat_map(ServiceChange::all_losses).count();
        let mut parts = vec![
            count(services.len(), "service changes", "services change"),
            count(gains, "gain", "gains"),
            count(losses, "loss", "losses"),
            count(self.diff.transfers.len(), "transfer", "transfers"),
        ];
        let declared = self.diff.declared.len();
        if declared > 0 {
            parts.push(count(declared, "declaration changes", "declarations change"));
        }
        parts.join(", ")
    }
}

fn setting(change: &SettingChange) -> String {
    line(&change.to_string())
}

fn sign(effect: Effect) -> &'static str {
    match effect {
        Effect::Gain => "+",
        Effect::Loss => "-",
        Effect::Both => "~",
    }
}

fn fate_sign(fate: Fate) -> &'static str {
    match fate {
        Fate::Added => "+",
        Fate::Removed => "-",
        Fate::Changed => "~",
    }
}

/// Whether a service is new or gone, in words to put behind its name.
fn fate(change: &ServiceChange) -> &'static str {
    match change.fate {
        Fate::Added => " (new)",
        Fate::Removed => " (removed)",
        Fate::Changed => "",
    }
}

/// For people.
pub(super) fn text(view: &DiffView<'_>) -> String {
    let ((old, old_revision), (new, new_revision)) = (view.old, view.new);
    let (old_revision, new_revision) = (short(old_revision), short(new_revision));
    let mut text = format!("{old} ({old_revision}) -> {new} ({new_revision})\n\n");
    if view.diff.is_empty() {
        return text + "no service gains or loses anything\n";
    }
    if !view.diff.transfers.is_empty() {
        text += "ownership transferred\n";
    }
    for Transfer { moved, from, from_rule, to, to_rule } in &view.diff.transfers {
        let _ = writeln!(text, "  {moved}: {from} -> {to}");
        let _ = writeln!(text, "      was: {from} {}", said(from_rule));
        let _ = writeln!(text, "      now: {to} {}", said(to_rule));
    }
    if !view.diff.transfers.is_empty() {
        text.push('\n');
    }
    if !view.diff.declared.is_empty() {
        text += "declared\n";
        for change in &view.diff.declared {
            let _ = writeln!(text, "  {} {}", fate_sign(change.fate), line(&change.to_string()));
        }
        text.push('\n');
    }
    for change in &view.diff.services {
        let _ = writeln!(text, "{}{}", change.service, fate(change));
        for one in &change.settings {
            let _ = writeln!(text, "  {} {}", sign(one.effect), setting(one));
        }
        for (sign, rights) in [("+", &change.gains), ("-", &change.loses)] {
            for one in rights {
                let _ = writeln!(text, "  {sign} {}: {}", one.said(sign == "+"), said(&one.rule));
            }
        }
        text.push('\n');
    }
    text + &view.summary() + "\n"
}

/// Text that Markdown shows as it is, in a table too.
fn code(text: &str) -> String {
    let text = line(text).replace('|', "\\|");
    if !text.contains('`') {
        return format!("`{text}`");
    }
    let mut fence = "``".to_owned();
    while text.contains(&fence) {
        fence.push('`');
    }
    format!("{fence} {text} {fence}")
}

/// For pull requests.
pub(super) fn markdown(view: &DiffView<'_>) -> String {
    let ((_, old), (_, new)) = (view.old, view.new);
    let mut text = format!("### Policy {} → {}\n\n", code(short(old)), code(short(new)));
    if view.diff.is_empty() {
        return text + "No service gains or loses anything.\n";
    }
    let _ = writeln!(text, "{}.", view.summary());
    if !view.diff.transfers.is_empty() {
        text += "\n**Ownership transferred**\n\n| what | from | to |\n| --- | --- | --- |\n";
    }
    for Transfer { moved, from, from_rule, to, to_rule } in &view.diff.transfers {
        let (was, now) = (code(&said(from_rule)), code(&said(to_rule)));
        let moved = code(&moved.to_string());
        let _ = writeln!(text, "| {moved} | **{from}**: {was} | **{to}**: {now} |");
    }
    if !view.diff.declared.is_empty() {
        text += "\n**Declared**\n\n| what |\n| --- |\n";
    }
    for change in &view.diff.declared {
        let _ = writeln!(text, "| {} |", code(&change.to_string()));
    }
    for change in &view.diff.services {
        let _ = writeln!(text, "\n**{}**{}\n", change.service, fate(change));
        if change.settings.is_empty() && change.gains.is_empty() && change.loses.is_empty() {
            text += "Has no keys and no rights.\n";
            continue;
        }
        text += "| | what | rule |\n| --- | --- | --- |\n";
        let word = |effect: Effect| match effect {
            Effect::Gain => "gains",
            Effect::Loss => "**loses**",
            Effect::Both => "**changes**",
        };
        for one in &change.settings {
            let _ = writeln!(text, "| {} | {} | |", word(one.effect), code(&setting(one)));
        }
        for (effect, rights) in [(Effect::Gain, &change.gains), (Effect::Loss, &change.loses)] {
            for one in rights {
                let what = code(&one.said(effect == Effect::Gain));
                let rule = code(&said(&one.rule));
                let _ = writeln!(text, "| {} | {what} | {rule} |", word(effect));
            }
        }
    }
    text
}

fn rights(list: &[Right]) -> Vec<Value> {
    list.iter()
        .map(|right| {
            let Right { verb, target, rule, in_part } = right;
            json!({
                "verb": verb.as_str(), "target": target, "in_part": in_part,
                "rule": RuleView::new(rule),
            })
        })
        .collect()
}

#[derive(Serialize)]
struct TransferView<'a> {
    #[serde(flatten)]
    about: About,
    #[serde(skip_serializing_if = "Option::is_none")]
    subject: Option<String>,
    from: EndView<'a>,
    to: EndView<'a>,
}

#[derive(Serialize)]
struct EndView<'a> {
    service: &'a str,
    rule: RuleView,
}

impl<'a> TransferView<'a> {
    fn new(transfer: &'a Transfer) -> Self {
        let Transfer { moved, from, from_rule, to, to_rule } = transfer;
        let (about, subject) = moved.about();
        let end = |service: &'a str, rule| EndView { service, rule: RuleView::new(rule) };
        Self { about, subject, from: end(from, from_rule), to: end(to, to_rule) }
    }
}

impl Serialize for DiffView<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let end = |(name, revision): (&str, &str)| json!({"name": name, "revision": revision});
        let declared = |change: &DeclaredChange| {
            let DeclaredChange { kind, name, fate, settings } = change;
            let setting = |DeclaredSetting { setting, old, new }: &DeclaredSetting| json!({"setting": setting, "old": old, "new": new});
            json!({
                "kind": kind, "name": name, "fate": fate.as_str(),
                "settings": settings.iter().map(setting).collect::<Vec<_>>(),
            })
        };
        let setting = |change: &SettingChange| {
            let SettingChange { setting, old, new, effect, note } = change;
            json!({
                "setting": setting, "old": old, "new": new,
                "effect": effect.as_str(), "note": note,
            })
        };
        let service = |change: &ServiceChange| {
            let ServiceChange { service, fate, gains, loses, settings } = change;
            json!({
                "service": service.as_ref(),
                "fate": fate.as_str(),
                "gains": rights(gains),
                "loses": rights(loses),
                "settings": settings.iter().map(setting).collect::<Vec<_>>(),
            })
        };
        let Diff { transfers, declared: declarations, services } = self.diff;
        let mut fields = serializer.serialize_struct("Diff", 5)?;
        fields.serialize_field("old", &end(self.old))?;
        fields.serialize_field("new", &end(self.new))?;
        fields.serialize_field(
            "transfers",
            &transfers.iter().map(TransferView::new).collect::<Vec<_>>(),
        )?;
        let declarations: Vec<Value> = declarations.iter().map(declared).collect();
        fields.serialize_field("declared", &declarations)?;
        fields.serialize_field("services", &services.iter().map(service).collect::<Vec<_>>())?;
        fields.end()
    }
}
