//! `daymend snapshot diff`.

use std::{collections::BTreeMap, path::PathBuf, process::ExitCode};

use clap::Args;

use super::{Exit, Global, StoreArgs, explained, find, now, print_json, restore, usage, warn_of_ahead};
use crate::{
    error::chain,
    output::{bar, table::table},
    snapshot::{
        Manifest, Name, Opened, SnapshotError, Store,
        diff::{self, Diff, Rows, filter::Condition},
        format::manifest::Server,
        open,
        side::Side,
    },
};

/// Options of `daymend snapshot diff`.
#[derive(Debug, Args)]
pub(in crate::cli) struct Options {
    /// The snapshots, oldest first; `latest` is the newest snapshot, and `live` the database (the default if only one
    /// snapshot is given)
    #[arg(value_name = "SNAPSHOT", required_unless_present = "since")]
    sides: Vec<String>,

    /// Compare all snapshots of the same database from this one on, then the live database
    #[arg(long, value_name = "SNAPSHOT", conflicts_with = "sides")]
    since: Option<String>,

    #[command(flatten)]
    store: StoreArgs,

    /// Only this table (may be repeated)
    #[arg(long, value_name = "TABLE")]
    table: Vec<String>,

    /// Only rows that match this condition: COLUMN=VALUE (or !=, <, <=, >, >=; COLUMN=NULL); may be repeated, and all
    /// have to match
    #[arg(long = "where", value_name = "CONDITION")]
    conditions: Vec<Condition>,

    /// How many rows of each kind to show
    #[arg(long, default_value_t = 5, value_name = "N")]
    samples: usize,

    /// File with further references and identities, besides foreign keys and those in jobs/
    #[arg(long, value_name = "FILE")]
    relations: Vec<PathBuf>,
}

impl Options {
    pub(in crate::cli) async fn run(self, global: &Global) -> anyhow::Result<ExitCode> {
        let store = self.store.store()?;
        let (names, is_live) = self.names(global, &store).await?;
        let mut options = diff::Options {
            tables: self.table,
            conditions: self.conditions,
            samples: self.samples,
            ..diff::Options::default()
        };
        let mut diffs = Vec::new();
        let mut older = open(&store, names[0]).await.map_err(explained)?;
        check_tables(&options.tables, &Side::snapshot(&older.manifest, &older.db))?;
        let mut manifests = Vec::new();
        for name in &names[1..] {
            manifests.push(store.manifest(*name).await.map_err(explained)?);
        }
        for at in 1..names.len() + usize::from(is_live) {
            let files = &self.relations;
            let (diff, newer) = pair(global, &store, files, &older, names.get(at), &mut options).await?;
            diffs.push(diff);
            for (later, tables) in later(&older.manifest, &manifests[at - 1..], is_live, &options.tables) {
                let mut options = diff::Options { tables, ..options.clone() };
                let (diff, _) = pair(global, &store, files, &older, later.as_ref(), &mut options).await?;
                diffs.push(diff);
            }
            if let Some(newer) = newer {
                older = newer;
            }
        }
        if diffs.iter().all(|diff| diff.is_all_left_out) {
            let columns: Vec<&str> = options.conditions.iter().map(Condition::column).collect();
            return Err(usage(format!("--where: no table that is compared has {}", columns.join(" and "))));
        }
        let has_conditions = !options.conditions.is_empty();
        if has_conditions && diffs.iter().all(|diff| diff.fitting == 0 && diff.uncompared.is_empty()) {
            let conditions: Vec<String> = options.conditions.iter().map(Condition::to_string).collect();
            return Err(usage(format!("--where: no row matches {}", conditions.join(" and "))));
        }
        let differs = diffs.iter().any(|diff| !diff.is_empty());
        if global.json {
            print_json(&diffs)?;
        } else {
            diffs.iter().for_each(|diff| print(diff, has_conditions));
        }
        Ok(if differs { Exit::Drift } else { Exit::Ok }.into())
    }

    async fn names(&self, global: &Global, store: &Store) -> anyhow::Result<(Vec<Name>, bool)> {
        if let Some(since) = &self.since {
            let since = find(global, store, since).await?;
            let database = store.manifest(since).await.map_err(explained)?.server.database;
            let mut names = Vec::new();
            let later = store.names().await.map_err(explained)?.into_iter().filter(|name| *name >= since);
            // If it is itself ahead, it is this machine's clock that is behind.
            let now = now(global);
            let is_ahead = |name: &Name| !since.is_ahead(now) && name.is_ahead(now);
            let (ahead, later): (Vec<Name>, Vec<Name>) = later.partition(is_ahead);
            warn_of_ahead(global, "--since passes over", ahead);
            for name in later {
                match store.manifest(name).await {
                    Ok(manifest) if manifest.server.database == database => names.push(name),
                    // Of another database, or removed meanwhile.
                    Ok(_) | Err(SnapshotError::NoSnapshot(_)) => {}
                    Err(error) => global.warn(format_args!("snapshot {name} is passed over: {}", chain(&error))),
                }
            }
            return Ok((names, true));
        }
        let is_live = self.sides.len() == 1 || self.sides.last().is_some_and(|side| side == "live");
        let sides = self.sides.strip_suffix(&["live".to_owned()]).unwrap_or(&self.sides);
        if sides.is_empty() || sides.iter().any(|side| side == "live") {
            return Err(usage("give the snapshots first, oldest first, and `live` last"));
        }
        let mut names = Vec::new();
        for side in sides {
            names.push(find(global, store, side).await?);
        }
        Ok((names, is_live))
    }
}

