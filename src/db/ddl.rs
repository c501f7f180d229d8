//! DDL on tables that are in use.
//!
//! MySQL's DDL waits for the transactions that use its table, and every later statement on the table waits behind it. So
//! it waits for two seconds at most, which users can bear, lets them pass, and tries again.

use std::time::Duration;

use super::{Backoff, Db, DbError, Dialect, ErrorKind, Mode, Tx};

/// How many times a statement is tried again.
const WAITS_MAX: u32 = 5;

/// For how long it lets others pass.
const PAUSE: Backoff = Backoff { base: Duration::from_millis(500), max: Duration::from_secs(2) };

/// Begins a transaction, or on MySQL, which has no transactions of DDL, a session, for [`patiently`].
pub(crate) async fn begin(db: &Db) -> Result<Tx, DbError> {
    let mut tx = db.begin(Mode::Write).await?;
    if tx.dialect() == Dialect::MySql {
        tx.execute_text("begin DDL", "SET SESSION lock_wait_timeout = 2").await?;
    }
    Ok(tx)
}

/// Ends it.
pub(crate) async fn end(mut tx: Tx) -> Result<(), DbError> {
    match tx.dialect() {
        Dialect::Sqlite => tx.commit().await,
        // The session's settings are not those that other users of the pool rely on.
        Dialect::MySql => {
            tx.execute_text("end DDL", "COMMIT").await?;
            tx.discard();
            Ok(())
        }
    }
}

/// Runs DDL that may have to wait for transactions, in several short attempts.
pub(crate) async fn patiently(tx: &mut Tx, name: &str, sql: &str) -> Result<(), DbError> {
    let mut waits = 0;
    loop {
        match tx.execute_text(name, sql).await {
            Err(error) if error.kind == ErrorKind::Conflict && waits < WAITS_MAX => {
                waits += 1;
                tokio::time::sleep(PAUSE.wait(waits)).await;
            }
            result => return result,
        }
    }
}
