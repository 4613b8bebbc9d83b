use portcullis_compiler::row::{FieldMatch, Row, RowAction};
use portcullis_policy::Verdict;
use portcullis_proto::p4::config::v1::Preamble;
use portcullis_proto::p4::config::v1::match_field::{Match, MatchType};
use proptest::prelude::*;

use super::*;

/// A table with a field of each kind.
fn table(restriction: &str) -> (Table, Vec<(u32, Field, Option<Family>)>) {
    let fields = [
        ("hdr.type", MatchType::Ternary, 16, Some(Field::EtherType)),
        ("is_ipv4", MatchType::Optional, 1, Some(Field::IsIpv4)),
        ("ports.dst", MatchType::Range, 16, Some(Field::DstPort)),
        ("vrf", MatchType::Exact, 8, Some(Field::Class)),
        ("dst", MatchType::Lpm, 32, Some(Field::RemoteIpv4)),
        ("dst6", MatchType::Ternary, 64, Some(Field::RemoteIpv6)),
        ("in_port", MatchType::Optional, 9, Some(Field::Port)),
        ("ttl", MatchType::Ternary, 8, None),
    ];
    let match_fields = (1u32..)
        .zip(fields)
        .map(|(id, (name, kind, bitwidth, _))| MatchField {
            id,
            name: name.to_string(),
            bitwidth,
            r#match: Some(Match::MatchType(kind as i32)),
            ..MatchField::default()
        });
    let bound = (1u32..)
        .zip(fields)
        .filter_map(|(id, (.., field))| Some((id, field?, None)));
    let table = Table {
        preamble: Some(Preamble {
            annotations: vec![
                "@sai_acl(INGRESS)".to_string(),
                format!("@entry_restriction({restriction})"),
            ],
            ..Preamble::default()
        }),
        match_fields: match_fields.collect(),
        ..Table::default()
    };
    (table, bound.collect())
}

fn read(restriction: &str) -> Vec<Restriction> {
    let (table, bound) = table(restriction);
    of_table(&table, &bound)
}

/// IPv4 to port 25 of 192.0.2.0/24, from an attachment, in class 7.
fn row() -> Row {
    let masked = |value, mask| FieldMatch::Masked { value, mask };
    Row {
        table: "t".to_string(),
        priority: 500,
        keys: vec![
            (Field::IsIpv4, masked(1, 1)),
            (Field::DstPort, FieldMatch::Range { low: 25, high: 25 }),
            (Field::Class, masked(7, 0xff)),
            (Field::RemoteIpv4, masked(0xc000_0200, 0xffff_ff00)),
            (Field::Port, FieldMatch::Attachment("a".to_string())),
        ],
        action: RowAction::Verdict(Verdict::Deny),
    }
}

/// Whether the row breaks it.
fn broken(restriction: &str) -> bool {
    let read = read(&format!("\"{restriction}\""));
    for one in &read {
        assert!(one.demand.is_ok(), "{restriction}: {one:?}");
    }
    read.iter().any(|r| r.is_broken_by(&row()))
}

#[test]
fn rows_keep_or_break_what_is_demanded() {
    let kept = [
        "true",
        "hdr.type != 0x0800 && hdr.type != 0x86dd",
        "hdr.type::mask == 0",
        "is_ipv4 == 1 && is_ipv4 == true && is_ipv4::mask == -1",
        "dst::prefix_length <= 24; dst::prefix_length > -1; dst::value == ipv4('192.0.2.0')",
        "ports.dst == 25 && ports.dst::low >= 0b11001 && ports.dst::high < 0o32",
        "vrf == 7; vrf < 8; vrf != 0x107 -> false",
        "ttl::mask != 0 -> hdr.type == 0x0806",
        "dst6 != 1 && dst6::mask == 0",
        "::priority < 0x7fffffff && ::priority > -1 && --1 == 1",
        "!false || ttl == 1 // comment\\n ; /* more ; */ true;",
        "(true; is_ipv4 == 1;)",
    ];
    for text in kept {
        assert!(!broken(text), "{text}");
    }
    for text in [
        "false",
        "hdr.type == 0x0800",
        "is_ipv4::mask == 0",
        "is_ipv4 != 1",
        "dst::prefix_length > 24",
        "ports.dst::high > 25",
        "ports.dst != 25",
        "vrf == 8 || vrf >= 8",
        "is_ipv4 == 1 -> ttl::mask != 0",
        "true; ::priority >= 501; true",
        "(is_ipv4 == 1; hdr.type == 1)",
        "-1 == 1",
        "!(vrf == 7)",
    ] {
        assert!(broken(text), "{text}");
    }
}

