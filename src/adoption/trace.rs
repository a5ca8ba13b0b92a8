//! nats-server's trace (`trace: true`, or `-V`): lines in, [`Deed`]s out.
//!
//! The trace has every protocol line of every client, in every language and over TLS. A connection
//! is known by its CONNECT, and from 2.12 on by each of its lines; of one that was there before the
//! trace began, an older server tells only the address.
//!
//! What clients say is theirs, and untrusted: `line` says why nobody can say a line of another. What
//! is not understood is counted. Payloads and headers are not looked at; passwords, tokens and
//! signatures in a CONNECT, which older servers do not all redact, are not kept.
//!
//! Nothing is allocated for a line of a connection that is known, and memory is bounded.

mod clients;
mod line;

use clients::Clients;
use line::{Line, Said, Traced, parse};

use super::deed::Deed;

/// The most connections that are known at a time. After that, those that were closed are forgotten,
/// and then those that were silent for longest: without the names of 2.12, whoever speaks again
/// after that is a stranger.
pub const MAX_CONNECTIONS: usize = 65_536;

/// How much of a stream is not believed after a line of an MQTT client, in bytes. The server writes
/// topics as they come, with line breaks; what comes next may be such a client's words, for as long
/// as its largest packet is (nats-server's default `max_payload`).
pub const DOUBTED: u64 = 1024 * 1024;

/// What was read.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// All lines.
    pub lines: u64,
    /// Things that clients did.
    pub deeds: u64,
    /// Lines that look like a trace and are not understood.
    pub strange: u64,
    /// Lines that may be an MQTT client's words, and were not believed.
    pub doubted: u64,
    /// Connections that did anything.
    pub connections: u64,
    /// Those of them without a CONNECT, named by the server.
    pub without_connect: u64,
    /// Those of them without a CONNECT of which only the address is known.
    pub unknown: u64,
    /// Connections that were forgotten for want of room.
    pub forgotten: u64,
}

/// Reads the traces of any number of servers.
#[derive(Default)]
pub struct Trace {
    clients: Clients,
    counts: Counts,
    /// Of each source, how many of the next bytes are not believed.
    doubt: Vec<u64>,
}

impl Trace {
    /// Nothing read.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Another stream of lines: a server's file with those it was renamed to, or standard input.
    pub fn source(&mut self) -> Source {
        self.doubt.push(0);
        Source(self.doubt.len() - 1)
    }

    /// What was read so far.
    #[must_use]
    pub fn counts(&self) -> Counts {
        Counts { forgotten: self.clients.evicted, ..self.counts }
    }

    /// Takes a line, without its line break, and gives what it tells.
    pub fn line(&mut self, source: Source, line: &[u8], deed: impl FnOnce(Deed<'_>)) {
        self.counts.lines += 1;
        if let Some(doubt @ 1..) = self.doubt.get_mut(source.0) {
            *doubt = doubt.saturating_sub(line.len() as u64 + 1);
            let is_loose = match parse(line) {
                Line::Loose => true,
                Line::Traced(_) => {
                    self.counts.doubted += 1;
                    false
                }
                // A line that was too long is given as an empty one.
                _ => line.is_empty(),
            };
            if is_loose {
                *doubt = DOUBTED;
            }
            return;
        }
        match parse(line) {
            Line::Traced(traced) => self.traced(source, &traced, deed),
            Line::Started(process) => self.clients.restarted(source.0, process),
            Line::Strange => self.counts.strange += 1,
            Line::Loose => {
                if let Some(doubt) = self.doubt.get_mut(source.0) {
                    *doubt = DOUBTED;
                }
            }
            Line::Other => {}
        }
    }

    fn traced(&mut self, source: Source, line: &Traced<'_>, deed: impl FnOnce(Deed<'_>)) {
        let known = self.clients.of(source.0, line);
        let act = match line.said {
            Said::Did(act) => act,
            Said::Connect(json) => {
                if known.connect(json).is_none() {
                    self.counts.strange += 1;
                }
                return;
            }
            Said::Closed => return known.close(),
            Said::Nothing => return,
        };
        if !known.acted {
            known.acted = true;
            self.counts.connections += 1;
            if !known.is_known() {
                self.counts.unknown += 1;
            } else if !known.connected {
                self.counts.without_connect += 1;
            }
        }
        self.counts.deeds += 1;
        deed(Deed { by: &known.client, at: line.at, act });
    }
}

/// A stream of lines.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Source(usize);

#[cfg(test)]
mod tests;
