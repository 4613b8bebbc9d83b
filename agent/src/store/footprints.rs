//! Records of the tags and tables used on each datapath.
//!
//! A target writes them when it connects, not with a change of the policy: this has a connection of its own. SQLite lets
//! one of the two write at a time.

use std::path::{Path, PathBuf};
use std::time::Duration;

use async_trait::async_trait;
use portcullis_backend::{Footprint, FootprintError, Footprints};
use rusqlite::{Connection, OpenFlags, OptionalExtension, TransactionBehavior};
use tokio::sync::watch;

/// What the names of these texts begin with.
const PREFIX: &str = "footprints/";

/// How long a read waits for the writer; rows are written only after it.
const READ_WAITS: Duration = Duration::from_millis(500);

/// The records. They can be asked for before the database is open, and wait for that.
#[derive(Debug)]
pub struct FootprintRecords(watch::Sender<Option<Records>>);

/// The file, or why there is none.
type Records = Result<PathBuf, String>;

impl Default for FootprintRecords {
    fn default() -> Self {
        FootprintRecords(watch::Sender::new(None))
    }
}

impl FootprintRecords {
    /// The database is open, and this agent's.
    pub fn opened(&self, file: &Path) {
        self.0.send_replace(Some(Ok(file.to_path_buf())));
    }

    /// The database cannot be used.
    pub fn refused(&self, problem: &str) {
        self.0.send_replace(Some(Err(problem.to_string())));
    }

    /// Works with the file, as soon as there is one.
    async fn with<T: Send + 'static>(
        &self,
        work: impl FnOnce(&Path) -> rusqlite::Result<T> + Send + 'static,
    ) -> Result<T, FootprintError> {
        let gone = |_| FootprintError("the database is closed".to_string());
        let mut records = self.0.subscribe();
        let file = records.wait_for(Option::is_some).await.map_err(gone)?.clone();
        let file = file
            .unwrap_or_else(|| Err("the database is closed".to_string()))
            .map_err(FootprintError)?;
        let done = tokio::task::spawn_blocking(move || work(&file)).await;
        done.map_err(|error| FootprintError(error.to_string()))?
            .map_err(|error| FootprintError(format!("the database failed: {error}")))
    }

    /// Changes the footprints of a datapath, and returns them.
    async fn change(
        &self,
        datapath: &str,
        change: impl FnOnce(&mut Vec<Footprint>) + Send + 'static,
    ) -> Result<Vec<Footprint>, FootprintError> {
        let name = named(datapath);
        self.with(move |file| changed(file, &name, change)).await
    }
}

fn named(datapath: &str) -> String {
    format!("{PREFIX}{datapath}")
}

/// What a text says.
fn read(connection: &Connection, name: &str) -> rusqlite::Result<Vec<Footprint>> {
    let text: Option<String> = connection
        .query_row("SELECT value FROM texts WHERE name = ?1", [name], |row| {
            row.get(0)
        })
        .optional()?;
    text.map_or(Ok(Vec::new()), |text| {
        serde_json::from_str(&text).map_err(unreadable)
    })
}

fn unreadable(error: serde_json::Error) -> rusqlite::Error {
    rusqlite::Error::ToSqlConversionFailure(Box::new(error))
}

fn changed(
    file: &Path,
    name: &str,
    change: impl FnOnce(&mut Vec<Footprint>),
) -> rusqlite::Result<Vec<Footprint>> {
    let mut connection = Connection::open_with_flags(file, OpenFlags::SQLITE_OPEN_READ_WRITE)?;
    connection.busy_timeout(Duration::from_secs(5))?;
    connection.execute_batch("PRAGMA synchronous = FULL")?;
    let transaction = connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
    let before = read(&transaction, name)?;
    let mut after = before.clone();
    change(&mut after);
    if after != before {
        let text = serde_json::to_string(&after).map_err(unreadable)?;
        transaction.execute(
            "INSERT OR REPLACE INTO texts (name, value) VALUES (?1, ?2)",
            [name, &text],
        )?;
        transaction.commit()?;
    }
    Ok(after)
}

