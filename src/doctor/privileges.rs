//! Parsing the output of SHOW GRANTS. Pure.
//!
//! MariaDB's lines end with the password hash: a line is never printed.

use std::collections::BTreeSet;

/// What a privilege applies to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Scope {
    /// The whole server (`*.*`).
    Server,
    /// A database, or all databases that match a pattern.
    Database(String),
    /// One table.
    Table(String, String),
}

/// One line: privileges on something.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Grant {
    /// What the privileges apply to.
    pub(super) scope: Scope,
    /// The privileges on all of it, in upper case; may include `ALL PRIVILEGES`.
    pub(super) rights: BTreeSet<String>,
    /// The privileges on only some of its columns.
    pub(super) on_columns: BTreeSet<String>,
    /// Whether the line revokes privileges (MySQL's partial revokes).
    pub(super) is_revoke: bool,
}

/// Everything that SHOW GRANTS returns for an account.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Grants {
    /// The privileges.
    pub(super) grants: Vec<Grant>,
    /// Whether the account has roles, whose privileges may not be listed.
    pub(super) has_roles: bool,
}

const ALL: &str = "ALL PRIVILEGES";

impl Grants {
    /// Parses the lines.
    pub(super) fn parse<'a>(lines: impl IntoIterator<Item = &'a str>) -> Self {
        let mut all = Self::default();
        for line in lines {
            let words = words(line);
            let first = words.first().map(|word| word.text.to_uppercase()).unwrap_or_default();
            let is_role = !words.iter().any(|word| word.is("ON"));
            match first.as_str() {
                "GRANT" if is_role => all.has_roles = true,
                "GRANT" => all.grants.extend(grant(&words, false)),
                "REVOKE" if !is_role => all.grants.extend(grant(&words, true)),
                "SET" => all.has_roles = true,
                _ => {}
            }
        }
        all
    }

    /// Whether a privilege on all of a table is granted, at whatever level.
    pub(super) fn covers(&self, right: &str, database: &str, table: &str) -> bool {
        let on_table = |grant: &&Grant| grant.scope.includes(database, table);
        let has = |grant: &Grant| grant.rights.contains(right) || grant.rights.contains(ALL);
        let revoked = self.grants.iter().filter(|grant| grant.is_revoke).filter(on_table).any(has);
        // Partial revokes only affect server-wide privileges.
        let is_void = |grant: &Grant| grant.is_revoke || (revoked && grant.scope == Scope::Server);
        let fits = |grant: &&Grant| !is_void(grant);
        self.grants.iter().filter(fits).filter(on_table).any(has)
    }

    /// Whether every privilege on the whole server is granted.
    pub(super) fn is_almighty(&self) -> bool {
        let all = |grant: &Grant| grant.scope == Scope::Server && grant.rights.contains(ALL);
        self.grants.iter().any(|grant| !grant.is_revoke && all(grant))
    }

    /// Whether it is an administrator's account: one that may do everything, or may grant privileges to others.
    pub(super) fn is_administrator(&self) -> bool {
        let of_admins =
            |grant: &Grant| [ALL, "SUPER", "GRANT OPTION"].iter().any(|right| grant.rights.contains(*right));
        self.grants.iter().any(|grant| !grant.is_revoke && grant.scope == Scope::Server && of_admins(grant))
    }

    /// Whether a privilege on a whole database is granted.
    pub(super) fn covers_database(&self, right: &str, database: &str) -> bool {
        self.covers(right, database, "*")
    }
}

impl Scope {
    pub(super) fn includes(&self, database: &str, table: &str) -> bool {
        match self {
            Self::Server => true,
            Self::Database(pattern) => like(pattern, database),
            Self::Table(of, name) => of.eq_ignore_ascii_case(database) && name.eq_ignore_ascii_case(table),
        }
    }
}

