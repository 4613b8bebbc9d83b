//! What the tests on the real switch share: a private OVS-DPDK, hosts in namespaces, the backend, an intent.
#![allow(dead_code)]

pub mod frames;

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::{Duration, Instant};

use portcullis_backend::{SessionState, TargetHandle, Trace, Unstored, launch};
use portcullis_compiler::{Compiler, Intent};
use portcullis_ovs::tables::Table;
use portcullis_ovs::{Config, OvsBackend};
use portcullis_policy::{Direction, Document, Fragment, IpPacket, L4};
use portcullis_testbed::probe::TcpOutcome;
use portcullis_testbed::{EndpointSpec, NetnsHost, Sandbox, SandboxOptions};
use tokio::runtime::Runtime;
use tokio::task::JoinHandle;

pub struct Rig {
    pub sandbox: Sandbox,
    pub runtime: Runtime,
    pub config: Config,
    pub compiler: Compiler,
    pub generation: u64,
    pub target: TargetHandle,
    /// What outlives an agent.
    records: Arc<Unstored>,
    task: Option<JoinHandle<()>>,
}

/// Its number, where the pipeline begins in the bridge's first table.
pub fn number(table: Table) -> u8 {
    table as u8
}

pub const PATIENCE: Duration = Duration::from_secs(20);

impl Rig {
    /// A bridge with these hosts, host `n` being `192.0.2.n`, `2001:db8::n`, `02:00:00:00:00:0n`.
    pub fn start(
        options: SandboxOptions,
        hosts: &[(&str, u8)],
        tune: impl FnOnce(&mut Config),
    ) -> (Rig, Vec<NetnsHost>) {
        // Bridges of the kernel's datapath have to be named.
        let bridge = options.kernel.then(|| options.bridge.clone());
        let sandbox = Sandbox::start(options).unwrap();
        let hosts = hosts
            .iter()
            .map(|(name, n)| sandbox.add_endpoint(EndpointSpec::numbered(name, *n)).unwrap())
            .collect();
        let mut config = Config::new("ovs", &format!("unix:{}", sandbox.ovsdb_socket().display()));
        config.bridge = bridge;
        config.uplinks = vec!["internet".to_string()];
        config.resync_interval = Duration::from_millis(1500);
        tune(&mut config);
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(2)
            .enable_all()
            .build()
            .unwrap();
        let records = Arc::new(Unstored::default());
        let (target, task) = {
            let _entered = runtime.enter();
            launch("ovs", OvsBackend::with_records(config.clone(), records.clone()))
        };
        let rig = Rig {
            sandbox,
            runtime,
            config,
            compiler: Compiler::default(),
            generation: 0,
            target,
            records,
            task: Some(task),
        };
        (rig, hosts)
    }

    pub fn stop_agent(&mut self) {
        if let Some(task) = self.task.take() {
            task.abort();
            let _ended = self.runtime.block_on(task);
        }
    }

    /// A new agent process, as far as the switch can tell.
    pub fn restart_agent(&mut self) {
        if let Some(task) = self.task.take() {
            task.abort();
        }
        let _entered = self.runtime.enter();
        let backend = OvsBackend::with_records(self.config.clone(), self.records.clone());
        let (target, task) = launch("ovs", backend);
        self.target = target;
        self.task = Some(task);
    }

    pub fn set(&mut self, yaml: &str) -> Arc<Intent> {
        self.set_document(&Document::from_yaml(yaml).unwrap())
    }

    pub fn set_document(&mut self, document: &Document) -> Arc<Intent> {
        self.generation += 1;
        let intent = self.compiler.resolve(document, self.generation).unwrap();
        self.target.check(&intent).unwrap();
        self.target.set_intent(Arc::clone(&intent));
        intent
    }

    /// While status calls the target in sync, `explain` finds every row that decides about the endpoints' packets.
    pub fn agrees(&self, intent: &Intent) {
        for endpoint in intent.endpoints.keys() {
            for direction in Direction::BOTH {
                let trace = Trace {
                    direction,
                    ..egress_tcp(endpoint.as_str(), 25)
                };
                // An endpoint that is not plugged in has no rows.
                let Ok(rows) = self.runtime.block_on(self.target.explain(trace)) else {
                    continue;
                };
                let in_sync = self.target.status().state == SessionState::InSync;
                let missing: Vec<_> = rows.iter().filter(|row| !row.present).collect();
                assert!(!in_sync || missing.is_empty(), "in sync without {missing:#?}");
            }
        }
    }

