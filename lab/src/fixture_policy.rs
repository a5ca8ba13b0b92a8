//! A company to put load on: a policy of many services, and the keys of those that connect.

use std::fmt::Write as _;
use std::path::Path;
use std::time::Duration;

use solewriter_core::diagnostics::SourceFile;
use solewriter_core::grant::{Defaults, Grant};
use solewriter_core::keys::{Seed, Signer, User};
use solewriter_core::policy::model::Policy;
use solewriter_core::policy::validate::validate;

/// Services that connect, unless told otherwise: enough that no cache of one client's helps another.
pub const CLIENTS: usize = 2_000;
/// Plain subjects that a service subscribes to. Its inbox is one more, and the bucket that it
/// owns makes 13 subjects to publish to: flow control has two forms, one of which newer servers ask for.
const SUBSCRIBES: usize = 7;
/// What the settings that `solewriter init` writes say.
const LIFETIME: Duration = Duration::from_secs(3600);
/// Services in one file of the policy.
const PER_FILE: usize = 1_000;

/// The stream of [`FixturePolicy::with_stream`], and its durable consumer.
pub const STREAM: &str = "EVENTS";
/// See [`STREAM`].
pub const WORK: &str = "work";

/// A service that connects.
pub struct Client {
    /// Its name in the policy.
    pub service: String,
    /// Its key.
    pub signer: Signer<User>,
    /// Its seed, for client libraries.
    pub seed: Seed<User>,
}

/// Who there is.
pub struct FixturePolicy {
    files: Vec<String>,
    subscribes: usize,
    /// Those that connect, spread evenly over the policy.
    pub clients: Vec<Client>,
    /// Keys that no service has.
    pub strangers: Vec<Client>,
}

/// The name of a file of the policy.
fn file_name(number: usize) -> String {
    format!("load-{number:03}.toml")
}

impl FixturePolicy {
    /// A policy of so many services. Each owns a bucket and subscribes to a few subjects;
    /// `subjects` is how many subjects a grant has in all, 20 at least; at most `clients` connect.
    ///
    /// # Errors
    /// When a key cannot be made.
    pub fn new(services: usize, subjects: usize, clients: usize) -> Result<Self, super::Error> {
        let services = services.max(1);
        let apart = services.div_ceil(clients.clamp(1, services));
        let subscribes = SUBSCRIBES + subjects.saturating_sub(20);
        let mut company =
            Self { files: Vec::new(), subscribes, clients: Vec::new(), strangers: Vec::new() };
        let mut text = String::new();
        for number in 0..services {
            let seed = Seed::<User>::generate();
            let signer = Signer::new(&seed)?;
            let service = format!("s{number}");
            service_text(&mut text, &service, signer.public().as_str(), subscribes);
            if number % apart == 0 {
                company.clients.push(Client { service, signer, seed });
            }
            if (number + 1) % PER_FILE == 0 {
                company.files.push(std::mem::take(&mut text));
            }
        }
        company.files.push(text);
        for number in 0..100 {
            let seed = Seed::<User>::generate();
            let signer = Signer::new(&seed)?;
            company.strangers.push(Client { service: format!("stranger{number}"), signer, seed });
        }
        Ok(company)
    }

    /// A policy with one service, which publishes what the one stream keeps, and consumes it.
    ///
    /// # Errors
    /// When a key cannot be made.
    pub fn with_stream() -> Result<Self, super::Error> {
        Self::of_one(|key| {
            format!(
                "[stream.{STREAM}]\nsubjects = [\"events.>\"]\nstorage = \"memory\"\n\
                 [stream.{STREAM}.consumer.{WORK}]\n[service.s0]\nnkeys = [\"{key}\"]\n\
                 publishes = [\"events.>\"]\nconsumes = [\"{STREAM}/{WORK}\"]\n"
            )
        })
    }

    /// A policy with one service, which reads so many buckets.
    ///
    /// # Errors
    /// When a key cannot be made.
    pub fn reading(buckets: usize) -> Result<Self, super::Error> {
        let names: Vec<String> = (0..buckets).map(|number| format!("bucket{number}")).collect();
        let declared: String = names.iter().map(|name| format!("[bucket.{name}]\n")).collect();
        Self::of_one(|key| {
            format!("{declared}[service.s0]\nnkeys = [\"{key}\"]\nreads = {names:?}\n")
        })
    }

