//! Callers by tokens of an identity provider, which serves its keys over TLS on loopback.

use std::io::{Read, Write};
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use portcullis::access::{METHODS, Permission, Role};
use portcullis_proto::v1;
use portcullis_proto::v1::endpoint_service_client::EndpointServiceClient;
use portcullis_proto::v1::policy_service_client::PolicyServiceClient;
use portcullis_proto::v1::target_service_client::TargetServiceClient;
use rcgen::ExtendedKeyUsagePurpose;
use ring::rand::SystemRandom;
use ring::signature::{self, EcdsaKeyPair, Ed25519KeyPair, KeyPair, RsaKeyPair};
use serde_json::{Value, json};
use tokio_rustls::rustls::pki_types::pem::PemObject;
use tokio_rustls::rustls::pki_types::{CertificateDer, PrivateKeyDer};
use tokio_rustls::rustls::{ServerConfig, ServerConnection, Stream};
use tonic::transport::{Channel, Endpoint};
use tonic::{Code, Status};

use crate::api::access::{call, refused};
use crate::api::certificates::Authority;
use crate::api::reading::TCP;
use crate::api::support::*;
use crate::api::tls::{hang_up, until};
use crate::api::unlock_rig::with;

fn b64(bytes: impl AsRef<[u8]>) -> String {
    URL_SAFE_NO_PAD.encode(bytes)
}

/// A private key of the provider.
enum Signer {
    Es(EcdsaKeyPair),
    Ed(Ed25519KeyPair),
    Rsa(RsaKeyPair),
}

impl Signer {
    fn es() -> Self {
        let (sort, random) = (&signature::ECDSA_P256_SHA256_FIXED_SIGNING, SystemRandom::new());
        let made = EcdsaKeyPair::generate_pkcs8(sort, &random).unwrap();
        Signer::Es(EcdsaKeyPair::from_pkcs8(sort, made.as_ref(), &random).unwrap())
    }

    fn ed() -> Self {
        let made = Ed25519KeyPair::generate_pkcs8(&SystemRandom::new()).unwrap();
        Signer::Ed(Ed25519KeyPair::from_pkcs8(made.as_ref()).unwrap())
    }

    fn rsa() -> Self {
        let made = std::process::Command::new("openssl")
            .args(["genpkey", "-algorithm", "RSA", "-pkeyopt", "rsa_keygen_bits:2048"])
            .output()
            .unwrap();
        match PrivateKeyDer::from_pem_slice(&made.stdout).unwrap() {
            PrivateKeyDer::Pkcs8(key) => Signer::Rsa(RsaKeyPair::from_pkcs8(key.secret_pkcs8_der()).unwrap()),
            other => panic!("not PKCS #8: {other:?}"),
        }
    }

    fn jwk(&self, kid: &str) -> Value {
        match self {
            Signer::Es(key) => {
                let (x, y) = key.public_key().as_ref()[1..].split_at(32);
                json!({"kty": "EC", "crv": "P-256", "kid": kid, "use": "sig", "x": b64(x), "y": b64(y)})
            }
            Signer::Ed(key) => {
                json!({"kty": "OKP", "crv": "Ed25519", "kid": kid, "x": b64(key.public_key())})
            }
            Signer::Rsa(key) => {
                let parts: ring::rsa::PublicKeyComponents<Vec<u8>> = key.public().into();
                json!({"kty": "RSA", "kid": kid, "n": b64(parts.n), "e": b64(parts.e)})
            }
        }
    }

    /// A token whose header names an algorithm, which need not be the key's.
    fn token(&self, algorithm: &str, kid: Option<&str>, claims: &Value) -> String {
        let mut header = json!({"alg": algorithm, "typ": "JWT"});
        if let Some(kid) = kid {
            header["kid"] = json!(kid);
        }
        let text = format!("{}.{}", b64(header.to_string()), b64(claims.to_string()));
        let random = SystemRandom::new();
        let signed = match self {
            Signer::Es(key) => key.sign(&random, text.as_bytes()).unwrap().as_ref().to_vec(),
            Signer::Ed(key) => key.sign(text.as_bytes()).as_ref().to_vec(),
            Signer::Rsa(key) => {
                let padding: &dyn signature::RsaEncoding = match algorithm {
                    "PS256" => &signature::RSA_PSS_SHA256,
                    _ => &signature::RSA_PKCS1_SHA256,
                };
                let mut signed = vec![0; key.public().modulus_len()];
                key.sign(padding, &random, text.as_bytes(), &mut signed).unwrap();
                signed
            }
        };
        format!("{text}.{}", b64(signed))
    }
}

