//! The load tool: what an authorisation costs, how many there are in a second, how long they take.
//!
//! [`direct`] plays nats-server ([`fake_server`]) towards a real `serve` process over TCP, so that
//! the service is measured with its messaging and without a server's costs. [`real_clients`] puts
//! real clients on a real nats-server. [`report`] runs the whole comparison and writes
//! `docs/performance.md` ([`render`]); [`soak`] watches half the load for long; [`streams`]
//! measures messages, not connections, [`listing`] what a look at open connections costs, and [`served`]
//! what a connection costs nats-server by what the answer says. [`sweeps`] shows what very many open
//! connections cost `serve`, and how fast a change reaches some ([`simulated`] has them). [`sizing`]
//! reckons from all of it what so many connections need. Nothing here has a part in deciding or issuing: a production build leaves it out. Unix only.

pub mod ceiling;
pub mod change;
pub mod cleanup;
pub mod cli;
pub mod crypto;
pub mod direct;
pub mod fake_server;
pub mod fixture_policy;
pub mod latency;
pub mod listing;
pub mod plot;
pub mod real_clients;
pub mod render;
pub mod report;
pub mod request;
pub mod results;
pub mod served;
pub mod simulated;
pub mod sizing;
pub mod soak;
pub mod streams;
pub mod sweeps;
pub mod testbed;

/// What went wrong in a run, in words.
pub type Error = Box<dyn std::error::Error + Send + Sync>;

/// Puts a text in the place of a file at once, so that nobody reads half of it.
///
/// # Errors
/// When the file system says no.
pub fn replace_file(file: &std::path::Path, text: &str) -> std::io::Result<()> {
    let aside = file.with_extension("new");
    std::fs::write(&aside, text)?;
    std::fs::rename(&aside, file)
}

/// Tells on stderr how far a long run is, so that stdout keeps to the figures.
#[allow(clippy::print_stderr)]
pub fn progress(line: &str) {
    eprintln!("{line}");
}
