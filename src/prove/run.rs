//! Runs one attack on one stage and tells how it ended.

use std::time::Duration;

use serde_json::Value;
use tokio::time::Instant;

use super::{Attack, Control, Effect, Ending, Report, Step, identity};
use crate::nats::raw_client::{DEADLINE, Message};
use crate::prove::testbed::{
    Belongings, Cast, Names, StageError, Testbed, call, numbers, stream_of,
};
use solewriter_types::clean;

/// JetStream is not enabled, for the account or at all.
const NOT_ENABLED: [&str; 2] = ["(10039)", "(10076)"];

/// How often it is looked whether an effect shows.
const LOOK_AGAIN: Duration = Duration::from_millis(25);

/// Runs an attack.
///
/// # Errors
/// When the stage could not be set, or broke down: nothing is known then.
pub async fn run(attack: &Attack, stage: &Testbed) -> Result<Report, StageError> {
    if let (Effect::Enters, [Step::Knock(offer)]) = (attack.effect, attack.steps.as_slice()) {
        return identity::knock(*offer, stage).await;
    }
    let mut cast = stage.set(attack).await?;
    let names = &stage.names;
    let before = cast.belongings(names).await?;
    let mut scene = Scene {
        names,
        refused: None,
        asked: false,
        heard: Vec::new(),
        learnt: Vec::new(),
        blocked: None,
    };
    // Where answers come, unless that is what is tried.
    let own = format!("_INBOX.{}.>", names.me);
    let _ = cast.attacker.subscribe(&own, "").await.map_err(|e| broke("the attacker", e))?;
    for step in &attack.steps {
        scene.play(step, &mut cast).await?;
    }
    let began = Instant::now();
    let patience = if scene.refused.is_some() { stage.patience / 4 } else { stage.patience };
    loop {
        if let Some(evidence) = scene.effect(attack, &mut cast, &before).await? {
            return Ok(Report { ending: Ending::Succeeded, evidence, took: began.elapsed() });
        }
        if began.elapsed() > patience {
            break;
        }
        tokio::time::sleep(LOOK_AGAIN).await;
    }
    let took = began.elapsed();
    Ok(if let Some(said) = scene.refused {
        Report { ending: Ending::Refused, evidence: said, took }
    } else if let Some(error) = scene.learnt.iter().find_map(error_in) {
        Report { ending: Ending::Rejected, evidence: error, took }
    } else {
        Report { ending: Ending::NoEffect, evidence: "nothing changed".to_owned(), took }
    })
}

fn broke(who: &str, error: crate::nats::raw_client::WireError) -> StageError {
    StageError::Wire(who.to_owned(), error)
}

/// JetStream's error in an answer.
fn error_in(message: &Message) -> Option<String> {
    let error = &message.json()["error"];
    if let Some(text) = error["description"].as_str() {
        return Some(format!("{} ({})", text, error["err_code"]));
    }
    // A direct get answers with a status line; 1xx and 2xx are not errors.
    let status = message.headers.lines().next()?.strip_prefix("NATS/1.0 ")?;
    status.starts_with(['4', '5']).then(|| status.to_owned())
}

/// What has been seen so far.
struct Scene<'a> {
    names: &'a Names,
    refused: Option<String>,
    /// Whether the last that was sent asked for an answer.
    asked: bool,
    heard: Vec<Message>,
    learnt: Vec<Message>,
    blocked: Option<String>,
}

