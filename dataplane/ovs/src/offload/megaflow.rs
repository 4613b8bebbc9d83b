//! Flows that a datapath has cached, as `dpctl/dump-flows -m` prints them (`odp_flow_format`, lib/odp-util.c).

use std::net::{Ipv4Addr, Ipv6Addr};

use portcullis_openflow::Field;

use super::walk::Header;

/// What carries out a cached flow.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) enum Carrier {
    /// The NIC, in whole.
    Hardware,
    /// The NIC finds the flow, and software acts (`offloaded:partial`).
    Partly,
    /// The kernel's traffic control, in software: no NIC took it.
    TrafficControl,
    /// Open vSwitch: its kernel module, or ovs-vswitchd.
    Software,
}

/// A flow that a datapath has cached, with a packet that stands for all of its packets.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Megaflow {
    /// Name of the interface that its packets come from.
    pub(crate) in_port: String,
    /// A packet of it: bits that the flow does not look at are zero.
    pub(crate) header: Header,
    pub(crate) packets: u64,
    pub(crate) bytes: u64,
    pub(crate) carrier: Carrier,
    /// Whether there is a tag behind those that rows see.
    beyond: bool,
    /// What is done, as printed: `drop`, or a list.
    pub(crate) actions: String,
}

/// Why a line is not understood.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Unread {
    /// The packet went round before, as it does after connection tracking or out of a tunnel: its first pass is another flow.
    #[error("a later pass of packets that were recirculated")]
    Recirculated,
    /// A part of it is not as expected.
    #[error("`{0}` cannot be read")]
    Part(String),
}

/// Reads one line of a switch whose rows see this many VLAN tags. Lines that are no flow, such as the headings by thread of the userspace
/// datapath, are `None`.
pub(crate) fn parse(line: &str, tags: usize) -> Option<Result<Megaflow, Unread>> {
    let line = line.trim();
    if !line.contains("in_port(") || !line.contains("actions:") {
        return None;
    }
    Some(read(line, tags))
}

fn read(line: &str, tags: usize) -> Result<Megaflow, Unread> {
    let part = |text: &str| Unread::Part(text.to_string());
    let (matched, actions) = line.split_once(", actions:").ok_or_else(|| part(line))?;
    let actions = actions.split(", dp-extra-info:").next().unwrap_or(actions);
    let mut flow = Megaflow {
        in_port: String::new(),
        header: Header::default(),
        packets: 0,
        bytes: 0,
        carrier: Carrier::Software,
        beyond: false,
        actions: actions.trim().to_string(),
    };
    let (mut offloaded, mut layer) = ("", "");
    // Apart, for Open vSwitch prints a key of MPLS with a bracket too many.
    let counts = matched.find(", packets:").unwrap_or(matched.len());
    let (matched, counts) = matched.split_at(counts);
    for piece in split(matched).chain(split(counts)) {
        if let Some((name, inside)) = nested(piece) {
            flow.attribute(name, inside, tags)?;
        } else if let Some((name, value)) = piece.split_once(':') {
            match name {
                "packets" => flow.packets = value.parse().map_err(|_| part(piece))?,
                "bytes" => flow.bytes = value.parse().map_err(|_| part(piece))?,
                "offloaded" => offloaded = value,
                "dp" => layer = value,
                // `ufid`, `used`, `flags` and what releases add.
                _ => {}
            }
        }
    }
    flow.carrier = match (offloaded, layer) {
        ("yes", _) => Carrier::Hardware,
        ("partial", _) => Carrier::Partly,
        (_, "tc") => Carrier::TrafficControl,
        _ => Carrier::Software,
    };
    match flow.in_port.is_empty() {
        false => Ok(flow),
        true => Err(part(line)),
    }
}

impl Megaflow {
    /// Whether an attribute is about what lies behind the tags that rows see: a further tag, and all inside it.
    fn is_beyond(&self, name: &str) -> bool {
        name == "vlan" || self.beyond
    }

