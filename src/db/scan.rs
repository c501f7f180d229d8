//! Scanning SQL text, from definitions and as stored by the database: where quotes and comments begin and end, and
//! which tables are written to. Pure.
//!
//! This is not a SQL parser. MySQL (MariaDB included) and SQLite read some text differently: text written for one of
//! them is scanned with its dialect, text for both with none.

use super::Dialect;

/// What kind of token a piece of SQL text is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Piece {
    /// White space.
    Space,
    /// A comment, without the end of its line.
    Comment,
    /// A string in single quotes.
    Text,
    /// A quoted name. In MySQL, double quotes enclose a string, unless ANSI_QUOTES is on.
    Name,
    /// A keyword, a name or a number.
    Word,
    /// Punctuation: one character, or a two-character comparison.
    Sign,
    /// A quote or a comment that is not closed.
    Unclosed,
}

/// The token at the beginning of a text, and its length in bytes; `None` at the end.
///
/// Without a dialect, dashes always begin a comment, and a backslash in quotes is an ordinary character.
pub(crate) fn piece(text: &str, dialect: Option<Dialect>) -> Option<(Piece, usize)> {
    let first = text.chars().next()?;
    let is_mysql = dialect == Some(Dialect::MySql);
    let all_of = |fits: fn(char) -> bool| text.find(|c| !fits(c)).unwrap_or(text.len());
    let closed = |piece, end: Option<usize>| end.map_or((Piece::Unclosed, text.len()), |end| (piece, end));
    Some(match first {
        // Not followed by white space, dashes are signs on MySQL: 5--1 is 6.
        '-' if text.starts_with("--") && !(is_mysql && text[2..].starts_with(|c: char| c > ' ')) => {
            (Piece::Comment, all_of(|c| c != '\n'))
        }
        '#' => (Piece::Comment, all_of(|c| c != '\n')),
        '/' if text.starts_with("/*") => match is_mysql.then(|| conditional(text)).flatten() {
            Some(marker) => (Piece::Comment, marker),
            None => closed(Piece::Comment, text[2..].find("*/").map(|end| end + 4)),
        },
        '\'' => closed(Piece::Text, quoted(text, first, is_mysql)),
        '"' => closed(Piece::Name, quoted(text, first, is_mysql)),
        '`' => closed(Piece::Name, quoted(text, first, false)),
        '[' if dialect == Some(Dialect::Sqlite) => closed(Piece::Name, text.find(']').map(|end| end + 1)),
        c if is_word(c) => (Piece::Word, all_of(is_word)),
        c if c.is_whitespace() => (Piece::Space, all_of(char::is_whitespace)),
        '<' | '>' | '!' if text[1..].starts_with(['=', '>']) => (Piece::Sign, 2),
        c => (Piece::Sign, c.len_utf8()),
    })
}

fn is_word(c: char) -> bool {
    c.is_alphanumeric() || c == '_'
}

/// Where a quoted text that begins here ends; a doubled quote stands for one inside.
fn quoted(text: &str, quote: char, has_escapes: bool) -> Option<usize> {
    let mut chars = text.char_indices().skip(1).peekable();
    while let Some((at, c)) = chars.next() {
        if c == '\\' && has_escapes {
            chars.next();
        } else if c == quote && chars.next_if(|(_, next)| *next == quote).is_none() {
            return Some(at + 1);
        }
    }
    None
}

/// The length of `/*!50003 ` or `/*M!100100 `: what follows, up to the end of that comment, is executed.
fn conditional(text: &str) -> Option<usize> {
    let rest = text[2..].trim_start_matches('M').strip_prefix('!')?;
    Some(text.len() - rest.trim_start_matches(|c: char| c.is_ascii_digit()).len())
}

/// Words, quoted names without their quotes, and punctuation; comments and strings are left out.
///
/// Text after an unclosed quote is scanned too. The database does not execute it, but seeing a write where there is
/// none is better than missing one.
pub(crate) fn tokens(text: &str, dialect: Option<Dialect>) -> Vec<String> {
    let mut tokens = Vec::new();
    let mut rest = text;
    while let Some((piece, length)) = piece(rest, dialect) {
        let is_open_quote = piece == Piece::Unclosed && !rest.starts_with('/');
        let (this, behind) = rest.split_at(if is_open_quote { 1 } else { length });
        match piece {
            Piece::Name => tokens.push(unquoted(this)),
            Piece::Word | Piece::Sign => tokens.push(this.to_owned()),
            Piece::Space | Piece::Comment | Piece::Text | Piece::Unclosed => {}
        }
        rest = behind;
    }
    tokens
}

