//! The grammar by examples, and that no text makes the reader panic or tell a secret.

use std::collections::HashMap;
use std::io;
use std::path::{Path, PathBuf};

use proptest::prelude::*;

use super::*;

/// Files and variables in memory.
#[derive(Default)]
pub(crate) struct Memory {
    pub files: HashMap<PathBuf, Vec<u8>>,
    pub variables: HashMap<String, String>,
}

impl Memory {
    pub(crate) fn one(text: &str) -> Self {
        Self { files: [("c.conf".into(), text.into())].into(), ..Self::default() }
    }

    fn with(mut self, name: &str, text: &str) -> Self {
        self.files.insert(name.into(), text.into());
        self
    }
}

impl Source for Memory {
    fn file(&self, path: &Path, _most: usize) -> io::Result<Vec<u8>> {
        self.files.get(path).cloned().ok_or_else(|| io::ErrorKind::NotFound.into())
    }

    fn environment(&self, name: &str) -> Option<String> {
        self.variables.get(name).cloned()
    }
}

fn tree(memory: &Memory) -> Result<Tree, Problems> {
    read(Path::new("c.conf"), memory)
}

/// A value as JSON would have it, to compare.
fn show(value: &Value) -> String {
    match value {
        Value::String(text) => format!("{text:?}"),
        Value::Integer(number) => number.to_string(),
        Value::Float(number) => format!("{number:?}"),
        Value::Bool(value) => value.to_string(),
        Value::DateTime(text) => text.clone(),
        Value::List(list) => {
            let list: Vec<String> = list.iter().map(|node| show(&node.value)).collect();
            format!("[{}]", list.join(" "))
        }
        Value::Map(map) => {
            let entries: Vec<String> = map
                .entries()
                .map(|e| format!("{}:{}", e.key.value, show(&e.value.value)))
                .collect();
            format!("{{{}}}", entries.join(" "))
        }
    }
}

fn read_of(memory: &Memory) -> String {
    match tree(memory) {
        Ok(tree) => show(&Value::Map(tree.root)),
        Err(problems) => {
            let problem = problems.iter().next().unwrap();
            let place = problem.primary.as_ref().map(|l| l.span.to_string()).unwrap_or_default();
            format!("{place} {}", problem.message)
        }
    }
}

fn one(text: &str) -> String {
    read_of(&Memory::one(text))
}

