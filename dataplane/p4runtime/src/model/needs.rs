//! What rows of a stage name without asking the model, so that a table without it cannot play the stage: a row whose
//! key is not there would match more than it means.

use portcullis_compiler::TableModel;
use portcullis_compiler::model::{ActionModel, Field, MatchKind, Role};
use portcullis_policy::Direction;

/// Fields that some rows of a stage name. `unreadable`: the parser marks what cannot be judged; without the mark, rows
/// find it by ports and flags of zero. `partial`: rows name the version of IP and its protocol, and else what is there.
fn named(table: &TableModel, unreadable: bool, partial: bool) -> Vec<Field> {
    let versions = [Field::IsIpv4, Field::IsIpv6];
    let mut fields = match table.stage {
        Role::Policy if partial && versions.iter().all(|f| table.key(*f).is_some()) => vec![Field::Protocol],
        Role::Policy if partial => vec![Field::EtherType, Field::Protocol],
        stage => stage.named(unreadable).to_vec(),
    };
    match table.stage {
        Role::Policy if table.key(Field::Class).is_none() => fields.push(Field::Port),
        Role::Attach => fields.push(Field::Port),
        Role::Guard => fields.extend([Field::Port, Field::Mac]),
        _ => {}
    }
    fields
}

/// The actions that rows of a stage have.
fn done(role: Role) -> &'static [ActionModel] {
    match role {
        Role::Policy => &[ActionModel::Allow, ActionModel::Deny],
        Role::Guard | Role::Other => &[],
        _ => &[ActionModel::Set],
    }
}

fn action_name(action: ActionModel) -> &'static str {
    match action {
        ActionModel::Allow => "allow",
        ActionModel::Deny => "deny",
        ActionModel::Words => "words",
        ActionModel::Set => "set",
    }
}

/// Every reason why a table cannot play its stage. `partial`: of a policy, a part is enough.
pub(super) fn lacking(table: &TableModel, unreadable: bool, partial: bool) -> Vec<String> {
    let missing: Vec<Field> = named(table, unreadable, partial)
        .into_iter()
        .filter(|f| table.key(*f).is_none())
        .collect();
    let names: Vec<String> = missing
        .iter()
        .filter(|f| **f != Field::Port)
        .map(|field| format!("`{field}`"))
        .collect();
    let unnamed = (!names.is_empty()).then(|| format!("it has no {}", names.join(", ")));
    let portless = missing
        .contains(&Field::Port)
        .then(|| "it has neither `class` nor `port`: rows of one port would hold for all".to_string());
    let exact = table.keys.iter().filter(|k| k.kind == MatchKind::Exact);
    let exact = exact.filter(|k| !table.stage.always_named().contains(&k.field));
    let exact = exact.map(|k| format!("`{}` is exact, and some rows leave it open", k.field));
    let undone = done(table.stage).iter().filter(|a| !table.actions.contains(a));
    let undone = undone.map(|a| format!("no action of its rows is `{}`", action_name(*a)));
    unnamed
        .into_iter()
        .chain(portless)
        .chain(exact)
        .chain(undone)
        .collect()
}

/// How a port key matches, as far as rows differ by it.
fn likeness(kind: MatchKind) -> u8 {
    match kind {
        MatchKind::Exact | MatchKind::Optional => 0,
        MatchKind::Ternary | MatchKind::Lpm => 1,
        MatchKind::Range => 2,
    }
}

/// Tables whose ports do not match as the policy stages' ports do, so that rows for one could not be written to the
/// other: table, reason.
pub(super) fn unlike(tables: &[TableModel]) -> Vec<(String, String)> {
    let policies = || tables.iter().filter(|t| t.stage == Role::Policy);
    let mut unlike = Vec::new();
    for table in tables {
        let (field, code) = match table.stage {
            Role::SrcCode => (Field::SrcPort, Field::SrcCode),
            Role::DstCode => (Field::DstPort, Field::DstCode),
            _ => continue,
        };
        let Some(own) = table.key(field) else { continue };
        let meets = |policy: &&TableModel| {
            policy.key(code).is_some()
                && Direction::BOTH
                    .iter()
                    .any(|d| policy.serves(*d) && table.serves(*d))
                && policy
                    .key(field)
                    .is_none_or(|k| likeness(k.kind) != likeness(own.kind))
        };
        unlike.extend(policies().find(meets).map(|policy| {
            let why = format!(
                "`{field}` does not match as it does in {} (it is {} here)",
                policy.name, own.kind
            );
            (table.name.clone(), why)
        }));
    }
    unlike
}
