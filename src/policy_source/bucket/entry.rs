//! What is written to the policy's bucket: pieces, a list of documents, and an entry for each
//! push. Everything that is read back is bounded and checked: whoever wrote it may have had other
//! plans, or another version.

use std::collections::HashSet;

use serde::{Deserialize, Serialize};

use super::hash;
use crate::policy_source::directory::{Kind, MAX_BYTES, MAX_FILES};
use crate::policy_source::origin::Origin;
use solewriter_core::authors::{Follows, Push};
use solewriter_core::diagnostics::SourceFile;
use solewriter_core::signed::MAX_DOCUMENT as MAX_SIGNATURE;
use solewriter_types::clean;
use solewriter_types::keyspace::BucketName;

/// What an entry says of its form.
const FORMAT: u32 = 1;

/// The largest piece, in bytes. Servers take messages of 1 MiB unless told otherwise.
pub const MAX_PIECE: usize = 256 * 1024;

/// The largest list of documents, in bytes.
const MAX_LIST: u64 = 16 * 1024 * 1024;

/// The longest words of people, in characters.
pub const MAX_AUTHOR: usize = 200;
/// As above.
pub const MAX_MESSAGE: usize = 2000;

/// Why something in the bucket is not what a push writes.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum EntryError {
    /// It cannot be read at all.
    #[error("revision.{0} is not what `policy push` writes: {1}")]
    Malformed(String, String),
    /// A newer solewriter wrote it.
    #[error("revision.{0} has format {1}; this version reads {FORMAT}")]
    Format(u64, u32),
    /// What it claims is out of bounds.
    #[error("revision.{0}: {1}")]
    Bounds(u64, String),
    /// A piece is not what its name says.
    #[error("the piece doc.{0} is damaged")]
    Damaged(String),
    /// The documents are not what the push said.
    #[error("revision.{0} says that it is policy {1}, but its documents are policy {2}")]
    Other(u64, String, String),
}

/// A text of any size, in pieces.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Blob {
    /// Its size in bytes.
    pub size: u64,
    /// The SHA-256 of each piece, in order.
    pub pieces: Vec<String>,
}

impl Blob {
    /// Cuts bytes into pieces of at most `at_most` bytes: their names and contents.
    pub fn cut(bytes: &[u8], at_most: usize) -> (Self, Vec<(String, &[u8])>) {
        let pieces: Vec<_> =
            bytes.chunks(at_most.max(1)).map(|piece| (hash(piece), piece)).collect();
        let names = pieces.iter().map(|(name, _)| name.clone()).collect();
        (Self { size: bytes.len() as u64, pieces: names }, pieces)
    }

    fn check(&self, at_most: u64) -> Result<(), String> {
        if self.size > at_most {
            return Err(format!("{} bytes are more than {at_most}", self.size));
        }
        if self.pieces.len() as u64 > self.size {
            return Err("it has more pieces than bytes".to_owned());
        }
        let hash = |name: &String| {
            name.len() == 64 && name.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'))
        };
        if !self.pieces.iter().all(hash) {
            return Err("the name of a piece is not a SHA-256".to_owned());
        }
        Ok(())
    }
}

/// One document of the policy.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Document {
    /// Its name, relative to the policy's top, with `/` between folders.
    pub name: String,
    /// Its text.
    pub text: Blob,
}

/// One push. Fields that a newer version adds are ignored; a change of meaning is another format.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Entry {
    format: u32,
    /// Its number: 1 for the first.
    pub number: u64,
    /// The bucket's own identity, made with the first push.
    pub lineage: String,
    /// Identifies the push, so that who pushed can tell it from somebody else's.
    pub push: String,
    /// The policy revision that the documents come to.
    pub policy: String,
    /// The list of documents, as JSON.
    pub list: Blob,
    /// How many documents there are.
    pub documents: usize,
    /// How many bytes they have in all.
    pub bytes: u64,
    /// Who pushed, as they called themselves.
    pub author: String,
    /// What they said about it.
    pub message: String,
    /// When, in seconds since the Unix epoch, by their clock.
    pub time: i64,
    /// The version of solewriter that pushed.
    pub tool: String,
    /// The number whose documents these are, when it is a rollback.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rollback_of: Option<u64>,
    /// Whether a handover is not to wait for servers that do not answer.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub forced: bool,
    /// What an author signed of it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub signature: Option<String>,
}

/// What people say of a push.
#[derive(Clone, Debug)]
pub struct Words {
    /// Who.
    pub author: String,
    /// Why.
    pub message: String,
    /// When, in seconds since the Unix epoch.
    pub time: i64,
    /// The number whose documents these are, when it is a rollback.
    pub rollback_of: Option<u64>,
    /// Whether a handover is not to wait for servers that do not answer.
    pub forced: bool,
}

/// What every form of an entry has.
#[derive(Deserialize)]
struct Form {
    format: u32,
}

