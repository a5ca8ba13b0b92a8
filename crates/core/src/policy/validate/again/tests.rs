//! Whatever changes in whatever policy: what comes out is what judging the whole gives.

use std::fmt::Write as _;

use proptest::prelude::*;

use super::*;
use crate::keys::{Seed, Signer, User};
use crate::policy::model::Access;
use crate::policy::validate::threads::Threads;
use crate::policy::validate::{judge_by, judge_with, validate_for};

const FILES: usize = 5;

/// Choices for one file, taken one after the other; then the first of each.
struct Dice<'d>(std::slice::Iter<'d, u8>);

impl Dice<'_> {
    fn below(&mut self, sides: u8) -> usize {
        usize::from(self.0.next().copied().unwrap_or_default() % sides)
    }

    fn one<T: Copy>(&mut self, of: &[T]) -> T {
        of[self.below(u8::try_from(of.len()).unwrap())]
    }

    /// One time in so many.
    fn seldom(&mut self, sides: u8) -> bool {
        self.below(sides) == 1
    }

    /// None to three of these.
    fn some(&mut self, of: &[&str]) -> Vec<String> {
        let count = [0, 1, 1, 2, 0, 3][self.below(6)];
        (0..count).map(|_| self.one(of).to_owned()).collect()
    }
}

const READ: &[&str] = &["b0", "b1", "b2", "b3/x.>", "b3", "copy", "store:t1", "b4"];
const SUBJECTS: &[&str] =
    &["e.a.x", "e.a.>", "e.b.*", "e.b.c", "q.a.x", "q.b.>", "w.a.x", "w.b.x", "w.b.*", "n.a"];
const CONSUMERS: &[&str] = &["W/c", "W/d"];
const NAMES: &[&str] = &["api", "quotes", "Quotes"];
const OWN: [&str; FILES] = ["b0", "b1", "b2", "b3/x.>", "b3/y.>"];

/// What a file of that number says. Mostly something that holds; sometimes it takes what is another's.
fn text(number: usize, choices: &[u8], keys: &[String]) -> String {
    let dice = &mut Dice(choices.iter());
    let mut text = "#\n".repeat(dice.below(3));
    if number == 0 {
        general(&mut text, dice);
    }
    let bucket = if dice.seldom(40) { (number + 1) % FILES } else { number };
    if !dice.seldom(30) {
        let _ = writeln!(text, "[bucket.b{bucket}]");
        if bucket == 3 {
            text += "part_owners = true\nrollup = false\nduplicate_window = '100ms'\n";
        }
        if dice.seldom(6) {
            text += "description = 'd'\ndirect = true\n";
        }
    }
    if number == 1 {
        text += "[store.t1]\n";
    }
    if number == 2 && !dice.seldom(20) {
        text += "[bucket.copy]\ncopy_of = 'b1'\n";
    }
    if number == 3 {
        text += "[stream.W]\nsubjects = ['w.>']\nduplicate_window = '100ms'\n";
        text +=
            dice.one(&["", "", "max_bytes = 100\n discard = 'new'\n", "retention = 'interest'\n"]);
        text += "[stream.W.consumer.c]\nfilter = ['w.a.>']\n[stream.W.consumer.d]\nfilter = ['w.b.>']\n";
        text += dice.one(&["", "", "shared = 'both may'\n"]);
    }
    for service in 0..=dice.below(2) {
        let name = if dice.seldom(40) { (number + 1) % FILES } else { number };
        let _ = writeln!(text, "[service.s{name}{service}]");
        if !dice.seldom(4) {
            let key = if dice.seldom(30) { 0 } else { 1 + number * 2 + service };
            let _ = writeln!(text, "nkeys = ['{}']", keys[key]);
        }
        let mut owns: Vec<String> = Vec::new();
        if service == 0 && !dice.seldom(5) {
            owns.push(OWN[number].to_owned());
        }
        if number == 1 && service == 1 {
            owns.push("store:t1".to_owned());
        }
        if dice.seldom(30) {
            owns.push(dice.one(&["b0", "b3/x.y", "b3/*.z", "store:t1", "copy"]).to_owned());
        }
        let mut reads = dice.some(READ);
        if dice.seldom(15) {
            reads.push("*".to_owned());
        }
        // Each writes subjects of its own into the stream.
        let mut sent = dice.some(&SUBJECTS[..6]);
        if dice.seldom(3) {
            sent.push(format!("w.{}.s{number}{service}", dice.one(&["a", "b"])));
        }
        if dice.seldom(30) {
            sent.push(dice.one(SUBJECTS).to_owned());
        }
        let lists = [
            ("owns", owns),
            ("reads", reads),
            ("publishes", sent),
            ("subscribes", dice.some(SUBJECTS)),
            ("answers", dice.some(&["q.a.x", "q.b.>", "q.b.c"])),
            ("calls", dice.some(&["q.a.x", "q.b.c", "q.c.x"])),
            (
                "consumes",
                if service == 0 && (number < 2 || dice.seldom(20)) {
                    dice.some(&CONSUMERS[number % 2..])
                } else {
                    Vec::new()
                },
            ),
            ("replays", if dice.seldom(4) { dice.some(&["W", "W/w.a.x"]) } else { Vec::new() }),
            (
                "found_as",
                if number < 3 && dice.seldom(3) {
                    vec![NAMES[number].to_owned()]
                } else {
                    Vec::new()
                },
            ),
            (
                "discovers",
                if dice.seldom(9) { dice.some(&["api", "quotes", "*"]) } else { Vec::new() },
            ),
            ("roles", if dice.seldom(2) { dice.some(&["r", "p"]) } else { Vec::new() }),
        ];
        for (key, list) in lists.iter().filter(|(_, list)| !list.is_empty()) {
            let mut list = format!("{list:?}");
            if *key == "publishes" && dice.seldom(5) {
                let until = dice.one(&["2027-01-15T08:00:00Z", "2030-03-17T17:46:40Z"]);
                list = format!("[{{entry = \"e.until\", until = {until}}}]");
            }
            let _ = writeln!(text, "{key} = {list}");
        }
        if dice.seldom(50) {
            text += "enforce = 'observe'\n[service.s00.before]\npublish = ['>']\n";
        }
    }
    if dice.seldom(60) {
        text += "[oops\n";
    }
    text
}

