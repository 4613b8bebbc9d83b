//! SPF records (RFC 7208 sections 4.5 to 6).

use ipnet::{Ipv4Net, Ipv6Net};

use super::macros::Domain;

/// A record, parsed as a whole: one with an error anywhere is no record.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Record {
    pub(super) directives: Vec<Directive>,
    pub(super) redirect: Option<Domain>,
}

/// A mechanism, and what its match means.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Directive {
    pub(super) means: Means,
    pub(super) mechanism: Mechanism,
    pub(super) text: String,
}

/// What a match means.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Means {
    Pass,
    Fail,
    SoftFail,
    Neutral,
}

#[derive(Debug, PartialEq, Eq)]
pub(super) enum Mechanism {
    All,
    Include(Domain),
    A(Option<Domain>, Lengths),
    Mx(Option<Domain>, Lengths),
    Ptr(Option<Domain>),
    Ip4(Ipv4Net),
    Ip6(Ipv6Net),
    Exists(Domain),
}

/// How long prefixes are compared.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Lengths {
    pub(super) v4: u8,
    pub(super) v6: u8,
}

/// Whether a TXT record is an SPF record.
pub(super) fn is_record(text: &str) -> bool {
    let version = text.as_bytes().get(..6);
    version.is_some_and(|v| v.eq_ignore_ascii_case(b"v=spf1"))
        && matches!(text.as_bytes().get(6), None | Some(b' '))
}

/// Parses a record; an error is the term that is wrong.
pub(super) fn parse(text: &str) -> Result<Record, String> {
    let mut record = Record {
        directives: Vec::new(),
        redirect: None,
    };
    let mut explained = false;
    for term in text.split(' ').skip(1).filter(|term| !term.is_empty()) {
        let wrong = || term.to_string();
        if let Some((name, value)) = modifier(term) {
            if name.eq_ignore_ascii_case("redirect") {
                let domain = Domain::parse(value).ok_or_else(wrong)?;
                if record.redirect.replace(domain).is_some() {
                    return Err(wrong());
                }
            } else if name.eq_ignore_ascii_case("exp") {
                if explained || Domain::parse(value).is_none() {
                    return Err(wrong());
                }
                explained = true;
            }
            continue;
        }
        let (means, rest) = match term.as_bytes().first() {
            Some(b'+') => (Means::Pass, &term[1..]),
            Some(b'-') => (Means::Fail, &term[1..]),
            Some(b'~') => (Means::SoftFail, &term[1..]),
            Some(b'?') => (Means::Neutral, &term[1..]),
            _ => (Means::Pass, term),
        };
        record.directives.push(Directive {
            means,
            mechanism: mechanism(rest).ok_or_else(wrong)?,
            text: term.to_string(),
        });
    }
    Ok(record)
}

fn modifier(term: &str) -> Option<(&str, &str)> {
    let (name, value) = term.split_once('=')?;
    let inside = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
    let named = name.starts_with(|c: char| c.is_ascii_alphabetic()) && name.chars().all(inside);
    named.then_some((name, value))
}

fn mechanism(text: &str) -> Option<Mechanism> {
    let end = text.find([':', '/']).unwrap_or(text.len());
    let (name, rest) = text.split_at(end);
    let value = rest.strip_prefix(':');
    Some(match name.to_ascii_lowercase().as_str() {
        "all" if rest.is_empty() => Mechanism::All,
        "include" => Mechanism::Include(Domain::parse(value?)?),
        "exists" => Mechanism::Exists(Domain::parse(value?)?),
        "ptr" if rest.is_empty() => Mechanism::Ptr(None),
        "ptr" => Mechanism::Ptr(Some(Domain::parse(value?)?)),
        "ip4" => Mechanism::Ip4(match value?.split_once('/') {
            Some((address, length)) => Ipv4Net::new(address.parse().ok()?, number(length)?).ok()?,
            None => Ipv4Net::from(value?.parse::<std::net::Ipv4Addr>().ok()?),
        }),
        "ip6" => Mechanism::Ip6(match value?.split_once('/') {
            Some((address, length)) => Ipv6Net::new(address.parse().ok()?, number(length)?).ok()?,
            None => Ipv6Net::from(value?.parse::<std::net::Ipv6Addr>().ok()?),
        }),
        "a" => {
            let (domain, lengths) = domain_and_lengths(rest)?;
            Mechanism::A(domain, lengths)
        }
        "mx" => {
            let (domain, lengths) = domain_and_lengths(rest)?;
            Mechanism::Mx(domain, lengths)
        }
        _ => return None,
    })
}

