//! How database values are converted.
//!
//! Whole numbers become INTEGER, except that BIGINT UNSIGNED values too large for it, and DECIMALs, become the TEXT
//! of the number. FLOAT and DOUBLE become REAL. Dates and times become TEXT as the server prints them: with as many
//! decimal places as declared, zero dates as zeros, TIMESTAMPs in UTC. Characters, ENUM, SET and JSON become TEXT,
//! everything else BLOB. Values from SQLite stay as they are.
//!
//! MySQL's values are decoded from the binary protocol, where a FLOAT has all of its bits.

use rusqlite::types::ValueRef;

use super::row;
use crate::{
    db::{Cell, Row},
    snapshot::schema::Column,
};

/// A value in a snapshot.
#[derive(Debug, Clone, PartialEq)]
pub enum Value {
    /// NULL.
    Null,
    /// INTEGER.
    Int(i64),
    /// REAL.
    Real(f64),
    /// TEXT; not always UTF-8 if it comes from SQLite.
    Text(Vec<u8>),
    /// BLOB.
    Blob(Vec<u8>),
}

impl From<ValueRef<'_>> for Value {
    fn from(value: ValueRef<'_>) -> Self {
        match value {
            ValueRef::Null => Self::Null,
            ValueRef::Integer(value) => Self::Int(value),
            ValueRef::Real(value) => Self::Real(value),
            ValueRef::Text(value) => Self::Text(value.to_owned()),
            ValueRef::Blob(value) => Self::Blob(value.to_owned()),
        }
    }
}

/// How MySQL's values of a column are read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Int,
    Unsigned,
    Real,
    Text,
    Blob,
    Year,
    Date,
    /// DATETIME or TIMESTAMP with that many decimal places.
    Moment(u8),
    Time(u8),
}

impl Kind {
    /// By the declared type, such as `bigint(20) unsigned` or `datetime(6)`.
    fn of(column: &Column) -> Self {
        let places = || {
            let inside = column.sql_type.split_once('(').and_then(|(_, rest)| rest.split_once(')'));
            inside.and_then(|(places, _)| places.parse().ok()).unwrap_or(0)
        };
        match column.type_word().as_str() {
            _ if column.is_whole() => {
                if column.is_unsigned() {
                    Self::Unsigned
                } else {
                    Self::Int
                }
            }
            "float" | "double" | "real" => Self::Real,
            "decimal" | "numeric" | "char" | "varchar" | "tinytext" | "text" | "mediumtext" | "longtext" | "enum"
            | "set" | "json" | "uuid" | "inet4" | "inet6" => Self::Text,
            "year" => Self::Year,
            "date" => Self::Date,
            "datetime" | "timestamp" => Self::Moment(places()),
            "time" => Self::Time(places()),
            _ => Self::Blob,
        }
    }
}

/// Decodes the rows of a table.
#[derive(Debug)]
pub struct Decoder(Vec<Kind>);

impl Decoder {
    /// A decoder for a SELECT of these columns, in this order.
    #[must_use]
    pub fn new(columns: &[Column]) -> Self {
        Self(columns.iter().map(Kind::of).collect())
    }

    /// Appends a row in the encoding of [`row`].
    pub fn encode(&self, from: &Row, out: &mut Vec<u8>) -> Result<(), sqlx::Error> {
        for (index, kind) in self.0.iter().enumerate() {
            match from.cell(index)? {
                Cell::Null => row::put_null(out),
                Cell::Int(value) => row::put_int(out, value),
                Cell::Real(value) => row::put_real(out, value),
                Cell::Text(value) => row::put_text(out, value),
                Cell::Blob(value) => row::put_blob(out, value),
                Cell::Packed(bytes) => unpack(*kind, bytes, out).ok_or_else(|| {
                    sqlx::Error::Decode(
                        format!("column {}: {} bytes are not a {kind:?}", index + 1, bytes.len()).into(),
                    )
                })?,
            }
        }
        Ok(())
    }

