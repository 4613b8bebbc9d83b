//! Frames that only routers, DHCP servers and bridges may send, and the check of the sender's role.

use crate::frame::{Fields, Kind};
use crate::header_subset::HeaderSubset;
use crate::row::{Decision, Row};
use crate::table::{Key, Table};

/// The role that a sender needs for a frame. The numbers are those in rows of `roles`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum Role {
    /// No role is needed.
    None = 0,
    /// For router advertisements, redirects, IGMP and MLD queries.
    Router = 1,
    /// For what DHCP and DHCPv6 servers send, and what clients receive.
    DhcpServer = 2,
    /// For what bridges tell their neighbours. No server has this role.
    Bridge = 3,
}

/// Values of the key `role`.
const VALUES: usize = 8;
/// The UDP port that DHCP servers send from, to relays as to clients.
const DHCP_SERVER: u16 = 67;
/// The UDP port of DHCP clients. Clients do not look at the port that an answer comes from.
const DHCP_CLIENT: u16 = 68;
/// The same of DHCPv6.
const DHCPV6_SERVER: u16 = 547;
const DHCPV6_CLIENT: u16 = 546;

/// Whether a MAC is of a group that no bridge forwards (IEEE 802.1Q, table 8-1; Cisco's likewise).
pub(crate) fn is_reserved(dst: u64) -> bool {
    dst & 0xffff_ffff_fff0 == 0x0180_c200_0000 || dst & 0xffff_ffff_fffe == 0x0100_0ccc_cccc
}

impl Fields {
    /// The role that its sender needs.
    pub fn role(&self) -> Role {
        if is_reserved(self.dst_mac) {
            return Role::Bridge;
        }
        match (self.kind, self.protocol) {
            // Redirects, and router advertisements (RFC 1256).
            (Kind::Ipv4, 1) if matches!(self.icmp_type, 5 | 9) => Role::Router,
            (Kind::Ipv4, 2) if self.igmp_type == 0x11 => Role::Router,
            (Kind::Ipv4, 17) if self.src_port == DHCP_SERVER || self.dst_port == DHCP_CLIENT => {
                Role::DhcpServer
            }
            // MLD queries, router advertisements, redirects.
            (Kind::Ipv6, 58) if matches!(self.icmp_type, 130 | 134 | 137) => Role::Router,
            (Kind::Ipv6, 17) if self.src_port == DHCPV6_SERVER || self.dst_port == DHCPV6_CLIENT => {
                Role::DhcpServer
            }
            // A chain of headers without an end, from fe80::/10, may hide an advertisement (RFC 7113).
            (Kind::Ipv6, 0) if self.unreadable && self.src_ipv6 >> 118 == 0x3fa => Role::Router,
            _ => Role::None,
        }
    }
}

impl HeaderSubset {
    /// Whether a frame with these ports needs no role, so that its short form is enough.
    #[inline(always)]
    pub(crate) fn needs_no_role(is_tcp: bool, src_port: u16, dst_port: u16) -> bool {
        is_tcp || (src_port != DHCP_SERVER && dst_port != DHCP_CLIENT)
    }
}

/// What the rows of `roles` decide at one point, by role.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Roles([Decision; VALUES]);

impl Roles {
    /// Compiles rows in falling precedence.
    pub(crate) fn compile(rows: &[&Row]) -> Roles {
        let mut decisions = [Decision::UNMATCHED; VALUES];
        for (value, decision) in (0u128..).zip(&mut decisions) {
            let meets = |row: &&&Row| {
                let (wanted, mask) = row.masked(Table::Roles, Key::Role, 3).unwrap_or((0, 0));
                value & mask == wanted
            };
            if let Some(row) = rows.iter().find(meets) {
                *decision = Decision {
                    verdict: row.action.verdict(),
                    slot: row.slot,
                };
            }
        }
        Roles(decisions)
    }

    /// Whether frames for which a sender needs a role may come from the point.
    pub(crate) fn check(&self, role: Role) -> Decision {
        self.0.get(role as usize).copied().unwrap_or(Decision::UNMATCHED)
    }
}
