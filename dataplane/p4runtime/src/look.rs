//! Looks at a P4Runtime server: which device it has and what it runs. Reads only: no arbitration, no row.

use std::time::Duration;

use portcullis_proto::p4::config::v1::P4Info;
use portcullis_proto::p4::v1;
use portcullis_proto::switch::switch_service_client::SwitchServiceClient;
use portcullis_proto::switch::{ListPortsRequest, Port};
use tonic::transport::{Channel, Endpoint};
use tonic::{Code, Status};
use v1::get_forwarding_pipeline_config_request::ResponseType;
use v1::p4_runtime_client::P4RuntimeClient;

use crate::client::ClientError;

/// How long a server may take to answer everything.
const PATIENCE: Duration = Duration::from_secs(3);
/// Bytes of an answer at most; the P4Info of a large program takes some hundreds of kilobytes.
const LARGEST: usize = 16 << 20;
/// Ports of an embedded switch at most: their numbers have 9 bits.
const MOST_PORTS: usize = 512;
/// The ids that a device on its own usually has: 1 is the default of most agents, 0 that of BMv2.
const USUAL_IDS: [u64; 2] = [1, 0];

/// A P4Runtime server that answers.
#[derive(Debug, Clone, PartialEq)]
pub struct Server {
    /// Version of P4Runtime that it speaks; empty when it does not say.
    pub version: String,
    /// The device behind it; else what the server answered to each of the usual ids.
    pub device: Result<SeenDevice, String>,
    /// The ports, where the server is an embedded switch: P4Runtime has no call for them.
    pub ports: Option<Vec<Port>>,
}

/// A device of a server.
#[derive(Debug, Clone, PartialEq)]
pub struct SeenDevice {
    /// Its id, `device_id` of every request.
    pub id: u64,
    /// The P4 program that it runs; absent when it runs none.
    pub program: Option<P4Info>,
}

/// Why an address has no P4Runtime server to be read.
#[allow(missing_docs, reason = "each message names its fields")]
#[derive(Debug, thiserror::Error)]
pub enum NoServer {
    /// Nothing listens there, or it does not speak gRPC without TLS.
    #[error(transparent)]
    Unreachable(#[from] ClientError),
    /// A gRPC server of something else.
    #[error("the gRPC server at {0} does not serve P4Runtime")]
    Other(String),
    /// No gRPC server, or one that asks for TLS.
    #[error(
        "the server at {0} does not speak gRPC without TLS; a P4Runtime server with TLS needs a [[target]] with `tls`"
    )]
    NotGrpc(String),
    /// A server that is silent.
    #[error("the server at {address} did not answer within {} s", PATIENCE.as_secs())]
    Silent { address: String },
}

/// Asks the server at `HOST:PORT` or `unix:/PATH` what it is.
pub async fn look(address: &str) -> Result<Server, NoServer> {
    let silent = || NoServer::Silent {
        address: address.to_string(),
    };
    tokio::time::timeout(PATIENCE, ask(address))
        .await
        .unwrap_or_else(|_| Err(silent()))
}

async fn ask(address: &str) -> Result<Server, NoServer> {
    let channel = channel(address).await?;
    let mut rpc = P4RuntimeClient::new(channel.clone()).max_decoding_message_size(LARGEST);
    // Servers before P4Runtime 1.1 do not have Capabilities; whether it is such a server says the next call.
    let answer = rpc.capabilities(v1::CapabilitiesRequest::default()).await;
    let version = answer
        .ok()
        .map(|answer| answer.into_inner().p4runtime_api_version);
    let device = device(&mut rpc, address, version.is_some()).await?;
    let list = SwitchServiceClient::new(channel)
        .list_ports(ListPortsRequest::default())
        .await;
    Ok(Server {
        version: version.unwrap_or_default(),
        device,
        ports: list
            .ok()
            .map(|answer| answer.into_inner().ports)
            .filter(|ports| ports.len() <= MOST_PORTS),
    })
}

async fn channel(address: &str) -> Result<Channel, ClientError> {
    let wrong = || ClientError::Address(address.to_string());
    let uri = match address.strip_prefix("unix:") {
        Some(_) => address.to_string(),
        None if address.contains(':') => format!("http://{address}"),
        None => return Err(wrong()),
    };
    let endpoint = Endpoint::from_shared(uri).map_err(|_| wrong())?;
    let connected = endpoint.connect_timeout(PATIENCE).connect().await;
    connected.map_err(|source| ClientError::Connect {
        address: address.to_string(),
        source,
    })
}

/// The device with one of the usual ids, or why it cannot be read.
///
/// A server answers NOT_FOUND to an id that it does not have (P4Runtime 1.6.0, GetForwardingPipelineConfig). BMv2 answers the same
/// to such an id as for a device without a program: a device with one comes first.
///
/// A server that refuses each call may be any that asks for credentials, unless it `is_known` to speak P4Runtime.
async fn device(
    rpc: &mut P4RuntimeClient<Channel>,
    address: &str,
    mut is_known: bool,
) -> Result<Result<SeenDevice, String>, NoServer> {
    let mut bare = None;
    let mut refusals = Vec::new();
    for id in USUAL_IDS {
        let request = v1::GetForwardingPipelineConfigRequest {
            device_id: id,
            response_type: ResponseType::P4infoAndCookie as i32,
        };
        match rpc.get_forwarding_pipeline_config(request).await {
            Ok(answer) => {
                let config = answer.into_inner().config;
                let program = config.and_then(|c| c.p4info).filter(|i| !i.tables.is_empty());
                if program.is_some() {
                    return Ok(Ok(SeenDevice { id, program }));
                }
                bare = bare.or(Some(id));
            }
            Err(status) if status.code() == Code::FailedPrecondition => bare = bare.or(Some(id)),
            Err(status) if std::error::Error::source(&status).is_some() => {
                // No answer of a gRPC server: the cause is in the connection.
                return Err(NoServer::NotGrpc(address.to_string()));
            }
            Err(status) if is_of_another_service(&status) && !is_known && bare.is_none() => {
                return Err(NoServer::Other(address.to_string()));
            }
            Err(status) => {
                is_known |= status.code() == Code::NotFound;
                refusals.push(format!(
                    "device {id}: {} ({})",
                    crate::failure::shown(status.message()),
                    status.code()
                ));
            }
        }
    }
    match bare {
        Some(id) => Ok(Ok(SeenDevice { id, program: None })),
        None if is_known => Ok(Err(refusals.join("; "))),
        None => Err(NoServer::Other(address.to_string())),
    }
}

/// Whether an answer is that of a gRPC server without this service.
fn is_of_another_service(status: &Status) -> bool {
    matches!(
        status.code(),
        Code::Unimplemented | Code::Unknown | Code::Internal
    )
}
