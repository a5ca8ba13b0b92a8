//! Keeps the policy in force what its source has: looks, judges the whole, swaps, and tells.
//!
//! What every source has in common is [`Follower::judge`]; [`directory`] and [`bucket`] are how
//! each is looked at, for ever.

mod bucket;
mod directory;

use std::collections::HashSet;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, mpsc};
use std::time::Duration;

use jiff::Timestamp;
use tokio::signal::unix::Signal;
use tokio::sync::oneshot;

pub use self::bucket::bucket;
pub use self::directory::directory;
use crate::policy_source::bucket::chain::Judge;
use crate::policy_source::cache::{Kept, PolicyCache};
use crate::policy_source::origin::Origin;
use crate::policy_source::snapshot_store::{Loaded, Past, Store};
use crate::policy_source::status::{Refused, SourceState, SourceStatus};
use crate::policy_source::temporary::{Selection, Temporary};
use crate::policy_source::tenancy::{Neighbourhood, Quota};
use crate::sessions::reach_without_system_user;
use crate::telemetry::Metrics;
use crate::{audit::Recorder, policy_source::events};
use solewriter_core::diagnostics::render::Style;
use solewriter_core::diagnostics::{Collector, Problems, Severity, SourceFile};
use solewriter_core::grant::Defaults;
use solewriter_core::policy::validate::{Validated, Validator};
use solewriter_types::audit_event::{self, Event};

/// How far clocks may differ, where it is reckoned of what connections may be open.
const CLOCKS: Duration = Duration::from_secs(600);

/// Puts policies in force, and tells everyone who should hear of it.
#[derive(Clone)]
pub struct Follower {
    /// The policy in force.
    pub store: Arc<Store>,
    /// What is known of where it came from.
    pub source_status: Arc<SourceStatus>,
    /// Counts.
    pub metrics: Arc<Metrics>,
    /// Keeps the last good one on disk.
    pub keeper: Option<Arc<PolicyCache>>,
    /// Records what became of a policy.
    pub recorder: Recorder,
    /// What services get that say nothing themselves.
    pub defaults: Defaults,
    /// What counts for a while only.
    pub temporary: Arc<Mutex<Temporary>>,
    /// What judges files, and remembers the last that held.
    pub validator: Arc<Validator>,
    /// What pushes are judged by, where the settings name authors.
    pub judge: Option<Arc<Judge>>,
    /// What a policy may declare at most.
    pub quota: Quota,
    /// The tenants of this instance, this one among them.
    pub neighbourhood: Arc<Neighbourhood>,
    /// What was warned of.
    pub warned: Arc<Warned>,
}

/// What a source has: its files, or what keeps them from being read as a policy.
pub struct Found {
    /// The files.
    pub files: Result<Vec<SourceFile>, Problems>,
    /// Which revision of a bucket it is.
    pub origin: Option<Origin>,
    /// What is known of those between this one and the one in force.
    pub past: Past,
}

impl Follower {
    /// Judges a whole policy that the source has, and puts it in force if it holds. Blocks.
    ///
    /// # Errors
    /// Every problem, after everyone was told; the policy in force stays.
    pub fn judge(&self, found: Found, now: Timestamp) -> Result<(), Problems> {
        let origin = found.origin.clone();
        self.load(found, now).inspect_err(|problems| {
            self.refused(problems, origin.as_ref(), now.as_second());
        })
    }

