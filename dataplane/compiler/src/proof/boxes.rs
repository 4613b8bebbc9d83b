//! Hyper-rectangles: products of one set per dimension, in an order, and their covers.

use std::collections::HashMap;
use std::rc::Rc;

use portcullis_policy::Verdict;

/// Remote address, local address, source port, destination port.
pub(super) const DIMENSIONS: usize = 4;

/// Inclusive runs of numbers: ascending, apart from each other. Addresses are numbered by the cells that all bounds
/// cut their space into.
pub(super) type Runs = Vec<(u32, u32)>;

/// One run for each dimension.
pub(super) type Piece = [(u32, u32); DIMENSIONS];

/// The numbers of its sets.
pub(super) type BoxOf = [u32; DIMENSIONS];

/// The distinct sets of one dimension.
#[derive(Debug, Default)]
struct Dimension {
    sets: Vec<Runs>,
    numbers: HashMap<Runs, u32>,
}

/// The distinct sets of every dimension.
#[derive(Debug, Default)]
pub(super) struct Sets {
    dimensions: [Dimension; DIMENSIONS],
}

impl Sets {
    /// The number of a set.
    pub fn number(&mut self, dimension: usize, runs: Runs) -> u32 {
        let Some(own) = self.dimensions.get_mut(dimension) else {
            return 0;
        };
        let next = own.sets.len() as u32;
        let sets = &mut own.sets;
        *own.numbers.entry(runs).or_insert_with_key(|runs| {
            sets.push(runs.clone());
            next
        })
    }

    /// The runs of a set.
    pub fn runs(&self, dimension: usize, number: u32) -> &[(u32, u32)] {
        let own = self.dimensions.get(dimension);
        own.and_then(|d| d.sets.get(number as usize))
            .map_or(&[], Vec::as_slice)
    }

    /// What is in both; `None` when nothing is.
    pub fn meet(&mut self, a: &BoxOf, b: &BoxOf) -> Option<BoxOf> {
        let mut sides = a.iter().zip(b).enumerate();
        if !sides.all(|(d, (a, b))| overlaps(self.runs(d, *a), self.runs(d, *b))) {
            return None;
        }
        let mut both = *a;
        for (d, (own, other)) in both.iter_mut().zip(b).enumerate() {
            if own != other {
                let runs = intersection(self.runs(d, *own), self.runs(d, *other));
                *own = self.number(d, runs);
            }
        }
        Some(both)
    }

    /// The pieces of a box.
    pub fn pieces(&self, of: &BoxOf) -> Vec<Piece> {
        let mut pieces: Vec<Piece> = vec![[(0, 0); DIMENSIONS]];
        for (d, number) in of.iter().enumerate() {
            let runs = self.runs(d, *number);
            pieces = pieces
                .iter()
                .flat_map(|piece| {
                    runs.iter().map(move |run| {
                        let mut piece = *piece;
                        if let Some(own) = piece.get_mut(d) {
                            *own = *run;
                        }
                        piece
                    })
                })
                .collect();
        }
        pieces
    }

    /// A point of some of these pieces that no cover holds; `None` when they are all covered.
    ///
    /// Takes what covers most of a piece, cuts the piece at its bounds, and goes on with the parts that are left.
    pub fn uncovered(&self, pieces: Vec<Piece>, covers: &[BoxOf]) -> Option<[u32; DIMENSIONS]> {
        let all: Rc<[u32]> = (0..covers.len() as u32).collect();
        let mut work: Vec<(Piece, Rc<[u32]>)> = pieces.into_iter().map(|p| (p, all.clone())).collect();
        while let Some((piece, near)) = work.pop() {
            let mut best: Option<(f64, &BoxOf)> = None;
            let mut here = Vec::new();
            for index in near.iter() {
                let Some(cover) = covers.get(*index as usize) else {
                    continue;
                };
                let share = self.share(&piece, cover);
                if share > 0.0 {
                    here.push(*index);
                    if best.is_none_or(|(most, _)| share > most) {
                        best = Some((share, cover));
                    }
                }
            }
            let Some((_, cover)) = best else {
                return Some(piece.map(|(low, _)| low));
            };
            let cut = piece
                .iter()
                .zip(cover)
                .enumerate()
                .find(|(d, (run, number))| !holds(self.runs(*d, **number), &[**run]));
            // Where there is nothing to cut, the cover holds all of the piece.
            if let Some((d, (run, number))) = cut {
                let here: Rc<[u32]> = here.into();
                for part in split(*run, self.runs(d, *number)) {
                    let mut piece = piece;
                    if let Some(own) = piece.get_mut(d) {
                        *own = part;
                    }
                    work.push((piece, here.clone()));
                }
            }
        }
        None
    }