#[test]
fn values() {
    for (text, expected) in [
        ("a: 1", "{a:1}"),
        ("a = -1", "{a:-1}"),
        ("a 1", "{a:1}"),
        ("a\n{b 1}", "{a:{b:1}}"),
        ("a: 1; b: 2, c: 3", "{a:1 b:2 c:3}"),
        ("{\n\"a\": \"x\",\n'b' : 'y'\n}\n", r#"{a:"x" b:"y"}"#),
        (
            "a: 2k; b: 2KB; c: 2kib; d: 1g; e: 1Ti",
            "{a:2000 b:2048 c:2048 d:1000000000 e:1099511627776}",
        ),
        (
            "a: 1.5; b: 1.2.3.4:5; c: 12abc; d: 3kx; e: 10s",
            r#"{a:1.5 b:"1.2.3.4:5" c:"12abc" d:"3kx" e:"10s"}"#,
        ),
        ("a: TRUE; b: off; c: yes; d: 'no'", r#"{a:true b:false c:true d:"no"}"#),
        ("a: 2026-01-31T12:00:00Z", "{a:2026-01-31T12:00:00Z}"),
        (r#"a: "q\"\t\\\x41"; b: 'q\t'; c: x\x41"#, r#"{a:"q\"\t\\A" b:"q\\t" c:"xA"}"#),
        ("a: (\nx { y\n)\nb: 1", r#"{a:"\nx { y\n" b:1}"#),
        ("a: [1 , \"b\"\n{c: d}\n# x\n e // y\n]", r#"{a:[1 "b" {c:"d"} "e"]}"#),
        ("a: [x,]", r#"{a:["x"]}"#),
        ("a: x#y\nb: nats://h # z", r#"{a:"x#y" b:"nats://h"}"#),
        ("a: {b: c}}\nd: 1", r#"{a:{b:"c"} d:1}"#),
        ("a: 1\na: 2", "{a:2}"),
        ("a: ", r#"{a:""}"#),
        ("a: $2a$11$xyz", r#"{a:"$2a$11$xyz"}"#),
        ("a: 'b'c: 1", "c.conf:1:7 something follows a value on its line"),
        ("a: [1k]", r#"{a:["1k"]}"#),
    ] {
        assert_eq!(one(text), expected, "{text}");
    }
}

#[test]
fn what_is_wrong_is_told_with_its_place() {
    for (text, expected) in [
        ("a: [1,2]\n", "c.conf:1:4 a list has no end"),
        ("a: [\"x\" \"y\"]", "c.conf:1:9 two values of a list have nothing between them"),
        ("a: [x\n,y]", "c.conf:2:1 no value stands before this"),
        ("a: {b: 1", "c.conf:1:4 a map has no end"),
        ("a: {b }", "c.conf:1:5 a key has no value"),
        ("a: {\n]}", "c.conf:2:1 `]` in a map"),
        ("a:\n1", "c.conf:1:3 a value is missing"),
        ("a: \"x", "c.conf:1:4 a quoted text has no end"),
        ("a: 'x", "c.conf:1:4 a quoted text has no end"),
        ("a: (\nx)", "c.conf:1:4 a block has no end"),
        ("a: \"\\q\"", "c.conf:1:5 no such escape in a text"),
        ("a: \"\\xZZ\"", "c.conf:1:5 `\\x` without two hexadecimal digits"),
        ("a: 10-x", "c.conf:1:4 a number with `-` behind it is no date"),
        ("a: 2026-13-01T00:00:00Z", "c.conf:1:4 a date is not complete"),
        ("a: 9223372036854775808", "c.conf:1:4 a number is out of range"),
        ("a: 1kbb", "c.conf:1:4 no such suffix of a number"),
        ("a: .5", "c.conf:1:4 a number begins with a point"),
        ("a: 1.", "c.conf:1:6 a number ends with its point"),
        ("a: -", "c.conf:1:5 `-` without a digit"),
        ("a: 1\nb", "c.conf:2:1 a key has no value"),
        (": 1", "c.conf:1:1 `:` or `=` without a key before it"),
        ("/ x", "c.conf:1:1 a lone `/`"),
        ("a: $nope", "c.conf:1:4 a variable is set nowhere"),
        ("a: 1\0", "c.conf:1:5 a byte with the value 0"),
        ("\"a", "c.conf:1:1 a quoted key has no end"),
        ("include 'no.conf'", "c.conf:1:9 cannot read no.conf: entity not found"),
        ("include {", "c.conf:1:9 `include` without the name of a file"),
        ("", " c.conf has no settings"),
    ] {
        assert_eq!(one(text), expected, "{text}");
    }
}

#[test]
fn variables_are_those_before_in_this_map_or_around_it() {
    let environment = |name: &str, value: &str, text: &str| {
        let mut memory = Memory::one(text);
        memory.variables.insert(name.into(), value.into());
        read_of(&memory)
    };
    assert_eq!(one("A: 1\nb: {A: 2, c: $A}\nd: $A"), "{A:1 b:{A:2 c:2} d:1}");
    assert_eq!(one("b: {A: 2}\nd: $A"), "c.conf:2:4 a variable is set nowhere");
    assert_eq!(one("P: {allow: [x]}\nu: [{p: $P}]"), r#"{P:{allow:["x"]} u:[{p:{allow:["x"]}}]}"#);
    assert_eq!(environment("E", "2k", "a: $E"), "{a:2000}");
    assert_eq!(
        environment("E", "[x", "a: $E"),
        "c.conf:1:4 the environment's variable `E` is no value: a list has no end"
    );
    assert!(environment("E", "$E", "a: $E").ends_with("is too large, or refers to itself"));
    let tree = tree(&Memory::one("A: 1\nb: $A\nc: 2")).unwrap();
    assert!(tree.root.get("a").unwrap().used && !tree.root.get("c").unwrap().used);
    let variable = tree.root.get("b").unwrap().value.variable.clone().unwrap();
    assert_eq!(
        (variable.name.as_str(), variable.defined.unwrap().to_string().as_str()),
        ("A", "c.conf:1:4")
    );
}

#[test]
fn files_are_included_relative_to_the_file_that_names_them() {
    let memory = Memory::one("include 'x/a.conf'\nm: {include x/a.conf}\nv: $two")
        .with("x/a.conf", "one: 1\ninclude \"b.conf\"; three: 3")
        .with("x/b.conf", "two: 2");
    assert_eq!(read_of(&memory), "{one:1 two:2 three:3 m:{one:1 two:2 three:3} v:2}");
    let tree = tree(&memory).unwrap();
    assert_eq!(tree.files.len(), 5);
    assert_eq!(tree.root.get("two").unwrap().value.span.to_string(), "x/b.conf:1:6");
    // A file sees none of the variables of the one that includes it.
    let memory = Memory::one("A: 1\ninclude b.conf").with("b.conf", "b: $A");
    assert_eq!(read_of(&memory), "b.conf:1:4 a variable is set nowhere");
    let memory = Memory::one("include /x/b.conf").with("x/b.conf", "b: 1");
    assert_eq!(read_of(&memory), "{b:1}");
    let memory = Memory::one("a: 1\ninclude b.conf").with("b.conf", "include './c.conf'");
    assert_eq!(read_of(&memory), "b.conf:1:9 ./c.conf includes itself");
}

#[test]
fn what_is_too_much_is_refused() {
    assert!(one(&format!("a: {}", "[".repeat(100_000))).contains("stand in each other"));
    assert!(one(&format!("a: {}", "{a:".repeat(100_000))).contains("stand in each other"));
    let mut doubling = "a0: [x, y]\n".to_owned();
    let mut deeper = "a0: {}\n".to_owned();
    for n in 0..2000 {
        doubling += &format!("a{}: [$a{n}, $a{n}]\n", n + 1);
        deeper += &format!("a{}: {{a: $a{n}}}\n", n + 1);
    }
    assert!(one(&doubling).contains("in each other"));
    assert!(one(&deeper).contains("in each other"));
    let mut memory = Memory::one("include f0.conf");
    for n in 0..30 {
        memory = memory.with(&format!("f{n}.conf"), &format!("include f{}.conf", n + 1));
    }
    assert!(read_of(&memory).contains("th file that includes another"));
    let memory = Memory::one("a: 1");
    let large = memory.with("c.conf", &"# \n".repeat(MAX_BYTES / 3 + 1));
    assert!(read_of(&large).contains("larger than"));
}

#[test]
fn places_and_replaced_keys_are_kept() {
    let text = "users: [\n  {user: \"bob\", allow: [\"a.>\"]}\n]\nport: 1\nport: 2\n";
    let tree = tree(&Memory::one(text)).unwrap();
    let Value::List(users) = &tree.root.get("users").unwrap().value.value else { panic!() };
    let Value::Map(user) = &users[0].value else { panic!() };
    let name = &user.get("user").unwrap();
    assert_eq!(&text[name.value.span.range()], "\"bob\"");
    assert_eq!(&text[name.key.span.range()], "user");
    assert_eq!(name.value.span.to_string(), "c.conf:2:10");
    assert_eq!(&text[users[0].span.range()], "{user: \"bob\", allow: [\"a.>\"]}");
    assert_eq!(tree.root.replaced().count(), 1);
    assert_eq!(tree.root.get("port").unwrap().value.span.to_string(), "c.conf:5:7");
}

#[test]
fn no_secret_is_told() {
    for text in [
        "authorization { user: a, password: 'hunterword",
        "authorization { user: a, password: hunterword x }",
        "token: hunterword\nx: {",
        "PW: hunterword\nx: $PX",
        "password: $hunterword",
        "a: {user: x\n hunterword }",
    ] {
        let problems = tree(&Memory::one(text)).unwrap_err();
        let all = format!("{problems} {problems:?} {}", serde_json::to_string(&problems).unwrap());
        assert!(!all.contains("hunterword"), "{all}");
    }
    let tree = tree(&Memory::one("password: hunterword\nP: hunterword\nq: $P")).unwrap();
    assert!(!format!("{tree:?}").contains("hunterword"));
    assert!(!tree.files[0].text().contains("hunterword"));
}

const VALID: &str = "port: 4222\nA: [\"x.>\", 'y']\naccounts: {\n  APP: { users: [\n    {user: a, \
    password: \"b\\n\", permissions: {publish: {allow: $A, deny: \"z\"}}}\n    {nkey: U} // c\n  ] }\n}\
    \nmax: 2MB; t: 1.5, d: 2026-01-31T12:00:00Z # x\nb: (\nq\n)\ninclude \"x.conf\"\n";

proptest! {
    #[test]
    fn no_bytes_make_it_panic(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
        let memory = Memory { files: [("c.conf".into(), bytes)].into(), ..Memory::default() };
        drop(tree(&memory));
    }

    #[test]
    fn no_likely_text_makes_it_panic(text in "([{}\\[\\]():=,;#/'\"$\\\\\n a-z0-9.kx-]|include |é){0,80}") {
        let read = tree(&Memory::one(&text).with("x", &text));
        if let Err(problems) = read {
            prop_assert!(!problems.to_string().is_empty());
        }
    }

    #[test]
    fn no_change_of_a_good_text_makes_it_panic(
        at in 0..VALID.len(), length in 0..20_usize, put in "[{}\\[\\]()'\"\n:$,a1]{0,3}",
    ) {
        let end = (at + length).min(VALID.len());
        let text = format!("{}{put}{}", &VALID[..at], &VALID[end..]);
        let memory = Memory::one(&text).with("x.conf", "one: {two: 2}");
        if let Err(problems) = tree(&memory) {
            prop_assert!(!problems.to_string().is_empty());
        }
    }

    #[test]
    fn places_are_where_the_words_stand(
        entries in proptest::collection::vec(("[a-z]{1,5}", "[a-zé]{1,9}"), 1..20),
    ) {
        let text: String = entries.iter().map(|(k, v)| format!("  {k} : \"{v}\"\n")).collect();
        let tree = tree(&Memory::one(&text)).unwrap();
        for (entry, (key, value)) in tree.root.all().zip(&entries) {
            prop_assert_eq!(&text[entry.key.span.range()], key);
            prop_assert_eq!(&text[entry.value.span.range()], &format!("\"{value}\""));
        }
    }
}
