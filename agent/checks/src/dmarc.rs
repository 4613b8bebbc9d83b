//! DMARC (RFC 7489): the domain's record, or its organizational domain's.

use portcullis_policy::DmarcPolicy;

use crate::dns::{Dns, Missing, host, name, shown};
use crate::question::{Answer, printable};
use crate::tags::{readable, value};

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
    let Asked { tag, policy, limit } = policy(&record, inherited)
        .ok_or_else(|| Answer::failed(format!("the DMARC record of {at} has no valid policy")))?;
    let limits = limit.map_or_else(String::new, |limit| {
        format!(", by {limit} no more than {} for some mail", word(lower(policy)))
    });
    let shown = format!("{tag}={} at _dmarc.{at}{limits}", word(policy));
    let policy = if limits.is_empty() { policy } else { lower(policy) };
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

/// What a record asks of receivers.
#[derive(Debug, PartialEq, Eq)]
struct Asked {
    /// The tag that says so.
    tag: &'static str,
    policy: DmarcPolicy,
    /// The tag by which some mail, or all, is treated one step less strictly.
    limit: Option<String>,
}

/// Its policy. Malformed and unknown tags are ignored (RFC 7489 section 6.3); a record without a valid policy that asks for
/// reports means `none` (section 6.6.3).
fn policy(record: &str, inherited: bool) -> Option<Asked> {
    let list = readable(record);
    let asked = |tag, policy| Asked {
        tag,
        policy,
        limit: limit(&list),
    };
    let (p, sp) = (value(&list, "p").map(parse), value(&list, "sp").map(parse));
    match (p, sp) {
        (Some(Some(_)), Some(Some(policy))) if inherited => Some(asked("sp", policy)),
        (Some(Some(policy)), None | Some(Some(_))) => Some(asked("p", policy)),
        _ => {
            let asks = value(&list, "rua").is_some_and(|rua| rua.to_ascii_lowercase().starts_with("mailto:"));
            asks.then_some(Asked {
                tag: "p",
                policy: DmarcPolicy::None,
                limit: None,
            })
        }
    }
}

/// Which tag asks for less than the policy: `pct` below 100 (RFC 7489 section 6.6.4), or a test (`t=y`, DMARC's revision).
fn limit(list: &[(&str, &str)]) -> Option<String> {
    let percent = value(list, "pct").and_then(|text| text.parse::<u8>().ok());
    if let Some(percent) = percent.filter(|percent| *percent < 100) {
        return Some(format!("pct={percent}"));
    }
    let tests = value(list, "t").is_some_and(|text| text.eq_ignore_ascii_case("y"));
    tests.then(|| "t=y".to_string())
}

/// One step less strict.
fn lower(policy: DmarcPolicy) -> DmarcPolicy {
    match policy {
        DmarcPolicy::Reject => DmarcPolicy::Quarantine,
        DmarcPolicy::Quarantine | DmarcPolicy::None => DmarcPolicy::None,
    }
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
        assert_eq!(asked(record, false), Some(("p", DmarcPolicy::Reject)));
        assert_eq!(asked(record, true), Some(("sp", DmarcPolicy::None)));
        assert_eq!(
            asked("v=DMARC1; p=quarantine", true),
            Some(("p", DmarcPolicy::Quarantine))
        );
    }

    fn asked(record: &str, inherited: bool) -> Option<(&'static str, DmarcPolicy)> {
        policy(record, inherited).map(|asked| (asked.tag, asked.policy))
    }

    #[test]
    fn malformed_tags_are_ignored() {
        for record in [
            "v=DMARC1; p=reject;;",
            "v=DMARC1; p=reject; foo",
            "v=DMARC1;; p=reject",
            "v=DMARC1; =x; p=reject; 1=2; rua=mailto:a@b.test",
            "v=DMARC1; p=reject; pct=many",
            "v=DMARC1; p=reject; rua=mailto:a@b.test; rua=mailto:c@d.test",
        ] {
            assert_eq!(asked(record, false), Some(("p", DmarcPolicy::Reject)), "{record}");
            assert_eq!(policy(record, false).unwrap().limit, None, "{record}");
        }
    }

    #[test]
    fn what_asks_for_less_is_seen() {
        let limit = |record| policy(record, false).unwrap().limit;
        assert_eq!(limit("v=DMARC1; p=reject; pct=0").as_deref(), Some("pct=0"));
        assert_eq!(
            limit("v=DMARC1; p=reject; pct=99; t=y").as_deref(),
            Some("pct=99")
        );
        assert_eq!(limit("v=DMARC1; p=reject; pct=100; t=y").as_deref(), Some("t=y"));
        assert_eq!(limit("v=DMARC1; p=reject; pct=100; t=n"), None);
    }

    #[test]
    fn without_a_valid_policy_it_is_a_report_address_or_nothing() {
        assert_eq!(asked("v=DMARC1", false), None);
        assert_eq!(asked("v=DMARC1; p=strict", false), None);
        let reports = "v=DMARC1; p=strict; rua=mailto:a@b.test";
        assert_eq!(asked(reports, false), Some(("p", DmarcPolicy::None)));
        // Which of the two is meant nobody can say.
        assert_eq!(asked("v=DMARC1; p=reject; p=none", false), None);
        // An invalid `sp` spoils the record for subdomains and for the domain itself.
        assert_eq!(asked("v=DMARC1; p=reject; sp=x", true), None);
        assert_eq!(asked("v=DMARC1; p=reject; sp=x", false), None);
        assert_eq!(asked("v=DMARC1; sp=reject", true), None);
    }
}
