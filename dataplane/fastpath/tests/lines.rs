//! The vector code that a CPU gets and the code for any CPU say the same at every port of a line.
#![allow(clippy::unwrap_used, clippy::panic, reason = "a test fails by panicking")]

use crate::drawn;

use drawn::{Dice, SWITCH_PORTS, frame, row};
use portcullis_fastpath::{
    Action, Cond, DropReason, Fields, Lead, NO_SLOT, Row, Snapshot, Table, Tables, Tally,
};
use pulp::{Arch, NullaryFnOnce};

/// Where a frame went, and what it met on its way.
#[derive(Debug, Default, PartialEq, Eq)]
struct Seen {
    ports: Vec<u16>,
    hits: Vec<u32>,
    drops: Vec<(u16, DropReason)>,
}

impl Tally for Seen {
    fn hit(&mut self, slot: u32, _: u32) {
        self.hits.push(slot);
    }

    fn dropped(&mut self, port: u16, why: DropReason) {
        self.drops.push((port, why));
    }
}

/// Frames that came in at ports, as a worker runs them.
struct Run<'a> {
    snapshot: &'a Snapshot,
    frames: &'a [(u16, Vec<u8>)],
}

impl NullaryFnOnce for Run<'_> {
    type Output = Vec<Seen>;

    #[inline(always)]
    fn call(self) -> Vec<Seen> {
        let mut list = Vec::new();
        let mut all = Vec::with_capacity(self.frames.len());
        for (port, frame) in self.frames {
            let mut seen = Seen::default();
            let ports = self.snapshot.process(frame, *port, &mut list, &mut seen);
            seen.ports = ports.iter().collect();
            all.push(seen);
        }
        all
    }
}

/// Both codes; what they say, when it is the same.
fn run(snapshot: &Snapshot, frames: &[(u16, Vec<u8>)]) -> Vec<Seen> {
    let detected = Arch::new().dispatch(Run { snapshot, frames });
    let portable = Run { snapshot, frames }.call();
    let scalar = Arch::Scalar.dispatch(Run { snapshot, frames });
    for (at, (port, frame)) in frames.iter().enumerate() {
        assert_eq!(detected[at], portable[at], "port {port}, frame {frame:02x?}");
        assert_eq!(scalar[at], portable[at], "port {port}, frame {frame:02x?}");
    }
    portable
}

/// A TCP SYN to a port, from port 1.
fn syn(dst_port: u16) -> (u16, Vec<u8>) {
    let mut frame = vec![2, 0, 0, 0, 0, 2, 2, 0, 0, 0, 0, 1, 8, 0];
    frame.extend([
        0x45, 0, 0, 40, 0, 0, 0, 0, 64, 6, 0, 0, 192, 0, 2, 1, 192, 0, 2, 2,
    ]);
    frame.extend([0x9c, 0x40]);
    frame.extend(dst_port.to_be_bytes());
    frame.extend([0, 0, 0, 0, 0, 0, 0, 0, 0x50, 2, 0, 0, 0, 0, 0, 0]);
    (1, frame)
}

fn plain(table: Table, key: u128, action: Action) -> (Table, Row) {
    let row = Row {
        conds: [(0, Cond::exact(key))].into(),
        priority: 1,
        action,
        slot: NO_SLOT,
    };
    (table, row)
}

/// A sender of class 1 at port 1 and its receiver at port 2.
fn tables() -> Tables {
    let mut tables = Tables::default();
    for (table, row) in [
        plain(Table::Attach, 1, Action::SetClass(Lead::from_class(1))),
        plain(Table::Deliver, 2, Action::SetClass(Lead::from_class(0))),
        plain(Table::L2, 0x0200_0000_0002, Action::Forward(2)),
    ] {
        tables.insert(table, row).unwrap();
    }
    tables
}

/// Where a line of so many boundaries changes, at its ends too.
fn boundaries(dice: &mut Dice, count: usize) -> Vec<u16> {
    let mut places = std::collections::BTreeSet::new();
    for edge in [1, 2, 65534, 65535] {
        if places.len() < count && dice.one_in(2) {
            places.insert(edge);
        }
    }
    let close = dice.one_in(3);
    while places.len() < count {
        let place = if close {
            32_000 + dice.below(400) as u16
        } else {
            dice.next() as u16
        };
        if place > 0 {
            places.insert(place);
        }
    }
    places.into_iter().collect()
}

#[test]
fn every_port_of_a_line_has_one_verdict() {
    let frames: Vec<(u16, Vec<u8>)> = (0..=u16::MAX).map(syn).collect();
    let mut dice = Dice(5);
    // Up to 64 boundaries are compared at once; beyond, they are a bitmap. The rest is drawn.
    let mut counts = vec![1, 2, 31, 32, 33, 34, 63, 64, 65, 199, 200];
    counts.extend((0..9).map(|_| 1 + dice.below(200) as usize));
    for count in counts {
        let starts = boundaries(&mut dice, count);
        let mut tables = tables();
        // One row for each piece, with a counter of its own, but a few that no row covers.
        let mut want = vec![(NO_SLOT, false); 1 << 16];
        let mut low = 0u16;
        for (piece, end) in starts.iter().map(|s| s - 1).chain([u16::MAX]).enumerate() {
            let covered = !dice.one_in(7);
            let allow = dice.one_in(2);
            if covered {
                let conds = [
                    (0, Cond::exact(1u16)),
                    (
                        12,
                        Cond::Range {
                            low: low.into(),
                            high: end.into(),
                        },
                    ),
                ];
                let row = Row {
                    conds: conds.into(),
                    priority: 1 + dice.below(9) as i32,
                    action: if allow { Action::Allow } else { Action::Deny },
                    slot: piece as u32,
                };
                tables.insert(Table::EgressPolicy, row).unwrap();
                want[usize::from(low)..=usize::from(end)].fill((piece as u32, allow));
            }
            low = end.wrapping_add(1);
        }
        let told = run(&tables.publish(), &frames);
        for (port, (seen, (slot, allow))) in told.iter().zip(want).enumerate() {
            assert_eq!(seen.hits.first(), Some(&slot), "{count} boundaries, port {port}");
            let out: &[u16] = if allow { &[2] } else { &[] };
            assert_eq!(seen.ports, out, "{count} boundaries, port {port}: {starts:?}");
        }
    }
}

