//! From results to `docs/sizing.md`: what so many connections need, by formulas whose inputs were
//! measured. A pure function, like [`crate::render`].

use std::fmt::Write as _;

use super::direct::count;
use super::render::{EVERY, cell, middle, number, ratio, thousands};
use super::results::{Beside, Direct, ListingRound, Listings, Report, Scale, ServedBy, median};
use crate::real_clients::Against;

/// For how long a connection stands, in seconds, with the default lifetime of permissions: an hour,
/// less the five minutes before whose end a sweep closes it (`docs/sessions.md`).
const STANDS: f64 = 55.0 * 60.0;
/// Deployments: connections and nats-servers.
const DEPLOYMENTS: [(f64, f64); 3] = [(1_000.0, 3.0), (100_000.0, 6.0), (1_000_000.0, 30.0)];
/// Within how many seconds all are to be back.
const BACK_WITHIN: [f64; 2] = [10.0, 60.0];
/// Sizes of policies, in services.
const SERVICES: [f64; 3] = [100.0, 10_000.0, 100_000.0];

/// What was measured, of which the rest is reckoned.
struct Inputs {
    /// CPU of an authorisation, sealed, in µs.
    authorisation: Option<f64>,
    /// CPU of nats-server for a connection that a callout decides, and for a static user, in µs.
    connection: Option<f64>,
    static_user: Option<f64>,
    /// CPU of nats-server for sealing, and for each subject of a grant, in µs.
    sealing: Option<f64>,
    subject: Option<f64>,
    /// Memory of an instance with hardly a service, and what each further one takes, in bytes.
    least: Option<f64>,
    service: Option<f64>,
    /// The most memory for each service until the whole policy is judged, in bytes.
    peak: Option<f64>,
    /// From start to ready for each service, in µs.
    start: Option<f64>,
    /// How many connections were listed, and what each took of nats-server and of who asked, in µs.
    listed: Option<f64>,
    listing: Option<f64>,
    asking: Option<f64>,
    /// How long the list took, in s.
    list: Option<f64>,
}

impl Inputs {
    fn of(report: &Report, beside: &Beside) -> Self {
        let (none, served) = (Listings::default(), beside.served.as_ref());
        let listings = beside.listings.as_ref().unwrap_or(&none);
        // The newest version is the last.
        let newest = served.and_then(|served| served.servers.last());
        let scale =
            |services| report.scale.iter().find(|s| s.services == services && s.subjects == 20);
        let (few, most) = (scale(10), scale(100_000));
        let more = few.zip(most).map(|(few, most)| number(most.services - few.services));
        let rss = |s: &Scale| count(s.rss_ready);
        let ready = |s: &Scale| median(s.start_up.iter().copied());
        let between = |of: &dyn Fn(&Scale) -> Option<f64>| {
            let (few, most) = (of(few?)?, of(most?)?);
            Some((most - few) / more?)
        };
        let server = |against| {
            let part = report.connect.iter().find(|part| part.against == against)?;
            median(part.closed.iter().filter_map(|run| run.server_cpu_us))
        };
        let peak = |least: f64| {
            let changes = beside.changes.as_ref().filter(|changes| changes.rss_peak > 0)?;
            ratio(Some(count(changes.rss_peak) - least), Some(number(changes.services)))
        };
        let listed = middle(&listings.rounds, |round| number(round.serve.connections));
        let each = |of: fn(&ListingRound) -> f64| {
            let micros = middle(&listings.rounds, of).map(|seconds| seconds * 1e6);
            ratio(micros, listed)
        };
        Self {
            authorisation: report.direct.iter().find(|d| d.sealed).and_then(Direct::cpu_us),
            connection: server(Against::Solewriter),
            static_user: server(Against::StaticUsers),
            sealing: newest.and_then(ServedBy::sealing),
            subject: newest.and_then(ServedBy::subject),
            least: few.map(rss),
            service: between(&|s| Some(rss(s))),
            peak: few.map(rss).and_then(peak),
            start: between(&ready).map(|seconds| seconds * 1e6),
            listed,
            listing: each(|round| round.serve.server_cpu),
            asking: each(|round| round.serve.own_cpu),
            list: middle(&listings.rounds, |round| round.serve.seconds),
        }
    }
}

/// Connections, nats-servers, and the same of each of these.
#[derive(Clone, Copy)]
struct Deployment {
    connections: f64,
    servers: f64,
}

impl Report {
    /// The page.
    #[must_use]
    pub fn sizing(&self, beside: &Beside) -> String {
        let inputs = Inputs::of(self, beside);
        let mut page = String::from(include_str!("sizing-head.txt"));
        inputs.table(&mut page);
        page.push_str(include_str!("sizing-formulas.txt"));
        inputs.deployments(&mut page);
        inputs.memory(&mut page);
        self.held_against_a_storm(&inputs, &mut page);
        page.push_str(include_str!("sizing-limits.txt"));
        page
    }

