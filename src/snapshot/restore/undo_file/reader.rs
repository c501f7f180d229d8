//! Reading an undo file, a page at a time.

use std::{
    collections::BTreeSet,
    fs::File,
    io::{BufRead as _, BufReader, Read as _, Seek as _, SeekFrom},
    ops::Range,
    path::{Path, PathBuf},
};

use anyhow::{Context as _, bail};
use serde::Deserialize;

use super::{Header, Record, Writer, header::VERSION, whole_length};
use crate::snapshot::side::{PAGE, PAGE_BYTES};

/// The file, open for reading from its beginning or its end. Uses eight bytes of memory per line.
#[derive(Debug)]
pub struct Reader {
    /// The file's header.
    pub header: Header,
    /// The tables that have records.
    pub tables: BTreeSet<String>,
    file: File,
    path: PathBuf,
    /// Where each record begins, and where the last one ends.
    offsets: Vec<u64>,
}

/// The table of a record.
#[derive(Deserialize)]
struct Of {
    table: Option<String>,
}

impl Reader {
    pub(super) fn open(path: &Path) -> anyhow::Result<Self> {
        let at = || format!("{}: cannot be read", path.display());
        let mut file = File::open(path).with_context(at)?;
        let whole = whole_length(&mut file).with_context(at)?;
        file.seek(SeekFrom::Start(0)).with_context(at)?;
        let mut lines = BufReader::new(&mut file);
        let mut first = String::new();
        lines.read_line(&mut first).with_context(at)?;
        let header: Header =
            serde_json::from_str(&first).with_context(|| format!("{}: this is not an undo file", path.display()))?;
        if header.daymend_undo != VERSION {
            bail!(
                "{}: format version {} is not supported (this daymend reads {VERSION})",
                path.display(),
                header.daymend_undo
            );
        }
        let mut offsets = vec![first.len() as u64];
        let (mut at_byte, mut line) = (first.len() as u64, Vec::new());
        let mut tables = BTreeSet::new();
        while at_byte < whole {
            line.clear();
            at_byte += lines.read_until(b'\n', &mut line).with_context(at)? as u64;
            offsets.push(at_byte);
            // What cannot be parsed is an error when it is read.
            tables.extend(serde_json::from_slice(&line).ok().and_then(|Of { table }| table));
        }
        Ok(Self { header, tables, file, path: path.to_owned(), offsets })
    }

    /// Opens the same file for appending.
    pub fn writer(&self) -> anyhow::Result<Writer> {
        Writer::open(&self.path, &self.header)
    }

    /// How many records there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.offsets.len() - 1
    }

    /// Whether there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Ranges that together cover the file, each with at most a page of records and a page of bytes (unless a single
    /// record is longer).
    #[must_use]
    pub fn pages(&self) -> Vec<Range<usize>> {
        let (mut pages, mut start) = (Vec::new(), 0);
        for end in 1..=self.len() {
            let bytes = self.offsets[end] - self.offsets[start];
            if end - start == PAGE || bytes >= PAGE_BYTES as u64 || end == self.len() {
                pages.push(start..end);
                start = end;
            }
        }
        pages
    }

    /// The records in a range.
    pub fn read(&mut self, range: Range<usize>) -> anyhow::Result<Vec<Record>> {
        let at = || format!("{}: cannot be read", self.path.display());
        let (start, end) = (self.offsets[range.start], self.offsets[range.end]);
        let mut bytes = vec![0; usize::try_from(end - start)?];
        self.file.seek(SeekFrom::Start(start)).with_context(at)?;
        self.file.read_exact(&mut bytes).with_context(at)?;
        let lines = bytes.split(|byte| *byte == b'\n').filter(|line| !line.is_empty());
        lines.map(|line| serde_json::from_slice(line).with_context(at)).collect()
    }
}
