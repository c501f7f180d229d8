//! What is read out of a `CREATE TABLE`, which no catalogue says.

/// `CREATE TABLE` without the number that the next row will have: it changes with every row.
pub(super) fn without_counter(sql: &str) -> String {
    const COUNTER: &str = " AUTO_INCREMENT=";
    // Behind the last parenthesis: a comment or a default may say anything.
    let options = sql.rfind("\n)").unwrap_or(0);
    let Some(at) = sql[options..].find(COUNTER).map(|at| options + at) else { return sql.to_owned() };
    let rest = sql[at + COUNTER.len()..].trim_start_matches(|c: char| c.is_ascii_digit());
    format!("{}{rest}", &sql[..at])
}

/// The expressions behind each CHECK of a `CREATE TABLE`, parentheses included.
pub(super) fn checks(sql: &str) -> Vec<String> {
    let mut checks = Vec::new();
    let bytes = sql.as_bytes();
    let mut at = 0;
    while at < bytes.len() {
        if let b'\'' | b'"' | b'`' = bytes[at] {
            at = after_quoted(bytes, at);
            continue;
        }
        let is_word = |place: usize| bytes.get(place).is_some_and(|byte| byte.is_ascii_alphanumeric() || *byte == b'_');
        let is_check = bytes[at..].len() > 5 && bytes[at..at + 5].eq_ignore_ascii_case(b"check");
        if is_check && !is_word(at + 5) && (at == 0 || !is_word(at - 1)) {
            let open = at + 5 + bytes[at + 5..].iter().take_while(|byte| byte.is_ascii_whitespace()).count();
            let close = after_parenthesis(bytes, open);
            if close > open {
                checks.push(sql[open..close].to_owned());
                at = close;
                continue;
            }
        }
        at += 1;
    }
    checks
}

/// The place behind a quoted text that begins at `at`.
fn after_quoted(bytes: &[u8], at: usize) -> usize {
    let quote = bytes[at];
    let mut end = at + 1;
    while end < bytes.len() && bytes[end] != quote {
        end += if bytes[end] == b'\\' && quote == b'\'' { 2 } else { 1 };
    }
    (end + 1).min(bytes.len())
}

/// The place behind the parenthesis that closes the one at `open`; `open` where there is none.
fn after_parenthesis(bytes: &[u8], open: usize) -> usize {
    let (mut depth, mut at) = (0_u32, open);
    while at < bytes.len() {
        match bytes[at] {
            b'\'' | b'"' | b'`' => {
                at = after_quoted(bytes, at);
                continue;
            }
            b'(' => depth += 1,
            b')' if depth == 1 => return at + 1,
            b')' => depth = depth.saturating_sub(1),
            _ if depth == 0 => return open,
            _ => {}
        }
        at += 1;
    }
    open
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn checks_are_found_and_texts_are_not() {
        let sql = "CREATE TABLE t (a int CHECK (a > 0), b text DEFAULT 'check (1)', c int COMMENT ')',
                   CONSTRAINT `check` CHECK ( b <> ')' and (a < 5)), recheck (int))";
        assert_eq!(checks(sql), ["(a > 0)", "( b <> ')' and (a < 5))"]);
        assert!(checks("CREATE TABLE check_in (a int, b check").is_empty());
    }

    #[test]
    fn the_counter_is_no_part_of_a_schema() {
        let sql = "CREATE TABLE `t` (\n  `a` int COMMENT ' AUTO_INCREMENT=7'\n) ENGINE=InnoDB AUTO_INCREMENT=12 X=1";
        assert_eq!(
            without_counter(sql),
            "CREATE TABLE `t` (\n  `a` int COMMENT ' AUTO_INCREMENT=7'\n) ENGINE=InnoDB X=1"
        );
    }
}
