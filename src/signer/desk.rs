//! Judges one question, and answers it.

use std::borrow::Cow;
use std::sync::{Mutex, PoisonError};

use data_encoding::{BASE64URL_NOPAD, HEXLOWER};

use super::{Answer, Ask, BUSY, FAILED, Question, REFUSED, VERSION};
use solewriter_core::callout::signable::{Bounds, Signable, judge};
use solewriter_core::keys::{AccountKey, KeyHolder, SignError};

/// What a signer signs, and with what.
pub struct Desk {
    holder: Box<dyn KeyHolder>,
    keys: Vec<AccountKey>,
    bounds: Bounds,
    pace: Pace,
}

/// How many questions there were in a second.
struct Pace {
    per_second: u32,
    now: Mutex<(i64, u32)>,
}

impl Pace {
    fn admits(&self, now: i64) -> bool {
        let mut counted = self.now.lock().unwrap_or_else(PoisonError::into_inner);
        if counted.0 != now {
            *counted = (now, 0);
        }
        counted.1 = counted.1.saturating_add(1);
        counted.1 <= self.per_second
    }
}

impl Desk {
    /// A desk that signs with those keys, within those bounds, at most so often in a second.
    #[must_use]
    pub fn new(
        holder: Box<dyn KeyHolder>,
        keys: Vec<AccountKey>,
        bounds: Bounds,
        per_second: u32,
    ) -> Self {
        Self { holder, keys, bounds, pace: Pace { per_second, now: Mutex::default() } }
    }

    /// The answer to one question, at that time (seconds since the Unix epoch).
    #[must_use]
    pub fn answer(&self, question: &[u8], now: i64) -> Vec<u8> {
        let answer = self.decide(question, now);
        // It has only text in it.
        serde_json::to_vec(&answer).unwrap_or_default()
    }

    fn decide(&self, question: &[u8], now: i64) -> Answer {
        if !self.pace.admits(now) {
            return no(BUSY, format!("more than {} questions in a second", self.pace.per_second));
        }
        let question: Question<'_> = match serde_json::from_slice(question) {
            Ok(question) => question,
            Err(_) => return refused("the question is not one line of JSON of the known form"),
        };
        if question.v != VERSION {
            return refused(format!("this signer speaks version {VERSION}"));
        }
        match (question.ask, question.key, question.text) {
            (Ask::Keys, None, None) => {
                let keys = self.keys.iter().map(ToString::to_string).collect();
                Answer { keys: Some(keys), ..Answer::default() }
            }
            (Ask::Sign, Some(key), Some(text)) => self.sign(&key, text.as_bytes(), now),
            _ => refused("`sign` takes `key` and `text`, and `keys` takes neither"),
        }
    }

    fn sign(&self, key: &str, text: &[u8], now: i64) -> Answer {
        let Some(key) = self.keys.iter().find(|held| held.as_str() == key) else {
            return refused("this signer does not hold that key");
        };
        let signable = match judge(text, key, &self.bounds, now) {
            Ok(signable) => signable,
            Err(why) => return refused(why.to_string()),
        };
        match self.holder.sign(key, text) {
            Ok(signature) => {
                log(&signable, key, text);
                let signature = Some(BASE64URL_NOPAD.encode(&signature));
                Answer { signature, ..Answer::default() }
            }
            Err(SignError::Refused) => refused("who has the key does not sign this"),
            Err(error) => {
                tracing::error!(event = "sign_failed", %key, %error, "the key cannot be used");
                no(FAILED, "the key cannot be used; the signer's log says why".to_owned())
            }
        }
    }
}

fn no(error: &'static str, detail: String) -> Answer {
    Answer { error: Some(Cow::Borrowed(error)), detail: Some(detail), ..Answer::default() }
}

fn refused(why: impl Into<String>) -> Answer {
    let why = why.into();
    tracing::warn!(event = "sign_refused", why, "a text was not signed");
    no(REFUSED, why)
}

/// One line for each signature.
fn log(signable: &Signable, key: &AccountKey, text: &[u8]) {
    let kind = signable.kind();
    let digest = aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, text);
    let digest = HEXLOWER.encode(digest.as_ref());
    match signable {
        Signable::User { subject, name, account } => {
            let service = name.split('/').next().unwrap_or_default();
            tracing::info!(event = "signed", kind, %key, subject, service, name, account, digest);
        }
        Signable::Response { subject, server, granted } => {
            tracing::info!(event = "signed", kind, %key, subject, server, granted, digest);
        }
        Signable::Sentinel { subject } => {
            tracing::info!(event = "signed", kind, %key, subject, digest);
        }
        Signable::Handover => tracing::info!(event = "signed", kind, %key, digest),
        // One each second of each instance.
        Signable::Instance => tracing::debug!(event = "signed", kind, %key, digest),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::signer::keys::Keys;
    use solewriter_core::keys::{Account, Seed, Signer};

    const NOW: i64 = 1_800_000_000;

    fn desk(per_second: u32) -> (Desk, AccountKey) {
        let signer = Signer::<Account>::new(&Seed::generate()).unwrap();
        let key = *signer.public();
        let mut keys = Keys::default();
        keys.add(signer).unwrap();
        let bounds = Bounds { accounts: ["APP".to_owned()].into(), longest: 3600 };
        (Desk::new(Box::new(keys), vec![key], bounds, per_second), key)
    }

    fn asked(desk: &Desk, question: &str, now: i64) -> Answer {
        serde_json::from_slice(&desk.answer(question.as_bytes(), now)).unwrap()
    }

    #[test]
    fn what_may_be_signed_is_signed_and_nothing_else() {
        let (desk, key) = desk(1000);
        let text = "solewriter instance says\nx";
        let sign = |key: &str, text: &str| {
            let question = serde_json::json!({"v": 1, "ask": "sign", "key": key, "text": text});
            asked(&desk, &question.to_string(), NOW)
        };
        let signature =
            BASE64URL_NOPAD.decode(sign(key.as_str(), text).signature.unwrap().as_bytes());
        key.verify(text.as_bytes(), &signature.unwrap().try_into().unwrap()).unwrap();
        let other = Signer::<Account>::new(&Seed::generate()).unwrap();
        for answer in [
            sign(key.as_str(), "anything"),
            sign(other.public().as_str(), text),
            asked(&desk, "", NOW),
            asked(&desk, "{\"v\":1", NOW),
            asked(&desk, "{\"v\":2,\"ask\":\"keys\"}", NOW),
            asked(&desk, "{\"v\":1,\"ask\":\"keys\",\"text\":\"x\"}", NOW),
            asked(&desk, "{\"v\":1,\"ask\":\"sign\",\"text\":\"x\"}", NOW),
            asked(&desk, "{\"v\":1,\"ask\":\"seed\"}", NOW),
            asked(&desk, "{\"v\":1,\"ask\":\"keys\",\"more\":1}", NOW),
        ] {
            assert_eq!((answer.error.as_deref(), answer.signature), (Some(REFUSED), None));
        }
        let keys = asked(&desk, "{\"v\":1,\"ask\":\"keys\"}", NOW).keys;
        assert_eq!(keys, Some(vec![key.to_string()]));
    }

    #[test]
    fn not_more_than_so_many_in_a_second() {
        let (desk, _) = desk(2);
        let busy = |now| asked(&desk, "{\"v\":1,\"ask\":\"keys\"}", now).error;
        assert_eq!([busy(NOW), busy(NOW)], [None, None]);
        assert_eq!(busy(NOW).as_deref(), Some(BUSY));
        assert_eq!(busy(NOW + 1), None);
    }
}
