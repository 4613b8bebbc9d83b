//! Baseline, profiles and endpoints, one resource at a time.

use std::collections::BTreeSet;
use std::sync::Arc;

use imbl::OrdMap;
use portcullis_policy::{Declared, DocumentError, Endpoint, Name};
use portcullis_proto::v1;
use portcullis_proto::v1::baseline_service_server::BaselineService;
use portcullis_proto::v1::endpoint_service_server::EndpointService;
use portcullis_proto::v1::profile_service_server::ProfileService;
use tonic::{Request, Response};

use super::page::{self, Page};
use super::status::ApiError;
use super::{Api, GrpcResult, caller, convert};
use crate::access::{Denied, Role};
use crate::config::Provisioner;
use crate::engine::{Baseline, ChangeError, Edit, Outcome, State, Who};
use crate::store::{Key, Kind};

fn key(kind: Kind, name: &Name) -> Key {
    Key {
        kind,
        name: name.to_string(),
    }
}

/// Paths of wrong fields: in the document, and in the message.
const BASELINE_PATHS: &[(&str, &str)] = &[
    ("reserved", "baseline.reserved"),
    ("mandatory", "baseline.mandatory"),
    ("baseline", "baseline.rules"),
];

/// Makes a change of one resource; wrong fields are reported with the paths of its message.
async fn change(
    api: &Api,
    by: Who,
    paths: &[(&str, &str)],
    edit: impl FnOnce(&State) -> Result<Edit, ChangeError> + Send + 'static,
) -> GrpcResult<v1::Committed> {
    let outcome: Outcome = api.engine().change(by, edit).await.map_err(|error| match error {
        ChangeError::Document(DocumentError::Fields(fields)) => {
            ApiError::Fields(convert::as_message_paths(fields, paths))
        }
        error => ApiError::Change(error),
    })?;
    Ok(Response::new(v1::Committed {
        generation: outcome.generation,
        etag: outcome.etag,
    }))
}

/// Whether the caller has seen what is there; an empty etag does not ask.
fn current(key: impl FnOnce() -> Key, given: &str, now: Option<String>) -> Result<(), ChangeError> {
    if given.is_empty() || now.as_deref() == Some(given) {
        return Ok(());
    }
    let now = now.unwrap_or_else(|| "none".to_string());
    Err(ChangeError::Stale {
        key: key(),
        given: given.to_string(),
        now,
    })
}

fn no_etag(path: &str, etag: &str) -> Result<(), ApiError> {
    if etag.is_empty() {
        return Ok(());
    }
    Err(ApiError::field(
        path,
        "what is created has no etag yet: leave it empty",
    ))
}

/// What stands under a name, which must be there and be what the caller has seen.
fn existing<T>(
    map: &OrdMap<Name, Arc<T>>,
    key: Key,
    name: &Name,
    etag: &str,
    now: impl FnOnce() -> String,
) -> Result<(), ChangeError> {
    if !map.contains_key(name) {
        return Err(ChangeError::NotFound(key));
    }
    current(|| key, etag, Some(now()))
}

/// Keeps what only operators set: another caller leaves it empty, or repeats what is there.
fn as_operators_set(
    role: Role,
    may: &Provisioner,
    mut endpoint: Endpoint,
    there: Option<&Arc<Endpoint>>,
) -> Result<Endpoint, ChangeError> {
    if role == Role::Operator {
        return Ok(endpoint);
    }
    let (shared, roles) = there
        .map(|e| (e.shared.clone(), e.roles.clone()))
        .unwrap_or_default();
    let set = |list: &[Declared]| list.iter().copied().collect::<BTreeSet<Declared>>();
    let repeats = |given: &[Declared]| set(given) == set(&shared);
    for (field, fits) in [
        ("shared", endpoint.shared.is_empty() || repeats(&endpoint.shared)),
        ("roles", endpoint.roles.is_empty() || endpoint.roles == roles),
    ] {
        if !fits {
            let path = format!("endpoint.{field}");
            return Err(ChangeError::OperatorsOnly { path });
        }
    }
    (endpoint.shared, endpoint.roles) = (shared, roles);
    within(may, &mut endpoint, there)?;
    Ok(endpoint)
}

/// Keeps rules and profiles that provisioners may not set as they are.
fn within(
    may: &Provisioner,
    endpoint: &mut Endpoint,
    there: Option<&Arc<Endpoint>>,
) -> Result<(), ChangeError> {
    let refuse = |field: &str| {
        let path = format!("endpoint.{field}");
        Err(ChangeError::OperatorsOnly { path })
    };
    if !may.rules {
        let rules = there.map(|e| e.rules.clone()).unwrap_or_default();
        if !endpoint.rules.is_empty() && endpoint.rules != rules {
            return refuse("rules");
        }
        endpoint.rules = rules;
    }
    let Some(profiles) = &may.profiles else {
        return Ok(());
    };
    let others = |list: &[Name]| -> Vec<Name> {
        let others = list.iter().filter(|name| !profiles.contains(*name));
        others.cloned().collect()
    };
    // None that an operator bound goes, and none comes.
    if others(&endpoint.profiles) != there.map(|e| others(&e.profiles)).unwrap_or_default() {
        return refuse("profiles");
    }
    Ok(())
}

