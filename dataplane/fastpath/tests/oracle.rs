//! Reference implementation of the fast path: the P4 program's control flow, row by row, without compilation.
//!
//! It shares the parser with the fast path, and nothing else. Tests compare the two.

use portcullis_fastpath::{Action, Fields, Key, Kind, NO_SLOT, Row, Table};

/// Rows of all tables, groups of ports.
#[derive(Debug, Clone, Default)]
pub struct Oracle {
    /// Rows, each with its table, the older first.
    pub rows: Vec<(Table, Row)>,
    /// Ports of each multicast group, by its number.
    pub groups: std::collections::BTreeMap<u32, Vec<u16>>,
}

/// What tables found out of a frame on its way.
struct Way<'a> {
    fields: &'a Fields,
    port: u16,
    class: u16,
    overlay: u16,
    remote: u16,
    arp_malformed: bool,
    address: u128,
}

impl Way<'_> {
    fn value(&self, key: Key) -> u128 {
        match key {
            Key::Port => self.port.into(),
            Key::ArpMalformed => self.arp_malformed.into(),
            Key::GuardAddress => self.address,
            Key::Class => self.class.into(),
            Key::Overlay => self.overlay.into(),
            Key::RemoteId => self.remote.into(),
            key => value(self.fields, key),
        }
    }
}

/// What a frame has for a key; 0 for what only tables find out.
pub fn value(f: &Fields, key: Key) -> u128 {
    match key {
        Key::Port | Key::GuardAddress | Key::Class | Key::Overlay | Key::RemoteId => 0,
        Key::Role => role(f).into(),
        Key::ArpMalformed => f.arp_malformed.into(),
        Key::Vlan => f.vlan.into(),
        Key::SrcMac => f.src_mac.into(),
        Key::DstMac => f.dst_mac.into(),
        Key::Kind => (f.kind as u8).into(),
        Key::Protocol => f.protocol.into(),
        Key::SrcPort => f.src_port.into(),
        Key::DstPort => f.dst_port.into(),
        Key::NdType => f.nd_type.into(),
        Key::NdHidden => f.nd_hidden.into(),
        Key::SrcUnspecified => (f.kind == Kind::Ipv6 && f.src_ipv6 == 0).into(),
        Key::NdTarget => f.nd_target,
        Key::NdHasMac => f.nd_has_mac.into(),
        Key::NdMac => f.nd_mac.into(),
        Key::EtherType => f.ether_type.into(),
        Key::Unreadable => f.unreadable.into(),
        Key::Later => f.later.into(),
        Key::TcpFlags => f.tcp_flags.into(),
        Key::SrcIpv4 => f.src_ipv4.into(),
        Key::SrcIpv6 => f.src_ipv6,
        Key::DstIpv4 => f.dst_ipv4.into(),
        Key::DstIpv6 => f.dst_ipv6,
        Key::IcmpType => f.icmp_type.into(),
        Key::IcmpCode => f.icmp_code.into(),
    }
}

impl Oracle {
    fn meets(&self, table: Table, way: &Way<'_>, slots: &mut Vec<u32>) -> Option<Action> {
        let keys = table.keys();
        let holds = |row: &Row| {
            row.conds.iter().all(|(at, cond)| {
                let value = keys.get(usize::from(*at)).map_or(0, |key| way.value(*key));
                cond.holds(value)
            })
        };
        let mut best: Option<&Row> = None;
        for (_, row) in self.rows.iter().filter(|(t, row)| *t == table && holds(row)) {
            if best.is_none_or(|b| row.priority > b.priority) {
                best = Some(row);
            }
        }
        if let Some(row) = best {
            slots.push(row.slot);
        }
        best.map(|row| row.action)
    }

    /// The ports a frame goes out of, and the counters it moves.
    pub fn process(&self, frame: &[u8], in_port: u16) -> (Vec<u16>, Vec<u32>) {
        let mut slots = Vec::new();
        let ports = self.ports(frame, in_port, &mut slots);
        slots.retain(|slot| *slot != NO_SLOT);
        (ports, slots)
    }

    fn ports(&self, frame: &[u8], in_port: u16, slots: &mut Vec<u32>) -> Vec<u16> {
        let Some(fields) = Fields::parse(frame) else {
            return Vec::new();
        };
        let mut way = Way {
            fields: &fields,
            port: in_port,
            class: 0,
            overlay: 0,
            remote: 0,
            arp_malformed: fields.arp_malformed,
            address: 0,
        };
        if !self.may_send(&mut way, slots) {
            return Vec::new();
        }
        let members = |id| self.groups.get(&id).cloned().unwrap_or_default();
        let to = if fields.dst_mac >> 40 & 1 == 0 {
            match self.meets(Table::L2, &way, slots) {
                Some(Action::Forward(port)) => vec![port],
                Some(Action::ForwardToGroup(group)) => members(group.into()),
                _ => members(2),
            }
        } else if is_for_nobody(&fields) {
            Vec::new()
        } else {
            members(1)
        };
        to.into_iter()
            .filter(|port| *port != in_port && self.may_receive(&fields, *port, slots))
            .collect()
    }