/// Tables that reach services of other files.
fn general(text: &mut String, dice: &mut Dice<'_>) {
    if !dice.seldom(20) {
        *text += "[role.r]\nreads = ['b0', 'b-{service}']\ncalls = ['q.a.x']\n";
        *text += dice.one(&["", "subscribes = ['e.{service}.x', 'e.z.z']\n"]);
        for service in 0..FILES {
            let _ = writeln!(text, "[bucket.b-s{service}0]\n[bucket.b-s{service}1]");
        }
        *text += "[role.p]\nsubscribes = ['w.a.x']\n";
    }
    if dice.seldom(3) {
        *text += "[naming]\nfound = ['api', 'quotes']\nevents = ['{name}.>', 'w.>']\n";
        *text +=
            "[[naming.except]]\nservice = 's10'\nentries = ['Quotes', 'x.y']\nreason = 'old'\n";
    }
}

fn keys() -> Vec<String> {
    let key = |_| Signer::<User>::new(&Seed::generate()).unwrap().public().as_str().to_owned();
    (0..=2 * FILES).map(key).collect()
}

fn files(worlds: &[Option<Vec<u8>>], keys: &[String]) -> Vec<SourceFile> {
    let file = |(number, choices): (usize, &Option<Vec<u8>>)| {
        let text = text(number, choices.as_ref()?, keys);
        Some(SourceFile::new(format!("{number}.toml"), text))
    };
    worlds.iter().enumerate().filter_map(file).collect()
}

/// Everything that a policy answers.
fn same(a: &Policy, b: &Policy) {
    assert_eq!(a.revision(), b.revision());
    assert_eq!(a.services(), b.services());
    assert_eq!(a.declared(), b.declared());
    for now in [0, 1_800_000_000, 1_900_000_000, 2_000_000_000] {
        assert_eq!(a.ends_next(now), b.ends_next(now));
        assert_eq!(a.at(now).revision(), b.at(now).revision());
        assert_eq!(a.at(now).services(), b.at(now).services());
    }
    for service in b.services() {
        for key in &service.keys {
            let holder =
                |policy: &Policy| policy.holder(&key.key).map(|(s, k)| (s.clone(), k.clone()));
            assert_eq!(holder(a), holder(b));
        }
        for rule in &service.rules {
            if let Access::Owns(keyspace) | Access::Reads(keyspace) = &rule.access {
                let owners = |policy: &Policy| -> Vec<_> {
                    let owners = policy.owners(keyspace);
                    owners.map(|(service, rule)| (service.name.clone(), rule.clone())).collect()
                };
                assert_eq!(owners(a), owners(b));
            }
        }
    }
}

