use std::path::Path;
use std::time::Duration;

use sha2::{Digest, Sha256};
use tokio::sync::mpsc;
use tonic_types::StatusExt;
use tower::ServiceExt;

use super::super::denial_log;
use super::*;

const PLAN: &str = "/portcullis.v1.PolicyService/Plan";
const EXPLAIN: &str = "/portcullis.v1.PolicyService/Explain";
const CHECK: &str = "/grpc.health.v1.Health/Check";

fn configured(more: &str) -> (Access, mpsc::Receiver<Denial>) {
    let hex = |text: &str| -> String { Sha256::digest(text).iter().map(|b| format!("{b:02x}")).collect() };
    let text = format!(
        "[access]\n[[access.token]]\nname = \"acme\"\nsha256 = \"{}\"\nrole = \"tenant\"\ntenant = \"acme\"\n\
         [[access.token]]\nname = \"ops\"\nsha256 = \"{}\"\nrole = \"operator\"\n{more}",
        hex("of acme"),
        hex("of ops"),
    );
    let config = config::parse(Path::new("agent.toml"), &text).unwrap();
    let (denial_log, denials) = denial_log(8);
    (Access::new(config.access.as_ref(), denial_log).unwrap(), denials)
}

fn request(path: &str, peer: &Peer, tokens: &[&str]) -> Request<Body> {
    let mut request = Request::builder().uri(path);
    for token in tokens {
        request = request.header("authorization", *token);
    }
    let mut request = request.body(Body::empty()).unwrap();
    request.extensions_mut().insert(Arc::new(peer.clone()));
    request
}

/// The result of a call: the status of a refusal, or the caller that the service sees.
async fn call(access: &Access, request: Request<Body>) -> Result<Option<Caller>, Status> {
    let service = tower::service_fn(|request: Request<Body>| async move {
        assert!(
            !request.headers().contains_key("authorization"),
            "a token came through"
        );
        let mut response = Response::new(Body::empty());
        if let Some(caller) = request.extensions().get::<Caller>() {
            response.extensions_mut().insert(caller.clone());
        }
        Ok::<_, std::convert::Infallible>(response)
    });
    let response = access.layer(service).oneshot(request).await.unwrap();
    match response.extensions().get::<Status>() {
        Some(status) => Err(status.clone()),
        None => Ok(response.extensions().get::<Caller>().cloned()),
    }
}

fn nowhere(access: &Access) -> Peer {
    access.on_tcp(Some("192.0.2.1:4711".parse().unwrap()))
}

#[tokio::test]
async fn a_token_tells_who_calls_and_goes_no_further() {
    let (access, mut denials) = configured("");
    let peer = nowhere(&access);
    for spelled in ["Bearer of ops", "bearer of ops", "BEARER  of ops "] {
        let caller = call(&access, request(PLAN, &peer, &[spelled]))
            .await
            .unwrap()
            .unwrap();
        assert_eq!((caller.name.as_str(), caller.role), ("token ops", Role::Operator));
    }
    let caller = call(&access, request(EXPLAIN, &peer, &["Bearer of acme"]))
        .await
        .unwrap();
    assert_eq!(caller.unwrap().tenant.as_deref(), Some("acme"));
    assert!(denials.try_recv().is_err());

    let status = call(&access, request(PLAN, &peer, &["Bearer of acme"]))
        .await
        .unwrap_err();
    assert_eq!(status.code(), Code::PermissionDenied);
    let details = status.get_error_details();
    let info = details.error_info().unwrap();
    assert_eq!(
        (info.reason.as_str(), info.domain.as_str()),
        ("ROLE", "portcullis")
    );
    assert_eq!(info.metadata["method"], PLAN[1..]);
    assert_eq!(info.metadata["role"], "tenant");
    let denial = denials.try_recv().unwrap();
    assert_eq!(
        (denial.caller.as_str(), denial.role),
        ("token acme", Some(Role::Tenant))
    );
    assert_eq!(denial.method, PLAN[1..]);
}

#[tokio::test]
async fn who_shows_nothing_known_is_nobody() {
    let (access, mut denials) = configured("");
    let peer = nowhere(&access);
    let shown: [&[&str]; 7] = [
        &[],
        &["Bearer of nobody"],
        &["Bearer "],
        &["Bearer"],
        &["of ops"],
        &["Basic of ops"],
        &["Bearer of ops", "Bearer of acme"],
    ];
    for tokens in shown {
        let status = call(&access, request(EXPLAIN, &peer, tokens)).await.unwrap_err();
        assert_eq!(status.code(), Code::Unauthenticated, "{tokens:?}");
        let denial = denials.try_recv().unwrap();
        assert_eq!((denial.caller.as_str(), denial.role), ("192.0.2.1:4711", None));
        assert!(!denial.why.contains("of "), "a token is told: {}", denial.why);
        assert_eq!(call(&access, request(CHECK, &peer, tokens)).await.unwrap(), None);
    }
    let mut bare = request(EXPLAIN, &peer, &[]);
    bare.extensions_mut().clear();
    assert_eq!(
        call(&access, bare).await.unwrap_err().code(),
        Code::Unauthenticated
    );
}

