//! The target of an agent without a `[[target]]`: looks until there is one datapath to program, and keeps which it was.
//!
//! What is found first decides, for this start and all later ones: the only datapath, if its uplinks are known, becomes the target.
//! Where there are several, none does until a person says which. Later arrivals are logged and nothing else.

use std::collections::BTreeSet;
use std::io::{self, Write};
use std::path::Path;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use async_trait::async_trait;
use portcullis_backend::{
    Backend, Footprints, Gap, OnGap, Place, Query, QueryError, SessionState, TargetContext, TargetStatus,
};
use portcullis_compiler::{Class, CompileError, EndpointIntent, Intent};
use portcullis_discovery::{Datapath, Decision, LOCAL, datapaths, decide, look};
use portcullis_ovs::OvsBackend;
use portcullis_policy::text::with_causes;
use tokio::sync::watch;
use tokio::task::JoinSet;

use super::{Launched, PreparedTarget, TargetError, prepare};
use crate::config::{self, AnyTarget, Discovery, TargetsConfig};

/// Time between looks while there is no datapath to program.
const SEARCH: Duration = Duration::from_secs(2);
/// Time between looks afterwards, which only log what comes and goes.
const WATCH: Duration = Duration::from_secs(60);

/// What earlier looks have decided.
#[derive(Debug)]
enum Kept {
    /// Nothing: there was no datapath, or it was not clear what it is for.
    Undecided,
    /// This target is programmed.
    Target(Box<AnyTarget>),
    /// There were several, and none is programmed.
    Several,
}

/// Reads what is kept of earlier starts.
fn kept(file: &Path) -> Result<Kept, TargetError> {
    let text = match std::fs::read_to_string(file) {
        Ok(text) => text,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Kept::Undecided),
        Err(source) => {
            return Err(TargetError::DiscoveredFile {
                file: file.display().to_string(),
                source,
            });
        }
    };
    let wrong = |source: config::ConfigError| TargetError::Discovered {
        file: file.display().to_string(),
        source: Box::new(source),
    };
    match config::parse(file, &text).map_err(wrong)?.targets {
        TargetsConfig::Discover(_) => Ok(Kept::Several),
        TargetsConfig::Configured(mut targets) => match (targets.pop(), targets.is_empty()) {
            (Some(AnyTarget::P4Runtime(target)), true) if target.embedded.is_some() => {
                Err(unfit(file, "sets `ports` of an embedded switch"))
            }
            (Some(target), true) => Ok(Kept::Target(Box::new(target))),
            _ => Err(unfit(file, "has several [[target]]")),
        },
    }
}

fn unfit(file: &Path, what: &'static str) -> TargetError {
    TargetError::Unfit {
        file: file.display().to_string(),
        what,
    }
}

/// Reads the file, as a start does.
pub(super) fn check(discovery: &Discovery) -> Result<(), TargetError> {
    kept(&discovery.file).map(drop)
}

/// Starts the target, whether or not its datapath is known.
pub(super) fn launch(discovery: &Discovery, records: &Arc<dyn Footprints>) -> Result<Launched, TargetError> {
    let kept = kept(&discovery.file)?;
    let local = LocalTarget {
        discovery: discovery.clone(),
        records: Arc::clone(records),
        were_several: matches!(kept, Kept::Several),
        backend: OnceLock::new(),
    };
    let name = match kept {
        Kept::Undecided | Kept::Several => LOCAL.to_string(),
        Kept::Target(target) => {
            let name = target.name().to_string();
            tracing::info!(
                target = name,
                file = %discovery.file.display(),
                "programming the datapath that was found before; without the file the agent looks again"
            );
            let backend = local.prepare(&target)?;
            local.backend.get_or_init(|| backend);
            name
        }
    };
    let (handle, task) = portcullis_backend::launch(&name, Arc::new(local));
    Ok(Launched { handle, task })
}

/// A datapath of this machine, or the place where it will be.
struct LocalTarget {
    discovery: Discovery,
    records: Arc<dyn Footprints>,
    /// Whether several datapaths were found at an earlier start.
    were_several: bool,
    /// Set when there is one to program, and never again.
    backend: OnceLock<Arc<dyn Backend>>,
}

