//! Names of tables, match fields and actions that are recognised: our own and the common ones.

use portcullis_compiler::model::{ActionModel, Field, Role};
use portcullis_policy::{Direction, Family};

/// What the name of a match field says, before it is known whose side of the packet is the endpoint.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Meaning {
    Is(Field),
    /// An address of the packet.
    Address {
        /// Where it comes from, or goes to.
        source: bool,
        family: Family,
    },
    /// A MAC of the frame.
    Mac {
        /// Where it comes from, or goes to.
        source: bool,
    },
    /// ICMP type or code, of one IP version where the table has one for each.
    Icmp(Field, Family),
    /// One of our fields, but of one protocol or IP version only: rows for the others would not match.
    Part(Field),
}

const fn address(source: bool, family: Family) -> Meaning {
    Meaning::Address { source, family }
}

/// Names without a header before them, in snake case: those of [`Field`], then the ones of SAI (as the ACL tables of
/// PINS have them) and of p4.org's programs.
const NAMES: &[(&[&str], Meaning)] = &[
    (&["port", "in_port", "ingress_port"], Meaning::Is(Field::Port)),
    (
        &["vlan", "vlan_id", "outer_vlan_id", "vid"],
        Meaning::Is(Field::Vlan),
    ),
    (&["mac"], Meaning::Is(Field::Mac)),
    (
        &["src_mac", "mac_src", "eth_src", "ether_src"],
        Meaning::Mac { source: true },
    ),
    (
        &["dst_mac", "mac_dst", "eth_dst", "ether_dst"],
        Meaning::Mac { source: false },
    ),
    (&["class", "class_id"], Meaning::Is(Field::Class)),
    (&["overlay"], Meaning::Is(Field::Overlay)),
    (
        &["ether_type", "eth_type", "ethertype"],
        Meaning::Is(Field::EtherType),
    ),
    (&["is_ipv4"], Meaning::Is(Field::IsIpv4)),
    (&["is_ipv6"], Meaning::Is(Field::IsIpv6)),
    (&["is_ip"], Meaning::Is(Field::IsIp)),
    (&["unreadable"], Meaning::Is(Field::Unreadable)),
    (
        &["protocol", "ip_protocol", "ip_proto"],
        Meaning::Is(Field::Protocol),
    ),
    (
        &["later", "later_fragment", "is_later_fragment"],
        Meaning::Is(Field::Later),
    ),
    (&["tcp_flags"], Meaning::Is(Field::TcpFlags)),
    (&["remote_id"], Meaning::Is(Field::RemoteId)),
    (&["remote_ipv4"], Meaning::Is(Field::RemoteIpv4)),
    (&["remote_ipv6"], Meaning::Is(Field::RemoteIpv6)),
    (&["local_ipv4"], Meaning::Is(Field::LocalIpv4)),
    (&["local_ipv6"], Meaning::Is(Field::LocalIpv6)),
    (&["src_ip", "src_ipv4", "ipv4_src"], address(true, Family::V4)),
    (&["dst_ip", "dst_ipv4", "ipv4_dst"], address(false, Family::V4)),
    (&["src_ipv6", "ipv6_src"], address(true, Family::V6)),
    (&["dst_ipv6", "ipv6_dst"], address(false, Family::V6)),
    (
        &["src_port", "l4_src_port", "l4_sport"],
        Meaning::Is(Field::SrcPort),
    ),
    (
        &["dst_port", "l4_dst_port", "l4_dport"],
        Meaning::Is(Field::DstPort),
    ),
    (&["icmp_type"], Meaning::Icmp(Field::IcmpType, Family::V4)),
    (&["icmpv6_type"], Meaning::Icmp(Field::IcmpType, Family::V6)),
    (&["icmp_code"], Meaning::Icmp(Field::IcmpCode, Family::V4)),
    (&["icmpv6_code"], Meaning::Icmp(Field::IcmpCode, Family::V6)),
    (&["src_code"], Meaning::Is(Field::SrcCode)),
    (&["dst_code"], Meaning::Is(Field::DstCode)),
    (&["word_set"], Meaning::Is(Field::WordSet)),
    (&["port_block"], Meaning::Is(Field::PortBlock)),
];

