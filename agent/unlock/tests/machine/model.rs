//! What the model lets pass, against what passes.

use std::net::IpAddr;

use portcullis_policy::{
    Approval, Direction, Fragment, Frame, IpPacket, L4, Name, OpenScope, Packet, PortRange, Verdict, View,
    effective,
};
use portcullis_unlock::judge;
use portcullis_unlock::ledger::{State, Unlock};

use super::events::{PORTS, TIMED};
use super::world::World;

impl World {
    /// Whether the model lets an unlock open a port for an address now.
    pub fn grantable(&self, unlock: &Unlock, port: u16, address: &str) -> bool {
        let endpoint = &self.document.endpoints[&unlock.endpoint];
        let program = &self.document.programs[&unlock.program];
        let Some(lease) = self.leases.get(unlock.id.as_str()) else {
            return false;
        };
        let longest = program.lease.longest().as_seconds();
        let in_time = self.ran < lease.ends.min(lease.began + longest)
            && self.wall < lease.wall_ends.min(lease.wall_began + longest as i64);
        let wanted = if self.variant == 5 { "no" } else { "yes" };
        let late = self.late.is_some_and(|since| self.ran >= since + 60);
        let paid = unlock.program.as_str() != "base" || endpoint.labels["paid"] == wanted && !late;
        let opens = program.opens.iter().any(|opening| {
            let within = |range: &PortRange| range.low <= port && port <= range.high;
            opening.ports.iter().any(within)
        });
        // Of a prefix nothing can be checked.
        let is_prefix = address.contains("::/");
        let scope = program.scope == OpenScope::All;
        let judged = program.checks.is_empty()
            || self
                .judged
                .get(&unlock.id)
                .is_some_and(|addresses| addresses.contains(address) && (scope || !is_prefix));
        let manual = program.approval == Approval::Manual;
        let person = self.approved.get(&unlock.id).is_some_and(|(ports, all)| {
            let within = |range: &PortRange| range.low <= port && port <= range.high;
            let checked = program.checks.is_empty() || !is_prefix;
            ports.iter().any(within) && (*all || checked)
        });
        unlock.state.is_open()
            && in_time
            && unlock.tenant == self.tenant(unlock.endpoint.as_str())
            && paid
            && opens
            && judged
            && (person || !manual)
    }

    /// Compares what passes with what the model says may pass.
    pub fn check(&self) {
        for endpoint in ["a", "b"] {
            let name: Name = endpoint.parse().unwrap();
            let Some(body) = self.document.endpoints.get(&name) else {
                continue;
            };
            let policy = effective(&self.document, endpoint, body, Direction::Egress);
            let addresses = self.addresses(endpoint);
            for ((program, port), address) in PORTS
                .into_iter()
                .flat_map(|one| addresses.iter().map(move |address| (one, address)))
            {
                let passes = policy.judge(&packet(port, address), View::FULL).0 == Verdict::Allow;
                let of = |u: &&Unlock| u.endpoint == name && u.program.as_str() == program;
                let granted = self
                    .stored
                    .values()
                    .filter(of)
                    .any(|unlock| self.grantable(unlock, port, address));
                assert!(
                    !passes || granted,
                    "port {port} of {endpoint} is open for {address}, which would not be granted: {:#?}",
                    self.ledger
                );
                let locked = self.stored.values().filter(of).any(|unlock| {
                    let until = self.quarantines.get(unlock.id.as_str());
                    let denies = unlock
                        .opens
                        .iter()
                        .flat_map(|rule| &rule.ports)
                        .any(|p| p.low == port);
                    unlock.state == State::Revoked && denies && until.is_some_and(|until| self.ran < *until)
                });
                assert!(
                    !passes || !locked,
                    "port {port} of {endpoint} is open in quarantine"
                );
            }
            let is_open = |program: &str| {
                self.ledger
                    .of_endpoint(endpoint)
                    .any(|u| u.program.as_str() == program && u.state.is_open())
            };
            assert!(
                !is_open("built") || is_open("base"),
                "what it is built on has ended"
            );
            let of_base = self
                .ledger
                .of_endpoint(endpoint)
                .filter(|u| u.program.as_str() == "base");
            assert!(
                of_base.filter(|u| !u.state.has_ended()).count() <= 2,
                "more than per_endpoint allows"
            );
        }
        let known = judge::Known {
            document: &self.document,
            ledger: &self.ledger,
            now: self.now(),
        };
        for unlock in self.ledger.iter() {
            let judged = unlock.state.is_open() && self.variant != TIMED;
            let why = judge::unmet(unlock, &known).filter(|_| judged);
            assert_eq!(why, None, "{unlock:#?}");
        }
        // What a restart would take up is what there is.
        for unlock in self.ledger.iter() {
            assert_eq!(self.stored.get(&unlock.id), Some(&**unlock));
        }
    }
}

/// A SYN to a port of somebody.
fn packet(port: u16, local: &str) -> Packet {
    let local: IpAddr = local.split('/').next().unwrap().parse().unwrap();
    let remote = match local {
        IpAddr::V4(_) => "198.51.100.1",
        IpAddr::V6(_) => "2001:db8:ffff::1",
    };
    Packet {
        frame: Frame::Ip(IpPacket {
            local,
            remote: remote.parse().unwrap(),
            protocol: Some(6),
            fragment: Fragment::Whole,
            l4: L4::Ports {
                src: 40_000,
                dst: port,
                flags: portcullis_policy::TCP_SYN,
            },
        }),
    }
}
