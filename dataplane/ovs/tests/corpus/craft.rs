//! Bytes of frames from the RFCs, with what they are beside them. Checksums of layer 4 are left zero: no switch
//! checks them.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use portcullis_policy::{Fragment, L4, Protocol};

use super::{Host, Mac};

pub const SYN: u16 = 0x02;
pub const ACK: u16 = 0x10;

pub const IPV4: u16 = 0x0800;
pub const IPV6: u16 = 0x86dd;
pub const ARP: u16 = 0x0806;

/// What neighbour discovery says of its sender (RFC 4861).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Nd {
    pub kind: u8,
    pub target: Ipv6Addr,
    /// The link-layer address option: the source's in a solicitation, the target's in an advertisement.
    pub mac: Option<Mac>,
}

/// What ARP says (RFC 826).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ArpSays {
    pub sha: Mac,
    pub spa: Ipv4Addr,
    pub tpa: Ipv4Addr,
    /// Hardware and protocol types and lengths are those of IPv4 over Ethernet, and nothing is missing.
    pub well_formed: bool,
}

/// What a frame carries behind its tags.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Content {
    Arp(ArpSays),
    /// Reverse ARP (RFC 903).
    Rarp,
    Other,
    /// IP inside something that is not looked into.
    Encapsulated,
    /// The EtherType of a VLAN tag where no tag can be.
    BareTag,
    /// IP by its EtherType, with a header that cannot be read.
    BrokenIp,
    Ip(IpSays),
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct IpSays {
    pub src: IpAddr,
    pub dst: IpAddr,
    /// `None`: the extension headers do not end.
    pub protocol: Option<u8>,
    pub fragment: Fragment,
    pub l4: L4,
    pub nd: Option<Nd>,
    /// The type of an IGMP message (RFC 3376).
    pub igmp: Option<u8>,
}

/// One VLAN tag: TPID and VLAN.
pub type Tag = (u16, u16);

/// Where a frame comes from and goes to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Route {
    pub from: Host,
    pub src: Mac,
    pub dst: Mac,
}

pub fn route(from: Host, to: Host) -> Route {
    Route {
        from,
        src: from.mac(),
        dst: to.mac(),
    }
}

#[derive(Debug, Clone)]
pub struct Frame {
    pub what: String,
    pub route: Route,
    pub tags: Vec<Tag>,
    pub content: Content,
    pub bytes: Vec<u8>,
    /// The bytes without the tags: how a frame is known again.
    pub key: Vec<u8>,
    /// What Open vSwitch has no field for, and what the verdict depends on.
    pub unseen: Option<&'static str>,
}

/// A layer 4 message.
#[derive(Debug, Clone)]
pub struct Segment {
    pub protocol: u8,
    pub l4: L4,
    pub nd: Option<Nd>,
    pub igmp: Option<u8>,
    pub bytes: Vec<u8>,
}

impl Segment {
    /// The first `n` bytes of it as a first fragment: a header that shows its ports and flags has begun.
    pub fn begin(self, n: usize) -> Self {
        let l4 = self.l4;
        let cut = self.cut(n);
        let shown = match cut.protocol {
            Protocol::TCP => 14,
            Protocol::SCTP => 4,
            _ => usize::MAX,
        };
        match (cut.l4, l4) {
            (L4::Short, L4::Ports { src, dst, flags }) if cut.bytes.len() >= shown => Segment {
                l4: L4::Begun { src, dst, flags },
                ..cut
            },
            _ => cut,
        }
    }

    /// The first `n` bytes of it. A header that is not whole counts as too short.
    pub fn cut(mut self, n: usize) -> Self {
        self.bytes.truncate(n);
        let whole = match self.protocol {
            Protocol::TCP => 20,
            Protocol::SCTP => 12,
            Protocol::UDP | Protocol::ICMP | Protocol::ICMPV6 => 8,
            _ => 0,
        };
        if self.bytes.len() < whole {
            self.l4 = L4::Short;
            self.nd = None;
        }
        self
    }
}

