//! Requests for unlocks, each durable before it is answered: how many a second, and what many of them cost.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use portcullis_policy::Document;
use portcullis_proto::v1;
use portcullis_proto::v1::unlock_service_client::UnlockServiceClient;
use serde_json::json;
use tonic::transport::Channel;

use crate::daemon::{Daemon, End, Place};
use crate::report::{Section, median};
use crate::{BenchError, Result};

/// A target that never is: what is measured is the agent alone.
const TARGET: &str = "name = \"ovs\"\nkind = \"ovs\"\novsdb = \"unix:/nonexistent/db.sock\"\n";
/// Longest wait for unlocks to become active.
const PATIENCE: Duration = Duration::from_secs(300);

#[derive(Debug, Clone)]
pub struct Options {
    /// Unlocks that become active.
    pub active: u32,
    /// Unlocks that are stored in the end, ended ones included.
    pub stored: u32,
    /// Requests under way at a time.
    pub in_flight: u32,
}

fn document(endpoints: u32) -> Result<Document> {
    let opens = json!([{"direction": "egress", "protocol": "tcp", "ports": [25]}]);
    let evidence = json!([{"name": "purpose", "type": "text", "min_length": 10}, {"name": "hostname", "type": "hostname"}]);
    let program = |approval: &str| {
        json!({"opens": opens, "evidence": evidence, "approval": approval, "require": "evidence.purpose != \"\"",
               "lease": {"default": "24h"}, "limits": {"per_endpoint": 1_000_000}})
    };
    let name = |n: u32| format!("e{n}");
    let endpoints: serde_json::Map<String, serde_json::Value> =
        (0..endpoints.max(1)).map(|n| (name(n), json!({}))).collect();
    let document: Document = serde_json::from_value(json!({
        "version": "portcullis/v1",
        "baseline": [{"name": "smtp", "action": "deny", "direction": "egress", "protocol": "tcp", "ports": [25]}],
        "programs": {"automatic": program("automatic"), "manual": program("manual")},
        "endpoints": endpoints,
    }))?;
    document.validate()?;
    Ok(document)
}

fn request(program: &str, endpoint: u32) -> v1::RequestUnlockRequest {
    let evidence = [
        ("purpose", "mail to our customers"),
        ("hostname", "mail.example.com"),
    ];
    v1::RequestUnlockRequest {
        program: program.to_string(),
        endpoint: format!("e{endpoint}"),
        evidence: evidence.map(|(k, v)| (k.to_string(), v.to_string())).into(),
        ..v1::RequestUnlockRequest::default()
    }
}

