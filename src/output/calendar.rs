//! A calendar in the terminal: one line per month, one cell per day.
//!
//! A cell is a letter, so that it can be read with and without colours; colours are used if standard output is a
//! terminal that supports them and `NO_COLOR` is not set.

use std::collections::BTreeMap;

use chrono::{Datelike, NaiveDate};

use super::page::{Ink, has_colour, paint};

/// A day without findings.
pub(crate) const RIGHT: Cell = Cell { letter: '·', ink: Ink::Green };

/// Up to how many months a calendar shows in full; a longer one only shows the months with a difference.
const MONTHS_IN_FULL: usize = 24;

/// How a day is shown.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Cell {
    pub(crate) letter: char,
    pub(crate) ink: Ink,
}

impl Cell {
    /// The letter, coloured if colours are on.
    pub(crate) fn styled(self) -> String {
        self.painted(has_colour(&std::io::stdout()))
    }

    fn painted(self, colour: bool) -> String {
        paint(self.letter.encode_utf8(&mut [0; 4]), self.ink, colour)
    }
}

/// The days of `ranges`, which must be in order: those in `special` as given there, the others as [`RIGHT`]. Days
/// outside the ranges are blank.
pub(crate) fn lines(ranges: &[(NaiveDate, NaiveDate)], special: &BTreeMap<NaiveDate, Cell>) -> Vec<String> {
    let mut months: BTreeMap<(i32, u32), Vec<Option<Cell>>> = BTreeMap::new();
    for (first, last) in ranges {
        for day in crate::calendar::dates(*first, *last) {
            let month = months.entry((day.year(), day.month())).or_insert_with(|| vec![None; 31]);
            month[day.day0() as usize] = Some(special.get(&day).copied().unwrap_or(RIGHT));
        }
    }
    let in_full = months.len() <= MONTHS_IN_FULL;
    let is_shown = |cells: &[Option<Cell>]| in_full || cells.iter().flatten().any(|cell| *cell != RIGHT);
    let mut lines = vec!["         1   5    10   15   20   25   30".to_owned()];
    let (mut left_out, colour) = (0, has_colour(&std::io::stdout()));
    for ((year, month), cells) in &months {
        if is_shown(cells) {
            let cells: String =
                cells.iter().map(|cell| cell.map_or(" ".to_owned(), |cell| cell.painted(colour))).collect();
            lines.push(format!("{year:04}-{month:02}  {}", cells.trim_end()));
        } else {
            left_out += 1;
        }
    }
    if left_out > 0 {
        lines.push(format!("and {left_out} month(s) without a difference"));
    }
    lines
}

#[cfg(test)]
mod tests {
    use super::*;

    fn date(text: &str) -> NaiveDate {
        text.parse().unwrap()
    }

    fn plain(lines: &[String]) -> Vec<String> {
        lines.iter().map(|line| console::strip_ansi_codes(line).into_owned()).collect()
    }

    #[test]
    fn each_day_has_its_cell() {
        let ghost = Cell { letter: 'g', ink: Ink::Red };
        let special = BTreeMap::from([(date("2026-02-28"), ghost), (date("2026-03-02"), ghost)]);
        let ranges = [(date("2026-02-26"), date("2026-03-03")), (date("2026-03-31"), date("2026-03-31"))];
        let lines = plain(&lines(&ranges, &special));
        assert_eq!(lines[0].find("30"), Some(9 + 29));
        assert_eq!(lines[1], format!("2026-02  {}··g", " ".repeat(25)));
        assert_eq!(lines[2], format!("2026-03  ·g·{}·", " ".repeat(27)));
    }

    #[test]
    fn of_ten_years_only_the_months_with_something_to_see_are_shown() {
        let missing = Cell { letter: 'm', ink: Ink::Yellow };
        let special = BTreeMap::from([(date("2020-07-04"), missing)]);
        let lines = plain(&lines(&[(date("2016-01-01"), date("2025-12-31"))], &special));
        assert_eq!(lines[1], format!("2020-07  ···m{}", "·".repeat(27)));
        assert_eq!(lines[2], "and 119 month(s) without a difference");
        assert_eq!(lines.len(), 3);
    }
}
