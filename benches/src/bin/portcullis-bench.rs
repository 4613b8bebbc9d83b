//! `portcullis-bench`: figures of the whole, on a real and private Open vSwitch with DPDK, and on P4Runtime devices.

use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use clap::{Args, Parser, Subcommand, ValueEnum};
use portcullis_benches::report::Report;
use portcullis_benches::{
    BenchError, bulk, change, datapath, fastpath, hostile, p4, packet, restart, unlocks,
};
use portcullis_policy::text::with_causes;

/// Measures Portcullis on a private Open vSwitch with DPDK that it starts and removes, for which it needs root; and on
/// P4Runtime devices.
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
    /// Rows per second on a P4Runtime device, against a plain Python client; and one endpoint's change there. Needs neither
    /// root nor Open vSwitch.
    P4(P4),
    /// Frames per second of the embedded switch, beside `dpdk-testpmd`, and beside Open vSwitch where that can be had.
    Datapath(Datapath),
    /// The embedded switch's fast path without devices: cycles, memory, one endpoint's change. Needs neither root nor Open
    /// vSwitch.
    Fastpath(Fastpath),
    /// Requests for unlocks, each durable before it is answered, and what many of them cost. Needs neither root nor Open
    /// vSwitch.
    Unlocks(Unlocks),
    /// From a request for an unlock to the first packet that passes, and from its release to the last one.
    Packet(Packet),
    /// One tenant at its limits on every call, beside others whose requests and leases are measured. Needs neither root nor Open
    /// vSwitch.
    Hostile(Hostile),
    /// Run all of them in turn.
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
    /// Pause between changes, in milliseconds.
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
    /// Restarts that are measured.
    #[arg(long, default_value_t = 6)]
    rounds: usize,
}

#[derive(Debug, Args)]
struct P4 {
    /// Endpoints whose policy rows are written.
    #[arg(long, default_value_t = 160)]
    endpoints: u32,
    /// Measured rounds of each client.
    #[arg(long, default_value_t = 6)]
    rounds: usize,
    /// Rows written to BMv2 at most.
    #[arg(long, default_value_t = 5_000)]
    bmv2_rows: usize,
    /// Endpoints on ports when changes are measured.
    #[arg(long, default_value_t = 1_000)]
    attached: u32,
    /// Changes that are measured.
    #[arg(long, default_value_t = 500)]
    changes: u64,
    /// Pause between changes, in milliseconds.
    #[arg(long, default_value_t = 10)]
    pause: u64,
}

#[derive(Debug, Args)]
struct Datapath {
    /// Endpoints of each case.
    #[arg(long, value_delimiter = ',', default_value = "1,1000,65000", value_parser = clap::value_parser!(u32).range(1..=65_000))]
    endpoints: Vec<u32>,
    /// Rounds of each program.
    #[arg(long, default_value_t = 5)]
    rounds: usize,
    /// Seconds of each round.
    #[arg(long, default_value_t = 1)]
    seconds: u64,
    /// Leave Open vSwitch out.
    #[arg(long)]
    without_ovs: bool,
    /// Draw the figures to this file, as SVG.
    #[arg(long, value_name = "FILE")]
    svg: Option<PathBuf>,
}

#[derive(Debug, Args)]
struct Fastpath {
    /// Rounds of each figure.
    #[arg(long, default_value_t = 9)]
    rounds: usize,
    /// Endpoints, when one of them changes.
    #[arg(long, default_value_t = 65_000, value_parser = clap::value_parser!(u32).range(1..=2_000_000))]
    endpoints: u32,
    /// Changes that are measured.
    #[arg(long, default_value_t = 2_000)]
    changes: usize,
}

#[derive(Debug, Args)]
struct Unlocks {
    /// Unlocks that become active.
    #[arg(long, default_value_t = 10_000)]
    active: u32,
    /// Unlocks that are stored in the end.
    #[arg(long, default_value_t = 100_000)]
    stored: u32,
    /// Requests under way at a time.
    #[arg(long, default_value_t = 128)]
    in_flight: u32,
}

