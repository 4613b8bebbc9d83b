//! Entries that become others at moments that they carry ([`portcullis_p4runtime::ends`]). Pure: the time is an argument.

use std::time::Duration;

use portcullis_p4runtime::ends;
use portcullis_proto::p4::v1;

use super::{EntryKey, Room, Store};
use crate::counters::Sums;
use crate::entry::Refusal;

/// A moment on the wall clock and on the monotonic clock.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Moment {
    /// Since the Unix epoch; the clock may be set.
    pub wall: Duration,
    /// Since an arbitrary moment; the clock never goes back.
    pub up: Duration,
}

impl Moment {
    /// Whether an end has come for what was written at another moment: at the end's own time, or when what was left then has
    /// gone by. Setting the clock back prolongs nothing.
    fn is_past(self, at: u64, written: Moment) -> bool {
        let at = Duration::from_secs(at);
        self.wall >= at || self.up.saturating_sub(written.up) >= at.saturating_sub(written.wall)
    }
}

impl Store {
    /// Sets the time of what follows.
    pub fn at(&mut self, now: Moment) {
        self.now = now;
    }

    /// Notes where an entry with ends is.
    pub(super) fn time(&mut self, place: &EntryKey, entry: &v1::TableEntry) {
        if ends::has(&entry.metadata) {
            self.timed.insert(place.clone());
        }
    }

    /// Applies the ends that have come. Returns how many entries changed, and errors.
    pub fn end(&mut self, sums: &Sums) -> (usize, Vec<Refusal>) {
        let (entries, now) = (&self.entries, self.now);
        self.timed.retain(|place| {
            entries
                .get(place)
                .is_some_and(|kept| ends::has(&kept.entry.metadata))
        });
        let due = self.timed.iter().filter_map(|place| {
            let kept = entries.get(place)?;
            let passed = |at| now.is_past(at, kept.written);
            Some((place.clone(), kept.written, ended(&kept.entry, passed)?))
        });
        let due: Vec<_> = due.collect();
        let (mut ended, mut refused) = (0, Vec::new());
        for (place, written, entry) in due {
            match self.change(place.clone(), &entry, sums, Room::NotNeeded) {
                Ok(_) => ended += 1,
                Err(refusal) => refused.push(refusal),
            }
            // What is left counts from when it was written, not from now.
            if let Some(kept) = self.entries.get_mut(&place) {
                kept.written = written;
            }
        }
        (ended, refused)
    }
}

