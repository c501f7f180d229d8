//! `daymend snapshot restore`.

mod print;

use std::{path::PathBuf, process::ExitCode};

use clap::Args;

use super::{
    Exit, Global, HalfDone, LimitArgs, StoreArgs,
    diff::{check_tables, other_database, progress},
    explained, find,
    follow_up::{After, FollowUp},
    historical_summary, print_json,
    undo::{days_of, undo_of},
    usage, warn_of_fewer_tables, who,
};
use crate::{
    db::{DbError, migrate},
    error::chain,
    runs::{records, repair},
    snapshot::{
        database_error, open,
        restore::{
            Context,
            apply::Apply,
            candidates::Candidates,
            exclude::{ExclusionError, Exclusions},
            plan,
            relations::Relations,
            remap::{self, Remap},
            report::Report,
            undo_file::{self, Header, LockedFile, Reader, Record},
        },
        side::Side,
    },
};

/// Options of `daymend snapshot restore`.
#[derive(Debug, Args)]
pub(in crate::cli) struct Options {
    /// The snapshot to restore rows from
    #[arg(value_name = "SNAPSHOT")]
    snapshot: String,

    /// Restore the rows that are missing from the database (the only mode there is)
    #[arg(long, required = true)]
    missing: bool,

    /// Carry out the plan
    #[arg(long, conflicts_with = "dry_run")]
    apply: bool,

    /// Only print the plan (the default)
    #[arg(long)]
    dry_run: bool,

    /// With --apply: allow a database whose name differs from that of the one the snapshot was taken from
    #[arg(long)]
    into_other_database: bool,

    #[command(flatten)]
    store: StoreArgs,

    /// Only rows of this table (may be repeated)
    #[arg(long, value_name = "TABLE")]
    table: Vec<String>,

    /// File with further references and identities, besides foreign keys and those in jobs/
    #[arg(long, value_name = "FILE")]
    relations: Vec<PathBuf>,

    /// Do not restore this row, which was deleted on purpose (TABLE:KEY, or a file of such lines)
    #[arg(long, value_name = "ROW")]
    exclude: Vec<String>,

    /// File of rows that must never be restored, one TABLE:KEY per line
    #[arg(long, env = "DAYMEND_TOMBSTONES", value_name = "FILE")]
    tombstones: Option<PathBuf>,

    /// Edited map of re-created rows; only rows listed in it are treated as re-created
    #[arg(long, value_name = "FILE")]
    remap: Option<PathBuf>,

    /// Where to save the map; if that file holds another map, a numbered name next to it is used [default:
    /// SNAPSHOT.map.csv]
    #[arg(long, value_name = "FILE")]
    map: Option<PathBuf>,

    /// With --apply: where to record what was restored, for `snapshot undo` [default: SNAPSHOT.undo.jsonl]
    #[arg(long, value_name = "FILE", requires = "apply")]
    undo_file: Option<PathBuf>,

    /// How many rows to show of each group
    #[arg(long, default_value_t = 20, value_name = "N")]
    samples: usize,

    /// With --apply: follow the repair run of the touched days, then audit those days
    #[arg(long, requires = "apply")]
    wait: bool,

    #[command(flatten)]
    limits: LimitArgs,
}

