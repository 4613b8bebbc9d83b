//! Which MACs and addresses are whose: each belongs to one endpoint of a network, unless all that declare it share it,
//! and reserved ones to none.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::net::IpAddr;

use ipnet::IpNet;

use crate::document::Document;
use crate::endpoint::{Declared, Endpoint, EndpointRole, Reserved};
use crate::types::{Family, MacAddr, Name, StrictPrefix};
use crate::validate::{Check, FieldError};

/// Values by prefix, found by any prefix that has an address in common with theirs.
struct Prefixes<T> {
    by_prefix: BTreeMap<IpNet, Vec<T>>,
    /// The lengths there are, so that few are looked for.
    lengths: BTreeSet<(Family, u8)>,
}

impl<T> Default for Prefixes<T> {
    fn default() -> Self {
        Prefixes {
            by_prefix: BTreeMap::new(),
            lengths: BTreeSet::new(),
        }
    }
}

impl<T> Prefixes<T> {
    fn insert(&mut self, prefix: IpNet, value: T) {
        self.lengths
            .insert((Family::from_address(prefix.addr()), prefix.prefix_len()));
        self.by_prefix.entry(prefix).or_default().push(value);
    }

    /// Those that have an address in common with a prefix: the ones that it lies in, then itself and those in it.
    fn meeting(&self, prefix: IpNet) -> impl Iterator<Item = (&IpNet, &Vec<T>)> {
        let family = Family::from_address(prefix.addr());
        let shorter = self.lengths.range((family, 0)..(family, prefix.prefix_len()));
        let around = shorter.filter_map(move |(_, length)| {
            let outer = IpNet::new(prefix.addr(), *length).ok()?.trunc();
            self.by_prefix.get_key_value(&outer)
        });
        // A prefix sorts before all that lie in it, and nothing else is in between.
        let within = self.by_prefix.range(prefix..);
        around.chain(within.take_while(move |(inner, _)| prefix.contains(*inner)))
    }
}

/// An endpoint's MAC or address, by its place in the endpoint's list.
#[derive(Clone, Copy)]
struct Claim<'a> {
    name: &'a Name,
    endpoint: &'a Endpoint,
    index: usize,
    declared: Declared,
}

impl<'a> Claim<'a> {
    fn all(name: &'a Name, endpoint: &'a Endpoint) -> impl Iterator<Item = Claim<'a>> {
        let macs = endpoint.macs.iter().map(|mac| Declared::Mac(*mac)).enumerate();
        let addresses = endpoint.addresses.iter().map(|a| Declared::Address(*a));
        macs.chain(addresses.enumerate())
            .map(move |(index, declared)| Claim {
                name,
                endpoint,
                index,
                declared,
            })
    }

    fn path(&self) -> String {
        let list = match self.declared {
            Declared::Mac(_) => "macs",
            Declared::Address(_) => "addresses",
        };
        format!("endpoints.{}.{list}[{}]", self.name, self.index)
    }

    /// Whether both are the same place of the same list.
    fn is(&self, other: &Self) -> bool {
        self.name == other.name
            && self.index == other.index
            && std::mem::discriminant(&self.declared) == std::mem::discriminant(&other.declared)
    }

    /// Whether both are about one MAC, or have an address in common.
    fn meets(&self, other: &Self) -> bool {
        match (self.declared, other.declared) {
            (Declared::Mac(a), Declared::Mac(b)) => a == b,
            (Declared::Address(a), Declared::Address(b)) => a.0.contains(&b.0) || b.0.contains(&a.0),
            _ => false,
        }
    }

    fn shared(&self) -> bool {
        self.endpoint.shares(self.declared)
    }

    /// Why this one cannot stand beside one that it meets.
    fn clash(&self, other: &Self, tenant_label: &str) -> Option<String> {
        let (declared, at) = (self.declared, other.path());
        if self.name == other.name {
            // Prefixes of one endpoint may lie in each other.
            let mac = matches!(declared, Declared::Mac(_));
            return mac.then(|| format!("{declared} is claimed by {at} already"));
        }
        let also = if other.declared == declared {
            format!("{declared} is claimed by {at} already")
        } else {
            format!(
                "{declared} has addresses in common with {} of {at}",
                other.declared
            )
        };
        match (self.shared(), other.shared()) {
            (false, false) => Some(also),
            (true, true) => {
                let tenant = |claim: &Self| claim.endpoint.labels.get(tenant_label).cloned();
                let (own, others) = (tenant(self), tenant(other));
                let named =
                    |tenant: Option<String>| tenant.map_or_else(|| "none".to_string(), |t| format!("`{t}`"));
                (own != others).then(|| {
                    format!(
                        "{also}, by another tenant ({} here, {} there, by label {tenant_label}): only endpoints of one \
                         tenant may share it",
                        named(own),
                        named(others)
                    )
                })
            }
            _ => Some(format!(
                "{also}: every endpoint that declares it lists it in `shared`, or none may share it"
            )),
        }
    }
}

