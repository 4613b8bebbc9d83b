//! The audit log, read.

use std::pin::Pin;

use portcullis_proto::v1;
use portcullis_proto::v1::audit_service_server::AuditService;
use tokio_stream::Stream;
use tonic::{Request, Response, Status};

use super::status::ApiError;
use super::{Api, blocking};
use crate::store::{Logged, StoreError, Wanted};

const DEFAULT_PAGE: u32 = 100;
const LARGEST_PAGE: u32 = 1000;
/// Entries that an export reads at a time.
const CHUNK: usize = 1000;

fn hex(hash: &[u8; 32]) -> String {
    hash.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn out(logged: Logged, previous: &[u8; 32]) -> v1::AuditEntry {
    let entry = logged.entry;
    v1::AuditEntry {
        number: logged.number,
        at_ms: entry.at_ms,
        actor: entry.actor,
        role: entry.role,
        action: entry.action,
        subject: entry.subject,
        detail: entry.detail,
        generation: entry.generation,
        hash: hex(&logged.hash),
        previous_hash: hex(previous),
    }
}

#[tonic::async_trait]
impl AuditService for Api {
    async fn list_audit(
        &self,
        request: Request<v1::ListAuditRequest>,
    ) -> Result<Response<v1::ListAuditResponse>, Status> {
        let request = request.into_inner();
        let size = match request.page_size {
            0 => DEFAULT_PAGE,
            size => size.min(LARGEST_PAGE),
        } as usize;
        let wanted = Wanted {
            after: request.after,
            newest_first: request.newest_first,
            actor: request.actor,
            action: request.action,
            subject: request.subject,
            limit: size + 1,
        };
        let engine = self.engine().clone();
        let read = move || -> Result<_, StoreError> {
            let history = engine.history()?;
            let found = history.audit(&wanted)?;
            let previous = |logged: &Logged| history.audit_hash(logged.number.saturating_sub(1));
            let previous: Result<Vec<[u8; 32]>, StoreError> = found.iter().map(previous).collect();
            Ok((found, previous?))
        };
        let (found, previous) = blocking(read).await?.map_err(ApiError::from)?;
        let more = found.len() > size;
        let entries: Vec<v1::AuditEntry> = found
            .into_iter()
            .zip(&previous)
            .take(size)
            .map(|(logged, before)| out(logged, before))
            .collect();
        let last = entries.last().filter(|_| more);
        Ok(Response::new(v1::ListAuditResponse {
            next_after: last.map_or(0, |entry| entry.number),
            entries,
        }))
    }

    async fn verify_audit(
        &self,
        _: Request<v1::VerifyAuditRequest>,
    ) -> Result<Response<v1::VerifyAuditResponse>, Status> {
        let engine = self.engine().clone();
        let expected = engine.audited();
        let verdict = blocking(move || engine.history()?.verify_audit(expected)).await?;
        let verdict = verdict.map_err(ApiError::from)?;
        let (broken_at, problem) = verdict.broken.unwrap_or_default();
        if broken_at > 0 {
            tracing::error!(entry = broken_at, problem, "the audit log was tampered with");
        }
        Ok(Response::new(v1::VerifyAuditResponse {
            intact: broken_at == 0,
            entries: verdict.entries,
            broken_at,
            problem,
            head: hex(&verdict.head),
        }))
    }

    type ExportAuditStream = Pin<Box<dyn Stream<Item = Result<v1::AuditEntry, Status>> + Send>>;

    async fn export_audit(
        &self,
        request: Request<v1::ExportAuditRequest>,
    ) -> Result<Response<Self::ExportAuditStream>, Status> {
        let after = request.into_inner().after;
        let engine = self.engine().clone();
        let (to, entries) = tokio::sync::mpsc::channel(CHUNK);
        // It ends with its reader.
        tokio::task::spawn_blocking(move || {
            let export = || -> Result<(), StoreError> {
                let history = engine.history()?;
                let mut wanted = Wanted {
                    after,
                    limit: CHUNK,
                    ..Wanted::default()
                };
                let mut before = history.audit_hash(after)?;
                loop {
                    let found = history.audit(&wanted)?;
                    let Some(last) = found.last() else {
                        return Ok(());
                    };
                    wanted.after = last.number;
                    for logged in found {
                        let hash = logged.hash;
                        if to.blocking_send(Ok(out(logged, &before))).is_err() {
                            return Ok(());
                        }
                        before = hash;
                    }
                }
            };
            if let Err(error) = export() {
                // The reader may be gone.
                drop(to.blocking_send(Err(ApiError::from(error).into())));
            }
        });
        Ok(Response::new(Box::pin(
            tokio_stream::wrappers::ReceiverStream::new(entries),
        )))
    }
}
