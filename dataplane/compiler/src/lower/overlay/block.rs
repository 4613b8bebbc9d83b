//! One block of an overlay: the packets of one protocol between two sets of addresses.

use std::collections::BTreeMap;
use std::sync::Arc;

use portcullis_policy::{Decider, Entry, FlagMatch, Matcher, Protocol, TCP_ACK, TCP_SYN, Verdict, intervals};

use super::cover::{Dimension, Strip, cover, partition};
use super::{Declined, Draft, Members, Probe, Rank, decide};
use crate::class_rows::{PortMatch, RowKey};
use crate::lower::capabilities::{Capabilities, MatchSupport};
use crate::lower::plane::Space;
use crate::lower::{NOT_OPENING, OPENING};

/// Comparisons of pairs of strips with entries that a block may take.
pub(super) const MOST_WORK: usize = 20_000_000;
/// Entries whose rows one block may have.
pub(super) const MOST_COLOURS: usize = 128;
/// Groups of source strips that rows can tell apart.
const MOST_GROUPS: usize = 128;

/// Packets of one block that no entry and no row so far tells apart.
#[derive(Debug, Clone)]
pub(super) struct Cell {
    action: Verdict,
    /// The entries that a hit may be counted for: the first that matches, and those behind it that say the same before
    /// one says the opposite.
    pub(super) run: Vec<Decider>,
    /// Whether the base says something else.
    differs: bool,
    /// What rows of blocks around this one say.
    pub(super) outer: Option<(Verdict, Decider)>,
}

impl Cell {
    /// Stands for a cell that is not there: no row is right for it.
    fn unknown() -> Self {
        Cell {
            action: Verdict::Deny,
            run: Vec::new(),
            differs: true,
            outer: None,
        }
    }
}

/// Source by source, destination by destination.
pub(super) type Cells = Vec<Cell>;

/// A row of a block, without what all rows of the block have.
#[derive(Debug, Clone, Copy)]
pub(super) struct Piece {
    pub(super) src: PortMatch,
    pub(super) dst: PortMatch,
    pub(super) rank: u16,
    pub(super) colour: u32,
}

/// Rows for one TCP flag state or for all: the flags that the rows name.
type Layer = (u8, Vec<Option<(u16, u16)>>, Vec<Piece>);

pub(super) struct Block<'a> {
    key: RowKey,
    rank: Rank,
    pub(super) capabilities: &'a Capabilities,
    pub(super) space: Space,
    pub(super) src: Vec<u16>,
    pub(super) dst: Vec<u16>,
    /// All packets, or TCP segments that open no connection and those that open one.
    states: Vec<Cells>,
    /// The entries that rows may be counted for.
    colours: Vec<Decider>,
    /// The entries of the class in this block, and the verdict where none matches.
    pub(super) entries: BTreeMap<Decider, (Verdict, Arc<Matcher>)>,
    pub(super) default: Verdict,
}

fn hits(space: Space, m: &Matcher, (src, dst): (u16, u16), opening: bool) -> bool {
    (!opening || m.flags == FlagMatch::Any)
        && match (space, m.icmp) {
            (Space::Ports, _) => m.src_ports.contains(src) && m.dst_ports.contains(dst),
            (Space::Icmp, Some(icmp)) => {
                u16::from(icmp.kind) == src && icmp.code.is_none_or(|code| u16::from(code) == dst)
            }
            _ => true,
        }
}

/// The verdict on one cell, and whom it may be counted for.
fn judge(members: &Members<'_>, hit: impl Fn(&Matcher) -> bool) -> (Verdict, Vec<Decider>) {
    let mut matching = members.entries.iter().filter(|(_, e)| hit(&e.matcher));
    let Some((first, entry)) = matching.next() else {
        return (members.default, vec![Decider::Default]);
    };
    let same = matching.take_while(|(_, e)| e.action == entry.action);
    let run = std::iter::once(first).chain(same.map(|(index, _)| index));
    (entry.action, run.map(|index| Decider::Entry(*index)).collect())
}

/// First and last number that a row matches; `None` if it matches any.
fn span(space: Space, port: PortMatch) -> Option<(u16, u16)> {
    match port {
        PortMatch::Masked { value, mask } => Some((value, value | (space.last() & !mask))),
        PortMatch::Range { low, high } => Some((low, high)),
        PortMatch::Any | PortMatch::Code { .. } => None,
    }
}

