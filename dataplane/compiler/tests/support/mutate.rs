//! One change to one row, in the ways a bug or a bit flip would; and rows by port code, as no encoder is asked for here.

use std::collections::BTreeSet;
use std::sync::Arc;

use portcullis_compiler::{
    ClassRows, CodeRow, CodeStage, Codes, FrameMatch, PolicyRow, PortMatch, RemoteMatch,
};
use portcullis_policy::{Family, Protocol, Verdict};

/// Numbers that look random and are the same every time (xorshift).
pub struct Dice(pub u64);

impl Dice {
    /// A random number below `n`.
    pub fn below(&mut self, n: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 >> 16) as usize % n.max(1)
    }

    fn one<'a, T>(&mut self, list: &'a mut [T]) -> Option<&'a mut T> {
        let at = self.below(list.len());
        list.get_mut(at)
    }
}

fn other(action: Verdict) -> Verdict {
    if action == Verdict::Allow {
        Verdict::Deny
    } else {
        Verdict::Allow
    }
}

/// Ways to change a program.
const WAYS: usize = 18;

/// Changes one row; `None` when there is nothing to change in the way that the dice chose.
pub fn mutate(program: &ClassRows, dice: &mut Dice) -> Option<ClassRows> {
    let mut new = program.clone();
    let at = dice.below(new.policy.len());
    let row = new.policy.get_mut(at)?;
    match dice.below(WAYS) {
        0 => drop(new.policy.remove(at)),
        1 | 2 => row.action = other(row.action),
        3 => row.priority = row.priority.wrapping_add(1 + dice.below(400) as u32),
        4 => row.priority = row.priority.saturating_sub(1 + dice.below(400) as u32).max(1),
        5 => {
            let copy = PolicyRow {
                action: other(row.action),
                ..*row
            };
            new.policy.push(copy);
        }
        6 | 7 => bound(&mut row.key.dst, dice)?,
        8 => bound(&mut row.key.src, dice)?,
        9 => row.key.later = [None, Some(true), Some(false)][dice.below(3)],
        10 => row.key.flags = [None, Some((0x02, 0x12)), Some((0x10, 0x10)), Some((0, 0xfff))][dice.below(4)],
        11 => row.key.protocol = [None, Some(Protocol::TCP), Some(Protocol::UDP), Some(44)][dice.below(4)],
        12 => {
            let frames = [
                FrameMatch::Any,
                FrameMatch::Ip(Family::V4),
                FrameMatch::Ip(Family::V6),
                FrameMatch::Unreadable,
            ];
            row.key.frame = frames[dice.below(4)];
        }
        13 => match dice.one(&mut new.remote) {
            Some(remote) if dice.below(2) == 0 => remote.id = remote.id.wrapping_add(1),
            Some(_) => drop(new.remote.remove(dice.below(program.remote.len()))),
            None => return None,
        },
        14 => address(row, dice)?,
        15 => dice.one(&mut new.words)?.word ^= 1 << dice.below(64),
        16 => match dice.below(3) {
            0 => dice.one(&mut new.words)?.block ^= 1 << dice.below(10),
            1 => drop(
                new.words.remove(
                    dice.below(program.words.len())
                        .min(program.words.len().checked_sub(1)?),
                ),
            ),
            _ => {
                let set = new.policy.iter_mut().filter_map(|r| r.words.as_mut()).next()?;
                *set = set.wrapping_add(1);
            }
        },
        _ => new.codes = Some(Arc::new(recoded(new.codes.as_ref()?, dice)?)),
    }
    Some(new)
}

fn bound(port: &mut PortMatch, dice: &mut Dice) -> Option<()> {
    let up = dice.below(2) == 0;
    let step = |n: u16| if up { n.wrapping_add(1) } else { n.wrapping_sub(1) };
    match port {
        PortMatch::Any => *port = PortMatch::exactly(25),
        PortMatch::Range { low, high } => match dice.below(2) {
            0 => *low = step(*low),
            _ => *high = step(*high),
        },
        PortMatch::Masked { value, mask } => match dice.below(3) {
            0 => *value ^= 1 << dice.below(16) & *mask,
            1 => {
                *mask <<= 1;
                *value &= *mask;
            }
            // Now and then a mask that is no prefix.
            _ if dice.below(8) == 0 => {
                *mask &= !(1 << dice.below(16));
                *value &= *mask;
            }
            _ => *port = PortMatch::Any,
        },
        PortMatch::Code { value, mask } => match dice.below(2) {
            0 => *value ^= 1 << dice.below(8) & *mask,
            _ => {
                *mask ^= 1 << dice.below(8);
                *value &= *mask;
            }
        },
    }
    Some(())
}

