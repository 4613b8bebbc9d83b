//! Texts of findings.

use ipnet::IpNet;

use crate::matcher::{Families, Matcher, Ranges};
use crate::types::{PortRange, Protocol, Verdict};

/// Most items a text lists before it says how many more there are.
const MOST: usize = 6;

/// `a, b and 3 more`.
pub(super) fn list(items: impl ExactSizeIterator<Item = String>, separator: &str) -> String {
    let count = items.len();
    let shown: Vec<String> = items.take(MOST).collect();
    let text = shown.join(separator);
    if count > MOST {
        format!("{text} and {} more", count - MOST)
    } else {
        text
    }
}

/// The verdict as a verb: `allows` or `denies`.
pub(super) fn does(action: Verdict) -> &'static str {
    match action {
        Verdict::Allow => "allows",
        Verdict::Deny => "denies",
    }
}

/// The verdict as a participle: `allowed` or `denied`.
pub(super) fn done(action: Verdict) -> &'static str {
    match action {
        Verdict::Allow => "allowed",
        Verdict::Deny => "denied",
    }
}

pub(super) fn ports(word: &str, ranges: &Ranges) -> String {
    let texts: Vec<String> = ranges
        .iter()
        .map(|(low, high)| PortRange { low, high }.to_string())
        .collect();
    let one = matches!(ranges.iter().collect::<Vec<_>>()[..], [(low, high)] if low == high);
    let plural = if one { "" } else { "s" };
    format!("{word}{plural} {}", list(texts.into_iter(), ", "))
}

fn prefixes(word: &str, prefixes: &[IpNet]) -> String {
    format!("{word} {}", list(prefixes.iter().map(ToString::to_string), ", "))
}

/// Where `part`, which lies within `whole`, is narrower: `tcp ports 25, 465, remote 10.0.0.0/8`.
pub(super) fn part(part: &Matcher, whole: &Matcher) -> String {
    let mut words = Vec::new();
    let other_protocol = part.protocol != whole.protocol;
    let differ = |own: &Ranges, whole: &Ranges| !own.is_all() && (other_protocol || own != whole);
    if differ(&part.dst_ports, &whole.dst_ports) {
        words.push(format!("{} {}", part.protocol, ports("port", &part.dst_ports)));
    }
    if differ(&part.src_ports, &whole.src_ports) {
        words.push(format!(
            "{} {}",
            part.protocol,
            ports("source port", &part.src_ports)
        ));
    }
    match part.icmp.filter(|_| part.icmp != whole.icmp) {
        Some(m) => {
            let code = m.code.map_or_else(String::new, |code| format!(" code {code}"));
            words.push(format!("{} type {}{code}", part.protocol, m.kind));
        }
        None if other_protocol && words.is_empty() => words.push(part.protocol.to_string()),
        None => {}
    }
    if part.remote != whole.remote && !part.remote.is_empty() {
        words.push(prefixes("remote", &part.remote));
    }
    if part.local != whole.local && !part.local.is_empty() {
        words.push(prefixes("local", &part.local));
    }
    if part.families != whole.families && words.is_empty() {
        words.push(if part.families.v4 { "IPv4" } else { "IPv6" }.to_string());
    }
    if words.is_empty() {
        "all of it".to_string()
    } else {
        words.join(", ")
    }
}

/// Whether a match names nothing: the "everything else" at the end of a list.
pub(super) fn is_catch_all(matcher: &Matcher) -> bool {
    matcher.protocol == Protocol::Any
        && matcher.families == Families::BOTH
        && matcher.dst_ports.is_all()
        && matcher.src_ports.is_all()
        && matcher.remote.is_empty()
        && matcher.local.is_empty()
        && matcher.icmp.is_none()
}
