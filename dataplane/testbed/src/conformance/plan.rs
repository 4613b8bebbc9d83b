//! A fault that waits for its batch.

use super::Fault;

/// Which batch meets which fault.
#[derive(Debug, Default)]
pub struct Plan {
    armed: Option<(Fault, usize)>,
    met: u64,
}

impl Plan {
    /// The `nth` batch from now on meets this fault.
    pub fn arm(&mut self, fault: Fault, nth: usize) {
        self.armed = Some((fault, nth));
    }

    /// A batch is about to be executed: the fault that it meets.
    pub fn due(&mut self) -> Option<Fault> {
        let (fault, nth) = self.armed.take()?;
        match nth.checked_sub(1) {
            Some(left) => {
                self.armed = Some((fault, left));
                None
            }
            None => {
                self.met += 1;
                Some(fault)
            }
        }
    }

    /// Forgets the fault that no batch met.
    pub fn disarm(&mut self) {
        self.armed = None;
    }

    /// Batches that met a fault.
    pub fn met(&self) -> u64 {
        self.met
    }
}
