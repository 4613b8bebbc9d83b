//! The replica against a real ovsdb-server, with `ovs-vsctl` as the independent witness.
#![allow(clippy::unwrap_used, clippy::panic)] // helpers outside the test functions fail the test too

mod harness;
mod witness;

use std::time::Duration;

use harness::{Client, Daemon, Newest, Server};
use portcullis_ovsdb::{Event, SessionConfig, SessionError, Stage, VlanMode};

/// Changes that touch every kind of column: optional values, sets, maps, references.
const CHANGES: &[&str] = &[
    "init",
    "add-br br0 -- set Bridge br0 datapath_type=netdev fail_mode=secure",
    "add-port br0 web1 -- set Interface web1 external_ids:iface-id=7c1f external_ids:attached-mac=02:00:00:00:00:01",
    "add-port br0 mail1 tag=5 -- set Interface mail1 type=dummy options:a=1 options:b=2",
    "set Port mail1 tag=7 vlan_mode=access",
    "set Port web1 trunks=1,2,3 vlan_mode=trunk",
    "set Port web1 trunks=2,4095",
    "set Interface mail1 options:a=9 -- remove Interface mail1 options b",
    "clear Port mail1 tag",
    "add-bond br0 uplink eth0 eth1 -- set Port uplink vlan_mode=native-tagged tag=0",
    "add-br br1 -- set Bridge br1 protocols=OpenFlow13,OpenFlow14 mcast_snooping_enable=true",
    "set-controller br1 tcp:192.0.2.1:6653",
    "set Controller br1 connection_mode=out-of-band",
    "clear Controller br1 connection_mode -- set Bridge br1 other_config:disable-in-band=true",
    "set-controller br1 tcp:192.0.2.1:6653 tcp:192.0.2.2:6653",
    "set Bridge br0 other_config:forward-bpdu=true -- set Port web1 other_config:mcast-snooping-flood=true",
    "-- --id=@p get Port mail1 -- --id=@m create Mirror name=ids output_port=@p -- set Bridge br0 mirrors=@m",
    "clear Mirror ids output_port -- set Mirror ids output_vlan=9",
    "clear Bridge br0 mirrors",
    "-- --id=@t create Flow_Table flow_limit=100 overflow_policy=refuse name=acl -- set Bridge br1 flow_tables:20=@t",
    "set Open_vSwitch . other_config:vlan-limit=2 other_config:hw-offload=true external_ids:system-id=host1 next_cfg=4",
    "set Interface web1 ofport=3 -- set Interface eth0 ofport=-1 error=no-such-device",
    "clear Port web1 trunks -- clear Interface web1 external_ids",
    "remove Open_vSwitch . other_config hw-offload",
    "del-port mail1",
    "add-br br2",
    "del-br br2",
];

fn agrees(client: &Client, server: &Server) -> bool {
    *client.switch() == witness::list(server)
}

/// Makes every change and waits each time for the replica to say what ovs-vsctl says.
fn follow(server: &Server, client: &mut Client) {
    client.connect(server);
    client.until("the first full state", |client| client.events == [Event::Synced]);
    for change in CHANGES {
        let seen = client.events.len();
        server.vsctl(change);
        let want = witness::list(server);
        client.until(&format!("{change} to be seen"), |client| *client.switch() == want);
        assert!(
            client.events[seen..].iter().all(|event| *event == Event::Changed),
            "{change}"
        );
        assert!(client.events.len() > seen, "{change} changed nothing");
    }
}

#[test]
fn follows_changes_with_monitor_cond_since() {
    let server = Server::start();
    follow(&server, &mut Client::new(Newest::Since));
}

#[test]
fn follows_changes_with_monitor_cond() {
    let server = Server::start();
    follow(&server, &mut Client::new(Newest::Cond));
}

#[test]
fn follows_changes_with_monitor() {
    let server = Server::start();
    server.control("ovsdb-server/disable-monitor-cond");
    follow(&server, &mut Client::new(Newest::Since));
}