/// The claims of one network.
#[derive(Default)]
struct Network<'a> {
    macs: HashMap<MacAddr, Vec<Claim<'a>>>,
    addresses: Prefixes<Claim<'a>>,
}

impl<'a> Network<'a> {
    /// What stands against a claim: by the first endpoint in order.
    fn clash(&self, claim: &Claim<'a>, tenant_label: &str) -> Option<String> {
        let first = |claims: &Vec<Claim<'a>>| {
            claims
                .iter()
                .find_map(|other| Some(((other.name, other.index), claim.clash(other, tenant_label)?)))
        };
        let found = match claim.declared {
            Declared::Mac(mac) => self.macs.get(&mac).and_then(first),
            Declared::Address(prefix) => {
                let meeting = self.addresses.meeting(prefix.0);
                meeting
                    .filter_map(|(_, claims)| first(claims))
                    .min_by(|a, b| a.0.cmp(&b.0))
            }
        };
        found.map(|(_, why)| why)
    }

    fn insert(&mut self, claim: Claim<'a>) {
        match claim.declared {
            Declared::Mac(mac) => self.macs.entry(mac).or_default().push(claim),
            Declared::Address(prefix) => self.addresses.insert(prefix.0, claim),
        }
    }
}

/// What is reserved, each with its path.
#[derive(Default)]
struct ReservedClaims {
    macs: HashMap<MacAddr, usize>,
    addresses: Prefixes<(String, bool)>,
}

impl ReservedClaims {
    fn from_reserved(reserved: &Reserved) -> Self {
        let mut kept = ReservedClaims::default();
        for (index, mac) in reserved.macs.iter().enumerate() {
            kept.macs.entry(*mac).or_insert(index);
        }
        for (field, list, dhcp) in [
            ("addresses", &reserved.addresses, false),
            ("dhcp", &reserved.dhcp, true),
        ] {
            for (index, prefix) in list.iter().enumerate() {
                let value = (format!("reserved.{field}[{index}]"), dhcp);
                kept.addresses.insert(prefix.0, value);
            }
        }
        kept
    }

    /// The path of what keeps a claim from its endpoint.
    fn against(&self, claim: &Claim<'_>) -> Option<(String, Declared)> {
        match claim.declared {
            Declared::Mac(mac) => {
                let index = self.macs.get(&mac)?;
                Some((format!("reserved.macs[{index}]"), claim.declared))
            }
            Declared::Address(prefix) => {
                let serves = claim.endpoint.roles.contains(&EndpointRole::DhcpServer);
                let mut meeting = self.addresses.meeting(prefix.0);
                meeting.find_map(|(net, values)| {
                    let (path, _) = values.iter().find(|(_, dhcp)| !(*dhcp && serves))?;
                    Some((path.clone(), Declared::Address(StrictPrefix(*net))))
                })
            }
        }
    }

    fn check(&self, claim: &Claim<'_>, check: &mut Check) {
        if let Some((path, kept)) = self.against(claim) {
            let declared = claim.declared;
            let which = if kept == declared {
                format!("{declared} is reserved ({path})")
            } else {
                format!("{declared} has addresses in common with {kept}, which is reserved ({path})")
            };
            let server = if path.starts_with("reserved.dhcp") {
                ": only an endpoint with the role dhcp-server may declare it"
            } else {
                ": no endpoint may declare it"
            };
            check.fail(claim.path(), which + server);
        }
    }
}

