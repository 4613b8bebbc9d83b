//! The command line of `portcullis`: the daemon, commands on the agent's own files, and the client's commands.

mod database;
mod database_view;
mod discover;

use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Args, CommandFactory, Parser, Subcommand, ValueEnum};
use portcullis_cli::command::docs::markdown;
use portcullis_cli::error::Failure;
use portcullis_cli::term::{Term, terminal_width};
use portcullis_cli::{self as cli, Exit};
use portcullis_policy::text::with_causes;

use crate::{config, daemon, logging, metrics};

/// What `portcullis agent --help` says at its end.
const AGENT_EXIT_CODES: &str = "\
Exit codes:
  0  stopped by SIGTERM or SIGINT
  1  failed to start, a part failed, or it did not stop in time
  2  the command line or the configuration is wrong";

/// Port policy on hardware-offloaded switches.
#[derive(Debug, Parser)]
#[command(name = "portcullis", version, propagate_version = true, after_help = cli::EXIT_CODES)]
pub struct CommandLine {
    #[command(flatten)]
    pub globals: cli::Globals,
    #[command(subcommand)]
    pub command: Command,
}

#[derive(Debug, Subcommand)]
pub enum Command {
    /// Run the daemon until SIGTERM or SIGINT.
    #[command(after_help = AGENT_EXIT_CODES)]
    Agent(AgentArgs),
    #[command(flatten)]
    Client(cli::Command),
    /// Back up the agent's database, examine it, restore it: on the agent's machine, as its user.
    #[command(subcommand)]
    Database(database::DatabaseCommand),
    /// Show the datapaths of this machine: what each can hold, its uplink, and a `[[target]]` section for it. Needs no agent; reads only.
    Discover(discover::Discover),
    /// Print reference documentation as Markdown.
    #[command(hide = true)]
    Docs {
        /// Part of the reference to print.
        #[arg(value_enum)]
        page: DocsPage,
    },
}

#[derive(Debug, Args)]
pub struct AgentArgs {
    /// Configuration file; every setting has a default.
    #[arg(long, value_name = "FILE", default_value = config::DEFAULT_PATH)]
    config: PathBuf,
    /// Validate the configuration and the files it names, and exit.
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

/// Pages that `docs` prints.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum DocsPage {
    /// Every command with its options.
    Cli,
    /// The tables of the OVS pipeline, its registers and cookies.
    OvsPipeline,
    /// The tables of our P4 program.
    P4Pipeline,
    /// The descriptions of public P4 programs.
    Pipelines,
    /// The agent's Prometheus metrics.
    Metrics,
    /// Who may call what.
    Access,
}

/// Runs a command line on the process's stdout and stderr.
pub async fn run(line: CommandLine) -> ExitCode {
    let (mut out, mut err) = (std::io::stdout(), std::io::stderr());
    let mut term = Term::new(&mut out, &mut err, line.globals.output, terminal_width());
    ExitCode::from(execute(line, &mut term).await)
}

/// Runs a command line on any terminal. Returns the exit code.
pub async fn execute(CommandLine { globals, command }: CommandLine, term: &mut Term<'_>) -> u8 {
    let exit = match command {
        Command::Agent(agent) => return run_agent(agent).await,
        Command::Client(command) => cli::execute(command, &globals, CommandLine::command(), term).await,
        Command::Database(command) => cli::finish(database::run(&command, term), term),
        Command::Discover(args) => cli::finish(discover::run(args, term).await, term),
        Command::Docs { page } => cli::finish(print(page, term), term),
    };
    exit.code()
}

fn print(page: DocsPage, term: &mut Term<'_>) -> Result<Exit, Failure> {
    let text = match page {
        DocsPage::Cli => markdown(CommandLine::command()),
        DocsPage::OvsPipeline => portcullis_ovs::tables::describe(),
        DocsPage::P4Pipeline => portcullis_p4runtime::describe()?,
        DocsPage::Pipelines => portcullis_p4runtime::pipelines::describe(),
        DocsPage::Metrics => metrics::reference(),
        DocsPage::Access => crate::access::reference(),
    };
    term.write(&text)?;
    Ok(Exit::Done)
}

fn failed(code: u8, text: &str) -> u8 {
    eprintln!("portcullis: {text}");
    code
}

async fn run_agent(agent: AgentArgs) -> u8 {
    if agent.print_default_config {
        print!("{}", config::EXAMPLE);
        return 0;
    }
    if agent.print_metrics {
        print!("{}", metrics::reference());
        return 0;
    }
    let mut config = match config::load(&agent.config) {
        Ok(config) => config,
        Err(error) => return failed(2, &error.to_string()),
    };
    if agent.check {
        if let Err(error) = daemon::check(&config) {
            return failed(2, &format!("{}: {}", agent.config.display(), with_causes(&error)));
        }
        println!("{}: configuration is valid", agent.config.display());
        return 0;
    }
    if let Err(error) = logging::install(&config.log) {
        return failed(2, &error.to_string());
    }
    if agent.allow_interruption {
        config.targets.allow_interruption();
    }
    match daemon::run(config).await {
        Ok(()) => 0,
        // It is in the log already.
        Err(_) => 1,
    }
}
