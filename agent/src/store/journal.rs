//! The journal of closings: a small file beside the database whose space is taken when it is made, so that a closing is
//! durable although the disk is full.
//!
//! ```text
//! 0     header, two copies that are written in turn: database, commits known to be stored
//! 4096  records, each: length, number, SHA-256, content; read until one does not fit the one before
//! ```
//!
//! Records are written in place and synced. When the end of the file is reached, and the database has everything, the next
//! record goes to the beginning again. A record names the database it belongs to in its hash.

use std::fs::{File, OpenOptions};
use std::io::Write;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use portcullis_policy::Name;
use portcullis_unlock::clock::Moment;
use portcullis_unlock::ledger::{Strikes, Unlock};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use portcullis_audit::Entry;

/// Size of the file: about a thousand closings that the database does not have yet.
pub const SIZE: u64 = 4 << 20;
const RECORDS: u64 = 4096;
/// Bytes of a copy of the header, and of a record before its content.
const COPY: u64 = 512;
const FRAME: u64 = 4 + 8 + 32;
const MAGIC: &[u8; 12] = b"prtcclose\0\0\x01";
/// What the header says before its hash.
const SAID: usize = 12 + 16 + 8 + 8;

/// Names a database, so that no journal is read beside another.
pub type DatabaseId = [u8; 16];

/// A closing as it is made again from the journal.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Closing {
    /// The generation that it made; 0 when it changed no row.
    pub generation: u64,
    /// When, by both clocks.
    pub seen: Moment,
    pub by: String,
    /// Unlocks as they are after it.
    pub unlocks: Vec<Unlock>,
    /// How often programs were revoked on endpoints.
    pub strikes: Vec<(Name, Name, Option<Strikes>)>,
    /// How often programs were revoked on any endpoint of a tenant.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub tenant_strikes: Vec<(String, Name, Option<Strikes>)>,
    /// Entries for the audit log.
    pub audit: Vec<Entry>,
    /// Endpoints whose bypasses it ended.
    #[serde(default)]
    pub bypasses: Vec<Name>,
}

/// Why a closing is not in the journal.
#[derive(Debug, thiserror::Error)]
pub enum JournalError {
    /// The file cannot be used.
    #[error("the journal {file} cannot be written: {source}")]
    File { file: PathBuf, source: std::io::Error },
    /// There is no room before the database takes closings up again.
    #[error("the journal {file} is full: give the database room, so that it takes closings up")]
    Full { file: PathBuf },
    /// A closing cannot be written as JSON.
    #[error("a closing cannot be written: {0}")]
    Encode(#[from] serde_json::Error),
}

/// What the header says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Header {
    /// Whose journal it is.
    pub database: DatabaseId,
    /// Commits that the database had at least.
    pub commits: u64,
    /// Rises with every copy that is written.
    counter: u64,
}

impl Header {
    fn bytes(&self) -> Vec<u8> {
        let mut bytes = MAGIC.to_vec();
        bytes.extend(self.database);
        bytes.extend(self.commits.to_be_bytes());
        bytes.extend(self.counter.to_be_bytes());
        let hash = Sha256::digest(&bytes);
        bytes.extend(hash);
        bytes
    }

    fn read(bytes: &[u8]) -> Option<Self> {
        let (said, hash) = bytes.split_at_checked(SAID)?;
        if said.get(..12)? != MAGIC || hash.get(..32)? != Sha256::digest(said).as_slice() {
            return None;
        }
        Some(Header {
            database: said.get(12..28)?.try_into().ok()?,
            commits: u64::from_be_bytes(said.get(28..36)?.try_into().ok()?),
            counter: u64::from_be_bytes(said.get(36..44)?.try_into().ok()?),
        })
    }

    /// The newest whole copy in a file, if there is one.
    pub fn from_file(file: &Path) -> Option<Self> {
        let file = File::open(file).ok()?;
        let copy = |number: u64| {
            let mut bytes = [0; COPY as usize];
            file.read_exact_at(&mut bytes, number * COPY).ok()?;
            Header::read(&bytes)
        };
        [copy(0), copy(1)]
            .into_iter()
            .flatten()
            .max_by_key(|header| header.counter)
    }
}