/// What an entry has become when some of its ends have passed; nothing when none has.
fn ended(entry: &v1::TableEntry, passed: impl Fn(u64) -> bool) -> Option<v1::TableEntry> {
    let all = ends::read(&entry.metadata)?;
    let left = all.iter().position(|end| !passed(end.at)).unwrap_or(all.len());
    let value = all.get(left.checked_sub(1)?)?.value;
    let mut entry = entry.clone();
    let action = entry.action.as_mut().and_then(|action| action.r#type.as_mut());
    if let Some(v1::table_action::Type::Action(action)) = action
        && let Some(first) = action.params.iter_mut().find(|param| param.param_id == 1)
    {
        first.value = portcullis_p4runtime::value::encode(value.into());
    }
    entry.metadata.truncate(ends::TAG);
    entry.metadata = ends::append(entry.metadata, all.get(left..)?);
    Some(entry)
}

#[cfg(test)]
mod tests {
    use super::*;
    use portcullis_backend::delta::Op;
    use portcullis_fastpath::Tables;
    use portcullis_p4runtime::entry::{Does, End, Match, RowKey};
    use portcullis_p4runtime::wire::{ReplicaPorts, Writer, update};
    use portcullis_p4runtime::{OwnProgram, Tag};

    use crate::program::Program;

    const START: Moment = Moment {
        wall: Duration::from_secs(1_000_000),
        up: Duration::from_secs(50),
    };

    struct Bench {
        own: OwnProgram,
        store: Store,
    }

    impl Bench {
        fn new() -> Self {
            let own = OwnProgram::embedded().unwrap();
            let program = Program::accept(own.config.p4info.as_ref().unwrap()).unwrap();
            let mut store = Store::new(program, Tables::default());
            store.at(START);
            Bench { own, store }
        }

        fn key(&self) -> RowKey {
            let (number, table) = self.own.device.table_named("deliver").unwrap();
            let port = table.named("port").unwrap().id;
            table.key(number, 1, vec![(port, Match::Exact(3))])
        }

        fn does(&self, class: u128, ends: &[(u64, u32)]) -> Does {
            let (_, table) = self.own.device.table_named("deliver").unwrap();
            let id = table.action_named("set_class").unwrap().id;
            let end = |(at, value): &(u64, u32)| End {
                at: *at,
                value: *value,
            };
            Does::action(id, vec![(1, class)], ends.iter().map(end).collect())
        }

        fn write(&mut self, op: &Op<RowKey, Does>) -> Vec<String> {
            let writer = Writer {
                tag: Tag(7),
                generation: 1,
                ports: ReplicaPorts::Bytes,
            };
            let update = update(&self.own.device, op, &writer).unwrap();
            let refused = self.store.write(&[update], true, &Sums::default());
            refused.into_iter().map(|(_, refusal)| refusal.why).collect()
        }

        /// What the row does after so long by either clock.
        fn after(&mut self, wall: i64, up: u64) -> Does {
            self.store.at(Moment {
                wall: Duration::from_secs((START.wall.as_secs() as i64 + wall) as u64),
                up: START.up + Duration::from_secs(up),
            });
            let (_, lost) = self.store.end(&Sums::default());
            assert_eq!(lost, []);
            let kept = self.store.entries.values().next().unwrap();
            match portcullis_p4runtime::wire::seen_entry(&self.own.device, &kept.entry, Tag(7)) {
                portcullis_p4runtime::wire::Seen::Ours((_, does)) => does,
                other => panic!("{other:?}"),
            }
        }
    }

    #[test]
    fn a_row_becomes_what_it_carries_at_each_moment() {
        let mut bench = Bench::new();
        let ends = [(1_000_010, 6), (1_000_020, 7), (1_000_030, 0)];
        let row = bench.does(5, &ends);
        assert_eq!(bench.write(&Op::Add(bench.key(), row.clone())), [""; 0]);
        assert_eq!(bench.after(9, 9), row);
        assert_eq!(bench.after(10, 10), bench.does(6, &ends[1..]));
        assert_eq!(bench.after(10, 11), bench.does(6, &ends[1..]));
        // Two at once, when it was late.
        assert_eq!(bench.after(31, 31), bench.does(0, &[]));
        assert!(bench.store.end(&Sums::default()).0 == 0 && bench.store.timed.is_empty());
    }

    #[test]
    fn the_clock_that_is_ahead_ends_rows() {
        let mut bench = Bench::new();
        let ends = [(1_000_010, 6), (1_000_020, 7)];
        assert_eq!(bench.write(&Op::Add(bench.key(), bench.does(5, &ends))), [""; 0]);
        // Set back by an hour: what was left then goes by all the same, for the second end too.
        assert_eq!(bench.after(-3600, 9), bench.does(5, &ends));
        assert_eq!(bench.after(-3600, 10), bench.does(6, &ends[1..]));
        assert_eq!(bench.after(-3600, 19), bench.does(6, &ends[1..]));
        assert_eq!(bench.after(-3600, 20), bench.does(7, &[]));
        // Set forward.
        assert_eq!(
            bench.write(&Op::Change(bench.key(), bench.does(5, &ends))),
            [""; 0]
        );
        assert_eq!(bench.after(10, 21), bench.does(6, &ends[1..]));
    }

    #[test]
    fn a_row_that_is_written_too_late_has_ended() {
        let mut bench = Bench::new();
        let row = bench.does(5, &[(999_999, 6), (1_000_001, 7)]);
        assert_eq!(bench.write(&Op::Add(bench.key(), row)), [""; 0]);
        assert_eq!(bench.after(0, 0), bench.does(6, &[(1_000_001, 7)]));
        // Another row in its place has nothing of it.
        assert_eq!(bench.write(&Op::Change(bench.key(), bench.does(5, &[]))), [""; 0]);
        assert_eq!(bench.after(100, 100), bench.does(5, &[]));
    }

    #[test]
    fn ends_that_cannot_be_kept_are_refused() {
        let mut bench = Bench::new();
        // A port has 9 bits.
        let (number, l2) = bench.own.device.table_named("l2").unwrap();
        let key = l2.key(
            number,
            0,
            vec![(l2.named("dst_mac").unwrap().id, Match::Exact(0xa))],
        );
        let end = End {
            at: 1_000_001,
            value: 1 << 9,
        };
        let wide = Does::action(l2.action_named("forward").unwrap().id, vec![(1, 5)], vec![end]);
        let refused = bench.write(&Op::Add(key, wide));
        assert!(refused[0].contains("has 9 bits"), "{refused:?}");
        let falling = bench.does(5, &[(1_000_002, 1), (1_000_001, 2)]);
        let refused = bench.write(&Op::Add(bench.key(), falling));
        assert!(refused[0].contains("do not rise"), "{refused:?}");
        assert!(bench.store.entries.is_empty() && bench.store.timed.is_empty());
    }
}
