//! What attacks on streams and object stores need of a deployment: `prove` skips them where it
//! lacks that. Each need is tried as an attack is, with what its prober may do.

use super::run::run;
use super::target::{Need, Target};
use super::testbed::{StageError, Testbed};
use super::{Attack, Effect, Ending, Who, ask, victim_writes};

impl Need {
    fn tried(self, target: Target) -> Attack {
        let asks = |target, subject: &str| {
            Attack::new("", "", Who::Neighbour, Effect::Answered).on(target).step(ask(subject))
        };
        match self {
            Self::Stored => Attack::new("", "", Who::Neighbour, Effect::Blocked)
                .on(target)
                .step(victim_writes("")),
            Self::Consumer => asks(target, "$JS.API.CONSUMER.INFO.log-{mine}.durable"),
            Self::Acks => {
                let next = ask("$JS.ACK.log-{mine}.durable.1.1.1.1.0").body("+NXT");
                asks(target, "").instead(next)
            }
            Self::Replay => asks(target, "$JS.API.STREAM.INFO.log-{victim}"),
        }
    }

    /// Why a deployment lacks it, if it does.
    async fn lacking(self, target: Target, stage: &Testbed) -> Result<Option<String>, StageError> {
        let report = match run(&self.tried(target), stage).await {
            // JetStream does not make the stream, and will not do so later.
            Err(StageError::Api(what, said))
                if said["error"]["err_code"].is_u64() && said["error"]["code"] != 503 =>
            {
                let why = said["error"]["description"].as_str().unwrap_or_default();
                return Ok(Some(format!("JetStream does not make {what}: {why}")));
            }
            tried => tried?,
        };
        let lacks = (report.ending == Ending::Succeeded) == (self == Self::Stored);
        let evidence = report.evidence;
        Ok(lacks.then(|| match self {
            Self::Stored => format!(
                "what {} writes to {} is not stored ({evidence})",
                stage.names.them,
                stage.names.fill(target.written())
            ),
            Self::Consumer => format!("its own consumer is not answered for ({evidence})"),
            Self::Acks => format!("its own acknowledgement is not answered ({evidence})"),
            Self::Replay => format!("it cannot open what it replays ({evidence})"),
        }))
    }
}

/// What was tried so far.
#[derive(Default)]
pub struct Needs {
    tried: Vec<(Need, Target, Option<String>)>,
}

impl Needs {
    /// Why an attack has to be skipped, if it has to.
    ///
    /// # Errors
    /// When the stage broke down: nothing is known then.
    pub async fn lacking(
        &mut self,
        attack: &Attack,
        stage: &Testbed,
    ) -> Result<Option<String>, StageError> {
        let target = attack.target;
        for &need in attack.needs {
            let known = self.tried.iter().find(|(n, t, _)| (*n, *t) == (need, target));
            let lacking = if let Some((.., lacking)) = known {
                lacking.clone()
            } else {
                let lacking = need.lacking(target, stage).await?;
                self.tried.push((need, target, lacking.clone()));
                lacking
            };
            if lacking.is_some() {
                return Ok(lacking);
            }
        }
        Ok(None)
    }
}