/// The journal of a database: `p.db.closings` beside `p.db`.
pub fn path(database: &Path) -> PathBuf {
    let mut name = database.as_os_str().to_os_string();
    name.push(".closings");
    PathBuf::from(name)
}

/// The file, open for writing.
#[derive(Debug)]
pub struct Journal {
    path: PathBuf,
    database: DatabaseId,
    size: u64,
    /// Opened, or made, when it is written first: a journal of another database stays as it is until then.
    file: Option<File>,
    header: Header,
    /// Where the next record goes.
    at: u64,
    /// Number of the newest record, and of the newest that the database has.
    newest: u64,
    stored: u64,
}

impl Journal {
    /// The journal of a database that has everything up to the record `stored`, with the records that it has not. A new
    /// file is made where there is none.
    pub fn open(path: &Path, database: DatabaseId, stored: u64, commits: u64) -> (Self, Vec<(u64, Closing)>) {
        Self::open_sized(path, database, stored, commits, SIZE)
    }

    /// [`open`](Self::open) with another size of a file that has to be made.
    pub fn open_sized(
        path: &Path,
        database: DatabaseId,
        stored: u64,
        commits: u64,
        size: u64,
    ) -> (Self, Vec<(u64, Closing)>) {
        let mut journal = Journal {
            path: path.to_path_buf(),
            database,
            size,
            file: None,
            header: Header {
                database,
                commits,
                counter: 0,
            },
            at: RECORDS,
            newest: stored,
            stored,
        };
        let mut records = Vec::new();
        match Header::from_file(path) {
            Some(header) if header.database == database => {
                journal.header = header;
                records = journal.read();
            }
            // It stays until there is something to write.
            Some(_) => {}
            None => {
                if let Err(error) = journal.make() {
                    tracing::error!(%error, "closings are not durable while the database cannot be written");
                }
            }
        }
        records.retain(|(number, _)| *number > stored);
        (journal, records)
    }

    fn failed(&self) -> impl Fn(std::io::Error) -> JournalError {
        let file = self.path.clone();
        move |source| JournalError::File {
            file: file.clone(),
            source,
        }
    }

    /// Makes the file with all its space, or none.
    fn make(&mut self) -> Result<(), JournalError> {
        let write = || -> std::io::Result<File> {
            let new = self.path.with_extension("closings.new");
            let mut file = OpenOptions::new()
                .create(true)
                .truncate(true)
                .read(true)
                .write(true)
                .mode(0o600)
                .open(&new)?;
            let made = (|| {
                let zeros = vec![0u8; 64 << 10];
                let mut left = self.size;
                while left > 0 {
                    let some = left.min(zeros.len() as u64);
                    file.write_all(zeros.get(..some as usize).unwrap_or_default())?;
                    left -= some;
                }
                file.write_all_at(&self.header.bytes(), 0)?;
                file.sync_all()?;
                std::fs::rename(&new, &self.path)?;
                sync_folder(&self.path)
            })();
            if made.is_err() {
                // What is left of it would only take space.
                drop(std::fs::remove_file(&new));
            }
            made.map(|()| file)
        };
        let file = write().map_err(self.failed())?;
        (self.file, self.at) = (Some(file), RECORDS);
        Ok(())
    }

    /// Reads every record, and finds where the next one goes.
    fn read(&mut self) -> Vec<(u64, Closing)> {
        let mut records = Vec::new();
        let opened = OpenOptions::new().read(true).write(true).open(&self.path);
        let file = match opened {
            Ok(file) => file,
            Err(error) => {
                tracing::error!(file = %self.path.display(), %error, "the journal of closings cannot be opened");
                return records;
            }
        };
        self.size = file.metadata().map_or(self.size, |found| found.len());
        let mut before = 0;
        while let Some((number, content, next)) = self.record(&file, self.at, before) {
            (before, self.at) = (number, next);
            match serde_json::from_slice(&content) {
                Ok(closing) => records.push((number, closing)),
                // Its hash is right: another version wrote it.
                Err(error) => tracing::error!(number, %error, "a closing in the journal cannot be read"),
            }
        }
        self.newest = self.newest.max(before);
        self.file = Some(file);
        records
    }