impl Options {
    pub(in crate::cli) async fn run(self, global: &Global) -> anyhow::Result<ExitCode> {
        let store = self.store.store()?;
        let name = find(global, &store, &self.snapshot).await?;
        if self.snapshot == "latest" {
            warn_of_fewer_tables(global, &store, name, &self.table).await?;
        }
        let opened = open(&store, name).await.map_err(explained)?;
        let snapshot = Side::snapshot(&opened.manifest, &opened.db);
        let label = snapshot.label.clone();
        check_tables(&self.table, &snapshot)?;
        let rollups = global.rollups()?;
        let rollup = historical_summary(&rollups)?;
        let (tables, left_out) = self.tables(&snapshot, &rollup.summary.table);
        if tables.is_empty() && !left_out.is_empty() {
            let left_out = left_out.join(", ");
            return Err(usage(format!(
                "{label} has only tables that are not restored by default ({left_out}): name them with --table"
            )));
        }
        let mut exclusions = self.exclusions()?;
        let remap = self.remap.as_deref().map(Remap::read).transpose().map_err(|error| usage(chain(error.as_ref())))?;
        if let Some((table, _)) =
            remap.iter().flat_map(Remap::rows).find(|(table, _)| !snapshot.tables.contains_key(*table))
        {
            return Err(usage(format!("--remap: table {table} is not in snapshot {label}")));
        }
        let db = global.connect_bare(4).await?;
        let server = &opened.manifest.server;
        let other = (!server.is_of(&db)).then(|| other_database(&label, server, "live", &db.name()));
        if let Some(other) = other.as_ref().filter(|_| self.apply && !self.into_other_database) {
            return Err(usage(format!("{other}: if that is intended, use --into-other-database")));
        }
        if self.apply && other.is_none() {
            // What is restored is recomputed by a run, which is enqueued when the rows have been committed. Another
            // database need not be daymend's.
            migrate::check_unless_hidden(&db).await?;
        }
        let live = Side::live(&db, snapshot.tables.keys().map(String::as_str)).await.map_err(explained)?;
        exclusions.fit(&snapshot, &live).await.map_err(|error| match error {
            ExclusionError::Database(error) => explained(error),
            error => usage(chain(&error)),
        })?;
        let given = given(&self.relations, &snapshot, &live)?;
        let mut relations = of_jobs(global, &snapshot, &live)?;
        relations.extend(given.clone());
        let mut context =
            Context::new(snapshot, live, &tables, relations, Candidates::temporary().await?).map_err(usage)?;
        context.index().await.map_err(explained)?;
        context.remarks.extend(other);
        context.remarks.extend(remarks_on(&left_out, &rollup.summary.table));
        plan::plan(&context, &exclusions, remap.as_ref()).await?;
        let remark = exclusions.remark(&context).await?;
        context.remarks.extend(remark);
        context.remarks.extend(remap.as_ref().and_then(Remap::remark));
        let map = self.map.clone().unwrap_or_else(|| PathBuf::from(format!("{label}.map.csv")));
        if !self.apply {
            let report = Report::read(&context, self.samples).await?;
            let saved = remap::save(&context, &map, self.remap.as_deref()).await?;
            if global.json {
                print_json(&serde_json::json!({ "dry_run": true, "report": report, "map": saved }))?;
            } else {
                print::report(&report, true);
                print::map(&context, &map, saved.as_deref()).await?;
                println!(
                    "{}",
                    match (report.groups.is_empty(), context.tables_lost) {
                        (true, 0) => "no row is missing",
                        (true, _) => "no row of the other tables is missing",
                        (false, _) if report.is_whole(&context) => "nothing is left to restore",
                        (false, _) => "nothing was written: use --apply to restore the rows",
                    }
                );
            }
            return Ok(if report.is_whole(&context) { Exit::Ok } else { Exit::Drift }.into());
        }
        let undo_path = self.undo_file.clone().unwrap_or_else(|| PathBuf::from(format!("{label}.undo.jsonl")));
        let locked = LockedFile::create(&undo_path)?;
        let header = Header { relations: given.clone(), ..Header::new(&label, &db, context.recorded()) };
        let writer = locked.writer(&header)?;
        let mut known = locked.reader()?;
        if known.header.database.is_none() {
            context.remarks.push(undo_file::of_any_database(&undo_path));
        }
        if !known.header.knows(&given) {
            context.remarks.push(undo_file::of_other_relations(&undo_path));
        }
        // Before anything is inserted: if this failed afterwards, nobody could undo the restore.
        let undo = undo_of(global, &db, &known, &self.relations).await?;
        let how = format!("run it again to continue, or undo it with `daymend snapshot undo {}`", undo_path.display());
        let half_done = HalfDone::new(global, how);
        let mut say = progress(global, "restored".to_owned());
        let mut progress = |rows| {
            half_done.is_at(rows);
            say(rows);
        };
        let apply = Apply::new(&context, writer, &mut known, &mut progress).await?;
        let applied = apply.run().await.map_err(with_rights)?;
        let mut reader = locked.reader()?;
        let days = days_of(global, &db, &undo, &mut reader).await;
        let follow_up = FollowUp {
            requested_by: format!("restore of {label} by {}", who()),
            limits: self.limits.limits(),
            wait: self.wait,
        };
        let (days, after) = match days {
            Ok(days) => {
                let after = follow_up.enqueue(global, &db, &days).await;
                (days, after)
            }
            Err(error) => (repair::Plan::default(), After::of_unknown_days(&error)),
        };
        half_done.done();
        // Release the undo file before the steps that may take long.
        drop(locked);
        let saved = remap::save(&context, &map, self.remap.as_deref()).await?;
        let report = Report::read(&context, self.samples).await?;
        if !global.json {
            print::report(&report, false);
            print::map(&context, &map, saved.as_deref()).await?;
            print::applied(&applied, &undo_path, !has_rows(&mut reader)?);
        }
        let after = follow_up.finish(global, &db, &days, after).await?;
        if global.json {
            let done = serde_json::json!({
                "dry_run": false, "report": report, "applied": applied, "map": saved,
                "undo_file": undo_path, "days": days,
            });
            print_json(&after.add_to(done))?;
        }
        let is_whole = report.is_whole(&context) && applied.changed + applied.incomplete == 0;
        let exit = if is_whole { Exit::Ok } else { Exit::Drift };
        Ok(after.exit(exit).into())
    }

