//! Class numbers on a device: what of an intent and of the ports is seen under the device's own numbers.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::sync::Arc;

use imbl::OrdMap;
use portcullis_backend::delta::Key;
use portcullis_backend::machine::Desired;
use portcullis_backend::{Numbers, OutOfNumbers, PortPolicy};
use portcullis_compiler::model::Role;
use portcullis_compiler::{Class, ClassId, Intent};

use crate::attachment_points::AttachmentPoints;
use crate::device::Device;
use crate::entry::{Does, Match, Place, Row, RowKey};
use crate::own::{OF_CLASS, OVERLAY_SHIFT};
use crate::units::UnitId;

/// A row of a class without the class's number: table, priority, other match fields, and what it does.
type Bare = (u8, i32, Vec<(u32, Match)>, Does);

/// Numbers that a change which opens ports leaves to those that close them, if the key has as many.
const RESERVE: u32 = 1024;

/// Which numbers a device's keys take.
#[derive(Debug, Clone, Copy)]
pub struct Keys {
    /// The highest number that every key and parameter can hold.
    pub limit: u32,
    /// Classes below overlays need a number, too.
    pub overlays: bool,
}

impl Keys {
    /// Those of a device.
    pub fn new(device: &Device) -> Self {
        Keys {
            limit: device.class_limit(),
            overlays: device.has_overlays(),
        }
    }

    /// Those that a change which may be refused may use.
    pub fn of_checks(device: &Device) -> Self {
        let Keys { limit, overlays } = Keys::new(device);
        Keys {
            limit: limit - RESERVE.min(limit / 64),
            overlays,
        }
    }
}

/// The numbers of a device, and its classes under them.
#[derive(Debug, Default)]
pub struct Numbered {
    numbers: Numbers,
    /// Numbers in rows that were read back and that the session does not know yet.
    seen: BTreeSet<u32>,
    /// Classes whose number is not their id, by number: as the compiler made them, and as the device sees them.
    renamed: HashMap<u32, (Arc<Class>, Arc<Class>)>,
}

impl Numbered {
    pub fn numbers(&self) -> &Numbers {
        &self.numbers
    }

    /// The session knows the rows that were read back.
    pub fn rows_are_known(&mut self) {
        self.seen.clear();
    }

    /// An intent and its ports under the device's numbers. `held`: the numbers under which the device may have rows.
    pub fn translate(
        &mut self,
        intent: &Intent,
        mut points: AttachmentPoints,
        keys: Keys,
        held: impl Fn() -> BTreeSet<u32>,
    ) -> Result<(Intent, AttachmentPoints), OutOfNumbers> {
        let mut wanted: BTreeSet<ClassId> = points.policies().flat_map(PortPolicy::all_classes).collect();
        wanted.remove(&ClassId::OPEN);
        let bases = match keys.overlays {
            true => self.bases(&wanted, intent),
            false => BTreeSet::new(),
        };
        wanted.extend(&bases);
        let held = || held().union(&self.seen).copied().collect();
        self.numbers.give(&wanted, keys.limit, held)?;
        for policy in points.policies_mut() {
            policy.classes = policy.classes.map(|id| self.here(id));
            for transition in &mut policy.transitions {
                transition.classes = transition.classes.map(|id| self.here(id));
            }
        }
        let mut classes = OrdMap::new();
        let mut renamed = HashMap::new();
        for class in wanted.iter().filter_map(|id| intent.classes.get(id)) {
            let here = self.renamed_class(class, keys, &mut renamed);
            classes.insert(here.id, here);
        }
        self.renamed = renamed;
        let unmanaged = intent.unmanaged.map(|id| self.here(id));
        let intent = Intent {
            classes,
            bases_only: bases.into_iter().map(|id| self.here(id)).collect(),
            unmanaged,
            ..intent.clone()
        };
        Ok((intent, points))
    }

    /// What [`translate`](Self::translate) would give, without giving any number.
    pub fn preview(
        &self,
        intent: &Intent,
        points: AttachmentPoints,
        keys: Keys,
        held: impl Fn() -> BTreeSet<u32>,
    ) -> Result<(Intent, AttachmentPoints), OutOfNumbers> {
        let mut copy = Numbered {
            numbers: self.numbers.clone(),
            seen: self.seen.clone(),
            renamed: HashMap::new(),
        };
        copy.translate(intent, points, keys, held)
    }

