//! What happens to log files, and that no line is lost or read twice.

use std::io::Write;

use super::*;

struct Log {
    folder: tempfile::TempDir,
}

impl Log {
    fn new() -> Self {
        Self { folder: tempfile::tempdir().unwrap() }
    }

    fn path(&self) -> PathBuf {
        self.folder.path().join("nats.log")
    }

    fn write(&self, text: &str) {
        let mut file = File::options().create(true).append(true).open(self.path()).unwrap();
        file.write_all(text.as_bytes()).unwrap();
    }

    /// Renames the log as nats-server does, and begins a new one.
    fn rotate(&self, to: &str, first: &str) {
        fs::rename(self.path(), self.folder.path().join(format!("nats.log.{to}"))).unwrap();
        // The time of a change has a few milliseconds; two in one would be told apart by name.
        std::thread::sleep(std::time::Duration::from_millis(12));
        self.write(first);
    }

    fn tail(&self) -> Tail {
        Tail::new(&self.path(), None, Begin::Start)
    }

    fn resume(&self, position: Option<Position>) -> Tail {
        Tail::new(&self.path(), Some(position.unwrap()), Begin::Start)
    }
}

/// Everything that is there: lines, and news other than that there is more.
fn read(tail: &mut Tail) -> (Vec<String>, Vec<News>) {
    let (mut lines, mut news) = (Vec::new(), Vec::new());
    for _ in 0..1000 {
        let said = tail.read(|line| lines.push(String::from_utf8(line.to_vec()).unwrap())).unwrap();
        match said {
            News::More => {}
            News::UpToDate | News::Missing => return (lines, [news, vec![said]].concat()),
            News::Cut | News::Gone => news.push(said),
        }
    }
    panic!("it never ends")
}

fn lines(tail: &mut Tail) -> Vec<String> {
    let (lines, news) = read(tail);
    assert_eq!(news, [News::UpToDate]);
    lines
}

#[test]
fn gives_whole_lines_once() {
    let log = Log::new();
    let mut tail = log.tail();
    assert_eq!(read(&mut tail), (vec![], vec![News::Missing]));
    log.write("a\nb");
    assert_eq!(lines(&mut tail), ["a"]);
    assert_eq!(lines(&mut tail), [""; 0]);
    log.write("c\n\nd\n");
    assert_eq!(lines(&mut tail), ["bc", "", "d"]);
    assert_eq!(tail.behind(), 0);
    log.write("1234\n");
    assert_eq!(tail.behind(), 5);
}

#[test]
fn may_begin_at_the_end() {
    let log = Log::new();
    log.write("old\nhalf");
    let mut tail = Tail::new(&log.path(), None, Begin::End);
    assert_eq!(lines(&mut tail), [""; 0]);
    log.write(" done\nnew\n");
    assert_eq!(lines(&mut tail), ["half done", "new"]);
}

#[test]
fn a_renamed_file_is_read_to_its_end_before_the_new_one() {
    let log = Log::new();
    log.write("a\n");
    let mut tail = log.tail();
    assert_eq!(lines(&mut tail), ["a"]);
    log.write("b\nlast words");
    log.rotate("1", "c\n");
    assert_eq!(lines(&mut tail), ["b", "last words", "c"]);
    // Two in a row, and something compressed beside them.
    log.write("d\n");
    log.rotate("2", "e\n");
    log.rotate("3", "f\n");
    fs::write(log.folder.path().join("nats.log.0.gz"), "packed\n").unwrap();
    assert_eq!(lines(&mut tail), ["d", "e", "f"]);
    log.write("g\n");
    assert_eq!(lines(&mut tail), ["g"]);
}

#[test]
fn what_is_written_after_logrotate_made_the_new_file_is_not_lost() {
    let log = Log::new();
    log.write("a\n");
    let mut tail = log.tail();
    assert_eq!(lines(&mut tail), ["a"]);
    let mut server = File::options().append(true).open(log.path()).unwrap();
    log.rotate("1", "");
    assert_eq!(lines(&mut tail), [""; 0]);
    server.write_all(b"b\n").unwrap();
    assert_eq!(lines(&mut tail), ["b"]);
    server.write_all(b"c\n").unwrap();
    log.write("d\n");
    assert_eq!(lines(&mut tail), ["c", "d"]);
}

