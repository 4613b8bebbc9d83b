//! Flow hash: equal for all frames of a flow, used to distribute frames to workers.
//!
//! What is in one flow stays in order when one worker has it. So the number is of what every packet of a flow shows: the
//! addresses and the protocol, and the ports of TCP and SCTP, which send no fragments of their own accord. UDP does, and
//! fragments show no ports: its flows are those of their addresses, as with most network cards. Frames without IP go by
//! their MACs.

const SALT: u64 = 0x9e37_79b9_7f4a_7c15;
/// VLAN tags that are skipped.
const TAGS: usize = 2;

/// A hash of the frame's flow.
pub fn flow(frame: &[u8]) -> u32 {
    let number = behind_tags(frame)
        .and_then(|(ether_type, packet)| match ether_type {
            0x0800 => ipv4(packet),
            0x86dd => ipv6(packet),
            _ => None,
        })
        .unwrap_or_else(|| macs(frame));
    mixed(number, 0) as u32
}

#[inline(always)]
fn mixed(value: u64, more: u64) -> u64 {
    let mixed = (value.rotate_left(23) ^ more).wrapping_mul(SALT);
    mixed ^ mixed >> 32
}

fn macs(frame: &[u8]) -> u64 {
    frame.first_chunk::<12>().map_or(0, |m| {
        let [a, b, c, d, e, f, g, h, i, j, k, l] = *m;
        let low = u64::from_be_bytes([0, 0, i, j, k, l, 0, 0]);
        mixed(u64::from_be_bytes([a, b, c, d, e, f, g, h]), low)
    })
}

fn behind_tags(frame: &[u8]) -> Option<(u16, &[u8])> {
    let mut rest = frame.get(12..)?;
    for _ in 0..=TAGS {
        let (ether_type, behind) = rest.split_first_chunk::<2>()?;
        let ether_type = u16::from_be_bytes(*ether_type);
        if !matches!(ether_type, 0x8100 | 0x88a8) {
            return Some((ether_type, behind));
        }
        rest = behind.get(2..)?;
    }
    None
}

fn has_ports(protocol: u8) -> bool {
    matches!(protocol, 6 | 132)
}

/// Both ports of a header, as one number.
fn ports(header: Option<&[u8]>) -> u64 {
    header
        .and_then(|h| h.first_chunk::<4>())
        .map_or(0, |p| u64::from(u32::from_be_bytes(*p)))
}

fn ipv4(packet: &[u8]) -> Option<u64> {
    let [v, _, _, _, _, _, f0, f1, _, protocol, _, _, addresses @ ..] = packet.first_chunk::<20>()?;
    let addresses = u64::from_be_bytes(*addresses);
    let whole = u16::from_be_bytes([*f0, *f1]) & 0x3fff == 0;
    let ports = if whole && has_ports(*protocol) {
        ports(packet.get(usize::from(v & 15) * 4..))
    } else {
        0
    };
    Some(mixed(addresses, ports << 8 | u64::from(*protocol)))
}

fn ipv6(packet: &[u8]) -> Option<u64> {
    let (head, rest) = packet.split_first_chunk::<8>()?;
    let (addresses, rest) = rest.split_first_chunk::<32>()?;
    let mut number = 0;
    for word in addresses.as_chunks::<8>().0 {
        number = mixed(number, u64::from_be_bytes(*word));
    }
    // Behind extension headers nothing is looked for: with them and without is the same flow.
    let next = head.get(6).copied().unwrap_or(0);
    let ports = if has_ports(next) { ports(Some(rest)) } else { 0 };
    Some(mixed(number, ports))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn v4(protocol: u8, fragment: u16, last: u8, port: u16) -> Vec<u8> {
        let mut frame = vec![2, 0, 0, 0, 0, 2, 2, 0, 0, 0, 0, 1, 8, 0];
        frame.extend([0x45, 0, 0, 40, 0, 0]);
        frame.extend(fragment.to_be_bytes());
        frame.extend([64, protocol, 0, 0, 192, 0, 2, 1, 198, 51, 100, last]);
        frame.extend([0x9c, 0x40]);
        frame.extend(port.to_be_bytes());
        frame.resize(60, 7);
        frame
    }

    fn tagged(frame: &[u8], tags: usize) -> Vec<u8> {
        let mut with = frame[..12].to_vec();
        (0..tags).for_each(|_| with.extend([0x81, 0, 0, 7]));
        with.extend(&frame[12..]);
        with
    }

    #[test]
    fn what_belongs_together_has_one_number() {
        for (protocol, with_ports) in [(6, true), (132, true), (17, false), (1, false), (47, false)] {
            let one = flow(&v4(protocol, 0, 9, 80));
            assert_eq!(one != flow(&v4(protocol, 0, 9, 81)), with_ports, "{protocol}");
            assert_ne!(one, flow(&v4(protocol, 0, 10, 80)));
            // Fragments go together, the first of them included.
            let first = flow(&v4(protocol, 0x2000, 9, 80));
            assert_eq!(first, flow(&v4(protocol, 0x2001, 9, 1234)));
            assert_eq!(first, flow(&v4(protocol, 7, 9, 4321)));
            assert_eq!(one == first, !with_ports);
        }
        let frame = v4(6, 0, 9, 80);
        let one = flow(&frame);
        // The same behind tags; and its bytes behind the ports do not matter.
        for tags in 1..3 {
            assert_eq!(one, flow(&tagged(&frame, tags)));
        }
        let mut other = frame;
        other[50] = 1;
        assert_eq!(one, flow(&other));
    }

    #[test]
    fn frames_without_ip_go_by_their_macs() {
        let mut frame = vec![2, 0, 0, 0, 0, 2, 2, 0, 0, 0, 0, 1, 8, 6];
        frame.resize(60, 0);
        let one = flow(&frame);
        frame[40] = 1;
        assert_eq!(one, flow(&frame));
        frame[11] = 9;
        assert_ne!(one, flow(&frame));
    }

    #[test]
    fn any_bytes_have_one() {
        let frame = tagged(&v4(6, 0, 9, 80), 2);
        (0..frame.len()).for_each(|length| {
            flow(&frame[..length]);
        });
        let mut six = vec![2; 12];
        six.extend([0x86, 0xdd, 0x60, 0, 0, 0, 0, 20, 6, 64]);
        six.resize(58, 1);
        let one = flow(&six);
        six[57] = 2;
        assert_ne!(one, flow(&six));
        (0..six.len()).for_each(|length| {
            flow(&six[..length]);
        });
    }

    #[test]
    fn flows_are_dealt_out_evenly() {
        for workers in [2u64, 3, 7] {
            let mut dealt = vec![0u32; workers as usize];
            for port in 0..9000 {
                let number = flow(&v4(6, 0, (port % 50) as u8, port));
                dealt[((u64::from(number) * workers) >> 32) as usize] += 1;
            }
            let fair = 9000 / workers as u32;
            assert!(dealt.iter().all(|n| n.abs_diff(fair) < fair / 5), "{dealt:?}");
        }
    }
}
