//! Callers by tokens of an identity provider: JSON Web Tokens that it signed, for this agent.

mod keys;
mod verify;

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use jsonwebtoken::{Validation, decode, decode_header};
use portcullis_policy::text;
use serde_json::{Map, Value};

use self::keys::{ProviderKey, ProviderKeys};
use super::guard::Identified;
use super::{Caller, Role};
use crate::config::{self, Algorithm};

pub use keys::KeysError;

/// Longest name and tenant that a token may give, in bytes.
const LONGEST: usize = 200;
/// Why a token with a key that the agent does not know is refused.
const UNKNOWN_KEY: &str = "the token is signed with a key that the agent does not know; it reads the keys again: ask again in a moment";

/// The tokens of an identity provider.
#[derive(Debug)]
pub(super) struct Oidc {
    settings: config::OidcConfig,
    keys: Arc<ProviderKeys>,
    label: Arc<str>,
}

impl Oidc {
    /// As configured; keys that are read as those of `before` stay.
    pub fn new(settings: &config::OidcConfig, label: &str, before: Option<&Oidc>) -> Result<Self, KeysError> {
        verify::install();
        let kept = before.filter(|before| before.keys.same(&settings.keys, &settings.algorithms));
        let keys = match kept {
            Some(before) => {
                before.keys.want();
                Arc::clone(&before.keys)
            }
            None => Arc::new(ProviderKeys::new(&settings.keys, &settings.algorithms)?),
        };
        Ok(Oidc {
            settings: settings.clone(),
            keys,
            label: Arc::from(label),
        })
    }

    /// Returns when the keys are to be read.
    pub async fn due(&self) {
        self.keys.due().await;
    }

    /// Reads the keys; whether what was judged by them is to be judged again.
    pub async fn read(&self) -> Result<bool, KeysError> {
        self.keys.read().await
    }

    /// Whether there are keys that are not too old.
    pub fn has_keys(&self) -> bool {
        self.keys.current().is_some()
    }

    /// Whether something is a token of this sort, by its shape.
    pub fn is_one(token: &[u8]) -> bool {
        token.iter().filter(|byte| **byte == b'.').count() == 2
    }

    /// Who has this token.
    pub fn identify(&self, token: &[u8]) -> Result<Identified, &'static str> {
        let header =
            decode_header(token).map_err(|_| "the token is no JSON Web Token that the agent can read")?;
        let mut allowed = self.settings.algorithms.iter().copied();
        let algorithm = allowed
            .find(|algorithm| name(*algorithm) == header.alg)
            .ok_or("the token is signed in a way that access.oidc.algorithms does not allow")?;
        let set = self.keys.current().ok_or(
            "the keys that tokens are verified with cannot be read, or not of late: `portcullis status` says why",
        )?;
        let keys: Vec<&ProviderKey> = set.keys.iter().filter(|key| key.fits(algorithm)).collect();
        let claims = match &header.kid {
            // Two keys of one name are a mistake that must lock out no one.
            Some(kid) => {
                let mut named = keys.into_iter().filter(|key| key.id() == Some(kid)).peekable();
                if named.peek().is_none() {
                    self.keys.want();
                    return Err(UNKNOWN_KEY);
                }
                named.find_map(|key| self.claims(token, key, algorithm).transpose())
            }
            None => match keys.as_slice() {
                [key] => self.claims(token, key, algorithm).transpose(),
                _ => return Err("the token does not name its key, and there is not exactly one"),
            },
        };
        let claims = claims.unwrap_or(Err("the token's signature is not right"))?;
        self.caller(&claims)
    }

    /// What a token claims that this key verifies; `None` when it does not.
    fn claims(
        &self,
        token: &[u8],
        key: &ProviderKey,
        algorithm: Algorithm,
    ) -> Result<Option<Map<String, Value>>, &'static str> {
        use jsonwebtoken::errors::ErrorKind;
        let Some(key) = key.decoding() else {
            return Ok(None);
        };
        let mut wanted = Validation::new(name(algorithm));
        wanted.set_required_spec_claims(&["exp", "iss", "aud", "sub"]);
        wanted.set_issuer(&[&self.settings.issuer]);
        wanted.set_audience(&[&self.settings.audience]);
        wanted.leeway = self.settings.leeway.as_secs();
        wanted.validate_nbf = true;
        match decode::<Map<String, Value>>(token, &key, &wanted) {
            Ok(token) => Ok(Some(token.claims)),
            Err(error) => match error.kind() {
                ErrorKind::InvalidSignature => Ok(None),
                ErrorKind::ExpiredSignature => Err("the token has expired"),
                ErrorKind::ImmatureSignature => Err("the token is not valid yet"),
                ErrorKind::InvalidIssuer => Err("the token is of another issuer than access.oidc.issuer"),
                ErrorKind::InvalidAudience => {
                    Err("the token is for another audience than access.oidc.audience")
                }
                ErrorKind::MissingRequiredClaim(_) => Err("the token lacks one of exp, iss, aud and sub"),
                _ => Err("the token's claims cannot be used"),
            },
        }
    }

    /// Who the claims say it is.
    fn caller(&self, claims: &Map<String, Value>) -> Result<Identified, &'static str> {
        if !claims.get("iss").is_some_and(Value::is_string) {
            return Err("the token has several issuers");
        }
        let subject = claims
            .get("sub")
            .and_then(Value::as_str)
            .filter(|subject| plain(subject));
        let subject =
            subject.ok_or("the token's sub is empty, too long, or has characters that are not allowed")?;
        let exp = claims.get("exp").and_then(Value::as_f64);
        let exp = exp.and_then(|exp| Duration::try_from_secs_f64(exp.round()).ok());
        let until = exp.and_then(|exp| SystemTime::UNIX_EPOCH.checked_add(exp + self.settings.leeway));
        let until = until.ok_or("the token's exp is no time")?;
        let said = found(claims, &self.settings.role_claim)
            .map(strings)
            .unwrap_or_default();
        let mut roles = self.settings.roles.iter();
        let (_, role) = roles
            .find(|(value, _)| said.contains(&value.as_str()))
            .ok_or("the token's claims give no role: [[access.oidc.role]] says which do")?;
        let by = format!("oidc {subject}");
        let caller = match role {
            Role::Tenant => Caller::of_tenant(by, self.tenant(claims)?, Arc::clone(&self.label)),
            role => Caller::new(by, *role),
        };
        Ok(Identified {
            caller,
            until: Some(until),
        })
    }

    /// Whose endpoints the claims say it may reach.
    fn tenant(&self, claims: &Map<String, Value>) -> Result<String, &'static str> {
        let said = found(claims, &self.settings.tenant_claim)
            .map(strings)
            .unwrap_or_default();
        let [said] = said.as_slice() else {
            return Err("the token does not name exactly one tenant: access.oidc.tenant_claim");
        };
        let tenant = match &self.settings.tenants {
            Some(tenants) => tenants
                .get(*said)
                .ok_or("the token's tenant is not in [access.oidc.tenants]")?,
            None => *said,
        };
        match plain(tenant) && tenant != config::ANY_TENANT {
            true => Ok(tenant.to_string()),
            false => Err("the token's tenant is empty, too long, or has characters that are not allowed"),
        }
    }
}

