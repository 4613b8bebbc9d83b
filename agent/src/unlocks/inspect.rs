//! Watches the clock and makes checks that are due.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use portcullis_checks::Checker;
use portcullis_policy::{CheckResult, Name};
use portcullis_unlock::clock::Moment;
use portcullis_unlock::ledger::{AGENT, Basis, Change as UnlockChange, Checked, Ledger, Unlock};
use tokio::sync::{broadcast, mpsc};
use tokio::task::{AbortHandle, JoinHandle};
use tokio_util::sync::CancellationToken;

use super::ask::ask;
use crate::engine::{ChangeError, Draft, Engine, UnlockError, UnlockRequest, Who};
use crate::metrics;

/// How often the clock is looked at, however much happens, and however little: it may be set.
const SHORTEST: Duration = Duration::from_millis(100);
const LONGEST: Duration = Duration::from_secs(1);
/// Between two looks at least.
const PAUSE: Duration = Duration::from_millis(5);
/// How often the clocks are stored when nothing else is.
const SEEN: Duration = Duration::from_secs(60);
/// Unlocks whose checks are made at a time, in all and of one owner.
const AT_ONCE: usize = 128;
const AT_ONCE_OF_ONE: usize = AT_ONCE / 4;

/// Checks of an unlock that are being made.
struct Checking {
    owner: String,
    task: AbortHandle,
}

/// Who answers for the answers that checks of an unlock get: its tenant, or without one its endpoint.
fn owner(unlock: &Unlock) -> String {
    match unlock.tenant.as_str() {
        "" => format!("endpoint {}", unlock.endpoint),
        tenant => format!("tenant {tenant}"),
    }
}

/// Goes on until it is told to stop.
pub async fn inspect(engine: Engine, checker: Checker, stopping: CancellationToken) {
    let mut changes = engine.watch_unlocks();
    let (done, mut finished) = mpsc::channel::<Name>(AT_ONCE);
    let mut checking: HashMap<Name, Checking> = HashMap::new();
    let mut judged = engine.now();
    let mut seen = tokio::time::Instant::now();
    let mut closing: Option<JoinHandle<()>> = None;
    let mut noticing: Option<JoinHandle<()>> = None;
    loop {
        // Whatever was told meanwhile, one look is enough.
        while let Ok(id) = finished.try_recv() {
            checking.remove(&id);
        }
        while matches!(
            changes.try_recv(),
            Ok(_) | Err(broadcast::error::TryRecvError::Lagged(_))
        ) {}
        let now = engine.now();
        let (ledger, document) = engine.read(|state| (state.ledger().clone(), Arc::clone(state.document())));
        let mut tried = ledger.clone();
        // Checks that are due are no reason for a commit, nor is what only one of the clocks has come to.
        let over = tried.end_bypasses(&now)
            | !tried.tick_closing(&document, &now).is_empty()
            | !tried.tick_required(&document, &judged, &now).is_empty();
        let rest = !tried.tick_rest(&now).is_empty();
        let since = std::mem::replace(&mut judged, now);
        let left = ledger.next_ms(&now);
        metrics::unlocks(ledger.len());
        cancel(&mut checking, &ledger);
        // Leases end whatever the store does: nothing here waits for a commit.
        if over {
            drop(closing.replace(tokio::spawn(end_leases(engine.clone(), since))));
        }
        if (rest || seen.elapsed() >= SEEN) && noticing.as_ref().is_none_or(JoinHandle::is_finished) {
            seen = tokio::time::Instant::now();
            noticing = Some(tokio::spawn(notice(engine.clone())));
        }
        begin(&mut checking, &ledger, &now, |id| {
            tokio::spawn(check(engine.clone(), checker.clone(), id, done.clone())).abort_handle()
        });
        let wait = left
            .map_or(LONGEST, Duration::from_millis)
            .clamp(SHORTEST, LONGEST);
        // Not at every one of a thousand.
        tokio::time::sleep(PAUSE).await;
        tokio::select! {
            () = stopping.cancelled() => return,
            () = tokio::time::sleep(wait) => {}
            Some(id) = finished.recv() => {
                checking.remove(&id);
            }
            // Somebody asked for something: its checks are due.
            change = changes.recv() => if matches!(change, Err(broadcast::error::RecvError::Closed)) {
                return;
            },
        }
    }
}

/// Begins the checks that are due. However many unlocks of one owner wait for a DNS zone that does not answer, there is room
/// for those of others.
fn begin(
    checking: &mut HashMap<Name, Checking>,
    ledger: &Ledger,
    now: &Moment,
    start: impl Fn(Name) -> AbortHandle,
) {
    let mut owners: HashMap<String, usize> = HashMap::new();
    for one in checking.values() {
        *owners.entry(one.owner.clone()).or_default() += 1;
    }
    for id in ledger.to_check(now) {
        if checking.len() >= AT_ONCE {
            return;
        }
        let Some(unlock) = ledger.get(id.as_str()).filter(|_| !checking.contains_key(&id)) else {
            continue;
        };
        let owner = owner(unlock);
        let own = owners.entry(owner.clone()).or_default();
        if *own < AT_ONCE_OF_ONE {
            *own += 1;
            let task = start(id.clone());
            checking.insert(id, Checking { owner, task });
        }
    }
}

