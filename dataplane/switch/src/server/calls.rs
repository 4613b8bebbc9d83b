//! The P4Runtime calls.

use std::sync::Arc;

use portcullis_proto::google::rpc;
use portcullis_proto::p4::v1;
use prost::Message;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Code, Request, Response, Status, Streaming};
use v1::get_forwarding_pipeline_config_request::ResponseType;
use v1::p4_runtime_server::P4Runtime;
use v1::set_forwarding_pipeline_config_request::Action;
use v1::stream_message_request::Update;
use v1::write_request::Atomicity;

use super::roles::{Notice, Rejected, StreamId};
use super::{Service, WAITING, number};
use crate::engine::SetProgram;
use crate::entry::Refusal;
use portcullis_p4runtime::ends;
use tonic::metadata::MetadataValue;

/// Entities in one answer of a read.
const PART: usize = 500;

/// [`Service`], as tonic wants it.
#[derive(Debug, Clone)]
pub struct Calls(pub(super) Arc<Service>);

impl From<Refusal> for Status {
    fn from(refusal: Refusal) -> Status {
        Status::new(refusal.code, refusal.why)
    }
}

/// What fits into the trailers that clients take: gRPC's own take 8 KiB (and others 16 KiB), in which details are base64.
const TRAILER: usize = 5 << 10;

/// One error for each part of a request, in order: those that were carried out say OK. Where there are too many to be
/// told of, all texts but the first are left out, and then all but the first errors.
fn failed(what: &str, count: usize, refused: &[(usize, Refusal)]) -> Status {
    // Where one that was refused took the others with it, that one is to be told of.
    let why = refused
        .iter()
        .position(|(_, refusal)| refusal.code != Code::Aborted);
    let why = why.unwrap_or(0);
    let first = refused.get(why).map_or("", |(_, refusal)| refusal.why.as_str());
    let message = format!(
        "{} of {count} {what} were refused; the first: {first}",
        refused.len()
    );
    for texts in [None, Some(why)] {
        let details = details(&message, count, refused, texts);
        if details.len() + message.len() <= TRAILER {
            return Status::with_details(Code::Unknown, message, details.into());
        }
    }
    let texts = refused
        .iter()
        .skip(why)
        .take(20)
        .map(|(at, r)| format!("number {at}: {:?}", r.code));
    let texts: Vec<String> = texts.collect();
    Status::unknown(format!("{message} (too many to list: {}, ...)", texts.join(", ")))
}

/// Details of a status; texts with all errors, or with this one only.
fn details(message: &str, count: usize, refused: &[(usize, Refusal)], only: Option<usize>) -> Vec<u8> {
    let mut errors = vec![v1::Error::default(); count];
    for (n, (at, refusal)) in refused.iter().enumerate() {
        if let Some(error) = errors.get_mut(*at) {
            error.canonical_code = refusal.code as i32;
            if only.is_none_or(|only| only == n) {
                error.message.clone_from(&refusal.why);
                error.space = "portcullis-switch".to_string();
            }
        }
    }
    let status = rpc::Status {
        code: Code::Unknown as i32,
        message: message.to_string(),
        details: errors
            .iter()
            .map(|e| prost_types::Any {
                type_url: "type.googleapis.com/p4.v1.Error".to_string(),
                value: e.encode_to_vec(),
            })
            .collect(),
    };
    status.encode_to_vec()
}

type Answers<T> = ReceiverStream<Result<T, Status>>;

#[tonic::async_trait]
impl P4Runtime for Calls {
    type ReadStream = Answers<v1::ReadResponse>;
    type StreamChannelStream = Answers<v1::StreamMessageResponse>;

