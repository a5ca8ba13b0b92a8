//! The page of the documentation that the suite renders: every attack and what came of it.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use super::{Attack, Control, Ending, Expected, Family};
use crate::prove::target::Target;
use crate::prove::testbed::line;
use solewriter_types::clean;

/// What came of each attack at one place, by its id; `None` where the server has nothing of the
/// kind.
pub type Column = BTreeMap<&'static str, Option<Ending>>;

const HEAD: &str = "\
# Attacks

What identities with ordinary grants tried, on real servers, and what came of it. `cargo test --test
attacks` runs all of it and compares this page with what it saw; nothing here is written by hand.

Each attack is first run where it must work: *where it works* says what is different there. Only then
is it run against a deployment as `solewriter init` writes it, with the same lines on the wire. What
counts is the effect: what the victim's bucket or stream holds, what arrived where, what is still there.

| word | what came of it |
| --- | --- |
| refused | nats-server refused the client: a permissions violation, or no connection |
| rejected | JetStream answered with an error |
| no effect | it was taken, and nothing came of it |
| **succeeds** | it worked: a risk that remains, or one that is meant, with what to do about it |
| – | this version has nothing of the kind |

In the lines, `{mine}` is the attacker's bucket and `{victim}` the one under attack; streams and
object stores have the same names behind a word that says what they are. `{me}` and `{them}` are the
two services, `{plain}` and `{deputy}` the subjects of two responders: one that
owns nothing, and the victim itself. A second subject in a `PUB` is the reply subject; headers are
in brackets.

| who | has |
| --- | --- |
| neighbour | a bucket and a stream with a consumer of its own, events that it publishes, responders that it calls; nothing of the victim's |
| reader | the same, and `reads` the victim's bucket and object store |
| part reader | the same, and `reads` the keys below `open` in it, and `*.shown`; it `replays` what is below `open` in the victim's stream |
| part owner | the same, and `owns` the keys below `mine` in a bucket whose keys below `theirs` are the victim's; it publishes what is below `mine` in a stream likewise, has an object store of its own, and is found under a name of its own |
| no rules | a service without rules |
| stranger | no key of any service, or not the one that it claims |
";

/// The whole page. Columns are named after the places they were seen at: `2.15.1`,
/// `2.15.1-cluster`.
#[must_use]
pub fn render(families: &[Family], columns: &[(String, Column)]) -> String {
    let mut page = HEAD.to_owned();
    page += "\n## What remains\n\n";
    page += &residuals(families);
    for family in families {
        page += &section(family, columns);
    }
    page
}

fn residuals(families: &[Family]) -> String {
    let mut text = String::new();
    let mut groups: Vec<(String, Vec<&Attack>)> = Vec::new();
    for attack in families.iter().flat_map(|family| &family.attacks) {
        let mut told = Vec::new();
        if let Some(defect) = attack.defect {
            let lines: Vec<String> = defect
                .ranges()
                .map(|(from, fixed)| format!("{from} up to before {fixed}"))
                .collect();
            let (reason, mitigation) =
                defect.opens.map_or((defect.title, ""), |o| (o.reason, o.mitigation));
            let (lines, mitigation) = (lines.join(" and "), capital(mitigation));
            told.push(format!(
                "On nats-server {lines} ({}): {}. *{mitigation}.*",
                defect.name, reason
            ));
        }
        match attack.expected {
            Expected::Residual { reason, mitigation } => {
                told.push(format!("{}. *{}.*", capital(reason), capital(mitigation)));
            }
            Expected::Known { reason } => told.push(format!("Meant so: {reason}.")),
            Expected::Closed { .. } => {}
        }
        for why in told {
            match groups.iter_mut().find(|(other, _)| *other == why) {
                Some((_, attacks)) => attacks.push(attack),
                None => groups.push((why, vec![attack])),
            }
        }
    }
    for (why, attacks) in groups {
        for attack in &attacks {
            let _ = writeln!(text, "- **{}** (`{}`)", attack.title, attack.id);
        }
        let _ = writeln!(text, "\n  {why}\n");
    }
    text.trim_end().to_owned() + "\n"
}

