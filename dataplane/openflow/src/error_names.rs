//! Names and meanings of errors (OpenFlow 1.5 §7.5.4; Open vSwitch's ofp-errors.h for the NX ones).

/// Error type of experimenters (OFPET_EXPERIMENTER).
pub(crate) const EXPERIMENTER: u16 = 0xffff;

/// An error with a name. Those of type [`EXPERIMENTER`] are Nicira's.
pub(crate) struct Known {
    pub(crate) typ: u16,
    pub(crate) code: u16,
    pub(crate) name: &'static str,
    pub(crate) meaning: &'static str,
}

/// Names of error types.
pub(crate) const TYPES: &[(u16, &str)] = &[
    (0, "OFPET_HELLO_FAILED"),
    (1, "OFPET_BAD_REQUEST"),
    (2, "OFPET_BAD_ACTION"),
    (3, "OFPET_BAD_INSTRUCTION"),
    (4, "OFPET_BAD_MATCH"),
    (5, "OFPET_FLOW_MOD_FAILED"),
    (6, "OFPET_GROUP_MOD_FAILED"),
    (7, "OFPET_PORT_MOD_FAILED"),
    (8, "OFPET_TABLE_MOD_FAILED"),
    (9, "OFPET_QUEUE_OP_FAILED"),
    (10, "OFPET_SWITCH_CONFIG_FAILED"),
    (11, "OFPET_ROLE_REQUEST_FAILED"),
    (12, "OFPET_METER_MOD_FAILED"),
    (13, "OFPET_TABLE_FEATURES_FAILED"),
    (14, "OFPET_BAD_PROPERTY"),
    (15, "OFPET_ASYNC_CONFIG_FAILED"),
    (16, "OFPET_FLOW_MONITOR_FAILED"),
    (17, "OFPET_BUNDLE_FAILED"),
    (EXPERIMENTER, "OFPET_EXPERIMENTER"),
];

macro_rules! known {
    ($($typ:tt $code:literal $name:literal $meaning:literal;)*) => {
        /// Every error this codec has a name for.
        pub(crate) const KNOWN: &[Known] =
            &[$(Known { typ: $typ, code: $code, name: $name, meaning: $meaning }),*];
    };
}

