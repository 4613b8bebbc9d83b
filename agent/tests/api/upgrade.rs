//! A database that the version before the journal of closings left is taken over.

use std::path::Path;

use portcullis::store::journal;
use portcullis_proto::v1;

use crate::api::closing::*;
use crate::api::database::*;
use crate::api::support::config;
use crate::api::unlock_rig::*;

const FORMAT: u32 = 3;

/// What it left: [`PROGRAMS`], an unlock of `mail1` that opens TCP port 465 for decades, and a footprint.
const LEFT: &str = include_str!("../fixtures/database-3.sql");

/// The name of that unlock.
const LEFT_UNLOCK: &str = "u-08dcb7232fd546bc05ba";

fn left(file: &Path) {
    let connection = rusqlite::Connection::open(file).unwrap();
    connection.execute_batch(LEFT).unwrap();
    connection
        .query_row("PRAGMA journal_mode = WAL", [], |_| Ok(()))
        .unwrap();
    drop(connection);
    assert_eq!(format(file), FORMAT);
}

fn format(file: &Path) -> u32 {
    let connection = rusqlite::Connection::open(file).unwrap();
    connection
        .query_row("PRAGMA user_version", [], |row| row.get(0))
        .unwrap()
}

/// What a database and its journal call it.
fn names(folder: &Path) -> (String, String) {
    let connection = rusqlite::Connection::open(folder.join("p.db")).unwrap();
    let name = connection.query_row("SELECT value FROM texts WHERE name = 'database'", [], |row| {
        row.get(0)
    });
    let header = journal::Header::from_file(&folder.join("p.db.closings")).unwrap();
    let digits = header.database.iter().map(|byte| format!("{byte:02x}")).collect();
    (name.unwrap(), digits)
}

/// An agent over a database of that version, in a folder.
async fn over(folder: tempfile::TempDir) -> Unlocks {
    left(&folder.path().join("p.db"));
    let scratch = Unlocks::new().await;
    Unlocks::again(folder, &scratch.rig.more).await
}

