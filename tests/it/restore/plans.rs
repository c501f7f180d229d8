//! The plan and its working file, whatever happens meanwhile.

use std::time::{Duration, Instant};

use daymend::{
    args,
    db::{ConnectOptions, Db, Mode, Query, connect},
    error::chain,
    snapshot::{
        self, Name, Opened, Store,
        restore::{
            Context,
            apply::Apply,
            candidates::{Candidates, State},
            exclude::Exclusions,
            plan,
            relations::Relations,
            report::Report,
            undo_file::{Header, LockedFile, Record, Tables},
        },
        side::Side,
    },
};

use super::{
    Scene,
    cases::{PEOPLE, people},
    inserts, rows,
};
use crate::{on_both, support::Engine};

on_both! {
    a_tree_is_found_again_however_deep;
    what_is_committed_is_not_inserted_again;
    who_is_entered_again_while_a_restore_runs_is_not_there_twice;
    who_takes_an_id_while_a_restore_runs_is_referred_to_by_nobody;
    rows_of_one_identity_that_vanished_together_come_back_together;
    a_reference_by_another_column_reads_no_whole_table;
    references_that_nobody_can_look_at_are_no_success;
}

/// A restore in this process, so that its working file can be changed.
pub(super) struct Restore {
    pub(super) context: Context,
    _opened: Opened,
    dir: tempfile::TempDir,
}

impl Restore {
    async fn new(scene: &Scene, name: Name, live: &Db, tables: &[&str]) -> Self {
        Self::by(scene, name, live, tables, Relations::default()).await
    }

    pub(super) async fn by(scene: &Scene, name: Name, live: &Db, tables: &[&str], relations: Relations) -> Self {
        let opened = snapshot::open(&Store::dir(scene.path("snapshots")), name).await.unwrap();
        let old = Side::snapshot(&opened.manifest, &opened.db);
        let live = Side::live(live, old.tables.keys().map(String::as_str)).await.unwrap();
        let tables: Vec<String> = tables.iter().map(|table| (*table).to_owned()).collect();
        let dir = tempfile::tempdir().unwrap();
        let work = Candidates::within(dir.path()).await.unwrap();
        let context = Context::new(old, live, &tables, relations, work).unwrap();
        Self { context, _opened: opened, dir }
    }

    /// Runs statements on the working file.
    fn tamper(&self, sql: &str) {
        let mut made = std::fs::read_dir(self.dir.path()).unwrap().map(|entry| entry.unwrap().path());
        let dir = made.find(|path| path.is_dir()).unwrap();
        rusqlite::Connection::open(dir.join("plan.sqlite")).unwrap().execute_batch(sql).unwrap();
    }
}

async fn a_tree_is_found_again_however_deep(engine: Engine) {
    const DEPTH: i64 = 12;
    let table = "CREATE TABLE nodes (id BIGINT NOT NULL PRIMARY KEY, parent BIGINT NULL, name VARCHAR(20) NOT NULL,
        FOREIGN KEY (parent) REFERENCES nodes (id))";
    let scene = Scene::new(engine, &[table]).await;
    scene.db.execute("INSERT INTO nodes VALUES (1, NULL, 'root')", args![]).await;
    let chain = async |first: i64| {
        for level in 0..DEPTH {
            let parent = if level == 0 { 1 } else { first + level - 1 };
            scene.db.execute("INSERT INTO nodes VALUES (?, ?, 'n')", args![first + level, parent]).await;
        }
    };
    chain(2).await;
    let name = scene.take().await.to_string();
    for id in (2..2 + DEPTH).rev() {
        scene.db.execute("DELETE FROM nodes WHERE id = ?", args![id]).await;
    }
    // The whole tree is entered again under other keys. Each level is identified by the one above it.
    chain(102).await;
    let relations = scene.file("r.toml", "[[identity]]\ntable = 'nodes'\ncolumns = ['parent', 'name']\n");
    let report = scene.json(0, &["restore", &name, "--missing", "--apply", "--relations", &relations]);
    assert_eq!(rows(&report, "mapped")["nodes"], DEPTH, "{report}");
    assert_eq!(scene.db.number("SELECT COUNT(*) FROM nodes").await, 1 + DEPTH, "{report}");
}

