//! The [`Backend`] of one device.

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex, PoisonError};

use async_trait::async_trait;
use portcullis_backend::{Backend, TargetContext};
use portcullis_compiler::{Class, CompileError, Intent, Proved, RowCache};

use crate::attachment_points::resolve;
use crate::config::{Config, PipelineSource};
use crate::device::Device;
use crate::driver::{Driver, port_max};
use crate::numbered::{Numbered, limit_of_checks};
use crate::program::{OwnProgram, ProgramError};
use crate::units::{BuildError, Units};

/// One device as a target.
#[derive(Debug)]
pub struct P4Backend {
    config: Arc<Config>,
    own: Option<Arc<OwnProgram>>,
    /// The proved rows, as soon as the device's description is known.
    known: Mutex<Option<RowCache>>,
    /// The same for checks, which may take long: writing rows waits for none.
    checking: Mutex<Option<Checking>>,
    /// What checks proved, for the driver that writes rows.
    proved: Mutex<Vec<Proved>>,
}

/// What a check works with.
#[derive(Debug)]
struct Checking {
    programs: RowCache,
    device: Arc<Device>,
    /// Rows as the device would hold them, so that a check encodes only classes that changed.
    units: Units,
    /// Numbers that a device without rows would give.
    numbered: Numbered,
}

impl P4Backend {
    /// With this configuration.
    pub fn new(config: Config) -> Result<Arc<Self>, ProgramError> {
        let own = match config.program {
            PipelineSource::Own(matching) => Some(Arc::new(OwnProgram::new(matching)?)),
            PipelineSource::Embedded => Some(Arc::new(OwnProgram::embedded()?)),
            PipelineSource::Device(_) => None,
        };
        let backend = P4Backend {
            config: Arc::new(config),
            own,
            known: Mutex::new(None),
            checking: Mutex::new(None),
            proved: Mutex::default(),
        };
        if let Some(own) = &backend.own {
            backend.learn(&own.device);
        }
        Ok(Arc::new(backend))
    }

    /// The configuration.
    pub fn config(&self) -> &Arc<Config> {
        &self.config
    }

    /// Our program, when that is what the device shall run.
    pub(crate) fn own(&self) -> Option<&Arc<OwnProgram>> {
        self.own.as_ref()
    }

    pub(crate) fn learn(&self, device: &Device) {
        let mut model = device.model.clone();
        model.name.clone_from(&self.config.name);
        *lock(&self.known) = Some(RowCache::new(model.clone()));
        *lock(&self.checking) = Some(Checking {
            programs: RowCache::new(model),
            device: Arc::new(device.clone()),
            units: Units::default(),
            numbered: Numbered::default(),
        });
        lock(&self.proved).clear();
    }

    /// Does something with the proved rows; `None` while the device is not known.
    pub(crate) fn with_programs<T>(&self, what: impl FnOnce(&mut RowCache) -> T) -> Option<T> {
        let mut known = lock(&self.known);
        let programs = known.as_mut()?;
        programs.adopt(std::mem::take(&mut *lock(&self.proved)));
        Some(what(programs))
    }

    /// Keeps what a check proved, within bounds.
    fn keep(&self, proved: Vec<Proved>) {
        let mut kept = lock(&self.proved);
        if kept.len() > PROVED {
            kept.clear();
        }
        kept.extend(proved);
    }
}

/// Proved rows of classes that wait to be adopted at most: those beyond are proved again.
const PROVED: usize = 100_000;

/// A holder that panicked left whole entries behind: entries are only ever added whole.
fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[async_trait]
impl Backend for P4Backend {
    fn kind(&self) -> &'static str {
        "p4runtime"
    }

    /// Compiles, proves and encodes. A device that is not known yet refuses nothing: what it cannot do is reported when it
    /// is known.
    fn check(&self, intent: &Intent) -> Result<(), CompileError> {
        let mut checking = lock(&self.checking);
        let Some(Checking {
            programs,
            device,
            units,
            numbered,
        }) = checking.as_mut()
        else {
            return Ok(());
        };
        let points = resolve(intent, &self.config.known(), port_max(device));
        let target = &self.config.name;
        let limit = limit_of_checks(device);
        let built = match numbered.translate(intent, points, limit, BTreeSet::new) {
            Ok((intent, points)) => units.build(device, &intent, &points, target, programs).map(drop),
            Err(lack) => Err(BuildError::Numbers {
                lack,
                target: target.clone(),
            }),
        };
        self.keep(programs.take_proved());
        programs.keep(&[intent]);
        match built {
            Ok(()) => Ok(()),
            Err(BuildError::Compile(error)) => Err(error),
            Err(error) => match error.unsupported(&self.config.name) {
                Some(value) => Err(CompileError::Unsupported(value)),
                None => Ok(()),
            },
        }
    }

    /// A device that is not known yet edits nothing.
    fn edits(&self, old: &Class, new: &Class) -> bool {
        let mut checking = lock(&self.checking);
        checking
            .as_mut()
            .is_some_and(|checking| checking.programs.edits(old, new))
    }

    fn rows(&self, class: &Class) -> Option<usize> {
        let mut checking = lock(&self.checking);
        let program = checking.as_mut()?.programs.get(class).ok()?;
        Some(program.rows())
    }

    async fn run(self: Arc<Self>, context: TargetContext) {
        Driver::new(self).run(context).await;
    }
}
