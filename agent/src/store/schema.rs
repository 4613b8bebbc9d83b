//! Opening the database: the lock, the settings, the format and its migrations.

use std::fs::{File, OpenOptions, TryLockError};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use rusqlite::{Connection, ErrorCode, OptionalExtension};

use super::journal::DatabaseId;
use super::{StoreError, bypasses, sqlite};

/// In the header of every database of ours (`PRAGMA application_id`): "prtc".
const APPLICATION: i32 = 0x7072_7463;

/// Pages of the log (4 KiB each) that are gathered before a commit also folds them into the database, which takes
/// it several times as long.
const CHECKPOINT_PAGES: u32 = 4096;

/// Each brings the database from the format of its index to the next one; a migration never changes once it
/// was released.
const MIGRATIONS: &[&str] = &[
    "
    CREATE TABLE resources (
        kind TEXT NOT NULL,
        name TEXT NOT NULL,
        revision INTEGER NOT NULL,
        body TEXT NOT NULL,
        PRIMARY KEY (kind, name)
    ) STRICT, WITHOUT ROWID;
    CREATE TABLE numbers (name TEXT PRIMARY KEY, value INTEGER NOT NULL) STRICT, WITHOUT ROWID;
    INSERT INTO numbers VALUES ('generation', 0), ('next_class', 1);
    CREATE TABLE classes (id INTEGER PRIMARY KEY, fingerprint BLOB NOT NULL UNIQUE) STRICT;
    CREATE TABLE generations (
        generation INTEGER PRIMARY KEY,
        at INTEGER NOT NULL,
        by TEXT NOT NULL,
        changes INTEGER NOT NULL
    ) STRICT;
    CREATE TABLE changes (
        generation INTEGER NOT NULL,
        position INTEGER NOT NULL,
        change TEXT NOT NULL,
        kind TEXT NOT NULL,
        name TEXT NOT NULL,
        PRIMARY KEY (generation, position)
    ) STRICT, WITHOUT ROWID;
",
    "
    CREATE TABLE released (id INTEGER PRIMARY KEY, generation INTEGER NOT NULL) STRICT;
",
    // What is there already counts as created now: an age that nobody knows opens nothing.
    "
    ALTER TABLE resources ADD COLUMN created INTEGER NOT NULL DEFAULT 0;
    UPDATE resources SET created = unixepoch();
    INSERT INTO numbers VALUES ('commits', 0);
    CREATE TABLE texts (name TEXT PRIMARY KEY, value TEXT NOT NULL) STRICT, WITHOUT ROWID;
    CREATE TABLE unlocks (
        id TEXT PRIMARY KEY,
        endpoint TEXT NOT NULL,
        program TEXT NOT NULL,
        tenant TEXT NOT NULL,
        state TEXT NOT NULL,
        live INTEGER NOT NULL,
        requested_at INTEGER NOT NULL,
        body TEXT NOT NULL
    ) STRICT, WITHOUT ROWID;
    CREATE INDEX unlocks_newest ON unlocks (requested_at, id);
    CREATE INDEX unlocks_of_endpoint ON unlocks (endpoint, requested_at, id);
    CREATE INDEX unlocks_of_program ON unlocks (program, requested_at, id);
    CREATE INDEX unlocks_of_tenant ON unlocks (tenant, requested_at, id);
    CREATE INDEX unlocks_in_state ON unlocks (state, requested_at, id);
    CREATE INDEX unlocks_live ON unlocks (id) WHERE live;
    CREATE TABLE strikes (
        endpoint TEXT NOT NULL,
        program TEXT NOT NULL,
        body TEXT NOT NULL,
        PRIMARY KEY (endpoint, program)
    ) STRICT, WITHOUT ROWID;
    CREATE TABLE request_keys (
        caller TEXT NOT NULL,
        key TEXT NOT NULL,
        digest BLOB NOT NULL,
        made TEXT NOT NULL,
        at INTEGER NOT NULL,
        PRIMARY KEY (caller, key)
    ) STRICT, WITHOUT ROWID;
    CREATE INDEX request_keys_by_age ON request_keys (at);
    CREATE TABLE audit (
        number INTEGER PRIMARY KEY,
        at INTEGER NOT NULL,
        actor TEXT NOT NULL,
        role TEXT NOT NULL,
        action TEXT NOT NULL,
        subject TEXT NOT NULL,
        detail TEXT NOT NULL,
        generation INTEGER NOT NULL,
        hash BLOB NOT NULL
    ) STRICT;
    CREATE TRIGGER audit_is_append_only BEFORE UPDATE ON audit BEGIN SELECT RAISE(ABORT, 'the audit log is append-only'); END;
    CREATE TRIGGER audit_keeps_all BEFORE DELETE ON audit BEGIN SELECT RAISE(ABORT, 'the audit log is append-only'); END;
",
    // The name that the journal of closings beside it has, too, and the newest closing of it that is stored. A version that
    // knows no journal does not open what only the journal knows to be closed: the format is one that it refuses.
    "
    INSERT OR IGNORE INTO numbers VALUES ('closings', 0);
    INSERT OR IGNORE INTO texts VALUES ('database', lower(hex(randomblob(16))));
",
    bypasses::TABLE,
    // Revocations count against a tenant, too, beginning with the most that one of its endpoints has.
    "
    CREATE TABLE tenant_strikes (
        tenant TEXT NOT NULL,
        program TEXT NOT NULL,
        body TEXT NOT NULL,
        PRIMARY KEY (tenant, program)
    ) STRICT, WITHOUT ROWID;
    INSERT INTO tenant_strikes
        SELECT tenant, program, body FROM (
            SELECT unlocks.tenant, strikes.program, strikes.body, max(json_extract(strikes.body, '$.times'))
            FROM strikes JOIN unlocks ON unlocks.endpoint = strikes.endpoint AND unlocks.program = strikes.program
            WHERE unlocks.tenant <> '' AND unlocks.state = 'revoked'
            GROUP BY unlocks.tenant, strikes.program
        );
",
];

