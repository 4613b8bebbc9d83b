//! Rows as any target's tables hold them: table, priority, keys by field, action. What `portcullis compile` shows and
//! what a backend of a described target writes.

use ipnet::IpNet;
use portcullis_policy::{Family, Protocol, Verdict};

use crate::class::ClassId;
use crate::class_rows::{
    ClassRows, CodeStage, FrameMatch, PolicyRow, PortMatch, RemoteMatch, RemoteRow, WordRow,
};
use crate::model::{Field, KeyModel, MatchKind, Role, TableModel};

/// What a row says about one field. Fields that are not named match anything.
#[allow(missing_docs, reason = "`low` and `high` are the ends of the range")]
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum FieldMatch {
    /// `field & mask == value`; exact keys have a full mask.
    Masked {
        /// The value, zero outside the mask.
        value: u128,
        /// Ones where bits count.
        mask: u128,
    },
    /// `low <= field <= high`.
    Range { low: u128, high: u128 },
    /// The port that an attachment of this name turns out to be.
    Attachment(String),
}

/// What a row does.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum RowAction {
    /// Allows or denies the packet.
    Verdict(Verdict),
    /// The destination port's bit in this set of words decides, `otherwise` where its block has no word.
    Words {
        /// Number of the set in its class.
        set: u16,
        /// The verdict without a word.
        otherwise: Verdict,
    },
    /// Sets metadata for later stages.
    Set {
        /// Metadata that is set.
        field: Field,
        /// Value of that metadata.
        value: u64,
    },
    /// Gives the verdicts of 64 ports; bit n allows port `64 × block + n`.
    Word(u64),
}

impl std::fmt::Display for RowAction {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            RowAction::Verdict(action) => write!(f, "{action}"),
            RowAction::Words { set, otherwise } => write!(f, "words {set}, else {otherwise}"),
            RowAction::Set { field, value } => write!(f, "{field}={value}"),
            RowAction::Word(word) => write!(f, "word={word:#018x}"),
        }
    }
}

/// One row of one table, without the target's own encoding.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Row {
    /// Name of the table in the model.
    pub table: String,
    /// Its priority, the higher wins; of a table of longest prefixes the prefix length, of an exact one 0.
    pub priority: u32,
    /// Conditions by field; a field that is not named matches anything.
    pub keys: Vec<(Field, FieldMatch)>,
    /// What happens to packets that match.
    pub action: RowAction,
}

impl Row {
    /// The IP version that it is about, where it names one.
    pub fn family(&self) -> Option<Family> {
        self.keys.iter().find_map(|(field, given)| match (field, given) {
            (Field::EtherType, FieldMatch::Masked { value: 0x0800, .. })
            | (Field::IsIpv4, FieldMatch::Masked { value: 1, .. }) => Some(Family::V4),
            (Field::EtherType, FieldMatch::Masked { value: 0x86dd, .. })
            | (Field::IsIpv6, FieldMatch::Masked { value: 1, .. }) => Some(Family::V6),
            _ => None,
        })
    }
}

/// The packets that a policy row is about, beside its key.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Owner {
    /// Those of every class that may deny something.
    Every,
    /// Those of one class.
    Class(ClassId),
    /// Those of endpoints with the overlay of this class, whatever class stands below it.
    Overlay(ClassId),
}

impl Owner {
    /// The owner of the rows of a class.
    pub fn new(class: ClassId, rows: &ClassRows) -> Self {
        match rows.overlay {
            true => Owner::Overlay(class),
            false => Owner::Class(class),
        }
    }
}

/// A whole value of a key.
fn whole(key: &KeyModel, value: u128) -> FieldMatch {
    match key.kind {
        MatchKind::Range => FieldMatch::Range {
            low: value,
            high: value,
        },
        _ => FieldMatch::Masked {
            value,
            mask: ones(key.width),
        },
    }
}

/// A number of this many ones.
pub(crate) fn ones(width: u16) -> u128 {
    u128::MAX
        .checked_shr(128 - u32::from(width.clamp(1, 128)))
        .unwrap_or(u128::MAX)
}

/// Rows of one table under construction.
struct Draft<'a> {
    table: &'a TableModel,
    keys: Vec<(Field, FieldMatch)>,
}

impl<'a> Draft<'a> {
    fn new(table: &'a TableModel, class: Option<ClassId>, port: Option<&str>) -> Self {
        let mut draft = Draft {
            table,
            keys: Vec::new(),
        };
        if let Some(class) = class {
            draft.exactly(Field::Class, u128::from(class.0));
        }
        if let (Some(port), Some(_)) = (port, table.key(Field::Port)) {
            draft
                .keys
                .push((Field::Port, FieldMatch::Attachment(port.to_string())));
        }
        draft
    }

