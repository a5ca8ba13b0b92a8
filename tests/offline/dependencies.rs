//! What is depended on: licences, sources and bans, as `deny.toml` has them. `cargo deny check` says
//! more, where it is installed.

use std::collections::BTreeSet;
use std::process::Command;

use serde_json::{Value, json};
use spdx::{Expression, LicenseItem, LicenseReq, ParseMode};

/// The lists of `deny.toml`.
struct Rules {
    licences: BTreeSet<String>,
    banned: BTreeSet<String>,
    registries: BTreeSet<String>,
}

impl Rules {
    fn read() -> Self {
        let file = concat!(env!("CARGO_MANIFEST_DIR"), "/deny.toml");
        let rules: toml::Value = toml::from_str(&std::fs::read_to_string(file).unwrap()).unwrap();
        let list = |table: &str, key: &str| {
            let entries = rules[table][key].as_array().unwrap();
            entries.iter().map(|entry| entry.as_str().unwrap().to_owned()).collect()
        };
        Self {
            licences: list("licenses", "allow"),
            banned: list("bans", "deny"),
            registries: list("sources", "allow-registry"),
        }
    }

    fn allow(&self, wanted: &LicenseReq) -> bool {
        let LicenseItem::Spdx { id, .. } = &wanted.license else { return false };
        wanted.addition.is_none() && self.licences.contains(id.name)
    }

    /// What is wrong with a package, as `cargo metadata` has it.
    fn complaints(&self, package: &Value) -> Vec<String> {
        let name = package["name"].as_str().unwrap();
        let mut complaints = Vec::new();
        if self.banned.contains(name) {
            complaints.push(format!("{name} is banned"));
        }
        // Ours have no source.
        let Some(source) = package["source"].as_str() else { return complaints };
        if !source.strip_prefix("registry+").is_some_and(|from| self.registries.contains(from)) {
            complaints.push(format!("{name} comes from {source}"));
        }
        let licence = package["license"].as_str().unwrap_or_default();
        let allowed = Expression::parse_mode(licence, ParseMode::LAX)
            .is_ok_and(|licence| licence.evaluate(|wanted| self.allow(wanted)));
        if !allowed {
            complaints.push(format!("{name} is under {licence:?}"));
        }
        complaints
    }
}

fn cargo(arguments: &[&str]) -> Vec<u8> {
    let mut command = Command::new(env!("CARGO"));
    let output = command.args(arguments).current_dir(env!("CARGO_MANIFEST_DIR")).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    output.stdout
}

#[test]
fn what_is_depended_on_is_allowed() {
    let version = String::from_utf8(cargo(&["-vV"])).unwrap();
    let host = version.lines().find_map(|line| line.strip_prefix("host: ")).unwrap();
    // What this platform does not build may not have been downloaded.
    let metadata = cargo(&[
        "metadata",
        "--locked",
        "--offline",
        "--format-version=1",
        "--all-features",
        "--filter-platform",
        host,
    ]);
    let metadata: Value = serde_json::from_slice(&metadata).unwrap();
    let packages = metadata["packages"].as_array().unwrap();
    assert!(packages.iter().any(|package| package["name"] == "async-nats"));
    let rules = Rules::read();
    let complaints: Vec<String> =
        packages.iter().flat_map(|package| rules.complaints(package)).collect();
    assert!(complaints.is_empty(), "deny.toml does not allow:\n{}", complaints.join("\n"));
}

#[test]
fn what_is_not_allowed_is_complained_of() {
    const REGISTRY: &str = "registry+https://github.com/rust-lang/crates.io-index";
    let rules = Rules::read();
    let found = |name: &str, source: &str, licence: Option<&str>| {
        rules.complaints(&json!({"name": name, "source": source, "license": licence})).len()
    };
    assert_eq!(found("a", REGISTRY, Some("MIT")), 0);
    assert_eq!(found("a", REGISTRY, Some("GPL-3.0-only OR Apache-2.0/MIT")), 0);
    assert_eq!(found("openssl", REGISTRY, Some("MIT")), 1);
    assert_eq!(found("a", "git+https://example.com/a", Some("MIT")), 1);
    assert_eq!(found("a", "registry+https://example.com", Some("MIT")), 1);
    for licence in ["GPL-3.0-only", "MIT AND GPL-3.0-only", "MIT WITH Classpath-exception-2.0", ""]
    {
        assert_eq!(found("a", REGISTRY, Some(licence)), 1, "{licence}");
    }
    assert_eq!(found("a", REGISTRY, None), 1);
}
