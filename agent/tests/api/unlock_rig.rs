//! An agent with programs, a DNS server for its checks, and callers with tokens.

use std::net::SocketAddr;
use std::time::Duration;

use portcullis_compiler::Intent;
use portcullis_policy::{Frame, IpPacket, L4, Packet, Verdict, View};
use portcullis_proto::v1;
use portcullis_proto::v1::UnlockState as State;
use portcullis_proto::v1::audit_service_client::AuditServiceClient;
use portcullis_proto::v1::unlock_service_client::UnlockServiceClient;
use portcullis_testbed::dns::{Fault, Server, Zone};
use tonic::service::interceptor::InterceptedService;
use tonic::transport::{Channel, Endpoint};
use tonic::{Code, Status};
use tonic_types::StatusExt;

use crate::api::access::{Shows, tokens};
use crate::api::support::*;

/// How long anything that happens by itself is waited for.
pub const PATIENCE: Duration = Duration::from_secs(30);

/// Unlike the example of the docs it has two tenants, checks that the DNS server of the test can answer, and a lease of seconds.
pub const PROGRAMS: &str = r#"
version: portcullis/v1
baseline:
  - {name: smtp, action: deny, direction: egress, protocol: tcp, ports: [25, 465], reason: "against spam"}
mandatory:
  - {name: irc, action: deny, direction: egress, protocol: tcp, ports: [6667]}
endpoints:
  mail1:
    attachments: [{interface: mail1}]
    macs: ["02:00:00:00:00:02"]
    addresses: [192.0.2.20]
    labels: {tenant: acme, invoice_paid: "true"}
  web1:
    attachments: [{interface: web1}]
    addresses: [192.0.2.10]
    labels: {tenant: other}
programs:
  smtp:
    title: Outbound mail
    opens: [{direction: egress, protocol: tcp, ports: [25, 465]}]
    evidence:
      - {name: purpose, type: text, min_length: 10, prompt: "What mail will this server send, and to whom?"}
      - {name: hostname, type: hostname}
      - {name: volume_per_day, type: integer, min: 1, max: 100000}
      - {name: consent, type: boolean, must_be: true}
      - {name: contact, type: text, secret: true, required: false}
    checks:
      - {kind: fcrdns, address: endpoint, hostname: hostname}
      - {kind: spf, domain: hostname, must_allow: endpoint}
    require: 'endpoint.labels.invoice_paid == "true" && evidence.volume_per_day < 5000'
    approval: {manual_if: "evidence.volume_per_day > 1000"}
    lease: {default: 720h, max: 8760h, renewable: true, recheck_every: 24h}
    limits: {per_endpoint: 1, per_tenant: 5, cooldown_after_revoke: [1h, 24h]}
    quarantine: 24h
  game:
    opens: [{direction: egress, protocol: tcp, ports: [465]}]
    lease: {default: 2s, max: 100h}
    limits: {per_endpoint: 1000}
"#;

pub type Line = InterceptedService<Channel, Shows>;

pub struct Unlocks {
    pub rig: Rig,
    pub dns: Server,
    pub api: UnlockServiceClient<Line>,
    pub audit: AuditServiceClient<Line>,
    pub channel: Channel,
}

pub fn with(channel: &Channel, token: &str) -> Line {
    InterceptedService::new(channel.clone(), Shows(Some(token.to_string())))
}

async fn over(rig: &Rig) -> Channel {
    let address: SocketAddr = rig.agent.as_ref().unwrap().tcp().unwrap();
    Endpoint::from_shared(format!("http://{address}"))
        .unwrap()
        .connect()
        .await
        .unwrap()
}

impl Unlocks {
    /// An agent whose callers show tokens, and whose resolver is ours; nothing is in its zone yet.
    pub async fn new() -> Self {
        Self::inside(tempfile::tempdir().unwrap()).await
    }

    pub async fn with(more: &str) -> Self {
        Self::inside_with(tempfile::tempdir().unwrap(), more).await
    }

    /// With its files in a folder.
    pub async fn inside(folder: tempfile::TempDir) -> Self {
        Self::inside_with(folder, "").await
    }

