//! gRPC client of a P4Runtime server, with its errors in our terms.

use std::sync::Arc;
use std::time::Duration;

use portcullis_backend::delta::Op;
use portcullis_backend::machine::Observed;
use portcullis_proto::p4::v1;
use portcullis_proto::switch::switch_service_client::SwitchServiceClient;
use portcullis_proto::switch::{ListOffloadRequest, ListOffloadResponse};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::transport::{Certificate, Channel, ClientTlsConfig, Endpoint, Identity};
use tonic::{Code, Status, Streaming};
use v1::entity::Entity;
use v1::get_forwarding_pipeline_config_request::ResponseType;
use v1::p4_runtime_client::P4RuntimeClient;
use v1::set_forwarding_pipeline_config_request::Action;

use crate::config::{Config, Tls};
use crate::device::Device;
use crate::entry::{Does, Row, RowKey};
use crate::failure;
use crate::find::{self, Found};
use crate::program::OwnProgram;
use crate::session::{NotPushed, Push, Running, WriteFailure};
use crate::wire::{self, ReplicaPorts, Seen, Writer};

/// How long a connection may take, and a call.
const CONNECT: Duration = Duration::from_secs(5);
const CALL: Duration = Duration::from_secs(30);
/// A silent peer is asked whether it is there after so long, and given up after as long again.
const KEEP_ALIVE: Duration = Duration::from_secs(5);
/// Answers of reads can be large.
const LARGEST: usize = 256 << 20;

/// Why a device cannot be reached, or a call had no useful answer.
#[allow(missing_docs, reason = "`source` is the cause of the error")]
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// The address is none.
    #[error("`{0}` is not an address: write HOST:PORT or unix:/PATH")]
    Address(String),
    /// A file for TLS.
    #[error("cannot read {path} for TLS")]
    File {
        /// Path of the certificate or key.
        path: String,
        #[source]
        source: std::io::Error,
    },
    /// The server does not answer, or TLS fails.
    #[error("no P4Runtime server at {address}")]
    Connect {
        /// Address of the device as configured.
        address: String,
        #[source]
        source: tonic::transport::Error,
    },
    /// An answer that is an error.
    #[error("{call}: {} ({})", failure::shown(.status.message()), .status.code())]
    Call {
        /// Name of the RPC, for example `Write`.
        call: &'static str,
        /// The status that the server returned.
        status: Status,
    },
}

fn failed(call: &'static str) -> impl FnOnce(Status) -> ClientError {
    move |status| ClientError::Call { call, status }
}

impl ClientError {
    /// Why a pipeline is not there. P4Runtime 1.6.0, section 14: UNIMPLEMENTED or INVALID_ARGUMENT from a device that does
    /// not reconcile, or not to this one; not all keep to these two.
    pub fn not_pushed(&self, why: String) -> NotPushed {
        match self {
            ClientError::Call { status, .. }
                if !matches!(
                    status.code(),
                    Code::Unavailable
                        | Code::DeadlineExceeded
                        | Code::Cancelled
                        | Code::PermissionDenied
                        | Code::Unauthenticated
                ) =>
            {
                NotPushed::Declined(why)
            }
            _ => NotPushed::Failed(why),
        }
    }
}

/// A connection to one device. Clones share it.
#[derive(Debug, Clone)]
pub struct Client {
    rpc: P4RuntimeClient<Channel>,
    /// The service that the embedded switch has beside P4Runtime.
    beside: SwitchServiceClient<Channel>,
    config: Arc<Config>,
    /// Version of P4Runtime that the server speaks.
    pub version: String,
    /// Whether it keeps the ends that rows carry ([`crate::ends`]).
    pub keeps_ends: bool,
}

/// The stream of a connection: what is sent, and what comes.
#[derive(Debug)]
pub struct Stream {
    /// The way to the server; the stream lives as long as this does.
    _requests: mpsc::Sender<v1::StreamMessageRequest>,
    /// Arbitration updates, errors and packets, as the server sends them.
    pub responses: Streaming<v1::StreamMessageResponse>,
}

fn read(path: &std::path::Path) -> Result<Vec<u8>, ClientError> {
    std::fs::read(path).map_err(|source| ClientError::File {
        path: path.display().to_string(),
        source,
    })
}

