//! Sets of packets, and what the rows of a policy leave of one that are all denied.

use std::collections::BTreeSet;

use portcullis_fastpath::EgressRows;

use crate::condition::{Condition, Meeting, Ports, Remotes, Unreadable};
use crate::rule::{Address, Family, PortMatch, Rule};

/// A set of IP packets, by the fields that the switch reads.
#[allow(missing_docs, reason = "the names are those of the headers' fields")]
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Headers {
    pub family: Family,
    /// As in the last header of IP; absent: any.
    pub protocol: Option<u8>,
    pub src: Address,
    pub dst: Address,
    pub src_ports: Ports,
    pub dst_ports: Ports,
    /// Fragments behind the first one alone, none of them, or both.
    pub later: Option<bool>,
    /// Packets that the switch cannot read, or those that it can.
    pub unreadable: bool,
}

impl Headers {
    /// Every readable packet of a family.
    #[must_use]
    pub fn all(family: Family) -> Self {
        Headers {
            family,
            protocol: None,
            src: Address::default(),
            dst: Address::default(),
            src_ports: Ports::all(),
            dst_ports: Ports::all(),
            later: None,
            unreadable: false,
        }
    }

    /// The packets that a rule matches, as the switch reads them where the NIC reads the same.
    #[must_use]
    pub fn from_rule(rule: &Rule) -> Self {
        let ports = |port: PortMatch| match port {
            PortMatch::Any => Ports::all(),
            PortMatch::Exact(port) => Ports::interval(port, port),
            PortMatch::Masked { value, mask } => Ports::interval(value, value | !mask),
            PortMatch::Range { low, high } => Ports::interval(low, high.max(low)),
        };
        Headers {
            family: rule.family,
            protocol: rule.protocol,
            src: rule.src,
            dst: rule.dst,
            src_ports: ports(rule.src_port),
            dst_ports: ports(rule.dst_port),
            later: rule.has_ports().then_some(false),
            unreadable: false,
        }
    }
}

/// EtherTypes of frames that may carry IP where the switch does not read it: broken IP, tags in excess, MPLS and PPPoE.
const UNREADABLE: [u16; 8] = [0x0800, 0x86dd, 0x8100, 0x88a8, 0x9100, 0x8847, 0x8848, 0x8864];

/// The egress policy of one class and overlay, ready to be asked.
#[derive(Debug, Clone)]
pub struct Judge {
    conditions: Vec<Condition>,
    remotes: Remotes,
}

/// Packets that are all denied, and the counters of the rows that deny them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Denied {
    /// What is left of the packets that were asked about.
    pub headers: Headers,
    /// Counters of the rows; [`portcullis_fastpath::NO_SLOT`] where no row matches.
    pub slots: BTreeSet<u32>,
}

impl Judge {
    /// A policy, by its rows.
    pub fn new(rows: &EgressRows) -> Self {
        Judge {
            conditions: rows.policy.iter().map(Condition::new).collect(),
            remotes: Remotes::new(rows),
        }
    }

    /// Its rows in falling precedence.
    pub fn conditions(&self) -> &[Condition] {
        &self.conditions
    }

    /// Its destinations by remote id.
    pub fn remotes(&self) -> &Remotes {
        &self.remotes
    }

    /// What is left of a set of packets when ports that are allowed are taken out, and that is denied whole. With `own`, also without
    /// the ports that other rows above the one with that counter deny. `Err` is the counter of the row that lets the rest pass.
    pub fn carve(&self, headers: &Headers, own: Option<u32>) -> Result<Denied, u32> {
        let mut left = headers.clone();
        let mut slots = BTreeSet::new();
        for row in &self.conditions {
            let meeting = row.meets(&left, &self.remotes);
            let meets_ports =
                |ports: &Option<Ports>, of: &Ports| ports.as_ref().is_none_or(|p| p.overlaps(of));
            if meeting == Meeting::Apart
                || !meets_ports(&row.src_ports, &left.src_ports)
                || !meets_ports(&row.dst_ports, &left.dst_ports)
            {
                continue;
            }
            let covers = |ports: &Option<Ports>, of: &Ports| ports.as_ref().is_some_and(|p| p.covers(of));
            let is_whole = meeting == Meeting::Whole
                && covers(&row.src_ports, &left.src_ports)
                && covers(&row.dst_ports, &left.dst_ports);
            let denies = row.verdict.denies();
            if denies && is_whole {
                slots.insert(row.slot);
                return Ok(Denied { headers: left, slots });
            }
            if !denies || own.is_some_and(|own| own != row.slot) {
                match without_ports(&left, row) {
                    Some(rest) => left = rest,
                    None if denies => drop(slots.insert(row.slot)),
                    None => return Err(row.slot),
                }
            } else {
                slots.insert(row.slot);
            }
        }
        // What no row matches is denied.
        slots.insert(portcullis_fastpath::NO_SLOT);
        Ok(Denied { headers: left, slots })
    }

    /// Whether it denies every frame that the switch cannot read, whatever a NIC makes of it.
    pub fn denies_what_is_unreadable(&self) -> bool {
        UNREADABLE.iter().all(|ether_type| {
            let met = self
                .conditions
                .iter()
                .filter_map(|row| row.meets_unreadable(*ether_type));
            // What no row matches is denied.
            met.into_iter().find(|met| *met != Unreadable::DeniedInPart) != Some(Unreadable::Allowed)
        })
    }

    /// Whether every packet of a set is denied, and by the rows with which counters.
    pub fn denies(&self, headers: &Headers) -> Option<BTreeSet<u32>> {
        let denied = self.carve(headers, None).ok()?;
        (denied.headers == *headers).then_some(denied.slots)
    }
}

/// A set without the ports that a row asks for. `None` where the row asks for no port, or for all that there are.
fn without_ports(headers: &Headers, row: &Condition) -> Option<Headers> {
    // Without a protocol that has ports, they are all 0.
    if !matches!(headers.protocol, Some(6 | 17 | 132)) || headers.later != Some(false) {
        return None;
    }
    if let Some(dst_ports) = rest(&row.dst_ports, &headers.dst_ports) {
        return Some(Headers {
            dst_ports,
            ..headers.clone()
        });
    }
    rest(&row.src_ports, &headers.src_ports).map(|src_ports| Headers {
        src_ports,
        ..headers.clone()
    })
}

/// Ports of a set that a row does not ask for, if it asks for some.
fn rest(asked: &Option<Ports>, of: &Ports) -> Option<Ports> {
    of.difference(asked.as_ref().filter(|ports| !ports.is_all())?)
}