    /// The formula for a restart against one that was measured.
    fn held_against_a_storm(&self, inputs: &Inputs, page: &mut String) {
        let part = self.connect.iter().find(|part| part.against == Against::Solewriter);
        let clients = part.and_then(|p| middle(&p.storm, |storm| number(storm.clients)));
        let found = part.and_then(|p| middle(&p.storm, |storm| storm.seconds));
        let generator =
            part.and_then(|p| median(p.closed.iter().filter_map(|run| run.generator_cpu_us)));
        let service =
            part.and_then(|p| median(p.closed.iter().filter_map(|run| run.service_cpu_us)));
        let reckoned = clients.and_then(|clients| {
            let each = inputs.connection? + service? + generator?;
            ratio(Some(clients * each / 1e6), Some(number(self.machine.processors)))
        });
        let _ = writeln!(
            page,
            "\n## Held against what was measured\n\n\
             Server, clients and one instance shared {} processors; {} clients came back at once. By the formula, with what \
             the clients took themselves: {} s. Measured: {} s, {} times as long.",
            self.machine.processors,
            cell(clients),
            cell(reckoned),
            cell(found),
            cell(ratio(found, reckoned)),
        );
    }
}

impl Inputs {
    fn table(&self, page: &mut String) {
        let kilobytes = self.service.map(|bytes| bytes / 1e3);
        let megabytes = self.least.map(|bytes| bytes / 1e6);
        let rows = [
            ("a", "CPU of an authorisation, sealed", self.authorisation, "µs", "direct, sealed"),
            (
                "s",
                "CPU of nats-server for a connection that a callout decides",
                self.connection,
                "µs",
                "connect",
            ),
            (
                "",
                "the same for a static user: what you pay without a callout",
                self.static_user,
                "µs",
                "connect",
            ),
            ("x", "of `s`, for requests and answers that are sealed", self.sealing, "µs", "served"),
            ("g", "CPU of nats-server for each subject of a grant", self.subject, "µs", "served"),
            ("m", "memory of an instance, with 10 services", megabytes, "MB", "scale"),
            ("p", "memory for each further service", kilobytes, "kB", "scale"),
            (
                "q",
                "the same at most, until the whole policy is judged",
                self.peak.map(|bytes| bytes / 1e3),
                "kB",
                "change",
            ),
            ("r", "from start to ready, for each service", self.start, "µs", "scale"),
            ("l", "CPU of nats-server to list a connection", self.listing, "µs", "listing"),
            ("k", "CPU of the instance that has it listed", self.asking, "µs", "listing"),
        ];
        for (letter, what, figure, unit, part) in rows {
            let _ = writeln!(page, "| {letter} | {what} | {} {unit} | {part} |", cell(figure));
        }
        let _ = writeln!(
            page,
            "\n`l` and `k` come from a server with {} connections, of which a list took {} s.",
            cell(self.listed),
            cell(self.list)
        );
    }

    fn deployments(&self, page: &mut String) {
        type Reckon = Box<dyn Fn(Deployment) -> Option<f64>>;
        let cores = |micros: Option<f64>, seconds: f64| -> Reckon {
            Box::new(move |d| Some(d.connections * micros? / 1e6 / seconds))
        };
        let mut rows: Vec<(String, Reckon)> = vec![
            ("connections on each server".into(), Box::new(|d| Some(d.connections / d.servers))),
            (
                "logins a second while nothing happens: N / 3,300".into(),
                Box::new(|d| Some(d.connections / STANDS)),
            ),
            (
                "processors of all instances for that: N a / 3,300".into(),
                cores(self.authorisation, STANDS),
            ),
            (
                "processors of all servers for that: N s / 3,300".into(),
                cores(self.connection, STANDS),
            ),
            (
                "processors of all servers for looks at all connections: N l / 30".into(),
                cores(self.listing, EVERY),
            ),
            ("processors of the instance that looks: N k / 30".into(), cores(self.asking, EVERY)),
        ];
        for seconds in BACK_WITHIN {
            let back = format!(
                "all servers restart, all clients back within {seconds:.0} s: processors of"
            );
            rows.push((
                format!("{back} all instances, N a / {seconds:.0}"),
                cores(self.authorisation, seconds),
            ));
            rows.push((
                format!("{back} all servers, N s / {seconds:.0}"),
                cores(self.connection, seconds),
            ));
        }
        for (text, reckon) in rows {
            let _ = write!(page, "| {text} |");
            for (connections, servers) in DEPLOYMENTS {
                let _ = write!(page, " {} |", cell(reckon(Deployment { connections, servers })));
            }
            page.push('\n');
        }
    }

    fn memory(&self, page: &mut String) {
        page.push_str(
            "\n## Memory and start, of each instance\n\n\
             | services | memory when ready, MB: m + p n | and at most, MB: m + q n | from start to ready, s: r n |\n\
             | --- | --- | --- | --- |\n",
        );
        for services in SERVICES {
            let memory = |each: Option<f64>| {
                self.least.zip(each).map(|(m, each)| (m + each * services) / 1e6)
            };
            let start = self.start.map(|micros| micros * services / 1e6);
            let _ = writeln!(
                page,
                "| {} | {} | {} | {} |",
                thousands(services),
                cell(memory(self.service)),
                cell(memory(self.peak)),
                cell(start)
            );
        }
    }
}
