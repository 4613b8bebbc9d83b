//! An interface of the kernel through packet sockets of our own.
#![allow(clippy::unwrap_used, clippy::panic, reason = "a test fails by panicking")]

use crate::rig;

use std::thread::sleep;
use std::time::{Duration, Instant};

use portcullis_dpdk::{Burst, Interface, InterfaceError, Mempool, Receiver, Sender};
use portcullis_testbed::need_root;
use rig::netns::{frame, ip, unshare};
use rig::pool;

/// Both ends of a veth.
fn ends(pool: &Mempool) -> [(Interface, Receiver, Sender); 2] {
    ip("link add left type veth peer name right");
    ip("link set left up");
    ip("link set right up");
    ["left", "right"].map(|name| {
        let (interface, receiver, mut senders) = Interface::open(name, pool, 1, None).unwrap();
        (interface, receiver, senders.pop().unwrap())
    })
}

fn send(sender: &mut Sender, pool: &Mempool, frames: &[Vec<u8>]) {
    let mut burst = Burst::<32>::new();
    for frame in frames {
        let mut packet = pool.alloc().unwrap();
        packet.set_data(frame).unwrap();
        burst.push(packet).unwrap();
    }
    assert_eq!(sender.send(&mut burst), frames.len());
    assert!(burst.is_empty());
}

/// What arrives, but for what the kernel sends by itself.
fn receive(receiver: &mut Receiver, count: usize) -> Vec<Vec<u8>> {
    let (mut frames, mut burst) = (Vec::new(), Burst::<32>::new());
    let end = Instant::now() + Duration::from_secs(10);
    while frames.len() < count && Instant::now() < end {
        receiver.receive(&mut burst);
        let arrived = burst.drain().map(|packet| packet.to_vec());
        frames.extend(arrived.filter(|frame| frame.get(6..12) == Some(&[2, 0, 0, 0, 0, 1])));
    }
    frames
}

/// A part of an IPv4 packet of UDP.
fn fragment(offset: u16, more: bool, length: usize) -> Vec<u8> {
    let mut header = vec![0x45, 0];
    header.extend(((20 + length) as u16).to_be_bytes());
    header.extend([0x12, 0x34]);
    header.extend(((offset / 8) | if more { 0x2000 } else { 0 }).to_be_bytes());
    header.extend([64, 17, 0, 0, 192, 0, 2, 1, 192, 0, 2, 9]);
    let words = header
        .chunks(2)
        .map(|c| u32::from(u16::from_be_bytes([c[0], c[1]])));
    let sum: u32 = words.sum();
    let sum = !(((sum & 0xffff) + (sum >> 16)) as u16);
    header[10..12].copy_from_slice(&sum.to_be_bytes());
    let mut frame = vec![0xff; 6];
    frame.extend([2, 0, 0, 0, 0, 1, 8, 0]);
    frame.extend(header);
    frame.extend((0..length).map(|i| i as u8));
    frame
}

fn tagged(mut frame: Vec<u8>, tag: [u8; 4]) -> Vec<u8> {
    frame.splice(12..12, tag);
    frame
}

#[test]
fn frames_arrive_as_they_were_sent() {
    if !need_root("frames_arrive_as_they_were_sent") {
        return;
    }
    unshare();
    let pool = pool(4096);
    let [
        (left, mut from_left, mut to_left),
        (_right, mut from_right, mut to_right),
    ] = ends(&pool);
    assert_eq!((left.name(), left.mtu(), left.up()), ("left", 1500, Some(true)));
    let mut frames: Vec<Vec<u8>> = [60, 61, 128, 1000, 1514].map(|n| frame(n as u8, n)).to_vec();
    // One packet in two parts, either alone, and a lost beginning.
    frames.extend([
        fragment(0, true, 1480),
        fragment(1480, false, 100),
        fragment(2960, false, 8),
    ]);
    frames.push(tagged(frame(1, 100), [0x81, 0, 0x20, 7]));
    frames.push(tagged(frame(2, 100), [0x88, 0xa8, 0, 9]));
    frames.push(tagged(tagged(frame(3, 100), [0x81, 0, 0, 7]), [0x88, 0xa8, 0, 9]));
    frames.push(tagged(fragment(1480, false, 100), [0x81, 0, 0, 7]));
    send(&mut to_left, &pool, &frames);
    assert_eq!(receive(&mut from_right, frames.len()), frames);
    send(&mut to_right, &pool, &frames);
    assert_eq!(receive(&mut from_left, frames.len()), frames);
    // What was sent comes in at the other end only.
    sleep(Duration::from_millis(50));
    let mut burst = Burst::<32>::new();
    for receiver in [&mut from_left, &mut from_right] {
        receiver.receive(&mut burst);
        let own = burst
            .drain()
            .filter(|p| p.data().get(6..12) == Some(&[2, 0, 0, 0, 0, 1]));
        assert_eq!(own.count(), 0);
    }
    assert_eq!(left.loss(), Default::default());
    drop((from_left, from_right));
    assert_eq!(pool.in_use(), 0);
}

