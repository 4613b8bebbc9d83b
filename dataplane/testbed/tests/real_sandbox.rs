//! The testbed itself, on a real switch: packets flow, and nothing stays behind.

#![allow(clippy::unwrap_used, clippy::panic, reason = "this is a test")]

use portcullis_testbed::etherparse::PacketBuilder;
use portcullis_testbed::probe::{TcpOutcome, UdpOutcome, tcp_echo};
use portcullis_testbed::{EndpointSpec, NetnsHost, Sandbox, SandboxOptions, need_root};
use std::fs;
use std::io::{BufRead, BufReader};
use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

const SOON: Duration = Duration::from_secs(3);
const SHORT: Duration = Duration::from_millis(300);

/// A switch without an agent, whose bridge forwards by itself.
fn passing() -> SandboxOptions {
    SandboxOptions {
        standalone: true,
        ..SandboxOptions::default()
    }
}

fn at(address: IpAddr, port: u16) -> SocketAddr {
    (address, port).into()
}

#[test]
fn two_endpoints_talk_until_the_switch_says_no() {
    if !need_root("two_endpoints_talk_until_the_switch_says_no") {
        return;
    }
    let sandbox = Sandbox::start(passing()).unwrap();
    assert_eq!(
        sandbox
            .vsctl(["get", "Open_vSwitch", ".", "dpdk_initialized"])
            .unwrap()
            .trim(),
        "true"
    );
    let web = sandbox.add_endpoint(EndpointSpec::numbered("web1", 10)).unwrap();
    let mail = sandbox.add_endpoint(EndpointSpec::numbered("mail1", 20)).unwrap();
    assert_eq!(
        sandbox
            .vsctl(["get", "interface", "web1", "type"])
            .unwrap()
            .trim(),
        "dpdk"
    );

    let tcp = web.tcp_echo(80).unwrap();
    let udp = web.udp_echo(53).unwrap();
    for address in web.addresses() {
        let outcome = mail.tcp_connect(at(*address, 80), SOON).unwrap();
        let TcpOutcome::Open(mut stream) = outcome else {
            panic!("{address}: {outcome:?}")
        };
        assert!(tcp_echo(&mut stream, &[7; 100_000], SOON).unwrap(), "{address}");
        assert_eq!(
            mail.tcp_connect(at(*address, 81), SOON).unwrap().word(),
            "refused"
        );
        let answered = mail.udp_ask(at(*address, 53), b"hello", SOON).unwrap();
        assert_eq!(answered, UdpOutcome::Answered(b"hello".to_vec()));
    }
    assert_eq!((tcp.served(), udp.served()), (2, 2));

    sandbox
        .ofctl(["add-flow", "br0", "priority=9,tcp,tp_dst=80,actions=drop"])
        .unwrap();
    sandbox
        .ofctl(["add-flow", "br0", "priority=9,udp6,tp_dst=53,actions=drop"])
        .unwrap();
    let (v4, v6) = (web.ipv4().unwrap().into(), web.ipv6().unwrap().into());
    assert_eq!(mail.tcp_connect(at(v4, 80), SHORT).unwrap().word(), "timeout");
    assert!(mail.tcp_connect(at(v6, 80), SOON).unwrap().is_open());
    assert_eq!(
        mail.udp_ask(at(v6, 53), b"x", SHORT).unwrap(),
        UdpOutcome::Timeout
    );
    assert_eq!(mail.udp_ask(at(v4, 53), b"x", SOON).unwrap().word(), "answered");
}

fn udp_frame(from: &NetnsHost, to: &NetnsHost, payload: &[u8]) -> Vec<u8> {
    let builder = PacketBuilder::ethernet2(from.mac().unwrap(), to.mac().unwrap())
        .ipv4(from.ipv4().unwrap().octets(), to.ipv4().unwrap().octets(), 64)
        .udp(1000, 2000);
    let mut frame = Vec::new();
    builder.write(&mut frame, payload).unwrap();
    frame
}

fn under_tag(frame: &[u8], tag: [u8; 4]) -> Vec<u8> {
    [&frame[..12], &tag, &frame[12..]].concat()
}

