//! A row of an OVS table before it is encoded.

use std::sync::Arc;

use portcullis_backend::delta::{Key, Layer};
use portcullis_openflow::instruction::canonical;
use portcullis_openflow::{Action, Bits, Instruction, LearnSpec, Match};

use crate::regs;
use crate::tables::{Level, Table};

/// What makes two flows the same row.
#[allow(missing_docs, reason = "the names are those of OpenFlow")]
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct FlowIdentity {
    pub table: Table,
    pub priority: u16,
    pub matching: Match,
}

/// A shared [`FlowIdentity`]: it stands in several maps.
pub type FlowKey = SharedIdentity;

/// A flow's identity behind a shared pointer, so that keys are cheap to clone.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SharedIdentity(pub Arc<FlowIdentity>);

impl Key for SharedIdentity {
    fn layer(&self) -> Layer {
        self.0.table.layer()
    }

    fn table(&self) -> u8 {
        self.0.table as u8
    }

    fn class(&self) -> Option<u32> {
        if self.layer() == Layer::Dispatch {
            return None;
        }
        let matching = &self.0.matching;
        let class = matching
            .get(regs::OVERLAY)
            .or_else(|| matching.get(regs::CLASS))?;
        u32::try_from(class.value).ok()
    }

    fn priority(&self) -> i32 {
        self.0.priority.into()
    }
}

/// What a row does, and for how long. Two bodies that do the same are equal, whichever generation wrote them.
#[derive(Debug, Clone)]
pub struct FlowBody {
    /// The instructions in canonical order.
    pub instructions: Arc<[Instruction]>,
    /// The generation that wrote it; in the cookie, where it names the row's age.
    pub generation: u64,
    /// When it ends by itself, in seconds since the Unix epoch.
    pub until: Option<u64>,
    /// Whether it was written under a tag that this agent no longer uses: then it has to be written again.
    pub former: bool,
}

impl FlowBody {
    /// Whether packets meet the same, for whatever time.
    pub fn does_the_same(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.instructions, &other.instructions) || self.instructions == other.instructions
    }
}

impl PartialEq for FlowBody {
    fn eq(&self, other: &Self) -> bool {
        self.until == other.until && self.former == other.former && self.does_the_same(other)
    }
}

impl Eq for FlowBody {}

/// A flow as sent and as read back: its identity and what it does.
pub type Flow = (FlowKey, FlowBody);

/// Builds rows of one generation.
#[derive(Debug, Clone, Copy)]
pub struct Writer {
    /// Generation in the cookie of the rows.
    pub generation: u64,
}

impl Writer {
    /// A row, with a priority of the table's contract.
    pub fn flow(
        &self,
        table: Table,
        priority: impl Into<Level>,
        matching: Match,
        instructions: Vec<Instruction>,
    ) -> Flow {
        let key = SharedIdentity(Arc::new(FlowIdentity {
            table,
            priority: priority.into().number(),
            matching,
        }));
        (
            key,
            FlowBody {
                instructions: canonical(instructions).into(),
                generation: self.generation,
                until: None,
                former: false,
            },
        )
    }

    /// The same row until a moment, if one is given.
    pub fn until(&self, (key, body): Flow, until: Option<u64>) -> Flow {
        (key, FlowBody { until, ..body })
    }

    /// A row that drops.
    pub fn drop(&self, table: Table, priority: impl Into<Level>, matching: Match) -> Flow {
        self.flow(table, priority, matching, Vec::new())
    }
}

/// Actions, then a table.
pub fn then(actions: Vec<Action>, goto: u8) -> Vec<Instruction> {
    let mut list = Vec::with_capacity(2);
    if !actions.is_empty() {
        list.push(Instruction::ApplyActions(actions));
    }
    list.push(Instruction::GotoTable(goto));
    list
}

/// The row as people read it, close to `ovs-ofctl`'s way.
pub fn text(place: &FlowIdentity, instructions: &[Instruction]) -> String {
    let matching = place.matching.to_string();
    let comma = if matching.is_empty() { "" } else { "," };
    format!(
        "table={} priority={}{comma}{matching} actions={}",
        place.table.name(),
        place.priority,
        doing(instructions)
    )
}

fn doing(instructions: &[Instruction]) -> String {
    let parts: Vec<String> = instructions
        .iter()
        .map(|i| match i {
            Instruction::ApplyActions(list) => actions(list),
            Instruction::GotoTable(n) => format!("goto_table:{n}"),
            other => format!("{other:?}"),
        })
        .collect();
    if parts.is_empty() {
        "drop".to_string()
    } else {
        parts.join(",")
    }
}

fn bits(b: &Bits) -> String {
    format!("{}[{}..]", b.field, b.offset)
}

fn actions(list: &[Action]) -> String {
    let one = |action: &Action| match action {
        Action::Output { port, .. } if *port == portcullis_openflow::port::NORMAL => "NORMAL".to_string(),
        Action::Output { port, .. } => format!("output:{port}"),
        Action::SetField(oxm) => format!("set_field:{:#x}->{}", oxm.value, oxm.field),
        Action::Move { src, dst, n_bits } => format!("move:{}->{}:{n_bits}", bits(src), bits(dst)),
        Action::Resubmit { table, .. } => format!("resubmit(,{table})"),
        Action::PopVlan => "pop_vlan".to_string(),
        Action::PushVlan(t) => format!("push_vlan:{t:#06x}"),
        Action::Clone(inner) => format!("clone({})", actions(inner)),
        Action::Learn(learn) => {
            let spec = |s: &LearnSpec| match s {
                LearnSpec::MatchField { src, dst, .. } => format!("{}={}", bits(dst), bits(src)),
                LearnSpec::LoadField { src, dst, .. } => format!("load:{}->{}", bits(src), bits(dst)),
                other => format!("{other:?}"),
            };
            let specs: Vec<String> = learn.specs.iter().map(spec).collect();
            format!(
                "learn(table={},idle_timeout={},{})",
                learn.table_id,
                learn.idle_timeout,
                specs.join(",")
            )
        }
        other => format!("{other:?}"),
    };
    list.iter().map(one).collect::<Vec<_>>().join(",")
}
