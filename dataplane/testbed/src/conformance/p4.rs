//! A P4Runtime device as a subject: a backend that was launched, a [`Meddler`] between the two, and what differs from one
//! device to another.

use std::collections::BTreeSet;
use std::fmt::Debug;
use std::sync::Arc;
use std::time::Duration;

use portcullis_backend::TargetHandle;
use portcullis_policy::{Document, Verdict};
use portcullis_proto::p4::config::v1::P4Info;
use portcullis_proto::p4::v1;
use tokio::runtime::Runtime;
use tokio::task::JoinHandle;
use v1::entity::Entity;
use v1::field_match::FieldMatchType;
use v1::update::Type;

use super::launched::Launched;
use super::{Fault, Probe, Report, Subject, Watch};
use crate::p4::Meddler;

/// Backends of subjects read back so often.
pub const RESYNC: Duration = Duration::from_millis(100);
/// What marks rows of others.
const THEIRS: &[u8] = b"theirs";

/// A P4Runtime device that the suite runs against.
pub trait Device: Sized {
    /// See [`Subject::HISTORIES`]; slow devices try fewer.
    const HISTORIES: u32;

    /// Starts it behind a meddler. It shows its tables to the watch after every write, in as small steps as it has.
    fn start(runtime: &Runtime, meddler: &Arc<Meddler>, watch: &Watch) -> Self;

    /// Launches a backend for a device at an address, which reads back as often as [`RESYNC`] says.
    fn launch(address: &str) -> (TargetHandle, JoinHandle<()>);

    /// The P4Info in force.
    fn info(&self) -> Option<P4Info>;

    /// All entries and groups.
    fn entities(&self) -> Vec<v1::Entity>;

    /// Updates that it carried out.
    fn executed(&self) -> u64;

    /// Another controller writes; the device may refuse it, since the agent may have been faster.
    fn write(&mut self, update: v1::Update);

    /// What its tables do with a packet.
    fn verdict(&self, probe: &Probe) -> Option<Verdict>;

    /// It comes back empty.
    fn restart(&mut self, runtime: &Runtime);
}

/// A device and its backend.
pub struct P4Subject<D> {
    agent: Launched,
    meddler: Arc<Meddler>,
    device: D,
}

impl<D> Debug for P4Subject<D> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.agent.fmt(f)
    }
}

fn entry(entity: &v1::Entity) -> Option<&v1::TableEntry> {
    match entity.entity.as_ref()? {
        Entity::TableEntry(entry) => Some(entry),
        _ => None,
    }
}

fn is_theirs(entity: &v1::Entity) -> bool {
    entry(entity).is_some_and(|entry| entry.metadata == THEIRS)
}

#[allow(deprecated, reason = "older servers have no other mark")]
fn marked(mut entry: v1::TableEntry, mark: &[u8], number: u64) -> v1::TableEntry {
    entry.metadata = mark.to_vec();
    entry.controller_metadata = number;
    entry
}

fn text(entity: &v1::Entity) -> String {
    match entry(entity) {
        Some(entry) => format!("{:?}", marked(entry.clone(), &[], 0)),
        None => format!("{entity:?}"),
    }
}

impl<D: Device> P4Subject<D> {
    fn table(&self, name: &str) -> Option<u32> {
        let info = self.device.info()?;
        let mut preambles = info.tables.iter().filter_map(|t| t.preamble.as_ref());
        preambles.find(|p| p.alias == name).map(|p| p.id)
    }

    fn ours(&self) -> Vec<v1::TableEntry> {
        let entities = self.device.entities();
        let ours = entities.iter().filter(|e| !is_theirs(e));
        ours.filter_map(entry).cloned().collect()
    }

    fn write(&mut self, kind: Type, entry: v1::TableEntry) {
        self.device.write(v1::Update {
            r#type: kind as i32,
            entity: Some(v1::Entity {
                entity: Some(Entity::TableEntry(entry)),
            }),
        });
    }

