# Sourced by the scripts beside it: what has to be installed, and how it is.
# shellcheck shell=bash

rust_wanted=1.89

die() { printf '%s: %s\n' "${0##*/}" "$*" >&2; exit 1; }

# Puts cargo on the PATH, also that of the user who called sudo.
need_cargo() {
    local home
    for home in "$HOME" "${SUDO_USER:+$(getent passwd "${SUDO_USER:-}" | cut -d: -f6)}"; do
        if command -v cargo >/dev/null; then break; fi
        if [[ -n $home && -x $home/.cargo/bin/cargo ]]; then
            PATH=$home/.cargo/bin:$PATH
            export RUSTUP_HOME=${RUSTUP_HOME:-$home/.rustup}
        fi
    done
    command -v cargo >/dev/null ||
        die "Rust $rust_wanted or newer is needed: install it from https://rustup.rs and run this again"
    local have
    have=$(cargo --version | cut -d' ' -f2)
    [[ $(printf '%s\n' "$rust_wanted" "$have" | sort -V | head -n 1) == "$rust_wanted" ]] ||
        die "Rust $rust_wanted or newer is needed, and this is $have: run \`rustup update\`"
}

# Installs the Debian packages among "$@" that are missing. Returns 1 when they are missing and cannot be installed.
need_packages() {
    local package missing=()
    if ! command -v dpkg-query >/dev/null; then
        printf 'Not a Debian machine: what these packages hold has to be there already: %s\n' "$*"
        return 0
    fi
    for package in "$@"; do
        if ! dpkg-query -W -f '${Status}' "$package" 2>/dev/null | grep -q '^install ok installed$'; then missing+=("$package"); fi
    done
    if [[ ${#missing[@]} -eq 0 ]]; then return 0; fi
    if [[ $EUID -ne 0 ]]; then
        printf 'Missing packages: %s. As root: apt-get install %s\n' "${missing[*]}" "${missing[*]}"
        return 1
    fi
    printf 'Installing %s\n' "${missing[*]}"
    apt-get update -qq
    # An Open vSwitch that is there already would be restarted by an upgrade.
    if apt-get install --simulate "${missing[@]}" | grep -q '^Inst openvswitch-switch \['; then
        printf 'This would upgrade, and so restart, the Open vSwitch of this machine. Do it yourself when it suits: apt-get install %s\n' "${missing[*]}"
        return 1
    fi
    DEBIAN_FRONTEND=noninteractive apt-get install -qq --no-install-recommends "${missing[@]}" >/dev/null
}

# DPDK's drivers are packages of their own, which Debian only recommends, under names that carry the version of DPDK's ABI
# (librte-net-af-packet23). Returns 1 like need_packages.
need_dpdk_drivers() { # NAME...
    local driver abi drivers=()
    command -v dpkg-query >/dev/null || return 0
    abi=$(dpkg-query -W -f '${db:Status-Status} ${Package}\n' 'librte-eal[0-9]*' | sed -n 's/^installed librte-eal//p' | tail -n 1)
    for driver in "$@"; do drivers+=("librte-$driver$abi"); done
    need_packages "${drivers[@]}"
}

# Open vSwitch with DPDK, and what the sandbox needs beside it. Returns 1 like need_packages.
need_open_vswitch() {
    need_packages openvswitch-switch-dpdk openvswitch-common iproute2 ethtool procps || return 1
    need_dpdk_drivers bus-vdev mempool-ring net-af-packet
}

# What the embedded switch is built with, and the devices that it and its tests use. Returns 1 like need_packages.
need_dpdk() {
    need_packages gcc libc6-dev libdpdk-dev libclang-dev pkg-config iproute2 || return 1
    need_dpdk_drivers bus-vdev bus-pci mempool-ring net-af-packet net-failsafe net-null net-pcap net-ring net-tap net-vhost
}

# What the demo and the benches build, with the same features, so that neither rebuilds what it has.
programs=(-p portcullis -p portcullis-switch -p portcullis-testbed --bins --example zone_server)

# Builds the programs for showing what they do. What takes time for each packet, row or proof is optimized, the rest is not.
build_programs() {
    printf 'Building. The first time takes about 5 minutes on 2 cores; later, what has changed.\n'
    cargo build "${programs[@]}"
}

# Builds the programs for measuring how fast they are.
build_release() { # PACKAGE...: more packages
    printf 'Building with optimization. The first time takes about 15 minutes on 2 cores; later, what has changed.\n'
    cargo build --release "${programs[@]}" "${@/#/-p}"
}