#[derive(Debug, Args)]
struct Packet {
    /// Unlocks on each target.
    #[arg(long, default_value_t = 2_000)]
    unlocks: u32,
    /// Endpoints that are attached, on each target.
    #[arg(long, default_value_t = 1_000, value_parser = clap::value_parser!(u32).range(1..=4_000))]
    endpoints: u32,
    /// Microseconds between two packets: what the figures resolve.
    #[arg(long, default_value_t = 200)]
    pace: u64,
    /// What is measured: `ovs`, `embedded`, `bmv2`; by default all of them, BMv2 where it is on the PATH.
    #[arg(long, value_delimiter = ',', value_enum)]
    on: Vec<On>,
}

/// A kind of switch.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum On {
    Ovs,
    Embedded,
    Bmv2,
}

#[derive(Debug, Args)]
struct Hostile {
    /// Other tenants that use the agent meanwhile.
    #[arg(long, default_value_t = 20, value_parser = clap::value_parser!(u32).range(1..=40))]
    tenants: u32,
    /// Seconds of each of the two phases; a tenant's budget lasts for two of 55.
    #[arg(long, default_value_t = 30)]
    seconds: u64,
    /// Calls a second of the hostile tenant.
    #[arg(long, default_value_t = 1_000)]
    calls: u32,
}

#[derive(Debug, Args)]
struct All {
    /// A tenth of everything: to see that it works.
    #[arg(long)]
    small: bool,
    /// Draw the figures of the datapath to this file, as SVG.
    #[arg(long, value_name = "FILE")]
    svg: Option<PathBuf>,
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

impl From<Unlocks> for unlocks::Options {
    fn from(arguments: Unlocks) -> Self {
        let Unlocks {
            active,
            stored,
            in_flight,
        } = arguments;
        unlocks::Options {
            active,
            stored,
            in_flight,
        }
    }
}

impl From<Hostile> for hostile::Options {
    fn from(arguments: Hostile) -> Self {
        let Hostile {
            tenants,
            seconds,
            calls,
        } = arguments;
        hostile::Options {
            tenants,
            seconds,
            calls,
        }
    }
}

impl From<&Packet> for packet::Options {
    fn from(arguments: &Packet) -> Self {
        packet::Options {
            unlocks: arguments.unlocks,
            endpoints: arguments.endpoints,
            pace: Duration::from_micros(arguments.pace),
        }
    }
}

impl From<On> for packet::Kind {
    fn from(on: On) -> Self {
        match on {
            On::Ovs => packet::Kind::Ovs,
            On::Embedded => packet::Kind::Embedded,
            On::Bmv2 => packet::Kind::Bmv2,
        }
    }
}

impl From<P4> for p4::Options {
    fn from(arguments: P4) -> Self {
        p4::Options {
            endpoints: arguments.endpoints,
            rounds: arguments.rounds,
            bmv2_rows: arguments.bmv2_rows,
            changes: change::Options {
                endpoints: arguments.attached,
                attached: arguments.attached,
                changes: arguments.changes,
                pause: Duration::from_millis(arguments.pause),
            },
        }
    }
}

impl From<Fastpath> for fastpath::Options {
    fn from(arguments: Fastpath) -> Self {
        let Fastpath {
            rounds,
            endpoints,
            changes,
        } = arguments;
        fastpath::Options {
            rounds,
            endpoints,
            changes,
        }
    }
}

impl From<Datapath> for datapath::Options {
    fn from(arguments: Datapath) -> Self {
        let lacking = portcullis_testbed::missing_for_real_switch().map(|what| format!("it needs {what}"));
        let unwanted = arguments.without_ovs.then(|| "it is not wanted".to_string());
        datapath::Options {
            endpoints: arguments.endpoints,
            rounds: arguments.rounds,
            window: Duration::from_secs(arguments.seconds),
            without_ovs: unwanted.or(lacking),
            svg: arguments.svg,
        }
    }
}

impl All {
    /// How much less is measured, and how many rounds.
    fn measure(&self) -> (u32, usize) {
        if self.small { (10, 2) } else { (1, 6) }
    }