/// The trigger that keeps entries of the audit log from being deleted, as migrations make it.
pub(super) const KEEPS_ALL: &str = "CREATE TRIGGER audit_keeps_all BEFORE DELETE ON audit BEGIN SELECT RAISE(ABORT, 'the audit log is append-only'); END;";

/// The oldest format that can be worked with as it is, where a full disk has no room for a migration: without a journal.
const WITHOUT_JOURNAL: u32 = 3;

fn file_error(file: &Path) -> impl Fn(std::io::Error) -> StoreError {
    let file = file.to_path_buf();
    move |source| StoreError::File {
        file: file.clone(),
        source,
    }
}

/// Takes the lock beside the database; it falls with the process.
pub(super) fn lock(file: &Path) -> Result<File, StoreError> {
    if let Some(folder) = file.parent()
        && !folder.as_os_str().is_empty()
    {
        std::fs::create_dir_all(folder).map_err(file_error(file))?;
    }
    let mut name = file.as_os_str().to_os_string();
    name.push(".lock");
    let lock = OpenOptions::new()
        .create(true)
        .truncate(false)
        .write(true)
        .mode(0o600)
        .open(PathBuf::from(name))
        .map_err(file_error(file))?;
    match lock.try_lock() {
        Ok(()) => Ok(lock),
        Err(TryLockError::WouldBlock) => Err(StoreError::InUse {
            file: file.to_path_buf(),
        }),
        Err(TryLockError::Error(source)) => Err(StoreError::File {
            file: file.to_path_buf(),
            source,
        }),
    }
}

/// Whether there is no database: no file, or one that nothing was ever written to.
pub(super) fn is_missing(file: &Path) -> Result<bool, StoreError> {
    match std::fs::metadata(file) {
        Ok(found) => Ok(found.len() == 0),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(true),
        Err(error) => Err(file_error(file)(error)),
    }
}

/// A database that was opened.
pub(super) struct Opened {
    pub connection: Connection,
    /// Its name, if it has one or could be given one.
    pub database: Option<DatabaseId>,
    /// No other connection can read it: the disk had no room for what readers and the writer share.
    pub alone: bool,
}

/// Opens the database in its newest format.
pub(super) fn open(file: &Path) -> Result<Opened, StoreError> {
    // Created here, so that nobody else can read it, not even for a moment.
    OpenOptions::new()
        .create(true)
        .truncate(false)
        .write(true)
        .mode(0o600)
        .open(file)
        .map_err(file_error(file))?;
    let connect = |exclusive: bool| -> Result<Connection, StoreError> {
        let mut connection = Connection::open(file).map_err(sqlite("open"))?;
        if exclusive {
            connection
                .execute_batch("PRAGMA locking_mode = EXCLUSIVE")
                .map_err(sqlite("open"))?;
        }
        prepare(&mut connection, file)?;
        Ok(connection)
    };
    let opened = match connect(false) {
        // A full disk has no room for the file that readers and the writer share. Alone, the writer does without it.
        Err(StoreError::Sqlite { source, .. }) if is_want_of_room(&source) => {
            tracing::error!(%source, "the disk is full: nobody else can read the database until it has room");
            connect(true).map(|connection| (connection, true))
        }
        other => other.map(|connection| (connection, false)),
    };
    let (connection, alone) = opened.map_err(|error| match error {
        StoreError::Sqlite { source, .. } if is_damage(&source) => StoreError::Damaged {
            file: file.to_path_buf(),
            problem: source.to_string(),
        },
        other => other,
    })?;
    let database = name_of(&connection).map_err(sqlite("read the database's name"))?;
    Ok(Opened {
        connection,
        database,
        alone,
    })
}