    async fn inside_with(folder: tempfile::TempDir, more: &str) -> Self {
        let dns = Server::start(Zone::new()).await.unwrap();
        let more = format!(
            "listen = \"127.0.0.1:0\"\ninsecure = true\n[checks]\nresolvers = [\"{}\"]\ntimeout = \"1s\"\n{}{more}",
            dns.addr(),
            tokens()
        );
        let mut rig = Rig::inside(folder, &more).await;
        let channel = over(&rig).await;
        rig.client = Client::over(channel.clone());
        let mut unlocks = Unlocks {
            api: UnlockServiceClient::new(with(&channel, "operator")),
            audit: AuditServiceClient::new(with(&channel, "operator")),
            rig,
            dns,
            channel,
        };
        unlocks.apply(PROGRAMS).await.unwrap();
        // An answer means that a change is durable: the target hears of it a moment later.
        let end = tokio::time::Instant::now() + Duration::from_secs(20);
        while unlocks.rig.fake.intents.lock().unwrap().is_empty() {
            assert!(
                tokio::time::Instant::now() < end,
                "the target was given no intent"
            );
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        unlocks
    }

    pub async fn apply(&mut self, document: &str) -> Result<v1::ApplyDocumentResponse, Status> {
        let line = with(&self.channel, "operator");
        let mut policy = v1::policy_service_client::PolicyServiceClient::new(line);
        let request = v1::ApplyDocumentRequest {
            document: document.to_string(),
            ..Default::default()
        };
        Ok(policy.apply_document(request).await?.into_inner())
    }

    /// The same, on its way while the test goes on.
    pub fn apply_later(
        &self,
        document: &str,
    ) -> tokio::task::JoinHandle<Result<v1::ApplyDocumentResponse, Status>> {
        let line = with(&self.channel, "operator");
        let mut policy = v1::policy_service_client::PolicyServiceClient::new(line);
        let request = v1::ApplyDocumentRequest {
            document: document.to_string(),
            ..Default::default()
        };
        tokio::spawn(async move { Ok(policy.apply_document(request).await?.into_inner()) })
    }

    /// An agent over files that are there, with the same settings.
    pub async fn again(folder: tempfile::TempDir, more: &str) -> Self {
        let dns = Server::start(Zone::new()).await.unwrap();
        let rig = Rig::inside(folder, more).await;
        let channel = over(&rig).await;
        Unlocks {
            api: UnlockServiceClient::new(with(&channel, "operator")),
            audit: AuditServiceClient::new(with(&channel, "operator")),
            rig,
            dns,
            channel,
        }
    }

    pub async fn restart(&mut self) {
        self.rig.agent.take().unwrap().stop().await.unwrap();
        self.begin().await;
    }

    /// Starts the agent that was stopped.
    pub async fn begin(&mut self) {
        self.rig.begin().await;
        self.channel = over(&self.rig).await;
        self.api = UnlockServiceClient::new(with(&self.channel, "operator"));
        self.audit = AuditServiceClient::new(with(&self.channel, "operator"));
    }

    pub fn as_caller(&self, token: &str) -> UnlockServiceClient<Line> {
        UnlockServiceClient::new(with(&self.channel, token))
    }

    pub async fn get(&mut self, id: &str) -> v1::Unlock {
        let request = v1::UnlockRequest { id: id.to_string() };
        self.api.get_unlock(request).await.unwrap().into_inner()
    }

    /// Waits until an unlock is in one of some states.
    pub async fn until(&mut self, id: &str, states: &[v1::UnlockState]) -> v1::Unlock {
        let end = tokio::time::Instant::now() + PATIENCE;
        loop {
            let unlock = self.get(id).await;
            if states.contains(&unlock.state()) {
                return unlock;
            }
            assert!(tokio::time::Instant::now() < end, "{unlock:#?}");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    /// Whether the newest intent that the target holds lets a TCP port out.
    pub fn passes(&self, endpoint: &str, port: u16) -> bool {
        passes(&self.rig.fake.newest(), endpoint, port)
    }

    pub async fn until_passes(&self, endpoint: &str, port: u16, wanted: bool) {
        let end = tokio::time::Instant::now() + PATIENCE;
        let given = || !self.rig.fake.intents.lock().unwrap().is_empty();
        while !given() || self.passes(endpoint, port) != wanted {
            assert!(
                tokio::time::Instant::now() < end,
                "port {port} of {endpoint} is not {wanted}"
            );
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    pub fn good_dns(&self) {
        let address = "192.0.2.20".parse().unwrap();
        self.dns.replace(
            Zone::new()
                .ptr(address, "mail.example.com")
                .address("mail.example.com", address)
                .txt("mail.example.com", &["v=spf1 ip4:192.0.2.20 -all"]),
        );
    }

    pub async fn actions(&mut self) -> Vec<String> {
        let request = v1::ListAuditRequest {
            page_size: 1000,
            ..Default::default()
        };
        let entries = self.audit.list_audit(request).await.unwrap().into_inner().entries;
        entries
            .into_iter()
            .map(|e| format!("{} {} {}", e.actor, e.action, e.subject))
            .collect()
    }
}

/// Whether an intent lets a TCP port of an endpoint out.
pub fn passes(intent: &Intent, endpoint: &str, port: u16) -> bool {
    passes_from(intent, endpoint, port, "192.0.2.20")
}

/// The same, from one of its addresses.
pub fn passes_from(intent: &Intent, endpoint: &str, port: u16, local: &str) -> bool {
    let class = intent.endpoints[endpoint].classes.egress;
    let packet = Packet {
        frame: Frame::Ip(IpPacket {
            local: local.parse().unwrap(),
            remote: "198.51.100.1".parse().unwrap(),
            protocol: Some(6),
            fragment: portcullis_policy::Fragment::Whole,
            l4: L4::Ports {
                src: 40_000,
                dst: port,
                flags: portcullis_policy::TCP_SYN,
            },
        }),
    };
    match intent.classes.get(&class) {
        Some(class) => class.policy.judge(&packet, View::FULL).0 == Verdict::Allow,
        None => true,
    }
}

pub fn smtp(evidence: &[(&str, &str)]) -> v1::RequestUnlockRequest {
    v1::RequestUnlockRequest {
        program: "smtp".to_string(),
        endpoint: "mail1".to_string(),
        evidence: evidence
            .iter()
            .map(|(k, v)| (k.to_string(), v.to_string()))
            .collect(),
        ..Default::default()
    }
}

pub const GOOD: [(&str, &str); 5] = [
    ("purpose", "invoices to our customers"),
    ("hostname", "mail.example.com"),
    ("volume_per_day", "500"),
    ("consent", "true"),
    ("contact", "hunter2"),
];

pub fn game(endpoint: &str) -> v1::RequestUnlockRequest {
    v1::RequestUnlockRequest {
        program: "game".to_string(),
        endpoint: endpoint.to_string(),
        ..Default::default()
    }
}

pub fn id(unlock: &v1::Unlock) -> v1::UnlockRequest {
    v1::UnlockRequest {
        id: unlock.id.clone(),
    }
}

pub async fn listed(u: &Unlocks, token: &str) -> Vec<v1::Unlock> {
    let all = v1::ListUnlocksRequest::default();
    let answer = u.as_caller(token).list_unlocks(all).await;
    answer.unwrap().into_inner().unlocks
}

pub async fn granted(u: &mut Unlocks, request: v1::RequestUnlockRequest) -> v1::Unlock {
    let unlock = u.api.request_unlock(request).await.unwrap().into_inner();
    u.until(&unlock.id, &[State::Active, State::Expiring]).await
}

/// [`PROGRAMS`] with a program of which the lease lasts.
pub fn lasting() -> String {
    PROGRAMS.replace(
        "lease: {default: 2s, max: 100h}",
        "lease: {default: 50h, max: 100h, renewable: true}",
    )
}

/// Nothing answers about the endpoint and its host name.
pub fn silence(u: &Unlocks) {
    let names = [
        "mail.example.com",
        "20.2.0.192.in-addr.arpa",
        "21.2.0.192.in-addr.arpa",
    ];
    let zone = names
        .iter()
        .fold(Zone::new(), |zone, name| zone.fault(name, Fault::Silent));
    u.dns.replace(zone);
}

/// Which check stands against a call.
pub fn stands(status: &tonic::Status) -> String {
    assert_eq!(status.code(), Code::FailedPrecondition, "{status:?}");
    let details = status.get_error_details();
    details.precondition_failure().unwrap().violations[0]
        .r#type
        .clone()
}