impl Entry {
    /// A push of documents that come to that policy revision, after `head`. `random` makes it
    /// its own.
    pub(super) fn new(
        head: Option<&Self>,
        random: [u8; 16],
        policy: &str,
        list: Blob,
        (documents, bytes): (usize, u64),
        words: Words,
    ) -> Self {
        let push = data_encoding::HEXLOWER.encode(&random);
        Self {
            format: FORMAT,
            number: head.map_or(1, |head| head.number.saturating_add(1)),
            lineage: head.map_or_else(|| push.clone(), |head| head.lineage.clone()),
            push,
            policy: policy.to_owned(),
            list,
            documents,
            bytes,
            author: words.author,
            message: words.message,
            time: words.time,
            tool: env!("CARGO_PKG_VERSION").to_owned(),
            rollback_of: words.rollback_of,
            forced: words.forced,
            signature: None,
        }
    }

    /// What an author signs of it, but for what it follows.
    #[must_use]
    pub fn to_sign(&self, bucket: &BucketName) -> Push {
        Push {
            lineage: self.lineage.clone(),
            number: self.number,
            push: self.push.clone(),
            policy: self.policy.clone(),
            author: self.author.clone(),
            message: hash(self.message.as_bytes()),
            rollback_of: self.rollback_of,
            forced: self.forced,
            ..Push::of(bucket)
        }
    }

    /// What the signature of the next one says that it follows.
    #[must_use]
    pub fn to_follow(&self) -> Follows {
        let (number, push, policy) = (self.number, self.push.clone(), self.policy.clone());
        Follows { number, push, policy }
    }

    /// Reads the entry under `revision.<key>`.
    ///
    /// # Errors
    /// [`EntryError`].
    pub fn read(key: &str, bytes: &[u8]) -> Result<Self, EntryError> {
        let malformed = |why: String| EntryError::Malformed(key.to_owned(), why);
        let number: u64 =
            key.parse().map_err(|_| malformed("its key is not a number".to_owned()))?;
        if number == 0 || number.to_string() != key {
            return Err(malformed("its key is not a number in plain form".to_owned()));
        }
        let form: Form = serde_json::from_slice(bytes).map_err(|e| malformed(e.to_string()))?;
        if form.format != FORMAT {
            return Err(EntryError::Format(number, form.format));
        }
        let entry: Self = serde_json::from_slice(bytes).map_err(|e| malformed(e.to_string()))?;
        let out = |why: String| EntryError::Bounds(number, why);
        if entry.number != number {
            return Err(out(format!("it calls itself {}", entry.number)));
        }
        entry.list.check(MAX_LIST).map_err(|why| out(format!("the list of documents: {why}")))?;
        if entry.documents > MAX_FILES || entry.bytes > MAX_BYTES {
            return Err(out(format!(
                "{} documents with {} bytes are more than {MAX_FILES} with {MAX_BYTES}",
                entry.documents, entry.bytes
            )));
        }
        let long = |text: &str, most| text.chars().count() > most;
        if long(&entry.author, MAX_AUTHOR)
            || long(&entry.message, MAX_MESSAGE)
            || [&entry.lineage, &entry.push, &entry.policy, &entry.tool].iter().any(|t| long(t, 64))
        {
            return Err(out("a text in it is too long".to_owned()));
        }
        if entry.signature.as_ref().is_some_and(|signature| signature.len() > MAX_SIGNATURE) {
            return Err(out("its signature is too long".to_owned()));
        }
        Ok(entry)
    }

    /// The entry as it is written.
    pub(super) fn to_bytes(&self) -> Vec<u8> {
        // Numbers, strings and lists of them always have a JSON form.
        serde_json::to_vec(self).unwrap_or_default()
    }

    /// Where a policy in force came from.
    #[must_use]
    pub fn origin(&self) -> Origin {
        Origin {
            number: self.number,
            lineage: self.lineage.clone(),
            push: self.push.clone(),
            author: self.author.clone(),
            message: self.message.clone(),
            pushed_at: self.time,
            forced: self.forced,
            signed: None,
        }
    }

    /// The documents that the list names.
    ///
    /// # Errors
    /// When it names more than the entry says, or what no push writes.
    pub(super) fn documents(&self, list: &[u8]) -> Result<Vec<Document>, EntryError> {
        let out = |why: String| EntryError::Bounds(self.number, why);
        let documents: Vec<Document> = serde_json::from_slice(list)
            .map_err(|error| out(format!("the list of documents: {error}")))?;
        let mut left = self.bytes;
        let mut names = HashSet::new();
        for Document { name, text } in &documents {
            if !is_name(name) {
                return Err(out(format!("{name:?} is not the name of a policy file")));
            }
            if !names.insert(name.as_str()) {
                return Err(out(format!("{name} is listed twice")));
            }
            text.check(left).map_err(|why| out(format!("{name}: {why}")))?;
            left -= text.size;
        }
        if documents.len() != self.documents || left != 0 {
            return Err(out("the list of documents is not the one that was pushed".to_owned()));
        }
        Ok(documents)
    }
}

