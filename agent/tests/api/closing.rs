//! Closings wait for nothing: not for a full disk, a database that does not answer, or a check that goes on for long.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use portcullis_compiler::Intent;
use portcullis_proto::v1;
use tonic::Code;

use crate::api::process::{Process, write_config};
pub use crate::api::small::Small;
use crate::api::support::*;
use crate::api::unlock_rig::*;

pub async fn store(u: &mut Unlocks) -> v1::StoreStatus {
    let line = with(&u.channel, "operator");
    let mut targets = v1::target_service_client::TargetServiceClient::new(line);
    let answer = targets.list_targets(v1::ListTargetsRequest {}).await.unwrap();
    answer.into_inner().store.unwrap()
}

pub async fn until_store(u: &mut Unlocks, what: &str, holds: impl Fn(&v1::StoreStatus) -> bool) {
    let end = tokio::time::Instant::now() + PATIENCE;
    loop {
        let store = store(u).await;
        if holds(&store) {
            return;
        }
        assert!(tokio::time::Instant::now() < end, "not {what}: {store:?}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

pub fn revoke(id: &str) -> v1::DecideUnlockRequest {
    v1::DecideUnlockRequest {
        id: id.to_string(),
        reason: "complaints".to_string(),
        quarantine: false,
    }
}

/// An active unlock of `mail1` that opens TCP port 465 for so many seconds.
pub async fn active(u: &mut Unlocks, endpoint: &str, seconds: u64) -> v1::Unlock {
    let request = v1::RequestUnlockRequest {
        lease_seconds: seconds,
        ..game(endpoint)
    };
    let unlock = u.api.request_unlock(request).await.unwrap().into_inner();
    let unlock = u
        .until(&unlock.id, &[v1::UnlockState::Active, v1::UnlockState::Expiring])
        .await;
    u.until_passes(endpoint, 465, true).await;
    unlock
}

pub async fn intact(u: &mut Unlocks) -> u64 {
    let verdict = u
        .audit
        .verify_audit(v1::VerifyAuditRequest::default())
        .await
        .unwrap();
    let verdict = verdict.into_inner();
    assert!(verdict.intact, "{verdict:?}");
    verdict.entries
}

/// How often an unlock was taken back, as the audit log has it.
pub async fn revocations(u: &mut Unlocks, id: &str) -> usize {
    let wanted = format!("unlock.revoke unlocks/{id}");
    let actions = u.actions().await;
    actions.iter().filter(|action| action.ends_with(&wanted)).count()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_full_disk_holds_up_no_closing() {
    let (small, folder) = Small::new(24);
    let mut u = Unlocks::inside(folder).await;
    let mail = active(&mut u, "mail1", 3600).await;
    let web = active(&mut u, "web1", 4).await;
    small.fill();
    // What opens is refused.
    let refused = u.api.request_unlock(game("mail1")).await.unwrap_err();
    assert_eq!(refused.code(), Code::Internal, "{refused:?}");
    u.apply(DOCUMENT).await.unwrap_err();

    let revoked = u.api.revoke(revoke(&mail.id)).await.unwrap().into_inner();
    assert_eq!(revoked.state(), v1::UnlockState::Revoked);
    let closing = revoked.closing.unwrap();
    assert!(closing.applied && closing.durable, "{closing:?}");
    assert!(!u.passes("mail1", 465), "applied is what the target holds");
    // A lease ends by itself.
    u.until(&web.id, &[v1::UnlockState::Expired]).await;
    u.until_passes("web1", 465, false).await;
    let full = store(&mut u).await;
    assert!(full.waiting >= 2 && !full.unusable, "{full:?}");
    assert!(
        full.problem.contains("disk") && full.journal_problem.is_empty(),
        "{full:?}"
    );

    // The agent is started again while the disk is full: closed from the first intent on.
    u.restart().await;
    let first = first(&u).await;
    assert!(!passes(&first, "mail1", 465) && !passes(&first, "web1", 465));
    assert_eq!(u.get(&mail.id).await.state(), v1::UnlockState::Revoked);

    small.free();
    until_store(&mut u, "stored", |s| s.waiting == 0 && s.problem.is_empty()).await;
    assert_eq!(revocations(&mut u, &mail.id).await, 1);
    u.restart().await;
    intact(&mut u).await;
    assert_eq!(u.get(&mail.id).await.state(), v1::UnlockState::Revoked);
    assert_eq!(u.get(&web.id).await.state(), v1::UnlockState::Expired);
    active(&mut u, "web1", 3600).await;
    drop(u);
    drop(small);
}

/// The first intent that the target was given.
async fn first(u: &Unlocks) -> Arc<Intent> {
    loop {
        if let Some(intent) = u.rig.fake.intents.lock().unwrap().first() {
            return Arc::clone(intent);
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

/// The agent's files as a crash would leave them.
fn image(from: &Path, parts: &[&str]) -> tempfile::TempDir {
    let to = tempfile::tempdir().unwrap();
    for part in parts {
        let _ = std::fs::copy(from.join(part), to.path().join(part));
    }
    let head = from.join("p.db.audit-head");
    if head.exists() {
        std::fs::copy(head, to.path().join("p.db.audit-head")).unwrap();
    }
    to
}

const FILES: [&str; 3] = ["p.db", "p.db-wal", "p.db.closings"];

/// Starts an agent over an image; whether the port is open there, from the first intent to the last, and how often the audit
/// log tells of the revocation.
async fn outcome(u: &Unlocks, image: tempfile::TempDir, id: &str) -> (bool, usize) {
    let mut again = Unlocks::again(image, &u.rig.more).await;
    let first = first(&again).await;
    let opens = passes(&first, "mail1", 465);
    until_store(&mut again, "stored", |s| s.waiting == 0).await;
    assert_eq!(again.passes("mail1", 465), opens, "nothing opens later");
    intact(&mut again).await;
    (opens, revocations(&mut again, id).await)
}

#[tokio::test(flavor = "multi_thread")]
async fn killed_at_any_point_what_was_answered_as_durable_stays_closed() {
    let (small, folder) = Small::new(24);
    let at = folder.path().to_path_buf();
    let mut u = Unlocks::inside(folder).await;
    let unlock = active(&mut u, "mail1", 3600).await;
    let before = image(&at, &FILES);
    small.fill();
    let closing = u
        .api
        .revoke(revoke(&unlock.id))
        .await
        .unwrap()
        .into_inner()
        .closing;
    assert!(closing.unwrap().durable);
    let journaled = image(&at, &FILES);
    small.free();
    until_store(&mut u, "stored", |s| s.waiting == 0).await;
    let stored = image(&at, &FILES);

    let mixed = |database: &tempfile::TempDir, journal: &tempfile::TempDir| {
        let mixed = image(database.path(), &FILES[..2]);
        std::fs::copy(journal.path().join(FILES[2]), mixed.path().join(FILES[2])).unwrap();
        mixed
    };
    let torn = mixed(&journaled, &journaled);
    let journal = torn.path().join(FILES[2]);
    let mut bytes = std::fs::read(&journal).unwrap();
    let last = bytes.iter().rposition(|byte| *byte != 0).unwrap();
    bytes[last] ^= 1;
    std::fs::write(&journal, bytes).unwrap();

    let cases = [
        // Not made yet, or killed while the record was written: nobody had an answer.
        ("before anything", mixed(&before, &before), (true, 0)),
        ("while the record was written", torn, (true, 0)),
        (
            "record written, not stored",
            mixed(&journaled, &journaled),
            (false, 1),
        ),
        // The target may have been given it, or not: the agent does not know, and says the same again.
        (
            "stored, the journal not told",
            mixed(&stored, &journaled),
            (false, 1),
        ),
        ("stored, without a record", mixed(&stored, &before), (false, 1)),
        ("all of it", mixed(&stored, &stored), (false, 1)),
    ];
    for (what, image, wanted) in cases {
        assert_eq!(outcome(&u, image, &unlock.id).await, wanted, "killed {what}");
    }
    drop(u);
    drop(small);
}

#[tokio::test(flavor = "multi_thread")]
async fn kill_9_with_a_full_disk_loses_no_revocation() {
    let (small, folder) = Small::new(24);
    let config = write_config(folder.path(), "");
    let socket = folder.path().join("agent.sock");
    let process = Process::start(&config, &[]);
    let mut client = Client::unix(&socket).await;
    client.apply(PROGRAMS).await.unwrap();
    let mut api = v1::unlock_service_client::UnlockServiceClient::new(client.channel.clone());
    let request = v1::RequestUnlockRequest {
        lease_seconds: 3600,
        ..game("mail1")
    };
    let id = api.request_unlock(request).await.unwrap().into_inner().id;
    let get = v1::UnlockRequest { id: id.clone() };
    for _ in 0..500 {
        if api.get_unlock(get.clone()).await.unwrap().into_inner().granted_at > 0 {
            break;
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    small.fill();
    let closing = api
        .revoke(revoke(&id))
        .await
        .unwrap()
        .into_inner()
        .closing
        .unwrap();
    // The datapath of this configuration is not there.
    assert!(closing.durable && !closing.applied, "{closing:?}");
    assert!(closing.waits_for[0].contains("target ovs"), "{closing:?}");
    // SIGKILL.
    drop(process);
    let again = Process::start(&config, &[]);
    let client = Client::unix(&socket).await;
    let mut api = v1::unlock_service_client::UnlockServiceClient::new(client.channel.clone());
    let unlock = api.get_unlock(get).await.unwrap().into_inner();
    assert_eq!(unlock.state(), v1::UnlockState::Revoked);
    drop(again);
    drop(small);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_check_that_goes_on_for_long_holds_up_no_closing() {
    let mut u = Unlocks::new().await;
    let unlock = active(&mut u, "mail1", 3600).await;
    let fake = Arc::clone(&u.rig.fake);
    let held = std::thread::spawn({
        let fake = Arc::clone(&fake);
        move || {
            let _programs = fake.programs.lock().unwrap();
            std::thread::sleep(Duration::from_secs(5));
        }
    });
    tokio::time::sleep(Duration::from_millis(100)).await;
    let checks = fake.checks.load(std::sync::atomic::Ordering::Relaxed);
    let mut other = u.as_caller("operator");
    let opening = tokio::spawn(async move { other.request_unlock(game("web1")).await });
    let document = u.apply_later(&PROGRAMS.replace("ports: [6667]", "ports: [6667, 6668]"));
    while fake.checks.load(std::sync::atomic::Ordering::Relaxed) == checks {
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    let closing = u
        .api
        .revoke(revoke(&unlock.id))
        .await
        .unwrap()
        .into_inner()
        .closing
        .unwrap();
    assert!(closing.applied && closing.durable, "{closing:?}");
    assert!(!held.is_finished(), "the check was over before the closing");
    assert!(!u.passes("mail1", 465));
    // What was being checked is made from what holds now, and opens nothing again.
    document.await.unwrap().unwrap();
    drop(opening.await.unwrap());
    assert!(!u.passes("mail1", 465));
    held.join().unwrap();
}

/// Keeps the database to itself, so that a commit waits.
fn hold(u: &Unlocks) -> rusqlite::Connection {
    let connection = rusqlite::Connection::open(u.rig.folder.path().join("p.db")).unwrap();
    connection.execute_batch("BEGIN IMMEDIATE").unwrap();
    connection
}

/// The generations that a watcher gets behind one, up to another, and what each changed.
async fn told(u: &Unlocks, after: u64, newest: u64) -> Vec<(u64, Vec<String>)> {
    let line = with(&u.channel, "operator");
    let mut targets = v1::target_service_client::TargetServiceClient::new(line);
    let request = v1::WatchRequest {
        after_generation: after,
        from_now: false,
    };
    let mut stream = targets.watch(request).await.unwrap().into_inner();
    let mut seen = Vec::new();
    let mut last = after;
    while last < newest {
        let event = stream.message().await.unwrap().unwrap();
        match event.event.unwrap() {
            v1::event::Event::Committed(committed) => {
                last = event.generation;
                let changes = committed.changes.into_iter();
                seen.push((last, changes.map(|change| change.resource).collect()));
            }
            // No target holds what was not told.
            v1::event::Event::Target(t) => assert!(t.generation_applied <= event.generation, "{t:?}"),
        }
    }
    seen
}

/// Every generation that a watcher gets from the beginning, up to a number.
async fn history(u: &Unlocks, newest: u64) -> Vec<u64> {
    let told = told(u, 0, newest).await;
    told.into_iter().map(|(generation, _)| generation).collect()
}

/// A document is being stored; meanwhile an unlock is taken back. The database answers then, or does not in time.
async fn meanwhile(stored: bool) {
    let mut u = Unlocks::new().await;
    let unlock = active(&mut u, "mail1", 3600).await;
    let other = active(&mut u, "web1", 3600).await;
    let held = hold(&u);
    let document = u.apply_later(&PROGRAMS.replace("ports: [6667]", "ports: [6667, 6668]"));
    tokio::time::sleep(Duration::from_millis(300)).await;
    let closing = u
        .api
        .revoke(revoke(&unlock.id))
        .await
        .unwrap()
        .into_inner()
        .closing
        .unwrap();
    assert!(closing.applied && closing.durable, "{closing:?}");
    assert!(!u.passes("mail1", 465) && u.passes("web1", 465));
    assert!(u.passes("mail1", 6668), "nothing but the closing holds yet");
    let between = u.rig.fake.newest().generation;
    if stored {
        drop(held);
        let answer = document.await.unwrap().unwrap();
        until_store(&mut u, "stored", |s| s.waiting == 0).await;
        u.until_passes("mail1", 6668, false).await;
        let newest = u.rig.fake.newest().generation;
        assert!(answer.generation <= newest, "{answer:?}");
    } else {
        document.await.unwrap().unwrap_err();
        drop(held);
        until_store(&mut u, "stored", |s| s.waiting == 0 && s.problem.is_empty()).await;
        assert!(u.passes("mail1", 6668));
    }
    assert!(!u.passes("mail1", 465) && u.passes("web1", 465));
    let newest = u.rig.fake.newest().generation;
    assert_eq!(history(&u, newest).await, (1..=newest).collect::<Vec<u64>>());
    // Who read the policy when only the closing held is told what changed it.
    let later = told(&u, between, newest).await;
    let changed = later.iter().flat_map(|(_, changes)| changes);
    assert_eq!(
        changed.filter(|change| *change == "baseline").count(),
        usize::from(stored)
    );
    u.restart().await;
    intact(&mut u).await;
    assert_eq!(first(&u).await.generation, newest);
    assert_eq!(u.passes("mail1", 6668), !stored);
    assert!(!u.passes("mail1", 465) && u.passes("web1", 465));
    assert_eq!(u.get(&other.id).await.state(), v1::UnlockState::Active);
    assert_eq!(history(&u, newest).await, (1..=newest).collect::<Vec<u64>>());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_closing_while_a_change_is_stored_holds_before_it_and_after() {
    meanwhile(true).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_closing_while_a_change_fails_to_be_stored_holds_alone() {
    meanwhile(false).await;
}

/// What waits for approval opens nothing: its end makes no generation of its own.
#[tokio::test(flavor = "multi_thread")]
async fn the_end_of_what_opens_nothing_while_a_change_is_stored_takes_no_number() {
    let asked = "opens: [{direction: egress, protocol: tcp, ports: [465]}]\n    approval: manual";
    let programs = PROGRAMS.replace("opens: [{direction: egress, protocol: tcp, ports: [465]}]", asked);
    let mut u = Unlocks::new().await;
    u.apply_later(&programs).await.unwrap().unwrap();
    let unlock = u.api.request_unlock(game("mail1")).await.unwrap().into_inner();
    u.until(&unlock.id, &[v1::UnlockState::AwaitingApproval]).await;
    let held = hold(&u);
    let document = u.apply_later(&programs.replace("ports: [6667]", "ports: [6667, 6668]"));
    tokio::time::sleep(Duration::from_millis(300)).await;
    let rejected = u.api.reject(revoke(&unlock.id)).await.unwrap().into_inner();
    assert_eq!(rejected.state(), v1::UnlockState::Rejected);
    drop(held);
    document.await.unwrap().unwrap();
    until_store(&mut u, "stored", |s| s.waiting == 0 && s.problem.is_empty()).await;
    u.until_passes("mail1", 6668, false).await;
    let newest = u.rig.fake.newest().generation;
    assert_eq!(history(&u, newest).await, (1..=newest).collect::<Vec<u64>>());
    // The next change finds a number of its own.
    u.apply_later(&programs).await.unwrap().unwrap();
    u.restart().await;
    intact(&mut u).await;
}
