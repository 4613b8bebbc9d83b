//! TargetService: status, hits, waiting for a generation.

use std::time::Duration;

use portcullis_backend::{Hit, QueryError, TargetHandle, TargetStatus};
use portcullis_proto::v1;
use portcullis_proto::v1::target_service_server::TargetService;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status};

use super::hits::{self, Asker};
use super::status::ApiError;
use super::{Api, caller, checkup, convert, offload, placement, watch};
use crate::access::ReadingReport;
use crate::engine::StoreHealth;

/// How long a target may take to count.
const HITS_TIMEOUT: Duration = Duration::from_secs(10);
/// Endpoints that are named with a hit.
const NAMED: usize = 16;
const DEFAULT_WAIT: u32 = 30_000;
const LONGEST_WAIT: u32 = 600_000;

/// How the database stands.
fn store_out(health: StoreHealth) -> v1::StoreStatus {
    v1::StoreStatus {
        problem: health.problem,
        journal_problem: health.journal,
        waiting: health.waiting,
        unusable: health.unusable,
        audit_problem: health.audit.map_or_else(String::new, |missing| missing.problem),
    }
}

/// How the last reading of `[access]` went.
fn access_out(report: ReadingReport) -> v1::AccessStatus {
    v1::AccessStatus {
        problem: report.problem,
        needs_restart: report.restart,
        certificates_problem: report.certificates,
        keys_problem: report.keys,
    }
}

/// The use of each table.
pub(super) fn tables_out(status: &TargetStatus) -> Vec<v1::TableUse> {
    let tables = status.tables.iter();
    tables
        .map(|t| v1::TableUse {
            table: t.table.clone(),
            number: t.number.unwrap_or(0),
            rows: t.rows,
            size: t.size.unwrap_or(0),
            reserve: t.reserve,
        })
        .collect()
}

pub(super) fn target_out(target: &TargetHandle, status: &TargetStatus) -> v1::Target {
    let [rows_added, rows_changed, rows_deleted] = status.writes;
    v1::Target {
        name: target.name().to_string(),
        kind: target.kind().to_string(),
        versions: status.versions.clone().into_iter().collect(),
        state: status.state.to_string(),
        detail: status.detail.clone(),
        generation_wanted: status.wanted,
        generation_applied: status.applied,
        tables: tables_out(status),
        foreign_rows: status.foreign_rows,
        endpoints_realized: status.realized,
        pending: status
            .pending
            .iter()
            .map(|p| v1::Pending {
                endpoint: p.endpoint.clone(),
                why: p.why.clone(),
            })
            .collect(),
        unsupported: status
            .unsupported
            .iter()
            .map(|u| v1::Unsupported {
                rule: u.rule.clone(),
                table: u.table.clone(),
                why: u.why.clone(),
            })
            .collect(),
        rows_added,
        rows_changed,
        rows_deleted,
        drift_repaired: status.drift_repaired,
        disconnects: status.disconnects,
        left_over_rows: status.left_over_rows,
        exposures: status
            .exposures
            .iter()
            .map(|e| v1::Exposure {
                cause: e.cause.clone(),
                what: e.what.clone(),
                remedy: e.remedy.clone(),
                open: e.open,
            })
            .collect(),
        open_millis: status.open_millis.clone().into_iter().collect(),
        generation_confirmed: status.confirmed,
    }
}

fn hit_out(target: &str, hit: Hit) -> v1::Hit {
    v1::Hit {
        target: target.to_string(),
        direction: convert::direction_out(hit.direction).into(),
        rule: hit.rule,
        class: hit.class.unwrap_or(0),
        endpoint_count: u32::try_from(hit.endpoints.len()).unwrap_or(u32::MAX),
        endpoints: hit.endpoints.into_iter().take(NAMED).collect(),
        action: hit.action,
        packets: hit.packets,
        bytes: hit.bytes,
    }
}

async fn hits_of(target: TargetHandle) -> (String, Result<Vec<Hit>, String>) {
    let hits = match tokio::time::timeout(HITS_TIMEOUT, target.hits()).await {
        Ok(hits) => hits.map_err(|error: QueryError| error.to_string()),
        Err(_) => Err(format!("no answer within {} s", HITS_TIMEOUT.as_secs())),
    };
    (target.name().to_string(), hits)
}

#[tonic::async_trait]
impl TargetService for Api {
    async fn list_targets(
        &self,
        _: Request<v1::ListTargetsRequest>,
    ) -> Result<Response<v1::ListTargetsResponse>, Status> {
        let generation = self.engine().read(|state| state.generation());
        let targets = self
            .targets()
            .handles()
            .iter()
            .map(|t| target_out(t, &t.status()))
            .collect();
        Ok(Response::new(v1::ListTargetsResponse {
            targets,
            generation,
            store: Some(store_out(self.engine().health())),
            bypasses: self.bypasses(),
            access: Some(access_out(self.access().report())),
        }))
    }

