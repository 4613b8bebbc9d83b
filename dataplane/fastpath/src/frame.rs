//! Parser: bytes to match fields, state by state like `p4/include/parser.p4`.
//!
//! `unreadable` marks what a policy cannot judge. It is set before what can fail and cleared where all was read, so that
//! a frame that ends too early leaves it set.

/// What a frame carries. The numbers are those in rows of the guard.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[repr(u8)]
pub enum Kind {
    /// A payload that is not parsed.
    #[default]
    Other = 0,
    /// ARP (RFC 826), also a malformed one.
    Arp = 1,
    /// IPv4 with a valid header (RFC 791).
    Ipv4 = 2,
    /// IPv6 with a whole fixed header (RFC 8200).
    Ipv6 = 3,
    /// May carry IP where the parser does not look: behind a third tag, MPLS or PPPoE.
    Encapsulated = 4,
    /// IP by its EtherType, with a header that is invalid.
    Broken = 5,
}

/// A frame as rows match it. Fields that a frame lacks are 0.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[allow(missing_docs, reason = "the names are those of the P4 program's metadata")]
pub struct Fields {
    pub kind: Kind,
    /// VLAN id of the outermost tag, 0 without; [`VLAN_UNKNOWN`] where tags contradict each other or are cut off.
    pub vlan: u16,
    pub ether_type: u16,
    pub unreadable: bool,
    pub protocol: u8,
    pub later: bool,
    pub tcp_flags: u16,
    pub src_ipv4: u32,
    pub dst_ipv4: u32,
    pub src_port: u16,
    pub dst_port: u16,
    pub icmp_type: u8,
    pub icmp_code: u8,
    pub igmp_type: u8,
    pub nd_type: u8,
    pub nd_hidden: bool,
    pub nd_has_mac: bool,
    pub arp_malformed: bool,
    pub arp_sender: u32,
    pub arp_target: u32,
    pub src_mac: u64,
    pub dst_mac: u64,
    pub arp_sender_mac: u64,
    pub nd_mac: u64,
    pub src_ipv6: u128,
    pub dst_ipv6: u128,
    pub nd_target: u128,
}

const VLAN: u16 = 0x8100;
const SERVICE_VLAN: u16 = 0x88a8;
const OLD_VLAN: u16 = 0x9100;
/// The VLAN of a frame whose tags do not say which one it is in: no port has it (IEEE 802.1Q).
pub const VLAN_UNKNOWN: u16 = 4095;
const HOP_BY_HOP: u8 = 0;
const ICMP: u8 = 1;
const IGMP: u8 = 2;
const TCP: u8 = 6;
const UDP: u8 = 17;
const ROUTING: u8 = 43;
const FRAGMENT: u8 = 44;
const AUTHENTICATION: u8 = 51;
const ICMPV6: u8 = 58;
const DESTINATION: u8 = 60;
const SCTP: u8 = 132;
/// Bytes of a TCP header up to its flags, and of ports: as much as a first fragment has to show.
const FLAGS: u16 = 14;
const PORTS: u16 = 4;
/// Extension headers that are followed, and options of neighbour discovery that are looked at: a P4 parser has stacks.
const EXTENSIONS: usize = 8;
const ND_OPTIONS: usize = 6;

/// The frame from a place on. Reading beyond its end is `None`, which ends parsing as in P4.
#[derive(Clone, Copy)]
struct Cursor<'a> {
    rest: &'a [u8],
}

impl<'a> Cursor<'a> {
    #[inline(always)]
    fn peek<const N: usize>(self) -> Option<&'a [u8; N]> {
        self.rest.first_chunk::<N>()
    }

    #[inline(always)]
    fn take<const N: usize>(&mut self) -> Option<&'a [u8; N]> {
        let (head, rest) = self.rest.split_first_chunk::<N>()?;
        self.rest = rest;
        Some(head)
    }

    #[inline(always)]
    fn skip(&mut self, bytes: usize) -> Option<()> {
        self.rest = self.rest.get(bytes..)?;
        Some(())
    }
}

#[inline(always)]
fn mac(b: &[u8]) -> u64 {
    b.iter().take(6).fold(0, |v, b| v << 8 | u64::from(*b))
}

#[inline(always)]
fn half(a: u8, b: u8) -> u16 {
    u16::from_be_bytes([a, b])
}

