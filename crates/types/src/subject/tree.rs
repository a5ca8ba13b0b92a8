//! Finding patterns that overlap or cover each other among many, without comparing every pair.
//!
//! The patterns form a tree by token. Two patterns overlap when they walk down it side by side,
//! so the tree is joined with itself: from a pair of nodes only compatible children are visited,
//! and a pair of branches that belong to one owner is left out whole.
//!
//! Each search takes its steps from a number that the caller gives, so that many searches can have
//! one bound together. Whoever gives [`NO_BOUND`] pays, at worst, what comparing with each would.

use std::collections::BTreeMap;

use crate::subject::Pattern;

/// What a pattern belongs to: patterns of one owner never conflict.
pub type Owner = usize;

/// An entry's number, given by whoever inserts it.
pub type Entry = usize;

/// As many steps as it takes: at most as many for one pattern as the tree has nodes.
pub const NO_BOUND: usize = usize::MAX;

/// Many patterns with wildcards in many places, so that comparing them takes too long.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("too many patterns with wildcards in too many places")]
pub struct TooEntangled;

/// Patterns by token.
#[derive(Debug)]
pub struct PatternTree<'p> {
    /// The root is the first.
    nodes: Vec<Node<'p>>,
}

impl Default for PatternTree<'_> {
    fn default() -> Self {
        Self { nodes: vec![Node::default()] }
    }
}

#[derive(Debug, Default)]
struct Node<'p> {
    literals: BTreeMap<&'p str, usize>,
    any: Option<usize>,
    /// Patterns that end here.
    ends: Vec<(Entry, Owner)>,
    /// Patterns that continue with `>`.
    rests: Vec<(Entry, Owner)>,
    owners: Owners,
}

/// Whom the patterns in a branch belong to.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Owners {
    #[default]
    None,
    One(Owner),
    Several,
}

impl Owners {
    fn with(self, other: Self) -> Self {
        match (self, other) {
            (Self::None, owners) | (owners, Self::None) => owners,
            (Self::One(a), Self::One(b)) if a == b => self,
            _ => Self::Several,
        }
    }
}

impl<'p> PatternTree<'p> {
    /// An empty tree.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds a pattern of an owner.
    pub fn insert(&mut self, pattern: &'p Pattern, entry: Entry, owner: Owner) {
        self.insert_text(pattern.as_str(), entry, owner);
    }

    /// Adds a pattern that stands for everything.
    pub fn insert_all(&mut self, entry: Entry, owner: Owner) {
        self.insert_text(">", entry, owner);
    }

    /// Adds the text of a pattern.
    pub fn insert_text(&mut self, pattern: &'p str, entry: Entry, owner: Owner) {
        let mut at = 0;
        self.own(at, owner);
        for token in pattern.split('.') {
            if token == ">" {
                if let Some(node) = self.nodes.get_mut(at) {
                    keep(&mut node.rests, entry, owner);
                }
                return;
            }
            let fresh = self.nodes.len();
            let Some(node) = self.nodes.get_mut(at) else { return };
            at = match token {
                "*" => *node.any.get_or_insert(fresh),
                literal => *node.literals.entry(literal).or_insert(fresh),
            };
            if at == fresh {
                self.nodes.push(Node::default());
            }
            self.own(at, owner);
        }
        if let Some(node) = self.nodes.get_mut(at) {
            keep(&mut node.ends, entry, owner);
        }
    }

    fn own(&mut self, at: usize, owner: Owner) {
        if let Some(node) = self.nodes.get_mut(at) {
            node.owners = node.owners.with(Owners::One(owner));
        }
    }

    /// Pairs of entries of different owners that overlap, at most `limit`. When there is a
    /// conflict, at least one pair is returned. Of several owners of the very same pattern, each
    /// is paired with the first only.
    ///
    /// # Errors
    /// [`TooEntangled`] when the search takes more than `steps`, which it then has used up.
    pub fn conflicts(
        &self,
        limit: usize,
        steps: &mut usize,
    ) -> Result<Vec<(Entry, Entry)>, TooEntangled> {
        let mut found = Vec::new();
        let mut pairs = vec![(0, 0)];
        while let Some((left, right)) = pairs.pop() {
            if found.len() >= limit {
                break;
            }
            spend(steps, 1)?;
            self.join(left, right, limit, &mut found, &mut pairs);
        }
        found.truncate(limit);
        Ok(found)
    }