/// The numbers at which one dimension is cut.
fn cuts(space: Space, entries: &[&Entry], outer: &[PortMatch], of_source: bool) -> Vec<u16> {
    let mut spans: Vec<(u16, u16)> = Vec::new();
    for m in entries.iter().map(|e| &e.matcher) {
        match (space, m.icmp) {
            (Space::Ports, _) => spans.extend(if of_source {
                m.src_ports.iter()
            } else {
                m.dst_ports.iter()
            }),
            (Space::Icmp, Some(icmp)) => {
                let number = if of_source { Some(icmp.kind) } else { icmp.code };
                spans.extend(number.map(|n| (u16::from(n), u16::from(n))));
            }
            _ => {}
        }
    }
    spans.extend(outer.iter().filter_map(|port| span(space, *port)));
    intervals::starts(spans, space.last())
}

impl<'a> Block<'a> {
    /// Cuts a block into cells and finds out which of them need a row.
    pub(super) fn new(
        key: RowKey,
        rank: Rank,
        probe: Probe,
        members: &[Members<'_>; 2],
        capabilities: &'a Capabilities,
        drafts: &[Draft],
    ) -> Result<Self, Declined> {
        let space = Space::new(key.protocol, false);
        let mut block = Block {
            key,
            rank,
            capabilities,
            space,
            src: vec![0],
            dst: vec![0],
            states: Vec::new(),
            colours: Vec::new(),
            entries: BTreeMap::new(),
            default: members[0].default,
        };
        let [own, base] = members;
        let around: Vec<&Draft> = drafts
            .iter()
            .filter(|d| d.key.protocol.is_none() || d.key.protocol == key.protocol)
            .collect();
        if own.equals(base) && around.is_empty() {
            return Ok(block);
        }
        let numbered = own.entries.iter();
        let numbered =
            numbered.map(|(index, e)| (Decider::Entry(*index), (e.action, Arc::clone(&e.matcher))));
        block.entries = numbered.collect();
        let entries: Vec<&Entry> = own.entries.iter().chain(&base.entries).map(|(_, e)| *e).collect();
        let ports =
            |of: fn(&RowKey) -> PortMatch| -> Vec<PortMatch> { around.iter().map(|d| of(&d.key)).collect() };
        block.src = cuts(space, &entries, &ports(|k| k.src), true);
        block.dst = cuts(space, &entries, &ports(|k| k.dst), false);
        if block.src.len() * block.dst.len() * entries.len() > MOST_WORK {
            return Err(Declined::TooLarge("its pairs of ports".to_string()));
        }
        let told_apart = key.protocol == Some(Protocol::TCP)
            && (entries.iter().any(|e| e.matcher.flags != FlagMatch::Any)
                || around.iter().any(|d| d.key.flags.is_some()));
        let states: &[bool] = if told_apart { &[false, true] } else { &[false] };
        for opening in states {
            let mut cells = Vec::with_capacity(block.src.len() * block.dst.len());
            for src in &block.src {
                for dst in &block.dst {
                    let hit = |m: &Matcher| hits(space, m, (*src, *dst), *opening);
                    let ((action, run), (other, _)) = (judge(own, hit), judge(base, hit));
                    let probe = Probe {
                        src: *src,
                        dst: *dst,
                        flags: if *opening { TCP_SYN } else { TCP_ACK },
                        ..probe
                    };
                    cells.push(Cell {
                        action,
                        run,
                        differs: action != other,
                        outer: decide(drafts, &probe).map(|draft| (draft.action, draft.by)),
                    });
                }
            }
            block.states.push(cells);
        }
        Ok(block)
    }

    /// Adds its rows to those of the blocks around it.
    pub(super) fn write(&mut self, drafts: &mut Vec<Draft>) -> Result<(), Declined> {
        let states = std::mem::take(&mut self.states);
        if states.iter().flatten().all(|cell| right(cell, cell.outer)) {
            return Ok(());
        }
        let shortest = match states.as_slice() {
            [] => return Ok(()),
            [all] => vec![vec![(0, vec![None], self.pieces(&[all])?)]],
            [closed, opening, ..] => self.by_flags(closed, opening),
        };
        let rows = |layers: &Vec<Layer>| {
            layers
                .iter()
                .map(|(_, flags, pieces)| flags.len() * pieces.len())
                .sum::<usize>()
        };
        let shortest = shortest.into_iter().min_by_key(rows).ok_or(Declined::Inexact)?;
        for (state, flags, pieces) in shortest {
            for piece in pieces {
                let by = self
                    .colours
                    .get(piece.colour as usize)
                    .copied()
                    .unwrap_or(Decider::Default);
                let cell = states.iter().flatten().find(|cell| cell.run.contains(&by));
                let action = cell.map(|cell| cell.action).ok_or(Declined::Inexact)?;
                drafts.extend(flags.iter().map(|flags| Draft {
                    rank: Rank {
                        state,
                        port: piece.rank,
                        ..self.rank
                    },
                    key: RowKey {
                        src: piece.src,
                        dst: piece.dst,
                        flags: *flags,
                        ..self.key
                    },
                    action,
                    by,
                }));
            }
        }
        Ok(())
    }

    /// Ways to write both flag states of TCP: together, apart, or one with the other above it.
    fn by_flags(&mut self, closed: &Cells, opening: &Cells) -> Vec<Vec<Layer>> {
        let only_opening = vec![Some(OPENING)];
        let only_closed: Vec<_> = NOT_OPENING.to_vec();
        let mut ways: Vec<Vec<Layer>> = Vec::new();
        if let Ok(pieces) = self.pieces(&[closed, opening]) {
            ways.push(vec![(0, vec![None], pieces)]);
        }
        if !self.capabilities.flags {
            return ways;
        }
        if let (Ok(below), Ok(above)) = (self.pieces(&[closed]), self.pieces(&[opening])) {
            // What is right for both is written once.
            let (both, below): (Vec<Piece>, Vec<Piece>) =
                below.into_iter().partition(|piece| self.suits(piece, opening));
            ways.push(vec![
                (0, vec![None], both),
                (0, only_closed.clone(), below),
                (0, only_opening.clone(), above),
            ]);
        }
        for (below, above, flags) in [(closed, opening, only_opening), (opening, closed, only_closed)] {
            let Ok(pieces) = self.pieces(&[below]) else {
                continue;
            };
            let (mut finer, above) = self.under(above, &pieces);
            let over = finer.pieces(&[&above]);
            self.colours = finer.colours;
            if let Ok(over) = over {
                ways.push(vec![(0, vec![None], pieces), (1, flags, over)]);
            }
        }
        ways
    }

    /// Whether a row is right for all cells that it matches, whatever rows stand beside it.
    fn suits(&self, piece: &Piece, cells: &Cells) -> bool {
        let meets = |port: PortMatch, starts: &[u16]| -> Vec<bool> {
            let (low, high) = span(self.space, port).unwrap_or((0, u16::MAX));
            let ends = starts.iter().skip(1).map(|start| start - 1).chain([u16::MAX]);
            starts
                .iter()
                .zip(ends)
                .map(|(start, end)| *start <= high && low <= end)
                .collect()
        };
        let (src, dst) = (meets(piece.src, &self.src), meets(piece.dst, &self.dst));
        let met = src.iter().flat_map(|src| dst.iter().map(move |dst| *src && *dst));
        let by = self.colours.get(piece.colour as usize);
        cells
            .iter()
            .zip(met)
            .all(|(cell, met)| !met || by.is_some_and(|by| cell.run.contains(by)))
    }

    /// The same block under some rows of it, which may cut its cells.
    fn under(&self, cells: &Cells, pieces: &[Piece]) -> (Self, Cells) {
        let cut = |starts: &[u16], of: fn(&Piece) -> PortMatch| {
            let whole = starts.iter().map(|start| (*start, self.space.last()));
            let spans = whole.chain(pieces.iter().filter_map(|piece| span(self.space, of(piece))));
            intervals::starts(spans, self.space.last())
        };
        let finer = Block {
            src: cut(&self.src, |piece| piece.src),
            dst: cut(&self.dst, |piece| piece.dst),
            states: Vec::new(),
            colours: self.colours.clone(),
            entries: self.entries.clone(),
            ..*self
        };
        let at = |starts: &[u16], number: u16| starts.partition_point(|start| *start <= number) - 1;
        let mut under = Vec::with_capacity(finer.src.len() * finer.dst.len());
        for src in &finer.src {
            for dst in &finer.dst {
                let cell = cells.get(at(&self.src, *src) * self.dst.len() + at(&self.dst, *dst));
                let mut cell = cell.cloned().unwrap_or_else(Cell::unknown);
                let hit = pieces
                    .iter()
                    .filter(|p| p.src.hits(*src, 0) && p.dst.hits(*dst, 0));
                let by = hit
                    .max_by_key(|p| p.rank)
                    .and_then(|p| self.colours.get(p.colour as usize));
                if let Some(by) = by {
                    // A row has one verdict, that of its entry.
                    let action = match cell.run.contains(by) {
                        true => cell.action,
                        false => Verdict::from_passes(cell.action.denies()),
                    };
                    cell.outer = Some((action, *by));
                }
                under.push(cell);
            }
        }
        (finer, under)
    }

    /// The fewest rows that are right for all of these states at once.
    fn pieces(&mut self, states: &[&Cells]) -> Result<Vec<Piece>, Declined> {
        self.name_colours(states)?;
        let width = self.dst.len();
        let strip = |at: usize| {
            let cells = states.iter().filter_map(|cells| cells.get(at));
            cells
                .map(|cell| self.strip(cell))
                .reduce(Strip::and)
                .unwrap_or(Strip {
                    colours: 0,
                    pass: true,
                })
        };
        let lines: Vec<Vec<Strip>> = (0..self.src.len())
            .map(|line| (line * width..(line + 1) * width).map(strip).collect())
            .collect();
        if lines.iter().flatten().any(|strip| strip.is_impossible()) {
            return Err(Declined::Inexact);
        }
        let by_ports = [self.as_one(&lines), self.in_groups(&lines)];
        let by_ports = by_ports.into_iter().flatten().min_by_key(Vec::len);
        let named = self.colours.len();
        let by_entry = self.in_layers(states);
        match (by_ports, by_entry) {
            (Some(ports), Some(entries)) if entries.len() < ports.len() => Ok(entries),
            (None, Some(entries)) => Ok(entries),
            (ports, _) => {
                // The entries that the other way named take no place from those of the next flag state.
                self.colours.truncate(named);
                ports.ok_or(Declined::Inexact)
            }
        }
    }

    /// Finds the entries that rows may be counted for: of cells that need one, and of those in line with them, over which
    /// a wider row may need an exception.
    fn name_colours(&mut self, states: &[&Cells]) -> Result<(), Declined> {
        let is_needed = |cell: &&Cell| !right(cell, cell.outer);
        let needed = states.iter().copied().flatten().filter(is_needed);
        let own: Vec<Decider> = needed.flat_map(|cell| cell.run.iter().copied()).collect();
        own.into_iter().for_each(|by| self.name_colour(by));
        if self.colours.len() > MOST_COLOURS {
            return Err(Declined::TooLarge("its rules".to_string()));
        }
        let lines = states.iter().flat_map(|cells| cells.chunks(self.dst.len()));
        let lines = lines.filter(|line| line.iter().any(|cell| is_needed(&cell)));
        let beside: Vec<Decider> = lines
            .flatten()
            .filter_map(|cell| cell.run.first().copied())
            .collect();
        for by in beside {
            if self.colours.len() < MOST_COLOURS {
                self.name_colour(by);
            }
        }
        Ok(())
    }

    /// The number of an entry that rows may be counted for.
    pub(super) fn named(&mut self, by: Decider) -> Option<u32> {
        if self.colours.len() < MOST_COLOURS {
            self.name_colour(by);
        }
        let at = self.colours.iter().position(|known| *known == by)?;
        Some(at as u32)
    }

    fn name_colour(&mut self, by: Decider) {
        if !self.colours.contains(&by) {
            self.colours.push(by);
        }
    }

    fn strip(&self, cell: &Cell) -> Strip {
        let bits = (0u32..)
            .zip(&self.colours)
            .filter(|(_, by)| cell.run.contains(by));
        Strip {
            colours: bits.fold(0, |all, (n, _)| all | 1 << n),
            pass: right(cell, cell.outer),
        }
    }

    /// Rows that do not look at source ports.
    fn as_one(&self, lines: &[Vec<Strip>]) -> Option<Vec<Piece>> {
        let mut lines = lines.iter();
        let first = lines.next()?.clone();
        let all = lines.try_fold(first, |all, line| joined(&all, line))?;
        let piece = |row: super::cover::Cover| Piece {
            src: PortMatch::Any,
            dst: row.port,
            rank: row.rank,
            colour: row.colour,
        };
        Some(self.line(&all)?.into_iter().map(piece).collect())
    }

    /// Rows for groups of source ports with equal needs.
    fn in_groups(&self, lines: &[Vec<Strip>]) -> Option<Vec<Piece>> {
        let mut groups: Vec<Vec<Strip>> = Vec::new();
        for line in lines.iter().filter(|line| line.iter().any(|strip| !strip.pass)) {
            let fits = groups
                .iter_mut()
                .find_map(|group| joined(group, line).map(|both| (group, both)));
            match fits {
                Some((group, both)) => *group = both,
                None => groups.push(line.clone()),
            }
        }
        if groups.len() > MOST_GROUPS {
            return None;
        }
        let rows = groups
            .iter()
            .map(|group| self.line(group))
            .collect::<Option<Vec<_>>>()?;
        let weights: Vec<usize> = rows.iter().map(Vec::len).collect();
        let strips: Vec<(u16, Strip)> = self
            .src
            .iter()
            .copied()
            .zip(lines.iter().map(|line| {
                let right = (0u32..).zip(&rows).filter(|(_, rows)| self.is_right(rows, line));
                Strip {
                    colours: right.fold(0, |all, (n, _)| all | 1 << n),
                    pass: line.iter().all(|strip| strip.pass),
                }
            }))
            .collect();
        let parts = partition(&strips, self.dimension(true), &weights)?;
        let pieces = parts.into_iter().flat_map(|(src, group)| {
            let rows = rows.get(group as usize).into_iter().flatten();
            rows.map(move |row| Piece {
                src,
                dst: row.port,
                rank: row.rank,
                colour: row.colour,
            })
        });
        Some(pieces.collect())
    }

    /// Whether rows over destinations are right for a line.
    fn is_right(&self, rows: &[super::cover::Cover], line: &[Strip]) -> bool {
        let spans = rows.iter().filter_map(|row| span(self.space, row.port));
        let starts = self.dst.iter().map(|start| (*start, self.space.last()));
        intervals::starts(starts.chain(spans), self.space.last())
            .into_iter()
            .all(|dst| {
                let at = self.dst.partition_point(|start| *start <= dst) - 1;
                let hit = rows
                    .iter()
                    .filter(|row| row.port.hits(dst, 0))
                    .max_by_key(|row| row.rank);
                line.get(at)
                    .is_some_and(|strip| hit.map_or(strip.pass, |row| strip.colours >> row.colour & 1 == 1))
            })
    }

    fn line(&self, line: &[Strip]) -> Option<Vec<super::cover::Cover>> {
        let strips: Vec<(u16, Strip)> = self.dst.iter().copied().zip(line.iter().copied()).collect();
        cover(&strips, self.dimension(false))
    }

    fn dimension(&self, of_source: bool) -> Dimension {
        let support = match (self.space, of_source) {
            (Space::Point, _) => MatchSupport::Missing,
            (Space::Icmp, _) => self.capabilities.icmp,
            (Space::Ports, true) => self.capabilities.src,
            (Space::Ports, false) => self.capabilities.dst,
        };
        Dimension {
            width: self.space.width(),
            support,
        }
    }
}

/// Whether a cell is right under a row of this verdict and entry, or under none.
pub(super) fn right(cell: &Cell, under: Option<(Verdict, Decider)>) -> bool {
    match under {
        None => !cell.differs,
        Some((action, by)) => action == cell.action && cell.run.contains(&by),
    }
}

/// What both lines allow, if there is a way for every strip.
fn joined(a: &[Strip], b: &[Strip]) -> Option<Vec<Strip>> {
    let both: Vec<Strip> = a.iter().zip(b).map(|(a, b)| a.and(*b)).collect();
    (!both.iter().any(|strip| strip.is_impossible())).then_some(both)
}
