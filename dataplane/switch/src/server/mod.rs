//! The P4Runtime server: what [`Engine`] does, as calls of version 1.6.0; and beside it the list of ports.

mod calls;
pub mod roles;
mod switch_info;

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use portcullis_proto::google::rpc;
use portcullis_proto::p4::v1;
use tokio::sync::mpsc;
use tonic::{Code, Status};
use v1::p4_runtime_server::P4RuntimeServer;

use crate::engine::Engine;
use crate::entry::{Refusal, refuse};
use roles::{Notice, Roles, StreamId};

pub use switch_info::SwitchInfo;

/// Messages that may wait for a controller which does not read; with more it is disconnected.
const WAITING: usize = 256;
/// Largest message in bytes: a request with all rows of a large switch takes some tens of megabytes.
const LARGEST: usize = 256 << 20;

type Sender = mpsc::Sender<Result<v1::StreamMessageResponse, Status>>;

#[derive(Debug, Default)]
struct Streams {
    roles: Roles,
    senders: BTreeMap<StreamId, Sender>,
}

/// The P4Runtime service: roles of its streams, and the engine that writes and reads.
#[derive(Debug)]
pub struct Service {
    engine: Arc<Engine>,
    device_id: u64,
    streams: Mutex<Streams>,
    next: AtomicU64,
}

impl Service {
    /// A service for one device.
    pub fn new(engine: Arc<Engine>, device_id: u64) -> Arc<Service> {
        Arc::new(Service {
            engine,
            device_id,
            streams: Mutex::default(),
            next: AtomicU64::new(1),
        })
    }

    /// The service as tonic takes it, with the limit of message sizes.
    pub fn server(self: &Arc<Self>) -> P4RuntimeServer<calls::Calls> {
        P4RuntimeServer::new(calls::Calls(Arc::clone(self)))
            .max_decoding_message_size(LARGEST)
            .max_encoding_message_size(LARGEST)
    }

    fn streams(&self) -> std::sync::MutexGuard<'_, Streams> {
        self.streams.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn of_device(&self, id: u64) -> Result<(), Status> {
        if id == self.device_id {
            return Ok(());
        }
        Err(Status::not_found(format!(
            "there is no device {id} here: this one has id {}",
            self.device_id
        )))
    }

    fn may_write(&self, role: &str, election_id: Option<&v1::Uint128>) -> Result<(), Refusal> {
        let id = election_id.map_or(0, number);
        if self.streams().roles.may_write(role, id) {
            return Ok(());
        }
        refuse(
            Code::PermissionDenied,
            format!(
                "election id {id} is not the one of the primary of role \"{role}\": open a StreamChannel and be elected"
            ),
        )
    }

    fn enter(&self) -> StreamId {
        self.next.fetch_add(1, Ordering::Relaxed)
    }

    /// Sends each stream its arbitration update.
    fn notify(&self, streams: &mut Streams, notices: &[Notice]) {
        for one in notices {
            let update = v1::MasterArbitrationUpdate {
                device_id: self.device_id,
                role: (!one.role.is_empty()).then(|| v1::Role {
                    name: one.role.clone(),
                    ..Default::default()
                }),
                election_id: one.election_id.map(|id| v1::Uint128 {
                    high: (id >> 64) as u64,
                    low: id as u64,
                }),
                status: Some(standing(one)),
            };
            let message = v1::StreamMessageResponse {
                update: Some(v1::stream_message_response::Update::Arbitration(update)),
            };
            let sender = streams.senders.get(&one.stream);
            if sender.is_some_and(|sender| sender.try_send(Ok(message)).is_err()) {
                // It does not read, or is gone: its stream ends, and its seat is taken when that is seen.
                streams.senders.remove(&one.stream);
            }
        }
    }

    fn leave(&self, stream: StreamId) {
        let mut streams = self.streams();
        streams.senders.remove(&stream);
        let notices = streams.roles.leave(stream);
        self.notify(&mut streams, &notices);
    }
}

/// Section 5.3: OK for the primary, ALREADY_EXISTS for a backup, NOT_FOUND when there is no primary.
fn standing(notice: &Notice) -> rpc::Status {
    let (code, message) = match (notice.is_primary, notice.has_primary) {
        (true, _) => (Code::Ok, "primary"),
        (false, true) => (Code::AlreadyExists, "backup"),
        (false, false) => (Code::NotFound, "no primary"),
    };
    rpc::Status {
        code: code as i32,
        message: message.to_string(),
        details: Vec::new(),
    }
}

fn number(id: &v1::Uint128) -> u128 {
    u128::from(id.high) << 64 | u128::from(id.low)
}
