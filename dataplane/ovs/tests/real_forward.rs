//! Where frames go for which no rule decides, with real frames: unknown destinations, and MACs that are learned.
#![allow(clippy::unwrap_used, clippy::panic, reason = "a test fails by panicking")]

use crate::rig;

use portcullis_testbed::{EndpointSpec, need_root};
use rig::frames::{DOCUMENT, GATEWAY, HOSTS, NOBODY, SOON, World, mac, silence};

#[test]
fn unknown_destinations_go_to_uplinks_and_macs_stay_where_they_are() {
    if !need_root("unknown_destinations_go_to_uplinks_and_macs_stay_where_they_are") {
        return;
    }
    let mut world = World::start(&HOSTS, |_| {});
    world.rig.apply(DOCUMENT);
    let uplinks = ["internet", "internet2"];
    for from in ["web1", "free1", "quiet1", "stray"] {
        let n = HOSTS.iter().find(|(name, _)| *name == from).unwrap().1;
        assert_eq!(world.send(from, mac(n), NOBODY), uplinks, "from {from}");
    }
    assert_eq!(
        world.send("internet", [2, 0x99, 0, 0, 0, 7], NOBODY),
        ["internet2"]
    );

    // The gateway speaks; a server that sends with its MAC takes nothing.
    assert_eq!(world.send("web1", mac(1), GATEWAY), uplinks);
    assert_eq!(world.send("internet", GATEWAY, mac(1)), ["web1"]);
    assert_eq!(world.send("web1", mac(1), GATEWAY), ["internet"]);
    for rogue in ["stray", "free1", "quiet1"] {
        assert_eq!(world.teach(rogue, GATEWAY, mac(1)), ["web1"]);
        assert_eq!(
            world.send("web1", mac(1), GATEWAY),
            ["internet"],
            "against {rogue}"
        );
    }
    // And one that sent with it before the gateway did loses it to the uplink.
    let late = [2, 0x99, 0, 0, 0, 2];
    world.teach("stray", late, NOBODY);
    assert_eq!(world.send("web1", mac(1), late), ["stray"]);
    world.teach("internet2", late, mac(1));
    world.teach("stray", late, NOBODY);
    assert_eq!(world.send("web1", mac(1), late), ["internet2"]);

    // Declared MACs are nobody else's, whether their endpoint is plugged in or not.
    for rogue in ["stray", "free1"] {
        world.teach(rogue, mac(1), NOBODY);
        assert_eq!(
            world.send("internet", GATEWAY, mac(1)),
            ["web1"],
            "{rogue} as web1"
        );
        world.teach(rogue, mac(0x77), NOBODY);
        assert_eq!(
            world.send("internet", GATEWAY, mac(0x77)),
            ["internet2"],
            "{rogue} as away"
        );
    }

    // What is learned stays with its port, and ends with it.
    let own = [2, 0x55, 0, 0, 0, 1];
    world.teach("stray", own, NOBODY);
    assert_eq!(world.send("internet", GATEWAY, own), ["stray"]);
    world.teach("free1", own, NOBODY);
    assert_eq!(
        world.send("internet", GATEWAY, own),
        ["stray"],
        "free1 takes a MAC of stray"
    );
    world.rig.sandbox.unplug("stray").unwrap();
    world.rig.until("stray gone", |s| {
        s.state == portcullis_backend::SessionState::InSync
    });
    std::thread::sleep(SOON);
    assert_eq!(world.send("internet", GATEWAY, own), ["internet2"]);
    world.teach("free1", own, NOBODY);
    assert_eq!(world.send("internet", GATEWAY, own), ["free1"]);

    // At most 16 a port.
    for n in 0..40 {
        let frame = world.frame([2, 0x66, 0, 0, 0, n], NOBODY);
        world.host("quiet1").send_frame(&frame).unwrap();
    }
    std::thread::sleep(SOON);
    let of_quiet = world
        .learned()
        .iter()
        .filter(|row| row.contains("02:66:"))
        .count();
    // Its own MAC was the first.
    assert_eq!(of_quiet, 15, "{:#?}", world.learned());
}

