//! The target of an agent without a `[[target]]`: looks until there is one datapath to program, and keeps which it was.
//!
//! What is found first decides, for this start and all later ones: the only datapath, if its uplinks are known, becomes the target.
//! Where there are several, none does until a person says which. Later arrivals are logged and nothing else.

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicBool, Ordering};
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

use super::kept::{self, KeepError, Kept};
use super::{Launched, PreparedTarget, TargetError, prepare};
use crate::config::{AnyTarget, Discovery};

/// Time between looks while there is no datapath to program.
const SEARCH: Duration = Duration::from_secs(2);
/// Time between looks afterwards, which only log what comes and goes.
const WATCH: Duration = Duration::from_secs(60);
/// Looks that have to find the same before it is kept: while a machine starts, datapaths and ports come one after the other.
const EQUAL_LOOKS: u32 = 6;

/// Reads the file, as a start does.
pub(super) fn check(discovery: &Discovery) -> Result<(), TargetError> {
    kept::read(&discovery.file).map(drop)
}

/// Starts the target, whether or not its datapath is known.
pub(super) fn launch(discovery: &Discovery, records: &Arc<dyn Footprints>) -> Result<Launched, TargetError> {
    let kept = kept::read(&discovery.file)?;
    let mut local = LocalTarget {
        discovery: discovery.clone(),
        records: Arc::clone(records),
        several: AtomicBool::new(matches!(kept, Kept::Several)),
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
            local.backend = OnceLock::from(local.prepare(&target)?);
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
    /// Whether several datapaths were found, now or at an earlier start.
    several: AtomicBool,
    /// Set when there is one to program, and never again.
    backend: OnceLock<Arc<dyn Backend>>,
}

/// What a look found.
#[derive(Debug, Clone, Default)]
struct Seen {
    datapaths: Vec<Datapath>,
    /// Places that could not be read.
    unread: Vec<String>,
}

/// The last decision, and how many looks have led to it.
#[derive(Debug, Default)]
struct Settling {
    what: String,
    looks: u32,
}

impl Settling {
    /// Whether enough looks have found the same.
    fn is_settled(&mut self, what: String) -> bool {
        if self.what != what {
            *self = Settling { what, looks: 0 };
        }
        self.looks += 1;
        self.looks >= EQUAL_LOOKS
    }
}

impl LocalTarget {
    /// Whether it is known what is programmed, or that nothing is.
    fn is_decided(&self) -> bool {
        self.backend.get().is_some() || self.several.load(Ordering::Relaxed)
    }

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

    /// Makes the backend of a datapath, and keeps the datapath as the one to program.
    fn adopt(&self, datapath: &Datapath) -> Result<Arc<dyn Backend>, KeepError> {
        let file = &self.discovery.file;
        let (text, target) = kept::target_of(file, datapath)?;
        let backend = self.prepare(&target)?;
        kept::write(file, &text)?;
        Ok(backend)
    }
}

/// Looks for ever, and logs what comes and goes.
async fn lookout(target: Arc<LocalTarget>, seen: watch::Sender<Seen>) {
    let mut known = BTreeSet::new();
    loop {
        let findings = look(&target.discovery.places).await;
        // A P4Info can be large.
        let looked = tokio::task::spawn_blocking(move || Seen {
            datapaths: datapaths(&findings),
            unread: findings.unread(),
        });
        let Ok(found) = looked.await else {
            tracing::error!("a look for datapaths failed; the next one follows");
            tokio::time::sleep(WATCH).await;
            continue;
        };
        let title = |datapath: &Datapath| match datapath.uplinks().as_slice() {
            [] => datapath.title(),
            uplinks => format!("{}, uplink {}", datapath.title(), uplinks.join(", ")),
        };
        let titles: BTreeSet<String> = found.datapaths.iter().map(title).collect();
        for datapath in found.datapaths.iter().filter(|d| !known.contains(&title(d))) {
            tracing::info!(holds = datapath.holds, versions = ?datapath.versions, "found {}", title(datapath));
        }
        for gone in known.difference(&titles) {
            tracing::warn!("not there any more: {gone}");
        }
        known = titles;
        seen.send_replace(found);
        tokio::time::sleep(if target.is_decided() { WATCH } else { SEARCH }).await;
    }
}

impl LocalTarget {
    /// Waits for a datapath to program; `None` when the target is stopped before.
    async fn search(
        &self,
        context: &mut TargetContext,
        mut seen: watch::Receiver<Seen>,
    ) -> Option<Arc<dyn Backend>> {
        // Not the context's own: its backend has to see the newest intent as new.
        let mut intents = context.intents.clone();
        let mut settling = Settling::default();
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
                    let found = seen.borrow_and_update().clone();
                    // Before the engine's first word this may be a second agent, which finds the socket or the database taken.
                    let may_decide = intents.borrow().is_some() || self.is_decided();
                    let decided = match may_decide {
                        true => self.decide(&found, &mut settling),
                        false => Err(undecided(&found)),
                    };
                    match decided {
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
    fn decide(&self, found: &Seen, settling: &mut Settling) -> Result<Arc<dyn Backend>, String> {
        let file = self.discovery.file.display();
        let held = format!(
            "several datapaths were found and none is programmed: add a [[target]] to the configuration, see `portcullis discover`; or \
             delete {file} and restart the agent to have it look again"
        );
        if self.is_decided() {
            return Err(held);
        }
        let decision = decide(&found.datapaths, &found.unread);
        if !matches!(decision, Decision::Several(_) | Decision::Program(_)) {
            *settling = Settling::default();
        }
        match decision {
            Decision::Nothing => Err(format!(
                "no datapath on this machine, looking again every {} s at {}, {}; `portcullis discover` shows what is there",
                SEARCH.as_secs(),
                self.discovery.places.ovsdb,
                self.discovery.places.servers.join(", ")
            )),
            Decision::Unread(why) => Err(format!(
                "a datapath may be where nothing could be read, so that none is programmed: {}; set other addresses in [discovery] if \
                 there is none",
                why.join("; ")
            )),
            Decision::Unclear(one, why) => Err(format!(
                "found {}, which is not programmed without a [[target]]: {why}; see `portcullis discover`",
                one.title()
            )),
            Decision::Several(several) => {
                let list = several
                    .iter()
                    .map(|one| one.title())
                    .collect::<Vec<_>>()
                    .join("; ");
                if !settling.is_settled(list.clone()) {
                    return Err(format!("found {list}; looking whether that stays so"));
                }
                let written = kept::write_several(&self.discovery.file, &several);
                written.map_err(|error| {
                    format!("found {list}, and cannot write {file}: {}", with_causes(&error))
                })?;
                self.several.store(true, Ordering::Relaxed);
                Err(held)
            }
            Decision::Program(one) => {
                if !settling.is_settled(format!("{} {:?}", one.title(), one.section)) {
                    return Err(format!("found {}; looking whether that stays so", one.title()));
                }
                let backend = self.adopt(one);
                let backend = backend.map_err(|error| {
                    let why = with_causes(&error);
                    format!("found {}, and cannot program it: {why} ({file})", one.title())
                })?;
                tracing::info!(%file, "programming {}, the only datapath of this machine", one.title());
                Ok(backend)
            }
        }
    }
}

/// What is found while no policy was ever applied, and nothing is decided.
fn undecided(found: &Seen) -> String {
    let titles: Vec<String> = found.datapaths.iter().map(Datapath::title).collect();
    match titles.is_empty() {
        true => "no datapath is found on this machine, and no policy was applied yet".to_string(),
        false => format!(
            "found {}; the target is chosen once a policy is applied",
            titles.join("; ")
        ),
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
        Query::Offload(answer) => drop(answer.send(Err(why()))),
        Query::Checkup(answer) => drop(answer.send(Err(why()))),
        Query::Demand(_) => {}
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

    fn is_hardware(&self) -> bool {
        self.backend.get().is_some_and(|backend| backend.is_hardware())
    }

    fn nearer(&self, endpoint: &EndpointIntent) -> BTreeSet<String> {
        let backend = self.backend.get();
        backend.map_or_else(BTreeSet::new, |backend| backend.nearer(endpoint))
    }

    async fn run(self: Arc<Self>, mut context: TargetContext) {
        let (found, seen) = watch::channel(Seen::default());
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

#[cfg(test)]
mod tests {
    use portcullis_backend::Unstored;
    use portcullis_discovery::{Host, Places, server};
    use portcullis_p4runtime::{SeenDevice, Server};
    use portcullis_proto::switch::Port;

    use super::*;

    /// A switch whose port 9 is a card, or one that has a second card.
    fn seen(cards: &[u32]) -> Seen {
        let port = |number: u32| Port {
            number,
            kind: "af_packet".to_string(),
            device: format!("eth{number}"),
        };
        let host = Host {
            cards: cards.iter().map(|number| format!("eth{number}")).collect(),
            ..Host::default()
        };
        let switch = Server {
            version: "1.6.0".to_string(),
            device: Ok(SeenDevice { id: 1, program: None }),
            ports: Some(vec![port(1), port(9)]),
        };
        Seen {
            datapaths: vec![server("unix:/run/sw.sock", &switch, &host)],
            unread: Vec::new(),
        }
    }

    #[test]
    fn nothing_is_kept_before_enough_looks_in_a_row_found_the_same() {
        let folder = tempfile::tempdir().unwrap();
        let local = LocalTarget {
            discovery: Discovery {
                places: Places::default(),
                file: folder.path().join("discovered.toml"),
                allow_interruption: false,
            },
            records: Arc::new(Unstored::default()),
            several: AtomicBool::new(false),
            backend: OnceLock::new(),
        };
        let mut settling = Settling::default();
        let mut look = |cards: &[u32]| local.decide(&seen(cards), &mut settling).map(|_| ());
        // The second card, a server's, comes up and goes again; then the other one is alone.
        for cards in [
            &[9][..],
            &[9],
            &[9],
            &[9],
            &[9],
            &[1, 9],
            &[9],
            &[9],
            &[1],
            &[9],
            &[9],
            &[9],
            &[9],
            &[9],
        ] {
            let why = look(cards).unwrap_err();
            assert!(
                why.contains("looking whether that stays so") || why.contains("not programmed"),
                "{why}"
            );
            assert!(!local.discovery.file.exists());
        }
        look(&[9]).unwrap();
        let kept = std::fs::read_to_string(&local.discovery.file).unwrap();
        assert!(kept.contains("uplinks = [9]"), "{kept}");
    }
}
