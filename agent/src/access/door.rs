//! How many connections there are: in all and from each address or user. What is too much is closed before anything is read of
//! it. The Unix socket has places of its own, so that operators come in whatever is done to the TCP port.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv6Addr};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use super::Role;
use crate::config::Limits;

/// Where a connection is from. An IPv6 address counts as its /64, all of which one host can have.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum From {
    Address(IpAddr),
    User(u32),
}

/// The places for connections, and what is asked of those who have one.
#[derive(Debug)]
pub struct Door {
    /// Connections by TCP at a time.
    in_all: usize,
    /// Connections of one address, or of one user on the socket other than root.
    each: usize,
    /// Until when a connection must have begun a call.
    pub first_call: Duration,
    /// How long a connection may be without a call.
    pub idle: Duration,
    /// How long a request may take to arrive.
    pub arrival: Duration,
    /// Largest request of a provisioner, in bytes.
    provisioner_bytes: usize,
    /// Largest request of a tenant, a viewer, or a caller without a credential, in bytes.
    tenant_bytes: usize,
    taken: Mutex<TakenConnections>,
}

#[derive(Debug, Default)]
struct TakenConnections {
    tcp: usize,
    by: BTreeMap<From, usize>,
}

/// A place; dropping it makes it free.
#[derive(Debug)]
pub struct ConnectionSlot {
    door: Arc<Door>,
    from: From,
}

/// The address as it counts.
pub(super) fn network(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V6(v6) => Ipv6Addr::from_bits(v6.to_bits() & (u128::MAX << 64)).into(),
        v4 => v4,
    }
}

/// Descriptors that this process may have.
fn descriptors() -> usize {
    let limit = rustix::process::getrlimit(rustix::process::Resource::Nofile).current;
    limit.map_or(usize::MAX, |limit| usize::try_from(limit).unwrap_or(usize::MAX))
}

impl Door {
    /// As configured. TCP takes no more than half of the descriptors that the process may have.
    pub fn new(limits: &Limits) -> Self {
        Door {
            in_all: limits.connections.min(descriptors() / 2),
            each: limits.connections_per_address,
            first_call: limits.first_call,
            idle: limits.idle,
            arrival: limits.request_arrival,
            provisioner_bytes: limits.provisioner_message_bytes,
            tenant_bytes: limits.tenant_message_bytes,
            taken: Mutex::default(),
        }
    }

    /// The largest request of a caller by its role, in bytes, and the setting that says so. Operators have the limit of every message.
    pub(super) fn largest(&self, role: Option<Role>) -> Option<(usize, &'static str)> {
        match role {
            Some(Role::Operator) => None,
            Some(Role::Provisioner) => Some((self.provisioner_bytes, "provisioner_message_kib")),
            Some(Role::Tenant | Role::Viewer) | None => Some((self.tenant_bytes, "tenant_message_kib")),
        }
    }

    /// A place for a connection by TCP, if there is one.
    pub fn admit_address(self: &Arc<Self>, address: IpAddr) -> Option<ConnectionSlot> {
        self.admit(From::Address(network(address)))
    }

    /// A place for a connection to the socket, if there is one.
    pub fn admit_user(self: &Arc<Self>, uid: u32) -> Option<ConnectionSlot> {
        self.admit(From::User(uid))
    }

    fn admit(self: &Arc<Self>, from: From) -> Option<ConnectionSlot> {
        let mut taken = self.taken.lock().unwrap_or_else(PoisonError::into_inner);
        let own = taken.by.get(&from).copied().unwrap_or(0);
        let tcp = matches!(from, From::Address(_));
        let full = match from {
            From::Address(_) => own >= self.each || taken.tcp >= self.in_all,
            From::User(uid) => uid != 0 && own >= self.each,
        };
        if full {
            return None;
        }
        taken.by.insert(from, own + 1);
        taken.tcp += usize::from(tcp);
        Some(ConnectionSlot {
            door: Arc::clone(self),
            from,
        })
    }
}

impl Drop for ConnectionSlot {
    fn drop(&mut self) {
        let mut taken = self.door.taken.lock().unwrap_or_else(PoisonError::into_inner);
        taken.tcp -= usize::from(matches!(self.from, From::Address(_)));
        match taken.by.get_mut(&self.from) {
            Some(own) if *own > 1 => *own -= 1,
            _ => drop(taken.by.remove(&self.from)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places_are_counted_in_all_and_for_each() {
        let mut limits = crate::config::parse(std::path::Path::new("x"), "")
            .unwrap()
            .limits;
        (limits.connections, limits.connections_per_address) = (5, 2);
        let door = Arc::new(Door::new(&limits));
        let at = |text: &str| door.admit_address(text.parse().unwrap());
        let mut held = vec![at("192.0.2.1").unwrap(), at("::ffff:192.0.2.1").unwrap()];
        assert!(at("192.0.2.1").is_none());
        held.extend([at("2001:db8::1").unwrap(), at("2001:db8::2").unwrap()]);
        assert!(at("2001:db8::3").is_none());
        held.push(at("192.0.2.2").unwrap());
        assert!(at("192.0.2.3").is_none(), "five are all");
        // The socket has places of its own, and root as many as it wants.
        let users: Vec<_> = (0..100).map(|_| door.admit_user(0).unwrap()).collect();
        let one = (door.admit_user(7).unwrap(), door.admit_user(7).unwrap());
        assert!(door.admit_user(7).is_none());
        drop((users, one));
        held.clear();
        assert!(at("192.0.2.3").is_some());
        assert_eq!(door.taken.lock().unwrap().by.len(), 0);
    }
}