    fn owned(table: &'a TableModel, owner: Owner, port: Option<&str>) -> Self {
        let mut draft = Draft::new(table, None, port);
        match owner {
            Owner::Every => {}
            Owner::Class(class) => draft.exactly(Field::Class, class.0.into()),
            Owner::Overlay(class) => draft.exactly(Field::Overlay, class.0.into()),
        }
        draft
    }

    fn exactly(&mut self, field: Field, value: u128) {
        if let Some(key) = self.table.key(field) {
            self.keys.push((field, whole(key, value)));
        }
    }

    /// The IP version: by a key of its own where the table has one, or by the EtherType.
    fn family(&mut self, family: Family) {
        let (own, ether_type) = match family {
            Family::V4 => (Field::IsIpv4, 0x0800),
            Family::V6 => (Field::IsIpv6, 0x86dd),
        };
        match self.table.key(own) {
            Some(_) => self.exactly(own, 1),
            None => self.exactly(Field::EtherType, ether_type),
        }
    }

    fn masked(&mut self, field: Field, value: u128, mask: u128) {
        if self.table.key(field).is_some() && mask != 0 {
            self.keys.push((field, FieldMatch::Masked { value, mask }));
        }
    }

    fn prefix(&mut self, v4: Field, v6: Field, prefix: IpNet) {
        let (field, value, mask) = match prefix {
            IpNet::V4(n) => (v4, u32::from(n.network()).into(), u32::from(n.netmask()).into()),
            IpNet::V6(n) => (v6, u128::from(n.network()), u128::from(n.netmask())),
        };
        self.masked(field, value, mask);
    }

    fn port(&mut self, direct: Field, code: Field, port: PortMatch) {
        match port {
            PortMatch::Any => {}
            PortMatch::Masked { value, mask } => {
                let width = self.table.key(direct).map_or(16, |k| k.width);
                let mask = u128::from(mask) & ones(width);
                match self.table.key(direct) {
                    Some(key) if mask == ones(width) => {
                        let whole = whole(key, value.into());
                        self.keys.push((direct, whole));
                    }
                    _ => self.masked(direct, value.into(), mask),
                }
            }
            PortMatch::Range { low, high } => self.keys.push((
                direct,
                FieldMatch::Range {
                    low: low.into(),
                    high: high.into(),
                },
            )),
            PortMatch::Code { value, mask } => self.masked(code, value.into(), mask.into()),
        }
    }

    fn row(self, priority: u32, action: RowAction) -> Row {
        Row {
            table: self.table.name.clone(),
            priority,
            keys: self.keys,
            action,
        }
    }
}

/// A row of a policy stage; of one port where the table has no class.
pub fn policy_row(table: &TableModel, owner: Owner, port: Option<&str>, row: &PolicyRow) -> Row {
    let key = &row.key;
    let mut draft = Draft::owned(table, owner, port);
    match key.frame {
        FrameMatch::Any => {}
        FrameMatch::Arp => draft.exactly(Field::EtherType, 0x0806),
        FrameMatch::Ip(family) => draft.family(family),
        FrameMatch::AnyIp => draft.exactly(Field::IsIp, 1),
        FrameMatch::EtherType(t) => draft.exactly(Field::EtherType, t.into()),
        FrameMatch::Unreadable => draft.exactly(Field::Unreadable, 1),
    }
    if let Some(protocol) = key.protocol {
        draft.exactly(Field::Protocol, protocol.into());
    }
    if let Some(later) = key.later {
        draft.exactly(Field::Later, u128::from(later));
    }
    if let Some((value, mask)) = key.flags {
        draft.masked(Field::TcpFlags, value.into(), mask.into());
    }
    match key.remote {
        RemoteMatch::Any => {}
        RemoteMatch::Id(id) => draft.exactly(Field::RemoteId, id.into()),
        RemoteMatch::Prefix(prefix) => draft.prefix(Field::RemoteIpv4, Field::RemoteIpv6, prefix),
    }
    if let Some(local) = key.local {
        draft.prefix(Field::LocalIpv4, Field::LocalIpv6, local);
    }
    let icmp = matches!(
        (key.protocol, key.frame),
        (Some(Protocol::ICMP), FrameMatch::Ip(Family::V4))
            | (Some(Protocol::ICMPV6), FrameMatch::Ip(Family::V6))
    );
    let (src, dst) = if icmp {
        (Field::IcmpType, Field::IcmpCode)
    } else {
        (Field::SrcPort, Field::DstPort)
    };
    draft.port(src, Field::SrcCode, key.src);
    draft.port(dst, Field::DstCode, key.dst);
    let action = match row.words {
        None => RowAction::Verdict(row.action),
        Some(set) => RowAction::Words {
            set,
            otherwise: row.action,
        },
    };
    draft.row(row.priority, action)
}

