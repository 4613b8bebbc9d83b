//! Where frames go that the agent's own backend has the switch forward: VLANs of ports, MACs that several ports have or none,
//! and what takes a role. A document goes in, frames come out.
#![allow(clippy::unwrap_used, clippy::panic, reason = "a test fails by panicking")]

use crate::rig;

use std::sync::Arc;
use std::time::Instant;

use portcullis_backend::{Hit, SessionState, TargetHandle, launch};
use portcullis_compiler::Compiler;
use portcullis_fastpath::{DropReason, Snapshot};
use portcullis_p4runtime::{Config, P4Backend, PipelineSource};
use portcullis_policy::Document;
use rig::{Met, PATIENCE, Rig, met, tcp};

const UPLINKS: [u32; 2] = [8, 9];
const NOWHERE: [u16; 0] = [];

/// Ports 1 to 7 are servers: port 5 has no endpoint.
const ENDPOINTS: &str = r#"
version: portcullis/v1
unmanaged: allow
endpoints:
  plain: {attachments: [{port: 1, target: tor}], macs: ["02:00:00:00:00:01"]}
  tagged: {attachments: [{port: 2, vlan: 7, target: tor}], macs: ["02:00:00:00:00:02"]}
  trunk: {attachments: [{port: 3, vlan: any, target: tor}], macs: ["02:00:00:00:00:03"], source_guard: false, roles: [router]}
  silent: {attachments: [{port: 4, target: tor}], roles: [dhcp-server]}
  a: {attachments: [{port: 6, target: tor}], macs: ["00:00:5e:00:01:0a"], shared: ["00:00:5e:00:01:0a"], source_guard: false, labels: {tenant: t}}
  b: {attachments: [{port: 7, target: tor}], macs: ["00:00:5e:00:01:0a"], shared: ["00:00:5e:00:01:0a"], source_guard: false, labels: {tenant: t}}
"#;

struct World {
    rig: Rig,
    target: TargetHandle,
    snapshot: Snapshot,
}

async fn world() -> World {
    let rig = Rig::start(0).await;
    let mut config = Config::new("tor", rig.address.trim_start_matches("http://"), rig::DEVICE);
    config.program = PipelineSource::Embedded;
    config.uplinks = UPLINKS.into();
    config.servers = [1, 5].into();
    let (target, _task) = launch("tor", P4Backend::new(config).unwrap());
    let document = Document::from_yaml(ENDPOINTS).unwrap();
    let intent = Compiler::default().resolve(&document, 1).unwrap();
    target.check(&intent).unwrap();
    target.set_intent(Arc::clone(&intent));
    let end = Instant::now() + PATIENCE;
    loop {
        let status = target.status();
        if status.state == SessionState::InSync && status.applied == 1 {
            break;
        }
        assert!(Instant::now() < end, "not realized in time: {status:#?}");
        tokio::time::sleep(std::time::Duration::from_millis(5)).await;
    }
    let snapshot = rig.view().newest().clone();
    World {
        rig,
        target,
        snapshot,
    }
}

fn mac(n: u64) -> u64 {
    0x0200_0000_0000 | n
}

/// A frame with other MACs, behind tags.
fn frame(src: u64, dst: u64, tags: &[u16], mut frame: Vec<u8>) -> Vec<u8> {
    frame[..6].copy_from_slice(&dst.to_be_bytes()[2..]);
    frame[6..12].copy_from_slice(&src.to_be_bytes()[2..]);
    let tags: Vec<u8> = tags
        .iter()
        .flat_map(|vid| [0x81, 0, 0x20 | (vid >> 8) as u8, *vid as u8])
        .collect();
    frame.splice(12..12, tags);
    frame
}

fn http(src: u64, dst: u64, tags: &[u16]) -> Vec<u8> {
    frame(src, dst, tags, tcp(0, 80))
}

/// An IPv4 packet to all systems.
fn ipv4(protocol: u8, payload: &[u8]) -> Vec<u8> {
    let mut packet = tcp(0, 80)[..34].to_vec();
    packet[17] = 20 + payload.len() as u8;
    packet[23] = protocol;
    packet[30..34].copy_from_slice(&[224, 0, 0, 1]);
    packet.extend(payload);
    packet
}

/// An IPv6 packet from a link-local address to all nodes.
fn ipv6(next: u8, payload: &[u8]) -> Vec<u8> {
    let mut packet = vec![0; 12];
    packet.extend([0x86, 0xdd, 0x60, 0, 0, 0, 0, payload.len() as u8, next, 255]);
    packet.extend([0xfe, 0x80, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1]);
    packet.extend([0xff, 2, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1]);
    packet.extend(payload);
    packet
}

fn udp(src: u16, dst: u16) -> Vec<u8> {
    let mut header = [src.to_be_bytes(), dst.to_be_bytes()].concat();
    header.extend([0, 8, 0, 0]);
    header
}

impl World {
    fn met(&self, frame: &[u8], port: u16) -> Met {
        met(&self.snapshot, frame, port)
    }

