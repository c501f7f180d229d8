//! Colour on a terminal, and text that stays on its line.

use std::{env, ffi::OsStr, io::IsTerminal};

/// A colour, or a weight.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Ink {
    /// For what is well.
    Green,
    /// For what is not.
    Yellow,
    /// For what is wrong.
    Red,
    /// For what is in the wrong place.
    Magenta,
    /// For what is beyond the ends.
    Cyan,
    /// For what nobody keeps.
    Blue,
    /// For what has to be noticed.
    Bold,
    /// For what may be passed over.
    Faint,
}

/// Whether a stream is a terminal that can do more than add lines.
pub(crate) fn is_terminal(stream: &impl IsTerminal) -> bool {
    stream.is_terminal() && !is_dumb(env::var_os("TERM").as_deref())
}

fn is_dumb(term: Option<&OsStr>) -> bool {
    term.is_some_and(|term| term == "dumb")
}

/// Whether a stream shows colours: such a terminal, unless `NO_COLOR` is set.
pub(crate) fn has_colour(stream: &impl IsTerminal) -> bool {
    is_terminal(stream) && env::var_os("NO_COLOR").is_none_or(|value| value.is_empty())
}

/// The text in a colour, where there are colours.
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

/// The text without anything that would move the cursor: it may come from the data.
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
