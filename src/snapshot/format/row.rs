//! A row as bytes: for hashing, and for passing rows from the reader to the writer.
//!
//! Each value is a tag followed by its content: 0 NULL; 1 a whole number, eight bytes; 2 a floating-point number,
//! eight bytes; 3 text and 4 bytes, each with a four-byte length before the content. Numbers are little-endian. A
//! table's hash is the SHA-256 of its rows, concatenated in the order of the key by SQLite's rules.

use std::cmp::Ordering;

use rusqlite::types::ValueRef;
use sha2::{Digest as _, Sha256};

const NULL: u8 = 0;
const INT: u8 = 1;
const REAL: u8 = 2;
const TEXT: u8 = 3;
const BLOB: u8 = 4;

/// Appends NULL.
pub fn put_null(out: &mut Vec<u8>) {
    out.push(NULL);
}

/// Appends a whole number.
pub fn put_int(out: &mut Vec<u8>, value: i64) {
    out.push(INT);
    out.extend_from_slice(&value.to_le_bytes());
}

/// Appends a floating-point number.
pub fn put_real(out: &mut Vec<u8>, value: f64) {
    out.push(REAL);
    out.extend_from_slice(&value.to_le_bytes());
}

/// Appends text.
pub fn put_text(out: &mut Vec<u8>, value: &[u8]) {
    put_bytes(out, TEXT, value);
}

/// Appends bytes.
pub fn put_blob(out: &mut Vec<u8>, value: &[u8]) {
    put_bytes(out, BLOB, value);
}

fn put_bytes(out: &mut Vec<u8>, tag: u8, value: &[u8]) {
    out.push(tag);
    // No server sends a value of 4 GiB, and SQLite does not store one.
    out.extend_from_slice(&u32::try_from(value.len()).unwrap_or(u32::MAX).to_le_bytes());
    out.extend_from_slice(value);
}

/// Appends a SQLite value.
pub fn put(out: &mut Vec<u8>, value: ValueRef<'_>) {
    match value {
        ValueRef::Null => put_null(out),
        ValueRef::Integer(value) => put_int(out, value),
        ValueRef::Real(value) => put_real(out, value),
        ValueRef::Text(value) => put_text(out, value),
        ValueRef::Blob(value) => put_blob(out, value),
    }
}

/// Removes the first value from `bytes` and returns it; `None` at the end.
pub fn take<'a>(bytes: &mut &'a [u8]) -> Option<ValueRef<'a>> {
    let (tag, rest) = bytes.split_first()?;
    let (value, rest) = match *tag {
        NULL => (ValueRef::Null, rest),
        INT | REAL => {
            let (number, rest) = rest.split_first_chunk::<8>()?;
            let number = i64::from_le_bytes(*number);
            let real = || ValueRef::Real(f64::from_bits(number.cast_unsigned()));
            (if *tag == INT { ValueRef::Integer(number) } else { real() }, rest)
        }
        _ => {
            let (length, rest) = rest.split_first_chunk::<4>()?;
            let (value, rest) = rest.split_at_checked(u32::from_le_bytes(*length) as usize)?;
            (if *tag == TEXT { ValueRef::Text(value) } else { ValueRef::Blob(value) }, rest)
        }
    };
    *bytes = rest;
    Some(value)
}

/// SQLite's order: NULL, then numbers, then text, then bytes; text and bytes are compared byte by byte.
#[must_use]
pub fn compare(a: ValueRef<'_>, b: ValueRef<'_>) -> Ordering {
    let class = |value: ValueRef<'_>| match value {
        ValueRef::Null => 0,
        ValueRef::Integer(_) | ValueRef::Real(_) => 1,
        ValueRef::Text(_) => 2,
        ValueRef::Blob(_) => 3,
    };
    match (a, b) {
        (ValueRef::Integer(a), ValueRef::Integer(b)) => a.cmp(&b),
        (ValueRef::Real(a), ValueRef::Real(b)) => a.total_cmp(&b),
        (ValueRef::Integer(a), ValueRef::Real(b)) => (a as f64).total_cmp(&b),
        (ValueRef::Real(a), ValueRef::Integer(b)) => a.total_cmp(&(b as f64)),
        (ValueRef::Text(a), ValueRef::Text(b)) | (ValueRef::Blob(a), ValueRef::Blob(b)) => a.cmp(b),
        _ => class(a).cmp(&class(b)),
    }
}

/// Hashes rows.
#[derive(Debug, Default, Clone)]
pub struct Hasher(Sha256);

impl Hasher {
    /// Adds a row, or several concatenated ones.
    pub fn rows(&mut self, bytes: &[u8]) {
        self.0.update(bytes);
    }

    /// The hash, in hexadecimal.
    #[must_use]
    pub fn finish(self) -> String {
        hex::encode(self.0.finalize())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_put_is_taken() {
        let values = [
            ValueRef::Null,
            ValueRef::Integer(i64::MIN),
            ValueRef::Real(-0.0),
            ValueRef::Text(b""),
            ValueRef::Text("🩸".as_bytes()),
            ValueRef::Blob(b"\0\x01"),
        ];
        let mut bytes = Vec::new();
        values.iter().for_each(|value| put(&mut bytes, *value));
        let mut rest = bytes.as_slice();
        for value in values {
            assert_eq!(take(&mut rest), Some(value));
        }
        assert_eq!(take(&mut rest), None);
        assert_eq!(take(&mut &bytes[..1]), Some(ValueRef::Null));
        assert_eq!(take(&mut &bytes[1..5]), None, "cut off");
    }

    #[test]
    fn the_order_is_that_of_sqlite() {
        let sorted = [
            ValueRef::Null,
            ValueRef::Integer(-3),
            ValueRef::Real(2.5),
            ValueRef::Integer(3),
            ValueRef::Text(b"B"),
            ValueRef::Text(b"a"),
            ValueRef::Blob(b""),
        ];
        for pair in sorted.windows(2) {
            assert_eq!(compare(pair[0], pair[1]), Ordering::Less, "{pair:?}");
        }
    }
}
