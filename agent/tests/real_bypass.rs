//! A bypass on a real OVS-DPDK bridge, with the real agent as a process of its own.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::net::SocketAddr;
use std::path::Path;
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use portcullis_testbed::probe::TcpOutcome;
use portcullis_testbed::{EndpointSpec, NetnsHost, Sandbox, SandboxOptions, need_root};

const POLICY: &str = r#"
version: portcullis/v1
mandatory:
  - {name: smtp, action: deny, direction: egress, protocol: tcp, ports: [25]}
profiles:
  closed:
    default: {ingress: deny}
endpoints:
  web1:
    attachments: [{interface: web1}]
    macs: ["02:00:00:00:00:01"]
    addresses: [192.0.2.1, "2001:db8::1"]
    profiles: [closed]
"#;

/// Nothing that is waited for takes so long.
const PATIENCE: Duration = Duration::from_secs(30);
/// No packet passes so long after the end: the switch looks for rows to expire about once a second, and its caches follow
/// within another; a loaded machine takes longer.
const LATEST: Duration = Duration::from_secs(8);

/// An agent; killed when it is dropped.
struct Agent(Child);

impl Drop for Agent {
    fn drop(&mut self) {
        self.0.kill().unwrap();
        self.0.wait().unwrap();
    }
}

fn start(config: &Path, log: &Path) -> Agent {
    let log = std::fs::File::options()
        .create(true)
        .append(true)
        .open(log)
        .unwrap();
    let child = Command::new(env!("CARGO_BIN_EXE_portcullis"))
        .args(["agent", "--config"])
        .arg(config)
        .stdout(Stdio::null())
        .stderr(log)
        .spawn()
        .unwrap();
    Agent(child)
}

fn run(socket: &Path, args: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_portcullis"))
        .arg("--socket")
        .arg(socket)
        .args(args)
        .output()
        .unwrap()
}

fn done(output: &Output) -> String {
    assert!(output.status.success(), "{output:?}");
    String::from_utf8_lossy(&output.stdout).into_owned()
}

fn passes(from: &NetnsHost, to: u8, port: u16) -> bool {
    let to = SocketAddr::from(([192, 0, 2, to], port));
    let outcome = from.tcp_connect(to, Duration::from_millis(500));
    matches!(outcome.unwrap(), TcpOutcome::Open(_))
}

fn until(what: &str, patience: Duration, holds: impl Fn() -> bool) {
    let end = std::time::Instant::now() + patience;
    while !holds() {
        assert!(std::time::Instant::now() < end, "not {what} within {patience:?}");
        std::thread::sleep(Duration::from_millis(50));
    }
}

fn wall() -> Duration {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap()
}

#[test]
fn a_bypass_opens_everything_and_ends_with_a_dead_agent() {
    if !need_root("a_bypass_opens_everything_and_ends_with_a_dead_agent") {
        return;
    }
    let sandbox = Sandbox::start(SandboxOptions::default()).unwrap();
    let web = sandbox.add_endpoint(EndpointSpec::numbered("web1", 1)).unwrap();
    let internet = sandbox
        .add_endpoint(EndpointSpec::numbered("internet", 9))
        .unwrap();
    let _serving = internet.tcp_echo(25).unwrap();
    let _inside = web.tcp_echo(2222).unwrap();
    let at = sandbox.dir();
    let (config, socket, log) = (at.join("agent.toml"), at.join("agent.sock"), at.join("agent.log"));
    let text = format!(
        "[store]\npath = \"{at}/p.db\"\n[api]\nsocket = \"{at}/agent.sock\"\n\
         [[target]]\nname = \"ovs\"\nkind = \"ovs\"\novsdb = \"unix:{at}/db.sock\"\nuplinks = [\"internet\"]\n",
        at = at.display()
    );
    std::fs::write(&config, text).unwrap();
    let document = at.join("policy.yaml");
    std::fs::write(&document, POLICY).unwrap();
    let document = document.to_str().unwrap();
    let agent = start(&config, &log);
    until("applied", PATIENCE, || {
        run(&socket, &["apply", "-f", document, "--wait"])
            .status
            .success()
    });
    let both = || (passes(&web, 9, 25), passes(&internet, 1, 2222));
    assert_eq!(both(), (false, false));

    // Ended by hand.
    let start_it = |time: &str| {
        let args = [
            "bypass",
            "web1",
            "--for",
            time,
            "--reason",
            "is it the policy?",
            "--wait",
        ];
        done(&run(&socket, &args));
    };
    start_it("10m");
    assert_eq!(both(), (true, true));
    let told = done(&run(&socket, &["explain", "web1", "egress", "tcp/25"]));
    assert!(
        told.contains("bypass/web1") && told.contains("is it the policy?"),
        "{told}"
    );
    assert!(!told.contains("MISSING"), "{told}");
    let ended = done(&run(
        &socket,
        &["bypass", "web1", "--end", "--wait", "-o", "json"],
    ));
    assert_eq!(both(), (false, false), "{ended}");

    // Ended by the switch, which has nobody else.
    start_it("12s");
    let ends = run(&socket, &["get", "bypasses", "-o", "json"]);
    let ends: serde_json::Value = serde_json::from_str(&done(&ends)).unwrap();
    let ends = Duration::from_secs(ends["bypasses"][0]["ends_at"].as_u64().unwrap());
    drop(agent);
    assert_eq!(both(), (true, true));
    assert!(wall() < ends, "this machine is too slow to see anything");
    until("ended", ends.saturating_sub(wall()) + LATEST, || {
        both() == (false, false)
    });
    println!(
        "closed {:.3} s after its end",
        wall().as_secs_f64() - ends.as_secs_f64()
    );

    // And an agent that comes back finds it over.
    let _agent = start(&config, &log);
    until("there", PATIENCE, || {
        run(&socket, &["status", "--wait"]).status.success()
    });
    assert_eq!(both(), (false, false));
    assert!(done(&run(&socket, &["get", "bypasses"])).contains("no endpoint is bypassed"));
    let audit = done(&run(&socket, &["audit", "list", "--action", "bypass."]));
    for action in ["bypass.start", "bypass.end", "bypass.expire"] {
        assert!(audit.contains(action), "{audit}");
    }
}
