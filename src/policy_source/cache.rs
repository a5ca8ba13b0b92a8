//! The last good policy on disk, for a start at which its source cannot be reached.
//!
//! Three files: the policy with where it came from, written when it changes; and beside it, when its
//! source last said that it is the newest, written now and then, and what is not settled of earlier
//! policies, while something is not. Each is replaced by a rename.
//! What is read back is judged like any other policy.

use std::fs::{self, File};
use std::io::{self, Read as _};
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::sync::PoisonError;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::directory::{MAX_BYTES, MAX_FILES};
use crate::policy_source::origin::Origin;
use solewriter_core::diagnostics::{Problem, Problems, SourceFile};
use solewriter_core::handover::claims::Claims;
use solewriter_core::policy::model::Revision;
use solewriter_core::policy::validate;

/// What the files say of their form.
const FORMAT: u32 = 1;

/// Texts grow when they are written as JSON: by a half, in files that people write.
const MAX_FILE: u64 = MAX_BYTES * 2;

/// The note is not written more often than this.
const CONFIRM_AT_MOST_EVERY: i64 = 30;

/// A policy that was in force.
#[derive(Debug)]
pub struct Kept {
    /// Its revision.
    pub revision: Revision,
    /// Which revision of a bucket it was.
    pub origin: Option<Origin>,
    /// When its source last answered (Unix time).
    pub confirmed: i64,
    /// Its files.
    pub files: Vec<SourceFile>,
    /// What was not settled of earlier policies.
    pub claims: Claims,
    /// Documents of emergencies.
    pub emergencies: Vec<String>,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Written<'a> {
    format: u32,
    source: std::borrow::Cow<'a, str>,
    revision: std::borrow::Cow<'a, str>,
    origin: Option<Origin>,
    confirmed: i64,
    documents: Vec<Document<'a>>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    emergencies: Vec<String>,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Document<'a> {
    name: std::borrow::Cow<'a, str>,
    text: std::borrow::Cow<'a, str>,
}

/// Of which policy the source said when that it is the newest.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Confirmation {
    format: u32,
    revision: String,
    number: Option<u64>,
    confirmed: i64,
}

/// What was not settled when that policy was in force.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct NotSettled {
    format: u32,
    revision: String,
    number: Option<u64>,
    claims: Claims,
}

/// Writes and reads the file of one instance.
#[derive(Debug)]
pub struct PolicyCache {
    path: PathBuf,
    /// The source that it is for: another one's policy is not started from.
    source: String,
    /// How often the confirmation is written, in seconds.
    every: i64,
    /// When it was last written, and whether writing failed last time.
    last: Mutex<(i64, bool)>,
    /// Whether there may be a file of what is not settled.
    unsettled: AtomicBool,
}

impl PolicyCache {
    /// Keeps the policy of `source` in that file. A confirmation is written often enough that
    /// `keep_at_most` means what it says.
    #[must_use]
    pub fn new(path: PathBuf, source: String, keep_at_most: Duration) -> Self {
        let most = i64::try_from(keep_at_most.as_secs()).unwrap_or(i64::MAX);
        let every = (most / 100).clamp(1, CONFIRM_AT_MOST_EVERY);
        Self { path, source, every, last: Mutex::new((i64::MIN, false)), unsettled: true.into() }
    }

    /// Replaces what is kept. What fails is logged: the service goes on without. Blocks.
    pub fn keep(&self, kept: &Kept) {
        let documents = kept
            .files
            .iter()
            .map(|file| Document { name: (&**file.name()).into(), text: file.text().into() });
        let written = Written {
            format: FORMAT,
            source: (&*self.source).into(),
            revision: kept.revision.whole().into(),
            origin: kept.origin.clone(),
            confirmed: kept.confirmed,
            documents: documents.collect(),
            emergencies: kept.emergencies.clone(),
        };
        // First: a policy whose claims are not there counts as settled.
        let number = kept.origin.as_ref().map(|o| o.number);
        let claims = self.write_claims(&kept.revision, number, &kept.claims);
        self.tell(claims.and_then(|()| replace(&self.path, &written)));
    }

