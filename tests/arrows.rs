//! Who may use whom. Arrows point down, and this fails for each one that does not.
//!
//! [`CRATES`] is the picture: what is in a row may use the rows below it in its own crate, and the
//! crates that its crate names. Code of unit tests may use all of its own crate and of those.
//! `docs/structure.md` shows the same picture; `UPDATE_DOCS=1` writes it there.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::path::{Path, PathBuf};

/// A crate of the workspace.
struct Crate {
    /// Without `solewriter-` before it.
    name: &'static str,
    /// Its folder.
    folder: &'static str,
    /// What it is for.
    about: &'static str,
    /// The other crates that it may use.
    uses: &'static [&'static str],
    /// Libraries that it must not use, outside of tests.
    without: &'static [&'static str],
    /// Its rooms, top to bottom. One that is named belongs to no other that is named less exactly;
    /// `lib` is what stands in the root itself.
    rows: &'static [&'static [&'static str]],
}

/// What decides or is shared does no I/O and starts no task.
const NO_IO: &[&str] = &["tokio", "async_nats", "clap", "hyper", "axum", "notify", "tokio_rustls"];

const CRATES: &[Crate] = &[
    Crate {
        name: "lab",
        folder: "lab",
        about: "puts load on solewriter and measures it; never in a production build",
        uses: &["solewriter", "core", "sandbox"],
        without: &[],
        rows: &[
            &["main"],
            &["cli"],
            &["soak", "streams", "listing", "change", "served", "sweeps"],
            &["report", "sizing"],
            &["render"],
            &["results"],
            &["real_clients"],
            &["direct"],
            &["crypto"],
            &["request"],
            &["testbed"],
            &["ceiling", "fake_server", "simulated", "fixture_policy"],
            &["latency", "plot", "cleanup"],
            &["lib"],
        ],
    },
    Crate {
        name: "solewriter",
        folder: ".",
        about: "the service and its tools",
        uses: &["core", "types", "guard", "sandbox"],
        without: &[],
        rows: &[
            &["main"],
            &["cli"],
            &["adoption"],
            &["adoption::stages"],
            &["doctor", "http", "scaffold", "systemd", "violations"],
            &["operator"],
            &["adoption::learn"],
            &["adoption::connected", "adoption::draft", "adoption::rehearsal"],
            &["adoption::evidence", "adoption::server_config", "adoption::trace"],
            &["adoption::mapping"],
            &["adoption::deed"],
            &["policy_source::follower"],
            &["prove::needs", "prove::outlive", "prove::probers"],
            &["prove::page", "prove::verdict"],
            &["prove::attacks", "prove::run"],
            &["prove::identity"],
            &["prove::testbed"],
            &["prove"],
            &["schema"],
            &["config"],
            &["service"],
            &["service::large", "service::worker"],
            &["service::shared"],
            &["service::answer", "service::queue"],
            &["service::connection"],
            &["service::health"],
            &["service::tenants"],
            &["sessions"],
            &["fleet"],
            &["policy_source::events"],
            &["policy_source::bucket"],
            &["policy_source::cache"],
            &["policy_source::tenancy", "policy_source::watcher"],
            &["policy_source::directory", "policy_source::snapshot_store"],
            &[
                "policy_source::losses",
                "policy_source::removed",
                "policy_source::status",
                "policy_source::temporary",
            ],
            &["policy_source::origin", "policy_source::stall_guard"],
            &["buckets", "passes"],
            &["audit"],
            &["audit::stream"],
            &["traces"],
            &["telemetry"],
            &["nats::raw_client", "nats::round_trip"],
            &["nats::connect"],
            &["nats::tls_client"],
            &["nats"],
            &["policy_source", "signer", "http_client"],
        ],
    },
    Crate {
        name: "guard",
        folder: "crates/guard",
        about: "what a service in Rust connects with",
        uses: &["types"],
        without: &["clap"],
        rows: &[&["lib"], &["publish"]],
    },
    Crate {
        name: "core",
        folder: "crates/core",
        about: "the decision, from bytes to bytes, and what a policy says",
        uses: &["types"],
        without: NO_IO,
        rows: &[
            &[
                "callout::authorizer",
                "callout::signable",
                "analysis::assertions",
                "analysis::authorship",
                "analysis::map",
            ],
            &["analysis::diff", "callout::issue"],
            &["callout::connection_name"],
            &["analysis::query", "callout::decide"],
            &["callout::asked", "callout::identity", "callout::rate_limit"],
            &["analysis"],
            &["handover::claims"],
            &["handover", "handover::transit"],
            &["policy::validate"],
            &["policy::validate::observe"],
            &[
                "policy::validate::service",
                "policy::validate::usage",
                "policy::validate::consumer",
                "policy::validate::found",
                "policy::validate::replay",
                "policy::validate::naming",
            ],
            &[
                "policy::validate::role",
                "policy::validate::bucket",
                "policy::validate::stream",
                "policy::validate::store",
            ],
            &["policy::validate::covered", "policy::validate::durable"],
            &["policy::validate::ownership", "policy::validate::names"],
            &["policy::validate::draft", "policy::validate::threads", "policy::validate::times"],
            &["policy::validate::settings"],
            &["grant"],
            &["grant::compile"],
            &["grant::digest", "grant::reserved"],
            &["grant::streams"],
            &["account_jwt"],
            &["policy"],
            &["authors", "emergency"],
            &["signed"],
            &["callout"],
            &["diagnostics"],
            &["keys"],
            &["keys::holder"],
            &["keys::curve", "keys::signature"],
            &["keys::nkey"],
        ],
    },
    Crate {
        name: "sandbox",
        folder: "crates/sandbox",
        about: "real nats-servers for `demo` and tests",
        uses: &["types"],
        without: &["clap"],
        rows: &[&["lib"], &["server"], &["fetch"], &["cpu_usage", "pins"]],
    },
    Crate {
        name: "types",
        folder: "crates/types",
        about: "the words that the others share",
        uses: &[],
        without: NO_IO,
        rows: &[
            &["audit_loss", "server_log", "violation_log"],
            &["audit_event", "dedup"],
            &["kv_operation"],
            &["keyspace"],
            &["subject", "clean", "connection_type", "go_quote", "advisories"],
        ],
    },
];