    /// What a box leaves of a piece.
    pub fn without(&self, piece: &Piece, cover: &BoxOf) -> Vec<Piece> {
        if self.share(piece, cover) == 0.0 {
            return vec![*piece];
        }
        let mut left = Vec::new();
        // What the cover holds in the dimensions so far.
        let mut inside = vec![*piece];
        for (d, number) in cover.iter().enumerate() {
            let runs = self.runs(d, *number);
            let mut next = Vec::new();
            for piece in inside {
                let Some(run) = piece.get(d).copied() else {
                    continue;
                };
                for part in split(run, runs) {
                    let mut piece = piece;
                    if let Some(own) = piece.get_mut(d) {
                        *own = part;
                    }
                    if clip(part, runs).next().is_some() {
                        next.push(piece);
                    } else {
                        left.push(piece);
                    }
                }
            }
            inside = next;
        }
        left
    }

    /// How much of a piece a box covers, from 0 to 1; exactly 0 when they do not meet.
    fn share(&self, piece: &Piece, cover: &BoxOf) -> f64 {
        let mut share = 1.0;
        for (d, (run, number)) in piece.iter().zip(cover).enumerate() {
            let clipped = clip(*run, self.runs(d, *number)).map(|(low, high)| f64::from(high - low) + 1.0);
            let common: f64 = clipped.sum();
            if common == 0.0 {
                return 0.0;
            }
            // Never so small that it could be taken for nothing.
            share = f64::max(
                share * common / (f64::from(run.1 - run.0) + 1.0),
                f64::MIN_POSITIVE,
            );
        }
        share
    }
}

/// The parts of a run that are in a set.
fn clip((low, high): (u32, u32), runs: &[(u32, u32)]) -> impl Iterator<Item = (u32, u32)> + '_ {
    let from = runs.partition_point(|(_, end)| *end < low);
    let near = runs
        .iter()
        .skip(from)
        .take_while(move |(first, _)| *first <= high);
    near.map(move |(first, end)| (low.max(*first), high.min(*end)))
}

/// A run, cut where a set begins and ends.
fn split(run: (u32, u32), runs: &[(u32, u32)]) -> Vec<(u32, u32)> {
    let mut parts = Vec::new();
    let mut next = run.0;
    for (low, high) in clip(run, runs) {
        if next < low {
            parts.push((next, low - 1));
        }
        parts.push((low, high));
        next = high.saturating_add(1);
        if high == run.1 {
            return parts;
        }
    }
    parts.push((next, run.1));
    parts
}

fn overlaps(a: &[(u32, u32)], b: &[(u32, u32)]) -> bool {
    if let ([a], [b]) = (a, b) {
        return a.0 <= b.1 && b.0 <= a.1;
    }
    a.iter().any(|run| clip(*run, b).next().is_some())
}

/// Whether a set holds all of another.
fn holds(set: &[(u32, u32)], other: &[(u32, u32)]) -> bool {
    if let ([a], [b]) = (set, other) {
        return a.0 <= b.0 && b.1 <= a.1;
    }
    other.iter().all(|run| clip(*run, set).next() == Some(*run))
}

