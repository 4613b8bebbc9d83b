//! A bypass on a real OVS-DPDK bridge and on the embedded switch, with the real agent as a process of its own.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::net::SocketAddr;
use std::path::Path;
use std::process::{Command, Output};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use portcullis_testbed::probe::{Service, TcpOutcome};
use portcullis_testbed::{NetnsHost, need_root};

use crate::bed::{Agent, Bed, Kind};

const POLICY: &str = r#"
version: portcullis/v1
mandatory:
  - {name: smtp, action: deny, direction: egress, protocol: tcp, ports: [25]}
profiles:
  closed:
    default: {ingress: deny}
endpoints:
  web1:
    attachments: [{ATTACHMENT}]
    macs: ["02:00:00:00:00:01"]
    addresses: [192.0.2.1, "2001:db8::1"]
    profiles: [closed]
"#;

/// Nothing that is waited for takes so long.
const PATIENCE: Duration = Duration::from_secs(30);
/// Where rows end by themselves, the switch alone closes within this. Open vSwitch looks for rows to expire when its
/// revalidators have looked through its cached flows, every 0.5 s, and then has them look again; the embedded switch looks at
/// its rows every 0.1 s. The rest is for a switch whose threads have to wait.
const LATEST: Duration = Duration::from_secs(3);
/// Rows of Open vSwitch end at whole seconds, and so up to 1.5 s too early.
const EARLIEST: Duration = Duration::from_secs(3);
/// A connection is opened at once, or its first segment was dropped. The next one would be sent after 1 s.
const AT_ONCE: Duration = Duration::from_millis(300);

fn wall() -> Duration {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap()
}

fn until(what: &str, holds: impl Fn() -> bool) {
    let end = Instant::now() + PATIENCE;
    while !holds() {
        assert!(Instant::now() < end, "not {what} within {PATIENCE:?}");
        std::thread::sleep(Duration::from_millis(50));
    }
}

/// How long a thread that wants to run had to wait at most while something happened.
fn kept_waiting<T>(happens: impl FnOnce() -> T) -> (Duration, T) {
    const TICK: Duration = Duration::from_millis(10);
    let over = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let ticks = scope.spawn(|| {
            let mut longest = Duration::ZERO;
            while !over.load(Ordering::Relaxed) {
                let from = Instant::now();
                std::thread::sleep(TICK);
                longest = longest.max(from.elapsed().saturating_sub(TICK));
            }
            longest
        });
        let result = happens();
        over.store(true, Ordering::Relaxed);
        (ticks.join().unwrap(), result)
    })
}

/// One server, with an agent and a policy that denies 25 out and everything in, and the internet behind the uplink.
struct Scene {
    agent: Option<Agent>,
    web: NetnsHost,
    internet: NetnsHost,
    _services: [Service; 3],
    bed: Bed,
}

impl Scene {
    fn new(kind: Kind) -> Scene {
        let (bed, hosts) = Bed::new(kind, &[("web1", 1), ("internet", 9)]);
        let [web, internet]: [NetnsHost; 2] = hosts.try_into().unwrap();
        let services = [
            internet.tcp_echo(25).unwrap(),
            internet.tcp_echo(80).unwrap(),
            web.tcp_echo(2222).unwrap(),
        ];
        let document = bed.sandbox.dir().join("policy.yaml");
        let text = POLICY.replace("ATTACHMENT", &bed.attachment(0));
        std::fs::write(&document, text).unwrap();
        let mut scene = Scene {
            agent: None,
            web,
            internet,
            _services: services,
            bed,
        };
        scene.agent_comes();
        let document = document.display().to_string();
        until("there", || scene.run(&["get", "bypasses"]).status.success());
        scene.done(&["apply", "-f", &document, "--wait"]);
        scene
    }

    fn agent_comes(&mut self) {
        self.agent = Some(self.bed.start_agent(self.bed.sandbox.dir(), "").0);
    }

    /// Kills the agent with SIGKILL.
    fn agent_dies(&mut self) {
        self.agent = None;
    }

    fn in_force(&self) {
        until("in force", || self.run(&["status", "--wait"]).status.success());
    }

    fn run(&self, args: &[&str]) -> Output {
        let socket = self.bed.sandbox.dir().join("agent.sock");
        run(&socket, args)
    }

    fn done(&self, args: &[&str]) -> String {
        let output = self.run(args);
        assert!(output.status.success(), "{output:?}\n{}", self.bed.log());
        String::from_utf8_lossy(&output.stdout).into_owned()
    }

    /// Whether the server gets out at port 25, and others get in; only a bypass opens that.
    fn open(&self) -> [bool; 2] {
        [
            passes(&self.web, 9, 25, AT_ONCE),
            passes(&self.internet, 1, 2222, AT_ONCE),
        ]
    }

    /// Whether what the policy allows passes.
    fn allowed(&self) -> bool {
        passes(&self.web, 9, 80, AT_ONCE)
    }

    /// Starts a bypass; when it ends.
    fn bypass(&self, time: &str) -> Duration {
        let reason = "is it the policy?";
        self.done(&["bypass", "web1", "--for", time, "--reason", reason, "--wait"]);
        let ends = self.done(&["get", "bypasses", "-o", "json"]);
        let ends: serde_json::Value = serde_json::from_str(&ends).unwrap();
        Duration::from_secs(ends["bypasses"][0]["ends_at"].as_u64().unwrap())
    }

