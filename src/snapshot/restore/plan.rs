//! Which rows have vanished, and what to do with each.
//!
//! References are rewritten before identities are compared ([`judge`]), so that rows entered again together are found
//! together: rounds repeat until one finds nothing new.

use super::{
    Context,
    candidates::{Candidate, State},
    exclude::{Excluded, Exclusions},
    judge::{judge, leave_open},
    parents::Parent,
    remap::{self, Decision, Remap},
    strangers,
};
use crate::{
    db::{Arg, Mode, Tx},
    snapshot::{
        SnapshotError,
        cells::{self, Cells},
        side::Shape,
    },
};

/// How many columns of a row are shown besides its key.
const SHOWN: usize = 8;

/// The reason for a row that a person has mapped.
pub(super) const BY_HAND: &str = "the map says so";

/// A read view of each side.
pub(super) struct Views {
    pub(super) snapshot: Tx,
    pub(super) live: Tx,
}

/// Finds the candidates and judges them. `progress` is told how many rows of the snapshot have been looked for.
pub async fn plan(
    context: &Context,
    exclusions: &Exclusions,
    remap: Option<&Remap>,
    mut progress: impl FnMut(u64),
) -> Result<(), SnapshotError> {
    let mut views = Views {
        snapshot: context.snapshot.db.begin(Mode::Snapshot).await?,
        live: context.live.db.begin(Mode::Snapshot).await?,
    };
    let judged = context.judged();
    let excluded = exclusions.within(context);
    let remap = remap.map(|remap| remap.within(context)).transpose()?;
    let remap = remap.as_ref();
    let mut looked = 0;
    let mut add = |rows| {
        looked += rows;
        progress(looked);
    };
    for group in &context.groups {
        let mut is_again = false;
        loop {
            let mut found = 0;
            for table in group.tables.iter().copied().filter(|table| judged[*table]) {
                found += find(context, &mut views, table, is_again, &excluded, remap, &mut add).await?;
            }
            // No order of the group's tables puts every key before those that contain it.
            is_again = strangers::is_within(context, group);
            if found == 0 || !is_again {
                break;
            }
        }
    }
    // A table that refers to itself is resolved one level per round, however deep; a round that changes nothing is the
    // last.
    while judge_all(context, &mut views, remap.is_some()).await? {}
    if let Some(remap) = remap {
        leave_open(context, &mut views, remap).await?;
    }
    // The rest does not query the live database. A server that ends idle sessions may have ended this one by now, which
    // does the plan no harm.
    let Views { mut snapshot, live } = views;
    drop(live);
    for (table, _) in context.chosen.iter().enumerate().filter(|(_, is_chosen)| !**is_chosen) {
        context.work.leave_out(table).await?;
    }
    excluded.add_erased(context, &mut snapshot).await?;
    settle_in(context, snapshot).await
}

/// One round over all tables that may be judged; returns whether it found anything new.
async fn judge_all(context: &Context, views: &mut Views, is_mapped_by_hand: bool) -> Result<bool, SnapshotError> {
    let mut changed = 0;
    for table in tables_in_order(context) {
        let mut is_contested = false;
        for state in [State::Missing, State::Reused] {
            let judged = judge(context, views, table, state, is_mapped_by_hand).await?;
            changed += judged.changed;
            is_contested |= judged.is_contested;
        }
        if is_contested {
            // Verdicts based on a mapping that does not hold are judged again. This ends, because each time the claims
            // on one more live row are settled.
            context.work.forget_verdicts().await?;
            return Ok(true);
        }
    }
    Ok(changed > 0)
}

pub(super) fn tables_in_order(context: &Context) -> impl Iterator<Item = usize> {
    context.groups.iter().flat_map(|group| group.tables.iter().copied())
}

