//! The other end of a connection, and connections that carry it to every request.

use std::io::{self, IoSlice};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::SystemTime;

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::{Instant, Sleep};
use tonic::transport::server::Connected;

use super::{Activity, Caller, Door, Place};

/// The other end of a connection.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Peer {
    /// Where it is: `uid 1000`, `192.0.2.1:4711`.
    pub place: String,
    /// Who it is, when the connection tells.
    pub caller: Option<Caller>,
    /// Until when that holds, when there is an end.
    pub until: Option<SystemTime>,
    /// Its calls.
    pub activity: Arc<Activity>,
}

/// A connection whose other end is known.
#[derive(Debug)]
pub struct Connection<T> {
    io: T,
    peer: Arc<Peer>,
    door: Arc<Door>,
    began: Instant,
    look: Pin<Box<Sleep>>,
    _place: Place,
}

impl<T> Connection<T> {
    /// With this peer, in this place.
    pub(super) fn new(io: T, peer: Peer, door: Arc<Door>, place: Place) -> Self {
        let look = Box::pin(tokio::time::sleep(door.first_call));
        Connection {
            io,
            peer: Arc::new(peer),
            door,
            began: Instant::now(),
            look,
            _place: place,
        }
    }

    /// Whether nothing was asked for too long.
    fn poll_silent(&mut self, context: &mut Context<'_>) -> Poll<()> {
        loop {
            let Door { first_call, idle, .. } = &*self.door;
            let (due, now) = (
                self.peer.activity.due(self.began, *first_call, *idle),
                Instant::now(),
            );
            if due.is_some_and(|due| due <= now) {
                return Poll::Ready(());
            }
            ready!(self.look.as_mut().poll(context));
            self.look.as_mut().reset(due.unwrap_or(now + *idle));
        }
    }
}

impl<T> Connected for Connection<T> {
    type ConnectInfo = Arc<Peer>;

    fn connect_info(&self) -> Arc<Peer> {
        Arc::clone(&self.peer)
    }
}

impl<T: AsyncRead + Unpin> AsyncRead for Connection<T> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if self.poll_silent(context).is_ready() {
            let silent = "nothing was asked on this connection for too long";
            return Poll::Ready(Err(io::Error::new(io::ErrorKind::TimedOut, silent)));
        }
        Pin::new(&mut self.io).poll_read(context, buffer)
    }
}

impl<T: AsyncWrite + Unpin> AsyncWrite for Connection<T> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.io).poll_write(context, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_shutdown(context)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.io).poll_write_vectored(context, slices)
    }

    fn is_write_vectored(&self) -> bool {
        self.io.is_write_vectored()
    }
}
