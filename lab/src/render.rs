//! From results to `docs/performance.md` and its plots. A pure function: a test makes the page anew
//! from the results that are kept, so that no number in it can come from anywhere else.

use std::fmt::Write as _;

use super::direct;
use super::plot::{Axis, Plot, Series};
use super::request::Kind;
use super::results::{
    BESIDE_CHANGES, BESIDE_NOTHING, Beside, Change, ChangeRound, Changes, Connect, Direct,
    ListingRound, Listings, Machine, Place, Report, Sample, Scale, Served, ServedBy, Soak,
    StreamRound, Streams, Sweeps, median, paired,
};
use crate::real_clients::Against;

/// A file of the page: its name under `docs/`, and its text.
pub type Page = (String, String);

/// Given with the goals, and not measured here: a callout on callout.go with four handlers, on a
/// machine of the same kind. Microseconds of CPU for each authorisation, plain and sealed.
const GIVEN_GO: [f64; 2] = [544.0, 881.0];
/// Given likewise: connections per second through nats-server with callout.go, at 64.
const GIVEN_GO_CONNECTIONS: f64 = 1_000.0;

/// A count, as a figure.
pub(super) fn number(count: usize) -> f64 {
    direct::count(count.try_into().unwrap_or(u64::MAX))
}

/// What was to be reached, and whether it was.
pub struct Goal {
    /// In words.
    pub goal: String,
    /// What was found.
    pub found: String,
    /// Whether that is enough; `None` when nothing was found.
    pub met: Option<bool>,
    /// Whether what it is compared with was measured in the same run.
    pub same_run: bool,
}

fn goal(goal: &str, found: Option<f64>, unit: &str, met: impl Fn(f64) -> bool) -> Goal {
    Goal {
        goal: goal.to_owned(),
        found: found.map_or_else(|| "not measured".to_owned(), |f| format!("{}{unit}", short(f))),
        met: found.map(met),
        same_run: true,
    }
}

/// A number with as many digits as mean something.
fn short(value: f64) -> String {
    if value.abs() >= 100.0 { thousands(value) } else { format!("{value:.2}") }
}

