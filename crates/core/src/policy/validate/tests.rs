//! The messages are in `tests/fixtures`; here is what no single policy can show.

use proptest::prelude::*;

use super::*;
use crate::analysis::diff::diff;
use crate::diagnostics::Severity;
use crate::diagnostics::render::Style;
use crate::grant::Defaults;
use crate::handover::claims::Claims;
use crate::keys::{Seed, Signer, User};
use crate::policy::model::Access;
use solewriter_types::keyspace::Keyspace;
use solewriter_types::subject::{Pattern, Subject};

/// Pieces that get further into the language than arbitrary characters do.
const PIECES: &[&str] = &[
    "[service.a]\n",
    "[service.\"b.c\"]\n",
    "[[service.a]]\n",
    "[service]\n",
    "[bucket.orders]\n",
    "[stream.S]\n",
    "[stream.S.consumer.c]\n",
    "[store.s]\n",
    "subjects = ",
    "retention = \"workqueue\"\n",
    "writers = \"many\"\n",
    "filter = ",
    "backoff = ",
    "deliver = \"last_per_subject\"\n",
    "calls = ",
    "[\"{name}.>\"]\n",
    "[\"a.>\", \"a.*.b\"]\n",
    "[role.r]\n",
    "[naming]\n",
    "[[naming.except]]\n",
    "[defaults]\n",
    "buckets = ",
    "events = ",
    "requests = ",
    "entries = ",
    "reason = ",
    "service = ",
    "roles = ",
    "answers = ",
    "history = ",
    "max_bytes = ",
    "part_owners = true\n",
    "\"{service}\"",
    "\"{name}.>\"",
    "\"*\"",
    "\"r\"",
    "nkeys = ",
    "owns = ",
    "reads = ",
    "publishes = ",
    "sources = ",
    "connections = ",
    "lifetime = ",
    "disabled = ",
    "key = ",
    "[",
    "]",
    "{",
    "}",
    ",",
    "\n",
    "\"",
    "\"\"\"",
    "\"orders\"",
    "\"orders/a.>\"",
    "\"UB3JFQ5NGVALXAB4AIFTV3TGZWEIOERSGTVAY3TRIPAK3VZ76QY632XP\"",
    "\"1h\"",
    "\"10.0.0.0/8\"",
    "2027-01-01T00:00:00Z",
    "é",
    "\u{0}",
    "\u{feff}",
    "\r\n",
    "\t",
    "#",
    "=",
    ".",
    "*",
    ">",
    "'",
    "\\u0000",
    "\u{202e}",
    "0x",
    "9e9",
];

