//! Who a user is whose name a server logs.

use crate::keys::UserKey;

/// The user's name that a grant gave its connection: `service/nkey/revision`, and since grants
/// have one, `/digest`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Granted {
    /// The service.
    pub service: String,
    /// Its key.
    pub nkey: UserKey,
    /// The policy revision that the connection was let in by.
    pub revision: String,
    /// The digest of the grant.
    pub digest: Option<String>,
}

impl Granted {
    /// Reads a user's name. `None` when solewriter gave no such name.
    #[must_use]
    pub fn parse(name: &str) -> Option<Self> {
        let mut parts = name.split('/');
        let (service, nkey, revision) = (parts.next()?, parts.next()?, parts.next()?);
        let digest = parts.next();
        let hex = |text: &str| !text.is_empty() && text.bytes().all(|b| b.is_ascii_hexdigit());
        if parts.next().is_some() || service.is_empty() || !hex(revision) || !digest.is_none_or(hex)
        {
            return None;
        }
        Some(Self {
            service: service.to_owned(),
            nkey: UserKey::parse(nkey).ok()?,
            revision: revision.to_owned(),
            digest: digest.map(ToOwned::to_owned),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const KEY: &str = "UCRAFZAHGBQKZ5WVGGAZTW3N7PIO7NNEZC77U2TFP7DSBDSFHKEUCIHK";

    #[test]
    fn a_name_leads_back_to_service_key_and_policy() {
        for (name, digest) in [
            (format!("orders/{KEY}/0123456789ab"), None),
            (format!("orders/{KEY}/0123456789ab/ff00"), Some("ff00")),
        ] {
            let granted = Granted::parse(&name).unwrap();
            assert_eq!(granted.service, "orders");
            assert_eq!(granted.nkey.as_str(), KEY);
            assert_eq!(granted.revision, "0123456789ab");
            assert_eq!(granted.digest.as_deref(), digest);
        }
    }

    #[test]
    fn other_names_are_not_ours() {
        for name in [
            "admin".to_owned(),
            String::new(),
            KEY.to_owned(),
            format!("orders/{KEY}"),
            format!("/{KEY}/0123"),
            format!("orders/{KEY}/xyz"),
            format!("orders/{KEY}/0123/ff/00"),
            "orders/UX/0123".to_owned(),
        ] {
            assert_eq!(Granted::parse(&name), None, "{name}");
        }
    }
}
