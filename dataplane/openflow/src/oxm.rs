//! One field with its value and mask.

use crate::error::{DecodeError, EncodeError};
use crate::field::Field;
use crate::wire::{Reader, Writer, be_uint};

/// A field's value, and the mask of the bits that count.
///
/// Canonical form, which [`Oxm::new`] makes and decoding yields: the mask is cut to the significant bits of the
/// field, a full mask is `None`, and bits of the value outside the mask are zero.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Oxm {
    /// What is matched or set.
    pub field: Field,
    /// Value, right-aligned; bits outside the mask are zero.
    pub value: u128,
    /// Bits that count; `None` is all of them.
    pub mask: Option<u128>,
}

impl Oxm {
    /// Every bit of `field` is `value`'s.
    ///
    /// # Panics
    /// When `value` has bits the field has not: cut off, it would be another value.
    pub fn from_parts(field: Field, value: u128) -> Self {
        assert!(value & !field.full_mask() == 0, "{field} cannot be {value:#x}");
        Oxm {
            field,
            value,
            mask: None,
        }
    }

    /// As [`Oxm::from_parts`], with the bits the field has not cut off.
    pub fn exact(field: Field, value: u128) -> Self {
        Oxm {
            field,
            value: value & field.full_mask(),
            mask: None,
        }
    }

    /// The bits of `field` that are set in `mask`, in canonical form.
    pub fn new(field: Field, value: u128, mask: Option<u128>) -> Self {
        let full = field.full_mask();
        match mask.map(|m| m & full) {
            Some(m) if m != full => Oxm {
                field,
                value: value & m,
                mask: Some(m),
            },
            _ => Oxm::exact(field, value),
        }
    }

    /// The same in canonical form.
    pub fn canonical(self) -> Self {
        Oxm::new(self.field, self.value, self.mask)
    }

    /// The mask, spelt out.
    pub fn mask_or_full(&self) -> u128 {
        self.mask.unwrap_or_else(|| self.field.full_mask())
    }

    pub(crate) fn encode(&self, w: &mut Writer<'_>) -> Result<(), EncodeError> {
        let Oxm { field, value, mask } = self.canonical();
        if !field.fits() {
            return Err(EncodeError::TooLong {
                what: field.name(),
                length: usize::from(field.width_bytes()),
            });
        }
        let width = usize::from(field.width_bytes());
        field.put_header(w, mask.is_some())?;
        w.uint(value, width);
        if let Some(mask) = mask {
            w.uint(mask, width);
        }
        Ok(())
    }
}

/// An OXM as it is on the wire.
#[derive(Debug, Clone, Copy)]
pub(crate) struct RawOxm<'a> {
    pub(crate) field: Field,
    pub(crate) value: &'a [u8],
    pub(crate) mask: Option<&'a [u8]>,
}

impl<'a> RawOxm<'a> {
    pub(crate) fn read(r: &mut Reader<'a>) -> Result<Self, DecodeError> {
        let (field, masked) = Field::read_header(r)?;
        let width = usize::from(field.width_bytes());
        let value = r.take(width)?;
        let mask = if masked { Some(r.take(width)?) } else { None };
        Ok(RawOxm { field, value, mask })
    }

    /// As a number, unless it is wider than 128 bits.
    pub(crate) fn to_oxm(self) -> Option<Oxm> {
        self.field
            .fits()
            .then(|| Oxm::new(self.field, be_uint(self.value), self.mask.map(be_uint)))
    }

    pub(crate) fn put(&self, w: &mut Writer<'_>) -> Result<(), EncodeError> {
        self.field.put_header(w, self.mask.is_some())?;
        w.bytes(self.value);
        if let Some(mask) = self.mask {
            w.bytes(mask);
        }
        Ok(())
    }
}
