//! `[issuer]`: what signs every answer, a seed or a signer elsewhere.

use std::path::Path;
use std::sync::Arc;

use super::checks::missing;
use super::secret::{ISSUER, seed};
use super::table;
use crate::signer::client::Client;
use solewriter_core::diagnostics::{Collector, Problem, Spanned};
use solewriter_core::keys::{AccountKey, AccountSigner, Signer};

/// What signs, and where it is held if not here.
pub(super) struct Issuing {
    pub(super) issuer: AccountSigner,
    pub(super) signer: Option<Arc<Client>>,
}

/// What signs; `None` when problems were found. `path` is the settings file.
pub(super) fn issuing(raw: &table::Issuer, path: &Path, problems: &Collector) -> Option<Issuing> {
    let key = raw.key.as_ref().map(|key| public(key, problems));
    let Some(socket) = &raw.signer else {
        if raw.seed.is_none() && !ISSUER.is_handed_over() {
            problems.push(missing(path, ISSUER.table, ISSUER.key, &ISSUER.example()));
        }
        let issuer = Signer::new(&seed(raw.seed.as_ref(), ISSUER, problems)?).ok()?;
        if let (Some(Some(key)), Some(given)) = (key, &raw.key)
            && key != *issuer.public()
        {
            let found =
                format!("the seed belongs to {}, and not to the key named", issuer.public());
            problems.push(Problem::error("not-the-key", found).at(&given.span, "the key named"));
        }
        return Some(Issuing { issuer: issuer.into(), signer: None });
    };
    if let Some(file) = &raw.seed {
        let both = "`seed` and `signer` in [issuer] exclude each other";
        problems.push(
            Problem::error("two-issuers", both)
                .at(&socket.span, "remove one")
                .also(&file.span, "the other one"),
        );
    } else if ISSUER.is_handed_over() {
        problems.push(
            Problem::error("two-issuers", "the seed of [issuer] is handed over, and there is `signer` as well")
                .at(&socket.span, "the key is held there")
                .help("remove the systemd credential issuer.nk, or the variable with the seed: it must not be on this host"),
        );
    }
    if raw.key.is_none() {
        problems.push(missing(
            path,
            "issuer",
            "key",
            "\"A…\" (the public key that the signer holds)",
        ));
    }
    let client = Arc::new(Client::new(&socket.value));
    let issuer = AccountSigner::elsewhere(key??, client.clone());
    Some(Issuing { issuer, signer: Some(client) })
}

/// A public key of an account.
pub(super) fn public(given: &Spanned<String>, problems: &Collector) -> Option<AccountKey> {
    let parsed = AccountKey::parse(&given.value);
    let problem =
        |error| Problem::error("bad-key", format!("this is not an account's public key: {error}"));
    parsed.map_err(|error| problems.push(problem(error).at(&given.span, "expected `A…`"))).ok()
}
