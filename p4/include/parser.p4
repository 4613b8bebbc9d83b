// From bytes to what rows match: ports behind VLAN tags, SNAP, IPv4 options and IPv6 extension headers.
//
// `unreadable` marks what a policy cannot judge: IP that cannot be reached or read, a chain of headers without an end,
// protocol 0, a header too short to show its ports, flags or type, a TCP fragment at offset 1 (RFC 1858). It is set
// before what can fail, and cleared where all was read, so that a parser error leaves it set.

#ifndef PORTCULLIS_PARSER
#define PORTCULLIS_PARSER

#include "headers.p4"

parser FrameParser(packet_in packet, out headers_t hdr, inout metadata_t meta, in bit<16> frame_length) {
    state start {
        meta.kind = KIND_OTHER;
        meta.frame_left = frame_length - 14;
        packet.extract(hdr.ethernet);
        meta.ether_type = hdr.ethernet.ether_type;
        transition select(hdr.ethernet.ether_type) {
            TYPE_VLAN: outer_tag;
            TYPE_SERVICE_VLAN: outer_tag;
            TYPE_OLD_VLAN: old_tag;
            default: by_ether_type;
        }
    }

    // Some switches take it for a tag.
    state old_tag {
        meta.vlan = VLAN_UNKNOWN;
        transition encapsulated;
    }

    state outer_tag {
        // Cut off after its EtherType, a tag may hide anything.
        meta.kind = KIND_ENCAPSULATED;
        meta.unreadable = 1;
        meta.vlan = VLAN_UNKNOWN;
        packet.extract(hdr.vlan[0]);
        meta.frame_left = meta.frame_left - 4;
        meta.vlan = hdr.vlan[0].vid;
        meta.ether_type = hdr.vlan[0].ether_type;
        // The next switch may take a priority tag away, and the tag behind it is the VLAN then.
        transition select(hdr.vlan[0].vid, hdr.vlan[0].ether_type) {
            (0, TYPE_VLAN): hidden_tag;
            (0, TYPE_SERVICE_VLAN): hidden_tag;
            (0, TYPE_OLD_VLAN): hidden_old_tag;
            (_, TYPE_VLAN): inner_tag;
            (_, TYPE_SERVICE_VLAN): inner_tag;
            default: behind_tags;
        }
    }

    state hidden_tag {
        meta.vlan = VLAN_UNKNOWN;
        transition inner_tag;
    }

    state hidden_old_tag {
        meta.vlan = VLAN_UNKNOWN;
        transition behind_tags;
    }

    state inner_tag {
        packet.extract(hdr.vlan[1]);
        meta.frame_left = meta.frame_left - 4;
        meta.ether_type = hdr.vlan[1].ether_type;
        transition behind_tags;
    }

    state behind_tags {
        meta.kind = KIND_OTHER;
        meta.unreadable = 0;
        transition by_ether_type;
    }

    state by_ether_type {
        transition select(meta.ether_type) {
            TYPE_ARP: arp;
            TYPE_IPV4: ipv4;
            TYPE_IPV6: ipv6;
            TYPE_VLAN: encapsulated;
            TYPE_SERVICE_VLAN: encapsulated;
            TYPE_OLD_VLAN: encapsulated;
            TYPE_MPLS: encapsulated;
            TYPE_MPLS_MULTICAST: encapsulated;
            TYPE_PPPOE_SESSION: encapsulated;
            0x0000 &&& 0xfc00: length; // 0 to 0x3ff
            0x0400 &&& 0xfe00: length; // 0x400 to 0x5ff
            default: accept;
        }
    }

    state encapsulated {
        meta.kind = KIND_ENCAPSULATED;
        meta.unreadable = 1;
        transition accept;
    }

    // IEEE 802.3: a length, and LLC behind it. RFC 1042 puts an EtherType there.
    state length {
        transition select(packet.lookahead<bit<48>>()) {
            0xaaaa03000000: snap;
            default: accept;
        }
    }

    state snap {
        packet.extract(hdr.snap);
        meta.frame_left = meta.frame_left - 8;
        meta.ether_type = hdr.snap.ether_type;
        transition select(hdr.snap.ether_type) {
            TYPE_ARP: arp;
            TYPE_IPV4: ipv4;
            TYPE_IPV6: ipv6;
            TYPE_VLAN: encapsulated;
            TYPE_SERVICE_VLAN: encapsulated;
            TYPE_OLD_VLAN: encapsulated;
            TYPE_MPLS: encapsulated;
            TYPE_MPLS_MULTICAST: encapsulated;
            TYPE_PPPOE_SESSION: encapsulated;
            default: accept;
        }
    }

    state arp {
        meta.kind = KIND_ARP;
        meta.arp_malformed = 1;
        packet.extract(hdr.arp);
        transition select(hdr.arp.hardware_type, hdr.arp.protocol_type, hdr.arp.hardware_length,
                          hdr.arp.protocol_length) {
            (1, TYPE_IPV4, 6, 4): arp_well_formed;
            default: accept;
        }
    }

    state arp_well_formed {
        meta.arp_malformed = 0;
        transition accept;
    }

    state ipv4 {
        meta.kind = KIND_BROKEN;
        meta.unreadable = 1;
        packet.extract(hdr.ipv4);
        meta.left = hdr.ipv4.total_length - ((bit<16>)hdr.ipv4.ihl << 2);
        // The negative: a header longer than the packet, a packet longer than the frame.
        transition select(hdr.ipv4.version, hdr.ipv4.ihl,
                          hdr.ipv4.total_length |-| ((bit<16>)hdr.ipv4.ihl << 2),
                          ((bit<16>)hdr.ipv4.ihl << 2) |-| hdr.ipv4.total_length,
                          hdr.ipv4.total_length |-| meta.frame_left) {
            (4, 0 &&& 0xc, _, _, _): accept; // IHL 0 to 3
            (4, 4, _, _, _): accept;
            (4, 5, _, 0, 0): ipv4_readable;
            (4, _, _, 0, 0): ipv4_options;
            default: accept;
        }
    }

    state ipv4_options {
        packet.extract(hdr.ipv4_options, ((bit<32>)hdr.ipv4.ihl - 5) << 5);
        transition ipv4_readable;
    }

    state ipv4_readable {
        meta.kind = KIND_IPV4;
        meta.src_ipv4 = hdr.ipv4.src_addr;
        meta.dst_ipv4 = hdr.ipv4.dst_addr;
        meta.protocol = hdr.ipv4.protocol;
        meta.begun = hdr.ipv4.more_fragments;
        transition select(hdr.ipv4.fragment_offset, hdr.ipv4.protocol) {
            (_, 0): accept;
            (0, ICMP): icmp;
            (0, IGMP): igmp;
            (0, TCP): tcp;
            (0, UDP): udp;
            (0, SCTP): sctp;
            (0, _): readable;
            (1, TCP): tiny;
            default: later;
        }
    }

    state ipv6 {
        meta.kind = KIND_BROKEN;
        meta.unreadable = 1;
        packet.extract(hdr.ipv6);
        meta.left = hdr.ipv6.payload_length;
        transition select(hdr.ipv6.version, hdr.ipv6.payload_length |-| (meta.frame_left - 40)) {
            (6, 0): ipv6_readable;
            default: accept;
        }
    }

    state ipv6_readable {
        meta.kind = KIND_IPV6;
        meta.src_ipv6 = hdr.ipv6.src_addr;
        meta.dst_ipv6 = hdr.ipv6.dst_addr;
        transition select(hdr.ipv6.next_header) {
            HOP_BY_HOP: extension;
            ROUTING: extension;
            DESTINATION: extension;
            FRAGMENT: fragment;
            AUTHENTICATION: authentication;
            default: ipv6_first;
        }
    }

    // What an extension header's length comes to, in bytes behind its first four.
    state extension {
        transition select(meta.left |-| 7, meta.left |-| ((((bit<16>)packet.lookahead<first_word_t>().length) + 1) << 3),
                          ((((bit<16>)packet.lookahead<first_word_t>().length) + 1) << 3) |-| meta.left) {
            (0, _, _): accept; // less than the shortest
            (_, _, 0): extension_whole;
            default: accept;
        }
    }

    state extension_whole {
        packet.extract(hdr.extension.next,
                       (((bit<32>)packet.lookahead<first_word_t>().length + 1) << 6) - 32);
        meta.left = meta.left - (((bit<16>)hdr.extension.last.length + 1) << 3);
        transition next_header;
    }

    state authentication {
        transition select(meta.left |-| 7,
                          ((((bit<16>)packet.lookahead<first_word_t>().length) + 2) << 2) |-| meta.left) {
            (0, _): accept;
            (_, 0): authentication_whole;
            default: accept;
        }
    }

    state authentication_whole {
        packet.extract(hdr.extension.next,
                       (((bit<32>)packet.lookahead<first_word_t>().length + 2) << 5) - 32);
        meta.left = meta.left - (((bit<16>)hdr.extension.last.length + 2) << 2);
        transition next_header;
    }

    state fragment {
        transition select(meta.left |-| 7) {
            0: accept;
            default: fragment_whole;
        }
    }

    state fragment_whole {
        packet.extract(hdr.extension.next, 32);
        meta.left = meta.left - 8;
        meta.begun = meta.begun | hdr.extension.last.more_fragments;
        transition select(hdr.extension.last.fragment_offset, hdr.extension.last.next_header) {
            (0, _): next_header;
            // What comes behind it is in another fragment.
            (_, HOP_BY_HOP): accept;
            (_, ROUTING): accept;
            (_, DESTINATION): accept;
            (_, FRAGMENT): accept;
            (_, AUTHENTICATION): accept;
            (1, TCP): ipv6_tiny;
            default: ipv6_later;
        }
    }

    state next_header {
        transition select(hdr.extension.last.next_header) {
            HOP_BY_HOP: extension;
            ROUTING: extension;
            DESTINATION: extension;
            FRAGMENT: fragment;
            AUTHENTICATION: authentication;
            default: ipv6_last;
        }
    }

    state ipv6_tiny {
        meta.protocol = hdr.extension.last.next_header;
        transition tiny;
    }

    state ipv6_later {
        meta.protocol = hdr.extension.last.next_header;
        transition later;
    }

    state ipv6_first {
        meta.protocol = hdr.ipv6.next_header;
        transition ipv6_payload;
    }

    state ipv6_last {
        meta.protocol = hdr.extension.last.next_header;
        transition ipv6_payload;
    }

    state ipv6_payload {
        transition select(meta.protocol) {
            ICMPV6: icmpv6;
            TCP: tcp;
            UDP: udp;
            SCTP: sctp;
            default: readable;
        }
    }

    state tiny {
        meta.later = 1;
        transition accept;
    }

    state later {
        meta.later = 1;
        transition readable;
    }

    state readable {
        meta.unreadable = 0;
        transition accept;
    }

    // A first fragment has to show its ports and flags: 14 bytes.
    state tcp {
        transition select(meta.begun, meta.left |-| 13, meta.left |-| 19) {
            (0, _, 0): accept;
            (1, 0, _): accept;
            default: tcp_shown;
        }
    }

    // RFC 9293: the data offset is at least 5, and the header is as long as it says. That of a first fragment may go on in
    // the next one.
    state tcp_shown {
        meta.src_port = packet.lookahead<tcp_t>().src;
        meta.dst_port = packet.lookahead<tcp_t>().dst;
        meta.tcp_flags = packet.lookahead<tcp_t>().flags;
        transition select(packet.lookahead<tcp_t>().data_offset,
                          (((bit<16>)packet.lookahead<tcp_t>().data_offset) << 2) |-| meta.left, meta.begun) {
            (0 &&& 0xc, _, _): accept; // 0 to 3
            (4, _, _): accept;
            (_, 0, _): readable;
            (_, _, 1): readable;
            default: accept;
        }
    }

    state udp {
        transition select(meta.left |-| 7) {
            0: accept;
            default: ports;
        }
    }

    state sctp {
        transition select(meta.begun, meta.left |-| 3, meta.left |-| 11) {
            (0, _, 0): accept;
            (1, 0, _): accept;
            default: ports;
        }
    }

    state ports {
        meta.src_port = packet.lookahead<ports_t>().src;
        meta.dst_port = packet.lookahead<ports_t>().dst;
        transition readable;
    }

    state icmp {
        transition select(meta.left |-| 7) {
            0: accept;
            default: icmp_whole;
        }
    }

    state icmp_whole {
        meta.icmp_type = packet.lookahead<icmp_t>().type;
        meta.icmp_code = packet.lookahead<icmp_t>().code;
        transition readable;
    }

    // Too short for a type it is read all the same: policies match the protocol alone.
    state igmp {
        transition select(meta.left |-| 7) {
            0: readable;
            default: igmp_whole;
        }
    }

    state igmp_whole {
        meta.igmp_type = packet.lookahead<bit<8>>();
        transition readable;
    }

    state icmpv6 {
        transition select(meta.left |-| 7) {
            0: accept;
            default: icmpv6_whole;
        }
    }

    state icmpv6_whole {
        meta.icmp_type = packet.lookahead<icmp_t>().type;
        meta.icmp_code = packet.lookahead<icmp_t>().code;
        meta.unreadable = 0;
        // RFC 4861: a code other than 0 is no neighbour discovery.
        transition select(packet.lookahead<icmp_t>().type, packet.lookahead<icmp_t>().code) {
            (133, 0): router_solicitation;
            (134, 0): router_advertisement;
            (135, 0): neighbour_solicitation;
            (136, 0): neighbour_advertisement;
            default: accept;
        }
    }

    state router_solicitation {
        meta.nd_type = 133;
        meta.nd_hidden = 1;
        meta.nd_option_type = 1;
        packet.extract(hdr.router_solicitation);
        meta.nd_left = meta.left - 8;
        transition nd_options;
    }

    state router_advertisement {
        meta.nd_type = 134;
        meta.nd_hidden = 1;
        meta.nd_option_type = 1;
        transition select(meta.left |-| 15) {
            0: accept;
            default: router_advertisement_whole;
        }
    }

    state router_advertisement_whole {
        packet.extract(hdr.router_advertisement);
        meta.nd_left = meta.left - 16;
        transition nd_options;
    }

    state neighbour_solicitation {
        meta.nd_type = 135;
        meta.nd_option_type = 1;
        transition neighbour;
    }

    state neighbour_advertisement {
        meta.nd_type = 136;
        meta.nd_option_type = 2;
        transition neighbour;
    }

    state neighbour {
        meta.nd_hidden = 1;
        transition select(meta.left |-| 23) {
            0: accept;
            default: neighbour_whole;
        }
    }

    state neighbour_whole {
        packet.extract(hdr.neighbour);
        meta.nd_target = hdr.neighbour.target;
        meta.nd_left = meta.left - 24;
        transition nd_options;
    }

    // What cannot be an option ends the list: nothing behind it can be one (RFC 4861, 4.6). More options than are kept
    // leave `nd_hidden` set.
    state nd_options {
        transition select(meta.nd_left |-| 7) {
            0: nd_read;
            default: nd_option;
        }
    }

    state nd_option {
        transition select(packet.lookahead<nd_word_t>().length,
                          (((bit<16>)packet.lookahead<nd_word_t>().length) << 3) |-| meta.nd_left) {
            (0, _): nd_read;
            (_, 0): nd_option_whole;
            default: nd_read;
        }
    }

    state nd_option_whole {
        packet.extract(hdr.nd_option.next, (((bit<32>)packet.lookahead<nd_word_t>().length) << 6) - 64);
        meta.nd_left = meta.nd_left - (((bit<16>)hdr.nd_option.last.length) << 3);
        // On Ethernet a link-layer address has length 1; a longer one is none (RFC 4861, 4.6.1; RFC 2464).
        transition select(hdr.nd_option.last.type ^ meta.nd_option_type, hdr.nd_option.last.length, meta.nd_has_mac,
                          hdr.nd_option.last.mac ^ meta.nd_mac) {
            (0, 1, 0, _): nd_mac;
            (0, 1, 1, 0): nd_options;
            // Two that differ.
            (0, 1, 1, _): accept;
            default: nd_options;
        }
    }

    state nd_mac {
        meta.nd_has_mac = 1;
        meta.nd_mac = hdr.nd_option.last.mac;
        transition nd_options;
    }

    state nd_read {
        meta.nd_hidden = 0;
        transition accept;
    }
}

#endif
