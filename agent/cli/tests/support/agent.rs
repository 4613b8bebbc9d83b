//! An agent that answers what a test tells it, over a real socket, and remembers what it was asked.

use std::collections::VecDeque;
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard};

use portcullis_proto::v1::endpoint_service_server::{EndpointService, EndpointServiceServer};
use portcullis_proto::v1::policy_service_server::{PolicyService, PolicyServiceServer};
use portcullis_proto::v1::target_service_server::{TargetService, TargetServiceServer};
use portcullis_proto::v1::*;
use tokio_stream::wrappers::{TcpListenerStream, UnixListenerStream};
use tonic::transport::server::Router;
use tonic::transport::{Server, ServerTlsConfig};
use tonic::{Request, Response, Status};

type Answer<T> = Result<Response<T>, Status>;
/// The events of one stream, or why there is none.
pub type Stream = Result<Vec<Result<Event, Status>>, Status>;

/// What the agent answers and what it was asked.
#[derive(Debug, Default)]
pub struct State {
    pub apply: Option<Result<ApplyDocumentResponse, Status>>,
    pub targets: ListTargetsResponse,
    pub wait: Option<Result<WaitRealizedResponse, Status>>,
    pub streams: VecDeque<Stream>,
    pub endpoints: Vec<Endpoint>,
    pub applies: Vec<ApplyDocumentRequest>,
    pub plans: Vec<PlanRequest>,
    pub explains: Vec<ExplainRequest>,
    pub waits: Vec<WaitRealizedRequest>,
    pub watches: Vec<WatchRequest>,
    pub lists: Vec<ListRequest>,
    pub provisions: Vec<Endpoint>,
}

/// A handle to it.
#[derive(Clone, Debug, Default)]
struct Fake(Arc<Mutex<State>>);

impl Fake {
    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().expect("not poisoned")
    }
}

/// A running agent; it ends with its handle.
pub struct Agent {
    fake: Fake,
    socket: PathBuf,
    port: u16,
    task: tokio::task::JoinHandle<()>,
    _folder: tempfile::TempDir,
}

impl Drop for Agent {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Agent {
    pub fn start(state: State) -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        let socket = folder.path().join("agent.sock");
        let listener = tokio::net::UnixListener::bind(&socket).expect("a socket");
        let fake = Fake(Arc::new(Mutex::new(state)));
        let server = serve(Server::builder(), &fake).serve_with_incoming(UnixListenerStream::new(listener));
        let task = tokio::spawn(async move { server.await.expect("a server") });
        Agent {
            fake,
            socket,
            port: 0,
            task,
            _folder: folder,
        }
    }

    pub async fn start_tls(state: State, tls: ServerTlsConfig) -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        let listener = tokio::net::TcpListener::bind("localhost:0")
            .await
            .expect("a port");
        let port = listener.local_addr().expect("an address").port();
        let fake = Fake(Arc::new(Mutex::new(state)));
        let builder = Server::builder().tls_config(tls).expect("TLS");
        let server = serve(builder, &fake).serve_with_incoming(TcpListenerStream::new(listener));
        let task = tokio::spawn(async move { server.await.expect("a server") });
        Agent {
            fake,
            socket: PathBuf::new(),
            port,
            task,
            _folder: folder,
        }
    }

    pub fn port(&self) -> u16 {
        self.port
    }

    pub fn socket(&self) -> &Path {
        &self.socket
    }

    pub fn state(&self) -> MutexGuard<'_, State> {
        self.fake.state()
    }
}

fn serve(mut builder: Server, fake: &Fake) -> Router {
    builder
        .add_service(PolicyServiceServer::new(fake.clone()))
        .add_service(TargetServiceServer::new(fake.clone()))
        .add_service(EndpointServiceServer::new(fake.clone()))
}

fn missing<T>(what: &str) -> Answer<T> {
    Err(Status::internal(format!(
        "the test did not say what {what} answers"
    )))
}

