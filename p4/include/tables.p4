// The logical stages. One file names every table, key, action and counter, with the ids that P4Runtime knows them by.
//
// Ids are fixed: a table, key or action that goes leaves its id unused for good. Used so far: tables 1 to 11, actions 1
// to 15, counters 1 to 6. Keys of a table are numbered on their own.
//
// PORTS is how ports match: `range` or `ternary`.

#ifndef PORTCULLIS_TABLES
#define PORTCULLIS_TABLES

#include "headers.p4"

#ifndef PORTS
#define PORTS ternary
#endif

// Both policy stages match the same keys. A row names a class, or an overlay: what rules and unlocks of one endpoint change
// in its class. Rows of overlays have higher priorities, and leave to the class what they do not match.
#define POLICY_KEYS                                        \
        meta.class : ternary @name("class") @id(1);        \
        meta.ether_type : ternary @name("ether_type") @id(2); \
        meta.unreadable : ternary @name("unreadable") @id(3); \
        meta.protocol : ternary @name("protocol") @id(4);  \
        meta.later : ternary @name("later") @id(5);        \
        meta.tcp_flags : ternary @name("tcp_flags") @id(6); \
        meta.remote_id : ternary @name("remote_id") @id(7); \
        meta.src_ipv4 : ternary @name("src_ipv4") @id(8);  \
        meta.src_ipv6 : ternary @name("src_ipv6") @id(9);  \
        meta.dst_ipv4 : ternary @name("dst_ipv4") @id(10); \
        meta.dst_ipv6 : ternary @name("dst_ipv6") @id(11); \
        meta.src_port : PORTS @name("src_port") @id(12);   \
        meta.dst_port : PORTS @name("dst_port") @id(13);   \
        meta.icmp_type : ternary @name("icmp_type") @id(14); \
        meta.icmp_code : ternary @name("icmp_code") @id(15); \
        meta.overlay : ternary @name("overlay") @id(16);

// The role that a sender needs for a frame.
control NeededRole(in bit<48> dst, inout metadata_t meta) {
    apply {
        if (dst & 0xfffffffffff0 == 0x0180c2000000 || dst & 0xfffffffffffe == 0x01000ccccccc) {
            meta.role = ROLE_BRIDGE;
        } else if (meta.kind == KIND_IPV4) {
            if ((meta.protocol == ICMP
                    && (meta.icmp_type == ICMP_REDIRECT || meta.icmp_type == ICMP_ROUTER_ADVERTISEMENT))
                || (meta.protocol == IGMP && meta.igmp_type == IGMP_QUERY)) {
                meta.role = ROLE_ROUTER;
            } else if (meta.protocol == UDP && (meta.src_port == DHCP_SERVER || meta.dst_port == DHCP_CLIENT)) {
                // To a relay, too; and to a client from any port, as clients do not look at it.
                meta.role = ROLE_DHCP_SERVER;
            }
        } else if (meta.kind == KIND_IPV6) {
            if (meta.protocol == ICMPV6
                && (meta.icmp_type == ICMPV6_ROUTER_ADVERTISEMENT || meta.icmp_type == ICMPV6_REDIRECT
                    || meta.icmp_type == ICMPV6_MLD_QUERY)) {
                meta.role = ROLE_ROUTER;
            } else if (meta.protocol == UDP
                && (meta.src_port == DHCPV6_SERVER || meta.dst_port == DHCPV6_CLIENT)) {
                meta.role = ROLE_DHCP_SERVER;
            } else if (meta.unreadable == 1 && meta.protocol == 0 && meta.src_ipv6[127:118] == 0x3fa) {
                // A chain of headers without an end, from fe80::/10, may hide an advertisement (RFC 7113).
                meta.role = ROLE_ROUTER;
            }
        }
    }
}

