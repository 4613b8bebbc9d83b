//! Every policy of up to three rules over ports of three bits (and of up to two over four bits, at the top end, over
//! source and destination, with replies and other protocols), on every model, against the verdict: millions of them.
//!
//! The verdict here is a first-match loop over sets of packets, compared with the reference verdict all along.
#![allow(clippy::unwrap_used, clippy::panic, reason = "a test fails by panicking")]

use crate::witness;

use std::sync::Arc;

use portcullis_compiler::lower::{fixed_rows, lower};
use portcullis_compiler::{
    Attribution, Class, ClassId, ClassRows, Fingerprint, PolicyRow, RowCache, StageModel,
};
use portcullis_policy::{
    Decider, Direction, Entry, Families, Family, FlagMatch, Frame, L4, Matcher, Packet, Policy, PortRange,
    Protocol, Ranges, TCP_ACK, TCP_SYN, Tier, Verdict,
};
use witness::{Rows, Says, ShownFields, ip, later, well_formed};

/// Every how many policies the first-match loop is compared with the reference verdict, and rows are looked at closely.
const CLOSELY: u64 = 1000;

/// One rule of a family of cases: plain numbers, so that what it hits is told without the policy crate.
#[derive(Clone, Copy)]
struct Rule {
    deny: bool,
    protocol: Option<u8>,
    src: (u16, u16),
    dst: (u16, u16),
    replies: bool,
}

impl Rule {
    fn hits(&self, probe: &Probe) -> bool {
        let within = |(low, high): (u16, u16), n: u16| low <= n && n <= high;
        self.protocol.is_none_or(|p| p == probe.protocol)
            && within(self.src, probe.src)
            && within(self.dst, probe.dst)
            && !(self.replies && probe.opens())
    }

    fn entry(&self, name: usize) -> Entry {
        let ports = |(low, high): (u16, u16)| Ranges::from_ports(&[PortRange { low, high }]);
        let matcher = Matcher {
            families: Families::only(Family::V4),
            protocol: self.protocol.map_or(Protocol::Any, Protocol::Number),
            src_ports: ports(self.src),
            dst_ports: ports(self.dst),
            flags: if self.replies {
                FlagMatch::NotOpening
            } else {
                FlagMatch::Any
            },
            ..Matcher::everything()
        };
        Entry {
            tier: Tier::Endpoint,
            origin: format!("rule/{name}").into(),
            reason: Arc::from(""),
            action: if self.deny { Verdict::Deny } else { Verdict::Allow },
            matcher: Arc::new(matcher),
        }
    }
}

/// A packet that shows its ports.
#[derive(Clone, Copy)]
struct Probe {
    protocol: u8,
    src: u16,
    dst: u16,
    flags: u16,
}

impl Probe {
    fn opens(&self) -> bool {
        self.protocol == Protocol::TCP && self.flags & (TCP_SYN | TCP_ACK) == TCP_SYN
    }

    fn packet(&self) -> Packet {
        let Probe { src, dst, flags, .. } = *self;
        let flags = if self.protocol == Protocol::TCP { flags } else { 0 };
        ip(
            "192.0.2.1",
            "198.51.100.1",
            self.protocol,
            L4::Ports { src, dst, flags },
        )
    }
}

/// A set of probes, one bit each.
type Set = u128;

/// What a later fragment, or another packet beside the probes, must get.
enum Beside {
    /// A later fragment of this protocol: passes when one of these probes does; TCP not where a reply could be
    /// rewritten to an opening.
    Later { protocol: u8, offset: u16, of: Set },
    /// All zeros: denied where that is how a header too short to read shows.
    Blank(Probe),
    /// Denied whatever the policy, as long as it denies something.
    Denied,
    /// Passes whatever the policy.
    Passes,
    /// What rules that match every packet of IPv4 give (ports do not tell it apart).
    Portless,
    /// The default verdict of the policy.
    Default,
}

/// All policies of up to `most` of these rules.
struct Cases {
    rules: Vec<Rule>,
    most: usize,
    defaults: Vec<Verdict>,
    probes: Vec<Probe>,
    beside: Vec<(Packet, Beside)>,
}

