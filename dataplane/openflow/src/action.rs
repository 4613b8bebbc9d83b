//! Actions (OpenFlow 1.5 §7.2.6) and the Nicira extensions among them (Open vSwitch ovs-actions(7)).

use crate::error::{DecodeError, EncodeError};
use crate::field::Field;
use crate::learn::{Bits, Learn};
use crate::oxm::{Oxm, RawOxm};
use crate::port;
use crate::version::Version;
use crate::wire::{Reader, Writer, be_uint};

/// What is done with a packet. A packet no action puts anywhere is dropped.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Action {
    /// Send by a port.
    Output {
        /// Number of the output port, or a reserved one such as [`port::IN_PORT`].
        port: u32,
        /// Bytes of the packet sent along when the port is [`port::CONTROLLER`]; zero otherwise.
        max_len: u16,
    },
    /// Process by a group.
    Group(u32),
    /// Put into a queue of the output port.
    SetQueue(u32),
    /// Push a VLAN tag with this Ethernet type.
    PushVlan(u16),
    /// Pop the outer VLAN tag.
    PopVlan,
    /// Decrement the time to live or hop limit.
    DecTtl,
    /// Set a field, or the bits of it in the mask. Stands for OFPAT_SET_FIELD, NXAST_REG_LOAD and NXAST_REG_LOAD2
    /// alike.
    SetField(Oxm),
    /// Copy bits from field to field (NXAST_REG_MOVE in 1.4, OFPAT_COPY_FIELD in 1.5).
    Move {
        /// Lowest bit copied from.
        src: Bits,
        /// Lowest bit copied to.
        dst: Bits,
        /// Number of bits copied, from the lowest up.
        n_bits: u16,
    },
    /// Look up another table and come back (NXAST_RESUBMIT_TABLE).
    Resubmit {
        /// Look up as if from this port; `None` keeps the ingress port.
        in_port: Option<u32>,
        /// The table; 0xff is the current one.
        table: u8,
    },
    /// Do the actions on a copy; what they change is undone after (NXAST_CLONE).
    Clone(Vec<Action>),
    /// Add a flow made from the packet (NXAST_LEARN; with a limit NXAST_LEARN2).
    Learn(Box<Learn>),
    /// Apply a meter (1.5 only; in front of the others it is [`crate::Instruction::Meter`]).
    Meter(u32),
    /// An action this codec has no name for, sent on as it came.
    Unknown {
        /// Action type; 0xffff is an experimenter's.
        typ: u16,
        /// What follows type and length.
        bytes: Vec<u8>,
    },
}

impl Action {
    /// Send by `port`; to the controller, the whole packet.
    pub fn output(port: u32) -> Self {
        Action::Output {
            port,
            max_len: if port == port::CONTROLLER { 0xffff } else { 0 },
        }
    }

    /// Set all of `field`.
    ///
    /// # Panics
    /// When `value` has bits the field has not.
    pub fn set(field: Field, value: impl Into<u128>) -> Self {
        Action::SetField(Oxm::from_parts(field, value.into()))
    }

    /// Set the bits of `field` that are in `mask`.
    pub fn set_masked(field: Field, value: impl Into<u128>, mask: impl Into<u128>) -> Self {
        Action::SetField(Oxm::new(field, value.into(), Some(mask.into())))
    }

    /// Look up `table` and come back.
    pub fn resubmit(table: u8) -> Self {
        Action::Resubmit { in_port: None, table }
    }
}

/// How deep clones may hold clones before the rest is kept as bytes.
const MAX_DEPTH: u8 = 8;
/// Experimenter id of Nicira, whose extensions Open vSwitch speaks ("NX").
pub const NX_EXPERIMENTER: u32 = 0x2320;

mod typ {
    pub(super) const OUTPUT: u16 = 0;
    pub(super) const PUSH_VLAN: u16 = 17;
    pub(super) const POP_VLAN: u16 = 18;
    pub(super) const SET_QUEUE: u16 = 21;
    pub(super) const GROUP: u16 = 22;
    pub(super) const DEC_TTL: u16 = 24;
    pub(super) const SET_FIELD: u16 = 25;
    pub(super) const COPY_FIELD: u16 = 28;
    pub(super) const METER: u16 = 29;
    pub(super) const EXPERIMENTER: u16 = 0xffff;
}

mod nx {
    pub(super) const REG_MOVE: u16 = 6;
    pub(super) const REG_LOAD: u16 = 7;
    pub(super) const RESUBMIT_TABLE: u16 = 14;
    pub(super) const LEARN: u16 = 16;
    pub(super) const REG_LOAD2: u16 = 33;
    pub(super) const CLONE: u16 = 42;
    pub(super) const LEARN2: u16 = 45;
}

/// Reads actions until `r` is empty.
pub(crate) fn decode_list(r: Reader<'_>, version: Version) -> Result<Vec<Action>, DecodeError> {
    decode_nested(r, version, 0)
}