    /// The values of a row.
    pub fn values(&self, from: &Row) -> Result<Vec<Value>, sqlx::Error> {
        let mut bytes = Vec::new();
        self.encode(from, &mut bytes)?;
        let mut rest = bytes.as_slice();
        Ok(std::iter::from_fn(|| row::take(&mut rest)).map(Value::from).collect())
    }
}

/// Reads a value of the binary protocol; `None` if it is not what the column declares.
fn unpack(kind: Kind, bytes: &[u8], out: &mut Vec<u8>) -> Option<()> {
    match kind {
        Kind::Int => row::put_int(
            out,
            match bytes.len() {
                1 => i64::from(bytes[0].cast_signed()),
                2 => i64::from(i16::from_le_bytes(bytes.try_into().ok()?)),
                4 => i64::from(i32::from_le_bytes(bytes.try_into().ok()?)),
                _ => i64::from_le_bytes(bytes.try_into().ok()?),
            },
        ),
        Kind::Unsigned => {
            let mut wide = [0; 8];
            wide.get_mut(..bytes.len())?.copy_from_slice(bytes);
            let value = u64::from_le_bytes(wide);
            match i64::try_from(value) {
                Ok(value) => row::put_int(out, value),
                Err(_) => row::put_text(out, value.to_string().as_bytes()),
            }
        }
        Kind::Real if bytes.len() == 4 => {
            row::put_real(out, f64::from(f32::from_le_bytes(bytes.try_into().ok()?)));
        }
        Kind::Real => row::put_real(out, f64::from_le_bytes(bytes.try_into().ok()?)),
        Kind::Text => row::put_text(out, bytes),
        Kind::Blob => row::put_blob(out, bytes),
        Kind::Year => {
            let mut text = Digits::new();
            text.number(u32::from(u16::from_le_bytes(bytes.try_into().ok()?)), 4);
            row::put_text(out, text.bytes());
        }
        Kind::Date => {
            let mut text = Digits::new();
            text.date(bytes.get(1..)?)?;
            row::put_text(out, text.bytes());
        }
        Kind::Moment(places) => {
            let mut text = Digits::new();
            let rest = bytes.get(1..)?;
            text.date(rest)?;
            text.push(b' ');
            text.clock(0, rest.get(4..).unwrap_or_default(), places)?;
            row::put_text(out, text.bytes());
        }
        Kind::Time(places) => {
            let mut text = Digits::new();
            let rest = bytes.get(1..)?;
            let (mut days, mut clock) = (0, rest);
            if let Some((sign, after)) = rest.split_first() {
                if *sign != 0 {
                    text.push(b'-');
                }
                let (count, after) = after.split_first_chunk::<4>()?;
                (days, clock) = (u32::from_le_bytes(*count), after);
            }
            text.clock(days, clock, places)?;
            row::put_text(out, text.bytes());
        }
    }
    Some(())
}

/// A date or a time that is being converted to text.
struct Digits {
    text: [u8; 40],
    length: usize,
}

impl Digits {
    fn new() -> Self {
        Self { text: [0; 40], length: 0 }
    }

    fn push(&mut self, byte: u8) {
        self.text[self.length] = byte;
        self.length += 1;
    }

    /// Appends a number with at least `digits` digits.
    fn number(&mut self, value: u32, digits: u32) {
        let digits = digits.max(value.checked_ilog10().map_or(1, |log| log + 1));
        for place in (0..digits).rev() {
            self.push(b'0' + u8::try_from(value / 10_u32.pow(place) % 10).unwrap_or(0));
        }
    }

    /// Appends the date at the beginning of a packed moment; zeros if there is none.
    fn date(&mut self, packed: &[u8]) -> Option<()> {
        let [low, high, month, day] = match packed {
            [] => [0; 4],
            packed => *packed.first_chunk()?,
        };
        self.number(u32::from(u16::from_le_bytes([low, high])), 4);
        for number in [month, day] {
            self.push(b'-');
            self.number(u32::from(number), 2);
        }
        Some(())
    }

