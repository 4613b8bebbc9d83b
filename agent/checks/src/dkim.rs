//! DKIM keys (RFC 6376 section 3.6).

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use x509_parser::prelude::{FromDer, SubjectPublicKeyInfo};
use x509_parser::public_key::{PublicKey, RSAPublicKey};

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

/// Receivers ignore signatures of shorter RSA keys (RFC 8301 section 3.2).
const SHORTEST_RSA: usize = 1024;

/// Of an Ed25519 public key, in bytes (RFC 8463 section 4).
const ED25519: usize = 32;

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
    let key = STANDARD.decode(&key).map_err(|_| "is not base64")?;
    let kind = match value(list, "k") {
        None | Some("rsa") => match rsa_bits(&key) {
            None => return Err("is no RSA public key"),
            Some(bits) if bits < SHORTEST_RSA => {
                return Err("is shorter than 1024 bits, and receivers ignore it");
            }
            Some(_) => "an RSA key",
        },
        Some("ed25519") if key.len() == ED25519 => "an Ed25519 key",
        Some("ed25519") => return Err("is no Ed25519 public key of 32 bytes"),
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

/// The length of an RSA key: `SubjectPublicKeyInfo`, as everybody writes it, or `RSAPublicKey`, as RFC 6376 section 3.6.1 says.
fn rsa_bits(der: &[u8]) -> Option<usize> {
    if let Ok(([], info)) = SubjectPublicKeyInfo::from_der(der) {
        return match info.parsed() {
            Ok(PublicKey::RSA(key)) => Some(key.key_size()),
            _ => None,
        };
    }
    match RSAPublicKey::from_der(der) {
        Ok(([], key)) => Some(key.key_size()),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const RSA: &str = "MIGfMA0GCSqGSIb3DQEBAQUAA4GNADCBiQKBgQCx74grXN65xcKqilBViQ8i70xpzvszh/Twj2qrMbpyLBhzrFbhYcXTR8SKUChIFRwAKoZRII\
        0U1pXmycNyMR+4YPKqq3+tNxKI2A/6aNV394oOoGB0AOxOdm4V3s6T5xDvaJIB3fMb/B12ZiFs5q8s6hvqTpMcYpx8lzTGEixAdwIDAQAB";
    const RAW: &str = "MIIBCgKCAQEAj1qKxhNY9mvoWihDEGDtSs9v5uADKU7OBuvSZKe0J8x/Ip4SKJYOES6IX2qVr513nHewGmQG5h+IhzJcTxo7hqrIEgHtBdU+Bm\
        1+afsdT2wtBiYM+aFzGNjIv0mFVYZcwNrbxPNamyUf/+wsyUgl364YVE7tHUi9yGBTvYia6AM5m+XCIFRKZGa364sKpYNETA10/FHs7F68qtxL\
        gncUFf2Cy2gvfWmTycmMvCwcSq5WdUM7dtue6czPIkOBEOy7FJ6b5GaSwxzsPtDpA6iMzzhM8P6/6FVJIfNf3hiO/+HFOsh8ZOWTTtbydZuYbx\
        xP9InfgO9zSJ/qJZt88A0daQIDAQAB";
    const SHORT: &str = "MFwwDQYJKoZIhvcNAQEBBQADSwAwSAJBALpvfhymQhcPpUW5S74OeQXm3vOdAy5O3y4nca5uVCDK8MlYUsz02Vgr7vA1G3A+VAr6xYclxdvoYO\
        pmvLy5248CAwEAAQ==";
    const ED: &str = "wyDwql1184+gYsLZUDgi9iVuDj5hQUsA5LjC8vy5EZA=";
    const ED_INFO: &str = "MCowBQYDK2VwAyEAwyDwql1184+gYsLZUDgi9iVuDj5hQUsA5LjC8vy5EZA=";

    #[test]
    fn keys_are_judged() {
        let read = |text: String| key(&text);
        let good = |text: String| matches!(read(text), Some(Ok(_)));
        assert!(good(format!("v=DKIM1; k=rsa; p={RSA}")));
        assert!(good(format!("p={RAW}")));
        let (one, two) = RSA.split_at(100);
        assert!(good(format!("p={one} {two}")));
        assert!(good(format!("v=DKIM1;k=ed25519;t=y:s;s=email;p={ED}")));
        let bad = |text: String| read(text).unwrap().unwrap_err();
        assert_eq!(bad("v=DKIM1; p=".to_string()), "is revoked: its p= is empty");
        assert_eq!(bad("v=DKIM1".to_string()), "has no p=");
        assert_eq!(
            bad(format!("v=DKIM2; p={RSA}")),
            "is of another version than DKIM1"
        );
        assert_eq!(
            bad(format!("p={RSA}; v=DKIM1")),
            "is of another version than DKIM1"
        );
        assert_eq!(bad(format!("k=dsa; p={RSA}")), "is of an unknown kind");
        assert_eq!(bad(format!("s=other; p={RSA}")), "is not for e-mail");
        assert_eq!(bad("p=MIG".to_string()), "is not base64");
        assert_eq!(bad("p=M\u{fffd}Gf".to_string()), "is not base64");
        assert_eq!(bad("v=DKIM1; p".to_string()), "is malformed");
        assert_eq!(bad("p=QUJD".to_string()), "is no RSA public key");
        assert_eq!(bad(format!("p={ED}")), "is no RSA public key");
        assert_eq!(bad(format!("p={ED_INFO}")), "is no RSA public key");
        assert_eq!(
            bad(format!("k=ed25519; p={ED_INFO}")),
            "is no Ed25519 public key of 32 bytes"
        );
        assert_eq!(
            bad(format!("p={SHORT}")),
            "is shorter than 1024 bits, and receivers ignore it"
        );
        assert_eq!(key("hello"), None);
        assert_eq!(key("a=b"), None);
    }
}
