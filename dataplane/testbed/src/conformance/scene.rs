//! The documents of the suite, and the packets that are tried.

use std::net::{IpAddr, Ipv4Addr};

use portcullis_policy::{
    Direction, Document, Fragment, Frame, IpPacket, L4, Packet, Verdict, View, effective,
};

use super::Subject;

/// A document: TCP ports blocked for `web` and `mail`, and whether they have more or less than that.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Scene {
    /// The list of ports that are blocked; empty when none is.
    pub blocked: &'static str,
    /// Whether there is a `mail` at all.
    pub mail: bool,
    /// Whether `mail` may send to port 25 all the same.
    pub smtp: bool,
}

const fn scene(blocked: &'static str, mail: bool, smtp: bool) -> Scene {
    Scene { blocked, mail, smtp }
}

impl Scene {
    /// No port is blocked.
    pub const OPEN: Scene = scene("", true, false);
    /// Port 25 is blocked.
    pub const CLOSED: Scene = scene("25", true, false);
    /// The same, and `mail` is gone.
    pub const ALONE: Scene = scene("25", false, false);
    /// Neighbours differ in few ports or in many, in one endpoint or in both, in rules or in who is there.
    pub const ALL: [Scene; 10] = [
        Scene::CLOSED,
        scene("25, 465", true, false),
        scene("465, 587", true, false),
        scene("25, 465, 587", true, true),
        Scene::ALONE,
        Scene::CLOSED,
        Scene::OPEN,
        scene("25, \"6660-6669\"", true, true),
        scene("80", true, false),
        scene("25", true, true),
    ];

    /// The document, for a subject.
    pub fn document<S: Subject>(&self) -> Document {
        let endpoint = |name: &str| {
            format!(
                "  {name}:\n    attachments: [{{{}}}]\n    macs: [\"02:00:00:00:00:0{}\"]\n    addresses: [{}]\n",
                S::attachment(name),
                number(name),
                local(name),
            )
        };
        let mut yaml = "version: portcullis/v1\n".to_string();
        if !self.blocked.is_empty() {
            let rule = "{name: blocked, action: deny, direction: egress, protocol: tcp, ports: ";
            yaml += &format!("baseline:\n  - {rule}[{}]}}\n", self.blocked);
        }
        yaml += &format!("endpoints:\n{}", endpoint("web"));
        if self.mail {
            yaml += &endpoint("mail");
            if self.smtp {
                let rule = "{name: smtp, action: allow, direction: egress, protocol: tcp, ports: [25]}";
                yaml += &format!("    rules:\n      - {rule}\n");
            }
        }
        match Document::from_yaml(&yaml) {
            Ok(document) => document,
            Err(error) => panic!("{error}\n{yaml}"),
        }
    }
}

fn number(endpoint: &str) -> u8 {
    if endpoint == "web" { 1 } else { 2 }
}

fn local(endpoint: &str) -> Ipv4Addr {
    [192, 0, 2, number(endpoint)].into()
}

/// A TCP SYN that an endpoint sends to a port of [`REMOTE`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Probe {
    pub endpoint: &'static str,
    pub port: u16,
}

/// Whom packets are for.
pub const REMOTE: Ipv4Addr = Ipv4Addr::new(198, 51, 100, 9);
/// Destination MAC, which no endpoint declares.
pub const REMOTE_MAC: u64 = 0x0200_0000_0077;
/// The port they come from.
pub const SOURCE_PORT: u16 = 40_000;
/// SYN, and nothing else.
pub const FLAGS: u16 = 2;
/// The ports that are tried.
pub const PORTS: [u16; 5] = [25, 80, 465, 587, 6667];

impl Probe {
    /// Every packet that is tried.
    pub fn all() -> impl Iterator<Item = Probe> {
        let of = |endpoint| PORTS.into_iter().map(move |port| Probe { endpoint, port });
        of("web").chain(of("mail"))
    }

    /// The number of the endpoint's port, and the last byte of its MAC and its address.
    pub fn number(&self) -> u8 {
        number(self.endpoint)
    }

    pub fn mac(&self) -> u64 {
        0x0200_0000_0000 | u64::from(self.number())
    }

    pub fn local(&self) -> Ipv4Addr {
        local(self.endpoint)
    }

    /// What a document says of it; `None` when the endpoint is not in it.
    pub fn says(&self, document: &Document) -> Option<Verdict> {
        let endpoint = document.endpoints.get(self.endpoint)?;
        let policy = effective(document, self.endpoint, endpoint, Direction::Egress);
        let frame = Frame::Ip(IpPacket {
            local: IpAddr::V4(self.local()),
            remote: IpAddr::V4(REMOTE),
            protocol: Some(6),
            fragment: Fragment::Whole,
            l4: L4::Ports {
                src: SOURCE_PORT,
                dst: self.port,
                flags: FLAGS,
            },
        });
        Some(policy.judge(&Packet { frame }, View::FULL).0)
    }

    /// It, as a frame.
    pub fn frame(&self) -> Vec<u8> {
        let mut frame: Vec<u8> = mac_bytes(REMOTE_MAC).chain(mac_bytes(self.mac())).collect();
        frame.extend([8, 0, 0x45, 0, 0, 40, 0, 0, 0, 0, 64, 6, 0, 0]);
        frame.extend(self.local().octets());
        frame.extend(REMOTE.octets());
        frame.extend(SOURCE_PORT.to_be_bytes());
        frame.extend(self.port.to_be_bytes());
        frame.extend([0, 0, 0, 0, 0, 0, 0, 0, 0x50, 2, 0, 0, 0, 0, 0, 0]);
        frame
    }
}

/// The six bytes of a MAC.
fn mac_bytes(mac: u64) -> impl Iterator<Item = u8> {
    mac.to_be_bytes().into_iter().skip(2)
}