/// An identity provider: its keys over TLS.
struct Provider {
    address: SocketAddr,
    keys: Arc<Mutex<Vec<Value>>>,
    broken: Arc<AtomicBool>,
    asked: Arc<AtomicU32>,
    folder: tempfile::TempDir,
}

impl Provider {
    fn new() -> Self {
        let authority = Authority::new();
        let (cert, key) = authority.sign("localhost", ExtendedKeyUsagePurpose::ServerAuth);
        let config = ServerConfig::builder_with_provider(Arc::new(
            tokio_rustls::rustls::crypto::ring::default_provider(),
        ))
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(
            vec![CertificateDer::from_pem_slice(cert.as_bytes()).unwrap()],
            PrivateKeyDer::from_pem_slice(key.as_bytes()).unwrap(),
        )
        .unwrap();
        let (config, folder) = (Arc::new(config), tempfile::tempdir().unwrap());
        std::fs::write(folder.path().join("ca"), authority.pem()).unwrap();
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let provider = Provider {
            address: listener.local_addr().unwrap(),
            keys: Arc::default(),
            broken: Arc::default(),
            asked: Arc::default(),
            folder,
        };
        let (keys, broken, asked) = (
            Arc::clone(&provider.keys),
            Arc::clone(&provider.broken),
            Arc::clone(&provider.asked),
        );
        std::thread::spawn(move || {
            for tcp in listener.incoming() {
                let (mut tcp, mut connection) =
                    (tcp.unwrap(), ServerConnection::new(Arc::clone(&config)).unwrap());
                let mut stream = Stream::new(&mut connection, &mut tcp);
                let mut request = [0; 4096];
                // A client that does not trust this ends here.
                let Ok(read) = stream.read(&mut request) else {
                    continue;
                };
                assert!(request[..read].starts_with(b"GET /keys?v=1 HTTP/1.1\r\n"));
                asked.fetch_add(1, Ordering::SeqCst);
                let body = json!({"keys": *keys.lock().unwrap()}).to_string();
                let status = if broken.load(Ordering::SeqCst) {
                    "503 Unavailable"
                } else {
                    "200 OK"
                };
                let length = body.len();
                let answer = format!("HTTP/1.1 {status}\r\ncontent-length: {length}\r\n\r\n{body}");
                let _ = stream.write_all(answer.as_bytes());
                connection.send_close_notify();
                let _ = connection.complete_io(&mut tcp);
            }
        });
        provider
    }

    fn set(&self, keys: &[Value]) {
        *self.keys.lock().unwrap() = keys.to_vec();
    }

    fn settings(&self, more: &str) -> String {
        settings(
            &format!(
                "jwks = \"https://localhost:{}/keys?v=1\"\nca = {:?}\n",
                self.address.port(),
                self.folder.path().join("ca")
            ),
            more,
        )
    }
}

/// `[access.oidc]` with a role for every role's name.
fn settings(keys: &str, more: &str) -> String {
    let roles: String = Role::ALL
        .iter()
        .map(|role| format!("[[access.oidc.role]]\nvalue = \"pc-{role}\"\nrole = \"{role}\"\n"))
        .collect();
    format!(
        "{TCP}[access.oidc]\nissuer = \"https://id.example\"\naudience = \"portcullis\"\nleeway = \"1s\"\nrefresh_at_most = \"1s\"\n\
         {keys}{more}{roles}[access.rate.tenant]\nrequests_per_second = 0\n"
    )
}

async fn rig(text: &str) -> (Rig, Channel) {
    let rig = Rig::with(text).await;
    let address = rig.agent.as_ref().unwrap().tcp().unwrap();
    let endpoint = Endpoint::from_shared(format!("http://{address}")).unwrap();
    (rig, endpoint.connect().await.unwrap())
}

fn now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs()
}

/// Claims of a caller that has a role.
fn claims(role: &str) -> Value {
    json!({
        "iss": "https://id.example", "aud": ["other", "portcullis"], "sub": "ann", "exp": now() + 600,
        "nbf": now() - 5, "roles": ["x", format!("pc-{role}")], "tenant": "acme",
    })
}

async fn reads(channel: &Channel, token: &str) -> Result<(), Status> {
    let mut policy = PolicyServiceClient::new(with(channel, token));
    policy.get_document(v1::GetDocumentRequest {}).await.map(|_| ())
}

