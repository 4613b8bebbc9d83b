//! Whatever policy, NIC and frame: a rule only matches what the switch drops. And a row that is said to be in hardware as a whole is.

use std::collections::BTreeSet;
use std::sync::Arc;

use portcullis_fastpath::{
    Action, Cond, DropReason, EgressRows, Fields, Key, Lead, NO_SLOT, Row, Table, Tables, Tally,
};
use portcullis_nic::{
    Bounds, Capabilities, Encapsulation, Family, Follows, Kind, LaterFragments, Level, Lowered, Memo,
    ParserFacts, Policy, PortMatching, Senders, Tags, Why, is_still_denied, lower,
};

use crate::drawn::{self, Dice};
use crate::parser::{View, views};

const PORT: u16 = 0;

/// What becomes of a frame at its sender.
#[derive(Debug, Default)]
pub struct Seen {
    pub slots: Vec<u32>,
    pub drops: Vec<DropReason>,
}

impl Tally for Seen {
    fn hit(&mut self, slot: u32, _: u32) {
        self.slots.push(slot);
    }

    fn dropped(&mut self, _: u16, why: DropReason) {
        self.drops.push(why);
    }
}

impl Seen {
    pub fn new(tables: &mut Tables, frame: &[u8]) -> Self {
        let (mut seen, mut list) = (Seen::default(), Vec::new());
        tables.publish().process(frame, PORT, &mut list, &mut seen);
        seen
    }

    /// Whether it was dropped for what its sender may not send. No port receives anything here.
    pub fn is_denied(&self) -> bool {
        let denials = [
            DropReason::Runt,
            DropReason::UnknownSender,
            DropReason::NoRole,
            DropReason::ReservedGroup,
            DropReason::EgressPolicy,
        ];
        self.drops.iter().any(|why| denials.contains(why))
    }
}

pub fn senders(tables: &Tables) -> Senders {
    let leads = tables.senders(PORT).into_iter();
    let policy = |lead: Lead| (lead.class != 0).then(|| Arc::new(Policy::new(&tables.egress_rows(lead))));
    Senders(leads.map(|(vlan, lead)| (vlan, policy(lead))).collect())
}

pub fn row(table: Table, conds: &[(Key, Cond)], priority: i32, action: Action, slot: u32) -> Row {
    let place = |key: Key| table.keys().iter().position(|k| *k == key).unwrap() as u8;
    let mut conds: Vec<(u8, Cond)> = conds.iter().map(|(key, cond)| (place(*key), *cond)).collect();
    conds.sort_by_key(|(at, _)| *at);
    Row {
        conds: conds.into(),
        priority,
        action,
        slot,
    }
}

/// Tables with senders at one port, and the frames that their rows were drawn for.
fn drawn_tables(dice: &mut Dice) -> (Tables, Vec<Vec<u8>>) {
    let mut tables = Tables::default();
    let mut frames: Vec<Vec<u8>> = Vec::new();
    let port = (Key::Port, Cond::exact(PORT));
    for vlan in dice.pick(&[&[None][..], &[Some(1_u16)], &[None, Some(1)], &[Some(0), Some(2)]]) {
        let lead = Lead {
            class: if dice.one_in(8) {
                0
            } else {
                1 + dice.below(3) as u16
            },
            overlay: dice.below(4) as u16,
        };
        let conds: Vec<(Key, Cond)> = [port]
            .into_iter()
            .chain(vlan.map(|v| (Key::Vlan, Cond::exact(v))))
            .collect();
        let priority = if vlan.is_some() { 2 } else { 1 };
        tables
            .insert(
                Table::Attach,
                row(Table::Attach, &conds, priority, Action::SetClass(lead), NO_SLOT),
            )
            .unwrap();
    }
    if !dice.one_in(6) {
        let unreadable = [(Key::Unreadable, Cond::Mask { value: 1, mask: 1 })];
        let all = row(Table::EgressPolicy, &unreadable, 100, Action::Deny, 0);
        tables.insert(Table::EgressPolicy, all).unwrap();
    }
    for slot in 1..=4 + dice.below(8) as u32 {
        let frame = drawn::frame(dice);
        let Some(fields) = Fields::parse(&frame) else {
            continue;
        };
        for _ in 0..2 {
            let remote = drawn::row(dice, Table::EgressRemote, &fields, NO_SLOT);
            let _refused = tables.insert(Table::EgressRemote, remote);
        }
        let mut policy = match dice.one_in(3) {
            true => drawn::row(dice, Table::EgressPolicy, &fields, slot),
            false => about_ports(dice, &fields, slot),
        };
        if dice.one_in(2) {
            policy.action = Action::Deny;
        }
        let _refused = tables.insert(Table::EgressPolicy, policy);
        frames.push(frame);
    }
    if dice.one_in(2) {
        let all = row(Table::EgressPolicy, &[], 0, Action::Allow, 90);
        tables.insert(Table::EgressPolicy, all).unwrap();
    }
    (tables, frames)
}