#[tonic::async_trait]
impl BaselineService for Api {
    async fn get_baseline(&self, _: Request<v1::GetBaselineRequest>) -> GrpcResult<v1::Baseline> {
        let (document, etag) = self
            .engine()
            .read(|s| (Arc::clone(s.document()), s.baseline_etag()));
        Ok(Response::new(convert::baseline_out(
            &Baseline::from_document(&document),
            etag,
        )))
    }

    async fn update_baseline(
        &self,
        request: Request<v1::UpdateBaselineRequest>,
    ) -> GrpcResult<v1::Committed> {
        let by = Who::from(&caller(&request)?);
        let v1::UpdateBaselineRequest {
            baseline,
            allow_empty,
        } = request.into_inner();
        let (baseline, etag) = convert::baseline(baseline)?;
        change(self, by, BASELINE_PATHS, move |state| {
            let key = || Key {
                kind: Kind::Baseline,
                name: String::new(),
            };
            current(key, &etag, Some(state.baseline_etag()))?;
            if !allow_empty {
                Baseline::must_not_clear(state.document(), &baseline.mandatory, &baseline.rules)?;
            }
            Ok(Edit::Baseline(baseline))
        })
        .await
    }
}

#[tonic::async_trait]
impl ProfileService for Api {
    async fn create_profile(&self, request: Request<v1::CreateProfileRequest>) -> GrpcResult<v1::Committed> {
        let by = Who::from(&caller(&request)?);
        let (name, profile, etag) = convert::profile(request.into_inner().profile)?;
        no_etag("profile.etag", &etag)?;
        change(
            self,
            by,
            &[(&format!("profiles.{name}"), "profile")],
            move |state| {
                if state.document().profiles.contains_key(&name) {
                    return Err(ChangeError::Exists(key(Kind::Profile, &name)));
                }
                Ok(Edit::Profile(name, Some(profile)))
            },
        )
        .await
    }

    async fn get_profile(&self, request: Request<v1::GetRequest>) -> GrpcResult<v1::Profile> {
        let name = convert::name("name", &request.into_inner().name)?;
        let found = self.engine().read(|state| {
            let profile = state.document().profiles.get(&name)?;
            Some(convert::profile_out(&name, profile, state.profile_etag(&name)))
        });
        Ok(found
            .map(Response::new)
            .ok_or_else(|| ApiError::NotFound(key(Kind::Profile, &name)))?)
    }

    async fn list_profiles(&self, request: Request<v1::ListRequest>) -> GrpcResult<v1::ListProfilesResponse> {
        let request = request.into_inner();
        if !request.label.is_empty() {
            return Err(ApiError::field("label", "profiles have no labels: leave it empty").into());
        }
        let page = Page::from_request(&request)?;
        let (profiles, next_page_token) = self.engine().read(|state| {
            let (items, token) = page.take(&state.document().profiles, |_| true);
            let out = |(name, profile)| convert::profile_out(name, profile, state.profile_etag(name));
            (items.into_iter().map(out).collect(), token)
        });
        Ok(Response::new(v1::ListProfilesResponse {
            profiles,
            next_page_token,
        }))
    }

    async fn update_profile(&self, request: Request<v1::UpdateProfileRequest>) -> GrpcResult<v1::Committed> {
        let by = Who::from(&caller(&request)?);
        let (name, profile, etag) = convert::profile(request.into_inner().profile)?;
        change(
            self,
            by,
            &[(&format!("profiles.{name}"), "profile")],
            move |state| {
                let key = key(Kind::Profile, &name);
                existing(&state.document().profiles, key, &name, &etag, || {
                    state.profile_etag(&name)
                })?;
                Ok(Edit::Profile(name, Some(profile)))
            },
        )
        .await
    }

    async fn delete_profile(&self, request: Request<v1::DeleteRequest>) -> GrpcResult<v1::Committed> {
        let by = Who::from(&caller(&request)?);
        let v1::DeleteRequest { name, etag } = request.into_inner();
        let name = convert::name("name", &name)?;
        change(self, by, &[], move |state| {
            let key = key(Kind::Profile, &name);
            existing(&state.document().profiles, key, &name, &etag, || {
                state.profile_etag(&name)
            })?;
            Ok(Edit::Profile(name, None))
        })
        .await
    }
}

#[tonic::async_trait]
impl EndpointService for Api {
    async fn create_endpoint(
        &self,
        request: Request<v1::CreateEndpointRequest>,
    ) -> GrpcResult<v1::Committed> {
        let caller = caller(&request)?;
        let (by, role) = (Who::from(&caller), caller.role);
        let may = self.provisioner();
        let (name, endpoint, etag) = convert::endpoint(request.into_inner().endpoint)?;
        no_etag("endpoint.etag", &etag)?;
        change(
            self,
            by,
            &[(&format!("endpoints.{name}"), "endpoint")],
            move |state| {
                if state.document().endpoints.contains_key(&name) {
                    return Err(ChangeError::Exists(key(Kind::Endpoint, &name)));
                }
                let endpoint = as_operators_set(role, &may, endpoint, None)?;
                Ok(Edit::Endpoint(name, Some(endpoint)))
            },
        )
        .await
    }