    /// Whether some subject matches both `pattern` and a pattern in the tree.
    ///
    /// # Errors
    /// [`TooEntangled`] when the search takes more than `steps`, which it then has used up.
    pub fn overlaps(&self, pattern: &str, steps: &mut usize) -> Result<bool, TooEntangled> {
        let tokens: Vec<&str> = pattern.split('.').collect();
        let mut places = vec![(0, 0)];
        while let Some((at, depth)) = places.pop() {
            spend(steps, 1)?;
            let Some(node) = self.nodes.get(at) else { continue };
            let Some(token) = tokens.get(depth) else {
                if node.ends.is_empty() {
                    continue;
                }
                return Ok(true);
            };
            // Every branch leads to an entry.
            let below = *token == ">" && node.children().next().is_some();
            if below || !node.rests.is_empty() {
                return Ok(true);
            }
            if *token == "*" {
                // Counted here too: they may never be looked at.
                spend(steps, node.literals.len())?;
                places.extend(node.children().map(|child| (child, depth + 1)));
            } else {
                places.extend(node.literals.get(token).map(|child| (*child, depth + 1)));
                places.extend(node.any.map(|child| (child, depth + 1)));
            }
        }
        Ok(false)
    }

    /// An entry, other than `but`, whose pattern matches all that `pattern` matches.
    ///
    /// # Errors
    /// [`TooEntangled`] when the search takes more than `steps`, which it then has used up.
    pub fn cover(
        &self,
        pattern: &str,
        but: Option<Entry>,
        steps: &mut usize,
    ) -> Result<Option<Entry>, TooEntangled> {
        let tokens: Vec<&str> = pattern.split('.').collect();
        let other = |entries: &[(Entry, Owner)]| {
            entries.iter().map(|(entry, _)| *entry).find(|entry| Some(*entry) != but)
        };
        let mut places = vec![(0, 0)];
        while let Some((at, depth)) = places.pop() {
            spend(steps, 1)?;
            let Some(node) = self.nodes.get(at) else { continue };
            let token = tokens.get(depth);
            let found = other(if token.is_some() { &node.rests } else { &node.ends });
            if found.is_some() {
                return Ok(found);
            }
            if let Some(token) = token.filter(|token| **token != ">") {
                places.extend(node.literals.get(token).map(|child| (*child, depth + 1)));
                places.extend(node.any.map(|child| (child, depth + 1)));
            }
        }
        Ok(None)
    }

    fn join(
        &self,
        left: usize,
        right: usize,
        limit: usize,
        found: &mut Vec<(Entry, Entry)>,
        pairs: &mut Vec<(usize, usize)>,
    ) {
        let (Some(a), Some(b)) = (self.nodes.get(left), self.nodes.get(right)) else { return };
        if a.owners.with(b.owners) != Owners::Several {
            return;
        }
        if left == right {
            with_first(&a.ends, found);
            with_first(&a.rests, found);
        } else {
            each_with_each(&a.ends, &b.ends, limit, found);
            each_with_each(&a.rests, &b.rests, limit, found);
            self.below(&b.rests, a, limit, found);
        }
        self.below(&a.rests, b, limit, found);

        if left == right {
            pairs.extend(a.literals.values().map(|child| (*child, *child)));
            if let Some(any) = a.any {
                pairs.push((any, any));
                pairs.extend(a.literals.values().map(|child| (any, *child)));
            }
            return;
        }
        let (few, many) = if a.literals.len() <= b.literals.len() { (a, b) } else { (b, a) };
        for (token, child) in &few.literals {
            pairs.extend(many.literals.get(token).map(|other| (*child, *other)));
        }
        for (one, other) in [(a, b), (b, a)] {
            if let Some(any) = one.any {
                pairs.extend(other.literals.values().map(|child| (any, *child)));
            }
        }
        pairs.extend(a.any.zip(b.any));
    }

    /// Pairs each of `rests` with every entry of another owner strictly below `node`.
    fn below(
        &self,
        rests: &[(Entry, Owner)],
        node: &Node<'p>,
        limit: usize,
        found: &mut Vec<(Entry, Entry)>,
    ) {
        for (entry, owner) in rests {
            let mut branches: Vec<usize> = node.children().collect();
            while let Some(at) = branches.pop() {
                let Some(node) = self.nodes.get(at) else { continue };
                if node.owners == Owners::One(*owner) {
                    continue;
                }
                if found.len() >= limit {
                    return;
                }
                let others = node.ends.iter().chain(&node.rests).filter(|(_, o)| o != owner);
                found.extend(others.map(|(other, _)| (*entry, *other)));
                branches.extend(node.children());
            }
        }
    }
}

/// Takes steps of those that are left.
fn spend(steps: &mut usize, taken: usize) -> Result<(), TooEntangled> {
    let left = steps.checked_sub(taken);
    *steps = left.unwrap_or_default();
    left.map(drop).ok_or(TooEntangled)
}

impl Node<'_> {
    fn children(&self) -> impl Iterator<Item = usize> {
        self.literals.values().copied().chain(self.any)
    }
}

/// Adds an entry to those of the same pattern. A third one of the same owner answers no question
/// that the first two do not.
fn keep(entries: &mut Vec<(Entry, Owner)>, entry: Entry, owner: Owner) {
    let same = entries.iter().rev().take(2).filter(|(_, other)| *other == owner).count();
    if same < 2 {
        entries.push((entry, owner));
    }
}