/// A row like those of real policies: a protocol and a port.
fn about_ports(dice: &mut Dice, f: &Fields, slot: u32) -> Row {
    let mut conds = vec![
        (Key::EtherType, Cond::exact(f.ether_type)),
        (Key::Protocol, Cond::exact(f.protocol)),
    ];
    let port = |dice: &mut Dice, port: u16| match dice.below(3) {
        0 => Cond::exact(port),
        1 => Cond::Range {
            low: port.saturating_sub(dice.below(9) as u16).into(),
            high: port.saturating_add(dice.below(90) as u16).into(),
        },
        _ => Cond::Mask {
            value: (port & !7).into(),
            mask: 0xfff8,
        },
    };
    if !dice.one_in(4) {
        conds.push((Key::DstPort, port(dice, f.dst_port)));
    }
    if dice.one_in(4) {
        conds.push((Key::SrcPort, port(dice, f.src_port)));
    }
    if dice.one_in(3) {
        let class = (
            Key::Class,
            Cond::Mask {
                value: 1 + u128::from(dice.below(3)),
                mask: 0xffff,
            },
        );
        conds.push(class);
    }
    row(
        Table::EgressPolicy,
        &conds,
        dice.below(6) as i32 + 1,
        Action::Allow,
        slot,
    )
}

fn drawn_nic(dice: &mut Dice) -> (Capabilities, ParserFacts, BTreeSet<Kind>) {
    let ports = |dice: &mut Dice| PortMatching {
        exact: !dice.one_in(6),
        masked: dice.one_in(2),
        range: dice.one_in(3),
    };
    let capabilities = Capabilities {
        ipv6: !dice.one_in(8),
        sctp: dice.one_in(2),
        src_port: ports(dice),
        dst_port: ports(dice),
        prefixes: !dice.one_in(4),
        ..dice.pick(&Level::ALL).capabilities()
    };
    let follows = |dice: &mut Dice| dice.pick(&[Follows::Followed, Follows::Followed, Follows::Unknown]);
    let facts = ParserFacts {
        later_fragments: dice.pick(&[
            LaterFragments::Never,
            LaterFragments::ZeroPorts,
            LaterFragments::Unknown,
        ]),
        ip_options: follows(dice),
        extension_headers: follows(dice),
        tags: dice.pick(&[Tags::NotMatched, Tags::Matched, Tags::Unknown]),
        encapsulation: dice.pick(&[
            Encapsulation::Closed,
            Encapsulation::Closed,
            Encapsulation::Unknown,
        ]),
    };
    let accept = Kind::ALL.into_iter().filter(|_| dice.one_in(2)).collect();
    (capabilities, facts, accept)
}