fn ports(src: u16, dst: u16, flags: u16) -> L4 {
    L4::Ports { src, dst, flags }
}

/// RFC 9293. `flags` are the twelve bits beside the data offset.
pub fn tcp(src: u16, dst: u16, flags: u16) -> Segment {
    let mut bytes = [src.to_be_bytes(), dst.to_be_bytes()].concat();
    bytes.extend([0; 8]);
    bytes.extend((0x5000 | flags).to_be_bytes());
    bytes.extend([0x20, 0, 0, 0, 0, 0]);
    bytes.extend(b"data");
    Segment {
        protocol: Protocol::TCP,
        l4: ports(src, dst, flags),
        nd: None,
        igmp: None,
        bytes,
    }
}

/// A UDP segment of 24 bytes (RFC 768).
pub fn udp(src: u16, dst: u16) -> Segment {
    let mut bytes = [src, dst, 8 + 16, 0].map(u16::to_be_bytes).concat();
    bytes.extend([0x55; 16]);
    Segment {
        protocol: Protocol::UDP,
        l4: ports(src, dst, 0),
        nd: None,
        igmp: None,
        bytes,
    }
}

/// RFC 9260: common header and a COOKIE ACK chunk.
pub fn sctp(src: u16, dst: u16) -> Segment {
    let mut bytes = [src, dst].map(u16::to_be_bytes).concat();
    bytes.extend([0; 8]);
    bytes.extend([11, 0, 0, 4]);
    Segment {
        protocol: Protocol::SCTP,
        l4: ports(src, dst, 0),
        nd: None,
        igmp: None,
        bytes,
    }
}

/// RFC 792, RFC 4443, by IP version.
pub fn icmp(v6: bool, kind: u8, code: u8) -> Segment {
    let mut bytes = vec![kind, code, 0, 0, 0, 0, 0, 0];
    bytes.extend([0x66; 40]);
    Segment {
        protocol: if v6 { Protocol::ICMPV6 } else { Protocol::ICMP },
        l4: L4::Icmp { kind, code },
        nd: None,
        igmp: None,
        bytes,
    }
}

/// RFC 4861 section 4: a solicitation (135) or an advertisement (136), with the options given as they are.
pub fn nd_with(kind: u8, target: Ipv6Addr, options: &[u8], says: Option<Mac>) -> Segment {
    let mut bytes = vec![kind, 0, 0, 0, 0, 0, 0, 0];
    bytes.extend(target.octets());
    bytes.extend(options);
    Segment {
        protocol: Protocol::ICMPV6,
        l4: L4::Icmp { kind, code: 0 },
        nd: Some(Nd {
            kind,
            target,
            mac: says,
        }),
        igmp: None,
        bytes,
    }
}

/// The same with at most one option.
pub fn nd(kind: u8, target: Ipv6Addr, mac: Option<Mac>) -> Segment {
    let options = mac.map(|m| lla(if kind == 136 { 2 } else { 1 }, m));
    nd_with(kind, target, &options.unwrap_or_default(), mac)
}

/// A link-layer address option.
pub fn lla(kind: u8, mac: Mac) -> Vec<u8> {
    [&[kind, 1][..], &mac].concat()
}

/// A protocol of which nothing is looked at.
pub fn raw(protocol: u8) -> Segment {
    Segment {
        protocol,
        l4: L4::Nothing,
        nd: None,
        igmp: None,
        bytes: vec![0x77; 40],
    }
}

/// RFC 3376; to all systems or a group, as the packet says.
pub fn igmp(kind: u8) -> Segment {
    let mut segment = raw(2);
    segment.bytes = vec![0; 8];
    segment.bytes[0] = kind;
    segment.igmp = Some(kind);
    segment
}

