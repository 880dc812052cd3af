//! Tables with aligned columns, as wide as the terminal allows.

use std::io::{self, Write};

use crate::style;

/// Space that a first column has in any case.
const FIRST_MIN: usize = 20;

/// A table with aligned columns: numbers and sizes to the right, words to the left.
pub(crate) struct Table {
    /// By column: whether it is aligned to the right.
    right: Vec<bool>,
    rows: Vec<Vec<String>>,
    /// Columns that may be left out where the terminal is narrow, the first one first.
    optional: Vec<usize>,
    /// Cells that should not be what they are: row and column.
    alarms: Vec<(usize, usize)>,
}

impl Table {
    /// A table with these headings; a heading that begins with `>` belongs to a column aligned to the right.
    pub(crate) fn new(headings: &[&str]) -> Self {
        let right = headings.iter().map(|heading| heading.starts_with('>')).collect();
        let first = headings.iter().map(|heading| heading.trim_start_matches('>').to_owned()).collect();
        Self { right, rows: vec![first], optional: Vec::new(), alarms: Vec::new() }
    }

    /// Lets columns go where the terminal is narrow, by their headings, the first one first; then the first column is
    /// shortened.
    pub(crate) fn fit(mut self, headings: &[&str]) -> Self {
        let first = self.rows.first();
        let column = |heading: &&str| first.and_then(|row| row.iter().position(|cell| cell == heading));
        self.optional = headings.iter().filter_map(column).collect();
        self
    }

    pub(crate) fn row(&mut self, cells: Vec<String>) {
        self.rows.push(cells);
    }

    /// Shows that a cell of the last row should not be what it is.
    pub(crate) fn alarm(&mut self, column: usize) {
        self.alarms.push((self.rows.len() - 1, column));
    }

    /// Writes all rows, indented by two; a row of empty headings is left out.
    pub(crate) fn write(&self, out: &mut dyn Write) -> io::Result<()> {
        self.write_within(out, style::width())
    }

    fn write_within(&self, out: &mut dyn Write, limit: Option<usize>) -> io::Result<()> {
        let width = |column: usize| {
            let cells = self.rows.iter().filter_map(|row| row.get(column));
            cells.map(|cell| cell.chars().count()).max().unwrap_or(0)
        };
        let mut widths: Vec<_> = (0..self.right.len()).map(width).collect();
        let mut shown = vec![true; widths.len()];
        let left_out = self.narrow(&mut widths, &mut shown, limit);
        for (number, row) in self.rows.iter().enumerate() {
            if row.iter().all(String::is_empty) {
                continue;
            }
            let mut line = String::new();
            // Space that follows only if something stands behind it.
            let mut owed = 0;
            for (column, (cell, width)) in row.iter().zip(&widths).enumerate().filter(|(at, _)| shown[*at]) {
                let cell = shortened(cell, *width);
                let space = width - cell.chars().count();
                let (before, behind) = if self.right[column] { (space, 0) } else { (0, space) };
                line.push_str(&" ".repeat(owed + 2));
                line.push_str(&" ".repeat(before));
                let look = if number == 0 {
                    Some(style::HEADING)
                } else {
                    self.alarms.contains(&(number, column)).then_some(style::ALARM)
                };
                match look.filter(|_| !cell.is_empty()) {
                    Some(look) => line.push_str(&style::paint(look, cell)),
                    None => line.push_str(&cell),
                }
                owed = behind;
            }
            writeln!(out, "{}", line.trim_end())?;
        }
        if !left_out.is_empty() {
            writeln!(out, "  not shown at this width: {}", left_out.join(", "))?;
        }
        Ok(())
    }

    /// Brings the table down to a width, if it is made for that, and names the columns that had to go.
    fn narrow(&self, widths: &mut [usize], shown: &mut [bool], limit: Option<usize>) -> Vec<&str> {
        let mut left_out = Vec::new();
        let Some(limit) = limit.filter(|_| !self.optional.is_empty()) else { return left_out };
        let total = |widths: &[usize], shown: &[bool]| -> usize {
            widths.iter().zip(shown).filter(|(_, shown)| **shown).map(|(width, _)| width + 2).sum()
        };
        let least = |widths: &[usize]| widths[0].min(FIRST_MIN);
        for &column in &self.optional {
            // The names give way first, down to what tells them apart.
            if total(widths, shown) - (widths[0] - least(widths)) <= limit {
                break;
            }
            shown[column] = false;
            left_out.push(self.rows[0][column].as_str());
        }
        let over = total(widths, shown).saturating_sub(limit);
        widths[0] = widths[0].saturating_sub(over).max(least(widths));
        left_out
    }
}

/// A cell that fits: the middle of a long one is left out.
fn shortened(cell: &str, width: usize) -> String {
    let length = cell.chars().count();
    if length <= width {
        return cell.to_owned();
    }
    let kept = width.saturating_sub(2);
    let (front, back) = (kept / 2, kept - kept / 2);
    let start: String = cell.chars().take(front).collect();
    let end: String = cell.chars().skip(length - back).collect();
    format!("{start}..{end}")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text(table: &Table, limit: Option<usize>) -> String {
        let mut out = Vec::new();
        table.write_within(&mut out, limit).unwrap();
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn columns_are_as_wide_as_their_widest_cell() {
        let mut table = Table::new(&["name", ">bytes"]);
        table.row(vec!["a".into(), "1,000".into()]);
        table.row(vec!["longer".into(), "7".into()]);
        assert_eq!(text(&table, None), "  name    bytes\n  a       1,000\n  longer      7\n");
        assert_eq!(text(&table, Some(5)), text(&table, None), "made for no width");
    }

    #[test]
    fn narrow_terminal_gets_shorter_names_and_then_fewer_columns() {
        let mut table = Table::new(&["name", ">mean", ">std"]).fit(&["mean", "std"]);
        table.row(vec!["model.layers.0.attention.weight".into(), "0.1".into(), "0.25".into()]);
        let wide =
            "  name                             mean   std\n  model.layers.0.attention.weight   0.1  0.25\n";
        assert_eq!(text(&table, Some(45)), wide);
        let seen = text(&table, Some(34));
        assert!(seen.contains("model.lay") && seen.lines().all(|line| line.len() <= 34), "{seen}");
        let seen = text(&table, Some(28));
        assert!(seen.contains("0.25") && !seen.contains("0.1"), "{seen}");
        assert!(seen.ends_with("not shown at this width: mean\n"), "{seen}");
    }
}
