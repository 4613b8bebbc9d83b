//! The rows and the database that an earlier version left are taken over on a real bridge, under traffic.
//!
//! `PORTCULLIS_EARLIER` names the binary of an earlier version, which then writes the fixture anew.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use crate::support;

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use portcullis_proto::v1;
use portcullis_testbed::{EndpointSpec, NetnsHost, Sandbox, SandboxOptions, need_root, stream};
use support::Client;

const POLICY: &str = r#"version: portcullis/v1
mandatory:
  - {name: chargen, action: deny, direction: egress, protocol: udp, ports: [19]}
baseline:
  - {name: game, action: deny, direction: egress, protocol: udp, ports: [4444-4450]}
  - {name: smtp, action: deny, direction: egress, protocol: tcp, ports: [25]}
profiles:
  web:
    default: {ingress: deny}
    rules:
      - {name: http, action: allow, direction: ingress, protocol: tcp, ports: [80, 443]}
      - {name: admin, action: allow, direction: ingress, protocol: tcp, ports: [22], remote: [198.51.100.0/24, "2001:db8:1::/48"]}
      - {name: all, action: allow, direction: egress, protocol: udp, ports: [5000-6000]}
programs:
  game: {opens: [{direction: egress, protocol: udp, ports: [4446]}], approval: automatic, lease: {default: 10h, max: 100h}}
endpoints:
  web1:
    attachments: [{interface: web1}]
    macs: ["02:00:00:00:00:01"]
    addresses: [192.0.2.1, "2001:db8::1"]
    profiles: [web]
  mail1:
    attachments: [{interface: mail1}]
    macs: ["02:00:00:00:00:02"]
    addresses: [192.0.2.2]
    rules:
      - {name: own, action: deny, direction: egress, protocol: udp, ports: [7777]}
"#;

/// Rows as `ovs-ofctl dump-flows --no-stats` printed them.
const ROWS: &str = include_str!("fixtures/left/rows.txt");
/// The database, by sqlite3's `.dump`, with the number of its format.
const DATABASE: &str = include_str!("fixtures/left/database.sql");

/// A bridge with three servers, whose ports have the same numbers each time.
fn bridge() -> (Sandbox, [NetnsHost; 3]) {
    let sandbox = Sandbox::start(SandboxOptions::default()).unwrap();
    let mut number = 0;
    let hosts = [("web1", 1), ("mail1", 2), ("internet", 9)].map(|(name, n)| {
        let host = sandbox.add_endpoint(EndpointSpec::numbered(name, n)).unwrap();
        number += 1;
        assert_eq!(sandbox.ofport(name).unwrap(), Some(number), "{name}");
        host
    });
    (sandbox, hosts)
}

/// An agent; killed when it is dropped.
struct Agent(Child);

