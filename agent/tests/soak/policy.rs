//! What may be in force, as sets of ports; and the frames that are judged by it. It knows nothing of the compiler.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use portcullis_testbed::etherparse::PacketBuilder;

/// Servers behind policed ports. Host number `SERVERS` is behind the uplink.
pub const SERVERS: usize = 3;
pub const UPLINK: usize = SERVERS;
pub const NAMES: [&str; SERVERS + 1] = ["s1", "s2", "s3", "internet"];

/// Every rule allows it.
const ALWAYS: u16 = 7000;
/// A `mandatory` rule denies it.
const NEVER: u16 = 25;
/// The baseline denies it, and unlocks open it.
pub const LEASED: u16 = 465;
/// The baseline denies it to servers.
const NEVER_IN: u16 = 161;
/// What the baseline may deny or not, and own rules allow or deny.
pub const BASELINE: [u16; 3] = [8000, 8001, 8002];
/// What own rules may deny to their server.
pub const ENTERING: [u16; 2] = [8100, 8101];

#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Policy {
    /// Ports that the baseline denies to what servers send.
    pub baseline: BTreeSet<u16>,
    /// What a server's own rules say about what it sends.
    pub own: [BTreeMap<u16, bool>; SERVERS],
    /// What a server's own rules deny of what is sent to it.
    pub entering: [BTreeSet<u16>; SERVERS],
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Disguise {
    None,
    /// It bears another server's addresses.
    Address,
    /// It bears another server's MAC.
    Mac,
}

/// Frames that one verdict holds for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Flow {
    pub from: usize,
    pub to: usize,
    pub port: u16,
    pub disguise: Disguise,
}

impl fmt::Display for Flow {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} to {} port {}", NAMES[self.from], NAMES[self.to], self.port)?;
        match self.disguise {
            Disguise::None => Ok(()),
            Disguise::Address => write!(f, " with another's address"),
            Disguise::Mac => write!(f, " with another's MAC"),
        }
    }
}

impl Policy {
    /// Whether the frames of a flow pass, while its sender holds an unlock or does not.
    pub fn allows(&self, flow: &Flow, unlocked: bool) -> bool {
        flow.disguise == Disguise::None
            && (flow.from == UPLINK || self.lets_out(flow.from, flow.port, unlocked))
            && (flow.to == UPLINK || self.lets_in(flow.to, flow.port))
    }

    fn lets_out(&self, server: usize, port: u16, unlocked: bool) -> bool {
        match port {
            NEVER => false,
            LEASED => unlocked,
            _ => match self.own[server].get(&port) {
                Some(own) => *own,
                None => !self.baseline.contains(&port),
            },
        }
    }

    fn lets_in(&self, server: usize, port: u16) -> bool {
        port != NEVER_IN && !self.entering[server].contains(&port)
    }

    /// With what every server plugs into.
    pub fn document(&self, attachments: [String; SERVERS]) -> String {
        let mut text = format!(
            "version: portcullis/v1\n\
             mandatory:\n  - {{name: never, action: deny, direction: egress, protocol: udp, ports: [{NEVER}]}}\n\
             baseline:\n  - {{name: leased, action: deny, direction: egress, protocol: udp, ports: [{LEASED}]}}\n  \
             - {{name: entering, action: deny, direction: ingress, protocol: udp, ports: [{NEVER_IN}]}}\n"
        );
        if !self.baseline.is_empty() {
            let ports: Vec<u16> = self.baseline.iter().copied().collect();
            text += &format!(
                "  - {{name: drawn, action: deny, direction: egress, protocol: udp, ports: {ports:?}}}\n"
            );
        }
        text += "endpoints:\n";
        for (server, name) in NAMES.iter().enumerate().take(SERVERS) {
            let n = server + 1;
            let attachment = &attachments[server];
            text += &format!(
                "  {name}:\n    attachments: [{{{attachment}}}]\n    macs: [\"02:00:00:00:00:{n:02x}\"]\n    \
                 addresses: [192.0.2.{n}, \"2001:db8::{n:x}\"]\n    labels: {{tenant: {name}}}\n    rules:\n"
            );
            for (port, allows) in &self.own[server] {
                let action = if *allows { "allow" } else { "deny" };
                text += &format!(
                    "      - {{name: own-{port}, action: {action}, direction: egress, protocol: udp, ports: [{port}]}}\n"
                );
            }
            for port in &self.entering[server] {
                text += &format!(
                    "      - {{name: in-{port}, action: deny, direction: ingress, protocol: udp, ports: [{port}]}}\n"
                );
            }
            if self.own[server].is_empty() && self.entering[server].is_empty() {
                text.truncate(text.len() - "    rules:\n".len());
            }
        }
        text + &format!(
            "programs:\n  game:\n    opens: [{{direction: egress, protocol: udp, ports: [{LEASED}]}}]\n    \
             lease: {{default: 2s, max: 100h}}\n    limits: {{per_endpoint: 100000}}\n"
        )
    }
}

