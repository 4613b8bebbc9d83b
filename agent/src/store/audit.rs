//! The audit log: entries that only ever join it, each with a hash over itself and the hash before it.

use portcullis_audit::{Entry, Head, LONGEST_DETAIL, LONGEST_WORD, hash, hex};
use portcullis_policy::text;
use rusqlite::types::ValueRef;
use rusqlite::{Connection, OptionalExtension, params};
use sha2::{Digest, Sha256};

use super::history::History;
use super::{StoreError, archive, signed, sqlite, unsigned};

/// An entry in its place.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Logged {
    /// 1, 2, 3, … without a gap.
    pub number: u64,
    pub entry: Entry,
    /// Over the entry and the hash before it.
    pub hash: [u8; 32],
}

/// An entry as it is shown: one that cannot be, since it is huge or was damaged, keeps none of the others from it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Listed {
    pub number: u64,
    pub entry: Entry,
    /// Its hash as it is stored, in hexadecimal digits.
    pub hash: String,
    /// The hash of the entry before, likewise.
    pub previous: String,
    /// Not all of it is shown: its hash is over more.
    pub cut: bool,
}

impl Listed {
    /// About how many bytes it takes in a message.
    pub fn size(&self) -> usize {
        let entry = &self.entry;
        let texts = [
            &entry.actor,
            &entry.role,
            &entry.action,
            &entry.subject,
            &entry.detail,
        ];
        texts.iter().map(|text| text.len()).sum::<usize>() + 256
    }
}

/// The end of the log.
pub(super) fn read_head(connection: &Connection) -> rusqlite::Result<Head> {
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

/// Adds entries behind the end of the log. Returns the new end.
pub(super) fn append(mut head: Head, connection: &Connection, entries: &[Entry]) -> rusqlite::Result<Head> {
    let mut insert = connection.prepare_cached(
        "INSERT INTO audit (number, at, actor, role, action, subject, detail, generation, hash)
         VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9)",
    )?;
    let mut salt = None;
    for entry in entries {
        let mut entry = entry.clone();
        if let Some(digest) = entry.evidence.take() {
            let salt = match salt {
                Some(salt) => salt,
                None => *salt.insert(salt_of(connection)?),
            };
            entry.detail = with_digest(&entry.detail, &salt, &digest);
        }
        let entry = entry.bounded();
        head.number += 1;
        head.hash = hash(&head.hash, head.number, &entry);
        insert.execute(params![
            signed(head.number),
            entry.at_ms,
            entry.actor,
            entry.role,
            entry.action,
            entry.subject,
            entry.detail,
            signed(entry.generation),
            head.hash.as_slice(),
        ])?;
    }
    Ok(head)
}

/// What the database salts digests with; made when it is needed first.
fn salt_of(connection: &Connection) -> rusqlite::Result<[u8; 32]> {
    connection.execute(
        "INSERT OR IGNORE INTO texts (name, value) VALUES ('audit_salt', lower(hex(randomblob(32))))",
        [],
    )?;
    let text: String =
        connection.query_row("SELECT value FROM texts WHERE name = 'audit_salt'", [], |row| {
            row.get(0)
        })?;
    Ok(Sha256::digest(text).into())
}

/// A detail with the salted digest of evidence.
fn with_digest(detail: &str, salt: &[u8; 32], digest: &[u8; 32]) -> String {
    let salted = Sha256::new()
        .chain_update(b"portcullis audit evidence 1")
        .chain_update(salt)
        .chain_update(digest)
        .finalize();
    let mut value = serde_json::from_str(detail).unwrap_or(serde_json::Value::Null);
    if let Some(object) = value.as_object_mut() {
        object.insert("evidence_sha256".to_string(), hex(&salted).into());
        return value.to_string();
    }
    detail.to_string()
}

/// Which entries are wanted.
#[derive(Debug, Clone, Default)]
pub struct Wanted {
    /// After this number, or before it when the newest come first; 0 for from the end.
    pub after: u64,
    /// The newest come first.
    pub newest_first: bool,
    pub actor: String,
    /// Whose action begins so.
    pub action: String,
    /// Whose subject begins so.
    pub subject: String,
    /// Largest number of entries.
    pub limit: usize,
}

/// The result of verifying the whole log.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Verification {
    /// Entries that were looked at.
    pub entries: u64,
    /// Entries before them, which are in files.
    pub archived: u64,
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
            evidence: None,
        },
        hash: row.get(8)?,
    })
}

/// An entry, whatever is in its columns.
fn listed(row: &rusqlite::Row<'_>, base: &Head) -> rusqlite::Result<Listed> {
    let mut cut = false;
    let mut text = |column: usize, most: usize| -> rusqlite::Result<String> {
        let bytes = bytes(row, column)?;
        let shown = String::from_utf8_lossy(bytes.get(..most.min(bytes.len())).unwrap_or_default());
        cut |= bytes.len() > most || matches!(shown, std::borrow::Cow::Owned(_));
        Ok(text::cut_of(&shown, bytes.len(), most).into_owned())
    };
    let entry = Entry {
        actor: text(2, LONGEST_WORD)?,
        role: text(3, LONGEST_WORD)?,
        action: text(4, LONGEST_WORD)?,
        subject: text(5, LONGEST_WORD)?,
        detail: text(6, LONGEST_DETAIL)?,
        at_ms: number(row, 1)?,
        generation: unsigned(number(row, 7)?),
        evidence: None,
    };
    Ok(Listed {
        number: unsigned(number(row, 0)?),
        entry,
        hash: hex(bytes(row, 8)?),
        previous: match row.get_ref(9)? {
            // The first one follows what is in a file, or nothing.
            ValueRef::Null => hex(&base.hash),
            _ => hex(bytes(row, 9)?),
        },
        cut,
    })
}

