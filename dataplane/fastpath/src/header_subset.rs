//! The little that is looked at of what most frames are: TCP or UDP over IPv4, perhaps behind one VLAN tag, in one piece and
//! well formed, and nothing that takes a role ([`crate::Role`]). All others are parsed whole.

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[allow(missing_docs, reason = "the names are those of the whole frame's fields")]
pub struct HeaderSubset {
    pub dst_mac: u64,
    pub src_mac: u64,
    pub vlan: u16,
    pub src_ipv4: u32,
    pub dst_ipv4: u32,
    pub src_port: u16,
    pub dst_port: u16,
    pub is_tcp: bool,
}

const TAGS: [[u8; 2]; 2] = [[0x81, 0x00], [0x88, 0xa8]];
const IPV4: [u8; 2] = [0x08, 0x00];
/// Bytes of headers without options; frames with options are parsed whole.
const IP: usize = 20;
const TCP: u16 = 20;
const UDP: u16 = 8;
/// What is looked at of every such frame: an Ethernet header, a tag, an IPv4 header and ports. Shorter ones are parsed whole.
const HEAD: usize = 18 + IP + 4;

impl HeaderSubset {
    /// A frame's, when it is such a one.
    #[inline(always)]
    pub fn from_frame(frame: &[u8]) -> Option<HeaderSubset> {
        let head = frame.first_chunk::<HEAD>()?;
        let (tag, rest) = (word::<12, _, _>(head), word::<16, _, _>(head));
        let (vlan, before) = if tag == IPV4 {
            (0, 14)
        } else if TAGS.contains(&tag) & (rest == IPV4) {
            (u16::from_be_bytes(word::<14, _, _>(head)) & 0xfff, 18)
        } else {
            return None;
        };
        let packet = head.get(before..)?.first_chunk::<{ IP + 4 }>()?;
        let total = u16::from_be_bytes(word::<2, _, _>(packet));
        let length = frame.len() - before;
        let is_whole = u16::from_be_bytes(word::<6, _, _>(packet)) & 0x1fff == 0;
        let fits = usize::from(total) <= length && frame.len() <= usize::from(u16::MAX);
        if (packet[0] != 0x45) | !is_whole | !fits {
            return None;
        }
        let is_tcp = match packet[9] {
            17 if total >= IP as u16 + UDP => false,
            6 if total >= IP as u16 + TCP => {
                // RFC 9293: the data offset is at least 5, and the header is as long as it says.
                let words = u16::from(*frame.get(before + IP + 12)? >> 4);
                if words < 5 || words * 4 > total - IP as u16 {
                    return None;
                }
                true
            }
            _ => return None,
        };
        let src_port = u16::from_be_bytes(word::<20, _, _>(packet));
        let dst_port = u16::from_be_bytes(word::<22, _, _>(packet));
        if !HeaderSubset::needs_no_role(is_tcp, src_port, dst_port) {
            return None;
        }
        Some(HeaderSubset {
            dst_mac: u64::from_be_bytes(word::<0, _, _>(head)) >> 16,
            src_mac: u64::from_be_bytes(word::<6, _, _>(head)) >> 16,
            vlan,
            src_ipv4: u32::from_be_bytes(word::<12, _, _>(packet)),
            dst_ipv4: u32::from_be_bytes(word::<16, _, _>(packet)),
            src_port,
            dst_port,
            is_tcp,
        })
    }

    /// The number of its shape: IPv4, readable, TCP or UDP.
    #[inline(always)]
    pub fn shape(&self) -> usize {
        usize::from(!self.is_tcp)
    }
}

/// The bytes at a place, which is inside: that is checked when this is compiled.
#[inline(always)]
fn word<const AT: usize, const N: usize, const FROM: usize>(from: &[u8; FROM]) -> [u8; N] {
    const { assert!(AT + N <= FROM) };
    let mut bytes = [0; N];
    bytes.copy_from_slice(&from[AT..AT + N]);
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::frame::Fields;

    /// UDP and TCP, without and with a tag.
    fn frames() -> Vec<Vec<u8>> {
        let mut frames = Vec::new();
        for tag in [&[][..], &[0x81, 0, 0x20, 7], &[0x88, 0xa8, 0xff, 0xff]] {
            for (protocol, length) in [(17, 42), (6, 44)] {
                let mut frame = vec![2, 0, 0, 0, 0, 2, 2, 0, 0, 0, 0, 1];
                frame.extend(tag);
                frame.extend([8, 0, 0x45, 0, 0, length, 0, 0, 0, 0, 64, protocol, 0, 0]);
                frame.extend([
                    192, 0, 2, 1, 198, 51, 100, 2, 0x30, 0x39, 0, 53, 0, 0, 0, 0, 0, 0, 0, 0,
                ]);
                frame.extend([0x50, 2, 0, 0]);
                frame.resize(64, 0);
                frames.push(frame);
            }
        }
        frames
    }

    /// Whether a frame has the short form; then it says what the whole one says.
    fn agrees(frame: &[u8]) -> bool {
        let Some(headers) = HeaderSubset::from_frame(frame) else {
            return false;
        };
        let whole = Fields::parse(frame).unwrap();
        let protocol = if headers.is_tcp { 6 } else { 17 };
        assert_eq!(
            (whole.ether_type, whole.protocol, whole.unreadable, whole.later),
            (0x0800, protocol, false, false),
            "{frame:02x?}"
        );
        let same = HeaderSubset {
            dst_mac: whole.dst_mac,
            src_mac: whole.src_mac,
            vlan: whole.vlan,
            src_ipv4: whole.src_ipv4,
            dst_ipv4: whole.dst_ipv4,
            src_port: whole.src_port,
            dst_port: whole.dst_port,
            is_tcp: headers.is_tcp,
        };
        assert_eq!(headers, same, "{frame:02x?}");
        true
    }

    #[test]
    fn what_is_looked_at_is_what_the_whole_frame_says() {
        for frame in frames() {
            assert!(agrees(&frame), "{frame:02x?}");
            // Every byte of the headers with every value, and every length.
            for at in 12..52 {
                for value in 0..=255 {
                    let mut changed = frame.clone();
                    changed[at] = value;
                    agrees(&changed);
                }
            }
            for length in 0..frame.len() {
                agrees(&frame[..length]);
            }
            for length in [65_534, 65_535, 65_536, 70_000] {
                let mut long = frame.clone();
                long.resize(length, 0);
                agrees(&long);
            }
        }
    }
}
