//! The NICs of a switch: one [`Offload`] for each port.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};

use crate::api::FlowApi;
use crate::capabilities::Capabilities;
use crate::facts::{Kind, ParserFacts};
use crate::lower::{Bounds, Lowered, Memo, Policy, Senders, lower};
use crate::offload::{Count, Counts, Offload, Step};
use crate::report::{PortReport, RowReport};

/// Counters that are read while a port is held.
const AT_ONCE: usize = 16;

/// The NICs of a switch, whatever is behind them.
pub trait Offloads: Send + Sync + fmt::Debug {
    /// Ports whose NICs take rules, or may take them later.
    fn ports(&self) -> &BTreeSet<u16>;

    /// Takes away the rules of ports that would be wrong for new senders: [`Offload::before`]. Returns what could not be taken away.
    fn before(&self, senders: Vec<(u16, Senders)>) -> Vec<String>;

    /// Lets rules be created for the senders that were given last: [`Offload::after`].
    fn after(&self, ports: &BTreeSet<u16>);

    /// What NICs have dropped and counted for a row.
    fn count(&self, slot: u32) -> Count;

    /// Creates the rules that are missing, until it is stopped. Returns at once where none are.
    fn fill(&self, stop: &AtomicBool);

    /// Reads counters, and sees whether ports have reset. `denied` is how many packets the switch itself has denied for a row.
    fn look(&self, denied: &dyn Fn(u32) -> u64, stop: &AtomicBool);

    /// How each NIC, and each row that denies, stands.
    fn report(&self) -> (Vec<PortReport>, Vec<RowReport>);
}

/// A port that one thread fills, and to which others go first.
#[derive(Debug)]
struct Shared<A: FlowApi> {
    offload: Mutex<Offload<A>>,
    /// How many others want it.
    waiting: Mutex<usize>,
    none_waits: Condvar,
}

impl<A: FlowApi> Shared<A> {
    fn new(offload: Offload<A>) -> Self {
        Shared {
            offload: Mutex::new(offload),
            waiting: Mutex::new(0),
            none_waits: Condvar::new(),
        }
    }

    /// For the switch, which must not wait for more than one rule.
    fn at_once(&self) -> MutexGuard<'_, Offload<A>> {
        *self.waiting.lock().unwrap_or_else(PoisonError::into_inner) += 1;
        let offload = self.offload.lock().unwrap_or_else(PoisonError::into_inner);
        let mut waiting = self.waiting.lock().unwrap_or_else(PoisonError::into_inner);
        *waiting -= 1;
        if *waiting == 0 {
            self.none_waits.notify_all();
        }
        drop(waiting);
        offload
    }

    /// For the thread that fills it: when no other wants it.
    fn in_turn(&self) -> MutexGuard<'_, Offload<A>> {
        let mut waiting = self.waiting.lock().unwrap_or_else(PoisonError::into_inner);
        while *waiting > 0 {
            waiting = self
                .none_waits
                .wait(waiting)
                .unwrap_or_else(PoisonError::into_inner);
        }
        drop(waiting);
        self.offload.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The NICs of a switch.
#[derive(Debug)]
pub struct Nics<A: FlowApi> {
    /// Every port whose device could have rules, also those where nothing is offloaded.
    all: BTreeMap<u16, Shared<A>>,
    on: BTreeSet<u16>,
    counts: Arc<Counts>,
}

/// What rules of a port depend on. Policies are those of one publication, which live as long as it does.
#[derive(Debug, PartialEq)]
struct LoweredFor {
    senders: Vec<(Option<u16>, Option<*const Policy>)>,
    capabilities: Capabilities,
    facts: ParserFacts,
    accept: BTreeSet<Kind>,
}

/// What was lowered for other ports, with the senders that keep its policies alive.
type Alike = Vec<(LoweredFor, Arc<Senders>, Arc<Lowered>)>;