    /// The tables to restore, and those that are left out unless named. Summary rows may be gone because their facts
    /// are; and restoring daymend's own tables or the migration records would bring back a lifted pause, a pruned
    /// run, or a record that was deleted to cancel its run.
    fn tables(&self, snapshot: &Side, summary: &str) -> (Vec<String>, Vec<String>) {
        if !self.table.is_empty() {
            return (self.table.clone(), Vec::new());
        }
        let is_restored = |name: &String| name != summary && name != records::TABLE && !name.starts_with(migrate::OWN);
        snapshot.tables.keys().cloned().partition(is_restored)
    }

    fn exclusions(&self) -> anyhow::Result<Exclusions> {
        let mut exclusions = Exclusions::default();
        for row in &self.exclude {
            exclusions.add(row).map_err(|error| usage(chain(&error)))?;
        }
        if let Some(file) = &self.tombstones {
            exclusions.read(file).map_err(|error| usage(chain(&error)))?;
        }
        Ok(exclusions)
    }
}

/// The remarks on tables that are left out.
fn remarks_on(left_out: &[String], summary: &str) -> Vec<String> {
    let (derived, own): (Vec<&String>, Vec<&String>) = left_out.iter().partition(|name| *name == summary);
    let mut remarks = Vec::new();
    for summary in derived {
        remarks.push(format!(
            "{summary} is not restored: it is recomputed (to restore it all the same: --table {summary})"
        ));
    }
    if !own.is_empty() {
        let names = own.into_iter().map(String::as_str).collect::<Vec<_>>().join(", ");
        remarks.push(format!(
            "not restored: {names}: what they ask for has been done since (to restore one all the same: --table)"
        ));
    }
    remarks
}

/// Whether there is any row to undo.
fn has_rows(reader: &mut Reader) -> anyhow::Result<bool> {
    for page in reader.pages() {
        let records = reader.read(page)?;
        if records.iter().any(|record| !matches!(record, Record::End | Record::Days { .. })) {
            return Ok(true);
        }
    }
    Ok(false)
}

/// Adds who can do this to an error that says that a privilege is missing.
pub(super) fn with_rights(error: anyhow::Error) -> anyhow::Error {
    if database_error(&error).is_some_and(DbError::is_denied) {
        return error.context(
            "this needs the --database-url of an operator who may SELECT, INSERT, UPDATE and DELETE in the tables",
        );
    }
    error
}

/// What jobs/ and the given files declare; a file has to fit, while parts of jobs/ that do not fit are ignored.
pub(super) fn relations(global: &Global, files: &[PathBuf], old: &Side, new: &Side) -> anyhow::Result<Relations> {
    let mut relations = of_jobs(global, old, new)?;
    relations.extend(given(files, old, new)?);
    Ok(relations)
}

fn of_jobs(global: &Global, old: &Side, new: &Side) -> anyhow::Result<Relations> {
    let mut relations = Relations::of_jobs(global.jobs_dir.as_deref()).map_err(|error| usage(chain(&error)))?;
    relations.retain_tables(|name| old.tables.contains_key(name) && new.tables.contains_key(name));
    Ok(relations)
}

fn given(files: &[PathBuf], old: &Side, new: &Side) -> anyhow::Result<Relations> {
    let has_table = |name: &str| old.tables.contains_key(name) && new.tables.contains_key(name);
    let mut relations = Relations::default();
    for file in files {
        let mut given = Relations::read(file).map_err(|error| usage(chain(&error)))?;
        let file = file.display();
        for (table, column) in given.columns() {
            if let Some(known) = old.tables.get(table)
                && known.position(column).is_none()
            {
                return Err(usage(format!("{file}: table {table} has no column {column}")));
            }
        }
        let is_known = |name: &str| old.tables.contains_key(name);
        if let Some(dropped) = given.clone().retain_tables(is_known).first() {
            return Err(usage(format!("{file}: {dropped}: there is no such table in {}", old.label)));
        }
        given.retain_tables(has_table);
        relations.extend(given);
    }
    Ok(relations)
}
