//! A private ovsdb-server in a temporary folder, and a client that drives a session against it.
#![allow(dead_code)] // each test binary uses its own part

pub mod transcript;

use std::io::{ErrorKind, Read, Write};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use portcullis_ovsdb::{Event, Session, SessionConfig, SessionError, Switch};
use serde_json::{Value, json};

use transcript::{Line, Transcript};

const PATIENCE: Duration = Duration::from_secs(20);
const SCHEMA: &str = "/usr/share/openvswitch/vswitch.ovsschema";

/// A server of its own, stopped when dropped.
pub struct Server {
    folder: tempfile::TempDir,
    child: Option<Child>,
}

impl Server {
    /// A server with an empty stand-alone database.
    pub fn start() -> Self {
        Self::create(&["create", "conf.db", SCHEMA])
    }

    /// A server with an empty database in a cluster of one, which remembers its transactions.
    pub fn start_clustered() -> Self {
        Self::create(&["create-cluster", "conf.db", SCHEMA, "unix:raft.sock"])
    }

    fn create(tool_arguments: &[&str]) -> Self {
        let folder = tempfile::tempdir().expect("a temporary folder");
        run(in_folder(&mut Command::new("ovsdb-tool"), folder.path()).args(tool_arguments));
        let mut server = Self { folder, child: None };
        server.launch();
        server
    }

    /// Starts the server process on the database that is there.
    pub fn launch(&mut self) {
        let mut command = Command::new("ovsdb-server");
        command.args([
            "conf.db",
            "--remote=punix:db.sock",
            "--unixctl=ctl",
            "--log-file=log",
        ]);
        in_folder(&mut command, self.path())
            .stderr(Stdio::null())
            .stdout(Stdio::null());
        self.child = Some(
            command
                .spawn()
                .unwrap_or_else(|error| missing("ovsdb-server", &error)),
        );
        self.wait_until_serving();
    }

    /// A cluster of one serves its database only after it has elected itself.
    fn wait_until_serving(&self) {
        let deadline = Instant::now() + PATIENCE;
        let mut client = Command::new("ovsdb-client");
        client.args(["--timeout=1", "get-schema", &self.remote(), "Open_vSwitch"]);
        client.stdout(Stdio::null()).stderr(Stdio::null());
        while !client.status().is_ok_and(|status| status.success()) {
            let log = || std::fs::read_to_string(self.path().join("log")).unwrap_or_default();
            assert!(Instant::now() < deadline, "ovsdb-server did not start: {}", log());
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    /// Kills the server process.
    pub fn kill(&mut self) {
        if let Some(mut child) = self.child.take() {
            child.kill().expect("killing ovsdb-server");
            child.wait().expect("waiting for ovsdb-server");
        }
        let _ = std::fs::remove_file(self.path().join("db.sock"));
    }

    pub fn path(&self) -> &Path {
        self.folder.path()
    }

    pub fn socket(&self) -> PathBuf {
        self.path().join("db.sock")
    }

    fn remote(&self) -> String {
        format!("unix:{}", self.socket().display())
    }

    /// Runs `ovs-vsctl` on this server, without waiting for a daemon.
    pub fn vsctl(&self, arguments: &str) -> String {
        let mut command = Command::new("ovs-vsctl");
        command
            .arg(format!("--db={}", self.remote()))
            .args(["--no-wait", "--timeout=20"])
            .args(arguments.split_whitespace());
        run(&mut command)
    }

    /// Runs a command of the server's own control socket.
    pub fn control(&self, command: &str) {
        run(Command::new("ovs-appctl")
            .arg("-t")
            .arg(self.path().join("ctl"))
            .arg(command));
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.kill();
    }
}

/// A switch daemon with dummy ports on a private server, stopped when dropped.
pub struct Daemon(Child);

impl Daemon {
    pub fn start(server: &Server) -> Self {
        let mut command = Command::new("ovs-vswitchd");
        command.args([
            "unix:db.sock",
            "--enable-dummy",
            "--disable-system",
            "--unixctl=switch.ctl",
            "--log-file=switch.log",
        ]);
        in_folder(&mut command, server.path())
            .stderr(Stdio::null())
            .stdout(Stdio::null());
        Self(
            command
                .spawn()
                .unwrap_or_else(|error| missing("ovs-vswitchd", &error)),
        )
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        self.0.kill().expect("killing ovs-vswitchd");
        self.0.wait().expect("waiting for ovs-vswitchd");
    }
}

/// Keeps a program's sockets, logs and databases in one folder.
fn in_folder<'a>(command: &'a mut Command, folder: &Path) -> &'a mut Command {
    for variable in ["OVS_RUNDIR", "OVS_LOGDIR", "OVS_DBDIR"] {
        command.env(variable, folder);
    }
    command.current_dir(folder)
}

