//! The documents that are measured.

use std::sync::Arc;

use portcullis_policy::{Document, Endpoint, Name, Rule};
use serde_json::{Value, json};

use crate::Result;

/// Ports per VLAN tag of attached endpoints. Open vSwitch makes at most 1,000 copies of a broadcast.
pub const PER_VLAN: u32 = 500;

/// The TCP ports found open most often on the internet, as inclusive ranges: 100 of them.
const MOST_USED: [(u16, u16); 80] = [
    (7, 7),
    (9, 9),
    (13, 13),
    (21, 23),
    (25, 26),
    (37, 37),
    (53, 53),
    (79, 81),
    (88, 88),
    (106, 106),
    (110, 111),
    (113, 113),
    (119, 119),
    (135, 135),
    (139, 139),
    (143, 144),
    (179, 179),
    (199, 199),
    (389, 389),
    (427, 427),
    (443, 445),
    (465, 465),
    (513, 515),
    (543, 544),
    (548, 548),
    (554, 554),
    (587, 587),
    (631, 631),
    (646, 646),
    (873, 873),
    (990, 990),
    (993, 993),
    (995, 995),
    (1025, 1029),
    (1110, 1110),
    (1433, 1433),
    (1720, 1720),
    (1723, 1723),
    (1755, 1755),
    (1900, 1900),
    (2000, 2001),
    (2049, 2049),
    (2121, 2121),
    (2717, 2717),
    (3000, 3000),
    (3128, 3128),
    (3306, 3306),
    (3389, 3389),
    (3986, 3986),
    (4899, 4899),
    (5000, 5000),
    (5009, 5009),
    (5051, 5051),
    (5060, 5060),
    (5101, 5101),
    (5190, 5190),
    (5357, 5357),
    (5432, 5432),
    (5631, 5631),
    (5666, 5666),
    (5800, 5800),
    (5900, 5900),
    (6000, 6001),
    (6646, 6646),
    (7070, 7070),
    (8000, 8000),
    (8008, 8009),
    (8080, 8081),
    (8443, 8443),
    (8888, 8888),
    (9100, 9100),
    (9999, 9999),
    (10000, 10000),
    (32768, 32768),
    (49152, 49152),
    (49153, 49153),
    (49154, 49154),
    (49155, 49155),
    (49156, 49156),
    (49157, 49157),
];

/// One endpoint that may be sent TCP on the 100 most used ports only: all others are denied by one rule.
pub fn all_but_the_most_used() -> Result<Document> {
    let mut ports = Vec::new();
    let mut next = 0;
    for (first, last) in MOST_USED {
        if next < first {
            ports.push(format!("{next}-{}", first - 1));
        }
        next = last + 1;
    }
    ports.push(format!("{next}-65535"));
    made(json!({
        "version": "portcullis/v1",
        "profiles": {"narrow": {"rules": [
            {"name": "rest", "action": "deny", "direction": "ingress", "protocol": "tcp", "ports": ports},
        ]}},
        "endpoints": {"e0": endpoint(0, "narrow", true)},
    }))
}

/// What a fleet is made of.
#[derive(Debug, Clone, Copy)]
pub struct Fleet {
    /// Endpoints, each with a MAC, an IPv4 and an IPv6 address.
    pub endpoints: u32,
    /// Profiles, each different; endpoint `n` has profile `n` modulo this.
    pub profiles: u32,
    /// Endpoint `n` plugs in at `dummyN+1`, when `n` is below this.
    pub attached: u32,
    /// Scattered TCP ports that each profile opens.
    pub ports: u32,
    /// Prefixes from which each profile can be administered, of each IP version.
    pub prefixes: u32,
}

impl Fleet {
    /// As a host has them: a few open ports, an administrator's prefix, a range for media.
    pub fn hosting(endpoints: u32, profiles: u32, attached: u32) -> Self {
        Fleet {
            endpoints,
            profiles,
            attached,
            ports: 4,
            prefixes: 2,
        }
    }

