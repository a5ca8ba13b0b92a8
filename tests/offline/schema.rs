//! The JSON Schemas and the readers know the same keys, and the schemas refuse nothing that is
//! right.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use super::repository;
use serde_json::Value;
use solewriter::{config, schema};
use solewriter_core::diagnostics::{Problems, Severity, SourceFile};
use solewriter_core::policy::validate::sketch;

fn policy_schema() -> Value {
    serde_json::from_str(&schema::policy()).unwrap()
}

fn settings_schema() -> Value {
    serde_json::from_str(&schema::settings()).unwrap()
}

/// A TOML file as the JSON that an editor checks; times are strings.
fn json(text: &str) -> Option<Value> {
    fn convert(value: toml::Value) -> Value {
        match value {
            toml::Value::Datetime(time) => Value::String(time.to_string()),
            toml::Value::Array(list) => list.into_iter().map(convert).collect(),
            toml::Value::Table(table) => table.into_iter().map(|(k, v)| (k, convert(v))).collect(),
            plain => serde_json::to_value(plain).unwrap(),
        }
    }
    toml::from_str(text).ok().map(convert)
}

fn policy_problems(text: &str) -> Problems {
    sketch(&[SourceFile::new("p.toml", text)]).problems
}

fn settings_problems(text: &str) -> Problems {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("solewriter.toml");
    std::fs::write(&path, text).unwrap();
    match config::load(&path, &config::Overrides::default()) {
        Ok(_) => Problems::default(),
        Err(problems) => problems,
    }
}

/// The keys that a reader names when it meets one that it does not know.
fn keys_of_the_reader(problems: &Problems) -> BTreeSet<String> {
    let unknown = problems.iter().find(|p| p.code == "unknown-key").expect("an unknown key");
    let help = unknown.help.as_deref().unwrap();
    let list = help.strip_prefix("known keys: ").unwrap_or_else(|| panic!("{help}"));
    list.split(", ").map(ToOwned::to_owned).collect()
}

fn keys_of_the_schema(schema: &Value, path: &str) -> BTreeSet<String> {
    let table = schema.pointer(path).unwrap_or_else(|| panic!("{path}"));
    assert_eq!(table["additionalProperties"], false, "{path}");
    for (key, schema) in table["properties"].as_object().unwrap() {
        assert!(schema["description"].as_str().is_some_and(|d| !d.is_empty()), "{path} {key}");
    }
    table["properties"].as_object().unwrap().keys().cloned().collect()
}

const UNKNOWN: &str = "zzzzzzzzzzzzzzzzzzzzzzzzzzzzzz";

#[test]
fn a_policy_s_tables_have_the_keys_that_are_read() {
    let schema = policy_schema();
    let valid = jsonschema::draft202012::new(&schema).unwrap();
    let doc = std::fs::read_to_string(repository().join("docs/policy.md")).unwrap();
    let words: BTreeSet<&str> = doc.split(|c: char| !c.is_ascii_lowercase() && c != '_').collect();
    for (before, after, path) in [
        ("", "", ""),
        ("[service.x]\n", "", "/properties/service/additionalProperties"),
        ("[role.x]\n", "", "/properties/role/additionalProperties"),
        ("[bucket.x]\n", "", "/properties/bucket/additionalProperties"),
        ("[stream.x]\n", "", "/properties/stream/additionalProperties"),
        (
            "[stream.x.consumer.y]\n",
            "",
            "/properties/stream/additionalProperties/properties/consumer/additionalProperties",
        ),
        ("[store.x]\n", "", "/properties/store/additionalProperties"),
        ("[defaults]\n", "", "/properties/defaults"),
        ("[naming]\n", "", "/properties/naming"),
        ("[[naming.except]]\n", "", "/properties/naming/properties/except/items"),
        (
            "[service.x]\nnkeys = [{ ",
            " }]",
            "/properties/service/additionalProperties/properties/nkeys/items/anyOf/1",
        ),
    ] {
        let text = format!("{before}{UNKNOWN} = 1{after}\n");
        let mut read = keys_of_the_reader(&policy_problems(&text));
        if before == "[role.x]\n" {
            // Read only to say that it does not belong there.
            assert!(read.remove("owns") && read.remove("found_as"));
        }
        let known = keys_of_the_schema(&schema, path);
        assert_eq!(known, read, "{before}");
        assert!(!valid.is_valid(&json(&text).unwrap()), "{text}");
        for key in known {
            assert!(words.contains(key.as_str()), "docs/policy.md does not name `{key}`");
        }
    }
}

#[test]
fn the_settings_tables_have_the_keys_that_are_read() {
    let schema = settings_schema();
    let valid = jsonschema::draft202012::new(&schema).unwrap();
    for table in config::TABLES.iter().map(|(name, _)| *name).chain([""]) {
        let header = if table.is_empty() { String::new() } else { format!("[{table}]\n") };
        let text = format!("{header}{UNKNOWN} = 1\n");
        let read = keys_of_the_reader(&settings_problems(&text));
        let path: String = table
            .split('.')
            .filter(|name| !name.is_empty())
            .map(|name| format!("/properties/{name}"))
            .collect();
        assert_eq!(keys_of_the_schema(&schema, &path), read, "[{table}]");
        assert!(!valid.is_valid(&json(&text).unwrap()), "{text}");
    }
}

