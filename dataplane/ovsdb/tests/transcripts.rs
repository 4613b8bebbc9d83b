//! Recorded conversations with real servers: replayed, cut into pieces, and damaged.
#![allow(clippy::unwrap_used, clippy::panic)] // helpers outside the test functions fail the test too

use crate::harness;

use std::time::Duration;

use harness::transcript::{Line, Transcript, replay};
use portcullis_ovsdb::{Event, Session, SessionConfig, Stage, Uuid};
use proptest::prelude::*;
use proptest::sample::Index;
use serde_json::{Value, json};

const ALL: [&str; 5] = [
    "monitor_cond_since",
    "monitor_cond",
    "monitor",
    "daemon",
    "resume",
];

#[test]
fn every_transcript_ends_in_the_recorded_switch() {
    for name in ALL {
        let lines = Transcript::load(name);
        let (session, events) = replay(&lines, usize::MAX);
        assert_eq!(session.stage(), Stage::Live, "{name}");
        insta::assert_debug_snapshot!(name, (events, session.switch()));
    }
}

#[test]
fn pieces_of_any_size_give_the_same_switch() {
    for name in ALL {
        let lines = Transcript::load(name);
        let (whole, events) = replay(&lines, usize::MAX);
        for piece in [1, 7, 4096] {
            let (session, pieced) = replay(&lines, piece);
            assert_eq!(session.switch(), whole.switch(), "{name} in pieces of {piece}");
            assert_eq!(pieced, events, "{name} in pieces of {piece}");
        }
    }
}

#[test]
fn all_three_methods_tell_the_same_story() {
    let strip = |name: &str| {
        let (session, events) = replay(&Transcript::load(name), usize::MAX);
        let mut switch = session.switch().cloned().unwrap();
        // Each was recorded on a database of its own, which gave its rows other names.
        for bridge in switch.bridges.values_mut() {
            bridge.id = Uuid::ZERO;
        }
        (switch, events)
    };
    assert_eq!(strip("monitor_cond_since"), strip("monitor_cond"));
    assert_eq!(strip("monitor_cond_since"), strip("monitor"));
}

/// What the server said on the last connection.
fn last_connection(name: &str) -> Vec<Value> {
    let lines = Transcript::load(name);
    let connected = lines
        .iter()
        .rposition(|line| *line == Line::Connected)
        .expect("a connection");
    let received = lines[connected..].iter().filter_map(|line| match line {
        Line::Received(message) => Some(message.clone()),
        _ => None,
    });
    received.collect()
}

/// Feeds a stream that may be damaged; true when the session accepted all of it.
fn feed(session: &mut Session, stream: &[u8], piece: usize) -> bool {
    session.connected(Duration::ZERO);
    for bytes in stream.chunks(piece) {
        let outcome = session.received(bytes, Duration::ZERO);
        let _ = session.take_output();
        if let Err(error) = outcome {
            assert!(!error.to_string().is_empty());
            assert_eq!(session.stage(), Stage::Failed);
            assert_eq!(session.next_deadline(), None);
            return false;
        }
    }
    true
}

/// After whatever happened, a clean connection leads to the clean state.
fn heals(session: &mut Session, messages: &[Value]) {
    session.disconnected(Duration::ZERO);
    let stream: String = messages.iter().map(Value::to_string).collect();
    assert!(feed(session, stream.as_bytes(), usize::MAX));
    let mut clean = Session::new(SessionConfig::default());
    assert!(feed(&mut clean, stream.as_bytes(), usize::MAX));
    assert_eq!(session.switch(), clean.switch());
    assert_eq!(session.stage(), Stage::Live);
}

#[derive(Clone, Debug)]
enum Damage {
    Flip(Index, u8),
    Insert(Index, u8),
    Remove(Index, usize),
    Cut(Index),
}

fn damage() -> impl Strategy<Value = Damage> {
    prop_oneof![
        (any::<Index>(), 1..=255_u8).prop_map(|(at, bits)| Damage::Flip(at, bits)),
        (any::<Index>(), any::<u8>()).prop_map(|(at, byte)| Damage::Insert(at, byte)),
        (any::<Index>(), 1_usize..200).prop_map(|(at, length)| Damage::Remove(at, length)),
        any::<Index>().prop_map(Damage::Cut),
    ]
}