pub(super) fn thousands(value: f64) -> String {
    let digits = format!("{value:.0}");
    let mut text = String::new();
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index) % 3 == 0 && digit.is_ascii_digit() {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

fn megabytes(bytes: u64) -> String {
    format!("{:.1} MB", direct::count(bytes) / 1e6)
}

pub(super) fn middle<T>(outcomes: &[T], value: impl Fn(&T) -> f64) -> Option<f64> {
    median(outcomes.iter().map(value))
}

fn optional<T>(outcomes: &[T], value: impl Fn(&T) -> Option<f64>) -> Option<f64> {
    median(outcomes.iter().filter_map(value))
}

pub(super) fn ratio(above: Option<f64>, below: Option<f64>) -> Option<f64> {
    above.zip(below).filter(|(_, below)| *below > 0.0).map(|(above, below)| above / below)
}

pub(super) fn cell(value: Option<f64>) -> String {
    value.map_or_else(|| "-".to_owned(), short)
}

/// What was to be reached by one run, and whether it was.
fn table_of(goals: &[Goal], page: &mut String) {
    page.push_str("\n| goal | found | met |\n| --- | --- | --- |\n");
    for Goal { goal, found, met, .. } in goals {
        let met = met.map_or("not measured", |met| if met { "yes" } else { "**no**" });
        let _ = writeln!(page, "| {goal} | {found} | {met} |");
    }
}

impl Report {
    fn part(&self, sealed: bool) -> Option<&Direct> {
        self.direct.iter().find(|part| part.sealed == sealed)
    }

    fn against(&self, against: Against) -> Option<&Connect> {
        self.connect.iter().find(|part| part.against == against)
    }

    /// The least that is answered, as a part of the most, or of what is offered where that is less.
    fn worst_goodput(&self) -> Option<f64> {
        let rates = || self.goodput.iter().map(|point| point.outcome.per_second);
        let peak = rates().fold(0.0, f64::max);
        let parts = self.goodput.iter().filter(|point| point.times >= 1.0).filter_map(|point| {
            let outcome = &point.outcome;
            let offered = ratio(Some(direct::count(outcome.sent)), Some(outcome.seconds))?;
            ratio(Some(outcome.per_second), Some(offered.min(peak)))
        });
        parts.reduce(f64::min)
    }

    /// Every goal, in the order of the page.
    #[must_use]
    pub fn goals(&self) -> Vec<Goal> {
        let mut goals = Vec::new();
        for (sealed, given, part_of_go, most) in [(false, 0, 0.30, 1.15), (true, 1, 0.22, 1.18)] {
            let part = self.part(sealed);
            let name = if sealed { "sealed" } else { "plain" };
            let cpu = part.and_then(Direct::cpu_us);
            let crypto = part.and_then(Direct::crypto);
            let sealing = part.map(|part| part.sealing_us);
            let contained = crypto.zip(sealing).map(|(crypto, sealing)| crypto + sealing);
            goals.push(goal(
                &format!(
                    "CPU per authorisation at most {most} times the cryptography that it contains, {name}"
                ),
                ratio(cpu, contained),
                " times",
                |times| times <= most,
            ));
            let go = GIVEN_GO.get(given).copied();
            goals.push(Goal {
                same_run: false,
                ..goal(
                    &format!("at most {part_of_go} of the CPU given for callout.go with four handlers, {name}"),
                    ratio(cpu, go),
                    " times",
                    |times| times <= part_of_go,
                )
            });
        }
        let rate = [false, true].map(|sealed| self.part(sealed).and_then(Direct::per_second));
        let slower = rate.iter().flatten().copied().reduce(f64::min);
        goals.push(goal(
            "at least 10,000/s, 64 in flight, plain and sealed",
            slower,
            "/s",
            |rate| rate >= 10_000.0,
        ));
        let tails = self.direct.iter();
        let tails = tails.filter_map(|part| middle(&part.half, |o| o.latency.p99_ms));
        let apart = self.goodput.iter().find(|point| point.times <= 0.5);
        goals.push(goal(
            "p99 at half of the maximum rate under 5 ms, the generator on processors of its own",
            apart.map(|point| point.outcome.latency.p99_ms),
            " ms",
            |ms| ms < 5.0,
        ));
        goals.push(goal(
            "the same with the generator sharing all processors",
            tails.reduce(f64::max),
            " ms",
            |ms| ms < 5.0,
        ));
        goals.extend(self.connect_goals());
        let misused = |kind| self.misuse.iter().find(|m| m.kind == kind);
        let cost = |kind| misused(kind).and_then(|m| median(m.cpu_us.iter().copied()));
        let refused = [Kind::UnknownKey, Kind::BadSignature, Kind::Forged].map(cost);
        let dearest = refused.iter().flatten().copied().reduce(f64::max);
        goals.push(goal(
            "a refusal costs no more than a grant",
            ratio(dearest, cost(Kind::Good)),
            " times",
            |times| times <= 1.0,
        ));
        goals.push(goal(
            "goodput never below 92% of its peak, up to 4 times the capacity",
            self.worst_goodput().map(|part| part * 100.0),
            "%",
            |percent| percent >= 92.0,
        ));
        let beside = |what| self.isolation.iter().find(|part| part.beside == what);
        let p99 = |what| beside(what).map(|part| part.outcome.latency.p99_ms);
        goals.push(goal(
            "p99 at half of the maximum rate while the policy changes at most 1.5 times that while it does not",
            ratio(p99(BESIDE_CHANGES), p99(BESIDE_NOTHING)),
            " times",
            |times| times <= 1.5,
        ));
        goals.extend(self.scale_goals());
        goals
    }

    fn connect_goals(&self) -> Vec<Goal> {
        let [ours, ceiling, floor] = [Against::Solewriter, Against::Ceiling, Against::StaticUsers]
            .map(|against| self.against(against));
        let rate = |part: Option<&Connect>| part.and_then(|p| middle(&p.closed, |o| o.per_second));
        let apart = |part: Option<&Connect>| part.and_then(|p| middle(&p.apart, |o| o.per_second));
        let p50 = |part: Option<&Connect>| part.and_then(|p| middle(&p.open, |o| o.latency.p50_ms));
        let storm = |part: Option<&Connect>| part.and_then(|p| middle(&p.storm, |s| s.seconds));
        vec![
            Goal {
                same_run: false,
                ..goal(
                    "through nats-server: at least 1.4 times the connections/s given for callout.go",
                    ratio(rate(ours), Some(GIVEN_GO_CONNECTIONS)),
                    " times",
                    |times| times >= 1.4,
                )
            },
            goal(
                "at least 95% of the connections/s of a callout that only signs a fixed grant, each on \
                 processors of its own",
                ratio(apart(ours), apart(ceiling)).map(|part| part * 100.0),
                "%",
                |percent| percent >= 95.0,
            ),
            goal(
                "the same with server, clients and callout sharing all processors",
                ratio(rate(ours), rate(ceiling)).map(|part| part * 100.0),
                "%",
                |percent| percent >= 95.0,
            ),
            goal(
                "median latency at 500 connections/s at most 1.8 times that of static nkey users",
                ratio(p50(ours), p50(floor)),
                " times",
                |times| times <= 1.8,
            ),
            goal(
                "a storm is over in at most 1.10 times the time with a callout that only signs",
                ratio(storm(ours), storm(ceiling)),
                " times",
                |times| times <= 1.10,
            ),
        ]
    }

    fn scale_goals(&self) -> Vec<Goal> {
        let usual = || self.scale.iter().filter(|part| part.subjects == 20);
        let cpu = |part: &Scale| optional(&part.many, |o| o.service_cpu_us);
        let (few, most) = (usual().min_by_key(|p| p.services), usual().max_by_key(|p| p.services));
        let start = usual().find(|part| part.services == 10_000);
        vec![
            goal(
                "an authorisation in the largest policy costs what it does in the smallest (within 10%)",
                ratio(most.and_then(cpu), few.and_then(cpu)),
                " times",
                |times| times <= 1.1,
            ),
            goal(
                "ready in under a second with 10,000 services",
                start.and_then(|part| median(part.start_up.iter().copied())),
                " s",
                |seconds| seconds < 1.0,
            ),
        ]
    }

    /// The page and its plots.
    #[must_use]
    pub fn pages(&self, beside: &Beside) -> Vec<Page> {
        let mut page = String::from(include_str!("performance-head.md"));
        machine(&mut page, &self.machine);
        let _ = writeln!(
            page,
            "Measured on {} in {:.0} minutes; the machine's load average before was {:.1}.\n",
            self.date,
            self.seconds / 60.0,
            self.load_before
        );
        page.push_str("## The goals\n\n| goal | found | met |\n| --- | --- | --- |\n");
        for Goal { goal, found, met, same_run } in self.goals() {
            let met = met.map_or("not measured", |met| if met { "yes" } else { "**no**" });
            let note =
                if same_run { "" } else { " (the other figure is given, not from this run)" };
            let _ = writeln!(page, "| {goal} | {found}{note} | {met} |");
        }
        let mut pages = Vec::new();
        self.direct_part(&mut page, &mut pages);
        self.goodput_part(&mut page, &mut pages);
        self.connect_part(&mut page, &mut pages);
        self.scale_part(&mut page, &mut pages);
        self.misuse_part(&mut page);
        if let Some(changes) = &beside.changes {
            changes.part(&mut page);
        }
        if let Some(streams) = &beside.streams {
            streams.part(&mut page);
        }
        if let Some(listings) = &beside.listings {
            listings.part(&mut page);
        }
        if let Some(sweeps) = &beside.sweeps {
            sweeps.part(beside.listings.as_ref(), &mut page);
        }
        if let Some(served) = &beside.served {
            served.part(&mut page);
        }
        if let Some(soak) = &beside.soak {
            soak.part(&mut page, &mut pages);
        }
        pages.insert(0, ("performance.md".to_owned(), page));
        pages
    }

    fn direct_part(&self, page: &mut String, pages: &mut Vec<Page>) {
        page.push_str(
            "\n## Straight to the service\n\n\
             | requests | CPU each, µs | cryptography alone, µs | times | answers/s, 64 in flight | \
             p50 / p99, 1 in flight, ms | p50 / p99 at half the maximum, ms | answer, bytes |\n\
             | --- | --- | --- | --- | --- | --- | --- | --- |\n",
        );
        let mut series = Vec::new();
        for part in &self.direct {
            let name = if part.sealed { "sealed" } else { "plain" };
            let crypto = part.crypto().map(|crypto| crypto + part.sealing_us);
            let _ = writeln!(
                page,
                "| {name} | {} | {} | {} | {} | {} / {} | {} / {} | {} |",
                cell(part.cpu_us()),
                cell(crypto),
                cell(ratio(part.cpu_us(), crypto)),
                cell(part.per_second()),
                cell(middle(&part.one, |o| o.latency.p50_ms)),
                cell(middle(&part.one, |o| o.latency.p99_ms)),
                cell(middle(&part.half, |o| o.latency.p50_ms)),
                cell(middle(&part.half, |o| o.latency.p99_ms)),
                thousands(direct::count(u64::try_from(part.answer_bytes).unwrap_or_default())),
            );
            if let Some(outcome) = part.half.last() {
                series.push(Series { name: name.to_owned(), points: tail(&outcome.latency.curve) });
            }
        }
        let plot = Plot {
            title: "Latency at half of the maximum rate, open loop",
            x: ("one in so many is slower", Axis::Logarithmic),
            y: ("ms", Axis::Logarithmic),
            series,
        };
        pages.push(("performance/latency.svg".to_owned(), plot.svg()));
        page.push_str("\n![Latency distribution](performance/latency.svg)\n");
        page.push_str(
            "\nBeside neighbours that must not matter, sealed, at half of the maximum:\n\n",
        );
        page.push_str(
            "| beside | p50, ms | p99, ms | answered late |\n| --- | --- | --- | --- |\n",
        );
        for part in &self.isolation {
            let latency = &part.outcome.latency;
            let (p50, p99) = (short(latency.p50_ms), short(latency.p99_ms));
            let _ = writeln!(page, "| {} | {p50} | {p99} | {} |", part.beside, part.outcome.late);
        }
        page.push_str(
            "\n| instances | CPU each, µs | answers/s, 64 in flight |\n| --- | --- | --- |\n",
        );
        for part in &self.instances {
            let cpu = cell(optional(&part.rounds, |o| o.service_cpu_us));
            let rate = cell(middle(&part.rounds, |o| o.per_second));
            let _ = writeln!(page, "| {} | {cpu} | {rate} |", part.instances);
        }
        page.push_str(
            "\nInstances share nothing but the queue group, so what an authorisation costs is what \
             tells whether two do twice the work of one: on machines of their own they do when the \
             CPU for each stays the same. On one machine with as many processors as one instance \
             fills, the rate cannot double.\n",
        );
    }

    fn goodput_part(&self, page: &mut String, pages: &mut Vec<Page>) {
        page.push_str(
            "\n## More than it can carry\n\nAnswers in time (10 s, as long as nats-server waits in `deploy/nats-server.conf`) \
             where more and more is offered. The service has one half of the processors and the generator \
             the other, so that what is offered takes nothing from what is answered",
        );
        let _ = write!(page, ": there it carries {}/s.\n\n", short(self.goodput_capacity));
        page.push_str(
            "\
             | offered, times the capacity | offered/s | answered in time/s | late | p99, ms |\n\
             | --- | --- | --- | --- | --- |\n",
        );
        let offered = |o: &direct::Outcome| ratio(Some(direct::count(o.sent)), Some(o.seconds));
        for point in &self.goodput {
            let outcome = &point.outcome;
            let _ = writeln!(
                page,
                "| {} | {} | {} | {} | {} |",
                point.times,
                cell(offered(outcome)),
                short(outcome.per_second),
                outcome.late,
                short(outcome.latency.p99_ms)
            );
        }
        let line = |name: &str, value: &dyn Fn(&direct::Outcome) -> f64| Series {
            name: name.to_owned(),
            points: self.goodput.iter().map(|p| (p.times, value(&p.outcome))).collect(),
        };
        let plot = Plot {
            title: "Goodput",
            x: ("offered, times the capacity", Axis::Linear),
            y: ("per second", Axis::Linear),
            series: vec![
                line("answered in time", &|o| o.per_second),
                line("offered", &|o| offered(o).unwrap_or_default()),
            ],
        };
        pages.push(("performance/goodput.svg".to_owned(), plot.svg()));
        page.push_str("\n![Goodput curve](performance/goodput.svg)\n");
    }

    fn connect_part(&self, page: &mut String, pages: &mut Vec<Page>) {
        page.push_str(
            "\n## Real clients through a real nats-server\n\n\
             | who decides | connections/s at 64 | CPU each, µs: server | callout | the callout on \
             processors of its own | p50 / p99 at 500/s, ms \
             | all back after a storm, s | attempts that failed in it | refused twice in a row |\n\
             | --- | --- | --- | --- | --- | --- | --- | --- | --- |\n",
        );
        let mut series = Vec::new();
        for part in &self.connect {
            let name = match part.against {
                Against::Solewriter => "solewriter",
                Against::Ceiling => "a callout that only signs a fixed grant",
                Against::StaticUsers => "nobody: static nkey users",
            };
            let _ = writeln!(
                page,
                "| {name} | {} | {} | {} | {} | {} / {} | {} | {} | {} |",
                cell(middle(&part.closed, |o| o.per_second)),
                cell(optional(&part.closed, |o| o.server_cpu_us)),
                cell(optional(&part.closed, |o| o.service_cpu_us)),
                cell(middle(&part.apart, |o| o.per_second)),
                cell(middle(&part.open, |o| o.latency.p50_ms)),
                cell(middle(&part.open, |o| o.latency.p99_ms)),
                cell(middle(&part.storm, |s| s.seconds)),
                cell(middle(&part.storm, |s| direct::count(s.retries))),
                cell(middle(&part.storm, |s| direct::count(s.gave_up))),
            );
            if let Some(outcome) = part.open.last() {
                series.push(Series { name: name.to_owned(), points: tail(&outcome.latency.curve) });
            }
        }
        let storm = self.connect.iter().flat_map(|part| &part.storm).map(|s| s.clients).max();
        let _ = writeln!(
            page,
            "\nThe storm: {} clients stand, the server is restarted, and all connect at once. Who \
             fails tries again after 2 to 2.1 s, as nats.go does.",
            storm.map_or_else(|| "no".to_owned(), |n| n.to_string())
        );
        page.push_str(
            "\nWhere server, clients and callout share processors that are all busy, whatever the \
             callout computes is taken from the server, and a callout that verifies cannot come up to \
             one that does not. On processors of its own (one half of them; the server and its clients \
             have the other), what counts is whether the server ever waits for it.\n",
        );
        let plot = Plot {
            title: "Latency of connections at 500 a second, open loop",
            x: ("one in so many is slower", Axis::Logarithmic),
            y: ("ms", Axis::Logarithmic),
            series,
        };
        pages.push(("performance/connections.svg".to_owned(), plot.svg()));
        page.push_str("\n![Latency of connections](performance/connections.svg)\n");
        page.push_str(
            "\nGiven with the goals and not measured in this run, on a machine of the same kind: \
             callout.go 1,000 connections/s at 64, 1,050 µs of the server's CPU each, p50 / p99 5.4 / \
             29 ms at 500/s; static users 3,110/s, 490 µs, 1.3 / 13 ms.\n",
        );
    }

    fn scale_part(&self, page: &mut String, pages: &mut Vec<Page>) {
        page.push_str(
            "\n## Small and large\n\n\
             | services | subjects in a grant | policy | from start to ready, s | memory when ready | \
             after answering clients | bytes a service | CPU each, µs | cryptography, µs | p50, 1 in flight, ms |\n\
             | --- | --- | --- | --- | --- | --- | --- | --- | --- | --- |\n",
        );
        let smallest = self.scale.iter().filter(|p| p.subjects == 20).min_by_key(|p| p.services);
        for part in &self.scale {
            let more = smallest.filter(|s| s.services < part.services).map(|smallest| {
                let services = part.services - smallest.services;
                let bytes = part.rss_ready.saturating_sub(smallest.rss_ready);
                direct::count(bytes) / direct::count(u64::try_from(services).unwrap_or(1))
            });
            let size = direct::count(u64::try_from(part.policy_bytes).unwrap_or_default());
            let _ = writeln!(
                page,
                "| {} | {} | {:.2} MB | {} | {} | {} ({} clients) | {} | {} | {} | {} |",
                thousands(direct::count(u64::try_from(part.services).unwrap_or_default())),
                part.subjects,
                size / 1e6,
                cell(median(part.start_up.iter().copied())),
                megabytes(part.rss_ready),
                megabytes(part.rss_after),
                thousands(direct::count(u64::try_from(part.clients).unwrap_or_default())),
                cell(more),
                cell(optional(&part.many, |o| o.service_cpu_us)),
                short(part.crypto_us),
                cell(middle(&part.one, |o| o.latency.p50_ms)),
            );
        }
        let of = |name: &str, value: &dyn Fn(&Scale) -> Option<f64>| Series {
            name: name.to_owned(),
            points: (self.scale.iter().filter(|part| part.subjects == 20))
                .filter_map(|part| {
                    let services = u64::try_from(part.services).unwrap_or_default();
                    Some((direct::count(services), value(part)?))
                })
                .collect(),
        };
        let plot = Plot {
            title: "What a larger policy costs",
            x: ("services", Axis::Logarithmic),
            y: ("see the legend", Axis::Logarithmic),
            series: vec![
                of("CPU each, us", &|part| optional(&part.many, |o| o.service_cpu_us)),
                of("memory when ready, MB", &|part| Some(direct::count(part.rss_ready) / 1e6)),
                of("start-up, s", &|part| median(part.start_up.iter().copied())),
            ],
        };
        pages.push(("performance/scale.svg".to_owned(), plot.svg()));
        page.push_str("\n![Scale](performance/scale.svg)\n");
    }

    fn misuse_part(&self, page: &mut String) {
        page.push_str(
            "\n## What is refused\n\nAt half of the maximum rate, sealed. Forged requests, which no \
             server signed, get no answer.\n\n| requests | CPU each, µs |\n| --- | --- |\n",
        );
        for part in &self.misuse {
            let name = match part.kind {
                Kind::Good => "granted",
                Kind::UnknownKey => "a key that no service has",
                Kind::BadSignature => "a signature by another key",
                Kind::Forged => "signed by no server",
            };
            let _ = writeln!(page, "| {name} | {} |", cell(median(part.cpu_us.iter().copied())));
        }
    }
}

/// From quantiles to "one in so many is slower", which shows the tail.
fn tail(curve: &[(f64, f64)]) -> Vec<(f64, f64)> {
    let slower = curve.iter().filter(|(quantile, _)| *quantile < 1.0);
    slower.map(|(quantile, ms)| (1.0 / (1.0 - quantile), *ms)).collect()
}

fn machine(page: &mut String, machine: &Machine) {
    let build = if machine.release { "release" } else { "debug" };
    let _ = writeln!(
        page,
        "{} processors ({}), {} of memory, {}; solewriter {} ({build} build), nats-server {}. The \
         generators run on the same machine, on loopback.",
        machine.processors,
        machine.processor,
        megabytes(machine.memory),
        machine.system,
        machine.solewriter,
        machine.nats_server
    );
}

impl Soak {
    /// How much more memory the service had in the last quarter than in the second, as a factor.
    #[must_use]
    pub fn growth(&self) -> Option<f64> {
        let length = self.samples.len();
        let quarter = |number: usize| {
            let range = length * number / 4..length * (number + 1) / 4;
            let samples = self.samples.get(range).unwrap_or_default();
            middle(samples, |sample: &Sample| direct::count(sample.service_rss))
        };
        ratio(quarter(3), quarter(1))
    }

    /// What was to be reached, and whether it was.
    #[must_use]
    pub fn goals(&self) -> Vec<Goal> {
        let failed = Some(direct::count(self.failed));
        vec![
            goal("no failed authorisation", failed, " failed", |failed| failed == 0.0),
            goal(
                "flat memory (last quarter against the second, within 5%)",
                self.growth(),
                " times",
                |g| g <= 1.05,
            ),
        ]
    }

    fn part(&self, page: &mut String, pages: &mut Vec<Page>) {
        let _ = writeln!(
            page,
            "\n## The soak\n\n{:.0} minutes from {}, real clients through nats-server {} at {} a second, \
             half of the {} that the machine carried before, with {} changes of the policy and {} \
             restarts of nats-server. {} connections were made. {} attempts met no server, or one that had just \
             started and had nobody to ask yet, and were made again.",
            self.seconds / 60.0,
            self.date,
            self.machine.nats_server,
            short(self.rate),
            short(self.capacity),
            self.reloads,
            self.restarts,
            thousands(direct::count(self.connected)),
            thousands(direct::count(self.retried)),
        );
        table_of(&self.goals(), page);
        let line = |name: &str, value: &dyn Fn(&Sample) -> f64| Series {
            name: name.to_owned(),
            points: self.samples.iter().map(|s| (s.at / 60.0, value(s))).collect(),
        };
        let plot = Plot {
            title: "The soak",
            x: ("minutes", Axis::Linear),
            y: ("see the legend", Axis::Logarithmic),
            series: vec![
                line("memory of solewriter, MB", &|s| direct::count(s.service_rss) / 1e6),
                line("of nats-server, MB", &|s| direct::count(s.server_rss) / 1e6),
                line("connections/s", &|s| s.per_second),
                line("p99, ms", &|s| s.p99_ms),
            ],
        };
        pages.push(("performance/soak.svg".to_owned(), plot.svg()));
        page.push_str("\n![The soak](performance/soak.svg)\n");
    }
}

/// One figure of a round.
type Figure = fn(&StreamRound) -> f64;

impl Streams {
    fn part(&self, page: &mut String) {
        let _ = writeln!(
            page,
            "\n## Streams, through the import\n\nOn {}, nats-server {}; the machine's load average \
             before was {:.1}. One client of async-nats, a stream in memory, messages of {} bytes: {} \
             of them for each figure with 64 in flight, a tenth of it with one. A service reaches the \
             stream through the import of the state account; the admin is in that account. Both by \
             turns; medians of the rounds. Permissions are checked for the service alone.\n\n\
             | messages a second | through the import | in the state account | ratio |\n\
             | --- | --- | --- | --- |",
            self.date,
            self.machine.nats_server,
            self.load_before,
            self.bytes,
            thousands(direct::count(self.messages.try_into().unwrap_or_default())),
        );
        let rows: [(&str, Figure); 4] = [
            ("published with acknowledgement, 1 in flight", |round| round.publish_one),
            ("the same, 64 in flight", |round| round.publish_many),
            ("consumed and acknowledged, 1 at a time", |round| round.consume_one),
            ("the same, 64 at a time", |round| round.consume_many),
        ];
        for (name, figure) in rows {
            let of =
                |place| median(self.rounds.iter().filter(|round| round.place == place).map(figure));
            let (import, state) = (of(Place::Import), of(Place::State));
            let _ = writeln!(
                page,
                "| {name} | {} | {} | {} |",
                cell(import),
                cell(state),
                cell(ratio(import, state))
            );
        }
    }
}

impl Changes {
    /// What was to be reached, and whether it was.
    #[must_use]
    pub fn goals(&self) -> Vec<Goal> {
        let part = |figure: fn(&ChangeRound) -> f64| {
            let start = middle(&self.rounds, |round| round.whole.in_force);
            ratio(middle(&self.rounds, figure), start).map(|part| part * 100.0)
        };
        let measured = |bytes: u64| (bytes > 0).then(|| direct::count(bytes));
        vec![
            goal(
                "until it is in force, a change of one service takes at most 5% of the CPU of a start",
                part(|round| round.one.in_force),
                "%",
                |part| part <= 5.0,
            ),
            goal(
                "one more service takes at most 5% of it, too",
                part(|round| round.new.in_force),
                "%",
                |part| part <= 5.0,
            ),
            goal(
                "memory after 100 changes is at most 1.2 times that after a start",
                ratio(measured(self.rss_after), measured(self.rss_ready)),
                " times",
                |times| times <= 1.2,
            ),
            goal(
                "at most 200 MB after a start",
                measured(self.rss_ready).map(|bytes| bytes / 1e6),
                " MB",
                |megabytes| megabytes <= 200.0,
            ),
            goal(
                "a start takes at most 1 s",
                middle(&self.rounds, |round| round.whole.seconds),
                " s",
                |seconds| seconds <= 1.0,
            ),
        ]
    }

    fn part(&self, page: &mut String) {
        type Part = fn(&ChangeRound) -> Change;
        let megabytes = |bytes: u64| format!("{:.0} MB", direct::count(bytes) / 1e6);
        let _ = writeln!(
            page,
            "\n## A change in a large policy\n\nOn {}; the machine's load average before was {:.1}. {} services in files of \
             1,000. A start reads, judges and compiles all of them, and its figures are without what a start takes with \
             one service. Then the directory has another file; the time has 0.2 s in it in which the file has to stay the \
             same. What follows when it is in force is to keep it for the next start. Medians of the rounds.",
            self.date,
            self.load_before,
            cell(Some(number(self.services))),
        );
        table_of(&self.goals(), page);
        page.push_str(
            "\n| | until it is in force, s | CPU until then, s | of a start | CPU with what follows, s | of a start |\n\
             | --- | --- | --- | --- | --- | --- |\n",
        );
        let rows: [(&str, Part); 3] = [
            ("a start", |round| round.whole),
            ("one service changes by a line", |round| round.one),
            ("there is one more, with a bucket", |round| round.new),
        ];
        for (name, part) in rows {
            let figure = |of: fn(&Change) -> f64| middle(&self.rounds, |round| of(&part(round)));
            let start = |of: fn(&Change) -> f64| middle(&self.rounds, |round| of(&round.whole));
            let _ = write!(page, "| {name} | {} |", cell(figure(|change| change.seconds)));
            let cpu: [fn(&Change) -> f64; 2] = [|change| change.in_force, |change| change.cpu];
            for of in cpu {
                let (cpu, part) = (figure(of), ratio(figure(of), start(of)));
                let _ = write!(page, " {} | {} |", cell(cpu), cell(part));
            }
            page.push('\n');
        }
        let _ = writeln!(
            page,
            "\nMemory after a start: {}, and {} at most until then; after 100 changes more: {}.",
            megabytes(self.rss_ready),
            megabytes(self.rss_peak),
            megabytes(self.rss_after),
        );
    }
}

impl Listings {
    fn part(&self, page: &mut String) {
        type Of = fn(&ListingRound) -> f64;
        let of = |figure: Of| middle(&self.rounds, figure);
        let _ = writeln!(
            page,
            "\n## A look at open connections\n\nOn {}, nats-server {}; the machine's load average before was {:.1}. One \
             server with {} connections, all listed as a sweep has it do, and by pages of 256. Both by turns; medians of \
             the rounds.\n\n| | as `serve` asks | by pages of 256 | ratio |\n| --- | --- | --- | --- |",
            self.date,
            self.machine.nats_server,
            self.load_before,
            cell(of(|round| number(round.serve.connections))),
        );
        let rows: [(&str, Of, Of); 3] = [
            ("time, s", |round| round.serve.seconds, |round| round.small.seconds),
            (
                "CPU of nats-server, s",
                |round| round.serve.server_cpu,
                |round| round.small.server_cpu,
            ),
            ("CPU of who asks, s", |round| round.serve.own_cpu, |round| round.small.own_cpu),
        ];
        for (name, serve, small) in rows {
            let (serve, small) = (of(serve), of(small));
            let ratio = cell(ratio(serve, small));
            let _ = writeln!(page, "| {name} | {} | {} | {ratio} |", cell(serve), cell(small));
        }
    }
}

/// From one look at all connections to the next, in seconds, while nothing changes (`[sessions] every`).
pub(super) const EVERY: f64 = 30.0;

impl Sweeps {
    /// The time that so many of a hundred changes took at most.
    fn took(&self, percent: usize) -> Option<f64> {
        let mut all: Vec<f64> = self.revocations.iter().map(|change| change.seconds).collect();
        all.sort_by(f64::total_cmp);
        all.get((all.len() * percent).div_ceil(100).checked_sub(1)?).copied()
    }

    /// What was to be reached, and whether it was. `listings` has a real server's part.
    #[must_use]
    pub fn goals(&self, listings: Option<&Listings>) -> Vec<Goal> {
        let cpu = ratio(Some(self.steady.own_cpu), Some(self.steady.seconds));
        let rounds = listings.map_or(&[][..], |listings| &listings.rounds);
        let listed = middle(rounds, |round| number(round.serve.connections));
        let server = middle(rounds, |round| round.serve.server_cpu).map(|cpu| cpu / EVERY);
        let connections = thousands(number(self.connections));
        vec![
            goal(
                &format!(
                    "of {connections} connections, the last of one service's {} is closed within 2 s of the \
                     change (99 of 100)",
                    self.each
                ),
                self.took(99),
                " s",
                |seconds| seconds <= 2.0,
            ),
            goal(
                &format!("a look at {connections} every 30 s takes `serve` at most 2% of one core"),
                cpu.map(|cpu| cpu * 100.0),
                "%",
                |percent| percent <= 2.0,
            ),
            goal(
                &format!("and a server with {} at most 2% of one core", cell(listed)),
                server.map(|cpu| cpu * 100.0),
                "%",
                |percent| percent <= 2.0,
            ),
        ]
    }

    fn part(&self, listings: Option<&Listings>, page: &mut String) {
        let _ = writeln!(
            page,
            "\n## Sweeps of very many connections\n\nOn {}, nats-server {}; the machine's load average before was \
             {:.1}. {} connections, {} of each service, on {} servers. Those are simulated: what `serve` asks of them is \
             answered in the form and the time of a real one. One service after the other loses a subject, at any \
             moment; the time runs from when its file was written until the server of its last connection was told to \
             close it, at the 100 a second that are the default. A real server's part is \
             [above](#a-look-at-open-connections).",
            self.date,
            self.machine.nats_server,
            self.load_before,
            thousands(number(self.connections)),
            self.each,
            self.servers,
        );
        table_of(&self.goals(listings), page);
        let looks = Some(direct::count(self.steady.looks)).filter(|looks| *looks > 0.0);
        let a_look = |total: u64| cell(ratio(Some(direct::count(total)), looks));
        let listed = Some(number(self.connections)).zip(looks).map(|(open, looks)| open * looks);
        let each = |total: f64| cell(ratio(Some(total), listed));
        let changes = self.revocations.len();
        let rows = [
            ("half of the changes, s".to_owned(), cell(self.took(50))),
            (format!("99 of 100 changes, of {changes}, s"), cell(self.took(99))),
            (
                "pages asked for until the last is closed".to_owned(),
                cell(middle(&self.revocations, |change| direct::count(change.pages))),
            ),
            ("pages of a look, of all servers".to_owned(), a_look(self.steady.pages)),
            (
                "bytes of a look, for each connection".to_owned(),
                each(direct::count(self.steady.bytes)),
            ),
            ("the same as sent, compressed".to_owned(), each(direct::count(self.steady.sent))),
            (
                "CPU of `serve` for each connection of a look, µs".to_owned(),
                each(self.steady.own_cpu * 1e6),
            ),
            (
                "most memory of `serve`, MB".to_owned(),
                cell(looks.map(|_| direct::count(self.steady.rss) / 1e6)),
            ),
        ];
        page.push_str("\n| | |\n| --- | --- |\n");
        for (name, figure) in rows {
            let _ = writeln!(page, "| {name} | {figure} |");
        }
    }
}

fn times(one: &[f64], other: &[f64]) -> Option<f64> {
    paired(one, other, |one, other| if other > 0.0 { one / other } else { 0.0 })
}

fn micros(rounds: &[f64]) -> String {
    cell(median(rounds.iter().copied()))
}

impl Served {
    /// What was to be reached, and whether it was. Of several versions, the worst counts.
    #[must_use]
    pub fn goals(&self) -> Vec<Goal> {
        let worst = |of: &dyn Fn(&ServedBy) -> Option<f64>| {
            self.servers.iter().filter_map(of).reduce(f64::max)
        };
        let covered = |by: &ServedBy| {
            let few = by.covers.iter().min_by_key(|cover| cover.subjects)?;
            let most = by.covers.iter().max_by_key(|cover| cover.subjects)?;
            times(&most.few, &few.few)
        };
        vec![
            goal(
                "a subject in the longest list takes nats-server at most 1.25 times what it takes in a shorter one",
                worst(&ServedBy::growth),
                " times",
                |times| times <= 1.25,
            ),
            goal(
                "subjects that another one covers take nothing: thousands cost what 19 do (within 10%)",
                worst(&covered),
                " times",
                |times| times <= 1.1,
            ),
        ]
    }

    fn part(&self, page: &mut String) {
        let rounds = self.servers.iter().flat_map(|s| &s.grants).map(|g| g.clear.len()).max();
        let _ = writeln!(
            page,
            "\n## What a connection costs nats-server\n\nOn {}; the machine's load average was {:.1} before and {:.1} \
             after. CPU of nats-server for each connection, in µs. Eight clients connect again and again; who answers \
             verifies nothing, in this process, so that only the answer differs. All by turns; medians of {} rounds. A ratio, \
             or what is saved, is the median of those of the rounds. On a machine that does other things, ratios of a few \
             percent mean nothing.",
            self.date,
            self.load_before,
            self.load_after,
            rounds.unwrap_or_default(),
        );
        table_of(&self.goals(), page);
        self.grants(page);
        self.covers(page);
        self.forms(page);
    }

    fn grants(&self, page: &mut String) {
        page.push_str(
            "\n### By size, and who decides\n\nThe grants are those of solewriter's rules, under names of the length \
             that `serve` gives. The static users have the same permissions.\n\n\
             | nats-server | rules | subjects | answer, bytes | static user | callout | callout, sealed | callout \
             against static user | sealed against static user | sealing, µs |\n\
             | --- | --- | --- | --- | --- | --- | --- | --- | --- | --- |\n",
        );
        for ServedBy { nats_server, grants, .. } in &self.servers {
            for grant in grants {
                let _ = writeln!(
                    page,
                    "| {nats_server} | {} | {} | {} | {} | {} | {} | {} | {} | {} |",
                    grant.what,
                    thousands(number(grant.subjects)),
                    thousands(number(grant.bytes)),
                    micros(&grant.alone),
                    micros(&grant.clear),
                    micros(&grant.sealed),
                    cell(times(&grant.clear, &grant.alone)),
                    cell(times(&grant.sealed, &grant.alone)),
                    cell(paired(&grant.sealed, &grant.clear, |sealed, clear| sealed - clear)),
                );
            }
        }
    }

    fn covers(&self, page: &mut String) {
        page.push_str(
            "\n### Subjects that another one covers\n\nA grant leaves them out. Here one subject covers all others but \
             the inbox, so this is the most that it can save; nobody's rights differ.\n\n\
             | nats-server | subjects of the rules | sent | all sent, µs | as sent, µs | saved, µs | ratio |\n\
             | --- | --- | --- | --- | --- | --- | --- |\n",
        );
        for ServedBy { nats_server, covers, .. } in &self.servers {
            for cover in covers {
                let _ = writeln!(
                    page,
                    "| {nats_server} | {} | {} | {} | {} | {} | {} |",
                    thousands(number(cover.subjects)),
                    cover.sent,
                    micros(&cover.all),
                    micros(&cover.few),
                    cell(paired(&cover.all, &cover.few, |all, few| all - few)),
                    cell(times(&cover.few, &cover.all)),
                );
            }
        }
    }

    fn forms(&self, page: &mut String) {
        page.push_str(
            "\n### What else an answer says\n\nEach differs from another one in one thing.\n\n\
             | nats-server | answer | subjects | bytes | µs | held against | ratio |\n\
             | --- | --- | --- | --- | --- | --- | --- |\n",
        );
        for ServedBy { nats_server, forms, .. } in &self.servers {
            for form in forms {
                let other = forms.iter().find(|other| other.what == form.against);
                let other = other.filter(|other| other.what != form.what);
                let _ = writeln!(
                    page,
                    "| {nats_server} | {} | {} | {} | {} | {} | {} |",
                    form.what,
                    thousands(number(form.subjects)),
                    thousands(number(form.bytes)),
                    micros(&form.cpu_us),
                    other.map_or("-", |other| &other.what),
                    cell(other.and_then(|other| times(&form.cpu_us, &other.cpu_us))),
                );
            }
        }
    }
}
