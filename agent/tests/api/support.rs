//! An agent in this process, or as one of its own, and clients for it.

use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;
use portcullis::config::{self, Config};
use portcullis::daemon::{Agent, AgentError};
use portcullis::targets::Launched;
use portcullis_backend::{
    Backend, Carried, Check, Cost, EnforcingRow, Hit, Offload, Plan, Query, QueryError, RuleOffload,
    SessionState, TablePlan, TargetContext, TargetStatus, launch,
};
use portcullis_compiler::{
    Class, CompileError, Counterexample, EndpointIntent, Intent, RowCache, StageModel, Unsupported,
};
use portcullis_policy::{Frame, Packet, Verdict};
use portcullis_proto::v1;
use portcullis_proto::v1::baseline_service_client::BaselineServiceClient;
use portcullis_proto::v1::endpoint_service_client::EndpointServiceClient;
use portcullis_proto::v1::policy_service_client::PolicyServiceClient;
use portcullis_proto::v1::profile_service_client::ProfileServiceClient;
use portcullis_proto::v1::target_service_client::TargetServiceClient;
use tonic::transport::{Channel, Endpoint};
use tonic::{Code, Status};
use tonic_types::StatusExt;

/// The example of the docs, smaller and with a second endpoint: tests count resources, pages and rows of it, so it does not
/// change with what the docs explain.
pub const DOCUMENT: &str = r#"
version: portcullis/v1
baseline:
  - {name: smtp, action: deny, direction: egress, protocol: tcp, ports: [25], reason: "spam"}
profiles:
  web:
    default: {ingress: deny}
    rules:
      - {name: http, action: allow, direction: ingress, protocol: tcp, ports: [80, 443]}
      - {name: admin, action: allow, direction: ingress, protocol: tcp, ports: [22], remote: [198.51.100.0/24, "2001:db8:1::/48"]}
endpoints:
  web1:
    attachments: [{interface: web1}]
    macs: ["02:00:00:00:00:01"]
    addresses: [192.0.2.10, "2001:db8::10"]
    profiles: [web]
    labels: {tenant: acme}
  mail1:
    attachments: [{iface_id: 7d2c}]
    macs: ["02:00:00:00:00:02"]
    addresses: [192.0.2.20]
"#;

/// A target in memory. It compiles and proves for real; what it refuses, holds back and answers can be set.
#[derive(Debug)]
pub struct Fake {
    /// Compiling waits while somebody holds it.
    pub programs: Mutex<RowCache>,
    /// Intents it began to check, and pairs of classes.
    pub checks: AtomicU64,
    /// Every intent it was given.
    pub intents: Mutex<Vec<Arc<Intent>>>,
    /// Holds intents without applying them while set.
    pub held: AtomicBool,
    /// Answers no question while set.
    pub deaf: AtomicBool,
    /// Never ends when told to stop while set.
    pub stubborn: AtomicBool,
    /// Ends by itself when told.
    pub end: tokio::sync::Notify,
    /// Looks at `held` again when told.
    pub wake: tokio::sync::Notify,
}

impl Default for Fake {
    fn default() -> Self {
        Fake {
            programs: Mutex::new(RowCache::new(StageModel::ovs())),
            checks: AtomicU64::new(0),
            intents: Mutex::default(),
            held: AtomicBool::new(false),
            deaf: AtomicBool::new(false),
            stubborn: AtomicBool::new(false),
            end: tokio::sync::Notify::new(),
            wake: tokio::sync::Notify::new(),
        }
    }
}

impl Fake {
    pub fn newest(&self) -> Arc<Intent> {
        Arc::clone(self.intents.lock().unwrap().last().expect("an intent"))
    }

