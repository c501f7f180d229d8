//! Every statement of the program can be prepared on both databases.

use daymend::{
    db::{Dialect, Mode, Query, Statement},
    recompute::stored,
    rollup::{Rollups, source},
};

use crate::{
    on_both,
    support::{Engine, TestDb},
};

on_both! {
    every_statement_prepares;
}

async fn every_statement_prepares(engine: Engine) {
    let db = TestDb::new(engine).await;
    let mut tx = db.db.begin(Mode::Write).await.unwrap();
    let mut prepared = 0;
    for statement in Statement::all() {
        let other = match tx.dialect() {
            Dialect::MySql => "(sqlite)",
            Dialect::Sqlite => "(mysql)",
        };
        if statement.name.ends_with(other) {
            continue;
        }
        let sql = statement.with_list(3).replace("{rows}", &daymend::db::repeat(statement.row, 3));
        tx.columns(Query::new(statement.name, sql))
            .await
            .unwrap_or_else(|error| panic!("{}", daymend::error::chain(&error)));
        prepared += 1;
    }
    assert!(prepared > 30, "only {prepared} statements are registered");
    for rollup in Rollups::load(None).unwrap().iter() {
        assert_eq!(source::check(&mut tx, rollup).await, Vec::<String>::new());
        assert_eq!(stored::check(&mut tx, rollup).await, None);
    }
}
