//! Resolution of tiers: from the document to one ordered list per endpoint and direction.

use std::sync::{Arc, LazyLock, OnceLock};

use imbl::OrdMap;
use imbl::ordmap::DiffItem;

use crate::direction::{Direction, PerDirection};
use crate::document::{Document, Profile, Rule, Unmanaged};
use crate::endpoint::Endpoint;
use crate::essentials::Essentials;
use crate::matcher::Matcher;
use crate::program::{Grant, GrantKind};
use crate::types::{Family, Name, Protocol, Verdict};
use crate::{replies, shadow};

/// Where an entry stands; highest first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Tier {
    /// What an unlock was revoked for, above everything.
    Quarantine,
    /// An operator's bypass: below it there is nothing.
    Bypass,
    /// The operator's, above everything else.
    Mandatory,
    /// What active unlocks open.
    Unlock,
    /// The endpoint's own rules, then its profiles.
    Endpoint,
    /// Rules of the document for every endpoint.
    Baseline,
    /// Neighbour discovery, MLD, IGMP and DHCP of the endpoint itself. Such an entry can stand among the rules: in front
    /// of a deny for any protocol, which does not stop it.
    Essential,
    /// Replies to what the other direction allows, under default deny.
    Replies,
}

impl std::fmt::Display for Tier {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Tier::Quarantine => "quarantine",
            Tier::Bypass => "bypass",
            Tier::Mandatory => "mandatory",
            Tier::Unlock => "unlock",
            Tier::Endpoint => "endpoint",
            Tier::Baseline => "baseline",
            Tier::Essential => "essential",
            Tier::Replies => "replies",
        })
    }
}

/// One line of an effective policy.
#[allow(missing_docs, reason = "the type of `tier` says it")]
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Entry {
    pub tier: Tier,
    /// Where it was written: `baseline/smtp`, `profiles/web/http`, `replies/profiles/web/http`.
    pub origin: Arc<str>,
    /// The reason its author gave, or empty.
    pub reason: Arc<str>,
    /// What happens to packets that match.
    pub action: Verdict,
    /// What it matches; shared by every policy the rule is part of.
    pub matcher: Arc<Matcher>,
}

/// What decided a verdict.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Decider {
    /// The entry with this index.
    Entry(u32),
    /// No entry matched: the policy's default.
    Default,
    /// The fragment rule: a later fragment shows no ports.
    Fragment,
    /// Headers that cannot be judged: too short, unparsable, or a TCP fragment that could rewrite flags.
    Evasion,
    /// ARP passes by every policy.
    Arp,
    /// RARP announcements that the endpoint sends pass.
    Rarp,
}

/// The effective policy of one endpoint and direction: first match wins.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Policy {
    /// Whether it judges what the endpoint sends or receives.
    pub direction: Direction,
    /// The entries, highest first.
    pub entries: Vec<Entry>,
    /// The verdict where none matches.
    pub default: Verdict,
    /// Packets are abstract five-tuples, as in packet classification benchmarks (ClassBench): every protocol shows
    /// ports and none shows an ICMP type. False for every policy of a document.
    pub five_tuple: bool,
}

impl Policy {
    /// One that lets everything pass, or nothing.
    pub fn constant(direction: Direction, default: Verdict) -> Self {
        Policy {
            direction,
            entries: Vec::new(),
            default,
            five_tuple: false,
        }
    }

    /// Whether some packet could be denied: by default, or by an entry that those before it do not shadow wholly. Where
    /// nothing can be, packets are not examined.
    pub fn may_deny(&self) -> bool {
        self.default.denies() || shadow::some_deny_decides(self)
    }

    /// Whether packets of this protocol show ports.
    pub fn shows_ports(&self, protocol: u8) -> bool {
        self.five_tuple || Protocol::has_ports(protocol)
    }

    /// Whether some entry names ports of SCTP.
    pub fn names_sctp_ports(&self) -> bool {
        let sctp = Protocol::Number(Protocol::SCTP);
        let mut matchers = self.entries.iter().map(|e| &e.matcher);
        matchers.any(|m| m.protocol == sctp && !m.is_of_all_ports())
    }