fn unquoted(name: &str) -> String {
    let (quote, inner) = (&name[..1], &name[1..name.len() - 1]);
    inner.replace(&quote.repeat(2), quote)
}

/// Whether a text inserts into a table, updates it, or deletes from it.
pub(crate) fn writes(tokens: &[String], table: &str) -> bool {
    const BETWEEN: &[&str] = &[
        "INTO",
        "FROM",
        "IGNORE",
        "LOW_PRIORITY",
        "HIGH_PRIORITY",
        "DELAYED",
        "QUICK",
        "OR",
        "ABORT",
        "FAIL",
        "ROLLBACK",
    ];
    tokens.iter().enumerate().filter(|(_, token)| token.eq_ignore_ascii_case(table)).any(|(at, _)| {
        let mut before = tokens[..at].iter().rev().peekable();
        if before.next_if(|token| *token == ".").is_some() {
            before.next();
        }
        let verb = before.find(|token| !BETWEEN.iter().any(|word| token.eq_ignore_ascii_case(word)));
        verb.is_some_and(|verb| {
            ["INSERT", "REPLACE", "UPDATE", "DELETE"].iter().any(|word| verb.eq_ignore_ascii_case(word))
        })
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const MYSQL: Option<Dialect> = Some(Dialect::MySql);
    const SQLITE: Option<Dialect> = Some(Dialect::Sqlite);

    fn read(text: &str, dialect: Option<Dialect>) -> String {
        tokens(text, dialect).join(" ")
    }

    #[test]
    fn a_backslash_takes_the_next_character_on_mysql() {
        assert_eq!(read(r"SET @x = 'it\'s'; UPDATE s", MYSQL), "SET @ x = ; UPDATE s");
        assert_eq!(read(r#"SET @x = "it\"s"; UPDATE s"#, MYSQL), r#"SET @ x = it\"s ; UPDATE s"#);
        assert_eq!(read(r"SET @x = 'C:\\'; UPDATE s", MYSQL), "SET @ x = ; UPDATE s");
        assert_eq!(read(r"SELECT `a\`, b", MYSQL), r"SELECT a\ , b");
        assert_eq!(read(r"SELECT 'C:\', b -- 'c", SQLITE), "SELECT , b");
    }

    #[test]
    fn a_doubled_quote_is_one_of_the_text() {
        for dialect in [MYSQL, SQLITE, None] {
            assert_eq!(read("SELECT 'it''s', \"a\"\"b\", `c``d`", dialect), "SELECT , a\"b , c`d");
            assert_eq!(read("SELECT '', x, 'open; UPDATE s /* t", dialect), "SELECT , x , open ; UPDATE s");
        }
        assert_eq!(read("UPDATE [s] SET n = 1", SQLITE), "UPDATE s SET n = 1");
    }

    #[test]
    fn comments_are_what_the_database_takes_for_one() {
        for dialect in [MYSQL, SQLITE, None] {
            assert_eq!(read("a -- it's\nb /* 'c */ d # \"e\nf /*/ g */ h --", dialect), "a b d f h");
            assert_eq!(read("'-- a' '/* b' c", dialect), "c");
        }
        assert_eq!(read("5--1", MYSQL), "5 - - 1");
        assert_eq!(read("5--1", SQLITE), "5");
        for text in ["/*!50003 UPDATE s */", "/*! UPDATE s */", "/*M!100100 UPDATE s */"] {
            assert_eq!(read(text, MYSQL), "UPDATE s * /");
            assert_eq!(read(text, None), "");
        }
    }

    #[test]
    fn only_writes_count() {
        let writes_summary = |body: &str| writes(&tokens(body, MYSQL), "summary");
        for body in [
            "BEGIN INSERT INTO summary (a) VALUES (1); END",
            "insert ignore into lab.`summary` select 1",
            "UPDATE summary SET n = n - 1",
            "BEGIN IF 1 THEN DELETE FROM summary WHERE a = 1; END IF; END",
            "REPLACE summary VALUES (1)",
            "INSERT OR REPLACE INTO summary VALUES (1)",
            r"BEGIN SET @x = 'it\'s'; UPDATE summary SET n = 1; END",
        ] {
            assert!(writes_summary(body), "{body}");
        }
        for body in [
            "SELECT n FROM summary",
            "INSERT INTO other SELECT n FROM summary",
            "INSERT INTO daymend_dirty VALUES (NEW.id) -- UPDATE summary",
            "INSERT INTO log VALUES ('UPDATE summary')",
            r"INSERT INTO log VALUES ('it\'s', 'UPDATE summary')",
            "UPDATE summary_old SET n = 1",
        ] {
            assert!(!writes_summary(body), "{body}");
        }
    }
}
