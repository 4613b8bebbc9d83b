//! The store: resources, generation, class ids and history in SQLite.
//!
//! One [`Store`] writes, on the engine's thread; [`History`] reads beside it. A commit is on the disk when
//! [`Store::commit`] returns (WAL, `synchronous=FULL`).

mod archive;
mod audit;
mod backup;
mod bypasses;
mod error;
mod footprints;
mod heads;
mod history;

pub mod journal;
mod load;
mod schema;
mod unlocks;

use std::collections::BTreeMap;
use std::fs::File;
use std::path::{Path, PathBuf};
use std::sync::Arc;

pub use portcullis_audit::{Entry, Head, LONGEST_DETAIL, LONGEST_WORD, hex};
use portcullis_compiler::{ClassId, Fingerprint};
use rusqlite::{Connection, params};

pub use archive::Room;
pub use audit::{Listed, Verification, Wanted};
pub use backup::{DatabaseReport, Leases, accept, backup, examine, restore};
pub use error::StoreError;
pub use footprints::FootprintRecords;
pub use heads::Missing;
pub use history::History;
pub use journal::{Closing, Journal};
pub use unlocks::{IdempotencyKey, IdempotencyRecord, LoadedUnlocks, Reach, SideWrites, WantedUnlocks};

/// Generations whose changes are kept.
pub const KEPT_GENERATIONS: u64 = 100_000;
/// Changes of resources that are kept, whatever their generations; the newest generation's always are.
pub const KEPT_CHANGES: u64 = 1_000_000;

#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Key {
    pub kind: Kind,
    /// Its name; empty for the baseline.
    pub name: String,
}

/// A sort of resource.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Kind {
    /// The rules for everybody; there is one.
    Baseline,
    Profile,
    Endpoint,
    Program,
    /// An unlock: stored beside resources, and reported among them.
    Unlock,
    /// The bypass of an endpoint, likewise.
    Bypass,
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
            Kind::Bypass => "bypasses",
        }
    }

    fn named(text: &str) -> Option<Self> {
        use Kind::{Baseline, Bypass, Endpoint, Profile, Program, Unlock};
        [Baseline, Profile, Endpoint, Program, Unlock, Bypass]
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
    Created,
    /// It is not what it was.
    Changed,
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
    pub number: u64,
    /// Seconds since the Unix epoch.
    pub at: i64,
    pub by: String,
    pub changes: Vec<(Change, Key)>,
}

/// A resource to write: its key and, unless it was deleted, its JSON.
#[derive(Debug)]
pub struct Write {
    pub key: Key,
    pub change: Change,
    /// Its JSON; `None` deletes it.
    pub body: Option<String>,
    /// It counts as created now, although there was one of its name: an endpoint of another tenant.
    pub anew: bool,
}

/// Class ids that came and went.
#[derive(Debug, Default)]
pub struct ClassChanges {
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
    /// When it was created, or given to its tenant, in seconds since the Unix epoch.
    pub created: i64,
    pub body: String,
}

/// Everything that was read at start.
#[derive(Debug, Default)]
pub struct Loaded {
    /// The newest generation; 0 when nothing was ever committed.
    pub generation: u64,
    pub resources: BTreeMap<Key, Stored>,
    /// Every class in use.
    pub classes: Vec<(Fingerprint, ClassId)>,
    /// Ids out of use that some target may still have rows of, with the first generation without them.
    pub released: Vec<(ClassId, u64)>,
    /// The first class id that was never used.
    pub next_class: u32,
    pub unlocks: LoadedUnlocks,
    /// Closings that the journal has and the database has not, by their numbers.
    pub closings: Vec<(u64, Closing)>,
    /// What is wrong with the end of the audit log.
    pub audit: Option<Missing>,
}

/// Something that holds already and is not stored yet: a closing, or what came of one.
#[derive(Debug, Default)]
pub struct Pending {
    /// The generation that it made, if it made one.
    pub generation: Option<Generation>,
    /// What belongs to it.
    pub side: SideWrites,
    /// Its number in the journal of closings; 0 for none.
    pub closing: u64,
}