    async fn list_hits(
        &self,
        request: Request<v1::ListHitsRequest>,
    ) -> Result<Response<v1::ListHitsResponse>, Status> {
        let wanted = match request.into_inner().endpoint.as_str() {
            "" => None,
            text => {
                let name = convert::name("endpoint", text)?;
                Some(Asker::new(&self.engine().read(|state| state.base()), name)?)
            }
        };
        let asked: Vec<_> = self
            .targets()
            .handles()
            .iter()
            .map(|t| tokio::spawn(hits_of(t.clone())))
            .collect();
        let mut response = v1::ListHitsResponse::default();
        for answer in asked {
            let (target, hits) = answer.await.map_err(|_| ApiError::Lost)?;
            match hits {
                Ok(hits) => {
                    let hits: Vec<Hit> = match &wanted {
                        Some(asker) => hits
                            .into_iter()
                            .filter(|hit| asker.concerns(hit))
                            .map(|hit| asker.named(hit))
                            .collect(),
                        None => hits,
                    };
                    let hits = hits::by_rule(hits);
                    response
                        .hits
                        .extend(hits.into_iter().map(|hit| hit_out(&target, hit)));
                }
                Err(why) => response.unavailable.push(v1::Unavailable { target, why }),
            }
        }
        Ok(Response::new(response))
    }

    async fn list_offload(
        &self,
        request: Request<v1::ListOffloadRequest>,
    ) -> Result<Response<v1::ListOffloadResponse>, Status> {
        let asker = match request.into_inner().endpoint.as_str() {
            "" => None,
            text => {
                let name = convert::name("endpoint", text)?;
                Some(Asker::new(&self.engine().read(|state| state.base()), name)?)
            }
        };
        let response = offload::list(self.targets().handles(), asker.as_ref()).await?;
        Ok(Response::new(response))
    }

    async fn list_target_checks(
        &self,
        _: Request<v1::ListTargetChecksRequest>,
    ) -> Result<Response<v1::ListTargetChecksResponse>, Status> {
        Ok(Response::new(checkup::list(self.targets().handles()).await?))
    }

    async fn get_placement(
        &self,
        request: Request<v1::GetPlacementRequest>,
    ) -> Result<Response<v1::GetPlacementResponse>, Status> {
        let base = self.engine().read(|state| state.base());
        let asker = match request.into_inner().endpoint.as_str() {
            "" => None,
            text => Some(Asker::new(&base, convert::name("endpoint", text)?)?),
        };
        let targets = self.targets().clone();
        let nics = placement::on_nics(targets.handles()).await;
        // It may wait for a check of a change that is under way.
        let placement = tokio::task::spawn_blocking(move || {
            placement::placement(&base.intent, targets.handles(), &nics, asker.as_ref())
        });
        Ok(Response::new(placement.await.map_err(|_| ApiError::Lost)?))
    }

    async fn wait_realized(
        &self,
        request: Request<v1::WaitRealizedRequest>,
    ) -> Result<Response<v1::WaitRealizedResponse>, Status> {
        let v1::WaitRealizedRequest {
            generation,
            timeout_ms,
        } = request.into_inner();
        let newest = self.engine().read(|state| state.generation());
        if generation > newest {
            let why = format!("the newest generation is {newest}");
            return Err(ApiError::OutOfRange {
                wanted: generation,
                why,
            }
            .into());
        }
        if timeout_ms > LONGEST_WAIT {
            let problem = format!("{timeout_ms} ms are too long: at most {LONGEST_WAIT}");
            return Err(ApiError::field("timeout_ms", problem).into());
        }
        let generation = if generation == 0 { newest } else { generation };
        let timeout = Duration::from_millis(if timeout_ms == 0 { DEFAULT_WAIT } else { timeout_ms }.into());
        let realized = tokio::select! {
            () = self.targets().realized(generation) => true,
            () = tokio::time::sleep(timeout) => false,
            () = self.0.stopping.cancelled() => return Err(ApiError::Stopping.into()),
        };
        let targets = self
            .targets()
            .handles()
            .iter()
            .map(|t| target_out(t, &t.status()))
            .collect();
        Ok(Response::new(v1::WaitRealizedResponse {
            realized,
            generation,
            targets,
            store: Some(store_out(self.engine().health())),
            bypasses: self.bypasses(),
        }))
    }

    type WatchStream = ReceiverStream<Result<v1::Event, Status>>;

    async fn watch(&self, request: Request<v1::WatchRequest>) -> Result<Response<Self::WatchStream>, Status> {
        let caller = caller(&request)?;
        Ok(Response::new(
            watch::watch(self, &caller, &request.into_inner()).await?,
        ))
    }
}