/// Holds the one way against the other, and gives what is known then, and whether it came from the
/// change alone.
fn step(basis: Option<&Basis>, files: &[SourceFile]) -> (Option<Basis>, bool) {
    let audit = AuditStreams::default();
    let full = validate_for(files, &audit);
    let Some(next) = basis.and_then(|basis| again(basis, files, &audit, usize::MAX)) else {
        let judged = judge(Case::whole(files, &audit));
        let known = whole(judged, files, None).ok().and_then(|(_, known)| known);
        return (known.or_else(|| basis.cloned()), false);
    };
    let full = full.unwrap_or_else(|problems| panic!("the whole does not hold:\n{problems}"));
    same(&next.policy, &full.policy);
    assert_eq!(next.warnings, full.warnings, "{}\n{}", next.warnings, full.warnings);
    let judged = judge(Case::whole(files, &audit));
    let whole = whole(judged, files, None).unwrap().1.unwrap();
    assert_eq!((next.rules, &next.general), (whole.rules, &whole.general));
    assert_eq!(spent(next.spent), spent(whole.spent));
    (Some(next), true)
}

fn spent(spent: Spent) -> (usize, usize, usize) {
    (spent.owners, spent.streams, spent.stars)
}

fn choices() -> impl Strategy<Value = Vec<u8>> {
    prop::collection::vec(any::<u8>(), 0..60)
}

/// What becomes of a file.
#[derive(Clone, Debug)]
enum Edit {
    /// One choice is another.
    One(usize, u8),
    /// It is another file.
    All(Vec<u8>),
    Removed,
}

/// A file's number, and what becomes of it; seldom of the one with tables for all.
fn edit() -> impl Strategy<Value = (usize, Edit)> {
    let what = prop_oneof![
        6 => (0..50_usize, any::<u8>()).prop_map(|(at, choice)| Edit::One(at, choice)),
        3 => choices().prop_map(Edit::All),
        1 => Just(Edit::Removed),
    ];
    (prop_oneof![1 => Just(0), 12 => 1..FILES], what)
}

fn change(world: &mut Option<Vec<u8>>, edit: Edit) {
    *world = match edit {
        Edit::One(at, choice) => {
            let mut choices = world.take().unwrap_or_default();
            choices.resize(choices.len().max(at + 1), 0);
            choices[at] = choice;
            Some(choices)
        }
        Edit::All(choices) => Some(choices),
        Edit::Removed => None,
    };
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(150))]
    #[test]
    fn a_change_by_itself_comes_to_what_the_whole_comes_to(
        first in prop::collection::vec(choices(), FILES),
        edits in prop::collection::vec(edit(), 1..20),
    ) {
        let keys = keys();
        let mut worlds: Vec<_> = first.into_iter().map(Some).collect();
        let (mut basis, _) = step(None, &files(&worlds, &keys));
        for (number, edit) in edits {
            change(&mut worlds[number], edit);
            (basis, _) = step(basis.as_ref(), &files(&worlds, &keys));
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]
    #[test]
    fn several_threads_come_to_what_one_comes_to(
        worlds in prop::collection::vec(prop::option::weighted(0.9, choices()), FILES),
    ) {
        let (files, audit) = (files(&worlds, &keys()), AuditStreams::default());
        let by = |threads| judge_by(threads, Case::whole(&files, &audit));
        let (one, several) = (by(Threads::ONE), by(Threads::of(3)));
        let Sketch { revision, services, declared, problems } = several.sketch;
        assert_eq!(problems, one.sketch.problems, "{problems}\n{}", one.sketch.problems);
        assert_eq!((revision, services), (one.sketch.revision, one.sketch.services));
        assert!(declared == one.sketch.declared);
        assert_eq!(spent(several.spent), spent(one.spent));
    }
}

