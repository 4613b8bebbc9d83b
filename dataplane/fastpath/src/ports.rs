//! Attachment points of a port by VLAN: the sender's policy and guard, and the receiver's policy.

use std::sync::Arc;

use crate::guard::Guard;
use crate::roles::Roles;

const CHUNK: usize = 64;

/// VLANs 0 to 63, 64 to 127, and so on; `None` where none of them has anything of its own.
type Chunks = Box<[Option<Arc<[AttachmentPoint]>>]>;

/// Sender and receiver of one VLAN at a port.
#[derive(Debug, Clone, Default)]
pub struct AttachmentPoint {
    /// The sender's policy, by its place among the compiled ones; without one, frames from here are dropped.
    pub sends: Option<u32>,
    /// Roles of the sender, which allow frames that other servers may not send.
    pub roles: Option<Arc<Roles>>,
    /// The source guard; absent for a sender that is not guarded.
    pub guard: Option<Arc<Guard>>,
    /// The receiver's policy, by its place among the compiled ones; without one, frames to here are dropped.
    pub receives: Option<u32>,
}

/// Everything of a port. VLANs without rows of their own have what rows for any VLAN say.
/// Most frames have no tag, so what stands for those lies in front.
#[derive(Debug, Clone, Default)]
pub struct Port {
    untagged: AttachmentPoint,
    any: AttachmentPoint,
    chunks: Option<Chunks>,
}

impl Port {
    /// Sender and receiver of a VLAN.
    #[inline(always)]
    pub fn point(&self, vlan: u16) -> &AttachmentPoint {
        if vlan == 0 {
            return &self.untagged;
        }
        let Some(chunks) = &self.chunks else {
            return &self.any;
        };
        let chunk = chunks.get(usize::from(vlan) / CHUNK).and_then(Option::as_ref);
        chunk
            .and_then(|c| c.get(usize::from(vlan) % CHUNK))
            .unwrap_or(&self.any)
    }

    /// Changes what VLANs have that have nothing of their own. `own` are those that do: they are set after this.
    pub fn set_any(&mut self, point: AttachmentPoint) {
        *self = Port {
            untagged: point.clone(),
            any: point,
            chunks: None,
        };
    }

    /// Sets sender and receiver of one VLAN.
    pub fn set(&mut self, vlan: u16, point: AttachmentPoint) {
        if vlan == 0 {
            self.untagged = point;
            return;
        }
        let chunks = self
            .chunks
            .get_or_insert_with(|| vec![None; 4096 / CHUNK].into_boxed_slice());
        let Some(chunk) = chunks.get_mut(usize::from(vlan) / CHUNK) else {
            return;
        };
        let any = &self.any;
        let chunk = chunk.get_or_insert_with(|| vec![any.clone(); CHUNK].into());
        if let Some(place) = Arc::make_mut(chunk).get_mut(usize::from(vlan) % CHUNK) {
            *place = point;
        }
    }

    /// The guards of all VLANs of the port.
    pub fn guards(&self) -> impl Iterator<Item = &Guard> {
        let chunks = self.chunks.iter().flat_map(|c| c.iter().flatten());
        let points = chunks
            .flat_map(|chunk| chunk.iter())
            .chain([&self.untagged, &self.any]);
        points.filter_map(|point| point.guard.as_deref())
    }

    /// Memory that it takes with its guards, in bytes.
    pub fn bytes(&self) -> usize {
        let own = |point: &AttachmentPoint| {
            point.guard.as_ref().map_or(0, |g| g.bytes() + 16)
                + point.roles.as_ref().map_or(0, |_| size_of::<Roles>() + 16)
        };
        let chunks = self.chunks.iter().flat_map(|c| c.iter().flatten());
        let chunks: usize = chunks
            .map(|c| c.iter().map(own).sum::<usize>() + CHUNK * size_of::<AttachmentPoint>() + 16)
            .sum();
        let index = self.chunks.as_ref().map_or(0, |c| c.len() * 8);
        own(&self.untagged) + own(&self.any) + chunks + index
    }
}
