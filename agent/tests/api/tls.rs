//! TLS: who is let in, certificates that change, handshakes that do not end.

use std::time::{Duration, Instant};

use portcullis_proto::v1;
use rcgen::{CertificateParams, ExtendedKeyUsagePurpose, RevokedCertParams, SanType, date_time_ymd};
use tokio::io::AsyncReadExt;
use tonic::Code;

use crate::api::access::{by, token};
use crate::api::certificates::*;
use crate::api::support::*;

const CERTIFICATES: &str = "
[[access.certificate]]
san = \"spiffe://host.example/orchestrator\"
role = \"provisioner\"
[[access.certificate]]
san = \"ann@ops.example\"
role = \"operator\"
[[access.certificate]]
san = \"*.customers.example\"
role = \"tenant\"
tenant = \"*\"
";

/// The code of a status; one for everything that TLS does not let come about.
fn code(status: tonic::Status) -> Code {
    match std::error::Error::source(&status) {
        Some(_) => Code::Unavailable,
        None => status.code(),
    }
}

/// The code of a read of the whole document, which tenants may not make.
async fn reads(secure: &Secure, identity: Option<Signed>) -> Result<(), Code> {
    let channel = secure
        .channel(identity, &secure.servers)
        .await
        .map_err(|_| Code::Unavailable)?;
    let answer = Client::over(channel)
        .policy
        .get_document(v1::GetDocumentRequest {})
        .await;
    answer.map(|_| ()).map_err(code)
}

#[tokio::test]
async fn a_certificates_name_tells_who_calls() {
    let mut secure = Secure::with(true, CERTIFICATES).await;
    let signed = |name: SanType| Some(secure.clients.client(name));
    let orchestrator = signed(uri("spiffe://host.example/orchestrator"));
    let channel = secure.channel(orchestrator, &secure.servers).await.unwrap();
    let mut client = Client::over(channel);
    let mut acmes = endpoint("a", 1);
    acmes.labels.insert("tenant".to_string(), "acme".to_string());
    client.provision(acmes).await.unwrap();
    assert_eq!(
        client.apply(DOCUMENT).await.unwrap_err().code(),
        Code::PermissionDenied
    );

    let tenant = |name: &str| secure.channel(signed(dns(name)), &secure.servers);
    let mut acme = Client::over(tenant("Acme.customers.example").await.unwrap());
    assert_eq!(acme.endpoint("a").await.unwrap().name, "a");
    let mut other = Client::over(tenant("other.customers.example").await.unwrap());
    assert_eq!(
        other.endpoint("a").await.unwrap_err().code(),
        Code::PermissionDenied
    );

    assert_eq!(reads(&secure, signed(email("ann@ops.example"))).await, Ok(()));
    for stranger in [
        uri("spiffe://host.example/other"),
        dns("spiffe.host.example"),
        dns("customers.example"),
        email("eve@ops.example"),
        SanType::IpAddress("127.0.0.1".parse().unwrap()),
    ] {
        assert_eq!(reads(&secure, signed(stranger)).await, Err(Code::Unauthenticated));
    }
    assert_eq!(reads(&secure, None).await, Err(Code::Unavailable));
    // On the socket, who runs the agent operates.
    assert_eq!(
        by(&mut secure.rig.client).await,
        "cert spiffe://host.example/orchestrator"
    );
}

#[tokio::test]
async fn certificates_that_do_not_hold_let_nobody_in() {
    let secure = Secure::with(true, CERTIFICATES).await;
    let params = |from: i32, until: i32| {
        let mut params = CertificateParams::new(vec![]).unwrap();
        params.subject_alt_names = vec![email("ann@ops.example")];
        params.not_before = date_time_ymd(from, 1, 1);
        params.not_after = date_time_ymd(until, 1, 1);
        params
    };
    let client = ExtendedKeyUsagePurpose::ClientAuth;
    let sign = |params, usage| Some(secure.clients.sign_as(params, usage));
    assert_eq!(
        reads(&secure, sign(params(2020, 2090), client.clone())).await,
        Ok(())
    );
    let expired = sign(params(2020, 2021), client.clone());
    let early = sign(params(2090, 2091), client.clone());
    let of_a_server = sign(params(2020, 2090), ExtendedKeyUsagePurpose::ServerAuth);
    let of_another = Some(Authority::new().sign_as(params(2020, 2090), client));
    for (what, identity) in [
        ("expired", expired),
        ("early", early),
        ("of a server", of_a_server),
        ("of another authority", of_another),
    ] {
        let answer = reads(&secure, identity).await;
        assert!(answer.is_err(), "{what}");
    }
}