    /// A class's number; that of the open class where no port here has the class.
    fn here(&self, class: ClassId) -> ClassId {
        self.numbers.number(class).map_or(ClassId::OPEN, ClassId)
    }

    /// The classes that stand below others of an intent and that no port has itself.
    fn bases(&self, wanted: &BTreeSet<ClassId>, intent: &Intent) -> BTreeSet<ClassId> {
        let classes = wanted.iter().filter_map(|id| intent.classes.get(id));
        let bases = classes.filter_map(|class| Some(class.base.as_ref()?.id));
        bases.filter(|id| !wanted.contains(id)).collect()
    }

    /// A class, and the one below it, under their numbers.
    fn renamed_class(
        &self,
        class: &Arc<Class>,
        keys: Keys,
        renamed: &mut HashMap<u32, (Arc<Class>, Arc<Class>)>,
    ) -> Arc<Class> {
        let id = self.here(class.id);
        if let Some((of, made)) = renamed.get(&id.0)
            && Arc::ptr_eq(of, class)
        {
            return Arc::clone(made);
        }
        let base = class.base.as_ref().filter(|_| keys.overlays);
        let base = base.map(|base| self.renamed_class(base, keys, renamed));
        let is_same = |made: &Class| {
            let below = |class: &Class| class.base.as_ref().map(Arc::as_ptr);
            made.id == id && below(made) == base.as_ref().map(Arc::as_ptr)
        };
        let known = self.renamed.get(&id.0).filter(|(of, _)| Arc::ptr_eq(of, class));
        let made = match known {
            _ if is_same(class) => Arc::clone(class),
            Some((_, made)) if is_same(made) => Arc::clone(made),
            _ => Arc::new(Class {
                id,
                policy: class.policy.clone(),
                fingerprint: class.fingerprint,
                base,
            }),
        };
        renamed.insert(id.0, (Arc::clone(class), Arc::clone(&made)));
        made
    }

    /// Finds the numbers again in rows that were read back, where `desired` is what the device shall hold under the numbers
    /// of now. Classes whose rows are there in part only get other numbers, and all their rows anew, where there is room for
    /// both; elsewhere they are changed in place.
    pub fn recover(
        &mut self,
        device: &Device,
        desired: &Desired<UnitId, RowKey, Does>,
        seen: &[Row],
    ) -> Recovered {
        let mut wanted: BTreeMap<ClassId, HashSet<Bare>> = BTreeMap::new();
        for (id, unit) in desired {
            let UnitId::Class(number) = id else { continue };
            if let Some(class) = self.numbers.class(number.0) {
                let rows = unit.iter().filter_map(|row| Some(bare(device, row)?.1));
                wanted.insert(class, rows.collect());
            }
        }
        let rows = seen.iter().map(|(key, does)| (key, Some(does)));
        self.seen = held(device, rows);
        let mut found: BTreeMap<u32, HashSet<Bare>> =
            self.seen.iter().map(|n| (*n, HashSet::new())).collect();
        for (number, row) in seen.iter().filter_map(|row| bare(device, row)) {
            found.entry(number).or_default().insert(row);
        }
        let mut numbers = self.numbers.clone();
        let changed = numbers.recover(&wanted, &found, false);
        let has_rows = |class: &ClassId| numbers.number(*class).is_some_and(|n| found.contains_key(&n));
        let anew = wanted.iter().filter(|(class, _)| !has_rows(class));
        if fit(device, seen, anew.flat_map(|(_, rows)| rows)) {
            self.numbers = numbers;
            return if changed {
                Recovered::Found
            } else {
                Recovered::Unchanged
            };
        }
        self.numbers.recover(&wanted, &found, true);
        Recovered::InPlace
    }
}

/// What became of the numbers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Recovered {
    /// They are what they were.
    Unchanged,
    /// Some are others, found in rows or free.
    Found,
    /// Rows have to be changed in place.
    InPlace,
}

/// Whether tables have room for these rows beside those that were read back.
fn fit<'a>(device: &Device, seen: &[Row], new: impl Iterator<Item = &'a Bare>) -> bool {
    let mut rows: BTreeMap<u8, (u64, u64)> = BTreeMap::new();
    for (key, _) in seen {
        rows.entry(key.table()).or_default().0 += 1;
    }
    for (table, ..) in new {
        rows.entry(*table).or_default().1 += 1;
    }
    rows.iter().all(|(number, (there, new))| {
        let size = device.table(*number).and_then(|table| table.size);
        *new == 0 || size.is_none_or(|size| there + new <= size)
    })
}