    fn load(&self, found: Found, now: Timestamp) -> Result<(), Problems> {
        let _freed = GiveBack;
        let Found { files, origin, past } = found;
        let files = files?;
        let validated = self.validator.validate(&files)?;
        let seconds = now.as_second();
        let Validated { policy, warnings } = validated;
        self.quota.check(&policy)?;
        let _admitted = self.neighbourhood.admit(&self.store, &policy, &files)?;
        // What counts for a while is made from it, and shares what it does.
        let policy = self.store.sharing(policy);
        // Who has to close connections hears of it first: what changed for whom takes longer to find.
        let mut temporary = self.temporary();
        temporary.rebase(&files, policy, origin.clone());
        let Some((loaded, events)) = self.put(&mut temporary, warnings, past, true, now) else {
            return Ok(());
        };
        self.heard(SourceState::Answered, seconds);
        self.accepted(&loaded, origin.as_ref(), seconds);
        self.tell(&temporary, events);
        self.keep(&temporary, &loaded, (origin, files), seconds);
        Ok(())
    }

    /// What counts for a while. One change of the policy in force at a time.
    fn temporary(&self) -> MutexGuard<'_, Temporary> {
        self.temporary.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Puts in force what the policy's source has, with what counts for a while. `pushed`: the source
    /// has something new. `None` when nothing is another than before.
    fn put(
        &self,
        temporary: &mut Temporary,
        warnings: Problems,
        mut past: Past,
        pushed: bool,
        now: Timestamp,
    ) -> Option<(Loaded, Vec<Event>)> {
        let Selection { policy, origin, before, events } = temporary.select(now, self.reach())?;
        let in_force = self.store.current();
        let same = in_force.is_some_and(|s| s.policy.revision() == policy.revision());
        if same && !pushed && before.is_empty() && events.is_empty() {
            return None;
        }
        if self.store.hands_over() {
            past.policies.extend(before);
        }
        // Who pushed knew of servers that are gone, and meant what moves by that push.
        let forced = |o: &Origin| o.forced && pushed && policy.revision() == policy.documents();
        let origin = origin.map(|o| Origin { forced: forced(&o), ..o });
        let loaded = self.store.replace_after(Validated { policy, warnings }, origin, &past, now);
        Some((loaded, events))
    }

    /// For how many seconds connections may be open that were let in by an earlier policy.
    fn reach(&self) -> i64 {
        let lasts = self.store.current().map_or(self.defaults.lifetime, |snapshot| {
            reach_without_system_user(&snapshot.policy, &self.defaults)
        });
        i64::try_from((lasts + CLOCKS).as_secs()).unwrap_or(i64::MAX)
    }

    /// Tells what became of emergencies.
    fn tell(&self, temporary: &Temporary, events: Vec<Event>) {
        self.metrics.emergencies(temporary.count());
        for event in events {
            self.recorder.record(event);
        }
    }

    fn keep(
        &self,
        temporary: &Temporary,
        loaded: &Loaded,
        (origin, files): (Option<Origin>, Vec<SourceFile>),
        confirmed: i64,
    ) {
        let Some(keeper) = &self.keeper else { return };
        let revision = loaded.after.policy.documents().clone();
        let claims = loaded.after.unsettled().map(|u| u.claims.clone()).unwrap_or_default();
        let emergencies = temporary.documents().to_vec();
        keeper.keep(&Kept { revision, origin, confirmed, files, claims, emergencies });
    }

    /// The source has these documents of emergencies. Blocks.
    pub fn documents(&self, documents: Vec<String>, now: Timestamp) {
        let mut temporary = self.temporary();
        if temporary.take(documents, now) {
            self.reconsider(temporary, now);
        }
    }

    /// Something may have begun or ended.
    fn reconsider(&self, mut temporary: MutexGuard<'_, Temporary>, now: Timestamp) {
        let put = self.put(&mut temporary, Collector::new().finish(), Past::default(), false, now);
        let Some((loaded, events)) = put else { return };
        let origin = loaded.after.origin();
        if loaded.is_change() {
            self.changed(&loaded, origin.as_deref());
        }
        self.tell(&temporary, events);
        if let Some((files, origin)) = temporary.kept_files() {
            let confirmed = self.source_status.confirmed().unwrap_or_default();
            self.keep(&temporary, &loaded, (origin, files), confirmed);
        }
    }