    fn goes(&self, frame: &[u8], port: u16) -> Vec<u16> {
        self.met(frame, port).ports
    }

    async fn hits(&self, rule: &str) -> Vec<Hit> {
        let hits = self.target.hits().await.unwrap();
        hits.into_iter().filter(|h| h.rule == rule).collect()
    }
}

#[tokio::test]
async fn a_port_without_a_vlan_is_untagged_both_ways() {
    let world = world().await;
    let [plain, tagged, trunk, uplink] = [mac(1), mac(2), mac(3), mac(9)];
    // Sent: untagged and priority-tagged.
    for tags in [&[][..], &[0][..]] {
        assert_eq!(
            world.goes(&http(plain, uplink, tags), 1),
            UPLINKS.map(|p| p as u16),
            "{tags:?}"
        );
    }
    for tags in [&[7][..], &[4095], &[7, 9], &[0, 7], &[0, 0]] {
        let met = world.met(&http(plain, uplink, tags), 1);
        assert_eq!(
            (met.ports, met.drops),
            (NOWHERE.to_vec(), vec![DropReason::UnknownSender]),
            "{tags:?}"
        );
        // Nor from a server without an endpoint.
        assert_eq!(world.goes(&http(mac(5), uplink, tags), 5), NOWHERE, "{tags:?}");
    }
    assert_eq!(world.goes(&http(mac(5), uplink, &[]), 5), [8, 9]);
    // Received: the same.
    assert_eq!(world.goes(&http(uplink, plain, &[]), 9), [1]);
    assert_eq!(world.goes(&http(uplink, plain, &[0]), 9), [1]);
    for tags in [&[7][..], &[0, 7], &[4095]] {
        let met = world.met(&http(uplink, plain, tags), 9);
        assert_eq!(
            (met.ports, met.drops),
            (NOWHERE.to_vec(), vec![DropReason::UnknownReceiver]),
            "{tags:?}"
        );
    }
    // A VLAN is its own, whatever is in it.
    assert_eq!(world.goes(&http(tagged, uplink, &[7]), 2), [8, 9]);
    assert_eq!(world.goes(&http(tagged, uplink, &[7, 9]), 2), [8, 9]);
    assert_eq!(world.goes(&http(uplink, tagged, &[7]), 9), [2]);
    for tags in [&[][..], &[0], &[8], &[0, 7]] {
        assert_eq!(world.goes(&http(tagged, uplink, tags), 2), NOWHERE, "{tags:?}");
        assert_eq!(world.goes(&http(uplink, tagged, tags), 9), NOWHERE, "{tags:?}");
    }
    // A trunk has all of them.
    for tags in [&[][..], &[0], &[7], &[4095], &[0, 7], &[7, 9]] {
        assert_eq!(world.goes(&http(trunk, uplink, tags), 3), [8, 9], "{tags:?}");
        assert_eq!(world.goes(&http(uplink, trunk, tags), 9), [3], "{tags:?}");
    }
    // What is for everybody stays in its VLAN.
    let all = |tags: &[u16]| world.goes(&frame(uplink, 0xffff_ffff_ffff, tags, rig::arp()), 9);
    assert_eq!(all(&[]), [1, 3, 4, 5, 6, 7, 8]);
    assert_eq!(all(&[7]), [2, 3, 8]);
    assert_eq!(all(&[0, 7]), [3, 8]);
}

#[tokio::test]
async fn what_nobody_declared_is_at_an_uplink() {
    let world = world().await;
    let stranger = mac(0xeeee);
    // No neighbour gets a copy: not one without an endpoint, without MACs, or without a guard.
    assert_eq!(world.goes(&http(mac(1), stranger, &[]), 1), [8, 9]);
    assert_eq!(world.goes(&http(mac(5), stranger, &[]), 5), [8, 9]);
    assert_eq!(world.goes(&http(stranger, stranger, &[]), 8), [9]);
    assert_eq!(world.goes(&http(stranger, stranger, &[]), 9), [8]);
    // And that is reported where frames go missing for it.
    let status = world.target.status();
    let told: Vec<&str> = status.unsupported.iter().map(|u| u.rule.as_str()).collect();
    assert_eq!(told, ["deliver/silent", "deliver/(unmanaged)"]);
    assert!(status.unsupported.iter().all(|u| u.why.contains("MACs")));
}

#[tokio::test]
async fn a_shared_mac_is_at_every_port_that_shares_it() {
    let world = world().await;
    let shared = 0x0000_5e00_010a;
    assert_eq!(world.goes(&http(mac(9), shared, &[]), 9), [6, 7]);
    assert_eq!(world.goes(&http(mac(1), shared, &[]), 1), [6, 7]);
    assert_eq!(world.goes(&http(shared, shared, &[]), 6), [7]);
    assert_eq!(world.goes(&http(mac(9), shared, &[7]), 9), NOWHERE);
}

