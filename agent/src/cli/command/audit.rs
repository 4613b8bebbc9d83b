//! `audit`.

use std::io::Write;

use portcullis_proto::v1;

use super::super::Exit;
use super::super::client::Client;
use super::super::error::Failure;
use super::super::term::{Term, json};
use super::super::unlock_args::{AuditCommand, AuditExport, AuditList};
use super::super::view::audit::{AuditView, EntryView, VerdictView};

/// Entries asked for at a time: as many as the agent gives.
const PAGE: u32 = 1000;

/// Runs it.
pub async fn run(command: &AuditCommand, client: &Client, term: &mut Term<'_>) -> Result<Exit, Failure> {
    match command {
        AuditCommand::List(args) => list(args, client, term).await,
        AuditCommand::Export(args) => export(args, client, term).await,
        AuditCommand::Verify(args) => {
            let expected = args.expect.map_or_else(String::new, |head| head.to_string());
            let answer = client
                .audit()
                .verify_audit(v1::VerifyAuditRequest { expected })
                .await;
            let view = VerdictView::from(answer.map_err(|s| client.failure(s))?.into_inner());
            term.show(&view)?;
            Ok(if view.intact { Exit::Done } else { Exit::Failed })
        }
    }
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
