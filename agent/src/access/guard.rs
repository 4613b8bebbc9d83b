//! Authentication and authorization in front of every service.

use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};
use std::time::SystemTime;

use arc_swap::{ArcSwap, ArcSwapOption};
use governor::clock::DefaultClock;
use portcullis_policy::text;
use tokio::net::unix::UCred;
use tokio::sync::watch;
use tokio_rustls::rustls::pki_types::{CertificateDer, UnixTime};
use tokio_rustls::rustls::server::danger::ClientCertVerifier;
use tonic::body::Body;
use tonic::codegen::http::header::AUTHORIZATION;
use tonic::codegen::http::{HeaderMap, HeaderValue, Request, Response};
use tonic::codegen::{Body as HttpBody, Bytes};
use tonic::{Code, Status};
use tower::{Layer, Service};

use super::arrival::{Answering, Arriving};
use super::denial_log::LONGEST;
use super::oidc::Oidc;
use super::right::{Ends, Right};
use super::rights::{Needs, WAITS, needs};
use super::{
    AccessError, Accounts, Allowances, Authenticator, Caller, Connection, ConnectionSlot, Denial, DenialLog,
    Door, Peer, Permission, Refusal, Role, Shown, Shows,
};
use crate::config;
use crate::metrics;

/// Lets in who may call what, and refuses the rest.
#[derive(Debug, Clone)]
pub struct Access(Arc<AccessInner>, Arc<Door>);

#[derive(Debug)]
struct AccessInner {
    known: ArcSwap<Known>,
    trust: ArcSwapOption<Trust>,
    /// How often any of that has changed.
    changes: watch::Sender<u64>,
    report: Mutex<ReadingReport>,
    denial_log: Arc<dyn DenialLog>,
}

/// What the configuration says of callers.
#[derive(Debug)]
struct Known {
    /// Absent without an `[access]` configuration: every caller may use every method.
    people: Option<Authenticator>,
    oidc: Option<Arc<Oidc>>,
    rates: Arc<Allowances>,
    written: Option<config::AccessConfig>,
}

/// Judges certificates of clients.
#[derive(Debug)]
pub struct Trust(pub Arc<dyn ClientCertVerifier>);

/// How the last reading of `[access]` went, for status.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ReadingReport {
    /// Why it could not be used; empty when it is in use.
    pub problem: String,
    /// Settings that differ from those in use until the agent is started again.
    pub restart: Vec<String>,
    /// What is wrong with the files of `[api.tls]`; what was read before stays in use.
    pub certificates: String,
    /// Why the keys that tokens are verified with were not read the last time.
    pub keys: String,
}

/// Who calls, and until when what it showed holds.
#[derive(Debug)]
pub(super) struct Identified {
    pub caller: Caller,
    pub until: Option<SystemTime>,
}

