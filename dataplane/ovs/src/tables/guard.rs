//! `guard`: a guarded sender uses its own MACs and addresses, in IP, ARP and neighbour discovery alike. Every server
//! port passes here; what `control` says of all of them stands above what a guard lets pass.

use std::net::Ipv6Addr;

use ipnet::IpNet;
use portcullis_backend::delta::Layer;
use portcullis_openflow::{Field, Instruction, Match};
use portcullis_policy::{LINK_LOCAL, MacAddr, MaskedV6, Protocol};

use super::{Contract, Effect, Miss, Pipeline, Priority, Table, learn};
use crate::flow::{Flow, Writer, then};
use crate::ports::{ManagedPort, SwitchPort};
use crate::regs;

/// Contract of `guard`, which drops what a server may not send.
pub const TABLE: Contract = Contract {
    name: "guard",
    does: "drops what no server may send, and what a guarded one may not use as its source",
    layer: Layer::Dispatch,
    keys: &[
        regs::SENDER,
        Field::InPort,
        Field::EthSrc,
        Field::EthDst,
        Field::VlanVid,
        Field::EthType,
        Field::ArpSha,
        Field::ArpSpa,
        Field::ArpTpa,
        Field::Ipv4Src,
        Field::Ipv4Dst,
        Field::Ipv6Src,
        Field::IpProto,
        Field::IpFrag,
        Field::TcpSrc,
        Field::TcpDst,
        Field::UdpSrc,
        Field::UdpDst,
        Field::SctpSrc,
        Field::SctpDst,
        Field::Icmpv4Type,
        Field::Icmpv6Type,
        Field::Icmpv6Code,
        Field::NdTarget,
        Field::NdSll,
        Field::NdTll,
    ],
    priorities: &[
        CONTROL,
        ND_HIDDEN,
        ND_CHECK,
        ND_ONE_FOREIGN,
        ND_ONE_CHOSEN,
        ND_FOREIGN,
        ND_CHOSEN,
        ND_DENY,
        ALLOWED,
        NOT_CHOSEN,
        CHOSEN,
        DENIED,
        OTHER,
        FOREIGN_MAC,
    ],
    effects: &[
        Effect::Drop,
        Effect::Goto(Table::EgressRemote),
        // A copy on the side whose destination is its source.
        Effect::Set(Field::EthDst),
        Effect::Resubmit(Table::L2),
        Effect::Resubmit(Table::Learn),
    ],
    miss: Miss::Drop,
    is_counted: true,
};

pub(super) const CONTROL: Priority = Priority::new(
    "control",
    60,
    "what only routers, DHCP servers, bridges and trunks send: dropped from other servers; on the kernel's datapath headers that are cut \
     short, too",
);
const ND_HIDDEN: Priority = Priority::new(
    "nd-hidden",
    45,
    "neighbour discovery whose options the switch could not read: dropped",
);
const ND_CHECK: Priority = Priority::new("nd-own", 44, "neighbour discovery about own addresses");
const ND_ONE_FOREIGN: Priority = Priority::new(
    "nd-one-foreign",
    43,
    "source or target is an own address, the other one belongs to another host: dropped",
);
const ND_ONE_CHOSEN: Priority = Priority::new(
    "nd-one-chosen",
    42,
    "source or target is an own address, the other one a link-local address that the host chose",
);
const ND_FOREIGN: Priority = Priority::new(
    "nd-foreign",
    41,
    "source or target belongs to another host: dropped",
);
const ND_CHOSEN: Priority = Priority::new(
    "nd-chosen",
    40,
    "source and target are link-local addresses that the host chose",
);
const ND_DENY: Priority = Priority::new("nd-other", 35, "other neighbour discovery: dropped");
const ALLOWED: Priority = Priority::new("allowed", 30, "own sources");
const NOT_CHOSEN: Priority = Priority::new(
    "not-chosen",
    28,
    "link-local sources that belong to other hosts: dropped",
);
const CHOSEN: Priority = Priority::new("chosen", 27, "other link-local sources, which the host chose");
const DENIED: Priority = Priority::new(
    "denied",
    20,
    "IP and ARP from any other source, and what may carry IP unseen: dropped",
);
const OTHER: Priority = Priority::new("other", 10, "other frames of the port or MAC");
const FOREIGN_MAC: Priority = Priority::new("foreign-mac", 5, "frames from any other MAC: dropped");

const IPV4: u128 = 0x0800;
const ARP: u128 = 0x0806;
const IPV6: u128 = 0x86dd;

