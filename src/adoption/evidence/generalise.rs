//! From subjects that were seen to patterns for a policy.

use std::collections::BTreeMap;

use clap::ValueEnum;

use solewriter_types::subject::Pattern;

use super::names::is_id;
use super::tally::Tally;
use super::tokens::{Node, Tokens};

/// From how many ids on in one place `*` stands for them.
const SOME_IDS: usize = 3;

/// From how many words on in one place, with the same around them, `*` stands for them.
const MANY_WORDS: usize = 20;

/// From how many different lengths on `>` stands for what follows.
const MANY_LENGTHS: usize = 3;

/// How far what was seen is taken to stand for what was not.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, ValueEnum)]
pub enum Level {
    /// Only what was seen.
    None,
    /// `*` for ids, and for many words with the same around them.
    #[default]
    Careful,
    /// The same, and `>` for tails that differ.
    Wide,
}

/// A pattern, and what was seen of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Seen {
    /// The pattern, as a policy writes it.
    pub pattern: String,
    /// What was seen.
    pub tally: Tally,
}

impl Tokens {
    /// The patterns of all subjects that were taken, in order. None is part of another, unless the
    /// level is [`Level::None`].
    #[must_use]
    pub fn patterns(&self, level: Level) -> Vec<Seen> {
        let mut all = spread(&self.root, self.fixed, level);
        if level == Level::Wide {
            all = widened(all, self.fixed);
        }
        all.sort_by(|a, b| a.pattern.cmp(&b.pattern));
        if level == Level::None { all } else { reduced(all) }
    }
}

fn joined(token: &str, rest: Seen) -> Seen {
    let pattern = if rest.pattern.is_empty() {
        token.to_owned()
    } else {
        format!("{token}.{}", rest.pattern)
    };
    Seen { pattern, tally: rest.tally }
}

/// The patterns below a place. An empty one stands for the place itself.
fn spread(node: &Node, fixed: usize, level: Level) -> Vec<Seen> {
    let mut all = Vec::new();
    for (pattern, tally) in [("", &node.end), (">", &node.rest)] {
        let tally = tally.as_deref().cloned();
        all.extend(tally.map(|tally| Seen { pattern: pattern.to_owned(), tally }));
    }
    let below = fixed.saturating_sub(1);
    let (any, words) = grouped(node, fixed, level);
    for (token, node) in words {
        all.extend(spread(node, below, level).into_iter().map(|seen| joined(token, seen)));
    }
    if let Some(any) = any {
        let tails = spread(&any, below, level);
        if level != Level::None && is_of_any_length(&tails) {
            let mut tally = Tally::default();
            for seen in &tails {
                tally.merge(&seen.tally);
            }
            all.push(Seen { pattern: ">".to_owned(), tally });
        } else {
            all.extend(tails.into_iter().map(|seen| joined("*", seen)));
        }
    }
    all
}

/// Whether nothing but wildcards follows, of many lengths.
fn is_of_any_length(tails: &[Seen]) -> bool {
    let wild = |seen: &Seen| seen.pattern.split('.').all(|t| matches!(t, "" | "*" | ">"));
    tails.len() >= MANY_LENGTHS && tails.iter().all(wild)
}

