//! `daymend snapshot undo`.

use std::{
    path::{Path, PathBuf},
    process::ExitCode,
};

use anyhow::Context as _;
use clap::Args;

use super::{
    AttemptsArgs, Exit, Global, HalfDone, diff::progress, follow_up::FollowUp, historical_summary, print_json, restore,
    usage, who,
};
use crate::{
    db::{Db, migrate},
    error::{chain, examples},
    recompute::shrink::MaxShrink,
    runs::repair,
    snapshot::restore::{
        relations::Relations,
        touched,
        undo::{Undo, Undone},
        undo_file::{self, Database, Header, LockedFile, Reader, Record},
    },
};

/// How many keys of each group to print.
const SHOWN: usize = 20;

/// Options of `daymend snapshot undo`.
#[derive(Debug, Args)]
pub(in crate::cli) struct Options {
    /// The undo file that `snapshot restore --apply` wrote
    #[arg(value_name = "FILE")]
    file: PathBuf,

    /// Only print what would be done: rows are read but not locked. What a trigger or a constraint would reject does
    /// not show
    #[arg(long)]
    dry_run: bool,

    /// Allow a database that has another name or is on another server than the one the rows were restored into
    #[arg(long)]
    into_other_database: bool,

    /// File with further references, besides foreign keys, jobs/ and those that the restore was given
    #[arg(long, value_name = "FILE")]
    relations: Vec<PathBuf>,

    /// Follow the repair run of the touched days, then audit those days
    #[arg(long, conflicts_with = "dry_run")]
    wait: bool,

    #[command(flatten)]
    attempts: AttemptsArgs,
}

impl Options {
    pub(in crate::cli) async fn run(self, global: &Global) -> anyhow::Result<ExitCode> {
        let mut done = self.file.clone().into_os_string();
        done.push(".undone");
        let done = PathBuf::from(done);
        // An earlier undo has renamed the file, which is its last step: there is nothing left to do.
        if !self.file.exists() && done.exists() {
            if global.json {
                print_json(&json(&Undone::default(), Some(&done), self.dry_run))?;
            } else {
                println!("{} has already been undone: see {}", self.file.display(), done.display());
            }
            return Ok(Exit::Ok.into());
        }
        let locked = LockedFile::open(&self.file).map_err(|error| usage(chain(error.as_ref())))?;
        let mut reader = locked.reader().map_err(|error| usage(chain(error.as_ref())))?;
        let db = global.connect_bare(2).await?;
        self.check_database(global, &reader.header, &db).await?;
        if !self.dry_run && !self.into_other_database {
            // What is undone is recomputed by a run, which is enqueued when the rows are gone. Another database need
            // not be daymend's.
            migrate::check_unless_hidden(&db).await?;
        }
        let undo = undo_of(global, &db, &reader, &self.relations).await?;
        let days = days_of(global, &db, &undo, &mut reader).await?;
        // Record the days now: once the rows are gone, nobody could tell which days they were on.
        if !self.dry_run && !days.labs.is_empty() {
            reader.writer()?.append(&[Record::Days { labs: days.labs.clone() }])?;
        }
        let half_done = HalfDone::new(global, "run it again to continue");
        let mut say = progress(global, if self.dry_run { "checked" } else { "undone" }.to_owned(), 0);
        let mut progress = |rows| {
            half_done.is_at(if self.dry_run { 0 } else { rows });
            say(rows);
        };
        let undone = match self.dry_run {
            true => undo.foretell(&mut reader, &mut progress).await,
            false => undo.run(&mut reader, &mut progress).await,
        };
        drop(say);
        let undone = undone.map_err(restore::with_rights)?;
        let exit = if undone.left.is_empty() { Exit::Ok } else { Exit::Drift };
        if self.dry_run {
            if global.json {
                print_json(&json(&undone, None, true))?;
            } else {
                print(&undone, true);
            }
            return Ok(exit.into());
        }
        // Whoever undoes a restore has decided that the rows of those days should vanish.
        let follow_up = FollowUp {
            requested_by: format!("undo of {} by {}", reader.header.snapshot, who()),
            limits: self.attempts.with(MaxShrink::OFF),
            wait: self.wait,
        };
        let after = follow_up.enqueue(global, &db, &days).await;
        half_done.done();
        // If the days could not be enqueued, the file keeps its name: undoing it again then continues with them.
        let renamed = (undone.left.is_empty() && after.is_enqueued()).then_some(done.as_path());
        if let Some(done) = renamed {
            std::fs::rename(&self.file, done).with_context(|| {
                format!("{} row(s) were removed, but {} cannot be renamed", undone.removed, self.file.display())
            })?;
        }
        // Release the undo file before the steps that may take long.
        drop(locked);
        if !global.json {
            print(&undone, false);
            if let Some(done) = renamed {
                println!("{} is now {}", self.file.display(), done.display());
            }
        }
        let after = follow_up.finish(global, &db, &days, after).await?;
        if global.json {
            print_json(&after.add_to(json(&undone, renamed, false)))?;
        }
        Ok(after.exit(exit).into())
    }

