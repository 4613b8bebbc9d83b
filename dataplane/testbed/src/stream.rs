//! Two streams of numbered datagrams, one that shall pass and one that shall not, while something happens.

use std::collections::HashSet;
use std::io;
use std::net::{SocketAddr, UdpSocket};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use crate::{NetnsHost, TestbedError};

/// Between two datagrams of a stream.
const PACE: Duration = Duration::from_micros(500);
/// Datagrams of the allowed stream under way at most: far fewer than any queue holds, so that none is lost because a
/// machine is slow.
const WINDOW: u64 = 16;
/// How long one that does not arrive is waited for.
const PATIENCE: Duration = Duration::from_secs(1);
/// How long a receiver waits for a datagram at a time, and how often in vain once the sender has stopped.
const WAIT: Duration = Duration::from_millis(200);
const WAITS: u32 = 5;

/// What became of the streams.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Outcome {
    /// Datagrams of each stream that were sent.
    pub sent: u64,
    /// Those of the allowed stream that arrived.
    pub arrived: u64,
    /// Those of the denied stream that arrived.
    pub leaked: u64,
}

/// Sends from one host to two UDP ports of another, whose address is given, until `during` is over. The allowed stream
/// never has more than a few datagrams under way.
pub fn two_streams(
    from: &NetnsHost,
    to: (&NetnsHost, std::net::IpAddr),
    [allowed, denied]: [u16; 2],
    during: impl FnOnce(),
) -> crate::Result<Outcome> {
    let (to, address) = to;
    let failed = |action| {
        let namespace = from.namespace().to_string();
        move |source| TestbedError::Namespace {
            namespace,
            action,
            source,
        }
    };
    let (stop, arrived, leaked) = (AtomicBool::new(false), AtomicU64::new(0), AtomicU64::new(0));
    let receivers = [to.udp_socket(allowed)?, to.udp_socket(denied)?];
    for receiver in &receivers {
        receiver
            .set_read_timeout(Some(WAIT))
            .map_err(failed("setting a time-out"))?;
    }
    let sender = from.udp_socket(0)?;
    let ports = [allowed, denied].map(|port| SocketAddr::new(address, port));
    let sent = std::thread::scope(|scope| {
        for (receiver, count) in receivers.iter().zip([&arrived, &leaked]) {
            let stop = &stop;
            scope.spawn(move || receive(receiver, stop, count));
        }
        let sending = scope.spawn(|| send(&sender, ports, &stop, &arrived));
        let finished = Finish(&stop);
        during();
        drop(finished);
        sending.join()
    });
    let sent = sent.unwrap_or_else(|_| Err(io::Error::other("the sender panicked")));
    let sent = sent.map_err(failed("sending a stream"))?;
    Ok(Outcome {
        sent,
        arrived: arrived.into_inner(),
        leaked: leaked.into_inner(),
    })
}

/// Stops the streams, also when what happens meanwhile panics.
struct Finish<'a>(&'a AtomicBool);

impl Drop for Finish<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// Returns how many of each were sent. One that is lost is waited for once.
fn send(socket: &UdpSocket, ports: [SocketAddr; 2], stop: &AtomicBool, seen: &AtomicU64) -> io::Result<u64> {
    let (mut sent, mut lost) = (0u64, 0u64);
    while !stop.load(Ordering::Relaxed) {
        for port in ports {
            socket.send_to(&sent.to_be_bytes(), port)?;
        }
        sent += 1;
        std::thread::sleep(PACE);
        let under_way = |lost: u64| sent.saturating_sub(seen.load(Ordering::Relaxed) + lost);
        let began = Instant::now();
        while under_way(lost) > WINDOW {
            if began.elapsed() > PATIENCE {
                lost += under_way(lost);
                break;
            }
            std::thread::sleep(PACE);
        }
    }
    Ok(sent)
}

/// Counts datagrams, each once.
fn receive(socket: &UdpSocket, stop: &AtomicBool, count: &AtomicU64) {
    let (mut seen, mut quiet) = (HashSet::new(), 0);
    let mut buffer = [0u8; 64];
    while quiet < WAITS || !stop.load(Ordering::Relaxed) {
        match socket.recv(&mut buffer) {
            Ok(8) => {
                quiet = 0;
                let [a, b, c, d, e, f, g, h, ..] = buffer;
                if seen.insert(u64::from_be_bytes([a, b, c, d, e, f, g, h])) {
                    count.fetch_add(1, Ordering::Relaxed);
                }
            }
            _ => quiet += 1,
        }
    }
}