/// The unlock that was left.
async fn only(u: &mut Unlocks) -> v1::Unlock {
    let listed = u.api.list_unlocks(v1::ListUnlocksRequest::default()).await;
    let mut unlocks = listed.unwrap().into_inner().unlocks;
    assert_eq!(unlocks.len(), 1);
    unlocks.remove(0)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_database_of_the_version_before_is_taken_over() {
    let mut u = over(tempfile::tempdir().unwrap()).await;
    let folder = u.rig.folder.path().to_path_buf();
    let unlock = only(&mut u).await;
    assert_eq!(unlock.state(), v1::UnlockState::Active);
    u.until_passes("mail1", 465, true).await;
    assert!(!u.passes("web1", 465));
    assert!(
        format(&folder.join("p.db")) > FORMAT,
        "an older version refuses it"
    );
    let (name, of_journal) = names(&folder);
    assert_eq!(name, of_journal);
    let entries = intact(&mut u).await;
    let records = portcullis::store::FootprintRecords::default();
    records.opened(&folder.join("p.db"));
    let recorded = portcullis_backend::Footprints::recorded(&records, "ovs:left").await;
    assert_eq!(recorded.unwrap()[0].tag, 7);

    let revoked = u.api.revoke(revoke(&unlock.id)).await.unwrap().into_inner();
    let closing = revoked.closing.unwrap();
    assert!(closing.applied && closing.durable, "{closing:?}");
    u.restart().await;
    u.until_passes("mail1", 465, false).await;
    assert_eq!(names(&folder), (name.clone(), name), "it keeps its name");
    assert!(intact(&mut u).await > entries);
}

#[tokio::test(flavor = "multi_thread")]
async fn revocations_of_the_version_before_count_against_tenants() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("p.db");
    left(&file);
    // Of two endpoints of a tenant the one that is gone had more; that of another tenant's endpoint was no unlock of its own.
    let connection = rusqlite::Connection::open(&file).unwrap();
    for (endpoint, tenant, state, times) in [
        ("mail1", "acme", "revoked", 2),
        ("gone1", "acme", "revoked", 3),
        ("web1", "other", "released", 4),
    ] {
        let until = serde_json::json!({"wall_ms": 7_000_000_000_000_i64, "boot_ms": 7, "boot": 7});
        let strikes = serde_json::json!({"times": times, "until": until}).to_string();
        connection
            .execute(
                "INSERT INTO strikes (endpoint, program, body) VALUES (?1, 'smtp', ?2)",
                [endpoint, &strikes],
            )
            .unwrap();
        connection
            .execute(
                "INSERT INTO unlocks SELECT 'u-' || ?1, ?1, 'smtp', ?2, ?3, 0, 1, body FROM unlocks LIMIT 1",
                [endpoint, tenant, state],
            )
            .unwrap();
    }
    drop(connection);
    let scratch = Unlocks::new().await;
    let mut u = Unlocks::again(folder, &scratch.rig.more).await;
    let why = async |u: &mut Unlocks, endpoint: &str| {
        let request = v1::RequestUnlockRequest {
            endpoint: endpoint.to_string(),
            ..smtp(&GOOD)
        };
        let answer = u.api.request_unlock(request).await;
        answer
            .err()
            .map_or_else(String::new, |status| status.message().to_string())
    };
    assert!(
        why(&mut u, "mail1")
            .await
            .contains("revoked on `mail1`, 2 time(s)")
    );
    // Created again under another name it has the tenant's, the most there was; so it has after a restart.
    u.apply(&PROGRAMS.replace("  mail1:\n", "  mail2:\n"))
        .await
        .unwrap();
    for restarts in [false, true] {
        if restarts {
            u.restart().await;
        }
        let why = why(&mut u, "mail2").await;
        assert!(why.contains("an endpoint of tenant `acme`, 3 time(s)"), "{why}");
    }
    u.apply(&PROGRAMS.replace("  web1:\n", "  web2:\n"))
        .await
        .unwrap();
    assert_eq!(
        why(&mut u, "web2").await,
        "",
        "nothing counts against that tenant"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_full_disk_puts_the_take_over_off_and_holds_up_no_closing() {
    let (small, folder) = Small::new(24);
    left(&folder.path().join("p.db"));
    let scratch = Unlocks::new().await;
    config(folder.path(), &scratch.rig.more);
    small.fill();
    let mut u = Unlocks::again(folder, &scratch.rig.more).await;
    u.until_passes("mail1", 465, true).await;
    let status = store(&mut u).await;
    assert!(
        !status.unusable && !status.journal_problem.is_empty(),
        "{status:?}"
    );
    let revoked = u.api.revoke(revoke(LEFT_UNLOCK)).await.unwrap().into_inner();
    let closing = revoked.closing.unwrap();
    assert!(closing.applied && !closing.durable, "{closing:?}");
    assert!(closing.waits_for[0].contains("the disk"), "{closing:?}");
    u.until_passes("mail1", 465, false).await;

    small.free();
    until_store(&mut u, "stored", |s| s.waiting == 0 && s.problem.is_empty()).await;
    u.restart().await;
    u.until_passes("mail1", 465, false).await;
    let status = store(&mut u).await;
    assert!(status.journal_problem.is_empty(), "{status:?}");
    assert!(format(&u.rig.folder.path().join("p.db")) > FORMAT);
    intact(&mut u).await;
    drop(u);
    drop(small);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_backup_from_before_the_take_over_opens_nothing_that_the_journal_knows_to_be_closed() {
    let mut u = over(tempfile::tempdir().unwrap()).await;
    let backup = u.rig.folder.path().join("before.db");
    left(&backup);
    u.until_passes("mail1", 465, true).await;
    u.api.revoke(revoke(LEFT_UNLOCK)).await.unwrap();
    until_store(&mut u, "stored", |s| s.waiting == 0).await;
    // The database is lost: only the journal knows.
    after(&mut u, |folder| {
        remove(folder);
        done(&command(folder, &["restore", backup.to_str().unwrap()]));
    })
    .await;
    u.until_passes("mail1", 465, false).await;
    assert_eq!(u.get(LEFT_UNLOCK).await.state(), v1::UnlockState::Revoked);
    intact(&mut u).await;
}
