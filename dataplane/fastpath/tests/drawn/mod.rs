//! Frames and rows drawn by chance, from small pools so that they meet.
#![allow(dead_code, reason = "test binaries use what they need of it")]

use portcullis_fastpath::{Action, Cond, Fields, Key, Lead, NO_SLOT, Row, Table};

use crate::oracle::value;

/// A generator of numbers (splitmix64), the same for a seed everywhere.
#[derive(Clone)]
pub struct Dice(pub u64);

impl Dice {
    pub fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ z >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ z >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ z >> 31
    }

    pub fn below(&mut self, n: u64) -> u64 {
        self.next() % n
    }

    pub fn one_in(&mut self, n: u64) -> bool {
        self.below(n) == 0
    }

    pub fn pick<T: Copy>(&mut self, list: &[T]) -> T {
        list[self.below(list.len() as u64) as usize]
    }
}

const PORTS: [u16; 10] = [0, 1, 22, 25, 53, 67, 68, 546, 547, 65535];
pub const SWITCH_PORTS: u64 = 4;
const CLASSES: u64 = 4;

fn port(dice: &mut Dice) -> u16 {
    if dice.one_in(3) {
        dice.next() as u16
    } else {
        dice.pick(&PORTS)
    }
}

fn mac(dice: &mut Dice) -> [u8; 6] {
    match dice.below(12) {
        0 => [0xff; 6],
        1 => [0x33, 0x33, 0, 0, 0, 1],
        2 => [1, 0x80, 0xc2, 0, 0, dice.below(18) as u8],
        3 => [1, 0, 0x0c, 0xcc, 0xcc, 0xcc + dice.below(3) as u8],
        n => [2, 0, 0, 0, 0, n as u8 % 5],
    }
}

fn v4(dice: &mut Dice) -> [u8; 4] {
    match dice.below(6) {
        0 => [0; 4],
        1 => [255; 4],
        2 => [224, 0, 0, 1],
        n => [192, 0, n as u8, dice.below(4) as u8],
    }
}

fn v6(dice: &mut Dice) -> [u8; 16] {
    let mut address = [0; 16];
    match dice.below(6) {
        0 => {}
        1 => address[0] = 0xff,
        2 => {
            address[..2].copy_from_slice(&[0xfe, dice.pick(&[0x80, 0xbf, 0xc0])]);
            address[15] = dice.below(3) as u8;
        }
        n => {
            address[..2].copy_from_slice(&[0x20, 1]);
            address[7] = n as u8;
            address[15] = dice.below(3) as u8;
        }
    }
    address
}

fn l4(dice: &mut Dice, protocol: u8) -> Vec<u8> {
    let mut bytes = [port(dice).to_be_bytes(), port(dice).to_be_bytes()].concat();
    let length = match protocol {
        6 => 20,
        132 => 12,
        _ => 8,
    };
    bytes.resize(length + dice.below(6) as usize, 0);
    match protocol {
        6 => {
            bytes[12] = if dice.one_in(8) { dice.next() as u8 } else { 0x50 };
            bytes[13] = dice.pick(&[2, 0x10, 0x12, 4]);
        }
        1 => bytes[..2].copy_from_slice(&[dice.pick(&[0, 3, 5, 8, 9, 11]), dice.below(3) as u8]),
        2 => bytes[0] = dice.pick(&[0x11, 0x11, 0x16, 0x22]),
        58 => icmpv6(dice, &mut bytes),
        _ => {}
    }
    if dice.one_in(12) {
        bytes.truncate(dice.below(bytes.len() as u64) as usize);
    }
    bytes
}

fn icmpv6(dice: &mut Dice, bytes: &mut Vec<u8>) {
    let kind = dice.pick(&[1, 128, 130, 133, 134, 135, 136, 136, 137]);
    bytes[..2].copy_from_slice(&[kind, u8::from(dice.one_in(8))]);
    bytes.truncate(8);
    match kind {
        134 => bytes.extend([0; 8]),
        135 | 136 => bytes.extend(v6(dice)),
        _ => {}
    }
    for _ in 0..dice.pick(&[0, 1, 1, 2, 7]) {
        bytes.extend([dice.pick(&[1, 2, 3]), dice.pick(&[1, 1, 1, 1, 0, 2])]);
        bytes.extend(mac(dice));
    }
}