/// A row of a `remote` stage.
pub fn remote_row(table: &TableModel, class: ClassId, row: &RemoteRow) -> Row {
    let mut draft = Draft::new(table, Some(class), None);
    // A prefix of no bits says nothing of the IP version, and a field that a packet lacks may read as zeros.
    draft.family(Family::from_address(row.prefix.addr()));
    draft.prefix(Field::RemoteIpv4, Field::RemoteIpv6, row.prefix);
    let set = RowAction::Set {
        field: Field::RemoteId,
        value: row.id.into(),
    };
    draft.row(row.prefix.prefix_len().into(), set)
}

/// A row of a `words` stage.
pub fn word_row(table: &TableModel, class: ClassId, row: &WordRow) -> Row {
    let mut draft = Draft::new(table, Some(class), None);
    draft.exactly(Field::WordSet, row.set.into());
    draft.exactly(Field::PortBlock, row.block.into());
    draft.row(0, RowAction::Word(row.word))
}

/// The rows of a code stage.
pub fn code_rows(table: &TableModel, stage: &CodeStage) -> Vec<Row> {
    let (port, code) = match table.stage {
        Role::SrcCode => (Field::SrcPort, Field::SrcCode),
        _ => (Field::DstPort, Field::DstCode),
    };
    let set = |value| RowAction::Set { field: code, value };
    let above = stage.rows.iter().map(|r| r.priority).max().unwrap_or(0) + 1;
    let later = (stage.later != 0).then(|| {
        let mut draft = Draft::new(table, None, None);
        draft.exactly(Field::Later, 1);
        draft.row(above, set(stage.later))
    });
    let rows = stage.rows.iter().map(|row| {
        let mut draft = Draft::new(table, None, None);
        draft.port(port, code, row.port);
        draft.row(row.priority, set(row.code))
    });
    later.into_iter().chain(rows).collect()
}

/// Lines of a range in a TCAM that matches four bits at a time against any set of their sixteen values (DirtCAM): at
/// most 7 for 16 bits.
pub fn range_lines(low: u128, high: u128, width: u16) -> u64 {
    let digits = u32::from(width).div_ceil(4);
    fn lines(low: u128, high: u128, digits: u32) -> u64 {
        if digits <= 1 || (low == 0 && high == (1u128 << (4 * digits)) - 1) {
            return 1;
        }
        let shift = 4 * (digits - 1);
        let rest = (1u128 << shift) - 1;
        let (first, last) = (low >> shift, high >> shift);
        let (from, to) = (low & rest, high & rest);
        if first == last {
            return lines(from, to, digits - 1);
        }
        // Whole sub-blocks take one line together; what sticks out at either end takes its own.
        let head = if from == 0 {
            0
        } else {
            lines(from, rest, digits - 1)
        };
        let tail = if to == rest { 0 } else { lines(0, to, digits - 1) };
        let whole = (last - first + 1) - u128::from(head > 0) - u128::from(tail > 0);
        head + tail + u64::from(whole > 0)
    }
    // A 128-bit key has no ranges in any table known; its digits would overflow the shift.
    if digits >= 32 { 1 } else { lines(low, high, digits) }
}

#[cfg(test)]
mod tests {
    use super::range_lines;

    #[test]
    fn range_lines_as_published() {
        assert_eq!(range_lines(0, 65535, 16), 1);
        assert_eq!(range_lines(25, 25, 16), 1);
        assert_eq!(range_lines(1, 65534, 16), 7);
        assert_eq!(range_lines(1024, 65535, 16), 2);
        // The worst of all ranges, and the average of random ones ("avg 6.4").
        let mut seed = 1u64;
        let (mut worst, mut sum) = (0, 0);
        for _ in 0..20_000 {
            seed = seed
                .wrapping_mul(6_364_136_223_846_793_005)
                .wrapping_add(1_442_695_040_888_963_407);
            let (a, b) = (u128::from(seed >> 48), u128::from(seed >> 32 & 0xffff));
            let lines = range_lines(a.min(b), a.max(b), 16);
            worst = worst.max(lines);
            sum += lines;
        }
        assert_eq!(worst, 7);
        assert!(
            (6.0..6.8).contains(&(sum as f64 / 20_000.0)),
            "{}",
            sum as f64 / 20_000.0
        );
    }
}