fn address(row: &mut PolicyRow, dice: &mut Dice) -> Option<()> {
    match (&mut row.key.remote, &mut row.key.local) {
        (RemoteMatch::Id(id), _) if dice.below(2) == 0 => *id = id.wrapping_add(1),
        (remote, None) if *remote != RemoteMatch::Any => *remote = RemoteMatch::Any,
        (remote @ RemoteMatch::Any, None) => *remote = RemoteMatch::Id(dice.below(3) as u32),
        (_, local) => *local = None,
    }
    Some(())
}

fn recoded(codes: &Codes, dice: &mut Dice) -> Option<Codes> {
    let mut codes = codes.clone();
    let stage = if dice.below(2) == 0 {
        &mut codes.src
    } else {
        &mut codes.dst
    };
    let rows = stage.rows.len();
    match dice.below(5) {
        0 => stage.later ^= 1 << dice.below(4),
        1 => drop(stage.rows.remove(dice.below(rows).min(rows.checked_sub(1)?))),
        2 => dice.one(&mut stage.rows)?.code ^= 1 << dice.below(4),
        3 => {
            let row = dice.one(&mut stage.rows)?;
            bound(&mut row.port, dice)?;
        }
        _ => {
            let row = dice.one(&mut stage.rows)?;
            row.priority = row.priority.wrapping_add(1);
        }
    }
    Some(codes)
}

/// The same rows with their ports told by code: a bit for each way to match a port.
pub fn by_code(program: &ClassRows) -> ClassRows {
    let mut new = program.clone();
    let mut codes = Codes::default();
    for source in [true, false] {
        let port = |row: &PolicyRow| if source { row.key.src } else { row.key.dst };
        let with_ports = |row: &PolicyRow| row.key.protocol.is_some_and(Protocol::has_ports);
        let plain = |p: &PortMatch| !matches!(p, PortMatch::Any | PortMatch::Code { .. });
        let named: BTreeSet<PortMatch> = new
            .policy
            .iter()
            .filter(|r| with_ports(r))
            .map(port)
            .filter(plain)
            .take(60)
            .collect();
        let named: Vec<PortMatch> = named.into_iter().collect();
        let code = |n: u16| -> u64 {
            let bits = named.iter().enumerate().filter(|(_, m)| m.hits(n, 0));
            bits.fold(0, |code, (bit, _)| code | 1 << bit)
        };
        let stage = if source { &mut codes.src } else { &mut codes.dst };
        *stage = stage_of(code);
        for row in new.policy.iter_mut().filter(|r| with_ports(r)) {
            let port = if source {
                &mut row.key.src
            } else {
                &mut row.key.dst
            };
            if let Some(bit) = named.iter().position(|m| m == port) {
                *port = PortMatch::Code {
                    value: 1 << bit,
                    mask: 1 << bit,
                };
            }
        }
    }
    new.codes = Some(Arc::new(codes));
    new
}

/// Rows that give each port its code; later fragments, which show port 0, have that of port 0.
fn stage_of(code: impl Fn(u16) -> u64) -> CodeStage {
    let mut rows: Vec<CodeRow> = Vec::new();
    for n in 0..=u16::MAX {
        let own = code(n);
        match rows.last_mut() {
            Some(CodeRow {
                port: PortMatch::Range { high, .. },
                code,
                ..
            }) if *code == own => *high = n,
            _ => rows.push(CodeRow {
                priority: 7,
                port: PortMatch::Range { low: n, high: n },
                code: own,
            }),
        }
    }
    CodeStage {
        rows,
        later: code(0),
        width: 60,
    }
}