    fn answer(&self, query: Query) {
        let deaf = || QueryError::NotReady {
            target: "fake".to_string(),
            state: SessionState::Disconnected,
        };
        let is_deaf = self.deaf.load(Ordering::Relaxed);
        match query {
            Query::Demand(_) => {}
            Query::Plan(intent, answer) => {
                let add = intent.endpoints.len() as u64;
                let plan = Plan {
                    tables: vec![TablePlan {
                        table: "attach".to_string(),
                        add,
                        size: Some(7),
                        ..TablePlan::default()
                    }],
                    rows: vec!["+ attach in_port=1".to_string()],
                    ..Plan::default()
                };
                drop(answer.send(if is_deaf { Err(deaf()) } else { Ok(plan) }));
            }
            Query::Explain(trace, answer) => {
                let row = EnforcingRow {
                    table: "egress_policy".to_string(),
                    row: format!("{} {:?}", trace.endpoint, trace.packet.l4),
                    present: true,
                    packets: Some(3),
                    bytes: Some(180),
                };
                drop(answer.send(if is_deaf { Err(deaf()) } else { Ok(vec![row]) }));
            }
            Query::Hits(answer) => {
                let hits = self.hits();
                drop(answer.send(if is_deaf { Err(deaf()) } else { Ok(hits) }));
            }
            Query::Checkup(answer) => {
                let remedy = "ovs-vsctl set Open_vSwitch . other_config:hw-offload=true";
                let check = Check::costs("offload", Cost::Speed, "off", remedy);
                drop(answer.send(if is_deaf { Err(deaf()) } else { Ok(vec![check]) }));
            }
            Query::Offload(answer) => {
                let flows = Carried {
                    hardware: 2,
                    software: 1,
                    ..Carried::default()
                };
                let rule = |rule| RuleOffload {
                    rule,
                    flows,
                    packets: flows,
                    why: ["the NIC has no room".to_string()].into(),
                    is_counted: true,
                };
                let offload = Offload {
                    is_on: true,
                    rules: self.hits().into_iter().map(rule).collect(),
                    flows,
                    unknown: [("another bridge".to_string(), 4)].into(),
                    ..Offload::default()
                };
                drop(answer.send(if is_deaf { Err(deaf()) } else { Ok(offload) }));
            }
        }
    }
}

impl Fake {
    /// A hit of the default of each endpoint that denies what it receives.
    fn hits(&self) -> Vec<Hit> {
        let intent = self.newest();
        let denying = intent.endpoints.values().filter(|e| e.classes.ingress.0 != 0);
        let hit = |e: &Arc<EndpointIntent>| Hit {
            direction: portcullis_policy::Direction::Ingress,
            rule: "default/ingress".to_string(),
            decider: None,
            class: Some(e.classes.ingress.0),
            endpoints: (0..20).map(|i| format!("{}-{i}", e.name)).collect(),
            overlays: Arc::default(),
            action: "deny".to_string(),
            packets: 5,
            bytes: 300,
        };
        denying.map(hit).collect()
    }
}

#[async_trait]
impl Backend for Fake {
    fn kind(&self) -> &'static str {
        "fake"
    }

    fn check(&self, intent: &Intent) -> Result<(), CompileError> {
        self.checks.fetch_add(1, Ordering::Relaxed);
        for class in intent.classes.values() {
            if class
                .policy
                .entries
                .iter()
                .any(|e| e.origin.ends_with("/unproved"))
            {
                let packet = Packet { frame: Frame::Other };
                let example = Box::new(Counterexample {
                    packet,
                    wanted: Verdict::Deny,
                    got: None,
                });
                return Err(CompileError::Unproved {
                    class: class.id,
                    model: "fake".to_string(),
                    example,
                });
            }
            if let Some(entry) = class
                .policy
                .entries
                .iter()
                .find(|e| e.origin.ends_with("/impossible"))
            {
                return Err(CompileError::Unsupported(Unsupported {
                    target: "fake".to_string(),
                    rule: entry.origin.to_string(),
                    table: "egress_policy".to_string(),
                    why: "this target cannot".to_string(),
                }));
            }
        }
        self.programs.lock().unwrap().check(intent)
    }

    fn edits(&self, old: &Class, new: &Class) -> bool {
        self.checks.fetch_add(1, Ordering::Relaxed);
        self.programs.lock().unwrap().edits(old, new)
    }

    fn rows(&self, class: &Class) -> Option<usize> {
        Some(self.programs.lock().unwrap().get(class).ok()?.rows())
    }

    async fn run(self: Arc<Self>, mut context: TargetContext) {
        let mut status = TargetStatus::default();
        loop {
            let intent = context.intents.borrow_and_update().clone();
            if let Some(intent) = intent {
                status.wanted = intent.generation;
                status.state = SessionState::Applying;
                if !self.held.load(Ordering::Relaxed) {
                    status.applied = intent.generation;
                    status.state = SessionState::InSync;
                }
                let mut intents = self.intents.lock().unwrap();
                if intents.last().is_none_or(|last| !Arc::ptr_eq(last, &intent)) {
                    status.writes[0] += 1;
                    intents.push(intent);
                }
            }
            context.status.send_replace(Arc::new(status.clone()));
            tokio::select! {
                changed = context.intents.changed() => if changed.is_err() { return },
                Some(query) = context.queries.recv() => self.answer(query),
                _ = context.stop.changed() => if !self.stubborn.load(Ordering::Relaxed) { return },
                () = self.end.notified() => return,
                () = self.wake.notified() => {}
            }
        }
    }
}

