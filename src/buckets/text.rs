//! A plan for people.

use std::fmt::{self, Write as _};

use super::compare::shown;
use super::{Action, BucketPlan, Change, Class, Other, Plan};

impl fmt::Display for Plan {
    /// Every difference, a line each; buckets that agree in one line.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for bucket in self.all().filter(|bucket| bucket.action != Action::Keep) {
            writeln!(f, "{bucket}")?;
        }
        for other in self.others.iter().filter(|other| other.danger.is_some()) {
            writeln!(f, "{other}\n")?;
        }
        let names = |list: Vec<&str>| list.join(", ");
        let agree: Vec<&str> = self
            .buckets
            .iter()
            .filter(|bucket| bucket.action == Action::Keep)
            .map(|bucket| bucket.bucket.as_str())
            .collect();
        if !agree.is_empty() {
            writeln!(f, "as declared: {}", names(agree))?;
        }
        let undeclared: Vec<&str> =
            self.others.iter().filter_map(|other| other.bucket.as_deref()).collect();
        if !undeclared.is_empty() {
            writeln!(
                f,
                "not declared, so nobody may use them: {} (declare each as [bucket.NAME], or delete it)",
                names(undeclared)
            )?;
        }
        if self.buckets.is_empty() {
            writeln!(f, "the policy declares no bucket")?;
        }
        Ok(())
    }
}

impl fmt::Display for BucketPlan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let what = match self.action {
            Action::Keep => "is as declared",
            Action::Create => "will be created",
            Action::Update => "will be updated",
            Action::Recreate => "cannot be changed to what is declared",
        };
        let kind = if self.stream == self.bucket { "stream" } else { "bucket" };
        writeln!(f, "{kind} {} ({}) {what}", self.bucket, self.declared_at)?;
        let lines: Vec<(String, String, &Change)> = self
            .changes
            .iter()
            .map(|change| {
                let name = change.word.map_or_else(|| change.field.clone(), ToOwned::to_owned);
                let declared = shown(&change.field, &change.declared);
                let value = match &change.now {
                    None => declared,
                    Some(now) => format!("{} -> {declared}", shown(&change.field, now)),
                };
                (name, value, change)
            })
            .collect();
        let width = lines.iter().map(|(name, ..)| name.len()).max().unwrap_or_default();
        for (name, value, change) in lines {
            let mark = match change.class {
                _ if change.now.is_none() => '+',
                Class::Safe => '~',
                Class::LosesData | Class::Recreate => '!',
                Class::Unknown => '?',
            };
            let mut line = format!("  {mark} {name:width$}  {value}");
            let note = match change.class {
                Class::Safe => None,
                Class::LosesData => Some("LOSES DATA"),
                Class::Recreate => Some("CANNOT BE CHANGED"),
                Class::Unknown => Some("UNKNOWN, left as it is"),
            };
            for words in [note, change.why.as_deref()].into_iter().flatten() {
                let _ = write!(line, "  {words}");
            }
            writeln!(f, "{line}")?;
        }
        if self.action == Action::Recreate
            && self.changes.iter().any(|c| c.class == Class::Recreate)
        {
            writeln!(
                f,
                "    create it again: stop its owners, back it up, delete it, apply, restore"
            )?;
        }
        Ok(())
    }
}

impl fmt::Display for Other {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "stream {} is not a declared bucket", self.stream)?;
        if let Some(danger) = &self.danger {
            write!(f, "\n  ! DANGER  {danger}\n    delete the stream, or remove that setting")?;
        }
        Ok(())
    }
}
