//! Which of the catalog's columns a database has, from its `get_schema` reply (RFC 7047 section 3.2).

use serde_json::{Map, Value, json};

use crate::catalog::{Column, Need, TABLES, Table};
use crate::clip::{clip, describe};

/// How many elements a column holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Shape {
    pub(crate) required: bool,
    pub(crate) single: bool,
}

/// Per table of the catalog, per column of it: its shape where the database has it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Layout {
    pub(crate) version: Option<String>,
    tables: Vec<Vec<Option<Shape>>>,
}

/// Why a database schema cannot be used.
#[allow(missing_docs, reason = "each message names its fields")]
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SchemaError {
    /// A part of the schema is not what RFC 7047 section 3.2 says.
    #[error("the schema is malformed at {place}: expected {expected}, found {found}")]
    Malformed {
        /// Table and column, where known.
        place: String,
        expected: &'static str,
        found: String,
    },
    /// A table without which there is no switch.
    #[error("the schema has no table {table}; is this database the configuration of an Open vSwitch?")]
    MissingTable { table: &'static str },
    /// A column without which there is no switch.
    #[error("the schema has no column {table}.{column}; this version of Open vSwitch is not supported")]
    MissingColumn {
        table: &'static str,
        column: &'static str,
    },
    /// A column of another type than known.
    #[error(
        "column {table}.{column} holds {found}, expected {expected}; this version of Open vSwitch is not supported"
    )]
    ColumnType {
        table: &'static str,
        column: &'static str,
        /// The type the replica knows.
        expected: String,
        /// The type of the schema.
        found: String,
    },
}

impl Layout {
    pub(crate) fn parse(schema: &Value) -> Result<Self, SchemaError> {
        let tables = schema.get("tables").unwrap_or(&Value::Null);
        let tables = tables
            .as_object()
            .ok_or_else(|| malformed("tables", "an object", tables))?;
        let version = schema.get("version").and_then(Value::as_str).map(clip);
        let tables = TABLES
            .iter()
            .map(|table| parse_table(table, tables))
            .collect::<Result<_, _>>()?;
        Ok(Self { version, tables })
    }

    pub(crate) fn has_table(&self, table: usize) -> bool {
        self.tables
            .get(table)
            .is_some_and(|columns| columns.iter().any(Option::is_some))
    }

    pub(crate) fn shape(&self, table: usize, column: usize) -> Option<Shape> {
        self.tables.get(table)?.get(column).copied().flatten()
    }

    /// The `<monitor-requests>` object: every known column, every row, every change.
    pub(crate) fn monitor_requests(&self) -> Value {
        let mut requests = Map::new();
        for (position, table) in TABLES
            .iter()
            .enumerate()
            .filter(|(position, _)| self.has_table(*position))
        {
            let present = |(column, _): &(usize, &Column)| self.shape(position, *column).is_some();
            let names: Vec<&str> = table
                .columns
                .iter()
                .enumerate()
                .filter(present)
                .map(|(_, column)| column.name)
                .collect();
            requests.insert(table.name.to_owned(), json!([{ "columns": names }]));
        }
        Value::Object(requests)
    }
}

fn malformed(place: &str, expected: &'static str, found: &Value) -> SchemaError {
    SchemaError::Malformed {
        place: place.to_owned(),
        expected,
        found: describe(found),
    }
}

fn parse_table(
    table: &'static Table,
    tables: &Map<String, Value>,
) -> Result<Vec<Option<Shape>>, SchemaError> {
    let Some(found) = tables.get(table.name) else {
        return match table.need {
            Need::Required => Err(SchemaError::MissingTable { table: table.name }),
            Need::Optional => Ok(vec![None; table.columns.len()]),
        };
    };
    let columns = found.get("columns").unwrap_or(&Value::Null);
    let columns = columns
        .as_object()
        .ok_or_else(|| malformed(&format!("tables.{}.columns", table.name), "an object", columns))?;
    table
        .columns
        .iter()
        .map(|column| parse_column(table.name, column, columns))
        .collect()
}

fn parse_column(
    table: &'static str,
    column: &'static Column,
    columns: &Map<String, Value>,
) -> Result<Option<Shape>, SchemaError> {
    let Some(found) = columns.get(column.name) else {
        return match column.need {
            Need::Required => Err(SchemaError::MissingColumn {
                table,
                column: column.name,
            }),
            Need::Optional => Ok(None),
        };
    };
    let place = format!("tables.{table}.columns.{}.type", column.name);
    let column_type = found.get("type").unwrap_or(&Value::Null);
    let key = base_type(column_type.get("key").unwrap_or(column_type));
    let key = key.ok_or_else(|| malformed(&place, "a type", column_type))?;
    let value = match column_type.get("value") {
        None => None,
        Some(value) => Some(base_type(value).ok_or_else(|| malformed(&place, "a value type", value))?),
    };
    if (key, value) != column.kind.atomic() {
        return Err(SchemaError::ColumnType {
            table,
            column: column.name,
            expected: name_type(column.kind.atomic()),
            found: clip(&name_type((key, value))),
        });
    }
    Ok(Some(Shape {
        required: bound(column_type, "min", &place)? != Some(0),
        single: bound(column_type, "max", &place)?.is_none_or(|max| max <= 1),
    }))
}