impl Fields {
    /// Parses a frame of at least 14 bytes; `None` when it is shorter and so none.
    pub fn parse(frame: &[u8]) -> Option<Fields> {
        let mut fields = Fields::default();
        fields.read(frame).then_some(fields)
    }

    /// The same in place, into fields that are all 0; `false` for what is no frame. Copying them would take longer.
    #[inline(always)]
    pub(crate) fn read(&mut self, frame: &[u8]) -> bool {
        let mut at = Cursor { rest: frame };
        let Some([d0, d1, d2, d3, d4, d5, s0, s1, s2, s3, s4, s5, t0, t1]) = at.take::<14>() else {
            return false;
        };
        self.dst_mac = u64::from_be_bytes([0, 0, *d0, *d1, *d2, *d3, *d4, *d5]);
        self.src_mac = u64::from_be_bytes([0, 0, *s0, *s1, *s2, *s3, *s4, *s5]);
        self.ether_type = half(*t0, *t1);
        // What could be read so far counts.
        let _ended = self.tags(at, frame.len());
        true
    }

    #[inline(always)]
    fn tags(&mut self, mut at: Cursor<'_>, length: usize) -> Option<()> {
        let mut left = (length as u16).wrapping_sub(14);
        if matches!(self.ether_type, VLAN | SERVICE_VLAN) {
            // Cut off after its EtherType, a tag may hide anything.
            self.kind = Kind::Encapsulated;
            self.unreadable = true;
            self.vlan = VLAN_UNKNOWN;
            let [a, b, c, d] = *at.take::<4>()?;
            left = left.wrapping_sub(4);
            self.vlan = half(a, b) & 0xfff;
            self.ether_type = half(c, d);
            // The next switch may take a priority tag away, and the tag behind it is the VLAN then.
            if self.vlan == 0 && matches!(self.ether_type, VLAN | SERVICE_VLAN | OLD_VLAN) {
                self.vlan = VLAN_UNKNOWN;
            }
            if matches!(self.ether_type, VLAN | SERVICE_VLAN) {
                let [_, _, c, d] = *at.take::<4>()?;
                left = left.wrapping_sub(4);
                self.ether_type = half(c, d);
            }
            self.kind = Kind::Other;
            self.unreadable = false;
        } else if self.ether_type == OLD_VLAN {
            // Some switches take it for a tag.
            self.vlan = VLAN_UNKNOWN;
        }
        if self.ether_type < 0x600 {
            // IEEE 802.3: a length, and LLC behind it. RFC 1042 puts an EtherType there.
            if *at.peek::<6>()? != [0xaa, 0xaa, 3, 0, 0, 0] {
                return Some(());
            }
            let [.., a, b] = *at.take::<8>()?;
            left = left.wrapping_sub(8);
            self.ether_type = half(a, b);
        }
        match self.ether_type {
            0x0800 => self.ipv4(at, left),
            0x86dd => self.ipv6(at, left),
            0x0806 => self.arp(at),
            VLAN | SERVICE_VLAN | OLD_VLAN | 0x8847 | 0x8848 | 0x8864 => {
                self.kind = Kind::Encapsulated;
                self.unreadable = true;
                Some(())
            }
            _ => Some(()),
        }
    }

    fn arp(&mut self, mut at: Cursor<'_>) -> Option<()> {
        self.kind = Kind::Arp;
        self.arp_malformed = true;
        let arp = at.take::<28>()?;
        let address = |at: usize| {
            arp.get(at..at + 4)
                .map_or(0, |b| b.iter().fold(0, |v, b| v << 8 | u32::from(*b)))
        };
        self.arp_sender_mac = arp.get(8..14).map_or(0, mac);
        self.arp_sender = address(14);
        self.arp_target = address(24);
        // Ethernet and IPv4, with addresses of their lengths.
        self.arp_malformed = !arp.starts_with(&[0, 1, 8, 0, 6, 4]);
        Some(())
    }