/// `[":" domain-spec] ["/" length] ["//" length]`.
fn domain_and_lengths(rest: &str) -> Option<(Option<Domain>, Lengths)> {
    let digits = |text: &str| !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    let mut lengths = Lengths { v4: 32, v6: 128 };
    let mut rest = rest;
    if let Some((before, length)) = rest.rsplit_once("//").filter(|(_, length)| digits(length)) {
        lengths.v6 = number(length).filter(|length| *length <= 128)?;
        rest = before;
    }
    if let Some((before, length)) = rest.rsplit_once('/').filter(|(_, length)| digits(length)) {
        lengths.v4 = number(length).filter(|length| *length <= 32)?;
        rest = before;
    }
    if rest.is_empty() {
        return Some((None, lengths));
    }
    Some((Some(Domain::parse(rest.strip_prefix(':')?)?), lengths))
}

/// A number without leading zeros.
fn number(text: &str) -> Option<u8> {
    let plain = text == "0" || (!text.starts_with('0') && text.bytes().all(|byte| byte.is_ascii_digit()));
    text.parse().ok().filter(|_| plain)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn records_are_told_from_other_text() {
        for right in ["v=spf1", "v=spf1 ", "V=SPF1 -all"] {
            assert!(is_record(right), "{right}");
        }
        for wrong in [
            "",
            "v=spf10 -all",
            "v=spf1-all",
            " v=spf1",
            "v=spf1\t-all",
            "v=spf2.0/pra",
            "vä=spf1",
        ] {
            assert!(!is_record(wrong), "{wrong}");
        }
    }

    #[test]
    fn every_mechanism_is_read() {
        let record = parse(
            "v=spf1  a a/24 a//64 a:b.test/24//64 mx:%{d}/8 ptr ptr:b.test ?ip4:192.0.2.0/24 ip6:2001:db8::/32 \
             +include:c.test exists:%{ir}.d.test unknown=%x exp=e.test redirect=r.test ~all",
        )
        .unwrap();
        assert_eq!(record.directives.len(), 12);
        assert!(record.redirect.is_some());
        let Mechanism::A(Some(_), lengths) = &record.directives[3].mechanism else {
            panic!("{record:?}");
        };
        assert_eq!(*lengths, Lengths { v4: 24, v6: 64 });
        assert_eq!(record.directives[7].means, Means::Neutral);
        assert_eq!(record.directives[11].means, Means::SoftFail);
    }

    #[test]
    fn an_error_anywhere_is_one_of_the_record() {
        for wrong in [
            "ip4:1.2.3",
            "ip4:1.2.3.4/33",
            "ip4:1.2.3.4/08",
            "ip4",
            "ip6:1.2.3.4",
            "ip6:::1/129",
            "all:x.test",
            "all/8",
            "include",
            "include:",
            "include:com",
            "exists",
            "a:",
            "a/33",
            "a//129",
            "a/",
            "a//",
            "mx:/24",
            "foo",
            "-",
            "redirect=",
            "redirect=a.test redirect=b.test",
            "exp=a.test exp=b.test",
            "ptr:",
            "ptr/24",
            "=x",
            "a:b.test/x",
            "a:\u{fffd}.test",
            "+ipv4:1.2.3.4",
        ] {
            let text = format!("v=spf1 {wrong} -all");
            assert!(parse(&text).is_err(), "{text}");
        }
    }
}
