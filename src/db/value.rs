//! Statement arguments, and values read from rows.
//!
//! Dates and instants are passed as text in both databases (`2026-03-15`, `2026-03-15 18:30:00.000000`): SQLite has
//! no type for them, and MySQL converts a text parameter once, to the type of the column it is compared with.

use std::fmt;

use chrono::{DateTime, NaiveDate, NaiveDateTime, Timelike, Utc};
use sqlx::{Row as _, Type, TypeInfo, ValueRef};
use sqlx::{mysql::MySqlRow, sqlite::SqliteRow};

/// A value bound to a placeholder.
#[derive(Debug, Clone, PartialEq)]
pub enum Arg {
    /// SQL's NULL.
    Null,
    /// A whole number.
    Int(i64),
    /// A floating-point number.
    Real(f64),
    /// Text; also dates and instants.
    Text(String),
    /// Bytes.
    Bytes(Vec<u8>),
    /// SQLite text that is not UTF-8; the statement has to say `CAST(? AS TEXT)`.
    RawText(Vec<u8>),
}

/// An instant as text that both databases compare correctly.
///
/// A zero fraction is left out: SQLite compares text, and `…:00` sorts before `…:00.000000`, so that a bound in this
/// form is right whichever form the other side uses.
#[must_use]
pub fn instant_text(at: DateTime<Utc>) -> String {
    if at.nanosecond() == 0 {
        at.format("%Y-%m-%d %H:%M:%S").to_string()
    } else {
        at.format("%Y-%m-%d %H:%M:%S%.6f").to_string()
    }
}

/// The text, cut to `characters_max` characters to fit a column.
#[must_use]
pub(crate) fn clipped(text: &str, characters_max: usize) -> String {
    text.chars().take(characters_max).collect()
}

/// A list of ids as JSON, bound as one value.
#[must_use]
pub(crate) fn json_list(ids: &[i64]) -> String {
    let ids: Vec<String> = ids.iter().map(ToString::to_string).collect();
    format!("[{}]", ids.join(","))
}

impl From<i64> for Arg {
    fn from(value: i64) -> Self {
        Self::Int(value)
    }
}

impl From<&i64> for Arg {
    fn from(value: &i64) -> Self {
        Self::Int(*value)
    }
}

impl From<u32> for Arg {
    fn from(value: u32) -> Self {
        Self::Int(i64::from(value))
    }
}

/// Converts numbers that may be too large for a BIGINT: these become its maximum.
macro_rules! saturating {
    ($($ty:ty),*) => {
        $(impl From<$ty> for Arg {
            fn from(value: $ty) -> Self {
                Self::Int(i64::try_from(value).unwrap_or(i64::MAX))
            }
        })*
    };
}

saturating!(usize, u64, u128);

impl From<bool> for Arg {
    fn from(value: bool) -> Self {
        Self::Int(i64::from(value))
    }
}

impl From<&str> for Arg {
    fn from(value: &str) -> Self {
        Self::Text(value.to_owned())
    }
}

impl From<String> for Arg {
    fn from(value: String) -> Self {
        Self::Text(value)
    }
}

impl From<NaiveDate> for Arg {
    fn from(value: NaiveDate) -> Self {
        Self::Text(value.to_string())
    }
}

impl From<DateTime<Utc>> for Arg {
    fn from(value: DateTime<Utc>) -> Self {
        Self::Text(instant_text(value))
    }
}

impl<T: Into<Self>> From<Option<T>> for Arg {
    fn from(value: Option<T>) -> Self {
        value.map_or(Self::Null, Into::into)
    }
}

/// The arguments of a statement: `args![1, "text", None::<i64>]`. `args![1; ids]` appends all items of a list.
#[macro_export]
macro_rules! args {
    ($($value:expr),*; $list:expr) => {{
        let mut args = $crate::args![$($value),*];
        args.extend($list.into_iter().map($crate::db::Arg::from));
        args
    }};
    ($($value:expr),* $(,)?) => {
        vec![$($crate::db::Arg::from($value)),*]
    };
}

/// A row of either database. Columns are read by position.
pub enum Row {
    /// From MySQL or MariaDB.
    MySql(MySqlRow),
    /// From SQLite.
    Sqlite(SqliteRow),
}

impl From<MySqlRow> for Row {
    fn from(row: MySqlRow) -> Self {
        Self::MySql(row)
    }
}

impl From<SqliteRow> for Row {
    fn from(row: SqliteRow) -> Self {
        Self::Sqlite(row)
    }
}

impl fmt::Debug for Row {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Row")
    }
}

/// Reads a column of either row type.
macro_rules! column {
    ($row:expr, $index:expr, $ty:ty) => {
        match $row {
            Row::MySql(row) => row.try_get_unchecked::<Option<$ty>, _>($index),
            Row::Sqlite(row) => row.try_get_unchecked::<Option<$ty>, _>($index),
        }
    };
}

