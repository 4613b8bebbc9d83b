//! The desired rows of a device: built from the newest intent, under the class numbers of the rows that it holds already.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use portcullis_backend::delta::Key;
use portcullis_backend::machine::Desired;
use portcullis_compiler::compilation::Demand;
use portcullis_compiler::{ClassId, Intent};

use super::{Driver, port_space};
use crate::attachment_points::{AttachmentPoints, resolve};
use crate::device::Device;
use crate::entry::{Does, Row, RowKey};
use crate::numbered::{Keys, Recovered, held};
use crate::units::{BuildError, Built, UnitId};

impl Driver {
    /// Rows were read of which the session knew nothing. Before the first intent there is nothing to compare them with:
    /// [`set`](Self::set) does it then.
    pub(super) fn first_seen(&mut self, seen: &[Row]) {
        let machine = &self.session.machine;
        let Some(device) = self.session.device().filter(|_| !machine.is_known()).cloned() else {
            return;
        };
        if self.last.is_some() {
            let renumbered = self.recover_numbers(&device, &machine.units().clone(), seen);
            if self.recover_left(seen) || renumbered {
                self.set_desired();
            }
        }
    }

    /// Rows of others were read: they take room, and those below ours are not met.
    pub(super) fn foreign_seen(&mut self, foreign: &[RowKey]) {
        let Some(device) = self.session.device().cloned() else {
            return;
        };
        let mut taken: BTreeMap<String, u64> = BTreeMap::new();
        for key in foreign {
            if let Some(table) = device.table(Key::table(key)) {
                *taken.entry(table.name.clone()).or_default() += 1;
            }
        }
        self.foreign = foreign.to_vec();
        self.state.lists_changed();
        self.backend.set_taken(&taken);
        // Rows that are there fit, whatever stands beside them; for those that are left to other targets there may be room now.
        let has_left = self.built.as_ref().is_some_and(|built| !built.left.is_empty());
        let matters = !self.session.machine.is_known() || self.state.is_behind || has_left;
        if self.units.set_taken(&taken) && matters {
            self.set_desired();
        }
    }

    /// Rows of an earlier run, or of another agent with our tag, may have other class numbers: theirs are taken over. Whether
    /// any number changed. `desired` is under the numbers of now.
    fn recover_numbers(
        &mut self,
        device: &Device,
        desired: &Desired<UnitId, RowKey, Does>,
        seen: &[Row],
    ) -> bool {
        let recovered = self.numbered.recover(device, desired, seen);
        if recovered == Recovered::InPlace {
            tracing::warn!(
                target = self.name(),
                "no room for old and new rows side by side: rows are changed in place, and packets may meet a mix meanwhile"
            );
        }
        if recovered == Recovered::Unchanged {
            return false;
        }
        tracing::info!(
            target = self.name(),
            "class numbers were taken over from the device's rows"
        );
        true
    }

    /// Takes the packets that each rule denies in a minute, and plans anew where rules are left to nearer targets: those that deny many
    /// take the place of those that deny few.
    pub(super) fn set_demand(&mut self, demand: Demand) {
        let number = |id: ClassId| self.numbered.numbers().number(id).map(ClassId);
        let defaults = demand.defaults.into_iter();
        let here = Demand {
            defaults: defaults
                .filter_map(|(id, count)| Some((number(id)?, count)))
                .collect(),
            rules: demand.rules,
        };
        if self.units.set_demand(here) && self.built.as_ref().is_some_and(|built| !built.left.is_empty()) {
            self.set_desired();
        }
    }

    /// What an earlier run left to nearer targets stays left. Whether rows are to be built again for that.
    fn recover_left(&mut self, seen: &[Row]) -> bool {
        !self.points.policed_behind.is_empty() && self.units.recover(seen)
    }

