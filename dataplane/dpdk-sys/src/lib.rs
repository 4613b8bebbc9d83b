//! Bindings to the distribution's libdpdk (22.11 or newer, found by pkg-config), made when this crate is built.
//!
//! ```text
//! pkg-config ─cflags─┬▶ cc ──────▶ csrc/shim.c: what DPDK's headers hold inline, crossed once per burst
//!                    └▶ bindgen ─▶ functions, types and constants of an allowlist (build.rs)
//! ```
//!
//! Nothing here is safe to call; `portcullis-dpdk` is the layer that is. No version of DPDK is assumed: fields whose
//! place differs between versions are reached by offsets that the C compiler found (`PC_MBUF_…`), not by a copied struct.

#[allow(
    missing_docs,
    non_camel_case_types,
    non_snake_case,
    non_upper_case_globals,
    unsafe_op_in_unsafe_fn,
    clippy::all,
    clippy::pedantic,
    reason = "generated"
)]
mod bindings {
    include!(concat!(env!("OUT_DIR"), "/bindings.rs"));
}

pub use bindings::*;

#[cfg(test)]
mod tests {
    use std::ffi::CStr;

    #[test]
    fn the_library_at_run_time_is_the_one_bound() {
        // SAFETY: the functions take nothing, and rte_version returns a string that lives for ever.
        let (text, year) = unsafe { (CStr::from_ptr(super::rte_version()), super::rte_version_year()) };
        let text = text.to_string_lossy();
        assert!(text.starts_with(&format!("DPDK {year}.")), "{text}");
        assert!(year >= 22, "{text}");
    }

    #[test]
    fn fields_of_a_packet_buffer_do_not_overlap() {
        let fields = [
            (super::PC_MBUF_BUF_ADDR, 8),
            (super::PC_MBUF_DATA_OFF, 2),
            (super::PC_MBUF_REFCNT, 2),
            (super::PC_MBUF_NB_SEGS, 2),
            (super::PC_MBUF_PORT, 2),
            (super::PC_MBUF_OL_FLAGS, 8),
            (super::PC_MBUF_PKT_LEN, 4),
            (super::PC_MBUF_DATA_LEN, 2),
            (super::PC_MBUF_BUF_LEN, 2),
            (super::PC_MBUF_POOL, 8),
            (super::PC_MBUF_NEXT, 8),
            (super::PC_MBUF_SHINFO, 8),
        ];
        for (index, (start, length)) in fields.iter().enumerate() {
            assert_eq!(start % length, 0, "field {index} is not aligned");
            for (other, (from, long)) in fields.iter().enumerate().filter(|(other, _)| *other != index) {
                assert!(
                    start + length <= *from || from + long <= *start,
                    "fields {index} and {other} overlap"
                );
            }
        }
    }
}
