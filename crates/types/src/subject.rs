//! NATS subjects and patterns: parse, match, subset, overlap.
//!
//! The rules are those of nats-server (`server/sublist.go`): tokens are separated by dots, `*`
//! stands for exactly one token, `>` for one or more tokens and only at the end. Whitespace and
//! control characters are refused because the wire protocol cannot carry them.
//!
//! nats-server compares a client's subject with a permission *as if it were literal*: a client
//! that sends `a.>` passes a permission `a.*`, because the token `>` is "one token". Whatever is
//! granted must therefore be safe under [`Pattern::matches_wire`] too; see
//! [`Pattern::ends_in_star`].

pub mod tree;

use std::fmt;

use self::tree::{PatternTree, TooEntangled};

/// The longest subject or pattern accepted, in bytes. nats-server takes 4096 bytes for a whole
/// protocol line by default (`max_control_line`), with subject, reply subject and sizes in it.
pub const MAX_SUBJECT_BYTES: usize = 1024;

/// A literal subject: what a message is published to. Holds no wildcard.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Subject(Box<str>);

/// A subject that may hold wildcards: what a permission allows or a subscription asks for.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Pattern(Box<str>);

/// Why a text is no subject or pattern. The message says what to change.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SubjectError {
    /// Nothing between the quotes.
    #[error("it is empty")]
    Empty,
    /// Longer than [`MAX_SUBJECT_BYTES`].
    #[error("it is {0} bytes long; at most {MAX_SUBJECT_BYTES} are allowed")]
    TooLong(usize),
    /// A space, tab or control character.
    #[error("it contains {0:?}; whitespace and control characters are not allowed in a subject")]
    BadCharacter(char),
    /// Two dots in a row, or a dot at either end.
    #[error("token {0} is empty; remove the extra dot")]
    EmptyToken(usize),
    /// `>` anywhere but at the end.
    #[error("`>` is only allowed as the last token; use `*` for one token in the middle")]
    RestNotLast,
    /// `*` or `>` where a literal subject is wanted.
    #[error("it has a wildcard, and a literal subject is needed here")]
    Wildcard,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Token<'a> {
    Literal(&'a str),
    Any,
    Rest,
}

impl<'a> Token<'a> {
    fn as_str(self) -> &'a str {
        match self {
            Self::Literal(text) => text,
            Self::Any => "*",
            Self::Rest => ">",
        }
    }
}

fn token(text: &str) -> Token<'_> {
    match text {
        "*" => Token::Any,
        ">" => Token::Rest,
        literal => Token::Literal(literal),
    }
}

fn check(text: &str) -> Result<(), SubjectError> {
    if text.is_empty() {
        return Err(SubjectError::Empty);
    }
    if text.len() > MAX_SUBJECT_BYTES {
        return Err(SubjectError::TooLong(text.len()));
    }
    if let Some(bad) = text.chars().find(|c| c.is_whitespace() || c.is_control()) {
        return Err(SubjectError::BadCharacter(bad));
    }
    let mut rest_seen = false;
    for (i, part) in text.split('.').enumerate() {
        if rest_seen {
            return Err(SubjectError::RestNotLast);
        }
        if part.is_empty() {
            return Err(SubjectError::EmptyToken(i + 1));
        }
        rest_seen = part == ">";
    }
    Ok(())
}

impl Subject {
    /// Parses a literal subject.
    ///
    /// # Errors
    /// [`SubjectError`] when NATS would not carry it, or when it has a wildcard token.
    pub fn parse(text: &str) -> Result<Self, SubjectError> {
        check(text)?;
        if text.split('.').any(|t| token(t) == Token::Any || token(t) == Token::Rest) {
            return Err(SubjectError::Wildcard);
        }
        Ok(Self(text.into()))
    }

    /// The subject as text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl Pattern {
    /// Parses a subject that may hold wildcards.
    ///
    /// # Errors
    /// [`SubjectError`] when NATS would not carry it, or would treat it as something else (a `>`
    /// in the middle passes the JWT's own validation and is then ignored by the server).
    pub fn parse(text: &str) -> Result<Self, SubjectError> {
        check(text)?;
        Ok(Self(text.into()))
    }

