//! The end of the audit log, kept apart from it: number and hash of the newest entry, in a file beside the database.
//!
//! A chain of hashes shows what was changed within it, and not that its newest part is missing. So the end is written here
//! behind every commit, in place, and compared at the next start. An end that is missing stays recorded until an operator
//! takes the log as it is (`portcullis database accept`).

use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use portcullis_audit::{Head, hex};
use rusqlite::{Connection, OptionalExtension};
use sha2::{Digest, Sha256};

use super::{Entry, SideWrites, Store, StoreError, schema, signed, sqlite};

const MAGIC: &str = "portcullis audit head 1";
/// Bytes of the file: less than a block of any disk, so that it is written whole.
const SIZE: usize = 512;
/// In the database: it has such a file.
const KEPT: &str = "audit_head";

/// What the file says.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Record {
    /// The name of the database; empty as long as it has none.
    database: String,
    /// The newest entry that was written.
    head: Head,
    /// An end that was missing at a start.
    missing: Option<Head>,
}

/// What is wrong with the end of the log.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Missing {
    /// The first entry that is not there, or not what it was.
    pub number: u64,
    pub problem: String,
    /// It was not known at the start before.
    pub new: bool,
}

#[derive(Debug)]
pub(super) struct Heads {
    file: Option<File>,
    record: Record,
    /// The file could not be written the last time.
    failing: bool,
}

pub(super) fn path(database: &Path) -> PathBuf {
    let mut name = database.as_os_str().to_os_string();
    name.push(".audit-head");
    PathBuf::from(name)
}

impl Record {
    fn text(&self) -> String {
        let missing = self
            .missing
            .map_or_else(|| "-".to_string(), |head| head.to_string());
        let text = format!("{MAGIC}\n{}\n{}\n{missing}\n", self.database, self.head);
        let sum = hex(&Sha256::digest(&text));
        format!("{text}{sum}\n")
    }

    fn parse(text: &str) -> Option<Self> {
        let mut lines = text.lines();
        let mut next = || lines.next();
        let (magic, database, head, missing, sum) = (next()?, next()?, next()?, next()?, next()?);
        let body = format!("{magic}\n{database}\n{head}\n{missing}\n");
        if magic != MAGIC || sum != hex(&Sha256::digest(&body)) {
            return None;
        }
        Some(Record {
            database: database.to_string(),
            head: head.parse().ok()?,
            missing: match missing {
                "-" => None,
                head => Some(head.parse().ok()?),
            },
        })
    }
}

