//! The undo file: one JSON object per line, each synced before the transaction that it describes commits.
//!
//! It begins with a [`Header`]; then come the inserted rows, as the database stored them, and the references that
//! were filled in. A crash may leave the last line incomplete: the transaction it describes was never committed. A
//! complete line, too, may describe a transaction that was never committed: readers compare it with the live row.
//!
//! A restore or an undo locks the file ([`LockedFile`]): a second run would cut off the line that the first one
//! is writing, or rename the file under it.

mod header;
mod reader;

use std::{
    fs::{self, File, TryLockError},
    io::{self, BufWriter, Read as _, Seek as _, SeekFrom, Write as _},
    path::{Path, PathBuf},
};

use anyhow::{Context as _, bail};
use chrono::NaiveDate;
use serde::{Deserialize, Serialize};

pub use header::{Database, Header, Tables};
pub use reader::Reader;

use crate::{
    db::Arg,
    snapshot::{
        cells::{self, Cells},
        format::pack::private,
        scratch::writable,
    },
};

/// One line after the header.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "op", rename_all = "snake_case")]
pub enum Record {
    /// A row was inserted.
    Insert {
        /// Its table.
        table: String,
        /// Its values.
        row: Values,
        /// The references that were left empty: their positions and future values.
        #[serde(default, skip_serializing_if = "Vec::is_empty")]
        later: Vec<(usize, Value)>,
        /// The rows, as table and key, that already referred to it when it was inserted: references unknown to the
        /// schema are left behind when the row they refer to vanishes.
        #[serde(default, skip_serializing_if = "Vec::is_empty")]
        referred: Vec<(String, String)>,
    },
    /// References of a restored row were filled in.
    Fill {
        /// Its table.
        table: String,
        /// The row before.
        before: Values,
        /// The row after.
        after: Values,
    },
    /// References of a row that were filled in, or should have been, are empty: an undo emptied them, or the
    /// transaction of the `Fill` was never committed.
    Empty {
        /// Its table.
        table: String,
        /// The row as it is now.
        row: Values,
        /// The positions of the references, and their former values.
        #[serde(default, skip_serializing_if = "Vec::is_empty")]
        later: Vec<(usize, Value)>,
    },
    /// A run of the restore has ended: references left empty above were left empty on purpose.
    End,
    /// The days to recompute, recorded before anything is undone.
    Days {
        /// Each lab's days.
        labs: Vec<(i64, Vec<NaiveDate>)>,
    },
}

impl Record {
    /// A record that the references filled in by a `Fill` are empty again; `row` is the row as it is now.
    #[must_use]
    pub fn empty(table: &str, before: &[Arg], after: &[Arg], row: Cells) -> Self {
        let is_filled = |place: &usize| before[*place] == Arg::Null && after[*place] != Arg::Null;
        let places = (0..before.len()).filter(is_filled);
        let later = places.map(|place| (place, Value(after[place].clone()))).collect();
        Self::Empty { table: table.to_owned(), row: Values(row), later }
    }
}

/// A row's values.
#[derive(Debug, Clone, PartialEq)]
pub struct Values(pub Cells);

/// A value.
#[derive(Debug, Clone, PartialEq)]
pub struct Value(pub Arg);

impl Serialize for Value {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        cells::to_json(&self.0).serialize(serializer)
    }
}

impl<'de> Deserialize<'de> for Value {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let json = serde_json::Value::deserialize(deserializer)?;
        cells::from_json(&json).map(Self).ok_or_else(|| serde::de::Error::custom("no value"))
    }
}

impl Serialize for Values {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_seq(self.0.iter().map(cells::to_json))
    }
}

impl<'de> Deserialize<'de> for Values {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Vec::<Value>::deserialize(deserializer).map(|values| Self(values.into_iter().map(|value| value.0).collect()))
    }
}

/// The file, held exclusively until this is dropped.
#[derive(Debug)]
pub struct LockedFile {
    path: PathBuf,
    _lock: File,
}

impl LockedFile {
    /// Opens and locks the file, creating it if it is missing.
    ///
    /// # Errors
    /// If another run holds it, or it cannot be written.
    pub fn create(path: &Path) -> anyhow::Result<Self> {
        let open = || private().read(true).append(true).create(true).open(path);
        Self::with(path, open).with_context(|| format!("{}: cannot be written", path.display()))?
    }

