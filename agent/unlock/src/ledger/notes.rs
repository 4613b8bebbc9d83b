//! What an unlock does not open, and what it opens before it is checked again, in words for people who read it.

use std::collections::BTreeSet;

use portcullis_policy::{Document, StrictPrefix};

use super::basis::{covers, is_host};
use super::follow::local;
use super::unlock::Unlock;

/// What the rules of an unlock do not say.
pub fn notes(unlock: &Unlock, document: &Document) -> Vec<String> {
    let program = document.programs.get(&unlock.program);
    let endpoint = document.endpoints.get(&unlock.endpoint);
    let (Some(program), Some(endpoint)) = (program, endpoint) else {
        return Vec::new();
    };
    if unlock.state.has_ended() {
        return Vec::new();
    }
    let covered = covers(program, &endpoint.addresses, &unlock.evidence);
    let opens_for = match unlock.state.is_open() {
        true => unlock.local.clone(),
        false => local(covered.as_deref(), &endpoint.addresses, &endpoint.addresses),
    };
    let mut notes = Vec::new();
    if let Some(opens_for) = opens_for {
        let within =
            |list: &[StrictPrefix], one: &StrictPrefix| list.iter().any(|own| own.0.contains(&one.0));
        let closed: BTreeSet<&StrictPrefix> = endpoint
            .addresses
            .iter()
            .filter(|own| !within(&opens_for, own))
            .collect();
        notes.extend(closed.into_iter().map(|address| {
            let can_be = covered.as_ref().is_none_or(|list| within(list, address));
            let why = match (can_be, is_host(address)) {
                (true, _) => "its checks have not passed yet".to_string(),
                (false, true) => "no check of the program is about it (`scope: checked`)".to_string(),
                (false, false) => {
                    "a prefix has too many addresses to be checked (`scope: checked`)".to_string()
                }
            };
            format!("{address} stays closed: {why}")
        }));
        if endpoint.addresses.is_empty() && opens_for.is_empty() {
            let why = "the endpoint declares no address, so that no check is about one (`scope: checked`)";
            notes.push(format!("it opens nothing: {why}"));
        }
    }
    if unlock.moved {
        notes.push(
            "MACs or attachments of the endpoint changed: its checks are made again, and until then it is open at the \
             new place, too"
                .to_string(),
        );
    }
    notes
}
