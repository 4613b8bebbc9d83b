//! The keys of an identity provider: read from a file or over HTTPS, again after a time, and when a token names one that is
//! unknown. When they cannot be read, the last ones are used up to an age.

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use arc_swap::ArcSwap;
use http_body_util::{BodyExt, Empty, Limited};
use hyper_util::rt::TokioIo;
use jsonwebtoken::DecodingKey;
use jsonwebtoken::jwk::{AlgorithmParameters, EllipticCurve, Jwk, KeyAlgorithm, PublicKeyUse};
use tokio::net::TcpStream;
use tokio::sync::Notify;
use tokio::time::Instant;
use tokio_rustls::TlsConnector;
use tokio_rustls::rustls::crypto::ring;
use tokio_rustls::rustls::pki_types::pem::PemObject;
use tokio_rustls::rustls::pki_types::{CertificateDer, ServerName};
use tokio_rustls::rustls::{ClientConfig, RootCertStore};
use tonic::codegen::Bytes;
use tonic::codegen::http::{Request, header};
use url::Url;

use crate::config::{Algorithm, KeySource, OidcKeys};

/// How long a reading may take.
const TAKES: Duration = Duration::from_secs(10);
/// Largest answer, and most keys in it.
const LARGEST: usize = 1 << 20;
const MOST: usize = 100;

/// Why keys cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum KeysError {
    /// A file cannot be read.
    #[error("cannot read {} of [access.oidc]", file.display())]
    File { file: PathBuf, source: std::io::Error },
    /// The authorities of the server.
    #[error("{} of access.oidc.ca cannot be used: it must be PEM and hold certificates", .0.display())]
    Authorities(PathBuf),
    /// The server cannot be asked.
    #[error("cannot ask {url} of access.oidc.jwks: {problem}")]
    Asked { url: String, problem: String },
    /// What was read holds no keys.
    #[error(
        "access.oidc.jwks cannot be used: it must be a JSON Web Key Set with a key for one of access.oidc.algorithms"
    )]
    NoKeys,
}

/// A key, and what it may verify.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct ProviderKey {
    jwk: Jwk,
}

impl ProviderKey {
    /// What it is called.
    pub fn id(&self) -> Option<&str> {
        self.jwk.common.key_id.as_deref()
    }

    /// Whether it is for signatures of this sort, by its own word and by its kind.
    pub fn fits(&self, algorithm: Algorithm) -> bool {
        let said = match algorithm {
            Algorithm::RS256 => KeyAlgorithm::RS256,
            Algorithm::PS256 => KeyAlgorithm::PS256,
            Algorithm::ES256 => KeyAlgorithm::ES256,
            Algorithm::EdDSA => KeyAlgorithm::EdDSA,
        };
        let kind = match (&self.jwk.algorithm, algorithm) {
            (AlgorithmParameters::RSA(_), Algorithm::RS256 | Algorithm::PS256) => true,
            (AlgorithmParameters::EllipticCurve(key), Algorithm::ES256) => key.curve == EllipticCurve::P256,
            (AlgorithmParameters::OctetKeyPair(key), Algorithm::EdDSA) => key.curve == EllipticCurve::Ed25519,
            _ => false,
        };
        let common = &self.jwk.common;
        let signs = matches!(&common.public_key_use, None | Some(PublicKeyUse::Signature));
        kind && signs && common.key_algorithm.is_none_or(|word| word == said)
    }

    pub fn decoding(&self) -> Option<DecodingKey> {
        DecodingKey::from_jwk(&self.jwk).ok()
    }
}

/// Keys as they were read.
#[derive(Debug, Default)]
pub(super) struct Set {
    pub keys: Vec<ProviderKey>,
    read: Option<Instant>,
}

#[derive(Debug, Default)]
struct Tried {
    last: Option<Instant>,
    failed: bool,
}

#[derive(Debug)]
pub(super) struct ProviderKeys {
    pub settings: OidcKeys,
    algorithms: Vec<Algorithm>,
    set: ArcSwap<Set>,
    tried: Mutex<Tried>,
    wanted: Notify,
}

impl ProviderKeys {
    /// None yet, unless they are in a file, which must be in order.
    pub fn new(settings: &OidcKeys, algorithms: &[Algorithm]) -> Result<Self, KeysError> {
        let keys = ProviderKeys {
            settings: settings.clone(),
            algorithms: algorithms.to_vec(),
            set: ArcSwap::default(),
            tried: Mutex::default(),
            wanted: Notify::new(),
        };
        if let KeySource::File(file) = &settings.source {
            keys.take(&file_text(file)?)?;
        }
        Ok(keys)
    }

    /// Whether these would be read as those are.
    pub fn same(&self, settings: &OidcKeys, algorithms: &[Algorithm]) -> bool {
        matches!(settings.source, KeySource::Https(..))
            && self.settings == *settings
            && self.algorithms == algorithms
    }

    /// The keys, unless they are too old.
    pub fn current(&self) -> Option<Arc<Set>> {
        let set = self.set.load_full();
        let read = set.read?;
        (read.elapsed() <= self.settings.max_age).then_some(set)
    }

    /// Reads them soon, though not more often than is set.
    pub fn want(&self) {
        self.wanted.notify_one();
    }

