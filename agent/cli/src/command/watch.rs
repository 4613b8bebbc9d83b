//! `watch`: follows the agent through its restarts without missing a generation.

use std::time::Duration;

use portcullis_proto::v1;
use tonic::{Code, Status};

use crate::Exit;
use crate::args::Watch;
use crate::client::Client;
use crate::error::Failure;
use crate::term::Term;
use crate::view::events::EventView;

/// First pause before asking again.
const PAUSE: Duration = Duration::from_millis(200);
const PAUSE_MAX: Duration = Duration::from_secs(5);

/// Runs until it is interrupted or its output is closed.
pub async fn run(args: &Watch, client: &Client, term: &mut Term<'_>) -> Result<Exit, Failure> {
    // The generation is asked for first, so that one committed while the stream is away is not missed.
    let mut last = match args.after {
        Some(after) => after,
        None => super::list(client, None).await?.generation,
    };
    let mut pause = PAUSE;
    loop {
        let end = follow(client, &mut last, &mut pause, term).await?;
        if !passes(end.code()) {
            return Err(client.failure(end));
        }
        tokio::time::sleep(pause).await;
        pause = (pause * 2).min(PAUSE_MAX);
    }
}

/// Whether asking again can help.
fn passes(code: Code) -> bool {
    !matches!(
        code,
        Code::InvalidArgument
            | Code::NotFound
            | Code::OutOfRange
            | Code::PermissionDenied
            | Code::Unauthenticated
            | Code::Unimplemented
            | Code::FailedPrecondition
    )
}

/// Shows events until the stream ends, and why it did.
async fn follow(
    client: &Client,
    last: &mut u64,
    pause: &mut Duration,
    term: &mut Term<'_>,
) -> Result<Status, Failure> {
    let request = v1::WatchRequest {
        after_generation: *last,
        from_now: false,
    };
    let mut stream = match client.targets().watch(request).await {
        Ok(answer) => answer.into_inner(),
        Err(status) => {
            if *pause == PAUSE && passes(status.code()) {
                term.complain(&format!("the agent is away: {}; trying again", status.message()));
            }
            return Ok(status);
        }
    };
    loop {
        match stream.message().await {
            Ok(Some(event)) => {
                *pause = PAUSE;
                show(event, last, term)?;
            }
            Ok(None) => {
                term.complain("the agent ended the stream; resuming");
                return Ok(Status::unavailable("the stream ended"));
            }
            Err(status) => {
                if passes(status.code()) {
                    term.complain(&format!(
                        "the connection to the agent broke: {}; resuming",
                        status.message()
                    ));
                }
                return Ok(status);
            }
        }
    }
}

fn show(event: v1::Event, last: &mut u64, term: &mut Term<'_>) -> Result<(), Failure> {
    // Only a commit proves that everything up to its generation was seen.
    if let Some(v1::event::Event::Committed(_)) = &event.event {
        *last = (*last).max(event.generation);
    }
    match EventView::new(event) {
        Some(view) => term.show_next(&view),
        None => Ok(()),
    }
}