fn intersection(a: &[(u32, u32)], b: &[(u32, u32)]) -> Runs {
    a.iter().flat_map(|run| clip(*run, b)).collect()
}

/// Boxes in order: the first that holds a packet decides about it.
#[derive(Debug, Default)]
pub(super) struct List {
    pub boxes: Vec<BoxOf>,
    /// What each says; `None`: nothing is certain where it decides.
    pub says: Vec<Option<Verdict>>,
    /// Which boxes hold, and which meet, a set of a dimension: a bit for each.
    holding: [HashMap<u32, Box<[u64]>>; DIMENSIONS],
    meeting: [HashMap<u32, Box<[u64]>>; DIMENSIONS],
    /// The first of equal boxes.
    equal: HashMap<BoxOf, u32>,
}

impl List {
    pub fn push(&mut self, own: BoxOf, says: Option<Verdict>) {
        self.equal.entry(own).or_insert(self.boxes.len() as u32);
        self.boxes.push(own);
        self.says.push(says);
    }

    /// The first box that is just this one.
    pub fn equal(&self, to: &BoxOf) -> Option<u32> {
        self.equal.get(to).copied()
    }

    /// The first box that holds all of this one.
    pub fn holding(&mut self, sets: &Sets, what: &BoxOf) -> Option<u32> {
        let List { boxes, holding, .. } = self;
        let rows = rows_of(boxes, holding, sets, what, holds)?;
        let width = rows.first()?.len();
        (0..width).find_map(|word| {
            let both = rows
                .iter()
                .fold(u64::MAX, |both, row| both & row.get(word).copied().unwrap_or(0));
            (both != 0).then(|| (word * 64) as u32 + both.trailing_zeros())
        })
    }

    /// The boxes among the first `until` that meet this one, from `from` on.
    pub fn meeting(&mut self, sets: &Sets, what: &BoxOf, from: u32, until: u32) -> Vec<u32> {
        let List { boxes, meeting, .. } = self;
        let mut found = Vec::new();
        let Some(rows) = rows_of(boxes, meeting, sets, what, overlaps) else {
            return found;
        };
        for word in from as usize / 64..(until as usize).div_ceil(64) {
            let mut both = rows
                .iter()
                .fold(u64::MAX, |both, row| both & row.get(word).copied().unwrap_or(0));
            while both != 0 {
                let index = (word * 64) as u32 + both.trailing_zeros();
                if (from..until).contains(&index) {
                    found.push(index);
                }
                both &= both - 1;
            }
        }
        found
    }
}

/// Of a set to another.
type Relation = fn(&[(u32, u32)], &[(u32, u32)]) -> bool;

/// For each dimension, which boxes stand in this relation to a box there.
fn rows_of<'c>(
    boxes: &[BoxOf],
    known: &'c mut [HashMap<u32, Box<[u64]>>; DIMENSIONS],
    sets: &Sets,
    what: &BoxOf,
    related: Relation,
) -> Option<Vec<&'c [u64]>> {
    for (d, (known, number)) in known.iter_mut().zip(what).enumerate() {
        known.entry(*number).or_insert_with(|| {
            let wanted = sets.runs(d, *number);
            let dimension = sets.dimensions.get(d).map_or(&[][..], |d| d.sets.as_slice());
            let is_related: Vec<bool> = dimension.iter().map(|own| related(own, wanted)).collect();
            let mut bits = vec![0u64; boxes.len().div_ceil(64)];
            for (index, own) in boxes.iter().enumerate() {
                let hit = own.get(d).and_then(|n| is_related.get(*n as usize));
                if let (Some(true), Some(word)) = (hit, bits.get_mut(index / 64)) {
                    *word |= 1 << (index % 64);
                }
            }
            bits.into()
        });
    }
    known
        .iter()
        .zip(what)
        .map(|(known, number)| known.get(number).map(AsRef::as_ref))
        .collect()
}