#[test]
fn reads_what_was_there_before_it_connected() {
    let server = Server::start();
    for change in CHANGES {
        server.vsctl(change);
    }
    let mut client = Client::new(Newest::Since);
    client.connect(&server);
    client.until("the first full state", |client| !client.events.is_empty());
    assert!(
        agrees(&client, &server),
        "{:#?}\n{:#?}",
        client.switch(),
        witness::list(&server)
    );

    let ports = &client.switch().bridges["br0"].ports;
    assert!(ports["uplink"].bond() && !ports["web1"].bond());
    assert_eq!(
        (ports["uplink"].tag, &ports["uplink"].vlan_mode),
        (Some(0), &Some(VlanMode::NativeTagged))
    );
    assert_eq!(ports["web1"].interfaces["web1"].ofport, Some(3));
    let failed = &ports["uplink"].interfaces["eth0"];
    assert_eq!(
        (failed.ofport, failed.error.as_deref()),
        (None, Some("no-such-device"))
    );
    let br1 = &client.switch().bridges["br1"];
    assert_eq!((br1.controllers, br1.flow_tables[&20].flow_limit), (2, Some(100)));
}

#[test]
fn a_restarted_server_is_read_anew_and_only_differences_are_told() {
    let mut server = Server::start();
    server.vsctl("init -- add-br br0");
    let mut client = Client::new(Newest::Since);
    client.connect(&server);
    client.until("the first full state", |client| !client.events.is_empty());
    let before = client.switch().clone();

    server.kill();
    client.disconnect();
    assert_eq!(client.switch(), &before, "the replica outlives the connection");
    server.launch();
    client.connect(&server);
    client.until("the restarted server", |client| {
        client.session.stage() == Stage::Live
    });
    assert_eq!(client.events, [Event::Synced, Event::Resumed { found: false }]);

    server.kill();
    client.disconnect();
    server.launch();
    server.vsctl("del-br br0 -- add-br br9");
    client.connect(&server);
    client.until("the restarted server", |client| {
        client.session.stage() == Stage::Live
    });
    assert_eq!(
        client.events[2..],
        [Event::Resumed { found: false }, Event::Changed]
    );
    assert!(agrees(&client, &server));
    assert!(!client.switch().bridges.contains_key("br0"));
}

/// Connects four times to a server that remembers its transactions.
///
/// How much it remembers is bounded by the size of its database, hence the ports.
fn resume(server: &mut Server, client: &mut Client) {
    let ports: String = (0..30)
        .map(|number| format!(" -- add-port big tap{number}"))
        .collect();
    server.vsctl(&format!("init -- add-br big{ports}"));
    for change in &CHANGES[1..10] {
        server.vsctl(change);
    }
    client.connect(server);
    client.until("the first full state", |client| !client.events.is_empty());
    server.vsctl("set Port web1 tag=9");
    client.until("the change", |client| client.events.len() == 2);
    client.disconnect();

    server.vsctl("set Port web1 trunks=8,9 -- del-port mail1");
    server.vsctl("add-port br0 late1 -- set Interface late1 options:x=y");
    client.connect(server);
    client.until("the missed changes", |client| {
        client.session.stage() == Stage::Live
    });
    assert_eq!(
        client.events[2..],
        [Event::Resumed { found: true }, Event::Changed]
    );
    assert!(
        agrees(client, server),
        "{:#?}\n{:#?}",
        client.switch(),
        witness::list(server)
    );

    // Nothing missed: found, and no change.
    client.disconnect();
    client.connect(server);
    client.until("nothing missed", |client| client.session.stage() == Stage::Live);
    assert_eq!(client.events[4..], [Event::Resumed { found: true }]);

    // A restarted process, with the transaction in its log.
    server.kill();
    client.disconnect();
    server.launch();
    server.vsctl("del-port late1");
    client.connect(server);
    client.until("the restarted server", |client| {
        client.session.stage() == Stage::Live
    });
    assert!(
        matches!(client.events[5..], [Event::Resumed { .. }, Event::Changed]),
        "{:?}",
        client.events
    );
    assert!(
        agrees(client, server),
        "{:#?}\n{:#?}",
        client.switch(),
        witness::list(server)
    );
}

#[test]
fn a_clustered_server_sends_only_what_was_missed() {
    resume(&mut Server::start_clustered(), &mut Client::new(Newest::Since));
}

#[test]
fn a_missing_or_foreign_database_is_named() {
    let server = Server::start();
    let refused = |db: &str| {
        let config = SessionConfig {
            db: db.to_owned(),
            ..SessionConfig::default()
        };
        let mut client = Client::with(Newest::Since, config);
        client.connect(&server);
        loop {
            if let Err(error) = client.step() {
                assert_eq!(client.session.stage(), Stage::Failed);
                return error;
            }
        }
    };
    let error = refused("Nowhere");
    assert!(
        matches!(&error, SessionError::UnknownDatabase { db } if db == "Nowhere"),
        "{error}"
    );
    let error = refused("_Server");
    assert!(matches!(&error, SessionError::Schema(_)), "{error}");
}

