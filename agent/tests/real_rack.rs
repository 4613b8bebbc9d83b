//! A switch at the top of the rack with little room, and an Open vSwitch with DPDK behind it: one policy, real packets, and rules
//! that move between the two while one of them goes away and comes back.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::time::{Duration, Instant};

use portcullis_proto::v1;
use portcullis_testbed::device::Device;
use portcullis_testbed::probe::TcpOutcome;
use portcullis_testbed::{EndpointSpec, NetnsHost, Sandbox, SandboxOptions, need_root};

use crate::pair::Two;

/// A mandatory rule, and this many of the server's own, for the ports 5001, 5003 and so on.
fn document(own: u16) -> String {
    let rule = |n: u16| {
        let port = 4999 + 2 * n;
        format!(
            "      - {{name: closed{n}, action: deny, direction: ingress, protocol: tcp, ports: [{port}]}}\n"
        )
    };
    let own: String = (1..=own).map(rule).collect();
    format!(
        "version: portcullis/v1\nmandatory:\n  - {{name: smb, action: deny, direction: ingress, protocol: tcp, ports: [445]}}\nendpoints:\n  \
         web1:\n    attachments: [{{interface: web1, target: host}}, {{port: 1, target: tor}}]\n    macs: [\"02:00:00:00:00:01\"]\n    \
         addresses: [192.0.2.1, \"2001:db8::1\"]\n    rules:\n{own}  db1:\n    attachments: [{{interface: db1, target: host}}]\n    \
         macs: [\"02:00:00:00:00:02\"]\n    addresses: [192.0.2.2, \"2001:db8::2\"]\n"
    )
}

/// The port of the last rule of a document with this many: that rule is the first that is left to the host.
fn last(own: u16) -> u16 {
    4999 + 2 * own
}

async fn placed(two: &mut Two) -> v1::GetPlacementResponse {
    let request = v1::GetPlacementRequest {
        endpoint: "web1".to_string(),
    };
    let answer = two.client.targets.get_placement(request).await;
    answer.unwrap().into_inner()
}

async fn left(two: &mut Two) -> usize {
    let placed = placed(two).await;
    let rules = placed.paths.iter().flat_map(|path| &path.rules);
    let tor = |rule: &&v1::PlacedRule| rule.at[0].target == "tor" && rule.at[0].extent == "left";
    rules.filter(tor).count()
}

/// Connects to a blocked port from outside and from a neighbour until `going` is false. Returns the number of rounds and the number of
/// connections that were answered.
fn watch(
    internet: Arc<NetnsHost>,
    neighbour: Arc<NetnsHost>,
    going: Arc<AtomicBool>,
) -> std::thread::JoinHandle<(u32, u32)> {
    std::thread::spawn(move || {
        let (mut rounds, wrong) = (0, AtomicU32::new(0));
        while going.load(Ordering::Relaxed) {
            for host in [&internet, &neighbour] {
                // Without the switch at the top there is no way from outside at all.
                let saw = host.tcp_connect(web(445), Duration::from_millis(200));
                if matches!(saw, Ok(TcpOutcome::Open(_) | TcpOutcome::Refused)) {
                    wrong.fetch_add(1, Ordering::Relaxed);
                }
            }
            rounds += 1;
        }
        (rounds, wrong.load(Ordering::Relaxed))
    })
}

