//! Where frames go for which no rule decides, with real frames: unknown destinations, MACs that are learned, what no
//! server may send, and settings of the bridge that ought to change none of it.
#![allow(clippy::unwrap_used, clippy::panic, reason = "a test fails by panicking")]

use crate::rig;

use std::time::{Duration, Instant};

use portcullis_testbed::{Capture, EndpointSpec, NetnsHost, SandboxOptions, etherparse, need_root};
use rig::Rig;

type Mac = [u8; 6];

/// A MAC that nothing has.
const NOBODY: Mac = [2, 0xaa, 0, 0, 0, 1];
/// The router behind the first uplink.
const GATEWAY: Mac = [2, 0x99, 0, 0, 0, 1];
/// Longer than any frame takes.
const SOON: Duration = Duration::from_millis(400);

/// `web1` is managed and guarded, `free1` declares a MAC and is not guarded, `quiet1` declares none and is denied
/// everything; `away` has no port here. The other hosts are unmanaged.
const DOCUMENT: &str = r#"
version: portcullis/v1
baseline:
  - {name: smtp, action: deny, direction: egress, protocol: tcp, ports: [25]}
profiles:
  shut:
    rules: [{name: all, action: deny, direction: ingress, protocol: udp}]
endpoints:
  web1:
    attachments: [{interface: web1}]
    macs: ["02:00:00:00:00:01"]
    addresses: [192.0.2.1]
  free1:
    attachments: [{interface: free1}]
    macs: ["02:00:00:00:00:03"]
    source_guard: false
  quiet1:
    attachments: [{interface: quiet1}]
    profiles: [shut]
  away:
    attachments: [{interface: away}]
    macs: ["02:00:00:00:00:77"]
"#;

const HOSTS: [(&str, u8); 6] = [
    ("web1", 1),
    ("free1", 3),
    ("quiet1", 4),
    ("stray", 5),
    ("internet", 9),
    ("internet2", 10),
];

fn mac(n: u8) -> Mac {
    [2, 0, 0, 0, 0, n]
}

/// Frames that are told apart by a number.
struct World {
    rig: Rig,
    hosts: Vec<NetnsHost>,
    sent: u32,
}

impl World {
    fn start(hosts: &[(&str, u8)], tune: impl FnOnce(&Rig)) -> World {
        Self::on(SandboxOptions::default(), hosts, tune)
    }

    fn on(options: SandboxOptions, hosts: &[(&str, u8)], tune: impl FnOnce(&Rig)) -> World {
        let (rig, hosts) = Rig::start(options, hosts, |config| {
            config.uplinks = vec!["internet*".to_string()];
        });
        for host in &hosts {
            silence(host);
        }
        tune(&rig);
        World { rig, hosts, sent: 0 }
    }

    fn host(&self, name: &str) -> &NetnsHost {
        self.hosts.iter().find(|h| h.name() == name).unwrap()
    }

    /// An UDP packet of 192.0.2.1 to 192.0.2.99.
    fn frame(&mut self, src: Mac, dst: Mac) -> Vec<u8> {
        self.sent += 1;
        let builder = etherparse::PacketBuilder::ethernet2(src, dst)
            .ipv4([192, 0, 2, 1], [192, 0, 2, 99], 64)
            .udp(4000, 5000);
        let mut frame = Vec::new();
        builder.write(&mut frame, &self.sent.to_be_bytes()).unwrap();
        frame
    }

    /// Sends a frame; the hosts at which it arrives.
    fn send_frame(&self, from: &str, frame: &[u8]) -> Vec<&str> {
        let others: Vec<&NetnsHost> = self.hosts.iter().filter(|h| h.name() != from).collect();
        let ears: Vec<Capture> = others.iter().map(|h| h.capture().unwrap()).collect();
        self.host(from).send_frame(frame).unwrap();
        let end = &frame[frame.len() - 4..];
        // All listen at once: what has come meanwhile waits in their sockets.
        let deadline = Instant::now() + SOON;
        let heard = |ear: &Capture| {
            let left = deadline.saturating_duration_since(Instant::now());
            ear.until(left, |f| f.ends_with(end)).unwrap().is_some()
        };
        let ears = others.iter().zip(&ears);
        ears.filter(|(_, ear)| heard(ear))
            .map(|(host, _)| host.name())
            .collect()
    }

