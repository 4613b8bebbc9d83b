//! The fast path does what the P4 program says: compared with the oracle, over rows that come and go.
#![allow(clippy::unwrap_used, clippy::panic, reason = "a test fails by panicking")]

use crate::drawn;
use crate::oracle::Oracle;

use drawn::{Dice, SWITCH_PORTS, frame, row};
use portcullis_fastpath::{
    Action, Cond, DropReason, Fields, Key, Lead, NO_SLOT, Ports, Row, RowId, Table, Tables, Tally,
};

#[derive(Default)]
struct Seen {
    slots: Vec<u32>,
    drops: Vec<DropReason>,
}

impl Tally for Seen {
    fn hit(&mut self, slot: u32, _: u32) {
        if slot != NO_SLOT {
            self.slots.push(slot);
        }
    }

    fn dropped(&mut self, _: u16, why: DropReason) {
        self.drops.push(why);
    }
}

/// Pairs of rows and frames that are compared: `PORTCULLIS_PAIRS`, 120,000 without.
fn pairs() -> u64 {
    std::env::var("PORTCULLIS_PAIRS").map_or(120_000, |n| n.parse().unwrap())
}

struct Both {
    tables: Tables,
    oracle: Oracle,
    ids: Vec<RowId>,
    slots: u32,
}

impl Both {
    fn add(&mut self, table: Table, row: Row) {
        let taken = table == Table::L2
            && self
                .oracle
                .rows
                .iter()
                .any(|(t, r)| *t == table && r.conds == row.conds);
        if taken {
            return;
        }
        self.ids.push(self.tables.insert(table, row.clone()).unwrap());
        self.oracle.rows.push((table, row));
    }

    fn step(&mut self, dice: &mut Dice, like: &[Fields]) {
        let table = dice.pick(&Table::ALL);
        let table = if dice.one_in(2) {
            dice.pick(&[
                Table::EgressPolicy,
                Table::IngressPolicy,
                Table::Attach,
                Table::Roles,
                Table::Deliver,
            ])
        } else {
            table
        };
        match dice.below(4) {
            0 if !self.ids.is_empty() => {
                let at = dice.below(self.ids.len() as u64) as usize;
                self.tables.remove(self.ids.remove(at)).unwrap();
                self.oracle.rows.remove(at);
            }
            1 if !self.ids.is_empty() => {
                let at = dice.below(self.ids.len() as u64) as usize;
                let table = self.oracle.rows[at].0;
                let action = row(dice, table, &like[0], 0).action;
                assert!(self.tables.modify(self.ids[at], action).unwrap());
                self.oracle.rows[at].1.action = action;
            }
            _ => {
                self.slots += 1;
                let frame = like[dice.below(like.len() as u64) as usize];
                let row = row(dice, table, &frame, self.slots);
                self.add(table, row);
            }
        }
    }
}

fn start(dice: &mut Dice) -> Both {
    let mut both = Both {
        tables: Tables::default(),
        oracle: Oracle::default(),
        ids: Vec::new(),
        slots: 0,
    };
    for id in [1, 2, 3] {
        let ports: Vec<u16> = (0..SWITCH_PORTS as u16).filter(|_| !dice.one_in(4)).collect();
        both.tables.set_group(id, &ports).unwrap();
        both.oracle.groups.insert(id, ports);
    }
    // Most ports have somebody, or few frames would get far.
    for port in 0..SWITCH_PORTS as u16 {
        for table in [Table::Attach, Table::Deliver] {
            let class = Lead {
                class: dice.below(4) as u16,
                overlay: dice.below(4) as u16,
            };
            let guarded = table == Table::Attach && dice.one_in(3);
            let row = Row {
                conds: [(0, portcullis_fastpath::Cond::exact(port))].into(),
                priority: 1,
                action: if guarded {
                    Action::SetGuardedClass(class)
                } else {
                    Action::SetClass(class)
                },
                slot: NO_SLOT,
            };
            both.add(table, row);
        }
    }
    for class in 1..4u16 {
        for table in [Table::EgressPolicy, Table::IngressPolicy] {
            both.slots += 1;
            let row = Row {
                conds: [(0, portcullis_fastpath::Cond::exact(class))].into(),
                priority: 0,
                action: dice.pick(&[Action::Allow, Action::Allow, Action::Deny]),
                slot: both.slots,
            };
            both.add(table, row);
        }
    }
    both
}

#[test]
fn the_fast_path_is_the_program() {
    let pairs = pairs();
    let (mut compared, mut seed, mut passed, mut counted) = (0, 0, 0u64, 0u64);
    while compared < pairs {
        seed += 1;
        let mut dice = Dice(seed);
        let mut both = start(&mut dice);
        for _ in 0..12 {
            let frames: Vec<Vec<u8>> = (0..40).map(|_| frame(&mut dice)).collect();
            let like: Vec<Fields> = frames.iter().filter_map(|f| Fields::parse(f)).collect();
            if like.is_empty() {
                continue;
            }
            for _ in 0..dice.below(30) {
                both.step(&mut dice, &like);
            }
            let snapshot = both.tables.publish();
            for frame in &frames {
                let port = dice.below(SWITCH_PORTS) as u16;
                let (want, mut slots) = both.oracle.process(frame, port);
                let (mut seen, mut list) = (Seen::default(), Vec::new());
                let got: Vec<u16> = snapshot
                    .process(frame, port, &mut list, &mut seen)
                    .iter()
                    .collect();
                slots.sort_unstable();
                seen.slots.sort_unstable();
                assert_eq!(
                    (&got, &seen.slots),
                    (&want, &slots),
                    "seed {seed}, port {port}, frame {frame:02x?}: {:?}, drops {:?}, rows {:#?}",
                    Fields::parse(frame),
                    seen.drops,
                    both.oracle.rows
                );
                passed += u64::from(!want.is_empty());
                counted += slots.len() as u64;
                compared += 1;
            }
        }
    }
    eprintln!("{compared} pairs: {passed} frames went somewhere, {counted} hits");
    assert!(
        passed * 20 > compared,
        "too few frames get anywhere: {passed} of {compared}"
    );
    assert!(counted > compared / 4, "too few rows are met: {counted}");
}

