//! Connections with TLS. Each handshake is a task of its own with an end, so that a slow one delays no other; when
//! there are too many at a time, the one that has taken longest goes.

use std::collections::VecDeque;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use tokio::net::TcpStream;
use tokio::sync::mpsc;
use tokio::task::{AbortHandle, JoinSet};
use tokio_rustls::TlsAcceptor;
use tokio_rustls::rustls;
use tokio_rustls::server::TlsStream;
use tokio_stream::StreamExt;
use tokio_stream::wrappers::ReceiverStream;
use tonic::transport::server::TcpIncoming;

use super::Certificates;
use crate::access::{Access, Connection, Denial};
use crate::api::Accept;
use crate::metrics;

/// How long a handshake may take.
const HANDSHAKE: Duration = Duration::from_secs(10);
/// Handshakes at a time.
const HANDSHAKES: usize = 256;
/// Connections that wait for the server.
const READY: usize = 16;

/// A connection with TLS.
pub type Stream = Connection<TlsStream<TcpStream>>;

/// Connections of a listener that completed the handshake. It ends when its receiver is dropped.
pub fn incoming(
    tcp: TcpIncoming,
    certificates: Arc<Certificates>,
    access: Access,
) -> ReceiverStream<io::Result<Stream>> {
    let (ready, incoming) = mpsc::channel(READY);
    tokio::spawn(accept(Accept::new(tcp), certificates, access, ready));
    ReceiverStream::new(incoming)
}

async fn accept(
    mut tcp: Accept<TcpIncoming>,
    certificates: Arc<Certificates>,
    access: Access,
    ready: mpsc::Sender<io::Result<Stream>>,
) {
    let mut handshakes = JoinSet::new();
    let mut oldest: VecDeque<AbortHandle> = VecDeque::new();
    loop {
        tokio::select! {
            () = ready.closed() => return,
            Some(_) = handshakes.join_next() => {
                while oldest.front().is_some_and(AbortHandle::is_finished) {
                    oldest.pop_front();
                }
            }
            next = tcp.next() => {
                let Some(Ok(tcp)) = next else { return };
                if handshakes.len() >= HANDSHAKES
                    && let Some(handshake) = oldest.pop_front()
                {
                    handshake.abort();
                    metrics::handshake_failed();
                }
                let handshake = handshake(tcp, Arc::clone(&certificates), access.clone(), ready.clone());
                oldest.push_back(handshakes.spawn(handshake));
                oldest.retain(|handshake| !handshake.is_finished());
            }
        }
    }
}

async fn handshake(
    tcp: TcpStream,
    certificates: Arc<Certificates>,
    access: Access,
    ready: mpsc::Sender<io::Result<Stream>>,
) {
    let address = tcp.peer_addr().ok();
    let seen = access.changes();
    let acceptor = TlsAcceptor::from(certificates.current());
    let failed = match tokio::time::timeout(HANDSHAKE, acceptor.accept(tcp)).await {
        Ok(Ok(stream)) => {
            let peer = access.on_tls(address, stream.get_ref().1.peer_certificates());
            // Handshakes have places of their own: what is silent takes none of those who have come through.
            let place = address.and_then(|address| access.door().admit_address(address.ip()));
            match place {
                // The server is gone when nobody takes it.
                Some(place) => drop(ready.send(Ok(access.connection(stream, peer, place, seen))).await),
                None => metrics::connection_refused(),
            }
            return;
        }
        Ok(Err(error)) => error,
        Err(_) => io::Error::new(io::ErrorKind::TimedOut, "the handshake took too long"),
    };
    metrics::handshake_failed();
    let place = address.map_or_else(|| "unknown".to_string(), |a| a.to_string());
    tracing::debug!(peer = place, error = %failed, "a TLS handshake failed");
    if let Some(why) = of_certificate(&failed) {
        access.denial_log().denied(Denial::new(place, None, "TLS", why));
    }
}

/// What was wrong with a client's certificate, if that is what was wrong: anything else says nothing of who it is.
fn of_certificate(error: &io::Error) -> Option<String> {
    let error = error.get_ref()?.downcast_ref::<rustls::Error>()?;
    match error {
        rustls::Error::InvalidCertificate(_) | rustls::Error::NoCertificatesPresented => {
            Some(error.to_string())
        }
        _ => None,
    }
}
