//! Documents to a [`Policy`], or every problem that stands in the way.
//!
//! This is the only way to a `Policy`. All files are judged as one whole:
//!
//! - `settings` turns texts of one table into values;
//! - `service` judges one service, and what services must not share: names and keys;
//! - `ownership` finds keys with two owners.

mod ownership;
mod service;
mod settings;

use std::sync::Arc;

use aws_lc_rs::digest;

use super::document::{self, Document};
use super::model::{Policy, Revision, Service};
use crate::source::{Collector, Problem, Problems, SourceFile, Span};

/// A policy that holds, and what is worth saying about it.
#[derive(Debug)]
pub struct Validated {
    /// The policy.
    pub policy: Policy,
    /// Warnings and notes; never an error.
    pub warnings: Problems,
}

/// A service whose own table is in order, with the places of its rules.
struct Draft {
    service: Service,
    /// The place of each of `service.rules`.
    rules: Vec<Span>,
}

/// Reads and judges a whole policy.
///
/// # Errors
/// All problems found (with warnings and notes among them), when at least one is an error.
pub fn validate(files: &[SourceFile]) -> Result<Validated, Problems> {
    let problems = Collector::new();
    let document = merge(files.iter().map(|file| document::read(file, &problems)));
    let named = !document.services.is_empty();
    let drafts = service::check(document.services, &problems);
    ownership::check(&drafts, &problems);
    if !named && !problems.has_errors() {
        problems.push(no_services(files));
    }
    if problems.has_errors() {
        return Err(problems.finish());
    }
    let services = drafts.into_iter().map(|draft| draft.service).collect();
    Ok(Validated { policy: Policy::new(revision(files), services), warnings: problems.finish() })
}

fn merge(documents: impl Iterator<Item = Document>) -> Document {
    let mut whole = Document::default();
    for document in documents {
        whole.services.extend(document.services);
    }
    whole
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
    let mut context = digest::Context::new(&digest::SHA256);
    for file in files {
        // Lengths, so that no two lists of files give the same bytes.
        for part in [file.name(), file.text()] {
            context.update(&(part.len() as u64).to_be_bytes());
            context.update(part.as_bytes());
        }
    }
    Revision::of_digest(context.finish().as_ref())
}

#[cfg(test)]
mod tests;
