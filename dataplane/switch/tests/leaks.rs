//! However frames go, their buffers come back: a whole switch on rings and files, and a pool that is as full after it as
//! before.
#![allow(clippy::unwrap_used, clippy::panic, reason = "a test fails by panicking")]

use crate::rig;

use std::path::Path;
use std::time::{Duration, Instant};

use portcullis_fastpath::DropReason;
use portcullis_proto::p4::v1::update::Type;
use portcullis_switch::config::{self, Config, Overrides};
use portcullis_switch::engine::SetProgram;
use portcullis_switch::switch::Switch;
use rig::{Entry, PATIENCE, RANGE, arp, attach, deliver, group, policy, station, tcp, update};
use tokio::runtime::Runtime;

/// From a file, again and again; back through rings, and from there on; gone.
const SOURCE: u16 = 1;
const RINGS: [u16; 2] = [2, 3];
const SINK: u16 = 4;
const ABSENT: u16 = 9;
const DENIED_OUT: u16 = 25;
const DENIED_IN: u16 = 445;
/// Where MACs are, and behind which port nobody is.
const STATIONS: [(u64, u16); 4] = [(0xb, 2), (0xc, 3), (0xd, SINK), (0xe, ABSENT)];
/// Fewer than frames come to wait for when floods meet rings.
const BUFFERS: u32 = 8191;

/// Frames that the source sends: `PORTCULLIS_PACKETS`, two millions without.
fn packets() -> u64 {
    std::env::var("PORTCULLIS_PACKETS").map_or(2_000_000, |n| n.parse().unwrap())
}

/// One of every way that a frame can go.
fn frames() -> Vec<Vec<u8>> {
    let mut frames = vec![arp(), vec![2; 9]];
    for (mac, _) in STATIONS {
        frames.extend([80, 8080, DENIED_OUT, DENIED_IN].map(|port| tcp(mac, port)));
    }
    // A MAC that nobody has; one for many; longer than a port sends.
    frames.push(tcp(0xf, 80));
    frames.push(tcp(0x0180_c200_0000, 80));
    let mut long = tcp(0xd, 80);
    long.resize(1700, 0);
    frames.push(long);
    // Mostly frames that go their way.
    frames.extend((0..200).map(|n| tcp(STATIONS[n % 3].0, 1000 + n as u16)));
    frames
}

fn write_pcap(path: &Path) {
    let mut file = Vec::new();
    for word in [0xa1b2_c3d4_u32, 0x0004_0002, 0, 0, 65_535, 1] {
        file.extend(word.to_ne_bytes());
    }
    for frame in frames() {
        for word in [0, 0, frame.len() as u32, frame.len() as u32] {
            file.extend(word.to_ne_bytes());
        }
        file.extend(frame);
    }
    std::fs::write(path, file).unwrap();
}

fn settings(folder: &Path) -> Config {
    let source = folder.join("frames.pcap");
    write_pcap(&source);
    let mut ports = vec![format!("{SOURCE}=pcap:rx={},repeat", source.display())];
    ports.extend(RINGS.map(|ring| format!("{ring}=ring")));
    ports.push(format!("{SINK}=device:net_null{SINK},no-rx=1"));
    let over = Overrides {
        ports,
        busy: true,
        mbufs: Some(BUFFERS),
        ..Overrides::default()
    };
    config::load(None, over).unwrap()
}

/// Everybody sends and hears; two ports are denied; floods go everywhere.
fn rows() -> Vec<Entry> {
    let mut rows = vec![
        policy("egress_policy", 1, (0, 65535), 1, true),
        policy(
            "egress_policy",
            1,
            (DENIED_OUT.into(), DENIED_OUT.into()),
            9,
            false,
        ),
        policy("ingress_policy", 2, (0, 65535), 1, true),
        policy(
            "ingress_policy",
            2,
            (DENIED_IN.into(), DENIED_IN.into()),
            9,
            false,
        ),
        deliver(ABSENT.into(), 2),
    ];
    for port in [SOURCE, RINGS[0], RINGS[1], SINK] {
        rows.extend([attach(port.into(), 1), deliver(port.into(), 2)]);
    }
    rows.extend(STATIONS.map(|(mac, port)| station(mac.into(), port.into())));
    rows
}

fn program(switch: &Switch) {
    let runtime = Runtime::new().unwrap();
    let mut updates: Vec<_> = rows().iter().map(Entry::insert).collect();
    let everywhere = [SOURCE, RINGS[0], RINGS[1], SINK].map(u128::from);
    updates.extend([1, 2].map(|id| update(Type::Insert, group(id, &everywhere))));
    runtime.block_on(async {
        let set = switch
            .engine
            .set_program(SetProgram::Replace, Some(RANGE.config.clone()), || Ok(()));
        set.await.unwrap();
        let refused = switch.engine.write(&updates, true, || Ok(())).await.unwrap();
        assert_eq!(refused, []);
    });
}

/// Waits until the source has sent so many; no progress for long is a failure.
fn until_sent(switch: &Switch, wanted: u64) -> u64 {
    let (mut last, mut since) = (0, Instant::now());
    loop {
        let sent = switch.engine.sums().port(SOURCE).received.packets;
        if sent >= wanted {
            return sent;
        }
        if sent > last {
            (last, since) = (sent, Instant::now());
        }
        assert!(
            since.elapsed() < PATIENCE,
            "{sent} of {wanted} frames, and no more"
        );
        std::thread::sleep(Duration::from_millis(20));
    }
}

#[test]
fn every_buffer_comes_back() {
    let folder = tempfile::tempdir().unwrap();
    let config = settings(folder.path());
    let mut switch = Switch::start(&config).unwrap();
    program(&switch);
    let begin = Instant::now();
    let sent = until_sent(&switch, packets());
    let took = begin.elapsed();
    assert_eq!(switch.stop(), []);
    let pool = switch.pool.clone();
    assert_eq!(pool.capacity(), BUFFERS);
    // What is left is in devices: the file's frames, and what waits in rings.
    let kept = frames().len() as u32;
    assert!(
        pool.in_use() >= kept,
        "{} in use, the file has {kept}",
        pool.in_use()
    );
    let count = |port| switch.engine.sums().port(port);
    let through_rings: u64 = RINGS.iter().map(|ring| count(*ring).received.packets).sum();
    let lost: u64 = [RINGS[0], RINGS[1], SINK, ABSENT]
        .map(|p| count(p).unsent)
        .iter()
        .sum();
    println!(
        "{sent} frames in {took:.1?}; {through_rings} came back through rings, {lost} copies found no room or no port"
    );
    for (way, frames) in [
        ("through rings", through_rings),
        ("to the sink", count(SINK).sent.packets),
        ("to a port that is not there", count(ABSENT).unsent),
        ("too long", count(SINK).too_long),
    ] {
        assert!(frames > 0, "none went {way}");
    }
    let drops = count(SOURCE).drops;
    for why in [
        DropReason::Runt,
        DropReason::EgressPolicy,
        DropReason::IngressPolicy,
        DropReason::ReservedGroup,
    ] {
        assert!(drops[why as usize] > 0, "none was dropped for {}", why.name());
    }
    drop(switch);
    assert_eq!(pool.in_use(), 0, "buffers are missing after {sent} frames");
    assert_eq!(pool.available(), BUFFERS);
}
