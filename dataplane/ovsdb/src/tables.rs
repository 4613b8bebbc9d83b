//! Raw rows by UUID, kept current by the three update notations.

use std::collections::BTreeMap;

use serde_json::{Map, Value};

use crate::catalog::{self, TABLES};
use crate::clip::{clip, describe};
use crate::datum::{Atom, Datum, ValueError};
use crate::layout::Layout;
use crate::uuid::{Uuid, UuidError};

/// Why an update cannot be applied. The replica no longer follows the server; it must be fetched anew.
#[allow(missing_docs, reason = "each message names its fields")]
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum UpdateError {
    /// A part of the update is of another JSON type.
    #[error("{place} of the update is {found}, expected {expected}")]
    Malformed {
        /// Table and row, where known.
        place: String,
        expected: &'static str,
        found: String,
    },
    /// A table that was not asked for.
    #[error("the update names table {table:?}, which is not monitored")]
    UnknownTable {
        /// The table, cut when long.
        table: String,
    },
    /// A column that was not asked for.
    #[error("the update of row {row} in table {table} names column {column:?}, which is not monitored")]
    UnknownColumn {
        table: &'static str,
        row: Uuid,
        /// The column, cut when long.
        column: String,
    },
    /// A row identifier that is not one.
    #[error("the update of table {table} has a malformed row identifier")]
    RowId {
        table: &'static str,
        #[source]
        source: UuidError,
    },
    /// A value that does not fit its column.
    #[error("the update of {table}.{column} in row {row} has a value that does not fit")]
    Value {
        table: &'static str,
        row: Uuid,
        column: &'static str,
        #[source]
        source: ValueError,
    },
    /// A difference to a row that the replica does not have.
    #[error("the update modifies row {row} of table {table}, which the replica does not have")]
    ModifiesUnknownRow { table: &'static str, row: Uuid },
}

/// Which notation an update is in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Notation {
    /// `<table-updates>` of RFC 7047: old and new rows.
    Rows,
    /// `<table-updates2>`: rows and differences.
    Differences,
}

#[derive(Debug)]
pub(crate) struct Row {
    /// Values by position in the catalog; `None` where the database has no such column.
    columns: Vec<Option<Datum>>,
    stamp: u64,
}

