//! What a nats-server tells at its monitoring port, for `learn`.

use std::time::Duration;

use axum::http::Uri;
use tokio::time::timeout;

use crate::adoption::connected::{CONNZ, Connz};
use crate::http_client;

/// How long a server may take to answer one question.
const WITHIN: Duration = Duration::from_secs(30);
/// How many connections are asked for at once, and the most of a server that are looked at.
const PAGE: usize = 256;
const MOST: usize = 262_144;
/// The most bytes of a page, and of streams with their consumers.
const PAGE_BYTES: usize = 64 << 20;
const STREAM_BYTES: usize = 256 << 20;

/// A server's monitoring port.
#[derive(Clone, Debug)]
pub(super) struct Monitor {
    url: Uri,
    authority: String,
}

impl std::fmt::Display for Monitor {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "http://{}", self.authority)
    }
}

impl std::str::FromStr for Monitor {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        // What is wrong with it is said without its words: there may be a password in them.
        let url: Uri = text.parse().map_err(|_| "write http://HOST:8222".to_owned())?;
        let authority = url.authority().map(ToString::to_string).unwrap_or_default();
        if url.scheme_str() != Some("http") || authority.is_empty() {
            return Err(format!(
                "write http://HOST:8222; of a port with TLS or a login, fetch /jsz and {CONNZ} \
                 otherwise, and give the files with --jsz and --connz"
            ));
        }
        if authority.contains('@') || url.query().is_some() {
            return Err("write http://HOST:8222, without a login and without a question".to_owned());
        }
        Ok(Self { url, authority })
    }
}

impl Monitor {
    /// Its streams and consumers, with their settings.
    ///
    /// # Errors
    /// A sentence that names the server.
    pub async fn streams(&self) -> Result<Vec<u8>, String> {
        let question = "/jsz?accounts=true&streams=true&consumers=true&config=true";
        self.get(question, STREAM_BYTES).await
    }

    /// Gives each page of its connections.
    ///
    /// # Errors
    /// A sentence that names the server; pages before were given.
    pub async fn connections(&self, mut each: impl FnMut(&Connz)) -> Result<(), String> {
        let (mut offset, mut server) = (0, None);
        loop {
            let question = format!("{CONNZ}&limit={PAGE}&offset={offset}");
            let text = self.get(&question, PAGE_BYTES).await?;
            let page = Connz::parse(&text).map_err(|error| format!("{self}: {error}"))?;
            let given = page.connections().len();
            let untrue =
                |why: &str| Err(format!("{self}: its list of connections cannot be true: {why}"));
            if given > PAGE {
                return untrue("it gives more than were asked for");
            }
            if page.lacks_subscriptions() {
                return untrue("it tells of no subscriptions");
            }
            if *server.get_or_insert_with(|| page.server_id.clone()) != page.server_id {
                return Err(format!(
                    "{self}: several servers answer there; give the address of each one"
                ));
            }
            each(&page);
            offset += given;
            if given < PAGE {
                return Ok(());
            }
            if offset >= MOST {
                return untrue("it has no end");
            }
        }
    }

    async fn get(&self, question: &str, most: usize) -> Result<Vec<u8>, String> {
        let answer = timeout(WITHIN, self.answer(question, most)).await;
        let answer = answer.unwrap_or_else(|_| Err(format!("no answer in {} s", WITHIN.as_secs())));
        answer.map_err(|error| format!("{self}: {error}"))
    }

    async fn answer(&self, question: &str, most: usize) -> Result<Vec<u8>, String> {
        let port = self.url.port_u16().unwrap_or(80);
        let host = self.url.host().unwrap_or_default().trim_matches(['[', ']']);
        let path = format!("{}{question}", self.url.path().trim_end_matches('/'));
        let answer = http_client::ask((host, port), &self.authority, &path).await?;
        if !answer.status().is_success() {
            return Err(format!("it answers {}", answer.status()));
        }
        http_client::body(answer.into_body(), most).await
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_is_plain_and_shows_no_password() {
        for good in ["http://127.0.0.1:8222", "http://nats-1:8222/", "http://[::1]:8222/nats"] {
            assert!(good.parse::<Monitor>().is_ok(), "{good}");
        }
        for bad in [
            "",
            "nats-1",
            "nats-1:8222",
            "https://n:8222",
            "http://u:secret@n:1",
            "http://n/?secret",
            "http://secret secret",
        ] {
            let said = bad.parse::<Monitor>().unwrap_err();
            assert!(
                said.starts_with("write http://HOST:8222") && !said.contains("secret"),
                "{bad}"
            );
        }
    }
}