async fn what_is_committed_is_not_inserted_again(engine: Engine) {
    let scene = people(engine).await;
    let name = scene.take().await;
    scene.execute_all(&["DELETE FROM pets"]).await;
    let restore = Restore::new(&scene, name, &scene.db.admin, &[]).await;
    let context = &restore.context;
    plan::plan(context, &Exclusions::default(), None, |_| {}).await.unwrap();
    // An error of the working file must not count as a rejection of the row by the lab system's database.
    restore.tamper(
        "CREATE TRIGGER full BEFORE UPDATE ON candidates WHEN NEW.state = 'restored'
         BEGIN SELECT RAISE(ABORT, 'the disk is full'); END",
    );
    let locked = LockedFile::create(&scene.path("undo.jsonl")).unwrap();
    let shape = |table: usize| (context.shapes[table].columns.clone(), context.shapes[table].key.clone());
    let tables = (0..context.shapes.len()).map(|table| (context.shapes[table].table.clone(), shape(table))).collect();
    let undo = locked.writer(&Header::new(&name.to_string(), &scene.db.admin, tables).await.unwrap()).unwrap();
    let mut progress = |_| {};
    let apply = Apply::new(context, undo, &mut locked.reader().unwrap(), &mut progress).await.unwrap();
    let error = apply.run().await.expect_err("the restore cannot go on");
    let said = chain(error.as_ref());
    assert!(said.starts_with("the restore stopped half-way: 9 row(s) were committed before"), "{said}");
    assert!(said.contains("the disk is full") && said.contains("undo.jsonl`"), "{said}");
    assert_eq!(scene.db.number("SELECT COUNT(*) FROM pets").await, 9);
    let deferred = context.work.counts().await.unwrap().into_iter().filter(|count| count.state == State::Deferred);
    assert_eq!(deferred.count(), 0, "the rows are inserted, not deferred");
    let mut reader = locked.reader().unwrap();
    let records = reader.read(0..reader.len()).unwrap();
    assert_eq!(records.iter().filter(|record| matches!(record, Record::Insert { .. })).count(), 9);
}

/// The plan did not see her new row, and no unique key prevents a second one.
async fn who_is_entered_again_while_a_restore_runs_is_not_there_twice(engine: Engine) {
    let scene = people(engine).await;
    let name = scene.take().await;
    scene.execute_all(&["DELETE FROM pets", "DELETE FROM people WHERE id < 4"]).await;
    let relations = Relations::parse("r.toml", "[[identity]]\ntable = 'people'\ncolumns = 'name'\n").unwrap();
    let restore = Restore::by(&scene, name, &scene.db.admin, &[], relations).await;
    let context = &restore.context;
    plan::plan(context, &Exclusions::default(), None, |_| {}).await.unwrap();
    scene.execute_all(&["INSERT INTO people VALUES (100, 'new', 'n2')"]).await;
    let locked = LockedFile::create(&scene.path("undo.jsonl")).unwrap();
    let undo = locked.writer(&Header::new(&name.to_string(), &scene.db.admin, Tables::new()).await.unwrap()).unwrap();
    let mut progress = |_| {};
    let apply = Apply::new(context, undo, &mut locked.reader().unwrap(), &mut progress).await.unwrap();
    assert_eq!(apply.run().await.unwrap().inserted, 2 + 8);
    let report = Report::read(context, 3).await.unwrap();
    let deferred = report.groups.iter().filter(|group| group.state == State::Deferred);
    let said: Vec<String> = deferred
        .map(|group| format!("{} {}: {}, {}", group.table, group.samples[0].key, group.reason, group.samples[0].detail))
        .collect();
    let expected = [
        "people 2: entered again since the plan, people 100",
        "pets 2: the row of people that it refers to is deferred, people 2",
    ];
    assert_eq!(said, expected);
    assert_eq!(scene.db.number("SELECT COUNT(*) FROM people WHERE name = 'n2'").await, 1);
}