/// Compares a snapshot with a newer one, which is also returned, or with the live database.
async fn pair(
    global: &Global,
    store: &Store,
    files: &[PathBuf],
    older: &Opened,
    newer: Option<&Name>,
    options: &mut diff::Options,
) -> anyhow::Result<(Diff, Option<Opened>)> {
    let (old, was) = (Side::snapshot(&older.manifest, &older.db), &older.manifest.server);
    let asked = |table: &str| options.tables.is_empty() || options.tables.iter().any(|asked| asked == table);
    let copies = older.manifest.tables.iter().filter(|copy| asked(&copy.table.name));
    let expected = copies.map(|copy| copy.rows).sum();
    let mut progress =
        progress(global, format!("{} to {}", old.label, newer.map_or("live".to_owned(), Name::to_string)), expected);
    let opened = match newer {
        Some(name) => Some(open(store, *name).await.map_err(explained)?),
        None => None,
    };
    let (new, other) = match &opened {
        Some(opened) => {
            let other = &opened.manifest.server.database;
            (Side::snapshot(&opened.manifest, &opened.db), (*other != was.database).then(|| other.clone()))
        }
        None => {
            let db = global.connect_bare(2).await?;
            let side = Side::live(&db, old.tables.keys().map(String::as_str)).await.map_err(explained)?;
            (side, (!was.is_of(&db)).then(|| db.name()))
        }
    };
    options.relations = restore::relations::all(global, files, &old, &new)?;
    let mut diff = diff::compare(&old, &new, options, &mut progress).await.map_err(explained)?;
    diff.remarks.extend(other.map(|other| other_database(&old.label, was, &new.label, &other)));
    Ok((diff, opened))
}

/// The tables of a snapshot that the next newer one does not have, keyed by the first newer snapshot that has them,
/// or `None` for the live database. Rows that vanished from these tables would otherwise show up in no pair of
/// neighbours.
fn later(
    older: &Manifest,
    newer: &[Manifest],
    is_live: bool,
    wanted: &[String],
) -> BTreeMap<Option<Name>, Vec<String>> {
    let mut later: BTreeMap<Option<Name>, Vec<String>> = BTreeMap::new();
    let tables = older.tables.iter().map(|copy| &copy.table.name);
    for table in tables.filter(|table| wanted.is_empty() || wanted.contains(table)) {
        match newer.iter().position(|manifest| manifest.table(table).is_some()) {
            Some(0) => {}
            Some(at) => later.entry(Some(newer[at].name)).or_default().push(table.clone()),
            None if is_live && !newer.is_empty() => later.entry(None).or_default().push(table.clone()),
            None => {}
        }
    }
    later
}

/// The message when the two sides come from databases of different names.
pub(super) fn other_database(old: &str, was: &Server, new: &str, database: &str) -> String {
    format!("{old} is of database {}, and {new} of {database}", was.database)
}

/// Fails if a table named on the command line is not in the snapshot.
pub(super) fn check_tables(tables: &[String], snapshot: &Side) -> anyhow::Result<()> {
    match tables.iter().find(|table| !snapshot.tables.contains_key(*table)) {
        Some(table) => Err(usage(format!("table {table} is not in snapshot {}", snapshot.label))),
        None => Ok(()),
    }
}

/// Shows how many rows are done, of about `expected` (0 if unknown), until it is dropped.
pub(super) fn progress(global: &Global, what: String, expected: u64) -> impl FnMut(u64) + Send + use<> {
    let mut bar = (!global.json).then(|| bar::Rows::new(what));
    move |rows| {
        if let Some(bar) = &mut bar {
            bar.update(rows, expected, "");
        }
    }
}

fn print(diff: &Diff, has_conditions: bool) {
    let fitting = if has_conditions { format!(", {} match --where", diff.fitting) } else { String::new() };
    println!("{} to {}: {} rows compared{fitting}", diff.from, diff.to, diff.compared);
    for table in &diff.uncompared {
        println!("  not compared: {table}");
    }
    for remark in &diff.remarks {
        println!("  {remark}");
    }
    if diff.tables.is_empty() {
        println!("  no row differs");
        return;
    }
    let mut overview = table(&["table", ">vanished", ">added", ">changed", ">id reused"]);
    for table in &diff.tables {
        overview.add_row([
            table.table.clone(),
            table.vanished.rows.to_string(),
            table.added.rows.to_string(),
            table.changed.rows.to_string(),
            table.reused.rows.to_string(),
        ]);
    }
    println!("{overview}");
    for table in &diff.tables {
        let with: Vec<String> = table.with.iter().map(|(reference, rows)| format!("{rows} by {reference}")).collect();
        if !with.is_empty() {
            println!("  {}: vanished with the row that they refer to: {}", table.table, with.join("; "));
        }
        let kinds: [(&str, &Rows); 4] = [
            ("vanished", &table.vanished),
            ("added", &table.added),
            ("changed", &table.changed),
            ("id reused", &table.reused),
        ];
        for (kind, rows) in kinds {
            let more = if rows.rows > rows.samples.len() as u64 { ", …" } else { "" };
            if rows.rows > 0 && !rows.samples.is_empty() {
                let separator = if matches!(kind, "changed" | "id reused") { "; " } else { ", " };
                println!("  {} {kind}: {}{more}", table.table, rows.samples.join(separator));
            }
        }
    }
}
