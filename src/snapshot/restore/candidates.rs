//! The working file: which rows are candidates for being restored, and the state of each.
//!
//! It is a SQLite file, so that a million vanished rows need no memory. Every run discards it and starts a new one:
//! what earlier runs did is read from the live database and from the undo file.

use std::path::Path;

pub use super::state::State;
use crate::{
    args,
    db::{self, Arg, ConnectOptions, Db, DbError, Mode, Query, Row},
    snapshot::{
        SnapshotError,
        cells::{self, Cells},
        scratch::Scratch,
        side::{PAGE, PAGE_BYTES},
    },
};

/// A candidate.
#[derive(Debug, Clone, PartialEq)]
pub struct Candidate {
    /// Its position among the table's candidates, in key order.
    pub place: i64,
    /// Its key in the snapshot.
    pub key: Cells,
    /// Approximate size of its row in bytes; a page has fewer rows if they are long.
    pub size: usize,
    /// Its state.
    pub state: State,
    /// The reason for the state.
    pub reason: String,
    /// More detail.
    pub detail: String,
    /// The key of the live row that replaces it, or is in its way. For a row to be restored whose references now have
    /// other keys: the key that it gets.
    pub holder: Option<Cells>,
}

impl Candidate {
    /// Whether it is the live row under its own key.
    #[must_use]
    pub fn is_itself(&self) -> bool {
        self.state == State::Mapped && self.holder.as_ref() == Some(&self.key)
    }

    /// What became of it: the columns `state`, `reason`, `detail` and `holder`.
    fn outcome(&self) -> [Arg; 4] {
        [
            self.state.name().into(),
            self.reason.as_str().into(),
            self.detail.as_str().into(),
            self.holder.as_ref().map(|key| cells::encode(key)).into(),
        ]
    }
}

/// A row that was inserted with references left empty, to be filled in once their rows exist.
#[derive(Debug, Clone, PartialEq)]
pub struct Fill {
    /// The table's number.
    pub table: usize,
    /// The row's key in the live database.
    pub key: Cells,
    /// The row as it was inserted: if it differs now, it is left alone.
    pub row: Cells,
    /// The positions of the columns, and their values.
    pub values: Vec<(usize, Arg)>,
    /// Whether the run that inserted it has ended, and recorded that its references are empty.
    pub is_known: bool,
    /// Why the database rejected filling them in, and its message; empty if it was not tried.
    pub refused: (String, String),
}

/// How many candidates of a table are in a state for the same reason.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Count {
    /// The table's number.
    pub table: usize,
    /// The state.
    pub state: State,
    /// The reason.
    pub reason: String,
    /// How many.
    pub rows: i64,
}

const SCHEMA: [&str; 8] = [
    "CREATE TABLE candidates (t INTEGER NOT NULL, n INTEGER NOT NULL, key TEXT NOT NULL, size INTEGER NOT NULL,
        state TEXT NOT NULL, reason TEXT NOT NULL, detail TEXT NOT NULL, holder TEXT, PRIMARY KEY (t, n)) WITHOUT ROWID",
    "CREATE UNIQUE INDEX candidates_key ON candidates (t, key)",
    "CREATE INDEX candidates_state ON candidates (t, state, n)",
    "CREATE INDEX candidates_holder ON candidates (t, holder) WHERE holder IS NOT NULL",
    "CREATE TABLE unjudged (t INTEGER NOT NULL, n INTEGER NOT NULL, state TEXT NOT NULL, reason TEXT NOT NULL,
        detail TEXT NOT NULL, holder TEXT, PRIMARY KEY (t, n)) WITHOUT ROWID",
    "CREATE TABLE contested (t INTEGER NOT NULL, holder TEXT NOT NULL, key TEXT, PRIMARY KEY (t, holder)) WITHOUT ROWID",
    "CREATE TABLE fills (id INTEGER PRIMARY KEY, t INTEGER NOT NULL, key TEXT NOT NULL, row TEXT NOT NULL,
        later TEXT NOT NULL, known INTEGER NOT NULL, reason TEXT NOT NULL DEFAULT '', detail TEXT NOT NULL DEFAULT '')",
    "CREATE UNIQUE INDEX fills_key ON fills (t, key)",
];

const COLUMNS: &str = "n, key, size, state, reason, detail, holder";

