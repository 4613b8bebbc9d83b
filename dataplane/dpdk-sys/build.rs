//! Finds libdpdk, compiles the shim against it and makes the bindings.

use std::env;
use std::path::{Path, PathBuf};
use std::process::{Command, exit};

const NO_DPDK: &str = "libdpdk 22.11 or newer was not found by pkg-config.\n\
    Debian and Ubuntu: apt-get install libdpdk-dev pkg-config\n\
    Built by hand: let PKG_CONFIG_PATH name the folder of its libdpdk.pc";
const NO_CLANG: &str = "libclang, which makes the bindings to libdpdk, was not found.\n\
    Debian and Ubuntu: apt-get install libclang-dev\n\
    Elsewhere: let LIBCLANG_PATH name the folder of libclang.so";

/// What of DPDK is bound.
const FUNCTIONS: [&str; 13] = [
    "pc_.*",
    "fopencookie",
    "rte_(openlog_stream|log_cur_msg_loglevel)",
    "rte_eal_(init|cleanup)",
    "rte_version(_year|_month)?",
    "rte_thread_(register|unregister)",
    "rte_(pktmbuf_(pool_create|free_bulk|clone|copy)|mempool_(free|avail_count))",
    "rte_dev_(probe|remove|name)",
    "rte_eth_dev_(info_get|configure|start|stop|close|is_valid_port|socket_id|get_name_by_port|set_mtu|get_mtu)",
    "rte_eth_((rx|tx)_queue_setup|find_next|promiscuous_(enable|disable|get)|macaddr_get|stats_(get|reset)|xstats_get(_names)?|dev_adjust_nb_rx_tx_desc)",
    "rte_flow_(validate|create|destroy|query|flush)",
    "rte_eth_dev_callback_(register|unregister)",
    "rte_ring_free",
];
const TYPES: [&str; 4] = [
    "pc_.*",
    "rte_eth_event_type",
    "rte_flow_(attr|item|action|error|query_count|action_(queue|mark|jump|count)|error_type|item_type|action_type)",
    "cookie_io_functions_t",
];
const CONSTANTS: [&str; 7] = [
    "PC_.*",
    "RTE_PKTMBUF_HEADROOM",
    "RTE_MEMPOOL_CACHE_MAX_SIZE",
    "RTE_MAX_(LCORE|ETHPORTS)",
    "RTE_ETH_MQ_RX_(NONE|RSS)",
    "RTE_ETH_SPEED_NUM_UNKNOWN",
    "RTE_LOG_[A-Z]+",
];
/// Types whose insides differ between versions, or that Rust cannot express; only pointers to them are used.
const OPAQUE: [&str; 5] = ["rte_mbuf", "rte_mempool", "rte_ring", "rte_device", "_IO_FILE"];

fn main() {
    for file in ["csrc/shim.h", "csrc/shim.c"] {
        println!("cargo:rerun-if-changed={file}");
    }
    println!("cargo:rerun-if-env-changed=LIBCLANG_PATH");
    let flags = find_dpdk();
    compile_shim(&flags);
    let out = PathBuf::from(env::var_os("OUT_DIR").unwrap_or_else(|| fail("cargo sets no OUT_DIR")));
    make_bindings(&flags, &out.join("bindings.rs"));
}

/// Tells cargo what to link with, and returns every compiler flag that pkg-config names.
fn find_dpdk() -> Vec<String> {
    if let Err(error) = pkg_config::Config::new()
        .atleast_version("22.11")
        .probe("libdpdk")
    {
        fail(&format!("{NO_DPDK}\n\n{error}"));
    }
    // The crate above keeps only -I and -D of the flags; DPDK's headers need -include and -march as well.
    let program = env::var_os("PKG_CONFIG").unwrap_or_else(|| "pkg-config".into());
    let output = match Command::new(&program).args(["--cflags", "libdpdk"]).output() {
        Ok(output) if output.status.success() => output,
        Ok(output) => fail(&format!(
            "{NO_DPDK}\n\n{}",
            String::from_utf8_lossy(&output.stderr)
        )),
        Err(error) => fail(&format!("{NO_DPDK}\n\n{}: {error}", program.display())),
    };
    let mut flags: Vec<String> = String::from_utf8_lossy(&output.stdout)
        .split_whitespace()
        .map(str::to_owned)
        .collect();
    // For fopencookie, through which DPDK's log comes.
    flags.push("-D_GNU_SOURCE".to_owned());
    flags
}

fn compile_shim(flags: &[String]) {
    let mut build = cc::Build::new();
    build.file("csrc/shim.c").warnings(true).extra_warnings(false);
    // In debug builds as well: unoptimised, DPDK's inline functions would be what their tests measure.
    build.opt_level(3);
    for flag in flags {
        build.flag(flag);
    }
    if let Err(error) = build.try_compile("portcullis_dpdk_shim") {
        fail(&format!(
            "the shim over libdpdk does not compile (a C compiler is needed: apt-get install gcc libc6-dev)\n\n{error}"
        ));
    }
}

fn make_bindings(flags: &[String], target: &Path) {
    // It panics when there is none, with words that name no package.
    std::panic::set_hook(Box::new(|_| {}));
    let found = std::panic::catch_unwind(|| bindgen::clang_version().full);
    drop(std::panic::take_hook());
    let Ok(version) = found else { fail(NO_CLANG) };
    let mut builder = bindgen::builder()
        .header("csrc/shim.h")
        .clang_args(flags)
        .use_core()
        .layout_tests(false)
        .generate_comments(false)
        .prepend_enum_name(false)
        .default_enum_style(bindgen::EnumVariation::Consts)
        .rust_edition(bindgen::RustEdition::Edition2024)
        .wrap_unsafe_ops(true);
    builder = FUNCTIONS
        .iter()
        .fold(builder, |b, name| b.allowlist_function(name));
    builder = TYPES.iter().fold(builder, |b, name| b.allowlist_type(name));
    builder = CONSTANTS.iter().fold(builder, |b, name| b.allowlist_var(name));
    builder = OPAQUE.iter().fold(builder, |b, name| b.opaque_type(name));
    let bindings = builder.generate().unwrap_or_else(|error| {
        fail(&format!(
            "{version} does not read the headers of libdpdk (its own headers come with libclang-dev)\n\n{error}"
        ))
    });
    if let Err(error) = bindings.write_to_file(target) {
        fail(&format!("{}: {error}", target.display()));
    }
}

/// Ends the build with a message that a reader of cargo's output sees as it is.
fn fail(message: &str) -> ! {
    eprintln!("\n{message}\n");
    exit(1)
}
