//! UnlockService: request, decide, renew, release, watch.

use std::collections::BTreeMap;
use std::pin::Pin;

use portcullis_policy::{Disclose, Document, Name};
use portcullis_proto::v1;
use portcullis_proto::v1::unlock_service_server::UnlockService;
use portcullis_unlock::evidence;
use portcullis_unlock::judge::undisclosed;
use portcullis_unlock::ledger::{
    Change as UnlockChange, Refusal as LedgerRefusal, Request as LedgerRequest, State as UnlockState, Unlock,
};
use sha2::{Digest, Sha256};
use tokio::sync::broadcast::error::RecvError;
use tokio_stream::Stream;
use tonic::{Request, Response, Status};

use super::convert;
use super::status::ApiError;
use super::unlock_out::{self, state_in};
use super::{Api, GrpcResult, blocking, caller, why_blocked};
use crate::access::{Caller, Role};
use crate::engine::{Draft, UnlockError, UnlockRequest, Who};
use crate::store::{IdempotencyKey, Key, Kind, Reach, WantedUnlocks};

/// Longest idempotency key and reason, in bytes.
const MAX_KEY: usize = 128;
const MAX_REASON: usize = 1024;
const DEFAULT_PAGE: u32 = 100;
const LARGEST_PAGE: u32 = 1000;

impl From<&Caller> for Who {
    fn from(caller: &Caller) -> Self {
        Who {
            name: caller.name.clone(),
            role: caller.role.as_str().to_string(),
            tenant: caller.tenant.clone().unwrap_or_default(),
        }
    }
}

fn not_found(kind: Kind, name: &str) -> ApiError {
    ApiError::NotFound(Key {
        kind,
        name: name.to_string(),
    })
}

/// A random id that cannot be guessed.
fn fresh_id() -> Result<Name, ApiError> {
    let mut bytes = [0u8; 10];
    getrandom::fill(&mut bytes).map_err(|error| {
        tracing::error!(%error, "the kernel gives no random numbers");
        ApiError::Lost
    })?;
    let digits: String = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
    format!("u-{digits}").parse().map_err(|_| ApiError::Lost)
}

/// A digest of what is asked, so that a repeated key with other content is found out.
fn digest(request: &v1::RequestUnlockRequest) -> [u8; 32] {
    let mut digest = Sha256::new();
    let mut field = |text: &str| {
        digest.update((text.len() as u64).to_be_bytes());
        digest.update(text.as_bytes());
    };
    field(&request.program);
    field(&request.endpoint);
    field(&request.lease_seconds.to_string());
    let sorted: BTreeMap<&String, &String> = request.evidence.iter().collect();
    for (name, value) in sorted {
        field(name);
        field(value);
    }
    digest.finalize().into()
}

/// Reads the evidence and takes the request in, under the policy that holds when it is made.
fn take(
    draft: &mut Draft<'_>,
    asked: &v1::RequestUnlockRequest,
    names: &(Name, Name, Name),
    tenant: &str,
    by: &str,
) -> Result<Vec<UnlockChange>, UnlockError> {
    let (id, program_name, endpoint) = names;
    let document: &Document = draft.document;
    let program = document.programs.get(program_name);
    let program = program.ok_or_else(|| LedgerRefusal::NoProgram(program_name.clone()))?;
    let submitted: BTreeMap<String, String> = asked
        .evidence
        .iter()
        .map(|(name, value)| (name.clone(), value.clone()))
        .collect();
    let read = evidence::parse(program, &submitted).map_err(UnlockError::Evidence)?;
    let opens = evidence::rules(program, program_name.as_str(), &read).map_err(UnlockError::Evidence)?;
    let request = LedgerRequest {
        id: id.clone(),
        program: program_name.clone(),
        endpoint: endpoint.clone(),
        tenant: tenant.to_string(),
        evidence: read,
        opens,
        lease_seconds: Some(asked.lease_seconds).filter(|seconds| *seconds > 0),
        by: by.to_string(),
    };
    let waits = draft.ledger.of_endpoint(endpoint.as_str());
    let waits = waits.filter(|u| u.program == *program_name && u.state == UnlockState::Requested);
    let waiting = waits.map(|unlock| unlock.id.clone()).next();
    let change = match waiting {
        Some(id) => draft.ledger.supply(&id, request, &draft.now)?,
        None => draft.ledger.request(document, request, &draft.now)?,
    };
    Ok(vec![change])
}

