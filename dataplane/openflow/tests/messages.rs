//! Corners of the codec that generated input seldom meets.
#![allow(clippy::unwrap_used, clippy::panic)]

use portcullis_openflow::{
    Action, BundleAdd, DecodeError, EncodeError, ErrorMsg, Field, FlowMod, Hello, Instruction, Learn, Match,
    Message, MultipartRequest, Oxm, Version, decode, encode, frame_len, instruction, negotiate, port,
};

fn bytes(message: &Message, version: Version) -> Vec<u8> {
    let mut out = Vec::new();
    encode(message, version, 1, &mut out).unwrap();
    out
}

#[test]
fn frames_are_cut() {
    assert_eq!(frame_len(&[]), Ok(None));
    assert_eq!(frame_len(&[5, 0, 0, 8, 0, 0, 0]), Ok(None));
    assert_eq!(frame_len(&[5, 20, 0, 24, 0, 0, 0, 0]), Ok(Some(24)));
    assert_eq!(
        frame_len(&[5, 20, 0, 7, 0, 0, 0, 0]),
        Err(DecodeError::Length {
            what: "message",
            length: 7
        })
    );
    assert_eq!(
        frame_len(&[4, 20, 0, 8, 0, 0, 0, 0]),
        Err(DecodeError::Version {
            version: 4,
            msg_type: 20
        })
    );
    assert_eq!(
        frame_len(&[4, 0, 0, 8, 0, 0, 0, 0]),
        Ok(Some(8)),
        "a hello may be of any version"
    );
    assert!(frame_len(b"HTTP/1.1").is_err());
}

#[test]
fn a_command_that_is_none_is_refused() {
    // It follows the header, the cookie, its mask and the table.
    const AT: usize = 8 + 8 + 8 + 1;
    let mut frame = bytes(&Message::FlowMod(FlowMod::default()), Version::V1_5);
    assert!(decode(&frame).is_ok());
    frame[AT] = 5;
    let what = "flow-mod command";
    assert_eq!(decode(&frame).unwrap_err(), DecodeError::Value { what, value: 5 });
}

#[test]
fn versions_are_negotiated() {
    let hello = |frame: &[u8]| match decode(frame).unwrap().1 {
        Message::Hello(hello) => hello,
        other => panic!("{other:?}"),
    };
    let old = hello(&[4, 0, 0, 8, 0, 0, 0, 0]);
    assert_eq!(old.versions, 0b1_1110);
    assert_eq!(negotiate(Version::BOTH, &old), None);
    let no_bitmap = hello(&[6, 0, 0, 8, 0, 0, 0, 0]);
    assert_eq!(negotiate(Version::BOTH, &no_bitmap), Some(Version::V1_5));
    let gap = hello(&[6, 0, 0, 16, 0, 0, 0, 0, 0, 1, 0, 8, 0, 0, 0, 0b10_0010]);
    assert_eq!(negotiate(Version::BOTH, &gap), Some(Version::V1_4));
    assert_eq!(negotiate(Version::V1_5.bit(), &gap), None);
    let other_element = [
        6, 0, 0, 24, 0, 0, 0, 0, 0, 9, 0, 5, 1, 0, 0, 0, 0, 1, 0, 8, 0, 0, 0, 0b100_0000,
    ];
    assert_eq!(
        hello(&other_element),
        Hello {
            versions: Version::V1_5.bit()
        }
    );
}

