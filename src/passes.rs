//! What passes between the account that keeps state and the accounts of services: exported there,
//! and imported here under the same subject. `init` writes the lines into nats-server's
//! configuration; `doctor` and `state` say the same lines.

pub mod link;

use solewriter_core::policy::model::{Policy, Stream, StreamName};
use solewriter_types::subject::Pattern;

/// The accounts as `deploy/nats-server.conf` names them.
const STATE: &str = "STATE";
const SERVICES: &str = "APP";

/// One thing that passes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pass {
    /// `service` or `stream`.
    pub kind: &'static str,
    /// The subject that has to get through.
    pub subject: String,
    /// What fails without it.
    pub what: String,
    /// Why it passes.
    pub due_to: DueTo,
    /// What the export says besides.
    more: &'static str,
}

/// What makes something pass.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum DueTo {
    /// Buckets: every deployment has it.
    Buckets,
    /// Consumers, if any is declared.
    Consumers,
    /// Object stores, if any is declared.
    Stores,
    /// That a declared stream keeps it.
    Stream(StreamName),
}

impl Pass {
    fn of_buckets(
        kind: &'static str,
        subject: &str,
        what: &'static str,
        more: &'static str,
    ) -> Self {
        let (subject, what) = (subject.to_owned(), what.to_owned());
        Self { kind, subject, what, due_to: DueTo::Buckets, more }
    }

    fn service(subject: &str, what: &str, due_to: DueTo) -> Self {
        let (subject, what) = (subject.to_owned(), what.to_owned());
        Self { kind: "service", subject, what, due_to, more: "" }
    }

    /// The subject to export and import. A literal one is interest by itself, and JetStream would
    /// publish there for anybody who has it as a reply subject; so its last token is a wildcard.
    #[must_use]
    pub fn passed(&self) -> String {
        match self.subject.rsplit_once('.') {
            Some((front, _)) if !self.subject.contains(['*', '>']) => format!("{front}.*"),
            _ => self.subject.clone(),
        }
    }

    /// The line of the account that exports it, to those accounts.
    #[must_use]
    pub fn export(&self, accounts: &[&str]) -> String {
        let Self { kind, more, .. } = self;
        let subject = quoted(&self.passed());
        format!("{{ {kind}: {subject}{more}, accounts: [ {} ] }}", accounts.join(", "))
    }

    /// The line of an account that imports it from `state`.
    #[must_use]
    pub fn import(&self, state: &str) -> String {
        let Self { kind, .. } = self;
        let subject = quoted(&self.passed());
        format!("{{ {kind}: {{ account: {state}, subject: {subject} }} }}")
    }
}

/// Whether a pattern covers a subject.
#[must_use]
pub fn within(subject: &str, pattern: &str) -> bool {
    match (Pattern::parse(subject), Pattern::parse(pattern)) {
        (Ok(subject), Ok(pattern)) => subject.is_subset_of(&pattern),
        _ => false,
    }
}

/// A subject as nats-server's configuration has it.
fn quoted(subject: &str) -> String {
    format!("\"{}\"", subject.replace('\\', "\\\\").replace('"', "\\\""))
}

/// What every deployment needs.
#[must_use]
pub fn of_buckets() -> [Pass; 4] {
    let many = ", response: stream";
    [
        Pass::of_buckets("service", "$KV.>", "writes", many),
        Pass::of_buckets("service", "$JS.API.>", "reads", many),
        Pass::of_buckets("service", "$JS.FC.>", "flow control of watches", ""),
        Pass::of_buckets("stream", "_INBOX.>", "answers and watches", ""),
    ]
}

/// What consumers and object stores need. It may pass in every deployment.
#[must_use]
pub fn of_consumers_and_stores() -> [Pass; 2] {
    [
        Pass::service("$JS.ACK.>", "acknowledgements of consumers", DueTo::Consumers),
        Pass::service("$O.>", "puts of objects", DueTo::Stores),
    ]
}

/// What the policy's streams, consumers and object stores need, each subject to export once.
#[must_use]
pub fn declared(policy: &Policy) -> Vec<Pass> {
    with(policy, of_streams(policy.streams()))
}

/// The same where JetStream is in that domain, or in none: streams of other domains need nothing.
#[must_use]
pub fn needed(policy: &Policy, here: Option<&str>) -> Vec<Pass> {
    let is_here = |s: &&Stream| s.domain.as_ref().is_none_or(|domain| domain.is(here));
    with(policy, of_streams(policy.streams().iter().filter(is_here)))
}

fn with(policy: &Policy, streams: Vec<Pass>) -> Vec<Pass> {
    let mut passes = of_consumers_and_stores().to_vec();
    passes.retain(|pass| match pass.due_to {
        DueTo::Consumers => policy.streams().iter().any(|stream| !stream.consumers.is_empty()),
        _ => !policy.stores().is_empty(),
    });
    passes.extend(streams);
    passes
}

fn of_streams<'p>(streams: impl IntoIterator<Item = &'p Stream>) -> Vec<Pass> {
    let mut passes: Vec<Pass> = Vec::new();
    for stream in streams {
        let what = format!("acknowledgements of what stream {} keeps", stream.name);
        for subject in &stream.subjects {
            let due_to = DueTo::Stream(stream.name.clone());
            let pass = Pass::service(subject.as_str(), &what, due_to);
            if passes.iter().all(|other| other.passed() != pass.passed()) {
                passes.push(pass);
            }
        }
    }
    passes
}

