//! SQLite files that this user may not write, or that a command only reads.

use std::{
    fs::{self, Permissions},
    os::unix::fs::{MetadataExt as _, PermissionsExt as _},
    path::{Path, PathBuf},
};

use super::{LIMIT, NOW, USAGE, labs};
use crate::support::{
    Engine, TestDb,
    process::{Process, run, without_settings},
};

const UNAVAILABLE: i32 = 4;
const DRIFT: i32 = 3;

fn open(file: &Path) -> rusqlite::Connection {
    rusqlite::Connection::open(file).unwrap()
}

/// A copy of a database, not in WAL mode, in its own directory.
struct Copy {
    dir: tempfile::TempDir,
    file: PathBuf,
    url: String,
}

impl Copy {
    fn of(db: &TestDb) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("lab.db");
        open(Path::new(&db.admin.name())).execute("VACUUM INTO ?", [file.to_str()]).unwrap();
        let url = format!("sqlite:{}", file.display());
        Self { dir, file, url }
    }

    /// Runs daymend on the copy, without root's capability to write any file. Returns the exit code and standard error.
    fn daymend(&self, args: &[&str]) -> (Option<i32>, String) {
        let is_root = fs::metadata("/proc/self").unwrap().uid() == 0;
        let drop = ["--bounding-set=-all", "--inh-caps=-all"];
        let mut command = without_settings("setpriv");
        command.args(drop.iter().filter(|_| is_root)).arg(env!("CARGO_BIN_EXE_daymend")).args(args);
        let output = command.env("DAYMEND_DATABASE_URL", &self.url).output().unwrap();
        (output.status.code(), String::from_utf8(output.stderr).unwrap())
    }

    fn allow(&self, file_mode: u32, dir_mode: u32) {
        // Closing the last connection moves the WAL into the file and deletes it.
        if fs::metadata(&self.file).unwrap().permissions().mode() & 0o600 == 0o600 {
            open(&self.file).execute_batch("PRAGMA wal_checkpoint(TRUNCATE)").unwrap();
        }
        fs::set_permissions(&self.file, Permissions::from_mode(file_mode)).unwrap();
        fs::set_permissions(self.dir.path(), Permissions::from_mode(dir_mode)).unwrap();
    }

    fn journal_mode(&self) -> String {
        open(&self.file).query_row("PRAGMA journal_mode", [], |row| row.get(0)).unwrap()
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_file_that_may_not_be_written_is_one_line_that_says_what_to_do() {
    let db = labs(Engine::Sqlite).await;
    for is_wal in [false, true] {
        let copy = Copy::of(&db);
        if is_wal {
            assert_eq!(copy.daymend(&["migrate"]), (Some(0), String::new()));
        }
        assert_eq!(copy.daymend(&["queue", "pause", "repair"]), (Some(0), String::new()));
        let file = copy.file.display();
        let what = format!("error: the database {file} is read-only: this user has to be allowed to write");
        for (file_mode, dir_mode) in [(0o444, 0o755), (0o644, 0o555), (0o444, 0o555)] {
            for args in [&["queue", "resume", "repair"][..], &["--now", NOW, "scheduler", "--once"]] {
                copy.allow(file_mode, dir_mode);
                let (code, error) = copy.daymend(args);
                copy.allow(0o644, 0o755);
                let case = format!("{file_mode:o} {dir_mode:o} {args:?}: {error}");
                assert_eq!((code, error.lines().count()), (Some(USAGE), 1), "{case}");
                assert!(error.starts_with(&what), "{case}");
            }
        }
        // For reading, write access to the directory is enough.
        copy.allow(0o444, 0o755);
        assert_eq!(copy.daymend(&["queue", "stats"]), (Some(0), String::new()));
        // With `immutable=1`, a file in WAL mode can be read without that, too.
        copy.allow(0o644, 0o755);
        if is_wal {
            copy.allow(0o444, 0o555);
            for args in [&["runs", "list"][..], &["--now", NOW, "audit"], &["doctor"]] {
                assert_eq!(copy.daymend(args).0, Some(USAGE), "{args:?}");
            }
            let (_, error) = copy.daymend(&["runs", "list"]);
            assert!(error.contains("to only read it, while nobody writes it, give sqlite:FILE?immutable=1"), "{error}");
            let url = format!("{}?immutable=1", copy.url);
            assert_eq!(copy.daymend(&["runs", "list", "--database-url", &url]), (Some(0), String::new()));
            assert_eq!(copy.daymend(&["--now", NOW, "audit", "--lab", "1", "--database-url", &url]).0, Some(DRIFT));
        }
        copy.allow(0o000, 0o755);
        let (code, error) = copy.daymend(&["queue", "stats"]);
        assert_eq!((code, error.lines().count()), (Some(UNAVAILABLE), 1), "{error}");
        assert!(error.contains("cannot be opened: is it a file that this user may read and write?"), "{error}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_only_reads_leaves_a_copy_as_it_is_and_may_have_no_right_to_write_it() {
    let db = labs(Engine::Sqlite).await;
    let copy = Copy::of(&db);
    let bytes = fs::read(&copy.file).unwrap();
    for (file_mode, dir_mode) in [(0o644, 0o755), (0o444, 0o555)] {
        copy.allow(file_mode, dir_mode);
        for (args, code) in [
            (&["--now", NOW, "doctor"][..], DRIFT),
            (&["--now", NOW, "audit"], DRIFT),
            (&["migrate", "--dry-run"], 0),
            (&["queue", "stats"], 0),
            (&["--now", NOW, "repair", "--day", "2026-06-12", "--dry-run"], 0),
        ] {
            let (ended, error) = copy.daymend(args);
            assert_eq!(ended, Some(code), "{file_mode:o} {args:?}: {error}");
            assert!(fs::read(&copy.file).unwrap() == bytes, "{args:?} has changed the file");
        }
    }
    copy.allow(0o644, 0o755);
    assert_eq!((copy.daymend(&["migrate"]).0, copy.journal_mode().as_str()), (Some(0), "wal"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_copy_that_is_not_in_wal_mode_can_be_worked_on() {
    let db = labs(Engine::Sqlite).await;
    let copy = Copy::of(&db);
    let done = |args: &[&str]| {
        let (code, error) = copy.daymend(args);
        assert_eq!(code, Some(0), "{args:?}: {error}");
    };
    done(&["--now", NOW, "repair", "--day", "2026-06-08", "--to", "2026-06-14"]);
    let on_copy = ["--database-url", &copy.url, "--now", NOW, "worker", "--drain", "--http-addr", "127.0.0.1:0"];
    let mut workers = [Process::start(&db, &on_copy), Process::start(&db, &on_copy)];
    for worker in &mut workers {
        assert_eq!(worker.wait(LIMIT), Some(0));
    }
    for lab in ["1", "2"] {
        done(&["--now", NOW, "audit", "--lab", lab, "--from", "2026-06-08"]);
    }
    assert_eq!(copy.journal_mode(), "delete");
    let doctor = || {
        let report = run(&db, &["--database-url", &copy.url, "--now", NOW, "--json", "doctor"]);
        String::from_utf8(report.stdout).unwrap().contains("its journal mode is delete")
    };
    assert!(doctor());
    done(&["migrate"]);
    assert!(!doctor() && copy.journal_mode() == "wal");
}
