//! The privileges that are sufficient: those of `deploy/mysql/grants.sql`, so that the doctor does not ask for
//! broader ones.

use std::collections::BTreeSet;

use super::{Site, catalogue, needs::own_statements};
use crate::{
    db::{Dialect, scan::tokens},
    rollup::{Rollup, watch::Watch},
};

const FILE: &str = include_str!("../../deploy/mysql/grants.sql");

/// The user in the file that runs everything except `daymend migrate`.
const USER: &str = "daymend";

/// What the file grants, as far as this site uses it.
#[derive(Debug)]
pub(super) struct GrantsFile {
    /// Every word of the statements that daymend sends here, in lower case, because a site's own definition may use
    /// other columns.
    used: BTreeSet<String>,
}

impl GrantsFile {
    pub(super) fn of(site: &Site<'_>) -> Self {
        let own = own_statements().map(|statement| statement.sql(Dialect::MySql));
        let selects = site.rollups.iter().flat_map(Rollup::selects).map(|sql| sql.text.as_str());
        let words = own.chain(selects).flat_map(|sql| tokens(sql, None));
        let columns = site.rollups.iter().flat_map(|rollup| {
            let watched = rollup.watch.iter().flat_map(Watch::tables).flat_map(|table| table.columns);
            let summary = &rollup.summary;
            watched.chain([summary.count.as_str(), &summary.modified_at]).map(ToOwned::to_owned).collect::<Vec<_>>()
        });
        Self { used: words.chain(columns).map(|word| word.to_lowercase()).collect() }
    }

    /// How a privilege on a table is granted: on all of it, or as ``SELECT (`id`, `day`)``.
    pub(super) fn right(&self, right: &str, table: &str) -> String {
        let columns = granted(FILE, right, table).unwrap_or_default();
        let used = columns.iter().filter(|column| self.used.contains(&column.to_lowercase()));
        let used: Vec<String> = used.map(|column| catalogue::quoted(column)).collect();
        if used.is_empty() { right.to_owned() } else { format!("{right} ({})", used.join(", ")) }
    }
}

/// The columns on which a file grants a privilege to [`USER`]; empty if it is granted on the whole table, and `None` if
/// it is not granted.
fn granted(file: &str, right: &str, table: &str) -> Option<Vec<String>> {
    let words = tokens(file, Some(Dialect::MySql));
    words.split(|word| word == ";").find_map(|statement| {
        let on = statement.iter().position(|word| word == "ON")?;
        // … ON table TO daymend@…
        let [_, name, _, user, ..] = &statement[on..] else { return None };
        if statement[0] != "GRANT" || !name.eq_ignore_ascii_case(table) || user != USER {
            return None;
        }
        let at = statement[..on].iter().position(|word| word == right)?;
        let list =
            statement[at + 1..on].split_first().filter(|(first, _)| *first == "(").map_or(&[][..], |(_, rest)| rest);
        Some(list.iter().take_while(|word| *word != ")").filter(|word| *word != ",").cloned().collect())
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rights_are_read_with_their_columns_and_of_the_one_user_only() {
        let file = "-- GRANT SELECT (no) ON labs TO daymend@'%';
            GRANT SELECT (other) ON labs TO daymend_snapshot@'%';
            GRANT CREATE, SELECT (id, day), DELETE, UPDATE (day)
                ON labs TO daymend@'%';
            REVOKE INSERT ON labs FROM daymend@'%';";
        let of = |right| granted(file, right, "LABS");
        assert_eq!(of("SELECT"), Some(vec!["id".to_owned(), "day".to_owned()]));
        assert_eq!((of("DELETE"), of("UPDATE")), (Some(Vec::new()), Some(vec!["day".to_owned()])));
        assert_eq!((of("INSERT"), granted(file, "SELECT", "other")), (None, None));
    }

    #[test]
    fn no_more_columns_are_asked_for_than_are_used() {
        let grants_file = GrantsFile { used: ["id", "labtimezone"].map(ToOwned::to_owned).into() };
        assert_eq!(grants_file.right("SELECT", "labs"), "SELECT (`id`, `labTimeZone`)");
        assert_eq!(grants_file.right("SELECT", "billingInfo"), "SELECT");
        assert_eq!(grants_file.right("INSERT", "daymend_jobs"), "INSERT");
    }
}
