//! Which ports of a datapath lead to the network.

use crate::host::Host;

/// What is behind a port, as far as it says where the port leads.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Behind {
    /// A kernel interface of this name.
    Interface(String),
    /// A PCI device at this address that DPDK drives.
    Pci(String),
    /// A virtual machine, the host's end of a function that a server has: no way to the network.
    Other,
    /// A tunnel or a patch to another bridge, which may lead to the network.
    Onward,
    /// Nothing that is understood: it may be a network card.
    Unknown,
}

/// DPDK's drivers of virtual devices that lead to servers, or nowhere.
const VIRTUAL: [&str; 9] = [
    "net_tap",
    "net_vhost",
    "eth_vhost",
    "net_virtio_user",
    "virtio_user",
    "net_memif",
    "net_pcap",
    "net_ring",
    "net_null",
];

/// DPDK's drivers over an interface of the kernel.
const OVER_INTERFACE: [&str; 3] = ["net_af_packet", "eth_af_packet", "net_af_xdp"];

impl Behind {
    /// What a DPDK device string is about (`dpdk-devargs` of Open vSwitch, `device:` of the embedded switch): a PCI address with
    /// options, or the name of a virtual device with the interface under it.
    pub(crate) fn devargs(text: &str) -> Behind {
        let mut parts = text.split(',');
        let device = parts.next().unwrap_or_default();
        let mut options = parts.filter_map(|part| part.split_once('='));
        let address = device.strip_prefix("pci:").unwrap_or(device);
        if is_pci(address) {
            // A representor is the host's end of a function that a server has.
            return match options.any(|(key, _)| key == "representor") {
                true => Behind::Other,
                false => Behind::Pci(full(address)),
            };
        }
        let is_of = |drivers: &[&str]| drivers.iter().any(|driver| device.starts_with(driver));
        let interface = options.find(|(key, _)| *key == "iface").map(|(_, name)| name);
        match interface {
            Some(name) if is_of(&OVER_INTERFACE) => Behind::Interface(name.to_string()),
            _ if is_of(&VIRTUAL) => Behind::Other,
            _ => Behind::Unknown,
        }
    }

    fn carries_default_route(&self, host: &Host) -> bool {
        matches!(self, Behind::Interface(name) if host.default_routes.contains(name))
    }

    fn is_physical(&self, host: &Host) -> bool {
        match self {
            Behind::Interface(name) => host.cards.contains(name),
            Behind::Pci(address) => host.pci.contains(address),
            Behind::Other | Behind::Onward | Behind::Unknown => false,
        }
    }

    /// Whether it cannot be said if it is a network card.
    fn is_unknown(&self, host: &Host) -> bool {
        match self {
            Behind::Unknown => true,
            // In a container, the devices of the machine are not seen.
            Behind::Pci(address) => !host.pci.contains(address),
            Behind::Interface(_) | Behind::Other | Behind::Onward => false,
        }
    }
}

/// `DDDD:BB:DD.F` in hexadecimal, or the same without its domain.
fn is_pci(text: &str) -> bool {
    let hex = |text: &str, lengths: std::ops::RangeInclusive<usize>| {
        lengths.contains(&text.len()) && text.bytes().all(|b| b.is_ascii_hexdigit())
    };
    let Some((bus, function)) = text.rsplit_once('.') else {
        return false;
    };
    let parts: Vec<&str> = bus.split(':').collect();
    let places = match parts.as_slice() {
        [bus, device] => hex(bus, 2..=2) && hex(device, 2..=2),
        [domain, bus, device] => hex(domain, 4..=8) && hex(bus, 2..=2) && hex(device, 2..=2),
        _ => false,
    };
    places && hex(function, 1..=1)
}

/// A PCI address as the kernel writes it.
fn full(address: &str) -> String {
    let address = address.to_ascii_lowercase();
    match address.matches(':').count() {
        1 => format!("0000:{address}"),
        _ => address,
    }
}

/// A port: several interfaces in a bond, one otherwise.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct PortGroup {
    /// Each interface: its name, and what is behind it.
    pub(crate) members: Vec<(String, Behind)>,
}

/// The interfaces of the port that leads to the network, where that is certain: of the one port that is a network card, if no other one
/// carries the default route; or of the one that carries it, if no other one is a network card. In words why there is none.
pub(crate) fn uplinks(ports: &[PortGroup], host: &Host) -> Result<Vec<String>, String> {
    let with = |what: &dyn Fn(&Behind) -> bool| -> Vec<&PortGroup> {
        let has = |port: &&PortGroup| port.members.iter().any(|(_, behind)| what(behind));
        ports.iter().filter(has).collect()
    };
    let unknown = with(&|behind| behind.is_unknown(host));
    let routed = with(&|behind| behind.carries_default_route(host));
    let physical = with(&|behind| behind.is_physical(host));
    let onward = with(&|behind| *behind == Behind::Onward);
    let which = "which of its ports is the uplink is not known: ";
    if !unknown.is_empty() {
        return Err(format!(
            "{which}what is behind {} is not understood",
            list(&unknown)
        ));
    }
    let one = match (routed.as_slice(), physical.as_slice()) {
        ([], []) => {
            return Err(
                "none of its ports is a network card of this machine or carries its default route"
                    .to_string(),
            );
        }
        ([], [_]) if !onward.is_empty() => {
            return Err(format!("{which}{} may lead to the network, too", list(&onward)));
        }
        ([one], []) | ([], [one]) => *one,
        ([route], [card]) if route == card => *route,
        ([], cards) => {
            let cards = list(cards);
            return Err(format!(
                "{which}{cards} are network cards, and none carries the default route"
            ));
        }
        ([route], cards) => {
            let (route, cards) = (list(&[*route]), list(cards));
            return Err(format!(
                "{which}{route} carries the default route, and network cards are {cards}"
            ));
        }
        (routes, _) => return Err(format!("{which}{} carry default routes", list(routes))),
    };
    let names: Vec<String> = one.members.iter().map(|(name, _)| name.clone()).collect();
    match names.iter().find(|name| name.contains('*')) {
        Some(name) => Err(format!(
            "the name of its uplink, {name}, has an asterisk, which means any text in `uplinks`"
        )),
        None => Ok(names),
    }
}

