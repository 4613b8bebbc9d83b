//! Whatever the bytes are: an answer, never a panic.

use portcullis_p4runtime::{Mapping, P4Info, from_p4info, parse};
use proptest::prelude::*;
use proptest::sample::Index;

/// The encoded message; `prost` has it as a trait method.
fn encode(info: &P4Info) -> Vec<u8> {
    prost::Message::encode_to_vec(info)
}

fn fixtures() -> impl Strategy<Value = &'static str> {
    prop::sample::select(vec![
        include_str!("fixtures/logical.txtpb"),
        include_str!("fixtures/acl.txtpb"),
        include_str!("fixtures/foreign.txtpb"),
    ])
}

/// Reads, and draws what could be read, with and without a mapping.
fn read(bytes: &[u8]) {
    let mapping = Mapping::from_toml(include_str!("fixtures/foreign.toml")).ok();
    assert!(mapping.is_some());
    if let Ok(info) = parse(bytes) {
        let _ = from_p4info(&info, "any", None);
        let _ = from_p4info(&info, "any", mapping.as_ref());
    }
}

/// Cuts, replaces or repeats a piece.
fn damage(bytes: &mut Vec<u8>, at: Index, length: usize, with: Vec<u8>) {
    let start = at.index(bytes.len().max(1));
    let end = (start + length).min(bytes.len());
    drop(bytes.splice(start.min(end)..end, with));
}

proptest! {
    #[test]
    fn any_bytes(bytes in prop::collection::vec(any::<u8>(), 0..512)) {
        read(&bytes);
    }

    #[test]
    fn any_text(text in "[a-z_{}<>\\[\\]:;,\"'#\\\\0-9 \n.-]{0,200}") {
        read(text.as_bytes());
    }

    #[test]
    fn any_mapping(text in "(\\[+(table|parser)(\\.fields|\\.actions)?\\]+\n|[a-z_]{1,12} = (1|true|\"[a-z]{0,6}\"|\\{\\})\n){0,12}") {
        if let Ok(mapping) = Mapping::from_toml(&text) {
            for fixture in [include_str!("fixtures/acl.txtpb"), include_str!("fixtures/foreign.txtpb")] {
                if let Ok(info) = parse(fixture.as_bytes()) {
                    let _ = from_p4info(&info, "any", Some(&mapping));
                }
            }
        }
    }

    #[test]
    fn damaged_files(
        fixture in fixtures(),
        binary in any::<bool>(),
        blows in prop::collection::vec((any::<Index>(), 0usize..40, prop::collection::vec(any::<u8>(), 0..4)), 1..4),
    ) {
        let mut bytes = match parse(fixture.as_bytes()) {
            Ok(info) if binary => encode(&info),
            Ok(_) => fixture.as_bytes().to_vec(),
            Err(error) => return Err(TestCaseError::fail(error.to_string())),
        };
        for (at, length, with) in blows {
            damage(&mut bytes, at, length, with);
        }
        read(&bytes);
    }

    /// Any numbers in the place of a field's and a table's own: what is drawn is sound.
    #[test]
    fn any_numbers(fixture in fixtures(), at in any::<Index>(), bits in any::<i32>(), kind in -1i32..8, size in any::<i64>()) {
        let mut info = parse(fixture.as_bytes()).map_err(|e| TestCaseError::fail(e.to_string()))?;
        let index = at.index(info.tables.len());
        if let Some(table) = info.tables.get_mut(index) {
            table.size = size;
            let index = at.index(table.match_fields.len());
            if let Some(field) = table.match_fields.get_mut(index) {
                field.bitwidth = bits;
                field.r#match = Some(portcullis_proto::p4::config::v1::match_field::Match::MatchType(kind));
            }
        }
        if let Ok(model) = from_p4info(&info, "any", None) {
            prop_assert_eq!(model.check(), Ok(()));
        }
    }
}

#[test]
fn binary_and_text_are_the_same_device() {
    for text in [
        include_str!("fixtures/logical.txtpb"),
        include_str!("fixtures/acl.txtpb"),
    ] {
        let info = parse(text.as_bytes()).expect("text");
        let again = parse(&encode(&info)).expect("binary");
        assert_eq!(info, again);
        assert_eq!(from_p4info(&info, "a", None), from_p4info(&again, "a", None));
    }
}