fn ip(matching: Match, field: (Field, Field), net: &IpNet) -> Match {
    match net {
        IpNet::V4(n) => masked(
            matching.exact(Field::EthType, IPV4),
            field.0,
            u128::from(u32::from(n.network())),
            u128::from(u32::from(n.netmask())),
        ),
        IpNet::V6(n) => masked(
            matching.exact(Field::EthType, IPV6),
            field.1,
            u128::from(n.network()),
            u128::from(n.netmask()),
        ),
    }
}

fn masked(matching: Match, field: Field, value: u128, mask: u128) -> Match {
    if mask == 0 {
        matching
    } else {
        matching.masked(field, value, mask)
    }
}

/// The rows of one server port: every packet of it comes here.
pub fn rows(port: &SwitchPort, policed: &ManagedPort, pipeline: &Pipeline, writer: &Writer) -> Vec<Flow> {
    let from_port = Match::new().exact(Field::InPort, u128::from(port.number));
    let mut rows = Vec::new();
    if !policed.guarded() {
        rows.push(writer.flow(Table::Guard, OTHER, from_port, after(policed, pipeline)));
        return rows;
    }
    let macs: Vec<Option<MacAddr>> = if policed.guard_macs.is_empty() {
        vec![None]
    } else {
        policed.guard_macs.iter().copied().map(Some).collect()
    };
    for mac in macs {
        let from = match mac {
            Some(mac) => from_port.clone().exact(Field::EthSrc, u128::from(mac.to_u64())),
            None => from_port.clone(),
        };
        of_mac(mac, from, policed, pipeline, writer, &mut rows);
    }
    if !policed.guard_macs.is_empty() {
        rows.push(writer.drop(Table::Guard, FOREIGN_MAC, from_port));
    }
    rows
}

/// Where a packet goes that may be sent; first its source is learned where that may be.
fn after(policed: &ManagedPort, pipeline: &Pipeline) -> Vec<Instruction> {
    let learn = if policed.teaches() {
        vec![learn::ask(pipeline)]
    } else {
        Vec::new()
    };
    then(learn, pipeline.number(Table::EgressRemote))
}

fn of_mac(
    mac: Option<MacAddr>,
    from: Match,
    policed: &ManagedPort,
    pipeline: &Pipeline,
    writer: &Writer,
    rows: &mut Vec<Flow>,
) {
    let next = || after(policed, pipeline);
    let mut pass =
        |priority: Priority, matching| rows.push(writer.flow(Table::Guard, priority, matching, next()));
    if policed.addresses.is_empty() {
        pass(OTHER, from.clone());
        arp_hardware(mac, &from, writer, rows);
        return;
    }
    // Aggregated, so that no two rows of a priority overlap.
    let mut sources: Vec<IpNet> = policed.addresses.iter().map(|p| p.0).collect();
    let has_v6 = sources.iter().any(|n| matches!(n, IpNet::V6(_)));
    if has_v6 {
        // What a host forms by itself from its MAC (RFC 4291), for neighbour discovery and DHCPv6.
        sources.extend(mac.map(|m| IpNet::from(std::net::IpAddr::V6(m.link_local()))));
    }
    let sources = IpNet::aggregate(&sources);
    for net in &sources {
        pass(ALLOWED, ip(from.clone(), (Field::Ipv4Src, Field::Ipv6Src), net));
        if let IpNet::V4(n) = net {
            let arp = from.clone().exact(Field::EthType, ARP);
            let arp = match mac {
                Some(m) => arp.exact(Field::ArpSha, u128::from(m.to_u64())),
                None => arp,
            };
            let (network, mask) = (
                u128::from(u32::from(n.network())),
                u128::from(u32::from(n.netmask())),
            );
            pass(ALLOWED, masked(arp, Field::ArpSpa, network, mask));
        }
    }
    // Not configured yet: DHCP (RFC 2131), ARP probes (RFC 5227), the unspecified address (RFC 4861, 4862).
    let v4 = from
        .clone()
        .exact(Field::EthType, IPV4)
        .exact(Field::Ipv4Src, 0u128);
    pass(
        ALLOWED,
        v4.exact(Field::IpProto, u128::from(Protocol::UDP))
            .exact(Field::UdpSrc, 68u128)
            .exact(Field::UdpDst, 67u128),
    );
    for net in sources.iter().filter(|n| matches!(n, IpNet::V4(_))) {
        if let IpNet::V4(n) = net {
            let probe = from
                .clone()
                .exact(Field::EthType, ARP)
                .exact(Field::ArpSpa, 0u128);
            let probe = match mac {
                Some(m) => probe.exact(Field::ArpSha, u128::from(m.to_u64())),
                None => probe,
            };
            let (network, mask) = (
                u128::from(u32::from(n.network())),
                u128::from(u32::from(n.netmask())),
            );
            pass(ALLOWED, masked(probe, Field::ArpTpa, network, mask));
        }
    }
    if has_v6 {
        let unspecified = from
            .clone()
            .exact(Field::EthType, IPV6)
            .exact(Field::Ipv6Src, u128::from(Ipv6Addr::UNSPECIFIED));
        pass(
            ALLOWED,
            unspecified.exact(Field::IpProto, u128::from(Protocol::ICMPV6)),
        );
        advertisements(mac, &from, &sources, &after(policed, pipeline), writer, rows);
        if let (Some(mac), Some(exceptions)) = (mac, &policed.link_local) {
            let own: Vec<MaskedV6> = sources.iter().filter_map(MaskedV6::from_prefix).collect();
            let next = after(policed, pipeline);
            Chosen {
                mac,
                from: &from,
                own: &own,
                exceptions,
                next: &next,
                writer,
            }
            .rows(rows);
        }
    }
    // What may carry IP unseen may carry it from any source.
    let opaque = pipeline.opaque.iter().map(|t| u128::from(*t));
    for kind in [IPV4, ARP, IPV6].into_iter().chain(opaque) {
        rows.push(writer.drop(Table::Guard, DENIED, from.clone().exact(Field::EthType, kind)));
    }
    rows.push(writer.flow(Table::Guard, OTHER, from, next()));
}

