//! Prefix tables against the smallest there are, found by trying every choice; and against published figures.
#![allow(clippy::unwrap_used, clippy::panic, reason = "a test fails by panicking")]

use crate::witness;

use std::collections::HashMap;

use portcullis_compiler::lower::ortc::{Row, ortc};
use portcullis_compiler::row::range_lines;
use witness::Random;

/// More than any table.
const NEVER: u32 = u32::MAX / 4;

/// The coloured line of these numbers.
fn partition(colours: &[u8]) -> Vec<(u16, u8)> {
    let mut list: Vec<(u16, u8)> = (0..=u16::MAX).zip(colours.iter().copied()).collect();
    list.dedup_by_key(|(_, colour)| *colour);
    list
}

/// 1 within the range, 0 elsewhere.
fn range(low: u16, high: u16, width: u8) -> Vec<(u16, u8)> {
    let last = u16::MAX >> (16 - width);
    let mut list = vec![(low, 1)];
    if low > 0 {
        list.insert(0, (0, 0));
    }
    if high < last {
        list.push((high + 1, 0));
    }
    list
}

/// Paints the rows over the inherited colour, shortest first. 255 where nothing is.
fn paint(rows: &[Row<u8>], width: u8, inherited: Option<u8>, line: &mut Vec<u8>) {
    line.clear();
    line.resize(1 << width, inherited.unwrap_or(u8::MAX));
    assert!(rows.is_sorted_by_key(|row| row.len));
    for row in rows {
        let size = 1usize << (width - row.len);
        let start = usize::from(row.value);
        assert_eq!(start % size, 0, "{row:?} is no prefix");
        line[start..start + size].fill(row.colour);
    }
}

/// The fewest rows of a block of `width` bits in which the numbers `inside` (relative, inclusive) have colour 1 and the
/// others 0, where `inherited` is what the rows around it give. Blocks of equal content share their answer.
struct Fewest(HashMap<Content, u32>);

/// Width, numbers of colour 1, and the inherited colour.
type Content = (u8, Option<(u16, u16)>, Option<u8>);

impl Fewest {
    fn of(&mut self, width: u8, inside: Option<(u16, u16)>, inherited: Option<u8>) -> u32 {
        let key = (width, inside, inherited);
        if let Some(known) = self.0.get(&key) {
            return *known;
        }
        let keep = inherited.map_or(NEVER, |colour| self.below(width, inside, colour));
        let write = (0..=1)
            .map(|colour| 1 + self.below(width, inside, colour))
            .min()
            .unwrap();
        let fewest = keep.min(write);
        self.0.insert(key, fewest);
        fewest
    }

    /// The rows of both halves when the block has a colour.
    fn below(&mut self, width: u8, inside: Option<(u16, u16)>, colour: u8) -> u32 {
        if width == 0 {
            let wanted = u8::from(inside.is_some());
            return if wanted == colour { 0 } else { NEVER };
        }
        let half = 1u16 << (width - 1);
        let zero = inside
            .filter(|(low, _)| *low < half)
            .map(|(low, high)| (low, high.min(half - 1)));
        let one = inside
            .filter(|(_, high)| *high >= half)
            .map(|(low, high)| (low.max(half) - half, high - half));
        self.of(width - 1, zero, Some(colour)) + self.of(width - 1, one, Some(colour))
    }
}

#[test]
fn every_range_up_to_ten_bits_takes_the_fewest_rows() {
    let mut fewest = Fewest(HashMap::new());
    let mut line = Vec::new();
    let mut ranges = 0u32;
    for width in 1..=10u8 {
        let last = u16::MAX >> (16 - width);
        let mut worst = 0;
        for low in 0..=last {
            for high in low..=last {
                let list = range(low, high, width);
                ranges += 1;
                for inherited in [None, Some(0), Some(1)] {
                    let rows = ortc(&list, width, inherited);
                    let best = fewest.of(width, Some((low, high)), inherited);
                    assert_eq!(
                        rows.len() as u32,
                        best,
                        "[{low},{high}] of {width} bits inheriting {inherited:?}"
                    );
                    paint(&rows, width, inherited, &mut line);
                    let (low, high) = (usize::from(low), usize::from(high));
                    assert!(line[..low].iter().chain(&line[high + 1..]).all(|c| *c == 0));
                    assert!(line[low..=high].iter().all(|c| *c == 1));
                    if inherited == Some(0) {
                        worst = worst.max(best);
                    }
                }
            }
        }
        assert!(
            worst <= u32::from(width),
            "{worst} rows for a range of {width} bits"
        );
    }
    // The sum of 2^(w-1) (2^w + 1) for w from 1 to 10.
    assert_eq!(ranges, 700_073);
}

