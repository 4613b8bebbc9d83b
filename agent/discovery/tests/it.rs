//! What is found is described and decided about.
#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a test fails by panicking"
)]

use std::collections::BTreeMap;
use std::sync::Arc;

use portcullis_discovery::{Datapath, Decision, Host, bridges, decide, sections, server};
use portcullis_ovsdb::{Bridge, Interface, Port, Switch};
use portcullis_p4runtime::{SeenDevice, Server, parse};
use portcullis_proto::switch::Port as SwitchPort;

/// Name, type and options of an interface.
type Listed = (
    &'static str,
    &'static str,
    &'static [(&'static str, &'static str)],
);

const AT: &str = "unix:/run/openvswitch/db.sock";

fn host() -> Host {
    let set = |names: &[&str]| names.iter().map(ToString::to_string).collect();
    Host {
        cards: set(&["ens3"]),
        default_routes: set(&["wan"]),
        pci: set(&["0000:03:00.0"]),
    }
}

fn bridge(name: &str, datapath_type: &str, interfaces: &[Listed]) -> (String, Bridge) {
    let port = |(name, kind, options): &Listed| {
        let interface = Interface {
            name: name.to_string(),
            kind: kind.to_string(),
            options: options
                .iter()
                .map(|(k, v)| (k.to_string(), v.to_string()))
                .collect(),
            ..Interface::default()
        };
        let port = Port {
            name: name.to_string(),
            interfaces: BTreeMap::from([(name.to_string(), interface)]),
            ..Port::default()
        };
        (name.to_string(), Arc::new(port))
    };
    let bridge = Bridge {
        name: name.to_string(),
        datapath_type: datapath_type.to_string(),
        ports: interfaces.iter().map(port).collect(),
        ..Bridge::default()
    };
    (name.to_string(), bridge)
}

/// The same with an OpenFlow controller.
fn controlled((name, bridge): (String, Bridge)) -> (String, Bridge) {
    let bridge = Bridge {
        controllers: 1,
        ..bridge
    };
    (name, bridge)
}

fn found(dpdk: bool, list: Vec<(String, Bridge)>) -> Vec<Datapath> {
    let switch = Switch {
        dpdk_initialized: Some(dpdk),
        ovs_version: Some("3.1.0".to_string()),
        bridges: list.into_iter().collect(),
        ..Switch::default()
    };
    bridges(&switch, AT, &host())
}

const NIC: Listed = ("dpdk0", "dpdk", &[("dpdk-devargs", "0000:03:00.0")]);
const VM: Listed = ("vm1", "dpdkvhostuserclient", &[]);

#[test]
fn a_bridge_alone_with_one_card_is_programmed() {
    let all = found(
        true,
        vec![bridge("br0", "netdev", &[NIC, VM, ("br0", "internal", &[])])],
    );
    let Decision::Program(one) = decide(&all, &[]) else {
        panic!("{all:?}");
    };
    assert_eq!(
        one.section.as_ref().unwrap().toml("local").unwrap(),
        "[[target]]\nname = \"local\"\nkind = \"ovs\"\novsdb = \"unix:/run/openvswitch/db.sock\"\nbridge = \"br0\"\n\
         uplinks = [\"dpdk0\"]\n"
    );
    let ports: Vec<_> = one
        .ports
        .iter()
        .flatten()
        .map(|p| (p.name.as_str(), p.uplink))
        .collect();
    assert_eq!(ports, [("br0", false), ("dpdk0", true), ("vm1", false)]);
}

#[test]
fn a_bridge_of_the_kernel_needs_no_dpdk() {
    for datapath_type in ["system", ""] {
        let ports = [("ens3", "", &[][..]), ("tap1", "system", &[])];
        let all = found(false, vec![bridge("br0", datapath_type, &ports)]);
        let Decision::Program(one) = decide(&all, &[]) else {
            panic!("{all:?}");
        };
        assert_eq!(
            one.section.as_ref().unwrap().toml("local").unwrap(),
            "[[target]]\nname = \"local\"\nkind = \"ovs\"\novsdb = \"unix:/run/openvswitch/db.sock\"\n\
             bridge = \"br0\"\nuplinks = [\"ens3\"]\n"
        );
    }
}

#[test]
fn what_ovn_programs_is_not_programmed() {
    let switch = Switch {
        bridges: [bridge("br0", "system", &[("ens3", "", &[])])].into(),
        external_ids: [("ovn-remote".to_string(), "tcp:192.0.2.1:6642".to_string())].into(),
        ..Switch::default()
    };
    let all = bridges(&switch, AT, &host());
    let Decision::Unclear(_, why) = decide(&all, &[]) else {
        panic!("{all:?}");
    };
    assert!(why.contains("OVN"), "{why}");
}

