//! What is measured: endpoints, rules, and frames from all of them.

use std::path::Path;

use portcullis_policy::Document;
use serde_json::{Value, json};

use crate::{BenchError, Result};

/// The target's name in documents of P4Runtime devices.
pub const TARGET: &str = "sw";
/// Number of the first source port; sinks have numbers from [`SINKS`] on.
pub const SOURCES: u32 = 1;
/// Number of the first sink.
pub const SINKS: u32 = 101;
/// Names of the same in Open vSwitch.
pub const OVS_PORTS: [&str; 2] = ["source0", "sink0"];
const FRAMES: u32 = 32_768;
/// Endpoints behind one source: each has a VLAN.
const VLANS: u32 = 4094;
/// Profiles of the endpoints, which share them in turn.
const PROFILES: u32 = 10;

/// The rules of a profile, in both directions. No frame is for a port that one denies, so that all leave.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mix {
    /// A class that denies 17 ports.
    Few,
    /// 1,000 scattered ports denied.
    Many,
    /// 17 ports, 8 prefixes, and 8 ranges of source ports denied.
    General,
}

impl Mix {
    pub const ALL: [Mix; 3] = [Mix::Few, Mix::Many, Mix::General];

    /// As it is shown.
    pub fn name(self) -> &'static str {
        match self {
            Mix::Few => "17 ports",
            Mix::Many => "1,000 ports",
            Mix::General => "prefixes, source ports",
        }
    }

    /// As it is in names of figures.
    pub fn key(self) -> &'static str {
        match self {
            Mix::Few => "17_ports",
            Mix::Many => "1000_ports",
            Mix::General => "prefixes_source_ports",
        }
    }

    fn rules(self, profile: u32) -> Vec<Value> {
        let mut rules = Vec::new();
        for direction in ["egress", "ingress"] {
            let mut deny = |name: &str, key: &str, value: Value| {
                rules.push(
                    json!({"name": format!("{name}-{direction}"), "action": "deny", "direction": direction,
                    "protocol": "udp", key: value}),
                );
            };
            let count = if self == Mix::Many { 1000 } else { 17 };
            let ports: Vec<String> = (0..count).map(|n| (n * 60 + 7 + profile).to_string()).collect();
            deny("ports", "ports", json!(ports));
            if self == Mix::General {
                let prefixes: Vec<String> =
                    (0..8).map(|n| format!("10.{}.0.0/16", profile * 8 + n)).collect();
                deny("prefixes", "remote", json!(prefixes));
                let sources: Vec<String> = (0..8).map(|n| format!("{}-{}", n * 10 + 1, n * 10 + 5)).collect();
                deny("sources", "source_ports", json!(sources));
            }
        }
        rules
    }
}

/// One of the cases.
#[derive(Debug, Clone, Copy)]
pub struct Scene {
    pub endpoints: u32,
    pub mix: Mix,
}

impl Scene {
    /// Sources, each with a sink of its own.
    pub fn pairs(self) -> u32 {
        self.endpoints.div_ceil(VLANS).next_power_of_two()
    }

    /// Frames of all sources: each endpoint sends, and each frame is a flow.
    pub fn frames(self) -> u32 {
        FRAMES.max(self.endpoints).next_multiple_of(self.pairs())
    }

    /// Packet buffers: twice what the frames of the files take, or a little more.
    pub fn buffers(self) -> u32 {
        (2 * self.frames()).next_power_of_two() - 1
    }

    /// The endpoint that sends frame number `n` of a source.
    fn sender(self, source: u32, n: u32) -> u32 {
        let behind = (self.endpoints - source).div_ceil(self.pairs());
        source + n % behind * self.pairs()
    }

    /// Source and VLAN of an endpoint. One alone has its port to itself.
    fn place(self, endpoint: u32) -> (u32, Option<u32>) {
        let vlan = (self.endpoints > 1).then(|| 1 + endpoint / self.pairs());
        (endpoint % self.pairs(), vlan)
    }

    /// The policy, with endpoints on ports of a P4Runtime device.
    pub fn on_ports(self) -> Result<Document> {
        let at = |endpoint: u32| {
            let (source, vlan) = self.place(endpoint);
            match vlan {
                Some(vlan) => json!({"port": SOURCES + source, "vlan": vlan, "target": TARGET}),
                None => json!({"port": SOURCES + source, "target": TARGET}),
            }
        };
        // A sink is sent frames of every VLAN.
        let sink_at = |sink| json!({"port": SINKS + sink, "vlan": "any", "target": TARGET});
        self.document(at, sink_at)
    }

    /// The same with endpoints on interfaces of Open vSwitch: the first at the source, the others at dummy ports.
    pub fn on_interfaces(self) -> Result<Document> {
        let [source, sink] = OVS_PORTS;
        let at = |endpoint: u32| match endpoint {
            0 => json!({"interface": source}),
            other => json!({"interface": format!("dummy{other}")}),
        };
        self.document(at, |_| json!({"interface": sink}))
    }