fn with_first(entries: &[(Entry, Owner)], found: &mut Vec<(Entry, Entry)>) {
    let Some((first, owner)) = entries.first() else { return };
    let others = entries.iter().filter(|(_, other)| other != owner);
    found.extend(others.map(|(entry, _)| (*first, *entry)));
}

fn each_with_each(
    left: &[(Entry, Owner)],
    right: &[(Entry, Owner)],
    limit: usize,
    found: &mut Vec<(Entry, Entry)>,
) {
    for (a, owner) in left {
        if found.len() >= limit {
            return;
        }
        found.extend(right.iter().filter(|(_, other)| other != owner).map(|(b, _)| (*a, *b)));
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;

    fn tree(patterns: &[(Pattern, Owner)]) -> PatternTree<'_> {
        let mut tree = PatternTree::new();
        for (entry, (pattern, owner)) in patterns.iter().enumerate() {
            tree.insert(pattern, entry, *owner);
        }
        tree
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(2000))]
        #[test]
        fn finds_what_comparing_every_pair_finds(
            patterns in prop::collection::vec(
                ("(a|b|\\*)(\\.(a|b|\\*)){0,3}(\\.>)?|>", 0usize..3),
                0..12,
            )
        ) {
            let patterns: Vec<_> =
                patterns.iter().map(|(text, o)| (Pattern::parse(text).unwrap(), *o)).collect();
            let found: Vec<_> = tree(&patterns)
                .conflicts(1000, &mut 1_000_000)
                .unwrap()
                .into_iter()
                .map(|(a, b)| (a.min(b), a.max(b)))
                .collect();
            let set: BTreeSet<_> = found.iter().copied().collect();
            prop_assert_eq!(set.len(), found.len(), "each pair once");
            for (b, (right, owner)) in patterns.iter().enumerate() {
                for (a, (left, other)) in patterns.iter().enumerate().take(b) {
                    let conflict = owner != other && left.overlaps(right);
                    let twins = |entry: &Pattern| patterns.iter().filter(|(p, _)| p == entry).count();
                    if left == right || twins(left) > 2 || twins(right) > 2 {
                        // Only paired with the first of the same pattern, and only two are kept.
                        prop_assert!(conflict || !set.contains(&(a, b)));
                    } else {
                        prop_assert_eq!(conflict, set.contains(&(a, b)), "{} {}", left, right);
                    }
                }
            }
            let any = patterns.iter().any(|(l, o)| patterns.iter().any(|(r, p)| o != p && l.overlaps(r)));
            prop_assert_eq!(any, !set.is_empty());
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(2000))]
        #[test]
        fn searches_agree_with_comparing_each(
            patterns in prop::collection::vec("(a|b|\\*)(\\.(a|b|\\*)){0,3}(\\.>)?|>", 0..8),
            asked in "(a|b|\\*)(\\.(a|b|\\*)){0,3}(\\.>)?|>",
        ) {
            let patterns: Vec<_> =
                patterns.iter().map(|text| (Pattern::parse(text).unwrap(), 0)).collect();
            let tree = tree(&patterns);
            let pattern = Pattern::parse(&asked).unwrap();
            let overlap = patterns.iter().any(|(p, _)| p.overlaps(&pattern));
            prop_assert_eq!(tree.overlaps(&asked, &mut { NO_BOUND }), Ok(overlap));
            let cover = patterns.iter().skip(1).any(|(p, _)| pattern.is_subset_of(p));
            let found = tree.cover(&asked, Some(0), &mut { NO_BOUND }).unwrap();
            prop_assert_eq!(found.is_some(), cover);
            if let Some(found) = found {
                prop_assert!(found > 0 && pattern.is_subset_of(&patterns[found].0));
            }
        }
    }

    #[test]
    fn stars_do_not_make_it_quadratic() {
        let mut patterns = Vec::new();
        for i in 0..20_000 {
            patterns.push((Pattern::parse(&format!("*.s{i}")).unwrap(), i));
            patterns.push((Pattern::parse(&format!("l{i}.x")).unwrap(), i));
        }
        assert_eq!(tree(&patterns).conflicts(10, &mut 200_000), Ok(vec![]));
    }

    #[test]
    fn gives_up_on_what_is_made_to_be_slow() {
        let patterns: Vec<_> = (0..1 << 10)
            .map(|i| {
                let tokens: String =
                    (0..10).map(|bit| if i >> bit & 1 == 0 { "a." } else { "*." }).collect();
                (Pattern::parse(&format!("{tokens}x{i}")).unwrap(), i)
            })
            .collect();
        let mut steps = 100_000;
        assert_eq!(tree(&patterns).conflicts(10, &mut steps), Err(TooEntangled));
        assert_eq!(steps, 0);
    }
}
