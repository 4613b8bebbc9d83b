//! DPDK's log as `tracing` events (target `dpdk`). The lines logged during one call can be attached to that call's error.

use portcullis_dpdk_sys as sys;
use std::cell::{Cell, RefCell};
use std::ffi::{c_char, c_int, c_void};
use std::ptr;

thread_local! {
    static HEARD: RefCell<Option<Vec<String>>> = const { RefCell::new(None) };
    static IS_QUIET: Cell<bool> = const { Cell::new(false) };
}

/// From which severity on DPDK logs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum LogLevel {
    /// Errors and nothing else.
    Error,
    /// Errors and warnings, the default.
    #[default]
    Warning,
    /// And what is normal but matters.
    Notice,
    /// And what is going on.
    Info,
    /// Everything, also what helps only who develops drivers.
    Debug,
}

impl LogLevel {
    /// The word that EAL's `--log-level` takes.
    pub(crate) fn word(self) -> &'static str {
        match self {
            Self::Error => "error",
            Self::Warning => "warning",
            Self::Notice => "notice",
            Self::Info => "info",
            Self::Debug => "debug",
        }
    }
}

/// Sends DPDK's log to `tracing` from now on. `false` when the C library gives no stream, and the log stays on stderr.
pub(crate) fn redirect() -> bool {
    let functions = sys::cookie_io_functions_t {
        read: None,
        write: Some(write),
        seek: None,
        close: None,
    };
    // SAFETY: the mode is a C string, and `write` uses no cookie. The stream is never closed, as DPDK keeps it.
    let stream = unsafe { sys::fopencookie(ptr::null_mut(), c"w".as_ptr(), functions) };
    if stream.is_null() {
        return false;
    }
    // Line by line, so that a line is written by the thread that logs it, also when several do at once.
    // SAFETY: the stream is open, and with no buffer given the C library takes its own.
    let buffered = unsafe { libc::setvbuf(stream.cast(), ptr::null_mut(), libc::_IOLBF, 1024) };
    // SAFETY: the stream is open, and stays so.
    buffered == 0 && unsafe { sys::rte_openlog_stream(stream) } == 0
}

/// What `call` returns, and what DPDK logged in this thread meanwhile.
pub(crate) fn listening<T>(call: impl FnOnce() -> T) -> (T, Vec<String>) {
    let before = HEARD.replace(Some(Vec::new()));
    let result = call();
    let heard = HEARD.replace(before).unwrap_or_default();
    (result, heard)
}

/// The same for a call that may fail as a matter of course: what DPDK logs is for debugging, and for the error.
pub(crate) fn quietly<T>(call: impl FnOnce() -> T) -> (T, Vec<String>) {
    let before = IS_QUIET.replace(true);
    let result = listening(call);
    IS_QUIET.set(before);
    result
}

/// The C library calls this with each line.
unsafe extern "C" fn write(_cookie: *mut c_void, text: *const c_char, length: usize) -> sys::__ssize_t {
    // SAFETY: the C library gives a buffer of that many bytes, which is ours for the length of this call.
    let bytes = unsafe { std::slice::from_raw_parts(text.cast::<u8>(), length) };
    // SAFETY: reads a variable of the calling thread.
    let level = unsafe { sys::rte_log_cur_msg_loglevel() };
    let text = String::from_utf8_lossy(bytes);
    for line in text.lines().map(str::trim).filter(|line| !line.is_empty()) {
        keep(line);
        if IS_QUIET.try_with(Cell::get).unwrap_or(false) {
            tracing::debug!(target: "dpdk", "{line}");
        } else {
            emit(level, line);
        }
    }
    // More than a long would be no buffer at all.
    sys::__ssize_t::try_from(length).unwrap_or(-1)
}

/// For [`listening`]. A thread that ends no longer has the variable, and its lines are not kept.
fn keep(line: &str) {
    let kept = HEARD.try_with(|heard| {
        if let Ok(mut heard) = heard.try_borrow_mut()
            && let Some(lines) = heard.as_mut()
        {
            lines.push(line.to_owned());
        }
    });
    if kept.is_err() {
        tracing::trace!(target: "dpdk", "a thread logs while it ends");
    }
}

fn emit(level: c_int, line: &str) {
    match u32::try_from(level).unwrap_or(sys::RTE_LOG_ERR) {
        0..=sys::RTE_LOG_ERR => tracing::error!(target: "dpdk", "{line}"),
        sys::RTE_LOG_WARNING => tracing::warn!(target: "dpdk", "{line}"),
        sys::RTE_LOG_NOTICE | sys::RTE_LOG_INFO => tracing::info!(target: "dpdk", "{line}"),
        _ => tracing::debug!(target: "dpdk", "{line}"),
    }
}

/// The lines as the end of an error's text.
pub(crate) fn said(lines: &[String]) -> String {
    if lines.is_empty() {
        String::new()
    } else {
        format!("; DPDK says: {}", lines.join(" / "))
    }
}