/// What the tests allow unless they say something else.
const LIMITS: [(&str, u32); 6] = [
    ("endpoints", 50),
    ("profiles", 10),
    ("watchers", 3),
    ("queued_changes", 4),
    ("message_mib", 1),
    ("bypasses", 2),
];

/// A configuration whose files are in a folder. What is behind a line `[limits]` in `more` are limits.
pub fn config(folder: &Path, more: &str) -> Config {
    let file = folder.join("agent.toml");
    let folder = folder.display();
    let (more, own) = more.split_once("[limits]\n").unwrap_or((more, ""));
    let set = |name: &str| own.lines().any(|line| line.split(' ').next() == Some(name));
    let limits: String = LIMITS
        .iter()
        .filter(|(name, _)| !set(name))
        .map(|(name, value)| format!("{name} = {value}\n"))
        .collect();
    // The disks of the tests may be small.
    let audit = match more.contains("[audit]\n") {
        true => "",
        false => "[audit]\nfree_disk_mib = 0\n",
    };
    let text = format!(
        "{audit}[store]\npath = \"{folder}/p.db\"\n[limits]\n{limits}{own}[api]\nsocket = \"{folder}/agent.sock\"\n{more}"
    );
    // A full disk has no room for what is there already.
    if std::fs::read_to_string(&file).ok().as_ref() != Some(&text) {
        std::fs::write(&file, &text).unwrap();
    }
    config::load(&file).unwrap()
}

/// An agent in this process.
pub struct Rig {
    pub folder: tempfile::TempDir,
    pub agent: Option<Agent>,
    pub fake: Arc<Fake>,
    pub client: Client,
    pub more: String,
}

pub async fn start(folder: &Path, more: &str, fake: &Arc<Fake>) -> Result<Agent, AgentError> {
    let (handle, task) = launch("fake", Arc::clone(fake));
    Agent::start(config(folder, more), vec![Launched { handle, task }]).await
}

impl Rig {
    pub async fn new() -> Self {
        Self::with("").await
    }

    /// With more settings of `[api]` or other sections.
    pub async fn with(more: &str) -> Self {
        Self::inside(tempfile::tempdir().unwrap(), more).await
    }

    /// With its files in a folder.
    pub async fn inside(folder: tempfile::TempDir, more: &str) -> Self {
        let fake = Arc::new(Fake::default());
        let agent = start(folder.path(), more, &fake).await.unwrap();
        let client = Client::unix(&folder.path().join("agent.sock")).await;
        Rig {
            folder,
            agent: Some(agent),
            fake,
            client,
            more: more.to_string(),
        }
    }

    /// With the document of the examples.
    pub async fn with_document() -> Self {
        let mut rig = Rig::new().await;
        assert_eq!(rig.client.apply(DOCUMENT).await.unwrap().generation, 1);
        rig
    }

    pub async fn restart(&mut self) {
        self.agent.take().unwrap().stop().await.unwrap();
        self.begin().await;
    }

    /// Starts the agent that was stopped.
    pub async fn begin(&mut self) {
        self.fake = Arc::new(Fake::default());
        self.agent = Some(start(self.folder.path(), &self.more, &self.fake).await.unwrap());
        self.client = Client::unix(&self.folder.path().join("agent.sock")).await;
    }

    /// Everything a client can see, to be compared.
    pub async fn seen(&mut self) -> (u64, String, usize) {
        let document = self.client.document().await;
        let intents = self.fake.intents.lock().unwrap().len();
        (document.generation, document.document, intents)
    }
}

/// Every service of one agent.
#[derive(Clone)]
pub struct Client {
    pub channel: Channel,
    pub baseline: BaselineServiceClient<Channel>,
    pub profiles: ProfileServiceClient<Channel>,
    pub endpoints: EndpointServiceClient<Channel>,
    pub policy: PolicyServiceClient<Channel>,
    pub targets: TargetServiceClient<Channel>,
}