/// A frame for a rule: one that a NIC may take for it, as well as it can be made.
fn aimed(dice: &mut Dice, lowered: &Lowered, frame: &mut [u8]) {
    let is_of = |family: Family| frame.get(12..14) == Some(&family.ether_type().to_be_bytes()[..]);
    let rules: Vec<_> = lowered.rules.keys().filter(|rule| is_of(rule.family)).collect();
    if rules.is_empty() || frame.len() < 54 {
        return;
    }
    let rule = rules[dice.below(rules.len() as u64) as usize];
    let (ether_type, addresses, l4) = match rule.family {
        Family::V4 => ([8, 0], 26, 34),
        Family::V6 => ([0x86, 0xdd], 22, 54),
    };
    if frame[12..14] != ether_type || frame.len() < l4 + 4 {
        return;
    }
    let width = if rule.family == Family::V4 { 4 } else { 16 };
    for (at, address) in [(addresses, rule.src), (addresses + width, rule.dst)] {
        let (value, mask) = (address.value.to_be_bytes(), address.mask.to_be_bytes());
        for (n, byte) in frame[at..at + width].iter_mut().enumerate() {
            *byte = *byte & !mask[16 - width + n] | value[16 - width + n];
        }
    }
    if let Some(protocol) = rule.protocol.filter(|_| dice.one_in(2)) {
        frame[if rule.family == Family::V4 { 23 } else { 20 }] = protocol;
    }
    for (at, port) in [(l4, rule.src_port), (l4 + 2, rule.dst_port)] {
        let headers = portcullis_nic::Headers::from_rule(rule);
        let ports = if at == l4 {
            headers.src_ports
        } else {
            headers.dst_ports
        };
        if port != portcullis_nic::PortMatch::Any {
            frame[at..at + 2].copy_from_slice(&ports.bounds().0.to_be_bytes());
        }
    }
}

#[test]
fn a_rule_matches_only_what_the_switch_drops() {
    let (mut matched, mut whole, mut rules) = (0, 0, 0);
    for seed in 0..16_000 {
        let mut dice = Dice(seed);
        let (mut tables, mut frames) = drawn_tables(&mut dice);
        let (capabilities, facts, accept) = drawn_nic(&mut dice);
        let bounds = Bounds {
            facts,
            accept: &accept,
        };
        let senders = senders(&tables);
        let lowered = lower(&senders, &capabilities, bounds);
        rules += lowered.rules.len();
        for (rule, slots) in &lowered.rules {
            assert_eq!(capabilities.lack(rule), None, "seed {seed}: {rule}");
            assert_eq!(
                is_still_denied(rule, &senders, bounds, &mut Memo::default()).as_ref(),
                Some(slots),
                "seed {seed}: {rule}"
            );
        }
        if lowered.rules.is_empty() && seed % 8 != 0 {
            continue;
        }
        frames.extend((0..40).map(|_| drawn::frame(&mut dice)));
        for frame in &mut frames {
            aimed(&mut dice, &lowered, frame);
            let seen = Seen::new(&mut tables, frame);
            for view in views(frame, facts, &accept) {
                let Some((rule, slots)) = lowered.rules.iter().find(|(rule, _)| view.meets(rule)) else {
                    continue;
                };
                matched += 1;
                assert!(
                    seen.is_denied(),
                    "seed {seed}: {rule} drops {frame:02x?}, taken for {view:?}; {:?}",
                    Fields::parse(frame)
                );
                // What a rule counts is its rows', where the NIC and the switch read the frame alike.
                let fields = Fields::parse(frame).unwrap();
                let is_alike = !fields.unreadable && as_read(&fields).is_some_and(|read| read == view);
                if is_alike && seen.drops == [DropReason::EgressPolicy] {
                    assert!(
                        seen.slots
                            .iter()
                            .all(|slot| *slot == NO_SLOT || slots.contains(slot)),
                        "seed {seed}: {rule} counts for {slots:?} and not for {:?}",
                        seen.slots
                    );
                }
            }
            whole += usize::from(is_whole(frame, &seen, &lowered, seed));
        }
    }
    assert!(
        matched > 4_000 && whole > 1_000 && rules > 5_000,
        "{matched} {whole} {rules}"
    );
}

