//! Port resolution and MAC claims.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use portcullis_compiler::Compiler;
use portcullis_ovsdb::{Bridge, Interface, LinkState, Mirror, Port, Switch, VlanMode};
use portcullis_policy::{Document, EndpointRole};

use super::{Attachments, Ports, Role, SwitchPort, Vlans, resolve};
use crate::config::{Config, FinalAction};
use crate::tables::Exit;

/// A port of one interface, with what else it has.
fn port(number: u32, name: &str, more: impl FnOnce(&mut Port, &mut Interface)) -> Port {
    let mut interface = Interface {
        name: name.to_string(),
        ofport: Some(number),
        ..Interface::default()
    };
    let mut port = Port {
        name: name.to_string(),
        ..Port::default()
    };
    more(&mut port, &mut interface);
    port.interfaces.insert(name.to_string(), interface);
    port
}

fn plain(number: u32, name: &str) -> Port {
    port(number, name, |_, _| {})
}

fn iface_id(id: &str) -> impl FnOnce(&mut Port, &mut Interface) {
    move |_, interface| {
        interface
            .external_ids
            .insert("iface-id".to_string(), id.to_string());
    }
}

fn resolved(bridge: Bridge, endpoints: &str, tune: impl FnOnce(&mut Config)) -> Ports {
    resolved_after(&Ports::default(), bridge, endpoints, tune)
}

fn resolved_after(before: &Ports, bridge: Bridge, endpoints: &str, tune: impl FnOnce(&mut Config)) -> Ports {
    let yaml = format!("version: portcullis/v1\nendpoints:\n{endpoints}");
    let document = Document::from_yaml(&yaml).unwrap();
    let intent = Compiler::default().resolve(&document, 1).unwrap();
    let mut config = Config::new("ovs", "unix:/nowhere/db.sock");
    config.uplinks = vec!["eth*".to_string()];
    tune(&mut config);
    let index = Attachments::new(&intent, "ovs");
    resolve(
        &Switch::default(),
        &bridge,
        &intent,
        &index,
        &config,
        Duration::ZERO,
        before,
    )
}

fn bridge(ports: Vec<Port>) -> Bridge {
    Bridge {
        name: "br0".to_string(),
        ports: ports.into_iter().map(|p| (p.name.clone(), Arc::new(p))).collect(),
        ..Bridge::default()
    }
}

fn found(ports: Vec<Port>, endpoints: &str) -> Ports {
    resolved(bridge(ports), endpoints, |_| {})
}

fn at<'a>(ports: &'a Ports, name: &str) -> &'a SwitchPort {
    ports.ports.values().find(|p| p.name == name).unwrap()
}

fn macs(ports: &Ports, name: &str) -> Vec<String> {
    at(ports, name).macs().iter().map(ToString::to_string).collect()
}

fn roaming(ports: &Ports, name: &str) -> usize {
    at(ports, name).policed().unwrap().roaming.len()
}

fn told(ports: &Ports, what: &str) -> bool {
    let mut all = ports.resolution.unsupported.iter();
    all.any(|u| format!("{}: {}", u.rule, u.why).contains(what))
}

#[test]
fn servers_have_one_vlan_and_uplinks_have_what_the_bridge_says() {
    let trunk = |mode: Option<VlanMode>, tag: Option<u16>, trunks: &[u16]| {
        let trunks = trunks.to_vec();
        move |port: &mut Port, _: &mut Interface| {
            (port.vlan_mode, port.tag, port.trunks) = (mode, tag, trunks);
        }
    };
    let none = Vlans::Trunk {
        native: 0,
        native_tagged: false,
        only: Some(Vec::new()),
    };
    let native_tagged = Vlans::Trunk {
        native: 7,
        native_tagged: true,
        only: Some(vec![7]),
    };
    let cases = [
        (None, None, &[][..], Vlans::Access(0), false),
        (None, Some(7), &[], Vlans::Access(7), false),
        (Some(VlanMode::Access), Some(7), &[], Vlans::Access(7), false),
        (Some(VlanMode::Trunk), None, &[], Vlans::Access(0), true),
        (None, None, &[0, 5], Vlans::Access(0), true),
        (None, None, &[5, 6], none.clone(), true),
        (
            Some(VlanMode::NativeUntagged),
            Some(7),
            &[5],
            Vlans::Access(7),
            true,
        ),
        (Some(VlanMode::NativeTagged), Some(7), &[5], native_tagged, true),
    ];
    for (mode, tag, trunks, expected, is_told) in cases {
        let what = format!("{mode:?} {tag:?} {trunks:?}");
        let ports = found(
            vec![
                port(1, "web1", trunk(mode.clone(), tag, trunks)),
                port(2, "stray", trunk(mode.clone(), tag, trunks)),
                port(9, "eth0", trunk(mode, tag, trunks)),
            ],
            "  web1: {attachments: [{interface: web1}]}\n",
        );
        assert_eq!(at(&ports, "web1").vlans, expected, "{what}");
        assert_eq!(at(&ports, "stray").vlans, expected, "{what}");
        assert_eq!(told(&ports, "in the attachment of web1"), is_told, "{what}");
        if is_told {
            assert_ne!(at(&ports, "eth0").vlans, expected, "{what}");
        }
    }
}