/// Fields of headers: header, the field's names, what it is.
const HEADERS: &[(&str, &[&str], Meaning)] = &[
    (
        "ethernet",
        &["ether_type", "eth_type", "type"],
        Meaning::Is(Field::EtherType),
    ),
    (
        "ethernet",
        &["src_addr", "src_mac"],
        Meaning::Mac { source: true },
    ),
    (
        "ethernet",
        &["dst_addr", "dst_mac"],
        Meaning::Mac { source: false },
    ),
    (
        "ipv4",
        &["src_addr", "src_ip", "src_ipv4"],
        address(true, Family::V4),
    ),
    (
        "ipv4",
        &["dst_addr", "dst_ip", "dst_ipv4"],
        address(false, Family::V4),
    ),
    (
        "ipv4",
        &["protocol", "ip_protocol"],
        Meaning::Part(Field::Protocol),
    ),
    ("ipv6", &["src_addr", "src_ipv6"], address(true, Family::V6)),
    ("ipv6", &["dst_addr", "dst_ipv6"], address(false, Family::V6)),
    (
        "ipv6",
        &["next_header", "next_hdr", "protocol"],
        Meaning::Part(Field::Protocol),
    ),
    ("tcp", &["flags", "tcp_flags"], Meaning::Is(Field::TcpFlags)),
    ("tcp", &["src_port", "l4_src_port"], Meaning::Part(Field::SrcPort)),
    ("tcp", &["dst_port", "l4_dst_port"], Meaning::Part(Field::DstPort)),
    ("udp", &["src_port", "l4_src_port"], Meaning::Part(Field::SrcPort)),
    ("udp", &["dst_port", "l4_dst_port"], Meaning::Part(Field::DstPort)),
    (
        "sctp",
        &["src_port", "l4_src_port"],
        Meaning::Part(Field::SrcPort),
    ),
    (
        "sctp",
        &["dst_port", "l4_dst_port"],
        Meaning::Part(Field::DstPort),
    ),
    (
        "icmp",
        &["type", "icmp_type"],
        Meaning::Icmp(Field::IcmpType, Family::V4),
    ),
    (
        "icmp",
        &["code", "icmp_code"],
        Meaning::Icmp(Field::IcmpCode, Family::V4),
    ),
    (
        "icmpv6",
        &["type", "icmpv6_type"],
        Meaning::Icmp(Field::IcmpType, Family::V6),
    ),
    (
        "icmpv6",
        &["code", "icmpv6_code"],
        Meaning::Icmp(Field::IcmpCode, Family::V6),
    ),
];

/// How the names of headers begin whose fields are only read by [`HEADERS`]. (`ipv4_options.protocol` is nothing to us,
/// `meta.protocol` is.)
const HEADER_LIKE: [&str; 9] = ["eth", "ip", "tcp", "udp", "sctp", "icmp", "arp", "vlan", "gre"];

/// `etherType` → `ether_type`, `dstIPv6` → `dst_ipv6`.
fn snake(name: &str) -> String {
    let mut snake = String::with_capacity(name.len() + 4);
    let mut before = '_';
    for c in name.chars() {
        if c.is_ascii_uppercase() && (before.is_ascii_lowercase() || before.is_ascii_digit()) {
            snake.push('_');
        }
        snake.push(c.to_ascii_lowercase());
        before = c;
    }
    snake
}

/// What a match field of this name is: `meta.class`, `hdr.ipv4.srcAddr`, `l4_dst_port`.
pub(crate) fn meaning(name: &str) -> Option<Meaning> {
    let parts: Vec<String> = name.split('.').map(snake).collect();
    let (last, path) = parts.split_last()?;
    // What is inside a tunnel is not the packet that the policy is about.
    if parts.iter().any(|part| part.starts_with("inner")) {
        return None;
    }
    let header = path.last().map_or("", String::as_str);
    if let Some((_, _, meaning)) = HEADERS
        .iter()
        .find(|(of, names, _)| *of == header && names.contains(&last.as_str()))
    {
        return Some(*meaning);
    }
    if HEADER_LIKE.iter().any(|start| header.starts_with(start)) && !header.starts_with("vlan") {
        return None;
    }
    if header.starts_with("vlan") {
        return (last == "vid" || last == "vlan_id").then_some(Meaning::Is(Field::Vlan));
    }
    let named = NAMES.iter().find(|(names, _)| names.contains(&last.as_str()));
    named.map(|(_, meaning)| *meaning)
}

