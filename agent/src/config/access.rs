//! Settings of `[access]`.

use std::collections::{BTreeSet, HashSet};

use portcullis_policy::Name;
use toml::Spanned;

use super::resolve::{Result, refuse};
use super::{OidcConfig, raw};
use super::{Pattern, Role};

/// A tenant that is whatever the `*` of a certificate's name stands for.
pub const ANY_TENANT: &str = "*";

/// Who may do what.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AccessConfig {
    /// The role of users on the Unix socket whom no entry names; they are nobody when absent.
    pub others: Option<Role>,
    /// The label that names an endpoint's tenant.
    pub tenant_label: String,
    /// Users on the Unix socket.
    pub users: Vec<User>,
    pub certificates: Vec<NamedCertificate>,
    pub tokens: Vec<Token>,
    /// How often a caller may ask.
    pub rates: Rates,
    /// What provisioners may set of an endpoint.
    pub provisioner: Provisioner,
    /// Tokens of an identity provider.
    pub oidc: Option<OidcConfig>,
}

impl AccessConfig {
    /// Whether callers may show tokens.
    pub fn has_tokens(&self) -> bool {
        !self.tokens.is_empty() || self.oidc.is_some()
    }
}

/// What provisioners may set of an endpoint. Rules of an endpoint and its profiles are above the baseline: who may write them
/// opens any port that no mandatory rule denies.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Provisioner {
    /// Profiles that they may bind; every one if absent.
    pub profiles: Option<BTreeSet<Name>>,
    /// Whether they may give an endpoint rules of its own.
    pub rules: bool,
}

impl Default for Provisioner {
    fn default() -> Self {
        Provisioner {
            profiles: None,
            rules: true,
        }
    }
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Principal {
    pub role: Role,
    /// Whose endpoints a tenant is confined to.
    pub tenant: Option<String>,
}

/// Whom an entry is about.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Account {
    /// The user of this number.
    Uid(u32),
    /// The user of this name.
    User(String),
    /// Everybody in this group.
    Group(String),
}

/// Users on the Unix socket.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct User {
    /// Whom it is about.
    pub account: Account,
    pub principal: Principal,
}

/// Certificates with a name like this.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NamedCertificate {
    pub san: Pattern,
    /// What who shows it is.
    pub principal: Principal,
}

/// A token, of which only the digest is known.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Token {
    /// What it is called in history.
    pub name: String,
    /// SHA-256 of the token.
    pub digest: [u8; 32],
    /// What who has it is.
    pub principal: Principal,
}

/// How often a caller may ask.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Rate {
    /// In the long run.
    pub per_second: u32,
    /// Requests that may come at once after a pause.
    pub burst: u32,
}

/// How often each caller of a role may ask; as often as it likes when there is none.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Rates([Option<Rate>; 4]);

impl Rates {
    pub fn of(&self, role: Role) -> Option<Rate> {
        self.0.get(role as usize).copied().flatten()
    }

    /// Sets it for a role.
    pub fn set(&mut self, role: Role, rate: Option<Rate>) {
        if let Some(place) = self.0.get_mut(role as usize) {
            *place = rate;
        }
    }
}

/// What holds for tenants that nothing is said about.
const TENANT_RATE: Rate = Rate {
    per_second: 10,
    burst: 20,
};

pub(super) fn access(raw: raw::Access) -> Result<AccessConfig> {
    let tenant_label = match raw.tenant_label {
        Some(label) if label.get_ref().is_empty() => {
            return refuse(&label, "access.tenant_label", "is empty: name a label");
        }
        Some(label) => label.into_inner(),
        None => super::TENANT_LABEL.to_string(),
    };
    if let Some(others) = &raw.others
        && *others.get_ref() == Role::Tenant
    {
        return refuse(
            others,
            "access.others",
            "cannot be \"tenant\": nobody would know which; write an [[access.user]] for each",
        );
    }
    let users = raw.user.into_iter().enumerate();
    let certificates = raw.certificate.into_iter().enumerate();
    Ok(AccessConfig {
        others: raw.others.map(Spanned::into_inner),
        tenant_label,
        users: users
            .map(|(index, user)| self::user(index, user))
            .collect::<Result<_>>()?,
        certificates: certificates
            .map(|(index, certificate)| self::certificate(index, certificate))
            .collect::<Result<_>>()?,
        tokens: tokens(raw.token)?,
        rates: rates(raw.rate)?,
        provisioner: provisioner(raw.provisioner)?,
        oidc: raw.oidc.map(super::oidc::oidc).transpose()?,
    })
}

fn provisioner(raw: raw::Provisioner) -> Result<Provisioner> {
    let mut profiles = BTreeSet::new();
    for (index, profile) in raw.profiles.iter().flatten().enumerate() {
        match profile.get_ref().parse::<Name>() {
            Ok(name) => profiles.insert(name),
            Err(error) => {
                let path = format!("access.provisioner.profiles[{index}]");
                return refuse(profile, path, error.to_string());
            }
        };
    }
    Ok(Provisioner {
        profiles: raw.profiles.map(|_| profiles),
        rules: raw.rules.unwrap_or(true),
    })
}