#[test]
fn a_frame_in_two_pieces_and_one_that_is_shared_go_out_whole() {
    if !need_root("a_frame_in_two_pieces_and_one_that_is_shared_go_out_whole") {
        return;
    }
    unshare();
    let pool = pool(512);
    let [(_left, _, mut to_left), (_right, mut from_right, _)] = ends(&pool);
    let wanted = frame(9, 500);
    let mut packet = pool.alloc().unwrap();
    packet.set_data(&wanted).unwrap();
    let mut burst = Burst::<4>::new();
    burst.push(packet.share(&pool).unwrap()).unwrap();
    burst.push(packet).unwrap();
    assert_eq!(to_left.send(&mut burst), 2);
    assert_eq!(receive(&mut from_right, 2), [wanted.clone(), wanted]);
}

#[test]
fn what_is_lost_is_counted_by_its_reason() {
    if !need_root("what_is_lost_is_counted_by_its_reason") {
        return;
    }
    unshare();
    let plenty = pool(512);
    let few = rig::pool(64);
    ip("link add left type veth peer name right");
    for name in ["left", "right"] {
        ip(&format!("link set {name} mtu 4000 up"));
    }
    let (_left, _, mut senders) = Interface::open("left", &plenty, 1, None).unwrap();
    let (right, mut receiver, _) = Interface::open("right", &few, 1, None).unwrap();
    let mut sender = senders.pop().unwrap();
    let mut burst = Burst::<32>::new();
    let mut first = plenty.alloc().unwrap();
    first.set_data(&frame(1, 1900)).unwrap();
    burst.push(first).unwrap();
    assert_eq!(sender.send(&mut burst), 1);
    assert_eq!(receive(&mut receiver, 1).len(), 1);
    assert_eq!(right.loss(), Default::default());
    // Longer than a buffer of those that receive.
    let large = Mempool::new(rig::eal(), &rig::unique("large"), 64, 0, 4000).unwrap();
    send(&mut sender, &large, &[frame(3, 3000)]);
    let end = Instant::now() + Duration::from_secs(10);
    while right.loss().long == 0 {
        assert!(Instant::now() < end, "{:?}", right.loss());
        receiver.receive(&mut burst);
        burst.clear();
        sleep(Duration::from_millis(5));
    }
    // No buffer: all of them are held.
    let mut held = Vec::new();
    while let Some(packet) = few.alloc() {
        held.push(packet);
    }
    let end = Instant::now() + Duration::from_secs(10);
    while right.loss().unbuffered == 0 {
        assert!(Instant::now() < end, "{:?}", right.loss());
        send(&mut sender, &plenty, &[frame(2, 60)]);
        sleep(Duration::from_millis(5));
        // Those that wait in the receiver are used first.
        receiver.receive(&mut burst);
        held.extend(burst.drain());
    }
    // No room in the kernel: nobody takes them.
    let frames: Vec<Vec<u8>> = (0..32).map(|n| frame(n, 1900)).collect();
    while right.loss().crowded == 0 {
        assert!(
            Instant::now() < end + Duration::from_secs(10),
            "{:?}",
            right.loss()
        );
        send(&mut sender, &plenty, &frames);
    }
}

#[test]
fn an_interface_that_cannot_be_had_is_named() {
    if !need_root("an_interface_that_cannot_be_had_is_named") {
        return;
    }
    unshare();
    let pool = pool(64);
    let error = Interface::open("nowhere", &pool, 1, None).unwrap_err();
    assert!(matches!(error, InterfaceError::NotFound(_)), "{error}");
    assert!(error.to_string().contains("nowhere"));
    ip("link add left type veth peer name right");
    let (left, mut receiver, _) = Interface::open("left", &pool, 2, Some(1400)).unwrap();
    assert_eq!((left.mtu(), left.up()), (1400, Some(false)));
    // Down, and then gone: nothing comes in, and nothing fails.
    let mut burst = Burst::<32>::new();
    assert_eq!(receiver.receive(&mut burst), 0);
    ip("link del left");
    assert_eq!((receiver.receive(&mut burst), left.up()), (0, None));
}
