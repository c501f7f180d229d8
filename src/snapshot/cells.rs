//! Rows of tables whose columns are only known at run time, and conversions of their values.
//!
//! A value is an [`Arg`] in the form that snapshots store ([`Value`]), so that the same value is the same [`Arg`]
//! whether it was read from a live table or from a snapshot of it.

use std::borrow::Cow;

use super::{Value, schema::Column};
use crate::db::{Arg, Dialect};

/// The values of a row, in the order they were selected.
pub type Cells = Vec<Arg>;

/// Approximate size of a row in memory, in bytes.
#[must_use]
pub fn size(row: &[Arg]) -> usize {
    let of = |value: &Arg| match value {
        Arg::Text(text) => text.len(),
        Arg::Bytes(bytes) | Arg::RawText(bytes) => bytes.len(),
        Arg::Null | Arg::Int(_) | Arg::Real(_) => 0,
    };
    row.iter().map(|value| size_of::<Arg>() + of(value)).sum()
}

/// Whether a value says nothing: NULL, and text that is empty or blank.
#[must_use]
pub fn is_empty(value: &Arg) -> bool {
    match value {
        Arg::Null => true,
        Arg::Text(text) => text.trim().is_empty(),
        Arg::Bytes(bytes) | Arg::RawText(bytes) => bytes.is_empty(),
        Arg::Int(_) | Arg::Real(_) => false,
    }
}

/// Whether values can say who or what a row is: none is NULL, and not all are empty. Otherwise two rows are not the same
/// because they have the same values.
#[must_use]
pub fn identify(values: &[Arg]) -> bool {
    !values.contains(&Arg::Null) && !values.iter().all(is_empty)
}

/// Whether values are the same but for case and for blanks around them, which most databases do not tell apart.
#[must_use]
pub fn are_alike(one: &[Arg], other: &[Arg]) -> bool {
    let is_alike = |pair: (&Arg, &Arg)| match pair {
        (Arg::Text(one), Arg::Text(other)) => one.trim().to_lowercase() == other.trim().to_lowercase(),
        (one, other) => one == other,
    };
    one.len() == other.len() && one.iter().zip(other).all(is_alike)
}

/// The placeholder for a value to be compared with a column. Without a cast, MySQL compares text with numbers as
/// floating-point numbers, which is inexact; it treats bits, ENUMs and SETs as numbers, also for sorting, while they are
/// text here; and it takes text that is compared with JSON for a JSON string, whatever is in it.
#[must_use]
pub fn placeholder(dialect: Dialect, column: &Column) -> Cow<'static, str> {
    if dialect == Dialect::Sqlite {
        return "?".into();
    }
    let kind = &column.sql_type;
    let inside = kind.find('(').zip(kind.rfind(')')).map_or("", |(open, close)| &kind[open + 1..close]);
    match column.type_word().as_str() {
        // Via text: MySQL takes the parameter of a cast to UNSIGNED for a signed number.
        _ if column.is_whole() && column.is_unsigned() => "CAST(CAST(? AS CHAR) AS UNSIGNED)".into(),
        _ if column.is_whole() => "CAST(? AS SIGNED)".into(),
        "dec" | "decimal" | "numeric" => decimal(inside).into(),
        "bit" => "CAST(CONV(HEX(?), 16, 10) AS UNSIGNED)".into(),
        "enum" => one_of(inside).into(),
        "set" => some_of(inside).into(),
        // Only MySQL has this type; MariaDB's JSON is text.
        "json" => "CAST(? AS JSON)".into(),
        _ => "?".into(),
    }
}

/// A DECIMAL with as many decimal places as there may be: the value may come from another column, and must not be
/// rounded. If that leaves too few digits before the point, a DECIMAL like the column's own.
fn decimal(digits: &str) -> String {
    const PLACES: u32 = 30;
    const WHOLE: u32 = 35;
    let mut numbers = digits.split(',').filter_map(|number| number.trim().parse::<u32>().ok());
    let (all, places) = (numbers.next().unwrap_or(0), numbers.next().unwrap_or(0));
    if all.saturating_sub(places) > WHOLE {
        format!("CAST(? AS DECIMAL({all}, {places}))")
    } else {
        format!("CAST(? AS DECIMAL({}, {PLACES}))", WHOLE + PLACES)
    }
}

