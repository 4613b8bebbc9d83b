//! Listeners of the API: the Unix socket, and TCP with TLS.

use std::io;
use std::net::SocketAddr;
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt, chown};
use std::os::unix::net::{UnixListener as StdUnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use tokio::net::{TcpListener, UnixListener};
use tonic::transport::Server;
use tower::layer::util::{Identity as NoLayer, Stack};

use super::Calls;
use super::tls::{Certificates, TlsError};
use crate::access::Access;
use crate::config;

/// Silence after which a TCP client is asked whether it is still there.
const KEEPALIVE: Duration = Duration::from_secs(30);

/// Why the API is not served.
#[derive(Debug, thiserror::Error)]
pub enum ListenError {
    /// Another agent is there.
    #[error("something answers on {} already: stop the other agent, or set another [api] socket", .0.display())]
    Answered(PathBuf),
    /// Something that is not a socket is in the way.
    #[error("{} is not a socket and is left alone: remove it, or set another [api] socket", .0.display())]
    NotASocket(PathBuf),
    /// The socket cannot be made.
    #[error("cannot listen on {}; its folder must exist and belong to this user", path.display())]
    Socket { path: PathBuf, source: io::Error },
    /// There is no such group.
    #[error("there is no group `{0}`: create it, or change api.socket_group")]
    NoGroup(String),
    /// TCP cannot be listened on.
    #[error("cannot listen on {address}; set another api.listen")]
    Tcp { address: SocketAddr, source: io::Error },
    /// Certificates or keys cannot be used.
    #[error(transparent)]
    Tls(#[from] TlsError),
    /// The API's description is broken: a bug.
    #[error("the API cannot describe itself")]
    Reflection(#[source] tonic_reflection::server::Error),
}

/// The socket's file; dropping it removes it, if it is still the same.
#[derive(Debug)]
pub struct SocketFile {
    path: PathBuf,
    inode: u64,
}

impl Drop for SocketFile {
    fn drop(&mut self) {
        if std::fs::symlink_metadata(&self.path).is_ok_and(|found| found.ino() == self.inode)
            && let Err(error) = std::fs::remove_file(&self.path)
        {
            tracing::warn!(socket = %self.path.display(), %error, "the socket's file stays behind");
        }
    }
}

/// Listening, not yet serving.
#[derive(Debug)]
pub struct Listeners {
    pub unix: UnixListener,
    pub file: SocketFile,
    /// TCP with its TLS, when wanted.
    pub tcp: Option<(TcpListener, Option<Arc<Certificates>>)>,
}

/// Listens where the configuration says.
pub async fn listen(api: &config::ApiConfig) -> Result<Listeners, ListenError> {
    let (unix, file) = unix(api)?;
    let tcp = match &api.tcp {
        None => None,
        Some(tcp) => {
            let tls = tcp
                .tls
                .as_ref()
                .map(Certificates::open)
                .transpose()?
                .map(Arc::new);
            let failed = |source| ListenError::Tcp {
                address: tcp.listen,
                source,
            };
            Some((TcpListener::bind(tcp.listen).await.map_err(failed)?, tls))
        }
    };
    Ok(Listeners { unix, file, tcp })
}

/// A server with the settings of every listener.
pub fn server(limits: &config::Limits, access: Access) -> Server<Stack<Access, Stack<Calls, NoLayer>>> {
    Server::builder()
        .concurrency_limit_per_connection(limits.calls_per_connection)
        .max_concurrent_streams(u32::try_from(limits.calls_per_connection).unwrap_or(u32::MAX))
        .http2_keepalive_interval(Some(KEEPALIVE))
        .http2_keepalive_timeout(Some(KEEPALIVE))
        .layer(Calls::new())
        .layer(access)
}

fn unix(api: &config::ApiConfig) -> Result<(UnixListener, SocketFile), ListenError> {
    let path = &api.socket;
    let failed = |source| ListenError::Socket {
        path: path.clone(),
        source,
    };
    make_room(path)?;
    // Made under another name and moved when its mode is right: nobody can connect before.
    let mut name = path.as_os_str().to_os_string();
    name.push(".new");
    let fresh = PathBuf::from(name);
    match std::fs::remove_file(&fresh) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(failed(error)),
        _ => {}
    }
    let listener = StdUnixListener::bind(&fresh).map_err(failed)?;
    std::fs::set_permissions(&fresh, std::fs::Permissions::from_mode(api.socket_mode)).map_err(failed)?;
    if let Some(group) = &api.socket_group {
        chown(&fresh, None, Some(group_id(group)?)).map_err(failed)?;
    }
    let inode = std::fs::symlink_metadata(&fresh).map_err(failed)?.ino();
    std::fs::rename(&fresh, path).map_err(failed)?;
    listener.set_nonblocking(true).map_err(failed)?;
    let listener = UnixListener::from_std(listener).map_err(failed)?;
    Ok((
        listener,
        SocketFile {
            path: path.clone(),
            inode,
        },
    ))
}

/// Removes what a killed agent left behind, and nothing else.
fn make_room(path: &Path) -> Result<(), ListenError> {
    let failed = |source| ListenError::Socket {
        path: path.to_path_buf(),
        source,
    };
    let found = match std::fs::symlink_metadata(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        other => other.map_err(failed)?,
    };
    if !found.file_type().is_socket() {
        return Err(ListenError::NotASocket(path.to_path_buf()));
    }
    match UnixStream::connect(path) {
        Ok(_) => Err(ListenError::Answered(path.to_path_buf())),
        Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => {
            std::fs::remove_file(path).map_err(failed)
        }
        Err(error) => Err(failed(error)),
    }
}

fn group_id(group: &str) -> Result<u32, ListenError> {
    if let Ok(number) = group.parse() {
        return Ok(number);
    }
    let groups = std::fs::read_to_string("/etc/group").unwrap_or_default();
    let id = |line: &str| {
        let mut fields = line.split(':');
        if fields.next()? != group {
            return None;
        }
        fields.nth(1)?.parse().ok()
    };
    groups
        .lines()
        .find_map(id)
        .ok_or_else(|| ListenError::NoGroup(group.to_string()))
}
