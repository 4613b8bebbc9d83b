//! Instructions: what a flow does with a packet it matches (OpenFlow 1.5 §7.2.5).

use crate::action::{self, Action};
use crate::error::{DecodeError, EncodeError};
use crate::version::Version;
use crate::wire::{Reader, Writer};

/// One instruction of a flow.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Instruction {
    /// Apply a meter first. In 1.5 it is sent as the first applied action.
    Meter(u32),
    /// Do these actions now.
    ApplyActions(Vec<Action>),
    /// Empty the action set.
    ClearActions,
    /// Merge into the action set.
    WriteActions(Vec<Action>),
    /// Set bits of the metadata.
    WriteMetadata {
        /// New values of the bits in `mask`.
        value: u64,
        /// Bits that are written; others keep their value.
        mask: u64,
    },
    /// Continue in a later table.
    GotoTable(u8),
    /// An instruction this codec has no name for, sent on as it came.
    Unknown {
        /// Instruction type (OFPIT_*); 0xffff is an experimenter's.
        typ: u16,
        /// What follows type and length.
        bytes: Vec<u8>,
    },
}

mod typ {
    pub(super) const GOTO_TABLE: u16 = 1;
    pub(super) const WRITE_METADATA: u16 = 2;
    pub(super) const WRITE_ACTIONS: u16 = 3;
    pub(super) const APPLY_ACTIONS: u16 = 4;
    pub(super) const CLEAR_ACTIONS: u16 = 5;
    pub(super) const METER: u16 = 6;
}

impl Instruction {
    /// Place in the order a switch executes instructions in, whatever order they are sent in.
    fn rank(&self) -> u8 {
        match self {
            Instruction::Meter(_) => 0,
            Instruction::ApplyActions(_) => 1,
            Instruction::ClearActions => 2,
            Instruction::WriteActions(_) => 3,
            Instruction::WriteMetadata { .. } => 4,
            Instruction::GotoTable(_) => 5,
            Instruction::Unknown { .. } => 6,
        }
    }
}

/// The form in which equal behaviour is equal: in execution order, and without empty action lists. Decoded
/// instructions have it.
pub fn canonical(mut instructions: Vec<Instruction>) -> Vec<Instruction> {
    instructions.retain(|i| match i {
        Instruction::ApplyActions(list) | Instruction::WriteActions(list) => !list.is_empty(),
        _ => true,
    });
    instructions.sort_by_key(Instruction::rank);
    instructions
}

/// Reads instructions until `r` is empty, into canonical form.
pub(crate) fn decode_list(mut r: Reader<'_>, version: Version) -> Result<Vec<Instruction>, DecodeError> {
    let mut list = Vec::new();
    while !r.is_empty() {
        let (typ, length) = (r.u16()?, usize::from(r.u16()?));
        let body = length
            .checked_sub(4)
            .filter(|_| length >= 8 && length.is_multiple_of(8));
        let body = r.sub(
            body.ok_or(DecodeError::Length {
                what: "instruction",
                length,
            })?,
            "instruction",
        )?;
        decode_one(typ, body, version, &mut list)?;
    }
    let mut list = canonical(list);
    list.shrink_to_fit();
    Ok(list)
}

fn decode_one(
    typ: u16,
    mut r: Reader<'_>,
    version: Version,
    list: &mut Vec<Instruction>,
) -> Result<(), DecodeError> {
    let instruction = match typ {
        typ::GOTO_TABLE => Instruction::GotoTable(r.u8()?),
        typ::WRITE_METADATA => {
            r.skip(4)?;
            Instruction::WriteMetadata {
                value: r.u64()?,
                mask: r.u64()?,
            }
        }
        typ::WRITE_ACTIONS => Instruction::WriteActions(actions(r, version)?),
        typ::APPLY_ACTIONS => {
            let mut actions = actions(r, version)?;
            if let Some(Action::Meter(id)) = actions.first() {
                list.push(Instruction::Meter(*id));
                actions.remove(0);
            }
            Instruction::ApplyActions(actions)
        }
        typ::CLEAR_ACTIONS => Instruction::ClearActions,
        typ::METER if version == Version::V1_4 => Instruction::Meter(r.u32()?),
        _ => Instruction::Unknown {
            typ,
            bytes: r.remainder().to_vec(),
        },
    };
    list.push(instruction);
    Ok(())
}

fn actions(mut r: Reader<'_>, version: Version) -> Result<Vec<Action>, DecodeError> {
    r.skip(4)?;
    action::decode_list(r, version)
}

/// Writes instructions one after the other.
pub(crate) fn encode_list(
    list: &[Instruction],
    w: &mut Writer<'_>,
    version: Version,
) -> Result<(), EncodeError> {
    let meter = list.iter().find_map(|i| match i {
        Instruction::Meter(id) if version == Version::V1_5 => Some(*id),
        _ => None,
    });
    let applies = list.iter().any(|i| matches!(i, Instruction::ApplyActions(_)));
    if let (Some(id), false) = (meter, applies) {
        encode_actions(typ::APPLY_ACTIONS, Some(id), &[], w, version)?;
    }
    list.iter()
        .try_for_each(|instruction| encode_one(instruction, meter, w, version))
}

fn encode_one(
    instruction: &Instruction,
    meter: Option<u32>,
    w: &mut Writer<'_>,
    version: Version,
) -> Result<(), EncodeError> {
    match instruction {
        Instruction::ApplyActions(list) => {
            return encode_actions(typ::APPLY_ACTIONS, meter, list, w, version);
        }
        Instruction::WriteActions(list) => return encode_actions(typ::WRITE_ACTIONS, None, list, w, version),
        Instruction::Meter(_) if version == Version::V1_5 => return Ok(()),
        _ => {}
    }
    let start = w.len();
    w.u16(match instruction {
        Instruction::GotoTable(_) => typ::GOTO_TABLE,
        Instruction::WriteMetadata { .. } => typ::WRITE_METADATA,
        Instruction::Meter(_) => typ::METER,
        Instruction::Unknown { typ, .. } => *typ,
        Instruction::ClearActions | Instruction::ApplyActions(_) | Instruction::WriteActions(_) => {
            typ::CLEAR_ACTIONS
        }
    });
    let mark = w.open(start);
    match instruction {
        Instruction::GotoTable(table) => w.u8(*table),
        Instruction::WriteMetadata { value, mask } => {
            w.zeros(4);
            w.u64(*value);
            w.u64(*mask);
        }
        Instruction::Meter(id) => w.u32(*id),
        Instruction::Unknown { bytes, .. } => w.bytes(bytes),
        _ => w.zeros(4),
    }
    w.pad8_from(start);
    w.close(mark, "instruction")
}

fn encode_actions(
    typ: u16,
    meter: Option<u32>,
    list: &[Action],
    w: &mut Writer<'_>,
    version: Version,
) -> Result<(), EncodeError> {
    let start = w.len();
    w.u16(typ);
    let mark = w.open(start);
    w.zeros(4);
    if let Some(id) = meter {
        action::encode_list(&[Action::Meter(id)], w, version)?;
    }
    action::encode_list(list, w, version)?;
    w.close(mark, "instruction")
}
