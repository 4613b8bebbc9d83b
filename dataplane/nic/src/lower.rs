//! Policy rows of a port's senders to rules for its NIC.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::fmt;
use std::sync::Arc;

use portcullis_fastpath::{EgressRows, NO_SLOT};

use crate::capabilities::{Capabilities, PortMatching};
use crate::carve::{Headers, Judge};
use crate::condition::{Condition, NotSaid, Ports};
use crate::facts::{Encapsulation, Follows, Kind, LaterFragments, ParserFacts, Tags};
use crate::rule::{Address, Family, PortMatch, Rule};

/// Rules that one row may become, for both IP versions and all its prefixes together.
pub const MOST_RULES: usize = 64;

/// The egress policy of a class and overlay.
#[derive(Debug, Clone)]
pub struct Policy {
    judge: Judge,
    denies_what_is_unreadable: bool,
}

impl Policy {
    /// A policy, by its rows.
    #[must_use]
    pub fn new(rows: &EgressRows) -> Self {
        let judge = Judge::new(rows);
        Policy {
            denies_what_is_unreadable: judge.denies_what_is_unreadable(),
            judge,
        }
    }
}

/// Who sends by a port: for each VLAN, and for the VLANs that are not listed, a policy. `None` where nothing is denied. A VLAN that is
/// not there is dropped by the switch.
#[derive(Debug, Clone, Default)]
pub struct Senders(pub Vec<(Option<u16>, Option<Arc<Policy>>)>);

/// Why a row, or a part of it, stays with the switch alone.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Why {
    /// No rule can say what it matches.
    NotSaid(NotSaid),
    /// The NIC lacks something.
    Lacks(&'static str),
    /// It needs more rules than one row may become.
    TooMany(usize),
    /// A row above it lets some of its packets pass, and a rule that drops cannot leave those out.
    AllowedAbove,
    /// Its destinations are named by a prefix of which a part belongs to another rule.
    Prefixes,
    /// Another VLAN of the port lets pass what it denies, and the NIC does not tell them apart.
    OtherVlan,
    /// The policy lets frames pass that cannot be read.
    Unreadable,
    /// The NIC may drop more than it should.
    DropsMore(Kind),
    /// Port 0: fragments have it in the switch, and may have it in the NIC.
    PortZero,
}

impl fmt::Display for Why {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Why::NotSaid(what) => f.write_str(match what {
                NotSaid::Family => "it is about frames other than IP",
                NotSaid::Unreadable => "only the switch can say that a header cannot be read",
                NotSaid::Later => "it is about fragments alone",
                NotSaid::Icmp => "it asks for types of ICMP",
                NotSaid::Flags => "it asks for flags of TCP",
                NotSaid::Protocol => {
                    "it asks for a protocol other than TCP, UDP and SCTP, or for some bits of one"
                }
                NotSaid::PortMask => "it asks for a mask of ports that is no prefix",
                NotSaid::Other => "it asks for a field that no rule of a NIC has",
            }),
            Why::Lacks(what) => write!(f, "the NIC does not match {what}"),
            Why::TooMany(rules) => write!(
                f,
                "it would take {rules} rules, and one row may take {MOST_RULES}"
            ),
            Why::AllowedAbove => {
                f.write_str("a rule above it allows a part of it that a rule of the NIC cannot leave out")
            }
            Why::Prefixes => f.write_str("a part of its prefix belongs to another rule"),
            Why::OtherVlan => {
                f.write_str("another VLAN of the port allows it, and the NIC does not tell VLANs apart")
            }
            Why::Unreadable => f.write_str("the policy lets frames pass that cannot be read"),
            Why::DropsMore(kind) => write!(
                f,
                "the NIC might drop more than it denies: {kind}; state what its parser does, or accept that"
            ),
            Why::PortZero => f.write_str("port 0, which stands for fragments as well"),
        }
    }
}

/// How a row that denies stands.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct RowState {
    /// The rules that hold it, or its part.
    pub rules: BTreeSet<Rule>,
    /// Why not all of it.
    pub why: BTreeSet<Why>,
}

