//! `unlock`.

use std::collections::HashMap;
use std::io::{BufRead, IsTerminal, Write};
use std::time::Duration;

use portcullis_proto::v1;

use crate::client::Client;
use crate::error::Failure;
use crate::term::Term;
use crate::unlock_args::{List, Request, State, UnlockCommand, WatchUnlock, Why};
use crate::view::unlock::{ProgramsView, UnlockLine, UnlockView, UnlocksView, WhyView};
use crate::{Exit, args::Label};

/// Unlocks asked for at a time: as many as the agent gives.
const PAGE: usize = 1000;
/// Between two looks at a request that is waited for.
const LOOK: Duration = Duration::from_millis(200);

pub async fn run(command: &UnlockCommand, client: &Client, term: &mut Term<'_>) -> Result<Exit, Failure> {
    let mut unlocks = client.unlocks();
    let decided = |id: &str, reason: &str, quarantine| v1::DecideUnlockRequest {
        id: id.to_string(),
        reason: reason.to_string(),
        quarantine,
    };
    let answer = match command {
        UnlockCommand::Request(args) => return request(args, client, term).await,
        UnlockCommand::List(args) => return list(args, client, term).await,
        UnlockCommand::Why(args) => return why(args, client, term).await,
        UnlockCommand::Watch(args) => return watch(args, client, term).await,
        UnlockCommand::Programs(args) => {
            let request = v1::DescribeProgramRequest {
                program: args.program.clone().unwrap_or_default(),
            };
            let answer = unlocks
                .describe_program(request)
                .await
                .map_err(|s| client.failure(s))?;
            term.show(&ProgramsView::new(
                answer.into_inner().programs,
                args.program.is_some(),
            ))?;
            return Ok(Exit::Done);
        }
        UnlockCommand::Show(args) => {
            unlocks
                .get_unlock(v1::UnlockRequest { id: args.id.clone() })
                .await
        }
        UnlockCommand::Release(args) => unlocks.release(v1::UnlockRequest { id: args.id.clone() }).await,
        UnlockCommand::Approve(args) => unlocks.approve(decided(&args.id, &args.reason, false)).await,
        UnlockCommand::Reject(args) => unlocks.reject(decided(&args.id, &args.reason, false)).await,
        UnlockCommand::Revoke(args) => {
            unlocks
                .revoke(decided(&args.id, &args.reason, args.quarantine))
                .await
        }
        UnlockCommand::Renew(args) => {
            let request = v1::RenewUnlockRequest {
                id: args.id.clone(),
                lease_seconds: args.lease.map_or(0, |lease| lease.as_seconds()),
            };
            unlocks.renew(request).await
        }
    };
    let unlock = answer.map_err(|s| client.failure(s))?.into_inner();
    term.show(&UnlockView::from(unlock))?;
    Ok(Exit::Done)
}

fn from_files(files: &[Label]) -> Result<Vec<(String, String)>, Failure> {
    let read = |label: &Label| {
        let text = std::fs::read_to_string(&label.value).map_err(|source| Failure::Read {
            path: (&label.value).into(),
            source,
        })?;
        Ok((label.key.clone(), text.trim_end_matches(['\r', '\n']).to_string()))
    };
    files.iter().map(read).collect()
}

/// Asks for one field of evidence; an empty answer leaves it out.
fn ask(field: &v1::EvidenceDescription) -> Result<Option<String>, Failure> {
    let mut out = std::io::stderr().lock();
    let prompt = if field.prompt.is_empty() {
        &field.name
    } else {
        &field.prompt
    };
    let needed = if field.required { "" } else { ", may be left out" };
    write!(out, "{prompt}\n  {} ({}{needed}): ", field.name, field.constraint)
        .and_then(|()| out.flush())
        .map_err(Failure::Write)?;
    let mut line = String::new();
    std::io::stdin()
        .lock()
        .read_line(&mut line)
        .map_err(|source| Failure::Read {
            path: "-".into(),
            source,
        })?;
    let line = line.trim();
    Ok((!line.is_empty()).then(|| line.to_string()))
}

/// Asks for missing evidence, on a terminal.
async fn complete(
    args: &Request,
    client: &Client,
    evidence: &mut HashMap<String, String>,
) -> Result<(), Failure> {
    if args.no_input || !std::io::stdin().is_terminal() || !std::io::stderr().is_terminal() {
        return Ok(());
    }
    let asked = v1::DescribeProgramRequest {
        program: args.program.clone(),
    };
    let answer = client
        .unlocks()
        .describe_program(asked)
        .await
        .map_err(|s| client.failure(s))?;
    let program = answer
        .into_inner()
        .programs
        .into_iter()
        .next()
        .unwrap_or_default();
    for field in program
        .evidence
        .iter()
        .filter(|field| !evidence.contains_key(&field.name))
        .collect::<Vec<_>>()
    {
        if let Some(value) = ask(field)? {
            evidence.insert(field.name.clone(), value);
        }
    }
    Ok(())
}

