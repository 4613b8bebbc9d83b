//! `endpoint`.

use portcullis_policy::{EndpointRole, IdentifiedBy, LinkLocal, Vlan};
use portcullis_proto::v1;

use crate::Exit;
use crate::args::{EndpointCommand, Provision, ReleaseEndpoint, Wait};
use crate::client::Client;
use crate::error::Failure;
use crate::term::Term;
use crate::view::change::CommittedView;

pub async fn run(command: &EndpointCommand, client: &Client, term: &mut Term<'_>) -> Result<Exit, Failure> {
    match command {
        EndpointCommand::Provision(args) => {
            let request = v1::ProvisionRequest {
                endpoint: Some(endpoint(args)),
            };
            let answer = client
                .endpoints()
                .provision(request)
                .await
                .map_err(|s| client.failure(s))?;
            finish(&args.name, answer.into_inner(), args.wait, client, term).await
        }
        EndpointCommand::Release(ReleaseEndpoint { name, wait }) => {
            let request = v1::ReleaseRequest { name: name.clone() };
            let answer = client
                .endpoints()
                .release(request)
                .await
                .map_err(|s| client.failure(s))?;
            finish(name, answer.into_inner(), *wait, client, term).await
        }
    }
}

async fn finish(
    name: &str,
    answer: v1::Committed,
    wait: Wait,
    client: &Client,
    term: &mut Term<'_>,
) -> Result<Exit, Failure> {
    let realized = super::settle(client, wait, answer.generation, term).await?;
    term.show(&CommittedView::new(format!("endpoints/{name}"), answer, realized))?;
    Ok(if realized == Some(false) {
        Exit::NotRealized
    } else {
        Exit::Done
    })
}

fn role_of(role: EndpointRole) -> v1::EndpointRole {
    match role {
        EndpointRole::Router => v1::EndpointRole::Router,
        EndpointRole::DhcpServer => v1::EndpointRole::DhcpServer,
    }
}

/// The endpoint that the arguments describe.
pub fn endpoint(args: &Provision) -> v1::Endpoint {
    let target = args.target.clone().unwrap_or_default();
    let attachment = |interface: &str, iface_id: &str| v1::Attachment {
        interface: interface.to_string(),
        iface_id: iface_id.to_string(),
        target: target.clone(),
        any_vlan: args.any_vlan,
        ..v1::Attachment::default()
    };
    let by_name = args.interface.iter().map(|name| attachment(name, ""));
    let by_id = args.iface_id.iter().map(|id| attachment("", id));
    let by_port = args.port.iter().map(|plug| v1::Attachment {
        port: Some(plug.port),
        vlan: match plug.vlan {
            Vlan::Id(vid) => Some(vid.into()),
            Vlan::Untagged | Vlan::Any => None,
        },
        any_vlan: plug.vlan == Vlan::Any,
        by: match args.by.unwrap_or_default() {
            IdentifiedBy::Port => v1::IdentifiedBy::Unspecified,
            IdentifiedBy::Address => v1::IdentifiedBy::Address,
        }
        .into(),
        ..attachment("", "")
    });
    v1::Endpoint {
        name: args.name.clone(),
        attachments: by_name.chain(by_id).chain(by_port).collect(),
        macs: args.mac.iter().map(ToString::to_string).collect(),
        addresses: args.address.iter().map(ToString::to_string).collect(),
        profiles: args.profile.clone(),
        rules: Vec::new(),
        labels: args
            .label
            .iter()
            .map(|l| (l.key.clone(), l.value.clone()))
            .collect(),
        source_guard: Some(!args.no_source_guard),
        network: args.network.as_ref().map(ToString::to_string).unwrap_or_default(),
        shared: args.shared.iter().map(ToString::to_string).collect(),
        roles: args.role.iter().map(|role| role_of(*role).into()).collect(),
        link_local: match args.link_local.unwrap_or_default() {
            LinkLocal::Any => v1::LinkLocal::Unspecified,
            LinkLocal::Strict => v1::LinkLocal::Strict,
        }
        .into(),
        ..v1::Endpoint::default()
    }
}