impl<A: FlowApi> Nics<A> {
    /// The NICs by the numbers of their ports, which all count in `counts`.
    pub fn new(ports: impl IntoIterator<Item = (u16, Offload<A>)>, counts: Arc<Counts>) -> Self {
        let all: BTreeMap<u16, Offload<A>> = ports.into_iter().collect();
        let on = all.iter().filter(|(_, offload)| offload.may_be_on());
        Nics {
            on: on.map(|(port, _)| *port).collect(),
            all: all
                .into_iter()
                .map(|(port, offload)| (port, Shared::new(offload)))
                .collect(),
            counts,
        }
    }

    /// Finds out which rules a port could have, while others may use it.
    fn lower_one(&self, shared: &Shared<A>, alike: &mut Alike) {
        let (asked, key) = {
            let offload = shared.in_turn();
            let Some((epoch, senders)) = offload.to_lower() else {
                return;
            };
            let policies = senders
                .0
                .iter()
                .map(|(vlan, policy)| (*vlan, policy.as_ref().map(Arc::as_ptr)));
            let key = LoweredFor {
                senders: policies.collect(),
                capabilities: offload.capabilities(),
                facts: offload.bounds().facts,
                accept: offload.bounds().accept.clone(),
            };
            ((epoch, senders), key)
        };
        let (epoch, senders) = asked;
        let known = alike
            .iter()
            .find(|(of, ..)| *of == key)
            .map(|(.., lowered)| Arc::clone(lowered));
        let lowered = known.unwrap_or_else(|| {
            let bounds = Bounds {
                facts: key.facts,
                accept: &key.accept,
            };
            let lowered = Arc::new(lower(&senders, &key.capabilities, bounds));
            alike.push((key, Arc::clone(&senders), Arc::clone(&lowered)));
            lowered
        });
        shared.in_turn().lowered(epoch, lowered);
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

    fn before(&self, senders: Vec<(u16, Senders)>) -> Vec<String> {
        let mut memo = Memo::default();
        let mut faults = Vec::new();
        // All at once, so that the policies live as long as what is remembered of them.
        let senders: Vec<(u16, Arc<Senders>)> = senders
            .into_iter()
            .map(|(port, senders)| (port, Arc::new(senders)))
            .collect();
        for (port, senders) in &senders {
            if let Some(shared) = self.all.get(port) {
                let mut offload = shared.at_once();
                offload.before(Arc::clone(senders), &mut memo);
                faults.extend(
                    offload
                        .stuck
                        .as_ref()
                        .map(|stuck| format!("port {port}: {stuck}")),
                );
            }
        }
        faults
    }

    fn after(&self, ports: &BTreeSet<u16>) {
        for shared in ports.iter().filter_map(|port| self.all.get(port)) {
            shared.at_once().after();
        }
    }

    fn count(&self, slot: u32) -> Count {
        self.counts.of(slot)
    }

    fn fill(&self, stop: &AtomicBool) {
        let mut alike = Alike::new();
        for shared in self.on.iter().filter_map(|port| self.all.get(port)) {
            self.lower_one(shared, &mut alike);
            while !stop.load(Ordering::Acquire) && shared.in_turn().step() == Step::More {}
        }
    }

    fn look(&self, denied: &dyn Fn(u32) -> u64, stop: &AtomicBool) {
        for shared in self.on.iter().filter_map(|port| self.all.get(port)) {
            shared.in_turn().look();
            let mut last = None;
            loop {
                last = shared.in_turn().read_some(last.as_ref(), AT_ONCE);
                if last.is_none() || stop.load(Ordering::Acquire) {
                    break;
                }
            }
            shared.in_turn().warm(denied);
        }
    }

    fn report(&self) -> (Vec<PortReport>, Vec<RowReport>) {
        let (mut ports, mut rows) = (Vec::new(), Vec::new());
        for (port, shared) in &self.all {
            let offload = shared.at_once();
            ports.push(offload.report(*port));
            rows.extend(offload.rows(*port));
        }
        (ports, rows)
    }
}
