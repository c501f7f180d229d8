//! The format, version 1.
//!
//! `NAME.sqlite.zst` is a SQLite database, compressed with zstd: `zstd -d` and any SQLite tool open
//! it. Each table has its own name and its columns theirs, without a declared type, so that SQLite
//! converts nothing; its rows are kept by their key. `_daymend_tables` repeats what the manifest
//! says of each table, so that the file stands alone.
//!
//! What a value becomes is in [`value`]; what is hashed is in [`row`].

pub mod manifest;
pub mod open;
pub(super) mod pack;
pub mod row;
pub mod value;
pub(super) mod write;

/// The table that describes the others.
pub const TABLES: &str = "_daymend_tables";
