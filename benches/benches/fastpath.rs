//! What the embedded switch's fast path costs without devices: a frame's whole way, an endpoint's memory, an endpoint's
//! change. Prints a line for each figure; asserts no time.
#![allow(
    clippy::unwrap_used,
    missing_docs,
    reason = "a bench that cannot run shall end"
)]

use std::hint::black_box;
use std::time::{Duration, Instant};

use criterion::{BatchSize, Criterion, Throughput, criterion_group, criterion_main};
use portcullis_fastpath::{
    Action, Cond, DropReason, Lead, NO_SLOT, Row, RowId, Snapshot, Table, Tables, Tally,
};

/// Flows of a round: more than any cache of exact flows would hold.
const FLOWS: usize = 32_768;
/// Ports of the switch that endpoints are at, each with VLANs of its own.
const PORTS: u16 = 16;
const UPLINK: u16 = 500;

/// Counts as a worker does, in arrays.
struct Counts {
    rows: Vec<[u64; 2]>,
    drops: [u64; DropReason::ALL.len()],
}

impl Tally for Counts {
    #[inline(always)]
    fn hit(&mut self, slot: u32, bytes: u32) {
        if let Some([packets, sum]) = self.rows.get_mut(slot as usize) {
            *packets += 1;
            *sum += u64::from(bytes);
        }
    }

    fn dropped(&mut self, _: u16, why: DropReason) {
        self.drops[why as usize] += 1;
    }
}

#[derive(Clone, Copy)]
enum Mix {
    /// A class that denies 17 ports.
    Few,
    /// 1,000 scattered ports denied.
    Scattered,
    /// Rows that ask for prefixes, source ports and flags.
    General,
}

impl Mix {
    const ALL: [(&'static str, Mix); 3] = [
        ("17 ports denied", Mix::Few),
        ("1,000 ports denied", Mix::Scattered),
        ("prefixes, source ports, flags", Mix::General),
    ];
}

/// A key of the policy tables by its place.
const CLASS: u8 = 0;
const ETHER_TYPE: u8 = 1;
const PROTOCOL: u8 = 3;
const TCP_FLAGS: u8 = 5;
const DST_IPV4: u8 = 9;
const SRC_PORT: u8 = 11;
const DST_PORT: u8 = 12;

struct Made {
    tables: Tables,
    slots: u32,
    attach: Vec<RowId>,
}

impl Made {
    fn add(&mut self, table: Table, conds: &[(u8, Cond)], priority: i32, action: Action) -> RowId {
        let slot = if table.is_counted() { self.slots } else { NO_SLOT };
        self.slots += u32::from(table.is_counted());
        let row = Row {
            conds: conds.into(),
            priority,
            action,
            slot,
        };
        self.tables.insert(table, row).unwrap()
    }

    fn policy(&mut self, table: Table, class: u16, mix: Mix) {
        let of = (CLASS, Cond::exact(class));
        self.add(table, &[of], 1, Action::Allow);
        let (udp, v4) = (
            (PROTOCOL, Cond::exact(17u8)),
            (ETHER_TYPE, Cond::exact(0x0800u16)),
        );
        let port = |p: u16| {
            (
                DST_PORT,
                Cond::Range {
                    low: p.into(),
                    high: p.into(),
                },
            )
        };
        match mix {
            Mix::Few | Mix::Scattered => {
                let count = if matches!(mix, Mix::Few) { 17 } else { 1000 };
                for n in 0..count {
                    // Ports that no flow goes to, so that every frame passes.
                    self.add(table, &[of, v4, udp, port(n * 60 + 7)], 9, Action::Deny);
                }
            }
            Mix::General => {
                for n in 0..16u32 {
                    let prefix = Cond::Mask {
                        value: (0x0a00_0000 | n << 16).into(),
                        mask: 0xffff_0000,
                    };
                    self.add(table, &[of, v4, udp, (DST_IPV4, prefix)], 9, Action::Deny);
                    let sources = Cond::Range {
                        low: (n * 8).into(),
                        high: (n * 8 + 3).into(),
                    };
                    self.add(table, &[of, v4, udp, (SRC_PORT, sources)], 8, Action::Deny);
                    let flags = Cond::Mask { value: 2, mask: 0x12 };
                    let tcp = (PROTOCOL, Cond::exact(6u8));
                    self.add(
                        table,
                        &[of, v4, tcp, (TCP_FLAGS, flags), port(n as u16)],
                        7,
                        Action::Deny,
                    );
                }
            }
        }
    }
}

fn place(endpoint: u32) -> (u16, u16) {
    (
        (endpoint % u32::from(PORTS)) as u16,
        (endpoint / u32::from(PORTS) % 4094 + 1) as u16,
    )
}

/// So many endpoints of 50 classes each way; frames go to the uplink.
fn make(endpoints: u32, mix: Mix) -> Made {
    let mut made = Made {
        tables: Tables::default(),
        slots: 0,
        attach: Vec::new(),
    };
    for class in 1..=50 {
        made.policy(Table::EgressPolicy, class, mix);
        made.policy(Table::IngressPolicy, class, mix);
    }
    for endpoint in 0..endpoints {
        let (port, vlan) = place(endpoint);
        let class = (endpoint % 50 + 1) as u16;
        let point = [(0, Cond::exact(port)), (1, Cond::exact(vlan))];
        let attach = made.add(
            Table::Attach,
            &point,
            1,
            Action::SetClass(Lead::from_class(class)),
        );
        made.attach.push(attach);
        made.add(
            Table::Deliver,
            &point,
            1,
            Action::SetClass(Lead::from_class(class)),
        );
        let mac = 0x0200_0000_0000u64 | u64::from(endpoint);
        made.add(Table::L2, &[(0, Cond::exact(mac))], 0, Action::Forward(port));
    }
    made.add(
        Table::Deliver,
        &[(0, Cond::exact(UPLINK))],
        1,
        Action::SetClass(Lead::from_class(1)),
    );
    made.add(
        Table::L2,
        &[(0, Cond::exact(0x0200_ffff_ffffu64))],
        0,
        Action::Forward(UPLINK),
    );
    made
}

/// Frames of 64 bytes with their checksum, from all endpoints in turn, each another flow.
fn frames(endpoints: u32) -> Vec<(u16, Vec<u8>)> {
    let mut seed = 1u64;
    let flow = |n: usize| {
        seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        let (port, vlan) = place(n as u32 % endpoints);
        let mut frame = vec![2, 0, 0xff, 0xff, 0xff, 0xff, 2, 0, 0, 0, 0, 1, 0x81, 0];
        frame.extend(vlan.to_be_bytes());
        frame.extend([
            8, 0, 0x45, 0, 0, 42, 0, 0, 0, 0, 64, 17, 0, 0, 192, 0, 2, 1, 198, 51,
        ]);
        frame.extend(&seed.to_be_bytes()[..2]);
        let (src, dst) = (((seed >> 20) as u16) | 0x400, ((seed >> 36) % 1000 * 60) as u16);
        frame.extend([src.to_be_bytes(), dst.to_be_bytes()].concat());
        frame.extend([0, 22, 0, 0]);
        frame.resize(60, 0);
        (port, frame)
    };
    (0..FLOWS).map(flow).collect()
}

struct Round<'a> {
    snapshot: &'a Snapshot,
    frames: &'a [(u16, Vec<u8>)],
    counts: &'a mut Counts,
    list: &'a mut Vec<u16>,
}