/// The candidates of a table in a state with a holder. Left to itself, SQLite looks at all candidates of the table each
/// time; the plus keeps it from the index of states, which is no better.
fn held_by() -> String {
    format!("SELECT {COLUMNS} FROM candidates INDEXED BY candidates_holder WHERE t = ? AND +state = ? AND holder = ?")
}

// Whatever cannot be read is an error: in a restore, nothing may be guessed.

fn number(row: &Row, index: usize) -> Result<usize, sqlx::Error> {
    usize::try_from(row.int(index)?).map_err(|error| sqlx::Error::Decode(error.into()))
}

fn cells_or_null(row: &Row, index: usize) -> Result<Option<Cells>, sqlx::Error> {
    row.text_or_null(index)?.map(|text| cells::decode(&text)).transpose()
}

/// The later values of a row, by column position.
fn later(text: &str) -> Result<Vec<(usize, Arg)>, sqlx::Error> {
    let values: Vec<(usize, serde_json::Value)> = serde_json::from_str(text).map_err(cells::not_values)?;
    values.iter().map(|(place, value)| Ok((*place, cells::value(value)?))).collect()
}

/// The first candidates of a page, until their rows exceed a page's bytes.
fn within_bytes(mut page: Vec<Candidate>) -> Vec<Candidate> {
    let mut bytes = 0;
    page.retain(|candidate| {
        let is_room = bytes <= PAGE_BYTES;
        bytes += candidate.size;
        is_room
    });
    page
}

/// The working file.
#[derive(Debug)]
pub struct Candidates {
    db: Db,
    /// Its directory.
    _dir: Scratch,
}

impl Candidates {
    /// An empty file in the directory for temporary files; removed when this is dropped.
    pub async fn temporary() -> Result<Self, SnapshotError> {
        Self::within(&std::env::temp_dir()).await
    }

    /// An empty file in another directory.
    pub async fn within(parent: &Path) -> Result<Self, SnapshotError> {
        let dir = Scratch::new(parent)?;
        let options = ConnectOptions { create: true, ..ConnectOptions::new(2) };
        // These have a meaning in a URL.
        let file = dir.file("plan.sqlite").display().to_string().replace('%', "%25").replace('?', "%3F");
        let url = format!("sqlite:{file}");
        let db = db::connect(&url, options).map_err(|error| SnapshotError::Target(error.to_string()))?;
        let work = Self { db, _dir: dir };
        for sql in SCHEMA {
            work.run(sql, vec![]).await?;
        }
        Ok(work)
    }

    async fn run(&self, sql: &str, args: Vec<Arg>) -> Result<u64, DbError> {
        let mut tx = self.db.begin(Mode::Write).await?;
        let found = tx.execute(Query::new("restore plan", sql), args).await?;
        tx.commit().await?;
        Ok(found)
    }

    /// Appends candidates of a table.
    pub async fn add(&self, table: usize, candidates: &[Candidate]) -> Result<(), DbError> {
        if candidates.is_empty() {
            return Ok(());
        }
        let mut tx = self.db.begin(Mode::Write).await?;
        for candidate in candidates {
            tx.execute(
                Query::new(
                    "restore candidate",
                    "INSERT INTO candidates (t, n, key, size, state, reason, detail, holder)
                     SELECT ?, COALESCE(MAX(n), 0) + 1, ?, ?, ?, ?, ?, ? FROM candidates WHERE t = ?",
                ),
                args![table, cells::encode(&candidate.key), candidate.size; candidate.outcome().into_iter().chain([table.into()])],
            )
            .await?;
        }
        tx.commit().await
    }

    /// Records the state of candidates of a table.
    pub async fn set(&self, table: usize, candidates: &[Candidate]) -> Result<(), DbError> {
        self.write(table, candidates, false).await
    }

    /// Records verdicts, which can be reverted.
    pub async fn judge(&self, table: usize, candidates: &[Candidate]) -> Result<(), DbError> {
        self.write(table, candidates, true).await
    }

    async fn write(&self, table: usize, candidates: &[Candidate], is_verdict: bool) -> Result<(), DbError> {
        if candidates.is_empty() {
            return Ok(());
        }
        let mut tx = self.db.begin(Mode::Write).await?;
        for candidate in candidates {
            if is_verdict {
                tx.execute(
                    Query::new(
                        "restore unjudged",
                        "INSERT OR IGNORE INTO unjudged (t, n, state, reason, detail, holder)
                         SELECT t, n, state, reason, detail, holder FROM candidates WHERE t = ? AND n = ?",
                    ),
                    args![table, candidate.place],
                )
                .await?;
            }
            tx.execute(
                Query::new(
                    "restore state",
                    "UPDATE candidates SET state = ?, reason = ?, detail = ?, holder = ? WHERE t = ? AND n = ?",
                ),
                args![; candidate.outcome().into_iter().chain([table.into(), candidate.place.into()])],
            )
            .await?;
        }
        tx.commit().await
    }

