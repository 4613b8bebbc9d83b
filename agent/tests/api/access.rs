//! Who may do what, at real sockets.

use std::collections::BTreeSet;
use std::time::Duration;

use portcullis::access::{METHODS, Permission, Role};
use portcullis_proto::v1;
use prost::Message;
use prost::bytes::{Buf, BufMut};
use prost_types::FileDescriptorSet;
use sha2::{Digest, Sha256};
use tonic::codec::{Codec, DecodeBuf, Decoder, EncodeBuf, Encoder};
use tonic::service::interceptor::InterceptedService;
use tonic::transport::{Channel, Endpoint};
use tonic::{Code, Request, Status};
use tonic_health::pb::HealthCheckRequest;
use tonic_health::pb::health_client::HealthClient;
use tonic_types::StatusExt;

use crate::api::support::*;

/// An entry for a token whose text is its name.
pub fn token(name: &str, rest: &str) -> String {
    let digest: String = Sha256::digest(name).iter().map(|b| format!("{b:02x}")).collect();
    format!("[[access.token]]\nname = \"{name}\"\nsha256 = \"{digest}\"\n{rest}\n")
}

/// Settings with a token for every role, tenants of acme and of other, and no limit on their rate.
pub fn tokens() -> String {
    [
        token("operator", "role = \"operator\""),
        token("provisioner", "role = \"provisioner\""),
        token("viewer", "role = \"viewer\""),
        token("tenant", "role = \"tenant\"\ntenant = \"acme\""),
        token("other", "role = \"tenant\"\ntenant = \"other\""),
        "[access.rate.tenant]\nrequests_per_second = 0\n".to_string(),
    ]
    .concat()
}

/// An agent on TCP whose callers show tokens.
async fn rig() -> (Rig, Channel) {
    rig_with("").await
}

/// The same, with more settings.
async fn rig_with(more: &str) -> (Rig, Channel) {
    let rig = Rig::with(&format!(
        "listen = \"127.0.0.1:0\"\ninsecure = true\n{}\n{more}",
        tokens()
    ))
    .await;
    let address = rig.agent.as_ref().unwrap().tcp().unwrap();
    let channel = Endpoint::from_shared(format!("http://{address}"))
        .unwrap()
        .connect()
        .await
        .unwrap();
    (rig, channel)
}

/// What a caller shows.
#[derive(Debug, Clone)]
pub struct Shows(pub Option<String>);

impl tonic::service::Interceptor for Shows {
    fn call(&mut self, mut request: Request<()>) -> Result<Request<()>, Status> {
        if let Some(token) = &self.0 {
            let value = format!("Bearer {token}").parse().unwrap();
            request.metadata_mut().insert("authorization", value);
        }
        Ok(request)
    }
}

pub type Line = InterceptedService<Channel, Shows>;

fn with(channel: &Channel, token: &str) -> Line {
    InterceptedService::new(channel.clone(), Shows(Some(token.to_string())))
}

/// Messages as bytes, empty or whatever comes.
#[derive(Debug, Clone, Copy, Default)]
pub struct Bytes;

impl Codec for Bytes {
    type Encode = ();
    type Decode = ();
    type Encoder = Bytes;
    type Decoder = Bytes;

    fn encoder(&mut self) -> Bytes {
        Bytes
    }

    fn decoder(&mut self) -> Bytes {
        Bytes
    }
}

impl Encoder for Bytes {
    type Item = ();
    type Error = Status;

    fn encode(&mut self, (): (), to: &mut EncodeBuf<'_>) -> Result<(), Status> {
        to.put_slice(&[]);
        Ok(())
    }
}

impl Decoder for Bytes {
    type Item = ();
    type Error = Status;

    fn decode(&mut self, from: &mut DecodeBuf<'_>) -> Result<Option<()>, Status> {
        from.advance(from.remaining());
        Ok(Some(()))
    }
}

/// Calls any method with an empty message; streams are left when they have begun.
pub async fn call(line: Line, path: &str) -> Result<(), Status> {
    let mut grpc = tonic::client::Grpc::new(line);
    grpc.ready().await.unwrap();
    let called = grpc.server_streaming(Request::new(()), path.parse().unwrap(), Bytes);
    let answer = tokio::time::timeout(Duration::from_secs(60), called)
        .await
        .expect("an answer")?;
    let first = tokio::time::timeout(Duration::from_millis(200), answer.into_inner().message()).await;
    first.map_or(Ok(()), |first| first.map(|_| ()))
}

