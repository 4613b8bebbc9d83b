//! DMARC (RFC 7489): the domain's record, or its organizational domain's.

use portcullis_policy::DmarcPolicy;

use crate::dns::{Dns, Missing, host, name, shown};
use crate::question::{Answer, printable};
use crate::tags::{tags, value};

/// The domain has a record, with a policy at least as strict as the one asked for.
pub(crate) async fn dmarc(dns: &Dns, domain: &str, asked: Option<DmarcPolicy>) -> Result<String, Answer> {
    let domain = shown(&host(domain)?).to_ascii_lowercase();
    let organization = psl::domain_str(&domain).filter(|organization| *organization != domain);
    let (at, record, inherited) = match record(dns, &domain).await? {
        Some(record) => (domain.as_str(), record, false),
        None => {
            let above = match organization {
                Some(organization) => record_of(dns, organization).await?,
                None => None,
            };
            let Some((organization, record)) = above else {
                let nor = organization.map_or_else(String::new, |o| format!(", nor _dmarc.{o}"));
                return Err(Answer::failed(format!(
                    "_dmarc.{domain} has no DMARC record{nor}"
                )));
            };
            (organization, record, true)
        }
    };
    let (tag, policy) = policy(&record, inherited)
        .ok_or_else(|| Answer::failed(format!("the DMARC record of {at} has no valid policy")))?;
    let shown = format!("{tag}={} at _dmarc.{at}", word(policy));
    match asked {
        Some(asked) if policy < asked => Err(Answer::failed(format!(
            "{shown} is less strict than {}",
            word(asked)
        ))),
        _ => Ok(shown),
    }
}

async fn record_of<'a>(dns: &Dns, domain: &'a str) -> Result<Option<(&'a str, String)>, Answer> {
    Ok(record(dns, domain).await?.map(|record| (domain, record)))
}

/// The one DMARC record of a domain.
async fn record(dns: &Dns, domain: &str) -> Result<Option<String>, Answer> {
    let Some(at) = name(&format!("_dmarc.{domain}")) else {
        return Ok(None);
    };
    let mut texts = match dns.texts(&at).await {
        Ok(texts) => texts,
        Err(Missing::Name | Missing::Records) => return Ok(None),
        Err(missing) => return Err(missing.answer(&at, "TXT")),
    };
    texts.retain(|text| is_record(text));
    match texts.len() {
        0 => Ok(None),
        1 => Ok(texts.pop()),
        count => Err(Answer::failed(format!(
            "_dmarc.{domain} has {count} DMARC records, which is as good as none"
        ))),
    }
}

/// Whether it begins with `v=DMARC1`.
fn is_record(text: &str) -> bool {
    let first = text.split(';').next().unwrap_or("");
    first
        .split_once('=')
        .is_some_and(|(name, value)| name.trim() == "v" && value.trim() == "DMARC1")
}

/// Its policy, and the tag that says so. A record without a valid one that asks for reports means `none`.
fn policy(record: &str, inherited: bool) -> Option<(&'static str, DmarcPolicy)> {
    let list = tags(record)?;
    let valid = |name| value(&list, name).map(parse);
    if inherited && let Some(policy) = valid("sp") {
        return policy.map(|policy| ("sp", policy)).or_else(|| reports(&list));
    }
    match valid("p") {
        Some(Some(policy)) => Some(("p", policy)),
        _ => reports(&list),
    }
}

fn reports(list: &[(&str, &str)]) -> Option<(&'static str, DmarcPolicy)> {
    let asks = value(list, "rua").is_some_and(|rua| rua.to_ascii_lowercase().starts_with("mailto:"));
    asks.then_some(("p", DmarcPolicy::None))
}

fn parse(word: &str) -> Option<DmarcPolicy> {
    [DmarcPolicy::None, DmarcPolicy::Quarantine, DmarcPolicy::Reject]
        .into_iter()
        .find(|policy| printable(word, 16).eq_ignore_ascii_case(self::word(*policy)))
}

fn word(policy: DmarcPolicy) -> &'static str {
    match policy {
        DmarcPolicy::None => "none",
        DmarcPolicy::Quarantine => "quarantine",
        DmarcPolicy::Reject => "reject",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn records_are_told_from_others() {
        assert!(is_record("v=DMARC1; p=none"));
        assert!(is_record("v = DMARC1 ;p=none"));
        assert!(!is_record("v=DMARC10; p=none"));
        assert!(!is_record("p=none; v=DMARC1"));
        assert!(!is_record("v=dmarc1; p=none"));
    }

    #[test]
    fn a_subdomain_policy_counts_for_subdomains() {
        let record = "v=DMARC1; p=reject; sp=none";
        assert_eq!(policy(record, false), Some(("p", DmarcPolicy::Reject)));
        assert_eq!(policy(record, true), Some(("sp", DmarcPolicy::None)));
        assert_eq!(
            policy("v=DMARC1; p=quarantine", true),
            Some(("p", DmarcPolicy::Quarantine))
        );
    }

    #[test]
    fn without_a_valid_policy_it_is_a_report_address_or_nothing() {
        assert_eq!(policy("v=DMARC1", false), None);
        assert_eq!(policy("v=DMARC1; p=strict", false), None);
        let reports = "v=DMARC1; p=strict; rua=mailto:a@b.test";
        assert_eq!(policy(reports, false), Some(("p", DmarcPolicy::None)));
        assert_eq!(policy("v=DMARC1; p=reject; p=none", false), None);
        assert_eq!(policy("v=DMARC1; p=reject; sp=x", true), None);
    }
}
