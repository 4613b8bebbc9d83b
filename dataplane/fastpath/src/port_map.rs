//! Port line: the verdict of each of the 65,536 ports, looked up in a few cycles.
//!
//! Where nearly all ports have the same leaf, as with some ports that are denied, up to 32 pieces that have not are kept
//! side by side and compared all at once: most packets are in none of them. Else up to 64 places where something changes are
//! compared, or half of them where those are enough: their count below a port is the number of its piece. The loops have no
//! branch, so that the compiler makes vector code of them for whatever the CPU has.
//!
//! More places are a bitmap with counts, 10 KiB that lines with equal places share; that is a third of a usual first cache,
//! which is why few places are none. With many scattered ports that are denied another 8 KiB say which have not the leaf of
//! nearly all, and one bit of them is enough for the rest.

use std::collections::HashMap;
use std::sync::{Arc, Weak};

/// Places that are compared all at once: two cache lines of them, or the first.
pub const FEW: usize = 64;
const HALF: usize = FEW / 2;
/// Pieces that are compared all at once.
const RARE: usize = 32;
/// Places that are compared one by one.
const BARE: usize = 4;

/// A bit for every port at which a new piece begins, and how many are set before each word.
#[derive(Debug, PartialEq, Eq)]
pub struct Bitmap {
    words: Box<[u64]>,
    before: Box<[u16]>,
}

impl Bitmap {
    fn from_starts(starts: &[u16]) -> Bitmap {
        let mut words = vec![0u64; 1024];
        for start in starts {
            if let Some(word) = words.get_mut(usize::from(start >> 6)) {
                *word |= 1 << (start & 63);
            }
        }
        let mut count = 0u16;
        let before = words.iter().map(|word| {
            let before = count;
            count += word.count_ones() as u16;
            before
        });
        Bitmap {
            before: before.collect(),
            words: words.into_boxed_slice(),
        }
    }

    #[inline(always)]
    fn piece(&self, port: u16) -> usize {
        let at = usize::from(port >> 6);
        let (Some(word), Some(before)) = (self.words.get(at), self.before.get(at)) else {
            return 0;
        };
        let upto = word & (u64::MAX >> (63 - (port & 63)));
        usize::from(*before) + upto.count_ones() as usize
    }
}

/// A bit for each port.
type Bits = [u64; 1024];

/// Things in use by what they were made of, so that lines that need the same have one.
#[derive(Debug)]
struct Known<T> {
    known: HashMap<Box<[u16]>, Weak<T>>,
    swept: usize,
}

impl<T> Default for Known<T> {
    fn default() -> Self {
        Known {
            known: HashMap::new(),
            swept: 0,
        }
    }
}

impl<T> Known<T> {
    fn of(&mut self, from: &[u16], make: impl FnOnce(&[u16]) -> T) -> Arc<T> {
        if let Some(known) = self.known.get(from).and_then(Weak::upgrade) {
            return known;
        }
        let made = Arc::new(make(from));
        self.known.insert(from.into(), Arc::downgrade(&made));
        // What nobody has any more goes, now and then.
        if self.known.len() > 2 * self.swept + 16 {
            self.known.retain(|_, map| map.strong_count() > 0);
            self.swept = self.known.len();
        }
        made
    }
}

#[derive(Debug, Default)]
pub struct Bitmaps {
    places: Known<Bitmap>,
    odd: Known<Bits>,
}

/// The leaf of nearly all ports, and a bit for each port that has another.
#[derive(Debug)]
pub struct ExceptionBits {
    odd: Arc<Bits>,
    leaf: u32,
}

impl ExceptionBits {
    fn new(pieces: &[(u16, u32)], maps: &mut Bitmaps) -> Option<ExceptionBits> {
        let (leaf, others) = split(pieces)?;
        let edges: Vec<u16> = others
            .into_iter()
            .flat_map(|(start, end, _)| [start, end])
            .collect();
        let odd = maps.odd.of(&edges, |edges| {
            let mut bits = [0u64; 1024];
            for (start, end) in edges.iter().zip(edges.iter().skip(1)).step_by(2) {
                for port in *start..=*end {
                    bits[usize::from(port >> 6)] |= 1 << (port & 63);
                }
            }
            bits
        });
        Some(ExceptionBits { odd, leaf })
    }

    #[inline(always)]
    fn has(&self, port: u16) -> bool {
        self.odd[usize::from(port >> 6)] >> (port & 63) & 1 == 0
    }
}

/// Ports that may have another leaf than all others: with more of them, that they are few helps too seldom.
const MOST: u32 = 1 << 13;

/// First and last port of a piece, and its leaf.
type Piece = (u16, u16, u32);

/// The leaf of nearly all ports, and the other pieces; none when there is no such leaf.
fn split(pieces: &[(u16, u32)]) -> Option<(u32, Vec<Piece>)> {
    let ends = pieces.iter().skip(1).map(|(start, _)| start.wrapping_sub(1));
    let ranges = pieces.iter().zip(ends.chain([u16::MAX]));
    let ranges: Vec<Piece> = ranges.map(|((start, leaf), end)| (*start, end, *leaf)).collect();
    let mut widths: HashMap<u32, u32> = HashMap::new();
    for (start, end, leaf) in &ranges {
        *widths.entry(*leaf).or_default() += u32::from(end - start) + 1;
    }
    let (usual, width) = widths.into_iter().max_by_key(|(leaf, width)| (*width, *leaf))?;
    let others = ranges.into_iter().filter(|(.., leaf)| *leaf != usual);
    (width >= (1 << 16) - MOST).then(|| (usual, others.collect()))
}

/// Some pieces among ports that all have the same leaf.
#[derive(Debug)]
pub struct SparseMap {
    firsts: [u16; RARE],
    /// How many ports each has; 0 where there are fewer pieces.
    counts: [u16; RARE],
    leaves: [u32; RARE],
    usual: u32,
}