    /// Returns when they are to be read.
    pub async fn due(&self) {
        let (last, failed) = {
            let tried = self.tried.lock().unwrap_or_else(PoisonError::into_inner);
            (tried.last, tried.failed)
        };
        let Some(last) = last else { return };
        let soonest = last + self.settings.refresh_at_most;
        let regular = match failed {
            true => soonest,
            false => last + self.settings.refresh.max(self.settings.refresh_at_most),
        };
        let asked = async {
            self.wanted.notified().await;
            tokio::time::sleep_until(soonest).await;
        };
        tokio::select! {
            () = tokio::time::sleep_until(regular) => {}
            () = asked => {}
        }
    }

    /// Reads them; whether they are others now.
    pub async fn read(&self) -> Result<bool, KeysError> {
        self.tried.lock().unwrap_or_else(PoisonError::into_inner).last = Some(Instant::now());
        let text = match &self.settings.source {
            KeySource::File(file) => file_text(file),
            KeySource::Https(url, ca) => ask(url, ca).await,
        };
        let taken = text.and_then(|text| self.take(&text));
        self.tried.lock().unwrap_or_else(PoisonError::into_inner).failed = taken.is_err();
        taken
    }

    fn take(&self, text: &[u8]) -> Result<bool, KeysError> {
        #[derive(serde::Deserialize)]
        struct Written {
            keys: Vec<serde_json::Value>,
        }
        let written: Written = serde_json::from_slice(text).map_err(|_| KeysError::NoKeys)?;
        // Keys of other sorts, or for other purposes, may stand among them.
        let keys = written.keys.into_iter().take(MOST);
        let keys: Vec<ProviderKey> = keys
            .filter_map(|key| {
                Some(ProviderKey {
                    jwk: serde_json::from_value(key).ok()?,
                })
            })
            .filter(|key| self.algorithms.iter().any(|algorithm| key.fits(*algorithm)))
            .collect();
        if keys.is_empty() {
            return Err(KeysError::NoKeys);
        }
        let before = self.current();
        let others = before.is_none_or(|before| before.keys != keys);
        self.set.store(Arc::new(Set {
            keys,
            read: Some(Instant::now()),
        }));
        let mut tried = self.tried.lock().unwrap_or_else(PoisonError::into_inner);
        tried.last = Some(Instant::now());
        Ok(others)
    }
}

fn file_text(file: &Path) -> Result<Vec<u8>, KeysError> {
    std::fs::read(file).map_err(|source| KeysError::File {
        file: file.to_path_buf(),
        source,
    })
}

/// What a server answers, which must show a certificate for its name. No redirection is followed.
async fn ask(url: &Url, ca: &Path) -> Result<Vec<u8>, KeysError> {
    let asked = tokio::time::timeout(TAKES, answer(url, tls(ca)?)).await;
    let problem = match asked {
        Ok(Ok(text)) => return Ok(text),
        Ok(Err(error)) => portcullis_policy::text::with_causes(&*error),
        Err(_) => format!("no answer within {} s", TAKES.as_secs()),
    };
    Err(KeysError::Asked {
        url: url.to_string(),
        problem,
    })
}

fn tls(ca: &Path) -> Result<ClientConfig, KeysError> {
    let unusable = || KeysError::Authorities(ca.to_path_buf());
    let text = file_text(ca)?;
    let mut roots = RootCertStore::empty();
    let certificates = CertificateDer::pem_slice_iter(&text).collect::<Result<Vec<_>, _>>();
    let (usable, _) = roots.add_parsable_certificates(certificates.map_err(|_| unusable())?);
    if usable == 0 {
        return Err(unusable());
    }
    let builder = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()));
    let builder = builder
        .with_safe_default_protocol_versions()
        .map_err(|_| unusable())?;
    Ok(builder.with_root_certificates(roots).with_no_client_auth())
}

type BoxError = Box<dyn std::error::Error + Send + Sync>;

async fn answer(url: &Url, tls: ClientConfig) -> Result<Vec<u8>, BoxError> {
    let host = url
        .host_str()
        .unwrap_or_default()
        .trim_matches(['[', ']'])
        .to_string();
    let port = url.port_or_known_default().unwrap_or(443);
    let tcp = TcpStream::connect((host.as_str(), port)).await?;
    let name = ServerName::try_from(host.clone())?;
    let stream = TlsConnector::from(Arc::new(tls)).connect(name, tcp).await?;
    let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await?;
    let target = match url.query() {
        Some(query) => format!("{}?{query}", url.path()),
        None => url.path().to_string(),
    };
    let authority = match url.port() {
        Some(port) => format!("{}:{port}", url.host_str().unwrap_or_default()),
        None => url.host_str().unwrap_or_default().to_string(),
    };
    let request = Request::get(target)
        .header(header::HOST, authority)
        .header(header::ACCEPT, "application/json, application/jwk-set+json")
        .body(Empty::<Bytes>::new())?;
    let asked = async {
        let answer = sender.send_request(request).await?;
        if answer.status() != 200 {
            return Err(format!("the server answers {}", answer.status()).into());
        }
        let body = Limited::new(answer.into_body(), LARGEST).collect().await?;
        Ok(body.to_bytes().to_vec())
    };
    // The connection makes progress while the answer is waited for, and ends with it.
    tokio::pin!(asked, connection);
    tokio::select! {
        biased;
        answer = &mut asked => answer,
        ended = &mut connection => match ended {
            Ok(()) => asked.await,
            Err(error) => Err(error.into()),
        },
    }
}