/// The number of a member of an ENUM: 0 for the empty text, which stands for no member, and NULL for anything else.
fn one_of(members: &str) -> String {
    let count = texts(members).len() + 1;
    format!("(NULLIF(FIELD(CAST(? AS BINARY), {members}, ''), 0) % {count})")
}

/// The number of a value of a SET; NULL if it has an unknown member, or its members are in another order.
fn some_of(members: &str) -> String {
    let bits = texts(members).into_iter().enumerate();
    let bits: Vec<String> = bits.map(|(bit, member)| format!("(FIND_IN_SET({member}, v) > 0) << {bit}")).collect();
    format!(
        "(SELECT IF(CAST(MAKE_SET(m, {members}) AS BINARY) = v, m, NULL)
          FROM (SELECT v, {} AS m FROM (SELECT CAST(? AS BINARY) AS v) AS asked) AS numbered)",
        bits.join(" | ")
    )
}

/// The quoted texts of a list, with their quotes.
fn texts(list: &str) -> Vec<&str> {
    let (mut texts, mut start, mut is_inside) = (Vec::new(), 0, false);
    for (at, byte) in list.bytes().enumerate() {
        match byte {
            b'\'' => is_inside = !is_inside,
            b',' if !is_inside => {
                texts.push(&list[start..at]);
                start = at + 1;
            }
            _ => {}
        }
    }
    texts.push(&list[start..]);
    texts
}

/// The column's placeholder, adapted to a value to be compared with it: text that is not UTF-8 is sent as bytes. The
/// plus sign only removes the cast's type, because of which SQLite would convert numbers compared with it to text.
#[must_use]
pub fn mark<'a>(placeholder: &'a str, value: &Arg) -> &'a str {
    if matches!(value, Arg::RawText(_)) { "+CAST(? AS TEXT)" } else { placeholder }
}

/// The MySQL types that accept a number as a value, whatever it stands for.
const OF_NUMBERS: &str = "tinyint smallint mediumint int bigint decimal float double bit year date datetime time \
     timestamp char varchar tinytext text mediumtext longtext binary varbinary tinyblob blob mediumblob longblob enum \
     set json";

/// The placeholder for a value to be written to a column: NULLs are sent as numbers, which MariaDB does not accept
/// for a geometry, a UUID or an address, and text that is not UTF-8 is sent as bytes.
#[must_use]
pub fn written(dialect: Dialect, column: &Column, value: &Arg) -> &'static str {
    let takes_numbers = || dialect == Dialect::Sqlite || OF_NUMBERS.split(' ').any(|word| word == column.type_word());
    match value {
        Arg::Null if !takes_numbers() => "IF(? IS NULL, NULL, NULL)",
        Arg::RawText(_) => "CAST(? AS TEXT)",
        _ => "?",
    }
}

/// Whether a column holds numbers that are text here, at least if they are too large for another type.
#[must_use]
pub fn is_exact(column: &Column) -> bool {
    column.is_whole() || matches!(column.type_word().as_str(), "dec" | "decimal" | "numeric")
}

impl From<Value> for Arg {
    fn from(value: Value) -> Self {
        match value {
            Value::Null => Self::Null,
            Value::Int(number) => Self::Int(number),
            Value::Real(number) => Self::Real(number),
            Value::Text(bytes) => {
                String::from_utf8(bytes).map_or_else(|error| Self::RawText(error.into_bytes()), Self::Text)
            }
            Value::Blob(bytes) => Self::Bytes(bytes),
        }
    }
}

/// A value as JSON that includes its type.
#[must_use]
pub fn to_json(value: &Arg) -> serde_json::Value {
    use serde_json::json;
    match value {
        Arg::Null => serde_json::Value::Null,
        Arg::Int(number) => json!(number),
        Arg::Text(text) => json!(text),
        // As text: JSON has neither infinities nor a rule for the last digit.
        Arg::Real(number) => json!({ "real": number.to_string() }),
        Arg::Bytes(bytes) => json!({ "hex": hex::encode(bytes) }),
        Arg::RawText(bytes) => json!({ "text": hex::encode(bytes) }),
    }
}

