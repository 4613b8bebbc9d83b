//! Port specifications, `NUMBER=KIND:WHAT`, and their DPDK device strings.

use std::fmt;
use std::str::FromStr;

use portcullis_fastpath::PORTS;

/// The last number of a port. 511 means "drop" to a P4 program for v1model.
pub const LAST: u16 = PORTS as u16 - 2;

/// A port as the command line or the file gives it: `NUMBER=KIND:WHAT`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PortSpec {
    /// Its number in P4Runtime and in the policy document.
    pub number: u16,
    pub kind: Kind,
}

/// The device behind a port.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Kind {
    /// A TAP interface, made with the switch and removed with it.
    Tap(String),
    /// A kernel interface, used through packet sockets.
    AfPacket(String),
    /// A network card at a PCI address.
    Pci(String),
    /// A vhost-user server at the path of a socket, for a virtual machine.
    VhostUser(String),
    /// Frames are received from one pcap file and sent to another.
    Pcap {
        /// File of the frames that come in; none come in without.
        rx: Option<String>,
        /// File that frames are written to; they are discarded without.
        tx: Option<String>,
        /// Start the file again at its end.
        repeat: bool,
    },
    /// Sent frames are received again.
    Ring,
    /// Discards what is sent and receives empty frames.
    Null,
    /// Any DPDK device, by its device string.
    Device(String),
}

/// Why a text is not a port.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PortError {
    /// The text has no `=`.
    #[error("port \"{0}\": write NUMBER=KIND:WHAT, like 1=af_packet:eth0")]
    Shape(String),
    /// A number out of range.
    #[error("port \"{text}\": the number must be 0 to {LAST}, not \"{number}\"")]
    Number {
        /// The port as written.
        text: String,
        /// What stands before `=`.
        number: String,
    },
    /// A kind that does not exist.
    #[error(
        "port \"{text}\": \"{kind}\" is none of tap, af_packet, pci, vhost_user, pcap, ring, null, device"
    )]
    Kind {
        /// The port as written.
        text: String,
        /// What stands between `=` and `:`.
        kind: String,
    },
    /// What follows the kind is missing or wrong.
    #[error("port \"{text}\": {why}")]
    What {
        /// The port as written.
        text: String,
        /// What is missing or wrong, with an example.
        why: &'static str,
    },
    /// Two ports have the same number.
    #[error("there are two ports with number {0}")]
    Twice(u16),
}

impl FromStr for PortSpec {
    type Err = PortError;

    fn from_str(text: &str) -> Result<Self, PortError> {
        let (number, rest) = text
            .split_once('=')
            .ok_or_else(|| PortError::Shape(text.to_string()))?;
        let digits = number.strip_prefix('p').unwrap_or(number);
        let parsed = digits.parse::<u16>().ok().filter(|n| *n <= LAST);
        let number = parsed.ok_or_else(|| PortError::Number {
            text: text.to_string(),
            number: number.to_string(),
        })?;
        let (kind, what) = rest.split_once(':').unwrap_or((rest, ""));
        let what = what.to_string();
        let wrong = |why| PortError::What {
            text: text.to_string(),
            why,
        };
        let interface = |what: String| {
            // IFNAMSIZ, with its zero.
            let right = !what.is_empty() && what.len() < 16 && !what.contains(['/', ',', ' ', '=']);
            right.then_some(what).ok_or_else(|| {
                wrong("the name of an interface is 1 to 15 characters without / , = and spaces")
            })
        };
        let given = |what: String, why| {
            (!what.is_empty() && !what.contains(','))
                .then_some(what)
                .ok_or_else(|| wrong(why))
        };
        let kind = match kind {
            "tap" => Kind::Tap(interface(what)?),
            "af_packet" => Kind::AfPacket(interface(what)?),
            "pci" => Kind::Pci(given(
                what,
                "write the address of the card, like pci:0000:01:00.0",
            )?),
            "vhost_user" => Kind::VhostUser(given(what, "write the path of its socket, without commas")?),
            "pcap" => pcap(&what).map_err(wrong)?,
            "ring" if what.is_empty() => Kind::Ring,
            "null" if what.is_empty() => Kind::Null,
            "ring" | "null" => return Err(wrong("nothing follows this kind")),
            "device" if !what.is_empty() => Kind::Device(what),
            "device" => return Err(wrong("write what DPDK calls it, like device:net_ring0")),
            other => {
                return Err(PortError::Kind {
                    text: text.to_string(),
                    kind: other.to_string(),
                });
            }
        };
        Ok(PortSpec { number, kind })
    }
}

fn pcap(what: &str) -> Result<Kind, &'static str> {
    const HOW: &str = "write pcap:rx=FILE,tx=FILE,repeat with at least one of the files";
    let (mut rx, mut tx, mut repeat) = (None, None, false);
    for part in what.split(',') {
        match part.split_once('=') {
            Some(("rx", file)) if !file.is_empty() => rx = Some(file.to_string()),
            Some(("tx", file)) if !file.is_empty() => tx = Some(file.to_string()),
            None if part == "repeat" => repeat = true,
            _ => return Err(HOW),
        }
    }
    if rx.is_none() && (tx.is_none() || repeat) {
        return Err(HOW);
    }
    Ok(Kind::Pcap { rx, tx, repeat })
}

