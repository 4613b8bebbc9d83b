//! `doctor`.

use portcullis_proto::v1;

use crate::Exit;
use crate::client::Client;
use crate::error::Failure;
use crate::term::Term;
use crate::view::checks::ChecksView;

pub async fn run(client: &Client, term: &mut Term<'_>) -> Result<Exit, Failure> {
    let answer = client
        .targets()
        .list_target_checks(v1::ListTargetChecksRequest {})
        .await
        .map_err(|s| client.failure(s))?
        .into_inner();
    let view = ChecksView::from(answer);
    term.show(&view)?;
    Ok(match view.costs_safety() {
        true => Exit::Failed,
        false => Exit::Done,
    })
}
