//! Configuration of a P4Runtime target.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::time::Duration;

use portcullis_backend::OnGap;
use portcullis_backend::timers::RESYNC_INTERVAL;
use portcullis_compiler::StageModel;
use portcullis_compiler::model::Role;

use crate::attachment_points::KnownPorts;
use crate::behind::Inner;
use crate::mapping::Mapping;
use crate::wire::Tag;

/// How ports match in our own program.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum PortMatching {
    /// As ranges: fewer rows.
    #[default]
    Range,
    /// As value and mask, for devices without range tables.
    Ternary,
}

/// What the device shall run.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum PipelineSource {
    /// Our own program, put there where it is not.
    Own(PortMatching),
    /// The same with ports as ranges and larger tables: the embedded switch has room for a data centre's endpoints.
    Embedded,
    /// Whatever it runs, as this mapping reads it; by names without one. Never replaced.
    Device(Option<Mapping>),
}

/// Files for TLS, read anew for every connection.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Tls {
    /// Certificates of the authorities that the device's is signed by.
    pub ca: PathBuf,
    /// Own certificate and key, where the device asks for one.
    pub client: Option<(PathBuf, PathBuf)>,
    /// The name in the device's certificate, when it is not that of the address.
    pub domain: Option<String>,
}

/// How much of a device's policy tables our rows may take.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Room {
    /// Rows in each policy table, rows of others not counted; what the program declares when absent.
    pub max_rows: Option<u64>,
    /// Rows of each that are kept free once rules were left to nearer targets, at most half of them; a sixteenth when absent.
    pub reserve: Option<u64>,
}

impl Room {
    /// A sixteenth of a table is kept free.
    const RESERVE: u64 = 16;

    /// Bounds the policy tables of a model.
    pub(crate) fn bound(self, model: &mut StageModel) {
        for table in model.tables.iter_mut().filter(|t| t.stage == Role::Policy) {
            table.most = self.max_rows;
            let size = table.size.into_iter().chain(table.most).min();
            let reserve = self.reserve.or(size.map(|size| size / Self::RESERVE));
            table.reserve = reserve.unwrap_or(0).min(size.map_or(0, |size| size / 2));
        }
    }
}

/// Configuration of one target that is a P4Runtime device.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Config {
    /// Name of the target, as in `agent.toml`.
    pub name: String,
    /// `HOST:PORT` of its P4Runtime server, or `unix:/PATH`.
    pub address: String,
    /// Id of the device at its server (`device_id` of every request).
    pub device_id: u64,
    /// The role; empty for the one that may do everything.
    pub role: String,
    /// Who has the highest is the primary.
    pub election_id: u128,
    /// What it shall run.
    pub program: PipelineSource,
    /// What becomes of a change that a program which is not ours holds in part.
    pub on_gap: OnGap,
    /// How much of its policy tables our rows may take.
    pub room: Room,
    /// Whether it forwards in hardware, as placement tells it.
    pub hardware: bool,
    /// Whether a foreign program is replaced by ours.
    pub overwrite: bool,
    /// Ports that are no servers.
    pub uplinks: BTreeSet<u32>,
    /// Ports of servers, with or without an endpoint.
    pub servers: BTreeSet<u32>,
    /// Targets that are cabled to a port, nearer to the endpoints.
    pub behind: BTreeMap<u32, Vec<Inner>>,
    /// The mark of our rows.
    pub tag: Tag,
    /// TLS, when the device speaks it.
    pub tls: Option<Tls>,
    /// How often the rows are read back.
    pub resync_interval: Duration,
}

impl Config {
    /// The mark of our rows, unless the configuration has another.
    pub const DEFAULT_TAG: u16 = 0x5043;

    /// Our own program with port ranges, role and TLS unset, election id 1.
    pub fn new(name: &str, address: &str, device_id: u64) -> Self {
        Config {
            name: name.to_string(),
            address: address.to_string(),
            device_id,
            role: String::new(),
            election_id: 1,
            program: PipelineSource::Own(PortMatching::Range),
            on_gap: OnGap::Refuse,
            room: Room::default(),
            hardware: true,
            overwrite: false,
            uplinks: BTreeSet::new(),
            servers: BTreeSet::new(),
            behind: BTreeMap::new(),
            tag: Tag(Self::DEFAULT_TAG),
            tls: None,
            resync_interval: RESYNC_INTERVAL,
        }
    }

    /// The ports it names.
    pub fn known(&self) -> KnownPorts {
        KnownPorts {
            target: self.name.clone(),
            uplinks: self.uplinks.clone(),
            servers: self.servers.clone(),
            behind: self.behind.clone(),
        }
    }
}
