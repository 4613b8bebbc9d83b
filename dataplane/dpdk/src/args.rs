//! Options of EAL (DPDK's environment layer) and the command-line arguments they become.

use crate::log::LogLevel;
use std::ffi::{CString, NulError};
use std::path::PathBuf;
use thiserror::Error;

/// How DPDK is initialised. [`Default`]: hugepages, a file prefix of the process's own, no PCI device before it is asked
/// for.
#[derive(Debug, Clone, Default)]
pub struct EalOptions {
    /// Ordinary memory instead of hugepages. NICs with vfio need hugepages, or an IOMMU.
    pub no_huge: bool,
    /// Memory to take at the start, in MiB. Without hugepages this is all there will be, and DPDK's own default is 64;
    /// with hugepages it grows when needed.
    pub memory_mb: Option<u32>,
    /// Keep no files (in `/dev/hugepages` and `/run/dpdk`), so that nothing is left behind and any number of processes
    /// can run; secondary processes cannot join then.
    pub in_memory: bool,
    /// Do not look at PCI devices at all.
    pub no_pci: bool,
    /// Name of the files in `/dev/hugepages` and `/run/dpdk`, which only one process at a time can use. `portcullis-PID`
    /// when `None`; `portcullis` when there are no files (`in_memory`).
    pub file_prefix: Option<String>,
    /// CPUs for DPDK's own threads; those that the calling thread may run on when empty. Workers are placed by
    /// [`Eal::spawn_worker`](crate::Eal::spawn_worker), not by this.
    pub cores: Vec<usize>,
    /// From which severity on DPDK logs. The log goes to `tracing`, target `dpdk`.
    pub log_level: LogLevel,
    /// PCI addresses that are probed at the start. Others are when [`Device::probe`](crate::Device::probe) names them.
    pub allowed_pci: Vec<String>,
    /// Serve DPDK's telemetry socket.
    pub telemetry: bool,
    /// A driver's file, or a folder of them, to load besides those that DPDK was installed with.
    pub drivers: Vec<PathBuf>,
    /// More arguments for EAL, each `--option` or `--option=value`. Only options that every version knows: newer ones end
    /// the process when they see another.
    pub extra: Vec<String>,
}

impl EalOptions {
    /// No hugepages, no PCI, no files, `memory_mb` MiB of ordinary memory: for virtual devices, anywhere.
    #[must_use]
    pub fn without_hardware(memory_mb: u32) -> Self {
        Self {
            no_huge: true,
            memory_mb: Some(memory_mb),
            in_memory: true,
            no_pci: true,
            ..Self::default()
        }
    }
}

/// Why options cannot become arguments of EAL.
#[derive(Debug, Error, PartialEq, Eq)]
pub enum OptionError {
    /// EAL could end the process on seeing it.
    #[error(
        "EAL argument {0:?} is not accepted: write one word, --option or --option=value, and only what has no setting of its own"
    )]
    Unknown(String),
    /// Arguments are C strings.
    #[error("the argument {0:?} holds a zero byte")]
    ZeroByte(String),
    /// `0` MiB, which EAL does not accept.
    #[error("memory_mb is 0: DPDK needs memory, at least about 64 MiB")]
    NoMemory,
    /// Both `no_pci` and PCI devices.
    #[error("PCI devices are listed although PCI is off: remove them, or turn PCI on")]
    PciIsOff,
}

/// An address that no device has: with it on the allow list, EAL probes none at the start.
const NO_PCI_DEVICE: &str = "0000:00:00.0";

/// The arguments for `options`, where the calling thread may run on `cpus`.
pub(crate) fn arguments(options: &EalOptions, cpus: &[usize]) -> Result<Vec<CString>, OptionError> {
    if options.memory_mb == Some(0) {
        return Err(OptionError::NoMemory);
    }
    if options.no_pci && !options.allowed_pci.is_empty() {
        return Err(OptionError::PciIsOff);
    }
    if let Some(argument) = options.extra.iter().find(|argument| !is_known(argument)) {
        return Err(OptionError::Unknown(argument.clone()));
    }
    let mut words = vec!["portcullis".to_owned()];
    let cores = if options.cores.is_empty() {
        cpus
    } else {
        &options.cores
    };
    // One logical core only, on all of these CPUs: workers are threads of ours.
    let cores: Vec<String> = cores.iter().map(ToString::to_string).collect();
    words.push(format!("--lcores=0@({})", cores.join(",")));
    words.push(format!("--log-level={}", options.log_level.word()));
    if options.no_huge {
        words.push("--no-huge".to_owned());
    }
    if let Some(memory) = options.memory_mb {
        words.extend(["-m".to_owned(), memory.to_string()]);
    }
    if options.in_memory {
        // Without hugepages there are no other files, and EAL refuses the two together.
        let option = if options.no_huge {
            "--no-shconf"
        } else {
            "--in-memory"
        };
        words.push(option.to_owned());
    }
    words.push(format!("--file-prefix={}", prefix(options)));
    if !options.telemetry {
        words.push("--no-telemetry".to_owned());
    }
    words.extend(pci(options));
    for path in &options.drivers {
        words.extend(["-d".to_owned(), path.to_string_lossy().into_owned()]);
    }
    words.extend(options.extra.iter().cloned());
    words
        .into_iter()
        .map(|word| {
            CString::new(word).map_err(|error: NulError| {
                OptionError::ZeroByte(String::from_utf8_lossy(&error.into_vec()).into_owned())
            })
        })
        .collect()
}

