//! A line: what happens at each of the 65,536 ports, found in a handful of cycles.
//!
//! Up to 64 places where something changes are kept side by side and compared all at once, or half of them where those
//! are enough: their count below a port is the number of its piece. The loops have no branch, so that the compiler makes
//! vector code of them for whatever the CPU has. More places are a bitmap with counts, 10 KiB that lines with equal places
//! share; that is a third of a usual first cache, which is why few places are none.

use std::collections::HashMap;
use std::sync::{Arc, Weak};

/// Places that are compared all at once: two cache lines of them, or the first.
pub const FEW: usize = 64;
const HALF: usize = FEW / 2;
/// Places that are compared one by one.
const BARE: usize = 4;

/// A bit for every port at which a new piece begins, and how many are set before each word.
#[derive(Debug, PartialEq, Eq)]
pub struct Bitmap {
    words: Box<[u64]>,
    before: Box<[u16]>,
}

impl Bitmap {
    fn of(starts: &[u16]) -> Bitmap {
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

/// Bitmaps in use, so that lines with the same places have one.
#[derive(Debug, Default)]
pub struct Bitmaps {
    known: HashMap<Box<[u16]>, Weak<Bitmap>>,
    swept: usize,
}

impl Bitmaps {
    fn of(&mut self, starts: &[u16]) -> Arc<Bitmap> {
        if let Some(known) = self.known.get(starts).and_then(Weak::upgrade) {
            return known;
        }
        let made = Arc::new(Bitmap::of(starts));
        self.known.insert(starts.into(), Arc::downgrade(&made));
        // What nobody has any more goes, now and then.
        if self.known.len() > 2 * self.swept + 16 {
            self.known.retain(|_, map| map.strong_count() > 0);
            self.swept = self.known.len();
        }
        made
    }
}

/// What happens at each port.
#[derive(Debug)]
#[allow(
    clippy::large_enum_variant,
    reason = "behind a pointer it would be one more load on the way of every packet"
)]
pub enum Line {
    /// The last port of each piece but the last one, then 65535, which no port is above.
    Bare([u16; BARE], [u32; BARE + 1]),
    /// The same for more places, leaves from the last to the first; whether there are more than the first half.
    Few([u16; FEW], [u32; FEW + 1], bool),
    /// The same for any number of places.
    Many(Arc<Bitmap>, Box<[u32]>),
}

impl Line {
    /// A line of pieces: where each begins (the first at 0, rising), and its leaf.
    pub fn of(pieces: &[(u16, u32)], maps: &mut Bitmaps) -> Line {
        if pieces.len() <= BARE + 1 {
            let (lasts, leaves) = filled(pieces);
            return Line::Bare(lasts, leaves);
        }
        if pieces.len() <= FEW + 1 {
            let (lasts, mut leaves) = filled(pieces);
            leaves.reverse();
            return Line::Few(lasts, leaves, pieces.len() > HALF + 1);
        }
        let starts: Vec<u16> = pieces.iter().skip(1).map(|(start, _)| *start).collect();
        Line::Many(maps.of(&starts), pieces.iter().map(|(_, leaf)| *leaf).collect())
    }

    /// The leaf of a port.
    #[inline(always)]
    pub fn leaf(&self, port: u16) -> u32 {
        let leaf = if let Line::Few(lasts, leaves, both) = self {
            let (first, second) = lasts.split_at(HALF);
            let mut piece = below(port, first);
            if *both {
                piece += below(port, second);
            }
            // 64 less the piece. A plain index would be taken apart into a sum of terms: what compilers make of this is
            // vector compares, a bit mask and a popcount.
            leaves.get(usize::from(piece ^ 127).wrapping_sub(127 - FEW))
        } else if let Line::Bare([a, b, c, d], leaves) = self {
            let piece = u8::from(port > *a) + u8::from(port > *b) + u8::from(port > *c) + u8::from(port > *d);
            leaves.get(usize::from(piece))
        } else if let Line::Many(map, leaves) = self {
            leaves.get(map.piece(port))
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
            Line::Bare(..) | Line::Few(..) => 0,
            Line::Many(_, leaves) => leaves.len() * size_of::<u32>(),
        };
        size_of::<Line>() + leaves
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