/// Adds the rows of a table that are not live, or whose key is now used by another row; returns how many. If the table
/// has been searched before (`is_again`), its candidates are left as they are.
async fn find(
    context: &Context,
    views: &mut Views,
    table: usize,
    is_again: bool,
    excluded: &Excluded<'_>,
    remap: Option<&Remap>,
    progress: &mut impl FnMut(u64),
) -> Result<usize, SnapshotError> {
    let shape = &context.shapes[table];
    let mut count = 0;
    let mut pages = context.snapshot.pages(shape);
    while let Some(page) = pages.next(&mut views.snapshot).await? {
        progress(page.len() as u64);
        let keys: Vec<Cells> = page.iter().map(|row| shape.key_of(row)).collect();
        let live = context.live.lookup(&mut views.live, shape, &shape.key, &keys, false).await?;
        let strange = strangers::why(context, views, table, &page).await?;
        let mut found = Vec::new();
        for (((row, key), live), strange) in page.iter().zip(keys).zip(live).zip(strange) {
            found.push(match live.first() {
                None => Candidate {
                    place: 0,
                    key,
                    size: cells::size(row),
                    state: State::Missing,
                    reason: String::new(),
                    detail: String::new(),
                    holder: None,
                },
                Some(live) => {
                    let other_by = shape.other_by(context.identities[table].as_deref(), row, live);
                    match other_by.map(|by| format!("{} differs", names(shape, &by))).or(strange) {
                        Some(why) => reused(shape, row, live, why),
                        None => continue,
                    }
                }
            });
        }
        if is_again {
            let keys: Vec<Cells> = found.iter().map(|candidate| candidate.key.clone()).collect();
            let mut known = context.work.find(table, &keys).await?.into_iter();
            found.retain(|_| known.next().is_none_or(|known| known.is_none()));
        }
        count += found.len();
        enter(context, views, table, found, excluded, remap).await?;
    }
    Ok(count)
}

/// Whether a row and the live row under its key are the same, judging by the declared identity, or else the unique keys.
pub(super) fn same_identity(context: &Context, table: usize, row: &[Arg], live: &[Arg]) -> bool {
    context.shapes[table].other_by(context.identities[table].as_deref(), row, live).is_none()
}

/// A candidate whose key is now used by another row.
fn reused(shape: &Shape, row: &[Arg], live: &[Arg], reason: String) -> Candidate {
    Candidate {
        place: 0,
        key: shape.key_of(row),
        size: cells::size(row),
        state: State::Reused,
        reason,
        detail: both_sides(shape, row, live),
        holder: Some(shape.key_of(live)),
    }
}

/// Adds candidates of a table, with what a person has decided about them.
async fn enter(
    context: &Context,
    views: &mut Views,
    table: usize,
    mut found: Vec<Candidate>,
    excluded: &Excluded<'_>,
    remap: Option<&Remap>,
) -> Result<(), SnapshotError> {
    let shape = &context.shapes[table];
    for candidate in &mut found {
        if let Some(why) = excluded.why(table, &candidate.key) {
            candidate.state = State::Excluded;
            candidate.reason = why.to_owned();
            continue;
        }
        let Some(remap) = remap else { continue };
        (candidate.state, candidate.reason, candidate.holder) = match remap.get(&shape.table, &candidate.key) {
            // Judged like the others first, to find out what is in its way.
            Decision::Unsaid | Decision::Open => continue,
            Decision::Row(new) => match remap::parse_key(context, table, new) {
                Ok(key) => (State::Mapped, BY_HAND.to_owned(), Some(key)),
                Err(why) => (State::Ambiguous, why, None),
            },
        };
    }
    check_map(context, views, table, &mut found).await?;
    context.work.add(table, &found).await?;
    Ok(())
}