/// A company in which everything is used by somebody of another file. Others are there, too.
const COMPANY: &[(&str, &str)] = &[
    (
        "a.toml",
        "[bucket.a]\n[service.a]\nnkeys = ['KEY0']\nowns = ['a']\nreads = ['shared', 'part', 'store:s']\n\
         subscribes = ['e.b.x']\ncalls = ['q.b']\nroles = ['r']\n",
    ),
    (
        "b.toml",
        "[bucket.shared]\n[service.b]\nnkeys = ['KEY1']\nowns = ['shared']\npublishes = ['e.b.>', 'w.b']\n\
         [service.answers]\nnkeys = ['KEY2']\nanswers = ['q.b']\nfound_as = ['quotes-api']\nroles = ['r']\n",
    ),
    (
        "c.toml",
        "[bucket.part]\npart_owners = true\nrollup = false\nduplicate_window = '100ms'\n[service.c1]\n\
         nkeys = ['KEY3']\nowns = ['part/x.>']\n[service.c2]\nnkeys = ['KEY4']\nowns = ['part/y.>']\n",
    ),
    (
        "d.toml",
        "[store.s]\n[service.d]\nnkeys = ['KEY5']\nowns = ['store:s', 'part/d.>']\npublishes = ['w.d']\nreads = ['copy']\n",
    ),
    (
        "e.toml",
        "[bucket.copy]\ncopy_of = 'a'\n[service.e]\nnkeys = ['KEY6']\nconsumes = ['W/c']\nreplays = ['W/w.b']\n\
         discovers = ['quotes-api']\n",
    ),
    ("role.toml", "[role.r]\nreads = ['copy']\nsubscribes = ['e.{service}.none']\n"),
    (
        "w.toml",
        "[stream.W]\nsubjects = ['w.>']\nduplicate_window = '100ms'\n[stream.W.consumer.c]\n\
         [service.w]\nnkeys = ['KEY7']\nreads = ['shared', 'lone']\n",
    ),
    ("y.toml", "[bucket.lone]\n[service.y]\nnkeys = ['KEY9']\nowns = ['lone']\n"),
];

fn company(changed: Option<(&str, &str)>, keys: &[String]) -> Vec<SourceFile> {
    let mut all: std::collections::BTreeMap<&str, &str> = COMPANY.iter().copied().collect();
    all.extend(changed);
    let named = |text: &str| {
        keys.iter().enumerate().fold(text.to_owned(), |text, (number, key)| {
            text.replace(&format!("KEY{number}'"), &format!("{key}'"))
        })
    };
    all.into_iter().map(|(name, text)| SourceFile::new(name, named(text))).collect()
}

/// How a change of the company is judged: by itself, or as a whole, and whether it holds.
fn judged(file: &str, text: &str) -> (bool, bool) {
    let keys = keys();
    let (basis, _) = step(None, &company(None, &keys));
    assert!(basis.is_some());
    let files = company(Some((file, text)), &keys);
    let holds = validate_for(&files, &AuditStreams::default()).is_ok();
    let (_, alone) = step(basis.as_ref(), &files);
    (alone, holds)
}

#[test]
fn what_matters_to_nobody_else_is_judged_by_itself() {
    let text = |file: &str| COMPANY.iter().find(|(name, _)| *name == file).unwrap().1;
    for (file, from, to) in [
        ("a.toml", "[bucket.a]", "# moved\n\n[bucket.a]"),
        ("a.toml", "owns = ['a']", "owns = ['a']\nlifetime = '1m'"),
        ("a.toml", "'shared', ", ""),
        ("a.toml", "'e.b.x'", "'e.b.y', 'e.nobody'"),
        ("a.toml", "[service.a]", "[bucket.new]\n[service.new]\nowns = ['new']\n[service.a]"),
        ("a.toml", "calls = ['q.b']", "publishes = ['e.a.x']"),
        ("b.toml", "KEY1", "KEY8"),
        ("b.toml", "'e.b.>'", "'e.b.>', 'e.c'"),
        ("b.toml", "'e.b.>'", "'e.b.>', 'w.b.new'"),
        ("b.toml", "roles = ['r']", "roles = ['r']\ncalls = ['q.b']"),
        ("c.toml", "'part/x.>'", "'part/x.>', 'part/z'"),
        ("d.toml", "'copy'", "'shared'"),
        ("d.toml", "'w.d'", "'w.d', 'w.e'"),
        ("w.toml", "'shared'", "'shared', 'a'"),
        ("e.toml", "'quotes-api'", "'quotes-api', '*'"),
        ("w.toml", "[stream.W]", "# moved\n[stream.W]"),
        ("z.toml", "", "[service.z]\nreads = ['part', 'copy']\nfound_as = ['z']\n"),
    ] {
        let old = if file == "z.toml" { String::new() } else { text(file).to_owned() };
        let new = if from.is_empty() { to.to_owned() } else { old.replace(from, to) };
        assert_ne!(new, old, "{from}");
        assert_eq!(judged(file, &new), (true, true), "{file}: {from} -> {to}");
    }
}

