//! A port's rules through changes and faults: what the NIC drops is denied at every step, and what is said of it is true.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use portcullis_fastpath::{Action, Cond, Key, Lead, NO_SLOT, RowId, Table, Tables};
use portcullis_nic::{
    Bounds, Capabilities, Encapsulation, Follows, LaterFragments, Level, Memo, Nics, Offload, Offloads,
    ParserFacts, PortMatch, Settings, Step, Tags, is_still_denied, lower,
};

use crate::drawn::Dice;
use crate::fake::FakeNic;
use crate::sound::{row, senders};

const FACTS: ParserFacts = ParserFacts {
    later_fragments: LaterFragments::Never,
    ip_options: Follows::Followed,
    extension_headers: Follows::Followed,
    tags: Tags::Matched,
    encapsulation: Encapsulation::Closed,
};

/// Tables of a port whose sender may not send to some ports.
pub struct Port {
    tables: Tables,
    denied: Vec<(u16, RowId)>,
}

impl Port {
    pub fn new(denied: &[u16]) -> Self {
        let mut tables = Tables::default();
        let attach = row(
            Table::Attach,
            &[(Key::Port, Cond::exact(0_u8))],
            1,
            Action::SetClass(Lead::from_class(1)),
            NO_SLOT,
        );
        tables.insert(Table::Attach, attach).unwrap();
        let unreadable = [(Key::Unreadable, Cond::Mask { value: 1, mask: 1 })];
        let fixed = row(Table::EgressPolicy, &unreadable, 100, Action::Deny, 0);
        tables.insert(Table::EgressPolicy, fixed).unwrap();
        let all = row(Table::EgressPolicy, &[], 1, Action::Allow, 1);
        tables.insert(Table::EgressPolicy, all).unwrap();
        let mut port = Port {
            tables,
            denied: Vec::new(),
        };
        for number in denied {
            port.deny(*number);
        }
        port
    }

    /// Counters are the numbers of the ports.
    fn deny(&mut self, number: u16) {
        let conds = [
            (
                Key::Class,
                Cond::Mask {
                    value: 1,
                    mask: 0xffff,
                },
            ),
            (Key::EtherType, Cond::exact(0x0800_u16)),
            (Key::Protocol, Cond::exact(6_u8)),
            (Key::DstPort, Cond::exact(number)),
        ];
        let made = row(Table::EgressPolicy, &conds, 10, Action::Deny, number.into());
        let id = self.tables.insert(Table::EgressPolicy, made).unwrap();
        self.denied.push((number, id));
    }

    fn allow(&mut self, number: u16) {
        let at = self.denied.iter().position(|(n, _)| *n == number).unwrap();
        self.tables.remove(self.denied.remove(at).1).unwrap();
    }

    /// A change goes out: rules first, then the tables, then rules.
    pub fn publish(&mut self, offload: &mut Offload<FakeNic>) {
        offload.before(Arc::new(senders(&self.tables)), &mut Memo::default());
        self.holds(offload);
        self.tables.publish();
        offload.after();
        self.fill(offload);
    }

    pub fn fill(&self, offload: &mut Offload<FakeNic>) {
        if let Some((epoch, senders)) = offload.to_lower() {
            let capabilities = offload.capabilities();
            let lowered = lower(&senders, &capabilities, bounds());
            offload.lowered(epoch, Arc::new(lowered));
        }
        let mut steps = 0;
        while offload.step() == Step::More {
            self.holds(offload);
            steps += 1;
            assert!(steps < 1_000, "it ends");
        }
    }

    /// What is on the NIC is denied, unless it is said that it cannot be removed.
    fn holds(&self, offload: &mut Offload<FakeNic>) {
        let is_stuck = !offload.report(0).fault.is_empty();
        let senders = senders(&self.tables);
        for (rule, _) in offload.api().rules.values() {
            assert!(
                is_stuck || is_still_denied(rule, &senders, bounds(), &mut Memo::default()).is_some(),
                "{rule} drops what is allowed"
            );
        }
        // The thread that creates rules never says that there are more than there are, until it has looked.
        let said: BTreeSet<_> = offload.installed().map(|(rule, ..)| rule.clone()).collect();
        let there = offload
            .api()
            .rules
            .values()
            .filter(|(rule, _)| said.contains(rule))
            .count();
        assert!(there <= said.len());
    }
}

fn bounds() -> Bounds<'static> {
    static NONE: BTreeSet<portcullis_nic::Kind> = BTreeSet::new();
    Bounds {
        facts: FACTS,
        accept: &NONE,
    }
}

fn settings(most: Option<usize>) -> Settings {
    Settings {
        facts: Some(FACTS),
        accept: BTreeSet::new(),
        most,
    }
}