    /// A policy with the one service `s0`, which has that key.
    fn of_one(text: impl FnOnce(&str) -> String) -> Result<Self, super::Error> {
        let seed = Seed::<User>::generate();
        let signer = Signer::new(&seed)?;
        let files = vec![text(signer.public().as_str())];
        let clients = vec![Client { service: "s0".to_owned(), signer, seed }];
        Ok(Self { files, subscribes: 0, clients, strangers: Vec::new() })
    }

    /// The policy's texts, read.
    ///
    /// # Errors
    /// When it is no policy, which would be a defect here.
    pub fn policy(&self) -> Result<Policy, super::Error> {
        let file =
            |(number, text): (usize, &String)| SourceFile::new(&*file_name(number), text.clone());
        let files: Vec<SourceFile> = self.files.iter().enumerate().map(file).collect();
        Ok(validate(&files).map_err(|problems| problems.summary())?.policy)
    }

    /// Writes the policy to a folder.
    ///
    /// # Errors
    /// When the file system says no.
    pub fn write(&self, folder: &Path) -> std::io::Result<()> {
        for (number, text) in self.files.iter().enumerate() {
            std::fs::write(folder.join(file_name(number)), text)?;
        }
        Ok(())
    }

    /// Takes one subject from a service, in the folder that the policy was written to.
    ///
    /// # Errors
    /// When it has none, or the file system says no.
    pub fn take_from(&self, service: &str, folder: &Path) -> Result<(), super::Error> {
        let subject = format!("\"news.{service}.n0\", ");
        let found = self.files.iter().position(|text| text.contains(&subject));
        let file = folder.join(file_name(found.ok_or("no such service")?));
        // Others may have lost something before.
        let text = std::fs::read_to_string(&file)?;
        Ok(super::replace_file(&file, &text.replace(&subject, ""))?)
    }

    /// What the policy grants a client.
    ///
    /// # Errors
    /// When it is no policy, which would be a defect here.
    pub fn grant(&self, client: &Client) -> Result<Grant, super::Error> {
        let mut text = String::new();
        let key = client.signer.public();
        if self.clients.len() == 1 {
            text = self.files.concat();
        } else {
            // Of many, reading all would take too long.
            service_text(&mut text, &client.service, key.as_str(), self.subscribes);
        }
        let validated = validate(&[SourceFile::new("load.toml", text)]);
        let policy = validated.map_err(|problems| problems.summary())?.policy;
        let service = policy.service(&client.service).ok_or("the service is not in its policy")?;
        let defaults = Defaults {
            account: "APP".into(),
            lifetime: LIFETIME,
            audit: solewriter_core::grant::AuditStreams::default(),
        };
        Ok(Grant::of(service, &defaults)?)
    }

    /// The policy's size in bytes.
    #[must_use]
    pub fn policy_bytes(&self) -> usize {
        self.files.iter().map(String::len).sum()
    }
}

fn service_text(text: &mut String, service: &str, key: &str, subscribes: usize) {
    // Writing to a String does not fail.
    let _ = write!(
        text,
        "[bucket.{service}]\n[service.{service}]\nnkeys = [\"{key}\"]\nowns = [\"{service}\"]\n\
         subscribes = ["
    );
    for subject in 0..subscribes {
        let _ = write!(text, "\"news.{service}.n{subject}\", ");
    }
    text.push_str("]\n\n");
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_grant_has_as_many_subjects_as_asked_for() {
        for (subjects, expected) in [(20, (13, 8)), (500, (13, 488))] {
            let company = FixturePolicy::new(3, subjects, 3).unwrap();
            let text = company.files.concat();
            assert_eq!(text.len(), company.policy_bytes());
            validate(&[SourceFile::new("load.toml", text)]).unwrap();
            let grant = company.grant(&company.clients[1]).unwrap();
            let claims = serde_json::to_value(grant.claims()).unwrap();
            let allowed = |side: &str| claims[side]["allow"].as_array().unwrap().len();
            assert_eq!((allowed("pub"), allowed("sub")), expected);
        }
    }
}
