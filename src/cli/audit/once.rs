//! One line for one change of the policy, whichever instances tell of it.

use std::collections::VecDeque;

use serde_json::Value;

/// So many tellings are remembered: those of the last changes, of every instance.
const REMEMBERED: usize = 500;

/// The changes that were shown last.
#[derive(Default)]
pub struct Once {
    told: VecDeque<Telling>,
    left_out: u64,
}

#[derive(PartialEq, Eq)]
struct Telling {
    change: String,
    instance: String,
}

impl Once {
    /// Whether an event of that instance tells something that no other instance has told.
    pub fn is_news(&mut self, instance: &str, event: &Value) -> bool {
        let Some(change) = change(event) else { return true };
        let telling = Telling { change, instance: instance.to_owned() };
        let is_known = self.told.iter().any(|told| told.change == telling.change);
        // The same instance again means another change: back to an earlier policy.
        let again = self.told.contains(&telling);
        if again {
            self.told.retain(|told| told.change != telling.change);
        }
        self.told.push_back(telling);
        if self.told.len() > REMEMBERED {
            self.told.pop_front();
        }
        let is_news = again || !is_known;
        self.left_out += u64::from(!is_news);
        is_news
    }

    /// How many events told nothing new.
    pub fn left_out(&self) -> u64 {
        self.left_out
    }
}

/// What every instance says of the same change, and of no other: the revision with its number in
/// the bucket, or what is wrong with it. `None` of what concerns one instance alone.
fn change(event: &Value) -> Option<String> {
    let data = event.get("data")?;
    let number = data.get("origin").and_then(|origin| origin.get("number"));
    let what = match event.get("type")?.as_str()? {
        // Without a policy before, it is an instance that starts.
        "solewriter.policy.accepted" if data.get("before").is_some() => data.get("revision")?,
        "solewriter.policy.refused" if data.get("revision").is_some() => data.get("faults")?,
        _ => return None,
    };
    Some(format!("{number:?} {what}"))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn accepted(revision: &str, number: Option<u64>) -> Value {
        json!({"type": "solewriter.policy.accepted", "data": {
            "revision": revision, "before": "0", "origin": {"from": "bucket", "number": number}}})
    }

    /// Which of these tellings are shown.
    fn shown(tellings: &[(&str, Value)]) -> Vec<bool> {
        let mut once = Once::default();
        let shown: Vec<bool> =
            tellings.iter().map(|(instance, event)| once.is_news(instance, event)).collect();
        assert_eq!(once.left_out(), shown.iter().filter(|shown| !**shown).count() as u64);
        shown
    }

    #[test]
    fn a_change_is_shown_once_whoever_tells_of_it() {
        let [one, two] = [1, 2].map(|number| accepted("r", Some(number)));
        let late = [("a", &one), ("a", &two), ("b", &one), ("b", &two), ("c", &two)];
        let late = late.map(|(instance, event)| (instance, event.clone()));
        assert_eq!(shown(&late), [true, true, false, false, false]);
        // A folder has no numbers: there, back and there again is three changes.
        let [there, back] = ["s", "r"].map(|revision| accepted(revision, None));
        let all = [&there, &back, &there];
        let all = all.map(|event| ["a", "b"].map(|instance| (instance, event.clone()))).concat();
        assert_eq!(shown(&all), [true, false, true, false, true, false]);
        let refused = |place: &str| {
            json!({"type": "solewriter.policy.refused", "data": {
                "revision": "r", "faults": [{"message": "x"}], "origin": {"place": place}}})
        };
        assert_eq!(shown(&[("a", refused("/a")), ("b", refused("/b"))]), [true, false]);
    }

    #[test]
    fn what_concerns_one_instance_is_always_shown() {
        let start = json!({"type": "solewriter.policy.accepted", "data": {"revision": "r"}});
        let failed = json!({"type": "solewriter.policy.refused", "data": {"faults": []}});
        let closed = json!({"type": "solewriter.session.closed", "data": {"revision": "r"}});
        for event in [start, failed, closed, Value::Null] {
            assert_eq!(shown(&[("a", event.clone()), ("b", event)]), [true, true]);
        }
    }

    #[test]
    fn the_memory_is_bounded() {
        let mut once = Once::default();
        for number in 0..3_000 {
            once.is_news("a", &accepted("r", Some(number)));
        }
        assert_eq!(once.told.len(), REMEMBERED);
    }
}
