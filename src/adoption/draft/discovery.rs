//! Who is found under which name, and who looks for whom.

use std::collections::{BTreeMap, BTreeSet};

use super::case::{Case, Deeds, names, services};
use super::page::Item;
use crate::adoption::evidence::fact::Fact;
use solewriter_core::policy::model::FoundName;

/// Gives names to those who are found, and to those who look for them.
pub fn decide(case: &mut Case<'_>) {
    let found = case.deeds(|fact| matches!(fact, Fact::Found(_)));
    let mut alike: BTreeMap<String, Vec<(FoundName, &Deeds<'_>)>> = BTreeMap::new();
    for deeds in &found {
        let Fact::Found(name) = deeds.fact else { continue };
        match FoundName::parse(name) {
            Ok(name) => alike.entry(name.looks()).or_default().push((name, deeds)),
            Err(why) => case.refuse(deeds, why),
        }
    }
    let mut known: BTreeSet<String> = BTreeSet::new();
    for group in alike.values() {
        let who: Vec<&Deeds<'_>> = group.iter().map(|(_, deeds)| *deeds).collect();
        if services(&who) == 1 {
            for (name, deeds) in group.iter().filter(|(_, deeds)| deeds.is_known()) {
                known.insert(name.to_string());
                let facts = vec![deeds.fact.clone(), Fact::FoundByAll];
                let note = deeds.record.tally.to_string();
                case.grant(deeds.service, Item::element("found_as", name.as_str(), note, facts));
            }
            continue;
        }
        let Some((name, _)) = group.first() else { continue };
        let choices = group
            .iter()
            .filter(|(_, deeds)| deeds.is_known())
            .map(|(name, d)| format!("in [service.{}]: found_as = [\"{name}\"]", d.service))
            .collect();
        let question = format!("who is found as {name}? These are: {}", names(&who));
        case.ask(question, &who, choices);
    }
    for deeds in case.deeds(|fact| matches!(fact, Fact::Finds(_) | Fact::FindsAll)) {
        let name = match deeds.fact {
            Fact::Finds(name) if known.contains(name) => name,
            Fact::FindsAll => "*",
            _ => {
                case.refuse(&deeds, "no service of the draft is found under that name");
                continue;
            }
        };
        let note = deeds.record.tally.to_string();
        let item = Item::element("discovers", name, note, vec![deeds.fact.clone()]);
        case.grant(deeds.service, item);
    }
}
