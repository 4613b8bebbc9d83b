//! Changes of the latest generations, for watchers that resume.

use std::path::{Path, PathBuf};
use std::time::Duration;

use rusqlite::{Connection, OpenFlags, OptionalExtension, params};

use super::{
    Change, Generation, KEPT_CHANGES, KEPT_GENERATIONS, Key, Kind, StoreError, signed, sqlite, unsigned,
};

/// How much history there is.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct HistoryBounds {
    generations: u64,
    changes: u64,
}

impl HistoryBounds {
    pub(super) fn read(connection: &Connection) -> rusqlite::Result<Self> {
        connection.query_row(
            "SELECT count(*), coalesce(sum(changes), 0) FROM generations",
            [],
            |row| {
                Ok(HistoryBounds {
                    generations: unsigned(row.get(0)?),
                    changes: unsigned(row.get(1)?),
                })
            },
        )
    }

    /// Writes a generation and forgets the oldest ones beyond what is kept.
    pub(super) fn append(
        mut self,
        connection: &Connection,
        generation: &Generation,
    ) -> rusqlite::Result<Self> {
        let number = signed(generation.number);
        let count = generation.changes.len() as u64;
        connection
            .prepare_cached("INSERT INTO generations (generation, at, by, changes) VALUES (?1, ?2, ?3, ?4)")?
            .execute(params![number, generation.at, generation.by, signed(count)])?;
        let mut insert = connection.prepare_cached(
            "INSERT INTO changes (generation, position, change, kind, name) VALUES (?1, ?2, ?3, ?4, ?5)",
        )?;
        for (position, (change, key)) in (0i64..).zip(&generation.changes) {
            insert.execute(params![
                number,
                position,
                change.as_str(),
                key.kind.as_str(),
                key.name
            ])?;
        }
        self.generations += 1;
        self.changes += count;
        while self.generations > 1 && (self.generations > KEPT_GENERATIONS || self.changes > KEPT_CHANGES) {
            self.forget_oldest(connection)?;
        }
        Ok(self)
    }

    #[cfg(test)]
    pub(super) fn pretend(&mut self, changes: u64) {
        self.changes = changes;
    }

    fn forget_oldest(&mut self, connection: &Connection) -> rusqlite::Result<()> {
        let (oldest, changes): (i64, i64) = connection
            .prepare_cached("SELECT generation, changes FROM generations ORDER BY generation LIMIT 1")?
            .query_row([], |row| Ok((row.get(0)?, row.get(1)?)))?;
        connection
            .prepare_cached("DELETE FROM changes WHERE generation = ?1")?
            .execute([oldest])?;
        connection
            .prepare_cached("DELETE FROM generations WHERE generation = ?1")?
            .execute([oldest])?;
        self.generations -= 1;
        self.changes = self.changes.saturating_sub(unsigned(changes));
        Ok(())
    }
}

/// Reads history while the store writes.
#[derive(Debug)]
pub struct History {
    connection: Connection,
    file: PathBuf,
}

impl History {
    /// Opens a database that a [`Store`](super::Store) has open.
    pub fn open(file: &Path) -> Result<Self, StoreError> {
        let failed = sqlite("open for reading");
        let flags = OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_NO_MUTEX;
        let connection = Connection::open_with_flags(file, flags).map_err(&failed)?;
        connection.busy_timeout(Duration::from_secs(5)).map_err(&failed)?;
        Ok(History {
            connection,
            file: file.to_path_buf(),
        })
    }

    pub(super) fn connection(&self) -> &Connection {
        &self.connection
    }

    pub(super) fn file(&self) -> &Path {
        &self.file
    }

    /// The oldest generation whose changes are kept, if there is any.
    pub fn oldest(&self) -> Result<Option<u64>, StoreError> {
        let oldest: Option<i64> = self
            .connection
            .query_row("SELECT min(generation) FROM generations", [], |row| row.get(0))
            .optional()
            .map_err(sqlite("read the history"))?
            .flatten();
        Ok(oldest.map(unsigned))
    }

    /// At most `limit` generations after a number, ascending.
    pub fn after(&self, generation: u64, limit: usize) -> Result<Vec<Generation>, StoreError> {
        self.read(generation, limit).map_err(sqlite("read the history"))
    }

    fn read(&self, generation: u64, limit: usize) -> rusqlite::Result<Vec<Generation>> {
        // One transaction, so that nothing is forgotten between the two reads.
        let transaction = self.connection.unchecked_transaction()?;
        let mut select = transaction.prepare_cached(
            "SELECT generation, at, by FROM generations WHERE generation > ?1 ORDER BY generation LIMIT ?2",
        )?;
        let mut generations = select
            .query_map(params![signed(generation), signed(limit as u64)], |row| {
                Ok(Generation {
                    number: unsigned(row.get(0)?),
                    at: row.get(1)?,
                    by: row.get(2)?,
                    changes: Vec::new(),
                })
            })?
            .collect::<rusqlite::Result<Vec<Generation>>>()?;
        let mut select = transaction.prepare_cached(
            "SELECT change, kind, name FROM changes WHERE generation = ?1 ORDER BY position",
        )?;
        for generation in &mut generations {
            let mut rows = select.query([signed(generation.number)])?;
            while let Some(row) = rows.next()? {
                let (change, kind, name): (String, String, String) = (row.get(0)?, row.get(1)?, row.get(2)?);
                let parsed = Change::named(&change).zip(Kind::named(&kind));
                let (change, kind) = parsed.ok_or(rusqlite::Error::InvalidQuery)?;
                generation.changes.push((change, Key { kind, name }));
            }
        }
        Ok(generations)
    }
}
