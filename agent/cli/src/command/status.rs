//! `status`.

use portcullis_proto::v1;

use crate::Exit;
use crate::args::Status;
use crate::client::Client;
use crate::error::Failure;
use crate::term::Term;
use crate::view::placement::PlacementView;

/// Shows which target holds which rule; with `--svg` as a picture, too.
async fn placement(args: &Status, client: &Client, term: &mut Term<'_>) -> Result<Exit, Failure> {
    let request = v1::GetPlacementRequest {
        endpoint: args.endpoint.clone().unwrap_or_default(),
    };
    let answer = client.targets().get_placement(request).await;
    let view = PlacementView::from(answer.map_err(|s| client.failure(s))?.into_inner());
    if let Some(path) = &args.svg {
        std::fs::write(path, view.svg()).map_err(|source| Failure::Picture {
            path: path.clone(),
            source,
        })?;
    }
    term.show(&view)?;
    Ok(Exit::Done)
}

pub async fn run(args: &Status, client: &Client, term: &mut Term<'_>) -> Result<Exit, Failure> {
    if args.placement {
        return placement(args, client, term).await;
    }
    let view = match args.wait.wait {
        Some(seconds) => super::wait_realized(client, args.generation.unwrap_or(0), seconds).await?,
        None => super::list(client, args.generation).await?,
    };
    term.show(&view)?;
    if let (false, Some(seconds)) = (view.realized, args.wait.wait) {
        term.complain(&super::behind(view.generation, seconds, &view.targets));
    }
    Ok(if view.realized {
        Exit::Done
    } else {
        Exit::NotRealized
    })
}
