//! Open connections as servers list them (CONNZ, or `/connz` of the monitoring port), as clients that
//! were learnt of otherwise.

use solewriter_types::server_log::line::Kind;

use serde::Deserialize;

use super::deed::Client;
use super::server_config::accounts::GLOBAL;
use crate::sessions::system_api::Connection;

/// Who an open connection of an account is.
#[must_use]
pub fn client(connection: &Connection, account: &str) -> Client {
    let some = |text: &String| (!text.is_empty()).then(|| text.clone());
    let kind = match (connection.kind.as_str(), connection.protocol.as_str()) {
        ("Leafnode", _) => Kind::Lid,
        (_, "websocket") => Kind::Wid,
        (_, "mqtt") => Kind::Mid,
        _ => Kind::Cid,
    };
    let user = some(&connection.authorized_user);
    let is_key = |user: &&String| solewriter_core::keys::UserKey::parse(user).is_ok();
    let nkey = some(&connection.nkey).or_else(|| user.as_ref().filter(is_key).cloned());
    Client {
        connection: connection.cid,
        kind,
        address: connection.ip.clone(),
        account: Some(account.to_owned()),
        user,
        nkey,
        name: some(&connection.name),
        lang: some(&connection.lang),
    }
}

/// What a monitoring port is asked for its connections; a page begins at `offset=`.
pub const CONNZ: &str = "/connz?auth=true&subs=detail";

/// What a server tells at [`CONNZ`], one page of it.
#[derive(Debug, Deserialize)]
pub struct Connz {
    /// The server.
    pub server_id: String,
    /// How many connections it has, it says.
    #[serde(default)]
    pub total: u64,
    connections: Option<Vec<Connection>>,
}

impl Connz {
    /// Reads it.
    ///
    /// # Errors
    /// A sentence: it is none.
    pub fn parse(text: &[u8]) -> Result<Self, String> {
        let mut page: Self = serde_json::from_slice(text)
            .map_err(|error| format!("it is not what a server tells at /connz: {error}"))?;
        let all = page.connections.take().unwrap_or_default();
        page.connections = Some(all.into_iter().map(Connection::cut).collect());
        Ok(page)
    }

    /// The connections.
    #[must_use]
    pub fn connections(&self) -> &[Connection] {
        self.connections.as_deref().unwrap_or_default()
    }

    /// Whether the subscriptions were not asked for.
    #[must_use]
    pub fn lacks_subscriptions(&self) -> bool {
        self.connections().iter().any(|one| one.subscribed > 0 && one.subscriptions.is_none())
    }
}

/// The users of `$G` on one server. nats-server 2.10 and 2.11 tell a client's token where its user's
/// name should be. A server that takes a token has no users, so where two names are seen, they are
/// users.
#[derive(Debug, Default)]
pub struct Names {
    first: Option<String>,
    are_users: bool,
}

impl Names {
    /// Looks at the connections of a page.
    pub fn see(&mut self, page: &Connz) {
        let of_global = page.connections().iter().filter(|one| account_of(one) == GLOBAL);
        for name in of_global.map(|one| &one.authorized_user).filter(|name| !name.is_empty()) {
            match &self.first {
                None => self.first = Some(name.clone()),
                Some(first) => self.are_users |= first != name,
            }
        }
    }

    /// Whether the name of a connection may be a token.
    fn may_be_token(&self, connection: &Connection) -> bool {
        account_of(connection) == GLOBAL && !self.are_users
    }

    /// Whether there is a name that may be a token.
    #[must_use]
    pub fn hides(&self) -> bool {
        self.first.is_some() && !self.are_users
    }
}

fn account_of(connection: &Connection) -> &str {
    if connection.account.is_empty() { GLOBAL } else { &connection.account }
}

/// An open connection of an account.
pub struct Open<'c> {
    /// What the server tells of it.
    pub connection: &'c Connection,
    names: &'c Names,
}

impl<'c> Open<'c> {
    /// The connections of a page that are in this account; without one, in any but the system's
    /// usual one.
    pub fn all(
        page: &'c Connz,
        account: Option<&'c str>,
        names: &'c Names,
    ) -> impl Iterator<Item = Self> {
        let of_account = move |one: &&Connection| match account {
            Some(account) => account_of(one) == account,
            None => account_of(one) != super::server_config::accounts::SYSTEM,
        };
        let open = move |connection| Self { connection, names };
        page.connections().iter().filter(of_account).map(open)
    }

    /// Who it is.
    #[must_use]
    pub fn client(&self) -> Client {
        let mut client = client(self.connection, account_of(self.connection));
        let is_redacted = client.user.as_deref() == Some("[REDACTED]");
        let is_key = client.nkey.is_some();
        if is_redacted || (!is_key && self.names.may_be_token(self.connection)) {
            client.user = None;
        }
        client
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn page(users: &[&str]) -> Connz {
        let all: Vec<_> = users
            .iter()
            .map(|user| serde_json::json!({"cid": 1, "ip": "10.0.0.1", "authorized_user": user}))
            .collect();
        let text = serde_json::json!({"server_id": "N", "connections": all}).to_string();
        Connz::parse(text.as_bytes()).unwrap()
    }

    #[test]
    fn what_may_be_a_token_is_no_name() {
        let users = |page: &Connz| -> Vec<Option<String>> {
            let mut names = Names::default();
            names.see(page);
            Open::all(page, None, &names).map(|open| open.client().user).collect()
        };
        assert_eq!(users(&page(&["s3cret", "s3cret"])), [None, None]);
        assert_eq!(users(&page(&["[REDACTED]"])), [None]);
        let two = page(&["orders", "billing"]);
        assert_eq!(users(&two), [Some("orders".into()), Some("billing".into())]);
        let key = "UCRAFZAHGBQKZ5WVGGAZTW3N7PIO7NNEZC77U2TFP7DSBDSFHKEUCIHK";
        assert_eq!(users(&page(&[key])), [Some(key.into())]);
    }

    #[test]
    fn what_is_no_list_is_refused() {
        for text in
            ["", "[]", "{}", "{\"server_id\": 1}", "{\"server_id\":\"N\",\"connections\":[{}]}"]
        {
            assert!(Connz::parse(text.as_bytes()).is_err(), "{text}");
        }
        let text = r#"{"server_id": "N", "total": 0, "connections": null}"#;
        assert!(Connz::parse(text.as_bytes()).unwrap().connections().is_empty());
    }
}