async fn keys_problem(rig: &mut Rig) -> String {
    let answer = rig.client.targets.list_targets(v1::ListTargetsRequest {}).await;
    answer.unwrap().into_inner().access.unwrap().keys_problem
}

#[tokio::test(flavor = "multi_thread")]
async fn a_token_gives_its_role_and_nothing_more() {
    let (provider, es, ed, rsa) = (Provider::new(), Signer::es(), Signer::ed(), Signer::rsa());
    let shared = json!({"kty": "oct", "kid": "shared", "k": b64("secret"), "alg": "HS256"});
    provider.set(&[es.jwk("es"), ed.jwk("ed"), rsa.jwk("rsa"), shared]);
    let (mut rig, channel) = rig(&provider.settings("")).await;
    let viewer = claims("viewer");
    let good = es.token("ES256", Some("es"), &viewer);
    until("the keys", async || reads(&channel, &good).await.is_ok()).await;
    for (signer, algorithm, kid) in [
        (&ed, "EdDSA", "ed"),
        (&rsa, "RS256", "rsa"),
        (&rsa, "PS256", "rsa"),
    ] {
        reads(&channel, &signer.token(algorithm, Some(kid), &viewer))
            .await
            .unwrap();
    }
    // The only key of its sort need not be named.
    reads(&channel, &ed.token("EdDSA", None, &viewer)).await.unwrap();
    // The table of methods and roles is the same for all who call.
    for role in Role::ALL {
        let token = es.token("ES256", Some("es"), &claims(role.as_str()));
        for method in METHODS {
            let answer = call(with(&channel, &token), &format!("/{}", method.path)).await;
            let wanted = (method.grant(role) == Permission::No).then_some(Code::PermissionDenied);
            assert_eq!(refused(&answer), wanted, "{role} {}: {answer:?}", method.path);
        }
    }
    // A tenant reaches its own.
    let own = |name: &str, number, tenant: &str| v1::Endpoint {
        labels: [("tenant".to_string(), tenant.to_string())].into(),
        ..endpoint(name, number)
    };
    rig.client.provision(own("a", 1, "acme")).await.unwrap();
    rig.client.provision(own("b", 2, "other")).await.unwrap();
    let tenant = es.token("ES256", Some("es"), &claims("tenant"));
    let mut endpoints = EndpointServiceClient::new(with(&channel, &tenant));
    let get = |name: &str| v1::GetRequest {
        name: name.to_string(),
    };
    endpoints.get_endpoint(get("a")).await.unwrap();
    let foreign = endpoints.get_endpoint(get("b")).await.unwrap_err();
    assert_eq!(foreign.code(), Code::PermissionDenied);
}

/// The claims with some replaced; null removes one.
fn but(claims: &Value, others: Value) -> Value {
    let mut claims = claims.clone();
    for (name, value) in others.as_object().unwrap() {
        match value {
            Value::Null => drop(claims.as_object_mut().unwrap().remove(name)),
            value => claims[name] = value.clone(),
        }
    }
    claims
}