/// Every `*.toml` in and below a folder.
fn policy_files(folder: &Path, found: &mut Vec<PathBuf>) {
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        let name = path.file_name().unwrap().to_string_lossy().into_owned();
        if path.is_dir() {
            policy_files(&path, found);
        } else if name.ends_with(".toml") && !name.ends_with(".test.toml") {
            found.push(path);
        }
    }
}

#[test]
fn what_the_reader_accepts_the_schema_accepts() {
    let schema = policy_schema();
    let valid = jsonschema::draft202012::new(&schema).unwrap();
    let mut files = Vec::new();
    policy_files(&repository().join("tests/fixtures"), &mut files);
    policy_files(&repository().join("policy"), &mut files);
    let (mut accepted, mut refused) = (0, 0);
    for path in files {
        let Ok(text) = std::fs::read_to_string(&path) else { continue };
        let Some(json) = json(&text) else { continue };
        let problems = policy_problems(&text);
        let objections: Vec<String> =
            valid.iter_errors(&json).map(|e| format!("{} {e}", e.instance_path())).collect();
        // What only the whole policy shows is no mistake in this file's form.
        let form = |code: &str| {
            matches!(code, "unknown-key" | "missing-key" | "wrong-type" | "bad-size" | "bad-value")
        };
        let malformed = problems.iter().any(|p| form(p.code));
        if malformed {
            assert!(!objections.is_empty(), "{} should be refused", path.display());
            refused += 1;
        } else if !objections.is_empty() {
            let errors = problems.iter().any(|p| p.severity == Severity::Error);
            assert!(errors, "{} is right:\n{}", path.display(), objections.join("\n"));
        } else {
            accepted += 1;
        }
    }
    assert!(accepted > 15 && refused > 4, "{accepted} {refused}");
}

#[test]
fn the_settings_example_fits() {
    let schema = settings_schema();
    let valid = jsonschema::draft202012::new(&schema).unwrap();
    let text = std::fs::read_to_string(repository().join("deploy/solewriter.toml")).unwrap();
    let objections: Vec<_> =
        valid.iter_errors(&json(&text).unwrap()).map(|e| e.to_string()).collect();
    assert!(objections.is_empty(), "{objections:?}");
    for right in ["[audit]\nspool_limit = 1048576", "[audit]\nspool_limit = '1 MiB'"] {
        assert!(valid.is_valid(&json(right).unwrap()), "{right}");
    }
    for wrong in [
        "[nats]\nservers = 'x'",
        "[nats]\nconnections = 65",
        "[limits]\npending = '4'",
        "[nats.tls]\nfirst = 1",
        "[audit]\nspool_limit = 'much'",
    ] {
        assert!(!valid.is_valid(&json(wrong).unwrap()), "{wrong}");
    }
}

#[test]
fn schemas_are_schemas() {
    for schema in [policy_schema(), settings_schema()] {
        let meta = jsonschema::meta::validate(&schema);
        assert!(meta.is_ok(), "{meta:?}");
    }
}

#[test]
fn the_committed_copies_are_true() {
    for (name, text) in [("policy", schema::policy()), ("settings", schema::settings())] {
        let path = repository().join(format!("schema/{name}.schema.json"));
        if std::env::var_os("UPDATE_SCHEMA").is_some() {
            std::fs::write(&path, &text).unwrap();
        }
        let copy = std::fs::read_to_string(&path).unwrap_or_default();
        assert!(
            copy == text,
            "run UPDATE_SCHEMA=1 cargo test --test offline schema, and look at the diff"
        );
    }
}

/// The audit streams as their admin creates them, from the one place that says what it is like.
#[test]
fn the_files_of_the_audit_streams_are_true() {
    let [events, services] = solewriter::audit::stream::documents();
    for (name, text) in [("audit-stream.json", events), ("audit-services-stream.json", services)] {
        let path = repository().join("deploy").join(name);
        if std::env::var_os("UPDATE_SCHEMA").is_some() {
            std::fs::write(&path, &text).unwrap();
        }
        let copy = std::fs::read_to_string(&path).unwrap_or_default();
        assert!(
            copy == text,
            "run UPDATE_SCHEMA=1 cargo test --test offline schema, and look at the diff"
        );
    }
}

/// The examples are as a formatter leaves them: nobody's editor changes a line that they did not.
#[test]
fn the_examples_are_formatted() {
    let root = repository();
    for folder in ["policy", "deploy"] {
        for entry in std::fs::read_dir(root.join(folder)).unwrap() {
            let path = entry.unwrap().path();
            if path.extension().is_some_and(|e| e == "toml") {
                let text = std::fs::read_to_string(&path).unwrap();
                let formatted =
                    taplo::formatter::format(&text, taplo::formatter::Options::default());
                assert_eq!(formatted, text, "{}", path.display());
            }
        }
    }
}