/// Everybody that is known on this machine now.
fn known(access: Option<&config::AccessConfig>, before: Option<&Known>) -> Result<Known, AccessError> {
    // Those who ask too often do not begin anew.
    let rates = before.filter(|before| {
        let written = before.written.as_ref();
        written.map(|old| &old.rates) == access.map(|new| &new.rates)
    });
    let rates = rates.map(|before| Arc::clone(&before.rates));
    let fresh = |rates: &config::Rates| Arc::new(Allowances::new(rates, DefaultClock::default()));
    let Some(access) = access else {
        return Ok(Known {
            people: None,
            oidc: None,
            rates: rates.unwrap_or_else(|| fresh(&config::Rates::default())),
            written: None,
        });
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
    Ok(Known {
        people: Some(Authenticator::new(access, &accounts, own_uid)?),
        oidc: access
            .oidc
            .as_ref()
            .map(|oidc| {
                let before = before.and_then(|before| before.oidc.as_deref());
                Oidc::new(oidc, &access.tenant_label, before).map(Arc::new)
            })
            .transpose()?,
        rates: rates.unwrap_or_else(|| fresh(&access.rates)),
        written: Some(access.clone()),
    })
}

impl Access {
    /// As configured on this machine.
    pub fn new(
        access: Option<&config::AccessConfig>,
        denial_log: Arc<dyn DenialLog>,
    ) -> Result<Self, AccessError> {
        let inner = AccessInner {
            known: ArcSwap::from_pointee(known(access, None)?),
            trust: ArcSwapOption::empty(),
            changes: watch::Sender::new(0),
            report: Mutex::default(),
            denial_log,
        };
        Ok(Access(
            Arc::new(inner),
            Arc::new(Door::new(&config::Limits::default())),
        ))
    }

    /// As configured otherwise from now on. What cannot be used changes nothing.
    pub fn replace(&self, access: &config::AccessConfig) -> Result<(), AccessError> {
        let known = known(Some(access), Some(&*self.0.known.load()))?;
        self.0.known.store(Arc::new(known));
        self.changed();
        Ok(())
    }

    /// Whose certificates hold from now on; connections whose certificates do not, end.
    pub fn trust(&self, verifier: Option<Arc<dyn ClientCertVerifier>>) {
        self.0
            .trust
            .store(verifier.map(|verifier| Arc::new(Trust(verifier))));
        self.changed();
    }

    /// Whether a connection's certificate holds now.
    pub(super) fn trusts(&self, peer: &Peer) -> bool {
        let (Shows::Certificate { chain, .. }, Some(trust)) = (&peer.shows, &*self.0.trust.load()) else {
            return true;
        };
        let Some((own, between)) = chain.split_first() else {
            return true;
        };
        match trust.0.verify_client_cert(own, between, UnixTime::now()) {
            Ok(_) => true,
            Err(error) => {
                let why = format!("the connection ends: {error}");
                self.denial_log()
                    .denied(Denial::new(peer.place.clone(), None, "TLS", why));
                false
            }
        }
    }

    /// Reads the keys that tokens are verified with again and again, for ever.
    pub async fn follow_keys(self) {
        let mut changes = self.watch();
        loop {
            changes.mark_unchanged();
            let oidc = self.0.known.load().oidc.clone();
            let due = async {
                match &oidc {
                    Some(oidc) => oidc.due().await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                () = due => {}
                // There may be other settings.
                changed = changes.changed() => match changed {
                    Ok(()) => continue,
                    Err(_) => return,
                },
            }
            let Some(oidc) = oidc else { continue };
            let (had, read) = (oidc.has_keys(), oidc.read().await);
            let problem = match &read {
                Ok(_) => String::new(),
                Err(error) => portcullis_policy::text::with_causes(error),
            };
            metrics::keys_read(read.is_ok());
            if !problem.is_empty() {
                tracing::error!(
                    %problem,
                    usable = oidc.has_keys(),
                    "the keys that tokens are verified with were not read; the last ones are used up to access.oidc.max_age"
                );
            }
            self.report_with(|report| report.keys = problem);
            if read.unwrap_or(false) || had != oidc.has_keys() {
                self.changed();
            }
        }
    }

    /// What is judged is judged again.
    fn changed(&self) {
        self.0.changes.send_modify(|changes| *changes += 1);
    }

    /// How often something has changed.
    pub fn changes(&self) -> u64 {
        *self.0.changes.borrow()
    }

    pub(super) fn watch(&self) -> watch::Receiver<u64> {
        self.0.changes.subscribe()
    }

    /// How the last reading went.
    pub fn report(&self) -> ReadingReport {
        self.0
            .report
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }

    /// Says how the last reading went.
    pub fn report_with(&self, say: impl FnOnce(&mut ReadingReport)) {
        say(&mut self.0.report.lock().unwrap_or_else(PoisonError::into_inner));
    }

    /// What provisioners may set of an endpoint.
    pub fn provisioner(&self) -> config::Provisioner {
        let known = self.0.known.load();
        known
            .written
            .as_ref()
            .map(|access| access.provisioner.clone())
            .unwrap_or_default()
    }

    /// With limits for connections and requests other than those that hold when nothing is configured.
    pub fn limited(self, limits: &config::Limits) -> Self {
        Access(self.0, Arc::new(Door::new(limits)))
    }

    /// Where connections come in.
    pub fn door(&self) -> &Arc<Door> {
        &self.1
    }

    /// A connection that has a place; accepted when access had changed so many times.
    pub fn connection<T>(&self, io: T, peer: Peer, place: ConnectionSlot, seen: u64) -> Connection<T> {
        Connection::new(io, peer, self.clone(), place, seen)
    }

    /// Where refusals are recorded.
    pub fn denial_log(&self) -> &dyn DenialLog {
        &*self.0.denial_log
    }

    /// Who is at the other end of the Unix socket.
    pub fn on_socket(&self, cred: Option<UCred>) -> Peer {
        Peer {
            place: cred.map_or_else(|| "socket".to_string(), |cred| format!("uid {}", cred.uid())),
            shows: cred.map_or(Shows::Nothing, |cred| Shows::User(cred.uid(), cred.gid())),
            activity: Arc::default(),
        }
    }

    /// Who is at the other end of TCP without TLS: an address is no credential.
    pub fn on_tcp(&self, address: Option<SocketAddr>) -> Peer {
        Peer {
            place: address.map_or_else(|| "unknown".to_string(), |a| a.to_string()),
            shows: Shows::Nothing,
            activity: Arc::default(),
        }
    }

    /// Who is at the other end of TLS; the first certificate is the one it has proved to be its own, if any.
    pub fn on_tls(&self, address: Option<SocketAddr>, chain: Option<&[CertificateDer<'static>]>) -> Peer {
        let peer = self.on_tcp(address);
        let Some(chain) = chain else { return peer };
        let Some(shown) = chain.first().and_then(|own| Shown::read(own)) else {
            return peer;
        };
        Peer {
            shows: Shows::Certificate {
                names: shown.names,
                until: shown.until,
                chain: chain.into(),
            },
            ..peer
        }
    }

    /// Who is at the other end of a connection.
    fn caller(&self, people: Option<&Authenticator>, peer: &Peer) -> Option<Caller> {
        let Some(people) = people else {
            let first = match &peer.shows {
                Shows::Certificate { names, .. } => names.first().map(|name| format!("cert {name}")),
                _ => None,
            };
            return Some(Caller::new(
                first.unwrap_or_else(|| peer.place.clone()),
                Role::Operator,
            ));
        };
        match &peer.shows {
            Shows::Nothing => None,
            Shows::User(uid, gid) => people.by_uid(*uid, *gid),
            Shows::Certificate { names, .. } => people.by_names(names),
        }
    }

    /// Who calls: a token tells before the connection does.
    fn identify(
        &self,
        peer: Option<&Peer>,
        shown: Option<&[u8]>,
        now: SystemTime,
    ) -> Result<Identified, &'static str> {
        let known = self.0.known.load();
        let people = known.people.as_ref();
        if let Some(value) = shown {
            let token = bearer(value).ok_or("authorization must be `Bearer TOKEN`")?;
            if let Some(caller) = people.and_then(|people| people.by_token(token)) {
                return Ok(Identified { caller, until: None });
            }
            return match known.oidc.as_ref().filter(|_| Oidc::is_one(token)) {
                Some(oidc) => oidc.identify(token),
                None => Err("the token is not one that the agent knows"),
            };
        }
        let peer = peer.ok_or("a credential is needed")?;
        let until = match &peer.shows {
            Shows::Certificate { until, .. } => Some(*until),
            _ => None,
        };
        if until.is_some_and(|until| until < now) {
            return Err(
                "the certificate has expired since the connection was made: connect again with a new one",
            );
        }
        let caller = self.caller(people, peer).ok_or(if until.is_some() {
            "the certificate bears no name that the agent knows"
        } else {
            "a credential that the agent knows is needed: a certificate, a token, or a user that [access] names"
        })?;
        Ok(Identified { caller, until })
    }

    /// Who calls, if it may; no rate is asked.
    pub(super) fn may(
        &self,
        path: &str,
        peer: Option<&Peer>,
        shown: Option<&[u8]>,
        now: SystemTime,
    ) -> Result<Identified, Refusal> {
        let found = self.identify(peer, shown, now).map_err(Refusal::Nobody)?;
        allowed(path, found)
    }

    /// Who calls, if it may; `None` where it does not matter.
    fn judge(
        &self,
        path: &str,
        peer: Option<&Peer>,
        headers: &HeaderMap,
        now: SystemTime,
    ) -> Result<Option<Identified>, Refusal> {
        let needs = needs(path);
        if matches!(needs, Some(Needs::Nothing)) {
            return Ok(None);
        }
        let shown = one(headers).map_err(Refusal::Nobody)?;
        let shown = shown.map(HeaderValue::as_bytes);
        let found = self.identify(peer, shown, now).map_err(Refusal::Nobody)?;
        let caller = &found.caller;
        let closes = matches!(&needs, Some(Needs::Table(method)) if method.closes(caller.role));
        // It counts, and no rate holds it up.
        if let Err(wait) = self.0.known.load().rates.take(caller.role, &caller.name)
            && !closes
        {
            return Err(Refusal::TooOften(found.caller, wait));
        }
        allowed(path, found).map(Some)
    }

    pub(super) fn refuse(&self, refusal: Refusal, path: &str, peer: Option<&Peer>) -> Status {
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
        let status = Status::from(refusal);
        match often {
            true => metrics::denied(status.code()),
            false => self.report_denial(caller, role, path.trim_start_matches('/'), &status),
        }
        status
    }

    fn report_denial(&self, caller: String, role: Option<Role>, method: &str, status: &Status) {
        metrics::denied(status.code());
        self.0
            .denial_log
            .denied(Denial::new(caller, role, method, status.message()));
    }
}

/// The caller, if its role may call this.
fn allowed(path: &str, found: Identified) -> Result<Identified, Refusal> {
    match needs(path) {
        None => Err(Refusal::NoMethod(found.caller)),
        Some(Needs::Table(method)) if method.grant(found.caller.role) == Permission::No => {
            Err(Refusal::Role {
                caller: found.caller,
                method: text::cut(path.trim_start_matches('/'), LONGEST).into_owned(),
            })
        }
        Some(_) => Ok(found),
    }
}

/// The one credential among the headers, if there is any.
fn one(headers: &HeaderMap) -> Result<Option<&HeaderValue>, &'static str> {
    let mut shown = headers.get_all(AUTHORIZATION).iter();
    match (shown.next(), shown.next()) {
        (_, Some(_)) => Err("two credentials are none: send one authorization"),
        (shown, None) => Ok(shown),
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
        // What changes from here on is looked at again while the call goes on.
        let seen = self.access.changes();
        let judged = self
            .access
            .judge(&path, peer.as_deref(), request.headers(), SystemTime::now());
        let found = match judged {
            Ok(found) => found,
            Err(refusal) => {
                let status = self.access.refuse(refusal, &path, peer.as_deref());
                return Box::pin(async move { Ok(status.into_http()) });
            }
        };
        let call = peer.as_ref().map(|peer| peer.activity.begin());
        let caller = found.as_ref().map(|found| found.caller.clone());
        let shown = request.headers().get(AUTHORIZATION).cloned();
        let right = found.map(|found| {
            Arc::new(Right {
                access: self.access.clone(),
                path: path.clone(),
                peer,
                shown,
                caller: found.caller,
                until: found.until,
                seen,
            })
        });
        let door = self.access.door();
        let (most, within) = (
            door.largest(caller.as_ref().map(|caller| caller.role)),
            door.arrival,
        );
        let mut request =
            request.map(|body| Body::new(Arriving::new(Body::new(body), most, within, right.clone())));
        // A token goes no further than here.
        request.headers_mut().remove(AUTHORIZATION);
        let ends = right
            .clone()
            .map(|right| (Arc::clone(&right), Box::pin(right.ends()) as Ends));
        let answered = |response: Response<Body>| {
            response.map(|inner| {
                Body::new(Answering {
                    inner,
                    call,
                    right: ends,
                    over: false,
                })
            })
        };
        let Some(caller) = caller else {
            let answer = self.inner.call(request);
            return Box::pin(async move { answer.await.map(answered) });
        };
        request.extensions_mut().insert(caller.clone());
        let (access, answer) = (self.access.clone(), self.inner.call(request));
        Box::pin(async move {
            let answer = match right.filter(|right| right.path == WAITS) {
                None => answer.await,
                Some(right) => tokio::select! {
                    answer = answer => answer,
                    refusal = Arc::clone(&right).ends() => {
                        return Ok(access.refuse(refusal, &path, right.peer.as_deref()).into_http());
                    }
                },
            };
            let response = answer.map(answered)?;
            // What a service refuses itself, a tenant's reach for another's endpoint, comes as a status.
            if let Some(status) = response.extensions().get::<Status>()
                && status.code() == Code::PermissionDenied
            {
                access.report_denial(
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