    #[inline(always)]
    fn ipv4(&mut self, mut at: Cursor<'_>, frame_left: u16) -> Option<()> {
        self.kind = Kind::Broken;
        self.unreadable = true;
        let [
            v,
            _,
            l0,
            l1,
            _,
            _,
            f0,
            f1,
            _,
            protocol,
            _,
            _,
            s0,
            s1,
            s2,
            s3,
            d0,
            d1,
            d2,
            d3,
        ] = *at.take::<20>()?;
        let words = u16::from(v & 15);
        let (header, total) = (words * 4, half(l0, l1));
        if v >> 4 != 4 || words < 5 || header > total || total > frame_left {
            return Some(());
        }
        at.skip(usize::from(header - 20))?;
        self.kind = Kind::Ipv4;
        self.src_ipv4 = u32::from_be_bytes([s0, s1, s2, s3]);
        self.dst_ipv4 = u32::from_be_bytes([d0, d1, d2, d3]);
        self.protocol = protocol;
        let left = total - header;
        let first = half(f0, f1) & 0x2000 != 0;
        match (half(f0, f1) & 0x1fff, protocol) {
            (_, 0) => Some(()),
            (0, TCP) => self.tcp(at, left, first),
            (0, UDP) => self.ports(at, left, 8),
            (0, SCTP) => self.ports(at, left, if first { PORTS } else { 12 }),
            (0, ICMP) => self.icmp(at, left),
            (0, IGMP) => self.igmp(at, left),
            (0, _) => self.readable(),
            (1, TCP) => self.tiny(),
            _ => self.later(),
        }
    }

    fn readable(&mut self) -> Option<()> {
        self.unreadable = false;
        Some(())
    }

    fn tiny(&mut self) -> Option<()> {
        self.later = true;
        Some(())
    }

    fn later(&mut self) -> Option<()> {
        self.later = true;
        self.readable()
    }

    #[inline(always)]
    fn tcp(&mut self, at: Cursor<'_>, left: u16, first: bool) -> Option<()> {
        if left < if first { FLAGS } else { 20 } {
            return Some(());
        }
        let [s0, s1, d0, d1, _, _, _, _, _, _, _, _, o, f] = *at.peek::<14>()?;
        self.src_port = half(s0, s1);
        self.dst_port = half(d0, d1);
        self.tcp_flags = half(o, f) & 0xfff;
        let words = u16::from(o >> 4);
        // RFC 9293: the data offset is at least 5, and the header is as long as it says. That of a first fragment may go on
        // in the next one.
        self.unreadable = words < 5 || (words * 4 > left && !first);
        Some(())
    }

    #[inline(always)]
    fn ports(&mut self, at: Cursor<'_>, left: u16, header: u16) -> Option<()> {
        if left < header {
            return Some(());
        }
        let [s0, s1, d0, d1] = *at.peek::<4>()?;
        self.src_port = half(s0, s1);
        self.dst_port = half(d0, d1);
        self.readable()
    }

    fn icmp(&mut self, at: Cursor<'_>, left: u16) -> Option<()> {
        if left < 8 {
            return Some(());
        }
        [self.icmp_type, self.icmp_code] = *at.peek::<2>()?;
        self.readable()
    }

    /// Too short for a type it is read all the same: policies match the protocol alone.
    fn igmp(&mut self, at: Cursor<'_>, left: u16) -> Option<()> {
        if left >= 8 {
            [self.igmp_type] = *at.peek::<1>()?;
        }
        self.readable()
    }

    #[inline(never)]
    fn ipv6(&mut self, mut at: Cursor<'_>, frame_left: u16) -> Option<()> {
        self.kind = Kind::Broken;
        self.unreadable = true;
        let head = at.take::<8>()?;
        let (src, dst) = (at.take::<16>()?, at.take::<16>()?);
        let [v, _, _, _, l0, l1, next, _] = *head;
        let left = half(l0, l1);
        if v >> 4 != 6 || left > frame_left.wrapping_sub(40) {
            return Some(());
        }
        self.kind = Kind::Ipv6;
        self.src_ipv6 = u128::from_be_bytes(*src);
        self.dst_ipv6 = u128::from_be_bytes(*dst);
        self.chain(at, left, next)
    }

    #[inline(always)]
    fn chain(&mut self, mut at: Cursor<'_>, mut left: u16, mut next: u8) -> Option<()> {
        let (mut seen, mut first) = (0, false);
        loop {
            if !extends(next) {
                return self.payload(at, left, next, first);
            }
            if left < 8 || seen == EXTENSIONS {
                return Some(());
            }
            let [follows, length, o0, o1] = *at.peek::<4>()?;
            let bytes = match next {
                FRAGMENT => 8,
                AUTHENTICATION => (u16::from(length) + 2) * 4,
                _ => (u16::from(length) + 1) * 8,
            };
            if bytes > left {
                return Some(());
            }
            at.skip(usize::from(bytes))?;
            left -= bytes;
            seen += 1;
            let offset = half(o0, o1) >> 3;
            first |= next == FRAGMENT && o1 & 1 != 0;
            if next == FRAGMENT && offset != 0 {
                if extends(follows) {
                    // What comes behind it is in another fragment.
                    return Some(());
                }
                self.protocol = follows;
                return if offset == 1 && follows == TCP {
                    self.tiny()
                } else {
                    self.later()
                };
            }
            next = follows;
        }
    }