impl Crate {
    /// What code calls it.
    fn library(&self) -> String {
        match self.name {
            "solewriter" => "solewriter".to_owned(),
            name => format!("solewriter_{name}"),
        }
    }
}

fn repository() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
}

/// Where a room stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Place {
    krate: usize,
    row: usize,
    room: &'static str,
}

/// All rooms of the picture.
fn rooms() -> impl Iterator<Item = Place> {
    CRATES.iter().enumerate().flat_map(|(krate, it)| {
        it.rows
            .iter()
            .enumerate()
            .flat_map(move |(row, rooms)| rooms.iter().map(move |room| Place { krate, row, room }))
    })
}

/// The room of a module of a crate: the one that is named most exactly, or else its root.
fn room_of(krate: usize, path: &[String]) -> Option<Place> {
    let named = |name: &str| rooms().find(|place| place.krate == krate && place.room == name);
    let exactly = (1..=path.len()).rev().find_map(|length| named(&path[..length].join("::")));
    exactly.or_else(|| named("lib"))
}

/// A use of something that is not in the same module, or of a library.
#[derive(Clone, Debug)]
struct Use {
    path: Vec<String>,
    in_test: bool,
}

/// Why `from` must not do that; `None` when it may.
fn refusal(from: Place, used: &Use) -> Option<String> {
    let (room, here) = (from.room, &CRATES[from.krate]);
    let path = used.path.join("::");
    let first = used.path[0].as_str();
    if let Some(there) = CRATES.iter().find(|krate| krate.library() == first) {
        // The root of a package's binary uses the library beside it.
        let itself = there.name == here.name && room == "main";
        let allowed = used.in_test || itself || here.uses.contains(&there.name);
        return (!allowed)
            .then(|| format!("{room} uses {path}, but {} may not use {}", here.name, there.name));
    }
    if first != "crate" {
        let forbidden = !used.in_test && here.without.contains(&first);
        return forbidden.then(|| format!("{room} is in {}, which is without {path}", here.name));
    }
    let Some(to) = room_of(from.krate, &used.path[1..]) else {
        return Some(format!("{room} uses {path}, which is in no room of the picture"));
    };
    let down = from.row < to.row || from.room == to.room || used.in_test;
    (!down).then(|| format!("{room} uses {path}, which is not below it"))
}