/// The frame as the switch reads it.
fn as_read(fields: &Fields) -> Option<View> {
    let ports = [fields.src_port, fields.dst_port];
    let (family, src, dst) = match fields.ether_type {
        0x0800 => (Family::V4, fields.src_ipv4.into(), fields.dst_ipv4.into()),
        0x86dd => (Family::V6, fields.src_ipv6, fields.dst_ipv6),
        _ => return None,
    };
    Some(View {
        family,
        protocol: fields.protocol,
        src,
        dst,
        ports: (!fields.later).then_some(ports),
    })
}

/// Whether a frame was denied by a row of which nothing stays with the switch; then a rule has to match it.
fn is_whole(frame: &[u8], seen: &Seen, lowered: &Lowered, seed: u64) -> bool {
    let (true, [slot, ..]) = (seen.drops == [DropReason::EgressPolicy], &seen.slots[..]) else {
        return false;
    };
    let Some(state) = lowered.rows.get(slot).filter(|state| state.why.is_empty()) else {
        return false;
    };
    let fields = Fields::parse(frame).unwrap();
    let Some(view) = as_read(&fields).filter(|_| !fields.unreadable) else {
        return false;
    };
    // Frames in VLANs, and those that SNAP leads to, may be beyond a NIC.
    if fields.vlan != 0 || frame[12..14] != fields.ether_type.to_be_bytes() {
        return false;
    }
    assert!(
        lowered.rules.keys().any(|rule| view.meets(rule)),
        "seed {seed}: row {slot} is said to be in hardware, and no rule matches {fields:?}: {state:?}"
    );
    true
}

/// A port whose VLAN 1 has class 2, and every other VLAN class 1. Class 1 may not send TCP to port 25, class 2 nothing to 10.0.0.0/8.
fn two_classes() -> Tables {
    let mut tables = Tables::default();
    let mut insert = |table, conds: &[(Key, Cond)], priority, action, slot| {
        tables
            .insert(table, row(table, conds, priority, action, slot))
            .unwrap();
    };
    let class = |class: u16| Action::SetClass(Lead::from_class(class));
    let port = (Key::Port, Cond::exact(PORT));
    insert(Table::Attach, &[port], 1, class(1), NO_SLOT);
    insert(
        Table::Attach,
        &[port, (Key::Vlan, Cond::exact(1_u16))],
        2,
        class(2),
        NO_SLOT,
    );
    let whole = |value: u16| Cond::Mask {
        value: value.into(),
        mask: 0xffff,
    };
    let unreadable = (Key::Unreadable, Cond::Mask { value: 1, mask: 1 });
    insert(Table::EgressPolicy, &[unreadable], 100, Action::Deny, 0);
    let ipv4 = (Key::EtherType, whole(0x0800));
    let smtp = [
        (Key::Class, whole(1)),
        ipv4,
        (Key::Protocol, Cond::Mask { value: 6, mask: 0xff }),
        (Key::DstPort, Cond::exact(25_u16)),
    ];
    insert(Table::EgressPolicy, &smtp, 10, Action::Deny, 1);
    let ten = Cond::Mask {
        value: 10 << 24,
        mask: 0xff00_0000,
    };
    let remote = [(Key::Class, Cond::exact(2_u16)), ipv4, (Key::DstIpv4, ten)];
    insert(Table::EgressRemote, &remote, 9, Action::SetRemoteId(7), NO_SLOT);
    let bogon = [(Key::Class, whole(2)), (Key::RemoteId, whole(7))];
    insert(Table::EgressPolicy, &bogon, 10, Action::Deny, 2);
    insert(Table::EgressPolicy, &[], 1, Action::Allow, 3);
    tables
}