#[tokio::test(flavor = "multi_thread")]
async fn tokens_that_are_not_right_are_none() {
    let (es, rsa, stranger) = (Signer::es(), Signer::rsa(), Signer::es());
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("keys");
    let write = |keys: &[Value]| std::fs::write(&file, json!({"keys": keys}).to_string()).unwrap();
    let encryption = {
        let mut jwk = stranger.jwk("enc");
        jwk["use"] = json!("enc");
        jwk
    };
    write(&[es.jwk("es"), rsa.jwk("rsa"), encryption]);
    let (_rig, channel) = rig(&settings(&format!("jwks = {file:?}\n"), "")).await;
    let viewer = claims("viewer");
    reads(&channel, &es.token("ES256", Some("es"), &viewer))
        .await
        .unwrap();

    let rsa_public = rsa.jwk("rsa").to_string();
    let hmac = |secret: &[u8], kid: &str| {
        let header = json!({"alg": "HS256", "kid": kid}).to_string();
        let text = format!("{}.{}", b64(header), b64(viewer.to_string()));
        let key = ring::hmac::Key::new(ring::hmac::HMAC_SHA256, secret);
        format!("{text}.{}", b64(ring::hmac::sign(&key, text.as_bytes())))
    };
    let none = format!(
        "{}.{}.",
        b64(json!({"alg": "none"}).to_string()),
        b64(viewer.to_string())
    );
    let signed = es.token("ES256", Some("es"), &viewer);
    let (body, _) = signed.rsplit_once('.').unwrap();
    let forged = {
        let parts: Vec<&str> = signed.split('.').collect();
        format!(
            "{}.{}.{}",
            parts[0],
            b64(claims("operator").to_string()),
            parts[2]
        )
    };
    let critical = {
        let header = json!({"alg": "ES256", "kid": "es", "crit": ["exp"]}).to_string();
        format!("{}.{}", b64(header), signed.split_once('.').unwrap().1)
    };
    let tokens = [
        ("no signature", none),
        ("a signature left out", format!("{body}.")),
        ("other claims", forged),
        ("a critical header", critical),
        ("a public key as a secret", hmac(rsa_public.as_bytes(), "rsa")),
        (
            "another key of that name",
            stranger.token("ES256", Some("es"), &viewer),
        ),
        (
            "a key for encryption",
            stranger.token("ES256", Some("enc"), &viewer),
        ),
        ("a key of another sort", es.token("RS256", Some("es"), &viewer)),
        (
            "another algorithm of the key",
            es.token("ES384", Some("es"), &viewer),
        ),
        ("an unknown key", stranger.token("ES256", Some("gone"), &viewer)),
        ("garbage", "a.b.c".to_string()),
    ];
    for (what, token) in &tokens {
        let status = reads(&channel, token).await.unwrap_err();
        assert_eq!(status.code(), Code::Unauthenticated, "{what}: {status:?}");
        assert!(!status.message().contains(token.as_str()), "{what}");
    }
    let wrong = [
        json!({"aud": "other"}),
        json!({"aud": null}),
        json!({"aud": 1}),
        json!({"iss": "https://id.example/"}),
        json!({"iss": ["https://id.example", "x"]}),
        json!({"iss": null}),
        json!({"exp": now() - 10}),
        json!({"exp": null}),
        json!({"exp": "9999999999"}),
        json!({"nbf": now() + 60}),
        json!({"nbf": "soon"}),
        json!({"sub": null}),
        json!({"sub": ""}),
        json!({"sub": "ann\u{202e}"}),
        json!({"roles": "viewer"}),
        json!({"roles": ["pc-viewer", 1]}),
        json!({"roles": {"pc-viewer": true}}),
        json!({"roles": null}),
    ];
    for others in wrong {
        let token = es.token("ES256", Some("es"), &but(&viewer, others.clone()));
        let status = reads(&channel, &token).await.unwrap_err();
        assert_eq!(status.code(), Code::Unauthenticated, "{others}: {status:?}");
    }
    let tenant = claims("tenant");
    for odd in [
        json!("*"),
        json!(""),
        json!(" acme"),
        json!("ac\nme"),
        json!("ac\u{202e}me"),
        json!("a".repeat(300)),
        json!(["acme", "other"]),
        json!([]),
        json!(1),
        json!({"acme": 1}),
        Value::Null,
    ] {
        let token = es.token("ES256", Some("es"), &but(&tenant, json!({"tenant": odd})));
        let mut endpoints = EndpointServiceClient::new(with(&channel, &token));
        let status = endpoints
            .list_endpoints(v1::ListRequest::default())
            .await
            .unwrap_err();
        assert_eq!(status.code(), Code::Unauthenticated, "{odd}: {status:?}");
    }
    // Clocks may be a little apart.
    reads(
        &channel,
        &es.token(
            "ES256",
            Some("es"),
            &but(&viewer, json!({"exp": now(), "nbf": now() + 1})),
        ),
    )
    .await
    .unwrap();
    // Two keys of one sort: a token says which.
    write(&[es.jwk("es"), stranger.jwk("second")]);
    hang_up();
    let second = stranger.token("ES256", Some("second"), &viewer);
    until("the second key", async || reads(&channel, &second).await.is_ok()).await;
    reads(&channel, &es.token("ES256", Some("es"), &viewer))
        .await
        .unwrap();
    let unnamed = reads(&channel, &es.token("ES256", None, &viewer))
        .await
        .unwrap_err();
    assert_eq!(unnamed.code(), Code::Unauthenticated);
}