#[tokio::test]
async fn a_token_does_instead_of_a_certificate_that_is_optional() {
    let more = format!(
        "client_auth = \"optional\"\n{CERTIFICATES}{}",
        token("ticket-system", "role = \"viewer\"")
    );
    let secure = Secure::with(true, &more).await;
    let ask = async |identity: Option<Signed>, token: Option<&str>| {
        let channel = secure
            .channel(identity, &secure.servers)
            .await
            .map_err(|_| Code::Unavailable)?;
        let mut request = tonic::Request::new(v1::GetDocumentRequest {});
        if let Some(token) = token {
            let value = format!("Bearer {token}").parse().unwrap();
            request.metadata_mut().insert("authorization", value);
        }
        let answer = Client::over(channel).policy.get_document(request).await;
        answer.map(|_| ()).map_err(code)
    };
    let ann = || Some(secure.clients.client(email("ann@ops.example")));
    assert_eq!(ask(None, Some("ticket-system")).await, Ok(()));
    assert_eq!(ask(ann(), None).await, Ok(()));
    assert_eq!(ask(ann(), Some("ticket-system")).await, Ok(()));
    assert_eq!(ask(None, None).await, Err(Code::Unauthenticated));
    assert_eq!(ask(None, Some("wrong")).await, Err(Code::Unauthenticated));
    assert_eq!(ask(ann(), Some("wrong")).await, Err(Code::Unauthenticated));
    let tenant = || Some(secure.clients.client(dns("acme.customers.example")));
    assert_eq!(ask(tenant(), None).await, Err(Code::PermissionDenied));
    assert_eq!(ask(tenant(), Some("ticket-system")).await, Ok(()));
    let stranger = Authority::new().client(email("ann@ops.example"));
    assert_eq!(
        ask(Some(stranger), Some("ticket-system")).await,
        Err(Code::Unavailable)
    );
}

