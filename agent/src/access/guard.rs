//! Authentication and authorization in front of every service.

use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::{Duration, SystemTime};

use governor::clock::DefaultClock;
use tokio::net::unix::UCred;
use tonic::body::Body;
use tonic::codegen::http::header::AUTHORIZATION;
use tonic::codegen::http::{HeaderMap, Request, Response};
use tonic::codegen::{Body as HttpBody, Bytes};
use tonic::{Code, Status};
use tower::{Layer, Service};

use super::arrival::{Answering, Arriving};
use super::rights::{Needs, needs};
use super::witness::LONGEST;
use super::{
    AccessError, Accounts, Allowances, Caller, Connection, Denial, Door, Grant, Peer, People, Place, Role,
    Shown, Witness,
};
use crate::api::ApiError;
use crate::config;
use crate::{metrics, text};

/// Lets in who may call what, and refuses the rest.
#[derive(Debug, Clone)]
pub struct Access(Arc<Inner>, Arc<Door>);

#[derive(Debug)]
struct Inner {
    /// Nobody is told from anybody without a configuration: whoever comes in may do everything.
    people: Option<People>,
    rates: Allowances,
    witness: Arc<dyn Witness>,
}

/// Why a call is not passed on.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// It comes from nobody.
    #[error("{0}")]
    Nobody(&'static str),
    /// Its caller's role may not.
    #[error("{} is a {}, which may not call {method}", .caller.name, .caller.role)]
    Role {
        /// Who called.
        caller: Caller,
        /// What.
        method: String,
    },
    /// There is no such method.
    #[error("the agent does not know this method: is it older than the caller?")]
    NoMethod(Caller),
    /// Its caller asks too often.
    #[error("{} asks too often: [access.rate] of the agent's configuration", .0.name)]
    TooOften(Caller, Duration),
}

impl Access {
    /// As configured on this machine.
    pub fn new(access: Option<&config::Access>, witness: Arc<dyn Witness>) -> Result<Self, AccessError> {
        let Some(access) = access else {
            return Ok(Self::with(None, &config::Rates::default(), witness));
        };
        let named = |user: &config::User| !matches!(user.account, config::Account::Uid(_));
        let accounts = if access.users.iter().any(named) {
            let read = |file| std::fs::read_to_string(file).map_err(|e| AccessError::Accounts(file, e));
            Accounts::new(read("/etc/passwd")?, read("/etc/group")?)
        } else {
            Accounts::default()
        };
        // Who runs this is told by the other end of a socket of its own; without that only root is known.
        let own = tokio::net::UnixStream::pair().and_then(|(one, _other)| one.peer_cred());
        let own_uid = own.map_or(0, |cred| cred.uid());
        let people = People::new(access, &accounts, own_uid)?;
        Ok(Self::with(Some(people), &access.rates, witness))
    }

    fn with(people: Option<People>, rates: &config::Rates, witness: Arc<dyn Witness>) -> Self {
        let inner = Inner {
            people,
            rates: Allowances::new(rates, DefaultClock::default()),
            witness,
        };
        Access(Arc::new(inner), Arc::new(Door::new(&config::Limits::default())))
    }

    /// With limits for connections and requests other than those that hold when nothing is configured.
    pub fn limited(self, limits: &config::Limits) -> Self {
        Access(self.0, Arc::new(Door::new(limits)))
    }

    /// Where connections come in.
    pub fn door(&self) -> &Arc<Door> {
        &self.1
    }

    /// A connection that has a place.
    pub fn connection<T>(&self, io: T, peer: Peer, place: Place) -> Connection<T> {
        Connection::new(io, peer, Arc::clone(&self.1), place)
    }

    /// Who is told of refusals.
    pub fn witness(&self) -> &dyn Witness {
        &*self.0.witness
    }

