//! A worker: receives bursts from its queues, processes each frame against one snapshot, and sends.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use portcullis_dpdk::{Burst, Mbuf, Mempool, Sender, TxQueue};
use portcullis_fastpath::{Forwarding, PORTS, Ports, Prefetch, Snapshot};

use crate::counters::{Book, Counters};
use crate::distributor::Source;
use crate::hub::View;

/// Largest number of frames received at once.
pub const BURST: usize = 32;
/// Empty polls after which an idle worker sleeps between polls.
const IDLE: u32 = 2000;
const REST: Duration = Duration::from_micros(50);
/// An Ethernet header and one VLAN tag: what a link carries beyond its MTU.
const HEADER: usize = 18;

/// A send queue: a worker's own, or one that workers share on devices with fewer queues than workers.
pub enum Out {
    /// Used by this worker alone.
    Own(TxQueue),
    /// Locked for each burst.
    Shared(Arc<Mutex<TxQueue>>),
    /// This worker's own sender to a kernel interface.
    Interface(Sender),
}

impl Out {
    fn send(&mut self, burst: &mut Burst<BURST>) -> usize {
        match self {
            Out::Own(queue) => queue.send(burst),
            Out::Interface(sender) => sender.send(burst),
            Out::Shared(queue) => queue.lock().unwrap_or_else(PoisonError::into_inner).send(burst),
        }
    }
}

/// Where a worker sends frames of one port.
pub struct OutPort {
    /// Number in P4Runtime, 0 to 510.
    pub number: u16,
    /// MTU of the port, in bytes.
    pub mtu: u16,
    pub queue: Out,
}

/// What a worker runs with.
pub struct Worker {
    /// Receive queues, with the number of their port.
    pub rx: Vec<(u16, Source)>,
    /// Every port of the switch, for any may be the one to send to.
    pub out: Vec<OutPort>,
    /// Buffers for copies of a frame that leaves by several ports.
    pub pool: Mempool,
    /// The worker's view of the newest snapshot.
    pub view: View,
    /// This worker's counters; no other writes them.
    pub counters: Arc<Counters>,
    /// Poll without sleeping, for a core of the worker's own.
    pub busy: bool,
    /// Set when the worker shall end.
    pub stop: Arc<AtomicBool>,
}

/// Frames that wait to be sent.
struct Sending {
    ports: Vec<Waiting>,
    /// Index in `ports` by number of the port.
    places: Box<[u16; PORTS]>,
    /// Indexes of ports for which frames wait.
    some: Vec<u16>,
    /// Dropped frames, whose buffers are freed together.
    dropped: Burst<BURST>,
}

struct Waiting {
    port: OutPort,
    burst: Burst<BURST>,
    bytes: u64,
}

const NOWHERE: u16 = u16::MAX;

impl Worker {
    /// Runs until `stop` is set.
    pub fn run(self) {
        let Worker {
            mut rx,
            out,
            pool,
            mut view,
            counters,
            busy,
            stop,
        } = self;
        let mut sending = Sending::new(out);
        let arch = pulp::Arch::new();
        let mut burst = Burst::<BURST>::new();
        let mut list = Vec::with_capacity(PORTS);
        let mut idle = 0u32;
        while !stop.load(Ordering::Relaxed) {
            let mut taken = 0;
            // Also when nothing comes in: whoever changed the tables waits for it.
            let snapshot = view.newest();
            for (port, source) in &mut rx {
                let count = source.receive(*port, &mut burst, &counters);
                if count == 0 {
                    continue;
                }
                taken += count;
                arch.dispatch(Forward {
                    arch,
                    snapshot,
                    port: *port,
                    burst: &mut burst,
                    list: &mut list,
                    counters: &counters,
                    pool: &pool,
                    sending: &mut sending,
                });
                sending.flush(&counters);
            }
            if taken > 0 {
                idle = 0;
            } else if !busy {
                idle = idle.saturating_add(1);
                if idle > IDLE {
                    std::thread::sleep(REST);
                }
            }
        }
    }
}

/// One burst of one port, compiled for what the CPU has.
struct Forward<'a> {
    arch: pulp::Arch,
    snapshot: &'a Snapshot,
    port: u16,
    burst: &'a mut Burst<BURST>,
    list: &'a mut Vec<u16>,
    counters: &'a Counters,
    pool: &'a Mempool,
    sending: &'a mut Sending,
}

