//! One module per command: arguments to calls to a view.

pub mod apply;
pub mod audit;
pub mod bypass;
pub mod compile;
pub mod docs;
pub mod doctor;
pub mod endpoint;
pub mod explain;
pub mod get;
pub mod hits;
pub mod offload;
pub mod plan;
pub mod status;
pub mod unlock;
pub mod watch;

use std::path::Path;

use portcullis_proto::v1;
use tonic::Code;

use super::args::Wait;
use super::client::Client;
use super::error::Failure;
use super::term::Term;
use super::view::status::StatusView;
use super::view::targets::TargetView;

/// Reads a document; `-` is stdin.
fn read(path: &Path) -> Result<String, Failure> {
    let text = match path.to_str() {
        Some("-") => std::io::read_to_string(std::io::stdin()),
        _ => std::fs::read_to_string(path),
    };
    text.map_err(|source| Failure::Read {
        path: path.to_path_buf(),
        source,
    })
}

/// Whether every target holds a generation within a time, and how they stand then. 0 is the newest generation.
async fn wait_realized(client: &Client, generation: u64, seconds: u32) -> Result<StatusView, Failure> {
    let request = v1::WaitRealizedRequest {
        generation,
        timeout_ms: seconds.saturating_mul(1000),
    };
    match client.targets().wait_realized(request).await {
        Ok(answer) => {
            let answer = answer.into_inner();
            let view = StatusView::new(answer.generation, answer.targets);
            let mut view = view.with_store(answer.store).with_bypasses(answer.bypasses);
            // A target may have begun on a later generation since it held this one.
            view.realized = answer.realized && !view.targets.is_empty();
            Ok(view)
        }
        Err(status) if status.code() == Code::DeadlineExceeded => list(client, Some(generation)).await,
        Err(status) => Err(client.failure(status)),
    }
}

/// The targets now, measured by a generation; by the newest when it is absent or 0.
async fn list(client: &Client, generation: Option<u64>) -> Result<StatusView, Failure> {
    let answer = client.targets().list_targets(v1::ListTargetsRequest {}).await;
    let answer = answer.map_err(|s| client.failure(s))?.into_inner();
    let generation = generation.filter(|g| *g != 0).unwrap_or(answer.generation);
    Ok(StatusView::new(generation, answer.targets)
        .with_store(answer.store)
        .with_access(answer.access)
        .with_bypasses(answer.bypasses))
}

/// Waits for a change to be realized, when asked to; names the targets that are behind on stderr.
async fn settle(
    client: &Client,
    wait: Wait,
    generation: u64,
    term: &mut Term<'_>,
) -> Result<Option<bool>, Failure> {
    let Some(seconds) = wait.wait else { return Ok(None) };
    let status = wait_realized(client, generation, seconds).await?;
    if !status.realized {
        term.complain(&behind(generation, seconds, &status.targets));
    }
    Ok(Some(status.realized))
}

/// Names the targets on which a change is not enforced because they are away or cannot be used. One whose connection is being set up
/// is not named: every first apply meets one. The change is made, whatever the answer is: callers who may not see targets, or whose
/// agent is gone by now, are not told.
async fn warn_of_away(client: &Client, term: &mut Term<'_>) {
    let Ok(answer) = client.targets().list_targets(v1::ListTargetsRequest {}).await else {
        return;
    };
    let away = ["Disconnected", "Unusable"];
    for target in answer.into_inner().targets {
        if away.contains(&target.state.as_str()) {
            term.complain(&format!(
                "warning: target {} is {}, and the change is not enforced there yet: {}",
                target.name, target.state, target.detail
            ));
        }
    }
}

/// Names the targets that do not hold a generation after `seconds`.
fn behind(generation: u64, seconds: u32, targets: &[TargetView]) -> String {
    let mut text = format!("generation {generation} is durable and not realized after {seconds} s");
    match targets {
        [] => text += ": there is no target; see the agent's log for what it looked for",
        targets => {
            for target in targets.iter().filter(|t| !t.holds(generation)) {
                text += &format!("\n  {}", target.line());
            }
        }
    }
    text
}
