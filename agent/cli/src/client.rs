//! The connection to the agent.

use std::net::IpAddr;
use std::path::Path;

use portcullis_proto::v1::audit_service_client::AuditServiceClient;
use portcullis_proto::v1::baseline_service_client::BaselineServiceClient;
use portcullis_proto::v1::bypass_service_client::BypassServiceClient;
use portcullis_proto::v1::endpoint_service_client::EndpointServiceClient;
use portcullis_proto::v1::policy_service_client::PolicyServiceClient;
use portcullis_proto::v1::profile_service_client::ProfileServiceClient;
use portcullis_proto::v1::target_service_client::TargetServiceClient;
use portcullis_proto::v1::unlock_service_client::UnlockServiceClient;
use tonic::codegen::http::Uri;
use tonic::metadata::{Ascii, MetadataValue};
use tonic::service::Interceptor;
use tonic::service::interceptor::InterceptedService;
use tonic::transport::{Certificate, Channel, ClientTlsConfig, Endpoint, Identity};
use tonic::{Code, Status};

use super::Globals;
use super::error::{Failure, Misuse};

/// Longest wait for a connection.
const CONNECT: std::time::Duration = std::time::Duration::from_secs(5);
/// Largest answer, in bytes: plans list rows, and a document can hold every endpoint of a data centre.
const ANSWER: usize = 256 << 20;

#[derive(Debug, Clone)]
pub struct Client {
    channel: Line,
    at: String,
}

/// A channel on which every call shows the token, if there is one.
pub type Line = InterceptedService<Channel, Token>;

/// What `--token-file` holds, as it is sent.
#[derive(Debug, Clone, Default)]
pub struct Token(Option<MetadataValue<Ascii>>);

impl Token {
    fn from_globals(globals: &Globals) -> Result<Self, Failure> {
        let Some(file) = &globals.token_file else {
            return Ok(Token(None));
        };
        if globals.address.as_deref().is_some_and(bare) {
            return Err(Misuse::BareToken.into());
        }
        let text = String::from_utf8(read(file)?).unwrap_or_default();
        let token = text.trim();
        let plain = !token.is_empty() && token.bytes().all(|b| b.is_ascii_graphic());
        let value = plain.then(|| format!("Bearer {token}").parse().ok()).flatten();
        let mut value: MetadataValue<Ascii> = value.ok_or_else(|| Misuse::Token(file.clone()))?;
        value.set_sensitive(true);
        Ok(Token(Some(value)))
    }
}

/// Whether what is sent to this address can be read on its way.
fn bare(address: &str) -> bool {
    let Ok(uri) = address.parse::<Uri>() else {
        return true;
    };
    let host = uri.host().unwrap_or_default().trim_matches(['[', ']']);
    let local = host == "localhost" || host.parse::<IpAddr>().is_ok_and(|a| a.is_loopback());
    uri.scheme_str() != Some("https") && !local
}

impl Interceptor for Token {
    fn call(&mut self, mut request: tonic::Request<()>) -> Result<tonic::Request<()>, Status> {
        if let Some(token) = &self.0 {
            request.metadata_mut().insert("authorization", token.clone());
        }
        Ok(request)
    }
}

fn read(path: &Path) -> Result<Vec<u8>, Failure> {
    std::fs::read(path).map_err(|source| Failure::Read {
        path: path.to_path_buf(),
        source,
    })
}

fn tls(globals: &Globals) -> Result<ClientTlsConfig, Failure> {
    let ca = globals.ca.as_deref().ok_or(Misuse::NoAuthority)?;
    let config = ClientTlsConfig::new().ca_certificate(Certificate::from_pem(read(ca)?));
    match (&globals.cert, &globals.key) {
        (None, None) => Ok(config),
        (Some(cert), Some(key)) => Ok(config.identity(Identity::from_pem(read(cert)?, read(key)?))),
        _ => Err(Misuse::HalfIdentity.into()),
    }
}

fn endpoint(globals: &Globals) -> Result<(Endpoint, String), Failure> {
    let Some(address) = &globals.address else {
        let path = globals
            .socket
            .to_str()
            .ok_or_else(|| Misuse::Socket(globals.socket.clone()))?;
        let endpoint = Endpoint::from_shared(format!("unix://{path}"));
        return endpoint
            .map(|e| (e, path.to_string()))
            .map_err(|_| Misuse::Socket(globals.socket.clone()).into());
    };
    let wrong = || Failure::from(Misuse::Address(address.clone()));
    let secure = address.starts_with("https://");
    if !secure && !address.starts_with("http://") {
        return Err(wrong());
    }
    let mut endpoint = Endpoint::from_shared(address.clone()).map_err(|_| wrong())?;
    if secure {
        endpoint = endpoint
            .tls_config(tls(globals)?)
            .map_err(|source| Failure::Unreachable {
                at: address.clone(),
                source: source.into(),
            })?;
    }
    Ok((endpoint, address.clone()))
}

impl Client {
    /// Connects to the agent that the options name.
    pub async fn connect(globals: &Globals) -> Result<Self, Failure> {
        let (endpoint, at) = endpoint(globals)?;
        let token = Token::from_globals(globals)?;
        match endpoint.connect_timeout(CONNECT).connect().await {
            Ok(channel) => Ok(Client {
                channel: InterceptedService::new(channel, token),
                at,
            }),
            Err(source) => Err(Failure::Unreachable {
                at,
                source: source.into(),
            }),
        }
    }

    /// A status as a failure: one that the transport made means that the agent is gone.
    pub fn failure(&self, status: Status) -> Failure {
        let from_transport = std::error::Error::source(&status).is_some();
        if from_transport && matches!(status.code(), Code::Unavailable | Code::Unknown) {
            return Failure::Unreachable {
                at: self.at.clone(),
                source: status.into(),
            };
        }
        status.into()
    }

    pub fn baseline(&self) -> BaselineServiceClient<Line> {
        BaselineServiceClient::new(self.channel.clone()).max_decoding_message_size(ANSWER)
    }

    pub fn profiles(&self) -> ProfileServiceClient<Line> {
        ProfileServiceClient::new(self.channel.clone()).max_decoding_message_size(ANSWER)
    }

    pub fn endpoints(&self) -> EndpointServiceClient<Line> {
        EndpointServiceClient::new(self.channel.clone()).max_decoding_message_size(ANSWER)
    }

    /// The document, and questions about it.
    pub fn policy(&self) -> PolicyServiceClient<Line> {
        PolicyServiceClient::new(self.channel.clone()).max_decoding_message_size(ANSWER)
    }

    pub fn unlocks(&self) -> UnlockServiceClient<Line> {
        UnlockServiceClient::new(self.channel.clone()).max_decoding_message_size(ANSWER)
    }

    pub fn bypasses(&self) -> BypassServiceClient<Line> {
        BypassServiceClient::new(self.channel.clone()).max_decoding_message_size(ANSWER)
    }

    pub fn audit(&self) -> AuditServiceClient<Line> {
        AuditServiceClient::new(self.channel.clone()).max_decoding_message_size(ANSWER)
    }

    pub fn targets(&self) -> TargetServiceClient<Line> {
        TargetServiceClient::new(self.channel.clone()).max_decoding_message_size(ANSWER)
    }
}