fn apply(damage: &Damage, stream: &mut Vec<u8>) {
    if stream.is_empty() {
        return;
    }
    match damage {
        Damage::Flip(at, bits) => {
            let at = at.index(stream.len());
            stream[at] ^= bits;
        }
        Damage::Insert(at, byte) => stream.insert(at.index(stream.len()), *byte),
        Damage::Remove(at, length) => {
            let start = at.index(stream.len());
            stream.drain(start..stream.len().min(start + length));
        }
        Damage::Cut(at) => stream.truncate(at.index(stream.len())),
    }
}

fn json_value() -> impl Strategy<Value = Value> {
    let row = "31507d34-600f-435c-ae77-46ac8b04969c";
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        any::<f64>().prop_map(Value::from),
        "[a-z_-]{0,6}".prop_map(Value::from),
        Just(json!(["uuid", row])),
        Just(json!(row)),
        Just(json!("portcullis")),
        Just(json!("00000000-0000-0000-0000-000000000000")),
    ];
    leaf.prop_recursive(3, 16, 4, |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..4).prop_map(Value::Array),
            prop::collection::vec(inner.clone(), 0..4).prop_map(|items| json!(["set", items])),
            prop::collection::vec((inner.clone(), inner.clone()), 0..3)
                .prop_map(|pairs| json!(["map", pairs])),
            prop::collection::btree_map("(new|old|insert|modify|delete|name|Port)", inner, 0..3)
                .prop_map(|members| json!(members)),
        ]
    })
}

/// Puts a value in place of one part of a message, chosen by walking down.
fn graft(message: &mut Value, path: &[Index], value: Value) {
    let Some((first, rest)) = path.split_first() else {
        *message = value;
        return;
    };
    let length = match &*message {
        Value::Array(items) => items.len(),
        Value::Object(members) => members.len(),
        _ => 0,
    };
    match message {
        Value::Array(items) if length > 0 => graft(&mut items[first.index(length)], rest, value),
        Value::Object(members) if length > 0 => {
            if let Some(child) = members.values_mut().nth(first.index(length)) {
                graft(child, rest, value);
            }
        }
        other => *other = value,
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    #[test]
    fn damaged_bytes_give_an_error_or_a_state_that_heals(
        name in prop::sample::select(&["monitor_cond_since", "monitor_cond", "monitor", "daemon"][..]),
        damages in prop::collection::vec(damage(), 1..4),
        piece in prop::sample::select(&[64_usize, 1500, usize::MAX][..]),
    ) {
        let messages = last_connection(name);
        let mut stream: Vec<u8> = messages.iter().flat_map(|message| message.to_string().into_bytes()).collect();
        for damage in &damages {
            apply(damage, &mut stream);
        }
        let mut session = Session::new(SessionConfig::default());
        feed(&mut session, &stream, piece);
        heals(&mut session, &messages);
    }

    #[test]
    fn grafted_values_give_an_error_or_a_state_that_heals(
        name in prop::sample::select(&["monitor_cond_since", "monitor_cond", "monitor", "daemon"][..]),
        grafts in prop::collection::vec((any::<Index>(), prop::collection::vec(any::<Index>(), 0..8), json_value()), 1..4),
    ) {
        let clean = last_connection(name);
        let mut messages = clean.clone();
        for (at, path, value) in grafts {
            let at = at.index(messages.len());
            graft(&mut messages[at], &path, value);
        }
        let stream: String = messages.iter().map(Value::to_string).collect();
        let mut session = Session::new(SessionConfig::default());
        feed(&mut session, stream.as_bytes(), usize::MAX);
        heals(&mut session, &clean);
    }

    #[test]
    fn arbitrary_bytes_give_an_error_or_nothing(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
        let mut session = Session::new(SessionConfig::default());
        feed(&mut session, &bytes, 64);
        prop_assert!(session.switch().is_none());
    }
}

#[test]
fn a_resumed_replica_is_not_the_last_connection_alone() {
    let (session, events) = replay(&Transcript::load("resume"), usize::MAX);
    assert!(events.contains(&Event::Resumed { found: true }), "{events:?}");
    let bridges = &session.switch().expect("a switch").bridges;
    assert!(
        bridges["br0"].ports.contains_key("web1"),
        "a port of the first connection is still there"
    );
}