fn read(path: &Path) -> io::Result<Option<Option<Record>>> {
    match std::fs::read(path) {
        // Made on a full disk, and never written.
        Ok(bytes) if bytes.is_empty() => Ok(None),
        Ok(bytes) => Ok(Some(Record::parse(&String::from_utf8_lossy(&bytes)))),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}

/// What differs between what is recorded and the log.
fn compare(connection: &Connection, record: &Record, head: &Head) -> rusqlite::Result<Option<(u64, String)>> {
    let Head { number, hash } = record.head;
    if number == 0 {
        return Ok(None);
    }
    if number > head.number {
        let problem = format!("the log ends at {}, and entry {number} was written", head.number);
        return Ok(Some((head.number + 1, problem)));
    }
    let found: Option<Vec<u8>> = connection
        .query_row(
            "SELECT hash FROM audit WHERE number = ?1",
            [signed(number)],
            |row| row.get(0),
        )
        .optional()?;
    if found.as_deref() == Some(hash.as_slice()) {
        return Ok(None);
    }
    let problem = format!(
        "entry {number} is not the one that was written, whose hash was {}",
        hex(&hash)
    );
    Ok(Some((number, problem)))
}

impl Heads {
    /// Compares the end of the log with the file beside the database, and begins to keep it.
    pub fn open(
        database: &Path,
        connection: &Connection,
        head: Head,
    ) -> Result<(Self, Option<Missing>), StoreError> {
        let failed = || sqlite("compare the end of the audit log");
        let beside = path(database);
        let name = schema::name(connection).map_err(failed())?.unwrap_or_default();
        let kept: Option<String> = connection
            .query_row("SELECT value FROM texts WHERE name = ?1", [KEPT], |row| {
                row.get(0)
            })
            .optional()
            .map_err(failed())?;
        let read = read(&beside);
        let (missing, sticky) = match &read {
            Ok(Some(Some(record))) if record.database == name || record.database.is_empty() => {
                match compare(connection, record, &head).map_err(failed())? {
                    Some((number, problem)) => {
                        let first = record.missing.unwrap_or(record.head);
                        (Some((number, problem, true)), Some(first))
                    }
                    None => {
                        let before = record.missing.map(|end| {
                            let problem =
                                format!("the log that ended with {end} was another at an earlier start");
                            (end.number, problem, false)
                        });
                        (before, record.missing)
                    }
                }
            }
            Ok(None) if kept.is_none() => (None, None),
            Ok(Some(Some(_))) => (
                Some((1, "the log is that of another database".to_string(), true)),
                Some(head),
            ),
            Ok(None) => {
                let problem = format!(
                    "{} is gone: it is not known where the log ended",
                    beside.display()
                );
                (Some((head.number + 1, problem, true)), Some(head))
            }
            Ok(Some(None)) => {
                let problem = format!(
                    "{} is damaged: it is not known where the log ended",
                    beside.display()
                );
                (Some((head.number + 1, problem, true)), Some(head))
            }
            Err(error) => {
                let problem = format!("{} cannot be read: {error}", beside.display());
                (Some((head.number + 1, problem, true)), None)
            }
        };
        let record = Record {
            database: name,
            head,
            missing: sticky,
        };
        let mut heads = Heads {
            file: None,
            record,
            failing: false,
        };
        let mut written = false;
        // A file that cannot be read is somebody's to look at: it stays as it is.
        if read.is_ok() {
            match make(&beside) {
                Ok(file) => heads.file = Some(file),
                Err(error) => {
                    tracing::error!(%error, file = %beside.display(), "the end of the audit log is not kept")
                }
            }
            written = heads.write();
        }
        if written && kept.is_none() {
            // A full disk puts it off to the next start.
            let noted = connection.execute("INSERT OR IGNORE INTO texts VALUES (?1, 'kept')", [KEPT]);
            if let Err(error) = noted {
                tracing::warn!(%error, "the database does not say that the end of its audit log is kept beside it");
            }
        }
        let missing = missing.map(|(number, problem, new)| Missing { number, problem, new });
        Ok((heads, missing))
    }

    /// The log ends here now.
    pub fn ends_at(&mut self, head: Head) {
        if self.record.head == head {
            return;
        }
        self.record.head = head;
        self.write();
    }

    /// The log is taken as it is.
    pub fn accept(&mut self) {
        self.record.missing = None;
        self.write();
    }

    /// In place, without waiting for the disk: after a crash of the machine the file may be behind the log, which is no
    /// fault.
    fn write(&mut self) -> bool {
        let Some(file) = &self.file else {
            return false;
        };
        let mut bytes = self.record.text().into_bytes();
        bytes.resize(SIZE, b'\n');
        let written = file.write_all_at(&bytes, 0);
        if let Err(error) = &written
            && !self.failing
        {
            tracing::error!(%error, "the end of the audit log is not kept until its file can be written");
        }
        self.failing = written.is_err();
        written.is_ok()
    }
}

impl Store {
    /// Tells the file beside the database where the audit log ends.
    pub(super) fn log_ends(&mut self) {
        if let Some(heads) = &mut self.heads {
            heads.ends_at(self.audit);
        }
    }

    /// Takes the audit log as it is, although its end was missing, and notes that in it.
    pub(super) fn accept_audit(&mut self, entry: Entry) -> Result<(), StoreError> {
        let side = SideWrites {
            audit: vec![entry],
            ..SideWrites::default()
        };
        self.commit_with(None, &side)?;
        if let Some(heads) = &mut self.heads {
            heads.accept();
        }
        Ok(())
    }
}

fn make(path: &Path) -> io::Result<File> {
    OpenOptions::new()
        .create(true)
        .truncate(false)
        .write(true)
        .mode(0o600)
        .open(path)
}

/// The record of a database that was put in the place of another: its log ends where it ends.
pub(super) fn forget(database: &Path) -> io::Result<()> {
    match std::fs::remove_file(path(database)) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

/// A database that was put in the place of another begins without a record.
pub(super) fn begin_anew(connection: &Connection) -> rusqlite::Result<()> {
    connection
        .execute("DELETE FROM texts WHERE name = ?1", [KEPT])
        .map(drop)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_is_read_and_a_changed_byte_is_noticed() {
        let record = Record {
            database: "ab".repeat(16),
            head: Head {
                number: u64::MAX,
                hash: [9; 32],
            },
            missing: Some(Head {
                number: 7,
                hash: [0; 32],
            }),
        };
        let text = record.text();
        assert!(text.len() <= SIZE, "{}", text.len());
        assert_eq!(Record::parse(&text), Some(record));
        for at in 0..text.len() - 1 {
            let mut bytes = text.clone().into_bytes();
            bytes[at] ^= 1;
            assert_eq!(Record::parse(&String::from_utf8_lossy(&bytes)), None, "{at}");
        }
    }
}