    /// Sets a document and waits until the switch holds it.
    pub fn apply(&mut self, yaml: &str) -> Arc<Intent> {
        let intent = self.set(yaml);
        self.realized();
        self.agrees(&intent);
        intent
    }

    pub fn realized(&self) {
        self.until("realized", |s| {
            s.state == SessionState::InSync && s.applied == self.generation
        });
    }

    pub fn until(&self, what: &str, done: impl Fn(&portcullis_backend::TargetStatus) -> bool) {
        let end = Instant::now() + PATIENCE;
        while !done(&self.target.status()) {
            assert!(
                Instant::now() < end,
                "not {what} in time: {:#?}",
                self.target.status()
            );
            std::thread::sleep(Duration::from_millis(10));
        }
    }

    /// Waits until the bridge holds exactly these flows and the agent calls it in sync.
    ///
    /// A count of repaired rows does not say that all of them are: the agent's own reading back may fall between two
    /// commands of a test.
    pub fn holds(&self, what: &str, want: &[String]) {
        let end = Instant::now() + PATIENCE;
        loop {
            let flows = self.flows();
            let status = self.target.status();
            if flows == want && status.state == SessionState::InSync {
                return;
            }
            let differ =
                |a: &[String], b: &[String]| a.iter().filter(|f| !b.contains(f)).cloned().collect::<Vec<_>>();
            assert!(
                Instant::now() < end,
                "not {what} in time: missing {:#?}, surplus {:#?}, {status:#?}",
                differ(want, &flows),
                differ(&flows, want),
            );
            std::thread::sleep(Duration::from_millis(50));
        }
    }

    /// Every flow of the bridge as `ovs-ofctl` prints it, without counters, sorted: the independent witness.
    ///
    /// Without rows that are not compared by design (bit 47 of their cookie, and 46 and 45 with it): what the switch
    /// learned, which depends on who happened to speak when, and the nudge (`Session::nudge`), which no packet can meet and
    /// which is written when the switch is slow to look through its caches.
    pub fn flows(&self) -> Vec<String> {
        let text = self
            .sandbox
            .ofctl(["-O", "OpenFlow15", "--no-stats", "dump-flows", &self.bridge()])
            .unwrap();
        let mut flows: Vec<String> = text
            .lines()
            .map(str::trim)
            .filter(|l| !l.starts_with("OFPST"))
            .filter(|l| {
                !["8", "c", "e"]
                    .iter()
                    .any(|bits| l.starts_with(&format!("cookie=0x5043{bits}")))
            })
            .map(str::to_string)
            .collect();
        flows.sort();
        flows
    }

    pub fn bridge(&self) -> String {
        format!("unix:{}", self.sandbox.mgmt_socket("br0").display())
    }
}

impl Drop for Rig {
    fn drop(&mut self) {
        self.target.stop();
        if let Some(task) = self.task.take() {
            let _stopped = self
                .runtime
                .block_on(async { tokio::time::timeout(Duration::from_secs(2), task).await });
        }
    }
}

/// The first packet of a TCP connection from an endpoint at 192.0.2.1 to a port of 192.0.2.9.
pub fn egress_tcp(endpoint: &str, port: u16) -> Trace {
    let packet = IpPacket {
        local: "192.0.2.1".parse().unwrap(),
        remote: "192.0.2.9".parse().unwrap(),
        protocol: Some(6),
        fragment: Fragment::Whole,
        l4: L4::Ports {
            src: 40_000,
            dst: port,
            flags: 2,
        },
    };
    Trace {
        endpoint: endpoint.parse().unwrap(),
        direction: Direction::Egress,
        packet,
    }
}

pub fn v4(n: u8, port: u16) -> SocketAddr {
    SocketAddr::new(IpAddr::from([192, 0, 2, n]), port)
}

pub fn v6(n: u8, port: u16) -> SocketAddr {
    SocketAddr::new(format!("2001:db8::{n:x}").parse().unwrap(), port)
}

pub fn connects(from: &NetnsHost, to: SocketAddr) -> bool {
    matches!(
        from.tcp_connect(to, Duration::from_millis(2500)).unwrap(),
        TcpOutcome::Open(_)
    )
}
