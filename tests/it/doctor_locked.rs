//! The doctor waits for nobody for long: a table that somebody keeps locked costs it seconds, and no other check.

use std::time::{Duration, Instant};

use daymend::db::Mode;

use crate::support::{
    Engine,
    doctor::{examine, healthy},
};

/// What one check may take, and the rest of the doctor on a slow machine.
const LIMIT: Duration = Duration::from_secs(50);

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_locked_table_is_said_and_keeps_no_other_check_waiting() {
    let db = healthy(Engine::MariaDb).await;
    let without = examine(&db);
    let mut held = db.admin.begin(Mode::Write).await.unwrap();
    held.execute_text("hold", "LOCK TABLES daymend_dirty WRITE").await.unwrap();
    // If the doctor waits for it, it does not wait for ever.
    let freed = tokio::spawn(async move {
        tokio::time::sleep(LIMIT).await;
        held.discard();
    });
    let begun = Instant::now();
    let locked = tokio::task::block_in_place(|| examine(&db));
    assert!(begun.elapsed() < LIMIT, "{:?}", begun.elapsed());
    freed.abort();
    let could_not: Vec<_> = locked
        .findings()
        .into_iter()
        .filter(|finding| finding["what"].as_str().unwrap().starts_with("could not be checked: "))
        .map(|finding| (finding["severity"].as_str().unwrap(), finding["where"].as_str().unwrap()))
        .collect();
    assert_eq!(could_not, [("warning", "marks of late changes")], "{:#}", locked.json);
    assert_eq!(locked.json["checked"], without.json["checked"], "every other check was made");
    assert_eq!(locked.code, 3);
}