fn bytes<'r>(row: &'r rusqlite::Row<'_>, column: usize) -> rusqlite::Result<&'r [u8]> {
    Ok(match row.get_ref(column)? {
        ValueRef::Text(bytes) | ValueRef::Blob(bytes) => bytes,
        _ => &[],
    })
}

fn number(row: &rusqlite::Row<'_>, column: usize) -> rusqlite::Result<i64> {
    Ok(match row.get_ref(column)? {
        ValueRef::Integer(number) => number,
        _ => 0,
    })
}

pub(super) const COLUMNS: &str = "number, at, actor, role, action, subject, detail, generation, hash";

/// The entry of a row and its hash, if it follows an end of the log and is what was written; else what is wrong with it.
pub(super) fn next(row: &rusqlite::Row<'_>, before: &Head) -> Result<([u8; 32], Entry), String> {
    let wanted = before.number + 1;
    // A changed byte may also be of a type or an encoding that cannot be read.
    let found = logged(row).map_err(|error| format!("it cannot be read: {error}"))?;
    if found.number != wanted {
        return Err(format!(
            "entry {wanted} is missing: entry {} follows",
            found.number
        ));
    }
    if found.hash != hash(&before.hash, wanted, &found.entry) {
        return Err("its content or its hash was changed".to_string());
    }
    Ok((found.hash, found.entry))
}

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
    /// Entries of the audit log, as they are shown. Fewer than `limit` only when there are no more, or when they take more than
    /// `room` bytes: then one at least, and the second value is true.
    pub fn audit(&self, wanted: &Wanted, room: usize) -> Result<(Vec<Listed>, bool), StoreError> {
        let (compare, order) = match wanted.newest_first {
            true => ("number < ?1", "DESC"),
            false => ("number > ?1", "ASC"),
        };
        let from = match (wanted.newest_first, wanted.after) {
            (true, 0) => i64::MAX,
            (_, after) => signed(after),
        };
        let query = format!(
            "SELECT {COLUMNS}, (SELECT hash FROM audit AS before WHERE before.number = audit.number - 1)
             FROM audit WHERE {compare} AND (?2 = '' OR actor = ?2) AND action LIKE ?3 ESCAPE '\\'
             AND subject LIKE ?4 ESCAPE '\\' ORDER BY number {order} LIMIT ?5"
        );
        let read = || {
            let base = archive::base(self.connection())?;
            let mut select = self.connection().prepare_cached(&query)?;
            let values = params![
                from,
                wanted.actor,
                beginning(&wanted.action),
                beginning(&wanted.subject),
                signed(wanted.limit as u64)
            ];
            let mut rows = select.query(values)?;
            let (mut found, mut size) = (Vec::new(), 0);
            while let Some(row) = rows.next()? {
                let entry = listed(row, &base)?;
                size += entry.size();
                if size > room && !found.is_empty() {
                    return Ok((found, true));
                }
                found.push(entry);
            }
            Ok((found, false))
        };
        read().map_err(sqlite("read the audit log"))
    }

    /// Computes every hash again, and finds the first entry that is not what it was. `expected`: ends that the log had, as the
    /// agent knows that writes it, or somebody who kept one elsewhere.
    pub fn verify_audit(&self, expected: &[Head]) -> Result<Verification, StoreError> {
        let failed = || sqlite("read the audit log");
        let base = archive::base(self.connection()).map_err(failed())?;
        let (mut head, mut broken, mut vouched) = (base, None, base.number == 0);
        let query = format!("SELECT {COLUMNS} FROM audit ORDER BY number");
        let mut read = || -> rusqlite::Result<()> {
            let mut select = self.connection().prepare_cached(&query)?;
            let mut rows = select.query([])?;
            while let Some(row) = rows.next()? {
                let number = head.number + 1;
                let problem = match next(row, &head) {
                    Ok((hash, _)) if expected.iter().any(|e| e.number == number && e.hash != hash) => {
                        "it is not the one that was expected: its hash is another".to_string()
                    }
                    Ok((hash, entry)) => {
                        vouched |= archive::vouches(&entry, &base);
                        head = Head { number, hash };
                        continue;
                    }
                    Err(problem) => problem,
                };
                broken = Some((number, problem));
                return Ok(());
            }
            Ok(())
        };
        read().map_err(failed())?;
        if broken.is_none() && !vouched {
            let problem = "no entry says that those before it are in a file".to_string();
            broken = Some((base.number + 1, problem));
        }
        if broken.is_none() && expected.iter().any(|e| e.number == base.number && *e != base) {
            let problem = "it is not the one that was expected: its hash is another".to_string();
            broken = Some((base.number, problem));
        }
        let furthest = expected.iter().map(|head| head.number).max().unwrap_or(0);
        if broken.is_none() && head.number < furthest {
            let problem = format!(
                "the log ends at {}, and entry {furthest} was written",
                head.number
            );
            broken = Some((head.number + 1, problem));
        }
        Ok(Verification {
            entries: head.number - base.number,
            archived: base.number,
            broken,
            head: head.hash,
        })
    }
}
