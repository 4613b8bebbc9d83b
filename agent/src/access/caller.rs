//! The caller of a request, and the endpoints within its reach.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::Role;

/// The caller of a request; in the extensions of every request that reaches a service.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Caller {
    /// As history and the audit log tell it: `uid 0`, `cert spiffe://host/orchestrator`, `token ticket-system`.
    pub name: String,
    pub role: Role,
    /// Whose endpoints it is confined to; there for tenants.
    pub tenant: Option<String>,
    /// The label that names an endpoint's tenant.
    label: Arc<str>,
}

/// An endpoint is out of reach. The error does not disclose whether it exists.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{what}` is not within reach of tenant `{tenant}`")]
pub struct Denied {
    /// What was reached for, as the caller named it.
    pub what: String,
    pub tenant: String,
}

impl Caller {
    /// A caller that is not confined.
    pub fn new(name: impl Into<String>, role: Role) -> Self {
        Caller {
            name: name.into(),
            role,
            tenant: None,
            label: Arc::from(""),
        }
    }

    /// A tenant: its endpoints carry `label` with the value `tenant`.
    pub fn of_tenant(name: impl Into<String>, tenant: impl Into<String>, label: Arc<str>) -> Self {
        Caller {
            name: name.into(),
            role: Role::Tenant,
            tenant: Some(tenant.into()),
            label,
        }
    }

    /// Whether an endpoint with these labels is within reach.
    pub fn sees(&self, labels: &BTreeMap<String, String>) -> bool {
        match (self.role, &self.tenant) {
            (Role::Tenant, Some(tenant)) => labels.get(&*self.label) == Some(tenant),
            (Role::Tenant, None) => false,
            _ => true,
        }
    }

    /// Whether what belongs to a tenant is within reach.
    pub fn is_for(&self, tenant: &str) -> bool {
        self.role != Role::Tenant || self.tenant.as_deref().is_some_and(|own| own == tenant)
    }

    /// Refuses what is out of reach: `what` as the caller named it, with its endpoint's labels, or `None` when it
    /// does not exist, which is not disclosed to a tenant.
    pub fn may_reach(&self, what: &str, labels: Option<&BTreeMap<String, String>>) -> Result<(), Denied> {
        if self.role != Role::Tenant || labels.is_some_and(|labels| self.sees(labels)) {
            return Ok(());
        }
        Err(Denied {
            what: what.to_string(),
            tenant: self.tenant.clone().unwrap_or_default(),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_tenant_reaches_its_own_and_learns_nothing_of_others() {
        let labels = |key: &str, value: &str| BTreeMap::from([(key.to_string(), value.to_string())]);
        let acme = Caller::of_tenant("token acme", "acme", "tenant".into());
        assert_eq!(acme.may_reach("a", Some(&labels("tenant", "acme"))), Ok(()));
        let missing = acme.may_reach("a", None).unwrap_err();
        for foreign in [
            labels("tenant", "other"),
            labels("tenant", ""),
            labels("Tenant", "acme"),
            labels("owner", "acme"),
            BTreeMap::new(),
        ] {
            assert_eq!(acme.may_reach("a", Some(&foreign)).unwrap_err(), missing);
            assert!(!acme.sees(&foreign));
        }
        assert!(acme.is_for("acme") && !acme.is_for("other") && !acme.is_for(""));
        let nameless = Caller::new("x", Role::Tenant);
        assert!(!nameless.sees(&labels("tenant", "")) && !nameless.is_for(""));
        for role in [Role::Operator, Role::Provisioner, Role::Viewer] {
            let caller = Caller::new("x", role);
            assert_eq!(caller.may_reach("a", None), Ok(()));
            assert!(caller.sees(&BTreeMap::new()) && caller.is_for("acme"));
        }
    }
}
