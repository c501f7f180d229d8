//! Tables for people.
//!
//! Only free text (an error, a reason) may wrap over several lines. If a table is wider than the terminal, headings
//! are shortened first, then the columns of free text; if that would leave them too narrow to read, their content is
//! printed below its row.

use std::{borrow::Cow, fmt};

use chrono::{DateTime, Utc};
use comfy_table::{Cell, CellAlignment, ColumnConstraint, ContentArrangement, Row, Table, Width, presets};
use console::measure_text_width;
use textwrap::{Options, WordSplitter};

/// The minimum width of a column of free text.
const TEXT_MIN: usize = 24;

/// The width of what separates two columns, and of the padding to the left of each in a narrow table.
const SEPARATOR: usize = 1;
const PADDING: usize = 1;

/// The indentation of free text below its row.
const INDENT: &str = "      ";

/// A table, printed no wider than the terminal.
#[derive(Debug)]
pub(crate) struct Listing {
    table: Table,
    /// Which columns are free text.
    is_text: Vec<bool>,
}

/// A table with these headings; a leading `>` aligns the column to the right, a leading `~` marks it as free text.
pub(crate) fn table(headings: &[&str]) -> Listing {
    let mut table = Table::new();
    table
        .load_style(presets::UTF8_BORDERS_ONLY)
        .set_content_arrangement(ContentArrangement::Dynamic)
        .set_header(headings.iter().map(|heading| Cell::new(heading.trim_start_matches(['>', '~']))));
    for (index, heading) in headings.iter().enumerate() {
        if heading.starts_with('>')
            && let Some(column) = table.column_mut(index)
        {
            column.set_cell_alignment(CellAlignment::Right);
        }
    }
    Listing { table, is_text: headings.iter().map(|heading| heading.starts_with('~')).collect() }
}

impl Listing {
    pub(crate) fn add_row(&mut self, row: impl Into<Row>) -> &mut Self {
        self.table.add_row(row);
        self
    }

    /// The width that each column needs, so that nothing in it breaks except its heading, between two words.
    fn widths(&self) -> Vec<usize> {
        let wanted = |index| {
            let cells = self.table.column_cells_iter(index).flatten();
            let words = self.table.header().into_iter().flat_map(|heading| heading.cell_iter().nth(index));
            let words =
                words.flat_map(|heading| heading.content().split(' ').map(measure_text_width).collect::<Vec<_>>());
            cells.map(|cell| measure_text_width(&cell.content())).chain(words).max().unwrap_or_default()
        };
        (0..self.is_text.len()).map(|index| wanted(index) + PADDING + SEPARATOR).collect()
    }

    /// The table for a terminal that is too narrow for it.
    fn narrow(&self, width: usize) -> String {
        let widths = self.widths();
        let fixed: usize =
            widths.iter().zip(&self.is_text).filter(|(_, is_text)| !**is_text).map(|(width, _)| width).sum();
        let texts = self.is_text.iter().filter(|is_text| **is_text).count();
        let is_below = texts > 0 && fixed + 2 + texts * (TEXT_MIN + PADDING + SEPARATOR) > width;
        let mut table = self.table.clone();
        table.set_width(u16::try_from(width).unwrap_or(u16::MAX));
        let last = self.is_text.iter().rposition(|is_text| !(*is_text && is_below));
        for (index, ((column, width), is_text)) in table.column_iter_mut().zip(widths).zip(&self.is_text).enumerate() {
            let right = usize::from(Some(index) == last);
            column.set_padding((1, u16::from(right > 0)));
            match (is_text, is_below) {
                (false, _) => {
                    let width = Width::Fixed(u16::try_from(width - SEPARATOR + right).unwrap_or(u16::MAX));
                    column.set_constraint(ColumnConstraint::Absolute(width));
                }
                (true, true) => {
                    column.set_constraint(ColumnConstraint::Hidden);
                }
                (true, false) => {}
            }
        }
        if !is_below {
            return table.to_string();
        }
        let mut lines: Vec<String> = table.lines().collect();
        let last = lines.pop();
        // Each row is one line: nothing in it breaks.
        let rows = lines.split_off(lines.len().saturating_sub(self.table.row_count()));
        for (line, row) in rows.into_iter().zip(self.table.row_iter()) {
            lines.push(line);
            let cells = row.cell_iter().zip(&self.is_text).filter(|(_, is_text)| **is_text);
            for text in cells.map(|(cell, _)| cell.content()).filter(|text| text != "-") {
                lines.extend(wrapped(&text, width.saturating_sub(INDENT.len() + 2)));
            }
        }
        lines.extend(last);
        lines.join("\n")
    }