    /// Nothing is left of what was not settled. Blocks, once.
    pub fn settled(&self) {
        if !self.unsettled.swap(false, Ordering::Relaxed) {
            return;
        }
        let removed = match fs::remove_file(self.beside("claims")) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
            removed => removed,
        };
        self.tell(removed);
    }

    fn write_claims(
        &self,
        revision: &Revision,
        number: Option<u64>,
        claims: &Claims,
    ) -> io::Result<()> {
        let path = self.beside("claims");
        if claims.is_empty() && !path.exists() {
            return Ok(());
        }
        self.unsettled.store(true, Ordering::Relaxed);
        let (format, revision, claims) = (FORMAT, revision.whole().to_owned(), claims.clone());
        let written = NotSettled { format, revision, number, claims };
        replace(&path, &written)
    }

    /// What the file says that was not settled of that policy.
    fn claims(&self, revision: &Revision, number: Option<u64>) -> Claims {
        let path = self.beside("claims");
        let read = || -> Option<NotSettled> { serde_json::from_slice(&read(&path).ok()??).ok() };
        match read() {
            Some(left) if left.format == FORMAT => {
                let same = revision.is_written(&left.revision) && left.number == number;
                if same { left.claims } else { Claims::default() }
            }
            // There was something.
            _ if path.exists() => Claims::unknown(),
            _ => Claims::default(),
        }
    }

    /// Notes that the source said so at that Unix time. Blocks, shortly and seldom.
    pub fn confirm(&self, revision: &Revision, number: Option<u64>, now: i64) {
        {
            let mut last = self.last.lock().unwrap_or_else(PoisonError::into_inner);
            if now.saturating_sub(last.0).saturating_abs() < self.every {
                return;
            }
            last.0 = now;
        }
        let confirmation = Confirmation {
            format: FORMAT,
            revision: revision.whole().to_owned(),
            number,
            confirmed: now,
        };
        self.tell(replace(&self.beside("confirmed"), &confirmation));
    }

    fn beside(&self, what: &str) -> PathBuf {
        let mut name = self.path.as_os_str().to_owned();
        name.push(".");
        name.push(what);
        name.into()
    }

    /// Says that writing fails when it begins to, and not each time.
    fn tell(&self, written: io::Result<()>) {
        let mut last = self.last.lock().unwrap_or_else(PoisonError::into_inner);
        let failed_before = std::mem::replace(&mut last.1, written.is_err());
        if let (Err(error), false) = (written, failed_before) {
            tracing::error!(
                event = "policy_not_kept", file = %self.path.display(), %error,
                "the policy in force cannot be kept for the next start ([policy] keep)",
            );
        }
    }

    /// Reads what is kept; `None` when there is nothing. Blocks.
    ///
    /// # Errors
    /// A file that cannot be read, that others may write, that is damaged, or that is another
    /// source's.
    pub fn read(&self) -> Result<Option<Kept>, Problems> {
        let path = self.path.display();
        let bad = |why: String| {
            Problem::error("kept-policy", format!("the kept policy {path} cannot be used: {why}"))
                .help("remove it to start without it, from the source alone")
        };
        let Some(bytes) = read(&self.path).map_err(|e| bad(e.to_string()))? else {
            return Ok(None);
        };
        let written: Written<'_> =
            serde_json::from_slice(&bytes).map_err(|e| bad(e.to_string()))?;
        let Written { format, source, revision, origin, confirmed, documents, emergencies } =
            written;
        if format != FORMAT {
            return Err(bad(format!("its format is {format}, not {FORMAT}")).into());
        }
        if source != self.source {
            return Err(bad(format!("it came from {source:?}, not from {}", self.source)).into());
        }
        if documents.len() > MAX_FILES {
            return Err(bad(format!("more than {MAX_FILES} files")).into());
        }
        let files: Vec<SourceFile> =
            documents.into_iter().map(|d| SourceFile::new(&*d.name, d.text)).collect();
        let found = validate::revision(&files);
        if !found.is_written(&revision) {
            return Err(bad(format!(
                "it was changed after it was written: {found}, not {revision}"
            ))
            .into());
        }
        let number = origin.as_ref().map(|o| o.number);
        let later = self.confirmation(&found, number);
        let confirmed = later.map_or(confirmed, |later| later.max(confirmed));
        let claims = self.claims(&found, number);
        Ok(Some(Kept { revision: found, origin, confirmed, files, claims, emergencies }))
    }

    /// What the note beside the file says of that policy, if it can be read.
    fn confirmation(&self, revision: &Revision, number: Option<u64>) -> Option<i64> {
        let bytes = read(&self.beside("confirmed")).ok()??;
        let note: Confirmation = serde_json::from_slice(&bytes).ok()?;
        (note.format == FORMAT && revision.is_written(&note.revision) && note.number == number)
            .then_some(note.confirmed)
    }
}