/// The value of such JSON; `None` if it is not valid.
#[must_use]
pub fn from_json(json: &serde_json::Value) -> Option<Arg> {
    use serde_json::Value;
    match json {
        Value::Null => Some(Arg::Null),
        Value::Number(number) => number.as_i64().map(Arg::Int),
        Value::String(text) => Some(Arg::Text(text.clone())),
        Value::Object(object) => {
            if let Some(number) = object.get("real") {
                return number.as_str()?.parse().ok().map(Arg::Real);
            }
            if let Some(text) = object.get("text") {
                return hex::decode(text.as_str()?).ok().map(Arg::RawText);
            }
            hex::decode(object.get("hex")?.as_str()?).ok().map(Arg::Bytes)
        }
        Value::Bool(_) | Value::Array(_) => None,
    }
}

/// Values as one unambiguous text; used for keys in the working file.
#[must_use]
pub fn encode(cells: &[Arg]) -> String {
    serde_json::Value::Array(cells.iter().map(to_json).collect()).to_string()
}

/// The values of such a text.
///
/// # Errors
/// If it is not valid: nothing may be taken for an empty key or row.
pub fn decode(text: &str) -> Result<Cells, sqlx::Error> {
    let values: Vec<serde_json::Value> = serde_json::from_str(text).map_err(not_values)?;
    values.iter().map(value).collect()
}

/// The value of JSON from the working file.
pub(super) fn value(json: &serde_json::Value) -> Result<Arg, sqlx::Error> {
    from_json(json).ok_or_else(|| not_values(format!("`{json}` is no value")))
}

/// The error for values in the working file that cannot be read.
pub(super) fn not_values(why: impl Into<sqlx::error::BoxDynError>) -> sqlx::Error {
    sqlx::Error::Decode(why.into())
}

/// A value for display.
#[must_use]
pub fn show(value: &Arg) -> String {
    match value {
        Arg::Null => "NULL".to_owned(),
        Arg::Int(number) => number.to_string(),
        Arg::Real(number) => number.to_string(),
        Arg::Text(text) => text.clone(),
        Arg::Bytes(bytes) | Arg::RawText(bytes) => format!("0x{}", hex::encode(bytes)),
    }
}

/// How many characters of a long value are shown.
const SHOWN: usize = 40;

/// A value for display, cut off if it is long.
#[must_use]
pub fn show_short(value: &Arg) -> String {
    let text = show(value);
    if text.chars().count() > SHOWN { format!("{}…", text.chars().take(SHOWN).collect::<String>()) } else { text }
}

/// A key for display, such as `4011` or `12,B`.
#[must_use]
pub fn show_key(key: &[Arg]) -> String {
    key.iter().map(show).collect::<Vec<_>>().join(",")
}

/// A key in a form that can be read back: like [`show_key`], but in a composite key, parts that would be ambiguous
/// are quoted, as in CSV.
#[must_use]
pub fn write_key(key: &[Arg]) -> String {
    let is_plain = |part: &str| part.trim() == part && !part.is_empty() && !part.contains([',', '"']);
    let part = |value: &Arg| match show(value) {
        part if key.len() == 1 || is_plain(&part) => part,
        part => format!("\"{}\"", part.replace('"', "\"\"")),
    };
    key.iter().map(part).collect::<Vec<_>>().join(",")
}

/// The parts of such a composite key. In a part that does not begin with a quote, quotes are ordinary characters.
#[must_use]
pub fn split_key(text: &str) -> Vec<String> {
    let mut parts = Vec::new();
    let mut rest = Some(text);
    while let Some(text) = rest {
        let mut text = text.trim_start();
        let mut part = String::new();
        if let Some(mut inside) = text.strip_prefix('"') {
            text = loop {
                let Some((before, after)) = inside.split_once('"') else { break inside };
                part += before;
                let Some(more) = after.strip_prefix('"') else { break after };
                part.push('"');
                inside = more;
            };
        }
        let (last, next) = text.split_once(',').map_or((text, None), |(last, next)| (last, Some(next)));
        part += last.trim_end();
        parts.push(part);
        rest = next;
    }
    parts
}

/// The value that a person wrote for a column, as [`show`] writes it: a number if the column holds whole numbers, bytes
/// if it holds these.
#[must_use]
pub fn parse(text: &str, column: &Column) -> Arg {
    match text.strip_prefix("0x").filter(|_| column.is_binary()).map(hex::decode) {
        Some(Ok(bytes)) => Arg::Bytes(bytes),
        _ if column.is_whole() => parse_whole(text),
        _ => Arg::Text(text.to_owned()),
    }
}

