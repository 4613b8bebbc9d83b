//! TLS of the API: certificates that are read again when their files change, and handshakes that delay no other.

mod incoming;
mod renewal;

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use tokio_rustls::rustls;
use tokio_rustls::rustls::crypto::{CryptoProvider, ring};
use tokio_rustls::rustls::pki_types::pem::PemObject;
use tokio_rustls::rustls::pki_types::{CertificateDer, CertificateRevocationListDer, PrivateKeyDer, pem};
use tokio_rustls::rustls::server::danger::ClientCertVerifier;
use tokio_rustls::rustls::server::{NoServerSessionStorage, VerifierBuilderError, WebPkiClientVerifier};
use tokio_rustls::rustls::{RootCertStore, ServerConfig};

use x509_parser::prelude::FromDer;
use x509_parser::revocation_list::CertificateRevocationList;

pub use incoming::incoming;
pub use renewal::Certificates;

use crate::access::Shown;
use crate::config::{ApiTls, ClientAuth};

/// Why files are of no use for TLS.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    /// A file cannot be read.
    #[error("cannot read {} of [api.tls]", file.display())]
    File { file: PathBuf, source: io::Error },
    /// A file does not hold what it should.
    #[error("{} of [api.tls] cannot be used: it must be PEM and hold a {what}", file.display())]
    Pem {
        file: PathBuf,
        /// What it should hold.
        what: &'static str,
        source: pem::Error,
    },
    /// A file holds none of what it should.
    #[error("{} of [api.tls] cannot be used: there is no {what} in it", file.display())]
    Empty {
        file: PathBuf,
        /// What it should hold.
        what: &'static str,
    },
    #[error("cert and key of [api.tls] cannot be used: they must belong together")]
    Identity(#[source] rustls::Error),
    /// A list of revoked certificates.
    #[error("{} of [api.tls] cannot be used: it must be a certificate revocation list, PEM or DER", .0.display())]
    Crl(PathBuf),
    /// The authority of clients.
    #[error("client_ca of [api.tls] cannot be used")]
    Authority(#[source] rustls::Error),
    #[error("client_ca and client_crls of [api.tls] cannot be used")]
    Verifier(#[from] VerifierBuilderError),
}

fn read(file: &Path) -> Result<Vec<u8>, TlsError> {
    std::fs::read(file).map_err(|source| TlsError::File {
        file: file.to_path_buf(),
        source,
    })
}

fn certificates(file: &Path) -> Result<Vec<CertificateDer<'static>>, TlsError> {
    let what = "certificate";
    let text = read(file)?;
    let found: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(&text).collect();
    let found = found.map_err(|source| TlsError::Pem {
        file: file.to_path_buf(),
        what,
        source,
    })?;
    if found.is_empty() {
        return Err(TlsError::Empty {
            file: file.to_path_buf(),
            what,
        });
    }
    Ok(found)
}

/// The lists in a file, and when the first of them is over.
fn crls(file: &Path) -> Result<(Vec<CertificateRevocationListDer<'static>>, Option<SystemTime>), TlsError> {
    let unusable = || TlsError::Crl(file.to_path_buf());
    let bytes = read(file)?;
    let lists = match bytes.starts_with(b"-----") {
        false => vec![CertificateRevocationListDer::from(bytes)],
        true => CertificateRevocationListDer::pem_slice_iter(&bytes)
            .collect::<Result<Vec<_>, _>>()
            .map_err(|_| unusable())?,
    };
    if lists.is_empty() {
        return Err(unusable());
    }
    let mut until = None;
    for list in &lists {
        let (_, read) = CertificateRevocationList::from_der(list).map_err(|_| unusable())?;
        let next = read.next_update().and_then(|next| {
            let seconds = u64::try_from(next.timestamp()).unwrap_or(0);
            SystemTime::UNIX_EPOCH.checked_add(Duration::from_secs(seconds))
        });
        until = until.into_iter().chain(next).min();
    }
    Ok((lists, until))
}

/// What the files hold.
struct LoadedFiles {
    /// What is served with.
    config: ServerConfig,
    /// What the agent's own certificate says.
    shown: Option<Shown>,
    /// Whose certificates hold, where clients show one.
    trust: Option<Arc<dyn ClientCertVerifier>>,
    /// When the first list of revoked certificates is over.
    lists_until: Option<SystemTime>,
}

/// Judges clients by what is in the files now.
fn verifier(
    tls: &ApiTls,
    authority: &Path,
    provider: Arc<CryptoProvider>,
) -> Result<(Arc<dyn ClientCertVerifier>, Option<SystemTime>), TlsError> {
    let mut roots = RootCertStore::empty();
    for authority in certificates(authority)? {
        roots.add(authority).map_err(TlsError::Authority)?;
    }
    let mut verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider);
    let mut until = None;
    for file in &tls.client_crls {
        let (lists, next) = crls(file)?;
        until = until.into_iter().chain(next).min();
        // A list that is over says nothing of what was revoked since.
        verifier = verifier.with_crls(lists).enforce_revocation_expiration();
    }
    let verifier = match tls.client_auth {
        ClientAuth::Required => verifier,
        ClientAuth::Optional => verifier.allow_unauthenticated(),
    };
    Ok((verifier.build()?, until))
}

/// What is served with, from what is in the files now.
fn load(tls: &ApiTls) -> Result<LoadedFiles, TlsError> {
    let provider = Arc::new(ring::default_provider());
    let chain = certificates(&tls.cert)?;
    let key = PrivateKeyDer::from_pem_slice(&read(&tls.key)?).map_err(|source| TlsError::Pem {
        file: tls.key.clone(),
        what: "private key",
        source,
    })?;
    let builder = ServerConfig::builder_with_provider(Arc::clone(&provider))
        .with_safe_default_protocol_versions()
        .map_err(TlsError::Identity)?;
    let (trust, lists_until) = match &tls.client_ca {
        None => (None, None),
        Some(file) => {
            let (trust, until) = verifier(tls, file, provider)?;
            (Some(trust), until)
        }
    };
    let builder = match &trust {
        None => builder.with_no_client_auth(),
        Some(trust) => builder.with_client_cert_verifier(Arc::clone(trust)),
    };
    let shown = chain.first().and_then(|certificate| Shown::read(certificate));
    let mut config = builder.with_single_cert(chain, key).map_err(TlsError::Identity)?;
    config.alpn_protocols = vec![b"h2".to_vec()];
    // A resumed session would keep a certificate that is not accepted any more.
    config.session_storage = Arc::new(NoServerSessionStorage {});
    config.send_tls13_tickets = 0;
    Ok(LoadedFiles {
        config,
        shown,
        trust,
        lists_until,
    })
}
