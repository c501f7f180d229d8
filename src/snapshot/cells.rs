//! Rows of tables whose columns are not known before: their values, and how a database is asked for
//! them.
//!
//! A value is an [`Arg`] in the form that snapshots store: DECIMALs, dates and times as the server
//! prints them, numbers beyond 64 signed bits as text. Read from a live table and from a snapshot of
//! it, the same value is the same [`Arg`].

use sqlx::{Decode as _, Row as _, TypeInfo as _, ValueRef as _, mysql::MySqlRow};

use super::schema::{Column, quote};
use crate::db::{Arg, Dialect, Row};

/// The values of a row, in the order in which they were asked for.
pub type Cells = Vec<Arg>;

/// What kind of values a column of MySQL has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Class {
    Whole,
    Decimal,
    Floating,
    Time,
    Json,
    Text,
    Bytes,
}

fn class(sql_type: &str) -> Class {
    let name: String = sql_type.chars().take_while(char::is_ascii_alphabetic).collect::<String>().to_ascii_lowercase();
    match name.as_str() {
        "tinyint" | "smallint" | "mediumint" | "int" | "integer" | "bigint" => Class::Whole,
        "decimal" | "numeric" => Class::Decimal,
        "float" | "double" | "real" => Class::Floating,
        "date" | "datetime" | "timestamp" | "time" | "year" => Class::Time,
        "json" => Class::Json,
        "bit" | "binary" | "varbinary" | "tinyblob" | "blob" | "mediumblob" | "longblob" | "geometry" | "point"
        | "linestring" | "polygon" | "multipoint" | "multilinestring" | "multipolygon" | "geometrycollection"
        | "geomcollection" => Class::Bytes,
        _ => Class::Text,
    }
}

/// What to SELECT for a column, so that [`read`] gives its stored form.
#[must_use]
pub fn select(dialect: Dialect, column: &Column) -> String {
    let name = quote(dialect, &column.name);
    match (dialect, class(&column.sql_type)) {
        (Dialect::MySql, Class::Decimal | Class::Time | Class::Json) => format!("CAST({name} AS CHAR)"),
        _ => name,
    }
}

/// The placeholder for a value that is compared with a column: text and numbers are compared as
/// floating-point numbers by MySQL otherwise, which are not exact.
#[must_use]
pub fn placeholder(dialect: Dialect, column: &Column) -> &'static str {
    match (dialect, class(&column.sql_type)) {
        (Dialect::MySql, Class::Decimal) => "CAST(? AS DECIMAL(65, 30))",
        (Dialect::MySql, Class::Whole) if column.sql_type.contains("unsigned") => "CAST(? AS UNSIGNED)",
        (Dialect::MySql, Class::Whole) => "CAST(? AS SIGNED)",
        _ => "?",
    }
}

/// Whether a column holds whole numbers, as far as its type says.
#[must_use]
pub fn is_whole(column: &Column) -> bool {
    column.sql_type.to_ascii_lowercase().contains("int") || class(&column.sql_type) == Class::Whole
}

/// The first `count` values of a row.
pub fn read(row: &Row, count: usize) -> Result<Cells, sqlx::Error> {
    (0..count).map(|index| cell(row, index)).collect()
}

fn cell(row: &Row, index: usize) -> Result<Arg, sqlx::Error> {
    match row {
        Row::MySql(row) => mysql_cell(row, index),
        Row::Sqlite(row) => {
            let raw = row.try_get_raw(index)?;
            if raw.is_null() {
                return Ok(Arg::Null);
            }
            // The class of this very value, whatever its column declares.
            Ok(match raw.type_info().name() {
                "INTEGER" => Arg::Int(row.try_get_unchecked(index)?),
                "REAL" => Arg::Real(row.try_get_unchecked(index)?),
                "TEXT" => Arg::Text(row.try_get_unchecked(index)?),
                _ => Arg::Bytes(row.try_get_unchecked(index)?),
            })
        }
    }
}