#[test]
fn raw_frames_arrive_byte_for_byte_under_one_and_two_vlan_tags() {
    if !need_root("raw_frames_arrive_byte_for_byte_under_one_and_two_vlan_tags") {
        return;
    }
    let sandbox = Sandbox::start(SandboxOptions {
        vlan_limit: Some(2),
        ..passing()
    })
    .unwrap();
    let a = sandbox.add_endpoint(EndpointSpec::numbered("a", 1)).unwrap();
    let b = sandbox.add_endpoint(EndpointSpec::numbered("b", 2)).unwrap();
    let plain = udp_frame(&a, &b, &[42; 64]);
    let tagged = under_tag(&plain, [0x81, 0, 0xa0, 7]);
    let twice = under_tag(&tagged, [0x81, 0, 0, 9]);
    let capture = b.capture().unwrap();
    for frame in [&plain, &tagged, &twice] {
        a.send_frame(frame).unwrap();
        let seen = capture.until(SOON, |seen| seen == frame).unwrap();
        assert!(seen.is_some(), "{frame:02x?} did not arrive as it was sent");
    }
    // DPDK's af_packet port shows the switch an outer 802.1ad tag as an 802.1Q tag.
    a.send_frame(&under_tag(&tagged, [0x88, 0xa8, 0, 9])).unwrap();
    assert!(capture.until(SOON, |seen| seen == twice).unwrap().is_some());
    a.send_frames([plain.as_slice(), &tagged]).unwrap();
    let all = capture.all(SHORT).unwrap();
    assert_eq!(
        all.iter()
            .filter(|frame| **frame == plain || **frame == tagged)
            .count(),
        2
    );
}

#[test]
fn ports_come_and_go_and_the_switch_restarts() {
    if !need_root("ports_come_and_go_and_the_switch_restarts") {
        return;
    }
    let sandbox = Sandbox::start(SandboxOptions {
        bridge: "lab".to_owned(),
        ..passing()
    })
    .unwrap();
    let a = sandbox.add_endpoint(EndpointSpec::numbered("a", 1)).unwrap();
    let late = EndpointSpec {
        unplugged: true,
        iface_id: Some("id-7".to_owned()),
        ..EndpointSpec::numbered("b", 2)
    };
    let b = sandbox.add_endpoint(late).unwrap();
    let _server = b.tcp_echo(80).unwrap();
    let server = at(b.ipv4().unwrap().into(), 80);
    assert_eq!(sandbox.ofport("b").unwrap(), None);
    assert!(!a.tcp_connect(server, SHORT).unwrap().is_open());
    sandbox.plug("b").unwrap();
    assert!(sandbox.ofport("b").unwrap().is_some());
    assert_eq!(
        sandbox
            .vsctl(["get", "interface", "b", "external_ids:iface-id"])
            .unwrap()
            .trim(),
        "id-7"
    );
    assert!(a.tcp_connect(server, SOON).unwrap().is_open());

    let before = sandbox.vswitchd_pid().unwrap();
    sandbox.restart_vswitchd().unwrap();
    assert_ne!(sandbox.vswitchd_pid().unwrap(), before);
    assert!(a.tcp_connect(server, SOON).unwrap().is_open());
    sandbox.stop_ovsdb().unwrap();
    assert!(sandbox.vsctl(["--timeout=1", "show"]).is_err());
    assert!(a.tcp_connect(server, SOON).unwrap().is_open());
    sandbox.start_ovsdb().unwrap();
    assert!(
        sandbox
            .vsctl(["list-ports", "lab"])
            .unwrap()
            .lines()
            .eq(["a", "b"])
    );
    assert!(
        sandbox.mgmt_socket("lab").exists() && sandbox.appctl(["version"]).unwrap().contains("Open vSwitch")
    );
    sandbox.remove_endpoint("b").unwrap();
    assert_eq!(sandbox.ofport("b").unwrap(), None);
    assert!(b.capture().is_err(), "the namespace is gone");
}

#[test]
fn thousands_of_dummy_ports() {
    if !need_root("thousands_of_dummy_ports") {
        return;
    }
    let sandbox = Sandbox::start(SandboxOptions {
        dummy: true,
        ..passing()
    })
    .unwrap();
    sandbox.add_dummy_ports(1..=2_000).unwrap();
    assert!(sandbox.ofport("dummy1").unwrap().is_some() && sandbox.ofport("dummy2000").unwrap().is_some());
}

