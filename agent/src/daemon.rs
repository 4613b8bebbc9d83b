//! The agent: starts its parts in order, supervises them, stops them in order.

use std::sync::Arc;
use std::time::Duration;

use portcullis_backend::{Footprints, TargetHandle};
use portcullis_policy::text::with_causes;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tokio_stream::StreamExt;
use tokio_stream::wrappers::UnixListenerStream;
use tokio_util::sync::CancellationToken;
use tonic::service::Routes;
use tonic::transport::server::TcpIncoming;

use crate::access::{self, Access, AccessError, Denial, Summaries};
use crate::api::{self, Accept, Api, Certificates, ListenError, Listeners, SocketFile};
use crate::config::{Config, Limits};
use crate::engine::Engine;
use crate::lifecycle::{Cause, Ended, Part, Parts, Signals, manager};
use crate::metrics::{self, MetricsError};
use crate::promotion;
use crate::reading::Reading;
use crate::store::{Entry, FootprintRecords, Store, StoreError};
use crate::targets::{self, Launched, Targets};
use crate::unlocks::inspect;

/// How long targets may take to end.
const TARGETS_LIMIT: Duration = Duration::from_secs(5);
/// How long the engine may take to end: changes that wait already are made first.
const ENGINE_LIMIT: Duration = Duration::from_secs(5);
/// Silence after which the kernel asks whether a TCP peer is still there.
const TCP_KEEPALIVE: Duration = Duration::from_secs(60);
/// How often metrics and status are refreshed when nothing happens.
const REFRESH: Duration = Duration::from_secs(5);
/// Refusals that wait to be recorded; further ones are counted.
const DENIALS: usize = 1024;
/// Refusals are logged no faster than one each time.
const DENIAL_PAUSE: Duration = Duration::from_millis(20);
/// How often it is looked whether a minute of refusals is over.
const SUMMARY_LOOK: Duration = Duration::from_secs(1);

/// How often the head of the audit log is logged.
const DAY: Duration = Duration::from_secs(86_400);