    /// Whether packets of this protocol and IP version show an ICMP type and code.
    pub fn shows_icmp(&self, protocol: u8, family: Family) -> bool {
        !self.five_tuple
            && matches!(
                (protocol, family),
                (Protocol::ICMP, Family::V4) | (Protocol::ICMPV6, Family::V6)
            )
    }

    /// The text that names a decider.
    pub fn origin(&self, decider: Decider) -> String {
        match decider {
            Decider::Entry(index) => self
                .entries
                .get(index as usize)
                .map_or_else(|| "?".to_string(), |e| e.origin.to_string()),
            Decider::Default => format!("default/{}", self.direction),
            Decider::Fragment => "evasion/later-fragment".to_string(),
            Decider::Evasion => "evasion/unreadable-header".to_string(),
            Decider::Arp => "essential/arp".to_string(),
            Decider::Rarp => "essential/rarp".to_string(),
        }
    }
}

/// No reason; shared, so that entries without one need no memory for it.
pub(crate) static NO_REASON: LazyLock<Arc<str>> = LazyLock::new(|| Arc::from(""));

fn entry(tier: Tier, prefix: &str, rule: &Rule) -> Option<Entry> {
    let reason = match rule.reason.as_str() {
        "" => Arc::clone(&NO_REASON),
        text => text.into(),
    };
    Some(Entry {
        tier,
        origin: format!("{prefix}/{}", rule.name).into(),
        reason,
        action: rule.action,
        matcher: Arc::new(Matcher::from_rule(rule)?),
    })
}

pub(crate) fn allow(tier: Tier, origin: &str, matcher: Matcher) -> Entry {
    Entry {
        tier,
        origin: origin.into(),
        reason: Arc::clone(&NO_REASON),
        action: Verdict::Allow,
        matcher: Arc::new(matcher),
    }
}

/// The entries of one rule list and direction, and what they mean to others.
#[derive(Debug, Clone, Default)]
pub(crate) struct Half {
    pub(crate) entries: Vec<Entry>,
    /// The entries as replies to them meet them. An explicit deny ends what is a reply, so it is mirrored too, at its
    /// place. Made when first asked for: under default allow no policy needs them.
    mirrored: OnceLock<Vec<Entry>>,
}

impl Half {
    fn new(tier: Tier, prefix: &str, rules: &[Rule], direction: Direction) -> Self {
        let matching = rules.iter().filter(|r| r.direction == direction);
        Self::with(matching.filter_map(|r| entry(tier, prefix, r)).collect())
    }

    fn with(entries: Vec<Entry>) -> Self {
        Half {
            entries,
            mirrored: OnceLock::new(),
        }
    }

    pub(crate) fn mirrored(&self) -> &[Entry] {
        self.mirrored
            .get_or_init(|| self.entries.iter().flat_map(replies::to).collect())
    }
}

/// A rule list as entries of both directions.
#[derive(Debug, Clone, Default)]
struct List(PerDirection<Half>);

impl List {
    fn new(tier: Tier, prefix: &str, rules: &[Rule]) -> Self {
        List(PerDirection::from_fn(|d| Half::new(tier, prefix, rules, d)))
    }

    /// What grants of one kind do.
    fn grants(kind: GrantKind, grants: &[Grant]) -> Self {
        let wanted = |grant: &&Grant| grant.kind == kind;
        let tier = match kind {
            GrantKind::Quarantine => Tier::Quarantine,
            GrantKind::Bypass => Tier::Bypass,
            GrantKind::Unlock => Tier::Unlock,
        };
        if !grants.iter().any(|grant| wanted(&grant)) {
            return List::default();
        }
        List(PerDirection::from_fn(|direction| {
            let of_one = |grant: &Grant| {
                let prefix = match kind {
                    GrantKind::Bypass => "bypass".to_string(),
                    _ => format!("unlocks/{}/{}", grant.program, grant.unlock),
                };
                let rules = grant.rules.iter().filter(move |r| r.direction == direction);
                let entries: Vec<Entry> = rules.filter_map(|r| entry(tier, &prefix, r)).collect();
                entries
            };
            Half::with(grants.iter().filter(wanted).flat_map(of_one).collect())
        }))
    }