pub fn made(nic: FakeNic) -> Offload<FakeNic> {
    Offload::new("net_fake".to_owned(), nic, settings(None), Arc::default())
}

/// One look at the NIC, as the thread that fills it does.
pub fn look(offload: &mut Offload<FakeNic>, denied: &dyn Fn(u32) -> u64) {
    offload.look();
    let mut last = None;
    loop {
        last = offload.read_some(last.as_ref(), 2);
        if last.is_none() {
            break;
        }
    }
    offload.warm(denied);
}

pub fn offload(takes: Capabilities, room: usize) -> Offload<FakeNic> {
    made(FakeNic::new(takes, room))
}

pub fn ports_of(offload: &Offload<FakeNic>) -> BTreeSet<u16> {
    let port = |port| match port {
        PortMatch::Exact(port) => port,
        other => panic!("{other:?}"),
    };
    offload
        .installed()
        .map(|(rule, ..)| port(rule.dst_port))
        .collect()
}

#[test]
fn an_opening_takes_the_rule_away_before_and_a_closing_brings_it_after() {
    let mut offload = offload(Level::DropAndCount.capabilities(), 100);
    let mut port = Port::new(&[25, 445]);
    port.publish(&mut offload);
    assert_eq!(ports_of(&offload), BTreeSet::from([25, 445]));
    port.allow(25);
    offload.before(Arc::new(senders(&port.tables)), &mut Memo::default());
    assert_eq!(
        ports_of(&offload),
        BTreeSet::from([445]),
        "before the switch forwards by it"
    );
    assert_eq!(offload.step(), Step::Stale, "nothing is created on the way");
    port.publish(&mut offload);
    port.deny(25);
    offload.before(Arc::new(senders(&port.tables)), &mut Memo::default());
    assert_eq!(ports_of(&offload), BTreeSet::from([445]), "not yet");
    offload.after();
    port.fill(&mut offload);
    assert_eq!(ports_of(&offload), BTreeSet::from([25, 445]));
}

#[test]
fn rules_that_were_lowered_for_older_tables_are_not_created() {
    let mut offload = offload(Level::Drop.capabilities(), 100);
    let mut port = Port::new(&[25]);
    offload.before(Arc::new(senders(&port.tables)), &mut Memo::default());
    offload.after();
    let (epoch, old) = offload.to_lower().unwrap();
    let lowered = lower(&old, &offload.capabilities(), bounds());
    port.allow(25);
    offload.before(Arc::new(senders(&port.tables)), &mut Memo::default());
    offload.lowered(epoch, Arc::new(lowered));
    assert_eq!(offload.step(), Step::Stale);
    offload.after();
    assert_eq!(offload.step(), Step::Stale);
    port.fill(&mut offload);
    assert_eq!(offload.installed().count(), 0);
}

#[test]
fn a_full_nic_holds_what_is_hit_most_and_says_so() {
    let mut offload = offload(Level::DropAndCount.capabilities(), 2);
    let mut port = Port::new(&[25, 445, 139]);
    port.publish(&mut offload);
    assert_eq!(
        ports_of(&offload),
        BTreeSet::from([25, 139]),
        "without hits the first ones"
    );
    let report = offload.report(0);
    assert!(
        report.is_full && report.installed == 2 && report.wanted == 3,
        "{report:#?}"
    );
    let rows = offload.rows(0);
    let of_445 = rows.iter().find(|row| row.slot == 445).unwrap();
    assert!(
        of_445.installed == 0 && of_445.why[0].contains("no room"),
        "{of_445:?}"
    );
    // The switch denies what the NIC has no room for.
    let mut denied = 0;
    for _ in 0..3 {
        denied += 1_000;
        look(&mut offload, &|slot| if slot == 445 { denied } else { 0 });
        port.fill(&mut offload);
    }
    assert!(ports_of(&offload).contains(&445), "{:?}", ports_of(&offload));
    assert_eq!(offload.report(0).moves.replaced, 1);
    // Little more is no reason to move.
    let rule = offload.installed().next().unwrap().0.clone();
    offload.api().drops(&rule, 1_000);
    look(&mut offload, &|slot| if slot == 139 { 1_050 } else { 0 });
    offload.api().drops(&rule, 1_000);
    look(&mut offload, &|slot| if slot == 139 { 2_150 } else { 0 });
    port.fill(&mut offload);
    assert_eq!(offload.report(0).moves.replaced, 1);
}