fn any_text() -> impl Strategy<Value = String> {
    let piece = prop_oneof![
        8 => prop::sample::select(PIECES).prop_map(str::to_owned),
        1 => any::<String>(),
    ];
    prop::collection::vec(piece, 0..40).prop_map(|pieces| pieces.concat())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]
    #[test]
    fn never_panics(texts in prop::collection::vec(any_text(), 0..3)) {
        let files: Vec<_> =
            texts.iter().enumerate().map(|(i, t)| SourceFile::new(format!("{i}"), t.as_str())).collect();
        if let Err(problems) = validate(&files) {
            prop_assert!(problems.has_errors());
            prop_assert!(!problems.render(Style::Plain).is_empty());
            prop_assert!(!problems.render(Style::Coloured).is_empty());
        }
    }

    #[test]
    fn what_validates_has_one_writer_for_any_key(
        owns in prop::collection::vec(
            prop::collection::vec("(p|q)(/(a|b|\\*)(\\.(a|b)){0,2}(\\.>)?)?", 0..3), 1..4)
    ) {
        let mut text = String::new();
        for bucket in ["p", "q"] {
            text += &format!(
                "[bucket.{bucket}]\npart_owners = true\nrollup = false\nduplicate_window = '100ms'\n"
            );
        }
        for (i, entries) in owns.iter().enumerate() {
            text += &format!("[service.s{i}]\nowns = {entries:?}\n");
        }
        let owns: Vec<Vec<Keyspace>> = owns
            .iter()
            .map(|entries| entries.iter().filter_map(|e| Keyspace::parse(e).ok()).collect())
            .collect();
        let Ok(valid) = validate(&[SourceFile::new("p", text)]) else { return Ok(()) };
        prop_assert_eq!(valid.policy.services().len(), owns.len());
        for (i, mine) in valid.policy.services().iter().enumerate() {
            for theirs in valid.policy.services().iter().skip(i + 1) {
                for a in &mine.rules {
                    for b in &theirs.rules {
                        if let (Access::Owns(a), Access::Owns(b)) = (&a.access, &b.access) {
                            prop_assert_eq!(a.shared_key(b), None);
                        }
                    }
                }
            }
        }
    }

    #[test]
    fn what_validates_has_one_writer_for_any_subject_of_a_stream(
        subjects in prop::collection::vec("(p|q)(\\.>|(\\.(a|b|\\*)){1,2}(\\.>)?)", 1..3),
        writes in prop::collection::vec(
            prop::collection::vec("(p|q)(\\.(a|b|\\*)){0,2}(\\.>)?", 0..3), 1..4)
    ) {
        let mut text = format!("[stream.S]\nduplicate_window = '100ms'\nsubjects = {subjects:?}\n");
        for (i, entries) in writes.iter().enumerate() {
            let verb = if i % 2 == 0 { "publishes" } else { "calls" };
            text += &format!("[service.s{i}]\n{verb} = {entries:?}\n");
        }
        // Patterns of so few tokens are held against every subject that there is.
        let tokens = ["p", "q", "a", "b", "c"];
        let longer = |texts: &[String]| -> Vec<String> {
            texts.iter().flat_map(|t| tokens.map(|token| format!("{t}.{token}"))).collect()
        };
        let one: Vec<String> = ["p", "q"].map(str::to_owned).to_vec();
        let (two, three) = (longer(&one), longer(&longer(&one)));
        let all: Vec<Subject> = one
            .iter()
            .chain(&two)
            .chain(&three)
            .chain(&longer(&three))
            .map(|subject| Subject::parse(subject).unwrap())
            .collect();
        let patterns = |texts: &[String]| -> Vec<Pattern> {
            texts.iter().map(|text| Pattern::parse(text).unwrap()).collect()
        };
        let kept = patterns(&subjects);
        let writes: Vec<Vec<Pattern>> = writes.iter().map(|texts| patterns(texts)).collect();
        let has = |list: &[Pattern], subject: &Subject| list.iter().any(|p| p.matches(subject));
        let shared = all.iter().any(|subject| {
            has(&kept, subject) && writes.iter().filter(|list| has(list, subject)).count() > 1
        });
        match validate(&[SourceFile::new("p", text)]) {
            Ok(valid) => {
                prop_assert_eq!(valid.policy.streams().len(), 1);
                prop_assert!(!shared);
            }
            Err(problems) => {
                let codes: Vec<&str> = problems
                    .iter()
                    .filter(|p| p.severity == Severity::Error)
                    .map(|p| p.code)
                    .collect();
                let known = ["two-writers", "two-streams"];
                prop_assert!(codes.iter().all(|code| known.contains(code)), "{:?}", codes);
                prop_assert_eq!(codes.contains(&"two-writers"), shared);
            }
        }
    }
}

#[test]
fn streams_that_take_too_long_to_compare_are_refused() {
    // Each publishes what nobody else does, in a way that only a search shows.
    let mut text = String::from("[stream.S]\nduplicate_window = '100ms'\nsubjects = ['s.>']\n");
    for service in 0..2 {
        let list: Vec<String> = (0..1 << 12)
            .map(|i: u32| {
                let tokens: String =
                    (0..12).map(|bit| if i >> bit & 1 == 0 { "a." } else { "*." }).collect();
                format!("s.{tokens}x{service}")
            })
            .collect();
        text += &format!("[service.s{service}]\npublishes = {list:?}\n");
    }
    let problems = validate(&[SourceFile::new("p", text)]).unwrap_err();
    assert!(problems.iter().any(|problem| problem.code == "too-entangled"), "{problems}");
}

#[test]
fn the_revision_is_of_names_and_texts_in_any_order() {
    let file = SourceFile::new;
    let one = revision(&[file("a", "x"), file("b", "y")]);
    assert_eq!(one, revision(&[file("b", "y"), file("a", "x")]));
    assert_ne!(one, revision(&[file("a", "xb"), file("", "y")]));
    assert_ne!(one, revision(&[file("a", "x"), file("b", "z")]));
    assert_eq!((one.whole().len(), one.to_string().len()), (64, 12));
}

#[test]
fn a_seed_in_the_policy_is_not_repeated() {
    let seed = crate::keys::Seed::<crate::keys::User>::generate();
    let secret = seed.expose();
    let text = format!(
        "[service.{secret}]\nnkeys = [\"{secret}\"]\n{secret} = 1\nowns = [\"{secret}\", \"{secret} \"]\n\
         account = \" {secret}\"\n"
    );
    let problems = validate(&[SourceFile::new("p", text)]).unwrap_err();
    let shown = format!("{problems} {}", problems.render(Style::Coloured));
    assert!(shown.contains("which is secret"));
    assert!(!shown.contains(&secret[10..30]), "{shown}");
}

