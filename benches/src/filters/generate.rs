//! Filter sets like ClassBench's, made up: the same shapes from a seed, without anybody's addresses.
//!
//! The recipe, with figures taken from the published sets of 1,000 and 10,000 filters:
//!
//! 1. Each side gets a pool of prefixes. A few address blocks (/13 to /16) hold sites (/21 to /24), and the rest of the
//!    pool lies within a block or a site, so prefixes nest three to six deep counting the very short ones. Lengths
//!    follow the kind's weights; the pool's size is a share of the number of filters.
//! 2. A filter takes a prefix of each pool, the first ones far more often than the last (the square of an even draw),
//!    or, as often as its kind does, a prefix of length 0 to 2. As often as the kind does, it takes both prefixes of an
//!    earlier filter.
//! 3. The protocol follows the kind's weights; for TCP and UDP a pair of port classes does: any, high (1024 to 65535),
//!    low (0 to 1023), one port, or one of a few other ranges. Ports and ranges come from short lists of the set.
//!    Other protocols leave ports open.
//! 4. A filter that is there already is drawn again, some times. Then the filters are ordered: narrow ones tend to come
//!    first, as in the published sets, so that few filters are hidden wholly.

use std::collections::HashSet;
use std::fmt::Write;
use std::net::Ipv4Addr;

/// Which of ClassBench's families of seeds a set is like.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Kind {
    /// Access control list: any source port, about 100 destination ports and ranges.
    Acl,
    /// Firewall: many wide prefixes; any, high, low and single ports on both sides, about 50 of them.
    Fw,
    /// IP chains: in between.
    Ipc,
}

/// Draws numbers: SplitMix64 (Steele, Lea and Flood, 2014).
struct Draw(u64);

impl Draw {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// A number below `n`, or 0.
    fn below(&mut self, n: u64) -> u64 {
        let wide = u128::from(self.next()) * u128::from(n);
        u64::try_from(wide >> 64).unwrap_or(0)
    }

    fn between(&mut self, low: u32, high: u32) -> u32 {
        let span = u64::from(high.saturating_sub(low)) + 1;
        low.saturating_add(u32::try_from(self.below(span)).unwrap_or(0))
    }

    /// One of a list, by weight; `otherwise` when the list is empty.
    fn weighted<T: Copy>(&mut self, list: &[(u32, T)], otherwise: T) -> T {
        let mut left = self.below(list.iter().map(|(w, _)| u64::from(*w)).sum());
        for (weight, item) in list {
            match left.checked_sub(u64::from(*weight)) {
                Some(less) => left = less,
                None => return *item,
            }
        }
        otherwise
    }

    /// One of a list, the first ones far more often.
    fn skewed<T: Copy>(&mut self, list: &[T], otherwise: T) -> T {
        let even = u128::from(self.next() >> 32);
        let index = (even * even * list.len() as u128) >> 64;
        usize::try_from(index)
            .ok()
            .and_then(|i| list.get(i).copied())
            .unwrap_or(otherwise)
    }
}

/// An IPv4 prefix: address without host bits, length.
type Prefix = (u32, u32);

const ANYWHERE: Prefix = (0, 0);

fn masked(address: u32, length: u32) -> Prefix {
    let mask = u32::MAX.checked_shl(32 - length.min(32)).unwrap_or(0);
    (address & mask, length)
}

/// A prefix of this length within another, shorter one.
fn within(draw: &mut Draw, (address, shorter): Prefix, length: u32) -> Prefix {
    let low = draw.between(0, u32::MAX).checked_shr(shorter).unwrap_or(0);
    masked(address | low, length)
}

/// How one side of the filters looks. Weights are per mille.
struct Side {
    /// Filters whose prefix has length 0, 1 or 2.
    wide: u32,
    /// Prefixes in the pool, per thousand filters; not all of them are taken.
    pool: usize,
    /// Prefix lengths of the pool: weight, shortest, longest.
    lengths: &'static [(u32, (u32, u32))],
}

const ANY: u8 = 0;
const HIGH: u8 = 1;
const LOW: u8 = 2;
const ONE: u8 = 3;
const RANGE: u8 = 4;

struct Recipe {
    source: Side,
    destination: Side,
    /// Filters that take both prefixes of an earlier one, per mille.
    again: u32,
    /// Weight and number; 0 is any.
    protocols: &'static [(u32, u8)],
    /// Weight and classes of source and destination ports, for TCP and UDP.
    ports: &'static [(u32, (u8, u8))],
    /// How many single source ports, source ranges, single destination ports, destination ranges there are.
    distinct: [usize; 4],
}

