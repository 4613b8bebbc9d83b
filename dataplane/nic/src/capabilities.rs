//! What rules a NIC takes.

use crate::rule::{Address, Family, PortMatch, Rule};

/// How a field of ports can be matched.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct PortMatching {
    /// One port and no other.
    pub exact: bool,
    /// The upper bits of a port.
    pub masked: bool,
    /// From one port to another (`last` of `rte_flow`).
    pub range: bool,
}

/// What rules a port's NIC takes, as its answers to canary rules have it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[allow(missing_docs, reason = "the names are those of the headers and fields")]
pub struct Capabilities {
    /// Rules can drop. Without it nothing is offloaded.
    pub drop: bool,
    /// Rules that drop can count.
    pub count: bool,
    pub ipv4: bool,
    pub ipv6: bool,
    /// TCP over each of them.
    pub tcp: bool,
    /// UDP over each of them.
    pub udp: bool,
    /// SCTP over each of them.
    pub sctp: bool,
    pub src_port: PortMatching,
    pub dst_port: PortMatching,
    /// Whole source and destination addresses.
    pub hosts: bool,
    /// Prefixes of source and destination addresses.
    pub prefixes: bool,
}

/// What DPDK's feature matrix says of a driver.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Level {
    /// Rules drop and count.
    DropAndCount,
    /// Rules drop, and nothing says how often.
    Drop,
    /// Rules choose a queue and cannot drop: nothing is offloaded.
    QueueOnly,
}

impl Level {
    /// Every level, from the one that can do most.
    pub const ALL: [Level; 3] = [Level::DropAndCount, Level::Drop, Level::QueueOnly];

    /// Its name in `drivers.toml`.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Level::DropAndCount => "drop-and-count",
            Level::Drop => "drop",
            Level::QueueOnly => "queue-only",
        }
    }

    /// A NIC of this level that takes every pattern.
    #[must_use]
    pub const fn capabilities(self) -> Capabilities {
        let ports = PortMatching {
            exact: true,
            masked: true,
            range: false,
        };
        Capabilities {
            drop: !matches!(self, Level::QueueOnly),
            count: matches!(self, Level::DropAndCount),
            ipv4: true,
            ipv6: true,
            tcp: true,
            udp: true,
            sctp: true,
            src_port: ports,
            dst_port: ports,
            hosts: true,
            prefixes: true,
        }
    }
}

impl Capabilities {
    /// What of a rule it lacks, in words; nothing if it takes the rule.
    #[must_use]
    pub fn lack(&self, rule: &Rule) -> Option<&'static str> {
        let family = match rule.family {
            Family::V4 => (self.ipv4, "IPv4"),
            Family::V6 => (self.ipv6, "IPv6"),
        };
        let protocol = match rule.protocol {
            None => (true, ""),
            Some(6) => (self.tcp, "TCP"),
            Some(17) => (self.udp, "UDP"),
            Some(132) => (self.sctp, "SCTP"),
            Some(_) => (false, "protocols other than TCP, UDP and SCTP"),
        };
        let needs = [
            (self.drop, "the action drop"),
            family,
            protocol,
            self.address(rule.src, rule.family),
            self.address(rule.dst, rule.family),
            self.src_port.takes(
                rule.src_port,
                ["source ports", "masked source ports", "ranges of source ports"],
            ),
            self.dst_port.takes(
                rule.dst_port,
                [
                    "destination ports",
                    "masked destination ports",
                    "ranges of destination ports",
                ],
            ),
        ];
        needs.into_iter().find(|(there, _)| !there).map(|(_, what)| what)
    }

    fn address(&self, address: Address, family: Family) -> (bool, &'static str) {
        match address.mask {
            0 => (true, ""),
            mask if mask == family.bits() => (self.hosts, "addresses"),
            _ => (self.prefixes, "prefixes of addresses"),
        }
    }

    /// What it takes, in words.
    #[must_use]
    pub fn words(&self) -> String {
        if !self.drop {
            return "no rule that drops".to_owned();
        }
        let ports = |name: &str, ports: PortMatching| {
            let kinds = [
                (ports.exact, "exact"),
                (ports.masked, "masked"),
                (ports.range, "ranges"),
            ];
            let there: Vec<&str> = kinds
                .iter()
                .filter(|(there, _)| *there)
                .map(|(_, kind)| *kind)
                .collect();
            match there.is_empty() {
                true => String::new(),
                false => format!("{name} ({})", there.join(", ")),
            }
        };
        let named = |there: bool, name: &str| if there { name.to_owned() } else { String::new() };
        let all = [
            named(true, "drop"),
            named(self.count, "count"),
            named(self.ipv4, "IPv4"),
            named(self.ipv6, "IPv6"),
            named(self.tcp, "TCP"),
            named(self.udp, "UDP"),
            named(self.sctp, "SCTP"),
            ports("source ports", self.src_port),
            ports("destination ports", self.dst_port),
            named(self.hosts, "addresses"),
            named(self.prefixes, "prefixes"),
        ];
        let there: Vec<String> = all.into_iter().filter(|name| !name.is_empty()).collect();
        there.join(", ")
    }
}

impl PortMatching {
    fn takes(self, port: PortMatch, [exact, masked, range]: [&'static str; 3]) -> (bool, &'static str) {
        match port {
            PortMatch::Any => (true, ""),
            PortMatch::Exact(_) => (self.exact, exact),
            PortMatch::Masked { .. } => (self.masked, masked),
            PortMatch::Range { .. } => (self.range, range),
        }
    }
}
