//! Expiry carried in rows: the device closes what an unlock opened, also without the agent.
//!
//! A row that leads a port to a class says with it what the class will be as unlocks end. A server that keeps such ends
//! says so with the header [`HEADER`] in its answer to `Capabilities`; then the agent appends them to the row's `metadata`,
//! behind its own ten bytes:
//!
//! ```text
//! tag (2) generation (8) "ends" (4) [ moment (8) value (4) ]...
//! ```
//!
//! Numbers are big-endian. From each moment on, in seconds since the Unix epoch, the value is that of the first parameter of
//! the row's action, and the server removes from the metadata what has passed. The server goes by its own clocks and ends
//! nothing late: at the moment itself, or when the time that was left at the write has gone by, if that is earlier.
//!
//! P4Runtime's `idle_timeout_ns` is no such thing: it counts from the last packet. To a server that does not keep ends,
//! metadata has no meaning; there leases end by the agent alone, and status says so.

use crate::entry::End;

/// The header by which a server says that it keeps ends.
pub const HEADER: &str = "portcullis-row-ends";

/// Bytes of tag and generation.
pub const TAG: usize = 10;
const MARK: &[u8; 4] = b"ends";
/// Bytes of one end.
const ONE: usize = 12;

/// Metadata with ends behind it; without any, as it was.
pub fn append(mut metadata: Vec<u8>, ends: &[End]) -> Vec<u8> {
    if !ends.is_empty() {
        metadata.extend_from_slice(MARK);
        for end in ends {
            metadata.extend_from_slice(&end.at.to_be_bytes());
            metadata.extend_from_slice(&end.value.to_be_bytes());
        }
    }
    metadata
}

/// Whether metadata speaks of ends.
pub fn has(metadata: &[u8]) -> bool {
    metadata.get(TAG..).is_some_and(|rest| rest.starts_with(MARK))
}

/// The ends in metadata, none in metadata that does not speak of them; `None` when they cannot be read: cut off, or not
/// rising.
pub fn read(metadata: &[u8]) -> Option<Vec<End>> {
    if !has(metadata) {
        return Some(Vec::new());
    }
    let ends = metadata.get(TAG + MARK.len()..)?.chunks(ONE);
    let ends: Option<Vec<End>> = ends
        .map(|one| {
            let (at, value) = one.split_first_chunk::<8>()?;
            Some(End {
                at: u64::from_be_bytes(*at),
                value: u32::from_be_bytes(value.try_into().ok()?),
            })
        })
        .collect();
    ends.filter(|ends| !ends.is_empty() && ends.is_sorted_by(|a, b| a.at < b.at))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_appended_is_read() {
        let end = |at, value| End { at, value };
        let own = vec![7; TAG];
        for ends in [vec![], vec![end(5, 0)], vec![end(1, 9), end(u64::MAX, 65_535)]] {
            let metadata = append(own.clone(), &ends);
            assert_eq!(has(&metadata), !ends.is_empty());
            assert_eq!(read(&metadata), Some(ends));
        }
    }

    #[test]
    fn ends_that_cannot_be_kept_are_no_ends() {
        let end = |at, value| End { at, value };
        let own = vec![7; TAG];
        let whole = append(own.clone(), &[end(1, 2), end(3, 4)]);
        for cut in TAG + 1..whole.len() {
            let cut = &whole[..cut];
            let whole_ends = (cut.len() - TAG)
                .checked_sub(4)
                .is_some_and(|n| n > 0 && n.is_multiple_of(ONE));
            assert_eq!(
                read(cut).is_some_and(|e| !e.is_empty()),
                whole_ends,
                "{}",
                cut.len()
            );
        }
        assert_eq!(read(&append(own.clone(), &[end(3, 1), end(3, 2)])), None);
        assert_eq!(read(&append(own, &[end(3, 1), end(2, 2)])), None);
        // What others keep there says nothing of ends.
        assert_eq!(read(b"ends"), Some(Vec::new()));
    }
}
