// A switch as vendors ship it, to try rules on: it forwards by MAC, and has ACL tables of a few rows without a class, a fragment
// bit or TCP flags. Not ours to install anywhere: Portcullis meets it as a foreign program, through
// dataplane/p4runtime/pipelines/vendor.toml.
//
// Its parser takes what most chips take for granted: ports stand 20 bytes behind the beginning of an IPv4 header, whatever its
// length and fragment offset say, and right behind an IPv6 header, or nowhere.

#include <core.p4>
#include <v1model.p4>

const bit<16> TYPE_VLAN = 0x8100;
const bit<16> TYPE_IPV4 = 0x0800;
const bit<16> TYPE_IPV6 = 0x86dd;
const bit<8> ICMP = 1;
const bit<8> TCP = 6;
const bit<8> UDP = 17;
const bit<8> ICMPV6 = 58;

// Servers have the ports of the last byte of their MACs, 02:00:00:00:00:01 and so on.
const bit<40> SERVERS = 0x0200000000;
const bit<9> UPLINK = 9;
// All ports, for frames to groups: a group that whoever sets up the switch fills.
const bit<16> ALL_PORTS = 1;

header ethernet_t {
    bit<48> dst_addr;
    bit<48> src_addr;
    bit<16> ether_type;
}

// IEEE 802.1Q.
header vlan_t {
    bit<16> priority_and_vid;
    bit<16> ether_type;
}

// RFC 791, without options.
header ipv4_t {
    bit<72> before_protocol;
    bit<8> protocol;
    bit<16> checksum;
    bit<32> src_addr;
    bit<32> dst_addr;
}

// RFC 8200.
header ipv6_t {
    bit<48> before_next_header;
    bit<8> next_header;
    bit<8> hop_limit;
    bit<128> src_addr;
    bit<128> dst_addr;
}

// Source and destination port of TCP and UDP.
header transport_t {
    bit<16> src;
    bit<16> dst;
}

// RFC 792 and RFC 4443.
header message_t {
    bit<8> type;
    bit<8> code;
}

struct vendor_headers_t {
    ethernet_t ethernet;
    vlan_t vlan;
    ipv4_t ipv4;
    ipv6_t ipv6;
    transport_t ports;
    message_t icmp;
}

struct vendor_metadata_t {
    bit<16> ether_type;
    bit<8> ip_protocol;
    bit<16> l4_src_port;
    bit<16> l4_dst_port;
    bool dropped;
}

parser VendorParser(packet_in packet, out vendor_headers_t hdr, inout vendor_metadata_t meta,
                    inout standard_metadata_t standard) {
    state start {
        meta.ip_protocol = 0;
        meta.l4_src_port = 0;
        meta.l4_dst_port = 0;
        meta.dropped = false;
        packet.extract(hdr.ethernet);
        meta.ether_type = hdr.ethernet.ether_type;
        transition select(hdr.ethernet.ether_type) {
            TYPE_VLAN: tag;
            TYPE_IPV4: ipv4;
            TYPE_IPV6: ipv6;
            default: accept;
        }
    }

    state tag {
        packet.extract(hdr.vlan);
        meta.ether_type = hdr.vlan.ether_type;
        transition select(hdr.vlan.ether_type) {
            TYPE_IPV4: ipv4;
            TYPE_IPV6: ipv6;
            default: accept;
        }
    }

    state ipv4 {
        packet.extract(hdr.ipv4);
        meta.ip_protocol = hdr.ipv4.protocol;
        transition select(hdr.ipv4.protocol) {
            TCP: ports;
            UDP: ports;
            ICMP: icmp;
            default: accept;
        }
    }

    state ipv6 {
        packet.extract(hdr.ipv6);
        meta.ip_protocol = hdr.ipv6.next_header;
        transition select(hdr.ipv6.next_header) {
            TCP: ports;
            UDP: ports;
            ICMPV6: icmp;
            default: accept;
        }
    }

    state ports {
        packet.extract(hdr.ports);
        meta.l4_src_port = hdr.ports.src;
        meta.l4_dst_port = hdr.ports.dst;
        transition accept;
    }

    state icmp {
        packet.extract(hdr.icmp);
        transition accept;
    }
}

control VendorVerify(inout vendor_headers_t hdr, inout vendor_metadata_t meta) {
    apply {}
}