/// A piece of Rust, as far as it matters here.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Token {
    /// A name, a keyword or a number.
    Word(String),
    /// Any other character.
    Sign(char),
    /// What stands in brackets, by the opening one.
    Group(char, Vec<Token>),
}

/// Cuts Rust into tokens. Comments and texts are left out.
struct Lexer<'t> {
    rest: &'t str,
}

impl Lexer<'_> {
    fn tokens(text: &str) -> Vec<Token> {
        let mut lexer = Lexer { rest: text };
        let (tokens, end) = lexer.until_closed();
        assert_eq!(end, None, "a bracket that nothing opened");
        tokens
    }

    fn next(&mut self) -> Option<char> {
        let next = self.rest.chars().next()?;
        self.rest = &self.rest[next.len_utf8()..];
        Some(next)
    }

    /// Tokens up to a closing bracket, and which it is.
    fn until_closed(&mut self) -> (Vec<Token>, Option<char>) {
        let mut tokens = Vec::new();
        loop {
            if self.rest.starts_with("//") {
                self.rest = self.rest.split_once('\n').map_or("", |(_, rest)| rest);
                continue;
            }
            if self.rest.starts_with("/*") {
                self.comment();
                continue;
            }
            let before = self.rest;
            let Some(next) = self.next() else { return (tokens, None) };
            match next {
                '(' | '[' | '{' => {
                    let (inner, end) = self.until_closed();
                    let closes = matches!(
                        (next, end),
                        ('(', Some(')')) | ('[', Some(']')) | ('{', Some('}'))
                    );
                    assert!(closes, "{next} is not closed before: {}", self.rest);
                    tokens.push(Token::Group(next, inner));
                }
                ')' | ']' | '}' => return (tokens, Some(next)),
                '"' => self.text(),
                '\'' => self.quote(),
                next if next == '_' || next.is_alphanumeric() => {
                    let is_part = |c: char| c == '_' || c.is_alphanumeric();
                    let length = before.find(|c| !is_part(c)).unwrap_or(before.len());
                    let (word, rest) = before.split_at(length);
                    self.rest = rest;
                    if matches!(word, "r" | "br" | "cr") && self.raw() {
                        continue;
                    }
                    tokens.push(Token::Word(word.to_owned()));
                }
                next if next.is_whitespace() => {}
                next => tokens.push(Token::Sign(next)),
            }
        }
    }

    /// A comment in a comment belongs to it.
    fn comment(&mut self) {
        let mut depth = 0;
        loop {
            if self.rest.starts_with("/*") {
                depth += 1;
                self.rest = &self.rest[2..];
            } else if self.rest.starts_with("*/") {
                depth -= 1;
                self.rest = &self.rest[2..];
            } else {
                self.next().expect("the end of a comment");
            }
            if depth == 0 {
                return;
            }
        }
    }

    /// The rest of a text.
    fn text(&mut self) {
        while let Some(next) = self.next() {
            match next {
                '"' => return,
                '\\' => drop(self.next()),
                _ => {}
            }
        }
        panic!("a text has no end");
    }

    /// The rest of `r"…"` or `r#"…"#`; false for a raw name.
    fn raw(&mut self) -> bool {
        let signs = self.rest.len() - self.rest.trim_start_matches('#').len();
        let Some(inner) = self.rest[signs..].strip_prefix('"') else { return false };
        let end = format!("\"{}", "#".repeat(signs));
        self.rest = inner.split_once(&end).expect("the end of a text").1;
        true
    }

    /// The rest of a character; nothing of a lifetime.
    fn quote(&mut self) {
        let mut ahead = self.rest.chars();
        match (ahead.next(), ahead.next()) {
            (Some('\\'), Some(escaped)) => {
                self.rest = &self.rest[1 + escaped.len_utf8()..];
                self.rest = self.rest.split_once('\'').expect("the end of a character").1;
            }
            (Some(character), Some('\'')) => self.rest = &self.rest[character.len_utf8() + 1..],
            _ => {}
        }
    }
}

