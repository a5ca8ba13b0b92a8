//! One thing that a client did, as its server tells it.

use std::fmt;

use jiff::civil::DateTime;
use solewriter_types::server_log::line::Kind;

/// A client of the system that runs today. All of it is what the client says of itself, or what the
/// server knows of it; no secret is in it.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Client {
    /// The connection's number, unique on its server while that runs.
    pub connection: u64,
    /// What kind of connection.
    pub kind: Kind,
    /// The client's address, without the port.
    pub address: String,
    /// The account, where the server tells it.
    pub account: Option<String>,
    /// The user's name; of a user without one, the public NKEY.
    pub user: Option<String>,
    /// The public NKEY, if it logged in with one.
    pub nkey: Option<String>,
    /// The connection's name.
    pub name: Option<String>,
    /// The client library.
    pub lang: Option<String>,
}

impl fmt::Display for Client {
    /// For people: the user, or else what comes nearest to one.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (&self.user, &self.name) {
            (Some(user), _) => f.write_str(user),
            (None, Some(name)) => write!(f, "{name} ({})", self.address),
            (None, None) => write!(f, "a client of {}", self.address),
        }
    }
}

/// What a client did with subjects. No payload is in it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Act<'a> {
    /// It published; with a reply subject, that was a request.
    Publish {
        /// The subject.
        subject: &'a str,
        /// Where the answer was to go.
        reply: Option<&'a str>,
    },
    /// It subscribed.
    Subscribe {
        /// The subject, maybe with wildcards.
        subject: &'a str,
        /// The queue group.
        queue: Option<&'a str>,
    },
    /// The server delivered a message to it.
    Receive {
        /// The subject.
        subject: &'a str,
        /// Where an answer goes, if one is wanted.
        reply: Option<&'a str>,
    },
}

/// One thing that a client did.
#[derive(Clone, Copy, Debug)]
pub struct Deed<'a> {
    /// Who.
    pub by: &'a Client,
    /// When, by the server's clock, in the zone that it logs.
    pub at: Option<DateTime>,
    /// What.
    pub act: Act<'a>,
}
