//! Every frame of a corpus over a real OVS-DPDK bridge, under every document: what arrives where is what the
//! reference verdict says.

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    reason = "the whole file is a test, its modules too"
)]

use crate::corpus;
use crate::rig;

use corpus::craft::{Content, Frame};
use corpus::documents::{self, Case};
use corpus::expect::{Forwarding, World};
use corpus::run::{Wire, silence};
use corpus::{HOSTS, Host};
use portcullis_compiler::StageModel;
use portcullis_testbed::{SandboxOptions, need_root};
use rig::Rig;
use std::collections::BTreeMap;
use std::time::{Duration, Instant};

/// Frames sent at a time. A packet ring of the switch holds 512.
const BATCH: usize = 192;
/// Differences printed in full per document; all are counted.
const PRINTED: usize = 40;

/// The same on the kernel's datapath: frames of unknown flows wait for ovs-vswitchd, which is slow on an emulated machine.
const BATCH_FOR_KERNEL: usize = 16;

/// Frames that are another matter on the kernel's datapath (docs/open-vswitch.md): it does not go by the lengths in IP headers, and takes
/// no flow with the EtherType of a tag and no tag (net/openvswitch/flow_netlink.c), as LLC/SNAP frames with that type have.
fn is_ill_formed(frame: &Frame) -> bool {
    let what = &frame.what;
    let kinds = [
        "are padding",
        "cut off",
        "total length",
        "payload length",
        "that is too long",
        "SNAP with a VLAN tag",
        // These show no ports to ovs-vswitchd, either, and are dropped from servers.
        "options go on in the next one",
        "0>0",
        "v6=true icmp type 0",
    ];
    let is_kind = kinds.iter().any(|kind| what.contains(kind));
    let is_short = what.contains("bytes of") && !what.contains("bytes of options");
    let is_offset = what.contains("data offset") && !what.contains("that is there");
    frame.content == Content::BrokenIp || is_kind || is_short || is_offset
}

/// Whether a difference is that a frame arrived nowhere, where it was expected.
fn is_lost(difference: &str) -> bool {
    difference.contains("arrived at []")
}

/// Sends `frames` under each of `cases` over a switch that parses `vlan_limit` tags.
fn run(vlan_limit: Option<u8>, mut cases: Vec<Case>, mut frames: Vec<Frame>) {
    let options = SandboxOptions {
        vlan_limit,
        ..SandboxOptions::default()
    };
    let kernel = options.kernel;
    let batch = match kernel {
        true => BATCH_FOR_KERNEL,
        false => BATCH,
    };
    if options.kernel {
        frames.retain(|frame| !is_ill_formed(frame));
        of_each(&mut cases, &mut frames);
    }
    let (mut rig, hosts) = Rig::start(options, &HOSTS, |_| {});
    silence(&hosts);
    let mut total = 0;
    for (seed, case) in (1u64..).zip(&cases) {
        rig.apply(&case.yaml);
        // The rows are there; caches made before them are gone after a round of the revalidators.
        rig.sandbox.appctl(["revalidator/wait"]).unwrap();
        let limit = usize::from(vlan_limit.unwrap_or(1));
        let world =
            World::new(case.document(), StageModel::ovs().view, limit).forwarded_by(Forwarding::Normal);
        let before: Vec<u64> = Host::all().map(|h| guard_hits(&rig, h)).collect();
        let begin = Instant::now();
        let mut wire = Wire::new(&hosts, Some(&rig.sandbox), &frames, batch);
        let mut outcome = wire.compare(&world, seed);
        if kernel && outcome.differences.iter().all(|d| is_lost(d)) && !outcome.differences.is_empty() {
            // The kernel drops a frame of an unknown flow when ovs-vswitchd does not take it in time. Not the same one twice.
            let again = wire.compare(&world, seed + 100).differences;
            let is_again = |lost: &String| again.iter().any(|d| d.lines().next() == lost.lines().next());
            outcome.differences.retain(is_again);
            outcome
                .differences
                .extend(again.into_iter().filter(|d| !is_lost(d)));
        }
        eprintln!(
            "{} (VLAN limit {limit}): {} frames, {} to arrive, {} not, {} by the guard; {} differences; {:.1?}",
            case.name,
            frames.len(),
            outcome.passed,
            outcome.dropped,
            outcome.guarded.iter().sum::<u64>(),
            outcome.differences.len(),
            begin.elapsed(),
        );
        for (what, count) in &outcome.unseen {
            eprintln!("   {count} differ because Open vSwitch does not show {what}");
        }
        for difference in outcome.differences.iter().take(PRINTED) {
            eprintln!("-- {difference}");
        }
        // An emulated machine takes longer for it than flows stay in the cache.
        if !kernel {
            attributed(&rig);
        }
        // What was sent twice, or dropped by the kernel, is counted otherwise.
        if outcome.differences.is_empty() && !kernel {
            for host in Host::all() {
                counted(&rig, host, before[host.0] + outcome.guarded[host.0]);
            }
        }
        total += outcome.differences.len();
    }
    assert_eq!(
        total, 0,
        "frames went another way than the policy says; see above"
    );
}

