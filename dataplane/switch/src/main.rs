//! The `portcullis-switch` command.

use std::error::Error;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use clap::{Args, Parser, Subcommand};
use portcullis_nic::{Kind, OffloadSettings, StatedParser, When};
use portcullis_policy::text::with_causes;
use portcullis_switch::config::{self, DEFAULT_GRPC, Overrides, Spread};
use portcullis_switch::{serve, top};

const EXIT_CODES: &str = "\
Ports are NUMBER=KIND:WHAT, the number being the one of P4Runtime and of the policy document:
  1=af_packet:eth0           an interface of the kernel
  2=tap:vm0                  a TAP interface, made and removed with the switch
  3=pci:0000:01:00.0         a network card (bound to vfio-pci, with --hugepages)
  4=vhost_user:/run/vm.sock  a virtual machine
  5=pcap:rx=IN,tx=OUT,repeat files of frames
  6=ring  7=null             what is sent comes back; what takes all and gives empty frames
  8=device:ARGS              anything that DPDK knows

Exit codes:
  0  stopped by SIGTERM or SIGINT
  1  could not start, or a part of it failed while it ran
  2  the command line or the configuration is wrong";

/// A switch in software: Portcullis's pipeline on DPDK, programmed over P4Runtime.
#[derive(Debug, Parser)]
#[command(name = "portcullis-switch", version, after_help = EXIT_CODES, args_conflicts_with_subcommands = true)]
struct CommandLine {
    #[command(flatten)]
    run: Run,
    #[command(subcommand)]
    command: Option<Command>,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Show what the ports of a running switch do.
    Top(Top),
}

#[derive(Debug, Args)]
struct Run {
    /// A TOML file with the same settings: ports, grpc, device_id, cores, spread, busy, hugepages, memory_mb, mbufs, mtu.
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// A port, see below; may be repeated.
    #[arg(long = "port", value_name = "NUMBER=KIND:WHAT")]
    ports: Vec<String>,
    /// Where P4Runtime is served: unix:PATH, or ADDRESS:PORT of this machine.
    #[arg(long, value_name = "WHERE", help = format!("Where P4Runtime is served: unix:PATH, or 127.0.0.1:PORT [default: {DEFAULT_GRPC}]"))]
    grpc: Option<String>,
    /// Device id in P4Runtime [default: 1].
    #[arg(long, value_name = "ID")]
    device_id: Option<u64>,
    /// Cores, with a worker on each [default: one worker on any core].
    #[arg(long, value_name = "CORE", value_delimiter = ',')]
    cores: Vec<usize>,
    /// Spread frames of a port with one receive queue over all workers, by flow [default: auto: when there are more workers
    /// than receive queues].
    #[arg(long, value_name = "WHEN", value_enum)]
    spread: Option<Spread>,
    /// Poll without sleeping: for cores that run nothing else.
    #[arg(long)]
    busy: bool,
    /// Keep memory in huge pages; network cards need it.
    #[arg(long)]
    hugepages: bool,
    /// Memory in MiB [default: what the buffers take].
    #[arg(long, value_name = "MIB")]
    memory_mb: Option<u32>,
    /// Packet buffers [default: 32767].
    #[arg(long, value_name = "COUNT")]
    mbufs: Option<u32>,
    /// MTU of every port [default: what it has].
    #[arg(long, value_name = "BYTES")]
    mtu: Option<u16>,
    /// Put rules that drop what is denied on the NICs of ports that take them [default: auto].
    #[arg(long, value_name = "auto|off")]
    offload: Option<When>,
    /// Kinds of frames that a NIC may drop although the policy lets them pass: later-fragments, ip-options, extension-headers,
    /// encapsulation.
    #[arg(long, value_name = "KIND", value_delimiter = ',')]
    offload_accept: Vec<Kind>,
    /// Rules that the NIC of each port may have at most [default: as many as it takes].
    #[arg(long, value_name = "COUNT")]
    offload_rules: Option<usize>,
    /// What the parser of a driver does, in TOML: mlx5_pci={tags="matched",later_fragments="never"}; may be repeated.
    #[arg(long, value_name = "DRIVER={FACT=\"VALUE\",...}")]
    offload_parser: Vec<StatedParser>,
    /// Serve Prometheus metrics at http://ADDRESS:PORT/metrics.
    #[arg(long, value_name = "ADDRESS:PORT")]
    metrics: Option<SocketAddr>,
    /// Check the configuration and stop.
    #[arg(long)]
    check: bool,
}

#[derive(Debug, Args)]
struct Top {
    /// Where the switch serves its metrics.
    #[arg(value_name = "ADDRESS:PORT")]
    metrics: SocketAddr,
    /// Seconds between two tables, 1 to 3600.
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u64).range(1..=3600))]
    every: u64,
    /// Stop after this many tables.
    #[arg(long)]
    looks: Option<u32>,
}

fn failed(code: u8, error: &dyn Error) -> ExitCode {
    eprintln!("portcullis-switch: {}", with_causes(error));
    ExitCode::from(code)
}

fn main() -> ExitCode {
    let CommandLine { run, command } = CommandLine::parse();
    if let Some(Command::Top(top)) = command {
        return match top::run(top.metrics, Duration::from_secs(top.every), top.looks) {
            Ok(()) => ExitCode::SUCCESS,
            Err(error) => failed(1, &error),
        };
    }
    let over = Overrides {
        ports: run.ports,
        grpc: run.grpc,
        device_id: run.device_id,
        cores: run.cores,
        spread: run.spread,
        busy: run.busy,
        hugepages: run.hugepages,
        memory_mb: run.memory_mb,
        mbufs: run.mbufs,
        mtu: run.mtu,
        offload: OffloadSettings {
            when: run.offload,
            accept: (!run.offload_accept.is_empty()).then(|| run.offload_accept.into_iter().collect()),
            rules: run.offload_rules,
            parsers: run
                .offload_parser
                .into_iter()
                .map(|StatedParser(driver, facts)| (driver, facts))
                .collect(),
        },
    };
    let config = match config::load(run.config.as_deref(), over) {
        Ok(config) => config,
        Err(error) => return failed(2, &error),
    };
    if run.check {
        for port in &config.ports {
            println!("port {port}: {}", port.devargs());
        }
        return ExitCode::SUCCESS;
    }
    let filter = tracing_subscriber::EnvFilter::try_from_env("PORTCULLIS_LOG")
        .unwrap_or_else(|_| tracing_subscriber::EnvFilter::new("info"));
    tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_ansi(std::io::IsTerminal::is_terminal(&std::io::stderr()))
        .with_writer(std::io::stderr)
        .init();
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build();
    let runtime = match runtime {
        Ok(runtime) => runtime,
        Err(error) => return failed(1, &error),
    };
    match runtime.block_on(serve::run(&config, run.metrics)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => failed(1, &error),
    }
}
