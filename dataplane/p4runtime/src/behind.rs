//! Targets nearer to the endpoints: what is behind a port of this switch, and polices the same traffic first.

use std::collections::BTreeSet;

use portcullis_compiler::EndpointIntent;
use portcullis_policy::{Attachment, IdentifiedBy, Vlan};

use crate::attachment_points::{KnownPorts, meant};

/// A target that is cabled to a port of this switch: everything that its endpoints send or receive here passes it, too.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Inner {
    /// Name of the target, as configured.
    pub target: String,
    /// What attachments to it name.
    pub takes: Takes,
    /// Whether it holds every policy whole: Open vSwitch, and our own P4 program. A foreign program may hold a part.
    pub is_whole: bool,
}

/// What an attachment to a target names.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Takes {
    /// An interface of Open vSwitch.
    Interfaces {
        /// Whether one that names no target is meant as well: there is no other Open vSwitch.
        without_target: bool,
    },
    /// A port of a switch that is none of these uplinks.
    Ports {
        /// Ports that nothing is policed at.
        uplinks: BTreeSet<u32>,
    },
}

impl Inner {
    /// The attachments of an endpoint that this target polices.
    fn attachments<'e>(&self, endpoint: &'e EndpointIntent) -> impl Iterator<Item = &'e Attachment> {
        endpoint
            .attachments
            .iter()
            .filter(|attachment| self.has(attachment))
    }

    /// Whether an attachment is one of this target's.
    pub(crate) fn has(&self, attachment: &Attachment) -> bool {
        let is_named = attachment.target.as_ref() == Some(&self.target);
        match (&self.takes, attachment.port) {
            (Takes::Interfaces { without_target }, None) => {
                is_named || (attachment.target.is_none() && *without_target)
            }
            (Takes::Ports { uplinks }, Some(port)) => is_named && !uplinks.contains(&port),
            _ => false,
        }
    }

    /// Whether an attachment may be one of this target's: of several Open vSwitches any may have an interface that names none.
    pub(crate) fn may_have(&self, attachment: &Attachment) -> bool {
        let is_interface = matches!(self.takes, Takes::Interfaces { .. }) && attachment.port.is_none();
        self.has(attachment) || (is_interface && attachment.target.is_none())
    }

    /// Whether an attachment's MACs and VLAN are all attached here. `outer` is how many attachments of the endpoint lead here.
    fn polices(&self, endpoint: &EndpointIntent, attachment: &Attachment, outer: usize) -> bool {
        let inner: Vec<&Attachment> = self.attachments(endpoint).collect();
        // A target that holds policies whole leads a port to one of them: by address the endpoint waits there.
        if self.is_whole && inner.iter().any(|inner| inner.by == IdentifiedBy::Address) {
            return false;
        }
        // No MACs stand for all that the endpoint declares.
        let all_macs = inner.iter().any(|inner| inner.macs.is_empty());
        let macs = match attachment.macs.as_slice() {
            [] => &endpoint.macs,
            macs => macs,
        };
        let has_mac = |mac| inner.iter().any(|inner| inner.macs.contains(mac));
        let has_vlans = inner.len() >= outer || inner.iter().any(|inner| inner.vlan == Vlan::Any);
        !inner.is_empty() && has_vlans && (all_macs || (!macs.is_empty() && macs.iter().all(has_mac)))
    }
}

/// The targets behind this switch's ports that everything of an endpoint here passes, too: empty where some of it passes none. With
/// `whole`, those that hold every policy whole.
pub fn nearer(endpoint: &EndpointIntent, known: &KnownPorts, whole: bool) -> BTreeSet<String> {
    let here: Vec<&Attachment> = meant(endpoint, &known.target).collect();
    let behind = |attachment: &Attachment| {
        let inner = attachment.port.and_then(|port| known.behind.get(&port));
        inner.into_iter().flatten()
    };
    let leads_to =
        |attachment: &&&Attachment, inner: &Inner| behind(attachment).any(|i| i.target == inner.target);
    let mut all = BTreeSet::new();
    for attachment in &here {
        let polices = |inner: &&Inner| {
            let outer = here.iter().filter(|other| leads_to(other, inner)).count();
            (inner.is_whole || !whole) && inner.polices(endpoint, attachment, outer)
        };
        let found: Vec<&Inner> = behind(attachment).filter(polices).collect();
        if found.is_empty() {
            return BTreeSet::new();
        }
        all.extend(found.into_iter().map(|inner| inner.target.clone()));
    }
    all
}

