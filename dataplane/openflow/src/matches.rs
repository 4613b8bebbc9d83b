//! Matches: sets of fields, kept as the bytes they are sent as.

use crate::error::{DecodeError, EncodeError};
use crate::field::Field;
use crate::oxm::{Oxm, RawOxm};
use crate::wire::{Reader, Writer, pad8};

/// The type of a match made of OXM fields (OFPMT_OXM).
const OFPMT_OXM: u16 = 1;

/// A match: each field at most once, sorted by [`Field`], every one canonical.
///
/// Kept as one block of canonical OXM bytes, 8 to 20 bytes a field, so that equality and hashing are those of bytes.
/// Different ways a switch has of saying the same (NXM, OXM and experimenter headers, 64-bit registers, spelt-out
/// full masks, an explicit Ethernet packet type) become equal here.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Match {
    bytes: Box<[u8]>,
}

impl Match {
    /// The match every packet meets.
    pub fn new() -> Self {
        Match::default()
    }

    /// With `field` equal to `value`; replaces what was said of `field` before.
    ///
    /// # Panics
    /// When `value` has bits the field has not, or as [`Match::with`] does.
    #[must_use]
    pub fn exact(self, field: Field, value: impl Into<u128>) -> Self {
        self.with(Oxm::from_parts(field, value.into()))
    }

    /// With `field` equal to `value` in the bits of `mask`; a mask of zero takes the field out.
    ///
    /// # Panics
    /// As [`Match::with`] does.
    #[must_use]
    pub fn masked(self, field: Field, value: impl Into<u128>, mask: impl Into<u128>) -> Self {
        self.with(Oxm::new(field, value.into(), Some(mask.into())))
    }

    /// With `oxm`; replaces what was said of its field before.
    ///
    /// # Panics
    /// When the field does not exist ([`Field::exists`]) or is wider than 128 bits: leaving it out would match more
    /// than was meant.
    #[must_use]
    pub fn with(mut self, oxm: Oxm) -> Self {
        assert!(
            oxm.field.exists() && oxm.field.fits(),
            "{:?} is not a field one can match on",
            oxm.field
        );
        for part in split(oxm.canonical()).into_iter().flatten() {
            self.put(part);
        }
        self
    }

    /// What the match says of `field`.
    pub fn get(&self, field: Field) -> Option<Oxm> {
        self.iter().find(|o| o.field == field)
    }

    /// The fields in order. Fields wider than 128 bits are not among them, see [`Match::opaque`].
    pub fn iter(&self) -> impl Iterator<Item = Oxm> + '_ {
        self.raw().filter_map(RawOxm::to_oxm)
    }

    /// Fields wider than 128 bits, as field, value and mask bytes.
    pub fn opaque(&self) -> impl Iterator<Item = (Field, &[u8], Option<&[u8]>)> + '_ {
        self.raw()
            .filter(|o| !o.field.fits())
            .map(|o| (o.field, o.value, o.mask))
    }

    /// Number of matched fields, with those wider than 128 bits.
    pub fn len(&self) -> usize {
        self.raw().count()
    }

    /// Whether every packet matches.
    pub fn is_empty(&self) -> bool {
        self.bytes.is_empty()
    }

    /// The canonical OXM bytes, without match header and padding.
    pub fn as_oxm_bytes(&self) -> &[u8] {
        &self.bytes
    }

    fn raw(&self) -> impl Iterator<Item = RawOxm<'_>> + '_ {
        let mut r = Reader::new(&self.bytes, "match");
        std::iter::from_fn(move || RawOxm::read(&mut r).ok())
    }

    /// Puts a canonical, unsplittable field in its place.
    fn put(&mut self, oxm: Oxm) {
        let mut entry = Vec::with_capacity(8);
        if oxm.mask != Some(0) {
            let done = oxm.encode(&mut Writer::new(&mut entry));
            assert!(done.is_ok(), "a field that exists has a header: {done:?}");
        }
        let (mut before, mut same) = (0_usize, 0_usize);
        let mut r = Reader::new(&self.bytes, "match");
        loop {
            let at = self.bytes.len().saturating_sub(r.len());
            match RawOxm::read(&mut r) {
                Ok(o) if o.field < oxm.field => before = self.bytes.len().saturating_sub(r.len()),
                Ok(o) if o.field == oxm.field => {
                    same = self.bytes.len().saturating_sub(r.len()).saturating_sub(at);
                }
                _ => break,
            }
        }
        let head = self.bytes.get(..before).unwrap_or_default();
        let tail = self.bytes.get(before.saturating_add(same)..).unwrap_or_default();
        self.bytes = [head, &entry, tail].concat().into_boxed_slice();
    }

    /// Reads an `ofp_match` and its padding.
    pub(crate) fn decode(r: &mut Reader<'_>) -> Result<Self, DecodeError> {
        let (typ, length) = (r.u16()?, usize::from(r.u16()?));
        if typ != OFPMT_OXM {
            return Err(DecodeError::Value {
                what: "match type",
                value: u64::from(typ),
            });
        }
        let body = length.checked_sub(4).ok_or(DecodeError::Length {
            what: "match",
            length,
        })?;
        let m = Match::decode_oxms(r.sub(body, "match")?)?;
        r.skip(pad8(length).saturating_sub(length))?;
        Ok(m)
    }

    fn decode_oxms(mut r: Reader<'_>) -> Result<Self, DecodeError> {
        let mut known: Vec<Oxm> = Vec::with_capacity(8);
        let mut wide: Vec<RawOxm<'_>> = Vec::new();
        while !r.is_empty() {
            let raw = RawOxm::read(&mut r)?;
            match raw.to_oxm() {
                Some(oxm) => known.extend(split(oxm).into_iter().flatten()),
                None => wide.push(raw),
            }
        }
        known.retain(|o| o.mask != Some(0));
        known.sort_unstable_by_key(|o| o.field);
        wide.sort_unstable_by_key(|o| o.field);
        let twice = known.windows(2).find_map(|w| match w {
            [a, b] if a.field == b.field => Some(a.field),
            _ => None,
        });
        let twice = twice.or_else(|| {
            wide.windows(2).find_map(|w| match w {
                [a, b] if a.field == b.field => Some(a.field),
                _ => None,
            })
        });
        if let Some(field) = twice {
            return Err(DecodeError::DuplicateField { field: field.name() });
        }
        Match::pack(&known, &wide)
    }

    /// Both lists are sorted; they are merged by field.
    fn pack(known: &[Oxm], wide: &[RawOxm<'_>]) -> Result<Self, DecodeError> {
        let mut bytes = Vec::with_capacity(known.len().saturating_mul(12));
        let mut w = Writer::new(&mut bytes);
        let unfit = |_| DecodeError::Length {
            what: "match",
            length: known.len(),
        };
        let mut wide = wide.iter().peekable();
        for oxm in known {
            while let Some(raw) = wide.next_if(|raw| raw.field < oxm.field) {
                raw.put(&mut w).map_err(unfit)?;
            }
            oxm.encode(&mut w).map_err(unfit)?;
        }
        for raw in wide {
            raw.put(&mut w).map_err(unfit)?;
        }
        Ok(Match {
            bytes: bytes.into_boxed_slice(),
        })
    }

    /// Writes an `ofp_match` and its padding.
    pub(crate) fn encode(&self, w: &mut Writer<'_>) -> Result<(), EncodeError> {
        let start = w.len();
        w.u16(OFPMT_OXM);
        let mark = w.open(start);
        w.bytes(&self.bytes);
        w.close(mark, "match")?;
        w.pad8_from(start);
        Ok(())
    }
}

