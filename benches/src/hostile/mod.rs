//! One tenant at its limits on every call, beside others who make requests and have leases that end: what they notice, and what
//! the agent needs for it. A quiet phase and a hostile one, one after the other, of one agent.

mod attack;
mod dns;

use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener};
use std::path::Path;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use portcullis_policy::Document;
use portcullis_proto::v1;
use portcullis_proto::v1::unlock_service_client::UnlockServiceClient;
use serde_json::json;
use sha2::{Digest, Sha256};
use tokio::net::UdpSocket;
use tokio::task::JoinSet;
use tonic::metadata::{Ascii, MetadataValue};
use tonic::service::Interceptor;
use tonic::service::interceptor::InterceptedService;
use tonic::transport::{Channel, Endpoint};

use crate::daemon::{Daemon, End, Place};
use crate::machine::field;
use crate::report::{Section, Times, ms};
use crate::{BenchError, Result};

/// A target that never is: what is measured is the agent alone.
const TARGET: &str = "name = \"ovs\"\nkind = \"ovs\"\novsdb = \"unix:/nonexistent/db.sock\"\n";
/// Every lease of the others.
const LEASE: Duration = Duration::from_secs(2);
/// Between two requests of one of them.
const PAUSE: Duration = Duration::from_millis(500);
/// How long ends of leases are waited for after a phase.
const LATEST: Duration = Duration::from_secs(5);
/// The hostile tenant's begin, before figures are taken.
const WARM: Duration = Duration::from_secs(5);
/// Endpoints of the hostile tenant.
const ENDPOINTS: u32 = 50;
/// How often memory and descriptors are looked at.
const LOOK: Duration = Duration::from_millis(100);

#[derive(Debug, Clone)]
pub struct Options {
    pub tenants: u32,
    /// Seconds of each phase.
    pub seconds: u64,
    /// Calls a second that the hostile tenant makes.
    pub calls: u32,
}

/// Shows a token with every call.
#[derive(Debug, Clone)]
struct Shows(MetadataValue<Ascii>);

impl Interceptor for Shows {
    fn call(
        &mut self,
        mut request: tonic::Request<()>,
    ) -> std::result::Result<tonic::Request<()>, tonic::Status> {
        request.metadata_mut().insert("authorization", self.0.clone());
        Ok(request)
    }
}

type Line = InterceptedService<Channel, Shows>;

/// A connection of a tenant, from an address of its own.
async fn to(at: SocketAddr, from: IpAddr, tenant: &str) -> Result<Line> {
    let untrue = |error: String| BenchError::Untrue(error);
    let token = format!("Bearer {tenant}")
        .parse()
        .map_err(|_| untrue("a token is no text".to_string()))?;
    let endpoint =
        Endpoint::from_shared(format!("http://{at}")).map_err(|error| untrue(error.to_string()))?;
    let channel = endpoint.local_address(Some(from)).connect().await;
    let channel = channel.map_err(|error| untrue(format!("a tenant cannot connect: {error}")))?;
    Ok(InterceptedService::new(channel, Shows(token)))
}

fn document(tenants: u32) -> Result<Document> {
    let program = json!({
        "opens": [{"direction": "egress", "protocol": "tcp", "ports": [25]}],
        "evidence": [{"name": "purpose", "type": "text", "min_length": 10}, {"name": "hostname", "type": "hostname"}],
        "checks": [{"kind": "address", "hostname": "hostname"}],
        "lease": {"default": "2s", "max": "24h", "renewable": true},
        "limits": {"per_endpoint": 1000},
    });
    let own = (0..tenants).map(|n| (format!("e{n}"), json!({"labels": {"tenant": format!("t{n}")}})));
    let hostile = (0..ENDPOINTS).map(|n| (format!("h{n}"), json!({"labels": {"tenant": "hostile"}})));
    let endpoints: serde_json::Map<String, serde_json::Value> = own.chain(hostile).collect();
    let document: Document = serde_json::from_value(json!({
        "version": "portcullis/v1",
        "baseline": [{"name": "smtp", "action": "deny", "direction": "egress", "protocol": "tcp", "ports": [25]}],
        "programs": {"checked": program},
        "endpoints": endpoints,
    }))?;
    document.validate()?;
    Ok(document)
}

fn settings(tenants: u32, resolver: SocketAddr) -> String {
    let uid = field("/proc/self/status", "Uid");
    let uid = uid.split_whitespace().next().unwrap_or("0").to_string();
    let names = (0..tenants)
        .map(|n| format!("t{n}"))
        .chain(["hostile".to_string()]);
    let tokens = names.map(|name| {
        let digest: String = Sha256::digest(&name).iter().map(|byte| format!("{byte:02x}")).collect();
        format!(
            "[[access.token]]\nname = \"{name}\"\nsha256 = \"{digest}\"\nrole = \"tenant\"\ntenant = \"{name}\"\n"
        )
    });
    format!(
        "[[access.user]]\nuid = {uid}\nrole = \"operator\"\n{}[checks]\nresolvers = [\"{resolver}\"]\n",
        tokens.collect::<String>()
    )
}

