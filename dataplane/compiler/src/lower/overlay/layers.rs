//! A block of an overlay entry by entry: rows of the entries that decide where a row is needed, and of those above them.

use std::collections::BTreeMap;

use portcullis_policy::{Decider, Ranges, Verdict};

use super::block::{Block, Cells, MOST_COLOURS, MOST_WORK, Piece, right};
use crate::lower::layers::{Ports, levels};
use crate::lower::plane::Space;

/// Rows of one block that are worth counting.
const MOST_ROWS: usize = 4096;

/// An entry that gets rows.
#[derive(Clone, Copy)]
struct Written<'a> {
    ports: Ports<'a>,
    action: Verdict,
}

impl Block<'_> {
    /// Rows entry by entry, each with the entry that it counts for.
    pub(super) fn in_layers(&mut self, states: &[&Cells]) -> Option<Vec<Piece>> {
        if self.space != Space::Ports {
            return None;
        }
        let everything = Ranges::all();
        let rows = self.entries_written(states, &everything)?;
        let ports: Vec<Ports<'_>> = rows.values().map(|written| written.ports).collect();
        let mut found = Vec::new();
        for ((by, written), level) in rows.iter().zip(levels(&ports)) {
            let rows = written.ports.rows(self.capabilities, MOST_ROWS - found.len())?;
            found.extend(rows.into_iter().map(|row| (row, level, *by)));
        }
        let pieces = found.into_iter().map(|((src, dst), rank, by)| {
            let colour = self.named(by)?;
            Some(Piece {
                src,
                dst,
                rank,
                colour,
            })
        });
        pieces.collect()
    }

    /// The entries that get rows, in the policy's order: with them every cell is right.
    fn entries_written<'s>(
        &'s self,
        states: &[&Cells],
        everything: &'s Ranges,
    ) -> Option<BTreeMap<Decider, Written<'s>>> {
        let entry = |by: Decider| match by {
            Decider::Entry(_) => self.entries.get(&by).map(|(action, matcher)| Written {
                ports: Ports {
                    src: &matcher.src_ports,
                    dst: &matcher.dst_ports,
                },
                action: *action,
            }),
            _ => Some(Written {
                ports: Ports {
                    src: everything,
                    dst: everything,
                },
                action: self.default,
            }),
        };
        let mut written: BTreeMap<Decider, Written<'_>> = BTreeMap::new();
        let cells: usize = states.iter().map(|cells| cells.len()).sum();
        let mut work = 0;
        loop {
            let before = written.len();
            work += cells * (before + 1);
            if before > MOST_COLOURS || work > MOST_WORK {
                return None;
            }
            for cells in states {
                let places = self
                    .src
                    .iter()
                    .flat_map(|src| self.dst.iter().map(move |dst| (*src, *dst)));
                for ((src, dst), cell) in places.zip(cells.iter()) {
                    let mut above = written.iter();
                    let above = above.find(|(_, w)| w.ports.src.contains(src) && w.ports.dst.contains(dst));
                    let says = above.map(|(by, w)| (w.action, *by)).or(cell.outer);
                    if !right(cell, says) {
                        let by = *cell.run.first()?;
                        // What has a row already is overridden by an entry that does not hold here.
                        if written.insert(by, entry(by)?).is_some() {
                            return None;
                        }
                    }
                }
            }
            if written.len() == before {
                return Some(written);
            }
        }
    }
}
