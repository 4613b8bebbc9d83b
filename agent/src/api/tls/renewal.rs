//! Certificates that are reloaded when their files change.

use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, SystemTime};

use arc_swap::ArcSwap;
use portcullis_policy::text::with_causes;
use tokio::sync::Notify;
use tokio_rustls::rustls::ServerConfig;
use tokio_rustls::rustls::server::danger::ClientCertVerifier;

use super::{LoadedFiles, TlsError, load};
use crate::access::Access;
use crate::config::ApiTls;
use crate::metrics;

/// How often files are looked at.
const LOOK: Duration = Duration::from_secs(2);

/// What tells that a file is another one, or was written: inode, size, and time in seconds and nanoseconds of the last
/// change, of content or inode.
type Stamp = Option<(u64, u64, [i64; 4])>;

fn stamp(file: &Path) -> Stamp {
    let found = std::fs::metadata(file).ok()?;
    let times = [
        found.mtime(),
        found.mtime_nsec(),
        found.ctime(),
        found.ctime_nsec(),
    ];
    Some((found.ino(), found.size(), times))
}

fn stamps(tls: &ApiTls) -> Vec<Stamp> {
    let mut stamps = vec![
        stamp(&tls.cert),
        stamp(&tls.key),
        tls.client_ca.as_deref().and_then(stamp),
    ];
    stamps.extend(tls.client_crls.iter().map(|file| stamp(file)));
    stamps
}

/// What TLS is served with. When the files change, new connections get what is in them then; files that are of no use
/// change nothing.
#[derive(Debug)]
pub struct Certificates {
    files: ApiTls,
    current: ArcSwap<ServerConfig>,
    trust: Mutex<Option<Arc<dyn ClientCertVerifier>>>,
    seen: Mutex<SeenFiles>,
    look: Notify,
}

#[derive(Debug)]
struct SeenFiles {
    stamps: Vec<Stamp>,
    /// What was wrong with them.
    problem: Option<String>,
}

impl Certificates {
    /// Reads the files, which must be in order.
    pub fn open(files: &ApiTls) -> Result<Self, TlsError> {
        let stamps = stamps(files);
        let loaded = load(files)?;
        report_ends(&loaded);
        Ok(Certificates {
            files: files.clone(),
            current: ArcSwap::from_pointee(loaded.config),
            trust: Mutex::new(loaded.trust),
            seen: Mutex::new(SeenFiles {
                stamps,
                problem: None,
            }),
            look: Notify::new(),
        })
    }

    /// What a new connection is served with.
    pub fn current(&self) -> Arc<ServerConfig> {
        self.current.load_full()
    }

    /// Whose certificates hold, where clients show one.
    pub fn trust(&self) -> Option<Arc<dyn ClientCertVerifier>> {
        self.trust.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn problem(&self) -> String {
        let seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        seen.problem.clone().unwrap_or_default()
    }

    /// Reads the files soon, whether or not they have changed.
    pub fn look(&self) {
        self.look.notify_one();
    }

    /// Follows the files for ever; connections whose certificates do not hold any more end.
    pub async fn follow(self: Arc<Self>, access: Access) {
        loop {
            let asked = tokio::time::timeout(LOOK, self.look.notified()).await.is_ok();
            let certificates = Arc::clone(&self);
            // The files may be on a network.
            let looked = tokio::task::spawn_blocking(move || certificates.renew(asked)).await;
            match looked {
                Ok(true) => access.trust(self.trust()),
                Ok(false) => {}
                Err(error) => tracing::error!(%error, "the files of [api.tls] were not looked at"),
            }
            access.report_with(|report| report.certificates = self.problem());
        }
    }

    /// Reads the files when they have changed, when they were wrong the last time (a key may have been written after its
    /// certificate), and when asked. Whether what is served with is new.
    fn renew(&self, asked: bool) -> bool {
        let mut seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        // Taken before reading: what is written meanwhile is read the next time.
        let stamps = stamps(&self.files);
        let changed = seen.stamps != stamps;
        if !changed && !asked && seen.problem.is_none() {
            return false;
        }
        seen.stamps = stamps;
        match load(&self.files) {
            Ok(loaded) => {
                seen.problem = None;
                report_ends(&loaded);
                // Connections that are made from here on are judged by this.
                self.current.store(Arc::new(loaded.config));
                *self.trust.lock().unwrap_or_else(PoisonError::into_inner) = loaded.trust;
                metrics::tls_read(true);
                tracing::info!("the files of [api.tls] were read again; new connections use them");
                true
            }
            Err(error) => {
                let problem = with_causes(&error);
                // Once for each thing that is wrong, not at every look.
                if asked || seen.problem.as_ref() != Some(&problem) {
                    tracing::error!(%problem, "the files of [api.tls] are of no use; what was read before stays in use");
                    metrics::tls_read(false);
                }
                seen.problem = Some(problem);
                false
            }
        }
    }
}

/// Tells when the agent's certificate and the lists of revoked ones end, and warns when they have.
fn report_ends(loaded: &LoadedFiles) {
    if let Some(until) = loaded.lists_until {
        metrics::lists_until(until);
        if until < SystemTime::now() {
            tracing::error!(
                "a list of client_crls has expired: clients of its authority are refused until there is a newer one"
            );
        }
    }
    let Some(shown) = &loaded.shown else { return };
    metrics::tls_until(shown.until);
    if shown.until < SystemTime::now() {
        tracing::warn!("the certificate of [api.tls] has expired: clients will not trust it");
    }
}

#[cfg(test)]
mod tests {
    use rcgen::{CertificateParams, KeyPair};

    use super::*;
    use crate::config::ClientAuth;

    fn identity() -> (String, String) {
        let key = KeyPair::generate().unwrap();
        let params = CertificateParams::new(vec!["localhost".to_string()]).unwrap();
        (params.self_signed(&key).unwrap().pem(), key.serialize_pem())
    }

    #[test]
    fn files_are_read_when_they_change_and_kept_when_they_are_wrong() {
        let folder = tempfile::tempdir().unwrap();
        let write = |name: &str, text: &str| {
            // As careful people do: beside it, then over it.
            let fresh = folder.path().join("fresh");
            std::fs::write(&fresh, text).unwrap();
            std::fs::rename(&fresh, folder.path().join(name)).unwrap();
        };
        let (cert, key) = identity();
        write("cert", &cert);
        write("key", &key);
        let files = ApiTls {
            cert: folder.path().join("cert"),
            key: folder.path().join("key"),
            client_ca: None,
            client_auth: ClientAuth::Required,
            client_crls: Vec::new(),
        };
        let certificates = Certificates::open(&files).unwrap();
        let first = certificates.current();
        assert!(!certificates.renew(false));
        assert!(certificates.renew(true));

        // A new certificate whose key comes later.
        let (cert, key) = identity();
        let before = certificates.current();
        assert!(!Arc::ptr_eq(&first, &before));
        write("cert", &cert);
        assert!(!certificates.renew(false) && Arc::ptr_eq(&certificates.current(), &before));
        assert!(!certificates.renew(false));
        write("key", &key);
        assert!(certificates.renew(false) && !Arc::ptr_eq(&certificates.current(), &before));
        assert!(!certificates.renew(false));

        for wrong in [
            "",
            "garbage",
            "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n",
            &key,
        ] {
            write("cert", wrong);
            assert!(!certificates.renew(false), "{wrong}");
        }
        std::fs::remove_file(&files.cert).unwrap();
        assert!(!certificates.renew(true));
        write("cert", &cert);
        assert!(certificates.renew(false));
    }
}
