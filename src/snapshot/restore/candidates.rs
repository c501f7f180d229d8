//! The working file: which rows are candidates for being restored, and what became of each.
//!
//! A SQLite file of its own, so that a million vanished rows need no memory. It is thrown away and
//! made anew by every run: what a run before it has done is read from the live database and from the
//! undo file.

use std::path::Path;

use crate::{
    args,
    db::{self, Arg, ConnectOptions, Db, DbError, Mode, Query},
    snapshot::{
        SnapshotError,
        cells::{self, Cells},
        scratch::Scratch,
        side::{PAGE, PAGE_BYTES},
    },
};

/// What is, or will be, done with a row of the snapshot that the live database does not have.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, serde::Serialize)]
#[serde(rename_all = "snake_case")]
pub enum State {
    /// It will be restored.
    Missing,
    /// It has been restored.
    Restored,
    /// It was entered again under another key, which references are written as.
    Mapped,
    /// Its unique key is held by somebody else, who was there before.
    TakenOver,
    /// Its own key is held by a row of another identity.
    Reused,
    /// Who holds its unique key cannot be told.
    Ambiguous,
    /// It was deleted on purpose.
    Excluded,
    /// It cannot go in, for a reason that the database or its parents give.
    Deferred,
    /// Nobody has asked for rows of its table.
    LeftOut,
}

impl State {
    const ALL: [Self; 9] = [
        Self::Missing,
        Self::Restored,
        Self::Mapped,
        Self::TakenOver,
        Self::Reused,
        Self::Ambiguous,
        Self::Excluded,
        Self::Deferred,
        Self::LeftOut,
    ];

    /// The name in the working file and in reports.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Missing => "missing",
            Self::Restored => "restored",
            Self::Mapped => "mapped",
            Self::TakenOver => "taken over",
            Self::Reused => "id reused",
            Self::Ambiguous => "ambiguous",
            Self::Excluded => "excluded",
            Self::Deferred => "deferred",
            Self::LeftOut => "left out",
        }
    }

    fn parse(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|state| state.name() == name)
    }

    /// Whether somebody wants it back, whatever becomes of it.
    #[must_use]
    pub fn is_wanted(self) -> bool {
        !matches!(self, Self::Excluded | Self::LeftOut)
    }

    /// Whether a person has to decide.
    #[must_use]
    pub fn is_quarantined(self) -> bool {
        matches!(self, Self::TakenOver | Self::Reused | Self::Ambiguous)
    }
}

/// A candidate.
#[derive(Debug, Clone, PartialEq)]
pub struct Candidate {
    /// Its place among the table's candidates, in the order of their keys.
    pub place: i64,
    /// Its key in the snapshot.
    pub key: Cells,
    /// About how many bytes its row takes; rows are read by the page, and of long ones fewer.
    pub size: usize,
    /// What is done with it.
    pub state: State,
    /// Why.
    pub reason: String,
    /// More about it.
    pub detail: String,
    /// The key of the live row that stands for it, or in its way. Of a row that is restored, the key that it goes
    /// in with, where it refers to rows that have other keys now.
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

/// A row that went in with references left empty, to be filled in when their rows are there.
#[derive(Debug, Clone, PartialEq)]
pub struct Fill {
    /// The table's number.
    pub table: usize,
    /// The row's key in the live database.
    pub key: Cells,
    /// The row as it went in: one that is another by now is somebody else's business.
    pub row: Cells,
    /// The places of the columns, and their values.
    pub values: Vec<(usize, Arg)>,
    /// Whether the run that put it in has ended, and said that its references are empty.
    pub is_known: bool,
    /// Why the database did not let them be filled in, and its own words; empty where it was not asked.
    pub refused: (String, String),
}

/// How many candidates of a table are in a state for a reason.
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

/// The working file.
#[derive(Debug)]
pub struct Candidates {
    db: Db,
    /// Where it is.
    _dir: Scratch,
}

impl Candidates {
    /// An empty one in the directory for temporary files, which goes when this does.
    pub async fn temporary() -> Result<Self, SnapshotError> {
        Self::within(&std::env::temp_dir()).await
    }

