//! A stream of datagrams that never stops, and the moments at which some arrive.

use std::net::{SocketAddr, UdpSocket};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use portcullis_testbed::NetnsHost;

use super::place::PORT;
use crate::{BenchError, Result};

/// How often an arrival is looked for. Arrivals are timed where they are received: this delays no figure.
const LOOK: Duration = Duration::from_micros(500);
/// The longest that packets may stay away, or go on.
const PATIENCE: Duration = Duration::from_secs(20);
/// How long the receiver waits for a datagram at a time.
const WAIT: Duration = Duration::from_millis(100);

/// When the first and the last datagram since some moment arrived.
#[derive(Debug, Clone, Copy, Default)]
struct Seen {
    /// Arrivals count for the figures from here on.
    since: Option<Instant>,
    first: Option<Instant>,
    last: Option<Instant>,
}

/// A sender and a receiver, each a thread of its own.
pub struct Stream {
    stop: Arc<AtomicBool>,
    sent: Arc<AtomicU64>,
    seen: Arc<Mutex<Seen>>,
    threads: Vec<JoinHandle<std::io::Result<()>>>,
}

impl Stream {
    /// Sends from one host to the other, a datagram per `pace`.
    pub fn start(from: &NetnsHost, to: &NetnsHost, pace: Duration) -> Result<Self> {
        let address = to
            .ipv4()
            .ok_or_else(|| BenchError::Untrue("the receiver has no IPv4 address".to_string()))?;
        let (sender, receiver) = (from.udp_socket(0)?, to.udp_socket(PORT)?);
        receiver
            .set_read_timeout(Some(WAIT))
            .map_err(BenchError::io("set a time-out"))?;
        let mut stream = Stream {
            stop: Arc::default(),
            sent: Arc::default(),
            seen: Arc::default(),
            threads: Vec::new(),
        };
        let (stop, sent) = (Arc::clone(&stream.stop), Arc::clone(&stream.sent));
        let to = SocketAddr::from((address, PORT));
        stream
            .threads
            .push(std::thread::spawn(move || send(&sender, to, pace, &stop, &sent)));
        let (stop, seen) = (Arc::clone(&stream.stop), Arc::clone(&stream.seen));
        stream
            .threads
            .push(std::thread::spawn(move || receive(&receiver, &stop, &seen)));
        Ok(stream)
    }

    fn look<T>(&self, at: impl FnOnce(&mut Seen) -> T) -> T {
        at(&mut self.seen.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// The first arrival after a moment at which the stream was silent.
    pub async fn first_since(&self, moment: Instant) -> Result<Instant> {
        self.look(|seen| {
            // What has arrived since is the answer already.
            let arrived = seen.first.filter(|first| *first >= moment);
            (seen.since, seen.first) = (Some(moment), arrived);
        });
        loop {
            if let Some(first) = self.look(|seen| seen.first) {
                return Ok(first);
            }
            self.still_in_time(moment, "packets that pass after an unlock")?;
            tokio::time::sleep(LOOK).await;
        }
    }

    /// Waits until nothing has arrived for so long. The last arrival, if there ever was one.
    pub async fn silent(&self, silence: Duration) -> Result<Option<Instant>> {
        let began = Instant::now();
        loop {
            let last = self.look(|seen| seen.last);
            if last.unwrap_or(began).max(began).elapsed() > silence {
                self.look(|seen| seen.first = None);
                return Ok(self.look(|seen| seen.last));
            }
            self.still_in_time(began, "silence after a release")?;
            tokio::time::sleep(LOOK).await;
        }
    }

    fn still_in_time(&self, since: Instant, what: &str) -> Result<()> {
        if since.elapsed() < PATIENCE {
            return Ok(());
        }
        Err(BenchError::Late {
            what: what.to_string(),
            limit: PATIENCE,
            seen: format!(
                "{:?}, {} sent",
                self.look(|seen| *seen),
                self.sent.load(Ordering::Relaxed)
            ),
        })
    }

    /// Ends both threads; how many datagrams were sent.
    pub fn stop(mut self) -> Result<u64> {
        self.stop.store(true, Ordering::Relaxed);
        for thread in self.threads.drain(..) {
            let ended = thread
                .join()
                .map_err(|_| BenchError::Untrue("a thread of the stream panicked".to_string()))?;
            ended.map_err(BenchError::io("send or receive the stream"))?;
        }
        Ok(self.sent.load(Ordering::Relaxed))
    }
}

impl Drop for Stream {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
    }
}

fn send(
    socket: &UdpSocket,
    to: SocketAddr,
    pace: Duration,
    stop: &AtomicBool,
    sent: &AtomicU64,
) -> std::io::Result<()> {
    while !stop.load(Ordering::Relaxed) {
        let number = sent.fetch_add(1, Ordering::Relaxed);
        socket.send_to(&number.to_be_bytes(), to)?;
        std::thread::sleep(pace);
    }
    Ok(())
}

fn receive(socket: &UdpSocket, stop: &AtomicBool, seen: &Mutex<Seen>) -> std::io::Result<()> {
    let mut buffer = [0u8; 64];
    while !stop.load(Ordering::Relaxed) {
        match socket.recv(&mut buffer) {
            Ok(_) => {
                let now = Instant::now();
                let mut seen = seen.lock().unwrap_or_else(PoisonError::into_inner);
                seen.last = Some(now);
                if seen.first.is_none() && seen.since.is_none_or(|since| now >= since) {
                    seen.first = Some(now);
                }
            }
            Err(error)
                if matches!(
                    error.kind(),
                    std::io::ErrorKind::WouldBlock | std::io::ErrorKind::TimedOut
                ) => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
}
