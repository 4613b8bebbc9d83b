//! `audit`.

use std::io::Write;
use std::path::PathBuf;

use portcullis_audit::{ARCHIVED, Archive, Names};
use portcullis_proto::v1;

use crate::Exit;
use crate::client::Client;
use crate::error::Failure;
use crate::term::{Term, json};
use crate::unlock_args::{AuditCommand, AuditExport, AuditList, AuditVerify};
use crate::view::audit::{ArchiveView, AuditView, EntryView, VerdictView};

/// Entries asked for at a time: as many as the agent gives.
const PAGE: u32 = 1000;

pub async fn run(command: &AuditCommand, client: &Client, term: &mut Term<'_>) -> Result<Exit, Failure> {
    match command {
        AuditCommand::List(args) => list(args, client, term).await,
        AuditCommand::Export(args) => export(args, client, term).await,
        AuditCommand::Verify(args) => verify(args, client, term).await,
    }
}

async fn verify(args: &AuditVerify, client: &Client, term: &mut Term<'_>) -> Result<Exit, Failure> {
    let expected = args.expect.map_or_else(String::new, |head| head.to_string());
    let answer = client
        .audit()
        .verify_audit(v1::VerifyAuditRequest { expected })
        .await;
    let mut view = VerdictView::from(answer.map_err(|s| client.failure(s))?.into_inner());
    if !args.archive.is_empty() {
        view.archives = archives(&args.archive, named(client).await?)?;
    }
    term.show(&view)?;
    let intact = view.intact && view.archives.iter().all(|archive| archive.problem.is_empty());
    Ok(if intact { Exit::Done } else { Exit::Failed })
}

/// What the agent's log says about archives.
async fn named(client: &Client) -> Result<Names, Failure> {
    let mut names = Names::default();
    let mut request = v1::ListAuditRequest {
        action: ARCHIVED.to_string(),
        page_size: PAGE,
        ..v1::ListAuditRequest::default()
    };
    loop {
        let answer = client.audit().list_audit(request.clone()).await;
        let answer = answer.map_err(|s| client.failure(s))?.into_inner();
        for entry in &answer.entries {
            names.add(&entry.action, &entry.detail);
        }
        request.after = answer.next_after;
        if request.after == 0 {
            return Ok(names);
        }
    }
}

/// Verifies archives, the newest first: it says what the one before must be.
fn archives(files: &[PathBuf], mut names: Names) -> Result<Vec<ArchiveView>, Failure> {
    let mut found = Vec::new();
    for path in files {
        let read = std::fs::File::open(path).and_then(Archive::read);
        let read = read.map_err(|source| Failure::Read {
            path: path.clone(),
            source,
        })?;
        found.push((path, read));
    }
    found.sort_by_key(|(_, read)| std::cmp::Reverse(read.as_ref().map_or(0, |archive| archive.first)));
    let views = found.into_iter().map(|(path, read)| {
        let first = read.as_ref().map_or(0, |archive| archive.first);
        let last = read.as_ref().map_or(0, |archive| archive.head.number);
        let fault = read.and_then(|archive| archive.verify(&mut names)).err();
        ArchiveView {
            file: path.clone(),
            first,
            last,
            broken_at: fault.as_ref().map(|fault| fault.number),
            problem: fault.map_or_else(String::new, |fault| fault.problem),
        }
    });
    Ok(views.collect())
}

async fn list(args: &AuditList, client: &Client, term: &mut Term<'_>) -> Result<Exit, Failure> {
    let mut request = v1::ListAuditRequest {
        newest_first: true,
        actor: args.actor.clone().unwrap_or_default(),
        action: args.action.clone().unwrap_or_default(),
        subject: args.subject.clone().unwrap_or_default(),
        ..v1::ListAuditRequest::default()
    };
    let mut entries: Vec<EntryView> = Vec::new();
    let left = |entries: &Vec<EntryView>| {
        args.limit
            .saturating_sub(u32::try_from(entries.len()).unwrap_or(u32::MAX))
    };
    while left(&entries) > 0 {
        request.page_size = left(&entries).min(PAGE);
        let answer = client.audit().list_audit(request.clone()).await;
        let answer = answer.map_err(|s| client.failure(s))?.into_inner();
        entries.extend(answer.entries.into_iter().map(EntryView::from));
        request.after = answer.next_after;
        if request.after == 0 {
            break;
        }
    }
    term.show(&AuditView { entries })?;
    Ok(Exit::Done)
}

async fn export(args: &AuditExport, client: &Client, term: &mut Term<'_>) -> Result<Exit, Failure> {
    let request = v1::ExportAuditRequest { after: args.after };
    let answer = client.audit().export_audit(request).await;
    let mut entries = answer.map_err(|s| client.failure(s))?.into_inner();
    let mut file = match &args.file {
        Some(path) => {
            let file = std::fs::File::create(path).map_err(Failure::Write)?;
            Some(std::io::BufWriter::new(file))
        }
        None => None,
    };
    while let Some(entry) = entries.message().await.map_err(|s| client.failure(s))? {
        let line = json(&EntryView::from(entry), false)?;
        match &mut file {
            Some(file) => file.write_all(line.as_bytes()).map_err(Failure::Write)?,
            None => term.write(&line)?,
        }
    }
    if let Some(file) = &mut file {
        file.flush().map_err(Failure::Write)?;
    }
    Ok(Exit::Done)
}