    fn profile(name: &Name, profile: &Profile) -> Self {
        Self::new(Tier::Endpoint, &format!("profiles/{name}"), &profile.rules)
    }
}

/// The rule lists of a document as entries, each made once and shared by every policy it is part of. Cheap to clone.
#[derive(Debug, Clone, Default)]
pub struct Lists {
    mandatory: Arc<List>,
    baseline: Arc<List>,
    profiles: OrdMap<Name, Arc<List>>,
    essentials: Essentials,
}

impl Lists {
    /// Reads the lists of a document.
    pub fn from_document(document: &Document) -> Self {
        let profile =
            |(name, profile): (&Name, &Arc<Profile>)| (name.clone(), Arc::new(List::profile(name, profile)));
        Lists {
            mandatory: Arc::new(List::new(Tier::Mandatory, "mandatory", &document.mandatory)),
            baseline: Arc::new(List::new(Tier::Baseline, "baseline", &document.baseline)),
            profiles: document.profiles.iter().map(profile).collect(),
            essentials: Essentials::from_document(document),
        }
    }

    /// What passes under the rules of every endpoint of the document: see the tier.
    pub(crate) fn essentials(&self) -> &Essentials {
        &self.essentials
    }

    /// Of a document, when these are the ones of `before`: only the lists that differ are made again.
    pub fn follow(&mut self, before: &Document, document: &Document) {
        if before.reserved.dhcp != document.reserved.dhcp {
            self.essentials = Essentials::from_document(document);
        }
        if before.mandatory != document.mandatory {
            self.mandatory = Arc::new(List::new(Tier::Mandatory, "mandatory", &document.mandatory));
        }
        if before.baseline != document.baseline {
            self.baseline = Arc::new(List::new(Tier::Baseline, "baseline", &document.baseline));
        }
        for difference in before.profiles.diff(&document.profiles) {
            match difference {
                DiffItem::Add(name, profile)
                | DiffItem::Update {
                    new: (name, profile), ..
                } => {
                    let list = Arc::new(List::profile(name, profile));
                    self.profiles.insert(name.clone(), list);
                }
                DiffItem::Remove(name, _) => {
                    self.profiles.remove(name);
                }
            }
        }
    }

    /// [`effective`] of an endpoint of the document that these are of.
    pub fn effective(
        &self,
        document: &Document,
        name: &str,
        endpoint: &Endpoint,
        direction: Direction,
    ) -> Policy {
        let own = Own::new(name, endpoint, granted(document, name));
        let default = |d| own.default(document, endpoint, d);
        resolve(
            &self.in_order(&own, endpoint),
            &self.essentials,
            direction,
            default,
        )
    }

    /// [`effective`](Self::effective) of egress and of ingress.
    pub fn both(&self, document: &Document, name: &str, endpoint: &Endpoint) -> PerDirection<Policy> {
        self.both_under(document, name, endpoint, granted(document, name))
    }

    /// [`both`](Self::both) if unlocks did this to the endpoint, and not what the document says.
    pub fn both_under(
        &self,
        document: &Document,
        name: &str,
        endpoint: &Endpoint,
        grants: &[Grant],
    ) -> PerDirection<Policy> {
        let own = Own::new(name, endpoint, grants);
        let lists = self.in_order(&own, endpoint);
        let default = |d| own.default(document, endpoint, d);
        PerDirection::from_fn(|d| resolve(&lists, &self.essentials, d, default))
    }

    /// The lists of an endpoint in the order of their tiers. A bypass lets every packet pass that reaches it.
    fn in_order<'a>(&'a self, own: &'a Own, endpoint: &Endpoint) -> Vec<&'a List> {
        if let Some(bypass) = &own.bypass {
            return vec![&own.quarantine, bypass];
        }
        let mut lists = Vec::with_capacity(endpoint.profiles.len() + 5);
        lists.extend([&own.quarantine, &*self.mandatory, &own.unlock, &own.rules]);
        lists.extend(
            endpoint
                .profiles
                .iter()
                .filter_map(|p| self.profiles.get(p))
                .map(AsRef::as_ref),
        );
        lists.push(&*self.baseline);
        lists
    }

