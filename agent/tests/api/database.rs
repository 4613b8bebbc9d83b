//! A database that is lost, damaged, too old or from a newer version touches no row; backups, and putting them back.

use std::path::Path;
use std::process::{Command, Output};

use portcullis_proto::v1;
use tonic::Code;

use crate::api::closing::*;
use crate::api::process::PROGRAM;
use crate::api::support::*;
use crate::api::unlock_rig::*;

/// Does something to the files of an agent that is stopped, and starts it again.
pub async fn after(u: &mut Unlocks, what: impl FnOnce(&Path)) {
    u.rig.agent.take().unwrap().stop().await.unwrap();
    what(u.rig.folder.path());
    u.begin().await;
}

/// No target was given anything, status says why, nothing can be changed, and reading says why, too.
async fn refuses(u: &mut Unlocks, why: &str) {
    assert!(u.rig.fake.intents.lock().unwrap().is_empty(), "a row was touched");
    let status = store(u).await;
    assert!(status.unusable && status.problem.contains(why), "{status:?}");
    assert!(
        status.problem.contains("portcullis database"),
        "what to do: {status:?}"
    );
    for document in [PROGRAMS, DOCUMENT] {
        let refused = u.apply(document).await.unwrap_err();
        assert_eq!(refused.code(), Code::FailedPrecondition, "{refused:?}");
        assert!(refused.message().contains(why), "{refused:?}");
    }
    let refused = u.api.request_unlock(game("mail1")).await.unwrap_err();
    assert!(
        matches!(refused.code(), Code::FailedPrecondition | Code::NotFound),
        "{refused:?}"
    );
    let refused = u
        .audit
        .list_audit(v1::ListAuditRequest::default())
        .await
        .unwrap_err();
    assert_eq!(refused.code(), Code::FailedPrecondition, "{refused:?}");
    assert!(u.rig.fake.intents.lock().unwrap().is_empty(), "a row was touched");
}

pub fn remove(folder: &Path) {
    for file in ["p.db", "p.db-wal", "p.db-shm"] {
        let _ = std::fs::remove_file(folder.join(file));
    }
}