    /// A policy came into force, or is still what the source has. One place for everyone who
    /// hears of it.
    fn accepted(&self, loaded: &Loaded, origin: Option<&Origin>, now: i64) {
        self.warned.log(&loaded.warnings);
        self.source_status.refuse(None);
        self.metrics.policy_accepted(&loaded.after.policy, now, origin.map(|o| o.number));
        if !loaded.is_change() {
            tracing::info!(
                event = "policy_unchanged",
                revision = loaded.after.policy.revision().whole(),
                number = origin.map(|o| o.number),
                "policy read",
            );
            return;
        }
        self.changed(loaded, origin);
    }

    /// Another policy is in force.
    fn changed(&self, loaded: &Loaded, origin: Option<&Origin>) {
        let (before, after) = (loaded.before.as_ref().map(|b| &b.policy), &loaded.after.policy);
        let origin = self.came_from(origin);
        let event = events::accepted(before, after, &loaded.warnings, origin, &self.defaults);
        self.recorder.record(event);
        for trouble in events::troubles(after, loaded.after.loaded_at) {
            self.recorder.record(trouble);
        }
    }

    /// Where it came from, as events tell it.
    fn came_from(&self, origin: Option<&Origin>) -> audit_event::Origin {
        audit_event::Origin {
            from: if origin.is_some() { "bucket" } else { "directory" }.to_owned(),
            place: audit_event::words(self.source_status.source()),
            author: origin.map(|o| audit_event::words(&o.author)),
            signed_by: origin.and_then(|o| o.signed.as_ref()).map(|signed| signed.key.clone()),
            message: origin.map(|o| audit_event::words(&o.message)),
            number: origin.map(|o| o.number),
        }
    }

    /// Records that a change was refused.
    pub fn record_refusal(&self, problems: &Problems, origin: Option<&Origin>) {
        let in_force = self.store.current();
        let revision = in_force.as_ref().map(|s| s.policy.revision());
        self.recorder.record(events::refused(revision, problems, self.came_from(origin)));
    }

    /// A change was refused. One place for everyone who hears of it.
    fn refused(&self, problems: &Problems, origin: Option<&Origin>, now: i64) {
        let since = self.source_status.refused().map_or(now, |refused| refused.since);
        let first = problems.iter().find(|p| p.severity == Severity::Error);
        self.source_status.refuse(Some(Refused {
            since,
            number: origin.map(|o| o.number),
            errors: problems.count(Severity::Error),
            first: first.map(|p| p.message.clone()).unwrap_or_default(),
        }));
        self.metrics.policy_refused(now);
        self.record_refusal(problems, origin);
    }

    /// Notes whether the source answered, for `/readyz` and metrics, and logs a change of that.
    fn heard(&self, state: SourceState, now: i64) {
        let answered = state == SourceState::Answered;
        if answered {
            self.confirm(now);
        }
        self.metrics.policy_source(answered);
        let before = self.source_status.state();
        if !self.source_status.note(state.clone()) {
            return;
        }
        let source = self.source_status.source();
        let confirmed = self.source_status.confirmed();
        match state {
            SourceState::Answered if *before == SourceState::Unasked => {}
            SourceState::Answered | SourceState::Unasked => {
                tracing::info!(event = "policy_source_back", source, "the policy's source answers");
            }
            // Before the first policy, waiting is no failure.
            SourceState::Missing | SourceState::Empty if confirmed.is_none() => tracing::warn!(
                event = "policy_source_waiting",
                source,
                state = state.as_str(),
                "not ready: {}",
                self.source_status.describe(now),
            ),
            SourceState::Missing | SourceState::Empty => tracing::error!(
                event = "policy_source_gone",
                source,
                state = state.as_str(),
                "the policy in force stays, and cannot be changed: {}",
                self.source_status.describe(now),
            ),
            SourceState::Unreachable(why) => tracing::error!(
                event = "policy_source_lost",
                source,
                why,
                "the policy in force stays; changes are not noticed",
            ),
        }
    }