/// The rules that a port could have.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Lowered {
    /// Each rule, and the counters of the rows whose packets it takes.
    pub rules: BTreeMap<Rule, BTreeSet<u32>>,
    /// Each row that denies, by its counter.
    pub rows: BTreeMap<u32, RowState>,
}

/// What a port's rules have to keep to.
#[derive(Debug, Clone, Copy)]
pub struct Bounds<'a> {
    /// What the NIC's parser is known to do.
    pub facts: ParserFacts,
    /// Frames that may be dropped beyond the policy.
    pub accept: &'a BTreeSet<Kind>,
}

/// The rules that a port's NIC could have, and what becomes of each row that denies.
#[must_use]
pub fn lower(senders: &Senders, capabilities: &Capabilities, bounds: Bounds<'_>) -> Lowered {
    let mut lowered = Lowered::default();
    let mut memo = Memo::default();
    let mut seen: Vec<*const Policy> = Vec::new();
    for (vlan, policy) in &senders.0 {
        let Some(policy) = policy else { continue };
        if seen.contains(&Arc::as_ptr(policy)) {
            continue;
        }
        seen.push(Arc::as_ptr(policy));
        let is_meant = bounds.facts.tags != Tags::NotMatched || vlan.is_none_or(|vlan| vlan == 0);
        for row in policy.judge.conditions() {
            if !row.verdict.denies() || row.slot == NO_SLOT {
                continue;
            }
            let state = lowered.rows.entry(row.slot).or_default();
            if !is_meant {
                state.why.insert(Why::Lacks("VLANs"));
                continue;
            }
            let mut rules = BTreeSet::new();
            lower_row(
                row,
                policy,
                capabilities,
                bounds.facts,
                &mut rules,
                &mut state.why,
            );
            if rules.len() > MOST_RULES {
                state.why.insert(Why::TooMany(rules.len()));
                continue;
            }
            for rule in rules {
                match sound(&rule, senders, bounds, &mut memo) {
                    Ok(slots) => {
                        state.rules.insert(rule.clone());
                        lowered.rules.insert(rule, slots);
                    }
                    Err(why) => drop(state.why.insert(why)),
                }
            }
        }
    }
    lowered
}

/// Whether the switch still drops all that a rule matches, and the counters of the rows that it takes packets from.
#[must_use]
pub fn is_still_denied(
    rule: &Rule,
    senders: &Senders,
    bounds: Bounds<'_>,
    memo: &mut Memo,
) -> Option<BTreeSet<u32>> {
    sound(rule, senders, bounds, memo).ok()
}

/// What policies were found to do with rules. Ports of one class have the same policy, which is asked once. It is for policies that all
/// live as long as it does.
#[derive(Debug, Default)]
pub struct Memo(HashMap<(Rule, *const Policy), Result<BTreeSet<u32>, Why>>);

impl Memo {
    fn ask(&mut self, rule: &Rule, policy: &Arc<Policy>, bounds: Bounds<'_>) -> Result<BTreeSet<u32>, Why> {
        let key = (rule.clone(), Arc::as_ptr(policy));
        self.0
            .entry(key)
            .or_insert_with(|| of_policy(rule, policy, bounds))
            .clone()
    }
}

/// Rules for one row, before they are checked.
fn lower_row(
    row: &Condition,
    policy: &Policy,
    capabilities: &Capabilities,
    facts: ParserFacts,
    rules: &mut BTreeSet<Rule>,
    why: &mut BTreeSet<Why>,
) {
    let mut is_ip = false;
    for family in Family::BOTH {
        let headers = match row.headers(family) {
            Ok(headers) => headers,
            Err(NotSaid::Family) => continue,
            Err(not_said) => {
                why.insert(Why::NotSaid(not_said));
                is_ip = true;
                continue;
            }
        };
        is_ip = true;
        let Some(destinations) = destinations(row, policy, family, headers.dst) else {
            why.insert(Why::Prefixes);
            continue;
        };
        for dst in destinations {
            let asked = Headers {
                dst,
                ..headers.clone()
            };
            match policy.judge.carve(&asked, Some(row.slot)) {
                Ok(denied) => match encoded(without_zero(row, denied.headers, facts, why), capabilities) {
                    Ok(found) => rules.extend(found),
                    Err(reason) => drop(why.insert(reason)),
                },
                Err(_) => drop(why.insert(Why::AllowedAbove)),
            }
        }
    }
    if !is_ip {
        why.insert(Why::NotSaid(NotSaid::Family));
    }
}

