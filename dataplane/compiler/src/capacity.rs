//! What tables will hold, and the steps taken when that is too much, as values and as words.

use crate::class::ClassId;
use crate::compilation::Part;

/// What one table will hold.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TableUse {
    /// Name of the table.
    pub table: String,
    /// Rows that will be in it.
    pub rows: u64,
    /// What they cost: rows, or lines of ranges.
    pub cost: u64,
    /// What it holds; `None` when only memory bounds it.
    pub size: Option<u64>,
}

impl TableUse {
    /// By how much it is too full.
    pub fn excess(&self) -> u64 {
        self.size.map_or(0, |size| self.cost.saturating_sub(size))
    }
}

/// A step of the ladder.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Step {
    /// Rows of equal verdict of a class were merged: hits tell its verdicts, not its rules.
    Merged {
        /// Class whose rows were merged.
        class: ClassId,
        /// The table that was too full.
        table: String,
        /// What the class cost there before.
        from: u64,
        /// What it costs now.
        to: u64,
    },
    /// A part of the policies is left to targets that are nearer to all its endpoints and hold every policy whole.
    Left {
        /// The rule or default that is left.
        part: Part,
        /// The policy table that it would have rows in.
        table: String,
    },
}

impl std::fmt::Display for Step {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Step::Merged {
                class,
                table,
                from,
                to,
            } => write!(
                f,
                "{table} is too full: rows of equal verdict of class {class} were merged ({from} -> {to}); hits on them \
                 tell the verdict and not always the rule"
            ),
            Step::Left { part, table } => write!(
                f,
                "{table} is too full: {part} is left to the targets behind the ports, which enforce it whole"
            ),
        }
    }
}

/// Something that would make room.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Saving {
    /// The rule to do without.
    pub rule: String,
    /// What its absence would save, compiled anew without it.
    pub saves: u64,
    /// Whether it, with those named before it, makes the rest fit.
    pub fits: bool,
}

/// A table that cannot hold what is asked of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refusal {
    /// Name of the table.
    pub table: String,
    /// What it would have to hold.
    pub needed: u64,
    /// What it holds, in the same unit.
    pub size: u64,
    /// What would make room, the most effective first.
    pub savings: Vec<Saving>,
}

impl std::fmt::Display for Refusal {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} needs {} and holds {}", self.table, self.needed, self.size)?;
        for (at, saving) in self.savings.iter().enumerate() {
            let joint = if at == 0 { "; without" } else { ", and without" };
            write!(f, "{joint} {} it needs {} less", saving.rule, saving.saves)?;
            if saving.fits {
                f.write_str(" and fits")?;
            }
        }
        Ok(())
    }
}
