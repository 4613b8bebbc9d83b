//! Unlocks through the API: evidence, checks against a real DNS server, approval, leases, restarts, and the audit log.

use std::net::SocketAddr;
use std::time::Duration;

use portcullis_checks::testing::{Server, Zone};
use portcullis_compiler::Intent;
use portcullis_policy::{Frame, IpPacket, L4, Packet, Verdict, View};
use portcullis_proto::v1;
use portcullis_proto::v1::audit_service_client::AuditServiceClient;
use portcullis_proto::v1::unlock_service_client::UnlockServiceClient;
use tonic::service::interceptor::InterceptedService;
use tonic::transport::{Channel, Endpoint};
use tonic::{Code, Status};
use tonic_types::StatusExt;

use crate::api::access::{Shows, tokens};
use crate::api::support::*;

/// How long anything that happens by itself is waited for.
pub const PATIENCE: Duration = Duration::from_secs(30);

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

#[tokio::test(flavor = "multi_thread")]
async fn from_missing_evidence_to_open_ports_and_back() {
    let mut u = Unlocks::new().await;
    assert!(!u.passes("mail1", 25));
    let refused = u
        .api
        .request_unlock(smtp(&[("volume_per_day", "0"), ("colour", "red")]))
        .await
        .unwrap_err();
    let mut wrong = fields(&refused);
    wrong.sort();
    assert_eq!(
        wrong,
        [
            "evidence.colour",
            "evidence.consent",
            "evidence.hostname",
            "evidence.purpose",
            "evidence.volume_per_day"
        ]
    );
    // Reverse DNS does not lead anywhere yet.
    let unlock = u.api.request_unlock(smtp(&GOOD)).await.unwrap().into_inner();
    assert_eq!(unlock.state(), v1::UnlockState::Checking);
    let unlock = u.until(&unlock.id, &[v1::UnlockState::Rejected]).await;
    assert!(unlock.reason.contains("check fcrdns"), "{}", unlock.reason);
    assert!(!u.passes("mail1", 25));

    u.good_dns();
    let unlock = u.api.request_unlock(smtp(&GOOD)).await.unwrap().into_inner();
    let unlock = u.until(&unlock.id, &[v1::UnlockState::Active]).await;
    assert!(
        unlock
            .checks
            .iter()
            .all(|c| c.result() == v1::CheckResult::Passed),
        "{unlock:#?}"
    );
    assert_eq!(unlock.checks.len(), 2);
    assert!(!unlock.evidence.contains_key("contact"), "a secret is shown");
    u.until_passes("mail1", 25, true).await;
    assert!(!u.passes("web1", 25), "only the endpoint it was granted to");
    // One at a time.
    let refused = u.api.request_unlock(smtp(&GOOD)).await.unwrap_err();
    assert_eq!(refused.code(), Code::FailedPrecondition);
    assert_eq!(
        refused
            .get_error_details()
            .precondition_failure()
            .unwrap()
            .violations[0]
            .r#type,
        "PER_ENDPOINT"
    );
    // The rows revert by themselves to the class of an endpoint without it.
    let intent = u.rig.fake.newest();
    let endpoint = &intent.endpoints["mail1"];
    assert_eq!(endpoint.transitions.len(), 1);
    assert_eq!(
        endpoint.transitions[0].at,
        u64::try_from(unlock.expires_at).unwrap()
    );
    assert_eq!(
        endpoint.transitions[0].classes.egress,
        intent.endpoints["web1"].classes.egress
    );

    // A restart continues where it was.
    u.restart().await;
    assert_eq!(u.get(&unlock.id).await.state(), v1::UnlockState::Active);
    u.until_passes("mail1", 25, true).await;

    let revoke = v1::DecideUnlockRequest {
        id: unlock.id.clone(),
        reason: "complaints".to_string(),
        quarantine: true,
    };
    let nothing = v1::DecideUnlockRequest {
        reason: String::new(),
        ..revoke.clone()
    };
    assert_eq!(fields(&u.api.revoke(nothing).await.unwrap_err()), ["reason"]);
    let revoked = u.api.revoke(revoke).await.unwrap().into_inner();
    assert_eq!(revoked.state(), v1::UnlockState::Revoked);
    assert!(revoked.quarantined_until > revoked.ended_at);
    u.until_passes("mail1", 25, false).await;
    let refused = u.api.request_unlock(smtp(&GOOD)).await.unwrap_err();
    assert_eq!(
        refused
            .get_error_details()
            .precondition_failure()
            .unwrap()
            .violations[0]
            .r#type,
        "COOLING_DOWN"
    );
    assert!(refused.get_error_details().retry_info().is_some());
    u.restart().await;
    let refused = u.api.request_unlock(smtp(&GOOD)).await.unwrap_err();
    assert!(refused.message().contains("revoked"), "{refused:?}");

    let actions = u.actions().await;
    let seen = |what: &str| actions.iter().any(|action| action.contains(what));
    for what in [
        "token operator policy.change generations/1",
        "token operator unlock.request.refused endpoints/mail1",
        "token operator unlock.request unlocks/",
        "agent unlock.reject unlocks/",
        "agent unlock.activate unlocks/",
        "token operator unlock.revoke unlocks/",
    ] {
        assert!(seen(what), "{what}: {actions:#?}");
    }
    let exported: Vec<v1::AuditEntry> = {
        let mut stream = u
            .audit
            .export_audit(v1::ExportAuditRequest { after: 0 })
            .await
            .unwrap()
            .into_inner();
        let mut entries = Vec::new();
        while let Some(entry) = stream.message().await.unwrap() {
            entries.push(entry);
        }
        entries
    };
    assert!(
        exported.iter().all(|e| !e.detail.contains("hunter2")),
        "a secret is in the audit log"
    );
    assert!(
        exported
            .windows(2)
            .all(|w| w[1].previous_hash == w[0].hash && w[1].number == w[0].number + 1)
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lease_ends_and_an_operator_decides() {
    let mut u = Unlocks::new().await;
    let unlock = u.api.request_unlock(game("mail1")).await.unwrap().into_inner();
    u.until(&unlock.id, &[v1::UnlockState::Active, v1::UnlockState::Expiring])
        .await;
    u.until_passes("mail1", 465, true).await;
    let ended = u.until(&unlock.id, &[v1::UnlockState::Expired]).await;
    u.until_passes("mail1", 465, false).await;
    assert!(
        ended.ended_at >= ended.expires_at && ended.ended_at <= ended.expires_at + 10,
        "{ended:#?}"
    );
    // A longer lease than the program allows.
    let long = v1::RequestUnlockRequest {
        lease_seconds: 101 * 3600,
        ..game("mail1")
    };
    assert_eq!(
        fields(&u.api.request_unlock(long).await.unwrap_err()),
        ["lease_seconds"]
    );

    u.good_dns();
    let mut much = GOOD;
    much[2].1 = "2000";
    let unlock = u.api.request_unlock(smtp(&much)).await.unwrap().into_inner();
    u.until(&unlock.id, &[v1::UnlockState::AwaitingApproval]).await;
    assert!(!u.passes("mail1", 25));
    let decide = |reason: &str| v1::DecideUnlockRequest {
        id: unlock.id.clone(),
        reason: reason.to_string(),
        quarantine: false,
    };
    // A viewer may not, and nor may the tenant.
    for token in ["viewer", "tenant", "provisioner"] {
        let refused = u.as_caller(token).approve(decide("")).await.unwrap_err();
        assert_eq!(refused.code(), Code::PermissionDenied, "{token}");
    }
    let approved = u
        .api
        .approve(decide("known customer"))
        .await
        .unwrap()
        .into_inner();
    assert_eq!(approved.state(), v1::UnlockState::Active);
    assert_eq!(approved.reason, "known customer");
    let again = u.api.approve(decide("")).await.unwrap_err();
    assert_eq!(
        again
            .get_error_details()
            .precondition_failure()
            .unwrap()
            .violations[0]
            .r#type,
        "WRONG_STATE"
    );
    u.until_passes("mail1", 25, true).await;
    // The tenant gives it back.
    let id = v1::UnlockRequest {
        id: unlock.id.clone(),
    };
    let released = u.as_caller("tenant").release(id).await.unwrap().into_inner();
    assert_eq!(released.state(), v1::UnlockState::Released);
    u.until_passes("mail1", 25, false).await;

    // What the program requires does not hold.
    let mut huge = GOOD;
    huge[2].1 = "9000";
    let unlock = u.api.request_unlock(smtp(&huge)).await.unwrap().into_inner();
    let rejected = u.until(&unlock.id, &[v1::UnlockState::Rejected]).await;
    assert!(rejected.reason.contains("requires"), "{}", rejected.reason);
}

#[tokio::test(flavor = "multi_thread")]
async fn tenants_reach_their_own_and_are_told_why_it_is_closed() {
    let mut u = Unlocks::new().await;
    let (mut acme, mut other) = (u.as_caller("tenant"), u.as_caller("other"));
    let denied = other.request_unlock(game("mail1")).await.unwrap_err();
    assert_eq!(denied.code(), Code::PermissionDenied);
    let nowhere = other.request_unlock(game("nowhere")).await.unwrap_err();
    assert_eq!(
        nowhere.code(),
        Code::PermissionDenied,
        "whether there is one is not told"
    );
    let unlock = acme.request_unlock(game("mail1")).await.unwrap().into_inner();
    assert_eq!(
        (unlock.tenant.as_str(), unlock.requested_by.as_str()),
        ("acme", "token tenant")
    );
    let id = || v1::UnlockRequest {
        id: unlock.id.clone(),
    };
    assert_eq!(
        other.get_unlock(id()).await.unwrap_err().code(),
        Code::PermissionDenied
    );
    assert_eq!(
        other.release(id()).await.unwrap_err().code(),
        Code::PermissionDenied
    );
    let listed = |answer: v1::ListUnlocksResponse| answer.unlocks.len();
    let all = v1::ListUnlocksRequest::default();
    assert_eq!(
        listed(acme.list_unlocks(all.clone()).await.unwrap().into_inner()),
        1
    );
    assert_eq!(
        listed(other.list_unlocks(all.clone()).await.unwrap().into_inner()),
        0
    );
    let foreign = v1::ListUnlocksRequest {
        tenant: "acme".to_string(),
        ..all
    };
    assert_eq!(
        other.list_unlocks(foreign).await.unwrap_err().code(),
        Code::PermissionDenied
    );

    let why = |endpoint: &str, port| v1::WhyBlockedRequest {
        endpoint: endpoint.to_string(),
        direction: v1::Direction::Egress.into(),
        protocol: "tcp".to_string(),
        port,
        remote: String::new(),
    };
    let answer = acme.why_blocked(why("mail1", 25)).await.unwrap().into_inner();
    assert!(answer.blocked);
    assert_eq!(
        (answer.rule.as_str(), answer.reason.as_str()),
        ("baseline/smtp", "against spam")
    );
    let names: Vec<&str> = answer
        .ways
        .iter()
        .map(|w| w.program.as_ref().unwrap().name.as_str())
        .collect();
    assert_eq!(names, ["smtp"]);
    assert_eq!(answer.ways[0].program.as_ref().unwrap().evidence.len(), 5);
    assert_eq!(
        answer.explanation,
        "TCP port 25 from mail1 is blocked by baseline/smtp: against spam. It can be opened by a request under: smtp."
    );
    let answer = acme.why_blocked(why("mail1", 6667)).await.unwrap().into_inner();
    assert!(answer.blocked && answer.ways.is_empty());
    assert!(
        answer.explanation.contains("nothing opens it"),
        "{}",
        answer.explanation
    );
    assert!(
        !acme
            .why_blocked(why("mail1", 80))
            .await
            .unwrap()
            .into_inner()
            .blocked
    );
    assert_eq!(
        acme.why_blocked(why("web1", 25)).await.unwrap_err().code(),
        Code::PermissionDenied
    );
    // Denials are in the audit log.
    let end = tokio::time::Instant::now() + PATIENCE;
    loop {
        let actions = u.actions().await;
        if actions
            .iter()
            .any(|a| a.starts_with("token other unlock.request.refused endpoints/nowhere"))
        {
            break;
        }
        assert!(tokio::time::Instant::now() < end, "{actions:#?}");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}
