//! What the rows say about one packet, by looking at each of them: slow, plain, and independent of the engines that
//! prove. It explains verdicts to people and is what tests compare the engines with.

use std::net::IpAddr;

use portcullis_policy::{Family, Frame, IPV6_FRAGMENT, IpPacket, L4, Packet, Protocol, RARP, Verdict};

use super::parser_view::ParserView;
use crate::class_rows::{
    ClassRows, CodeRow, CodeStage, FrameMatch, PolicyRow, PortMatch, RemoteMatch, RemoteRow, RowKey, WordRow,
};
use crate::model::StageModel;

/// The row of the remote stage that gives an address its id; `None` when none holds it, which is id 0.
pub fn remote_row(program: &ClassRows, address: IpAddr) -> Option<&RemoteRow> {
    let hits = program.remote.iter().filter(|r| r.prefix.contains(&address));
    hits.max_by_key(|r| r.prefix.prefix_len())
}

/// The row that decides about one packet, and its verdict: what a correct target does. `None` when no row matches or
/// nothing is certain, because rows that stand equally high disagree.
///
/// A [`Frame::Other`] is one whose EtherType no row names; a [`Frame::Opaque`] has every EtherType that the model
/// calls opaque.
pub fn deciding_row<'a>(
    program: &'a ClassRows,
    fixed: &'a [PolicyRow],
    packet: &Packet,
    model: &StageModel,
) -> Option<(&'a PolicyRow, Verdict)> {
    decide(program, fixed, packet, &ParserView::from_model(model))
}

/// [`deciding_row`] for what a model's parser shows.
pub(super) fn decide<'a>(
    program: &'a ClassRows,
    fixed: &'a [PolicyRow],
    packet: &Packet,
    parser: &ParserView,
) -> Option<(&'a PolicyRow, Verdict)> {
    let rows = fixed.iter().chain(&program.policy);
    match &packet.frame {
        Frame::Ip(ip) => {
            let shown = Shown::new(program, fixed, ip, parser)?;
            let hits = rows.filter(|row| shown.hit(&row.key));
            top(hits, &program.words, shown.dst)
        }
        other => top(
            rows.filter(|row| hits_frame(&row.key, other, parser)),
            &program.words,
            0,
        ),
    }
}

/// Whether a row names nothing but the frame, so that frames that are not IP can match it.
pub(super) fn is_bare(key: &RowKey) -> bool {
    let RowKey {
        frame: _,
        protocol,
        later,
        flags,
        remote,
        local,
        src,
        dst,
    } = key;
    protocol.is_none()
        && *later != Some(true)
        && flags.is_none()
        && *remote == RemoteMatch::Any
        && local.is_none()
        && *src == PortMatch::Any
        && *dst == PortMatch::Any
}

fn hits_frame(key: &RowKey, frame: &Frame, parser: &ParserView) -> bool {
    is_bare(key)
        && match key.frame {
            FrameMatch::Any => true,
            FrameMatch::Arp => *frame == Frame::Arp,
            FrameMatch::EtherType(RARP) => *frame == Frame::Rarp,
            FrameMatch::EtherType(t) => *frame == Frame::Opaque && parser.opaque.contains(&t),
            FrameMatch::Unreadable => *frame == Frame::Opaque && parser.unreadable,
            FrameMatch::Ip(_) | FrameMatch::AnyIp => false,
        }
}

/// The highest of these rows and its verdict; `None` when there is none or equals disagree.
pub(super) fn top<'a>(
    rows: impl Iterator<Item = &'a PolicyRow>,
    words: &[WordRow],
    dst: u16,
) -> Option<(&'a PolicyRow, Verdict)> {
    let mut best: Option<(&PolicyRow, Option<Verdict>)> = None;
    for row in rows {
        let says = verdict(row, words, dst);
        best = match best {
            Some((high, action)) if high.priority > row.priority => Some((high, action)),
            Some((high, action)) if high.priority == row.priority => {
                Some((high, action.filter(|a| says == Some(*a))))
            }
            _ => Some((row, says)),
        };
    }
    best.and_then(|(row, action)| Some((row, action?)))
}

/// What a row that matches says about a destination port; `None` when two words disagree.
fn verdict(row: &PolicyRow, words: &[WordRow], dst: u16) -> Option<Verdict> {
    let Some(set) = row.words else {
        return Some(row.action);
    };
    let mut here = words
        .iter()
        .filter(|w| w.set == set && w.block == dst >> 6)
        .map(|w| w.word);
    let Some(word) = here.next() else {
        return Some(row.action);
    };
    if here.any(|other| other != word) {
        return None;
    }
    let allowed = word >> (dst & 63) & 1 == 1;
    Some(Verdict::from_passes(allowed))
}

