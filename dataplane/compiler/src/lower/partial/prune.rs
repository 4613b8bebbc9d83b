//! Leaves out rows without which every packet has the same verdict.

use std::collections::HashMap;

use ipnet::IpNet;
use portcullis_policy::{Decider, Family, Verdict};

use super::super::Attribution;
use super::Draft;
use crate::class_rows::{FrameMatch, PortMatch, RemoteMatch, RowKey};

/// Pairs of rows that are compared at most: from there on rows are kept as they are.
const PAIRS: usize = 64 << 20;

/// The rows that are needed, in their order. Where hits tell rules, a row that denies stays although another below it denies the
/// same.
pub(super) fn prune(rows: Vec<Draft>, attribution: Attribution) -> Vec<Draft> {
    if rows.len().saturating_mul(rows.len()) > PAIRS {
        return rows;
    }
    let mut kept: Vec<Draft> = Vec::with_capacity(rows.len());
    for row in rows {
        if !kept.iter().any(|above| covers(&above.key, &row.key)) {
            kept.push(row);
        }
    }
    // From the lowest up: a row is needed where what it covers would have another verdict without it.
    let mut needed: Vec<Draft> = Vec::with_capacity(kept.len());
    for row in kept.into_iter().rev() {
        let mut below = needed.iter().rev().filter(|other| meets(&other.key, &row.key));
        let next = below.find(|other| other.action != row.action || covers(&other.key, &row.key));
        let is_needed = match (row.action, attribution) {
            (Verdict::Allow, _) => next.is_some_and(|other| other.action == Verdict::Deny),
            (Verdict::Deny, Attribution::Rule) => true,
            (Verdict::Deny, Attribution::Class) => next.is_none_or(|other| other.action == Verdict::Allow),
        };
        if is_needed {
            needed.push(row);
        }
    }
    needed.reverse();
    needed
}

/// Rows that say the same of IPv4 and of IPv6 as one, at the place of the lower: what stands between the two is of the same verdict,
/// or of the lower one's version.
pub(super) fn join_versions(rows: Vec<Draft>, may_hold: impl Fn(&Draft) -> bool) -> Vec<Draft> {
    let mut of_v4: HashMap<(RowKey, Verdict, Decider), usize> = HashMap::new();
    let mut joined: Vec<Option<Draft>> = Vec::with_capacity(rows.len());
    for row in rows {
        let both = Draft {
            key: RowKey {
                frame: FrameMatch::AnyIp,
                ..row.key
            },
            ..row
        };
        let same = (both.key, row.action, row.by);
        match row.key.frame {
            // Rows of one entry stand together, and those that let later fragments pass do not.
            _ if !matches!(row.by, Decider::Entry(_) | Decider::Default) => {}
            FrameMatch::Ip(Family::V4) => drop(of_v4.insert(same, joined.len())),
            FrameMatch::Ip(Family::V6) if may_hold(&both) => {
                if let Some(first) = of_v4.remove(&same).and_then(|at| joined.get_mut(at)) {
                    *first = None;
                    joined.push(Some(both));
                    continue;
                }
            }
            _ => {}
        }
        joined.push(Some(row));
    }
    joined.into_iter().flatten().collect()
}

/// Whether some packet can match both.
fn meets(a: &RowKey, b: &RowKey) -> bool {
    (frame_covers(a.frame, b.frame) || frame_covers(b.frame, a.frame))
        && both(a.protocol, b.protocol, |a, b| a == b)
        && both(a.later, b.later, |a, b| a == b)
        && both(a.flags, b.flags, |(a, m), (b, n)| a & n == b & m)
        && both(remote(a), remote(b), |a, b| a.contains(&b) || b.contains(&a))
        && both(a.local, b.local, |a, b| a.contains(&b) || b.contains(&a))
        && ports_meet(a.src, b.src)
        && ports_meet(a.dst, b.dst)
}

/// Whether every packet that matches `b` matches `a`.
fn covers(a: &RowKey, b: &RowKey) -> bool {
    frame_covers(a.frame, b.frame)
        && over(a.protocol, b.protocol, |a, b| a == b)
        && over(a.later, b.later, |a, b| a == b)
        && over(a.flags, b.flags, |(a, m), (b, n)| n & m == m && b & m == a)
        && over(remote(a), remote(b), |a, b| a.contains(&b))
        && over(a.local, b.local, |a, b| a.contains(&b))
        && port_covers(a.src, b.src)
        && port_covers(a.dst, b.dst)
}

fn frame_covers(a: FrameMatch, b: FrameMatch) -> bool {
    match a {
        FrameMatch::Any => true,
        FrameMatch::AnyIp => matches!(b, FrameMatch::AnyIp | FrameMatch::Ip(_)),
        other => other == b,
    }
}

fn remote(key: &RowKey) -> Option<IpNet> {
    match key.remote {
        RemoteMatch::Prefix(prefix) => Some(prefix),
        RemoteMatch::Any | RemoteMatch::Id(_) => None,
    }
}

/// Where one of them says nothing, everything is in both.
fn both<T>(a: Option<T>, b: Option<T>, same: impl Fn(T, T) -> bool) -> bool {
    match (a, b) {
        (Some(a), Some(b)) => same(a, b),
        _ => true,
    }
}

/// Where `a` says nothing it covers all; where only `b` does, not.
fn over<T>(a: Option<T>, b: Option<T>, covers: impl Fn(T, T) -> bool) -> bool {
    match (a, b) {
        (None, _) => true,
        (Some(_), None) => false,
        (Some(a), Some(b)) => covers(a, b),
    }
}

/// The numbers that a match by mask or range holds, where that is one interval.
fn interval(port: PortMatch) -> Option<(u16, u16)> {
    match port {
        PortMatch::Any => Some((0, u16::MAX)),
        PortMatch::Range { low, high } => Some((low, high)),
        PortMatch::Masked { value, mask } => {
            let tail = !mask;
            (tail & tail.wrapping_add(1) == 0).then_some((value, value | tail))
        }
        PortMatch::Code { .. } => None,
    }
}

fn ports_meet(a: PortMatch, b: PortMatch) -> bool {
    match (interval(a), interval(b)) {
        (Some((a, b)), Some((c, d))) => a <= d && c <= b,
        // Not known: then they may.
        _ => true,
    }
}

fn port_covers(a: PortMatch, b: PortMatch) -> bool {
    a == PortMatch::Any
        || match (interval(a), interval(b)) {
            (Some((a, b)), Some((c, d))) => a <= c && d <= b,
            _ => a == b,
        }
}