#[test]
fn matches_are_canonical() {
    let plain = Match::new()
        .exact(Field::TcpDst, 80_u16)
        .exact(Field::InPort, 3_u32);
    let same = Match::new()
        .exact(Field::InPort16, 3_u16)
        .exact(Field::TcpDst, 443_u16)
        .masked(Field::TcpDst, 80_u16, 0xffff_u16)
        .masked(Field::TcpSrc, 80_u16, 0_u16)
        .exact(Field::PacketType, 0_u32);
    assert_eq!(plain, same);
    assert_eq!(plain.len(), 2);
    assert_eq!(plain.get(Field::TcpDst), Some(Oxm::exact(Field::TcpDst, 80)));
    assert_eq!(plain.get(Field::TcpSrc), None);
    assert!(
        same.masked(Field::TcpDst, 0_u16, 0_u16)
            .masked(Field::InPort, 0_u8, 0_u8)
            .is_empty()
    );
    let local = Match::new().exact(Field::InPort16, 0xfffe_u16);
    assert_eq!(local, Match::new().exact(Field::InPort, port::LOCAL));

    let masked = Match::new().masked(Field::VlanVid, 0xffff_u16, 0x1fff_u16);
    assert_eq!(
        masked,
        Match::new().exact(Field::VlanVid, 0x1fff_u16),
        "13 bits are all of a VLAN id"
    );
    assert_eq!(
        Match::new()
            .masked(Field::Ipv4Src, 0xc000_0201_u32, 0xffff_ff00_u32)
            .to_string(),
        "nw_src=0xc0000200/0xffffff00"
    );
}

#[test]
fn wide_registers_come_apart() {
    let wide = Match::new().masked(Field::XReg(2), 0x5_0000_0000_u64, 0xff_0000_00ff_u64);
    let narrow = Match::new()
        .masked(Field::Reg(4), 5_u8, 0xff_u8)
        .masked(Field::Reg(5), 0_u8, 0xff_u8);
    assert_eq!(wide, narrow);
    let high_only = Match::new().masked(Field::XReg(0), 1_u64 << 32, u64::MAX << 32);
    assert_eq!(high_only, Match::new().exact(Field::Reg(0), 1_u8));
    let widest = Match::new().exact(Field::XxReg(1), (1_u128 << 96) | 4);
    let four = [(4, 1_u8), (5, 0), (6, 0), (7, 4)];
    assert_eq!(
        widest,
        four.into_iter()
            .map(|(n, v)| Oxm::exact(Field::Reg(n), v.into()))
            .collect()
    );
}

#[test]
fn matches_are_small() {
    let row = Match::new()
        .exact(Field::Reg(0), 7_u32)
        .exact(Field::EthType, 0x0800_u16)
        .exact(Field::IpProto, 6_u8)
        .masked(Field::TcpDst, 0x400_u16, 0xfc00_u16);
    assert_eq!(size_of::<Match>(), 16);
    assert_eq!(row.as_oxm_bytes().len(), 8 + 6 + 5 + 8);
}

#[test]
fn what_does_not_exist_is_never_left_out() {
    for act in [
        || Match::new().exact(Field::Reg(16), 1_u8),
        || Match::new().exact(Field::TcpDst, 70_000_u32),
        || {
            let wide = Field::Unknown {
                class: 1,
                field: 40,
                width: 17,
                experimenter: 0,
            };
            Match::new().masked(wide, 1_u8, 1_u8)
        },
    ] {
        assert!(std::panic::catch_unwind(act).is_err());
    }
    let set = Action::SetField(Oxm::exact(Field::Reg(16), 1));
    let row = FlowMod {
        instructions: vec![Instruction::ApplyActions(vec![set])],
        ..FlowMod::default()
    };
    let error = encode(&Message::FlowMod(row), Version::V1_5, 1, &mut Vec::new()).unwrap_err();
    assert!(matches!(error, EncodeError::Range { .. }), "{error}");
}

#[test]
fn a_field_twice_is_refused() {
    let mut frame = bytes(
        &Message::FlowMod(FlowMod {
            match_: Match::new().exact(Field::TcpSrc, 1_u8).exact(Field::TcpDst, 1_u8),
            ..FlowMod::default()
        }),
        Version::V1_4,
    );
    // Header of tcp_dst becomes that of tcp_src.
    let at = frame.windows(4).position(|w| w == [0x80, 0, 14 << 1, 2]).unwrap();
    frame[at + 2] = 13 << 1;
    assert_eq!(
        decode(&frame),
        Err(DecodeError::DuplicateField { field: "tcp_src" })
    );
}