    /// The row of a port in `attach`.
    fn attached(&self, port: u8) -> Option<v1::TableEntry> {
        let attach = self.table("attach")?;
        let of_port = |entry: &v1::TableEntry| {
            entry.table_id == attach
                && entry.r#match.iter().any(|m| {
                    matches!(&m.field_match_type, Some(FieldMatchType::Exact(exact)) if exact.value == [port])
                })
        };
        self.ours().into_iter().find(of_port)
    }

    fn delete(&mut self, nth: usize) {
        let ours = self.ours();
        if let Some(entry) = ours.get(nth % ours.len().max(1)) {
            self.write(Type::Delete, entry.clone());
        }
    }

    /// A row does what another row of its table does.
    fn alter(&mut self, nth: usize) {
        let ours = self.ours();
        let altered = |entry: &v1::TableEntry| {
            let other = ours
                .iter()
                .find(|other| other.table_id == entry.table_id && other.action != entry.action)?;
            Some(v1::TableEntry {
                action: other.action.clone(),
                ..entry.clone()
            })
        };
        let altered: Vec<v1::TableEntry> = ours.iter().filter_map(altered).collect();
        if let Some(entry) = altered.get(nth % altered.len().max(1)) {
            self.write(Type::Modify, entry.clone());
        }
    }

    /// A row like that of `web`, at a port without an endpoint.
    fn put_beside(&mut self) {
        let Some(mut entry) = self.attached(1) else { return };
        for matched in &mut entry.r#match {
            if let Some(FieldMatchType::Exact(exact)) = &mut matched.field_match_type {
                exact.value = vec![77];
            }
        }
        self.write(Type::Insert, marked(entry, THEIRS, 7));
    }

    fn put_in_place(&mut self) {
        if let Some(entry) = self.attached(2) {
            self.write(Type::Modify, marked(entry, THEIRS, 7));
        }
    }
}

impl<D: Device> Subject for P4Subject<D> {
    const LACKS: &'static [Fault] = &[];
    const HISTORIES: u32 = D::HISTORIES;
    /// 20 seconds, and more where the machine is slow.
    const PATIENCE: usize = 10_000;

    fn start(watch: Watch) -> Self {
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(2)
            .enable_all()
            .build()
            .unwrap_or_else(|error| panic!("{error}"));
        let meddler = runtime
            .block_on(Meddler::start())
            .unwrap_or_else(|error| panic!("{error}"));
        let device = D::start(&runtime, &meddler, &watch);
        let address = meddler.address();
        P4Subject {
            agent: Launched::new(runtime, Box::new(move || D::launch(&address))),
            meddler,
            device,
        }
    }

    fn attachment(endpoint: &str) -> String {
        let port = if endpoint == "web" { 1 } else { 2 };
        format!("port: {port}, target: tor")
    }

    fn set(&mut self, document: &Document, generation: u64) {
        self.agent.set(document, generation);
    }

    fn turn(&mut self) {
        self.agent.turn();
    }

    fn read_back(&mut self) {
        // One that was going on, and a whole one after it.
        let reads = self.meddler.reads();
        let turns = 0..Self::PATIENCE;
        for _ in turns.take_while(|_| self.meddler.reads() < reads + 2) {
            self.agent.turn();
        }
        self.agent.pass(RESYNC);
    }

    fn report(&self) -> Report {
        self.agent.report()
    }

    fn rows(&self) -> BTreeSet<String> {
        let entities = self.device.entities();
        entities.iter().filter(|e| !is_theirs(e)).map(text).collect()
    }

    fn others(&self) -> BTreeSet<String> {
        let entities = self.device.entities();
        entities.iter().filter(|e| is_theirs(e)).map(text).collect()
    }

    fn others_leave(&mut self) {
        for entity in self.device.entities().iter().filter(|e| is_theirs(e)) {
            if let Some(entry) = entry(entity) {
                self.write(Type::Delete, entry.clone());
            }
        }
    }

    fn executed(&self) -> u64 {
        self.device.executed()
    }

    fn verdict(&self, probe: &Probe) -> Option<Verdict> {
        self.device.verdict(probe)
    }

    fn fault(&mut self, fault: Fault, nth: usize) -> bool {
        match fault {
            Fault::Restart => {
                self.meddler.cut();
                self.device.restart(&self.agent.runtime);
            }
            Fault::DeleteRow => self.delete(nth),
            Fault::AlterRow => self.alter(nth),
            Fault::ForeignRow => self.put_beside(),
            Fault::ForeignInPlace => self.put_in_place(),
            _ => self.meddler.arm(fault, nth),
        }
        true
    }

    fn met(&self) -> u64 {
        self.meddler.met()
    }

    fn is_held(&self) -> bool {
        self.meddler.is_held()
    }

    fn release(&mut self) {
        self.meddler.release();
    }

    fn restart_agent(&mut self) {
        self.agent.restart();
    }
}
