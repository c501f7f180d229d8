//! Temporary directories, removed when their owner is gone.
//!
//! Next to each is a file that its owner keeps locked: created before the directory, removed after it. So whatever a
//! crashed process left behind is locked by nobody, and is removed by the next process.

use std::{
    collections::BTreeSet,
    fs::{self, File},
    io,
    path::{Path, PathBuf},
};

use tokio::runtime::{Handle, RuntimeFlavor};

use super::SnapshotError;

/// The prefix of the directories' names, which a listing of snapshots does not show.
const PREFIX: &str = ".daymend-snapshot-";

/// The suffix of lock files.
const LOCK: &str = ".lock";

/// Runs blocking work on files; meanwhile, other tasks of this thread, such as heartbeats, continue elsewhere.
pub(crate) fn aside<T>(work: impl FnOnce() -> T) -> T {
    match Handle::try_current() {
        Ok(handle) if handle.runtime_flavor() == RuntimeFlavor::MultiThread => tokio::task::block_in_place(work),
        _ => work(),
    }
}

/// A directory that is removed when this is dropped.
#[derive(Debug)]
pub(crate) struct Scratch {
    path: PathBuf,
    _lock: File,
}

impl Scratch {
    /// Creates a directory in `parent`, and removes leftover ones there.
    pub(crate) fn new(parent: &Path) -> Result<Self, SnapshotError> {
        let made = aside(|| Self::create(parent));
        made.map_err(|error| SnapshotError::store(format!("cannot create a directory in {}", parent.display()), error))
    }

    fn create(parent: &Path) -> io::Result<Self> {
        remove_leftovers(parent, false)?;
        loop {
            let path = parent.join(format!("{PREFIX}{}-{:08x}", std::process::id(), rand::random::<u32>()));
            let lock = File::create_new(lock_of(&path))?;
            lock.lock()?;
            // Before it was locked, somebody else may have removed it as a leftover.
            if !lock_of(&path).exists() {
                continue;
            }
            let mut builder = fs::DirBuilder::new();
            // It may hold data that is protected in the database.
            #[cfg(unix)]
            std::os::unix::fs::DirBuilderExt::mode(&mut builder, 0o700);
            builder.create(&path)?;
            return Ok(Self { path, _lock: lock });
        }
    }

    /// The path of a file in it.
    pub(crate) fn file(&self, name: &str) -> PathBuf {
        self.path.join(name)
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let _ = aside(|| remove(&self.path));
    }
}

/// Opens a file to be locked: over NFS, an exclusive lock needs a file that is open for writing.
pub(crate) fn writable(path: &Path) -> io::Result<File> {
    File::options().write(true).open(path)
}

fn lock_of(dir: &Path) -> PathBuf {
    let mut path = dir.as_os_str().to_owned();
    path.push(LOCK);
    path.into()
}

/// Removes a directory that the caller has locked, and its lock file last.
fn remove(dir: &Path) -> io::Result<()> {
    match fs::remove_dir_all(dir) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => fs::remove_file(lock_of(dir)),
    }
}

/// Removes directories that nobody uses any more, unless it is a `dry_run`; returns how many.
pub(crate) fn remove_leftovers(parent: &Path, dry_run: bool) -> io::Result<usize> {
    let mut dirs = BTreeSet::new();
    for entry in fs::read_dir(parent)? {
        let name = entry?.file_name().to_string_lossy().into_owned();
        if name.starts_with(PREFIX) {
            dirs.insert(parent.join(name.strip_suffix(LOCK).unwrap_or(&name)));
        }
    }
    Ok(dirs.iter().filter(|dir| remove_left(dir, dry_run)).count())
}

/// Removes a directory unless somebody uses it; returns whether it is gone, or would be.
fn remove_left(dir: &Path, dry_run: bool) -> bool {
    match writable(&lock_of(dir)) {
        // Held until the directory is gone: a process that has just created the lock file waits, and then finds it
        // missing.
        Ok(lock) => lock.try_lock().is_ok() && (dry_run || remove(dir).is_ok()),
        // Whoever uses a directory has a lock file.
        Err(error) if error.kind() == io::ErrorKind::NotFound => dry_run || fs::remove_dir_all(dir).is_ok(),
        // Somebody may be using it.
        Err(_) => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_somebody_works_in_stays_and_what_was_left_goes() {
        let dir = tempfile::tempdir().unwrap();
        let mine = Scratch::new(dir.path()).unwrap();
        // What killed processes may leave behind.
        for (name, has_lock, has_dir) in [("1-1", true, false), ("1-2", true, true), ("1-3", false, true)] {
            let left = dir.path().join(format!("{PREFIX}{name}"));
            if has_dir {
                fs::create_dir(&left).unwrap();
                fs::write(left.join("half"), "half").unwrap();
            }
            if has_lock {
                fs::write(lock_of(&left), "").unwrap();
            }
        }
        let all = fs::read_dir(dir.path()).unwrap().count();
        assert_eq!(remove_leftovers(dir.path(), true).unwrap(), 3);
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), all, "a dry run");
        assert_eq!(remove_leftovers(dir.path(), false).unwrap(), 3);
        let other = Scratch::new(dir.path()).unwrap();
        assert!(mine.path.exists() && other.path.exists());
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 4, "two directories and their locks");
        drop(mine);
        drop(other);
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 0);
    }

    #[test]
    fn nobody_loses_a_directory_to_who_cleans_up() {
        let dir = tempfile::tempdir().unwrap();
        std::thread::scope(|scope| {
            for _ in 0..8 {
                scope.spawn(|| {
                    for _ in 0..200 {
                        let mine = Scratch::new(dir.path()).unwrap();
                        fs::write(mine.file("mine"), "mine").unwrap();
                        std::thread::yield_now();
                        assert!(mine.file("mine").exists() && lock_of(&mine.path).exists());
                    }
                });
            }
        });
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 0);
    }

    #[test]
    #[cfg(unix)]
    fn a_lock_that_cannot_be_read_may_be_held() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join(format!("{PREFIX}1-1"));
        fs::create_dir(&path).unwrap();
        let lock = lock_of(&path);
        std::os::unix::fs::symlink(&lock, &lock).unwrap();
        assert_eq!(remove_leftovers(dir.path(), false).unwrap(), 0);
        assert!(path.exists());
    }

    #[cfg(unix)]
    #[test]
    fn nobody_else_may_look_into_it() {
        use std::os::unix::fs::PermissionsExt as _;
        let dir = tempfile::tempdir().unwrap();
        let work = Scratch::new(dir.path()).unwrap();
        let mode = fs::metadata(&work.path).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o700);
    }
}
