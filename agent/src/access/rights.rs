//! The table of methods and roles, and the page printed from it.

use std::fmt::Write;

use super::Role;

/// How far a role may use a method.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Permission {
    /// The role may not call the method.
    No,
    /// For endpoints of its own: those that carry the label of its tenant.
    Own,
    Yes,
}

use Permission::{No, Own, Yes};

/// A method, and what each role may do with it.
#[derive(Debug)]
pub struct Method {
    /// Path of the request, for example `portcullis.v1.PolicyService/Explain`.
    pub path: &'static str,
    /// In the order of [`Role::ALL`].
    grants: [Permission; 4],
}

impl Method {
    /// What a role may do with it.
    pub fn grant(&self, role: Role) -> Permission {
        let [operator, provisioner, tenant, viewer] = self.grants;
        match role {
            Role::Operator => operator,
            Role::Provisioner => provisioner,
            Role::Tenant => tenant,
            Role::Viewer => viewer,
        }
    }

    /// Whether it takes back what was opened, at the word of someone who may: that waits for nothing, and no rate.
    pub fn closes(&self, role: Role) -> bool {
        CLOSING.contains(&self.path) && self.grant(role) == Yes
    }
}

/// Methods that take back what was opened.
const CLOSING: [&str; 2] = [
    "portcullis.v1.UnlockService/Revoke",
    "portcullis.v1.BypassService/EndBypass",
];

/// What waits for long before it answers.
pub(super) const WAITS: &str = "/portcullis.v1.TargetService/WaitRealized";

// Operator, provisioner, tenant, viewer.
const OPERATE: [Permission; 4] = [Yes, No, No, No];
const PROVISION: [Permission; 4] = [Yes, Yes, No, No];
const UNLOCK: [Permission; 4] = [Yes, No, Own, No];
const READ: [Permission; 4] = [Yes, Yes, No, Yes];
const READ_OWN: [Permission; 4] = [Yes, Yes, Own, Yes];
const READ_ANY: [Permission; 4] = [Yes, Yes, Yes, Yes];

const fn method(path: &'static str, grants: [Permission; 4]) -> Method {
    Method { path, grants }
}

/// Every method of the API. A method that is not listed here is refused to every caller.
pub const METHODS: &[Method] = &[
    method("portcullis.v1.BaselineService/GetBaseline", READ),
    method("portcullis.v1.BaselineService/UpdateBaseline", OPERATE),
    method("portcullis.v1.ProfileService/CreateProfile", OPERATE),
    method("portcullis.v1.ProfileService/GetProfile", READ),
    method("portcullis.v1.ProfileService/ListProfiles", READ),
    method("portcullis.v1.ProfileService/UpdateProfile", OPERATE),
    method("portcullis.v1.ProfileService/DeleteProfile", OPERATE),
    method("portcullis.v1.EndpointService/CreateEndpoint", PROVISION),
    method("portcullis.v1.EndpointService/GetEndpoint", READ_OWN),
    method("portcullis.v1.EndpointService/ListEndpoints", READ_OWN),
    method("portcullis.v1.EndpointService/UpdateEndpoint", PROVISION),
    method("portcullis.v1.EndpointService/DeleteEndpoint", PROVISION),
    method("portcullis.v1.EndpointService/Provision", PROVISION),
    method("portcullis.v1.EndpointService/Release", PROVISION),
    method("portcullis.v1.PolicyService/ApplyDocument", OPERATE),
    method("portcullis.v1.PolicyService/GetDocument", READ),
    method("portcullis.v1.PolicyService/Plan", OPERATE),
    method("portcullis.v1.PolicyService/Explain", READ_OWN),
    method("portcullis.v1.TargetService/ListTargets", READ),
    method("portcullis.v1.TargetService/ListHits", READ),
    method("portcullis.v1.TargetService/ListOffload", READ),
    method("portcullis.v1.TargetService/ListTargetChecks", READ),
    method("portcullis.v1.TargetService/GetPlacement", READ),
    method("portcullis.v1.TargetService/WaitRealized", READ),
    method("portcullis.v1.TargetService/Watch", READ),
    method("portcullis.v1.UnlockService/RequestUnlock", UNLOCK),
    method("portcullis.v1.UnlockService/GetUnlock", READ_OWN),
    method("portcullis.v1.UnlockService/ListUnlocks", READ_OWN),
    method("portcullis.v1.UnlockService/Approve", OPERATE),
    method("portcullis.v1.UnlockService/Reject", OPERATE),
    method("portcullis.v1.UnlockService/Renew", UNLOCK),
    method("portcullis.v1.UnlockService/Release", UNLOCK),
    method("portcullis.v1.UnlockService/Revoke", OPERATE),
    method("portcullis.v1.UnlockService/DescribeProgram", READ_ANY),
    method("portcullis.v1.UnlockService/WhyBlocked", READ_OWN),
    method("portcullis.v1.UnlockService/WatchUnlocks", READ_OWN),
    method("portcullis.v1.BypassService/StartBypass", OPERATE),
    method("portcullis.v1.BypassService/EndBypass", OPERATE),
    method("portcullis.v1.BypassService/ListBypasses", READ),
    method("portcullis.v1.AuditService/ListAudit", OPERATE),
    method("portcullis.v1.AuditService/VerifyAudit", OPERATE),
    method("portcullis.v1.AuditService/ExportAudit", OPERATE),
];

