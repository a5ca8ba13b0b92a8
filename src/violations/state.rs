//! What a follower has to remember: how far it read, what it counted, and what it told and has no
//! acknowledgement for.
//!
//! All of it is one file, replaced as a whole. An event is published only after the file that
//! holds it is there. So after a crash either its lines are read again, and it was never told; or
//! it is in the file with its number, and what is published twice has one message id.

use std::fs::{self, File};
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::tail::Position;
use solewriter_types::dedup::Fold;
use solewriter_types::server_log::line::Refusal;

/// The largest file that is read, in bytes.
const MAX_BYTES: u64 = 256 * 1024 * 1024;

/// What the file says of its form.
const FORMAT: u32 = 1;

/// An event on its way to the audit stream.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Outgoing {
    /// The message's id, which is not the event's: it is nobody's business before it is used.
    pub id: String,
    /// The CloudEvents object.
    pub body: String,
}

/// What is remembered.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct State {
    /// Names this follower in ids and subjects, as long as its state lives.
    pub instance: String,
    /// The number of the next event.
    pub next: u64,
    /// The server's name, once its log told it.
    pub server: Option<String>,
    /// How far the file was read.
    pub position: Option<Position>,
    /// Hashes of the last violations from a stream that has no positions, the latest last.
    pub recent: Vec<u64>,
    /// Repeats that are counted and not told.
    pub folds: Vec<Fold<Refusal>>,
    /// The same of refusals of the follower's own events.
    #[serde(default)]
    pub own_folds: Vec<Fold<Refusal>>,
    /// Whether what follows may be a client's words.
    #[serde(default)]
    pub loose: bool,
    /// What was told and is not acknowledged.
    pub outbox: Vec<Outgoing>,
}

/// What every form of the file has; those of older versions say nothing.
#[derive(Deserialize)]
struct Form {
    #[serde(default)]
    format: u32,
}

/// What the file has.
#[derive(Serialize)]
struct Written<'s> {
    format: u32,
    #[serde(flatten)]
    state: &'s State,
}

/// The file.
#[derive(Clone, Debug)]
pub struct StateFile {
    path: PathBuf,
}

impl StateFile {
    /// Names it.
    #[must_use]
    pub fn new(path: &Path) -> Self {
        Self { path: path.to_owned() }
    }

    /// Reads it; `None` when there is none yet.
    ///
    /// # Errors
    /// What keeps it from being read, with the file's name and what to do.
    pub fn load(&self) -> Result<Option<State>, String> {
        let shown = self.path.display();
        let bytes = match fs::metadata(&self.path) {
            Ok(metadata) if metadata.len() > MAX_BYTES => {
                return Err(format!("{shown} is too large for a state file"));
            }
            Ok(_) => {
                fs::read(&self.path).map_err(|error| format!("cannot read {shown}: {error}"))?
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(format!("cannot read {shown}: {error}")),
        };
        if let Ok(Form { format }) = serde_json::from_slice(&bytes)
            && format > FORMAT
        {
            return Err(format!(
                "{shown} has format {format}, and this version reads {FORMAT}: go on with the version \
                 that wrote it, or move the file away to begin anew"
            ));
        }
        let state: State = serde_json::from_slice(&bytes).map_err(|error| {
            format!(
                "{shown} is not a state file: {error}; move it away to begin anew \
                 (with --from end, to pass over what was told before)"
            )
        })?;
        let is_token = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit();
        if state.instance.is_empty() || !state.instance.chars().all(is_token) {
            return Err(format!("{shown}: `instance` is not lower-case letters and digits"));
        }
        Ok(Some(state))
    }

    /// Replaces it as a whole.
    ///
    /// # Errors
    /// What the system says; what was there before is unharmed.
    pub fn save(&self, state: &State) -> io::Result<()> {
        let mut aside = self.path.clone().into_os_string();
        aside.push(".new");
        let aside = PathBuf::from(aside);
        let mut file = File::create(&aside)?;
        file.write_all(&serde_json::to_vec(&Written { format: FORMAT, state })?)?;
        file.sync_data()?;
        fs::rename(&aside, &self.path)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn comes_back_as_it_was() {
        let folder = tempfile::tempdir().unwrap();
        let file = StateFile::new(&folder.path().join("state.json"));
        assert_eq!(file.load(), Ok(None));
        let outgoing = Outgoing { id: "i-1".to_owned(), body: "{}".to_owned() };
        let state = State {
            instance: "0a".to_owned(),
            next: 7,
            outbox: vec![outgoing],
            recent: vec![u64::MAX],
            ..State::default()
        };
        file.save(&state).unwrap();
        assert_eq!(file.load(), Ok(Some(state)));
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1);
    }

    #[test]
    fn another_file_is_refused_with_its_name() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("state.json");
        for (text, said) in [
            ("not json", "is not a state file"),
            ("{\"format\":2,\"another\":1}", "has format 2, and this version reads 1"),
            (
                r#"{"instance":"a.>","next":1,"server":null,"position":null,"recent":[],"folds":[],"outbox":[]}"#,
                "`instance` is not lower-case letters and digits",
            ),
        ] {
            fs::write(&path, text).unwrap();
            let error = StateFile::new(&path).load().unwrap_err();
            assert!(error.contains("state.json") && error.contains(said), "{error}");
        }
    }
}
