//! The format of snapshots.
//!
//! `NAME.sqlite.zst` is a SQLite database, compressed with zstd: it opens with `zstd -d` and any SQLite tool. Tables
//! and columns keep their names; columns have no declared type, so that SQLite converts nothing, and rows are stored
//! by their key. `_daymend_tables` repeats what the manifest says about each table, so that the file is
//! self-contained.
//!
//! [`value`] says how values are converted, [`row`] what is hashed.

pub mod manifest;
pub mod open;
pub(super) mod pack;
pub mod row;
pub mod value;
pub(super) mod write;

/// The table that describes the others.
pub const TABLES: &str = "_daymend_tables";
