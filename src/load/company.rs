//! A company to put load on: a policy of many services, and the keys of those that connect.

use std::fmt::Write as _;
use std::path::Path;

use crate::keys::{Seed, Signer, User};

/// Services that connect, at most: enough that no cache of one client's helps another.
const CLIENTS: usize = 2_000;
/// Plain subjects that a service subscribes to. Its inbox is one more, and the bucket that it
/// owns makes 12 subjects to publish to: the grant of 12 and 8 that figures are compared for.
const SUBSCRIBES: usize = 7;
/// Services in one file of the policy.
const PER_FILE: usize = 1_000;

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
pub struct Company {
    files: Vec<String>,
    /// Those that connect, spread evenly over the policy.
    pub clients: Vec<Client>,
    /// Keys that no service has.
    pub strangers: Vec<Client>,
}

impl Company {
    /// A policy of so many services. Each owns a bucket and subscribes to a few subjects;
    /// `subjects` is how many subjects a grant has in all, 20 at least.
    ///
    /// # Errors
    /// When a key cannot be made.
    pub fn new(services: usize, subjects: usize) -> Result<Self, super::Error> {
        let services = services.max(1);
        let apart = services.div_ceil(CLIENTS.min(services));
        let more = subjects.saturating_sub(20);
        let mut company = Self { files: Vec::new(), clients: Vec::new(), strangers: Vec::new() };
        let mut text = String::new();
        for number in 0..services {
            let seed = Seed::<User>::generate();
            let signer = Signer::new(&seed)?;
            let service = format!("s{number}");
            service_text(&mut text, &service, signer.public().as_str(), SUBSCRIBES + more);
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

    /// Writes the policy to a folder.
    ///
    /// # Errors
    /// When the file system says no.
    pub fn write(&self, folder: &Path) -> std::io::Result<()> {
        for (number, text) in self.files.iter().enumerate() {
            std::fs::write(folder.join(format!("load-{number:03}.toml")), text)?;
        }
        Ok(())
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
    use crate::permissions::{Defaults, Grant};
    use crate::policy::validate::validate;
    use crate::source::SourceFile;

    #[test]
    fn a_grant_has_as_many_subjects_as_asked_for() {
        for (subjects, expected) in [(20, (12, 8)), (500, (12, 488))] {
            let company = Company::new(3, subjects).unwrap();
            let text = company.files.concat();
            assert_eq!(text.len(), company.policy_bytes());
            let policy = validate(&[SourceFile::new("load.toml", text)]).unwrap().policy;
            let service = policy.service("s1").unwrap();
            let lifetime = std::time::Duration::from_secs(3600);
            let grant = Grant::of(service, &Defaults { account: "APP".into(), lifetime }).unwrap();
            let claims = serde_json::to_value(grant.claims()).unwrap();
            let allowed = |side: &str| claims[side]["allow"].as_array().unwrap().len();
            assert_eq!((allowed("pub"), allowed("sub")), expected);
        }
    }
}
