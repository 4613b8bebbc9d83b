//! Any bytes: no panic, and what is decoded is decoded the same after encoding.
#![no_main]

use libfuzzer_sys::fuzz_target;
use portcullis_openflow::{Version, decode, encode, frame_len};

fuzz_target!(|data: &[u8]| {
    let _ = frame_len(data);
    // Most inputs have a wrong length; set right, they reach further.
    let mut frame = data.to_vec();
    if let (Ok(length), Some(slot)) = (u16::try_from(data.len()), frame.get_mut(2..4)) {
        slot.copy_from_slice(&length.to_be_bytes());
    }
    let Ok((header, message)) = decode(&frame) else {
        return;
    };
    let Some(version) = Version::from_wire(header.version) else {
        return;
    };
    let mut again = Vec::new();
    if encode(&message, version, header.xid, &mut again).is_ok() {
        assert_eq!(decode(&again).map(|(_, m)| m), Ok(message));
    }
});