impl Scene<'_> {
    async fn play(&mut self, step: &Step, cast: &mut Cast) -> Result<(), StageError> {
        let fill = |text: &str| self.names.fill(text);
        let said = match step {
            Step::Send { to, reply, headers, body, times } => {
                let (to, reply, headers, body) = (fill(to), fill(reply), fill(headers), fill(body));
                self.asked = reply.starts_with(&format!("_INBOX.{}.", self.names.me));
                let mut said = Ok(());
                for _ in 0..*times {
                    said = cast
                        .attacker
                        .publish(&to, &reply, &headers, body.as_bytes())
                        .await
                        .map_err(|e| broke("the attacker", e))?;
                }
                said
            }
            Step::Listen { to, queue } => cast
                .attacker
                .subscribe(&fill(to), queue)
                .await
                .map_err(|e| broke("the attacker", e))?,
            Step::VictimWrites { headers, reply } => {
                self.victim_writes(&fill(headers), &fill(reply), cast).await?;
                return Ok(());
            }
            // These have code of their own.
            Step::Knock(_) | Step::Told(_) => return Ok(()),
            Step::Pass(time) => {
                // It begins when what was asked is done.
                if self.asked
                    && let Some(answer) = cast.attacker.next(DEADLINE).await
                {
                    self.learnt.push(answer);
                }
                tokio::time::sleep(Duration::from_millis(*time)).await;
                return Ok(());
            }
            Step::AdminAsks(what, body) => {
                let body = serde_json::from_str(&fill(body)).unwrap_or_default();
                let answer = call(&mut cast.admin, &fill(what), &body).await?;
                if !answer["error"].is_null() {
                    return Err(StageError::Api(fill(what), answer));
                }
                return Ok(());
            }
            Step::AdminListens(to) => {
                let said = cast.admin.subscribe(&fill(to), "").await;
                said.map_err(|e| broke("the admin", e))?
            }
        };
        if let Err(text) = said {
            self.refused.get_or_insert(text);
        }
        Ok(())
    }

    /// The victim's write is stored if JetStream says so, and not as a duplicate.
    async fn victim_writes(
        &mut self,
        headers: &str,
        reply: &str,
        cast: &mut Cast,
    ) -> Result<(), StageError> {
        let key = self.names.fill(cast.target.written());
        if !reply.is_empty() {
            let said = cast.victim.publish(&key, reply, headers, b"the victim's").await;
            self.blocked = said.map_err(|e| broke("the victim", e))?.err();
            // What the attacker does next has to come after it.
            while self.blocked.is_none()
                && let Some(message) = cast.victim.next(DEADLINE).await
            {
                let answered = message.subject == reply;
                self.heard.push(message);
                if answered {
                    break;
                }
            }
            return Ok(());
        }
        self.blocked = match cast.victim.request(&key, headers, b"the victim's").await {
            Err(error) => Some(error.to_string()),
            Ok(ack) if !ack.json()["error"].is_null() => Some(ack.text()),
            Ok(ack) if ack.json()["duplicate"] == Value::Bool(true) => {
                Some(format!("dropped as a duplicate: {}", ack.text()))
            }
            Ok(_) => None,
        };
        Ok(())
    }

    /// What shows the effect, if it is there.
    async fn effect(
        &mut self,
        attack: &Attack,
        cast: &mut Cast,
        before: &Belongings,
    ) -> Result<Option<String>, StageError> {
        while let Some(message) = cast.attacker.next(Duration::from_millis(1)).await {
            self.learnt.push(message);
        }
        while let Some(message) = cast.victim.next(Duration::from_millis(1)).await {
            self.heard.push(message);
        }
        Ok(match attack.effect {
            Effect::Changed => {
                let info = cast.state(self.names).await?;
                if numbers(&info) == before.state {
                    return Ok(None);
                }
                let now = cast.keys(self.names, &info).await?;
                if !info["error"].is_null() {
                    return Ok(Some(format!("the victim's stream: {}", info["error"])));
                }
                (now != before.keys).then(|| difference(&before.keys, &now))
            }
            Effect::Consumer => {
                let now = cast.consumers(self.names).await?;
                let was = before.consumers.iter().zip(&now).find(|(was, is)| was != is);
                was.map(|(was, is)| format!("a consumer of the victim was {was}, and is now {is}"))
            }
            Effect::Stream => {
                let now = stream_of(&cast.state(self.names).await?);
                (now != before.stream).then(|| "the victim's stream changed".to_owned())
            }
            Effect::Blocked => self.blocked.clone(),
            Effect::Learns(text) => {
                let text = self.names.fill(text);
                let said = self.learnt.iter().find(|m| contains(m, &text));
                said.map(|m| format!("received {text} on {}", m.subject))
            }
            Effect::Answered => {
                let answer = self.learnt.iter().find(|m| error_in(m).is_none());
                answer.map(|m| format!("was answered: {}", shortened(&m.text())))
            }
            Effect::Delivered => {
                // What the victim asked for itself.
                let asked = [format!("_INBOX.{}.watch", self.names.them), self.names.fence()];
                let unasked = |m: &&Message| {
                    !asked.contains(&m.subject) && !m.headers.contains("Nats-Stream:")
                };
                let heard = self.heard.iter().find(unasked);
                heard.map(|m| format!("the victim received {}", shortened(&m.text())))
            }
            Effect::Stamped => {
                let stamp = |m: &&Message| m.headers.contains("Nats-Stream:");
                let heard = self.heard.iter().find(stamp);
                heard.map(|m| format!("the victim received {}", shortened(&m.text())))
            }
            Effect::Appears(name) => {
                let subject = format!("STREAM.INFO.{}", self.names.fill(name));
                let info = call(&mut cast.admin, &subject, &Value::Null).await?;
                info["error"].is_null().then(|| format!("{} is there", self.names.fill(name)))
            }
            Effect::Enters => None,
            Effect::Accepted => self.refused.is_none().then(|| "the server accepted it".to_owned()),
        })
    }
}