#[test]
fn a_silent_server_is_probed_and_given_up() {
    let server = Server::start();
    let mut client = Client::new(Newest::Since);
    client.connect(&server);
    client.until("the first full state", |client| !client.events.is_empty());

    let deadline = client.session.next_deadline().expect("a deadline");
    client.session.tick(deadline).expect("time to ask");
    let asked = client.session.next_deadline().expect("a deadline");
    assert_eq!(asked, deadline + Duration::from_secs(5));
    client.until("the answer to the echo", |client| {
        client.session.next_deadline() != Some(asked)
    });

    let deadline = client.session.next_deadline().expect("a deadline");
    client.session.tick(deadline).expect("time to ask");
    let error = client
        .session
        .tick(deadline + Duration::from_secs(5))
        .expect_err("no answer was read");
    assert!(
        matches!(error, SessionError::Unresponsive { silent } if silent >= Duration::from_secs(10)),
        "{error}"
    );
    assert_eq!(client.session.next_deadline(), None);
}

/// A daemon gives port numbers and reports errors; what it needs is in the recorded transcript too.
fn with_daemon(server: &Server, client: &mut Client) {
    server.vsctl("init -- add-br br0 -- set Bridge br0 datapath_type=dummy");
    client.connect(server);
    client.until("the first full state", |client| !client.events.is_empty());
    let daemon = Daemon::start(server);
    client.until("the daemon's start", |client| {
        !client.switch().datapath_types.is_empty()
    });
    server.vsctl("add-port br0 web1 -- set Interface web1 type=dummy external_ids:iface-id=7c1f -- add-port br0 broken -- set Interface broken type=nosuchtype");
    let port = |client: &Client, name: &str| {
        client.switch().bridges["br0"]
            .ports
            .get(name)?
            .interfaces
            .get(name)
            .cloned()
    };
    client.until("a port number", |client| {
        port(client, "web1").is_some_and(|port| port.ofport.is_some())
    });
    client.until("an error", |client| {
        port(client, "broken").is_some_and(|port| port.error.is_some())
    });
    client.until("agreement with ovs-vsctl", |client| agrees(client, server));
    assert_eq!(port(client, "broken").and_then(|port| port.ofport), None);
    assert_eq!(port(client, "br0").and_then(|port| port.ofport), Some(65534));
    assert!(client.switch().bridges["br0"].datapath_id.is_some());
    assert_eq!(client.switch().dpdk_initialized, Some(false));
    server.vsctl("del-port web1");
    client.until("the port to go", |client| port(client, "web1").is_none());
    drop(daemon);
}

#[test]
fn sees_what_a_daemon_makes_of_the_configuration() {
    let server = Server::start();
    with_daemon(&server, &mut Client::new(Newest::Since));
}

#[test]
#[ignore = "rewrites the transcripts in tests/fixtures; run by hand"]
fn record_transcripts() {
    let record = |name: &str, newest: Newest, disable_cond: bool| {
        let server = Server::start();
        if disable_cond {
            server.control("ovsdb-server/disable-monitor-cond");
        }
        let mut client = Client::new(newest);
        follow(&server, &mut client);
        client.transcript.save(name);
    };
    record("monitor_cond_since", Newest::Since, false);
    record("monitor_cond", Newest::Cond, false);
    record("monitor", Newest::Since, true);

    let server = Server::start();
    let mut client = Client::new(Newest::Since);
    with_daemon(&server, &mut client);
    client.transcript.save("daemon");

    let mut server = Server::start_clustered();
    let mut client = Client::new(Newest::Since);
    resume(&mut server, &mut client);
    client.transcript.save("resume");
}

#[test]
fn sets_the_fail_mode_of_a_bridge() {
    let server = Server::start();
    for change in ["init", "add-br br0", "add-br br1"] {
        server.vsctl(change);
    }
    let mut client = Client::new(Newest::Since);
    client.connect(&server);
    client.until("the first full state", |client| client.events == [Event::Synced]);
    let before = client.switch().next_cfg.unwrap_or_default();
    let bridge = client.switch().bridges["br1"].id;
    assert!(client.session.set_fail_mode(bridge, "secure"));
    client.until("the answer", |client| client.events.contains(&Event::Transacted));
    assert_eq!(client.session.take_outcome(), Some(Ok(before + 1)));
    client.until("the change", |client| {
        client.switch().bridges["br1"].fail_mode.as_deref() == Some("secure")
    });
    assert_eq!(client.switch().bridges["br0"].fail_mode, None);
    assert!(agrees(&client, &server));
}
