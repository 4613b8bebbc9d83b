//! Flows and tables as the switch reports them (OpenFlow 1.4 §7.3.5.2, 1.5 §7.3.5.2).

use crate::error::{DecodeError, EncodeError};
use crate::flow_mod::{ALL_TABLES, ANY_GROUP};
use crate::instruction::{self, Instruction};
use crate::matches::Match;
use crate::oxs::Oxs;
use crate::port;
use crate::version::Version;
use crate::wire::{Reader, Writer};

/// Asks for flows. The default asks for all of them.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct FlowStatsRequest {
    /// The table, or [`ALL_TABLES`].
    pub table_id: u8,
    /// Only flows that output there, unless [`port::ANY`].
    pub out_port: u32,
    /// Only flows that use this group, unless [`ANY_GROUP`].
    pub out_group: u32,
    /// The cookie looked for.
    pub cookie: u64,
    /// Bits of the cookie that must agree; 0 takes any cookie.
    pub cookie_mask: u64,
    /// Only flows this match covers.
    pub match_: Match,
}

impl Default for FlowStatsRequest {
    fn default() -> Self {
        FlowStatsRequest {
            table_id: ALL_TABLES,
            out_port: port::ANY,
            out_group: ANY_GROUP,
            cookie: 0,
            cookie_mask: 0,
            match_: Match::new(),
        }
    }
}

impl FlowStatsRequest {
    pub(crate) fn decode(r: &mut Reader<'_>) -> Result<Self, DecodeError> {
        let table_id = r.u8()?;
        r.skip(3)?;
        let (out_port, out_group) = (r.u32()?, r.u32()?);
        r.skip(4)?;
        let (cookie, cookie_mask) = (r.u64()?, r.u64()?);
        Ok(FlowStatsRequest {
            table_id,
            out_port,
            out_group,
            cookie,
            cookie_mask,
            match_: Match::decode(r)?,
        })
    }

    pub(crate) fn encode(&self, w: &mut Writer<'_>) -> Result<(), EncodeError> {
        w.u8(self.table_id);
        w.zeros(3);
        w.u32(self.out_port);
        w.u32(self.out_group);
        w.zeros(4);
        w.u64(self.cookie);
        w.u64(self.cookie_mask);
        self.match_.encode(w)
    }
}

/// One flow of the switch.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Default)]
pub struct FlowStats {
    /// Table the flow is in.
    pub table_id: u8,
    /// Priority; the highest of the matching flows wins.
    pub priority: u16,
    /// Its idle timeout in seconds, 0 for none.
    pub idle_timeout: u16,
    /// Its hard timeout in seconds, 0 for none.
    pub hard_timeout: u16,
    /// Its flags; compare only those in [`crate::flow_mod::flags::STATE`].
    pub flags: u16,
    /// Importance; flows of lower importance are evicted first.
    pub importance: u16,
    /// Cookie the flow was added with.
    pub cookie: u64,
    /// Its age in seconds.
    pub duration_sec: u32,
    /// Nanoseconds to add to `duration_sec`.
    pub duration_nsec: u32,
    /// Seconds since its last packet; 1.5 only.
    pub idle_secs: Option<u32>,
    /// Packets it matched; 0 when the switch doesn't know.
    pub packet_count: u64,
    /// Bytes of those packets; 0 when the switch doesn't know.
    pub byte_count: u64,
    /// Packets the flow applies to, canonical.
    pub match_: Match,
    /// Instructions in canonical form, so that they compare with those sent.
    pub instructions: Vec<Instruction>,
}

impl FlowStats {
    pub(crate) fn decode(r: &mut Reader<'_>, version: Version) -> Result<Self, DecodeError> {
        let length = usize::from(r.u16()?);
        let body = length.checked_sub(2).ok_or(DecodeError::Length {
            what: "flow entry",
            length,
        })?;
        let body = r.sub(body, "flow entry")?;
        match version {
            Version::V1_4 => Self::decode_v4(body),
            Version::V1_5 => Self::decode_v5(body),
        }
    }