impl Api {
    /// The endpoint's tenant, if the caller may reach the endpoint.
    pub(super) fn reach(&self, caller: &Caller, endpoint: &str) -> Result<String, ApiError> {
        self.engine().read(|state| {
            let found = state.document().endpoints.get(endpoint);
            caller.may_reach(&format!("endpoints/{endpoint}"), found.map(|e| &e.labels))?;
            let found = found.ok_or_else(|| not_found(Kind::Endpoint, endpoint))?;
            Ok(found
                .labels
                .get(&*self.0.tenant_label)
                .cloned()
                .unwrap_or_default())
        })
    }

    /// An unlock that the caller may reach, whether it has ended or not.
    async fn reached(&self, caller: &Caller, id: &str) -> Result<Unlock, ApiError> {
        let live = self
            .engine()
            .read(|state| state.ledger().get(id).or_else(|| state.unstored(id)).cloned());
        let found = match live {
            Some(unlock) => Some(Unlock::clone(&unlock)),
            None => {
                let (engine, id) = (self.engine().clone(), id.to_string());
                blocking(move || engine.history()?.unlock(&id)).await??
            }
        };
        let reachable = found.as_ref().is_some_and(|unlock| self.reaches(caller, unlock));
        if !reachable {
            caller.may_reach(&format!("unlocks/{id}"), None)?;
        }
        found.ok_or_else(|| not_found(Kind::Unlock, id))
    }

    /// Whether a caller may reach an unlock: by the tenant that its endpoint has now; where the endpoint is gone, by the
    /// tenant that it had.
    fn reaches(&self, caller: &Caller, unlock: &Unlock) -> bool {
        self.engine()
            .read(|state| match state.document().endpoints.get(&unlock.endpoint) {
                Some(endpoint) => caller.sees(&endpoint.labels),
                None => caller.is_for(&unlock.tenant),
            })
    }

    fn shown(&self, caller: &Caller, unlock: &Unlock) -> v1::Unlock {
        self.engine().read(|state| {
            let document = state.document();
            unlock_out::for_caller(unlock_out::unlock(unlock, document), document, caller)
        })
    }

    async fn changed(&self, caller: &Caller, request: UnlockRequest) -> GrpcResult<v1::Unlock> {
        let outcome = self.engine().unlocks(request).await;
        let outcome = outcome.map_err(|error| self.undisclosed(caller, error))?;
        let unlock = outcome.unlock.ok_or(ApiError::Lost)?;
        let mut shown = self.shown(caller, &unlock);
        shown.closing = outcome.closing.map(unlock_out::closing);
        Ok(Response::new(shown))
    }

    /// A refusal as a caller may see it.
    fn undisclosed(&self, caller: &Caller, mut error: UnlockError) -> ApiError {
        if let UnlockError::Refused(LedgerRefusal::Unmet { program, why, .. }) = &mut error {
            let shown = self.engine().read(|state| {
                let program = state.document().programs.get(program);
                unlock_out::disclosed(program.map(AsRef::as_ref), caller)
            });
            if shown != Disclose::Full {
                *why = undisclosed(why);
            }
        }
        ApiError::Unlock(error)
    }

