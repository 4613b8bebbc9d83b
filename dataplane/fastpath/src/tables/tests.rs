//! The bound on rows of compiled pairs.

use super::*;
use crate::row::Cond;

fn row(conds: &[(u8, u32)], action: Action) -> Row {
    Row {
        conds: conds
            .iter()
            .map(|(at, value)| (*at, Cond::exact(*value)))
            .collect(),
        priority: 1,
        action,
        slot: crate::NO_SLOT,
    }
}

#[test]
fn pairs_have_a_bound_in_rows_and_what_ends_has_none() {
    let mut tables = Tables {
        most_rows: 4,
        ..Tables::default()
    };
    let lead = |class, overlay| Action::SetClass(Lead { class, overlay });
    let key = |wanted| {
        Table::EgressPolicy
            .keys()
            .iter()
            .position(|k| *k == wanted)
            .unwrap() as u8
    };
    let (class, overlay, port) = (key(Key::Class), key(Key::Overlay), key(Key::DstPort));
    let policy = Table::EgressPolicy;
    for n in [25, 465] {
        tables
            .insert(policy, row(&[(class, 1), (port, n)], Action::Deny))
            .unwrap();
    }
    for n in [7, 8] {
        tables
            .insert(policy, row(&[(overlay, n)], Action::Allow))
            .unwrap();
    }
    let first = tables.insert(Table::Attach, row(&[(0, 1)], lead(1, 7))).unwrap();
    let more = tables.insert(Table::Attach, row(&[(0, 2)], lead(1, 8)));
    assert_eq!(more, Err(TableError::PairRows));
    assert_eq!(tables.modify(first, lead(1, 8)), Err(TableError::PairRows));
    assert_eq!(tables.get(first).unwrap().action, lead(1, 7));
    // One row more of the class is one more of the pair, and then there is room for none.
    let third = tables
        .insert(policy, row(&[(class, 1), (port, 587)], Action::Deny))
        .unwrap();
    let fourth = row(&[(class, 1), (port, 2525)], Action::Deny);
    assert_eq!(tables.insert(policy, fourth.clone()), Err(TableError::PairRows));
    assert!(tables.remove(third).is_some() && tables.insert(policy, fourth).is_ok());
    // An unlock that ends is not kept open for want of room.
    assert_eq!(tables.modify_unbounded(first, lead(1, 8)), Ok(true));
    assert_eq!(tables.modify(first, lead(1, 0)), Ok(true));
    assert_eq!(tables.count(policy), 5);
}
