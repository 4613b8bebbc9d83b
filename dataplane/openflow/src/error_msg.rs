//! Error messages from the switch and what they mean (OpenFlow 1.5 §7.5.4).

use std::fmt;

use crate::action::NX_EXPERIMENTER;
use crate::error::DecodeError;
use crate::error_names::{EXPERIMENTER, KNOWN, Known, TYPES};
use crate::version::Header;
use crate::wire::{Reader, Writer};

/// The answer to a request that failed, or to a hello with no version in common.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct ErrorMsg {
    /// Error type (OFPET_*); 0xffff is an experimenter's error.
    pub typ: u16,
    /// Code within the type; an experimenter's own type where `typ` is 0xffff.
    pub code: u16,
    /// Experimenter id, where `typ` is 0xffff.
    pub experimenter: Option<u32>,
    /// At least the first 64 bytes of the failed request, or text for a failed hello.
    pub data: Vec<u8>,
}

impl ErrorMsg {
    pub(crate) fn decode(r: &mut Reader<'_>) -> Result<Self, DecodeError> {
        let (typ, code) = (r.u16()?, r.u16()?);
        let experimenter = if typ == EXPERIMENTER { Some(r.u32()?) } else { None };
        Ok(ErrorMsg {
            typ,
            code,
            experimenter,
            data: r.remainder().to_vec(),
        })
    }

    pub(crate) fn encode(&self, w: &mut Writer<'_>) {
        w.u16(self.typ);
        w.u16(self.code);
        if self.typ == EXPERIMENTER {
            w.u32(self.experimenter.unwrap_or(0));
        }
        w.bytes(&self.data);
    }

    /// Header of the failed request, when the error carries it.
    pub fn failed(&self) -> Option<Header> {
        Header::decode(&mut Reader::new(&self.data, "failed request")).ok()
    }

    /// The specification's name of the error, if this codec knows it.
    pub fn name(&self) -> Option<&'static str> {
        self.known().map(|known| known.name)
    }

    /// The error in a sentence, with its specification names and numbers.
    pub fn explain(&self) -> String {
        self.to_string()
    }

    fn known(&self) -> Option<&'static Known> {
        let typ = match self.experimenter {
            Some(NX_EXPERIMENTER) => EXPERIMENTER,
            Some(_) => return None,
            None => self.typ,
        };
        KNOWN.iter().find(|k| k.typ == typ && k.code == self.code)
    }
}

impl fmt::Display for ErrorMsg {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let typ = TYPES
            .iter()
            .find(|(typ, _)| *typ == self.typ)
            .map_or("error type", |(_, name)| name);
        match self.known() {
            Some(known) => {
                write!(
                    f,
                    "{}: {typ} ({}), {} ({})",
                    known.meaning, self.typ, known.name, self.code
                )?;
            }
            None => write!(
                f,
                "an error without a known name: {typ} ({}), code {}",
                self.typ, self.code
            )?,
        }
        if let Some(id) = self.experimenter {
            write!(f, " of experimenter {id:#x}")?;
        }
        Ok(())
    }
}
