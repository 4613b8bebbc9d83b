//! Entries and groups that controllers wrote, and their rows in the tables of the fast path. Pure.
//!
//! A deleted entry's row stays in the tables to the end of the request: what has to be taken back is as it was, with its
//! counter and its place among rows of the same priority.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::Arc;

use portcullis_fastpath::{RowId, Snapshot, Table, TableError, Tables};
use portcullis_proto::p4::v1;
use tonic::Code;
use v1::entity::Entity;
use v1::packet_replication_engine_entry::Type as PreType;
use v1::update::Type;

use crate::counters::{Count, Sums};
use crate::entry::{Conds, Refusal, conds, priority, refuse, row, table};
use crate::program::{Program, TableShape};

mod ends;
mod nics;
mod read;
mod slots;

pub use ends::Moment;
use slots::Slots;

/// What identifies an entry: table, priority, conditions.
type EntryKey = (Table, i32, Conds);

/// An entry as it is stored.
#[derive(Debug, Clone)]
struct StoredEntry {
    entry: v1::TableEntry,
    id: RowId,
    slot: u32,
    /// When it was written; times left until its ends count from here.
    written: Moment,
}

/// All entries and groups written under one program.
#[derive(Debug)]
pub struct Store {
    program: Program,
    tables: Tables,
    entries: HashMap<EntryKey, StoredEntry>,
    /// Number of entries of each table.
    counts: [usize; Table::ALL.len()],
    groups: BTreeMap<u32, v1::MulticastGroupEntry>,
    slots: Slots,
    /// Entries deleted by the request at hand.
    leaving: Vec<StoredEntry>,
    /// Time of the request at hand.
    now: Moment,
    /// Keys of entries with ends; some may have none left.
    timed: HashSet<EntryKey>,
}

/// Whether a change is refused when the compiled policies have no room for it. An end of an unlock and an undo are not refused.
#[derive(Debug, Clone, Copy)]
enum Room {
    Needed,
    NotNeeded,
}

/// How to undo an update.
enum Undo {
    Insert(EntryKey),
    Modify(EntryKey, Box<v1::TableEntry>, Option<Count>),
    /// The entry is the last that is leaving.
    Delete(EntryKey),
    Group(u32, Option<v1::MulticastGroupEntry>),
}

impl Store {
    /// Empty tables of a program; workers keep `tables` until the first publication.
    pub fn new(program: Program, tables: Tables) -> Store {
        Store {
            program,
            tables,
            entries: HashMap::new(),
            counts: [0; Table::ALL.len()],
            groups: BTreeMap::new(),
            slots: Slots::default(),
            leaving: Vec::new(),
            now: Moment::default(),
            timed: HashSet::new(),
        }
    }

    pub fn program(&self) -> &Program {
        &self.program
    }

    /// Removes all entries: a new program begins with empty tables.
    pub fn clear(&mut self, program: Program) {
        let places: Vec<EntryKey> = self.entries.keys().cloned().collect();
        for place in places {
            self.forget(&place);
        }
        for id in std::mem::take(&mut self.groups).into_keys() {
            // Without ports there is nothing to refuse.
            let _gone = self.tables.set_group(id, &[]);
        }
        self.program = program;
    }

    /// Whether all entries fit another program's tables.
    pub fn fits(&self, program: &Program) -> Result<(), Refusal> {
        for shape in &program.tables {
            let count = self.count_of(shape.table);
            if count > shape.size {
                return refuse(
                    Code::InvalidArgument,
                    format!(
                        "table `{}` has {count} rows, and is to take {}",
                        shape.name, shape.size
                    ),
                );
            }
        }
        let now = self.program.tables.iter().map(|t| &t.keys);
        if now.eq(program.tables.iter().map(|t| &t.keys)) {
            Ok(())
        } else {
            refuse(
                Code::InvalidArgument,
                "ports match in another way in that program: entries cannot be kept",
            )
        }
    }

    /// Takes the sizes of a program whose tables are otherwise the same ([`Store::fits`]).
    pub fn reconcile(&mut self, program: Program) {
        self.program = program;
    }