/// Every flow: what is always allowed or denied, what changes, what is spoofed.
pub fn flows() -> Vec<Flow> {
    let mut flows = Vec::new();
    let mut add = |from, to, port, disguise| {
        flows.push(Flow {
            from,
            to,
            port,
            disguise,
        });
    };
    for server in 0..SERVERS {
        for port in [ALWAYS, NEVER, LEASED].into_iter().chain(BASELINE) {
            add(server, UPLINK, port, Disguise::None);
        }
        for port in [ALWAYS, NEVER_IN].into_iter().chain(ENTERING) {
            add(UPLINK, server, port, Disguise::None);
        }
        let neighbour = (server + 1) % SERVERS;
        for port in [ALWAYS, NEVER, BASELINE[0], ENTERING[0]] {
            add(server, neighbour, port, Disguise::None);
        }
        add(server, UPLINK, ALWAYS, Disguise::Address);
        add(server, UPLINK, ALWAYS, Disguise::Mac);
    }
    flows
}

/// Stands before the number of a frame.
const MARK: &[u8; 8] = b"\xa5soak\x5apc";

fn mac(host: usize) -> [u8; 6] {
    [2, 0, 0, 0, 0, number(host)]
}

/// The last byte of its addresses.
pub fn number(host: usize) -> u8 {
    if host == UPLINK { 9 } else { host as u8 + 1 }
}

/// A frame of a flow with a number.
pub fn frame(flow: &Flow, sequence: u64, ipv6: bool) -> Vec<u8> {
    let other = (flow.from + 1) % SERVERS;
    let as_mac = if flow.disguise == Disguise::Mac {
        other
    } else {
        flow.from
    };
    let as_address = if flow.disguise == Disguise::Address {
        other
    } else {
        flow.from
    };
    let builder = PacketBuilder::ethernet2(mac(as_mac), mac(flow.to));
    let v6 = |host: usize| [0x20, 1, 0x0d, 0xb8, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, number(host)];
    let builder = if ipv6 {
        builder.ipv6(v6(as_address), v6(flow.to), 64)
    } else {
        builder.ipv4([192, 0, 2, number(as_address)], [192, 0, 2, number(flow.to)], 64)
    };
    let mut payload = MARK.to_vec();
    payload.extend(sequence.to_be_bytes());
    let mut frame = Vec::new();
    builder
        .udp(40_000, flow.port)
        .write(&mut frame, &payload)
        .unwrap();
    frame
}

/// The number of a frame of ours.
pub fn sequence(frame: &[u8]) -> Option<u64> {
    // An ICMP error quotes a frame and is none.
    let next_header = match frame.get(12..14)? {
        [0x08, 0x00] => *frame.get(23)?,
        [0x86, 0xdd] => *frame.get(20)?,
        _ => return None,
    };
    let at = frame.windows(MARK.len()).position(|part| part == MARK)?;
    let digits = frame.get(at + MARK.len()..)?.get(..8)?;
    (next_header == 17).then(|| u64::from_be_bytes(digits.try_into().unwrap()))
}
