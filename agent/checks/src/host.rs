//! Checks of reverse DNS and of the addresses of a name.

use std::net::IpAddr;

use hickory_resolver::proto::rr::Name;

use crate::dns::{Dns, Missing, host, reverse, shown, some};
use crate::question::{Answer, Tally};

/// Addresses beyond these are not checked.
const MOST: usize = 64;

/// The addresses, when there are any and not too many.
pub(crate) fn some_of(addresses: &[IpAddr]) -> Result<impl Iterator<Item = IpAddr>, Answer> {
    if addresses.is_empty() {
        return Err(Answer::undetermined("there is no address to check"));
    }
    if addresses.len() > MOST {
        let count = addresses.len();
        return Err(Answer::undetermined(format!(
            "{count} addresses are too many to check: at most {MOST}"
        )));
    }
    Ok(addresses.iter().map(IpAddr::to_canonical))
}

/// Every address points to the host name, and the host name has it.
pub(crate) async fn fcrdns(dns: &Dns, addresses: &[IpAddr], hostname: &str) -> Result<String, Answer> {
    let hostname = host(hostname)?;
    let mut tally = Tally::new();
    for address in some_of(addresses)? {
        let confirmed = match points(dns, address, Some(&hostname)).await {
            Ok(_) => has(dns, &hostname, address).await,
            Err(answer) => Err(answer),
        };
        let confirmed = confirmed.map(|()| format!("{address} is {} and back", shown(&hostname)));
        tally.add(confirmed)?;
    }
    tally.done()
}

/// Every address has a PTR record, for the host name when there is one.
pub(crate) async fn ptr(dns: &Dns, addresses: &[IpAddr], hostname: Option<&str>) -> Result<String, Answer> {
    let hostname = hostname.map(host).transpose()?;
    let mut tally = Tally::new();
    for address in some_of(addresses)? {
        tally.add(points(dns, address, hostname.as_ref()).await)?;
    }
    tally.done()
}

async fn points(dns: &Dns, address: IpAddr, to: Option<&Name>) -> Result<String, Answer> {
    let names = dns.pointers(address).await.map_err(|missing| match missing {
        Missing::Name => Answer::failed(format!("{address} has no PTR record: no such name (NXDOMAIN)")),
        Missing::Records => Answer::failed(format!("{address} has no PTR record")),
        missing => missing.answer(&reverse(address), "PTR"),
    })?;
    match to {
        Some(to) if !names.iter().any(|name| name.eq_ignore_root(to)) => {
            let (names, to) = (some(&names), shown(to));
            Err(Answer::failed(format!(
                "{address} points to {names}, not to {to}"
            )))
        }
        _ => Ok(format!(
            "{address} points to {}",
            to.map_or_else(|| some(&names), shown)
        )),
    }
}

async fn has(dns: &Dns, hostname: &Name, address: IpAddr) -> Result<(), Answer> {
    let what = if address.is_ipv6() { "AAAA" } else { "A" };
    let found = dns
        .addresses(hostname, address.is_ipv6())
        .await
        .map_err(|missing| missing.answer(hostname, what))?;
    if found.contains(&address) {
        return Ok(());
    }
    let name = shown(hostname);
    let found = found
        .iter()
        .take(3)
        .map(ToString::to_string)
        .collect::<Vec<_>>()
        .join(", ");
    Err(Answer::failed(format!(
        "{name} has the address {found}, not {address}"
    )))
}

/// The host name has addresses, all of those that it must have.
pub(crate) async fn address(
    dns: &Dns,
    hostname: &str,
    must_have: Option<&[IpAddr]>,
) -> Result<String, Answer> {
    let hostname = host(hostname)?;
    if let Some(must_have) = must_have {
        let mut tally = Tally::new();
        for address in some_of(must_have)? {
            let found = has(dns, &hostname, address).await;
            tally.add(found.map(|()| format!("{} has the address {address}", shown(&hostname))))?;
        }
        return tally.done();
    }
    let mut unknown = None;
    for v6 in [false, true] {
        match dns.addresses(&hostname, v6).await {
            Ok(found) => {
                let (name, found) = (shown(&hostname), found.iter().take(3).map(ToString::to_string));
                let found = found.collect::<Vec<_>>().join(", ");
                return Ok(format!("{name} has the address {found}"));
            }
            Err(Missing::Name | Missing::Records) => {}
            Err(missing) => unknown = Some(missing.answer(&hostname, if v6 { "AAAA" } else { "A" })),
        }
    }
    Err(unknown.unwrap_or_else(|| Answer::failed(format!("{} has no A or AAAA record", shown(&hostname)))))
}