#[test]
fn instructions_are_canonical() {
    let odd = vec![
        Instruction::GotoTable(3),
        Instruction::ApplyActions(vec![]),
        Instruction::WriteMetadata { value: 1, mask: 1 },
    ];
    let even = vec![
        Instruction::WriteMetadata { value: 1, mask: 1 },
        Instruction::GotoTable(3),
    ];
    assert_eq!(instruction::canonical(odd), even);
}

#[test]
fn loads_are_set_fields() {
    // NXAST_REG_LOAD of 5 into reg1[8..11], as Open vSwitch sends it in 1.4.
    let load = [
        0, 0, 0x23, 0x20, 0, 7, 0x02, 0x03, 0, 1, 2, 4, 0, 0, 0, 0, 0, 0, 0, 5,
    ];
    let carrier = Instruction::ApplyActions(vec![Action::Unknown {
        typ: 0xffff,
        bytes: load.to_vec(),
    }]);
    let row = FlowMod {
        instructions: vec![carrier],
        ..FlowMod::default()
    };
    let Message::FlowMod(seen) = decode(&bytes(&Message::FlowMod(row), Version::V1_4)).unwrap().1 else {
        panic!("not a flow-mod")
    };
    let set = Action::set_masked(Field::Reg(1), 0x500_u32, 0xf00_u32);
    assert_eq!(seen.instructions, [Instruction::ApplyActions(vec![set])]);
}

#[test]
fn what_cannot_be_said_is_refused_and_leaves_no_trace() {
    let mut out = b"before".to_vec();
    let mut refuse = |message: Message, version| {
        let error = encode(&message, version, 1, &mut out).unwrap_err();
        assert_eq!(out, b"before", "{error}");
        error
    };
    let long = refuse(Message::EchoRequest(vec![0; 65_528]), Version::V1_4);
    assert_eq!(
        long,
        EncodeError::TooLong {
            what: "message",
            length: 65_536
        }
    );
    let one_port = Message::MultipartRequest(MultipartRequest::PortDesc { port_no: 1 });
    assert!(matches!(
        refuse(one_port, Version::V1_4),
        EncodeError::NotExpressible { .. }
    ));

    let row = |action| {
        let instructions = vec![Instruction::ApplyActions(vec![action])];
        Message::FlowMod(FlowMod {
            instructions,
            ..FlowMod::default()
        })
    };
    assert!(matches!(
        refuse(row(Action::Meter(1)), Version::V1_4),
        EncodeError::NotExpressible { .. }
    ));
    let far = Action::Resubmit {
        in_port: Some(0x1_0000),
        table: 0,
    };
    assert!(matches!(
        refuse(row(far), Version::V1_5),
        EncodeError::Range { .. }
    ));
    let mut deep = Action::PopVlan;
    for _ in 0..9 {
        deep = Action::Clone(vec![deep]);
    }
    assert!(matches!(
        refuse(row(deep), Version::V1_5),
        EncodeError::NotExpressible { .. }
    ));
    let add = |message| {
        Message::BundleAdd(BundleAdd {
            bundle_id: 1,
            flags: 0,
            message: Box::new((1, message)),
        })
    };
    assert!(matches!(
        refuse(add(add(Message::BarrierRequest)), Version::V1_5),
        EncodeError::NotExpressible { .. }
    ));
    let many = vec![Action::output(1); 5000];
    let long = refuse(row(Action::Clone(many)), Version::V1_5);
    assert!(
        matches!(long, EncodeError::TooLong { what: "action", .. }),
        "{long}"
    );
}