    fn send(&mut self, from: &str, src: Mac, dst: Mac) -> Vec<String> {
        let frame = self.frame(src, dst);
        self.send_frame(from, &frame)
            .into_iter()
            .map(str::to_string)
            .collect()
    }

    /// MACs that the switch learned, as `ovs-ofctl` prints their rows.
    fn learned(&self) -> Vec<String> {
        let args = [
            "-O",
            "OpenFlow15",
            "--no-stats",
            "dump-flows",
            &self.rig.bridge(),
            "table=5",
        ];
        let text = self.rig.sandbox.ofctl(args).unwrap();
        text.lines()
            .filter(|l| l.contains("hard_timeout=300"))
            .map(str::to_string)
            .collect()
    }
}

/// The host's kernel says nothing of its own.
fn silence(host: &NetnsHost) {
    host.inside("silencing the host", || {
        std::fs::write("/proc/sys/net/ipv6/conf/eth0/disable_ipv6", "1")
    })
    .unwrap();
    let flush = ["-n", host.namespace(), "address", "flush", "dev", "eth0"];
    assert!(
        std::process::Command::new("ip")
            .args(flush)
            .status()
            .unwrap()
            .success()
    );
}

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
        assert_eq!(world.send(rogue, GATEWAY, mac(1)), ["web1"]);
        assert_eq!(
            world.send("web1", mac(1), GATEWAY),
            ["internet"],
            "against {rogue}"
        );
    }
    // And one that sent with it before the gateway did loses it to the uplink.
    let late = [2, 0x99, 0, 0, 0, 2];
    world.send("stray", late, NOBODY);
    assert_eq!(world.send("web1", mac(1), late), ["stray"]);
    world.send("internet2", late, mac(1));
    world.send("stray", late, NOBODY);
    assert_eq!(world.send("web1", mac(1), late), ["internet2"]);

    // Declared MACs are nobody else's, whether their endpoint is plugged in or not.
    for rogue in ["stray", "free1"] {
        world.send(rogue, mac(1), NOBODY);
        assert_eq!(
            world.send("internet", GATEWAY, mac(1)),
            ["web1"],
            "{rogue} as web1"
        );
        world.send(rogue, mac(0x77), NOBODY);
        assert_eq!(
            world.send("internet", GATEWAY, mac(0x77)),
            ["internet2"],
            "{rogue} as away"
        );
    }

    // What is learned stays with its port, and ends with it.
    let own = [2, 0x55, 0, 0, 0, 1];
    world.send("stray", own, NOBODY);
    assert_eq!(world.send("internet", GATEWAY, own), ["stray"]);
    world.send("free1", own, NOBODY);
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
    world.send("free1", own, NOBODY);
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
            assert_eq!(world.send(now, mac(2), NOBODY), ["internet"]);
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
            assert_eq!(world.send("new", mac(2), NOBODY), ["internet"]);
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
    assert_eq!(world.send("stray", virtual_mac, NOBODY), ["internet"]);
    assert_eq!(
        world.send("internet", GATEWAY, virtual_mac),
        [""; 0],
        "stray does not share it"
    );
    for now in ["r1", "r2", "r1"] {
        assert_eq!(world.send(now, virtual_mac, NOBODY), ["internet"]);
        assert_eq!(world.send("internet", GATEWAY, virtual_mac), [now]);
    }
    // The router of another host takes over.
    world.send("internet", virtual_mac, NOBODY);
    assert_eq!(world.send("r2", mac(2), virtual_mac), ["internet"]);
    assert_eq!(world.send("r2", virtual_mac, NOBODY), ["internet"]);
    assert_eq!(world.send("internet", GATEWAY, virtual_mac), ["r2"]);
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
