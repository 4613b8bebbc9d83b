//! One agent, a real OVS-DPDK bridge and a P4Runtime server: one policy on both.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use crate::bed::connects;
use crate::pair;

use std::time::Duration;

use pair::{Two, p4runtime, passes};
use portcullis_testbed::p4::P4Server;
use portcullis_testbed::{EndpointSpec, Sandbox, SandboxOptions, need_root};

const BOTH: &str = r#"
version: portcullis/v1
baseline:
  - {name: smtp, action: deny, direction: egress, protocol: tcp, ports: [25]}
endpoints:
  web1:
    attachments: [{interface: web1, target: ovs}, {port: 1, target: tor}]
    macs: ["02:00:00:00:00:01"]
    addresses: [192.0.2.1, "2001:db8::1"]
    source_guard: false
"#;

#[tokio::test(flavor = "multi_thread")]
async fn one_policy_holds_on_a_bridge_and_on_a_switch() {
    if !need_root("one_policy_holds_on_a_bridge_and_on_a_switch") {
        return;
    }
    let sandbox = Sandbox::start(SandboxOptions::default()).unwrap();
    let web = sandbox.add_endpoint(EndpointSpec::numbered("web1", 1)).unwrap();
    let internet = sandbox
        .add_endpoint(EndpointSpec::numbered("internet", 9))
        .unwrap();
    let _serving = [25, 80].map(|port| internet.tcp_echo(port).unwrap());
    let mut tor = P4Server::start().await.unwrap();
    let ovs = format!(
        "[[target]]\nname = \"ovs\"\nkind = \"ovs\"\novsdb = \"unix:{}\"\nuplinks = [\"internet\"]\n",
        sandbox.ovsdb_socket().display()
    );
    let mut two = Two::start(&[ovs, p4runtime("tor", &tor)].concat()).await;
    two.client.apply(BOTH).await.unwrap();
    two.realized(1).await;
    assert_eq!((connects(&web, 25), connects(&web, 80)), (false, true));
    assert_eq!(
        (passes(&tor, 1, 25), passes(&tor, 1, 80)),
        (Some(false), Some(true))
    );
    let status = two.status().await;
    for (name, kind) in [("ovs", "ovs"), ("tor", "p4runtime")] {
        let target = &status[name];
        assert_eq!(
            (target.kind.as_str(), target.state.as_str()),
            (kind, "InSync"),
            "{target:#?}"
        );
        assert_eq!(
            (target.generation_applied, target.endpoints_realized),
            (1, 1),
            "{target:#?}"
        );
        assert!(target.pending.is_empty(), "{target:#?}");
    }
    let generation = two.web(Some(80)).await;
    two.realized(generation).await;
    assert!(!connects(&web, 80));
    assert_eq!(passes(&tor, 1, 80), Some(false));
    // The switch goes away: the bridge does not wait for it.
    tor.stop().await;
    two.until("tor", "lost", |t| t.state == "Disconnected").await;
    let generation = two.web(None).await;
    two.until("ovs", "realized", |t| t.generation_applied == generation)
        .await;
    assert!(connects(&web, 80));
    let away = &two.status().await["tor"];
    assert!(
        away.generation_applied == 0 && away.endpoints_realized == 0 && !away.detail.is_empty(),
        "{away:#?}"
    );
    tor.restart(Duration::ZERO).await.unwrap();
    two.realized(generation).await;
    assert_eq!(
        (passes(&tor, 1, 25), passes(&tor, 1, 80)),
        (Some(false), Some(true))
    );
    // The bridge goes away: the switch does not wait for it either.
    tokio::task::block_in_place(|| sandbox.stop_vswitchd()).unwrap();
    two.until("ovs", "lost", |t| t.state != "InSync").await;
    let generation = two.web(Some(80)).await;
    two.until("tor", "realized", |t| t.generation_applied == generation)
        .await;
    assert_eq!(passes(&tor, 1, 80), Some(false));
    tokio::task::block_in_place(|| sandbox.start_vswitchd()).unwrap();
    two.realized(generation).await;
    assert!(!connects(&web, 80));
    two.agent.stop().await.unwrap();
}