fn mysql_cell(row: &MySqlRow, index: usize) -> Result<Arg, sqlx::Error> {
    let raw = row.try_get_raw(index)?;
    if raw.is_null() {
        return Ok(Arg::Null);
    }
    let info = raw.type_info().into_owned();
    let name = info.name();
    if <u64 as sqlx::Type<sqlx::MySql>>::compatible(&info) && name != "BIT" {
        let value: u64 = row.try_get_unchecked(index)?;
        return Ok(i64::try_from(value).map_or_else(|_| Arg::Text(value.to_string()), Arg::Int));
    }
    if <i64 as sqlx::Type<sqlx::MySql>>::compatible(&info) || <bool as sqlx::Type<sqlx::MySql>>::compatible(&info) && name != "BIT" {
        return Ok(Arg::Int(row.try_get_unchecked(index)?));
    }
    if name == "FLOAT" {
        return Ok(Arg::Real(f64::from(row.try_get_unchecked::<f32, _>(index)?)));
    }
    if name == "DOUBLE" {
        return Ok(Arg::Real(row.try_get_unchecked(index)?));
    }
    let is_text = <str as sqlx::Type<sqlx::MySql>>::compatible(&info);
    let bytes = <&[u8]>::decode(raw).map_err(sqlx::Error::Decode)?;
    match std::str::from_utf8(bytes) {
        Ok(text) if is_text => Ok(Arg::Text(text.to_owned())),
        _ => Ok(Arg::Bytes(bytes.to_vec())),
    }
}

/// A value as JSON that says its type.
#[must_use]
pub fn to_json(value: &Arg) -> serde_json::Value {
    use serde_json::json;
    match value {
        Arg::Null => serde_json::Value::Null,
        Arg::Int(number) => json!(number),
        Arg::Text(text) => json!(text),
        // As text: JSON has neither infinities nor a rule for the last digit.
        Arg::Real(number) => json!({ "real": number.to_string() }),
        Arg::Bytes(bytes) => {
            json!({ "hex": bytes.iter().map(|byte| format!("{byte:02x}")).collect::<String>() })
        }
    }
}

/// The value of such JSON.
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
            let hex = object.get("hex")?.as_str()?;
            let byte = |at: usize| u8::from_str_radix(hex.get(at..at + 2)?, 16).ok();
            (0..hex.len()).step_by(2).map(byte).collect::<Option<Vec<u8>>>().map(Arg::Bytes)
        }
        Value::Bool(_) | Value::Array(_) => None,
    }
}

/// Values as one text that tells them apart; a key of the working file.
#[must_use]
pub fn encode(cells: &[Arg]) -> String {
    serde_json::Value::Array(cells.iter().map(to_json).collect()).to_string()
}

/// The values of such a text.
#[must_use]
pub fn decode(text: &str) -> Option<Cells> {
    let serde_json::Value::Array(values) = serde_json::from_str(text).ok()? else { return None };
    values.iter().map(from_json).collect()
}

/// A value for people.
#[must_use]
pub fn show(value: &Arg) -> String {
    match value {
        Arg::Null => "NULL".to_owned(),
        Arg::Int(number) => number.to_string(),
        Arg::Real(number) => number.to_string(),
        Arg::Text(text) => text.clone(),
        Arg::Bytes(bytes) => format!("0x{}", bytes.iter().map(|byte| format!("{byte:02x}")).collect::<String>()),
    }
}

/// How much of a value is shown beside others.
const SHOWN: usize = 40;

/// The beginning of a value for people.
#[must_use]
pub fn show_short(value: &Arg) -> String {
    let text = show(value);
    if text.chars().count() > SHOWN { format!("{}…", text.chars().take(SHOWN).collect::<String>()) } else { text }
}

/// A key for people, such as `4011` or `12,B`.
#[must_use]
pub fn show_key(key: &[Arg]) -> String {
    key.iter().map(show).collect::<Vec<_>>().join(",")
}

/// The value that a person wrote for a column: a number where the column holds numbers.
#[must_use]
pub fn parse(text: &str, is_whole: bool) -> Arg {
    text.parse().ok().filter(|_| is_whole).map_or_else(|| Arg::Text(text.to_owned()), Arg::Int)
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
        ];
        assert_eq!(decode(&encode(&cells)), Some(cells));
    }

    #[test]
    fn numbers_and_their_text_are_told_apart() {
        assert_ne!(encode(&[Arg::Int(1)]), encode(&[Arg::Text("1".to_owned())]));
        assert_eq!(parse("4011", true), Arg::Int(4011));
        assert_eq!(parse("4011", false), Arg::Text("4011".to_owned()));
    }
}
