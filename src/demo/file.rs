//! The demo's file: replaces that of an earlier demo, but no other file.

use std::path::{Path, PathBuf};

use anyhow::Context as _;
use sqlx::{Connection as _, SqliteConnection, sqlite::SqliteConnectOptions};

use crate::error::usage;

/// The calendar day of each bill, as its lab's clock showed it when the bill was made; bills of the lab with an
/// unknown zone have no row. The table also tells a later demo that it may replace the file.
pub(super) const MARK: &str = "CREATE TABLE daymend_demo (billing_id INTEGER PRIMARY KEY, day TEXT NOT NULL)";

/// Removes the file of an earlier demo at `path`; refuses to remove any other file.
pub(super) async fn remove_earlier(path: &Path) -> anyhow::Result<()> {
    let shown = path.display();
    if !path.try_exists().with_context(|| format!("cannot look at {shown}"))? {
        return Ok(());
    }
    match is_demo(path).await {
        Ok(true) => {}
        Ok(false) => return Err(usage(format!("{shown} exists and was not made by the demo: pick another --file"))),
        Err(error) => {
            return Err(usage(format!(
                "{shown} exists and cannot be read as a demo's file ({error}): pick another --file"
            )));
        }
    }
    for suffix in ["", "-wal", "-shm"] {
        let mut file = path.as_os_str().to_owned();
        file.push(suffix);
        let file = PathBuf::from(file);
        match std::fs::remove_file(&file) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                return Err(error).with_context(|| format!("cannot remove {}", file.display()));
            }
            _ => {}
        }
    }
    Ok(())
}

/// Whether the database has the demo's mark. It is opened read-only, and not through [`crate::db::connect`], which
/// would switch somebody else's file to WAL.
async fn is_demo(path: &Path) -> Result<bool, sqlx::Error> {
    let options = SqliteConnectOptions::new().filename(path).read_only(true);
    let mut connection = SqliteConnection::connect_with(&options).await?;
    let sql = "SELECT COUNT(*) FROM sqlite_master WHERE type = 'table' AND name = 'daymend_demo'";
    let found: i64 = sqlx::query_scalar(sql).fetch_one(&mut connection).await?;
    connection.close().await?;
    Ok(found > 0)
}

/// The URL of `path`, with everything escaped that a URL or a shell could misread.
pub(super) fn url(path: &Path) -> String {
    let escaped = path.as_os_str().as_encoded_bytes().iter().map(|byte| match byte {
        b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'/' | b'.' | b'_' | b'-' => char::from(*byte).to_string(),
        _ => format!("%{byte:02X}"),
    });
    format!("sqlite:{}", escaped.collect::<String>())
}

/// `text` quoted as one shell word.
pub(super) fn shell_word(text: &str) -> String {
    let is_plain = |c: char| c.is_ascii_alphanumeric() || "/._-:%".contains(c);
    if text.chars().all(is_plain) { text.to_owned() } else { format!("'{}'", text.replace('\'', r"'\''")) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_url_survives_the_shell_and_its_own_syntax() {
        assert_eq!(url(Path::new("/tmp/daymend-demo.db")), "sqlite:/tmp/daymend-demo.db");
        assert_eq!(url(Path::new("my demo?mode=ro.db")), "sqlite:my%20demo%3Fmode%3Dro.db");
        assert_eq!(url(Path::new(":memory:")), "sqlite:%3Amemory%3A");
        assert_eq!(shell_word("/tmp/daymend-demo.db"), "/tmp/daymend-demo.db");
        assert_eq!(shell_word("Ann's demo.db"), r"'Ann'\''s demo.db'");
    }

    #[tokio::test]
    async fn only_a_demos_file_is_removed() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("some.db");
        remove_earlier(&path).await.unwrap();
        std::fs::write(&path, "not a database, but somebody's").unwrap();
        let refused = remove_earlier(&path).await.unwrap_err().to_string();
        assert!(refused.contains("pick another --file"), "{refused}");
        std::fs::remove_file(&path).unwrap();

        let options = SqliteConnectOptions::new().filename(&path).create_if_missing(true);
        let mut connection = SqliteConnection::connect_with(&options).await.unwrap();
        sqlx::query("CREATE TABLE theirs (id INTEGER)").execute(&mut connection).await.unwrap();
        let refused = remove_earlier(&path).await.unwrap_err().to_string();
        assert!(refused.contains("was not made by the demo"), "{refused}");
        sqlx::query(MARK).execute(&mut connection).await.unwrap();
        connection.close().await.unwrap();
        remove_earlier(&path).await.unwrap();
        assert!(!path.exists());
    }
}
