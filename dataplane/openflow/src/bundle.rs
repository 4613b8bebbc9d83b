//! Bundles: changes that are made together or not at all (OpenFlow 1.5 §7.3.9).

use crate::error::{DecodeError, EncodeError};
use crate::message::Message;
use crate::version::Version;
use crate::wire::{Reader, Writer};

/// Bits of [`BundleControl::flags`] and [`BundleAdd::flags`] (OFPBF_*). All messages of a bundle carry the same.
pub mod flags {
    /// All or nothing, and at one instant.
    pub const ATOMIC: u16 = 1 << 0;
    /// In the order they were added.
    pub const ORDERED: u16 = 1 << 1;
}

/// What a [`BundleControl`] asks or answers (OFPBCT_*).
#[allow(missing_docs, reason = "a reply has the doc of its request")]
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum BundleKind {
    /// Opens a bundle on this connection.
    OpenRequest,
    OpenReply,
    /// Takes no more messages; the switch may check those it has.
    CloseRequest,
    CloseReply,
    /// Applies all messages of the bundle, or none and answers with an error.
    CommitRequest,
    CommitReply,
    /// Drops the bundle and its messages unapplied.
    DiscardRequest,
    DiscardReply,
}

impl BundleKind {
    const ALL: [BundleKind; 8] = [
        BundleKind::OpenRequest,
        BundleKind::OpenReply,
        BundleKind::CloseRequest,
        BundleKind::CloseReply,
        BundleKind::CommitRequest,
        BundleKind::CommitReply,
        BundleKind::DiscardRequest,
        BundleKind::DiscardReply,
    ];

    fn wire(self) -> u16 {
        match self {
            BundleKind::OpenRequest => 0,
            BundleKind::OpenReply => 1,
            BundleKind::CloseRequest => 2,
            BundleKind::CloseReply => 3,
            BundleKind::CommitRequest => 4,
            BundleKind::CommitReply => 5,
            BundleKind::DiscardRequest => 6,
            BundleKind::DiscardReply => 7,
        }
    }
}

/// Opens, closes, commits or discards a bundle, or answers such a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct BundleControl {
    /// Number of the bundle on this connection.
    pub bundle_id: u32,
    /// What to do, or what was done.
    pub kind: BundleKind,
    /// Bits of [`flags`], the same in all messages of one bundle.
    pub flags: u16,
}

impl BundleControl {
    pub(crate) fn decode(r: &mut Reader<'_>) -> Result<Self, DecodeError> {
        let bundle_id = r.u32()?;
        let kind = r.u16()?;
        let kind = BundleKind::ALL
            .get(usize::from(kind))
            .copied()
            .ok_or(DecodeError::Value {
                what: "bundle control type",
                value: u64::from(kind),
            })?;
        Ok(BundleControl {
            bundle_id,
            kind,
            flags: r.u16()?,
        })
    }

    pub(crate) fn encode(&self, w: &mut Writer<'_>) {
        w.u32(self.bundle_id);
        w.u16(self.kind.wire());
        w.u16(self.flags);
    }
}

/// Adds a message to an open bundle.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct BundleAdd {
    /// Number of the bundle.
    pub bundle_id: u32,
    /// Bits of [`flags`], as the bundle was opened with.
    pub flags: u16,
    /// Transaction id and message. The id must be that of the message around it, or the switch refuses it.
    pub message: Box<(u32, Message)>,
}

impl BundleAdd {
    /// Reads the body; properties after the message are skipped.
    pub(crate) fn decode(mut r: Reader<'_>, version: Version) -> Result<Self, DecodeError> {
        let bundle_id = r.u32()?;
        r.skip(2)?;
        let flags = r.u16()?;
        let (header, message) = crate::message::decode_inner(&mut r, version)?;
        Ok(BundleAdd {
            bundle_id,
            flags,
            message: Box::new((header.xid, message)),
        })
    }

    pub(crate) fn encode(&self, w: &mut Writer<'_>, version: Version) -> Result<(), EncodeError> {
        w.u32(self.bundle_id);
        w.zeros(2);
        w.u16(self.flags);
        let (xid, message) = &*self.message;
        if matches!(message, Message::BundleAdd(_)) {
            return Err(EncodeError::NotExpressible {
                what: "a bundle inside a bundle",
                version,
                hint: "add its messages to one bundle",
            });
        }
        crate::message::encode_into(message, version, *xid, w)
    }
}
