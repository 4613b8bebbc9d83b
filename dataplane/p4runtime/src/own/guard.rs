//! The source guard: MACs, then addresses, then what neighbour discovery says. What no row allows is denied by a row,
//! so that it is counted.

use std::net::IpAddr;

use ipnet::IpNet;
use portcullis_policy::{LINK_LOCAL, MacAddr, Protocol};

use super::Draft;
use super::contract::{
    ALLOWED, CHOSEN, Contract, DENIED, GUARD, GUARD_ADDRESS, GUARD_ND, MALFORMED, NOT_CHOSEN, Priority,
};
use crate::attachment_points::AttachmentPoint;
use crate::device::{Device, Inexpressible};
use crate::entry::Row;

// `KIND_…` in `p4/include/headers.p4`.
const OTHER: u128 = 0;
const ARP: u128 = 1;
const IPV4: u128 = 2;
const IPV6: u128 = 3;

/// Types of ICMPv6 neighbor discovery (RFC 4861).
const SOLICITATION: u128 = 135;
const ADVERTISEMENT: u128 = 136;

struct Guard<'a> {
    device: &'a Device,
    point: &'a AttachmentPoint,
    rows: &'a mut Vec<Row>,
}

/// The rows of one guarded point.
pub(super) fn rows(
    device: &Device,
    point: &AttachmentPoint,
    rows: &mut Vec<Row>,
) -> Result<(), Inexpressible> {
    let mut guard = Guard { device, point, rows };
    guard.macs()?;
    if !point.addresses.is_empty() {
        let macs: Vec<Option<MacAddr>> = if point.guard_macs.is_empty() {
            vec![None]
        } else {
            point.guard_macs.iter().copied().map(Some).collect()
        };
        for mac in macs {
            guard.addresses(mac)?;
        }
        guard.deny(&GUARD_ADDRESS)?;
        if point.addresses.iter().any(|p| p.0.addr().is_ipv6()) {
            guard.deny(&GUARD_ND)?;
        }
    }
    Ok(())
}

/// Network and mask of a prefix, as the address key has them.
fn bits(net: &IpNet) -> (u128, u128) {
    match net {
        // IPv4 addresses stand in the lower half of the key; what is above is zero.
        IpNet::V4(n) => (
            u128::from(u32::from(n.network())),
            u128::from(u32::from(n.netmask())),
        ),
        IpNet::V6(n) => (u128::from(n.network()), u128::from(n.netmask())),
    }
}

