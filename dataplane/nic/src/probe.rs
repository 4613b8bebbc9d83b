//! Asks a NIC with canary rules what it takes.

use std::collections::BTreeSet;

use crate::api::{FlowApi, Refusal, Until};
use crate::capabilities::Capabilities;
use crate::rule::{Address, Family, PortMatch, Rule};

/// What came of the canary rules.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Probed {
    /// What the NIC takes.
    pub capabilities: Capabilities,
    /// What it refused, each with its words.
    pub refused: Vec<String>,
    /// What it said it would take, and then did not.
    pub untrue: Vec<String>,
    /// What it takes only in rules without an address, by the name of the canary.
    pub without_address: BTreeSet<String>,
    /// Whether some refusal was one for now, so that it is worth asking again.
    pub is_for_now: bool,
    /// Why a canary could not be removed: it may drop packets.
    pub stuck: Option<String>,
}

/// Whether the switch forwards already.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Traffic {
    /// Not yet: canaries may match any packet for a moment.
    None,
    /// It does: canaries match packets to documentation addresses alone, which no network carries. What the NIC took only without an
    /// address when there was no traffic ([`Probed::without_address`]) is not asked again: the rules themselves will tell.
    Flows(BTreeSet<String>),
}

/// TEST-NET-1 (RFC 5737) and the documentation prefix (RFC 3849): no packet on a network has these addresses.
const NOWHERE: [u128; 2] = [0xc000_0201, 0x2001_0db8 << 96 | 1];
/// The service "discard" (RFC 863), for a NIC that does not match addresses beside ports.
const DISCARD: u16 = 9;

/// Puts canary rules on the NIC, one at a time, and takes them away again. What [`FlowApi::validate`] says is compared and not relied
/// on: drivers say yes to rules that they do not take.
pub fn probe(api: &mut impl FlowApi, traffic: Traffic) -> Probed {
    let mut canary = Canary {
        api,
        traffic,
        probed: Probed::default(),
    };
    canary.families();
    let found = canary.probed.capabilities;
    if !found.drop {
        return canary.probed;
    }
    let families: Vec<Family> = Family::BOTH.into_iter().filter(|f| found.has(*f)).collect();
    canary.addresses(&families);
    for (protocol, name) in [(6, "TCP"), (17, "UDP"), (132, "SCTP")] {
        let rule = |family| plain(family, Some(protocol));
        let takes = families
            .iter()
            .all(|family| canary.takes(name, &rule(*family), false));
        let found = &mut canary.probed.capabilities;
        match protocol {
            6 => found.tcp = takes,
            17 => found.udp = takes,
            _ => found.sctp = takes,
        }
    }
    canary.ports(&families);
    let family = families.first().copied().unwrap_or(Family::V4);
    canary.probed.capabilities.count = canary.takes("count", &plain(family, None), true);
    canary.probed
}

/// A rule for packets to nowhere.
fn plain(family: Family, protocol: Option<u8>) -> Rule {
    Rule {
        family,
        protocol,
        src: Address::default(),
        dst: nowhere(family),
        src_port: PortMatch::Any,
        dst_port: PortMatch::Any,
    }
}

fn nowhere(family: Family) -> Address {
    let [v4, v6] = NOWHERE;
    Address {
        value: if family == Family::V4 { v4 } else { v6 },
        mask: family.bits(),
    }
}

impl Capabilities {
    fn has(&self, family: Family) -> bool {
        match family {
            Family::V4 => self.ipv4,
            Family::V6 => self.ipv6,
        }
    }
}

struct Canary<'a, A> {
    api: &'a mut A,
    traffic: Traffic,
    probed: Probed,
}