#[async_trait]
impl Footprints for FootprintRecords {
    async fn recorded(&self, datapath: &str) -> Result<Vec<Footprint>, FootprintError> {
        let name = named(datapath);
        // It waits for no commit: a reader sees the state before.
        let look = move |file: &Path| {
            let connection = Connection::open_with_flags(file, OpenFlags::SQLITE_OPEN_READ_WRITE)?;
            connection.busy_timeout(READ_WAITS)?;
            read(&connection, &name)
        };
        self.with(look).await
    }

    async fn record(&self, datapath: &str, footprint: &Footprint) -> Result<(), FootprintError> {
        let footprint = footprint.clone();
        let add = move |list: &mut Vec<Footprint>| {
            if !list.contains(&footprint) {
                list.push(footprint);
            }
        };
        self.change(datapath, add).await.map(drop)
    }

    async fn forget(&self, datapath: &str, footprints: &[Footprint]) -> Result<(), FootprintError> {
        let gone = footprints.to_vec();
        let forget = move |list: &mut Vec<Footprint>| list.retain(|known| !gone.contains(known));
        self.change(datapath, forget).await.map(drop)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;
    use std::sync::Arc;

    use super::*;
    use crate::store::Store;

    fn footprint(tag: u16) -> Footprint {
        Footprint {
            tag,
            tables: BTreeMap::from([(0, "attach".to_string())]),
        }
    }

    #[tokio::test]
    async fn they_outlive_the_process_and_wait_for_the_database() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("portcullis.db");
        let records = Arc::new(FootprintRecords::default());
        let early = tokio::spawn({
            let records = Arc::clone(&records);
            async move { records.record("ovs:1", &footprint(1)).await }
        });
        tokio::task::yield_now().await;
        let (store, _) = Store::open(&file).unwrap();
        assert!(!early.is_finished());
        records.opened(&file);
        early.await.unwrap().unwrap();
        for tag in [2, 2] {
            records.record("ovs:1", &footprint(tag)).await.unwrap();
        }
        records.record("ovs:2", &footprint(3)).await.unwrap();
        store.close().unwrap();

        let (_store, _) = Store::open(&file).unwrap();
        let records = FootprintRecords::default();
        records.opened(&file);
        assert_eq!(
            records.recorded("ovs:1").await.unwrap(),
            [footprint(1), footprint(2)]
        );
        records.forget("ovs:1", &[footprint(1)]).await.unwrap();
        assert_eq!(records.recorded("ovs:1").await.unwrap(), [footprint(2)]);
        assert_eq!(records.recorded("ovs:2").await.unwrap(), [footprint(3)]);
        assert_eq!(records.recorded("ovs:3").await.unwrap(), []);
    }
    #[tokio::test]
    async fn without_a_database_they_say_so_and_make_none() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("portcullis.db");
        let records = FootprintRecords::default();
        records.refused("it is gone");
        let error = records.recorded("ovs:1").await.unwrap_err();
        assert_eq!(error.0, "it is gone");
        // Removed while the agent runs: nobody makes an empty one.
        records.opened(&file);
        records.record("ovs:1", &footprint(1)).await.unwrap_err();
        records.recorded("ovs:1").await.unwrap_err();
        assert!(!file.exists());
    }

    #[tokio::test]
    async fn reading_waits_for_no_commit() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("portcullis.db");
        let (store, _) = Store::open(&file).unwrap();
        let records = FootprintRecords::default();
        records.opened(&file);
        records.record("ovs:1", &footprint(1)).await.unwrap();
        let writer = Connection::open(&file).unwrap();
        writer.execute_batch("BEGIN IMMEDIATE").unwrap();
        assert_eq!(records.recorded("ovs:1").await.unwrap(), [footprint(1)]);
        drop(writer);
        drop(store);
    }
}