    #[inline(always)]
    fn payload(&mut self, at: Cursor<'_>, left: u16, protocol: u8, first: bool) -> Option<()> {
        self.protocol = protocol;
        match protocol {
            TCP => self.tcp(at, left, first),
            UDP => self.ports(at, left, 8),
            SCTP => self.ports(at, left, if first { PORTS } else { 12 }),
            ICMPV6 => self.icmpv6(at, left),
            _ => self.readable(),
        }
    }

    fn icmpv6(&mut self, mut at: Cursor<'_>, left: u16) -> Option<()> {
        if left < 8 {
            return Some(());
        }
        [self.icmp_type, self.icmp_code] = *at.peek::<2>()?;
        self.unreadable = false;
        // RFC 4861: a code other than 0 is no neighbour discovery.
        if self.icmp_code != 0 || !(133..=136).contains(&self.icmp_type) {
            return Some(());
        }
        self.nd_type = self.icmp_type;
        self.nd_hidden = true;
        let fixed = match self.nd_type {
            133 => 8,
            134 => 16,
            _ => 24,
        };
        if left < fixed {
            return Some(());
        }
        if fixed == 24 {
            at.skip(8)?;
            self.nd_target = u128::from_be_bytes(*at.take::<16>()?);
        } else {
            at.skip(usize::from(fixed))?;
        }
        self.nd_options(at, left - fixed, if self.nd_type == 136 { 2 } else { 1 })
    }

    /// What cannot be an option ends the list: nothing behind it can be one (RFC 4861, section 4.6).
    fn nd_options(&mut self, mut at: Cursor<'_>, mut left: u16, wanted: u8) -> Option<()> {
        let mut seen = 0;
        loop {
            if left < 8 {
                break;
            }
            let [kind, length] = *at.peek::<2>()?;
            let bytes = u16::from(length) * 8;
            if length == 0 || bytes > left {
                break;
            }
            if seen == ND_OPTIONS {
                // More than are kept: something may hide there.
                return Some(());
            }
            let option = at.peek::<8>()?;
            at.skip(usize::from(bytes))?;
            left -= bytes;
            seen += 1;
            // On Ethernet a link-layer address has length 1 (RFC 2464).
            if kind == wanted && length == 1 {
                let given = option.get(2..8).map_or(0, mac);
                if self.nd_has_mac && self.nd_mac != given {
                    return Some(());
                }
                self.nd_has_mac = true;
                self.nd_mac = given;
            }
        }
        self.nd_hidden = false;
        Some(())
    }
}

fn extends(next: u8) -> bool {
    matches!(
        next,
        HOP_BY_HOP | ROUTING | DESTINATION | FRAGMENT | AUTHENTICATION
    )
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test fails by panicking")]
mod tests {
    use super::*;

    /// The VLAN of a frame with these tags; the last type is cut off behind itself when it is a tag's.
    fn vlan(types: &[u16]) -> u16 {
        let mut frame = vec![2; 12];
        for half in types {
            frame.extend(half.to_be_bytes());
        }
        Fields::parse(&frame).unwrap().vlan
    }

    #[test]
    fn a_priority_tag_before_another_tag_names_no_vlan() {
        for behind in [VLAN, SERVICE_VLAN, OLD_VLAN] {
            for outer in [VLAN, SERVICE_VLAN] {
                assert_eq!(vlan(&[outer, 0, behind, 7, 0x0800]), VLAN_UNKNOWN);
                // Of whatever priority it is.
                assert_eq!(vlan(&[outer, 0xf000, behind, 7, 0x0800]), VLAN_UNKNOWN);
                assert_eq!(vlan(&[outer, 9, behind, 7, 0x0800]), 9);
            }
            assert_eq!(vlan(&[behind]), VLAN_UNKNOWN, "cut off");
        }
        assert_eq!(vlan(&[VLAN, 0, 0x0800]), 0);
        assert_eq!(vlan(&[VLAN, 0xf007, 0x0800]), 7);
        assert_eq!(vlan(&[0x0800]), 0);
    }
}
