//! Rows of all tables, and the snapshots that workers read.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;

use portcullis_policy::{Direction, PerDirection};

use crate::PORTS;
use crate::classes::{self, Class};
use crate::frame::Fields;
use crate::guard::{Guard, Shape, Shapes};
use crate::header_subset::HeaderSubset;
use crate::mac_table::{MacTable, SEVERAL};
use crate::port_map::Bitmaps;
use crate::ports::{AttachmentPoint, Port};
use crate::remote;
use crate::roles::Roles;
use crate::row::{Action, Decision, Lead, Row, RowId};
use crate::table::{Key, Table};
use pairs::Pairs;
use policies::Classes;
pub use senders::EgressRows;

/// Why a row cannot be kept. The keys of a table are what the P4 program says, so a P4Runtime server has refused most of
/// this before.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TableError {
    /// A key that has to be exact is not.
    NotExact(Table, Key),
    /// A range where bits are asked for.
    NotBits(Table, Key),
    /// A port that the switch cannot have.
    Port(u128),
    /// An action that the table does not have.
    Action(Table, Action),
    /// Rows lead to as many pairs of class and overlay as the switch keeps.
    Pairs,
    /// The policies of these pairs would have more rows than the switch keeps.
    PairRows,
}

impl std::fmt::Display for TableError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            TableError::NotExact(table, key) => write!(f, "{key:?} of {table:?} has to be one exact value"),
            TableError::NotBits(table, key) => write!(f, "{key:?} of {table:?} cannot be a range"),
            TableError::Port(port) => write!(f, "there is no port {port}: the last is {}", PORTS - 1),
            TableError::Action(table, action) => write!(f, "{table:?} has no action {action:?}"),
            TableError::Pairs => write!(
                f,
                "rows lead to {} pairs of class and overlay, and there is room for no more",
                pairs::MOST
            ),
            TableError::PairRows => write!(
                f,
                "the policies of all pairs of class and overlay would have more than {} rows together: let endpoints share rules \
                 of their own by a profile",
                pairs::MOST_ROWS
            ),
        }
    }
}

impl std::error::Error for TableError {}

/// All that a worker needs, at one generation. It never changes.
#[derive(Debug, Clone)]
pub struct Snapshot {
    generation: u64,
    ports: Box<[Arc<Port>]>,
    mac_table: MacTable,
    /// Groups of ports for MACs that are at several.
    several: Arc<BTreeMap<u64, u16>>,
    classes: PerDirection<Classes>,
    groups: BTreeMap<u32, Arc<[u16]>>,
}

/// What a snapshot takes, in bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Memory {
    /// Compiled classes, without bitmaps that they share, and shapes of guards.
    pub classes: usize,
    /// Attachments, guards, and where MACs are.
    pub endpoints: usize,
}

impl Snapshot {
    /// How many snapshots there were before.
    pub fn generation(&self) -> u64 {
        self.generation
    }

    /// Memory of the snapshot, by part.
    pub fn memory(&self) -> Memory {
        let ports: usize = self.ports.iter().map(|p| p.bytes()).sum();
        let guards = self.ports.iter().flat_map(|p| p.guards());
        let shapes: HashMap<*const Shape, usize> = guards
            .map(|guard| (Arc::as_ptr(guard.shape()), guard.shape().bytes()))
            .collect();
        Memory {
            classes: self.classes.iter().map(Classes::bytes).sum::<usize>() + shapes.values().sum::<usize>(),
            endpoints: ports + self.mac_table.bytes(),
        }
    }

    /// What the policy of a sender's class decides about a frame, by its short form where that is enough. For benches, which have nothing else to time the check alone by.
    #[doc(hidden)]
    #[inline(always)]
    pub fn judge(&self, class: u16, headers: &HeaderSubset, fields: &Fields) -> Decision {
        let class = self.egress(class.into());
        let leaf = class.leaf_of(headers, Direction::Egress);
        if leaf.is_list() {
            return class.judge(fields, Direction::Egress);
        }
        leaf.decision()
    }

    #[inline(always)]
    pub(crate) fn point(&self, port: u16, vlan: u16) -> Option<&AttachmentPoint> {
        self.port(port).map(|p| p.point(vlan))
    }

