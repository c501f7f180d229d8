//! Directories for what is under way, gone when their owner is.
//!
//! Each is locked by the process that made it. What a process that died left behind is locked by
//! nobody, and removed by the next one.

use std::{
    fs::{self, File},
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
pub(crate) struct Scratch {
    path: PathBuf,
    _lock: File,
}

impl Scratch {
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

impl Drop for Scratch {
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
        removed += usize::from(remove_left(&entry.path()));
    }
    Ok(removed)
}

/// Removes a directory that nobody works in; whether it is gone. One that has no lock yet has just been made,
/// or its owner died at that very moment: that is told by its age.
fn remove_left(dir: &Path) -> bool {
    match File::open(dir.join(LOCK)) {
        // Held until it is gone: whoever has just made it waits for the lock, and then finds that it is not there.
        Ok(lock) => lock.try_lock().is_ok() && fs::remove_dir_all(dir).is_ok(),
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            let age = fs::metadata(dir).and_then(|meta| meta.modified()).map(|made| made.elapsed());
            age.is_ok_and(|age| age.is_ok_and(|age| age.as_secs() > 60)) && fs::remove_dir_all(dir).is_ok()
        }
        // It may be somebody's.
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
        let left = dir.path().join(format!("{PREFIX}1-2"));
        fs::create_dir(&left).unwrap();
        fs::write(left.join(LOCK), "").unwrap();
        fs::write(left.join("half"), "half").unwrap();
        let other = Scratch::new(dir.path()).unwrap();
        assert!(!left.exists() && mine.file(LOCK).exists() && other.file(LOCK).exists());
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
                        assert!(mine.file("mine").exists() && mine.file(LOCK).exists());
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
        let make = |name: &str| {
            let path = dir.path().join(format!("{PREFIX}{name}"));
            fs::create_dir(&path).unwrap();
            path
        };
        let (young, empty, unreadable) = (make("young"), make("empty"), make("unreadable"));
        std::os::unix::fs::symlink(LOCK, unreadable.join(LOCK)).unwrap();
        for path in [&empty, &unreadable] {
            File::open(path).unwrap().set_modified(std::time::UNIX_EPOCH).unwrap();
        }
        assert_eq!(remove_leftovers(dir.path()).unwrap(), 1);
        assert!(young.exists() && !empty.exists() && unreadable.exists());
    }

    #[cfg(unix)]
    #[test]
    fn nobody_else_may_look_into_it() {
        use std::os::unix::fs::PermissionsExt as _;
        let dir = tempfile::tempdir().unwrap();
        let work = Scratch::new(dir.path()).unwrap();
        let mode = fs::metadata(work.file(LOCK).parent().unwrap()).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o700);
    }
}
