//! One line from a socket, in bounded time and memory.

use std::io::{Error, ErrorKind, Read, Result, Write};
use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};

/// How much is read at once.
const PIECE: usize = 16 * 1024;

/// Reads a line of at most `most` bytes, without its end. It begins within `begins`, and from then on
/// takes at most `takes`. `None` when the other end closed the connection before it began.
pub(super) fn read(
    mut stream: &UnixStream,
    most: usize,
    begins: Duration,
    takes: Duration,
) -> Result<Option<Vec<u8>>> {
    let mut line = Vec::new();
    let mut deadline = Instant::now() + begins;
    let mut piece = [0; PIECE];
    loop {
        stream.set_read_timeout(Some(left(deadline)?))?;
        let count = match stream.read(&mut piece) {
            Ok(0) if line.is_empty() => return Ok(None),
            Ok(0) => return Err(ErrorKind::UnexpectedEof.into()),
            Ok(count) => count,
            Err(error) if error.kind() == ErrorKind::Interrupted => continue,
            Err(error) if error.kind() == ErrorKind::WouldBlock => {
                return Err(ErrorKind::TimedOut.into());
            }
            Err(error) => return Err(error),
        };
        if line.is_empty() {
            deadline = Instant::now() + takes;
        }
        let piece = piece.get(..count).unwrap_or_default();
        line.extend_from_slice(piece);
        // Only the end may be new: nobody sends the next question before he has the answer.
        if piece.contains(&b'\n') {
            if !line.ends_with(b"\n") || line.len() - 1 > most {
                return Err(Error::new(ErrorKind::InvalidData, "not one line"));
            }
            line.pop();
            return Ok(Some(line));
        }
        if line.len() > most {
            return Err(Error::new(ErrorKind::InvalidData, "a line that is too long"));
        }
    }
}

/// Writes a line within that time.
pub(super) fn write(mut stream: &UnixStream, mut line: Vec<u8>, within: Duration) -> Result<()> {
    line.push(b'\n');
    let deadline = Instant::now() + within;
    let mut rest = &line[..];
    while !rest.is_empty() {
        stream.set_write_timeout(Some(left(deadline)?))?;
        match stream.write(rest) {
            Ok(0) => return Err(ErrorKind::WriteZero.into()),
            Ok(count) => rest = rest.get(count..).unwrap_or_default(),
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            Err(error) if error.kind() == ErrorKind::WouldBlock => {
                return Err(ErrorKind::TimedOut.into());
            }
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

fn left(deadline: Instant) -> Result<Duration> {
    let left = deadline.saturating_duration_since(Instant::now());
    if left.is_zero() { Err(ErrorKind::TimedOut.into()) } else { Ok(left) }
}
