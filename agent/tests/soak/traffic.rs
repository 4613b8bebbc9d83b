//! Numbered frames of every flow, and which of them arrived, where and when.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use portcullis_testbed::{Capture, NetnsHost};

use super::judge::{Micros, Sent};
use super::policy::{Flow, flows, frame, sequence};

/// Between two frames: each of the flows has one about every 80 ms.
const PACE: Duration = Duration::from_micros(1_600);
/// How long a receiver waits for a frame at a time.
const WAIT: Duration = Duration::from_millis(200);

pub struct Traffic {
    start: Instant,
    pub flows: Vec<Flow>,
    captures: Vec<Capture>,
    sent: Mutex<Vec<Sent>>,
    /// Frames that their own interface refused.
    refused: AtomicU64,
    /// The sender has stopped; the receivers go on.
    quiet: AtomicBool,
    over: AtomicBool,
}

impl Traffic {
    pub fn new(hosts: &[NetnsHost]) -> Self {
        Traffic {
            start: Instant::now(),
            flows: flows(),
            captures: hosts.iter().map(|host| host.capture().unwrap()).collect(),
            sent: Mutex::default(),
            refused: AtomicU64::new(0),
            quiet: AtomicBool::new(false),
            over: AtomicBool::new(false),
        }
    }

    /// Zero is no time.
    pub fn now(&self) -> Micros {
        self.start.elapsed().as_micros() as Micros + 1
    }

    /// Sends while something happens.
    pub fn during<T>(&self, happens: impl FnOnce() -> T) -> T {
        std::thread::scope(|scope| {
            for host in 0..self.captures.len() {
                scope.spawn(move || self.receive(host));
            }
            scope.spawn(|| self.send());
            let stop = Stop(self);
            let result = happens();
            drop(stop);
            result
        })
    }

    fn send(&self) {
        let mut number = 0u64;
        let count = self.flows.len() as u64;
        while !self.quiet.load(Ordering::Relaxed) {
            // Neighbours in time are of different hosts.
            let index = (number * 7 % count) as usize;
            let flow = &self.flows[index];
            let bytes = frame(flow, number, (number / count) % 2 == 1);
            let note = Sent {
                flow: index as u16,
                at: self.now(),
                ..Sent::default()
            };
            self.sent
                .lock()
                .unwrap_or_else(PoisonError::into_inner)
                .push(note);
            if self.captures[flow.from].send(&bytes).is_err() {
                self.refused.fetch_add(1, Ordering::Relaxed);
            }
            number += 1;
            std::thread::sleep(PACE);
        }
    }

    fn receive(&self, host: usize) {
        while !self.over.load(Ordering::Relaxed) {
            let Some(bytes) = self.captures[host].next(WAIT).unwrap() else {
                continue;
            };
            let Some(number) = sequence(&bytes) else { continue };
            let now = self.now();
            let mut sent = self.sent.lock().unwrap_or_else(PoisonError::into_inner);
            let note = &mut sent[number as usize];
            if self.flows[usize::from(note.flow)].to != host {
                note.astray = host as u8 + 1;
            } else if note.arrived == 0 {
                note.arrived = now;
            } else {
                note.copies += 1;
            }
        }
    }

    /// All that was sent, and how many frames no interface took.
    pub fn sent(self) -> (Vec<Sent>, u64) {
        let sent = self.sent.into_inner().unwrap_or_else(PoisonError::into_inner);
        (sent, self.refused.into_inner())
    }
}

/// Ends the traffic, also when what happens panics.
struct Stop<'a>(&'a Traffic);

impl Drop for Stop<'_> {
    fn drop(&mut self) {
        self.0.quiet.store(true, Ordering::Relaxed);
        // What is under way arrives.
        std::thread::sleep(Duration::from_secs(1));
        self.0.over.store(true, Ordering::Relaxed);
    }
}