/// Reads what a module uses from its tokens.
struct Reader {
    found: Vec<Use>,
    /// Names of the libraries that are looked for.
    libraries: BTreeSet<String>,
}

impl Reader {
    fn read(module: &[String], text: &str) -> Vec<Use> {
        let without = CRATES.iter().flat_map(|krate| krate.without).map(ToString::to_string);
        let libraries = without.chain(CRATES.iter().map(Crate::library)).collect();
        let mut reader = Self { found: Vec::new(), libraries };
        let in_test = module.iter().any(|part| part == "tests");
        reader.tokens(module, &Lexer::tokens(text), in_test);
        reader.found
    }

    fn tokens(&mut self, module: &[String], tokens: &[Token], in_test: bool) {
        let is_test = [word("cfg"), Token::Group('(', vec![word("test")])];
        let mut at = 0;
        // Whether `#[cfg(test)]` stands before the item that comes.
        let mut of_test = false;
        while at < tokens.len() {
            match &tokens[at] {
                Token::Sign('#') => {
                    if let Some(Token::Group('[', attribute)) = tokens.get(at + 1) {
                        of_test |= *attribute == is_test;
                        at += 1;
                    }
                    at += 1;
                }
                Token::Word(mod_word) if mod_word == "mod" => {
                    let body = (tokens.get(at + 1), tokens.get(at + 2));
                    at += 1;
                    if let (Some(Token::Word(name)), Some(Token::Group('{', body))) = body {
                        let inner = [module, std::slice::from_ref(name)].concat();
                        self.tokens(&inner, body, in_test || of_test);
                        of_test = false;
                        at += 2;
                    }
                }
                Token::Word(first) => {
                    let starts = (at == 0 || tokens[at - 1] != Token::Sign(':'))
                        && is_colons(tokens, at + 1);
                    at += 1;
                    if starts {
                        at += self.path(module, first, &tokens[at..], in_test || of_test);
                    }
                }
                Token::Sign(sign) => {
                    of_test &= *sign != ';';
                    at += 1;
                }
                Token::Group(bracket, inner) => {
                    self.tokens(module, inner, in_test || of_test);
                    of_test &= *bracket != '{';
                    at += 1;
                }
            }
        }
    }

    /// A path that begins with `first`; `tokens` are what comes after that. Gives how many of them
    /// belong to it.
    fn path(&mut self, module: &[String], first: &str, tokens: &[Token], in_test: bool) -> usize {
        let mut path = match first {
            "crate" => vec!["crate".to_owned()],
            "self" => absolute(module),
            "super" => absolute(&module[..module.len().saturating_sub(1)]),
            library if self.libraries.contains(library) => {
                self.found.push(Use { path: vec![library.to_owned()], in_test });
                return 0;
            }
            _ => return 0,
        };
        let mut at = 0;
        while is_colons(tokens, at) {
            match tokens.get(at + 2) {
                Some(Token::Word(part)) if part == "super" => drop(path.pop()),
                Some(Token::Word(part)) => path.push(part.clone()),
                Some(Token::Group('{', items)) => {
                    self.list(&path, items, in_test);
                    return at + 3;
                }
                _ => break,
            }
            at += 3;
        }
        self.add(path, in_test);
        at
    }

    /// `{a, b::{c, d}, self}` after a path.
    fn list(&mut self, base: &[String], tokens: &[Token], in_test: bool) {
        for item in tokens.split(|token| *token == Token::Sign(',')) {
            let mut path = base.to_vec();
            let mut nested = item.is_empty();
            for token in item {
                match token {
                    // What comes after is only another name for it.
                    Token::Word(part) if part == "as" => break,
                    Token::Word(part) if part != "self" => path.push(part.clone()),
                    Token::Group(_, items) => {
                        self.list(&path, items, in_test);
                        nested = true;
                    }
                    _ => {}
                }
            }
            if !nested {
                self.add(path, in_test);
            }
        }
    }

    /// A path of one word is the crate's root, or a macro of it.
    fn add(&mut self, path: Vec<String>, in_test: bool) {
        if path.len() > 1 {
            self.found.push(Use { path, in_test });
        }
    }
}

