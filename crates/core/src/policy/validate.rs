//! Documents to a [`Policy`], or every problem that stands in the way.
//!
//! This is the only way to a `Policy`. All files are judged as one whole:
//!
//! - `settings` turns texts of one table into values;
//! - `bucket` judges the declared buckets, and what is done with them;
//! - `stream` judges the declared streams with their consumers, and what is written into them;
//! - `consumer` judges what services do with the consumers of streams;
//! - `found` judges the names under which services are found, and who looks for them;
//! - `replay` judges what services read of streams with consumers of their own;
//! - `store` judges the declared object stores, and who owns and reads them;
//! - `role` judges roles, and gives a service the rules of its roles;
//! - `service` judges one service, and what services must not share: names and keys;
//! - `ownership` finds keys with two owners;
//! - `naming` holds names against the organisation's convention;
//! - `observe` gives a service that is observed the rules of what it could do before;
//! - `usage` warns of what is likely not meant; `covered` finds entries that add nothing;
//! - `emergency` changes owners for a while, before anything is judged;
//! - `again` judges a changed policy by what differs, and `related` finds what that touches;
//! - `names`, `times`, `draft` and `threads` are what several of these need.

mod again;
mod bucket;
mod consumer;
mod covered;
mod draft;
mod durable;
mod emergency;
mod found;
mod names;
mod naming;
mod observe;
mod ownership;
mod related;
mod replay;
mod role;
mod service;
mod settings;
mod store;
mod stream;
mod threads;
mod times;
mod usage;

use std::collections::{BTreeSet, HashMap};
use std::hash::Hash;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

pub use self::again::Validator;
use self::covered::Effort;
use self::draft::Draft;
use self::names::only_one;
pub use self::settings::MAX_RULES;
use self::settings::{Domains, Settings};
use self::stream::Writers;
use self::threads::{Check, Threads};
use super::document::{self, Document, ServiceEntry, SettingEntries};
use super::model::{Declared, Domain, Policy, Revision, Service};
use crate::diagnostics::{Collector, Problem, Problems, SourceFile, Spanned};
use crate::emergency::Emergency;
use crate::grant::AuditStreams;

/// The file of a policy of several files in which `[defaults]` stands.
pub const DEFAULTS_FILE: &str = "defaults.toml";

/// How many services a problem about `[defaults]` shows.
const MAX_REACHED: usize = 3;

/// A policy that holds, and what is worth saying about it.
#[derive(Debug)]
pub struct Validated {
    /// The policy.
    pub policy: Policy,
    /// Warnings and notes; never an error.
    pub warnings: Problems,
}

/// A policy as far as it could be read, whether it holds or not: for looking at, never for
/// deciding.
#[derive(Debug)]
pub struct Sketch {
    /// Names the content of the documents.
    pub revision: Revision,
    /// Services, without the entries that could not be read.
    pub services: Vec<Service>,
    /// Declared buckets, streams and object stores.
    pub declared: Declared,
    /// Everything found.
    pub problems: Problems,
}

impl Sketch {
    /// The same without what observed services could do before.
    #[must_use]
    pub fn enforced(self) -> Self {
        let services = self.services.iter().map(Service::enforced).collect();
        Self { services, ..self }
    }
}

/// Reads and judges a whole policy.
///
/// # Errors
/// All problems found (with warnings and notes among them), when at least one is an error.
pub fn validate(files: &[SourceFile]) -> Result<Validated, Problems> {
    validate_for(files, &AuditStreams::default())
}

/// The same where the settings name the audit streams.
///
/// # Errors
/// As [`validate`].
pub fn validate_for(files: &[SourceFile], audit: &AuditStreams) -> Result<Validated, Problems> {
    validate_with(files, audit, &[])
}

/// The same with emergency grants: each takes its keyspace from its owner, who goes on reading it,
/// and gives it to its service. The whole is judged as if its documents said so.
///
/// # Errors
/// As [`validate`]; and what the policy lacks that an emergency grant needs.
pub fn validate_with(
    files: &[SourceFile],
    audit: &AuditStreams,
    emergencies: &[&Emergency],
) -> Result<Validated, Problems> {
    let judged = judge(Case { emergencies, ..Case::whole(files, audit) });
    let Validated { policy, warnings } = judged.hold()?;
    let policy = if emergencies.is_empty() { policy } else { policy.with(emergencies) };
    Ok(Validated { policy, warnings })
}