fn decode_nested(mut r: Reader<'_>, version: Version, depth: u8) -> Result<Vec<Action>, DecodeError> {
    let mut actions = Vec::new();
    while !r.is_empty() {
        let (typ, length) = (r.u16()?, usize::from(r.u16()?));
        let body = length
            .checked_sub(4)
            .filter(|_| length >= 8 && length.is_multiple_of(8));
        let body = r.take(body.ok_or(DecodeError::Length {
            what: "action",
            length,
        })?)?;
        // The frame of an action is trusted only as far as its length; content this codec cannot read is kept as
        // it is, so that a foreign flow never hides the others of a reply.
        let known = decode_body(typ, Reader::new(body, "action"), version, depth)
            .ok()
            .flatten();
        actions.push(known.unwrap_or_else(|| Action::Unknown {
            typ,
            bytes: body.to_vec(),
        }));
    }
    // A dump of many flows is held at once.
    actions.shrink_to_fit();
    Ok(actions)
}

fn decode_body(
    typ: u16,
    mut r: Reader<'_>,
    version: Version,
    depth: u8,
) -> Result<Option<Action>, DecodeError> {
    Ok(Some(match typ {
        typ::OUTPUT => {
            let (port, max_len) = (r.u32()?, r.u16()?);
            Action::Output {
                port,
                max_len: if port == port::CONTROLLER { max_len } else { 0 },
            }
        }
        typ::PUSH_VLAN => Action::PushVlan(r.u16()?),
        typ::POP_VLAN => Action::PopVlan,
        typ::SET_QUEUE => Action::SetQueue(r.u32()?),
        typ::GROUP => Action::Group(r.u32()?),
        typ::DEC_TTL => Action::DecTtl,
        typ::SET_FIELD => return set_field(&mut r),
        typ::COPY_FIELD if version == Version::V1_5 => {
            let (n_bits, src, dst) = (r.u16()?, r.u16()?, r.u16()?);
            r.skip(2)?;
            move_fields(&mut r, n_bits, src, dst)?
        }
        typ::METER if version == Version::V1_5 => Action::Meter(r.u32()?),
        typ::EXPERIMENTER if r.u32()? == NX_EXPERIMENTER => return decode_nx(&mut r, version, depth),
        _ => return Ok(None),
    }))
}

fn decode_nx(r: &mut Reader<'_>, version: Version, depth: u8) -> Result<Option<Action>, DecodeError> {
    Ok(Some(match r.u16()? {
        nx::REG_MOVE => {
            let (n_bits, src, dst) = (r.u16()?, r.u16()?, r.u16()?);
            move_fields(r, n_bits, src, dst)?
        }
        nx::REG_LOAD => return reg_load(r),
        nx::REG_LOAD2 => return set_field(r),
        nx::RESUBMIT_TABLE => {
            let in_port = port::widen(r.u16()?);
            Action::Resubmit {
                in_port: (in_port != port::IN_PORT).then_some(in_port),
                table: r.u8()?,
            }
        }
        nx::LEARN => return Ok(Learn::decode(r, false)?.map(|l| Action::Learn(Box::new(l)))),
        nx::LEARN2 => return Ok(Learn::decode(r, true)?.map(|l| Action::Learn(Box::new(l)))),
        nx::CLONE if depth < MAX_DEPTH => {
            r.skip(6)?;
            let nested = Reader::new(r.remainder(), "clone");
            Action::Clone(decode_nested(nested, version, depth.saturating_add(1))?)
        }
        _ => return Ok(None),
    }))
}

fn set_field(r: &mut Reader<'_>) -> Result<Option<Action>, DecodeError> {
    Ok(RawOxm::read(r)?.to_oxm().map(Action::SetField))
}

fn move_fields(r: &mut Reader<'_>, n_bits: u16, src: u16, dst: u16) -> Result<Action, DecodeError> {
    let (from, _) = Field::read_header(r)?;
    let (to, _) = Field::read_header(r)?;
    Ok(Action::Move {
        src: Bits::at(from, src),
        dst: Bits::at(to, dst),
        n_bits,
    })
}

/// `ofs_nbits` is offset times 64 plus the number of bits less one.
fn reg_load(r: &mut Reader<'_>) -> Result<Option<Action>, DecodeError> {
    let ofs_nbits = r.u16()?;
    let (field, _) = Field::read_header(r)?;
    let value = be_uint(&r.array::<8>()?);
    let (offset, n_bits) = (
        u32::from(ofs_nbits >> 6),
        u32::from(ofs_nbits & 0x3f).saturating_add(1),
    );
    if offset.saturating_add(n_bits) > u32::from(field.width_bits()) || !field.fits() {
        return Ok(None);
    }
    let mask = ((1_u128 << n_bits) - 1) << offset;
    Ok(Some(Action::SetField(Oxm::new(
        field,
        value << offset,
        Some(mask),
    ))))
}

