//! SPF (RFC 7208): whether a domain lets an address send.

mod macros;
mod record;

use std::net::IpAddr;
use std::pin::Pin;

use hickory_resolver::proto::rr::{Name, RData, RecordType};
use ipnet::{Ipv4Net, Ipv6Net};

use crate::dns::{Dns, Missing, host, name, reverse, shown};
use crate::host::some_of;
use crate::question::{Answer, Tally, printable};
use macros::{Domain, Speaks};
use record::{Directive, Lengths, Means, Mechanism};

/// Terms that ask DNS, in a record and all that it includes.
const LOOKUPS: usize = 10;

/// Terms whose queries give nothing (section 4.6.4: "void lookups").
const VOIDS: usize = 2;

/// A term that matches by a shorter prefix than these proves nothing of an address.
const SHORTEST: Lengths = Lengths { v4: 8, v6: 16 };

/// Names of an MX or PTR that are looked at.
const NAMES: usize = 10;

/// The domain's record gives `pass` to every address, by a term that is about the address unless `accept_any`.
pub(crate) async fn spf(
    dns: &Dns,
    domain: &str,
    addresses: &[IpAddr],
    sender: Option<&str>,
    accept_any: bool,
) -> Result<String, Answer> {
    let domain = shown(&host(domain)?);
    let sender = sender.map_or_else(|| format!("postmaster@{domain}"), str::to_string);
    let mut tally = Tally::new();
    for ip in some_of(addresses)? {
        let mut evaluation = Evaluation {
            dns,
            ip,
            sender: &sender,
            helo: &domain,
            lookups: 0,
            voids: 0,
            any: false,
        };
        let result = evaluation.check_host(domain.clone()).await;
        let refused = evaluation.any && !accept_any;
        tally.add(judge(&domain, ip, result, refused))?;
    }
    tally.done()
}

fn judge(domain: &str, ip: IpAddr, result: Result<Verdict, Stop>, refused: bool) -> Result<String, Answer> {
    let spf = |result: &str, why: &str| {
        let why = printable(why, 200);
        format!("SPF of {domain} gives {ip} `{result}`: {why}")
    };
    match result {
        Ok(Verdict::Matched(Means::Pass, term)) if refused => {
            let why = format!("{term} passes any address, which proves nothing of this one");
            Err(Answer::failed(spf("pass", &why)))
        }
        Ok(Verdict::Matched(Means::Pass, term)) => Ok(spf("pass", &term)),
        Ok(Verdict::Matched(means, term)) => Err(Answer::failed(spf(
            match means {
                Means::SoftFail => "softfail",
                Means::Neutral => "neutral",
                Means::Pass | Means::Fail => "fail",
            },
            &term,
        ))),
        Ok(Verdict::Neutral) => Err(Answer::failed(spf("neutral", "no term matches"))),
        Ok(Verdict::None) => Err(Answer::failed(spf("none", "there is no SPF record"))),
        Err(Stop::Permanent(why)) => Err(Answer::failed(spf("permerror", &why))),
        Err(Stop::Temporary(why)) => Err(Answer::undetermined(spf("temperror", &why))),
        Err(Stop::NotMade(why)) => Err(Answer::not_made(spf("temperror", &why))),
    }
}

/// The result of a record.
enum Verdict {
    /// A term matched: what it means, and the term.
    Matched(Means, String),
    /// The record has no term that matches.
    Neutral,
    /// There is no record.
    None,
}

/// Why there is no verdict.
enum Stop {
    /// Later there may be one.
    Temporary(String),
    NotMade(String),
    /// The record is wrong.
    Permanent(String),
}

/// One address against one domain, with all that it includes.
struct Evaluation<'a> {
    dns: &'a Dns,
    ip: IpAddr,
    sender: &'a str,
    helo: &'a str,
    lookups: usize,
    voids: usize,
    /// The term that matched last would match nearly any address.
    any: bool,
}

type Later<'b, T> = Pin<Box<dyn Future<Output = T> + Send + 'b>>;