fn is_want_of_room(error: &rusqlite::Error) -> bool {
    matches!(
        error.sqlite_error_code(),
        Some(ErrorCode::DiskFull | ErrorCode::CannotOpen | ErrorCode::SystemIoFailure)
    )
}

/// The name of a database; nothing as long as it could not be given one.
fn name_of(connection: &Connection) -> rusqlite::Result<Option<DatabaseId>> {
    let digits = name(connection)?.unwrap_or_default();
    let bytes: Option<Vec<u8>> = (0..digits.len() / 2)
        .map(|at| u8::from_str_radix(digits.get(2 * at..2 * at + 2)?, 16).ok())
        .collect();
    Ok(bytes.and_then(|bytes| bytes.try_into().ok()))
}

/// [`name_of`], as it is stored.
pub(super) fn name(connection: &Connection) -> rusqlite::Result<Option<String>> {
    connection
        .query_row("SELECT value FROM texts WHERE name = 'database'", [], |row| {
            row.get(0)
        })
        .optional()
}

fn is_damage(error: &rusqlite::Error) -> bool {
    matches!(
        error.sqlite_error_code(),
        Some(ErrorCode::NotADatabase | ErrorCode::DatabaseCorrupt)
    )
}

/// What is in the header of a database of ours, and the newest format that this version knows.
pub(super) const FORMAT: (i32, usize) = (APPLICATION, MIGRATIONS.len());

fn prepare(connection: &mut Connection, file: &Path) -> Result<(), StoreError> {
    let failed = sqlite("open");
    connection.busy_timeout(Duration::from_secs(5)).map_err(&failed)?;
    let number = |connection: &Connection, pragma: &str| -> Result<i64, StoreError> {
        connection
            .query_row(&format!("PRAGMA {pragma}"), [], |row| row.get(0))
            .map_err(sqlite("open"))
    };
    let format = u32::try_from(number(connection, "user_version")?).unwrap_or(u32::MAX);
    let application = number(connection, "application_id")?;
    let tables: i64 = connection
        .query_row("SELECT count(*) FROM sqlite_schema", [], |row| row.get(0))
        .map_err(&failed)?;
    if application != i64::from(APPLICATION) && (application != 0 || format != 0 || tables != 0) {
        return Err(StoreError::Foreign {
            file: file.to_path_buf(),
        });
    }
    let known = u32::try_from(MIGRATIONS.len()).unwrap_or(u32::MAX);
    if format > known {
        return Err(StoreError::Newer {
            file: file.to_path_buf(),
            found: format,
            known,
        });
    }
    let verdict: String = connection
        .query_row("PRAGMA quick_check(1)", [], |row| row.get(0))
        .map_err(&failed)?;
    if verdict != "ok" {
        return Err(StoreError::Damaged {
            file: file.to_path_buf(),
            problem: verdict,
        });
    }
    connection
        .query_row("PRAGMA journal_mode = WAL", [], |_| Ok(()))
        .map_err(&failed)?;
    connection
        .execute_batch(&format!(
            "PRAGMA synchronous = FULL; PRAGMA wal_autocheckpoint = {CHECKPOINT_PAGES};"
        ))
        .map_err(&failed)?;
    migrate(connection, format)
}

fn migrate(connection: &mut Connection, format: u32) -> Result<(), StoreError> {
    for (index, migration) in (0u32..).zip(MIGRATIONS).skip(format as usize) {
        match step(connection, index + 1, migration) {
            Err(error) if index >= WITHOUT_JOURNAL && is_want_of_room(&error) => {
                tracing::error!(
                    %error,
                    "the database stays in an earlier format, and closings are not durable until it can be written"
                );
                return Ok(());
            }
            done => done.map_err(sqlite("migrate to this version's format"))?,
        }
    }
    Ok(())
}

fn step(connection: &mut Connection, format: u32, migration: &str) -> rusqlite::Result<()> {
    let transaction = connection.transaction()?;
    transaction.execute_batch(migration)?;
    transaction.pragma_update(None, "user_version", format)?;
    transaction.pragma_update(None, "application_id", APPLICATION)?;
    transaction.commit()
}
