//! The gRPC API `portcullis.v1`. `convert` is the edge where wire types stop, `status` the one map from errors
//! to gRPC status.

mod accept;
mod audit;
mod budget;
mod bypass;
mod calls;
mod checkup;
mod convert;
mod explain;
mod hits;
mod listen;
mod offload;
mod page;
mod placement;
mod policy;
mod resources;
mod status;
mod target;
mod tls;
mod unlock_out;
mod unlocks;
mod watch;
mod watchers;
mod why_blocked;

use std::sync::Arc;

use governor::clock::DefaultClock;
use portcullis_proto::v1::audit_service_server::AuditServiceServer;
use portcullis_proto::v1::baseline_service_server::BaselineServiceServer;
use portcullis_proto::v1::bypass_service_server::BypassServiceServer;
use portcullis_proto::v1::endpoint_service_server::EndpointServiceServer;
use portcullis_proto::v1::policy_service_server::PolicyServiceServer;
use portcullis_proto::v1::profile_service_server::ProfileServiceServer;
use portcullis_proto::v1::target_service_server::TargetServiceServer;
use portcullis_proto::v1::unlock_service_server::UnlockServiceServer;
use tokio_util::sync::CancellationToken;
use tonic::service::Routes;
use tonic::{Request, Response, Status};

pub use accept::Accept;
pub use calls::Calls;
pub use listen::{ListenError, Listeners, SocketFile, listen, server};
pub use status::ApiError;
pub use tls::{Certificates, TlsError, incoming};

use self::budget::Budget;
use self::watchers::{WatchSlot, Watchers};
use crate::access::{Access, Caller};
use crate::config::{Limits, Provisioner};
use crate::engine::Engine;
use crate::targets::Targets;

/// What a method answers.
type GrpcResult<T> = Result<Response<T>, Status>;

/// What every service works with.
#[derive(Debug, Clone)]
pub struct Api(Arc<ApiInner>);

#[derive(Debug)]
struct ApiInner {
    engine: Engine,
    targets: Targets,
    limits: Limits,
    watchers: Arc<Watchers>,
    budget: Budget,
    tenant_label: Arc<str>,
    access: Access,
    stopping: CancellationToken,
}

impl Api {
    /// `stopping` ends the calls that would go on for long.
    /// `tenant_label` is the label that names an endpoint's tenant, `access` who may do what.
    pub fn new(
        engine: Engine,
        targets: Targets,
        limits: Limits,
        tenant_label: &str,
        access: Access,
        stopping: CancellationToken,
    ) -> Self {
        let watchers = Arc::new(Watchers::new(&limits));
        Api(Arc::new(ApiInner {
            engine,
            targets,
            limits,
            watchers,
            budget: Budget::new(limits.tenant_requests, DefaultClock::default()),
            tenant_label: tenant_label.into(),
            access,
            stopping,
        }))
    }

    fn engine(&self) -> &Engine {
        &self.0.engine
    }

    fn stopping(&self) -> &CancellationToken {
        &self.0.stopping
    }

    /// A place among those who watch.
    fn watcher(&self, caller: &Caller) -> Result<WatchSlot, ApiError> {
        self.0.watchers.place(caller)
    }

    /// What provisioners may set of an endpoint.
    fn provisioner(&self) -> Provisioner {
        self.0.access.provisioner()
    }

    fn access(&self) -> &Access {
        &self.0.access
    }

    fn targets(&self) -> &Targets {
        &self.0.targets
    }

    /// Every service, with health and reflection beside them.
    pub fn routes(&self, health: impl Fn(&mut Routes)) -> Result<Routes, ListenError> {
        let size = self.0.limits.message_bytes;
        macro_rules! sized {
            ($server:ident) => {
                $server::new(self.clone())
                    .max_decoding_message_size(size)
                    .max_encoding_message_size(size)
            };
        }
        let reflection = tonic_reflection::server::Builder::configure()
            .register_encoded_file_descriptor_set(portcullis_proto::DESCRIPTORS)
            .register_encoded_file_descriptor_set(tonic_health::pb::FILE_DESCRIPTOR_SET)
            .build_v1()
            .map_err(ListenError::Reflection)?;
        let mut routes = Routes::new(sized!(BaselineServiceServer))
            .add_service(sized!(ProfileServiceServer))
            .add_service(sized!(EndpointServiceServer))
            .add_service(sized!(PolicyServiceServer))
            .add_service(sized!(TargetServiceServer))
            .add_service(sized!(UnlockServiceServer))
            .add_service(sized!(BypassServiceServer))
            .add_service(sized!(AuditServiceServer))
            .add_service(reflection);
        health(&mut routes);
        Ok(routes)
    }
}

fn caller<T>(request: &Request<T>) -> Result<Caller, ApiError> {
    // The guard puts it there; a service behind none serves nobody.
    let caller = request.extensions().get::<Caller>();
    caller.cloned().ok_or(ApiError::Lost)
}

/// Runs what takes long away from the threads that serve calls.
async fn blocking<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> Result<T, ApiError> {
    tokio::task::spawn_blocking(work).await.map_err(|error| {
        tracing::error!(%error, "a call ended without an answer");
        ApiError::Lost
    })
}
