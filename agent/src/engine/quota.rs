//! Rows that the unlocks of a tenant take: those of classes that its endpoints would not be in without them.

use std::collections::BTreeSet;

use portcullis_backend::TargetHandle;
use portcullis_compiler::{ClassId, Intent};
use portcullis_policy::Document;
use portcullis_unlock::ledger::{Change as UnlockChange, tenant_of};

use super::ChangeError;

/// Refuses what grants an unlock to a tenant whose unlocks would take more than so many rows on a target. What closes, or only
/// follows another change, grants none.
pub(super) fn rows(
    changes: &[UnlockChange],
    (document, intent): (&Document, &Intent),
    targets: &[TargetHandle],
    limit: usize,
) -> Result<(), ChangeError> {
    let granted = changes.iter().filter(|change| change.action == "unlock.activate");
    let tenants: BTreeSet<&str> = granted.map(|change| change.unlock.tenant.as_str()).collect();
    for tenant in tenants.into_iter().filter(|tenant| !tenant.is_empty()) {
        let own = own(tenant, document, intent);
        for target in targets {
            let classes = own.iter().filter_map(|id| intent.classes.get(id));
            let rows: usize = classes.filter_map(|class| target.rows(class)).sum();
            if rows > limit {
                return Err(ChangeError::TenantRows {
                    tenant: tenant.to_string(),
                    target: target.name().to_string(),
                    rows,
                    limit,
                });
            }
        }
    }
    Ok(())
}

/// The classes of a tenant's endpoints that unlocks made.
fn own(tenant: &str, document: &Document, intent: &Intent) -> BTreeSet<ClassId> {
    let mut own = BTreeSet::new();
    for name in document.grants.keys() {
        let endpoint = document.endpoints.get(name);
        let (Some(endpoint), Some(is)) = (endpoint, intent.endpoints.get(name)) else {
            continue;
        };
        if tenant_of(document, endpoint) != tenant {
            continue;
        }
        // The last one is what it is in without any.
        let Some((last, before)) = is.transitions.split_last() else {
            continue;
        };
        let ids = before.iter().flat_map(|transition| transition.classes);
        let without = |id: &ClassId| last.classes.iter().any(|last| last == id);
        own.extend(ids.chain(is.classes).filter(|id| !without(id)));
    }
    own
}
