//! Link-local IPv6 addresses that a guarded endpoint may use without declaring them.
//!
//! A host forms its link-local address from its MAC (EUI-64, RFC 4291), or chooses a stable one that shows nothing of it
//! (RFC 7217). The guard lets it use the first because it can be computed, and the second because it cannot be known in
//! advance, with its own MAC and except for addresses of others: see [`exceptions`].

use std::net::Ipv6Addr;

use std::sync::Arc;

use ipnet::IpNet;

use crate::document::Document;
use crate::endpoint::{Endpoint, Reserved};

/// Most exceptions of which a guard takes notice: every one costs rows at every guarded endpoint. Where there are more, no
/// endpoint may choose an address by itself.
pub const MOST_EXCEPTIONS: usize = 64;

/// Addresses that are `value` where `mask` has ones.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct MaskedV6 {
    /// The bits; zero where the mask is.
    pub value: u128,
    /// Ones where bits count.
    pub mask: u128,
}

impl MaskedV6 {
    /// The addresses of a prefix; none for IPv4.
    pub fn from_prefix(prefix: &IpNet) -> Option<Self> {
        match prefix {
            IpNet::V4(_) => None,
            IpNet::V6(p) => Some(MaskedV6 {
                value: p.network().to_bits(),
                mask: p.netmask().to_bits(),
            }),
        }
    }

    /// Whether an address is one of them.
    pub fn contains(self, address: Ipv6Addr) -> bool {
        address.to_bits() & self.mask == self.value
    }

    fn meets(self, other: Self) -> bool {
        let both = self.mask & other.mask;
        self.value & both == other.value & both
    }
}

/// fe80::/64: the link-local addresses that hosts form (RFC 4291, section 2.5.6).
pub const LINK_LOCAL: MaskedV6 = MaskedV6 {
    value: 0xfe80 << 112,
    mask: !0 << 64,
};

/// fe80::/112: addresses written by hand, usually a router's.
const BY_HAND: MaskedV6 = MaskedV6 {
    value: 0xfe80 << 112,
    mask: !0 << 16,
};

/// Addresses that are formed from a MAC: ff:fe stands in the middle.
const FROM_A_MAC: MaskedV6 = MaskedV6 {
    value: 0xfe80 << 112 | 0xff_fe00_0000,
    mask: !0 << 64 | 0xff_ff00_0000,
};

/// What of [`LINK_LOCAL`] is not for the taking: addresses written by hand, those that are formed from a MAC (that of
/// another host, known or not: one in 65,536 of the chosen addresses looks like that, and then has to be declared), and
/// these, which are reserved or declared.
fn exceptions<'a>(taken: impl IntoIterator<Item = &'a IpNet>) -> Vec<MaskedV6> {
    let taken = taken.into_iter().filter_map(MaskedV6::from_prefix);
    let mut all: Vec<MaskedV6> = taken.filter(|t| t.meets(LINK_LOCAL)).collect();
    all.extend([BY_HAND, FROM_A_MAC]);
    all.sort_unstable();
    all.dedup();
    all
}

impl Document {
    /// Link-local addresses that no endpoint may choose by itself; nothing where there are more than
    /// [`MOST_EXCEPTIONS`], and no endpoint may choose any.
    pub fn link_local_exceptions(&self) -> Option<Arc<[MaskedV6]>> {
        let declared = self.endpoints.values().flat_map(|e| &e.addresses);
        let taken = self.reserved.addresses.iter().chain(declared);
        let all = exceptions(taken.map(|prefix| &prefix.0));
        (all.len() <= MOST_EXCEPTIONS).then(|| all.into())
    }
}

/// Whether what is reserved, or what an endpoint declares, is among those exceptions.
pub fn takes_link_local(reserved: &Reserved, endpoint: Option<&Endpoint>) -> bool {
    let declared = endpoint.into_iter().flat_map(|e| &e.addresses);
    let mut all = reserved.addresses.iter().chain(declared);
    all.any(|prefix| MaskedV6::from_prefix(&prefix.0).is_some_and(|some| some.meets(LINK_LOCAL)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::types::MacAddr;

    #[test]
    fn what_others_have_is_not_for_the_taking() {
        let reserved: Vec<IpNet> = ["fe80::aaaa:0:0:1/128", "2001:db8::/32", "192.0.2.1/32"]
            .map(|p| p.parse().unwrap())
            .to_vec();
        let exceptions = exceptions(&reserved);
        assert_eq!(exceptions.len(), 3);
        let free = |address: Ipv6Addr| {
            LINK_LOCAL.contains(address) && !exceptions.iter().any(|e| e.contains(address))
        };
        for (text, is_free) in [
            ("fe80::1234:5678:9abc:def0", true),
            ("fe80::1:0", true),
            ("fe80::ffff", false),
            ("fe80::1", false),
            ("fe80::aaaa:0:0:1", false),
            ("fe80:0:0:1:1234:5678:9abc:def0", false),
            ("2001:db8::1", false),
        ] {
            assert_eq!(free(text.parse().unwrap()), is_free, "{text}");
        }
        let mac: MacAddr = "02:11:22:33:44:55".parse().unwrap();
        assert!(!free(mac.link_local()));
    }

    #[test]
    fn too_many_exceptions_leave_nothing_to_choose() {
        let document = |count: usize| {
            let endpoints =
                (1..=count).map(|n| format!("e{n}: {{addresses: ['fe80::a:0:0:{n:x}', '2001:db8::{n:x}']}}"));
            let endpoints: Vec<String> = endpoints.collect();
            let text = format!("version: portcullis/v1\nendpoints: {{{}}}", endpoints.join(", "));
            Document::from_yaml(&text).unwrap()
        };
        assert_eq!(document(0).link_local_exceptions().unwrap().len(), 2);
        let most = document(MOST_EXCEPTIONS - 2).link_local_exceptions();
        assert_eq!(most.unwrap().len(), MOST_EXCEPTIONS);
        assert_eq!(document(MOST_EXCEPTIONS - 1).link_local_exceptions(), None);
    }
}
