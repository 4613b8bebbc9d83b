//! What the tests of the command share: its command line, a terminal that is read back, an agent that is configured
//! what to answer.

pub mod agent;
pub mod messages;

use clap::{CommandFactory, Parser};
use portcullis_cli::term::Term;
use portcullis_cli::{self as cli, Exit, Globals};

/// The command line without the daemon.
#[derive(Debug, Parser)]
#[command(name = "portcullis", after_help = cli::EXIT_CODES)]
pub struct Line {
    #[command(flatten)]
    pub globals: Globals,
    #[command(subcommand)]
    pub command: cli::Command,
}

/// Parses `portcullis` with these words.
pub fn parse(words: &[&str]) -> Result<Line, clap::Error> {
    Line::try_parse_from(std::iter::once("portcullis").chain(words.iter().copied()))
}

/// The whole command line.
pub fn root() -> clap::Command {
    Line::command()
}

/// What a command did.
#[derive(Debug)]
pub struct Ran {
    pub exit: Exit,
    pub out: String,
    pub err: String,
}

/// Runs a command with an agent's socket in place.
pub async fn run(socket: &std::path::Path, words: &[&str]) -> Ran {
    let mut line = parse(words).expect("the test's command line");
    line.globals.socket = socket.to_path_buf();
    run_line(line).await
}

/// Runs a command that asks no agent.
pub async fn run_offline(words: &[&str]) -> Ran {
    run_line(parse(words).expect("the test's command line")).await
}

async fn run_line(line: Line) -> Ran {
    let (mut out, mut err) = (Vec::new(), Vec::new());
    let mut term = Term::new(&mut out, &mut err, line.globals.output, None);
    let exit = cli::execute(line.command, &line.globals, root(), &mut term).await;
    let text = |bytes| String::from_utf8(bytes).expect("UTF-8");
    Ran {
        exit,
        out: text(out),
        err: text(err),
    }
}
