//! What becomes of frames of one port before any other is looked at: where it leads by VLAN, and the rows of those policies. A
//! part of them can be held elsewhere, such as in the port's NIC.

use std::collections::BTreeSet;

use portcullis_policy::Direction;

use super::Tables;
use super::publish::OpenRows;
use crate::row::{Lead, Row, RowId};

/// Rows that decide about what a sender of one class and overlay sends.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct EgressRows {
    /// Rows of `egress_policy` in falling precedence. What none of them matches is denied.
    pub policy: Vec<Row>,
    /// Rows of `egress_remote` in falling precedence. What none of them matches has id 0.
    pub remotes: Vec<Row>,
}

impl Tables {
    /// Where frames that come in at `port` lead, by their VLAN. `None` is every VLAN that is not listed; without it those are dropped.
    #[must_use]
    pub fn senders(&self, port: u16) -> Vec<(Option<u16>, Lead)> {
        let lead = |vlan: Option<u16>| {
            let own = vlan.and_then(|vlan| self.points.get(&(port, Some(vlan))));
            let any = self.points.get(&(port, None));
            let attach = own.into_iter().chain(any).flat_map(|rows| &rows.attach);
            super::ordered(&self.rows, attach).first()?.action.lead()
        };
        let points = self.points.range((port, None)..=(port, Some(u16::MAX)));
        points
            .filter_map(|((_, vlan), _)| Some((*vlan, lead(*vlan)?)))
            .collect()
    }

    /// The rows that judge what senders of a class and overlay send. Class 0 has none: nothing is denied to it.
    #[must_use]
    pub fn egress_rows(&self, lead: Lead) -> EgressRows {
        if lead.class == 0 {
            return EgressRows::default();
        }
        let of = &self.classes[Direction::Egress];
        let open = OpenRows::new(&self.rows, &of.open).met(lead);
        let own = of.policy.get(&lead.class).into_iter().flatten();
        let above = of.overlays.get(&lead.overlay).into_iter().flatten();
        let all = |ids: &mut dyn Iterator<Item = &RowId>| {
            let ids: BTreeSet<RowId> = ids.copied().collect();
            super::ordered(&self.rows, ids.iter())
                .into_iter()
                .cloned()
                .collect()
        };
        EgressRows {
            policy: all(&mut own.chain(above).chain(&open)),
            remotes: all(&mut of.remote.get(&lead.class).into_iter().flatten()),
        }
    }

    /// Those of `ports` about whose frames the next [`Tables::publish`] may decide otherwise, before it looks at any other port.
    #[must_use]
    pub fn changed_senders(&self, ports: &BTreeSet<u16>) -> BTreeSet<u16> {
        let direction = Direction::Egress;
        let dirty = &self.dirty;
        let is_stale = |lead: Lead| {
            dirty.open[direction]
                || dirty.classes[direction].contains(&lead.class)
                || (lead.overlay != 0 && dirty.overlays[direction].contains(&lead.overlay))
        };
        let is_moved = |port: u16| {
            dirty
                .points
                .range((port, None)..=(port, Some(u16::MAX)))
                .next()
                .is_some()
        };
        let changed =
            |port: &u16| is_moved(*port) || self.senders(*port).iter().any(|(_, lead)| is_stale(*lead));
        ports.iter().copied().filter(changed).collect()
    }
}
