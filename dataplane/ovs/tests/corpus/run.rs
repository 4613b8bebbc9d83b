//! Sends the corpus over the real switch and compares what arrives with what ought to.
//!
//! A frame is known again by its bytes without tags, which no other frame has. Batches end with an ARP broadcast
//! of every host, which always passes: when each host has heard all the others, the switch is through with the
//! batch, so that nothing waits in a queue and nothing is sent into a full one.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::process::Command;
use std::time::{Duration, Instant};

use portcullis_testbed::{Capture, NetnsHost, Sandbox};

use super::craft::{Content, Corpus, Frame, Route};
use super::ether::own_arp;
use super::expect::{Expected, World};
use super::{HOSTS, Host};

const PATIENCE: Duration = Duration::from_secs(10);

pub struct Wire<'a> {
    /// Explains what Open vSwitch does, where that is the switch.
    sandbox: Option<&'a Sandbox>,
    captures: Vec<Capture>,
    corpus: &'a [Frame],
    by_key: HashMap<&'a [u8], usize>,
    markers: u32,
    batch: usize,
}

/// What arrived of one frame, and how it looked.
type Arrivals = BTreeMap<usize, BTreeMap<Host, Vec<Vec<u8>>>>;

/// Makes the hosts silent: their kernels would answer, and say things of their own.
pub fn silence(hosts: &[NetnsHost]) {
    for host in hosts {
        host.inside("silencing the host", || {
            std::fs::write("/proc/sys/net/ipv6/conf/eth0/disable_ipv6", "1")
        })
        .unwrap();
        let flushed = Command::new("ip")
            .args(["-n", host.namespace(), "address", "flush", "dev", "eth0"])
            .status()
            .unwrap();
        assert!(flushed.success(), "addresses of {} stay", host.name());
    }
}

/// The frame without its tags, and the VLANs of those it had.
fn untag(frame: &[u8]) -> (Vec<u8>, Vec<u16>) {
    let mut rest = &frame[12..];
    let mut vids = Vec::new();
    while let [0x81, 0x00, a, b, more @ ..] | [0x88, 0xa8, a, b, more @ ..] | [0x91, 0x00, a, b, more @ ..] =
        rest
    {
        vids.push(u16::from_be_bytes([*a, *b]) & 0xfff);
        rest = more;
    }
    ([&frame[..12], rest].concat(), vids)
}

impl<'a> Wire<'a> {
    /// `batch`: frames sent at a time, over all senders.
    pub fn new(hosts: &[NetnsHost], sandbox: Option<&'a Sandbox>, corpus: &'a [Frame], batch: usize) -> Self {
        let mut by_key = HashMap::new();
        for (index, frame) in corpus.iter().enumerate() {
            if let Some(other) = by_key.insert(frame.key.as_slice(), index) {
                panic!("`{}` and `{}` are the same frame", frame.what, corpus[other].what);
            }
        }
        let captures = hosts.iter().map(|h| h.capture().unwrap()).collect();
        Wire {
            sandbox,
            captures,
            corpus,
            by_key,
            markers: 0,
            batch,
        }
    }

    /// Sends everything in an order of its own per `seed`; what arrived where.
    pub fn send(&mut self, seed: u64) -> (Arrivals, Vec<String>) {
        let mut arrivals = Arrivals::new();
        let mut strangers = Vec::new();
        // Everybody is heard once before anything is sent to anybody.
        self.batch(&[], &mut arrivals, &mut strangers);
        for batch in shuffled(self.corpus.len(), seed).chunks(self.batch) {
            self.batch(batch, &mut arrivals, &mut strangers);
        }
        // What was output in one go with the last markers.
        self.batch(&[], &mut arrivals, &mut strangers);
        (arrivals, strangers)
    }

    fn batch(&mut self, batch: &[usize], arrivals: &mut Arrivals, strangers: &mut Vec<String>) {
        let mut awaited: Vec<BTreeSet<Vec<u8>>> = vec![BTreeSet::new(); HOSTS.len()];
        let mut sends: Vec<(Host, Vec<u8>)> = Vec::new();
        for from in Host::all() {
            let marker = self.marker(from);
            for to in Host::all().filter(|h| *h != from) {
                awaited[to.0].insert(marker.clone());
            }
            sends.push((from, marker));
        }
        for (from, marker) in &sends {
            let own = batch
                .iter()
                .map(|i| &self.corpus[*i])
                .filter(|f| f.route.from == *from);
            let frames = own.map(|f| f.bytes.as_slice()).chain([marker.as_slice()]);
            // Out of the socket that listens: to open and close one takes longer than to send a batch.
            for frame in frames {
                self.captures[from.0].send(frame).unwrap();
            }
        }
        let end = Instant::now() + PATIENCE;
        for host in Host::all() {
            while !awaited[host.0].is_empty() {
                let Some(frame) = self.captures[host.0].next(Duration::from_millis(200)).unwrap() else {
                    assert!(
                        Instant::now() < end,
                        "{} did not hear everybody in time",
                        host.name()
                    );
                    continue;
                };
                if awaited[host.0].remove(&frame) {
                    continue;
                }
                match self.by_key.get(untag(&frame).0.as_slice()) {
                    Some(index) => arrivals
                        .entry(*index)
                        .or_default()
                        .entry(host)
                        .or_default()
                        .push(frame),
                    None => strangers.push(format!("{} received {}", host.name(), hex(&frame))),
                }
            }
        }
    }

