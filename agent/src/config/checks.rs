//! Settings of `[checks]`.

use std::net::{IpAddr, SocketAddr};

use portcullis_checks::CheckerConfig;
use toml::Spanned;

use super::raw;
use super::resolve::{Result, refuse};

/// The port of resolvers.
const DNS: u16 = 53;

pub(super) fn checks(raw: raw::Checks) -> Result<CheckerConfig> {
    let defaults = CheckerConfig::default();
    let mut resolvers = Vec::with_capacity(raw.resolvers.len());
    for (n, text) in raw.resolvers.iter().enumerate() {
        let written = text.get_ref();
        let with_port = written.parse::<SocketAddr>();
        let alone = || {
            written
                .parse::<IpAddr>()
                .map(|address| SocketAddr::new(address, DNS))
        };
        match with_port.or_else(|_| alone()) {
            Ok(address) => resolvers.push(address),
            Err(_) => {
                return refuse(
                    text,
                    format!("checks.resolvers[{n}]"),
                    "is not the address of a resolver: write 192.0.2.53, 192.0.2.53:5353 or [2001:db8::53]:53",
                );
            }
        }
    }
    Ok(CheckerConfig {
        resolvers,
        timeout: raw.timeout.map_or(defaults.timeout, |span| span.0),
        attempts: within(raw.attempts, defaults.attempts, 1..=10, "checks.attempts")?,
        total: raw.total.map_or(defaults.total, |span| span.0),
        banner_timeout: raw.banner_timeout.map_or(defaults.banner_timeout, |span| span.0),
        max_concurrent: within(raw.at_once, defaults.max_concurrent, 1..=1024, "checks.at_once")?,
        loopback: raw.loopback,
    })
}

fn within<T: PartialOrd + Copy + std::fmt::Display>(
    value: Option<Spanned<T>>,
    default: T,
    range: std::ops::RangeInclusive<T>,
    path: &str,
) -> Result<T> {
    match value {
        None => Ok(default),
        Some(value) if range.contains(value.get_ref()) => Ok(*value.get_ref()),
        Some(value) => refuse(
            &value,
            path,
            format!("is not within {} to {}", range.start(), range.end()),
        ),
    }
}