/// Her id is that of a row that vanished, and that another vanished row refers to.
async fn who_takes_an_id_while_a_restore_runs_is_referred_to_by_nobody(engine: Engine) {
    for nullable in ["NULL", "NOT NULL"] {
        let members = format!(
            "CREATE TABLE members (id BIGINT NOT NULL PRIMARY KEY, boss BIGINT {nullable}, name VARCHAR(20) NULL,
             FOREIGN KEY (boss) REFERENCES members (id))"
        );
        let scene = Scene::new(engine, &[&members]).await;
        let insert = "INSERT INTO members VALUES (10, 8, 'boss')";
        let others =
            ["INSERT INTO members VALUES (8, 8, 'head')", insert, "INSERT INTO members VALUES (9, 10, 'member')"];
        scene.execute_all(&others).await;
        let name = scene.take().await;
        scene.execute_all(&["DELETE FROM members WHERE id = 9", "DELETE FROM members WHERE id = 10"]).await;
        let restore = Restore::new(&scene, name, &scene.db.admin, &[]).await;
        let context = &restore.context;
        plan::plan(context, &Exclusions::default(), None, |_| {}).await.unwrap();
        scene.execute_all(&[insert.replace("boss", "stranger")]).await;
        let locked = LockedFile::create(&scene.path("undo.jsonl")).unwrap();
        let undo =
            locked.writer(&Header::new(&name.to_string(), &scene.db.admin, Tables::new()).await.unwrap()).unwrap();
        let mut progress = |_| {};
        let apply = Apply::new(context, undo, &mut locked.reader().unwrap(), &mut progress).await.unwrap();
        assert_eq!(apply.run().await.unwrap().inserted, 0);
        assert_eq!(scene.db.text("SELECT name FROM members WHERE id <> 8").await, "stranger");
        let counts = context.work.counts().await.unwrap();
        assert_eq!(counts.iter().map(|count| (count.state, count.rows)).collect::<Vec<_>>(), [(State::Deferred, 1); 2]);
    }
}

/// They take several transactions: rows that are inserted already do not count as entered again.
async fn rows_of_one_identity_that_vanished_together_come_back_together(engine: Engine) {
    let scene = Scene::new(engine, &PEOPLE).await;
    let people: Vec<String> = (1..=450).map(|id| format!("({id}, 'c{id}', 'Ann')")).collect();
    scene.execute_all(&inserts("people", &people)).await;
    let name = scene.take().await.to_string();
    scene.execute_all(&["DELETE FROM people"]).await;
    let relations = scene.file("r.toml", "[[identity]]\ntable = 'people'\ncolumns = 'name'\n");
    let report = scene.json(0, &["restore", &name, "--missing", "--apply", "--relations", &relations]);
    assert_eq!(report["applied"]["inserted"], 450, "{report}");
}

/// A page of pets is looked up at a time: without an index, each page would read all people.
async fn a_reference_by_another_column_reads_no_whole_table(engine: Engine) {
    let pets = "CREATE TABLE pets (id BIGINT NOT NULL PRIMARY KEY, owner VARCHAR(20) NULL, kind BIGINT NULL)";
    let scene = Scene::new(engine, &[PEOPLE[0], pets]).await;
    let sql = ["INSERT INTO people VALUES (1, 'a', 'a'), (2, 'b', 'b')", "INSERT INTO pets VALUES (1, 'a', 1)"];
    scene.execute_all(&sql).await;
    let name = scene.take().await;
    scene.execute_all(&["DELETE FROM pets", "DELETE FROM people"]).await;
    let reference = "[[reference]]\ntable = 'pets'\ncolumns = 'owner'\nparent = 'people'\nparent_columns = 'code'\n";
    let relations = Relations::parse("r.toml", reference).unwrap();
    let mut restore = Restore::by(&scene, name, &scene.db.admin, &["pets"], relations).await;
    let context = &mut restore.context;
    // The file is open already.
    plan::plan(context, &Exclusions::default(), None, |_| {}).await.unwrap();
    context.index().await.unwrap();
    let query = "EXPLAIN QUERY PLAN SELECT id FROM people WHERE code IN (?, ?)";
    let mut tx = context.snapshot.db.begin(Mode::Snapshot).await.unwrap();
    let steps = tx.fetch_all(Query::new("test", query), args!["a", "b"], |row| row.text(3)).await.unwrap();
    assert!(steps[0].starts_with("SEARCH people USING") && steps[0].contains("INDEX"), "{steps:?}");
    tx.commit().await.unwrap();
    let relations = scene.file("r.toml", reference);
    let report = scene.json(0, &["restore", &name.to_string(), "--missing", "--apply", "--relations", &relations]);
    assert_eq!(report["applied"]["inserted"], 3, "{report}");
}

