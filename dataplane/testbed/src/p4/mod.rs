//! A P4Runtime server in this process, with faults: what no real device does when a test needs it.
//!
//! It keeps tables as P4Runtime 1.6.0 says and forwards no packets. [`State::meets`] tells what a packet would meet, and a
//! check that a test hangs in is asked after every single update.

mod entries;
mod eval;
mod meddler;
mod service;
mod state;

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use portcullis_proto::p4::v1;
use portcullis_proto::p4::v1::p4_runtime_server::P4RuntimeServer;
use tokio::net::TcpListener;
use tokio::sync::{mpsc, oneshot};
use tokio_stream::wrappers::TcpListenerStream;
use tonic::transport::{Server, ServerTlsConfig};
use tonic::{Code, Status};

pub use entries::{Entries, EntryKey};
pub use eval::{Fields, Met};
pub use meddler::{Meddled, Meddler};
pub use state::{Refusal, State};

/// Asked after every update; an error is kept for the test to find.
pub type Check = Box<dyn Fn(&State) -> Result<(), String> + Send>;

/// A controller that is connected: its role, its election id, and the way to tell it something.
struct Controller {
    number: u64,
    /// Empty for the role that may do everything.
    role: String,
    election_id: u128,
    sender: mpsc::Sender<Result<v1::StreamMessageResponse, Status>>,
}

/// What is shared by all calls.
struct Shared {
    state: Mutex<State>,
    controllers: Mutex<Vec<Controller>>,
    check: Mutex<Option<Check>>,
    broken: Mutex<Vec<String>>,
    faults: Faults,
    connections: AtomicU64,
}

/// Faults that can be set at any time.
#[derive(Debug, Default)]
pub struct Faults {
    /// Delay of every call, in milliseconds.
    pub delay_ms: AtomicU64,
    /// Updates of a request are carried out in reverse order.
    pub reversed: AtomicBool,
    /// Number of updates to refuse with INTERNAL, every other one from the next on.
    pub refuse: AtomicU64,
    /// Calls are never answered.
    pub deaf: AtomicBool,
    /// RECONCILE_AND_COMMIT is carried out, as few devices do; UNIMPLEMENTED otherwise.
    pub reconcile: AtomicBool,
    /// Number of pipelines to refuse with UNAVAILABLE, from the next on.
    pub busy: AtomicU64,
    /// Multicast groups cannot be read.
    pub groups_unreadable: AtomicBool,
    /// The server says that it keeps the ends that rows carry. It has no clock: nothing ends by itself.
    pub keeps_ends: AtomicBool,
    /// Rows are echoed without `metadata`, as servers before P4Runtime 1.4 do.
    pub old_metadata: AtomicBool,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Shared {
    /// The highest election id of a role: each role has its own primary (P4Runtime 1.6.0, section 5); 0 without one.
    fn primary(&self, role: &str) -> u128 {
        let controllers = lock(&self.controllers);
        let ids = controllers
            .iter()
            .filter(|c| c.role == role)
            .map(|c| c.election_id);
        ids.max().unwrap_or(0)
    }

    /// Tells every controller of a role who its primary is (P4Runtime 1.6.0, section 5.3).
    fn notify(&self, role: &str) {
        let primary = self.primary(role);
        for controller in lock(&self.controllers).iter().filter(|c| c.role == role) {
            let code = if controller.election_id == primary {
                Code::Ok
            } else {
                Code::AlreadyExists
            };
            let update = v1::MasterArbitrationUpdate {
                device_id: 1,
                role: (!role.is_empty()).then(|| v1::Role {
                    name: role.to_string(),
                    ..Default::default()
                }),
                election_id: Some(v1::Uint128 {
                    high: (primary >> 64) as u64,
                    low: primary as u64,
                }),
                status: Some(portcullis_proto::google::rpc::Status {
                    code: code as i32,
                    ..Default::default()
                }),
            };
            let message = v1::StreamMessageResponse {
                update: Some(v1::stream_message_response::Update::Arbitration(update)),
            };
            // One that does not listen any more is about to be forgotten.
            let _gone = controller.sender.try_send(Ok(message));
        }
    }
}

/// A server that runs until it is dropped.
pub struct P4Server {
    address: SocketAddr,
    shared: Arc<Shared>,
    /// What Write calls meet on their way, and where controllers connect that may be cut off.
    meddler: Arc<Meddler>,
    stop: Option<oneshot::Sender<()>>,
    task: Option<tokio::task::JoinHandle<()>>,
}

impl P4Server {
    /// Starts one on a loopback port that is free.
    pub async fn start() -> std::io::Result<Self> {
        Self::start_with("127.0.0.1:0", None).await
    }