    /// Reverts all verdicts. Contested live rows stay contested.
    pub async fn forget_verdicts(&self) -> Result<(), DbError> {
        let mut tx = self.db.begin(Mode::Write).await?;
        for sql in [
            "UPDATE candidates SET state = old.state, reason = old.reason, detail = old.detail, holder = old.holder
             FROM unjudged AS old WHERE old.t = candidates.t AND old.n = candidates.n",
            "DELETE FROM unjudged",
        ] {
            tx.execute(Query::new("restore forget verdicts", sql), vec![]).await?;
        }
        tx.commit().await
    }

    /// Records that several candidates claim this live row: none of the claims is accepted, or only that of `winner`.
    pub async fn contest(&self, table: usize, holder: &[Arg], winner: Option<&Cells>) -> Result<(), DbError> {
        let args = args![table, cells::encode(holder), winner.map(|key| cells::encode(key))];
        self.run("INSERT OR REPLACE INTO contested (t, holder, key) VALUES (?, ?, ?)", args).await.map(drop)
    }

    /// The key of the candidate that a contested live row stands for, `Some(None)` if it stands for none. `None` if
    /// the row is not contested.
    pub async fn contested(&self, table: usize, holder: &[Arg]) -> Result<Option<Option<Cells>>, SnapshotError> {
        let mut tx = self.db.begin(Mode::Snapshot).await?;
        let sql = "SELECT key FROM contested WHERE t = ? AND holder = ?";
        let args = args![table, cells::encode(holder)];
        let found = tx.fetch_optional(Query::new("restore contested", sql), args, |row| cells_or_null(&row, 0)).await?;
        tx.commit().await?;
        Ok(found)
    }

    /// The next candidates of a table in a state, after a position: at most a page, and at most a page's bytes of
    /// rows.
    pub async fn page(&self, table: usize, state: State, after: i64) -> Result<Vec<Candidate>, SnapshotError> {
        let sql =
            format!("SELECT {COLUMNS} FROM candidates WHERE t = ? AND state = ? AND n > ? ORDER BY n LIMIT {PAGE}");
        Ok(within_bytes(self.read(sql, args![table, state.name(), after]).await?))
    }

    /// The next candidates of a table that have another key in the live database, or get one; a page like that of
    /// [`page`](Self::page).
    pub async fn moved(&self, table: usize, after: i64) -> Result<Vec<Candidate>, SnapshotError> {
        // The plus keeps SQLite from sorting all of them by their places for each page.
        let sql = format!(
            "SELECT {COLUMNS} FROM candidates WHERE t = ? AND n > ? AND state IN (?, ?, ?) AND +holder <> key
             ORDER BY n LIMIT {PAGE}"
        );
        let states = [State::Mapped, State::Missing, State::Restored].map(|state| Arg::from(state.name()));
        Ok(within_bytes(self.read(sql, args![table, after; states]).await?))
    }

    /// The first candidates of a table in a state for a given reason.
    pub async fn first(
        &self,
        table: usize,
        state: State,
        reason: &str,
        limit: usize,
    ) -> Result<Vec<Candidate>, SnapshotError> {
        let sql =
            format!("SELECT {COLUMNS} FROM candidates WHERE t = ? AND state = ? AND reason = ? ORDER BY n LIMIT ?");
        self.read(sql, args![table, state.name(), reason, limit]).await
    }

    /// Marks the missing rows of a table as not asked for.
    pub async fn leave_out(&self, table: usize) -> Result<u64, DbError> {
        let states = args![State::LeftOut.name(), table, State::Missing.name()];
        self.run("UPDATE candidates SET state = ? WHERE t = ? AND state = ?", states).await
    }

    /// Makes deferred rows ready for another try.
    pub async fn retry(&self) -> Result<u64, DbError> {
        let states = args![State::Missing.name(), State::Deferred.name()];
        self.run("UPDATE candidates SET state = ?, reason = '', detail = '' WHERE state = ?", states).await
    }