impl Cases {
    /// Probes at every pair of these ports, opening and not, of TCP; of UDP and SCTP too where rules name them.
    fn new(rules: Vec<Rule>, most: usize, src: &[u16], dst: &[u16]) -> Self {
        let replies = rules.iter().any(|r| r.replies);
        let mixed = rules.iter().any(|r| r.protocol != Some(Protocol::TCP));
        let mut probes = Vec::new();
        let kinds: &[(u8, u16)] = match (replies, mixed) {
            (true, true) => &[(6, TCP_ACK), (6, TCP_SYN), (17, 0)],
            (true, false) => &[(6, TCP_ACK), (6, TCP_SYN)],
            (false, true) => &[(6, TCP_SYN), (17, 0)],
            (false, false) => &[(6, TCP_SYN)],
        };
        for (protocol, flags) in kinds {
            for s in src {
                for d in dst {
                    probes.push(Probe {
                        protocol: *protocol,
                        src: *s,
                        dst: *d,
                        flags: *flags,
                    });
                }
            }
        }
        assert!(probes.len() <= Set::BITS as usize);
        let mut cases = Cases {
            rules,
            most,
            defaults: vec![Verdict::Allow, Verdict::Deny],
            probes,
            beside: Vec::new(),
        };
        cases.beside(mixed);
        cases
    }

    fn beside(&mut self, mixed: bool) {
        let (local, remote) = ("192.0.2.1", "198.51.100.1");
        let blank = |flags| L4::Ports {
            src: 0,
            dst: 0,
            flags,
        };
        let tcp = ip(local, remote, 6, blank(0));
        let udp = ip(local, remote, 17, blank(0));
        let fragment = |protocol, offset| Beside::Later {
            protocol,
            offset,
            of: self.set(|p| p.protocol == protocol),
        };
        let zeros = |protocol| {
            Beside::Blank(Probe {
                protocol,
                src: 0,
                dst: 0,
                flags: 0,
            })
        };
        let mut beside = vec![
            (later(&tcp, 2), fragment(6, 2)),
            (later(&tcp, 1), fragment(6, 1)),
            (tcp.clone(), zeros(6)),
            (udp.clone(), zeros(17)),
            (ip(local, remote, 6, L4::Short), Beside::Denied),
            (ip(local, remote, 0, L4::Nothing), Beside::Denied),
            (ip(local, remote, 47, L4::Nothing), Beside::Portless),
            (
                ip(local, remote, 1, L4::Icmp { kind: 8, code: 0 }),
                Beside::Portless,
            ),
            (
                ip(
                    "2001:db8::1",
                    "2001:db8::2",
                    6,
                    L4::Ports {
                        src: 1,
                        dst: 3,
                        flags: TCP_SYN,
                    },
                ),
                Beside::Default,
            ),
            (
                later(&ip("2001:db8::1", "2001:db8::2", 6, L4::Nothing), 2),
                Beside::Default,
            ),
            (Packet { frame: Frame::Other }, Beside::Default),
            (Packet { frame: Frame::Arp }, Beside::Passes),
            (Packet { frame: Frame::Opaque }, Beside::Denied),
        ];
        if mixed {
            beside.push((later(&udp, 2), fragment(17, 2)));
        } else {
            let other = L4::Ports {
                src: 3,
                dst: 3,
                flags: 0,
            };
            beside.push((ip(local, remote, 17, other), Beside::Default));
        }
        self.beside = beside;
    }

    fn set(&self, of: impl Fn(&Probe) -> bool) -> Set {
        let bits = self.probes.iter().enumerate().filter(|(_, p)| of(p));
        bits.fold(0, |set, (n, _)| set | 1 << n)
    }

