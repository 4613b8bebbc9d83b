//! Real TCP connections and UDP datagrams, and what became of them.

use std::io::{self, ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::{self, JoinHandle};
use std::time::Duration;

const TICK: Duration = Duration::from_millis(20);

/// What became of an attempt to connect.
#[derive(Debug)]
pub enum TcpOutcome {
    /// The other side accepted.
    Open(TcpStream),
    /// The other side answered with a reset: the port is closed.
    Refused,
    /// No answer in time: dropped on the way.
    Timeout,
    /// No route, no neighbour, or an ICMP error.
    Unreachable,
}

impl TcpOutcome {
    /// Whether the connection was made.
    pub fn is_open(&self) -> bool {
        matches!(self, Self::Open(_))
    }

    /// The outcome in one word: `open`, `refused`, `timeout`, `unreachable`.
    pub fn word(&self) -> &'static str {
        match self {
            Self::Open(_) => "open",
            Self::Refused => "refused",
            Self::Timeout => "timeout",
            Self::Unreachable => "unreachable",
        }
    }
}

/// What became of a datagram that asks for an answer.
#[derive(Debug, PartialEq, Eq)]
pub enum UdpOutcome {
    /// The bytes that came back.
    Answered(Vec<u8>),
    /// ICMP answered that the port is closed.
    Refused,
    /// No answer in time: dropped on the way.
    Timeout,
    /// No route, no neighbour, or another ICMP error.
    Unreachable,
}

impl UdpOutcome {
    /// The outcome in one word: `answered`, `refused`, `timeout`, `unreachable`.
    pub fn word(&self) -> &'static str {
        match self {
            Self::Answered(_) => "answered",
            Self::Refused => "refused",
            Self::Timeout => "timeout",
            Self::Unreachable => "unreachable",
        }
    }
}

fn is_unreachable(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        ErrorKind::HostUnreachable | ErrorKind::NetworkUnreachable | ErrorKind::PermissionDenied
    )
}

fn is_timeout(error: &io::Error) -> bool {
    matches!(error.kind(), ErrorKind::TimedOut | ErrorKind::WouldBlock)
}

/// Tries to connect to `to` from the calling thread's namespace.
pub fn tcp_connect(to: SocketAddr, timeout: Duration) -> io::Result<TcpOutcome> {
    match TcpStream::connect_timeout(&to, timeout) {
        Ok(stream) => Ok(TcpOutcome::Open(stream)),
        Err(error) if error.kind() == ErrorKind::ConnectionRefused => Ok(TcpOutcome::Refused),
        Err(error) if is_timeout(&error) => Ok(TcpOutcome::Timeout),
        Err(error) if is_unreachable(&error) => Ok(TcpOutcome::Unreachable),
        Err(error) => Err(error),
    }
}

/// Sends `payload` over `stream` to an echoing server; whether the same bytes came back within `timeout`.
pub fn tcp_echo(stream: &mut TcpStream, payload: &[u8], timeout: Duration) -> io::Result<bool> {
    stream.set_read_timeout(Some(timeout))?;
    stream.write_all(payload)?;
    let mut answer = vec![0; payload.len()];
    match stream.read_exact(&mut answer) {
        Ok(()) => Ok(answer == payload),
        Err(error) if is_timeout(&error) => Ok(false),
        Err(error) => Err(error),
    }
}

/// Sends one datagram from `socket` to `to` and waits for the answer.
pub fn udp_ask(
    socket: &UdpSocket,
    to: SocketAddr,
    payload: &[u8],
    timeout: Duration,
) -> io::Result<UdpOutcome> {
    let ask = || -> io::Result<UdpOutcome> {
        socket.connect(to)?;
        socket.set_read_timeout(Some(timeout))?;
        socket.send(payload)?;
        let mut answer = vec![0; 65_536];
        let length = socket.recv(&mut answer)?;
        answer.truncate(length);
        Ok(UdpOutcome::Answered(answer))
    };
    match ask() {
        Err(error) if error.kind() == ErrorKind::ConnectionRefused => Ok(UdpOutcome::Refused),
        Err(error) if is_timeout(&error) => Ok(UdpOutcome::Timeout),
        Err(error) if is_unreachable(&error) => Ok(UdpOutcome::Unreachable),
        other => other,
    }
}

