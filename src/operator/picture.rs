//! The accounts of `deploy/nats-server.conf`, with the lines of the policy's streams, as JWTs can have them.

use std::collections::BTreeMap;
use std::io;
use std::path::Path;

use crate::adoption::server_config::accounts::{self, Config, Passage};
use crate::adoption::server_config::syntax::{self, Source};
use crate::passes::{self, within};
use solewriter_core::account_jwt::PassKind;
use solewriter_core::diagnostics::Collector;
use solewriter_core::keys::{Account, CurveSecret, KeyError, Seed, Signer, User};
use solewriter_core::policy::model::Policy;

/// nats-server's configuration, as it is written where the policy has no streams.
pub const SERVER_CONFIG: &str = include_str!("../../deploy/nats-server.conf");

/// The account that solewriter's callout lives in.
pub const ASKING: &str = "AUTH";
/// The account in which instances work for one tenant: it has what [`ASKING`] has otherwise.
pub const CONTROL: &str = "CONTROL";
/// The account that services are placed in.
pub const SERVICES: &str = "APP";
/// The account of the servers.
pub const SYSTEM: &str = "SYS";

/// The end of the names of a tenant's accounts.
#[must_use]
pub fn account_end(tenant: &str) -> String {
    format!("_{}", tenant.replace('-', "_").to_uppercase())
}

/// The users that the configuration names.
const USERS: [&str; 5] =
    ["CALLOUT_KEY", "PUBLISHER_KEY", "ADMIN_KEY", "AUDIT_ADMIN_KEY", "SYSTEM_KEY"];

/// Values that the configuration includes, where nothing but the accounts counts: any keys will do.
fn any_values() -> Result<String, KeyError> {
    let mut values =
        "NODE_NAME: n\nCLIENT_LISTEN: \"127.0.0.1:4222\"\nJETSTREAM_DIR: j\n".to_owned();
    for name in USERS {
        values += &format!("{name}: {}\n", Signer::<User>::new(&Seed::generate())?.public());
    }
    let issuer = Signer::<Account>::new(&Seed::generate())?;
    let xkey = CurveSecret::new(&Seed::generate())?;
    Ok(values + &format!("ISSUER_KEY: {}\nCALLOUT_XKEY: {}\n", issuer.public(), xkey.public()))
}

/// The two texts of a configuration, as files.
struct Texts<'a> {
    server: &'a str,
    values: &'a str,
}

impl Source for Texts<'_> {
    fn file(&self, path: &Path, _most: usize) -> io::Result<Vec<u8>> {
        let values = path.ends_with("deployment.conf");
        Ok(if values { self.values } else { self.server }.into())
    }

    fn environment(&self, _: &str) -> Option<String> {
        None
    }
}

/// The accounts.
pub struct Picture {
    /// As the configuration has them.
    pub config: Config,
    imports: BTreeMap<String, Vec<Taken>>,
}

/// An import, with names for accounts.
#[derive(Clone)]
pub struct Taken {
    /// Which way it goes.
    pub kind: PassKind,
    /// The exporting account.
    pub from: String,
    /// The subject there.
    pub subject: String,
    /// The subject here.
    pub local: String,
}

impl Picture {
    /// Reads a configuration and the values that it includes.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn of(server: &str, values: &str) -> Result<Self, String> {
        let texts = Texts { server, values };
        let tree = syntax::read(Path::new("nats-server.conf"), &texts);
        let tree = tree.map_err(|error| error.to_string())?;
        let problems = Collector::new();
        let config = Config::of(&tree, &problems);
        if problems.has_errors() {
            return Err(problems.finish().summary());
        }
        let mut imports = BTreeMap::new();
        for account in &config.accounts {
            let taken = account.imports.iter().map(taken).collect();
            imports.insert(account.name.value.clone(), taken);
        }
        untangle(&mut imports);
        Ok(Self { config, imports })
    }

    /// The shipped configuration, with what a policy needs.
    ///
    /// # Errors
    /// As [`Picture::of`].
    pub fn shipped(policy: Option<&Policy>) -> Result<Self, String> {
        let values = any_values().map_err(|error| error.to_string())?;
        Self::of(&passes::in_config(SERVER_CONFIG, policy), &values)
    }

    /// The same for a policy of one tenant among several: whoever answers has nothing but that.
    ///
    /// # Errors
    /// As [`Picture::of`].
    pub fn of_a_tenant(policy: Option<&Policy>) -> Result<Self, String> {
        let mut picture = Self::shipped(policy)?;
        let mut own = Vec::new();
        for account in &mut picture.config.accounts {
            if account.name.value == ASKING {
                let mut control = account.clone();
                CONTROL.clone_into(&mut control.name.value);
                own.push(control);
                account.exports.clear();
                account.imports.clear();
            }
        }
        picture.config.accounts.extend(own);
        let taken = picture.imports.insert(ASKING.to_owned(), Vec::new()).unwrap_or_default();
        picture.imports.insert(CONTROL.to_owned(), taken);
        for import in picture.imports.values_mut().flatten().filter(|i| i.from == ASKING) {
            CONTROL.clone_into(&mut import.from);
        }
        Ok(picture)
    }

    /// An account.
    #[must_use]
    pub fn account(&self, name: &str) -> Option<&accounts::Account> {
        self.config.accounts.iter().find(|account| account.name.value == name)
    }

    /// What an account imports.
    #[must_use]
    pub fn imports(&self, name: &str) -> &[Taken] {
        self.imports.get(name).map(Vec::as_slice).unwrap_or_default()
    }
}

/// Which way something goes, in the words of JWTs.
#[must_use]
pub fn kind(passage: Passage) -> PassKind {
    match passage {
        Passage::Service => PassKind::Service,
        Passage::Stream => PassKind::Stream,
    }
}

fn taken(import: &accounts::Import) -> Taken {
    Taken {
        kind: kind(import.passage),
        from: import.account.value.clone(),
        subject: import.subject.value.clone(),
        local: import.local(),
    }
}

/// A JWT must not have two services under one subject. What one import has in common with a wider one
/// goes through the account that the wider one leads to.
fn untangle(all: &mut BTreeMap<String, Vec<Taken>>) {
    let mut moved = Vec::new();
    for own in all.values_mut() {
        let every = own.clone();
        own.retain(|narrow| {
            let wide = every.iter().find(|wide| {
                let services = [narrow.kind, wide.kind] == [PassKind::Service; 2];
                services && wide.local != narrow.local && within(&narrow.local, &wide.local)
            });
            if let Some(wide) = wide.filter(|wide| wide.from != narrow.from) {
                moved.push((wide.from.clone(), narrow.clone()));
            }
            wide.is_none()
        });
    }
    for (to, import) in moved {
        let Some(own) = all.get_mut(&to) else { continue };
        let same = |other: &Taken| other.local == import.local && other.from == import.from;
        if !own.iter().any(same) {
            own.push(import);
        }
    }
}