/// Checks that every live row exists that a person has mapped another row to.
async fn check_map(
    context: &Context,
    views: &mut Views,
    table: usize,
    found: &mut [Candidate],
) -> Result<(), SnapshotError> {
    let shape = &context.shapes[table];
    let mapped: Vec<&mut Candidate> = found.iter_mut().filter(|candidate| candidate.state == State::Mapped).collect();
    let keys: Vec<Cells> = mapped.iter().map(|candidate| candidate.holder.clone().unwrap_or_default()).collect();
    let live = context.live.lookup(&mut views.live, shape, &shape.key, &keys, false).await?;
    for (candidate, live) in mapped.into_iter().zip(live) {
        if live.is_empty() {
            candidate.state = State::Ambiguous;
            candidate.reason = "the map names a row that does not exist".to_owned();
        }
    }
    Ok(())
}

/// The candidates, each with its row from the snapshot; those that the snapshot does not have are left out.
pub(super) async fn rows_of(
    context: &Context,
    snapshot: &mut Tx,
    table: usize,
    candidates: Vec<Candidate>,
) -> Result<(Vec<Candidate>, Vec<Cells>), SnapshotError> {
    let shape = &context.shapes[table];
    let keys: Vec<Cells> = candidates.iter().map(|candidate| candidate.key.clone()).collect();
    let found = context.snapshot.lookup(snapshot, shape, &shape.key, &keys, false).await?;
    let pairs = candidates.into_iter().zip(found);
    Ok(pairs.filter_map(|(candidate, rows)| Some((candidate, rows.into_iter().next()?))).unzip())
}

/// Defers rows that refer to rows which will not be restored.
pub(super) async fn settle(context: &Context) -> Result<(), SnapshotError> {
    settle_in(context, context.snapshot.db.begin(Mode::Snapshot).await?).await
}

async fn settle_in(context: &Context, mut snapshot: Tx) -> Result<(), SnapshotError> {
    loop {
        let mut changed = 0;
        for table in tables_in_order(context) {
            let mut after = 0;
            loop {
                let page = context.work.page(table, State::Missing, after).await?;
                let Some(last) = page.last() else { break };
                after = last.place;
                let (mut page, rows) = rows_of(context, &mut snapshot, table, page).await?;
                for link in context.links_of(table) {
                    let parents = context.parents(&mut snapshot, link, &rows).await?;
                    for (candidate, parent) in page.iter_mut().zip(parents) {
                        if let Parent::Candidate(parent) = parent
                            && let Some((reason, detail)) = why_not(context, link.parent, &parent)
                        {
                            (candidate.state, candidate.reason, candidate.detail) = (State::Deferred, reason, detail);
                        }
                    }
                }
                page.retain(|candidate| candidate.state == State::Deferred);
                changed += page.len();
                context.work.set(table, &page).await?;
            }
        }
        if changed == 0 {
            snapshot.commit().await?;
            return Ok(());
        }
    }
}

/// Why a row that refers to this one cannot be restored, and which row this is; `None` if it can.
pub(super) fn why_not(context: &Context, table: usize, parent: &Candidate) -> Option<(String, String)> {
    let name = &context.shapes[table].table;
    let what = match parent.state {
        State::Missing | State::Restored | State::Mapped => return None,
        State::Excluded => "was deleted on purpose",
        State::Deferred => "is deferred",
        State::LeftOut => "is missing, and its table was not named with --table",
        State::TakenOver | State::Reused | State::Ambiguous => "is in quarantine",
    };
    Some((format!("the row of {name} that it refers to {what}"), format!("{name} {}", cells::show_key(&parent.key))))
}

pub(super) fn names(shape: &Shape, places: &[usize]) -> String {
    places.iter().map(|place| shape.columns[*place].as_str()).collect::<Vec<_>>().join(", ")
}

pub(super) fn both_sides(shape: &Shape, snapshot: &[Arg], live: &[Arg]) -> String {
    format!("snapshot: {}; live: {}", show_row(shape, snapshot), show_row(shape, live))
}

/// The beginning of a row, for display.
pub(super) fn show_row(shape: &Shape, row: &[Arg]) -> String {
    let columns =
        shape.columns.iter().zip(row).take(SHOWN).map(|(name, cell)| format!("{name}={}", cells::show_short(cell)));
    columns.collect::<Vec<_>>().join(" ")
}