/// The stage that a table of this alias plays: `guard`, `egress_policy`, `IngressImpl.remote`.
pub(crate) fn role(alias: &str) -> Option<(Role, Option<Direction>)> {
    let name = alias.rsplit('.').next().unwrap_or(alias);
    let (direction, stage) = match (name.strip_prefix("egress_"), name.strip_prefix("ingress_")) {
        (Some(stage), _) => (Some(Direction::Egress), stage),
        (_, Some(stage)) => (Some(Direction::Ingress), stage),
        _ => (None, name),
    };
    let role = match stage {
        "attach" if direction.is_none() => Role::Attach,
        "guard" if direction.is_none() => Role::Guard,
        "deliver" if direction.is_none() => Role::Deliver,
        "policy" => Role::Policy,
        "remote" => Role::Remote,
        "words" => Role::Words,
        "src_code" => Role::SrcCode,
        "dst_code" => Role::DstCode,
        _ => return None,
    };
    Some((role, direction))
}

/// What an action of this alias does, when its parameters are these.
pub(crate) fn action(alias: &str, parameters: &[&str]) -> Option<ActionModel> {
    let name = snake(alias.rsplit('.').next().unwrap_or(alias));
    let plain = name.strip_prefix("acl_").unwrap_or(&name);
    match (plain, parameters) {
        ("allow" | "permit" | "accept" | "pass" | "forward" | "no_action", []) => Some(ActionModel::Allow),
        ("deny" | "drop" | "discard" | "reject", []) => Some(ActionModel::Deny),
        ("words", ["set", "otherwise"]) => Some(ActionModel::Words),
        (set, [_]) if set == "set" || set.starts_with("set_") => Some(ActionModel::Set),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_field_has_its_own_name() {
        for (names, meaning) in NAMES {
            if let Meaning::Is(field) = meaning {
                assert_eq!(names.first().copied(), Some(field.to_string().as_str()));
            }
        }
    }

    #[test]
    fn names_are_read_by_their_last_component() {
        let source_v4 = Some(address(true, Family::V4));
        assert_eq!(meaning("src_ip"), source_v4);
        assert_eq!(meaning("hdr.ipv4.srcAddr"), source_v4);
        assert_eq!(meaning("headers.ipv4.src_addr"), source_v4);
        assert_eq!(
            meaning("scalars.metadata.dstIPv6"),
            Some(address(false, Family::V6))
        );
        assert_eq!(meaning("meta.class"), Some(Meaning::Is(Field::Class)));
        assert_eq!(
            meaning("local_metadata.l4_dst_port"),
            Some(Meaning::Is(Field::DstPort))
        );
        assert_eq!(meaning("hdr.vlan[0].vid"), Some(Meaning::Is(Field::Vlan)));
        assert_eq!(
            meaning("hdr.ethernet.etherType"),
            Some(Meaning::Is(Field::EtherType))
        );
    }

    #[test]
    fn a_part_is_not_taken_for_the_whole() {
        assert_eq!(meaning("hdr.ipv4.protocol"), Some(Meaning::Part(Field::Protocol)));
        assert_eq!(meaning("hdr.tcp.dst_port"), Some(Meaning::Part(Field::DstPort)));
        for name in [
            "hdr.inner_ipv4.src_addr",
            "inner.src_port",
            "hdr.ipv4_base.protocol",
            "hdr.arp.protocol",
            "inner.is_ipv4",
            "",
        ] {
            assert_eq!(meaning(name), None, "{name}");
        }
    }

    #[test]
    fn actions_are_what_their_parameters_allow() {
        assert_eq!(action("Ingress.acl_forward", &[]), Some(ActionModel::Allow));
        assert_eq!(action("NoAction", &[]), Some(ActionModel::Allow));
        assert_eq!(action("forward", &["port"]), None);
        assert_eq!(action("acl_drop", &[]), Some(ActionModel::Deny));
        assert_eq!(action("set_class", &["class"]), Some(ActionModel::Set));
        assert_eq!(action("set_nexthop", &["port", "mac"]), None);
    }
}
