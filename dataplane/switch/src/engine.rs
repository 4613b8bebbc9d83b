//! Applies changes to pipeline, tables and groups, and publishes them to the workers.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use portcullis_fastpath::Tables;
use portcullis_nic::{Offloads, RowReport};
use portcullis_proto::p4::v1;
use portcullis_proto::switch::OffloadedRow;
use tokio::sync::Mutex;
use tonic::Code;

use crate::counters::Sums;
use crate::entry::{Refusal, refuse};
use crate::hub::Hub;
use crate::nic::Wake;
use crate::program::Program;
use crate::store::{Moment, Store};

/// Longest wait for workers to take up new tables. They look before every burst.
const PATIENCE: Duration = Duration::from_secs(5);
/// How long workers are polled without a pause: idle ones sleep for some tens of microseconds. After that they are
/// polled each millisecond.
const KEEN: Duration = Duration::from_millis(1);

#[derive(Debug)]
struct State {
    /// Tables from before the first program; none once a store owns them.
    empty: Option<Tables>,
    store: Option<Store>,
    config: Option<v1::ForwardingPipelineConfig>,
    saved: Option<Saved>,
}

/// Ports whose NICs wait for new tables. A publication that fails, or whose caller hangs up, leaves them to the next.
type Waiting = std::sync::Mutex<BTreeSet<u16>>;

/// A program saved for a commit, and what was written since.
#[derive(Debug)]
struct Saved {
    store: Store,
    config: v1::ForwardingPipelineConfig,
}

/// Pipeline, tables and groups of a switch, as the server changes and reads them.
#[derive(Debug)]
pub struct Engine {
    state: Mutex<State>,
    hub: Arc<Hub>,
    sums: Sums,
    nics: Option<(Arc<dyn Offloads>, Wake, Waiting)>,
    begun: Instant,
}

/// Actions of `SetForwardingPipelineConfig` (P4Runtime 1.6.0).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SetProgram {
    /// Checks whether the program could run.
    Verify,
    /// Keeps the program for [`SetProgram::Commit`]; reads and writes are about its tables from now on.
    Save,
    /// Runs the program with empty tables.
    Replace,
    /// Runs the program and keeps the entries.
    Reconcile,
    /// Runs the saved program with the entries written since.
    Commit,
}

impl Engine {
    /// An engine over the tables that the workers have, and their counters.
    pub fn new(tables: Tables, hub: Arc<Hub>, sums: Sums) -> Engine {
        Engine {
            state: Mutex::new(State {
                empty: Some(tables),
                store: None,
                config: None,
                saved: None,
            }),
            hub,
            sums,
            nics: None,
            begun: Instant::now(),
        }
    }

    /// Keeps the rules of NICs to what the tables say.
    #[must_use]
    pub fn with_nics(self, nics: Arc<dyn Offloads>, wake: Wake) -> Engine {
        Engine {
            nics: Some((nics, wake, Waiting::default())),
            ..self
        }
    }

    /// What NICs hold, if there are some that could.
    pub fn nics(&self) -> Option<&Arc<dyn Offloads>> {
        self.nics.as_ref().map(|(nics, ..)| nics)
    }

    fn now(&self) -> Moment {
        Moment {
            wall: SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default(),
            up: self.begun.elapsed(),
        }
    }

    /// Counters of all workers.
    pub fn sums(&self) -> &Sums {
        &self.sums
    }

    /// Carries out updates and waits until every worker forwards by them. `may` is asked once it is their turn.
    pub async fn write(
        &self,
        updates: &[v1::Update],
        all_or_nothing: bool,
        may: impl Fn() -> Result<(), Refusal>,
    ) -> Result<Vec<(usize, Refusal)>, Refusal> {
        let mut state = self.state.lock().await;
        may()?;
        let now = self.now();
        if let Some(saved) = &mut state.saved {
            saved.store.at(now);
            return Ok(saved.store.write(updates, all_or_nothing, &Sums::default()));
        }
        let Some(store) = &mut state.store else {
            return no_program();
        };
        store.at(now);
        let refused = store.write(updates, all_or_nothing, &self.sums);
        // What is written too late is not let in for a moment.
        let (_, lost) = store.end(&self.sums);
        self.publish(store).await?;
        match lost.into_iter().next() {
            Some(lost) => Err(lost),
            None => Ok(refused),
        }
    }

    /// Applies all ends that have come, in one snapshot. Returns how many rows changed.
    pub async fn end_rows(&self) -> Result<usize, Refusal> {
        let mut state = self.state.lock().await;
        let Some(store) = &mut state.store else {
            return Ok(0);
        };
        store.at(self.now());
        let (ended, lost) = store.end(&self.sums);
        if ended > 0 {
            self.publish(store).await?;
        }
        match lost.into_iter().next() {
            Some(lost) => Err(lost),
            None => Ok(ended),
        }
    }

    /// Waits for changes that have begun.
    pub async fn settled(&self) {
        drop(self.state.lock().await);
    }

    /// A NIC drops nothing that the new tables allow: rules that would go first, and others come when every worker has the tables.
    async fn publish(&self, store: &mut Store) -> Result<(), Refusal> {
        let Some((nics, wake, waiting)) = &self.nics else {
            return self.publish_tables(store).await;
        };
        let changed = store.changed_senders(nics.ports());
        lock(waiting).extend(&changed);
        for fault in nics.before(store.senders(&changed)) {
            tracing::error!(fault, "a NIC may drop what is allowed");
        }
        self.publish_tables(store).await?;
        let changed = std::mem::take(&mut *lock(waiting));
        nics.after(&changed);
        if !changed.is_empty() {
            wake.now();
        }
        Ok(())
    }

