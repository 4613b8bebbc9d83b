//! TLS of the API: certificates that are read again when their files change, and handshakes that keep nobody waiting.

mod incoming;
mod renewal;

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use tokio_rustls::rustls;
use tokio_rustls::rustls::crypto::ring;
use tokio_rustls::rustls::pki_types::pem::PemObject;
use tokio_rustls::rustls::pki_types::{CertificateDer, PrivateKeyDer, pem};
use tokio_rustls::rustls::server::{NoServerSessionStorage, VerifierBuilderError, WebPkiClientVerifier};
use tokio_rustls::rustls::{RootCertStore, ServerConfig};

pub use incoming::incoming;
pub use renewal::Certificates;

use crate::access::Shown;
use crate::config::{ClientAuth, Tls};

/// Why files are of no use for TLS.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    /// A file cannot be read.
    #[error("cannot read {} of [api.tls]", file.display())]
    File {
        /// The file.
        file: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// A file does not hold what it should.
    #[error("{} of [api.tls] cannot be used: it must be PEM and hold a {what}", file.display())]
    Pem {
        /// The file.
        file: PathBuf,
        /// What it should hold.
        what: &'static str,
        /// Why.
        source: pem::Error,
    },
    /// A file holds none of what it should.
    #[error("{} of [api.tls] cannot be used: there is no {what} in it", file.display())]
    Empty {
        /// The file.
        file: PathBuf,
        /// What it should hold.
        what: &'static str,
    },
    /// Certificate and key.
    #[error("cert and key of [api.tls] cannot be used: they must belong together")]
    Identity(#[source] rustls::Error),
    /// The authority of clients.
    #[error("client_ca of [api.tls] cannot be used")]
    Authority(#[source] rustls::Error),
    /// The same.
    #[error("client_ca of [api.tls] cannot be used")]
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

/// What is served with, from what is in the files now; with it, what the agent's own certificate says.
fn load(tls: &Tls) -> Result<(ServerConfig, Option<Shown>), TlsError> {
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
    let builder = match &tls.client_ca {
        None => builder.with_no_client_auth(),
        Some(file) => {
            let mut roots = RootCertStore::empty();
            for authority in certificates(file)? {
                roots.add(authority).map_err(TlsError::Authority)?;
            }
            let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider);
            let verifier = match tls.client_auth {
                ClientAuth::Required => verifier,
                ClientAuth::Optional => verifier.allow_unauthenticated(),
            };
            builder.with_client_cert_verifier(verifier.build()?)
        }
    };
    let shown = chain.first().and_then(|certificate| Shown::read(certificate));
    let mut config = builder.with_single_cert(chain, key).map_err(TlsError::Identity)?;
    config.alpn_protocols = vec![b"h2".to_vec()];
    // A resumed session would keep a certificate that is not accepted any more.
    config.session_storage = Arc::new(NoServerSessionStorage {});
    config.send_tls13_tickets = 0;
    Ok((config, shown))
}
