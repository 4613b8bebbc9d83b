//! Which target holds which rule, when a switch at the top of the rack has room for some of them.

use std::collections::BTreeMap;

use portcullis_proto::v1;
use portcullis_testbed::p4::P4Server;

use super::pair::{p4runtime, passes};
use super::partial::{ACCEPT, Bed, passes_vendor, tor, vendor};

/// A server behind `tor` at `leaf`, and this many rules of the baseline, each for a port of its own from 7001 on.
fn document(rules: u16, more: &str) -> String {
    let rule = |n: u16| {
        format!(
            "  - {{name: r{n}, action: deny, direction: egress, protocol: tcp, ports: [{}]}}\n",
            7000 + n
        )
    };
    let rules: String = (1..=rules).map(rule).collect();
    format!(
        "version: portcullis/v1\nmandatory:\n  - {{name: smtp, action: deny, direction: egress, protocol: tcp, ports: [25]}}\n\
         baseline:\n{rules}endpoints:\n  web1:\n    attachments: [{{port: 1, target: tor}}, {{port: 7, target: leaf}}]\n    \
         source_guard: false\n{more}"
    )
}

impl Bed {
    async fn placed(&mut self, endpoint: &str) -> v1::GetPlacementResponse {
        let endpoint = endpoint.to_string();
        let request = v1::GetPlacementRequest { endpoint };
        self.client
            .targets
            .get_placement(request)
            .await
            .unwrap()
            .into_inner()
    }

    /// The rules that `tor` would leave under a document, and those that it would hold again.
    async fn planned(&mut self, document: &str) -> (Vec<String>, Vec<String>) {
        let request = v1::PlanRequest {
            document: document.to_string(),
            ..Default::default()
        };
        let plan = self.client.policy.plan(request).await.unwrap().into_inner();
        let tor = plan.targets.into_iter().find(|t| t.target == "tor").unwrap();
        assert_eq!(tor.unavailable, "");
        (tor.leaves, tor.holds_again)
    }

    /// Placement and what `tor` holds, by rule of `web1`.
    async fn rules(&mut self) -> BTreeMap<String, (String, String)> {
        let placed = self.placed("web1").await;
        assert_eq!(placed.paths.len(), 1, "{placed:#?}");
        assert_eq!(placed.paths[0].targets, ["tor", "leaf"]);
        let rules = placed.paths.into_iter().flat_map(|path| path.rules);
        rules
            .map(|r| (r.rule, (r.placement, r.at[0].extent.clone())))
            .collect()
    }
}

fn count(rules: &BTreeMap<String, (String, String)>, placement: &str, tor: &str) -> usize {
    let same = |(p, t): &&(String, String)| (p.as_str(), t.as_str()) == (placement, tor);
    rules.values().filter(same).count()
}

/// Ports that a segment of `web1` passes `tor` to although a rule denies it.
fn open_at_tor(server: &P4Server, rules: u16) -> Vec<u128> {
    let ports = (1..=rules).map(|n| u128::from(7000 + n));
    ports.filter(|port| passes_vendor(server, 1, *port)).collect()
}