/// Without declared addresses ARP still has to name the sender's own MAC.
fn arp_hardware(mac: Option<MacAddr>, from: &Match, writer: &Writer, rows: &mut Vec<Flow>) {
    if let Some(mac) = mac
        && let Some(pass) = rows.pop()
    {
        let arp = from.clone().exact(Field::EthType, ARP);
        let own = arp.clone().exact(Field::ArpSha, u128::from(mac.to_u64()));
        let next = pass.1.instructions.to_vec();
        rows.push(pass);
        rows.push(writer.flow(Table::Guard, ALLOWED, own, next));
        rows.push(writer.drop(Table::Guard, DENIED, arp));
    }
}

/// Neighbour advertisements (type 136) speak of the sender's own addresses and MAC; solicitations (135) carry
/// its own MAC. An absent option shows as zero.
fn advertisements(
    mac: Option<MacAddr>,
    from: &Match,
    sources: &[IpNet],
    next: &[Instruction],
    writer: &Writer,
    rows: &mut Vec<Flow>,
) {
    let nd = |kind: u128| {
        from.clone()
            .exact(Field::EthType, IPV6)
            .exact(Field::IpProto, u128::from(Protocol::ICMPV6))
            .exact(Field::Icmpv6Type, kind)
            .exact(Field::Icmpv6Code, 0u128)
    };
    let options = |field: Field, matching: Match| -> Vec<Match> {
        match mac {
            Some(m) => [0, u128::from(m.to_u64())]
                .map(|v| matching.clone().exact(field, v))
                .to_vec(),
            None => vec![matching],
        }
    };
    let next = || next.to_vec();
    for target in sources {
        let IpNet::V6(t) = target else { continue };
        for source in sources {
            let IpNet::V6(_) = source else { continue };
            let speaks = masked(
                nd(136),
                Field::NdTarget,
                u128::from(t.network()),
                u128::from(t.netmask()),
            );
            let speaks = ip(speaks, (Field::Ipv4Src, Field::Ipv6Src), source);
            for matching in options(Field::NdTll, speaks) {
                rows.push(writer.flow(Table::Guard, ND_CHECK, matching, next()));
            }
        }
    }
    for source in sources.iter().filter(|n| matches!(n, IpNet::V6(_))) {
        for matching in options(
            Field::NdSll,
            ip(nd(135), (Field::Ipv4Src, Field::Ipv6Src), source),
        ) {
            rows.push(writer.flow(Table::Guard, ND_CHECK, matching, next()));
        }
    }
    // Duplicate address detection is about an own address and carries no option (RFC 4862).
    for target in sources {
        let IpNet::V6(t) = target else { continue };
        let probe = nd(135).exact(Field::Ipv6Src, 0u128).exact(Field::NdSll, 0u128);
        let probe = masked(
            probe,
            Field::NdTarget,
            u128::from(t.network()),
            u128::from(t.netmask()),
        );
        rows.push(writer.flow(Table::Guard, ND_CHECK, probe, next()));
    }
    // An option given twice hides all of them from the switch, target included; a real target is never `::`.
    for kind in [135, 136] {
        rows.push(writer.drop(Table::Guard, ND_HIDDEN, nd(kind).exact(Field::NdTarget, 0u128)));
    }
    for kind in [135, 136] {
        rows.push(writer.drop(Table::Guard, ND_DENY, nd(kind)));
    }
}