    fn attribute(&mut self, name: &str, inside: &str, tags: usize) -> Result<(), Unread> {
        let unread = || Unread::Part(format!("{name}({inside})"));
        match name {
            "in_port" => self.in_port = inside.to_string(),
            "recirc_id" if number(inside).is_none_or(|id| id != 0) => return Err(Unread::Recirculated),
            "eth_type" => self
                .header
                .set(Field::EthType, number(inside).ok_or_else(unread)?),
            "tcp_flags" => self
                .header
                .set(Field::TcpFlags, tcp_flags(inside).ok_or_else(unread)?),
            // The kernel looks behind two tags whatever `vlan-limit` says. To rows the next tag is the frame's EtherType, which the
            // kernel's flow may not show.
            "vlan" | "encap" if self.header.tags() >= tags && self.is_beyond(name) => {
                if self.header.get(Field::EthType) == 0 {
                    self.header.set(Field::EthType, 0x8100);
                }
                self.beyond = true;
            }
            "vlan" => {
                let (mut tci, mut is_tag) = (0_u16, true);
                for (key, value) in pairs(inside) {
                    let value = number(value).ok_or_else(unread)?;
                    match key {
                        "vid" => tci |= u16::try_from(value & 0x0fff).unwrap_or(0),
                        "pcp" => tci |= u16::try_from((value & 7) << 13).unwrap_or(0),
                        // A frame that ends within its tag has none: its EtherType is that of a tag.
                        "cfi" => is_tag = value != 0,
                        _ => {}
                    }
                }
                if is_tag {
                    self.header.add_tag(tci);
                }
            }
            "encap" if inside.matches("encap(").count() > DEEPEST => return Err(unread()),
            "encap" => {
                for piece in split(inside) {
                    let (name, inside) = nested(piece).ok_or_else(unread)?;
                    self.attribute(name, inside, tags)?;
                }
            }
            _ => {
                let fields = keys(name);
                for (key, value) in pairs(inside) {
                    if let Some((_, field, read)) = fields.iter().find(|(k, ..)| *k == key) {
                        self.header.set(*field, read(value).ok_or_else(unread)?);
                    }
                }
            }
        }
        Ok(())
    }
}

type Read = fn(&str) -> Option<u128>;

/// The fields of an attribute that rows may ask for.
fn keys(attribute: &str) -> &'static [(&'static str, Field, Read)] {
    match attribute {
        "eth" => &[("src", Field::EthSrc, mac), ("dst", Field::EthDst, mac)],
        "ipv4" => &[
            ("src", Field::Ipv4Src, ipv4),
            ("dst", Field::Ipv4Dst, ipv4),
            ("proto", Field::IpProto, number),
            ("frag", Field::IpFrag, fragment),
        ],
        "ipv6" => &[
            ("src", Field::Ipv6Src, ipv6),
            ("dst", Field::Ipv6Dst, ipv6),
            ("proto", Field::IpProto, number),
            ("frag", Field::IpFrag, fragment),
        ],
        "tcp" => &[("src", Field::TcpSrc, number), ("dst", Field::TcpDst, number)],
        "udp" => &[("src", Field::UdpSrc, number), ("dst", Field::UdpDst, number)],
        "sctp" => &[("src", Field::SctpSrc, number), ("dst", Field::SctpDst, number)],
        "icmp" => &[
            ("type", Field::Icmpv4Type, number),
            ("code", Field::Icmpv4Code, number),
        ],
        "icmpv6" => &[
            ("type", Field::Icmpv6Type, number),
            ("code", Field::Icmpv6Code, number),
        ],
        "arp" => &[
            ("sip", Field::ArpSpa, ipv4),
            ("tip", Field::ArpTpa, ipv4),
            ("op", Field::ArpOp, number),
            ("sha", Field::ArpSha, mac),
            ("tha", Field::ArpTha, mac),
        ],
        "nd" => &[
            ("target", Field::NdTarget, ipv6),
            ("sll", Field::NdSll, mac),
            ("tll", Field::NdTll, mac),
        ],
        _ => &[],
    }
}

/// How deep `encap(` may be nested: a frame has two tags that the kernel looks behind.
const DEEPEST: usize = 4;

/// Splits at commas outside parentheses.
fn split(text: &str) -> impl Iterator<Item = &str> {
    let mut depth = 0_usize;
    text.split(move |c| {
        match c {
            '(' => depth += 1,
            ')' => depth = depth.saturating_sub(1),
            _ => {}
        }
        c == ',' && depth == 0
    })
    .map(str::trim)
    .filter(|piece| !piece.is_empty())
}

/// The name and the inside of `name(inside)`.
fn nested(piece: &str) -> Option<(&str, &str)> {
    let (name, rest) = piece.split_once('(')?;
    Some((name, rest.strip_suffix(')')?))
}

/// The pairs of `key=value,key=value`.
fn pairs(inside: &str) -> impl Iterator<Item = (&str, &str)> {
    split(inside).filter_map(|piece| piece.split_once('='))
}

/// Value and mask of `value/mask`; a value without one counts whole.
fn masked(text: &str, read: impl Fn(&str) -> Option<u128>) -> Option<u128> {
    match text.split_once('/') {
        Some((value, mask)) => Some(read(value)? & read(mask)?),
        None => read(text),
    }
}