// From a port: who sends, whether he may send this, and where it goes.
control Sender(inout headers_t hdr, inout metadata_t meta, in bit<9> in_port,
               out bit<1> dropped, out bit<1> to_one, out bit<9> out_port, out bit<16> group) {
    @id(1) @name("egress_hits") direct_counter(CounterType.packets_and_bytes) hits;
    @id(2) @name("guard_hits") direct_counter(CounterType.packets_and_bytes) guard_hits;
    @id(3) @name("guard_address_hits") direct_counter(CounterType.packets_and_bytes) guard_address_hits;
    @id(4) @name("guard_nd_hits") direct_counter(CounterType.packets_and_bytes) guard_nd_hits;
    @id(6) @name("role_hits") direct_counter(CounterType.packets_and_bytes) role_hits;

    @id(1) @name("allow")
    action allow() {}

    @id(2) @name("deny")
    action deny() { dropped = 1; }

    // Nobody said what is behind this port.
    @id(3) @name("unknown")
    action unknown() { dropped = 1; }

    // The class is in the lower 16 bits, the overlay in the upper ones, so that one parameter changes both at once.
    @id(4) @name("set_class")
    action set_class(@id(1) bit<32> class_and_overlay) {
        meta.class = class_and_overlay[15:0];
        meta.overlay = class_and_overlay[31:16];
    }

    // The sender is held to its MACs and addresses.
    @id(5) @name("set_guarded_class")
    action set_guarded_class(@id(1) bit<32> class_and_overlay) {
        meta.class = class_and_overlay[15:0];
        meta.overlay = class_and_overlay[31:16];
        meta.guarded = 1;
    }

    @id(6) @name("set_remote_id")
    action set_remote_id(@id(1) bit<16> remote_id) { meta.remote_id = remote_id; }

    // Its MAC is its own; its addresses are to be looked at, too.
    @id(7) @name("check_addresses")
    action check_addresses() { meta.check_addresses = 1; }

    @id(8) @name("forward")
    action forward(@id(1) bit<9> port) {
        to_one = 1;
        out_port = port;
    }

    // The MAC is at several ports.
    @id(15) @name("forward_to_group")
    action forward_to_group(@id(1) bit<16> ports) { group = ports; }

    // Where a MAC is that no row names: at an uplink.
    @id(9) @name("flood_unknown")
    action flood_unknown() { group = 2; }

    NeededRole() needed_role;

    // Port and VLAN: the sender's class and overlay.
    @id(1) @name("attach")
    table attach {
        key = {
            in_port : exact @name("port") @id(1);
            meta.vlan : optional @name("vlan") @id(2);
        }
        actions = { set_class; set_guarded_class; @defaultonly unknown; }
        const default_action = unknown();
        size = 4096;
    }

    // Whether a server may send what routers, DHCP servers or bridges send. Uplinks may.
    @id(11) @name("roles")
    table roles {
        key = {
            in_port : exact @name("port") @id(1);
            meta.vlan : optional @name("vlan") @id(2);
            meta.role : ternary @name("role") @id(3);
        }
        actions = { allow; deny; }
        const default_action = deny();
        counters = role_hits;
        size = 16384;
    }

    // The source MAC of a guarded sender, and ARP that is what it says.
    @id(2) @name("guard")
    table guard {
        key = {
            in_port : exact @name("port") @id(1);
            meta.vlan : optional @name("vlan") @id(2);
            hdr.ethernet.src_addr : ternary @name("mac") @id(3);
            meta.arp_malformed : ternary @name("arp_malformed") @id(4);
        }
        actions = { allow; check_addresses; deny; }
        const default_action = deny();
        counters = guard_hits;
        size = 16384;
    }

    // Its addresses: the source of IP; the sender of ARP, or who is asked for when there is none yet.
    @id(3) @name("guard_address")
    table guard_address {
        key = {
            in_port : exact @name("port") @id(1);
            meta.vlan : optional @name("vlan") @id(2);
            hdr.ethernet.src_addr : ternary @name("mac") @id(3);
            meta.kind : ternary @name("kind") @id(4);
            meta.guard_address : ternary @name("address") @id(5);
            meta.protocol : ternary @name("protocol") @id(6);
            meta.src_port : ternary @name("src_port") @id(7);
            meta.dst_port : ternary @name("dst_port") @id(8);
        }
        actions = { allow; deny; }
        const default_action = deny();
        counters = guard_address_hits;
        size = 65536;
    }

    // What it says of itself in neighbour discovery.
    @id(4) @name("guard_nd")
    table guard_nd {
        key = {
            in_port : exact @name("port") @id(1);
            meta.vlan : optional @name("vlan") @id(2);
            hdr.ethernet.src_addr : ternary @name("mac") @id(3);
            meta.nd_type : ternary @name("nd_type") @id(4);
            meta.nd_hidden : ternary @name("nd_hidden") @id(5);
            meta.src_unspecified : ternary @name("src_unspecified") @id(6);
            meta.nd_target : ternary @name("nd_target") @id(7);
            meta.nd_has_mac : ternary @name("nd_has_mac") @id(8);
            meta.nd_mac : ternary @name("nd_mac") @id(9);
        }
        actions = { allow; deny; }
        const default_action = deny();
        counters = guard_nd_hits;
        size = 65536;
    }

    // Who is spoken to: the longest prefix that a rule of the class names.
    @id(5) @name("egress_remote")
    table egress_remote {
        key = {
            meta.class : exact @name("class") @id(1);
            meta.ether_type : ternary @name("ether_type") @id(2);
            meta.dst_ipv4 : ternary @name("dst_ipv4") @id(3);
            meta.dst_ipv6 : ternary @name("dst_ipv6") @id(4);
        }
        actions = { set_remote_id; @defaultonly NoAction; }
        const default_action = NoAction();
        size = 16384;
    }

    // The sender's policy.
    @id(6) @name("egress_policy")
    table egress_policy {
        key = { POLICY_KEYS }
        actions = { allow; deny; }
        const default_action = deny();
        counters = hits;
        size = 32768;
    }

    // Where a MAC is.
    @id(7) @name("l2")
    table l2 {
        key = { hdr.ethernet.dst_addr : exact @name("dst_mac") @id(1); }
        actions = { forward; forward_to_group; @defaultonly flood_unknown; }
        const default_action = flood_unknown();
        size = 16384;
    }

    apply {
        dropped = 0;
        to_one = 0;
        out_port = 0;
        group = 0;
        attach.apply();
        if (dropped == 0) {
            needed_role.apply(hdr.ethernet.dst_addr, meta);
            if (meta.role != ROLE_NONE) {
                roles.apply();
            }
        }
        if (dropped == 0 && meta.guarded == 1) {
            // An ARP that names another sender than the frame does is none (RFC 826).
            if (meta.kind == KIND_ARP && meta.arp_malformed == 0 && hdr.arp.sender_mac != hdr.ethernet.src_addr) {
                meta.arp_malformed = 1;
            }
            guard.apply();
            if (dropped == 0 && meta.check_addresses == 1) {
                if (meta.kind == KIND_ARP) {
                    meta.guard_address = hdr.arp.sender_addr == 0
                        ? (bit<128>)hdr.arp.target_addr : (bit<128>)hdr.arp.sender_addr;
                } else if (meta.kind == KIND_IPV4) {
                    meta.guard_address = (bit<128>)meta.src_ipv4;
                } else if (meta.kind == KIND_IPV6) {
                    meta.guard_address = meta.src_ipv6;
                    if (meta.src_ipv6 == 0) { meta.src_unspecified = 1; }
                }
                guard_address.apply();
                if (dropped == 0 && meta.nd_type != 0) {
                    guard_nd.apply();
                }
            }
        }
        // Class 0: nothing is denied.
        if (dropped == 0 && meta.class != 0) {
            egress_remote.apply();
            egress_policy.apply();
        }
        if (dropped == 0) {
            bit<48> dst = hdr.ethernet.dst_addr;
            if (dst & 0x010000000000 == 0) {
                l2.apply();
            } else if (dst & 0xfffffffffff0 == 0x0180c2000000 || dst & 0xfffffffffffe == 0x01000ccccccc) {
                // Groups that no bridge forwards (IEEE 802.1Q, table 8-1; Cisco's likewise).
                dropped = 1;
            } else if (meta.kind == KIND_BROKEN
                || (meta.kind == KIND_IPV4 && meta.dst_ipv4 & 0xf0000000 != 0xe0000000
                    && meta.dst_ipv4 != 0xffffffff)
                || (meta.kind == KIND_IPV6 && meta.dst_ipv6[127:120] != 0xff)) {
                // A packet for one in a frame for many.
                dropped = 1;
            } else {
                group = 1;
            }
        }
    }
}

