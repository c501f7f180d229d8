//! `daymend snapshot restore`.

mod apply;
mod print;
pub(super) mod relations;

use std::{path::PathBuf, process::ExitCode};

use clap::Args;

use super::{
    Exit, Global, LimitArgs, StoreArgs,
    diff::{check_tables, other_database, progress},
    explained, find, historical_summary, print_json, usage, warn_of_fewer_tables,
};
use crate::{
    db::{Db, DbError, migrate},
    error::chain,
    runs::records,
    snapshot::{
        Opened, database_error,
        format::manifest::Server,
        open,
        restore::{
            Context,
            candidates::Candidates,
            exclude::{ExclusionError, Exclusions},
            plan,
            relations::Relations,
            remap::{self, Remap},
            report::Report,
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

/// What is to be restored, and into which database.
struct Planned {
    db: Db,
    context: Context,
    /// What `--relations` declare.
    given: Relations,
    /// Where the map of re-created rows is wanted.
    map: PathBuf,
    /// Its file is removed when it is dropped.
    _snapshot: Opened,
}

impl Options {
    pub(in crate::cli) async fn run(self, global: &Global) -> anyhow::Result<ExitCode> {
        let planned = self.plan(global).await?;
        if self.apply { self.apply(global, planned).await } else { self.show(global, &planned).await }
    }

    /// Compares the snapshot with the database, and judges each row that is missing. Writes to neither.
    async fn plan(&self, global: &Global) -> anyhow::Result<Planned> {
        let opened = self.open(global).await?;
        let snapshot = Side::snapshot(&opened.manifest, &opened.db);
        check_tables(&self.table, &snapshot)?;
        let rollups = global.rollups()?;
        let summary = historical_summary(&rollups)?.summary.table.as_str();
        let (tables, left_out) = self.tables(&snapshot, summary)?;
        let mut exclusions = self.exclusions()?;
        let remap = self.remap(&snapshot)?;
        let map = self.map.clone().unwrap_or_else(|| PathBuf::from(format!("{}.map.csv", snapshot.label)));
        let (db, other) = self.connect(global, &snapshot.label, &opened.manifest.server).await?;
        let live = Side::live(&db, snapshot.tables.keys().map(String::as_str)).await.map_err(explained)?;
        exclusions.fit(&snapshot, &live).await.map_err(|error| match error {
            ExclusionError::Database(error) => explained(error),
            error => usage(chain(&error)),
        })?;
        let given = relations::given(&self.relations, &snapshot, &live)?;
        let mut relations = relations::of_jobs(global, &snapshot, &live)?;
        relations.extend(given.clone());
        let work = Candidates::temporary().await?;
        let mut context = Context::new(snapshot, live, &tables, relations, work).map_err(usage)?;
        context.index().await.map_err(explained)?;
        let judged = context.shapes.iter().zip(context.judged()).filter(|(_, is_judged)| *is_judged);
        let judged: Vec<&str> = judged.map(|(shape, _)| shape.table.as_str()).collect();
        let copies = opened.manifest.tables.iter().filter(|copy| judged.contains(&copy.table.name.as_str()));
        let say = progress(global, "plan".to_owned(), copies.map(|copy| copy.rows).sum());
        plan::plan(&context, &exclusions, remap.as_ref(), say).await?;
        context.remarks.extend(other);
        context.remarks.extend(remarks_on(&left_out, summary));
        let excluded = exclusions.remark(&context).await?;
        context.remarks.extend(excluded);
        context.remarks.extend(remap.as_ref().and_then(Remap::remark));
        Ok(Planned { db, context, given, map, _snapshot: opened })
    }

    /// Prints the plan, and saves the map.
    async fn show(&self, global: &Global, planned: &Planned) -> anyhow::Result<ExitCode> {
        let Planned { context, map, .. } = planned;
        let report = Report::read(context, self.samples).await?;
        let saved = remap::save(context, map, self.remap.as_deref()).await?;
        if global.json {
            print_json(&serde_json::json!({ "dry_run": true, "report": report, "map": saved }))?;
        } else {
            print::report(&report, true);
            print::map(context, map, saved.as_deref()).await?;
            println!(
                "{}",
                match (report.groups.is_empty(), context.tables_lost) {
                    (true, 0) => "no row is missing",
                    (true, _) => "no row of the other tables is missing",
                    (false, _) if report.is_whole(context) => "nothing is left to restore",
                    (false, _) => "nothing was written: use --apply to restore the rows",
                }
            );
        }
        Ok(if report.is_whole(context) { Exit::Ok } else { Exit::Drift }.into())
    }

    async fn open(&self, global: &Global) -> anyhow::Result<Opened> {
        let store = self.store.store()?;
        let name = find(global, &store, &self.snapshot).await?;
        if self.snapshot == "latest" {
            warn_of_fewer_tables(global, &store, name, &self.table).await?;
        }
        open(&store, name).await.map_err(explained)
    }

    /// Connects to the database; returns it, and a remark if it is not the one that the snapshot was taken from.
    async fn connect(&self, global: &Global, label: &str, server: &Server) -> anyhow::Result<(Db, Option<String>)> {
        let db = global.connect_bare(4).await?;
        let other = (!server.is_of(&db)).then(|| other_database(label, server, "live", &db.name()));
        if let Some(other) = other.as_ref().filter(|_| self.apply && !self.into_other_database) {
            return Err(usage(format!("{other}: if that is intended, use --into-other-database")));
        }
        if self.apply && other.is_none() {
            // What is restored is recomputed by a run, which is enqueued when the rows have been committed. Another
            // database need not be daymend's.
            migrate::check_unless_hidden(&db).await?;
        }
        Ok((db, other))
    }

    fn remap(&self, snapshot: &Side) -> anyhow::Result<Option<Remap>> {
        let Some(file) = &self.remap else { return Ok(None) };
        let remap = Remap::read(file).map_err(|error| usage(chain(error.as_ref())))?;
        if let Some((table, _)) = remap.rows().find(|(table, _)| !snapshot.tables.contains_key(*table)) {
            return Err(usage(format!("--remap: table {table} is not in snapshot {}", snapshot.label)));
        }
        Ok(Some(remap))
    }

    /// The tables to restore, and those that are left out unless named. Summary rows may be gone because their facts
    /// are; and restoring daymend's own tables or the migration records would bring back a lifted pause, a pruned
    /// run, or a record that was deleted to cancel its run.
    fn tables(&self, snapshot: &Side, summary: &str) -> anyhow::Result<(Vec<String>, Vec<String>)> {
        if !self.table.is_empty() {
            return Ok((self.table.clone(), Vec::new()));
        }
        let is_restored = |name: &String| name != summary && name != records::TABLE && !name.starts_with(migrate::OWN);
        let (tables, left_out): (Vec<_>, Vec<_>) = snapshot.tables.keys().cloned().partition(is_restored);
        if tables.is_empty() && !left_out.is_empty() {
            let (label, left_out) = (&snapshot.label, left_out.join(", "));
            return Err(usage(format!(
                "{label} has only tables that are not restored by default ({left_out}): name them with --table"
            )));
        }
        Ok((tables, left_out))
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

/// Adds who can do this to an error that says that a privilege is missing.
pub(super) fn with_rights(error: anyhow::Error) -> anyhow::Error {
    if database_error(&error).is_some_and(DbError::is_denied) {
        return error.context(
            "this needs the --database-url of an operator who may SELECT, INSERT, UPDATE and DELETE in the tables",
        );
    }
    error
}