/// A value as the database returns it, borrowed from its row.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Cell<'r> {
    /// SQL's NULL.
    Null,
    /// MySQL: the value in the binary protocol. A date or a time begins with its length, so that a zero date is one
    /// byte, unlike NULL.
    Packed(&'r [u8]),
    /// SQLite: a whole number.
    Int(i64),
    /// SQLite: a floating-point number.
    Real(f64),
    /// SQLite: text.
    Text(&'r [u8]),
    /// SQLite: bytes.
    Blob(&'r [u8]),
}

/// The value of a date or datetime column.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Dated<T> {
    /// NULL.
    Null,
    /// A valid date or moment.
    At(T),
    /// An invalid date, such as `2025-00-00`, which MySQL may accept, or any other text on SQLite: as text that sorts
    /// among dates as it does in the column.
    NoDate(String),
}

impl<T> Dated<T> {
    fn of(read: Result<Option<T>, sqlx::Error>, row: &Row, index: usize) -> Result<Self, sqlx::Error> {
        match read {
            Ok(Some(at)) => Ok(Self::At(at)),
            Ok(None) => Ok(row.no_date(index).map_or(Self::Null, Self::NoDate)),
            Err(error) => row.no_date(index).map(Self::NoDate).ok_or(error),
        }
    }
}

impl Row {
    /// The raw value, whatever its type.
    pub fn cell(&self, index: usize) -> Result<Cell<'_>, sqlx::Error> {
        match self {
            Self::MySql(row) => {
                let raw = row.try_get_raw(index)?;
                // The driver reports a zero date as NULL too; only NULL has no bytes.
                if raw.is_null() && raw.type_info().name() != "DATE" && !raw.type_info().name().contains("TIME") {
                    return Ok(Cell::Null);
                }
                Ok(<&[u8] as sqlx::Decode<sqlx::MySql>>::decode(raw).map_or(Cell::Null, Cell::Packed))
            }
            Self::Sqlite(row) => {
                let raw = row.try_get_raw(index)?;
                if raw.is_null() {
                    return Ok(Cell::Null);
                }
                // The storage class of this value, whatever type its column declares.
                Ok(match raw.type_info().name() {
                    "INTEGER" => Cell::Int(row.try_get_unchecked(index)?),
                    "REAL" => Cell::Real(row.try_get_unchecked(index)?),
                    "TEXT" => Cell::Text(row.try_get_unchecked(index)?),
                    _ => Cell::Blob(row.try_get_unchecked(index)?),
                })
            }
        }
    }

    /// The position of a named column.
    #[must_use]
    pub fn position(&self, name: &str) -> Option<usize> {
        use sqlx::Column as _;
        match self {
            Self::MySql(row) => row.columns().iter().position(|c| c.name() == name),
            Self::Sqlite(row) => row.columns().iter().position(|c| c.name() == name),
        }
    }

    /// A whole number of any width and sign, or NULL.
    pub fn int_or_null(&self, index: usize) -> Result<Option<i64>, sqlx::Error> {
        match self {
            Self::MySql(row) => {
                let raw = row.try_get_raw(index)?;
                if raw.is_null() {
                    return Ok(None);
                }
                let info = raw.type_info().into_owned();
                let failed = |source| sqlx::Error::ColumnDecode { index: index.to_string(), source };
                let is_signed = <i64 as Type<sqlx::MySql>>::compatible(&info);
                if !is_signed && <u64 as Type<sqlx::MySql>>::compatible(&info) {
                    let wide: u64 = sqlx::Decode::<sqlx::MySql>::decode(raw).map_err(failed)?;
                    i64::try_from(wide).map(Some).map_err(|_| not_a(index, "a BIGINT", &wide.to_string()))
                } else if is_signed || <bool as Type<sqlx::MySql>>::compatible(&info) {
                    sqlx::Decode::<sqlx::MySql>::decode(raw).map(Some).map_err(failed)
                } else {
                    Err(not_a(index, "a whole number", info.name()))
                }
            }
            Self::Sqlite(row) => {
                let raw = row.try_get_raw(index)?;
                if raw.is_null() {
                    return Ok(None);
                }
                match raw.type_info().name() {
                    "INTEGER" | "BOOLEAN" => row.try_get_unchecked(index),
                    other => Err(not_a(index, "a whole number", other)),
                }
            }
        }
    }

    /// A whole number; NULL is an error.
    pub fn int(&self, index: usize) -> Result<i64, sqlx::Error> {
        self.int_or_null(index)?.ok_or_else(|| null_in(index))
    }

    /// A number, possibly fractional, such as a SUM or an average; NULL is an error.
    pub fn real(&self, index: usize) -> Result<f64, sqlx::Error> {
        let (is_decimal, is_real) = match self {
            Self::MySql(row) => {
                let info = row.try_get_raw(index)?.type_info().into_owned();
                (info.name() == "DECIMAL", ["FLOAT", "DOUBLE"].contains(&info.name()))
            }
            Self::Sqlite(row) => (false, row.try_get_raw(index)?.type_info().name() == "REAL"),
        };
        if is_real {
            column!(self, index, f64)?.ok_or_else(|| null_in(index))
        } else if is_decimal {
            let text = self.text(index)?;
            text.parse().map_err(|_| not_a(index, "a number", &text))
        } else {
            Ok(self.int(index)? as f64)
        }
    }

    /// The value of a condition: whether a whole number is not 0; NULL is an error.
    pub fn flag(&self, index: usize) -> Result<bool, sqlx::Error> {
        Ok(self.int(index)? != 0)
    }

    /// Text or NULL.
    pub fn text_or_null(&self, index: usize) -> Result<Option<String>, sqlx::Error> {
        column!(self, index, String)
    }

    /// Borrowed text; NULL is an error.
    pub fn str(&self, index: usize) -> Result<&str, sqlx::Error> {
        self.str_or_null(index)?.ok_or_else(|| null_in(index))
    }

    /// Borrowed text or NULL.
    pub fn str_or_null(&self, index: usize) -> Result<Option<&str>, sqlx::Error> {
        column!(self, index, &str)
    }

    /// Text; NULL is an error.
    pub fn text(&self, index: usize) -> Result<String, sqlx::Error> {
        self.text_or_null(index)?.ok_or_else(|| null_in(index))
    }

    /// A calendar date or NULL.
    pub fn date_or_null(&self, index: usize) -> Result<Option<NaiveDate>, sqlx::Error> {
        match self {
            Self::MySql(row) => row.try_get_unchecked(index),
            Self::Sqlite(row) => row
                .try_get_unchecked::<Option<&str>, _>(index)?
                .map(|text| {
                    text.get(..10).and_then(|date| date.parse().ok()).ok_or_else(|| not_a(index, "a date", text))
                })
                .transpose(),
        }
    }

    /// A calendar date; NULL is an error.
    pub fn date(&self, index: usize) -> Result<NaiveDate, sqlx::Error> {
        self.date_or_null(index)?.ok_or_else(|| null_in(index))
    }

    /// A UTC instant (a DATETIME that holds UTC) or NULL.
    pub fn instant_or_null(&self, index: usize) -> Result<Option<DateTime<Utc>>, sqlx::Error> {
        match self {
            Self::MySql(row) => Ok(row.try_get_unchecked::<Option<NaiveDateTime>, _>(index)?.map(|at| at.and_utc())),
            Self::Sqlite(row) => row
                .try_get_unchecked::<Option<&str>, _>(index)?
                .map(|text| {
                    // No other format: SQLite compares text, and `2026-03-15T04:00` sorts after every boundary of its
                    // date, so it would be counted for the wrong day.
                    NaiveDateTime::parse_from_str(text, "%Y-%m-%d %H:%M:%S%.f")
                        .map(|at| at.and_utc())
                        .map_err(|_| not_a(index, "a UTC date and time such as 2026-03-15 04:00:00", text))
                })
                .transpose(),
        }
    }

    /// A calendar date, which may be invalid or NULL.
    pub fn day(&self, index: usize) -> Result<Dated<NaiveDate>, sqlx::Error> {
        Dated::of(self.date_or_null(index), self, index)
    }

    /// A UTC instant, which may be invalid or NULL.
    pub fn moment(&self, index: usize) -> Result<Dated<DateTime<Utc>>, sqlx::Error> {
        Dated::of(self.instant_or_null(index), self, index)
    }

    /// The text of an invalid date; `None` for NULL, and in a column that holds no dates.
    fn no_date(&self, index: usize) -> Option<String> {
        if let Self::MySql(row) = self
            && !matches!(row.try_get_raw(index).ok()?.type_info().name(), "DATE" | "DATETIME" | "TIMESTAMP")
        {
            return None;
        }
        match self.cell(index).ok()? {
            Cell::Packed([_, low, high, month, day, ..]) => {
                Some(format!("{:04}-{month:02}-{day:02}", u16::from_le_bytes([*low, *high])))
            }
            Cell::Packed([_]) => Some("0000-00-00".to_owned()),
            Cell::Text(text) | Cell::Blob(text) => Some(String::from_utf8_lossy(text).into_owned()),
            _ => None,
        }
    }

    /// A UTC instant; NULL is an error.
    pub fn instant(&self, index: usize) -> Result<DateTime<Utc>, sqlx::Error> {
        self.instant_or_null(index)?.ok_or_else(|| null_in(index))
    }
}

fn null_in(index: usize) -> sqlx::Error {
    sqlx::Error::Decode(format!("column {} is NULL", index + 1).into())
}

fn not_a(index: usize, wanted: &str, found: &str) -> sqlx::Error {
    sqlx::Error::Decode(format!("column {}: expected {wanted}, found {found}", index + 1).into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_clipped_is_counted_in_characters() {
        assert_eq!(clipped("Zoë's lab", 3), "Zoë");
        assert_eq!(clipped("Zoë", 3), "Zoë");
    }
}
