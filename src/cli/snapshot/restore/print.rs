//! The output of a restore, for people.

use std::path::Path;

use crate::{
    output::table::table,
    snapshot::{
        cells,
        restore::{Context, apply::Applied, candidates::State, remap, report::Report},
    },
};

/// How many lines of the map are printed.
const MAP_SHOWN: usize = 20;

/// Prints the map of re-created rows, and where it is saved.
pub(super) async fn map(context: &Context, wanted: &Path, saved: Option<&Path>) -> anyhow::Result<()> {
    let mut map = table(&["table", ">vanished", ">live", "~why"]);
    let mut rows = 0;
    remap::for_each_mapped(context, MAP_SHOWN, |name, old, new, why| {
        rows += 1;
        map.add_row([name.to_owned(), cells::show_key(old), cells::show_key(new), why.to_owned()]);
    })
    .await?;
    if rows > 0 {
        println!("entered again under another key (the first {MAP_SHOWN} at most):\n{map}");
    }
    if let Some(saved) = saved {
        if saved != wanted {
            println!("{} already holds another map, and was not changed", wanted.display());
        }
        println!("the map is in {}: edit it and give it with --remap", saved.display());
    }
    Ok(())
}

/// Prints what happened to the rows, or would.
pub(super) fn report(report: &Report, is_plan: bool) {
    for remark in &report.remarks {
        println!("{remark}");
    }
    for emptied in &report.emptied {
        println!("{}", emptied.text());
    }
    for stale in &report.stale {
        println!("{}", stale.text());
    }
    if !report.groups.is_empty() {
        let restored = if is_plan { ">to restore" } else { ">restored" };
        let mut overview =
            table(&["table", restored, ">entered again", ">in quarantine", ">deferred", ">deleted on purpose"]);
        for (name, states) in report.tables() {
            let rows = |wanted: &dyn Fn(State) -> bool| -> String {
                states.iter().filter(|(state, _)| wanted(*state)).map(|(_, rows)| rows).sum::<i64>().to_string()
            };
            overview.add_row([
                name,
                rows(&|state| matches!(state, State::Missing | State::Restored)),
                rows(&|state| state == State::Mapped),
                rows(&State::is_quarantined),
                rows(&|state| state == State::Deferred),
                rows(&|state| state == State::Excluded),
            ]);
        }
        println!("{overview}");
    }
    for group in &report.groups {
        let is_plain = group.reason.is_empty() || group.state == State::Mapped;
        if is_plain {
            continue;
        }
        println!("{} {}: {} row(s): {}", group.table, group.state.name(), group.rows, group.reason);
        for sample in &group.samples {
            let live = sample.live.as_ref().map(|key| format!(" (live: {key})")).unwrap_or_default();
            println!("    {}{live} {}", sample.key, sample.detail);
        }
        if group.rows > i64::try_from(group.samples.len()).unwrap_or(i64::MAX) {
            println!("    …");
        }
    }
}

/// Prints what this run has done; the undo file may also hold what earlier runs did.
pub(super) fn applied(applied: &Applied, undo: &Path, is_empty: bool) {
    if is_empty {
        println!("no rows to restore: nothing was written");
        return;
    }
    println!(
        "{} row(s) restored by this run ({} of them completed afterwards), in {} pass(es); to undo it: \
         `daymend snapshot undo {}`",
        applied.inserted,
        applied.filled,
        applied.passes,
        undo.display()
    );
    if applied.changed > 0 {
        println!(
            "{} row(s) were changed since they were restored: their empty references are not filled in",
            applied.changed
        );
    }
    if applied.incomplete > 0 {
        println!("{} row(s) were restored with some references left empty", applied.incomplete);
    }
}
