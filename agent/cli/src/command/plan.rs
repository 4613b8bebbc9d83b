//! `plan`.

use portcullis_proto::v1;

use crate::Exit;
use crate::args::Plan;
use crate::client::Client;
use crate::error::Failure;
use crate::term::Term;
use crate::view::change::PlanView;

pub async fn run(args: &Plan, client: &Client, term: &mut Term<'_>) -> Result<Exit, Failure> {
    let request = v1::PlanRequest {
        document: super::read(&args.file.file)?,
        merge: !args.prune.prune,
        rows: args.rows,
    };
    let answer = client
        .policy()
        .plan(request)
        .await
        .map_err(|s| client.failure(s))?
        .into_inner();
    let view = PlanView::from(answer);
    term.show(&view)?;
    Ok(if args.detailed_exitcode && view.would_change() {
        Exit::WouldChange
    } else {
        Exit::Done
    })
}