/// Reads and judges a whole policy, and gives what was read even if it does not hold. More than
/// [`MAX_RULES`] give no service at all.
pub fn sketch(files: &[SourceFile]) -> Sketch {
    sketch_for(files, &AuditStreams::default())
}

/// The same where the settings name the audit streams.
pub fn sketch_for(files: &[SourceFile], audit: &AuditStreams) -> Sketch {
    judge(Case::whole(files, audit)).sketch
}

/// What judging found, and what has to be known of it to judge a change by itself.
struct Judged {
    sketch: Sketch,
    /// The files with tables that reach every service: `[naming]`, `[defaults]` and roles.
    general: BTreeSet<Arc<str>>,
    /// Whether all files could be read.
    complete: bool,
    /// Whether somebody reads every declared bucket, whichever these are.
    everything: bool,
    spent: Spent,
    /// Whether searches for advice came near to what they may take.
    strained: bool,
    /// Whether something was left out because a bound was reached.
    cut: bool,
}

/// How many steps those searches took without whose end a policy is refused.
#[derive(Clone, Copy, Debug, Default)]
struct Spent {
    owners: usize,
    streams: usize,
    stars: usize,
}

impl Judged {
    fn hold(self) -> Result<Validated, Problems> {
        let Sketch { revision, services, declared, problems } = self.sketch;
        if problems.has_errors() {
            return Err(problems);
        }
        let services = services.into_iter().map(Arc::new).collect();
        Ok(Validated { policy: Policy::new(revision, services, declared), warnings: problems })
    }
}

/// What is judged.
#[derive(Clone, Copy)]
struct Case<'c> {
    files: &'c [SourceFile],
    audit: &'c AuditStreams,
    emergencies: &'c [&'c Emergency],
    /// The files are some of a policy, and so many problems of them are kept; `None` for all files.
    part: Option<usize>,
}

impl<'c> Case<'c> {
    /// A whole policy.
    fn whole(files: &'c [SourceFile], audit: &'c AuditStreams) -> Self {
        Self { files, audit, emergencies: &[], part: None }
    }
}

/// Judges files.
fn judge(case: Case<'_>) -> Judged {
    let bytes = case.files.iter().map(|file| file.text().len()).sum();
    judge_with(Threads::for_bytes(bytes), case)
}

/// The same by so many threads.
fn judge_with(threads: Threads, case: Case<'_>) -> Judged {
    let judged = judge_by(threads, case);
    if threads == Threads::ONE || !judged.cut {
        return judged;
    }
    // What a bound left out depends on who came first.
    judge_by(Threads::ONE, case)
}

