//! How clients connect to nats-server.

use std::fmt;

/// How a client reaches the server, named as in NATS JWTs.
///
/// Only what a request shows: nats-server tells neither MQTT nor a leafnode over WebSocket from
/// the same over TCP, so `MQTT_WS` and `LEAFNODE_WS` cannot be told apart here and are not
/// offered.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum ConnectionType {
    /// TCP.
    Standard,
    /// WebSocket.
    Websocket,
    /// MQTT, over TCP or WebSocket.
    Mqtt,
    /// A leafnode, over TCP or WebSocket.
    Leafnode,
}

impl ConnectionType {
    /// All of them.
    pub const ALL: [Self; 4] = [Self::Standard, Self::Websocket, Self::Mqtt, Self::Leafnode];

    /// Those that a policy may name. By MQTT nobody can log in: it has no nonce to sign.
    pub const OFFERED: [Self; 3] = [Self::Standard, Self::Websocket, Self::Leafnode];

    /// What nats-server calls `kind` and `type` of a client, in its requests and in CONNZ; `None`
    /// for what is not known here.
    #[must_use]
    pub fn of(kind: &str, protocol: &str) -> Option<Self> {
        match (kind, protocol) {
            ("Client", "nats") => Some(Self::Standard),
            ("Client", "websocket") => Some(Self::Websocket),
            ("Client", "mqtt") => Some(Self::Mqtt),
            ("Leafnode", _) => Some(Self::Leafnode),
            _ => None,
        }
    }

    /// The name that NATS JWTs use (`allowed_connection_types`).
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Standard => "STANDARD",
            Self::Websocket => "WEBSOCKET",
            Self::Mqtt => "MQTT",
            Self::Leafnode => "LEAFNODE",
        }
    }
}

impl fmt::Display for ConnectionType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}