/// Role and tenant of an entry, which go together.
fn principal(
    path: &str,
    role: &Spanned<Role>,
    tenant: Option<Spanned<String>>,
    star: bool,
) -> Result<Principal> {
    let at = format!("{path}.tenant");
    let is_tenant = *role.get_ref() == Role::Tenant;
    match &tenant {
        None if is_tenant => return refuse(role, at, "is missing: role = \"tenant\" needs it"),
        Some(tenant) if !is_tenant => {
            return refuse(
                tenant,
                at,
                "is for role = \"tenant\": the other roles are not confined",
            );
        }
        Some(tenant) if tenant.get_ref().is_empty() => {
            return refuse(
                tenant,
                at,
                "is empty: write the value of the label of its endpoints",
            );
        }
        Some(tenant) if tenant.get_ref() == ANY_TENANT && !star => {
            let problem = "is \"*\", and no san with a * says what that stands for: name the tenant";
            return refuse(tenant, at, problem);
        }
        _ => {}
    }
    Ok(Principal {
        role: *role.get_ref(),
        tenant: tenant.map(Spanned::into_inner),
    })
}

fn user(index: usize, entry: Spanned<raw::User>) -> Result<User> {
    let (span, path) = (Spanned::new(entry.span(), ()), format!("access.user[{index}]"));
    let raw::User {
        uid,
        user,
        group,
        role,
        tenant,
    } = entry.into_inner();
    let account = match (uid, user, group) {
        (Some(uid), None, None) => Account::Uid(uid.into_inner()),
        (None, Some(user), None) => Account::User(user.into_inner()),
        (None, None, Some(group)) => Account::Group(group.into_inner()),
        _ => return refuse(&span, path, "needs one of uid, user and group"),
    };
    Ok(User {
        account,
        principal: principal(&path, &role, tenant, false)?,
    })
}

fn certificate(index: usize, entry: Spanned<raw::NamedCertificate>) -> Result<NamedCertificate> {
    let path = format!("access.certificate[{index}]");
    let raw::NamedCertificate { san, role, tenant } = entry.into_inner();
    let pattern: Pattern = match san.get_ref().parse() {
        Ok(pattern) => pattern,
        Err(problem) => return refuse(&san, format!("{path}.san"), problem),
    };
    let star = matches!(pattern, Pattern::Below(_));
    Ok(NamedCertificate {
        san: pattern,
        principal: principal(&path, &role, tenant, star)?,
    })
}

fn tokens(raw: Vec<Spanned<raw::Token>>) -> Result<Vec<Token>> {
    let (mut names, mut digests) = (HashSet::new(), HashSet::new());
    let mut tokens = Vec::with_capacity(raw.len());
    for (index, entry) in raw.into_iter().enumerate() {
        let path = format!("access.token[{index}]");
        let raw::Token {
            name,
            sha256,
            role,
            tenant,
        } = entry.into_inner();
        if let Err(error) = name.get_ref().parse::<Name>() {
            return refuse(&name, format!("{path}.name"), error.to_string());
        }
        if !names.insert(name.get_ref().clone()) {
            return refuse(
                &name,
                format!("{path}.name"),
                "is the name of another token already",
            );
        }
        let Some(digest) = digest(sha256.get_ref()) else {
            // What stands there may be the token itself: it is not repeated.
            let problem = "is no SHA-256: write the 64 hexadecimal digits of the token's digest";
            return refuse(&sha256, format!("{path}.sha256"), problem);
        };
        if !digests.insert(digest) {
            return refuse(
                &sha256,
                format!("{path}.sha256"),
                "is that of another token already",
            );
        }
        tokens.push(Token {
            name: name.into_inner(),
            digest,
            principal: principal(&path, &role, tenant, false)?,
        });
    }
    Ok(tokens)
}

fn digest(text: &str) -> Option<[u8; 32]> {
    if text.len() != 64 || !text.bytes().all(|b| b.is_ascii_hexdigit()) {
        return None;
    }
    let mut digest = [0; 32];
    for (byte, pair) in digest.iter_mut().zip(text.as_bytes().chunks(2)) {
        *byte = u8::from_str_radix(std::str::from_utf8(pair).ok()?, 16).ok()?;
    }
    Some(digest)
}

fn rates(raw: raw::Rates) -> Result<Rates> {
    let mut rates = Rates::default();
    rates.set(Role::Tenant, Some(TENANT_RATE));
    let written = [
        (Role::Operator, raw.operator),
        (Role::Provisioner, raw.provisioner),
        (Role::Tenant, raw.tenant),
        (Role::Viewer, raw.viewer),
    ];
    for (role, rate) in written {
        let Some(raw::Rate {
            requests_per_second: per_second,
            burst,
        }) = rate
        else {
            continue;
        };
        if let Some(burst) = &burst
            && *burst.get_ref() == 0
            && per_second != 0
        {
            let problem =
                "is 0: nothing would be let through; 1 at least, or requests_per_second = 0 for no limit";
            return refuse(burst, format!("access.rate.{role}.burst"), problem);
        }
        let burst = burst.map_or(per_second.saturating_mul(2), Spanned::into_inner);
        rates.set(role, (per_second != 0).then_some(Rate { per_second, burst }));
    }
    Ok(rates)
}