    /// Carries out updates; errors by their position. With `all_or_nothing` nothing stays when one is refused.
    pub fn write(
        &mut self,
        updates: &[v1::Update],
        all_or_nothing: bool,
        sums: &Sums,
    ) -> Vec<(usize, Refusal)> {
        let mut refused = Vec::new();
        let mut done = Vec::new();
        for (at, update) in updates.iter().enumerate() {
            match self.update(update, sums) {
                Ok(undo) => done.push((at, undo)),
                Err(refusal) => {
                    refused.push((at, refusal));
                    if all_or_nothing {
                        break;
                    }
                }
            }
        }
        if all_or_nothing && let Some((failed, _)) = refused.first() {
            let failed = *failed;
            let mut lost = Vec::new();
            while let Some((at, undo)) = done.pop() {
                if let Err(refusal) = self.take_back(undo, sums) {
                    lost.push((at, refusal));
                }
            }
            let aborted = Refusal {
                code: Code::Aborted,
                why: format!(
                    "update {failed} of the same request was refused, and all or nothing was asked for"
                ),
            };
            let others = (0..updates.len()).filter(|at| *at != failed);
            refused.extend(others.map(|at| {
                // What was there before has been checked, and nothing has come into its place: this cannot be.
                let lost = lost.iter().find(|(l, _)| *l == at);
                let why = lost.map(|(_, refusal)| Refusal {
                    code: Code::DataLoss,
                    why: format!("it could not be taken back: {}", refusal.why),
                });
                (at, why.unwrap_or_else(|| aborted.clone()))
            }));
            refused.sort_by_key(|(at, _)| *at);
        }
        for gone in std::mem::take(&mut self.leaving) {
            self.tables.remove(gone.id);
            self.slots.give(gone.slot);
        }
        refused
    }

    /// Builds the snapshot for the workers.
    pub fn publish(&mut self) -> Arc<Snapshot> {
        self.tables.publish()
    }

    /// Every worker has the last snapshot: counters of removed rows may be used again.
    pub fn rested(&mut self) {
        self.slots.free.append(&mut self.slots.resting);
    }

    fn update(&mut self, update: &v1::Update, sums: &Sums) -> Result<Undo, Refusal> {
        let kind = Type::try_from(update.r#type).unwrap_or(Type::Unspecified);
        if kind == Type::Unspecified {
            return refuse(
                Code::InvalidArgument,
                format!(
                    "an update has the type {}: INSERT, MODIFY and DELETE are known",
                    update.r#type
                ),
            );
        }
        match update.entity.as_ref().and_then(|e| e.entity.as_ref()) {
            Some(Entity::TableEntry(entry)) => self.entry(kind, entry, sums),
            Some(Entity::DirectCounterEntry(counter)) => self.counter(kind, counter, sums),
            Some(Entity::PacketReplicationEngineEntry(entry)) => match &entry.r#type {
                Some(PreType::MulticastGroupEntry(group)) => self.group(kind, group),
                _ => refuse(Code::Unimplemented, "clone sessions: this switch has none"),
            },
            Some(_) => refuse(
                Code::Unimplemented,
                "only table entries, direct counters and multicast groups can be written to this switch",
            ),
            None => refuse(Code::InvalidArgument, "an update has no entity"),
        }
    }

    fn count_of(&self, table: Table) -> usize {
        self.counts.get(table.index()).copied().unwrap_or(0)
    }

    fn keep(&mut self, place: EntryKey, kept: StoredEntry) {
        if let Some(count) = self.counts.get_mut(place.0.index()) {
            *count += 1;
        }
        self.entries.insert(place, kept);
    }

    fn take(&mut self, place: &EntryKey) -> Option<StoredEntry> {
        let kept = self.entries.remove(place)?;
        if let Some(count) = self.counts.get_mut(place.0.index()) {
            *count -= 1;
        }
        Some(kept)
    }

    fn entry(&mut self, kind: Type, entry: &v1::TableEntry, sums: &Sums) -> Result<Undo, Refusal> {
        let shape = table(&self.program, entry.table_id)?;
        if entry.is_const {
            return refuse(
                Code::InvalidArgument,
                format!(
                    "table `{}`: an entry that is written is never constant",
                    shape.name
                ),
            );
        }
        if entry.is_default_action {
            let wrong = !entry.r#match.is_empty() || entry.priority != 0 || kind != Type::Modify;
            let (code, why) = if wrong {
                (
                    Code::InvalidArgument,
                    "its default action has no match and no priority, and can be modified at most",
                )
            } else {
                (Code::PermissionDenied, "its default action is constant")
            };
            return refuse(code, format!("table `{}`: {why}", shape.name));
        }
        let place = place(shape, entry)?;
        let there = self.entries.contains_key(&place);
        match (kind, there) {
            (Type::Insert, true) => refuse(
                Code::AlreadyExists,
                format!("table `{}` has an entry with this match and priority", shape.name),
            ),
            (Type::Modify | Type::Delete, false) => refuse(
                Code::NotFound,
                format!("table `{}` has no entry with this match and priority", shape.name),
            ),
            (Type::Delete, true) => {
                if let Some(kept) = self.take(&place) {
                    // A MAC has one row at a time.
                    if place.0 == Table::L2 {
                        self.tables.remove(kept.id);
                    }
                    self.leaving.push(kept);
                }
                Ok(Undo::Delete(place))
            }
            (Type::Modify, true) => self.change(place, entry, sums, Room::Needed),
            (Type::Insert | Type::Unspecified, _) => self.add(place, entry, sums),
        }
    }

