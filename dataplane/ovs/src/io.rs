//! Streams to the switch: a Unix socket or TCP, read by the driver, written by a task of their own.

use std::io;
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpStream, UnixStream};
use tokio::sync::mpsc;

/// How long a connection attempt may take.
const CONNECT: Duration = Duration::from_secs(2);
/// Bytes read at once.
const CHUNK: usize = 256 * 1024;

/// A connection. Writing never waits for the peer to read: a peer that stops reading while it answers would
/// otherwise stop us from reading its answers.
pub(crate) struct Link {
    reader: Box<dyn AsyncRead + Send + Unpin>,
    to_write: mpsc::UnboundedSender<Vec<u8>>,
    buffer: Vec<u8>,
}

impl Link {
    /// Connects to `unix:PATH` or `tcp:HOST:PORT`.
    pub(crate) async fn connect(address: &str) -> io::Result<Self> {
        let late = || {
            io::Error::new(
                io::ErrorKind::TimedOut,
                format!("no connection within {CONNECT:?}"),
            )
        };
        if let Some(path) = address.strip_prefix("unix:") {
            let stream = tokio::time::timeout(CONNECT, UnixStream::connect(path))
                .await
                .map_err(|_| late())??;
            let (reader, writer) = stream.into_split();
            Ok(Self::new(reader, writer))
        } else if let Some(host) = address.strip_prefix("tcp:") {
            let stream = tokio::time::timeout(CONNECT, TcpStream::connect(host))
                .await
                .map_err(|_| late())??;
            stream.set_nodelay(true)?;
            let (reader, writer) = stream.into_split();
            Ok(Self::new(reader, writer))
        } else {
            let text = format!("`{address}` is not an address: write unix:PATH or tcp:HOST:PORT");
            Err(io::Error::new(io::ErrorKind::InvalidInput, text))
        }
    }

    fn new(
        reader: impl AsyncRead + Send + Unpin + 'static,
        mut writer: impl AsyncWrite + Send + Unpin + 'static,
    ) -> Self {
        let (to_write, mut queue) = mpsc::unbounded_channel::<Vec<u8>>();
        tokio::spawn(async move {
            while let Some(bytes) = queue.recv().await {
                if let Err(error) = writer.write_all(&bytes).await {
                    // The reader sees the end of the same connection and reports it.
                    tracing::debug!(%error, "writing to the switch failed");
                    return;
                }
            }
        });
        Link {
            reader: Box::new(reader),
            to_write,
            buffer: vec![0; CHUNK],
        }
    }

    /// Queues bytes to be sent; on a closed connection they are dropped.
    pub(crate) fn write(&self, bytes: Vec<u8>) {
        if !bytes.is_empty() && self.to_write.send(bytes).is_err() {
            tracing::debug!("the connection to the switch is closed already");
        }
    }

    /// Waits for bytes; an error when the peer has closed. May be cancelled without losing any.
    pub(crate) async fn read(&mut self) -> io::Result<&[u8]> {
        match self.reader.read(&mut self.buffer).await? {
            0 => Err(io::Error::new(
                io::ErrorKind::UnexpectedEof,
                "the switch closed the connection",
            )),
            n => Ok(self.buffer.get(..n).unwrap_or(&[])),
        }
    }
}

/// Reads from a link that may not be there; waits for ever when it is not.
pub(crate) async fn read_some(link: &mut Option<Link>) -> io::Result<&[u8]> {
    match link {
        Some(link) => link.read().await,
        None => std::future::pending().await,
    }
}
