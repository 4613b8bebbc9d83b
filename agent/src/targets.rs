//! The targets: starts their backends and follows their status.

mod kept;
mod local;

use std::path::Path;
use std::sync::Arc;

use portcullis_backend::{Footprints, TargetHandle, Unstored};
use portcullis_ovs::OvsBackend;
use portcullis_p4runtime::{
    Mapping, MappingError, P4Backend, PipelineSource, PortMatching, ProgramError, Tag, pipelines,
};
use tokio::sync::watch;
use tokio::task::JoinHandle;

use crate::config::{self, AnyTarget, P4Program};
use crate::embedded;

/// A backend that runs.
#[derive(Debug)]
pub struct Launched {
    /// The way to it.
    pub handle: TargetHandle,
    /// The target's task; it ends when it is stopped, and with the agent.
    pub task: JoinHandle<()>,
}

/// Every target, and a signal when one of them has news.
#[derive(Debug, Clone)]
pub struct Targets {
    handles: Arc<[TargetHandle]>,
    changes: watch::Receiver<()>,
}

impl Targets {
    pub fn new(handles: Vec<TargetHandle>) -> Self {
        let (news, changes) = watch::channel(());
        let news = Arc::new(news);
        for handle in &handles {
            let (mut status, news) = (handle.watch(), Arc::clone(&news));
            // Ends with the backend's task, which holds the other side.
            tokio::spawn(async move {
                while status.changed().await.is_ok() {
                    news.send_replace(());
                }
            });
        }
        Targets {
            handles: handles.into(),
            changes,
        }
    }

    /// The targets, in the order of the configuration.
    pub fn handles(&self) -> &[TargetHandle] {
        &self.handles
    }

    /// A receiver that changes when any target's status changes.
    pub fn changes(&self) -> watch::Receiver<()> {
        self.changes.clone()
    }

    /// Returns when every target holds this generation or a later one.
    pub async fn realized(&self, generation: u64) {
        let mut changes = self.changes();
        loop {
            changes.borrow_and_update();
            if self
                .handles
                .iter()
                .all(|target| target.status().applied >= generation)
            {
                return;
            }
            if changes.changed().await.is_err() {
                // The targets are stopping: what is not realized will not be now.
                std::future::pending::<()>().await;
            }
        }
    }
}

/// Why a target cannot be started.
#[derive(Debug, thiserror::Error)]
pub enum TargetError {
    /// A mapping that cannot be read.
    #[error("target {target}: cannot read the mapping {file}")]
    MappingFile {
        target: String,
        file: String,
        source: std::io::Error,
    },
    /// A certificate or key that cannot be read.
    #[error("target {target}: cannot read {file} of tls")]
    TlsFile {
        target: String,
        file: String,
        source: std::io::Error,
    },
    /// A mapping that is wrong.
    #[error("target {target}: {file}")]
    Mapping {
        target: String,
        file: String,
        source: MappingError,
    },
    #[error("target {target}")]
    Switch {
        target: String,
        source: embedded::KeepError,
    },
    /// The file that keeps what was found.
    #[error("cannot read {file}, which keeps what datapath was found")]
    DiscoveredFile { file: String, source: std::io::Error },
    /// The same, when it is no configuration.
    #[error("{file} keeps what datapath was found, and is wrong: delete it to have the agent look again")]
    Discovered {
        file: String,
        source: Box<config::ConfigError>,
    },
    /// The same, when it was changed beyond what it is for.
    #[error("{file} keeps what datapath was found, and {what}: move it to the agent's configuration")]
    Unfit { file: String, what: &'static str },
    /// The program that this binary carries.
    #[error("target {target}")]
    Program { target: String, source: ProgramError },
}

/// Reads the files that targets are configured by; starts nothing.
pub fn check(targets: &config::TargetsConfig) -> Result<(), TargetError> {
    let targets = match targets {
        config::TargetsConfig::Configured(targets) => targets,
        config::TargetsConfig::Discover(discovery) => return local::check(discovery),
    };
    for target in targets {
        if let AnyTarget::P4Runtime(target) = target {
            p4runtime(target)?;
            target
                .tls
                .as_ref()
                .map_or(Ok(()), |tls| readable(&target.name, tls))?;
        }
    }
    Ok(())
}

/// The files are read again with each connection, so that they can be renewed.
fn readable(target: &str, tls: &portcullis_p4runtime::Tls) -> Result<(), TargetError> {
    let own = tls.client.iter().flat_map(|(cert, key)| [cert, key]);
    for file in own.chain([&tls.ca]) {
        std::fs::read(file).map_err(|source| TargetError::TlsFile {
            target: target.to_string(),
            file: file.display().to_string(),
            source,
        })?;
    }
    Ok(())
}

/// Starts what the configuration names, or a search when it names nothing. A datapath that is not there yet is
/// started all the same: its session waits for it.
pub async fn start(targets: &config::TargetsConfig) -> Result<Vec<Launched>, TargetError> {
    start_with(targets, Arc::new(Unstored::default())).await
}

/// The same, with these records of where rows were written.
pub async fn start_with(
    targets: &config::TargetsConfig,
    records: Arc<dyn Footprints>,
) -> Result<Vec<Launched>, TargetError> {
    match targets {
        config::TargetsConfig::Configured(targets) => {
            // Nothing runs before everything can.
            let prepared: Vec<PreparedTarget<'_>> = targets.iter().map(prepare).collect::<Result<_, _>>()?;
            let launch = |prepared: PreparedTarget<'_>| prepared.launch(targets, &records);
            Ok(prepared.into_iter().map(launch).collect())
        }
        config::TargetsConfig::Discover(discovery) => Ok(vec![local::launch(discovery, &records)?]),
    }
}

/// A target that can be started.
enum PreparedTarget<'a> {
    Ovs(&'a portcullis_ovs::Config),
    P4Runtime(Arc<P4Backend>, Option<embedded::Supervisor>),
}

impl PreparedTarget<'_> {
    fn launch(self, all: &[AnyTarget], records: &Arc<dyn Footprints>) -> Launched {
        match self {
            PreparedTarget::Ovs(target) => launch_ovs(target, all, records),
            PreparedTarget::P4Runtime(backend, supervisor) => {
                let name = backend.config().name.clone();
                let (handle, task) = portcullis_backend::launch(&name, backend);
                let task = match supervisor {
                    None => task,
                    Some(supervisor) => tokio::spawn(supervisor.keep_while(task)),
                };
                Launched { handle, task }
            }
        }
    }
}

