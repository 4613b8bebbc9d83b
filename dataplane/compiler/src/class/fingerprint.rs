//! The fingerprint of a policy.

use std::fmt;

use ipnet::IpNet;
use portcullis_policy::{Direction, FlagMatch, Matcher, Policy, Protocol, Ranges, Verdict, canonical};
use sha2::{Digest, Sha256};

/// Begins the encoding. Another encoding, or another canonical form, has another one.
const VERSION: &[u8] = b"v2";

/// SHA-256 of a policy in canonical form. Names and reasons do not count: they change nothing that a packet could tell.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Fingerprint(pub [u8; 32]);

impl Fingerprint {
    /// The fingerprint of a policy, whatever form it has.
    pub fn from_policy(policy: &Policy) -> Self {
        Self::of_canonical(&canonical(policy))
    }

    /// The fingerprint of a policy over its base: neither's own.
    pub fn over(self, base: Self) -> Self {
        let mut hash = Sha256::new_with_prefix(VERSION);
        hash.update(b"over");
        hash.update(self.0);
        hash.update(base.0);
        Fingerprint(hash.finalize().into())
    }

    /// The fingerprint of a policy in canonical form.
    pub(super) fn of_canonical(policy: &Policy) -> Self {
        // Most entries take about 25 bytes.
        let mut bytes = Vec::with_capacity(16 + 32 * policy.entries.len());
        bytes.extend_from_slice(VERSION);
        bytes.push(u8::from(policy.direction == Direction::Ingress));
        bytes.push(action(policy.default));
        bytes.push(u8::from(policy.five_tuple));
        count(&mut bytes, policy.entries.len());
        for entry in &policy.entries {
            bytes.push(action(entry.action));
            matcher(&mut bytes, &entry.matcher);
        }
        Fingerprint(Sha256::digest(&bytes).into())
    }
}

impl fmt::Debug for Fingerprint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|b| write!(f, "{b:02x}"))
    }
}

fn action(action: Verdict) -> u8 {
    match action {
        Verdict::Allow => 0,
        Verdict::Deny => 1,
    }
}

/// Lists say their length first, so that no two policies have the same bytes.
fn count(bytes: &mut Vec<u8>, n: usize) {
    bytes.extend_from_slice(&(n as u64).to_be_bytes());
}

fn matcher(bytes: &mut Vec<u8>, m: &Matcher) {
    bytes.push(
        u8::from(m.families.v4)
            | u8::from(m.families.v6) << 1
            | u8::from(m.flags == FlagMatch::Any) << 2
            | u8::from(!m.fragments) << 3,
    );
    match m.protocol {
        Protocol::Any => bytes.push(0),
        Protocol::Number(n) => bytes.extend_from_slice(&[1, n]),
    }
    match m.icmp.map(|i| (i.kind, i.code)) {
        None => bytes.push(0),
        Some((kind, None)) => bytes.extend_from_slice(&[1, kind]),
        Some((kind, Some(code))) => bytes.extend_from_slice(&[2, kind, code]),
    }
    ranges(bytes, &m.dst_ports);
    ranges(bytes, &m.src_ports);
    prefixes(bytes, &m.remote);
    prefixes(bytes, &m.local);
}

fn ranges(bytes: &mut Vec<u8>, ranges: &Ranges) {
    if ranges.is_all() {
        bytes.push(0);
        return;
    }
    bytes.push(1);
    count(bytes, ranges.iter().count());
    for (low, high) in ranges.iter() {
        bytes.extend_from_slice(&low.to_be_bytes());
        bytes.extend_from_slice(&high.to_be_bytes());
    }
}

fn prefixes(bytes: &mut Vec<u8>, prefixes: &[IpNet]) {
    if prefixes.is_empty() {
        bytes.push(0);
        return;
    }
    bytes.push(1);
    count(bytes, prefixes.len());
    for prefix in prefixes {
        match prefix {
            IpNet::V4(p) => {
                bytes.extend_from_slice(&[4, p.prefix_len()]);
                bytes.extend_from_slice(&p.addr().octets());
            }
            IpNet::V6(p) => {
                bytes.extend_from_slice(&[6, p.prefix_len()]);
                bytes.extend_from_slice(&p.addr().octets());
            }
        }
    }
}