/// The whole number that a text stands for; otherwise the text.
#[must_use]
pub fn parse_whole(text: &str) -> Arg {
    text.parse().map_or_else(|_| Arg::Text(text.to_owned()), Arg::Int)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_survive_as_text() {
        let cells = vec![
            Arg::Null,
            Arg::Int(i64::MIN),
            Arg::Real(0.1 + 0.2),
            Arg::Real(f64::NEG_INFINITY),
            Arg::Text("1".to_owned()),
            Arg::Text("\"[,\u{1F600}\0".to_owned()),
            Arg::Bytes(vec![0, 255, 16]),
            Arg::Bytes(Vec::new()),
            Arg::RawText(vec![0, 255, 16]),
        ];
        assert_eq!(decode(&encode(&cells)).unwrap(), cells);
        for text in ["", "[1", "{}", "[true]", "[{}]"] {
            assert!(decode(text).is_err(), "{text}");
        }
    }

    #[test]
    fn what_is_empty_identifies_nobody() {
        let text = |text: &str| Arg::Text(text.to_owned());
        for values in [vec![], vec![text("")], vec![text(" \t"), text("")], vec![Arg::Int(1), Arg::Null]] {
            assert!(!identify(&values), "{values:?}");
        }
        for values in [vec![text("N2")], vec![text("N2"), text("")], vec![Arg::Int(0)], vec![Arg::Bytes(vec![0])]] {
            assert!(identify(&values), "{values:?}");
        }
    }

    #[test]
    fn a_key_that_is_written_down_is_read_again() {
        let text = |text: &str| Arg::Text(text.to_owned());
        for (key, written) in [
            (vec![text("x"), Arg::Int(1)], "x,1"),
            (vec![text("x,y"), Arg::Int(1)], "\"x,y\",1"),
            (vec![text("new,\"k\""), text("")], "\"new,\"\"k\"\"\",\"\""),
            (vec![text(" a "), text("\"")], "\" a \",\"\"\"\""),
        ] {
            assert_eq!(write_key(&key), written);
            assert_eq!(split_key(written), key.iter().map(show).collect::<Vec<_>>());
        }
        assert_eq!(write_key(&[text("x,\"y")]), "x,\"y", "there is nothing to be told apart");
        assert_eq!(split_key("12, B , a\"b"), ["12", "B", "a\"b"]);
    }

    #[test]
    fn members_are_told_apart_by_commas_outside_of_quotes() {
        assert_eq!(texts("'a','b,c','d''e'"), ["'a'", "'b,c'", "'d''e'"]);
    }

    #[test]
    fn json_is_compared_with_json() {
        let column = Column { name: "c".into(), sql_type: "json".into(), nullable: false, generated: false };
        assert_eq!(placeholder(Dialect::MySql, &column), "CAST(? AS JSON)");
        assert_eq!(placeholder(Dialect::Sqlite, &column), "?");
    }

    #[test]
    fn decimals_keep_all_their_digits() {
        assert_eq!(decimal("20,3"), "CAST(? AS DECIMAL(65, 30))");
        assert_eq!(decimal("40,2"), "CAST(? AS DECIMAL(40, 2))");
        assert_eq!(decimal("65,30"), "CAST(? AS DECIMAL(65, 30))");
    }

    #[test]
    fn numbers_and_their_text_are_told_apart() {
        assert_ne!(encode(&[Arg::Int(1)]), encode(&[Arg::Text("1".to_owned())]));
        let parsed = |text: &str, sql_type: &str| parse(text, &column(sql_type));
        assert_eq!(parsed("4011", "bigint(20)"), Arg::Int(4011));
        assert_eq!(parsed("4011", "varchar(20)"), Arg::Text("4011".to_owned()));
    }

    #[test]
    fn bytes_are_read_as_they_are_shown() {
        for sql_type in ["binary(16)", "varbinary(9)", "tinyblob", "BLOB", "bit(12)", ""] {
            for bytes in [vec![0xAB, 0, 1], Vec::new()] {
                let bytes = Arg::Bytes(bytes);
                assert_eq!(parse(&show(&bytes), &column(sql_type)), bytes, "{sql_type}");
            }
            assert_eq!(parse("0xABC", &column(sql_type)), Arg::Text("0xABC".to_owned()), "half a byte");
        }
        assert_eq!(parse("0xAB", &column("varchar(20)")), Arg::Text("0xAB".to_owned()));
    }

    fn column(sql_type: &str) -> Column {
        Column { name: "id".to_owned(), sql_type: sql_type.to_owned(), nullable: false, generated: false }
    }
}
