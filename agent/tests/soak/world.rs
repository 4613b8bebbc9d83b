//! A switch of either kind, servers, an agent that is a process of its own, and its API.

use std::time::{Duration, Instant, SystemTime};

use portcullis_proto::v1;
use portcullis_proto::v1::unlock_service_client::UnlockServiceClient;
use portcullis_testbed::NetnsHost;
use tempfile::TempDir;
use tokio::runtime::Runtime;
use tonic::Status;
use tonic::transport::Channel;

use super::judge::Micros;
use super::policy::{NAMES, Policy, SERVERS, number};
use crate::bed::{Agent, Bed, Kind};
use crate::small::Small;
use crate::support::Client;

/// Nothing takes so long, whatever else the machine does.
const PATIENCE: Duration = Duration::from_secs(60);

pub struct World {
    runtime: Runtime,
    agent: Option<Agent>,
    client: Option<Client>,
    pub bed: Bed,
    pub hosts: Vec<NetnsHost>,
    /// Unmounted before its folder is removed.
    pub disk: Small,
    folder: TempDir,
}

impl World {
    /// For a run of this many seconds: the database grows by about 20 KiB in each.
    pub fn new(kind: Kind, seconds: u64) -> Self {
        let names = NAMES.iter().enumerate();
        let names: Vec<_> = names.map(|(host, name)| (*name, number(host))).collect();
        let (bed, hosts) = Bed::new(kind, &names);
        let mib = 24 + u32::try_from(seconds / 20).expect("a run of days");
        let (disk, folder) = Small::new(mib);
        let mut world = World {
            runtime: Runtime::new().unwrap(),
            agent: None,
            client: None,
            bed,
            hosts,
            disk,
            folder,
        };
        world.start_agent();
        world
    }

    pub fn start_agent(&mut self) {
        let more = "[audit]\nfree_disk_mib = 0\n";
        let (agent, socket) = self.bed.start_agent(self.folder.path(), more);
        self.agent = Some(agent);
        self.client = Some(self.runtime.block_on(Client::unix(&socket)));
    }

    /// Kills the agent with SIGKILL.
    pub fn kill_agent(&mut self) {
        self.client = None;
        self.agent = None;
        // Otherwise a connection could be made to a socket without a process.
        let _ = std::fs::remove_file(self.bed.sandbox.dir().join("agent.sock"));
    }

    /// Whether there is an agent.
    pub fn is_there(&self) -> bool {
        self.agent.is_some()
    }

    fn document(&self, policy: &Policy) -> String {
        policy.document(std::array::from_fn(|server| self.bed.attachment(server)))
    }

    pub fn client(&self) -> Client {
        self.client.clone().unwrap()
    }

    fn unlocks(&self) -> UnlockServiceClient<Channel> {
        UnlockServiceClient::new(self.client().channel)
    }

    pub fn apply(&self, policy: &Policy) -> Result<(), Status> {
        self.runtime
            .block_on(self.client().apply(&self.document(policy)))
            .map(drop)
    }

    /// The same, without waiting for the answer.
    pub fn apply_and_forget(&self, policy: &Policy) {
        let (mut client, document) = (self.client(), self.document(policy));
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
                self.bed.log()
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
}

/// A range from `8000` or `8000-8002`.
fn range(text: &str) -> std::ops::RangeInclusive<u16> {
    let (low, high) = text.split_once('-').unwrap_or((text, text));
    low.parse().unwrap()..=high.parse().unwrap()
}