/// What is committed at once, in this order: all of it or nothing.
#[derive(Debug, Default, Clone, Copy)]
pub struct Commit<'a> {
    pub pending: &'a [Arc<Pending>],
    /// The change that is made, if one is, and the resources that it writes.
    pub generation: Option<(&'a Generation, &'a [Write])>,
    /// Classes that come and go, if any do.
    pub classes: Option<&'a ClassChanges>,
    /// What belongs to the change.
    pub side: Option<&'a SideWrites>,
}

/// The one that writes.
#[derive(Debug)]
pub struct Store {
    /// Absent when the database cannot be used.
    connection: Option<Connection>,
    /// What is wrong with it then.
    problem: Option<String>,
    file: PathBuf,
    kept: history::HistoryBounds,
    audit: Head,
    /// The last entry of the audit log that is in a file instead.
    base: Head,
    keep: crate::config::Audit,
    heads: Option<heads::Heads>,
    commits: u64,
    closings: u64,
    /// No other connection can read it, since the disk had no room when it was opened.
    alone: bool,
    journal: Option<Journal>,
    // Held as long as the store is, so that no second agent writes.
    _lock: File,
}

fn sqlite(action: &'static str) -> impl Fn(rusqlite::Error) -> StoreError {
    move |source| StoreError::Sqlite { action, source }
}

impl Store {
    /// Opens, creates or migrates the database and reads all of it, and what its journal of closings has that it has not.
    pub fn open(file: &Path) -> Result<(Self, Loaded), StoreError> {
        let lock = schema::lock(file)?;
        let beside = journal::path(file);
        let known = journal::Header::from_file(&beside);
        if known.is_some() && schema::is_missing(file)? {
            return Err(StoreError::Missing {
                file: file.to_path_buf(),
            });
        }
        let schema::Opened {
            connection,
            database,
            alone,
        } = schema::open(file)?;
        let mut loaded = load::load(&connection, file)?;
        let failed = || sqlite("read the history");
        let kept = history::HistoryBounds::read(&connection).map_err(failed())?;
        let audit = audit::read_head(&connection).map_err(failed())?;
        let commits = unlocks::commits(&connection).map_err(failed())?;
        let closings = unlocks::closings(&connection).map_err(failed())?;
        // Without a name of its own a database has no journal: it could not be named when it was written last.
        let journal = database.map(|database| {
            let wanted = known.filter(|header| header.database == database);
            if let Some(header) = wanted.filter(|header| header.commits > commits) {
                return Err(StoreError::Older {
                    file: file.to_path_buf(),
                    found: commits,
                    wanted: header.commits,
                });
            }
            let (journal, records) = Journal::open(&beside, database, closings, commits);
            loaded.closings = records;
            Ok(journal)
        });
        let journal = journal.transpose()?;
        let base = archive::base(&connection).map_err(failed())?;
        let (heads, missing) = heads::Heads::open(file, &connection, audit)?;
        loaded.audit = missing;
        Ok((
            Store {
                connection: Some(connection),
                problem: None,
                file: file.to_path_buf(),
                kept,
                audit,
                base,
                keep: crate::config::Audit::default(),
                heads: Some(heads),
                commits,
                closings,
                alone,
                journal,
                _lock: lock,
            },
            loaded,
        ))
    }

    /// [`open`](Self::open), and where the database is lost or damaged, a store that refuses everything and says why: an
    /// agent with it serves, and touches no row.
    pub fn open_or_refuse(file: &Path) -> Result<(Self, Loaded), StoreError> {
        match Self::open(file) {
            Err(
                error @ (StoreError::Missing { .. }
                | StoreError::Older { .. }
                | StoreError::Damaged { .. }
                | StoreError::Newer { .. }
                | StoreError::Foreign { .. }),
            ) => {
                tracing::error!(%error, "the agent runs without its database: nothing can be changed, and no row is touched");
                let store = Store {
                    connection: None,
                    problem: Some(error.to_string()),
                    file: file.to_path_buf(),
                    kept: history::HistoryBounds::default(),
                    audit: Head::default(),
                    base: Head::default(),
                    keep: crate::config::Audit::default(),
                    heads: None,
                    commits: 0,
                    closings: 0,
                    alone: false,
                    journal: None,
                    _lock: schema::lock(file)?,
                };
                Ok((store, Loaded::default()))
            }
            other => other,
        }
    }

