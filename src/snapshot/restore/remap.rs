//! The map of re-created rows, as a CSV file that people can edit.
//!
//! Each line says which live row replaces a vanished one: `table,old,new,why`. A line without `new` is undecided: the
//! vanished row stays in quarantine.
//!
//! An existing file may hold somebody's decisions, so none is ever overwritten or removed.

use std::{
    collections::HashMap,
    fs::{self, File},
    io::{self, BufRead as _, BufReader},
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
};

use anyhow::{Context as _, bail};

use super::{
    Context, LINES_SHOWN,
    candidates::{Candidate, State},
    exclude::normal,
    plan::{self, BY_HAND},
};
use crate::{
    db::Arg,
    error::examples,
    snapshot::{
        SnapshotError,
        cells::{self, Cells},
        format::pack,
    },
};

/// The first line of the file.
const HEADINGS: [&str; 4] = ["table", "old", "new", "why"];

/// The decisions of a person.
#[derive(Debug, Default)]
pub struct Remap {
    /// Lines, by table and old key.
    rows: HashMap<(String, String), Arc<Line>>,
}

/// What a map says about a row.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Decision<'a> {
    /// Nothing.
    Unsaid,
    /// That it is undecided.
    Open,
    /// The key of the live row that replaces it.
    Row(&'a str),
}

#[derive(Debug)]
struct Line {
    /// The key of the live row; `None` if undecided.
    new: Option<String>,
    /// Whether the line has been used.
    is_used: AtomicBool,
}

impl Remap {
    /// Reads a map from a file.
    pub fn read(file: &Path) -> anyhow::Result<Self> {
        let name = file.display();
        let text = fs::read_to_string(file).with_context(|| format!("{name}: cannot be read"))?;
        Self::parse(&text).with_context(|| name.to_string())
    }

    fn parse(text: &str) -> anyhow::Result<Self> {
        let mut reader = csv::ReaderBuilder::new().trim(csv::Trim::All).flexible(true).from_reader(text.as_bytes());
        let headings: Vec<&str> = reader.headers()?.iter().take(3).collect();
        if headings != HEADINGS[..3] {
            bail!("the first line must be {}", HEADINGS.join(","));
        }
        let mut rows = HashMap::new();
        for record in reader.records() {
            let record = record?;
            let line = record.position().map_or(0, csv::Position::line);
            let (Some(table), Some(old)) = (record.get(0), record.get(1)) else { bail!("line {line}: too short") };
            let new = record.get(2).filter(|new| !new.is_empty()).map(str::to_owned);
            let new = Line { new, is_used: AtomicBool::new(false) };
            if rows.insert((table.to_owned(), old.to_owned()), Arc::new(new)).is_some() {
                bail!("line {line}: {table} {old} appears twice");
            }
        }
        Ok(Self { rows })
    }

    /// The same decisions by the keys as a context's rows show them, however a person has written them.
    ///
    /// # Errors
    /// If two lines name the same row.
    pub(super) fn within(&self, context: &Context) -> Result<Self, SnapshotError> {
        let mut rows = HashMap::new();
        for ((table, old), line) in &self.rows {
            let key = context.snapshot.tables.get(table).map_or_else(|| old.clone(), |of| normal(of, old));
            if rows.insert((table.clone(), key.clone()), Arc::clone(line)).is_some() {
                return Err(SnapshotError::Target(format!(
                    "the map: {table} {key} appears twice, written differently"
                )));
            }
        }
        Ok(Self { rows })
    }