    /// A decision on one unlock.
    async fn decide(
        &self,
        caller: &Caller,
        id: String,
        what: &'static str,
        make: impl Fn(&mut Draft<'_>, &Name, &Unlock) -> Result<Vec<UnlockChange>, UnlockError> + Send + 'static,
    ) -> GrpcResult<v1::Unlock> {
        let name =
            convert::name("id", &id).inspect_err(|error| self.refused(caller, what, "unlocks", error))?;
        let found = self
            .reached(caller, &id)
            .await
            .inspect_err(|error| self.refused(caller, what, &id, error))?;
        let closes = matches!(what, "unlock.release" | "unlock.revoke" | "unlock.reject");
        let request = UnlockRequest {
            by: Who::from(caller),
            what: (what, format!("unlocks/{id}")),
            make: Box::new(move |draft| make(draft, &name, &found)),
            key: None,
            closes,
        };
        self.changed(caller, request).await
    }

    /// Puts a refusal that did not reach the engine into the audit log.
    fn refused(&self, caller: &Caller, what: &str, subject: &str, error: &ApiError) {
        let now = self.engine().now();
        let entry = crate::store::Entry {
            at_ms: now.wall_ms,
            actor: caller.name.clone(),
            role: caller.role.as_str().to_string(),
            action: format!("{what}.refused"),
            subject: subject.to_string(),
            detail: serde_json::json!({"why": error.to_string()}).to_string(),
            generation: self.engine().read(|state| state.generation()),
            evidence: None,
        };
        if !self.engine().note(entry) {
            tracing::warn!(
                actor = caller.name,
                what,
                subject,
                "a refusal is not in the audit log: too much waits"
            );
            crate::metrics::denial_dropped();
        }
    }

    fn wanted(&self, caller: &Caller, request: &v1::ListUnlocksRequest) -> Result<WantedUnlocks, ApiError> {
        let tenant = request.tenant.clone();
        let mut reach = None;
        if let Some(own) = &caller.tenant {
            if !tenant.is_empty() && tenant != *own {
                caller.may_reach(&format!("tenant {tenant}"), None)?;
            }
            let endpoints = self.engine().read(|state| {
                let all = state.document().endpoints.iter();
                let seen = all.filter(|(_, endpoint)| caller.sees(&endpoint.labels));
                seen.map(|(name, _)| name.to_string()).collect()
            });
            reach = Some(Reach {
                tenant: own.clone(),
                endpoints,
            });
        }
        // A set, however often each is named.
        let mut states = Vec::new();
        for (n, state) in request.states.iter().enumerate() {
            let known = v1::UnlockState::try_from(*state).ok().and_then(state_in);
            let known = known.ok_or_else(|| {
                ApiError::field(
                    format!("states[{n}]"),
                    format!("{state} is no state of an unlock"),
                )
            })?;
            if !states.contains(&known) {
                states.push(known);
            }
        }
        let after = match request.page_token.as_str() {
            "" => None,
            token => {
                let parts = token.split_once('.');
                let read = parts.and_then(|(at, id)| Some((at.parse().ok()?, id.to_string())));
                Some(read.ok_or_else(|| ApiError::field("page_token", "is not of an earlier answer"))?)
            }
        };
        let size = match request.page_size {
            0 => DEFAULT_PAGE,
            size => size.min(LARGEST_PAGE),
        };
        Ok(WantedUnlocks {
            endpoint: request.endpoint.clone(),
            program: request.program.clone(),
            tenant,
            reach,
            states,
            after,
            limit: size as usize + 1,
        })
    }
}

fn reason(text: String) -> Result<String, ApiError> {
    if text.len() > MAX_REASON {
        return Err(ApiError::field(
            "reason",
            format!("is longer than {MAX_REASON} bytes"),
        ));
    }
    Ok(text)
}

#[tonic::async_trait]
impl UnlockService for Api {
    async fn request_unlock(&self, request: Request<v1::RequestUnlockRequest>) -> GrpcResult<v1::Unlock> {
        let caller = caller(&request)?;
        let asked = request.into_inner();
        // Before it is part of any text.
        let endpoint = convert::name("endpoint", &asked.endpoint)
            .inspect_err(|error| self.refused(&caller, "unlock.request", "endpoints", error))?;
        let subject = format!("endpoints/{endpoint}");
        let noted = |error: &ApiError| self.refused(&caller, "unlock.request", &subject, error);
        let tenant = self.reach(&caller, &asked.endpoint).inspect_err(noted)?;
        let program = convert::name("program", &asked.program).inspect_err(noted)?;
        let names = (fresh_id()?, program, endpoint);
        if asked.idempotency_key.len() > MAX_KEY {
            let error = ApiError::field("idempotency_key", format!("is longer than {MAX_KEY} bytes"));
            noted(&error);
            return Err(error.into());
        }
        let key = (!asked.idempotency_key.is_empty()).then(|| {
            let key = IdempotencyKey {
                caller: caller.name.clone(),
                key: asked.idempotency_key.clone(),
            };
            (key, digest(&asked))
        });
        self.0.budget.take(&caller).inspect_err(noted)?;
        let by = Who::from(&caller);
        let name = caller.name.clone();
        let request = UnlockRequest {
            by,
            what: ("unlock.request", subject),
            make: Box::new(move |draft| take(draft, &asked, &names, &tenant, &name)),
            key,
            closes: false,
        };
        self.changed(&caller, request).await
    }