fn word(text: &str) -> Token {
    Token::Word(text.to_owned())
}

fn absolute(module: &[String]) -> Vec<String> {
    std::iter::once("crate".to_owned()).chain(module.iter().cloned()).collect()
}

fn is_colons(tokens: &[Token], at: usize) -> bool {
    tokens.get(at..at + 2) == Some(&[Token::Sign(':'), Token::Sign(':')])
}

/// All modules, each with its crate, its file and its text.
fn modules() -> Vec<(usize, Vec<String>, PathBuf, String)> {
    fn walk(dir: &Path, found: &mut Vec<PathBuf>) {
        for entry in std::fs::read_dir(dir).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                walk(&path, found);
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                found.push(path);
            }
        }
    }
    let mut all = Vec::new();
    for (krate, it) in CRATES.iter().enumerate() {
        let source = repository().join(it.folder).join("src");
        let mut files = Vec::new();
        walk(&source, &mut files);
        files.sort();
        for file in files {
            let relative = file.strip_prefix(&source).unwrap().with_extension("");
            let mut module: Vec<String> =
                relative.iter().map(|part| part.to_str().unwrap().to_owned()).collect();
            if module == ["lib"] {
                module.clear();
            }
            let text = std::fs::read_to_string(&file).unwrap();
            all.push((krate, module, file, text));
        }
    }
    all
}

#[test]
fn arrows_point_down() {
    let (mut wrong, mut seen) = (Vec::new(), 0);
    for (krate, module, file, text) in modules() {
        let file = file.strip_prefix(repository()).unwrap().display().to_string();
        let Some(room) = room_of(krate, &module) else {
            if !module.is_empty() {
                wrong.push(format!("{file}: it is in no room of the picture in tests/arrows.rs"));
            }
            continue;
        };
        for used in Reader::read(&module, &text) {
            seen += 1;
            if let Some(why) = refusal(room, &used) {
                wrong.push(format!("{file}: {why}"));
            }
        }
    }
    assert!(seen > 1000, "{seen}");
    assert!(
        wrong.is_empty(),
        "{}\nMove what both need down, or draw the picture anew.",
        wrong.join("\n")
    );
}

#[test]
fn each_room_is_there_once() {
    let there: BTreeSet<(usize, String)> = modules()
        .into_iter()
        .map(|(krate, module, ..)| {
            (krate, if module.is_empty() { "lib".to_owned() } else { module.join("::") })
        })
        .collect();
    let mut seen = BTreeSet::new();
    for place in rooms() {
        let room = (place.krate, place.room.to_owned());
        assert!(there.contains(&room), "there is no {room:?}");
        assert!(seen.insert(room), "{} is there twice", place.room);
    }
}

/// What a crate may use is what its manifest names.
#[test]
fn each_manifest_is_as_the_picture() {
    for krate in CRATES {
        let manifest = repository().join(krate.folder).join("Cargo.toml");
        let manifest: toml::Table = std::fs::read_to_string(manifest).unwrap().parse().unwrap();
        let named = manifest["dependencies"].as_table().unwrap().keys();
        let named: BTreeSet<String> = named.map(|name| name.replace('-', "_")).collect();
        let uses: BTreeSet<String> = CRATES
            .iter()
            .filter(|other| krate.uses.contains(&other.name))
            .map(Crate::library)
            .collect();
        assert_eq!(uses.len(), krate.uses.len(), "{}: an unknown crate", krate.name);
        let ours = named.iter().filter(|name| name.starts_with("solewriter"));
        assert_eq!(ours.cloned().collect::<BTreeSet<_>>(), uses, "{}", krate.name);
        for library in krate.without {
            assert!(!named.contains(*library), "{} is without {library}", krate.name);
        }
    }
}

