//! NXAST_LEARN and NXAST_LEARN2: a flow that adds flows (Open vSwitch ovs-actions(7), "learn").

use crate::error::{DecodeError, EncodeError};
use crate::field::Field;
use crate::wire::{Reader, Writer};

/// Adds or modifies a flow made from the packet at hand.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Learn {
    /// Idle timeout of the learned flow in seconds, 0 for none.
    pub idle_timeout: u16,
    /// Hard timeout of the learned flow in seconds, 0 for none.
    pub hard_timeout: u16,
    /// Priority of the learned flow.
    pub priority: u16,
    /// Cookie of the learned flow.
    pub cookie: u64,
    /// Bits [`Learn::SEND_FLOW_REM`] and [`Learn::DELETE_LEARNED`], or 0.
    pub flags: u16,
    /// Table of the learned flow.
    pub table_id: u8,
    /// Idle timeout once a FIN or RST is seen, in seconds, 0 for none.
    pub fin_idle: u16,
    /// Hard timeout once a FIN or RST is seen, in seconds, 0 for none.
    pub fin_hard: u16,
    /// Most flows of the table with this cookie, 0 for no limit. A limit is sent as NXAST_LEARN2.
    pub limit: u32,
    /// What the learned flow matches and does.
    pub specs: Vec<LearnSpec>,
}

impl Learn {
    /// The learned flow reports its removal.
    pub const SEND_FLOW_REM: u16 = 1;
    /// Learned flows go when the learning flow goes.
    pub const DELETE_LEARNED: u16 = 2;
}

/// Bits of a field, counted from its lowest one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[allow(missing_docs, reason = "the type of `field` says it")]
pub struct Bits {
    pub field: Field,
    /// Lowest bit, where 0 is the field's least significant.
    pub offset: u16,
}

impl Bits {
    /// From the lowest bit of `field` up.
    pub const fn from_field(field: Field) -> Self {
        Bits { field, offset: 0 }
    }

    /// From bit `offset` of `field` up.
    pub const fn at(field: Field, offset: u16) -> Self {
        Bits { field, offset }
    }
}

/// One part of a learned flow. `n_bits` is how many bits it is about, at most 128 for an immediate value.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum LearnSpec {
    /// Match bits of a field against what the packet has in `src`.
    MatchField {
        /// Bits of the packet.
        src: Bits,
        /// Bits the learned flow matches.
        dst: Bits,
        /// Width of both, in bits.
        n_bits: u16,
    },
    /// Match bits of a field against a constant.
    MatchValue {
        /// The constant, right-aligned in `n_bits`.
        value: u128,
        /// Bits the learned flow matches.
        dst: Bits,
        /// Width of both, in bits.
        n_bits: u16,
    },
    /// Action: load what the packet now has in `src`.
    LoadField {
        /// Bits of the packet.
        src: Bits,
        /// Bits the learned flow writes.
        dst: Bits,
        /// Width of both, in bits.
        n_bits: u16,
    },
    /// Action: load a constant.
    LoadValue {
        /// The constant, right-aligned in `n_bits`.
        value: u128,
        /// Bits the learned flow writes.
        dst: Bits,
        /// Width of both, in bits.
        n_bits: u16,
    },
    /// Action: output to the port the packet now has in `src`.
    OutputField {
        /// Bits of the packet.
        src: Bits,
        /// Width of the port number, in bits.
        n_bits: u16,
    },
}

/// Header bits: source is a constant.
const SRC_VALUE: u16 = 1 << 13;
/// Header bits: destination is a load action.
const DST_LOAD: u16 = 1 << 11;
/// Header bits: destination is an output action.
const DST_OUTPUT: u16 = 2 << 11;
/// Header bits that count bits.
const N_BITS: u16 = 0x3ff;

impl LearnSpec {
    fn decode(header: u16, r: &mut Reader<'_>) -> Result<Option<Self>, DecodeError> {
        let n_bits = header & N_BITS;
        Ok(match header & !N_BITS {
            _ if n_bits == 0 => None,
            0 => Some(LearnSpec::MatchField {
                src: bits(r)?,
                dst: bits(r)?,
                n_bits,
            }),
            DST_LOAD => Some(LearnSpec::LoadField {
                src: bits(r)?,
                dst: bits(r)?,
                n_bits,
            }),
            DST_OUTPUT => Some(LearnSpec::OutputField {
                src: bits(r)?,
                n_bits,
            }),
            _ if n_bits > 128 => None,
            SRC_VALUE => Some(LearnSpec::MatchValue {
                value: value(r, n_bits)?,
                dst: bits(r)?,
                n_bits,
            }),
            load if load == SRC_VALUE | DST_LOAD => Some(LearnSpec::LoadValue {
                value: value(r, n_bits)?,
                dst: bits(r)?,
                n_bits,
            }),
            _ => None,
        })
    }