impl pulp::NullaryFnOnce for Forward<'_> {
    type Output = ();

    #[inline(always)]
    fn call(self) {
        let mut book = Book(self.counters);
        let (packets, mut bytes) = (self.burst.len() as u64, 0);
        let behind = self.snapshot.port(self.port);
        for frame in self.burst.iter() {
            frame.prefetch();
        }
        let mut looks = [Prefetch::NOTHING; BURST];
        for (frame, look) in self.burst.iter().zip(&mut looks) {
            if frame.is_contiguous() {
                *look = self.snapshot.look(behind, frame.data());
            }
        }
        for (frame, look) in self.burst.drain().zip(&looks) {
            let length = frame.len();
            bytes += length as u64;
            match look.go(self.port, length, &mut book) {
                Forwarding::To(port) => self.sending.push(port, frame, length, self.counters),
                Forwarding::Nowhere => self.sending.drop(frame),
                Forwarding::Unknown => Whole {
                    snapshot: self.snapshot,
                    port: self.port,
                    list: self.list,
                    counters: self.counters,
                    pool: self.pool,
                    sending: self.sending,
                    frame,
                }
                .run(self.arch),
            }
        }
        self.sending.dropped.clear();
        self.counters.received(self.port, packets, bytes);
    }
}

/// A frame that a look was not enough for. Its code is long, and lies apart so that the way of most is short.
struct Whole<'a> {
    snapshot: &'a Snapshot,
    port: u16,
    list: &'a mut Vec<u16>,
    counters: &'a Counters,
    pool: &'a Mempool,
    sending: &'a mut Sending,
    frame: Mbuf,
}

impl Whole<'_> {
    #[inline(never)]
    fn run(self, arch: pulp::Arch) {
        arch.dispatch(self);
    }
}

impl pulp::NullaryFnOnce for Whole<'_> {
    type Output = ();

    #[inline(always)]
    fn call(self) {
        let (length, mut book) = (self.frame.len(), Book(self.counters));
        let frame = self.frame;
        let ports = if frame.is_contiguous() {
            self.snapshot.whole(frame.data(), self.port, self.list, &mut book)
        } else {
            self.snapshot
                .whole(&frame.to_vec(), self.port, self.list, &mut book)
        };
        match ports {
            Ports::None => self.sending.drop(frame),
            Ports::One(port) => self.sending.push(port, frame, length, self.counters),
            Ports::Many(ports) => self
                .sending
                .push_all(ports, frame, length, self.pool, self.counters),
        }
    }
}

impl Sending {
    fn new(out: Vec<OutPort>) -> Sending {
        let mut places = Box::new([NOWHERE; PORTS]);
        for (at, port) in out.iter().enumerate() {
            if let Some(place) = places.get_mut(usize::from(port.number)) {
                *place = at as u16;
            }
        }
        let ports = out.into_iter().map(|port| Waiting {
            port,
            burst: Burst::new(),
            bytes: 0,
        });
        Sending {
            ports: ports.collect(),
            places,
            some: Vec::with_capacity(PORTS),
            dropped: Burst::new(),
        }
    }

    #[inline(always)]
    fn drop(&mut self, frame: Mbuf) {
        // Not more than are taken at once, so that there is room.
        let _room = self.dropped.push(frame);
    }

    #[inline(always)]
    fn push(&mut self, port: u16, frame: Mbuf, length: usize, counters: &Counters) {
        let place = self.places.get(usize::from(port)).copied().unwrap_or(NOWHERE);
        let Some(waiting) = self.ports.get_mut(usize::from(place)) else {
            // A row names a port that this switch does not have.
            counters.unsent(port, 1);
            return;
        };
        if length > usize::from(waiting.port.mtu) + HEADER {
            counters.too_long(port);
            return;
        }
        if waiting.burst.is_empty() {
            self.some.push(place);
        }
        waiting.bytes += length as u64;
        // It is flushed as soon as it is full, so that there is room.
        let _room = waiting.burst.push(frame);
        if waiting.burst.is_full() {
            waiting.flush(counters);
            self.some.retain(|p| *p != place);
        }
    }

    fn push_all(&mut self, ports: &[u16], frame: Mbuf, length: usize, pool: &Mempool, counters: &Counters) {
        let Some((last, others)) = ports.split_last() else {
            return;
        };
        for port in others {
            match frame.share(pool) {
                Some(copy) => self.push(*port, copy, length, counters),
                None => counters.unsent(*port, 1),
            }
        }
        self.push(*last, frame, length, counters);
    }

    #[inline(always)]
    fn flush(&mut self, counters: &Counters) {
        while let Some(place) = self.some.pop() {
            if let Some(waiting) = self.ports.get_mut(usize::from(place)) {
                waiting.flush(counters);
            }
        }
    }
}

impl Waiting {
    fn flush(&mut self, counters: &Counters) {
        let wanted = self.burst.len();
        let mut sent = self.port.queue.send(&mut self.burst);
        if sent < wanted {
            // The device may have made room meanwhile.
            sent += self.port.queue.send(&mut self.burst);
        }
        let lost: u64 = self.burst.iter().map(|frame| frame.len() as u64).sum();
        counters.sent(self.port.number, sent as u64, self.bytes - lost);
        if sent < wanted {
            counters.unsent(self.port.number, (wanted - sent) as u64);
            self.burst.clear();
        }
        self.bytes = 0;
    }
}
