//! A `CREATE TABLE` statement, as a snapshot stores it.

/// `CREATE TABLE` without its auto-increment counter, which changes with every row.
pub(super) fn without_counter(sql: &str) -> String {
    const COUNTER: &str = " AUTO_INCREMENT=";
    // After the last parenthesis: before it, a comment or a default may contain anything.
    let options = sql.rfind("\n)").unwrap_or(0);
    let Some(at) = sql[options..].find(COUNTER).map(|at| options + at) else { return sql.to_owned() };
    let rest = sql[at + COUNTER.len()..].trim_start_matches(|c: char| c.is_ascii_digit());
    format!("{}{rest}", &sql[..at])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_counter_is_no_part_of_a_schema() {
        let sql = "CREATE TABLE `t` (\n  `a` int COMMENT ' AUTO_INCREMENT=7'\n) ENGINE=InnoDB AUTO_INCREMENT=12 X=1";
        assert_eq!(
            without_counter(sql),
            "CREATE TABLE `t` (\n  `a` int COMMENT ' AUTO_INCREMENT=7'\n) ENGINE=InnoDB X=1"
        );
    }
}
