//! Stands between a controller and a P4Runtime service: connections that can be cut, and Write calls that meet faults.

use std::convert::Infallible;
use std::future::Future;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll};

use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::{AbortHandle, JoinHandle};
use tonic::Status;
use tonic::body::Body;
use tonic::codegen::{Service, http};
use tonic::server::NamedService;

use super::lock;
use crate::conformance::{Fault, Plan};

/// Asked after every Write call that was carried out.
type Written = Box<dyn Fn() + Send>;

/// What a controller meets on its way to a service.
pub struct Meddler {
    address: SocketAddr,
    to: Arc<Mutex<Option<SocketAddr>>>,
    connections: Arc<Mutex<Vec<AbortHandle>>>,
    listening: JoinHandle<()>,
    plan: Mutex<Plan>,
    held: AtomicUsize,
    released: watch::Sender<u64>,
    reads: AtomicU64,
    written: Mutex<Option<Written>>,
}

impl Meddler {
    /// Listens on a loopback port that is free. Where connections go is said by [`lead`](Self::lead).
    pub async fn start() -> std::io::Result<Arc<Self>> {
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let address = listener.local_addr()?;
        let to: Arc<Mutex<Option<SocketAddr>>> = Arc::default();
        let connections: Arc<Mutex<Vec<AbortHandle>>> = Arc::default();
        let (leads, kept) = (Arc::clone(&to), Arc::clone(&connections));
        let listening = tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let Some(to) = *lock(&leads) else { continue };
                let carried = tokio::spawn(carry(stream, to));
                lock(&kept).push(carried.abort_handle());
            }
        });
        Ok(Arc::new(Meddler {
            address,
            to,
            connections,
            listening,
            plan: Mutex::default(),
            held: AtomicUsize::new(0),
            released: watch::Sender::new(0),
            reads: AtomicU64::new(0),
            written: Mutex::default(),
        }))
    }

    /// Loopback address that controllers connect to, as `HOST:PORT`.
    pub fn address(&self) -> String {
        self.address.to_string()
    }

    /// Connections go there from now on.
    pub fn lead(&self, to: SocketAddr) {
        *lock(&self.to) = Some(to);
    }

    /// Cuts every connection through it; new ones are accepted.
    pub fn cut(&self) {
        lock(&self.connections)
            .drain(..)
            .for_each(|connection| connection.abort());
    }

    /// A service behind it.
    pub fn before<S>(self: &Arc<Self>, service: S) -> Meddled<S> {
        Meddled {
            service,
            meddler: Arc::clone(self),
        }
    }

    /// Hangs in a check.
    pub fn written(&self, written: Written) {
        *lock(&self.written) = Some(written);
    }

    /// The `nth` Write call from now on meets a fault.
    pub fn arm(&self, fault: Fault, nth: usize) {
        lock(&self.plan).arm(fault, nth);
    }

    /// Write calls that met a fault.
    pub fn met(&self) -> u64 {
        lock(&self.plan).met()
    }

    /// Read calls that were answered.
    pub fn reads(&self) -> u64 {
        self.reads.load(Ordering::Acquire)
    }

    /// Whether a call is held back.
    pub fn is_held(&self) -> bool {
        self.held.load(Ordering::Acquire) > 0
    }

    /// Lets go of what is held back, and forgets the fault that no call met.
    pub fn release(&self) {
        lock(&self.plan).disarm();
        self.released.send_modify(|number| *number += 1);
    }

    async fn hold(&self) {
        let mut released = self.released.subscribe();
        let _held = Held::from_count(&self.held);
        // The sender is this meddler's.
        let _open = released.changed().await;
    }
}

impl Drop for Meddler {
    fn drop(&mut self) {
        self.listening.abort();
        self.cut();
    }
}

/// A call that is held back, also one whose caller goes away.
struct Held<'a>(&'a AtomicUsize);

impl<'a> Held<'a> {
    fn from_count(count: &'a AtomicUsize) -> Self {
        count.fetch_add(1, Ordering::AcqRel);
        Held(count)
    }
}

impl Drop for Held<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::AcqRel);
    }
}

async fn carry(mut from: TcpStream, to: SocketAddr) {
    if let Ok(mut to) = TcpStream::connect(to).await {
        // Either side may end it, in whatever way.
        let _ended = tokio::io::copy_bidirectional(&mut from, &mut to).await;
    }
}

/// A service behind a [`Meddler`].
#[derive(Clone)]
pub struct Meddled<S> {
    service: S,
    meddler: Arc<Meddler>,
}

impl<S: NamedService> NamedService for Meddled<S> {
    const NAME: &'static str = S::NAME;
}

type Answer = Result<http::Response<Body>, Infallible>;

impl<S, B> Service<http::Request<B>> for Meddled<S>
where
    S: Service<http::Request<B>, Response = http::Response<Body>, Error = Infallible>,
    S: Clone + Send + 'static,
    S::Future: Send,
    B: Send + 'static,
{
    type Response = http::Response<Body>;
    type Error = Infallible;
    type Future = Pin<Box<dyn Future<Output = Answer> + Send>>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        self.service.poll_ready(context)
    }

    fn call(&mut self, request: http::Request<B>) -> Self::Future {
        // The one that is ready is called, as tower asks for.
        let next = self.service.clone();
        let mut service = std::mem::replace(&mut self.service, next);
        let meddler = Arc::clone(&self.meddler);
        let call = request
            .uri()
            .path()
            .rsplit('/')
            .next()
            .unwrap_or_default()
            .to_string();
        Box::pin(async move {
            if call != "Write" {
                let answer = service.call(request).await;
                if call == "Read" {
                    meddler.reads.fetch_add(1, Ordering::AcqRel);
                }
                return answer;
            }
            let fault = lock(&meddler.plan).due();
            match fault {
                Some(Fault::Refuse) => return Ok(Status::aborted("refused for a test").into_http()),
                Some(Fault::BreakBefore) => {
                    meddler.cut();
                    return Ok(Status::unavailable("the connection is cut").into_http());
                }
                Some(Fault::HoldBefore) => meddler.hold().await,
                _ => {}
            }
            let answer = service.call(request).await;
            if let Some(written) = lock(&meddler.written).as_ref() {
                written();
            }
            match fault {
                Some(Fault::Lose) => return Ok(Status::unavailable("the answer is lost").into_http()),
                Some(Fault::BreakAfter) => meddler.cut(),
                Some(Fault::Hold) => meddler.hold().await,
                _ => {}
            }
            answer
        })
    }
}
