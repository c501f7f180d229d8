//! A digest of a text that the server cut off (`max_allowed_packet` limits it as well) is not taken for that of a right
//! day: the rows are read.

use daymend::args;
use sqlx::{Connection as _, Executor as _, MySqlConnection};

use crate::support::{
    TestDb,
    lab_system::Bill,
    oracle,
    process::run_ok,
    server::{self, Server},
};

const NOW: &str = "2026-06-15T12:00:00Z";
const LAB: (i64, chrono_tz::Tz) = (1, chrono_tz::Asia::Kolkata);
const PACKET: i64 = 16_384;

/// Repairs both days, and returns how many rows each job wrote.
async fn repaired(db: &TestDb) -> Vec<i64> {
    db.execute("DELETE FROM daymend_jobs", args![]).await;
    run_ok(db, &["--now", NOW, "repair", "--lab", "1", "--day", "2026-06-10", "--to", "2026-06-11"]);
    run_ok(db, &["--now", NOW, "worker", "--drain"]);
    let jobs = "SELECT COALESCE(rows_inserted + rows_updated + rows_deleted, 0) FROM daymend_jobs ORDER BY day";
    db.rows(jobs, args![]).await.iter().map(|row| row.int(0).unwrap()).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_text_that_the_server_cut_off_is_not_taken_for_right() {
    let server = Server::start("packet").unwrap();
    let db = TestDb::on_server(server.port).await;
    db.add_lab(LAB.0, Some(LAB.1.name())).await;
    let bills: Vec<_> = (1..=600)
        .map(|id| {
            let at = if id <= 300 { "2026-06-10T06:00:00Z" } else { "2026-06-11T06:00:00Z" };
            let owner = Some(1000 + id);
            (id, LAB.0, Bill { at: at.parse().unwrap(), info: Some((owner, owner, owner)), ..Bill::default() })
        })
        .collect();
    db.add_bills(&bills).await;
    assert_eq!(repaired(&db).await, [900, 900]);
    server::run(server.port, &format!("SET GLOBAL max_allowed_packet = {PACKET}")).await;
    let mut session = MySqlConnection::connect(&db.triggers_url).await.unwrap();
    session.execute("SET SESSION group_concat_max_len = 67108864").await.unwrap();
    let text = "SELECT LENGTH(GROUP_CONCAT(dimension_a_id, ' ', dimension_b_id, ' ', event_type, ' ', event_count))
                FROM operation_historical_summary GROUP BY ordered_at";
    let lengths: Vec<i64> = sqlx::query_scalar(text).fetch_all(&mut session).await.unwrap();
    assert_eq!(lengths, [PACKET; 2], "the server cuts the texts off");
    session.close().await.unwrap();

    assert_eq!(repaired(&db).await, [0, 0], "right days are left alone");
    // The last row of the second day is far behind the cut.
    let last = "SELECT id FROM operation_historical_summary WHERE ordered_at = '2026-06-11'
                ORDER BY dimension_a_id DESC, dimension_b_id DESC, event_type DESC LIMIT 1";
    let last = db.number(last).await;
    db.execute("UPDATE operation_historical_summary SET event_count = 7 WHERE id = ?", args![last]).await;
    assert_eq!(repaired(&db).await, [0, 1]);
    oracle::assert_equal(&oracle::stored(&db).await, &oracle::expected(&db, &[LAB], NOW.parse().unwrap()).await);
}