    async fn get_unlock(&self, request: Request<v1::UnlockRequest>) -> GrpcResult<v1::Unlock> {
        let caller = caller(&request)?;
        let id = request.into_inner().id;
        convert::name("id", &id)?;
        let unlock = self.reached(&caller, &id).await?;
        Ok(Response::new(self.shown(&caller, &unlock)))
    }

    async fn list_unlocks(
        &self,
        request: Request<v1::ListUnlocksRequest>,
    ) -> GrpcResult<v1::ListUnlocksResponse> {
        let caller = caller(&request)?;
        let wanted = self.wanted(&caller, &request.into_inner())?;
        let (engine, size) = (self.engine().clone(), wanted.limit - 1);
        let states = wanted.states.clone();
        let renewals = states.contains(&UnlockState::AwaitingApproval);
        let mut found = blocking(move || engine.history()?.unlocks(&wanted))
            .await?
            .map_err(ApiError::from)?;
        let more = found.len() > size;
        found.truncate(size);
        let last = found.last().filter(|_| more);
        let next_page_token =
            last.map_or_else(String::new, |last| format!("{}.{}", last.requested_at, last.id));
        let unlocks = self.engine().read(|state| {
            // What was closed and is not stored yet is shown as it is.
            let newest = found.iter().map(|unlock| {
                let newer = state.unstored(unlock.id.as_str());
                newer.map_or(unlock, |newer| newer.as_ref())
            });
            newest
                .filter(|unlock| {
                    states.is_empty()
                        || states.contains(&unlock.state)
                        || renewals && unlock.renewal.is_some()
                })
                .map(|unlock| {
                    let document = state.document();
                    unlock_out::for_caller(unlock_out::unlock(unlock, document), document, &caller)
                })
                .collect()
        });
        Ok(Response::new(v1::ListUnlocksResponse {
            unlocks,
            next_page_token,
        }))
    }

    async fn approve(&self, request: Request<v1::DecideUnlockRequest>) -> GrpcResult<v1::Unlock> {
        let caller = caller(&request)?;
        let v1::DecideUnlockRequest { id, reason: text, .. } = request.into_inner();
        let (text, by) = (reason(text)?, caller.name.clone());
        self.decide(&caller, id, "unlock.approve", move |draft, id, _| {
            Ok(draft.ledger.approve(draft.document, id, &text, &by, &draft.now)?)
        })
        .await
    }

    async fn reject(&self, request: Request<v1::DecideUnlockRequest>) -> GrpcResult<v1::Unlock> {
        let caller = caller(&request)?;
        let v1::DecideUnlockRequest { id, reason: text, .. } = request.into_inner();
        let (text, by) = (reason(text)?, caller.name.clone());
        self.decide(&caller, id, "unlock.reject", move |draft, id, _| {
            Ok(vec![draft.ledger.reject(id, &text, &by, &draft.now)?])
        })
        .await
    }

    async fn renew(&self, request: Request<v1::RenewUnlockRequest>) -> GrpcResult<v1::Unlock> {
        let caller = caller(&request)?;
        let v1::RenewUnlockRequest { id, lease_seconds } = request.into_inner();
        let (lease, by) = (Some(lease_seconds).filter(|s| *s > 0), caller.name.clone());
        let decides = caller.role == Role::Operator;
        let noted = |error: &ApiError| self.refused(&caller, "unlock.renew", &id, error);
        convert::name("id", &id).inspect_err(noted)?;
        self.0.budget.take(&caller).inspect_err(noted)?;
        self.decide(&caller, id, "unlock.renew", move |draft, id, _| {
            Ok(vec![draft.ledger.renew(
                draft.document,
                id,
                lease,
                (&by, decides),
                &draft.now,
            )?])
        })
        .await
    }

    async fn release(&self, request: Request<v1::UnlockRequest>) -> GrpcResult<v1::Unlock> {
        let caller = caller(&request)?;
        let by = caller.name.clone();
        self.decide(
            &caller,
            request.into_inner().id,
            "unlock.release",
            move |draft, id, _| Ok(draft.ledger.release(draft.document, id, &by, &draft.now)?),
        )
        .await
    }

