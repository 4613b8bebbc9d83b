//! Planes in rows, and the memory of what was drawn and encoded: what many classes have in common, they have once.

use std::collections::HashMap;
use std::rc::Rc;
use std::sync::Arc;

use portcullis_policy::{Decider, Verdict};

use super::capabilities::{Capabilities, MatchSupport};
use super::cells::{exact_cells, port_cells, range_cells};
use super::layers::{Segments, layers};
use super::plane::{Grid, Line, Plane, Source, Space};
use super::{Attribution, Declined, OPENING};
use crate::class_rows::PortMatch;
use crate::model::StageModel;

/// Rows that matching whole values may take for one line.
const EXACT_ROWS: u32 = 4096;

/// A plane of the cache, and the entries of this policy that its colours stand for.
#[derive(Debug, Clone)]
pub(super) struct EncodedPlane {
    pub(super) plane: Arc<Plane>,
    /// Its number in the cache.
    pub(super) id: usize,
    pub(super) members: Rc<[u32]>,
    /// Later fragments, where they have a verdict of their own.
    pub(super) later: Option<(Verdict, Decider)>,
    /// Colours of equal verdict are one.
    pub(super) merged: bool,
}

impl EncodedPlane {
    /// The decider that a colour of the plane stands for.
    pub(super) fn decider(&self, colour: Decider) -> Decider {
        match colour {
            Decider::Entry(n) => self
                .members
                .get(n as usize)
                .map_or(colour, |index| Decider::Entry(*index)),
            other => other,
        }
    }

    /// The colour that stands for a decider.
    pub(super) fn colour(&self, decider: Decider) -> Option<Decider> {
        match decider {
            Decider::Entry(index) => {
                let at = self.members.iter().position(|m| *m == index)?;
                Some(Decider::Entry(u32::try_from(at).ok()?))
            }
            other => Some(other),
        }
    }

    fn same_colour(&self, own: Decider, other: &Self, others: Decider) -> bool {
        match self.merged && other.merged {
            true => self.plane.action(own) == other.plane.action(others),
            false => self.decider(own) == other.decider(others),
        }
    }

    fn same_grid(&self, own: &Grid, other: &Self, others: &Grid) -> bool {
        let same_line = |a: &Line, b: &Line| {
            a.len() == b.len()
                && a.iter()
                    .zip(b)
                    .all(|((x, c), (y, d))| x == y && self.same_colour(*c, other, *d))
        };
        own.len() == others.len()
            && own
                .iter()
                .zip(others)
                .all(|((x, a), (y, b))| x == y && same_line(a, b))
    }
}

/// Equal in what they decide and, unless that is merged, by which entry.
impl PartialEq for EncodedPlane {
    fn eq(&self, other: &Self) -> bool {
        if self.later != other.later {
            return false;
        }
        if self.id == other.id && self.members == other.members {
            return true;
        }
        let openings = match (&self.plane.opening, &other.plane.opening) {
            (None, None) => true,
            (Some(a), Some(b)) => self.same_grid(a, other, b),
            _ => false,
        };
        openings && self.same_grid(&self.plane.grid, other, &other.plane.grid)
    }
}

/// One row of a nested table, its colour one of the plane's.
#[derive(Debug, Clone, Copy)]
pub(super) struct Cell {
    pub(super) src: PortMatch,
    pub(super) dst: PortMatch,
    pub(super) flags: Option<(u16, u16)>,
    /// Whether it stands above those of the other TCP flag state.
    pub(super) above: bool,
    pub(super) src_rank: u16,
    pub(super) dst_rank: u16,
    pub(super) colour: Decider,
    pub(super) action: Verdict,
}

/// The verdict of most blocks, the words of all others, and a colour of the other verdict.
pub(super) type WordTable = (Verdict, Vec<(u16, u64)>, Decider);

/// A plane in rows.
#[derive(Debug)]
pub(super) struct Encoded {
    pub(super) grid: Vec<Cell>,
    /// Openings of TCP connections, where policy distinguishes them.
    pub(super) opening: Vec<Cell>,
    /// The grid in words of 64 ports, where that takes fewer rows: blocks, and the verdict of all others.
    pub(super) words: Option<WordTable>,
}

/// Planes drawn and encoded so far: what many classes have in common, they have once.
#[derive(Debug, Default)]
pub(crate) struct Cache {
    known: HashMap<(Source, Attribution), (usize, Arc<Plane>)>,
    encoded: HashMap<(usize, Option<Decider>), Arc<Encoded>>,
    next: usize,
}

/// Planes remembered at most.
pub(super) const REMEMBERED: usize = 20_000;
/// Entries of a plane that is remembered: what is larger is hardly ever the same in two classes.
pub(super) const SHARED: usize = 300;

impl Cache {
    pub(super) fn draw(
        &mut self,
        source: Source,
        attribution: Attribution,
        model: &StageModel,
    ) -> (usize, Arc<Plane>) {
        let key = (source, attribution);
        if let Some((id, plane)) = self.known.get(&key) {
            return (*id, Arc::clone(plane));
        }
        if self.known.len() >= REMEMBERED {
            self.known.clear();
            self.encoded.clear();
        }
        let plane = Plane::draw(&key.0, model.view);
        let plane = Arc::new(match attribution {
            Attribution::Rule => plane,
            Attribution::Class => plane.by_verdict(),
        });
        let id = self.next;
        self.next += 1;
        if key.0.entries.len() <= SHARED {
            self.known.insert(key, (id, Arc::clone(&plane)));
        }
        (id, plane)
    }

