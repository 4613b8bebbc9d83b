//! The other end of a connection, and connections that carry it to every request.

use std::io::{self, IoSlice};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::SystemTime;

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::{Instant, Sleep};
use tokio_rustls::rustls::pki_types::CertificateDer;
use tokio_stream::Stream;
use tokio_stream::wrappers::WatchStream;
use tonic::transport::server::Connected;

use super::{Access, Activity, ConnectionSlot, Door, San};

/// What a connection shows of its other end.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Shows {
    Nothing,
    /// User and group on this machine.
    User(u32, u32),
    /// A certificate with these names that holds until then; the chain, its own first.
    Certificate {
        names: Vec<San>,
        /// Until when it holds.
        until: SystemTime,
        /// The certificates that were shown.
        chain: Arc<[CertificateDer<'static>]>,
    },
}

/// The other end of a connection. Who it is, the configuration of the moment says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Peer {
    /// Where it is: `uid 1000`, `192.0.2.1:4711`.
    pub place: String,
    pub shows: Shows,
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
    access: Access,
    changes: WatchStream<u64>,
    /// Whether its certificate is to be looked at again.
    unchecked: bool,
    /// Its certificate does not hold any more.
    ended: bool,
    _place: ConnectionSlot,
}

impl<T> Connection<T> {
    /// With this peer, in this place; accepted when access had changed so many times.
    pub(super) fn new(io: T, peer: Peer, access: Access, place: ConnectionSlot, seen: u64) -> Self {
        let door = Arc::clone(access.door());
        let look = Box::pin(tokio::time::sleep(door.first_call));
        let changes = access.watch();
        let unchecked = *changes.borrow() != seen;
        Connection {
            changes: WatchStream::from_changes(changes),
            unchecked,
            ended: false,
            access,
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

impl<T> Connection<T> {
    /// An error as soon as the certificate that was shown holds no more.
    fn poll_right(&mut self, context: &mut Context<'_>) -> io::Result<()> {
        if matches!(self.peer.shows, Shows::Certificate { .. }) && !self.ended {
            while let Poll::Ready(Some(_)) = Pin::new(&mut self.changes).poll_next(context) {
                self.unchecked = true;
            }
            if std::mem::take(&mut self.unchecked) {
                self.ended = !self.access.trusts(&self.peer);
            }
        }
        match self.ended {
            true => Err(io::Error::new(
                io::ErrorKind::PermissionDenied,
                "the certificate of this connection does not hold any more",
            )),
            false => Ok(()),
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
        self.poll_right(context)?;
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
        self.poll_right(context)?;
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
        self.poll_right(context)?;
        Pin::new(&mut self.io).poll_write_vectored(context, slices)
    }

    fn is_write_vectored(&self) -> bool {
        self.io.is_write_vectored()
    }
}