    /// Who is at the other end of the Unix socket.
    pub fn on_socket(&self, cred: Option<UCred>) -> Peer {
        let place = cred.map_or_else(|| "socket".to_string(), |cred| format!("uid {}", cred.uid()));
        let caller = match &self.0.people {
            None => Some(Caller::new(place.clone(), Role::Operator)),
            Some(people) => cred.and_then(|cred| people.by_uid(cred.uid(), cred.gid())),
        };
        Peer {
            place,
            caller,
            until: None,
            activity: Arc::default(),
        }
    }

    /// Who is at the other end of TCP without TLS: an address is no credential.
    pub fn on_tcp(&self, address: Option<SocketAddr>) -> Peer {
        let place = address.map_or_else(|| "unknown".to_string(), |a| a.to_string());
        let open = self.0.people.is_none();
        Peer {
            caller: open.then(|| Caller::new(place.clone(), Role::Operator)),
            place,
            until: None,
            activity: Arc::default(),
        }
    }

    /// Who is at the other end of TLS; `certificate` is the one it has proved to be its own, if any.
    pub fn on_tls(&self, address: Option<SocketAddr>, certificate: Option<&[u8]>) -> Peer {
        let peer = self.on_tcp(address);
        let Some(shown) = certificate.and_then(Shown::read) else {
            return peer;
        };
        let caller = match &self.0.people {
            None => {
                let named = shown.names.first().map(|name| format!("cert {name}"));
                Some(Caller::new(
                    named.unwrap_or_else(|| peer.place.clone()),
                    Role::Operator,
                ))
            }
            Some(people) => people.by_names(&shown.names),
        };
        Peer {
            caller,
            until: Some(shown.until),
            ..peer
        }
    }

    /// Who calls: a token tells before the connection does.
    fn identify(
        &self,
        peer: Option<&Peer>,
        headers: &HeaderMap,
        now: SystemTime,
    ) -> Result<Caller, &'static str> {
        let mut shown = headers.get_all(AUTHORIZATION).iter();
        if let Some(value) = shown.next() {
            if shown.next().is_some() {
                return Err("two credentials are none: send one authorization");
            }
            let token = bearer(value.as_bytes()).ok_or("authorization must be `Bearer TOKEN`")?;
            let people = self.0.people.as_ref();
            return people
                .and_then(|people| people.by_token(token))
                .ok_or("the token is not one that the agent knows");
        }
        let peer = peer.ok_or("a credential is needed")?;
        if peer.until.is_some_and(|until| until < now) {
            return Err(
                "the certificate has expired since the connection was made: connect again with a new one",
            );
        }
        peer.caller.clone().ok_or(if peer.until.is_some() {
            "the certificate bears no name that the agent knows"
        } else {
            "a credential that the agent knows is needed: a certificate, a token, or a user that [access] names"
        })
    }

    /// Who calls, if it may; `None` where it does not matter.
    fn judge(
        &self,
        path: &str,
        peer: Option<&Peer>,
        headers: &HeaderMap,
        now: SystemTime,
    ) -> Result<Option<Caller>, Refusal> {
        let needs = needs(path);
        if matches!(needs, Some(Needs::Nothing)) {
            return Ok(None);
        }
        let caller = self.identify(peer, headers, now).map_err(Refusal::Nobody)?;
        let closes = matches!(&needs, Some(Needs::Table(method)) if method.closes(caller.role));
        // It counts, and no rate holds it up.
        if let Err(wait) = self.0.rates.take(caller.role, &caller.name)
            && !closes
        {
            return Err(Refusal::TooOften(caller, wait));
        }
        match needs {
            None => Err(Refusal::NoMethod(caller)),
            Some(Needs::Table(method)) if method.grant(caller.role) == Grant::No => Err(Refusal::Role {
                caller,
                method: text::cut(path.trim_start_matches('/'), LONGEST).into_owned(),
            }),
            Some(_) => Ok(Some(caller)),
        }
    }

    fn refuse(&self, refusal: Refusal, path: &str, peer: Option<&Peer>) -> Status {
        let (caller, role) = match &refusal {
            Refusal::Nobody(_) => (
                peer.map_or_else(|| "unknown".to_string(), |p| p.place.clone()),
                None,
            ),
            Refusal::Role { caller, .. } | Refusal::NoMethod(caller) | Refusal::TooOften(caller, _) => {
                (caller.name.clone(), Some(caller.role))
            }
        };
        let often = matches!(refusal, Refusal::TooOften(..));
        let status = Status::from(ApiError::Access(refusal));
        match often {
            true => metrics::denied(status.code()),
            false => self.tell(caller, role, path.trim_start_matches('/'), &status),
        }
        status
    }

    fn tell(&self, caller: String, role: Option<Role>, method: &str, status: &Status) {
        metrics::denied(status.code());
        self.0
            .witness
            .denied(Denial::new(caller, role, method, status.message()));
    }
}

