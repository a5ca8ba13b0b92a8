//! Settings: one TOML file, each setting overridable by environment and flag, parsed into final
//! types once.
//!
//! `table` declares each setting, once. `reading` puts defaults, file and overrides together, and
//! `checks` makes final types of them, which are in `settings`. `tool` does the same for commands
//! that need only a part.
//!
//! An override is read by the same code as the file, and so is a default: it becomes a small TOML
//! text of its own, named after its flag, so that it is checked and reported alike.

mod checks;
mod issuer;
mod operator;
mod overrides;
mod reading;
mod secret;
mod settings;
mod table;
mod tenants;
mod tool;

use std::net::SocketAddr;
use std::path::Path;

pub use self::overrides::Overrides;
pub(crate) use self::secret::read_text;
pub use self::secret::{credentials_file, secret_text, seed_file, seed_variables};
pub use self::settings::{Audit, Logging, Policy, PolicySource, Settings, Tenant};
pub use self::table::{DefaultValue, Kind, SETTINGS, Setting, TABLES};
pub use self::tenants::is_tenant_name;
pub use self::tool::Tool;
use solewriter_core::diagnostics::{Collector, Problem, Problems};

/// The bucket whose name `deploy/nats-server.conf` permits.
pub const DEFAULT_BUCKET: &str = "solewriter_policy";

/// Where `serve` listens for who asks about health and metrics; `None` where that is off. Reads no
/// secret, and finds no fault with the other settings.
///
/// # Errors
/// Every problem with that address, or with reading the file.
pub fn http_address(path: &Path, overrides: &Overrides) -> Result<Option<SocketAddr>, Problems> {
    let problems = Collector::new();
    let raw = reading::read(path, overrides, &problems)?;
    checks::listen(raw.http.listen.as_ref(), &problems).ok_or_else(|| problems.finish())
}

/// Reads the settings file with what overrides it, and the secrets that they name.
///
/// # Errors
/// Every problem found, not the first.
pub fn load(path: &Path, overrides: &Overrides) -> Result<(Settings, Logging), Problems> {
    let problems = Collector::new();
    let raw = reading::read(path, overrides, &problems)?;
    if let Some(of) = &raw.tenant.of {
        let main = of.value.display();
        return Err(Problem::error("a-tenant", format!("{} is a tenant's", path.display()))
            .at(&of.span, "its settings")
            .help(format!("`serve` takes those that list it: --config {main}"))
            .into());
    }
    let tenants = tenants::all(&raw, &problems);
    let resolved = checks::resolve(&raw, path, tenants, &problems);
    match resolved {
        Some(settings) if !problems.has_errors() => Ok(settings),
        _ => Err(problems.finish()),
    }
}
