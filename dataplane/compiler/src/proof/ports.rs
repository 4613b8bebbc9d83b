//! Sets of port numbers as runs, and the code stages as functions of a port.

use std::collections::BTreeMap;
use std::sync::Arc;

use crate::class_rows::{CodeStage, Codes, PortMatch};

/// Inclusive, `first <= last`.
pub(super) type Run = (u16, u16);

/// What codes the ports of one dimension have.
#[derive(Debug, Clone, Copy)]
pub(super) enum Coding<'a> {
    Constant(u64),
    ByPort(&'a CodeMap),
}

/// Appends the runs of the numbers up to `last` that `port` matches: ascending, apart from each other.
pub(super) fn runs(port: PortMatch, coding: Coding<'_>, last: u16, out: &mut Vec<Run>) {
    match port {
        PortMatch::Any => out.push((0, last)),
        PortMatch::Range { low, high } if low <= high && low <= last => out.push((low, high.min(last))),
        PortMatch::Range { .. } => {}
        PortMatch::Masked { value, mask } => masked(value, mask, last, out),
        PortMatch::Code { value, mask } => match coding {
            Coding::Constant(code) if code & mask == value => out.push((0, last)),
            Coding::Constant(_) => {}
            Coding::ByPort(map) => map.runs(value, mask, last, out),
        },
    }
}

fn masked(value: u16, mask: u16, last: u16, out: &mut Vec<Run>) {
    if value & !mask != 0 {
        return;
    }
    let tail = low_ones(mask);
    let free = !mask & !tail;
    let mut chosen = 0;
    loop {
        let first = value | chosen;
        if first > last {
            break;
        }
        out.push((first, (first | tail).min(last)));
        if chosen == free {
            break;
        }
        // The next subset of the free bits, ascending.
        chosen = chosen.wrapping_sub(free) & free;
    }
}

/// The ones below the lowest bit of a mask; all of them when it has none.
fn low_ones(mask: u16) -> u16 {
    u16::try_from((1u32 << mask.trailing_zeros()) - 1).unwrap_or(u16::MAX)
}

/// Port → code: where it changes.
#[derive(Debug, Clone, Default)]
pub(super) struct CodeMap {
    /// First port and code of each piece, ascending from port 0; no code where rows that stand equally high disagree.
    pieces: Vec<(u16, Option<u64>)>,
    /// The code of later fragments.
    pub later: u64,
}

impl CodeMap {
    fn from_stage(stage: &CodeStage) -> Self {
        // Where rows begin (true) and end, with what they say.
        let mut events: Vec<(u32, bool, u32, u64)> = Vec::new();
        let mut spans = Vec::new();
        for row in &stage.rows {
            if matches!(row.port, PortMatch::Code { .. }) {
                continue;
            }
            spans.clear();
            runs(row.port, Coding::Constant(0), u16::MAX, &mut spans);
            for (first, last) in &spans {
                events.push((u32::from(*first), true, row.priority, row.code));
                events.push((u32::from(*last) + 1, false, row.priority, row.code));
            }
        }
        events.sort_unstable();
        let mut active: BTreeMap<(u32, u64), u32> = BTreeMap::new();
        let mut pieces: Vec<(u16, Option<u64>)> = Vec::new();
        let mut add = |at: u32, active: &BTreeMap<(u32, u64), u32>| {
            let Ok(at) = u16::try_from(at) else { return };
            let mut high = active.keys().rev();
            let code = match (high.next(), high.next()) {
                (None, _) => Some(0),
                (Some(one), Some(two)) if one.0 == two.0 => None,
                (Some(one), _) => Some(one.1),
            };
            if pieces.last().is_none_or(|(_, before)| *before != code) {
                pieces.push((at, code));
            }
        };
        if events.first().is_none_or(|e| e.0 > 0) {
            add(0, &active);
        }
        for (index, (at, begins, priority, code)) in events.iter().enumerate() {
            let count = active.entry((*priority, *code)).or_default();
            *count = if *begins {
                *count + 1
            } else {
                count.saturating_sub(1)
            };
            if *count == 0 {
                active.remove(&(*priority, *code));
            }
            if events.get(index + 1).is_none_or(|next| next.0 != *at) {
                add(*at, &active);
            }
        }
        CodeMap {
            pieces,
            later: stage.later,
        }
    }

    /// The code of a port; `None` where rows disagree.
    pub fn code(&self, port: u16) -> Option<u64> {
        let after = self.pieces.partition_point(|(first, _)| *first <= port);
        self.pieces.get(after.checked_sub(1)?)?.1
    }

    /// A port whose code is uncertain.
    pub fn unsure(&self) -> Option<u16> {
        self.pieces
            .iter()
            .find(|(_, code)| code.is_none())
            .map(|(first, _)| *first)
    }

