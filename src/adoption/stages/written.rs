//! A plan in a folder: keys, settings, and the files of each stage. Nothing is overwritten.

use std::fmt::Write as _;
use std::path::{Component, Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::edits::Texts;
use super::{Current, Keys};
use crate::adoption::server_config::syntax::{Value, blank};
use crate::audit::stream;
use crate::scaffold::{InitError, Output, SETTINGS, seed_output};
use solewriter_core::keys::{Account, Curve, CurveSecret, Seed, Signer, User};

/// The file by which a later run knows the plan.
pub const RECORD: &str = "adopt.toml";

/// New keys, and the files of their seeds.
///
/// # Errors
/// That a key could not be made.
pub fn new_keys(dir: &Path) -> Result<(Keys, Vec<Output>), InitError> {
    let mut outputs = Vec::new();
    let issuer = Seed::<Account>::generate();
    outputs.push(seed_output(dir, "issuer.nk", &issuer));
    let xkey = Seed::<Curve>::generate();
    outputs.push(seed_output(dir, "callout.xk", &xkey));
    let mut user = |name: Option<&str>| -> Result<String, InitError> {
        let seed = Seed::<User>::generate();
        if let Some(name) = name {
            outputs.push(seed_output(dir, &format!("{name}.nk"), &seed));
        }
        Ok(Signer::new(&seed)?.public().to_string())
    };
    let keys = Keys {
        issuer: Signer::new(&issuer)?.public().to_string(),
        xkey: CurveSecret::new(&xkey)?.public().to_string(),
        callout: user(Some("callout"))?,
        publisher: user(Some("publisher"))?,
        admin: user(Some("admin"))?,
        audit_admin: user(Some("audit-admin"))?,
        system: user(Some("system"))?,
        anybody: user(None)?,
    };
    Ok((keys, outputs))
}

/// What a plan was made with.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Record {
    /// The account that keeps the state, as it was called.
    pub account: Option<String>,
    /// The policy's folder.
    pub policy: Option<String>,
    /// What was shared by name.
    pub shared: Vec<String>,
    /// The public keys.
    pub keys: Keys,
}

impl Record {
    /// As a file.
    #[must_use]
    pub fn text(&self) -> String {
        // Texts and lists of them always have a form in TOML.
        let table = toml::to_string(self).unwrap_or_default();
        format!("# By this `solewriter adopt` knows its plan. Public keys only.\n{table}")
    }

    /// From a file. `None` when it is not one.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        toml::from_str(text).ok()
    }
}

/// Where clients reach the server, from its own machine.
fn address(current: &Current) -> String {
    let root = &current.tree.root;
    let value = |name: &str| root.get(name).map(|entry| &entry.value.value);
    let (mut host, mut port) = (None, None);
    for name in ["listen", "host", "net", "port"] {
        match value(name) {
            Some(Value::Integer(number)) => port = Some(number.to_string()),
            Some(Value::String(text)) => match text.rsplit_once(':') {
                Some((before, after)) => {
                    (host, port) = (Some(before.to_owned()), Some(after.to_owned()));
                }
                None => host = Some(text.clone()),
            },
            _ => {}
        }
    }
    let anywhere = |host: &String| host.is_empty() || host == "0.0.0.0" || host.contains("::");
    let host = host.filter(|host| !anywhere(host)).unwrap_or_else(|| "127.0.0.1".to_owned());
    let port = port.filter(|port| port.parse::<u16>().is_ok_and(|port| port > 0));
    format!("{host}:{}", port.unwrap_or_else(|| "4222".to_owned()))
}

/// What the server's configuration tells of TLS, as settings. What it does not tell is a comment.
pub(super) fn tls(current: &Current) -> String {
    let Some(tls) = &current.config.tls else { return String::new() };
    let value = |name: &str| match &current.tree.root.get("tls")?.value.value {
        Value::Map(map) => Some(&map.get(name)?.value.value),
        _ => None,
    };
    let mut text =
        "\n[nats.tls]\n# The server has TLS. Each name in [nats] servers has to be one of its \
                    certificate's.\nrequired = true\n"
            .to_owned();
    let first = ["handshake_first", "first"].into_iter().find_map(value);
    if matches!(first, Some(Value::Bool(true))) {
        text.push_str("first = true\n");
    }
    let ca = match value("ca_file") {
        Some(Value::String(file)) => found(current, Path::new(file)),
        _ => None,
    };
    let _ = match ca {
        Some(ca) => writeln!(
            text,
            "# The server's own `ca_file`; name another one if it did not sign the server's \
             certificate.\nca = {}",
            toml::Value::from(ca.display().to_string())
        ),
        None => writeln!(
            text,
            "# The authority that signed the server's certificate, if this machine does not trust \
             it:\n# ca = \"ca.pem\""
        ),
    };
    if tls.verify || tls.map {
        text.push_str(
            "# The server lets nobody in without a certificate. Give solewriter one of its own, of the \
             authority\n# that the server's `ca_file` names:\n# cert = \"solewriter.pem\"\n# key = \
             \"solewriter-key.pem\"\n",
        );
    }
    text
}

