//! Any bytes, whole and in pieces: the same messages, up to the same error.
#![no_main]

use libfuzzer_sys::fuzz_target;
use portcullis_ovsdb::Framer;
use serde_json::Value;

const MAX: usize = 4096;

fn split(bytes: &[u8], piece: usize) -> (Vec<Value>, bool) {
    let mut framer = Framer::new(MAX);
    let mut messages = Vec::new();
    for bytes in bytes.chunks(piece) {
        framer.push(bytes);
        loop {
            match framer.next_value() {
                Ok(Some(message)) => messages.push(message),
                Ok(None) => break,
                Err(_) => return (messages, true),
            }
        }
        assert!(framer.pending() <= MAX);
    }
    (messages, false)
}

fuzz_target!(|input: &[u8]| {
    let Some((&piece, bytes)) = input.split_first() else {
        return;
    };
    let pieces = split(bytes, usize::from(piece).max(1));
    assert_eq!(pieces, split(bytes, bytes.len().max(1)));
});
