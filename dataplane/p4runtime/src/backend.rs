//! The [`Backend`] of one device.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, PoisonError};

use async_trait::async_trait;
use portcullis_backend::{Backend, Gap, OnGap, Place, Proofs, TargetContext, run};
use portcullis_compiler::model::Role;
use portcullis_compiler::{
    Class, CompileError, EndpointIntent, Intent, RowCache, StageModel, TableModel, enforced,
};
use portcullis_policy::IdentifiedBy;

use crate::attachment_points::{meant, resolve};
use crate::behind;
use crate::config::{Config, PipelineSource};
use crate::device::Device;
use crate::driver::{Driver, port_space};
use crate::limits;
use crate::numbered::{Keys, Numbered};
use crate::place;
use crate::program::{OwnProgram, ProgramError};
use crate::units::{BuildError, Units};

/// One device as a target.
#[derive(Debug)]
pub struct P4Backend {
    config: Arc<Config>,
    own: Option<Arc<OwnProgram>>,
    /// What is known of the device, as soon as its description is.
    known: Mutex<Option<Arc<Known>>>,
}

/// The size of each policy table, and its reserve.
pub(crate) type Bounds = BTreeMap<String, (Option<u64>, u64)>;

/// What a device's description leads to.
#[derive(Debug)]
struct Known {
    proofs: Proofs,
    bounds: Arc<Bounds>,
    encoder: Mutex<Encoder>,
}

/// Encodes rows for checks.
#[derive(Debug)]
struct Encoder {
    device: Arc<Device>,
    /// Rows as the device would hold them, so that a check encodes only classes that changed.
    units: Units,
    /// Numbers that a device without rows would give.
    numbered: Numbered,
}

impl P4Backend {
    /// Makes the backend of one device, without connecting to it.
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
        };
        if let Some(own) = &backend.own {
            backend.learn(&own.device);
        }
        Ok(Arc::new(backend))
    }

    /// What the device is configured with.
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
        self.config.room.bound(&mut model);
        let bounds = Arc::new(bounds(&model));
        let known = Known {
            bounds,
            proofs: Proofs::from_model(model),
            encoder: Mutex::new(Encoder {
                device: Arc::new(device.clone()),
                units: Units::default(),
                numbered: Numbered::default(),
            }),
        };
        *lock(&self.known) = Some(Arc::new(known));
    }

    /// Rows of others in the device's tables, so that checks know what room there is.
    pub(crate) fn set_taken(&self, taken: &BTreeMap<String, u64>) {
        if let Some(known) = self.known() {
            lock(&known.encoder).units.set_taken(taken);
        }
    }

    /// What the policy tables may hold, and how much of that is kept free, by table.
    pub(crate) fn bounds(&self) -> Arc<Bounds> {
        self.known()
            .map_or_else(Arc::default, |known| Arc::clone(&known.bounds))
    }

    fn known(&self) -> Option<Arc<Known>> {
        lock(&self.known).clone()
    }

    /// Does something with the proved rows; `None` while the device is not known.
    pub(crate) fn with_programs<T>(&self, what: impl FnOnce(&mut RowCache) -> T) -> Option<T> {
        let known = self.known()?;
        let mut rows = known.proofs.of_session();
        Some(what(&mut rows))
    }
}

fn bounds(model: &StageModel) -> Bounds {
    let policies = model.tables.iter().filter(|t| t.stage == Role::Policy);
    let bound = |t: &TableModel| {
        let size = t.size.into_iter().chain(t.most).min();
        (t.name.clone(), (size, t.reserve))
    };
    policies.map(bound).collect()
}

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
        let Some(known) = self.known() else {
            return Ok(());
        };
        let mut encoder = lock(&known.encoder);
        let Encoder {
            device,
            units,
            numbered,
        } = &mut *encoder;
        let points = resolve(intent, &self.config.known(), port_space(device));
        let target = &self.config.name;
        let keys = Keys::of_checks(device);
        let built = match numbered.translate(intent, points, keys, BTreeSet::new) {
            Ok((here, points)) => known.proofs.check(|rows| {
                let built = units.build(device, &here, &points, target, rows);
                rows.keep(&[intent]);
                built.map(drop)
            }),
            Err(lack) => Err(BuildError::Numbers {
                lack,
                target: target.clone(),
            }),
        };
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
        self.known().is_some_and(|known| known.proofs.edits(old, new))
    }

    fn rows(&self, class: &Class) -> Option<usize> {
        self.known()?.proofs.rows(class)
    }

    /// Our own programs hold every policy, or refuse it.
    fn on_gap(&self) -> Option<OnGap> {
        self.own.is_none().then_some(self.config.on_gap)
    }

    fn gaps(&self, class: &Class) -> Option<Vec<Gap>> {
        if self.own.is_some() {
            return Some(Vec::new());
        }
        let policy = &class.policy;
        self.known()?.proofs.check(|rows| {
            let table = rows.model().table(Role::Policy, policy.direction);
            let table = table.map_or_else(String::new, |t| t.name.clone());
            Some(match rows.get(class) {
                Ok(rows) => limits::gaps(
                    &enforced::of_rows(class.id, policy, &rows),
                    &table,
                    &self.config.name,
                ),
                Err(CompileError::Unsupported(unsupported)) => Gap::of_policy(policy, &unsupported),
                // A fault of the compiler: the change is refused for that.
                Err(CompileError::Unproved { .. }) => Vec::new(),
            })
        })
    }

    fn place(&self, endpoint: &EndpointIntent) -> Place {
        if self.own.is_some() {
            let mut here = meant(endpoint, &self.config.name);
            let waits = here.any(|attachment| attachment.by == IdentifiedBy::Address);
            return Place {
                nothing: waits.then(|| place::nothing_of(&self.config.name, place::ONE_POLICY.to_string())),
                ..Place::default()
            };
        }
        self.known().map_or_else(Place::default, |known| {
            let place = |rows: &mut RowCache| place::place(endpoint, &self.config, rows.model());
            known.proofs.check(place)
        })
    }

    fn nearer(&self, endpoint: &EndpointIntent) -> BTreeSet<String> {
        behind::nearer(endpoint, &self.config.known(), false)
    }

    fn is_hardware(&self) -> bool {
        self.config.hardware
    }

    async fn run(self: Arc<Self>, context: TargetContext) {
        run(Driver::new(self), context).await;
    }
}