    /// What is behind a port; the same for all frames that come in there.
    #[inline(always)]
    pub fn port(&self, port: u16) -> Option<&Port> {
        self.ports.get(usize::from(port)).map(|port| &**port)
    }

    /// The one port where a MAC is.
    #[inline(always)]
    pub(crate) fn station(&self, mac: u64) -> Option<u16> {
        match self.mac_table.find(mac) {
            Some(SEVERAL) => None,
            station => station,
        }
    }

    /// The group of the ports where a MAC is that is at several.
    pub(crate) fn mac_table(&self, mac: u64) -> Option<u16> {
        self.several.get(&mac).copied()
    }

    #[inline(always)]
    pub(crate) fn egress(&self, place: u32) -> &Class {
        self.classes.egress.get(place)
    }

    #[inline(always)]
    pub(crate) fn ingress(&self, place: u32) -> &Class {
        self.classes.ingress.get(place)
    }

    pub(crate) fn group(&self, id: u32) -> &[u16] {
        self.groups.get(&id).map_or(&[], |ports| ports)
    }
}

/// Rows of one port and VLAN, by table.
#[derive(Debug, Default)]
struct AttachmentRows {
    attach: BTreeSet<RowId>,
    roles: BTreeSet<RowId>,
    guard: [BTreeSet<RowId>; 3],
    deliver: BTreeSet<RowId>,
}

impl AttachmentRows {
    fn of(&mut self, table: Table) -> Option<&mut BTreeSet<RowId>> {
        let [guard, addresses, neighbours] = &mut self.guard;
        match table {
            Table::Attach => Some(&mut self.attach),
            Table::Roles => Some(&mut self.roles),
            Table::Guard => Some(guard),
            Table::GuardAddress => Some(addresses),
            Table::GuardNd => Some(neighbours),
            Table::Deliver => Some(&mut self.deliver),
            _ => None,
        }
    }

    fn is_empty(&self) -> bool {
        let [guard, addresses, neighbours] = &self.guard;
        let all = [
            &self.attach,
            &self.roles,
            guard,
            addresses,
            neighbours,
            &self.deliver,
        ];
        all.into_iter().all(BTreeSet::is_empty)
    }
}

/// Rows of the classes of one direction.
#[derive(Debug, Default)]
struct ClassRows {
    policy: BTreeMap<u16, BTreeSet<RowId>>,
    /// Rows that ask for one overlay and no class.
    overlays: BTreeMap<u16, BTreeSet<RowId>>,
    /// Rows that ask for neither, for some bits, or for both.
    open: BTreeSet<RowId>,
    remote: BTreeMap<u16, BTreeSet<RowId>>,
}

/// Where a row belongs.
#[derive(Debug, Clone, Copy)]
enum RowPlace {
    AttachmentPoint(u16, Option<u16>),
    Mac(u64),
    Class(u16),
    Overlay(u16),
    Open,
    Remote(u16),
}

/// A port, and a VLAN or any.
type PlugKey = (u16, Option<u16>);

/// What changed since the last snapshot.
#[derive(Debug, Default)]
struct Dirty {
    points: BTreeSet<PlugKey>,
    macs: BTreeSet<u64>,
    classes: PerDirection<BTreeSet<u16>>,
    overlays: PerDirection<BTreeSet<u16>>,
    /// Pairs to which a row leads for the first time.
    pairs: PerDirection<BTreeSet<Lead>>,
    /// Places of pairs to which no row leads any more.
    left: PerDirection<BTreeSet<u32>>,
    open: PerDirection<bool>,
    groups: bool,
}

/// The rows of all tables.
#[derive(Debug)]
pub struct Tables {
    rows: HashMap<RowId, (Table, Row)>,
    next: u64,
    counts: [usize; Table::ALL.len()],
    points: BTreeMap<PlugKey, AttachmentRows>,
    macs: HashMap<u64, RowId>,
    classes: PerDirection<ClassRows>,
    pairs: PerDirection<Pairs>,
    /// Rows that the policies of all pairs of a direction may have together.
    most_rows: usize,
    groups: BTreeMap<u32, Arc<[u16]>>,
    dirty: Dirty,
    maps: Bitmaps,
    shapes: Shapes,
    current: Arc<Snapshot>,
}