fn prepare(target: &AnyTarget) -> Result<PreparedTarget<'_>, TargetError> {
    match target {
        AnyTarget::Ovs(target) => Ok(PreparedTarget::Ovs(target)),
        AnyTarget::P4Runtime(target) => prepare_p4(target),
    }
}

fn prepare_p4(target: &config::P4Target) -> Result<PreparedTarget<'_>, TargetError> {
    let backend = P4Backend::new(p4runtime(target)?).map_err(|source| TargetError::Program {
        target: target.name.clone(),
        source,
    })?;
    let supervisor = target.embedded.as_ref().map(|switch| {
        embedded::Supervisor::new(&target.name, switch).map_err(|source| TargetError::Switch {
            target: target.name.clone(),
            source,
        })
    });
    Ok(PreparedTarget::P4Runtime(backend, supervisor.transpose()?))
}

/// The mapping of a file, or the description of this name, with what the target accepts.
fn mapping(target: &config::P4Target, path: &Path) -> Result<Mapping, TargetError> {
    let file = path.display().to_string();
    let text = match pipelines::source(&file) {
        Some(text) => text.to_string(),
        None => std::fs::read_to_string(path).map_err(|source| TargetError::MappingFile {
            target: target.name.clone(),
            file: file.clone(),
            source,
        })?,
    };
    let read = Mapping::from_toml(&text).and_then(|mut mapping| {
        mapping.accept_also(target.accept.iter().copied())?;
        Ok(mapping)
    });
    read.map_err(|source| TargetError::Mapping {
        target: target.name.clone(),
        file,
        source,
    })
}

fn p4runtime(target: &config::P4Target) -> Result<portcullis_p4runtime::Config, TargetError> {
    let program = match &target.program {
        P4Program::Portcullis { range: true } => PipelineSource::Own(PortMatching::Range),
        P4Program::Portcullis { range: false } => PipelineSource::Own(PortMatching::Ternary),
        P4Program::Embedded => PipelineSource::Embedded,
        P4Program::Device(None) => PipelineSource::Device(None),
        P4Program::Device(Some(path)) => PipelineSource::Device(Some(mapping(target, path)?)),
    };
    Ok(portcullis_p4runtime::Config {
        name: target.name.clone(),
        address: target.address.clone(),
        device_id: target.device_id,
        role: target.role.clone(),
        election_id: target.election_id,
        program,
        on_gap: target.on_gap,
        room: target.room,
        hardware: target.hardware,
        overwrite: target.overwrite_pipeline,
        uplinks: target.uplinks.iter().copied().collect(),
        servers: target.servers.iter().copied().collect(),
        behind: target.behind.clone(),
        tag: Tag(target.cookie),
        tls: target.tls.clone(),
        resync_interval: target.resync_interval,
    })
}

fn launch_ovs(target: &portcullis_ovs::Config, all: &[AnyTarget], records: &Arc<dyn Footprints>) -> Launched {
    let mut config = target.clone();
    config.other_tags = all
        .iter()
        .filter_map(|other| shares_bridge(target, other))
        .collect();
    let backend = OvsBackend::with_records(config, Arc::clone(records));
    let (handle, task) = portcullis_backend::launch(&target.name, backend);
    Launched { handle, task }
}

/// The tag of another target that may be on the same bridge.
fn shares_bridge(target: &portcullis_ovs::Config, other: &AnyTarget) -> Option<u16> {
    let AnyTarget::Ovs(other) = other else { return None };
    let bridges = target.bridge.as_ref().zip(other.bridge.as_ref());
    let apart = other.ovsdb != target.ovsdb || bridges.is_some_and(|(a, b)| a != b);
    (other.name != target.name && !apart).then_some(other.cookie)
}
