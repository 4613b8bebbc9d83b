//! What survives: resources, the generation, class ids and the history of changes, in SQLite.
//!
//! One [`Store`] writes, on the engine's thread; [`History`] reads beside it. A commit is on the disk when
//! [`Store::commit`] returns (WAL, `synchronous=FULL`).

mod audit;
mod footprints;
mod history;
mod schema;
mod unlocks;

use std::collections::BTreeMap;
use std::fs::File;
use std::path::{Path, PathBuf};

use portcullis_compiler::{ClassId, Fingerprint, OutOfClasses};
use rusqlite::{Connection, OptionalExtension, params};

pub use audit::{Entry, Logged, Verdict, Wanted};
pub use footprints::FootprintRecords;
pub use history::History;
pub use unlocks::{Aside, IdempotencyKey, LoadedUnlocks, Remembered, WantedUnlocks};

/// Generations whose changes are kept.
pub const KEPT_GENERATIONS: u64 = 100_000;
/// Changes of resources that are kept, whatever their generations; the newest generation's always are.
pub const KEPT_CHANGES: u64 = 1_000_000;

/// Why the database did not do what it was asked for.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// Its folder or file cannot be used.
    #[error("cannot use the database {file}; check that its folder exists and belongs to this user")]
    File {
        /// The file.
        file: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// Another process has it.
    #[error("the database {file} is in use by another agent: stop it, or set another [store] path")]
    InUse {
        /// The file.
        file: PathBuf,
    },
    /// Not a database, or a damaged one.
    #[error(
        "the database {file} is damaged ({problem}): restore a backup, or move it away and apply the policy again"
    )]
    Damaged {
        /// The file.
        file: PathBuf,
        /// What was found.
        problem: String,
    },
    /// Written by another program.
    #[error("{file} is a database of another program: set another [store] path")]
    Foreign {
        /// The file.
        file: PathBuf,
    },
    /// Written by a newer version.
    #[error(
        "the database {file} has format {found}, this version reads up to {known}: install the newer version again"
    )]
    Newer {
        /// The file.
        file: PathBuf,
        /// Its format.
        found: u32,
        /// The newest known one.
        known: u32,
    },
    /// A commit failed, and so did asking what became of it.
    #[error(
        "the database cannot tell whether a change was committed; the agent stops, and knows when it starts again"
    )]
    Unknown {
        /// Why.
        source: rusqlite::Error,
    },
    /// A reader of the history ended without an answer: a bug.
    #[error("the history was not read to its end; the agent's log tells why")]
    Lost(#[source] tokio::task::JoinError),
    /// The stored policy has more classes than there are numbers for.
    #[error("the stored policy cannot be taken up")]
    Classes(#[from] OutOfClasses),
    /// SQLite failed.
    #[error("the database failed to {action}; look at the disk's space and health")]
    Sqlite {
        /// What it was doing.
        action: &'static str,
        /// Why.
        source: rusqlite::Error,
    },
}

/// Which resource.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Key {
    /// Its sort.
    pub kind: Kind,
    /// Its name; empty for the baseline.
    pub name: String,
}

/// A sort of resource.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Kind {
    /// The rules for everybody; there is one.
    Baseline,
    /// A profile.
    Profile,
    /// An endpoint.
    Endpoint,
    /// An unlock program.
    Program,
    /// An unlock: stored beside resources, and told of among them.
    Unlock,
}

impl Kind {
    /// As in the database and in `profiles/web`.
    pub fn as_str(self) -> &'static str {
        match self {
            Kind::Baseline => "baseline",
            Kind::Profile => "profiles",
            Kind::Endpoint => "endpoints",
            Kind::Program => "programs",
            Kind::Unlock => "unlocks",
        }
    }

    fn named(text: &str) -> Option<Self> {
        use Kind::{Baseline, Endpoint, Profile, Program, Unlock};
        [Baseline, Profile, Endpoint, Program, Unlock]
            .into_iter()
            .find(|kind| kind.as_str() == text)
    }
}

impl std::fmt::Display for Key {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self.kind {
            Kind::Baseline => f.write_str("baseline"),
            kind => write!(f, "{}/{}", kind.as_str(), self.name),
        }
    }
}

/// What happened to a resource.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Change {
    /// It is new.
    Created,
    /// It is not what it was.
    Changed,
    /// It is gone.
    Deleted,
}

impl Change {
    /// As in the database and in the API.
    pub fn as_str(self) -> &'static str {
        match self {
            Change::Created => "created",
            Change::Changed => "changed",
            Change::Deleted => "deleted",
        }
    }

    fn named(text: &str) -> Option<Self> {
        [Change::Created, Change::Changed, Change::Deleted]
            .into_iter()
            .find(|change| change.as_str() == text)
    }
}