    fn decode_v4(mut r: Reader<'_>) -> Result<Self, DecodeError> {
        let table_id = r.u8()?;
        r.skip(1)?;
        let (duration_sec, duration_nsec) = (r.u32()?, r.u32()?);
        let (priority, idle_timeout, hard_timeout) = (r.u16()?, r.u16()?, r.u16()?);
        let (flags, importance) = (r.u16()?, r.u16()?);
        r.skip(2)?;
        Ok(FlowStats {
            table_id,
            priority,
            idle_timeout,
            hard_timeout,
            flags,
            importance,
            duration_sec,
            duration_nsec,
            idle_secs: None,
            cookie: r.u64()?,
            packet_count: r.u64()?,
            byte_count: r.u64()?,
            match_: Match::decode(&mut r)?,
            instructions: instruction::decode_list(r, Version::V1_4)?,
        })
    }

    fn decode_v5(mut r: Reader<'_>) -> Result<Self, DecodeError> {
        r.skip(2)?;
        let table_id = r.u8()?;
        r.skip(1)?;
        let (priority, idle_timeout, hard_timeout) = (r.u16()?, r.u16()?, r.u16()?);
        let (flags, importance, cookie) = (r.u16()?, r.u16()?, r.u64()?);
        let match_ = Match::decode(&mut r)?;
        let oxs = Oxs::decode(&mut r)?;
        Ok(FlowStats {
            table_id,
            priority,
            idle_timeout,
            hard_timeout,
            flags,
            importance,
            cookie,
            duration_sec: oxs.duration_sec,
            duration_nsec: oxs.duration_nsec,
            idle_secs: oxs.idle_secs,
            packet_count: oxs.packet_count,
            byte_count: oxs.byte_count,
            match_,
            instructions: instruction::decode_list(r, Version::V1_5)?,
        })
    }

    pub(crate) fn encode(&self, w: &mut Writer<'_>, version: Version) -> Result<(), EncodeError> {
        let start = w.len();
        let mark = w.open(start);
        match version {
            Version::V1_4 => self.encode_v4(w)?,
            Version::V1_5 => self.encode_v5(w)?,
        }
        instruction::encode_list(&self.instructions, w, version)?;
        w.close(mark, "flow entry")
    }

    fn encode_v4(&self, w: &mut Writer<'_>) -> Result<(), EncodeError> {
        w.u8(self.table_id);
        w.zeros(1);
        w.u32(self.duration_sec);
        w.u32(self.duration_nsec);
        w.u16(self.priority);
        w.u16(self.idle_timeout);
        w.u16(self.hard_timeout);
        w.u16(self.flags);
        w.u16(self.importance);
        w.zeros(2);
        w.u64(self.cookie);
        w.u64(self.packet_count);
        w.u64(self.byte_count);
        self.match_.encode(w)
    }

    fn encode_v5(&self, w: &mut Writer<'_>) -> Result<(), EncodeError> {
        w.zeros(2);
        w.u8(self.table_id);
        w.zeros(1);
        w.u16(self.priority);
        w.u16(self.idle_timeout);
        w.u16(self.hard_timeout);
        w.u16(self.flags);
        w.u16(self.importance);
        w.u64(self.cookie);
        self.match_.encode(w)?;
        let oxs = Oxs {
            duration_sec: self.duration_sec,
            duration_nsec: self.duration_nsec,
            idle_secs: self.idle_secs,
            packet_count: self.packet_count,
            byte_count: self.byte_count,
        };
        oxs.encode(w)
    }
}

/// Counters of one table.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub struct TableStats {
    /// Number of the table, 0 to 254.
    pub table_id: u8,
    /// Flows in the table at this moment.
    pub active_count: u32,
    /// Packets looked up in it.
    pub lookup_count: u64,
    /// Packets that met a flow of it.
    pub matched_count: u64,
}

impl TableStats {
    pub(crate) fn decode(r: &mut Reader<'_>) -> Result<Self, DecodeError> {
        let table_id = r.u8()?;
        r.skip(3)?;
        Ok(TableStats {
            table_id,
            active_count: r.u32()?,
            lookup_count: r.u64()?,
            matched_count: r.u64()?,
        })
    }

    pub(crate) fn encode(&self, w: &mut Writer<'_>) {
        w.u8(self.table_id);
        w.zeros(3);
        w.u32(self.active_count);
        w.u64(self.lookup_count);
        w.u64(self.matched_count);
    }
}