#[test]
fn what_no_server_has_is_an_uplink_and_its_own_mac_is_the_hosts() {
    let internal = |mac: &str| {
        let mac = mac.to_string();
        move |_: &mut Port, interface: &mut Interface| {
            interface.kind = "internal".to_string();
            interface.mac_in_use = Some(mac);
        }
    };
    let ports = found(
        vec![
            port(65534, "br0", internal("02:00:00:00:00:10")),
            port(3, "inside", internal("02:00:00:00:00:03")),
            port(4, "patch0", |_, interface| interface.kind = "patch".to_string()),
            plain(5, "stray"),
            plain(9, "eth0"),
        ],
        "  inside: {attachments: [{interface: inside}], macs: [\"02:00:00:00:00:03\"]}\n  \
         twin: {macs: [\"02:00:00:00:00:10\"], attachments: [{interface: nowhere}]}\n",
    );
    for (name, uplink) in [
        ("br0", true),
        ("inside", false),
        ("patch0", true),
        ("stray", false),
        ("eth0", true),
    ] {
        assert_eq!(at(&ports, name).role == Role::Uplink, uplink, "{name}");
    }
    assert_eq!(macs(&ports, "br0"), ["02:00:00:00:00:10"]);
    assert_eq!(macs(&ports, "inside"), ["02:00:00:00:00:03"]);
    assert_eq!(at(&ports, "br0").number, 0xffff_fffe);
}

#[test]
fn two_interfaces_with_one_id_share_its_macs_and_a_link_that_is_down_gets_nothing() {
    let twice = "  web1: {attachments: [{iface_id: x}], macs: [\"02:00:00:00:00:01\"]}\n";
    let down = |id: &'static str| {
        move |port: &mut Port, interface: &mut Interface| {
            iface_id(id)(port, interface);
            interface.link_state = Some(LinkState::Down);
        }
    };
    let ports = found(
        vec![port(1, "a", iface_id("x")), port(2, "b", iface_id("x"))],
        twice,
    );
    assert!(told(&ports, "a and b of web1: there are 2 with one iface-id"));
    assert_eq!(
        (macs(&ports, "a").len(), macs(&ports, "b").len()),
        (1, 0),
        "until one sends"
    );
    assert_eq!(
        (roaming(&ports, "a"), roaming(&ports, "b")),
        (1, 1),
        "then the one that does"
    );
    assert!(ports.withheld.is_empty());

    let ports = found(vec![port(1, "a", down("x")), port(2, "b", iface_id("x"))], twice);
    assert_eq!((macs(&ports, "a").len(), macs(&ports, "b").len()), (0, 1));
    assert_eq!(roaming(&ports, "a"), 0, "what it sent last does not count");
    assert!(!at(&ports, "a").up && at(&ports, "b").up);

    let ports = found(vec![port(1, "a", iface_id("x")), plain(2, "b")], twice);
    assert!(!told(&ports, "one iface-id"));
    assert_eq!((macs(&ports, "a").len(), roaming(&ports, "a")), (1, 0));
}

