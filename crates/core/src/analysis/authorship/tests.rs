//! Whose a change is: each kind of change, and changes that nobody thought of.

use proptest::prelude::*;

use std::collections::BTreeSet;

use super::*;
use crate::authors::document;
use crate::grant::{AuditStreams, Defaults, Grant, Side};
use crate::policy::validate::validate;

const OPS: &str = "UCRAFZAHGBQKZ5WVGGAZTW3N7PIO7NNEZC77U2TFP7DSBDSFHKEUCIHK";

fn authors() -> Authors {
    let text = format!(
        r#"
fleet = "east"
[author.ops]
keys = ["{OPS}"]
all = true
[author.lea]
keys = []
files = ["team-a/"]
services = ["a-*"]
buckets = ["a_*"]
stores = ["a_*"]
streams = ["A_*"]
subjects = ["a.>"]
found_as = ["a-*"]
accounts = ["A"]
reads = ["b_prices"]
subscribes = ["b.events.>"]
calls = ["b.rpc.>"]
consumes = ["B_EVENTS/a-*"]
discovers = ["b-*"]
[author.max]
keys = []
files = ["team-b/"]
services = ["b-*"]
buckets = ["b_*"]
streams = ["B_*"]
subjects = ["b.>"]
"#
    );
    document::read(&SourceFile::new("authors.toml", text)).unwrap()
}

const TEAM_A: &str = r#"
[bucket.a_orders]
[service.a-api]
owns = ["a_orders"]
publishes = ["a.events.x"]
[role.a-readers]
reads = ["a_orders"]
"#;

const TEAM_B: &str = r#"
[bucket.b_prices]
[bucket.b_secrets]
[stream.B_EVENTS]
subjects = ["b.events.>"]
[stream.B_EVENTS.consumer.a-ship]
[service.b-api]
owns = ["b_prices", "b_secrets"]
publishes = ["b.events.x"]
answers = ["b.rpc.x"]
[service.b-all]
reads = ["*"]
replays = ["B_EVENTS"]
roles = ["a-readers"]
"#;