/// Waits until something holds.
pub async fn until(what: &str, mut holds: impl AsyncFnMut() -> bool) {
    let began = Instant::now();
    while !holds().await {
        assert!(began.elapsed() < Duration::from_secs(60), "{what} did not come");
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}

#[tokio::test]
async fn certificates_change_under_a_connection_which_ends_with_its_authority() {
    let secure = Secure::with(true, "").await;
    let (cert, key) = (secure.at("cert"), secure.at("key"));
    let ann = secure.clients.sign("ann", ExtendedKeyUsagePurpose::ClientAuth);
    let channel = secure.channel(Some(ann.clone()), &secure.servers).await.unwrap();
    let mut connected = Client::over(channel);
    connected.document().await;

    // Another authority's, which only new clients trust.
    let renewed = Authority::new();
    put(
        &cert,
        &key,
        &renewed.sign("localhost", ExtendedKeyUsagePurpose::ServerAuth),
    );
    until("the new certificate", async || {
        secure.connect(Some(ann.clone()), &renewed).await.is_ok()
    })
    .await;
    assert!(secure.connect(Some(ann.clone()), &secure.servers).await.is_err());
    connected.document().await;

    // What is of no use changes nothing, and what follows it does.
    std::fs::write(&cert, "garbage").unwrap();
    tokio::time::sleep(Duration::from_secs(5)).await;
    assert!(secure.connect(Some(ann.clone()), &renewed).await.is_ok());
    let again = Authority::new();
    put(
        &cert,
        &key,
        &again.sign("localhost", ExtendedKeyUsagePurpose::ServerAuth),
    );
    until("the next certificate", async || {
        secure.connect(Some(ann.clone()), &again).await.is_ok()
    })
    .await;

    // The authority of clients, too.
    let clients = Authority::new();
    let bob = clients.sign("bob", ExtendedKeyUsagePurpose::ClientAuth);
    assert!(secure.connect(Some(bob.clone()), &again).await.is_err());
    std::fs::write(secure.at("ca"), clients.pem()).unwrap();
    until("the new authority", async || {
        secure.connect(Some(bob.clone()), &again).await.is_ok()
    })
    .await;
    assert!(secure.connect(Some(ann), &again).await.is_err());
    // A connection does not outlive the authority of its certificate.
    until("the end of the connection", async || {
        let asked = connected.policy.get_document(v1::GetDocumentRequest {}).await;
        asked.is_err()
    })
    .await;
}

/// Sends SIGHUP to the agent, which is this process.
pub fn hang_up() {
    let process = std::process::id().to_string();
    let sent = std::process::Command::new("kill")
        .args(["-HUP", &process])
        .status();
    assert!(sent.unwrap().success());
}

#[tokio::test]
async fn a_hangup_ends_nothing() {
    let mut secure = Secure::with(false, "").await;
    for _ in 0..3 {
        hang_up();
        secure.rig.client.document().await;
        assert_eq!(secure.connect(None, &secure.servers).await, Ok(0));
    }
}

#[tokio::test]
async fn handshakes_that_do_not_end_keep_nobody_waiting() {
    let secure = Secure::with(true, "").await;
    let ann = secure.clients.sign("ann", ExtendedKeyUsagePurpose::ClientAuth);
    let mut silent = Vec::new();
    for _ in 0..300 {
        silent.push(tokio::net::TcpStream::connect(secure.address()).await.unwrap());
    }
    let began = Instant::now();
    assert_eq!(secure.connect(Some(ann.clone()), &secure.servers).await, Ok(0));
    assert!(began.elapsed() < Duration::from_secs(8), "{:?}", began.elapsed());
    // Every one of them is ended in time.
    for mut stream in silent {
        let mut byte = [0];
        let read = tokio::time::timeout(Duration::from_secs(60), stream.read(&mut byte)).await;
        assert!(matches!(read, Ok(Ok(0) | Err(_))), "{read:?}");
    }
    assert_eq!(secure.connect(Some(ann), &secure.servers).await, Ok(0));
    secure.rig.agent.unwrap().stop().await.unwrap();
}

/// A list of an authority's revoked certificates that expires after a year of this number.
fn list(authority: &Authority, revoked: &[u64], until: i32) -> String {
    let revoked = revoked.iter().map(|serial| RevokedCertParams {
        serial_number: (*serial).into(),
        revocation_time: date_time_ymd(2021, 1, 1),
        reason_code: None,
        invalidity_date: None,
    });
    authority.list(revoked.collect(), until)
}

/// The certificate of an operator with a serial number.
fn numbered(authority: &Authority, serial: u64) -> Option<Signed> {
    let mut params = CertificateParams::new(vec![]).unwrap();
    params.subject_alt_names = vec![email("ann@ops.example")];
    params.serial_number = Some(serial.into());
    Some(authority.sign_as(params, ExtendedKeyUsagePurpose::ClientAuth))
}

/// Writes a file as careful people do.
fn replace(file: &std::path::Path, text: &str) {
    let fresh = file.with_extension("fresh");
    std::fs::write(&fresh, text).unwrap();
    std::fs::rename(&fresh, file).unwrap();
}

#[tokio::test]
async fn a_revoked_certificate_is_refused_and_its_connection_ends() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("clients.crl");
    std::fs::write(&file, list(&Authority::new(), &[], 2090)).unwrap();
    let mut secure = Secure::with(true, &format!("client_crls = [{file:?}]\n{CERTIFICATES}")).await;
    let (bad, good) = (numbered(&secure.clients, 66), numbered(&secure.clients, 7));
    // A list of another authority says nothing of these: they are refused.
    assert_eq!(reads(&secure, good.clone()).await, Err(Code::Unavailable));
    replace(&file, &list(&secure.clients, &[5], 2090));
    hang_up();
    until("the list", async || reads(&secure, good.clone()).await.is_ok()).await;
    assert_eq!(reads(&secure, bad.clone()).await, Ok(()));

    let connect = async |identity| Client::over(secure.channel(identity, &secure.servers).await.unwrap());
    let (mut bads, mut goods) = (connect(bad.clone()).await, connect(good.clone()).await);
    let watch = v1::WatchRequest::default();
    let mut stream = bads.targets.watch(watch).await.unwrap().into_inner();
    let ended = tokio::spawn(async move { while let Ok(Some(_)) = stream.message().await {} });
    goods.document().await;
    replace(&file, &list(&secure.clients, &[5, 66], 2090));
    let began = Instant::now();
    hang_up();
    tokio::time::timeout(Duration::from_secs(10), ended)
        .await
        .expect("the stream ends")
        .unwrap();
    assert!(began.elapsed() < Duration::from_secs(3), "{:?}", began.elapsed());
    assert!(bads.policy.get_document(v1::GetDocumentRequest {}).await.is_err());
    assert_eq!(reads(&secure, bad).await, Err(Code::Unavailable));
    goods.document().await;

    // What is no list changes nothing, and is reported.
    replace(&file, "garbage");
    hang_up();
    let mut status = async || {
        let answer = secure
            .rig
            .client
            .targets
            .list_targets(v1::ListTargetsRequest {})
            .await;
        answer.unwrap().into_inner().access.unwrap().certificates_problem
    };
    until("the report", async || {
        status().await.contains("clients.crl of [api.tls] cannot be used")
    })
    .await;
    assert_eq!(reads(&secure, good.clone()).await, Ok(()));
    // A list that has expired lets none in by certificate.
    replace(&file, &list(&secure.clients, &[], 2021));
    hang_up();
    until("the expired list", async || {
        reads(&secure, good.clone()).await.is_err()
    })
    .await;
    until("the end", async || {
        goods
            .policy
            .get_document(v1::GetDocumentRequest {})
            .await
            .is_err()
    })
    .await;
    replace(&file, &list(&secure.clients, &[], 2090));
    until("the newer list", async || {
        reads(&secure, good.clone()).await.is_ok()
    })
    .await;
}