#[test]
fn two_interfaces_of_one_endpoint_get_what_the_one_that_sent_last_gets() {
    if !need_root("two_interfaces_of_one_endpoint_get_what_the_one_that_sent_last_gets") {
        return;
    }
    let mut world = World::start(&[("web1", 1), ("internet", 9)], |_| {});
    for (name, n) in [("old", 2), ("new", 2)] {
        let spec = EndpointSpec {
            iface_id: Some("5f1c".to_string()),
            ..EndpointSpec::numbered(name, n)
        };
        let host = world.rig.sandbox.add_endpoint(spec).unwrap();
        silence(&host);
        world.hosts.push(host);
    }
    for (what, macs) in [
        ("declared", "    macs: [\"02:00:00:00:00:02\"]\n"),
        ("learned", ""),
    ] {
        let endpoint = format!("  twice:\n    attachments: [{{iface_id: 5f1c}}]\n{macs}");
        world.rig.apply(&format!("{DOCUMENT}{endpoint}"));
        world.rig.until("two told", |s| {
            s.unsupported
                .iter()
                .any(|u| u.rule.contains("new and old of twice") && u.why.contains("there are 2"))
        });
        for now in ["old", "new", "old"] {
            assert_eq!(world.teach(now, mac(2), NOBODY), ["internet"]);
            assert_eq!(
                world.send("internet", GATEWAY, mac(2)),
                [now],
                "{what}, {now} sent last"
            );
        }
        world.rig.sandbox.unplug("old").unwrap();
        world.rig.until("one left", |s| {
            s.unsupported.iter().all(|u| !u.rule.contains("of twice"))
                && s.state == portcullis_backend::SessionState::InSync
        });
        if what == "learned" {
            // What the one that is gone taught is gone with it.
            assert_eq!(world.teach("new", mac(2), NOBODY), ["internet"]);
        }
        assert_eq!(
            world.send("internet", GATEWAY, mac(2)),
            ["new"],
            "{what}, after the old one is gone"
        );
        world.rig.sandbox.plug("old").unwrap();
    }
}

#[test]
fn a_shared_mac_is_where_it_was_used_last() {
    if !need_root("a_shared_mac_is_where_it_was_used_last") {
        return;
    }
    let hosts = [("r1", 1), ("r2", 2), ("stray", 5), ("internet", 9)];
    let mut world = World::start(&hosts, |_| {});
    let router = |name: &str, n: u8| {
        format!(
            "  {name}:\n    attachments: [{{interface: {name}}}]\n    labels: {{tenant: t}}\n    \
             macs: [\"02:00:00:00:00:0{n}\", \"00:00:5e:00:01:0a\"]\n    shared: [\"00:00:5e:00:01:0a\"]\n"
        )
    };
    let yaml = format!(
        "version: portcullis/v1\nendpoints:\n{}{}",
        router("r1", 1),
        router("r2", 2)
    );
    world.rig.apply(&yaml);
    let virtual_mac = [0, 0, 0x5e, 0, 1, 0x0a];
    assert_eq!(
        world.send("internet", GATEWAY, virtual_mac),
        [""; 0],
        "nothing used it"
    );
    assert_eq!(world.teach("stray", virtual_mac, NOBODY), ["internet"]);
    assert_eq!(
        world.send("internet", GATEWAY, virtual_mac),
        [""; 0],
        "stray does not share it"
    );
    for now in ["r1", "r2", "r1"] {
        assert_eq!(world.teach(now, virtual_mac, NOBODY), ["internet"]);
        assert_eq!(world.send("internet", GATEWAY, virtual_mac), [now]);
    }
    // The router of another host takes over.
    world.teach("internet", virtual_mac, NOBODY);
    assert_eq!(world.send("r2", mac(2), virtual_mac), ["internet"]);
    assert_eq!(world.teach("r2", virtual_mac, NOBODY), ["internet"]);
    assert_eq!(world.send("internet", GATEWAY, virtual_mac), ["r2"]);
}