#[test]
fn what_is_not_clear_is_not_programmed() {
    for (dpdk, bridges, words) in [
        (
            true,
            vec![bridge("br0", "netdev", &[VM])],
            "none of its ports is a network card",
        ),
        (
            true,
            vec![bridge("br0", "dummy", &[("ens3", "", &[])])],
            "datapath_type is `dummy`",
        ),
        (
            true,
            vec![controlled(bridge("br0", "netdev", &[NIC]))],
            "an OpenFlow controller is configured",
        ),
        (false, vec![bridge("br0", "netdev", &[NIC])], "runs without DPDK"),
        (
            true,
            vec![bridge("br0", "netdev", &[NIC, ("ens3", "", &[])])],
            "dpdk0, ens3 are network cards",
        ),
    ] {
        let all = found(dpdk, bridges);
        let Decision::Unclear(_, why) = decide(&all, &[]) else {
            panic!("{all:?}");
        };
        assert!(why.contains(words), "{why}");
    }
    assert_eq!(decide(&[], &[]), Decision::Nothing);
    // What could not be read may be another one.
    let unread = ["no answer".to_string()];
    let all = found(true, vec![bridge("br0", "netdev", &[NIC])]);
    for all in [all.as_slice(), &[]] {
        assert_eq!(decide(all, &unread), Decision::Unread(&unread));
    }
}

#[test]
fn one_of_several_is_never_programmed_also_where_the_others_cannot_be() {
    let all = found(
        true,
        vec![bridge("br0", "netdev", &[NIC, VM]), bridge("lab", "dummy", &[])],
    );
    let Decision::Several(several) = decide(&all, &[]) else {
        panic!("{all:?}");
    };
    assert_eq!(several.len(), 2);
    let written = sections(&all).unwrap();
    assert!(
        written[0].as_ref().unwrap().contains("name = \"ovs\""),
        "{written:?}"
    );
    assert_eq!(written[1], None, "a dummy bridge cannot be a target");
    let two = found(
        true,
        vec![bridge("a", "netdev", &[NIC]), bridge("b", "netdev", &[VM])],
    );
    let written = sections(&two).unwrap();
    assert!(
        written[0].as_ref().unwrap().contains("name = \"ovs1\""),
        "{written:?}"
    );
    let second = written[1].as_ref().unwrap();
    assert!(
        second.contains("name = \"ovs2\"") && second.contains("# Add the ports that lead to the network"),
        "{second}"
    );
}

fn seen(ports: Option<Vec<SwitchPort>>, device: Result<SeenDevice, String>) -> Server {
    Server {
        version: "1.6.0".to_string(),
        device,
        ports,
    }
}

#[test]
fn the_embedded_switch_says_which_port_is_the_uplink() {
    let port = |number: u32, kind: &str, device: &str| SwitchPort {
        number,
        kind: kind.to_string(),
        device: device.to_string(),
    };
    let ports = vec![
        port(1, "tap", "vm1"),
        port(2, "vhost_user", "/run/vm2.sock"),
        port(9, "af_packet", "ens3"),
    ];
    let bare = || Ok(SeenDevice { id: 1, program: None });
    let one = server("unix:/run/sw.sock", &seen(Some(ports), bare()), &host());
    assert_eq!(one.needs_target, None);
    assert_eq!(
        one.section.unwrap().toml("local").unwrap(),
        "[[target]]\nname = \"local\"\nkind = \"embedded\"\naddress = \"unix:/run/sw.sock\"\nuplinks = [9]\nservers = [1, 2]\n"
    );
    let ports = vec![port(1, "tap", "vm1"), port(2, "tap", "vm2")];
    let none = server("unix:/run/sw.sock", &seen(Some(ports), bare()), &host());
    assert!(none.needs_target.unwrap().contains("none of its ports"));
}

/// The P4Info of one of our programs.
fn info(name: &str) -> portcullis_p4runtime::P4Info {
    let path = format!(
        "{}/../../p4/compiled/{name}.p4info.txtpb",
        env!("CARGO_MANIFEST_DIR")
    );
    parse(&std::fs::read(path).unwrap()).unwrap()
}

#[test]
fn a_device_says_what_it_can_hold_and_is_never_programmed_unasked() {
    for (device, holds, setting) in [
        (
            None,
            "with the P4 program of Portcullis on it",
            "program = \"portcullis\"\n",
        ),
        (
            Some("portcullis-range"),
            "every policy: egress_policy takes",
            "program = \"portcullis\"\n",
        ),
        (
            Some("portcullis-ternary"),
            "every policy: egress_policy takes",
            "program = \"portcullis-ternary\"\n",
        ),
        (
            Some("vendor"),
            "a part of each policy: ",
            "program = \"device\"\nmapping = \"vendor\"\n",
        ),
    ] {
        let program = device.map(info);
        let one = server(
            "127.0.0.1:9559",
            &seen(None, Ok(SeenDevice { id: 1, program })),
            &host(),
        );
        assert!(one.holds.contains(holds), "{}", one.holds);
        assert!(one.needs_target.is_some());
        let section = one.section.unwrap().toml("tor1").unwrap();
        assert!(section.contains(setting), "{section}");
        assert!(
            section.contains("# Add its ports, which P4Runtime does not list"),
            "{section}"
        );
    }
    let zero = server(
        "127.0.0.1:9559",
        &seen(None, Ok(SeenDevice { id: 0, program: None })),
        &host(),
    );
    assert!(
        zero.holds.contains("device id is 0") && zero.section.is_none(),
        "{zero:?}"
    );
    let silent = server(
        "127.0.0.1:9559",
        &seen(None, Err("device 1: no (PermissionDenied)".to_string())),
        &host(),
    );
    assert!(
        silent.holds.contains("not known: device 1: no"),
        "{}",
        silent.holds
    );
}
