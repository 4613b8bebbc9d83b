//! What no row of a device can be about, because of where an endpoint is attached.

use portcullis_backend::{Lack, Place};
use portcullis_compiler::compilation::Site;
use portcullis_compiler::model::Role;
use portcullis_compiler::{EndpointIntent, StageModel, Unsupported};
use portcullis_policy::{Attachment, IdentifiedBy, PerDirection};

use crate::attachment_points::meant;
use crate::behind::nearer;
use crate::config::Config;
use crate::limits::TAG;
use crate::units::{by_class, is_tagged};

/// What of an endpoint's traffic the rows of another program than ours cannot be about: they name whole ports, and their parser may
/// see no IP behind tags.
pub(crate) fn place(endpoint: &EndpointIntent, config: &Config, model: &StageModel) -> Place {
    let mut place = Place::default();
    let mut lacks: Vec<PerDirection<Option<Lack>>> = Vec::new();
    for attachment in meant(endpoint, &config.name) {
        let vlan = attachment.vlan.vid();
        let nothing = match attachment.port {
            None => "the attachment names no port of the switch".to_string(),
            Some(port) if config.uplinks.contains(&port) => {
                format!("port {port} is an uplink, and no row is about one")
            }
            Some(port) if attachment.by == IdentifiedBy::Address => {
                match by_address(endpoint, port, vlan, config, model) {
                    Some(why) => why,
                    None => {
                        lacks.push(unnamed(endpoint, attachment, model));
                        if vlan.is_none() && model.opaque_ethertypes.contains(&TAG) {
                            place.tagged = Some(behind_tags(&config.name, port));
                        }
                        continue;
                    }
                }
            }
            Some(port) if is_tagged(vlan) && !by_class(model) => {
                format!("it is on a VLAN of port {port}, and the rows of this P4 program name whole ports")
            }
            Some(port) => {
                let unseen = model.partial.is_some() && model.opaque_ethertypes.contains(&TAG);
                if vlan.is_none() && unseen {
                    place.tagged = Some(behind_tags(&config.name, port));
                }
                lacks.push(PerDirection::default());
                continue;
            }
        };
        place.nothing = Some(nothing_of(&config.name, nothing));
    }
    place.lacks = PerDirection::from_fn(|direction| {
        let of_direction: Vec<Option<Lack>> = lacks.iter().map(|lack| lack[direction].clone()).collect();
        together(&of_direction)
    });
    place
}

/// Tagged frames of a trunk that no row judges.
fn behind_tags(target: &str, port: u32) -> Unsupported {
    let why = format!(
        "port {port} is a trunk, and nothing says that the parser of this P4 program sees IP behind tags"
    );
    Unsupported {
        rule: "every rule for tagged frames".to_string(),
        ..nothing_of(target, why)
    }
}

/// What attachments of an endpoint lack together.
fn together(lacks: &[Option<Lack>]) -> Option<Lack> {
    let first = lacks.iter().flatten().next()?;
    let is_all = lacks
        .iter()
        .all(|lack| lack.as_ref().is_some_and(|lack| lack.is_all));
    Some(Lack {
        is_all,
        why: first.why.clone(),
    })
}

/// No rule is enforced for an endpoint, because of where it is attached.
pub(crate) fn nothing_of(target: &str, why: String) -> Unsupported {
    Unsupported {
        target: target.to_string(),
        rule: "every rule".to_string(),
        table: "attach".to_string(),
        why,
    }
}

/// Why an endpoint that is attached by address has no rows at a port, whatever else is attached there.
fn by_address(
    endpoint: &EndpointIntent,
    port: u32,
    vlan: Option<u16>,
    config: &Config,
    model: &StageModel,
) -> Option<String> {
    if by_class(model) {
        return Some(ONE_POLICY.to_string());
    }
    if model.partial.is_none() {
        return Some(
            "it is attached by address, and the rows of this P4 program hold policies whole".to_string(),
        );
    }
    if is_tagged(vlan) && model.opaque_ethertypes.contains(&TAG) {
        return Some(format!(
            "it is on a VLAN of port {port}, and nothing says that the parser of this P4 program sees IP behind tags"
        ));
    }
    let is_alone = nearer(endpoint, &config.known(), true).is_empty();
    is_alone.then(|| format!("it is attached by address, and no target behind port {port} holds its policy whole and guards sources"))
}

/// Why our own program has no rows for an endpoint that is attached by address.
pub(crate) const ONE_POLICY: &str =
    "it is attached by address, and this switch leads each port and VLAN to one policy";

/// The addresses of an endpoint that rows cannot name, by direction.
fn unnamed(
    endpoint: &EndpointIntent,
    attachment: &Attachment,
    model: &StageModel,
) -> PerDirection<Option<Lack>> {
    PerDirection::from_fn(|direction| {
        let table = model.table(Role::Policy, direction)?;
        let sites: Vec<Site> = Site::at(attachment, endpoint).collect();
        let reasons: Vec<String> = sites
            .iter()
            .filter_map(|site| site.cannot_be_named(table))
            .collect();
        let why = reasons.first()?;
        Some(Lack {
            is_all: reasons.len() == sites.len(),
            why: format!("it is attached by address, and {why}"),
        })
    })
}