    /// The candidates with these keys; `None` for a row that is not a candidate.
    pub async fn find(&self, table: usize, keys: &[Cells]) -> Result<Vec<Option<Candidate>>, SnapshotError> {
        let texts: Vec<String> = keys.iter().map(|key| cells::encode(key)).collect();
        let mut known = std::collections::HashMap::new();
        for chunk in texts.chunks(PAGE) {
            let sql =
                format!("SELECT {COLUMNS} FROM candidates WHERE t = ? AND key IN ({})", db::repeat("?", chunk.len()));
            let mut args = args![table];
            args.extend(chunk.iter().map(|key| Arg::from(key.as_str())));
            for candidate in self.read(sql, args).await? {
                known.insert(cells::encode(&candidate.key), candidate);
            }
        }
        Ok(texts.iter().map(|text| known.get(text).cloned()).collect())
    }

    /// The candidate that was restored as the live row with this key.
    pub async fn restored_as(&self, table: usize, key: &[Arg]) -> Result<Option<Candidate>, SnapshotError> {
        let moved = self.held_by(table, State::Restored, key).await?;
        let own = self.find(table, &[key.to_vec()]).await?.pop().flatten();
        Ok(moved.or(own.filter(|own| own.state == State::Restored && own.holder.is_none())))
    }

    /// The candidate of a table that is already mapped to a live row.
    pub async fn mapped_to(&self, table: usize, holder: &[Arg]) -> Result<Option<Candidate>, SnapshotError> {
        self.held_by(table, State::Mapped, holder).await
    }

    async fn held_by(&self, table: usize, state: State, holder: &[Arg]) -> Result<Option<Candidate>, SnapshotError> {
        Ok(self.read(held_by(), args![table, state.name(), cells::encode(holder)]).await?.pop())
    }

    /// The number of candidates by table, state and reason.
    pub async fn counts(&self) -> Result<Vec<Count>, SnapshotError> {
        let sql =
            "SELECT t, state, reason, COUNT(*) FROM candidates GROUP BY t, state, reason ORDER BY t, state, reason";
        let mut tx = self.db.begin(Mode::Snapshot).await?;
        let counts = tx.fetch_all(Query::new("restore counts", sql), vec![], |row| {
            Ok(Count {
                table: number(&row, 0)?,
                state: State::parse(row.str(1)?)?,
                reason: row.text(2)?,
                rows: row.int(3)?,
            })
        });
        let counts = counts.await?;
        tx.commit().await?;
        Ok(counts)
    }

    /// Stores references to be filled in; replaces an earlier entry for the same row.
    pub async fn add_fills(&self, fills: &[Fill]) -> Result<(), DbError> {
        if fills.is_empty() {
            return Ok(());
        }
        let mut tx = self.db.begin(Mode::Write).await?;
        for fill in fills {
            let later: Vec<(usize, serde_json::Value)> =
                fill.values.iter().map(|(place, value)| (*place, cells::to_json(value))).collect();
            let later = serde_json::json!(later).to_string();
            let (key, row) = (cells::encode(&fill.key), cells::encode(&fill.row));
            let sql = "INSERT OR REPLACE INTO fills (t, key, row, later, known) VALUES (?, ?, ?, ?, ?)";
            tx.execute(Query::new("restore fill", sql), args![fill.table, key, row, later, fill.is_known]).await?;
        }
        tx.commit().await
    }

    /// Records that the runs which inserted these rows have ended.
    pub async fn all_fills_known(&self) -> Result<(), DbError> {
        self.run("UPDATE fills SET known = 1", vec![]).await.map(drop)
    }

    /// The next rows with references to be filled in, each with its number.
    pub async fn fills(&self, after: i64) -> Result<Vec<(i64, Fill)>, SnapshotError> {
        let sql = format!(
            "SELECT id, t, key, row, later, known, reason, detail FROM fills WHERE id > ? ORDER BY id LIMIT {PAGE}"
        );
        let mut tx = self.db.begin(Mode::Snapshot).await?;
        let (mut fills, mut bytes) = (Vec::new(), 0);
        tx.for_each(Query::new("restore fills", sql), args![after], |row| {
            if bytes > PAGE_BYTES {
                return Ok(());
            }
            let fill = Fill {
                table: number(&row, 1)?,
                key: cells::decode(row.str(2)?)?,
                row: cells::decode(row.str(3)?)?,
                values: later(row.str(4)?)?,
                is_known: row.int(5)? != 0,
                refused: (row.text(6)?, row.text(7)?),
            };
            bytes += cells::size(&fill.row);
            fills.push((row.int(0)?, fill));
            Ok(())
        })
        .await?;
        tx.commit().await?;
        Ok(fills)
    }