/// A row of a policy that asks for a class, and for a port or what is between two.
fn policy_row(table: Table, class: Option<u16>, ports: Option<(Key, [u16; 2])>, slot: u32) -> Row {
    let place = |key| table.keys().iter().position(|k| *k == key).unwrap() as u8;
    let class = class.map(|class| (place(Key::Class), Cond::exact(class)));
    let ports = ports.map(|(key, [low, high])| {
        let (low, high) = (low.into(), high.into());
        (place(key), Cond::Range { low, high })
    });
    let mut conds: Vec<_> = class.into_iter().chain(ports).collect();
    conds.sort_by_key(|(place, _)| *place);
    Row {
        conds: conds.into(),
        priority: 1_000,
        action: Action::Deny,
        slot,
    }
}

fn datagram(src: u16, dst: u16) -> Vec<u8> {
    let mut frame = vec![2, 0, 0, 0, 0, 9, 2, 0, 0, 0, 0, 1, 8, 0];
    frame.extend([
        0x45, 0, 0, 28, 0, 0, 0, 0, 64, 17, 0, 0, 192, 0, 2, 1, 192, 0, 2, 9,
    ]);
    for half in [src, dst, 8, 0] {
        frame.extend(half.to_be_bytes());
    }
    frame
}

/// Classes that ask for one interval of source ports skip that look for all others: at its ends, and also when a row for any
/// class comes later and goes again.
#[test]
fn one_interval_of_source_ports_ends_where_its_row_does() {
    for seed in 1..40 {
        let mut dice = Dice(seed);
        let mut both = start(&mut dice);
        let [low, high] = match dice.below(4) {
            0 => [0, 9],
            1 => [65_000, 65_535],
            2 => [1_024, 1_024],
            _ => [1_000, 1_999],
        };
        let mut slot = 1_000;
        for class in 0..4 {
            for table in [Table::EgressPolicy, Table::IngressPolicy] {
                for ports in [(Key::SrcPort, [low, high]), (Key::DstPort, [25, 30])] {
                    slot += 1;
                    both.add(table, policy_row(table, Some(class), Some(ports), slot));
                }
            }
        }
        let around = [low.wrapping_sub(1), low, high, high.wrapping_add(1), 40_000];
        let frames: Vec<Vec<u8>> = around
            .iter()
            .flat_map(|src| [24, 25, 30, 31, 53].map(|dst| datagram(*src, dst)))
            .collect();
        let compare = |both: &mut Both| {
            let snapshot = both.tables.publish();
            for (frame, port) in frames
                .iter()
                .flat_map(|f| (0..SWITCH_PORTS as u16).map(move |p| (f, p)))
            {
                let (want, mut slots) = both.oracle.process(frame, port);
                let (mut seen, mut list) = (Seen::default(), Vec::new());
                let got = snapshot.process(frame, port, &mut list, &mut seen);
                let got: Vec<u16> = got.iter().collect();
                slots.sort_unstable();
                seen.slots.sort_unstable();
                assert_eq!(
                    (&got, &seen.slots),
                    (&want, &slots),
                    "seed {seed}, port {port}, {frame:02x?}"
                );
            }
        };
        compare(&mut both);
        let all = policy_row(
            Table::EgressPolicy,
            None,
            Some((Key::DstPort, [53, 53])),
            slot + 1,
        );
        both.add(Table::EgressPolicy, all);
        compare(&mut both);
        both.tables.remove(both.ids.pop().unwrap()).unwrap();
        both.oracle.rows.pop();
        compare(&mut both);
    }
}

#[test]
fn any_bytes_are_a_frame_or_none() {
    let mut dice = Dice(77);
    let mut both = start(&mut dice);
    let frames: Vec<Vec<u8>> = (0..200).map(|_| frame(&mut dice)).collect();
    let like: Vec<Fields> = frames.iter().filter_map(|f| Fields::parse(f)).collect();
    for _ in 0..300 {
        both.step(&mut dice, &like);
    }
    let snapshot = both.tables.publish();
    for round in 0..50_000u64 {
        let mut bytes = frame(&mut dice);
        for _ in 0..dice.below(8) {
            let at = dice.below(bytes.len().max(1) as u64) as usize;
            if let Some(byte) = bytes.get_mut(at) {
                *byte = dice.next() as u8;
            }
        }
        if round % 3 == 0 {
            bytes = (0..dice.below(120)).map(|_| dice.next() as u8).collect();
        }
        let (want, _) = both.oracle.process(&bytes, 1);
        let (mut seen, mut list) = (Seen::default(), Vec::new());
        let got: Vec<u16> = snapshot.process(&bytes, 1, &mut list, &mut seen).iter().collect();
        assert_eq!(got, want, "{bytes:02x?}");
        assert!(bytes.len() >= 14 || seen.drops == [DropReason::Runt]);
        assert_eq!(snapshot.process(&bytes, 600, &mut list, &mut seen), Ports::None);
    }
}
