//! Unlock to packet: from a customer's request to the first packet of a blocked stream that arrives, and from the release to the last
//! one.

mod place;
mod stream;

use std::path::Path;
use std::time::{Duration, Instant};

use portcullis_proto::v1;
use portcullis_proto::v1::unlock_service_client::UnlockServiceClient;
use tonic::transport::Channel;

use crate::daemon::{Daemon, End};
use crate::report::{Section, Times};
use crate::{BenchError, Result};
use place::{ENDPOINT, PROGRAM, Started};
pub use place::{Kind, bmv2_is_there};
use stream::Stream;

/// Unlocks before those that count.
const WARM_UP: u32 = 20;
/// How long packets pass before the release.
const OPEN: Duration = Duration::from_millis(10);
/// A stream without packets for so long is blocked.
const SILENCE: Duration = Duration::from_millis(40);

/// How many unlocks are measured among how many endpoints, and how finely.
#[derive(Debug, Clone, Copy)]
pub struct Options {
    /// Unlocks on each target, each requested and released.
    pub unlocks: u32,
    /// Endpoints that are attached, the one with packets among them.
    pub endpoints: u32,
    /// Pause between two packets: what the figures resolve.
    pub pace: Duration,
}

/// Measures one kind of target.
pub async fn run(kind: Kind, options: Options, agent: &Path) -> Result<Section> {
    let started = Started::new(kind, options.endpoints, agent)?;
    let mut daemon = Daemon::start(&started.place)?;
    let mut client = daemon.client().await?;
    let generation = client.apply(&started.document).await?;
    client.realized(generation).await?;
    let stream = Stream::start(&started.customer, &started.internet, options.pace)?;
    let mut api = UnlockServiceClient::new(client.channel());
    let mut times: [Times; 4] = Default::default();
    for n in 0..options.unlocks + WARM_UP {
        let measured = one(&mut api, &stream).await?;
        if n < WARM_UP {
            continue;
        }
        times
            .iter_mut()
            .zip(measured)
            .for_each(|(times, time)| times.push(time));
    }
    let sent = stream.stop()?;
    daemon.end(End::Term)?;
    let mut section = Section::new(
        format!("packet: unlock to packet on {}", started.name),
        &["what", "p50, ms", "p99, ms", "p99.9, ms", "max, ms"],
    );
    section.note(format!(
        "{} unlocks of one endpoint's UDP port, one after the other; {} endpoints attached; {sent} packets sent, {} µs apart, which \
         is what the figures resolve",
        options.unlocks,
        options.endpoints,
        options.pace.as_micros()
    ));
    section.note(
        "each unlock is durable before it is answered, and has the rows of the one before: compiled and proved at the first",
    );
    let names = [
        "RequestUnlock to its answer",
        "RequestUnlock to the first packet",
        "Release to its answer",
        "Release to the last packet",
    ];
    for (name, times) in names.iter().zip(&mut times) {
        let quantiles = [("p50", 0.5), ("p99", 0.99), ("p99.9", 0.999), ("max", 1.0)];
        let found = quantiles.map(|(which, q)| (which, times.quantile(q)));
        let cells = found.iter().map(|(_, time)| crate::report::ms(*time));
        section.row(std::iter::once((*name).to_string()).chain(cells));
        for (which, time) in found {
            section.figure(format!("{name}, {which}, ms"), time.as_secs_f64() * 1e3);
        }
    }
    Ok(section)
}

/// Requests an unlock and releases it: both calls to their answers, and to what packets meet.
async fn one(api: &mut UnlockServiceClient<Channel>, stream: &Stream) -> Result<[Duration; 4]> {
    stream.silent(SILENCE).await?;
    let request = v1::RequestUnlockRequest {
        program: PROGRAM.to_string(),
        endpoint: ENDPOINT.to_string(),
        evidence: [("purpose".to_string(), "calls of our customers".to_string())].into(),
        ..v1::RequestUnlockRequest::default()
    };
    let asked = Instant::now();
    let unlock = api
        .request_unlock(request)
        .await
        .map_err(BenchError::call("RequestUnlock"))?
        .into_inner();
    let answered = asked.elapsed();
    let first = stream.first_since(asked).await?;
    tokio::time::sleep(OPEN).await;
    let released = Instant::now();
    api.release(v1::UnlockRequest { id: unlock.id })
        .await
        .map_err(BenchError::call("Release"))?;
    let confirmed = released.elapsed();
    let last = stream.silent(SILENCE).await?;
    let closed = last.map_or(Duration::ZERO, |last| last.saturating_duration_since(released));
    Ok([
        answered,
        first.saturating_duration_since(asked),
        confirmed,
        closed,
    ])
}