    /// The decision about a row.
    #[must_use]
    pub fn get(&self, table: &str, key: &[Arg]) -> Decision<'_> {
        let line = |text: String| self.rows.get(&(table.to_owned(), text));
        // Keys in older maps are not quoted.
        let Some(line) = line(cells::write_key(key)).or_else(|| line(cells::show_key(key))) else {
            return Decision::Unsaid;
        };
        line.is_used.store(true, Ordering::Relaxed);
        line.new.as_deref().map_or(Decision::Open, Decision::Row)
    }

    /// A remark after planning about lines that match no missing row.
    #[must_use]
    pub fn remark(&self) -> Option<String> {
        let unused = self.rows.iter().filter(|(_, line)| !line.is_used.load(Ordering::Relaxed));
        let mut unused: Vec<String> = unused.map(|((table, key), _)| format!("{table}:{key}")).collect();
        if unused.is_empty() {
            return None;
        }
        unused.sort();
        let (lines, count) = (self.rows.len(), unused.len());
        Some(format!("the map: {count} of {lines} line(s) match no missing row: {}", examples(unused, LINES_SHOWN)))
    }

    /// The tables and old keys in the map.
    pub fn rows(&self) -> impl Iterator<Item = (&str, &str)> {
        self.rows.keys().map(|(table, key)| (table.as_str(), key.as_str()))
    }
}

/// Parses a key of a table, as written by a person.
///
/// # Errors
/// If the number of parts differs from the number of columns in the key.
pub fn parse_key(context: &Context, table: usize, text: &str) -> Result<Cells, String> {
    let shape = &context.shapes[table];
    let column = |place: usize| {
        let of = context.live.tables.get(&shape.table)?;
        of.position(&shape.columns[place]).map(|at| &of.columns[at])
    };
    let parts = match shape.key.as_slice() {
        [_] => vec![text.to_owned()],
        _ => cells::split_key(text),
    };
    if parts.len() != shape.key.len() {
        let columns = plan::names(shape, &shape.key);
        return Err(format!("the map names it by {} value(s), but its key is {columns}", parts.len()));
    }
    let parse = |(part, place): (String, &usize)| match column(*place) {
        Some(column) => cells::parse(&part, column),
        None => Arg::Text(part),
    };
    Ok(parts.into_iter().zip(&shape.key).map(parse).collect())
}

/// Saves the mapped rows and those that a person has to decide about; returns the file's path. Nothing is saved if
/// there are none, or if `file` is the map that was given. If another map exists there, it is kept, and a number is
/// added to the new file's name.
pub async fn save(context: &Context, file: &Path, given: Option<&Path>) -> anyhow::Result<Option<PathBuf>> {
    let is_given = |given: &Path| {
        fs::canonicalize(given).is_ok_and(|given| fs::canonicalize(file).is_ok_and(|file| file == given))
    };
    if given.is_some_and(is_given) {
        return Ok(None);
    }
    let mut temporary = file.as_os_str().to_owned();
    temporary.push(format!(".{:08x}.new", rand::random::<u32>()));
    let temporary = PathBuf::from(temporary);
    let at = || format!("{}: cannot be written", file.display());
    let lines = write(context, pack::create(&temporary).with_context(at)?, at).await?;
    let free = (1..).map(|number| numbered(file, number)).find_map(|path| match is_same(&path, &temporary) {
        Ok(false) => None,
        Ok(true) => Some(Ok((path, true))),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Some(Ok((path, false))),
        Err(error) => Some(Err(error)),
    });
    let saved = match free {
        Some(found) if lines > 0 => Some(found.with_context(at)?),
        _ => None,
    };
    match &saved {
        Some((path, false)) => fs::rename(&temporary, path).with_context(at)?,
        _ => fs::remove_file(&temporary).with_context(at)?,
    }
    Ok(saved.map(|(path, _)| path))
}

/// The name of the numbered version of a map: `a.map.csv`, `a.map.2.csv`.
fn numbered(file: &Path, number: u32) -> PathBuf {
    if number == 1 {
        return file.to_owned();
    }
    let mut name = file.file_stem().unwrap_or_default().to_owned();
    name.push(format!(".{number}"));
    if let Some(extension) = file.extension() {
        name.push(".");
        name.push(extension);
    }
    file.with_file_name(name)
}

