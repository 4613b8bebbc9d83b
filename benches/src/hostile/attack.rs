//! A hostile tenant: every call it may make, at a set rate, and connections that send little.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use portcullis_proto::v1;
use portcullis_proto::v1::endpoint_service_client::EndpointServiceClient;
use portcullis_proto::v1::policy_service_client::PolicyServiceClient;
use portcullis_proto::v1::unlock_service_client::UnlockServiceClient;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpSocket;
use tokio::task::JoinSet;
use tonic::Code;

use super::{Line, dns, request, to};

/// Connections that make calls, and calls under way on each.
const CONNECTIONS: u8 = 8;
const CALLS: u32 = 8;
/// Addresses from which silent connections come, and how many from each.
const ADDRESSES: u8 = 4;
const SILENT: u32 = 100;
/// Bytes of evidence in a request that is refused for its size.
const HUGE: usize = 8 << 20;
/// Between two connections, or two huge messages.
const PAUSE: Duration = Duration::from_millis(200);
/// What an HTTP/2 connection begins with.
const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// What came of its calls.
#[derive(Debug, Default)]
pub(super) struct Calls {
    /// Answered with what was asked for.
    pub(super) taken: AtomicU64,
    /// Refused for asking too often or for too much.
    pub(super) limited: AtomicU64,
    /// Refused for other reasons.
    pub(super) refused: AtomicU64,
}

impl Calls {
    fn count<T>(&self, answer: &Result<T, tonic::Status>) {
        let which = match answer {
            Ok(_) => &self.taken,
            Err(status) if status.code() == Code::ResourceExhausted => &self.limited,
            Err(_) => &self.refused,
        };
        which.fetch_add(1, Ordering::Relaxed);
    }
}

/// All of it, until the set is dropped: so many calls a second in all.
pub(super) fn begin(at: SocketAddr, endpoints: u32, per_second: u32) -> (JoinSet<()>, Arc<Calls>) {
    let calls = Arc::new(Calls::default());
    let mut tasks = JoinSet::new();
    let each = u32::from(CONNECTIONS) * CALLS;
    let pause = Duration::from_secs(1) * each / per_second.max(1);
    for from in 0..CONNECTIONS {
        let calls = Arc::clone(&calls);
        tasks.spawn(async move {
            let Ok(line) = to(at, from_address(from), "hostile").await else {
                return;
            };
            let mut callers = JoinSet::new();
            for n in 0..CALLS {
                callers.spawn(call(line.clone(), n, endpoints, pause, Arc::clone(&calls)));
            }
            callers.spawn(watch(line.clone(), Arc::clone(&calls)));
            if from == 0 {
                callers.spawn(huge(line, Arc::clone(&calls)));
            }
            callers.join_all().await;
        });
    }
    for address in 0..ADDRESSES {
        for n in 0..SILENT {
            tasks.spawn(silent(at, from_address(100 + address), n % 2 == 0));
        }
    }
    (tasks, calls)
}

fn from_address(n: u8) -> IpAddr {
    Ipv4Addr::new(127, 0, 9, n + 1).into()
}

/// Every call that a tenant may make, in turn.
async fn call(line: Line, first: u32, endpoints: u32, pause: Duration, calls: Arc<Calls>) {
    let mut unlocks = UnlockServiceClient::new(line.clone());
    let mut policy = PolicyServiceClient::new(line.clone());
    let mut all = EndpointServiceClient::new(line);
    let mut n = first;
    let mut known = String::from("u-none");
    loop {
        let endpoint = format!("h{}", n % endpoints.max(1));
        let why = v1::WhyBlockedRequest {
            endpoint: endpoint.clone(),
            direction: v1::Direction::Egress.into(),
            protocol: "tcp".to_string(),
            port: 25,
            remote: String::new(),
        };
        match n % 8 {
            0 => {
                let host = format!("{}{n}.example.net", dns::SLOW);
                let answer = unlocks.request_unlock(request("checked", &endpoint, &host)).await;
                calls.count(&answer);
                if let Ok(unlock) = answer {
                    known = unlock.into_inner().id;
                }
            }
            1 => {
                let most = v1::ListUnlocksRequest {
                    page_size: 1000,
                    ..v1::ListUnlocksRequest::default()
                };
                calls.count(&unlocks.list_unlocks(most).await);
            }
            2 => calls.count(&unlocks.why_blocked(why).await),
            3 => {
                let id = known.clone();
                calls.count(&unlocks.get_unlock(v1::UnlockRequest { id }).await);
            }
            4 => calls.count(
                &unlocks
                    .describe_program(v1::DescribeProgramRequest::default())
                    .await,
            ),
            5 => calls.count(&all.list_endpoints(v1::ListRequest::default()).await),
            6 => {
                let explain = v1::ExplainRequest {
                    endpoint,
                    direction: v1::Direction::Egress.into(),
                    protocol: "tcp".to_string(),
                    port: 25,
                    ..v1::ExplainRequest::default()
                };
                calls.count(&policy.explain(explain).await);
            }
            _ => {
                let renew = v1::RenewUnlockRequest {
                    id: known.clone(),
                    lease_seconds: 0,
                };
                calls.count(&unlocks.renew(renew).await);
            }
        }
        n = n.wrapping_add(1);
        tokio::time::sleep(pause).await;
    }
}

/// As many streams as it gets.
async fn watch(line: Line, calls: Arc<Calls>) {
    let mut api = UnlockServiceClient::new(line);
    let mut held = Vec::new();
    loop {
        let answer = api.watch_unlocks(v1::WatchUnlocksRequest::default()).await;
        calls.count(&answer);
        held.extend(answer);
        tokio::time::sleep(PAUSE).await;
    }
}

/// Messages that are larger than it may send.
async fn huge(line: Line, calls: Arc<Calls>) {
    let mut api = UnlockServiceClient::new(line).max_encoding_message_size(2 * HUGE);
    loop {
        let mut large = request("checked", "h0", "slow.example.net");
        large.evidence.insert("purpose".to_string(), "x".repeat(HUGE));
        calls.count(&api.request_unlock(large).await);
        tokio::time::sleep(PAUSE).await;
    }
}

/// A connection that says nothing, or only how it would begin, and is made again when it is closed.
async fn silent(at: SocketAddr, from: IpAddr, begins: bool) {
    loop {
        if let Ok(socket) = TcpSocket::new_v4()
            && socket.bind(SocketAddr::new(from, 0)).is_ok()
            && let Ok(mut stream) = socket.connect(at).await
        {
            let began = !begins || stream.write_all(PREFACE).await.is_ok();
            let mut buffer = [0; 256];
            while began && matches!(stream.read(&mut buffer).await, Ok(1..)) {}
        }
        tokio::time::sleep(PAUSE).await;
    }
}
