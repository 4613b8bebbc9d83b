//! Creation, query and removal of rules on a device.

use super::encode::Encoded;
use super::error::{self, FlowError, FlowErrorKind};
use super::{Action, Resets, Rule};
use crate::device::Core;
use crate::eal::lock;
use crate::errno::Errno;
use crate::log;
use crate::port::{Port, Run, Started};
use portcullis_dpdk_sys as sys;
use std::ffi::c_void;
use std::mem::zeroed;
use std::ptr::{self, NonNull};
use std::sync::Arc;

/// A rule on a device. Dropping it removes it. Keeps its port started.
#[derive(Debug)]
pub struct FlowRule {
    /// `None` when it was removed.
    handle: Option<NonNull<sys::rte_flow>>,
    /// How often all rules had been flushed when it was made: after another time it is gone.
    made: u64,
    run: Arc<Run>,
}

// SAFETY: the handle is only given back to DPDK, under the lock of its port.
unsafe impl Send for FlowRule {}
// SAFETY: as above.
unsafe impl Sync for FlowRule {}

/// What a rule with [`Action::Count`] has counted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FlowCount {
    /// Packets; `None` when the device does not count those.
    pub packets: Option<u64>,
    /// Bytes; `None` when the device does not count those.
    pub bytes: Option<u64>,
}

/// The rules of a started port.
#[derive(Debug, Clone)]
pub struct Flows {
    run: Arc<Run>,
}

impl Port<Started> {
    /// Its rules, for a thread of their own. They keep the port started.
    #[must_use]
    pub fn flows(&self) -> Flows {
        Flows {
            run: Arc::clone(self.run()),
        }
    }
}

impl Flows {
    /// Begins to count how often the port resets.
    #[must_use]
    pub fn resets(&self) -> Resets {
        Resets::new(Arc::clone(&self.run))
    }

    /// Asks the device whether it would take `rule`, and leaves it at that.
    ///
    /// # Errors
    /// What it objects to.
    pub fn validate(&self, rule: &Rule) -> Result<(), FlowError> {
        let core = &self.run.core;
        let encoded = Encoded::new(rule);
        let mut raw = error::room();
        let _flows = lock(&core.flushed);
        // SAFETY: the port is started; the lists end, and live as long as the call, with what they point at.
        let status = unsafe {
            sys::rte_flow_validate(
                core.port,
                ptr::from_ref(encoded.attributes.as_ref()),
                encoded.items.as_ptr(),
                encoded.actions.as_ptr(),
                &raw mut raw,
            )
        };
        if status == 0 {
            return Ok(());
        }
        Err(error::explain(
            &core.info.name,
            "would not take the rule",
            status,
            &raw,
            Some(&encoded),
        ))
    }

    /// Puts `rule` on the device.
    ///
    /// # Errors
    /// What it objects to.
    pub fn create(&self, rule: &Rule) -> Result<FlowRule, FlowError> {
        let core = &self.run.core;
        let encoded = Encoded::new(rule);
        let mut raw = error::room();
        let flushed = lock(&core.flushed);
        let ((handle, errno), said) = log::quietly(|| {
            // SAFETY: the port is started; the lists end, and live as long as the call, with what they point at.
            let handle = unsafe {
                sys::rte_flow_create(
                    core.port,
                    ptr::from_ref(encoded.attributes.as_ref()),
                    encoded.items.as_ptr(),
                    encoded.actions.as_ptr(),
                    &raw mut raw,
                )
            };
            (handle, Errno::last())
        });
        let Some(handle) = NonNull::new(handle) else {
            let mut error = error::explain(
                &core.info.name,
                "does not take the rule",
                -errno.number(),
                &raw,
                Some(&encoded),
            );
            let words = error.message.into_iter().chain(said);
            error.message = words.reduce(|all, more| format!("{all} / {more}"));
            return Err(error);
        };
        Ok(FlowRule {
            handle: Some(handle),
            made: *flushed,
            run: Arc::clone(&self.run),
        })
    }

    /// Removes all rules of the port. Those that [`Flows::create`] gave are empty then.
    ///
    /// # Errors
    /// When the device does not; some rules may be gone, and none is known any longer.
    pub fn flush(&self) -> Result<(), FlowError> {
        let core = &self.run.core;
        let mut raw = error::room();
        let mut flushed = lock(&core.flushed);
        *flushed += 1;
        // SAFETY: the port is started.
        let status = unsafe { sys::rte_flow_flush(core.port, &raw mut raw) };
        if status == 0 {
            return Ok(());
        }
        Err(error::explain(
            &core.info.name,
            "does not remove its rules",
            status,
            &raw,
            None,
        ))
    }
}

impl FlowRule {
    /// What it has counted since it was made.
    ///
    /// # Errors
    /// When it does not count, or is gone.
    pub fn query(&self) -> Result<FlowCount, FlowError> {
        let core = &self.run.core;
        let flushed = lock(&core.flushed);
        let handle = self
            .handle
            .filter(|_| self.made == *flushed)
            .ok_or_else(|| gone(core))?;
        let argument = Action::Count.argument();
        let action = sys::rte_flow_action {
            type_: Action::Count.kind(),
            conf: argument
                .as_ref()
                .map_or(ptr::null(), super::action::Argument::pointer),
        };
        // SAFETY: the struct is numbers, for which zero is a value.
        let mut count: sys::rte_flow_query_count = unsafe { zeroed() };
        let mut raw = error::room();
        let room: *mut c_void = (&raw mut count).cast();
        // SAFETY: the rule is there, under the lock; `action` counts, and `count` is what that writes.
        let status =
            unsafe { sys::rte_flow_query(core.port, handle.as_ptr(), &raw const action, room, &raw mut raw) };
        if status != 0 {
            return Err(error::explain(
                &core.info.name,
                "does not tell what the rule counted",
                status,
                &raw,
                None,
            ));
        }
        Ok(FlowCount {
            packets: (count.hits_set() == 1).then_some(count.hits),
            bytes: (count.bytes_set() == 1).then_some(count.bytes),
        })
    }

    /// Removes it, as dropping does, and says what came of it.
    ///
    /// # Errors
    /// When the device does not remove it.
    pub fn destroy(mut self) -> Result<(), FlowError> {
        self.remove()
    }

    fn remove(&mut self) -> Result<(), FlowError> {
        let core = &self.run.core;
        let flushed = lock(&core.flushed);
        let Some(handle) = self.handle.take().filter(|_| self.made == *flushed) else {
            return Ok(());
        };
        let mut raw = error::room();
        // SAFETY: the rule is there, under the lock, and nothing has its handle after this.
        let status = unsafe { sys::rte_flow_destroy(core.port, handle.as_ptr(), &raw mut raw) };
        if status == 0 {
            return Ok(());
        }
        Err(error::explain(
            &core.info.name,
            "does not remove the rule",
            status,
            &raw,
            None,
        ))
    }
}

impl Drop for FlowRule {
    fn drop(&mut self) {
        if let Err(error) = self.remove() {
            tracing::error!(target: "dpdk", "{error}: {}", error.errno);
        }
    }
}

fn gone(core: &Core) -> FlowError {
    FlowError {
        port: core.info.name.clone(),
        step: "does not tell what the rule counted",
        kind: FlowErrorKind::Handle,
        cause: None,
        message: None,
        errno: Errno::from_return(-libc::ENOENT),
    }
}