impl Client {
    pub async fn unix(socket: &Path) -> Self {
        let endpoint = Endpoint::from_shared(format!("unix://{}", socket.display())).unwrap();
        for _ in 0..200 {
            if let Ok(channel) = endpoint.connect().await {
                return Self::over(channel);
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        panic!("nothing answers on {}", socket.display());
    }

    pub fn over(channel: Channel) -> Self {
        let size = 64 << 20;
        Client {
            baseline: BaselineServiceClient::new(channel.clone()),
            profiles: ProfileServiceClient::new(channel.clone()),
            endpoints: EndpointServiceClient::new(channel.clone()),
            policy: PolicyServiceClient::new(channel.clone()).max_decoding_message_size(size),
            targets: TargetServiceClient::new(channel.clone()).max_decoding_message_size(size),
            channel,
        }
    }

    pub async fn apply(&mut self, document: &str) -> Result<v1::ApplyDocumentResponse, Status> {
        let request = v1::ApplyDocumentRequest {
            document: document.to_string(),
            ..Default::default()
        };
        Ok(self.policy.apply_document(request).await?.into_inner())
    }

    pub async fn document(&mut self) -> v1::GetDocumentResponse {
        self.policy
            .get_document(v1::GetDocumentRequest {})
            .await
            .unwrap()
            .into_inner()
    }

    pub async fn endpoint(&mut self, name: &str) -> Result<v1::Endpoint, Status> {
        Ok(self
            .endpoints
            .get_endpoint(v1::GetRequest {
                name: name.to_string(),
            })
            .await?
            .into_inner())
    }

    pub async fn provision(&mut self, endpoint: v1::Endpoint) -> Result<v1::Committed, Status> {
        let request = v1::ProvisionRequest {
            endpoint: Some(endpoint),
        };
        Ok(self.endpoints.provision(request).await?.into_inner())
    }
}

/// An endpoint with a MAC made from a number.
pub fn endpoint(name: &str, number: u8) -> v1::Endpoint {
    v1::Endpoint {
        name: name.to_string(),
        attachments: vec![v1::Attachment {
            interface: name.to_string(),
            ..Default::default()
        }],
        macs: vec![format!("02:00:00:00:01:{number:02x}")],
        addresses: vec![format!("198.51.100.{number}")],
        ..Default::default()
    }
}

pub fn rule(name: &str, action: v1::Action, direction: v1::Direction) -> v1::Rule {
    v1::Rule {
        name: name.to_string(),
        action: action.into(),
        direction: direction.into(),
        protocol: "tcp".to_string(),
        ports: vec!["25".to_string()],
        ..Default::default()
    }
}

/// The fields that a status complains about; its code is INVALID_ARGUMENT.
pub fn fields(status: &Status) -> Vec<String> {
    assert_eq!(status.code(), Code::InvalidArgument, "{status:?}");
    let details = status.get_error_details();
    let request = details.bad_request().expect("a BadRequest");
    request.field_violations.iter().map(|v| v.field.clone()).collect()
}

/// The switch's program, which is built with the workspace.
pub fn switch_program() -> std::path::PathBuf {
    let test = std::env::current_exe().unwrap();
    let folder = test.parent().unwrap().parent().unwrap();
    let program = folder.join("portcullis-switch");
    assert!(
        program.is_file(),
        "{} is not there: cargo build -p portcullis-switch",
        program.display()
    );
    program
}

/// Checks of a fake target that wait until this is let go.
pub struct Held {
    release: std::sync::mpsc::Sender<()>,
    holder: std::thread::JoinHandle<()>,
}

impl Held {
    pub fn new(fake: &Arc<Fake>) -> Self {
        let (release, released) = std::sync::mpsc::channel();
        let theirs = Arc::clone(fake);
        let holder = std::thread::spawn(move || {
            let _programs = theirs.programs.lock().unwrap();
            // Until the test lets go.
            let _ = released.recv();
        });
        while fake.programs.try_lock().is_ok() {
            std::thread::yield_now();
        }
        Held { release, holder }
    }

    pub fn let_go(self) {
        drop(self.release);
        self.holder.join().unwrap();
    }
}