#[tokio::test]
async fn rules_spill_to_the_nearer_target_and_come_back() {
    let (folder, server) = (tempfile::tempdir().unwrap(), vendor().await);
    let leaf = P4Server::start().await.unwrap();
    let link = "hardware = false\nlinks = [{to = \"tor\", port = 1}]\n";
    let room = format!("{ACCEPT}max_rows = 24\nreserve = 4\n");
    // A port without an endpoint has nothing behind it: all of its rows would have to have room.
    let tor = tor(&server, &room).replace("servers = [1, 2]", "servers = [1]");
    let targets = [tor, p4runtime("leaf", &leaf), link.to_string()].concat();
    let mut bed = Bed::start(folder.path(), &targets).await;
    // There is room for all.
    let applied = bed.client.apply(&document(5, "")).await.unwrap();
    for target in ["tor", "leaf"] {
        bed.holds(target, applied.generation).await;
    }
    let rules = bed.rules().await;
    assert_eq!(
        (rules.len(), count(&rules, "partly", "part")),
        (6, 6),
        "{rules:#?}"
    );
    assert_eq!(open_at_tor(&server, 5), [0u128; 0]);
    // Thirty do not fit: some are left, each of them to `leaf`, and the mandatory one stays.
    let (leaves, again) = bed.planned(&document(30, "")).await;
    let applied = bed.client.apply(&document(30, "")).await.unwrap();
    let status = bed.holds("tor", applied.generation).await;
    bed.holds("leaf", applied.generation).await;
    let rules = bed.rules().await;
    assert_eq!(
        rules["mandatory/smtp"],
        ("partly".to_string(), "part".to_string())
    );
    let (held, left) = (count(&rules, "partly", "part"), count(&rules, "software", "left"));
    assert_eq!(held + left, 31, "{rules:#?}");
    assert!(held > 5 && left > 5, "{rules:#?}");
    let open = open_at_tor(&server, 30);
    assert_eq!(open.len(), left);
    let mut names: Vec<String> = open
        .iter()
        .map(|port| format!("egress baseline/r{}", port - 7000))
        .collect();
    names.sort();
    assert_eq!((leaves, again), (names.clone(), Vec::new()), "what the plan said");
    assert_eq!(
        bed.planned(&document(30, "")).await,
        (Vec::new(), Vec::new()),
        "nothing moves any more"
    );
    // With fewer rules those of them that are left come back; the others are no longer there.
    names.retain(|name| (1..=8).any(|n| *name == format!("egress baseline/r{n}")));
    assert!(!names.is_empty());
    assert_eq!(bed.planned(&document(8, "")).await, (Vec::new(), names));
    for port in &open {
        assert_eq!(passes(&leaf, 7, *port), Some(false), "port {port}");
        let rule = &rules[&format!("baseline/r{}", port - 7000)];
        assert_eq!(rule.1, "left", "port {port}: {rule:?}");
    }
    let table = status.tables.iter().find(|t| t.table == "acl_ingress").unwrap();
    assert_eq!((table.size, table.reserve), (24, 4));
    assert!(table.rows <= 20, "{table:?}");
    assert!(
        status
            .unsupported
            .iter()
            .any(|u| u.why.contains("left to the targets behind")),
        "{status:#?}"
    );
    // An opening opens both, and a closing closes both, also where one of them had left the rule.
    let unlocked = bed
        .client
        .apply(&document(
            30,
            "    rules: [{name: own, action: allow, direction: egress, protocol: tcp, ports: [25, 7030]}]\n",
        ))
        .await
        .unwrap();
    for target in ["tor", "leaf"] {
        bed.holds(target, unlocked.generation).await;
    }
    assert_eq!(
        (passes(&leaf, 7, 7030), passes_vendor(&server, 1, 7030)),
        (Some(true), true)
    );
    // Mandatory rules are not opened by own ones.
    assert_eq!(
        (passes(&leaf, 7, 25), passes_vendor(&server, 1, 25)),
        (Some(false), false)
    );
    let closed = bed.client.apply(&document(30, "")).await.unwrap();
    bed.holds("tor", closed.generation).await;
    let before = open_at_tor(&server, 30);
    // A restart leaves what was left, and touches no row.
    bed.agent.stop().await.unwrap();
    let updates = server.state().updates;
    let mut bed = Bed::start(folder.path(), &targets).await;
    bed.holds("tor", closed.generation).await;
    assert_eq!(server.state().updates, updates);
    assert_eq!(open_at_tor(&server, 30), before);
    // With fewer rules all come back.
    let fewer = bed.client.apply(&document(8, "")).await.unwrap();
    bed.holds("tor", fewer.generation).await;
    let rules = bed.rules().await;
    assert_eq!(count(&rules, "partly", "part"), 9, "{rules:#?}");
    assert_eq!(open_at_tor(&server, 8), [0u128; 0]);
    bed.agent.stop().await.unwrap();
}

