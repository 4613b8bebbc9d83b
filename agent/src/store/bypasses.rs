//! Bypasses as they are stored: those that hold. What became of others is in the audit log.

use std::sync::Arc;

use portcullis_policy::Name;
use portcullis_unlock::ledger::Bypass;
use rusqlite::{Connection, params};

use super::unlocks::json;
use super::{StoreError, sqlite};

/// Their table. A full disk may have put this migration off: then the first bypass makes it.
pub(super) const TABLE: &str = "
    CREATE TABLE IF NOT EXISTS bypasses (endpoint TEXT PRIMARY KEY, body TEXT NOT NULL) STRICT, WITHOUT ROWID;
";

fn is_there(connection: &Connection) -> rusqlite::Result<bool> {
    let tables: i64 = connection.query_row(
        "SELECT count(*) FROM sqlite_schema WHERE type = 'table' AND name = 'bypasses'",
        [],
        |row| row.get(0),
    )?;
    Ok(tables > 0)
}

pub(super) fn write(
    connection: &Connection,
    bypasses: &[(Name, Option<Arc<Bypass>>)],
) -> rusqlite::Result<()> {
    if bypasses.is_empty() {
        return Ok(());
    }
    connection.execute_batch(TABLE)?;
    for (endpoint, bypass) in bypasses {
        match bypass {
            Some(bypass) => connection
                .prepare_cached("INSERT OR REPLACE INTO bypasses (endpoint, body) VALUES (?1, ?2)")?
                .execute(params![endpoint.as_str(), json(&**bypass)?])?,
            None => connection
                .prepare_cached("DELETE FROM bypasses WHERE endpoint = ?1")?
                .execute([endpoint.as_str()])?,
        };
    }
    Ok(())
}

/// Those that hold. `damaged` makes an error of what cannot be read.
pub(super) fn load(
    connection: &Connection,
    damaged: &dyn Fn(String) -> StoreError,
) -> Result<Vec<Bypass>, StoreError> {
    let failed = || sqlite("read the bypasses");
    if !is_there(connection).map_err(failed())? {
        return Ok(Vec::new());
    }
    let mut select = connection
        .prepare("SELECT endpoint, body FROM bypasses")
        .map_err(failed())?;
    let rows = select
        .query_map([], |row| Ok((row.get(0)?, row.get(1)?)))
        .map_err(failed())?;
    let mut loaded = Vec::new();
    for row in rows {
        let (endpoint, body): (String, String) = row.map_err(failed())?;
        let bypass =
            serde_json::from_str(&body).map_err(|error| damaged(format!("bypasses/{endpoint}: {error}")))?;
        loaded.push(bypass);
    }
    Ok(loaded)
}
