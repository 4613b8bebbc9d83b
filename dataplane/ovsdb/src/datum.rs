//! Column values and their differences (RFC 7047 section 5.1, ovsdb-server(7) section 4.1.14).

use serde_json::Value;

use crate::catalog::Kind;
use crate::clip::{clip, describe};
use crate::layout::Shape;
use crate::uuid::{Uuid, UuidError};

/// One element of a column.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Atom {
    Text(Box<str>),
    Integer(i64),
    Boolean(bool),
    Reference(Uuid),
}

/// A column value. Both forms are sorted and without duplicates (of keys, in a map).
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Datum {
    Set(Vec<Atom>),
    Map(Vec<(Atom, Atom)>),
}

/// Why a column value cannot be read.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ValueError {
    /// Another JSON type than the column's.
    #[error("expected {expected}, found {found}")]
    Type {
        /// What the column holds.
        expected: &'static str,
        /// JSON type and value sent, cut when long.
        found: String,
    },
    /// A UUID that is not one.
    #[error("the reference to a row is malformed")]
    Reference(#[source] UuidError),
    /// More elements than the schema allows.
    #[error("{found} elements in a column that holds at most one")]
    TooMany {
        /// How many were sent.
        found: usize,
    },
    /// A map with one key twice.
    #[error("key {key} appears twice in a map")]
    DuplicateKey {
        /// The key, cut when long.
        key: String,
    },
}

impl Datum {
    /// What `initial` and `insert` leave out: the default of the column's type.
    pub(crate) fn default_of(kind: Kind, shape: Shape) -> Self {
        if kind.is_map() {
            return Self::Map(Vec::new());
        }
        if !shape.required {
            return Self::Set(Vec::new());
        }
        Self::Set(vec![match kind {
            Kind::Text | Kind::TextMap => Atom::Text("".into()),
            Kind::Integer | Kind::ReferenceMap => Atom::Integer(0),
            Kind::Boolean => Atom::Boolean(false),
            Kind::Reference => Atom::Reference(Uuid::ZERO),
        }])
    }

    pub(crate) fn parse(value: &Value, kind: Kind, shape: Shape) -> Result<Self, ValueError> {
        let datum = if kind.is_map() {
            parse_map(value, kind)?
        } else {
            parse_set(value, kind)?
        };
        if shape.single && datum.len() > 1 {
            return Err(ValueError::TooMany { found: datum.len() });
        }
        Ok(datum)
    }

    /// Applies the difference that a `modify` carries. Columns of at most one element carry the new value; sets, the
    /// elements in one of old and new only; maps, the pairs gone, new or changed (those with their new value).
    pub(crate) fn apply_difference(&mut self, difference: Self, shape: Shape) {
        match (self, difference) {
            (this, difference) if shape.single => *this = difference,
            (Self::Set(elements), Self::Set(toggled)) => toggle(elements, toggled),
            (Self::Map(pairs), Self::Map(changed)) => merge(pairs, changed),
            (this, difference) => *this = difference,
        }
    }

    fn len(&self) -> usize {
        match self {
            Self::Set(elements) => elements.len(),
            Self::Map(pairs) => pairs.len(),
        }
    }

    /// The elements of a set; none of a map.
    pub(crate) fn elements(&self) -> &[Atom] {
        match self {
            Self::Set(elements) => elements,
            Self::Map(_) => &[],
        }
    }

    /// The pairs of a map; none of a set.
    pub(crate) fn pairs(&self) -> &[(Atom, Atom)] {
        match self {
            Self::Map(pairs) => pairs,
            Self::Set(_) => &[],
        }
    }
}

/// Symmetric difference of two sorted lists.
fn toggle(elements: &mut Vec<Atom>, toggled: Vec<Atom>) {
    let mut both = Vec::with_capacity(elements.len() + toggled.len());
    let mut old = std::mem::take(elements).into_iter().peekable();
    let mut new = toggled.into_iter().peekable();
    while let (Some(left), Some(right)) = (old.peek(), new.peek()) {
        match left.cmp(right) {
            std::cmp::Ordering::Less => both.extend(old.next()),
            std::cmp::Ordering::Greater => both.extend(new.next()),
            std::cmp::Ordering::Equal => {
                old.next();
                new.next();
            }
        }
    }
    both.extend(old);
    both.extend(new);
    *elements = both;
}