fn name(algorithm: Algorithm) -> jsonwebtoken::Algorithm {
    match algorithm {
        Algorithm::RS256 => jsonwebtoken::Algorithm::RS256,
        Algorithm::PS256 => jsonwebtoken::Algorithm::PS256,
        Algorithm::ES256 => jsonwebtoken::Algorithm::ES256,
        Algorithm::EdDSA => jsonwebtoken::Algorithm::EdDSA,
    }
}

/// A claim by its name, or by a JSON pointer that begins with `/`.
fn found<'a>(claims: &'a Map<String, Value>, name: &str) -> Option<&'a Value> {
    let Some(path) = name.strip_prefix('/') else {
        return claims.get(name);
    };
    let (first, rest) = path.split_once('/').unwrap_or((path, ""));
    let first = claims.get(&first.replace("~1", "/").replace("~0", "~"))?;
    match rest {
        "" => Some(first),
        rest => first.pointer(&format!("/{rest}")),
    }
}

/// A text, or a list of texts and nothing else.
fn strings(value: &Value) -> Vec<&str> {
    match value {
        Value::String(text) => vec![text],
        Value::Array(list) => {
            let texts: Option<Vec<&str>> = list.iter().map(Value::as_str).collect();
            texts.unwrap_or_default()
        }
        _ => Vec::new(),
    }
}

/// Whether a text may be a name in the log, and the value of a label: printed characters, and no blank at an end.
fn plain(text: &str) -> bool {
    !text.is_empty() && text.len() <= LONGEST && text.trim() == text && !text.contains(text::steers)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn claims_are_found_by_name_and_by_pointer() {
        let claims =
            json!({"roles": ["a"], "https://x/y": "b", "realm": {"roles": ["c", "d"]}, "mixed": ["a", 1]});
        let claims = claims.as_object().unwrap();
        let said = |name: &str| found(claims, name).map(strings).unwrap_or_default();
        assert_eq!(said("roles"), ["a"]);
        assert_eq!(said("https://x/y"), ["b"]);
        assert_eq!(said("/realm/roles"), ["c", "d"]);
        assert_eq!(said("/realm/roles/1"), ["d"]);
        for none in ["mixed", "realm", "/realm", "/", "gone", "/realm/gone"] {
            assert!(said(none).is_empty(), "{none}");
        }
    }

    #[test]
    fn names_are_plain() {
        let long = "a".repeat(LONGEST + 1);
        for bad in ["", " a", "a\n", "a\u{202e}b", "a\u{0}", long.as_str()] {
            assert!(!plain(bad), "{bad:?}");
        }
        assert!(plain("acme") && plain("Ärzte und Co") && plain("auth0|5f7c"));
    }
}
