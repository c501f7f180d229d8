//! SELECTs with named parameters (`:lab_id`, `:from`, `:until`).
//!
//! The databases know only `?`; the names are found by reading the text once, past string
//! literals, quoted names and comments, so that a value is always bound and never pasted.

use crate::db::Arg;

/// A statement of a definition, ready to run.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NamedSql {
    /// The file it came from, for messages.
    pub file: String,
    /// The text with `?` in place of each parameter.
    pub text: String,
    /// The parameter of each `?`, in order.
    pub parameters: Vec<String>,
}

/// What is wrong with a statement, and on which line (from 1).
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Problem {
    pub(super) line: usize,
    pub(super) message: String,
}

impl NamedSql {
    /// The arguments in the order of the placeholders.
    ///
    /// `value` knows every parameter that [`NamedSql::parse`] was told to allow.
    #[must_use]
    pub fn bind(&self, value: impl Fn(&str) -> Arg) -> Vec<Arg> {
        self.parameters.iter().map(|name| value(name)).collect()
    }

    /// The tables that it reads: what stands behind FROM and JOIN.
    #[must_use]
    pub fn tables(&self) -> Vec<String> {
        let lines = self.text.lines().map(|line| line.split("--").next().unwrap_or_default());
        let words: Vec<&str> = lines.flat_map(str::split_whitespace).collect();
        let behind = words.windows(2).filter(|pair| {
            ["from", "join"].iter().any(|keyword| pair[0].eq_ignore_ascii_case(keyword)) && !pair[1].starts_with('(')
        });
        behind.map(|pair| pair[1].trim_matches(['`', '"', ',', ')']).to_owned()).collect()
    }

    /// Reads a SELECT that may use the parameters `allowed`.
    pub(super) fn parse(file: &str, source: &str, allowed: &[&str]) -> Result<Self, Problem> {
        let mut parameters = Vec::new();
        let mut text = String::with_capacity(source.len());
        let mut code = String::new();
        let mut line = 1;
        let mut rest = source;
        while let Some(next) = rest.chars().next() {
            let problem = |message: String| Err(Problem { line, message });
            let taken = match next {
                '-' if rest.starts_with("--") => rest.find('\n').unwrap_or(rest.len()),
                '/' if rest.starts_with("/*") => match rest.find("*/") {
                    Some(end) => end + 2,
                    None => return problem("a comment is not closed".to_owned()),
                },
                '\'' | '"' | '`' => match rest[1..].find(next) {
                    Some(end) => end + 2,
                    None => return problem(format!("a {next} is not closed")),
                },
                '?' => return problem("use named parameters such as :lab_id, not ?".to_owned()),
                ';' => return problem("one SELECT without a semicolon is expected".to_owned()),
                ':' => {
                    let name: String =
                        rest[1..].chars().take_while(|c| c.is_ascii_alphanumeric() || *c == '_').collect();
                    if !allowed.contains(&name.as_str()) {
                        return problem(format!("unknown parameter :{name} (known: :{})", allowed.join(", :")));
                    }
                    rest = &rest[1 + name.len()..];
                    parameters.push(name);
                    text.push('?');
                    code.push('?');
                    continue;
                }
                other => {
                    code.push(other);
                    other.len_utf8()
                }
            };
            line += rest[..taken].matches('\n').count();
            text.push_str(&rest[..taken]);
            rest = &rest[taken..];
        }
        let first_word: String = code.trim_start().chars().take_while(char::is_ascii_alphabetic).collect();
        if !first_word.eq_ignore_ascii_case("select") {
            return Err(Problem { line: 1, message: "a SELECT is expected".to_owned() });
        }
        if let Some(missing) = allowed.iter().find(|name| !parameters.iter().any(|known| known == *name)) {
            return Err(Problem { line: 1, message: format!("the parameter :{missing} is not used") });
        }
        Ok(Self { file: file.to_owned(), text, parameters })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_become_placeholders_but_not_inside_strings_or_comments() {
        let sql = NamedSql::parse(
            "x.sql",
            "SELECT ':from' -- :from\nFROM t WHERE a = :from AND b = :lab_id",
            &["lab_id", "from"],
        )
        .unwrap();
        assert_eq!(sql.text, "SELECT ':from' -- :from\nFROM t WHERE a = ? AND b = ?");
        assert_eq!(sql.parameters, ["from", "lab_id"]);
    }

    #[test]
    fn problems_name_their_line() {
        let line = |source| NamedSql::parse("x.sql", source, &["from"]).unwrap_err().line;
        assert_eq!(line("SELECT 1\nWHERE a = :till"), 2);
        assert_eq!(line("SELECT 1\n\nWHERE a = 'open"), 3);
        assert_eq!(line("SELECT :from\n;DROP TABLE labs"), 2);
        assert_eq!(line("DELETE FROM labs WHERE a = :from"), 1);
        assert_eq!(line("SELECT 1"), 1);
    }
}
