//! The `portcullis` command.

use std::process::ExitCode;

use clap::Parser;
use portcullis::command::{CommandLine, run};

fn main() -> ExitCode {
    let line = CommandLine::parse();
    let runtime = match tokio::runtime::Builder::new_multi_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => {
            eprintln!("portcullis: cannot start threads: {error}");
            return ExitCode::from(1);
        }
    };
    let code = runtime.block_on(run(line));
    // A blocking call of a library, such as a name lookup, does not hold up the end.
    runtime.shutdown_background();
    code
}