    /// The pattern as text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    fn tokens(&self) -> impl Iterator<Item = Token<'_>> {
        self.0.split('.').map(token)
    }

    /// Whether the pattern has no wildcard, so that it stands for one subject.
    #[must_use]
    pub fn is_literal(&self) -> bool {
        self.tokens().all(|t| matches!(t, Token::Literal(_)))
    }

    /// Whether the last token is `*`. A permission that ends so also admits a client that sends
    /// the same text with `>` in that place, which means more wherever the receiver treats the
    /// subject as a pattern.
    #[must_use]
    pub fn ends_in_star(&self) -> bool {
        self.tokens().last() == Some(Token::Any)
    }

    /// Whether the first token is a wildcard, so that the pattern reaches into every system
    /// space (`$JS`, `$SYS`, `_INBOX`).
    #[must_use]
    pub fn starts_with_wildcard(&self) -> bool {
        matches!(self.tokens().next(), Some(Token::Any | Token::Rest))
    }

    /// The first token as text.
    #[must_use]
    pub fn first_token(&self) -> &str {
        self.0.split('.').next().unwrap_or_default()
    }

    /// Whether the pattern matches a literal subject.
    #[must_use]
    pub fn matches(&self, subject: &Subject) -> bool {
        self.matches_wire(&subject.0)
    }

    /// Whether nats-server would let a client use `text` under this pattern: each token of
    /// `text` is taken as it is, `*` and `>` included.
    #[must_use]
    pub fn matches_wire(&self, text: &str) -> bool {
        let mut subject = text.split('.');
        for part in self.tokens() {
            match (part, subject.next()) {
                (Token::Rest, Some(_)) => return true,
                (_, None) => return false,
                (Token::Any, Some(_)) => {}
                (Token::Literal(wanted), Some(found)) => {
                    if wanted != found {
                        return false;
                    }
                }
            }
        }
        subject.next().is_none()
    }

    /// Whether every subject that this pattern matches is matched by `other` too.
    #[must_use]
    pub fn is_subset_of(&self, other: &Self) -> bool {
        if plainly_apart(&self.0, &other.0) {
            return false;
        }
        let mut mine = self.tokens();
        let mut theirs = other.tokens();
        loop {
            match (mine.next(), theirs.next()) {
                (None, None) | (Some(_), Some(Token::Rest)) => return true,
                (None, Some(_)) | (Some(_), None) => return false,
                (Some(Token::Rest), Some(_)) | (Some(Token::Any), Some(Token::Literal(_))) => {
                    return false;
                }
                (Some(Token::Any | Token::Literal(_)), Some(Token::Any)) => {}
                (Some(Token::Literal(a)), Some(Token::Literal(b))) => {
                    if a != b {
                        return false;
                    }
                }
            }
        }
    }

    /// Whether some subject matches both patterns.
    #[must_use]
    pub fn overlaps(&self, other: &Self) -> bool {
        self.walk_overlap(other, |_| {})
    }

    /// A subject that both patterns match, or `None` when there is none. Where both have a
    /// wildcard, the token is `x`.
    #[must_use]
    pub fn overlap(&self, other: &Self) -> Option<Subject> {
        let mut witness = String::new();
        let both = self.walk_overlap(other, |part| {
            if !witness.is_empty() {
                witness.push('.');
            }
            witness.push_str(part);
        });
        both.then(|| Subject(witness.into_boxed_str()))
    }

    /// The pattern of the subjects that both match, or `None` when there is none.
    #[must_use]
    pub fn intersection(&self, other: &Self) -> Option<Self> {
        let (mut mine, mut theirs) = (self.tokens(), other.tokens());
        let mut tokens: Vec<&str> = Vec::new();
        loop {
            match (mine.next(), theirs.next()) {
                (None, None) => break,
                (None, Some(_)) | (Some(_), None) => return None,
                (Some(Token::Rest), Some(first)) => {
                    tokens.push(first.as_str());
                    tokens.extend(theirs.map(Token::as_str));
                    break;
                }
                (Some(first), Some(Token::Rest)) => {
                    tokens.push(first.as_str());
                    tokens.extend(mine.map(Token::as_str));
                    break;
                }
                (Some(Token::Literal(a)), Some(Token::Literal(b))) if a != b => return None,
                (Some(Token::Any), Some(token)) | (Some(token), Some(_)) => {
                    tokens.push(token.as_str());
                }
            }
        }
        Some(Self(tokens.join(".").into_boxed_str()))
    }

    fn walk_overlap<'a>(&'a self, other: &'a Self, mut emit: impl FnMut(&'a str)) -> bool {
        if plainly_apart(&self.0, &other.0) {
            return false;
        }
        let mut mine = self.tokens();
        let mut theirs = other.tokens();
        loop {
            match (mine.next(), theirs.next()) {
                (None, None) => return true,
                (None, Some(_)) | (Some(_), None) => return false,
                (Some(Token::Rest), Some(first)) => {
                    emit_rest(first, theirs, &mut emit);
                    return true;
                }
                (Some(first), Some(Token::Rest)) => {
                    emit_rest(first, mine, &mut emit);
                    return true;
                }
                (Some(Token::Any), Some(Token::Any)) => emit("x"),
                (Some(Token::Any), Some(Token::Literal(text)))
                | (Some(Token::Literal(text)), Some(Token::Any)) => emit(text),
                (Some(Token::Literal(a)), Some(Token::Literal(b))) => {
                    if a != b {
                        return false;
                    }
                    emit(a);
                }
            }
        }
    }
}