impl Default for Tables {
    fn default() -> Self {
        let mut maps = Bitmaps::default();
        let current = Arc::new(Snapshot {
            generation: 0,
            ports: vec![Arc::default(); PORTS].into_boxed_slice(),
            mac_table: MacTable::default(),
            several: Arc::default(),
            classes: POLICIES.map(|table| Classes::new(table, &mut maps)),
            groups: BTreeMap::new(),
        });
        Tables {
            rows: HashMap::new(),
            next: 0,
            counts: [0; Table::ALL.len()],
            points: BTreeMap::new(),
            macs: HashMap::new(),
            classes: PerDirection::default(),
            pairs: PerDirection::default(),
            most_rows: pairs::MOST_ROWS,
            groups: BTreeMap::new(),
            dirty: Dirty::default(),
            maps,
            shapes: Shapes::default(),
            current,
        }
    }
}

/// The tables that have the verdicts.
const POLICIES: PerDirection<Table> = PerDirection {
    egress: Table::EgressPolicy,
    ingress: Table::IngressPolicy,
};

impl Tables {
    /// Keeps a row. That no other row has the same conditions and priority in this table is the caller's to see to.
    pub fn insert(&mut self, table: Table, row: Row) -> Result<RowId, TableError> {
        let place = place(table, &row)?;
        check_action(table, row.action)?;
        self.leads(table, None, row.action.lead())?;
        if !self.count_for_pairs(table, place, true) {
            return Err(TableError::PairRows);
        }
        let id = RowId(self.next);
        self.next += 1;
        self.index(table, place, id, true);
        if let Some(count) = self.counts.get_mut(table.index()) {
            *count += 1;
        }
        self.rows.insert(id, (table, row));
        Ok(id)
    }

    /// Changes what a row does. `false` when there is no such row.
    pub fn modify(&mut self, id: RowId, action: Action) -> Result<bool, TableError> {
        let Some((table, row)) = self.rows.get_mut(&id) else {
            return Ok(false);
        };
        let table = *table;
        check_action(table, action)?;
        let place = place(table, row)?;
        let before = std::mem::replace(&mut row.action, action);
        if let Err(why) = self.leads(table, before.lead(), action.lead()) {
            if let Some((_, row)) = self.rows.get_mut(&id) {
                row.action = before;
            }
            return Err(why);
        }
        self.touch(table, place);
        Ok(true)
    }

    /// Changes what a row does, however many rows the policies of all pairs have then: what ends or is taken back has to be done.
    pub fn modify_unbounded(&mut self, id: RowId, action: Action) -> Result<bool, TableError> {
        let most = std::mem::replace(&mut self.most_rows, usize::MAX);
        let modified = self.modify(id, action);
        self.most_rows = most;
        modified
    }

    /// Removes a row and gives it back.
    pub fn remove(&mut self, id: RowId) -> Option<Row> {
        let (table, row) = self.rows.remove(&id)?;
        if let Ok(place) = place(table, &row) {
            self.index(table, place, id, false);
            self.count_for_pairs(table, place, false);
        }
        // What leads nowhere finds room.
        let _ = self.leads(table, row.action.lead(), None);
        if let Some(count) = self.counts.get_mut(table.index()) {
            *count -= 1;
        }
        Some(row)
    }

    /// The row with this id, unless it was removed.
    pub fn get(&self, id: RowId) -> Option<&Row> {
        self.rows.get(&id).map(|(_, row)| row)
    }

    /// How many rows a table has.
    pub fn count(&self, table: Table) -> usize {
        self.counts.get(table.index()).copied().unwrap_or(0)
    }

    /// Sets the ports of a multicast group; without ports it is gone.
    pub fn set_group(&mut self, id: u32, ports: &[u16]) -> Result<(), TableError> {
        if let Some(port) = ports.iter().find(|p| usize::from(**p) >= PORTS) {
            return Err(TableError::Port(u128::from(*port)));
        }
        if ports.is_empty() {
            self.groups.remove(&id);
        } else {
            self.groups.insert(id, ports.into());
        }
        self.dirty.groups = true;
        Ok(())
    }

    /// The snapshot that was built last.
    pub fn current(&self) -> Arc<Snapshot> {
        Arc::clone(&self.current)
    }

