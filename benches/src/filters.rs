//! Filter sets as packet classification is measured with: made by a seeded generator, and files of ClassBench's format
//! when `PORTCULLIS_CLASSBENCH` names a folder of them.

mod generate;
#[cfg(test)]
mod tests;

use portcullis_compiler::{Class, ClassId, Fingerprint, Intent};
use portcullis_policy::classbench;
use portcullis_policy::{PerDirection, Verdict, canonical};

use generate::{Kind, generate};

/// Filters of a generated set.
pub const FILTERS: usize = 10_000;

#[derive(Debug, Clone)]
pub struct FilterSet {
    pub name: String,
    pub text: String,
}

/// The generated sets, then files of 5,000 lines and more.
pub fn sets() -> std::io::Result<Vec<FilterSet>> {
    let kinds = [("acl", Kind::Acl), ("fw", Kind::Fw), ("ipc", Kind::Ipc)];
    let mut sets: Vec<FilterSet> = kinds
        .into_iter()
        .map(|(name, kind)| FilterSet {
            name: format!("{name} (generated)"),
            text: generate(kind, FILTERS, 1),
        })
        .collect();
    if let Some(folder) = std::env::var_os("PORTCULLIS_CLASSBENCH") {
        let mut files: Vec<_> = std::fs::read_dir(folder)?.collect::<Result<_, _>>()?;
        files.sort_by_key(std::fs::DirEntry::file_name);
        for file in files {
            let text = std::fs::read_to_string(file.path())?;
            if text.lines().filter(|l| l.starts_with('@')).count() >= 5_000 {
                let name = file.file_name().to_string_lossy().into_owned();
                sets.push(FilterSet { name, text });
            }
        }
    }
    Ok(sets)
}

impl FilterSet {
    pub fn filters(&self) -> usize {
        self.text.lines().filter(|l| l.starts_with('@')).count()
    }

    /// The one class it is, of every port.
    pub fn intent(&self, default: Verdict) -> Result<Intent, classbench::LineError> {
        let policy = canonical(&classbench::parse(&self.text, default)?);
        let class = Class {
            id: ClassId(1),
            fingerprint: Fingerprint::from_policy(&policy),
            policy,
            base: None,
        };
        Ok(Intent {
            generation: 1,
            classes: [(class.id, std::sync::Arc::new(class))].into_iter().collect(),
            unmanaged: PerDirection {
                egress: ClassId(1),
                ingress: ClassId::OPEN,
            },
            ..Intent::default()
        })
    }
}
