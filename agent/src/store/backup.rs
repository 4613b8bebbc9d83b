//! Copies of the database: made while the agent runs, verified, put back in its place.

use std::fs::OpenOptions;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::time::Duration;

use portcullis_unlock::clock::Moment;
use portcullis_unlock::ledger::{State as UnlockState, Subject, Unlock};
use rusqlite::{Connection, OpenFlags};

use portcullis_audit::Entry;

use super::audit;
use super::journal::{self, Closing};
use super::{History, Missing, SideWrites, Store, StoreError, bypasses, heads, schema, sqlite, unlocks};

/// What becomes of leases that are open in a backup, where nothing says which of them ended since.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Leases {
    /// They hold as the backup has them.
    Keep,
    End,
}

/// What a database holds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DatabaseReport {
    pub generation: u64,
    /// Profiles, endpoints, programs and the baseline.
    pub resources: u64,
    /// Unlocks whose ports are open.
    pub open: u64,
    /// Entries of the audit log, whose chain was computed again.
    pub audit_entries: u64,
    /// The hash at its end, in hexadecimal digits.
    pub audit_head: String,
    /// Unlocks that were closed since the backup was made, and are closed in what was restored.
    pub closed_since: u64,
    /// Where the database that was replaced is now.
    pub replaced: Option<PathBuf>,
}

fn beside(action: &'static str, file: &Path) -> impl Fn(std::io::Error) -> StoreError {
    let file = file.to_path_buf();
    move |source| StoreError::Beside {
        action,
        file: file.clone(),
        source,
    }
}

fn damaged(file: &Path, problem: impl ToString) -> StoreError {
    StoreError::Damaged {
        file: file.to_path_buf(),
        problem: problem.to_string(),
    }
}

fn with_ending(file: &Path, ending: &str) -> PathBuf {
    let mut name = file.as_os_str().to_os_string();
    name.push(ending);
    PathBuf::from(name)
}

/// Opens a database that must be there. It may be written by an agent at the same time.
fn existing(file: &Path) -> Result<Connection, StoreError> {
    let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let connection = Connection::open_with_flags(file, flags).map_err(sqlite("open"))?;
    connection
        .busy_timeout(Duration::from_secs(5))
        .map_err(sqlite("open"))?;
    Ok(connection)
}

/// Looks at everything in a database: its header and format, every page, and the hashes of the audit log.
pub fn examine(file: &Path) -> Result<DatabaseReport, StoreError> {
    let found = std::fs::metadata(file).map_err(beside("read", file))?;
    if found.len() == 0 {
        return Err(damaged(file, "it is empty"));
    }
    let connection = existing(file)?;
    let read = || -> rusqlite::Result<(i32, i64, String)> {
        let number = |pragma: &str| connection.query_row(&format!("PRAGMA {pragma}"), [], |row| row.get(0));
        let verdict = connection.query_row("PRAGMA integrity_check(1)", [], |row| row.get(0))?;
        Ok((
            number("application_id")?,
            i64::from(number("user_version")?),
            verdict,
        ))
    };
    let (application, format, verdict) = read().map_err(|error| damaged(file, error))?;
    let (ours, known) = schema::FORMAT;
    if application != ours {
        return Err(StoreError::Foreign {
            file: file.to_path_buf(),
        });
    }
    let found = u32::try_from(format).unwrap_or(u32::MAX);
    let known = u32::try_from(known).unwrap_or(u32::MAX);
    if found > known {
        let file = file.to_path_buf();
        return Err(StoreError::Newer { file, found, known });
    }
    if verdict != "ok" {
        return Err(damaged(file, verdict));
    }
    let history = History::open(file)?;
    let audit = history.verify_audit(&[])?;
    if let Some((number, problem)) = audit.broken {
        return Err(damaged(
            file,
            format!("entry {number} of the audit log: {problem}"),
        ));
    }
    let count = |query: &str| -> rusqlite::Result<u64> {
        connection.query_row(query, [], |row| row.get::<_, i64>(0).map(super::unsigned))
    };
    let counts = || -> rusqlite::Result<[u64; 3]> {
        Ok([
            count("SELECT value FROM numbers WHERE name = 'generation'")?,
            count("SELECT count(*) FROM resources")?,
            count("SELECT count(*) FROM unlocks WHERE state IN ('active', 'expiring')")?,
        ])
    };
    let [generation, resources, open] = counts().map_err(|error| damaged(file, error))?;
    Ok(DatabaseReport {
        generation,
        resources,
        open,
        audit_entries: audit.entries,
        audit_head: audit.head.iter().map(|byte| format!("{byte:02x}")).collect(),
        closed_since: 0,
        replaced: None,
    })
}

