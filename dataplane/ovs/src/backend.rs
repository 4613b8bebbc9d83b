//! The [`Backend`] of one bridge.

use std::sync::Arc;

use async_trait::async_trait;
use portcullis_backend::{Backend, Footprints, Proofs, TargetContext, Unstored, run};
use portcullis_compiler::{Class, CompileError, Intent, StageModel};

use crate::config::Config;
use crate::driver::Driver;

/// One OVS bridge as a target.
#[derive(Debug)]
pub struct OvsBackend {
    config: Config,
    proofs: Proofs,
    footprints: Arc<dyn Footprints>,
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
            proofs: Proofs::from_model(StageModel::ovs()),
        })
    }

    /// Settings of the target.
    pub fn config(&self) -> &Config {
        &self.config
    }

    pub(crate) fn footprints(&self) -> &dyn Footprints {
        &*self.footprints
    }

    pub(crate) fn proofs(&self) -> &Proofs {
        &self.proofs
    }
}

#[async_trait]
impl Backend for OvsBackend {
    fn kind(&self) -> &'static str {
        "ovs"
    }

    fn check(&self, intent: &Intent) -> Result<(), CompileError> {
        self.proofs.check(|rows| {
            let checked = rows.check(intent);
            rows.keep(&[intent]);
            checked
        })
    }

    fn edits(&self, old: &Class, new: &Class) -> bool {
        self.proofs.edits(old, new)
    }

    fn rows(&self, class: &Class) -> Option<usize> {
        self.proofs.rows(class)
    }

    async fn run(self: Arc<Self>, context: TargetContext) {
        run(Driver::new(self), context).await;
    }
}