fn merge(pairs: &mut Vec<(Atom, Atom)>, changed: Vec<(Atom, Atom)>) {
    for (key, value) in changed {
        match pairs.binary_search_by(|(known, _)| known.cmp(&key)) {
            Err(place) => pairs.insert(place, (key, value)),
            Ok(place) => match pairs.get_mut(place) {
                Some(pair) if pair.1 != value => pair.1 = value,
                _ => {
                    pairs.remove(place);
                }
            },
        }
    }
}

/// The content of `["tag", content]`.
fn tagged<'a>(value: &'a Value, tag: &str) -> Option<&'a Value> {
    match value.as_array().map(Vec::as_slice) {
        Some([Value::String(found), content]) if found == tag => Some(content),
        _ => None,
    }
}

fn wrong(expected: &'static str, found: &Value) -> ValueError {
    ValueError::Type {
        expected,
        found: describe(found),
    }
}

fn parse_set(value: &Value, kind: Kind) -> Result<Datum, ValueError> {
    let kind_of_element = kind.atomic().0;
    let mut elements = match tagged(value, "set") {
        Some(Value::Array(items)) => items
            .iter()
            .map(|item| parse_atom(item, kind_of_element))
            .collect::<Result<Vec<_>, _>>()?,
        Some(other) => return Err(wrong("an array of set elements", other)),
        None => vec![parse_atom(value, kind_of_element)?],
    };
    elements.sort_unstable();
    elements.dedup();
    Ok(Datum::Set(elements))
}

fn parse_map(value: &Value, kind: Kind) -> Result<Datum, ValueError> {
    let (key_type, value_type) = kind.atomic();
    let value_type = value_type.unwrap_or(key_type);
    let items = match tagged(value, "map") {
        Some(Value::Array(items)) => items,
        _ => return Err(wrong("[\"map\", pairs]", value)),
    };
    let mut pairs = Vec::with_capacity(items.len());
    for item in items {
        match item.as_array().map(Vec::as_slice) {
            Some([key, value]) => pairs.push((parse_atom(key, key_type)?, parse_atom(value, value_type)?)),
            _ => return Err(wrong("a pair of key and value", item)),
        }
    }
    pairs.sort_unstable();
    let repeated = pairs.windows(2).find_map(|two| match two {
        [left, right] if left.0 == right.0 => Some(&left.0),
        _ => None,
    });
    match repeated {
        Some(key) => Err(ValueError::DuplicateKey {
            key: clip(&format!("{key:?}")),
        }),
        None => Ok(Datum::Map(pairs)),
    }
}

