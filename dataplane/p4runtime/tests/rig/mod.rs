//! The backend against the server in this process: what every packet of a few probes meets, after every single update.
#![allow(dead_code, reason = "test binaries use what they need of it")]

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use portcullis_backend::{TargetHandle, TargetStatus, Trace, launch};
use portcullis_compiler::{Class, ClassId, Compiler, Intent};
use portcullis_p4runtime::{Config, P4Backend};
use portcullis_policy::{
    Direction, Document, Fragment, Frame, IpPacket, L4, Packet, Verdict, View, effective,
};
use portcullis_testbed::p4::{Fields, P4Server, State};
use tokio::task::JoinHandle;

pub const PATIENCE: Duration = Duration::from_secs(20);

/// A document: `web` at port 1 and `mail` at port 2, these TCP ports blocked for all, and more lines.
pub fn document(blocked: &str, more: &str) -> String {
    format!(
        r#"
version: portcullis/v1
baseline:
  - {{name: blocked, action: deny, direction: egress, protocol: tcp, ports: [{blocked}]}}
  - {{name: scanners, action: deny, direction: ingress, protocol: tcp, ports: [22], remote: [203.0.113.0/24]}}
endpoints:
  web:
    attachments: [{{port: 1, target: tor}}]
    macs: ["02:00:00:00:00:01"]
    addresses: [192.0.2.1]
  mail:
    attachments: [{{port: 2, target: tor}}]
    macs: ["02:00:00:00:00:02"]
    addresses: [192.0.2.2]
    rules:
      - {{name: smtp, action: allow, direction: egress, protocol: tcp, ports: [25], remote: [198.51.100.0/24]}}
{more}"#
    )
}

/// A packet of an endpoint, in both of its shapes.
#[derive(Debug, Clone)]
pub struct Probe {
    pub endpoint: &'static str,
    pub direction: Direction,
    pub remote: [u8; 4],
    pub protocol: u8,
    pub source_port: u16,
    pub port: u16,
}

pub const PROBES: [Probe; 10] = [
    probe("web", Direction::Egress, [198, 51, 100, 9], 25),
    probe("web", Direction::Egress, [198, 51, 100, 9], 80),
    probe("web", Direction::Egress, [198, 51, 100, 9], 465),
    probe("web", Direction::Egress, [198, 51, 100, 9], 6667),
    probe("mail", Direction::Egress, [198, 51, 100, 9], 25),
    probe("mail", Direction::Egress, [203, 0, 113, 9], 25),
    probe("mail", Direction::Egress, [203, 0, 113, 9], 6667),
    probe("web", Direction::Ingress, [203, 0, 113, 9], 22),
    probe("web", Direction::Ingress, [198, 51, 100, 9], 22),
    probe("mail", Direction::Ingress, [203, 0, 113, 9], 80),
];

const fn probe(endpoint: &'static str, direction: Direction, remote: [u8; 4], port: u16) -> Probe {
    Probe {
        endpoint,
        direction,
        remote,
        protocol: 6,
        source_port: 40_000,
        port,
    }
}

fn number(endpoint: &str) -> u8 {
    if endpoint == "web" { 1 } else { 2 }
}

impl Probe {
    /// A TCP probe opens a connection; no other protocol has flags.
    fn flags(&self) -> u16 {
        if self.protocol == 6 { 2 } else { 0 }
    }

    /// What the policy of a document says.
    pub fn verdict(&self, document: &Document) -> Option<Verdict> {
        let endpoint = document.endpoints.get(self.endpoint)?;
        let policy = effective(document, self.endpoint, endpoint, self.direction);
        let packet = IpPacket {
            local: IpAddr::from([192, 0, 2, number(self.endpoint)]),
            remote: IpAddr::from(self.remote),
            protocol: Some(self.protocol),
            fragment: Fragment::Whole,
            l4: L4::Ports {
                src: self.source_port,
                dst: self.port,
                flags: self.flags(),
            },
        };
        let frame = Frame::Ip(packet);
        Some(policy.judge(&Packet { frame }, View::FULL).0)
    }