/// Whether the first bytes that differ settle that no subject matches both: both stand inside of
/// literal tokens, and what is before them is the same. Of most pairs that says it all, and soon;
/// where it does not, the tokens have to be looked at.
fn plainly_apart(a: &str, b: &str) -> bool {
    let mut bytes = a.bytes().zip(b.bytes());
    let plain = |byte| !matches!(byte, b'.' | b'*' | b'>');
    bytes.find(|(a, b)| a != b).is_some_and(|(a, b)| plain(a) && plain(b))
}

/// What is left of one side once the other reached `>`.
fn emit_rest<'a>(
    first: Token<'a>,
    rest: impl Iterator<Item = Token<'a>>,
    emit: &mut impl FnMut(&'a str),
) {
    for part in std::iter::once(first).chain(rest) {
        emit(match part {
            Token::Literal(text) => text,
            Token::Any | Token::Rest => "x",
        });
    }
}

/// Why what is below subscriptions that end in `*` cannot be denied beside others.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StarError {
    /// Two of them cannot stand together.
    Conflict {
        /// The one that ends in `*`.
        star: usize,
        /// The one that reaches below it.
        other: usize,
    },
    /// They take too long to compare.
    TooEntangled,
}

impl From<TooEntangled> for StarError {
    fn from(_: TooEntangled) -> Self {
        Self::TooEntangled
    }
}

/// What has to be denied beside subscriptions, so that those that end in `*` mean what they say.
///
/// nats-server takes `a.>` from a client that is allowed `a.*`, and delivers `a.b.c` too; with
/// `a.*.>` denied, it delivers `a.b` and no more (measured on 2.10.25 and 2.15.1).
///
/// # Errors
/// [`StarError`] when the denial would take what another subscription is granted, or when finding
/// out takes more than `steps`.
pub fn deny_below_stars(
    granted: &[&Pattern],
    steps: &mut usize,
) -> Result<Vec<Pattern>, StarError> {
    let stars = granted.iter().enumerate().filter(|(_, pattern)| pattern.ends_in_star());
    // Too long by two bytes is the only way in which what is below is no pattern; then nobody can
    // send anything below it either.
    let below = stars.filter_map(|(star, p)| Some((star, Pattern::parse(&format!("{p}.>")).ok()?)));
    let mut denied: Vec<(usize, Pattern)> = below.collect();
    if denied.is_empty() {
        return Ok(Vec::new());
    }
    let mut tree = PatternTree::new();
    for (entry, pattern) in granted.iter().enumerate() {
        tree.insert(pattern, entry, 0);
    }
    let mut needed = Vec::with_capacity(denied.len());
    for (star, below) in denied.drain(..) {
        if tree.cover(below.as_str(), None, steps)?.is_none() {
            needed.push((star, below));
        }
    }
    // All of them at once: each by itself would be looked for among all.
    for (entry, (_, below)) in needed.iter().enumerate() {
        tree.insert(below, granted.len() + entry, 1);
    }
    if let Some((a, b)) = tree.conflicts(1, steps)?.first() {
        let (other, below) = (*a.min(b), a.max(b) - granted.len());
        let star = needed.get(below).map_or(other, |(star, _)| *star);
        return Err(StarError::Conflict { star, other });
    }
    let mut denied: Vec<Pattern> = needed.into_iter().map(|(_, below)| below).collect();
    denied.sort();
    denied.dedup();
    Ok(denied)
}

