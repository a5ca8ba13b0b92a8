//! The same work for many things, done by several threads where there is much of it. What comes out
//! is in the order of what went in, whoever did it.

use std::num::NonZero;
use std::sync::{Mutex, PoisonError};
use std::thread;

use crate::diagnostics::Collector;

/// How many bytes of policy are worth a second thread.
const MUCH: usize = 1 << 20;
/// Into how many parts a list is cut for each thread: one may take longer than the others.
const PARTS: usize = 4;

/// How many threads work on something.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Threads(usize);

impl Threads {
    /// Whoever asks, alone.
    pub const ONE: Self = Self(1);

    /// As many as there are processors, where there are many bytes of policy.
    pub fn for_bytes(bytes: usize) -> Self {
        if bytes < MUCH {
            return Self::ONE;
        }
        Self(thread::available_parallelism().map_or(1, NonZero::get))
    }

    /// So many.
    #[cfg(test)]
    pub fn of(threads: usize) -> Self {
        Self(threads)
    }

    /// Parts of a list for [`Threads::each`]: the whole for one thread.
    pub fn parts<T>(self, list: &[T]) -> Vec<&[T]> {
        list.chunks(self.part_of(list.len())).collect()
    }

    /// The same of lists that are given away. None is copied that is not larger than a part.
    pub fn owned_parts<T>(self, lists: Vec<Vec<T>>) -> Vec<Vec<T>> {
        let part = self.part_of(lists.iter().map(Vec::len).sum());
        let mut parts = Vec::with_capacity(lists.len());
        for list in lists {
            if list.len() <= part {
                parts.push(list);
                continue;
            }
            let mut list = list.into_iter();
            while list.len() > 0 {
                parts.push(list.by_ref().take(part).collect());
            }
        }
        parts
    }

    fn part_of(self, all: usize) -> usize {
        let parts = if self == Self::ONE { 1 } else { self.0.saturating_mul(PARTS) };
        all.div_ceil(parts).max(1)
    }

    /// Does it for each.
    pub fn each<I: Send, O: Send>(self, list: Vec<I>, work: impl Fn(I) -> O + Sync) -> Vec<O> {
        let threads = self.0.min(list.len());
        if threads <= 1 {
            return list.into_iter().map(work).collect();
        }
        let left = Mutex::new(list.into_iter().enumerate());
        let some = || {
            let mut done = Vec::new();
            loop {
                let next = left.lock().unwrap_or_else(PoisonError::into_inner).next();
                let Some((number, one)) = next else { return done };
                done.push((number, work(one)));
            }
        };
        let mut done = thread::scope(|scope| {
            // Where the system has no more threads, there are fewer.
            let other = |_| thread::Builder::new().spawn_scoped(scope, some).ok();
            let others: Vec<_> = (1..threads).filter_map(other).collect();
            let mut done = some();
            for other in others {
                match other.join() {
                    Ok(more) => done.extend(more),
                    Err(panic) => std::panic::resume_unwind(panic),
                }
            }
            done
        });
        done.sort_by_key(|(number, _)| *number);
        done.into_iter().map(|(_, out)| out).collect()
    }

    /// The same where problems may be found. These are gathered in the order of the list, too.
    pub fn each_judged<I: Send, O: Send>(
        self,
        list: Vec<I>,
        problems: &Collector,
        judge: impl Fn(I, &Collector) -> O + Sync,
    ) -> Vec<O> {
        if self == Self::ONE {
            return list.into_iter().map(|one| judge(one, problems)).collect();
        }
        let limit = problems.limit();
        let judged = self.each(list, |one| {
            let problems = Collector::keeping(limit);
            (judge(one, &problems), problems.finish())
        });
        let gather = |(out, found)| {
            problems.extend(found);
            out
        };
        judged.into_iter().map(gather).collect()
    }

    /// Does all checks.
    pub fn all(self, checks: Vec<Check<'_>>, problems: &Collector) {
        self.each_judged(checks, problems, |check, problems| check(problems));
    }
}

/// A check that is independent of the others.
pub type Check<'c> = Box<dyn FnOnce(&Collector) + Send + 'c>;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_comes_out_is_in_order() {
        for threads in [Threads::ONE, Threads(2), Threads(5)] {
            for all in [0, 1, 2, 7, 100] {
                let list: Vec<usize> = (0..all).collect();
                let parts = threads.parts(&list);
                assert_eq!(parts.concat(), list);
                let lists = vec![list.clone(), Vec::new(), vec![all; 3]];
                assert_eq!(threads.owned_parts(lists.clone()).concat(), lists.concat());
                assert!(parts.len() <= if threads == Threads::ONE { 1 } else { threads.0 * PARTS });
                let doubled = threads.each(parts, |part| part.iter().map(|n| n * 2).collect());
                let doubled: Vec<Vec<usize>> = doubled;
                assert_eq!(doubled.concat(), list.iter().map(|n| n * 2).collect::<Vec<_>>());
            }
        }
    }

    #[test]
    fn a_defect_of_one_is_a_defect_of_all() {
        let work = |n: usize| assert_ne!(n, 3, "a defect");
        assert!(std::panic::catch_unwind(|| Threads(2).each((0..9).collect(), work)).is_err());
    }
}
