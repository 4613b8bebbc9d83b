//! Cycles for each frame: of the policy check alone, of parsing, and of the whole way.

use std::hint::black_box;
use std::time::Instant;

use portcullis_fastpath::{
    Action, Cond, Decision, DropReason, Fields, HeaderSubset, Lead, NO_SLOT, Row, Snapshot, Table, Tables,
    Tally,
};

use crate::machine::field;
use crate::report::{Section, median};

/// Frames of a round, parsed or not; they stay in the caches nearest to the core.
const FRAMES: usize = 256;
const REPEATS: usize = 400;
/// Ports of sender and receiver.
const IN: u16 = 1;
const OUT: u16 = 2;
const SINK: u64 = 0x0200_0000_0002;

/// Keys of the policy tables by their places.
const CLASS: u8 = 0;
const ETHER_TYPE: u8 = 1;
const PROTOCOL: u8 = 3;
const DST_IPV4: u8 = 9;
const SRC_PORT: u8 = 11;
const DST_PORT: u8 = 12;

/// What a class has: rows over UDP, and another that allows the rest.
struct Policy {
    name: &'static str,
    rows: Vec<Vec<(u8, Cond)>>,
}

fn range(key: u8, low: u16, high: u16) -> (u8, Cond) {
    let (low, high) = (low.into(), high.into());
    (key, Cond::Range { low, high })
}

/// So many places where something changes: ports denied in ranges, and the rest of the last one for an odd number.
fn boundaries(count: u16) -> Vec<Vec<(u8, Cond)>> {
    let wide = u16::MAX / (count + 1);
    let at = |n: u16| n * wide;
    let pairs = (0..count / 2).map(|n| vec![range(DST_PORT, at(2 * n + 1), at(2 * n + 2) - 1)]);
    let odd = (count % 2 == 1).then(|| vec![range(DST_PORT, at(count), u16::MAX)]);
    pairs.chain(odd).collect()
}

fn policies() -> Vec<Policy> {
    let few = |n: u16| Policy {
        name: match n {
            1 => "1 boundary",
            17 => "17 boundaries",
            32 => "32 boundaries",
            _ => "1,000 boundaries",
        },
        rows: boundaries(n),
    };
    let mut with_sources = boundaries(32);
    with_sources.push(vec![range(SRC_PORT, 68, 68), range(DST_PORT, 67, 67)]);
    let prefix = |n: u32| {
        let (value, mask) = (u128::from(0x0a00_0000 | n << 16), 0xffff_0000);
        (DST_IPV4, Cond::Mask { value, mask })
    };
    let mut with_prefixes = with_sources.clone();
    with_prefixes.extend((0..8).map(|n| vec![prefix(n)]));
    // Bits that are no prefix, of the port and of the address: for lists only.
    let scattered = |n: u16| {
        let bits = |key, value: u16| {
            let mask = 0x8421;
            (
                key,
                Cond::Mask {
                    value: (value & mask).into(),
                    mask: mask.into(),
                },
            )
        };
        vec![bits(SRC_PORT, n), bits(DST_PORT, n * 3)]
    };
    vec![
        few(1),
        few(17),
        few(32),
        few(1000),
        Policy {
            name: "32 boundaries, source ports",
            rows: with_sources,
        },
        Policy {
            name: "32 boundaries, source ports, 8 prefixes",
            rows: with_prefixes,
        },
        Policy {
            name: "list of 16 rows with scattered bits",
            rows: (0..16).map(scattered).collect(),
        },
    ]
}

/// Both ends have a class with these rows.
fn snapshot(policy: &Policy) -> std::sync::Arc<Snapshot> {
    let mut tables = Tables::default();
    let mut slots = 0..;
    let mut add = |table: Table, mut conds: Vec<(u8, Cond)>, priority, action| {
        conds.sort_unstable_by_key(|(key, _)| *key);
        let slot = if table.is_counted() {
            slots.next().unwrap_or(NO_SLOT)
        } else {
            NO_SLOT
        };
        let row = Row {
            conds: conds.into(),
            priority,
            action,
            slot,
        };
        // What is refused would be seen: no frame would pass.
        tables.insert(table, row).is_ok()
    };
    let exact = |key: u8, value: u128| (key, Cond::exact(value));
    for table in [Table::EgressPolicy, Table::IngressPolicy] {
        for conds in &policy.rows {
            let udp = [exact(CLASS, 1), exact(ETHER_TYPE, 0x0800), exact(PROTOCOL, 17)];
            add(table, [&udp[..], conds].concat(), 9, Action::Deny);
        }
        add(table, vec![exact(CLASS, 1)], 1, Action::Allow);
    }
    for (table, port) in [(Table::Attach, IN), (Table::Deliver, OUT)] {
        add(
            table,
            vec![exact(0, port.into())],
            1,
            Action::SetClass(Lead::from_class(1)),
        );
    }
    add(Table::L2, vec![exact(0, SINK.into())], 0, Action::Forward(OUT));
    tables.publish()
}

