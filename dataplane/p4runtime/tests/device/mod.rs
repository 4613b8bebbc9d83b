//! A P4Runtime device with real packets in network namespaces: BMv2, or the embedded switch.
#![allow(dead_code, reason = "test binaries use what they need of it")]

#[path = "../../../ovs/tests/corpus/mod.rs"]
mod corpus;
pub mod offloading;
pub mod vendor;

use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use corpus::documents::{Case, cases};
use corpus::expect::{Forwarding, World};
use corpus::run::{Wire, silence};
use corpus::{BARE, FREE, HOSTS, Host, INTERNET, STRAY};
use portcullis_backend::{SessionState, TargetHandle, launch};
use portcullis_compiler::{Class, Compiler, Intent};
pub use portcullis_p4runtime::PortMatching;
use portcullis_p4runtime::{Config, P4Backend, PipelineSource};
use portcullis_policy::{Document, Grant, GrantKind, View};
use portcullis_testbed::device::{Device, need_bmv2};
use portcullis_testbed::probe::TcpOutcome;
use portcullis_testbed::stream::two_streams;
use portcullis_testbed::{EndpointSpec, NetnsHost, Sandbox, SandboxOptions, need_root};
use tokio::runtime::Runtime;
use tokio::task::JoinHandle;

const PATIENCE: Duration = Duration::from_secs(30);
/// Differences printed in full per document; all are counted.
const PRINTED: usize = 40;