/// A number, decimal or hexadecimal.
fn number(text: &str) -> Option<u128> {
    masked(text, |part| match part.strip_prefix("0x") {
        Some(digits) => u128::from_str_radix(digits, 16).ok(),
        None => part.parse().ok(),
    })
}

fn mac(text: &str) -> Option<u128> {
    masked(text, |part| {
        let mut value = 0;
        let mut octets = 0;
        for octet in part.split(':') {
            value = (value << 8) | u128::from(u8::from_str_radix(octet, 16).ok()?);
            octets += 1;
        }
        (octets == 6).then_some(value)
    })
}

fn ipv4(text: &str) -> Option<u128> {
    masked(text, |part| {
        Some(u128::from(part.parse::<Ipv4Addr>().ok()?.to_bits()))
    })
}

fn ipv6(text: &str) -> Option<u128> {
    masked(text, |part| Some(part.parse::<Ipv6Addr>().ok()?.to_bits()))
}

/// `ip_frag` of OpenFlow: bit 0 for any fragment, bit 1 for one that is not the first.
fn fragment(text: &str) -> Option<u128> {
    match text {
        "no" => Some(0),
        "first" => Some(1),
        "later" => Some(3),
        _ => None,
    }
}

/// Flags as names (`syn|ack`, `+syn-ack`) or numbers (`0/0`).
fn tcp_flags(text: &str) -> Option<u128> {
    if let Some(value) = number(text) {
        return Some(value);
    }
    let signed = text.starts_with(['+', '-']);
    let mut flags = 0;
    let mut rest = text;
    while !rest.is_empty() {
        let is_set = !rest.starts_with('-');
        let name = rest.trim_start_matches(['+', '-', '|']);
        let end = name
            .find(|c| if signed { c == '+' || c == '-' } else { c == '|' })
            .unwrap_or(name.len());
        let (flag, next) = name.split_at(end);
        if is_set {
            flags |= tcp_flag(flag)?;
        }
        rest = next;
    }
    Some(flags)
}

