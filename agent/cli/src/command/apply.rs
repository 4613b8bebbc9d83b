//! `apply`.

use portcullis_proto::v1;

use crate::Exit;
use crate::args::Apply;
use crate::client::Client;
use crate::error::Failure;
use crate::term::Term;
use crate::view::change::ApplyView;

pub async fn run(args: &Apply, client: &Client, term: &mut Term<'_>) -> Result<Exit, Failure> {
    let request = v1::ApplyDocumentRequest {
        document: super::read(&args.file.file)?,
        merge: !args.prune.prune,
        allow_empty: args.allow_empty,
        validate_only: args.dry_run,
    };
    let answer = client
        .policy()
        .apply_document(request)
        .await
        .map_err(|s| client.failure(s))?
        .into_inner();
    let realized = super::settle(client, args.wait, answer.generation, term).await?;
    term.show(&ApplyView::new(answer, args.dry_run, realized))?;
    if realized.is_none() && !args.dry_run {
        super::warn_of_away(client, term).await;
    }
    Ok(if realized == Some(false) {
        Exit::NotRealized
    } else {
        Exit::Done
    })
}
