//! The document as a whole: apply, read back, plan. Explaining is in [`explain`](super::explain).

use std::sync::Arc;
use std::time::Duration;

use portcullis_backend::{Plan, TargetHandle};
use portcullis_policy::{Document, Finding, findings};
use portcullis_proto::v1;
use portcullis_proto::v1::policy_service_server::PolicyService;
use portcullis_unlock::ledger::Unlock;
use tonic::{Request, Response, Status};

use super::status::ApiError;
use super::{Api, blocking, caller, explain};
use crate::engine::{Base, Baseline, ChangeError, Edit, Who, merge, preview};
use crate::store::{Change, Key};

/// How long a target may take to plan.
const PLAN_TIMEOUT: Duration = Duration::from_secs(30);

/// Parses a document; the edit depends on what is there when it is made.
fn parse(
    text: &str,
    merges: bool,
    allow_empty: bool,
) -> Result<impl FnOnce(&Document) -> Result<Edit, ChangeError> + Send + use<>, ApiError> {
    let (mut document, fields) = Document::parse(text).map_err(ChangeError::Document)?;
    Ok(move |current: &Document| {
        if merges {
            let merged = merge(current, document, &fields);
            if !allow_empty {
                Baseline::must_not_clear(current, &merged.mandatory, &merged.baseline)?;
            }
            return Ok(Edit::Document(merged));
        }
        if document.is_empty() && !current.is_empty() && !allow_empty {
            return Err(ChangeError::EmptyOverFull {
                profiles: current.profiles.len(),
                endpoints: current.endpoints.len(),
                rules: current.mandatory.len() + current.baseline.len(),
            });
        }
        if !allow_empty
            && let Err(cleared) = Baseline::must_not_clear(current, &document.mandatory, &document.baseline)
        {
            // What is wrong with a field comes first.
            document.tenant_label = Arc::clone(&current.tenant_label);
            document.validate()?;
            return Err(cleared);
        }
        Ok(Edit::Document(document))
    })
}

fn named(changes: &[(Change, Key)], wanted: Change) -> Vec<String> {
    changes
        .iter()
        .filter(|(change, _)| *change == wanted)
        .map(|(_, key)| key.to_string())
        .collect()
}

fn findings_out(found: Vec<Finding>) -> Vec<v1::Finding> {
    found
        .into_iter()
        .map(|f| v1::Finding {
            at: f.at,
            text: f.text,
            kind: f.kind.to_string(),
            by: f.by,
        })
        .collect()
}

fn applied(
    generation: u64,
    changes: &[(Change, Key)],
    found: Vec<Finding>,
) -> Response<v1::ApplyDocumentResponse> {
    Response::new(v1::ApplyDocumentResponse {
        generation,
        created: named(changes, Change::Created),
        changed: named(changes, Change::Changed),
        deleted: named(changes, Change::Deleted),
        findings: findings_out(found),
    })
}

fn target_plan(target: &TargetHandle, plan: Result<Plan, String>, rows: bool) -> v1::TargetPlan {
    let (plan, unavailable) = match plan {
        Ok(plan) => (plan, String::new()),
        Err(why) => (Plan::default(), why),
    };
    let tables = plan.tables.into_iter().map(|t| v1::TablePlan {
        table: t.table,
        now: t.now,
        add: t.add,
        change: t.change,
        delete: t.delete,
        size: t.size.unwrap_or(0),
    });
    v1::TargetPlan {
        target: target.name().to_string(),
        tables: tables.collect(),
        rows: if rows { plan.rows } else { Vec::new() },
        unavailable,
        warnings: plan.warnings,
        leaves: plan.leaves,
        holds_again: plan.holds_again,
    }
}

async fn plan_on(
    target: TargetHandle,
    intent: Arc<portcullis_compiler::Intent>,
    rows: bool,
) -> v1::TargetPlan {
    let plan = match tokio::time::timeout(PLAN_TIMEOUT, target.plan(intent)).await {
        Ok(plan) => plan.map_err(|error| error.to_string()),
        Err(_) => Err(format!("no answer within {} s", PLAN_TIMEOUT.as_secs())),
    };
    target_plan(&target, plan, rows)
}