fn tls(files: &Tls) -> Result<ClientTlsConfig, ClientError> {
    let mut tls = ClientTlsConfig::new().ca_certificate(Certificate::from_pem(read(&files.ca)?));
    if let Some((cert, key)) = &files.client {
        tls = tls.identity(Identity::from_pem(read(cert)?, read(key)?));
    }
    if let Some(domain) = &files.domain {
        tls = tls.domain_name(domain);
    }
    Ok(tls)
}

async fn channel(config: &Config) -> Result<Channel, ClientError> {
    let uri = match (config.address.starts_with("unix:"), &config.tls) {
        (true, _) => config.address.clone(),
        (false, None) => format!("http://{}", config.address),
        (false, Some(_)) => format!("https://{}", config.address),
    };
    let connect = |source| ClientError::Connect {
        address: config.address.clone(),
        source,
    };
    let mut endpoint = Endpoint::from_shared(uri)
        .map_err(|_| ClientError::Address(config.address.clone()))?
        .connect_timeout(CONNECT)
        .http2_keep_alive_interval(KEEP_ALIVE)
        .keep_alive_timeout(KEEP_ALIVE)
        .keep_alive_while_idle(true)
        .tcp_nodelay(true);
    if let Some(files) = &config.tls {
        endpoint = endpoint.tls_config(tls(files)?).map_err(connect)?;
    }
    endpoint.connect().await.map_err(connect)
}

/// Connects, and opens the stream.
pub async fn connect(config: Arc<Config>) -> Result<(Client, Stream), ClientError> {
    let channel = channel(&config).await?;
    let beside = SwitchServiceClient::new(channel.clone()).max_decoding_message_size(LARGEST);
    let mut rpc = P4RuntimeClient::new(channel).max_decoding_message_size(LARGEST);
    // Servers before P4Runtime 1.1 do not have it.
    let (version, keeps_ends) = match timed(rpc.capabilities(v1::CapabilitiesRequest::default())).await {
        Ok(answer) => {
            let keeps_ends = answer.metadata().contains_key(crate::ends::HEADER);
            (answer.into_inner().p4runtime_api_version, keeps_ends)
        }
        Err(status) if status.code() == Code::Unimplemented => (String::new(), false),
        Err(status) => return Err(failed("Capabilities")(status)),
    };
    let (requests, queue) = mpsc::channel(16);
    // Servers answer the call itself with the first message they have: it must not be waited for before arbitration.
    let first = arbitration(&config);
    if requests.send(first).await.is_err() {
        let status = Status::internal("the stream is closed");
        return Err(failed("StreamChannel")(status));
    }
    let responses = timed(rpc.stream_channel(ReceiverStream::new(queue)))
        .await
        .map_err(failed("StreamChannel"))?
        .into_inner();
    let client = Client {
        rpc,
        beside,
        config,
        version,
        keeps_ends,
    };
    Ok((
        client,
        Stream {
            _requests: requests,
            responses,
        },
    ))
}

/// A call, bounded in time: a peer that keeps a connection open and answers nothing is as good as gone.
async fn timed<T>(call: impl Future<Output = Result<T, Status>>) -> Result<T, Status> {
    match tokio::time::timeout(CALL, call).await {
        Ok(result) => result,
        Err(_) => Err(Status::deadline_exceeded(format!(
            "no answer within {} s",
            CALL.as_secs()
        ))),
    }
}

fn election_id(config: &Config) -> v1::Uint128 {
    v1::Uint128 {
        high: (config.election_id >> 64) as u64,
        low: config.election_id as u64,
    }
}

/// The request to be the primary.
pub fn arbitration(config: &Config) -> v1::StreamMessageRequest {
    let role = (!config.role.is_empty()).then(|| v1::Role {
        name: config.role.clone(),
        ..Default::default()
    });
    let update = v1::MasterArbitrationUpdate {
        device_id: config.device_id,
        role,
        election_id: Some(election_id(config)),
        status: None,
    };
    v1::StreamMessageRequest {
        update: Some(v1::stream_message_request::Update::Arbitration(update)),
    }
}

