//! Roles.

/// What a caller is to the agent.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Role {
    /// May use every method.
    Operator,
    /// Orchestration: reads, and creates, changes and removes endpoints.
    Provisioner,
    /// A customer: asks about and unlocks ports of its own endpoints.
    Tenant,
    Viewer,
}

impl Role {
    /// Every role, in the order of the table's columns.
    pub const ALL: [Role; 4] = [Role::Operator, Role::Provisioner, Role::Tenant, Role::Viewer];

    pub fn as_str(self) -> &'static str {
        match self {
            Role::Operator => "operator",
            Role::Provisioner => "provisioner",
            Role::Tenant => "tenant",
            Role::Viewer => "viewer",
        }
    }
}

impl std::fmt::Display for Role {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.as_str())
    }
}