    fn runs(&self, value: u64, mask: u64, last: u16, out: &mut Vec<Run>) {
        let begin = out.len();
        for (index, (first, code)) in self.pieces.iter().enumerate() {
            if *first > last || code.is_none_or(|c| c & mask != value) {
                continue;
            }
            let end = self
                .pieces
                .get(index + 1)
                .map_or(u16::MAX, |(next, _)| next - 1)
                .min(last);
            match out.get_mut(begin..).and_then(<[Run]>::last_mut) {
                Some(before) if u32::from(before.1) + 1 == u32::from(*first) => before.1 = end,
                _ => out.push((*first, end)),
            }
        }
    }
}

/// Both code stages as functions, with a number that stands for their content.
#[derive(Debug, Clone)]
pub(super) struct CodeMaps {
    pub serial: u64,
    pub src: CodeMap,
    pub dst: CodeMap,
}

/// The code stages seen of late: classes share one.
#[derive(Debug, Default)]
pub(super) struct KnownCodes {
    known: Vec<(Arc<Codes>, Arc<CodeMaps>)>,
    serials: u64,
}

/// Code stages that are remembered: a change of the shared one leaves two in use for a while.
const KNOWN: usize = 4;

impl KnownCodes {
    /// The maps of these stages. Equal serials mean equal content.
    pub fn get(&mut self, codes: &Arc<Codes>) -> Arc<CodeMaps> {
        let known = self
            .known
            .iter()
            .find(|(c, _)| Arc::ptr_eq(c, codes))
            .or_else(|| self.known.iter().find(|(c, _)| c == codes));
        if let Some((_, maps)) = known {
            return Arc::clone(maps);
        }
        self.serials += 1;
        let maps = Arc::new(CodeMaps {
            serial: self.serials,
            src: CodeMap::from_stage(&codes.src),
            dst: CodeMap::from_stage(&codes.dst),
        });
        if self.known.len() >= KNOWN {
            self.known.remove(0);
        }
        self.known.push((Arc::clone(codes), Arc::clone(&maps)));
        maps
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::class_rows::CodeRow;
    use proptest::prelude::*;

    /// Any match but by code, mostly of few bits.
    pub(crate) fn port() -> impl Strategy<Value = PortMatch> {
        prop_oneof![
            Just(PortMatch::Any),
            (any::<u16>(), any::<u16>()).prop_map(|(low, high)| PortMatch::Range { low, high }),
            (any::<u16>(), 0u32..=16).prop_map(|(n, bits)| {
                let mask = u16::try_from((0xffffu32 << (16 - bits)) & 0xffff).unwrap_or(0);
                PortMatch::Masked {
                    value: n & mask,
                    mask,
                }
            }),
            (any::<u16>(), any::<u16>(), any::<u16>()).prop_map(|(n, a, b)| PortMatch::Masked {
                value: n & (a | b),
                mask: a | b
            }),
            (any::<u16>(), any::<u16>()).prop_map(|(value, mask)| PortMatch::Masked { value, mask }),
        ]
    }

    proptest! {
        #![proptest_config(ProptestConfig { cases: 100, ..ProptestConfig::default() })]

        #[test]
        fn runs_are_what_matches(port in port(), last in prop::sample::select(vec![0u16, 255, u16::MAX])) {
            let mut out = Vec::new();
            runs(port, Coding::Constant(0), last, &mut out);
            prop_assert!(out.windows(2).all(|w| u32::from(w[0].1) + 1 < u32::from(w[1].0)));
            for n in 0..=last {
                prop_assert_eq!(out.iter().any(|(a, b)| *a <= n && n <= *b), port.hits(n, 0), "{} {}", port, n);
            }
        }

        #[test]
        fn codes_are_those_of_the_highest_row(
            rows in prop::collection::vec((0u32..4, port(), 0u64..3), 0..8),
            value in 0u64..3,
            mask in 0u64..4,
        ) {
            let rows: Vec<CodeRow> =
                rows.into_iter().map(|(priority, port, code)| CodeRow { priority, port, code }).collect();
            let map = CodeMap::from_stage(&CodeStage { rows: rows.clone(), later: 7, width: 2 });
            let mut hit = Vec::new();
            map.runs(value, mask, u16::MAX, &mut hit);
            let mut unsure = None;
            for n in 0..=u16::MAX {
                let high = rows.iter().filter(|r| r.port.hits(n, 0)).map(|r| r.priority).max();
                let mut codes: Vec<u64> =
                    rows.iter().filter(|r| Some(r.priority) == high && r.port.hits(n, 0)).map(|r| r.code).collect();
                codes.dedup();
                let wanted = match codes.as_slice() {
                    [] => Some(0),
                    [code] => Some(*code),
                    [first, rest @ ..] => rest.iter().all(|c| c == first).then_some(*first),
                };
                prop_assert_eq!(map.code(n), wanted, "{}", n);
                unsure = unsure.or(wanted.is_none().then_some(n));
                let inside = hit.iter().any(|(a, b)| *a <= n && n <= *b);
                prop_assert_eq!(inside, wanted.is_some_and(|c| c & mask == value), "{}", n);
            }
            prop_assert_eq!(map.unsure(), unsure);
        }
    }
}