    /// An empty one in another directory.
    pub async fn within(parent: &Path) -> Result<Self, SnapshotError> {
        let dir = Scratch::new(parent)?;
        let options = ConnectOptions { create: true, ..ConnectOptions::new(2) };
        // In a URL these are no part of a name.
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

    /// Adds candidates of a table behind those that it has.
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

    /// Writes down what became of candidates of a table.
    pub async fn set(&self, table: usize, candidates: &[Candidate]) -> Result<(), DbError> {
        self.write(table, candidates, false).await
    }

    /// Writes down verdicts, which may be forgotten again.
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

    /// Makes all candidates what they were before they were judged. What is contested stays so.
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

    /// More than one candidate says that this live row is its own: none of them is believed, or only one.
    pub async fn contest(&self, table: usize, holder: &[Arg], winner: Option<&Cells>) -> Result<(), DbError> {
        let args = args![table, cells::encode(holder), winner.map(|key| cells::encode(key))];
        self.run("INSERT OR REPLACE INTO contested (t, holder, key) VALUES (?, ?, ?)", args).await.map(drop)
    }

    /// Whom a live row may stand for that more than one candidate has claimed: a key, or nobody. None where at most
    /// one has.
    pub async fn contested(&self, table: usize, holder: &[Arg]) -> Result<Option<Option<Cells>>, SnapshotError> {
        let mut tx = self.db.begin(Mode::Snapshot).await?;
        let sql = "SELECT key FROM contested WHERE t = ? AND holder = ?";
        let args = args![table, cells::encode(holder)];
        let found = tx.fetch_optional(Query::named("restore contested", sql), args, |row| row.text_or_null(0)).await?;
        tx.commit().await?;
        Ok(found.map(|key| key.and_then(|key| cells::decode(&key))))
    }

    /// The next candidates of a table in a state, behind a place: not more than a page, nor than a page's bytes of rows.
    pub async fn page(&self, table: usize, state: State, after: i64) -> Result<Vec<Candidate>, SnapshotError> {
        let sql =
            format!("SELECT {COLUMNS} FROM candidates WHERE t = ? AND state = ? AND n > ? ORDER BY n LIMIT {PAGE}");
        let mut page = self.read(sql, args![table, state.name(), after]).await?;
        let mut bytes = 0;
        page.retain(|candidate| {
            let is_room = bytes <= PAGE_BYTES;
            bytes += candidate.size;
            is_room
        });
        Ok(page)
    }

    /// The first candidates of a table in a state for a reason.
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

    /// Nobody has asked for what is missing of a table.
    pub async fn leave_out(&self, table: usize) -> Result<u64, DbError> {
        let states = args![State::LeftOut.name(), table, State::Missing.name()];
        self.run("UPDATE candidates SET state = ? WHERE t = ? AND state = ?", states).await
    }

    /// Gives deferred rows another try.
    pub async fn retry(&self) -> Result<u64, DbError> {
        let states = args![State::Missing.name(), State::Deferred.name()];
        self.run("UPDATE candidates SET state = ?, reason = '', detail = '' WHERE state = ?", states).await
    }

    /// What became of the candidates with these keys; none for a row that is no candidate.
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

    /// What was restored as the live row with this key.
    pub async fn restored_as(&self, table: usize, key: &[Arg]) -> Result<Option<Candidate>, SnapshotError> {
        let moved = self.held_by(table, State::Restored, key).await?;
        let own = self.find(table, &[key.to_vec()]).await?.pop().flatten();
        Ok(moved.or(own.filter(|own| own.state == State::Restored && own.holder.is_none())))
    }

    /// The candidate of a table that a live row stands for already.
    pub async fn mapped_to(&self, table: usize, holder: &[Arg]) -> Result<Option<Candidate>, SnapshotError> {
        self.held_by(table, State::Mapped, holder).await
    }

    async fn held_by(&self, table: usize, state: State, holder: &[Arg]) -> Result<Option<Candidate>, SnapshotError> {
        let sql = format!("SELECT {COLUMNS} FROM candidates WHERE t = ? AND state = ? AND holder = ?");
        Ok(self.read(sql, args![table, state.name(), cells::encode(holder)]).await?.pop())
    }

    /// How many candidates there are, by table, state and reason.
    pub async fn counts(&self) -> Result<Vec<Count>, SnapshotError> {
        let sql =
            "SELECT t, state, reason, COUNT(*) FROM candidates GROUP BY t, state, reason ORDER BY t, state, reason";
        let mut tx = self.db.begin(Mode::Snapshot).await?;
        let counts = tx.fetch_all(Query::named("restore counts", sql), vec![], |row| {
            Ok(Count {
                table: usize::try_from(row.int(0)?).unwrap_or(usize::MAX),
                state: State::parse(&row.text(1)?).unwrap_or(State::Deferred),
                reason: row.text(2)?,
                rows: row.int(3)?,
            })
        });
        let counts = counts.await?;
        tx.commit().await?;
        Ok(counts)
    }

    /// Keeps in mind what has to be filled in; of a row that has come before, only this.
    pub async fn add_fills(&self, fills: &[Fill]) -> Result<(), DbError> {
        if fills.is_empty() {
            return Ok(());
        }
        let mut tx = self.db.begin(Mode::Write).await?;
        for fill in fills {
            let later: Vec<(usize, serde_json::Value)> =
                fill.values.iter().map(|(place, value)| (*place, cells::to_json(value))).collect();
            let later = serde_json::to_string(&later).unwrap_or_default();
            let (key, row) = (cells::encode(&fill.key), cells::encode(&fill.row));
            let sql = "INSERT OR REPLACE INTO fills (t, key, row, later, known) VALUES (?, ?, ?, ?, ?)";
            tx.execute(Query::new("restore fill", sql), args![fill.table, key, row, later, fill.is_known]).await?;
        }
        tx.commit().await
    }

    /// The runs that have put these rows in have ended.
    pub async fn all_fills_known(&self) -> Result<(), DbError> {
        self.run("UPDATE fills SET known = 1", vec![]).await.map(drop)
    }

    /// The next rows that have references to be filled in, each with its number.
    pub async fn fills(&self, after: i64) -> Result<Vec<(i64, Fill)>, SnapshotError> {
        let sql = format!(
            "SELECT id, t, key, row, later, known, reason, detail FROM fills WHERE id > ? ORDER BY id LIMIT {PAGE}"
        );
        let mut tx = self.db.begin(Mode::Snapshot).await?;
        let (mut fills, mut bytes) = (Vec::new(), 0);
        tx.for_each(Query::named("restore fills", sql), args![after], |row| {
            if bytes > PAGE_BYTES {
                return Ok(());
            }
            let values: Vec<(usize, serde_json::Value)> = serde_json::from_str(&row.text(4)?).unwrap_or_default();
            let values = values.iter().filter_map(|(place, value)| Some((*place, cells::from_json(value)?))).collect();
            let table = usize::try_from(row.int(1)?).unwrap_or(usize::MAX);
            let (key, inserted) = (row.text(2)?, row.text(3)?);
            let fill = Fill {
                table,
                key: cells::decode(&key).unwrap_or_default(),
                row: cells::decode(&inserted).unwrap_or_default(),
                values,
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

    /// Keeps in mind why the database does not let a reference be filled in.
    pub async fn refuse_fill(&self, id: i64, (reason, detail): &(String, String)) -> Result<(), DbError> {
        let args = args![reason.as_str(), detail.as_str(), id];
        self.run("UPDATE fills SET reason = ?, detail = ? WHERE id = ?", args).await.map(drop)
    }

    /// Forgets what was filled in.
    pub async fn filled(&self, id: i64) -> Result<(), DbError> {
        self.run("DELETE FROM fills WHERE id = ?", args![id]).await.map(drop)
    }

    /// Forgets what was filled in of a row.
    pub async fn forget_fill(&self, table: usize, key: &[Arg]) -> Result<(), DbError> {
        self.run("DELETE FROM fills WHERE t = ? AND key = ?", args![table, cells::encode(key)]).await.map(drop)
    }

    async fn read(&self, sql: String, args: Vec<Arg>) -> Result<Vec<Candidate>, SnapshotError> {
        let mut tx = self.db.begin(Mode::Snapshot).await?;
        let candidates = tx.fetch_all(Query::named("restore candidates", sql), args, |row| {
            Ok(Candidate {
                place: row.int(0)?,
                key: cells::decode(&row.text(1)?).unwrap_or_default(),
                size: usize::try_from(row.int(2)?).unwrap_or(usize::MAX),
                state: State::parse(&row.text(3)?).unwrap_or(State::Deferred),
                reason: row.text(4)?,
                detail: row.text(5)?,
                holder: row.text_or_null(6)?.and_then(|text| cells::decode(&text)),
            })
        });
        let candidates = candidates.await?;
        tx.commit().await?;
        Ok(candidates)
    }
}
