//! Where rows hold in tables without a class: at whole ports, or for the addresses of an endpoint at one.
//!
//! Several endpoints may be behind one port of a switch. Where a target nearer to them guards their sources, an address tells whose a
//! packet is, and the rows of a class stand once for each address of each of its endpoints. A row so narrowed matches those packets
//! of the class's row that have the address, and no others: among them the same rows decide in the same order.

use std::collections::BTreeSet;
use std::net::{Ipv4Addr, Ipv6Addr};

use ipnet::IpNet;
use portcullis_policy::{Attachment, Direction, Family, IdentifiedBy};

use super::{Compilation, Compiled};
use crate::class::{EndpointIntent, Intent};
use crate::class_rows::{FrameMatch, PolicyRow, RowKey, Unsupported};
use crate::lower::broken;
use crate::model::{Field, MatchKind, Role, TableModel};

/// Whose packets rows are about, where a table has no class.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Site {
    /// Name of the port: an attachment, or a port without an endpoint.
    pub port: String,
    /// The endpoint's address, where others are behind the same port; every packet of the port when absent.
    pub address: Option<IpNet>,
}

impl Site {
    /// Every packet of a port.
    pub fn whole(port: impl ToString) -> Self {
        Site {
            port: port.to_string(),
            address: None,
        }
    }

    /// The sites of an endpoint at an attachment.
    pub fn at<'e>(
        attachment: &Attachment,
        endpoint: &'e EndpointIntent,
    ) -> impl Iterator<Item = Site> + use<'e> {
        let by_address = attachment.by == IdentifiedBy::Address;
        let addresses = endpoint.addresses.iter().filter(move |_| by_address);
        let port = attachment.to_string();
        let whole = (!by_address).then(|| Site::whole(&port));
        let each = addresses.map(move |prefix| Site {
            port: port.clone(),
            address: Some(prefix.0),
        });
        whole.into_iter().chain(each)
    }

    /// Why rows of a table cannot be about this site alone, if they cannot.
    pub fn cannot_be_named(&self, table: &TableModel) -> Option<String> {
        cannot_name(table, self.address?)
    }

    /// A row as it stands here: nothing where no packet from here matches it.
    pub fn narrow(&self, row: &PolicyRow) -> Option<PolicyRow> {
        let Some(address) = self.address else {
            return Some(*row);
        };
        let frame = narrow_frame(row.key.frame, Family::from_address(address.addr()))?;
        let local = match row.key.local {
            None => address,
            Some(local) if local.contains(&address) => address,
            Some(local) if address.contains(&local) => local,
            Some(_) => return None,
        };
        Some(PolicyRow {
            key: RowKey {
                frame,
                local: Some(local),
                ..row.key
            },
            ..*row
        })
    }
}

/// The frames of one IP version that a row is about.
fn narrow_frame(frame: FrameMatch, family: Family) -> Option<FrameMatch> {
    match frame {
        FrameMatch::Any | FrameMatch::AnyIp => Some(FrameMatch::Ip(family)),
        FrameMatch::Ip(own) => (own == family).then_some(frame),
        FrameMatch::Arp | FrameMatch::EtherType(_) | FrameMatch::Unreadable => None,
    }
}

/// The sites of an endpoint without those whose address lies in that of another at the port: rows would stand there twice.
fn outermost(mut sites: Vec<Site>) -> Vec<Site> {
    // At a port a prefix sorts before all that lie in it.
    sites.sort_unstable();
    let mut kept: Vec<Site> = Vec::with_capacity(sites.len());
    for site in sites {
        let lies_in = |outer: &Site| {
            let both = outer.address.zip(site.address);
            outer.port == site.port && both.is_some_and(|(outer, inner)| outer.contains(&inner))
        };
        if !kept.last().is_some_and(lies_in) {
            kept.push(site);
        }
    }
    kept
}

/// What all rows of a class cost at its sites.
pub(super) fn sum_at(sites: &BTreeSet<Site>, rows: &[PolicyRow], cost: impl Fn(&PolicyRow) -> u64) -> u64 {
    let whole = sites.iter().filter(|site| site.address.is_none()).count() as u64;
    // Asked of every class several times per change.
    let once = || rows.iter().map(&cost).sum::<u64>();
    let mut sum = if whole == 0 { 0 } else { once() * whole };
    if whole == sites.len() as u64 {
        return sum;
    }
    for family in [Family::V4, Family::V6] {
        let of_family = |site: &&Site| {
            site.address
                .is_some_and(|a| Family::from_address(a.addr()) == family)
        };
        let count = sites.iter().filter(of_family).count() as u64;
        if count == 0 {
            continue;
        }
        for row in rows
            .iter()
            .filter(|row| narrow_frame(row.key.frame, family).is_some())
        {
            let times = match row.key.local {
                None => count,
                Some(_) => {
                    let here = sites.iter().filter(of_family);
                    here.filter(|site| site.narrow(row).is_some()).count() as u64
                }
            };
            sum += cost(row) * times;
        }
    }
    sum
}