impl From<Subject> for Pattern {
    fn from(subject: Subject) -> Self {
        Self(subject.0)
    }
}

impl fmt::Display for Subject {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Display for Pattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn pattern(text: &str) -> Pattern {
        Pattern::parse(text).unwrap()
    }

    fn subject(text: &str) -> Subject {
        Subject::parse(text).unwrap()
    }

    #[test]
    fn refuses_what_nats_would_not_carry() {
        use SubjectError::*;
        for (text, error) in [
            ("", Empty),
            (".a", EmptyToken(1)),
            ("a..b", EmptyToken(2)),
            ("a.", EmptyToken(2)),
            ("a b", BadCharacter(' ')),
            ("a\tb", BadCharacter('\t')),
            ("a\u{0}", BadCharacter('\u{0}')),
            ("a\u{a0}b", BadCharacter('\u{a0}')),
            ("a.>.b", RestNotLast),
            (">.a", RestNotLast),
        ] {
            assert_eq!(Pattern::parse(text), Err(error.clone()), "{text:?}");
            assert_eq!(Subject::parse(text), Err(error), "{text:?}");
        }
        let long = "a".repeat(MAX_SUBJECT_BYTES + 1);
        assert_eq!(Pattern::parse(&long), Err(TooLong(MAX_SUBJECT_BYTES + 1)));
        assert_eq!(Subject::parse("a.*"), Err(Wildcard));
        assert_eq!(Subject::parse("a.>"), Err(Wildcard));
        // A star inside a token is an ordinary character to nats-server.
        assert!(Subject::parse("a*.b>").is_ok());
    }

    #[test]
    fn rest_needs_at_least_one_token() {
        assert!(!pattern("a.>").matches(&subject("a")));
        assert!(pattern("a.>").matches(&subject("a.b")));
        assert!(pattern("a.>").matches(&subject("a.b.c")));
        assert!(!pattern("a.>").overlaps(&pattern("a")));
    }

    #[test]
    fn a_wildcard_sent_literally_passes_a_star() {
        assert!(pattern("a.*").matches_wire("a.>"));
        assert!(!pattern("a.b").matches_wire("a.>"));
        assert!(!pattern("a.*").matches_wire("a.b.>"));
    }

    #[test]
    fn overlap_gives_a_witness() {
        let cases = [
            ("a.>", "a.b.*", Some("a.b.x")),
            ("a.*.c", "a.b.>", Some("a.b.c")),
            ("*.b", "a.*", Some("a.b")),
            (">", "a", Some("a")),
            ("a.>", "a.>", Some("a.x")),
            ("a.b", "a.c", None),
            ("a.*", "a.b.c", None),
        ];
        for (a, b, expected) in cases {
            let found = pattern(a).overlap(&pattern(b));
            assert_eq!(found.as_ref().map(Subject::as_str), expected, "{a} and {b}");
        }
    }

    #[test]
    fn many_stars_beside_many_subjects_are_not_each_compared_with_each() {
        let steps = |n: usize| {
            let stars = (0..n).map(|i| pattern(&format!("a.*.x{i}.*")));
            let others = (0..n).map(|i| pattern(&format!("a.l{i}.y")));
            let all: Vec<Pattern> = stars.chain(others).collect();
            let all: Vec<&Pattern> = all.iter().collect();
            let mut left = tree::NO_BOUND;
            assert_eq!(deny_below_stars(&all, &mut left).unwrap().len(), n);
            tree::NO_BOUND - left
        };
        let (few, many) = (steps(500), steps(5_000));
        assert!(many <= 11 * few, "{few} steps for 500 of each, {many} for 5,000");
    }

    fn any_subject() -> impl Strategy<Value = Subject> {
        proptest::collection::vec("[abx]", 1..5).prop_map(|t| subject(&t.join(".")))
    }