/// A server on threads of its own; it stops when this is dropped.
#[derive(Debug)]
pub struct Service {
    stop: Arc<AtomicBool>,
    served: Arc<AtomicU64>,
    thread: Option<JoinHandle<()>>,
}

impl Service {
    fn start(work: impl FnOnce(&AtomicBool, &AtomicU64) + Send + 'static) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let served = Arc::new(AtomicU64::new(0));
        let (stop_seen, count) = (Arc::clone(&stop), Arc::clone(&served));
        let thread = thread::spawn(move || work(&stop_seen, &count));
        Self {
            stop,
            served,
            thread: Some(thread),
        }
    }

    /// Connections accepted, or datagrams answered, so far.
    pub fn served(&self) -> u64 {
        self.served.load(Ordering::SeqCst)
    }

    /// Accepts every connection and returns every byte, until dropped.
    pub fn tcp_echo(listener: TcpListener) -> io::Result<Self> {
        listener.set_nonblocking(true)?;
        Ok(Self::start(move |stop, served| {
            thread::scope(|scope| {
                while !stop.load(Ordering::SeqCst) {
                    match listener.accept() {
                        Ok((stream, _)) => {
                            served.fetch_add(1, Ordering::SeqCst);
                            scope.spawn(move || echo_until_closed(stream, stop));
                        }
                        Err(_) => thread::sleep(Duration::from_millis(2)),
                    }
                }
            });
        }))
    }

    /// Returns every datagram to its sender, until dropped.
    pub fn udp_echo(socket: UdpSocket) -> io::Result<Self> {
        socket.set_read_timeout(Some(TICK))?;
        Ok(Self::start(move |stop, served| {
            let mut datagram = vec![0; 65_536];
            while !stop.load(Ordering::SeqCst) {
                if let Ok((length, sender)) = socket.recv_from(&mut datagram)
                    && socket.send_to(&datagram[..length], sender).is_ok()
                {
                    served.fetch_add(1, Ordering::SeqCst);
                }
            }
        }))
    }
}

impl Drop for Service {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::SeqCst);
        if let Some(thread) = self.thread.take()
            && thread.join().is_err()
            && !thread::panicking()
        {
            panic!("a test server panicked");
        }
    }
}

/// The peer may vanish at any time; that ends this connection and nothing else.
fn echo_until_closed(mut stream: TcpStream, stop: &AtomicBool) {
    if stream.set_nonblocking(false).is_err() || stream.set_read_timeout(Some(TICK)).is_err() {
        return;
    }
    let mut bytes = [0; 16_384];
    while !stop.load(Ordering::SeqCst) {
        match stream.read(&mut bytes) {
            Ok(0) => return,
            Ok(length) => {
                if stream.write_all(&bytes[..length]).is_err() {
                    return;
                }
            }
            Err(error) if is_timeout(&error) => {}
            Err(_) => return,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SOON: Duration = Duration::from_secs(2);

    #[test]
    fn tcp_open_echo_and_refused() {
        let listener = TcpListener::bind("[::1]:0").unwrap();
        let at = listener.local_addr().unwrap();
        let service = Service::tcp_echo(listener).unwrap();
        let TcpOutcome::Open(mut stream) = tcp_connect(at, SOON).unwrap() else {
            panic!("not open")
        };
        assert!(tcp_echo(&mut stream, b"hello", SOON).unwrap());
        assert_eq!(service.served(), 1);
        drop(service);
        assert_eq!(tcp_connect(at, SOON).unwrap().word(), "refused");
    }

    #[test]
    fn udp_answered_and_refused() {
        let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
        let at = socket.local_addr().unwrap();
        let service = Service::udp_echo(socket).unwrap();
        let asking = UdpSocket::bind("127.0.0.1:0").unwrap();
        assert_eq!(
            udp_ask(&asking, at, b"x", SOON).unwrap(),
            UdpOutcome::Answered(b"x".to_vec())
        );
        drop(service);
        assert_eq!(udp_ask(&asking, at, b"x", SOON).unwrap(), UdpOutcome::Refused);
    }
}