/// Why the agent did not start, or ended.
#[derive(Debug, thiserror::Error)]
pub enum AgentError {
    #[error("the policy cannot be loaded")]
    Store(#[from] StoreError),
    #[error("the API cannot be served")]
    Listen(#[from] ListenError),
    /// The roles, tokens and keys of callers cannot be loaded.
    #[error("cannot load the [access] configuration")]
    Access(#[from] AccessError),
    #[error("the metrics cannot be served")]
    Metrics(#[from] MetricsError),
    #[error("a target cannot be started")]
    Target(#[from] targets::TargetError),
    /// SIGTERM and SIGINT cannot be handled.
    #[error("signals cannot be taken over")]
    Signals(#[source] std::io::Error),
    /// A task of the start was lost.
    #[error("the start was interrupted")]
    Interrupted(#[from] tokio::task::JoinError),
    /// A part ended by itself.
    #[error("{part} exited unexpectedly")]
    Ended { part: Part },
    #[error("{part} failed")]
    Failed {
        part: Part,
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// Parts did not end in time.
    #[error("cut off while stopping: {0}")]
    CutOff(String),
}

/// Reads the files that a configuration names, as a start does: mappings, certificates, keys of callers.
pub fn check(config: &Config) -> Result<(), AgentError> {
    targets::check(&config.targets)?;
    let (denial_log, _denials) = access::denial_log(DENIALS);
    Access::new(config.access.as_ref(), denial_log)?;
    if let Some(tls) = config.api.tcp.as_ref().and_then(|tcp| tcp.tls.as_ref()) {
        Certificates::open(tls).map_err(ListenError::from)?;
    }
    Ok(())
}

/// Runs the agent until a signal or a failure ends it. What goes wrong is logged as it happens.
pub async fn run(config: Config) -> Result<(), AgentError> {
    let mut signals = Signals::take().map_err(AgentError::Signals)?;
    let records = Arc::new(FootprintRecords::default());
    let launched = targets::start_with(&config.targets, Arc::clone(&records) as Arc<dyn Footprints>)
        .await
        .map_err(AgentError::from)
        .inspect_err(log)?;
    let mut agent = Agent::start_with(config, launched, &records)
        .await
        .inspect_err(log)?;
    let failure = tokio::select! {
        signal = signals.next() => {
            tracing::info!(signal, "stopping");
            None
        }
        failure = agent.failed() => Some(failure),
    };
    failure.iter().for_each(log);
    let stopped = tokio::select! {
        stopped = agent.stop() => stopped,
        signal = signals.next() => Err(AgentError::CutOff(format!("{signal} came a second time"))),
    }
    .inspect_err(log);
    failure.map_or(stopped, Err)
}

fn log(error: &AgentError) {
    tracing::error!("{}", with_causes(error));
}

#[derive(Debug)]
pub struct Agent {
    engine: Engine,
    targets: Vec<TargetHandle>,
    parts: Parts,
    health: Vec<tonic_health::server::HealthReporter>,
    stopping: CancellationToken,
    drain: Duration,
    socket: SocketFile,
    tcp: Option<std::net::SocketAddr>,
    followers: Vec<JoinHandle<()>>,
}

impl Agent {
    /// As [`Agent::start_with`], for targets that keep their records elsewhere.
    pub async fn start(config: Config, launched: Vec<Launched>) -> Result<Self, AgentError> {
        Self::start_with(config, launched, &FootprintRecords::default()).await
    }

    /// Loads the policy, hands it to targets, and serves. Everything that can be refused is refused before
    /// the first call is accepted. `records` are those of the targets; they wait for the database.
    pub async fn start_with(
        config: Config,
        launched: Vec<Launched>,
        records: &FootprintRecords,
    ) -> Result<Self, AgentError> {
        let mut parts = Parts::default();
        let mut handles = Vec::with_capacity(launched.len());
        for Launched { handle, task } in launched {
            parts.add(Part::Target(handle.name().to_string()), task);
            handles.push(handle);
        }
        let (denial_log, denials) = access::denial_log(DENIALS);
        let access = Access::new(config.access.as_ref(), denial_log)?.limited(&config.limits);
        let hangup = signal(SignalKind::hangup()).map_err(AgentError::Signals)?;
        let exporter = config.metrics.map(metrics::install).transpose()?;
        let (file, keep) = (config.store.clone(), config.audit.clone());
        let (mut store, loaded) = tokio::task::spawn_blocking(move || Store::open_or_refuse(&file)).await??;
        store.keep(keep);
        match store.problem() {
            None => records.opened(store.file()),
            Some(problem) => records.refused(problem),
        }
        // Listening comes before the engine: a second agent shall not touch any target.
        let listeners = api::listen(&config.api).await?;
        let (engine, worker) = start_engine(
            store,
            loaded,
            handles.clone(),
            config.limits,
            tenant_label(&config).to_string(),
        )
        .await?;
        parts.add(Part::Engine, async move {
            worker.await.map_err(Cause::from)?.map_err(Cause::from)
        });
        let stopping = CancellationToken::new();
        let targets = Targets::new(handles.clone());
        let mut followers = follow(&engine, &targets, exporter.is_some());
        let promote = promotion::promote(engine.clone(), targets.clone(), config.count_every);
        followers.push(tokio::spawn(promote));
        followers.push(tokio::spawn(log_denials(denials, engine.clone())));
        followers.push(tokio::spawn(log_heads(engine.clone())));
        let checker = portcullis_checks::Checker::new(config.checks.clone());
        parts.add(Part::Unlocks, {
            let (engine, stopping) = (engine.clone(), stopping.clone());
            async move {
                inspect(engine, checker, stopping).await;
                Ok::<(), Cause>(())
            }
        });
        if let Some(exporter) = exporter {
            parts.add(Part::Metrics, async move {
                exporter.await.map_err(|e| format!("{e:?}"))
            });
        }
        let api = Api::new(
            engine.clone(),
            targets,
            config.limits,
            tenant_label(&config),
            access.clone(),
            stopping.clone(),
        );
        let (reporter, health) = tonic_health::server::health_reporter();
        let routes = api.routes(|routes| *routes = std::mem::take(routes).add_service(health.clone()))?;
        set_health(&reporter, tonic_health::ServingStatus::Serving).await;
        let Listeners {
            unix,
            file: socket,
            tcp,
        } = listeners;
        let certificates = tcp.as_ref().and_then(|(_, tls)| tls.clone());
        if let Some(certificates) = &certificates {
            access.trust(certificates.trust());
            followers.push(tokio::spawn(Arc::clone(certificates).follow(access.clone())));
        }
        followers.push(tokio::spawn(access.clone().follow_keys()));
        let reading = Reading::new(config.clone(), access.clone());
        followers.push(tokio::spawn(hung_up(hangup, certificates, reading)));
        let tcp_address = tcp.as_ref().and_then(|(listener, _)| listener.local_addr().ok());
        serve(&mut parts, &config, &access, routes, unix, tcp, &stopping);
        let generation = engine.read(|state| state.generation());
        tracing::info!(
            socket = %config.api.socket.display(),
            tcp = tcp_address.map(|a| a.to_string()),
            store = %config.store.display(),
            generation,
            targets = handles.len(),
            "serving"
        );
        if generation == 0 {
            tracing::info!("no policy was ever applied: targets are left as they are until one is");
        }
        manager::ready(&status_line(&engine, &handles));
        Ok(Agent {
            engine,
            targets: handles,
            parts,
            health: vec![reporter],
            stopping,
            drain: config.api.drain,
            socket,
            tcp: tcp_address,
            followers,
        })
    }

    /// Where TCP is served, when it is.
    pub fn tcp(&self) -> Option<std::net::SocketAddr> {
        self.tcp
    }

    /// Returns when a part has ended by itself, which none may.
    pub async fn failed(&mut self) -> AgentError {
        let Ended { part, result } = self.parts.ended().await;
        match result {
            Ok(()) => AgentError::Ended { part },
            Err(source) => AgentError::Failed { part, source },
        }
    }

    /// Stops: no new calls, calls finish, targets end, the store closes. Rows stay where they are.
    pub async fn stop(mut self) -> Result<(), AgentError> {
        manager::stopping("stopping; the rows on the targets stay");
        for reporter in &self.health {
            set_health(reporter, tonic_health::ServingStatus::NotServing).await;
        }
        self.stopping.cancel();
        let mut late = self
            .parts
            .drain(|part| matches!(part, Part::Server(_) | Part::Unlocks), self.drain)
            .await;
        self.followers.iter().for_each(JoinHandle::abort);
        self.targets.iter().for_each(TargetHandle::stop);
        late.extend(
            self.parts
                .drain(|part| matches!(part, Part::Target(_)), TARGETS_LIMIT)
                .await,
        );
        let ended = async {
            self.engine.stop();
            self.parts.drain(|part| *part == Part::Engine, ENGINE_LIMIT).await
        };
        late.extend(
            tokio::time::timeout(ENGINE_LIMIT * 2, ended)
                .await
                .unwrap_or_else(|_| vec![Part::Engine]),
        );
        drop(self.socket);
        if late.is_empty() {
            tracing::info!("stopped; the rows on the targets stay in force");
            return Ok(());
        }
        let late: Vec<String> = late.iter().map(ToString::to_string).collect();
        Err(AgentError::CutOff(late.join(", ")))
    }
}

/// The label that names an endpoint's tenant.
fn tenant_label(config: &Config) -> &str {
    let set = config.access.as_ref().map(|access| access.tenant_label.as_str());
    set.unwrap_or(crate::config::TENANT_LABEL)
}

async fn start_engine(
    store: Store,
    loaded: crate::store::Loaded,
    targets: Vec<TargetHandle>,
    limits: Limits,
    tenant_label: String,
) -> Result<(Engine, JoinHandle<Result<(), StoreError>>), AgentError> {
    // Resolving a large policy takes a while; the runtime is needed inside to start the worker.
    let runtime = tokio::runtime::Handle::current();
    let started = tokio::task::spawn_blocking(move || {
        let _inside = runtime.enter();
        Engine::start(store, loaded, targets, limits, crate::clock::now, &tenant_label)
    });
    Ok(started.await??)
}

fn serve(
    parts: &mut Parts,
    config: &Config,
    access: &Access,
    routes: Routes,
    unix: tokio::net::UnixListener,
    tcp: Option<(tokio::net::TcpListener, Option<Arc<Certificates>>)>,
    stopping: &CancellationToken,
) {
    let end = || stopping.clone().cancelled_owned();
    let server = || api::server(&config.limits, access.clone()).add_routes(routes.clone());
    let known = access.clone();
    let incoming = Accept::new(UnixListenerStream::new(unix)).filter_map(move |accepted| {
        let io = match accepted {
            Ok(io) => io,
            Err(error) => return Some(Err(error)),
        };
        let cred = io.peer_cred().ok();
        // A peer without credentials counts as one user.
        let place = known.door().admit_user(cred.map_or(u32::MAX, |cred| cred.uid()));
        admitted(place).map(|place| Ok(known.connection(io, known.on_socket(cred), place, known.changes())))
    });
    parts.add(
        Part::Server(config.api.socket.display().to_string()),
        server().serve_with_incoming_shutdown(incoming, end()),
    );
    let Some((listener, tls)) = tcp else { return };
    let address = listener
        .local_addr()
        .map_or_else(|_| "TCP".to_string(), |a| a.to_string());
    let incoming = TcpIncoming::from(listener)
        .with_nodelay(Some(true))
        .with_keepalive(Some(TCP_KEEPALIVE));
    let part = Part::Server(address);
    if let Some(certificates) = tls {
        let incoming = api::incoming(incoming, certificates, access.clone());
        parts.add(part, server().serve_with_incoming_shutdown(incoming, end()));
        return;
    }
    let known = access.clone();
    let incoming = Accept::new(incoming).filter_map(move |accepted| {
        let io = match accepted {
            Ok(io) => io,
            Err(error) => return Some(Err(error)),
        };
        let from = io.peer_addr().ok();
        let place = from.and_then(|from| known.door().admit_address(from.ip()));
        admitted(place).map(|place| Ok(known.connection(io, known.on_tcp(from), place, known.changes())))
    });
    parts.add(part, server().serve_with_incoming_shutdown(incoming, end()));
}

/// A place for a connection; one that there is none for is counted, and closed.
fn admitted(place: Option<access::ConnectionSlot>) -> Option<access::ConnectionSlot> {
    if place.is_none() {
        metrics::connection_refused();
    }
    place
}

/// Reads certificates and `[access]` again at SIGHUP, which ends nothing but what is not allowed any more.
async fn hung_up(mut hangup: Signal, certificates: Option<Arc<Certificates>>, reading: Reading) {
    let reading = Arc::new(reading);
    while hangup.recv().await.is_some() {
        if let Some(certificates) = &certificates {
            certificates.look();
        }
        let reading = Arc::clone(&reading);
        // The files may be on a network.
        if let Err(error) = tokio::task::spawn_blocking(move || reading.again()).await {
            tracing::error!(%error, "the configuration was not read again");
        }
    }
}

/// Logs where the audit log ends, at the start and every day: kept elsewhere, it proves later that nothing was cut off.
async fn log_heads(engine: Engine) {
    let mut days = tokio::time::interval(DAY);
    loop {
        days.tick().await;
        let head = engine.audited();
        tracing::info!(%head, "the audit log ends here; `portcullis audit verify --expect` checks that it still has this entry");
    }
}

/// Logs who was refused what, also in the audit log: the first refusals of a caller as they come, the rest of a minute as one.
async fn log_denials(mut denials: mpsc::Receiver<Denial>, engine: Engine) {
    let mut summaries = Summaries::default();
    let mut looks = tokio::time::interval(SUMMARY_LOOK);
    loop {
        let told = tokio::select! {
            denial = denials.recv() => match denial {
                Some(denial) => summaries.take(denial, engine.now().wall_ms),
                None => return,
            },
            _ = looks.tick() => summaries.turn(engine.now().wall_ms),
        };
        for denial in told {
            log_denial(denial, &engine);
            tokio::time::sleep(DENIAL_PAUSE).await;
        }
    }
}

fn log_denial(denial: Denial, engine: &Engine) {
    let Denial {
        caller,
        role,
        method,
        why,
        missed,
        count,
    } = denial;
    let role = role.map_or("none", access::Role::as_str);
    tracing::warn!(caller, role, method, why, missed, count, "refused");
    let entry = Entry {
        at_ms: engine.now().wall_ms,
        actor: caller,
        role: role.to_string(),
        action: "access.denied".to_string(),
        subject: method,
        detail: serde_json::json!({"why": why, "missed": missed, "count": count}).to_string(),
        generation: engine.read(|state| state.generation()),
        evidence: None,
    };
    if !engine.note(entry) {
        metrics::denial_dropped();
    }
}

async fn set_health(reporter: &tonic_health::server::HealthReporter, status: tonic_health::ServingStatus) {
    use portcullis_proto::v1;
    let services = [
        "",
        v1::baseline_service_server::SERVICE_NAME,
        v1::profile_service_server::SERVICE_NAME,
        v1::endpoint_service_server::SERVICE_NAME,
        v1::policy_service_server::SERVICE_NAME,
        v1::target_service_server::SERVICE_NAME,
        v1::unlock_service_server::SERVICE_NAME,
        v1::bypass_service_server::SERVICE_NAME,
        v1::audit_service_server::SERVICE_NAME,
    ];
    for service in services {
        reporter.set_service_status(service, status).await;
    }
}

fn status_line(engine: &Engine, targets: &[TargetHandle]) -> String {
    let generation = engine.read(|state| state.generation());
    let target = |t: &TargetHandle| {
        let status = t.status();
        format!("{} {} at {}", t.name(), status.state, status.applied)
    };
    let told: Vec<String> = targets.iter().map(target).collect();
    if told.is_empty() {
        return format!("generation {generation}; no target");
    }
    format!("generation {generation}; {}", told.join(", "))
}

/// Tasks that only tell others how things stand; the agent does without them while it stops.
fn follow(engine: &Engine, targets: &Targets, measured: bool) -> Vec<JoinHandle<()>> {
    let mut followers = vec![tokio::spawn(report(engine.clone(), targets.clone(), measured))];
    if let Some(period) = manager::watchdog() {
        let engine = engine.clone();
        followers.push(tokio::spawn(async move {
            let mut ticks = tokio::time::interval(period / 3);
            loop {
                ticks.tick().await;
                // An engine that makes no more changes is not alive: the manager shall start the agent again.
                if engine.ping().await {
                    manager::alive();
                }
            }
        }));
    }
    followers
}

fn policy_size(engine: &Engine) -> metrics::PolicySize {
    let base = engine.read(|state| state.base());
    metrics::PolicySize {
        generation: base.generation,
        profiles: base.document.profiles.len(),
        endpoints: base.document.endpoints.len(),
        classes: base.intent.classes.len(),
        bypasses: base.ledger.bypasses().len(),
    }
}

async fn report(engine: Engine, targets: Targets, measured: bool) {
    let mut observer = metrics::Observer::default();
    let mut changes = targets.changes();
    let mut line = String::new();
    loop {
        if measured {
            observer.observe(&policy_size(&engine), targets.handles());
        }
        let now = status_line(&engine, targets.handles());
        if now != line {
            manager::status(&now);
            line = now;
        }
        // Not more often than this, however much changes.
        tokio::time::sleep(Duration::from_millis(200)).await;
        let _ = tokio::time::timeout(REFRESH, async {
            if changes.changed().await.is_err() {
                std::future::pending::<()>().await;
            }
        })
        .await;
    }
}