    fn any_pattern() -> impl Strategy<Value = Pattern> {
        (
            proptest::collection::vec(prop_oneof![3 => "[abx]", 1 => Just("*".to_owned())], 0..4),
            proptest::bool::ANY,
        )
            .prop_map(|(mut tokens, rest)| {
                if rest || tokens.is_empty() {
                    tokens.push(">".to_owned());
                }
                pattern(&tokens.join("."))
            })
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(4000))]

        /// Match, subset and overlap tell one story.
        #[test]
        fn match_subset_and_overlap_agree(a in any_pattern(), b in any_pattern(), s in any_subject()) {
            if a.is_subset_of(&b) && a.matches(&s) {
                prop_assert!(b.matches(&s));
            }
            if a.matches(&s) && b.matches(&s) {
                prop_assert!(a.overlaps(&b));
            }
            prop_assert_eq!(a.overlaps(&b), b.overlaps(&a));
            let both = a.intersection(&b);
            prop_assert_eq!(both.is_some(), a.overlaps(&b));
            prop_assert_eq!(&both, &b.intersection(&a));
            let matched = both.as_ref().is_some_and(|both| both.matches(&s));
            prop_assert_eq!(matched, a.matches(&s) && b.matches(&s));
            prop_assert!(both.is_none_or(|both| Pattern::parse(both.as_str()).is_ok()));
            match a.overlap(&b) {
                Some(witness) => {
                    prop_assert!(a.matches(&witness) && b.matches(&witness), "{} {} {}", a, b, witness);
                    prop_assert!(a.overlaps(&b));
                }
                None => prop_assert!(!a.overlaps(&b)),
            }
            prop_assert!(a.is_subset_of(&a));
            if a.is_subset_of(&b) && b.is_subset_of(&a) {
                prop_assert_eq!(a.as_str(), b.as_str());
            }
        }

        /// Subset is exact, not only sound: over this alphabet, four tokens decide it.
        #[test]
        fn subset_is_what_enumeration_says(a in any_pattern(), b in any_pattern()) {
            let mut every = vec![String::new()];
            let mut all_in = true;
            for _ in 0..5 {
                every = every.iter().flat_map(|p| ["a", "b", "x", "z"].map(|t| {
                    if p.is_empty() { t.to_owned() } else { format!("{p}.{t}") }
                })).collect();
                all_in &= every.iter().map(|t| subject(t)).all(|s| !a.matches(&s) || b.matches(&s));
            }
            prop_assert_eq!(a.is_subset_of(&b), all_in, "{} {}", a, b);
        }

        /// The denials are those that comparing each with each gives.
        #[test]
        fn denials_are_what_comparing_each_gives(
            granted in proptest::collection::vec(any_pattern(), 0..7)
        ) {
            let granted: Vec<&Pattern> = granted.iter().collect();
            let below = |p: &Pattern| pattern(&format!("{p}.>"));
            let stars: Vec<Pattern> = granted.iter().filter(|p| p.ends_in_star()).map(|p| below(p))
                .filter(|below| !granted.iter().any(|other| below.is_subset_of(other)))
                .collect();
            let conflict = stars.iter().any(|below| granted.iter().any(|p| p.overlaps(below)));
            match deny_below_stars(&granted, &mut { tree::NO_BOUND }) {
                Ok(denied) => {
                    prop_assert!(!conflict);
                    let expected: std::collections::BTreeSet<Pattern> = stars.into_iter().collect();
                    prop_assert_eq!(denied, expected.into_iter().collect::<Vec<_>>());
                }
                Err(StarError::Conflict { star, other }) => {
                    prop_assert!(stars.contains(&below(granted[star])));
                    prop_assert!(granted[other].overlaps(&below(granted[star])));
                }
                Err(StarError::TooEntangled) => prop_assert!(false),
            }
        }

        /// What is said to be apart at first sight is apart token by token.
        #[test]
        fn plainly_apart_is_apart(
            a in proptest::collection::vec("[abé*>]{1,3}", 1..4),
            b in proptest::collection::vec("[abé*>]{1,3}", 1..4),
        ) {
            let (texts, tokens) = ([a.join("."), b.join(".")], a.iter().zip(&b));
            prop_assume!(texts.iter().all(|text| Pattern::parse(text).is_ok()));
            let literal = |text| matches!(token(text), Token::Literal(_));
            let apart = tokens
                .take_while(|(a, b)| token(a) != Token::Rest && token(b) != Token::Rest)
                .any(|(a, b)| literal(a) && literal(b) && a != b);
            prop_assert!(apart || !plainly_apart(&texts[0], &texts[1]), "{:?}", texts);
            prop_assert_eq!(
                plainly_apart(&texts[0], &texts[1]),
                plainly_apart(&texts[1], &texts[0])
            );
        }

        #[test]
        fn parsing_any_text_never_panics(text in ".{0,40}") {
            let _ = Pattern::parse(&text);
            let _ = Subject::parse(&text);
        }
    }
}