/// Whether a policy directory could have a file of that name: `pull` writes it.
fn is_name(name: &str) -> bool {
    let part =
        |part: &str| !part.is_empty() && !part.starts_with('.') && !part.contains(['\\', ':']);
    name.len() <= 1024
        && Kind::of(name) == Some(Kind::Policy)
        && !name.chars().any(clean::is_unclean)
        && name.split('/').all(part)
}

/// The list of documents as it is written, and every piece of all of them.
pub(super) fn list(files: &[SourceFile], at_most: usize) -> (Vec<u8>, Vec<(String, &[u8])>) {
    let mut pieces = Vec::new();
    let mut documents = Vec::with_capacity(files.len());
    for file in files {
        let (text, cut) = Blob::cut(file.text().as_bytes(), at_most);
        pieces.extend(cut);
        documents.push(Document { name: file.name().to_string(), text });
    }
    (serde_json::to_vec(&documents).unwrap_or_default(), pieces)
}

/// Files that no push may write, because nobody would read them back.
pub(super) fn unpushable(files: &[SourceFile]) -> Option<&str> {
    files.iter().map(|file| &**file.name()).find(|name| !is_name(name))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn words() -> Words {
        Words {
            author: "lea".to_owned(),
            message: "m".to_owned(),
            time: 5,
            rollback_of: None,
            forced: false,
        }
    }

    fn pushed() -> (Entry, Vec<u8>) {
        let files = [SourceFile::new("a.toml", "x".repeat(10)), SourceFile::new("team/b.toml", "")];
        let (list, pieces) = list(&files, 4);
        assert_eq!(pieces.len(), 3);
        let (blob, _) = Blob::cut(&list, MAX_PIECE);
        (Entry::new(None, [7; 16], "abc", blob, (2, 10), words()), list)
    }

    #[test]
    fn an_entry_is_read_back_as_it_was_written() {
        let (first, list) = pushed();
        assert_eq!((first.number, &first.lineage), (1, &first.push));
        assert_eq!(Entry::read("1", &first.to_bytes()), Ok(first.clone()));
        let documents = first.documents(&list).unwrap();
        assert_eq!(
            documents[1],
            Document { name: "team/b.toml".to_owned(), text: Blob { size: 0, pieces: vec![] } }
        );
        let blob = first.list.clone();
        let next = Entry::new(Some(&first), [8; 16], "abd", blob, (2, 10), words());
        assert_eq!((next.number, &next.lineage), (2, &first.lineage));
        assert_ne!(next.push, first.push);
    }

    #[test]
    fn what_no_push_writes_is_refused() {
        let (entry, _) = pushed();
        let good = String::from_utf8(entry.to_bytes()).unwrap();
        assert!(Entry::read("1", good.as_bytes()).is_ok());
        for (key, from, to) in [
            ("2", "", ""),
            ("01", "", ""),
            ("-1", "", ""),
            ("x", "", ""),
            ("1", "\"format\":1", "\"format\":2"),
            ("1", "\"documents\":2", "\"documents\":20001"),
            ("1", "\"bytes\":10", "\"bytes\":99999999999"),
            ("1", "\"size\":", "\"size\":9999999999"),
            ("1", "\"pieces\":[\"", "\"pieces\":[\"../"),
            ("1", "{", "["),
            ("1", "\"lea\"", "5"),
        ] {
            let text = good.replacen(from, to, 1);
            assert!(Entry::read(key, text.as_bytes()).is_err(), "{key} {to}");
        }
        let long = good.replace("\"lea\"", &format!("\"{}\"", "x".repeat(MAX_AUTHOR + 1)));
        assert!(Entry::read("1", long.as_bytes()).is_err());
    }

    #[test]
    fn a_list_names_what_the_entry_says_and_only_policy_files() {
        let (entry, good) = pushed();
        let good = String::from_utf8(good).unwrap();
        for (from, to) in [
            ("team/b.toml", "../b.toml"),
            ("team/b.toml", "/etc/b.toml"),
            ("team/b.toml", "team//b.toml"),
            ("team/b.toml", ".git/b.toml"),
            ("team/b.toml", "team\\\\b.toml"),
            ("team/b.toml", "b.test.toml"),
            ("team/b.toml", "b.txt"),
            ("team/b.toml", "a.toml"),
            ("team/b.toml", "b\\n.toml"),
            ("\"size\":0", "\"size\":1"),
            ("\"size\":10", "\"size\":9"),
            ("[{", "[null,{"),
        ] {
            let list = good.replacen(from, to, 1);
            assert_ne!(list, good);
            assert!(entry.documents(list.as_bytes()).is_err(), "{to}");
        }
        assert!(entry.documents(b"[]").is_err());
    }
}