/// A class's row without its number, and the number.
fn bare(device: &Device, (key, does): &Row) -> Option<(u32, Bare)> {
    let number = key.class()?;
    let Place::Table {
        table,
        priority,
        fields,
    } = &key.0.place
    else {
        return None;
    };
    let (_, key) = device.table(*table)?.class_of(fields)?;
    // Rows of a class are none of an overlay, whatever their numbers are.
    let bare = |(id, value): &(u32, Match)| match *id == key {
        true => (*id, Match::Exact(0)),
        false => (*id, *value),
    };
    let fields = fields.iter().map(bare).collect();
    Some((number, (*table, *priority, fields, does.clone())))
}

/// The numbers of a device's rows, and those to which rows lead.
pub fn held<'a>(
    device: &Device,
    rows: impl Iterator<Item = (&'a RowKey, Option<&'a Does>)>,
) -> BTreeSet<u32> {
    let mut held = BTreeSet::new();
    for (key, does) in rows {
        held.extend(key.class());
        let leads = device
            .table(key.table())
            .is_some_and(|table| matches!(table.stage, Role::Attach | Role::Deliver));
        let Some((_, params, ends)) = does.filter(|_| leads).and_then(Does::parts) else {
            continue;
        };
        let values = params.first().and_then(|(_, value)| u32::try_from(*value).ok());
        let values = values.into_iter().chain(ends.iter().map(|end| end.value));
        held.extend(values.flat_map(|value| match device.has_overlays() {
            true => [value & OF_CLASS, value >> OVERLAY_SHIFT],
            false => [value, 0],
        }));
    }
    held.remove(&ClassId::OPEN.0);
    held
}

#[cfg(test)]
mod tests {
    use portcullis_compiler::{Compiler, RowCache};
    use portcullis_policy::Document;

    use super::*;
    use crate::attachment_points::{KnownPorts, PortSpace, resolve};
    use crate::program::OwnProgram;
    use crate::units::Units;

    const POLICY: &str = "
version: portcullis/v1
endpoints:
  web:
    attachments: [{port: 1, target: tor}]
    rules: [{name: r, action: deny, direction: egress, protocol: tcp, ports: [25, 465, 587, 2525]}]
  mail:
    attachments: [{port: 2, target: tor}]
    rules: [{name: r, action: deny, direction: egress, protocol: udp, ports: [7, 9, 19, 53, 123]}]
";

    fn intent(first: u32) -> Arc<Intent> {
        let document = Document::from_yaml(POLICY).unwrap();
        Compiler::new(first, [], []).resolve(&document, 1).unwrap()
    }

    /// The rows of the policy under the numbers that are given.
    fn built(numbered: &mut Numbered, device: &Device, first: u32) -> Desired<UnitId, RowKey, Does> {
        let intent = intent(first);
        let known = KnownPorts {
            target: "tor".to_string(),
            ..KnownPorts::default()
        };
        let points = resolve(&intent, &known, PortSpace::up_to(511));
        let keys = Keys::new(device);
        let (intent, points) = numbered.translate(&intent, points, keys, BTreeSet::new).unwrap();
        let mut programs = RowCache::new(device.model.clone());
        let built = Units::default().build(device, &intent, &points, "tor", &mut programs);
        built.unwrap().desired
    }

    fn rows(desired: &Desired<UnitId, RowKey, Does>) -> Vec<Row> {
        desired.values().flat_map(|unit| unit.iter().cloned()).collect()
    }

    fn classes(desired: &Desired<UnitId, RowKey, Does>) -> Vec<u32> {
        let of = |id: &UnitId| match id {
            UnitId::Class(class) => Some(class.0),
            _ => None,
        };
        desired.keys().filter_map(of).collect()
    }