type Files = Vec<(&'static str, String)>;

fn base() -> Files {
    vec![
        ("defaults.toml", "[defaults]\nlifetime = \"1h\"\n".to_owned()),
        ("team-a/a.toml", TEAM_A.to_owned()),
        ("team-b/b.toml", TEAM_B.to_owned()),
    ]
}

fn made(files: &Files) -> Result<(Vec<SourceFile>, Policy), String> {
    let files: Vec<SourceFile> =
        files.iter().map(|(name, text)| SourceFile::new(*name, text.as_str())).collect();
    let validated = validate(&files).map_err(|problems| problems.to_string())?;
    Ok((files, validated.policy))
}

/// What keeps an author from making `new` of the policy.
fn refused(author: &str, new: &Files) -> Vec<String> {
    let (old, before) = made(&base()).unwrap();
    let (new, after) = made(new).unwrap_or_else(|why| panic!("{why}"));
    let authors = authors();
    let author = authors.named(author).unwrap();
    let old = Whole { files: &old, policy: &before };
    match judge(Some(old), Whole { files: &new, policy: &after }, author, &authors) {
        Ok(()) => Vec::new(),
        Err(problems) => problems.iter().map(|problem| problem.message.clone()).collect(),
    }
}

fn with(file: usize, more: &str) -> Files {
    let mut files = base();
    files[file].1.push_str(more);
    files
}

fn edited(file: usize, from: &str, to: &str) -> Files {
    let mut files = base();
    assert!(files[file].1.contains(from), "{from}");
    files[file].1 = files[file].1.replacen(from, to, 1);
    files
}

#[test]
fn an_author_changes_what_is_the_authors_own() {
    for more in [
        "[service.a-new]\nreads = ['a_orders', 'b_prices']\nsubscribes = ['b.events.>', 'a.events.>']\n",
        "[service.a-new]\ncalls = ['b.rpc.x']\nconsumes = ['B_EVENTS/a-ship']\n",
        "[service.a-new]\naccount = 'A'\nfound_as = ['a-new']\n",
        "[bucket.a_new]\n[service.a-new]\nowns = ['a_new']\n",
        "[stream.A_LOG]\nsubjects = ['a.log.>']\n",
        "[store.a_files]\n[service.a-new]\nowns = ['store:a_files']\n",
        "# only words\n",
    ] {
        assert_eq!(refused("lea", &with(1, more)), Vec::<String>::new(), "{more}");
        assert_eq!(refused("ops", &with(1, more)), Vec::<String>::new(), "{more}");
        let others = refused("max", &with(1, more));
        assert!(others[0].starts_with("the file team-a/a.toml changes"), "{others:?}");
    }
    assert!(
        refused("lea", &edited(1, "owns = [\"a_orders\"]", "reads = [\"a_orders\"]")).is_empty()
    );
    assert!(refused("lea", &base()).is_empty());
}

#[test]
fn what_is_anothers_needs_another() {
    let key = format!("[service.b-new]\nnkeys = ['{OPS}']\n");
    for (more, needs) in [
        // In the author's own file, and about others' things.
        ("[service.b-new]\n", "service `b-new` changes"),
        (key.as_str(), "service `b-new` changes"),
        ("[service.a-new]\nreads = ['b_secrets']\n", "`a-new` reads b_secrets now"),
        ("[service.a-new]\nreads = ['*']\n", "`a-new` reads b_secrets now"),
        ("[bucket.b_new]\n", "bucket `b_new` changes"),
        ("[bucket.b_new]\n[service.a-new]\nowns = ['b_new']\n", "`a-new` owns b_new now"),
        (
            "[bucket.a_copy]\ncopy_of = 'b_secrets'\n",
            "bucket `a_copy` is a copy of `b_secrets` now",
        ),
        ("[stream.B_NEW]\nsubjects = ['b.new']\n", "stream `B_NEW` changes"),
        ("[stream.A_SPY]\nsubjects = ['b.rpc.>']\n", "stream `A_SPY` keeps `b.rpc.>` now"),
        ("[store.b_files]\n", "`store:b_files` changes"),
        ("[service.a-new]\npublishes = ['b.rpc.x']\n", "`a-new` publishes b.rpc.x now"),
        ("[service.a-new]\nanswers = ['b.other']\n", "`a-new` answers b.other now"),
        ("[service.a-new]\nsubscribes = ['b.rpc.x']\n", "`a-new` subscribes b.rpc.x now"),
        ("[service.a-new]\nreplays = ['B_EVENTS']\n", "`a-new` replays B_EVENTS now"),
        ("[service.a-new]\nfound_as = ['b-api']\n", "`a-new` is found as b-api now"),
        ("[service.a-new]\ndiscovers = ['*']\n", "`a-new` discovers * now"),
        ("[service.a-new]\naccount = 'B'\n", "`a-new` is placed in account B"),
    ] {
        let said = refused("lea", &with(1, more));
        assert!(said.iter().any(|line| line.starts_with(needs)), "{more}: {said:?}");
        assert!(refused("ops", &with(1, more)).is_empty());
    }
    // A role in the author's file gives others' services what is the author's, and no more.
    let role = |reads: &str| edited(1, "reads = [\"a_orders\"]", reads);
    assert!(refused("lea", &role("reads = [\"a_orders\"]\nsubscribes = [\"a.x\"]")).is_empty());
    let said = refused("lea", &role("reads = [\"a_orders\"]\ncalls = [\"c.x\"]"));
    assert!(said.iter().any(|line| line.starts_with("`b-all` calls c.x now")), "{said:?}");
    // What counts for all is in no part, wherever it stands.
    for files in
        [edited(0, "1h", "2h"), with(0, "# words\n"), with(1, "[naming]\nbuckets = ['{name}']\n")]
    {
        let said = refused("lea", &files);
        assert!(said.iter().any(|line| line.contains("which count for all")), "{said:?}");
    }
    // Other files.
    let mut files = base();
    files.push(("else.toml", "[service.a-new]\n".to_owned()));
    assert!(refused("lea", &files)[0].starts_with("the file else.toml changes"));
    let said =
        refused("lea", &edited(2, "[service.b-all]\n", "[service.b-all]\ndisabled = \"x\"\n"));
    assert_eq!(said.len(), 2, "{said:?}");
    // Moved to a file of the author's, word for word.
    let mut files = edited(2, "[bucket.b_secrets]\n", "");
    files[1].1.push_str("[bucket.b_secrets]\n");
    assert!(refused("lea", &files)[0].starts_with("the file team-b/b.toml changes"));
}

#[test]
fn what_others_get_of_it_is_the_authors_own_change() {
    // `b-all` reads all buckets, and replays a stream beside its consumers.
    assert!(
        refused("lea", &with(1, "[bucket.a_new]\n[service.a-new]\nowns = ['a_new']\n")).is_empty()
    );
    let more = "[stream.B_EVENTS.consumer.b-new]\n";
    assert!(refused("max", &with(2, more)).is_empty());
}

#[test]
fn the_first_revision_is_for_authors_of_all() {
    let (files, policy) = made(&base()).unwrap();
    let new = Whole { files: &files, policy: &policy };
    let authors = authors();
    assert!(judge(None, new, authors.named("ops").unwrap(), &authors).is_ok());
    assert!(judge(None, new, authors.named("lea").unwrap(), &authors).is_err());
}

#[test]
fn a_refusal_names_the_place_and_who_may() {
    let (old, before) = made(&base()).unwrap();
    let (new, after) = made(&with(1, "[service.a-new]\nreads = ['b_secrets']\n")).unwrap();
    let authors = authors();
    let old = Whole { files: &old, policy: &before };
    let new = Whole { files: &new, policy: &after };
    let lea = authors.named("lea").unwrap();
    let said = judge(Some(old), new, lea, &authors).unwrap_err();
    let said = said.render(crate::diagnostics::render::Style::Plain);
    assert!(said.contains("error[outside-part]: `a-new` reads b_secrets now"), "{said}");
    assert!(said.contains("team-a/a.toml:9:"), "{said}");
    assert!(said.contains("this may be changed by `ops`"), "{said}");
}

/// Lines that make a policy another one, in any file.
const LINES: &[&str] = &[
    "[service.a-new]\nreads = ['b_secrets']\n",
    "[service.b-new]\nowns = ['b_more']\n[bucket.b_more]\n",
    "[service.c]\nsubscribes = ['x.>', 'b.rpc.>']\n",
    "[bucket.c]\n",
    "[bucket.a_part]\npart_owners = true\n[service.a-part]\nowns = ['a_part/x.>']\n",
    "[stream.C]\nsubjects = ['c.>']\n[stream.C.consumer.one]\n[service.c-one]\nconsumes = ['C/one']\n",
    "[store.s]\n[service.c-s]\nowns = ['store:s']\n",
    "[service.seen]\nenforce = 'observe'\n[service.seen.before]\npublish = ['b.>', '$KV.b_secrets.>']\nsubscribe = ['>']\n",
    "[service.c-d]\ndiscovers = ['*']\nfound_as = ['c-d']\n",
];
const EDITS: &[(&str, &str)] = &[
    ("a.events.x", "a.events.y"),
    ("b.rpc.x", "b.rpc.y"),
    ("reads = [\"a_orders\"]", "reads = [\"a_orders\", \"b_prices\"]"),
    ("owns = [\"b_prices\", \"b_secrets\"]", "owns = [\"b_prices\"]"),
    ("[service.a-api]", "[service.a-api]\nlifetime = \"5m\""),
    ("[service.b-all]", "[service.b-all]\ndisabled = \"off\""),
    ("consumer.a-ship]", "consumer.a-ship]\nmade_by = \"service\""),
    ("consumer.a-ship]", "consumer.b-ship]"),
    ("replays = [\"B_EVENTS\"]", "replays = [\"B_EVENTS/b.events.x\"]"),
    ("lifetime = \"1h\"", "lifetime = \"1h\"\naccount = \"B\""),
    ("lifetime = \"1h\"", "lifetime = \"1h\"\nsources = [\"10.0.0.0/8\"]"),
];

/// Everything that a service may do and how it connects, as text.
fn grants(policy: &Policy) -> BTreeMap<String, String> {
    let account = "APP".into();
    let lifetime = std::time::Duration::from_secs(60);
    let defaults = Defaults { account, lifetime, audit: AuditStreams::default() };
    let granted = |service: &Service| {
        let grant = Grant::of(service, &defaults).unwrap();
        // Of two rules with the same subject, either may come first.
        let side = |side| -> BTreeSet<String> {
            grant.permissions(side).iter().map(|one| one.subject.to_string()).collect()
        };
        format!(
            "{:?} {:?} {:?} {:?} {:?} {:?} {:?}",
            side(Side::Publish),
            side(Side::Subscribe),
            service.keys,
            service.account,
            service.lifetime,
            service.sources,
            service.disabled
        )
    };
    policy.services().iter().map(|one| (one.name.to_string(), granted(one))).collect()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]

    /// Whatever changes the grant of a service is a change that somebody without that part cannot
    /// make: it names that service, or things that are in the changer's own part.
    #[test]
    fn whatever_changes_a_grant_is_somebodys(
        lines in prop::collection::vec((0..3_usize, 0..LINES.len()), 0..3),
        edits in prop::collection::vec((0..3_usize, 0..EDITS.len()), 0..3),
    ) {
        let mut files = base();
        for (file, line) in lines {
            files[file].1.push_str(LINES[line]);
        }
        for (file, edit) in edits {
            let (from, to) = EDITS[edit];
            files[file].1 = files[file].1.replacen(from, to, 1);
        }
        let (old, before) = made(&base()).unwrap();
        let Ok((new, after)) = made(&files) else { return Ok(()) };
        let (was, is) = (grants(&before), grants(&after));
        let names: BTreeSet<&String> = was.keys().chain(is.keys()).collect();
        let old = Whole { files: &old, policy: &before };
        let changes = changes(Some(old), Whole { files: &new, policy: &after });
        let authors = authors();
        for name in names {
            if was.get(name) == is.get(name) {
                continue;
            }
            let about = changes.iter().any(|change| match &change.needs {
                Needs::Service(own) | Needs::Entries(own, ..) | Needs::Gets(own, _) => own == name,
                _ => false,
            });
            prop_assert!(about, "{name} changed: {changes:?}");
            // Nobody with an empty part may make it.
            prop_assert!(!changes.iter().all(|change| Part::default().covers(&change.needs)));
        }
        // Who may make it alone has each file that changed and all that came of it.
        for author in authors.list.iter().filter(|author| author.part.is_some()) {
            let may = changes.iter().all(|c| author.part.as_ref().is_some_and(|p| p.covers(&c.needs)));
            let own = if author.name == "lea" { "a-" } else { "b-" };
            let gained = |name: &&String| !name.starts_with(own) && !was.contains_key(*name);
            prop_assert!(!may || !is.keys().any(|name| gained(&name)));
        }
    }
}