/// A file that the configuration names: from here, or from the folder of the configuration.
fn found(current: &Current, file: &Path) -> Option<PathBuf> {
    let beside = Path::new(&current.main).with_file_name("").join(file);
    let places = [file, &beside].map(std::path::absolute);
    places.into_iter().flatten().find(|path| path.is_file())
}

/// solewriter's settings, what it needs beside them, and where the policy is.
#[must_use]
pub fn settings(
    dir: &Path,
    current: &Current,
    services: &str,
    policy: Option<&Path>,
) -> Vec<Output> {
    let folder = policy.map_or_else(|| "policy".to_owned(), |path| path.display().to_string());
    let folder = toml::Value::from(folder).to_string();
    let text = SETTINGS
        .replace("../schema/", "schema/")
        .replace("127.0.0.1:4222", &address(current))
        .replace("directory = \"policy\"", &format!("directory = {folder}"))
        .replace("account = \"APP\"", &format!("account = \"{services}\""));
    let text = format!(
        "{}\n\n[sessions]\n# Who has not moved has consumers that the policy does not know. Take this out \
         with the last stage.\nstrangers = \"leave\"\n{}",
        text.trim_end(),
        tls(current)
    );
    let [events, services] = stream::documents();
    let mut outputs = Vec::new();
    let mut plain = |name: &str, text: String| {
        outputs.push(Output::new(dir.join(name), text, false));
    };
    plain("solewriter.toml", text);
    plain(".gitignore", "/keys/\n/audit-spool/\n/policy.kept*\n".to_owned());
    plain("audit-stream.json", events);
    plain("audit-services-stream.json", services);
    plain("schema/policy.schema.json", crate::schema::policy());
    plain("schema/settings.schema.json", crate::schema::settings());
    if policy.is_none() {
        let text = "#:schema ../schema/policy.schema.json\n\n# A table for each service that moves: \
                    its NKEY, and what it may do (docs/policy.md).\n";
        plain("policy/services.toml", text.to_owned());
    }
    outputs
}

/// The files of a stage in its folder, as they lie to each other today.
///
/// # Errors
/// A current folder that has no name.
pub fn stage(folder: &Path, texts: &Texts) -> std::io::Result<Vec<Output>> {
    let mut paths: Vec<(PathBuf, &str)> = Vec::new();
    for (name, text) in texts {
        paths.push((normal(&std::path::absolute(name)?), text.as_str()));
    }
    let common = common(paths.iter().map(|(path, _)| path.as_path()));
    let output = |(path, text): &(PathBuf, &str)| {
        let name = path.strip_prefix(&common).unwrap_or(path);
        // What cannot be shown in full may be a secret.
        let secret = blank::blank(text) != *text && !name.ends_with(super::NEW_FILE);
        Output::new(folder.join(name), *text, secret)
    };
    Ok(paths.iter().map(output).collect())
}

/// Without `..`.
fn normal(path: &Path) -> PathBuf {
    let mut normal = PathBuf::new();
    for part in path.components() {
        if part == Component::ParentDir {
            normal.pop();
        } else {
            normal.push(part);
        }
    }
    normal
}

/// The folder in which all of them are.
fn common<'p>(paths: impl Iterator<Item = &'p Path>) -> PathBuf {
    let mut common: Option<PathBuf> = None;
    for path in paths {
        let folder = path.parent().unwrap_or(path);
        common = Some(match common {
            None => folder.to_owned(),
            Some(common) => {
                let pairs = common.components().zip(folder.components());
                pairs.take_while(|(a, b)| a == b).map(|(part, _)| part).collect()
            }
        });
    }
    common.unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_lie_to_each_other_as_before() {
        let texts: Texts = [("/etc/nats/a.conf", "port: 1\n"), ("/etc/shared/u.conf", "pass: x\n")]
            .map(|(name, text)| (name.to_owned(), text.to_owned().into()))
            .into();
        let outputs = stage(Path::new("/out/1"), &texts).unwrap();
        let paths: Vec<&Path> = outputs.iter().map(Output::path).collect();
        assert_eq!(paths, [Path::new("/out/1/nats/a.conf"), Path::new("/out/1/shared/u.conf")]);
    }

    #[test]
    fn a_record_is_read_as_it_is_written() {
        let (keys, outputs) = new_keys(Path::new("d")).unwrap();
        assert_eq!(outputs.len(), 7);
        let record = Record {
            keys,
            account: Some("A \"b\"".to_owned()),
            shared: vec!["a.>".to_owned()],
            policy: None,
        };
        let again = Record::parse(&record.text()).unwrap();
        assert_eq!(format!("{again:?}"), format!("{record:?}"));
    }
}