/// The method that needs no credential: health checks have none.
const ANYBODY: &str = "grpc.health.v1.Health/Check";
/// What every role may call.
const ANY_ROLE: [&str; 2] = ["grpc.health.v1.Health/", "grpc.reflection.v1.ServerReflection/"];

/// Who may call a path.
#[derive(Debug, Clone, Copy)]
pub(super) enum Needs {
    Nothing,
    /// A credential, whatever its role.
    AnyRole,
    /// What the table says.
    Table(&'static Method),
}

/// Roles that may use the method of a path such as `/portcullis.v1.PolicyService/Explain`; `None` when no role
/// may.
pub(super) fn needs(path: &str) -> Option<Needs> {
    let path = path.strip_prefix('/')?;
    if path == ANYBODY {
        return Some(Needs::Nothing);
    }
    if ANY_ROLE.iter().any(|service| path.starts_with(service)) {
        return Some(Needs::AnyRole);
    }
    METHODS.iter().find(|m| m.path == path).map(Needs::Table)
}

/// The table as Markdown.
pub fn reference() -> String {
    let mut text = String::from(
        "# Who may call what\n\nPrinted by `portcullis docs access`. *own*: only for endpoints that carry the tenant's \
         label; lists are filtered. `-`: refused. The health check needs no credential; reflection and the rest of \
         health need any.\n\n| method |",
    );
    // Writing to a String cannot fail.
    for role in Role::ALL {
        let _ = write!(text, " {role} |");
    }
    text.push_str("\n|---|---|---|---|---|\n");
    for m in METHODS {
        let _ = write!(text, "| `{}` |", m.path.trim_start_matches("portcullis.v1."));
        for role in Role::ALL {
            let word = match m.grant(role) {
                No => "-",
                Own => "own",
                Yes => "yes",
            };
            let _ = write!(text, " {word} |");
        }
        text.push('\n');
    }
    text.push_str(REACH);
    text
}

/// What roles can do through the methods that they may call.
const REACH: &str = "
## What a role can reach through its methods

- An **operator** can open and close every port, let everything of an endpoint pass (`portcullis bypass`), and read evidence of
  unlocks that is not secret.
- A **provisioner** can open every port of every endpoint that no `mandatory` rule denies, because rules and profiles of an
  endpoint are above the baseline; and it can take an endpoint out of a policy by removing it. `[access.provisioner]` limits it to
  `profiles = [\"web\", …]` and, with `rules = false`, to endpoints without rules of their own. It can give an endpoint to another
  tenant by its label, which ends the unlocks of the tenant before.
- A **tenant** can open what an unlock program opens for its own endpoints, under the program's checks and approvals. It can read the
  rules that concern its own endpoints, and it cannot learn whether an endpoint of another tenant exists.
- A **viewer** can read the whole policy, all endpoints, their tenants' unlocks and hits, but not the audit log.
";

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use prost::Message;
    use prost_types::FileDescriptorSet;

    use super::*;

    #[test]
    fn the_table_has_every_method_and_no_other() {
        let descriptors = FileDescriptorSet::decode(portcullis_proto::DESCRIPTORS).unwrap();
        let mut methods = BTreeSet::new();
        for file in &descriptors.file {
            for service in &file.service {
                for method in &service.method {
                    methods.insert(format!("{}.{}/{}", file.package(), service.name(), method.name()));
                }
            }
        }
        let table: BTreeSet<String> = METHODS.iter().map(|m| m.path.to_string()).collect();
        assert_eq!(table, methods);
        assert_eq!(table.len(), METHODS.len(), "a method is there twice");
    }

    #[test]
    fn an_operator_may_do_everything_and_only_tenants_are_confined() {
        for method in METHODS {
            assert_eq!(method.grant(Role::Operator), Yes, "{}", method.path);
            for role in [Role::Provisioner, Role::Viewer] {
                assert_ne!(method.grant(role), Own, "{}", method.path);
            }
        }
    }

    #[test]
    fn paths_are_taken_as_they_are() {
        assert!(matches!(
            needs("/grpc.health.v1.Health/Check"),
            Some(Needs::Nothing)
        ));
        assert!(matches!(
            needs("/grpc.health.v1.Health/Watch"),
            Some(Needs::AnyRole)
        ));
        let explain = "/portcullis.v1.PolicyService/Explain";
        assert!(matches!(needs(explain), Some(Needs::Table(m)) if m.grant(Role::Tenant) == Own));
        for path in [
            "",
            "/",
            "portcullis.v1.PolicyService/Explain",
            "//portcullis.v1.PolicyService/Explain",
            "/portcullis.v1.PolicyService/explain",
            "/portcullis.v1.PolicyService/Explain/",
            "/portcullis.v1.PolicyService/%45xplain",
        ] {
            assert!(needs(path).is_none(), "{path}");
        }
    }
}