    /// Follows a policy row that comes or goes, in all pairs that have it. Whether there is room for it.
    fn count_for_pairs(&mut self, table: Table, place: RowPlace, more: bool) -> bool {
        let (pairs, most) = (&mut self.pairs[table.direction()], self.most_rows);
        match place {
            RowPlace::Class(class) => pairs.row_of_class(class, more, most),
            RowPlace::Overlay(overlay) => pairs.row_of_overlay(overlay, more, most),
            _ => true,
        }
    }

    /// Follows where rows lead: `before` no more, `now` from now on. Without room nothing is changed.
    fn leads(&mut self, table: Table, before: Option<Lead>, now: Option<Lead>) -> Result<(), TableError> {
        let direction = match table {
            Table::Deliver => Direction::Ingress,
            _ => Direction::Egress,
        };
        let of = &self.classes[direction];
        let pairs = &mut self.pairs[direction];
        let rows = |lead: Lead| {
            let class = of.policy.get(&lead.class).map_or(0, BTreeSet::len);
            class + of.overlays.get(&lead.overlay).map_or(0, BTreeSet::len)
        };
        if now.is_some_and(|lead| !pairs.has_room(before, lead)) {
            return Err(TableError::Pairs);
        }
        if now.is_some_and(|lead| !pairs.has_room_for_rows(lead, rows(lead), self.most_rows)) {
            return Err(TableError::PairRows);
        }
        if before == now {
            return Ok(());
        }
        if let Some(place) = before.and_then(|lead| pairs.remove(lead, rows(lead))) {
            self.dirty.left[direction].insert(place);
        }
        if let Some(lead) = now.filter(|lead| pairs.add(*lead, rows(*lead))) {
            self.dirty.pairs[direction].insert(lead);
        }
        Ok(())
    }

    fn index(&mut self, table: Table, place: RowPlace, id: RowId, add: bool) {
        let put = |set: &mut BTreeSet<RowId>| {
            if add {
                set.insert(id);
            } else {
                set.remove(&id);
            }
        };
        match place {
            RowPlace::AttachmentPoint(port, vlan) => {
                let rows = self.points.entry((port, vlan)).or_default();
                if let Some(set) = rows.of(table) {
                    put(set);
                }
            }
            RowPlace::Mac(mac) => {
                if add {
                    self.macs.insert(mac, id);
                } else {
                    self.macs.remove(&mac);
                }
            }
            RowPlace::Class(number) | RowPlace::Overlay(number) | RowPlace::Remote(number) => {
                let rows = &mut self.classes[table.direction()];
                let map = match place {
                    RowPlace::Class(_) => &mut rows.policy,
                    RowPlace::Overlay(_) => &mut rows.overlays,
                    _ => &mut rows.remote,
                };
                put(map.entry(number).or_default());
            }
            RowPlace::Open => {
                put(&mut self.classes[table.direction()].open);
            }
        }
        self.touch(table, place);
    }

    fn touch(&mut self, table: Table, place: RowPlace) {
        match place {
            RowPlace::AttachmentPoint(port, vlan) => {
                self.dirty.points.insert((port, vlan));
            }
            RowPlace::Mac(mac) => {
                self.dirty.macs.insert(mac);
            }
            RowPlace::Class(class) | RowPlace::Remote(class) => {
                self.dirty.classes[table.direction()].insert(class);
            }
            RowPlace::Overlay(overlay) => {
                self.dirty.overlays[table.direction()].insert(overlay);
            }
            RowPlace::Open => {
                self.dirty.open[table.direction()] = true;
            }
        }
    }
}

mod pairs;
mod policies;
mod publish;
mod senders;
#[cfg(test)]
mod tests;

fn port(table: Table, row: &Row) -> Result<u16, TableError> {
    let port = row
        .exactly(table, Key::Port)
        .ok_or(TableError::NotExact(table, Key::Port))?;
    u16::try_from(port)
        .ok()
        .filter(|p| usize::from(*p) < PORTS)
        .ok_or(TableError::Port(port))
}