/// `"string"` or `{"type": "string", ...}`.
fn base_type(value: &Value) -> Option<&str> {
    value.as_str().or_else(|| value.get("type")?.as_str())
}

fn name_type((key, value): (&str, Option<&str>)) -> String {
    match value {
        None => key.to_owned(),
        Some(value) => format!("a map from {key} to {value}"),
    }
}

/// `min` or `max` of a column type; `"unlimited"` is the largest number.
fn bound(column_type: &Value, name: &str, place: &str) -> Result<Option<u64>, SchemaError> {
    match column_type.get(name) {
        None => Ok(None),
        Some(Value::String(text)) if text == "unlimited" => Ok(Some(u64::MAX)),
        Some(number) => match number.as_u64() {
            Some(number) => Ok(Some(number)),
            None => Err(malformed(place, "a number of elements or \"unlimited\"", number)),
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::catalog::{bridge, interface, open_vswitch, port};

    fn schema() -> Value {
        serde_json::from_str(include_str!("../tests/fixtures/schema.json")).unwrap()
    }

    fn columns<'a>(schema: &'a mut Value, table: &str) -> &'a mut Map<String, Value> {
        schema["tables"][table]["columns"].as_object_mut().unwrap()
    }

    #[test]
    fn knows_every_column_of_a_real_schema() {
        let layout = Layout::parse(&schema()).unwrap();
        assert_eq!(layout.version.as_deref(), Some("8.3.1"));
        for (position, table) in TABLES.iter().enumerate() {
            for (column, described) in table.columns.iter().enumerate() {
                assert!(
                    layout.shape(position, column).is_some(),
                    "{}.{}",
                    table.name,
                    described.name
                );
            }
        }
        let shape = |table, column| layout.shape(table, column).unwrap();
        assert_eq!(
            shape(port::TABLE, port::TAG),
            Shape {
                required: false,
                single: true
            }
        );
        assert_eq!(
            shape(port::TABLE, port::TRUNKS),
            Shape {
                required: false,
                single: false
            }
        );
        assert_eq!(
            shape(bridge::TABLE, bridge::NAME),
            Shape {
                required: true,
                single: true
            }
        );
        assert_eq!(
            shape(interface::TABLE, interface::OPTIONS),
            Shape {
                required: false,
                single: false
            }
        );
        assert_eq!(layout.monitor_requests().as_object().unwrap().len(), TABLES.len());
    }

    #[test]
    fn asks_an_old_server_only_for_what_it_has() {
        let mut schema = schema();
        columns(&mut schema, "Open_vSwitch").remove("dpdk_initialized");
        schema["tables"].as_object_mut().unwrap().remove("Flow_Table");
        let layout = Layout::parse(&schema).unwrap();
        assert_eq!(
            layout.shape(open_vswitch::TABLE, open_vswitch::DPDK_INITIALIZED),
            None
        );
        let requests = layout.monitor_requests();
        assert_eq!(requests.get("Flow_Table"), None);
        assert!(!requests["Open_vSwitch"].to_string().contains("dpdk_initialized"));
    }

    #[test]
    fn refuses_what_is_not_an_open_vswitch() {
        let mut without_table = schema();
        without_table["tables"].as_object_mut().unwrap().remove("Port");
        assert_eq!(
            Layout::parse(&without_table),
            Err(SchemaError::MissingTable { table: "Port" })
        );

        let mut without_column = schema();
        columns(&mut without_column, "Interface").remove("ofport");
        let missing = SchemaError::MissingColumn {
            table: "Interface",
            column: "ofport",
        };
        assert_eq!(Layout::parse(&without_column), Err(missing));

        let mut other_type = schema();
        columns(&mut other_type, "Interface")["ofport"]["type"] = json!("real");
        let error = Layout::parse(&other_type).unwrap_err();
        assert!(
            matches!(&error, SchemaError::ColumnType { found, .. } if found == "real"),
            "{error}"
        );

        for broken in [
            json!(null),
            json!({}),
            json!({"tables": []}),
            json!({"tables": {"Open_vSwitch": 1}}),
        ] {
            assert!(
                matches!(Layout::parse(&broken), Err(SchemaError::Malformed { .. })),
                "{broken}"
            );
        }
        let mut bad_bound = schema();
        columns(&mut bad_bound, "Port")["tag"]["type"]["max"] = json!(-1);
        assert!(matches!(
            Layout::parse(&bad_bound),
            Err(SchemaError::Malformed { .. })
        ));
    }
}