fn parse_atom(value: &Value, atomic: &'static str) -> Result<Atom, ValueError> {
    let atom = match atomic {
        "string" => value.as_str().map(|text| Atom::Text(text.into())),
        "integer" => value.as_i64().map(Atom::Integer),
        "boolean" => value.as_bool().map(Atom::Boolean),
        _ => match tagged(value, "uuid").and_then(Value::as_str) {
            Some(text) => Some(Atom::Reference(text.parse().map_err(ValueError::Reference)?)),
            None => None,
        },
    };
    atom.ok_or_else(|| wrong(atomic, value))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use serde_json::json;

    const MANY: Shape = Shape {
        required: false,
        single: false,
    };
    const ONE: Shape = Shape {
        required: true,
        single: true,
    };
    const MAYBE: Shape = Shape {
        required: false,
        single: true,
    };

    fn read(value: &Value, kind: Kind, shape: Shape) -> Datum {
        Datum::parse(value, kind, shape).unwrap()
    }

    #[test]
    fn reads_the_notations_of_the_rfc() {
        assert_eq!(
            read(&json!(5), Kind::Integer, MAYBE),
            Datum::Set(vec![Atom::Integer(5)])
        );
        assert_eq!(
            read(&json!(["set", []]), Kind::Integer, MAYBE),
            Datum::Set(vec![])
        );
        let row = "31507d34-600f-435c-ae77-46ac8b04969c";
        let reference = Atom::Reference(row.parse().unwrap());
        assert_eq!(
            read(&json!(["uuid", row]), Kind::Reference, MANY),
            Datum::Set(vec![reference.clone()])
        );
        assert_eq!(
            read(&json!(["map", [[3, ["uuid", row]]]]), Kind::ReferenceMap, MANY),
            Datum::Map(vec![(Atom::Integer(3), reference)])
        );
        assert_eq!(
            read(&json!(["set", ["b", "a", "b"]]), Kind::Text, MANY)
                .elements()
                .len(),
            2
        );
    }

    #[test]
    fn refuses_other_types_with_what_was_found() {
        for (value, kind) in [
            (json!("5"), Kind::Integer),
            (json!(5.5), Kind::Integer),
            (json!(u64::MAX), Kind::Integer),
            (json!(null), Kind::Text),
            (json!(["set", {}]), Kind::Text),
            (json!(["set", [["set", []]]]), Kind::Text),
            (json!(["set"]), Kind::Text),
            (json!(["uuid", "nonsense"]), Kind::Reference),
            (json!(["named-uuid", "row1"]), Kind::Reference),
            (json!(["map", [["a"]]]), Kind::TextMap),
            (json!(["map", [["a", "b"], ["a", "c"]]]), Kind::TextMap),
            (json!({}), Kind::TextMap),
        ] {
            assert!(Datum::parse(&value, kind, MANY).is_err(), "{value}");
        }
        let error = Datum::parse(&json!(["set", [1, 2]]), Kind::Integer, MAYBE).unwrap_err();
        assert_eq!(error, ValueError::TooMany { found: 2 });
        let error = Datum::parse(&json!("x"), Kind::Integer, ONE).unwrap_err();
        assert_eq!(error.to_string(), "expected integer, found string \"x\"");
    }

    #[test]
    fn defaults_follow_the_schema() {
        assert_eq!(
            Datum::default_of(Kind::Boolean, ONE),
            Datum::Set(vec![Atom::Boolean(false)])
        );
        assert_eq!(Datum::default_of(Kind::Text, MAYBE), Datum::Set(vec![]));
        assert_eq!(Datum::default_of(Kind::TextMap, MANY), Datum::Map(vec![]));
    }

    #[test]
    fn a_single_value_is_replaced_and_never_toggled() {
        let mut tag = read(&json!(5), Kind::Integer, MAYBE);
        tag.apply_difference(read(&json!(7), Kind::Integer, MAYBE), MAYBE);
        assert_eq!(tag, Datum::Set(vec![Atom::Integer(7)]));
        tag.apply_difference(read(&json!(7), Kind::Integer, MAYBE), MAYBE);
        assert_eq!(tag, Datum::Set(vec![Atom::Integer(7)]));
    }

    fn set(elements: &std::collections::BTreeSet<i64>) -> Datum {
        Datum::Set(elements.iter().copied().map(Atom::Integer).collect())
    }

    fn map(pairs: &std::collections::BTreeMap<String, String>) -> Datum {
        let atom = |text: &String| Atom::Text(text.as_str().into());
        Datum::Map(
            pairs
                .iter()
                .map(|(key, value)| (atom(key), atom(value)))
                .collect(),
        )
    }

    proptest! {
        #[test]
        fn difference_of_two_sets_leads_from_one_to_the_other(
            old in prop::collection::btree_set(0_i64..12, 0..8),
            new in prop::collection::btree_set(0_i64..12, 0..8),
        ) {
            let mut datum = set(&old);
            datum.apply_difference(set(&old.symmetric_difference(&new).copied().collect()), MANY);
            prop_assert_eq!(datum, set(&new));
        }

        #[test]
        fn difference_of_two_maps_leads_from_one_to_the_other(
            old in prop::collection::btree_map("[a-e]", "[xy]", 0..5),
            new in prop::collection::btree_map("[a-e]", "[xy]", 0..5),
        ) {
            let gone = old.iter().filter(|(key, _)| !new.contains_key(*key));
            let changed = new.iter().filter(|(key, value)| old.get(*key) != Some(value));
            let difference = gone.chain(changed).map(|(key, value)| (key.clone(), value.clone())).collect();
            let mut datum = map(&old);
            datum.apply_difference(map(&difference), MANY);
            prop_assert_eq!(datum, map(&new));
        }
    }
}
