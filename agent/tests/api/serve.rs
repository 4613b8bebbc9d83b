//! Sockets, TLS, health, reflection.

use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::sync::Arc;

use portcullis_policy::text::with_causes;
use portcullis_proto::v1;
use rcgen::ExtendedKeyUsagePurpose;
use tonic::transport::Endpoint;
use tonic_health::pb::health_client::HealthClient;
use tonic_health::pb::{HealthCheckRequest, health_check_response::ServingStatus};
use tonic_reflection::pb::v1::ServerReflectionRequest;
use tonic_reflection::pb::v1::server_reflection_client::ServerReflectionClient;
use tonic_reflection::pb::v1::server_reflection_request::MessageRequest;
use tonic_reflection::pb::v1::server_reflection_response::MessageResponse;

use crate::api::certificates::{Authority, Secure};
use crate::api::support::*;

async fn refusal(folder: &Path, more: &str) -> String {
    let error = start(folder, more, &Arc::new(Fake::default()))
        .await
        .expect_err("was not refused");
    with_causes(&error)
}

#[tokio::test]
async fn the_socket_is_the_groups_and_goes_with_the_agent() {
    let mut rig = Rig::new().await;
    let path = rig.folder.path().join("agent.sock");
    assert_eq!(
        std::fs::metadata(&path).unwrap().permissions().mode() & 0o777,
        0o660
    );
    rig.agent.take().unwrap().stop().await.unwrap();
    assert!(!path.exists());
    let rig = Rig::with("socket_mode = \"0600\"").await;
    let mode = std::fs::metadata(rig.folder.path().join("agent.sock"))
        .unwrap()
        .permissions()
        .mode();
    assert_eq!(mode & 0o777, 0o600);
}

#[tokio::test]
async fn only_a_dead_socket_is_replaced() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("agent.sock");
    std::fs::write(&path, "precious").unwrap();
    assert!(
        refusal(folder.path(), "")
            .await
            .contains("is not a socket and is left alone")
    );
    assert_eq!(std::fs::read(&path).unwrap(), b"precious");
    std::fs::remove_file(&path).unwrap();

    // Somebody else answers there.
    let other = std::os::unix::net::UnixListener::bind(&path).unwrap();
    assert!(refusal(folder.path(), "").await.contains("something answers on"));
    assert!(path.exists());
    // Killed: the file stays, nobody answers.
    drop(other);
    let agent = start(folder.path(), "", &Arc::new(Fake::default()))
        .await
        .unwrap();
    Client::unix(&path).await.document().await;
    agent.stop().await.unwrap();
}

#[tokio::test]
async fn two_agents_do_not_share_a_database() {
    let rig = Rig::new().await;
    let text = refusal(rig.folder.path(), "").await;
    assert!(text.contains("is in use by another agent"), "{text}");
}

#[tokio::test]
async fn a_group_must_exist() {
    let folder = tempfile::tempdir().unwrap();
    let text = refusal(folder.path(), "socket_group = \"no-such-group\"").await;
    assert!(text.contains("there is no group `no-such-group`"), "{text}");
}

#[tokio::test]
async fn health_and_reflection() {
    let rig = Rig::new().await;
    let mut health = HealthClient::new(rig.client.channel.clone());
    for service in ["", "portcullis.v1.EndpointService"] {
        let answer = health
            .check(HealthCheckRequest {
                service: service.to_string(),
            })
            .await
            .unwrap();
        assert_eq!(answer.into_inner().status(), ServingStatus::Serving);
    }
    let mut reflection = ServerReflectionClient::new(rig.client.channel.clone());
    let request = ServerReflectionRequest {
        host: String::new(),
        message_request: Some(MessageRequest::ListServices(String::new())),
    };
    let mut answers = reflection
        .server_reflection_info(tokio_stream::iter([request]))
        .await
        .unwrap()
        .into_inner();
    let answer = answers.message().await.unwrap().unwrap();
    let Some(MessageResponse::ListServicesResponse(list)) = answer.message_response else {
        panic!("{answer:?}")
    };
    let names: Vec<&str> = list.service.iter().map(|s| s.name.as_str()).collect();
    for expected in [
        "portcullis.v1.PolicyService",
        "portcullis.v1.TargetService",
        "grpc.health.v1.Health",
    ] {
        assert!(names.contains(&expected), "{names:?}");
    }
}

async fn secure(mutual: bool) -> Secure {
    Secure::with(mutual, "").await
}

#[tokio::test]
async fn mutual_tls_lets_in_who_is_signed() {
    let secure = secure(true).await;
    let client = secure
        .clients
        .sign("operator", ExtendedKeyUsagePurpose::ClientAuth);
    let stranger = Authority::new().sign("operator", ExtendedKeyUsagePurpose::ClientAuth);
    assert_eq!(secure.connect(Some(client.clone()), &secure.servers).await, Ok(0));
    assert!(secure.connect(None, &secure.servers).await.is_err());
    assert!(secure.connect(Some(stranger), &secure.servers).await.is_err());
    assert!(
        secure.connect(Some(client), &secure.clients).await.is_err(),
        "the client must not trust this agent"
    );
    let address = secure.address();
    let plain = Endpoint::from_shared(format!("http://{address}"))
        .unwrap()
        .connect()
        .await;
    if let Ok(channel) = plain {
        Client::over(channel)
            .policy
            .get_document(v1::GetDocumentRequest {})
            .await
            .unwrap_err();
    }
}

#[tokio::test]
async fn tls_on_loopback_may_do_without_client_certificates() {
    let secure = secure(false).await;
    assert_eq!(secure.connect(None, &secure.servers).await, Ok(0));
}

#[tokio::test]
async fn the_peer_on_tcp_is_in_the_history() {
    let mut rig = Rig::with("listen = \"127.0.0.1:0\"\ninsecure = true").await;
    let address = rig.agent.as_ref().unwrap().tcp().unwrap();
    let channel = Endpoint::from_shared(format!("http://{address}"))
        .unwrap()
        .connect()
        .await
        .unwrap();
    Client::over(channel).provision(endpoint("a", 1)).await.unwrap();
    let request = v1::WatchRequest {
        after_generation: 0,
        from_now: false,
    };
    let event = rig
        .client
        .targets
        .watch(request)
        .await
        .unwrap()
        .into_inner()
        .message()
        .await
        .unwrap()
        .unwrap();
    let Some(v1::event::Event::Committed(committed)) = event.event else {
        panic!("{event:?}")
    };
    assert!(committed.by.starts_with("127.0.0.1:"), "{}", committed.by);
}

#[tokio::test]
async fn certificates_that_are_none_are_told() {
    let folder = tempfile::tempdir().unwrap();
    let tls =
        |cert: &str| format!("listen = \"127.0.0.1:0\"\n[api.tls]\ncert = \"{cert}\"\nkey = \"{cert}\"\n");
    let text = refusal(folder.path(), &tls("/nowhere/cert")).await;
    assert!(text.contains("cannot read /nowhere/cert of [api.tls]"), "{text}");
    let garbage = folder.path().join("garbage");
    std::fs::write(&garbage, "garbage").unwrap();
    let text = refusal(folder.path(), &tls(&garbage.display().to_string())).await;
    assert!(text.contains("cannot be used"), "{text}");
}
