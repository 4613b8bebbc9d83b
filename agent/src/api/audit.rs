//! AuditService: list, verify, export.

use std::pin::Pin;

use portcullis_proto::v1;
use portcullis_proto::v1::audit_service_server::AuditService;
use tokio_stream::Stream;
use tonic::{Request, Response, Status};

use super::status::ApiError;
use super::{Api, blocking};
use crate::store::{LONGEST_WORD, Listed, Missing, StoreError, Wanted, hex};

const DEFAULT_PAGE: u32 = 100;
const LARGEST_PAGE: u32 = 1000;
/// Entries that an export reads at a time.
const CHUNK: usize = 1000;
/// Bytes of entries that an export reads at a time.
const EXPORT_BYTES: usize = 1 << 20;

fn out(listed: Listed) -> v1::AuditEntry {
    let entry = listed.entry;
    v1::AuditEntry {
        number: listed.number,
        at_ms: entry.at_ms,
        actor: entry.actor,
        role: entry.role,
        action: entry.action,
        subject: entry.subject,
        detail: entry.detail,
        generation: entry.generation,
        hash: listed.hash,
        previous_hash: listed.previous,
        cut: listed.cut,
    }
}

/// A filter no longer than what it is compared with.
fn filter(path: &str, text: String) -> Result<String, ApiError> {
    if text.len() > LONGEST_WORD {
        let problem = format!("is longer than {LONGEST_WORD} bytes, which no entry has");
        return Err(ApiError::field(path, problem));
    }
    Ok(text)
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
            actor: filter("actor", request.actor)?,
            action: filter("action", request.action)?,
            subject: filter("subject", request.subject)?,
            limit: size + 1,
        };
        // As much as fits into an answer, which other fields share.
        let room = self.0.limits.message_bytes / 2;
        let engine = self.engine().clone();
        let read = move || engine.history()?.audit(&wanted, room);
        let (mut found, full) = blocking(read).await?.map_err(ApiError::from)?;
        let more = full || found.len() > size;
        found.truncate(size);
        let entries: Vec<v1::AuditEntry> = found.into_iter().map(out).collect();
        let last = entries.last().filter(|_| more);
        Ok(Response::new(v1::ListAuditResponse {
            next_after: last.map_or(0, |entry| entry.number),
            entries,
        }))
    }

    async fn verify_audit(
        &self,
        request: Request<v1::VerifyAuditRequest>,
    ) -> Result<Response<v1::VerifyAuditResponse>, Status> {
        let engine = self.engine().clone();
        let mut expected = vec![engine.audited()];
        match request.into_inner().expected.as_str() {
            "" => {}
            text => expected.push(
                text.parse()
                    .map_err(|problem: String| ApiError::field("expected", problem))?,
            ),
        }
        let kept = expected.get(1).copied();
        let missing = engine.health().audit;
        let verdict = blocking(move || engine.history()?.verify_audit(&expected)).await?;
        let mut verdict = verdict.map_err(ApiError::from)?;
        if let Some(kept) = kept.filter(|kept| kept.number < verdict.archived) {
            let problem = format!(
                "entry {} is in a file: the entries `audit.archive` of the log name it",
                kept.number
            );
            return Err(ApiError::field("expected", problem).into());
        }
        if let (None, Some(Missing { number, problem, .. })) = (&verdict.broken, missing) {
            verdict.broken = Some((number, problem));
        }
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
            archived: verdict.archived,
        }))
    }

    type ExportAuditStream = Pin<Box<dyn Stream<Item = Result<v1::AuditEntry, Status>> + Send>>;

    async fn export_audit(
        &self,
        request: Request<v1::ExportAuditRequest>,
    ) -> Result<Response<Self::ExportAuditStream>, Status> {
        let after = request.into_inner().after;
        let engine = self.engine().clone();
        let (to, entries) = tokio::sync::mpsc::channel(16);
        // It ends with its reader.
        tokio::task::spawn_blocking(move || {
            let export = || -> Result<(), StoreError> {
                let history = engine.history()?;
                let mut wanted = Wanted {
                    after,
                    limit: CHUNK,
                    ..Wanted::default()
                };
                loop {
                    let (found, _) = history.audit(&wanted, EXPORT_BYTES)?;
                    let Some(last) = found.last() else {
                        return Ok(());
                    };
                    wanted.after = last.number;
                    for listed in found {
                        if to.blocking_send(Ok(out(listed))).is_err() {
                            return Ok(());
                        }
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