/// A generation as history tells it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Generation {
    /// Its number.
    pub number: u64,
    /// Seconds since the Unix epoch.
    pub at: i64,
    /// Who made it.
    pub by: String,
    /// What it changed.
    pub changes: Vec<(Change, Key)>,
}

/// A resource to write: its key and, unless it was deleted, its JSON.
#[derive(Debug)]
pub struct Write {
    /// Which.
    pub key: Key,
    /// What happened.
    pub change: Change,
    /// Its JSON; `None` deletes it.
    pub body: Option<String>,
}

/// Class ids that came and went.
#[derive(Debug, Default)]
pub struct ClassChanges {
    /// New in use.
    pub added: Vec<(Fingerprint, ClassId)>,
    /// No longer in use, under that fingerprint at least.
    pub removed: Vec<ClassId>,
    /// Ids out of use that some target may still have rows of, with the first generation without them.
    pub released: Vec<(ClassId, u64)>,
    /// Released ids that no target has rows of any more, or that are used again.
    pub gone: Vec<ClassId>,
    /// The first id that was never used.
    pub next: u32,
}

impl ClassChanges {
    /// Whether nothing came and nothing went.
    pub fn is_empty(&self) -> bool {
        self.added.is_empty() && self.removed.is_empty() && self.released.is_empty() && self.gone.is_empty()
    }
}

/// A resource as it was read.
#[derive(Debug)]
pub struct Stored {
    /// The generation that changed it last.
    pub revision: u64,
    /// When it was created, in seconds since the Unix epoch.
    pub created: i64,
    /// Its JSON.
    pub body: String,
}

/// Everything that was read at start.
#[derive(Debug, Default)]
pub struct Loaded {
    /// The newest generation; 0 when nothing was ever committed.
    pub generation: u64,
    /// Every resource.
    pub resources: BTreeMap<Key, Stored>,
    /// Every class in use.
    pub classes: Vec<(Fingerprint, ClassId)>,
    /// Ids out of use that some target may still have rows of, with the first generation without them.
    pub released: Vec<(ClassId, u64)>,
    /// The first class id that was never used.
    pub next_class: u32,
    /// Unlocks.
    pub unlocks: LoadedUnlocks,
}

/// The one that writes.
#[derive(Debug)]
pub struct Store {
    connection: Connection,
    file: PathBuf,
    kept: history::Kept,
    audit: audit::Head,
    commits: u64,
    // Held as long as the store is, so that no second agent writes.
    _lock: File,
}

fn sqlite(action: &'static str) -> impl Fn(rusqlite::Error) -> StoreError {
    move |source| StoreError::Sqlite { action, source }
}

impl Store {
    /// Opens, creates or migrates the database and reads all of it.
    pub fn open(file: &Path) -> Result<(Self, Loaded), StoreError> {
        let lock = schema::lock(file)?;
        let connection = schema::open(file)?;
        let loaded = load(&connection, file)?;
        let failed = || sqlite("read the history");
        let kept = history::Kept::read(&connection).map_err(failed())?;
        let audit = audit::Head::read(&connection).map_err(failed())?;
        let commits = unlocks::commits(&connection).map_err(failed())?;
        Ok((
            Store {
                connection,
                file: file.to_path_buf(),
                kept,
                audit,
                commits,
                _lock: lock,
            },
            loaded,
        ))
    }

    /// The file.
    pub fn file(&self) -> &Path {
        &self.file
    }

    /// Makes one generation durable: all of it or nothing.
    pub fn commit(
        &mut self,
        generation: &Generation,
        writes: &[Write],
        classes: &ClassChanges,
    ) -> Result<(), StoreError> {
        self.commit_with(Some((generation, writes, classes)), &Aside::default())
    }

    /// Makes a generation, if there is one, and what belongs to it durable: all of it or nothing.
    pub fn commit_with(
        &mut self,
        generation: Option<(&Generation, &[Write], &ClassChanges)>,
        aside: &Aside,
    ) -> Result<(), StoreError> {
        match self.write(generation, aside) {
            Ok((kept, audit)) => (self.kept, self.audit) = (kept, audit),
            // A COMMIT that failed can have reached the disk nevertheless: the database itself tells.
            Err(source) => {
                let newest = unlocks::commits(&self.connection);
                let newest = newest.map_err(|source| StoreError::Unknown { source })?;
                if newest != self.commits + 1 {
                    return Err(StoreError::Sqlite {
                        action: "commit a change",
                        source,
                    });
                }
                let unknown = |source| StoreError::Unknown { source };
                self.kept = history::Kept::read(&self.connection).map_err(unknown)?;
                self.audit = audit::Head::read(&self.connection).map_err(unknown)?;
            }
        }
        self.commits += 1;
        Ok(())
    }

