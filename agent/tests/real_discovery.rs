//! An agent without a `[[target]]` beside a real Open vSwitch with DPDK: real processes, real packets.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use portcullis_proto::v1;
use portcullis_testbed::{EndpointSpec, Sandbox, SandboxOptions, need_root};

use crate::bed::{Agent, Bed, Kind, connects};
use crate::support::Client;

const PATIENCE: Duration = Duration::from_secs(40);

const DOCUMENT: &str = r#"
version: portcullis/v1
baseline:
  - {name: smtp, action: deny, direction: egress, protocol: tcp, ports: [25]}
endpoints:
  web1:
    attachments: [{interface: web1}]
    macs: ["02:00:00:00:00:01"]
    addresses: [192.0.2.1, "2001:db8::1"]
    source_guard: false
"#;

/// Starts an agent in the switch's namespace that looks at the sandbox and nowhere else.
fn start(sandbox: &Sandbox, folder: &Path) -> (Agent, PathBuf) {
    let none = format!("unix:{}/none.sock", folder.display());
    let ovsdb = format!("unix:{}", sandbox.ovsdb_socket().display());
    start_beside(sandbox, folder, &ovsdb, &none)
}

fn start_beside(sandbox: &Sandbox, folder: &Path, ovsdb: &str, server: &str) -> (Agent, PathBuf) {
    let socket = folder.join("agent.sock");
    let text = format!(
        "[store]\npath = \"{}/p.db\"\n[api]\nsocket = \"{}\"\n[discovery]\novsdb = \"{ovsdb}\"\nservers = [\"{server}\"]\n",
        folder.display(),
        socket.display()
    );
    let config = folder.join("agent.toml");
    std::fs::write(&config, text).unwrap();
    let log = std::fs::File::options()
        .create(true)
        .append(true)
        .open(folder.join("agent.log"))
        .unwrap();
    let child = Command::new("ip")
        .args(["netns", "exec", &sandbox.namespace().unwrap()])
        .args([env!("CARGO_BIN_EXE_portcullis"), "agent", "--config"])
        .arg(&config)
        .stdout(Stdio::null())
        .stderr(log)
        .spawn()
        .unwrap();
    (Agent::new(child), socket)
}