    /// Opens connections until nothing passes any more; when the last one began that was opened.
    fn last_opened(&self, until: Duration) -> Duration {
        let mut last = Duration::ZERO;
        while wall() < until {
            for (from, to, port) in [(&self.web, 9, 25), (&self.internet, 1, 2222)] {
                let began = wall();
                if passes(from, to, port, AT_ONCE) {
                    last = began;
                }
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        last
    }

    fn is_ended_by_hand(&self) {
        assert_eq!(self.open(), [false; 2]);
        self.bypass("10m");
        assert_eq!(self.open(), [true; 2]);
        let told = self.done(&["explain", "web1", "egress", "tcp/25"]);
        assert!(
            told.contains("bypass/web1") && told.contains("is it the policy?"),
            "{told}"
        );
        assert!(!told.contains("MISSING"), "{told}");
        let ended = self.done(&["bypass", "web1", "--end", "--wait", "-o", "json"]);
        assert_eq!(self.open(), [false; 2], "{ended}");
    }

    /// Nobody but the switch is there to end it.
    fn ends_with_a_dead_agent(&mut self) {
        let ends = self.bypass("10s");
        self.agent_dies();
        assert_eq!(self.open(), [true; 2]);
        assert!(wall() < ends, "this machine is too slow to see anything");
        let more = Duration::from_secs(2);
        let (waited, last) = kept_waiting(|| self.last_opened(ends + LATEST + more));
        // An end takes the switch some steps, each of a thread that has to wait as ours had to.
        let latest = ends + LATEST + 4 * waited;
        println!(
            "the last connection began {:.3} s after the end; threads waited up to {waited:?}",
            last.as_secs_f64() - ends.as_secs_f64()
        );
        assert!(last <= latest, "opened at {last:?}, and {ends:?} was the end");
        assert!(
            last + EARLIEST >= ends,
            "closed at {last:?}, and {ends:?} was the end"
        );
        assert!(self.allowed(), "an end closes the bypass alone");
    }

    /// An agent that comes back finds it over.
    fn is_over(&mut self) {
        self.agent_comes();
        self.in_force();
        assert_eq!((self.open(), self.allowed()), ([false; 2], true));
        let bypasses = self.done(&["get", "bypasses"]);
        assert!(bypasses.contains("no endpoint is bypassed"), "{bypasses}");
        let audit = self.done(&["audit", "list", "--action", "bypass."]);
        for action in ["bypass.start", "bypass.end", "bypass.expire"] {
            assert!(audit.contains(action), "{audit}");
        }
    }
}

fn run(socket: &Path, args: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_portcullis"))
        .arg("--socket")
        .arg(socket)
        .args(args)
        .output()
        .unwrap()
}

fn passes(from: &NetnsHost, to: u8, port: u16, within: Duration) -> bool {
    let to = SocketAddr::from(([192, 0, 2, to], port));
    let outcome = from.tcp_connect(to, within);
    matches!(outcome.unwrap(), TcpOutcome::Open(_))
}

#[test]
fn a_bypass_opens_everything_and_ends_with_a_dead_agent() {
    if !need_root("a_bypass_opens_everything_and_ends_with_a_dead_agent") {
        return;
    }
    let mut scene = Scene::new(Kind::Ovs);
    scene.is_ended_by_hand();
    scene.ends_with_a_dead_agent();
    scene.is_over();
}

/// The embedded switch is a process of its own, which goes on without the agent. When it ends, too, its rows are gone.
#[test]
fn a_bypass_of_the_embedded_switch_ends_with_a_dead_agent_and_with_the_switch() {
    if !need_root("a_bypass_of_the_embedded_switch_ends_with_a_dead_agent_and_with_the_switch") {
        return;
    }
    let mut scene = Scene::new(Kind::Embedded);
    scene.is_ended_by_hand();
    scene.ends_with_a_dead_agent();
    scene.is_over();

    let ends = scene.bypass("6s");
    assert_eq!(scene.open(), [true; 2]);
    scene.agent_dies();
    scene.bed.stop_switch(true);
    assert_eq!((scene.open(), scene.allowed()), ([false; 2], false));
    // Without an agent it has no rows, and passes nothing.
    scene.bed.start_switch();
    assert_eq!((scene.open(), scene.allowed()), ([false; 2], false));
    assert!(wall() < ends, "this machine is too slow to see anything");
    std::thread::sleep(ends.saturating_sub(wall()));
    assert_eq!((scene.open(), scene.allowed()), ([false; 2], false));
    // From the agent's first row on: not a moment of it.
    let opened = std::thread::scope(|scope| {
        let end = wall() + Duration::from_secs(3);
        let (web, internet) = (scene.web.clone(), scene.internet.clone());
        let watch = scope.spawn(move || {
            let mut opened = false;
            while wall() < end {
                opened |= passes(&web, 9, 25, AT_ONCE) || passes(&internet, 1, 2222, AT_ONCE);
            }
            opened
        });
        scene.is_over();
        watch.join().unwrap()
    });
    assert!(!opened, "a bypass that had ended was open at the restart");
}
