//! The stream of changes. A watcher has a cursor, the newest generation it was sent, and reads what follows from
//! memory or from the store: however slow it is, it sees no gap, and the agent buffers nothing for it. When the
//! history it needs is forgotten, the stream ends with an error.

use portcullis_backend::{SessionState, TargetStatus};
use portcullis_proto::v1;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::Status;

use super::Api;
use super::status::ApiError;
use super::target::target_out;
use super::watchers::WatchSlot;
use crate::access::Caller;
use crate::store::Generation;

/// Events on their way to a client.
const BUFFER: usize = 16;

type Events = mpsc::Sender<Result<v1::Event, Status>>;

/// What of a target's status is worth an event.
type TargetNews = (SessionState, String, u64, u64, usize, usize);

fn worth_an_event(status: &TargetStatus) -> TargetNews {
    let (pending, unsupported) = (status.pending.len(), status.unsupported.len());
    (
        status.state,
        status.detail.clone(),
        status.wanted,
        status.applied,
        pending,
        unsupported,
    )
}

struct Watcher {
    api: Api,
    events: Events,
    cursor: u64,
    shown: Vec<Option<TargetNews>>,
    _place: WatchSlot,
}

/// Why a watcher ends.
enum End {
    /// The client went away.
    Gone,
    /// The watcher receives this error.
    Error(ApiError),
}

pub(super) async fn watch(
    api: &Api,
    caller: &Caller,
    request: &v1::WatchRequest,
) -> Result<ReceiverStream<Result<v1::Event, Status>>, ApiError> {
    let place = api.watcher(caller)?;
    let cursor = start(api, request).await?;
    let (events, stream) = mpsc::channel(BUFFER);
    let shown = vec![None; api.targets().handles().len()];
    let watcher = Watcher {
        api: api.clone(),
        events: events.clone(),
        cursor,
        shown,
        _place: place,
    };
    tokio::spawn(async move {
        if let End::Error(error) = watcher.run().await {
            // A client that went away meanwhile needs no reason.
            let _ = events.send(Err(error.into())).await;
        }
    });
    Ok(ReceiverStream::new(stream))
}

/// The generation behind which to begin.
async fn start(api: &Api, request: &v1::WatchRequest) -> Result<u64, ApiError> {
    let (newest, published) = api.engine().read(|state| (state.generation(), state.published()));
    let after = request.after_generation;
    if request.from_now {
        if after != 0 {
            return Err(ApiError::field(
                "from_now",
                "contradicts after_generation: set one of them",
            ));
        }
        return Ok(published);
    }
    if after > newest {
        return Err(ApiError::OutOfRange {
            wanted: after,
            why: format!("the newest generation is {newest}"),
        });
    }
    match api.engine().generations_after(after).await? {
        Ok(_) => Ok(after),
        Err(oldest) => Err(forgotten(after, oldest)),
    }
}

fn forgotten(after: u64, oldest: u64) -> ApiError {
    let why = format!(
        "the oldest that is kept is {oldest}: read the policy as a whole, then watch from its generation"
    );
    ApiError::OutOfRange {
        wanted: after + 1,
        why,
    }
}

impl Watcher {
    async fn run(mut self) -> End {
        let mut generations = self.api.engine().watch();
        let mut targets = self.api.targets().changes();
        let stopping = self.api.0.stopping.clone();
        loop {
            generations.borrow_and_update();
            targets.borrow_and_update();
            tokio::select! {
                result = self.send_changes() => if let Err(end) = result { return end },
                () = stopping.cancelled() => return End::Error(ApiError::Stopping),
            }
            tokio::select! {
                changed = generations.changed() => if changed.is_err() { return End::Error(ApiError::Stopping) },
                // Without targets nothing ever changes there.
                Ok(()) = targets.changed() => {}
                () = stopping.cancelled() => return End::Error(ApiError::Stopping),
                () = self.events.closed() => return End::Gone,
            }
        }
    }

    /// Sends what is new: generations first, then the targets that hold none later than those. A closing reaches targets while
    /// another change is being stored; its generation and these targets' states are sent together with that change.
    async fn send_changes(&mut self) -> Result<(), End> {
        let targets = self.api.targets().clone();
        let statuses: Vec<_> = targets.handles().iter().map(|target| target.status()).collect();
        self.send_generations().await?;
        for (index, (target, status)) in targets.handles().iter().zip(statuses).enumerate() {
            if status.applied.max(status.wanted) > self.cursor {
                continue;
            }
            let news = worth_an_event(&status);
            let Some(shown) = self.shown.get_mut(index) else {
                continue;
            };
            if shown.as_ref() != Some(&news) {
                *shown = Some(news);
                let event = v1::event::Event::Target(target_out(target, &status));
                self.send(v1::Event {
                    generation: self.cursor,
                    event: Some(event),
                })
                .await?;
            }
        }
        Ok(())
    }

    async fn send_generations(&mut self) -> Result<(), End> {
        loop {
            let next = self.api.engine().generations_after(self.cursor).await;
            let next = next.map_err(|error| End::Error(error.into()))?;
            let next = next.map_err(|oldest| End::Error(forgotten(self.cursor, oldest)))?;
            if next.is_empty() {
                return Ok(());
            }
            for generation in next {
                self.send(committed(&generation)).await?;
                self.cursor = generation.number;
            }
        }
    }

    async fn send(&self, event: v1::Event) -> Result<(), End> {
        self.events.send(Ok(event)).await.map_err(|_| End::Gone)
    }
}

fn committed(generation: &Generation) -> v1::Event {
    let change = |(change, key): &(crate::store::Change, crate::store::Key)| v1::ResourceChange {
        change: change.as_str().to_string(),
        resource: key.to_string(),
    };
    v1::Event {
        generation: generation.number,
        event: Some(v1::event::Event::Committed(v1::GenerationCommitted {
            changes: generation.changes.iter().map(change).collect(),
            at: generation.at,
            by: generation.by.clone(),
        })),
    }
}
