//! The references and identities that jobs/ and `--relations` declare.

use std::path::PathBuf;

use super::{Global, usage};
use crate::{
    error::chain,
    snapshot::{restore::relations::Relations, side::Side},
};

/// What jobs/ and the given files declare; a file has to fit, while parts of jobs/ that do not fit are ignored.
pub(in crate::cli::snapshot) fn all(
    global: &Global,
    files: &[PathBuf],
    old: &Side,
    new: &Side,
) -> anyhow::Result<Relations> {
    let mut relations = of_jobs(global, old, new)?;
    relations.extend(given(files, old, new)?);
    Ok(relations)
}

/// What jobs/ declare, as far as both sides have the tables.
pub(super) fn of_jobs(global: &Global, old: &Side, new: &Side) -> anyhow::Result<Relations> {
    let mut relations = Relations::of_jobs(global.jobs_dir.as_deref()).map_err(|error| usage(chain(&error)))?;
    relations.retain_tables(|name| old.tables.contains_key(name) && new.tables.contains_key(name));
    Ok(relations)
}

/// What these files declare; the snapshot has to have their tables and columns.
pub(super) fn given(files: &[PathBuf], old: &Side, new: &Side) -> anyhow::Result<Relations> {
    let has_table = |name: &str| old.tables.contains_key(name) && new.tables.contains_key(name);
    let mut relations = Relations::default();
    for file in files {
        let mut given = Relations::read(file).map_err(|error| usage(chain(&error)))?;
        let file = file.display();
        for (table, column) in given.columns() {
            if let Some(known) = old.tables.get(table)
                && known.position(column).is_none()
            {
                return Err(usage(format!("{file}: table {table} has no column {column}")));
            }
        }
        let is_known = |name: &str| old.tables.contains_key(name);
        if let Some(dropped) = given.clone().retain_tables(is_known).first() {
            return Err(usage(format!("{file}: {dropped}: there is no such table in {}", old.label)));
        }
        given.retain_tables(has_table);
        relations.extend(given);
    }
    Ok(relations)
}