/// The fewest rows for these numbers, by trying every choice for every block and inherited colour.
fn fewest(
    colours: &[u8],
    inherited: Option<u8>,
    known: &mut HashMap<(usize, usize, Option<u8>), u32>,
) -> u32 {
    fn block(
        colours: &[u8],
        at: usize,
        inherited: Option<u8>,
        known: &mut HashMap<(usize, usize, Option<u8>), u32>,
    ) -> u32 {
        let key = (at, colours.len(), inherited);
        if let Some(answer) = known.get(&key) {
            return *answer;
        }
        let mut below = |colour: u8| {
            if let [only] = colours {
                return if *only == colour { 0 } else { NEVER };
            }
            let (zero, one) = colours.split_at(colours.len() / 2);
            block(zero, at, Some(colour), known) + block(one, at + zero.len(), Some(colour), known)
        };
        let keep = inherited.map_or(NEVER, &mut below);
        let write = (0..4).map(|colour| 1 + below(colour)).min().unwrap();
        let answer = keep.min(write);
        known.insert(key, answer);
        answer
    }
    known.clear();
    block(colours, 0, inherited, known)
}

fn check(
    colours: &[u8],
    width: u8,
    inherited: Option<u8>,
    known: &mut HashMap<(usize, usize, Option<u8>), u32>,
) {
    let rows = ortc(&partition(colours), width, inherited);
    let mut line = Vec::new();
    paint(&rows, width, inherited, &mut line);
    assert_eq!(line, colours, "inheriting {inherited:?}: {rows:?}");
    let best = fewest(colours, inherited, known);
    assert_eq!(
        rows.len() as u32,
        best,
        "{colours:?} inheriting {inherited:?}: {rows:?}"
    );
}

#[test]
fn every_colouring_of_three_bits_takes_the_fewest_rows() {
    let mut known = HashMap::new();
    let mut count = 0;
    for code in 0..3u32.pow(8) {
        let colours: Vec<u8> = (0..8).map(|n| (code / 3u32.pow(n) % 3) as u8).collect();
        // Colour 3 is nowhere in the line.
        for inherited in [None, Some(0), Some(1), Some(2), Some(3)] {
            check(&colours, 3, inherited, &mut known);
            count += 1;
        }
    }
    assert_eq!(count, 5 * 6561);
}

#[test]
fn random_colourings_take_the_fewest_rows() {
    let mut random = Random(0x2545_f491_4f6c_dd1d);
    let mut known = HashMap::new();
    for round in 0..12_000u64 {
        let width = 1 + (round % 6) as u8;
        let palette = 1 + random.below(4);
        // Runs of one colour, short ones and long ones.
        let run = 1 + random.below(1 << width);
        let mut colours = Vec::with_capacity(1 << width);
        while colours.len() < 1 << width {
            let colour = random.below(palette) as u8;
            let length = 1 + random.below(run);
            colours.extend((0..length).map(|_| colour));
        }
        colours.truncate(1 << width);
        let inherited = match random.below(6) {
            5 => None,
            n => Some(n as u8),
        };
        check(&colours, width, inherited, &mut known);
    }
}

/// The fewest rows of a block, by the colour that it inherits.
fn fewest_of_many(line: &[u8], colours: usize) -> Vec<usize> {
    if let [only] = line {
        return (0..colours)
            .map(|c| usize::from(c != usize::from(*only)))
            .collect();
    }
    let (zero, one) = line.split_at(line.len() / 2);
    let halves = fewest_of_many(zero, colours)
        .into_iter()
        .zip(fewest_of_many(one, colours));
    let kept: Vec<usize> = halves.map(|(zero, one)| zero + one).collect();
    let written = 1 + kept.iter().min().unwrap();
    kept.into_iter().map(|kept| kept.min(written)).collect()
}

/// More than the 64 that are kept as bits of a number.
#[test]
fn lines_of_many_colours_take_the_fewest_rows() {
    const COLOURS: usize = 100;
    let mut random = Random(0x9e37_79b9_7f4a_7c15);
    for round in 0..200u64 {
        let run = 1 + round % 5;
        let mut line: Vec<u8> = (0..COLOURS as u8 - 1).collect();
        random.shuffle(&mut line);
        while line.len() < 256 {
            // Colours come again close by, so that a row may stand for several places.
            let colour = line[line.len() - 1 - random.below(4) as usize];
            line.extend((0..=random.below(run)).map(|_| colour));
        }
        line.truncate(256);
        let best = fewest_of_many(&line, COLOURS);
        // The last colour is nowhere in the line.
        let last = COLOURS - 1;
        for inherited in [None, Some(line[0]), Some(last as u8)] {
            let rows = ortc(&partition(&line), 8, inherited);
            let mut painted = Vec::new();
            paint(&rows, 8, inherited, &mut painted);
            assert_eq!(painted, line, "inheriting {inherited:?}");
            let best = best[inherited.map_or(last, usize::from)];
            assert_eq!(rows.len(), best, "{line:?} inheriting {inherited:?}");
        }
    }
}