    /// Checks every policy on a model; returns how many.
    fn check(&self, model: &str, mut compile: impl FnMut(&StageModel, &Policy) -> ClassRows) -> u64 {
        let model = StageModel::named(model).unwrap();
        let fixed = fixed_rows(&model);
        let entries: Vec<Entry> = self.rules.iter().enumerate().map(|(n, r)| r.entry(n)).collect();
        let hits: Vec<Set> = self.rules.iter().map(|r| self.set(|p| r.hits(p))).collect();
        let shown: Vec<ShownFields> = self
            .probes
            .iter()
            .flat_map(|p| ShownFields::new(&p.packet(), &model))
            .collect();
        let beside: Vec<Vec<ShownFields>> = self
            .beside
            .iter()
            .map(|(p, _)| ShownFields::new(p, &model))
            .collect();
        assert_eq!(shown.len(), self.probes.len());
        let mut check = Check {
            cases: self,
            model: &model,
            fixed: &fixed,
            entries: &entries,
            hits: &hits,
            shown: &shown,
            beside: &beside,
            count: 0,
        };
        for default in self.defaults.iter().copied() {
            let mut chosen = Vec::with_capacity(self.most);
            check.every(&mut chosen, default, &mut compile);
        }
        check.count
    }
}

/// One run over the cases.
struct Check<'a> {
    cases: &'a Cases,
    model: &'a StageModel,
    fixed: &'a [PolicyRow],
    entries: &'a [Entry],
    hits: &'a [Set],
    shown: &'a [ShownFields],
    beside: &'a [Vec<ShownFields>],
    count: u64,
}

impl Check<'_> {
    fn every(
        &mut self,
        chosen: &mut Vec<usize>,
        default: Verdict,
        compile: &mut impl FnMut(&StageModel, &Policy) -> ClassRows,
    ) {
        self.policy(chosen, default, compile);
        if chosen.len() < self.cases.most {
            for rule in 0..self.entries.len() {
                chosen.push(rule);
                self.every(chosen, default, compile);
                chosen.pop();
            }
        }
    }

    fn policy(
        &mut self,
        chosen: &[usize],
        default: Verdict,
        compile: &mut impl FnMut(&StageModel, &Policy) -> ClassRows,
    ) {
        let policy = Policy {
            direction: Direction::Egress,
            entries: chosen.iter().map(|n| self.entries[*n].clone()).collect(),
            default,
            five_tuple: false,
        };
        // The first rule that hits decides.
        let all = Set::MAX >> (Set::BITS as usize - self.shown.len());
        let mut rest = all;
        let mut allowed = 0;
        let mut deciding = [0; 4];
        for (at, rule) in chosen.iter().enumerate() {
            deciding[at] = self.hits[*rule] & rest;
            rest &= !deciding[at];
            if !self.cases.rules[*rule].deny {
                allowed |= deciding[at];
            }
        }
        if default == Verdict::Allow {
            allowed |= rest;
        }
        let program = compile(self.model, &policy);
        self.count += 1;
        let closely = self.count % CLOSELY == 1;
        if closely {
            self.reference(&policy, allowed);
        }
        if !policy.may_deny() {
            assert_eq!(program.rows(), 0, "nothing is denied: {policy:#?}");
            assert_eq!(allowed, all, "some packet is denied: {policy:#?}");
            return;
        }
        if closely {
            well_formed(&program, self.fixed, self.model, Direction::Egress);
        }
        let rows = Rows::new(&program, self.fixed);
        for (n, shown) in self.shown.iter().enumerate() {
            let wanted = if allowed >> n & 1 == 1 {
                Verdict::Allow
            } else {
                Verdict::Deny
            };
            let right = match rows.judge(shown) {
                Says::Verdict(action, None) => action == wanted,
                Says::Verdict(action, Some(_)) if program.merged => action == wanted,
                Says::Verdict(action, Some(Decider::Entry(by))) => {
                    action == wanted && deciding.get(by as usize).is_some_and(|set| set >> n & 1 == 1)
                }
                Says::Verdict(action, Some(Decider::Default)) => action == wanted && rest >> n & 1 == 1,
                _ => false,
            };
            assert!(
                right,
                "{}\n{shown:?}: {:?}, not {wanted}\n{policy:#?}\n{program:#?}",
                self.model.name,
                rows.judge(shown)
            );
        }
        for ((packet, beside), frames) in self.cases.beside.iter().zip(self.beside) {
            let wanted = self.beside(beside, chosen, default, allowed);
            for shown in frames {
                let said = rows.judge(shown).action();
                assert_eq!(
                    said,
                    Some(wanted),
                    "{}\n{packet:?}\n{policy:#?}\n{program:#?}",
                    self.model.name
                );
            }
        }
    }

    /// What a packet beside the probes must get, of a policy that denies something.
    fn beside(&self, beside: &Beside, chosen: &[usize], default: Verdict, allowed: Set) -> Verdict {
        let first = |hits: &dyn Fn(&Rule) -> bool| {
            let rule = chosen.iter().map(|n| &self.cases.rules[*n]).find(|r| hits(r));
            rule.map_or(default == Verdict::Allow, |r| !r.deny)
        };
        let passes = match beside {
            Beside::Denied => false,
            Beside::Passes => true,
            Beside::Default => default == Verdict::Allow,
            Beside::Portless => first(&|r| r.protocol.is_none()),
            Beside::Blank(probe) => self.model.view.short_header && first(&|r| r.hits(probe)),
            Beside::Later {
                protocol: 6,
                offset: 1,
                ..
            } if self.model.view.fragment_offset => false,
            Beside::Later { protocol, of, .. } => {
                let opening = self.cases.set(|p| p.protocol == *protocol && p.opens());
                let other = of & !opening;
                // Both halves are in the same order.
                let apart = |a: Set, b: Set| {
                    a != 0
                        && b != 0
                        && (allowed & a) >> a.trailing_zeros() != (allowed & b) >> b.trailing_zeros()
                };
                let rewritable = !self.model.view.fragment_offset && apart(opening, other);
                allowed & of != 0 && !rewritable
            }
        };
        if passes { Verdict::Allow } else { Verdict::Deny }
    }

    /// The first-match loop is right.
    fn reference(&self, policy: &Policy, allowed: Set) {
        for (n, probe) in self.cases.probes.iter().enumerate() {
            let wanted = if allowed >> n & 1 == 1 {
                Verdict::Allow
            } else {
                Verdict::Deny
            };
            assert_eq!(
                policy.judge(&probe.packet(), self.model.view).0,
                wanted,
                "{policy:#?}"
            );
        }
        if !policy.may_deny() {
            return;
        }
        let chosen: Vec<usize> = policy
            .entries
            .iter()
            .map(|e| e.origin["rule/".len()..].parse().unwrap())
            .collect();
        for (packet, beside) in &self.cases.beside {
            let wanted = self.beside(beside, &chosen, policy.default, allowed);
            let said = policy.judge(packet, self.model.view).0;
            assert_eq!(said, wanted, "{}: {packet:?}\n{policy:#?}", self.model.name);
        }
    }
}