    fn add(&mut self, place: EntryKey, entry: &v1::TableEntry, sums: &Sums) -> Result<Undo, Refusal> {
        let shape = table(&self.program, entry.table_id)?;
        let count = self.count_of(shape.table);
        let full = |why: &str| {
            let why = format!("table `{}` has {count} rows: {why}", shape.name);
            refuse(Code::ResourceExhausted, why)
        };
        if count >= shape.size {
            return full("that is all it takes");
        }
        let mut row = row(shape, entry)?;
        if shape.table.is_counted() {
            let Some(slot) = self.slots.take(sums) else {
                return full("all counters are taken");
            };
            row.slot = slot;
        }
        let slot = row.slot;
        match self.tables.insert(shape.table, row) {
            Ok(id) => {
                if let Some(data) = &entry.counter_data {
                    self.slots.set(slot, data, sums);
                }
                let entry = stored(entry);
                self.time(&place, &entry);
                let written = self.now;
                let kept = StoredEntry {
                    entry,
                    id,
                    slot,
                    written,
                };
                self.keep(place.clone(), kept);
                Ok(Undo::Insert(place))
            }
            Err(error) => {
                self.slots.give(slot);
                refuse(code_of(error), format!("table `{}`: {error}", shape.name))
            }
        }
    }

    /// An entry without an action keeps the one that it has.
    fn change(
        &mut self,
        place: EntryKey,
        entry: &v1::TableEntry,
        sums: &Sums,
        room: Room,
    ) -> Result<Undo, Refusal> {
        let shape = table(&self.program, entry.table_id)?;
        let name = &shape.name;
        let Some(kept) = self.entries.get_mut(&place) else {
            return refuse(Code::NotFound, format!("table `{name}` has no such entry"));
        };
        let mut new = entry.clone();
        if new.action.is_none() {
            new.action.clone_from(&kept.entry.action);
        }
        let action = row(shape, &new)?.action;
        let modified = match room {
            Room::Needed => self.tables.modify(kept.id, action),
            Room::NotNeeded => self.tables.modify_unbounded(kept.id, action),
        };
        if let Err(error) = modified {
            return refuse(code_of(error), format!("table `{name}`: {error}"));
        }
        let base = self.slots.base.get(&kept.slot).copied();
        if let Some(data) = &entry.counter_data {
            self.slots.set(kept.slot, data, sums);
        }
        let old = std::mem::replace(&mut kept.entry, stored(&new));
        kept.written = self.now;
        self.time(&place, &new);
        Ok(Undo::Modify(place, Box::new(old), base))
    }

    fn forget(&mut self, place: &EntryKey) {
        if let Some(kept) = self.take(place) {
            self.tables.remove(kept.id);
            self.slots.give(kept.slot);
        }
    }

    fn group(&mut self, kind: Type, group: &v1::MulticastGroupEntry) -> Result<Undo, Refusal> {
        let id = group.multicast_group_id;
        if id == 0 {
            return refuse(Code::InvalidArgument, "there is no multicast group 0");
        }
        let there = self.groups.contains_key(&id);
        match (kind, there) {
            (Type::Insert, true) => {
                return refuse(Code::AlreadyExists, format!("there is a multicast group {id}"));
            }
            (Type::Modify | Type::Delete, false) => {
                return refuse(Code::NotFound, format!("there is no multicast group {id}"));
            }
            _ => {}
        }
        let ports = if kind == Type::Delete {
            Vec::new()
        } else {
            members(group)?
        };
        if let Err(error) = self.tables.set_group(id, &ports) {
            return refuse(Code::InvalidArgument, format!("multicast group {id}: {error}"));
        }
        let old = if kind == Type::Delete {
            self.groups.remove(&id)
        } else {
            self.groups.insert(id, group.clone())
        };
        Ok(Undo::Group(id, old))
    }