#[tokio::test(flavor = "multi_thread")]
async fn rules_move_between_the_switches_and_nothing_opens() {
    if !need_root("rules_move_between_the_switches_and_nothing_opens") {
        return;
    }
    let sandbox = Sandbox::start(SandboxOptions::default()).unwrap();
    let server = sandbox.add_endpoint(EndpointSpec::numbered("web1", 1)).unwrap();
    let neighbour = Arc::new(sandbox.add_endpoint(EndpointSpec::numbered("db1", 2)).unwrap());
    let internet = EndpointSpec {
        unplugged: true,
        ..EndpointSpec::numbered("internet", 9)
    };
    let internet = Arc::new(sandbox.add_endpoint(internet).unwrap());
    let up = sandbox.cable("up").unwrap();
    let out = sandbox.switch_side("internet").unwrap();
    let program = crate::support::switch_program();
    let mut tor = Device::embedded_at(&sandbox, &program, &[(1, up), (9, out)]).unwrap();
    let _serving = [80, 445, last(1), last(40)].map(|port| server.tcp_echo(port).unwrap());
    let targets = format!(
        "[placement]\ncount_every = \"1s\"\n\
         [[target]]\nname = \"tor\"\nkind = \"embedded\"\naddress = \"{}\"\nuplinks = [9]\nservers = [1]\nmax_rows = 40\nreserve = 4\n\
         [[target]]\nname = \"host\"\nkind = \"ovs\"\novsdb = \"unix:{}\"\nuplinks = [\"up\"]\nlinks = [{{to = \"tor\", port = 1}}]\n",
        tor.address(),
        sandbox.ovsdb_socket().display()
    );
    let mut two = Two::start(&targets).await;
    // All of it has room at the top.
    let applied = two.client.apply(&document(1)).await.unwrap();
    two.realized(applied.generation).await;
    assert_eq!(left(&mut two).await, 0);
    assert!(opens(&internet, 80) && opens(&internet, last(40)));
    assert!(!reaches(&internet, 445) && !reaches(&internet, last(1)));
    let going = Arc::new(AtomicBool::new(true));
    let watching = watch(Arc::clone(&internet), Arc::clone(&neighbour), Arc::clone(&going));
    for round in 0..3 {
        // It fills; what is left is held by the host, from outside and for a neighbour.
        let full = two.client.apply(&document(40)).await.unwrap();
        two.realized(full.generation).await;
        assert!(left(&mut two).await > 10, "round {round}");
        for host in [&internet, &neighbour] {
            assert!(
                !reaches(host, last(1)) && !reaches(host, last(40)),
                "round {round}"
            );
            assert!(opens(host, 80), "round {round}, from {}", host.name());
        }
        // Many packets to a port whose rule was left: it takes the place of others at the top.
        if round == 0 {
            let is_left = |placed: v1::GetPlacementResponse| {
                let rules = placed.paths.iter().flat_map(|path| &path.rules);
                let mut flooded = rules.filter(|rule| rule.rule == "endpoints/web1/closed39");
                flooded.any(|rule| rule.at[0].extent == "left")
            };
            assert!(is_left(placed(&mut two).await));
            let end = Instant::now() + Duration::from_secs(60);
            while is_left(placed(&mut two).await) {
                assert!(Instant::now() < end, "it is not promoted");
                for _ in 0..5 {
                    assert!(!reaches_within(&internet, last(39), Duration::from_millis(50)));
                }
            }
            assert!(left(&mut two).await > 10 && !reaches(&internet, last(39)));
        }
        // While the switch at the top is away, rules go and come at the host alone.
        if round == 1 {
            tor.kill();
            two.until("tor", "lost", |t| t.state == "Disconnected").await;
            let fewer = two.client.apply(&document(1)).await.unwrap();
            two.until("host", "realized", |t| t.generation_applied == fewer.generation)
                .await;
            assert!(!reaches(&neighbour, last(1)) && opens(&neighbour, last(40)));
            tor.start_again(&sandbox).unwrap();
            two.realized(fewer.generation).await;
        }
        // And it comes back.
        let fewer = two.client.apply(&document(1)).await.unwrap();
        two.realized(fewer.generation).await;
        assert_eq!(left(&mut two).await, 0, "round {round}");
        assert!(
            !reaches(&internet, last(1)) && opens(&internet, last(40)),
            "round {round}"
        );
    }
    going.store(false, Ordering::Relaxed);
    let (rounds, wrong) = tokio::task::block_in_place(|| watching.join()).unwrap();
    assert!(rounds > 5 && wrong == 0, "{wrong} connections in {rounds} rounds");
    two.agent.stop().await.unwrap();
}

/// The server's address, with a port.
fn web(port: u16) -> SocketAddr {
    ([192, 0, 2, 1], port).into()
}

/// Whether a connection is made, also if the switches lose a segment or two while they change: the third is sent after 3 s.
fn opens(host: &NetnsHost, port: u16) -> bool {
    reaches_within(host, port, Duration::from_secs(5))
}

/// Whether one is made before the second segment could be lost, too.
fn reaches(host: &NetnsHost, port: u16) -> bool {
    reaches_within(host, port, Duration::from_millis(1500))
}

fn reaches_within(host: &NetnsHost, port: u16, patience: Duration) -> bool {
    let saw = tokio::task::block_in_place(|| host.tcp_connect(web(port), patience));
    saw.unwrap().is_open()
}
