//! Every packet that a policy and rows could tell apart, one of each kind: what the proof decides by reasoning, decided
//! by trying.
//!
//! In each dimension two values are of one kind when everything that the policy, the rows, the remote stage, the code
//! stages and the words say about that dimension is the same for both. Policy and rows look at packets in no other way,
//! so that the product of all kinds leaves nothing out.

use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::IpNet;
use portcullis_compiler::{ClassRows, PolicyRow, PortMatch, RemoteMatch, StageModel};
use portcullis_policy::{
    Entry, Family, Fragment, Frame, IpPacket, L4, Packet, Policy, Protocol, TCP_ACK, TCP_SYN,
};

/// One of each kind of `values`.
fn kinds<T: Copy, S: Ord>(values: impl IntoIterator<Item = T>, kind: impl Fn(T) -> S) -> Vec<T> {
    let mut seen = BTreeSet::new();
    values
        .into_iter()
        .filter(|value| seen.insert(kind(*value)))
        .collect()
}

/// Bits, packed so that they compare quickly.
fn pack(bits: impl Iterator<Item = bool>) -> Vec<u64> {
    let mut words = Vec::new();
    for (index, bit) in bits.enumerate() {
        if index % 64 == 0 {
            words.push(0);
        }
        if let Some(word) = words.last_mut() {
            *word |= u64::from(bit) << (index % 64);
        }
    }
    words
}

fn is_prefix(mask: u16) -> bool {
    mask.leading_ones() + mask.trailing_zeros() >= 16
}

/// A policy and rows, and what they can tell apart.
pub struct Grid<'a> {
    policy: &'a Policy,
    program: &'a ClassRows,
    rows: Vec<&'a PolicyRow>,
}

impl<'a> Grid<'a> {
    pub fn new(policy: &'a Policy, program: &'a ClassRows, fixed: &'a [PolicyRow]) -> Self {
        Grid {
            policy,
            program,
            rows: fixed.iter().chain(&program.policy).collect(),
        }
    }

    /// Visits one packet of each kind until `stop` says so; returns that packet.
    pub fn find(&self, model: &StageModel, mut stop: impl FnMut(&Packet) -> bool) -> Option<Packet> {
        for frame in [Frame::Arp, Frame::Rarp, Frame::Other, Frame::Opaque] {
            let packet = Packet { frame };
            if stop(&packet) {
                return Some(packet);
            }
        }
        for family in Family::BOTH {
            let shapes = self.shapes(family, model);
            for remote in self.addresses(family, true) {
                for local in self.addresses(family, false) {
                    for (protocol, fragment, l4) in &shapes {
                        let packet = Packet {
                            frame: Frame::Ip(IpPacket {
                                local,
                                remote,
                                protocol: *protocol,
                                fragment: *fragment,
                                l4: *l4,
                            }),
                        };
                        if stop(&packet) {
                            return Some(packet);
                        }
                    }
                }
            }
        }
        None
    }