#[test]
fn a_file_that_is_cut_begins_anew() {
    let log = Log::new();
    log.write("a\nbb\n");
    let mut tail = log.tail();
    assert_eq!(lines(&mut tail), ["a", "bb"]);
    fs::copy(log.path(), log.folder.path().join("copy")).unwrap();
    File::options().write(true).open(log.path()).unwrap().set_len(0).unwrap();
    log.write("c\n");
    assert_eq!(read(&mut tail), (vec!["c".to_owned()], vec![News::Cut, News::UpToDate]));
    // Cut, and longer than before when it is looked at again.
    File::options().write(true).open(log.path()).unwrap().set_len(0).unwrap();
    log.write("other\nlines\n");
    let (found, news) = read(&mut tail);
    assert_eq!(
        (found.join(" "), news),
        ("other lines".to_owned(), vec![News::Cut, News::UpToDate])
    );
}

#[test]
fn goes_on_where_it_stopped() {
    let log = Log::new();
    log.write("a\nb\nhalf");
    let mut tail = log.tail();
    assert_eq!(lines(&mut tail), ["a", "b"]);
    let position = tail.position();
    log.write(" line\nc\n");
    assert_eq!(lines(&mut log.resume(position.clone())), ["half line", "c"]);
    // Renamed meanwhile, once and twice.
    log.rotate("1", "d\n");
    assert_eq!(lines(&mut log.resume(position.clone())), ["half line", "c", "d"]);
    log.rotate("2", "e\n");
    let mut tail = log.resume(position);
    assert_eq!(lines(&mut tail), ["half line", "c", "d", "e"]);
    assert_eq!(lines(&mut log.resume(tail.position())), [""; 0]);
}

#[test]
fn says_when_what_it_left_is_gone() {
    let log = Log::new();
    log.write("first\n");
    let mut tail = log.tail();
    assert_eq!(lines(&mut tail), ["first"]);
    let position = tail.position();
    // Another text in the same file.
    File::options().write(true).open(log.path()).unwrap().set_len(0).unwrap();
    log.write("other text\n");
    let found = read(&mut log.resume(position.clone()));
    assert_eq!(found, (vec!["other text".to_owned()], vec![News::Gone, News::UpToDate]));
    fs::remove_file(log.path()).unwrap();
    let mut waiting = log.resume(position);
    assert_eq!(read(&mut waiting).1, [News::Missing]);
    log.write("new\n");
    assert_eq!(read(&mut waiting), (vec!["new".to_owned()], vec![News::Gone, News::UpToDate]));
}

#[test]
fn a_removed_file_is_told_and_those_after_it_are_read() {
    let log = Log::new();
    log.write("old\n");
    log.rotate("1", "a\n");
    let mut tail = log.tail();
    assert_eq!(lines(&mut tail), ["a"]);
    log.write("b\n");
    log.rotate("2", "c\n");
    fs::remove_file(log.folder.path().join("nats.log.2")).unwrap();
    log.rotate("3", "d\n");
    let found = read(&mut tail);
    // What was there before it is not read again.
    let expected = ["b", "c", "d"].map(ToOwned::to_owned).to_vec();
    assert_eq!(found, (expected, vec![News::Gone, News::UpToDate]));
    assert_eq!(lines(&mut tail), [""; 0]);
}

#[test]
fn a_line_without_end_costs_no_memory() {
    let log = Log::new();
    let long = "x".repeat(MAX_LINE + 1);
    log.write(&format!("a\n{long}\n{}\n", "y".repeat(MAX_LINE)));
    let mut tail = log.tail();
    let found = lines(&mut tail);
    // An empty line stands for it.
    assert_eq!(found.iter().map(String::len).collect::<Vec<_>>(), [1, 0, MAX_LINE]);
    assert_eq!(tail.too_long(), 1);
    for _ in 0..40 {
        log.write(&"z".repeat(MAX_LINE));
        assert_eq!(lines(&mut tail), [""; 0]);
    }
    // A position in the middle of it is that of its beginning.
    let position = tail.position();
    log.write("\nend\n");
    assert_eq!(lines(&mut tail), ["", "end"]);
    let mut again = log.resume(position);
    assert_eq!(lines(&mut again), ["", "end"]);
    assert_eq!(tail.too_long(), 2);
}
