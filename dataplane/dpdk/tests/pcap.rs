//! `net_pcap`: files are received, and what is sent becomes a file.
#![allow(clippy::unwrap_used, clippy::panic, reason = "a test fails by panicking")]

use crate::rig;

use portcullis_dpdk::{Burst, Device, Mempool, PortConfig, ProbeError};
use rig::{eal, pool, running, unique};
use std::path::Path;

/// A pcap file with these frames: microseconds, Ethernet, in this machine's byte order.
fn pcap(frames: &[Vec<u8>]) -> Vec<u8> {
    let mut file = Vec::new();
    let word = |value: u32| value.to_ne_bytes();
    file.extend(word(0xa1b2_c3d4));
    file.extend(2_u16.to_ne_bytes().into_iter().chain(4_u16.to_ne_bytes()));
    for value in [0, 0, 65_535, 1] {
        file.extend(word(value));
    }
    for (second, frame) in (1..).zip(frames) {
        let length = u32::try_from(frame.len()).unwrap();
        for value in [second, 0, length, length] {
            file.extend(word(value));
        }
        file.extend(frame);
    }
    file
}

/// The frames of such a file.
fn frames(file: &[u8]) -> Vec<Vec<u8>> {
    let word = |at: usize| u32::from_ne_bytes(file[at..at + 4].try_into().unwrap());
    assert!([0xa1b2_c3d4, 0xa1b2_3c4d].contains(&word(0)), "{:#x}", word(0));
    let (mut at, mut frames) = (24, Vec::new());
    while at < file.len() {
        let length = word(at + 8) as usize;
        assert_eq!(word(at + 12) as usize, length, "a frame is cut");
        frames.push(file[at + 16..at + 16 + length].to_vec());
        at += 16 + length;
    }
    frames
}

/// Frames of many lengths, each with its own bytes.
fn some_frames(largest: usize) -> Vec<Vec<u8>> {
    let lengths = [14, 60, 61, 128, 1000, 1514, largest];
    let frame = |(number, length): (usize, usize)| (0..length).map(|at| (at * 7 + number) as u8).collect();
    lengths.into_iter().enumerate().map(frame).collect()
}

fn device(rx: &Path, tx: &Path) -> String {
    format!(
        "{},rx_pcap={},tx_pcap={}",
        unique("net_pcap"),
        rx.display(),
        tx.display()
    )
}

#[test]
fn a_file_is_received_and_what_is_sent_is_the_same_file() {
    let folder = tempfile::tempdir().unwrap();
    let (from, to) = (folder.path().join("in.pcap"), folder.path().join("out.pcap"));
    let wanted = some_frames(1800);
    std::fs::write(&from, pcap(&wanted)).unwrap();
    let pool = pool(256);
    let mut port = running(&device(&from, &to), &pool);
    let mut burst = Burst::<32>::new();
    while burst.len() < wanted.len() {
        assert!(
            port.rx[0].receive(&mut burst) > 0,
            "{} of {}",
            burst.len(),
            wanted.len()
        );
    }
    for (packet, frame) in burst.iter().zip(&wanted) {
        assert_eq!(packet.to_vec(), *frame);
        assert_eq!(packet.port(), port.port.id());
    }
    assert_eq!(port.tx[0].send(&mut burst), wanted.len());
    let stats = port.port.stats().unwrap();
    assert_eq!((stats.rx_packets, stats.tx_packets), (7, 7));
    let bytes: usize = wanted.iter().map(Vec::len).sum();
    assert_eq!((stats.rx_bytes, stats.tx_bytes), (bytes as u64, bytes as u64));
    drop(port);
    assert_eq!(pool.in_use(), 0);
    assert_eq!(frames(&std::fs::read(&to).unwrap()), wanted);
}

#[test]
fn a_frame_larger_than_a_buffer_has_several_segments() {
    let folder = tempfile::tempdir().unwrap();
    let (from, to) = (folder.path().join("in.pcap"), folder.path().join("out.pcap"));
    let wanted = some_frames(5000);
    std::fs::write(&from, pcap(&wanted)).unwrap();
    let pool = Mempool::new(eal(), "short", 256, 0, 600).unwrap();
    let device = Device::probe(eal(), &device(&from, &to)).unwrap();
    let mtu = 500;
    let config = PortConfig {
        mtu: Some(mtu),
        ..PortConfig::new(&pool)
    };
    let mut port = device.configure(&config).unwrap().start().unwrap();
    let mut burst = Burst::<8>::new();
    while burst.len() < wanted.len() {
        assert!(
            port.rx[0].receive(&mut burst) > 0,
            "{} of {}",
            burst.len(),
            wanted.len()
        );
    }
    let last = burst.pop().unwrap();
    assert!(!last.is_contiguous());
    assert_eq!(last.len(), 5000);
    assert!(last.data().len() <= 728 && last.segments().count() > 6);
    assert_eq!(last.to_vec(), wanted[6]);
    let shared = last.share(&pool).unwrap();
    assert_eq!(shared.to_vec(), wanted[6]);
    assert!(!last.is_writable());
    let copy = shared.copy(&pool).unwrap();
    assert!(copy.is_writable());
    assert_eq!(copy.to_vec(), wanted[6]);
    burst.clear();
    for packet in [last, shared, copy] {
        burst.push(packet).unwrap();
    }
    assert_eq!(port.tx[0].send(&mut burst), 3);
    drop(port);
    assert_eq!(pool.in_use(), 0);
    assert_eq!(frames(&std::fs::read(&to).unwrap()), vec![wanted[6].clone(); 3]);
}

#[test]
fn a_file_that_is_not_there_is_told() {
    let folder = tempfile::tempdir().unwrap();
    let (from, to) = (folder.path().join("none.pcap"), folder.path().join("out.pcap"));
    let error = Device::probe(eal(), &device(&from, &to)).unwrap_err();
    let ProbeError::Refused { said, .. } = &error else {
        panic!("{error:?}");
    };
    assert!(said.iter().any(|line| line.contains("none.pcap")), "{said:?}");
}