    async fn write(&self, request: Request<v1::WriteRequest>) -> Result<Response<v1::WriteResponse>, Status> {
        let request = request.into_inner();
        self.0.of_device(request.device_id)?;
        let may = || self.0.may_write(&request.role, request.election_id.as_ref());
        may()?;
        let all_or_nothing = match Atomicity::try_from(request.atomicity) {
            Ok(Atomicity::ContinueOnError) => false,
            // Workers never see a part of a request, so that the stronger of the two costs nothing.
            Ok(Atomicity::RollbackOnError | Atomicity::DataplaneAtomic) => true,
            Err(_) => {
                return Err(Status::invalid_argument(format!(
                    "there is no atomicity {}",
                    request.atomicity
                )));
            }
        };
        let refused = self.0.engine.write(&request.updates, all_or_nothing, may).await?;
        if refused.is_empty() {
            Ok(Response::new(v1::WriteResponse {}))
        } else {
            Err(failed("updates", request.updates.len(), &refused))
        }
    }

    async fn read(&self, request: Request<v1::ReadRequest>) -> Result<Response<Self::ReadStream>, Status> {
        let request = request.into_inner();
        self.0.of_device(request.device_id)?;
        let (mut entities, refused) = self.0.engine.read(&request.entities).await?;
        let last = (!refused.is_empty()).then(|| failed("entities", request.entities.len(), &refused));
        let (send, answers) = mpsc::channel(4);
        tokio::spawn(async move {
            while !entities.is_empty() {
                let rest = entities.split_off(entities.len().min(PART));
                let answer = v1::ReadResponse {
                    entities: std::mem::replace(&mut entities, rest),
                };
                if send.send(Ok(answer)).await.is_err() {
                    // The controller has hung up.
                    return;
                }
            }
            if let Some(status) = last {
                // It may have hung up.
                let _gone = send.send(Err(status)).await;
            }
        });
        Ok(Response::new(ReceiverStream::new(answers)))
    }

    async fn set_forwarding_pipeline_config(
        &self,
        request: Request<v1::SetForwardingPipelineConfigRequest>,
    ) -> Result<Response<v1::SetForwardingPipelineConfigResponse>, Status> {
        let request = request.into_inner();
        self.0.of_device(request.device_id)?;
        self.0.may_write(&request.role, request.election_id.as_ref())?;
        let how = match Action::try_from(request.action) {
            Ok(Action::Verify) => SetProgram::Verify,
            Ok(Action::VerifyAndSave) => SetProgram::Save,
            Ok(Action::VerifyAndCommit) => SetProgram::Replace,
            Ok(Action::Commit) => SetProgram::Commit,
            Ok(Action::ReconcileAndCommit) => SetProgram::Reconcile,
            Ok(Action::Unspecified) | Err(_) => {
                return Err(Status::invalid_argument(format!(
                    "there is no action {}",
                    request.action
                )));
            }
        };
        let service = Arc::clone(&self.0);
        let change = async move {
            let may = || service.may_write(&request.role, request.election_id.as_ref());
            service.engine.set_program(how, request.config, may).await
        };
        // What is begun is finished, also when the controller hangs up.
        let done = tokio::spawn(change).await;
        done.map_err(|panic| Status::internal(panic.to_string()))??;
        Ok(Response::new(v1::SetForwardingPipelineConfigResponse {}))
    }

    async fn get_forwarding_pipeline_config(
        &self,
        request: Request<v1::GetForwardingPipelineConfigRequest>,
    ) -> Result<Response<v1::GetForwardingPipelineConfigResponse>, Status> {
        let request = request.into_inner();
        self.0.of_device(request.device_id)?;
        let config = self.0.engine.config().await;
        let Some(mut config) = config else {
            return Ok(Response::new(v1::GetForwardingPipelineConfigResponse::default()));
        };
        match ResponseType::try_from(request.response_type) {
            Ok(ResponseType::All) => {}
            Ok(ResponseType::CookieOnly) => {
                config.p4info = None;
                config.p4_device_config = Vec::new();
            }
            Ok(ResponseType::P4infoAndCookie) => config.p4_device_config = Vec::new(),
            Ok(ResponseType::DeviceConfigAndCookie) => config.p4info = None,
            Err(_) => {
                return Err(Status::invalid_argument(format!(
                    "there is no response type {}",
                    request.response_type
                )));
            }
        }
        Ok(Response::new(v1::GetForwardingPipelineConfigResponse {
            config: Some(config),
        }))
    }

