//! `[access]` is read again at SIGHUP: no caller keeps a right that was taken away.

use std::time::{Duration, Instant};

use portcullis_proto::v1;
use portcullis_proto::v1::endpoint_service_client::EndpointServiceClient;
use portcullis_proto::v1::policy_service_client::PolicyServiceClient;
use portcullis_proto::v1::target_service_client::TargetServiceClient;
use tokio_stream::StreamExt;
use tonic::transport::{Channel, Endpoint};
use tonic::{Code, Request, Status};

use crate::api::access::{Bytes, token, tokens};
use crate::api::support::*;
use crate::api::tls::{hang_up, until};
use crate::api::unlock_rig::with;

pub const TCP: &str = "listen = \"127.0.0.1:0\"\ninsecure = true\n";

async fn rig(more: &str) -> (Rig, Channel) {
    let rig = Rig::with(&format!("{TCP}{more}")).await;
    let address = rig.agent.as_ref().unwrap().tcp().unwrap();
    let channel = Endpoint::from_shared(format!("http://{address}")).unwrap();
    (rig, channel.connect().await.unwrap())
}

/// Writes the configuration anew.
fn write(rig: &Rig, more: &str) {
    config(rig.folder.path(), &format!("{TCP}{more}"));
}

async fn reads(channel: &Channel, who: &str) -> Result<(), Code> {
    let mut policy = PolicyServiceClient::new(with(channel, who));
    let answer = policy.get_document(v1::GetDocumentRequest {}).await;
    answer.map(|_| ()).map_err(|status| status.code())
}

async fn access(rig: &mut Rig) -> v1::AccessStatus {
    let answer = rig.client.targets.list_targets(v1::ListTargetsRequest {}).await;
    answer.unwrap().into_inner().access.unwrap()
}

/// The end of a stream of changes, and how long after the beginning it came.
fn ending(
    mut stream: tonic::Streaming<v1::Event>,
    began: Instant,
) -> tokio::task::JoinHandle<(Option<Status>, Duration)> {
    tokio::spawn(async move {
        loop {
            match stream.message().await {
                Ok(Some(_)) => {}
                Ok(None) => return (None, began.elapsed()),
                Err(status) => return (Some(status), began.elapsed()),
            }
        }
    })
}

#[tokio::test]
async fn a_token_that_is_removed_ends_what_it_began() {
    let (mut rig, channel) = rig(&tokens()).await;
    let watch = async |who: &str| {
        let mut targets = TargetServiceClient::new(with(&channel, who));
        targets
            .watch(v1::WatchRequest::default())
            .await
            .unwrap()
            .into_inner()
    };
    let (viewers, operators, provisioners) = (
        watch("viewer").await,
        watch("operator").await,
        watch("provisioner").await,
    );
    // A call whose request is on its way, and one that waits.
    let (send, body) = tokio::sync::mpsc::channel::<()>(1);
    let slow = {
        let mut grpc = tonic::client::Grpc::new(with(&channel, "viewer"));
        grpc.ready().await.unwrap();
        let path = "/portcullis.v1.PolicyService/GetDocument".parse().unwrap();
        let body = tokio_stream::wrappers::ReceiverStream::new(body);
        tokio::spawn(async move {
            grpc.client_streaming(Request::new(body), path, Bytes)
                .await
                .map(|_| ())
        })
    };
    rig.fake.held.store(true, std::sync::atomic::Ordering::Relaxed);
    rig.client.provision(endpoint("a", 1)).await.unwrap();
    let waits = {
        let mut targets = TargetServiceClient::new(with(&channel, "viewer"));
        let request = v1::WaitRealizedRequest {
            timeout_ms: 60_000,
            ..Default::default()
        };
        tokio::spawn(async move { targets.wait_realized(request).await.map(|_| ()) })
    };
    tokio::time::sleep(Duration::from_millis(300)).await;

    // The viewer's token goes, and the provisioner's is a tenant's.
    let left = [
        token("operator", "role = \"operator\""),
        token("provisioner", "role = \"tenant\"\ntenant = \"acme\""),
    ];
    write(&rig, &left.concat());
    let began = Instant::now();
    let (viewers, mut operators) = (ending(viewers, began), operators);
    let provisioners = ending(provisioners, began);
    hang_up();
    for (who, stream) in [("viewer", viewers), ("provisioner", provisioners)] {
        let ended = tokio::time::timeout(Duration::from_secs(10), stream).await;
        let (status, after) = ended
            .unwrap_or_else(|_| panic!("{who}'s stream goes on"))
            .unwrap();
        let wanted = match who {
            "viewer" => Code::Unauthenticated,
            _ => Code::PermissionDenied,
        };
        assert_eq!(status.map(|status| status.code()), Some(wanted), "{who}");
        assert!(after < Duration::from_secs(2), "{who}: {after:?}");
    }
    let ended = tokio::time::timeout(Duration::from_secs(10), waits).await;
    let status = ended.expect("a wait ends").unwrap().unwrap_err();
    assert_eq!(status.code(), Code::Unauthenticated, "{status:?}");
    // The connection is as it was, and its calls are judged by what holds now.
    assert_eq!(reads(&channel, "viewer").await, Err(Code::Unauthenticated));
    assert_eq!(reads(&channel, "provisioner").await, Err(Code::PermissionDenied));
    assert_eq!(reads(&channel, "operator").await, Ok(()));
    // What was let in before, and sends its request only now, is refused.
    send.send(()).await.unwrap();
    drop(send);
    let status = slow.await.unwrap().unwrap_err();
    assert_eq!(status.code(), Code::Unauthenticated, "{status:?}");
    // Who keeps the right keeps the stream.
    rig.client.provision(endpoint("b", 2)).await.unwrap();
    let told = tokio::time::timeout(Duration::from_secs(10), async {
        while operators.next().await.unwrap().unwrap().generation < 2 {}
    });
    told.await.unwrap();
    assert_eq!(access(&mut rig).await, v1::AccessStatus::default());
}