    pub fn document(self) -> Result<Document> {
        let name = |n: u32| format!("p{n:03}");
        let profiles: serde_json::Map<String, Value> =
            (0..self.profiles).map(|n| (name(n), self.profile(n))).collect();
        let endpoints: serde_json::Map<String, Value> = (0..self.endpoints)
            .map(|n| {
                (
                    endpoint_name(n),
                    endpoint(n, &name(n % self.profiles.max(1)), n < self.attached),
                )
            })
            .collect();
        made(json!({
            "version": "portcullis/v1",
            "baseline": [
                {"name": "smtp", "action": "deny", "direction": "egress", "protocol": "tcp", "ports": [25]},
                {"name": "netbios", "action": "deny", "direction": "egress", "protocol": "tcp", "ports": ["135-139", 445]},
            ],
            "profiles": profiles,
            "endpoints": endpoints,
        }))
    }

    fn profile(self, n: u32) -> Value {
        // A generator of full period over the ports: scattered, the same in every run, and never one twice.
        let mut at = n.wrapping_mul(7_919) % 65_536;
        let mut scattered = std::iter::repeat_with(move || {
            at = (at * 1_029 + 12_345) % 65_536;
            at.to_string()
        });
        let open: Vec<String> = scattered.by_ref().take(self.ports as usize).collect();
        let closed: Vec<String> = scattered.take(self.ports.div_ceil(2) as usize).collect();
        let v4 = (0..self.prefixes).map(|p| format!("10.{}.{}.0/24", n % 256, (n / 256) * 64 + p % 64));
        let v6 = (0..self.prefixes).map(|p| format!("2001:db8:{n:x}:{p:x}::/64"));
        let remote: Vec<String> = v4.chain(v6).collect();
        let media = format!("{0}-{1}", 10_000 + n, 20_000 + n);
        json!({
            "default": {"ingress": "deny"},
            "rules": [
                {"name": "http", "action": "allow", "direction": "ingress", "protocol": "tcp", "ports": [80, 443]},
                {"name": "open", "action": "allow", "direction": "ingress", "protocol": "tcp", "ports": open},
                {"name": "admin", "action": "allow", "direction": "ingress", "protocol": "tcp", "ports": [22],
                 "remote": remote},
                {"name": "media", "action": "allow", "direction": "ingress", "protocol": "udp", "ports": [media]},
                {"name": "closed", "action": "deny", "direction": "egress", "protocol": "tcp", "ports": closed},
            ],
        })
    }
}

