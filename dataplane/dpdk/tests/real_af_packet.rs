//! `net_af_packet` on a pair of interfaces of the kernel.
#![allow(clippy::unwrap_used, clippy::panic, reason = "a test fails by panicking")]

use crate::rig;

use portcullis_dpdk::{Device, PortConfig};
use portcullis_testbed::need_root;
use rig::netns::{frame, ip, receive, send, unshare};
use rig::{eal, pool, running, unique};

#[test]
fn frames_go_from_one_end_of_a_veth_to_the_other() {
    if !need_root("frames_go_from_one_end_of_a_veth_to_the_other") {
        return;
    }
    unshare();
    ip("link add left type veth peer name right");
    ip("link set left up");
    ip("link set right up");
    let pool = pool(4096);
    let mut left = running(&format!("{},iface=left", unique("net_af_packet")), &pool);
    let mut right = running(&format!("{},iface=right", unique("net_af_packet")), &pool);
    assert_eq!(left.port.info().driver, "net_af_packet");
    assert!(left.port.link().unwrap().up);
    let frames: Vec<Vec<u8>> = [60, 61, 128, 1000, 1514]
        .into_iter()
        .zip(0..)
        .map(|(n, i)| frame(i, n))
        .collect();
    send(&mut left.tx[0], &pool, &frames);
    assert_eq!(receive(&mut right.rx[0], frames.len()), frames);
    send(&mut right.tx[0], &pool, &frames);
    assert_eq!(receive(&mut left.rx[0], frames.len()), frames);
    assert!(left.port.stats().unwrap().tx_packets >= frames.len() as u64);
    drop((left, right));
    assert_eq!(pool.in_use(), 0);
}

#[test]
fn a_frame_shared_by_two_ports_arrives_at_both() {
    if !need_root("a_frame_shared_by_two_ports_arrives_at_both") {
        return;
    }
    unshare();
    let pool = pool(4096);
    let mut ends = Vec::new();
    for name in ["a", "b"] {
        ip(&format!("link add {name}0 type veth peer name {name}1"));
        ip(&format!("link set {name}0 up"));
        ip(&format!("link set {name}1 up"));
        let near = running(&format!("{},iface={name}0", unique("net_af_packet")), &pool);
        let far = running(&format!("{},iface={name}1", unique("net_af_packet")), &pool);
        ends.push((near, far));
    }
    let wanted = frame(9, 500);
    let mut packet = pool.alloc().unwrap();
    packet.set_data(&wanted).unwrap();
    let mut copies = vec![packet.share(&pool).unwrap(), packet];
    for (near, _) in &mut ends {
        let mut burst = portcullis_dpdk::Burst::<1>::new();
        burst.push(copies.pop().unwrap()).unwrap();
        assert_eq!(near.tx[0].send(&mut burst), 1);
    }
    for (_, far) in &mut ends {
        assert_eq!(receive(&mut far.rx[0], 1), std::slice::from_ref(&wanted));
    }
    drop(ends);
    assert_eq!(pool.in_use(), 0);
}

#[test]
fn the_mtu_of_the_interface_follows_the_port() {
    if !need_root("the_mtu_of_the_interface_follows_the_port") {
        return;
    }
    unshare();
    ip("link add left type veth peer name right");
    let pool = pool(512);
    let device = Device::probe(eal(), &format!("{},iface=left", unique("net_af_packet"))).unwrap();
    let config = PortConfig {
        mtu: Some(1400),
        ..PortConfig::new(&pool)
    };
    let port = device.configure(&config).unwrap();
    assert_eq!((port.granted().mtu, port.mtu().unwrap()), (1400, 1400));
    let shown = std::process::Command::new("ip")
        .args(["link", "show", "left"])
        .output()
        .unwrap();
    let shown = String::from_utf8(shown.stdout).unwrap();
    assert!(shown.contains("mtu 1400"), "{shown}");
    assert!(port.granted().promiscuous);
    // The other end is down, and so is the link.
    assert!(!port.link().unwrap().up);
}
