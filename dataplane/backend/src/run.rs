//! The run loop of every target: intents, questions, timers and status. A kind of target brings a [`TargetDriver`].

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use portcullis_compiler::Intent;
use portcullis_compiler::compilation::Demand;
use portcullis_policy::Name;
use tokio::sync::{oneshot, watch};
use tokio::time::MissedTickBehavior;

use crate::checkup::Check;
use crate::handle::{EnforcingRow, Hit, Plan, Query, QueryError, TargetContext, Trace};
use crate::offload::Offload;
use crate::state::{Lists, Report, TargetState};
use crate::status::TargetStatus;
use crate::time::Time;
use crate::timers::TICK;
use crate::windows::cause;

/// Where the answer to a question goes. The caller that asked may be gone, which is no error.
pub type Answer<T> = oneshot::Sender<Result<T, QueryError>>;

/// What a kind of target brings: its connections, and its rows. [`run`] calls it from one task, so that nothing here happens
/// at the same time.
pub trait TargetDriver: Send {
    /// What happens on its connections.
    type Event: Send;

    /// The clocks and pending timers of this target.
    fn time(&mut self) -> &mut Time;

    /// What it keeps as every target does.
    fn state(&mut self) -> &mut TargetState;

    /// Tries the connections that are due. Nothing else happens meanwhile, so that each wait for a peer is bounded.
    fn connect(&mut self) -> impl Future<Output = ()> + Send;

    /// Whether there is a connection to the datapath: without one, nothing is read back and nothing tried again.
    fn is_connected(&self) -> bool;

    /// Waits for the next event. Dropped at any `await` when something else happens first, it must lose nothing.
    fn next(&mut self) -> impl Future<Output = Self::Event> + Send;

    /// Feeds one event of the datapath into the session and writes what follows from it.
    fn handle(&mut self, event: Self::Event) -> impl Future<Output = ()> + Send;

    /// Sends what is to be sent; after everything that happened.
    fn flush(&mut self);

    /// Builds the desired rows anew, from the newest intent, the ports and the time of now.
    fn rebuild(&mut self) -> impl Future<Output = ()> + Send;

    /// The endpoints that unlocks have opened whose end was at this time since the Unix epoch, or before.
    fn due(&self, wall: Duration) -> BTreeSet<Name>;

    /// Whether the datapath ends unlocks by itself: else they are open until the agent's rows are confirmed.
    fn ends_by_itself(&self) -> bool;

    /// Tries again what the datapath refused.
    fn try_again(&mut self) -> impl Future<Output = ()> + Send;

    /// Reads the rows back.
    fn read_back(&mut self) -> impl Future<Output = ()> + Send;

    /// Does what else depends on time, every [`TICK`].
    fn tick(&mut self) -> impl Future<Output = ()> + Send {
        async {}
    }

    /// Whether its rows are known, so that questions can be answered.
    fn is_ready(&self) -> bool;

    /// What would this intent change?
    fn plan(&mut self, intent: &Intent) -> Result<Plan, QueryError>;

    /// Which rows decide about this packet?
    fn explain(&mut self, trace: &Trace, answer: Answer<Vec<EnforcingRow>>);

    /// How often did each rule decide?
    fn hits(&mut self, answer: Answer<Vec<Hit>>);

    /// Which of the flows that the datapath has cached are carried out in hardware? A target whose tables are the datapath caches none.
    fn offload(&mut self, answer: Answer<Offload>) {
        let name = self.state().name.clone();
        drop(answer.send(Err(QueryError::NotCached(name))));
    }

    /// What do the settings of the switch cost policy traffic? It is asked also while there is no session. Kinds of target whose
    /// settings are the agent's own have none.
    fn checkup(&mut self, answer: Answer<Vec<Check>>) {
        drop(answer.send(Ok(Vec::new())));
    }

    /// Takes the packets that each rule denies in a minute. A target without room for every rule holds those that deny most.
    fn demand(&mut self, _demand: Demand) {}

    /// How the session stands.
    fn report(&mut self) -> Report;

    /// The parts of status that only this kind of target can say: ports, rules that it cannot enforce, drift.
    fn lists(&self) -> Lists;
}

/// Runs a target until the context says stop.
pub async fn run<D: TargetDriver>(mut target: D, mut context: TargetContext) {
    let mut ticks = tokio::time::interval(TICK);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut intents_open = true;
    loop {
        tokio::select! {
            biased;
            changed = context.stop.changed() => {
                if changed.is_err() || *context.stop.borrow() {
                    return;
                }
            }
            changed = context.intents.changed(), if intents_open => {
                intents_open = changed.is_ok();
                target.state().intent = context.intents.borrow_and_update().clone();
                target.time().reset_clock();
                target.rebuild().await;
            }
            event = target.next() => target.handle(event).await,
            question = context.queries.recv() => match question {
                Some(question) => ask(&mut target, question),
                None => return,
            },
            _ = ticks.tick() => tick(&mut target).await,
        }
        target.flush();
        publish(&mut target, &context.status);
    }
}

async fn tick<D: TargetDriver>(target: &mut D) {
    target.connect().await;
    end_unlocks(target).await;
    if target.is_connected() {
        let now = target.time().uptime();
        if target.state().timers.is_retry_due(now) {
            target.try_again().await;
        }
        if target.state().timers.is_resync_due(now) {
            target.read_back().await;
        }
    }
    target.tick().await;
}

/// Unlocks whose moment has come are closed now. The agent's engine says the same with the next intent; whichever is first, or
/// the datapath itself, the others find nothing left to do.
pub async fn end_unlocks<D: TargetDriver>(target: &mut D) {
    let now = target.time().now();
    let due = target.due(now.wall);
    if due.is_empty() {
        return;
    }
    if !target.ends_by_itself() {
        target.state().windows.opened(cause::LATE_END, now.uptime);
    }
    target.rebuild().await;
    let left = target.due(now.wall);
    let name = &target.state().name;
    for endpoint in due.difference(&left) {
        tracing::info!(
            target = name,
            endpoint = endpoint.as_str(),
            "unlocks or bypasses ended: what they opened is closed"
        );
    }
}

fn ask<D: TargetDriver>(target: &mut D, question: Query) {
    let ready = target.is_ready();
    let not_ready = target.state().not_ready();
    match question {
        Query::Plan(_, answer) if !ready => drop(answer.send(Err(not_ready))),
        Query::Explain(_, answer) if !ready => drop(answer.send(Err(not_ready))),
        Query::Hits(answer) if !ready => drop(answer.send(Err(not_ready))),
        Query::Offload(answer) if !ready => drop(answer.send(Err(not_ready))),
        Query::Plan(intent, answer) => drop(answer.send(target.plan(&intent))),
        Query::Explain(trace, answer) => target.explain(&trace, answer),
        Query::Hits(answer) => target.hits(answer),
        Query::Offload(answer) => target.offload(answer),
        Query::Checkup(answer) => target.checkup(answer),
        Query::Demand(demand) => target.demand(demand),
    }
}

fn publish<D: TargetDriver>(target: &mut D, to: &watch::Sender<Arc<TargetStatus>>) {
    let report = target.report();
    let now = target.time().uptime();
    target.state().take(now, report);
    if target.state().are_lists_due() {
        let lists = target.lists();
        target.state().set_lists(lists);
    }
    target.state().publish(|status| {
        to.send_if_modified(|published| {
            let news = **published != *status;
            if news {
                *published = Arc::new(status.clone());
            }
            news
        });
    });
}