impl Client {
    async fn config(
        &mut self,
        what: ResponseType,
    ) -> Result<Option<v1::ForwardingPipelineConfig>, ClientError> {
        let request = v1::GetForwardingPipelineConfigRequest {
            device_id: self.config.device_id,
            response_type: what as i32,
        };
        match timed(self.rpc.get_forwarding_pipeline_config(request)).await {
            Ok(answer) => Ok(answer.into_inner().config),
            Err(status) if status.code() == Code::FailedPrecondition => Ok(None),
            Err(status) => Err(failed("GetForwardingPipelineConfig")(status)),
        }
    }

    /// The cookie of what it runs; 0 without one.
    pub async fn cookie(&mut self) -> Result<u64, ClientError> {
        let config = self.config(ResponseType::CookieOnly).await?;
        Ok(config.and_then(|c| c.cookie).map_or(0, |c| c.cookie))
    }

    /// Finds out what the device runs. The cookie comes first: it is small, and mostly enough.
    pub async fn find(&mut self, own: Option<&OwnProgram>) -> Result<Result<Found, String>, ClientError> {
        if let Some(own) = own
            && self.cookie().await? == own.cookie()
        {
            return Ok(Ok(Found {
                running: Running::Wanted,
                device: None,
                cookie: own.cookie(),
            }));
        }
        let config = self
            .config(ResponseType::P4infoAndCookie)
            .await?
            .unwrap_or_default();
        Ok(find::found(config, &self.config.program, &self.config.name))
    }

    /// Puts our program on the device.
    pub async fn push(&mut self, own: &OwnProgram, how: Push) -> Result<(), ClientError> {
        let action = match how {
            Push::Reconcile => Action::ReconcileAndCommit,
            Push::Verify => Action::VerifyAndCommit,
        };
        let request = v1::SetForwardingPipelineConfigRequest {
            device_id: self.config.device_id,
            role: self.config.role.clone(),
            election_id: Some(election_id(&self.config)),
            action: action as i32,
            config: Some(own.config.clone()),
            ..Default::default()
        };
        let call = timed(self.rpc.set_forwarding_pipeline_config(request)).await;
        call.map(drop).map_err(failed("SetForwardingPipelineConfig"))
    }

    /// Sends writes as one request; an error says which of them failed.
    pub async fn write(
        &mut self,
        device: &Device,
        ops: &[Op<RowKey, Does>],
        writer: &Writer,
    ) -> Result<(), WriteFailure> {
        let updates: Option<Vec<v1::Update>> =
            ops.iter().map(|op| wire::update(device, op, writer)).collect();
        let Some(updates) = updates else {
            return Err(WriteFailure::Whole(
                "a row is of a table that the program lacks".to_string(),
            ));
        };
        let request = v1::WriteRequest {
            device_id: self.config.device_id,
            role: self.config.role.clone(),
            election_id: Some(election_id(&self.config)),
            updates,
            ..Default::default()
        };
        match timed(self.rpc.write(request)).await {
            Ok(_) => Ok(()),
            Err(status) => {
                let (code, message) = (status.code() as i32, status.message());
                Err(failure::of_write(code, message, status.details(), ops.len()))
            }
        }
    }

    async fn entities(&mut self, entities: Vec<v1::Entity>) -> Result<Vec<Entity>, Status> {
        let request = v1::ReadRequest {
            device_id: self.config.device_id,
            role: self.config.role.clone(),
            entities,
        };
        let mut answers = timed(self.rpc.read(request)).await?.into_inner();
        let mut list = Vec::new();
        while let Some(answer) = timed(answers.message()).await? {
            list.extend(answer.entities.into_iter().filter_map(|e| e.entity));
        }
        Ok(list)
    }