    pub(super) fn encode(
        &mut self,
        drawn: &EncodedPlane,
        space: Space,
        capabilities: &Capabilities,
        inherited: Option<Decider>,
    ) -> Result<Arc<Encoded>, Declined> {
        let inherited = inherited.and_then(|d| drawn.colour(d));
        let key = (drawn.id, inherited);
        if let Some(encoded) = self.encoded.get(&key) {
            return Ok(Arc::clone(encoded));
        }
        let plane = &drawn.plane;
        let by_entry = |state, inherited, most| match space {
            Space::Ports => layers(plane, state, capabilities, inherited, most),
            Space::Icmp | Space::Point => None,
        };
        let table = |of: &Grid, state, inherited| {
            let opening = state == Segments::Opening;
            let grid = grid(plane, of, opening, space, capabilities, inherited)?;
            let layers = by_entry(state, inherited, grid.len()).filter(|_| of.len() > 1);
            Ok(layers.unwrap_or(grid))
        };
        let mut grid = table(&plane.grid, Segments::NotOpening, inherited)?;
        let mut opening = match &plane.opening {
            Some(opening) => table(opening, Segments::Opening, None)?,
            None => Vec::new(),
        };
        let mut words = capabilities.words.and_then(|_| words(plane, space, grid.len()));
        if plane.opening.is_some()
            && words.is_none()
            && let Some(both) = by_entry(Segments::All, inherited, grid.len() + opening.len())
        {
            (grid, opening, words) = (both, Vec::new(), None);
        }
        let encoded = Arc::new(Encoded { grid, opening, words });
        if drawn.members.len() <= SHARED {
            self.encoded.insert(key, Arc::clone(&encoded));
        }
        Ok(encoded)
    }
}

/// The cells of a grid: source by source, destination by destination.
fn grid(
    plane: &Plane,
    grid: &Grid,
    opening: bool,
    space: Space,
    capabilities: &Capabilities,
    inherited: Option<Decider>,
) -> Result<Vec<Cell>, Declined> {
    let (src_kind, dst_kind) = match space {
        Space::Icmp => (capabilities.icmp, capabilities.icmp),
        _ => (capabilities.src, capabilities.dst),
    };
    let mut lines: Vec<&Arc<Line>> = Vec::new();
    let mut strips: Vec<(u16, usize)> = Vec::with_capacity(grid.len());
    for (start, line) in grid {
        let at = lines.iter().position(|l| *l == line).unwrap_or_else(|| {
            lines.push(line);
            lines.len() - 1
        });
        strips.push((*start, at));
    }
    let mut table = Vec::new();
    for (src, src_rank, at) in cells(&strips, space, src_kind, None)? {
        let Some(line) = lines.get(at) else { continue };
        // Only the outermost line may lean on the rows below this block.
        let inherited = inherited.filter(|_| src_rank == 0);
        for (dst, dst_rank, colour) in cells(line, space, dst_kind, inherited)? {
            table.push(Cell {
                src,
                dst,
                flags: opening.then_some(OPENING),
                above: opening,
                src_rank,
                dst_rank,
                colour,
                action: plane.action(colour),
            });
        }
    }
    Ok(table)
}

/// A line of destination ports as words of 64, where that takes fewer than `rows`. A bit tells the verdict only.
fn words(plane: &Plane, space: Space, rows: usize) -> Option<WordTable> {
    let [(_, line)] = plane.grid.as_slice() else {
        return None;
    };
    if space != Space::Ports || line.len() < 2 {
        return None;
    }
    let (miss, blocks) = blocks(plane, line);
    let other = line.iter().find(|(_, c)| plane.action(*c) != miss);
    let colour = other.map_or(Decider::Default, |(_, c)| *c);
    (blocks.len() + 1 < rows).then_some((miss, blocks, colour))
}

/// The commonest verdict of whole blocks of 64 ports, and the words of all other blocks.
fn blocks(plane: &Plane, line: &Line) -> (Verdict, Vec<(u16, u64)>) {
    let mut words = vec![0u64; 1024];
    let ends = line
        .iter()
        .skip(1)
        .map(|(start, _)| u32::from(*start))
        .chain([1 << 16]);
    for ((start, colour), end) in line.iter().zip(ends) {
        if plane.action(*colour).passes() {
            let mut port = u32::from(*start);
            while port < end {
                let next = end.min((port | 63) + 1);
                if let Some(word) = words.get_mut((port >> 6) as usize) {
                    *word |= (u64::MAX >> (64 - (next - port))) << (port & 63);
                }
                port = next;
            }
        }
    }
    let count = |whole: u64| words.iter().filter(|w| **w == whole).count();
    let (miss, whole) = if count(u64::MAX) >= count(0) {
        (Verdict::Allow, u64::MAX)
    } else {
        (Verdict::Deny, 0)
    };
    let others = (0u16..).zip(words).filter(|(_, word)| *word != whole).collect();
    (miss, others)
}

/// Encodes one dimension: `(match, rank, colour)`.
fn cells<C: Copy + Ord>(
    partition: &[(u16, C)],
    space: Space,
    kind: MatchSupport,
    inherited: Option<C>,
) -> Result<Vec<(PortMatch, u16, C)>, Declined> {
    if let ([(_, colour)], _) | ([(_, colour), ..], Space::Point) = (partition, space) {
        let row = (inherited != Some(*colour)).then_some((PortMatch::Any, 0, *colour));
        return Ok(row.into_iter().collect());
    }
    Ok(match kind {
        MatchSupport::Missing => return Err(Declined::Inexact),
        MatchSupport::Exact => exact_cells(partition, space, inherited, EXACT_ROWS).ok_or_else(|| {
            Declined::TooLarge(format!(
                "its port ranges take more than {EXACT_ROWS} whole values"
            ))
        })?,
        MatchSupport::Masked => port_cells(partition, space.width(), inherited),
        MatchSupport::Range => range_cells(partition, space.last(), inherited),
    })
}
