//! Stories of the embedded switch on TAP interfaces, whose rules become filters of the kernel's classifier.

use std::time::Duration;

use portcullis_testbed::NetnsHost;

use super::{INTERNET, OFFLOAD, PipelineSource, PortMatching, Rig, Which, connects, document};

/// A blocked port is blocked in the classifier; an opening takes the rule away, a closing brings it back; a full table spills.
pub fn rules_follow_the_policy(which: Which) {
    if !which.is_here("rules_follow_the_policy") {
        return;
    }
    let (mut rig, hosts) = Rig::start(which, PipelineSource::Own(PortMatching::Range));
    let (web, internet) = (&hosts[0], &hosts[INTERNET.0]);
    let _serving = (internet.tcp_echo(25).unwrap(), internet.tcp_echo(80).unwrap());
    rig.apply(&document("25"));
    rig.has_rules(1, 4);
    assert!(!connects(web, 25) && connects(web, 80));
    let (_, dropped) = rig.dropped_by_rules(1);
    assert!(dropped > 0, "the classifier drops it");
    let offload = rig.runtime.block_on(rig.target.offload()).unwrap();
    let smtp = offload
        .rules
        .iter()
        .find(|rule| rule.rule.rule == "baseline/b")
        .unwrap();
    assert_eq!(smtp.flows.hardware, smtp.flows.total(), "{offload:#?}");
    assert!(smtp.flows.hardware > 0 && !smtp.is_counted, "{offload:#?}");
    // Opened, and closed again.
    rig.apply(&document("465"));
    assert!(connects(web, 25));
    rig.apply(&document("25"));
    rig.has_rules(1, 4);
    assert!(!connects(web, 25));
    // The switch is killed: nothing of it stays.
    rig.device.kill();
    assert!(
        rig.device.dropped_by_rules(&rig.sandbox, 1).is_err(),
        "its interfaces are gone"
    );
    rig.device.start_again(&rig.sandbox).unwrap();
    rig.realized();
    rig.has_rules(1, 4);
    assert!(!connects(web, 25) && connects(web, 80));
}

/// A port that may have few rules has the first ones; the switch denies the rest. An opening makes room.
pub fn a_full_table_spills(which: Which) {
    if !which.is_here("a_full_table_spills") {
        return;
    }
    let few = &["--offload-accept", "encapsulation", "--offload-rules", "2"];
    let (mut rig, hosts) = Rig::start_offloading(which, few);
    let (web, internet) = (&hosts[0], &hosts[INTERNET.0]);
    let _serving = [25, 80, 465, 587].map(|port| internet.tcp_echo(port).unwrap());
    rig.apply(&document("25, 465, 587"));
    rig.has_rules(1, 2);
    let closed = |rig: &Rig| {
        for port in [25, 465, 587] {
            assert!(!connects(web, port), "{port}: {:?}", rig.dropped_by_rules(1));
        }
    };
    closed(&rig);
    assert!(connects(web, 80));
    let offload = rig.runtime.block_on(rig.target.offload()).unwrap();
    let nic = offload.nics.iter().find(|nic| nic.port == 1).unwrap();
    assert!(nic.is_full && nic.installed == 2 && nic.wanted == 8, "{nic:#?}");
    let of_rule = offload
        .rules
        .iter()
        .find(|rule| rule.rule.rule == "baseline/b")
        .unwrap();
    assert!(
        of_rule.why.iter().any(|why| why.contains("no room")),
        "{of_rule:#?}"
    );
    rig.apply(&document("465"));
    rig.has_rules(1, 2);
    assert!(connects(web, 25) && connects(web, 587) && !connects(web, 465));
}

/// The classifier looks behind headers that the switch does not open: why such rules have to be accepted. Without that there are none.
pub fn what_a_classifier_opens(which: Which) {
    if !which.is_here("what_a_classifier_opens") {
        return;
    }
    let smtp = [
        &[
            0x45, 0, 0, 40, 0, 0, 0, 0, 64, 6, 0, 0, 192, 0, 2, 1, 192, 0, 2, 9,
        ][..],
        &[
            0x9c, 0x40, 0, 25, 0, 0, 0, 0, 0, 0, 0, 0, 0x50, 2, 0, 0, 0, 0, 0, 0,
        ],
    ]
    .concat();
    let ethernet = [2, 0, 0, 0, 0, 9, 2, 0, 0, 0, 0, 1];
    // batman-adv (unicast), and HSR (IEC 62439-3): an Ethernet frame behind the one, an EtherType behind the other.
    let batman = [
        &ethernet[..],
        &[0x43, 5, 0x40, 15, 64, 0, 2, 0, 0, 0, 0, 9],
        &ethernet,
        &[8, 0],
        &smtp,
    ]
    .concat();
    let hsr = [&ethernet[..], &[0x89, 0x2f, 0, 46, 0, 1, 8, 0], &smtp].concat();
    let plain = [&ethernet[..], &[8, 0], &smtp].concat();
    let arrive = |hosts: &[NetnsHost], frame: &[u8]| {
        let (web, internet) = (&hosts[0], &hosts[INTERNET.0]);
        let capture = internet.capture().unwrap();
        web.send_frame(frame).unwrap();
        capture
            .until(Duration::from_millis(700), |seen| seen == frame)
            .unwrap()
            .is_some()
    };
    {
        let (mut rig, hosts) = Rig::start_offloading(which, &[]);
        rig.apply(&document("25"));
        let offload = rig.runtime.block_on(rig.target.offload()).unwrap();
        let of_rule = offload
            .rules
            .iter()
            .find(|rule| rule.rule.rule == "baseline/b")
            .unwrap();
        assert!(
            of_rule.why.iter().any(|why| why.contains("encapsulation")),
            "{of_rule:#?}"
        );
        assert_eq!(rig.dropped_by_rules(1).0, 0, "nothing was accepted");
        for frame in [&batman, &hsr] {
            assert!(arrive(&hosts, frame), "the policy lets it pass: {frame:02x?}");
        }
        assert!(!arrive(&hosts, &plain));
    }
    let (mut rig, hosts) = Rig::start_offloading(which, OFFLOAD);
    rig.apply(&document("25"));
    rig.has_rules(1, 4);
    let opened: Vec<bool> = [&batman, &hsr].map(|frame| !arrive(&hosts, frame)).to_vec();
    eprintln!(
        "dropped behind a header that the switch does not open: batman-adv {}, HSR {}",
        opened[0], opened[1]
    );
    assert!(
        opened.contains(&true),
        "what is stated of this classifier is no longer so"
    );
    assert!(!arrive(&hosts, &plain));
}
