//! OpenFlow 1.5's extensible flow statistics (§7.2.4).

use crate::error::{DecodeError, EncodeError};
use crate::wire::{Reader, Writer, pad8};

/// Class of the statistics every switch knows (OFPXSC_OPENFLOW_BASIC).
const BASIC: u16 = 0x8002;
const DURATION: u8 = 0;
const IDLE_TIME: u8 = 1;
const PACKET_COUNT: u8 = 4;
const BYTE_COUNT: u8 = 5;

/// Statistics of a flow; what the switch leaves out is zero.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct Oxs {
    pub(crate) duration_sec: u32,
    pub(crate) duration_nsec: u32,
    pub(crate) idle_secs: Option<u32>,
    pub(crate) packet_count: u64,
    pub(crate) byte_count: u64,
}

impl Oxs {
    /// Reads an `ofp_stats` and its padding.
    pub(crate) fn decode(r: &mut Reader<'_>) -> Result<Self, DecodeError> {
        r.skip(2)?;
        let length = usize::from(r.u16()?);
        let body = length.checked_sub(4).ok_or(DecodeError::Length {
            what: "flow statistics",
            length,
        })?;
        let mut stats = r.sub(body, "flow statistics")?;
        r.skip(pad8(length).saturating_sub(length))?;
        let mut oxs = Oxs::default();
        while !stats.is_empty() {
            let (class, field, length) = (stats.u16()?, stats.u8()? >> 1, stats.u8()?);
            oxs.take(class, field, stats.sub(usize::from(length), "flow statistic")?)?;
        }
        Ok(oxs)
    }

    fn take(&mut self, class: u16, field: u8, mut r: Reader<'_>) -> Result<(), DecodeError> {
        match (class, field) {
            (BASIC, DURATION) => (self.duration_sec, self.duration_nsec) = (r.u32()?, r.u32()?),
            (BASIC, IDLE_TIME) => self.idle_secs = Some(r.u32()?),
            (BASIC, PACKET_COUNT) => self.packet_count = r.u64()?,
            (BASIC, BYTE_COUNT) => self.byte_count = r.u64()?,
            _ => {}
        }
        Ok(())
    }

    /// Writes an `ofp_stats` and its padding.
    pub(crate) fn encode(&self, w: &mut Writer<'_>) -> Result<(), EncodeError> {
        let start = w.len();
        w.u16(0);
        let mark = w.open(start);
        put(
            w,
            DURATION,
            (u64::from(self.duration_sec) << 32) | u64::from(self.duration_nsec),
        );
        if let Some(idle) = self.idle_secs {
            put(w, IDLE_TIME, u64::from(idle) << 32);
        }
        put(w, PACKET_COUNT, self.packet_count);
        put(w, BYTE_COUNT, self.byte_count);
        w.close(mark, "flow statistics")?;
        w.pad8_from(start);
        Ok(())
    }
}

fn put(w: &mut Writer<'_>, field: u8, value: u64) {
    w.u16(BASIC);
    w.u8(field << 1);
    w.u8(8);
    w.u64(value);
}
