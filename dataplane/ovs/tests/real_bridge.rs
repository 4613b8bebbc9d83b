//! Settings of the bridge and its ports, with real frames: none delivers past an ingress policy unsaid.
#![allow(clippy::unwrap_used, clippy::panic, reason = "a test fails by panicking")]

use crate::rig;

use std::time::Duration;

use portcullis_testbed::{SandboxOptions, need_root};
use rig::frames::{DOCUMENT, GATEWAY, HOSTS, Mac, NOBODY, SOON, World, mac};

#[test]
fn no_setting_lets_normal_past_an_ingress_policy() {
    if !need_root("no_setting_lets_normal_past_an_ingress_policy") {
        return;
    }
    let standalone = SandboxOptions {
        standalone: true,
        ..SandboxOptions::default()
    };
    let mut world = World::on(standalone, &HOSTS, |rig| {
        // Before the agent comes: a bridge that learns by itself where everybody is.
        let all = ["set", "bridge", "br0", "other_config:mac-aging-time=3600"];
        rig.sandbox.vsctl(all).unwrap();
    });
    // NORMAL has learned quiet1, and knows it for an hour.
    let n = mac(4);
    assert!(!world.send("quiet1", n, NOBODY).is_empty());
    assert_eq!(
        world.send("internet", GATEWAY, n),
        ["quiet1"],
        "the bridge by itself"
    );
    world.rig.apply(DOCUMENT);
    let group = |world: &mut World, dst: Mac| {
        let mut frame = world.frame(GATEWAY, dst);
        frame[30..34].copy_from_slice(&[239, 1, 2, 3]);
        frame
    };
    let control = [0x01, 0x80, 0xc2, 0, 0, 0x0e];
    let settings: [(&str, &[&str]); 7] = [
        ("mac-aging-time", &[]),
        ("static MAC", &[]),
        (
            "snooping",
            &["set", "bridge", "br0", "mcast_snooping_enable=true"],
        ),
        (
            "flooded snooping",
            &["set", "port", "quiet1", "other_config:mcast-snooping-flood=true"],
        ),
        (
            "flooded reports",
            &[
                "set",
                "port",
                "quiet1",
                "other_config:mcast-snooping-flood-reports=true",
            ],
        ),
        (
            "forward-bpdu",
            &["set", "bridge", "br0", "other_config:forward-bpdu=true"],
        ),
        ("flood-vlans", &["set", "bridge", "br0", "flood-vlans=0"]),
    ];
    for (what, command) in settings {
        if what == "static MAC" {
            world
                .rig
                .sandbox
                .appctl(["fdb/add", "br0", "quiet1", "0", "02:00:00:00:00:04"])
                .unwrap();
        }
        if !command.is_empty() {
            world.rig.sandbox.vsctl(command).unwrap();
        }
        std::thread::sleep(Duration::from_millis(200));
        // It has not spoken since the agent came: its MAC is not known to our rows.
        assert_eq!(
            world.send("internet", GATEWAY, n),
            ["internet2"],
            "{what}: to the MAC"
        );
        assert_eq!(
            world.send("stray", mac(5), n),
            ["internet", "internet2"],
            "{what}: from a server"
        );
        let frame = group(&mut world, [1, 0, 0x5e, 1, 2, 3]);
        let receivers = world.send_frame("internet", &frame);
        assert!(
            !receivers.contains(&"quiet1"),
            "{what}: to a group, at {receivers:?}"
        );
        assert!(
            receivers.contains(&"stray"),
            "{what}: to a group, at {receivers:?}"
        );
        let frame = world.frame(GATEWAY, control);
        let bridges: &[&str] = if what == "forward-bpdu" || what == "flood-vlans" {
            &["internet2"]
        } else {
            &[]
        };
        assert_eq!(
            world.send_frame("internet", &frame),
            bridges,
            "{what}: to bridges"
        );
    }
    let unsupported = world.rig.target.status().unsupported.clone();
    assert!(
        unsupported.iter().all(|u| u.table != "output"),
        "{unsupported:#?}"
    );
}

