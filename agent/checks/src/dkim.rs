//! DKIM keys (RFC 6376 section 3.6).

use crate::dns::{Dns, host, name, shown};
use crate::question::{Answer, printable};
use crate::tags::{tags, value};

/// The domain has one key under the selector, and it is not revoked.
pub(crate) async fn dkim(dns: &Dns, domain: &str, selector: &str) -> Result<String, Answer> {
    let domain = shown(&host(domain)?);
    let fits = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
    let at = Some(format!("{selector}._domainkey.{domain}"))
        .filter(|_| selector.chars().all(fits))
        .and_then(|at| name(&at))
        .ok_or_else(|| Answer::failed(format!("`{}` is not a DKIM selector", printable(selector, 80))))?;
    let texts = dns
        .texts(&at)
        .await
        .map_err(|missing| missing.answer(&at, "TXT"))?;
    let at = shown(&at);
    let keys: Vec<Result<String, &str>> = texts.iter().filter_map(|text| key(text)).collect();
    match keys.as_slice() {
        [] => Err(Answer::failed(format!("{at} has no DKIM key"))),
        [Ok(kind)] => Ok(format!("{at} has {kind}")),
        [Err(why)] => Err(Answer::failed(format!("the DKIM key at {at} {why}"))),
        keys => Err(Answer::failed(format!(
            "{at} has {} DKIM keys where there may be one",
            keys.len()
        ))),
    }
}

/// What kind of key it is, or what is wrong with it; nothing when the text is no key record.
fn key(text: &str) -> Option<Result<String, &'static str>> {
    let Some(list) = tags(text) else {
        return text
            .trim_start()
            .starts_with("v=DKIM1")
            .then_some(Err("is malformed"));
    };
    let version = list.iter().position(|(name, _)| *name == "v");
    let key = value(&list, "p");
    if version.is_none() && key.is_none() {
        return None;
    }
    Some(judge(&list, version, key))
}

fn judge(list: &[(&str, &str)], version: Option<usize>, key: Option<&str>) -> Result<String, &'static str> {
    if version.is_some_and(|at| at != 0 || list[0].1 != "DKIM1") {
        return Err("is of another version than DKIM1");
    }
    let key: String = key
        .ok_or("has no p=")?
        .chars()
        .filter(|c| !c.is_ascii_whitespace())
        .collect();
    if key.is_empty() {
        return Err("is revoked: its p= is empty");
    }
    if !base64(&key) {
        return Err("is not base64");
    }
    let kind = match value(list, "k") {
        None | Some("rsa") => "an RSA key",
        Some("ed25519") => "an Ed25519 key",
        Some(_) => return Err("is of an unknown kind"),
    };
    let services = value(list, "s").unwrap_or("*");
    if !services
        .split(':')
        .any(|service| matches!(service.trim(), "*" | "email"))
    {
        return Err("is not for e-mail");
    }
    let testing = value(list, "t").is_some_and(|flags| flags.split(':').any(|flag| flag.trim() == "y"));
    Ok(format!("{kind}{}", if testing { ", in testing" } else { "" }))
}

fn base64(text: &str) -> bool {
    let body = text.trim_end_matches('=');
    text.len().is_multiple_of(4)
        && text.len() - body.len() <= 2
        && body
            .chars()
            .all(|c| c.is_ascii_alphanumeric() || matches!(c, '+' | '/'))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_are_judged() {
        let good = |text: &str| matches!(key(text), Some(Ok(_)));
        assert!(good("v=DKIM1; k=rsa; p=MIGfMA0G"));
        assert!(good("p=MIGf MA0G"));
        assert!(good("v=DKIM1;k=ed25519;t=y:s;s=email;p=MIGfMA0="));
        assert_eq!(key("v=DKIM1; p="), Some(Err("is revoked: its p= is empty")));
        assert_eq!(key("v=DKIM1"), Some(Err("has no p=")));
        assert_eq!(
            key("v=DKIM2; p=MIGf"),
            Some(Err("is of another version than DKIM1"))
        );
        assert_eq!(
            key("p=MIGf; v=DKIM1"),
            Some(Err("is of another version than DKIM1"))
        );
        assert_eq!(key("k=dsa; p=MIGf"), Some(Err("is of an unknown kind")));
        assert_eq!(key("s=other; p=MIGf"), Some(Err("is not for e-mail")));
        assert_eq!(key("p=MIG"), Some(Err("is not base64")));
        assert_eq!(key("p=M\u{fffd}Gf"), Some(Err("is not base64")));
        assert_eq!(key("v=DKIM1; p"), Some(Err("is malformed")));
        assert_eq!(key("hello"), None);
        assert_eq!(key("a=b"), None);
    }
}
