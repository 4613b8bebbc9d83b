//! Our compiled P4 program, in both variants.

use portcullis_proto::p4::config::v1::P4Info;
use portcullis_proto::p4::v1::ForwardingPipelineConfig;
use portcullis_proto::p4::v1::forwarding_pipeline_config::Cookie;

use crate::config::PortMatching;
use crate::device::Device;
use crate::model::MappingError;
use crate::own::contract::contract;
use crate::p4info::{P4InfoError, parse};

/// Why the program that this binary carries is unusable: a fault of the build.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ProgramError {
    /// The compiled P4Info cannot be read.
    #[error("the P4 program in this binary cannot be read")]
    P4Info(#[from] P4InfoError),
    /// The tables do not fit the stage model.
    #[error("the P4 program in this binary does not have the stages it should")]
    Stages(#[from] MappingError),
}

/// A program, ready to be put on a device.
#[derive(Debug, Clone, PartialEq)]
pub struct OwnProgram {
    /// What the compiler and the tables are drawn from.
    pub device: Device,
    /// What a device is given.
    pub config: ForwardingPipelineConfig,
}

impl OwnProgram {
    /// The compiled program with ports as ranges, or as masks.
    pub fn new(matching: PortMatching) -> Result<Self, ProgramError> {
        let (text, json): (&str, &[u8]) = match matching {
            PortMatching::Range => (
                include_str!("../../../p4/compiled/portcullis-range.p4info.txtpb"),
                include_bytes!("../../../p4/compiled/portcullis-range.json"),
            ),
            PortMatching::Ternary => (
                include_str!("../../../p4/compiled/portcullis-ternary.p4info.txtpb"),
                include_bytes!("../../../p4/compiled/portcullis-ternary.json"),
            ),
        };
        let info: P4Info = parse(text.as_bytes())?;
        Self::made(info, json, fingerprint(&[text.as_bytes(), json]))
    }

    /// With ports as ranges, and tables as large as the embedded switch takes them.
    pub fn embedded() -> Result<Self, ProgramError> {
        let range = Self::new(PortMatching::Range)?.config;
        let mut info = range.p4info.unwrap_or_default();
        for table in &mut info.tables {
            let alias = table.preamble.as_ref().map_or("", |p| p.alias.as_str());
            table.size = contract(alias).map_or(table.size, |contract| contract.embedded_rows);
        }
        // The switch runs no compiled program: it is told which one by the P4Info.
        let sizes: Vec<u8> = info.tables.iter().flat_map(|t| t.size.to_be_bytes()).collect();
        let cookie = range.cookie.map_or(0, |c| c.cookie);
        let cookie = fingerprint(&[cookie.to_be_bytes().as_slice(), &sizes]);
        Self::made(info, &[], cookie)
    }

    fn made(info: P4Info, json: &[u8], cookie: u64) -> Result<Self, ProgramError> {
        let device = Device::new(&info, "p4runtime", None)?;
        Ok(OwnProgram {
            device,
            config: ForwardingPipelineConfig {
                p4info: Some(info),
                p4_device_config: json.to_vec(),
                cookie: Some(Cookie { cookie }),
            },
        })
    }

    /// What tells it from every other: a device that has it is not given it again.
    pub fn cookie(&self) -> u64 {
        self.config.cookie.as_ref().map_or(0, |c| c.cookie)
    }
}

/// FNV-1a, 64 bits: stable over releases of the standard library, and it need not withstand anybody.
pub(crate) fn fingerprint(parts: &[&[u8]]) -> u64 {
    let bytes = parts.iter().flat_map(|p| p.iter());
    bytes.fold(0xcbf2_9ce4_8422_2325, |hash, byte| {
        (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3)
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use portcullis_compiler::model::Role;
    use portcullis_policy::{Direction, View};

    #[test]
    fn both_variants_have_every_stage() {
        for matching in [PortMatching::Range, PortMatching::Ternary] {
            let program = OwnProgram::new(matching).unwrap();
            let device = &program.device;
            assert!(device.is_own());
            assert_eq!(device.model.view, View::FULL);
            for direction in Direction::BOTH {
                for role in [Role::Attach, Role::Deliver, Role::Remote, Role::Policy] {
                    let (_, table) = device
                        .stage(role, direction)
                        .unwrap_or_else(|| panic!("{role:?}"));
                    assert_eq!(table.counted, role == Role::Policy, "{}", table.name);
                }
            }
            assert_ne!(program.cookie(), 0);
        }
        let embedded = OwnProgram::embedded().unwrap();
        let tables = &embedded.config.p4info.as_ref().unwrap().tables;
        for table in tables {
            let alias = &table.preamble.as_ref().unwrap().alias;
            let rows = contract(alias).map(|contract| contract.embedded_rows);
            assert_eq!(rows, Some(table.size), "{alias}");
        }
        let cookie = |m| OwnProgram::new(m).unwrap().cookie();
        assert_ne!(cookie(PortMatching::Range), embedded.cookie());
        assert_ne!(cookie(PortMatching::Range), cookie(PortMatching::Ternary));
    }
}