#[tokio::test]
async fn what_takes_a_role_is_dropped_and_counted_without_it() {
    let world = world().await;
    let advertisement = [&[134, 0, 0, 0][..], &[0; 12]].concat();
    let behind = |next: u8, first: &[u8], rest: &[u8]| ipv6(next, &[first, rest].concat());
    let router: Vec<(&str, Vec<u8>)> = vec![
        ("RA", ipv6(58, &advertisement)),
        ("redirect", ipv6(58, &[&[137, 0, 0, 0][..], &[0; 36]].concat())),
        ("MLD query", ipv6(58, &[&[130, 0, 0, 0][..], &[0; 20]].concat())),
        (
            "RA behind options",
            behind(60, &[58, 0, 1, 4, 0, 0, 0, 0], &advertisement),
        ),
        (
            "RA in its first fragment",
            behind(44, &[58, 0, 0, 1, 0, 0, 0, 1], &advertisement),
        ),
        (
            "options that do not end",
            behind(44, &[60, 0, 0, 1, 0, 0, 0, 1], &[58, 9, 1, 4, 0, 0, 0, 0]),
        ),
        ("IPv4 redirect", ipv4(1, &[5, 1, 0, 0, 0, 0, 0, 0])),
        ("IPv4 RA", ipv4(1, &[9, 0, 0, 0, 0, 0, 0, 0])),
        ("IGMP query", ipv4(2, &[0x11, 0, 0, 0, 0, 0, 0, 0])),
    ];
    let dhcp: Vec<(&str, Vec<u8>)> = vec![
        ("DHCP to a client", ipv4(17, &udp(40_000, 68))),
        ("DHCP to a relay", ipv4(17, &udp(67, 67))),
        ("DHCPv6 to a client", ipv6(17, &udp(40_000, 546))),
        ("DHCPv6 to a relay", ipv6(17, &udp(547, 547))),
    ];
    let free: Vec<(&str, Vec<u8>)> = vec![
        ("RS", ipv6(58, &[133, 0, 0, 0, 0, 0, 0, 0])),
        ("MLD report", ipv6(58, &[&[143, 0, 0, 0][..], &[0; 20]].concat())),
        ("IGMP report", ipv4(2, &[0x22, 0, 0, 0, 0, 0, 0, 0])),
        ("DHCP discover", ipv4(17, &udp(68, 67))),
        ("DHCPv6 solicit", ipv6(17, &udp(546, 547))),
    ];
    let all = 0x3333_0000_0001;
    let passes = |packet: &[u8], port: u16, own: u64, tags: &[u16]| {
        let met = world.met(&frame(own, all, tags, packet.to_vec()), port);
        let denied = met.drops.contains(&DropReason::NoRole);
        assert_ne!(denied, !met.ports.is_empty(), "port {port}: {met:?}");
        assert_eq!(denied, met.ports.is_empty());
        // The row that denied it counts it.
        assert!(!denied || met.hits.len() == 1, "port {port}: {met:?}");
        !denied
    };
    for (what, packet) in &router {
        for (port, own, tags, may) in [
            (1, mac(1), &[][..], false),
            (1, mac(1), &[0], false),
            (2, mac(2), &[7], false),
            (3, mac(3), &[], true),
            (3, mac(3), &[7, 9], true),
            (4, mac(4), &[], false),
            (5, mac(5), &[], false),
            (9, mac(9), &[7], true),
        ] {
            assert_eq!(
                passes(packet, port, own, tags),
                may,
                "{what} at port {port} behind {tags:?}"
            );
        }
    }
    for (what, packet) in &dhcp {
        for (port, may) in [(1, false), (3, false), (4, true), (5, false), (9, true)] {
            assert_eq!(
                passes(packet, port, mac(port.into()), &[]),
                may,
                "{what} at port {port}"
            );
        }
    }
    for (what, packet) in &free {
        for port in [1, 3, 4, 5, 9] {
            assert!(
                passes(packet, port, mac(port.into()), &[]),
                "{what} at port {port}"
            );
        }
    }
    // What bridges say to each other: nobody has the role for it.
    for group in [
        0x0180_c200_0000,
        0x0180_c200_000e,
        0x0100_0ccc_cccc,
        0x0100_0ccc_cccd,
    ] {
        for port in [1, 3, 4, 5, 9] {
            let met = world.met(&frame(mac(port.into()), group, &[], rig::arp()), port);
            assert_eq!(
                (met.ports, met.drops),
                (NOWHERE.to_vec(), vec![DropReason::ReservedGroup]),
                "{group:x} at port {port}"
            );
            assert_eq!(met.hits.len(), 1, "counted by the row of its port");
        }
    }
    // Hits are told by endpoint, and by port where there is none.
    for rule in ["roles/plain", "roles/trunk", "roles/(port 5)"] {
        let hits = world.hits(rule).await;
        assert!(
            matches!(hits.as_slice(), [hit] if hit.action == "deny"),
            "{rule}: {hits:?}"
        );
    }
    drop(world.rig);
}