impl<'a> Guard<'a> {
    fn draft(&self, table: &Contract) -> Result<Draft<'a>, Inexpressible> {
        Ok(Draft::new(self.device, table)?.at(self.point.at))
    }

    fn of_mac(&self, table: &Contract, mac: Option<MacAddr>) -> Result<Draft<'a>, Inexpressible> {
        let draft = self.draft(table)?;
        Ok(match mac {
            Some(mac) => draft.whole("mac", u128::from(mac.to_u64())),
            None => draft,
        })
    }

    fn put(&mut self, draft: Draft<'_>, priority: Priority, action: &str) -> Result<(), Inexpressible> {
        self.rows
            .push(draft.row(priority.at(self.point.at), action, &[])?);
        Ok(())
    }

    fn deny(&mut self, table: &Contract) -> Result<(), Inexpressible> {
        let rest = self.draft(table)?;
        self.put(rest, DENIED, "deny")
    }

    fn macs(&mut self) -> Result<(), Inexpressible> {
        let malformed = self.draft(&GUARD)?.whole("arp_malformed", 1);
        self.put(malformed, MALFORMED, "deny")?;
        let then = if self.point.addresses.is_empty() {
            "allow"
        } else {
            "check_addresses"
        };
        if self.point.guard_macs.is_empty() {
            let any = self.draft(&GUARD)?;
            return self.put(any, ALLOWED, then);
        }
        for mac in self.point.guard_macs.clone() {
            let own = self.of_mac(&GUARD, Some(mac))?;
            self.put(own, ALLOWED, then)?;
        }
        self.deny(&GUARD)
    }

    /// What a sender of this MAC may have as its source.
    fn addresses(&mut self, mac: Option<MacAddr>) -> Result<(), Inexpressible> {
        let mut sources: Vec<IpNet> = self.point.addresses.iter().map(|p| p.0).collect();
        let has_v6 = sources.iter().any(|n| matches!(n, IpNet::V6(_)));
        if has_v6 {
            // What a host forms by itself from its MAC (RFC 4291), for neighbour discovery and DHCPv6.
            sources.extend(mac.map(|m| IpNet::from(IpAddr::V6(m.link_local()))));
        }
        let sources = IpNet::aggregate(&sources);
        for net in &sources {
            let (network, mask) = bits(net);
            let kinds: &[u128] = match net {
                IpNet::V4(_) => &[IPV4, ARP],
                IpNet::V6(_) => &[IPV6],
            };
            for kind in kinds {
                let own = self.of_mac(&GUARD_ADDRESS, mac)?.whole("kind", *kind);
                self.put(own.masked("address", network, mask), ALLOWED, "allow")?;
            }
        }
        // Not configured yet: DHCP (RFC 2131), and ICMPv6 from the unspecified address (RFC 4861, 4862).
        let dhcp = self
            .of_mac(&GUARD_ADDRESS, mac)?
            .whole("kind", IPV4)
            .whole("address", 0)
            .whole("protocol", Protocol::UDP.into())
            .whole("src_port", 68)
            .whole("dst_port", 67);
        self.put(dhcp, ALLOWED, "allow")?;
        if has_v6 {
            let unspecified = self
                .of_mac(&GUARD_ADDRESS, mac)?
                .whole("kind", IPV6)
                .whole("address", 0)
                .whole("protocol", Protocol::ICMPV6.into());
            self.put(unspecified, ALLOWED, "allow")?;
            self.neighbours(mac, &sources)?;
            self.chosen(mac)?;
        }
        // Neither IP nor anything that may hide it.
        let other = self.of_mac(&GUARD_ADDRESS, mac)?.whole("kind", OTHER);
        self.put(other, ALLOWED, "allow")
    }

    /// RFC 4861: advertisements speak of own addresses, and every link-layer address is an own one. RFC 4862: duplicate
    /// address detection is about an own address and carries none.
    fn neighbours(&mut self, mac: Option<MacAddr>, sources: &[IpNet]) -> Result<(), Inexpressible> {
        let own_macs: Vec<MacAddr> = self.point.guard_macs.clone();
        let targets: Vec<(u128, u128)> = sources
            .iter()
            .filter(|n| matches!(n, IpNet::V6(_)))
            .map(bits)
            .collect();
        for target in &targets {
            let probe = self
                .nd(mac, Some(SOLICITATION))?
                .whole("src_unspecified", 1)
                .masked("nd_target", target.0, target.1)
                .whole("nd_has_mac", 0);
            self.put(probe, ALLOWED, "allow")?;
            for says in said(&own_macs) {
                let speaks = self
                    .nd(mac, Some(ADVERTISEMENT))?
                    .whole("src_unspecified", 0)
                    .masked("nd_target", target.0, target.1);
                self.put(says.on(speaks), ALLOWED, "allow")?;
            }
        }
        // Router discovery, from the unspecified address too, and solicitations.
        for says in said(&own_macs) {
            for kind in [133, 134] {
                let router = self.nd(mac, Some(kind))?;
                self.put(says.on(router), ALLOWED, "allow")?;
            }
            let asks = self.nd(mac, Some(SOLICITATION))?.whole("src_unspecified", 0);
            self.put(says.on(asks), ALLOWED, "allow")?;
        }
        Ok(())
    }

    /// Link-local addresses that a host with this MAC chooses by itself (RFC 7217), as a source and as the target of what it
    /// says in neighbour discovery.
    fn chosen(&mut self, mac: Option<MacAddr>) -> Result<(), Inexpressible> {
        let Some((exceptions, _)) = self.point.link_local.clone().zip(mac) else {
            return Ok(());
        };
        let own_macs = self.point.guard_macs.clone();
        for foreign in exceptions.iter() {
            let source = self.of_mac(&GUARD_ADDRESS, mac)?.whole("kind", IPV6);
            self.put(
                source.masked("address", foreign.value, foreign.mask),
                NOT_CHOSEN,
                "deny",
            )?;
            let target = self
                .nd(mac, None)?
                .masked("nd_target", foreign.value, foreign.mask);
            self.put(target, NOT_CHOSEN, "deny")?;
        }
        let (value, mask) = (LINK_LOCAL.value, LINK_LOCAL.mask);
        let source = self.of_mac(&GUARD_ADDRESS, mac)?.whole("kind", IPV6);
        self.put(source.masked("address", value, mask), CHOSEN, "allow")?;
        let probe = self
            .nd(mac, Some(SOLICITATION))?
            .whole("src_unspecified", 1)
            .masked("nd_target", value, mask)
            .whole("nd_has_mac", 0);
        self.put(probe, CHOSEN, "allow")?;
        for says in said(&own_macs) {
            let speaks = self
                .nd(mac, Some(ADVERTISEMENT))?
                .whole("src_unspecified", 0)
                .masked("nd_target", value, mask);
            self.put(says.on(speaks), CHOSEN, "allow")?;
        }
        Ok(())
    }

    fn nd(&self, mac: Option<MacAddr>, kind: Option<u128>) -> Result<Draft<'a>, Inexpressible> {
        let draft = self.of_mac(&GUARD_ND, mac)?.whole("nd_hidden", 0);
        Ok(match kind {
            Some(kind) => draft.whole("nd_type", kind),
            None => draft,
        })
    }
}

/// What a message may say of link-layer addresses.
#[derive(Clone, Copy)]
enum Says {
    Nothing,
    Mac(MacAddr),
    Anything,
}

impl Says {
    fn on(self, draft: Draft<'_>) -> Draft<'_> {
        match self {
            Says::Nothing => draft.whole("nd_has_mac", 0),
            Says::Mac(mac) => draft
                .whole("nd_has_mac", 1)
                .whole("nd_mac", u128::from(mac.to_u64())),
            Says::Anything => draft,
        }
    }
}

fn said(own: &[MacAddr]) -> Vec<Says> {
    if own.is_empty() {
        return vec![Says::Anything];
    }
    let macs = own.iter().copied().map(Says::Mac);
    std::iter::once(Says::Nothing).chain(macs).collect()
}