impl pulp::NullaryFnOnce for Round<'_> {
    type Output = usize;

    #[inline(always)]
    fn call(self) -> usize {
        let mut sent = 0;
        for (port, frame) in self.frames {
            sent += self
                .snapshot
                .process(frame, *port, self.list, self.counts)
                .iter()
                .count();
        }
        sent
    }
}

fn whole_way(c: &mut Criterion) {
    let arch = pulp::Arch::new();
    let mut group = c.benchmark_group("a frame's whole way");
    group
        .throughput(Throughput::Elements(FLOWS as u64))
        .sample_size(20);
    for endpoints in [1, 1000, 65_000] {
        for (name, mix) in Mix::ALL {
            let mut made = make(endpoints, mix);
            let snapshot = made.tables.publish();
            let frames = frames(endpoints);
            let mut counts = Counts {
                rows: vec![[0; 2]; made.slots as usize],
                drops: [0; DropReason::ALL.len()],
            };
            let mut list = Vec::new();
            let mut round = || {
                arch.dispatch(Round {
                    snapshot: &snapshot,
                    frames: &frames,
                    counts: &mut counts,
                    list: &mut list,
                })
            };
            assert_eq!(round(), FLOWS, "every frame passes");
            group.bench_function(format!("{endpoints} endpoints, {name}"), |b| {
                b.iter(|| black_box(round()))
            });
            let memory = snapshot.memory();
            println!(
                "{endpoints} endpoints, {name}: {} bytes of classes in all, {:.0} bytes an endpoint beside them",
                memory.classes,
                memory.endpoints as f64 / f64::from(endpoints)
            );
        }
    }
    group.finish();
}

fn percentile(sorted: &[Duration], part: f64) -> Duration {
    sorted[((sorted.len() - 1) as f64 * part) as usize]
}

/// One of 65,000 endpoints gets another class: rows changed, compiled and published.
fn one_change(c: &mut Criterion) {
    let mut made = make(65_000, Mix::Few);
    made.tables.publish();
    let mut n = 0usize;
    let mut change = |made: &mut Made| {
        n += 7919;
        let row = made.attach[n % made.attach.len()];
        made.tables
            .modify(row, Action::SetClass(Lead::from_class((n % 50 + 1) as u16)))
            .unwrap();
        made.tables.publish()
    };
    let mut took: Vec<Duration> = Vec::new();
    for _ in 0..5000 {
        let begin = Instant::now();
        let old = change(&mut made);
        took.push(begin.elapsed());
        drop(old);
    }
    took.sort_unstable();
    println!(
        "one of 65,000 endpoints changed and published: p50 {:?}, p99 {:?}",
        percentile(&took, 0.5),
        percentile(&took, 0.99)
    );
    c.bench_function("one of 65,000 endpoints changed and published", |b| {
        b.iter_batched(|| (), |()| black_box(change(&mut made)), BatchSize::SmallInput);
    });
    // A class of its own: 17 rows written under an unused class, compiled, and the endpoint flipped to it.
    let mut class = 1000u16;
    let mut took: Vec<Duration> = Vec::new();
    for _ in 0..1000 {
        class += 1;
        let begin = Instant::now();
        made.policy(Table::EgressPolicy, class, Mix::Few);
        made.tables.publish();
        let row = made.attach[usize::from(class) * 31 % made.attach.len()];
        made.tables
            .modify(row, Action::SetClass(Lead::from_class(class)))
            .unwrap();
        made.tables.publish();
        took.push(begin.elapsed());
    }
    took.sort_unstable();
    println!(
        "one of 65,000 endpoints given a class of its own: p50 {:?}, p99 {:?}",
        percentile(&took, 0.5),
        percentile(&took, 0.99)
    );
}

criterion_group!(benches, whole_way, one_change);
criterion_main!(benches);
