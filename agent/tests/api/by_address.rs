//! Two servers behind one port of a vendor's switch, each at a port of its own of the switch in between: what tells them apart at the
//! vendor's is their addresses.

use std::collections::BTreeMap;

use portcullis_proto::v1;
use portcullis_testbed::p4::{Fields, P4Server};

use super::pair::{p4runtime, passes};
use super::partial::{ACCEPT, Bed, tor, vendor};

fn document(rules: &str, more: &str) -> String {
    format!(
        "version: portcullis/v1
unmanaged: deny
baseline:
  - {{name: smtp, action: deny, direction: egress, protocol: tcp, ports: [25]}}
  - {{name: ssh, action: deny, direction: ingress, protocol: tcp, ports: [22]}}
endpoints:
  vm1:
    attachments: [{{port: 1, target: tor, by: address}}, {{port: 7, target: leaf}}]
    addresses: [192.0.2.11]
    rules: [{rules}]
  vm2:
    attachments: [{{port: 1, target: tor, by: address}}, {{port: 8, target: leaf}}]
    addresses: [192.0.2.12]
    rules: [{{name: irc, action: deny, direction: egress, protocol: tcp, ports: [6667]}}]
{more}"
    )
}

/// Whether a TCP segment over IPv4 with a source passes the vendor's switch from port 1.
fn passes_from(server: &P4Server, source: [u8; 4], to: u128) -> bool {
    let packet: Fields = [
        ("in_port", 1),
        ("is_ip", 1),
        ("is_ipv4", 1),
        ("ether_type", 0x0800),
        ("ip_protocol", 6),
        ("src_ip", u32::from_be_bytes(source).into()),
        ("l4_src_port", 40_000),
        ("l4_dst_port", to),
    ]
    .into();
    let met = server.state().meets("acl_ingress", &packet);
    met.is_none_or(|(action, _)| action != "acl_drop")
}

const VM1: [u8; 4] = [192, 0, 2, 11];
const VM2: [u8; 4] = [192, 0, 2, 12];

impl Bed {
    /// For each rule of an endpoint: how much of it the vendor's switch holds, and why not more.
    async fn held_at_tor(&mut self, endpoint: &str) -> BTreeMap<String, (String, String)> {
        let endpoint = endpoint.to_string();
        let request = v1::GetPlacementRequest { endpoint };
        let placed = self
            .client
            .targets
            .get_placement(request)
            .await
            .unwrap()
            .into_inner();
        assert_eq!(placed.paths.len(), 1, "{placed:#?}");
        let rules = placed.paths.into_iter().flat_map(|path| path.rules);
        rules
            .map(|r| (r.rule, (r.at[0].extent.clone(), r.at[0].why.clone())))
            .collect()
    }

    /// The rows at the vendor's switch that decide about what an endpoint sends to a TCP port, or why there are none.
    async fn at_tor(&mut self, endpoint: &str, port: u32) -> Result<Vec<String>, String> {
        let request = v1::ExplainRequest {
            endpoint: endpoint.to_string(),
            direction: v1::Direction::Egress.into(),
            protocol: "tcp".to_string(),
            port,
            ..Default::default()
        };
        let answer = self.client.policy.explain(request).await.unwrap().into_inner();
        let tor = answer.targets.into_iter().find(|t| t.target == "tor").unwrap();
        assert_eq!(tor.nearer, ["leaf"]);
        match tor.rows.as_slice() {
            [] => Err(tor.unavailable),
            rows => Ok(rows.iter().map(|row| row.row.clone()).collect()),
        }
    }
}

