//! The users of `deploy/mysql/users.sql`, with the rights of `grants.sql`, created for every test database.

use daymend::args;

use super::{TestDb, server};

const USERS: &str = include_str!("../../../deploy/mysql/users.sql");
const GRANTS: &str = include_str!("../../../deploy/mysql/grants.sql");

/// The password of the user for everything except `daymend migrate`.
pub const RUN_TIME_PASSWORD: &str = "run-time-test";

/// What stands for each password in the file. Without quotes, no server takes it for one.
pub const PLACEHOLDER: &str = "A_PASSWORD_IN_QUOTES";

/// Returns the URL for everything except `daymend migrate`.
pub fn run_time_url(port: u16, database: &str) -> String {
    format!("mysql://{database}:{RUN_TIME_PASSWORD}@127.0.0.1:{port}/{database}")
}

/// Returns the URL for `daymend migrate`.
pub fn migrate_url(port: u16, database: &str) -> String {
    format!("mysql://{database}_migrate:migrate-test@127.0.0.1:{port}/{database}")
}

/// Returns the URL for `daymend snapshot take`.
pub fn snapshot_url(port: u16, database: &str) -> String {
    format!("mysql://{database}_snapshot:snapshot-test@127.0.0.1:{port}/{database}")
}

/// Returns the files' statements for a database, whose three users are named after it.
pub fn statements(database: &str) -> String {
    let mut users = USERS.to_owned();
    for password in ["migrate-test", RUN_TIME_PASSWORD, "snapshot-test"] {
        users = users.replacen(PLACEHOLDER, &format!("'{password}'"), 1);
    }
    let files = format!("USE {database};\n{users}{GRANTS}")
        .replace("daymend@'%'", &format!("{database}@'%'"))
        .replace("daymend_migrate@'%'", &format!("{database}_migrate@'%'"))
        .replace("daymend_snapshot@'%'", &format!("{database}_snapshot@'%'"));
    let statements = server::statements(&files).into_iter().filter(|sql| !sql.starts_with("SHOW "));
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
