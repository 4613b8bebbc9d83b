//! The compiled policies of a snapshot.

use std::sync::Arc;

use super::pairs;
use crate::classes::{self, Class};
use crate::port_map::Bitmaps;
use crate::remote::Remotes;
use crate::row::{Action, NO_SLOT, Row};
use crate::table::Table;

/// Classes are looked up in two steps, so that a change copies little.
pub(super) const CHUNK: usize = 256;

/// Compiled policies of one direction: those of classes at their numbers, then those of pairs of class and overlay.
#[derive(Debug, Clone)]
pub(super) struct Classes {
    pub(super) chunks: Box<[Arc<Chunk>; CHUNKS]>,
    /// Of classes that have no rows of their own.
    pub(super) nobody: Arc<Class>,
}

const CHUNKS: usize = (pairs::CLASSES + pairs::MOST) as usize / CHUNK;
type Chunk = [Option<Arc<Class>>; CHUNK];

impl Classes {
    pub(super) fn new(table: Table, maps: &mut Bitmaps) -> Classes {
        let empty: Arc<Chunk> = Arc::new([const { None }; CHUNK]);
        let mut chunks = Box::new(std::array::from_fn(|_| Arc::clone(&empty)));
        // Nothing is denied to class 0, whatever rows say.
        let all = Row {
            conds: Box::default(),
            priority: 1,
            action: Action::Allow,
            slot: NO_SLOT,
        };
        let anybody = classes::compile(table, &[&all], Remotes::default(), maps);
        Arc::make_mut(&mut chunks[0])[0] = Some(Arc::new(anybody));
        Classes {
            chunks,
            nobody: Arc::new(classes::compile(table, &[], Remotes::default(), maps)),
        }
    }

    #[inline(always)]
    pub(super) fn get(&self, place: u32) -> &Class {
        match &self.chunks[place as usize / CHUNK % CHUNKS][place as usize % CHUNK] {
            Some(own) => own,
            None => &self.nobody,
        }
    }

    pub(super) fn set(&mut self, place: u32, compiled: Option<Arc<Class>>) {
        if place == 0 {
            return;
        }
        Arc::make_mut(&mut self.chunks[place as usize / CHUNK % CHUNKS])[place as usize % CHUNK] = compiled;
    }

    pub(super) fn bytes(&self) -> usize {
        let own = |chunk: &Arc<Chunk>| chunk.iter().flatten().map(|c| c.bytes() + 16).sum::<usize>();
        let used = self.chunks.iter().map(own).filter(|bytes| *bytes > 0);
        used.map(|bytes| bytes + CHUNK * 8).sum()
    }
}

impl Classes {
    /// Classes that are compiled on their own.
    pub(super) fn set_classes(&self) -> Vec<u16> {
        let mut set = Vec::new();
        for (at, chunk) in self
            .chunks
            .iter()
            .enumerate()
            .take(pairs::CLASSES as usize / CHUNK)
        {
            let places = chunk.iter().enumerate();
            let own = places.filter(|(_, class)| class.is_some());
            set.extend(own.map(|(low, _)| (at * CHUNK + low) as u16));
        }
        set
    }
}