    /// Every row of the tables we use; `None` in place of groups when the server cannot read those.
    pub async fn read_back(
        &mut self,
        device: &Device,
    ) -> Result<(Observed<RowKey, Does>, bool), ClientError> {
        let tables = used(device).map(|t| wildcard(t.id, false)).collect();
        let mut observed = Observed {
            ours: Vec::new(),
            foreign: Vec::new(),
        };
        for entity in self.entities(tables).await.map_err(failed("Read"))? {
            if let Entity::TableEntry(entry) = entity {
                match wire::seen_entry(device, &entry, self.config.tag) {
                    Seen::Ours(row) => observed.ours.push(row),
                    Seen::Foreign(key) => observed.foreign.push(key),
                    Seen::Nothing => {}
                }
            }
        }
        let mut groups = true;
        if device.is_own() {
            match self.groups().await {
                Ok(rows) => observed.ours.extend(rows),
                Err(status) if status.code() == Code::Unimplemented => groups = false,
                Err(status) => return Err(failed("Read")(status)),
            }
        }
        Ok((observed, groups))
    }

    async fn groups(&mut self) -> Result<Vec<Row>, Status> {
        let any = wire::group_entity(0, Vec::new());
        let entities = self.entities(vec![any]).await?;
        let group = |entity| match entity {
            Entity::PacketReplicationEngineEntry(entry) => match entry.r#type? {
                v1::packet_replication_engine_entry::Type::MulticastGroupEntry(group) => {
                    Some(wire::seen_group(&group))
                }
                v1::packet_replication_engine_entry::Type::CloneSessionEntry(_) => None,
            },
            _ => None,
        };
        Ok(entities.into_iter().filter_map(group).collect())
    }

    /// Rows of ours with their counters: these, or all of the tables that count.
    pub async fn counted(
        &mut self,
        device: &Device,
        keys: Option<&[RowKey]>,
    ) -> Result<Vec<(Row, v1::CounterData)>, ClientError> {
        let entities: Vec<v1::Entity> = match keys {
            None => used(device)
                .filter(|t| t.counted)
                .map(|t| wildcard(t.id, true))
                .collect(),
            Some(keys) => keys.iter().filter_map(|key| one(device, key)).collect(),
        };
        if entities.is_empty() {
            return Ok(Vec::new());
        }
        let seen = self.entities(entities).await.map_err(failed("Read"))?;
        let row = |entity| match entity {
            Entity::TableEntry(entry) => match wire::seen_entry(device, &entry, self.config.tag) {
                Seen::Ours(row) => Some((row, entry.counter_data.unwrap_or_default())),
                _ => None,
            },
            _ => None,
        };
        Ok(seen.into_iter().filter_map(row).collect())
    }

    /// What NICs of an embedded switch hold; nothing if it is another switch.
    pub async fn offload(&mut self) -> Result<Option<ListOffloadResponse>, ClientError> {
        match timed(self.beside.list_offload(ListOffloadRequest::default())).await {
            Ok(answer) => Ok(Some(answer.into_inner())),
            Err(status) if status.code() == Code::Unimplemented => Ok(None),
            Err(status) => Err(failed("ListOffload")(status)),
        }
    }

    /// How replicas name ports on this server.
    pub fn replica_ports(&self) -> ReplicaPorts {
        let mut parts = self.version.split('.').map(str::parse::<u32>);
        match (parts.next(), parts.next()) {
            (Some(Ok(1)), Some(Ok(minor))) if minor >= 4 => ReplicaPorts::Bytes,
            (Some(Ok(major)), _) if major > 1 => ReplicaPorts::Bytes,
            _ => ReplicaPorts::Number,
        }
    }
}

/// The tables whose rows we write.
fn used(device: &Device) -> impl Iterator<Item = &crate::device::DeviceTable> {
    let own = device.is_own();
    device
        .tables
        .iter()
        .filter(move |t| own || t.stage != portcullis_compiler::model::Role::Other)
}

fn wildcard(table: u32, counters: bool) -> v1::Entity {
    let entry = v1::TableEntry {
        table_id: table,
        counter_data: counters.then(v1::CounterData::default),
        ..Default::default()
    };
    v1::Entity {
        entity: Some(Entity::TableEntry(entry)),
    }
}

fn one(device: &Device, key: &RowKey) -> Option<v1::Entity> {
    let mut entry = wire::table_entry(device, key)?;
    let (_, table) = device.table_of(entry.table_id)?;
    entry.counter_data = table.counted.then(v1::CounterData::default);
    Some(v1::Entity {
        entity: Some(Entity::TableEntry(entry)),
    })
}
