//! The conformance suite over the backend and this switch's own server, on an engine without DPDK: what a probe meets is what
//! workers would do with its frame.
#![allow(clippy::unwrap_used, clippy::panic, reason = "a test fails by panicking")]

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

use portcullis_backend::{TargetHandle, launch};
use portcullis_fastpath::{DropReason, Snapshot, Tables, Tally};
use portcullis_p4runtime::{Config, P4Backend, PipelineSource};
use portcullis_policy::Verdict;
use portcullis_proto::p4::config::v1::P4Info;
use portcullis_proto::p4::v1;
use portcullis_switch::{Counters, Engine, Hub, Service, Sums};
use portcullis_testbed::conformance::p4::{Device, P4Subject, RESYNC};
use portcullis_testbed::conformance::{Probe, Watch};
use portcullis_testbed::p4::Meddler;
use tokio::net::TcpListener;
use tokio::runtime::{Handle, Runtime};
use tokio::task::JoinHandle;
use tokio_stream::wrappers::TcpListenerStream;
use tonic::Code;
use tonic::transport::Server;
use v1::entity::Entity;

const DEVICE: u64 = 7;
/// What somebody else is told whose row is there, or is gone, by the time it writes.
const RACES: [Code; 2] = [Code::AlreadyExists, Code::NotFound];

/// An engine that serves, and what its workers forward by.
struct Running {
    engine: Arc<Engine>,
    hub: Arc<Hub>,
    server: JoinHandle<()>,
}

impl Running {
    async fn start(meddler: &Arc<Meddler>) -> Running {
        let tables = Tables::default();
        let hub = Hub::new(tables.current(), 0);
        let sums = Sums::new(vec![Counters::new()]);
        let engine = Arc::new(Engine::new(tables, Arc::clone(&hub), sums));
        let service = Service::new(Arc::clone(&engine), DEVICE);
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        meddler.lead(listener.local_addr().unwrap());
        let server = Server::builder().add_service(meddler.before(service.server()));
        let served = server.serve_with_incoming(TcpListenerStream::new(listener));
        let server = tokio::spawn(async move { served.await.unwrap() });
        Running { engine, hub, server }
    }
}

struct Embedded {
    running: Arc<Mutex<Running>>,
    meddler: Arc<Meddler>,
    /// Write calls that were carried out.
    writes: Arc<AtomicU64>,
    handle: Handle,
}

/// Why a frame went nowhere.
#[derive(Default)]
struct Drops(Vec<DropReason>);

impl Tally for Drops {
    fn hit(&mut self, _: u32, _: u32) {}

    fn dropped(&mut self, _: u16, why: DropReason) {
        self.0.push(why);
    }
}

/// What becomes of the probe's frame at its sender. Whom it reaches is no matter.
fn meets(snapshot: &Snapshot, probe: &Probe) -> Option<Verdict> {
    let (mut drops, mut list) = (Drops::default(), Vec::new());
    snapshot.process(&probe.frame(), probe.number().into(), &mut list, &mut drops);
    if drops.0.contains(&DropReason::UnknownSender) {
        return None;
    }
    let at_the_sender = [
        DropReason::Runt,
        DropReason::GuardMac,
        DropReason::GuardAddress,
        DropReason::GuardNeighbour,
        DropReason::EgressPolicy,
    ];
    let denied = drops.0.iter().any(|why| at_the_sender.contains(why));
    Some(if denied { Verdict::Deny } else { Verdict::Allow })
}

impl Embedded {
    fn engine(&self) -> Arc<Engine> {
        Arc::clone(&self.running.lock().unwrap().engine)
    }
}

impl Device for Embedded {
    const HISTORIES: u32 = 10;

    fn start(runtime: &Runtime, meddler: &Arc<Meddler>, watch: &Watch) -> Self {
        let running = Arc::new(Mutex::new(runtime.block_on(Running::start(meddler))));
        let writes = Arc::new(AtomicU64::new(0));
        let (seen, counted, watch) = (Arc::clone(&running), Arc::clone(&writes), watch.clone());
        meddler.written(Box::new(move || {
            counted.fetch_add(1, Ordering::Relaxed);
            let mut view = seen.lock().unwrap().hub.view(usize::MAX);
            let snapshot = view.newest();
            watch.see(|probe| meets(snapshot, probe));
        }));
        Embedded {
            running,
            meddler: Arc::clone(meddler),
            writes,
            handle: runtime.handle().clone(),
        }
    }

    fn launch(address: &str) -> (TargetHandle, JoinHandle<()>) {
        let mut config = Config::new("tor", address, DEVICE);
        config.program = PipelineSource::Embedded;
        config.uplinks = [9].into();
        config.servers = [1, 2, 5].into();
        config.resync_interval = RESYNC;
        launch("tor", P4Backend::new(config).unwrap())
    }

    fn info(&self) -> Option<P4Info> {
        self.handle.block_on(self.engine().config())?.p4info
    }

    fn entities(&self) -> Vec<v1::Entity> {
        use v1::packet_replication_engine_entry::Type;
        let groups = v1::PacketReplicationEngineEntry {
            r#type: Some(Type::MulticastGroupEntry(v1::MulticastGroupEntry::default())),
        };
        let wrap = |entity| v1::Entity { entity: Some(entity) };
        let asked = [
            wrap(Entity::TableEntry(v1::TableEntry::default())),
            wrap(Entity::PacketReplicationEngineEntry(groups)),
        ];
        // Before there is a program there is nothing.
        match self.handle.block_on(self.engine().read(&asked)) {
            Ok((found, refused)) => {
                assert!(refused.is_empty(), "{refused:?}");
                found
            }
            Err(_) => Vec::new(),
        }
    }

    fn executed(&self) -> u64 {
        self.writes.load(Ordering::Relaxed)
    }

    fn write(&mut self, update: v1::Update) {
        let engine = self.engine();
        let written = self.handle.block_on(engine.write(&[update], true, || Ok(())));
        for (_, refusal) in written.unwrap() {
            assert!(RACES.contains(&refusal.code), "{refusal:?}");
        }
    }

    fn verdict(&self, probe: &Probe) -> Option<Verdict> {
        let mut view = self.running.lock().unwrap().hub.view(usize::MAX);
        meets(view.newest(), probe)
    }

    fn restart(&mut self, runtime: &Runtime) {
        self.running.lock().unwrap().server.abort();
        let fresh = runtime.block_on(Running::start(&self.meddler));
        self.meddler.cut();
        *self.running.lock().unwrap() = fresh;
    }
}

portcullis_testbed::conformance!(P4Subject<Embedded>, lacks: []);
