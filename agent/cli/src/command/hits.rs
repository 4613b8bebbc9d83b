//! `hits`.

use portcullis_proto::v1;

use crate::Exit;
use crate::args::Hits;
use crate::client::Client;
use crate::error::Failure;
use crate::term::Term;
use crate::view::hits::HitsView;

pub async fn run(args: &Hits, client: &Client, term: &mut Term<'_>) -> Result<Exit, Failure> {
    let request = v1::ListHitsRequest {
        endpoint: args.endpoint.clone().unwrap_or_default(),
    };
    let answer = client
        .targets()
        .list_hits(request)
        .await
        .map_err(|s| client.failure(s))?
        .into_inner();
    term.show(&HitsView::from(answer))?;
    Ok(Exit::Done)
}
