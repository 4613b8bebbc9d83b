// What a frame carries, and what is noted of it on the way.

#ifndef PORTCULLIS_HEADERS
#define PORTCULLIS_HEADERS

// EtherTypes.
const bit<16> TYPE_VLAN = 0x8100;           // IEEE 802.1Q
const bit<16> TYPE_SERVICE_VLAN = 0x88a8;   // IEEE 802.1ad
const bit<16> TYPE_OLD_VLAN = 0x9100;
const bit<16> TYPE_ARP = 0x0806;
const bit<16> TYPE_IPV4 = 0x0800;
const bit<16> TYPE_IPV6 = 0x86dd;
const bit<16> TYPE_MPLS = 0x8847;
const bit<16> TYPE_MPLS_MULTICAST = 0x8848;
const bit<16> TYPE_PPPOE_SESSION = 0x8864;
// IP protocols and IPv6 extension headers.
const bit<8> HOP_BY_HOP = 0;
const bit<8> ICMP = 1;
const bit<8> IGMP = 2;
const bit<8> TCP = 6;
const bit<8> UDP = 17;
const bit<8> ROUTING = 43;
const bit<8> FRAGMENT = 44;
const bit<8> AUTHENTICATION = 51;
const bit<8> ICMPV6 = 58;
const bit<8> DESTINATION = 60;
const bit<8> SCTP = 132;

// What a frame is. Numbers are in rows of the guard: they stay.
const bit<3> KIND_OTHER = 0;
const bit<3> KIND_ARP = 1;
const bit<3> KIND_IPV4 = 2;
const bit<3> KIND_IPV6 = 3;
const bit<3> KIND_ENCAPSULATED = 4; // may carry IP where it is not looked for
const bit<3> KIND_BROKEN = 5;       // IP by its EtherType, with a header that cannot be read

// The VLAN of a frame whose tags do not say which one it is in: IEEE 802.1Q reserves this id, so that no port has it.
const bit<12> VLAN_UNKNOWN = 4095;

// The role that a server needs for a frame (RFC 6105, RFC 7610, RFC 4541). Numbers are in rows of `roles`: they stay.
const bit<3> ROLE_NONE = 0;
const bit<3> ROLE_ROUTER = 1;      // router advertisements, redirects, IGMP and MLD queries
const bit<3> ROLE_DHCP_SERVER = 2; // what DHCP and DHCPv6 servers send, and what clients receive
const bit<3> ROLE_BRIDGE = 3;      // what bridges tell their neighbours: no server has this role

// What such frames are told by.
const bit<8> ICMP_REDIRECT = 5;
const bit<8> ICMP_ROUTER_ADVERTISEMENT = 9; // RFC 1256
const bit<8> IGMP_QUERY = 0x11;
const bit<8> ICMPV6_MLD_QUERY = 130;
const bit<8> ICMPV6_ROUTER_ADVERTISEMENT = 134;
const bit<8> ICMPV6_REDIRECT = 137;
const bit<16> DHCP_SERVER = 67;
const bit<16> DHCP_CLIENT = 68;
const bit<16> DHCPV6_CLIENT = 546;
const bit<16> DHCPV6_SERVER = 547;

header ethernet_t {
    bit<48> dst_addr;
    bit<48> src_addr;
    bit<16> ether_type;
}

header vlan_t {
    bit<3> pcp;
    bit<1> dei;
    bit<12> vid;
    bit<16> ether_type;
}

// IEEE 802.2 LLC and SNAP (RFC 1042).
header snap_t {
    bit<48> llc_and_oui;
    bit<16> ether_type;
}

// RFC 826, of IPv4 over Ethernet.
header arp_t {
    bit<16> hardware_type;
    bit<16> protocol_type;
    bit<8> hardware_length;
    bit<8> protocol_length;
    bit<16> operation;
    bit<48> sender_mac;
    bit<32> sender_addr;
    bit<48> target_mac;
    bit<32> target_addr;
}