#[tokio::test]
async fn placement_says_what_no_target_holds_or_is_known_of() {
    let (folder, server) = (tempfile::tempdir().unwrap(), vendor().await);
    let mut leaf = P4Server::start().await.unwrap();
    let hardware = "hardware = false\nlinks = [{to = \"tor\", port = 1}]\n";
    let targets = [
        tor(&server, "on_gap = \"report\"\n"),
        p4runtime("leaf", &leaf),
        hardware.to_string(),
    ]
    .concat();
    let mut bed = Bed::start(folder.path(), &targets).await;
    let more = "  bare: {attachments: [{port: 2, target: tor}], source_guard: false}\n  away: {}\n";
    let applied = bed.client.apply(&document(1, more)).await.unwrap();
    for target in ["tor", "leaf"] {
        bed.holds(target, applied.generation).await;
    }
    let placed = bed.placed("").await;
    assert_eq!(placed.generation, applied.generation);
    let path = |targets: &[&str]| placed.paths.iter().find(|path| path.targets == targets).unwrap();
    let called = |targets: &[&str]| -> Vec<(String, String)> {
        let rules = path(targets).rules.iter();
        rules.map(|r| (r.rule.clone(), r.placement.clone())).collect()
    };
    // What the parser of `tor` may hide passes there: `leaf` holds it where there is one.
    let both = |placement: &str| {
        [("baseline/r1", placement), ("mandatory/smtp", placement)]
            .map(|(a, b)| (a.to_string(), b.to_string()))
    };
    assert_eq!(called(&["tor", "leaf"]), both("partly"));
    assert_eq!(called(&["tor"]), both("partly"));
    assert_eq!(called(&[]), both("refused"));
    assert_eq!(path(&["tor"]).endpoints, ["bare"]);
    let why = &path(&["tor"]).rules[0].at[0];
    assert!(
        why.extent == "part" && why.why.contains("IPv4 options"),
        "{why:?}"
    );
    let hardware: Vec<(&str, bool)> = placed
        .targets
        .iter()
        .map(|t| (t.name.as_str(), t.hardware))
        .collect();
    assert_eq!(hardware, [("tor", true), ("leaf", false)]);
    // A target that is away is said to be.
    leaf.stop().await;
    let end = std::time::Instant::now() + std::time::Duration::from_secs(60);
    while bed.status("leaf").await.state != "Disconnected" {
        assert!(std::time::Instant::now() < end);
        tokio::time::sleep(std::time::Duration::from_millis(20)).await;
    }
    let placed = bed.placed("web1").await;
    let leaf = placed.targets.iter().find(|t| t.name == "leaf").unwrap();
    assert_eq!(leaf.state, "Disconnected");
    let missing = v1::GetPlacementRequest {
        endpoint: "nobody".to_string(),
    };
    let refused = bed.client.targets.get_placement(missing).await.unwrap_err();
    assert_eq!(refused.code(), tonic::Code::NotFound, "{refused}");
    bed.agent.stop().await.unwrap();
}

/// Rows of neighbouring ports are merged where a table is nearly full: a start of the agent finds what they hold.
#[tokio::test]
async fn merged_rows_are_found_again_after_a_restart() {
    let folder = tempfile::tempdir().unwrap();
    let (server, leaf) = (P4Server::start().await.unwrap(), P4Server::start().await.unwrap());
    let link = "links = [{to = \"tor\", port = 1}]\n";
    let room = "servers = [1]\nmax_rows = 8\nreserve = 2\n";
    let targets = [
        p4runtime("tor", &server),
        room.to_string(),
        p4runtime("leaf", &leaf),
        link.to_string(),
    ]
    .concat();
    let mut bed = Bed::start(folder.path(), &targets).await;
    let applied = bed.client.apply(&document(10, "")).await.unwrap();
    for target in ["tor", "leaf"] {
        bed.holds(target, applied.generation).await;
    }
    let placed = bed.rules().await;
    let rows = bed.status("tor").await.tables;
    // Nothing is left, and the rows reach into the reserve: what counted as left could not come back.
    assert!(placed.values().all(|(_, tor)| tor == "whole"), "{placed:#?}");
    let policy = rows.iter().find(|t| t.table == "egress_policy").unwrap();
    assert!(policy.rows > policy.size - policy.reserve, "{policy:?}");
    bed.agent.stop().await.unwrap();
    let updates = server.state().updates;
    let mut bed = Bed::start(folder.path(), &targets).await;
    bed.holds("tor", applied.generation).await;
    assert_eq!(bed.rules().await, placed);
    assert_eq!(bed.status("tor").await.tables, rows);
    assert_eq!(server.state().updates, updates);
    bed.agent.stop().await.unwrap();
}