    /// Opens and locks an existing file, which may be read-only.
    ///
    /// # Errors
    /// If another run holds it, or it cannot be read.
    pub fn open(path: &Path) -> anyhow::Result<Self> {
        Self::with(path, || writable(path).or_else(|_| File::open(path)))
            .with_context(|| format!("{}: cannot be read", path.display()))?
    }

    fn with(path: &Path, open: impl Fn() -> io::Result<File>) -> io::Result<anyhow::Result<Self>> {
        loop {
            let lock = open()?;
            match lock.try_lock() {
                Ok(()) if is_at(&lock, path) => return Ok(Ok(Self { path: path.to_owned(), _lock: lock })),
                // An undo that finished meanwhile has renamed it.
                Ok(()) => {}
                Err(TryLockError::WouldBlock) => {
                    let path = path.display();
                    return Ok(Err(anyhow::anyhow!(
                        "{path} is in use by another run: wait for its end, or give another file"
                    )));
                }
                Err(TryLockError::Error(error)) => return Err(error),
            }
        }
    }

    /// Opens the file for writing: starts it, or continues it if its header matches.
    pub fn writer(&self, header: &Header) -> anyhow::Result<Writer> {
        Writer::open(&self.path, header)
    }

    /// Opens the file for reading.
    pub fn reader(&self) -> anyhow::Result<Reader> {
        Reader::open(&self.path)
    }
}

/// Whether an open file is still the one with that name.
fn is_at(file: &File, path: &Path) -> bool {
    #[cfg(unix)]
    {
        use std::os::unix::fs::MetadataExt as _;
        let id = |meta: fs::Metadata| (meta.dev(), meta.ino());
        file.metadata().is_ok_and(|own| fs::metadata(path).is_ok_and(|there| id(own) == id(there)))
    }
    #[cfg(not(unix))]
    {
        let _ = file;
        path.exists()
    }
}

/// The file, open for writing.
#[derive(Debug)]
pub struct Writer {
    file: File,
    path: PathBuf,
}

impl Writer {
    /// Creates the file, or continues it if its header matches; a torn last line is removed.
    fn open(path: &Path, header: &Header) -> anyhow::Result<Self> {
        let at = || format!("{}: cannot be written", path.display());
        let mut file = private().read(true).append(true).create(true).open(path).with_context(at)?;
        let whole = whole_length(&mut file).with_context(at)?;
        if whole > 0 {
            let known = Reader::open(path)?.header;
            if let (Some(own), Some(live), false) = (&known.database, &header.database, known.may_be_of(header)) {
                bail!(
                    "{0}: this undo file is of database {1}, and this is {2}: give another one with --undo-file. If \
                     {2} has taken its place, as after a failover, use --into-other-database",
                    path.display(),
                    own.named_beside(live),
                    live.named_beside(own)
                );
            }
            if known.snapshot != header.snapshot {
                bail!(
                    "{}: this undo file is of snapshot {}: give another one with --undo-file",
                    path.display(),
                    known.snapshot
                );
            }
            if known.tables != header.tables {
                bail!(
                    "{}: this undo file was begun when the tables had other columns: take that restore back first \
                     (`daymend snapshot undo`), or give another one with --undo-file",
                    path.display()
                );
            }
            file.set_len(whole).with_context(at)?;
            return Ok(Self { file, path: path.to_owned() });
        }
        if !is_torn_header(&mut file).with_context(at)? {
            bail!("{}: this is not an undo file", path.display());
        }
        file.set_len(0).with_context(at)?;
        let mut this = Self { file, path: path.to_owned() };
        this.write(&[header])?;
        // The name of a new file is only durable once its directory is synced.
        let directory = path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
        File::open(directory).and_then(|directory| directory.sync_all()).with_context(at)?;
        Ok(this)
    }

    /// The file's path.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Appends records, and syncs them to disk.
    pub fn append(&mut self, records: &[Record]) -> anyhow::Result<()> {
        if records.is_empty() { Ok(()) } else { self.write(records) }
    }

    fn write<T: Serialize>(&mut self, lines: &[T]) -> anyhow::Result<()> {
        let at = || format!("{}: cannot be written", self.path.display());
        let mut file = BufWriter::new(&self.file);
        for line in lines {
            serde_json::to_writer(&mut file, line).with_context(at)?;
            file.write_all(b"\n").with_context(at)?;
        }
        file.flush().with_context(at)?;
        drop(file);
        self.file.sync_data().with_context(at)
    }
}

