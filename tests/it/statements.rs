//! Every statement of the program can be prepared on both databases; on MariaDB with the privileges of the user that
//! runs it.

use std::{fs, path::Path};

use daymend::{
    db::{ConnectOptions, Dialect, Query, Statement, connect, repeat},
    recompute::stored::{self, Access},
    rollup::{Rollups, source},
};

use crate::{
    on_both,
    support::{Engine, TestDb},
};

/// Counts the statements that the source declares: those that the registry loses would not be prepared.
fn declared(folder: &Path) -> usize {
    let entries = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
    let in_file = |path: &Path| {
        let text = fs::read_to_string(path).unwrap();
        text.lines().filter(|line| line.trim_start().starts_with("statement!(")).count()
    };
    entries.map(|path| if path.is_dir() { declared(&path) } else { in_file(&path) }).sum()
}

/// The text with three placeholders for a list, and with three rows.
pub fn written_out(statement: &Statement) -> String {
    statement.with_list(3).sql().replace("{rows}", &repeat(statement.row, 3))
}

/// Whether only `daymend migrate` runs it.
pub fn is_of_migrate(statement: &Statement) -> bool {
    statement.name == "schema record"
}

on_both! {
    every_statement_prepares;
}

async fn every_statement_prepares(engine: Engine) {
    let db = TestDb::new(engine).await;
    let migrating = connect(&db.migrate_url, ConnectOptions::new(1)).unwrap();
    assert_eq!(Statement::all().count(), declared(Path::new("src")));
    for statement in Statement::all() {
        let other = match db.db.dialect() {
            Dialect::MySql => "(sqlite)",
            Dialect::Sqlite => "(mysql)",
        };
        if statement.name.ends_with(other) {
            continue;
        }
        let user = if is_of_migrate(statement) { &migrating } else { &db.db };
        let prepare = user.columns(Query::new(statement.name, written_out(statement)));
        prepare.await.unwrap_or_else(|error| panic!("{}", daymend::error::chain(&error)));
    }
    for rollup in Rollups::load(None).unwrap().iter() {
        assert_eq!(source::check(&db.db, rollup).await.unwrap(), []);
        assert_eq!(stored::check(&db.db, rollup, Access::Write).await.unwrap(), None);
    }
}