fn capital(text: &str) -> String {
    let mut chars = text.chars();
    chars.next().map_or_else(String::new, |first| first.to_uppercase().to_string() + chars.as_str())
}

fn section(family: &Family, columns: &[(String, Column)]) -> String {
    let mut text = format!("\n## {}\n\n{}\n\n", family.title, family.about);
    text += "| attack | who | lines | what comes of it | why | where it works |\n";
    text += "| --- | --- | --- | --- | --- | --- |\n";
    for attack in &family.attacks {
        let lines: Vec<String> = attack.steps.iter().map(|step| code(&line(step))).collect();
        let _ = writeln!(
            text,
            "| {} `{}` | {} | {} | {} | {} | {} |",
            cell(attack.title),
            attack.id,
            attack.who.words(),
            lines.join("<br>"),
            outcome(attack, columns),
            cell(why(attack)),
            cell(&control(attack)),
        );
    }
    text
}

fn why(attack: &Attack) -> &'static str {
    match attack.expected {
        Expected::Closed { why, .. } => why,
        Expected::Residual { .. } => "see above",
        Expected::Known { .. } => "meant, see above",
    }
}

/// What was seen, once where it is the same everywhere.
fn outcome(attack: &Attack, columns: &[(String, Column)]) -> String {
    let mut groups: Vec<(String, Vec<&str>)> = Vec::new();
    for (place, column) in columns {
        let Some(seen) = column.get(attack.id) else { continue };
        let word = match seen {
            None => "–".to_owned(),
            Some(Ending::Succeeded) => format!("**{}**", Ending::Succeeded.word()),
            Some(ending) => ending.word().to_owned(),
        };
        match groups.iter_mut().find(|(other, _)| *other == word) {
            Some((_, places)) => places.push(place),
            None => groups.push((word, vec![place])),
        }
    }
    match groups.as_slice() {
        [] => "not run".to_owned(),
        [(word, _)] => word.clone(),
        groups => {
            let shown: Vec<String> = groups
                .iter()
                .map(|(word, places)| format!("{word} ({})", places.join(", ")))
                .collect();
            shown.join("<br>")
        }
    }
}

fn control(attack: &Attack) -> String {
    let list =
        |subjects: &[String]| subjects.iter().map(|s| code(s)).collect::<Vec<_>>().join(", ");
    let granted = |publish: &[String], subscribe: &[String]| {
        let mut said = Vec::new();
        if !publish.is_empty() {
            said.push(format!("once it may publish {}", list(publish)));
        }
        if !subscribe.is_empty() {
            said.push(format!("once it may subscribe to {}", list(subscribe)));
        }
        said.join(" and ")
    };
    let (major, minor) = attack.since;
    let from =
        if attack.since > (2, 10) { format!("; from {major}.{minor} on") } else { String::new() };
    let said = match &attack.control {
        Control::OneAccount => "with services and buckets in one account".to_owned(),
        Control::Granted(publish, subscribe) => granted(publish, subscribe),
        Control::OneAccountGranted(publish, subscribe) => {
            format!("in one account, {}", granted(publish, subscribe))
        }
        Control::Bucket(settings) => {
            let what = match attack.target {
                Target::Bucket => "bucket",
                Target::Store => "store",
                Target::Stream | Target::WorkQueue | Target::Shared => "stream",
            };
            format!("in a {what} with {}", code(&settings.to_string()))
        }
        Control::AllowResponses => "where the responder has `allow_responses`".to_owned(),
        Control::OwnInbox => "with its own inbox as the reply subject".to_owned(),
        Control::Admin => "for the admin".to_owned(),
        Control::Instead(step, _) => format!("as {}, once that is granted", code(&line(step))),
        Control::Here => "here".to_owned(),
        Control::Nowhere => "nowhere that is known".to_owned(),
        Control::Told(text) => (*text).to_owned(),
    };
    said + &from
}

/// Text in a table: a bar would end the cell.
fn cell(text: &str) -> String {
    text.replace('|', "\\|")
}

fn code(text: &str) -> String {
    let text = clean::line(text);
    let short: String = text.chars().take(150).collect();
    let more = if short.len() < text.len() { " …" } else { "" };
    cell(&format!("`{}{more}`", short.trim_end()))
}
