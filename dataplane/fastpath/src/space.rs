//! Partition of an address space with a value for each part.

/// Where pieces begin, rising from 0, and what each has.
#[derive(Debug)]
pub struct Space<T, V> {
    starts: Box<[T]>,
    values: Box<[V]>,
}

impl<T: Ord + Copy, V: Copy> Space<T, V> {
    /// Of pieces: where each begins, and what it has.
    pub fn from_pieces(pieces: impl Iterator<Item = (T, V)>) -> Space<T, V> {
        let (starts, values): (Vec<T>, Vec<V>) = pieces.unzip();
        Space {
            starts: starts.into(),
            values: values.into(),
        }
    }

    /// What the piece has that an address is in.
    #[inline]
    pub fn find(&self, address: T) -> Option<V> {
        let piece = self.starts.partition_point(|start| *start <= address);
        self.values.get(piece.wrapping_sub(1)).copied()
    }

    /// Where each piece begins, and what it has.
    pub fn pieces(&self) -> impl Iterator<Item = (T, V)> {
        self.starts.iter().copied().zip(self.values.iter().copied())
    }

    /// Memory that it takes, in bytes.
    pub fn bytes(&self) -> usize {
        self.starts.len() * size_of::<T>() + self.values.len() * size_of::<V>()
    }
}
