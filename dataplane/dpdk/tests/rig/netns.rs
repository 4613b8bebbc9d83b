//! A network namespace of the calling thread's own: its interfaces go with the thread, also when the test fails.

use portcullis_dpdk::{Burst, Mempool, RxQueue, TxQueue};
use std::process::Command;
use std::thread;
use std::time::Duration;

/// An ethertype for experiments, so that what the kernel sends by itself is told from what a test does.
const ETHER_TYPE: [u8; 2] = [0x88, 0xb5];

/// Moves the calling thread, and what it starts from now on, into a new namespace.
pub fn unshare() {
    // SAFETY: takes a flag, and touches no memory of ours.
    let status = unsafe { libc::unshare(libc::CLONE_NEWNET) };
    assert_eq!(status, 0, "{}", std::io::Error::last_os_error());
}

/// `ip` in the namespace of the calling thread.
pub fn ip(arguments: &str) {
    let output = Command::new("ip").args(arguments.split(' ')).output().unwrap();
    assert!(
        output.status.success(),
        "ip {arguments}: {}",
        String::from_utf8_lossy(&output.stderr)
    );
}

/// A frame to everybody that a test sends.
pub fn frame(number: u8, length: usize) -> Vec<u8> {
    let mut frame = vec![0xff; 6];
    frame.extend([2, 0, 0, 0, 0, 1]);
    frame.extend(ETHER_TYPE);
    frame.extend((0..length - 14).map(|at| (at as u8).wrapping_mul(3).wrapping_add(number)));
    frame
}

/// Sends `frames`, one packet each.
pub fn send(tx: &mut TxQueue, pool: &Mempool, frames: &[Vec<u8>]) {
    let mut burst = Burst::<32>::new();
    for frame in frames {
        let mut packet = pool.alloc().unwrap();
        packet.set_data(frame).unwrap();
        burst.push(packet).unwrap();
    }
    for _ in 0..1000 {
        tx.send(&mut burst);
        if burst.is_empty() {
            return;
        }
        thread::sleep(Duration::from_millis(10));
    }
    panic!("{} packets were not sent", burst.len());
}

/// The frames of tests that arrive, until there are `count`.
pub fn receive(rx: &mut RxQueue, count: usize) -> Vec<Vec<u8>> {
    let (mut frames, mut burst) = (Vec::new(), Burst::<32>::new());
    for _ in 0..1000 {
        rx.receive(&mut burst);
        let arrived = burst.drain().map(|packet| packet.to_vec());
        frames.extend(arrived.filter(|frame| frame.get(12..14) == Some(&ETHER_TYPE)));
        if frames.len() >= count {
            return frames;
        }
        thread::sleep(Duration::from_millis(10));
    }
    panic!("{} frames of {count} arrived", frames.len());
}