/// The message for a file begun by an older daymend.
#[must_use]
pub fn of_any_database(path: &Path) -> String {
    format!("{} does not name its database: make sure that it belongs to this one", path.display())
}

/// The message for a file begun with other relations than the given ones.
#[must_use]
pub fn of_other_relations(path: &Path) -> String {
    format!("{} was begun with other --relations: give these to `snapshot undo` as well", path.display())
}

/// The length of a file up to the end of its last whole line.
fn whole_length(file: &mut File) -> io::Result<u64> {
    let mut end = file.seek(SeekFrom::End(0))?;
    let mut block = vec![0; 64 * 1024];
    while end > 0 {
        let start = end.saturating_sub(block.len() as u64);
        let length = usize::try_from(end - start).unwrap_or(block.len());
        file.seek(SeekFrom::Start(start))?;
        file.read_exact(&mut block[..length])?;
        if let Some(at) = block[..length].iter().rposition(|byte| *byte == b'\n') {
            return Ok(start + at as u64 + 1);
        }
        end = start;
    }
    Ok(0)
}

/// Whether a file without a whole line is empty, or the beginning of a header.
fn is_torn_header(file: &mut File) -> io::Result<bool> {
    const BEGINNING: &[u8] = b"{\"daymend_undo\":";
    let mut bytes = Vec::new();
    file.seek(SeekFrom::Start(0))?;
    file.take(BEGINNING.len() as u64).read_to_end(&mut bytes)?;
    Ok(BEGINNING.starts_with(&bytes))
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;
    use crate::snapshot::restore::relations::Relations;

    fn header(snapshot: &str) -> Header {
        let tables = BTreeMap::from([("t".to_owned(), (vec!["id".to_owned(), "name".to_owned()], vec![0]))]);
        let relations = Relations::default();
        Header {
            daymend_undo: header::VERSION,
            snapshot: snapshot.to_owned(),
            database: None,
            may_have_moved: false,
            relations,
            tables,
        }
    }

    fn insert(id: i64) -> Record {
        let row = Values(vec![Arg::Int(id), Arg::Text("a\n\"b".to_owned())]);
        Record::Insert { table: "t".to_owned(), row, later: vec![(1, Value(Arg::Real(0.5)))], referred: Vec::new() }
    }

    #[test]
    fn what_was_appended_is_read_also_after_a_torn_line() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("undo.jsonl");
        Writer::open(&path, &header("s")).unwrap().append(&[insert(1), insert(2)]).unwrap();
        File::options().append(true).open(&path).unwrap().write_all(b"{\"op\":\"insert\",\"tab").unwrap();
        assert_eq!(Reader::open(&path).unwrap().len(), 2, "the torn line is none");
        Writer::open(&path, &header("s")).unwrap().append(&[insert(3)]).unwrap();
        let mut reader = Reader::open(&path).unwrap();
        assert_eq!(reader.read(1..3).unwrap(), [insert(2), insert(3)]);
        assert_eq!(reader.read(0..0).unwrap(), []);
    }

    #[test]
    fn a_file_of_something_else_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("undo.jsonl");
        Writer::open(&path, &header("s")).unwrap();
        let error = Writer::open(&path, &header("other")).unwrap_err().to_string();
        assert!(error.contains("this undo file is of snapshot s"), "{error}");
        // The file is not changed by a single byte.
        for wrong in ["hello\n", "hello\nand no end", "hello", "{\"daymend\""] {
            fs::write(&path, wrong).unwrap();
            for error in [Reader::open(&path).unwrap_err(), Writer::open(&path, &header("s")).unwrap_err()] {
                assert!(error.to_string().contains("this is not an undo file"), "{wrong}: {error:#}");
            }
            assert_eq!(fs::read_to_string(&path).unwrap(), wrong);
        }
    }

    #[test]
    fn a_file_of_another_format_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("undo.jsonl");
        Writer::open(&path, &Header { daymend_undo: header::VERSION + 1, ..header("s") }).unwrap();
        let before = fs::read(&path).unwrap();
        for error in [Reader::open(&path).unwrap_err(), Writer::open(&path, &header("s")).unwrap_err()] {
            assert!(
                error.to_string().ends_with("format version 2 is not supported (this daymend reads 1)"),
                "{error:#}"
            );
        }
        assert_eq!(fs::read(&path).unwrap(), before);
    }

    /// Older files have no relations. Giving some later is not an error, and does not add them.
    #[test]
    fn a_file_says_what_the_restore_went_by() {
        let dir = tempfile::tempdir().unwrap();
        let given = |text: &str| Relations::parse("r.toml", text).unwrap();
        let notes = given("[[reference]]\ntable = 'notes'\ncolumns = 'owner'\nparent = 't'\n");
        let (old, new) = (dir.path().join("old.jsonl"), dir.path().join("new.jsonl"));
        Writer::open(&old, &header("s")).unwrap();
        assert!(!fs::read_to_string(&old).unwrap().contains("relations"));
        let header = Header { relations: notes.clone(), ..header("s") };
        for path in [&old, &new] {
            Writer::open(path, &header).unwrap();
        }
        let (old, new) = (Reader::open(&old).unwrap().header, Reader::open(&new).unwrap().header);
        assert!(old.relations.is_empty() && !old.knows(&notes) && old.knows(&Relations::default()));
        assert!(new.relations == notes && new.knows(&notes) && new.knows(&Relations::default()));
    }

    #[test]
    fn a_file_of_another_database_is_refused_and_one_that_does_not_say_is_not() {
        let dir = tempfile::tempdir().unwrap();
        let of = |sqlite, name: &str| {
            let database = Some(Database { sqlite, name: name.to_owned(), server: None });
            Header { database, ..header("s") }
        };
        let (path, old) = (dir.path().join("undo.jsonl"), dir.path().join("old.jsonl"));
        Writer::open(&path, &of(false, "staging")).unwrap();
        Writer::open(&path, &of(false, "staging")).unwrap();
        for other in [of(false, "lab"), of(true, "staging")] {
            let error = Writer::open(&path, &other).unwrap_err().to_string();
            assert!(error.contains("is of database staging, and this is "), "{error}");
            assert!(error.contains(": give another one with --undo-file."), "{error}");
        }
        Writer::open(&old, &header("s")).unwrap();
        Writer::open(&old, &of(false, "lab")).unwrap();
        let moved = dir.path().join("moved.jsonl");
        Writer::open(&moved, &of(true, "/var/lab.db")).unwrap();
        Writer::open(&moved, &of(true, "/backup/lab.db")).unwrap();
        assert!(Writer::open(&moved, &of(true, "/var/other.db")).is_err());
    }

    #[test]
    fn one_run_has_it_at_a_time() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("undo.jsonl");
        assert!(LockedFile::open(&path).unwrap_err().to_string().contains("cannot be read"), "it is not there yet");
        let locked = LockedFile::create(&path).unwrap();
        locked.writer(&header("s")).unwrap().append(&[insert(1)]).unwrap();
        for other in [LockedFile::create(&path), LockedFile::open(&path)] {
            let error = other.unwrap_err().to_string();
            assert!(error.starts_with(&format!("{} is in use by another run", path.display())), "{error}");
        }
        // Renamed while locked: the next run creates its own file.
        fs::rename(&path, dir.path().join("undo.jsonl.undone")).unwrap();
        let next = LockedFile::create(&path).unwrap();
        drop(locked);
        assert!(LockedFile::create(&path).is_err());
        drop(next);
        assert!(LockedFile::open(&path).is_ok());
    }

    /// Between the moment in which it was opened and the one in which it was locked.
    #[test]
    fn a_file_that_was_renamed_meanwhile_is_not_the_one_that_is_held() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("undo.jsonl");
        let opened = std::cell::Cell::new(0);
        let open = || {
            let file = File::options().append(true).create(true).open(&path)?;
            if opened.replace(opened.get() + 1) == 0 {
                fs::rename(&path, dir.path().join("undo.jsonl.undone"))?;
            }
            Ok(file)
        };
        let locked = LockedFile::with(&path, open).unwrap().unwrap();
        assert_eq!(opened.get(), 2);
        assert!(LockedFile::create(&path).unwrap_err().to_string().contains("is in use by another run"));
        drop(locked);
    }

    #[test]
    fn a_header_torn_by_a_crash_is_written_again() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("undo.jsonl");
        fs::write(&path, "{\"daymend_un").unwrap();
        Writer::open(&path, &header("s")).unwrap();
        assert!(Reader::open(&path).unwrap().is_empty());
    }
}
