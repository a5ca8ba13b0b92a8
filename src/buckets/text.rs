//! A plan for people.

use std::fmt::{self, Write as _};

use super::compare::shown;
use super::{Action, BucketPlan, Change, Class, Elsewhere, Kind, Left, Other, OtherConsumer, Plan};

impl fmt::Display for Plan {
    /// Every difference, a line each; what agrees in one line for each kind.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for bucket in self.all().filter(|bucket| bucket.action != Action::Keep) {
            writeln!(f, "{bucket}")?;
        }
        for other in self.others.iter().filter(|other| other.danger.is_some()) {
            writeln!(f, "{other}\n")?;
        }
        let names = |list: Vec<&str>| list.join(", ");
        for (what, plans) in [
            ("", &self.buckets),
            ("streams ", &self.declared_streams),
            ("object stores ", &self.stores),
            ("consumers ", &self.consumers),
        ] {
            let kept = plans.iter().filter(|plan| plan.action == Action::Keep);
            let agree: Vec<String> = kept.map(BucketPlan::title).collect();
            if !agree.is_empty() {
                writeln!(f, "{what}as declared: {}", agree.join(", "))?;
            }
        }
        let elsewhere: Vec<String> = self.elsewhere.iter().map(Elsewhere::title).collect();
        if !elsewhere.is_empty() {
            writeln!(f, "in other JetStream domains, not looked at: {}", elsewhere.join(", "))?;
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
        let stores: Vec<&str> =
            self.others.iter().filter_map(|other| other.store.as_deref()).collect();
        if !stores.is_empty() {
            writeln!(
                f,
                "object stores that are not declared, left as they are: {}",
                names(stores)
            )?;
        }
        let streams: Vec<&str> = self
            .others
            .iter()
            .filter(|o| o.bucket.is_none() && o.store.is_none() && o.danger.is_none())
            .map(|other| other.stream.as_str())
            .collect();
        if !streams.is_empty() {
            writeln!(f, "streams that are not declared, left as they are: {}", names(streams))?;
        }
        let left: Vec<String> = self
            .left_to_services
            .iter()
            .map(|Left { stream, consumer, there }| {
                let there = if *there { "" } else { " (not there yet)" };
                format!("{stream}/{consumer}{there}")
            })
            .collect();
        if !left.is_empty() {
            writeln!(
                f,
                "consumers that their services make, left as they are: {}",
                left.join(", ")
            )?;
        }
        let consumers: Vec<String> = self
            .other_consumers
            .iter()
            .map(|other| format!("{}/{}", other.stream, other.consumer))
            .collect();
        if !consumers.is_empty() {
            writeln!(
                f,
                "consumers that are not declared, left as they are: {} (declare each as \
                 [stream.NAME.consumer.NAME], or delete it)",
                consumers.join(", ")
            )?;
        }
        for other in self.other_consumers.iter().filter(|other| !other.replayers.is_empty()) {
            let OtherConsumer { stream, consumer, replayers } = other;
            writeln!(
                f,
                "  ! {stream}/{consumer} can be changed, used and deleted by who replays \
                 {stream}: {}",
                replayers.join(", ")
            )?;
        }
        if self.declared().next().is_none() {
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
        let kind = match self.kind {
            Kind::Store => "object store",
            kind => kind.as_str(),
        };
        writeln!(f, "{kind} {} ({}) {what}", self.title(), self.declared_at)?;
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
            let how = match self.kind {
                Kind::Consumer => {
                    "delete it, and apply. Its position is lost: it begins where `deliver` says"
                }
                Kind::Bucket | Kind::Stream | Kind::Store => {
                    "stop its owners, back it up, delete it, apply, restore"
                }
            };
            writeln!(f, "    create it again: {how}")?;
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
