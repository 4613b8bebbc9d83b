# Sourced by hack/demo --topology rack: one policy on a switch at the top of the rack and on the Open vSwitch behind it.
# shellcheck shell=bash

#   internet -- 9 [tor] 1 -- up1 [host, VLAN 10] -- web1, db1
#                       2 -- up2 [host, VLAN 20] -- mail1
# Each server has a port of its own at the top of the rack. db1 has none: its frames turn back at the host's switch.

ipv4=([web1]=192.0.2.10 [mail1]=192.0.2.20 [db1]=192.0.2.30 [internet]=192.0.2.1)
ipv6=([web1]=2001:db8::10 [mail1]=2001:db8::20 [db1]=2001:db8::30 [internet]=2001:db8::1)
mac=([web1]=02:00:00:00:00:10 [mail1]=02:00:00:00:00:20 [db1]=02:00:00:00:00:30 [internet]=02:00:00:00:00:01)
declare -A vlan=([web1]=10 [db1]=10 [mail1]=20) tor_port=([web1]=1 [mail1]=2)

# Rows that the agent may take of each policy table at the top of the rack.
room=40

rack_stage() {
    local name
    chapter "A private Open vSwitch with DPDK, cabled to where the agent will start the switch at the top of the rack"
    dir=$(mktemp -d /tmp/pc-demo.XXXXXX)
    hack/sandbox up "$dir" --dpdk --owner $$ >/dev/null
    for name in internet web1 db1 mail1; do
        local options=()
        if [[ $name == internet ]]; then options=(--no-plug); else options=(--tag "${vlan[$name]}"); fi
        hack/sandbox endpoint "$dir" "$name" --mac "${mac[$name]}" --addr "${ipv4[$name]}/24" --addr6 "${ipv6[$name]}/64" "${options[@]}" >/dev/null
        say "$name is a network namespace with ${ipv4[$name]} and ${ipv6[$name]}"
    done
    local up1 up2
    up1=$(hack/sandbox cable "$dir" up1 --tag 10)
    up2=$(hack/sandbox cable "$dir" up2 --tag 20)
    serve internet --tcp 25 --tcp 443
    serve web1 --tcp 80 --tcp 445 --tcp 5001 --tcp 5079
    serve db1 --tcp 3306
    serve mail1 --tcp 25 --tcp 445
    hack/sandbox ovs "$dir" ovs-vsctl --db="unix:$dir/db.sock" show | indent
    cat >"$dir/agent.toml" <<TOML
[api]
socket = "$dir/agent.sock"

[store]
path = "$dir/portcullis.db"

[[target]]
name = "tor"
kind = "embedded"
address = "unix:$dir/switch.sock"
ports = ["9=af_packet:$(veth internet)", "1=af_packet:$up1", "2=af_packet:$up2"]
uplinks = [9]
max_rows = $room
reserve = 4
hardware = true

[[target]]
name = "host"
kind = "ovs"
ovsdb = "unix:$dir/db.sock"
bridge = "br0"
uplinks = ["up1", "up2"]
links = [{ to = "tor", port = 1 }, { to = "tor", port = 2 }]
TOML
    say "and the agent, with this configuration ('hardware' for the story: the switch at the top is the embedded one):"
    indent <"$dir/agent.toml"
    start_agent
}

rack_document() { # FILE RULES [OPENED]: with so many rules of the customer of web1
    local n name
    cat >"$1" <<'YAML'
version: portcullis/v1
defaults: {egress: allow, ingress: allow}
unmanaged: baseline
mandatory:
  - {name: smb, action: deny, direction: ingress, protocol: tcp, ports: [445], reason: "worms"}
baseline:
  - {name: smtp, action: deny, direction: egress, protocol: tcp, ports: [25], reason: "against spam; ask for an unblock"}
programs:
  smtp:
    title: Outbound mail (TCP 25)
    opens: [{direction: egress, protocol: tcp, ports: [25]}]
    evidence:
      - {name: purpose, type: text, min_length: 10}
    lease: {default: 15s, max: 1h}
endpoints:
YAML
    for name in web1 mail1 db1; do
        local at="{interface: $name, target: host}"
        if [[ $name != db1 ]]; then at+=", {port: ${tor_port[$name]}, target: tor}"; fi
        cat >>"$1" <<YAML
  $name:
    attachments: [$at]
    macs: ["${mac[$name]}"]
    addresses: [${ipv4[$name]}, "${ipv6[$name]}"]
YAML
        if [[ $name == web1 ]] && (($2 > 0)); then
            echo '    rules:' >>"$1"
            for ((n = 1; n <= $2; n++)); do
                echo "      - {name: closed$n, action: deny, direction: ingress, protocol: tcp, ports: [$((4999 + 2 * n))]}" >>"$1"
            done
        fi
    done
}

placed() { # RULE EXPECTED: the placement of a rule of web1
    judge "placement of $1" "$2" "$(awk -v rule="$1" '$1 == "RULE" { rules = 1 } $1 == "TARGET" { rules = 0 }
        rules && $1 == rule { print $4; exit }' <<<"$answer")"
}