    /// What the server's tables do with it: `None` when nobody said who is behind the port.
    pub fn met(&self, state: &State) -> Option<Verdict> {
        let local = u128::from(u32::from_be_bytes([192, 0, 2, number(self.endpoint)]));
        let remote = u128::from(u32::from_be_bytes(self.remote));
        let port = u128::from(number(self.endpoint));
        let egress = self.direction == Direction::Egress;
        let (src, dst) = if egress { (local, remote) } else { (remote, local) };
        let mut packet: Fields = [
            ("port", port),
            ("mac", 0x0200_0000_0000 | port),
            ("kind", 2),
            ("address", local),
            ("ether_type", 0x0800),
            ("protocol", u128::from(self.protocol)),
            ("src_ipv4", src),
            ("dst_ipv4", dst),
            ("src_port", u128::from(self.source_port)),
            ("dst_port", u128::from(self.port)),
            ("tcp_flags", u128::from(self.flags())),
        ]
        .into();
        let denied =
            |met: Option<(String, Vec<u128>)>| met.is_none_or(|(action, _)| action.ends_with("deny"));
        let (stage, remote_table, policy) = if egress {
            ("attach", "egress_remote", "egress_policy")
        } else {
            ("deliver", "ingress_remote", "ingress_policy")
        };
        let (action, values) = state.meets(stage, &packet)?;
        if action == "set_guarded_class" {
            let guard = state.meets("guard", &packet);
            let checked = guard
                .as_ref()
                .is_some_and(|(action, _)| action == "check_addresses");
            if denied(guard) || (checked && denied(state.meets("guard_address", &packet))) {
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
        let id = state
            .meets(remote_table, &packet)
            .and_then(|(_, v)| v.first().copied());
        packet.insert("remote_id", id.unwrap_or(0));
        Some(if denied(state.meets(policy, &packet)) {
            Verdict::Deny
        } else {
            Verdict::Allow
        })
    }
}

/// The documents between which the server's tables may be.
type Allowed = Arc<Mutex<Vec<Document>>>;
/// The packets that are tried after every update.
type Probes = Arc<Mutex<Vec<Probe>>>;

pub struct Rig {
    pub server: P4Server,
    pub config: Config,
    pub compiler: Compiler,
    /// Classes may be edited in place when the target follows, as in the agent.
    pub in_place: bool,
    pub generation: u64,
    pub target: TargetHandle,
    task: Option<JoinHandle<()>>,
    intent: Option<Arc<Intent>>,
    allowed: Allowed,
    pub probes: Probes,
}

impl Rig {
    pub async fn start() -> Rig {
        Self::with(P4Server::start().await.unwrap(), |_| {}).await
    }

    pub async fn with(server: P4Server, tune: impl FnOnce(&mut Config)) -> Rig {
        let mut config = Config::new("tor", &server.address(), 1);
        config.uplinks = [9].into();
        config.servers = [1, 2, 5].into();
        config.resync_interval = Duration::from_millis(300);
        tune(&mut config);
        let (target, task) = launch("tor", P4Backend::new(config.clone()).unwrap());
        let allowed: Allowed = Arc::default();
        let probes: Probes = Arc::new(Mutex::new(PROBES.to_vec()));
        let watched = (Arc::clone(&allowed), Arc::clone(&probes));
        server.check(Box::new(move |state| check(state, &watched.0, &watched.1)));
        Rig {
            server,
            config,
            compiler: Compiler::default(),
            in_place: true,
            generation: 0,
            target,
            task: Some(task),
            intent: None,
            allowed,
            probes,
        }
    }

    /// A new agent process, as far as the device can tell.
    pub fn restart_agent(&mut self) {
        if let Some(task) = self.task.take() {
            task.abort();
        }
        let (target, task) = launch("tor", P4Backend::new(self.config.clone()).unwrap());
        self.target = target;
        self.task = Some(task);
    }

    /// Another agent beside this one.
    pub fn rival(&self, election_id: u128) -> (TargetHandle, JoinHandle<()>) {
        let config = Config {
            election_id,
            ..self.config.clone()
        };
        launch("tor", P4Backend::new(config).unwrap())
    }

    pub fn intent(&mut self, yaml: &str) -> Arc<Intent> {
        self.intent_of(&Document::from_yaml(yaml).unwrap())
    }

    /// Tables may be at what this document says from now on.
    pub fn allow(&self, document: &Document) {
        self.allowed.lock().unwrap().push(document.clone());
    }

    /// The intent of a document, with grants if it has some.
    pub fn intent_of(&mut self, document: &Document) -> Arc<Intent> {
        self.allow(document);
        self.generation += 1;
        // As the agent does it: classes are edited in place when every target follows, and can.
        let follows = self.target.status().applied + 1 == self.generation;
        let (target, in_place) = (&self.target, self.in_place);
        let edits = |old: &Class, new: &Class| follows && in_place && target.edits(old, new);
        self.compiler
            .resolve_in_place(document, self.generation, &edits)
            .unwrap()
    }

    pub fn set(&mut self, yaml: &str) -> Arc<Intent> {
        let intent = self.intent(yaml);
        self.target.check(&intent).unwrap();
        self.target.set_intent(Arc::clone(&intent));
        self.intent = Some(Arc::clone(&intent));
        intent
    }

    pub fn intent_now(&self) -> Arc<Intent> {
        Arc::clone(self.intent.as_ref().unwrap())
    }

    /// The class of an endpoint in the newest intent.
    pub fn class(&self, endpoint: &str, direction: Direction) -> Option<ClassId> {
        let endpoints = &self.intent.as_ref()?.endpoints;
        Some(endpoints.get(endpoint)?.classes[direction])
    }

    pub async fn apply(&mut self, yaml: &str) -> Arc<Intent> {
        let intent = self.set(yaml);
        self.realized().await;
        self.agrees(&intent).await;
        intent
    }

    /// While status calls the target in sync, `explain` finds every row that decides about the endpoints' packets.
    pub async fn agrees(&self, intent: &Intent) {
        for (endpoint, direction) in intent
            .endpoints
            .keys()
            .flat_map(|e| Direction::BOTH.map(|d| (e, d)))
        {
            let trace = Trace {
                endpoint: endpoint.clone(),
                direction,
                packet: IpPacket {
                    local: [192, 0, 2, 1].into(),
                    remote: [198, 51, 100, 9].into(),
                    protocol: Some(6),
                    fragment: Fragment::Whole,
                    l4: L4::Ports {
                        src: 40_000,
                        dst: 25,
                        flags: 2,
                    },
                },
            };
            // A device whose own tables are used cannot always be asked.
            let Ok(rows) = self.target.explain(trace).await else {
                continue;
            };
            let in_sync = self.target.status().state == portcullis_backend::SessionState::InSync;
            let missing: Vec<_> = rows.iter().filter(|row| !row.present).collect();
            assert!(!in_sync || missing.is_empty(), "in sync without {missing:#?}");
        }
    }

    pub async fn realized(&mut self) {
        let generation = self.generation;
        self.until("realized", |s| {
            s.state == portcullis_backend::SessionState::InSync && s.applied == generation
        })
        .await;
        let mut allowed = self.allowed.lock().unwrap();
        let newest = allowed.len().saturating_sub(1);
        allowed.drain(..newest);
    }

    pub async fn until(&self, what: &str, done: impl Fn(&TargetStatus) -> bool) {
        until(&self.target, what, done).await;
    }

    /// What every probe meets is what the newest document says, and was never anything but the old or the new.
    pub fn right(&self) {
        assert_eq!(self.server.broken(), Vec::<String>::new());
        let allowed = self.allowed.lock().unwrap();
        let newest = allowed.last().unwrap();
        for probe in self.probes.lock().unwrap().iter() {
            assert_eq!(
                probe.met(&self.server.state()),
                probe.verdict(newest),
                "{probe:?}"
            );
        }
    }

    /// Every row of every table, as text.
    pub fn rows(&self) -> BTreeSet<String> {
        let state = self.server.state();
        let rows = state.entries.values().map(|e| {
            let mut e = e.clone();
            e.metadata.clear();
            #[allow(deprecated)]
            {
                e.controller_metadata = 0;
            }
            format!("{e:?}")
        });
        rows.chain(state.groups.values().map(|g| format!("{g:?}")))
            .collect()
    }
}

pub async fn until(target: &TargetHandle, what: &str, done: impl Fn(&TargetStatus) -> bool) {
    let end = Instant::now() + PATIENCE;
    while !done(&target.status()) {
        assert!(Instant::now() < end, "not {what} in time: {:#?}", target.status());
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

/// Each probe meets the verdict of one of the documents that are allowed now; a port that nobody spoke of drops.
fn check(state: &State, allowed: &Allowed, probes: &Probes) -> Result<(), String> {
    let allowed = allowed.lock().unwrap();
    for probe in probes.lock().unwrap().iter() {
        let Some(met) = probe.met(state) else { continue };
        let said: Vec<Option<Verdict>> = allowed.iter().map(|d| probe.verdict(d)).collect();
        // A port of a server that is no endpoint (yet) is unmanaged: it has the policy of nobody.
        if !said.contains(&Some(met)) && !said.contains(&None) {
            return Err(format!("{probe:?} meets {met:?}, and the policies say {said:?}"));
        }
    }
    Ok(())
}

impl Drop for Rig {
    fn drop(&mut self) {
        if let Some(task) = self.task.take() {
            task.abort();
        }
    }
}