/// `None` when a call came to its service; what the guard said otherwise.
pub fn refused(answer: &Result<(), Status>) -> Option<Code> {
    let status = answer.as_ref().err()?;
    let details = status.get_error_details();
    let reason = details
        .error_info()
        .map(|info| info.reason.clone())
        .unwrap_or_default();
    matches!(reason.as_str(), "ROLE" | "NO_CREDENTIAL" | "NO_METHOD").then(|| status.code())
}

fn methods() -> BTreeSet<String> {
    let descriptors = FileDescriptorSet::decode(portcullis_proto::DESCRIPTORS).unwrap();
    let mut methods = BTreeSet::new();
    for file in &descriptors.file {
        for service in &file.service {
            for method in &service.method {
                methods.insert(format!("{}.{}/{}", file.package(), service.name(), method.name()));
            }
        }
    }
    methods
}

#[tokio::test]
async fn every_method_is_for_the_roles_that_the_table_says() {
    let (_rig, channel) = rig().await;
    let methods = methods();
    let table: BTreeSet<String> = METHODS.iter().map(|m| m.path.to_string()).collect();
    assert_eq!(table, methods);
    let nobody = InterceptedService::new(channel.clone(), Shows(None));
    for method in METHODS {
        let path = format!("/{}", method.path);
        for role in Role::ALL {
            let answer = call(with(&channel, role.as_str()), &path).await;
            let wanted = (method.grant(role) == Permission::No).then_some(Code::PermissionDenied);
            assert_eq!(refused(&answer), wanted, "{role} {path}: {answer:?}");
        }
        for line in [nobody.clone(), with(&channel, "stranger")] {
            let answer = call(line, &path).await;
            assert_eq!(
                refused(&answer),
                Some(Code::Unauthenticated),
                "{path}: {answer:?}"
            );
        }
    }
    for path in [
        "/portcullis.v1.PolicyService/Explode",
        "/portcullis.v2.PolicyService/Explain",
    ] {
        for role in Role::ALL {
            let answer = call(with(&channel, role.as_str()), path).await;
            assert_eq!(refused(&answer), Some(Code::Unimplemented), "{path}: {answer:?}");
        }
        assert_eq!(
            refused(&call(nobody.clone(), path).await),
            Some(Code::Unauthenticated)
        );
    }
    let reflection = "/grpc.reflection.v1.ServerReflection/ServerReflectionInfo";
    let watch = "/grpc.health.v1.Health/Watch";
    for path in [reflection, watch] {
        for role in Role::ALL {
            assert_eq!(refused(&call(with(&channel, role.as_str()), path).await), None);
        }
        assert_eq!(
            refused(&call(nobody.clone(), path).await),
            Some(Code::Unauthenticated)
        );
    }
    HealthClient::new(nobody)
        .check(HealthCheckRequest::default())
        .await
        .unwrap();
}

fn question(endpoint: &str) -> v1::ExplainRequest {
    v1::ExplainRequest {
        endpoint: endpoint.to_string(),
        direction: v1::Direction::Egress.into(),
        protocol: "tcp".to_string(),
        port: 25,
        ..Default::default()
    }
}

fn named(name: &str) -> v1::GetRequest {
    v1::GetRequest {
        name: name.to_string(),
    }
}