impl Evaluation<'_> {
    /// `check_host()` of section 4. It calls itself at most [`LOOKUPS`] deep.
    fn check_host(&mut self, domain: String) -> Later<'_, Result<Verdict, Stop>> {
        Box::pin(async move {
            let Some(at) = name(&domain).filter(|at| at.num_labels() > 1) else {
                return Ok(Verdict::None);
            };
            let mut texts = match self.dns.texts(&at).await {
                Ok(texts) => texts,
                Err(Missing::Name | Missing::Records) => return Ok(Verdict::None),
                Err(Missing::Unknown(why)) => {
                    return Err(Stop::Temporary(format!("TXT of {}: {why}", shown(&at))));
                }
                Err(Missing::Unreachable(why)) => {
                    return Err(Stop::NotMade(format!("TXT of {}: {why}", shown(&at))));
                }
            };
            texts.retain(|text| record::is_record(text));
            let text = match texts.as_slice() {
                [] => return Ok(Verdict::None),
                [text] => text,
                more => {
                    let (at, count) = (shown(&at), more.len());
                    return Err(Stop::Permanent(format!("{at} has {count} SPF records")));
                }
            };
            let record = record::parse(text)
                .map_err(|term| Stop::Permanent(format!("`{term}` of {} is malformed", shown(&at))))?;
            for directive in &record.directives {
                if self.matches(directive, &domain).await? {
                    let term = format!("{} of {}", directive.text, shown(&at));
                    return Ok(Verdict::Matched(directive.means, term));
                }
            }
            let Some(redirect) = &record.redirect else {
                return Ok(Verdict::Neutral);
            };
            self.count_lookup()?;
            let target = self.expand(redirect, &domain);
            match self.check_host(target.clone()).await? {
                Verdict::None => Err(Stop::Permanent(format!(
                    "redirect to {target}, which has no SPF record"
                ))),
                verdict => Ok(verdict),
            }
        })
    }

    fn expand(&self, target: &Domain, domain: &str) -> String {
        target.expand(&Speaks {
            ip: self.ip,
            sender: self.sender,
            helo: self.helo,
            domain,
        })
    }

    /// The name a term speaks of, the record's own when it names none; one that cannot be a name matches nothing.
    fn target(&self, target: Option<&Domain>, domain: &str) -> Option<Name> {
        match target {
            Some(target) => name(&self.expand(target, domain)),
            None => name(domain),
        }
    }

    fn count_lookup(&mut self) -> Result<(), Stop> {
        self.lookups += 1;
        if self.lookups > LOOKUPS {
            return Err(Stop::Permanent(format!("more than {LOOKUPS} terms ask DNS")));
        }
        Ok(())
    }

    /// Section 4.6.4 limits terms, not queries: one whose queries all give nothing counts once, in whatever order a
    /// server lists the hosts of an `mx`.
    fn count_void(&mut self) -> Result<(), Stop> {
        self.voids += 1;
        if self.voids > VOIDS {
            return Err(Stop::Permanent(format!(
                "more than {VOIDS} terms ask for what is not there"
            )));
        }
        Ok(())
    }

    async fn matches(&mut self, directive: &Directive, domain: &str) -> Result<bool, Stop> {
        let (any4, any6) = (SHORTEST.v4, SHORTEST.v6);
        let v4 = self.ip.is_ipv4();
        let any = match &directive.mechanism {
            Mechanism::All => true,
            Mechanism::Ip4(net) => net.prefix_len() < any4,
            Mechanism::Ip6(net) => net.prefix_len() < any6,
            Mechanism::A(_, lengths) | Mechanism::Mx(_, lengths) if v4 => lengths.v4 < any4,
            Mechanism::A(_, lengths) | Mechanism::Mx(_, lengths) => lengths.v6 < any6,
            Mechanism::Ptr(_) | Mechanism::Exists(_) => false,
            // What it includes says that.
            Mechanism::Include(_) => return self.mechanism(&directive.mechanism, domain).await,
        };
        let matched = self.mechanism(&directive.mechanism, domain).await?;
        self.any = matched && any;
        Ok(matched)
    }

    async fn mechanism(&mut self, mechanism: &Mechanism, domain: &str) -> Result<bool, Stop> {
        match mechanism {
            Mechanism::All => Ok(true),
            Mechanism::Ip4(net) => Ok(matches!(self.ip, IpAddr::V4(ip) if net.contains(&ip))),
            Mechanism::Ip6(net) => Ok(matches!(self.ip, IpAddr::V6(ip) if net.contains(&ip))),
            Mechanism::Include(target) => {
                self.count_lookup()?;
                let target = self.expand(target, domain);
                match self.check_host(target.clone()).await? {
                    Verdict::Matched(Means::Pass, _) => Ok(true),
                    Verdict::Matched(..) | Verdict::Neutral => Ok(false),
                    Verdict::None => Err(Stop::Permanent(format!(
                        "{target} is included and has no SPF record"
                    ))),
                }
            }
            Mechanism::A(target, lengths) => {
                self.count_lookup()?;
                let Some(target) = self.target(target.as_ref(), domain) else {
                    return Ok(false);
                };
                let addresses = self.addresses(&target).await?;
                if addresses.is_empty() {
                    self.count_void()?;
                }
                Ok(self.is_among(&addresses, *lengths))
            }
            Mechanism::Mx(target, lengths) => {
                self.count_lookup()?;
                let Some(target) = self.target(target.as_ref(), domain) else {
                    return Ok(false);
                };
                let records = self.records(&target, RecordType::MX).await?;
                if records.len() > NAMES {
                    let target = shown(&target);
                    return Err(Stop::Permanent(format!(
                        "{target} has more than {NAMES} MX records"
                    )));
                }
                // A null MX (RFC 7505) is a record.
                let (mut asked, mut found) = (false, false);
                for record in &records {
                    let RData::MX(mx) = record else { continue };
                    if mx.exchange.is_root() {
                        continue;
                    }
                    let addresses = self.addresses(&mx.exchange).await?;
                    if self.is_among(&addresses, *lengths) {
                        return Ok(true);
                    }
                    asked = true;
                    found |= !addresses.is_empty();
                }
                if records.is_empty() || (asked && !found) {
                    self.count_void()?;
                }
                Ok(false)
            }
            Mechanism::Exists(target) => {
                self.count_lookup()?;
                let Some(target) = self.target(Some(target), domain) else {
                    return Ok(false);
                };
                let exists = !self.records(&target, RecordType::A).await?.is_empty();
                if !exists {
                    self.count_void()?;
                }
                Ok(exists)
            }
            Mechanism::Ptr(target) => {
                self.count_lookup()?;
                let Some(target) = self.target(target.as_ref(), domain) else {
                    return Ok(false);
                };
                self.is_called(&target).await
            }
        }
    }

    /// The records a term asks for, which may be none.
    async fn records(&mut self, at: &Name, of: RecordType) -> Result<Vec<RData>, Stop> {
        match self.dns.query(at, of).await {
            Ok(records) => Ok(records),
            Err(Missing::Unknown(why)) => Err(Stop::Temporary(format!("{of} of {}: {why}", shown(at)))),
            Err(Missing::Unreachable(why)) => Err(Stop::NotMade(format!("{of} of {}: {why}", shown(at)))),
            Err(Missing::Name | Missing::Records) => Ok(Vec::new()),
        }
    }

    fn family(&self) -> RecordType {
        if self.ip.is_ipv6() {
            RecordType::AAAA
        } else {
            RecordType::A
        }
    }

    async fn addresses(&mut self, at: &Name) -> Result<Vec<IpAddr>, Stop> {
        let records = self.records(at, self.family()).await?;
        Ok(records.iter().filter_map(RData::ip_addr).collect())
    }

    fn is_among(&self, addresses: &[IpAddr], lengths: Lengths) -> bool {
        addresses.iter().any(|address| near(self.ip, *address, lengths))
    }

    /// Section 5.5: the address has a name under the target that has the address. Errors match nothing.
    async fn is_called(&mut self, target: &Name) -> Result<bool, Stop> {
        let names = match self.records(&reverse(self.ip), RecordType::PTR).await {
            Ok(names) => names,
            Err(Stop::Temporary(_)) => return Ok(false),
            Err(stop) => return Err(stop),
        };
        if names.is_empty() {
            self.count_void()?;
        }
        for record in names.iter().take(NAMES) {
            let RData::PTR(called) = record else { continue };
            if !target.zone_of(called) {
                continue;
            }
            let exact = Lengths { v4: 32, v6: 128 };
            match self.addresses(called).await {
                Ok(addresses) if self.is_among(&addresses, exact) => return Ok(true),
                Ok(_) | Err(Stop::Temporary(_)) => {}
                Err(stop) => return Err(stop),
            }
        }
        Ok(false)
    }
}

fn near(ip: IpAddr, address: IpAddr, lengths: Lengths) -> bool {
    match (ip, address) {
        (IpAddr::V4(ip), IpAddr::V4(address)) => {
            Ipv4Net::new(address, lengths.v4).is_ok_and(|net| net.contains(&ip))
        }
        (IpAddr::V6(ip), IpAddr::V6(address)) => {
            Ipv6Net::new(address, lengths.v6).is_ok_and(|net| net.contains(&ip))
        }
        _ => false,
    }
}
