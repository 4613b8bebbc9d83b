//! IP protocols by name: the keywords of IANA's registry of protocol numbers, in lower case.

/// Number and keyword. Where the registry's keyword is not what people write, the usual name stands first; a number's
/// first name is the one that is printed. Keywords with a space, or that are numbers again, are left out.
const NAMES: [(u8, &str); 147] = [
    (0, "hopopt"),
    (1, "icmp"),
    (2, "igmp"),
    (3, "ggp"),
    (4, "ipv4"),
    (4, "ipencap"),
    (5, "st"),
    (6, "tcp"),
    (7, "cbt"),
    (8, "egp"),
    (9, "igp"),
    (10, "bbn-rcc-mon"),
    (11, "nvp-ii"),
    (12, "pup"),
    (13, "argus"),
    (14, "emcon"),
    (15, "xnet"),
    (16, "chaos"),
    (17, "udp"),
    (18, "mux"),
    (19, "dcn-meas"),
    (20, "hmp"),
    (21, "prm"),
    (22, "xns-idp"),
    (23, "trunk-1"),
    (24, "trunk-2"),
    (25, "leaf-1"),
    (26, "leaf-2"),
    (27, "rdp"),
    (28, "irtp"),
    (29, "iso-tp4"),
    (30, "netblt"),
    (31, "mfe-nsp"),
    (32, "merit-inp"),
    (33, "dccp"),
    (34, "3pc"),
    (35, "idpr"),
    (36, "xtp"),
    (37, "ddp"),
    (38, "idpr-cmtp"),
    (39, "tp++"),
    (40, "il"),
    (41, "ipv6"),
    (42, "sdrp"),
    (43, "ipv6-route"),
    (44, "ipv6-frag"),
    (45, "idrp"),
    (46, "rsvp"),
    (47, "gre"),
    (48, "dsr"),
    (49, "bna"),
    (50, "esp"),
    (51, "ah"),
    (52, "i-nlsp"),
    (53, "swipe"),
    (54, "narp"),
    (55, "mobile"),
    (56, "tlsp"),
    (57, "skip"),
    (58, "icmpv6"),
    (58, "ipv6-icmp"),
    (59, "ipv6-nonxt"),
    (60, "ipv6-opts"),
    (62, "cftp"),
    (64, "sat-expak"),
    (65, "kryptolan"),
    (66, "rvd"),
    (67, "ippc"),
    (69, "sat-mon"),
    (70, "visa"),
    (71, "ipcv"),
    (72, "cpnx"),
    (73, "cphb"),
    (74, "wsn"),
    (75, "pvp"),
    (76, "br-sat-mon"),
    (77, "sun-nd"),
    (78, "wb-mon"),
    (79, "wb-expak"),
    (80, "iso-ip"),
    (81, "vmtp"),
    (82, "secure-vmtp"),
    (83, "vines"),
    (84, "iptm"),
    (84, "ttp"),
    (85, "nsfnet-igp"),
    (86, "dgp"),
    (87, "tcf"),
    (88, "eigrp"),
    (89, "ospf"),
    (89, "ospfigp"),
    (90, "sprite-rpc"),
    (91, "larp"),
    (92, "mtp"),
    (93, "ax.25"),
    (94, "ipip"),
    (95, "micp"),
    (96, "scc-sp"),
    (97, "etherip"),
    (98, "encap"),
    (100, "gmtp"),
    (101, "ifmp"),
    (102, "pnni"),
    (103, "pim"),
    (104, "aris"),
    (105, "scps"),
    (106, "qnx"),
    (107, "a/n"),
    (108, "ipcomp"),
    (109, "snp"),
    (110, "compaq-peer"),
    (111, "ipx-in-ip"),
    (112, "vrrp"),
    (113, "pgm"),
    (115, "l2tp"),
    (116, "ddx"),
    (117, "iatp"),
    (118, "stp"),
    (119, "srp"),
    (120, "uti"),
    (121, "smp"),
    (122, "sm"),
    (123, "ptp"),
    (124, "isis"),
    (125, "fire"),
    (126, "crtp"),
    (127, "crudp"),
    (128, "sscopmce"),
    (129, "iplt"),
    (130, "sps"),
    (131, "pipe"),
    (132, "sctp"),
    (133, "fc"),
    (134, "rsvp-e2e-ignore"),
    (135, "mobility-header"),
    (136, "udplite"),
    (137, "mpls-in-ip"),
    (138, "manet"),
    (139, "hip"),
    (140, "shim6"),
    (141, "wesp"),
    (142, "rohc"),
    (143, "ethernet"),
    (144, "aggfrag"),
    (145, "nsh"),
    (146, "homa"),
    (147, "bit-emu"),
];

/// The number of a name, in upper or lower case.
pub(crate) fn number_of(name: &str) -> Option<u8> {
    let found = NAMES.iter().find(|(_, known)| known.eq_ignore_ascii_case(name));
    found.map(|(number, _)| *number)
}

/// The name of a number.
pub(crate) fn name_of(number: u8) -> Option<&'static str> {
    let at = NAMES.partition_point(|(known, _)| *known < number);
    NAMES
        .get(at)
        .filter(|(known, _)| *known == number)
        .map(|(_, name)| *name)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn names_are_one_protocols_and_numbers_rise() {
        assert!(NAMES.is_sorted_by_key(|(number, _)| *number));
        let names: BTreeSet<&str> = NAMES.iter().map(|(_, name)| *name).collect();
        assert_eq!(names.len(), NAMES.len());
        for (number, name) in NAMES {
            assert_eq!(name, name.to_ascii_lowercase());
            assert!(name.parse::<u8>().is_err());
            assert_eq!(number_of(name), Some(number));
            assert_eq!(number_of(&name.to_ascii_uppercase()), Some(number));
            let printed = name_of(number).unwrap();
            assert_eq!(number_of(printed), Some(number));
        }
    }

    /// Figures of the registry: what is unassigned has no name, and the ends of the gaps are where they are.
    #[test]
    fn the_table_is_the_registrys() {
        let unnamed: Vec<u8> = (0..=u8::MAX).filter(|n| name_of(*n).is_none()).collect();
        let mut expected: Vec<u8> = vec![61, 63, 68, 99, 114];
        expected.extend(148..=u8::MAX);
        assert_eq!(unnamed, expected);
        for (name, number) in [
            ("icmp", 1),
            ("igmp", 2),
            ("ipv4", 4),
            ("tcp", 6),
            ("udp", 17),
            ("dccp", 33),
            ("ipv6", 41),
            ("gre", 47),
            ("esp", 50),
            ("ah", 51),
            ("icmpv6", 58),
            ("eigrp", 88),
            ("ospf", 89),
            ("ipip", 94),
            ("etherip", 97),
            ("pim", 103),
            ("ipcomp", 108),
            ("vrrp", 112),
            ("l2tp", 115),
            ("sctp", 132),
            ("udplite", 136),
            ("mpls-in-ip", 137),
            ("hip", 139),
            ("rohc", 142),
            ("nsh", 145),
        ] {
            assert_eq!((number_of(name), name_of(number)), (Some(number), Some(name)));
        }
    }
}
