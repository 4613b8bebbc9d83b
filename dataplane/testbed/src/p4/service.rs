//! The calls of P4Runtime.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use portcullis_proto::google::rpc;
use portcullis_proto::p4::v1;
use prost::Message;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Code, Request, Response, Status, Streaming};
use v1::entity::Entity;
use v1::get_forwarding_pipeline_config_request::ResponseType;
use v1::p4_runtime_server::P4Runtime;
use v1::set_forwarding_pipeline_config_request::Action;

use super::{Controller, Shared, State, lock};

/// Takes one away, when there is one.
fn one_less(count: &AtomicU64) -> bool {
    count
        .fetch_update(Ordering::Relaxed, Ordering::Relaxed, |n| n.checked_sub(1))
        .is_ok()
}

pub(super) struct Service {
    pub shared: Arc<Shared>,
}

impl Service {
    async fn faults(&self) {
        let faults = &self.shared.faults;
        let delay = faults.delay_ms.load(Ordering::Relaxed);
        if delay > 0 {
            tokio::time::sleep(Duration::from_millis(delay)).await;
        }
        while faults.deaf.load(Ordering::Relaxed) {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    fn only_primary(&self, role: &str, id: Option<&v1::Uint128>) -> Result<(), Status> {
        let id = id.map_or(0, |id| u128::from(id.high) << 64 | u128::from(id.low));
        if id == self.shared.primary(role) && id != 0 {
            Ok(())
        } else {
            Err(Status::permission_denied(format!(
                "not the primary of role `{role}`"
            )))
        }
    }

    /// Whether the next update is to be refused, though nothing is wrong with it.
    fn refused(&self, at: usize) -> bool {
        let refuse = &self.shared.faults.refuse;
        at % 2 == 1 && one_less(refuse)
    }

    fn carry_out(&self, role: &str, mut updates: Vec<v1::Update>) -> Vec<v1::Error> {
        let mut errors = vec![v1::Error::default(); updates.len()];
        let mut order: Vec<usize> = (0..updates.len()).collect();
        if self.shared.faults.reversed.load(Ordering::Relaxed) {
            order.reverse();
        }
        let mut state = lock(&self.shared.state);
        let before = state.updates;
        for at in order {
            let (Some(update), Some(error)) = (updates.get_mut(at), errors.get_mut(at)) else {
                continue;
            };
            let result = if self.refused(at) {
                Err((Code::Internal, "refused for a test".to_string()))
            } else {
                state.update(std::mem::take(update))
            };
            if let Err((code, message)) = result {
                error.canonical_code = code as i32;
                error.message = message;
            }
            self.check(&state);
        }
        let carried_out = state.updates - before;
        *state.written.entry(role.to_string()).or_default() += carried_out;
        errors
    }

    fn check(&self, state: &State) {
        if let Some(check) = lock(&self.shared.check).as_ref()
            && let Err(why) = check(state)
        {
            lock(&self.shared.broken).push(why);
        }
    }

    fn entities(&self, asked: &v1::Entity) -> Result<Vec<v1::Entity>, Status> {
        let state = lock(&self.shared.state);
        let wrap = |entity| v1::Entity { entity: Some(entity) };
        match asked.entity.as_ref() {
            Some(Entity::TableEntry(entry)) => {
                let exactly = (!entry.r#match.is_empty())
                    .then(|| {
                        state
                            .check_match(entry)
                            .map_err(|(code, why)| Status::new(code, why))
                    })
                    .transpose()?;
                let wanted = |(place, e): &(&super::EntryKey, &v1::TableEntry)| {
                    (entry.table_id == 0 || entry.table_id == e.table_id)
                        && exactly.as_ref().is_none_or(|wanted| wanted == *place)
                };
                let old = self.shared.faults.old_metadata.load(Ordering::Relaxed);
                let mut list = Vec::new();
                for (_, found) in state.entries.iter().filter(wanted) {
                    let mut found = found.clone();
                    found.counter_data = entry.counter_data;
                    if old {
                        found.metadata.clear();
                    }
                    list.push(wrap(Entity::TableEntry(found)));
                }
                Ok(list)
            }
            Some(Entity::PacketReplicationEngineEntry(_)) => {
                if self.shared.faults.groups_unreadable.load(Ordering::Relaxed) {
                    return Err(Status::unimplemented("groups cannot be read"));
                }
                let group = |g: &v1::MulticastGroupEntry| {
                    let kind = v1::packet_replication_engine_entry::Type::MulticastGroupEntry(g.clone());
                    let entry = v1::PacketReplicationEngineEntry { r#type: Some(kind) };
                    wrap(Entity::PacketReplicationEngineEntry(entry))
                };
                Ok(state.groups.values().map(group).collect())
            }
            _ => Err(Status::unimplemented("only tables and groups")),
        }
    }
}

type Answers<T> = ReceiverStream<Result<T, Status>>;

#[tonic::async_trait]
impl P4Runtime for Service {
    type ReadStream = Answers<v1::ReadResponse>;
    type StreamChannelStream = Answers<v1::StreamMessageResponse>;

    async fn write(&self, request: Request<v1::WriteRequest>) -> Result<Response<v1::WriteResponse>, Status> {
        self.faults().await;
        let request = request.into_inner();
        self.only_primary(&request.role, request.election_id.as_ref())?;
        let errors = self.carry_out(&request.role, request.updates);
        if errors.iter().all(|e| e.canonical_code == 0) {
            return Ok(Response::new(v1::WriteResponse {}));
        }
        let details = errors
            .iter()
            .map(|e| prost_types::Any {
                type_url: "type.googleapis.com/p4.v1.Error".to_string(),
                value: e.encode_to_vec(),
            })
            .collect();
        let status = rpc::Status {
            code: Code::Unknown as i32,
            message: "some updates failed".to_string(),
            details,
        };
        Err(Status::with_details(
            Code::Unknown,
            "some updates failed",
            status.encode_to_vec().into(),
        ))
    }

    async fn read(&self, request: Request<v1::ReadRequest>) -> Result<Response<Self::ReadStream>, Status> {
        self.faults().await;
        let mut entities = Vec::new();
        for asked in &request.into_inner().entities {
            entities.extend(self.entities(asked)?);
        }
        let (send, answers) = mpsc::channel(4);
        tokio::spawn(async move {
            for part in entities.chunks(500) {
                let answer = v1::ReadResponse {
                    entities: part.to_vec(),
                };
                if send.send(Ok(answer)).await.is_err() {
                    return;
                }
            }
        });
        Ok(Response::new(ReceiverStream::new(answers)))
    }

    async fn set_forwarding_pipeline_config(
        &self,
        request: Request<v1::SetForwardingPipelineConfigRequest>,
    ) -> Result<Response<v1::SetForwardingPipelineConfigResponse>, Status> {
        self.faults().await;
        let request = request.into_inner();
        self.only_primary(&request.role, request.election_id.as_ref())?;
        let faults = &self.shared.faults;
        if one_less(&faults.busy) {
            return Err(Status::unavailable("busy with something else"));
        }
        let reconciles = faults.reconcile.load(Ordering::Relaxed);
        let mut state = lock(&self.shared.state);
        match Action::try_from(request.action) {
            Ok(Action::VerifyAndCommit) => {
                *state = State {
                    config: request.config,
                    pushes: state.pushes + 1,
                    reconciled: state.reconciled,
                    sizes: state.sizes.clone(),
                    ..State::default()
                };
            }
            Ok(Action::ReconcileAndCommit) if reconciles => {
                let reconciled = state.reconcile(request.config);
                reconciled.map_err(|(code, why)| Status::new(code, why))?;
                self.check(&state);
            }
            _ => return Err(Status::unimplemented("this action is not")),
        }
        Ok(Response::new(v1::SetForwardingPipelineConfigResponse {}))
    }

    async fn get_forwarding_pipeline_config(
        &self,
        request: Request<v1::GetForwardingPipelineConfigRequest>,
    ) -> Result<Response<v1::GetForwardingPipelineConfigResponse>, Status> {
        self.faults().await;
        let Some(mut config) = lock(&self.shared.state).config.clone() else {
            return Err(Status::failed_precondition("no pipeline was set"));
        };
        match ResponseType::try_from(request.into_inner().response_type) {
            Ok(ResponseType::CookieOnly) => {
                config.p4info = None;
                config.p4_device_config.clear();
            }
            Ok(ResponseType::P4infoAndCookie) => config.p4_device_config.clear(),
            Ok(ResponseType::DeviceConfigAndCookie) => config.p4info = None,
            Ok(ResponseType::All) | Err(_) => {}
        }
        let config = Some(config);
        Ok(Response::new(v1::GetForwardingPipelineConfigResponse { config }))
    }

    async fn stream_channel(
        &self,
        request: Request<Streaming<v1::StreamMessageRequest>>,
    ) -> Result<Response<Self::StreamChannelStream>, Status> {
        self.faults().await;
        let mut requests = request.into_inner();
        let (sender, answers) = mpsc::channel(16);
        let shared = Arc::clone(&self.shared);
        let number = shared.connections.fetch_add(1, Ordering::Relaxed) + 1;
        // Once it is registered, the way to a controller is the registry's alone: to forget it is to break the stream.
        let weak = sender.downgrade();
        let mut first = Some(sender);
        tokio::spawn(async move {
            let mut last: Option<String> = None;
            while let Ok(Some(message)) = requests.message().await {
                let Some(v1::stream_message_request::Update::Arbitration(update)) = message.update else {
                    continue;
                };
                let role = update.role.unwrap_or_default().name;
                let id = update.election_id.unwrap_or_default();
                let election_id = u128::from(id.high) << 64 | u128::from(id.low);
                let Some(sender) = first.take().or_else(|| weak.upgrade()) else {
                    break;
                };
                {
                    let mut controllers = lock(&shared.controllers);
                    controllers.retain(|c| c.number != number);
                    if controllers
                        .iter()
                        .any(|c| c.role == role && c.election_id == election_id)
                    {
                        // P4Runtime 1.6.0, section 5.3: an election id that is in use in this role.
                        let taken = Status::invalid_argument("the election id is in use");
                        let _gone = sender.try_send(Err(taken));
                        return;
                    }
                    controllers.push(Controller {
                        number,
                        role: role.clone(),
                        election_id,
                        sender,
                    });
                }
                shared.notify(&role);
                last = Some(role);
            }
            lock(&shared.controllers).retain(|c| c.number != number);
            if let Some(role) = last {
                shared.notify(&role);
            }
        });
        Ok(Response::new(ReceiverStream::new(answers)))
    }

    async fn capabilities(
        &self,
        _: Request<v1::CapabilitiesRequest>,
    ) -> Result<Response<v1::CapabilitiesResponse>, Status> {
        self.faults().await;
        let mut answer = Response::new(v1::CapabilitiesResponse {
            p4runtime_api_version: "1.6.0".to_string(),
            ..Default::default()
        });
        if self.shared.faults.keeps_ends.load(Ordering::Relaxed) {
            let header = tonic::metadata::MetadataValue::from_static("1");
            answer.metadata_mut().insert("portcullis-row-ends", header);
        }
        Ok(answer)
    }
}