#[test]
fn a_rule_that_is_refused_stays_with_the_switch() {
    let mut offload = offload(Level::Drop.capabilities(), 100);
    offload.api().fails_after = Some(1);
    let mut port = Port::new(&[25, 445, 139]);
    port.publish(&mut offload);
    assert_eq!(offload.installed().count(), 2);
    let rows = offload.rows(0);
    let refused: Vec<_> = rows.iter().filter(|row| row.rules > row.installed).collect();
    assert!(
        refused.len() == 1 && refused[0].why[0].contains("a fault"),
        "{rows:#?}"
    );
}

#[test]
fn hits_are_those_of_the_nic_and_of_the_switch() {
    let mut offload = offload(Level::DropAndCount.capabilities(), 100);
    let mut port = Port::new(&[25]);
    port.publish(&mut offload);
    let rule = offload.installed().next().unwrap().0.clone();
    offload.api().drops(&rule, 7);
    look(&mut offload, &|_| 0);
    assert_eq!(offload.count(25).packets, 7);
    // The counter begins anew.
    offload.api().rules.values_mut().for_each(|(_, count)| *count = 3);
    look(&mut offload, &|_| 0);
    assert_eq!(offload.count(25).packets, 10);
    // What it counted until it was removed is kept.
    offload.api().drops(&rule, 5);
    port.allow(25);
    port.publish(&mut offload);
    assert_eq!(offload.count(25).packets, 15);
}

#[test]
fn a_nic_that_stops_counting_is_not_said_to_count() {
    let mut offload = offload(Level::DropAndCount.capabilities(), 100);
    let mut port = Port::new(&[25]);
    port.publish(&mut offload);
    let counted =
        |offload: &Offload<FakeNic>| offload.rows(0).iter().find(|r| r.slot == 25).unwrap().is_counted;
    assert!(counted(&offload));
    offload.api().is_mute = true;
    look(&mut offload, &|_| 0);
    assert!(!counted(&offload));
    assert_eq!(offload.installed().count(), 1, "it goes on dropping");
}

#[test]
fn a_port_that_resets_is_asked_again_and_gets_its_rules_back() {
    let mut offload = offload(Level::DropAndCount.capabilities(), 100);
    let mut port = Port::new(&[25, 445]);
    port.publish(&mut offload);
    offload.api().reset();
    offload.api().takes.count = false;
    look(&mut offload, &|_| 0);
    assert_eq!(
        offload.installed().count(),
        0,
        "it does not say that they are there"
    );
    port.fill(&mut offload);
    assert_eq!(ports_of(&offload), BTreeSet::from([25, 445]));
    assert!(!offload.capabilities().count && offload.report(0).moves.resets == 1);
}

#[test]
fn rules_that_are_lost_without_a_word_are_missed() {
    let mut offload = offload(Level::DropAndCount.capabilities(), 100);
    let mut port = Port::new(&[25, 445]);
    port.publish(&mut offload);
    offload.api().rules.clear();
    look(&mut offload, &|_| 0);
    port.fill(&mut offload);
    assert_eq!(offload.api().rules.len(), 2);
}

#[test]
fn a_rule_that_cannot_be_removed_is_flushed_or_named() {
    let mut offload = offload(Level::DropAndCount.capabilities(), 100);
    let mut port = Port::new(&[25, 445]);
    port.publish(&mut offload);
    offload.api().keeps_rules = true;
    port.allow(25);
    port.publish(&mut offload);
    assert_eq!(
        ports_of(&offload),
        BTreeSet::from([445]),
        "all were flushed, and the others came again"
    );
    assert_eq!(offload.report(0).fault, "");
    offload.api().keeps_all = true;
    port.allow(445);
    port.publish(&mut offload);
    let fault = offload.report(0).fault;
    assert!(fault.contains("may drop what is allowed"), "{fault}");
    // As soon as it can be flushed, it is.
    offload.api().keeps_all = false;
    port.fill(&mut offload);
    assert!(offload.api().rules.is_empty() && offload.report(0).fault.is_empty());
}

#[test]
fn a_nic_without_counters_is_not_said_to_count() {
    let mut offload = offload(Level::Drop.capabilities(), 100);
    let mut port = Port::new(&[25]);
    port.publish(&mut offload);
    let rows = offload.rows(0);
    let of = |slot| rows.iter().find(|row| row.slot == slot).unwrap();
    assert!(!of(25).is_counted && of(0).is_counted, "{rows:#?}");
}

