//! The bridges of an Open vSwitch.

use portcullis_ovs::{Fitness, fitness};
use portcullis_ovsdb::{Bridge, Interface, Switch};

use crate::datapath::{Datapath, DatapathKind, PortSeen};
use crate::host::Host;
use crate::section::Section;
use crate::uplinks::{Behind, PortGroup, uplinks};

/// Every bridge that a database lists, also those that Portcullis cannot program.
pub fn bridges(switch: &Switch, address: &str, host: &Host) -> Vec<Datapath> {
    let bridges = switch.bridges.values();
    bridges
        .map(|bridge| datapath(switch, bridge, address, host))
        .collect()
}

fn datapath(switch: &Switch, bridge: &Bridge, address: &str, host: &Host) -> Datapath {
    let group = |port: &std::sync::Arc<portcullis_ovsdb::Port>| PortGroup {
        members: port
            .interfaces
            .values()
            .map(|i| (i.name.clone(), behind(i)))
            .collect(),
    };
    let groups: Vec<PortGroup> = bridge.ports.values().map(group).collect();
    let identified = uplinks(&groups, host);
    let names = identified.clone().unwrap_or_default();
    let interfaces = bridge.ports.values().flat_map(|port| port.interfaces.values());
    let ports = interfaces.map(|interface| PortSeen {
        name: interface.name.clone(),
        kind: kind(interface).to_string(),
        uplink: names.contains(&interface.name),
    });
    let unusable = unusable(switch, bridge);
    let controlled = (bridge.controllers > 0).then(|| {
        "an OpenFlow controller is configured for it (`ovs-vsctl get-controller`), whose rows may be in the same tables".to_string()
    });
    let said = [("ovs", &switch.ovs_version), ("dpdk", &switch.dpdk_version)];
    // The database has `DPDK 22.11.1`.
    let plain = |version: &str| version.trim_start_matches("DPDK ").to_string();
    let versions = said
        .into_iter()
        .filter_map(|(name, version)| Some((name.to_string(), plain(version.as_deref()?))));
    let controlled = controlled.or_else(|| {
        let key = switch.external_ids.keys().find(|key| key.starts_with("ovn-"))?;
        Some(format!(
            "OVN programs bridges of this Open vSwitch (external_ids:{key})"
        ))
    });
    Datapath {
        kind: DatapathKind::Ovs,
        name: bridge.name.clone(),
        address: address.to_string(),
        versions: versions.collect(),
        ports: Some(ports.collect()),
        holds: match &unusable {
            None => "every policy".to_string(),
            Some(why) => format!("nothing: {why}"),
        },
        section: unusable
            .is_none()
            .then(|| Section::ovs(address, &bridge.name, names)),
        needs_target: unusable.or(controlled).or_else(|| identified.err()),
    }
}

/// Why Portcullis does not program a bridge.
fn unusable(switch: &Switch, bridge: &Bridge) -> Option<String> {
    match fitness(switch, bridge) {
        Fitness::Fit => None,
        Fitness::NoDpdk => Some(
            "Open vSwitch runs without DPDK: set other_config:dpdk-init=true and run ovs-vswitchd-dpdk"
                .to_string(),
        ),
        Fitness::Datapath(kind) => Some(format!(
            "its datapath_type is `{kind}`; `netdev` and `system` are programmed"
        )),
    }
}

/// Column `type` of an interface, with the name that an empty one stands for.
fn kind(interface: &Interface) -> &str {
    match interface.kind.as_str() {
        "" => "system",
        other => other,
    }
}

fn behind(interface: &Interface) -> Behind {
    match kind(interface) {
        "system" | "afxdp" | "afxdp-nonpmd" => Behind::Interface(interface.name.clone()),
        "dpdk" => interface
            .options
            .get("dpdk-devargs")
            .map_or(Behind::Unknown, |devargs| Behind::devargs(devargs)),
        "internal" | "tap" | "dpdkvhostuser" | "dpdkvhostuserclient" | "dpdkr" | "dummy" => Behind::Other,
        // Patches and tunnels, of whatever kind.
        _ => Behind::Onward,
    }
}