#[test]
fn what_little_text_stands_for_is_bounded() {
    let mut text = String::from("[role.all]\nreads = [\"*\"]\n");
    for i in 0..1001 {
        text += &format!("[bucket.b{i}]\n[service.s{i}]\nroles = [\"all\"]\n");
    }
    let problems = validate(&[SourceFile::new("p", text)]).unwrap_err();
    assert!(problems.iter().any(|problem| problem.code == "too-many-rules"));
}

#[test]
fn a_convention_has_so_many_templates_at_most() {
    let policy = |count| {
        let templates: Vec<String> = (0..count).map(|n| format!("n{n}.>")).collect();
        let text = format!(
            "[naming]
events = {templates:?}
[service.s]
publishes = ['n0.a']
"
        );
        validate(&[SourceFile::new("p", text)])
    };
    policy(200).unwrap();
    let problems = policy(201).unwrap_err();
    assert!(problems.iter().any(|problem| problem.code == "too-many-templates"));
}

#[test]
fn what_has_ended_is_not_granted() {
    const END: i64 = 1_798_135_200;
    let text = "[bucket.k]\n[bucket.l]\n[role.r]\nreads = [{ entry = 'l', until = 2026-12-24T18:00:00Z }]\n\
                [service.a]\nowns = [{ entry = 'k', until = '2026-12-24T18:00:00Z' }]\n\
                publishes = ['events.a']\n[service.b]\nroles = ['r']\nreads = ['k']\n";
    let files = [SourceFile::new("p.toml", text)];
    let policy = validate(&files).unwrap().policy;
    let rules = |policy: &Policy| {
        let all = policy.services().iter().flat_map(|service| &service.rules);
        all.map(|rule| rule.access.to_string()).collect::<Vec<_>>().join(", ")
    };
    let whole = "owns k, publishes events.a, reads k, reads l";
    for (now, granted) in [
        (END - 1, whole),
        (END, "publishes events.a, reads k"),
        (END + 1, "publishes events.a, reads k"),
    ] {
        assert_eq!(rules(&policy.at(now)), granted, "{now}");
    }
    assert_eq!(rules(&policy), whole, "without a time, all of it");
    assert_eq!(policy.at(END - 1).revision(), policy.revision());
    let (ended, later) = (policy.at(END), policy.at(END + 9));
    assert_ne!(ended.revision(), policy.revision());
    assert_eq!((ended.revision(), ended.documents()), (later.revision(), policy.revision()));
    assert_eq!((policy.ends_next(0), policy.ends_next(END)), (Some(END), None));
    // It counts as a writer all the same.
    let two = format!("{text}[service.c]\nowns = ['k']\n");
    let problems = validate(&[SourceFile::new("p.toml", two)]).unwrap_err();
    assert!(problems.to_string().contains("`a` and `c` would both write `k/"), "{problems}");
}

/// What else a service of an edited policy may say.
const SAYS: &[&str] = &[
    "",
    "subscribes = [\"e.>\"]\n",
    "subscribes = [\"e.>\", \"f.*\"]\n",
    "reads = [{ entry = \"b0\", until = 2099-01-01T00:00:00Z }]\n",
    "reads = [{ entry = \"b0\", until = 2099-01-02T00:00:00Z }]\n",
    "publishes = [\"e.a\"]\nreplays = [\"S\"]\n",
    "lifetime = \"1h\"\nroles = [\"r\"]\n",
    "disabled = \"why\"\n",
    "enforce = \"observe\"\n[service.NAME.before]\npublish = [\">\"]\nsubscribe = [\"g.>\"]\n",
];

/// For each service: whether it is there, whether it has its bucket, what else it says, and whether
/// a line is put before it.
type Edited = Vec<(bool, bool, usize, bool)>;