#[test]
fn depth_is_bounded() {
    // Clones in clones, thousands deep, as a peer could send them.
    let mut body = Vec::new();
    for _ in 0..4000 {
        let length = u16::try_from(body.len() + 16).unwrap();
        let mut outer = vec![0xff, 0xff];
        outer.extend(length.to_be_bytes());
        outer.extend([0, 0, 0x23, 0x20, 0, 42, 0, 0, 0, 0, 0, 0]);
        outer.extend(&body);
        body = outer;
    }
    let carrier = Action::Unknown {
        typ: 0xffff,
        bytes: body[4..].to_vec(),
    };
    let row = FlowMod {
        instructions: vec![Instruction::ApplyActions(vec![carrier])],
        ..FlowMod::default()
    };
    let frame = bytes(&Message::FlowMod(row), Version::V1_4);
    let (_, seen) = decode(&frame).unwrap();
    assert_eq!(
        bytes(&seen, Version::V1_4),
        frame,
        "what is too deep is kept as it came"
    );

    let bundled = [
        6, 34, 0, 24, 0, 0, 0, 1, 0, 0, 0, 9, 0, 0, 0, 0, 6, 34, 0, 8, 0, 0, 0, 1,
    ];
    assert_eq!(decode(&bundled), Err(DecodeError::NestedBundle));
}

#[test]
fn a_bundled_message_has_the_version_around_it() {
    let bundled = [
        6, 34, 0, 24, 0, 0, 0, 1, 0, 0, 0, 9, 0, 0, 0, 0, 5, 20, 0, 8, 0, 0, 0, 1,
    ];
    assert_eq!(
        decode(&bundled),
        Err(DecodeError::Version {
            version: 5,
            msg_type: 20
        })
    );
}

#[test]
fn errors_are_explained() {
    let error = |typ, code, experimenter| ErrorMsg {
        typ,
        code,
        experimenter,
        data: vec![],
    };
    for (error, expected) in [
        (
            error(5, 1, None),
            "the table is full: OFPET_FLOW_MOD_FAILED (5), OFPFMFC_TABLE_FULL (1)",
        ),
        (
            error(17, 13, None),
            "a message of the bundle failed: OFPET_BUNDLE_FAILED (17), OFPBFC_MSG_FAILED (13)",
        ),
        (
            error(0xffff, 22, Some(0x2320)),
            "a bundled message has not the version of the message around it: OFPET_EXPERIMENTER (65535), \
             NXBFC_BAD_VERSION (22) of experimenter 0x2320",
        ),
        (
            error(4, 99, None),
            "an error without a known name: OFPET_BAD_MATCH (4), code 99",
        ),
        (
            error(77, 1, None),
            "an error without a known name: error type (77), code 1",
        ),
        (
            error(0xffff, 22, Some(9)),
            "an error without a known name: OFPET_EXPERIMENTER (65535), code 22 of experimenter 0x9",
        ),
    ] {
        assert_eq!(error.explain(), expected);
    }
    assert_eq!(error(5, 1, None).failed(), None);
}

#[test]
fn learn_takes_what_fits() {
    let learn = |specs| {
        let action = Action::Learn(Box::new(Learn {
            idle_timeout: 0,
            hard_timeout: 0,
            priority: 1,
            cookie: 0,
            flags: 0,
            table_id: 1,
            fin_idle: 0,
            fin_hard: 0,
            limit: 0,
            specs,
        }));
        Message::FlowMod(FlowMod {
            instructions: vec![Instruction::ApplyActions(vec![action])],
            ..FlowMod::default()
        })
    };
    use portcullis_openflow::{Bits, LearnSpec};
    for spec in [
        LearnSpec::LoadValue {
            value: 4,
            dst: Bits::from_field(Field::Reg(0)),
            n_bits: 2,
        },
        LearnSpec::OutputField {
            src: Bits::from_field(Field::Reg(0)),
            n_bits: 0,
        },
        LearnSpec::OutputField {
            src: Bits::from_field(Field::Reg(0)),
            n_bits: 1024,
        },
    ] {
        let mut out = Vec::new();
        let error = encode(&learn(vec![spec]), Version::V1_4, 1, &mut out).unwrap_err();
        assert!(matches!(error, EncodeError::Range { .. }), "{error}");
    }
}