/// The destinations that a row asks for, as prefixes; `None` where some cannot be named.
fn destinations(row: &Condition, policy: &Policy, family: Family, dst: Address) -> Option<Vec<Address>> {
    if !row.asks_for_remote() {
        return Some(vec![dst]);
    }
    let prefixes = policy.judge.remotes().prefixes(row.remote()?, family);
    let narrower = prefixes
        .into_iter()
        .filter(|prefix| prefix.meets(dst))
        .map(|prefix| Address {
            value: prefix.value | dst.value,
            mask: prefix.mask | dst.mask,
        });
    let found: Vec<Address> = narrower.collect();
    // A row of one family has no prefix of the other.
    (!found.is_empty()).then_some(found)
}

/// Without port 0 where the NIC may see it in fragments, whose ports are others. Fragments that the row itself denies by port 0 stay with
/// the switch.
fn without_zero(
    row: &Condition,
    headers: Headers,
    facts: ParserFacts,
    why: &mut BTreeSet<Why>,
) -> Option<Headers> {
    let has_zero = headers.src_ports.contains(0) && headers.dst_ports.contains(0);
    if !has_zero || headers.later != Some(false) {
        return Some(headers);
    }
    let is_misread = facts.later_fragments != LaterFragments::Never;
    if is_misread || row.takes_fragments() {
        why.insert(Why::PortZero);
    }
    if !is_misread {
        return Some(headers);
    }
    let zero = Ports::interval(0, 0);
    let of = |ports: &Ports| {
        if ports.is_all() {
            None
        } else {
            ports.difference(&zero)
        }
    };
    if let Some(dst_ports) = of(&headers.dst_ports) {
        return Some(Headers { dst_ports, ..headers });
    }
    of(&headers.src_ports).map(|src_ports| Headers { src_ports, ..headers })
}

/// The rules that match just these packets.
fn encoded(headers: Option<Headers>, capabilities: &Capabilities) -> Result<Vec<Rule>, Why> {
    let Some(headers) = headers else {
        return Ok(Vec::new());
    };
    let src = matches(&headers.src_ports, capabilities.src_port)?;
    let dst = matches(&headers.dst_ports, capabilities.dst_port)?;
    let count = src.len().saturating_mul(dst.len());
    if count > MOST_RULES {
        return Err(Why::TooMany(count));
    }
    let mut rules = Vec::with_capacity(count);
    for src_port in &src {
        for dst_port in &dst {
            let rule = Rule {
                family: headers.family,
                protocol: headers.protocol,
                src: headers.src,
                dst: headers.dst,
                src_port: *src_port,
                dst_port: *dst_port,
            };
            if let Some(what) = capabilities.lack(&rule) {
                return Err(Why::Lacks(what));
            }
            rules.push(rule);
        }
    }
    Ok(rules)
}

