# Sourced by hack/demo and hack/rack.sh: how a story is told, and the stage it plays on.
# shellcheck shell=bash

# --- telling -------------------------------------------------------------------------------------------------------

expectations=0 differences=0

chapter() { printf '\n=== %s\n' "$*"; }
say() { printf '  %s\n' "$*"; }
indent() { sed 's/^/    | /'; }

judge() { # WHAT EXPECTED SAW
    local verdict=ok
    expectations=$((expectations + 1))
    if [[ $2 != "$3" ]]; then verdict=FAIL; differences=$((differences + 1)); fi
    printf '  %-42s EXPECT %-11s SAW %-11s %s\n' "$1" "$2" "$3" "$verdict"
}

# Runs the command on the agent, shows both; its output stays in $answer.
portcullis() { portcullis_ends 0 "$@"; }

portcullis_ends() { # STATUS ARGUMENTS...
    local wanted=$1 status=0
    shift
    printf '  $ portcullis %s\n' "$*"
    answer=$("$bin/portcullis" --socket "$dir/agent.sock" "$@" 2>&1) || status=$?
    indent <<<"$answer"
    judge "portcullis $1${2:+ $2}" "status $wanted" "status $status"
}

answered() { # WHAT TEXT: whether the last answer has it
    judge "$1" said "$(if grep -qF -- "$2" <<<"$answer"; then echo said; else echo 'not said'; fi)"
}

fact() { # KEY EXPECTED: what `explain` says
    judge "$1" "$2" "$(sed -nE "s/^$1 +//p" <<<"$answer")"
}

has_hits() { # RULE allow|deny: whether packets of it were counted, in any class
    judge "packets counted for $1" some "$(awk -v rule="$1" -v action="$2" \
        '$3 == rule && $4 == action { packets += $5 } END { print (packets > 0) ? "some" : "none" }' <<<"$answer")"
}

# --- the stage -----------------------------------------------------------------------------------------------------

dir='' agent='' resolver='' unlock='' watcher=''

clean() {
    local status=$?
    trap - EXIT
    trap '' INT TERM HUP
    if [[ -n $watcher ]]; then
        rm -f "$dir/watching"
        wait "$watcher" || true
    fi
    if [[ -n $dir ]]; then
        if ((keep && status != 130 && status != 143)); then
            hack/sandbox keep "$dir" 8>&- && how_to_talk
        else
            chapter "Cleaning up"
            if ((status != 0 && status != 130 && status != 143)) && [[ -s $dir/agent.log ]]; then
                say "the end of the agent's log:"
                tail -n 20 "$dir/agent.log" | indent
            fi
            hack/sandbox down "$dir" && rm -rf -- "$dir" || status=1
        fi
    fi
    exit "$status"
}

start_agent() {
    local where=()
    # It starts the embedded switch, which is to find the interfaces.
    if [[ $target == @(embedded|rack) ]]; then where=(ip netns exec "$(switch_namespace)"); fi
    # Ends with the sandbox at the latest, also when this script is killed.
    hack/sandbox run "$dir" "${where[@]}" "$bin/portcullis" agent --config "$dir/agent.toml" >>"$dir/agent.log" 2>&1 </dev/null &
    agent=$!
    disown "$agent"
    local attempt
    for attempt in {1..150}; do
        # 4: not reachable; 3: reachable, with nothing realized yet.
        local status=0
        "$bin/portcullis" --socket "$dir/agent.sock" status >/dev/null 2>&1 || status=$?
        if ((status == 0 || status == 3)); then return; fi
        kill -0 "$agent" 2>/dev/null || break
        sleep 0.1
    done
    tail -n 20 "$dir/agent.log" | indent
    die "the agent does not answer (after $attempt tries); its log is above"
}

serve() { # NAME OPTIONS...
    local name=$1
    shift
    hack/sandbox exec "$dir" "$name" "$bin/portcullis-probe" serve "$@" >"$dir/$name.served" 2>&1 </dev/null &
    disown $!
    local attempt
    for attempt in {1..50}; do
        if grep -q ready "$dir/$name.served"; then return; fi
        sleep 0.1
    done
    die "the servers in $name did not start (after $attempt tries): $(<"$dir/$name.served")"
}

# An authoritative DNS server for the checks of unlocks, beside the agent; it reads its file again when that changes.
serve_zone() {
    local where=() attempt
    if [[ $target == @(embedded|rack) ]]; then where=(ip netns exec "$(switch_namespace)"); fi
    printf '; nothing yet\n' >"$dir/zone"
    hack/sandbox run "$dir" "${where[@]}" "$bin/examples/zone_server" "$dir/zone" 127.0.0.1:0 >"$dir/zone.log" 2>&1 </dev/null &
    disown $!
    for attempt in {1..50}; do
        resolver=$(sed -nE 's/^serving .* at ([0-9.]+:[0-9]+).*/\1/p' "$dir/zone.log")
        if [[ -n $resolver ]]; then return; fi
        sleep 0.1
    done
    die "the DNS server did not start (after $attempt tries): $(<"$dir/zone.log")"
}

probe() { # FROM tcp|udp ADDRESS PORT EXPECTED: one word
    local patience=4000
    if [[ $5 == timeout ]]; then patience=1300; fi   # longer than the first retransmission of a SYN
    hack/sandbox exec "$dir" "$1" "$bin/portcullis-probe" "$2" "$3" "$4" --timeout "$patience" 2>&1 || true
}

# A packet that is dropped is not answered at all, and so `timeout` is what a blocked port looks like.
sees() { # FROM TO PROTOCOL/PORT open|answered|timeout
    local protocol=${3%/*} port=${3#*/}
    judge "$1 -> $2 $3 over IPv4" "$4" "$(probe "$1" "$protocol" "${ipv4[$2]}" "$port" "$4")"
    judge "$1 -> $2 $3 over IPv6" "$4" "$(probe "$1" "$protocol" "${ipv6[$2]}" "$port" "$4")"
}

build() {
    chapter "Installing what is missing, and building"
    need_packages ethtool procps || die "the packages above are needed"
    need_dpdk || die "the packages above are needed"
    if [[ $target == @(ovs|rack) ]]; then need_open_vswitch || die "the packages above are needed"; fi
    need_cargo
    build_programs
    bin=$(cargo metadata --format-version 1 --no-deps --offline | sed -E 's/.*"target_directory":"([^"]*)".*/\1/')/debug
    say "built $bin/portcullis"
}

switch_namespace() { echo "pc$(sed -n 's/^id=//p' "$dir/sandbox.conf")-ovs"; }

veth() { sed -n 's/^veth=//p' "$dir/endpoints/$1"; } # NAME: the switch's end of its wire