impl LocalTarget {
    fn prepare(&self, target: &AnyTarget) -> Result<Arc<dyn Backend>, TargetError> {
        Ok(match prepare(target)? {
            PreparedTarget::Ovs(config) => {
                let mut config = config.clone();
                config.allow_interruption = self.discovery.allow_interruption;
                OvsBackend::with_records(config, Arc::clone(&self.records))
            }
            PreparedTarget::P4Runtime(backend, _) => backend,
        })
    }

    /// Keeps a datapath as the one to program, and makes the backend for it from what is kept.
    fn adopt(&self, datapath: &Datapath) -> Result<Arc<dyn Backend>, AdoptError> {
        let section = datapath.section.as_ref().ok_or(AdoptError::Unusable)?;
        let text = format!(
            "# Written by the Portcullis agent, which has no [[target]] in its configuration: it found\n# {}\n# as the only datapath \
             of this machine, and programs it, whether or not it is there. To have the agent look again, stop it and delete\n# this \
             file; to change a setting, move the section to the agent's configuration.\n{}",
            datapath.title(),
            section.toml(LOCAL)?
        );
        write(&self.discovery.file, &text)?;
        match kept(&self.discovery.file)? {
            Kept::Target(target) => Ok(self.prepare(&target)?),
            Kept::Undecided | Kept::Several => Err(AdoptError::Unusable),
        }
    }

    /// Keeps that there were several, so that none is programmed when the others are away.
    fn hold(&self, several: &[&Datapath]) -> io::Result<()> {
        let list: String = several
            .iter()
            .map(|one| format!("#   {}\n", one.title()))
            .collect();
        let text = format!(
            "# Written by the Portcullis agent, which has no [[target]] in its configuration: it found several datapaths\n{list}# and \
             programs none of them. Add a [[target]] to its configuration (`portcullis discover` prints one for each), or stop the\n\
             # agent and delete this file to have it look again.\n"
        );
        write(&self.discovery.file, &text)
    }
}

