//! A DNS server for tests and demonstrations: UDP and TCP on a loopback port, records in code or in a file.

mod zone;

use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

use hickory_resolver::proto::op::{Edns, Message, MessageType, OpCode, ResponseCode};
use hickory_resolver::proto::rr::rdata::A;
use hickory_resolver::proto::rr::{Name, RData, Record, RecordType};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream, UdpSocket};
use tokio::task::JoinHandle;

pub use zone::{Fault, Zone};

pub use hickory_resolver::proto::rr;

/// The address that [`Fault::BesideAlias`] gives.
pub const BESIDE: Ipv4Addr = Ipv4Addr::new(198, 51, 100, 66);

/// A server; it ends when dropped.
#[derive(Debug)]
pub struct Server {
    at: SocketAddr,
    shared: Arc<SharedZone>,
    tasks: [JoinHandle<()>; 2],
}

#[derive(Debug)]
struct SharedZone {
    zone: RwLock<Zone>,
    queries: AtomicUsize,
}

impl Drop for Server {
    fn drop(&mut self) {
        for task in &self.tasks {
            task.abort();
        }
    }
}

impl Server {
    /// Starts one on a free port of 127.0.0.1.
    ///
    /// # Errors
    /// When there is none.
    pub async fn start(zone: Zone) -> io::Result<Self> {
        let mut tries = 0;
        loop {
            tries += 1;
            match Self::start_at(SocketAddr::from(([127, 0, 0, 1], 0)), zone.clone()).await {
                // Free for TCP is not free for UDP.
                Err(error) if error.kind() == io::ErrorKind::AddrInUse && tries < 20 => {}
                result => return result,
            }
        }
    }

    /// Starts one on a port, the same for UDP and TCP.
    ///
    /// # Errors
    /// When it cannot be bound.
    pub async fn start_at(at: SocketAddr, zone: Zone) -> io::Result<Self> {
        let tcp = TcpListener::bind(at).await?;
        let at = tcp.local_addr()?;
        let udp = UdpSocket::bind(at).await?;
        let shared = Arc::new(SharedZone {
            zone: RwLock::new(zone),
            queries: AtomicUsize::new(0),
        });
        let tasks = [
            tokio::spawn(serve_udp(udp, shared.clone())),
            tokio::spawn(serve_tcp(tcp, shared.clone())),
        ];
        Ok(Self { at, shared, tasks })
    }

    /// Loopback address for queries by UDP and TCP.
    pub fn addr(&self) -> SocketAddr {
        self.at
    }

    /// How many queries it was asked, retries included.
    pub fn queries(&self) -> usize {
        self.shared.queries.load(Ordering::Relaxed)
    }

    /// Replaces all records; the next query sees it.
    pub fn replace(&self, zone: Zone) {
        *self.shared.zone.write().unwrap_or_else(PoisonError::into_inner) = zone;
    }

    /// Changes records; the next query sees it.
    pub fn change(&self, with: impl FnOnce(Zone) -> Zone) {
        let mut zone = self.shared.zone.write().unwrap_or_else(PoisonError::into_inner);
        *zone = with(std::mem::take(&mut *zone));
    }
}

/// Serves a zone file, and reads it again when it changes, until the future is dropped. It says each time what it did.
/// A file that cannot be read, or is wrong, leaves what is served as it is.
///
/// # Errors
/// When the file cannot be read or the address not be bound at first.
pub async fn serve_file(file: &Path, at: SocketAddr, mut say: impl FnMut(FileEvent)) -> io::Result<()> {
    let mut seen = std::fs::read_to_string(file)?;
    let zone = Zone::parse(&seen).map_err(io::Error::other)?;
    let server = Server::start_at(at, zone).await?;
    say(FileEvent::Serving(server.addr()));
    loop {
        tokio::time::sleep(Duration::from_millis(100)).await;
        let text = match std::fs::read_to_string(file) {
            Ok(text) if text != seen => text,
            _ => continue,
        };
        match Zone::parse(&text) {
            Ok(zone) => {
                server.replace(zone);
                say(FileEvent::Read);
            }
            Err(error) => say(FileEvent::Wrong(error)),
        }
        seen = text;
    }
}

/// What happened to a zone file that is served.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum FileEvent {
    /// It is served here.
    Serving(SocketAddr),
    /// It changed, and was read again.
    Read,
    /// It changed, and is wrong.
    Wrong(String),
}

