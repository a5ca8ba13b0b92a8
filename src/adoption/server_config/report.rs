//! What was read and found, as a text for people. Every line of it can be checked: it says where.

use std::fmt::Write as _;

use solewriter_core::diagnostics::Span;
use solewriter_types::clean;

use super::accounts::{Account, Config};
use super::findings::Finding;
use super::permissions::{Allowed, rights};

/// So many users of a finding are shown.
const SHOWN: usize = 12;

/// `file:line`.
pub(crate) fn place(span: &Span) -> String {
    format!("{}:{}", span.file().name(), span.line_column().0)
}

/// The whole report: what each account has, what each user may do, and the findings.
#[must_use]
pub fn report(config: &Config, findings: &[Finding]) -> String {
    let mut text = String::new();
    for account in &config.accounts {
        describe(&mut text, config, account);
    }
    if !findings.is_empty() {
        text.push_str("What to know\n\n");
    }
    for finding in findings {
        let _ = writeln!(
            text,
            "- {} [{}] {}",
            place(&finding.span),
            finding.kind.code(),
            finding.message
        );
        for whom in finding.whom.iter().take(SHOWN) {
            let _ = writeln!(text, "    {} {}: {}", place(&whom.span), whom.user, whom.by);
        }
        if let Some(more) = finding.whom.len().checked_sub(SHOWN).filter(|more| *more > 0) {
            let _ = writeln!(text, "    and {more} more");
        }
        let _ = writeln!(text, "    = {}", finding.help);
    }
    // Names are other people's words.
    clean::lines(&text).into_owned()
}

fn describe(text: &mut String, config: &Config, account: &Account) {
    let name = &account.name.value;
    let mut is = Vec::new();
    if *name == config.system() {
        is.push("the system account");
    }
    if config.has_jetstream(account) {
        is.push("JetStream");
    }
    let is = if is.is_empty() { String::new() } else { format!(" ({})", is.join(", ")) };
    let _ = writeln!(text, "Account {name}{is}, {}", place(&account.span));
    for export in &account.exports {
        let _ = writeln!(text, "  exports {} {}", kind(export.passage), export.subject.value);
    }
    for import in &account.imports {
        let (from, local) = (&import.account.value, import.local());
        let _ = write!(text, "  imports {} {}", kind(import.passage), import.subject.value);
        let _ = write!(text, " of {from}");
        let _ = if local == import.subject.value {
            writeln!(text)
        } else {
            writeln!(text, " as {local}")
        };
    }
    for mapping in &account.mappings {
        let to: Vec<&str> = mapping.to.iter().map(|to| to.value.as_str()).collect();
        let _ = writeln!(text, "  maps {} to {}", mapping.from.value, to.join(", "));
    }
    // Users with the same rights are said once, as of a template.
    let mut groups: Vec<(String, Vec<String>)> = Vec::new();
    for user in &account.users {
        let mut may = String::new();
        let rights = rights(user);
        for allowed in &rights.allowed {
            let _ = writeln!(may, "    {}", line(allowed));
        }
        if rights.responses.is_some() {
            let _ = writeln!(may, "    answer requests, wherever the answer is wanted");
        }
        if !user.connection_types.is_empty() {
            let types: Vec<&str> = user.connection_types.iter().map(|t| t.value.as_str()).collect();
            let _ = writeln!(may, "    only as {}", types.join(", "));
        }
        let head = format!("{} ({}), {}", user.label(), user.login.as_str(), place(&user.span));
        match groups.last_mut() {
            Some((same, heads)) if *same == may => heads.push(head),
            _ => groups.push((may, vec![head])),
        }
    }
    for (may, heads) in groups {
        for head in heads.iter().take(SHOWN) {
            let _ = writeln!(text, "  {head}");
        }
        if let Some(more) = heads.len().checked_sub(SHOWN).filter(|more| *more > 0) {
            let _ = writeln!(text, "  and {more} more");
        }
        text.push_str(&may);
    }
    text.push('\n');
}

fn kind(passage: super::accounts::Passage) -> &'static str {
    match passage {
        super::accounts::Passage::Stream => "stream",
        super::accounts::Passage::Service => "service",
    }
}

fn line(allowed: &Allowed) -> String {
    let mut line = format!("{} {}", allowed.side.as_str(), allowed.subject.as_str());
    if let Some(queue) = &allowed.queue {
        line += &format!(" in queue {queue}");
    }
    if !allowed.except.is_empty() {
        let except: Vec<&str> = allowed.except.iter().map(|rule| rule.subject.as_str()).collect();
        line += &format!(" without {}", except.join(", "));
    }
    if allowed.by_silence {
        line += " (nothing says otherwise)";
    }
    line
}