    fn encode(&self, w: &mut Writer<'_>) -> Result<(), EncodeError> {
        match *self {
            LearnSpec::MatchField { src, dst, n_bits } => {
                put_head(w, 0, n_bits)?;
                put_bits(w, src)?;
                put_bits(w, dst)
            }
            LearnSpec::MatchValue { value, dst, n_bits } => {
                put_head(w, SRC_VALUE, n_bits)?;
                put_value(w, value, n_bits)?;
                put_bits(w, dst)
            }
            LearnSpec::LoadField { src, dst, n_bits } => {
                put_head(w, DST_LOAD, n_bits)?;
                put_bits(w, src)?;
                put_bits(w, dst)
            }
            LearnSpec::LoadValue { value, dst, n_bits } => {
                put_head(w, SRC_VALUE | DST_LOAD, n_bits)?;
                put_value(w, value, n_bits)?;
                put_bits(w, dst)
            }
            LearnSpec::OutputField { src, n_bits } => {
                put_head(w, DST_OUTPUT, n_bits)?;
                put_bits(w, src)
            }
        }
    }
}

fn bits(r: &mut Reader<'_>) -> Result<Bits, DecodeError> {
    let (field, _) = Field::read_header(r)?;
    if field.is_experimenter() {
        return Err(DecodeError::Value {
            what: "field of a learn spec",
            value: u64::from(u16::MAX),
        });
    }
    Ok(Bits {
        field,
        offset: r.u16()?,
    })
}

/// A constant takes an even number of bytes; padding is in front. Bits above `n_bits` do not count.
fn value(r: &mut Reader<'_>, n_bits: u16) -> Result<u128, DecodeError> {
    let raw = r.uint(value_bytes(n_bits))?;
    Ok(if n_bits >= 128 {
        raw
    } else {
        raw & ((1 << n_bits) - 1)
    })
}

fn value_bytes(n_bits: u16) -> usize {
    usize::from(n_bits.div_ceil(16)).saturating_mul(2)
}

/// A header of zero would be read as padding, so zero bits cannot be sent.
fn put_head(w: &mut Writer<'_>, kind: u16, n_bits: u16) -> Result<(), EncodeError> {
    if n_bits == 0 || n_bits > N_BITS {
        return Err(EncodeError::Range {
            what: "number of bits of a learn spec",
            value: u128::from(n_bits),
        });
    }
    w.u16(kind | n_bits);
    Ok(())
}

fn put_value(w: &mut Writer<'_>, value: u128, n_bits: u16) -> Result<(), EncodeError> {
    if n_bits > 128 || (n_bits < 128 && value >> n_bits != 0) {
        return Err(EncodeError::Range {
            what: "constant of a learn spec",
            value,
        });
    }
    w.uint(value, value_bytes(n_bits));
    Ok(())
}

fn put_bits(w: &mut Writer<'_>, bits: Bits) -> Result<(), EncodeError> {
    if bits.field.is_experimenter() {
        return Err(EncodeError::Range {
            what: "four-byte field header of a learn spec",
            value: u128::from(u32::MAX),
        });
    }
    bits.field.put_header(w, false)?;
    w.u16(bits.offset);
    Ok(())
}

impl Learn {
    /// The learned flow's number is compared with the limit, and the answer is written to a field.
    const WRITE_RESULT: u16 = 4;

    /// Reads what follows the subtype; `None` when it says something this type cannot hold. `limited`: NXAST_LEARN2.
    pub(crate) fn decode(r: &mut Reader<'_>, limited: bool) -> Result<Option<Self>, DecodeError> {
        let (idle_timeout, hard_timeout, priority) = (r.u16()?, r.u16()?, r.u16()?);
        let cookie = r.u64()?;
        let (flags, table_id) = (r.u16()?, r.u8()?);
        r.skip(1)?;
        let (fin_idle, fin_hard) = (r.u16()?, r.u16()?);
        let mut limit = 0;
        if limited {
            limit = r.u32()?;
            r.skip(4)?;
            if flags & Self::WRITE_RESULT != 0 {
                return Ok(None);
            }
        }
        let mut specs = Vec::new();
        while r.len() >= 2 {
            let header = r.u16()?;
            if header == 0 {
                break;
            }
            match LearnSpec::decode(header, r)? {
                Some(spec) => specs.push(spec),
                None => return Ok(None),
            }
        }
        Ok(Some(Learn {
            idle_timeout,
            hard_timeout,
            priority,
            cookie,
            flags,
            table_id,
            fin_idle,
            fin_hard,
            limit,
            specs,
        }))
    }

    pub(crate) fn encode(&self, w: &mut Writer<'_>) -> Result<(), EncodeError> {
        w.u16(self.idle_timeout);
        w.u16(self.hard_timeout);
        w.u16(self.priority);
        w.u64(self.cookie);
        w.u16(self.flags);
        w.u8(self.table_id);
        w.zeros(1);
        w.u16(self.fin_idle);
        w.u16(self.fin_hard);
        if self.limit > 0 {
            w.u32(self.limit);
            w.zeros(4);
        }
        self.specs.iter().try_for_each(|spec| spec.encode(w))
    }
}