async fn until(
    client: &mut Client,
    folder: &Path,
    what: &str,
    done: impl Fn(&v1::Target) -> bool,
) -> v1::Target {
    let end = Instant::now() + PATIENCE;
    loop {
        let list = client
            .targets
            .list_targets(v1::ListTargetsRequest {})
            .await
            .unwrap();
        let target = list.into_inner().targets.remove(0);
        if done(&target) {
            return target;
        }
        let log = || std::fs::read_to_string(folder.join("agent.log")).unwrap();
        assert!(Instant::now() < end, "not {what}: {target:#?}\n{}", log());
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}

fn in_sync(target: &v1::Target) -> bool {
    target.kind == "ovs" && target.state == "InSync" && target.generation_applied == 1
}

#[tokio::test(flavor = "multi_thread")]
async fn a_bridge_is_programmed_unasked_once_its_uplink_is_known_and_stays_the_target() {
    if !need_root("a_bridge_is_programmed_unasked_once_its_uplink_is_known_and_stays_the_target") {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let sandbox = Sandbox::start(SandboxOptions::default()).unwrap();
    let web = sandbox.add_endpoint(EndpointSpec::numbered("web1", 1)).unwrap();
    let internet = sandbox
        .add_endpoint(EndpointSpec::numbered("internet", 9))
        .unwrap();
    let _serving = [25, 80].map(|port| internet.tcp_echo(port).unwrap());
    let (agent, socket) = start(&sandbox, folder.path());
    let mut client = Client::unix(&socket).await;
    client.apply(DOCUMENT).await.unwrap();
    let unclear = until(&mut client, folder.path(), "unclear", |t| {
        t.detail.contains("not programmed without")
    })
    .await;
    assert_eq!(
        (
            unclear.name.as_str(),
            unclear.kind.as_str(),
            unclear.state.as_str()
        ),
        ("local", "none", "Disconnected")
    );
    assert!(
        unclear.detail.contains("none of its ports is a network card"),
        "{}",
        unclear.detail
    );
    let rows = sandbox.ofctl(["dump-flows", sandbox.bridge()]).unwrap();
    assert!(!rows.contains("table="), "something is written unasked: {rows}");
    // The network is behind one of its ports.
    sandbox.default_route("internet").unwrap();
    let target = until(&mut client, folder.path(), "programmed", in_sync).await;
    assert_eq!(target.endpoints_realized, 1, "{target:#?}");
    assert_eq!((connects(&web, 25), connects(&web, 80)), (false, true));
    let file = std::fs::read_to_string(folder.path().join("discovered.toml")).unwrap();
    assert!(file.contains("uplinks = [\"internet\"]\n"), "{file}");
    // Another start programs the same, although the switch is away, and the route, too.
    drop(agent);
    sandbox.stop_vswitchd().unwrap();
    let ip = Command::new("ip")
        .args(["-n", &sandbox.namespace().unwrap(), "route", "del", "default"])
        .status();
    assert!(ip.unwrap().success());
    let (_agent, socket) = start(&sandbox, folder.path());
    let mut client = Client::unix(&socket).await;
    until(&mut client, folder.path(), "kept", |t| {
        t.kind == "ovs" && t.name == "local"
    })
    .await;
    sandbox.start_vswitchd().unwrap();
    until(&mut client, folder.path(), "programmed again", in_sync).await;
    assert_eq!((connects(&web, 25), connects(&web, 80)), (false, true));
}

#[tokio::test(flavor = "multi_thread")]
async fn none_of_several_bridges_is_programmed_also_when_one_is_left() {
    if !need_root("none_of_several_bridges_is_programmed_also_when_one_is_left") {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let sandbox = Sandbox::start(SandboxOptions::default()).unwrap();
    let _internet = sandbox
        .add_endpoint(EndpointSpec::numbered("internet", 9))
        .unwrap();
    sandbox.default_route("internet").unwrap();
    sandbox
        .vsctl([
            "add-br",
            "other",
            "--",
            "set",
            "bridge",
            "other",
            "datapath_type=netdev",
        ])
        .unwrap();
    let (agent, socket) = start(&sandbox, folder.path());
    let mut client = Client::unix(&socket).await;
    client.apply(DOCUMENT).await.unwrap();
    let several = |t: &v1::Target| t.detail.contains("several datapaths were found");
    until(&mut client, folder.path(), "several", several).await;
    sandbox.vsctl(["del-br", "other"]).unwrap();
    tokio::time::sleep(Duration::from_secs(5)).await;
    until(&mut client, folder.path(), "still several", several).await;
    drop(agent);
    let (_agent, socket) = start(&sandbox, folder.path());
    let mut client = Client::unix(&socket).await;
    tokio::time::sleep(Duration::from_secs(5)).await;
    let held = until(&mut client, folder.path(), "several after a start", several).await;
    assert_eq!(held.kind, "none");
    // The command shows what an agent would find now, and writes nothing.
    let shown = Command::new("ip")
        .args([
            "netns",
            "exec",
            &sandbox.namespace().unwrap(),
            env!("CARGO_BIN_EXE_portcullis"),
            "discover",
        ])
        .args(["--ovsdb", &format!("unix:{}", sandbox.ovsdb_socket().display())])
        .output()
        .unwrap();
    let text = String::from_utf8(shown.stdout).unwrap();
    for words in [
        "every policy",
        "it programs Open vSwitch bridge",
        "kind = \"ovs\"",
        "uplinks = [\"internet\"]",
        "nothing listens at ",
    ] {
        assert!(text.contains(words), "{text}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_embedded_switch_is_programmed_unasked_and_again_after_a_start() {
    if !need_root("an_embedded_switch_is_programmed_unasked_and_again_after_a_start") {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let (bed, hosts) = Bed::new(Kind::Embedded, &[("web1", 1), ("internet", 9)]);
    let [web, internet] = hosts.as_slice() else {
        panic!("two hosts")
    };
    let _serving = [25, 80].map(|port| internet.tcp_echo(port).unwrap());
    bed.sandbox.default_route("internet").unwrap();
    let address = format!("unix:{}/p4runtime.sock", bed.sandbox.dir().display());
    // The sandbox has a bridge, too.
    let none = format!("unix:{}/none.sock", folder.path().display());
    let document = DOCUMENT.replace("{interface: web1}", "{port: 1, target: local}");
    for start in 1..=2 {
        let (_agent, socket) = start_beside(&bed.sandbox, folder.path(), &none, &address);
        let mut client = Client::unix(&socket).await;
        if start == 1 {
            client.apply(&document).await.unwrap();
        }
        let is_held =
            |t: &v1::Target| t.kind == "p4runtime" && t.state == "InSync" && t.generation_applied == 1;
        let target = until(&mut client, folder.path(), "programmed", is_held).await;
        assert_eq!(target.name, "local");
        assert_eq!(
            (connects(web, 25), connects(web, 80)),
            (false, true),
            "start {start}"
        );
    }
    let file = std::fs::read_to_string(folder.path().join("discovered.toml")).unwrap();
    assert!(file.contains("uplinks = [9]\nservers = [1]\n"), "{file}");
}