#[tokio::test]
async fn users_and_what_provisioners_may_set_are_read_again() {
    use std::os::unix::fs::MetadataExt;
    let (mut rig, channel) = rig(&tokens()).await;
    let own = std::fs::metadata(rig.folder.path()).unwrap().uid();
    rig.client.document().await;
    let mut endpoints = EndpointServiceClient::new(with(&channel, "provisioner"));
    let ruled = v1::Endpoint {
        rules: vec![rule("open", v1::Action::Allow, v1::Direction::Egress)],
        ..endpoint("a", 1)
    };
    let provision = v1::ProvisionRequest {
        endpoint: Some(ruled),
    };
    endpoints.provision(provision.clone()).await.unwrap();
    let user = format!("[[access.user]]\nuid = {own}\nrole = \"viewer\"\n");
    write(
        &rig,
        &format!("{}{user}[access.provisioner]\nrules = false\n", tokens()),
    );
    hang_up();
    until("the user's role", async || {
        let made = rig.client.provision(endpoint("b", 2)).await;
        made.is_err_and(|status| status.code() == Code::PermissionDenied)
    })
    .await;
    let more = v1::ProvisionRequest {
        endpoint: provision.endpoint.map(|e| v1::Endpoint {
            name: "c".to_string(),
            ..e
        }),
    };
    let refused = endpoints.provision(more).await.unwrap_err();
    assert_eq!(refused.code(), Code::PermissionDenied, "{refused:?}");
}

#[tokio::test]
async fn what_cannot_be_used_changes_nothing_and_is_reported() {
    let (mut rig, channel) = rig(&tokens()).await;
    let file = rig.folder.path().join("agent.toml");
    let text = std::fs::read_to_string(&file).unwrap();
    for (broken, problem) in [
        ("[access".to_string(), "agent.toml:1"),
        (
            text.replace("sha256 = \"", "sha256 = \"x"),
            "access.token[0].sha256",
        ),
        (
            format!("{text}[[access.user]]\nuser = \"no-such-user\"\nrole = \"viewer\"\n"),
            "there is no user `no-such-user`",
        ),
        // Half a file must not make everybody an operator.
        (
            text.split("[[access").next().unwrap().to_string(),
            "[access] is gone",
        ),
    ] {
        std::fs::write(&file, &broken).unwrap();
        hang_up();
        until(problem, async || access(&mut rig).await.problem.contains(problem)).await;
        assert_eq!(reads(&channel, "viewer").await, Ok(()), "{problem}");
        assert_eq!(reads(&channel, "stranger").await, Err(Code::Unauthenticated));
    }
    // What needs a start is named, and the rest holds.
    let fresh = text.replace("[access.rate", "[access]\ntenant_label = \"owner\"\n[access.rate");
    let fresh = fresh.replace("[store]\n", "[log]\nformat = \"json\"\n[store]\n");
    let fresh = fresh.replace("name = \"viewer\"", "name = \"reader\"");
    std::fs::write(&file, fresh).unwrap();
    hang_up();
    until("the settings", async || {
        let access = access(&mut rig).await;
        access.problem.is_empty() && access.needs_restart == ["access.tenant_label", "[log]"]
    })
    .await;
    let own = v1::Endpoint {
        labels: [("tenant".to_string(), "acme".to_string())].into(),
        ..endpoint("a", 1)
    };
    rig.client.provision(own).await.unwrap();
    // The label is as it was.
    let mut endpoints = EndpointServiceClient::new(with(&channel, "tenant"));
    let get = v1::GetRequest {
        name: "a".to_string(),
    };
    endpoints.get_endpoint(get).await.unwrap();
}