    /// Appends the hours, minutes, seconds and microseconds of a packed moment; zeros if there are none.
    fn clock(&mut self, days: u32, packed: &[u8], places: u8) -> Option<()> {
        let [hours, minutes, seconds] = match packed {
            [] => [0; 3],
            packed => *packed.first_chunk()?,
        };
        self.number(days * 24 + u32::from(hours), 2);
        for number in [minutes, seconds] {
            self.push(b':');
            self.number(u32::from(number), 2);
        }
        let places = u32::from(places.min(6));
        if places > 0 {
            let micros = packed.get(3..7).map_or(Some(0), |bytes| bytes.try_into().ok().map(u32::from_le_bytes))?;
            self.push(b'.');
            self.number(micros / 10_u32.pow(6 - places), places);
        }
        Some(())
    }

    fn bytes(&self) -> &[u8] {
        &self.text[..self.length]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn column(sql_type: &str) -> Column {
        Column { name: "c".to_owned(), sql_type: sql_type.to_owned(), nullable: true, generated: false }
    }

    fn text(sql_type: &str, packed: &[u8]) -> Value {
        let mut out = Vec::new();
        unpack(Kind::of(&column(sql_type)), packed, &mut out).unwrap();
        row::take(&mut out.as_slice()).unwrap().into()
    }

    #[test]
    fn every_type_has_its_kind() {
        for (sql_type, kind) in [
            ("bigint(20) unsigned", Kind::Unsigned),
            ("tinyint(1)", Kind::Int),
            ("int(10) unsigned zerofill", Kind::Unsigned),
            ("double", Kind::Real),
            ("decimal(65,30)", Kind::Text),
            ("enum('datetime(6)','b')", Kind::Text),
            ("datetime", Kind::Moment(0)),
            ("timestamp(3)", Kind::Moment(3)),
            ("time(6)", Kind::Time(6)),
            ("year(4)", Kind::Year),
            ("bit(12)", Kind::Blob),
            ("varbinary(7)", Kind::Blob),
            ("point", Kind::Blob),
        ] {
            assert_eq!(Kind::of(&column(sql_type)), kind, "{sql_type}");
        }
    }

    #[test]
    fn moments_are_printed_as_the_server_does() {
        let expect = |text: &str| Value::Text(text.as_bytes().to_vec());
        assert_eq!(text("date", &[0]), expect("0000-00-00"));
        assert_eq!(text("date", &[4, 0xea, 7, 11, 5]), expect("2026-11-05"));
        assert_eq!(text("datetime(6)", &[0]), expect("0000-00-00 00:00:00.000000"));
        assert_eq!(text("datetime(6)", &[4, 0xea, 7, 1, 2]), expect("2026-01-02 00:00:00.000000"));
        assert_eq!(text("datetime", &[7, 0xea, 7, 1, 2, 3, 4, 5]), expect("2026-01-02 03:04:05"));
        assert_eq!(
            text("timestamp(3)", &[11, 0xea, 7, 1, 2, 3, 4, 5, 0x40, 0xe2, 1, 0]),
            expect("2026-01-02 03:04:05.123")
        );
        assert_eq!(text("time(2)", &[0]), expect("00:00:00.00"));
        assert_eq!(text("time", &[8, 1, 34, 0, 0, 0, 22, 59, 59]), expect("-838:59:59"));
        assert_eq!(text("year(4)", &[0, 0]), expect("0000"));
    }

    #[test]
    fn numbers_keep_their_sign_and_width() {
        assert_eq!(text("tinyint(4)", &[0xff]), Value::Int(-1));
        assert_eq!(text("tinyint(3) unsigned", &[0xff]), Value::Int(255));
        assert_eq!(text("bigint(20) unsigned", &[0xff; 8]), Value::Text(b"18446744073709551615".to_vec()));
        assert_eq!(text("float", &0.1_f32.to_le_bytes()), Value::Real(f64::from(0.1_f32)));
        assert_eq!(unpack(Kind::Real, &[1, 2], &mut Vec::new()), None);
    }
}