/// Ports in the way that the NIC matches them, in as few matches as it can.
fn matches(ports: &Ports, matching: PortMatching) -> Result<Vec<PortMatch>, Why> {
    if ports.is_all() {
        return Ok(vec![PortMatch::Any]);
    }
    let one = |low: u16, high: u16| match (low == high, matching) {
        (true, PortMatching { exact: true, .. }) => Some(vec![PortMatch::Exact(low)]),
        (_, PortMatching { range: true, .. }) => Some(vec![PortMatch::Range { low, high }]),
        (_, PortMatching { masked: true, .. }) => Some(masked(low, high)),
        _ => None,
    };
    let few: Option<Vec<Vec<PortMatch>>> = ports.iter().map(|(low, high)| one(low, high)).collect();
    if let Some(few) = few {
        return Ok(few.concat());
    }
    let count: usize = ports.iter().map(|(low, high)| usize::from(high - low) + 1).sum();
    match (matching.exact, count) {
        (true, ..=MOST_RULES) => Ok(ports
            .iter()
            .flat_map(|(low, high)| (low..=high).map(PortMatch::Exact))
            .collect()),
        (true, more) => Err(Why::TooMany(more)),
        (false, _) => Err(Why::Lacks("ports")),
    }
}

/// An interval as masks, from the lowest port on.
fn masked(low: u16, high: u16) -> Vec<PortMatch> {
    let (mut at, end) = (u32::from(low), u32::from(high));
    let mut found = Vec::new();
    while at <= end {
        let aligned = at.trailing_zeros().min(16);
        let fitting = (end - at + 1).ilog2();
        let bits = aligned.min(fitting);
        found.push(PortMatch::Masked {
            value: at as u16,
            mask: (0xffff_u32 << bits) as u16,
        });
        at += 1 << bits;
    }
    found
}

/// The counters of the rows that deny all that a rule matches, under every answer that the NIC's parser may give.
fn sound(rule: &Rule, senders: &Senders, bounds: Bounds<'_>, memo: &mut Memo) -> Result<BTreeSet<u32>, Why> {
    let mut slots = BTreeSet::new();
    let mut last: Option<*const Policy> = None;
    for (vlan, policy) in &senders.0 {
        if bounds.facts.tags == Tags::NotMatched && vlan.is_some_and(|vlan| vlan != 0) {
            continue;
        }
        let policy = policy.as_ref().ok_or(Why::OtherVlan)?;
        // VLANs of one trunk mostly have one policy.
        if last.replace(Arc::as_ptr(policy)) != Some(Arc::as_ptr(policy)) {
            slots.extend(memo.ask(rule, policy, bounds)?);
        }
    }
    Ok(slots)
}

/// The counters of the rows of one policy that deny all that a rule may match.
fn of_policy(rule: &Rule, policy: &Policy, bounds: Bounds<'_>) -> Result<BTreeSet<u32>, Why> {
    if !policy.denies_what_is_unreadable {
        return Err(Why::Unreadable);
    }
    let slots = policy
        .judge
        .denies(&Headers::from_rule(rule))
        .ok_or(Why::OtherVlan)?;
    for kind in overreach(rule, bounds.facts) {
        let is_denied = kind == Kind::LaterFragments && policy.judge.denies(&fragments(rule)).is_some();
        if !is_denied && !bounds.accept.contains(&kind) {
            return Err(Why::DropsMore(kind));
        }
    }
    Ok(slots)
}

/// Kinds of frames that a rule may match although its packets are others.
fn overreach(rule: &Rule, facts: ParserFacts) -> Vec<Kind> {
    let ports = rule.has_ports();
    let is_v4 = rule.family == Family::V4;
    let unknown = |follows: Follows| follows == Follows::Unknown;
    let kinds = [
        (
            ports && facts.later_fragments == LaterFragments::Unknown,
            Kind::LaterFragments,
        ),
        (ports && is_v4 && unknown(facts.ip_options), Kind::IpOptions),
        (
            rule.protocol.is_some() && unknown(facts.extension_headers),
            Kind::ExtensionHeaders,
        ),
        (facts.encapsulation != Encapsulation::Closed, Kind::Encapsulation),
    ];
    kinds
        .into_iter()
        .filter(|(may, _)| *may)
        .map(|(_, kind)| kind)
        .collect()
}

/// The fragments behind the first one that a rule may take for its packets.
fn fragments(rule: &Rule) -> Headers {
    Headers {
        src_ports: Ports::interval(0, 0),
        dst_ports: Ports::interval(0, 0),
        later: Some(true),
        ..Headers::from_rule(rule)
    }
}
