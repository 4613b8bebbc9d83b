//! Flow distributor (software RSS): the owner of a receive queue passes frames to workers by flow hash.
//!
//! Each of the others takes its part from a ring of its own, so that frames of a flow stay in order. Where a ring is full
//! frames are lost, as in a network card whose queue is.

use portcullis_dpdk::{Burst, Receiver, RingReceiver, RingSender, RxQueue};
use portcullis_fastpath::flow;

use crate::counters::Counters;
use crate::worker::BURST;

/// Frames that wait for one worker: some milliseconds of traffic at a port's full rate.
pub const ROOM: u32 = 2048;

/// Where frames of a port are received.
pub enum Queue {
    /// A receive queue of a device.
    Device(RxQueue),
    /// An interface of the kernel.
    Interface(Receiver),
}

impl Queue {
    #[inline(always)]
    fn receive(&mut self, burst: &mut Burst<BURST>) -> usize {
        match self {
            Queue::Device(queue) => queue.receive(burst),
            Queue::Interface(receiver) => receiver.receive(burst),
        }
    }
}

/// Where a worker receives frames of a port.
pub enum Source {
    /// A whole receive queue.
    Queue(Queue),
    /// A receive queue whose frames are spread over the workers, and this worker's share of them.
    Dealt(Box<FlowDistributor>),
    /// This worker's share of another worker's queue.
    Ring(RingReceiver),
}

/// Spreads the frames of one queue over the workers, by flow.
pub struct FlowDistributor {
    queue: Queue,
    hands: Vec<Hand>,
    /// The burst as received.
    taken: Burst<BURST>,
}

struct Hand {
    /// Ring to the worker; none for the worker that distributes.
    ring: Option<RingSender>,
    burst: Burst<BURST>,
}

impl Source {
    /// Adds frames to `burst`; how many were added. Those for others are on their way then.
    #[inline(always)]
    pub fn receive(&mut self, port: u16, burst: &mut Burst<BURST>, counters: &Counters) -> usize {
        match self {
            Source::Queue(queue) => queue.receive(burst),
            Source::Ring(ring) => ring.receive(burst),
            Source::Dealt(distributor) => distributor.receive(port, burst, counters),
        }
    }
}

impl FlowDistributor {
    /// Deals to workers in their order; the one without a ring is the distributor.
    pub fn new(queue: Queue, rings: impl Iterator<Item = Option<RingSender>>) -> FlowDistributor {
        let hands = rings.map(|ring| Hand {
            ring,
            burst: Burst::new(),
        });
        FlowDistributor {
            queue,
            hands: hands.collect(),
            taken: Burst::new(),
        }
    }

    #[inline(never)]
    fn receive(&mut self, port: u16, own: &mut Burst<BURST>, counters: &Counters) -> usize {
        let FlowDistributor { queue, hands, taken } = self;
        if queue.receive(taken) == 0 {
            return 0;
        }
        let before = own.len();
        let count = hands.len() as u64;
        for frame in taken.iter() {
            frame.prefetch();
        }
        for frame in taken.drain() {
            let number = u64::from(flow(frame.data()));
            let hand = hands.get_mut(((number * count) >> 32) as usize);
            // Nothing is left behind in a burst, so that there is room for what comes at once.
            let _room = match hand {
                Some(Hand { ring: Some(_), burst }) => burst.push(frame),
                _ => own.push(frame),
            };
        }
        for Hand { ring, burst } in hands {
            if let Some(ring) = ring
                && !burst.is_empty()
            {
                ring.send(burst);
                if !burst.is_empty() {
                    let bytes = burst.iter().map(|frame| frame.len() as u64).sum();
                    counters.crowded(port, burst.len() as u64, bytes);
                    burst.clear();
                }
            }
        }
        own.len() - before
    }
}
