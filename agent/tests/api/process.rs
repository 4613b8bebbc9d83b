//! The real program: killed, stopped, misconfigured.

use std::io::{BufRead, BufReader, Read};
use std::os::unix::net::UnixDatagram;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use portcullis_proto::v1;

use crate::api::support::*;

pub const PROGRAM: &str = env!("CARGO_BIN_EXE_portcullis");

/// A running agent; killed when it is dropped.
pub struct Process {
    pub child: Child,
}

impl Drop for Process {
    fn drop(&mut self) {
        // It may have ended already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Process {
    pub fn start(config: &Path, environment: &[(&str, &str)]) -> Self {
        let mut command = Command::new(PROGRAM);
        command
            .args(["agent", "--config"])
            .arg(config)
            .envs(environment.iter().copied());
        let child = command
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        Process { child }
    }

    pub fn signal(&self, name: &str) {
        let pid = self.child.id().to_string();
        assert!(
            Command::new("kill")
                .args([&format!("-{name}"), &pid])
                .status()
                .unwrap()
                .success()
        );
    }

    pub async fn ended(&mut self, limit: Duration) -> ExitStatus {
        let began = Instant::now();
        loop {
            if let Some(status) = self.child.try_wait().unwrap() {
                return status;
            }
            assert!(began.elapsed() < limit, "still there after {limit:?}");
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }

    pub fn log(&mut self) -> String {
        let mut text = String::new();
        self.child
            .stderr
            .take()
            .unwrap()
            .read_to_string(&mut text)
            .unwrap();
        text
    }
}

pub fn write_config(folder: &Path, more: &str) -> PathBuf {
    let file = folder.join("agent.toml");
    let at = folder.display();
    // A datapath that is not there.
    let text = format!(
        "[audit]\nfree_disk_mib = 0\n[store]\npath = \"{at}/p.db\"\n[[target]]\nname = \"ovs\"\nkind = \"ovs\"\novsdb = \"unix:{at}/db.sock\"\n{more}\n[api]\nsocket = \"{at}/agent.sock\"\n"
    );
    std::fs::write(&file, text).unwrap();
    file
}

/// Changes until the agent dies; how many were acknowledged in all.
async fn change_until_death(mut client: Client, mut acknowledged: u64) -> u64 {
    while client
        .provision(endpoint("e", (acknowledged % 200) as u8))
        .await
        .is_ok()
    {
        acknowledged += 1;
    }
    acknowledged
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_acknowledged_survives_kill_9() {
    let folder = tempfile::tempdir().unwrap();
    let config = write_config(folder.path(), "");
    let mut acknowledged = 0;
    let mut random: u64 = std::process::id().into();
    for round in 0..12 {
        let mut process = Process::start(&config, &[]);
        let mut client = Client::unix(&folder.path().join("agent.sock")).await;
        let document = client.document().await;
        // The last change may have been made without its answer arriving.
        assert!(
            (acknowledged..=acknowledged + 1).contains(&document.generation),
            "round {round}: {document:?}"
        );
        acknowledged = document.generation;
        if let Some(last) = acknowledged.checked_sub(1) {
            let e = client.endpoint("e").await.unwrap();
            assert_eq!(e.macs, endpoint("e", (last % 200) as u8).macs, "round {round}");
            assert_eq!(e.etag, format!("r{acknowledged}"));
        }
        let changes = tokio::spawn(change_until_death(client, acknowledged));
        random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        tokio::time::sleep(Duration::from_millis(20 + (random >> 33) % 120)).await;
        process.child.kill().unwrap();
        process.child.wait().unwrap();
        acknowledged = changes.await.unwrap();
    }
    assert!(acknowledged > 12, "hardly any change was made: {acknowledged}");
    // Every generation is in the history, each once.
    let _process = Process::start(&config, &[]);
    let mut client = Client::unix(&folder.path().join("agent.sock")).await;
    let newest = client.document().await.generation;
    let request = v1::WatchRequest {
        after_generation: 0,
        from_now: false,
    };
    let mut stream = client.targets.watch(request).await.unwrap().into_inner();
    for expected in 1..=newest {
        assert_eq!(stream.message().await.unwrap().unwrap().generation, expected);
    }
}

#[tokio::test]
async fn sigterm_drains_and_the_manager_is_told() {
    let folder = tempfile::tempdir().unwrap();
    let manager = UnixDatagram::bind(folder.path().join("notify")).unwrap();
    manager.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
    let told = |part: &str| {
        let mut buffer = [0u8; 4096];
        loop {
            let length = manager.recv(&mut buffer).expect("the manager was not told");
            let text = String::from_utf8_lossy(&buffer[..length]).into_owned();
            if text.contains(part) {
                return text;
            }
        }
    };
    let config = write_config(folder.path(), "[log]\nformat = \"json\"");
    let notify = folder.path().join("notify").display().to_string();
    let mut process = Process::start(
        &config,
        &[("NOTIFY_SOCKET", &notify), ("WATCHDOG_USEC", "300000")],
    );
    assert!(told("READY=1").contains("STATUS=generation 0"));
    told("WATCHDOG=1");
    let mut client = Client::unix(&folder.path().join("agent.sock")).await;
    client.apply(DOCUMENT).await.unwrap();
    // A call that would go on for ten minutes, and a stream without an end.
    let mut waiter = client.clone();
    let waiting = tokio::spawn(async move {
        waiter
            .targets
            .wait_realized(v1::WaitRealizedRequest {
                generation: 0,
                timeout_ms: 600_000,
            })
            .await
    });
    let mut stream = client
        .targets
        .watch(v1::WatchRequest {
            after_generation: 1,
            from_now: false,
        })
        .await
        .unwrap()
        .into_inner();
    tokio::time::sleep(Duration::from_millis(100)).await;
    process.signal("TERM");
    let status = process.ended(Duration::from_secs(8)).await;
    assert_eq!(status.code(), Some(0));
    told("STOPPING=1");
    assert!(waiting.await.unwrap().is_err());
    while let Ok(Some(_)) = stream.message().await {}
    assert!(!folder.path().join("agent.sock").exists());
    assert!(
        !folder.path().join("p.db-wal").exists(),
        "the store was not closed"
    );
    let log = process.log();
    assert!(log.contains("the rows on the targets stay"), "{log}");
    for line in log.lines() {
        serde_json::from_str::<serde_json::Value>(line).unwrap_or_else(|e| panic!("{e}: {line}"));
    }
}

#[tokio::test]
async fn metrics_are_served() {
    let folder = tempfile::tempdir().unwrap();
    let port = std::net::TcpListener::bind("127.0.0.1:0")
        .unwrap()
        .local_addr()
        .unwrap()
        .port();
    let config = write_config(
        folder.path(),
        &format!("[metrics]\nlisten = \"127.0.0.1:{port}\""),
    );
    let _process = Process::start(&config, &[]);
    let mut client = Client::unix(&folder.path().join("agent.sock")).await;
    client.apply(DOCUMENT).await.unwrap();
    client.endpoint("none").await.unwrap_err();
    let began = Instant::now();
    let text = loop {
        let text = scrape(port);
        if text.contains("portcullis_generation 1") {
            break text;
        }
        assert!(began.elapsed() < Duration::from_secs(15), "{text}");
        tokio::time::sleep(Duration::from_millis(200)).await;
    };
    for line in [
        "portcullis_api_calls_total{method=\"portcullis.v1.PolicyService/ApplyDocument\",code=\"Ok\"} 1",
        "portcullis_api_calls_total{method=\"portcullis.v1.EndpointService/GetEndpoint\",code=\"NotFound\"} 1",
        "portcullis_target_state{target=\"ovs\",state=\"Disconnected\"} 1",
        "portcullis_target_generation_applied{target=\"ovs\"} 0",
        "portcullis_store_commit_seconds_count 1",
        "portcullis_resources{kind=\"endpoints\"} 2",
    ] {
        assert!(text.contains(line), "{line}\n{text}");
    }
    let reference = Command::new(PROGRAM)
        .args(["agent", "--print-metrics"])
        .output()
        .unwrap();
    let reference = String::from_utf8(reference.stdout).unwrap();
    for name in text
        .lines()
        .filter_map(|line| line.strip_prefix("# TYPE ")?.split(' ').next())
    {
        assert!(
            reference.contains(&format!("| `{name}` |")),
            "{name} is not in the reference"
        );
    }
}

fn scrape(port: u16) -> String {
    use std::io::Write;
    let mut stream = std::net::TcpStream::connect(("127.0.0.1", port)).unwrap();
    stream
        .write_all(b"GET /metrics HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
        .unwrap();
    let mut text = String::new();
    stream.read_to_string(&mut text).unwrap();
    text
}

#[test]
fn the_configuration_is_checked_before_anything_starts() {
    let folder = tempfile::tempdir().unwrap();
    let run = |config: &Path, more: &[&str]| {
        let output = Command::new(PROGRAM)
            .args(["agent", "--config"])
            .arg(config)
            .args(more)
            .output()
            .unwrap();
        (output.status.code(), String::from_utf8(output.stderr).unwrap())
    };
    let (code, text) = run(&folder.path().join("none.toml"), &[]);
    assert!(
        code == Some(2) && text.contains("cannot read the configuration"),
        "{code:?} {text}"
    );
    let file = folder.path().join("agent.toml");
    std::fs::write(&file, "[api]\nsockt = \"x\"\n").unwrap();
    let (code, text) = run(&file, &[]);
    let expected = format!(
        "portcullis: {}:2: api.sockt: unknown field `sockt`",
        file.display()
    );
    assert!(code == Some(2) && text.starts_with(&expected), "{code:?} {text}");

    let printed = Command::new(PROGRAM)
        .args(["agent", "--print-default-config"])
        .output()
        .unwrap()
        .stdout;
    let shipped = Path::new(env!("CARGO_MANIFEST_DIR")).join("config/agent.toml");
    assert_eq!(printed, std::fs::read(&shipped).unwrap());
    assert_eq!(run(&shipped, &["--check"]), (Some(0), String::new()));

    // Files that it names are read.
    let mapping = folder.path().join("tor.toml");
    let target = format!(
        "[[target]]\nname = \"tor\"\nkind = \"p4runtime\"\naddress = \"127.0.0.1:1\"\nprogram = \"device\"\nmapping = {mapping:?}\n"
    );
    std::fs::write(&file, &target).unwrap();
    let refused = |expected: &str| {
        let (code, text) = run(&file, &["--check"]);
        let begins = format!("portcullis: {}: ", file.display());
        assert!(
            code == Some(2) && text.starts_with(&begins) && text.contains(expected),
            "{expected}: {code:?} {text}"
        );
    };
    refused("target tor: cannot read the mapping");
    std::fs::write(&mapping, "[[table]]\ntable = \"acl\"\nstage = \"polcy\"\n").unwrap();
    refused("unknown variant `polcy`");
    std::fs::write(&mapping, "").unwrap();
    assert_eq!(run(&file, &["--check"]), (Some(0), String::new()));
    let certificate = folder.path().join("none.pem");
    std::fs::write(&file, format!("{target}tls = {{ ca = {certificate:?} }}\n")).unwrap();
    refused("target tor: cannot read");
    let tls = format!(
        "[api]\nlisten = \"127.0.0.1:0\"\n[api.tls]\ncert = {certificate:?}\nkey = {certificate:?}\n"
    );
    std::fs::write(&file, tls).unwrap();
    refused("none.pem");
}

#[tokio::test]
async fn an_agent_with_a_damaged_database_starts_and_says_so() {
    let folder = tempfile::tempdir().unwrap();
    let config = write_config(folder.path(), "");
    std::fs::write(folder.path().join("p.db"), "x".repeat(5000)).unwrap();
    let mut process = Process::start(&config, &[]);
    let mut client = Client::unix(&folder.path().join("agent.sock")).await;
    let status = client
        .targets
        .list_targets(v1::ListTargetsRequest {})
        .await
        .unwrap();
    let store = status.into_inner().store.unwrap();
    assert!(
        store.unusable
            && store.problem.contains("is damaged")
            && store.problem.contains("portcullis database restore"),
        "{store:?}"
    );
    process.signal("TERM");
    process.ended(Duration::from_secs(8)).await;
    let text = process.log();
    assert!(
        text.contains("the agent runs without its database") && text.contains("is damaged"),
        "{text}"
    );
}

#[test]
fn what_cannot_start_says_why() {
    let folder = tempfile::tempdir().unwrap();
    let config = write_config(folder.path(), "");
    // A folder where the database belongs.
    std::fs::create_dir(folder.path().join("p.db")).unwrap();
    let output = Command::new(PROGRAM)
        .args(["agent", "--config"])
        .arg(&config)
        .output()
        .unwrap();
    let text = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(1), "{text}");
    assert!(
        text.contains("the policy cannot be loaded: cannot use the database"),
        "{text}"
    );
}

#[tokio::test]
async fn what_is_there_and_what_is_not_is_one_line() {
    let folder = tempfile::tempdir().unwrap();
    let config = write_config(folder.path(), "");
    let text = std::fs::read_to_string(&config).unwrap();
    let without: String = {
        let (head, rest) = text.split_once("[[target]]").unwrap();
        format!("{head}{}", &rest[rest.find("[api]").unwrap()..])
    };
    std::fs::write(&config, without).unwrap();
    let mut process = Process::start(&config, &[]);
    let log = BufReader::new(process.child.stderr.take().unwrap());
    let line = log
        .lines()
        .map(Result::unwrap)
        .find(|line| line.contains("no datapath") || line.contains("the target is chosen"))
        .unwrap();
    assert!(
        line.contains("a policy is applied") || line.contains("no policy was applied yet"),
        "{line}"
    );
}
