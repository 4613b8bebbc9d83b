//! What people read.

use portcullis_nic::{Address, Family, Level, PortMatch, Rule};

#[test]
fn a_rule_is_named_by_what_it_matches() {
    let rule = Rule {
        family: Family::V4,
        protocol: Some(6),
        src: Address::default(),
        dst: Address {
            value: 0x0a00_0000,
            mask: 0xff00_0000,
        },
        src_port: PortMatch::Any,
        dst_port: PortMatch::Exact(25),
    };
    assert_eq!(rule.to_string(), "ipv4 tcp dst 10.0.0.0/255.0.0.0 dst_port 25");
    let words = Level::Drop.capabilities().words();
    assert!(words.starts_with("drop, IPv4, IPv6, TCP, UDP, SCTP"), "{words}");
    assert_eq!(Level::QueueOnly.capabilities().words(), "no rule that drops");
}