// RFC 791.
header ipv4_t {
    bit<4> version;
    bit<4> ihl;
    bit<8> tos;
    bit<16> total_length;
    bit<16> identification;
    bit<1> reserved;
    bit<1> dont_fragment;
    bit<1> more_fragments;
    bit<13> fragment_offset;
    bit<8> ttl;
    bit<8> protocol;
    bit<16> checksum;
    bit<32> src_addr;
    bit<32> dst_addr;
}

header ipv4_options_t {
    varbit<320> options;
}

// RFC 8200.
header ipv6_t {
    bit<4> version;
    bit<8> traffic_class;
    bit<20> flow_label;
    bit<16> payload_length;
    bit<8> next_header;
    bit<8> hop_limit;
    bit<128> src_addr;
    bit<128> dst_addr;
}

// Any extension header: the first four bytes say what it is and how long (RFC 8200, RFC 4302).
header extension_t {
    bit<8> next_header;
    bit<8> length;
    bit<13> fragment_offset;
    bit<2> reserved;
    bit<1> more_fragments;
    varbit<16352> rest;
}

// RFC 4861: what neighbour discovery messages have before their options.
header neighbour_t { // 135, 136
    bit<64> head;
    bit<128> target;
}

header router_solicitation_t { // 133
    bit<64> head;
}

header router_advertisement_t { // 134
    bit<128> head;
}

header nd_option_t {
    bit<8> type;
    bit<8> length;
    bit<48> mac;
    varbit<16320> rest;
}

// Looked at, and left where they are.
struct ports_t {
    bit<16> src;
    bit<16> dst;
}

struct tcp_t {
    bit<16> src;
    bit<16> dst;
    bit<64> numbers;
    bit<4> data_offset;
    bit<12> flags;
}

struct icmp_t {
    bit<8> type;
    bit<8> code;
}

struct first_word_t {
    bit<8> next_header;
    bit<8> length;
    bit<13> fragment_offset;
    bit<2> reserved;
    bit<1> more_fragments;
}

struct nd_word_t {
    bit<8> type;
    bit<8> length;
}

#define TAGS 2
#define EXTENSIONS 8
#define ND_OPTIONS 6

struct headers_t {
    ethernet_t ethernet;
    vlan_t[TAGS] vlan;
    snap_t snap;
    arp_t arp;
    ipv4_t ipv4;
    ipv4_options_t ipv4_options;
    ipv6_t ipv6;
    extension_t[EXTENSIONS] extension;
    neighbour_t neighbour;
    router_solicitation_t router_solicitation;
    router_advertisement_t router_advertisement;
    nd_option_t[ND_OPTIONS] nd_option;
}

struct metadata_t {
    // Of the packet, as rows match it.
    bit<3> kind;
    bit<12> vlan;
    bit<16> ether_type;
    bit<1> unreadable;
    bit<8> protocol;
    bit<1> later;
    bit<1> begun; // a first fragment, whose header may go on in the next one
    bit<12> tcp_flags;
    bit<32> src_ipv4;
    bit<32> dst_ipv4;
    bit<128> src_ipv6;
    bit<128> dst_ipv6;
    bit<16> src_port;
    bit<16> dst_port;
    bit<8> icmp_type;
    bit<8> icmp_code;
    bit<8> igmp_type;
    // Bytes of the frame behind what was parsed, and of the IP packet.
    bit<16> frame_left;
    bit<16> left;
    // Neighbour discovery: its type, or 0; whether something in it cannot be read; the link-layer address it gives.
    bit<8> nd_type;
    bit<1> nd_hidden;
    bit<8> nd_option_type;
    bit<16> nd_left;
    bit<1> nd_has_mac;
    bit<48> nd_mac;
    bit<128> nd_target;
    // What tables found out.
    bit<3> role;
    bit<16> class;
    // What of the class is different for this endpoint; 0: nothing.
    bit<16> overlay;
    bit<16> remote_id;
    bit<1> guarded;
    bit<1> check_addresses;
    bit<1> arp_malformed;
    bit<128> guard_address;
    bit<1> src_unspecified;
}

#endif