    /// What is wrong with a database that cannot be used.
    pub fn problem(&self) -> Option<&str> {
        self.problem.as_deref()
    }

    fn connection(&self) -> Result<&Connection, StoreError> {
        self.connection.as_ref().ok_or_else(|| self.unusable())
    }

    fn unusable(&self) -> StoreError {
        StoreError::Unusable {
            problem: self.problem.clone().unwrap_or_default(),
        }
    }

    /// Whether anything can be changed at all.
    pub fn usable(&self) -> Result<(), StoreError> {
        self.connection().map(drop)
    }

    pub fn file(&self) -> &Path {
        &self.file
    }

    /// The journal of closings, for the task that writes it.
    pub fn take_journal(&mut self) -> Option<Journal> {
        self.journal.take()
    }

    /// Number of the newest closing that the database has, and how many commits it has.
    pub fn closings(&self) -> (u64, u64) {
        (self.closings, self.commits)
    }

    /// Makes one generation durable: all of it or nothing.
    pub fn commit(
        &mut self,
        generation: &Generation,
        writes: &[Write],
        classes: &ClassChanges,
    ) -> Result<(), StoreError> {
        self.commit_with(Some((generation, writes, classes)), &SideWrites::default())
    }

    /// Makes a generation, if there is one, and what belongs to it durable: all of it or nothing.
    pub fn commit_with(
        &mut self,
        generation: Option<(&Generation, &[Write], &ClassChanges)>,
        side: &SideWrites,
    ) -> Result<(), StoreError> {
        self.commit_all(Commit {
            pending: &[],
            generation: generation.map(|(generation, writes, _)| (generation, writes)),
            classes: generation.map(|(_, _, classes)| classes),
            side: Some(side),
        })
    }

    pub fn commit_all(&mut self, commit: Commit<'_>) -> Result<(), StoreError> {
        self.usable()?;
        match self.write(commit) {
            Ok((kept, audit)) => (self.kept, self.audit) = (kept, audit),
            // A COMMIT that failed can have reached the disk nevertheless: the database itself tells.
            Err(source) if !self.committed()? => {
                return Err(StoreError::Sqlite {
                    action: "commit a change",
                    source,
                });
            }
            Err(_) => self.look()?,
        }
        self.commits += 1;
        self.log_ends();
        let newest = commit.pending.iter().map(|pending| pending.closing).max();
        self.closings = self.closings.max(newest.unwrap_or(0));
        self.share();
        Ok(())
    }

    /// There is room again: others may read, too. That takes a new connection.
    fn share(&mut self) {
        if !std::mem::take(&mut self.alone) {
            return;
        }
        self.connection = None;
        match schema::open(&self.file) {
            Ok(opened) => (self.connection, self.alone) = (Some(opened.connection), opened.alone),
            Err(error) => {
                tracing::error!(%error, "the database cannot be opened again");
                self.problem = Some(format!("{error}: start the agent again"));
            }
        }
    }

    /// Whether a commit that ended with an error is there.
    fn committed(&self) -> Result<bool, StoreError> {
        let newest = unlocks::commits(self.connection()?);
        let newest = newest.map_err(|source| StoreError::Unknown { source })?;
        Ok(newest == self.commits + 1)
    }

    /// Reads again what is known of the log and the history.
    fn look(&mut self) -> Result<(), StoreError> {
        let unknown = |source| StoreError::Unknown { source };
        self.kept = history::HistoryBounds::read(self.connection()?).map_err(unknown)?;
        self.audit = audit::read_head(self.connection()?).map_err(unknown)?;
        self.base = archive::base(self.connection()?).map_err(unknown)?;
        Ok(())
    }