#[cfg(test)]
mod tests {
    use portcullis_compiler::Compiler;
    use portcullis_policy::Document;

    use super::*;

    #[test]
    fn an_endpoint_is_behind_a_port_only_where_it_is_attached_there_and_at_every_port() {
        let document = Document::from_yaml(
            "version: portcullis/v1
endpoints:
  linked: {attachments: [{port: 1, vlan: 10, target: tor}, {interface: v1, target: host}]}
  any: {attachments: [{port: 1, vlan: 11, target: tor}, {interface: v2}]}
  part: {attachments: [{port: 2, target: tor}, {port: 7, target: nic}]}
  bare: {attachments: [{port: 1, vlan: 12, target: tor}]}
  beside: {attachments: [{port: 3, target: tor}, {interface: v3, target: host}]}
  two: {attachments: [{port: 1, vlan: 13, target: tor, macs: ['02:00:00:00:00:01']}, {port: 4, target: tor, macs: ['02:00:00:00:00:02']},
    {interface: v4, target: host, macs: ['02:00:00:00:00:01']}], macs: ['02:00:00:00:00:01', '02:00:00:00:00:02']}
  away: {attachments: [{interface: v5, target: host}]}
  uplink: {attachments: [{port: 2, vlan: 20, target: tor}, {port: 9, target: nic}]}
  interface: {attachments: [{port: 2, vlan: 21, target: tor}, {interface: x, target: nic}]}
  port: {attachments: [{port: 1, vlan: 14, target: tor}, {port: 5, target: host}]}
  mac: {attachments: [{port: 1, vlan: 15, target: tor, macs: ['02:00:00:00:01:01']}, {port: 5, target: tor, macs: ['02:00:00:00:01:02']},
    {interface: v6, target: host, macs: ['02:00:00:00:01:01']}], macs: ['02:00:00:00:01:01', '02:00:00:00:01:02']}
  macs: {attachments: [{port: 1, vlan: 16, target: tor, macs: ['02:00:00:00:02:01']}, {port: 5, vlan: 16, target: tor, macs: ['02:00:00:00:02:02']},
    {interface: v7, target: host, macs: ['02:00:00:00:02:01']}, {interface: v8, target: host, macs: ['02:00:00:00:02:02']}],
    macs: ['02:00:00:00:02:01', '02:00:00:00:02:02']}
  vlans: {attachments: [{port: 1, vlan: 17, target: tor}, {port: 1, vlan: 18, target: tor}, {interface: v9, target: host}]}
  trunk: {attachments: [{port: 1, vlan: 30, target: tor}, {port: 1, vlan: 31, target: tor}, {interface: v10, vlan: any, target: host}]}
",
        )
        .unwrap();
        let host = Inner {
            target: "host".to_string(),
            takes: Takes::Interfaces { without_target: true },
            is_whole: true,
        };
        let nic = Inner {
            target: "nic".to_string(),
            takes: Takes::Ports { uplinks: [9].into() },
            is_whole: false,
        };
        let known = KnownPorts {
            target: "tor".to_string(),
            behind: [(1, vec![host.clone()]), (2, vec![nic]), (5, vec![host])].into(),
            ..KnownPorts::default()
        };
        let intent = Compiler::default().resolve(&document, 1).unwrap();
        let found = |whole| -> Vec<&str> {
            let endpoints = intent.endpoints.values();
            let behind = endpoints.filter(|endpoint| !nearer(endpoint, &known, whole).is_empty());
            let mut names: Vec<&str> = behind.map(|endpoint| endpoint.name.as_str()).collect();
            names.sort_unstable();
            names
        };
        assert_eq!(found(false), ["any", "linked", "macs", "part", "trunk"]);
        assert_eq!(found(true), ["any", "linked", "macs", "trunk"]);
    }
}