    async fn publish_tables(&self, store: &mut Store) -> Result<(), Refusal> {
        let snapshot = store.publish();
        let generation = snapshot.generation();
        self.hub.publish(snapshot);
        let begun = Instant::now();
        while !self.hub.adopted(generation) {
            let waited = begun.elapsed();
            if waited > PATIENCE {
                return refuse(
                    Code::Internal,
                    format!("the tables are changed, and a worker has not taken them up within {PATIENCE:?}"),
                );
            }
            if waited < KEEN {
                // The worker may wait for this core.
                std::thread::yield_now();
                tokio::task::yield_now().await;
            } else {
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
        }
        store.rested();
        Ok(())
    }

    /// Reads entities that match those asked for; errors by their position.
    #[allow(clippy::type_complexity, reason = "the first are found, the second refused")]
    pub async fn read(
        &self,
        asked: &[v1::Entity],
    ) -> Result<(Vec<v1::Entity>, Vec<(usize, Refusal)>), Refusal> {
        let state = self.state.lock().await;
        let none = Sums::default();
        let (store, sums) = match (&state.saved, &state.store) {
            (Some(saved), _) => (&saved.store, &none),
            (None, Some(store)) => (store, &self.sums),
            (None, None) => return no_program(),
        };
        let (mut found, mut refused) = (Vec::new(), Vec::new());
        for (at, entity) in asked.iter().enumerate() {
            match store.read(entity, sums) {
                Ok(mut entities) => found.append(&mut entities),
                Err(refusal) => refused.push((at, refusal)),
            }
        }
        Ok((found, refused))
    }

    /// Rows by what NICs hold of them. One that was deleted meanwhile is left out.
    pub async fn offloaded(&self, rows: Vec<RowReport>) -> Vec<OffloadedRow> {
        let state = self.state.lock().await;
        state
            .store
            .as_ref()
            .map(|store| store.offloaded(rows))
            .unwrap_or_default()
    }

    /// The program that runs, as it was set.
    pub async fn config(&self) -> Option<v1::ForwardingPipelineConfig> {
        self.state.lock().await.config.clone()
    }

    /// For each table its name, its rows and its size.
    pub async fn uses(&self) -> Vec<(String, usize, usize)> {
        let state = self.state.lock().await;
        state.store.as_ref().map(Store::uses).unwrap_or_default()
    }

    /// Sets the program. `may` is asked once it is its turn.
    pub async fn set_program(
        &self,
        how: SetProgram,
        config: Option<v1::ForwardingPipelineConfig>,
        may: impl Fn() -> Result<(), Refusal>,
    ) -> Result<(), Refusal> {
        let mut state = self.state.lock().await;
        may()?;
        if how == SetProgram::Commit {
            return self.commit(&mut state, config).await;
        }
        let Some(config) = config else {
            return refuse(Code::InvalidArgument, "config is missing");
        };
        let Some(info) = &config.p4info else {
            return refuse(Code::InvalidArgument, "config.p4info is missing");
        };
        let program = Program::accept(info).or_else(|e| refuse(Code::InvalidArgument, e.to_string()))?;
        match how {
            SetProgram::Verify | SetProgram::Commit => Ok(()),
            SetProgram::Save => {
                let store = Store::new(program, Tables::default());
                state.saved = Some(Saved { store, config });
                Ok(())
            }
            SetProgram::Replace => self.run(&mut state, program, config, false).await,
            SetProgram::Reconcile => self.run(&mut state, program, config, true).await,
        }
    }

    async fn commit(
        &self,
        state: &mut State,
        config: Option<v1::ForwardingPipelineConfig>,
    ) -> Result<(), Refusal> {
        if config.is_some() {
            return refuse(
                Code::InvalidArgument,
                "what was saved is committed: config is to be left out",
            );
        }
        let Some(Saved { store, config }) = state.saved.take() else {
            return refuse(
                Code::NotFound,
                "no program was saved: SetForwardingPipelineConfig with VERIFY_AND_SAVE first",
            );
        };
        self.run(state, store.program().clone(), config, false).await?;
        let updates = store.remake(&Sums::default());
        let Some(running) = &mut state.store else {
            return no_program();
        };
        running.at(self.now());
        let refused = running.write(&updates, false, &self.sums);
        let (_, lost) = running.end(&self.sums);
        self.publish(running).await?;
        let refused = refused.into_iter().map(|(_, refusal)| refusal).chain(lost);
        let mut refused = refused;
        match refused.next() {
            None => Ok(()),
            Some(refusal) => refuse(
                Code::Internal,
                format!("not all that was written could be kept: {}", refusal.why),
            ),
        }
    }

    async fn run(
        &self,
        state: &mut State,
        program: Program,
        config: v1::ForwardingPipelineConfig,
        keep: bool,
    ) -> Result<(), Refusal> {
        match &mut state.store {
            Some(store) if keep => {
                store.fits(&program)?;
                store.reconcile(program);
            }
            Some(store) => store.clear(program),
            None => {
                let tables = state.empty.take().unwrap_or_default();
                state.store = Some(Store::new(program, tables));
            }
        }
        state.config = Some(config);
        state.saved = None;
        match &mut state.store {
            Some(store) => self.publish(store).await,
            None => no_program(),
        }
    }
}

fn lock(waiting: &Waiting) -> std::sync::MutexGuard<'_, BTreeSet<u16>> {
    waiting.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
}

fn no_program<T>() -> Result<T, Refusal> {
    refuse(
        Code::FailedPrecondition,
        "there is no forwarding pipeline config on this switch: SetForwardingPipelineConfig first",
    )
}
