//! Frames that arrive at one endpoint.

use crate::error::{Result, TestbedError};
use crate::sys;
use std::os::fd::OwnedFd;
use std::time::{Duration, Instant};

/// A capture that is running: it holds every frame that has arrived since it was started (up to 32 MiB of them).
/// Frames are whole, from the destination MAC on, VLAN tags included, without the frame check sequence.
#[derive(Debug)]
pub struct Capture {
    pub(crate) socket: OwnedFd,
    pub(crate) namespace: String,
}

impl Capture {
    /// The next frame, or `None` when `timeout` passes first.
    pub fn next(&self, timeout: Duration) -> Result<Option<Vec<u8>>> {
        sys::receive_frame(&self.socket, timeout).map_err(|source| TestbedError::Namespace {
            namespace: self.namespace.clone(),
            action: "receiving a frame",
            source,
        })
    }

    /// Sends one whole Ethernet frame out of the interface that is captured, as it is. What is sent is not captured.
    pub fn send(&self, frame: &[u8]) -> Result<()> {
        sys::send_frame(&self.socket, frame).map_err(|source| TestbedError::Namespace {
            namespace: self.namespace.clone(),
            action: "sending a frame",
            source,
        })
    }

    /// The first frame that `wanted` accepts, or `None` when `timeout` passes first. Other frames are thrown away.
    pub fn until(&self, timeout: Duration, mut wanted: impl FnMut(&[u8]) -> bool) -> Result<Option<Vec<u8>>> {
        let end = Instant::now() + timeout;
        loop {
            let left = end.saturating_duration_since(Instant::now());
            match self.next(left)? {
                Some(frame) if wanted(&frame) => return Ok(Some(frame)),
                Some(_) => {}
                None if left.is_zero() => return Ok(None),
                None => {}
            }
        }
    }

    /// Every frame that has come or comes within `timeout`.
    pub fn all(&self, timeout: Duration) -> Result<Vec<Vec<u8>>> {
        let mut frames = Vec::new();
        self.until(timeout, |frame| {
            frames.push(frame.to_vec());
            false
        })?;
        Ok(frames)
    }
}