fn judge_by(threads: Threads, case: Case<'_>) -> Judged {
    let Case { files, audit, emergencies, part } = case;
    let problems = part.map_or_else(Collector::new, Collector::keeping);
    let Read { document, buckets, of_buckets } = read(files, audit, threads, &problems);
    // What is missing because a file could not be read is not worth saying.
    let complete = !problems.has_errors();
    for of_buckets in of_buckets {
        problems.extend(of_buckets);
    }
    let general = document.general();
    let Document { naming, defaults, streams, stores, roles, mut services, .. } = document;
    if !emergencies.is_empty() {
        let mut all = services.into_iter().flatten().collect::<Vec<_>>();
        for emergency in emergencies {
            emergency::apply(emergency, &mut all, &problems);
        }
        services = vec![all];
    }

    if services.iter().all(Vec::is_empty) && complete && part.is_none() {
        problems.push(no_services(files));
    }
    let buckets = bucket::check(buckets, &problems);
    let streams = stream::check(streams, audit, &problems);
    let durables = stream::durables(&streams);
    let stores = store::check(stores, audit, &problems);
    let left = AtomicUsize::new(MAX_RULES);
    let mut effort = Effort::new();
    let roles = role::check(roles, audit, &mut effort, &problems);
    let context = service::Context {
        defaults: check_defaults(defaults, &services, &problems),
        buckets: &buckets.list,
        domains: &domains(&buckets, &streams, &stores),
        durables: &durables,
        roles: &roles,
        audit,
        left: &left,
        complete,
    };
    let mut drafts = service::check(services, &context, threads, &problems);
    let end =
        |drafts: Vec<Draft>, (buckets, streams, stores): Declarations, problems: Collector| {
            let streams = streams.into_iter().map(|declared| declared.stream).collect();
            let stores = stores.into_iter().map(|declared| declared.store).collect();
            Sketch {
                revision: revision(files),
                services: drafts.into_iter().map(|draft| draft.service).collect(),
                declared: Declared { buckets: buckets.list, streams, stores },
                problems: problems.finish(),
            }
        };
    let none_left = || left.load(Ordering::Relaxed) == 0;
    if none_left() {
        problems.push(too_many_rules());
        let sketch = end(Vec::new(), (buckets, streams, stores), problems);
        let (everything, strained, cut, spent) = (false, true, true, Spent::default());
        return Judged { sketch, general, complete, everything, spent, strained, cut };
    }

    let everything = drafts.iter().any(|d| d.places.iter().any(|place| place.everything));
    let (writers, mut spent) = check_use(&drafts, &buckets, &streams, threads, &problems);
    // A convention says who is to own what in the long run.
    if emergencies.is_empty() {
        naming::check(naming, &drafts, &writers, &problems);
    }
    let writers = writers.into_keys().map(|(service, stream)| (service, stream.clone())).collect();
    spent.stars = usage::check(&drafts, &mut effort, threads, &problems);
    // Before observed services get more rules.
    let rules = drafts.iter().map(|draft| draft.service.rules.len()).sum();
    let stars = spent.stars >= usage::steps_for_stars(rules);
    if complete {
        let checks: Vec<Check<'_>> = vec![
            Box::new(|problems| bucket::check_declared(&buckets, &drafts, problems)),
            Box::new(|problems| consumer::check_declared(&streams, &drafts, problems)),
            Box::new(|problems| replay::check_declared(&streams, &drafts, audit, problems)),
            Box::new(|problems| store::check_declared(&stores, &drafts, problems)),
            Box::new(|problems| found::check_discovered(&drafts, problems)),
        ];
        threads.all(checks, &problems);
        usage::check_counterparts((&buckets, &roles), &drafts, &mut effort, threads, &problems);
    }
    effort.report(&problems);
    // Last: what was only possible before is held against nothing.
    observe::widen(
        &mut drafts,
        &observe::Declared {
            buckets: &buckets.list,
            streams: &streams,
            stores: &stores,
            writers: &writers,
            left: &left,
            problems: &problems,
        },
    );
    if none_left() {
        problems.push(too_many_rules());
    }
    let strained = effort.is_strained();
    let cut = none_left() || effort.is_spent() || stars || problems.is_full();
    let sketch = end(drafts, (buckets, streams, stores), problems);
    Judged { sketch, general, complete, everything, spent, strained, cut }
}

/// Holds what services have against each other's, and against what is declared. Gives who writes into
/// which stream.
fn check_use<'p>(
    drafts: &'p [Draft],
    buckets: &bucket::Buckets,
    streams: &'p [stream::Declaration],
    threads: Threads,
    problems: &Collector,
) -> (Writers<'p>, Spent) {
    let (mut owners_left, mut streams_left) = (ownership::MAX_STEPS, durable::MAX_STEPS);
    let mut writers = Writers::new();
    let checks: Vec<Check<'_>> = vec![
        Box::new(|problems| ownership::check(drafts, &mut owners_left, problems)),
        Box::new(|problems| bucket::check_use(buckets, drafts, problems)),
        Box::new(|problems| {
            writers = stream::check_use(streams, drafts, &mut streams_left, problems);
        }),
        Box::new(|problems| consumer::check_use(streams, drafts, problems)),
        Box::new(|problems| replay::check_use(streams, drafts, problems)),
        Box::new(|problems| store::check_owners(drafts, problems)),
        Box::new(|problems| found::check_use(drafts, problems)),
    ];
    threads.all(checks, problems);
    let owners = ownership::MAX_STEPS - owners_left;
    let spent = Spent { owners, streams: durable::MAX_STEPS - streams_left, stars: 0 };
    (writers, spent)
}

/// What files say.
#[derive(Default)]
struct Read {
    /// Without buckets.
    document: Document,
    /// By files. Each is judged when it is read: an entry takes several times the memory.
    buckets: Vec<Vec<bucket::Declaration>>,
    of_buckets: Vec<Problems>,
}

/// Reads all files.
fn read(
    files: &[SourceFile],
    audit: &AuditStreams,
    threads: Threads,
    problems: &Collector,
) -> Read {
    let limit = problems.limit();
    let files = threads.each_judged(files.iter().collect(), problems, |file, problems| {
        let mut document = document::read(file, problems);
        let of_buckets = Collector::keeping(limit);
        let buckets = bucket::each(std::mem::take(&mut document.buckets), audit, &of_buckets);
        (document, buckets, of_buckets.finish())
    });
    let mut read = Read::default();
    for (document, buckets, of_buckets) in files {
        read.document.merge(document);
        read.buckets.push(buckets);
        read.of_buckets.push(of_buckets);
    }
    read
}