    async fn stream_channel(
        &self,
        request: Request<Streaming<v1::StreamMessageRequest>>,
    ) -> Result<Response<Self::StreamChannelStream>, Status> {
        let mut messages = request.into_inner();
        let (sender, answers) = mpsc::channel(WAITING);
        let service = Arc::clone(&self.0);
        let stream = service.enter();
        service.streams().senders.insert(stream, sender);
        tokio::spawn(async move {
            // It ends with the controller's side, with its connection, or with what it should not have said.
            while let Ok(Some(message)) = messages.message().await {
                if let Err(status) = service.heard(stream, message).await {
                    let last = service.streams().senders.get(&stream).cloned();
                    if let Some(sender) = last {
                        // It may have gone already.
                        let _gone = sender.send(Err(status)).await;
                    }
                    break;
                }
            }
            service.leave(stream);
        });
        Ok(Response::new(ReceiverStream::new(answers)))
    }

    async fn capabilities(
        &self,
        _: Request<v1::CapabilitiesRequest>,
    ) -> Result<Response<v1::CapabilitiesResponse>, Status> {
        let mut answer = Response::new(v1::CapabilitiesResponse {
            p4runtime_api_version: "1.6.0".to_string(),
            ..Default::default()
        });
        let header = MetadataValue::from_static("1");
        answer.metadata_mut().insert(ends::HEADER, header);
        Ok(answer)
    }
}

impl Service {
    async fn heard(&self, stream: StreamId, message: v1::StreamMessageRequest) -> Result<(), Status> {
        match message.update {
            Some(Update::Arbitration(update)) => self.arbitrate(stream, update).await,
            Some(other) => {
                let details = match other {
                    Update::Packet(packet) => {
                        Some(v1::stream_error::Details::PacketOut(v1::PacketOutError {
                            packet_out: Some(packet),
                        }))
                    }
                    _ => None,
                };
                let error = v1::StreamError {
                    canonical_code: Code::Unimplemented as i32,
                    message: "this switch takes no packets and sends no digests".to_string(),
                    space: "portcullis-switch".to_string(),
                    details,
                    ..Default::default()
                };
                let message = v1::StreamMessageResponse {
                    update: Some(v1::stream_message_response::Update::Error(error)),
                };
                if let Some(sender) = self.streams().senders.get(&stream) {
                    // A controller that does not read is told no more.
                    let _full = sender.try_send(Ok(message));
                }
                Ok(())
            }
            None => Err(Status::invalid_argument("a message without an update")),
        }
    }

    async fn arbitrate(&self, stream: StreamId, update: v1::MasterArbitrationUpdate) -> Result<(), Status> {
        let role = update.role.map(|r| r.name).unwrap_or_default();
        let id = update.election_id.as_ref().map(number);
        let primary: Vec<Notice> = {
            let mut streams = self.streams();
            self.of_device(update.device_id)
                .map_err(|status| match streams.roles.knows(stream) {
                    true => Status::failed_precondition("a stream keeps the device that it began with"),
                    false => status,
                })?;
            let notices = streams
                .roles
                .arbitrate(stream, &role, id)
                .map_err(|why| match why {
                    Rejected::Taken => Status::invalid_argument(format!(
                        "election id {} of role \"{role}\" is used by another controller",
                        id.unwrap_or(0)
                    )),
                    Rejected::OtherRole => {
                        Status::failed_precondition("a stream keeps the role that it began with")
                    }
                })?;
            let (primary, others): (Vec<Notice>, Vec<Notice>) =
                notices.into_iter().partition(|t| t.is_primary);
            self.notify(&mut streams, &others);
            primary
        };
        if primary.is_empty() {
            return Ok(());
        }
        // Section 5.3: what the primary before has begun is finished first.
        self.engine.settled().await;
        let mut streams = self.streams();
        let still: Vec<Notice> = primary
            .into_iter()
            .filter(|notice| streams.roles.is_primary(notice.stream, &notice.role))
            .collect();
        self.notify(&mut streams, &still);
        Ok(())
    }
}
