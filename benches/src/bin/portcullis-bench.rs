//! `portcullis-bench`: figures of the whole, on a real and private Open vSwitch with DPDK.

use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use clap::{Args, Parser, Subcommand};
use portcullis_benches::report::Report;
use portcullis_benches::{BenchError, bulk, change, restart};

/// Measures Portcullis on a private Open vSwitch with DPDK that it starts and removes. Needs root.
#[derive(Debug, Parser)]
#[command(version)]
struct CommandLine {
    /// Write machine and figures to this file, too.
    #[arg(long, global = true, value_name = "FILE")]
    json: Option<PathBuf>,
    /// The program that is measured; the one beside this program by default.
    #[arg(long, global = true, value_name = "PROGRAM")]
    agent: Option<PathBuf>,
    #[command(subcommand)]
    what: What,
}

#[derive(Debug, Subcommand)]
enum What {
    /// Programming an empty bridge, against `ovs-ofctl --bundle add-flows` of the same flows.
    Bulk(Bulk),
    /// One endpoint's change, until the switch holds it.
    Change(Change),
    /// The agent restarted with nothing changed, until it is in sync.
    Restart(Restart),
    /// All of them.
    All(All),
}

#[derive(Debug, Args)]
struct Bulk {
    /// At least so many rows.
    #[arg(long, default_value_t = 50_000)]
    rows: usize,
    /// Measured rounds of each of the two.
    #[arg(long, default_value_t = 6)]
    rounds: usize,
}

#[derive(Debug, Args)]
struct Change {
    /// Endpoints in the document.
    #[arg(long, default_value_t = 1_000)]
    endpoints: u32,
    /// Endpoints on a port of this switch; all by default.
    #[arg(long)]
    attached: Option<u32>,
    /// Changes measured at each of the two levels.
    #[arg(long, default_value_t = 500)]
    changes: u64,
    /// Milliseconds between changes.
    #[arg(long, default_value_t = 10)]
    pause: u64,
}

#[derive(Debug, Args)]
struct Restart {
    /// Endpoints in the document.
    #[arg(long, default_value_t = 10_000)]
    endpoints: u32,
    /// Endpoints on a port.
    #[arg(long, default_value_t = 2_000)]
    attached: u32,
    /// Restarts.
    #[arg(long, default_value_t = 6)]
    rounds: usize,
}

#[derive(Debug, Args)]
struct All {
    /// A tenth of everything: to see that it works.
    #[arg(long)]
    small: bool,
}

impl From<Bulk> for bulk::Options {
    fn from(arguments: Bulk) -> Self {
        let Bulk { rows, rounds } = arguments;
        bulk::Options { rows, rounds }
    }
}

impl From<Change> for change::Options {
    fn from(arguments: Change) -> Self {
        change::Options {
            endpoints: arguments.endpoints,
            attached: arguments.attached.unwrap_or(arguments.endpoints),
            changes: arguments.changes,
            pause: Duration::from_millis(arguments.pause),
        }
    }
}

impl From<Restart> for restart::Options {
    fn from(arguments: Restart) -> Self {
        restart::Options {
            endpoints: arguments.endpoints,
            attached: arguments.attached,
            rounds: arguments.rounds,
        }
    }
}

impl All {
    /// What is measured: `bulk`, `change` with every endpoint on a port and with a tenth of them, `restart`.
    fn parts(&self) -> (Bulk, [Change; 2], Restart) {
        let (by, rounds) = if self.small { (10, 2) } else { (1, 6) };
        let change = |attached| Change {
            endpoints: 1_000 / by,
            attached: Some(attached / by),
            changes: u64::from(500 / by),
            pause: 10,
        };
        (
            Bulk {
                rows: 50_000 / by as usize,
                rounds,
            },
            [change(1_000), change(100)],
            Restart {
                endpoints: 10_000 / by,
                attached: 2_000 / by,
                rounds,
            },
        )
    }
}

fn main() -> ExitCode {
    let arguments = CommandLine::parse();
    if let Some(lacking) = portcullis_testbed::missing_for_real_switch() {
        eprintln!("portcullis-bench: {lacking}");
        return ExitCode::from(2);
    }
    match measure(arguments) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("portcullis-bench: {}", chain(&error));
            ExitCode::FAILURE
        }
    }
}

fn measure(arguments: CommandLine) -> Result<(), BenchError> {
    let agent = arguments.agent.map_or_else(beside, Ok)?;
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .map_err(|source| BenchError::Io {
            what: "start threads".to_string(),
            source,
        })?;
    let mut report = Report::begin();
    println!("== machine");
    for (name, value) in report.machine.facts() {
        println!("   {name:<18} {value}");
    }
    runtime.block_on(async {
        match arguments.what {
            What::Bulk(bulk) => report.add(bulk::run(bulk.into()).await?),
            What::Change(change) => changes(change, &agent, &mut report).await?,
            What::Restart(restart) => report.add(restart::run(restart.into(), &agent).await?),
            What::All(all) => {
                let (bulk, change, restart) = all.parts();
                report.add(bulk::run(bulk.into()).await?);
                for change in change {
                    changes(change, &agent, &mut report).await?;
                }
                report.add(restart::run(restart.into(), &agent).await?);
            }
        }
        Ok::<(), BenchError>(())
    })?;
    println!("\nload averages at the end: {}", report.load_at_the_end);
    if let Some(file) = arguments.json {
        let text = serde_json::to_string_pretty(&report)?;
        std::fs::write(&file, text).map_err(|source| BenchError::Io {
            what: format!("write {}", file.display()),
            source,
        })?;
    }
    Ok(())
}

async fn changes(arguments: Change, agent: &Path, report: &mut Report) -> Result<(), BenchError> {
    for section in change::run(arguments.into(), agent).await? {
        report.add(section);
    }
    Ok(())
}

/// The agent's program in the folder of this one.
fn beside() -> Result<PathBuf, BenchError> {
    let me = std::env::current_exe().map_err(|source| BenchError::Io {
        what: "find this program".to_string(),
        source,
    })?;
    Ok(me.with_file_name("portcullis"))
}

/// An error with its causes, in one line.
fn chain(error: &dyn std::error::Error) -> String {
    let causes = std::iter::successors(error.source(), |e| e.source());
    causes.fold(error.to_string(), |text, cause| format!("{text}: {cause}"))
}
