//! `get`.

use portcullis_proto::v1;

use crate::args::{Get, What};
use crate::client::Client;
use crate::error::{Failure, Misuse};
use crate::term::Term;
use crate::view::policy::{
    BaselineView, DocumentView, EndpointView, EndpointsView, ProfileView, ProfilesView,
};
use crate::{Exit, Globals};

/// Resources asked for at a time: as many as the agent gives.
const PAGE: u32 = 1000;

pub async fn run(args: &Get, globals: &Globals, term: &mut Term<'_>) -> Result<Exit, Failure> {
    if args.label.is_some() && args.what != What::Endpoints {
        return Err(Misuse::Label.into());
    }
    match (args.what, &args.name) {
        (What::Document, Some(_)) => return Err(Misuse::Name("document").into()),
        (What::Baseline, Some(_)) => return Err(Misuse::Name("baseline").into()),
        (What::Bypasses, Some(_)) => return Err(Misuse::Name("bypasses").into()),
        _ => {}
    }
    let client = &Client::connect(globals).await?;
    match (args.what, &args.name) {
        (What::Document, _) => document(client, term).await,
        (What::Baseline, _) => baseline(client, term).await,
        (What::Profiles, Some(name)) => profile(name, client, term).await,
        (What::Profiles, None) => profiles(client, term).await,
        (What::Endpoints, Some(name)) => endpoint(name, client, term).await,
        (What::Endpoints, None) => endpoints(args, client, term).await,
        (What::Bypasses, _) => super::bypass::list(client, term).await,
    }?;
    Ok(Exit::Done)
}

async fn document(client: &Client, term: &mut Term<'_>) -> Result<(), Failure> {
    let answer = client.policy().get_document(v1::GetDocumentRequest {}).await;
    let yaml = answer.map_err(|s| client.failure(s))?.into_inner().document;
    let value = serde_saphyr::from_str(&yaml).map_err(Failure::ForeignDocument)?;
    term.show(&DocumentView { value, yaml })
}

async fn baseline(client: &Client, term: &mut Term<'_>) -> Result<(), Failure> {
    let answer = client.baseline().get_baseline(v1::GetBaselineRequest {}).await;
    term.show(&BaselineView::from(
        answer.map_err(|s| client.failure(s))?.into_inner(),
    ))
}

async fn profile(name: &str, client: &Client, term: &mut Term<'_>) -> Result<(), Failure> {
    let answer = client
        .profiles()
        .get_profile(v1::GetRequest {
            name: name.to_string(),
        })
        .await;
    term.show(&ProfileView::from(
        answer.map_err(|s| client.failure(s))?.into_inner(),
    ))
}

async fn endpoint(name: &str, client: &Client, term: &mut Term<'_>) -> Result<(), Failure> {
    let answer = client
        .endpoints()
        .get_endpoint(v1::GetRequest {
            name: name.to_string(),
        })
        .await;
    term.show(&EndpointView::from(
        answer.map_err(|s| client.failure(s))?.into_inner(),
    ))
}

async fn profiles(client: &Client, term: &mut Term<'_>) -> Result<(), Failure> {
    let mut request = v1::ListRequest {
        page_size: PAGE,
        ..Default::default()
    };
    let mut profiles = Vec::new();
    loop {
        let answer = client.profiles().list_profiles(request.clone()).await;
        let answer = answer.map_err(|s| client.failure(s))?.into_inner();
        profiles.extend(answer.profiles.into_iter().map(ProfileView::from));
        if answer.next_page_token.is_empty() {
            return term.show(&ProfilesView { profiles });
        }
        request.page_token = answer.next_page_token;
    }
}

async fn endpoints(args: &Get, client: &Client, term: &mut Term<'_>) -> Result<(), Failure> {
    let label = args.label.as_ref().map(ToString::to_string).unwrap_or_default();
    let mut request = v1::ListRequest {
        page_size: PAGE,
        label,
        ..Default::default()
    };
    let mut endpoints = Vec::new();
    loop {
        let answer = client.endpoints().list_endpoints(request.clone()).await;
        let answer = answer.map_err(|s| client.failure(s))?.into_inner();
        endpoints.extend(answer.endpoints.into_iter().map(EndpointView::from));
        if answer.next_page_token.is_empty() {
            return term.show(&EndpointsView { endpoints });
        }
        request.page_token = answer.next_page_token;
    }
}