hits_at() { # TARGET RULE: packets that it denied there
    "$bin/portcullis" --socket "$dir/agent.sock" hits 2>/dev/null |
        awk -v target="$1" -v rule="$2" '$1 == target && $3 == rule { packets += $5 } END { print packets + 0 }'
}

# Probes that go on until the file is removed; what each saw that it should not have is a line of the other file.
watch_traffic() {
    touch "$dir/watching"
    : >"$dir/wrong"
    : >"$dir/rounds"
    while [[ -e $dir/watching ]]; do
        local saw
        saw=$(probe internet tcp "${ipv4[web1]}" 80 open)
        if [[ $saw != open ]]; then echo "web1 tcp/80: $saw" >>"$dir/wrong"; fi
        saw=$(probe internet tcp "${ipv6[mail1]}" 445 timeout)
        if [[ $saw != timeout ]]; then echo "mail1 tcp/445: $saw" >>"$dir/wrong"; fi
        echo round >>"$dir/rounds"
        sleep 0.2
    done
}

rack_top() {
    chapter "Troublesome ports die at the top of the rack, while its tables have room"
    rack_document "$dir/1.yaml" 1
    indent <"$dir/1.yaml"
    portcullis apply -f "$dir/1.yaml"
    portcullis status --wait
    portcullis status --placement --endpoint web1
    placed mandatory/smb hardware
    placed baseline/smtp hardware
    placed endpoints/web1/closed1 hardware
    sees internet web1 tcp/80 open
    sees internet web1 tcp/5001 timeout
    sees internet mail1 tcp/445 timeout
    sees web1 internet tcp/25 timeout
    portcullis hits
    judge "tcp/445 denied at the top of the rack" some "$( (($(hits_at tor mandatory/smb) > 0)) && echo some || echo none)"
    judge "tcp/445 denied at the host" none "$( (($(hits_at host mandatory/smb) > 0)) && echo some || echo none)"
}

rack_neighbour() {
    chapter "What turns back at the host's switch never sees the top of the rack, and meets the same policy"
    local before
    before=$(hits_at tor mandatory/smb)
    sees db1 web1 tcp/80 open
    sees db1 web1 tcp/445 timeout
    sees db1 web1 tcp/5001 timeout
    sees web1 db1 tcp/3306 open
    judge "tcp/445 denied at the host" some "$( (($(hits_at host mandatory/smb) > 0)) && echo some || echo none)"
    judge "packets more at the top of the rack" 0 "$(($(hits_at tor mandatory/smb) - before))"
}

rack_full() {
    chapter "The table at the top of the rack is too small: rules are left to the host, and nothing opens"
    rack_document "$dir/2.yaml" 40
    portcullis apply -f "$dir/2.yaml"
    portcullis status --wait
    local picture=()
    if [[ -n $svg ]]; then picture=(--svg "$svg"); fi
    portcullis status --placement --endpoint web1 "${picture[@]}"
    placed mandatory/smb hardware
    placed endpoints/web1/closed1 hardware
    sees internet web1 tcp/5001 timeout
    placed endpoints/web1/closed40 software
    sees internet web1 tcp/5079 timeout
    judge "tcp/5079 denied at the host" some "$( (($(hits_at host endpoints/web1/closed40) > 0)) && echo some || echo none)"
    judge "tcp/5079 denied at the top of the rack" none "$( (($(hits_at tor endpoints/web1/closed40) > 0)) && echo some || echo none)"
    sees internet web1 tcp/80 open
    sees internet mail1 tcp/445 timeout
    chapter "The rules go, and what was left comes back"
    portcullis apply -f "$dir/1.yaml"
    portcullis status --wait
    portcullis status --placement --endpoint web1
    placed endpoints/web1/closed1 hardware
    sees internet web1 tcp/5001 timeout
    sees internet web1 tcp/5079 open
}

rack_unlock() {
    chapter "An unlock opens both switches, and its end closes both"
    portcullis unlock request --program smtp --endpoint mail1 --set 'purpose=invoices to our customers' --wait
    portcullis status --wait
    sees mail1 internet tcp/25 open
    sees web1 internet tcp/25 timeout
    portcullis explain mail1 egress tcp/25
    say "The lease ends after 15 s."
    sleep 16
    sees mail1 internet tcp/25 timeout
    portcullis explain mail1 egress tcp/25
    fact verdict deny
    judge "targets that hold the row that closes it" 2 "$(awk '$1 == "TARGET" { table = 1; next } table && $3 == "yes" { has[$1] = 1 }
        END { print length(has) }' <<<"$answer")"
}

the_rack() {
    rack_stage
    rack_top
    rack_neighbour
    watch_traffic &
    watcher=$!
    rack_full
    rack_unlock
    rm -f "$dir/watching"
    wait "$watcher"
    watcher=''
    chapter "Traffic meanwhile"
    say "$(wc -l <"$dir/rounds") rounds of an allowed and a denied connection through all of this; wrong verdicts:"
    indent <"$dir/wrong"
    judge "wrong verdicts" 0 "$(wc -l <"$dir/wrong")"
}
