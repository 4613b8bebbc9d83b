//! On the kernel's datapath a packet whose headers are cut short opens nothing for well-formed packets like it.
#![allow(clippy::unwrap_used, clippy::panic, reason = "a test fails by panicking")]

use portcullis_testbed::{SandboxOptions, need_root};

use crate::rig::frames::{NOBODY, World, mac};

/// `free1` may send everything but what only DHCP servers send; its source is not guarded.
const DOCUMENT: &str = "
version: portcullis/v1
endpoints:
  free1: {attachments: [{interface: free1}], source_guard: false}
";

/// An IPv4 packet of UDP from the port of DHCP servers; `says`: its length as the header says it.
fn dhcp4(says: u16, id: u16) -> Vec<u8> {
    let mut ip = vec![
        0x45, 0, 0, 0, 0, 0, 0, 0, 64, 17, 0, 0, 192, 0, 2, 3, 192, 0, 2, 9,
    ];
    ip[2..4].copy_from_slice(&says.to_be_bytes());
    ip[4..6].copy_from_slice(&id.to_be_bytes());
    let sum: u32 = ip
        .chunks(2)
        .map(|c| u32::from(u16::from_be_bytes([c[0], c[1]])))
        .sum();
    let sum = (sum & 0xffff) + (sum >> 16);
    ip[10..12].copy_from_slice(&(!(sum as u16)).to_be_bytes());
    ip.extend([0, 67, 0x30, 0x39, 0, 12, 0, 0]);
    ip.extend([0; 24]);
    let mut bytes = [NOBODY, mac(3)].concat();
    bytes.extend([0x08, 0]);
    bytes.extend(ip);
    bytes.extend(id.to_be_bytes());
    bytes.extend([0xab, 0xcd]);
    bytes
}

/// The same of IPv6, behind destination options.
fn dhcp6(says: u16, id: u16) -> Vec<u8> {
    let mut bytes = [NOBODY, mac(3)].concat();
    bytes.extend([0x86, 0xdd, 0x60, 0, 0, 0]);
    bytes.extend(says.to_be_bytes());
    bytes.extend([60, 64]);
    for last in [3, 9] {
        bytes.extend([0x20, 1, 0x0d, 0xb8, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, last]);
    }
    bytes.extend([17, 0, 1, 4, 0, 0, 0, 0]);
    bytes.extend([0x02, 0x23, 0x30, 0x39, 0, 12, 0x12, 0x34]);
    bytes.extend(id.to_be_bytes());
    bytes.extend([0xab, 0xcd]);
    bytes
}

#[test]
fn a_header_that_is_cut_short_opens_nothing() {
    if !need_root("a_header_that_is_cut_short_opens_nothing") {
        return;
    }
    if !SandboxOptions::default().kernel {
        println!("only the kernel's datapath has two parsers: real_kernel runs this there");
        return;
    }
    let mut world = World::start(&[("free1", 3), ("internet", 9)], |_| {});
    world.rig.apply(DOCUMENT);
    assert_eq!(
        world.send("free1", mac(3), NOBODY),
        ["internet"],
        "other packets pass"
    );
    type Make = fn(u16, u16) -> Vec<u8>;
    // Within the header of UDP; within that of IP; the right length.
    let cases: [(&str, Make, [u16; 3]); 2] = [("IPv4", dhcp4, [24, 19, 56]), ("IPv6", dhcp6, [10, 0, 20])];
    for (family, make, [in_udp, in_ip, whole]) in cases {
        for (id, says) in (1u16..).zip([in_udp, in_ip, in_udp, whole]) {
            let heard = world.send_frame("free1", &make(says, id));
            assert_eq!(heard, [""; 0], "{family} that says it has {says} bytes");
        }
    }
}
