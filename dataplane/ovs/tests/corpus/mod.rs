//! A corpus of crafted frames, and what each of them is by construction.
//!
//! Nothing here parses a frame: the abstract packet is kept beside the bytes from the moment they are made.

#![allow(dead_code, reason = "test binaries use what they need of it")]

pub mod control;
pub mod craft;
pub mod documents;
pub mod ether;
pub mod expect;
pub mod guard;
pub mod headers;
pub mod rules;
pub mod run;
pub mod services;

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

pub type Mac = [u8; 6];

/// The hosts around the switch: name of the interface, number, what the documents make of it.
pub const HOSTS: [(&str, u8); 6] = [
    ("web1", 1),
    ("mail1", 2),
    ("free1", 3),
    ("bare1", 4),
    ("stray", 5),
    ("internet", 9),
];

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Host(pub usize);

/// ManagedPort, guarded by MAC and addresses.
pub const WEB: Host = Host(0);
/// The same, with other rules.
pub const MAIL: Host = Host(1);
/// ManagedPort that may send with any source (`source_guard: false`).
pub const FREE: Host = Host(2);
/// ManagedPort, guarded by its MAC alone.
pub const BARE: Host = Host(3);
/// A port without an endpoint.
pub const STRAY: Host = Host(4);
pub const INTERNET: Host = Host(5);

impl Host {
    pub fn all() -> impl Iterator<Item = Host> {
        (0..HOSTS.len()).map(Host)
    }

    pub fn name(self) -> &'static str {
        HOSTS[self.0].0
    }

    fn number(self) -> u8 {
        HOSTS[self.0].1
    }

    pub fn mac(self) -> Mac {
        [2, 0, 0, 0, 0, self.number()]
    }

    pub fn v4(self) -> IpAddr {
        Ipv4Addr::new(192, 0, 2, self.number()).into()
    }

    pub fn v6(self) -> IpAddr {
        Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, self.number().into()).into()
    }

    pub fn ip(self, v6: bool) -> IpAddr {
        if v6 { self.v6() } else { self.v4() }
    }
}

/// Every frame of a run, in a fixed order.
pub fn corpus() -> Vec<craft::Frame> {
    let mut corpus = craft::Corpus::default();
    everything(&mut corpus);
    corpus.frames
}

/// The same, and more of what only routers and DHCP servers send.
pub fn with_services() -> Vec<craft::Frame> {
    let mut corpus = craft::Corpus::default();
    everything(&mut corpus);
    services::add(&mut corpus);
    corpus.frames
}

fn everything(corpus: &mut craft::Corpus) {
    rules::add(corpus);
    headers::add(corpus);
    ether::add(corpus);
    guard::add(corpus);
    control::add(corpus);
}
