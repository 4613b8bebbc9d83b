//! The `portcullis` command.

use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Args, CommandFactory, Parser, Subcommand};
use portcullis::{cli, config, daemon, logging, metrics};

/// What `portcullis agent --help` says at its end.
const AGENT_EXIT_CODES: &str = "\
Exit codes:
  0  stopped by SIGTERM or SIGINT
  1  failed to start, a part failed, or it did not stop in time
  2  the command line or the configuration is wrong";

/// Port policy on hardware-offloaded switches.
#[derive(Debug, Parser)]
#[command(name = "portcullis", version, propagate_version = true, after_help = cli::EXIT_CODES)]
struct CommandLine {
    #[command(flatten)]
    globals: cli::Globals,
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Run the daemon.
    #[command(after_help = AGENT_EXIT_CODES)]
    Agent(Agent),
    #[command(flatten)]
    Client(cli::Command),
}

/// `agent`.
#[derive(Debug, Args)]
struct Agent {
    /// Configuration file; every setting has a default.
    #[arg(long, value_name = "FILE", default_value = config::DEFAULT_PATH)]
    config: PathBuf,
    /// Validate the configuration and exit.
    #[arg(long)]
    check: bool,
    /// Allow changes that briefly remove rows from a target: fail_mode = "secure" on a bridge that has rows.
    #[arg(long)]
    allow_interruption: bool,
    /// Print a configuration with every setting, its default and its meaning, and exit.
    #[arg(long, conflicts_with_all = ["check", "print_metrics"])]
    print_default_config: bool,
    /// Print the list of metrics and exit.
    #[arg(long, conflicts_with = "check")]
    print_metrics: bool,
}

fn main() -> ExitCode {
    let CommandLine { globals, command } = CommandLine::parse();
    let runtime = match tokio::runtime::Builder::new_multi_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => return failed(1, &format!("cannot start threads: {error}")),
    };
    match command {
        Command::Agent(agent) => {
            let code = runtime.block_on(run_agent(agent));
            runtime.shutdown_background();
            code
        }
        Command::Client(command) => runtime.block_on(cli::run(command, &globals, CommandLine::command())),
    }
}

fn failed(code: u8, text: &str) -> ExitCode {
    eprintln!("portcullis: {text}");
    ExitCode::from(code)
}

async fn run_agent(agent: Agent) -> ExitCode {
    if agent.print_default_config {
        print!("{}", config::EXAMPLE);
        return ExitCode::SUCCESS;
    }
    if agent.print_metrics {
        print!("{}", metrics::reference());
        return ExitCode::SUCCESS;
    }
    let mut config = match config::load(&agent.config) {
        Ok(config) => config,
        Err(error) => return failed(2, &error.to_string()),
    };
    if agent.check {
        println!("{}: in order", agent.config.display());
        return ExitCode::SUCCESS;
    }
    if let Err(error) = logging::install(&config.log) {
        return failed(2, &error.to_string());
    }
    if agent.allow_interruption {
        config.targets.allow_interruption();
    }
    match daemon::run(config).await {
        Ok(()) => ExitCode::SUCCESS,
        // It is in the log already.
        Err(_) => ExitCode::from(1),
    }
}
