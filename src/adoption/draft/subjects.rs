//! Who answers, subscribes, publishes and calls, and who writes into which stream.

use std::collections::BTreeSet;
use std::sync::Arc;

use super::case::{Case, Deeds, names};
use super::page::Item;
use super::streams::Kept;
use crate::adoption::evidence::fact::Fact;
use crate::adoption::evidence::generalise::Seen;
use solewriter_types::subject::Pattern;

/// An entry that a service could get.
struct Wish<'d, 'e> {
    deeds: &'d Deeds<'e>,
    pattern: Pattern,
    seen: Seen,
    /// The other deeds that it grants.
    also: Option<&'d Deeds<'e>>,
}

impl<'d, 'e> Wish<'d, 'e> {
    fn of(deeds: &'d Deeds<'e>, seen: Seen) -> Option<Self> {
        let pattern = Pattern::parse(&seen.pattern).ok()?;
        Some(Self { deeds, pattern, seen, also: None })
    }

    fn facts(&self) -> Vec<Fact> {
        [Some(self.deeds), self.also].into_iter().flatten().map(|d| d.fact.clone()).collect()
    }
}

/// The deeds of those wishes that are marked, each once.
fn about<'d, 'e>(wishes: &[Wish<'d, 'e>], marked: &BTreeSet<usize>) -> Vec<&'d Deeds<'e>> {
    let mut said = BTreeSet::new();
    let marked = marked.iter().filter_map(|at| wishes.get(*at));
    let all = marked.flat_map(|wish| [Some(wish.deeds), wish.also].into_iter().flatten());
    all.filter(|deeds| said.insert((deeds.service, deeds.fact))).collect()
}

/// Who answers and who subscribes. Gives what is answered.
pub fn answers(case: &mut Case<'_>) -> Vec<Pattern> {
    let answered = case.deeds(|fact| *fact == Fact::Answers);
    let subscribed = case.deeds(|fact| *fact == Fact::Subscribes);
    let mut wishes: Vec<Wish<'_, '_>> = Vec::new();
    let mut listens: Vec<Wish<'_, '_>> = Vec::new();
    for deeds in &subscribed {
        let own = answered.iter().find(|other| other.service == deeds.service);
        let asked: Vec<Pattern> = own.map(|own| patterns(case, own)).unwrap_or_default();
        for wish in case.patterns(deeds).into_iter().filter_map(|seen| Wish::of(deeds, seen)) {
            if asked.iter().any(|asked| asked.overlaps(&wish.pattern)) {
                wishes.push(Wish { also: own, ..wish });
            } else {
                listens.push(wish);
            }
        }
    }
    // Who subscribed before the trace began is known by the answers alone.
    for deeds in &answered {
        let heard = |pattern: &Pattern, wishes: &[Wish<'_, '_>]| {
            let own = wishes.iter().filter(|wish| wish.deeds.service == deeds.service);
            own.into_iter().any(|wish| pattern.is_subset_of(&wish.pattern))
        };
        let all = case.patterns(deeds).into_iter().filter_map(|seen| Wish::of(deeds, seen));
        let left: Vec<Wish<'_, '_>> = all.filter(|w| !heard(&w.pattern, &wishes)).collect();
        wishes.extend(left);
    }
    let mut contested: BTreeSet<usize> = BTreeSet::new();
    for at in 0..wishes.len() {
        if contested.contains(&at) {
            continue;
        }
        let Some(one) = wishes.get(at) else { continue };
        let meets = |(_, two): &(usize, &Wish<'_, '_>)| {
            two.deeds.service != one.deeds.service && two.pattern.overlaps(&one.pattern)
        };
        let others: BTreeSet<usize> =
            wishes.iter().enumerate().filter(meets).map(|(other, _)| other).collect();
        if others.is_empty() {
            continue;
        }
        let group: BTreeSet<usize> = others.into_iter().chain([at]).collect();
        let who = about(&wishes, &group);
        let subject = &one.pattern;
        case.conflict("answerers", format!("{subject} is answered by {}", names(&who)), &who);
        let mut choices: Vec<String> = group
            .iter()
            .filter_map(|at| wishes.get(*at))
            .filter(|wish| wish.deeds.is_known())
            .map(|w| format!("in [service.{}]: answers = [\"{}\"]", w.deeds.service, w.pattern))
            .collect();
        choices.push("both lines, if a caller may be answered by either".to_owned());
        let question = format!("who answers {subject}? It is answered by {}", names(&who));
        case.ask(question, &who, choices);
        contested.extend(group);
    }
    for (at, wish) in wishes.iter().enumerate() {
        if !contested.contains(&at) {
            give(case, "answers", wish, "");
        }
    }
    for wish in &listens {
        give(case, "subscribes", wish, "");
    }
    wishes.into_iter().map(|wish| wish.pattern).collect()
}

fn patterns(case: &Case<'_>, deeds: &Deeds<'_>) -> Vec<Pattern> {
    let all = case.patterns(deeds).into_iter();
    all.filter_map(|seen| Pattern::parse(&seen.pattern).ok()).collect()
}

fn give(case: &mut Case<'_>, key: &'static str, wish: &Wish<'_, '_>, also: &str) {
    if let Some(why) = system(&wish.pattern) {
        return case.refuse(wish.deeds, why);
    }
    let note = format!("{}{also}", wish.seen.tally);
    case.grant(wish.deeds.service, Item::element(key, wish.pattern.as_str(), note, wish.facts()));
}