/// Whether two files have the same content.
fn is_same(one: &Path, other: &Path) -> io::Result<bool> {
    let (mut one, mut other) = (BufReader::new(File::open(one)?), BufReader::new(File::open(other)?));
    loop {
        let (here, there) = (one.fill_buf()?, other.fill_buf()?);
        let length = here.len().min(there.len());
        if length == 0 || here[..length] != there[..length] {
            return Ok(here.is_empty() && there.is_empty());
        }
        one.consume(length);
        other.consume(length);
    }
}

/// Whether a candidate gets a line in the map. A row that is itself gets none: a plan finds that out again, and it
/// would be wrong after an undo.
fn is_line(candidate: &Candidate) -> bool {
    !candidate.is_itself() || candidate.reason == BY_HAND
}

/// Writes the map to a new file, which errors call `at`; returns how many lines it has.
async fn write(context: &Context, file: File, at: impl Fn() -> String + Copy) -> anyhow::Result<u64> {
    let mut lines = 0;
    let mut writer = csv::Writer::from_writer(file);
    writer.write_record(HEADINGS).with_context(at)?;
    for (table, shape) in context.shapes.iter().enumerate() {
        for state in [State::Mapped, State::TakenOver, State::Reused, State::Ambiguous] {
            let mut after = 0;
            loop {
                let page = context.work.page(table, state, after).await?;
                let Some(last) = page.last() else { break };
                after = last.place;
                for candidate in page.iter().filter(|candidate| is_line(candidate)) {
                    let new = candidate.holder.as_ref().filter(|_| state == State::Mapped);
                    lines += 1;
                    let new = new.map(|key| cells::write_key(key)).unwrap_or_default();
                    let why = match candidate.holder.as_ref().filter(|_| state != State::Mapped) {
                        Some(holder) => {
                            format!("{}: {} (live: {})", state.name(), candidate.reason, cells::show_key(holder))
                        }
                        None => candidate.reason.clone(),
                    };
                    writer
                        .write_record([&shape.table, &cells::write_key(&candidate.key), &new, &why])
                        .with_context(at)?;
                }
            }
        }
    }
    writer.into_inner().map_err(|error| anyhow::anyhow!("{error}"))?.sync_all().with_context(at)?;
    Ok(lines)
}

/// Calls `each` for every line of the map that has a live row.
pub async fn for_each_mapped(
    context: &Context,
    limit: usize,
    mut each: impl FnMut(&str, &[Arg], &[Arg], &str),
) -> Result<(), SnapshotError> {
    let mut left = limit;
    for (table, shape) in context.shapes.iter().enumerate() {
        let mut after = 0;
        loop {
            let page = context.work.page(table, State::Mapped, after).await?;
            let Some(last) = page.last() else { break };
            after = last.place;
            for candidate in page.iter().filter(|candidate| is_line(candidate)) {
                if left == 0 {
                    return Ok(());
                }
                left -= 1;
                each(&shape.table, &candidate.key, candidate.holder.as_deref().unwrap_or_default(), &candidate.reason);
            }
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_edited_file_is_read() {
        let remap =
            Remap::parse("table,old,new,why\nclients, 4011 ,200708,same card\nclients,6655,,\nm,\"1,2\",\"1,3\"\n")
                .unwrap();
        assert_eq!(remap.get("clients", &[Arg::Int(4011)]), Decision::Row("200708"));
        assert_eq!(remap.get("clients", &[Arg::Int(6655)]), Decision::Open);
        assert_eq!(remap.get("clients", &[Arg::Int(1)]), Decision::Unsaid);
        assert_eq!(remap.get("m", &[Arg::Int(1), Arg::Int(2)]), Decision::Row("1,3"));
    }

    #[test]
    fn what_cannot_be_meant_is_refused() {
        assert!(Remap::parse("old,new\n").unwrap_err().to_string().contains("the first line must be"));
        let twice = Remap::parse("table,old,new\na,1,2\na,1,3\n").unwrap_err().to_string();
        assert_eq!(twice, "line 3: a 1 appears twice");
    }
}