#[tokio::test]
async fn two_servers_behind_one_port_have_a_policy_each() {
    let (folder, server) = (tempfile::tempdir().unwrap(), vendor().await);
    let leaf = P4Server::start().await.unwrap();
    let link = "links = [{to = \"tor\", port = 1}]\n";
    let targets = [tor(&server, ACCEPT), p4runtime("leaf", &leaf), link.to_string()].concat();
    let mut bed = Bed::start(folder.path(), &targets).await;
    let applied = bed.client.apply(&document("", "")).await.unwrap();
    let status = bed.holds("tor", applied.generation).await;
    bed.holds("leaf", applied.generation).await;
    assert_eq!(
        (status.endpoints_realized, status.pending.as_slice()),
        (2, &[][..])
    );
    let denied = |source| [25, 6667, 80].map(|port| !passes_from(&server, source, port));
    assert_eq!(denied(VM1), [true, false, false]);
    assert_eq!(denied(VM2), [true, true, false]);
    assert_eq!(
        denied([192, 0, 2, 13]),
        [false; 3],
        "an address of no server behind the port"
    );
    assert_eq!(
        [7, 8].map(|port| passes(&leaf, port, 6667)),
        [Some(true), Some(false)]
    );
    let rows = bed.at_tor("vm2", 6667).await.unwrap();
    assert!(rows.len() == 1 && rows[0].contains("src_ip"), "{rows:?}");
    let why = bed.at_tor("vm1", 6667).await.unwrap_err();
    assert!(why.contains("it is a partial point"), "{why}");
    // The table for what servers receive has no key for their addresses.
    let held = bed.held_at_tor("vm2").await;
    assert_eq!(held["baseline/smtp"].0, "part");
    let (extent, why) = &held["baseline/ssh"];
    assert!(
        extent == "none" && why.contains("cannot match IPv4 addresses of endpoints"),
        "{held:?}"
    );
    // One is opened, the other is not.
    let allow = "{name: mail, action: allow, direction: egress, protocol: tcp, ports: [25]}";
    let opened = bed.client.apply(&document(allow, "")).await.unwrap();
    bed.holds("tor", opened.generation).await;
    assert_eq!((denied(VM1)[0], denied(VM2)[0]), (false, true));
    bed.agent.stop().await.unwrap();
    // After a restart the rows are what they were.
    let before = server.state().updates;
    let mut bed = Bed::start(folder.path(), &targets).await;
    bed.holds("tor", opened.generation).await;
    assert_eq!(server.state().updates, before, "nothing is written");
    // With a neighbour that may send with any address nothing tells them apart: the rows go, and status says why.
    let loose = "  loose: {attachments: [{port: 9, target: leaf}], source_guard: false}\n";
    let changed = bed.client.apply(&document(allow, loose)).await.unwrap();
    let status = bed.holds("tor", changed.generation).await;
    bed.holds("leaf", changed.generation).await;
    let why: Vec<&str> = status.pending.iter().map(|p| p.why.as_str()).collect();
    assert!(
        why.len() == 2 && why[0].contains("loose is behind it, too, and may send with any address"),
        "{why:?}"
    );
    assert_eq!((denied(VM1), denied(VM2)), ([false; 3], [false; 3]));
    let held = bed.held_at_tor("vm2").await;
    assert!(held.values().all(|(extent, _)| extent == "waiting"), "{held:?}");
    assert!(
        held["endpoints/vm2/irc"].1.contains("loose is behind it"),
        "{held:?}"
    );
    assert_eq!(
        [7, 8].map(|port| passes(&leaf, port, 25)),
        [Some(true), Some(false)],
        "the nearer switch holds all"
    );
    bed.agent.stop().await.unwrap();
}

#[tokio::test]
async fn without_a_target_behind_the_port_it_is_a_gap() {
    let (folder, server) = (tempfile::tempdir().unwrap(), vendor().await);
    let leaf = P4Server::start().await.unwrap();
    // The switch in between is not linked to the vendor's.
    let targets = [tor(&server, ACCEPT), p4runtime("leaf", &leaf)].concat();
    let mut bed = Bed::start(folder.path(), &targets).await;
    let open = "version: portcullis/v1\nendpoints:\n  vm1: {attachments: [{port: 1, target: tor}], source_guard: false}\n";
    let opened = bed.client.apply(open).await.unwrap();
    bed.holds("tor", opened.generation).await;
    let refused = bed.client.apply(&document("", "")).await.unwrap_err();
    for part in [
        "cannot enforce egress baseline/smtp",
        "no target behind port 1 holds its policy whole",
    ] {
        assert!(refused.message().contains(part), "{refused}");
    }
    bed.agent.stop().await.unwrap();
}
