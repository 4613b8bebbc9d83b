//! The [`Backend`] of one bridge.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use async_trait::async_trait;
use portcullis_backend::{Backend, Footprints, TargetContext, Unstored};
use portcullis_compiler::{Class, CompileError, Intent, Proved, RowCache, StageModel};

use crate::config::Config;
use crate::driver::Driver;

/// One OVS bridge as a target.
#[derive(Debug)]
pub struct OvsBackend {
    config: Config,
    programs: Mutex<RowCache>,
    footprints: Arc<dyn Footprints>,
    /// The same rows for [`check`](Backend::check): a check may go on for long, and whoever writes rows waits for none.
    checking: Mutex<RowCache>,
    /// What checks proved, for whoever writes rows.
    proved: Mutex<Vec<Proved>>,
}

/// Proved rows of classes that wait to be adopted at most: those beyond are proved again.
const PROVED: usize = 100_000;

/// A holder that panicked left whole entries behind: entries are only ever added whole.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl OvsBackend {
    /// With this configuration, and records that end with the process.
    pub fn new(config: Config) -> Arc<Self> {
        Self::with_records(config, Arc::new(Unstored::default()))
    }

    /// With this configuration, and these records of what was written where.
    pub fn with_records(config: Config, footprints: Arc<dyn Footprints>) -> Arc<Self> {
        Arc::new(OvsBackend {
            config,
            footprints,
            programs: Mutex::new(RowCache::new(StageModel::ovs())),
            checking: Mutex::new(RowCache::new(StageModel::ovs())),
            proved: Mutex::default(),
        })
    }

    /// The configuration.
    pub fn config(&self) -> &Config {
        &self.config
    }

    pub(crate) fn footprints(&self) -> &dyn Footprints {
        &*self.footprints
    }

    pub(crate) fn programs(&self) -> MutexGuard<'_, RowCache> {
        let mut programs = lock(&self.programs);
        programs.adopt(std::mem::take(&mut *lock(&self.proved)));
        programs
    }

    /// Keeps what a check proved for whoever writes rows.
    fn keep(&self, proved: Vec<Proved>) {
        let mut kept = lock(&self.proved);
        if kept.len() > PROVED {
            kept.clear();
        }
        kept.extend(proved);
    }
}

#[async_trait]
impl Backend for OvsBackend {
    fn kind(&self) -> &'static str {
        "ovs"
    }

    fn check(&self, intent: &Intent) -> Result<(), CompileError> {
        let mut programs = lock(&self.checking);
        let checked = programs.check(intent);
        self.keep(programs.take_proved());
        programs.keep(&[intent]);
        checked
    }

    fn edits(&self, old: &Class, new: &Class) -> bool {
        let mut programs = lock(&self.checking);
        let edits = programs.edits(old, new);
        self.keep(programs.take_proved());
        edits
    }

    fn rows(&self, class: &Class) -> Option<usize> {
        let mut programs = lock(&self.checking);
        let rows = programs.get(class).ok().map(|program| program.rows());
        self.keep(programs.take_proved());
        rows
    }

    async fn run(self: Arc<Self>, context: TargetContext) {
        Driver::new(self).run(context).await;
    }
}