/// Ends checks of what has ended: nobody waits for them, and others wait for their places.
fn cancel(checking: &mut HashMap<Name, Checking>, ledger: &Ledger) {
    checking.retain(|id, checking| {
        let goes_on = ledger
            .get(id.as_str())
            .is_some_and(|unlock| !unlock.state.has_ended());
        if !goes_on {
            checking.task.abort();
        }
        goes_on
    });
}

/// Ends what is over, and what is not granted any more by the time.
async fn end_leases(engine: Engine, since: Moment) {
    let request = UnlockRequest {
        by: Who::agent(),
        what: ("unlock.tick", String::new()),
        make: Box::new(move |draft: &mut Draft<'_>| {
            let mut changes = draft.ledger.tick_closing(draft.document, &draft.now);
            changes.extend(draft.ledger.tick_required(draft.document, &since, &draft.now));
            Ok(changes)
        }),
        key: None,
        closes: true,
    };
    match engine.unlocks(request).await {
        Ok(outcome) => {
            let waits = outcome
                .closing
                .map(|closing| closing.waits_for)
                .unwrap_or_default();
            if !waits.is_empty() {
                tracing::warn!(
                    waits = waits.join("; "),
                    "leases or bypasses ended; not everything has confirmed it yet"
                );
            }
        }
        Err(error) => {
            tracing::error!(%error, "leases and bypasses that end now could not be ended; it is tried again")
        }
    }
}

/// Lets time do what else it does.
async fn notice(engine: Engine) {
    let request = UnlockRequest {
        by: Who::agent(),
        what: ("unlock.tick", String::new()),
        make: Box::new(|draft: &mut Draft<'_>| Ok(draft.ledger.tick_rest(&draft.now))),
        key: None,
        closes: false,
    };
    if let Err(error) = engine.unlocks(request).await {
        tracing::error!(%error, "notices that are due could not be stored; it is tried again");
        // Not at once.
        tokio::time::sleep(LONGEST).await;
    }
}

async fn check(engine: Engine, checker: Checker, id: Name, done: mpsc::Sender<Name>) {
    if let Err(error) = checked(&engine, &checker, &id).await {
        tracing::error!(unlock = %id, %error, "what checks came to could not be stored; they are made again");
        // Not at once.
        tokio::time::sleep(LONGEST).await;
    }
    // The one that inspects may have been told to stop.
    drop(done.send(id).await);
}

async fn checked(engine: &Engine, checker: &Checker, id: &Name) -> Result<(), UnlockError> {
    let now = engine.now();
    let found = engine.read(|state| {
        let unlock: Arc<Unlock> = Arc::clone(state.ledger().get(id.as_str())?);
        let program = Arc::clone(state.document().programs.get(&unlock.program)?);
        let endpoint = Arc::clone(state.document().endpoints.get(&unlock.endpoint)?);
        let basis = Basis::new(state.document(), &unlock)?;
        Some((unlock, program, endpoint, basis))
    });
    let Some((unlock, program, endpoint, basis)) = found else {
        return Ok(());
    };
    let checker = checker.on_behalf_of(&owner(&unlock));
    let checks = ask(&checker, &program, &endpoint, &unlock.evidence, now.seconds()).await;
    for check in &checks {
        metrics::check_made(&check.kind, check.result.name());
        if check.result != CheckResult::Passed {
            tracing::debug!(unlock = %id, check = check.name, result = check.result.name(), detail = check.detail);
        }
    }
    judged(engine, id.clone(), basis, checks).await
}

/// Judges in the very change that stores it, by what holds then. What takes a lease away, or begins to, waits for no store.
async fn judged(engine: &Engine, id: Name, basis: Basis, checks: Vec<Checked>) -> Result<(), UnlockError> {
    let subject = format!("unlocks/{id}");
    let now = engine.now();
    let closes = engine.read(|state| {
        let mut tried = state.ledger().clone();
        let open = tried
            .get(id.as_str())
            .is_some_and(|unlock| unlock.state.is_open());
        let changes = tried.checked(state.document(), &id, &basis, checks.clone(), &now);
        let ends = |change: &UnlockChange| !change.unlock.state.is_open() || change.unlock.failing.is_some();
        open && changes.iter().any(ends)
    });
    let rejected = id.clone();
    let make = move |draft: &mut Draft<'_>| {
        let (document, now) = (draft.document, draft.now);
        Ok(draft.ledger.checked(document, &id, &basis, checks.clone(), &now))
    };
    let request = UnlockRequest {
        by: Who::agent(),
        what: ("unlock.check", subject),
        make: Box::new(make),
        key: None,
        closes,
    };
    match engine.unlocks(request).await {
        Err(UnlockError::Change(error)) if cannot_be(&error) => {
            reject(engine, rejected, error.to_string()).await
        }
        result => result.map(drop),
    }
}

/// Whether what was to be granted cannot be, however often it is tried.
fn cannot_be(error: &ChangeError) -> bool {
    matches!(
        error,
        ChangeError::TenantRows { .. } | ChangeError::Unsupported { .. }
    )
}

/// Rejects a request that cannot be granted.
async fn reject(engine: &Engine, id: Name, why: String) -> Result<(), UnlockError> {
    let subject = format!("unlocks/{id}");
    let make = move |draft: &mut Draft<'_>| Ok(vec![draft.ledger.reject(&id, &why, AGENT, &draft.now)?]);
    let request = UnlockRequest {
        by: Who::agent(),
        what: ("unlock.reject", subject),
        make: Box::new(make),
        key: None,
        closes: true,
    };
    engine.unlocks(request).await.map(drop)
}