    #[test]
    fn rows_of_an_earlier_run_keep_their_numbers_and_parts_of_rows_need_room() {
        let mut device = OwnProgram::embedded().unwrap().device;
        let before = rows(&built(&mut Numbered::default(), &device, 40));
        let again = |device: &Device, seen: &[Row]| {
            let mut numbered = Numbered::default();
            let desired = built(&mut numbered, device, 70_000);
            let recovered = numbered.recover(device, &desired, seen);
            (recovered, built(&mut numbered, device, 70_000))
        };
        let (recovered, desired) = again(&device, &before);
        assert_eq!((recovered, rows(&desired)), (Recovered::Found, before.clone()));
        // One row of the first class is missing.
        let of_40 = before
            .iter()
            .position(|(key, _)| key.class() == Some(40))
            .unwrap();
        let mut seen = before.clone();
        let (lost, _) = seen.remove(of_40);
        let (recovered, desired) = again(&device, &seen);
        assert_eq!(recovered, Recovered::Found);
        let numbers = classes(&desired);
        assert!(numbers.contains(&41) && !numbers.contains(&40), "{numbers:?}");
        // No table has room for another copy of it.
        let size = before
            .iter()
            .filter(|(key, _)| key.table() == lost.table())
            .count();
        device.tables[usize::from(lost.table())].size = Some(size as u64);
        let (recovered, desired) = again(&device, &seen);
        assert_eq!((recovered, rows(&desired)), (Recovered::InPlace, before));
    }

    #[test]
    fn more_classes_than_numbers_are_refused_with_both() {
        let device = OwnProgram::embedded().unwrap().device;
        assert_eq!(Keys::of_checks(&device).limit, 65_535 - 1_023);
        let known = KnownPorts {
            target: "tor".to_string(),
            ..KnownPorts::default()
        };
        let (intent, mut numbered) = (intent(70_000), Numbered::default());
        let one = Keys {
            limit: 1,
            overlays: false,
        };
        let lack = numbered
            .translate(
                &intent,
                resolve(&intent, &known, PortSpace::up_to(511)),
                one,
                BTreeSet::new,
            )
            .unwrap_err();
        assert_eq!(
            (lack.wanted, lack.limit, lack.leaving),
            (intent.classes.len(), 1, 0)
        );
    }

    #[test]
    fn classes_below_overlays_have_numbers_where_rows_name_overlays() {
        let document = "version: portcullis/v1\nbaseline: [{name: b, action: deny, direction: egress, protocol: tcp, ports: \
                        [25]}]\nendpoints:\n  e: {attachments: [{port: 1, target: tor}], rules: [{name: r, action: deny, \
                        direction: egress, protocol: tcp, ports: [26]}]}\n";
        let document = Document::from_yaml(document).unwrap();
        let intent = Compiler::default().resolve(&document, 1).unwrap();
        let known = KnownPorts {
            target: "tor".to_string(),
            ..KnownPorts::default()
        };
        for overlays in [false, true] {
            let keys = Keys { limit: 9, overlays };
            let points = resolve(&intent, &known, PortSpace::up_to(511));
            let translated = Numbered::default().translate(&intent, points, keys, BTreeSet::new);
            let (here, points) = translated.unwrap();
            let own = points.policies().next().unwrap().classes.egress;
            assert_eq!(here.classes[&own].base.is_some(), overlays);
            assert_eq!(here.classes.len(), 1 + usize::from(overlays));
            assert_eq!(here.bases_only.len(), usize::from(overlays));
        }
    }

    #[test]
    fn a_row_holds_the_class_and_the_overlay_that_it_leads_to_now_and_later() {
        let mut device = OwnProgram::embedded().unwrap().device;
        let (number, table) = device.table_named("attach").unwrap();
        let port = table.named("port").unwrap().id;
        let key = table.key(number, 1, vec![(port, Match::Exact(1))]);
        let later = crate::entry::End {
            at: 1,
            value: 9 << OVERLAY_SHIFT | 4,
        };
        let does = Does::action(1, vec![(1, u128::from(7u32 << OVERLAY_SHIFT | 3))], vec![later]);
        let of = |device: &Device| held(device, [(&key, Some(&does))].into_iter());
        assert_eq!(of(&device), [3, 4, 7, 9].into());
        // Without overlays the parameter is one number.
        for table in &mut device.model.tables {
            table
                .keys
                .retain(|key| key.field != portcullis_compiler::model::Field::Overlay);
        }
        assert_eq!(
            of(&device),
            [7 << OVERLAY_SHIFT | 3, 9 << OVERLAY_SHIFT | 4].into()
        );
    }
}