/// The first address of fe80::/10 (RFC 4291).
const FIRST_LINK_LOCAL: Ipv6Addr = Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 0, 0);

/// The first octet of IPv4 multicast addresses (RFC 5771); above them there is broadcast.
const FIRST_GROUP: u8 = 224;

/// Why others behind the port may send or receive with an address of this prefix, too, whatever guards their sources: link-local
/// addresses of their MACs need no declaration, nor does the unspecified address, which hosts send with before they have one, and
/// groups are everyone's.
fn is_of_others(address: IpNet) -> Option<String> {
    let link_local = match address {
        IpNet::V4(_) => false,
        IpNet::V6(net) => net.network().is_unicast_link_local() || net.contains(&FIRST_LINK_LOCAL),
    };
    let groups = match address {
        IpNet::V4(net) => net.broadcast().octets()[0] >= FIRST_GROUP,
        IpNet::V6(net) => net.broadcast().is_multicast(),
    };
    let unspecified = match address {
        IpNet::V4(net) => net.contains(&Ipv4Addr::UNSPECIFIED),
        IpNet::V6(net) => net.contains(&Ipv6Addr::UNSPECIFIED),
    };
    let what = match (link_local, unspecified, groups) {
        (true, ..) => "link-local addresses",
        (_, true, _) => "the unspecified address",
        (.., true) => "multicast and broadcast addresses",
        (false, false, false) => return None,
    };
    Some(format!("others have {what}, which {address} holds, too"))
}

/// Why rows of a table cannot name an address as the endpoint's own.
fn cannot_name(table: &TableModel, address: IpNet) -> Option<String> {
    if let Some(why) = is_of_others(address) {
        return Some(why);
    }
    let (field, what) = match address {
        IpNet::V4(_) => (Field::LocalIpv4, "IPv4"),
        IpNet::V6(_) => (Field::LocalIpv6, "IPv6"),
    };
    let masked = |kind| matches!(kind, MatchKind::Ternary | MatchKind::Lpm);
    match table.key(field).filter(|key| masked(key.kind)) {
        None => Some(format!(
            "the table cannot match {what} addresses of endpoints (no usable key `{field}`)"
        )),
        Some(key) if u16::from(address.prefix_len()) > key.width => Some(format!(
            "the key `{field}` has {} bits, and {address} names more",
            key.width
        )),
        Some(_) => None,
    }
}

impl Compilation {
    /// Finds the sites of each class, where tables have no class.
    pub(super) fn place(&mut self, intent: &Intent, unmanaged: &BTreeSet<String>) {
        for direction in Direction::BOTH {
            if !self.by_port(direction) {
                continue;
            }
            if let Some(compiled) = self.classes.get_mut(&intent.unmanaged[direction]) {
                compiled.sites.extend(unmanaged.iter().map(Site::whole));
            }
            let mut refused = Vec::new();
            for endpoint in intent.endpoints.values() {
                let Some(compiled) = self.classes.get(&endpoint.classes[direction]) else {
                    continue;
                };
                let (mut sites, mut reasons) = (Vec::new(), BTreeSet::new());
                for site in endpoint.attachments.iter().flat_map(|a| Site::at(a, endpoint)) {
                    match self.cannot_stand(direction, &site, compiled) {
                        None => sites.push(site),
                        Some(why) => {
                            reasons.insert(why);
                        }
                    }
                }
                refused.extend(reasons.into_iter().map(|why| (endpoint, why)));
                let sites = outermost(sites);
                if let Some(compiled) = self.classes.get_mut(&endpoint.classes[direction]) {
                    compiled.sites.extend(sites);
                }
            }
            let table = self
                .model
                .table(Role::Policy, direction)
                .map(|table| table.name.clone());
            let target = &self.model.name;
            self.unplaced.extend(refused.into_iter().map(|(endpoint, why)| Unsupported {
                target: target.clone(),
                rule: format!("the {direction} policy of {}", endpoint.name),
                table: table.clone().unwrap_or_default(),
                why: format!("it is attached by address, and {why}; give it a port of its own, or leave it to a nearer target"),
            }));
        }
    }

    /// Why the rows of a class cannot stand at a site.
    fn cannot_stand(&self, direction: Direction, site: &Site, compiled: &Compiled) -> Option<String> {
        let address = site.address?;
        let table = self.model.table(Role::Policy, direction)?;
        if self.model.partial.is_none() {
            let why = "the table holds policies whole, with rows for frames that have no address";
            return Some(why.to_string());
        }
        if let Some(why) = cannot_name(table, address) {
            return Some(why);
        }
        if table.restrictions.is_empty() {
            return None;
        }
        let rows: Vec<PolicyRow> = compiled
            .program
            .policy
            .iter()
            .filter_map(|row| site.narrow(row))
            .collect();
        let (_, restriction) = broken(table, &rows, true)?;
        Some(format!(
            "the P4 program restricts the rows of the table: one with {address} would break `{}`",
            restriction.text
        ))
    }
}