#[derive(Debug, thiserror::Error)]
enum AdoptError {
    #[error("cannot keep it")]
    Write(#[from] io::Error),
    #[error("cannot write its settings")]
    Toml(#[from] toml::ser::Error),
    #[error(transparent)]
    Target(#[from] TargetError),
    #[error("it has no settings")]
    Unusable,
}

/// Writes a file that is whole or not there.
fn write(file: &Path, text: &str) -> io::Result<()> {
    let new = file.with_extension("toml.new");
    let mut written = std::fs::File::create(&new)?;
    written.write_all(text.as_bytes())?;
    written.sync_all()?;
    std::fs::rename(&new, file)
}

/// Looks for ever, and logs what comes and goes.
async fn lookout(target: Arc<LocalTarget>, seen: watch::Sender<Option<Vec<Datapath>>>) {
    let mut known = BTreeSet::new();
    loop {
        let findings = look(&target.discovery.places).await;
        let found = datapaths(&findings);
        let titles: BTreeSet<String> = found.iter().map(Datapath::title).collect();
        for datapath in found.iter().filter(|d| !known.contains(&d.title())) {
            tracing::info!(holds = datapath.holds, versions = ?datapath.versions, "found {}", datapath.title());
        }
        for gone in known.difference(&titles) {
            tracing::warn!("{gone} is gone");
        }
        known = titles;
        seen.send_replace(Some(found));
        let pause = match target.backend.get() {
            None => SEARCH,
            Some(_) => WATCH,
        };
        tokio::time::sleep(pause).await;
    }
}

impl LocalTarget {
    /// Waits for a datapath to program; `None` when the target is stopped before.
    async fn search(
        &self,
        context: &mut TargetContext,
        mut seen: watch::Receiver<Option<Vec<Datapath>>>,
    ) -> Option<Arc<dyn Backend>> {
        // Not the context's own: its backend has to see the newest intent as new.
        let mut intents = context.intents.clone();
        let mut is_held = self.were_several;
        let mut detail = "looking for a datapath on this machine".to_string();
        loop {
            publish(context, &detail);
            tokio::select! {
                changed = context.stop.changed() => {
                    if changed.is_err() || *context.stop.borrow() {
                        return None;
                    }
                }
                changed = intents.changed() => changed.ok()?,
                query = context.queries.recv() => refuse(query?),
                changed = seen.changed() => {
                    changed.ok()?;
                    let found = seen.borrow_and_update().clone().unwrap_or_default();
                    match self.decide(&found, &mut is_held) {
                        Ok(backend) => return Some(backend),
                        Err(why) if why == detail => {}
                        Err(why) => {
                            tracing::warn!(target = LOCAL, "{why}");
                            detail = why;
                        }
                    }
                }
            }
        }
    }

    /// The backend of what is to be programmed, or in words why there is none.
    fn decide(&self, found: &[Datapath], is_held: &mut bool) -> Result<Arc<dyn Backend>, String> {
        let file = self.discovery.file.display();
        if *is_held {
            return Err(format!(
                "several datapaths were found and none is programmed: add a [[target]] to the configuration, see `portcullis \
                 discover`; or delete {file} and restart the agent to have it look again"
            ));
        }
        match decide(found) {
            Decision::Nothing => Err(format!(
                "no datapath on this machine, looking again every {} s at {}, {}; `portcullis discover` shows what is there",
                SEARCH.as_secs(),
                self.discovery.places.ovsdb,
                self.discovery.places.servers.join(", ")
            )),
            Decision::Unclear(one, why) => Err(format!(
                "found {}, which is not programmed without a [[target]]: {why}; see `portcullis discover`",
                one.title()
            )),
            Decision::Several(several) => {
                let list: Vec<String> = several.iter().map(|one| one.title()).collect();
                let list = list.join("; ");
                if let Err(error) = self.hold(&several) {
                    return Err(format!(
                        "several datapaths were found and none is programmed: {list}; cannot write {file}: {error}"
                    ));
                }
                *is_held = true;
                self.decide(found, is_held)
            }
            Decision::Program(one) => match self.adopt(one) {
                Ok(backend) => {
                    tracing::info!(%file, "programming {}, the only datapath of this machine", one.title());
                    Ok(backend)
                }
                Err(error) => {
                    let why = with_causes(&error);
                    Err(format!(
                        "found {}, and cannot program it: {why} ({file})",
                        one.title()
                    ))
                }
            },
        }
    }
}

fn publish(context: &TargetContext, detail: &str) {
    let wanted = context
        .intents
        .borrow()
        .as_ref()
        .map_or(0, |intent| intent.generation);
    let now = TargetStatus {
        state: SessionState::Disconnected,
        detail: detail.to_string(),
        wanted,
        ..TargetStatus::default()
    };
    context.status.send_if_modified(|published| {
        let news = **published != now;
        if news {
            *published = Arc::new(now);
        }
        news
    });
}

fn refuse(query: Query) {
    let why = || QueryError::NotReady {
        target: LOCAL.to_string(),
        state: SessionState::Disconnected,
    };
    // The caller that asked may be gone, which is no error.
    match query {
        Query::Plan(_, answer) => drop(answer.send(Err(why()))),
        Query::Explain(_, answer) => drop(answer.send(Err(why()))),
        Query::Hits(answer) => drop(answer.send(Err(why()))),
    }
}

#[async_trait]
impl Backend for LocalTarget {
    fn kind(&self) -> &'static str {
        self.backend.get().map_or("none", |backend| backend.kind())
    }

    fn check(&self, intent: &Intent) -> Result<(), CompileError> {
        self.backend.get().map_or(Ok(()), |backend| backend.check(intent))
    }

    fn edits(&self, old: &Class, new: &Class) -> bool {
        self.backend.get().is_some_and(|backend| backend.edits(old, new))
    }

    fn rows(&self, class: &Class) -> Option<usize> {
        self.backend.get()?.rows(class)
    }

    fn on_gap(&self) -> Option<OnGap> {
        self.backend.get()?.on_gap()
    }

    fn gaps(&self, class: &Class) -> Option<Vec<Gap>> {
        self.backend.get()?.gaps(class)
    }

    fn place(&self, endpoint: &EndpointIntent) -> Place {
        self.backend
            .get()
            .map_or_else(Place::default, |backend| backend.place(endpoint))
    }

    fn is_outer(&self, endpoint: &EndpointIntent) -> bool {
        self.backend
            .get()
            .is_some_and(|backend| backend.is_outer(endpoint))
    }

    async fn run(self: Arc<Self>, mut context: TargetContext) {
        let (found, seen) = watch::channel(None);
        // Ends when this function does.
        let mut looking = JoinSet::new();
        looking.spawn(lookout(Arc::clone(&self), found));
        let known = self.backend.get().cloned();
        let backend = match known {
            Some(backend) => backend,
            None => match self.search(&mut context, seen).await {
                Some(backend) => Arc::clone(self.backend.get_or_init(|| backend)),
                None => return,
            },
        };
        backend.run(context).await;
    }
}
