//! MAC claims: the port a declared MAC is delivered to when several declare it, and the MACs the switch must not learn.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;

use portcullis_compiler::Intent;
use portcullis_policy::{MacAddr, Name};

use super::{Ports, Role, SwitchPort};

/// Who says to have a MAC, in the order in which it counts.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
enum Who {
    Endpoint(Name),
    Host,
    Unmanaged,
}

impl Who {
    fn from_port(port: &SwitchPort) -> Self {
        match port.policed().map(|policed| &policed.endpoint) {
            Some(Some(name)) => Who::Endpoint(name.clone()),
            Some(None) => Who::Unmanaged,
            None => Who::Host,
        }
    }
}

/// What becomes of a MAC at its ports.
#[derive(Debug, Default)]
struct Settled {
    bound: HashMap<u32, Vec<MacAddr>>,
    roaming: HashMap<u32, Vec<MacAddr>>,
    clashes: BTreeMap<(Name, Name), Vec<MacAddr>>,
}

/// Settles every MAC: in a VLAN it is at one port, or it roams between ports of one endpoint and of those that share it.
pub(super) fn settle(found: &mut Ports, intent: &Intent) {
    let mut claims: BTreeMap<MacAddr, Vec<u32>> = BTreeMap::new();
    for port in found.ports.values() {
        for mac in port.macs() {
            claims.entry(*mac).or_default().push(port.number);
        }
    }
    let mut settled = Settled::default();
    let mut shared = BTreeSet::new();
    for (mac, numbers) in &claims {
        match numbers.as_slice() {
            ports if is_shared(*mac, ports, found, intent) => {
                shared.insert(*mac);
                settled.roam(*mac, ports, found);
            }
            [number] => settled.bound.entry(*number).or_default().push(*mac),
            several => settled.decide(*mac, several, found),
        }
    }
    for port in found.ports.values_mut() {
        let (bound, roaming) = (settled.bound.get(&port.number), settled.roaming.get(&port.number));
        let is_bound = |mac: &MacAddr| bound.is_some_and(|list| list.contains(mac));
        match &mut port.role {
            Role::ManagedPort(policed) => {
                policed.roaming = roaming.cloned().unwrap_or_default();
                policed.macs.retain(is_bound);
            }
            Role::Uplink => port.own = port.own.filter(is_bound),
        }
    }
    for ((first, other), macs) in settled.clashes {
        let macs: Vec<String> = macs.iter().map(ToString::to_string).collect();
        let rule = format!("frames for {} of {other}", macs.join(", "));
        let why = format!(
            "{first} has the same MAC in the same VLAN of this bridge, and gets them: give their ports different VLANs, or \
             let both list the MAC in `shared`"
        );
        found.resolution.cannot(rule, "l2", why);
    }
    found.withheld = Arc::new(withheld(intent, &settled.bound));
    found.shared = Arc::new(shared);
}

/// Whether an endpoint at one of these ports shares a MAC with other endpoints.
fn is_shared(mac: MacAddr, numbers: &[u32], found: &Ports, intent: &Intent) -> bool {
    let ports = numbers.iter().filter_map(|number| found.ports.get(number));
    let names = ports.filter_map(|port| port.policed()?.endpoint.as_ref());
    let mut endpoints = names.filter_map(|name| intent.endpoints.get(name));
    endpoints.any(|endpoint| endpoint.shares_mac(mac))
}

impl Settled {
    /// A shared MAC is at the port that used it last: until then at none.
    fn roam(&mut self, mac: MacAddr, numbers: &[u32], found: &Ports) {
        let ports = numbers.iter().filter_map(|number| found.ports.get(number));
        let servers = ports.filter(|port| port.up && matches!(Who::from_port(port), Who::Endpoint(_)));
        for port in servers {
            self.roaming.entry(port.number).or_default().push(mac);
        }
    }

    fn decide(&mut self, mac: MacAddr, numbers: &[u32], found: &Ports) {
        let ports = numbers.iter().filter_map(|number| found.ports.get(number));
        let mut ports: Vec<(Who, &SwitchPort)> = ports.map(|port| (Who::from_port(port), port)).collect();
        // A port without a link comes last among those that may have it.
        ports.sort_by_key(|(who, port)| (rank(who), !port.up, port.number));
        let mut kept: Vec<(&Who, &SwitchPort)> = Vec::new();
        for (who, port) in &ports {
            match kept.iter().find(|(_, first)| first.vlans.meet(&port.vlans)) {
                None => {
                    kept.push((who, port));
                    self.bound.entry(port.number).or_default().push(mac);
                }
                Some((first_who, first)) => match (first_who, who) {
                    (Who::Endpoint(a), Who::Endpoint(b)) if a == b => {
                        for one in [first, port].into_iter().filter(|one| one.up) {
                            let roaming = self.roaming.entry(one.number).or_default();
                            if !roaming.contains(&mac) {
                                roaming.push(mac);
                            }
                        }
                    }
                    (Who::Endpoint(a), Who::Endpoint(b)) => {
                        self.clashes.entry((a.clone(), b.clone())).or_default().push(mac);
                    }
                    _ => {}
                },
            }
        }
    }
}

fn rank(who: &Who) -> u8 {
    match who {
        Who::Endpoint(_) => 0,
        Who::Host => 1,
        Who::Unmanaged => 2,
    }
}

/// Reserved MACs, and declared ones that are at no port here.
fn withheld(intent: &Intent, bound: &HashMap<u32, Vec<MacAddr>>) -> BTreeSet<MacAddr> {
    let here: BTreeSet<MacAddr> = bound.values().flatten().copied().collect();
    let declared = intent.endpoints.values().flat_map(|endpoint| {
        let own = endpoint
            .attachments
            .iter()
            .flat_map(|attachment| &attachment.macs);
        endpoint.macs.iter().chain(own)
    });
    let absent = declared.filter(|mac| !here.contains(mac));
    absent.chain(&intent.reserved.macs).copied().collect()
}