    /// Refuses another database: its rows are not the restored ones, even if they have the same keys.
    async fn check_database(&self, global: &Global, header: &Header, db: &Db) -> anyhow::Result<()> {
        let (file, live) = (self.file.display(), Database::of(db).await?);
        let Some(known) = &header.database else {
            global.warn(undo_file::of_any_database(&self.file));
            return Ok(());
        };
        if !known.is_same(&live) && !self.into_other_database {
            return Err(usage(format!(
                "{file} was written for database {}, but this is {}: if that is intended, use --into-other-database",
                known.named_beside(&live),
                live.named_beside(known)
            )));
        }
        Ok(())
    }
}

/// The undo of the rows of a file: it considers every table of the database, whatever was in the snapshot, and the
/// relations that the restore was given.
pub(super) async fn undo_of(global: &Global, db: &Db, reader: &Reader, files: &[PathBuf]) -> anyhow::Result<Undo> {
    let mut relations = Relations::of_jobs(global.jobs_dir.as_deref()).map_err(|error| usage(chain(&error)))?;
    relations.extend(reader.header.relations.clone());
    for file in files {
        relations.extend(Relations::read(file).map_err(|error| usage(chain(&error)))?);
    }
    Undo::new(db, reader, relations).await.map_err(restore::with_rights)
}

/// The days touched by the rows of a file.
pub(super) async fn days_of(
    global: &Global,
    db: &Db,
    undo: &Undo,
    reader: &mut Reader,
) -> anyhow::Result<repair::Plan> {
    let Some(facts) = undo.facts() else { return Ok(repair::Plan::default()) };
    let rollups = global.rollups()?;
    let rollup = historical_summary(&rollups)?;
    let (live, shapes, links) = undo.parts();
    let now = db.now(global.clock()).await?;
    touched::days(live, shapes, links, facts, rollup, reader, now).await
}

/// The result as JSON, including the new name of the undo file if every row has been removed.
fn json(undone: &Undone, renamed: Option<&Path>, dry_run: bool) -> serde_json::Value {
    let left: Vec<_> = undone
        .left
        .iter()
        .map(|((table, why), keys)| serde_json::json!({ "table": table, "why": why, "keys": keys }))
        .collect();
    serde_json::json!({
        "dry_run": dry_run, "removed": undone.removed, "gone": undone.gone, "emptied": undone.emptied, "left": left,
        "renamed_to": renamed,
    })
}

fn print(undone: &Undone, dry_run: bool) {
    let would = if dry_run { "would be " } else { "" };
    println!("{} row(s) {would}removed, {} were gone already", undone.removed, undone.gone);
    for ((table, why), keys) in &undone.left {
        println!("{table}: {} row(s) stay: {why}", keys.len());
        println!("    {}", examples(keys, SHOWN));
    }
}
