//! Which rows can be inserted now: those whose references can be resolved, and that nobody has entered again in the
//! meantime.

use std::collections::{BTreeMap, HashMap};

use crate::{
    db::{Arg, Mode, Tx},
    snapshot::{
        SnapshotError,
        cells::{self, Cells},
        restore::{
            Context, Link,
            candidates::{Candidate, State},
            parents::Parent,
            plan,
        },
    },
};

/// The reason for a row that has to wait for the next plan.
const ENTERED_AGAIN: &str = "entered again since the plan";

/// A row to be inserted.
pub(super) struct Ready {
    pub(super) candidate: Candidate,
    pub(super) row: Cells,
    /// Whether its references were changed to other rows.
    pub(super) is_redirected: bool,
    /// References to rows that are still to come, by column position.
    pub(super) later: Vec<(usize, Arg)>,
}

/// The rows that can be inserted now, with their references rewritten, and the candidates that have to wait.
pub(super) async fn ready(
    context: &Context,
    tx: &mut Tx,
    table: usize,
    candidates: Vec<Candidate>,
) -> Result<(Vec<Ready>, Vec<Candidate>), SnapshotError> {
    let shape = &context.shapes[table];
    let mut snapshot = context.snapshot.db.begin(Mode::Snapshot).await?;
    let (candidates, rows) = plan::rows_of(context, &mut snapshot, table, candidates).await?;
    let mut written = rows.clone();
    let mut later: Vec<Vec<(usize, Arg)>> = vec![Vec::new(); rows.len()];
    let mut waits: Vec<Option<(String, String)>> = vec![None; rows.len()];
    // Rows whose required parents have not been inserted yet: they stay missing.
    let mut is_early = vec![false; rows.len()];
    for link in context.links_of(table) {
        let parents = context.parents(&mut snapshot, link, &rows).await?;
        context.redirect(tx, link, &mut written, &parents).await?;
        let is_live = live_parents(context, &mut snapshot, tx, link, &rows, &written, &parents).await?;
        for index in 0..rows.len() {
            let is_itself = link.parent == table
                && link.target(&written[index]) == Some(shape.values(&written[index], &link.parent_columns));
            if is_itself || waits[index].is_some() {
                continue;
            }
            if let Parent::Candidate(parent) = &parents[index] {
                if let Some(why) = plan::why_not(context, link.parent, parent) {
                    waits[index] = Some(why);
                    continue;
                }
                // If its key is live all the same, a row that the plan has not seen has taken it.
                if parent.state == State::Missing {
                    if link.nullable.is_empty() {
                        is_early[index] = true;
                        continue;
                    }
                    let values = link.nullable.iter().map(|place| (*place, written[index][*place].clone()));
                    later[index].extend(values);
                    continue;
                }
            }
            if !is_live[index] {
                let target = link.target(&written[index]).unwrap_or_default();
                let parent = &context.shapes[link.parent].table;
                waits[index] = Some((
                    format!("the row of {parent} that it refers to is gone"),
                    format!("{parent} {}", cells::show_key(&target)),
                ));
            }
        }
    }
    let again = entered_again(context, tx, table, &candidates, &written).await?;
    waits.iter_mut().zip(again).for_each(|(wait, again)| *wait = wait.take().or(again));
    let (mut ready, mut waiting) = (Vec::new(), Vec::new());
    for (((((candidate, before), mut row), later), wait), is_early) in
        candidates.into_iter().zip(rows).zip(written).zip(later).zip(waits).zip(is_early)
    {
        let is_redirected = row != before;
        match wait {
            None if is_early => {}
            Some((reason, detail)) => waiting.push(Candidate { state: State::Deferred, reason, detail, ..candidate }),
            None => {
                let mut unique: BTreeMap<usize, Arg> = BTreeMap::new();
                for (place, value) in later {
                    row[place] = Arg::Null;
                    unique.insert(place, value);
                }
                ready.push(Ready { candidate, row, is_redirected, later: unique.into_iter().collect() });
            }
        }
    }
    Ok((ready, waiting))
}

/// Why a row must not be inserted: by now, a live row that the plan has not seen has its declared identity. Rows that
/// this restore inserted itself do not count.
async fn entered_again(
    context: &Context,
    tx: &mut Tx,
    table: usize,
    candidates: &[Candidate],
    written: &[Cells],
) -> Result<Vec<Option<(String, String)>>, SnapshotError> {
    let shape = &context.shapes[table];
    let mut again = vec![None; written.len()];
    let Some(identity) = context.identities[table].as_deref().filter(|identity| !identity.is_empty()) else {
        return Ok(again);
    };
    let mut places: HashMap<String, Vec<usize>> = HashMap::new();
    for (place, row) in written.iter().enumerate() {
        places.entry(cells::encode(&shape.values(row, identity))).or_default().push(place);
    }
    // Values that several of these rows share identify none of them.
    let places: Vec<usize> = places.into_values().filter(|places| places.len() == 1).flatten().collect();
    let known = places.into_iter().map(|place| (place, shape.values(&written[place], identity)));
    let (places, values): (Vec<usize>, Vec<Cells>) = known.filter(|(_, values)| cells::identify(values)).unzip();
    let found = context.live.keys(tx, shape, identity, &values, false).await?;
    for (place, mut keys) in places.into_iter().zip(found) {
        keys.retain(|key| *key != candidates[place].key);
        for (key, known) in keys.iter().zip(context.work.find(table, &keys).await?) {
            let is_own = known.is_some_and(|known| known.state == State::Restored && known.holder.is_none());
            if !is_own && context.work.restored_as(table, key).await?.is_none() {
                let holder = format!("{} {}", shape.table, cells::show_key(key));
                again[place] = Some((ENTERED_AGAIN.to_owned(), holder));
                break;
            }
        }
    }
    Ok(again)
}

/// Whether the row that each row refers to exists; it is locked until the transaction ends. A declared reference that
/// led nowhere in the snapshot may lead nowhere again.
async fn live_parents(
    context: &Context,
    snapshot: &mut Tx,
    tx: &mut Tx,
    link: &Link,
    rows: &[Cells],
    written: &[Cells],
    parents: &[Parent],
) -> Result<Vec<bool>, SnapshotError> {
    let shape = &context.shapes[link.parent];
    let mut is_live = vec![true; written.len()];
    let mut asked = Vec::new();
    for (index, row) in written.iter().enumerate() {
        if let (Some(target), true) = (link.target(row), parents[index] != Parent::None) {
            asked.push((index, target));
        }
    }
    let targets: Vec<Cells> = asked.iter().map(|(_, target)| target.clone()).collect();
    let found = context.live.keys(tx, shape, &link.parent_columns, &targets, true).await?;
    let gone: Vec<usize> =
        asked.iter().zip(found).filter(|(_, found)| found.is_empty()).map(|((index, _), _)| *index).collect();
    let before: Vec<Cells> = gone.iter().map(|index| link.target(&rows[*index]).unwrap_or_default()).collect();
    let dangled = if link.reference.is_enforced {
        vec![Vec::new(); gone.len()]
    } else {
        context.snapshot.keys(snapshot, shape, &link.parent_columns, &before, false).await?
    };
    for (index, before) in gone.into_iter().zip(dangled) {
        is_live[index] = before.is_empty() && !link.reference.is_enforced;
    }
    Ok(is_live)
}