/// What this machine shows of the sandbox with `id`: namespaces, links, processes, files.
fn traces(id: &str, dir: &Path) -> Vec<String> {
    let mut traces = Vec::new();
    let prefix = format!("pc{id}-");
    for entry in fs::read_dir("/run/netns")
        .into_iter()
        .flatten()
        .chain(fs::read_dir("/sys/class/net").unwrap())
    {
        let name = entry.unwrap().file_name().into_string().unwrap();
        if name.starts_with(&prefix) {
            traces.push(name);
        }
    }
    for entry in fs::read_dir("/proc").unwrap() {
        let command = fs::read(entry.unwrap().path().join("cmdline")).unwrap_or_default();
        let command = String::from_utf8_lossy(&command).replace('\0', " ");
        if command.contains(&*dir.to_string_lossy()) {
            traces.push(command);
        }
    }
    let places = [dir.to_owned(), PathBuf::from("/run/portcullis-sandbox").join(id)];
    traces.extend(
        places
            .iter()
            .filter(|place| place.exists())
            .map(|place| place.display().to_string()),
    );
    traces
}

/// Hugepages of the machine but for those that sandboxes (of other processes too) added for their time.
fn hugepages_without_sandboxes() -> u64 {
    let count = |path: &str| fs::read_to_string(path).map_or(0, |text| text.trim().parse::<u64>().unwrap());
    fs::create_dir_all("/run/portcullis-sandbox").unwrap();
    let lock = fs::File::create("/run/portcullis-sandbox/lock").unwrap();
    lock.lock().unwrap();
    let pool = "/sys/kernel/mm/hugepages/hugepages-2048kB";
    count(&format!("{pool}/nr_hugepages"))
        - count(&format!("{pool}/surplus_hugepages"))
        - count("/run/portcullis-sandbox/extra")
}

fn conf(dir: &Path, key: &str) -> String {
    let conf = fs::read_to_string(dir.join("sandbox.conf")).unwrap();
    let line = conf
        .lines()
        .find_map(|line| line.strip_prefix(&format!("{key}=")))
        .map(str::to_owned);
    line.unwrap()
}

fn eventually_gone(id: &str, dir: &Path) {
    let end = Instant::now() + Duration::from_secs(20);
    while !traces(id, dir).is_empty() {
        assert!(Instant::now() < end, "left behind: {:#?}", traces(id, dir));
        thread::sleep(Duration::from_millis(50));
    }
}

const SCRIPT: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../../hack/sandbox");

/// A process that is killed when the test ends, however it ends.
struct Owner(std::process::Child);

impl Owner {
    fn start() -> Self {
        let process = Command::new("sleep").arg("1000").stdin(Stdio::null()).spawn();
        Owner(process.unwrap())
    }

    fn kill(&mut self) {
        self.0.kill().unwrap(); // SIGKILL
        self.0.wait().unwrap();
    }
}

impl Drop for Owner {
    fn drop(&mut self) {
        let _gone = self.0.kill();
        let _gone = self.0.wait();
    }
}

#[test]
fn a_killed_owner_leaves_nothing_behind() {
    if !need_root("a_killed_owner_leaves_nothing_behind") {
        return;
    }
    let pages = hugepages_without_sandboxes();
    let mut owner = Owner::start();
    let scratch = tempfile::tempdir_in("/tmp").unwrap();
    let dir = scratch.path().join("s");
    let run = |arguments: &[&str]| {
        let done = Command::new(SCRIPT)
            .arg(arguments[0])
            .arg(&dir)
            .args(&arguments[1..])
            .status()
            .unwrap();
        assert!(done.success(), "{arguments:?}");
    };
    run(&["up", "--owner", &owner.0.id().to_string()]);
    run(&[
        "endpoint",
        "web1",
        "--mac",
        "02:00:00:00:00:01",
        "--addr",
        "192.0.2.1/24",
    ]);
    let id = conf(&dir, "id");
    assert!(
        traces(&id, &dir).len() >= 7,
        "the search finds what is there: {:#?}",
        traces(&id, &dir)
    );

    owner.kill();
    eventually_gone(&id, &dir);
    assert_eq!(hugepages_without_sandboxes(), pages);
}

