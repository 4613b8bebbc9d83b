//! Targets nearer to the endpoints: what is behind a port of this switch, and polices the same traffic first.

use portcullis_compiler::EndpointIntent;
use portcullis_policy::Attachment;

use crate::attachment_points::{KnownPorts, meant};

/// A target that is cabled to a port of this switch: everything that its endpoints send or receive here passes it, too.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Inner {
    /// Name of the target, as configured.
    pub target: String,
    /// Whether it takes attachments that name an interface and no target.
    pub takes_interfaces: bool,
    /// Whether it holds every policy whole: Open vSwitch, and our own P4 program. A foreign program may hold a part.
    pub is_whole: bool,
}

impl Inner {
    fn has(&self, endpoint: &EndpointIntent) -> bool {
        let is_here = |attachment: &Attachment| match &attachment.target {
            Some(target) => *target == self.target,
            None => self.takes_interfaces && attachment.port.is_none(),
        };
        endpoint.attachments.iter().any(is_here)
    }
}

/// Whether all that an endpoint sends and receives at this switch passes a target behind its port, to which it is attached as well; with
/// `whole`, one that holds every policy whole.
pub fn is_behind(endpoint: &EndpointIntent, known: &KnownPorts, whole: bool) -> bool {
    let covered = |attachment: &Attachment| {
        let inner = attachment.port.and_then(|port| known.behind.get(&port));
        let mut inner = inner.into_iter().flatten();
        inner.any(|inner| (inner.is_whole || !whole) && inner.has(endpoint))
    };
    let mut here = meant(endpoint, &known.target).peekable();
    here.peek().is_some() && here.all(covered)
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
",
        )
        .unwrap();
        let inner = |target: &str, takes_interfaces, is_whole| Inner {
            target: target.to_string(),
            takes_interfaces,
            is_whole,
        };
        let known = KnownPorts {
            target: "tor".to_string(),
            behind: [
                (1, vec![inner("host", true, true)]),
                (2, vec![inner("nic", false, false)]),
            ]
            .into(),
            ..KnownPorts::default()
        };
        let intent = Compiler::default().resolve(&document, 1).unwrap();
        let found = |whole| -> Vec<&str> {
            let endpoints = intent.endpoints.values();
            let behind = endpoints.filter(|endpoint| is_behind(endpoint, &known, whole));
            let mut names: Vec<&str> = behind.map(|endpoint| endpoint.name.as_str()).collect();
            names.sort_unstable();
            names
        };
        assert_eq!(found(false), ["any", "linked", "part"]);
        assert_eq!(found(true), ["any", "linked"]);
    }
}