    fn text(&self, width: Option<u16>) -> String {
        let widths = self.table.column_max_content_widths();
        // Each column has a blank on either side.
        let natural: usize = widths.iter().map(|width| usize::from(*width) + 2 + SEPARATOR).sum();
        match width {
            Some(width) if natural + 1 > usize::from(width) => self.narrow(usize::from(width)),
            _ => self.table.to_string(),
        }
    }
}

impl fmt::Display for Listing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text(self.table.width()))
    }
}

/// Breaks a text into lines of at most `width` columns; a longer word is cut.
fn wrapped(text: &str, width: usize) -> Vec<String> {
    let begin = format!("│{INDENT}");
    let options = Options::new(width.max(TEXT_MIN) + measure_text_width(&begin))
        .word_splitter(WordSplitter::NoHyphenation)
        .initial_indent(&begin)
        .subsequent_indent(&begin);
    textwrap::wrap(text, options).into_iter().map(Cow::into_owned).collect()
}

/// The value as text, or a dash if there is none.
pub(crate) fn or_dash(value: Option<impl ToString>) -> String {
    value.map_or_else(|| "-".to_owned(), |value| value.to_string())
}

/// A time, to the second.
pub(crate) fn time(at: DateTime<Utc>) -> String {
    at.format("%Y-%m-%d %H:%M:%S").to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    const ERROR: &str = "table billing: no such column: a_name_that_is_long_enough_to_break in the SELECT of bills.sql";

    fn jobs() -> (Listing, Vec<&'static str>) {
        let fixed =
            vec!["8388609", "nightly", "available (due 2026-06-15 12:00:00)", "2026-06-14", "1/5", "Asia/Kolkata"];
        let mut table = table(&[">job", "kind", "state", "day", ">rows written", "zone", "~error"]);
        table.add_row([&fixed[..], &[ERROR]].concat());
        table.add_row([&fixed[..], &["-"]].concat());
        (table, fixed)
    }

    #[test]
    fn only_free_text_takes_several_lines() {
        let (table, fixed) = jobs();
        assert!(table.text(None).contains(ERROR), "nobody says how wide it may be");
        for width in [40, 80, 120, 140] {
            let text = table.text(Some(width));
            for cell in &fixed {
                assert_eq!(text.matches(cell).count(), 2, "{cell} at {width}:\n{text}");
            }
            let words = |text: &str| text.split(['│', ' ', '\n']).collect::<Vec<_>>().concat();
            assert!(width > 100 || words(&text).contains(&words(ERROR)), "{text}");
            let errors = text.lines().filter(|line| !line.contains("8388609")).map(measure_text_width);
            assert!(width < 120 || errors.max() <= Some(usize::from(width)), "{text}");
        }
    }

    #[test]
    fn what_fits_eighty_columns_without_its_text_has_that_below() {
        let mut table =
            table(&[">run", "state", ">days", ">failed", ">rows written", "started (UTC)", ">took", "~reason"]);
        let reason = "nightly Asia/Kolkata 2026-06-14, and 7 days that were left";
        table.add_row(["12", "completed", "1095/1095", "0", "4711", "2026-06-15 04:00:01", "12.3 s", reason]);
        let text = table.text(Some(80));
        assert!(text.lines().all(|line| measure_text_width(line) <= 80), "{text}");
        assert!(text.contains(&format!("│      {reason}\n")), "{text}");
        assert!(text.contains("2026-06-15 04:00:01"), "{text}");
    }

    #[test]
    fn headings_give_way_before_anything_else_does() {
        let headings = ["table", ">restored", ">entered again", ">in quarantine", ">deferred", ">deleted on purpose"];
        let mut table = table(&headings);
        table.add_row(["crelio_data_migrations", "1928", "6", "12", "0", "1"]);
        let text = table.text(Some(80));
        assert!(text.lines().all(|line| measure_text_width(line) <= 80), "{text}");
        assert!(text.contains("crelio_data_migrations") && !text.contains("deleted on purpose"), "{text}");
    }

    #[test]
    fn text_is_wrapped_between_words_and_a_long_word_is_cut() {
        assert_eq!(wrapped("one two", 30), ["│      one two"]);
        let long = "x".repeat(70);
        let lines = wrapped(&format!("see {long} there"), 30).join("\n");
        assert!(lines.lines().all(|line| measure_text_width(line) <= 30 + 7), "{lines}");
        assert_eq!(lines.matches('x').count(), 70);
        // Letters that are two columns wide, and a word with hyphens.
        let lines = wrapped(&format!("{} historical-summary-of-a-lab", "検".repeat(40)), 30);
        assert!(lines.iter().all(|line| measure_text_width(line) <= 30 + 7), "{lines:?}");
        assert!(lines.iter().any(|line| line.contains("historical-summary-of-a-lab")), "{lines:?}");
    }
}