impl<A: FlowApi> Canary<'_, A> {
    fn families(&mut self) {
        for family in Family::BOTH {
            let name = if family == Family::V4 {
                "drop of IPv4"
            } else {
                "drop of IPv6"
            };
            let takes = self.takes(name, &plain(family, None), false);
            let found = &mut self.probed.capabilities;
            found.drop |= takes;
            match family {
                Family::V4 => found.ipv4 = takes,
                Family::V6 => found.ipv6 = takes,
            }
        }
    }

    fn addresses(&mut self, families: &[Family]) {
        let host = |family: Family| Rule {
            src: nowhere(family),
            ..plain(family, None)
        };
        let prefix = |family: Family| Rule {
            dst: Address {
                value: nowhere(family).value & !0xff,
                mask: family.bits() & !0xff,
            },
            ..host(family)
        };
        let hosts = families.iter().all(|f| self.takes("addresses", &host(*f), false));
        let prefixes = families
            .iter()
            .all(|f| self.takes("prefixes", &prefix(*f), false));
        let found = &mut self.probed.capabilities;
        (found.hosts, found.prefixes) = (hosts, prefixes);
    }

    fn ports(&mut self, families: &[Family]) {
        let Capabilities { tcp, udp, .. } = self.probed.capabilities;
        let Some(protocol) = [(tcp, 6), (udp, 17)].into_iter().find(|(there, _)| *there) else {
            return;
        };
        let exact = PortMatch::Exact(DISCARD);
        let masked = PortMatch::Masked {
            value: DISCARD & !1,
            mask: !1,
        };
        let range = PortMatch::Range {
            low: DISCARD,
            high: DISCARD + 1,
        };
        let mut found = [[false; 3]; 2];
        for (kinds, is_source) in found.iter_mut().zip([true, false]) {
            for (takes, port) in kinds.iter_mut().zip([exact, masked, range]) {
                let name = if is_source {
                    "source port"
                } else {
                    "destination port"
                };
                let with = |family| {
                    let rule = plain(family, Some(protocol.1));
                    match is_source {
                        true => Rule {
                            src_port: port,
                            ..rule
                        },
                        false => Rule {
                            dst_port: port,
                            ..rule
                        },
                    }
                };
                *takes = families
                    .iter()
                    .all(|family| self.takes(&format!("{name} {port}"), &with(*family), false));
            }
        }
        for (kinds, is_source) in found.into_iter().zip([true, false]) {
            let [exact, masked, range] = kinds;
            let capabilities = &mut self.probed.capabilities;
            let matching = if is_source {
                &mut capabilities.src_port
            } else {
                &mut capabilities.dst_port
            };
            *matching = crate::capabilities::PortMatching { exact, masked, range };
        }
    }

    /// Whether the NIC takes a rule, to nowhere or, if it does not match addresses beside ports, to anywhere.
    fn takes(&mut self, name: &str, rule: &Rule, count: bool) -> bool {
        if self.probed.stuck.is_some() {
            return false;
        }
        let anywhere = Rule {
            dst: Address::default(),
            ..rule.clone()
        };
        match self.try_one(rule, count) {
            Ok(()) => true,
            Err(_) if anywhere.has_ports() && self.takes_anywhere(name, &anywhere, count) => {
                self.probed.without_address.insert(name.to_owned());
                true
            }
            Err(Refused { why, was_promised }) => {
                let text = format!("{name}: {}", why.why);
                self.probed.is_for_now |= why.until != Until::Always;
                if was_promised {
                    self.probed.untrue.push(text.clone());
                }
                self.probed.refused.push(text);
                false
            }
        }
    }

    /// Whether the NIC takes a canary without an address, as far as that can be asked.
    fn takes_anywhere(&mut self, name: &str, anywhere: &Rule, count: bool) -> bool {
        match &self.traffic {
            Traffic::None => self.try_one(anywhere, count).is_ok(),
            Traffic::Flows(before) => before.contains(name),
        }
    }

    fn try_one(&mut self, rule: &Rule, count: bool) -> Result<(), Refused> {
        let promised = self.api.validate(rule, count);
        let made = self.made_and_removed(rule, count);
        made.map_err(|why| Refused {
            was_promised: promised.is_ok(),
            why,
        })
    }

    /// Create, read, destroy. A rule that cannot be removed is flushed with all others: canaries are put on a NIC without rules.
    fn made_and_removed(&mut self, rule: &Rule, count: bool) -> Result<(), Refusal> {
        let handle = self.api.create(rule, count)?;
        let counted = match count {
            true => self.api.query(&handle).and_then(|read| match read.packets {
                Some(_) => Ok(()),
                None => Err(Refusal {
                    why: "it says nothing of packets".to_owned(),
                    until: Until::Always,
                }),
            }),
            false => Ok(()),
        };
        if self.api.destroy(handle).is_err()
            && let Err(refusal) = self.api.flush()
        {
            self.probed.stuck = Some(format!(
                "a canary rule ({rule}) cannot be removed: {}",
                refusal.why
            ));
        }
        counted
    }
}

struct Refused {
    why: Refusal,
    was_promised: bool,
}