/// An IPv6 extension header (RFC 8200; RFC 4302 for AH).
#[derive(Debug, Clone, Copy)]
pub enum Ext {
    HopByHop(u8),
    Routing(u8),
    Destination(u8),
    Fragment {
        offset: u16,
        more: bool,
    },
    Auth,
    /// Claims to be longer than what is left.
    TooLong(u8),
    /// Ends after four bytes.
    CutOff(u8),
}

impl Ext {
    fn number(self) -> u8 {
        match self {
            Ext::HopByHop(_) => 0,
            Ext::Routing(_) => 43,
            Ext::Destination(_) => 60,
            Ext::Fragment { .. } => 44,
            Ext::Auth => 51,
            Ext::TooLong(n) | Ext::CutOff(n) => n,
        }
    }

    fn bytes(self, next: u8, id: u32) -> Vec<u8> {
        // PadN over what is left, or padding that means nothing in a routing header of type 253.
        let padded = |extra: u8, head: [u8; 4]| {
            let length = 8 + usize::from(extra) * 8;
            let mut bytes = vec![next, extra, head[0], head[1], head[2], head[3]];
            bytes.resize(length, 0);
            bytes
        };
        match self {
            Ext::HopByHop(extra) | Ext::Destination(extra) => padded(extra, [1, 4 + extra * 8, 0, 0]),
            Ext::Routing(extra) => padded(extra, [253, 0, 0, 0]),
            Ext::Fragment { offset, more } => {
                let mut bytes = vec![next, 0];
                bytes.extend(((offset << 3) | u16::from(more)).to_be_bytes());
                bytes.extend(id.to_be_bytes());
                bytes
            }
            Ext::Auth => {
                let mut bytes = vec![next, 4, 0, 0];
                bytes.resize(24, 0x11);
                bytes
            }
            Ext::TooLong(_) => padded(0, [1, 4, 0, 0])
                .into_iter()
                .enumerate()
                .map(|(i, b)| if i == 1 { 200 } else { b })
                .collect(),
            Ext::CutOff(_) => vec![next, 0, 1, 0],
        }
    }
}

/// An IP packet in the making.
#[derive(Debug, Clone)]
pub struct Ip {
    pub src: IpAddr,
    pub dst: IpAddr,
    /// IPv4 options, a multiple of four bytes.
    pub options: Vec<u8>,
    /// IPv4 fragmentation: offset in units of 8 bytes, and whether more follow.
    pub fragment: Option<(u16, bool)>,
    /// IPv6 extension headers, the outermost first.
    pub chain: Vec<Ext>,
}

pub fn ip(src: IpAddr, dst: IpAddr) -> Ip {
    Ip {
        src,
        dst,
        options: Vec::new(),
        fragment: None,
        chain: Vec::new(),
    }
}

fn fragment_of(offset: u16, more: bool) -> Fragment {
    match (offset, more) {
        (0, false) => Fragment::Whole,
        (0, true) => Fragment::First,
        (offset, _) => Fragment::Later { offset },
    }
}

impl Ip {
    /// A fragment, whatever the version.
    pub fn piece(mut self, offset: u16, more: bool) -> Self {
        if self.src.is_ipv4() {
            self.fragment = Some((offset, more));
        } else {
            self.chain.push(Ext::Fragment { offset, more });
        }
        self
    }

    pub fn ether_type(&self) -> u16 {
        if self.src.is_ipv4() { IPV4 } else { IPV6 }
    }

    /// The packet, and what it is.
    pub fn encode(&self, segment: &Segment, id: u32) -> (Vec<u8>, Content) {
        let (bytes, protocol, fragment) = match (self.src, self.dst) {
            (IpAddr::V4(src), IpAddr::V4(dst)) => self.v4(src, dst, segment, id),
            (IpAddr::V6(src), IpAddr::V6(dst)) => self.v6(src, dst, segment, id),
            _ => panic!("one IP version"),
        };
        let later = matches!(fragment, Fragment::Later { .. });
        let content = Content::Ip(IpSays {
            src: self.src,
            dst: self.dst,
            protocol,
            fragment,
            l4: if later { L4::Nothing } else { segment.l4 },
            nd: segment.nd.filter(|_| !later),
            igmp: segment.igmp.filter(|_| !later),
        });
        (bytes, content)
    }