#[test]
fn a_dropped_sandbox_leaves_nothing_behind_and_a_living_one_names_its_owner() {
    if !need_root("a_dropped_sandbox_leaves_nothing_behind_and_a_living_one_names_its_owner") {
        return;
    }
    let pages = hugepages_without_sandboxes();
    let first = Sandbox::start(passing()).unwrap();
    let second = Sandbox::start(passing()).unwrap();
    assert_eq!(conf(first.dir(), "owner"), std::process::id().to_string());
    let gone = [first.dir().to_owned(), second.dir().to_owned()].map(|dir| (conf(&dir, "id"), dir));
    drop(first);
    assert!(traces(&gone[0].0, &gone[0].1).is_empty());
    second.add_endpoint(EndpointSpec::numbered("a", 1)).unwrap();
    second.restart_vswitchd().unwrap();
    drop(second);
    assert!(traces(&gone[1].0, &gone[1].1).is_empty());
    assert_eq!(hugepages_without_sandboxes(), pages);
}

#[test]
fn what_a_killed_removal_left_the_death_of_the_owner_removes() {
    if !need_root("what_a_killed_removal_left_the_death_of_the_owner_removes") {
        return;
    }
    let pages = hugepages_without_sandboxes();
    let mut owner = Owner::start();
    let scratch = tempfile::tempdir_in("/tmp").unwrap();
    let dir = scratch.path().join("s");
    let mut up = Command::new(SCRIPT);
    up.arg("up")
        .arg(&dir)
        .arg("--owner")
        .arg(owner.0.id().to_string());
    assert!(up.status().unwrap().success());
    let id = conf(&dir, "id");
    let switch = fs::read_to_string(dir.join("ovs-vswitchd.pid")).unwrap();
    let switch = PathBuf::from("/proc").join(switch.trim());

    let mut down = Owner(Command::new(SCRIPT).arg("down").arg(&dir).spawn().unwrap());
    let end = Instant::now() + SOON;
    while switch.join("exe").exists() {
        assert!(Instant::now() < end, "`down` does not end the switch");
        thread::sleep(Duration::from_millis(1));
    }
    down.kill();
    assert!(!traces(&id, &dir).is_empty(), "`down` was killed too late");
    owner.kill();
    eventually_gone(&id, &dir);
    assert_eq!(hugepages_without_sandboxes(), pages);
}

/// Maps 128 hugepages, says so, and keeps them until its input ends.
const HOLDER: &str = "
import mmap, sys
huge = 0x40000  # MAP_HUGETLB
held = mmap.mmap(-1, 128 << 21, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | huge)
for page in range(128):
    held[page << 21] = 1
print('held', flush=True)
sys.stdin.read()
";

#[test]
fn hugepages_that_a_switch_is_slow_to_give_back_are_not_waited_for() {
    if !need_root("hugepages_that_a_switch_is_slow_to_give_back_are_not_waited_for") {
        return;
    }
    let pages = hugepages_without_sandboxes();
    let pool = "/sys/devices/system/node/node0/hugepages/hugepages-2048kB/nr_hugepages";
    let before: u64 = fs::read_to_string(pool).unwrap().trim().parse().unwrap();
    fs::write(pool, (before + 128).to_string()).unwrap();
    let mut command = Command::new("python3");
    command
        .args(["-c", HOLDER])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped());
    let mut holder = Owner(command.spawn().unwrap());
    let mut line = String::new();
    BufReader::new(holder.0.stdout.take().unwrap())
        .read_line(&mut line)
        .unwrap();
    // Taken out of the pool while they are in use, as by the removal of a sandbox whose switch is slow to die.
    fs::write(pool, before.to_string()).unwrap();
    assert_eq!(line, "held\n");

    let sandbox = Sandbox::start(passing());
    drop(sandbox.unwrap());
    holder.kill();
    assert_eq!(hugepages_without_sandboxes(), pages);
}
