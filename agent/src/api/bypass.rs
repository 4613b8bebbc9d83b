//! BypassService: start, end, list.

use std::sync::Arc;

use portcullis_policy::Name;
use portcullis_proto::v1;
use portcullis_proto::v1::bypass_service_server::BypassService;
use portcullis_unlock::ledger::Bypass;
use tonic::{Request, Response, Status};

use super::status::ApiError;
use super::{Api, caller, convert, unlock_out};
use crate::access::Caller;
use crate::engine::{ChangeError, Draft, MakeUnlocks, UnlockError, UnlockOutcome, UnlockRequest, Who};
use crate::store::{Key, Kind};

/// Longest reason, in bytes.
const MAX_REASON: usize = 1024;

fn missing(kind: Kind, name: &Name) -> UnlockError {
    UnlockError::Change(ChangeError::NotFound(Key {
        kind,
        name: name.to_string(),
    }))
}

impl Api {
    /// Every bypass, by endpoint.
    pub(super) fn bypasses(&self) -> Vec<v1::Bypass> {
        self.engine().read(|state| {
            let bypasses = state.ledger().bypasses().values();
            bypasses.map(|bypass| convert::bypass_out(bypass)).collect()
        })
    }

    /// What a call asks for, or every field that is wrong with it.
    fn asked(&self, request: &v1::StartBypassRequest) -> Result<Name, ApiError> {
        let mut fields = convert::Fields::default();
        let name = fields.parse::<Name>("endpoint", &request.endpoint);
        let longest = self.0.limits.bypass_seconds;
        if !(1..=longest).contains(&request.seconds) {
            fields.fail(
                "seconds",
                format!(
                    "is not within 1 and {longest}, the longest bypass that the agent's limits.bypass allows"
                ),
            );
        }
        match request.reason.len() {
            _ if request.reason.trim().is_empty() => fields.fail("reason", "is required"),
            1..=MAX_REASON => {}
            _ => fields.fail("reason", format!("is longer than {MAX_REASON} bytes")),
        }
        fields.done(name)
    }

    async fn change_bypass(
        &self,
        caller: &Caller,
        (what, endpoint): (&'static str, &Name),
        closes: bool,
        make: MakeUnlocks,
    ) -> Result<UnlockOutcome, ApiError> {
        let request = UnlockRequest {
            by: Who::from(caller),
            what: (what, format!("endpoints/{endpoint}")),
            make,
            key: None,
            closes,
        };
        self.engine().unlocks(request).await.map_err(ApiError::Unlock)
    }

    /// The bypass of an endpoint.
    fn bypass(&self, endpoint: &Name) -> Option<Arc<Bypass>> {
        self.engine()
            .read(|state| state.ledger().bypass(endpoint.as_str()).cloned())
    }
}

#[tonic::async_trait]
impl BypassService for Api {
    async fn start_bypass(
        &self,
        request: Request<v1::StartBypassRequest>,
    ) -> Result<Response<v1::StartBypassResponse>, Status> {
        let caller = caller(&request)?;
        let request = request.into_inner();
        let name = self.asked(&request)?;
        let now = self.engine().now();
        let bypass = Bypass {
            endpoint: name.clone(),
            reason: request.reason,
            by: caller.name.clone(),
            started_at: now.seconds(),
            ends: now.after(request.seconds),
        };
        let (limit, started) = (self.0.limits.bypasses, convert::bypass_out(&bypass));
        let make = move |draft: &mut Draft<'_>| {
            if !draft.document.endpoints.contains_key(&bypass.endpoint) {
                return Err(missing(Kind::Endpoint, &bypass.endpoint));
            }
            draft.ledger.start_bypass(bypass.clone(), limit)?;
            Ok(Vec::new())
        };
        let outcome = self
            .change_bypass(&caller, ("bypass.start", &name), false, Box::new(make))
            .await?;
        Ok(Response::new(v1::StartBypassResponse {
            bypass: Some(started),
            generation: outcome.generation,
        }))
    }

    async fn end_bypass(
        &self,
        request: Request<v1::EndBypassRequest>,
    ) -> Result<Response<v1::EndBypassResponse>, Status> {
        let caller = caller(&request)?;
        let name = convert::name("endpoint", &request.into_inner().endpoint)?;
        let bypass = self.bypass(&name);
        let endpoint = name.clone();
        let make = move |draft: &mut Draft<'_>| match draft.ledger.end_bypass(&endpoint) {
            true => Ok(Vec::new()),
            false => Err(missing(Kind::Bypass, &endpoint)),
        };
        let outcome = self
            .change_bypass(&caller, ("bypass.end", &name), true, Box::new(make))
            .await?;
        Ok(Response::new(v1::EndBypassResponse {
            bypass: bypass.map(|bypass| convert::bypass_out(&bypass)),
            generation: outcome.generation,
            closing: outcome.closing.map(unlock_out::closing),
        }))
    }

    async fn list_bypasses(
        &self,
        _: Request<v1::ListBypassesRequest>,
    ) -> Result<Response<v1::ListBypassesResponse>, Status> {
        Ok(Response::new(v1::ListBypassesResponse {
            bypasses: self.bypasses(),
        }))
    }
}