/// Copies a database into a new file, by SQLite's backup interface: the state of one moment, also while it is
/// written to.
fn copy(from: &Path, to: &Path) -> Result<Connection, StoreError> {
    let source = existing(from)?;
    OpenOptions::new()
        .create(true)
        .truncate(true)
        .write(true)
        .mode(0o600)
        .open(to)
        .map_err(beside("make", to))?;
    let mut target = Connection::open(to).map_err(sqlite("make a copy"))?;
    {
        let backup = rusqlite::backup::Backup::new(&source, &mut target).map_err(sqlite("make a copy"))?;
        let pause = Duration::from_millis(20);
        backup
            .run_to_completion(i32::MAX, pause, None)
            .map_err(sqlite("make a copy"))?;
    }
    // One file, without a log beside it.
    target
        .query_row("PRAGMA journal_mode = DELETE", [], |_| Ok(()))
        .map_err(sqlite("make a copy"))?;
    Ok(target)
}

/// Closings that a journal has and a copy of its database has not.
fn missing(copy: &Connection, journal: &Path) -> Result<Vec<(u64, Closing)>, StoreError> {
    let failed = sqlite("read a copy");
    let stored = unlocks::closings(copy).map_err(&failed)?;
    let own = schema::name(copy).map_err(&failed)?;
    let header = journal::Header::from_file(journal);
    let same = header.filter(|header| own.as_deref() == Some(&digits(header)));
    let Some(header) = same else {
        return Ok(Vec::new());
    };
    let (_, records) = journal::Journal::open(journal, header.database, stored, 0);
    Ok(records)
}

