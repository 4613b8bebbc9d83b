//! A row as a controller writes it: match keys, priority, action.

use portcullis_policy::Verdict;

use crate::table::{Key, Table};

/// What a key of a row asks for. A key without a condition matches everything.
#[allow(missing_docs, reason = "`low` and `high` are the ends of the range")]
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Cond {
    /// These bits, where the mask has ones.
    Mask {
        /// The bits; none outside the mask.
        value: u128,
        /// Ones where bits count.
        mask: u128,
    },
    /// Between two numbers, both included.
    Range { low: u128, high: u128 },
}

impl Cond {
    /// Matches this value alone.
    pub fn exact(value: impl Into<u128>) -> Cond {
        Cond::Mask {
            value: value.into(),
            mask: u128::MAX,
        }
    }

    /// Whether a value meets it.
    pub fn holds(&self, given: u128) -> bool {
        match self {
            Cond::Mask { value, mask } => given & mask == *value,
            Cond::Range { low, high } => (low..=high).contains(&&given),
        }
    }
}

/// A verdict, and the counter of the row that has it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Decision {
    /// Whether the frame goes on.
    pub verdict: Verdict,
    /// The row's counter, or [`NO_SLOT`].
    pub slot: u32,
}

impl Decision {
    /// The decision where no row matches.
    pub(crate) const UNMATCHED: Decision = Decision {
        verdict: Verdict::Deny,
        slot: NO_SLOT,
    };
}

/// Where a port leads: a class, and the overlay above it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Lead {
    /// The class; nothing is denied to class 0, whatever the overlay is.
    pub class: u16,
    /// The overlay, whose rows name it instead of the class; 0: none.
    pub overlay: u16,
}

impl Lead {
    /// A class without an overlay.
    pub const fn from_class(class: u16) -> Lead {
        Lead { class, overlay: 0 }
    }

    /// The parameter of `set_class`: the class in the lower 16 bits, the overlay in the upper ones.
    pub const fn from_parameter(value: u32) -> Lead {
        Lead {
            class: value as u16,
            overlay: (value >> 16) as u16,
        }
    }
}

/// What a row does.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Action {
    /// Goes on to the next table.
    Allow,
    /// Drops the frame, counted by the reason.
    Deny,
    /// The class and overlay of the sender or receiver.
    SetClass(Lead),
    /// The same, of a sender that is held to its MACs and addresses.
    SetGuardedClass(Lead),
    /// Its MAC is its own; its addresses are to be looked at.
    CheckAddresses,
    /// Which prefix the other side is in.
    SetRemoteId(u16),
    /// Out of this port.
    Forward(u16),
    /// Out of every port of this group.
    ForwardToGroup(u16),
}

/// What a row does, without the parameter.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[allow(missing_docs, reason = "they are those of `Action`")]
pub enum ActionKind {
    Allow,
    Deny,
    SetClass,
    SetGuardedClass,
    CheckAddresses,
    SetRemoteId,
    Forward,
    ForwardToGroup,
}

impl ActionKind {
    /// Each, with its name in the P4 program.
    const NAMES: [(ActionKind, &str); 8] = [
        (ActionKind::Allow, "allow"),
        (ActionKind::Deny, "deny"),
        (ActionKind::SetClass, "set_class"),
        (ActionKind::SetGuardedClass, "set_guarded_class"),
        (ActionKind::CheckAddresses, "check_addresses"),
        (ActionKind::SetRemoteId, "set_remote_id"),
        (ActionKind::Forward, "forward"),
        (ActionKind::ForwardToGroup, "forward_to_group"),
    ];

    /// The action that the P4 program calls so.
    pub fn from_name(name: &str) -> Option<ActionKind> {
        let named = ActionKind::NAMES.into_iter().find(|(_, is)| *is == name);
        named.map(|(kind, _)| kind)
    }

    /// The action with its parameter; what takes none ignores it, and only classes take more than 16 bits.
    pub fn with(self, parameter: u32) -> Action {
        let value = parameter as u16;
        match self {
            ActionKind::Allow => Action::Allow,
            ActionKind::Deny => Action::Deny,
            ActionKind::SetClass => Action::SetClass(Lead::from_parameter(parameter)),
            ActionKind::SetGuardedClass => Action::SetGuardedClass(Lead::from_parameter(parameter)),
            ActionKind::CheckAddresses => Action::CheckAddresses,
            ActionKind::SetRemoteId => Action::SetRemoteId(value),
            ActionKind::Forward => Action::Forward(value),
            ActionKind::ForwardToGroup => Action::ForwardToGroup(value),
        }
    }
}

impl Action {
    /// The verdict of a row of a table that has only verdicts.
    pub(crate) fn verdict(self) -> Verdict {
        match self {
            Action::Allow => Verdict::Allow,
            _ => Verdict::Deny,
        }
    }

    /// Where it leads, if it leads to a class.
    pub(crate) fn lead(self) -> Option<Lead> {
        match self {
            Action::SetClass(lead) | Action::SetGuardedClass(lead) => Some(lead),
            _ => None,
        }
    }

    /// What it is without its parameter.
    pub fn kind(self) -> ActionKind {
        match self {
            Action::Allow => ActionKind::Allow,
            Action::Deny => ActionKind::Deny,
            Action::SetClass(_) => ActionKind::SetClass,
            Action::SetGuardedClass(_) => ActionKind::SetGuardedClass,
            Action::CheckAddresses => ActionKind::CheckAddresses,
            Action::SetRemoteId(_) => ActionKind::SetRemoteId,
            Action::Forward(_) => ActionKind::Forward,
            Action::ForwardToGroup(_) => ActionKind::ForwardToGroup,
        }
    }
}

/// The slot of a row without a counter.
pub const NO_SLOT: u32 = (1 << 30) - 1;

/// A row. `slot` is where its hits are counted ([`crate::Tally::hit`]), below [`NO_SLOT`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Row {
    /// Conditions by place of the key in [`Table::keys`], in rising order, none twice.
    pub conds: Box<[(u8, Cond)]>,
    /// The highest that matches wins; 0 in tables whose keys are all exact.
    pub priority: i32,
    /// What happens to frames that match.
    pub action: Action,
    /// Its counter, or [`NO_SLOT`].
    pub slot: u32,
}

/// A row that is kept, until it is removed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RowId(pub(crate) u64);

impl Row {
    /// The condition on a key.
    pub fn cond(&self, table: Table, key: Key) -> Option<Cond> {
        let at = table.keys().iter().position(|k| *k == key)?;
        self.conds
            .iter()
            .find(|(k, _)| usize::from(*k) == at)
            .map(|(_, c)| *c)
    }

    /// Value and mask of a key that is `bits` wide; a range that is not one whole prefix is refused.
    pub(crate) fn masked(&self, table: Table, key: Key, bits: u32) -> Option<(u128, u128)> {
        let all = if bits >= 128 { u128::MAX } else { (1 << bits) - 1 };
        match self.cond(table, key) {
            None => Some((0, 0)),
            Some(Cond::Mask { value, mask }) => Some((value & all, mask & all)),
            Some(Cond::Range { low, high }) => {
                let span = high.checked_sub(low)?;
                let whole = span & span.wrapping_add(1) == 0 && low & span == 0;
                whole.then_some((low, all & !span))
            }
        }
    }

    /// The one value that an exact key has.
    pub(crate) fn exactly(&self, table: Table, key: Key) -> Option<u128> {
        match self.cond(table, key)? {
            Cond::Mask { value, .. } => Some(value),
            Cond::Range { low, high } => (low == high).then_some(low),
        }
    }
}