    /// An ARP broadcast that its sender may send under every document.
    fn marker(&mut self, from: Host) -> Vec<u8> {
        let mut one = Corpus::default();
        let everybody = Route {
            from,
            src: from.mac(),
            dst: [0xff; 6],
        };
        one.arp("marker", everybody, 1, own_arp(from, from));
        let mut bytes = one.frames.remove(0).bytes;
        self.markers += 1;
        bytes.extend(self.markers.to_be_bytes());
        bytes
    }

    /// Sends the corpus under `world`; a line for every frame that went another way.
    pub fn compare(&mut self, world: &World, seed: u64) -> Outcome {
        let (arrivals, strangers) = self.send(seed);
        let mut outcome = Outcome {
            differences: strangers
                .into_iter()
                .map(|s| format!("nobody sent it: {s}"))
                .collect(),
            ..Outcome::default()
        };
        let nothing = BTreeMap::new();
        for (index, frame) in self.corpus.iter().enumerate() {
            let expected = world.expected(frame);
            outcome.guarded[frame.route.from.0] += u64::from(expected.guarded);
            outcome.passed += usize::from(!expected.receivers.is_empty());
            outcome.dropped += usize::from(expected.receivers.is_empty());
            let got = arrivals.get(&index).unwrap_or(&nothing);
            if let Some(problem) = differs(frame, &expected, got) {
                if let Some(class) = expected.unseen {
                    *outcome.unseen.entry(class).or_default() += 1;
                    continue;
                }
                let trace = if outcome.differences.len() < 3 {
                    self.trace(frame)
                } else {
                    String::new()
                };
                outcome.differences.push(format!(
                    "{}\n   {problem}\n   because: {}\n   bytes: {}{trace}",
                    frame.what,
                    expected.why.join("; "),
                    hex(&frame.bytes),
                ));
            }
        }
        outcome
    }

    /// What the switch says it does with a frame.
    fn trace(&self, frame: &Frame) -> String {
        let Some(sandbox) = self.sandbox else {
            return String::new();
        };
        let port = sandbox.ofport(frame.route.from.name()).unwrap().unwrap_or(0);
        let answer = sandbox.appctl([
            "ofproto/trace",
            "br0",
            &format!("in_port={port}"),
            &hex(&frame.bytes),
        ]);
        let text = answer.unwrap_or_else(|error| error.to_string());
        let lines = text
            .lines()
            .filter(|l| l.starts_with(|c: char| c == ' ' || c.is_ascii_digit()) || l.contains("low"));
        lines.map(|l| format!("\n      {l}")).collect()
    }
}

#[derive(Debug, Default)]
pub struct Outcome {
    pub differences: Vec<String>,
    pub passed: usize,
    pub dropped: usize,
    /// Differences by what the switch has no field for.
    pub unseen: BTreeMap<&'static str, usize>,
    /// Frames of each host that its guard ought to end.
    pub guarded: [u64; HOSTS.len()],
}

fn differs(frame: &Frame, expected: &Expected, got: &BTreeMap<Host, Vec<Vec<u8>>>) -> Option<String> {
    let names = |hosts: Vec<Host>| hosts.iter().map(|h| h.name()).collect::<Vec<_>>().join(" ");
    let arrived: BTreeSet<Host> = got.keys().copied().collect();
    if arrived != expected.receivers {
        return Some(format!(
            "expected at [{}], arrived at [{}]",
            names(expected.receivers.iter().copied().collect()),
            names(arrived.into_iter().collect())
        ));
    }
    // The switch omits priority tags towards its own forwarding (`other_config:priority-tags`), and the packet
    // ring of the rig writes every outer tag as 0x8100: VLANs are compared, not TPIDs.
    let vlans = |vids: Vec<u16>| vids.into_iter().filter(|v| *v != 0).collect::<Vec<_>>();
    let sent = vlans(frame.tags.iter().map(|(_, vid)| *vid).collect());
    for (host, copies) in got {
        if copies.len() != 1 {
            return Some(format!("{} received {} copies", host.name(), copies.len()));
        }
        let tags = vlans(untag(&copies[0]).1);
        if tags != sent && frame.content != Content::Encapsulated {
            return Some(format!(
                "{} received VLANs {tags:?}, sent were {sent:?}",
                host.name()
            ));
        }
    }
    None
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|b| format!("{b:02x}")).collect()
}

/// The numbers below `count` in an order that `seed` alone decides (Fisher and Yates, with a linear generator).
fn shuffled(count: usize, seed: u64) -> Vec<usize> {
    let mut order: Vec<usize> = (0..count).collect();
    let mut state = seed;
    for i in (1..count).rev() {
        state = state
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        order.swap(i, (state >> 33) as usize % (i + 1));
    }
    order
}
