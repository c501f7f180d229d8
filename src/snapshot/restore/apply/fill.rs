//! References that were left empty: they are filled in once their rows exist, or their rows are removed again.

use super::{Apply, Failures, begin, delete, is_refusal, update, why};
use crate::{
    db::{Arg, Mode, Tx},
    snapshot::{
        SnapshotError,
        cells::{self, Cells},
        restore::{
            candidates::{Candidate, Fill, State},
            children::{Children, lock_row},
            parents::Parent,
            undo_file::{Record, Values},
        },
    },
};

/// The reason for removing a row again.
const CANNOT: &str = "a row that it refers to cannot be restored";

/// What became of references that were left empty.
enum Filled {
    /// They are filled in, or need nothing any more.
    Done,
    /// The rows that they refer to do not exist yet.
    Waits,
    /// The database rejects them: the reason, and the database's message.
    Refused((String, String)),
}

impl Apply<'_> {
    /// Fills in the references whose rows now exist.
    pub(super) async fn fill(&mut self) -> anyhow::Result<()> {
        let mut after = 0;
        loop {
            let page = self.context.work.fills(after).await?;
            let Some((last, _)) = page.last() else { return Ok(()) };
            after = *last;
            for (id, fill) in page {
                let mut failures = Failures::default();
                loop {
                    match self.fill_one(&fill).await {
                        Ok(Filled::Done) => break self.context.work.filled(id).await?,
                        Ok(Filled::Waits) => break,
                        Ok(Filled::Refused(why)) => break self.context.work.refuse_fill(id, &why).await?,
                        Err(error) => failures.wait_or_return(error).await?,
                    }
                }
            }
        }
    }

    /// Fills in the references of one row, unless somebody has written it since.
    async fn fill_one(&mut self, fill: &Fill) -> anyhow::Result<Filled> {
        let context = self.context;
        let shape = &self.shapes[fill.table];
        let mut snapshot = context.snapshot.db.begin(Mode::Snapshot).await?;
        let mut tx = begin(&context.live).await?;
        let key = std::slice::from_ref(&fill.key);
        let found = context.live.lookup(&mut tx, shape, &shape.key, key, true).await?;
        let Some(before) = found.into_iter().flatten().next() else { return Ok(Filled::Done) };
        let is_empty = fill.values.iter().all(|(place, _)| before[*place] == Arg::Null);
        if !is_empty {
            return Ok(Filled::Done);
        }
        // If this run inserted the row, it was changed by triggers; if an earlier run did, anybody may have changed it.
        if before != fill.row && context.work.restored_as(fill.table, &fill.key).await?.is_none() {
            self.done.changed += 1;
            return Ok(Filled::Done);
        }
        let mut after = before.clone();
        for (place, value) in &fill.values {
            after[*place] = value.clone();
        }
        for link in context.links_of(fill.table) {
            if !fill.values.iter().any(|(place, _)| link.columns.contains(place)) {
                continue;
            }
            let Some(target) = link.target(&after) else { continue };
            let parent = &context.shapes[link.parent];
            let live = context.live.keys(&mut tx, parent, &link.parent_columns, &[target], true).await?;
            let vanished = context.parents(&mut snapshot, link, std::slice::from_ref(&after)).await?;
            let is_candidate = matches!(vanished[0], Parent::Candidate(_));
            if live[0].is_empty() || is_candidate && !self.stands(link.parent, &live[0]).await? {
                return Ok(Filled::Waits);
            }
        }
        match update(&context.live, &mut tx, shape, &after).await {
            Ok(_) => {}
            Err(error) if is_refusal(&error) => return Ok(Filled::Refused(why(&error))),
            Err(error) => return Err(error.into()),
        }
        let found = context.live.lookup(&mut tx, shape, &shape.key, key, false).await?;
        let after = found.into_iter().flatten().next().unwrap_or(after);
        self.undo.append(&[Record::Fill {
            table: shape.table.clone(),
            before: Values(before),
            after: Values(after),
        }])?;
        tx.commit().await?;
        self.done.filled += 1;
        Ok(Filled::Done)
    }

    /// Whether one of these live rows is a vanished one: it was restored, or entered again. If not, a row that the plan
    /// has not seen has taken the key of one.
    async fn stands(&self, table: usize, keys: &[Cells]) -> Result<bool, SnapshotError> {
        let work = &self.context.work;
        for key in keys {
            if work.restored_as(table, key).await?.is_some() || work.mapped_to(table, key).await?.is_some() {
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// Removes inserted rows whose references could not be filled in; returns how many of this run's rows are gone then.
    pub(super) async fn take_out(&mut self) -> anyhow::Result<u64> {
        let context = self.context;
        if context.work.fills(0).await?.is_empty() {
            return Ok(0);
        }
        let mut tx = context.live.db.begin(Mode::Snapshot).await?;
        let children = Children::read(&mut tx).await?;
        tx.commit().await?;
        let (mut after, mut out) = (0, 0);
        loop {
            let page = context.work.fills(after).await?;
            let Some((last, _)) = page.last() else { return Ok(out) };
            after = *last;
            // Rows that an earlier run left and reported stay.
            for (id, fill) in page.into_iter().filter(|(_, fill)| !fill.is_known) {
                let mut failures = Failures::default();
                let (is_out, found) = loop {
                    match self.take_out_one(&fill, &children).await {
                        Ok(found) => break (found.is_some(), found.unwrap_or(0)),
                        Err(error) => failures.wait_or_return(error).await?,
                    }
                };
                // Only rows that this run inserted were counted as inserted. One that is gone already was not removed,
                // but is no progress either: a trigger that removes it would do so again.
                if is_out && context.work.restored_as(fill.table, &fill.key).await?.is_some() {
                    out += 1;
                    self.done.inserted = self.done.inserted.saturating_sub(found);
                }
                self.done.incomplete += u64::from(!is_out);
                self.say(&fill, is_out).await?;
                context.work.filled(id).await?;
            }
        }
    }

    /// Reports the rows of earlier runs whose references the database still rejects.
    pub(super) async fn report_refused(&mut self) -> anyhow::Result<()> {
        let mut after = 0;
        loop {
            let page = self.context.work.fills(after).await?;
            let Some((last, _)) = page.last() else { return Ok(()) };
            after = *last;
            for (_, fill) in page.into_iter().filter(|(_, fill)| !fill.refused.0.is_empty()) {
                self.done.incomplete += 1;
                self.say(&fill, false).await?;
            }
        }
    }

    /// Records what became of a row whose references stay empty.
    async fn say(&self, fill: &Fill, is_out: bool) -> Result<(), SnapshotError> {
        let work = &self.context.work;
        let (why, detail) = fill.refused.clone();
        let reason = match (is_out, why.is_empty()) {
            (true, true) => CANNOT.to_owned(),
            (false, true) => {
                "one of its references is left empty: the row that it refers to cannot be restored".to_owned()
            }
            (_, false) => format!("one of its references cannot be filled in: {why}"),
        };
        let state = if is_out { State::Deferred } else { State::Restored };
        let own = work.find(fill.table, std::slice::from_ref(&fill.key)).await?.pop().flatten();
        // An earlier run may have inserted it under another key; the plan then took it for entered again.
        let mapped = work.mapped_to(fill.table, &fill.key).await?;
        if let Some(candidate) = work.restored_as(fill.table, &fill.key).await?.or(own).or(mapped) {
            work.set(fill.table, &[Candidate { state, reason, detail, ..candidate }]).await?;
        } else {
            // An earlier run inserted it.
            let (key, size) = (fill.key.clone(), cells::size(&fill.row));
            work.add(fill.table, &[Candidate { place: 0, key, size, state, reason, detail, holder: None }]).await?;
        }
        Ok(())
    }

    /// Removes one row; returns how many were found, or `None` if the row stays because another row refers to it or
    /// somebody has changed it.
    async fn take_out_one(&self, fill: &Fill, children: &Children) -> anyhow::Result<Option<u64>> {
        let context = self.context;
        let (shape, whole) = (&context.shapes[fill.table], &self.shapes[fill.table]);
        let mut tx = begin(&context.live).await?;
        let key = std::slice::from_ref(&fill.key);
        let found = context.live.lookup(&mut tx, whole, &whole.key, key, true).await?;
        match found.concat().as_slice() {
            // Nothing is locked, so whatever is there a moment later is somebody else's row.
            [] => return Ok(Some(0)),
            [row] if *row == fill.row => {}
            // Somebody has changed it since, or has added another row with its key.
            _ => return Ok(None),
        }
        if self.is_referred(&mut tx, fill, children).await? {
            return Ok(None);
        }
        match delete(&context.live, &mut tx, shape, fill.key.clone()).await {
            Ok(found) => {
                tx.commit().await?;
                Ok(Some(found))
            }
            Err(error) if !is_refusal(&error) => Err(error.into()),
            // Something that daymend does not know of refers to it.
            Err(_) => {
                if tx.is_open() {
                    tx.rollback().await?;
                }
                Ok(None)
            }
        }
    }

    async fn is_referred(&self, tx: &mut Tx, fill: &Fill, children: &Children) -> Result<bool, SnapshotError> {
        let context = self.context;
        let (shape, row) = (&self.shapes[fill.table], &fill.row);
        lock_row(tx, &context.live, shape, row).await?;
        if children.first(tx, &context.live, &context.shapes, shape, row, &|_, _| false).await?.is_some() {
            return Ok(true);
        }
        for link in context.links.iter().filter(|link| link.parent == fill.table && !link.reference.is_enforced) {
            if !link.referrers(tx, &context.live, &context.shapes, row, 1).await?.is_empty() {
                return Ok(true);
            }
        }
        Ok(false)
    }
}
