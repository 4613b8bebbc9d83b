//! Authentication: callers by user, certificate or token.

use std::sync::Arc;

use sha2::{Digest, Sha256};
use subtle::ConstantTimeEq;

use super::accounts::{Accounts, Group};
use super::{Caller, Role};
use crate::config::San;
use crate::config::{self, Account};

/// Why the `[access]` configuration cannot be loaded.
#[derive(Debug, thiserror::Error)]
pub enum AccessError {
    /// There is no such user.
    #[error("there is no user `{0}`, whom access.user[{1}] names: create it, or change that")]
    NoUser(String, usize),
    /// There is no such group.
    #[error("there is no group `{0}`, which access.user[{1}] names: create it, or change that")]
    NoGroup(String, usize),
    /// Users and groups cannot be read.
    #[error("cannot read {0}, which users and groups of [access] are looked up in")]
    Accounts(&'static str, #[source] std::io::Error),
    /// Keys that tokens are verified with.
    #[error(transparent)]
    Keys(#[from] super::KeysError),
}

#[derive(Debug)]
enum Users {
    One(u32),
    Group(Group),
}

impl Users {
    fn has(&self, uid: u32, gid: u32) -> bool {
        match self {
            Users::One(one) => *one == uid,
            Users::Group(group) => group.gid == gid || group.members.contains(&uid),
        }
    }
}

/// The principals of the configuration. The first entry that fits decides.
#[derive(Debug)]
pub struct Authenticator {
    users: Vec<(Users, config::Principal)>,
    others: Option<Role>,
    own_uid: u32,
    certificates: Vec<config::NamedCertificate>,
    tokens: Vec<config::Token>,
    label: Arc<str>,
}

impl Authenticator {
    /// As configured, on a machine with these accounts; `own_uid` is the agent's.
    pub fn new(
        access: &config::AccessConfig,
        accounts: &Accounts,
        own_uid: u32,
    ) -> Result<Self, AccessError> {
        let mut users = Vec::with_capacity(access.users.len());
        for (index, user) in access.users.iter().enumerate() {
            let who = match &user.account {
                Account::Uid(uid) => Users::One(*uid),
                Account::User(name) => {
                    let missing = || AccessError::NoUser(name.clone(), index);
                    Users::One(accounts.user(name).ok_or_else(missing)?)
                }
                Account::Group(name) => {
                    let missing = || AccessError::NoGroup(name.clone(), index);
                    Users::Group(accounts.group(name).ok_or_else(missing)?)
                }
            };
            users.push((who, user.principal.clone()));
        }
        Ok(Authenticator {
            users,
            others: access.others,
            own_uid,
            certificates: access.certificates.clone(),
            tokens: access.tokens.clone(),
            label: Arc::from(access.tenant_label.as_str()),
        })
    }

    fn caller(&self, name: String, principal: &config::Principal, star: &str) -> Caller {
        match &principal.tenant {
            Some(tenant) => {
                let tenant = if tenant == config::ANY_TENANT {
                    star
                } else {
                    tenant
                };
                Caller::of_tenant(name, tenant, Arc::clone(&self.label))
            }
            None => Caller::new(name, principal.role),
        }
    }

    /// A user on the Unix socket.
    pub fn by_uid(&self, uid: u32, gid: u32) -> Option<Caller> {
        let name = format!("uid {uid}");
        if let Some((_, principal)) = self.users.iter().find(|(users, _)| users.has(uid, gid)) {
            return Some(self.caller(name, principal, ""));
        }
        if uid == 0 || uid == self.own_uid {
            return Some(Caller::new(name, Role::Operator));
        }
        self.others.map(|role| Caller::new(name, role))
    }

    /// Who showed a certificate with these names.
    pub fn by_names(&self, names: &[San]) -> Option<Caller> {
        self.certificates.iter().find_map(|known| {
            let (name, star) = names
                .iter()
                .find_map(|name| known.san.matches(name).map(|star| (name, star)))?;
            Some(self.caller(format!("cert {name}"), &known.principal, &star))
        })
    }

    /// Who has this token. How long it takes does not depend on how much of it is right.
    pub fn by_token(&self, token: &[u8]) -> Option<Caller> {
        let digest: [u8; 32] = Sha256::digest(token).into();
        let mut found = None;
        for known in &self.tokens {
            if bool::from(known.digest.ct_eq(&digest)) {
                found = Some(known);
            }
        }
        found.map(|known| self.caller(format!("token {}", known.name), &known.principal, ""))
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;

    fn people(text: &str) -> Result<Authenticator, AccessError> {
        let config = config::parse(Path::new("agent.toml"), text).unwrap();
        let accounts = Accounts::new("ann:x:1000:100::/:\nbob:x:1001:100::/:\n", "netops:x:500:bob\n");
        Authenticator::new(&config.access.unwrap(), &accounts, 77)
    }

    fn shown(caller: Option<Caller>) -> String {
        caller.map_or_else(
            || "nobody".to_string(),
            |c| format!("{} {} {}", c.name, c.role, c.tenant.unwrap_or_default()),
        )
    }

    #[test]
    fn root_and_the_agent_operate_and_others_are_nobody() {
        let people = people("[access]\n").unwrap();
        assert_eq!(shown(people.by_uid(0, 0)), "uid 0 operator ");
        assert_eq!(shown(people.by_uid(77, 1)), "uid 77 operator ");
        assert_eq!(shown(people.by_uid(1000, 0)), "nobody");
        assert_eq!(shown(people.by_names(&[San::Dns("a".to_string())])), "nobody");
        assert_eq!(shown(people.by_token(b"")), "nobody");
    }

    #[test]
    fn the_first_entry_decides() {
        let people = people(
            "[access]\nothers = \"viewer\"\n\
             [[access.user]]\nuser = \"ann\"\nrole = \"tenant\"\ntenant = \"acme\"\n\
             [[access.user]]\ngroup = \"netops\"\nrole = \"provisioner\"\n\
             [[access.user]]\nuid = 0\nrole = \"viewer\"\n\
             [[access.user]]\nuid = 1001\nrole = \"operator\"\n",
        )
        .unwrap();
        assert_eq!(shown(people.by_uid(1000, 500)), "uid 1000 tenant acme");
        assert_eq!(shown(people.by_uid(1001, 100)), "uid 1001 provisioner ");
        assert_eq!(shown(people.by_uid(5, 500)), "uid 5 provisioner ");
        assert_eq!(shown(people.by_uid(0, 0)), "uid 0 viewer ");
        assert_eq!(shown(people.by_uid(5, 5)), "uid 5 viewer ");
    }

    #[test]
    fn accounts_must_exist() {
        for (entry, name) in [
            ("user = \"eve\"", "user `eve`"),
            ("group = \"wheel\"", "group `wheel`"),
        ] {
            let error = people(&format!("[[access.user]]\n{entry}\nrole = \"viewer\"\n")).unwrap_err();
            assert!(error.to_string().contains(name), "{error}");
        }
    }

    #[test]
    fn certificates_by_any_of_their_names() {
        let people = people(
            "[[access.certificate]]\nsan = \"spiffe://host/orchestrator\"\nrole = \"provisioner\"\n\
             [[access.certificate]]\nsan = \"*.customers.example\"\nrole = \"tenant\"\ntenant = \"*\"\n\
             [[access.certificate]]\nsan = \"*.partners.example\"\nrole = \"tenant\"\ntenant = \"partners\"\n",
        )
        .unwrap();
        let dns = |text: &str| San::Dns(text.to_string());
        let uri = San::Uri("spiffe://host/orchestrator".to_string());
        let both = [dns("acme.customers.example"), uri];
        assert_eq!(
            shown(people.by_names(&both)),
            "cert spiffe://host/orchestrator provisioner "
        );
        assert_eq!(
            shown(people.by_names(&both[..1])),
            "cert acme.customers.example tenant acme"
        );
        assert_eq!(
            shown(people.by_names(&[dns("other.example"), dns("a.partners.example")])),
            "cert a.partners.example tenant partners"
        );
        assert_eq!(shown(people.by_names(&[])), "nobody");
    }

    #[test]
    fn tokens_by_their_digest() {
        let hex =
            |text: &str| -> String { Sha256::digest(text).iter().map(|b| format!("{b:02x}")).collect() };
        let token = |name: &str, text: &str, rest: &str| {
            format!(
                "[[access.token]]\nname = \"{name}\"\nsha256 = \"{}\"\n{rest}\n",
                hex(text)
            )
        };
        let people = people(&format!(
            "{}{}",
            token("ticket-system", "secret", "role = \"operator\""),
            token("acme", "other", "role = \"tenant\"\ntenant = \"acme\"")
        ))
        .unwrap();
        assert_eq!(shown(people.by_token(b"secret")), "token ticket-system operator ");
        assert_eq!(shown(people.by_token(b"other")), "token acme tenant acme");
        for none in ["", "Secret", "secret ", hex("secret").as_str()] {
            assert_eq!(shown(people.by_token(none.as_bytes())), "nobody", "{none}");
        }
    }
}