#[test]
fn what_is_not_known_breaks_nothing() {
    for text in [
        "in_port == 3",
        "in_port::value != 3",
        "in_port == 3 && true",
        "!(in_port == 3)",
    ] {
        assert!(!broken(text), "{text}");
    }
    assert!(broken("in_port == 3 && vrf == 8"));
    // A row names one port, whichever it is.
    assert!(broken("in_port::mask == 0") && !broken("in_port::mask != 0"));
}

#[test]
fn a_key_of_half_an_address_has_its_first_bits() {
    let mut row = row();
    let prefix = 0x2001_0db8_0000_0001u128 << 64;
    row.keys = vec![(
        Field::RemoteIpv6,
        FieldMatch::Masked {
            value: prefix,
            mask: u128::MAX << 64,
        },
    )];
    let holds = |text: &str| !read(&format!("\"{text}\"")).iter().any(|r| r.is_broken_by(&row));
    assert!(holds("dst6 == 0x20010db800000001 && dst6::mask == -1"));
    assert!(!holds("dst6 == 0x20010db800000002"));
}

#[test]
fn literals_that_follow_each_other_are_one_text() {
    let read = read("\n  \"vrf == 7;\"\n  \"is_ipv4 \\n == 1\" ");
    let texts: Vec<&str> = read.iter().map(|r| r.text.as_str()).collect();
    assert_eq!(texts, ["vrf == 7", "is_ipv4 == 1"]);
}

#[test]
fn what_cannot_be_read_says_why() {
    for (text, why) in [
        ("\"vrf == \"", "the end stands where a value should"),
        ("\"vlan == 1\"", "there is no match field `vlan`"),
        ("\"dst::mask == 1\"", "a match that is `lpm` has no `mask`"),
        ("\"vrf == 1 == 2\"", "there is more behind its end: `==`"),
        ("\"true -> true -> true\"", "without parentheses"),
        ("\"vrf == 0x\"", "`0x` is no number"),
        ("\"(vrf == 1\"", "the end stands where `)` should"),
        ("\"::metadata == 1\"", "`metadata` is no attribute of rows"),
        ("\"mac('x') == 1\"", "`mac('x')` is no address"),
        ("\"vrf % 2 == 1\"", "`%` has no meaning"),
        ("vrf == 1", "it is not a string in parentheses"),
    ] {
        let read = read(text);
        let error = read.iter().find_map(|r| r.demand.as_ref().err()).expect(text);
        assert!(error.contains(why), "{text}: {error}");
        assert!(!read.iter().any(|r| r.is_broken_by(&row())), "{text}");
    }
    let deep = format!("\"{}true\"", "(".repeat(10_000));
    assert!(
        read(&deep)[0]
            .demand
            .as_ref()
            .unwrap_err()
            .contains("more than 2000 words and signs")
    );
    let deep = format!("\"{}true\"", "(".repeat(1_000));
    assert!(
        read(&deep)[0]
            .demand
            .as_ref()
            .unwrap_err()
            .contains("within each other")
    );
    let many = read(&format!("\"{}\"", "true;".repeat(1_000)));
    assert!(many.len() == 257 && many[256].demand.is_err());
    let long = format!("\"true{}\"", " && true".repeat(900));
    assert!(read(&long)[0].demand.is_ok() && !read(&long)[0].is_broken_by(&row()));
}

proptest! {
    /// Annotations are the device's.
    #[test]
    fn any_text_is_read_or_refused(text in "[ -~\n]{0,80}", words in prop::collection::vec(prop::sample::select(
        vec!["vrf", "::", "mask", "(", ")", "==", "->", "&&", "!", "-", "1", "0x", "'", "\"", "/*", "//", ";", "."]), 0..30))
    {
        for text in [text.clone(), format!("\"{text}\""), format!("\"{}\"", words.concat()), words.join(" ")] {
            for restriction in read(&text) {
                restriction.is_broken_by(&row());
            }
        }
    }
}
