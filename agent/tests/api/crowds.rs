//! One caller's work is no other's outage: streams, sizes, slow requests, silent connections.

use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use portcullis_proto::v1;
use portcullis_proto::v1::endpoint_service_client::EndpointServiceClient;
use portcullis_proto::v1::unlock_service_client::UnlockServiceClient;
use portcullis_testbed::dns::{Fault, Zone};
use tokio::io::AsyncReadExt;
use tokio::net::TcpStream;
use tonic::transport::{Channel, Endpoint};
use tonic::{Code, Request, Status, Streaming};
use tonic_types::StatusExt;

use crate::api::access::{Bytes, token, tokens};
use crate::api::support::*;
use crate::api::unlock_rig::{PROGRAMS, Unlocks, with};

async fn rig(limits: &str) -> (Rig, Channel) {
    let rig = Rig::with(&format!(
        "listen = \"127.0.0.1:0\"\ninsecure = true\n{}{}[limits]\n{limits}",
        tokens(),
        token("second", "role = \"tenant\"\ntenant = \"acme\"")
    ))
    .await;
    let channel = connect(&rig).await.unwrap();
    (rig, channel)
}

async fn connect(rig: &Rig) -> Result<Channel, tonic::transport::Error> {
    let address = rig.agent.as_ref().unwrap().tcp().unwrap();
    Endpoint::from_shared(format!("http://{address}"))
        .unwrap()
        .connect()
        .await
}

async fn watch(channel: &Channel, who: &str) -> Result<Streaming<v1::UnlockEvent>, Status> {
    let mut api = UnlockServiceClient::new(with(channel, who));
    let answer = api.watch_unlocks(v1::WatchUnlocksRequest::default()).await;
    answer.map(tonic::Response::into_inner)
}

