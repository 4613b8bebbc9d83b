//! The service beside P4Runtime: the ports of the switch and what their NICs hold, for which P4Runtime has no call.

use std::sync::Arc;

use portcullis_nic::PortReport;
use portcullis_proto::switch::switch_service_server::{SwitchService, SwitchServiceServer};
use portcullis_proto::switch::{
    ListOffloadRequest, ListOffloadResponse, ListPortsRequest, ListPortsResponse, Nic, Port,
};
use tonic::{Request, Response, Status};

use crate::engine::Engine;
use crate::ports::PortSpec;

/// What the switch says of itself.
#[derive(Debug, Clone)]
pub struct SwitchInfo {
    /// The ports as they were configured; they do not change while the switch runs.
    ports: Vec<Port>,
    engine: Arc<Engine>,
}

impl SwitchInfo {
    /// The service as tonic takes it.
    pub fn server(ports: &[PortSpec], engine: Arc<Engine>) -> SwitchServiceServer<SwitchInfo> {
        SwitchServiceServer::new(SwitchInfo {
            ports: ports.iter().map(port).collect(),
            engine,
        })
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

fn nic(report: PortReport) -> Nic {
    let PortReport {
        port,
        driver,
        off,
        takes,
        refused,
        untrue,
        installed,
        wanted,
        is_full,
        moves,
        fault,
    } = report;
    Nic {
        port: port.into(),
        driver,
        off,
        takes,
        refused,
        untrue,
        installed: installed as u64,
        wanted: wanted as u64,
        is_full,
        fault,
        created: moves.created,
        destroyed: moves.destroyed,
        refusals: moves.refused,
        replaced: moves.replaced,
        resets: moves.resets,
    }
}

#[tonic::async_trait]
impl SwitchService for SwitchInfo {
    async fn list_ports(&self, _: Request<ListPortsRequest>) -> Result<Response<ListPortsResponse>, Status> {
        Ok(Response::new(ListPortsResponse {
            ports: self.ports.clone(),
        }))
    }

    async fn list_offload(
        &self,
        _: Request<ListOffloadRequest>,
    ) -> Result<Response<ListOffloadResponse>, Status> {
        let Some(nics) = self.engine.nics() else {
            return Ok(Response::new(ListOffloadResponse::default()));
        };
        let (ports, rows) = nics.report();
        Ok(Response::new(ListOffloadResponse {
            nics: ports.into_iter().map(nic).collect(),
            rows: self.engine.offloaded(rows).await,
        }))
    }
}