/// Whether a name matches a database pattern: `%` is any text, `_` is any character, and a backslash escapes the next
/// character.
fn like(pattern: &str, name: &str) -> bool {
    fn fits(pattern: &[char], name: &[char]) -> bool {
        match pattern {
            [] => name.is_empty(),
            ['%', rest @ ..] => (0..=name.len()).any(|skip| fits(rest, &name[skip..])),
            ['\\', literal, rest @ ..] => name.first() == Some(literal) && fits(rest, &name[1..]),
            ['_', rest @ ..] => !name.is_empty() && fits(rest, &name[1..]),
            [literal, rest @ ..] => {
                name.first().is_some_and(|c| c.eq_ignore_ascii_case(literal)) && fits(rest, &name[1..])
            }
        }
    }
    fits(&pattern.chars().collect::<Vec<_>>(), &name.chars().collect::<Vec<_>>())
}

/// A word of a line: a quoted name is one word, and so is each punctuation character.
struct Word {
    text: String,
    is_quoted: bool,
}

impl Word {
    fn is(&self, text: &str) -> bool {
        !self.is_quoted && self.text.eq_ignore_ascii_case(text)
    }
}

fn words(line: &str) -> Vec<Word> {
    let mut words = Vec::new();
    let mut chars = line.chars().peekable();
    while let Some(c) = chars.next() {
        match c {
            c if c.is_whitespace() => {}
            '`' | '\'' | '"' => {
                let mut text = String::new();
                while let Some(inner) = chars.next() {
                    if inner != c {
                        text.push(inner);
                    } else if chars.peek() == Some(&c) {
                        text.push(c);
                        chars.next();
                    } else {
                        break;
                    }
                }
                words.push(Word { text, is_quoted: true });
            }
            c if c.is_alphanumeric() || c == '_' => {
                let mut text = c.to_string();
                while let Some(next) = chars.next_if(|next| next.is_alphanumeric() || matches!(next, '_' | '$')) {
                    text.push(next);
                }
                words.push(Word { text, is_quoted: false });
            }
            c => words.push(Word { text: c.to_string(), is_quoted: false }),
        }
    }
    words
}

/// `GRANT a, b (c, d) ON scope TO …` or `REVOKE … ON scope FROM …`.
fn grant(words: &[Word], is_revoke: bool) -> Option<Grant> {
    let on = words.iter().position(|word| word.is("ON"))?;
    let scope = scope(&words[on + 1..])?;
    let (mut rights, mut on_columns) = (BTreeSet::new(), BTreeSet::new());
    let mut name: Vec<String> = Vec::new();
    let mut depth = 0;
    let mut has_columns = false;
    for word in &words[1..on] {
        match word.text.as_str() {
            "(" if !word.is_quoted => {
                depth += 1;
                has_columns = true;
            }
            ")" if !word.is_quoted => depth -= 1,
            "," if !word.is_quoted && depth == 0 => {
                let set = if has_columns { &mut on_columns } else { &mut rights };
                set.insert(name.join(" "));
                name.clear();
                has_columns = false;
            }
            _ if depth > 0 => {}
            text => name.push(text.to_uppercase()),
        }
    }
    let set = if has_columns { &mut on_columns } else { &mut rights };
    set.insert(name.join(" "));
    if rights.remove("ALL") {
        rights.insert(ALL.to_owned());
    }
    rights.remove("USAGE");
    let text: Vec<String> = words[on..].iter().map(|word| word.text.to_uppercase()).collect();
    if text.windows(3).any(|three| three == ["WITH", "GRANT", "OPTION"]) {
        rights.insert("GRANT OPTION".to_owned());
    }
    Some(Grant { scope, rights, on_columns, is_revoke })
}