    fn may_send(&self, way: &mut Way<'_>, slots: &mut Vec<u32>) -> bool {
        let guarded = match self.meets(Table::Attach, way, slots) {
            Some(Action::SetClass(lead)) => {
                (way.class, way.overlay) = (lead.class, lead.overlay);
                false
            }
            Some(Action::SetGuardedClass(lead)) => {
                (way.class, way.overlay) = (lead.class, lead.overlay);
                true
            }
            _ => return false,
        };
        if role(way.fields) != 0 && self.meets(Table::Roles, way, slots) != Some(Action::Allow) {
            return false;
        }
        if guarded && !self.guard(way, slots) {
            return false;
        }
        way.class == 0 || self.judge(Table::EgressRemote, Table::EgressPolicy, way, slots)
    }

    fn guard(&self, way: &mut Way<'_>, slots: &mut Vec<u32>) -> bool {
        let f = way.fields;
        if f.kind == Kind::Arp && !way.arp_malformed && f.arp_sender_mac != f.src_mac {
            way.arp_malformed = true;
        }
        match self.meets(Table::Guard, way, slots) {
            Some(Action::Allow) => return true,
            Some(Action::CheckAddresses) => {}
            _ => return false,
        }
        way.address = match f.kind {
            Kind::Arp if f.arp_sender == 0 => f.arp_target.into(),
            Kind::Arp => f.arp_sender.into(),
            Kind::Ipv4 => f.src_ipv4.into(),
            Kind::Ipv6 => f.src_ipv6,
            _ => 0,
        };
        self.meets(Table::GuardAddress, way, slots) == Some(Action::Allow)
            && (f.nd_type == 0 || self.meets(Table::GuardNd, way, slots) == Some(Action::Allow))
    }

    fn may_receive(&self, fields: &Fields, port: u16, slots: &mut Vec<u32>) -> bool {
        let mut way = Way {
            fields,
            port,
            class: 0,
            overlay: 0,
            remote: 0,
            arp_malformed: fields.arp_malformed,
            address: 0,
        };
        let Some(Action::SetClass(lead)) = self.meets(Table::Deliver, &way, slots) else {
            return false;
        };
        (way.class, way.overlay) = (lead.class, lead.overlay);
        lead.class == 0 || self.judge(Table::IngressRemote, Table::IngressPolicy, &mut way, slots)
    }

    fn judge(&self, remote: Table, policy: Table, way: &mut Way<'_>, slots: &mut Vec<u32>) -> bool {
        if let Some(Action::SetRemoteId(id)) = self.meets(remote, way, slots) {
            way.remote = id;
        }
        self.meets(policy, way, slots) == Some(Action::Allow)
    }
}

fn is_reserved(f: &Fields) -> bool {
    f.dst_mac >> 4 == 0x0018_0c20_0000 || f.dst_mac >> 1 == 0x0100_0ccc_cccc >> 1
}

/// `NeededRole` of the P4 program.
fn role(f: &Fields) -> u8 {
    let icmp = |types: &[u8]| types.contains(&f.icmp_type);
    let of_router = match f.kind {
        Kind::Ipv4 => (f.protocol == 1 && icmp(&[5, 9])) || (f.protocol == 2 && f.igmp_type == 0x11),
        Kind::Ipv6 if f.protocol == 0 => {
            f.unreadable && (0xfe80..0xfec0).contains(&((f.src_ipv6 >> 112) as u16))
        }
        Kind::Ipv6 => f.protocol == 58 && icmp(&[130, 134, 137]),
        _ => false,
    };
    let ports = (f.src_port, f.dst_port);
    let of_dhcp_server = f.protocol == 17
        && match f.kind {
            Kind::Ipv4 => matches!(ports, (67, _) | (_, 68)),
            Kind::Ipv6 => matches!(ports, (547, _) | (_, 546)),
            _ => false,
        };
    if is_reserved(f) {
        3
    } else if of_router {
        1
    } else {
        u8::from(of_dhcp_server) * 2
    }
}

fn is_for_nobody(f: &Fields) -> bool {
    is_reserved(f)
        || f.kind == Kind::Broken
        || (f.kind == Kind::Ipv4
            && !(0xe000_0000..0xf000_0000).contains(&f.dst_ipv4)
            && f.dst_ipv4 != u32::MAX)
        || (f.kind == Kind::Ipv6 && f.dst_ipv6.to_be_bytes().first() != Some(&0xff))
}
