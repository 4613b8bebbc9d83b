//! Parsing of one value of each type.

use std::net::IpAddr;

use chrono::NaiveDate;
use email_address::{EmailAddress, Options};
use idna::AsciiDenyList;
use idna::uts46::{DnsLength, Hyphens, Uts46};
use portcullis_policy::{EvidenceType, MAX_EVIDENCE, StrictPrefix};
use url::Url;

use super::{Pattern, Value};

/// The longest mailbox (RFC 5321, 4.5.3.1.3: a path of 256 octets with its brackets).
const MAX_MAILBOX: usize = 254;

/// Reads one value without white space around it, or says what is wrong with it.
pub(super) fn value(kind: &EvidenceType, text: &str) -> Result<Value, String> {
    let prose = matches!(kind, EvidenceType::Text { .. });
    if text
        .chars()
        .any(|c| c.is_control() && !(prose && matches!(c, '\n' | '\r' | '\t')))
    {
        return Err("has control characters: remove them".to_string());
    }
    match kind {
        EvidenceType::Text {
            min_length,
            max_length,
            pattern,
        } => self::text(text, *min_length, *max_length, pattern.as_deref()),
        EvidenceType::Integer { min, max } => integer(text, *min, *max),
        EvidenceType::Boolean { must_be } => boolean(text, *must_be),
        EvidenceType::Hostname {} => hostname(text).map(Value::Hostname),
        EvidenceType::Email {} => email(text),
        EvidenceType::Url { schemes } => url(text, schemes),
        EvidenceType::Address {} => address(text),
        EvidenceType::Prefix {
            min_length_v4,
            min_length_v6,
        } => prefix(text, *min_length_v4, *min_length_v6),
        EvidenceType::Enum { values } => {
            let known = values.iter().any(|value| value == text);
            known
                .then(|| Value::Enum(text.to_string()))
                .ok_or_else(|| format!("`{}` is none of {}", short(text), values.join(", ")))
        }
        EvidenceType::Date {
            not_before,
            not_after,
        } => date(text, not_before.as_deref(), not_after.as_deref()),
    }
}

/// The beginning of a text, to repeat it in an error.
fn short(text: &str) -> String {
    let mut shown: String = text.chars().take(80).collect();
    if shown.len() < text.len() {
        shown.push('…');
    }
    shown
}

fn text(text: &str, min: Option<u32>, max: Option<u32>, pattern: Option<&str>) -> Result<Value, String> {
    let length = text.chars().count();
    if let Some(min) = min.filter(|min| length < *min as usize) {
        return Err(format!("has {length} characters: write at least {min}"));
    }
    if let Some(max) = max.filter(|max| length > *max as usize) {
        return Err(format!("has {length} characters: write at most {max}"));
    }
    if let Some(pattern) = pattern {
        let compiled = Pattern::new(pattern)
            .map_err(|problem| format!("cannot be checked: the program's pattern {problem}"))?;
        if !compiled.matches(text) {
            return Err(format!("does not match the pattern `{pattern}`"));
        }
    }
    Ok(Value::Text(text.to_string()))
}

fn integer(text: &str, min: Option<i64>, max: Option<i64>) -> Result<Value, String> {
    let digits = text.strip_prefix('-').unwrap_or(text);
    let well_formed = !digits.is_empty() && digits.bytes().all(|b| b.is_ascii_digit());
    let number = match text.parse::<i64>() {
        Ok(number) if well_formed => number,
        _ if well_formed => return Err(format!("{} is too large a number", short(text))),
        _ => return Err(format!("`{}` is not a whole number", short(text))),
    };
    if let Some(min) = min.filter(|min| number < *min) {
        return Err(format!("{number} is too small: at least {min}"));
    }
    if let Some(max) = max.filter(|max| number > *max) {
        return Err(format!("{number} is too large: at most {max}"));
    }
    Ok(Value::Integer(number))
}

fn boolean(text: &str, must_be: Option<bool>) -> Result<Value, String> {
    let yes = match text {
        "true" => true,
        "false" => false,
        _ => {
            return Err(format!(
                "`{}` is not true or false: write one of them",
                short(text)
            ));
        }
    };
    match must_be {
        Some(wanted) if wanted != yes => Err(format!("must be {wanted}")),
        _ => Ok(Value::Boolean(yes)),
    }
}

/// RFC 1123 after RFC 5891: at least two labels, none of them all digits at the end, in lower case.
fn hostname(text: &str) -> Result<String, String> {
    let refuse = |why: &str| Err(format!("`{}` is not a host name: {why}", short(text)));
    let bare = text.strip_suffix('.').unwrap_or(text);
    let ascii = Uts46::new().to_ascii(
        bare.as_bytes(),
        AsciiDenyList::STD3,
        Hyphens::CheckFirstLast,
        DnsLength::Verify,
    );
    let Ok(name) = ascii.map(std::borrow::Cow::into_owned) else {
        return refuse(
            "labels are 1 to 63 letters, digits or `-`, no `-` at their ends, 253 characters in all",
        );
    };
    let Some((_, last)) = name.rsplit_once('.') else {
        return refuse("it needs at least two labels, as in mail.example.com");
    };
    if last.bytes().all(|b| b.is_ascii_digit()) {
        return refuse("its last label is a number");
    }
    Ok(name)
}

