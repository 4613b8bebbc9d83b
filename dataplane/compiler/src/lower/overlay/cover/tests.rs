//! Covers are right, and with masks the fewest.

use super::*;

/// A small generator with a fixed seed.
struct Dice(u64);

impl Dice {
    fn roll(&mut self, sides: u64) -> u64 {
        self.0 = self
            .0
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) % sides
    }

    /// Strips over `width` bits; each can be right in some way.
    fn strips(&mut self, width: u8) -> Vec<(u16, Strip)> {
        let one = |dice: &mut Dice| loop {
            let strip = Strip {
                colours: u128::from(dice.roll(8) & dice.roll(8)),
                pass: dice.roll(2) == 0,
            };
            if !strip.is_impossible() {
                return strip;
            }
        };
        let mut strips: Vec<(u16, Strip)> = (0..1u16 << width).map(|n| (n, one(self))).collect();
        strips.dedup_by(|next, kept| next.1 == kept.1);
        strips
    }
}

fn strip_of(strips: &[(u16, Strip)], number: u16) -> Strip {
    strips[strips.partition_point(|(start, _)| *start <= number) - 1].1
}

fn check(strips: &[(u16, Strip)], rows: &[Cover], last: u16) {
    for number in 0..=last {
        let hit = rows
            .iter()
            .filter(|row| row.port.hits(number, 0))
            .max_by_key(|row| row.rank);
        let strip = strip_of(strips, number);
        assert!(
            strip.holds(hit.map(|row| row.colour)),
            "{number} of {strips:?} under {rows:?}"
        );
    }
}

/// The fewest rows over these numbers under a colour, by trying every choice.
fn fewest(strips: &[Strip], under: Option<u32>) -> u32 {
    let below = |under: Option<u32>| match strips {
        [only] => {
            if only.holds(under) {
                0
            } else {
                IMPOSSIBLE
            }
        }
        _ => {
            let (left, right) = strips.split_at(strips.len() / 2);
            fewest(left, under) + fewest(right, under)
        }
    };
    (0..3)
        .map(|colour| 1 + below(Some(colour)))
        .fold(below(under), u32::min)
}

#[test]
fn masks_take_the_fewest_rows() {
    let mut dice = Dice(7);
    for round in 0..3000 {
        let width = 1 + (round % 4) as u8;
        let strips = dice.strips(width);
        let dimension = Dimension {
            width,
            support: MatchSupport::Masked,
        };
        let rows = cover(&strips, dimension).unwrap();
        check(&strips, &rows, dimension.last());
        let numbers: Vec<Strip> = (0..=dimension.last()).map(|n| strip_of(&strips, n)).collect();
        assert_eq!(rows.len() as u32, fewest(&numbers, None), "{strips:?}: {rows:?}");
    }
}

#[test]
fn ranges_and_values_are_right() {
    let mut dice = Dice(11);
    for round in 0..3000 {
        let width = 1 + (round % 4) as u8;
        let strips = dice.strips(width);
        for support in [MatchSupport::Range, MatchSupport::Exact] {
            let dimension = Dimension { width, support };
            // A strip under no colour can make it impossible to stand another below all.
            if let Some(rows) = cover(&strips, dimension) {
                check(&strips, &rows, dimension.last());
            }
        }
    }
}

#[test]
fn parts_do_not_overlap_and_are_right() {
    let mut dice = Dice(13);
    for round in 0..3000 {
        let width = 1 + (round % 4) as u8;
        let strips = dice.strips(width);
        for support in [MatchSupport::Masked, MatchSupport::Range, MatchSupport::Exact] {
            let dimension = Dimension { width, support };
            let parts = partition(&strips, dimension, &[1, 2, 3]).unwrap();
            for number in 0..=dimension.last() {
                let hits: Vec<u32> = parts
                    .iter()
                    .filter(|(port, _)| port.hits(number, 0))
                    .map(|(_, c)| *c)
                    .collect();
                assert!(hits.len() <= 1, "{number} of {strips:?}: {parts:?}");
                assert!(
                    strip_of(&strips, number).holds(hits.first().copied()),
                    "{number} of {strips:?}: {parts:?}"
                );
            }
        }
    }
}