/// UDP to scattered ports.
fn frames() -> Vec<Vec<u8>> {
    let mut seed = 1u64;
    let frame = |_| {
        seed = seed
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        let mut frame = SINK.to_be_bytes()[2..].to_vec();
        frame.extend([
            2, 0, 0, 0, 0, 1, 8, 0, 0x45, 0, 0, 46, 0, 0, 0, 0, 64, 17, 0, 0, 192, 0, 2, 1, 198, 51, 100, 9,
        ]);
        frame.extend(&seed.to_be_bytes()[..4]);
        frame.extend([0, 26, 0, 0]);
        frame.resize(60, 0);
        frame
    };
    (0..FRAMES).map(frame).collect()
}

/// Counts hits as a worker does.
struct Counts(Vec<[u64; 2]>);

impl Tally for Counts {
    #[inline(always)]
    fn hit(&mut self, slot: u32, bytes: u32) {
        if let Some([packets, sum]) = self.0.get_mut(slot as usize) {
            *packets += 1;
            *sum += u64::from(bytes);
        }
    }

    fn dropped(&mut self, _: u16, why: DropReason) {
        black_box(why);
    }
}

/// One round of something, compiled for the CPU at hand as a worker is.
enum Round<'a> {
    Judge(&'a Snapshot, &'a [(HeaderSubset, Fields)]),
    Parse(&'a [Vec<u8>]),
    Process(&'a Snapshot, &'a [Vec<u8>], &'a mut Counts, &'a mut Vec<u16>),
}

impl pulp::NullaryFnOnce for Round<'_> {
    type Output = u64;

    #[inline(always)]
    fn call(self) -> u64 {
        let mut seen = 0u64;
        match self {
            Round::Judge(snapshot, fields) => {
                for (brief, fields) in fields {
                    let Decision { verdict, slot } = snapshot.judge(1, brief, fields);
                    seen = seen.wrapping_add(u64::from(slot) << 1 | u64::from(verdict.passes()));
                }
            }
            Round::Parse(frames) => {
                for frame in frames {
                    if let Some(fields) = &black_box(Fields::parse(frame)) {
                        seen = seen.wrapping_add(fields.dst_port.into());
                    }
                }
            }
            Round::Process(snapshot, frames, counts, list) => {
                for frame in frames {
                    let ports = snapshot.process(frame, IN, list, counts);
                    seen = seen.wrapping_add(ports.iter().next().unwrap_or(0).into());
                }
            }
        }
        seen
    }
}

/// Nanoseconds for each frame, the median of rounds.
fn time(rounds: usize, mut round: impl FnMut() -> u64) -> f64 {
    let once = |round: &mut dyn FnMut() -> u64| {
        let began = Instant::now();
        for _ in 0..REPEATS {
            black_box(round());
        }
        began.elapsed().as_secs_f64() * 1e9 / (REPEATS * FRAMES) as f64
    };
    // The first does not count.
    once(&mut round);
    let times: Vec<f64> = (0..rounds.max(1)).map(|_| once(&mut round)).collect();
    median(&times)
}

pub fn section(rounds: usize) -> Section {
    let mut section = Section::new(
        "fastpath: for each frame, warm, on one core",
        &[
            "rows of a class",
            "check, ns",
            "check, cycles",
            "whole way, ns",
            "whole way, cycles",
        ],
    );
    let megahertz: Option<f64> = field("/proc/cpuinfo", "cpu MHz").parse().ok();
    let rate = megahertz.map_or("unknown: no cycles are told".to_string(), |m| {
        format!("{m:.0} MHz")
    });
    section.note(format!(
        "cycles: time by the rate that the kernel tells of this CPU ({rate}), at which its time-stamp counter runs; the core \
         itself may run faster"
    ));
    section.note("check: the sender's policy alone, on a frame that was parsed; whole way: both policies, counters, where to");
    section.note(format!(
        "{FRAMES} UDP frames to scattered ports, {REPEATS} times, medians of {rounds} rounds"
    ));
    let cycles = |ns: f64| megahertz.map(|m| ns * m / 1e3);
    let shown = |value: Option<f64>| value.map_or("-".to_string(), |v| format!("{v:.1}"));
    let arch = pulp::Arch::new();
    let frames = frames();
    let parsed = |frame: &Vec<u8>| Some((HeaderSubset::from_frame(frame)?, Fields::parse(frame)?));
    let fields: Vec<(HeaderSubset, Fields)> = frames.iter().filter_map(parsed).collect();
    let parse = time(rounds, || arch.dispatch(Round::Parse(&frames)));
    section.note(format!(
        "parsing a frame whole: {parse:.1} ns, {} cycles",
        shown(cycles(parse))
    ));
    section.figure("parse, ns", parse);
    for policy in policies() {
        let snapshot = snapshot(&policy);
        let check = time(rounds, || arch.dispatch(Round::Judge(&snapshot, &fields)));
        let mut counts = Counts(vec![[0; 2]; 4096]);
        let mut list = Vec::new();
        let whole = time(rounds, || {
            arch.dispatch(Round::Process(&snapshot, &frames, &mut counts, &mut list))
        });
        let mut cells = vec![policy.name.to_string()];
        for (what, ns) in [("check", check), ("whole way", whole)] {
            cells.extend([format!("{ns:.2}"), shown(cycles(ns))]);
            section.figure(format!("{}, {what}, ns", policy.name), ns);
            if let Some(cycles) = cycles(ns) {
                section.figure(format!("{}, {what}, cycles", policy.name), cycles);
            }
        }
        section.row(cells);
    }
    section
}
