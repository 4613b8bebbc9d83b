//! Settings of the bridge that let frames reach server ports, or leave them, beside the flow tables or beside our rows in
//! them. No row can close these: they are named, with what to do.

use portcullis_ovsdb::Bridge;

use super::{Ports, Role, SwitchPort};
use crate::tables::Exit;

/// Settings of a port that let NORMAL send multicast to it while `mcast_snooping_enable` is set.
const MULTICAST: [&str; 2] = ["mcast-snooping-flood", "mcast-snooping-flood-reports"];

/// What is set of them: what passes, and why, with what to do.
pub(super) fn found(bridge: &Bridge, ports: &Ports) -> Vec<(String, String)> {
    let mut list = Vec::new();
    let mut name = |rule: String, why: String| list.push((rule, why));
    let servers = |names: &dyn Fn(&SwitchPort) -> bool| -> bool {
        let mut ports = ports.ports.values();
        ports.any(|port| port.role != Role::Uplink && names(port))
    };
    let of = |port: &str| -> Vec<String> {
        let port = bridge.ports.get(port);
        port.map(|p| p.interfaces.keys().cloned().collect())
            .unwrap_or_default()
    };
    for mirror in &bridge.mirrors {
        if let Some(port) = &mirror.output_port {
            let interfaces = of(port);
            if servers(&|p| interfaces.contains(&p.name)) {
                name(
                    format!("copies of mirror {} to {port}", mirror.name),
                    "the switch sends them beside the flow tables, past the ingress policy of that port: list it in \
                     `uplinks` if it is no server, or remove the mirror"
                        .to_string(),
                );
            }
        }
        if let Some(vid) = mirror.output_vlan {
            name(
                format!("copies of mirror {} in VLAN {vid}", mirror.name),
                format!(
                    "the switch sends them beside the flow tables to every port of VLAN {vid}, and to every port without \
                     `tag` or `trunks`, past their ingress policies: give the mirror an `output_port`, or set `tag` or \
                     `trunks` of server ports"
                ),
            );
        }
    }
    if !bridge.in_band.is_empty() {
        name(
            format!("ARP, and TCP to and from {}", bridge.in_band.join(", ")),
            "the bridge reaches its OpenFlow controller in-band, by hidden flows above every table: they pass any port's \
             policy; set connection_mode=out-of-band of the controller, or other_config:disable-in-band=true of the bridge"
                .to_string(),
        );
    }
    if bridge.controllers > 0 && bridge.fail_mode.as_deref() != Some("secure") {
        name(
            "every frame while the bridge's controllers are away".to_string(),
            "the bridge has a controller and is not fail_mode=secure: without the controller it forwards by itself, above \
             every table; set fail_mode=secure"
                .to_string(),
        );
    }
    if ports.forwarding.exit == Exit::Normal {
        name(
            "frames by NORMAL".to_string(),
            "an uplink is a bond, which NORMAL alone can balance over: a server's MAC that is static (ovs-appctl fdb/add), or \
             that the bridge learned before the agent came, lets frames for it past the ingress policy; remove such \
             entries (fdb/del, fdb/flush)"
                .to_string(),
        );
        let is_set = |key: &&str, settings: &std::collections::BTreeMap<String, String>| {
            settings.get(*key).is_some_and(|value| value == "true")
        };
        for port in bridge.ports.values().filter(|_| bridge.mcast_snooping_enable) {
            let set: Vec<&str> = MULTICAST
                .iter()
                .filter(|key| is_set(key, &port.other_config))
                .copied()
                .collect();
            if !set.is_empty() && servers(&|p| port.interfaces.contains_key(&p.name)) {
                name(
                    format!("multicast to {}", port.name),
                    format!(
                        "mcast_snooping_enable with {} of this port lets NORMAL send multicast to it past its ingress \
                         policy: remove the setting",
                        set.join(" and ")
                    ),
                );
            }
        }
    }
    list
}