// To a port: who receives, and whether he may be sent this. Every copy of a frame for many comes here.
control Receiver(inout headers_t hdr, inout metadata_t meta, in bit<9> in_port, in bit<9> out_port,
                 out bit<1> dropped) {
    @id(5) @name("ingress_hits") direct_counter(CounterType.packets_and_bytes) hits;

    @id(10) @name("allow")
    action allow() {}

    @id(11) @name("deny")
    action deny() { dropped = 1; }

    @id(12) @name("set_class")
    action set_class(@id(1) bit<32> class_and_overlay) {
        meta.class = class_and_overlay[15:0];
        meta.overlay = class_and_overlay[31:16];
    }

    @id(13) @name("set_remote_id")
    action set_remote_id(@id(1) bit<16> remote_id) { meta.remote_id = remote_id; }

    @id(14) @name("not_there")
    action not_there() { dropped = 1; }

    // Output port and VLAN: the receiver's class and overlay.
    @id(8) @name("deliver")
    table deliver {
        key = {
            out_port : exact @name("port") @id(1);
            meta.vlan : optional @name("vlan") @id(2);
        }
        actions = { set_class; @defaultonly not_there; }
        const default_action = not_there();
        size = 4096;
    }

    // Who speaks: the longest prefix that a rule of the class names.
    @id(9) @name("ingress_remote")
    table ingress_remote {
        key = {
            meta.class : exact @name("class") @id(1);
            meta.ether_type : ternary @name("ether_type") @id(2);
            meta.src_ipv4 : ternary @name("src_ipv4") @id(3);
            meta.src_ipv6 : ternary @name("src_ipv6") @id(4);
        }
        actions = { set_remote_id; @defaultonly NoAction; }
        const default_action = NoAction();
        size = 16384;
    }

    // The receiver's policy.
    @id(10) @name("ingress_policy")
    table ingress_policy {
        key = { POLICY_KEYS }
        actions = { allow; deny; }
        const default_action = deny();
        counters = hits;
        size = 32768;
    }

    apply {
        dropped = 0;
        meta.class = 0;
        meta.overlay = 0;
        meta.remote_id = 0;
        if (in_port == out_port) {
            // Nothing goes back where it came from.
            dropped = 1;
        } else {
            deliver.apply();
            if (dropped == 0 && meta.class != 0) {
                ingress_remote.apply();
                ingress_policy.apply();
            }
        }
    }
}

#endif