    /// The source answered, and its policy is in force or was refused.
    fn confirm(&self, now: i64) {
        self.source_status.confirm(now);
        self.metrics.policy_confirmed(now);
        if let (Some(keeper), Some(snapshot)) = (&self.keeper, self.store.current()) {
            let number = snapshot.origin().map(|o| o.number);
            keeper.confirm(snapshot.policy.documents(), number, now);
            if snapshot.unsettled().is_none() {
                keeper.settled();
            }
        }
    }

    /// Begins with the policy that the last run kept, if there is one. It is as old as it is: if
    /// that is too old, it is in force and decides nothing. Blocks.
    ///
    /// # Errors
    /// What is wrong with it.
    fn start_from_kept(&self, now: Timestamp) -> Result<bool, Problems> {
        let Some(kept) = self.keeper.as_ref().map(|k| k.read()).transpose()?.flatten() else {
            return Ok(false);
        };
        let _freed = GiveBack;
        let Kept { revision, origin, confirmed, files, claims, emergencies } = kept;
        let Validated { policy, warnings } = self.validator.validate(&files)?;
        let age = now.as_second().saturating_sub(confirmed);
        tracing::warn!(
            event = "policy_kept",
            revision = revision.whole(),
            number = origin.as_ref().map(|o| o.number),
            age,
            "starting with the policy that the last run kept, until its source answers",
        );
        let past = Past { claims, ..Past::default() };
        let mut temporary = self.temporary();
        temporary.take(emergencies, now);
        temporary.rebase(&files, policy, origin.clone());
        let put = self.put(&mut temporary, warnings, past, true, now);
        self.source_status.confirm(confirmed);
        self.metrics.policy_confirmed(confirmed);
        if let Some((loaded, events)) = put {
            self.accepted(&loaded, origin.as_ref(), now.as_second());
            self.tell(&temporary, events);
        }
        Ok(true)
    }
}

/// The longest pause between two looks at the time.
const TICK: Duration = Duration::from_secs(1);

/// Puts in force what begins and ends by itself, for ever. Gives what it was that ended.
pub async fn keep_time(follower: Follower) -> &'static str {
    loop {
        tokio::time::sleep(TICK).await;
        let follower = follower.clone();
        // A defect in it is told where it happens, and it is tried again.
        let span = tracing::Span::current();
        let _ = tokio::task::spawn_blocking(move || {
            let _entered = span.enter();
            let now = Timestamp::now();
            let mut temporary = follower.temporary();
            if temporary.is_due(now) {
                follower.reconsider(temporary, now);
            }
        })
        .await;
    }
}

/// What is kept from an earlier run, if it can be used; what is wrong with it is logged.
#[must_use]
pub fn start_from_kept(follower: &Follower) -> bool {
    follower.start_from_kept(Timestamp::now()).unwrap_or_else(|problems| {
        tracing::error!(
            event = "policy_kept_unusable",
            problems = problems.render(Style::Plain),
            "starting from the policy's source alone",
        );
        false
    })
}

/// SIGHUP: look at once, and judge what is there even if it was judged before.
async fn hangup(signal: &mut Signal) {
    if signal.recv().await.is_none() {
        std::future::pending::<()>().await;
    }
}

/// When what judging a policy freed is given back to the system.
const GIVEN_BACK: Duration = Duration::from_millis(1500);

/// When it goes, memory is given back that was freed. mimalloc waits for a second, in case it is needed
/// again, and then looks when a thread ends: a process with little to do would keep it for ever.
struct GiveBack;

impl Drop for GiveBack {
    fn drop(&mut self) {
        // Without a thread for it, it is given back later.
        let thread = std::thread::Builder::new().name("memory".to_owned());
        let _ = thread.spawn(|| std::thread::sleep(GIVEN_BACK));
    }
}

