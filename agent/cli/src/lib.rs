//! The client side of `portcullis`: commands to an agent, and `compile`, which needs none.
//!
//! One way through: [`Command`] is parsed, a module of [`command`] turns it into calls, the answers become
//! [`view`]s, and [`term`] writes a view as a table, JSON or YAML. Answers go to stdout and nothing else does;
//! [`error`] says what went wrong on stderr and [`Exit`] to the shell. Commands that work on the agent's own files, such as
//! `database`, are in the agent's crate.
#![allow(
    missing_docs,
    reason = "its interface is the command, which has docs of its own"
)]

pub mod args;
pub mod client;
pub mod command;
pub mod error;
pub mod table;
pub mod term;
pub mod unlock_args;
pub mod view;

use std::path::PathBuf;

use clap::{Args, Subcommand, ValueEnum};

use self::client::Client;
use self::error::Failure;
use self::term::Term;

/// Where the agent listens by default.
pub const SOCKET: &str = "/run/portcullis/agent.sock";

/// What `--help` says at its end.
pub const EXIT_CODES: &str = "\
Exit codes:
  0  done; `status`: every target is InSync and holds the generation
  1  the agent refused or failed, a file could not be read, or `compile` found
     rows that are not the policy or a target that cannot take them
  2  the command line is wrong; `plan --detailed-exitcode`: something would change
  3  not realized (yet): `status`, and commands with --wait
  4  the agent cannot be reached";

/// Exit codes of the command.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Exit {
    Done,
    /// Refused, failed, or unreadable input.
    Failed,
    /// The command line is wrong.
    Usage,
    /// `plan --detailed-exitcode`: something would change. The same number as [`Exit::Usage`], as in tools
    /// that had this option before.
    WouldChange,
    /// Not realized, or not yet.
    NotRealized,
    /// The agent cannot be reached.
    Unreachable,
}

impl Exit {
    /// The number the shell sees.
    pub fn code(self) -> u8 {
        match self {
            Exit::Done => 0,
            Exit::Failed => 1,
            Exit::Usage | Exit::WouldChange => 2,
            Exit::NotRealized => 3,
            Exit::Unreachable => 4,
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, ValueEnum)]
pub enum Output {
    /// A table or a report for people.
    #[default]
    Table,
    /// One JSON object; `watch`: one per line.
    Json,
    /// The same as YAML.
    Yaml,
}

/// Options of every command: which agent, and how answers are written.
#[derive(Debug, Clone, Args)]
pub struct Globals {
    /// Unix socket of the agent.
    #[arg(
        long,
        global = true,
        value_name = "PATH",
        env = "PORTCULLIS_SOCKET",
        default_value = SOCKET,
        help_heading = "Agent"
    )]
    pub socket: PathBuf,
    /// The agent's address, if it listens on TCP; takes precedence over --socket. Stands before the command.
    // Not global: `endpoint provision` has an --address of its own.
    #[arg(
        long,
        value_name = "https://HOST:PORT",
        env = "PORTCULLIS_ADDRESS",
        help_heading = "Agent"
    )]
    pub address: Option<String>,
    /// PEM file of the authority that signed the agent's certificate.
    #[arg(long, global = true, value_name = "FILE", help_heading = "Agent")]
    pub ca: Option<PathBuf>,
    /// PEM file of the client certificate.
    #[arg(long, global = true, value_name = "FILE", help_heading = "Agent")]
    pub cert: Option<PathBuf>,
    /// PEM file of that certificate's key.
    #[arg(long, global = true, value_name = "FILE", help_heading = "Agent")]
    pub key: Option<PathBuf>,
    /// File with an access token, instead of or besides a certificate.
    #[arg(
        long,
        global = true,
        value_name = "FILE",
        env = "PORTCULLIS_TOKEN_FILE",
        help_heading = "Agent"
    )]
    pub token_file: Option<PathBuf>,
    /// Format of the answer on stdout.
    #[arg(
        short,
        long,
        global = true,
        value_enum,
        default_value_t,
        value_name = "FORMAT"
    )]
    pub output: Output,
}