#[tokio::test]
async fn a_tenant_reaches_its_own_endpoints_only() {
    use v1::endpoint_service_client::EndpointServiceClient;
    use v1::policy_service_client::PolicyServiceClient;
    let (rig, channel) = rig().await;
    let document = v1::ApplyDocumentRequest {
        document: DOCUMENT.to_string(),
        ..Default::default()
    };
    PolicyServiceClient::new(with(&channel, "operator"))
        .apply_document(document)
        .await
        .unwrap();

    // web1 is acme's; mail1 is nobody's.
    let mut endpoints = EndpointServiceClient::new(with(&channel, "tenant"));
    let mut policy = PolicyServiceClient::new(with(&channel, "tenant"));
    assert_eq!(
        endpoints
            .get_endpoint(named("web1"))
            .await
            .unwrap()
            .into_inner()
            .name,
        "web1"
    );
    let told = policy.explain(question("web1")).await.unwrap().into_inner();
    assert_eq!((told.rule.as_str(), told.targets.len()), ("baseline/smtp", 0));
    let listed = endpoints
        .list_endpoints(v1::ListRequest::default())
        .await
        .unwrap()
        .into_inner();
    assert_eq!(
        listed
            .endpoints
            .iter()
            .map(|e| e.name.as_str())
            .collect::<Vec<_>>(),
        ["web1"]
    );

    // Another's is as one that is not there.
    let told = |status: Status, name: &str| {
        let details = status.get_error_details();
        let reason = details.error_info().unwrap().reason.clone();
        (status.code(), status.message().replace(name, "X"), reason)
    };
    let foreign = told(endpoints.get_endpoint(named("mail1")).await.unwrap_err(), "mail1");
    assert_eq!(
        (foreign.0, foreign.2.as_str()),
        (Code::PermissionDenied, "OUT_OF_REACH")
    );
    let missing = told(endpoints.get_endpoint(named("gone")).await.unwrap_err(), "gone");
    assert_eq!(foreign, missing);
    let foreign = told(policy.explain(question("mail1")).await.unwrap_err(), "mail1");
    assert_eq!(
        foreign,
        told(policy.explain(question("gone")).await.unwrap_err(), "gone")
    );
    assert_eq!(foreign, missing);

    let mut other = EndpointServiceClient::new(with(&channel, "other"));
    assert_eq!(
        other.get_endpoint(named("web1")).await.unwrap_err().code(),
        Code::PermissionDenied
    );
    let request = v1::ListRequest {
        label: "tenant=acme".to_string(),
        ..Default::default()
    };
    assert!(
        other
            .list_endpoints(request)
            .await
            .unwrap()
            .into_inner()
            .endpoints
            .is_empty()
    );

    // For everybody else nothing is hidden.
    for role in ["viewer", "provisioner", "operator"] {
        let mut endpoints = EndpointServiceClient::new(with(&channel, role));
        assert!(endpoints.get_endpoint(named("mail1")).await.is_ok());
        assert_eq!(
            endpoints.get_endpoint(named("gone")).await.unwrap_err().code(),
            Code::NotFound
        );
        let told = PolicyServiceClient::new(with(&channel, role))
            .explain(question("web1"))
            .await
            .unwrap();
        assert_eq!(told.into_inner().targets.len(), 1);
    }
    drop(rig);
}

#[tokio::test]
async fn only_operators_set_roles_and_what_is_shared() {
    let (_rig, channel) = rig().await;
    let client = |token| v1::endpoint_service_client::EndpointServiceClient::new(with(&channel, token));
    let (mut operator, mut provisioner) = (client("operator"), client("provisioner"));
    let plain = endpoint("gw", 1);
    let special = v1::Endpoint {
        roles: vec![v1::EndpointRole::Router.into()],
        shared: plain.macs.clone(),
        ..plain.clone()
    };
    let wanted = |e: &v1::Endpoint| v1::ProvisionRequest {
        endpoint: Some(e.clone()),
    };
    let refused = |status: Status, field: &str| {
        assert_eq!(status.code(), Code::PermissionDenied, "{status:?}");
        let details = status.get_error_details();
        let info = details.error_info().expect("an ErrorInfo");
        assert_eq!(
            (info.reason.as_str(), info.metadata["field"].as_str()),
            ("OPERATORS_ONLY", field)
        );
    };
    let create = |e: &v1::Endpoint| v1::CreateEndpointRequest {
        endpoint: Some(e.clone()),
    };
    let update = |e: &v1::Endpoint| v1::UpdateEndpointRequest {
        endpoint: Some(e.clone()),
    };
    refused(
        provisioner.provision(wanted(&special)).await.unwrap_err(),
        "endpoint.shared",
    );
    refused(
        provisioner.create_endpoint(create(&special)).await.unwrap_err(),
        "endpoint.shared",
    );
    provisioner.provision(wanted(&plain)).await.unwrap();
    let only_roles = v1::Endpoint {
        shared: Vec::new(),
        ..special.clone()
    };
    refused(
        provisioner
            .update_endpoint(update(&only_roles))
            .await
            .unwrap_err(),
        "endpoint.roles",
    );
    // What an operator set stays, whether the provisioner repeats it or knows nothing of it.
    let made = operator.provision(wanted(&special)).await.unwrap().into_inner();
    for same in [&plain, &special, &only_roles] {
        assert_eq!(
            provisioner.provision(wanted(same)).await.unwrap().into_inner(),
            made
        );
    }
    let other = v1::Endpoint {
        roles: vec![v1::EndpointRole::DhcpServer.into()],
        ..plain.clone()
    };
    refused(
        provisioner.provision(wanted(&other)).await.unwrap_err(),
        "endpoint.roles",
    );
    let read = operator.get_endpoint(named("gw")).await.unwrap().into_inner();
    assert_eq!((read.roles, read.shared), (special.roles, special.shared));
    operator.provision(wanted(&plain)).await.unwrap();
    let read = operator.get_endpoint(named("gw")).await.unwrap().into_inner();
    assert_eq!((read.roles.len(), read.shared.len()), (0, 0));
}

