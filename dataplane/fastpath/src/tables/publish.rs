//! Builds the next snapshot from changed rows. Unchanged parts are shared with the previous one.

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;

use portcullis_policy::Direction;

use super::{Classes, Dirty, POLICIES, Snapshot, Tables, compiled, point};
use crate::classes::{self, Class};
use crate::mac_table::SEVERAL;
use crate::remote::Remotes;
use crate::row::{Action, RowId};
use crate::table::Key;

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
        for (direction, classes) in dirty.classes.each() {
            self.classes_into(&mut next, direction, classes, dirty.open[direction]);
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
                    table.set_any(point(&self.rows, &self.points, (*port, None), &mut self.shapes));
                    for ((_, vlan), _) in self.points.range((*port, Some(0))..=(*port, Some(u16::MAX))) {
                        let vid = vlan.unwrap_or(0);
                        table.set(
                            vid,
                            point(&self.rows, &self.points, (*port, *vlan), &mut self.shapes),
                        );
                    }
                }
                Some(vid) => {
                    let made = point(&self.rows, &self.points, (*port, *vlan), &mut self.shapes);
                    if renewed.contains(port) && !self.points.contains_key(&(*port, *vlan)) {
                        continue;
                    }
                    Arc::make_mut(place).set(*vid, made);
                }
            }
        }
    }

    fn classes_into(
        &mut self,
        next: &mut Snapshot,
        direction: Direction,
        mut dirty: BTreeSet<u16>,
        open: bool,
    ) {
        let (into, table) = (&mut next.classes[direction], POLICIES[direction]);
        let of = &mut self.classes[direction];
        for class in &dirty {
            for map in [&mut of.policy, &mut of.remote] {
                if map.get(class).is_some_and(BTreeSet::is_empty) {
                    map.remove(class);
                }
            }
        }
        let (rows, maps) = (&self.rows, &mut self.maps);
        let open_rows: Vec<(RowId, u128, u128)> = of
            .open
            .iter()
            .filter_map(|id| {
                let (table, row) = rows.get(id)?;
                let (value, mask) = row.masked(*table, Key::Class, 16)?;
                Some((*id, value, mask))
            })
            .collect();
        let met = |class: u16| -> Vec<RowId> {
            let asked = open_rows.iter().filter(|(_, v, m)| u128::from(class) & m == *v);
            asked.map(|(id, ..)| *id).collect()
        };
        // Most classes meet those rows only that ask for no class at all.
        let everywhere: Vec<RowId> = open_rows.iter().filter(|(.., m)| *m == 0).map(|r| r.0).collect();
        let has_bits = everywhere.len() < open_rows.len();
        if open {
            let all = super::ordered(rows, everywhere.iter());
            into.nobody = Arc::new(classes::compile(table, &all, Remotes::default(), maps));
            dirty.extend(of.policy.keys().chain(of.remote.keys()));
            dirty.extend(into.set_classes());
            if has_bits {
                dirty.extend(0..=u16::MAX);
            }
        }
        // Classes without rows of their own that meet the same rows are one.
        let mut alike: HashMap<Vec<RowId>, Option<Arc<Class>>> = HashMap::from([(everywhere, None)]);
        for class in dirty {
            let open = met(class);
            let mut make = |open: &[RowId]| Some(Arc::new(compiled(table, class, rows, of, open, maps)));
            let own = of.policy.contains_key(&class) || of.remote.contains_key(&class);
            let made = if own {
                make(&open)
            } else {
                alike.entry(open).or_insert_with_key(|open| make(open)).clone()
            };
            into.set(class, made);
        }
    }
}

impl Classes {
    /// Classes that are compiled on their own.
    fn set_classes(&self) -> Vec<u16> {
        let mut set = Vec::new();
        for (at, chunk) in self.chunks.iter().enumerate() {
            let places = chunk.iter().enumerate();
            let own = places.filter(|(_, class)| class.is_some());
            set.extend(own.map(|(low, _)| (at * super::CHUNK + low) as u16));
        }
        set
    }
}

impl Dirty {
    fn is_clean(&self) -> bool {
        self.points.is_empty()
            && self.macs.is_empty()
            && self.classes.iter().all(BTreeSet::is_empty)
            && !self.open.iter().any(|open| *open)
            && !self.groups
    }
}