    /// Builds the desired rows again from the newest intent and the ports of now.
    pub(super) fn set_desired(&mut self) {
        let Some(intent) = self.state.intent.clone() else {
            return;
        };
        self.state.lists_changed();
        match self.set(&intent) {
            None => {}
            Some(Ok(())) => {
                self.state.is_behind = false;
                self.problem = None;
            }
            Some(Err(error)) => {
                self.state.is_behind = true;
                tracing::error!(target = self.name(), %error, "an intent has no rows here");
                if matches!(error, BuildError::Numbers { .. }) {
                    // Numbers become free as rows go.
                    self.state.timers.refused(self.time.uptime());
                }
                self.narrow();
                self.state.status.detail = error.to_string();
                self.problem = error.unsupported(self.name());
            }
        }
    }

    /// Makes the rows of an intent the desired ones. `None` while the device is not known.
    fn set(&mut self, intent: &Arc<Intent>) -> Option<Result<(), BuildError>> {
        let device = self.session.device().cloned()?;
        let moment = self.time.now().wall;
        let points = resolve(intent, &self.backend.config().known(), port_space(&device)).at(moment);
        if self.session.machine.is_known() {
            self.numbered.rows_are_known();
        }
        // Rows that were read before the first intent may have the numbers of its classes: none counts as taken yet.
        let first = self.last.is_none() && self.session.machine.is_known();
        let mut built = match self.build(&device, intent, points.clone(), first)? {
            Ok(built) => built,
            Err(error) => return Some(Err(error)),
        };
        if first {
            let installed = self.session.machine.installed().iter();
            let seen: Vec<Row> = installed.map(|(k, d)| (k.clone(), d.clone())).collect();
            let renumbered = self.recover_numbers(&device, &built.desired, &seen);
            if self.recover_left(&seen) || renumbered {
                built = match self.build(&device, intent, points, false)? {
                    Ok(built) => built,
                    Err(error) => return Some(Err(error)),
                };
            }
        }
        let before = self
            .built
            .as_ref()
            .map_or(&[][..], |before| before.steps.as_slice());
        let news: Vec<String> = built
            .steps
            .iter()
            .filter(|step| !before.contains(step))
            .map(ToString::to_string)
            .collect();
        if let Some(first) = news.first() {
            let more = news.len() - 1;
            tracing::warn!(
                target = self.name(),
                step = first,
                more,
                "a table is too full; status --placement shows all"
            );
        }
        self.session.set_desired(intent.generation, built.desired.clone());
        self.built = Some(built);
        self.last = Some(Arc::clone(intent));
        Some(Ok(()))
    }

    /// The rows of an intent under the device's class numbers. `guessed`: numbers of rows that are there may be given, since
    /// they are taken over next. `None` while the device's tables are not known.
    fn build(
        &mut self,
        device: &Arc<Device>,
        intent: &Arc<Intent>,
        points: AttachmentPoints,
        guessed: bool,
    ) -> Option<Result<Built, BuildError>> {
        let target = self.name().to_string();
        let held = || match guessed {
            true => BTreeSet::new(),
            false => held(device, self.session.machine.may_hold()),
        };
        let (local, points) = match self.numbered.translate(intent, points, Keys::new(device), held) {
            Ok(translated) => translated,
            Err(lack) => return Some(Err(BuildError::Numbers { lack, target })),
        };
        let built = self.backend.with_programs(|programs| {
            let built = self.units.build(device, &local, &points, &target, programs);
            programs.keep(&[intent]);
            built
        })?;
        self.points = points;
        self.local = Some(local);
        Some(built)
    }

    /// The device cannot hold the newest intent: what that closes is closed with rows that are there, at the present moment,
    /// and the rest stays.
    pub(super) fn narrow(&mut self) {
        let (Some(newest), Some(held)) = (self.state.intent.clone(), self.held.clone()) else {
            return;
        };
        let narrowed = held.narrowed(&newest).map(Arc::new);
        if narrowed.is_some() {
            tracing::error!(
                target = self.name(),
                "what the newest policy closes is closed by ending every unlock of its endpoints"
            );
        }
        if let Some(Err(error)) = self.set(&narrowed.unwrap_or(held)) {
            tracing::error!(target = self.name(), %error, "the old rows stay");
        }
    }
}
