//! Any bytes after any prefix of a real conversation: an error or a state, and a clean connection heals it.
#![no_main]

use std::sync::LazyLock;
use std::time::Duration;

use libfuzzer_sys::fuzz_target;
use portcullis_ovsdb::{Session, SessionConfig, Stage};
use serde_json::Value;

/// What a real server said.
static CONVERSATION: LazyLock<Vec<Vec<u8>>> = LazyLock::new(|| {
    let lines = include_str!("../../tests/fixtures/monitor_cond_since.jsonl").lines();
    let lines = lines.map(|line| serde_json::from_str::<Value>(line).expect("a transcript"));
    lines
        .filter_map(|line| Some(line.get("received")?.to_string().into_bytes()))
        .collect()
});

fn feed(session: &mut Session, bytes: &[u8]) -> bool {
    let outcome = session.received(bytes, Duration::ZERO);
    let _ = session.take_output();
    if let Err(error) = &outcome {
        let _ = error.to_string();
        assert_eq!(session.stage(), Stage::Failed);
    }
    outcome.is_ok()
}

fuzz_target!(|input: &[u8]| {
    let Some((&prefix, bytes)) = input.split_first() else {
        return;
    };
    let mut session = Session::new(SessionConfig::default());
    session.connected(Duration::ZERO);
    let prefix = usize::from(prefix) % CONVERSATION.len();
    assert!(
        CONVERSATION[..prefix]
            .iter()
            .all(|message| feed(&mut session, message))
    );
    feed(&mut session, bytes);

    session.connected(Duration::ZERO);
    assert!(CONVERSATION.iter().all(|message| feed(&mut session, message)));
    assert_eq!(session.stage(), Stage::Live);
});