#[test]
fn a_nic_that_cannot_be_read_keeps_its_rules() {
    let mut offload = offload(Level::DropAndCount.capabilities(), 100);
    let mut port = Port::new(&[25, 445, 139]);
    port.publish(&mut offload);
    offload.api().is_unread = true;
    for _ in 0..20 {
        look(&mut offload, &|_| 0);
        port.fill(&mut offload);
    }
    let report = offload.report(0);
    assert_eq!(
        (report.installed, report.moves.created, report.moves.resets),
        (3, 6, 0),
        "{report:#?}"
    );
    assert!(
        offload
            .rows(0)
            .iter()
            .filter(|row| row.rules > 0)
            .all(|row| !row.is_counted)
    );
}

#[test]
fn a_port_that_is_busy_gets_its_rules_later() {
    let mut offload = offload(Level::Drop.capabilities(), 100);
    let mut port = Port::new(&[25, 445]);
    offload.api().is_busy = true;
    port.publish(&mut offload);
    assert_eq!(offload.installed().count(), 0);
    let rows = offload.rows(0);
    assert!(
        rows.iter()
            .all(|row| !row.why.iter().any(|why| why.contains("no room"))),
        "{rows:#?}"
    );
    offload.api().is_busy = false;
    look(&mut offload, &|_| 0);
    port.fill(&mut offload);
    assert_eq!(offload.installed().count(), 2);
}

#[test]
fn a_replacement_that_the_nic_refuses_is_undone() {
    let mut offload = offload(Level::DropAndCount.capabilities(), 2);
    let mut port = Port::new(&[25, 445, 139, 1900]);
    port.publish(&mut offload);
    let before = ports_of(&offload);
    // Rules for the third port take more room than there is.
    offload.api().refuses = Some(445);
    let mut denied = 0;
    for _ in 0..30 {
        denied += 1_000;
        look(&mut offload, &|slot| if slot == 445 { denied } else { 0 });
        port.fill(&mut offload);
    }
    assert_eq!(
        (ports_of(&offload), offload.report(0).moves.replaced),
        (before, 0)
    );
}

#[test]
fn changes_and_faults_by_chance() {
    let mut created = 0;
    for seed in 0..400 {
        let mut dice = Dice(seed);
        let mut port = Port::new(&[]);
        let room = 1 + dice.below(6) as usize;
        let mut offload = offload(dice.pick(&Level::ALL).capabilities(), room);
        for _ in 0..60 {
            let number = dice.pick(&[25, 139, 445, 1900, 3389, 11211]);
            match port.denied.iter().any(|(n, _)| *n == number) {
                true => port.allow(number),
                false => port.deny(number),
            }
            let nic = offload.api();
            match dice.below(12) {
                0 => nic.fails_after = Some(dice.below(3) as u32),
                1 => nic.keeps_rules = !nic.keeps_rules,
                2 => nic.keeps_all = !nic.keeps_all,
                3 => nic.is_mute = !nic.is_mute,
                4 => nic.reset(),
                5 => nic.rules.clear(),
                6 => drop(nic.rules.pop_first()),
                7 => nic.room = dice.below(8) as usize,
                _ => {}
            }
            if dice.one_in(3) {
                let denied = dice.below(10_000);
                look(&mut offload, &|slot| denied * u64::from(slot % 7));
            }
            port.publish(&mut offload);
        }
        created += offload.report(0).moves.created;
        // Without faults all is as it should be in the end.
        let nic = offload.api();
        (nic.keeps_all, nic.keeps_rules, nic.fails_after, nic.room) = (false, false, None, 100);
        nic.reset();
        for _ in 0..3 {
            look(&mut offload, &|_| 0);
            port.fill(&mut offload);
        }
        let wanted = offload.report(0).wanted;
        assert_eq!(
            offload.api().rules.len(),
            wanted,
            "seed {seed}: {:#?}",
            offload.report(0)
        );
    }
    assert!(created > 3_000, "{created}");
}

#[test]
fn the_nics_of_a_switch() {
    let on = offload(Level::DropAndCount.capabilities(), 100);
    let off = Offload::new(
        "net_other".to_owned(),
        FakeNic::new(Level::Drop.capabilities(), 100),
        Settings::default(),
        Arc::default(),
    );
    let nics = Nics::new([(0, on), (3, off)], Arc::default());
    assert_eq!(nics.ports(), &BTreeSet::from([0]));
    let port = Port::new(&[25]);
    let stop = AtomicBool::new(false);
    assert_eq!(nics.before(vec![(0, senders(&port.tables))]), [""; 0]);
    nics.fill(&stop);
    assert_eq!(nics.report().0[0].installed, 0, "not before the tables");
    nics.after(&BTreeSet::from([0]));
    nics.fill(&stop);
    let (ports, rows) = nics.report();
    assert_eq!((ports[0].installed, rows.len()), (1, 2));
    assert!(ports[1].off.contains("[offload.parsers.net_other]"), "{ports:#?}");
}
