//! Protocol versions, their negotiation, and the header all messages share (OpenFlow 1.5 §7.1).

use crate::error::DecodeError;
use crate::message::kind;
use crate::wire::{Reader, Writer};

/// A protocol version this codec speaks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Version {
    /// OpenFlow 1.4, wire version 0x05.
    V1_4,
    /// OpenFlow 1.5, wire version 0x06.
    V1_5,
}

impl Version {
    /// Both versions as a bitmap: bit *n* stands for wire version *n*.
    pub const BOTH: u32 = Version::V1_4.bit() | Version::V1_5.bit();

    /// The byte that starts every message of this version.
    pub const fn wire(self) -> u8 {
        match self {
            Version::V1_4 => 0x05,
            Version::V1_5 => 0x06,
        }
    }

    /// The version of a version byte, if this codec speaks it.
    pub const fn from_wire(byte: u8) -> Option<Self> {
        match byte {
            0x05 => Some(Version::V1_4),
            0x06 => Some(Version::V1_5),
            _ => None,
        }
    }

    /// This version's bit in a hello bitmap.
    pub const fn bit(self) -> u32 {
        1 << self.wire()
    }

    /// The highest version in both `ours` (a bitmap) and the peer's hello, or `None` when there is none.
    pub fn negotiate(ours: u32, theirs: &Hello) -> Option<Self> {
        let common = ours & theirs.versions;
        [Version::V1_5, Version::V1_4]
            .into_iter()
            .find(|v| common & v.bit() != 0)
    }
}

impl std::fmt::Display for Version {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Version::V1_4 => "OpenFlow 1.4",
            Version::V1_5 => "OpenFlow 1.5",
        })
    }
}

/// The highest version in both bitmaps; see [`Version::negotiate`].
pub fn negotiate(ours: u32, hello: &Hello) -> Option<Version> {
    Version::negotiate(ours, hello)
}

/// Type of the hello element that holds a bitmap (OFPHET_VERSIONBITMAP).
const VERSION_BITMAP: u16 = 1;

/// Body of a hello: the versions its sender speaks (OpenFlow 1.5 §7.5.1).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Hello {
    /// Bit *n* stands for wire version *n*. A hello without a bitmap element means every version up to the one in
    /// its header.
    pub versions: u32,
}

impl Hello {
    pub(crate) fn decode(mut r: Reader<'_>, header_version: u8) -> Result<Self, DecodeError> {
        while r.len() >= 4 {
            let (typ, length) = (r.u16()?, usize::from(r.u16()?));
            let body = length.checked_sub(4).ok_or(DecodeError::Length {
                what: "hello element",
                length,
            })?;
            let mut element = r.sub(body, "hello element")?;
            r.skip(r.len().min(crate::wire::pad8(length).saturating_sub(length)))?;
            if typ == VERSION_BITMAP && element.len() >= 4 {
                return Ok(Hello {
                    versions: element.u32()?,
                });
            }
        }
        let top = 1_u32
            .checked_shl(u32::from(header_version).saturating_add(1))
            .unwrap_or(0);
        Ok(Hello {
            versions: top.wrapping_sub(1) & !1,
        })
    }

    pub(crate) fn encode(&self, w: &mut Writer<'_>) {
        w.u16(VERSION_BITMAP);
        w.u16(8);
        w.u32(self.versions);
    }
}

/// The eight bytes every message starts with.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Header {
    /// Version byte, see [`Version::from_wire`].
    pub version: u8,
    /// Message type, see [`crate::message::kind`].
    pub msg_type: u8,
    /// Bytes of the whole message, this header included.
    pub length: u16,
    /// Transaction id; a reply or error carries that of its request.
    pub xid: u32,
}

/// Bytes of a [`Header`] on the wire.
pub const HEADER_LEN: usize = 8;

impl Header {
    pub(crate) fn decode(r: &mut Reader<'_>) -> Result<Self, DecodeError> {
        Ok(Header {
            version: r.u8()?,
            msg_type: r.u8()?,
            length: r.u16()?,
            xid: r.u32()?,
        })
    }

    /// Hello and error are read whatever the peer's version, since they arrive before one is agreed on.
    pub(crate) fn check_version(&self) -> Result<(), DecodeError> {
        let early = matches!(self.msg_type, kind::HELLO | kind::ERROR) && (1..=0x0f).contains(&self.version);
        if early || Version::from_wire(self.version).is_some() {
            return Ok(());
        }
        Err(DecodeError::Version {
            version: self.version,
            msg_type: self.msg_type,
        })
    }
}

/// Length in bytes of the message `buf` starts with, or `None` when its header is not all there yet. The message
/// may still be incomplete: compare with `buf.len()`.
pub fn frame_len(buf: &[u8]) -> Result<Option<usize>, DecodeError> {
    let mut r = Reader::new(buf, "header");
    let Ok(header) = Header::decode(&mut r) else {
        return Ok(None);
    };
    header.check_version()?;
    let length = usize::from(header.length);
    if length < HEADER_LEN {
        return Err(DecodeError::Length {
            what: "message",
            length,
        });
    }
    Ok(Some(length))
}