#[test]
fn vlans_that_a_nic_does_not_tell_apart_have_to_agree() {
    let mut facts = ParserFacts {
        later_fragments: LaterFragments::Never,
        ip_options: Follows::Followed,
        extension_headers: Follows::Followed,
        tags: Tags::Matched,
        encapsulation: Encapsulation::Closed,
    };
    let senders = senders(&two_classes());
    let accept = BTreeSet::new();
    let capabilities = Level::Drop.capabilities();
    let lowered = |facts| {
        let bounds = Bounds {
            facts,
            accept: &accept,
        };
        lower(&senders, &capabilities, bounds)
    };
    let both = lowered(facts);
    assert!(both.rules.is_empty(), "{both:#?}");
    assert!(both.rows[&1].why.contains(&Why::OtherVlan) && both.rows[&2].why.contains(&Why::OtherVlan));
    facts.tags = Tags::NotMatched;
    let untagged = lowered(facts);
    let names: Vec<String> = untagged.rules.keys().map(ToString::to_string).collect();
    assert_eq!(names, ["ipv4 tcp dst_port 25"]);
    assert!(
        untagged.rows[&2].why.contains(&Why::Lacks("VLANs")),
        "{untagged:#?}"
    );
}

/// Rows that ask for a field which is not known here are neither turned into rules nor passed over.
#[test]
fn a_row_with_an_unknown_field_stays_with_the_switch() {
    let unknown = |priority, action, slot| Row {
        conds: [(99, Cond::exact(1_u8))].into(),
        priority,
        action,
        slot,
    };
    let whole = |value: u16| Cond::Mask {
        value: value.into(),
        mask: 0xffff,
    };
    let smtp = |priority| {
        let conds = [
            (Key::EtherType, whole(0x0800)),
            (Key::Protocol, Cond::Mask { value: 6, mask: 0xff }),
            (Key::DstPort, Cond::exact(25_u16)),
        ];
        row(Table::EgressPolicy, &conds, priority, Action::Deny, 1)
    };
    let unreadable = [(Key::Unreadable, Cond::Mask { value: 1, mask: 1 })];
    let fixed = row(Table::EgressPolicy, &unreadable, 100, Action::Deny, 0);
    let all = row(Table::EgressPolicy, &[], 1, Action::Allow, 3);
    let policy = |rows: &[Row]| {
        let rows = EgressRows {
            policy: rows.to_vec(),
            remotes: Vec::new(),
        };
        Some(Arc::new(Policy::new(&rows)))
    };
    let lowered_for = |senders: Senders| {
        let accept = Kind::ALL.into_iter().collect();
        let bounds = Bounds {
            facts: ParserFacts::default(),
            accept: &accept,
        };
        lower(&senders, &Level::Drop.capabilities(), bounds)
    };
    let lowered = |rows: Vec<Row>| lowered_for(Senders(vec![(None, policy(&rows))]));
    assert_eq!(lowered(vec![fixed.clone(), smtp(10), all.clone()]).rules.len(), 1);
    let below = lowered(vec![
        fixed.clone(),
        unknown(20, Action::Allow, 2),
        smtp(10),
        all.clone(),
    ]);
    assert!(
        below.rules.is_empty() && below.rows[&1].why.contains(&Why::AllowedAbove),
        "{below:#?}"
    );
    let denied = lowered(vec![fixed.clone(), unknown(20, Action::Deny, 2), all.clone()]);
    assert!(denied.rules.is_empty(), "{denied:#?}");
    assert!(
        denied.rows[&2]
            .why
            .iter()
            .any(|why| matches!(why, Why::NotSaid(_))),
        "{denied:#?}"
    );
    // Another VLAN denies some of it, by a field that is not known.
    let plain = policy(&[fixed.clone(), smtp(10), all.clone()]);
    let other = policy(&[fixed, unknown(20, Action::Deny, 2), all]);
    let both = lowered_for(Senders(vec![(None, plain), (Some(1), other)]));
    assert!(
        both.rules.is_empty() && both.rows[&1].why.contains(&Why::OtherVlan),
        "{both:#?}"
    );
}
