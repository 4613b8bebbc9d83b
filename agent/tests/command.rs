//! The program's command line, with a terminal that is read back.

use clap::Parser;
use portcullis::command::{CommandLine, execute};
use portcullis_cli::term::Term;

/// Exit code and output of a command.
#[derive(Debug)]
pub struct Ran {
    pub exit: u8,
    pub out: String,
    pub err: String,
}

/// Runs a command with an agent's socket in place.
pub async fn run(socket: &std::path::Path, words: &[&str]) -> Ran {
    let mut line = parse(words);
    line.globals.socket = socket.to_path_buf();
    run_line(line).await
}

/// Runs a command that asks no agent.
pub async fn run_offline(words: &[&str]) -> Ran {
    run_line(parse(words)).await
}

fn parse(words: &[&str]) -> CommandLine {
    let words = std::iter::once("portcullis").chain(words.iter().copied());
    CommandLine::try_parse_from(words).expect("the test's command line")
}

async fn run_line(line: CommandLine) -> Ran {
    let (mut out, mut err) = (Vec::new(), Vec::new());
    let mut term = Term::new(&mut out, &mut err, line.globals.output, None);
    let exit = execute(line, &mut term).await;
    let text = |bytes| String::from_utf8(bytes).expect("UTF-8");
    Ran {
        exit,
        out: text(out),
        err: text(err),
    }
}