fn contains(message: &Message, text: &str) -> bool {
    let encoded = data_encoding::BASE64.encode(text.as_bytes());
    let payload = message.text();
    // JetStream's API encodes values.
    payload.contains(text) || payload.contains(&encoded) || message.headers.contains(text)
}

fn shortened(text: &str) -> String {
    let text = clean::line(text);
    let short: String = text.chars().take(80).collect();
    if short.len() < text.len() { format!("{short}…") } else { short }
}

fn difference(before: &[(String, u64, String)], now: &[(String, u64, String)]) -> String {
    if let Some((subject, ..)) = before.iter().find(|m| !now.contains(m)) {
        return format!("{subject} was erased");
    }
    let new = now.iter().find(|m| !before.contains(m));
    new.map_or_else(String::new, |(subject, _, data)| {
        let value = data_encoding::BASE64.decode(data.as_bytes()).unwrap_or_default();
        format!("{subject} was written: {}", shortened(&String::from_utf8_lossy(&value)))
    })
}

/// The attack as its control runs it: the same lines, but where only the reply subject makes the
/// difference.
#[must_use]
pub fn controlled(attack: &Attack) -> Attack {
    let mut control = attack.clone();
    if attack.control == Control::OwnInbox {
        for step in &mut control.steps {
            if let Step::Send { reply, .. } = step {
                "_INBOX.{me}.answer".clone_into(reply);
            }
        }
        control.effect = Effect::Answered;
    }
    if let Control::Instead(step, _) = &attack.control
        && let Some(last) = control.steps.last_mut()
    {
        step.clone_into(last);
    }
    control
}

/// Whether the requests with which an attack begins are answered at all, when the attacker asks
/// for the answer itself: otherwise that nothing came of it would say nothing.
///
/// # Errors
/// When the stage could not be set, or broke down.
pub async fn is_answered(attack: &Attack, stage: &Testbed) -> Result<bool, StageError> {
    let asking = Attack { control: Control::OwnInbox, ..attack.clone() };
    let report = run(&controlled(&asking), stage).await?;
    // An error is an answer too, but for that of an account from which JetStream is not reached.
    let nobody = NOT_ENABLED.iter().any(|code| report.evidence.ends_with(code));
    Ok(matches!(report.ending, Ending::Succeeded | Ending::Rejected) && !nobody)
}
