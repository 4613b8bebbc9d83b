//! The conformance suite over the backend and a P4Runtime server in this process.
#![allow(clippy::unwrap_used, clippy::panic, reason = "a test fails by panicking")]

use std::sync::Arc;
use std::time::Duration;

use portcullis_backend::{TargetHandle, launch};
use portcullis_p4runtime::{Config, P4Backend};
use portcullis_policy::Verdict;
use portcullis_proto::p4::config::v1::P4Info;
use portcullis_proto::p4::v1;
use portcullis_testbed::conformance::p4::{Device, P4Subject, RESYNC};
use portcullis_testbed::conformance::scene::{FLAGS, REMOTE, SOURCE_PORT};
use portcullis_testbed::conformance::{Probe, Watch};
use portcullis_testbed::p4::{Fields, Meddler, P4Server, State};
use tokio::runtime::Runtime;
use tokio::task::JoinHandle;
use tonic::Code;
use v1::entity::Entity;

/// What somebody else is told whose row is there, or is gone, by the time it writes.
const RACES: [Code; 2] = [Code::AlreadyExists, Code::NotFound];

/// A server that carries out the updates of a request one by one: the watch sees each of them.
struct Server(P4Server);

/// What the tables do with a packet, as the control flow of our program asks them.
fn meets(state: &State, probe: &Probe) -> Option<Verdict> {
    let local = u128::from(u32::from(probe.local()));
    let mut packet: Fields = [
        ("port", u128::from(probe.number())),
        ("mac", u128::from(probe.mac())),
        ("kind", 2),
        ("address", local),
        ("ether_type", 0x0800),
        ("protocol", 6),
        ("src_ipv4", local),
        ("dst_ipv4", u128::from(u32::from(REMOTE))),
        ("src_port", u128::from(SOURCE_PORT)),
        ("dst_port", u128::from(probe.port)),
        ("tcp_flags", u128::from(FLAGS)),
    ]
    .into();
    let denies = |met: Option<(String, Vec<u128>)>| met.is_none_or(|(action, _)| action.ends_with("deny"));
    let (action, values) = state.meets("attach", &packet)?;
    if action == "set_guarded_class" {
        let guard = state.meets("guard", &packet);
        let asks = guard
            .as_ref()
            .is_some_and(|(action, _)| action == "check_addresses");
        if denies(guard) || (asks && denies(state.meets("guard_address", &packet))) {
            return Some(Verdict::Deny);
        }
    }
    let lead = values.first().copied().unwrap_or(0);
    let (class, overlay) = (lead & 0xffff, lead >> 16);
    if class == 0 {
        return Some(Verdict::Allow);
    }
    packet.insert("class", class);
    packet.insert("overlay", overlay);
    let remote = state.meets("egress_remote", &packet);
    packet.insert(
        "remote_id",
        remote.and_then(|(_, v)| v.first().copied()).unwrap_or(0),
    );
    let denied = denies(state.meets("egress_policy", &packet));
    Some(if denied { Verdict::Deny } else { Verdict::Allow })
}

impl Device for Server {
    const HISTORIES: u32 = 10;

    fn start(runtime: &Runtime, meddler: &Arc<Meddler>, watch: &Watch) -> Self {
        let server = runtime
            .block_on(P4Server::start_behind(Arc::clone(meddler)))
            .unwrap();
        let watch = watch.clone();
        server.check(Box::new(move |state| {
            watch.see(|probe| meets(state, probe));
            Ok(())
        }));
        Server(server)
    }

    fn launch(address: &str) -> (TargetHandle, JoinHandle<()>) {
        let mut config = Config::new("tor", address, 1);
        config.uplinks = [9].into();
        config.servers = [1, 2, 5].into();
        config.resync_interval = RESYNC;
        launch("tor", P4Backend::new(config).unwrap())
    }

    fn info(&self) -> Option<P4Info> {
        self.0.state().info().cloned()
    }

    fn entities(&self) -> Vec<v1::Entity> {
        let wrap = |entity| v1::Entity { entity: Some(entity) };
        let state = self.0.state();
        let entries = state.entries.values().cloned().map(Entity::TableEntry);
        let groups = state.groups.values().cloned().map(|group| {
            let kind = v1::packet_replication_engine_entry::Type::MulticastGroupEntry(group);
            Entity::PacketReplicationEngineEntry(v1::PacketReplicationEngineEntry { r#type: Some(kind) })
        });
        entries.chain(groups).map(wrap).collect()
    }

    fn executed(&self) -> u64 {
        self.0.state().updates
    }

    fn write(&mut self, update: v1::Update) {
        if let Err((code, why)) = self.0.state().update(update) {
            assert!(RACES.contains(&code), "{code:?}: {why}");
        }
    }

    fn verdict(&self, probe: &Probe) -> Option<Verdict> {
        meets(&self.0.state(), probe)
    }

    fn restart(&mut self, runtime: &Runtime) {
        runtime.block_on(self.0.restart(Duration::ZERO)).unwrap();
    }
}

portcullis_testbed::conformance!(P4Subject<Server>, lacks: []);
