//! The commands of docs/own-tables.md, played through the client: a backup brings daymend's tables back as they were,
//! and removing daymend leaves nothing of it.

use std::{path::Path, process::Command};

use daymend::args;

use crate::{
    runbooks::pages::{Block, blocks, read},
    support::{
        Engine, TestDb,
        process::{run_ok, without_settings},
        server::{self, ADMIN, PASSWORD},
    },
};

/// Runs a block of the page as an administrator, for the test's database and users instead of the example's.
fn play(db: &TestDb, dir: &Path, block: &Block) {
    let client =
        format!("--no-defaults --host=127.0.0.1 --port={} --user={ADMIN} --password={PASSWORD}", server::port(&db.url));
    let (text, database) = (&block.text, db.name());
    let mut command = if block.language == "console" {
        let binary = env!("CARGO_BIN_EXE_daymend");
        let script = format!(
            "mariadb() {{ command mariadb {client} \"$@\"; }}\nmariadb-dump() {{ command mariadb-dump {client} \"$@\"; }}
             daymend() {{ {binary} \"$@\"; }}\n{}",
            text.replace("$ ", "").replace("crelio", database)
        );
        let mut command = without_settings("bash");
        command.args(["-euc", &script]).env("DAYMEND_DATABASE_URL", db.admin_url());
        command
    } else {
        let mut command = Command::new("mariadb");
        let user = |name: &str| (format!("{name}@'%'"), format!("{}@'%'", name.replace("daymend", database)));
        let users = ["daymend", "daymend_migrate", "daymend_snapshot"].map(user);
        let sql = users.iter().fold(text.clone(), |sql, (example, own)| sql.replace(example, own));
        command.args(client.split(' ')).args([database, "--execute", &sql]);
        command
    };
    let output = command.current_dir(dir).output().unwrap();
    assert!(output.status.success(), "{text}: {}", String::from_utf8_lossy(&output.stderr));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_backed_up_comes_back_and_what_is_removed_is_gone() {
    let db = TestDb::new(Engine::MariaDb).await;
    let (dir, page) = (tempfile::tempdir().unwrap(), blocks(&read("docs/own-tables.md")));
    let [backup, load, triggers, drop_tables, drop_users, events] = &page[..] else { panic!("{page:#?}") };
    for event in ["operation_summary_nightly_event", "operation_summary_migration_event"] {
        db.apply(&format!("CREATE EVENT {event} ON SCHEDULE EVERY 1 DAY DISABLE DO SELECT 1")).await;
    }
    db.add_lab(1, Some("Asia/Kolkata")).await;
    run_ok(&db, &["triggers", "install"]);
    run_ok(&db, &["queue", "pause", "--lab", "1"]);
    run_ok(&db, &["scheduler", "--once"]);
    let own_tables = "SELECT COUNT(*) FROM information_schema.tables
        WHERE table_schema = DATABASE() AND table_name LIKE 'daymend%'";
    let remembered = "SELECT CONCAT((SELECT enqueued_through FROM daymend_labs), (SELECT what FROM daymend_pauses),
        (SELECT COUNT(*) FROM daymend_admin_log), (SELECT COUNT(*) FROM daymend_jobs))";
    let (tables, before) = (db.number(own_tables).await, db.text(remembered).await);

    play(&db, dir.path(), backup);
    play(&db, dir.path(), drop_tables);
    assert_eq!(db.number(own_tables).await, 0, "of {tables}");
    play(&db, dir.path(), load);
    assert_eq!((db.number(own_tables).await, db.text(remembered).await), (tables, before));
    // The users can go on at once: privileges outlive their tables.
    run_ok(&db, &["queue", "resume", "--lab", "1"]);

    for block in [triggers, drop_tables, drop_users, events] {
        play(&db, dir.path(), block);
    }
    let users = db
        .rows(
            "SELECT user FROM mysql.user WHERE user = ? OR user LIKE ?",
            args![db.name(), format!("{}\\_%", db.name())],
        )
        .await;
    assert_eq!((db.number(own_tables).await, users.len()), (0, 0));
    let left = "SELECT COUNT(*) FROM information_schema.triggers WHERE trigger_schema = DATABASE()";
    let enabled =
        "SELECT COUNT(*) FROM information_schema.events WHERE event_schema = DATABASE() AND status = 'ENABLED'";
    assert_eq!((db.number(left).await, db.number(enabled).await), (0, 2));
}
