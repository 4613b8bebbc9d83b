//! `offload`.

use portcullis_proto::v1;

use crate::Exit;
use crate::args::Offload;
use crate::client::Client;
use crate::error::Failure;
use crate::term::Term;
use crate::view::offload::OffloadView;

pub async fn run(args: &Offload, client: &Client, term: &mut Term<'_>) -> Result<Exit, Failure> {
    let request = v1::ListOffloadRequest {
        endpoint: args.endpoint.clone().unwrap_or_default(),
    };
    let answer = client
        .targets()
        .list_offload(request)
        .await
        .map_err(|s| client.failure(s))?
        .into_inner();
    term.show(&OffloadView::from(answer))?;
    Ok(Exit::Done)
}
