//! The two directions of a port's packets, and values that exist once for each.

use std::fmt;
use std::ops::{Index, IndexMut};
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::types::ParseError;

/// Seen from the endpoint: `egress` is what it sends, `ingress` what it is sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Direction {
    /// What the endpoint sends.
    Egress,
    /// What the endpoint receives.
    Ingress,
}

impl Direction {
    /// Both directions, egress first: the order in which a packet meets them.
    pub const BOTH: [Direction; 2] = [Direction::Egress, Direction::Ingress];

    /// Ingress for egress, and the other way round.
    pub fn opposite(self) -> Self {
        match self {
            Direction::Egress => Direction::Ingress,
            Direction::Ingress => Direction::Egress,
        }
    }
}

impl fmt::Display for Direction {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Direction::Egress => "egress",
            Direction::Ingress => "ingress",
        })
    }
}

impl FromStr for Direction {
    type Err = ParseError;
    fn from_str(s: &str) -> Result<Self, ParseError> {
        match s {
            "egress" => Ok(Direction::Egress),
            "ingress" => Ok(Direction::Ingress),
            _ => Err(ParseError(format!(
                "`{s}` is not a direction: write egress or ingress"
            ))),
        }
    }
}

/// One value for each [`Direction`]. Indexed by direction; iteration yields egress first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct PerDirection<T> {
    /// For what endpoints send.
    pub egress: T,
    /// For what endpoints are sent.
    pub ingress: T,
}

impl<T> PerDirection<T> {
    /// What `make` returns for each direction; called for egress first.
    pub fn from_fn(mut make: impl FnMut(Direction) -> T) -> Self {
        PerDirection {
            egress: make(Direction::Egress),
            ingress: make(Direction::Ingress),
        }
    }

    /// References to both values.
    pub fn as_ref(&self) -> PerDirection<&T> {
        PerDirection {
            egress: &self.egress,
            ingress: &self.ingress,
        }
    }

    /// Both values through a function; called for egress first.
    pub fn map<U>(self, mut through: impl FnMut(T) -> U) -> PerDirection<U> {
        PerDirection {
            egress: through(self.egress),
            ingress: through(self.ingress),
        }
    }

    /// Each value with the other's value of the same direction.
    pub fn zip<U>(self, other: PerDirection<U>) -> PerDirection<(T, U)> {
        PerDirection {
            egress: (self.egress, other.egress),
            ingress: (self.ingress, other.ingress),
        }
    }

    /// References to both values, egress first.
    pub fn iter(&self) -> std::array::IntoIter<&T, 2> {
        self.as_ref().into_iter()
    }

    /// Each direction with its value, egress first.
    pub fn each(self) -> std::array::IntoIter<(Direction, T), 2> {
        [
            (Direction::Egress, self.egress),
            (Direction::Ingress, self.ingress),
        ]
        .into_iter()
    }
}

impl<T> Index<Direction> for PerDirection<T> {
    type Output = T;
    fn index(&self, direction: Direction) -> &T {
        match direction {
            Direction::Egress => &self.egress,
            Direction::Ingress => &self.ingress,
        }
    }
}

impl<T> IndexMut<Direction> for PerDirection<T> {
    fn index_mut(&mut self, direction: Direction) -> &mut T {
        match direction {
            Direction::Egress => &mut self.egress,
            Direction::Ingress => &mut self.ingress,
        }
    }
}

impl<T> IntoIterator for PerDirection<T> {
    type Item = T;
    type IntoIter = std::array::IntoIter<T, 2>;
    fn into_iter(self) -> Self::IntoIter {
        [self.egress, self.ingress].into_iter()
    }
}

impl<'a, T> IntoIterator for &'a PerDirection<T> {
    type Item = &'a T;
    type IntoIter = std::array::IntoIter<&'a T, 2>;
    fn into_iter(self) -> Self::IntoIter {
        self.iter()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_keep_their_direction() {
        let mut pair = PerDirection::from_fn(|direction| direction.to_string());
        assert_eq!(
            (pair.egress.as_str(), pair.ingress.as_str()),
            ("egress", "ingress")
        );
        for direction in Direction::BOTH {
            assert_eq!(pair[direction], direction.to_string());
            pair[direction].push('!');
        }
        let lengths = pair.as_ref().map(String::len);
        assert_eq!(pair.iter().collect::<Vec<_>>(), ["egress!", "ingress!"]);
        assert_eq!(
            lengths.each().collect::<Vec<_>>(),
            [(Direction::Egress, 7), (Direction::Ingress, 8)]
        );
        let zipped = pair.zip(lengths).into_iter().collect::<Vec<_>>();
        assert_eq!(zipped, [("egress!".to_string(), 7), ("ingress!".to_string(), 8)]);
    }
}