#[tokio::test]
async fn one_tenant_takes_its_own_streams_and_no_others() {
    let (rig, channel) = rig("watchers = 6\nwatchers_per_caller = 2\nwatchers_reserved = 3\n").await;
    let mut held = Vec::new();
    // A tenant's tokens are one caller.
    held.push(watch(&channel, "tenant").await.unwrap());
    held.push(watch(&channel, "second").await.unwrap());
    for who in ["tenant", "second"] {
        let refused = watch(&channel, who).await.unwrap_err();
        assert_eq!(refused.code(), Code::ResourceExhausted, "{refused:?}");
        assert!(refused.message().starts_with("2 watchers"), "{refused:?}");
    }
    // All tenants together leave those that operators and orchestration need.
    held.push(watch(&channel, "other").await.unwrap());
    let refused = watch(&channel, "other").await.unwrap_err();
    assert!(refused.message().starts_with("3 watchers"), "{refused:?}");
    held.push(watch(&channel, "operator").await.unwrap());
    held.push(watch(&channel, "provisioner").await.unwrap());
    held.push(watch(&channel, "provisioner").await.unwrap());
    assert!(
        watch(&channel, "operator")
            .await
            .unwrap_err()
            .message()
            .starts_with("6 watchers")
    );
    drop(held);
    let end = Instant::now() + Duration::from_secs(10);
    while watch(&channel, "tenant").await.is_err() {
        assert!(Instant::now() < end, "a stream that was left still counts");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    drop(rig);
}

#[tokio::test]
async fn a_tenants_requests_are_small() {
    let (rig, channel) = rig("").await;
    let request = |size: usize| v1::RequestUnlockRequest {
        program: "p".to_string(),
        endpoint: "e".to_string(),
        evidence: [("text".to_string(), "x".repeat(size))].into(),
        ..Default::default()
    };
    let mut tenant = UnlockServiceClient::new(with(&channel, "tenant"));
    let reason = |status: &Status| {
        let details = status.get_error_details();
        details.error_info().map(|info| info.reason.clone())
    };
    for size in [66 << 10, 900 << 10] {
        let refused = tenant.request_unlock(request(size)).await.unwrap_err();
        assert_eq!(refused.code(), Code::OutOfRange, "{refused:?}");
        assert_eq!(reason(&refused).as_deref(), Some("TOO_LARGE"));
    }
    let refused = tenant.request_unlock(request(60 << 10)).await.unwrap_err();
    assert_eq!(refused.code(), Code::PermissionDenied, "{refused:?}");
    // An operator's may be as large as a document.
    let mut operator = UnlockServiceClient::new(with(&channel, "operator"));
    let refused = operator.request_unlock(request(900 << 10)).await.unwrap_err();
    assert_eq!(refused.code(), Code::NotFound, "{refused:?}");
    // A list that names a state ten thousand times names it once.
    let states = v1::ListUnlocksRequest {
        states: vec![v1::UnlockState::Active.into(); 10_000],
        ..Default::default()
    };
    let listed = tenant.list_unlocks(states).await.unwrap().into_inner();
    assert!(listed.unlocks.is_empty());
    drop(rig);
}

#[tokio::test]
async fn each_role_has_its_largest_request() {
    let (_rig, channel) = rig("provisioner_message_kib = 100\nmessage_mib = 1\n").await;
    let sizes = [("viewer", 64), ("provisioner", 100), ("operator", 1024)];
    for (who, kib) in sizes {
        let mut api = EndpointServiceClient::new(with(&channel, who));
        let get = |bytes: usize| v1::GetRequest {
            name: "x".repeat(bytes),
        };
        let refused = api.get_endpoint(get((kib << 10) - 200)).await.unwrap_err();
        assert_ne!(refused.code(), Code::OutOfRange, "{who}: {refused:?}");
        let refused = api.get_endpoint(get((kib << 10) + 1)).await.unwrap_err();
        assert_eq!(refused.code(), Code::OutOfRange, "{who}: {refused:?}");
        let named = match who {
            "viewer" => "limits.tenant_message_kib",
            "provisioner" => "limits.provisioner_message_kib",
            _ => "1048576 bytes",
        };
        assert!(refused.message().contains(named), "{who}: {refused:?}");
    }
}

#[tokio::test]
async fn a_caller_that_fills_the_queue_of_changes_holds_up_no_other() {
    let (rig, channel) = rig("queued_changes = 4\n").await;
    let held = Held::new(&rig.fake);
    let call = |who: &str, number: u8| {
        let mut api = EndpointServiceClient::new(with(&channel, who));
        let request = v1::ProvisionRequest {
            endpoint: Some(endpoint(&format!("e{number}"), number)),
        };
        tokio::spawn(async move {
            let answer = api.provision(request).await?;
            Ok::<_, Status>(answer.into_inner().generation)
        })
    };
    // One that is being made, then four that wait: each has arrived before the next is sent.
    let begun = rig.fake.checks.load(Ordering::Relaxed);
    let mut flood = vec![call("provisioner", 0)];
    while rig.fake.checks.load(Ordering::Relaxed) == begun {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    flood.extend((1..6).map(|number| call("provisioner", number)));
    while flood.iter().filter(|call| call.is_finished()).count() < 1 {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    // The queue is full, and an operator's change finds a place at the cost of the flood.
    let other = call("operator", 10);
    while flood.iter().filter(|call| call.is_finished()).count() < 2 {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    assert!(!other.is_finished());
    held.let_go();
    let own = other.await.unwrap().unwrap();
    let mut generations = Vec::new();
    for call in flood {
        match call.await.unwrap() {
            Ok(generation) => generations.push(generation),
            Err(refused) => assert_eq!(refused.code(), Code::ResourceExhausted, "{refused:?}"),
        }
    }
    generations.sort_unstable();
    assert_eq!(generations.len(), 4, "{generations:?}");
    // Behind the one that was being made, and the first of the flood.
    assert_eq!(own, generations[1] + 1, "{generations:?}");
}

#[tokio::test]
async fn a_request_that_does_not_arrive_ends() {
    let (rig, channel) = rig("request_arrival = \"1s\"\n").await;
    let began = Instant::now();
    let mut slow = tokio::task::JoinSet::new();
    for who in ["operator", "tenant"] {
        let line = with(&channel, who);
        slow.spawn(async move {
            let mut grpc = tonic::client::Grpc::new(line);
            grpc.ready().await.unwrap();
            let path = "/portcullis.v1.UnlockService/ListUnlocks".parse().unwrap();
            let never = Request::new(tokio_stream::pending::<()>());
            grpc.client_streaming(never, path, Bytes).await.map(|_| ())
        });
    }
    while let Some(answer) = slow.join_next().await {
        let refused = answer.unwrap().unwrap_err();
        assert_eq!(refused.code(), Code::DeadlineExceeded, "{refused:?}");
        assert!(refused.message().contains("request_arrival"), "{refused:?}");
    }
    assert!(began.elapsed() < Duration::from_secs(20), "{:?}", began.elapsed());
    drop(rig);
}

/// Waits until the other end closes a connection.
async fn closed(stream: &mut TcpStream) {
    let mut buffer = [0; 1024];
    let read = async {
        loop {
            match stream.read(&mut buffer).await {
                Ok(0) | Err(_) => return,
                Ok(_) => {}
            }
        }
    };
    tokio::time::timeout(Duration::from_secs(20), read)
        .await
        .expect("the connection is closed");
}

#[tokio::test]
async fn silent_connections_take_nothing_from_others() {
    let (mut rig, channel) = rig("connections_per_address = 4\nfirst_call = \"3s\"\n").await;
    let address = rig.agent.as_ref().unwrap().tcp().unwrap();
    let mut first = v1::endpoint_service_client::EndpointServiceClient::new(with(&channel, "tenant"));
    first.list_endpoints(v1::ListRequest::default()).await.unwrap();
    let began = Instant::now();
    let mut silent = Vec::new();
    for _ in 0..3 {
        silent.push(TcpStream::connect(address).await.unwrap());
    }
    // Accepted in order: this one finds no place.
    let mut more = TcpStream::connect(address).await.unwrap();
    closed(&mut more).await;
    assert!(began.elapsed() < Duration::from_secs(5), "{:?}", began.elapsed());
    // The socket has places of its own.
    rig.client.document().await;
    for stream in &mut silent {
        closed(stream).await;
    }
    assert!(began.elapsed() > Duration::from_secs(2), "{:?}", began.elapsed());
    // Who calls is left alone, and there is room again.
    first.list_endpoints(v1::ListRequest::default()).await.unwrap();
    let again = connect(&rig).await.unwrap();
    let mut api = v1::endpoint_service_client::EndpointServiceClient::new(with(&again, "tenant"));
    api.list_endpoints(v1::ListRequest::default()).await.unwrap();
}

#[tokio::test]
async fn an_idle_connection_goes_and_one_that_watches_stays() {
    let (mut rig, channel) = rig("connections_per_address = 2\nidle = \"1s\"\n").await;
    let mut targets = v1::target_service_client::TargetServiceClient::new(with(&channel, "operator"));
    let mut events = targets
        .watch(v1::WatchRequest::default())
        .await
        .unwrap()
        .into_inner();
    let idle = connect(&rig).await.unwrap();
    let mut api = v1::endpoint_service_client::EndpointServiceClient::new(with(&idle, "tenant"));
    api.list_endpoints(v1::ListRequest::default()).await.unwrap();
    // There are two, and no place for a third, until the idle one goes.
    let end = Instant::now() + Duration::from_secs(20);
    loop {
        if let Ok(third) = connect(&rig).await {
            let mut api = v1::endpoint_service_client::EndpointServiceClient::new(with(&third, "tenant"));
            if api.list_endpoints(v1::ListRequest::default()).await.is_ok() {
                break;
            }
        }
        assert!(Instant::now() < end, "an idle connection stays");
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
    rig.client.provision(endpoint("a", 1)).await.unwrap();
    let told = tokio::time::timeout(Duration::from_secs(10), async {
        loop {
            let event = events.message().await.unwrap().expect("not the end");
            if event.generation == 1 {
                return event;
            }
        }
    });
    told.await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn checks_of_a_tenant_whose_zone_is_silent_hold_up_no_other() {
    let mut u = Unlocks::new().await;
    let program = "
  hosted:
    opens: [{direction: egress, protocol: tcp, ports: [25]}]
    evidence: [{name: hostname, type: hostname}]
    checks: [{kind: address, hostname: hostname}]
    lease: {default: 1h}
    limits: {per_endpoint: 1000}
";
    u.apply(&format!("{PROGRAMS}{program}")).await.unwrap();
    let good = "192.0.2.10".parse().unwrap();
    u.dns.replace(
        Zone::new()
            .address("good.example.com", good)
            .fault("slow.example.com", Fault::Silent),
    );
    let asked = |endpoint: &str, hostname: &str| v1::RequestUnlockRequest {
        program: "hosted".to_string(),
        endpoint: endpoint.to_string(),
        evidence: [("hostname".to_string(), hostname.to_string())].into(),
        ..Default::default()
    };
    for _ in 0..300 {
        u.api
            .request_unlock(asked("mail1", "slow.example.com"))
            .await
            .unwrap();
    }
    let began = tokio::time::Instant::now();
    let other = u
        .as_caller("other")
        .request_unlock(asked("web1", "good.example.com"))
        .await
        .unwrap()
        .into_inner();
    u.until(&other.id, &[v1::UnlockState::Active]).await;
    assert!(began.elapsed() < Duration::from_secs(5), "{:?}", began.elapsed());
}