/// The file's bytes; `None` when there is none.
fn read(path: &Path) -> io::Result<Option<Vec<u8>>> {
    let file = match File::open(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        file => file?,
    };
    #[cfg(unix)]
    {
        use std::os::unix::fs::MetadataExt;
        let mode = file.metadata()?.mode() & 0o7777;
        // Who may write it decides who may connect.
        if mode & 0o022 != 0 {
            return Err(io::Error::other(format!("others may write it (mode {mode:04o})")));
        }
    }
    let mut bytes = Vec::new();
    file.take(MAX_FILE + 1).read_to_end(&mut bytes)?;
    if bytes.len() as u64 > MAX_FILE {
        return Err(io::Error::other(format!("it is larger than {} MiB", MAX_FILE >> 20)));
    }
    Ok(Some(bytes))
}

/// Writes aside and renames, so that a crash leaves the one or the other.
fn replace(path: &Path, what: &impl Serialize) -> io::Result<()> {
    let mut aside = path.as_os_str().to_owned();
    aside.push(format!(".{}.new", std::process::id()));
    let aside = PathBuf::from(aside);
    let written = write(&aside, what).and_then(|()| fs::rename(&aside, path));
    if written.is_err() {
        let _ = fs::remove_file(&aside);
    }
    written?;
    // The rename itself is on disk only when its folder is.
    let folder = path.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."));
    File::open(folder)?.sync_all()
}