/// Why no policy grants a plain subject.
fn system(pattern: &Pattern) -> Option<String> {
    let first = pattern.first_token();
    if pattern.starts_with_wildcard() {
        return Some(format!("{pattern} reaches keys, inboxes and JetStream: name what is needed"));
    }
    first.starts_with(['$', '_']).then(|| format!("{pattern} belongs to the server"))
}

/// Who publishes and who calls. No two services write one subject of a stream.
pub fn published(case: &mut Case<'_>, answered: &[Pattern], streams: &[Kept<'_>]) {
    let publishing = case.deeds(|fact| matches!(fact, Fact::Publishes | Fact::Requests));
    let mut wishes: Vec<Wish<'_, '_>> = Vec::new();
    for deeds in &publishing {
        wishes.extend(case.patterns(deeds).into_iter().filter_map(|seen| Wish::of(deeds, seen)));
    }
    let mut contested: BTreeSet<usize> = BTreeSet::new();
    for stream in streams {
        let writes = |(at, wish): (usize, &Wish<'_, '_>)| {
            stream.subjects.iter().any(|kept| kept.overlaps(&wish.pattern)).then_some(at)
        };
        let writers: Vec<usize> = wishes.iter().enumerate().filter_map(writes).collect();
        contested.extend(several_writers(case, stream, &wishes, &writers, &contested));
    }
    for (at, wish) in wishes.iter().enumerate() {
        if contested.contains(&at) {
            continue;
        }
        let kept = streams
            .iter()
            .flat_map(|stream| &stream.subjects)
            .any(|kept| kept.overlaps(&wish.pattern));
        let is_answered = answered.iter().any(|pattern| pattern.overlaps(&wish.pattern));
        let (key, also) = match wish.deeds.fact {
            Fact::Requests if is_answered => ("calls", ""),
            Fact::Requests if !kept => ("calls", "; nobody was seen to answer"),
            _ => ("publishes", ""),
        };
        give(case, key, wish, also);
    }
}

/// What a question decides of the writers of a stream.
fn several_writers(
    case: &mut Case<'_>,
    stream: &Kept<'_>,
    wishes: &[Wish<'_, '_>],
    writers: &[usize],
    contested: &BTreeSet<usize>,
) -> BTreeSet<usize> {
    let service = |at: &usize| wishes.get(*at).map(|wish| Arc::clone(wish.deeds.service));
    let several = |of: &[usize]| of.iter().filter_map(service).collect::<BTreeSet<_>>().len() > 1;
    if !several(writers) {
        return BTreeSet::new();
    }
    let all: BTreeSet<usize> = writers.iter().copied().collect();
    let who = about(wishes, &all);
    let name = stream.name.as_str();
    case.conflict("stream-writers", format!("stream {name} is written by {}", names(&who)), &who);
    let mut met: BTreeSet<usize> = BTreeSet::new();
    for (i, one) in writers.iter().enumerate() {
        for two in writers.iter().skip(i + 1) {
            let (Some(a), Some(b)) = (wishes.get(*one), wishes.get(*two)) else { continue };
            if a.deeds.service != b.deeds.service && meet(stream, &a.pattern, &b.pattern) {
                met.extend([*one, *two]);
            }
        }
    }
    let left: Vec<usize> =
        writers.iter().copied().filter(|at| !met.contains(at) && !contested.contains(at)).collect();
    let lines = |of: &BTreeSet<usize>| {
        let known = of.iter().filter_map(|at| wishes.get(*at)).filter(|w| w.deeds.is_known());
        known
            .map(|w| format!("in [service.{}]: publishes = [\"{}\"]", w.deeds.service, w.pattern))
            .collect::<Vec<_>>()
    };
    if !met.is_empty() {
        let who = about(wishes, &met);
        let mut choices = lines(&met);
        choices.push(format!(
            "all of these lines, if several may write one subject; in [stream.{name}]: writers = \
             \"many\", reason = \"WHY\", duplicate_window = \"100ms\""
        ));
        choices
            .extend(stream.harm.as_ref().map(|harm| format!("that needs other settings: {harm}")));
        let question = format!(
            "who writes into stream {name}? One subject of it is written by {}",
            names(&who)
        );
        let number = case.ask(question, &who, choices);
        stream.note(case, format!("Several services write one subject: see QUESTION {number}."));
    }
    if !several(&left) {
        return met;
    }
    let Some(harm) = &stream.harm else {
        // Safe for writers of different subjects once this is short.
        stream.shorten_window(case);
        return met;
    };
    let left: BTreeSet<usize> = left.into_iter().collect();
    let who = about(wishes, &left);
    let mut choices = vec![format!("change the settings of [stream.{name}], then all of these:")];
    choices.extend(lines(&left));
    let question = format!(
        "is stream {name} to be written by several services, {}? It is not safe: {harm}",
        names(&who)
    );
    case.ask(question, &who, choices);
    met.extend(left);
    met
}

fn meet(stream: &Kept<'_>, one: &Pattern, two: &Pattern) -> bool {
    stream.subjects.iter().any(|kept| {
        let both = (one.intersection(kept), two.intersection(kept));
        matches!(both, (Some(one), Some(two)) if one.overlaps(&two))
    })
}
