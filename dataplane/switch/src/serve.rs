//! Runs a switch until it is stopped: P4Runtime server, metrics, signals.

use std::io;
use std::net::SocketAddr;
use std::os::unix::fs::{DirBuilderExt, FileTypeExt, PermissionsExt};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::routing::get;
use portcullis_proto::switch::switch_service_server::SwitchServiceServer;
use sd_notify::NotifyState;
use tokio::net::{TcpListener, UnixListener};
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::watch;
use tokio_stream::wrappers::{TcpListenerStream, UnixListenerStream};
use tonic::transport::Server;

use crate::config::{Config, Listen};
use crate::engine::Engine;
use crate::report;
use crate::server::{Service, SwitchInfo};
use crate::switch::{Switch, SwitchError};

/// How often it is looked whether workers still run.
const LOOK: Duration = Duration::from_millis(500);
/// How often it is looked whether rows have ended.
const ENDS: Duration = Duration::from_millis(100);
/// How long open connections may go on when the switch stops.
const GRACE: Duration = Duration::from_secs(2);

/// Why a switch did not start, or ended.
#[derive(Debug, thiserror::Error)]
pub enum ServeError {
    /// DPDK, a port or a worker did not start.
    #[error(transparent)]
    Switch(#[from] SwitchError),
    /// Another process answers on the socket.
    #[error("{} is in use: stop the other switch, or set another --grpc", .0.display())]
    Answered(PathBuf),
    /// The path of the socket is another sort of file.
    #[error("{} is not a socket and is left alone: remove it, or set another --grpc", .0.display())]
    NotASocket(PathBuf),
    /// The operating system refuses the address or path.
    #[error("cannot listen on {place}")]
    Listen {
        /// The address or path, as configured.
        place: String,
        source: io::Error,
    },
    /// The P4Runtime server ended with an error.
    #[error("the P4Runtime server failed")]
    Server(#[from] tonic::transport::Error),
    /// The metrics server ended with an error.
    #[error("the metrics server failed")]
    Metrics(#[source] io::Error),
    /// Signal handlers cannot be installed.
    #[error("cannot install signal handlers")]
    Signals(#[source] io::Error),
    /// A worker exited, which none does by itself.
    #[error("a worker exited unexpectedly: {0}")]
    Worker(String),
}

enum Bound {
    Unix(UnixListener, PathBuf),
    Tcp(TcpListener),
}

/// Runs a switch until SIGTERM or SIGINT.
pub async fn run(config: &Config, metrics: Option<SocketAddr>) -> Result<(), ServeError> {
    // What can be refused is asked for before anything is taken.
    let bound = bind(&config.listen).await?;
    let metrics = match metrics {
        Some(address) => {
            let listener = TcpListener::bind(address).await;
            Some(listener.map_err(|source| ServeError::Listen {
                place: address.to_string(),
                source,
            })?)
        }
        None => None,
    };
    let socket = match &bound {
        Bound::Unix(_, path) => Some(path.clone()),
        Bound::Tcp(_) => None,
    };
    let result = serve(config, bound, metrics).await;
    if let Some(path) = socket {
        // Somebody may have tidied up already.
        let _gone = std::fs::remove_file(path);
    }
    result
}

async fn serve(config: &Config, bound: Bound, metrics: Option<TcpListener>) -> Result<(), ServeError> {
    let mut terminate = signal(SignalKind::terminate()).map_err(ServeError::Signals)?;
    let mut interrupt = signal(SignalKind::interrupt()).map_err(ServeError::Signals)?;
    let mut switch = Switch::start(config)?;
    let service = Service::new(Arc::clone(&switch.engine), config.device_id);
    let (stop, stopped) = watch::channel(false);
    let mut server = tokio::spawn(p4runtime(
        bound,
        service,
        SwitchInfo::server(&config.ports, Arc::clone(&switch.engine)),
        stopped.clone(),
    ));
    let mut ending = tokio::spawn(end_rows(Arc::clone(&switch.engine)));
    let (ask, mut asked) = tokio::sync::mpsc::channel::<tokio::sync::oneshot::Sender<String>>(4);
    let mut scraped = tokio::spawn(scrape(metrics, ask, stopped));
    tracing::info!(
        dpdk = switch.dpdk(),
        ports = switch.ports.len(),
        workers = config.cores.len().max(1),
        "the switch runs; it forwards nothing until it has a program"
    );
    // Without systemd nobody is told.
    let _told = sd_notify::notify(&[NotifyState::Ready]);
    let mut look = tokio::time::interval(LOOK);
    let result = loop {
        tokio::select! {
            _ = terminate.recv() => break Ok(()),
            _ = interrupt.recv() => break Ok(()),
            ended = &mut server => break ended.unwrap_or(Ok(())),
            ended = &mut scraped => break ended.unwrap_or(Ok(())),
            // It ends by a panic only, and then unlocks would stay open.
            ended = &mut ending => {
                let why = ended.err().map_or_else(String::new, |error| error.to_string());
                break Err(ServeError::Worker(format!("rows do not end any more: {why}")));
            }
            Some(answer) = asked.recv() => {
                let lines = report::ports(&switch);
                let buffers = (switch.pool.in_use(), switch.pool.capacity());
                // Who asked may have hung up.
                let _gone = answer.send(report::metrics(&switch.engine, &lines, buffers).await);
            }
            _ = look.tick() => {
                if switch.has_lost_a_worker() {
                    let why: Vec<String> = switch.stop().iter().map(ToString::to_string).collect();
                    break Err(ServeError::Worker(why.join("; ")));
                }
            }
        }
    };
    tracing::info!("the switch stops");
    // Nobody may listen any more.
    let _told = stop.send(true);
    if !server.is_finished() && tokio::time::timeout(GRACE, &mut server).await.is_err() {
        server.abort();
    }
    scraped.abort();
    ending.abort();
    for panic in switch.stop() {
        tracing::error!(%panic, "a worker had ended before it should");
    }
    drop(switch);
    result
}

/// Ends rows at their time, with or without a connected agent.
async fn end_rows(engine: Arc<Engine>) {
    let mut look = tokio::time::interval(ENDS);
    look.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        look.tick().await;
        match engine.end_rows().await {
            Ok(0) => {}
            Ok(rows) => tracing::info!(rows, "rows have ended: what unlocks opened is closed"),
            Err(refusal) => tracing::error!(
                why = refusal.why,
                "rows have ended, and not all of it could be done"
            ),
        }
    }
}

async fn p4runtime(
    bound: Bound,
    service: Arc<Service>,
    info: SwitchServiceServer<SwitchInfo>,
    mut stopped: watch::Receiver<bool>,
) -> Result<(), ServeError> {
    let router = Server::builder()
        .http2_keepalive_interval(Some(Duration::from_secs(30)))
        .add_service(service.server())
        .add_service(info);
    let end = async move {
        // The sender goes only with the whole program.
        let _gone = stopped.wait_for(|stop| *stop).await;
    };
    match bound {
        Bound::Unix(listener, _) => {
            router
                .serve_with_incoming_shutdown(UnixListenerStream::new(listener), end)
                .await?;
        }
        Bound::Tcp(listener) => {
            router
                .serve_with_incoming_shutdown(TcpListenerStream::new(listener), end)
                .await?;
        }
    }
    Ok(())
}

type Ask = tokio::sync::mpsc::Sender<tokio::sync::oneshot::Sender<String>>;

async fn scrape(
    listener: Option<TcpListener>,
    ask: Ask,
    mut stopped: watch::Receiver<bool>,
) -> Result<(), ServeError> {
    let Some(listener) = listener else {
        // The sender goes only with the whole program.
        let _gone = stopped.wait_for(|stop| *stop).await;
        return Ok(());
    };
    let answer = move || {
        let ask = ask.clone();
        async move {
            let (send, text) = tokio::sync::oneshot::channel();
            // A switch that stops answers nobody.
            let _stopping = ask.send(send).await;
            text.await.unwrap_or_default()
        }
    };
    let router = Router::new().route("/metrics", get(answer));
    axum::serve(listener, router).await.map_err(ServeError::Metrics)
}

async fn bind(listen: &Listen) -> Result<Bound, ServeError> {
    match listen {
        Listen::Tcp(address) => {
            let listener = TcpListener::bind(address).await;
            listener.map(Bound::Tcp).map_err(|source| ServeError::Listen {
                place: address.to_string(),
                source,
            })
        }
        Listen::Unix(path) => {
            clear(path)?;
            let failed = |source| ServeError::Listen {
                place: path.display().to_string(),
                source,
            };
            if let Some(folder) = path.parent().filter(|f| !f.as_os_str().is_empty() && !f.exists()) {
                let made = std::fs::DirBuilder::new()
                    .recursive(true)
                    .mode(0o700)
                    .create(folder);
                made.map_err(failed)?;
            }
            let listener = UnixListener::bind(path).map_err(failed)?;
            // Whoever reaches it may program the switch.
            std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o600)).map_err(failed)?;
            Ok(Bound::Unix(listener, path.clone()))
        }
    }
}

/// Removes a socket file on which no process answers.
fn clear(path: &Path) -> Result<(), ServeError> {
    let Ok(found) = std::fs::symlink_metadata(path) else {
        return Ok(());
    };
    if !found.file_type().is_socket() {
        return Err(ServeError::NotASocket(path.to_path_buf()));
    }
    if UnixStream::connect(path).is_ok() {
        return Err(ServeError::Answered(path.to_path_buf()));
    }
    std::fs::remove_file(path).map_err(|source| ServeError::Listen {
        place: path.display().to_string(),
        source,
    })
}