#[tokio::test]
async fn history_tells_whose_token_it_was() {
    use v1::endpoint_service_client::EndpointServiceClient;
    let (mut rig, channel) = rig().await;
    let request = v1::ProvisionRequest {
        endpoint: Some(endpoint("a", 1)),
    };
    EndpointServiceClient::new(with(&channel, "provisioner"))
        .provision(request)
        .await
        .unwrap();
    assert_eq!(by(&mut rig.client).await, "token provisioner");
}

#[tokio::test]
async fn the_command_shows_a_token() {
    use portcullis_cli::Globals;
    use portcullis_cli::client::Client;
    let (rig, _channel) = rig().await;
    let file = rig.folder.path().join("token");
    let globals = Globals {
        socket: rig.folder.path().join("agent.sock"),
        token_file: Some(file.clone()),
        ..Globals::default()
    };
    let read = async || {
        let client = Client::connect(&globals).await.unwrap();
        let answer = client.policy().get_document(v1::GetDocumentRequest {}).await;
        answer.map(|_| ()).map_err(|status| status.code())
    };
    for (token, answer) in [
        ("viewer\n", Ok(())),
        ("tenant\n", Err(Code::PermissionDenied)),
        ("stranger\n", Err(Code::Unauthenticated)),
    ] {
        std::fs::write(&file, token).unwrap();
        assert_eq!(read().await, answer, "{token}");
    }
}

/// Who made the first change.
pub async fn by(client: &mut Client) -> String {
    let request = v1::WatchRequest::default();
    let mut events = client.targets.watch(request).await.unwrap().into_inner();
    let event = events.message().await.unwrap().unwrap();
    let Some(v1::event::Event::Committed(committed)) = event.event else {
        panic!("{event:?}")
    };
    committed.by
}

#[tokio::test]
async fn users_on_the_socket_are_what_the_configuration_says() {
    use std::os::unix::fs::MetadataExt;
    // With a section that names nobody, the agent's own user operates.
    let mut rig = Rig::with("[access]\n").await;
    rig.client.provision(endpoint("a", 1)).await.unwrap();
    let uid = std::fs::metadata(rig.folder.path()).unwrap().uid();
    assert_eq!(by(&mut rig.client).await, format!("uid {uid}"));

    let mut rig = Rig::with(&format!("[[access.user]]\nuid = {uid}\nrole = \"viewer\"\n")).await;
    rig.client.document().await;
    let status = rig.client.provision(endpoint("a", 1)).await.unwrap_err();
    assert_eq!(status.code(), Code::PermissionDenied);
    assert!(
        status.message().contains(&format!("uid {uid} is a viewer")),
        "{status}"
    );
}

#[tokio::test]
async fn accounts_that_are_none_are_told() {
    let folder = tempfile::tempdir().unwrap();
    let more = "[[access.user]]\nuser = \"no-such-user\"\nrole = \"viewer\"\n";
    let error = start(folder.path(), more, &std::sync::Arc::new(Fake::default()))
        .await
        .unwrap_err();
    let text = portcullis_policy::text::with_causes(&error);
    assert!(text.contains("there is no user `no-such-user`"), "{text}");
}

