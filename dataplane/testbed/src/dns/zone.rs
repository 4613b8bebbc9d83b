//! Names and their records.

use std::collections::BTreeMap;
use std::net::IpAddr;

use hickory_resolver::proto::rr::rdata::{A, AAAA, CNAME, MX, PTR, TXT};
use hickory_resolver::proto::rr::{Name, RData, Record, RecordType};
use hickory_resolver::proto::serialize::txt::Parser;

/// How a name misbehaves, whatever its records.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// Answers SERVFAIL (response code 2).
    ServFail,
    /// Answers REFUSED (response code 5).
    Refused,
    /// No answer at all.
    Silent,
    /// An answer with the right id, and bytes that are no message.
    Garbage,
    /// Truncated over UDP and over TCP.
    Truncated,
    /// Truncated over UDP, whole over TCP.
    TruncatedUdp,
    /// The records, owned by another name.
    OtherOwner,
    /// Beside the CNAME and what it leads to, an A record of the alias itself ([`BESIDE`](super::BESIDE)).
    BesideAlias,
    /// FORMERR to a query with EDNS.
    NoEdns,
}

impl Fault {
    fn parse(word: &str) -> Option<Self> {
        Some(match word {
            "servfail" => Fault::ServFail,
            "refused" => Fault::Refused,
            "silent" => Fault::Silent,
            "garbage" => Fault::Garbage,
            "truncated" => Fault::Truncated,
            "truncated-udp" => Fault::TruncatedUdp,
            "other-owner" => Fault::OtherOwner,
            "beside-alias" => Fault::BesideAlias,
            "no-edns" => Fault::NoEdns,
            _ => return None,
        })
    }
}

/// What a name has of a type.
pub(super) struct Found {
    pub(super) records: Vec<Record>,
    /// Whether there is the name at the end of its CNAMEs.
    pub(super) exists: bool,
}

/// All that a server knows: records of any names, under no particular apex. What it does not know does not exist.
///
/// # Panics
/// Its builders do when a name is none.
#[derive(Debug, Clone, Default)]
pub struct Zone {
    records: BTreeMap<Name, Vec<Record>>,
    faults: BTreeMap<Name, Fault>,
}

#[allow(clippy::panic, reason = "a test fails by panicking")]
fn must(text: &str) -> Name {
    name(text).unwrap_or_else(|| panic!("`{text}` is no name"))
}

impl Zone {
    /// A zone without names.
    pub fn new() -> Self {
        Self::default()
    }

    /// Reads a master file (RFC 1035 section 5). Its origin is the root, its TTL is 1 second unless it says another.
    /// A line `;fault NAME servfail|refused|silent|garbage|truncated|truncated-udp|other-owner|beside-alias|no-edns` makes a name misbehave.
    ///
    /// # Errors
    /// What is wrong with the file.
    pub fn parse(text: &str) -> Result<Self, String> {
        let mut zone = Self::new();
        for line in text.lines() {
            let Some(fault) = line.trim().strip_prefix(";fault ") else {
                continue;
            };
            let words: Vec<&str> = fault.split_whitespace().collect();
            let parsed = match words.as_slice() {
                [of, kind] => name(of).zip(Fault::parse(kind)),
                _ => None,
            };
            let (of, kind) = parsed.ok_or_else(|| format!("`{line}`: not `;fault NAME KIND`"))?;
            zone.faults.insert(of, kind);
        }
        let text = format!("$TTL 1\n{text}\n");
        let (_, sets) = Parser::new(text, None, Some(Name::root()))
            .parse()
            .map_err(|error| error.to_string())?;
        for set in sets.values() {
            for record in set.records_without_rrsigs() {
                zone.push(record.clone());
            }
        }
        Ok(zone)
    }

    fn push(&mut self, mut record: Record) {
        record.name.set_fqdn(true);
        self.records.entry(record.name.clone()).or_default().push(record);
    }

    /// Adds a record, with a TTL of 1 second.
    pub fn record(mut self, of: &str, data: RData) -> Self {
        self.push(Record::from_rdata(must(of), 1, data));
        self
    }

    /// Adds an A or AAAA record.
    pub fn address(self, of: &str, address: IpAddr) -> Self {
        let data = match address {
            IpAddr::V4(v4) => RData::A(A(v4)),
            IpAddr::V6(v6) => RData::AAAA(AAAA(v6)),
        };
        self.record(of, data)
    }

    /// Adds a PTR record of an address.
    pub fn ptr(mut self, address: IpAddr, to: &str) -> Self {
        let data = RData::PTR(PTR(must(to)));
        self.push(Record::from_rdata(Name::from(address.to_canonical()), 1, data));
        self
    }

    /// Adds a TXT record of some strings.
    pub fn txt(self, of: &str, strings: &[&str]) -> Self {
        let strings = strings.iter().map(ToString::to_string).collect();
        self.record(of, RData::TXT(TXT::new(strings)))
    }

    /// Adds a CNAME record.
    pub fn cname(self, of: &str, to: &str) -> Self {
        self.record(of, RData::CNAME(CNAME(must(to))))
    }

    /// Adds an MX record.
    pub fn mx(self, of: &str, preference: u16, exchange: &str) -> Self {
        self.record(of, RData::MX(MX::new(preference, must(exchange))))
    }

    /// Makes a name misbehave.
    pub fn fault(mut self, of: &str, fault: Fault) -> Self {
        self.faults.insert(must(of), fault);
        self
    }

    /// Takes a name away: its records and its fault.
    pub fn without(mut self, of: &str) -> Self {
        let of = must(of);
        self.records.remove(&of);
        self.faults.remove(&of);
        self
    }

    pub(super) fn fault_of(&self, of: &Name) -> Option<Fault> {
        self.faults.get(of).copied()
    }

    /// Looks a name up, through the CNAMEs it knows.
    pub(super) fn find(&self, of: &Name, kind: RecordType) -> Found {
        let mut found = Vec::new();
        let mut at = of.clone();
        for _ in 0..16 {
            let Some(records) = self.records.get(&at) else {
                let exists = self.records.keys().any(|known| at.zone_of(known));
                return Found {
                    records: found,
                    exists,
                };
            };
            let before = found.len();
            found.extend(records.iter().filter(|r| r.record_type() == kind).cloned());
            let next = records.iter().find_map(|record| match &record.data {
                RData::CNAME(to) => Some((record.clone(), to.0.clone())),
                _ => None,
            });
            match next {
                Some((record, next)) if found.len() == before => {
                    found.push(record);
                    at = next;
                }
                _ => break,
            }
        }
        Found {
            records: found,
            exists: true,
        }
    }
}

/// A name from text, without a search list: labels of any bytes, from the root.
fn name(text: &str) -> Option<Name> {
    let text = text.strip_suffix('.').unwrap_or(text);
    if text.is_empty() || text.split('.').any(|label| label.is_empty() || label.len() > 63) {
        return None;
    }
    let mut name = Name::from_labels(text.split('.').map(str::as_bytes)).ok()?;
    name.set_fqdn(true);
    Some(name)
}
