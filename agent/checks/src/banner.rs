//! Greeting of a TCP port of the endpoint.

use std::io::ErrorKind;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use tokio::io::AsyncReadExt;
use tokio::net::TcpStream;
use tokio::time::{Instant, timeout_at};

use crate::host::some_of;
use crate::question::{Answer, printable};

/// A greeting is read so far.
const LONGEST: usize = 512;

/// The first address that greets does so with the text.
///
/// A port that is closed, or that closes without a word, fails; an address that cannot be reached, or says nothing in
/// time, is undetermined. Other addresses are tried before either is the answer.
pub(crate) async fn banner(
    addresses: &[IpAddr],
    port: u16,
    contains: Option<&str>,
    each: Duration,
    loopback: bool,
) -> Result<String, Answer> {
    if port == 0 {
        return Err(Answer::undetermined("there is no TCP port 0"));
    }
    let (mut failed, mut undetermined) = (None, None);
    for address in some_of(addresses)? {
        let at = SocketAddr::new(address, port);
        if unfit(address, loopback) {
            undetermined.get_or_insert(format!("{address} is not an address to connect to"));
            continue;
        }
        match greeting(at, each).await {
            Ok(line) => return judge(at, &line, contains),
            Err(Silence::Closed(why)) => failed.get_or_insert(format!("{at}: {why}")),
            Err(Silence::Unknown(why)) => undetermined.get_or_insert(format!("{at}: {why}")),
        };
    }
    Err(match (undetermined, failed) {
        (Some(why), _) => Answer::undetermined(why),
        (None, Some(why)) => Answer::failed(why),
        (None, None) => Answer::undetermined("no address greeted"),
    })
}

fn unfit(address: IpAddr, loopback: bool) -> bool {
    let broadcast = matches!(address, IpAddr::V4(v4) if v4.is_broadcast());
    address.is_unspecified() || address.is_multicast() || broadcast || (address.is_loopback() && !loopback)
}

fn judge(at: SocketAddr, line: &[u8], contains: Option<&str>) -> Result<String, Answer> {
    let shown = printable(&String::from_utf8_lossy(line), 120);
    match contains {
        Some(text) if !holds(line, text.as_bytes()) => Err(Answer::failed(format!(
            "{at} greets with `{shown}`, without `{}`",
            printable(text, 120)
        ))),
        _ => Ok(format!("{at} greets with `{shown}`")),
    }
}

fn holds(line: &[u8], text: &[u8]) -> bool {
    text.is_empty() || line.windows(text.len()).any(|part| part == text)
}

enum Silence {
    Closed(String),
    Unknown(String),
}

async fn greeting(at: SocketAddr, each: Duration) -> Result<Vec<u8>, Silence> {
    let until = Instant::now() + each;
    let late = |_| Silence::Unknown("no greeting in time".to_string());
    let mut stream = timeout_at(until, TcpStream::connect(at))
        .await
        .map_err(late)?
        .map_err(|error| match error.kind() {
            ErrorKind::ConnectionRefused => Silence::Closed("the port is closed".to_string()),
            _ => Silence::Unknown(error.to_string()),
        })?;
    let mut line = Vec::with_capacity(LONGEST);
    loop {
        let mut part = [0; LONGEST];
        let room = LONGEST - line.len();
        let read = timeout_at(until, stream.read(&mut part[..room]))
            .await
            .map_err(late)?;
        let count = match read {
            Ok(count) => count,
            Err(error) if line.is_empty() => {
                return Err(Silence::Closed(format!(
                    "the connection ended without a greeting: {error}"
                )));
            }
            Err(_) => 0,
        };
        line.extend_from_slice(&part[..count]);
        if let Some(end) = line.iter().position(|byte| *byte == b'\n') {
            line.truncate(end);
            break;
        }
        if count == 0 || line.len() == LONGEST {
            break;
        }
    }
    if line.last() == Some(&b'\r') {
        line.pop();
    }
    if line.is_empty() {
        return Err(Silence::Closed(
            "the connection ended without a greeting".to_string(),
        ));
    }
    Ok(line)
}
