// Portcullis for v1model: parse, attach, roles, guard, egress policy, L2, then for every copy deliver and ingress policy.

#include <core.p4>
#include <v1model.p4>

#include "include/headers.p4"
#include "include/parser.p4"
#include "include/tables.p4"

parser MainParser(packet_in packet, out headers_t hdr, inout metadata_t meta, inout standard_metadata_t standard) {
    FrameParser() frame;
    state start {
        frame.apply(packet, hdr, meta, (bit<16>)standard.packet_length);
        transition accept;
    }
}

control NoVerification(inout headers_t hdr, inout metadata_t meta) {
    apply {}
}

control IngressPipe(inout headers_t hdr, inout metadata_t meta, inout standard_metadata_t standard) {
    Sender() sender;
    apply {
        bit<1> dropped;
        bit<1> to_one;
        bit<9> out_port;
        bit<16> group;
        sender.apply(hdr, meta, standard.ingress_port, dropped, to_one, out_port, group);
        if (dropped == 1) {
            mark_to_drop(standard);
        } else if (to_one == 1) {
            standard.egress_spec = out_port;
        } else {
            standard.mcast_grp = group;
        }
    }
}

control EgressPipe(inout headers_t hdr, inout metadata_t meta, inout standard_metadata_t standard) {
    Receiver() receiver;
    apply {
        bit<1> dropped;
        receiver.apply(hdr, meta, standard.ingress_port, standard.egress_port, dropped);
        if (dropped == 1) {
            mark_to_drop(standard);
        }
    }
}

control NoChecksum(inout headers_t hdr, inout metadata_t meta) {
    apply {}
}

control MainDeparser(packet_out packet, in headers_t hdr) {
    apply { packet.emit(hdr); }
}

@pkginfo(name="portcullis", version="3")
V1Switch(MainParser(), NoVerification(), IngressPipe(), EgressPipe(), NoChecksum(), MainDeparser()) main;
