//! A bridge of a real ovs-vswitchd, servers, an agent that is a process of its own, and its API.

use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant, SystemTime};

use portcullis_proto::v1;
use portcullis_proto::v1::unlock_service_client::UnlockServiceClient;
use portcullis_testbed::{EndpointSpec, NetnsHost, Sandbox, SandboxOptions};
use tempfile::TempDir;
use tokio::runtime::Runtime;
use tonic::Status;
use tonic::transport::Channel;

use super::judge::Micros;
use super::policy::{NAMES, Policy, SERVERS, number};
use crate::small::Small;
use crate::support::Client;

/// Nothing takes so long, whatever else the machine does.
const PATIENCE: Duration = Duration::from_secs(60);

/// An agent; killed when it is dropped.
struct Agent(Child);

impl Drop for Agent {
    fn drop(&mut self) {
        // It may have ended already.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

pub struct World {
    runtime: Runtime,
    agent: Option<Agent>,
    client: Option<Client>,
    pub sandbox: Sandbox,
    pub hosts: Vec<NetnsHost>,
    /// Unmounted before its folder is removed.
    pub disk: Small,
    folder: TempDir,
}

impl World {
    pub fn new() -> Self {
        let sandbox = Sandbox::start(SandboxOptions::default()).unwrap();
        let hosts = NAMES.iter().enumerate().map(|(host, name)| {
            let spec = EndpointSpec {
                iface_id: Some(format!("id-{name}")),
                ..EndpointSpec::numbered(name, number(host))
            };
            sandbox.add_endpoint(spec).unwrap()
        });
        let hosts = hosts.collect();
        let (disk, folder) = Small::new(24);
        let mut world = World {
            runtime: Runtime::new().unwrap(),
            agent: None,
            client: None,
            sandbox,
            hosts,
            disk,
            folder,
        };
        world.start_agent();
        world
    }

    pub fn start_agent(&mut self) {
        let (at, files) = (self.sandbox.dir().display(), self.folder.path().display());
        let text = format!(
            "[audit]\nfree_disk_mib = 0\n[store]\npath = \"{files}/p.db\"\n[api]\nsocket = \"{at}/agent.sock\"\n\
             [[target]]\nname = \"ovs\"\nkind = \"ovs\"\novsdb = \"unix:{at}/db.sock\"\nuplinks = [\"internet\"]\n"
        );
        let config = self.sandbox.dir().join("agent.toml");
        std::fs::write(&config, text).unwrap();
        let log = std::fs::File::options()
            .create(true)
            .append(true)
            .open(self.sandbox.dir().join("agent.log"))
            .unwrap();
        let child = Command::new(env!("CARGO_BIN_EXE_portcullis"))
            .args(["agent", "--config"])
            .arg(&config)
            .stdout(Stdio::null())
            .stderr(log)
            .spawn()
            .unwrap();
        self.agent = Some(Agent(child));
        let socket = self.sandbox.dir().join("agent.sock");
        self.client = Some(self.runtime.block_on(Client::unix(&socket)));
    }

    /// SIGKILL.
    pub fn kill_agent(&mut self) {
        self.client = None;
        self.agent = None;
        // Otherwise a connection could be made to a socket without a process.
        let _ = std::fs::remove_file(self.sandbox.dir().join("agent.sock"));
    }

    /// Whether there is an agent.
    pub fn is_there(&self) -> bool {
        self.agent.is_some()
    }

    /// The end of the agent's log, for a failure.
    pub fn log(&self) -> String {
        let text = std::fs::read_to_string(self.sandbox.dir().join("agent.log")).unwrap_or_default();
        let lines: Vec<&str> = text.lines().collect();
        lines[lines.len().saturating_sub(60)..].join("\n")
    }

    pub fn client(&self) -> Client {
        self.client.clone().unwrap()
    }

    fn unlocks(&self) -> UnlockServiceClient<Channel> {
        UnlockServiceClient::new(self.client().channel)
    }

    pub fn apply(&self, policy: &Policy) -> Result<(), Status> {
        self.runtime
            .block_on(self.client().apply(&policy.document()))
            .map(drop)
    }

    /// The same, without waiting for the answer.
    pub fn apply_and_forget(&self, policy: &Policy) {
        let (mut client, document) = (self.client(), policy.document());
        self.runtime.spawn(async move { client.apply(&document).await });
    }

    /// Gives one server its own rules.
    pub fn provision(&self, policy: &Policy, server: usize) -> Result<(), Status> {
        let rule = |name: String, allows: bool, direction: v1::Direction, port: u16| v1::Rule {
            name,
            action: if allows {
                v1::Action::Allow
            } else {
                v1::Action::Deny
            }
            .into(),
            direction: direction.into(),
            protocol: "udp".to_string(),
            ports: vec![port.to_string()],
            ..Default::default()
        };
        let own = policy.own[server].iter();
        let own =
            own.map(|(port, allows)| rule(format!("own-{port}"), *allows, v1::Direction::Egress, *port));
        let entering = policy.entering[server].iter();
        let entering = entering.map(|port| rule(format!("in-{port}"), false, v1::Direction::Ingress, *port));
        let rules = own.chain(entering).collect();
        self.runtime.block_on(async {
            let mut client = self.client();
            let mut endpoint = client.endpoint(NAMES[server]).await?;
            endpoint.rules = rules;
            client.provision(endpoint).await.map(drop)
        })
    }

    /// The document in force, as it was written.
    pub fn rules(&self) -> Policy {
        let mut policy = Policy::default();
        self.runtime.block_on(async {
            let mut client = self.client();
            let request = v1::GetBaselineRequest {};
            let baseline = client.baseline.get_baseline(request).await.unwrap().into_inner();
            let drawn = baseline.rules.iter().filter(|rule| rule.name == "drawn");
            let ports = drawn.flat_map(|rule| &rule.ports);
            policy.baseline = ports.flat_map(|text| range(text)).collect();
            for (server, name) in NAMES.iter().enumerate().take(SERVERS) {
                for rule in client.endpoint(name).await.unwrap().rules {
                    let port = rule.ports[0].parse().unwrap();
                    if rule.direction() == v1::Direction::Ingress {
                        policy.entering[server].insert(port);
                    } else {
                        policy.own[server].insert(port, rule.action() == v1::Action::Allow);
                    }
                }
            }
        });
        policy
    }

    /// Waits until status says that the newest generation is in force, with every server in place.
    pub fn realized(&self) {
        let end = Instant::now() + PATIENCE;
        loop {
            let request = v1::WaitRealizedRequest {
                generation: 0,
                timeout_ms: 1_000,
            };
            let answer = self
                .runtime
                .block_on(self.client().targets.wait_realized(request));
            let answer = answer.unwrap().into_inner();
            let in_place = |t: &v1::Target| t.endpoints_realized == SERVERS as u64 && t.pending.is_empty();
            if answer.realized && answer.targets.iter().all(in_place) {
                return;
            }
            assert!(
                Instant::now() < end,
                "not realized in time: {answer:#?}\n{}",
                self.log()
            );
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    /// Asks for an unlock and waits until it is granted; its name and the moment of its end.
    pub fn unlock(
        &self,
        server: usize,
        seconds: u64,
        now: impl Fn() -> Micros,
    ) -> Result<(String, Micros), Status> {
        let request = v1::RequestUnlockRequest {
            program: "game".to_string(),
            endpoint: NAMES[server].to_string(),
            lease_seconds: seconds,
            ..Default::default()
        };
        self.runtime.block_on(async {
            let mut api = self.unlocks();
            let id = api.request_unlock(request).await?.into_inner().id;
            let end = Instant::now() + PATIENCE;
            loop {
                let request = v1::UnlockRequest { id: id.clone() };
                let unlock = api.get_unlock(request).await?.into_inner();
                if unlock.granted_at > 0 {
                    let wall = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap();
                    let left = unlock.expires_at * 1_000_000 - wall.as_micros() as i64;
                    return Ok((id, now().saturating_add_signed(left)));
                }
                assert!(Instant::now() < end, "not granted: {unlock:#?}");
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        })
    }

    pub fn revoke(&self, id: &str) -> v1::Closing {
        let request = v1::DecideUnlockRequest {
            id: id.to_string(),
            reason: "it is over".to_string(),
            quarantine: false,
        };
        let answer = self.runtime.block_on(self.unlocks().revoke(request));
        answer.unwrap().into_inner().closing.unwrap()
    }

    pub fn store(&self) -> v1::StoreStatus {
        let request = v1::ListTargetsRequest {};
        let answer = self.runtime.block_on(self.client().targets.list_targets(request));
        answer.unwrap().into_inner().store.unwrap()
    }

    pub fn until_stored(&self) {
        let end = Instant::now() + PATIENCE;
        loop {
            let store = self.store();
            if store.waiting == 0 && store.problem.is_empty() {
                return;
            }
            assert!(Instant::now() < end, "not stored in time: {store:?}");
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    /// Frames that this ovs-vswitchd has dropped by itself, and not by a row: while it reconfigures its upcalls it holds their
    /// lock, and a frame of no cached flow is dropped then (lib/dpif-netdev.c). Its threads count up to a second late.
    pub fn dropped_by_switch(&self) -> Option<u64> {
        let counters = [
            "datapath_drop_lock_error",
            "datapath_drop_upcall_error",
            "datapath_drop_invalid_port",
            "datapath_drop_recirc_error",
        ];
        let mut sum = 0;
        for counter in counters {
            let text = self.sandbox.appctl(["coverage/read-counter", counter]).ok()?;
            sum += text.trim().parse::<u64>().ok()?;
        }
        Some(sum)
    }

    /// SIGKILL for ovs-vswitchd.
    pub fn kill_vswitchd(&self) {
        let pid = self.sandbox.vswitchd_pid().unwrap().to_string();
        let killed = Command::new("kill").args(["-KILL", &pid]).status().unwrap();
        assert!(killed.success());
    }
}

/// `8000`, or `8000-8002`.
fn range(text: &str) -> std::ops::RangeInclusive<u16> {
    let (low, high) = text.split_once('-').unwrap_or((text, text));
    low.parse().unwrap()..=high.parse().unwrap()
}
