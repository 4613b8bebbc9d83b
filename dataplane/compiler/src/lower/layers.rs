//! A nested table written entry by entry: the rows of each stand above those of the entries that it overrides.
//!
//! A grid has a line of destination ports for each part of the source ports, so that d source ports that are denied under k
//! destination ports that are allowed take d × k rows. That is what replies under default deny look like. Entry by entry the same
//! takes d + k.

use portcullis_policy::{Decider, FlagMatch, Ranges};

use super::capabilities::Capabilities;
use super::encode::{Cell, SHARED};
use super::plane::Plane;
use super::rules::direct;
use super::{NOT_OPENING, OPENING};
use crate::class_rows::PortMatch;

/// Places that a nested table has for one TCP flag state: a length of source and one of destination prefixes.
const PLACES: u16 = 17;

/// Source and destination ports of an entry.
#[derive(Debug, Clone, Copy)]
pub(super) struct Ports<'a> {
    pub src: &'a Ranges,
    pub dst: &'a Ranges,
}

impl Ports<'_> {
    fn overlap(self, other: Ports<'_>) -> bool {
        self.src.overlaps(other.src) && self.dst.overlaps(other.dst)
    }

    fn cover(self, other: Ports<'_>) -> bool {
        self.src.covers(other.src) && self.dst.covers(other.dst)
    }

    /// The rows that they take, if those are fewer than `most`.
    pub fn rows(self, capabilities: &Capabilities, most: usize) -> Option<Vec<(PortMatch, PortMatch)>> {
        let srcs = direct(self.src, capabilities.src)?;
        let dsts = direct(self.dst, capabilities.dst)?;
        let pairs = srcs
            .iter()
            .flat_map(|src| dsts.iter().map(move |dst| (*src, *dst)));
        (srcs.len() * dsts.len() < most).then(|| pairs.collect())
    }
}

/// How high each entry stands, the first of the list above those that it overlaps: one more than the highest of them, from 1.
pub(super) fn levels(entries: &[Ports<'_>]) -> Vec<u16> {
    let mut levels = vec![0u16; entries.len()];
    for (at, entry) in entries.iter().enumerate().rev() {
        let below = entries.iter().zip(&levels).skip(at + 1);
        let under = below.filter(|(other, _)| entry.overlap(**other));
        let highest = under.map(|(_, level)| *level).max().unwrap_or(0);
        if let Some(level) = levels.get_mut(at) {
            *level = highest.saturating_add(1);
        }
    }
    levels
}

/// The TCP segments that a table is about; packets of other protocols are all of them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Segments {
    /// Those that open no connection. Their rows name no flags: those of the others stand above them.
    NotOpening,
    /// Those that open a connection, above the others.
    Opening,
    /// All: rows name flags where their entry does.
    All,
}

/// A plane of ports entry by entry, in fewer than `most` rows; `None` where it takes more.
pub(super) fn layers(
    plane: &Plane,
    segments: Segments,
    capabilities: &Capabilities,
    inherited: Option<Decider>,
    most: usize,
) -> Option<Vec<Cell>> {
    if plane.entries().len() > SHARED {
        return None;
    }
    let (mut entries, mut kept): (Vec<(Decider, FlagMatch)>, Vec<Ports<'_>>) = Default::default();
    for (colour, matcher) in plane.entries() {
        let ports = Ports {
            src: &matcher.src_ports,
            dst: &matcher.dst_ports,
        };
        let flags = match segments {
            Segments::NotOpening => FlagMatch::Any,
            Segments::Opening if matcher.flags != FlagMatch::Any => continue,
            _ => matcher.flags,
        };
        let mut above = kept.iter().zip(&entries);
        let is_hidden =
            above.any(|(above, (_, f))| above.cover(ports) && (*f == FlagMatch::Any || *f == flags));
        if !is_hidden {
            entries.push((colour, flags));
            kept.push(ports);
        }
    }
    if kept.len() >= most {
        return None;
    }
    let opening = segments == Segments::Opening;
    let cell = |(src, dst), flags, level: u16, colour| Cell {
        src,
        dst,
        flags,
        above: opening,
        src_rank: level / PLACES,
        dst_rank: level % PLACES,
        colour,
        action: plane.action(colour),
    };
    let any = [opening.then_some(OPENING)];
    let mut cells = Vec::new();
    for ((ports, (colour, flags)), level) in kept.iter().zip(entries).zip(levels(&kept)) {
        if level >= PLACES * PLACES {
            return None;
        }
        let flags = match flags {
            FlagMatch::Any => &any[..],
            FlagMatch::NotOpening => &NOT_OPENING[..],
        };
        let rows = ports.rows(capabilities, most.checked_sub(cells.len())?)?;
        cells.extend(
            rows.into_iter()
                .flat_map(|row| flags.iter().map(move |flags| cell(row, *flags, level, colour))),
        );
    }
    // The default is at the bottom.
    if inherited != Some(Decider::Default) {
        cells.push(cell(
            (PortMatch::Any, PortMatch::Any),
            any[0],
            0,
            Decider::Default,
        ));
    }
    (cells.len() < most).then_some(cells)
}
