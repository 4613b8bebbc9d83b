//! Serves a zone file over UDP and TCP, and reads it again when it changes: `zone_server FILE ADDRESS:PORT`.
//!
//! It prints a line when it listens and one for each time it reads the file. `dns::Zone::parse` says what a file is.

use std::net::SocketAddr;
use std::path::Path;
use std::process::ExitCode;

use portcullis_testbed::dns::{FileEvent, serve_file};

#[tokio::main(flavor = "current_thread")]
async fn main() -> ExitCode {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let parsed = match args.as_slice() {
        [file, at] => at.parse::<SocketAddr>().ok().map(|at| (file, at)),
        _ => None,
    };
    let Some((file, at)) = parsed.filter(|(_, at)| at.ip().is_loopback()) else {
        eprintln!("usage: zone_server FILE LOOPBACK-ADDRESS:PORT");
        return ExitCode::from(2);
    };
    let say = |event| match event {
        FileEvent::Serving(at) => println!("serving {file} at {at}"),
        FileEvent::Read => println!("read {file} again"),
        FileEvent::Wrong(error) => eprintln!("{file}: {error}"),
    };
    match serve_file(Path::new(file), at, say).await {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("{file} at {at}: {error}");
            ExitCode::FAILURE
        }
    }
}