    async fn revoke(&self, request: Request<v1::DecideUnlockRequest>) -> GrpcResult<v1::Unlock> {
        let caller = caller(&request)?;
        let v1::DecideUnlockRequest {
            id,
            reason: text,
            quarantine,
        } = request.into_inner();
        let (text, by) = (reason(text)?, caller.name.clone());
        self.decide(&caller, id, "unlock.revoke", move |draft, id, found| {
            let why = (text.as_str(), quarantine);
            let (document, now) = (draft.document, draft.now);
            let here = draft.ledger.get(id.as_str()).cloned();
            let ended = match &here {
                Some(here) => here.state.has_ended().then_some(here.as_ref()),
                None => Some(found),
            };
            Ok(match ended {
                Some(ended) => draft.ledger.revoke_ended(document, ended, why, &by, &now)?,
                None => draft.ledger.revoke(document, id, why, &by, &now)?,
            })
        })
        .await
    }

    async fn describe_program(
        &self,
        request: Request<v1::DescribeProgramRequest>,
    ) -> GrpcResult<v1::DescribeProgramResponse> {
        let caller = caller(&request)?;
        let wanted = request.into_inner().program;
        if !wanted.is_empty() {
            convert::name("program", &wanted)?;
        }
        let programs = self.engine().read(|state| {
            let all = state.document().programs.iter();
            let wanted = all.filter(|(name, _)| wanted.is_empty() || name.as_str() == wanted);
            wanted
                .map(|(name, program)| {
                    let shown = unlock_out::disclosed(Some(program), &caller);
                    unlock_out::program(name, program, shown)
                })
                .collect::<Vec<_>>()
        });
        if programs.is_empty() && !wanted.is_empty() {
            return Err(not_found(Kind::Program, &wanted).into());
        }
        Ok(Response::new(v1::DescribeProgramResponse { programs }))
    }

    async fn why_blocked(
        &self,
        request: Request<v1::WhyBlockedRequest>,
    ) -> GrpcResult<v1::WhyBlockedResponse> {
        let caller = caller(&request)?;
        let request = request.into_inner();
        convert::name("endpoint", &request.endpoint)?;
        let tenant = self.reach(&caller, &request.endpoint)?;
        Ok(Response::new(why_blocked::blocked(
            self, &request, &caller, &tenant,
        )?))
    }

    type WatchUnlocksStream = Pin<Box<dyn Stream<Item = Result<v1::UnlockEvent, Status>> + Send>>;

    async fn watch_unlocks(
        &self,
        request: Request<v1::WatchUnlocksRequest>,
    ) -> GrpcResult<Self::WatchUnlocksStream> {
        let caller = caller(&request)?;
        let wanted = request.into_inner();
        let place = self.watcher(&caller)?;
        let mut told = self.engine().watch_unlocks();
        let (api, stopping) = (self.clone(), self.stopping().clone());
        let (to, events) = tokio::sync::mpsc::channel(64);
        tokio::spawn(async move {
            let _place = place;
            loop {
                let event = tokio::select! {
                    () = stopping.cancelled() => Err(ApiError::Stopping.into()),
                    () = to.closed() => return,
                    event = told.recv() => match event {
                        Ok(unlock) => {
                            let is = |wanted: &str, value: &str| wanted.is_empty() || wanted == value;
                            let meant = api.reaches(&caller, &unlock)
                                && is(&wanted.endpoint, unlock.endpoint.as_str())
                                && is(&wanted.program, unlock.program.as_str())
                                && is(&wanted.tenant, &unlock.tenant);
                            if !meant {
                                continue;
                            }
                            Ok(v1::UnlockEvent { unlock: Some(api.shown(&caller, &unlock)) })
                        }
                        Err(RecvError::Lagged(missed)) => {
                            let missed = caller.tenant.is_none().then_some(missed);
                            Err(ApiError::FellBehind { missed }.into())
                        }
                        Err(RecvError::Closed) => Err(ApiError::Stopping.into()),
                    },
                };
                let last = event.is_err();
                if to.send(event).await.is_err() || last {
                    return;
                }
            }
        });
        Ok(Response::new(Box::pin(
            tokio_stream::wrappers::ReceiverStream::new(events),
        )))
    }
}