fn missing(program: &str, error: &std::io::Error) -> ! {
    panic!("cannot run {program} ({error}); install the package openvswitch-switch")
}

/// Runs a command to its end and gives its output.
pub fn run(command: &mut Command) -> String {
    let program = command.get_program().to_string_lossy().into_owned();
    let output = command.output().unwrap_or_else(|error| missing(&program, &error));
    assert!(
        output.status.success(),
        "{command:?}: {}",
        String::from_utf8_lossy(&output.stderr)
    );
    String::from_utf8(output.stdout).expect("output in UTF-8")
}

/// Which method the client lets the session use.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Newest {
    Since,
    Cond,
}

/// A session with a socket.
pub struct Client {
    pub session: Session,
    pub events: Vec<Event>,
    pub transcript: Transcript,
    newest: Newest,
    stream: Option<UnixStream>,
    started: Instant,
}

impl Client {
    pub fn new(newest: Newest) -> Self {
        Self::with(newest, SessionConfig::default())
    }

    pub fn with(newest: Newest, config: SessionConfig) -> Self {
        Self {
            session: Session::new(config),
            events: Vec::new(),
            transcript: Transcript::default(),
            newest,
            stream: None,
            started: Instant::now(),
        }
    }

    pub fn now(&self) -> Duration {
        self.started.elapsed()
    }

    pub fn connect(&mut self, server: &Server) {
        let stream = UnixStream::connect(server.socket()).expect("connecting to ovsdb-server");
        stream
            .set_read_timeout(Some(Duration::from_millis(20)))
            .expect("a read timeout");
        self.stream = Some(stream);
        self.session.connected(self.now());
        self.transcript.push(Line::Connected);
    }

    pub fn disconnect(&mut self) {
        self.stream = None;
        self.session.disconnected(self.now());
        self.transcript.push(Line::Disconnected);
    }

    pub fn switch(&self) -> &Switch {
        self.session.switch().expect("a switch")
    }

    /// Exchanges bytes until the condition holds.
    pub fn until(&mut self, what: &str, holds: impl Fn(&Self) -> bool) {
        let deadline = Instant::now() + PATIENCE;
        while !holds(self) {
            assert!(Instant::now() < deadline, "waited too long for {what}");
            self.step()
                .unwrap_or_else(|error| panic!("while waiting for {what}: {error:?}"));
        }
    }

    /// Sends what there is to send, and takes one read's worth.
    pub fn step(&mut self) -> Result<(), SessionError> {
        let output = self.session.take_output();
        self.send(&output)?;
        let mut buffer = [0; 65536];
        let stream = self.stream.as_mut().expect("a connection");
        match stream.read(&mut buffer) {
            Ok(0) => panic!("the server closed the connection"),
            Ok(length) => self.receive(&buffer[..length]),
            Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => Ok(()),
            Err(error) => panic!("reading from ovsdb-server: {error}"),
        }
    }

    fn receive(&mut self, bytes: &[u8]) -> Result<(), SessionError> {
        self.transcript.received(bytes);
        let events = self.session.received(bytes, self.now())?;
        self.events.extend(events);
        Ok(())
    }

    /// Plays an older server where the real one is too new: answers `monitor_cond_since` itself.
    fn send(&mut self, output: &[u8]) -> Result<(), SessionError> {
        let messages = serde_json::Deserializer::from_slice(output).into_iter::<Value>();
        for message in messages.map(|message| message.expect("the session sends JSON")) {
            self.transcript.push(Line::Sent(message.clone()));
            if self.newest == Newest::Cond && message["method"] == "monitor_cond_since" {
                let refusal = json!({"id": message["id"], "error": "unknown method"});
                self.receive(refusal.to_string().as_bytes())?;
                let output = self.session.take_output();
                self.send(&output)?;
                continue;
            }
            let stream = self.stream.as_mut().expect("a connection");
            stream
                .write_all(message.to_string().as_bytes())
                .expect("writing to ovsdb-server");
        }
        Ok(())
    }
}