/// How much less than a decision a new policy counts where both want a processor: a tenth or so.
#[cfg(target_os = "linux")]
const LESS_URGENT: i32 = 10;

/// How soon what could not be judged is read again.
const UNJUDGED_PAUSE: Duration = Duration::from_secs(1);

/// What was read could not be judged: there was no thread for it, or a defect ended it. It has to be
/// read again.
struct Unjudged;

/// What there is to do with a policy that was read.
type Work = Box<dyn FnOnce() + Send>;

/// A thread for what takes a while with a large policy, behind decisions. One for all changes: what
/// one frees, the next uses again, where threads of their own would each keep theirs.
#[derive(Default)]
struct BackgroundWorker(Option<mpsc::Sender<Work>>);

impl BackgroundWorker {
    /// Does it there, and waits for it.
    async fn run(&mut self, work: impl FnOnce() + Send + 'static) -> Result<(), Unjudged> {
        let (done, result) = oneshot::channel();
        // The tenant's, in the log.
        let span = tracing::Span::current();
        let work = move || {
            span.in_scope(work);
            let _ = done.send(());
        };
        let error = match self.hand_over(Box::new(work)) {
            Ok(()) if result.await.is_ok() => return Ok(()),
            Ok(()) => "a defect ended it; please report this".to_owned(),
            Err(error) => format!("no thread for it: {error}"),
        };
        // A defect ended the thread too.
        self.0 = None;
        tracing::error!(
            event = "policy_unjudged",
            error,
            "a policy was read but could not be validated; it is read again"
        );
        // What lasts must not keep a processor busy.
        tokio::time::sleep(UNJUDGED_PAUSE).await;
        Err(Unjudged)
    }

    fn hand_over(&mut self, work: Work) -> std::io::Result<()> {
        let jobs = match &self.0 {
            Some(jobs) => jobs,
            None => self.0.insert(Self::thread()?),
        };
        // When nobody takes it, it is dropped, and its result with it.
        let _ = jobs.send(work);
        Ok(())
    }

    fn thread() -> std::io::Result<mpsc::Sender<Work>> {
        let (jobs, taken) = mpsc::channel::<Work>();
        std::thread::Builder::new().name("policy".to_owned()).spawn(move || {
            // Of this thread alone, which is how Linux has it. Less than hoped for is no problem.
            #[cfg(target_os = "linux")]
            let _ = rustix::process::setpriority_process(None, LESS_URGENT);
            for work in taken {
                work();
            }
        })?;
        Ok(jobs)
    }
}

/// The state of the source while its policy could not be validated.
const UNJUDGED: &str = "its policy could not be validated, see the log";

/// The warnings of the policy that was accepted last, by file, code and text: each is logged when it is
/// new, and not with every change of something else.
#[derive(Default)]
pub struct Warned(Mutex<HashSet<Warning>>);

type Warning = (Option<Arc<str>>, &'static str, String);

impl Warned {
    fn log(&self, problems: &Problems) {
        let (mut now, mut again) = (HashSet::new(), 0_u64);
        let mut before = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        for problem in problems {
            let file = problem.place().map(|span| Arc::clone(span.file().name()));
            let warning = (file, problem.code, problem.message.clone());
            if before.contains(&warning) {
                again += 1;
            } else {
                tracing::warn!(
                    event = "policy_warning",
                    code = problem.code,
                    problem = problem.render(Style::Plain),
                );
            }
            now.insert(warning);
        }
        if again > 0 {
            tracing::info!(
                event = "policy_warnings_left",
                count = again,
                "warnings of the policy before, logged then; `solewriter policy check` shows them",
            );
        }
        *before = now;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_defect_in_judging_a_policy_is_told_and_ends_nothing() {
        let mut aside = BackgroundWorker::default();
        assert!(aside.run(|| ()).await.is_ok());
        assert!(aside.run(|| panic!("a defect")).await.is_err());
        assert!(aside.run(|| ()).await.is_ok());
    }
}