/// Parses what follows ON; `None` for procedures, proxies and the like.
fn scope(words: &[Word]) -> Option<Scope> {
    let words = if words.first()?.is("TABLE") { &words[1..] } else { words };
    let [database, dot, table, ..] = words else { return None };
    if !dot.is(".") {
        return None;
    }
    Some(match (database.is("*"), table.is("*")) {
        (true, _) => Scope::Server,
        (false, true) => Scope::Database(database.text.clone()),
        (false, false) => Scope::Table(database.text.clone(), table.text.clone()),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(lines: &[&str]) -> Grants {
        Grants::parse(lines.iter().copied())
    }

    #[test]
    fn rights_come_from_the_server_the_database_or_the_table() {
        let grants = parse(&[
            "GRANT USAGE ON *.* TO `daymend`@`%` IDENTIFIED BY PASSWORD '*2470C0C06DEE42FD1618BB99005ADCA2EC9D1E19'",
            "GRANT SELECT, INSERT ON `lab`.`summary` TO `daymend`@`%`",
            "GRANT LOCK TABLES ON `lab\\_prod`.* TO `daymend`@`%`",
            "GRANT EXECUTE ON PROCEDURE `lab`.`nightly` TO `daymend`@`%`",
            "GRANT PROXY ON ''@'%' TO 'root'@'localhost' WITH GRANT OPTION",
        ]);
        assert!(grants.covers("SELECT", "lab", "summary") && grants.covers("INSERT", "LAB", "Summary"));
        assert!(!grants.covers("DELETE", "lab", "summary") && !grants.covers("SELECT", "lab", "labs"));
        assert!(
            grants.covers_database("LOCK TABLES", "lab_prod") && !grants.covers_database("LOCK TABLES", "labXprod")
        );
        assert!(!grants.has_roles);
        assert_eq!(grants.grants.len(), 3);
    }

    #[test]
    fn all_privileges_are_every_right() {
        for line in [
            "GRANT ALL PRIVILEGES ON *.* TO `root`@`localhost` WITH GRANT OPTION",
            "GRANT ALL ON `lab`.* TO 'daymend'@'%'",
            "GRANT ALL PRIVILEGES ON `l%`.* TO 'daymend'@'%'",
        ] {
            assert!(parse(&[line]).covers("DELETE", "lab", "labs"), "{line}");
        }
        assert!(!parse(&["GRANT ALL PRIVILEGES ON `x%`.* TO 'a'@'%'"]).covers("SELECT", "lab", "labs"));
    }

    #[test]
    fn an_administrator_may_do_everything_or_let_others() {
        for line in ["GRANT ALL PRIVILEGES ON *.* TO `a`@`%`", "GRANT SUPER ON *.* TO `a`@`%`"] {
            assert!(parse(&[line]).is_administrator(), "{line}");
        }
        assert!(parse(&["GRANT SELECT, CREATE USER ON *.* TO `a`@`%` WITH GRANT OPTION"]).is_administrator());
        assert!(!parse(&["GRANT ALL PRIVILEGES ON `lab`.* TO `a`@`%` WITH GRANT OPTION"]).is_administrator());
        assert!(!parse(&["GRANT SELECT, DELETE ON *.* TO `a`@`%`", "REVOKE SUPER ON *.* FROM `a`"]).is_administrator());
    }

    #[test]
    fn rights_on_columns_are_kept_apart() {
        let grants = parse(&["GRANT SELECT (`id`, `lab_id`), INSERT (a), UPDATE ON `lab`.`billing` TO `d`@`%`"]);
        let grant = &grants.grants[0];
        assert_eq!(grant.rights, BTreeSet::from(["UPDATE".to_owned()]));
        assert_eq!(grant.on_columns, BTreeSet::from(["SELECT".to_owned(), "INSERT".to_owned()]));
        assert!(!grants.covers("SELECT", "lab", "billing"));
    }

    #[test]
    fn roles_are_noticed_on_both_servers() {
        assert!(parse(&["GRANT `daymend_role` TO `daymend`@`%`"]).has_roles);
        assert!(parse(&["GRANT `a`@`%`,`b`@`%` TO `daymend`@`%`"]).has_roles);
        assert!(parse(&["SET DEFAULT ROLE `daymend_role` FOR `daymend`@`%`"]).has_roles);
        // A role that is named ON.
        assert!(parse(&["GRANT `ON` TO `daymend`@`%`"]).has_roles);
    }

    #[test]
    fn a_partial_revoke_takes_from_the_server_wide_right() {
        let grants =
            parse(&["GRANT SELECT, INSERT ON *.* TO `daymend`@`%`", "REVOKE INSERT ON `lab`.* FROM `daymend`@`%`"]);
        assert!(grants.covers("SELECT", "lab", "labs") && !grants.covers("INSERT", "lab", "labs"));
        assert!(grants.covers("INSERT", "other", "labs"));
    }
}