/// The code of a port; `None` when rows that stand equally high disagree.
fn code(stage: &CodeStage, port: u16) -> Option<u64> {
    let hits = |r: &&CodeRow| !matches!(r.port, PortMatch::Code { .. }) && r.port.hits(port, 0);
    let Some(high) = stage.rows.iter().filter(hits).map(|r| r.priority).max() else {
        return Some(0);
    };
    let mut codes = stage
        .rows
        .iter()
        .filter(hits)
        .filter(|r| r.priority == high)
        .map(|r| r.code);
    let first = codes.next()?;
    codes.all(|c| c == first).then_some(first)
}

/// An IP packet as the tables see it.
#[derive(Debug)]
struct Shown {
    family: Family,
    local: IpAddr,
    remote: IpAddr,
    id: u32,
    protocol: u8,
    marked: bool,
    later: bool,
    flags: u16,
    src: u16,
    dst: u16,
    src_code: u64,
    dst_code: u64,
}

impl Shown {
    /// `None` when an id or a code that rows ask for is uncertain.
    fn new(program: &ClassRows, fixed: &[PolicyRow], ip: &IpPacket, parser: &ParserView) -> Option<Self> {
        let family = Family::from_address(ip.remote);
        let later = ip.is_later();
        let hidden = later && parser.hides_later(family);
        let l4 = ip.shown(parser.view);
        let (src, dst, flags) = match l4 {
            _ if later => (0, 0, 0),
            L4::Ports { src, dst, flags } if ip.protocol == Some(Protocol::TCP) => (src, dst, flags),
            L4::Ports { src, dst, .. } => (src, dst, 0),
            L4::Icmp { kind, code } => (kind.into(), code.into(), 0),
            L4::Begun { .. } | L4::Short | L4::Nothing => (0, 0, 0),
        };
        let ported = match l4 {
            L4::Ports { .. } => true,
            L4::Begun { .. } | L4::Short => ip.protocol.is_some_and(Protocol::has_ports),
            L4::Icmp { .. } | L4::Nothing => false,
        };
        let code_of = |port: fn(&RowKey) -> PortMatch, stage: Option<&CodeStage>, number: u16| {
            let asks = |r: &PolicyRow| matches!(port(&r.key), PortMatch::Code { .. });
            if !fixed.iter().chain(&program.policy).any(asks) {
                return Some(0);
            }
            match stage? {
                stage if later => Some(stage.later),
                stage if ported => code(stage, number),
                _ => Some(0),
            }
        };
        let codes = program.codes.as_ref();
        Some(Shown {
            family,
            local: ip.local,
            remote: ip.remote,
            id: id(program, fixed, ip.remote)?,
            protocol: if hidden {
                IPV6_FRAGMENT
            } else {
                ip.protocol.unwrap_or(0)
            },
            marked: parser.marks(ip),
            later,
            flags,
            src,
            dst,
            src_code: code_of(|k| k.src, codes.map(|c| &c.src), src)?,
            dst_code: code_of(|k| k.dst, codes.map(|c| &c.dst), dst)?,
        })
    }

    fn hit(&self, k: &RowKey) -> bool {
        let frame = match k.frame {
            FrameMatch::Any | FrameMatch::AnyIp => true,
            FrameMatch::Ip(family) => family == self.family,
            FrameMatch::Unreadable => self.marked,
            FrameMatch::Arp | FrameMatch::EtherType(_) => false,
        };
        let remote = match k.remote {
            RemoteMatch::Any => true,
            RemoteMatch::Id(id) => id == self.id,
            RemoteMatch::Prefix(prefix) => prefix.contains(&self.remote),
        };
        frame
            && remote
            && k.protocol.is_none_or(|p| p == self.protocol)
            && k.later.is_none_or(|want| want == self.later)
            && k.flags.is_none_or(|(value, mask)| self.flags & mask == value)
            && k.local.is_none_or(|p| p.contains(&self.local))
            && k.src.hits(self.src, self.src_code)
            && k.dst.hits(self.dst, self.dst_code)
    }
}

/// The id of an address; `None` when rows ask for it and two rows of one prefix disagree.
fn id(program: &ClassRows, fixed: &[PolicyRow], address: IpAddr) -> Option<u32> {
    let asked = |r: &PolicyRow| matches!(r.key.remote, RemoteMatch::Id(_));
    let Some(row) = remote_row(program, address) else {
        return Some(0);
    };
    let same = |r: &&RemoteRow| r.prefix.trunc() == row.prefix.trunc() && r.id != row.id;
    if program.remote.iter().any(|r| same(&r)) && fixed.iter().chain(&program.policy).any(asked) {
        return None;
    }
    Some(row.id)
}