    fn record(&self, file: &File, at: u64, before: u64) -> Option<(u64, Vec<u8>, u64)> {
        let mut frame = [0; FRAME as usize];
        file.read_exact_at(&mut frame, at).ok()?;
        let length = u32::from_be_bytes(frame.get(..4)?.try_into().ok()?);
        let number = u64::from_be_bytes(frame.get(4..12)?.try_into().ok()?);
        let next = at + FRAME + u64::from(length);
        if length == 0 || next > self.size || number <= before {
            return None;
        }
        let mut content = vec![0; length as usize];
        file.read_exact_at(&mut content, at + FRAME).ok()?;
        (frame.get(12..)? == self.hash(number, &content)).then_some((number, content, next))
    }

    fn hash(&self, number: u64, content: &[u8]) -> [u8; 32] {
        let mut digest = Sha256::new();
        digest.update(b"portcullis closing 1\n");
        digest.update(self.database);
        digest.update(number.to_be_bytes());
        digest.update(content);
        digest.finalize().into()
    }

    /// Number of the newest record.
    pub fn newest(&self) -> u64 {
        self.newest
    }

    /// Writes a record; it is on the disk when this returns.
    pub fn append(&mut self, number: u64, closing: &Closing) -> Result<(), JournalError> {
        let content = serde_json::to_vec(closing)?;
        let length = u32::try_from(content.len()).unwrap_or(u32::MAX);
        let mut bytes = length.to_be_bytes().to_vec();
        bytes.extend(number.to_be_bytes());
        bytes.extend(self.hash(number, &content));
        bytes.extend(content);
        let long = bytes.len() as u64;
        if self.file.is_none() {
            self.make()?;
        }
        if self.at + long > self.size && self.stored >= self.newest {
            self.at = RECORDS;
        }
        if self.at + long > self.size {
            return Err(JournalError::Full {
                file: self.path.clone(),
            });
        }
        if let Some(file) = &self.file {
            let written = file.write_all_at(&bytes, self.at).and_then(|()| file.sync_data());
            written.map_err(self.failed())?;
        }
        self.at += long;
        self.newest = self.newest.max(number);
        Ok(())
    }

    /// The database has everything up to record `number`, and `commits` commits. It is a hint that shows a
    /// database which lost some: not synced, and a failure is no harm.
    pub fn stored(&mut self, number: u64, commits: u64) {
        self.stored = self.stored.max(number);
        if commits <= self.header.commits {
            return;
        }
        self.header.commits = commits;
        self.header.counter += 1;
        let at = (self.header.counter % 2) * COPY;
        if let Some(file) = &self.file
            && let Err(error) = file.write_all_at(&self.header.bytes(), at)
        {
            tracing::debug!(%error, "the header of the journal was not written");
        }
    }
}

/// Makes a file's name durable.
pub(super) fn sync_folder(file: &Path) -> std::io::Result<()> {
    match file.parent() {
        Some(folder) if !folder.as_os_str().is_empty() => File::open(folder)?.sync_all(),
        _ => File::open(".")?.sync_all(),
    }
}

/// Forgets how many commits a database had: another one, perhaps older, takes its place. Closings stay.
pub fn forget_commits(path: &Path) -> std::io::Result<()> {
    let Some(mut header) = Header::from_file(path) else {
        return Ok(());
    };
    header.commits = 0;
    let file = OpenOptions::new().write(true).open(path)?;
    for _ in 0..2 {
        header.counter += 1;
        file.write_all_at(&header.bytes(), (header.counter % 2) * COPY)?;
    }
    file.sync_all()
}

#[cfg(test)]
mod tests;
