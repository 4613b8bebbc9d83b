//! Rules on a device that takes every rule, since it is `net_failsafe` without a device behind it.
#![allow(clippy::unwrap_used, clippy::panic, reason = "a test fails by panicking")]

use crate::rig;

use portcullis_dpdk::flow::{
    Action, Attributes, Direction, Eth, FlowErrorKind, Ipv4, Item, Masked, Ports, Rule,
};
use portcullis_dpdk::{Device, PortConfig, ProbeError, Running};
use rig::{eal, pool, skipped, unique};

/// The port, running; `None` where Debian's package with the driver is not installed.
fn taker(test: &str) -> Option<Running> {
    let pool = pool(1024);
    let device = match Device::probe(eal(), &format!("{},exec(true)", unique("net_failsafe"))) {
        Ok(device) => device,
        Err(ProbeError::NoDriver { package, .. }) => {
            skipped(test, &format!("the Debian package {package}"));
            return None;
        }
        Err(error) => panic!("{error:?}"),
    };
    Some(
        device
            .configure(&PortConfig::new(&pool))
            .unwrap()
            .start()
            .unwrap(),
    )
}

fn rule() -> Rule {
    Rule {
        attributes: Attributes {
            group: 1,
            priority: 2,
            direction: Direction::Ingress,
        },
        pattern: vec![
            Item::Eth(Eth::default()),
            Item::Ipv4(Ipv4 {
                src: Masked::prefix([192, 0, 2, 0].into(), 24),
                ..Ipv4::default()
            }),
            Item::Udp(Ports {
                dst: Masked::exact(53),
                ..Ports::default()
            }),
        ],
        actions: vec![Action::Count, Action::Mark(7), Action::Queue(0)],
    }
}

#[test]
fn rules_are_made_and_removed_one_by_one() {
    let Some(Running { port, rx, tx }) = taker("rules_are_made_and_removed_one_by_one") else {
        return;
    };
    port.flows().validate(&rule()).unwrap();
    let first = port.flows().create(&rule()).unwrap();
    let second = port.flows().create(&rule()).unwrap();
    first.destroy().unwrap();
    // A rule keeps its port started, from any thread.
    let port = port.stop(rx, tx).unwrap_err().port;
    std::thread::spawn(move || drop(second)).join().unwrap();
    port.stop(Vec::new(), Vec::new()).unwrap();
}

#[test]
fn a_flushed_rule_is_not_removed_a_second_time() {
    let Some(Running { port, .. }) = taker("a_flushed_rule_is_not_removed_a_second_time") else {
        return;
    };
    let old: Vec<_> = (0..10).map(|_| port.flows().create(&rule()).unwrap()).collect();
    port.flows().flush().unwrap();
    for flow in &old {
        let error = flow.query().unwrap_err();
        assert_eq!(error.kind, FlowErrorKind::Handle, "{error:?}");
    }
    // These get the memory of the old ones, and stay when the old ones are dropped.
    let new: Vec<_> = (0..10).map(|_| port.flows().create(&rule()).unwrap()).collect();
    drop(old);
    for flow in new {
        // There is no device that counts.
        let error = flow.query().unwrap_err();
        assert_ne!(error.kind, FlowErrorKind::Handle, "{error:?}");
        flow.destroy().unwrap();
    }
}
