//! A table that is too small for the newest policy: what that closes is closed all the same, and status does not claim what is
//! not there.
#![allow(clippy::unwrap_used, clippy::panic, reason = "a test fails by panicking")]

use crate::rig;

use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use portcullis_backend::{SessionState, TargetStatus};
use portcullis_policy::{Document, Grant, GrantKind};
use portcullis_testbed::{EndpointSpec, SandboxOptions, need_root};
use rig::{Rig, connects, v4};

const HOSTS: [(&str, u8); 2] = [("web1", 1), ("internet", 9)];

/// Mail is closed, and so is whatever else the profile `more` of the endpoint `late` says.
fn document(more: &str) -> Document {
    let yaml = format!(
        "version: portcullis/v1\nbaseline:\n  - {{name: mail, action: deny, direction: egress, protocol: tcp, ports: [25]}}\n\
         profiles:\n  more: {{rules: [{{name: more, action: deny, direction: egress, protocol: tcp, ports: [{more}]}}]}}\n\
         endpoints:\n  web1: {{attachments: [{{interface: web1}}], macs: [\"02:00:00:00:00:01\"]}}\n  \
         late: {{attachments: [{{interface: late}}], macs: [\"02:00:00:00:00:02\"], profiles: [more]}}\n"
    );
    Document::from_yaml(&yaml).unwrap()
}

const MANY: &str = "3, 5, 9, 17, 33, 65, 129, 257, 513, 1025, 2049, 4097, 8193, 16385";

/// Mail is open to `web1` for an hour.
fn unlocked(mut document: Document) -> Document {
    let rule = "version: portcullis/v1\nbaseline: [{name: open, action: allow, direction: egress, protocol: tcp, ports: [25]}]\n";
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap();
    let grant = Grant {
        unlock: "u1".parse().unwrap(),
        program: "mail".parse().unwrap(),
        rules: Document::from_yaml(rule).unwrap().baseline.to_vec(),
        kind: GrantKind::Unlock,
        ends: now.as_secs() + 3600,
    };
    document
        .grants
        .insert("web1".parse().unwrap(), Arc::new(vec![grant]));
    document
}

fn egress(status: &TargetStatus) -> (u64, Option<u64>) {
    let table = status.tables.iter().find(|t| t.table == "egress_policy").unwrap();
    (table.rows, table.size)
}

/// The policy table of senders takes as many rows as it has, and `more`.
fn limit(rig: &Rig, more: u64) {
    let limit = egress(&rig.target.status()).0 + more;
    let flow_limit = format!("flow_limit={limit}");
    let words = [
        "--",
        "--id=@t",
        "create",
        "Flow_Table",
        &flow_limit,
        "--",
        "set",
        "bridge",
        "br0",
        "flow_tables:3=@t",
    ];
    rig.sandbox.vsctl(words).unwrap();
    rig.until("the size known", |s| egress(s).1 == Some(limit));
}

#[test]
fn what_a_policy_closes_that_does_not_fit_is_closed() {
    if !need_root("what_a_policy_closes_that_does_not_fit_is_closed") {
        return;
    }
    let (mut rig, mut hosts) = Rig::start(SandboxOptions::default(), &HOSTS, |_| {});
    hosts.push(
        rig.sandbox
            .add_endpoint(EndpointSpec::numbered("late", 2))
            .unwrap(),
    );
    let [web, internet, _late] = hosts.as_slice() else {
        panic!("three hosts")
    };
    let _serving = [25, 80].map(|port| internet.tcp_echo(port).unwrap());
    rig.set_document(&unlocked(document("7")));
    rig.realized();
    assert!(connects(web, v4(9, 25)) && connects(web, v4(9, 80)));
    limit(&rig, 4);
    // The unlock is revoked by a policy that has more rows than the table takes.
    rig.set_document(&document(MANY));
    rig.until("the numbers said", |s| {
        s.detail.contains("egress_policy: it would hold")
    });
    let end = std::time::Instant::now() + Duration::from_secs(2);
    while connects(web, v4(9, 25)) {
        assert!(
            std::time::Instant::now() < end,
            "mail is still open: {:#?}",
            rig.target.status()
        );
    }
    // A port that nobody knew before is none of an older policy's, which would let it pass.
    let new = rig
        .sandbox
        .add_endpoint(EndpointSpec::numbered("new", 3))
        .unwrap();
    assert!(connects(web, v4(9, 80)) && !connects(&new, v4(9, 80)));
    let status = rig.target.status();
    assert_eq!((status.state, status.wanted), (SessionState::Applying, 2));
    assert!(
        status.applied < 2 && !status.unsupported.is_empty(),
        "{status:#?}"
    );
    // With room it is as wanted.
    rig.sandbox
        .vsctl(["clear", "bridge", "br0", "flow_tables"])
        .unwrap();
    rig.realized();
    assert!(!connects(web, v4(9, 25)));
}

#[test]
fn a_port_whose_rows_do_not_fit_stays_closed_and_is_not_in_sync() {
    if !need_root("a_port_whose_rows_do_not_fit_stays_closed_and_is_not_in_sync") {
        return;
    }
    let (mut rig, hosts) = Rig::start(SandboxOptions::default(), &HOSTS, |_| {});
    let [web, internet] = hosts.as_slice() else {
        panic!("two hosts")
    };
    let _serving = internet.tcp_echo(80).unwrap();
    rig.set_document(&document(MANY));
    rig.realized();
    limit(&rig, 4);
    let late = rig
        .sandbox
        .add_endpoint(EndpointSpec::numbered("late", 2))
        .unwrap();
    rig.until("the numbers said", |s| {
        s.state == SessionState::Applying && s.detail.contains("egress_policy: it would hold")
    });
    // The same generation, and not what it asks for.
    assert!(connects(web, v4(9, 80)) && !connects(&late, v4(9, 80)));
    assert_eq!(rig.target.status().state, SessionState::Applying);
    rig.sandbox
        .vsctl(["clear", "bridge", "br0", "flow_tables"])
        .unwrap();
    rig.realized();
    // The host may still hold that its neighbour did not answer.
    assert!((0..4).any(|_| connects(&late, v4(9, 80))));
}
