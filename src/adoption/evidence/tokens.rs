//! Subjects as a tree of their tokens, which stays small whatever comes.
//!
//! Where too many different tokens are seen in one place, they become one, `*`: those that look
//! like ids first. Where a subject has too many tokens, the rest becomes `>`.

use std::collections::BTreeMap;

use solewriter_types::subject::MAX_SUBJECT_BYTES;

use super::names::is_id;
use super::tally::{Mark, Tally};

/// The most different tokens in one place.
pub const MAX_WIDTH: usize = 256;

/// The most tokens of a subject that are told apart.
pub const MAX_DEPTH: usize = 16;

/// The most places of one tree.
pub const MAX_NODES: usize = 4096;

/// One place in the tree.
#[derive(Clone, Debug, Default)]
pub(super) struct Node {
    pub children: BTreeMap<Box<str>, Self>,
    /// Below `*`: written so by a client, or what many became.
    pub any: Option<Box<Self>>,
    /// A subject ends here.
    pub end: Option<Box<Tally>>,
    /// A subject goes on with `>` here.
    pub rest: Option<Box<Tally>>,
    /// New ids become `*`.
    folds_ids: bool,
    /// New tokens become `*`.
    folds: bool,
}

impl Node {
    fn nodes(&self) -> usize {
        let any = self.any.as_ref().map_or(0, |any| any.nodes());
        self.children.values().map(Self::nodes).sum::<usize>() + any + 1
    }

    /// Puts another's subjects beside its own.
    pub fn merge(&mut self, other: Self) {
        for (token, node) in other.children {
            self.children.entry(token).or_default().merge(node);
        }
        if let Some(any) = other.any {
            self.any.get_or_insert_default().merge(*any);
        }
        for (mine, theirs) in [(&mut self.end, other.end), (&mut self.rest, other.rest)] {
            if let Some(theirs) = theirs {
                mine.get_or_insert_default().merge(&theirs);
            }
        }
        self.folds_ids |= other.folds_ids;
        self.folds |= other.folds;
        if self.folds || self.children.len() > MAX_WIDTH {
            self.fold();
        }
    }

    /// Makes one of all tokens.
    fn fold(&mut self) {
        self.folds = true;
        self.fold_some(|_| true);
    }

    fn fold_some(&mut self, folded: impl Fn(&str) -> bool) {
        for (token, node) in std::mem::take(&mut self.children) {
            if folded(&token) {
                self.any.get_or_insert_default().merge(node);
            } else {
                self.children.insert(token, node);
            }
        }
    }

    /// Makes room for one more token.
    fn narrow(&mut self) {
        let ids = self.children.keys().filter(|token| is_id(token)).count();
        if !self.folds_ids && ids * 2 >= MAX_WIDTH {
            self.folds_ids = true;
            self.fold_some(is_id);
        } else {
            self.fold();
        }
    }

    /// Makes one of all tokens wherever there are as many.
    fn fold_wider(&mut self, width: usize, fixed: usize) {
        if fixed == 0 && self.children.len() >= width {
            self.fold();
        }
        for node in self.children.values_mut().chain(self.any.as_deref_mut()) {
            node.fold_wider(width, fixed.saturating_sub(1));
        }
    }

    /// Everything below becomes `>`.
    fn cut(&mut self) {
        let mut below = Tally::default();
        for node in self.children.values().chain(self.any.as_deref()) {
            node.sum(&mut below);
        }
        self.children.clear();
        self.any = None;
        if below.count > 0 {
            self.rest.get_or_insert_default().merge(&below);
        }
    }

    fn sum(&self, into: &mut Tally) {
        for tally in [&self.end, &self.rest].into_iter().flatten() {
            into.merge(tally);
        }
        for node in self.children.values().chain(self.any.as_deref()) {
            node.sum(into);
        }
    }
}

/// Subjects, in bounded memory.
#[derive(Clone, Debug)]
pub struct Tokens {
    pub(super) root: Node,
    /// How many tokens at the beginning are never made one.
    pub(super) fixed: usize,
    nodes: usize,
    lost: Tally,
    limit: usize,
}

impl Tokens {
    /// Keys of a bucket: any token may become `*`.
    #[must_use]
    pub fn of_keys() -> Self {
        Self::new(0)
    }

    /// Plain subjects: the first token stays what it is, because no rule may begin with a wildcard.
    #[must_use]
    pub fn of_subjects() -> Self {
        Self::new(1)
    }

    fn new(fixed: usize) -> Self {
        Self { root: Node::default(), fixed, nodes: 1, lost: Tally::default(), limit: MAX_NODES }
    }

    /// Whether nothing was seen.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.nodes == 1 && self.root.end.is_none() && self.root.rest.is_none()
    }

    /// How many places it has.
    #[must_use]
    pub fn nodes(&self) -> usize {
        self.nodes
    }

    /// What found no room: more first tokens than there may be, or no subject at all.
    #[must_use]
    pub fn lost(&self) -> &Tally {
        &self.lost
    }

    /// Takes a subject, which may have wildcards.
    pub fn insert(&mut self, subject: &str, mark: Mark<'_>) {
        if subject.is_empty() || subject.len() > MAX_SUBJECT_BYTES {
            self.lost.add(mark);
            return;
        }
        let mut node = &mut self.root;
        for (depth, token) in subject.split('.').enumerate() {
            if token == ">" || depth == MAX_DEPTH {
                node.rest.get_or_insert_default().add(mark);
                return self.keep_small();
            }
            let has = node.children.contains_key(token);
            let folded = |node: &Node| node.folds || (node.folds_ids && is_id(token));
            if !has && token != "*" && !folded(node) && node.children.len() >= MAX_WIDTH {
                if depth < self.fixed {
                    self.lost.add(mark);
                    return;
                }
                let before = node.nodes();
                node.narrow();
                self.nodes = self.nodes.saturating_sub(before.saturating_sub(node.nodes()));
            }
            if !has && (token == "*" || folded(node)) {
                self.nodes += usize::from(node.any.is_none());
                node = node.any.get_or_insert_default();
            } else {
                // What was there may be folded by now: then this is a new place.
                self.nodes += usize::from(!node.children.contains_key(token));
                node = node.children.entry(token.into()).or_default();
            }
        }
        node.end.get_or_insert_default().add(mark);
        self.keep_small();
    }

    fn keep_small(&mut self) {
        if self.nodes > self.limit {
            self.shrink(self.limit);
        }
    }

    /// Makes it smaller than that from now on.
    pub fn shrink(&mut self, limit: usize) {
        self.limit = limit.clamp(MAX_WIDTH, MAX_NODES);
        let enough = self.limit / 2;
        for width in [128, 64, 32, 16, 8, 4, 2] {
            if self.nodes <= enough {
                return;
            }
            self.root.fold_wider(width, self.fixed);
            self.nodes = self.root.nodes();
        }
        if self.nodes > self.limit {
            if self.fixed == 0 {
                self.root.cut();
            }
            self.root.children.values_mut().for_each(Node::cut);
            if let Some(any) = &mut self.root.any {
                any.cut();
            }
            self.nodes = self.root.nodes();
        }
    }
}
