//! Port setting `no-flood`: NORMAL does not flood to managed ports, which get their copies through `flood` and its policy.
//!
//! The port setting is OFPPC_NO_FLOOD, which only OpenFlow 1.0 can express, so this speaks those four messages
//! of it (specification 1.0.0, sections 5.2.1, 5.3.3, 5.3.5) over a connection of its own.

use std::collections::BTreeSet;
use std::time::Duration;

use crate::io::Link;

const VERSION: u8 = 1;
const HELLO: u8 = 0;
const ERROR: u8 = 1;
const PORT_MOD: u8 = 15;
const STATS_REQUEST: u8 = 16;
const STATS_REPLY: u8 = 17;
const BARRIER_REQUEST: u8 = 18;
const BARRIER_REPLY: u8 = 19;
/// OFPST_PORT_DESC, which Open vSwitch has in 1.0 too.
const PORT_DESC: u16 = 13;
/// "Do not include this port when flooding."
const NO_FLOOD: u32 = 1 << 4;
const PORT_LEN: usize = 48;
const HEADER: usize = 8;
const PATIENCE: Duration = Duration::from_secs(5);

/// Why the setting could not be made.
#[derive(Debug, thiserror::Error)]
pub(crate) enum NoFloodError {
    #[error("the connection failed")]
    Io(#[from] std::io::Error),
    /// The bridge does not offer OpenFlow 1.0.
    #[error(
        "the bridge does not speak OpenFlow 1.0, which alone can set it: add OpenFlow10 to Bridge:protocols"
    )]
    NoVersion,
    #[error("the switch refused it with error type {typ} code {code}")]
    Refused { typ: u16, code: u16 },
    /// The bytes make no sense.
    #[error("the switch's answer is malformed")]
    Malformed,
    #[error("no answer within {PATIENCE:?}")]
    Late,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct PortSetting {
    number: u16,
    mac: [u8; 6],
    config: u32,
}

fn message(kind: u8, body: &[u8]) -> Vec<u8> {
    let length = u16::try_from(HEADER + body.len()).unwrap_or(u16::MAX);
    let mut out = vec![VERSION, kind];
    out.extend(length.to_be_bytes());
    out.extend(1u32.to_be_bytes());
    out.extend(body);
    out
}

fn port_mod(port: &PortSetting, no_flood: bool) -> Vec<u8> {
    let mut body = Vec::with_capacity(24);
    body.extend(port.number.to_be_bytes());
    body.extend(port.mac);
    body.extend(if no_flood { NO_FLOOD } else { 0 }.to_be_bytes());
    body.extend(NO_FLOOD.to_be_bytes());
    body.extend([0; 8]);
    message(PORT_MOD, &body)
}

fn be16(bytes: &[u8], at: usize) -> Option<u16> {
    bytes.get(at..at + 2)?.try_into().ok().map(u16::from_be_bytes)
}

fn be32(bytes: &[u8], at: usize) -> Option<u32> {
    bytes.get(at..at + 4)?.try_into().ok().map(u32::from_be_bytes)
}

/// The ports of one part of an answer.
fn ports(body: &[u8]) -> Option<Vec<PortSetting>> {
    body.chunks_exact(PORT_LEN)
        .map(|p| {
            Some(PortSetting {
                number: be16(p, 0)?,
                mac: p.get(2..8)?.try_into().ok()?,
                config: be32(p, 24)?,
            })
        })
        .collect()
}

/// Whole messages of a stream.
struct Peer {
    link: Link,
    input: Vec<u8>,
}

impl Peer {
    async fn next(&mut self) -> Result<(u8, Vec<u8>), NoFloodError> {
        loop {
            if self.input.len() >= HEADER {
                let length = usize::from(be16(&self.input, 2).ok_or(NoFloodError::Malformed)?);
                if length < HEADER {
                    return Err(NoFloodError::Malformed);
                }
                if self.input.len() >= length {
                    let whole: Vec<u8> = self.input.drain(..length).collect();
                    let kind = whole.get(1).copied().ok_or(NoFloodError::Malformed)?;
                    return Ok((kind, whole.get(HEADER..).unwrap_or(&[]).to_vec()));
                }
            }
            let bytes = self.link.read().await?;
            self.input.extend_from_slice(bytes);
        }
    }

    async fn until(&mut self, wanted: u8) -> Result<Vec<u8>, NoFloodError> {
        loop {
            match self.next().await? {
                (kind, body) if kind == wanted => return Ok(body),
                (ERROR, body) => {
                    let typ = be16(&body, 0).ok_or(NoFloodError::Malformed)?;
                    let code = be16(&body, 2).ok_or(NoFloodError::Malformed)?;
                    // OFPET_HELLO_FAILED.
                    return Err(if typ == 0 {
                        NoFloodError::NoVersion
                    } else {
                        NoFloodError::Refused { typ, code }
                    });
                }
                _ => {}
            }
        }
    }
}

/// Sets the flag on `policed` ports and clears it on those of `released`. Ports in neither are left alone.
pub(crate) async fn ensure(
    address: &str,
    policed: &BTreeSet<u32>,
    released: &BTreeSet<u32>,
) -> Result<usize, NoFloodError> {
    tokio::time::timeout(PATIENCE, talk(address, policed, released))
        .await
        .map_err(|_| NoFloodError::Late)?
}

async fn talk(
    address: &str,
    policed: &BTreeSet<u32>,
    released: &BTreeSet<u32>,
) -> Result<usize, NoFloodError> {
    let mut peer = Peer {
        link: Link::connect(address).await?,
        input: Vec::new(),
    };
    peer.link.write(message(HELLO, &[]));
    peer.until(HELLO).await?;
    let mut request = PORT_DESC.to_be_bytes().to_vec();
    request.extend([0, 0]);
    peer.link.write(message(STATS_REQUEST, &request));
    let mut known = Vec::new();
    loop {
        let body = peer.until(STATS_REPLY).await?;
        let more = be16(&body, 2).ok_or(NoFloodError::Malformed)? & 1 == 1;
        known.extend(ports(body.get(4..).unwrap_or(&[])).ok_or(NoFloodError::Malformed)?);
        if !more {
            break;
        }
    }
    let mut changes = Vec::new();
    let mut count = 0;
    for port in &known {
        let number = portcullis_openflow::port::widen(port.number);
        let set = port.config & NO_FLOOD != 0;
        let want = if policed.contains(&number) {
            true
        } else if released.contains(&number) {
            false
        } else {
            continue;
        };
        if want != set {
            changes.extend(port_mod(port, want));
            count += 1;
        }
    }
    changes.extend(message(BARRIER_REQUEST, &[]));
    peer.link.write(changes);
    peer.until(BARRIER_REPLY).await?;
    Ok(count)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_port_mod_is_what_the_specification_says() {
        let port = PortSetting {
            number: 3,
            mac: [2, 0, 0, 0, 0, 9],
            config: 0,
        };
        let bytes = port_mod(&port, true);
        assert_eq!(bytes.len(), 32);
        assert_eq!(bytes[..8], [1, 15, 0, 32, 0, 0, 0, 1]);
        assert_eq!(bytes[8..16], [0, 3, 2, 0, 0, 0, 0, 9]);
        assert_eq!(bytes[16..24], [0, 0, 0, 0x10, 0, 0, 0, 0x10]);
    }
}
