//! The audit log: entries that only ever join it, each with a hash over itself and the hash before it.

use rusqlite::{Connection, OptionalExtension, params};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use super::history::History;
use super::{StoreError, signed, sqlite, unsigned};

/// The hash before the first entry.
const GENESIS: [u8; 32] = [0; 32];

/// Something that happened.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Entry {
    /// Milliseconds since the Unix epoch.
    pub at_ms: i64,
    /// Who: `uid 0`, `cert spiffe://…`, `agent`.
    pub actor: String,
    /// In which role.
    pub role: String,
    /// What: `policy.change`, `unlock.activate`, `access.denied`.
    pub action: String,
    /// About what: `unlocks/u-1`, `generations/7`.
    pub subject: String,
    /// More about it, as JSON.
    pub detail: String,
    /// The generation of the policy that it made, or that was current.
    pub generation: u64,
}

/// An entry in its place.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Logged {
    /// 1, 2, 3, … without a gap.
    pub number: u64,
    /// What happened.
    pub entry: Entry,
    /// Over the entry and the hash before it.
    pub hash: [u8; 32],
}

/// SHA-256 over the hash before, the number, and every field behind its length.
fn hash(before: &[u8; 32], number: u64, entry: &Entry) -> [u8; 32] {
    let mut digest = Sha256::new();
    digest.update(b"portcullis audit 1\n");
    digest.update(before);
    digest.update(number.to_be_bytes());
    digest.update(entry.at_ms.to_be_bytes());
    digest.update(entry.generation.to_be_bytes());
    for field in [
        &entry.actor,
        &entry.role,
        &entry.action,
        &entry.subject,
        &entry.detail,
    ] {
        digest.update((field.len() as u64).to_be_bytes());
        digest.update(field.as_bytes());
    }
    digest.finalize().into()
}

/// The end of the log.
#[derive(Debug, Clone, Copy)]
pub(super) struct Head {
    number: u64,
    hash: [u8; 32],
}

impl Default for Head {
    fn default() -> Self {
        Head {
            number: 0,
            hash: GENESIS,
        }
    }
}

impl Head {
    pub(super) fn number(&self) -> u64 {
        self.number
    }

    pub(super) fn read(connection: &Connection) -> rusqlite::Result<Self> {
        let newest = connection
            .query_row(
                "SELECT number, hash FROM audit ORDER BY number DESC LIMIT 1",
                [],
                |row| {
                    Ok(Head {
                        number: unsigned(row.get(0)?),
                        hash: row.get(1)?,
                    })
                },
            )
            .optional()?;
        Ok(newest.unwrap_or_default())
    }

    /// Appends entries.
    pub(super) fn append(mut self, connection: &Connection, entries: &[Entry]) -> rusqlite::Result<Self> {
        let mut insert = connection.prepare_cached(
            "INSERT INTO audit (number, at, actor, role, action, subject, detail, generation, hash)
             VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9)",
        )?;
        for entry in entries {
            self.number += 1;
            self.hash = hash(&self.hash, self.number, entry);
            insert.execute(params![
                signed(self.number),
                entry.at_ms,
                entry.actor,
                entry.role,
                entry.action,
                entry.subject,
                entry.detail,
                signed(entry.generation),
                self.hash.as_slice(),
            ])?;
        }
        Ok(self)
    }
}

/// Which entries are wanted.
#[derive(Debug, Clone, Default)]
pub struct Wanted {
    /// After this number, or before it when the newest come first; 0 for from the end.
    pub after: u64,
    /// The newest come first.
    pub newest_first: bool,
    /// By this actor.
    pub actor: String,
    /// Whose action begins so.
    pub action: String,
    /// Whose subject begins so.
    pub subject: String,
    /// At most so many.
    pub limit: usize,
}

/// What a look at the whole log came to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Verdict {
    /// Entries that were looked at.
    pub entries: u64,
    /// The first entry that is not what it was, and what is wrong with it.
    pub broken: Option<(u64, String)>,
    /// Hash of the last entry that is right.
    pub head: [u8; 32],
}

