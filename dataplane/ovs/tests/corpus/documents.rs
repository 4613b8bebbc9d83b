//! The documents under which the corpus is sent.

use portcullis_policy::Document;

/// What it is about, and its text.
pub struct Case {
    pub name: &'static str,
    pub yaml: String,
}

impl Case {
    pub fn document(&self) -> Document {
        Document::from_yaml(&self.yaml).unwrap()
    }
}

/// The endpoints; `rules` are lines for each of them, `guard` whether sources are guarded at all.
fn endpoints(guard: bool, web: &str, mail: &str, free: &str, bare: &str) -> String {
    let one = |name: &str, n: u8, guard: bool, addresses: &str, more: &str| {
        format!(
            "  {name}:\n    attachments: [{{interface: {name}}}]\n    macs: [\"02:00:00:00:00:0{n}\"]\n    \
             addresses: [{addresses}]\n    source_guard: {guard}\n{more}"
        )
    };
    let own = "192.0.2.1, 192.0.2.64/28, \"2001:db8::1\", \"2001:db8:0:64::/64\"";
    [
        "endpoints:\n".to_string(),
        one("web1", 1, guard, own, web),
        one("mail1", 2, guard, "192.0.2.2, \"2001:db8::2\"", mail),
        one("free1", 3, false, "192.0.2.3, \"2001:db8::3\"", free),
        one("bare1", 4, guard, "", bare),
    ]
    .concat()
}

/// Nothing is denied and nobody is guarded: whatever does not arrive here, the switch itself did not carry.
fn open() -> String {
    format!(
        "version: portcullis/v1\nunmanaged: allow\n{}",
        endpoints(false, "", "", "", "")
    )
}

/// Nothing is denied, and sources are guarded.
fn guarded() -> String {
    format!("version: portcullis/v1\n{}", endpoints(true, "", "", "", ""))
}

/// Default allow with denies in every tier and of every kind.
fn blocked() -> String {
    let rules = r#"
version: portcullis/v1
mandatory:
  - {name: irc, action: deny, direction: egress, protocol: tcp, ports: ["6660-6669", 6697]}
  - {name: telnet, action: deny, direction: ingress, protocol: tcp, ports: [23], remote: [198.51.100.0/24, "2001:db8:1::/48"]}
  - {name: from-admin, action: allow, direction: ingress, protocol: tcp, ports: [23, 8085], remote: [198.51.100.32/27, "2001:db8:1:1::/64"]}
baseline:
  - {name: smtp, action: deny, direction: egress, protocol: tcp, ports: [25, 465, 587]}
  - {name: reflectors, action: deny, direction: egress, protocol: udp, source_ports: [53, 123, "1900-1901", 11211]}
  - {name: edges, action: deny, direction: ingress, protocol: udp, ports: [0, "31337-31999", 65535]}
  - {name: pairs, action: deny, direction: ingress, protocol: udp, ports: ["5000-5099"], source_ports: ["6000-6063"]}
  - {name: sctp, action: deny, direction: egress, protocol: sctp, ports: ["49152-65535"]}
  - {name: sctp-in, action: deny, direction: ingress, protocol: sctp, ports: [3868]}
  - {name: redirects, action: deny, direction: egress, protocol: icmp, icmp: {type: 5}}
  - {name: timestamps, action: deny, direction: ingress, protocol: icmp, icmp: {type: 13, code: 0}}
  - {name: routers, action: deny, direction: egress, protocol: icmpv6, icmp: {type: 134}}
  - {name: ping6, action: deny, direction: ingress, protocol: icmpv6, icmp: {type: 128, code: 0}}
  - {name: gre, action: deny, direction: egress, protocol: 47, remote: [203.0.113.0/24]}
  - {name: esp6, action: deny, direction: ingress, protocol: 50, ip: 6}
  - {name: bogons, action: deny, direction: ingress, remote: [203.0.113.64/26, "2001:db8:bad::/48"]}
  - {name: local, action: deny, direction: ingress, protocol: tcp, ports: ["8080-8090"], local: [192.0.2.64/29, "2001:db8:0:64::/80"]}
  - {name: local-out, action: deny, direction: egress, protocol: tcp, ports: [9000], local: [192.0.2.72/30, "2001:db8:0:64:8000::/65"]}
"#;
    let web = r#"    rules:
      - {name: unlock, action: allow, direction: egress, protocol: tcp, ports: [25], remote: [198.51.100.128/25, "2001:db8:25::/48"]}
      - {name: old-peer, action: deny, direction: egress, protocol: udp, ports: ["33434-33534"], remote: [192.0.2.128/25]}
"#;
    let mail = "    rules:\n      - {name: smtp, action: allow, direction: egress, protocol: tcp, ports: [25, 465]}\n";
    format!("{rules}{}", endpoints(true, web, mail, "", ""))
}

