//! Settings of `[access.oidc]`.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;

use toml::Spanned;
use url::Url;

use super::Role;
use super::raw;
use super::resolve::{Result, refuse};
use super::value::DurationText;

/// Where authorities of web servers are on most systems.
const SYSTEM_AUTHORITIES: &str = "/etc/ssl/certs/ca-certificates.crt";

/// Tokens of an identity provider.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OidcConfig {
    pub issuer: String,
    pub audience: String,
    /// Keys that they are signed with.
    pub keys: OidcKeys,
    /// How they may be signed.
    pub algorithms: Vec<Algorithm>,
    /// How far clocks may be apart.
    pub leeway: Duration,
    /// The claim that says what a caller is.
    pub role_claim: String,
    /// What values of it mean; the first entry that fits counts.
    pub roles: Vec<(String, Role)>,
    /// The claim that names a caller's tenant.
    pub tenant_claim: String,
    /// What values of it mean; they are the tenant's name when absent.
    pub tenants: Option<BTreeMap<String, String>>,
}

/// Where keys are read, and how often.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OidcKeys {
    pub source: KeySource,
    /// After which time they are read again.
    pub refresh: Duration,
    /// Shortest time between two readings.
    pub refresh_at_most: Duration,
    /// For how long they are used when they cannot be read.
    pub max_age: Duration,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum KeySource {
    File(PathBuf),
    /// At this address, whose server shows a certificate of an authority in that file.
    Https(Box<Url>, PathBuf),
}

/// How a token may be signed: with a private key, always.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Deserialize)]
pub enum Algorithm {
    /// RSA, PKCS #1 v1.5, SHA-256.
    RS256,
    /// RSA, PSS, SHA-256 (RFC 7518, section 3.5).
    PS256,
    /// ECDSA, P-256, SHA-256 (RFC 7518, section 3.4).
    ES256,
    /// EdDSA with Ed25519 (RFC 8037).
    EdDSA,
}

impl Algorithm {
    pub const ALL: [Algorithm; 4] = [
        Algorithm::RS256,
        Algorithm::PS256,
        Algorithm::ES256,
        Algorithm::EdDSA,
    ];
}

pub(super) fn oidc(raw: raw::Oidc) -> Result<OidcConfig> {
    for (setting, text) in [("issuer", &raw.issuer), ("audience", &raw.audience)] {
        if text.get_ref().is_empty() {
            return refuse(
                text,
                format!("access.oidc.{setting}"),
                "is empty: write what tokens say",
            );
        }
    }
    if let Some(algorithms) = &raw.algorithms
        && algorithms.get_ref().is_empty()
    {
        return refuse(
            algorithms,
            "access.oidc.algorithms",
            "is empty: name one at least",
        );
    }
    if raw.role.is_empty() {
        return refuse(
            &raw.issuer,
            "access.oidc.role",
            "is missing: no token would be of any use; write an [[access.oidc.role]] with value and role",
        );
    }
    let keys = OidcKeys {
        source: source(raw.jwks, raw.ca)?,
        refresh: span(raw.refresh.as_ref(), "refresh", Duration::from_secs(600))?,
        refresh_at_most: span(
            raw.refresh_at_most.as_ref(),
            "refresh_at_most",
            Duration::from_secs(10),
        )?,
        max_age: span(raw.max_age.as_ref(), "max_age", Duration::from_secs(86_400))?,
    };
    if let Some(at) = raw.max_age.as_ref().or(raw.refresh.as_ref())
        && keys.max_age < keys.refresh
    {
        let problem = "is shorter than refresh: keys would be too old before they are read again";
        return refuse(at, "access.oidc.max_age", problem);
    }
    Ok(OidcConfig {
        issuer: raw.issuer.into_inner(),
        audience: raw.audience.into_inner(),
        keys,
        algorithms: raw
            .algorithms
            .map_or_else(|| Algorithm::ALL.to_vec(), Spanned::into_inner),
        leeway: raw.leeway.map_or(Duration::from_secs(30), |span| span.0),
        role_claim: claim(raw.role_claim, "role_claim", "roles")?,
        roles: raw
            .role
            .into_iter()
            .map(|entry| (entry.value, entry.role))
            .collect(),
        tenant_claim: claim(raw.tenant_claim, "tenant_claim", "tenant")?,
        tenants: raw.tenants,
    })
}

fn span(span: Option<&Spanned<DurationText>>, setting: &str, default: Duration) -> Result<Duration> {
    match span {
        Some(span) if span.get_ref().0 < Duration::from_secs(1) => refuse(
            span,
            format!("access.oidc.{setting}"),
            "is too short: 1s at least",
        ),
        other => Ok(other.map_or(default, |span| span.get_ref().0)),
    }
}

fn claim(name: Option<Spanned<String>>, setting: &str, default: &str) -> Result<String> {
    match name {
        Some(name) if name.get_ref().is_empty() => {
            refuse(&name, format!("access.oidc.{setting}"), "is empty: name a claim")
        }
        name => Ok(name.map_or_else(|| default.to_string(), Spanned::into_inner)),
    }
}

fn source(jwks: Spanned<String>, ca: Option<Spanned<PathBuf>>) -> Result<KeySource> {
    let at = "access.oidc.jwks";
    if jwks.get_ref().starts_with('/') {
        return match ca {
            Some(ca) => refuse(
                &ca,
                "access.oidc.ca",
                "goes with an https address in jwks: remove it",
            ),
            None => Ok(KeySource::File(jwks.into_inner().into())),
        };
    }
    let url = match Url::parse(jwks.get_ref()) {
        Ok(url) if url.scheme() == "https" && url.host_str().is_some_and(|host| !host.is_empty()) => url,
        _ => {
            return refuse(
                &jwks,
                at,
                "is neither an https address nor a file: write https://HOST/PATH or /PATH",
            );
        }
    };
    if !url.username().is_empty() || url.password().is_some() {
        return refuse(&jwks, at, "has a user in it: keys are public, leave it out");
    }
    let ca = ca.map_or_else(|| SYSTEM_AUTHORITIES.into(), Spanned::into_inner);
    Ok(KeySource::Https(Box::new(url), ca))
}