impl SparseMap {
    fn from_pieces(pieces: &[(u16, u32)]) -> Option<SparseMap> {
        let (usual, others) = split(pieces)?;
        if others.len() > RARE {
            return None;
        }
        let mut rare = SparseMap {
            firsts: [0; RARE],
            counts: [0; RARE],
            leaves: [0; RARE],
            usual,
        };
        let places = rare.firsts.iter_mut().zip(&mut rare.counts).zip(&mut rare.leaves);
        for (((first, count), leaf), (start, end, own)) in places.zip(others) {
            (*first, *count, *leaf) = (start, end - start + 1, own);
        }
        Some(rare)
    }

    #[inline(always)]
    fn leaf(&self, port: u16) -> u32 {
        let mut found = 0;
        for (first, count) in self.firsts.iter().zip(&self.counts) {
            found |= u16::from(port.wrapping_sub(*first) < *count);
        }
        if found == 0 { self.usual } else { self.rare(port) }
    }

    /// The pieces do not overlap, so that one of them has the port.
    #[inline(always)]
    fn rare(&self, port: u16) -> u32 {
        let mut found = 0;
        for ((first, count), leaf) in self.firsts.iter().zip(&self.counts).zip(&self.leaves) {
            found |= if port.wrapping_sub(*first) < *count {
                *leaf
            } else {
                0
            };
        }
        found
    }
}

/// What happens at each port.
#[derive(Debug)]
#[allow(
    clippy::large_enum_variant,
    reason = "behind a pointer it would be one more load on the way of every packet"
)]
pub enum PortMap {
    /// The last port of each piece but the last one, then 65535, which no port is above.
    Bare([u16; BARE], [u32; BARE + 1]),
    /// The same for more places, leaves from the last to the first; whether there are more than the first half.
    Few([u16; FEW], [u32; FEW + 1], bool),
    /// Some pieces, and all other ports.
    Rare(SparseMap),
    /// The same as few for any number of places, and which ports need no look at them.
    Many(Option<ExceptionBits>, Arc<Bitmap>, Box<[u32]>),
}

impl PortMap {
    /// A line of pieces: where each begins (the first at 0, rising), and its leaf.
    pub fn new(pieces: &[(u16, u32)], maps: &mut Bitmaps) -> PortMap {
        if pieces.len() <= BARE + 1 {
            let (lasts, leaves) = filled(pieces);
            return PortMap::Bare(lasts, leaves);
        }
        if let Some(rare) = SparseMap::from_pieces(pieces) {
            return PortMap::Rare(rare);
        }
        if pieces.len() <= FEW + 1 {
            let (lasts, mut leaves) = filled(pieces);
            leaves.reverse();
            return PortMap::Few(lasts, leaves, pieces.len() > HALF + 1);
        }
        let starts: Vec<u16> = pieces.iter().skip(1).map(|(start, _)| *start).collect();
        let leaves = pieces.iter().map(|(_, leaf)| *leaf).collect();
        PortMap::Many(
            ExceptionBits::new(pieces, maps),
            maps.places.of(&starts, Bitmap::from_starts),
            leaves,
        )
    }

    /// The leaf of a port.
    #[inline(always)]
    pub fn leaf(&self, port: u16) -> u32 {
        if let PortMap::Rare(rare) = self {
            return rare.leaf(port);
        }
        let leaf = if let PortMap::Few(lasts, leaves, both) = self {
            let (first, second) = lasts.split_at(HALF);
            let mut piece = below(port, first);
            if *both {
                piece += below(port, second);
            }
            // 64 less the piece. A plain index would be taken apart into a sum of terms: what compilers make of this is
            // vector compares, a bit mask and a popcount.
            leaves.get(usize::from(piece ^ 127).wrapping_sub(127 - FEW))
        } else if let PortMap::Bare([a, b, c, d], leaves) = self {
            let piece = u8::from(port > *a) + u8::from(port > *b) + u8::from(port > *c) + u8::from(port > *d);
            leaves.get(usize::from(piece))
        } else if let PortMap::Many(usual, map, leaves) = self {
            match usual {
                Some(usual) if usual.has(port) => Some(&usual.leaf),
                _ => leaves.get(map.piece(port)),
            }
        } else {
            None
        };
        match leaf {
            Some(leaf) => *leaf,
            None => u32::MAX,
        }
    }

    /// Bytes that it takes, without a shared bitmap.
    pub fn bytes(&self) -> usize {
        let leaves = match self {
            PortMap::Bare(..) | PortMap::Few(..) | PortMap::Rare(_) => 0,
            PortMap::Many(.., leaves) => leaves.len() * size_of::<u32>(),
        };
        size_of::<PortMap>() + leaves
    }
}

/// How many of half a line's places are below a port.
#[inline(always)]
fn below(port: u16, lasts: &[u16]) -> u16 {
    let Some(lasts) = lasts.first_chunk::<HALF>() else {
        return 0;
    };
    let mut count = 0;
    for last in lasts {
        count += u16::from(port > *last);
    }
    count
}

/// Ends and leaves of pieces, in arrays with room for them.
fn filled<const LASTS: usize, const LEAVES: usize>(pieces: &[(u16, u32)]) -> ([u16; LASTS], [u32; LEAVES]) {
    let (mut lasts, mut leaves) = ([u16::MAX; LASTS], [0; LEAVES]);
    for (last, (start, _)) in lasts.iter_mut().zip(pieces.iter().skip(1)) {
        *last = start.wrapping_sub(1);
    }
    for (place, (_, leaf)) in leaves.iter_mut().zip(pieces) {
        *place = *leaf;
    }
    (lasts, leaves)
}
