//! `learn` from beginning to end: deeds go in, the files of a policy and a report come out.

use std::collections::BTreeMap;
use std::fs::{self, OpenOptions};
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};

use solewriter_types::clean;
use solewriter_types::subject::Pattern;

use super::connected;
use super::deed::Deed;
use super::draft::before::Before;
use super::draft::draft;
use super::draft::existing::Existing;
use super::draft::report::{Library, Report};
use super::evidence::Evidence;
use super::evidence::generalise::Level;
use super::evidence::tally::Few;
use super::mapping::Mapping;

/// The most libraries that are told apart.
const MOST_LIBRARIES: usize = 256;

/// Learns from deeds, one after the other, in bounded memory.
#[derive(Debug)]
pub struct Learner {
    evidence: Evidence,
    existing: Existing,
    level: Level,
    before: Option<Before>,
    libraries: BTreeMap<String, (u64, Few)>,
}

impl Learner {
    /// Nothing learnt yet.
    #[must_use]
    pub fn new(mapping: Mapping, existing: Existing, level: Level) -> Self {
        let evidence = Evidence::new(mapping, existing.durables());
        let libraries = BTreeMap::new();
        Self { evidence, existing, level, before: None, libraries }
    }

    /// Has services observed (`enforce = "observe"`), with what their users could do before.
    #[must_use]
    pub fn observing(self, before: Before) -> Self {
        Self { before: Some(before), ..self }
    }

    /// Takes one deed.
    pub fn take(&mut self, deed: &Deed<'_>) {
        self.evidence.take(deed);
    }

    /// Takes a connection that is open now. Gives how many of its subscriptions were none.
    pub fn take_open(&mut self, connection: &connected::Open<'_>) -> usize {
        let client = connection.client();
        let all = connection.connection.subscriptions.iter().flatten();
        let (is, is_none): (Vec<_>, Vec<_>) =
            all.partition(|subscription| Pattern::parse(&subscription.subject).is_ok());
        let subscriptions = is.into_iter().map(|subscription| {
            let queue = Some(subscription.queue.as_str()).filter(|queue| !queue.is_empty());
            (subscription.subject.as_str(), queue)
        });
        let service = self.evidence.open(&client, subscriptions);
        let version = &connection.connection.version;
        let library = match (client.lang.as_deref(), version.as_str()) {
            (None, _) => "(unknown)".to_owned(),
            (Some(lang), version) => format!("{lang} {version}"),
        };
        let mut library = clean::line(library.trim()).into_owned();
        if !self.libraries.contains_key(&library) && self.libraries.len() >= MOST_LIBRARIES {
            "(others)".clone_into(&mut library);
        }
        let (count, services) = self.libraries.entry(library).or_default();
        *count += 1;
        if let Some(service) = &service {
            services.add(service);
        }
        is_none.len()
    }

    /// The files of a policy, by name, and what people are told. No file where no service was seen.
    #[must_use]
    pub fn finish(mut self) -> (Vec<(String, String)>, Report) {
        self.evidence.settle();
        let before = self.before.as_ref();
        let (files, mut report) = draft(&self.evidence, &self.existing, self.level, before);
        report.connected = self
            .libraries
            .into_iter()
            .map(|(library, (connections, services))| Library {
                library,
                connections,
                services: services.names().iter().map(ToString::to_string).collect(),
            })
            .collect();
        (files, report)
    }
}

/// Why files could not be written.
#[derive(Debug, thiserror::Error)]
pub enum WriteError {
    /// One is there.
    #[error("{} is there already", .0.display())]
    Exists(PathBuf),
    /// The system says no.
    #[error("{}: {error}", path.display())]
    Io {
        /// The file or folder.
        path: PathBuf,
        /// Why not.
        error: io::Error,
    },
}

/// Writes files into a folder, which is made if it is not there. Without `replace`, nothing is
/// written if one of them is there. A file is there whole or not at all.
///
/// # Errors
/// [`WriteError`]; files that were written before stay.
pub fn write(dir: &Path, files: &[(String, String)], replace: bool) -> Result<(), WriteError> {
    let io = |path: &Path, error| WriteError::Io { path: path.to_owned(), error };
    fs::create_dir_all(dir).map_err(|error| io(dir, error))?;
    let paths: Vec<PathBuf> = files.iter().map(|(name, _)| dir.join(name)).collect();
    if let Some(path) = paths.iter().find(|path| !replace && fs::symlink_metadata(path).is_ok()) {
        return Err(WriteError::Exists(path.clone()));
    }
    for ((name, text), path) in files.iter().zip(&paths) {
        // Names that begin with a dot are no files of a policy.
        let aside = dir.join(format!(".{name}.new"));
        let written = written(&aside, text).and_then(|()| put(&aside, path, replace));
        if let Err(error) = written {
            let _ = fs::remove_file(&aside);
            return Err(match error.kind() {
                io::ErrorKind::AlreadyExists => WriteError::Exists(path.clone()),
                _ => io(path, error),
            });
        }
    }
    Ok(())
}

fn written(aside: &Path, text: &str) -> io::Result<()> {
    // What an earlier run left behind.
    match fs::remove_file(aside) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let mut file = OpenOptions::new().write(true).create_new(true).open(aside)?;
    file.write_all(text.as_bytes())?;
    file.sync_all()
}

/// Gives the file its name. A link is refused where the name is taken, as a rename is not.
fn put(aside: &Path, path: &Path, replace: bool) -> io::Result<()> {
    if replace {
        return fs::rename(aside, path);
    }
    fs::hard_link(aside, path)?;
    fs::remove_file(aside)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_are_written_whole_and_never_over_others() {
        let dir = tempfile::tempdir().unwrap();
        let dir = dir.path().join("policy");
        let files = |text: &str| vec![("a.toml".to_owned(), text.to_owned())];
        write(&dir, &files("1"), false).unwrap();
        fs::write(dir.join(".a.toml.new"), "left behind").unwrap();
        let two = [files("2"), vec![("b.toml".to_owned(), String::new())]].concat();
        assert!(matches!(write(&dir, &two, false), Err(WriteError::Exists(_))));
        assert_eq!(fs::read_to_string(dir.join("a.toml")).unwrap(), "1");
        assert!(!dir.join("b.toml").exists());
        write(&dir, &two, true).unwrap();
        assert_eq!(fs::read_to_string(dir.join("a.toml")).unwrap(), "2");
        let mut names: Vec<_> =
            fs::read_dir(&dir).unwrap().map(|entry| entry.unwrap().file_name()).collect();
        names.sort();
        assert_eq!(names, ["a.toml", "b.toml"]);
    }
}