    fn write(
        &mut self,
        generation: Option<(&Generation, &[Write], &ClassChanges)>,
        aside: &Aside,
    ) -> rusqlite::Result<(history::Kept, audit::Head)> {
        let transaction = self
            .connection
            .transaction_with_behavior(rusqlite::TransactionBehavior::Immediate)?;
        let mut kept = self.kept;
        if let Some((generation, writes, classes)) = generation {
            write_resources(&transaction, generation, writes)?;
            write_classes(&transaction, classes)?;
            transaction.execute(
                "UPDATE numbers SET value = ?1 WHERE name = 'generation'",
                [signed(generation.number)],
            )?;
            kept = kept.append(&transaction, generation)?;
        }
        unlocks::write(&transaction, aside)?;
        let audit = self.audit.append(&transaction, &aside.audit)?;
        unlocks::count_commit(&transaction, self.commits + 1)?;
        transaction.commit()?;
        Ok((kept, audit))
    }

    /// What is remembered under the key of a request.
    pub fn remembered(&self, key: &IdempotencyKey, now: i64) -> Result<Option<Remembered>, StoreError> {
        unlocks::remembered(&self.connection, key, now).map_err(sqlite("read the keys of requests"))
    }

    /// Number of the newest entry of the audit log.
    pub fn audited(&self) -> u64 {
        self.audit.number()
    }

    /// Makes class ids durable outside a change: when a new version of the compiler sees other classes.
    pub fn commit_classes(&mut self, classes: &ClassChanges) -> Result<(), StoreError> {
        let failed = sqlite("commit class ids");
        let transaction = self.connection.transaction().map_err(&failed)?;
        write_classes(&transaction, classes)
            .and_then(|()| transaction.commit())
            .map_err(failed)
    }

    /// Folds the log into the database and closes it.
    pub fn close(self) -> Result<(), StoreError> {
        let failed = sqlite("close");
        self.connection
            .query_row("PRAGMA wal_checkpoint(TRUNCATE)", [], |_| Ok(()))
            .map_err(&failed)?;
        self.connection.close().map_err(|(_, error)| failed(error))
    }
}

/// SQLite's integers are signed; generations never come near the difference.
fn signed(number: u64) -> i64 {
    i64::try_from(number).unwrap_or(i64::MAX)
}

fn unsigned(number: i64) -> u64 {
    u64::try_from(number).unwrap_or(0)
}

fn write_resources(
    connection: &Connection,
    generation: &Generation,
    writes: &[Write],
) -> rusqlite::Result<()> {
    let mut put = connection.prepare_cached(
        "INSERT INTO resources (kind, name, revision, body, created) VALUES (?1, ?2, ?3, ?4, ?5)
         ON CONFLICT (kind, name) DO UPDATE SET revision = excluded.revision, body = excluded.body",
    )?;
    let mut delete = connection.prepare_cached("DELETE FROM resources WHERE kind = ?1 AND name = ?2")?;
    for write in writes {
        let (kind, name) = (write.key.kind.as_str(), &write.key.name);
        match &write.body {
            Some(body) => put.execute(params![
                kind,
                name,
                signed(generation.number),
                body,
                generation.at
            ])?,
            None => delete.execute(params![kind, name])?,
        };
    }
    Ok(())
}

fn write_classes(connection: &Connection, classes: &ClassChanges) -> rusqlite::Result<()> {
    let mut delete = connection.prepare_cached("DELETE FROM classes WHERE id = ?1")?;
    for id in &classes.removed {
        delete.execute([id.0])?;
    }
    let mut insert = connection.prepare_cached("INSERT INTO classes (id, fingerprint) VALUES (?1, ?2)")?;
    for (fingerprint, id) in &classes.added {
        insert.execute(params![id.0, fingerprint.0.as_slice()])?;
    }
    let mut delete = connection.prepare_cached("DELETE FROM released WHERE id = ?1")?;
    for id in &classes.gone {
        delete.execute([id.0])?;
    }
    let mut insert =
        connection.prepare_cached("INSERT OR REPLACE INTO released (id, generation) VALUES (?1, ?2)")?;
    for (id, generation) in &classes.released {
        insert.execute(params![id.0, signed(*generation)])?;
    }
    connection.execute(
        "UPDATE numbers SET value = ?1 WHERE name = 'next_class'",
        [classes.next],
    )?;
    Ok(())
}

fn load(connection: &Connection, file: &Path) -> Result<Loaded, StoreError> {
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

#[cfg(test)]
mod tests;