    fn document(self, at: impl Fn(u32) -> Value, sink_at: impl Fn(u32) -> Value) -> Result<Document> {
        let profile = |n: u32| format!("p{n}");
        let profiles: serde_json::Map<String, Value> = (0..PROFILES.min(self.endpoints))
            .map(|n| (profile(n), json!({"rules": self.mix.rules(n)})))
            .collect();
        let mut endpoints = serde_json::Map::new();
        for n in 0..self.endpoints {
            let bound =
                json!({"attachments": [at(n)], "profiles": [profile(n % PROFILES)], "source_guard": false});
            endpoints.insert(format!("e{n}"), bound);
        }
        for n in 0..self.pairs() {
            let [a, b, c, d, e, f] = sink_mac(n);
            let mac = format!("{a:02x}:{b:02x}:{c:02x}:{d:02x}:{e:02x}:{f:02x}");
            let bound = json!({"attachments": [sink_at(n)], "macs": [mac], "profiles": [profile(0)],
                "source_guard": false});
            endpoints.insert(format!("sink{n}"), bound);
        }
        let document: Document = serde_json::from_value(json!({
            "version": "portcullis/v1", "profiles": profiles, "endpoints": endpoints,
        }))?;
        document.validate()?;
        Ok(document)
    }

    /// Writes the frames of a source to a file, classic pcap; as Open vSwitch gets them, all are of its one endpoint.
    pub fn write_frames(self, source: u32, file: &Path, without_tags: bool) -> Result<()> {
        let mut bytes = Vec::new();
        for word in [0xa1b2_c3d4_u32, 0x0004_0002, 0, 0, 65_535, 1] {
            bytes.extend(word.to_ne_bytes());
        }
        for n in 0..self.frames() / self.pairs() {
            let (_, vlan) = self.place(self.sender(source, n));
            let flow = n * self.pairs() + source;
            let frame = frame(flow, sink_mac(source), vlan.filter(|_| !without_tags));
            for word in [0, 0, frame.len() as u32, frame.len() as u32] {
                bytes.extend(word.to_ne_bytes());
            }
            bytes.extend(frame);
        }
        std::fs::write(file, bytes).map_err(BenchError::io(format!("write {}", file.display())))
    }
}

fn sink_mac(sink: u32) -> [u8; 6] {
    [2, 0, 0, 1, 0, sink as u8]
}

/// UDP, 64 bytes with the checksum that a link adds. Ports and address are scattered, and different for each flow.
fn frame(flow: u32, to: [u8; 6], vlan: Option<u32>) -> Vec<u8> {
    let mut mixed = u64::from(flow)
        .wrapping_add(1)
        .wrapping_mul(0x9e37_79b9_7f4a_7c15);
    mixed = (mixed ^ mixed >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    mixed ^= mixed >> 27;
    let mut frame = to.to_vec();
    frame.extend([2, 0, 0, 0, 0, 1]);
    if let Some(vlan) = vlan {
        frame.extend([0x81, 0]);
        frame.extend((vlan as u16).to_be_bytes());
    }
    frame.extend([
        8, 0, 0x45, 0, 0, 42, 0, 0, 0, 0, 64, 17, 0, 0, 192, 0, 2, 1, 198, 51,
    ]);
    frame.extend((flow as u16).to_be_bytes());
    // Above all source ports that are denied; multiples of 60, of which none is.
    let (src, dst) = ((mixed as u16) | 0x8000, ((mixed >> 20) % 1000 * 60) as u16);
    frame.extend([src.to_be_bytes(), dst.to_be_bytes()].concat());
    frame.extend([0, 22, 0, 0]);
    frame.resize(60, 0);
    frame
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_endpoint_has_a_place_and_sends() {
        for endpoints in [1, 1000, 65_000] {
            let scene = Scene {
                endpoints,
                mix: Mix::Few,
            };
            let mut places: Vec<_> = (0..endpoints).map(|n| scene.place(n)).collect();
            places.sort_unstable();
            places.dedup();
            assert_eq!(places.len(), endpoints as usize);
            assert!(
                places
                    .iter()
                    .all(|(source, vlan)| *source < scene.pairs() && vlan.is_none_or(|v| v <= VLANS))
            );
            assert!(scene.frames() >= endpoints.max(30_000) && scene.buffers() > scene.frames() * 3 / 2);
            let mut senders = Vec::new();
            for source in 0..scene.pairs() {
                let all = (0..scene.frames() / scene.pairs()).map(|n| scene.sender(source, n));
                senders.extend(all.inspect(|sender| assert_eq!(scene.place(*sender).0, source)));
            }
            senders.sort_unstable();
            senders.dedup();
            assert_eq!(senders.len(), endpoints as usize);
        }
    }

    #[test]
    fn documents_are_documents() {
        for mix in Mix::ALL {
            let scene = Scene { endpoints: 12, mix };
            assert_eq!(scene.on_ports().unwrap().endpoints.len(), 13);
            assert_eq!(scene.on_interfaces().unwrap().endpoints.len(), 13);
        }
    }
}