fn place(table: Table, row: &Row) -> Result<RowPlace, TableError> {
    let exact = |key| row.exactly(table, key).ok_or(TableError::NotExact(table, key));
    Ok(match table {
        Table::Attach
        | Table::Roles
        | Table::Guard
        | Table::GuardAddress
        | Table::GuardNd
        | Table::Deliver => {
            for key in table.keys() {
                if row.masked(table, *key, 128).is_none() {
                    return Err(TableError::NotBits(table, *key));
                }
            }
            let vlan = row.cond(table, Key::Vlan).map(|_| exact(Key::Vlan)).transpose()?;
            RowPlace::AttachmentPoint(port(table, row)?, vlan.map(|v| v as u16 & 0xfff))
        }
        Table::L2 => RowPlace::Mac(exact(Key::DstMac)? as u64),
        Table::EgressRemote | Table::IngressRemote => RowPlace::Remote(exact(Key::Class)? as u16),
        Table::EgressPolicy | Table::IngressPolicy => {
            let bits = |key| row.masked(table, key, 16).ok_or(TableError::NotBits(table, key));
            match (bits(Key::Class)?, bits(Key::Overlay)?) {
                ((class, 0xffff), (_, 0)) => RowPlace::Class(class as u16),
                ((_, 0), (overlay @ 1.., 0xffff)) => RowPlace::Overlay(overlay as u16),
                _ => RowPlace::Open,
            }
        }
    })
}

fn check_action(table: Table, action: Action) -> Result<(), TableError> {
    if !table.actions().contains(&action.kind()) {
        return Err(TableError::Action(table, action));
    }
    match action {
        Action::Forward(port) if usize::from(port) >= PORTS => Err(TableError::Port(u128::from(port))),
        _ => Ok(()),
    }
}

/// Rows in falling precedence: by priority, then the older first.
fn ordered<'a>(rows: &'a HashMap<RowId, (Table, Row)>, ids: impl Iterator<Item = &'a RowId>) -> Vec<&'a Row> {
    let mut found: Vec<(RowId, &Row)> = ids
        .filter_map(|id| rows.get(id).map(|(_, row)| (*id, row)))
        .collect();
    found.sort_by_key(|(id, row)| (std::cmp::Reverse(row.priority), *id));
    found.into_iter().map(|(_, row)| row).collect()
}

/// What the rows of a class and of the overlay above it are compiled to. `open` are those of its rows that ask for neither, for
/// some bits, or for both.
fn compiled(
    table: Table,
    lead: Lead,
    rows: &HashMap<RowId, (Table, Row)>,
    of: &ClassRows,
    open: &[RowId],
    maps: &mut Bitmaps,
) -> Class {
    let own = of.policy.get(&lead.class).into_iter().flatten();
    let above = of.overlays.get(&lead.overlay).into_iter().flatten();
    let all = ordered(rows, own.chain(above).chain(open));
    let stage = match table {
        Table::EgressPolicy => Table::EgressRemote,
        _ => Table::IngressRemote,
    };
    let prefixes = ordered(rows, of.remote.get(&lead.class).into_iter().flatten());
    let remotes = remote::compile(stage, &prefixes);
    classes::compile(table, &all, remotes, maps)
}

fn point(
    rows: &HashMap<RowId, (Table, Row)>,
    points: &BTreeMap<PlugKey, AttachmentRows>,
    (port, vlan): PlugKey,
    pairs: &PerDirection<Pairs>,
    shapes: &mut Shapes,
) -> AttachmentPoint {
    let own = vlan.and_then(|v| points.get(&(port, Some(v))));
    let any = points.get(&(port, None));
    let of = |set: fn(&AttachmentRows) -> &BTreeSet<RowId>| {
        ordered(rows, own.into_iter().chain(any).flat_map(move |r| set(r).iter()))
    };
    let attach = of(|r| &r.attach).first().map(|row| row.action);
    let (sends, guarded) = match attach {
        Some(Action::SetClass(lead)) => (Some(pairs.egress.place(lead)), false),
        Some(Action::SetGuardedClass(lead)) => (Some(pairs.egress.place(lead)), true),
        _ => (None, false),
    };
    let guard = guarded.then(|| {
        let [a, b, c] = [of(|r| &r.guard[0]), of(|r| &r.guard[1]), of(|r| &r.guard[2])];
        Arc::new(Guard::compile(&a, &b, &c, shapes))
    });
    let roles = of(|r| &r.roles);
    let roles = (!roles.is_empty()).then(|| Arc::new(Roles::compile(&roles)));
    let receives = match of(|r| &r.deliver).first().map(|row| row.action) {
        Some(Action::SetClass(lead)) => Some(pairs.ingress.place(lead)),
        _ => None,
    };
    AttachmentPoint {
        sends,
        roles,
        guard,
        receives,
    }
}
