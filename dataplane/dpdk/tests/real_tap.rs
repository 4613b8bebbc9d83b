//! `net_tap`: an interface of the kernel that DPDK makes, watched from the kernel's side by `net_af_packet`.
#![allow(clippy::unwrap_used, clippy::panic, reason = "a test fails by panicking")]

use crate::rig;

use portcullis_dpdk::flow::{Action, Eth, FlowCause, FlowErrorKind, Ipv4, Item, Masked, Ports, Rule};
use portcullis_testbed::need_root;
use rig::netns::{frame, ip, receive, send, unshare};
use rig::{pool, running, unique};

/// The interfaces of the calling thread's namespace.
fn interfaces() -> String {
    std::fs::read_to_string("/proc/thread-self/net/dev").unwrap()
}

#[test]
fn frames_cross_a_tap_both_ways() {
    if !need_root("frames_cross_a_tap_both_ways") {
        return;
    }
    unshare();
    let pool = pool(4096);
    let mut tap = running(&format!("{},iface=tapped", unique("net_tap")), &pool);
    ip("link set tapped up");
    let mut kernel = running(&format!("{},iface=tapped", unique("net_af_packet")), &pool);
    let frames: Vec<Vec<u8>> = [60, 99, 1514]
        .into_iter()
        .zip(0..)
        .map(|(n, i)| frame(i, n))
        .collect();
    send(&mut tap.tx[0], &pool, &frames);
    assert_eq!(receive(&mut kernel.rx[0], frames.len()), frames);
    send(&mut kernel.tx[0], &pool, &frames);
    assert_eq!(receive(&mut tap.rx[0], frames.len()), frames);
    assert!(interfaces().contains("tapped"));
    drop((tap, kernel));
    assert_eq!(pool.in_use(), 0);
    assert!(!interfaces().contains("tapped"), "the interface is still there");
}

#[test]
fn a_driver_says_what_of_a_rule_it_objects_to() {
    if !need_root("a_driver_says_what_of_a_rule_it_objects_to") {
        return;
    }
    unshare();
    let pool = pool(4096);
    let tap = running(&format!("{},iface=ruled", unique("net_tap")), &pool).port;
    let rule = |item, action| Rule {
        pattern: vec![Item::Eth(Eth::default()), item],
        actions: vec![action],
        ..Rule::default()
    };
    let ip = Item::Ipv4(Ipv4 {
        dst: Masked::prefix([192, 0, 2, 0].into(), 24),
        protocol: Masked::exact(17),
        ..Ipv4::default()
    });
    tap.flows().validate(&rule(ip, Action::Drop)).unwrap();

    let header = tap
        .flows()
        .validate(&rule(Item::Sctp(Ports::default()), Action::Drop))
        .unwrap_err();
    assert_eq!(header.kind, FlowErrorKind::Item, "{header:?}");
    assert_eq!(
        header.cause,
        Some(FlowCause::Item {
            index: 1,
            name: "sctp"
        }),
        "{header:?}"
    );
    let action = tap.flows().validate(&rule(ip, Action::Jump(1))).unwrap_err();
    assert_eq!(action.kind, FlowErrorKind::Action, "{action:?}");
    assert_eq!(
        action.cause,
        Some(FlowCause::Action {
            index: 0,
            name: "jump"
        }),
        "{action:?}"
    );
    let text = action.to_string();
    assert!(
        text.contains("action 0, jump") && text.contains("the driver says"),
        "{text}"
    );

    // Whether it can be made is up to the kernel, which needs the classifier `flower`.
    match tap.flows().create(&rule(ip, Action::Drop)) {
        Ok(flow) => flow.destroy().unwrap(),
        Err(error) => {
            let said = error.message.as_deref().unwrap_or_default();
            assert!(said.contains("flower"), "{error:?}");
        }
    }
    tap.flows().flush().unwrap();
}