/// Documents whose compilation tells something, with what they are.
pub fn telling_documents() -> Result<[(&'static str, Document); 3]> {
    Ok([
        ("all but the 100 most used TCP ports", all_but_the_most_used()?),
        (
            "10,000 endpoints, 200 profiles",
            Fleet::hosting(10_000, 200, 0).document()?,
        ),
        ("one million rules", million()?),
    ])
}

/// One million rules: 1,000 profiles of 1,000 rules each, every one bound to an endpoint.
pub fn million() -> Result<Document> {
    const PROFILES: u32 = 1_000;
    const RULES: u32 = 1_000;
    let rule = |profile: u32, n: u32| {
        let low = (n * 61 + profile * 7) % 65_000;
        let (protocol, action) = (
            ["tcp", "udp"][(n % 2) as usize],
            ["allow", "deny"][(n / 2 % 2) as usize],
        );
        let direction = ["ingress", "egress"][(n / 4 % 2) as usize];
        json!({
            "name": format!("r{n}"), "action": action, "direction": direction,
            "protocol": protocol, "ports": [format!("{low}-{}", low + n % 40)],
        })
    };
    let mut document = Document::default();
    for profile in 0..PROFILES {
        let rules: Vec<Value> = (0..RULES).map(|n| rule(profile, n)).collect();
        let name: Name = format!("p{profile:04}").parse()?;
        document.profiles.insert(
            name.clone(),
            Arc::new(serde_json::from_value(json!({"rules": rules}))?),
        );
        let bound: Endpoint = serde_json::from_value(json!({"profiles": [name]}))?;
        document
            .endpoints
            .insert(endpoint_name(profile).parse()?, Arc::new(bound));
    }
    document.validate()?;
    Ok(document)
}

/// The document with one more TCP port blocked outwards for everybody.
pub fn with_blocked(document: &Document, port: u16) -> Result<Document> {
    let rule: Rule = serde_json::from_value(json!(
        {"name": "more", "action": "deny", "direction": "egress", "protocol": "tcp", "ports": [port]}
    ))?;
    let mut next = document.clone();
    let mut rules = Vec::clone(&next.baseline);
    rules.push(rule);
    next.baseline = rules.into();
    Ok(next)
}

/// Name of the endpoint with a number.
pub fn endpoint_name(n: u32) -> String {
    format!("e{n:05}")
}

fn endpoint(n: u32, profile: &str, attached: bool) -> Value {
    let interface = if attached {
        format!("dummy{}", n + 1)
    } else {
        format!("later{n}")
    };
    json!({
        "attachments": [{"interface": interface}],
        "macs": [format!("02:00:00:{:02x}:{:02x}:{:02x}", n >> 16, (n >> 8) & 255, n & 255)],
        "addresses": [format!("172.{}.{}.{}", 16 + (n >> 16), (n >> 8) & 255, n & 255), format!("2001:db8:ffff::{n:x}")],
        "profiles": [profile],
    })
}

fn made(value: Value) -> Result<Document> {
    let document: Document = serde_json::from_value(value)?;
    document.validate()?;
    Ok(document)
}

/// A rule of an endpoint's own: it opens a port that change number `n` chooses.
pub fn own_rule(n: u64) -> Result<Rule> {
    let port = 30_000 + n % 10_000;
    Ok(serde_json::from_value(json!(
        {"name": "own", "action": "allow", "direction": "ingress", "protocol": "tcp", "ports": [port]}
    ))?)
}

/// The document with the change number `n`: its endpoint gets a rule of its own, or loses it.
pub fn changed(document: &Document, endpoint: &Name, n: u64) -> Result<Document> {
    let mut next = document.clone();
    if let Some(known) = next.endpoints.get_mut(endpoint) {
        let rules = if known.rules.is_empty() {
            vec![own_rule(n)?]
        } else {
            Vec::new()
        };
        *known = Arc::new(Endpoint {
            rules,
            ..Endpoint::clone(known)
        });
    }
    Ok(next)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_most_used_ports_are_a_hundred_ascending() {
        let count: u32 = MOST_USED
            .iter()
            .map(|(first, last)| u32::from(last - first) + 1)
            .sum();
        assert_eq!(count, 100);
        assert!(MOST_USED.windows(2).all(|pair| pair[0].1 < pair[1].0));
        let rule = &all_but_the_most_used().unwrap().profiles["narrow"].rules[0];
        let denied: u32 = rule
            .ports
            .iter()
            .map(|range| u32::from(range.high - range.low) + 1)
            .sum();
        assert_eq!(denied, 65_536 - 100);
    }

    #[test]
    fn a_fleet_is_what_it_says() {
        let document = Fleet::hosting(600, 200, 40).document().unwrap();
        assert_eq!((document.endpoints.len(), document.profiles.len()), (600, 200));
        let attached = |e: &Endpoint| {
            e.attachments[0]
                .interface
                .as_ref()
                .is_some_and(|i| i.starts_with("dummy"))
        };
        assert_eq!(document.endpoints.values().filter(|e| attached(e)).count(), 40);
        let mut profiles: Vec<String> = document.profiles.values().map(|p| format!("{p:?}")).collect();
        profiles.sort();
        profiles.dedup();
        assert_eq!(profiles.len(), 200, "profiles that are the same share a class");
    }

    #[test]
    fn a_change_comes_and_goes() {
        let document = Fleet::hosting(3, 1, 0).document().unwrap();
        let name: Name = endpoint_name(1).parse().unwrap();
        let once = changed(&document, &name, 1).unwrap();
        assert_eq!(once.endpoints[&name].rules.len(), 1);
        assert_eq!(changed(&once, &name, 2).unwrap(), document);
    }
}
