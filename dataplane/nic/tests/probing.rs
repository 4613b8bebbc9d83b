//! What is asked of a NIC by canary rules, when, and what is made of the answers.

use std::collections::BTreeSet;

use portcullis_nic::{Capabilities, Level};

use crate::fake::FakeNic;
use crate::faults::{Port, look, made, offload, ports_of};

#[test]
fn every_level_is_told_by_canaries() {
    for level in Level::ALL {
        let offload = offload(level.capabilities(), 100);
        let found = offload.capabilities();
        assert_eq!(found.drop, level != Level::QueueOnly, "{level:?}");
        assert_eq!(found.count, level == Level::DropAndCount, "{level:?}");
        if found.drop {
            assert_eq!(found, level.capabilities(), "{level:?}");
        }
    }
}

#[test]
fn a_driver_that_says_yes_is_not_believed() {
    let mut takes = Level::DropAndCount.capabilities();
    takes.dst_port.masked = false;
    takes.count = false;
    let mut nic = FakeNic::new(takes, 100);
    nic.validate_lies = true;
    let offload = made(nic);
    assert_eq!(offload.capabilities(), takes);
    let report = offload.report(0);
    assert!(
        report.untrue.iter().any(|what| what.starts_with("count")),
        "{report:#?}"
    );
    assert!(
        report
            .untrue
            .iter()
            .any(|what| what.starts_with("destination port")),
        "{report:#?}"
    );
}

#[test]
fn a_canary_that_cannot_be_removed_is_flushed() {
    let mut nic = FakeNic::new(Level::Drop.capabilities(), 100);
    nic.keeps_rules = true;
    let mut offload = made(nic);
    assert!(offload.is_on() && offload.api().rules.is_empty());
}

#[test]
fn canaries_match_no_packet_of_a_port_that_forwards() {
    let mut nic = FakeNic::new(Level::DropAndCount.capabilities(), 100);
    nic.ports_or_addresses = true;
    let mut offload = made(nic);
    let found = offload.capabilities();
    assert!(found.dst_port.exact && offload.api().created.iter().any(|rule| rule.dst.is_any()));
    let mut port = Port::new(&[25]);
    port.publish(&mut offload);
    offload.api().created.clear();
    offload.api().reset();
    look(&mut offload, &|_| 0);
    let canaries = offload.api().created.clone();
    assert!(
        !canaries.is_empty() && canaries.iter().all(|rule| !rule.dst.is_any()),
        "{canaries:?}"
    );
    // What could not be asked is taken to be as it was.
    assert_eq!(offload.capabilities(), found);
    port.fill(&mut offload);
    assert_eq!(ports_of(&offload), BTreeSet::from([25]));
}

#[test]
fn no_canary_matches_every_packet_of_a_port() {
    let mut nic = FakeNic::new(Level::DropAndCount.capabilities(), 100);
    nic.counts_all_or_nothing = true;
    let mut offload = made(nic);
    let created = &offload.api().created;
    assert!(
        created.iter().all(|rule| rule.has_ports() || !rule.dst.is_any()),
        "{created:?}"
    );
}

#[test]
fn a_canary_that_stays_is_named() {
    let mut nic = FakeNic::new(Level::Drop.capabilities(), 100);
    let mut offload = made(nic.clone());
    nic = offload.api().clone();
    nic.keeps_rules = true;
    *offload.api() = nic;
    offload.api().reset();
    offload.api().keeps_all_after = Some(1);
    look(&mut offload, &|_| 0);
    let fault = offload.report(0).fault;
    assert!(fault.contains("canary"), "{fault}");
}

#[test]
fn a_nic_that_is_not_ready_is_asked_again() {
    let mut nic = FakeNic::new(Level::Drop.capabilities(), 100);
    nic.is_busy = true;
    let mut offload = made(nic);
    assert!(!offload.is_on() && offload.may_be_on());
    let mut port = Port::new(&[25]);
    port.publish(&mut offload);
    for _ in 0..10 {
        look(&mut offload, &|_| 0);
    }
    offload.api().is_busy = false;
    for _ in 0..20 {
        look(&mut offload, &|_| 0);
        port.fill(&mut offload);
    }
    assert_eq!(offload.installed().count(), 1);
    // Less and less often, and no more once it is.
    let asked = offload.api().asked;
    assert!(asked < 100, "{asked} canaries in 30 looks");
    for _ in 0..20 {
        look(&mut offload, &|_| 0);
        port.fill(&mut offload);
    }
    assert_eq!((offload.api().asked, offload.report(0).moves.created), (asked, 1));
    // One that takes no rules at all is not.
    assert!(!made(FakeNic::new(Capabilities::default(), 100)).may_be_on());
}