#[test]
fn what_passes_beside_the_tables_is_in_status() {
    if !need_root("what_passes_beside_the_tables_is_in_status") {
        return;
    }
    let mut world = World::start(&HOSTS, |_| {});
    world.rig.apply(DOCUMENT);
    let told = |world: &World, what: &str| {
        world
            .rig
            .until(what, |s| s.unsupported.iter().any(|u| u.rule.contains(what)));
    };
    let gone = |world: &World, what: &str| {
        world
            .rig
            .until(what, |s| s.unsupported.iter().all(|u| !u.rule.contains(what)));
    };
    let mirror = "-- --id=@p get port quiet1 -- --id=@m create mirror name=ids select_all=true output_port=@p \
                  -- set bridge br0 mirrors=@m";
    world.rig.sandbox.vsctl(mirror.split(' ')).unwrap();
    told(&world, "mirror ids to quiet1");
    assert!(
        world
            .send("internet", GATEWAY, mac(1))
            .contains(&"quiet1".to_string()),
        "a mirror copies"
    );
    world
        .rig
        .sandbox
        .vsctl([
            "clear",
            "mirror",
            "ids",
            "output_port",
            "--",
            "set",
            "mirror",
            "ids",
            "output_vlan=7",
        ])
        .unwrap();
    told(&world, "mirror ids in VLAN 7");
    world
        .rig
        .sandbox
        .vsctl(["clear", "bridge", "br0", "mirrors"])
        .unwrap();
    gone(&world, "mirror ids");
    world
        .rig
        .sandbox
        .vsctl(["set-controller", "br0", "tcp:192.0.2.99:6653"])
        .unwrap();
    told(&world, "TCP to and from tcp:192.0.2.99:6653");
    world
        .rig
        .sandbox
        .vsctl(["set", "controller", "br0", "connection_mode=out-of-band"])
        .unwrap();
    gone(&world, "TCP to and from");
}

#[test]
fn uplinks_that_are_a_bond_keep_their_balance_and_nothing_passes_beside_the_policy() {
    if !need_root("uplinks_that_are_a_bond_keep_their_balance_and_nothing_passes_beside_the_policy") {
        return;
    }
    let mut world = World::start(&HOSTS, |rig| {
        let device = |name: &str| {
            let args = ["get", "interface", name, "options:dpdk-devargs"];
            rig.sandbox.vsctl(args).unwrap().trim().to_string()
        };
        let (a, b) = (device("internet"), device("internet2"));
        for name in ["internet", "internet2"] {
            rig.sandbox.vsctl(["del-port", "br0", name]).unwrap();
        }
        let options = |args: &str| format!("options:dpdk-devargs={args}");
        let (a, b) = (options(&a), options(&b));
        let bond = [
            "add-bond",
            "br0",
            "bond0",
            "internet",
            "internet2",
            "bond_mode=active-backup",
            "other_config:bond-primary=internet",
            "--",
            "set",
            "interface",
            "internet",
            "type=dpdk",
            &a,
            "--",
            "set",
            "interface",
            "internet2",
            "type=dpdk",
            &b,
        ];
        rig.sandbox.vsctl(bond).unwrap();
    });
    world.rig.apply(DOCUMENT);
    world.rig.until("NORMAL told", |s| {
        s.unsupported.iter().any(|u| u.rule == "frames by NORMAL")
    });
    world.rig.until("no row drifts", |s| {
        s.state == portcullis_backend::SessionState::InSync
    });
    // What NORMAL learned before the agent came.
    world.rig.sandbox.appctl(["fdb/flush", "br0"]).unwrap();
    for from in ["web1", "quiet1", "stray"] {
        let n = HOSTS.iter().find(|(name, _)| *name == from).unwrap().1;
        let at = world.send(from, mac(n), NOBODY);
        assert_eq!(at.len(), 1, "one interface of the bond: {from} to {at:?}");
        assert!(at[0].starts_with("internet"));
    }
    let known = world.rig.sandbox.appctl(["fdb/show", "br0"]).unwrap();
    assert!(
        !known.contains("02:00:00:00:00:0"),
        "NORMAL knows servers: {known}"
    );
    assert_eq!(world.send("internet", GATEWAY, mac(1)), ["web1"]);
    assert_eq!(world.send("web1", mac(1), GATEWAY), ["internet"]);
    assert_eq!(world.send("stray", GATEWAY, mac(1)), ["web1"]);
    assert_eq!(
        world.send("web1", mac(1), GATEWAY),
        ["internet"],
        "stray takes the gateway's MAC"
    );
    std::thread::sleep(Duration::from_secs(3));
    assert_eq!(
        world.rig.target.status().drift_repaired,
        0,
        "rows as written are read back"
    );
}

