//! TLS to the database: with `VERIFY_IDENTITY`, only the right server under its right name is talked to.
//!
//! `tests/fixtures/tls/make.sh` makes the certificates. The server's is for `localhost`, and not for 127.0.0.1, where
//! it listens.

use crate::support::{
    TestDb,
    process::{run_fails, run_ok},
    server::{self, Server},
};

const UNAVAILABLE: i32 = 4;
const FILES: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/fixtures/tls");

async fn with_tls(name: &str) -> (Server, TestDb) {
    let options = ["ssl-ca=/ca.pem", "ssl-cert=/server.pem", "ssl-key=/server.key"];
    let options = options.map(|option| format!("--{}", option.replace("=/", &format!("={FILES}/"))));
    let server = Server::start_with(name, &options.each_ref().map(String::as_str)).unwrap();
    let db = TestDb::on_server(server.port).await;
    (server, db)
}

/// Returns the arguments of a command that reads, with the URL of this host and these parameters.
fn arguments(db: &TestDb, host: &str, parameters: &str) -> Vec<String> {
    let url = format!("{}?{}", db.url.replace("127.0.0.1", host), parameters.replace("=/", &format!("={FILES}/")));
    ["--database-url", &url, "runs", "list"].map(str::to_owned).to_vec()
}

fn connects(db: &TestDb, host: &str, parameters: &str) {
    let args = arguments(db, host, parameters);
    run_ok(db, &args.iter().map(String::as_str).collect::<Vec<_>>());
}

/// Asserts that nothing is read, and returns why.
fn refused(db: &TestDb, host: &str, parameters: &str) -> String {
    let args = arguments(db, host, parameters);
    run_fails(db, UNAVAILABLE, &args.iter().map(String::as_str).collect::<Vec<_>>())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn only_the_right_server_under_its_right_name_is_talked_to() {
    let (server, db) = with_tls("tls").await;
    // Whoever gets in now is encrypted.
    server::run(server.port, &format!("ALTER USER {}@'%' REQUIRE SSL", db.name())).await;
    let plain = refused(&db, "localhost", "ssl-mode=DISABLED");
    assert!(plain.contains("refuses"), "{plain}");

    connects(&db, "localhost", "ssl-mode=VERIFY_IDENTITY&ssl-ca=/ca.pem");
    connects(&db, "localhost", "ssl-mode=VERIFY_CA&ssl-ca=/ca.pem");
    connects(&db, "127.0.0.1", "ssl-mode=REQUIRED");
    for (host, parameters) in [
        ("127.0.0.1", "ssl-mode=VERIFY_IDENTITY&ssl-ca=/ca.pem"),
        ("localhost", "ssl-mode=VERIFY_IDENTITY&ssl-ca=/other-ca.pem"),
        ("localhost", "ssl-mode=VERIFY_CA&ssl-ca=/other-ca.pem"),
        // Nobody whom the world trusts has signed it.
        ("localhost", "ssl-mode=VERIFY_IDENTITY"),
    ] {
        let error = refused(&db, host, parameters);
        assert!(error.contains("certificate") && error.contains("cannot be reached"), "{host} {parameters}: {error}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_certificate_of_the_client_is_shown_to_a_server_that_asks_for_it() {
    let (server, db) = with_tls("tls-client").await;
    server::run(server.port, &format!("ALTER USER {}@'%' REQUIRE X509", db.name())).await;
    let identity = "ssl-mode=VERIFY_IDENTITY&ssl-ca=/ca.pem";
    let error = refused(&db, "localhost", identity);
    assert!(error.contains("refuses"), "{error}");
    connects(&db, "localhost", &format!("{identity}&ssl-cert=/client.pem&ssl-key=/client.key"));
}