/// What `*` stands for in a place, and the tokens that stay.
fn grouped(node: &Node, fixed: usize, level: Level) -> (Option<Node>, Vec<(&str, &Node)>) {
    let mut any = node.any.as_deref().cloned();
    let words = node.children.iter().map(|(token, node)| (&**token, node));
    if level == Level::None || fixed > 0 {
        return (any, words.collect());
    }
    let (ids, words): (Vec<_>, Vec<_>) = words.partition(|(token, _)| is_id(token));
    let mut stay = Vec::new();
    if ids.len() >= SOME_IDS {
        for (_, node) in ids {
            any.get_or_insert_default().merge(node.clone());
        }
    } else {
        stay.extend(ids);
    }
    let mut alike: BTreeMap<Vec<String>, Vec<(&str, &Node)>> = BTreeMap::new();
    // Fewer than that are never many, and need not be compared.
    if words.len() < MANY_WORDS {
        stay.extend(words);
    } else {
        for (token, node) in words {
            let mut around: Vec<String> =
                spread(node, 0, level).into_iter().map(|seen| seen.pattern).collect();
            around.sort();
            alike.entry(around).or_default().push((token, node));
        }
    }
    for group in alike.into_values() {
        if group.len() >= MANY_WORDS {
            for (_, node) in group {
                any.get_or_insert_default().merge(node.clone());
            }
        } else {
            stay.extend(group);
        }
    }
    (any, stay)
}

/// `>` for the tails of those that begin with the same token.
fn widened(all: Vec<Seen>, fixed: usize) -> Vec<Seen> {
    let mut groups: BTreeMap<String, Vec<Seen>> = BTreeMap::new();
    for seen in all {
        let first = seen.pattern.split('.').next().unwrap_or_default().to_owned();
        groups.entry(if fixed > 0 { first } else { String::new() }).or_default().push(seen);
    }
    groups.into_values().flat_map(|group| widened_group(group, fixed)).collect()
}

fn widened_group(group: Vec<Seen>, fixed: usize) -> Vec<Seen> {
    let wild = |seen: &Seen| seen.pattern.split('.').any(|t| matches!(t, "*" | ">"));
    if group.len() < SOME_IDS && !group.iter().any(wild) {
        return group;
    }
    let Some(first) = group.first() else { return group };
    let tokens: Vec<&str> = first.pattern.split('.').collect();
    let same = |at: usize, token: &str| {
        !matches!(token, "*" | ">")
            && group.iter().all(|seen| seen.pattern.split('.').nth(at) == Some(token))
    };
    let common = tokens.iter().enumerate().take_while(|(at, token)| same(*at, token)).count();
    // `>` stands for one token or more: who ends where the others part is not in it.
    let goes_on = |seen: &Seen| seen.pattern.split('.').count() > common;
    if common < fixed || !group.iter().all(goes_on) {
        return group;
    }
    let mut pattern: Vec<&str> = tokens.into_iter().take(common).collect();
    pattern.push(">");
    let mut tally = Tally::default();
    for seen in &group {
        tally.merge(&seen.tally);
    }
    vec![Seen { pattern: pattern.join("."), tally }]
}

/// Leaves out what another holds, and counts it there.
fn reduced(all: Vec<Seen>) -> Vec<Seen> {
    let wild = |seen: &Seen| seen.pattern.contains(['*', '>']);
    let (wide, plain): (Vec<Seen>, Vec<Seen>) = all.into_iter().partition(wild);
    let mut kept: Vec<(Pattern, Seen)> = Vec::new();
    let mut odd = Vec::new();
    for seen in wide {
        let Ok(pattern) = Pattern::parse(&seen.pattern) else {
            odd.push(seen);
            continue;
        };
        if let Some((_, held)) = kept.iter_mut().find(|(other, _)| pattern.is_subset_of(other)) {
            held.tally.merge(&seen.tally);
            continue;
        }
        let mut seen = seen;
        kept.retain(|(other, held)| {
            let stays = !other.is_subset_of(&pattern);
            if !stays {
                seen.tally.merge(&held.tally);
            }
            stays
        });
        kept.push((pattern, seen));
    }
    for seen in plain {
        let held = kept.iter_mut().find(|(other, _)| other.matches_wire(&seen.pattern));
        match held {
            Some((_, held)) => held.tally.merge(&seen.tally),
            None => odd.push(seen),
        }
    }
    odd.extend(kept.into_iter().map(|(_, seen)| seen));
    odd.sort_by(|a, b| a.pattern.cmp(&b.pattern));
    odd
}

#[cfg(test)]
mod tests;