/// Ports that a reason names.
const NAMED: usize = 8;

fn list(ports: &[&PortGroup]) -> String {
    let names = ports
        .iter()
        .flat_map(|port| port.members.iter().map(|(name, _)| name.as_str()));
    let all: Vec<&str> = names.collect();
    let named = all.iter().take(NAMED).copied().collect::<Vec<_>>().join(", ");
    match all.len().saturating_sub(NAMED) {
        0 => named,
        more => format!("{named} and {more} more"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn host() -> Host {
        let set = |names: &[&str]| names.iter().map(ToString::to_string).collect();
        Host {
            cards: set(&["ens3", "ens4"]),
            default_routes: set(&["ens4", "wan"]),
            pci: set(&["0000:03:00.0", "0000:03:00.1"]),
        }
    }

    fn port(members: &[(&str, Behind)]) -> PortGroup {
        let own = |(name, behind): &(&str, Behind)| (name.to_string(), behind.clone());
        PortGroup {
            members: members.iter().map(own).collect(),
        }
    }

    fn kernel(name: &str) -> PortGroup {
        port(&[(name, Behind::Interface(name.to_string()))])
    }

    #[test]
    fn card_and_default_route_must_agree_and_one_of_several_is_not_guessed() {
        let found = |ports: &[PortGroup]| uplinks(ports, &host());
        assert_eq!(found(&[kernel("tap0"), kernel("ens3")]).unwrap(), ["ens3"]);
        assert_eq!(found(&[kernel("ens4"), kernel("tap0")]).unwrap(), ["ens4"]);
        assert_eq!(found(&[kernel("wan"), kernel("tap0")]).unwrap(), ["wan"]);
        let bond = port(&[
            ("p0", Behind::devargs("0000:03:00.0")),
            ("p1", Behind::devargs("03:00.1,n_rxq_desc=2048")),
        ]);
        assert_eq!(found(&[bond.clone(), kernel("tap0")]).unwrap(), ["p0", "p1"]);
        for (ports, words) in [
            (vec![kernel("tap0")], "none of its ports is a network card"),
            (vec![bond, kernel("ens3")], "p0, p1, ens3 are network cards"),
            (
                vec![kernel("ens3"), kernel("ens4")],
                "ens4 carries the default route, and network cards are ens3, ens4",
            ),
            (
                vec![kernel("wan"), kernel("ens3")],
                "wan carries the default route, and network cards are ens3",
            ),
            (
                vec![kernel("ens3"), odd("net_bonding0,member=0000:03:00.0")],
                "what is behind odd is not understood",
            ),
            (
                vec![kernel("ens3"), odd("class=eth,mac=00:11:22:33:44:55")],
                "what is behind odd is not understood",
            ),
            (
                vec![kernel("ens3"), port(&[("vxlan0", Behind::Onward)])],
                "vxlan0 may lead to the network, too",
            ),
            (
                vec![kernel("ens3"), odd("0000:99:00.0")],
                "what is behind odd is not understood",
            ),
            (
                vec![port(&[("n*", Behind::Interface("ens3".to_string()))])],
                "the name of its uplink, n*, has an asterisk",
            ),
            (
                (0..20).map(|_| kernel("ens3")).collect(),
                "ens3 and 12 more are network cards",
            ),
            (
                vec![kernel("wan"), kernel("ens4")],
                "wan, ens4 carry default routes",
            ),
        ] {
            let why = found(&ports).unwrap_err();
            assert!(why.contains(words), "{why}");
        }
    }

    fn odd(devargs: &str) -> PortGroup {
        port(&[("odd", Behind::devargs(devargs))])
    }

    #[test]
    fn dpdk_device_strings_say_what_is_behind() {
        let interface = |name: &str| Behind::Interface(name.to_string());
        let pci = |address: &str| Behind::Pci(address.to_string());
        for (text, behind) in [
            ("0000:03:00.0", pci("0000:03:00.0")),
            ("03:00.A,dv_flow_en=1", pci("0000:03:00.a")),
            ("pci:0000:03:00.1", pci("0000:03:00.1")),
            // The switch side of a server's function is no uplink.
            ("0000:03:00.0,representor=[0-3]", Behind::Other),
            ("net_af_packet0,iface=ens3,qpairs=2", interface("ens3")),
            ("eth_af_packet1,iface=ens4", interface("ens4")),
            ("net_af_xdp0,iface=ens4", interface("ens4")),
            ("net_tap0,iface=ens3", Behind::Other),
            ("net_vhost0,iface=/run/vm.sock", Behind::Other),
            ("class=eth,mac=00:11:22:33:44:55", Behind::Unknown),
            ("auxiliary:mlx5_core.sf.4", Behind::Unknown),
            ("net_bonding0,member=0000:03:00.0", Behind::Unknown),
            ("3:00.0", Behind::Unknown),
            ("", Behind::Unknown),
        ] {
            assert_eq!(Behind::devargs(text), behind, "{text}");
        }
    }
}