fn tcp_flag(name: &str) -> Option<u128> {
    const NAMES: [&str; 12] = [
        "fin", "syn", "rst", "psh", "ack", "urg", "ece", "cwr", "ns", "[200]", "[400]", "[800]",
    ];
    match NAMES.iter().position(|known| *known == name) {
        Some(bit) => Some(1 << bit),
        None => number(name),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn flow(line: &str) -> Megaflow {
        parse(line, 2).unwrap().unwrap()
    }

    #[test]
    fn a_flow_of_the_userspace_datapath() {
        let line = "ufid:1ac5e8a9-65a0-4d2e-a9a4-0a6ac25ff4f4, skb_priority(0/0),skb_mark(0/0),ct_state(0/0),ct_zone(0/0),\
            ct_mark(0/0),ct_label(0/0),recirc_id(0),dp_hash(0/0),in_port(web1),packet_type(ns=0,id=0),\
            eth(src=02:00:00:00:00:01,dst=02:00:00:00:00:02/01:00:00:00:00:00),eth_type(0x0800),\
            ipv4(src=192.0.2.1,dst=198.51.100.7/255.255.255.0,proto=6,tos=0/0,ttl=64/0,frag=first),\
            tcp(src=40000/0,dst=25),tcp_flags(+syn-ack), packets:7, bytes:420, used:0.3s, flags:S, dp:ovs, actions:drop, \
            dp-extra-info:miniflow_bits(5,1)";
        let flow = flow(line);
        let mut header = Header::default();
        for (field, value) in [
            (Field::EthSrc, 0x0200_0000_0001),
            (Field::EthDst, 0),
            (Field::EthType, 0x0800),
            (Field::Ipv4Src, 0xc000_0201),
            (Field::Ipv4Dst, 0xc633_6400),
            (Field::IpProto, 6),
            (Field::IpFrag, 1),
            (Field::TcpSrc, 0),
            (Field::TcpDst, 25),
            (Field::TcpFlags, 2),
        ] {
            header.set(field, value);
        }
        assert_eq!(
            flow,
            Megaflow {
                in_port: "web1".to_string(),
                header,
                packets: 7,
                bytes: 420,
                carrier: Carrier::Software,
                beyond: false,
                actions: "drop".to_string(),
            }
        );
    }

    #[test]
    fn tags_are_read_from_the_outside_in() {
        let flow = flow(
            "recirc_id(0),in_port(trunk),eth(),eth_type(0x88a8),vlan(vid=10,pcp=0),encap(eth_type(0x8100),vlan(vid=20/0x0,pcp=5),\
             encap(eth_type(0x86dd),ipv6(src=2001:db8::1,proto=58,hlimit=255,frag=no),icmpv6(type=135,code=0),\
             nd(target=fe80::1,sll=02:00:00:00:00:01,tll=00:00:00:00:00:00))), packets:1, bytes:86, used:never, actions:pop_vlan,4",
        );
        let mut header = Header::default();
        header.add_tag(10);
        header.add_tag(5 << 13);
        for (field, value) in [
            (Field::EthType, 0x86dd),
            (Field::Ipv6Src, 0x2001_0db8_0000_0000_0000_0000_0000_0001),
            (Field::IpProto, 58),
            (Field::IpFrag, 0),
            (Field::Icmpv6Type, 135),
            (Field::Icmpv6Code, 0),
            (Field::NdTarget, 0xfe80_0000_0000_0000_0000_0000_0000_0001),
            (Field::NdSll, 0x0200_0000_0001),
            (Field::NdTll, 0),
        ] {
            header.set(field, value);
        }
        assert_eq!(flow.header, header);
        assert_eq!(flow.actions, "pop_vlan,4");
    }

    #[test]
    fn tags_that_rows_do_not_see_are_an_ethertype() {
        for (shown, kind) in [("0x0000", 0x8100), ("0x8100", 0x8100), ("0x88a8", 0x88a8)] {
            let line = format!(
                "recirc_id(0),in_port(p),eth_type(0x8100),vlan(vid=9,pcp=0/0x0),encap(eth_type({shown}),vlan(vid=7,pcp=0),\
                 encap(eth_type(0x0800),ipv4(proto=6,frag=no),tcp(dst=25))), packets:0, bytes:0, used:never, dp:ovs, actions:drop"
            );
            let mut header = Header::default();
            header.add_tag(9);
            header.set(Field::EthType, kind);
            assert_eq!(parse(&line, 1).unwrap().unwrap().header, header, "{shown}");
        }
    }

    #[test]
    fn a_tag_that_is_cut_off_is_none() {
        let flow = flow(
            "recirc_id(0),in_port(p),eth_type(0x8100),vlan(vid=0,pcp=0/0x0,cfi=0),encap(), packets:0, bytes:0, used:never, actions:3",
        );
        let mut header = Header::default();
        header.set(Field::EthType, 0x8100);
        assert_eq!(flow.header, header);
    }

    #[test]
    fn who_carries_a_flow_out() {
        for (said, carrier) in [
            ("offloaded:yes, dp:tc", Carrier::Hardware),
            ("offloaded:yes, dp:dpdk", Carrier::Hardware),
            ("offloaded:partial, dp:ovs", Carrier::Partly),
            ("dp:tc", Carrier::TrafficControl),
            ("dp:ovs", Carrier::Software),
        ] {
            let line =
                format!("recirc_id(0),in_port(p), packets:0, bytes:0, used:never, {said}, actions:drop");
            assert_eq!(flow(&line).carrier, carrier, "{said}");
        }
        let old = "recirc_id(0),in_port(p), packets:0, bytes:0, used:never, actions:drop";
        assert_eq!(flow(old).carrier, Carrier::Software);
    }

    #[test]
    fn what_is_not_understood_says_so() {
        assert_eq!(parse("flow-dump from pmd on cpu core: 1", 2), None);
        assert_eq!(
            parse(
                "recirc_id(0x3),in_port(p), packets:0, bytes:0, used:never, actions:drop",
                2
            ),
            Some(Err(Unread::Recirculated))
        );
        let odd = "recirc_id(0),in_port(p),tcp(src=x), packets:0, bytes:0, used:never, actions:drop";
        assert_eq!(parse(odd, 2), Some(Err(Unread::Part("tcp(src=x)".to_string()))));
    }

    #[test]
    fn a_bracket_that_is_not_closed_ends_with_the_match() {
        let flow = flow(
            "recirc_id(0),in_port(p),eth_type(0x8847),mpls((bad key length 0), packets:3, bytes:9, used:never, dp:tc, actions:drop",
        );
        assert_eq!((flow.packets, flow.carrier), (3, Carrier::TrafficControl));
    }

    #[test]
    fn nesting_has_a_bound() {
        let deep = 100_000;
        let (open, close) = ("encap(".repeat(deep), ")".repeat(deep));
        let line =
            format!("recirc_id(0),in_port(p),{open}{close}, packets:0, bytes:0, used:never, actions:drop");
        assert!(matches!(parse(&line, 2), Some(Err(Unread::Part(_)))));
    }

    proptest::proptest! {
        /// The daemon is another process: whatever it prints, nothing panics.
        #[test]
        fn any_line_is_read_or_refused(line in "(recirc_id\\(|in_port\\(|vlan\\(|encap\\(|tcp_flags\\(|[a-z0-9=/:,()+|-]|, actions:){0,60}") {
            let _read = parse(&line, 2);
        }
    }
}
