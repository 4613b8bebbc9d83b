//! DMARC and DKIM.

use portcullis_checks::Question;
use portcullis_policy::CheckResult::{self, Failed, Passed, Undetermined};
use portcullis_policy::DmarcPolicy::{self, None as Nothing, Quarantine, Reject};
use portcullis_testbed::dns::{Fault, Zone};

use super::World;

#[tokio::test]
async fn dmarc() {
    let world = World::new(
        Zone::new()
            .txt("_dmarc.strict.test", &["v=DMARC1; p=rej", "ect; sp=quarantine"])
            .txt("_dmarc.own.strict.test", &["v=DMARC1; p=none"])
            .txt("_dmarc.lax.test", &["hello"])
            .txt("_dmarc.lax.test", &["v=DMARC1; p=none; rua=mailto:d@lax.test"])
            .txt("_dmarc.two.test", &["v=DMARC1; p=reject"])
            .txt("_dmarc.two.test", &["v=DMARC1; p=none"])
            .txt("_dmarc.wrong.test", &["v=DMARC1; p=maximal"])
            .txt("_dmarc.shop.co.uk", &["v=DMARC1; p=reject"])
            .txt("_dmarc.co.uk", &["v=DMARC1; p=reject"])
            .cname("_dmarc.alias.test", "_dmarc.strict.test")
            .txt("_dmarc.dots.test", &["v=DMARC1; p=reject;; foo"])
            .txt("_dmarc.part.test", &["v=DMARC1; p=reject; pct=0"])
            .txt("_dmarc.trial.test", &["v=DMARC1; p=quarantine; t=y"])
            .txt("_dmarc.old.test", &["v=DMARC1; p=reject"])
            .fault("_dmarc.old.test", Fault::NoEdns)
            .fault("_dmarc.broken.test", Fault::ServFail),
    )
    .await;
    let cases: [(&str, Option<DmarcPolicy>, CheckResult, &str); 20] = [
        ("dots.test", Some(Reject), Passed, ""),
        ("part.test", Some(Reject), Failed, "pct=0"),
        ("part.test", Some(Quarantine), Passed, "no more than quarantine"),
        ("trial.test", Some(Quarantine), Failed, "by t=y no more than none"),
        ("trial.test", None, Passed, ""),
        ("old.test", Some(Reject), Passed, ""),
        ("strict.test", None, Passed, "p=reject at _dmarc.strict.test"),
        ("Strict.Test.", Some(Reject), Passed, ""),
        ("alias.test", Some(Reject), Passed, ""),
        (
            "mail.strict.test",
            Some(Quarantine),
            Passed,
            "sp=quarantine at _dmarc.strict.test",
        ),
        (
            "mail.strict.test",
            Some(Reject),
            Failed,
            "less strict than reject",
        ),
        ("own.strict.test", Some(Quarantine), Failed, "p=none"),
        ("lax.test", None, Passed, "p=none"),
        ("lax.test", Some(Nothing), Passed, ""),
        ("two.test", None, Failed, "2 DMARC records"),
        ("wrong.test", None, Failed, "no valid policy"),
        ("a.b.shop.co.uk", Some(Reject), Passed, "_dmarc.shop.co.uk"),
        ("none.co.uk", None, Failed, "no DMARC record"),
        ("a.absent.test", None, Failed, "nor _dmarc.absent.test"),
        ("a.broken.test", None, Undetermined, "Server Failure"),
    ];
    for (domain, policy, result, detail) in cases {
        let domain = domain.to_string();
        world
            .expect(Question::Dmarc { domain, policy }, result, detail)
            .await;
    }
}

const RSA: &str = "MIIBIjANBgkqhkiG9w0BAQEFAAOCAQ8AMIIBCgKCAQEAj1qKxhNY9mvoWihDEGDtSs9v5uADKU7OBuvSZKe0J8x/Ip4SKJYOES6IX2qVr513nH\
        ewGmQG5h+IhzJcTxo7hqrIEgHtBdU+Bm1+afsdT2wtBiYM+aFzGNjIv0mFVYZcwNrbxPNamyUf/+wsyUgl364YVE7tHUi9yGBTvYia6AM5m+XC\
        IFRKZGa364sKpYNETA10/FHs7F68qtxLgncUFf2Cy2gvfWmTycmMvCwcSq5WdUM7dtue6czPIkOBEOy7FJ6b5GaSwxzsPtDpA6iMzzhM8P6/6F\
        VJIfNf3hiO/+HFOsh8ZOWTTtbydZuYbxxP9InfgO9zSJ/qJZt88A0daQIDAQAB";

#[tokio::test]
async fn dkim() {
    let (one, two) = RSA.split_at(200);
    let world = World::new(
        Zone::new()
            .txt("s1._domainkey.d.test", &["v=DKIM1; k=rsa; p=", one, two])
            .txt("revoked._domainkey.d.test", &["v=DKIM1; p="])
            .txt("two._domainkey.d.test", &["v=DKIM1; p=QUJD"])
            .txt("two._domainkey.d.test", &["v=DKIM1; p=QUJE"])
            .txt("text._domainkey.d.test", &["not a key"])
            .txt("a.b._domainkey.d.test", &["t=y; p=", one, two])
            .cname("hosted._domainkey.d.test", "s1._domainkey.d.test")
            .fault("broken._domainkey.d.test", Fault::Refused),
    )
    .await;
    let cases: [(&str, CheckResult, &str); 11] = [
        ("s1", Passed, "an RSA key"),
        ("S1", Passed, ""),
        ("hosted", Passed, ""),
        ("a.b", Passed, "in testing"),
        ("revoked", Failed, "revoked"),
        ("two", Failed, "2 DKIM keys"),
        ("text", Failed, "no DKIM key"),
        ("absent", Failed, "NXDOMAIN"),
        ("broken", Undetermined, "Refused"),
        ("", Failed, "not a DKIM selector"),
        ("s1;x y", Failed, "not a DKIM selector"),
    ];
    for (selector, result, detail) in cases {
        let question = Question::Dkim {
            domain: "d.test".to_string(),
            selector: selector.to_string(),
        };
        world.expect(question, result, detail).await;
    }
}