/// Default deny where profiles say so, allows, and replies.
fn closed() -> String {
    let rules = r#"
version: portcullis/v1
unmanaged: deny
baseline:
  - {name: smtp, action: deny, direction: egress, protocol: tcp, ports: [25]}
  - {name: no-gre, action: deny, direction: ingress, protocol: 47}
profiles:
  web:
    default: {ingress: deny}
    rules:
      - {name: http, action: allow, direction: ingress, protocol: tcp, ports: [80, 443, "8000-8007"]}
      - {name: admin, action: allow, direction: ingress, protocol: tcp, ports: [22], remote: [198.51.100.0/24, "2001:db8:1::/48"]}
      - {name: rtp, action: allow, direction: ingress, protocol: udp, ports: ["10000-20000"]}
      - {name: ping, action: allow, direction: ingress, protocol: icmp, icmp: {type: 8}}
      - {name: ping6, action: allow, direction: ingress, protocol: icmpv6, icmp: {type: 128, code: 0}}
      - {name: esp, action: allow, direction: ingress, protocol: 50, remote: [198.51.100.0/24]}
      - {name: https-out, action: allow, direction: egress, protocol: tcp, ports: [443, 853]}
      - {name: dns-out, action: allow, direction: egress, protocol: udp, ports: [53], remote: [198.51.100.53/32, "2001:db8:53::/64"]}
      - {name: ping-out, action: allow, direction: egress, protocol: icmp, icmp: {type: 8}}
      - {name: not-that, action: deny, direction: egress, protocol: tcp, ports: [443], remote: [203.0.113.0/25]}
  sealed:
    default: {ingress: deny, egress: deny}
    rules:
      - {name: smtp-in, action: allow, direction: ingress, protocol: tcp, ports: [25]}
      - {name: smtp-out, action: allow, direction: egress, protocol: tcp, ports: [25], source_ports: ["1024-65535"]}
      - {name: diameter, action: allow, direction: egress, protocol: sctp, ports: [3868]}
      - {name: ping-out6, action: allow, direction: egress, protocol: icmpv6, icmp: {type: 128}}
"#;
    let (web, mail) = ("    profiles: [web]\n", "    profiles: [sealed]\n");
    format!(
        "{rules}{}",
        endpoints(true, web, mail, "", "    profiles: [web]\n")
    )
}

/// Default deny for everybody, mandatory rules that name what passes otherwise.
fn shut() -> String {
    let rules = r#"
version: portcullis/v1
defaults: {egress: deny, ingress: deny}
mandatory:
  - {name: no-dhcp, action: deny, direction: egress, protocol: udp, ports: [67], remote: [192.0.2.0/24]}
  - {name: no-ns, action: deny, direction: ingress, protocol: icmpv6, icmp: {type: 135}, remote: ["2001:db8:bad::/48"]}
  - {name: anything, action: deny, direction: egress, remote: [203.0.113.0/24, "2001:db8:bad::/48"]}
baseline:
  - {name: dns, action: allow, direction: egress, protocol: udp, ports: [53]}
"#;
    let web = "    rules:\n      - {name: all, action: allow, direction: egress, protocol: any}\n";
    let mail = "    rules:\n      - {name: tcp, action: allow, direction: egress, protocol: tcp}\n      \
                - {name: from-web, action: allow, direction: ingress, remote: [192.0.2.0/24, \"2001:db8::/64\"]}\n";
    format!("{rules}{}", endpoints(true, web, mail, "", ""))
}

/// Whole protocols are denied, one half at a time: what becomes of later fragments.
fn whole() -> String {
    let rules = r#"
version: portcullis/v1
unmanaged: allow
baseline:
  - {name: tcp, action: deny, direction: egress, protocol: tcp}
  - {name: low, action: deny, direction: ingress, protocol: udp, ports: ["0-32767"]}
  - {name: high, action: deny, direction: ingress, protocol: udp, ports: ["32768-65535"]}
  - {name: icmp, action: deny, direction: ingress, protocol: icmp}
  - {name: from-there, action: deny, direction: ingress, protocol: sctp, remote: [198.51.100.0/24, "2001:db8:1::/48"]}
"#;
    let free = "    rules:\n      - {name: all, action: allow, direction: egress, protocol: tcp}\n      \
                - {name: none, action: deny, direction: egress, protocol: any, remote: [\"2001:db8:1::/48\"]}\n";
    format!("{rules}{}", endpoints(true, "", "", free, ""))
}

/// Servers on trunks, under the rules of `blocked`: policy applies under tags, too.
fn trunks() -> String {
    blocked().replace("}]\n    macs", ", vlan: any}]\n    macs")
}

/// Servers that speak for the network.
fn roles() -> String {
    let [router, server] = ["    roles: [router]\n", "    roles: [dhcp-server]\n"];
    let both = "    roles: [router, dhcp-server]\n";
    format!(
        "version: portcullis/v1\n{}",
        endpoints(true, router, server, both, "")
    )
}

/// Documents for a target that knows trunks and roles.
pub fn ports() -> Vec<Case> {
    let case = |name, yaml| Case { name, yaml };
    vec![case("trunks", trunks()), case("roles", roles())]
}

/// Every document; the first is the control.
pub fn cases() -> Vec<Case> {
    let case = |name, yaml| Case { name, yaml };
    vec![
        case("open", open()),
        case("guarded", guarded()),
        case("blocked", blocked()),
        case("closed", closed()),
        case("shut", shut()),
        case("whole", whole()),
    ]
}