    /// Starts one at an address, with TLS when given.
    pub async fn start_with(address: &str, tls: Option<ServerTlsConfig>) -> std::io::Result<Self> {
        Self::start_at(address, tls, Meddler::start().await?).await
    }

    /// Starts one on a loopback port that is free, for controllers that connect to a meddler.
    pub async fn start_behind(meddler: Arc<Meddler>) -> std::io::Result<Self> {
        Self::start_at("127.0.0.1:0", None, meddler).await
    }

    async fn start_at(
        address: &str,
        tls: Option<ServerTlsConfig>,
        meddler: Arc<Meddler>,
    ) -> std::io::Result<Self> {
        let shared = Arc::new(Shared {
            state: Mutex::default(),
            controllers: Mutex::default(),
            check: Mutex::default(),
            broken: Mutex::default(),
            faults: Faults::default(),
            connections: AtomicU64::new(0),
        });
        let listener = TcpListener::bind(address).await?;
        let address = listener.local_addr()?;
        let mut server = P4Server {
            address,
            shared,
            meddler,
            stop: None,
            task: None,
        };
        server.meddler.lead(address);
        server.serve(listener, tls)?;
        Ok(server)
    }

    fn serve(&mut self, listener: TcpListener, tls: Option<ServerTlsConfig>) -> std::io::Result<()> {
        let service = P4RuntimeServer::new(service::Service {
            shared: Arc::clone(&self.shared),
        })
        .max_decoding_message_size(64 << 20);
        let (stop, stopped) = oneshot::channel::<()>();
        let mut builder = Server::builder();
        if let Some(tls) = tls {
            builder = builder.tls_config(tls).map_err(std::io::Error::other)?;
        }
        let served = builder
            .add_service(self.meddler.before(service))
            .serve_with_incoming(TcpListenerStream::new(listener));
        let task = tokio::spawn(async move {
            tokio::select! {
                // Connections end with the server: no grace, like a device that loses power.
                _ = stopped => {}
                result = served => if let Err(error) = result {
                    eprintln!("the P4Runtime server ended: {error}");
                }
            }
        });
        self.stop = Some(stop);
        self.task = Some(task);
        Ok(())
    }

    /// Address that controllers connect to, as `HOST:PORT`.
    pub fn address(&self) -> String {
        self.address.to_string()
    }

    pub fn faults(&self) -> &Faults {
        &self.shared.faults
    }

    /// Pipeline, entries and counts, to be read or altered.
    pub fn state(&self) -> MutexGuard<'_, State> {
        lock(&self.shared.state)
    }

    /// Roles of the controllers that are connected, with their election ids.
    pub fn roles(&self) -> BTreeMap<String, Vec<u128>> {
        let mut roles: BTreeMap<String, Vec<u128>> = BTreeMap::new();
        for controller in lock(&self.shared.controllers).iter() {
            let ids = roles.entry(controller.role.clone()).or_default();
            ids.push(controller.election_id);
        }
        roles
    }

    /// Connections since the server started.
    pub fn connections(&self) -> u64 {
        self.shared.connections.load(Ordering::Relaxed)
    }

    /// Hangs in a check.
    pub fn check(&self, check: Check) {
        *lock(&self.shared.check) = Some(check);
    }

    /// What the check found so far.
    pub fn broken(&self) -> Vec<String> {
        lock(&self.shared.broken).clone()
    }

    /// Breaks every stream, as a device does that drops its connections.
    pub fn break_streams(&self) {
        lock(&self.shared.controllers).clear();
    }

    /// Stops, forgets everything, and starts anew at the same address after a while.
    pub async fn restart(&mut self, away: Duration) -> std::io::Result<()> {
        self.stop().await;
        *self.state() = State::default();
        tokio::time::sleep(away).await;
        let listener = TcpListener::bind(self.address).await?;
        self.serve(listener, None)
    }

    /// Stops: connections break and new ones are refused. [`restart`](Self::restart) brings it back, empty.
    pub async fn stop(&mut self) {
        self.break_streams();
        if let Some(stop) = self.stop.take() {
            let _gone = stop.send(());
        }
        if let Some(task) = self.task.take() {
            task.abort();
            let _ended = task.await;
        }
    }
}

impl Drop for P4Server {
    fn drop(&mut self) {
        if let Some(task) = self.task.take() {
            task.abort();
        }
    }
}
