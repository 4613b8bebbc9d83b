//! A device that runs another version of our program: rows stay where the device can keep them, and go where it cannot.
#![allow(clippy::unwrap_used, clippy::panic, reason = "helpers fail the test too")]

use crate::rig;

use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use portcullis_backend::SessionState;
use portcullis_p4runtime::{OwnProgram, PipelineSource, PortMatching};
use portcullis_proto::p4::v1::{self, ForwardingPipelineConfig, field_match::FieldMatchType};
use portcullis_testbed::p4::P4Server;
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

/// Our program as it was in version 2: a port leads to a class alone, and no row names an overlay.
fn version_2() -> ForwardingPipelineConfig {
    let mut config = OwnProgram::new(PortMatching::Range).unwrap().config;
    let info = config.p4info.as_mut().unwrap();
    info.pkg_info.as_mut().unwrap().version = "2".to_string();
    for table in &mut info.tables {
        table.match_fields.retain(|field| field.name != "overlay");
    }
    let params = info.actions.iter_mut().flat_map(|action| &mut action.params);
    for param in params.filter(|param| param.name == "class_and_overlay") {
        param.name = "class".to_string();
        param.bitwidth = 16;
    }
    config.cookie.as_mut().unwrap().cookie ^= 1;
    config
}

fn entries(rig: &Rig) -> Vec<v1::TableEntry> {
    rig.server.state().entries.values().cloned().collect()
}

/// What a row names as its class, and the value that leads a port to one.
fn class_named(entry: &v1::TableEntry) -> Option<Vec<u8>> {
    entry.r#match.iter().find_map(|m| match &m.field_match_type {
        Some(FieldMatchType::Ternary(t)) if m.field_id == 1 => Some(t.value.clone()),
        _ => None,
    })
}

#[tokio::test]
async fn a_program_without_overlays_is_filled_and_its_rows_are_taken_over() {
    let server = P4Server::start().await.unwrap();
    server.state().config = Some(version_2());
    server.faults().reconcile.store(true, Ordering::Relaxed);
    let mut rig = Rig::with(server, |config| config.program = PipelineSource::Device(None)).await;
    let intent = rig.apply(&document("25", "")).await;
    rig.right();
    let (before, (_, _, first)) = (entries(&rig), counts(&rig));
    // The newer agent gives the device the newer program. Every step is watched: no packet meets a mix.
    rig.config.program = PipelineSource::Own(PortMatching::Range);
    rig.restart_agent();
    rig.target.set_intent(intent);
    pushed(&rig, 1).await;
    rig.realized().await;
    rig.right();
    let (_, reconciled, updates) = counts(&rig);
    assert_eq!(reconciled, 1);
    // Of `mail`, which has a rule of its own, the class goes and the overlay comes; everything else stays as it was.
    let after = entries(&rig);
    let gone: Vec<&v1::TableEntry> = before.iter().filter(|e| !after.contains(e)).collect();
    let new: Vec<&v1::TableEntry> = after.iter().filter(|e| !before.contains(e)).collect();
    let [led, rows @ ..] = gone.as_slice() else {
        panic!("{gone:#?}")
    };
    let led_to = match &led.action.as_ref().unwrap().r#type {
        Some(v1::table_action::Type::Action(action)) => action.params[0].value.clone(),
        other => panic!("{other:?}"),
    };
    assert!(
        rows.iter().all(|row| class_named(row).as_ref() == Some(&led_to)),
        "{gone:#?}"
    );
    assert_eq!(new.len(), 2, "its port, and the one row of the overlay: {new:#?}");
    assert_eq!((updates - first) as usize, rows.len() + new.len());
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