    /// [`unmanaged`] of the document that these are of.
    pub fn unmanaged(&self, document: &Document, direction: Direction) -> Policy {
        match document.unmanaged {
            Unmanaged::Baseline => resolve(
                &[&self.mandatory, &self.baseline],
                &self.essentials,
                direction,
                |d| default_of(document, None, d),
            ),
            Unmanaged::Allow => Policy::constant(direction, Verdict::Allow),
            Unmanaged::Deny => Policy::constant(direction, Verdict::Deny),
        }
    }
}

/// The lists that are an endpoint's alone.
struct Own {
    quarantine: List,
    bypass: Option<List>,
    unlock: List,
    rules: List,
}

impl Own {
    fn new(name: &str, endpoint: &Endpoint, grants: &[Grant]) -> Self {
        let rules = match endpoint.rules.as_slice() {
            [] => List::default(),
            rules => List::new(Tier::Endpoint, &format!("endpoints/{name}"), rules),
        };
        Own {
            quarantine: List::grants(GrantKind::Quarantine, grants),
            bypass: grants
                .iter()
                .any(|grant| grant.kind == GrantKind::Bypass)
                .then(|| List::grants(GrantKind::Bypass, grants)),
            unlock: List::grants(GrantKind::Unlock, grants),
            rules,
        }
    }

    /// The endpoint's verdict where no rule matches. A bypass lifts it: frames that are not IP meet no rule.
    fn default(&self, document: &Document, endpoint: &Endpoint, direction: Direction) -> Verdict {
        match self.bypass {
            Some(_) => Verdict::Allow,
            None => default_of(document, Some(endpoint), direction),
        }
    }
}

fn granted<'a>(document: &'a Document, name: &str) -> &'a [Grant] {
    document.grants.get(name).map_or(&[], |grants| grants.as_slice())
}

fn default_of(document: &Document, endpoint: Option<&Endpoint>, direction: Direction) -> Verdict {
    let by_profile = endpoint.into_iter().flat_map(|e| &e.profiles).any(|name| {
        let profile = document.profiles.get(name);
        profile.is_some_and(|p| p.default[direction] == Some(Verdict::Deny))
    });
    if by_profile {
        Verdict::Deny
    } else {
        document.defaults[direction]
    }
}

/// The policy of lists in the order of their tiers.
fn resolve(
    lists: &[&List],
    essentials: &Essentials,
    direction: Direction,
    default: impl Fn(Direction) -> Verdict,
) -> Policy {
    let (own_default, other_default) = (default(direction), default(direction.opposite()));
    let own = lists.iter().flat_map(|l| &l.0[direction].entries);
    let mut entries = essentials.insert(direction, own.collect(), own_default);
    if own_default.denies() {
        let other: Vec<&Half> = lists.iter().map(|l| &l.0[direction.opposite()]).collect();
        replies::push(&other, other_default, &mut entries);
    }
    Policy {
        direction,
        entries,
        default: own_default,
        five_tuple: false,
    }
}

/// The effective policy of an endpoint. For many of one document, [`Lists`] does not read its rules again each time.
pub fn effective(document: &Document, name: &str, endpoint: &Endpoint, direction: Direction) -> Policy {
    let bound = endpoint.profiles.iter();
    let profiles = bound.filter_map(|name| Some((name.clone(), Arc::clone(document.profiles.get(name)?))));
    let alone = Document {
        profiles: profiles.collect(),
        endpoints: OrdMap::new(),
        ..document.clone()
    };
    Lists::from_document(&alone).effective(document, name, endpoint, direction)
}

/// The effective policy of a port without an endpoint.
pub fn unmanaged(document: &Document, direction: Direction) -> Policy {
    let alone = Document {
        profiles: OrdMap::new(),
        endpoints: OrdMap::new(),
        ..document.clone()
    };
    Lists::from_document(&alone).unmanaged(document, direction)
}
