//! The users of `deploy/mysql/grants.sql`, created for every test database.

use daymend::args;

use super::{TestDb, server};

const FILE: &str = include_str!("../../../deploy/mysql/grants.sql");

/// Returns the URL for everything except `daymend migrate`.
pub fn run_time_url(port: u16, database: &str) -> String {
    format!("mysql://{database}:CHANGE_ME_RUN_TIME@127.0.0.1:{port}/{database}")
}

/// Returns the URL for `daymend migrate`.
pub fn migrate_url(port: u16, database: &str) -> String {
    format!("mysql://{database}_migrate:CHANGE_ME_MIGRATE@127.0.0.1:{port}/{database}")
}

/// Returns the URL for `daymend snapshot take`.
pub fn snapshot_url(port: u16, database: &str) -> String {
    format!("mysql://{database}_snapshot:CHANGE_ME_SNAPSHOT@127.0.0.1:{port}/{database}")
}

/// Returns the file's statements for a database, whose three users are named after it.
pub fn statements(database: &str) -> String {
    let file = FILE
        .replace("`lab`", database)
        .replace("daymend@'%'", &format!("{database}@'%'"))
        .replace("daymend_migrate@'%'", &format!("{database}_migrate@'%'"))
        .replace("daymend_snapshot@'%'", &format!("{database}_snapshot@'%'"));
    let statements = server::statements(&file).into_iter().filter(|sql| !sql.starts_with("SHOW "));
    statements.collect::<Vec<_>>().join(";\n")
}

/// Reads a user's privileges on tables and columns: the table, and the privilege as GRANT and REVOKE write it
/// (`DELETE`, or `SELECT (id)`).
pub async fn rights(db: &TestDb, user: &str) -> Vec<(String, String)> {
    let grantee = format!("'{user}'@'%'");
    let sql = "SELECT table_name, privilege_type FROM information_schema.table_privileges WHERE grantee = ?
               UNION ALL
               SELECT table_name, CONCAT(privilege_type, ' (', column_name, ')')
               FROM information_schema.column_privileges WHERE grantee = ?";
    let rows = db.rows(sql, args![grantee.as_str(), grantee.as_str()]).await;
    rows.iter().map(|row| (row.text(0).unwrap(), row.text(1).unwrap())).collect()
}