/// Writes as it goes: a large policy is not held once more in memory.
fn write(path: &Path, what: &impl Serialize) -> io::Result<()> {
    let _ = fs::remove_file(path);
    let mut options = File::options();
    options.write(true).create_new(true);
    #[cfg(unix)]
    std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
    let mut file = io::BufWriter::with_capacity(1 << 16, options.open(path)?);
    serde_json::to_writer(&mut file, what)?;
    file.into_inner()?.sync_all()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn keeper(dir: &Path, source: &str) -> PolicyCache {
        PolicyCache::new(dir.join("kept.json"), source.to_owned(), Duration::from_secs(3600))
    }

    fn kept(text: &str) -> Kept {
        let files = vec![SourceFile::new("team/a.toml", text)];
        let origin = Origin {
            number: 7,
            lineage: "l".to_owned(),
            push: "p".to_owned(),
            author: "lea".to_owned(),
            message: "m".to_owned(),
            pushed_at: 900,
            forced: false,
            signed: None,
        };
        let revision = validate::revision(&files);
        let claims = Claims::default();
        let emergencies = Vec::new();
        Kept { revision, origin: Some(origin), confirmed: 1000, files, claims, emergencies }
    }

    #[test]
    fn what_is_kept_is_read_back_with_its_newest_confirmation() {
        let dir = tempfile::tempdir().unwrap();
        let keeper = keeper(dir.path(), "the bucket x");
        assert!(keeper.read().unwrap().is_none());
        let one = kept("[service.a]\n");
        keeper.keep(&one);
        let read = keeper.read().unwrap().unwrap();
        assert_eq!((read.confirmed, read.files, read.origin), (1000, one.files, one.origin));
        keeper.confirm(&one.revision, Some(7), 2000);
        keeper.confirm(&one.revision, Some(7), 2001);
        assert_eq!(keeper.read().unwrap().unwrap().confirmed, 2000, "not written every second");
        keeper.confirm(&one.revision, Some(7), 2100);
        assert_eq!(keeper.read().unwrap().unwrap().confirmed, 2100);
        // Said of another policy, it counts for nothing.
        keeper.confirm(&one.revision, Some(8), 9000);
        assert_eq!(keeper.read().unwrap().unwrap().confirmed, 1000);
    }

    #[test]
    fn what_is_not_as_it_was_written_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let one = keeper(dir.path(), "the bucket x");
        one.keep(&kept("[service.a]\n"));
        let file = dir.path().join("kept.json");
        let good = fs::read_to_string(&file).unwrap();
        let says = |keeper: &PolicyCache, part: &str| {
            let said = keeper.read().unwrap_err().to_string();
            assert!(said.contains(part), "{said}");
        };
        says(&keeper(dir.path(), "the directory y"), "it came from");
        for (text, part) in [
            (good.replace("[service.a]", "[service.b]"), "it was changed after it was written"),
            (good.replace("\"format\":1", "\"format\":2"), "its format is 2"),
            (good[..good.len() / 2].to_owned(), "cannot be used"),
        ] {
            fs::write(&file, text).unwrap();
            says(&one, part);
        }
    }

    #[test]
    fn what_is_not_settled_is_kept_until_it_is() {
        use solewriter_core::policy::validate::validate;
        let dir = tempfile::tempdir().unwrap();
        let keeper = keeper(dir.path(), "the bucket x");
        let policy = |text: &str| validate(&[SourceFile::new("a.toml", text)]).unwrap().policy;
        let (had, has) = ("[bucket.k]\n[service.a]\nowns = ['k']\n", "[bucket.k]\n[service.a]\n");
        let claims = Claims::default().next(&policy(had), &policy(has));
        let one = Kept { claims: claims.clone(), ..kept(has) };
        keeper.keep(&one);
        let left = || keeper.read().unwrap().unwrap().claims;
        assert_eq!(left(), claims);
        // It says nothing of another policy, and a damaged file that there was something.
        let file = dir.path().join("kept.json.claims");
        let text = fs::read_to_string(&file).unwrap();
        fs::write(&file, text.replace("\"number\":7", "\"number\":6")).unwrap();
        assert!(left().is_empty());
        fs::write(&file, "{").unwrap();
        assert_eq!(left(), Claims::unknown());
        keeper.settled();
        keeper.settled();
        assert!(left().is_empty() && !file.exists());
        keeper.keep(&kept(has));
        assert!(!file.exists(), "where there is nothing, nothing is written");
    }

    #[cfg(unix)]
    #[test]
    fn a_file_that_others_may_write_is_refused() {
        use std::os::unix::fs::PermissionsExt;
        let dir = tempfile::tempdir().unwrap();
        let keeper = keeper(dir.path(), "the bucket x");
        keeper.keep(&kept("[service.a]\n"));
        let file = dir.path().join("kept.json");
        assert_eq!(fs::metadata(&file).unwrap().permissions().mode() & 0o777, 0o600);
        fs::set_permissions(&file, fs::Permissions::from_mode(0o620)).unwrap();
        assert!(keeper.read().unwrap_err().to_string().contains("others may write it"));
    }
}