    /// Records why the database rejects filling in a reference.
    pub async fn refuse_fill(&self, id: i64, (reason, detail): &(String, String)) -> Result<(), DbError> {
        let args = args![reason.as_str(), detail.as_str(), id];
        self.run("UPDATE fills SET reason = ?, detail = ? WHERE id = ?", args).await.map(drop)
    }

    /// Removes an entry, once its references are filled in.
    pub async fn filled(&self, id: i64) -> Result<(), DbError> {
        self.run("DELETE FROM fills WHERE id = ?", args![id]).await.map(drop)
    }

    /// Removes the entry of a row.
    pub async fn forget_fill(&self, table: usize, key: &[Arg]) -> Result<(), DbError> {
        self.run("DELETE FROM fills WHERE t = ? AND key = ?", args![table, cells::encode(key)]).await.map(drop)
    }

    async fn read(&self, sql: String, args: Vec<Arg>) -> Result<Vec<Candidate>, SnapshotError> {
        let mut tx = self.db.begin(Mode::Snapshot).await?;
        let candidates = tx.fetch_all(Query::new("restore candidates", sql), args, |row| {
            Ok(Candidate {
                place: row.int(0)?,
                key: cells::decode(row.str(1)?)?,
                size: number(&row, 2)?,
                state: State::parse(row.str(3)?)?,
                reason: row.text(4)?,
                detail: row.text(5)?,
                holder: cells_or_null(&row, 6)?,
            })
        });
        let candidates = candidates.await?;
        tx.commit().await?;
        Ok(candidates)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_candidate_is_found_by_its_holder_whatever_the_number_of_candidates() {
        let db = rusqlite::Connection::open_in_memory().unwrap();
        SCHEMA.iter().for_each(|sql| db.execute_batch(sql).unwrap());
        let explain = format!("EXPLAIN QUERY PLAN {}", held_by());
        let plan: String = db.query_row(&explain, (0, "mapped", "[1]"), |row| row.get(3)).unwrap();
        assert_eq!(plan, "SEARCH candidates USING INDEX candidates_holder (t=? AND holder=?)");
    }

    #[tokio::test]
    async fn what_cannot_be_read_is_an_error() {
        let candidate = Candidate {
            place: 1,
            key: vec![Arg::Int(1)],
            size: 1,
            state: State::Mapped,
            reason: String::new(),
            detail: String::new(),
            holder: Some(vec![Arg::Int(2)]),
        };
        let fill = Fill {
            table: 0,
            key: vec![Arg::Int(1)],
            row: vec![Arg::Int(1), Arg::Null],
            values: vec![(1, Arg::Real(0.5))],
            is_known: false,
            refused: Default::default(),
        };
        for damage in ["candidates SET key = '[1'", "candidates SET state = 'lost'", "candidates SET holder = '[true]'"]
        {
            let work = Candidates::temporary().await.unwrap();
            work.add(0, std::slice::from_ref(&candidate)).await.unwrap();
            assert_eq!(work.mapped_to(0, &[Arg::Int(2)]).await.unwrap().as_ref(), Some(&candidate));
            work.run(&format!("UPDATE {damage}"), vec![]).await.unwrap();
            assert!(work.read(format!("SELECT {COLUMNS} FROM candidates"), vec![]).await.is_err(), "{damage}");
            assert_eq!(work.counts().await.is_err(), damage.contains("state"), "{damage}");
        }
        for damage in ["key = ''", "row = '{}'", "later = '[[1, true]]'", "later = ''"] {
            let work = Candidates::temporary().await.unwrap();
            work.add_fills(std::slice::from_ref(&fill)).await.unwrap();
            assert_eq!(work.fills(0).await.unwrap(), [(1, fill.clone())]);
            work.run(&format!("UPDATE fills SET {damage}"), vec![]).await.unwrap();
            assert!(work.fills(0).await.is_err(), "{damage}");
        }
        let work = Candidates::temporary().await.unwrap();
        work.contest(0, &[Arg::Int(2)], Some(&vec![Arg::Int(1)])).await.unwrap();
        work.run("UPDATE contested SET key = '1'", vec![]).await.unwrap();
        assert!(work.contested(0, &[Arg::Int(2)]).await.is_err());
    }
}
