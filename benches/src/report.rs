//! Tables for people, and the same as data.

use std::time::Duration;

use comfy_table::{CellAlignment, Table, presets};
use serde::Serialize;

use crate::machine::{Machine, load};

/// Everything of one run.
#[derive(Debug, Serialize)]
pub struct Report {
    pub machine: Machine,
    pub sections: Vec<Section>,
    /// Load averages at the end.
    pub load_at_the_end: String,
}

impl Report {
    /// An empty one about this machine.
    pub fn begin() -> Self {
        Report {
            machine: Machine::look(),
            sections: Vec::new(),
            load_at_the_end: String::new(),
        }
    }

    /// Prints a section and keeps it.
    pub fn add(&mut self, section: Section) {
        println!("{section}");
        self.load_at_the_end = load();
        self.sections.push(section);
    }
}

/// One table: what was measured, how, and the figures.
#[derive(Debug, Clone, Serialize)]
pub struct Section {
    pub title: String,
    /// How, and what has to be known to read it; a line each.
    pub notes: Vec<String>,
    /// Names of the columns.
    pub columns: Vec<String>,
    /// The rows, as they are shown.
    pub rows: Vec<Vec<String>>,
    /// The figures by name, in the unit that the name ends with.
    pub figures: serde_json::Map<String, serde_json::Value>,
}

impl Section {
    /// A table without rows yet.
    pub fn new(title: impl Into<String>, columns: &[&str]) -> Self {
        Section {
            title: title.into(),
            notes: Vec::new(),
            columns: columns.iter().map(ToString::to_string).collect(),
            rows: Vec::new(),
            figures: serde_json::Map::new(),
        }
    }

    /// Adds a line on how it was measured.
    pub fn note(&mut self, text: impl Into<String>) {
        self.notes.push(text.into());
    }

    pub fn row(&mut self, cells: impl IntoIterator<Item = String>) {
        self.rows.push(cells.into_iter().collect());
    }

    pub fn figure(&mut self, name: impl Into<String>, value: impl Into<serde_json::Value>) {
        self.figures.insert(name.into(), value.into());
    }

    /// Adds a row of p50, p99 and max, and the same as figures in milliseconds.
    pub fn quantiles(&mut self, name: &str, times: &mut Times) {
        let [p50, p99, max] = [times.quantile(0.5), times.quantile(0.99), times.quantile(1.0)];
        self.row([name.to_string(), ms(p50), ms(p99), ms(max)]);
        for (which, time) in [("p50", p50), ("p99", p99), ("max", max)] {
            self.figure(format!("{name}, {which}, ms"), time.as_secs_f64() * 1e3);
        }
    }
}

impl std::fmt::Display for Section {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        writeln!(f, "\n== {}", self.title)?;
        for note in &self.notes {
            writeln!(f, "   {note}")?;
        }
        write!(f, "{}", table(&self.columns, &self.rows))
    }
}

/// A table whose first column is text and whose others are numbers.
pub fn table(columns: &[String], rows: &[Vec<String>]) -> Table {
    let mut table = Table::new();
    table
        .load_style(presets::ASCII_MARKDOWN)
        .force_no_tty()
        .set_header(columns);
    table.add_rows(rows);
    for column in table.column_iter_mut().skip(1) {
        column.set_cell_alignment(CellAlignment::Right);
    }
    table
}

/// Times of one thing.
#[derive(Debug, Clone, Default)]
pub struct Times(Vec<Duration>);

impl Times {
    pub fn push(&mut self, time: Duration) {
        self.0.push(time);
    }

    /// The time that the share `q` of them does not exceed (nearest rank); zero when there are none.
    pub fn quantile(&mut self, q: f64) -> Duration {
        self.0.sort_unstable();
        // The share of a count: never negative, never above it.
        let rank = (q * self.0.len() as f64).ceil() as usize;
        self.0.get(rank.max(1) - 1).copied().unwrap_or_default()
    }

    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

impl Extend<Duration> for Times {
    fn extend<T: IntoIterator<Item = Duration>>(&mut self, times: T) {
        self.0.extend(times);
    }
}

impl IntoIterator for Times {
    type Item = Duration;
    type IntoIter = std::vec::IntoIter<Duration>;

    fn into_iter(self) -> Self::IntoIter {
        self.0.into_iter()
    }
}

/// The middle of some numbers, the mean of the two middle ones when there is no middle; 0 without any.
pub fn median(numbers: &[f64]) -> f64 {
    let mut sorted = numbers.to_vec();
    sorted.sort_unstable_by(f64::total_cmp);
    let middle = sorted.len() / 2;
    match (sorted.get(middle.wrapping_sub(1)), sorted.get(middle)) {
        (Some(below), Some(above)) if sorted.len().is_multiple_of(2) => (below + above) / 2.0,
        (_, Some(middle)) => *middle,
        _ => 0.0,
    }
}

/// Milliseconds with two digits behind the point.
pub fn ms(time: Duration) -> String {
    format!("{:.2}", time.as_secs_f64() * 1e3)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantiles_are_nearest_rank() {
        let mut times = Times::default();
        assert_eq!(times.quantile(0.5), Duration::ZERO);
        (1..=100).rev().for_each(|n| times.push(Duration::from_millis(n)));
        assert_eq!(times.quantile(0.5), Duration::from_millis(50));
        assert_eq!(times.quantile(0.99), Duration::from_millis(99));
        assert_eq!(times.quantile(1.0), Duration::from_millis(100));
        assert_eq!(times.quantile(0.0), Duration::from_millis(1));
    }

    #[test]
    fn medians() {
        for (numbers, expected) in [
            (&[][..], 0.0),
            (&[3.0], 3.0),
            (&[9.0, 1.0], 5.0),
            (&[9.0, 1.0, 2.0], 2.0),
        ] {
            assert!((median(numbers) - expected).abs() < 1e-9, "{numbers:?}");
        }
    }
}
