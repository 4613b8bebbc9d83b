//! Reads everything at the start.

use std::path::Path;

use portcullis_compiler::{ClassId, Fingerprint};
use rusqlite::{Connection, OptionalExtension};

use super::{Key, Kind, Loaded, StoreError, Stored, sqlite, unlocks, unsigned};

/// Everything that is stored.
pub(super) fn load(connection: &Connection, file: &Path) -> Result<Loaded, StoreError> {
    let failed = || sqlite("read the policy");
    let damaged = |problem: String| StoreError::Damaged {
        file: file.to_path_buf(),
        problem,
    };
    let number = |name: &'static str| -> Result<i64, StoreError> {
        connection
            .query_row("SELECT value FROM numbers WHERE name = ?1", [name], |row| {
                row.get(0)
            })
            .optional()
            .map_err(failed())?
            .ok_or_else(|| damaged(format!("the number `{name}` is missing")))
    };
    let mut loaded = Loaded {
        generation: unsigned(number("generation")?),
        next_class: u32::try_from(number("next_class")?).map_err(|e| damaged(e.to_string()))?,
        ..Loaded::default()
    };
    let mut select = connection
        .prepare("SELECT kind, name, revision, body, created FROM resources")
        .map_err(failed())?;
    let mut rows = select.query([]).map_err(failed())?;
    while let Some(row) = rows.next().map_err(failed())? {
        let read = || -> rusqlite::Result<(String, String, i64, String, i64)> {
            Ok((row.get(0)?, row.get(1)?, row.get(2)?, row.get(3)?, row.get(4)?))
        };
        let (kind, name, revision, body, created) = read().map_err(failed())?;
        let kind = Kind::named(&kind).ok_or_else(|| damaged(format!("`{kind}` is no kind of resource")))?;
        loaded.resources.insert(
            Key { kind, name },
            Stored {
                revision: unsigned(revision),
                created,
                body,
            },
        );
    }
    let mut select = connection
        .prepare("SELECT id, fingerprint FROM classes")
        .map_err(failed())?;
    let mut rows = select.query([]).map_err(failed())?;
    while let Some(row) = rows.next().map_err(failed())? {
        let read = || -> rusqlite::Result<(u32, [u8; 32])> { Ok((row.get(0)?, row.get(1)?)) };
        let (id, fingerprint) = read().map_err(failed())?;
        loaded.classes.push((Fingerprint(fingerprint), ClassId(id)));
    }
    let mut select = connection
        .prepare("SELECT id, generation FROM released")
        .map_err(failed())?;
    let mut rows = select.query([]).map_err(failed())?;
    while let Some(row) = rows.next().map_err(failed())? {
        let read = || -> rusqlite::Result<(u32, i64)> { Ok((row.get(0)?, row.get(1)?)) };
        let (id, generation) = read().map_err(failed())?;
        loaded.released.push((ClassId(id), unsigned(generation)));
    }
    loaded.unlocks = unlocks::load(connection, &damaged)?;
    Ok(loaded)
}
