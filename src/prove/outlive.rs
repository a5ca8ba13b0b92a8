//! A consumer that no grant covers, on a live deployment: the sweep has to delete it. Not a row of
//! the table, because it takes as long as a sweep is away; `prove` tries it last.

use std::time::Duration;

use serde_json::json;
use tokio::time::{Instant, sleep};

use super::Ending;
use super::verdict::{Outcome, Tried};
use crate::prove::attacks;
use crate::prove::testbed::{StageError, Testbed};

/// Its name in the verdict.
pub const ID: &str = "consumer-outlives";
const TITLE: &str = "A consumer that delivers what its service may not read stays";
const NAME: &str = "outlives";

/// Makes one on the attacker's own bucket, which delivers to the victim, who may not read it: as
/// it would after a change of the policy. Waits for it to be deleted.
pub async fn attempt(stage: &Testbed, within: Duration) -> Tried {
    let (outcome, ending, evidence) = match outlives(stage, within).await {
        Ok(None) => (
            Outcome::Succeeded,
            Some(Ending::Succeeded),
            format!(
                "it is still there after {} s: no instance sweeps consumers (see `consumers` of \
                 `solewriter doctor`), or [sessions] every is longer than --wait",
                within.as_secs()
            ),
        ),
        Ok(Some(after)) => (
            Outcome::Held,
            Some(Ending::NoEffect),
            format!("deleted after {:.1} s", after.as_secs_f64()),
        ),
        Err(error) => (Outcome::Unknown, None, error.to_string()),
    };
    Tried { id: ID, title: TITLE, outcome, ending: ending.map(Ending::word), evidence }
}

async fn outlives(stage: &Testbed, within: Duration) -> Result<Option<Duration>, StageError> {
    let attack = attacks::families().into_iter().flat_map(|family| family.attacks).next();
    let Some(attack) = attack else { return Ok(None) };
    let mut cast = stage.set(&attack).await?;
    let stream = format!("KV_{}", stage.names.mine);
    let config = json!({"durable_name": NAME, "ack_policy": "none", "mem_storage": true,
        "deliver_subject": format!("_INBOX.{}.{NAME}", stage.names.them)});
    let body = json!({"stream_name": stream, "config": config});
    let create = format!("CONSUMER.CREATE.{stream}.{NAME}");
    let made = cast.attacker.api(&create, &body).await;
    let made = made.map_err(|error| StageError::Api(error.to_string(), json!(null)))?;
    if made["error"].is_object() {
        return Err(StageError::Api(create, made));
    }
    let began = Instant::now();
    while began.elapsed() < within {
        let info = format!("CONSUMER.INFO.{stream}.{NAME}");
        if super::testbed::call(&mut cast.admin, &info, &json!(null)).await?["error"].is_object() {
            return Ok(Some(began.elapsed()));
        }
        sleep(Duration::from_millis(200)).await;
    }
    Ok(None)
}
