//! `bypass`.

use portcullis_proto::v1;

use crate::Exit;
use crate::args::Bypass;
use crate::client::Client;
use crate::error::Failure;
use crate::term::Term;
use crate::view::bypass::{BypassChangeView, BypassView, BypassesView};
use crate::view::unlock::ClosingView;

pub async fn run(args: &Bypass, client: &Client, term: &mut Term<'_>) -> Result<Exit, Failure> {
    let endpoint = args.endpoint.clone();
    let mut bypasses = client.bypasses();
    let mut view = if args.end {
        let answer = bypasses.end_bypass(v1::EndBypassRequest { endpoint }).await;
        let answer = answer.map_err(|s| client.failure(s))?.into_inner();
        BypassChangeView {
            bypass: BypassView::from(answer.bypass.unwrap_or_default()),
            active: false,
            generation: answer.generation,
            realized: None,
            closing: answer.closing.map(ClosingView::from),
        }
    } else {
        let request = v1::StartBypassRequest {
            endpoint,
            seconds: args.time.map_or(0, |time| time.as_seconds()),
            reason: args.reason.clone().unwrap_or_default(),
        };
        let answer = bypasses.start_bypass(request).await;
        let answer = answer.map_err(|s| client.failure(s))?.into_inner();
        BypassChangeView {
            bypass: BypassView::from(answer.bypass.unwrap_or_default()),
            active: true,
            generation: answer.generation,
            realized: None,
            closing: None,
        }
    };
    view.realized = super::settle(client, args.wait, view.generation, term).await?;
    term.show(&view)?;
    Ok(match view.realized {
        Some(false) => Exit::NotRealized,
        _ => Exit::Done,
    })
}

/// Every bypass: `get bypasses`.
pub(super) async fn list(client: &Client, term: &mut Term<'_>) -> Result<(), Failure> {
    let answer = client.bypasses().list_bypasses(v1::ListBypassesRequest {}).await;
    let answer = answer.map_err(|s| client.failure(s))?.into_inner();
    term.show(&BypassesView {
        bypasses: answer.bypasses.into_iter().map(BypassView::from).collect(),
    })
}