#[test]
fn a_server_has_one_vlan_unless_it_is_a_trunk_and_plan_warns() {
    if !need_root("a_server_has_one_vlan_unless_it_is_a_trunk_and_plan_warns") {
        return;
    }
    let mut world = World::start(&HOSTS, |_| {});
    let trunk = DOCUMENT.replace("{interface: web1}", "{interface: web1, vlan: any}");
    world.rig.apply(&trunk);
    let tagged = |frame: &[u8], tags: &[u16]| {
        let tags = tags
            .iter()
            .flat_map(|vid| [0x81, 0, (vid >> 8) as u8, *vid as u8]);
        let mut bytes = frame[..12].to_vec();
        bytes.extend(tags);
        bytes.extend(&frame[12..]);
        bytes
    };
    let both = |world: &mut World, tags: &[u16]| {
        let (out, back) = (world.frame(mac(1), NOBODY), world.frame(GATEWAY, mac(1)));
        let out = world
            .send_frame("web1", &tagged(&out, tags))
            .contains(&"internet");
        let back = world
            .send_frame("internet", &tagged(&back, tags))
            .contains(&"web1");
        (out, back)
    };
    for tags in [&[][..], &[7], &[0], &[0, 7], &[7, 8]] {
        // The switch parses one tag: what another hides, a guarded server may not send.
        let sent = tags.len() < 2;
        assert_eq!(both(&mut world, tags), (sent, true), "trunk, tags {tags:?}");
    }
    let plan = |world: &World, yaml: &str| {
        let document = portcullis_policy::Document::from_yaml(yaml).unwrap();
        let intent = portcullis_compiler::Compiler::default()
            .resolve(&document, 9)
            .unwrap();
        world
            .rig
            .runtime
            .block_on(world.rig.target.plan(intent))
            .unwrap()
            .warnings
    };
    assert_eq!(plan(&world, &trunk), [""; 0]);
    let warnings = plan(&world, DOCUMENT);
    assert!(
        warnings.len() == 1 && warnings[0].starts_with("tagged frames of port web1 stop"),
        "{warnings:?}"
    );
    world.rig.apply(DOCUMENT);
    for tags in [&[][..], &[7], &[0], &[0, 7], &[7, 8], &[0, 0]] {
        let pass = matches!(tags, [] | [0]);
        assert_eq!(both(&mut world, tags), (pass, pass), "untagged, tags {tags:?}");
    }
    world.rig.sandbox.vsctl(["set", "port", "web1", "tag=7"]).unwrap();
    world.rig.until("the tag seen", |s| {
        s.state == portcullis_backend::SessionState::InSync
    });
    std::thread::sleep(SOON);
    for (tags, back) in [
        (&[][..], false),
        (&[7][..], true),
        (&[8], false),
        (&[7, 8], false),
    ] {
        let frame = world.frame(GATEWAY, mac(1));
        let arrived = world
            .send_frame("internet", &tagged(&frame, tags))
            .contains(&"web1");
        assert_eq!(arrived, back, "into VLAN 7, tags {tags:?}");
    }
}