fn request(program: &str, endpoint: &str, host: &str) -> v1::RequestUnlockRequest {
    let evidence = [("purpose", "mail to our customers"), ("hostname", host)];
    v1::RequestUnlockRequest {
        program: program.to_string(),
        endpoint: endpoint.to_string(),
        evidence: evidence.map(|(k, v)| (k.to_string(), v.to_string())).into(),
        ..v1::RequestUnlockRequest::default()
    }
}

/// What one of the others noticed.
#[derive(Debug, Default)]
struct Noticed {
    requests: Times,
    lists: Times,
    /// From a request to open ports.
    opens: Times,
    /// Beyond the end of a lease.
    ends: Times,
    refused: u32,
}

impl Noticed {
    fn add(&mut self, other: Noticed) {
        self.requests.extend(other.requests);
        self.lists.extend(other.lists);
        self.opens.extend(other.opens);
        self.ends.extend(other.ends);
        self.refused += other.refused;
    }
}

/// One of the others: requests, lists, and sees its leases begin and end.
async fn tenant(line: Line, n: u32, lasts: Duration) -> Result<Noticed> {
    let mut api = UnlockServiceClient::new(line);
    let watch = v1::WatchUnlocksRequest::default();
    let mut events = api
        .watch_unlocks(watch)
        .await
        .map_err(BenchError::call("WatchUnlocks"))?
        .into_inner();
    let mut noticed = Noticed::default();
    let began = Instant::now();
    let mut next = tokio::time::Instant::now() + PAUSE * n / 20;
    // By id: when it was asked for, and when it was seen open.
    let mut asked = std::collections::HashMap::new();
    let mut open = std::collections::HashMap::new();
    while began.elapsed() < lasts + LATEST {
        tokio::select! {
            () = tokio::time::sleep_until(next), if began.elapsed() < lasts => {
                next += PAUSE;
                let at = Instant::now();
                let (endpoint, host) = (format!("e{n}"), format!("good{n}.example.net"));
                match api.request_unlock(request("checked", &endpoint, &host)).await {
                    Ok(unlock) => {
                        noticed.requests.push(at.elapsed());
                        asked.insert(unlock.into_inner().id, at);
                    }
                    Err(_) => noticed.refused += 1,
                }
                let at = Instant::now();
                let page = v1::ListUnlocksRequest { page_size: 10, ..v1::ListUnlocksRequest::default() };
                match api.list_unlocks(page).await {
                    Ok(_) => noticed.lists.push(at.elapsed()),
                    Err(_) => noticed.refused += 1,
                }
            }
            event = events.message() => {
                let event = event.map_err(BenchError::call("WatchUnlocks"))?;
                let Some(unlock) = event.and_then(|event| event.unlock) else { break };
                match unlock.state() {
                    v1::UnlockState::Active => {
                        open.insert(unlock.id.clone(), Instant::now());
                        noticed.opens.extend(asked.remove(&unlock.id).map(|at| at.elapsed()));
                    }
                    v1::UnlockState::Expired => {
                        let late = open.remove(&unlock.id).map(|at| at.elapsed().saturating_sub(LEASE));
                        noticed.ends.extend(late);
                    }
                    _ => {}
                }
            }
            () = tokio::time::sleep(LOOK) => {}
        }
    }
    // A lease that nobody saw end is no short one.
    noticed
        .ends
        .extend(open.into_values().map(|at| at.elapsed().saturating_sub(LEASE)));
    Ok(noticed)
}

/// What one phase came to.
struct Phase {
    noticed: Noticed,
    memory: f64,
    descriptors: usize,
}

async fn phase(options: &Options, at: SocketAddr, daemon: &Daemon) -> Result<Phase> {
    let lasts = Duration::from_secs(options.seconds);
    let mut tenants = JoinSet::new();
    for n in 0..options.tenants {
        let from = Ipv4Addr::new(127, 0, 1, u8::try_from(n % 250).unwrap_or(0) + 1);
        let line = to(at, from.into(), &format!("t{n}")).await?;
        tenants.spawn(tenant(line, n, lasts));
    }
    let mut phase = Phase {
        noticed: Noticed::default(),
        memory: 0.0,
        descriptors: 0,
    };
    loop {
        tokio::select! {
            done = tenants.join_next() => match done {
                None => return Ok(phase),
                Some(done) => phase.noticed.add(done.map_err(|error| BenchError::Untrue(error.to_string()))??),
            },
            () = tokio::time::sleep(LOOK) => {}
        }
        let [now, _] = daemon.memory();
        phase.memory = phase.memory.max(now);
        phase.descriptors = phase.descriptors.max(daemon.descriptors());
    }
}