#[tokio::test(flavor = "multi_thread")]
async fn keys_are_read_again_and_their_last_ones_kept_for_a_time() {
    let (provider, first, second) = (Provider::new(), Signer::es(), Signer::es());
    provider.set(&[first.jwk("first")]);
    let (mut rig, channel) = rig(&provider.settings("max_age = \"600s\"\n")).await;
    let viewer = claims("viewer");
    let (old, new) = (
        first.token("ES256", Some("first"), &viewer),
        second.token("ES256", Some("second"), &viewer),
    );
    until("the keys", async || reads(&channel, &old).await.is_ok()).await;
    let mut targets = TargetServiceClient::new(with(&channel, &old));
    let mut stream = targets
        .watch(v1::WatchRequest::default())
        .await
        .unwrap()
        .into_inner();
    let ended = tokio::spawn(async move {
        loop {
            if let Err(status) = stream.message().await {
                return status.code();
            }
        }
    });
    // Rotation: a token that names the new key has the keys read, not often.
    provider.set(&[second.jwk("second")]);
    let (asked, began) = (provider.asked.load(Ordering::SeqCst), Instant::now());
    until("the new key", async || reads(&channel, &new).await.is_ok()).await;
    let more = provider.asked.load(Ordering::SeqCst) - asked;
    assert!(
        u64::from(more) <= began.elapsed().as_secs() + 1,
        "asked {more} times"
    );
    assert_eq!(
        reads(&channel, &old).await.unwrap_err().code(),
        Code::Unauthenticated
    );
    // What the old key had begun, ends.
    let code = tokio::time::timeout(Duration::from_secs(5), ended)
        .await
        .unwrap()
        .unwrap();
    assert_eq!(code, Code::Unauthenticated);

    // The provider is away: the last keys are used, and status says so.
    provider.broken.store(true, Ordering::SeqCst);
    let unknown = first.token("ES256", Some("third"), &viewer);
    until("the report", async || {
        drop(reads(&channel, &unknown).await);
        keys_problem(&mut rig).await.contains("503")
    })
    .await;
    reads(&channel, &new).await.unwrap();
    provider.broken.store(false, Ordering::SeqCst);
    until("the report's end", async || {
        keys_problem(&mut rig).await.is_empty()
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn keys_that_are_too_old_are_none() {
    let (provider, es) = (Provider::new(), Signer::es());
    provider.set(&[es.jwk("es")]);
    let (_rig, channel) = rig(&provider.settings("refresh = \"1s\"\nmax_age = \"2s\"\n")).await;
    let token = es.token("ES256", Some("es"), &claims("viewer"));
    until("the keys", async || reads(&channel, &token).await.is_ok()).await;
    provider.broken.store(true, Ordering::SeqCst);
    until("their end", async || reads(&channel, &token).await.is_err()).await;
    let status = reads(&channel, &token).await.unwrap_err();
    assert!(
        status.code() == Code::Unauthenticated && status.message().contains("portcullis status"),
        "{status:?}"
    );
    provider.broken.store(false, Ordering::SeqCst);
    until("the keys", async || reads(&channel, &token).await.is_ok()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stream_ends_with_its_token() {
    let (provider, es) = (Provider::new(), Signer::es());
    provider.set(&[es.jwk("es")]);
    let (_rig, channel) = rig(&provider.settings("")).await;
    until("the keys", async || {
        reads(&channel, &es.token("ES256", Some("es"), &claims("viewer")))
            .await
            .is_ok()
    })
    .await;
    let short = es.token(
        "ES256",
        Some("es"),
        &but(&claims("viewer"), json!({"exp": now() + 2})),
    );
    let mut targets = TargetServiceClient::new(with(&channel, &short));
    let mut stream = targets
        .watch(v1::WatchRequest::default())
        .await
        .unwrap()
        .into_inner();
    let began = Instant::now();
    let ended = tokio::time::timeout(Duration::from_secs(20), async {
        loop {
            if let Err(status) = stream.message().await {
                return status;
            }
        }
    });
    let status = ended.await.expect("the stream ends");
    assert_eq!(status.code(), Code::Unauthenticated, "{status:?}");
    assert!(status.message().contains("expired"), "{status:?}");
    assert!(began.elapsed() < Duration::from_secs(8), "{:?}", began.elapsed());
}

#[tokio::test(flavor = "multi_thread")]
async fn keys_of_a_server_that_is_not_trusted_are_not_read() {
    let (provider, es) = (Provider::new(), Signer::es());
    provider.set(&[es.jwk("es")]);
    std::fs::write(provider.folder.path().join("ca"), Authority::new().pem()).unwrap();
    let (mut rig, channel) = rig(&provider.settings("")).await;
    until("the report", async || {
        keys_problem(&mut rig).await.contains("certificate")
    })
    .await;
    let token = es.token("ES256", Some("es"), &claims("operator"));
    assert_eq!(
        reads(&channel, &token).await.unwrap_err().code(),
        Code::Unauthenticated
    );
    assert_eq!(provider.asked.load(Ordering::SeqCst), 0);
}