fn logged(row: &rusqlite::Row<'_>) -> rusqlite::Result<Logged> {
    Ok(Logged {
        number: unsigned(row.get(0)?),
        entry: Entry {
            at_ms: row.get(1)?,
            actor: row.get(2)?,
            role: row.get(3)?,
            action: row.get(4)?,
            subject: row.get(5)?,
            detail: row.get(6)?,
            generation: unsigned(row.get(7)?),
        },
        hash: row.get(8)?,
    })
}

const COLUMNS: &str = "number, at, actor, role, action, subject, detail, generation, hash";

/// Text that a `LIKE` pattern takes as it is, and anything behind it.
fn beginning(text: &str) -> String {
    let mut pattern = String::with_capacity(text.len() + 1);
    for c in text.chars() {
        if matches!(c, '%' | '_' | '\\') {
            pattern.push('\\');
        }
        pattern.push(c);
    }
    pattern.push('%');
    pattern
}

impl History {
    /// Entries of the audit log.
    pub fn audit(&self, wanted: &Wanted) -> Result<Vec<Logged>, StoreError> {
        let (compare, order) = match wanted.newest_first {
            true => ("number < ?1", "DESC"),
            false => ("number > ?1", "ASC"),
        };
        let from = match (wanted.newest_first, wanted.after) {
            (true, 0) => i64::MAX,
            (_, after) => signed(after),
        };
        let query = format!(
            "SELECT {COLUMNS} FROM audit WHERE {compare} AND (?2 = '' OR actor = ?2) AND action LIKE ?3 ESCAPE '\\'
             AND subject LIKE ?4 ESCAPE '\\' ORDER BY number {order} LIMIT ?5"
        );
        let read = || {
            let mut select = self.connection().prepare_cached(&query)?;
            let values = params![
                from,
                wanted.actor,
                beginning(&wanted.action),
                beginning(&wanted.subject),
                signed(wanted.limit as u64)
            ];
            select
                .query_map(values, logged)?
                .collect::<rusqlite::Result<Vec<Logged>>>()
        };
        read().map_err(sqlite("read the audit log"))
    }

    /// The hash of the entry with a number; of none, that before the first one.
    pub fn audit_hash(&self, number: u64) -> Result<[u8; 32], StoreError> {
        let found = self
            .connection()
            .query_row(
                "SELECT hash FROM audit WHERE number = ?1",
                [signed(number)],
                |row| row.get(0),
            )
            .optional()
            .map_err(sqlite("read the audit log"))?;
        Ok(found.unwrap_or(GENESIS))
    }

    /// Computes every hash again, and finds the first entry that is not what it was. `expected`: entries that there must
    /// be at least, as the agent that writes them knows.
    pub fn verify_audit(&self, expected: u64) -> Result<Verdict, StoreError> {
        let mut verdict = Verdict {
            entries: 0,
            broken: None,
            head: GENESIS,
        };
        let query = format!("SELECT {COLUMNS} FROM audit ORDER BY number");
        let mut read = || -> rusqlite::Result<()> {
            let mut select = self.connection().prepare_cached(&query)?;
            let mut rows = select.query([])?;
            while let Some(row) = rows.next()? {
                let wanted = verdict.entries + 1;
                // A changed byte may also be of a type or an encoding that cannot be read.
                let problem = match logged(row) {
                    Ok(found) if found.number != wanted => Some(format!(
                        "entry {wanted} is missing: entry {} follows",
                        found.number
                    )),
                    Ok(found) if found.hash != hash(&verdict.head, wanted, &found.entry) => {
                        Some("its content or its hash was changed".to_string())
                    }
                    Ok(found) => {
                        verdict.head = found.hash;
                        None
                    }
                    Err(error) => Some(format!("it cannot be read: {error}")),
                };
                if let Some(problem) = problem {
                    verdict.broken = Some((wanted, problem));
                    return Ok(());
                }
                verdict.entries = wanted;
            }
            Ok(())
        };
        read().map_err(sqlite("read the audit log"))?;
        if verdict.broken.is_none() && verdict.entries < expected {
            let problem = format!(
                "the log ends at {}, and entry {expected} was written",
                verdict.entries
            );
            verdict.broken = Some((verdict.entries + 1, problem));
        }
        Ok(verdict)
    }
}
