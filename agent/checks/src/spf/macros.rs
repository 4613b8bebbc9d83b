//! Macros in domain names (RFC 7208 section 7).

use std::net::IpAddr;

/// Longest name, in characters.
const LONGEST: usize = 253;

/// A domain as an SPF record writes it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Domain(Vec<Piece>);

#[derive(Debug, Clone, PartialEq, Eq)]
enum Piece {
    Text(String),
    Macro {
        letter: char,
        keep: usize,
        reverse: bool,
        delimiters: String,
        escape: bool,
    },
}

/// What macros speak of.
pub(super) struct Speaks<'a> {
    pub(super) ip: IpAddr,
    pub(super) sender: &'a str,
    pub(super) helo: &'a str,
    pub(super) domain: &'a str,
}

impl Domain {
    /// Parses a `domain-spec`: it ends in a label that is a top one, or in a macro.
    pub(super) fn parse(text: &str) -> Option<Self> {
        let pieces = pieces(text)?;
        let ends_well = match pieces.last()? {
            Piece::Macro { .. } => true,
            Piece::Text(_) if text.ends_with("%%") || text.ends_with("%_") || text.ends_with("%-") => true,
            Piece::Text(end) => {
                let end = end.strip_suffix('.').unwrap_or(end);
                end.rsplit_once('.').is_some_and(|(_, top)| is_top(top))
            }
        };
        ends_well.then_some(Self(pieces))
    }

    /// The name it stands for: at most 253 characters, shortened from the left.
    pub(super) fn expand(&self, of: &Speaks<'_>) -> String {
        let mut out = String::new();
        for piece in &self.0 {
            match piece {
                Piece::Text(text) => out.push_str(text),
                Piece::Macro {
                    letter,
                    keep,
                    reverse,
                    delimiters,
                    escape,
                } => {
                    let value = value(*letter, of);
                    let mut parts: Vec<&str> = value.split(|c| delimiters.contains(c)).collect();
                    if *reverse {
                        parts.reverse();
                    }
                    let from = parts.len().saturating_sub(*keep);
                    let value = parts[from..].join(".");
                    out.push_str(&if *escape { escaped(&value) } else { value });
                }
            }
        }
        let mut short = out.strip_suffix('.').unwrap_or(&out);
        while short.len() > LONGEST
            && let Some((_, rest)) = short.split_once('.')
        {
            short = rest;
        }
        short.to_string()
    }
}

fn is_top(label: &str) -> bool {
    let inside = |c: char| c.is_ascii_alphanumeric() || c == '-';
    !label.is_empty()
        && label.chars().all(inside)
        && !label.starts_with('-')
        && !label.ends_with('-')
        && label.contains(|c: char| !c.is_ascii_digit())
}

fn pieces(text: &str) -> Option<Vec<Piece>> {
    let mut pieces = Vec::new();
    let mut plain = String::new();
    let mut rest = text;
    while let Some(c) = rest.chars().next() {
        rest = &rest[c.len_utf8()..];
        if c != '%' {
            if !c.is_ascii_graphic() {
                return None;
            }
            plain.push(c);
            continue;
        }
        let kind = rest.chars().next()?;
        rest = &rest[kind.len_utf8()..];
        match kind {
            '%' => plain.push('%'),
            '_' => plain.push(' '),
            '-' => plain.push_str("%20"),
            '{' => {
                let (inside, after) = rest.split_once('}')?;
                rest = after;
                if !plain.is_empty() {
                    pieces.push(Piece::Text(std::mem::take(&mut plain)));
                }
                pieces.push(one(inside)?);
            }
            _ => return None,
        }
    }
    if !plain.is_empty() {
        pieces.push(Piece::Text(plain));
    }
    Some(pieces)
}

fn one(inside: &str) -> Option<Piece> {
    let letter = inside.chars().next()?;
    let rest = inside.get(letter.len_utf8()..)?;
    if !"slodipvh".contains(letter.to_ascii_lowercase()) {
        return None;
    }
    let digits = rest.len() - rest.trim_start_matches(|c: char| c.is_ascii_digit()).len();
    let (digits, rest) = rest.split_at(digits);
    let keep = match digits {
        "" => usize::MAX,
        // More labels than any name has: all of them.
        digits => match digits.trim_start_matches('0') {
            "" => return None,
            digits => digits.parse().unwrap_or(usize::MAX),
        },
    };
    let (reverse, rest) = match rest.strip_prefix(['r', 'R']) {
        Some(rest) => (true, rest),
        None => (false, rest),
    };
    if !rest.chars().all(|c| ".-+,/_=".contains(c)) {
        return None;
    }
    Some(Piece::Macro {
        letter: letter.to_ascii_lowercase(),
        keep,
        reverse,
        delimiters: if rest.is_empty() { "." } else { rest }.to_string(),
        escape: letter.is_ascii_uppercase(),
    })
}