impl Default for Globals {
    fn default() -> Self {
        Globals {
            socket: PathBuf::from(SOCKET),
            address: None,
            ca: None,
            cert: None,
            key: None,
            token_file: None,
            output: Output::Table,
        }
    }
}

/// What can be asked.
#[derive(Debug, Clone, Subcommand)]
pub enum Command {
    /// Apply a policy document.
    Apply(args::Apply),
    /// Show what applying a document would change: policy, and rows per table with the headroom left.
    Plan(args::Plan),
    /// Show the policy, or one part of it.
    Get(args::Get),
    /// Show the verdict for a packet, the rule that decides, and the rows that enforce it on each target.
    Explain(args::Explain),
    /// Show the targets: state, generations, endpoints, rows.
    Status(args::Status),
    /// Show the hits of each rule.
    Hits(args::Hits),
    /// Show which flows of each rule a NIC carries out. The switch lists its whole flow cache for it.
    Offload(args::Offload),
    /// Show what the settings and the state of each target cost policy traffic, and the command that changes it. The exit status is 1
    /// if something costs safety.
    Doctor,
    /// Follow changes of the policy and of the targets, one line each, until interrupted.
    Watch(args::Watch),
    /// Add, change or remove one endpoint.
    #[command(subcommand)]
    Endpoint(args::EndpointCommand),
    /// Request unlocks, decide on requests, and list them.
    #[command(subcommand)]
    Unlock(unlock_args::UnlockCommand),
    /// Let everything of one endpoint pass for a bounded time, to rule the policy out as the cause of an outage.
    Bypass(args::Bypass),
    /// Read and verify the audit log.
    #[command(subcommand)]
    Audit(unlock_args::AuditCommand),
    /// Compile a document without an agent: rows, statistics, proof.
    Compile(args::Compile),
    /// Print a shell's completion script.
    Completions {
        /// Shell that reads the script.
        shell: clap_complete::Shell,
    },
}

/// Runs a command on a terminal, and reports there what goes wrong. `root` is the whole command line, which `completions`
/// describes.
pub async fn execute(command: Command, globals: &Globals, root: clap::Command, term: &mut Term<'_>) -> Exit {
    let result = dispatch(command, globals, root, term).await;
    finish(result, term)
}

/// Reports what went wrong with a command. Returns its exit code.
pub fn finish(result: Result<Exit, Failure>, term: &mut Term<'_>) -> Exit {
    match result {
        Ok(exit) => exit,
        // The reader of the answer, such as `head`, has seen enough of it.
        Err(Failure::Write(error)) if error.kind() == std::io::ErrorKind::BrokenPipe => Exit::Done,
        Err(failure) => {
            term.complain(&error::report(&failure));
            failure.exit()
        }
    }
}

async fn dispatch(
    command: Command,
    globals: &Globals,
    root: clap::Command,
    term: &mut Term<'_>,
) -> Result<Exit, Failure> {
    match command {
        Command::Apply(args) => command::apply::run(&args, &Client::connect(globals).await?, term).await,
        Command::Plan(args) => command::plan::run(&args, &Client::connect(globals).await?, term).await,
        Command::Get(args) => command::get::run(&args, globals, term).await,
        Command::Explain(args) => command::explain::run(&args, globals, term).await,
        Command::Status(args) => command::status::run(&args, &Client::connect(globals).await?, term).await,
        Command::Offload(args) => command::offload::run(&args, &Client::connect(globals).await?, term).await,
        Command::Doctor => command::doctor::run(&Client::connect(globals).await?, term).await,
        Command::Hits(args) => command::hits::run(&args, &Client::connect(globals).await?, term).await,
        Command::Watch(args) => command::watch::run(&args, &Client::connect(globals).await?, term).await,
        Command::Endpoint(args) => {
            command::endpoint::run(&args, &Client::connect(globals).await?, term).await
        }
        Command::Unlock(args) => command::unlock::run(&args, &Client::connect(globals).await?, term).await,
        Command::Bypass(args) => command::bypass::run(&args, &Client::connect(globals).await?, term).await,
        Command::Audit(args) => command::audit::run(&args, &Client::connect(globals).await?, term).await,
        Command::Compile(args) => command::compile::run(&args, term),
        Command::Completions { shell } => command::docs::completions(shell, root, term),
    }
}
