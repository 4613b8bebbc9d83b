//! Old entries of the audit log go to files, and the chain goes on: an entry of the log names each file, its digest, and the
//! hash of its last entry. And the room that is kept free on the disk.

use std::fs::OpenOptions;
use std::io::{BufWriter, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use portcullis_audit::ARCHIVED;
use portcullis_audit::{Entry, Head, hex};
use rusqlite::{Connection, OptionalExtension};
use sha2::{Digest, Sha256};

use super::audit::{self, COLUMNS};
use super::{Store, StoreError, journal, schema, signed, sqlite};
use crate::config::Audit;

/// In the database: number and hash of the last entry that is in a file.
const BASE: &str = "audit_base";
/// Most entries that go into a file.
const MOST: u64 = 50_000;

/// The last entry that is not in the database any more.
pub(super) fn base(connection: &Connection) -> rusqlite::Result<Head> {
    let found: Option<String> = connection
        .query_row("SELECT value FROM texts WHERE name = ?1", [BASE], |row| {
            row.get(0)
        })
        .optional()?;
    // What cannot be read counts as none, and the log is found to begin too late.
    Ok(found.and_then(|text| text.parse().ok()).unwrap_or_default())
}

/// Whether an entry says that the log up to this end is in a file.
pub(super) fn vouches(entry: &Entry, base: &Head) -> bool {
    entry.action == ARCHIVED
        && serde_json::from_str::<serde_json::Value>(&entry.detail).is_ok_and(|detail| {
            detail.get("head").and_then(serde_json::Value::as_str) == Some(&base.to_string())
        })
}

/// How much room there must be before anything is opened.
#[derive(Debug, Clone)]
pub struct Room {
    folder: PathBuf,
    least: u64,
}

impl Room {
    pub fn check(&self) -> Result<(), StoreError> {
        if self.least == 0 {
            return Ok(());
        }
        // Where the free space is unknown, writing decides.
        let Ok(found) = rustix::fs::statvfs(&self.folder) else {
            return Ok(());
        };
        let free = found.f_bavail.saturating_mul(found.f_frsize);
        match free < self.least {
            true => Err(StoreError::LittleRoom {
                free: free >> 20,
                least: self.least >> 20,
            }),
            false => Ok(()),
        }
    }
}

fn folder(file: &Path) -> PathBuf {
    match file.parent() {
        Some(folder) if !folder.as_os_str().is_empty() => folder.to_path_buf(),
        _ => PathBuf::from("."),
    }
}

impl Store {
    /// How much of the audit log stays, and how much room.
    pub fn keep(&mut self, keep: Audit) {
        self.keep = keep;
    }

    /// The room that is to be kept free.
    pub fn room(&self) -> Room {
        Room {
            folder: folder(&self.file),
            least: self.keep.free_disk,
        }
    }

    /// Moves the oldest entries of the audit log to a file, if there are too many. The file.
    pub fn archive(&mut self, at_ms: i64, generation: u64) -> Result<Option<PathBuf>, StoreError> {
        let failed = || sqlite("archive the audit log");
        let keep = self.keep.entries;
        let some = (keep / 4).clamp(1, MOST);
        let Some(connection) = self.connection.as_mut().filter(|_| keep > 0) else {
            return Ok(None);
        };
        let count = self.audit.number - self.base.number.min(self.audit.number);
        if count < keep + some {
            return Ok(None);
        }
        let (first, last) = (self.base.number + 1, self.base.number + some);
        let mut name = self.file.file_name().unwrap_or_default().to_os_string();
        name.push(format!(".audit-{first}-{last}.jsonl"));
        let to = self.keep.archive.clone().unwrap_or_else(|| folder(&self.file));
        let to = to.join(name);
        let (head, digest) = write(connection, &self.file, self.base, last, &to)?;
        let entry = Entry {
            at_ms,
            actor: "agent".to_string(),
            role: "agent".to_string(),
            action: ARCHIVED.to_string(),
            subject: format!("audit/{first}-{last}"),
            detail: serde_json::json!({
                "file": to.display().to_string(),
                "head": head.to_string(),
                "sha256": digest,
            })
            .to_string(),
            generation,
            evidence: None,
        };
        let audit = self.audit;
        let moved = (|| {
            let transaction =
                connection.transaction_with_behavior(rusqlite::TransactionBehavior::Immediate)?;
            // Entries only ever leave here.
            transaction.execute_batch("DROP TRIGGER IF EXISTS audit_keeps_all")?;
            transaction.execute("DELETE FROM audit WHERE number <= ?1", [signed(last)])?;
            transaction.execute_batch(schema::KEEPS_ALL)?;
            let audit = audit::append(audit, &transaction, &[entry])?;
            transaction.execute(
                "INSERT OR REPLACE INTO texts (name, value) VALUES (?1, ?2)",
                [BASE, &head.to_string()],
            )?;
            transaction.commit()?;
            Ok(audit)
        })();
        match moved {
            Ok(audit) => (self.audit, self.base) = (audit, head),
            // A COMMIT that failed can have reached the disk nevertheless.
            Err(error) => {
                self.look()?;
                return Err(failed()(error));
            }
        }
        self.log_ends();
        Ok(Some(to))
    }
}

/// Writes entries to a file, whose chain is computed again on the way. The last one, and the digest of the file.
fn write(
    connection: &Connection,
    database: &Path,
    base: Head,
    last: u64,
    to: &Path,
) -> Result<(Head, String), StoreError> {
    let failed = || sqlite("archive the audit log");
    let beside = |source| StoreError::Beside {
        action: "write",
        file: to.to_path_buf(),
        source,
    };
    let mut new = to.as_os_str().to_os_string();
    new.push(".new");
    let new = PathBuf::from(new);
    let file = OpenOptions::new()
        .create(true)
        .truncate(true)
        .write(true)
        .mode(0o600)
        .open(&new)
        .map_err(beside)?;
    let (mut file, mut digest, mut head) = (BufWriter::new(file), Sha256::new(), base);
    let query = format!("SELECT {COLUMNS} FROM audit WHERE number <= ?1 ORDER BY number");
    let mut select = connection.prepare_cached(&query).map_err(failed())?;
    let mut rows = select.query([signed(last)]).map_err(failed())?;
    while let Some(row) = rows.next().map_err(failed())? {
        let number = head.number + 1;
        let (hash, entry) = audit::next(row, &head).map_err(|problem| StoreError::Damaged {
            file: database.to_path_buf(),
            problem: format!("entry {number} of the audit log stays in it: {problem}"),
        })?;
        head = Head { number, hash };
        let line = serde_json::json!({
            "number": number,
            "at_ms": entry.at_ms,
            "actor": entry.actor,
            "role": entry.role,
            "action": entry.action,
            "subject": entry.subject,
            "detail": entry.detail,
            "generation": entry.generation,
            "hash": hex(&hash),
        });
        let line = format!("{line}\n");
        digest.update(&line);
        file.write_all(line.as_bytes()).map_err(beside)?;
    }
    if head.number != last {
        return Err(StoreError::Damaged {
            file: database.to_path_buf(),
            problem: format!("entry {} of the audit log is missing", head.number + 1),
        });
    }
    let file = file.into_inner().map_err(|error| beside(error.into_error()))?;
    file.sync_all().map_err(beside)?;
    std::fs::rename(&new, to).map_err(beside)?;
    journal::sync_folder(to).map_err(beside)?;
    Ok((head, hex(&digest.finalize())))
}