/// Everything that is declared, with its places.
type Declarations = (bucket::Buckets, Vec<stream::Declaration>, Vec<store::Declaration>);

/// What is in a JetStream domain.
fn domains(
    buckets: &bucket::Buckets,
    streams: &[stream::Declaration],
    stores: &[store::Declaration],
) -> Domains {
    let streams = streams.iter().map(|declared| &declared.stream);
    let stores = stores.iter().map(|declared| &declared.store);
    Domains {
        buckets: named(buckets.list.iter().map(|bucket| (&bucket.name, &bucket.domain))),
        streams: named(streams.map(|stream| (&stream.name, &stream.domain))),
        stores: named(stores.map(|store| (&store.name, &store.domain))),
    }
}

fn named<'d, N: Clone + Eq + Hash + 'd>(
    declared: impl Iterator<Item = (&'d N, &'d Option<Domain>)>,
) -> HashMap<N, Domain> {
    declared.filter_map(|(name, domain)| Some((name.clone(), domain.clone()?))).collect()
}

fn check_defaults(
    tables: Vec<Spanned<SettingEntries>>,
    services: &[Vec<ServiceEntry>],
    problems: &Collector,
) -> Settings {
    let spans = tables.iter().map(|table| &table.span);
    only_one("[defaults]", spans, problems);
    if let Some(first) = tables.first() {
        check_reach(first, services, problems);
    }
    let mut all = tables.into_iter().map(|table| settings::settings(table.value, problems));
    let first = all.next().unwrap_or_default();
    all.for_each(drop);
    first
}

/// Who may write one file of several must not thereby change the services of the others. The
/// table may stand in [`DEFAULTS_FILE`], which is there for it, or where it changes no service
/// of another file.
fn check_reach(
    table: &Spanned<SettingEntries>,
    services: &[Vec<ServiceEntry>],
    problems: &Collector,
) {
    let file = table.span.file();
    if **file.name() == *DEFAULTS_FILE {
        return;
    }
    let reached: Vec<(&ServiceEntry, Vec<&str>)> = services
        .iter()
        .flatten()
        .filter(|service| service.name.span.file() != file)
        .map(|service| (service, table.value.left_to(&service.settings)))
        .filter(|(_, settings)| !settings.is_empty())
        .collect();
    if reached.is_empty() {
        return;
    }
    let many = if reached.len() == 1 { "a service" } else { "services" };
    let message = format!("`[defaults]` in {} would change {many} of other files", file.name());
    let mut problem = Problem::error("defaults-elsewhere", message).at(&table.span, "");
    for (service, settings) in reached.iter().take(MAX_REACHED) {
        let label = format!("would get `{}` from there", settings.join("`, `"));
        problem = problem.also(&service.name.span, label);
    }
    let more = match reached.len().saturating_sub(MAX_REACHED) {
        0 => String::new(),
        more => format!(" ({more} more would get something, too)"),
    };
    problems.push(problem.help(format!(
        "move the table to `{DEFAULTS_FILE}` at the top of the policy, or say it in each service{more}"
    )));
}

fn too_many_rules() -> Problem {
    let message = format!("the policy has more than {MAX_RULES} rules");
    Problem::error("too-many-rules", message).help(
        "roles, `reads = [\"*\"]` and what observed services could do before are written out for \
         each service; use them for fewer",
    )
}

fn no_services(files: &[SourceFile]) -> Problem {
    let problem = Problem::error("no-services", "the policy defines no service")
        .help("add a `[service.NAME]` table; without one, every connection would be refused");
    match files.first() {
        Some(file) => problem.at(&file.span(0..0), ""),
        None => problem,
    }
}

/// Names the content of the files: the same for the same names and texts in any order.
#[must_use]
pub fn revision(files: &[SourceFile]) -> Revision {
    let mut files: Vec<&SourceFile> = files.iter().collect();
    files.sort_by_key(|file| Arc::clone(file.name()));
    let texts: Vec<&str> = files.iter().flat_map(|file| [&**file.name(), file.text()]).collect();
    Revision::of(&texts)
}

#[cfg(test)]
mod tests;
