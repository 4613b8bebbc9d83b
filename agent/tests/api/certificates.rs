//! Authorities and certificates of tests, and agents that serve TLS with them.

use std::path::{Path, PathBuf};
use std::sync::atomic::AtomicU32;
use std::sync::atomic::Ordering::Relaxed;

use portcullis_policy::text::with_causes;
use rcgen::{
    BasicConstraints, CertificateParams, CertificateRevocationListParams, CertifiedIssuer, DnType,
    ExtendedKeyUsagePurpose, IsCa, KeyIdMethod, KeyPair, KeyUsagePurpose, RevokedCertParams, SanType,
    date_time_ymd,
};
use tonic::transport::{Certificate, Channel, ClientTlsConfig, Endpoint, Identity};

use crate::api::support::*;

static COUNT: AtomicU32 = AtomicU32::new(0);

/// An authority, and the certificates it signed.
pub struct Authority {
    issuer: CertifiedIssuer<'static, KeyPair>,
}

pub type Signed = (String, String);

impl Authority {
    pub fn new() -> Self {
        let mut params = CertificateParams::new(vec![]).unwrap();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        // Authorities of one name would be taken for one another.
        params.distinguished_name.push(
            DnType::CommonName,
            format!("authority {}", COUNT.fetch_add(1, Relaxed)),
        );
        Authority {
            issuer: CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap(),
        }
    }

    pub fn pem(&self) -> String {
        self.issuer.pem()
    }

    /// The list of certificates that it revoked, until the end of a year.
    pub fn list(&self, revoked_certs: Vec<RevokedCertParams>, until: i32) -> String {
        let params = CertificateRevocationListParams {
            this_update: date_time_ymd(2020, 1, 1),
            next_update: date_time_ymd(until, 12, 31),
            crl_number: 1u64.into(),
            issuing_distribution_point: None,
            revoked_certs,
            key_identifier_method: KeyIdMethod::Sha256,
        };
        params.signed_by(&self.issuer).unwrap().pem().unwrap()
    }

    pub fn sign(&self, name: &str, usage: ExtendedKeyUsagePurpose) -> Signed {
        self.sign_as(CertificateParams::new(vec![name.to_string()]).unwrap(), usage)
    }

    pub fn sign_as(&self, mut params: CertificateParams, usage: ExtendedKeyUsagePurpose) -> Signed {
        let key = KeyPair::generate().unwrap();
        params.extended_key_usages = vec![usage];
        (
            params.signed_by(&key, &self.issuer).unwrap().pem(),
            key.serialize_pem(),
        )
    }

    /// The certificate of a client with this name.
    pub fn client(&self, name: SanType) -> Signed {
        let mut params = CertificateParams::new(vec![]).unwrap();
        params.subject_alt_names = vec![name];
        self.sign_as(params, ExtendedKeyUsagePurpose::ClientAuth)
    }
}

pub fn uri(text: &str) -> SanType {
    SanType::URI(text.try_into().unwrap())
}

pub fn dns(text: &str) -> SanType {
    SanType::DnsName(text.try_into().unwrap())
}

pub fn email(text: &str) -> SanType {
    SanType::Rfc822Name(text.try_into().unwrap())
}

/// An agent that serves TLS.
pub struct Secure {
    pub rig: Rig,
    pub servers: Authority,
    pub clients: Authority,
    pub folder: tempfile::TempDir,
}

impl Secure {
    /// With more settings of `[api.tls]`, and of other sections.
    pub async fn with(mutual: bool, more: &str) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let (servers, clients) = (Authority::new(), Authority::new());
        let at = |name: &str| folder.path().join(name);
        put(
            &at("cert"),
            &at("key"),
            &servers.sign("localhost", ExtendedKeyUsagePurpose::ServerAuth),
        );
        std::fs::write(at("ca"), clients.pem()).unwrap();
        let ca = if mutual {
            format!("client_ca = {:?}\n", at("ca"))
        } else {
            String::new()
        };
        let more = format!(
            "listen = \"127.0.0.1:0\"\n[api.tls]\ncert = {:?}\nkey = {:?}\n{ca}{more}",
            at("cert"),
            at("key")
        );
        Secure {
            rig: Rig::with(&more).await,
            servers,
            clients,
            folder,
        }
    }

    pub fn at(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    pub fn address(&self) -> std::net::SocketAddr {
        self.rig.agent.as_ref().unwrap().tcp().unwrap()
    }

    /// A new connection of a client that trusts this authority.
    pub async fn channel(&self, identity: Option<Signed>, authority: &Authority) -> Result<Channel, String> {
        let mut tls = ClientTlsConfig::new()
            .domain_name("localhost")
            .ca_certificate(Certificate::from_pem(authority.pem()));
        if let Some((cert, key)) = identity {
            tls = tls.identity(Identity::from_pem(cert, key));
        }
        let endpoint = Endpoint::from_shared(format!("https://{}", self.address()))
            .unwrap()
            .tls_config(tls)
            .unwrap();
        endpoint.connect().await.map_err(|e| with_causes(&e))
    }

    /// The generation that such a client is told.
    pub async fn connect(&self, identity: Option<Signed>, authority: &Authority) -> Result<u64, String> {
        let mut client = Client::over(self.channel(identity, authority).await?);
        let request = portcullis_proto::v1::GetDocumentRequest {};
        let answer = client
            .policy
            .get_document(request)
            .await
            .map_err(|e| e.to_string())?;
        Ok(answer.into_inner().generation)
    }
}

/// Writes a certificate and its key over what is there.
pub fn put(cert: &Path, key: &Path, signed: &Signed) {
    for (path, text) in [(key, &signed.1), (cert, &signed.0)] {
        let fresh = path.with_extension("fresh");
        std::fs::write(&fresh, text).unwrap();
        std::fs::rename(&fresh, path).unwrap();
    }
}