#[test]
fn what_a_started_database_does_not_say_yet_is_as_it_was() {
    let bridge_of = |mac: Option<&str>, link: Option<LinkState>| {
        let own = mac.map(str::to_string);
        let inside = move |_: &mut Port, interface: &mut Interface| {
            interface.kind = "internal".to_string();
            interface.mac_in_use = own;
        };
        let state = link.clone();
        let server = move |_: &mut Port, interface: &mut Interface| interface.link_state = link;
        let uplink = move |_: &mut Port, interface: &mut Interface| interface.link_state = state;
        bridge(vec![
            port(65534, "br0", inside),
            port(1, "web1", server),
            port(9, "eth0", uplink),
        ])
    };
    let web = "  web1: {attachments: [{interface: web1}], macs: [\"02:00:00:00:00:01\"]}\n";
    let mac = "02:00:00:00:00:10";
    let known = resolved(bridge_of(Some(mac), Some(LinkState::Down)), web, |_| {});
    assert!(!at(&known, "web1").up);
    let silent = resolved_after(&known, bridge_of(None, None), web, |_| {});
    assert_eq!(silent.ports, known.ports, "nothing is written");
    let other = "02:00:00:00:00:11";
    let said = resolved_after(&known, bridge_of(Some(other), Some(LinkState::Up)), web, |_| {});
    assert_eq!(
        (macs(&said, "br0"), at(&said, "web1").up),
        (vec![other.to_string()], true)
    );
    let first = resolved(bridge_of(None, None), web, |_| {});
    assert!(at(&first, "web1").up && macs(&first, "br0").is_empty());
}

#[test]
fn a_mac_is_an_endpoints_before_it_is_the_hosts_or_an_unmanaged_ports() {
    let says = |mac: &str| {
        let mac = mac.to_string();
        move |_: &mut Port, interface: &mut Interface| {
            interface.external_ids.insert("attached-mac".to_string(), mac);
        }
    };
    let ports = found(
        vec![
            port(1, "stray", says("02:00:00:00:00:01")),
            port(2, "other", says("02:00:00:00:00:02")),
            plain(3, "web1"),
        ],
        "  web1: {attachments: [{interface: web1}], macs: [\"02:00:00:00:00:01\"]}\n  \
         away: {attachments: [{interface: away}], macs: [\"02:00:00:00:00:09\"]}\n",
    );
    assert_eq!(macs(&ports, "web1"), ["02:00:00:00:00:01"]);
    assert_eq!(macs(&ports, "stray"), [""; 0]);
    assert_eq!(macs(&ports, "other"), ["02:00:00:00:00:02"]);
    let withheld: Vec<String> = ports.withheld.iter().map(ToString::to_string).collect();
    assert_eq!(withheld, ["02:00:00:00:00:09"], "an endpoint's that is not here");
}

#[test]
fn a_bond_of_uplinks_needs_normal_and_what_passes_beside_the_tables_is_told() {
    let mut bond = plain(9, "eth0");
    bond.interfaces.extend(plain(10, "eth1").interfaces);
    let mut both = bridge(vec![plain(1, "web1"), bond]);
    let web = "  web1: {attachments: [{interface: web1}]}\n";
    assert_eq!(resolved(both.clone(), web, |_| {}).forwarding.exit, Exit::Normal);
    let foreign = |config: &mut Config| config.final_action = FinalAction::GotoTable(50);
    assert_eq!(
        resolved(both.clone(), web, foreign).forwarding.exit,
        Exit::Table(50)
    );
    let single = bridge(vec![plain(1, "web1"), plain(9, "eth0")]);
    let ports = resolved(single.clone(), web, |_| {});
    assert_eq!(ports.forwarding.exit, Exit::Uplinks);
    assert!(!told(&ports, "NORMAL"));

    let web1 = Arc::make_mut(both.ports.get_mut("web1").unwrap());
    web1.other_config = BTreeMap::from([("mcast-snooping-flood".to_string(), "true".to_string())]);
    assert!(
        !told(&resolved(both.clone(), web, |_| {}), "multicast to web1"),
        "without snooping"
    );
    both.mcast_snooping_enable = true;
    let ports = resolved(both, web, |_| {});
    assert!(told(&ports, "multicast to web1") && told(&ports, "fdb/del"));

    let mirrored = |to: Option<&str>, vid| Bridge {
        mirrors: vec![Mirror {
            name: "ids".to_string(),
            output_port: to.map(str::to_string),
            output_vlan: vid,
        }],
        ..single.clone()
    };
    assert!(told(
        &resolved(mirrored(Some("web1"), None), web, |_| {}),
        "copies of mirror ids to web1"
    ));
    assert!(!told(
        &resolved(mirrored(Some("eth0"), None), web, |_| {}),
        "copies of mirror"
    ));
    assert!(told(
        &resolved(mirrored(None, Some(5)), web, |_| {}),
        "copies of mirror ids in VLAN 5"
    ));
    let controlled = Bridge {
        in_band: vec!["tcp:192.0.2.9:6653".to_string()],
        controllers: 1,
        ..single
    };
    let ports = resolved(controlled.clone(), web, |_| {});
    assert!(told(&ports, "TCP to and from tcp:192.0.2.9:6653") && told(&ports, "controllers are away"));
    let secure = Bridge {
        fail_mode: Some("secure".to_string()),
        ..controlled
    };
    assert!(!told(&resolved(secure, web, |_| {}), "controllers are away"));
}