fn ipv4(dice: &mut Dice) -> Vec<u8> {
    let protocol = dice.pick(&[6, 6, 17, 17, 132, 1, 2, 58, 0, 47]);
    let payload = l4(dice, protocol);
    let words = if dice.one_in(5) {
        5 + dice.below(11) as u8
    } else {
        5
    };
    let header = usize::from(words) * 4;
    let mut total = (header + payload.len()) as u16;
    if dice.one_in(20) {
        total = total.wrapping_add(dice.below(9) as u16).wrapping_sub(4);
    }
    let offset: u16 = match dice.below(10) {
        0 => 0x2000,
        1 => 1,
        2 => 0x2001,
        3 => dice.next() as u16,
        _ => 0,
    };
    let mut bytes = vec![0x40 | words, 0];
    if dice.one_in(30) {
        bytes[0] = dice.next() as u8;
    }
    bytes.extend(total.to_be_bytes());
    bytes.extend([0, 0]);
    bytes.extend(offset.to_be_bytes());
    bytes.extend([64, protocol, 0, 0]);
    bytes.extend(v4(dice));
    bytes.extend(v4(dice));
    bytes.resize(header, 1);
    bytes.extend(payload);
    bytes
}

fn ipv6(dice: &mut Dice) -> Vec<u8> {
    let protocol = dice.pick(&[6, 6, 17, 17, 132, 58, 58, 1, 59]);
    let mut rest = l4(dice, protocol);
    let mut next = protocol;
    for _ in 0..dice.pick(&[0, 0, 0, 1, 2, 3, 8, 9]) {
        let kind = dice.pick(&[0, 43, 44, 51, 60]);
        let length = dice.pick(&[0, 0, 0, 1, 2]);
        let size = match kind {
            44 => 8,
            51 => (usize::from(length) + 2) * 4,
            _ => (usize::from(length) + 1) * 8,
        };
        let mut header = vec![0; size];
        header[..2].copy_from_slice(&[next, length]);
        if kind == 44 {
            let offset: u16 = dice.pick(&[0, 0, 1, 8, 9, 0x400]);
            header[2..4].copy_from_slice(&offset.to_be_bytes());
        }
        header.extend(rest);
        rest = header;
        next = kind;
    }
    let mut length = rest.len() as u16;
    if dice.one_in(20) {
        length = length.wrapping_add(dice.below(9) as u16).wrapping_sub(4);
    }
    let mut bytes = vec![0x60, 0, 0, 0];
    bytes.extend(length.to_be_bytes());
    bytes.extend([next, 64]);
    bytes.extend(v6(dice));
    bytes.extend(v6(dice));
    bytes.extend(rest);
    bytes
}

fn arp(dice: &mut Dice, sender: [u8; 6]) -> Vec<u8> {
    let mut bytes = vec![0, 1, 8, 0, 6, 4, 0, dice.pick(&[1, 2])];
    bytes.extend(if dice.one_in(5) { mac(dice) } else { sender });
    bytes.extend(v4(dice));
    bytes.extend([0; 6]);
    bytes.extend(v4(dice));
    if dice.one_in(8) {
        bytes[dice.below(6) as usize] = 9;
    }
    bytes
}

pub fn frame(dice: &mut Dice) -> Vec<u8> {
    let (dst, src) = (mac(dice), mac(dice));
    let mut bytes = [dst, src].concat();
    for _ in 0..dice.pick(&[0, 0, 0, 1, 1, 2, 3]) {
        bytes.extend(dice.pick(&[[0x81, 0], [0x81, 0], [0x88, 0xa8], [0x91, 0]]));
        bytes.extend(dice.pick(&[[0x20, 0], [0x20, 1], [0x20, 2], [0x2f, 0xff]]));
    }
    let (kind, payload): (u16, Vec<u8>) = match dice.below(12) {
        0 => (0x0806, arp(dice, src)),
        1 => (dice.pick(&[0x8847, 0x8864, 0x9100, 0x88cc]), vec![7; 20]),
        2..=6 => (0x0800, ipv4(dice)),
        _ => (0x86dd, ipv6(dice)),
    };
    if dice.one_in(15) {
        bytes.extend([0, dice.next() as u8, 0xaa, 0xaa, 3, 0, 0, 0]);
    }
    bytes.extend(kind.to_be_bytes());
    bytes.extend(payload);
    match dice.below(12) {
        0 => bytes.truncate(dice.below(bytes.len() as u64 + 1) as usize),
        1 => {
            let at = dice.below(bytes.len() as u64) as usize;
            bytes[at] = dice.next() as u8;
        }
        2 => bytes.extend([0; 6]),
        _ => {}
    }
    bytes
}