    async fn get_endpoint(&self, request: Request<v1::GetRequest>) -> GrpcResult<v1::Endpoint> {
        let caller = caller(&request)?;
        let name = convert::name("name", &request.into_inner().name)?;
        let found = self.engine().read(|state| {
            let endpoint = state.document().endpoints.get(&name);
            caller.may_reach(name.as_str(), endpoint.map(|e| &e.labels))?;
            let bypass = state.ledger().bypass(name.as_str());
            let bypass = bypass.map(|bypass| convert::bypass_for(&caller, bypass));
            let out = |e| convert::endpoint_out(&name, e, state.endpoint_etag(&name), bypass);
            Ok::<_, Denied>(endpoint.map(out))
        });
        Ok(found
            .map_err(ApiError::Denied)?
            .map(Response::new)
            .ok_or_else(|| ApiError::NotFound(key(Kind::Endpoint, &name)))?)
    }

    async fn list_endpoints(
        &self,
        request: Request<v1::ListRequest>,
    ) -> GrpcResult<v1::ListEndpointsResponse> {
        let caller = caller(&request)?;
        let request = request.into_inner();
        let label = page::label(&request.label)?;
        let page = Page::from_request(&request)?;
        let carries = |endpoint: &Arc<Endpoint>| {
            caller.sees(&endpoint.labels)
                && label.is_none_or(|(key, value)| endpoint.labels.get(key).is_some_and(|v| v == value))
        };
        let (endpoints, next_page_token) = self.engine().read(|state| {
            let (items, token) = page.take(&state.document().endpoints, carries);
            let out = |(name, endpoint): (&Name, &Arc<Endpoint>)| {
                let bypass = state.ledger().bypass(name.as_str());
                let bypass = bypass.map(|bypass| convert::bypass_for(&caller, bypass));
                convert::endpoint_out(name, endpoint, state.endpoint_etag(name), bypass)
            };
            (items.into_iter().map(out).collect(), token)
        });
        Ok(Response::new(v1::ListEndpointsResponse {
            endpoints,
            next_page_token,
        }))
    }

    async fn update_endpoint(
        &self,
        request: Request<v1::UpdateEndpointRequest>,
    ) -> GrpcResult<v1::Committed> {
        let caller = caller(&request)?;
        let (by, role) = (Who::from(&caller), caller.role);
        let may = self.provisioner();
        let (name, endpoint, etag) = convert::endpoint(request.into_inner().endpoint)?;
        change(
            self,
            by,
            &[(&format!("endpoints.{name}"), "endpoint")],
            move |state| {
                let key = key(Kind::Endpoint, &name);
                existing(&state.document().endpoints, key, &name, &etag, || {
                    state.endpoint_etag(&name)
                })?;
                let there = state.document().endpoints.get(&name);
                let endpoint = as_operators_set(role, &may, endpoint, there)?;
                Ok(Edit::Endpoint(name, Some(endpoint)))
            },
        )
        .await
    }

    async fn delete_endpoint(&self, request: Request<v1::DeleteRequest>) -> GrpcResult<v1::Committed> {
        let by = Who::from(&caller(&request)?);
        let v1::DeleteRequest { name, etag } = request.into_inner();
        let name = convert::name("name", &name)?;
        change(self, by, &[], move |state| {
            let key = key(Kind::Endpoint, &name);
            existing(&state.document().endpoints, key, &name, &etag, || {
                state.endpoint_etag(&name)
            })?;
            Ok(Edit::Endpoint(name, None))
        })
        .await
    }

    async fn provision(&self, request: Request<v1::ProvisionRequest>) -> GrpcResult<v1::Committed> {
        let caller = caller(&request)?;
        let (by, role) = (Who::from(&caller), caller.role);
        let may = self.provisioner();
        let (name, endpoint, etag) = convert::endpoint(request.into_inner().endpoint)?;
        change(
            self,
            by,
            &[(&format!("endpoints.{name}"), "endpoint")],
            move |state| {
                let there = state.document().endpoints.get(&name);
                let now = there.map(|_| state.endpoint_etag(&name));
                current(|| key(Kind::Endpoint, &name), &etag, now)?;
                let endpoint = as_operators_set(role, &may, endpoint, there)?;
                Ok(Edit::Endpoint(name, Some(endpoint)))
            },
        )
        .await
    }

    async fn release(&self, request: Request<v1::ReleaseRequest>) -> GrpcResult<v1::Committed> {
        let by = Who::from(&caller(&request)?);
        let name = convert::name("name", &request.into_inner().name)?;
        change(self, by, &[], move |_| Ok(Edit::Endpoint(name, None))).await
    }
}