/// A database's name in a journal, as the database has it.
fn digits(header: &journal::Header) -> String {
    header.database.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// A backup of the time before there were journals becomes the database of the journal where it is put: what that one
/// knows to be closed stays closed.
fn take_name(copy: &Connection, journal: &Path) -> Result<(), StoreError> {
    let Some(header) = journal::Header::from_file(journal) else {
        return Ok(());
    };
    let taken = copy.execute(
        "INSERT OR IGNORE INTO texts (name, value) VALUES ('database', ?1)",
        [digits(&header)],
    );
    taken.map(drop).map_err(sqlite("complete a copy"))
}

/// Writes into a copy what it lacks, with entries of the audit log.
fn amend(
    copy: &mut Connection,
    asides: &[(u64, SideWrites)],
    generation: Option<u64>,
) -> Result<(), StoreError> {
    let mut write = || -> rusqlite::Result<()> {
        let transaction = copy.transaction()?;
        let mut head = audit::read_head(&transaction)?;
        for (closing, side) in asides {
            unlocks::write(&transaction, side)?;
            head = audit::append(head, &transaction, &side.audit)?;
            unlocks::count_closing(&transaction, *closing)?;
        }
        if let Some(generation) = generation {
            let (seconds, by) = (crate::clock::now().seconds(), "restore");
            transaction.execute(
                "UPDATE numbers SET value = ?1 WHERE name = 'generation'",
                [super::signed(generation)],
            )?;
            transaction.execute(
                "INSERT OR IGNORE INTO generations (generation, at, by, changes) VALUES (?1, ?2, ?3, 0)",
                rusqlite::params![super::signed(generation), seconds, by],
            )?;
        }
        transaction.commit()
    };
    write().map_err(sqlite("complete a copy"))
}

impl From<Closing> for SideWrites {
    fn from(closing: Closing) -> Self {
        let of_endpoints = closing.strikes.into_iter();
        let of_endpoints =
            of_endpoints.map(|(name, program, found)| ((Subject::Endpoint(name), program), found));
        let of_tenants = closing.tenant_strikes.into_iter();
        let of_tenants =
            of_tenants.map(|(tenant, program, found)| ((Subject::Tenant(tenant), program), found));
        SideWrites {
            unlocks: closing.unlocks.into_iter().map(std::sync::Arc::new).collect(),
            strikes: of_endpoints.chain(of_tenants).collect(),
            seen: None,
            audit: closing.audit,
            keys: Vec::new(),
            bypasses: closing
                .bypasses
                .into_iter()
                .map(|endpoint| (endpoint, None))
                .collect(),
        }
    }
}

/// Copies the database to a file while the agent runs, closings of its journal included, and examines the copy. The file is
/// whole or not there.
pub fn backup(database: &Path, to: &Path) -> Result<DatabaseReport, StoreError> {
    let same = |a: &Path, b: &Path| std::fs::canonicalize(a).ok().zip(std::fs::canonicalize(b).ok());
    if same(database, to).is_some_and(|(a, b)| a == b) {
        return Err(damaged(to, "it is the database itself: name another file"));
    }
    let new = with_ending(to, ".new");
    let made = (|| {
        let mut made = copy(database, &new)?;
        let lacking = missing(&made, &journal::path(database))?;
        let asides: Vec<(u64, SideWrites)> = lacking.into_iter().map(|(n, c)| (n, c.into())).collect();
        amend(&mut made, &asides, None)?;
        made.close()
            .map_err(|(_, source)| sqlite("make a copy")(source))?;
        let report = examine(&new)?;
        put(&new, to)?;
        Ok(report)
    })();
    if made.is_err() {
        // What is left of it is of no use.
        drop(std::fs::remove_file(&new));
    }
    made
}

/// Makes a file durable under another name.
fn put(new: &Path, file: &Path) -> Result<(), StoreError> {
    let synced = std::fs::File::open(new).and_then(|file| file.sync_all());
    synced.map_err(beside("write", new))?;
    std::fs::rename(new, file).map_err(beside("replace", file))?;
    journal::sync_folder(file).map_err(beside("write", file))
}

/// Unlocks that are open in a copy.
fn open_in(connection: &Connection) -> Result<Vec<Unlock>, StoreError> {
    let failed = sqlite("read the unlocks");
    let mut select = connection
        .prepare("SELECT body FROM unlocks WHERE state IN ('active', 'expiring')")
        .map_err(&failed)?;
    let bodies = select
        .query_map([], |row| row.get::<_, String>(0))
        .and_then(Iterator::collect::<rusqlite::Result<Vec<String>>>)
        .map_err(&failed)?;
    let read = |body: &String| serde_json::from_str(body);
    let read: Result<Vec<Unlock>, _> = bodies.iter().map(read).collect();
    read.map_err(|error| damaged(Path::new("the backup"), error))
}

/// What the database that is replaced knows better than the backup: unlocks that ended since, and its generation.
fn ended_since(old: &Path, open: &[Unlock]) -> Result<(Vec<Unlock>, u64), StoreError> {
    let generation = examine(old)?.generation;
    let history = History::open(old)?;
    let mut ended = Vec::new();
    for unlock in open {
        ended.extend(
            history
                .unlock(unlock.id.as_str())?
                .filter(|u| u.state.has_ended()),
        );
    }
    Ok((ended, generation))
}

/// Who runs this, as the audit log names callers of the socket.
fn whoami() -> String {
    let own = std::fs::metadata("/proc/self");
    own.map_or_else(|_| "unknown".to_string(), |own| format!("uid {}", own.uid()))
}

fn note(action: &str, subject: String, detail: &serde_json::Value, now: &Moment, generation: u64) -> Entry {
    Entry {
        at_ms: now.wall_ms,
        actor: whoami(),
        role: "operator".to_string(),
        action: action.to_string(),
        subject,
        detail: detail.to_string(),
        generation,
        evidence: None,
    }
}

/// Puts a backup in the place of the database of an agent that does not run. What is known to have been closed since the
/// backup was made, from the journal and from the database that is replaced, stays closed. Where that database cannot be
/// read and leases are open in the backup, `leases` must say what becomes of them.
pub fn restore(database: &Path, from: &Path, leases: Option<Leases>) -> Result<DatabaseReport, StoreError> {
    let _lock = schema::lock(database)?;
    examine(from)?;
    let new = with_ending(database, ".new");
    let done = restore_locked(database, from, &new, leases);
    if done.is_err() {
        // What is left of it is of no use.
        drop(std::fs::remove_file(&new));
    }
    done
}

fn restore_locked(
    database: &Path,
    from: &Path,
    new: &Path,
    leases: Option<Leases>,
) -> Result<DatabaseReport, StoreError> {
    let beside_it = journal::path(database);
    let mut made = copy(from, new)?;
    take_name(&made, &beside_it)?;
    let lacking = missing(&made, &beside_it)?;
    let mut newest = lacking.iter().map(|(_, c)| c.generation).max().unwrap_or(0);
    let mut closed = lacking.iter().map(|(_, c)| c.unlocks.len() as u64).sum();
    let asides: Vec<(u64, SideWrites)> = lacking.into_iter().map(|(n, c)| (n, c.into())).collect();
    amend(&mut made, &asides, None)?;
    let open = open_in(&made)?;
    let now = crate::clock::now();
    let mut side = SideWrites::default();
    match ended_since(database, &open) {
        Ok((ended, generation)) => {
            newest = newest.max(generation);
            closed += ended.len() as u64;
            side.unlocks.extend(ended.into_iter().map(std::sync::Arc::new));
        }
        Err(_) if open.is_empty() || leases == Some(Leases::Keep) => {}
        Err(_) if leases == Some(Leases::End) => {
            closed += open.len() as u64;
            let ended = open.into_iter().map(|unlock| ended(unlock, &now));
            side.unlocks.extend(ended.map(std::sync::Arc::new));
        }
        Err(error) => {
            return Err(StoreError::Undecided {
                open: open.len(),
                problem: error.to_string(),
            });
        }
    }
    // An operator starts them again where they are needed.
    let bypasses = bypasses::load(&made, &|problem| damaged(from, problem))?;
    let ended = bypasses.into_iter().map(|bypass| (bypass.endpoint, None));
    side.bypasses.extend(ended);
    let report = examine(new)?;
    let generation = newest.max(report.generation) + 1;
    let detail = serde_json::json!({
        "from": from.display().to_string(),
        "generation": report.generation,
        "audit_entries": report.audit_entries,
        "audit_head": report.audit_head,
        "closed_since": closed,
        "bypasses_ended": side.bypasses.len(),
    });
    let subject = format!("generations/{}", report.generation);
    side.audit
        .push(note("database.restore", subject, &detail, &now, generation));
    amend(&mut made, &[(0, side)], Some(generation))?;
    heads::begin_anew(&made).map_err(sqlite("complete a copy"))?;
    made.close()
        .map_err(|(_, source)| sqlite("make a copy")(source))?;
    let mut report = examine(new)?;
    report.closed_since = closed;
    report.replaced = move_away(database)?;
    let ends = heads::path(database);
    heads::forget(database).map_err(beside("remove", &ends))?;
    journal::forget_commits(&beside_it).map_err(beside("write", &beside_it))?;
    put(new, database)?;
    Ok(report)
}

/// An unlock that a restore ends.
fn ended(mut unlock: Unlock, now: &Moment) -> Unlock {
    let reason = "ended when the database was restored: request it again".to_string();
    unlock.state = UnlockState::Revoked;
    unlock.reason.clone_from(&reason);
    unlock.ended_at = Some(now.seconds());
    (unlock.recheck, unlock.notice, unlock.failing) = (None, None, None);
    unlock.revision += 1;
    unlock.history.push(portcullis_unlock::ledger::Transition {
        state: UnlockState::Revoked,
        at: now.seconds(),
        by: "restore".to_string(),
        reason,
    });
    unlock
}

/// Gives the database and the files beside it other names; the log goes first, so that it is never read into another one.
fn move_away(database: &Path) -> Result<Option<PathBuf>, StoreError> {
    if schema::is_missing(database)? {
        return Ok(None);
    }
    let free = (1..).map(|number| with_ending(database, &format!(".replaced-{number}")));
    let Some(to) = free.into_iter().find(|name| !name.exists()) else {
        return Ok(None);
    };
    for ending in ["-wal", "-shm", ""] {
        let from = with_ending(database, ending);
        match std::fs::rename(&from, with_ending(&to, ending)) {
            Ok(()) => {}
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
            Err(error) => return Err(beside("move away", &from)(error)),
        }
    }
    Ok(Some(to))
}

/// Takes the audit log of a database as it is, if its end was missing. What was wrong with it.
fn accept_audit(mut store: Store, missing: Option<Missing>) -> Result<Option<String>, StoreError> {
    let Some(Missing { problem, .. }) = missing else {
        return Ok(None);
    };
    let detail = serde_json::json!({"why": problem});
    let now = crate::clock::now();
    store.accept_audit(note("audit.accept", "audit".to_string(), &detail, &now, 0))?;
    store.close()?;
    Ok(Some(problem))
}

/// Takes what is there for the database from now on: an older one as it is; instead of one that is lost or damaged a new one,
/// after what is left of it was moved away. Returns what was done, in words.
pub fn accept(database: &Path) -> Result<String, StoreError> {
    let beside_it = journal::path(database);
    match Store::open(database) {
        Ok((store, loaded)) => Ok(match accept_audit(store, loaded.audit)? {
            Some(missing) => format!("the audit log is taken as it is: {missing}"),
            None => "the database is in order: there is nothing to accept".to_string(),
        }),
        Err(StoreError::Older { found, .. }) => {
            let lock = schema::lock(database)?;
            journal::forget_commits(&beside_it).map_err(beside("write", &beside_it))?;
            drop(lock);
            let (store, loaded) = Store::open(database)?;
            accept_audit(store, loaded.audit)?;
            Ok(format!("the database is taken as it is, with {found} commits"))
        }
        Err(StoreError::Missing { .. } | StoreError::Damaged { .. } | StoreError::Foreign { .. }) => {
            let _lock = schema::lock(database)?;
            let moved = move_away(database)?;
            let away = with_ending(&beside_it, ".given-up");
            match std::fs::rename(&beside_it, &away) {
                Ok(()) => {}
                Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
                Err(error) => return Err(beside("move away", &beside_it)(error)),
            }
            let ends = heads::path(database);
            heads::forget(database).map_err(beside("remove", &ends))?;
            let moved = moved.map_or(String::new(), |to| {
                format!("; what was there is now {}", to.display())
            });
            Ok(format!(
                "the agent will start with a new database and without a policy{moved}"
            ))
        }
        Err(error) => Err(error),
    }
}