fn overwrite(folder: &Path, at: u64, bytes: &[u8]) {
    use std::os::unix::fs::FileExt;
    let file = std::fs::OpenOptions::new()
        .write(true)
        .open(folder.join("p.db"))
        .unwrap();
    file.write_all_at(bytes, at).unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lost_or_damaged_database_touches_no_row_and_says_what_to_do() {
    let mut u = Unlocks::new().await;
    let unlock = active(&mut u, "mail1", 3600).await;
    u.rig.agent.take().unwrap().stop().await.unwrap();
    let whole = std::fs::read(u.rig.folder.path().join("p.db")).unwrap();
    let put = |folder: &Path, bytes: &[u8]| std::fs::write(folder.join("p.db"), bytes).unwrap();
    u.begin().await;
    after(&mut u, remove).await;
    refuses(&mut u, "is gone or empty").await;
    after(&mut u, |folder| put(folder, b"")).await;
    refuses(&mut u, "is gone or empty").await;
    after(&mut u, |folder| {
        put(folder, &whole);
        overwrite(folder, 0, b"not a database at all");
    })
    .await;
    refuses(&mut u, "is damaged").await;
    after(&mut u, |folder| put(folder, &whole[..whole.len() / 2])).await;
    refuses(&mut u, "is damaged").await;
    after(&mut u, |folder| {
        put(folder, &whole);
        overwrite(folder, whole.len() as u64 / 2, &[0xa5; 8192]);
    })
    .await;
    refuses(&mut u, "is damaged").await;
    after(&mut u, |folder| {
        put(folder, &whole);
        let connection = rusqlite::Connection::open(folder.join("p.db")).unwrap();
        connection.pragma_update(None, "user_version", 99).unwrap();
    })
    .await;
    u.rig.fake.intents.lock().unwrap().clear();
    let status = store(&mut u).await;
    assert!(
        status.unusable && status.problem.contains("newer version"),
        "{status:?}"
    );
    // What was there is taken up again.
    after(&mut u, |folder| put(folder, &whole)).await;
    assert_eq!(u.get(&unlock.id).await.state(), v1::UnlockState::Active);
    u.until_passes("mail1", 465, true).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_database_without_its_log_is_found_to_be_older() {
    let mut u = Unlocks::new().await;
    let unlock = active(&mut u, "mail1", 3600).await;
    // Folded into the database: the next commits are in the log alone.
    u.restart().await;
    let folder = u.rig.folder.path().to_path_buf();
    let old = std::fs::read(folder.join("p.db")).unwrap();
    u.apply(&PROGRAMS.replace("ports: [6667]", "ports: [6667, 6668]"))
        .await
        .unwrap();
    u.api.revoke(revoke(&unlock.id)).await.unwrap();
    until_store(&mut u, "stored", |s| s.waiting == 0).await;
    after(&mut u, |folder| {
        remove(folder);
        std::fs::write(folder.join("p.db"), &old).unwrap();
    })
    .await;
    refuses(&mut u, "is older than the agent left it").await;
    // Taken as it is, what was closed since is closed by the journal.
    let folder = u.rig.folder.path().to_path_buf();
    after(&mut u, |_| {
        let done = portcullis::store::accept(&folder.join("p.db")).unwrap();
        assert!(done.contains("as it is"), "{done}");
    })
    .await;
    assert_eq!(u.get(&unlock.id).await.state(), v1::UnlockState::Revoked);
    u.until_passes("mail1", 465, false).await;
    until_store(&mut u, "stored", |s| s.waiting == 0 && !s.unusable).await;
    intact(&mut u).await;
}

pub fn command(folder: &Path, words: &[&str]) -> Output {
    let database = folder.join("p.db");
    let mut command = Command::new(PROGRAM);
    command
        .arg("database")
        .args(words)
        .arg("--database")
        .arg(database);
    command.output().unwrap()
}

pub fn done(output: &Output) -> String {
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let problem = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{text}{problem}");
    text
}

fn refused(output: &Output) -> String {
    assert!(!output.status.success(), "{output:?}");
    String::from_utf8_lossy(&output.stderr).into_owned()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_backup_is_made_while_the_agent_runs_and_restored_without_opening_what_was_closed() {
    let mut u = Unlocks::new().await;
    let kept = active(&mut u, "web1", 3600).await;
    let taken = active(&mut u, "mail1", 3600).await;
    let folder = u.rig.folder.path().to_path_buf();
    let backup = folder.join("backup.db");
    let file = backup.to_str().unwrap();
    let text = done(&command(&folder, &["backup", file]));
    assert!(text.contains("intact") && text.contains("open unlocks"), "{text}");
    done(&command(&folder, &["check"]));
    done(&command(&folder, &["check", file]));
    assert!(refused(&command(&folder, &["restore", file])).contains("is in use by another agent"));
    u.api.revoke(revoke(&taken.id)).await.unwrap();
    until_store(&mut u, "stored", |s| s.waiting == 0).await;

    // The database is readable: it says what ended since the backup.
    after(&mut u, |folder| {
        let text = done(&command(folder, &["restore", file]));
        assert!(text.contains("1 unlocks that ended since the backup"), "{text}");
    })
    .await;
    u.until_passes("web1", 465, true).await;
    assert!(!u.passes("mail1", 465));
    assert_eq!(u.get(&taken.id).await.state(), v1::UnlockState::Revoked);
    assert!(
        u.actions()
            .await
            .iter()
            .any(|action| action.contains("database.restore"))
    );
    intact(&mut u).await;

    // It is lost, and so is the journal: nothing says what ended, so an operator has to.
    after(&mut u, |folder| {
        remove(folder);
        std::fs::remove_file(folder.join("p.db.closings")).unwrap();
        let why = refused(&command(folder, &["restore", file]));
        assert!(why.contains("2 leases are open in the backup"), "{why}");
        assert!(!folder.join("p.db").exists() && !folder.join("p.db.new").exists());
        done(&command(folder, &["restore", file, "--leases", "end"]));
    })
    .await;
    u.until_passes("web1", 465, false).await;
    assert!(!u.passes("mail1", 465));
    assert_eq!(u.get(&kept.id).await.state(), v1::UnlockState::Revoked);
    intact(&mut u).await;

    // A backup whose audit log was changed is refused, and changes nothing.
    let connection = rusqlite::Connection::open(&backup).unwrap();
    connection
        .execute_batch(
            "DROP TRIGGER audit_is_append_only; UPDATE audit SET actor = 'nobody' WHERE number = 2",
        )
        .unwrap();
    connection.close().unwrap();
    let generation = u.rig.fake.newest().generation;
    after(&mut u, |folder| {
        let why = refused(&command(folder, &["restore", file, "--leases", "keep"]));
        assert!(why.contains("entry 2 of the audit log"), "{why}");
    })
    .await;
    u.until_passes("web1", 465, false).await;
    assert_eq!(u.rig.fake.newest().generation, generation);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lost_database_that_is_given_up_is_a_new_one() {
    let mut u = Unlocks::new().await;
    after(&mut u, |folder| {
        remove(folder);
        let text = done(&command(folder, &["accept"]));
        assert!(text.contains("a new database"), "{text}");
    })
    .await;
    assert!(!store(&mut u).await.unusable);
    assert!(u.rig.fake.intents.lock().unwrap().is_empty());
    u.apply(PROGRAMS).await.unwrap();
    let unlock = active(&mut u, "mail1", 3600).await;
    let closing = u
        .api
        .revoke(revoke(&unlock.id))
        .await
        .unwrap()
        .into_inner()
        .closing;
    assert!(closing.unwrap().durable);
}