/// Each of these is refused, because of what stands in a file that did not change.
#[test]
fn what_another_file_forbids_is_refused() {
    for service in [
        "nkeys = ['KEY1']",
        "owns = ['shared']",
        "owns = ['part/x.y']",
        "owns = ['part/d.x']",
        "owns = ['part']",
        "owns = ['store:s']",
        "owns = ['copy']",
        "owns = ['nowhere']",
        "reads = ['nowhere']",
        "publishes = ['w.b']",
        "publishes = ['w.*']",
        "calls = ['w.d']",
        "consumes = ['W/c']",
        "consumes = ['W/none']",
        "replays = ['W/x']",
        "found_as = ['Quotes_api']",
        "found_as = ['quotes-api']",
        "discovers = ['none']",
        "roles = ['none']",
    ] {
        let text = format!("[service.z]\n{service}\n");
        assert_eq!(judged("z.toml", &text), (false, false), "{text}");
    }
    for text in [
        "[service.a]\n",
        "[bucket.a]\n",
        "[store.s]\n",
        "[stream.W]\nsubjects = ['x']\n",
        "[stream.X]\nsubjects = ['w.x']\n",
        "[bucket.more]\ncopy_of = 'copy'\n",
    ] {
        assert_eq!(judged("z.toml", text), (false, false), "{text}");
    }
    // What others need is gone.
    for (file, text) in [
        ("b.toml", "[service.b]\n"),
        ("b.toml", "[bucket.shared]\n[service.b]\nowns = ['shared']\n"),
        ("c.toml", "[bucket.part]\nduplicate_window = '200ms'\n"),
        ("c.toml", "[service.c1]\nnkeys = ['KEY3']\n[service.c2]\nnkeys = ['KEY4']\n"),
        ("d.toml", "[service.d]\n"),
        ("role.toml", "# no role\n"),
        ("w.toml", "[service.w]\n"),
        ("y.toml", "[service.y]\nnkeys = ['KEY9']\n"),
    ] {
        let (alone, holds) = judged(file, text);
        assert!(!alone, "{file}: {text}");
        assert!(!holds, "{file}: {text}");
    }
}

/// With more notes than are kept, those are carried on that stand first, wherever the change is.
#[test]
fn what_is_not_kept_is_counted() {
    let text = |file: usize, services: usize| {
        (0..services).fold(String::new(), |text, service| {
            let name = format!("s{file}-{service}");
            text + &format!("[service.{name}]\nsubscribes = ['n.{name}', 'm.{name}', 'o.{name}']\n")
        })
    };
    let company = |changed: usize, other: &str| -> Vec<SourceFile> {
        (0..9)
            .map(|file| {
                let more = if file == changed { other } else { "" };
                SourceFile::new(format!("{file}.toml"), more.to_owned() + &text(file, 60))
            })
            .collect()
    };
    let (basis, _) = step(None, &company(0, ""));
    let basis = basis.unwrap();
    assert!(basis.warnings.unreported() > 0);
    for changed in [0, 3, 5, 8] {
        for other in ["# moved\n\n", "[service.new]\nsubscribes = ['x.y', 'x.z']\n"] {
            let (_, alone) = step(Some(&basis), &company(changed, other));
            assert!(alone, "{changed}: {other}");
        }
        // What stands behind is not known any more where less stands before it.
        let mut less = company(changed, "");
        less[changed] = SourceFile::new(format!("{changed}.toml"), text(changed, 1));
        step(Some(&basis), &less);
    }
}

#[test]
fn a_flood_of_errors_is_the_same_for_several_threads() {
    let service =
        |n: usize| format!("[service.service-{n}]\nroles = ['role-{n}', 'none', 'none']\n");
    let text: String = (0..3000).map(service).collect();
    let (files, audit) = ([SourceFile::new("p.toml", text)], AuditStreams::default());
    let case = Case::whole(&files, &audit);
    let one = judge_by(Threads::ONE, case).sketch.problems;
    assert!(one.unreported() > 0);
    assert_eq!(judge_with(Threads::of(3), case).sketch.problems, one);
}