#[derive(Clone, Copy)]
pub enum Which {
    Bmv2,
    /// The embedded switch: this program.
    Embedded(&'static str),
    /// The same on TAP interfaces, with rules in the kernel's classifier; only in a guest that has one.
    Offloading(&'static str),
}

/// How the switch is started on TAP interfaces.
const OFFLOAD: &[&str] = &["--offload-accept", "encapsulation"];

impl Which {
    /// Whether it can be had here.
    fn is_here(self, test: &str) -> bool {
        match self {
            Which::Bmv2 => need_bmv2(test),
            Which::Embedded(_) | Which::Offloading(_) => need_root(test),
        }
    }

    /// Whether a NIC drops frames that are neither counted by the guard nor by a row.
    fn drops_unseen(self) -> bool {
        matches!(self, Which::Offloading(_))
    }

    /// Every how many frames of the corpus are sent: a guest is emulated.
    fn stride(self) -> usize {
        match self {
            Which::Offloading(_) if std::env::var_os("PORTCULLIS_SOAK").is_none() => 5,
            _ => 1,
        }
    }

    /// Frames sent at a time. A queue of BMv2 holds 64, and each host gets a copy of what is for many.
    fn batch(self) -> usize {
        match self {
            Which::Bmv2 => 48,
            Which::Embedded(_) => 200,
            Which::Offloading(_) => 16,
        }
    }
}

struct Rig {
    device: Device,
    sandbox: Sandbox,
    runtime: Runtime,
    config: Config,
    compiler: Compiler,
    generation: u64,
    target: TargetHandle,
    task: Option<JoinHandle<()>>,
}

impl Rig {
    fn start(which: Which, program: PipelineSource) -> (Rig, Vec<NetnsHost>) {
        Self::start_with(which, program, |_, _, _| {})
    }

    /// The same with other arguments for a switch on TAP interfaces.
    fn start_offloading(which: Which, arguments: &'static [&'static str]) -> (Rig, Vec<NetnsHost>) {
        Self::start_as(
            which,
            PipelineSource::Own(PortMatching::Range),
            arguments,
            |_, _, _| {},
        )
    }

    /// The same with something done to the configuration and the device before the agent meets it.
    fn start_with(
        which: Which,
        program: PipelineSource,
        before: impl FnOnce(&mut Config, &Device, &Runtime),
    ) -> (Rig, Vec<NetnsHost>) {
        Self::start_as(which, program, OFFLOAD, before)
    }

    fn start_as(
        which: Which,
        program: PipelineSource,
        arguments: &[&str],
        before: impl FnOnce(&mut Config, &Device, &Runtime),
    ) -> (Rig, Vec<NetnsHost>) {
        let sandbox = Sandbox::start(SandboxOptions::default()).unwrap();
        let hosts: Vec<NetnsHost> = HOSTS
            .iter()
            .map(|(name, n)| {
                let spec = EndpointSpec {
                    unplugged: true,
                    ..EndpointSpec::numbered(name, *n)
                };
                sandbox.add_endpoint(spec).unwrap()
            })
            .collect();
        let ports: Vec<(u32, &str)> = HOSTS.iter().map(|(name, n)| (u32::from(*n), *name)).collect();
        let device = match which {
            Which::Bmv2 => Device::bmv2(&sandbox, &ports),
            Which::Embedded(program) => Device::embedded(&sandbox, Path::new(program), &ports),
            Which::Offloading(program) => {
                Device::embedded_on_taps(&sandbox, Path::new(program), &ports, arguments)
            }
        };
        let device = device.unwrap();
        let mut config = Config::new("tor", &device.address(), 1);
        config.program = program;
        config.uplinks = [9].into();
        config.servers = [1, 2, 3, 4, 5].into();
        config.resync_interval = Duration::from_secs(1);
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(2)
            .enable_all()
            .build()
            .unwrap();
        before(&mut config, &device, &runtime);
        let (target, task) = {
            let _entered = runtime.enter();
            launch("tor", P4Backend::new(config.clone()).unwrap())
        };
        let rig = Rig {
            device,
            sandbox,
            runtime,
            config,
            compiler: Compiler::default(),
            generation: 0,
            target,
            task: Some(task),
        };
        (rig, hosts)
    }

    fn restart_agent(&mut self) {
        if let Some(task) = self.task.take() {
            task.abort();
        }
        let _entered = self.runtime.enter();
        let (target, task) = launch("tor", P4Backend::new(self.config.clone()).unwrap());
        self.target = target;
        self.task = Some(task);
    }

    fn set(&mut self, yaml: &str) -> Arc<Intent> {
        self.set_document(&Document::from_yaml(&at_ports(yaml, &[])).unwrap())
    }

    fn set_document(&mut self, document: &Document) -> Arc<Intent> {
        self.generation += 1;
        let follows = self.target.status().applied + 1 == self.generation;
        let target = &self.target;
        let edits = |old: &Class, new: &Class| follows && target.edits(old, new);
        let intent = self.compiler.resolve_in_place(document, self.generation, &edits);
        let intent = intent.unwrap();
        self.target.check(&intent).unwrap();
        self.target.set_intent(Arc::clone(&intent));
        intent
    }

    fn apply(&mut self, yaml: &str) -> Arc<Intent> {
        let intent = self.set(yaml);
        self.realized();
        intent
    }

    fn realized(&self) {
        let end = Instant::now() + PATIENCE;
        loop {
            let status = self.target.status();
            if status.state == SessionState::InSync && status.applied == self.generation {
                return;
            }
            assert!(Instant::now() < end, "not realized in time: {status:#?}");
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    /// Packets counted by rules whose names begin like this.
    fn hits(&self, rule: &str) -> u64 {
        let hits = self.runtime.block_on(self.target.hits()).unwrap();
        let of_rule = hits.iter().filter(|h| h.rule.starts_with(rule));
        of_rule.map(|h| h.packets).sum()
    }

    /// Waits until a port has that many rules.
    fn has_rules(&self, port: u32, wanted: usize) {
        let end = Instant::now() + PATIENCE;
        loop {
            let (rules, _) = self.dropped_by_rules(port);
            if rules == wanted {
                return;
            }
            let offload = self.runtime.block_on(self.target.offload());
            assert!(
                Instant::now() < end,
                "{rules} rules, and not {wanted}: {offload:#?}"
            );
            std::thread::sleep(Duration::from_millis(50));
        }
    }

    /// Rules at a port in the kernel's classifier, and packets that they dropped.
    fn dropped_by_rules(&self, port: u32) -> (usize, u64) {
        self.device.dropped_by_rules(&self.sandbox, port).unwrap()
    }

    fn guard_hits(&self, host: Host) -> u64 {
        self.hits(&format!("guard/{}", host.name()))
    }
}

impl Drop for Rig {
    fn drop(&mut self) {
        self.target.stop();
        if let Some(task) = self.task.take() {
            let _stopped = self
                .runtime
                .block_on(async { tokio::time::timeout(Duration::from_secs(2), task).await });
        }
    }
}

/// The documents of the corpus name interfaces: here they are ports of the switch, these hosts as trunks.
fn at_ports(yaml: &str, trunks: &[Host]) -> String {
    HOSTS
        .iter()
        .enumerate()
        .fold(yaml.to_string(), |text, (n, (name, number))| {
            let vlan = if trunks.contains(&Host(n)) {
                ", vlan: any"
            } else {
                ""
            };
            text.replace(
                &format!("{{interface: {name}}}"),
                &format!("{{port: {number}{vlan}, target: tor}}"),
            )
        })
}

/// A document of the corpus for this switch. Every host is a trunk under some, so that policies see tags, and two have roles.
fn on_the_switch(case: &Case) -> String {
    let all: Vec<Host> = Host::all().collect();
    let (trunks, roles): (&[Host], bool) = match case.name {
        "open" => (&[FREE, BARE], false),
        "guarded" => (&all, false),
        "blocked" | "closed" => (&all, true),
        _ => (&[FREE, BARE], true),
    };
    let mut yaml = at_ports(&case.yaml, trunks);
    if roles {
        for (n, role) in [(2, "router"), (4, "dhcp-server")] {
            let macs = format!("    macs: [\"02:00:00:00:00:0{n}\"]\n");
            assert!(yaml.contains(&macs));
            yaml = yaml.replace(&macs, &format!("{macs}    roles: [{role}]\n"));
        }
    }
    yaml
}

/// Sends the whole corpus under one document. BMv2 takes about a minute for it.
pub fn corpus_over(which: Which, test: &str, case: &str, matching: PortMatching) {
    if !which.is_here(test) {
        return;
    }
    let case: Case = cases().into_iter().find(|c| c.name == case).unwrap();
    let mut frames = corpus::with_services();
    assert!(frames.len() >= 2000, "{} frames", frames.len());
    let mut at = 0..;
    frames.retain(|_| {
        at.next()
            .is_some_and(|at: usize| at.is_multiple_of(which.stride()))
    });
    let (mut rig, hosts) = Rig::start(which, PipelineSource::Own(matching));
    silence(&hosts);
    let yaml = on_the_switch(&case);
    rig.apply(&yaml);
    let document = Document::from_yaml(&yaml).unwrap();
    let world = World::new(document, View::FULL, 2).forwarded_by(Forwarding::Groups);
    let begin = Instant::now();
    let outcome = Wire::new(&hosts, None, &frames, which.batch()).compare(&world, 1);
    eprintln!(
        "{}: {} frames, {} to arrive, {} not, {} by the guard; {} differences; {:.1?}",
        case.name,
        frames.len(),
        outcome.passed,
        outcome.dropped,
        outcome.guarded.iter().sum::<u64>(),
        outcome.differences.len(),
        begin.elapsed(),
    );
    for difference in outcome.differences.iter().take(PRINTED) {
        eprintln!("-- {difference}");
    }
    assert!(outcome.unseen.is_empty(), "this program sees everything");
    assert_eq!(
        outcome.differences.len(),
        0,
        "frames went another way than the policy says; see above"
    );
    assert!(rig.hits("roles/") > 0, "what routers send is counted");
    for host in Host::all().filter(|h| *h != STRAY && *h != INTERNET) {
        let (counted, refused) = (rig.guard_hits(host), outcome.guarded[host.0]);
        let is_right = counted == refused || (which.drops_unseen() && counted < refused);
        assert!(
            is_right,
            "{counted} counted by the guard of {}: {refused}",
            host.name()
        );
    }
    if which.drops_unseen() {
        let dropped = [1, 2, 3, 4, 5].map(|port| rig.dropped_by_rules(port));
        eprintln!("rules and packets that they dropped, by port: {dropped:?}");
        let offload = rig.runtime.block_on(rig.target.offload()).unwrap();
        for rule in &offload.rules {
            eprintln!("{}: {:?} {:?}", rule.rule.rule, rule.flows, rule.why);
        }
        let packets: u64 = dropped.iter().map(|(_, packets)| packets).sum();
        assert!(packets > 100, "{dropped:?}");
    }
}

fn document(ports: &str) -> String {
    format!(
        "version: portcullis/v1\nbaseline:\n  - {{name: b, action: deny, direction: egress, protocol: tcp, ports: \
         [{ports}]}}\n  - {{name: u, action: deny, direction: egress, protocol: udp, ports: [9999]}}\nendpoints:\n  web1:\n    \
         attachments: [{{interface: web1}}]\n    macs: [\"02:00:00:00:00:01\"]\n    addresses: [192.0.2.1, \"2001:db8::1\"]\n"
    )
}

fn connects(from: &NetnsHost, port: u16) -> bool {
    let to = std::net::SocketAddr::from(([192, 0, 2, 9], port));
    matches!(
        from.tcp_connect(to, Duration::from_millis(2500)).unwrap(),
        TcpOutcome::Open(_)
    )
}

/// The agent dies and comes back; the device dies and comes back.
pub fn a_story_with_restarts(which: Which) {
    if !which.is_here("a_story_with_restarts") {
        return;
    }
    let (mut rig, hosts) = Rig::start(which, PipelineSource::Own(PortMatching::Range));
    let (web, internet) = (&hosts[0], &hosts[INTERNET.0]);
    let _serving = (internet.tcp_echo(25).unwrap(), internet.tcp_echo(80).unwrap());
    rig.apply(&document("25"));
    assert!(!connects(web, 25));
    assert!(connects(web, 80));
    // The agent dies and comes back: no row is written, no pipeline pushed, and traffic never stopped.
    let writes = rig.target.status().writes;
    assert!(writes[0] > 0);
    rig.restart_agent();
    rig.generation -= 1;
    rig.apply(&document("25"));
    assert_eq!(rig.target.status().writes, [0; 3]);
    assert!(!connects(web, 25) && connects(web, 80));
    rig.apply(&document("80"));
    assert!(connects(web, 25));
    assert!(!connects(web, 80));
    // The switch dies and comes back empty: it is given everything again.
    rig.device.kill();
    rig.device.start_again(&rig.sandbox).unwrap();
    let end = Instant::now() + PATIENCE;
    while !connects(web, 25) {
        assert!(Instant::now() < end, "{:#?}", rig.target.status());
    }
    assert!(!connects(web, 80));
    let hits = rig.runtime.block_on(rig.target.hits()).unwrap();
    let denied = hits
        .iter()
        .find(|h| h.rule == "baseline/b" && h.action == "deny")
        .unwrap();
    assert!(denied.packets > 0 || which.drops_unseen(), "{hits:#?}");
}

/// Datagrams that the kernel sends in fragments arrive, and are answered in fragments.
pub fn fragments_cross(which: Which) {
    use portcullis_testbed::probe::UdpOutcome;
    if !which.is_here("fragments_cross") {
        return;
    }
    let (mut rig, hosts) = Rig::start(which, PipelineSource::Own(PortMatching::Range));
    let (web, internet) = (&hosts[0], &hosts[INTERNET.0]);
    let _serving = (internet.udp_echo(7000).unwrap(), internet.udp_echo(9999).unwrap());
    rig.apply(&document("25"));
    let asked = |port, length: usize| {
        let to = std::net::SocketAddr::from(([192, 0, 2, 9], port));
        let payload: Vec<u8> = (0..length).map(|n| n as u8).collect();
        let answer = web.udp_ask(to, &payload, Duration::from_secs(2)).unwrap();
        answer == UdpOutcome::Answered(payload)
    };
    for length in [1000, 1473, 4000, 60_000] {
        assert!(asked(7000, length), "{length} bytes");
    }
    assert!(!asked(9999, 4000), "the first fragment is judged");
}

/// The agent dies while an unlock holds: the switch closes the port within a second of the end, by its own clock.
pub fn a_dead_agent_keeps_nothing_open(which: Which) {
    if !which.is_here("a_dead_agent_keeps_nothing_open") {
        return;
    }
    let wall = || {
        std::time::SystemTime::now()
            .duration_since(std::time::UNIX_EPOCH)
            .unwrap()
    };
    let (mut rig, hosts) = Rig::start(which, PipelineSource::Own(PortMatching::Range));
    let (web, internet) = (&hosts[0], &hosts[INTERNET.0]);
    let _serving = (internet.tcp_echo(25).unwrap(), internet.tcp_echo(80).unwrap());
    let ends = wall().as_secs() + 6;
    let opens = document("25").replace("action: deny", "action: allow");
    // Another port stays denied, so that the class of the unlocked has rows too.
    let mut unlocked = Document::from_yaml(&at_ports(&document("25, 465"), &[])).unwrap();
    let grant = Grant {
        unlock: "u1".parse().unwrap(),
        program: "mail".parse().unwrap(),
        rules: Document::from_yaml(&at_ports(&opens, &[]))
            .unwrap()
            .baseline
            .to_vec(),
        kind: GrantKind::Unlock,
        ends,
    };
    unlocked
        .grants
        .insert("web1".parse().unwrap(), Arc::new(vec![grant]));
    let intent = rig.set_document(&unlocked);
    rig.realized();
    assert!(connects(web, 25) && connects(web, 80));
    rig.task.take().unwrap().abort();
    assert!(connects(web, 25), "an agent that dies closes nothing");
    assert!(wall().as_secs() < ends, "the machine is too slow for this test");
    std::thread::sleep(Duration::from_secs(ends + 1).saturating_sub(wall()));
    assert!(!connects(web, 25), "a lease outlived its agent");
    assert!(connects(web, 80));
    // The agent comes back: what ended is as it wants it.
    rig.restart_agent();
    rig.target.set_intent(intent);
    rig.realized();
    // Nothing is written again; the rows of the class that the lease led to go.
    let [added, changed, deleted] = rig.target.status().writes;
    assert!(
        added == 0 && changed == 0 && deleted > 0,
        "{added} {changed} {deleted}"
    );
    assert!(!connects(web, 25) && connects(web, 80));
}

/// No allowed datagram is lost, and no denied one passes, while the policy changes 1,000 times.
pub fn a_thousand_changes_under_traffic(which: Which) {
    if !which.is_here("a_thousand_changes_under_traffic") {
        return;
    }
    let (mut rig, hosts) = Rig::start(which, PipelineSource::Own(PortMatching::Range));
    let (web, internet) = (&hosts[0], &hosts[INTERNET.0]);
    rig.apply(&document("25"));
    let changes = if which.stride() > 1 { 60 } else { 1000 };
    let to = (internet, std::net::IpAddr::from([192, 0, 2, 9]));
    let outcome = two_streams(web, to, [8888, 9999], || {
        for change in 0..changes {
            let ports = match change % 3 {
                0 => "25, 465".to_string(),
                1 => format!("25, {}", 10_000 + change),
                _ => format!("\"{}-{}\"", 1000 + change, 3000 + change),
            };
            rig.apply(&document(&ports));
        }
    })
    .unwrap();
    eprintln!("{changes} changes: {outcome:?}");
    assert!(outcome.sent > 1000, "{outcome:?}");
    assert_eq!((outcome.arrived, outcome.leaked), (outcome.sent, 0));
}

/// The documents of the corpus: a test for each.
pub fn documents() -> Vec<&'static str> {
    cases().iter().map(|c| c.name).collect()
}