/// Each flow that the datapath has cached is known to come from rows that do the same.
fn attributed(rig: &Rig) {
    let end = Instant::now() + rig::PATIENCE;
    let offload = loop {
        // Not while the rows are being read back.
        match rig.runtime.block_on(rig.target.offload()) {
            Ok(offload) => break offload,
            Err(error) => assert!(Instant::now() < end, "{error}"),
        }
        std::thread::sleep(Duration::from_millis(20));
    };
    eprintln!("   {} cached flows", offload.flows.total());
    assert!(offload.flows.total() > 0);
    let doubtful: BTreeMap<_, _> = offload.unknown.iter().collect();
    assert_eq!(doubtful, BTreeMap::new());
}

fn guard_hits(rig: &Rig, host: Host) -> u64 {
    let end = Instant::now() + rig::PATIENCE;
    let hits = loop {
        // Not while the rows are being read back.
        match rig.runtime.block_on(rig.target.hits()) {
            Ok(hits) => break hits,
            Err(error) => assert!(Instant::now() < end, "{error}"),
        }
        std::thread::sleep(Duration::from_millis(20));
    };
    let rule = format!("guard/{}", host.name());
    hits.iter().filter(|h| h.rule == rule).map(|h| h.packets).sum()
}

/// Drops of the guard are counted as such, each once; the switch's counters lag.
fn counted(rig: &Rig, host: Host, wanted: u64) {
    let end = Instant::now() + Duration::from_secs(15);
    while guard_hits(rig, host) != wanted && Instant::now() < end {
        std::thread::sleep(Duration::from_millis(100));
    }
    assert_eq!(
        guard_hits(rig, host),
        wanted,
        "packets counted by the guard of {}",
        host.name()
    );
}

fn all() -> Vec<Case> {
    let mut cases = documents::cases();
    cases.extend(documents::ports());
    cases
}

/// In an emulated machine a part of the documents and of the frames, unless tests may take long.
fn of_each(cases: &mut Vec<Case>, frames: &mut Vec<Frame>) {
    if std::env::var_os("PORTCULLIS_SOAK").is_none() {
        cases.retain(|case| ["guarded", "shut", "trunks"].contains(&case.name));
        assert_eq!(cases.len(), 3);
        let mut count = 0;
        frames.retain(|_| {
            count += 1;
            count % 5 == 0
        });
    }
}

#[test]
fn every_frame_goes_where_the_policy_says() {
    if !need_root("every_frame_goes_where_the_policy_says") {
        return;
    }
    let frames = corpus::corpus();
    assert!(frames.len() >= 2000, "{} frames", frames.len());
    run(Some(2), all(), frames);
}

#[test]
fn two_tags_are_opaque_to_a_switch_that_parses_one() {
    if !need_root("two_tags_are_opaque_to_a_switch_that_parses_one") {
        return;
    }
    let mut frames = corpus::corpus();
    frames.retain(|f| !f.tags.is_empty());
    run(None, all(), frames);
}
