//! Builds the next snapshot from changed rows. Unchanged parts are shared with the previous one.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;

use portcullis_policy::Direction;

use super::{Dirty, POLICIES, Snapshot, Tables, compiled, point};
use crate::classes::{self, Class};
use crate::mac_table::SEVERAL;
use crate::remote::Remotes;
use crate::row::{Action, Lead, Row, RowId};
use crate::table::{Key, Table};

impl Tables {
    /// Compiles what changed since the last time. Without a change the last snapshot stands.
    pub fn publish(&mut self) -> Arc<Snapshot> {
        let dirty = std::mem::take(&mut self.dirty);
        if dirty.is_clean() {
            return self.current();
        }
        let mut next = Snapshot::clone(&self.current);
        next.generation += 1;
        self.plugs_into(&mut next, &dirty);
        for mac in &dirty.macs {
            let action = self
                .macs
                .get(mac)
                .and_then(|id| self.get(*id))
                .map(|row| row.action);
            let (port, group) = match action {
                Some(Action::Forward(port)) => (Some(port), None),
                Some(Action::ForwardToGroup(group)) => (Some(SEVERAL), Some(group)),
                _ => (None, None),
            };
            next.mac_table.set(*mac, port);
            if let Some(group) = group {
                Arc::make_mut(&mut next.several).insert(*mac, group);
            } else if next.several.contains_key(mac) {
                Arc::make_mut(&mut next.several).remove(mac);
            }
        }
        for direction in Direction::BOTH {
            self.classes_into(&mut next, direction, &dirty);
        }
        if dirty.groups {
            next.groups = self.groups.clone();
        }
        self.current = Arc::new(next);
        self.current()
    }

    fn plugs_into(&mut self, next: &mut Snapshot, dirty: &Dirty) {
        let mut renewed: BTreeSet<u16> = BTreeSet::new();
        for (port, vlan) in &dirty.points {
            if self
                .points
                .get(&(*port, *vlan))
                .is_some_and(super::AttachmentRows::is_empty)
            {
                self.points.remove(&(*port, *vlan));
            }
            let Some(place) = next.ports.get_mut(usize::from(*port)) else {
                continue;
            };
            match vlan {
                // What stands for any VLAN comes first in order, and renews them all.
                None => {
                    renewed.insert(*port);
                    let table = Arc::make_mut(place);
                    table.set_any(point(
                        &self.rows,
                        &self.points,
                        (*port, None),
                        &self.pairs,
                        &mut self.shapes,
                    ));
                    for ((_, vlan), _) in self.points.range((*port, Some(0))..=(*port, Some(u16::MAX))) {
                        let vid = vlan.unwrap_or(0);
                        table.set(
                            vid,
                            point(
                                &self.rows,
                                &self.points,
                                (*port, *vlan),
                                &self.pairs,
                                &mut self.shapes,
                            ),
                        );
                    }
                }
                Some(vid) => {
                    let made = point(
                        &self.rows,
                        &self.points,
                        (*port, *vlan),
                        &self.pairs,
                        &mut self.shapes,
                    );
                    if renewed.contains(port) && !self.points.contains_key(&(*port, *vlan)) {
                        continue;
                    }
                    Arc::make_mut(place).set(*vid, made);
                }
            }
        }
    }