    fn addresses(&self, family: Family, remote: bool) -> Vec<IpAddr> {
        let of_entry = |e: &'a Entry| {
            if remote {
                &e.matcher.remote
            } else {
                &e.matcher.local
            }
        };
        let of_row = |r: &PolicyRow| match r.key.remote {
            RemoteMatch::Prefix(p) if remote => Some(p),
            _ if remote => None,
            _ => r.key.local,
        };
        let table = self.program.remote.iter().map(|r| r.prefix).filter(|_| remote);
        let entries = self
            .policy
            .entries
            .iter()
            .flat_map(|e| of_entry(e).iter().copied());
        let prefixes: Vec<IpNet> = entries
            .chain(self.rows.iter().filter_map(|r| of_row(r)))
            .chain(table)
            .collect();
        let number = |a: IpAddr| match a {
            IpAddr::V4(a) => u128::from(u32::from(a)),
            IpAddr::V6(a) => u128::from(a),
        };
        let address = |n: u128| match family {
            Family::V4 => u32::try_from(n).ok().map(|n| IpAddr::V4(Ipv4Addr::from(n))),
            Family::V6 => Some(IpAddr::V6(Ipv6Addr::from(n))),
        };
        let mut edges = BTreeSet::from([0]);
        for prefix in prefixes
            .iter()
            .filter(|p| Family::from_address(p.addr()) == family)
        {
            for edge in [number(prefix.network()), number(prefix.broadcast())] {
                edges.extend([edge.wrapping_sub(1), edge, edge.wrapping_add(1)]);
            }
        }
        let near = edges.into_iter().filter_map(address);
        kinds(near, |a| pack(prefixes.iter().map(|p| p.contains(&a))))
    }

    /// Whether a row can match packets of a protocol at all.
    fn reaching(&self, family: Family, protocol: u8) -> impl Iterator<Item = &&'a PolicyRow> {
        use portcullis_compiler::FrameMatch;
        self.rows.iter().filter(move |r| {
            r.key.protocol.is_none_or(|p| p == protocol)
                && !matches!(r.key.frame, FrameMatch::Ip(f) if f != family)
                && !matches!(r.key.frame, FrameMatch::Arp | FrameMatch::EtherType(_))
        })
    }

    /// Ports of one dimension.
    fn ports(&self, family: Family, protocol: u8, source: bool) -> Vec<u16> {
        let of_row = |r: &PolicyRow| if source { r.key.src } else { r.key.dst };
        let mut matches: Vec<PortMatch> = self.reaching(family, protocol).map(|r| of_row(r)).collect();
        let coded = matches.iter().any(|m| matches!(m, PortMatch::Code { .. }));
        if let (true, Some(codes)) = (coded, &self.program.codes) {
            let stage = if source { &codes.src } else { &codes.dst };
            matches.extend(stage.rows.iter().map(|r| r.port));
        }
        matches.sort_unstable();
        matches.dedup();
        let entries = self.policy.entries.iter().filter(|e| {
            e.matcher.protocol == Protocol::Any || e.matcher.protocol == Protocol::Number(protocol)
        });
        let sets: Vec<_> = entries
            .map(|e| {
                if source {
                    &e.matcher.src_ports
                } else {
                    &e.matcher.dst_ports
                }
            })
            .collect();
        let worded = !source && self.reaching(family, protocol).any(|r| r.words.is_some());
        let words = if worded {
            self.program.words.as_slice()
        } else {
            &[]
        };
        let mut near = BTreeSet::from([0u16]);
        let mut edge = |n: u16| near.extend([n.wrapping_sub(1), n, n.wrapping_add(1)]);
        for (low, high) in sets.iter().flat_map(|s| s.iter()) {
            edge(low);
            edge(high);
        }
        let mut all = false;
        for m in &matches {
            match m {
                PortMatch::Any | PortMatch::Code { .. } => {}
                PortMatch::Range { low, high } => {
                    edge(*low);
                    edge(*high);
                }
                PortMatch::Masked { value, mask } => {
                    edge(*value);
                    edge(value | !mask);
                    all |= !is_prefix(*mask);
                }
            }
        }
        for word in words {
            for bit in 0..64u16 {
                edge(word.block.wrapping_mul(64).wrapping_add(bit));
            }
        }
        let near: Vec<u16> = if all {
            (0..=u16::MAX).collect()
        } else {
            near.into_iter().collect()
        };
        let kind = |n: u16| {
            let of_words = words.iter().flat_map(|w| {
                let here = n >> 6 == w.block;
                [here, here && w.word >> (n & 63) & 1 == 1]
            });
            let plain = matches
                .iter()
                .map(|m| !matches!(m, PortMatch::Code { .. }) && m.hits(n, 0));
            pack(
                [n == 0]
                    .into_iter()
                    .chain(sets.iter().map(|s| s.contains(n)))
                    .chain(plain)
                    .chain(of_words),
            )
        };
        kinds(near, kind)
    }

    fn flags(&self) -> Vec<u16> {
        let asked: BTreeSet<(u16, u16)> = self.rows.iter().filter_map(|r| r.key.flags).collect();
        kinds(0..0x1000u16, |flags| {
            let opening = flags & (TCP_SYN | TCP_ACK) == TCP_SYN;
            let own = [flags == 0, opening].into_iter();
            pack(own.chain(asked.iter().map(|(value, mask)| flags & mask == *value)))
        })
    }

    /// Types, or codes, of ICMP.
    fn icmp(&self, family: Family, protocol: u8, kind: bool) -> Vec<u8> {
        let of_row = |r: &PolicyRow| if kind { r.key.src } else { r.key.dst };
        let matches: Vec<PortMatch> = self.reaching(family, protocol).map(|r| of_row(r)).collect();
        let named = self.policy.entries.iter().filter_map(|e| e.matcher.icmp);
        let named: Vec<u8> = named
            .filter_map(|i| if kind { Some(i.kind) } else { i.code })
            .collect();
        kinds(0..=u8::MAX, |n| {
            let plain = matches
                .iter()
                .map(|m| !matches!(m, PortMatch::Code { .. }) && m.hits(n.into(), 0));
            pack(named.iter().map(|other| *other == n).chain(plain).chain([n == 0]))
        })
    }

    /// Protocols, fragments and payloads.
    fn shapes(&self, family: Family, model: &StageModel) -> Vec<(Option<u8>, Fragment, L4)> {
        let mut named: BTreeSet<u8> = [0, 1, 2, 6, 17, 44, 58, 132].into();
        named.extend(self.rows.iter().filter_map(|r| r.key.protocol));
        named.extend(
            self.policy
                .entries
                .iter()
                .filter_map(|e| match e.matcher.protocol {
                    Protocol::Number(n) => Some(n),
                    Protocol::Any => None,
                }),
        );
        named.extend((0..=u8::MAX).rev().find(|n| !named.contains(n)));
        let mut shapes = Vec::new();
        let later = |offset| Fragment::Later { offset };
        for protocol in named.iter().copied().map(Some).chain([None]) {
            shapes.extend([1, 2].map(|offset| (protocol, later(offset), L4::Nothing)));
            let Some(number) = protocol.filter(|n| *n != 0) else {
                shapes.push((protocol, Fragment::Whole, L4::Nothing));
                continue;
            };
            if self.policy.shows_ports(number) {
                let tcp = number == Protocol::TCP;
                let flags = if tcp { self.flags() } else { vec![0] };
                let destinations = self.ports(family, number, false);
                for src in self.ports(family, number, true) {
                    for dst in &destinations {
                        let ports = |flags: &u16| L4::Ports {
                            src,
                            dst: *dst,
                            flags: *flags,
                        };
                        shapes.extend(flags.iter().map(|f| (protocol, Fragment::Whole, ports(f))));
                    }
                }
                shapes.push((protocol, Fragment::First, L4::Short));
                let begun = |flags| L4::Begun {
                    src: 1,
                    dst: 1,
                    flags,
                };
                shapes.extend(flags.iter().map(|f| (protocol, Fragment::First, begun(*f))));
            } else if self.policy.shows_icmp(number, family) {
                let codes = self.icmp(family, number, false);
                for kind in self.icmp(family, number, true) {
                    let payload = |code: &u8| L4::Icmp { kind, code: *code };
                    shapes.extend(
                        codes
                            .iter()
                            .map(|code| (protocol, Fragment::Whole, payload(code))),
                    );
                }
                shapes.push((protocol, Fragment::Whole, L4::Short));
            } else {
                shapes.push((protocol, Fragment::Whole, L4::Nothing));
            }
        }
        // What a parser does not tell apart need not be tried twice.
        if !model.view.fragment_offset {
            shapes.retain(|(_, fragment, _)| *fragment != later(1));
        }
        shapes
    }
}