impl Drop for Agent {
    fn drop(&mut self) {
        // It may have ended already.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn agent(binary: &Path, sandbox: &Sandbox, folder: &Path) -> Agent {
    let (at, files) = (sandbox.dir().display(), folder.display());
    let config = folder.join("agent.toml");
    let text = format!(
        "[store]\npath = \"{files}/p.db\"\n[api]\nsocket = \"{files}/agent.sock\"\n\
         [[target]]\nname = \"ovs\"\nkind = \"ovs\"\novsdb = \"unix:{at}/db.sock\"\nuplinks = [\"internet\"]\n"
    );
    std::fs::write(&config, text).unwrap();
    let log = std::fs::File::create(folder.join("agent.log")).unwrap();
    let mut command = Command::new(binary);
    command.args(["agent", "--config"]).arg(&config);
    Agent(command.stdout(Stdio::null()).stderr(log).spawn().unwrap())
}

fn rows(sandbox: &Sandbox) -> Vec<String> {
    let dumped = sandbox.ofctl(["-OOpenFlow15", "--no-stats", "dump-flows", sandbox.bridge()]);
    let rows = dumped.unwrap();
    let rows = rows.lines().map(|line| line.trim().to_string());
    rows.filter(|row| row.starts_with("cookie=")).collect()
}

/// Lets an earlier version write the fixture.
fn record(binary: &Path) {
    let (sandbox, _hosts) = bridge();
    let folder = tempfile::tempdir().unwrap();
    let agent = agent(binary, &sandbox, folder.path());
    let socket = folder.path().join("agent.sock");
    let end = Instant::now() + Duration::from_secs(20);
    while !socket.exists() && Instant::now() < end {
        std::thread::sleep(Duration::from_millis(50));
    }
    let policy = folder.path().join("policy.yaml");
    std::fs::write(&policy, POLICY).unwrap();
    let run = |arguments: &[&str]| {
        let mut command = Command::new(binary);
        let done = command
            .arg("--socket")
            .arg(&socket)
            .args(arguments)
            .output()
            .unwrap();
        assert!(done.status.success(), "{arguments:?}: {done:?}");
    };
    run(&["apply", "-f", policy.to_str().unwrap(), "--wait"]);
    run(&[
        "unlock",
        "request",
        "--program",
        "game",
        "--endpoint",
        "mail1",
        "--lease",
        "100h",
    ]);
    std::thread::sleep(Duration::from_secs(2));
    run(&["status", "--wait"]);
    let fixture = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/left");
    std::fs::write(fixture.join("rows.txt"), rows(&sandbox).join("\n") + "\n").unwrap();
    drop(agent);
    // With what is in its log.
    let connection = rusqlite::Connection::open(folder.path().join("p.db")).unwrap();
    let copy = fixture.join("p.db");
    connection
        .execute("VACUUM INTO ?1", [copy.to_str().unwrap()])
        .unwrap();
    println!("write database.sql from {}, with sqlite3's .dump", copy.display());
}

#[tokio::test(flavor = "multi_thread")]
async fn rows_of_an_earlier_version_are_taken_over_under_traffic() {
    if !need_root("rows_of_an_earlier_version_are_taken_over_under_traffic") {
        return;
    }
    if let Some(binary) = std::env::var_os("PORTCULLIS_EARLIER") {
        return tokio::task::block_in_place(|| record(Path::new(&binary)));
    }
    let (sandbox, [web, mail, internet]) = bridge();
    let folder = tempfile::tempdir().unwrap();
    let left = folder.path().join("rows.txt");
    std::fs::write(&left, ROWS).unwrap();
    let add = [
        "-OOpenFlow15",
        "--bundle",
        "add-flows",
        sandbox.bridge(),
        left.to_str().unwrap(),
    ];
    sandbox.ofctl(add).unwrap();
    let before = rows(&sandbox);
    assert_eq!(before.len(), ROWS.lines().count());
    let connection = rusqlite::Connection::open(folder.path().join("p.db")).unwrap();
    connection.execute_batch(DATABASE).unwrap();
    drop(connection);

    let to: IpAddr = "192.0.2.9".parse().unwrap();
    let binary = PathBuf::from(env!("CARGO_BIN_EXE_portcullis"));
    let runtime = tokio::runtime::Handle::current();
    let mut running = None;
    let mut take_over = || {
        std::thread::sleep(Duration::from_millis(300));
        running = Some(agent(&binary, &sandbox, folder.path()));
        runtime.block_on(realized(&folder.path().join("agent.sock")));
        std::thread::sleep(Duration::from_millis(300));
    };
    // From a server with own classes, and from one whose lease is open.
    let outcome = tokio::task::block_in_place(|| {
        stream::two_streams(&web, (&internet, to), [5000, 4444], &mut take_over)
    });
    let outcome = outcome.unwrap();
    assert!(outcome.sent > 500, "{outcome:?}");
    assert_eq!(
        (outcome.arrived, outcome.leaked),
        (outcome.sent, 0),
        "{outcome:?}"
    );

    let status = realized(&folder.path().join("agent.sock")).await;
    let target = &status.targets[0];
    assert_eq!(
        (
            target.endpoints_realized,
            target.foreign_rows,
            target.left_over_rows
        ),
        (2, 0, 0),
        "{target:#?}"
    );
    // What the lease opened stays open, and what is beside it shut.
    let pause = || std::thread::sleep(Duration::from_millis(500));
    let leased =
        tokio::task::block_in_place(|| stream::two_streams(&mail, (&internet, to), [4446, 4445], pause))
            .unwrap();
    assert_eq!((leased.arrived, leased.leaked), (leased.sent, 0), "{leased:?}");
    let taken = bodies(&sandbox);
    drop((running, sandbox));

    // The same rows as where nothing was left: no more, and no fewer.
    let (sandbox, _hosts) = bridge();
    let running = agent(&binary, &sandbox, folder.path());
    realized(&folder.path().join("agent.sock")).await;
    assert_eq!(taken, bodies(&sandbox));
    drop(running);
}

/// The rows without what goes with time: cookies, time-outs of leases, and what the switch learned by itself.
fn bodies(sandbox: &Sandbox) -> BTreeSet<String> {
    let rows = rows(sandbox);
    let bodies = rows.iter().map(|row| {
        let words = row.split(", ").filter(|word| {
            let word = word.trim();
            !word.starts_with("cookie=") && !word.starts_with("hard_timeout=")
        });
        words.collect::<Vec<_>>().join(", ")
    });
    // The uplink taught the switch a MAC under traffic, and each bridge has a MAC of its own.
    let learned = format!("table={}, priority=7,", portcullis_ovs::tables::Table::L2 as u8);
    let of_this_run = ["idle_timeout", learned.as_str(), "set_field:0xfffe->reg3"];
    bodies
        .filter(|body| !of_this_run.iter().any(|part| body.contains(*part)))
        .collect()
}

async fn realized(socket: &Path) -> v1::WaitRealizedResponse {
    let mut client = Client::unix(socket).await;
    let request = v1::WaitRealizedRequest {
        timeout_ms: 60_000,
        ..Default::default()
    };
    let answer = client.targets.wait_realized(request).await.unwrap().into_inner();
    assert!(answer.realized, "{answer:#?}");
    answer
}