#[tonic::async_trait]
impl PolicyService for Fake {
    async fn apply_document(&self, r: Request<ApplyDocumentRequest>) -> Answer<ApplyDocumentResponse> {
        let mut state = self.state();
        state.applies.push(r.into_inner());
        state
            .apply
            .clone()
            .map_or_else(|| missing("apply"), |a| a.map(Response::new))
    }
    async fn get_document(&self, _: Request<GetDocumentRequest>) -> Answer<GetDocumentResponse> {
        let document = "version: portcullis/v1\ndefaults:\n  egress: allow\n".to_string();
        Ok(Response::new(GetDocumentResponse {
            document,
            generation: 7,
        }))
    }
    async fn plan(&self, r: Request<PlanRequest>) -> Answer<PlanResponse> {
        self.state().plans.push(r.into_inner());
        Ok(Response::new(super::messages::plan()))
    }
    async fn explain(&self, r: Request<ExplainRequest>) -> Answer<ExplainResponse> {
        self.state().explains.push(r.into_inner());
        Ok(Response::new(super::messages::explained()))
    }
}

#[tonic::async_trait]
impl TargetService for Fake {
    type WatchStream = Pin<Box<dyn tokio_stream::Stream<Item = Result<Event, Status>> + Send>>;

    async fn list_targets(&self, _: Request<ListTargetsRequest>) -> Answer<ListTargetsResponse> {
        Ok(Response::new(self.state().targets.clone()))
    }
    async fn list_hits(&self, _: Request<ListHitsRequest>) -> Answer<ListHitsResponse> {
        Ok(Response::new(super::messages::hits()))
    }
    async fn list_offload(&self, _: Request<ListOffloadRequest>) -> Answer<ListOffloadResponse> {
        Ok(Response::new(super::messages::offload()))
    }
    async fn list_target_checks(
        &self,
        _: Request<ListTargetChecksRequest>,
    ) -> Answer<ListTargetChecksResponse> {
        Ok(Response::new(super::messages::checks()))
    }
    async fn get_placement(&self, _: Request<GetPlacementRequest>) -> Answer<GetPlacementResponse> {
        Ok(Response::new(super::messages::placement()))
    }
    async fn wait_realized(&self, r: Request<WaitRealizedRequest>) -> Answer<WaitRealizedResponse> {
        let mut state = self.state();
        state.waits.push(r.into_inner());
        state
            .wait
            .clone()
            .map_or_else(|| missing("wait"), |a| a.map(Response::new))
    }
    async fn watch(&self, r: Request<WatchRequest>) -> Answer<Self::WatchStream> {
        let mut state = self.state();
        state.watches.push(r.into_inner());
        let events = state
            .streams
            .pop_front()
            .unwrap_or_else(|| Err(Status::out_of_range("the test is over")))?;
        Ok(Response::new(Box::pin(tokio_stream::iter(events))))
    }
}

#[tonic::async_trait]
impl EndpointService for Fake {
    async fn create_endpoint(&self, _: Request<CreateEndpointRequest>) -> Answer<Committed> {
        missing("create")
    }
    async fn get_endpoint(&self, r: Request<GetRequest>) -> Answer<Endpoint> {
        let name = r.into_inner().name;
        let found = self.state().endpoints.iter().find(|e| e.name == name).cloned();
        found
            .map(Response::new)
            .ok_or_else(|| Status::not_found(format!("there is no endpoint `{name}`")))
    }
    /// Two to a page, however many are asked for.
    async fn list_endpoints(&self, r: Request<ListRequest>) -> Answer<ListEndpointsResponse> {
        let request = r.into_inner();
        let mut state = self.state();
        let from: usize = request.page_token.parse().unwrap_or(0);
        state.lists.push(request);
        let endpoints: Vec<Endpoint> = state.endpoints.iter().skip(from).take(2).cloned().collect();
        let next = from + endpoints.len();
        let next_page_token = if next < state.endpoints.len() {
            next.to_string()
        } else {
            String::new()
        };
        Ok(Response::new(ListEndpointsResponse {
            endpoints,
            next_page_token,
        }))
    }
    async fn update_endpoint(&self, _: Request<UpdateEndpointRequest>) -> Answer<Committed> {
        missing("update")
    }
    async fn delete_endpoint(&self, _: Request<DeleteRequest>) -> Answer<Committed> {
        missing("delete")
    }
    async fn provision(&self, r: Request<ProvisionRequest>) -> Answer<Committed> {
        self.state().provisions.extend(r.into_inner().endpoint);
        Ok(Response::new(Committed {
            generation: 8,
            etag: "e8".into(),
        }))
    }
    async fn release(&self, _: Request<ReleaseRequest>) -> Answer<Committed> {
        Ok(Response::new(Committed {
            generation: 9,
            etag: String::new(),
        }))
    }
}
