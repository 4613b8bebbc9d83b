//! Plain tables: columns two blanks apart, no lines, numbers aligned right.

use comfy_table::{Cell, CellAlignment, ColumnConstraint, ContentArrangement, Table, presets};

use portcullis_policy::text::plain;

const GAP: u16 = 2;
/// Columns up to this width are names and numbers, which are not broken while prose has room.
const NAME: u16 = 24;
/// Room for prose, in columns.
const PROSE: u16 = 16;

/// A table in the making.
#[derive(Debug)]
pub struct Grid {
    table: Table,
    right: Vec<bool>,
}

impl Grid {
    /// With these columns; a name that begins with `#` is a column of numbers.
    pub fn new(columns: &[&str]) -> Self {
        let right: Vec<bool> = columns.iter().map(|c| c.starts_with('#')).collect();
        let mut table = Table::new();
        table.load_style(presets::NOTHING).force_no_tty();
        let names = columns.iter().map(|c| c.trim_start_matches('#'));
        table.set_header(cells(names.map(str::to_string), &right));
        Grid { table, right }
    }

    /// Adds a row; empty cells are shown as `-`.
    pub fn row(&mut self, row: impl IntoIterator<Item = String>) {
        self.table.add_row(cells(row.into_iter(), &self.right));
    }

    /// Whether it has no row.
    pub fn is_empty(&self) -> bool {
        self.table.is_empty()
    }

    /// The table, a newline behind every line; nothing when it has no row.
    pub fn text(mut self, width: Option<u16>) -> String {
        if self.is_empty() {
            return String::new();
        }
        self.table.column_iter_mut().for_each(|column| {
            column.set_padding((0, GAP));
        });
        if let Some(width) = width {
            self.table
                .set_width(width)
                .set_content_arrangement(ContentArrangement::Dynamic);
            self.keep_names(width);
        }
        self.table
            .lines()
            .map(|line| format!("{}\n", line.trim_end()))
            .collect()
    }

    /// Lets only columns of prose give way, when that is enough.
    fn keep_names(&mut self, width: u16) {
        let widths = self.table.column_max_content_widths();
        let least: u16 = widths
            .iter()
            .map(|w| GAP + if *w <= NAME { *w } else { PROSE })
            .sum();
        if least > width {
            return;
        }
        for (column, _) in self
            .table
            .column_iter_mut()
            .zip(&widths)
            .filter(|(_, w)| **w <= NAME)
        {
            column.set_constraint(ColumnConstraint::ContentWidth);
        }
    }
}

fn cells(row: impl Iterator<Item = String>, right: &[bool]) -> Vec<Cell> {
    row.zip(right)
        .map(|(text, right)| {
            let text = match text.as_str() {
                "" => "-".to_string(),
                text => plain(text).into_owned(),
            };
            let align = if *right {
                CellAlignment::Right
            } else {
                CellAlignment::Left
            };
            Cell::new(text).set_alignment(align)
        })
        .collect()
}

/// Names and values below each other, each value on one line; pairs without a value are left out.
pub fn facts(pairs: &[(&str, String)]) -> String {
    let shown = pairs.iter().filter(|(_, value)| !value.is_empty());
    let wide = shown.clone().map(|(name, _)| name.len()).max().unwrap_or(0);
    shown
        .map(|(name, value)| format!("{name:wide$}  {}\n", plain(value)))
        .collect()
}