fn width(key: Key) -> u32 {
    match key {
        Key::Port => 9,
        Key::Vlan | Key::TcpFlags => 12,
        Key::SrcMac | Key::DstMac | Key::NdMac => 48,
        Key::Kind | Key::Role => 3,
        Key::GuardAddress | Key::NdTarget | Key::SrcIpv6 | Key::DstIpv6 => 128,
        Key::SrcIpv4 | Key::DstIpv4 => 32,
        Key::Protocol | Key::NdType | Key::IcmpType | Key::IcmpCode => 8,
        Key::SrcPort | Key::DstPort | Key::Class | Key::Overlay | Key::RemoteId | Key::EtherType => 16,
        Key::ArpMalformed
        | Key::NdHidden
        | Key::SrcUnspecified
        | Key::NdHasMac
        | Key::Unreadable
        | Key::Later => 1,
    }
}

fn mask(dice: &mut Dice, bits: u32) -> u128 {
    let all = if bits == 128 { u128::MAX } else { (1 << bits) - 1 };
    match dice.below(4) {
        0 => all & u128::MAX << dice.below(u64::from(bits)),
        1 => all & (u128::from(dice.next()) << 64 | u128::from(dice.next())),
        _ => all,
    }
}

fn condition(dice: &mut Dice, key: Key, f: &Fields) -> Cond {
    let given = match key {
        Key::Port => dice.below(SWITCH_PORTS).into(),
        Key::Class | Key::Overlay | Key::RemoteId => dice.below(CLASSES).into(),
        Key::GuardAddress => dice.pick(&[u128::from(f.src_ipv4), f.src_ipv6, f.arp_sender.into()]),
        key => value(f, key),
    };
    if matches!(key, Key::SrcPort | Key::DstPort) && dice.one_in(2) {
        let high = given + u128::from(dice.below(3) * dice.below(2000));
        return Cond::Range {
            low: given.saturating_sub(u128::from(dice.below(3) * dice.below(700))),
            high: high.min(65535),
        };
    }
    // Some bits of the class: a row for thousands of classes, which are all made anew.
    let whole = (key == Key::Class && !dice.one_in(30)) || (key == Key::Overlay && !dice.one_in(8));
    let mask = if whole { 0xffff } else { mask(dice, width(key)) };
    Cond::Mask {
        value: given & mask,
        mask,
    }
}

/// A row of a table that a frame like this may meet.
pub fn row(dice: &mut Dice, table: Table, f: &Fields, slot: u32) -> Row {
    let mut conds = Vec::new();
    for (at, key) in table.keys().iter().enumerate() {
        let exact = matches!(key, Key::Port | Key::DstMac)
            || (*key == Key::Class && matches!(table, Table::EgressRemote | Table::IngressRemote));
        let cond = if exact || *key == Key::Vlan {
            let given = match key {
                Key::Port => dice.below(SWITCH_PORTS).into(),
                Key::Class => dice.below(CLASSES).into(),
                key => value(f, *key),
            };
            Cond::exact(given)
        } else {
            condition(dice, *key, f)
        };
        let kept = match key {
            _ if exact => true,
            Key::Class => !dice.one_in(6),
            Key::EtherType => !dice.one_in(4),
            _ => dice.one_in(3),
        };
        let guard_range = matches!(cond, Cond::Range { .. }) && table == Table::GuardAddress;
        if kept && !guard_range && cond != (Cond::Mask { value: 0, mask: 0 }) {
            conds.push((at as u8, cond));
        }
    }
    // A row about an overlay seldom asks for the class, too.
    let at = |wanted| table.keys().iter().position(|key| *key == wanted);
    if conds
        .iter()
        .any(|(n, _)| Some(usize::from(*n)) == at(Key::Overlay))
        && !dice.one_in(5)
    {
        conds.retain(|(n, _)| Some(usize::from(*n)) != at(Key::Class));
    }
    let number = |dice: &mut Dice| dice.below(CLASSES) as u16;
    let lead = |dice: &mut Dice| Lead {
        class: dice.below(CLASSES) as u16,
        overlay: dice.below(CLASSES) as u16,
    };
    let action = match table {
        Table::Attach if dice.one_in(2) => Action::SetGuardedClass(lead(dice)),
        Table::Attach | Table::Deliver => Action::SetClass(lead(dice)),
        Table::Guard => dice.pick(&[
            Action::Allow,
            Action::CheckAddresses,
            Action::CheckAddresses,
            Action::Deny,
        ]),
        Table::EgressRemote | Table::IngressRemote => Action::SetRemoteId(number(dice)),
        Table::L2 if dice.one_in(4) => Action::ForwardToGroup(dice.below(4) as u16 + 1),
        Table::L2 => Action::Forward(dice.below(SWITCH_PORTS) as u16),
        _ => dice.pick(&[Action::Allow, Action::Deny]),
    };
    Row {
        conds: conds.into(),
        priority: dice.below(6) as i32 + 1,
        action,
        slot: if table.is_counted() { slot } else { NO_SLOT },
    }
}