impl PortSpec {
    /// Name of the kernel interface, where the port is one. The switch uses packet sockets of its own: DPDK's
    /// driver (`device:net_af_packet0,iface=NAME`) loses every IPv4 fragment, since its sockets reassemble them.
    pub fn interface(&self) -> Option<&str> {
        match &self.kind {
            Kind::AfPacket(name) => Some(name),
            _ => None,
        }
    }

    /// DPDK's device string; for a kernel interface a description.
    pub fn devargs(&self) -> String {
        let n = self.number;
        match &self.kind {
            Kind::Tap(name) => format!("net_tap{n},iface={name}"),
            Kind::AfPacket(name) => format!("packet socket on {name}"),
            Kind::Pci(address) => address.clone(),
            Kind::VhostUser(path) => format!("net_vhost{n},iface={path},queues=1"),
            Kind::Pcap { rx, tx, repeat } => {
                let mut text = format!("net_pcap{n}");
                for (key, file) in [("rx_pcap", rx), ("tx_pcap", tx)] {
                    if let Some(file) = file {
                        text.push_str(&format!(",{key}={file}"));
                    }
                }
                if *repeat {
                    text.push_str(",infinite_rx=1");
                }
                text
            }
            Kind::Ring => format!("net_ring{n}"),
            Kind::Null => format!("net_null{n}"),
            Kind::Device(args) => args.clone(),
        }
    }

    /// Whether it is a network card, which needs the PCI bus.
    pub fn is_hardware(&self) -> bool {
        matches!(self.kind, Kind::Pci(_))
    }
}

impl Kind {
    /// Its word and what follows it, as they are written; nothing follows `ring` and `null`.
    pub fn parts(&self) -> (&'static str, String) {
        match self {
            Kind::Tap(name) => ("tap", name.clone()),
            Kind::AfPacket(name) => ("af_packet", name.clone()),
            Kind::Pci(address) => ("pci", address.clone()),
            Kind::VhostUser(path) => ("vhost_user", path.clone()),
            Kind::Pcap { rx, tx, repeat } => {
                let parts = [
                    rx.as_ref().map(|file| format!("rx={file}")),
                    tx.as_ref().map(|file| format!("tx={file}")),
                    repeat.then(|| "repeat".to_string()),
                ];
                let parts: Vec<String> = parts.into_iter().flatten().collect();
                ("pcap", parts.join(","))
            }
            Kind::Ring => ("ring", String::new()),
            Kind::Null => ("null", String::new()),
            Kind::Device(args) => ("device", args.clone()),
        }
    }
}

impl fmt::Display for PortSpec {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (kind, what) = self.kind.parts();
        write!(f, "{}={kind}", self.number)?;
        if what.is_empty() {
            return Ok(());
        }
        write!(f, ":{what}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ports_are_written_and_read() {
        for (text, devargs) in [
            ("0=tap:pc0", "net_tap0,iface=pc0"),
            ("2=pci:0000:01:00.0", "0000:01:00.0"),
            (
                "3=vhost_user:/run/vm.sock",
                "net_vhost3,iface=/run/vm.sock,queues=1",
            ),
            (
                "4=pcap:rx=a.pcap,repeat",
                "net_pcap4,rx_pcap=a.pcap,infinite_rx=1",
            ),
            (
                "5=pcap:rx=a.pcap,tx=b.pcap",
                "net_pcap5,rx_pcap=a.pcap,tx_pcap=b.pcap",
            ),
            ("6=ring", "net_ring6"),
            ("510=null", "net_null510"),
            ("7=device:net_null9,size=64", "net_null9,size=64"),
        ] {
            let port: PortSpec = text.parse().unwrap();
            assert_eq!(port.devargs(), devargs);
            assert_eq!(port.to_string(), text);
        }
        assert_eq!("p1=af_packet:eth0".parse::<PortSpec>().unwrap().number, 1);
    }

    #[test]
    fn what_is_no_port_is_told() {
        for (text, told) in [
            ("eth0", "NUMBER=KIND:WHAT"),
            ("511=null", "0 to 510"),
            ("x=null", "0 to 510"),
            ("1=veth:a", "none of tap"),
            ("1=tap:", "1 to 15 characters"),
            ("1=af_packet:a,b", "1 to 15 characters"),
            ("1=pci:", "address of the card"),
            ("1=pcap:repeat", "at least one"),
            ("1=pcap:tx=", "at least one"),
            ("1=null:3", "nothing follows"),
            ("1=device:", "what DPDK calls it"),
        ] {
            let error = text.parse::<PortSpec>().unwrap_err().to_string();
            assert!(error.contains(told) && error.contains(text), "{error}");
        }
    }
}