/// What happens to a row.
enum Change<'a> {
    /// The row is this, with defaults for what is left out.
    Replace(&'a Map<String, Value>),
    /// The named columns change by these differences.
    Modify(&'a Map<String, Value>),
    Delete,
}

/// The monitored rows of a database.
#[derive(Debug)]
pub(crate) struct Tables {
    rows: Vec<BTreeMap<Uuid, Row>>,
    last_stamp: u64,
}

impl Tables {
    pub(crate) fn empty() -> Self {
        Self {
            rows: TABLES.iter().map(|_| BTreeMap::new()).collect(),
            last_stamp: 0,
        }
    }

    /// Forgets every row. Stamps go on, so that none is ever given twice.
    pub(crate) fn clear(&mut self) {
        self.rows.iter_mut().for_each(BTreeMap::clear);
    }

    pub(crate) fn rows(&self, table: usize) -> impl Iterator<Item = (&Uuid, &Row)> {
        self.rows.get(table).into_iter().flatten()
    }

    pub(crate) fn row(&self, table: usize, id: Uuid) -> Option<&Row> {
        self.rows.get(table)?.get(&id)
    }

    /// Applies an update. On error the tables may hold a part of it.
    pub(crate) fn apply(
        &mut self,
        layout: &Layout,
        updates: &Value,
        notation: Notation,
    ) -> Result<(), UpdateError> {
        for (name, rows) in object(updates, || "the body".to_owned())? {
            let known = catalog::table(name).filter(|(position, _)| layout.has_table(*position));
            let (position, table) = known.ok_or_else(|| UpdateError::UnknownTable { table: clip(name) })?;
            for (id, change) in object(rows, || format!("table {}", table.name))? {
                let id = id.parse().map_err(|source| UpdateError::RowId {
                    table: table.name,
                    source,
                })?;
                let change = match notation {
                    Notation::Rows => Change::from_rows(change, table.name, id)?,
                    Notation::Differences => Change::from_differences(change, table.name, id)?,
                };
                self.change_row(layout, position, id, change)?;
            }
        }
        Ok(())
    }

    fn change_row(
        &mut self,
        layout: &Layout,
        table: usize,
        id: Uuid,
        change: Change<'_>,
    ) -> Result<(), UpdateError> {
        let (Some(rows), Some(described)) = (self.rows.get_mut(table), TABLES.get(table)) else {
            return Ok(());
        };
        self.last_stamp += 1;
        let stamp = self.last_stamp;
        match change {
            Change::Delete => {
                rows.remove(&id);
            }
            Change::Replace(columns) => {
                let mut row = Row::defaults(layout, table, stamp);
                for (name, value) in columns {
                    let (position, datum) = parse(layout, table, described, id, name, value)?;
                    if let Some(slot) = row.columns.get_mut(position) {
                        *slot = Some(datum);
                    }
                }
                rows.insert(id, row);
            }
            Change::Modify(columns) => {
                let missing = UpdateError::ModifiesUnknownRow {
                    table: described.name,
                    row: id,
                };
                let row = rows.get_mut(&id).ok_or(missing)?;
                row.stamp = stamp;
                for (name, value) in columns {
                    let (position, difference) = parse(layout, table, described, id, name, value)?;
                    let shape = layout.shape(table, position);
                    if let (Some(Some(datum)), Some(shape)) = (row.columns.get_mut(position), shape) {
                        datum.apply_difference(difference, shape);
                    }
                }
            }
        }
        Ok(())
    }
}

fn object(value: &Value, place: impl Fn() -> String) -> Result<&Map<String, Value>, UpdateError> {
    value.as_object().ok_or_else(|| UpdateError::Malformed {
        place: place(),
        expected: "an object",
        found: describe(value),
    })
}

/// Reads one column value and tells the column's position.
fn parse(
    layout: &Layout,
    position: usize,
    table: &'static catalog::Table,
    row: Uuid,
    name: &str,
    value: &Value,
) -> Result<(usize, Datum), UpdateError> {
    let known = table
        .column(name)
        .and_then(|(index, column)| Some((index, column, layout.shape(position, index)?)));
    let Some((index, column, shape)) = known else {
        return Err(UpdateError::UnknownColumn {
            table: table.name,
            row,
            column: clip(name),
        });
    };
    let datum = Datum::parse(value, column.kind, shape).map_err(|source| UpdateError::Value {
        table: table.name,
        row,
        column: column.name,
        source,
    })?;
    Ok((index, datum))
}

impl<'a> Change<'a> {
    /// `{"old": .., "new": ..}`: `new` is the whole row, and absent when the row is deleted.
    fn from_rows(change: &'a Value, table: &'static str, id: Uuid) -> Result<Self, UpdateError> {
        let place = || format!("row {id} of table {table}");
        let members = object(change, place)?;
        match (members.get("new"), members.get("old")) {
            (Some(new), _) => Ok(Self::Replace(object(new, place)?)),
            (None, Some(_)) => Ok(Self::Delete),
            (None, None) => Err(UpdateError::Malformed {
                place: place(),
                expected: "an object with a member \"new\" or \"old\"",
                found: describe(change),
            }),
        }
    }

    /// An object with one member: `initial`, `insert`, `modify` or `delete`.
    fn from_differences(change: &'a Value, table: &'static str, id: Uuid) -> Result<Self, UpdateError> {
        let place = || format!("row {id} of table {table}");
        let members = object(change, place)?;
        let mut pairs = members.iter();
        match (pairs.next(), pairs.next()) {
            (Some((kind, row)), None) if kind == "initial" || kind == "insert" => {
                Ok(Self::Replace(object(row, place)?))
            }
            (Some((kind, row)), None) if kind == "modify" => Ok(Self::Modify(object(row, place)?)),
            (Some((kind, _)), None) if kind == "delete" => Ok(Self::Delete),
            _ => Err(UpdateError::Malformed {
                place: place(),
                expected: "an object with one member, of \"initial\", \"insert\", \"modify\" and \"delete\"",
                found: describe(change),
            }),
        }
    }
}

impl Row {
    fn defaults(layout: &Layout, table: usize, stamp: u64) -> Self {
        let columns = TABLES.get(table).map(|table| table.columns).unwrap_or_default();
        let default = |(position, column): (usize, &catalog::Column)| {
            layout
                .shape(table, position)
                .map(|shape| Datum::default_of(column.kind, shape))
        };
        Self {
            columns: columns.iter().enumerate().map(default).collect(),
            stamp,
        }
    }

    /// Differs whenever the row does, over the life of its [`Tables`].
    pub(crate) fn stamp(&self) -> u64 {
        self.stamp
    }

    /// The elements of a set column; none where the database lacks the column.
    pub(crate) fn elements(&self, column: usize) -> &[Atom] {
        self.columns
            .get(column)
            .and_then(Option::as_ref)
            .map(Datum::elements)
            .unwrap_or_default()
    }

    /// The pairs of a map column; none where the database lacks the column.
    pub(crate) fn pairs(&self, column: usize) -> &[(Atom, Atom)] {
        self.columns
            .get(column)
            .and_then(Option::as_ref)
            .map(Datum::pairs)
            .unwrap_or_default()
    }
}