/// Of the files; and of an empty folder in `/run/dpdk`, which stays behind, so that it is not one for each process.
fn prefix(options: &EalOptions) -> String {
    match &options.file_prefix {
        Some(prefix) => prefix.clone(),
        None if options.in_memory => "portcullis".to_owned(),
        None => format!("portcullis-{}", std::process::id()),
    }
}

fn pci(options: &EalOptions) -> Vec<String> {
    if options.no_pci {
        vec!["--no-pci".to_owned()]
    } else if options.allowed_pci.is_empty() {
        vec!["-a".to_owned(), NO_PCI_DEVICE.to_owned()]
    } else {
        let allowed = options.allowed_pci.iter();
        allowed
            .flat_map(|address| ["-a".to_owned(), address.clone()])
            .collect()
    }
}

/// EAL's other options, in all of its versions: those that take a value, and those that take none or may.
const WITH_VALUE: [&str; 14] = [
    "base-virtaddr",
    "force-max-simd-bitwidth",
    "huge-dir",
    "iova-mode",
    "log-level",
    "mbuf-pool-ops-name",
    "socket-limit",
    "socket-mem",
    "trace",
    "trace-dir",
    "trace-mode",
    "vdev",
    "vfio-intr",
    "vfio-vf-token",
];
const ALONE: [&str; 8] = [
    "create-uio-dev",
    "huge-unlink",
    "legacy-mem",
    "match-allocations",
    "no-hpet",
    "no-shconf",
    "single-file-segments",
    "vmware-tsc-map",
];

/// Whether EAL knows `argument`. One that it does not know ends the process in newer versions, and `help` in all.
fn is_known(argument: &str) -> bool {
    let Some(option) = argument.strip_prefix("--") else {
        return false;
    };
    match option.split_once('=') {
        Some((name, value)) => {
            !matches!(value, "" | "help") && (WITH_VALUE.contains(&name) || name == "huge-unlink")
        }
        None => ALONE.contains(&option),
    }
}

#[cfg(test)]
mod tests {
    use super::{EalOptions, OptionError, arguments, is_known};

    fn words(options: &EalOptions) -> Vec<String> {
        let words = arguments(options, &[0, 3]).unwrap();
        words
            .into_iter()
            .map(|word| word.into_string().unwrap())
            .collect()
    }

    #[test]
    fn without_hardware_nothing_is_looked_for() {
        assert_eq!(
            words(&EalOptions::without_hardware(64)).join(" "),
            "portcullis --lcores=0@(0,3) --log-level=warning --no-huge -m 64 --no-shconf --file-prefix=portcullis \
             --no-telemetry --no-pci"
        );
    }

    #[test]
    fn pci_devices_are_probed_only_when_named() {
        let mut options = EalOptions {
            cores: vec![1],
            telemetry: true,
            file_prefix: Some("x".to_owned()),
            extra: vec!["--single-file-segments".to_owned()],
            ..EalOptions::default()
        };
        let none = "portcullis --lcores=0@(1) --log-level=warning --file-prefix=x -a 0000:00:00.0 --single-file-segments";
        assert_eq!(words(&options).join(" "), none);
        options.allowed_pci = vec!["0000:01:00.0".to_owned(), "0000:02:00.0".to_owned()];
        assert!(
            words(&options)
                .join(" ")
                .contains("-a 0000:01:00.0 -a 0000:02:00.0")
        );
    }

    #[test]
    fn files_are_named_after_the_process() {
        let in_memory = EalOptions {
            in_memory: true,
            ..EalOptions::default()
        };
        assert!(words(&in_memory).contains(&"--in-memory".to_owned()));
        let prefix = format!("--file-prefix=portcullis-{}", std::process::id());
        assert!(words(&EalOptions::default()).contains(&prefix));
    }

    #[test]
    fn arguments_that_could_end_the_process_are_refused() {
        for bad in [
            "--help",
            "--hel",
            "-h",
            "-vh",
            "--log-level=help",
            "--log-level",
            "--vdev=",
            "help",
            "",
            "--",
            "--no-hpet=1",
        ] {
            assert!(!is_known(bad), "{bad}");
        }
        for good in [
            "--huge-dir=/h",
            "--huge-unlink",
            "--huge-unlink=never",
            "--no-hpet",
            "--vdev=net_null0,copy=1",
        ] {
            assert!(is_known(good), "{good}");
        }
        let options = EalOptions {
            extra: vec!["-vh".to_owned()],
            ..EalOptions::default()
        };
        assert_eq!(
            arguments(&options, &[0]),
            Err(OptionError::Unknown("-vh".to_owned()))
        );
    }

    #[test]
    fn contradictions_are_refused() {
        let mut options = EalOptions::without_hardware(0);
        assert_eq!(arguments(&options, &[0]), Err(OptionError::NoMemory));
        options.memory_mb = None;
        options.file_prefix = Some("a\0b".to_owned());
        let zero = OptionError::ZeroByte("--file-prefix=a\0b".to_owned());
        assert_eq!(arguments(&options, &[0]), Err(zero));
        options.allowed_pci = vec!["0000:01:00.0".to_owned()];
        assert_eq!(arguments(&options, &[0]), Err(OptionError::PciIsOff));
    }
}
