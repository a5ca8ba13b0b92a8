//! What `solewriter prove` says in the end, for people and for programs.

use std::fmt::Write as _;

use serde::Serialize;

use super::{Attack, Ending, Expected, Report};
use solewriter_types::clean;

/// The whole of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Verdict {
    /// No attack succeeded that must not.
    Proven,
    /// At least one did.
    Broken,
    /// None did, but some could not be judged.
    Unknown,
}

/// What is known of one attack.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Outcome {
    /// It failed.
    Held,
    /// It worked, and must not.
    Succeeded,
    /// It worked, and is known to.
    Known,
    /// The deployment lacks what it needs.
    Skipped,
    /// Nothing can be said.
    Unknown,
}

/// One attack of the verdict.
#[derive(Clone, Debug, Serialize)]
pub struct Tried {
    /// Its name in the table.
    pub id: &'static str,
    /// What it does.
    pub title: &'static str,
    /// What is known of it.
    pub outcome: Outcome,
    /// How it ended: `refused`, `rejected`, `no effect`, `succeeds`.
    pub ending: Option<&'static str>,
    /// What was seen.
    pub evidence: String,
}

/// A server that was seen.
#[derive(Clone, Debug, Serialize)]
pub struct Seen {
    /// Its address.
    pub address: String,
    /// Its name.
    pub name: String,
    /// Its version.
    pub version: String,
    /// Its id.
    pub id: String,
}

/// Everything about one run.
#[derive(Clone, Debug, Serialize)]
pub struct Proof {
    /// The whole of it.
    pub verdict: Verdict,
    /// When it began, RFC 3339.
    pub when: String,
    /// The version of solewriter.
    pub solewriter: &'static str,
    /// The servers that the settings name.
    pub servers: Vec<Seen>,
    /// The account that services are placed in.
    pub services_in: String,
    /// The account that holds the buckets, as the admin's user sees it.
    pub buckets_in: String,
    /// The two probers: name and public key.
    pub probers: Vec<(String, String)>,
    /// Every attack, in the table's order.
    pub attacks: Vec<Tried>,
}

impl Tried {
    /// What a report says of an attack.
    #[must_use]
    pub fn of(attack: &Attack, report: &Report) -> Self {
        let closed = matches!(attack.expected, Expected::Closed { .. });
        let outcome = match report.ending {
            Ending::Succeeded if closed => Outcome::Succeeded,
            Ending::Succeeded => Outcome::Known,
            _ => Outcome::Held,
        };
        Self {
            id: attack.id,
            title: attack.title,
            outcome,
            ending: Some(report.ending.word()),
            evidence: one_line(&report.evidence),
        }
    }

    /// Nothing can be said of an attack.
    #[must_use]
    pub fn unknown(attack: &Attack, why: &str) -> Self {
        Self::not_ended(attack, Outcome::Unknown, why)
    }

    /// An attack was not tried.
    #[must_use]
    pub fn skipped(attack: &Attack, why: &str) -> Self {
        Self::not_ended(attack, Outcome::Skipped, why)
    }

    fn not_ended(attack: &Attack, outcome: Outcome, why: &str) -> Self {
        let Attack { id, title, .. } = attack;
        Self { id, title, outcome, ending: None, evidence: one_line(why) }
    }
}

/// What servers said, as one line that cannot pass for output of ours.
fn one_line(text: &str) -> String {
    clean::line(text).into_owned()
}

/// The verdict on these attacks. What was skipped does not count.
#[must_use]
pub fn judge(attacks: &[Tried]) -> Verdict {
    let any = |outcome| attacks.iter().any(|tried| tried.outcome == outcome);
    if any(Outcome::Succeeded) {
        Verdict::Broken
    } else if attacks.iter().all(|t| t.outcome == Outcome::Skipped) || any(Outcome::Unknown) {
        Verdict::Unknown
    } else {
        Verdict::Proven
    }
}

impl Proof {
    /// For people, with a digest of all of it in the last line.
    #[must_use]
    pub fn text(&self) -> String {
        let number = |outcome| self.attacks.iter().filter(|t| t.outcome == outcome).count();
        let verdict = match self.verdict {
            Verdict::Proven => "PROVEN: no attack succeeded",
            Verdict::Broken => "BROKEN: attacks succeeded that must not",
            Verdict::Unknown => "NOT PROVEN: some attacks could not be judged",
        };
        let skipped = match number(Outcome::Skipped) {
            0 => String::new(),
            skipped => format!("; {skipped} were skipped"),
        };
        let mut text = format!(
            "One keyspace, one writer\n\nverdict      {verdict}{skipped}\nwhen         {}\n\
             solewriter   {}\n",
            self.when, self.solewriter
        );
        for server in &self.servers {
            let Seen { address, name, version, id } = server;
            let _ = writeln!(text, "server       {version} {name} {id} at {address}");
        }
        let _ = writeln!(text, "services in  {}", self.services_in);
        let _ = writeln!(text, "buckets in   {}", self.buckets_in);
        for (name, key) in &self.probers {
            let _ = writeln!(text, "prober       {name} {key}");
        }
        let _ = writeln!(
            text,
            "attacks      {} tried: {} held, {} succeeded, {} could not be judged\n",
            self.attacks.len() - number(Outcome::Skipped),
            number(Outcome::Held) + number(Outcome::Known),
            number(Outcome::Succeeded),
            number(Outcome::Unknown)
        );
        for tried in &self.attacks {
            let word = match tried.outcome {
                Outcome::Held => "held",
                Outcome::Succeeded => "SUCCEEDED",
                Outcome::Known => "known",
                Outcome::Skipped => "skipped",
                Outcome::Unknown => "UNKNOWN",
            };
            let Tried { id, title, evidence, .. } = tried;
            let _ = writeln!(text, "{word:<10} {id:<26} {title}\n{:38}{evidence}", "");
        }
        let digest = digest(&text);
        let _ = writeln!(text, "digest       {digest}");
        text
    }

    /// For programs: the same, with a digest of the text.
    #[must_use]
    pub fn json(&self) -> String {
        let mut value = serde_json::to_value(self).unwrap_or_default();
        let text = self.text();
        let last = text.lines().last().and_then(|line| line.split_whitespace().last());
        value["digest"] = serde_json::json!(last);
        // Strings, numbers and lists of them always have a JSON form.
        let text = serde_json::to_string_pretty(&value).unwrap_or_default();
        clean::json(&text).into_owned() + "\n"
    }
}

/// SHA-256 of a text, in hex.
fn digest(text: &str) -> String {
    let digest = aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, text.as_bytes());
    format!("sha256:{}", data_encoding::HEXLOWER.encode(digest.as_ref()))
}
