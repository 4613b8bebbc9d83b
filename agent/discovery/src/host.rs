//! What the kernel says of this machine's interfaces: which are physical, and which carry the default route.

use std::collections::BTreeSet;

/// `RTF_UP` of `linux/route.h`: the route is usable.
const UP: u32 = 0x1;
/// `RTF_REJECT`: packets are answered with an error.
const REJECT: u32 = 0x200;

/// `RTF_ADDRCONF`: the route came with a router advertisement, which a server on a port may send, too.
const ADVERTISED: u32 = 0x40000;

/// The interfaces of this machine that say where its network is.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Host {
    /// Kernel interfaces with a device behind them: network cards, and those that a hypervisor gives a machine.
    pub cards: BTreeSet<String>,
    /// Kernel interfaces that a default route leaves by, of either IP version.
    pub default_routes: BTreeSet<String>,
    /// PCI addresses of devices, such as `0000:03:00.0`.
    pub pci: BTreeSet<String>,
}

/// The interfaces of the default routes in `/proc/net/route` (IPv4): a line for each route with interface, destination, gateway,
/// flags, and the mask as the eighth column; numbers are hexadecimal.
pub fn ipv4_defaults(text: &str) -> BTreeSet<String> {
    let default = |line: &str| {
        let columns: Vec<&str> = line.split_whitespace().collect();
        let [interface, destination, _, flags, _, _, _, mask, ..] = columns.as_slice() else {
            return None;
        };
        let number = |text: &str| u32::from_str_radix(text, 16).ok();
        let flags = number(flags)?;
        let is_default = number(destination)? == 0 && number(mask)? == 0;
        (is_default && flags & UP != 0 && flags & REJECT == 0).then(|| (*interface).to_string())
    };
    text.lines().filter_map(default).collect()
}

/// The interfaces of the default routes in `/proc/net/ipv6_route`: destination and its length, source and its length, next hop,
/// metric, two counters, flags, interface; numbers are hexadecimal.
pub fn ipv6_defaults(text: &str) -> BTreeSet<String> {
    let default = |line: &str| {
        let columns: Vec<&str> = line.split_whitespace().collect();
        let [
            destination,
            length,
            _,
            source_length,
            _,
            _,
            _,
            _,
            flags,
            interface,
        ] = columns.as_slice()
        else {
            return None;
        };
        let flags = u32::from_str_radix(flags, 16).ok()?;
        let is_default = destination.bytes().all(|b| b == b'0') && *length == "00" && *source_length == "00";
        (is_default && flags & UP != 0 && flags & (REJECT | ADVERTISED) == 0)
            .then(|| (*interface).to_string())
    };
    text.lines().filter_map(default).collect()
}

/// Whether `phys_port_name` of an interface is that of a representor, the host's end of a function that a server has: `pf0vf3`,
/// `c1pf0sf88`.
pub fn is_representor(phys_port_name: &str) -> bool {
    let number = |text: &str| !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit());
    let Some((controller, function)) = phys_port_name.trim().split_once("pf") else {
        return false;
    };
    let of_controller = controller.is_empty() || controller.strip_prefix('c').is_some_and(number);
    let parts = function.split_once("vf").or_else(|| function.split_once("sf"));
    of_controller && parts.is_some_and(|(physical, virtual_)| number(physical) && number(virtual_))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn names(set: &BTreeSet<String>) -> Vec<&str> {
        set.iter().map(String::as_str).collect()
    }

    #[test]
    fn the_interface_of_the_default_route_is_found() {
        let v4 = "Iface\tDestination\tGateway \tFlags\tRefCnt\tUse\tMetric\tMask\t\tMTU\tWindow\tIRTT\n\
            ens3\t00000000\t0100000A\t0003\t0\t0\t100\t00000000\t0\t0\t0\n\
            ens3\t0000000A\t00000000\t0001\t0\t0\t100\t00FFFFFF\t0\t0\t0\n\
            half\t00000000\t00000000\t0001\t0\t0\t0\t00000080\t0\t0\t0\n\
            down\t00000000\t0100000A\t0002\t0\t0\t100\t00000000\t0\t0\t0\n\
            blackhole\t00000000\t00000000\t0201\t0\t0\t0\t00000000\t0\t0\t0\n";
        assert_eq!(names(&ipv4_defaults(v4)), ["ens3"]);
        let none = "00000000000000000000000000000000";
        let v6 = format!(
            "{none} 00 {none} 00 fe800000000000000000000000000001 00000400 00000001 00000000 00000003     ens3\n\
             {none} 00 {none} 00 {none} ffffffff 00000001 00000000 00200200       lo\n\
             {none} 00 {none} 00 fe800000000000000000000000000002 00000400 00000001 00000000 00440003     guest\n\
             fe800000000000000000000000000000 40 {none} 00 {none} 00000100 00000001 00000000 00000001     eth9\n"
        );
        assert_eq!(names(&ipv6_defaults(&v6)), ["ens3"]);
    }

    #[test]
    fn representors_are_told_from_physical_ports() {
        for (name, is_one) in [
            ("pf0vf3\n", true),
            ("pf1sf88", true),
            ("c1pf0vf0", true),
            ("p0", false),
            ("pf0", false),
            ("", false),
        ] {
            assert_eq!(is_representor(name), is_one, "{name}");
        }
    }

    proptest! {
        #[test]
        fn no_text_makes_it_panic(text in "\\PC{0,200}", lines in proptest::collection::vec("[0-9a-f \t]{0,120}", 0..4)) {
            for text in [text, lines.join("\n")] {
                let _any = (ipv4_defaults(&text), ipv6_defaults(&text));
            }
        }
    }
}