control VendorIngress(inout vendor_headers_t hdr, inout vendor_metadata_t meta, inout standard_metadata_t standard) {
    direct_counter(CounterType.packets_and_bytes) acl_ingress_counter;

    action acl_forward() {
        acl_ingress_counter.count();
    }

    action acl_drop() {
        acl_ingress_counter.count();
        meta.dropped = true;
    }

    @entry_restriction("
        // The version of IP has a key of its own.
        ether_type != 0x0800 && ether_type != 0x86dd;
        (is_ip::mask != 0 || is_ipv4::mask != 0 || is_ipv6::mask != 0) -> ether_type::mask == 0;
        is_ip::mask != 0 -> (is_ipv4::mask == 0 && is_ipv6::mask == 0);
        is_ipv4::mask != 0 -> (is_ipv4 == 1 && is_ip::mask == 0 && is_ipv6::mask == 0);
        is_ipv6::mask != 0 -> (is_ipv6 == 1 && is_ip::mask == 0 && is_ipv4::mask == 0);
        src_ip::mask != 0 -> is_ipv4 == 1;
        dst_ip::mask != 0 -> is_ipv4 == 1;
        src_ipv6::mask != 0 -> is_ipv6 == 1;
        dst_ipv6::mask != 0 -> is_ipv6 == 1;
        ip_protocol::mask != 0 -> (is_ip == 1 || is_ipv4 == 1 || is_ipv6 == 1);
        l4_src_port::mask != 0 -> (ip_protocol == 6 || ip_protocol == 17);
        l4_dst_port::mask != 0 -> (ip_protocol == 6 || ip_protocol == 17);
        message_type::mask != 0 -> (ip_protocol == 1 || ip_protocol == 58);
    ")
    table acl_ingress {
        key = {
            standard.ingress_port: optional @name("in_port");
            hdr.ipv4.isValid() || hdr.ipv6.isValid(): optional @name("is_ip");
            hdr.ipv4.isValid(): optional @name("is_ipv4");
            hdr.ipv6.isValid(): optional @name("is_ipv6");
            meta.ether_type: ternary @name("ether_type");
            hdr.ipv4.src_addr: ternary @name("src_ip");
            hdr.ipv4.dst_addr: ternary @name("dst_ip");
            hdr.ipv6.src_addr[127:64]: ternary @name("src_ipv6");
            hdr.ipv6.dst_addr[127:64]: ternary @name("dst_ipv6");
            meta.ip_protocol: ternary @name("ip_protocol");
            hdr.icmp.type: ternary @name("message_type");
            meta.l4_src_port: ternary @name("l4_src_port");
            meta.l4_dst_port: ternary @name("l4_dst_port");
        }
        actions = {
            acl_forward;
            acl_drop;
            @defaultonly NoAction;
        }
        const default_action = NoAction;
        counters = acl_ingress_counter;
        size = 128;
    }

    apply {
        acl_ingress.apply();
        if (meta.dropped) {
            mark_to_drop(standard);
        } else if (hdr.ethernet.dst_addr[40:40] == 1) {
            standard.mcast_grp = ALL_PORTS;
        } else if (hdr.ethernet.dst_addr[47:8] == SERVERS) {
            standard.egress_spec = (bit<9>) hdr.ethernet.dst_addr[7:0];
        } else {
            standard.egress_spec = UPLINK;
        }
    }
}

control VendorEgress(inout vendor_headers_t hdr, inout vendor_metadata_t meta, inout standard_metadata_t standard) {
    direct_counter(CounterType.packets_and_bytes) acl_egress_counter;

    action acl_egress_forward() {
        acl_egress_counter.count();
    }

    action acl_egress_drop() {
        acl_egress_counter.count();
        meta.dropped = true;
    }

    @entry_restriction("
        is_ip::mask != 0 -> (is_ipv4::mask == 0 && is_ipv6::mask == 0);
        is_ipv4::mask != 0 -> (is_ipv4 == 1 && is_ip::mask == 0 && is_ipv6::mask == 0);
        is_ipv6::mask != 0 -> (is_ipv6 == 1 && is_ip::mask == 0 && is_ipv4::mask == 0);
        ip_protocol::mask != 0 -> (is_ip == 1 || is_ipv4 == 1 || is_ipv6 == 1);
        l4_dst_port::mask != 0 -> (ip_protocol == 6 || ip_protocol == 17);
    ")
    table acl_egress {
        key = {
            standard.egress_port: optional @name("out_port");
            hdr.ipv4.isValid() || hdr.ipv6.isValid(): optional @name("is_ip");
            hdr.ipv4.isValid(): optional @name("is_ipv4");
            hdr.ipv6.isValid(): optional @name("is_ipv6");
            meta.ip_protocol: ternary @name("ip_protocol");
            meta.l4_dst_port: ternary @name("l4_dst_port");
        }
        actions = {
            acl_egress_forward;
            acl_egress_drop;
            @defaultonly NoAction;
        }
        const default_action = NoAction;
        counters = acl_egress_counter;
        size = 128;
    }

    apply {
        acl_egress.apply();
        // Nothing goes back where it came from.
        if (meta.dropped || standard.egress_port == standard.ingress_port) {
            mark_to_drop(standard);
        }
    }
}

control VendorChecksum(inout vendor_headers_t hdr, inout vendor_metadata_t meta) {
    apply {}
}

control VendorDeparser(packet_out packet, in vendor_headers_t hdr) {
    apply {
        packet.emit(hdr);
    }
}

@pkginfo(name = "vendor", version = "1")
V1Switch(VendorParser(), VendorVerify(), VendorIngress(), VendorEgress(), VendorChecksum(), VendorDeparser()) main;
