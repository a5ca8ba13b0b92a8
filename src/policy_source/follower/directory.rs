//! Following a directory of files.

use jiff::Timestamp;
use tokio::signal::unix::Signal;

use super::{BackgroundWorker, Follower, Found, UNJUDGED, hangup};
use crate::policy_source::snapshot_store::Past;
use crate::policy_source::status::SourceState;
use crate::policy_source::watcher::Watcher;
use solewriter_core::diagnostics::render::Style;
use solewriter_core::diagnostics::{Problems, SourceFile};

/// Puts each change of a directory in force, for ever.
pub async fn directory(follower: Follower, mut watcher: Watcher, mut signal: Signal) {
    let guard = &follower.source_status.stall_guard;
    let mut aside = BackgroundWorker::default();
    loop {
        let read_anyway = tokio::select! {
            () = watcher.moved() => false,
            () = guard.wanted() => false,
            () = hangup(&mut signal) => true,
        };
        let look = guard.look();
        let read = if read_anyway { Some(watcher.read_now().await) } else { watcher.look().await };
        match read {
            Some(read) => {
                let (follower, unjudged) = (follower.clone(), &follower);
                if aside.run(move || follower.read(read)).await.is_err() {
                    watcher.forget();
                    let state = SourceState::Unreachable(UNJUDGED.to_owned());
                    unjudged.heard(state, Timestamp::now().as_second());
                    continue;
                }
            }
            // What is there is what was there, and was judged.
            None if *follower.source_status.state() == SourceState::Answered => {
                follower.heard(SourceState::Answered, Timestamp::now().as_second());
            }
            None => {}
        }
        follower.emergencies_of(&watcher).await;
        guard.conclude(look);
    }
}

impl Follower {
    /// Deals with the documents of emergencies that are in the directory.
    pub async fn emergencies_of(&self, watcher: &Watcher) {
        let (follower, directory) = (self.clone(), watcher.directory().clone());
        let judge = move || match directory.read_emergencies() {
            Ok(documents) => follower.documents(documents, Timestamp::now()),
            Err(problems) => tracing::error!(
                event = "emergencies_unreadable",
                problems = problems.render(Style::Plain),
                "what was known of emergencies stays",
            ),
        };
        // A defect in it is told where it happens, and it is tried again.
        let span = tracing::Span::current();
        let _ = tokio::task::spawn_blocking(move || span.in_scope(judge)).await;
    }

    /// Deals with what was read from a directory. Blocks.
    fn read(&self, read: Result<Vec<SourceFile>, Problems>) {
        let now = Timestamp::now();
        let unreadable = read.as_ref().err().map(why);
        let _ = self.judge(Found { files: read, origin: None, past: Past::default() }, now);
        // A policy that is read and refused is an answer; files that cannot be read are none.
        let state = unreadable.map_or(SourceState::Answered, SourceState::Unreachable);
        self.heard(state, now.as_second());
    }

    /// Deals with what was read from the directory first, before anybody is served. Blocks.
    ///
    /// # Errors
    /// Every problem, when nothing is in force.
    pub fn begin(&self, read: Result<Vec<SourceFile>, Problems>) -> Result<(), Problems> {
        let look = self.source_status.stall_guard.look();
        if self.store.current().is_some() {
            self.read(read);
        } else {
            // Whoever starts it is told; nobody else is there yet.
            self.load(
                Found { files: read, origin: None, past: Past::default() },
                Timestamp::now(),
            )?;
        }
        self.source_status.stall_guard.conclude(look);
        Ok(())
    }
}

fn why(problems: &Problems) -> String {
    problems.iter().next().map(|p| p.message.clone()).unwrap_or_default()
}