/// nats-server's configuration with the lines that the policy's streams, consumers and object stores
/// need, behind those that every deployment has. What it has already stays as it is.
#[must_use]
pub fn in_config(config: &str, policy: Option<&Policy>) -> String {
    let mut lines: Vec<String> = config.lines().map(ToOwned::to_owned).collect();
    let [_, _, flow_control, _] = of_buckets();
    let mut passes = of_consumers_and_stores().to_vec();
    passes.extend(policy.into_iter().flat_map(|policy| of_streams(policy.streams())));
    let export = |pass: &Pass| pass.export(&[SERVICES]);
    let import = |pass: &Pass| pass.import(STATE);
    for written in [&export as &dyn Fn(&Pass) -> String, &import] {
        let place = |lines: &[String], pass| {
            let wanted = written(pass);
            lines.iter().position(|line| line.trim() == wanted)
        };
        let Some(mut at) = place(&lines, &flow_control) else { continue };
        for pass in &passes {
            if let Some(there) = place(&lines, pass) {
                at = there;
                continue;
            }
            let indent = lines.get(at).map_or(0, |line| line.len() - line.trim_start().len());
            at = at.saturating_add(1);
            lines.insert(at, format!("{:indent$}{}", "", written(pass)));
        }
    }
    lines.join("\n") + "\n"
}

#[cfg(test)]
mod tests {
    use super::*;
    use solewriter_core::diagnostics::SourceFile;
    use solewriter_core::policy::validate::validate;

    const CONFIG: &str = include_str!("../deploy/nats-server.conf");

    fn policy(text: &str) -> Policy {
        let text = format!("{text}[service.a]\nnkeys = []\n");
        validate(&[SourceFile::new("p.toml", text)]).unwrap().policy
    }

    /// The indented lines of the list of an account.
    fn list(config: &str, account: &str, name: &str) -> Vec<String> {
        let (_, account) = config.split_once(&format!("\n  {account} {{\n")).unwrap();
        let (_, list) = account.split_once(&format!("    {name}: [\n")).unwrap();
        let (list, _) = list.split_once("\n    ]\n").unwrap();
        list.lines().map(|line| line.trim().to_owned()).collect()
    }

    #[test]
    fn the_shipped_configuration_has_what_every_deployment_needs() {
        let (exports, imports) = (list(CONFIG, "STATE", "exports"), list(CONFIG, "APP", "imports"));
        for pass in of_buckets().into_iter().chain(of_consumers_and_stores()) {
            let to: &[&str] = if pass.subject == "$JS.API.>" { &["APP", "AUTH"] } else { &["APP"] };
            assert!(exports.contains(&pass.export(to)), "{}", pass.export(to));
            assert!(imports.contains(&pass.import("STATE")), "{}", pass.import("STATE"));
        }
        assert_eq!(exports.len(), 6, "and nothing else");
        assert_eq!(in_config(CONFIG, None), CONFIG);
    }

    #[test]
    fn streams_get_a_line_each_and_none_twice() {
        let kept = policy(
            "[stream.A]\nsubjects = [\"a.>\", \"b.now\"]\n[stream.B]\nsubjects = [\"b.later\"]\n",
        );
        let config = in_config(CONFIG, Some(&kept));
        let exports = list(&config, "STATE", "exports");
        let wanted = [
            "{ service: \"$O.>\", accounts: [ APP ] }",
            "{ service: \"a.>\", accounts: [ APP ] }",
            "{ service: \"b.*\", accounts: [ APP ] }",
            "{ stream: \"_INBOX.>\", accounts: [ APP ] }",
        ];
        assert_eq!(exports[4..], wanted);
        let imports = list(&config, "APP", "imports");
        assert_eq!(imports[5], "{ service: { account: STATE, subject: \"a.>\" } }");
        assert_eq!(imports[6], "{ service: { account: STATE, subject: \"b.*\" } }");
        assert_eq!(in_config(&config, Some(&kept)), config, "once more changes nothing");
        // Nor do the lines of another policy go.
        let more = in_config(&config, Some(&policy("[stream.C]\nsubjects = [\"c.>\"]\n")));
        assert_eq!(list(&more, "STATE", "exports").len(), exports.len() + 1);
        // A file of before consumers and stores gets their lines.
        let older: String = CONFIG
            .lines()
            .filter(|line| !line.contains("$O.>") && !line.contains("$JS.ACK.>"))
            .flat_map(|line| [line, "\n"])
            .collect();
        assert_eq!(in_config(&older, None), CONFIG);
        assert_eq!(in_config("port: 4222\n", Some(&kept)), "port: 4222\n", "not one of ours");
    }

    #[test]
    fn a_subject_stays_one_text_of_the_configuration() {
        let pass = Pass::service("a.\"],x\\.>", "", DueTo::Stores);
        let wanted = r#"{ service: { account: STATE, subject: "a.\"],x\\.>" } }"#;
        assert_eq!(pass.import("STATE"), wanted);
    }
}
