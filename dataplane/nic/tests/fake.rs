//! A NIC with faults.

use std::collections::BTreeMap;

use portcullis_nic::{Capabilities, FlowApi, FlowCount, PortMatch, Refusal, Rule, Until};

/// A NIC of certain capabilities that misbehaves as it is set.
#[derive(Debug, Clone, Default)]
pub struct FakeNic {
    pub takes: Capabilities,
    /// Rules that it has room for.
    pub room: usize,
    /// What is really on it, with what each rule has counted.
    pub rules: BTreeMap<u64, (Rule, u64)>,
    next: u64,
    /// Creations left until one fails.
    pub fails_after: Option<u32>,
    /// It says yes to every question.
    pub validate_lies: bool,
    /// It removes no single rule, and says so.
    pub keeps_rules: bool,
    /// It does not flush either.
    pub keeps_all: bool,
    /// It no longer says what rules counted.
    pub is_mute: bool,
    /// It cannot be asked what rules counted.
    pub is_unread: bool,
    /// It has no room for rules about this destination port.
    pub refuses: Option<u16>,
    /// Flushes left until none works.
    pub keeps_all_after: Option<u32>,
    /// It is not ready for rules.
    pub is_busy: bool,
    /// It takes no address beside ports.
    pub ports_or_addresses: bool,
    /// It counts only rules without an address.
    pub counts_all_or_nothing: bool,
    /// Questions whether it would take a rule.
    pub asked: u32,
    /// Rules that were created, canaries included.
    pub created: Vec<Rule>,
    pub resets: u64,
}

fn refusal(why: &str, until: Until) -> Refusal {
    Refusal {
        why: why.to_owned(),
        until,
    }
}

impl FakeNic {
    pub fn new(takes: Capabilities, room: usize) -> Self {
        FakeNic {
            takes,
            room,
            ..FakeNic::default()
        }
    }

    /// A frame comes in that a rule drops.
    pub fn drops(&mut self, rule: &Rule, packets: u64) {
        let there = self.rules.values_mut().find(|(there, _)| there == rule);
        there.unwrap_or_else(|| panic!("{rule} is not on the NIC")).1 += packets;
    }

    /// The port resets: its rules are gone.
    pub fn reset(&mut self) {
        self.rules.clear();
        self.resets += 1;
    }

    fn lack(&self, rule: &Rule, count: bool) -> Result<(), Refusal> {
        match self.takes.lack(rule) {
            Some(what) => Err(refusal(what, Until::Always)),
            None if count && !self.takes.count => Err(refusal("count", Until::Always)),
            None => Ok(()),
        }
    }
}

impl FlowApi for FakeNic {
    type Handle = u64;

    fn validate(&mut self, rule: &Rule, count: bool) -> Result<(), Refusal> {
        self.asked += 1;
        if self.validate_lies {
            Ok(())
        } else {
            self.lack(rule, count)
        }
    }

    fn create(&mut self, rule: &Rule, count: bool) -> Result<u64, Refusal> {
        self.lack(rule, count)?;
        if self.is_busy {
            return Err(refusal("device or resource busy", Until::Later));
        }
        if self.ports_or_addresses && rule.has_ports() && !rule.dst.is_any() {
            return Err(refusal("an address beside ports", Until::Always));
        }
        if count && self.counts_all_or_nothing && !rule.dst.is_any() {
            return Err(refusal("count with an address", Until::Always));
        }
        if let Some(left) = &mut self.fails_after {
            if *left == 0 {
                self.fails_after = None;
                return Err(refusal("a fault", Until::Always));
            }
            *left -= 1;
        }
        let refused = self.refuses.map(PortMatch::Exact);
        if self.rules.len() >= self.room || refused == Some(rule.dst_port) {
            return Err(refusal("no space left on device", Until::ThereIsRoom));
        }
        self.next += 1;
        self.created.push(rule.clone());
        self.rules.insert(self.next, (rule.clone(), 0));
        Ok(self.next)
    }

    fn query(&mut self, handle: &u64) -> Result<FlowCount, Refusal> {
        if self.is_unread {
            return Err(refusal("not now", Until::Later));
        }
        let (_, packets) = self
            .rules
            .get(handle)
            .ok_or_else(|| refusal("no such rule", Until::Always))?;
        Ok(FlowCount {
            packets: (!self.is_mute).then_some(*packets),
            bytes: None,
        })
    }

    fn destroy(&mut self, handle: u64) -> Result<(), Refusal> {
        if self.keeps_rules {
            return Err(refusal("device or resource busy", Until::Later));
        }
        self.rules
            .remove(&handle)
            .map(drop)
            .ok_or_else(|| refusal("no such rule", Until::Always))
    }

    fn flush(&mut self) -> Result<(), Refusal> {
        if let Some(left) = &mut self.keeps_all_after {
            self.keeps_all |= *left == 0;
            *left = left.saturating_sub(1);
        }
        if self.keeps_all {
            return Err(refusal("device or resource busy", Until::Later));
        }
        self.rules.clear();
        Ok(())
    }

    fn resets(&self) -> u64 {
        self.resets
    }
}