/// Ranges with both ends between these.
fn ranges(low: u16, high: u16) -> Vec<(u16, u16)> {
    (low..=high)
        .flat_map(|a| (a..=high).map(move |b| (a, b)))
        .collect()
}

const ALL: (u16, u16) = (0, u16::MAX);

fn tcp(dst: (u16, u16)) -> Rule {
    Rule {
        deny: false,
        protocol: Some(Protocol::TCP),
        src: ALL,
        dst,
        replies: false,
    }
}

/// Each allowing and denying.
fn both(rules: impl IntoIterator<Item = Rule>) -> Vec<Rule> {
    let pair = |rule: Rule| [Rule { deny: false, ..rule }, Rule { deny: true, ..rule }];
    rules.into_iter().flat_map(pair).collect()
}

/// A source port that no rule is about.
const ELSEWHERE: &[u16] = &[40_000];

fn three_rules_of_three_bits() -> Cases {
    let probes = [0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 65535];
    Cases::new(both(ranges(0, 7).into_iter().map(tcp)), 3, ELSEWHERE, &probes)
}

fn two_rules_of_four_bits() -> Cases {
    let probes: Vec<u16> = (0..=17).chain([65535]).collect();
    Cases::new(both(ranges(0, 15).into_iter().map(tcp)), 2, ELSEWHERE, &probes)
}

fn two_rules_at_the_top() -> Cases {
    let probes: Vec<u16> = [0, 1, 65526].into_iter().chain(65527..=65535).collect();
    Cases::new(
        both(ranges(65528, 65535).into_iter().map(tcp)),
        2,
        ELSEWHERE,
        &probes,
    )
}

