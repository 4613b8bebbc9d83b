//! Serves a zone file over UDP and TCP, and reads it again when it changes: `zone_server FILE ADDRESS:PORT`.
//!
//! It prints a line when it listens and one for each time it reads the file. A file that cannot be read leaves what is
//! served as it is.

use std::fs;
use std::net::SocketAddr;
use std::path::Path;
use std::process::ExitCode;
use std::time::Duration;

use portcullis_checks::testing::{Server, Zone};

#[tokio::main(flavor = "current_thread")]
async fn main() -> ExitCode {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let [file, at] = args.as_slice() else {
        eprintln!("usage: zone_server FILE ADDRESS:PORT");
        return ExitCode::from(2);
    };
    match serve(Path::new(file), at).await {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("zone_server: {error}");
            ExitCode::FAILURE
        }
    }
}

async fn serve(file: &Path, at: &str) -> Result<(), String> {
    let at: SocketAddr = at.parse().map_err(|error| format!("{at}: {error}"))?;
    if !at.ip().is_loopback() {
        return Err(format!("{at} is not a loopback address"));
    }
    let mut served = read(file)?;
    let zone = Zone::parse(&served).map_err(|error| format!("{}: {error}", file.display()))?;
    let server = Server::start_at(at, zone)
        .await
        .map_err(|error| format!("{at}: {error}"))?;
    println!("serving {} at {}", file.display(), server.addr());
    let mut complained = String::new();
    loop {
        tokio::time::sleep(Duration::from_millis(100)).await;
        let text = match read(file) {
            Ok(text) if text != served => text,
            _ => continue,
        };
        match Zone::parse(&text) {
            Ok(zone) => {
                server.replace(zone);
                served = text;
                println!("read {} again", file.display());
            }
            Err(error) if text != complained => {
                eprintln!("{}: {error}", file.display());
                complained = text;
            }
            Err(_) => {}
        }
    }
}

fn read(file: &Path) -> Result<String, String> {
    fs::read_to_string(file).map_err(|error| format!("{}: {error}", file.display()))
}