/// Writes actions one after the other.
pub(crate) fn encode_list(
    actions: &[Action],
    w: &mut Writer<'_>,
    version: Version,
) -> Result<(), EncodeError> {
    encode_nested(actions, w, version, 0)
}

fn encode_nested(
    actions: &[Action],
    w: &mut Writer<'_>,
    version: Version,
    depth: u8,
) -> Result<(), EncodeError> {
    actions
        .iter()
        .try_for_each(|action| encode_one(action, w, version, depth))
}

fn encode_one(action: &Action, w: &mut Writer<'_>, version: Version, depth: u8) -> Result<(), EncodeError> {
    let start = w.len();
    w.u16(wire_type(action, version));
    let mark = w.open(start);
    match action {
        Action::Output { port, max_len } => {
            w.u32(*port);
            w.u16(if *port == port::CONTROLLER { *max_len } else { 0 });
        }
        Action::Group(id) | Action::SetQueue(id) => w.u32(*id),
        Action::PushVlan(ethertype) => w.u16(*ethertype),
        Action::PopVlan | Action::DecTtl => {}
        Action::SetField(oxm) => encode_set_field(oxm, w, version)?,
        Action::Move { src, dst, n_bits } => encode_move(*src, *dst, *n_bits, w, version)?,
        Action::Resubmit { in_port, table } => encode_resubmit(*in_port, *table, w)?,
        Action::Clone(nested) => encode_clone(nested, w, version, depth)?,
        Action::Learn(learn) => {
            put_nx(w, if learn.limit > 0 { nx::LEARN2 } else { nx::LEARN });
            learn.encode(w)?;
        }
        Action::Meter(id) if version == Version::V1_5 => w.u32(*id),
        Action::Meter(_) => {
            return Err(EncodeError::NotExpressible {
                what: "a meter action",
                version,
                hint: "use the meter instruction",
            });
        }
        Action::Unknown { bytes, .. } => w.bytes(bytes),
    }
    w.pad8_from(start);
    w.close(mark, "action")
}

fn wire_type(action: &Action, version: Version) -> u16 {
    match action {
        Action::Output { .. } => typ::OUTPUT,
        Action::Group(_) => typ::GROUP,
        Action::SetQueue(_) => typ::SET_QUEUE,
        Action::PushVlan(_) => typ::PUSH_VLAN,
        Action::PopVlan => typ::POP_VLAN,
        Action::DecTtl => typ::DEC_TTL,
        Action::SetField(oxm) if version == Version::V1_4 && oxm.canonical().mask.is_some() => {
            typ::EXPERIMENTER
        }
        Action::SetField(_) => typ::SET_FIELD,
        Action::Move { .. } if version == Version::V1_5 => typ::COPY_FIELD,
        Action::Move { .. } | Action::Resubmit { .. } | Action::Clone(_) | Action::Learn(_) => {
            typ::EXPERIMENTER
        }
        Action::Meter(_) => typ::METER,
        Action::Unknown { typ, .. } => *typ,
    }
}

fn put_nx(w: &mut Writer<'_>, subtype: u16) {
    w.u32(NX_EXPERIMENTER);
    w.u16(subtype);
}

/// OpenFlow 1.4 has no masked set-field: NXAST_REG_LOAD2 says it there.
fn encode_set_field(oxm: &Oxm, w: &mut Writer<'_>, version: Version) -> Result<(), EncodeError> {
    if version == Version::V1_4 && oxm.canonical().mask.is_some() {
        put_nx(w, nx::REG_LOAD2);
    }
    oxm.encode(w)
}

fn encode_move(
    src: Bits,
    dst: Bits,
    n_bits: u16,
    w: &mut Writer<'_>,
    version: Version,
) -> Result<(), EncodeError> {
    if version == Version::V1_4 {
        put_nx(w, nx::REG_MOVE);
    }
    w.u16(n_bits);
    w.u16(src.offset);
    w.u16(dst.offset);
    if version == Version::V1_5 {
        w.zeros(2);
    }
    src.field.put_header(w, false)?;
    dst.field.put_header(w, false)
}

fn encode_resubmit(in_port: Option<u32>, table: u8, w: &mut Writer<'_>) -> Result<(), EncodeError> {
    let wide = in_port.unwrap_or(port::IN_PORT);
    let narrow = port::narrow(wide);
    put_nx(w, nx::RESUBMIT_TABLE);
    w.u16(narrow.ok_or(EncodeError::Range {
        what: "16-bit port of a resubmit",
        value: u128::from(wide),
    })?);
    w.u8(table);
    Ok(())
}

fn encode_clone(
    nested: &[Action],
    w: &mut Writer<'_>,
    version: Version,
    depth: u8,
) -> Result<(), EncodeError> {
    if depth >= MAX_DEPTH {
        return Err(EncodeError::NotExpressible {
            what: "a deeper clone",
            version,
            hint: "nest at most 8 clones",
        });
    }
    put_nx(w, nx::CLONE);
    w.zeros(6);
    encode_nested(nested, w, version, depth.saturating_add(1))
}
