//! How a datapath differs from what a machine left there.

/// Rows that were not as this machine left them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Drift<K> {
    /// Written by us and gone.
    pub missing: Vec<K>,
    /// Written by us, with another body since.
    pub altered: Vec<K>,
    /// With our tag and not ours.
    pub surplus: Vec<K>,
}

impl<K> Default for Drift<K> {
    fn default() -> Self {
        Drift {
            missing: Vec::new(),
            altered: Vec::new(),
            surplus: Vec::new(),
        }
    }
}

impl<K> Drift<K> {
    /// Number of rows that differ.
    pub fn len(&self) -> usize {
        self.missing.len() + self.altered.len() + self.surplus.len()
    }

    /// Whether the datapath is as this machine left it.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}
