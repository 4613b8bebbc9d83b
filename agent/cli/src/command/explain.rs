//! `explain`.

use std::net::IpAddr;

use portcullis_policy::{Direction, Family, Protocol};
use portcullis_proto::v1;

use crate::args::Explain;
use crate::client::Client;
use crate::error::{Failure, Misuse};
use crate::term::Term;
use crate::view::explained::ExplainView;
use crate::{Exit, Globals};

/// ICMP echo request (RFC 792).
const ECHO: u32 = 8;
/// ICMPv6 echo request (RFC 4443).
const ECHO_V6: u32 = 128;

pub async fn run(args: &Explain, globals: &Globals, term: &mut Term<'_>) -> Result<Exit, Failure> {
    let request = request(args)?;
    let client = Client::connect(globals).await?;
    let answer = client
        .policy()
        .explain(request)
        .await
        .map_err(|s| client.failure(s))?
        .into_inner();
    term.show(&ExplainView::from(answer))?;
    Ok(Exit::Done)
}

/// The packet that is asked about.
pub fn request(args: &Explain) -> Result<v1::ExplainRequest, Misuse> {
    let protocol = args.service.protocol;
    if args.source_port.is_some() && !Protocol::has_ports(protocol) {
        return Err(Misuse::SourcePort);
    }
    if args.established && protocol != Protocol::TCP {
        return Err(Misuse::Established);
    }
    let icmp = match (protocol, args.icmp_type) {
        (Protocol::ICMP, kind) => Some(kind.map_or(ECHO, u32::from)),
        (Protocol::ICMPV6, kind) => Some(kind.map_or(ECHO_V6, u32::from)),
        (_, Some(_)) => return Err(Misuse::IcmpType),
        (_, None) => None,
    };
    let text = |address: Option<IpAddr>| address.map(|a| a.to_string()).unwrap_or_default();
    Ok(v1::ExplainRequest {
        endpoint: args.endpoint.clone(),
        direction: match args.direction {
            Direction::Egress => v1::Direction::Egress,
            Direction::Ingress => v1::Direction::Ingress,
        }
        .into(),
        protocol: Protocol::name(protocol),
        remote: text(args.remote),
        local: text(args.local),
        port: args.service.port.map(u32::from).unwrap_or_default(),
        source_port: args.source_port.map(u32::from),
        icmp: icmp.map(|kind| v1::IcmpMatch {
            r#type: kind,
            code: Some(args.icmp_code.map_or(0, u32::from)),
        }),
        established: args.established,
        ip: match family(args)? {
            None => 0,
            Some(Family::V4) => 4,
            Some(Family::V6) => 6,
        },
    })
}

/// The IP version that the arguments agree on, if any tells.
fn family(args: &Explain) -> Result<Option<Family>, Misuse> {
    let by_protocol = match args.service.protocol {
        Protocol::ICMP => Some(Family::V4),
        Protocol::ICMPV6 => Some(Family::V6),
        _ => None,
    };
    let named = [
        args.remote.map(Family::from_address),
        args.local.map(Family::from_address),
        by_protocol,
        args.ip,
    ];
    let mut named = named.into_iter().flatten();
    let first = named.next();
    match (first, named.find(|f| Some(*f) != first)) {
        (Some(a), Some(b)) => Err(Misuse::Families(a, b)),
        (first, _) => Ok(first),
    }
}
