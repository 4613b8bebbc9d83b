//! The [`Backend`] of one device.

use std::sync::{Arc, Mutex, PoisonError};

use async_trait::async_trait;
use portcullis_backend::{Backend, Seat};
use portcullis_compiler::{Class, CompileError, Intent, Programs};

use crate::config::{Config, Program};
use crate::device::Device;
use crate::driver::{Driver, port_max};
use crate::plugs::resolve;
use crate::program::{OwnProgram, ProgramError};
use crate::units::{BuildError, Units};

/// One device as a target.
#[derive(Debug)]
pub struct P4Backend {
    config: Arc<Config>,
    own: Option<Arc<OwnProgram>>,
    known: Mutex<Option<Known>>,
}

/// What follows from a device's description.
#[derive(Debug)]
struct Known {
    /// The proved rows.
    programs: Programs,
    device: Arc<Device>,
    /// Rows as the device would hold them, so that a check encodes only classes that changed.
    units: Units,
}

impl P4Backend {
    /// With this configuration.
    pub fn new(config: Config) -> Result<Arc<Self>, ProgramError> {
        let own = match config.program {
            Program::Own(matching) => Some(Arc::new(OwnProgram::new(matching)?)),
            Program::Embedded => Some(Arc::new(OwnProgram::embedded()?)),
            Program::Device(_) => None,
        };
        let backend = P4Backend {
            config: Arc::new(config),
            own,
            known: Mutex::new(None),
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

    /// The device's description.
    pub(crate) fn learn(&self, device: &Device) {
        let mut model = device.model.clone();
        model.name.clone_from(&self.config.name);
        *self.known.lock().unwrap_or_else(PoisonError::into_inner) = Some(Known {
            programs: Programs::new(model),
            device: Arc::new(device.clone()),
            units: Units::default(),
        });
    }

    /// Does something with the proved rows; `None` while the device is not known. A holder that panicked left whole
    /// entries behind: entries are only ever added whole.
    pub(crate) fn with_programs<T>(&self, what: impl FnOnce(&mut Programs) -> T) -> Option<T> {
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        known.as_mut().map(|known| what(&mut known.programs))
    }
}

#[async_trait]
impl Backend for P4Backend {
    fn kind(&self) -> &'static str {
        "p4runtime"
    }

    /// Compiles, proves and encodes. A device that is not known yet refuses nothing: what it cannot do is reported when it
    /// is known.
    fn check(&self, intent: &Intent) -> Result<(), CompileError> {
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(Known {
            programs,
            device,
            units,
        }) = known.as_mut()
        else {
            return Ok(());
        };
        let plugs = resolve(intent, &self.config.known(), port_max(device));
        match units.build(device, intent, &plugs, &self.config.name, programs) {
            Ok(_) => Ok(()),
            Err(BuildError::Compile(error)) => Err(error),
            Err(error) => match error.unsupported(&self.config.name) {
                Some(value) => Err(CompileError::Unsupported(value)),
                None => Ok(()),
            },
        }
    }

    fn class_limit(&self) -> Option<u32> {
        let known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        known.as_ref().map(|known| known.device.class_limit())
    }

    /// A device that is not known yet edits nothing.
    fn edits(&self, old: &Class, new: &Class) -> bool {
        self.with_programs(|programs| programs.edits(old, new))
            .unwrap_or(false)
    }

    async fn run(self: Arc<Self>, seat: Seat) {
        Driver::new(self).run(seat).await;
    }
}