/// All rows are restored, but whether others have lost their references to them is unknown.
async fn references_that_nobody_can_look_at_are_no_success(engine: Engine) {
    let pets = "CREATE TABLE pets (id BIGINT NOT NULL PRIMARY KEY, owner BIGINT NULL,
        FOREIGN KEY (owner) REFERENCES people (id) ON DELETE SET NULL)";
    let scene = Scene::new(engine, &[PEOPLE[0], pets]).await;
    scene.execute_all(&["INSERT INTO people VALUES (1, 'a', 'a')", "INSERT INTO pets VALUES (1, 1)"]).await;
    let name = scene.take().await;
    // Somebody has changed the reference, so it is not reported.
    scene.execute_all(&["INSERT INTO people VALUES (2, 'b', 'b')", "UPDATE pets SET owner = 2"]).await;
    scene.execute_all(&["DELETE FROM people WHERE id = 1"]).await;
    let restore = Restore::new(&scene, name, &scene.db.admin, &[]).await;
    let context = &restore.context;
    plan::plan(context, &Exclusions::default(), None, |_| {}).await.unwrap();
    let locked = LockedFile::create(&scene.path("undo.jsonl")).unwrap();
    let undo = locked.writer(&Header::new(&name.to_string(), &scene.db.admin, Tables::new()).await.unwrap()).unwrap();
    let mut progress = |_| {};
    let apply = Apply::new(context, undo, &mut locked.reader().unwrap(), &mut progress).await.unwrap();
    assert_eq!(apply.run().await.unwrap().inserted, 1);
    assert!(Report::read(context, 3).await.unwrap().is_whole(context));
    scene.execute_all(&["ALTER TABLE pets RENAME TO mislaid"]).await;
    let report = Report::read(context, 3).await.unwrap();
    assert!(report.remarks[0].starts_with("which rows have lost their references is unknown: "), "{report:?}");
    assert!(!report.is_whole(context), "{report:?}");
}

/// The server ends idle sessions. The last step of this plan takes longer than that.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_plan_outlives_the_session_that_it_was_made_in() {
    let scene = people(Engine::MariaDb).await;
    let name = scene.take().await;
    scene.execute_all(&["DELETE FROM pets", "DELETE FROM people WHERE id < 5"]).await;
    let options = ConnectOptions { idle_max: Duration::from_secs(5), ..ConnectOptions::new(4) };
    let live = connect(&scene.url, options).unwrap();
    let mut count = 2_000_000_u64;
    let restore = loop {
        let restore = Restore::new(&scene, name, &live, &["pets"]).await;
        restore.tamper(&format!(
            "CREATE VIEW slow AS WITH RECURSIVE c (n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM c WHERE n < {count})
                SELECT COUNT(*) AS n FROM c;
             CREATE TRIGGER slow_down AFTER UPDATE ON candidates WHEN NEW.state = 'left out'
             BEGIN SELECT n FROM slow; END"
        ));
        let begun = Instant::now();
        plan::plan(&restore.context, &Exclusions::default(), None, |_| {}).await.unwrap();
        // A faster machine needs a larger count.
        if begun.elapsed() > Duration::from_secs(10) {
            break restore;
        }
        count *= 3;
    };
    let counts = restore.context.work.counts().await.unwrap();
    let of = |state: State| counts.iter().filter(|count| count.state == state).map(|count| count.rows).sum::<i64>();
    assert_eq!((of(State::LeftOut), of(State::Deferred), of(State::Missing)), (4, 4, 5));
}

/// If its SQL mode stayed on a connection, tables of the queue would accept invalid dates as well.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_restore_changes_no_session_but_its_own() {
    let scene = Scene::new(Engine::MariaDb, &PEOPLE).await;
    scene.db.execute("INSERT INTO people VALUES (1, 'a', 'a')", args![]).await;
    let name = scene.take().await;
    scene.db.execute("DELETE FROM people", args![]).await;
    let live = connect(&scene.url, ConnectOptions::new(2)).unwrap();
    let restore = Restore::new(&scene, name, &live, &[]).await;
    let context = &restore.context;
    plan::plan(context, &Exclusions::default(), None, |_| {}).await.unwrap();
    let locked = LockedFile::create(&scene.path("undo.jsonl")).unwrap();
    let undo = locked.writer(&Header::new(&name.to_string(), &live, Tables::new()).await.unwrap()).unwrap();
    let mut progress = |_| {};
    let apply = Apply::new(context, undo, &mut locked.reader().unwrap(), &mut progress).await.unwrap();
    assert_eq!(apply.run().await.unwrap().inserted, 1);
    let mut sessions = [live.begin(Mode::Snapshot).await.unwrap(), live.begin(Mode::Snapshot).await.unwrap()];
    for session in &mut sessions {
        let mode = session.fetch_one(Query::new("test", "SELECT @@sql_mode"), vec![], |row| row.text(0)).await.unwrap();
        assert!(mode.contains("NO_ZERO_IN_DATE") && !mode.contains("NO_AUTO_VALUE_ON_ZERO"), "{mode}");
    }
}