#[test]
fn networks_share_and_reserve_macs() {
    let tagged = |tag: u16| move |port: &mut Port, _: &mut Interface| port.tag = Some(tag);
    let of = |name: &str, more: &str| {
        format!("  {name}: {{attachments: [{{interface: {name}}}], macs: [\"02:00:00:00:00:01\"], {more}}}\n")
    };
    let networks = of("a", "network: red") + &of("b", "network: blue");
    let ports = found(
        vec![port(1, "a", tagged(10)), port(2, "b", tagged(20))],
        &networks,
    );
    assert_eq!((macs(&ports, "a").len(), macs(&ports, "b").len()), (1, 1));
    assert!(!told(&ports, "has the same MAC"));
    let ports = found(
        vec![port(1, "a", tagged(10)), port(2, "b", tagged(10))],
        &networks,
    );
    assert_eq!((macs(&ports, "a").len(), macs(&ports, "b").len()), (1, 0));
    assert!(told(
        &ports,
        "frames for 02:00:00:00:00:01 of b: a has the same MAC"
    ));

    let sharing = "shared: [\"02:00:00:00:00:01\"]";
    let shared = of("a", sharing) + &of("b", sharing);
    let ports = found(vec![plain(1, "a"), plain(2, "b")], &shared);
    assert_eq!((roaming(&ports, "a"), roaming(&ports, "b")), (1, 1));
    assert_eq!(macs(&ports, "a"), [""; 0], "at none until one uses it");
    assert_eq!(
        (ports.shared.len(), ports.withheld.len()),
        (1, 1),
        "and no other port's"
    );
    let alone = found(vec![plain(1, "a")], &shared);
    assert_eq!(
        (roaming(&alone, "a"), alone.shared.len()),
        (1, 1),
        "the other is on another host"
    );

    let reserved = of("a", "roles: [router]") + "reserved: {macs: [\"02:00:00:00:00:fe\"]}\n";
    let ports = found(vec![plain(1, "a"), port(2, "t", |_, _| {})], &reserved);
    assert!(ports.withheld.contains(&"02:00:00:00:00:fe".parse().unwrap()));
    let policed = at(&ports, "a").policed().unwrap();
    assert!(policed.has_role(EndpointRole::Router) && !policed.has_role(EndpointRole::DhcpServer));
    assert!(!at(&ports, "t").policed().unwrap().has_role(EndpointRole::Router));

    let v6 =
        "  a: {attachments: [{interface: a}], macs: ['02:00:00:00:00:01'], addresses: ['2001:db8::1']}\n";
    let ports = found(vec![plain(1, "a")], v6);
    assert!(at(&ports, "a").policed().unwrap().link_local.is_some());
    assert!(
        ports
            .resolution
            .unsupported
            .iter()
            .any(|u| u.rule == "link_local: any")
    );
    let strict = v6.replace("addresses", "link_local: strict, addresses");
    let ports = found(vec![plain(1, "a")], &strict);
    assert_eq!(at(&ports, "a").policed().unwrap().link_local, None);
    assert!(
        ports
            .resolution
            .unsupported
            .iter()
            .all(|u| u.rule != "link_local: any")
    );

    let trunk = "  a: {attachments: [{interface: a, vlan: any}]}\n";
    let ports = found(vec![plain(1, "a")], trunk);
    assert_eq!(at(&ports, "a").vlans.members(), None);
}