/// A row of class 1 for TCP, and a counter for it.
fn own(conds: &[(u8, Cond)], priority: i32, action: Action, slot: u32) -> Row {
    let class = [(0, Cond::exact(1u16))];
    Row {
        conds: class.iter().chain(conds).cloned().collect(),
        priority,
        action,
        slot,
    }
}

#[test]
fn few_denied_ports_among_all_others() {
    const USUAL: u32 = 900;
    const SOURCE: u32 = 901;
    let frames: Vec<(u16, Vec<u8>)> = (0..=u16::MAX).map(syn).collect();
    let mut dice = Dice(7);
    // Up to 32 pieces are compared at once; beyond, a bit says which ports are among them.
    for count in [1u16, 2, 3, 17, 31, 32, 33, 64, 300] {
        let mut tables = tables();
        let mut want = vec![(USUAL, true); 1 << 16];
        let all = own(&[], 1, Action::Allow, USUAL);
        tables.insert(Table::EgressPolicy, all).unwrap();
        for n in 0..count {
            // The first and the last port, too.
            let low = if n == 0 {
                0
            } else {
                n * 200 + dice.below(100) as u16
            };
            let high = if n == 1 { low } else { low + dice.below(20) as u16 };
            let (low, high) = if n + 1 == count {
                (65_530, u16::MAX)
            } else {
                (low, high)
            };
            let ports = Cond::Range {
                low: low.into(),
                high: high.into(),
            };
            let row = own(&[(12, ports)], 5, Action::Deny, n.into());
            tables.insert(Table::EgressPolicy, row).unwrap();
            want[usize::from(low)..=usize::from(high)].fill((n.into(), false));
        }
        for with_source in [false, true] {
            if with_source {
                // The source port of half of the frames, which decides before all others.
                let row = own(&[(11, Cond::exact(0x9c40u16))], 9, Action::Deny, SOURCE);
                tables.insert(Table::EgressPolicy, row).unwrap();
            }
            let mut frames = frames.clone();
            for (_, frame) in frames.iter_mut().step_by(2) {
                frame[35] ^= 1;
            }
            let told = run(&tables.publish(), &frames);
            for (port, (seen, (slot, allow))) in told.iter().zip(&want).enumerate() {
                let (slot, allow) = if with_source && port % 2 == 1 {
                    (SOURCE, false)
                } else {
                    (*slot, *allow)
                };
                let what = format!("{count} pieces, source ports: {with_source}, port {port}");
                assert_eq!(seen.hits.first(), Some(&slot), "{what}");
                let out: &[u16] = if allow { &[2] } else { &[] };
                assert_eq!(seen.ports, out, "{what}");
            }
        }
    }
}

#[test]
fn drawn_frames_over_drawn_rows() {
    let (mut passed, mut hits) = (0usize, 0usize);
    for seed in 1..=60 {
        let mut dice = Dice(seed);
        let frames: Vec<(u16, Vec<u8>)> = (0..400)
            .map(|_| (dice.below(SWITCH_PORTS) as u16, frame(&mut dice)))
            .collect();
        let like: Vec<Fields> = frames.iter().filter_map(|(_, f)| Fields::parse(f)).collect();
        let mut tables = Tables::default();
        for id in [1, 2] {
            tables.set_group(id, &[0, 1, 3]).unwrap();
        }
        for port in 0..SWITCH_PORTS {
            for table in [Table::Attach, Table::Deliver] {
                let class = Action::SetClass(Lead::from_class(dice.below(4) as u16));
                let (table, row) = plain(table, port.into(), class);
                tables.insert(table, row).unwrap();
            }
        }
        let mut macs = std::collections::BTreeSet::new();
        for slot in 0..dice.below(250) as u32 {
            let table = if dice.one_in(2) {
                dice.pick(&[Table::EgressPolicy, Table::IngressPolicy])
            } else {
                dice.pick(&Table::ALL)
            };
            let fields = like[dice.below(like.len() as u64) as usize];
            let row = row(&mut dice, table, &fields, slot);
            if table != Table::L2 || macs.insert(format!("{:?}", row.conds)) {
                tables.insert(table, row).unwrap();
            }
        }
        for seen in run(&tables.publish(), &frames) {
            passed += usize::from(!seen.ports.is_empty());
            hits += seen.hits.iter().filter(|slot| **slot != NO_SLOT).count();
        }
    }
    assert!(
        passed > 500 && hits > 5000,
        "{passed} frames went somewhere, {hits} hits"
    );
}
