//! Checked reading and back-patched writing of big-endian bytes.

use crate::error::{DecodeError, EncodeError};

/// A cursor over untrusted bytes. Every read is checked; nothing indexes.
#[derive(Debug, Clone)]
pub(crate) struct Reader<'a> {
    rest: &'a [u8],
    what: &'static str,
}

impl<'a> Reader<'a> {
    /// Reads `buf`; `what` names it in errors.
    pub(crate) fn new(buf: &'a [u8], what: &'static str) -> Self {
        Reader { rest: buf, what }
    }

    pub(crate) fn len(&self) -> usize {
        self.rest.len()
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.rest.is_empty()
    }

    pub(crate) fn take(&mut self, n: usize) -> Result<&'a [u8], DecodeError> {
        match self.rest.split_at_checked(n) {
            Some((head, tail)) => {
                self.rest = tail;
                Ok(head)
            }
            None => Err(DecodeError::Truncated {
                what: self.what,
                need: n,
                have: self.rest.len(),
            }),
        }
    }

    /// The next `n` bytes as a reader of their own.
    pub(crate) fn sub(&mut self, n: usize, what: &'static str) -> Result<Reader<'a>, DecodeError> {
        self.take(n).map(|buf| Reader::new(buf, what))
    }

    pub(crate) fn skip(&mut self, n: usize) -> Result<(), DecodeError> {
        self.take(n).map(drop)
    }

    pub(crate) fn remainder(&mut self) -> &'a [u8] {
        std::mem::take(&mut self.rest)
    }

    pub(crate) fn array<const N: usize>(&mut self) -> Result<[u8; N], DecodeError> {
        match self.rest.split_first_chunk::<N>() {
            Some((head, tail)) => {
                self.rest = tail;
                Ok(*head)
            }
            None => Err(DecodeError::Truncated {
                what: self.what,
                need: N,
                have: self.rest.len(),
            }),
        }
    }

    pub(crate) fn u8(&mut self) -> Result<u8, DecodeError> {
        self.array::<1>().map(u8::from_be_bytes)
    }

    pub(crate) fn u16(&mut self) -> Result<u16, DecodeError> {
        self.array().map(u16::from_be_bytes)
    }

    pub(crate) fn u32(&mut self) -> Result<u32, DecodeError> {
        self.array().map(u32::from_be_bytes)
    }

    pub(crate) fn u64(&mut self) -> Result<u64, DecodeError> {
        self.array().map(u64::from_be_bytes)
    }

    /// The next `n` (at most 16) bytes as a number.
    pub(crate) fn uint(&mut self, n: usize) -> Result<u128, DecodeError> {
        Ok(be_uint(self.take(n)?))
    }
}

/// A big-endian number; only the last 16 bytes count.
pub(crate) fn be_uint(bytes: &[u8]) -> u128 {
    bytes.iter().fold(0, |acc, b| (acc << 8) | u128::from(*b))
}

/// `n` rounded up to a multiple of eight.
pub(crate) fn pad8(n: usize) -> usize {
    n.div_ceil(8).saturating_mul(8)
}

/// A position whose 16-bit length is filled in later.
#[derive(Debug, Clone, Copy)]
#[must_use]
pub(crate) struct Mark {
    start: usize,
    field: usize,
}

/// Appends to the caller's buffer.
#[derive(Debug)]
pub(crate) struct Writer<'a> {
    out: &'a mut Vec<u8>,
}

impl<'a> Writer<'a> {
    pub(crate) fn new(out: &'a mut Vec<u8>) -> Self {
        Writer { out }
    }

    pub(crate) fn len(&self) -> usize {
        self.out.len()
    }

    pub(crate) fn bytes(&mut self, b: &[u8]) {
        self.out.extend_from_slice(b);
    }

    pub(crate) fn zeros(&mut self, n: usize) {
        self.out.resize(self.out.len().saturating_add(n), 0);
    }

    pub(crate) fn u8(&mut self, v: u8) {
        self.out.push(v);
    }

    pub(crate) fn u16(&mut self, v: u16) {
        self.bytes(&v.to_be_bytes());
    }

    pub(crate) fn u32(&mut self, v: u32) {
        self.bytes(&v.to_be_bytes());
    }

    pub(crate) fn u64(&mut self, v: u64) {
        self.bytes(&v.to_be_bytes());
    }

    /// The low `n` (at most 16) bytes of `v`.
    pub(crate) fn uint(&mut self, v: u128, n: usize) {
        let all = v.to_be_bytes();
        let n = n.min(all.len());
        if let Some(tail) = all.get(all.len().saturating_sub(n)..) {
            self.bytes(tail);
        }
    }

    /// Zeros until the bytes since `start` are a multiple of eight.
    pub(crate) fn pad8_from(&mut self, start: usize) {
        let n = self.len().saturating_sub(start);
        self.zeros(pad8(n).saturating_sub(n));
    }

    /// Writes a length of zero here, to be filled by [`Writer::close`] with the bytes since `start`.
    pub(crate) fn open(&mut self, start: usize) -> Mark {
        let field = self.len();
        self.u16(0);
        Mark { start, field }
    }

    /// Fills in the length of `mark` as the bytes written since its start.
    pub(crate) fn close(&mut self, mark: Mark, what: &'static str) -> Result<(), EncodeError> {
        let length = self.len().saturating_sub(mark.start);
        let short = u16::try_from(length).map_err(|_| EncodeError::TooLong { what, length })?;
        if let Some(slot) = self.out.get_mut(mark.field..mark.field.saturating_add(2)) {
            slot.copy_from_slice(&short.to_be_bytes());
        }
        Ok(())
    }
}