/// What a host may do with link-local addresses that it chose by itself (RFC 7217).
struct Chosen<'a> {
    mac: MacAddr,
    from: &'a Match,
    own: &'a [MaskedV6],
    /// What is somebody else's.
    exceptions: &'a [MaskedV6],
    next: &'a [Instruction],
    writer: &'a Writer,
}

/// Source and target of neighbour discovery.
const SOURCE: Field = Field::Ipv6Src;
const TARGET: Field = Field::NdTarget;

fn within(matching: Match, field: Field, addresses: MaskedV6) -> Match {
    masked(matching, field, addresses.value, addresses.mask)
}

impl Chosen<'_> {
    fn rows(&self, rows: &mut Vec<Flow>) {
        let v6 = self.from.clone().exact(Field::EthType, IPV6);
        for foreign in self.exceptions {
            rows.push(self.drop(NOT_CHOSEN, within(v6.clone(), SOURCE, *foreign)));
        }
        rows.push(self.pass(CHOSEN, within(v6, SOURCE, LINK_LOCAL)));
        self.advertisements(rows);
        self.solicitations(rows);
    }

    fn pass(&self, priority: Priority, matching: Match) -> Flow {
        self.writer
            .flow(Table::Guard, priority, matching, self.next.to_vec())
    }

    fn drop(&self, priority: Priority, matching: Match) -> Flow {
        self.writer.drop(Table::Guard, priority, matching)
    }

    fn nd(&self, kind: u128) -> Match {
        self.from
            .clone()
            .exact(Field::EthType, IPV6)
            .exact(Field::IpProto, u128::from(Protocol::ICMPV6))
            .exact(Field::Icmpv6Type, kind)
            .exact(Field::Icmpv6Code, 0u128)
    }

    /// Without a link-layer address, and with its own.
    fn with_own_mac(&self, field: Field, matching: &Match) -> [Match; 2] {
        [0, u128::from(self.mac.to_u64())].map(|mac| matching.clone().exact(field, mac))
    }

    /// Advertisements: target and source are each an own address or a chosen one.
    fn advertisements(&self, rows: &mut Vec<Flow>) {
        let speaks = self.nd(136);
        for own in self.own {
            for foreign in self.exceptions {
                let about_foreign = within(within(speaks.clone(), TARGET, *foreign), SOURCE, *own);
                let by_foreign = within(within(speaks.clone(), TARGET, *own), SOURCE, *foreign);
                rows.extend([about_foreign, by_foreign].map(|m| self.drop(ND_ONE_FOREIGN, m)));
            }
            let about_chosen = within(within(speaks.clone(), TARGET, LINK_LOCAL), SOURCE, *own);
            let by_chosen = within(within(speaks.clone(), TARGET, *own), SOURCE, LINK_LOCAL);
            for matching in [about_chosen, by_chosen] {
                let said = self.with_own_mac(Field::NdTll, &matching);
                rows.extend(said.map(|m| self.pass(ND_ONE_CHOSEN, m)));
            }
        }
        for foreign in self.exceptions {
            for field in [TARGET, SOURCE] {
                rows.push(self.drop(ND_FOREIGN, within(speaks.clone(), field, *foreign)));
            }
        }
        let chosen = within(within(speaks, TARGET, LINK_LOCAL), SOURCE, LINK_LOCAL);
        let said = self.with_own_mac(Field::NdTll, &chosen);
        rows.extend(said.map(|m| self.pass(ND_CHOSEN, m)));
    }

    /// Solicitations from a chosen address, and duplicate address detection for one.
    fn solicitations(&self, rows: &mut Vec<Flow>) {
        let asks = self.nd(135);
        for foreign in self.exceptions {
            rows.push(self.drop(ND_FOREIGN, within(asks.clone(), SOURCE, *foreign)));
        }
        let chosen = within(asks.clone(), SOURCE, LINK_LOCAL);
        let said = self.with_own_mac(Field::NdSll, &chosen);
        rows.extend(said.map(|m| self.pass(ND_CHOSEN, m)));
        let probe = asks.exact(SOURCE, 0u128).exact(Field::NdSll, 0u128);
        for foreign in self.exceptions {
            rows.push(self.drop(ND_ONE_FOREIGN, within(probe.clone(), TARGET, *foreign)));
        }
        rows.push(self.pass(ND_ONE_CHOSEN, within(probe, TARGET, LINK_LOCAL)));
    }
}