#[test]
fn ranges_of_sixteen_bits_as_published() {
    let rows = |low, high| ortc(&range(low, high, 16), 16, Some(0)).len();
    assert_eq!(rows(1, 65534), 3);
    assert_eq!(rows(1024, 65535), 2);
    assert_eq!(rows(32768, 60999), 5);
    let mut random = Random(7);
    let (mut worst, mut sum) = (0, 0);
    for _ in 0..100_000 {
        let (a, b) = (random.port(), random.port());
        let n = rows(a.min(b), a.max(b));
        worst = worst.max(n);
        sum += n;
    }
    // Alternating bits are the hardest.
    let mut hard = Vec::new();
    for base in [0x5555u16, 0xaaaa, 0x3333, 0x2aaa, 0x1555, 0x6db6] {
        for shift in 0..16 {
            hard.extend([
                base >> shift,
                (base >> shift) | 1,
                base << shift,
                !(base >> shift),
            ]);
        }
    }
    for a in &hard {
        for b in &hard {
            worst = worst.max(rows(*a.min(b), *a.max(b)));
        }
    }
    println!(
        "a random range takes {:.2} rows, the worst {worst}",
        sum as f64 / 100_000.0
    );
    // Prefixes alone take 13.9 on average; 10.1 is published for priorities within and without.
    assert!(sum < 1_015_000, "{sum}");
    assert!(worst <= 16, "{worst}");
}

/// The TCP ports found open most often on the internet (nmap's top 100).
const MOST_USED: [u16; 100] = [
    7, 9, 13, 21, 22, 23, 25, 26, 37, 53, 79, 80, 81, 88, 106, 110, 111, 113, 119, 135, 139, 143, 144, 179,
    199, 389, 427, 443, 444, 445, 465, 513, 514, 515, 543, 544, 548, 554, 587, 631, 646, 873, 990, 993, 995,
    1025, 1026, 1027, 1028, 1029, 1110, 1433, 1720, 1723, 1755, 1900, 2000, 2001, 2049, 2121, 2717, 3000,
    3128, 3306, 3389, 3986, 4899, 5000, 5009, 5051, 5060, 5101, 5190, 5357, 5432, 5631, 5666, 5800, 5900,
    6000, 6001, 6646, 7070, 8000, 8008, 8009, 8080, 8081, 8443, 8888, 9100, 9999, 10000, 32768, 49152, 49153,
    49154, 49155, 49156, 49157,
];

#[test]
fn all_but_the_most_used_ports_as_published() {
    assert!(MOST_USED.is_sorted());
    let mut colours = vec![1u8; 1 << 16];
    for port in MOST_USED {
        colours[usize::from(port)] = 0;
    }
    for inherited in [0, 1] {
        let rows = ortc(&partition(&colours), 16, Some(inherited));
        let mut line = Vec::new();
        paint(&rows, 16, Some(inherited), &mut line);
        assert_eq!(line, colours);
        println!(
            "all but the 100 most used, inheriting {inherited}: {} rows",
            rows.len()
        );
        assert!(rows.len() <= 86, "{}", rows.len());
    }
}

#[test]
fn lines_of_ranges_as_published() {
    // Every range of up to twelve bits: three digits.
    let worst = |width: u16| {
        let last = (1u128 << width) - 1;
        let step = if width > 8 { 7 } else { 1 };
        let lows = (0..=last).step_by(step).chain([1, last - 1, last]);
        lows.flat_map(|low| (low..=last).map(move |high| range_lines(low, high, width)))
            .max()
    };
    assert_eq!([4, 8, 12].map(worst), [Some(1), Some(3), Some(5)]);
    let mut random = Random(11);
    for _ in 0..200_000 {
        let (a, b) = (u128::from(random.port()), u128::from(random.port()));
        let lines = range_lines(a.min(b), a.max(b), 16);
        assert!((1..=7).contains(&lines), "[{a},{b}] takes {lines}");
    }
    assert_eq!(range_lines(1, 65534, 16), 7);
    assert_eq!(range_lines(0, 65535, 16), 1);
}