/// Requests under a program, so many at a time, each released again if that is wanted; how long it took.
async fn requests(
    api: &UnlockServiceClient<Channel>,
    (program, count): (&'static str, u32),
    endpoints: u32,
    in_flight: u32,
    release: bool,
) -> Result<Duration> {
    let next = Arc::new(AtomicU32::new(0));
    let began = Instant::now();
    let mut tasks = tokio::task::JoinSet::new();
    for _ in 0..in_flight.max(1) {
        let (mut api, next) = (api.clone(), Arc::clone(&next));
        tasks.spawn(async move {
            loop {
                let n = next.fetch_add(1, Ordering::Relaxed);
                if n >= count {
                    return Ok::<(), tonic::Status>(());
                }
                let made = api
                    .request_unlock(request(program, n % endpoints))
                    .await?
                    .into_inner();
                if release {
                    api.release(v1::UnlockRequest { id: made.id }).await?;
                }
            }
        });
    }
    while let Some(done) = tasks.join_next().await {
        done.map_err(|error| BenchError::Untrue(error.to_string()))?
            .map_err(|status| BenchError::Untrue(status.to_string()))?;
    }
    Ok(began.elapsed())
}

async fn active(api: &mut UnlockServiceClient<Channel>, endpoint: u32) -> Result<bool> {
    let request = v1::ListUnlocksRequest {
        endpoint: format!("e{endpoint}"),
        ..v1::ListUnlocksRequest::default()
    };
    let listed = api.list_unlocks(request).await;
    let listed = listed
        .map_err(|status| BenchError::Untrue(status.to_string()))?
        .into_inner();
    Ok(listed
        .unlocks
        .iter()
        .any(|unlock| unlock.state() == v1::UnlockState::Active))
}

/// Milliseconds of one call, the median of some.
async fn each<F: Future<Output = std::result::Result<(), tonic::Status>>>(
    mut call: impl FnMut(u32) -> F,
) -> Result<f64> {
    let mut times = Vec::new();
    for n in 0..50 {
        let began = Instant::now();
        call(n)
            .await
            .map_err(|status| BenchError::Untrue(status.to_string()))?;
        times.push(began.elapsed().as_secs_f64() * 1e3);
    }
    Ok(median(&times))
}

pub async fn run(options: &Options, agent: &Path) -> Result<Section> {
    let folder = tempfile::tempdir().map_err(BenchError::io("make a temporary folder"))?;
    let place = Place::prepare(agent, folder.path(), TARGET)?;
    let mut daemon = Daemon::start(&place)?;
    let mut client = daemon.client().await?;
    client.apply(&document(options.active)?).await?;
    let mut api = UnlockServiceClient::new(client.channel());
    let mut section = Section::new(
        "unlocks: requests durable before they are answered, one agent, one client",
        &["what", "figure"],
    );
    section.note(format!(
        "{} requests under way at a time; evidence, an expression, no checks",
        options.in_flight
    ));

    let took = requests(
        &api,
        ("automatic", options.active),
        options.active,
        options.in_flight,
        false,
    )
    .await?;
    let rate = f64::from(options.active) / took.as_secs_f64();
    section.row([
        "requests accepted per second, while they are granted".to_string(),
        format!("{rate:.0}"),
    ]);
    section.figure("requests_per_s", rate);
    let began = Instant::now();
    while !active(&mut api, options.active.saturating_sub(1)).await? {
        if began.elapsed() > PATIENCE {
            return Err(BenchError::Untrue(
                "the last unlock does not become active".to_string(),
            ));
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    let granted = (took + began.elapsed()).as_secs_f64();
    section.row([
        format!("until all {} are active, s", options.active),
        format!("{granted:.1}"),
    ]);
    section.figure("active_s", granted);

    let ended = options.stored.saturating_sub(options.active);
    let took = requests(&api, ("manual", ended), options.active, options.in_flight, true).await?;
    let rate = 2.0 * f64::from(ended) / took.as_secs_f64();
    section.row([
        "requests and releases per second, beside them".to_string(),
        format!("{rate:.0}"),
    ]);
    section.figure("requests_and_releases_per_s", rate);

    let page = |states: Vec<i32>, endpoint: String| v1::ListUnlocksRequest {
        page_size: 100,
        states,
        endpoint,
        ..v1::ListUnlocksRequest::default()
    };
    let newest = each(|_| {
        let mut api = api.clone();
        async move { api.list_unlocks(page(Vec::new(), String::new())).await.map(drop) }
    });
    let of_one = |n: u32| page(vec![v1::UnlockState::Active.into()], format!("e{n}"));
    let active = each(|n| {
        let (mut api, request) = (api.clone(), of_one(n));
        async move { api.list_unlocks(request).await.map(drop) }
    });
    for (what, key, ms) in [
        ("a page of 100 of all", "page_ms", newest.await?),
        ("the active ones of one endpoint", "endpoint_ms", active.await?),
    ] {
        section.row([
            format!("{what}, {} stored, ms", options.stored),
            format!("{ms:.2}"),
        ]);
        section.figure(key, ms);
    }
    let alone = each(|n| {
        let mut api = api.clone();
        async move { api.request_unlock(request("manual", n % 10)).await.map(drop) }
    });
    let alone = alone.await?;
    section.row(["one request alone, ms".to_string(), format!("{alone:.2}")]);
    section.figure("request_ms", alone);
    let [now, most] = daemon.memory();
    section.row([
        "memory of the agent now, at most, MiB".to_string(),
        format!("{now:.0}, {most:.0}"),
    ]);
    section.figure("memory_mib", now);
    daemon.end(End::Term)?;
    Ok(section)
}