    /// Direct counters are set by MODIFY (section 9.4).
    fn counter(
        &mut self,
        kind: Type,
        counter: &v1::DirectCounterEntry,
        sums: &Sums,
    ) -> Result<Undo, Refusal> {
        let entry = counter.table_entry.clone().unwrap_or_default();
        let shape = table(&self.program, entry.table_id)?;
        if kind != Type::Modify {
            return refuse(
                Code::InvalidArgument,
                "direct counters can be modified, and nothing else",
            );
        }
        if !shape.table.is_counted() {
            return refuse(
                Code::InvalidArgument,
                format!("table `{}` has no counters", shape.name),
            );
        }
        let place = place(shape, &entry)?;
        let Some(kept) = self.entries.get(&place) else {
            return refuse(
                Code::NotFound,
                format!("table `{}` has no such entry", shape.name),
            );
        };
        let undo = Undo::Modify(
            place,
            Box::new(kept.entry.clone()),
            self.slots.base.get(&kept.slot).copied(),
        );
        if let Some(data) = &counter.data {
            self.slots.set(kept.slot, data, sums);
        }
        Ok(undo)
    }

    fn take_back(&mut self, undo: Undo, sums: &Sums) -> Result<(), Refusal> {
        match undo {
            Undo::Insert(place) => {
                self.forget(&place);
                Ok(())
            }
            Undo::Modify(place, old, base) => {
                if let (Some(kept), Some(base)) = (self.entries.get(&place), base) {
                    self.slots.base.insert(kept.slot, base);
                }
                self.change(place, &old, sums, Room::NotNeeded).map(drop)
            }
            Undo::Delete(place) => {
                // What was deleted last comes back first.
                let Some(mut kept) = self.leaving.pop() else {
                    return Ok(());
                };
                if place.0 == Table::L2 {
                    let shape = table(&self.program, kept.entry.table_id)?;
                    let again = self.tables.insert(Table::L2, row(shape, &kept.entry)?);
                    kept.id = again.or_else(|error| refuse(Code::Internal, error.to_string()))?;
                }
                self.keep(place, kept);
                Ok(())
            }
            Undo::Group(id, old) => {
                let ports = old.as_ref().map_or(Ok(Vec::new()), members);
                match old {
                    Some(old) => self.groups.insert(id, old),
                    None => self.groups.remove(&id),
                };
                self.tables
                    .set_group(id, &ports?)
                    .or_else(|error| refuse(Code::InvalidArgument, format!("multicast group {id}: {error}")))
            }
        }
    }

    /// For each table its name, its rows and its size.
    pub fn uses(&self) -> Vec<(String, usize, usize)> {
        let of = |t: &TableShape| (t.name.clone(), self.count_of(t.table), t.size);
        self.program.tables.iter().map(of).collect()
    }
}

/// An entry as it is given back.
/// The code of a row that the fast path cannot keep.
fn code_of(error: TableError) -> Code {
    match error {
        TableError::Pairs | TableError::PairRows => Code::ResourceExhausted,
        _ => Code::InvalidArgument,
    }
}

fn stored(entry: &v1::TableEntry) -> v1::TableEntry {
    let mut entry = entry.clone();
    entry.counter_data = None;
    entry.time_since_last_hit = None;
    entry
}

fn place(shape: &TableShape, entry: &v1::TableEntry) -> Result<EntryKey, Refusal> {
    priority(shape, entry)?;
    Ok((shape.table, entry.priority, conds(shape, entry)?))
}

/// The ports of a group, each once.
fn members(group: &v1::MulticastGroupEntry) -> Result<Vec<u16>, Refusal> {
    let mut ports = Vec::new();
    for replica in &group.replicas {
        if !replica.backup_replicas.is_empty() {
            return refuse(
                Code::Unimplemented,
                format!(
                    "multicast group {}: this switch has no backup replicas",
                    group.multicast_group_id
                ),
            );
        }
        ports.push(replica_port(group.multicast_group_id, replica)?);
    }
    ports.sort_unstable();
    let copies = ports.len();
    ports.dedup();
    if ports.len() < copies {
        return refuse(
            Code::InvalidArgument,
            format!(
                "multicast group {}: a port is in it twice",
                group.multicast_group_id
            ),
        );
    }
    Ok(ports)
}

#[allow(deprecated, reason = "controllers of P4Runtime before 1.5 send `egress_port`")]
fn replica_port(group: u32, replica: &v1::Replica) -> Result<u16, Refusal> {
    use v1::replica::PortKind;
    let port = match &replica.port_kind {
        Some(PortKind::EgressPort(port)) => u128::from(*port),
        Some(PortKind::Port(bytes)) => crate::entry::number(bytes, 32, "multicast groups", "port")?,
        None => {
            return refuse(
                Code::InvalidArgument,
                format!("multicast group {group}: a replica has no port"),
            );
        }
    };
    u16::try_from(port).or_else(|_| {
        refuse(
            Code::InvalidArgument,
            format!("multicast group {group}: there is no port {port}"),
        )
    })
}
