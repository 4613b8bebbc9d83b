//! `dpdk-testpmd`, which swaps MACs and looks at nothing else: what the devices can do.

use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::mpsc::{Receiver, channel};
use std::time::Duration;

use super::Contender;
use super::process::Process;
use crate::report::median;
use crate::{BenchError, Result};

const PROGRAM: &str = "dpdk-testpmd";
/// It shows its figures every second; nothing that is waited for takes longer.
const PATIENCE: Duration = Duration::from_secs(20);

pub struct Testpmd {
    process: Process,
    /// Frames per second that all ports sent, each second.
    rates: Receiver<f64>,
}

impl Testpmd {
    /// Starts it, with a sink for each file.
    pub fn start(files: &[PathBuf], buffers: u32, cores: [usize; 2], log: &Path) -> Result<Testpmd> {
        let [main, forwards] = cores;
        let megabytes = super::megabytes(buffers);
        let mut arguments: Vec<String> = [
            "-l",
            &format!("{main},{forwards}"),
            "--main-lcore",
            &main.to_string(),
        ]
        .map(str::to_string)
        .into();
        arguments.extend(
            [
                "--no-huge",
                "-m",
                &megabytes.to_string(),
                "--no-pci",
                "--no-shconf",
                "--no-telemetry",
            ]
            .map(str::to_string),
        );
        for (n, file) in files.iter().enumerate() {
            arguments.push(format!(
                "--vdev=net_pcap{n},rx_pcap={},infinite_rx=1",
                file.display()
            ));
            arguments.push(format!("--vdev=net_null{n},no-rx=1"));
        }
        arguments.extend(
            [
                "--",
                "--forward-mode=macswap",
                "--nb-cores=1",
                "--auto-start",
                "--stats-period=1",
                "--no-flush-rx",
            ]
            .map(str::to_string),
        );
        arguments.extend([
            "--no-lsc-interrupt".to_string(),
            "--no-mlockall".to_string(),
            format!("--total-num-mbufs={buffers}"),
        ]);
        let package = "Debian package dpdk-dev";
        let mut process = Process::start(Path::new(PROGRAM), &arguments, log, package, Stdio::piped())?;
        let Some(out) = process.child.stdout.take() else {
            return Err(BenchError::Untrue(format!("{PROGRAM} has no output")));
        };
        let (report, rates) = channel();
        let ports = files.len() * 2;
        std::thread::spawn(move || {
            let lines = BufReader::new(out)
                .split(b'\n')
                .map_while(std::result::Result::ok);
            let sent = lines.filter_map(|line| sent_per_second(&String::from_utf8_lossy(&line)));
            let mut shown = Vec::with_capacity(ports);
            for rate in sent {
                shown.push(rate);
                if shown.len() == ports {
                    let all: f64 = shown.drain(..).sum();
                    if report.send(all).is_err() {
                        break;
                    }
                }
            }
        });
        let mut testpmd = Testpmd { process, rates };
        testpmd.next()?;
        Ok(testpmd)
    }

    fn next(&mut self) -> Result<f64> {
        match self.rates.recv_timeout(PATIENCE) {
            Ok(rate) => Ok(rate),
            Err(_) => Err(self.process.failed("it shows no figures")),
        }
    }
}

fn sent_per_second(line: &str) -> Option<f64> {
    let rest = line.trim().strip_prefix("Tx-pps:")?;
    rest.split_whitespace().next()?.parse().ok()
}

impl Contender for Testpmd {
    fn name(&self) -> &'static str {
        "testpmd"
    }

    fn pid(&self) -> Result<u32> {
        Ok(self.process.child.id())
    }

    fn rate(&mut self, window: Duration) -> Result<f64> {
        while self.rates.try_recv().is_ok() {}
        // The first figure is about the time when it was stopped, too.
        self.next()?;
        let rates: Result<Vec<f64>> = (0..window.as_secs().max(1)).map(|_| self.next()).collect();
        Ok(median(&rates?))
    }
}
