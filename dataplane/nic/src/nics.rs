//! The NICs of a switch: one [`Offload`] for each port.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::api::FlowApi;
use crate::lower::{Bounds, Senders, lower};
use crate::offload::{Count, Offload, Step};
use crate::report::{PortReport, RowReport};

/// The NICs of a switch, whatever is behind them.
pub trait Offloads: Send + Sync + fmt::Debug {
    /// Ports whose NICs take rules.
    fn ports(&self) -> &BTreeSet<u16>;

    /// Takes away the rules of a port that would be wrong for new senders: [`Offload::before`].
    fn before(&self, port: u16, senders: Senders);

    /// Lets rules be created for the senders that were given last: [`Offload::after`].
    fn after(&self, ports: &BTreeSet<u16>);

    /// What NICs have dropped and counted for a row.
    fn count(&self, slot: u32) -> Count;

    /// Creates the rules that are missing. Returns at once where none are.
    fn fill(&self);

    /// Reads counters, and sees whether ports have reset. `denied` is how many packets the switch itself has denied for a row.
    fn look(&self, denied: &dyn Fn(u32) -> u64);

    /// How each NIC, and each row that denies, stands.
    fn report(&self) -> (Vec<PortReport>, Vec<RowReport>);
}

/// The NICs of a switch.
#[derive(Debug)]
pub struct Nics<A: FlowApi> {
    /// Every port whose device has rules, also those where nothing can be offloaded.
    all: BTreeMap<u16, Mutex<Offload<A>>>,
    on: BTreeSet<u16>,
}

impl<A: FlowApi> Nics<A> {
    /// The NICs by the numbers of their ports.
    pub fn new(ports: impl IntoIterator<Item = (u16, Offload<A>)>) -> Self {
        let all: BTreeMap<u16, Offload<A>> = ports.into_iter().collect();
        let on = all.iter().filter(|(_, offload)| offload.is_on());
        Nics {
            on: on.map(|(port, _)| *port).collect(),
            all: all
                .into_iter()
                .map(|(port, offload)| (port, Mutex::new(offload)))
                .collect(),
        }
    }

    fn at(&self, port: u16) -> Option<MutexGuard<'_, Offload<A>>> {
        let offload = self.all.get(&port)?;
        Some(offload.lock().unwrap_or_else(PoisonError::into_inner))
    }

    fn fill_one(&self, port: u16) {
        let Some(asked) = self.at(port).map(|offload| {
            let bounds = (offload.bounds().facts, offload.bounds().accept.clone());
            (offload.to_lower(), offload.probed.capabilities, bounds)
        }) else {
            return;
        };
        if let (Some((epoch, senders)), capabilities, (facts, accept)) = asked {
            // This takes a while, and the switch must not wait for it.
            let bounds = Bounds {
                facts,
                accept: &accept,
            };
            let lowered = lower(&senders, &capabilities, bounds);
            if let Some(mut offload) = self.at(port) {
                offload.lowered(epoch, lowered);
            }
        }
        // The lock is free between two rules: a change that opens something goes before.
        while self
            .at(port)
            .is_some_and(|mut offload| offload.step() == Step::More)
        {}
    }
}

impl<A> Offloads for Nics<A>
where
    A: FlowApi + Send + fmt::Debug,
    A::Handle: Send,
{
    fn ports(&self) -> &BTreeSet<u16> {
        &self.on
    }

    fn before(&self, port: u16, senders: Senders) {
        if let Some(mut offload) = self.at(port) {
            offload.before(Arc::new(senders));
        }
    }

    fn after(&self, ports: &BTreeSet<u16>) {
        for port in ports {
            if let Some(mut offload) = self.at(*port) {
                offload.after();
            }
        }
    }

    fn count(&self, slot: u32) -> Count {
        let mut sum = Count::default();
        for port in &self.on {
            let count = self
                .at(*port)
                .map_or_else(Count::default, |offload| offload.count(slot));
            sum.packets = sum.packets.wrapping_add(count.packets);
            sum.bytes = sum.bytes.wrapping_add(count.bytes);
        }
        sum
    }

    fn fill(&self) {
        for port in &self.on {
            self.fill_one(*port);
        }
    }

    fn look(&self, denied: &dyn Fn(u32) -> u64) {
        for port in &self.on {
            if let Some(mut offload) = self.at(*port) {
                offload.look(denied);
            }
        }
    }

    fn report(&self) -> (Vec<PortReport>, Vec<RowReport>) {
        let (mut ports, mut rows) = (Vec::new(), Vec::new());
        for port in self.all.keys() {
            if let Some(offload) = self.at(*port) {
                ports.push(offload.report(*port));
                rows.extend(offload.rows(*port));
            }
        }
        (ports, rows)
    }
}