/// The token of `Bearer TOKEN`.
fn bearer(value: &[u8]) -> Option<&[u8]> {
    let (scheme, token) = value.split_at_checked(b"Bearer ".len())?;
    let token = token.trim_ascii();
    (scheme.eq_ignore_ascii_case(b"Bearer ") && !token.is_empty()).then_some(token)
}

impl<S> Layer<S> for Access {
    type Service = Guarded<S>;

    fn layer(&self, inner: S) -> Guarded<S> {
        Guarded {
            inner,
            access: self.clone(),
        }
    }
}

/// A service that only those reach who may.
#[derive(Debug, Clone)]
pub struct Guarded<S> {
    inner: S,
    access: Access,
}

impl<S, B> Service<Request<B>> for Guarded<S>
where
    S: Service<Request<Body>, Response = Response<Body>>,
    S::Future: Send + 'static,
    B: HttpBody<Data = Bytes> + Send + 'static,
    B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
{
    type Response = Response<Body>;
    type Error = S::Error;
    type Future = Pin<Box<dyn Future<Output = Result<Response<Body>, S::Error>> + Send>>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(context)
    }

    fn call(&mut self, request: Request<B>) -> Self::Future {
        let peer = request.extensions().get::<Arc<Peer>>().cloned();
        let path = request.uri().path().to_string();
        let judged = self
            .access
            .judge(&path, peer.as_deref(), request.headers(), SystemTime::now());
        let caller = match judged {
            Ok(caller) => caller,
            Err(refusal) => {
                let status = self.access.refuse(refusal, &path, peer.as_deref());
                return Box::pin(async move { Ok(status.into_http()) });
            }
        };
        let call = peer.as_ref().map(|peer| peer.activity.begin());
        let confined = caller.as_ref().is_none_or(|caller| caller.role == Role::Tenant);
        let door = self.access.door();
        let (most, within) = (confined.then_some(door.tenant_bytes), door.arrival);
        let mut request = request.map(|body| Body::new(Arriving::new(Body::new(body), most, within)));
        // A token goes no further than here.
        request.headers_mut().remove(AUTHORIZATION);
        let answered = |response: Response<Body>| response.map(|inner| Body::new(Answering { inner, call }));
        let Some(caller) = caller else {
            let answer = self.inner.call(request);
            return Box::pin(async move { answer.await.map(answered) });
        };
        request.extensions_mut().insert(caller.clone());
        let (access, answer) = (self.access.clone(), self.inner.call(request));
        Box::pin(async move {
            let response = answer.await.map(answered)?;
            // What a service refuses itself, a tenant's reach for another's endpoint, comes as a status.
            if let Some(status) = response.extensions().get::<Status>()
                && status.code() == Code::PermissionDenied
            {
                access.tell(
                    caller.name,
                    Some(caller.role),
                    path.trim_start_matches('/'),
                    status,
                );
            }
            Ok(response)
        })
    }
}

#[cfg(test)]
mod tests;
