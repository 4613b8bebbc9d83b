//! Every match field this codec knows, in one table (OpenFlow 1.5 §7.2.3.8; Open vSwitch ovs-fields(7)).

use crate::error::{DecodeError, EncodeError};
use crate::wire::{Reader, Writer};

/// Class of OpenFlow 1.5 packet registers.
const PKT_REG: u16 = 0x8001;
/// Class of Nicira's own NXM fields.
const NX: u16 = 0x0001;
/// Class whose header is followed by an experimenter id.
const EXPERIMENTER: u16 = 0xffff;
/// First NXM field number of the 128-bit registers.
const XXREG_BASE: u8 = 111;

macro_rules! fields {
    ($($(#[$doc:meta])* $variant:ident $name:literal $class:literal : $num:literal, $bits:literal in $bytes:literal
        $(, also $aclass:literal : $anum:literal : $aexp:literal)* ;)*) => {
        /// A match field. The order of the variants puts prerequisites first, which is the order matches are
        /// encoded in.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
        #[non_exhaustive]
        pub enum Field {
            $($(#[$doc])* $variant,)*
            /// 32-bit register 0 to 15 (NXM_NX_REGn).
            Reg(u8),
            /// 64-bit register 0 to 7 (OXM_OF_PKT_REGn): registers 2n (high half) and 2n+1. A [`crate::Match`]
            /// takes it apart into [`Field::Reg`].
            XReg(u8),
            /// 128-bit register 0 to 3 (NXM_NX_XXREGn): registers 4n (highest) to 4n+3. A [`crate::Match`] takes
            /// it apart into [`Field::Reg`].
            XxReg(u8),
            /// A field this codec has no name for.
            Unknown {
                /// OXM class: 0x8000 basic OpenFlow, 0x0000 and 0x0001 NXM, 0xffff experimenter.
                class: u16,
                /// Field number in its class.
                field: u8,
                /// Bytes of the value.
                width: u8,
                /// Experimenter id; zero unless `class` is 0xffff.
                experimenter: u32,
            },
        }

        impl Field {
            /// Every named field that is not a register.
            pub const NAMED: &'static [Field] = &[$(Field::$variant),*];

            /// Name as Open vSwitch prints it in flow syntax; registers and unknown fields have a family name.
            pub const fn name(self) -> &'static str {
                match self {
                    $(Field::$variant => $name,)*
                    Field::Reg(_) => "reg",
                    Field::XReg(_) => "xreg",
                    Field::XxReg(_) => "xxreg",
                    Field::Unknown { .. } => "unknown field",
                }
            }

            /// Bits of the value that mean something.
            pub const fn width_bits(self) -> u16 {
                match self {
                    $(Field::$variant => $bits,)*
                    Field::Reg(_) => 32,
                    Field::XReg(_) => 64,
                    Field::XxReg(_) => 128,
                    Field::Unknown { width, .. } => (width as u16).saturating_mul(8),
                }
            }

            /// Bytes of the value on the wire.
            pub const fn width_bytes(self) -> u8 {
                match self {
                    $(Field::$variant => $bytes,)*
                    Field::Reg(_) => 4,
                    Field::XReg(_) => 8,
                    Field::XxReg(_) => 16,
                    Field::Unknown { width, .. } => width,
                }
            }

            /// Class, number and experimenter id this field is sent as.
            const fn id(self) -> (u16, u8, u32) {
                match self {
                    $(Field::$variant => ($class, $num, 0),)*
                    Field::Reg(n) => (NX, n, 0),
                    Field::XReg(n) => (PKT_REG, n, 0),
                    Field::XxReg(n) => (NX, n.saturating_add(XXREG_BASE), 0),
                    Field::Unknown { class, field, experimenter, .. } => (class, field, experimenter),
                }
            }

            fn named(class: u16, num: u8, experimenter: u32) -> Option<Field> {
                Some(match (class, num, experimenter) {
                    $(($class, $num, 0) $(| ($aclass, $anum, $aexp))* => Field::$variant,)*
                    (NX, 0..=15, 0) => Field::Reg(num),
                    (PKT_REG, 0..=7, 0) => Field::XReg(num),
                    (NX, 111..=114, 0) => Field::XxReg(num.saturating_sub(XXREG_BASE)),
                    _ => return None,
                })
            }
        }
    };
}

// name in flow syntax, class:number as sent, significant bits in wire bytes, other headers meaning the same
// (class:number:experimenter).
fields! {
    /// Packet type; (0, 0), Ethernet, is what a match without it means.
    PacketType "packet_type" 0x8000:44, 32 in 4;
    /// Port the packet came in by.
    InPort "in_port_oxm" 0x8000:0, 32 in 4;
    /// Physical port under a logical [`Field::InPort`].
    InPhyPort "in_phy_port" 0x8000:1, 32 in 4;
    /// Ingress port as 16 bits, the writable form; a [`crate::Match`] turns it into [`Field::InPort`].
    InPort16 "in_port" 0x0000:0, 16 in 2;
    /// Metadata handed from table to table.
    Metadata "metadata" 0x8000:2, 64 in 8;
    /// Tunnel key, for example the VXLAN network identifier.
    TunnelId "tun_id" 0x8000:38, 64 in 8, also 0x0001:16:0;
    /// Source of the outer IPv4 header; 0 without a tunnel.
    TunIpv4Src "tun_src" 0x0001:31, 32 in 4;
    /// Destination of the outer IPv4 header; 0 without a tunnel.
    TunIpv4Dst "tun_dst" 0x0001:32, 32 in 4;
    /// Source of the outer IPv6 header; 0 without a tunnel.
    TunIpv6Src "tun_ipv6_src" 0x0001:109, 128 in 16;
    /// Destination of the outer IPv6 header; 0 without a tunnel.
    TunIpv6Dst "tun_ipv6_dst" 0x0001:110, 128 in 16;
    /// Tunnel flags; only bit 0, set for OAM packets, is defined.
    TunFlags "tun_flags" 0x0001:104, 1 in 2;
    /// VXLAN group policy id.
    TunGbpId "tun_gbp_id" 0x0001:38, 16 in 2;
    /// VXLAN group policy flags.
    TunGbpFlags "tun_gbp_flags" 0x0001:39, 8 in 1;
    /// Packet mark of the datapath (Linux `skb->mark`).
    PktMark "pkt_mark" 0x0001:33, 32 in 4;
    /// Hash computed by the datapath.
    DpHash "dp_hash" 0x0001:35, 32 in 4, also 0xffff:0:0x2320;
    /// Recirculation id of the datapath; 0 in a packet's first pass.
    RecircId "recirc_id" 0x0001:36, 32 in 4;
    /// Id of a conjunction whose clauses all matched (ovs-actions(7), `conjunction`).
    ConjId "conj_id" 0x0001:37, 32 in 4;
    /// Output port of the action set.
    ActsetOutput "actset_output" 0x8000:43, 32 in 4, also 0xffff:43:0x4f4e_4600;
    /// Connection tracking state, one bit each for new, established, related and so on; 0 before `ct`.
    CtState "ct_state" 0x0001:105, 32 in 4;
    /// Zone of the last `ct` action; 0 before it.
    CtZone "ct_zone" 0x0001:106, 16 in 2;
    /// Mark of the connection, set inside a `ct` action.
    CtMark "ct_mark" 0x0001:107, 32 in 4;
    /// Label of the connection, set inside a `ct` action.
    CtLabel "ct_label" 0x0001:108, 128 in 16;
    /// Destination MAC address; a mask is allowed.
    EthDst "eth_dst" 0x8000:3, 48 in 6, also 0x0000:1:0;
    /// Source MAC address; a mask is allowed.
    EthSrc "eth_src" 0x8000:4, 48 in 6, also 0x0000:2:0;
    /// Ethernet type, after any VLAN tags.
    EthType "eth_type" 0x8000:5, 16 in 2, also 0x0000:3:0;
    /// VLAN id with bit 0x1000 set when a tag is present; 0 without mask is "no tag".
    VlanVid "vlan_vid" 0x8000:6, 13 in 2;
    /// Priority of the outer VLAN tag (802.1Q PCP), 0 to 7.
    VlanPcp "vlan_pcp" 0x8000:7, 3 in 1;
    /// Whole 802.1Q tag control information, NXM's older way.
    VlanTci "vlan_tci" 0x0000:4, 16 in 2;
    /// Label of the outermost MPLS header.
    MplsLabel "mpls_label" 0x8000:34, 20 in 4;
    /// Traffic class of the outermost MPLS header, 0 to 7.
    MplsTc "mpls_tc" 0x8000:35, 3 in 1;
    /// MPLS bottom of stack.
    MplsBos "mpls_bos" 0x8000:36, 1 in 1;
    /// MPLS time to live.
    MplsTtl "mpls_ttl" 0x0001:30, 8 in 1;
    /// IP protocol or next header behind the extension headers.
    IpProto "nw_proto" 0x8000:10, 8 in 1, also 0x0000:6:0;
    /// DSCP, the upper six bits of the type of service.
    IpDscp "ip_dscp" 0x8000:8, 6 in 1;
    /// ECN, the lower two bits of the type of service.
    IpEcn "nw_ecn" 0x8000:9, 2 in 1, also 0x0001:28:0;
    /// DSCP in its place in the type of service byte, NXM's older way.
    IpTos "nw_tos" 0x0000:5, 8 in 1;
    /// Time to live or hop limit.
    IpTtl "nw_ttl" 0x0001:29, 8 in 1;
    /// Fragment state: bit 0 any fragment, bit 1 not the first.
    IpFrag "ip_frag" 0x0001:26, 2 in 1;
    /// Source of the IPv4 header; a mask is allowed.
    Ipv4Src "nw_src" 0x8000:11, 32 in 4, also 0x0000:7:0;
    /// Destination of the IPv4 header; a mask is allowed.
    Ipv4Dst "nw_dst" 0x8000:12, 32 in 4, also 0x0000:8:0;
    /// Source of the IPv6 header; a mask is allowed.
    Ipv6Src "ipv6_src" 0x8000:26, 128 in 16, also 0x0001:19:0;
    /// Destination of the IPv6 header; a mask is allowed.
    Ipv6Dst "ipv6_dst" 0x8000:27, 128 in 16, also 0x0001:20:0;
    /// Flow label of the IPv6 header (RFC 6437).
    Ipv6Flabel "ipv6_label" 0x8000:28, 20 in 4, also 0x0001:27:0;
    /// IPv6 extension headers present.
    Ipv6Exthdr "ipv6_exthdr" 0x8000:39, 9 in 2;
    /// TCP source port; needs [`Field::IpProto`] 6.
    TcpSrc "tcp_src" 0x8000:13, 16 in 2, also 0x0000:9:0;
    /// TCP destination port; needs [`Field::IpProto`] 6.
    TcpDst "tcp_dst" 0x8000:14, 16 in 2, also 0x0000:10:0;
    /// TCP flags, bit 0 FIN to bit 11.
    TcpFlags "tcp_flags" 0x0001:34, 12 in 2, also 0x8000:42:0, also 0xffff:42:0x4f4e_4600;
    /// UDP source port; needs [`Field::IpProto`] 17.
    UdpSrc "udp_src" 0x8000:15, 16 in 2, also 0x0000:11:0;
    /// UDP destination port; needs [`Field::IpProto`] 17.
    UdpDst "udp_dst" 0x8000:16, 16 in 2, also 0x0000:12:0;
    /// SCTP source port; needs [`Field::IpProto`] 132.
    SctpSrc "sctp_src" 0x8000:17, 16 in 2;
    /// SCTP destination port; needs [`Field::IpProto`] 132.
    SctpDst "sctp_dst" 0x8000:18, 16 in 2;
    /// ICMP type; needs [`Field::IpProto`] 1.
    Icmpv4Type "icmp_type" 0x8000:19, 8 in 1, also 0x0000:13:0;
    /// ICMP code; needs [`Field::IpProto`] 1.
    Icmpv4Code "icmp_code" 0x8000:20, 8 in 1, also 0x0000:14:0;
    /// ICMPv6 type; needs [`Field::IpProto`] 58.
    Icmpv6Type "icmpv6_type" 0x8000:29, 8 in 1, also 0x0001:21:0;
    /// ICMPv6 code; needs [`Field::IpProto`] 58.
    Icmpv6Code "icmpv6_code" 0x8000:30, 8 in 1, also 0x0001:22:0;
    /// Neighbour discovery target address.
    NdTarget "nd_target" 0x8000:31, 128 in 16, also 0x0001:23:0;
    /// Source link-layer address of a neighbour solicitation.
    NdSll "nd_sll" 0x8000:32, 48 in 6, also 0x0001:24:0;
    /// Target link-layer address of a neighbour advertisement.
    NdTll "nd_tll" 0x8000:33, 48 in 6, also 0x0001:25:0;
    /// ARP operation: 1 request, 2 reply. Open vSwitch matches the lower 8 bits only.
    ArpOp "arp_op" 0x8000:21, 16 in 2, also 0x0000:15:0;
    /// ARP sender protocol address.
    ArpSpa "arp_spa" 0x8000:22, 32 in 4, also 0x0000:16:0;
    /// ARP target protocol address.
    ArpTpa "arp_tpa" 0x8000:23, 32 in 4, also 0x0000:17:0;
    /// ARP sender hardware address.
    ArpSha "arp_sha" 0x8000:24, 48 in 6, also 0x0001:17:0;
    /// ARP target hardware address.
    ArpTha "arp_tha" 0x8000:25, 48 in 6, also 0x0001:18:0;
}

/// Widest value, in bytes, that fits the 128 bits of an [`crate::Oxm`].
pub(crate) const MAX_VALUE_BYTES: u8 = 16;

impl Field {
    /// A mask over every significant bit.
    pub const fn full_mask(self) -> u128 {
        match self.width_bits() {
            0 => 0,
            bits if bits >= 128 => u128::MAX,
            bits => (1_u128 << bits) - 1,
        }
    }

    /// Whether a header can name this field: registers have bounds, and so have the parts of an unknown field.
    pub const fn exists(self) -> bool {
        match self {
            Field::Reg(n) => n < 16,
            Field::XReg(n) => n < 8,
            Field::XxReg(n) => n < 4,
            Field::Unknown {
                class,
                field,
                experimenter,
                ..
            } => field < 0x80 && (class == EXPERIMENTER || experimenter == 0),
            _ => true,
        }
    }

    /// Whether a value of this field fits 128 bits.
    pub const fn fits(self) -> bool {
        self.width_bytes() <= MAX_VALUE_BYTES
    }

    /// The field of a wire header whose value has `width` bytes.
    pub(crate) fn from_wire(class: u16, num: u8, experimenter: u32, width: u8) -> Field {
        Field::named(class, num, experimenter)
            .filter(|f| f.width_bytes() == width)
            .unwrap_or(Field::Unknown {
                class,
                field: num & 0x7f,
                width,
                experimenter,
            })
    }

    /// Whether the header carries an experimenter id and so takes eight bytes.
    pub(crate) fn is_experimenter(self) -> bool {
        self.id().0 == EXPERIMENTER
    }

    /// Writes the OXM header, which counts the value and, with `masked`, the mask.
    pub(crate) fn put_header(self, w: &mut Writer<'_>, masked: bool) -> Result<(), EncodeError> {
        let (class, num, experimenter) = self.id();
        let payload = usize::from(self.width_bytes()).saturating_mul(if masked { 2 } else { 1 });
        let length = payload.saturating_add(if class == EXPERIMENTER { 4 } else { 0 });
        let short = u8::try_from(length).map_err(|_| EncodeError::TooLong {
            what: self.name(),
            length,
        })?;
        if !self.exists() {
            return Err(EncodeError::Range {
                what: "number of a match field",
                value: u128::from(num),
            });
        }
        w.u16(class);
        w.u8((num << 1) | u8::from(masked));
        w.u8(short);
        if class == EXPERIMENTER {
            w.u32(experimenter);
        }
        Ok(())
    }

    /// Reads an OXM header: the field and whether a mask follows the value.
    pub(crate) fn read_header(r: &mut Reader<'_>) -> Result<(Field, bool), DecodeError> {
        let (class, raw, length) = (r.u16()?, r.u8()?, r.u8()?);
        let masked = raw & 1 != 0;
        let bad = DecodeError::Length {
            what: "match field",
            length: usize::from(length),
        };
        let (experimenter, payload) = if class == EXPERIMENTER {
            (r.u32()?, length.checked_sub(4).ok_or(bad.clone())?)
        } else {
            (0, length)
        };
        if masked && payload % 2 != 0 {
            return Err(bad);
        }
        let width = if masked { payload / 2 } else { payload };
        Ok((Field::from_wire(class, raw >> 1, experimenter, width), masked))
    }
}

impl std::fmt::Display for Field {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match *self {
            Field::Reg(n) | Field::XReg(n) | Field::XxReg(n) => write!(f, "{}{n}", self.name()),
            Field::Unknown {
                class,
                field,
                experimenter: 0,
                ..
            } => write!(f, "oxm({class:#06x},{field})"),
            Field::Unknown {
                class,
                field,
                experimenter,
                ..
            } => {
                write!(f, "oxm({class:#06x},{field},{experimenter:#x})")
            }
            named => f.write_str(named.name()),
        }
    }
}
