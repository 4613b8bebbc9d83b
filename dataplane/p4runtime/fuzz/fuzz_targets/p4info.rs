//! Any bytes: no panic; what is understood is the same in binary; and what is drawn is a sound stage model.
#![no_main]

use libfuzzer_sys::fuzz_target;
use portcullis_p4runtime::{P4Info, from_p4info, parse};
use prost::Message;

fuzz_target!(|input: &[u8]| {
    let Ok(info) = parse(input) else {
        return;
    };
    assert_eq!(
        P4Info::decode(info.encode_to_vec().as_slice()).as_ref(),
        Ok(&info)
    );
    if let Ok(model) = from_p4info(&info, "fuzz", None) {
        assert_eq!(model.check(), Ok(()));
    }
});