/// Each arrow that the picture does not have is found when it is put back, in each form.
#[test]
fn an_arrow_that_is_put_back_is_found() {
    let parts = |room: &str| room.split("::").map(ToOwned::to_owned).collect::<Vec<_>>();
    let (mut pairs, mut found) = (0, 0);
    for from in rooms() {
        for to in rooms().filter(|to| *to != from) {
            let module = if from.room == "lib" { Vec::new() } else { parts(from.room) };
            if from.krate != to.krate {
                let there = &CRATES[to.krate];
                let allowed = CRATES[from.krate].uses.contains(&there.name);
                let uses = Reader::read(&module, &format!("use {}::Thing;", there.library()));
                let itself = from.room == "main" && there.name == CRATES[from.krate].name;
                assert_eq!(refusal(from, &uses[0]).is_none(), allowed || itself);
                found += usize::from(!allowed);
                continue;
            }
            if to.room == "lib" {
                continue;
            }
            let allowed = from.row < to.row;
            let up = if module.is_empty() {
                "self::".to_owned()
            } else {
                "super::".repeat(module.len())
            };
            let out = if module.is_empty() { "super::".to_owned() } else { format!("super::{up}") };
            // One form of each pair: all are there, many times.
            let forms = [
                format!("use crate::{}::Thing;", to.room),
                format!("use crate::{{{}::{{Thing, Other as One}}, clean}};", to.room),
                format!("use {up}{}::Thing;", to.room),
                format!("fn f() {{ let x = vec![crate::{}::Thing::new()]; }}", to.room),
                format!("mod inner {{ fn f(x: &{out}{}::Thing) {{}} }}", to.room),
            ];
            let text = &forms[pairs % forms.len()];
            pairs += 1;
            let uses = Reader::read(&module, text);
            let at_it = uses.iter().filter(|used| {
                room_of(from.krate, &used.path[1..]).is_some_and(|place| place.room == to.room)
            });
            let refused: Vec<_> = at_it.map(|used| refusal(from, used).is_some()).collect();
            assert!(!refused.is_empty(), "{}: not seen: {text}", from.room);
            assert!(refused.iter().all(|refused| *refused != allowed), "{}: {text}", from.room);
            found += usize::from(!allowed);
        }
    }
    assert!(found > 1000, "{found}");
    let in_tests = |text: &str| Reader::read(&parts("keys"), text)[0].in_test;
    assert!(in_tests("#[cfg(test)] mod tests { use crate::diagnostics::Problem; }"));
    assert!(in_tests("#[cfg(test)] use crate::diagnostics::Problem;"));
    assert!(!in_tests("#[cfg(unix)] mod other { use crate::diagnostics::Problem; }"));
    assert!(!in_tests("#[cfg(test)] mod tests; use crate::diagnostics::Problem;"));
    // Comments, texts and characters are none; what comes after them is seen.
    let text = r##"fn f<'a>() { '\''; '"'; b'\\'; "\"clap::x"; r#""clap::y"#; tokio::spawn(x) }
        // clap::z
        /* /* clap::a */ " */"##;
    let seen = Reader::read(&parts("keys"), text);
    assert_eq!(seen.len(), 1, "{seen:?}");
    let core = CRATES.iter().position(|krate| krate.name == "core").unwrap();
    let keys = room_of(core, &parts("keys")).unwrap();
    assert!(refusal(keys, &seen[0]).is_some_and(|why| why.ends_with("without tokio")));
}

/// The picture as the page has it.
fn picture() -> String {
    let mut text = String::new();
    for krate in CRATES {
        let uses = match krate.uses {
            [] => "uses none of the others".to_owned(),
            uses => format!("uses {}", uses.join(", ")),
        };
        let _ = writeln!(text, "{}: {}; {uses}", krate.name, krate.about);
        for row in krate.rows {
            let _ = writeln!(text, "    {}", row.join("  "));
        }
    }
    text
}

#[test]
fn the_page_shows_this_picture() {
    const BEGIN: &str = "<!-- Written by tests/arrows.rs. -->\n\n```text\n";
    const END: &str = "```\n";
    let page = repository().join("docs/structure.md");
    let text = std::fs::read_to_string(&page).unwrap();
    let (before, rest) = text.split_once(BEGIN).expect("the place of the picture");
    let (shown, after) = rest.split_once(END).expect("its end");
    if std::env::var_os("UPDATE_DOCS").is_some() {
        std::fs::write(page, format!("{before}{BEGIN}{}{END}{after}", picture())).unwrap();
    } else {
        assert!(shown == picture(), "UPDATE_DOCS=1 cargo test --test arrows writes it anew");
    }
}
