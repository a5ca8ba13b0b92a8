//! `solewriter map`: the ownership map as a picture.

use std::process::ExitCode;

use clap::{Args, ValueEnum};

use super::asked::ServedArgs;
use super::{fail, note, print, report, wrong};
use crate::cli::common::{AuditArgs, DirArgs, meant};
use crate::policy_source::directory::Directory;
use solewriter_core::analysis::map::Map;
use solewriter_core::policy::validate::sketch_for;

/// Draw which service owns, reads, publishes, subscribes, calls and answers what, and which streams
/// keep it.
///
/// A policy with problems is drawn as far as it can be read, with the problems in red. They are also
/// printed to stderr.
///
/// Exit code: 0 if the policy is valid, 1 if it is not, 2 if there is no such directory, or
/// nothing of the name to focus on.
#[derive(Args, Debug)]
pub struct MapCommand {
    #[command(flatten)]
    dir: DirArgs,
    #[command(flatten)]
    served: ServedArgs,
    /// The form of the map.
    #[arg(long, value_enum, default_value_t = Format::Mermaid)]
    format: Format,
    /// Draw only this service, bucket, object store (store:NAME), stream, consumer (STREAM/CONSUMER) or
    /// found name, and what it is connected with (Mermaid and DOT).
    #[arg(long, value_name = "NAME")]
    focus: Option<String>,
    #[command(flatten)]
    audit: AuditArgs,
}

/// A form of the map.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Format {
    /// A Mermaid flowchart, which GitHub and GitLab draw in Markdown.
    Mermaid,
    /// For Graphviz.
    Dot,
    /// One self-contained page to look at and search.
    Html,
    /// Everything, for programs.
    Json,
}

impl MapCommand {
    /// Runs the command.
    #[must_use]
    pub fn run(self) -> ExitCode {
        if self.focus.is_some() && matches!(self.format, Format::Html | Format::Json) {
            return wrong(&"--focus is for mermaid and dot; the page has its own search");
        }
        let mut audit = self.audit.streams().clone();
        let files = match self.served.load(self.dir.named()) {
            Err(output) => return output.print(),
            Ok(Some(loaded)) => {
                if !loaded.notes.is_empty() {
                    note(loaded.notes.trim_end());
                }
                audit = loaded.defaults.audit;
                loaded.files
            }
            Ok(None) if !self.dir.path().is_dir() => {
                return wrong(&format!(
                    "there is no policy directory {}",
                    self.dir.path().display()
                ));
            }
            Ok(None) => match Directory::new(self.dir.path()).read() {
                Ok(files) => files,
                Err(problems) => return report(&problems),
            },
        };
        // What services could do before would hide what they do.
        let sketch = sketch_for(&files, &audit).enforced();
        let map = Map::draw(&sketch);
        let focus = self.focus.as_deref();
        if let Some(name) = focus.filter(|name| !map.names().any(|known| known == *name)) {
            let meant = meant(name, map.names());
            return wrong(&format!("nothing in the policy is called {name:?}{meant}"));
        }
        let text = match self.format {
            Format::Mermaid => Ok(map.to_mermaid(focus)),
            Format::Dot => Ok(map.to_dot(focus)),
            Format::Html => map.to_html(),
            Format::Json => Ok(super::common::json(&map)),
        };
        let printed = match text {
            Ok(text) => print(text.as_bytes()),
            Err(error) => fail(&error),
        };
        if sketch.problems.has_errors() { report(&sketch.problems) } else { printed }
    }
}