const ACL: Recipe = Recipe {
    source: Side {
        wide: 15,
        pool: 200,
        lengths: &[
            (500, (32, 32)),
            (220, (31, 31)),
            (50, (30, 30)),
            (20, (26, 29)),
            (180, (21, 25)),
            (20, (12, 17)),
            (10, (7, 9)),
        ],
    },
    destination: Side {
        wide: 20,
        pool: 500,
        lengths: &[
            (490, (32, 32)),
            (190, (31, 31)),
            (50, (30, 30)),
            (30, (26, 29)),
            (180, (21, 25)),
            (40, (12, 17)),
            (20, (4, 9)),
        ],
    },
    again: 300,
    protocols: &[(870, 6), (80, 0), (30, 1), (20, 17)],
    ports: &[(690, (ANY, ONE)), (180, (ANY, ANY)), (130, (ANY, RANGE))],
    distinct: [0, 0, 70, 30],
};

const FW: Recipe = Recipe {
    source: Side {
        wide: 590,
        pool: 150,
        lengths: &[
            (440, (32, 32)),
            (250, (31, 31)),
            (70, (30, 30)),
            (110, (26, 29)),
            (110, (20, 25)),
            (20, (7, 15)),
        ],
    },
    destination: Side {
        wide: 310,
        pool: 250,
        lengths: &[
            (370, (32, 32)),
            (260, (31, 31)),
            (70, (30, 30)),
            (50, (26, 29)),
            (250, (20, 25)),
        ],
    },
    again: 400,
    protocols: &[(400, 6), (250, 17), (200, 7), (50, 8), (40, 47), (30, 1), (30, 0)],
    ports: &[
        (330, (ANY, ONE)),
        (180, (HIGH, ONE)),
        (160, (ONE, ONE)),
        (90, (ONE, HIGH)),
        (70, (ANY, ANY)),
        (60, (HIGH, HIGH)),
        (50, (LOW, ONE)),
        (40, (ONE, ANY)),
        (8, (ONE, LOW)),
        (6, (HIGH, ANY)),
        (4, (RANGE, HIGH)),
        (2, (HIGH, RANGE)),
    ],
    distinct: [22, 3, 43, 3],
};

const IPC: Recipe = Recipe {
    source: Side {
        wide: 130,
        pool: 380,
        lengths: &[
            (230, (32, 32)),
            (90, (31, 31)),
            (20, (30, 30)),
            (50, (27, 29)),
            (510, (21, 26)),
            (100, (15, 17)),
        ],
    },
    destination: Side {
        wide: 75,
        pool: 760,
        lengths: &[
            (290, (32, 32)),
            (120, (31, 31)),
            (20, (30, 30)),
            (60, (27, 29)),
            (400, (21, 26)),
            (110, (15, 17)),
        ],
    },
    again: 80,
    protocols: &[(375, 17), (335, 0), (272, 6), (13, 1), (2, 51), (2, 50), (1, 47)],
    ports: &[
        (520, (ANY, ONE)),
        (252, (ONE, ANY)),
        (86, (ANY, HIGH)),
        (50, (ANY, ANY)),
        (46, (ANY, RANGE)),
        (22, (RANGE, ANY)),
        (14, (ONE, ONE)),
        (8, (HIGH, ANY)),
        (2, (ONE, RANGE)),
    ],
    distinct: [23, 5, 40, 5],
};

/// Ports that most networks filter on; the sets add others of their own.
const KNOWN: [u32; 24] = [
    80, 53, 25, 443, 22, 21, 23, 123, 161, 1521, 514, 110, 1433, 137, 88, 143, 389, 69, 119, 162, 20, 3306,
    111, 79,
];

impl Side {
    fn pool(&self, draw: &mut Draw, filters: usize) -> Vec<Prefix> {
        let size = (filters.saturating_mul(self.pool) / 1000).max(1);
        let blocks: Vec<Prefix> = (0..4 + size / 40)
            .map(|_| {
                let length = draw.between(13, 16);
                masked(draw.between(0x0100_0000, 0xdfff_ffff), length)
            })
            .collect();
        let sites: Vec<Prefix> = (0..4 + size / 8)
            .map(|_| {
                let (block, length) = (draw.skewed(&blocks, ANYWHERE), draw.between(21, 24));
                within(draw, block, length)
            })
            .collect();
        let (mut pool, mut seen) = (Vec::new(), HashSet::new());
        // Short lengths run out of prefixes; the bound keeps that from lasting.
        for _ in 0..size.saturating_mul(8) {
            if pool.len() == size {
                break;
            }
            let (shortest, longest) = draw.weighted(self.lengths, (32, 32));
            let length = draw.between(shortest, longest);
            let site = draw.skewed(&sites, ANYWHERE);
            let block = draw.skewed(&blocks, ANYWHERE);
            let parent = match length {
                25.. if draw.below(3) > 0 => site,
                17.. => block,
                _ => masked(block.0, length),
            };
            let prefix = within(draw, parent, length);
            if seen.insert(prefix) {
                pool.push(prefix);
            }
        }
        pool
    }

    fn pick(&self, draw: &mut Draw, pool: &[Prefix]) -> Prefix {
        if draw.below(1000) < u64::from(self.wide) {
            let length = draw.weighted(&[(640, 0), (310, 1), (50, 2)], 0);
            return masked(draw.between(0, u32::MAX), length);
        }
        draw.skewed(pool, ANYWHERE)
    }
}

