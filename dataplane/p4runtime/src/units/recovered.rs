//! What an earlier run of the agent left to nearer targets, from the rows that it left on the device.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use portcullis_compiler::compilation::{Compilation, Found, Part};
use portcullis_compiler::{Attribution, Intent, RowCache};

use super::{BuildError, by_class, here, named_ports, unmanaged_ports};
use crate::attachment_points::AttachmentPoints;
use crate::device::Device;
use crate::entry::{Does, Match, Place, Row};

/// Match fields of a row by id, and what it does.
type Bare = (Vec<(u32, Match)>, Does);

/// Rows that an earlier run left, by table, without their priorities, which depend on the rows beside them.
#[derive(Debug, Default)]
pub(super) struct Seen(HashMap<u8, Vec<Bare>>);

impl Seen {
    pub(super) fn new(rows: &[Row]) -> Self {
        let mut seen = Seen::default();
        for (key, does) in rows {
            if let Place::Table { table, fields, .. } = &key.0.place {
                seen.0
                    .entry(*table)
                    .or_default()
                    .push((fields.clone(), does.clone()));
            }
        }
        seen
    }

    /// Whether a row does the same with every packet of this one: it, or one that rows were merged into.
    fn has(&self, (key, does): &Row) -> bool {
        let Place::Table { table, fields, .. } = &key.0.place else {
            return false;
        };
        let same = |(wide, other): &&Bare| other == does && covers(wide, fields);
        self.0
            .get(table)
            .is_some_and(|rows| rows.iter().any(|row| same(&row)))
    }
}

/// Whether every packet that meets these fields meets the wide ones.
fn covers(wide: &[(u32, Match)], fields: &[(u32, Match)]) -> bool {
    let of = |id: u32| {
        fields
            .iter()
            .find(|(other, _)| *other == id)
            .map(|(_, field)| field)
    };
    wide.iter()
        .all(|(id, wide)| of(*id).is_some_and(|field| wide.covers(field)))
}

/// What an earlier run left to nearer targets: the parts that take rows, of which none is there.
pub(super) fn recovered(
    device: &Device,
    intent: &Intent,
    points: &AttachmentPoints,
    target: &str,
    programs: &mut RowCache,
    seen: &Seen,
) -> Result<BTreeSet<Part>, BuildError> {
    let here = here(intent, points, target, !by_class(programs.model()));
    let unmanaged = unmanaged_ports(points).into_keys().collect();
    let found = Found {
        unmanaged: &unmanaged,
        bounded: false,
        ..Found::default()
    };
    let all = Compilation::beside(&here, programs, Attribution::Rule, found, |_| false)?;
    let mut ports = named_ports(intent, target);
    ports.extend(unmanaged_ports(points));
    let mut held: BTreeMap<Part, bool> = BTreeMap::new();
    for placed in all.rows() {
        if let Some(part) = all.part(&placed) {
            let row = device.lower(&placed.row, &|name: &str| ports.get(name).copied())?;
            let known = held.entry(part).or_default();
            *known = *known || seen.has(&row);
        }
    }
    // Without any row of ours there was no plan.
    let was_empty = held.values().all(|held| !held);
    let left = held.into_iter().filter(|(_, held)| !held && !was_empty);
    Ok(left.map(|(part, _)| part).collect())
}