fn email(text: &str) -> Result<Value, String> {
    let refuse = |why: &str| format!("`{}` is not an e-mail address: {why}", short(text));
    let (local, domain) = text
        .rsplit_once('@')
        .ok_or_else(|| refuse("it has no `@`, as in postmaster@example.com"))?;
    let domain = hostname(domain).map_err(|problem| refuse(&problem))?;
    let address = format!("{local}@{domain}");
    let options = Options {
        minimum_sub_domains: 2,
        allow_domain_literal: false,
        allow_display_text: false,
        allow_long_local_parts: false,
    };
    if !local.is_ascii() || address.len() > MAX_MAILBOX {
        return Err(refuse("write ASCII before the `@`, and at most 254 characters"));
    }
    EmailAddress::parse_with_options(&address, options)
        .map_err(|error| refuse(&format!("{error}, as of RFC 5321")))?;
    Ok(Value::Email(address))
}

fn url(text: &str, schemes: &[String]) -> Result<Value, String> {
    let refuse = |why: &str| format!("`{}` is not a URL to use: {why}", short(text));
    let url = Url::parse(text).map_err(|error| refuse(&error.to_string()))?;
    let allowed = if schemes.is_empty() {
        url.scheme() == "https"
    } else {
        schemes
            .iter()
            .any(|scheme| scheme.eq_ignore_ascii_case(url.scheme()))
    };
    if !allowed {
        let wanted = if schemes.is_empty() {
            "https".to_string()
        } else {
            schemes.join(" or ")
        };
        return Err(refuse(&format!("it must begin with {wanted}://")));
    }
    if url.host_str().is_none_or(str::is_empty) {
        return Err(refuse("it names no host"));
    }
    if !url.username().is_empty() || url.password().is_some() {
        return Err(refuse("it holds a user or a password: remove them"));
    }
    let normal = url.to_string();
    if normal.chars().count() > MAX_EVIDENCE as usize {
        return Err(format!(
            "is longer than {MAX_EVIDENCE} characters with its characters escaped"
        ));
    }
    Ok(Value::Url(normal))
}

fn address(text: &str) -> Result<Value, String> {
    let address: IpAddr = text.parse().map_err(|_| {
        format!(
            "`{}` is not an address: write 192.0.2.10 or 2001:db8::10",
            short(text)
        )
    })?;
    match address {
        IpAddr::V6(v6) if v6.to_ipv4_mapped().is_some() => Err(format!(
            "{address} is an IPv4 address inside IPv6: write {}",
            address.to_canonical()
        )),
        _ => Ok(Value::Address(address)),
    }
}

fn prefix(text: &str, min_v4: Option<u8>, min_v6: Option<u8>) -> Result<Value, String> {
    let read: StrictPrefix = text.parse().map_err(|_| match text.parse::<ipnet::IpNet>() {
        Ok(net) => format!("{net} has host bits: write {}", net.trunc()),
        Err(_) => format!(
            "`{}` is not a prefix: write 192.0.2.0/24 or 2001:db8::/32",
            short(text)
        ),
    })?;
    if let Some(v4) = read.mapped() {
        return Err(format!(
            "{read} is IPv4 inside IPv6, which no packet carries: write {v4}"
        ));
    }
    let StrictPrefix(prefix) = read;
    let (min, version) = if prefix.addr().is_ipv4() {
        (min_v4, "IPv4")
    } else {
        (min_v6, "IPv6")
    };
    match min {
        Some(min) if prefix.prefix_len() < min => Err(format!(
            "{prefix} is too wide: an {version} prefix is /{min} or longer"
        )),
        _ => Ok(Value::Prefix(prefix)),
    }
}

/// A day in the only form there is: `2026-11-27`.
pub(crate) fn day(text: &str) -> Option<NaiveDate> {
    let bytes = text.as_bytes();
    let well_formed = bytes.len() == 10
        && bytes.iter().enumerate().all(|(at, b)| match at {
            4 | 7 => *b == b'-',
            _ => b.is_ascii_digit(),
        });
    if !well_formed {
        return None;
    }
    let year = text.get(..4)?.parse().ok().filter(|year| *year > 0)?;
    NaiveDate::from_ymd_opt(year, text.get(5..7)?.parse().ok()?, text.get(8..)?.parse().ok()?)
}

fn date(text: &str, not_before: Option<&str>, not_after: Option<&str>) -> Result<Value, String> {
    let found = day(text).ok_or_else(|| format!("`{}` is not a day: write 2026-11-27", short(text)))?;
    let bound = |limit: Option<&str>| {
        limit
            .map(|limit| {
                day(limit).ok_or_else(|| format!("cannot be checked: the program's `{limit}` is no day"))
            })
            .transpose()
    };
    if let Some(first) = bound(not_before)?.filter(|first| found < *first) {
        return Err(format!("{found} is too early: not before {first}"));
    }
    if let Some(last) = bound(not_after)?.filter(|last| found > *last) {
        return Err(format!("{found} is too late: not after {last}"));
    }
    Ok(Value::Date(found))
}