    fn v4(
        &self,
        src: Ipv4Addr,
        dst: Ipv4Addr,
        segment: &Segment,
        id: u32,
    ) -> (Vec<u8>, Option<u8>, Fragment) {
        let header = 20 + self.options.len();
        let total = (header + segment.bytes.len()) as u16;
        let (offset, more) = self.fragment.unwrap_or((0, false));
        let mut bytes = vec![0x40 | (header / 4) as u8, 0];
        bytes.extend(total.to_be_bytes());
        bytes.extend((id as u16).to_be_bytes());
        bytes.extend((offset | if more { 0x2000 } else { 0 }).to_be_bytes());
        bytes.extend([64, segment.protocol, 0, 0]);
        bytes.extend(src.octets());
        bytes.extend(dst.octets());
        bytes.extend(&self.options);
        let sum = checksum(&bytes).to_be_bytes();
        bytes[10..12].copy_from_slice(&sum);
        bytes.extend(&segment.bytes);
        (bytes, Some(segment.protocol), fragment_of(offset, more))
    }

    fn v6(
        &self,
        src: Ipv6Addr,
        dst: Ipv6Addr,
        segment: &Segment,
        id: u32,
    ) -> (Vec<u8>, Option<u8>, Fragment) {
        let nexts = self
            .chain
            .iter()
            .skip(1)
            .map(|e| e.number())
            .chain([segment.protocol]);
        let mut rest: Vec<u8> = Vec::new();
        let (mut fragment, mut broken) = (Fragment::Whole, false);
        for (ext, next) in self.chain.iter().zip(nexts) {
            rest.extend(ext.bytes(next, id));
            match *ext {
                Ext::Fragment { offset, more } => fragment = fragment_of(offset, more),
                Ext::TooLong(_) => broken = true,
                Ext::CutOff(_) => {
                    broken = true;
                    break;
                }
                _ => {}
            }
            // What follows a later fragment's header is in the middle of something.
            if matches!(fragment, Fragment::Later { .. }) {
                break;
            }
        }
        if !matches!(self.chain.last(), Some(Ext::CutOff(_))) {
            rest.extend(&segment.bytes);
        }
        let mut bytes = (0x6000_0000 | (id & 0xf_ffff)).to_be_bytes().to_vec();
        bytes.extend((rest.len() as u16).to_be_bytes());
        bytes.push(self.chain.first().map_or(segment.protocol, |e| e.number()));
        bytes.push(255);
        bytes.extend(src.octets());
        bytes.extend(dst.octets());
        bytes.extend(rest);
        (bytes, (!broken).then_some(segment.protocol), fragment)
    }
}

/// The Internet checksum (RFC 1071).
fn checksum(bytes: &[u8]) -> u16 {
    let pairs = bytes
        .chunks(2)
        .map(|p| u32::from(p[0]) << 8 | u32::from(*p.get(1).unwrap_or(&0)));
    let mut sum: u32 = pairs.sum();
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    !(sum as u16)
}

/// Frames with their numbers.
#[derive(Default)]
pub struct Corpus {
    pub frames: Vec<Frame>,
    id: u32,
}

impl Corpus {
    /// A number no other frame has. IPv4 has 16 bits for it.
    pub fn id(&mut self) -> u32 {
        self.id += 1;
        assert!(self.id < 0xffff, "more frames than IPv4 identifications");
        self.id
    }