/// Each service's key and bucket are those of its number, or of the next one.
fn edited(keys: &[String], services: &Edited, moved: (usize, usize), consumer: bool) -> String {
    let number = services.len();
    let mut text =
        "[stream.S]\nsubjects = [\"e.>\"]\nwriters = \"many\"\nreason = \"r\"\n".to_owned();
    text += if consumer { "[stream.S.consumer.c]\n" } else { "" };
    text += "[role.r]\ncalls = [\"c.{service}.>\"]\n";
    for i in 0..number {
        text += &format!("[bucket.b{i}]\n");
    }
    for (i, (there, owns, says, line)) in services.iter().enumerate() {
        if !there {
            continue;
        }
        text += if *line { "# a line\n" } else { "" };
        let (key, bucket) = (&keys[(i + moved.0) % number], (i + moved.1) % number);
        text += &format!("[service.s{i}]\nnkeys = [\"{key}\"]\n");
        text += &if *owns { format!("owns = [\"b{bucket}\"]\n") } else { String::new() };
        text += &SAYS[*says].replace("NAME", &format!("s{i}"));
    }
    text
}

fn any_edited() -> impl Strategy<Value = (Edited, (usize, usize), bool)> {
    // Most services say the same before and after, as after a change of a real policy.
    let says = prop_oneof![3 => Just(1), 2 => 0..SAYS.len()];
    let service =
        (prop::bool::weighted(0.9), prop::bool::weighted(0.8), says, prop::bool::weighted(0.2));
    let moved = prop_oneof![3 => Just((0, 0)), 1 => (0..2_usize, 0..2_usize)];
    (prop::collection::vec(service, 5), moved, any::<bool>())
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 200, ..ProptestConfig::default() })]

    /// Whoever shares services with an earlier policy is the same policy, and compares in the same
    /// way.
    #[test]
    fn what_policies_share_changes_nothing(one in any_edited(), two in any_edited(), file in any::<bool>()) {
        let keys: Vec<String> = (0..5)
            .map(|_| Signer::new(&Seed::<User>::generate()).unwrap().public().to_string())
            .collect();
        let policy = |(services, moved, consumer): &(Edited, _, _), name: &str| {
            let text = edited(&keys, services, *moved, *consumer);
            validate(&[SourceFile::new(name, text)]).map(|validated| validated.policy)
        };
        let (before, after) = (policy(&one, "p.toml"), policy(&two, if file { "q.toml" } else { "p.toml" }));
        let (Ok(before), Ok(after)) = (before, after) else { return Ok(()) };
        let shared = after.clone().sharing(&before);

        prop_assert_eq!(shared.revision(), after.revision());
        prop_assert_eq!(shared.documents(), after.documents());
        prop_assert_eq!(shared.services(), after.services());
        prop_assert_eq!(shared.buckets(), after.buckets());
        prop_assert_eq!(shared.streams(), after.streams());
        for key in keys.iter().map(|key| crate::keys::UserKey::parse(key).unwrap()) {
            prop_assert_eq!(shared.holder(&key), after.holder(&key));
        }
        for bucket in after.buckets() {
            let whole = Keyspace::whole(bucket.name.clone());
            let owners = |policy: &Policy| -> Vec<_> {
                policy.owners(&whole).map(|(service, rule)| (service.clone(), rule.clone())).collect()
            };
            prop_assert_eq!(owners(&shared), owners(&after));
        }
        // Whoever is not shared differs, and the other way round.
        let differing = |new: &Policy| -> Vec<(Option<Service>, Option<Service>)> {
            let compared = new.compared(&before);
            let compared = compared.map(|(old, new)| (old.cloned(), new.cloned()));
            compared.filter(|(old, new)| old != new).collect()
        };
        prop_assert_eq!(shared.compared(&before).count(), differing(&shared).len());
        prop_assert_eq!(differing(&shared), differing(&after));
        let defaults = Defaults {
            account: "APP".into(),
            lifetime: std::time::Duration::from_secs(3600),
            audit: AuditStreams::default(),
        };
        prop_assert_eq!(
            diff(&before, &shared, &defaults).unwrap(),
            diff(&before, &after, &defaults).unwrap()
        );
        prop_assert_eq!(
            diff(&shared, &before, &defaults).unwrap(),
            diff(&after, &before, &defaults).unwrap()
        );
        let claims = |new: &Policy| Claims::default().next(&before, new);
        prop_assert_eq!(claims(&shared), claims(&after));
    }
}

/// A bucket that is not declared was not looked for behind so many warnings.
#[test]
fn however_many_warnings_there_are_an_error_is_found() {
    let many = crate::diagnostics::MAX_PROBLEMS + 1;
    let covered = "'e.x', 'e.x', ".repeat(many);
    let text = format!("[service.s]\nreads = ['nowhere']\npublishes = [{covered}]\n");
    let problems = validate(&[SourceFile::new("p.toml", text)]).unwrap_err();
    assert!(problems.iter().any(|problem| problem.code == "undeclared-bucket"));
    assert!(problems.unreported() > 0);
}
