//! Where the audit streams are read, and as whom.

use std::path::{Path, PathBuf};

use clap::Args;

use super::cannot;
use crate::audit::origin::FOLLOWER;
use crate::audit::reader::Reader;
use crate::cli::asked::SETTINGS;
use crate::cli::common::Output;
use crate::config::{Overrides, Tool, seed_file};
use crate::nats::Login;
use solewriter_core::grant::AuditStreams;

/// Whose seed it is when nobody says whose, and there are no settings.
const AUDITOR: &str = "keys/auditor.nk";
/// What requests to the streams begin with in their own account.
const OWN_API: &str = "$JS.API";

/// Where to read, and as whom.
#[derive(Args)]
pub struct From {
    /// The settings file. `solewriter settings` lists flags that override it
    /// [default: solewriter.toml if it exists; otherwise 127.0.0.1:4222 is asked].
    #[arg(short, long, value_name = "FILE", env = "SOLEWRITER_CONFIG")]
    config: Option<PathBuf>,
    /// The file with the seed of a service that reads the audit streams. Without it, the seed of
    /// their admin is used, from the settings [default without settings: keys/auditor.nk].
    #[arg(long, value_name = "FILE")]
    nkey_seed: Option<PathBuf>,
    /// The name of that service, for its inbox. The admin needs none.
    #[arg(long, value_name = "NAME", default_value = "auditor")]
    service_name: String,
    /// The streams to read: solewriter's, services', or both [default: those of the settings, or
    /// `AUDIT_EVENTS,AUDIT_SERVICES`].
    #[arg(long, value_name = "LIST", value_delimiter = ',')]
    stream: Option<Vec<String>>,
    /// The JetStream API prefix that the service of --nkey-seed uses [default: `[audit] api` of the
    /// settings, or $JS.AUDIT.API].
    #[arg(long, value_name = "PREFIX")]
    api: Option<String>,
    /// Services that run `solewriter violations`. Only they may report on other services.
    #[arg(long, value_name = "LIST", default_value = FOLLOWER, value_delimiter = ',')]
    pub followers: Vec<String>,
    #[command(flatten)]
    overrides: Overrides,
}

impl From {
    /// The settings file, which must be there when it is named.
    fn file(&self) -> Option<&Path> {
        let here = Path::new(SETTINGS);
        self.config.as_deref().or_else(|| here.is_file().then_some(here))
    }

    /// Who reads, and where.
    pub fn reader(self) -> Result<Reader, Output> {
        let file = self.file();
        let tool = match file {
            Some(path) => Tool::load(path, &self.overrides),
            None => Tool::without_file(&self.overrides),
        };
        let tool = tool.map_err(Output::wrong)?;
        let streams = tool.defaults.audit.clone();
        let (login, api) = if self.nkey_seed.is_none() && file.is_some() {
            (admin(&tool, &streams)?, OWN_API.to_owned())
        } else {
            (
                auditor(self.nkey_seed.as_deref())?,
                self.api.unwrap_or_else(|| streams.api().to_owned()),
            )
        };
        // What is none would be a subject that nobody answers.
        AuditStreams::new(None, None, Some(&api))
            .map_err(|error| cannot(&format!("--api: {error}")))?;
        let both = || [streams.events(), streams.services()].map(str::to_owned).to_vec();
        let streams = self.stream.unwrap_or_else(both);
        let Tool { servers, tls, .. } = tool;
        Ok(Reader { servers, login, service: self.service_name, tls, streams, api })
    }
}

/// The seed of the streams' admin. Where they are beside the buckets, as in deployments of older
/// versions, that is the buckets' admin.
fn admin(tool: &Tool, streams: &AuditStreams) -> Result<Login, Output> {
    let login = if streams.are_beside_buckets() { tool.admin() } else { tool.audit_admin() };
    login.map_err(|problems| {
        let mut output = Output::wrong(problems);
        output.err += "or give --nkey-seed, the seed of a service that reads the streams\n";
        output
    })
}

/// The seed of the service that reads.
fn auditor(named: Option<&Path>) -> Result<Login, Output> {
    let seed = seed_file("--nkey-seed", named.unwrap_or(Path::new(AUDITOR)));
    seed.map(Login::Nkey).map_err(|problems| {
        let mut output = Output::wrong(problems);
        if named.is_none() {
            output.err += "or name the settings file with --config\n";
        }
        output
    })
}