#[tokio::test]
async fn a_wrong_token_is_not_made_good_by_the_connection() {
    let (access, _denials) = configured("");
    let peer = Peer {
        place: "uid 0".to_string(),
        shows: Shows::User(0, 0),
        activity: Arc::default(),
    };
    assert!(call(&access, request(PLAN, &peer, &[])).await.is_ok());
    let status = call(&access, request(PLAN, &peer, &["Bearer of nobody"]))
        .await
        .unwrap_err();
    assert_eq!(status.code(), Code::Unauthenticated);
    let status = call(&access, request(PLAN, &peer, &["Bearer of acme"]))
        .await
        .unwrap_err();
    assert_eq!(status.code(), Code::PermissionDenied);
}

#[tokio::test]
async fn a_certificate_ends_while_its_connection_lasts() {
    let (access, _denials) = configured("[[access.certificate]]\nsan = \"a.example\"\nrole = \"viewer\"\n");
    let peer = |until| Peer {
        place: "192.0.2.1:1".to_string(),
        shows: Shows::Certificate {
            names: vec![crate::access::San::Dns("a.example".to_string())],
            until,
            chain: Arc::new([]),
        },
        activity: Arc::default(),
    };
    let (hour, now) = (Duration::from_secs(3600), SystemTime::now());
    assert!(
        call(&access, request(EXPLAIN, &peer(now + hour), &[]))
            .await
            .is_ok()
    );
    let status = call(&access, request(EXPLAIN, &peer(now - hour), &[]))
        .await
        .unwrap_err();
    assert_eq!(status.code(), Code::Unauthenticated);
    assert!(status.message().contains("expired"), "{status}");
}

#[tokio::test]
async fn a_method_that_is_none_comes_to_no_service() {
    let (access, mut denials) = configured("");
    let peer = nowhere(&access);
    let long = format!("/portcullis.v1.{}", "x".repeat(10_000));
    for path in ["/", "/portcullis.v1.PolicyService/Explode", "/a/b", long.as_str()] {
        let status = call(&access, request(path, &peer, &["Bearer of ops"]))
            .await
            .unwrap_err();
        assert_eq!(status.code(), Code::Unimplemented, "{path}");
        assert!(denials.try_recv().unwrap().method.len() < 300);
        let status = call(&access, request(path, &peer, &[])).await.unwrap_err();
        assert_eq!(status.code(), Code::Unauthenticated, "{path}");
        assert!(denials.try_recv().is_ok());
    }
}

#[tokio::test]
async fn who_asks_too_often_is_told_when_to_come_back() {
    let (access, mut denials) = configured("[access.rate.tenant]\nrequests_per_second = 1\nburst = 2\n");
    let peer = nowhere(&access);
    let ask = || call(&access, request(EXPLAIN, &peer, &["Bearer of acme"]));
    assert!(ask().await.is_ok() && ask().await.is_ok());
    // However slow the machine, some of so many come within a second.
    let mut refused = None;
    for _ in 0..1000 {
        refused = refused.or(ask().await.err());
    }
    let status = refused.unwrap();
    assert_eq!(status.code(), Code::ResourceExhausted);
    let retry = status
        .get_error_details()
        .retry_info()
        .unwrap()
        .retry_delay
        .unwrap();
    assert!(
        retry > Duration::ZERO && retry <= Duration::from_secs(1),
        "{retry:?}"
    );
    for _ in 0..100 {
        assert!(
            call(&access, request(EXPLAIN, &peer, &["Bearer of ops"]))
                .await
                .is_ok()
        );
    }
    assert!(
        denials.try_recv().is_err(),
        "what is merely too often is no denial"
    );
}

#[tokio::test]
async fn no_rate_holds_up_a_revocation() {
    let (access, _denials) = configured("[access.rate.operator]\nrequests_per_second = 1\nburst = 1\n");
    let peer = nowhere(&access);
    let ask = |path: &'static str| call(&access, request(path, &peer, &["Bearer of ops"]));
    let mut refused = 0;
    for _ in 0..100 {
        refused += u32::from(ask(EXPLAIN).await.is_err());
        assert!(ask("/portcullis.v1.UnlockService/Revoke").await.is_ok());
    }
    assert!(refused > 0, "other calls have their rate");
}

#[tokio::test]
async fn what_a_service_refuses_is_witnessed_too() {
    let (access, mut denials) = configured("");
    let peer = nowhere(&access);
    let service = tower::service_fn(|_: Request<Body>| async move {
        Ok::<_, std::convert::Infallible>(Status::permission_denied("`a` is not yours").into_http())
    });
    let request = request(EXPLAIN, &peer, &["Bearer of acme"]);
    access.layer(service).oneshot(request).await.unwrap();
    let denial = denials.try_recv().unwrap();
    assert_eq!(
        (denial.caller.as_str(), denial.why.as_str()),
        ("token acme", "`a` is not yours")
    );
}

#[tokio::test]
async fn without_a_configuration_who_comes_in_operates() {
    let (denial_log, _denials) = denial_log(1);
    let access = Access::new(None, denial_log).unwrap();
    let peer = nowhere(&access);
    let caller = call(&access, request(PLAN, &peer, &[])).await.unwrap().unwrap();
    assert_eq!(
        (caller.name.as_str(), caller.role),
        ("192.0.2.1:4711", Role::Operator)
    );
    let status = call(&access, request(PLAN, &peer, &["Bearer x"]))
        .await
        .unwrap_err();
    assert_eq!(status.code(), Code::Unauthenticated);
}