pub async fn run(options: &Options, agent: &Path) -> Result<Section> {
    let folder = tempfile::tempdir().map_err(BenchError::io("make a temporary folder"))?;
    let socket = UdpSocket::bind("127.0.0.1:0")
        .await
        .map_err(BenchError::io("bind a DNS server"))?;
    let resolver = socket.local_addr().map_err(BenchError::io("bind a DNS server"))?;
    let mut served = JoinSet::new();
    served.spawn(dns::serve(socket));
    let free = TcpListener::bind("127.0.0.1:0").map_err(BenchError::io("find a free TCP port"))?;
    let at = free
        .local_addr()
        .map_err(BenchError::io("find a free TCP port"))?;
    drop(free);
    let api = format!("listen = \"{at}\"\ninsecure = true\n");
    let place = Place::prepare_with(
        agent,
        folder.path(),
        TARGET,
        &api,
        &settings(options.tenants, resolver),
    )?;
    let mut daemon = Daemon::start(&place)?;
    let mut client = daemon.client().await?;
    client.apply(&document(options.tenants)?).await?;

    let quiet = phase(options, at, &daemon).await?;
    let (attack, calls) = attack::begin(at, ENDPOINTS, options.calls);
    tokio::time::sleep(WARM).await;
    let hostile = phase(options, at, &daemon).await?;
    drop(attack);
    daemon.end(End::Term)?;

    let mut section = Section::new(
        format!(
            "hostile: {} tenants, alone and beside a hostile one",
            options.tenants
        ),
        &["what", "quiet", "hostile"],
    );
    let count = |calls: &std::sync::atomic::AtomicU64| calls.load(Ordering::Relaxed);
    section.note(format!(
        "each phase {} s, one agent with its default limits; each tenant makes a request with a check by DNS and a list every {} ms",
        options.seconds,
        PAUSE.as_millis()
    ));
    section.note(format!(
        "the hostile tenant: {} calls a second of every kind, all the streams it gets, 400 connections that say nothing, messages \
         of 8 MiB, DNS zones that do not answer; of its calls {} were answered, {} refused for a limit, {} for another reason",
        options.calls,
        count(&calls.taken),
        count(&calls.limited),
        count(&calls.refused)
    ));
    section.note("its client runs on the same machine and takes part in the figures".to_string());
    table(&mut section, quiet, hostile);
    Ok(section)
}

fn table(section: &mut Section, mut quiet: Phase, mut hostile: Phase) {
    type Of = fn(&mut Noticed) -> &mut Times;
    let rows: [(&str, &str, Of); 4] = [
        ("request", "request", |noticed| &mut noticed.requests),
        ("list", "list", |noticed| &mut noticed.lists),
        ("from request to open", "open", |noticed| &mut noticed.opens),
        ("end of a lease, late by", "lease_end", |noticed| {
            &mut noticed.ends
        }),
    ];
    for (what, key, of) in rows {
        for (which, q) in [("p50", 0.5), ("p99", 0.99), ("max", 1.0)] {
            let both = [
                of(&mut quiet.noticed).quantile(q),
                of(&mut hostile.noticed).quantile(q),
            ];
            section.row([format!("{what}, {which}, ms"), ms(both[0]), ms(both[1])]);
            for (phase, time) in ["quiet", "hostile"].iter().zip(both) {
                section.figure(format!("{key}_{which}_{phase}_ms"), time.as_secs_f64() * 1e3);
            }
        }
    }
    let pairs = [
        (
            "requests",
            quiet.noticed.requests.len() as f64,
            hostile.noticed.requests.len() as f64,
        ),
        (
            "leases",
            quiet.noticed.ends.len() as f64,
            hostile.noticed.ends.len() as f64,
        ),
        (
            "refused calls of the others",
            f64::from(quiet.noticed.refused),
            f64::from(hostile.noticed.refused),
        ),
        ("memory of the agent at most, MiB", quiet.memory, hostile.memory),
        (
            "open descriptors of the agent at most",
            quiet.descriptors as f64,
            hostile.descriptors as f64,
        ),
    ];
    for (what, before, after) in pairs {
        section.row([what.to_string(), format!("{before:.0}"), format!("{after:.0}")]);
        let key = what.replace([' ', ','], "_");
        section.figure(format!("{key}_quiet"), before);
        section.figure(format!("{key}_hostile"), after);
    }
}
