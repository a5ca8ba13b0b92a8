//! Events on disk are there again in order, whatever happened between.

use jiff::Timestamp;

use super::*;
use solewriter_types::audit_event::{Event, PRODUCER, Record, Source, Trouble};

fn line(sequence: u64) -> (u64, String) {
    let source = Source::new(PRODUCER, Timestamp::UNIX_EPOCH, 0);
    let event = Trouble {
        reason: "test".to_owned(),
        detail: format!("event {sequence} {}", "x".repeat(500)),
        service: None,
    };
    let record = Record { sequence, time: Timestamp::UNIX_EPOCH, event: Event::Trouble(event) };
    (sequence, record.line(&source))
}

fn lines(numbers: std::ops::RangeInclusive<u64>) -> Vec<(u64, String)> {
    numbers.map(line).collect()
}

fn numbers(run: &mut Run) -> Vec<u64> {
    let mut all = Vec::new();
    let next = run.next(usize::MAX, u64::MAX).unwrap();
    all.extend(next.iter().map(|line| line.sequence));
    all
}

fn adopt(spool: &Path) -> Option<Run> {
    Run::left_behind(spool, "own").pop().map(|run| run.map_err(|(_, error)| error).unwrap())
}

#[test]
fn what_was_not_acknowledged_is_there_after_the_run_in_order() {
    let dir = tempfile::tempdir().unwrap();
    let mut run = Run::create(dir.path(), "run1").unwrap();
    run.append(&lines(1..=10)).unwrap();
    run.append(&lines(11..=20)).unwrap();
    let first = run.next(7, u64::MAX).unwrap();
    run.done(&first).unwrap();
    assert_eq!(run.pending().0, 13);
    assert!(adopt(dir.path()).is_none(), "its run lives");
    drop(run);
    let mut run = adopt(dir.path()).unwrap();
    assert_eq!(numbers(&mut run), (8..=20).collect::<Vec<u64>>());
    assert_eq!((run.pending().0, run.last(), run.instance.as_str()), (13, 20, "run1"));
    run.remove().unwrap();
    assert!(std::fs::read_dir(dir.path()).unwrap().next().is_none());
}

#[test]
fn files_that_are_done_with_are_removed() {
    let dir = tempfile::tempdir().unwrap();
    let mut run = Run::create(dir.path(), "run1").unwrap();
    let files = || {
        let entries = std::fs::read_dir(dir.path().join("run1")).unwrap();
        entries.filter(|e| e.as_ref().unwrap().path().extension().is_some()).count()
    };
    let mut seen = 0;
    for hundred in 0..60 {
        run.append(&lines(hundred * 100 + 1..=hundred * 100 + 100)).unwrap();
    }
    assert!(files() > 3, "{}", files());
    loop {
        let next = run.next(256, u64::MAX).unwrap();
        let Some(last) = next.last() else { break };
        assert_eq!(next[0].sequence, seen + 1);
        seen = last.sequence;
        run.done(&next).unwrap();
    }
    assert_eq!((seen, run.pending()), (6000, (0, 0)));
    assert_eq!(files(), 1);
    run.append(&lines(6001..=6001)).unwrap();
    assert_eq!(numbers(&mut run), [6001]);
}

#[test]
fn a_line_that_was_being_written_is_none_and_damage_costs_one_line() {
    let dir = tempfile::tempdir().unwrap();
    let mut run = Run::create(dir.path(), "run1").unwrap();
    run.append(&lines(1..=5)).unwrap();
    drop(run);
    let file = dir.path().join("run1/00000000000000000001.jsonl");
    let text = std::fs::read_to_string(&file).unwrap();
    let damaged = text.replace("event 2 ", "event \" ");
    std::fs::write(&file, &damaged[..damaged.len() - 20]).unwrap();
    let mut run = adopt(dir.path()).unwrap();
    assert_eq!(numbers(&mut run), [1, 3, 4]);
    assert_eq!(run.damage(), Some(Loss { count: 1, first: 2, last: 2 }));
    let first = run.next(2, u64::MAX).unwrap();
    run.done(&first).unwrap();
    assert_eq!(numbers(&mut run), [4]);
}

#[test]
fn without_the_note_of_what_was_acknowledged_everything_is_there() {
    let dir = tempfile::tempdir().unwrap();
    let mut run = Run::create(dir.path(), "run1").unwrap();
    run.append(&lines(1..=5)).unwrap();
    let first = run.next(2, u64::MAX).unwrap();
    run.done(&first).unwrap();
    drop(run);
    std::fs::write(dir.path().join("run1/acked"), "garbage").unwrap();
    assert_eq!(numbers(&mut adopt(dir.path()).unwrap()), [1, 2, 3, 4, 5]);
}

#[test]
fn damage_counts_when_the_stream_does_not_have_it() {
    for (acked, damaged, found) in [
        (0, &[1, 4][..], Some(Loss { count: 2, first: 1, last: 4 })),
        (2, &[2, 4], Some(Loss { count: 1, first: 4, last: 4 })),
        (4, &[1, 2, 4], None),
        (0, &[3, 4], Some(Loss { count: 2, first: 3, last: 4 })),
        // Behind the last line: what is missing there is told by the count of a killed run.
        (0, &[6], None),
    ] {
        let dir = tempfile::tempdir().unwrap();
        let mut run = Run::create(dir.path(), "run1").unwrap();
        run.append(&lines(1..=6)).unwrap();
        let acknowledged = run.next(acked, u64::MAX).unwrap();
        run.done(&acknowledged).unwrap();
        drop(run);
        let file = dir.path().join("run1/00000000000000000001.jsonl");
        let mut text = std::fs::read_to_string(&file).unwrap();
        for number in damaged {
            text = text.replace(&format!("event {number} "), "event \" ");
        }
        std::fs::write(&file, text).unwrap();
        assert_eq!(adopt(dir.path()).unwrap().damage(), found, "{acked} {damaged:?}");
    }
}

#[test]
fn files_that_were_not_synced_are_synced_with_the_last_one() {
    let dir = tempfile::tempdir().unwrap();
    let mut run = Run::create(dir.path(), "run1").unwrap();
    for hundred in 0..60 {
        run.append(&lines(hundred * 100 + 1..=hundred * 100 + 100)).unwrap();
    }
    assert!(run.unsynced.len() > 2 && !run.synced && run.is_new);
    run.sync().unwrap();
    assert!(run.unsynced.is_empty() && run.synced && !run.is_new);
    // Nothing waits: nothing has to be on the disk.
    run.append(&lines(6001..=6001)).unwrap();
    let all = run.next(usize::MAX, u64::MAX).unwrap();
    run.done(&all).unwrap();
    run.sync().unwrap();
    assert!(!run.synced);
}