fn value(letter: char, of: &Speaks<'_>) -> String {
    let (local, domain) = of.sender.rsplit_once('@').unwrap_or(("postmaster", of.sender));
    let local = if local.is_empty() { "postmaster" } else { local };
    match letter {
        's' => format!("{local}@{domain}"),
        'l' => local.to_string(),
        'o' => domain.to_string(),
        'd' => of.domain.to_string(),
        'h' => of.helo.to_string(),
        'i' => match of.ip {
            IpAddr::V4(v4) => v4.to_string(),
            IpAddr::V6(v6) => v6
                .octets()
                .iter()
                .map(|octet| format!("{:x}.{:x}", octet >> 4, octet & 15))
                .collect::<Vec<_>>()
                .join("."),
        },
        'v' => if of.ip.is_ipv6() { "ip6" } else { "in-addr" }.to_string(),
        // The validated name behind the address is not looked up, which the RFC allows for.
        _ => "unknown".to_string(),
    }
}

fn escaped(text: &str) -> String {
    text.bytes()
        .map(|byte| match byte {
            b'-' | b'.' | b'_' | b'~' => (byte as char).to_string(),
            byte if byte.is_ascii_alphanumeric() => (byte as char).to_string(),
            byte => format!("%{byte:02X}"),
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn expand(text: &str, ip: &str) -> String {
        let speaks = Speaks {
            ip: ip.parse().unwrap(),
            sender: "strong-bad@email.example.com",
            helo: "mx.example.org",
            domain: "email.example.com",
        };
        Domain(pieces(text).unwrap()).expand(&speaks)
    }

    #[test]
    fn the_examples_of_the_rfc() {
        for (text, want) in [
            ("%{s}", "strong-bad@email.example.com"),
            ("%{o}", "email.example.com"),
            ("%{d}", "email.example.com"),
            ("%{d4}", "email.example.com"),
            ("%{d3}", "email.example.com"),
            ("%{d2}", "example.com"),
            ("%{d1}", "com"),
            ("%{dr}", "com.example.email"),
            ("%{d2r}", "example.email"),
            ("%{l}", "strong-bad"),
            ("%{l-}", "strong.bad"),
            ("%{lr}", "strong-bad"),
            ("%{lr-}", "bad.strong"),
            ("%{l1r-}", "strong"),
            ("%{ir}.%{v}._spf.%{d2}", "3.2.0.192.in-addr._spf.example.com"),
            ("%{lr-}.lp._spf.%{d2}", "bad.strong.lp._spf.example.com"),
            (
                "%{ir}.%{v}.%{l1r-}.lp._spf.%{d2}",
                "3.2.0.192.in-addr.strong.lp._spf.example.com",
            ),
            (
                "%{d2}.trusted-domains.example.net",
                "example.com.trusted-domains.example.net",
            ),
            ("%{h}.%%%_%-", "mx.example.org.% %20"),
            ("%{S}", "strong-bad%40email.example.com"),
            ("%{p}.x", "unknown.x"),
        ] {
            assert_eq!(expand(text, "192.0.2.3"), want, "{text}");
        }
        assert_eq!(
            expand("%{ir}.%{v}._spf.%{d2}", "2001:db8::cb01"),
            "1.0.b.c.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.8.b.d.0.1.0.0.2.ip6._spf.example.com"
        );
    }

    #[test]
    fn long_names_lose_labels_from_the_left() {
        let long = format!("{}.example.com", vec!["abcdefghi"; 30].join("."));
        let short = expand(&long, "192.0.2.3");
        assert!(
            short.len() <= 253 && short.ends_with(".abcdefghi.example.com"),
            "{short}"
        );
        let huge = "%{i}.".repeat(10_000) + "example.com";
        assert!(expand(&huge, "2001:db8::1").len() <= 253);
        assert!(expand(&".".repeat(60_000), "192.0.2.3").len() <= 253);
    }

    #[test]
    fn what_is_no_domain_is_refused() {
        for wrong in [
            "",
            "%",
            "%x",
            "%{",
            "%{}",
            "%{x}",
            "%{d0}",
            "%{d2q}",
            "%{c}",
            "com",
            "a.-b",
            "a.b-",
            "a.12",
            "a b.com",
            "a.com/24",
            "exämple.com",
        ] {
            assert_eq!(Domain::parse(wrong), None, "{wrong}");
        }
        for right in [
            "a.com",
            "a.com.",
            "%{d}",
            "_spf.%{d2}",
            "a.%{i}",
            "%{d99999999999999999999}",
        ] {
            assert!(Domain::parse(right).is_some(), "{right}");
        }
    }
}