    /// A frame of these bytes.
    pub fn frame(
        &mut self,
        what: impl Into<String>,
        route: Route,
        tags: &[Tag],
        ether_type: u16,
        payload: &[u8],
        content: Content,
    ) {
        let macs = [route.dst, route.src].concat();
        let rest = [&ether_type.to_be_bytes()[..], payload].concat();
        let tag_bytes: Vec<u8> = tags
            .iter()
            .flat_map(|(tpid, vid)| [tpid.to_be_bytes(), vid.to_be_bytes()].concat())
            .collect();
        self.frames.push(Frame {
            what: what.into(),
            route,
            tags: tags.to_vec(),
            content,
            bytes: [&macs[..], &tag_bytes, &rest].concat(),
            key: [macs, rest].concat(),
            unseen: None,
        });
    }

    /// An IP packet in an untagged frame; a fragment of IPv4 in RFC 1042 encapsulation, because the rig carries it
    /// in no other: its ports are DPDK's `net_af_packet`, which asks the kernel to reassemble IPv4
    /// (PACKET_FANOUT_FLAG_DEFRAG) where it sees the EtherType behind no more than one tag.
    pub fn ip(&mut self, what: impl Into<String>, route: Route, ip: &Ip, segment: &Segment) {
        if ip.fragment.is_some() {
            self.snap(what, route, ip, segment);
        } else {
            self.tagged(what, route, &[], ip, segment);
        }
    }

    /// An IP packet behind a length and a SNAP header (IEEE 802.3, RFC 1042).
    pub fn snap(&mut self, what: impl Into<String>, route: Route, ip: &Ip, segment: &Segment) {
        let id = self.id();
        let (bytes, content) = ip.encode(segment, id);
        let [high, low] = ip.ether_type().to_be_bytes();
        let payload = [&[0xaa, 0xaa, 3, 0, 0, 0, high, low][..], &bytes].concat();
        self.frame(what, route, &[], payload.len() as u16, &payload, content);
    }

    /// An IP packet behind tags.
    pub fn tagged(
        &mut self,
        what: impl Into<String>,
        route: Route,
        tags: &[Tag],
        ip: &Ip,
        segment: &Segment,
    ) {
        let id = self.id();
        let (bytes, content) = ip.encode(segment, id);
        self.frame(what, route, tags, ip.ether_type(), &bytes, content);
    }

    /// An IP packet whose header is spoilt after it was made.
    pub fn broken(
        &mut self,
        what: impl Into<String>,
        route: Route,
        ip: &Ip,
        segment: &Segment,
        spoil: impl FnOnce(&mut Vec<u8>),
    ) {
        let id = self.id();
        let (mut bytes, _) = ip.encode(segment, id);
        spoil(&mut bytes);
        self.frame(what, route, &[], ip.ether_type(), &bytes, Content::BrokenIp);
    }

    /// Names what the switch cannot see of the last frame.
    pub fn unseen(&mut self, what: &'static str) {
        if let Some(last) = self.frames.last_mut() {
            last.unseen = Some(what);
        }
    }

    /// A frame that is not IP, with its number at the end.
    pub fn other(
        &mut self,
        what: impl Into<String>,
        route: Route,
        tags: &[Tag],
        ether_type: u16,
        content: Content,
    ) {
        let id = self.id();
        let payload = [&[0x99; 42][..], &id.to_be_bytes()].concat();
        self.frame(what, route, tags, ether_type, &payload, content);
    }

    /// ARP (RFC 826), with its number in the padding.
    pub fn arp(&mut self, what: impl Into<String>, route: Route, operation: u16, says: ArpSays) {
        let payload = arp_payload(operation, &says, self.id());
        self.frame(what, route, &[], ARP, &payload, Content::Arp(says));
    }
}

pub fn arp_payload(operation: u16, says: &ArpSays, id: u32) -> Vec<u8> {
    let mut payload = vec![0, 1, 8, 0, 6, 4];
    payload.extend(operation.to_be_bytes());
    payload.extend(says.sha);
    payload.extend(says.spa.octets());
    payload.extend([0; 6]);
    payload.extend(says.tpa.octets());
    payload.extend([0; 14]);
    payload.extend(id.to_be_bytes());
    payload
}
