//! Which rows a packet meets: the pipeline as the switch runs it, over the rows that are installed.

use std::collections::{BTreeMap, HashMap};

use portcullis_openflow::{Action, Bits, Field, Instruction, port};

use crate::flow::FlowKey;
use crate::tables::Pipeline;

/// Look-ups of one packet, beyond which Open vSwitch gives up as well (`MAX_RESUBMITS`, ofproto-dpif-xlate.c).
const MAX_LOOKUPS: usize = 4096;
/// Look-ups inside look-ups, likewise (`MAX_DEPTH`).
const MAX_DEPTH: usize = 64;
/// Bit of `vlan_vid` that says that there is a tag.
const TAG_PRESENT: u128 = 0x1000;

/// A packet as rows see it. Fields that are not set are zero, as Open vSwitch has them.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Header {
    fields: BTreeMap<Field, u128>,
    /// Tag control information of the VLAN tags, the outermost first.
    tags: Vec<u16>,
}

impl Header {
    pub(crate) fn set(&mut self, field: Field, value: u128) {
        self.fields.insert(field, value & field.full_mask());
    }

    /// A tag inside those that are there.
    pub(crate) fn add_tag(&mut self, tci: u16) {
        self.tags.push(tci);
    }

    /// How many tags there are.
    pub(crate) fn tags(&self) -> usize {
        self.tags.len()
    }

    pub(crate) fn get(&self, field: Field) -> u128 {
        let outer = self.tags.first().copied();
        match (field, outer) {
            (Field::VlanVid, Some(tci)) => u128::from(tci & 0x0fff) | TAG_PRESENT,
            (Field::VlanPcp, Some(tci)) => u128::from(tci >> 13),
            (Field::VlanVid | Field::VlanPcp, None) => 0,
            _ => self.fields.get(&field).copied().unwrap_or(0),
        }
    }

    fn write(&mut self, field: Field, value: u128, mask: u128) {
        let new = (self.get(field) & !mask) | (value & mask);
        match (field, self.tags.first_mut()) {
            (Field::VlanVid, Some(tci)) => *tci = (*tci & 0xf000) | u16::try_from(new & 0x0fff).unwrap_or(0),
            // Without a tag there is nothing to write: the pipeline pushes one first.
            (Field::VlanVid | Field::VlanPcp, _) => {}
            _ => self.set(field, new),
        }
    }

    fn copy(&mut self, src: Bits, dst: Bits, bits: u16) {
        let mask = match bits {
            128.. => u128::MAX,
            bits => (1_u128 << bits) - 1,
        };
        let value = (self.get(src.field) >> src.offset) & mask;
        self.write(dst.field, value << dst.offset, mask << dst.offset);
    }
}

/// Fields and bits that rows of one kind ask for.
type Shape = Vec<(Field, u128)>;

#[derive(Debug, Clone)]
struct Candidate<'a> {
    key: FlowKey,
    instructions: &'a [Instruction],
}

/// The rows of one table, by the fields that they ask for: tuple space search, as the switch itself does it.
#[derive(Debug, Default)]
struct Rows<'a> {
    by_shape: HashMap<Shape, HashMap<Vec<u128>, Candidate<'a>>>,
}

impl<'a> Rows<'a> {
    fn add(&mut self, key: FlowKey, instructions: &'a [Instruction]) {
        let parts = || key.0.matching.iter();
        let shape: Shape = parts()
            .map(|oxm| (oxm.field, oxm.mask.unwrap_or(oxm.field.full_mask())))
            .collect();
        let values: Vec<u128> = parts().map(|oxm| oxm.value).collect();
        let among = self.by_shape.entry(shape).or_default();
        match among.get_mut(&values) {
            Some(known) if known.key.0.priority >= key.0.priority => {}
            Some(known) => *known = Candidate { key, instructions },
            None => {
                among.insert(values, Candidate { key, instructions });
            }
        }
    }

    fn best(&self, header: &Header) -> Option<&Candidate<'a>> {
        let candidates = self.by_shape.iter().filter_map(|(shape, rows)| {
            let values: Vec<u128> = shape
                .iter()
                .map(|(field, mask)| header.get(*field) & mask)
                .collect();
            rows.get(&values)
        });
        candidates.max_by_key(|candidate| candidate.key.0.priority)
    }
}

/// The rows of the pipeline, to look packets up in.
pub(crate) struct Tables<'a> {
    tables: BTreeMap<u8, Rows<'a>>,
    first: u8,
}

/// What a packet met.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Walk {
    /// The rows in the order of the look-ups, and whether each drops.
    pub(crate) rows: Vec<(FlowKey, bool)>,
    /// Ports that it is sent by.
    pub(crate) outputs: Vec<u32>,
    /// Whether that is all: no foreign table, no forwarding by the bridge itself, no end of the look-ups.
    pub(crate) whole: bool,
}

impl<'a> Tables<'a> {
    pub(crate) fn new(
        rows: impl Iterator<Item = (FlowKey, &'a [Instruction])>,
        pipeline: &Pipeline,
    ) -> Tables<'a> {
        let mut tables: BTreeMap<u8, Rows<'a>> = BTreeMap::new();
        for (key, instructions) in rows {
            let number = pipeline.number(key.0.table);
            tables.entry(number).or_default().add(key, instructions);
        }
        Tables {
            tables,
            first: pipeline.first,
        }
    }

    /// Sends a packet through.
    pub(crate) fn walk(&self, mut header: Header) -> Walk {
        let mut walk = Walk {
            rows: Vec::new(),
            outputs: Vec::new(),
            whole: true,
        };
        self.look_up(self.first, &mut header, &mut walk, 0);
        walk
    }

    fn look_up(&self, first: u8, header: &mut Header, walk: &mut Walk, depth: usize) {
        let mut next = Some(first);
        while let Some(number) = next.take() {
            if walk.rows.len() >= MAX_LOOKUPS || depth > MAX_DEPTH {
                walk.whole = false;
                return;
            }
            let Some(table) = self.tables.get(&number) else {
                walk.whole = false;
                return;
            };
            // No row: a look-up on the side comes back without a result, and a packet is dropped.
            let Some(row) = table.best(header) else { return };
            walk.rows.push((row.key.clone(), row.instructions.is_empty()));
            for instruction in row.instructions {
                match instruction {
                    Instruction::ApplyActions(actions) => self.apply(actions, header, walk, depth),
                    Instruction::GotoTable(number) => next = Some(*number),
                    _ => walk.whole = false,
                }
            }
        }
    }

    fn apply(&self, actions: &[Action], header: &mut Header, walk: &mut Walk, depth: usize) {
        for action in actions {
            match action {
                Action::SetField(oxm) => {
                    header.write(oxm.field, oxm.value, oxm.mask.unwrap_or(oxm.field.full_mask()));
                }
                _ if !walk.whole => return,
                Action::Move { src, dst, n_bits } => header.copy(*src, *dst, *n_bits),
                Action::PushVlan(_) => header.tags.insert(0, 0),
                Action::PopVlan if header.tags.is_empty() => {}
                Action::PopVlan => drop(header.tags.remove(0)),
                Action::Resubmit { table, .. } => self.look_up(*table, header, walk, depth + 1),
                Action::Clone(actions) => self.apply(actions, &mut header.clone(), walk, depth),
                Action::Learn(_) => {}
                Action::Output { port, .. } if *port < port::MAX || *port == port::LOCAL => {
                    walk.outputs.push(*port);
                }
                _ => walk.whole = false,
            }
        }
    }
}