    /// What is measured: `bulk`, `change` with every endpoint on a port and with a tenth of them, `restart`, `p4`.
    fn parts(&self) -> (Bulk, [Change; 2], Restart, P4) {
        let (by, rounds) = self.measure();
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
            P4 {
                endpoints: 160 / by,
                rounds,
                bmv2_rows: 5_000 / by as usize,
                attached: 1_000 / by,
                changes: u64::from(500 / by),
                pause: 10,
            },
        )
    }

    /// And the embedded switch: `fastpath`, `datapath`.
    fn embedded(self) -> (Fastpath, Datapath) {
        let (by, rounds) = self.measure();
        (
            Fastpath {
                rounds,
                endpoints: 65_000 / by,
                changes: 2_000 / by as usize,
            },
            Datapath {
                endpoints: if self.small {
                    vec![1, 1_000]
                } else {
                    vec![1, 1_000, 65_000]
                },
                rounds,
                seconds: 1,
                without_ovs: false,
                svg: self.svg,
            },
        )
    }
}

fn main() -> ExitCode {
    let arguments = CommandLine::parse();
    let real = !matches!(
        arguments.what,
        What::P4(_) | What::Datapath(_) | What::Fastpath(_) | What::Unlocks(_) | What::Hostile(_)
    );
    if let Some(lacking) = portcullis_testbed::missing_for_real_switch().filter(|_| real) {
        eprintln!("portcullis-bench: {lacking}");
        return ExitCode::from(2);
    }
    match measure(arguments) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("portcullis-bench: {}", with_causes(&error));
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
            What::P4(p4) => p4_device(p4, &agent, &mut report).await?,
            What::Datapath(datapath) => report.add(datapath::run(&datapath.into(), &agent).await?),
            What::Fastpath(fastpath) => fastpath::run(fastpath.into(), |section| report.add(section))?,
            What::Unlocks(unlocks) => report.add(unlocks::run(&unlocks.into(), &agent).await?),
            What::Hostile(hostile) => report.add(hostile::run(&hostile.into(), &agent).await?),
            What::Packet(packet) => packets(&packet, &agent, &mut report).await?,
            What::All(all) => {
                let (bulk, change, restart, p4) = all.parts();
                report.add(bulk::run(bulk.into()).await?);
                for change in change {
                    changes(change, &agent, &mut report).await?;
                }
                report.add(restart::run(restart.into(), &agent).await?);
                p4_device(p4, &agent, &mut report).await?;
                let (by, _) = all.measure();
                let (fastpath, datapath) = all.embedded();
                fastpath::run(fastpath.into(), |section| report.add(section))?;
                let unlocks = unlocks::Options {
                    active: 10_000 / by,
                    stored: 100_000 / by,
                    in_flight: 128,
                };
                report.add(datapath::run(&datapath.into(), &agent).await?);
                report.add(unlocks::run(&unlocks, &agent).await?);
                let packet = Packet {
                    unlocks: 2_000 / by,
                    endpoints: 1_000 / by,
                    pace: 200,
                    on: Vec::new(),
                };
                packets(&packet, &agent, &mut report).await?;
                let hostile = hostile::Options {
                    tenants: 20,
                    seconds: u64::from(30 / by),
                    calls: 1_000,
                };
                report.add(hostile::run(&hostile, &agent).await?);
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

async fn packets(arguments: &Packet, agent: &Path, report: &mut Report) -> Result<(), BenchError> {
    let mut on = arguments.on.clone();
    if on.is_empty() {
        on = vec![On::Ovs, On::Embedded];
        match packet::bmv2_is_there() {
            true => on.push(On::Bmv2),
            false => println!("\nBMv2 is left out: simple_switch_grpc is not on the PATH"),
        }
    }
    for kind in on {
        report.add(packet::run(kind.into(), arguments.into(), agent).await?);
    }
    Ok(())
}

async fn p4_device(arguments: P4, agent: &Path, report: &mut Report) -> Result<(), BenchError> {
    p4::run(arguments.into(), agent, |section| report.add(section)).await
}

/// The agent's program in the folder of this one.
fn beside() -> Result<PathBuf, BenchError> {
    let me = std::env::current_exe().map_err(|source| BenchError::Io {
        what: "find this program".to_string(),
        source,
    })?;
    Ok(me.with_file_name("portcullis"))
}
