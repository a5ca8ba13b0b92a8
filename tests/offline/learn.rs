//! Runs the folders of `tests/adopt/learn`: a table of deeds in, the files of a policy and the report
//! out. `README.md` there says how to add one; no Rust is needed for it.

use std::fmt::Write as _;
use std::fs;
use std::path::Path;

use jiff::civil::DateTime;

use solewriter::adoption::connected::{Connz, Names, Open};
use solewriter::adoption::deed::{Act, Client, Deed};
use solewriter::adoption::draft::before::Before;
use solewriter::adoption::draft::existing::Existing;
use solewriter::adoption::evidence::generalise::Level;
use solewriter::adoption::learn::Learner;
use solewriter::adoption::mapping::Mapping;
use solewriter::adoption::server_config::accounts::Config;
use solewriter::adoption::server_config::syntax;
use solewriter::buckets::{Consumer, Consumers, Stream};
use solewriter_core::diagnostics::{Collector, SourceFile};
use solewriter_core::policy::validate::validate;
use solewriter_types::server_log::line::Kind;

use super::server_config::Folder;

/// Set to anything, writes what is found instead of comparing.
const UPDATE: &str = "UPDATE_DOCS";

#[test]
fn every_table_of_deeds_gives_its_draft() {
    let mut failures = String::new();
    for case in super::cases("tests/adopt/learn") {
        run(&case, &mut failures);
    }
    super::all_as_expected(UPDATE, &failures);
}

fn run(case: &Path, failures: &mut String) {
    let read = |name: &str| fs::read_to_string(case.join(name)).ok();
    let mapping = read("map.toml").map_or_else(Mapping::default, |text| {
        Mapping::read(&SourceFile::new("map.toml", text)).unwrap_or_else(|p| panic!("{p}"))
    });
    let existing = read("existing.json").map_or_else(Existing::default, |text| existing(&text));
    let level = match read("level").as_deref().map(str::trim) {
        Some("none") => Level::None,
        Some("wide") => Level::Wide,
        _ => Level::Careful,
    };
    let mut learner = Learner::new(mapping, existing, level);
    if case.join("nats-server.conf").exists() {
        let folder = Folder(case.to_owned());
        let tree = syntax::read(Path::new("nats-server.conf"), &folder).unwrap();
        let problems = Collector::new();
        let config = Config::of(&tree, &problems);
        assert!(!problems.has_errors());
        learner = learner.observing(Before::of(&config));
    }
    deeds(&read("deeds.txt").unwrap(), &mut |deed| learner.take(deed));
    if let Some(text) = read("connz.json") {
        let (page, mut names) = (Connz::parse(text.as_bytes()).unwrap(), Names::default());
        names.see(&page);
        for connection in Open::all(&page, None, &names) {
            learner.take_open(&connection);
        }
    }
    let (files, report) = learner.finish();
    let sources: Vec<SourceFile> =
        files.iter().map(|(name, text)| SourceFile::new(&**name, text.clone())).collect();
    if !sources.is_empty()
        && let Err(problems) = validate(&sources)
    {
        let _ = writeln!(failures, "==== {}: the draft does not hold\n{problems}", case.display());
    }
    for (name, text) in files {
        super::golden(UPDATE, &case.join(name), &text, failures);
    }
    super::golden(UPDATE, &case.join("report.txt"), &report.text(), failures);
    let json = case.join("report.json");
    if json.exists() {
        super::golden(
            UPDATE,
            &json,
            &(serde_json::to_string_pretty(&report).unwrap() + "\n"),
            failures,
        );
    }
}

/// `{"streams": [CONFIG, …], "consumers": {"STREAM": [CONFIG, …]}}`
fn existing(text: &str) -> Existing {
    let all: serde_json::Value = serde_json::from_str(text).unwrap();
    let config = |value: &serde_json::Value| value.as_object().unwrap().clone();
    let streams = all["streams"].as_array().unwrap();
    let stream = |value| Stream { config: config(value), ..Stream::default() };
    let consumer = |value: &serde_json::Value| Consumer {
        name: value["durable_name"].as_str().unwrap().to_owned(),
        config: config(value),
        num_ack_pending: 0,
    };
    let consumers = all["consumers"].as_object().unwrap().iter();
    let consumers = consumers.map(|(stream, list)| Consumers {
        stream: stream.clone(),
        consumers: list.as_array().unwrap().iter().map(consumer).collect(),
    });
    Existing { streams: Some(streams.iter().map(stream).collect()), consumers: consumers.collect() }
}

/// Reads a table of deeds: see the `README.md`.
fn deeds(text: &str, take: &mut dyn FnMut(&Deed<'_>)) {
    for (number, line) in text.lines().enumerate() {
        let line = line.split(" # ").next().unwrap_or_default().trim();
        if line.is_empty() || line.starts_with('#') {
            continue;
        }
        let (first, last) = range(line);
        for n in first..=last {
            let line = line.replace(&format!("{{{first}..{last}}}"), &n.to_string());
            let words: Vec<&str> = line.split_whitespace().collect();
            let [time, who, verb, subject, rest @ ..] = words.as_slice() else {
                panic!("line {}: {line}", number + 1)
            };
            let extra = match rest {
                [] => None,
                ["reply" | "queue", extra] => Some(*extra),
                _ => panic!("line {}: {line}", number + 1),
            };
            let act = match *verb {
                "publish" => Act::Publish { subject, reply: extra },
                "subscribe" => Act::Subscribe { subject, queue: extra },
                "receive" => Act::Receive { subject, reply: extra },
                _ => panic!("line {}: {verb}", number + 1),
            };
            let at: DateTime = format!("2026-11-27T{time}").parse().unwrap();
            take(&Deed { by: &client(who), at: Some(at), act });
        }
    }
}

/// What `{1..1000}` in a line stands for.
fn range(line: &str) -> (u64, u64) {
    let inside = line.split_once('{').and_then(|(_, rest)| rest.split_once('}'));
    let ends = inside.and_then(|(range, _)| range.split_once(".."));
    ends.map_or((1, 1), |(first, last)| (first.parse().unwrap(), last.parse().unwrap()))
}

/// `USER`, or `-` for none; then `,key=…`, `,name=…`, `,at=…`.
fn client(text: &str) -> Client {
    let mut parts = text.split(',');
    let user = parts.next().filter(|user| *user != "-").map(ToOwned::to_owned);
    let mut client = Client {
        connection: user.as_ref().map_or(1, |user| user.len() as u64),
        kind: Kind::Cid,
        address: "10.0.0.7".to_owned(),
        account: None,
        user,
        nkey: None,
        name: None,
        lang: None,
    };
    for part in parts {
        match part.split_once('=').unwrap() {
            ("key", key) => client.nkey = Some(key.to_owned()),
            ("name", name) => client.name = Some(name.to_owned()),
            ("at", address) => address.clone_into(&mut client.address),
            other => panic!("{other:?}"),
        }
    }
    client
}
