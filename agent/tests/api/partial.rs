//! A vendor's switch that holds a part of a policy (`p4/vendor.p4`), alone and with a switch that holds all of it.

use std::path::Path;
use std::time::{Duration, Instant};

use portcullis::daemon::Agent;
use portcullis::targets;
use portcullis_proto::p4;
use portcullis_proto::v1;
use portcullis_testbed::p4::{Fields, P4Server};
use tonic::Code;

use super::pair::{p4runtime, passes};
use super::support::*;

/// A switch on which a vendor's program runs already.
pub async fn vendor() -> P4Server {
    let server = P4Server::start().await.unwrap();
    let info = include_bytes!("../../../p4/compiled/vendor.p4info.txtpb");
    server.state().config = Some(p4::v1::ForwardingPipelineConfig {
        p4info: Some(portcullis_p4runtime::parse(info).unwrap()),
        ..Default::default()
    });
    server
}

pub fn tor(server: &P4Server, more: &str) -> String {
    let target = p4runtime("tor", server);
    format!("{target}program = \"device\"\nmapping = \"vendor\"\nservers = [1, 2]\n{more}")
}

/// Whether a TCP segment over IPv4 passes the switch of the vendor.
pub fn passes_vendor(server: &P4Server, port: u128, to: u128) -> bool {
    let packet: Fields = [
        ("in_port", port),
        ("is_ip", 1),
        ("is_ipv4", 1),
        ("ether_type", 0x0800),
        ("ip_protocol", 6),
        ("l4_src_port", 40_000),
        ("l4_dst_port", to),
    ]
    .into();
    let met = server.state().meets("acl_ingress", &packet);
    met.is_none_or(|(action, _)| action != "acl_drop")
}

fn document(attachments: &str, ports: &str) -> String {
    format!(
        "version: portcullis/v1\nbaseline:\n  - {{name: smtp, action: deny, direction: egress, protocol: tcp, ports: [{ports}]}}\n\
         endpoints:\n  web1:\n    attachments: [{attachments}]\n    source_guard: false\n"
    )
}

pub const ACCEPT: &str = "accept = [\"later-fragments\", \"ip-options\", \"extension-headers\"]\n";

pub struct Bed {
    pub agent: Agent,
    pub client: Client,
}

impl Bed {
    pub async fn start(folder: &Path, targets: &str) -> Bed {
        let config = config(folder, targets);
        let launched = targets::start(&config.targets).await.unwrap();
        let agent = Agent::start(config, launched).await.unwrap();
        let client = Client::unix(&folder.join("agent.sock")).await;
        Bed { agent, client }
    }

    pub async fn status(&mut self, name: &str) -> v1::Target {
        let request = v1::ListTargetsRequest {};
        let list = self.client.targets.list_targets(request).await.unwrap();
        let mut targets = list.into_inner().targets.into_iter();
        targets.find(|target| target.name == name).unwrap()
    }

