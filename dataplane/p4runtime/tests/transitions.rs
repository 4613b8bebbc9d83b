//! Leases on a P4Runtime device end at their moment, whatever the agent's engine does.
#![allow(clippy::unwrap_used, clippy::panic, reason = "a test fails by panicking")]

use crate::rig;

use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use portcullis_backend::SessionState;
use portcullis_compiler::Intent;
use portcullis_policy::{Document, Grant, GrantKind, Verdict};
use rig::{PATIENCE, PROBES, Rig, document};

/// Now, in whole seconds since the Unix epoch.
fn now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs()
}

/// TCP port 25 of `web` is open until these moments, by one grant for each.
fn unlocked(ends: &[u64]) -> Document {
    let mut unlocked = Document::from_yaml(&document("25, 465", "")).unwrap();
    let rules = "
version: portcullis/v1
baseline:
  - {name: opens, action: allow, direction: egress, protocol: tcp, ports: [PORT]}
";
    let grants: Vec<Grant> = [25, 465]
        .iter()
        .zip(ends)
        .filter(|(_, ends)| **ends > 0)
        .map(|(port, ends)| {
            let opens = Document::from_yaml(&rules.replace("PORT", &port.to_string())).unwrap();
            Grant {
                unlock: format!("u{port}").parse().unwrap(),
                program: "mail".parse().unwrap(),
                rules: opens.baseline.to_vec(),
                kind: GrantKind::Unlock,
                ends: *ends,
            }
        })
        .collect();
    unlocked.grants.insert("web".parse().unwrap(), Arc::new(grants));
    unlocked
}

/// What `web` meets on TCP port 25 and on 465.
fn met(rig: &Rig) -> [Option<Verdict>; 2] {
    let state = rig.server.state();
    [PROBES[0].met(&state), PROBES[2].met(&state)]
}

async fn until_met(rig: &Rig, wanted: [Verdict; 2]) {
    let end = Instant::now() + PATIENCE;
    while met(rig) != wanted.map(Some) {
        assert!(Instant::now() < end, "{:?}, not {wanted:?}", met(rig));
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

async fn enforced(rig: &mut Rig, ends: &[u64]) -> Arc<Intent> {
    let intent = rig.intent_of(&unlocked(ends));
    rig.target.check(&intent).unwrap();
    rig.target.set_intent(Arc::clone(&intent));
    let generation = intent.generation;
    rig.until("in sync", |s| {
        s.state == SessionState::InSync && s.applied == generation
    })
    .await;
    intent
}

#[tokio::test]
async fn a_lease_ends_without_a_word_of_the_engine() {
    use Verdict::{Allow, Deny};
    let mut rig = Rig::start().await;
    let start = now();
    let ends = [start + 3, start + 5];
    enforced(&mut rig, &ends).await;
    until_met(&rig, [Allow, Allow]).await;
    let written = rig.target.status().writes;
    // The first ends, then the second: the tables are at nothing else in between.
    rig.allow(&unlocked(&[0, ends[1]]));
    rig.allow(&Document::from_yaml(&document("25, 465", "")).unwrap());
    until_met(&rig, [Deny, Allow]).await;
    assert!(now() >= ends[0], "no lease ends before its moment");
    until_met(&rig, [Deny, Deny]).await;
    assert!(now() >= ends[1], "no lease ends before its moment");
    rig.until("in sync", |s| s.state == SessionState::InSync).await;
    assert_eq!(
        rig.target.status().writes[0],
        written[0],
        "what leases fall to was there before"
    );
    let counted = rig.target.status().open_millis.clone();
    assert!(counted.contains_key("late_end"), "{counted:?}");
    assert_eq!(rig.server.broken(), Vec::<String>::new());
}

#[tokio::test]
async fn an_intent_from_before_the_end_opens_nothing_after_it() {
    let mut rig = Rig::start().await;
    let ends = now() + 2;
    let intent = enforced(&mut rig, &[ends]).await;
    rig.allow(&Document::from_yaml(&document("25, 465", "")).unwrap());
    until_met(&rig, [Verdict::Deny, Verdict::Deny]).await;
    rig.until("collected", |s| {
        s.state == SessionState::InSync && s.writes[2] > 0
    })
    .await;
    // The engine hangs, and the agent is started again with what it knew.
    rig.restart_agent();
    rig.target.set_intent(intent);
    rig.until("in sync", |s| s.state == SessionState::InSync).await;
    assert_eq!(met(&rig), [Some(Verdict::Deny); 2]);
    assert_eq!(rig.target.status().writes, [0; 3], "a restart changes no row");
}

#[tokio::test]
async fn a_device_without_room_for_what_is_left_closes_more_rather_than_nothing() {
    use Verdict::{Allow, Deny};
    let mut rig = Rig::start().await;
    // A class that is edited in place needs no room.
    rig.in_place = false;
    let far = now() + 1000;
    enforced(&mut rig, &[far, far + 1]).await;
    until_met(&rig, [Allow, Allow]).await;
    // The second is taken back. What is left, only the first, is a policy that no lease falls to: the device has no room.
    let policy = 0x0200_0006;
    let full = rig.server.state().entries.in_table(policy);
    rig.server.state().sizes.insert(policy, full);
    rig.allow(&Document::from_yaml(&document("25, 465", "")).unwrap());
    let intent = rig.intent_of(&unlocked(&[far, 0]));
    rig.target.set_intent(intent);
    until_met(&rig, [Deny, Deny]).await;
    rig.until("told", |s| {
        s.applied < s.wanted && s.unsupported.iter().any(|u| u.why.contains("no room"))
    })
    .await;
    // With room it is what was wanted.
    rig.server.state().sizes.clear();
    until_met(&rig, [Allow, Deny]).await;
    rig.until("in sync", |s| {
        s.state == SessionState::InSync && s.applied == s.wanted
    })
    .await;
    assert_eq!(rig.server.broken(), Vec::<String>::new());
}

#[tokio::test]
async fn there_is_room_for_what_leases_fall_to_before_they_are_granted() {
    let mut rig = Rig::start().await;
    let document = unlocked(&[now() + 1000]);
    let intent = rig.intent_of(&document);
    rig.target.check(&intent).unwrap();
    rig.target.set_intent(Arc::clone(&intent));
    rig.until("in sync", |s| s.state == SessionState::InSync && s.applied == 1)
        .await;
    let transition = intent.endpoints["web"].transitions[0].classes.egress;
    let rows = rig.server.state();
    let class = |bytes: &[u8]| bytes.iter().fold(0u32, |n, b| (n << 8) | u32::from(*b));
    let of_fall = rows.entries.values().filter(|entry| {
        let exact = entry.r#match.iter().filter_map(|m| match &m.field_match_type {
            Some(portcullis_proto::p4::v1::field_match::FieldMatchType::Exact(exact)) => Some(&exact.value),
            _ => None,
        });
        exact.into_iter().any(|value| class(value) == transition.0)
    });
    assert!(of_fall.count() > 0, "class {transition} has no rows yet");
}