known! {
    0 0 "OFPHFC_INCOMPATIBLE" "no protocol version in common";
    0 1 "OFPHFC_EPERM" "the switch does not permit the connection";
    1 0 "OFPBRC_BAD_VERSION" "the request's version is not the one agreed on";
    1 1 "OFPBRC_BAD_TYPE" "the switch does not know this kind of message";
    1 2 "OFPBRC_BAD_MULTIPART" "the switch does not know this kind of multipart request";
    1 3 "OFPBRC_BAD_EXPERIMENTER" "the switch does not know this experimenter";
    1 4 "OFPBRC_BAD_EXP_TYPE" "the switch does not know this message of the experimenter";
    1 5 "OFPBRC_EPERM" "the switch does not permit the request";
    1 6 "OFPBRC_BAD_LEN" "the request has a wrong length";
    1 7 "OFPBRC_BUFFER_EMPTY" "the buffered packet was used already";
    1 8 "OFPBRC_BUFFER_UNKNOWN" "there is no such buffered packet";
    1 9 "OFPBRC_BAD_TABLE_ID" "there is no such table";
    1 10 "OFPBRC_IS_SLAVE" "a controller in the slave role may only read";
    1 11 "OFPBRC_BAD_PORT" "a port is missing or not valid";
    1 12 "OFPBRC_BAD_PACKET" "the packet to send out is not valid";
    1 13 "OFPBRC_MULTIPART_BUFFER_OVERFLOW" "the multipart request is too long";
    1 14 "OFPBRC_MULTIPART_REQUEST_TIMEOUT" "the rest of the multipart request did not come in time";
    1 15 "OFPBRC_MULTIPART_REPLY_TIMEOUT" "the multipart answer was not fetched in time";
    2 0 "OFPBAC_BAD_TYPE" "the switch does not know an action";
    2 1 "OFPBAC_BAD_LEN" "an action has a wrong length";
    2 2 "OFPBAC_BAD_EXPERIMENTER" "the switch does not know the experimenter of an action";
    2 3 "OFPBAC_BAD_EXP_TYPE" "the switch does not know an experimenter's action";
    2 4 "OFPBAC_BAD_OUT_PORT" "an output port is not valid";
    2 5 "OFPBAC_BAD_ARGUMENT" "an action's argument is not valid";
    2 6 "OFPBAC_EPERM" "the switch does not permit an action";
    2 7 "OFPBAC_TOO_MANY" "there are too many actions";
    2 8 "OFPBAC_BAD_QUEUE" "a queue is not valid";
    2 9 "OFPBAC_BAD_OUT_GROUP" "there is no such group";
    2 10 "OFPBAC_MATCH_INCONSISTENT" "an action needs a match that the flow has not";
    2 11 "OFPBAC_UNSUPPORTED_ORDER" "the switch cannot do the actions in this order";
    2 12 "OFPBAC_BAD_TAG" "an action uses a tag the switch does not support";
    2 13 "OFPBAC_BAD_SET_TYPE" "the switch does not know the field an action sets";
    2 14 "OFPBAC_BAD_SET_LEN" "an action reaches beyond the end of a field";
    2 15 "OFPBAC_BAD_SET_ARGUMENT" "an action sets a field to a bad value, or a field that cannot be set";
    2 16 "OFPBAC_BAD_SET_MASK" "an action sets a field with a mask the switch does not support";
    2 17 "OFPBAC_BAD_METER" "there is no such meter";
    3 0 "OFPBIC_UNKNOWN_INST" "the switch does not know an instruction";
    3 1 "OFPBIC_UNSUP_INST" "the table does not support an instruction";
    3 2 "OFPBIC_BAD_TABLE_ID" "the table to continue in does not exist or is not a later one";
    3 3 "OFPBIC_UNSUP_METADATA" "the switch cannot write this metadata";
    3 4 "OFPBIC_UNSUP_METADATA_MASK" "the switch cannot write metadata with this mask";
    3 5 "OFPBIC_BAD_EXPERIMENTER" "the switch does not know the experimenter of an instruction";
    3 6 "OFPBIC_BAD_EXP_TYPE" "the switch does not know an experimenter's instruction";
    3 7 "OFPBIC_BAD_LEN" "an instruction has a wrong length";
    3 8 "OFPBIC_EPERM" "the switch does not permit an instruction";
    3 9 "OFPBIC_DUP_INST" "an instruction is there twice";
    4 0 "OFPBMC_BAD_TYPE" "the switch does not know this kind of match";
    4 1 "OFPBMC_BAD_LEN" "the match has a wrong length";
    4 2 "OFPBMC_BAD_TAG" "the match uses a tag the switch does not support";
    4 3 "OFPBMC_BAD_DL_ADDR_MASK" "the switch does not support this mask of a MAC address";
    4 4 "OFPBMC_BAD_NW_ADDR_MASK" "the switch does not support this mask of an IP address";
    4 5 "OFPBMC_BAD_WILDCARDS" "the switch cannot leave these fields out";
    4 6 "OFPBMC_BAD_FIELD" "the switch does not know a match field";
    4 7 "OFPBMC_BAD_VALUE" "a match field has a bad value";
    4 8 "OFPBMC_BAD_MASK" "a match field has a mask the switch does not support";
    4 9 "OFPBMC_BAD_PREREQ" "a match field lacks the fields it presupposes";
    4 10 "OFPBMC_DUP_FIELD" "a match field is there twice";
    4 11 "OFPBMC_EPERM" "the switch does not permit the match";
    5 0 "OFPFMFC_UNKNOWN" "the flow change failed for an unstated reason";
    5 1 "OFPFMFC_TABLE_FULL" "the table is full";
    5 2 "OFPFMFC_BAD_TABLE_ID" "there is no such table";
    5 3 "OFPFMFC_OVERLAP" "the flow overlaps another of its priority";
    5 4 "OFPFMFC_EPERM" "the switch does not permit the flow change";
    5 5 "OFPFMFC_BAD_TIMEOUT" "the switch does not support the timeout";
    5 6 "OFPFMFC_BAD_COMMAND" "the switch does not know the flow command";
    5 7 "OFPFMFC_BAD_FLAGS" "the switch does not support the flow's flags";
    5 8 "OFPFMFC_CANT_SYNC" "synchronized tables cannot take the flow";
    5 9 "OFPFMFC_BAD_PRIORITY" "the switch does not support the priority";
    5 10 "OFPFMFC_IS_SYNC" "the flow belongs to a synchronized table and is read-only";
    6 0 "OFPGMFC_GROUP_EXISTS" "the group exists already";
    6 1 "OFPGMFC_INVALID_GROUP" "the group is not valid";
    6 3 "OFPGMFC_OUT_OF_GROUPS" "there are too many groups";
    6 8 "OFPGMFC_UNKNOWN_GROUP" "there is no such group";
    7 0 "OFPPMFC_BAD_PORT" "there is no such port";
    7 1 "OFPPMFC_BAD_HW_ADDR" "the MAC address is not that of the port";
    7 2 "OFPPMFC_BAD_CONFIG" "the port cannot be set so";
    7 3 "OFPPMFC_BAD_ADVERTISE" "the port cannot advertise this";
    7 4 "OFPPMFC_EPERM" "the switch does not permit the port change";
    10 0 "OFPSCFC_BAD_FLAGS" "the switch does not support this fragment handling";
    10 1 "OFPSCFC_BAD_LEN" "the length of packet-ins is not valid";
    10 2 "OFPSCFC_EPERM" "the switch does not permit changing its settings";
    14 0 "OFPBPC_BAD_TYPE" "the switch does not know a property";
    14 1 "OFPBPC_BAD_LEN" "a property has a wrong length";
    14 2 "OFPBPC_BAD_VALUE" "a property has a bad value";
    14 3 "OFPBPC_TOO_MANY" "there are too many properties";
    14 4 "OFPBPC_DUP_TYPE" "a property is there twice";
    14 8 "OFPBPC_EPERM" "the switch does not permit a property";
    15 0 "OFPACFC_INVALID" "a mask of the asynchronous configuration is not valid";
    15 1 "OFPACFC_UNSUPPORTED" "the switch does not support this asynchronous configuration";
    15 2 "OFPACFC_EPERM" "the switch does not permit the asynchronous configuration";
    17 0 "OFPBFC_UNKNOWN" "the bundle failed for an unstated reason";
    17 1 "OFPBFC_EPERM" "the switch does not permit the bundle";
    17 2 "OFPBFC_BAD_ID" "there is no such bundle";
    17 3 "OFPBFC_BUNDLE_EXIST" "the bundle exists already";
    17 4 "OFPBFC_BUNDLE_CLOSED" "the bundle is closed";
    17 5 "OFPBFC_OUT_OF_BUNDLES" "there are too many bundles";
    17 6 "OFPBFC_BAD_TYPE" "the switch does not know the bundle control";
    17 7 "OFPBFC_BAD_FLAGS" "the bundle's flags are not supported, or differ between its messages";
    17 8 "OFPBFC_MSG_BAD_LEN" "a bundled message has a wrong length";
    17 9 "OFPBFC_MSG_BAD_XID" "a bundled message has not the transaction id of the message around it";
    17 10 "OFPBFC_MSG_UNSUP" "a bundle cannot hold this kind of message";
    17 11 "OFPBFC_MSG_CONFLICT" "a bundle cannot hold these messages together";
    17 12 "OFPBFC_MSG_TOO_MANY" "the bundle has too many messages";
    17 13 "OFPBFC_MSG_FAILED" "a message of the bundle failed";
    17 14 "OFPBFC_TIMEOUT" "the bundle was not committed in time";
    17 15 "OFPBFC_BUNDLE_IN_PROGRESS" "another bundle holds the resource";
    17 16 "OFPBFC_SCHED_NOT_SUPPORTED" "the switch cannot commit at a set time";
    17 17 "OFPBFC_SCHED_FUTURE" "the commit time is too far ahead";
    17 18 "OFPBFC_SCHED_PAST" "the commit time is too long ago";
    EXPERIMENTER 2 "NXBRC_NXM_INVALID" "the match fields are not valid";
    EXPERIMENTER 3 "NXBRC_NXM_BAD_TYPE" "a match field, its length or its mask is not supported";
    EXPERIMENTER 4 "NXBRC_MUST_BE_ZERO" "bytes that must be zero are not";
    EXPERIMENTER 10 "NXBRC_UNENCODABLE_ERROR" "the error has no form in this version";
    EXPERIMENTER 11 "NXBAC_MUST_BE_ZERO" "bytes of an action that must be zero are not";
    EXPERIMENTER 12 "NXFMFC_HARDWARE" "the datapath failed";
    EXPERIMENTER 13 "NXFMFC_BAD_TABLE_ID" "there is no such table";
    EXPERIMENTER 15 "NXBAC_BAD_CONJUNCTION" "a conjunction action is not valid or not alone";
    EXPERIMENTER 22 "NXBFC_BAD_VERSION" "a bundled message has not the version of the message around it";
    EXPERIMENTER 37 "NXFMFC_INVALID_TLV_FIELD" "a tunnel metadata field is not mapped";
    EXPERIMENTER 42 "NXBAC_CT_DATAPATH_SUPPORT" "the datapath cannot track connections as an action asks";
    EXPERIMENTER 43 "NXBMC_CT_DATAPATH_SUPPORT" "the datapath cannot track connections as a match asks";
}
