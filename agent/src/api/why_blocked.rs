//! WhyBlocked: the rule that closes a port, and the programs that open it.

use portcullis_policy::{
    Decider, Direction, Document, Frame, Grant, GrantKind, Name, Packet, Protocol, Tier, Verdict, View,
    effective,
};
use portcullis_proto::v1;

use super::status::ApiError;
use super::{Api, explain, unlock_out};
use crate::access::Caller;
use crate::engine::Base;
use crate::store::{Key, Kind};

/// What a program would do to an endpoint if everything it may open were opened.
fn widest(name: &Name, program: &portcullis_policy::Program) -> Option<Grant> {
    let rules = program.opens.iter().enumerate().map(|(n, opening)| {
        let rule: Name = format!("opens-{n}").parse().ok()?;
        Some(opening.rule(rule, Verdict::Allow, &program.title))
    });
    Some(Grant {
        unlock: "u-asked".parse().ok()?,
        program: name.clone(),
        rules: rules.collect::<Option<Vec<_>>>()?,
        kind: GrantKind::Unlock,
        ends: u64::MAX,
    })
}

/// The document as it would be with one more grant.
fn with(document: &Document, endpoint: &Name, grant: Grant) -> Document {
    let mut document = document.clone();
    let mut grants = document
        .grants
        .get(endpoint)
        .map_or_else(Vec::new, |grants| grants.to_vec());
    grants.push(grant);
    document.grants.insert(endpoint.clone(), grants.into());
    document
}

fn in_words(request: &v1::WhyBlockedRequest, direction: Direction, protocol: u8) -> String {
    let port = match Protocol::has_ports(protocol) {
        true => format!(" port {}", request.port),
        false => String::new(),
    };
    let way = match direction {
        Direction::Egress => "from",
        Direction::Ingress => "to",
    };
    let protocol = Protocol::name(protocol).to_uppercase();
    format!("{protocol}{port} {way} {}", request.endpoint)
}

pub(super) fn blocked(
    api: &Api,
    request: &v1::WhyBlockedRequest,
    caller: &Caller,
    tenant: &str,
) -> Result<v1::WhyBlockedResponse, ApiError> {
    let asked = v1::ExplainRequest {
        endpoint: request.endpoint.clone(),
        direction: request.direction,
        protocol: request.protocol.clone(),
        port: request.port,
        remote: request.remote.clone(),
        ..v1::ExplainRequest::default()
    };
    let question = explain::read(&asked)?;
    let (base, now) = (api.engine().read(|state| state.base()), api.engine().now());
    let name = &question.endpoint;
    let endpoint = base.document.endpoints.get(name).ok_or_else(|| {
        ApiError::NotFound(Key {
            kind: Kind::Endpoint,
            name: name.to_string(),
        })
    })?;
    let direction = question.direction;
    let policy = effective(&base.document, name.as_str(), endpoint, direction);
    let packet = Packet {
        frame: Frame::Ip(explain::packet(&question, endpoint, &policy)?),
    };
    let (action, decider) = policy.judge(&packet, View::FULL);
    let entry = match decider {
        Decider::Entry(index) => policy.entries.get(index as usize),
        _ => None,
    };
    let what = in_words(request, direction, question.protocol);
    let rule = policy.origin(decider);
    let mut answer = v1::WhyBlockedResponse {
        blocked: action.denies(),
        tier: entry.map_or_else(|| "default".to_string(), |e| e.tier.to_string()),
        reason: entry.map_or_else(String::new, |e| e.reason.to_string()),
        rule,
        ..v1::WhyBlockedResponse::default()
    };
    if !answer.blocked {
        answer.explanation = format!("{what} is open, by {}.", answer.rule);
        return Ok(answer);
    }
    answer.ways = ways(&base, name, (caller, tenant), &now, |document| {
        let policy = effective(document, name.as_str(), endpoint, direction);
        policy.judge(&packet, View::FULL).0.passes()
    });
    answer.explanation = explanation(&what, &answer, entry.map(|e| e.tier));
    Ok(answer)
}

fn ways(
    base: &Base,
    endpoint: &Name,
    (caller, tenant): (&Caller, &str),
    now: &portcullis_unlock::clock::Moment,
    opens: impl Fn(&Document) -> bool,
) -> Vec<v1::WayToOpen> {
    let document = &base.document;
    let would_open = |(name, program): &(&Name, &std::sync::Arc<portcullis_policy::Program>)| {
        widest(name, program).is_some_and(|grant| opens(&with(document, endpoint, grant)))
    };
    let found = document.programs.iter().filter(would_open);
    found
        .map(|(name, program)| {
            let mut under_way = base.ledger.of_endpoint(endpoint.as_str());
            let obstacles = base.ledger.obstacles(document, endpoint, tenant, name, now);
            v1::WayToOpen {
                program: Some(unlock_out::program(
                    name,
                    program,
                    unlock_out::disclosed(Some(program), caller),
                )),
                obstacles: obstacles.iter().map(ToString::to_string).collect(),
                unlock: under_way.find(|unlock| unlock.program == *name).map(|unlock| {
                    unlock_out::for_caller(unlock_out::unlock(unlock, document), document, caller)
                }),
            }
        })
        .collect()
}

fn explanation(what: &str, answer: &v1::WhyBlockedResponse, tier: Option<Tier>) -> String {
    let why = match answer.reason.as_str() {
        "" => String::new(),
        reason => format!(": {reason}"),
    };
    let mut text = format!("{what} is blocked by {}{why}.", answer.rule);
    let names = answer
        .ways
        .iter()
        .filter_map(|way| Some(way.program.as_ref()?.name.as_str()));
    let names: Vec<&str> = names.collect();
    let next = match (names.as_slice(), tier) {
        ([], Some(Tier::Mandatory)) => " It is the operator's own rule: nothing opens it.".to_string(),
        ([], Some(Tier::Quarantine)) => " Nothing opens it before that is over.".to_string(),
        ([], _) => " There is no program that opens it: ask the operator.".to_string(),
        (names, _) => format!(" It can be opened by a request under: {}.", names.join(", ")),
    };
    text.push_str(&next);
    text
}