/// The single ports and the ranges of one side.
struct Ports {
    ones: Vec<(u32, u32)>,
    ranges: Vec<(u32, u32)>,
}

impl Ports {
    fn new(draw: &mut Draw, ones: usize, ranges: usize) -> Self {
        let mut known = KNOWN.to_vec();
        // Which are the frequent ones differs from set to set.
        for index in 1..known.len() {
            let other = usize::try_from(draw.below(index as u64 + 1)).unwrap_or(0);
            known.swap(index, other);
        }
        let single = (0..ones).map(|index| {
            let port = match known.get(index / 2) {
                Some(port) if index % 2 == 0 => *port,
                _ => draw.between(500, 32_000),
            };
            (port, port)
        });
        let ones = single.collect();
        let range = (0..ranges).map(|_| {
            let low = draw.between(20, 60_000);
            (
                low,
                low + draw.weighted(&[(5, 1), (3, 9), (3, 49), (1, 166), (1, 5000)], 1),
            )
        });
        Ports {
            ones,
            ranges: range.collect(),
        }
    }

    fn of(&self, draw: &mut Draw, class: u8) -> (u32, u32) {
        const ALL: (u32, u32) = (0, 65535);
        match class {
            HIGH => (1024, 65535),
            LOW => (0, 1023),
            ONE => draw.skewed(&self.ones, ALL),
            RANGE => draw.skewed(&self.ranges, ALL),
            _ => ALL,
        }
    }
}

type Filter = (Prefix, Prefix, (u32, u32), (u32, u32), u8);

/// About how many bits of a packet's 104 the filter leaves open: no filter is broader than one that covers it.
fn breadth((source, destination, from, to, protocol): Filter) -> u32 {
    let open = |(low, high): (u32, u32)| 32 - (high - low).leading_zeros();
    let protocol = if protocol == 0 { 8 } else { 0 };
    64 - source.1 - destination.1 + open(from) + open(to) + protocol
}

fn write(text: &mut String, (source, destination, from, to, protocol): Filter, flags: &str) {
    let prefix = |(address, length): Prefix| format!("{}/{length}", Ipv4Addr::from(address));
    let mask = if protocol == 0 { "0x00" } else { "0xFF" };
    // Writing to a string does not fail.
    let _ = writeln!(
        text,
        "@{}\t{}\t{} : {}\t{} : {}\t0x{protocol:02x}/{mask}\t{flags}\t",
        prefix(source),
        prefix(destination),
        from.0,
        from.1,
        to.0,
        to.1,
    );
}

/// A set of `filters` filters in ClassBench's format, the same for the same arguments on every machine.
pub fn generate(kind: Kind, filters: usize, seed: u64) -> String {
    let recipe = match kind {
        Kind::Acl => &ACL,
        Kind::Fw => &FW,
        Kind::Ipc => &IPC,
    };
    let draw = &mut Draw(seed ^ ((kind as u64 + 1) << 56));
    let sources = recipe.source.pool(draw, filters);
    let destinations = recipe.destination.pool(draw, filters);
    let [ones, ranges, to_ones, to_ranges] = recipe.distinct;
    let (from, to) = (
        Ports::new(draw, ones, ranges),
        Ports::new(draw, to_ones, to_ranges),
    );
    let mut seen: HashSet<Filter> = HashSet::new();
    let mut list: Vec<(u32, Filter)> = Vec::new();
    while list.len() < filters {
        let one = |draw: &mut Draw| {
            let protocol = draw.weighted(recipe.protocols, 6);
            let open = !matches!(protocol, 6..=8 | 17);
            let (a, b) = if open {
                (ANY, ANY)
            } else {
                draw.weighted(recipe.ports, (ANY, ANY))
            };
            let earlier = usize::try_from(draw.below(list.len() as u64)).ok();
            let again = draw.below(1000) < u64::from(recipe.again);
            let (source, destination) = match earlier.and_then(|i| list.get(i)).filter(|_| again) {
                Some((_, (source, destination, ..))) => (*source, *destination),
                None => (
                    recipe.source.pick(draw, &sources),
                    recipe.destination.pick(draw, &destinations),
                ),
            };
            (source, destination, from.of(draw, a), to.of(draw, b), protocol)
        };
        let drawn: Filter = one(draw);
        // Small sets may have fewer different filters than asked for.
        let filter = (0..20).fold(
            drawn,
            |kept, _| if seen.contains(&kept) { one(draw) } else { kept },
        );
        seen.insert(filter);
        list.push((breadth(filter) + draw.between(0, 8), filter));
    }
    list.sort_by_key(|(breadth, _)| *breadth);
    let mut text = String::new();
    for (_, filter) in list {
        let flags: &[(u32, &str)] = match filter.4 {
            6 => &[(8, "0x0000/0x0000"), (1, "0x1000/0x1000"), (1, "0x0000/0x0200")],
            _ => &[(1, "0x0000/0x0000")],
        };
        write(&mut text, filter, draw.weighted(flags, "0x0000/0x0000"));
    }
    text
}
