//! Applies changes to pipeline, tables and groups, and publishes them to the workers.

use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use portcullis_fastpath::Tables;
use portcullis_proto::p4::v1;
use tokio::sync::Mutex;
use tonic::Code;

use crate::counters::Sums;
use crate::entry::{Refusal, refuse};
use crate::hub::Hub;
use crate::program::Program;
use crate::store::{Moment, Store};

/// How long workers may take to notice new tables. They look before every burst.
const PATIENCE: Duration = Duration::from_secs(5);
/// They rest for some tens of microseconds at most; what takes longer is looked for by the timer, each millisecond.
const KEEN: Duration = Duration::from_millis(1);

#[derive(Debug)]
struct State {
    /// Tables of before any program, or none when a store has them.
    empty: Option<Tables>,
    store: Option<Store>,
    config: Option<v1::ForwardingPipelineConfig>,
    saved: Option<Saved>,
}

/// A program that is kept for a commit, and what was written since.
#[derive(Debug)]
struct Saved {
    store: Store,
    config: v1::ForwardingPipelineConfig,
}

/// What the server changes and reads.
#[derive(Debug)]
pub struct Engine {
    state: Mutex<State>,
    hub: Arc<Hub>,
    sums: Sums,
    begun: Instant,
}

/// What to do with a program.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SetProgram {
    /// Only say whether it could be run.
    Verify,
    /// Keep it for [`SetProgram::Commit`]; what is written and read until then is of its tables.
    Save,
    /// Run it with empty tables.
    Replace,
    /// Run it, and keep what is in the tables.
    Reconcile,
    /// Run what was saved, with what was written since.
    Commit,
}

impl Engine {
    /// An engine over what workers have now, and their counters.
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
            begun: Instant::now(),
        }
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

    /// Carries out updates, and waits until every worker forwards by them. Whether they `may` be is asked when it is
    /// their turn.
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

    /// Lets rows become what they are to be by now, all of them in one snapshot; how many there were.
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

    /// Waits for what has been begun.
    pub async fn settled(&self) {
        drop(self.state.lock().await);
    }

    async fn publish(&self, store: &mut Store) -> Result<(), Refusal> {
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

    /// Reads entities like those asked for; what was refused, by place.
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

    /// The program that runs.
    pub async fn config(&self) -> Option<v1::ForwardingPipelineConfig> {
        self.state.lock().await.config.clone()
    }

    /// Rows of each table, and how many it takes.
    pub async fn uses(&self) -> Vec<(String, usize, usize)> {
        let state = self.state.lock().await;
        state.store.as_ref().map(Store::uses).unwrap_or_default()
    }

    /// Sets the program. Whether it `may` be is asked when it is its turn.
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

fn no_program<T>() -> Result<T, Refusal> {
    refuse(
        Code::FailedPrecondition,
        "there is no forwarding pipeline config on this switch: SetForwardingPipelineConfig first",
    )
}