/// Two bits of source and two of destination ports.
fn two_rules_of_both_sides() -> Cases {
    let sides = ranges(0, 3)
        .into_iter()
        .flat_map(|src| ranges(0, 3).into_iter().map(move |dst| Rule { src, ..tcp(dst) }));
    Cases::new(both(sides), 2, &[0, 1, 2, 3, 4, 65535], &[0, 1, 2, 3, 4, 65535])
}

/// Replies, UDP and every protocol at once.
fn three_rules_of_replies_and_protocols() -> Cases {
    let mut rules = Vec::new();
    for dst in [(0, 0), (1, 1), (0, 1), (1, 2), (2, 65535), ALL] {
        rules.extend([
            tcp(dst),
            Rule {
                replies: true,
                ..tcp(dst)
            },
        ]);
        rules.push(Rule {
            protocol: Some(Protocol::UDP),
            ..tcp(dst)
        });
    }
    rules.push(Rule {
        protocol: None,
        ..tcp(ALL)
    });
    rules.push(Rule {
        protocol: None,
        replies: true,
        ..tcp(ALL)
    });
    Cases::new(both(rules), 3, ELSEWHERE, &[0, 1, 2, 3, 65535])
}

fn by_rule(model: &StageModel, policy: &Policy) -> ClassRows {
    lower(policy, model).unwrap()
}

/// Proved, each hit telling the verdict only.
fn by_class(programs: &mut RowCache, policy: &Policy) -> ClassRows {
    let class = Class {
        id: ClassId(1),
        fingerprint: Fingerprint::from_policy(policy),
        base: None,
        policy: policy.clone(),
    };
    let program = programs.get_as(&class, Attribution::Class).unwrap();
    (*program).clone()
}

/// Policies of up to `most` of `rules` rules under one default.
fn number(rules: u64, most: u32) -> u64 {
    (0..=most).map(|n| rules.pow(n)).sum::<u64>()
}

macro_rules! every_model {
    ($($name:ident: $model:literal;)*) => {
        $(mod $name {
            use super::*;

            #[test]
            fn three_rules_of_three_bits_over_allow() {
                let mut cases = super::three_rules_of_three_bits();
                cases.defaults = vec![Verdict::Allow];
                assert_eq!(cases.check($model, by_rule), 378_505);
            }

            #[test]
            fn three_rules_of_three_bits_over_deny() {
                let mut cases = super::three_rules_of_three_bits();
                cases.defaults = vec![Verdict::Deny];
                assert_eq!(cases.check($model, by_rule), 378_505);
            }

            #[test]
            fn two_rules_of_four_bits_and_elsewhere() {
                assert_eq!(super::two_rules_of_four_bits().check($model, by_rule), 148_514);
                assert_eq!(super::two_rules_at_the_top().check($model, by_rule), 10_514);
                assert_eq!(super::two_rules_of_both_sides().check($model, by_rule), 80_402);
            }

            #[test]
            fn three_rules_of_replies_and_protocols() {
                assert_eq!(super::three_rules_of_replies_and_protocols().check($model, by_rule), 131_282);
            }

            #[test]
            fn two_rules_merged_by_verdict() {
                let mut programs = RowCache::new(StageModel::named($model).unwrap());
                let mut compile = |_: &StageModel, policy: &Policy| by_class(&mut programs, policy);
                assert_eq!(super::two_rules_at_the_top().check($model, &mut compile), 10_514);
                let mut small = super::three_rules_of_replies_and_protocols();
                small.most = 2;
                assert_eq!(small.check($model, &mut compile), 3_282);
            }
        })*
    };
}

every_model! {
    ovs: "ovs";
    p4_range: "p4-range";
    p4_ternary: "p4-ternary";
    acl_ternary: "acl-ternary";
    exact_bitmap: "exact-bitmap";
}

#[test]
fn no_model_is_left_out_and_the_numbers_are_these() {
    assert_eq!(
        StageModel::names(),
        ["ovs", "p4-range", "p4-ternary", "acl-ternary", "exact-bitmap"]
    );
    assert_eq!(number(72, 3), 378_505);
    assert_eq!(2 * number(272, 2), 148_514);
    assert_eq!(2 * number(72, 2), 10_514);
    assert_eq!(2 * number(200, 2), 80_402);
    assert_eq!(2 * number(40, 3), 131_282);
    assert_eq!(2 * number(40, 2), 3_282);
}