#[tokio::test]
async fn who_asks_too_often_waits_and_keeps_nobody_else_waiting() {
    let settings = format!(
        "listen = \"127.0.0.1:0\"\ninsecure = true\n{}{}{}[access.rate.tenant]\nrequests_per_second = 1\nburst = 3\n",
        token("tenant", "role = \"tenant\"\ntenant = \"acme\""),
        token("other", "role = \"tenant\"\ntenant = \"other\""),
        token("viewer", "role = \"viewer\""),
    );
    let rig = Rig::with(&settings).await;
    let address = rig.agent.as_ref().unwrap().tcp().unwrap();
    let channel = Endpoint::from_shared(format!("http://{address}"))
        .unwrap()
        .connect()
        .await
        .unwrap();
    let ask = async |token: &str| {
        use v1::endpoint_service_client::EndpointServiceClient;
        EndpointServiceClient::new(with(&channel, token))
            .list_endpoints(v1::ListRequest::default())
            .await
    };
    let mut first = None;
    for n in 0..2000 {
        if let Err(status) = ask("tenant").await {
            first = Some((n, status));
            break;
        }
    }
    let (n, status) = first.expect("a refusal");
    assert!(n >= 3, "refused after {n}");
    assert_eq!(status.code(), Code::ResourceExhausted);
    let wait = status
        .get_error_details()
        .retry_info()
        .unwrap()
        .retry_delay
        .unwrap();
    assert!(wait <= Duration::from_secs(1), "{wait:?}");
    ask("other").await.unwrap();
    for _ in 0..20 {
        ask("viewer").await.unwrap();
    }
    tokio::time::sleep(wait + Duration::from_millis(100)).await;
    ask("tenant").await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn provisioners_are_held_to_profiles_and_to_no_rules() {
    let (_rig, channel) = rig_with("[access.provisioner]\nprofiles = [\"web\"]\nrules = false\n").await;
    let client = |token| v1::endpoint_service_client::EndpointServiceClient::new(with(&channel, token));
    let (mut operator, mut provisioner) = (client("operator"), client("provisioner"));
    let mut profiles = v1::profile_service_client::ProfileServiceClient::new(with(&channel, "operator"));
    for name in ["web", "mail", "strict"] {
        let profile = v1::Profile {
            name: name.to_string(),
            ..Default::default()
        };
        let create = v1::CreateProfileRequest {
            profile: Some(profile),
        };
        profiles.create_profile(create).await.unwrap();
    }
    let with_profiles = |names: &[&str]| v1::Endpoint {
        profiles: names.iter().map(ToString::to_string).collect(),
        ..endpoint("e1", 1)
    };
    let wanted = |e: &v1::Endpoint| v1::ProvisionRequest {
        endpoint: Some(e.clone()),
    };
    let field = |status: Status| {
        assert_eq!(status.code(), Code::PermissionDenied, "{status:?}");
        status.get_error_details().error_info().unwrap().metadata["field"].clone()
    };
    let rule = v1::Rule {
        name: "open".to_string(),
        action: v1::Action::Allow.into(),
        direction: v1::Direction::Egress.into(),
        protocol: "tcp".to_string(),
        ports: vec!["25".to_string()],
        ..Default::default()
    };
    let with_rule = |mut e: v1::Endpoint| {
        e.rules = vec![rule.clone()];
        e
    };
    // It opens nothing that its profile does not.
    let refused = provisioner.provision(wanted(&with_profiles(&["mail"]))).await;
    assert_eq!(field(refused.unwrap_err()), "endpoint.profiles");
    let refused = provisioner
        .provision(wanted(&with_rule(with_profiles(&["web"]))))
        .await;
    assert_eq!(field(refused.unwrap_err()), "endpoint.rules");
    provisioner
        .provision(wanted(&with_profiles(&["web"])))
        .await
        .unwrap();
    // What an operator set stays: a profile that denies is not taken off, and rules are kept.
    let strict = with_rule(with_profiles(&["strict", "web"]));
    operator.provision(wanted(&strict)).await.unwrap();
    let refused = provisioner.provision(wanted(&with_profiles(&["web"]))).await;
    assert_eq!(field(refused.unwrap_err()), "endpoint.profiles");
    provisioner
        .provision(wanted(&with_profiles(&["strict"])))
        .await
        .unwrap();
    let get = v1::GetRequest {
        name: "e1".to_string(),
    };
    let now = operator.get_endpoint(get).await.unwrap().into_inner();
    assert_eq!((now.profiles, now.rules.len()), (vec!["strict".to_string()], 1));
}