async fn serve_udp(socket: UdpSocket, shared: Arc<SharedZone>) {
    let mut buffer = vec![0; 4096];
    loop {
        let (length, from) = match socket.recv_from(&mut buffer).await {
            Ok(received) => received,
            Err(_) => {
                tokio::time::sleep(Duration::from_millis(10)).await;
                continue;
            }
        };
        if let Some(answer) = shared.answer(&buffer[..length], true) {
            let _ = socket.send_to(&answer, from).await;
        }
    }
}

async fn serve_tcp(listener: TcpListener, shared: Arc<SharedZone>) {
    loop {
        match listener.accept().await {
            Ok((stream, _)) => {
                let shared = shared.clone();
                tokio::spawn(async move {
                    let _ = converse(stream, &shared).await;
                });
            }
            Err(_) => tokio::time::sleep(Duration::from_millis(10)).await,
        }
    }
}

async fn converse(mut stream: TcpStream, shared: &SharedZone) -> io::Result<()> {
    loop {
        let length = tokio::time::timeout(Duration::from_secs(30), stream.read_u16()).await??;
        let mut query = vec![0; usize::from(length)];
        tokio::time::timeout(Duration::from_secs(30), stream.read_exact(&mut query)).await??;
        if let Some(answer) = shared.answer(&query, false) {
            let length = u16::try_from(answer.len()).map_err(io::Error::other)?;
            stream
                .write_all(&[&length.to_be_bytes()[..], &answer].concat())
                .await?;
        }
    }
}

impl SharedZone {
    fn answer(&self, query: &[u8], udp: bool) -> Option<Vec<u8>> {
        let query = Message::from_vec(query).ok()?;
        if query.metadata.message_type != MessageType::Query || query.metadata.op_code != OpCode::Query {
            return None;
        }
        let asked = query.queries.first()?.clone();
        self.queries.fetch_add(1, Ordering::Relaxed);
        let id = query.metadata.id;
        let mut answer = Message::response(id, OpCode::Query);
        answer.metadata.recursion_desired = query.metadata.recursion_desired;
        answer.metadata.recursion_available = true;
        answer.metadata.authoritative = true;
        answer.add_query(asked.clone());
        let room = match &query.edns {
            Some(edns) => {
                let mut ours = Edns::new();
                ours.set_max_payload(1232);
                answer.set_edns(ours);
                usize::from(edns.max_payload().clamp(512, 1232))
            }
            None => 512,
        };
        let zone = self.zone.read().unwrap_or_else(PoisonError::into_inner);
        let fault = zone.fault_of(&asked.name);
        match fault {
            Some(Fault::Silent) => return None,
            Some(Fault::Garbage) => {
                let id = id.to_be_bytes();
                return Some([&id[..], &[0xff; 40]].concat());
            }
            Some(Fault::ServFail) => answer.metadata.response_code = ResponseCode::ServFail,
            Some(Fault::Refused) => answer.metadata.response_code = ResponseCode::Refused,
            Some(Fault::NoEdns) if query.edns.is_some() => {
                answer.edns = None;
                answer.metadata.response_code = ResponseCode::FormErr;
            }
            Some(Fault::Truncated) => answer.metadata.truncation = true,
            Some(Fault::TruncatedUdp) if udp => answer.metadata.truncation = true,
            Some(Fault::TruncatedUdp | Fault::OtherOwner | Fault::BesideAlias | Fault::NoEdns) | None => {
                let found = zone.find(&asked.name, asked.query_type);
                answer.answers = found.records;
                if !found.exists {
                    answer.metadata.response_code = ResponseCode::NXDomain;
                }
            }
        }
        if fault == Some(Fault::OtherOwner) {
            for record in &mut answer.answers {
                record.name = Name::from_ascii("other.owner.test.").unwrap_or_default();
            }
        }
        if fault == Some(Fault::BesideAlias) && asked.query_type == RecordType::A {
            let beside = Record::from_rdata(asked.name.clone(), 1, RData::A(A(BESIDE)));
            answer.answers.push(beside);
        }
        let bytes = answer.to_vec().ok()?;
        if !udp || bytes.len() <= room {
            return Some(bytes);
        }
        answer.metadata.truncation = true;
        answer.answers.clear();
        answer.to_vec().ok()
    }
}