/// Why no host can have any address of a prefix.
fn no_host(prefix: StrictPrefix) -> Option<&'static str> {
    let whole = |len: u8| prefix.0.prefix_len() >= len;
    match prefix.0.addr() {
        IpAddr::V4(a) if a.octets()[0] == 0 && whole(8) => Some("means no address (RFC 1122)"),
        IpAddr::V4(a) if a.is_loopback() && whole(8) => Some("is a loopback address"),
        IpAddr::V4(a) if a.is_multicast() && whole(4) => Some("is a multicast address"),
        IpAddr::V4(a) if a.is_broadcast() && whole(32) => Some("is the broadcast address"),
        IpAddr::V6(a) if a.is_unspecified() && whole(128) => Some("means no address (RFC 4291)"),
        IpAddr::V6(a) if a.is_loopback() && whole(128) => Some("is the loopback address"),
        IpAddr::V6(a) if a.is_multicast() && whole(8) => Some("is a multicast address"),
        _ => None,
    }
}

impl Check {
    /// Addresses that an endpoint, or the document, says are a host's.
    pub(crate) fn hosts(&mut self, path: &str, addresses: &[StrictPrefix]) {
        self.unmapped(&|| path.to_string(), addresses);
        for (index, prefix) in addresses.iter().enumerate() {
            if let Some(why) = no_host(*prefix) {
                self.fail(
                    format!("{path}[{index}]"),
                    format!("{prefix} {why}: no host can have it, remove it"),
                );
            }
        }
    }

    /// What is reserved, by itself.
    pub(crate) fn reserved(&mut self, reserved: &Reserved) {
        self.hosts("reserved.addresses", &reserved.addresses);
        self.hosts("reserved.dhcp", &reserved.dhcp);
    }

    /// MACs and addresses of every endpoint.
    pub(crate) fn declared(&mut self, document: &Document) {
        let kept = ReservedClaims::from_reserved(&document.reserved);
        let mut networks: HashMap<&Name, Network<'_>> = HashMap::new();
        for (name, endpoint) in &document.endpoints {
            let network = networks.entry(&endpoint.network).or_default();
            for claim in Claim::all(name, endpoint) {
                kept.check(&claim, self);
                if let Some(why) = network.clash(&claim, &document.tenant_label) {
                    self.fail(claim.path(), why);
                }
                network.insert(claim);
            }
        }
    }

    /// What [`declared`](Self::declared) checks, for one endpoint against all.
    pub(crate) fn declared_of(&mut self, name: &Name, endpoint: &Endpoint, document: &Document) {
        let kept = ReservedClaims::from_reserved(&document.reserved);
        let own: Vec<Claim<'_>> = Claim::all(name, endpoint).collect();
        let mut clashes: Vec<Option<String>> = vec![None; own.len()];
        let others = document
            .endpoints
            .iter()
            .filter(|(_, e)| e.network == endpoint.network);
        for claim in others.flat_map(|(other, e)| Claim::all(other, e)) {
            // Of its own, one meets those before it.
            let place = own.iter().position(|mine| mine.is(&claim));
            let later = own
                .iter()
                .zip(&mut clashes)
                .skip(place.map_or(0, |place| place + 1));
            for (mine, clash) in later.filter(|(mine, clash)| clash.is_none() && mine.meets(&claim)) {
                *clash = mine.clash(&claim, &document.tenant_label);
            }
        }
        for (claim, clash) in own.iter().zip(clashes) {
            kept.check(claim, self);
            if let Some(why) = clash {
                self.fail(claim.path(), why);
            }
        }
    }

    /// What is reserved against the endpoints there are; errors name the place in `reserved`.
    pub(crate) fn reserved_of_none(&mut self, document: &Document) {
        let kept = ReservedClaims::from_reserved(&document.reserved);
        let claims = document
            .endpoints
            .iter()
            .flat_map(|(name, e)| Claim::all(name, e));
        let found = claims.filter_map(|claim| {
            let (path, _) = kept.against(&claim)?;
            let problem = format!(
                "{} is declared by {}: remove it there first",
                claim.declared,
                claim.path()
            );
            Some(FieldError { path, problem })
        });
        let found: Vec<FieldError> = found.collect();
        found
            .into_iter()
            .for_each(|error| self.fail(error.path, error.problem));
    }
}
