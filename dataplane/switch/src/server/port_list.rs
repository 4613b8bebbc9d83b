//! The service beside P4Runtime: the ports of the switch, for which P4Runtime has no call.

use portcullis_proto::switch::switch_service_server::{SwitchService, SwitchServiceServer};
use portcullis_proto::switch::{ListPortsRequest, ListPortsResponse, Port};
use tonic::{Request, Response, Status};

use crate::ports::PortSpec;

/// The ports as they were configured; they do not change while the switch runs.
#[derive(Debug, Clone)]
pub struct PortList(Vec<Port>);

impl PortList {
    /// The list as tonic takes it.
    pub fn server(ports: &[PortSpec]) -> SwitchServiceServer<PortList> {
        SwitchServiceServer::new(PortList(ports.iter().map(port).collect()))
    }
}

fn port(spec: &PortSpec) -> Port {
    let (kind, device) = spec.kind.parts();
    Port {
        number: spec.number.into(),
        kind: kind.to_string(),
        device,
    }
}

#[tonic::async_trait]
impl SwitchService for PortList {
    async fn list_ports(&self, _: Request<ListPortsRequest>) -> Result<Response<ListPortsResponse>, Status> {
        Ok(Response::new(ListPortsResponse {
            ports: self.0.clone(),
        }))
    }
}
