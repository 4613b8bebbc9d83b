//! ClassBench filter sets: what is read and what is refused. Generated sets: `benches/src/filters/`.
#![allow(clippy::unwrap_used, clippy::panic, reason = "a test fails by panicking")]

use std::net::IpAddr;

use portcullis_policy::classbench::parse;
use portcullis_policy::{
    Families, Family, Fragment, Frame, IpPacket, L4, Packet, Policy, Protocol, Ranges, Verdict, View,
};
use proptest::prelude::*;

const SET: &str = "# two hosts and the rest\n\
    @192.0.2.1/32\t198.51.100.0/24\t0 : 65535\t80 : 80\t0x06/0xFF\t0x1000/0x1000\t\n\
    \n\
    @192.0.2.77/24 0.0.0.0/0 1024 : 65535 0 : 1023 0x11/0xFF 0x0000/0x0000 and more deny\n\
    @0.0.0.0/0\t203.0.113.0/24\t0 : 65535\t0 : 65535\t0x00/0x00\t0x0000/0x0000 allow\r\n\
    @0.0.0.0/0 0.0.0.0/0 0 : 65535 7 : 7 0x2f/0xFF";

fn decider(policy: &Policy, local: &str, remote: &str, protocol: u8, src: u16, dst: u16) -> String {
    let packet = Packet {
        frame: Frame::Ip(IpPacket {
            local: local.parse::<IpAddr>().unwrap(),
            remote: remote.parse::<IpAddr>().unwrap(),
            protocol: Some(protocol),
            fragment: Fragment::Whole,
            l4: L4::Ports { src, dst, flags: 2 },
        }),
    };
    policy.origin(policy.judge(&packet, View::FULL).1)
}

#[test]
fn a_set_is_read() {
    let policy = parse(SET, Verdict::Deny).unwrap();
    assert!(policy.five_tuple);
    assert_eq!(policy.default, Verdict::Deny);
    let names: Vec<&str> = policy.entries.iter().map(|e| &*e.origin).collect();
    assert_eq!(names, ["filter/2", "filter/4", "filter/5", "filter/6"]);
    let actions: Vec<Verdict> = policy.entries.iter().map(|e| e.action).collect();
    assert_eq!(
        actions,
        [Verdict::Allow, Verdict::Deny, Verdict::Allow, Verdict::Allow]
    );
    let [first, second, third, fourth] = &policy.entries[..] else {
        panic!()
    };
    assert_eq!(first.matcher.local, ["192.0.2.1/32".parse().unwrap()]);
    assert_eq!(first.matcher.remote, ["198.51.100.0/24".parse().unwrap()]);
    assert_eq!(first.matcher.protocol, Protocol::Number(6));
    assert_eq!(
        second.matcher.local,
        ["192.0.2.0/24".parse().unwrap()],
        "host bits are masked off"
    );
    assert!(second.matcher.remote.is_empty());
    assert_eq!(second.matcher.families, Families::only(Family::V4));
    assert_eq!(third.matcher.protocol, Protocol::Any);
    assert_eq!(third.matcher.dst_ports, Ranges::all());
    assert_eq!(fourth.matcher.dst_ports.bounds(), (7, 7));
    for (local, remote, protocol, src, dst, by) in [
        ("192.0.2.1", "198.51.100.9", 6, 9, 80, "filter/2"),
        ("192.0.2.1", "198.51.100.9", 6, 9, 81, "default/egress"),
        ("192.0.2.9", "10.0.0.1", 17, 1024, 1023, "filter/4"),
        ("192.0.2.9", "10.0.0.1", 17, 1023, 1023, "default/egress"),
        ("10.0.0.1", "203.0.113.1", 99, 0, 0, "filter/5"),
        // Every protocol shows ports.
        ("10.0.0.1", "10.0.0.2", 47, 0, 7, "filter/6"),
        ("10.0.0.1", "10.0.0.2", 47, 0, 8, "default/egress"),
        ("2001:db8::1", "2001:db8::2", 47, 0, 7, "default/egress"),
    ] {
        assert_eq!(decider(&policy, local, remote, protocol, src, dst), by);
    }
    assert_eq!(
        parse(SET, Verdict::Allow).unwrap().entries[0].action,
        Verdict::Deny
    );
    assert!(parse("", Verdict::Allow).unwrap().entries.is_empty());
}

#[test]
fn what_is_not_a_filter_is_refused() {
    const P: &str = "@192.0.2.1/32 192.0.2.2/32";
    for (line, field, expected) in [
        (
            "192.0.2.1/32 192.0.2.2/32 0 : 1 0 : 1 0x06/0xFF".to_string(),
            "filter",
            "begins with @",
        ),
        ("@".into(), "source prefix", "192.0.2.0/24"),
        ("@192.0.2.1".into(), "source prefix", "192.0.2.0/24"),
        ("@192.0.2.1/+4".into(), "source prefix", "192.0.2.0/24"),
        ("@192.0.2.1/33".into(), "source prefix", "0 to 32"),
        ("@192.0.2.1/99999999999".into(), "source prefix", "0 to 32"),
        ("@192.0.2.1/32 2001:db8::/32".into(), "destination prefix", "IPv4"),
        (format!("{P} 0 - 65535"), "source ports", "1024 : 65535"),
        (
            format!("{P} 0 : 65536 0 : 1 0x06/0xFF"),
            "source ports",
            "0 to 65535",
        ),
        (format!("{P} 0 : 1 9 : 3 0x06/0xFF"), "destination ports", "3 : 9"),
        (format!("{P} 0 : 1 3 :"), "destination ports", "1024 : 65535"),
        (format!("{P} 0 : 1 0 : 1"), "protocol", "0x06/0xFF"),
        (format!("{P} 0 : 1 0 : 1 6/0xFF"), "protocol", "0x06/0xFF"),
        (format!("{P} 0 : 1 0 : 1 0x06/0x0F"), "protocol", "0x00, for any"),
        (format!("{P} 0 : 1 0 : 1 0x106/0xFF"), "protocol", "0xFF"),
        (
            format!("{P} 0 : 1 0 : 1 0x06/0xFF 0x10"),
            "flags",
            "0x1000/0x1000",
        ),
        (
            format!("{P} 0 : 1 0 : 1 0x06/0xFF 0x10000/0x1000"),
            "flags",
            "0x1000/0x1000",
        ),
    ] {
        let error = parse(&format!("# set\n{line}\n"), Verdict::Deny).unwrap_err();
        assert_eq!((error.line, error.field), (2, field), "{line}: {error}");
        let text = error.to_string();
        assert!(
            text.starts_with(&format!("line 2: {field} `")) && text.contains(expected),
            "{text}"
        );
    }
}

proptest! {
    #[test]
    fn any_text_is_read_or_refused(text in "(?s).{0,200}") {
        let _ = parse(&text, Verdict::Allow);
    }

    #[test]
    fn nearly_filters_are_read_or_refused(words in proptest::collection::vec(
        proptest::sample::select(vec!["@", "@10.0.0.1/8", "10.0.0.0/33", "0.0.0.0/0", "0", ":", "65535", "65536",
            "0x06/0xFF", "0x/", "0xFFFFFFFFFF/0x1", "allow", "deny", "é", "\n", "#"]), 0..14)) {
        let text = words.join(" ");
        if let Err(error) = parse(&text, Verdict::Allow) {
            prop_assert!(error.line >= 1 && error.line <= text.lines().count());
        }
    }
}
