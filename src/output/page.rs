//! Colour on a terminal, and text that stays on one line.

use std::{env, ffi::OsStr, io::IsTerminal};

/// A colour or a weight.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Ink {
    /// For good values.
    Green,
    /// For values that are not as they should be.
    Yellow,
    /// For wrong values.
    Red,
    /// For values in the wrong place.
    Magenta,
    /// For values out of range.
    Cyan,
    /// For values that nobody maintains.
    Blue,
    /// For emphasis.
    Bold,
    /// For details.
    Faint,
}

/// Whether a stream is a terminal that can do more than append lines.
pub(crate) fn is_terminal(stream: &impl IsTerminal) -> bool {
    stream.is_terminal() && !is_dumb(env::var_os("TERM").as_deref())
}

fn is_dumb(term: Option<&OsStr>) -> bool {
    term.is_some_and(|term| term == "dumb")
}

/// Whether a stream shows colours: it is a terminal in the sense of [`is_terminal`], and `NO_COLOR` is unset or empty.
pub(crate) fn has_colour(stream: &impl IsTerminal) -> bool {
    is_terminal(stream) && env::var_os("NO_COLOR").is_none_or(|value| value.is_empty())
}

/// The text in a colour, if `colour` is set.
pub(crate) fn paint(text: &str, ink: Ink, colour: bool) -> String {
    let code = match ink {
        Ink::Green => 32,
        Ink::Yellow => 33,
        Ink::Red => 31,
        Ink::Magenta => 35,
        Ink::Cyan => 36,
        Ink::Blue => 34,
        Ink::Bold => 1,
        Ink::Faint => 2,
    };
    if colour { format!("\u{1b}[{code}m{text}\u{1b}[0m") } else { text.to_owned() }
}

/// The text with control characters replaced by spaces: it may come from the data, and must not move the cursor.
pub(crate) fn one_line(text: &str) -> String {
    text.chars().map(|c| if c.is_control() { ' ' } else { c }).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn data_stays_on_its_line_and_in_its_colour() {
        assert_eq!(one_line("a\nb\u{1b}[31mc"), "a b [31mc");
        assert_eq!(paint("a", Ink::Red, true), "\u{1b}[31ma\u{1b}[0m");
        assert_eq!(paint("a", Ink::Red, false), "a");
    }
}
