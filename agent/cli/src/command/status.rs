//! `status`.

use crate::Exit;
use crate::args::Status;
use crate::client::Client;
use crate::error::Failure;
use crate::term::Term;

pub async fn run(args: &Status, client: &Client, term: &mut Term<'_>) -> Result<Exit, Failure> {
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