async fn request(args: &Request, client: &Client, term: &mut Term<'_>) -> Result<Exit, Failure> {
    let given = args
        .set
        .iter()
        .map(|label| (label.key.clone(), label.value.clone()));
    let mut evidence: HashMap<String, String> = given.collect();
    evidence.extend(from_files(&args.set_file)?);
    complete(args, client, &mut evidence).await?;
    let asked = v1::RequestUnlockRequest {
        program: args.program.clone(),
        endpoint: args.endpoint.clone(),
        evidence,
        lease_seconds: args.lease.map_or(0, |lease| lease.as_seconds()),
        idempotency_key: args.idempotency_key.clone().unwrap_or_default(),
    };
    let answer = client.unlocks().request_unlock(asked).await;
    let mut unlock = answer.map_err(|s| client.failure(s))?.into_inner();
    let end = args
        .wait
        .map(|seconds| tokio::time::Instant::now() + Duration::from_secs(seconds.into()));
    let checking = |unlock: &v1::Unlock| unlock.state == i32::from(v1::UnlockState::Checking);
    while checking(&unlock) && end.is_some_and(|end| tokio::time::Instant::now() < end) {
        tokio::time::sleep(LOOK).await;
        let answer = client
            .unlocks()
            .get_unlock(v1::UnlockRequest { id: unlock.id })
            .await;
        unlock = answer.map_err(|s| client.failure(s))?.into_inner();
    }
    let state = unlock.state;
    term.show(&UnlockView::from(unlock))?;
    Ok(match (args.wait, v1::UnlockState::try_from(state)) {
        (Some(_), Ok(v1::UnlockState::Checking)) => Exit::NotRealized,
        (Some(_), Ok(v1::UnlockState::Rejected)) => Exit::Failed,
        _ => Exit::Done,
    })
}

fn state(state: State) -> v1::UnlockState {
    match state {
        State::Requested => v1::UnlockState::Requested,
        State::Checking => v1::UnlockState::Checking,
        State::AwaitingApproval => v1::UnlockState::AwaitingApproval,
        State::Active => v1::UnlockState::Active,
        State::Expiring => v1::UnlockState::Expiring,
        State::Expired => v1::UnlockState::Expired,
        State::Rejected => v1::UnlockState::Rejected,
        State::Revoked => v1::UnlockState::Revoked,
        State::Released => v1::UnlockState::Released,
    }
}

async fn list(args: &List, client: &Client, term: &mut Term<'_>) -> Result<Exit, Failure> {
    let mut found: Vec<v1::Unlock> = Vec::new();
    let mut request = v1::ListUnlocksRequest {
        endpoint: args.endpoint.clone().unwrap_or_default(),
        program: args.program.clone().unwrap_or_default(),
        tenant: args.tenant.clone().unwrap_or_default(),
        states: args.state.iter().map(|s| state(*s).into()).collect(),
        ..v1::ListUnlocksRequest::default()
    };
    while found.len() < args.limit {
        request.page_size = u32::try_from((args.limit - found.len()).min(PAGE)).unwrap_or(1);
        let answer = client.unlocks().list_unlocks(request.clone()).await;
        let answer = answer.map_err(|s| client.failure(s))?.into_inner();
        found.extend(answer.unlocks);
        request.page_token = answer.next_page_token;
        if request.page_token.is_empty() {
            break;
        }
    }
    if !request.page_token.is_empty() {
        term.complain(&format!("there are more than {}: say --limit", args.limit));
    }
    term.show(&UnlocksView {
        unlocks: found.into_iter().map(UnlockView::from).collect(),
    })?;
    Ok(Exit::Done)
}

async fn why(args: &Why, client: &Client, term: &mut Term<'_>) -> Result<Exit, Failure> {
    let direction = match args.direction {
        portcullis_policy::Direction::Egress => v1::Direction::Egress,
        portcullis_policy::Direction::Ingress => v1::Direction::Ingress,
    };
    let request = v1::WhyBlockedRequest {
        endpoint: args.endpoint.clone(),
        direction: direction.into(),
        protocol: args.service.protocol.to_string(),
        port: args.service.port.unwrap_or(0).into(),
        remote: args.remote.map(|remote| remote.to_string()).unwrap_or_default(),
    };
    let answer = client
        .unlocks()
        .why_blocked(request)
        .await
        .map_err(|s| client.failure(s))?;
    term.show(&WhyView::from(answer.into_inner()))?;
    Ok(Exit::Done)
}

async fn watch(args: &WatchUnlock, client: &Client, term: &mut Term<'_>) -> Result<Exit, Failure> {
    let request = v1::WatchUnlocksRequest {
        endpoint: args.endpoint.clone().unwrap_or_default(),
        program: args.program.clone().unwrap_or_default(),
        tenant: String::new(),
    };
    let answer = client.unlocks().watch_unlocks(request).await;
    let mut events = answer.map_err(|s| client.failure(s))?.into_inner();
    while let Some(event) = events.message().await.map_err(|s| client.failure(s))? {
        if let Some(unlock) = event.unlock {
            term.show_next(&UnlockLine(UnlockView::from(unlock)))?;
        }
    }
    Ok(Exit::Done)
}