    fn classes_into(&mut self, next: &mut Snapshot, direction: Direction, dirty: &Dirty) {
        if dirty.classes_are_clean(direction) {
            return;
        }
        let (into, table) = (&mut next.classes[direction], POLICIES[direction]);
        let of = &mut self.classes[direction];
        for class in &dirty.classes[direction] {
            for map in [&mut of.policy, &mut of.remote] {
                drop_empty(map, *class);
            }
        }
        for overlay in &dirty.overlays[direction] {
            drop_empty(&mut of.overlays, *overlay);
        }
        let (rows, maps) = (&self.rows, &mut self.maps);
        let open = OpenRows::new(rows, &of.open);
        let mut classes = dirty.classes[direction].clone();
        let everywhere = open.met_by_most();
        if dirty.open[direction] {
            let all = super::ordered(rows, everywhere.iter());
            into.nobody = Arc::new(classes::compile(table, &all, Remotes::default(), maps));
            classes.extend(of.policy.keys().chain(of.remote.keys()));
            classes.extend(into.set_classes());
            if open.ask_for_classes() {
                classes.extend(0..=u16::MAX);
            }
        }
        // Most classes meet those rows only that ask for no class at all. Classes without rows of their own that meet the same
        // rows are one.
        let mut alike: HashMap<Vec<RowId>, Option<Arc<Class>>> = HashMap::from([(everywhere, None)]);
        for class in &classes {
            let lead = Lead::from_class(*class);
            let mut make = |open: &[RowId]| Some(Arc::new(compiled(table, lead, rows, of, open, maps)));
            let own = of.policy.contains_key(class) || of.remote.contains_key(class);
            let met = open.met(lead);
            let made = if own {
                make(&met)
            } else {
                alike.entry(met).or_insert_with_key(|met| make(met)).clone()
            };
            into.set(u32::from(*class), made);
        }
        for place in &dirty.left[direction] {
            into.set(*place, None);
        }
        let is_stale = |lead: &Lead| {
            dirty.open[direction]
                || dirty.pairs[direction].contains(lead)
                || dirty.overlays[direction].contains(&lead.overlay)
                || classes.contains(&lead.class)
        };
        for (lead, place) in self.pairs[direction].iter().filter(|(lead, _)| is_stale(lead)) {
            let made = compiled(table, lead, rows, of, &open.met(lead), maps);
            into.set(place, Some(Arc::new(made)));
        }
    }
}

fn drop_empty(map: &mut BTreeMap<u16, BTreeSet<RowId>>, number: u16) {
    if map.get(&number).is_some_and(BTreeSet::is_empty) {
        map.remove(&number);
    }
}

/// Rows that ask for no class and no overlay, for some bits, or for both: value and mask of each.
pub(super) struct OpenRows(Vec<(RowId, PerKey, PerKey)>);

type PerKey = (u128, u128);

impl OpenRows {
    pub(super) fn new(rows: &HashMap<RowId, (Table, Row)>, ids: &BTreeSet<RowId>) -> Self {
        let asked = ids.iter().filter_map(|id| {
            let (table, row) = rows.get(id)?;
            let bits = |key| row.masked(*table, key, 16);
            Some((*id, bits(Key::Class)?, bits(Key::Overlay)?))
        });
        OpenRows(asked.collect())
    }

    /// Those that packets of a class with an overlay meet.
    pub(super) fn met(&self, lead: Lead) -> Vec<RowId> {
        let is_met = |number: u16, (value, mask): PerKey| u128::from(number) & mask == value;
        let met = self
            .0
            .iter()
            .filter(|(_, class, overlay)| is_met(lead.class, *class) && is_met(lead.overlay, *overlay));
        met.map(|(id, ..)| *id).collect()
    }

    /// Whether some of them ask for bits of the class.
    fn ask_for_classes(&self) -> bool {
        self.0.iter().any(|(_, (_, mask), _)| *mask != 0)
    }

    /// Those that packets of every class without an overlay meet.
    fn met_by_most(&self) -> Vec<RowId> {
        let asks_nothing =
            |(_, (_, class), (overlay, _)): &&(RowId, PerKey, PerKey)| *class == 0 && *overlay == 0;
        self.0.iter().filter(asks_nothing).map(|(id, ..)| *id).collect()
    }
}

impl Dirty {
    fn is_clean(&self) -> bool {
        self.points.is_empty()
            && self.macs.is_empty()
            && Direction::BOTH.iter().all(|d| self.classes_are_clean(*d))
            && !self.groups
    }

    /// Whether no compiled policy of a direction changes.
    fn classes_are_clean(&self, direction: Direction) -> bool {
        self.classes[direction].is_empty()
            && self.overlays[direction].is_empty()
            && self.pairs[direction].is_empty()
            && self.left[direction].is_empty()
            && !self.open[direction]
    }
}