/// A grant that a change would close.
fn closes(unlock: &Unlock) -> v1::ClosedUnlock {
    v1::ClosedUnlock {
        id: unlock.id.to_string(),
        endpoint: unlock.endpoint.to_string(),
        program: unlock.program.to_string(),
        tenant: unlock.tenant.clone(),
        state: unlock.state.name().to_string(),
        reason: unlock.reason.clone(),
    }
}

#[tonic::async_trait]
impl PolicyService for Api {
    async fn apply_document(
        &self,
        request: Request<v1::ApplyDocumentRequest>,
    ) -> Result<Response<v1::ApplyDocumentResponse>, Status> {
        let by = Who::from(&caller(&request)?);
        let v1::ApplyDocumentRequest {
            document,
            merge,
            allow_empty,
            validate_only,
        } = request.into_inner();
        let edit = blocking(move || parse(&document, merge, allow_empty)).await??;
        if validate_only {
            let base: Base = self.engine().read(|state| state.base());
            let (limits, targets) = (self.0.limits, self.targets().handles().to_vec());
            let now = self.engine().now();
            let checked = move || -> Result<_, ChangeError> {
                let preview = preview(&base, edit(&base.document)?, &limits, &targets, &now)?;
                Ok(applied(
                    base.generation,
                    &preview.changes,
                    findings(&preview.document),
                ))
            };
            return Ok(blocking(checked).await?.map_err(ApiError::Change)?);
        }
        let outcome = self
            .engine()
            .change(by, move |state| edit(state.document()))
            .await
            .map_err(ApiError::Change)?;
        let document = Arc::clone(&outcome.document);
        let found = blocking(move || findings(&document)).await?;
        Ok(applied(outcome.generation, &outcome.changes, found))
    }

    async fn get_document(
        &self,
        _: Request<v1::GetDocumentRequest>,
    ) -> Result<Response<v1::GetDocumentResponse>, Status> {
        let base = self.engine().read(|state| state.base());
        let written = blocking(move || serde_saphyr::to_string(base.document.as_ref())).await?;
        let document = written.map_err(|error| ApiError::Yaml(error.to_string()))?;
        Ok(Response::new(v1::GetDocumentResponse {
            document,
            generation: base.generation,
        }))
    }

    async fn plan(&self, request: Request<v1::PlanRequest>) -> Result<Response<v1::PlanResponse>, Status> {
        let v1::PlanRequest {
            document,
            merge,
            rows,
        } = request.into_inner();
        let base = self.engine().read(|state| state.base());
        let classes_now = base.intent.classes.len();
        let (limits, now) = (self.0.limits, self.engine().now());
        let made = move || -> Result<_, ApiError> {
            // What a plan shows of an empty document is what --allow-empty would do.
            let edit = parse(&document, merge, true)?(&base.document)?;
            let preview = preview(&base, edit, &limits, &[], &now)?;
            let found = findings(&preview.document);
            Ok((preview, found))
        };
        let (preview, found) = blocking(made).await??;
        let mut targets = Vec::new();
        for target in self.targets().handles() {
            targets.push(tokio::spawn(plan_on(
                target.clone(),
                Arc::clone(&preview.intent),
                rows,
            )));
        }
        let bypasses = self.bypasses().into_iter();
        let stay = bypasses.filter(|b| preview.document.endpoints.contains_key(b.endpoint.as_str()));
        let mut response = v1::PlanResponse {
            created: named(&preview.changes, Change::Created),
            changed: named(&preview.changes, Change::Changed),
            deleted: named(&preview.changes, Change::Deleted),
            findings: findings_out(found),
            targets: Vec::new(),
            classes_now: u32::try_from(classes_now).unwrap_or(u32::MAX),
            classes_after: u32::try_from(preview.intent.classes.len()).unwrap_or(u32::MAX),
            bypasses: stay.collect(),
            closes: preview.closed.iter().map(|unlock| closes(unlock)).collect(),
        };
        for target in targets {
            response.targets.push(target.await.map_err(|_| ApiError::Lost)?);
        }
        Ok(Response::new(response))
    }

    async fn explain(
        &self,
        request: Request<v1::ExplainRequest>,
    ) -> Result<Response<v1::ExplainResponse>, Status> {
        let caller = caller(&request)?;
        Ok(Response::new(
            explain::explain(self, &caller, request.into_inner()).await?,
        ))
    }
}