    /// What became of a commit that ended with [`StoreError::Unknown`]: asked with a new connection, as often as needed.
    pub fn resolve(&mut self) -> Result<bool, StoreError> {
        let opened = schema::open(&self.file)?;
        (self.connection, self.alone) = (Some(opened.connection), opened.alone);
        let committed = self.committed()?;
        self.look()?;
        if committed {
            self.commits += 1;
            self.log_ends();
            let unknown = |source| StoreError::Unknown { source };
            self.closings = unlocks::closings(self.connection()?).map_err(unknown)?;
        }
        Ok(committed)
    }

    fn write(&mut self, commit: Commit<'_>) -> rusqlite::Result<(history::HistoryBounds, Head)> {
        let Some(connection) = self.connection.as_mut() else {
            return Err(rusqlite::Error::InvalidQuery);
        };
        let transaction = connection.transaction_with_behavior(rusqlite::TransactionBehavior::Immediate)?;
        let (mut kept, mut audit) = (self.kept, self.audit);
        for pending in commit.pending {
            if let Some(generation) = &pending.generation {
                write_generation(&transaction, generation)?;
                kept = kept.append(&transaction, generation)?;
            }
            unlocks::write(&transaction, &pending.side)?;
            audit = audit::append(audit, &transaction, &pending.side.audit)?;
            unlocks::count_closing(&transaction, pending.closing)?;
        }
        if let Some((generation, writes)) = commit.generation {
            write_resources(&transaction, generation, writes)?;
            write_generation(&transaction, generation)?;
            kept = kept.append(&transaction, generation)?;
        }
        if let Some(classes) = commit.classes {
            write_classes(&transaction, classes)?;
        }
        if let Some(side) = commit.side {
            unlocks::write(&transaction, side)?;
            audit = audit::append(audit, &transaction, &side.audit)?;
        }
        unlocks::count_commit(&transaction, self.commits + 1)?;
        transaction.commit()?;
        Ok((kept, audit))
    }

    /// What is remembered under the key of a request.
    pub fn remembered(
        &self,
        key: &IdempotencyKey,
        now: i64,
    ) -> Result<Option<IdempotencyRecord>, StoreError> {
        unlocks::remembered(self.connection()?, key, now).map_err(sqlite("read the keys of requests"))
    }

    /// The end of the audit log.
    pub fn audited(&self) -> Head {
        self.audit
    }

    /// Folds the log into the database and closes it. A disk that has no room for that loses nothing: the next start does
    /// it.
    pub fn close(self) -> Result<(), StoreError> {
        let failed = sqlite("close");
        let Some(connection) = self.connection else {
            return Ok(());
        };
        let folded = connection.query_row("PRAGMA wal_checkpoint(TRUNCATE)", [], |_| Ok(()));
        if let Err(error) = folded {
            tracing::warn!(%error, "the log of the database is not folded into it: the next start does that");
        }
        connection.close().map_err(|(_, error)| failed(error))
    }
}

/// SQLite's integers are signed; generations never come near the difference.
fn signed(number: u64) -> i64 {
    i64::try_from(number).unwrap_or(i64::MAX)
}

fn unsigned(number: i64) -> u64 {
    u64::try_from(number).unwrap_or(0)
}

fn write_generation(connection: &Connection, generation: &Generation) -> rusqlite::Result<()> {
    connection
        .prepare_cached("UPDATE numbers SET value = ?1 WHERE name = 'generation'")?
        .execute([signed(generation.number)])
        .map(drop)
}

fn write_resources(
    connection: &Connection,
    generation: &Generation,
    writes: &[Write],
) -> rusqlite::Result<()> {
    let mut put = connection.prepare_cached(
        "INSERT INTO resources (kind, name, revision, body, created) VALUES (?1, ?2, ?3, ?4, ?5)
         ON CONFLICT (kind, name) DO UPDATE SET revision = excluded.revision, body = excluded.body,
         created = iif(?6, excluded.created, created)",
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
                generation.at,
                write.anew
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

#[cfg(test)]
mod tests;