impl FromIterator<Oxm> for Match {
    fn from_iter<I: IntoIterator<Item = Oxm>>(iter: I) -> Self {
        iter.into_iter().fold(Match::new(), Match::with)
    }
}

impl Extend<Oxm> for Match {
    fn extend<I: IntoIterator<Item = Oxm>>(&mut self, iter: I) {
        *self = iter.into_iter().fold(std::mem::take(self), Match::with);
    }
}

impl std::fmt::Debug for Match {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Match({self})")
    }
}

impl std::fmt::Display for Match {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        if self.is_empty() {
            return f.write_str("any");
        }
        let mut sep = "";
        for oxm in self.iter() {
            match oxm.mask {
                None => write!(f, "{sep}{}={:#x}", oxm.field, oxm.value)?,
                Some(mask) => write!(f, "{sep}{}={:#x}/{mask:#x}", oxm.field, oxm.value)?,
            }
            sep = ",";
        }
        for (field, value, mask) in self.opaque() {
            write!(f, "{sep}{field}={value:02x?}/{mask:02x?}")?;
            sep = ",";
        }
        Ok(())
    }
}

/// The fields a match keeps for `oxm`: wide registers become 32-bit ones, NXM's ingress port the standard one, and the
/// packet type every match has by default is dropped.
fn split(oxm: Oxm) -> [Option<Oxm>; 4] {
    match oxm.field {
        Field::PacketType if oxm.value == 0 && oxm.mask.is_none() => [None; 4],
        Field::InPort16 if oxm.mask.is_none() => {
            let port = u16::try_from(oxm.value)
                .map(crate::port::widen)
                .unwrap_or(crate::port::ANY);
            [
                Some(Oxm::exact(Field::InPort, u128::from(port))),
                None,
                None,
                None,
            ]
        }
        Field::XReg(n) => {
            let reg = n.saturating_mul(2);
            [
                Some(word(oxm, reg, 32)),
                Some(word(oxm, reg.saturating_add(1), 0)),
                None,
                None,
            ]
        }
        Field::XxReg(n) => {
            let reg = n.saturating_mul(4);
            [(0, 96), (1, 64), (2, 32), (3, 0)]
                .map(|(i, shift)| Some(word(oxm, reg.saturating_add(i), shift)))
        }
        _ => [Some(oxm), None, None, None],
    }
}

fn word(wide: Oxm, reg: u8, shift: u32) -> Oxm {
    Oxm::new(
        Field::Reg(reg),
        wide.value >> shift,
        wide.mask.map(|m| m >> shift),
    )
}
