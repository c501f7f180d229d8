//! Directories for what is under way, gone when their owner is.
//!
//! Each is locked by the process that made it. What a process that died left behind is locked by
//! nobody, and removed by the next one.

use std::{
    fs::{self, File, TryLockError},
    io,
    path::{Path, PathBuf},
};

use tokio::runtime::{Handle, RuntimeFlavor};

/// How the names begin. A directory of snapshots shows none of them.
const PREFIX: &str = ".daymend-snapshot-";

/// The file that is locked.
const LOCK: &str = "lock";

/// Works on files: what else runs on this thread, heartbeats among it, goes on elsewhere meanwhile.
pub(crate) fn aside<T>(work: impl FnOnce() -> T) -> T {
    match Handle::try_current() {
        Ok(handle) if handle.runtime_flavor() == RuntimeFlavor::MultiThread => tokio::task::block_in_place(work),
        _ => work(),
    }
}

/// A directory for as long as this lives.
#[derive(Debug)]
pub(crate) struct Work {
    path: PathBuf,
    _lock: File,
}

impl Work {
    /// Makes a directory in `parent`, and removes what others have left there.
    pub(crate) fn new(parent: &Path) -> io::Result<Self> {
        aside(|| Self::create(parent))
    }

    fn create(parent: &Path) -> io::Result<Self> {
        remove_leftovers(parent)?;
        loop {
            let path = parent.join(format!("{PREFIX}{}-{:08x}", std::process::id(), rand::random::<u32>()));
            let mut builder = fs::DirBuilder::new();
            // It holds what the database keeps from others.
            #[cfg(unix)]
            std::os::unix::fs::DirBuilderExt::mode(&mut builder, 0o700);
            builder.create(&path)?;
            let lock = File::create(path.join(LOCK))?;
            lock.lock()?;
            // Before it was locked somebody may have taken it for one that was left.
            if path.join(LOCK).exists() {
                return Ok(Self { path, _lock: lock });
            }
        }
    }

    /// A file in it.
    pub(crate) fn file(&self, name: &str) -> PathBuf {
        self.path.join(name)
    }
}

impl Drop for Work {
    fn drop(&mut self) {
        let _ = aside(|| fs::remove_dir_all(&self.path));
    }
}

/// Removes directories that nobody works in any more; how many.
pub(crate) fn remove_leftovers(parent: &Path) -> io::Result<usize> {
    let mut removed = 0;
    for entry in fs::read_dir(parent)? {
        let entry = entry?;
        if !entry.file_name().to_string_lossy().starts_with(PREFIX) || !entry.file_type()?.is_dir() {
            continue;
        }
        if is_left(&entry.path()) && fs::remove_dir_all(entry.path()).is_ok() {
            removed += 1;
        }
    }
    Ok(removed)
}

/// Whether nobody holds the lock. One that has no lock yet has just been made, or its owner died at
/// that very moment: it is empty, and an empty directory goes without harm.
fn is_left(dir: &Path) -> bool {
    match File::open(dir.join(LOCK)) {
        Ok(lock) => !matches!(lock.try_lock(), Err(TryLockError::WouldBlock)),
        Err(_) => {
            let age = fs::metadata(dir).and_then(|meta| meta.modified()).map(|made| made.elapsed());
            age.is_ok_and(|age| age.is_ok_and(|age| age.as_secs() > 60))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_somebody_works_in_stays_and_what_was_left_goes() {
        let dir = tempfile::tempdir().unwrap();
        let mine = Work::new(dir.path()).unwrap();
        let left = dir.path().join(format!("{PREFIX}1-2"));
        fs::create_dir(&left).unwrap();
        fs::write(left.join(LOCK), "").unwrap();
        fs::write(left.join("half"), "half").unwrap();
        let other = Work::new(dir.path()).unwrap();
        assert!(!left.exists() && mine.file(LOCK).exists() && other.file(LOCK).exists());
        drop(mine);
        drop(other);
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 0);
    }
}
