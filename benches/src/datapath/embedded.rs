//! The embedded switch, programmed by the agent.

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::{Duration, Instant};

use super::process::Process;
use super::scene::{SINKS, SOURCES, Scene, TARGET};
use super::{Contender, Programmed, counted};
use crate::daemon::{Daemon, End, Place};
use crate::{BenchError, Result};

/// How long it may take until it serves metrics.
const PATIENCE: Duration = Duration::from_secs(30);

pub struct Embedded {
    process: Process,
    port: u16,
    /// Rows that the agent wrote, and how long it took.
    pub programmed: Programmed,
}

impl Embedded {
    /// Starts it, and programs it; the agent is gone then.
    pub async fn start(
        scene: Scene,
        files: &[PathBuf],
        core: usize,
        agent: &Path,
        folder: &Path,
    ) -> Result<Embedded> {
        let free = TcpListener::bind("127.0.0.1:0").and_then(|listener| listener.local_addr());
        let port = free.map_err(BenchError::io("find a free TCP port"))?.port();
        let socket = format!("unix:{}", folder.join("switch.sock").display());
        let mut arguments: Vec<String> = ["--grpc", &socket, "--cores", &core.to_string(), "--busy"]
            .map(str::to_string)
            .into();
        arguments.extend(["--mbufs".to_string(), scene.buffers().to_string()]);
        arguments.extend([
            "--memory-mb".to_string(),
            super::megabytes(scene.buffers()).to_string(),
        ]);
        arguments.extend(["--metrics".to_string(), format!("127.0.0.1:{port}")]);
        for (n, file) in (0..).zip(files) {
            arguments.push(format!(
                "--port={}=pcap:rx={},repeat",
                SOURCES + n,
                file.display()
            ));
            arguments.push(format!("--port={0}=device:net_null{0},no-rx=1", SINKS + n));
        }
        let program = agent.with_file_name("portcullis-switch");
        let how = "cargo build --release -p portcullis-switch";
        let process = Process::start(
            &program,
            &arguments,
            &folder.join("switch.log"),
            how,
            Stdio::null(),
        )?;
        let mut embedded = Embedded {
            process,
            port,
            programmed: Programmed::default(),
        };
        embedded.serving()?;
        let target = format!("name = \"{TARGET}\"\nkind = \"embedded\"\naddress = \"{socket}\"\n");
        embedded.programmed = program_by(agent, folder, &target, &scene.on_ports()?).await?;
        Ok(embedded)
    }

    fn serving(&mut self) -> Result<()> {
        let end = Instant::now() + PATIENCE;
        while self.sent().is_err() {
            if Instant::now() > end {
                return Err(self.process.failed("it serves no metrics"));
            }
            std::thread::sleep(Duration::from_millis(50));
        }
        Ok(())
    }

    /// Frames that it gave to sinks.
    fn sent(&self) -> Result<u64> {
        let ask = || {
            let mut stream = TcpStream::connect(("127.0.0.1", self.port))?;
            stream.write_all(b"GET /metrics HTTP/1.0\r\n\r\n")?;
            let mut text = String::new();
            stream.read_to_string(&mut text)?;
            let values: Vec<u64> = text.lines().filter_map(sent_to_sink).collect();
            if values.is_empty() {
                return Err(std::io::Error::other("there is no such counter"));
            }
            Ok(values.iter().sum())
        };
        ask().map_err(BenchError::io("read the switch's metrics"))
    }
}

fn sent_to_sink(line: &str) -> Option<u64> {
    let rest = line.strip_prefix("portcullis_switch_sent_packets_total{port=\"")?;
    let (port, value) = rest.split_once("\"} ")?;
    (port.parse::<u32>().ok()? >= SINKS).then(|| value.parse().ok())?
}

/// An agent that writes a document to one target, and ends.
pub async fn program_by(
    agent: &Path,
    folder: &Path,
    target: &str,
    document: &portcullis_policy::Document,
) -> Result<Programmed> {
    let place = Place::prepare(agent, folder, target)?;
    let mut daemon = Daemon::start(&place)?;
    let mut client = daemon.client().await?;
    let began = Instant::now();
    let generation = client.apply(document).await?;
    let target = client.realized(generation).await?;
    let took = began.elapsed();
    daemon.end(End::Term)?;
    Ok(Programmed {
        rows: target.rows_added,
        took,
    })
}

impl Contender for Embedded {
    fn name(&self) -> &'static str {
        "embedded"
    }

    fn pid(&self) -> Result<u32> {
        Ok(self.process.child.id())
    }

    fn rate(&mut self, window: Duration) -> Result<f64> {
        counted(window, || self.sent())
    }
}
