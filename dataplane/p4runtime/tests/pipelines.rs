//! A device that runs another version of our program: rows stay where the device can keep them, and go where it cannot.
#![allow(clippy::unwrap_used, clippy::panic, reason = "helpers fail the test too")]

use crate::rig;

use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use portcullis_backend::SessionState;
use portcullis_p4runtime::{PipelineSource, PortMatching};
use rig::{PATIENCE, Rig, document};

/// The device runs our program with another cookie, as an agent of another version left it.
fn age(rig: &Rig) {
    let mut state = rig.server.state();
    let cookie = state.config.as_mut().unwrap().cookie.as_mut().unwrap();
    cookie.cookie ^= 1;
}

/// How often a pipeline was set, how often with rows kept, and how many updates there were since the tables were empty.
fn counts(rig: &Rig) -> (u64, u64, u64) {
    let state = rig.server.state();
    (state.pushes, state.reconciled, state.updates)
}

/// Waits until a pipeline was set so many times, and all is well again.
async fn pushed(rig: &Rig, times: u64) {
    let end = Instant::now() + PATIENCE;
    while rig.server.state().pushes < times {
        assert!(Instant::now() < end, "{:#?}", rig.target.status());
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    rig.until("in sync", |s| {
        s.state == SessionState::InSync && s.applied == s.wanted
    })
    .await;
}

#[tokio::test]
async fn rows_stay_where_the_device_reconciles() {
    let mut rig = Rig::start().await;
    rig.server.faults().reconcile.store(true, Ordering::Relaxed);
    rig.apply(&document("25", "")).await;
    // There was nothing to keep at first.
    let (_, _, updates) = counts(&rig);
    assert_eq!(counts(&rig), (1, 0, updates));
    let rows = rig.rows();
    age(&rig);
    pushed(&rig, 2).await;
    assert_eq!(counts(&rig), (2, 1, updates), "no row was written");
    assert_eq!(rig.rows(), rows);
    assert_eq!(rig.target.status().drift_repaired, 0);
    rig.right();
    // What is wanted by then is written on top of it.
    rig.apply(&document("25, 465", "")).await;
    rig.right();
    // An agent that starts finds the older version, too.
    let before = counts(&rig);
    let intent = rig.intent(&document("25, 465", ""));
    rig.target.stop();
    age(&rig);
    rig.restart_agent();
    rig.target.set_intent(intent);
    pushed(&rig, 3).await;
    rig.realized().await;
    assert_eq!(counts(&rig), (3, 2, before.2));
    assert_eq!(rig.target.status().writes, [0; 3]);
    rig.right();
}

#[tokio::test]
async fn a_device_that_does_not_reconcile_is_filled_anew() {
    let mut rig = Rig::start().await;
    rig.apply(&document("25", "")).await;
    let (rows, first) = (rig.rows(), counts(&rig));
    assert_eq!(first, (1, 0, rows.len() as u64));
    age(&rig);
    pushed(&rig, 2).await;
    // The count began anew with the empty tables: every row was written again.
    assert_eq!(counts(&rig), (2, 0, rows.len() as u64));
    assert_eq!(rig.rows(), rows);
    rig.right();
}

#[tokio::test]
async fn a_device_that_cannot_keep_these_rows_is_filled_anew() {
    let mut rig = Rig::start().await;
    rig.server.faults().reconcile.store(true, Ordering::Relaxed);
    rig.apply(&document("25, \"6660-6669\"", "")).await;
    // The other variant of our program has no port ranges: rows with one cannot stay.
    rig.config.program = PipelineSource::Own(PortMatching::Ternary);
    rig.restart_agent();
    rig.generation -= 1;
    rig.apply(&document("25, \"6660-6669\"", "")).await;
    let (pushes, reconciled, _) = counts(&rig);
    assert_eq!((pushes, reconciled), (2, 0));
    rig.right();
}

#[tokio::test]
async fn a_device_that_is_busy_keeps_its_rows_until_it_is_not() {
    let mut rig = Rig::start().await;
    rig.server.faults().reconcile.store(true, Ordering::Relaxed);
    rig.apply(&document("25", "")).await;
    let (rows, (_, _, updates)) = (rig.rows(), counts(&rig));
    rig.server.faults().busy.store(3, Ordering::Relaxed);
    age(&rig);
    rig.until("told", |s| s.detail.contains("busy with something else"))
        .await;
    assert_eq!(rig.rows(), rows, "no answer is no reason to empty the tables");
    pushed(&rig, 2).await;
    assert_eq!(rig.server.faults().busy.load(Ordering::Relaxed), 0);
    assert_eq!(counts(&rig), (2, 1, updates));
    assert_eq!(rig.rows(), rows);
    rig.right();
}