    /// Waits until a target holds a generation.
    pub async fn holds(&mut self, name: &str, generation: u64) -> v1::Target {
        let end = Instant::now() + Duration::from_secs(60);
        loop {
            let status = self.status(name).await;
            if status.state == "InSync" && status.generation_applied == generation {
                return status;
            }
            assert!(Instant::now() < end, "{status:#?}");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }
}

#[tokio::test]
async fn a_gap_is_refused_where_no_other_target_holds_the_rule() {
    let (folder, server) = (tempfile::tempdir().unwrap(), vendor().await);
    let mut bed = Bed::start(folder.path(), &tor(&server, ACCEPT)).await;
    // Nothing is denied yet: there is no gap, and the switch is known then.
    let open = "version: portcullis/v1\nendpoints:\n  web1: {attachments: [{port: 1, target: tor}], source_guard: false}\n";
    bed.client.apply(open).await.unwrap();
    bed.holds("tor", 1).await;
    let refused = bed
        .client
        .apply(&document("{port: 1, target: tor}", "25"))
        .await
        .unwrap_err();
    assert_eq!(refused.code(), Code::Unimplemented, "{refused}");
    for part in [
        "acl_ingress of tor cannot enforce egress baseline/smtp of web1: enforced in part: packets with IPv4 options",
        "for example IPv4 tcp to port 25, with IPv4 options",
        "no target nearer to the endpoint holds it",
        "set on_gap = \"report\" for tor",
    ] {
        assert!(refused.message().contains(part), "{refused}");
    }
    assert_eq!(bed.status("tor").await.generation_wanted, 1);
    bed.agent.stop().await.unwrap();

    // Told to report gaps, the agent makes the change, and status lists them.
    let targets = tor(&server, &format!("{ACCEPT}on_gap = \"report\"\n"));
    let mut bed = Bed::start(folder.path(), &targets).await;
    bed.holds("tor", 1).await;
    let applied = bed
        .client
        .apply(&document("{port: 1, target: tor}", "25"))
        .await
        .unwrap();
    let status = bed.holds("tor", applied.generation).await;
    let rules: Vec<&str> = status.unsupported.iter().map(|u| u.rule.as_str()).collect();
    assert!(rules.contains(&"baseline/smtp"), "{rules:?}");
    assert!(!passes_vendor(&server, 1, 25) && passes_vendor(&server, 1, 80));
    bed.agent.stop().await.unwrap();

    // What was there before keeps nothing from being closed.
    let mut bed = Bed::start(folder.path(), &tor(&server, ACCEPT)).await;
    bed.holds("tor", applied.generation).await;
    let wider = bed
        .client
        .apply(&document("{port: 1, target: tor}", "25, 465"))
        .await
        .unwrap();
    bed.holds("tor", wider.generation).await;
    assert!(!passes_vendor(&server, 1, 465));
    bed.agent.stop().await.unwrap();
}

#[tokio::test]
async fn a_part_at_the_top_of_the_rack_and_the_whole_behind_it() {
    let (folder, server) = (tempfile::tempdir().unwrap(), vendor().await);
    let leaf = P4Server::start().await.unwrap();
    let both = "{port: 1, target: tor}, {port: 7, target: leaf}";
    // Side by side, the traffic of one does not pass the other.
    let targets = [tor(&server, ACCEPT), p4runtime("leaf", &leaf)].concat();
    let mut bed = Bed::start(folder.path(), &targets).await;
    let open = format!(
        "version: portcullis/v1\nendpoints:\n  web1: {{attachments: [{both}], source_guard: false}}\n"
    );
    let opened = bed.client.apply(&open).await.unwrap();
    bed.holds("tor", opened.generation).await;
    let refused = bed.client.apply(&document(both, "25")).await.unwrap_err();
    assert!(
        refused.message().contains("egress baseline/smtp of web1"),
        "{refused}"
    );
    bed.agent.stop().await.unwrap();
    // One behind the other, the nearer one holds what the other lacks.
    let targets = [targets.as_str(), "links = [{to = \"tor\", port = 1}]\n"].concat();
    let mut bed = Bed::start(folder.path(), &targets).await;
    bed.client.apply(&document(both, "25")).await.unwrap();
    let status = bed.holds("tor", 2).await;
    bed.holds("leaf", 2).await;
    assert!(
        status.unsupported.iter().any(|u| u.rule == "baseline/smtp"),
        "{status:#?}"
    );
    let on = |port| (passes_vendor(&server, 1, port), passes(&leaf, 7, port));
    assert_eq!((on(25), on(80)), ((false, Some(false)), (true, Some(true))));
    // What the part does not deny, it leaves to others, and says so.
    let explained = |port| v1::ExplainRequest {
        endpoint: "web1".to_string(),
        direction: v1::Direction::Egress.into(),
        protocol: "tcp".to_string(),
        port,
        ..Default::default()
    };
    for (port, rows) in [(25, 1), (80, 0)] {
        let answer = bed
            .client
            .policy
            .explain(explained(port))
            .await
            .unwrap()
            .into_inner();
        let tor = answer.targets.iter().find(|t| t.target == "tor").unwrap();
        assert_eq!(tor.rows.len(), rows, "{tor:#?}");
        // The nearest target is the first, and the other one is said to be behind it.
        let order: Vec<(&str, &[String])> = answer
            .targets
            .iter()
            .map(|t| (t.target.as_str(), t.nearer.as_slice()))
            .collect();
        assert_eq!(order, [("leaf", &[][..]), ("tor", &["leaf".to_string()][..])]);
        assert_eq!(
            tor.unavailable.contains("it is a partial point"),
            rows == 0,
            "{tor:#?}"
        );
    }
    // The other switch gone from the endpoint, the gap is one.
    let refused = bed
        .client
        .apply(&document("{port: 1, target: tor}", "25"))
        .await
        .unwrap_err();
    assert!(
        refused.message().contains("egress baseline/smtp of web1"),
        "{refused}"
    );
    // An opening opens both.
    let opened = bed.client.apply(&document(both, "26")).await.unwrap();
    for target in ["tor", "leaf"] {
        bed.holds(target, opened.generation).await;
    }
    assert_eq!((on(25), on(26)), ((true, Some(true)), (false, Some(false))));
    bed.agent.stop().await.unwrap();
}

#[tokio::test]
async fn what_no_row_can_be_about_is_a_gap_and_a_gap_may_not_grow() {
    let (folder, server) = (tempfile::tempdir().unwrap(), vendor().await);
    let targets = tor(&server, &format!("{ACCEPT}on_gap = \"report\"\n"));
    let mut bed = Bed::start(folder.path(), &targets).await;
    let applied = bed
        .client
        .apply(&document("{port: 1, target: tor}", "25"))
        .await
        .unwrap();
    bed.holds("tor", applied.generation).await;
    bed.agent.stop().await.unwrap();
    let mut bed = Bed::start(folder.path(), &tor(&server, ACCEPT)).await;
    bed.holds("tor", applied.generation).await;
    // The rule had a gap for packets with options; what needs TCP flags has one for plain packets, too.
    let grown = document("{port: 1, target: tor}", "25").replace(
        "endpoints:",
        "  - {name: first, action: allow, direction: egress, protocol: tcp, source_ports: [80], ports: [25]}\nendpoints:",
    );
    let same = bed.client.apply(&grown).await.unwrap();
    bed.holds("tor", same.generation).await;
    for (attachment, why) in [
        (
            "{port: 2, vlan: any, target: tor}",
            "every rule for tagged frames of web1: port 2 is a trunk",
        ),
        (
            "{port: 2, vlan: 7, target: tor}",
            "egress baseline/smtp of web1: it is on a VLAN of port 2",
        ),
    ] {
        let refused = bed.client.apply(&document(attachment, "25")).await.unwrap_err();
        assert!(refused.message().contains(why), "{refused}");
    }
    // A rule without ports is held whole, and one more rule with ports is a new gap.
    let bogons = document("{port: 1, target: tor}", "25").replace(
        "endpoints:",
        "  - {name: bogons, action: deny, direction: egress, remote: [203.0.113.0/24]}\nendpoints:",
    );
    bed.client.apply(&bogons).await.unwrap();
    let more = bogons.replace(
        "endpoints:",
        "  - {name: dns, action: deny, direction: egress, protocol: udp, ports: [53]}\nendpoints:",
    );
    let refused = bed.client.apply(&more).await.unwrap_err();
    assert!(
        refused.message().contains("egress baseline/dns of web1"),
        "{refused}"
    );
    bed.agent.stop().await.unwrap();
}

#[tokio::test]
async fn a_switch_that_cannot_play_its_part_is_unusable_and_apply_warns() {
    let (folder, server) = (tempfile::tempdir().unwrap(), vendor().await);
    // Without the mapping its tables are refused: they lack keys of a whole policy.
    let target = format!("{}program = \"device\"\n", p4runtime("tor", &server));
    let mut bed = Bed::start(folder.path(), &target).await;
    let file = folder.path().join("policy.yaml");
    std::fs::write(&file, document("{port: 1, target: tor}", "25")).unwrap();
    let end = Instant::now() + Duration::from_secs(60);
    while bed.status("tor").await.state != "Unusable" {
        assert!(Instant::now() < end);
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    let socket = folder.path().join("agent.sock");
    let output = tokio::process::Command::new(env!("CARGO_BIN_EXE_portcullis"))
        .arg("--socket")
        .arg(&socket)
        .args(["apply", "-f"])
        .arg(&file)
        .output()
        .await
        .unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{said}");
    assert!(
        said.contains("warning: target tor is Unusable, and the change is not enforced there yet: "),
        "{said}"
    );
    assert!(said.contains("no table can play the stage `policy`"), "{said}");
    bed.agent.stop().await.unwrap();
}

#[tokio::test]
async fn a_rule_has_a_gap_where_the_nearest_point_lacks_it_whatever_others_hold() {
    let (folder, server, other) = (tempfile::tempdir().unwrap(), vendor().await, vendor().await);
    // The nearer one holds rules for ports of IPv6 alone, the other one those of IPv4, too.
    let link = "links = [{to = \"tor2\", port = 1}]\n";
    let second = tor(&other, ACCEPT).replace("name = \"tor\"", "name = \"tor2\"");
    let targets = [&tor(&server, link), second.as_str()].concat();
    let mut bed = Bed::start(folder.path(), &targets).await;
    let ends = |attachments: &str| {
        format!(
            "version: portcullis/v1\nendpoints:\n  web1: {{attachments: [{attachments}], source_guard: false}}\n"
        )
    };
    let (first, both, outer) = (
        "{port: 1, target: tor}",
        "{port: 1, target: tor}, {port: 1, target: tor2}",
        "{port: 1, target: tor2}",
    );
    bed.client.apply(&ends(both)).await.unwrap();
    for target in ["tor", "tor2"] {
        bed.holds(target, 1).await;
    }
    let with = |attachments: &str, rules: &str| {
        let ends = ends(attachments).replace("version: portcullis/v1\n", "");
        format!("version: portcullis/v1\nbaseline:\n{rules}{ends}")
    };
    let bogons = "  - {name: bogons, action: deny, direction: egress, remote: [203.0.113.0/24]}\n";
    let smtp = "  - {name: smtp, action: deny, direction: egress, protocol: tcp, ports: [25]}\n";
    let gre = "  - {name: gre, action: deny, direction: egress, protocol: gre}\n";
    // Both hold it whole.
    let held = bed.client.apply(&with(both, bogons)).await.unwrap();
    bed.holds("tor", held.generation).await;
    // What the nearer one lacks, its neighbours would still get, also where the other one holds it.
    for rule in [smtp, gre] {
        let rules = [bogons, rule].concat();
        let refused = bed.client.apply(&with(both, &rules)).await.unwrap_err();
        assert!(
            refused
                .message()
                .contains("of tor cannot enforce egress baseline/"),
            "{refused}"
        );
    }
    // One alone holds what needs no ports.
    let alone = bed.client.apply(&with(first, bogons)).await.unwrap();
    bed.holds("tor", alone.generation).await;
    // Without the nearer one, the other one is the nearest.
    let refused = bed
        .client
        .apply(&with(outer, &[bogons, smtp].concat()))
        .await
        .unwrap_err();
    assert!(
        refused
            .message()
            .contains("of tor2 cannot enforce egress baseline/smtp of web1"),
        "{refused}"
    );
    // At an uplink no row holds anything.
    bed.agent.stop().await.unwrap();
    let uplink = tor(&server, "uplinks = [5]\n");
    let mut bed = Bed::start(folder.path(), &[uplink, second].concat()).await;
    bed.holds("tor2", alone.generation).await;
    let at_uplink = "{port: 5, target: tor}";
    let refused = bed.client.apply(&with(at_uplink, bogons)).await.unwrap_err();
    assert!(
        refused
            .message()
            .contains("egress baseline/bogons of web1: port 5 is an uplink"),
        "{refused}"
    );
    bed.agent.stop().await.unwrap();

    // Where the nearer one only reports its gaps, one that goes with it is none that is new; a rule more is.
    let folder = tempfile::tempdir().unwrap();
    let link = "links = [{to = \"tor2\", port = 1}]\non_gap = \"report\"\n";
    let second = tor(&other, ACCEPT).replace("name = \"tor\"", "name = \"tor2\"");
    let mut bed = Bed::start(folder.path(), &[&tor(&server, link), second.as_str()].concat()).await;
    bed.client.apply(&ends(both)).await.unwrap();
    for target in ["tor", "tor2"] {
        bed.holds(target, 1).await;
    }
    bed.client.apply(&with(both, smtp)).await.unwrap();
    bed.client.apply(&with(outer, smtp)).await.unwrap();
    let refused = bed
        .client
        .apply(&with(outer, &[smtp, gre].concat()))
        .await
        .unwrap_err();
    assert!(
        refused.message().contains("egress baseline/gre of web1"),
        "{refused}"
    );
    bed.agent.stop().await.unwrap();
}

#[tokio::test]
async fn what_no_table_counts_is_said_and_not_shown_as_zero() {
    let (folder, server) = (tempfile::tempdir().unwrap(), vendor().await);
    let config = server.state().config.clone();
    let mut config = config.unwrap();
    let info = config.p4info.as_mut().unwrap();
    let counters: Vec<u32> = std::mem::take(&mut info.direct_counters)
        .into_iter()
        .filter_map(|counter| Some(counter.preamble?.id))
        .collect();
    for table in &mut info.tables {
        table.direct_resource_ids.retain(|id| !counters.contains(id));
    }
    server.state().config = Some(config);
    let targets = tor(&server, &format!("{ACCEPT}on_gap = \"report\"\n"));
    let mut bed = Bed::start(folder.path(), &targets).await;
    bed.client
        .apply(&document("{port: 1, target: tor}", "25"))
        .await
        .unwrap();
    let status = bed.holds("tor", 1).await;
    let tables = status
        .unsupported
        .iter()
        .filter(|u| u.rule == "hits")
        .map(|u| u.table.as_str());
    assert_eq!(tables.collect::<Vec<_>>(), ["acl_ingress", "acl_egress"]);
    let hits = bed
        .client
        .targets
        .list_hits(v1::ListHitsRequest::default())
        .await
        .unwrap()
        .into_inner();
    assert!(hits.hits.is_empty());
    assert_eq!(hits.unavailable.len(), 1, "{hits:?}");
    assert!(hits.unavailable[0].why.contains("tor counts no hits"), "{hits:?}");
    let asked = v1::ExplainRequest {
        endpoint: "web1".to_string(),
        direction: v1::Direction::Egress.into(),
        protocol: "tcp".to_string(),
        port: 25,
        ..Default::default()
    };
    let answer = bed.client.policy.explain(asked).await.unwrap().into_inner();
    let row = &answer.targets[0].rows[0];
    assert_eq!(
        (row.present, row.packets, row.bytes),
        (true, None, None),
        "{row:?}"
    );
    bed.agent.stop().await.unwrap();
}
