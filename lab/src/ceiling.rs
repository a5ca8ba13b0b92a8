//! A callout that signs a fixed grant and does nothing else: no verification, no policy, no log.
//! Never a callout for anything but comparison: it lets everybody in.

use std::sync::Arc;

use async_nats::{Client, Message};
use futures_util::StreamExt;
use serde::Deserialize;
use serde_json::value::RawValue;

use super::Error;
use solewriter::config::Settings;
use solewriter::nats::{Login, Nats};
use solewriter::service::CALLOUT_SUBJECT;
use solewriter_core::callout::jwt::Unverified;
use solewriter_core::callout::response::{self, Envelope, Target, UserToken};
use solewriter_core::callout::xkey::Sealer;
use solewriter_core::grant::CompiledGrant;
use solewriter_core::keys::{AccountSigner, CurveKey, CurveSecret, ServerKey, UserKey};

/// What of a request an answer has to repeat.
#[derive(Deserialize)]
struct Asked {
    nats: Body,
}

#[derive(Deserialize)]
struct Body {
    server_id: Id,
    user_nkey: String,
}

#[derive(Deserialize)]
struct Id {
    id: String,
}

/// Answers requests, whoever asks.
pub struct Answerer {
    /// Signs.
    pub issuer: AccountSigner,
    /// Seals, where the server has an xkey.
    pub sealer: Option<Sealer>,
}

impl Answerer {
    /// The answer that lets in who asks: under that name, into that account, with those claims.
    ///
    /// # Errors
    /// When it is no request, or cannot be answered.
    pub fn answer(
        &self,
        request: &Message,
        (name, account, claims): (&str, &str, &RawValue),
    ) -> Result<Vec<u8>, Error> {
        let header = request.headers.as_ref().and_then(|h| h.get("Nats-Server-Xkey"));
        let sender = header.map(|header| CurveKey::parse(header.as_str())).transpose()?;
        let opened;
        let token = match (&self.sealer, &sender) {
            (Some(sealer), Some(sender)) => {
                opened = sealer.open(&request.payload, sender)?;
                &opened[..]
            }
            _ => &request.payload[..],
        };
        let asked: Asked = Unverified::split(token)?.claims()?;
        let now = jiff::Timestamp::now().as_second();
        let envelope = Envelope {
            issuer: &self.issuer,
            issuer_account: None,
            server: &ServerKey::parse(&asked.nats.server_id.id)?,
            user_nkey: &UserKey::parse(&asked.nats.user_nkey)?,
            id: "ceiling",
            now,
        };
        let account = Target::Named(account);
        let answer = envelope.grant(&UserToken { name, account, expires: now + 3600, claims })?;
        let (sender, sealer) = (sender.as_ref(), self.sealer.as_ref());
        let sealed = response::seal(answer, sender, sealer, &rand::random());
        sealed.ok_or_else(|| "the answer could not be sealed".into())
    }
}

/// Signs.
struct Ceiling {
    nats: Arc<Nats>,
    answerer: Answerer,
    grant: Arc<CompiledGrant>,
}

/// Answers every request with `grant` until the process ends.
///
/// # Errors
/// When it cannot connect.
pub fn run(settings: Settings, grant: Arc<CompiledGrant>) -> Result<(), Error> {
    let Settings { nats, issuer, xkey, .. } = settings;
    let secret = xkey.map(|seed| CurveSecret::new(&seed)).transpose()?;
    let connections = nats.connections;
    let answerer = Answerer { issuer, sealer: secret.map(Sealer::new) };
    let ceiling = Arc::new(Ceiling { nats, answerer, grant });
    let threads: Vec<_> = (0..connections)
        .map(|_| {
            let ceiling = ceiling.clone();
            std::thread::spawn(move || ceiling.connection().map_err(|error| error.to_string()))
        })
        .collect();
    for thread in threads {
        thread.join().map_err(|_| "a connection's thread panicked")??;
    }
    Ok(())
}

impl Ceiling {
    fn connection(&self) -> Result<(), Error> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        runtime.block_on(async {
            let Login::Nkey(seed) = &self.nats.login else {
                return Err("the ceiling connects with an nkey".into());
            };
            let options = async_nats::ConnectOptions::with_nkey(seed.expose().to_owned())
                .reconnect_delay_callback(solewriter::service::reconnect_delay);
            let client = options.connect(&self.nats.servers).await?;
            let group = self.nats.queue_group.clone();
            let mut requests = client.queue_subscribe(CALLOUT_SUBJECT, group).await?;
            client.flush().await?;
            super::progress("\"event\":\"ready\"");
            while let Some(request) = requests.next().await {
                self.answer(&client, &request).await?;
            }
            Ok(())
        })
    }

    async fn answer(&self, client: &Client, request: &Message) -> Result<(), Error> {
        let said = ("ceiling", self.grant.account(), self.grant.claims());
        let answer = self.answerer.answer(request, said)?;
        let reply = request.reply.clone().ok_or("a request without a reply subject")?;
        client.publish(reply, answer.into()).await?;
        Ok(())
    }
}
