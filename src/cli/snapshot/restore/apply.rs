//! Carrying out the plan of a restore.

use std::{path::PathBuf, process::ExitCode};

use super::{
    super::{
        Exit, HalfDone,
        diff::progress,
        follow_up::{After, FollowUp},
        print_json,
        undo::{days_of, undo_of},
        who,
    },
    Global, Options, Planned, print, with_rights,
};
use crate::{
    runs::repair,
    snapshot::restore::{
        apply::Apply,
        remap,
        report::Report,
        undo_file::{self, Header, LockedFile, Reader, Record},
    },
};

impl Options {
    /// Inserts the rows, and has their days repaired.
    pub(super) async fn apply(&self, global: &Global, planned: Planned) -> anyhow::Result<ExitCode> {
        // Its files go when nothing reads them any more.
        let Planned { _snapshot, db, mut context, given, map } = planned;
        let label = context.snapshot.label.clone();
        let undo_path = self.undo_file.clone().unwrap_or_else(|| PathBuf::from(format!("{label}.undo.jsonl")));
        let locked = LockedFile::create(&undo_path)?;
        let new = Header::new(&label, &db, context.recorded()).await?;
        let header = Header { relations: given.clone(), may_have_moved: self.into_other_database, ..new };
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
        let mut say = progress(global, "restored".to_owned(), 0);
        let mut progress = |rows| {
            half_done.is_at(rows);
            say(rows);
        };
        let apply = Apply::new(&context, writer, &mut known, &mut progress).await?;
        let applied = apply.run().await;
        drop(say);
        let applied = applied.map_err(with_rights)?;
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
