//! Which rows have vanished, and what is to be done with each.
//!
//! A vanished row whose identity (declared, or any unique key) is held by a live row that is *not* in the
//! snapshot was entered again: the live row stands for it. Where the holder *is* in the snapshot, it was
//! somebody else when the snapshot was taken, and a person has to decide. References are rewritten before
//! identities are compared, so that what was entered again together is found together: the rounds end
//! when one finds nothing new.

use super::{
    Context,
    candidates::{Candidate, State},
    exclude::Exclusions,
    parents::Parent,
    remap::{self, Remap},
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

/// How many columns of a row are shown beside its key.
const SHOWN: usize = 8;

/// One read view of each side.
pub(super) struct Views {
    pub(super) snapshot: Tx,
    pub(super) live: Tx,
}

/// Finds the candidates, and judges them.
pub async fn plan(context: &Context, exclusions: &Exclusions, remap: Option<&Remap>) -> Result<(), SnapshotError> {
    let mut views = Views {
        snapshot: context.snapshot.db.begin(Mode::Snapshot).await?,
        live: context.live.db.begin(Mode::Snapshot).await?,
    };
    for (table, _) in context.judged().iter().enumerate().filter(|(_, is_judged)| **is_judged) {
        find(context, &mut views, table, exclusions, remap).await?;
    }
    strangers::find(context, &mut views, exclusions, remap).await?;
    // What refers to itself is found a level a round, however deep; a round that changes nothing is the last.
    loop {
        let mut changed = 0;
        for table in tables_in_order(context) {
            for state in [State::Missing, State::Reused] {
                changed += judge(context, &mut views, table, state, remap.is_some()).await?;
            }
        }
        if changed == 0 {
            break;
        }
    }
    // What is still to be done asks the live database nothing: a server that ends silent sessions may have
    // ended this one by then, and the plan is none the worse for it.
    let Views { snapshot, live } = views;
    drop(live);
    for (table, _) in context.chosen.iter().enumerate().filter(|(_, is_chosen)| !**is_chosen) {
        context.work.leave_out(table).await?;
    }
    settle_in(context, snapshot).await
}

pub(super) fn tables_in_order(context: &Context) -> impl Iterator<Item = usize> {
    context.groups.iter().flat_map(|group| group.tables.iter().copied())
}

/// Enters the rows of a table that are not live, or whose live row is somebody else.
async fn find(
    context: &Context,
    views: &mut Views,
    table: usize,
    exclusions: &Exclusions,
    remap: Option<&Remap>,
) -> Result<(), SnapshotError> {
    let shape = &context.shapes[table];
    let identity = context.identities[table].as_deref().unwrap_or_default();
    let mut after: Option<Cells> = None;
    loop {
        let page = context.snapshot.page(&mut views.snapshot, shape, after.as_deref()).await?;
        let Some(last) = page.last() else { return Ok(()) };
        after = Some(shape.key_of(last));
        let keys: Vec<Cells> = page.iter().map(|row| shape.key_of(row)).collect();
        let live = context.live.lookup(&mut views.live, shape, &shape.key, &keys, false).await?;
        let mut found = Vec::new();
        for ((row, key), live) in page.iter().zip(keys).zip(live) {
            found.push(match live.first() {
                None => Candidate {
                    place: 0,
                    key,
                    state: State::Missing,
                    reason: String::new(),
                    detail: String::new(),
                    holder: None,
                },
                Some(live) if identity.is_empty() || shape.values(row, identity) == shape.values(live, identity) => {
                    continue;
                }
                Some(live) => reused(shape, row, live, format!("{} differs", names(shape, identity))),
            });
        }
        enter(context, views, table, found, exclusions, remap).await?;
    }
}

/// A row whose key is somebody else's by now.
pub(super) fn reused(shape: &Shape, row: &[Arg], live: &[Arg], reason: String) -> Candidate {
    Candidate {
        place: 0,
        key: shape.key_of(row),
        state: State::Reused,
        reason,
        detail: both_sides(shape, row, live),
        holder: Some(shape.key_of(live)),
    }
}

/// Enters candidates of a table, with what a person has decided of them.
pub(super) async fn enter(
    context: &Context,
    views: &mut Views,
    table: usize,
    mut found: Vec<Candidate>,
    exclusions: &Exclusions,
    remap: Option<&Remap>,
) -> Result<(), SnapshotError> {
    let shape = &context.shapes[table];
    for candidate in &mut found {
        if exclusions.has(&shape.table, &candidate.key) {
            candidate.state = State::Excluded;
            candidate.reason = "deleted on purpose".to_owned();
        } else if let Some(Some(new)) = remap.and_then(|remap| remap.get(&shape.table, &candidate.key)) {
            (candidate.state, candidate.reason, candidate.holder) = match remap::parse_key(context, table, new) {
                Ok(key) => (State::Mapped, "the map says so".to_owned(), Some(key)),
                Err(why) => (State::Ambiguous, why, None),
            };
        }
    }
    check_map(context, views, table, &mut found).await?;
    context.work.add(table, &found).await?;
    Ok(())
}

/// What a person has mapped has to be there.
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
            candidate.reason = "the map names a row that is not there".to_owned();
        }
    }
    Ok(())
}

/// Judges the candidates of a table that are in a state; how many have another one now.
async fn judge(
    context: &Context,
    views: &mut Views,
    table: usize,
    state: State,
    is_mapped_by_hand: bool,
) -> Result<usize, SnapshotError> {
    let mut changed = 0;
    let mut after = 0;
    loop {
        let page = context.work.page(table, state, after).await?;
        let Some(last) = page.last() else { return Ok(changed) };
        after = last.place;
        let (page, rows) = rows_of(context, &mut views.snapshot, table, page).await?;
        let mut written = rows.clone();
        for link in context.links_of(table) {
            let parents = context.parents(&mut views.snapshot, link, &rows).await?;
            context.redirect(&mut views.live, link, &mut written, &parents).await?;
        }
        let holders = holders(context, views, table, &page, &written).await?;
        let mut judged = Vec::new();
        for ((candidate, row), holders) in page.into_iter().zip(&written).zip(holders) {
            let Some(mut verdict) = judge_one(context, table, &candidate, row, &holders).await? else {
                judged.extend(moved(context, table, candidate, row));
                continue;
            };
            let is_back = holders.first().is_some_and(|holder| is_back(context, table, row, &holder.row));
            if verdict.state == State::Mapped && is_mapped_by_hand && !is_back {
                verdict.state = State::Ambiguous;
                verdict.reason = format!("{}, and the given map does not have it", verdict.reason);
            }
            // Two rows of this page may be held by the same live row.
            let is_second = |other: &Candidate| other.state == State::Mapped && other.holder == verdict.holder;
            if verdict.state == State::Mapped && judged.iter().any(is_second) {
                verdict.state = State::Ambiguous;
                verdict.reason = format!("{}, which another vanished row has too", verdict.reason);
            }
            judged.push(verdict);
        }
        changed += judged.len();
        context.work.set(table, &judged).await?;
        // That one goes in with another key is no verdict.
        for candidate in judged.iter().filter(|candidate| candidate.state != State::Missing) {
            lift(context, table, candidate).await?;
        }
    }
}

/// Candidates, and the row of each in the snapshot; without those that it does not have.
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

/// A live row that holds the value of a key which a vanished row had.
struct Holder {
    /// The columns of the key.
    by: Vec<usize>,
    row: Cells,
    is_in_snapshot: bool,
}

/// Who holds the identity of each candidate, or its key after its references have been rewritten.
async fn holders(
    context: &Context,
    views: &mut Views,
    table: usize,
    candidates: &[Candidate],
    written: &[Cells],
) -> Result<Vec<Vec<Holder>>, SnapshotError> {
    let shape = &context.shapes[table];
    let mut holders: Vec<Vec<Holder>> = candidates.iter().map(|_| Vec::new()).collect();
    let mut keys: Vec<&[usize]> = match &context.identities[table] {
        Some(identity) if identity.is_empty() => Vec::new(),
        Some(identity) => vec![identity],
        None => shape.unique_keys.iter().map(Vec::as_slice).collect(),
    };
    keys.push(&shape.key);
    for by in keys {
        let mut asked = Vec::new();
        for (index, (candidate, row)) in candidates.iter().zip(written).enumerate() {
            let values = shape.values(row, by);
            let is_own_key = by == shape.key && values == candidate.key;
            if !is_own_key && !values.contains(&Arg::Null) {
                asked.push((index, values));
            }
        }
        let values: Vec<Cells> = asked.iter().map(|(_, values)| values.clone()).collect();
        let found = context.live.lookup(&mut views.live, shape, by, &values, false).await?;
        for ((index, _), rows) in asked.iter().zip(found) {
            for row in rows {
                // A row whose id was reused is in nobody's way by itself.
                if shape.key_of(&row) != candidates[*index].key {
                    holders[*index].push(Holder { by: by.to_vec(), row, is_in_snapshot: false });
                }
            }
        }
    }
    let held: Vec<Cells> = holders.iter().flatten().map(|holder| shape.key_of(&holder.row)).collect();
    let known = context.snapshot.lookup(&mut views.snapshot, shape, &shape.key, &held, false).await?;
    for (holder, known) in holders.iter_mut().flatten().zip(known) {
        holder.is_in_snapshot = !known.is_empty();
    }
    Ok(holders)
}

/// What a candidate becomes; none where nothing is new.
async fn judge_one(
    context: &Context,
    table: usize,
    candidate: &Candidate,
    row: &[Arg],
    holders: &[Holder],
) -> Result<Option<Candidate>, SnapshotError> {
    let shape = &context.shapes[table];
    let Some(first) = holders.first() else { return Ok(None) };
    let key = shape.key_of(&first.row);
    let column = names(shape, &first.by);
    let verdict = |state, reason: String| {
        let detail = both_sides(shape, row, &first.row);
        Ok(Some(Candidate { state, reason, detail, holder: Some(key.clone()), ..candidate.clone() }))
    };
    if holders.iter().any(|holder| shape.key_of(&holder.row) != key) {
        return verdict(State::Ambiguous, format!("several live rows hold its {}", held(shape, holders)));
    }
    if first.is_in_snapshot {
        return verdict(State::TakenOver, format!("{column} is held by a row that the snapshot has too"));
    }
    if let Some(why) = disagreement(context, table, candidate, row, holders).await? {
        return verdict(State::Ambiguous, format!("{column} is the same and {why}"));
    }
    if context.work.mapped_to(table, &key).await?.is_some_and(|other| other.key != candidate.key) {
        return verdict(State::Ambiguous, format!("{column} is held by a row that stands for another one already"));
    }
    verdict(State::Mapped, format!("{column} is the same"))
}

/// Why a row that holds a key of a candidate is not the same one all the same; none where it is.
async fn disagreement(
    context: &Context,
    table: usize,
    candidate: &Candidate,
    row: &[Arg],
    holders: &[Holder],
) -> Result<Option<String>, SnapshotError> {
    let shape = &context.shapes[table];
    let Some(first) = holders.first().filter(|first| !is_back(context, table, row, &first.row)) else {
        return Ok(None);
    };
    let is_by = |places: &[usize]| holders.iter().any(|holder| holder.by == places);
    let (own, live) = (|by: &[usize]| shape.values(row, by), |by: &[usize]| shape.values(&first.row, by));
    let is_extension = is_extension(context, table, candidate, &shape.key_of(&first.row)).await?;
    let Some(identity) = context.identities[table].as_deref() else {
        // Nobody has said what identifies a row: then all of its keys have to agree.
        let is_other = |by: &&Vec<usize>| {
            let (own, live) = (own(by), live(by));
            own != live && !own.contains(&Arg::Null) && !live.contains(&Arg::Null) && !is_by(by)
        };
        let other = shape.unique_keys.iter().find(is_other).filter(|_| !is_extension || first.by != shape.key);
        return Ok(other.map(|by| format!("{} is not: declare its identity", names(shape, by))));
    };
    // A key that was rewritten says nothing by itself: somebody else may have it.
    if is_by(identity) || is_extension && own(identity) == live(identity) {
        return Ok(None);
    }
    Ok(Some(match identity {
        [] => "nothing identifies its rows".to_owned(),
        _ => format!("{} is not", names(shape, identity)),
    }))
}

/// Whether a live row is as one would go in, maybe with references that are still to be filled in: a run before
/// this one has put it in.
fn is_back(context: &Context, table: usize, row: &[Arg], live: &[Arg]) -> bool {
    let may_be_empty = |place| context.links_of(table).any(|link| link.nullable.contains(&place));
    (0..row.len()).all(|place| row[place] == live[place] || live[place] == Arg::Null && may_be_empty(place))
}

/// Whether a candidate shares its key with a row that the live row with this key stands for.
async fn is_extension(
    context: &Context,
    table: usize,
    candidate: &Candidate,
    key: &Cells,
) -> Result<bool, SnapshotError> {
    for link in context.links_of(table).filter(|link| link.shares_key(context)) {
        let parent = context.work.find(link.parent, std::slice::from_ref(&candidate.key)).await?.pop().flatten();
        if parent.is_some_and(|parent| parent.state == State::Mapped && parent.holder.as_ref() == Some(key)) {
            return Ok(true);
        }
    }
    Ok(false)
}

/// A candidate that nobody holds, with the key that it goes in with, where that has become another one: it is
/// in nobody's way then, and nobody in its own. None where nothing is new.
fn moved(context: &Context, table: usize, candidate: Candidate, row: &[Arg]) -> Option<Candidate> {
    let key = context.shapes[table].key_of(row);
    let is_known = candidate.state == State::Missing && candidate.holder.as_ref() == Some(&key);
    (key != candidate.key && !is_known).then(|| Candidate {
        state: State::Missing,
        reason: String::new(),
        detail: String::new(),
        holder: Some(key),
        ..candidate
    })
}

fn held(shape: &Shape, holders: &[Holder]) -> String {
    let mut keys: Vec<String> = holders.iter().map(|holder| names(shape, &holder.by)).collect();
    keys.dedup();
    keys.join(" and ")
}

/// What became of a row also became of the row whose key it shares: the client is the partner.
async fn lift(context: &Context, table: usize, candidate: &Candidate) -> Result<(), SnapshotError> {
    let mut above = vec![(table, candidate.clone())];
    while let Some((table, candidate)) = above.pop() {
        for link in context.links_of(table).filter(|link| link.shares_key(context)) {
            let found = context.work.find(link.parent, std::slice::from_ref(&candidate.key)).await?.pop().flatten();
            let Some(parent) = found.filter(|parent| matches!(parent.state, State::Missing | State::Reused)) else {
                continue;
            };
            let reason = format!("as its {}: {}", context.shapes[table].table, candidate.reason);
            let lifted = Candidate {
                state: candidate.state,
                reason,
                detail: candidate.detail.clone(),
                holder: candidate.holder.clone(),
                ..parent
            };
            context.work.set(link.parent, std::slice::from_ref(&lifted)).await?;
            above.push((link.parent, lifted));
        }
    }
    Ok(())
}

/// Defers what refers to rows that will not come back.
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

/// Why a row cannot be restored that refers to this one, and which one it is; none where it can.
pub(super) fn why_not(context: &Context, table: usize, parent: &Candidate) -> Option<(String, String)> {
    let name = &context.shapes[table].table;
    let what = match parent.state {
        State::Missing | State::Restored | State::Mapped => return None,
        State::Excluded => "was deleted on purpose",
        State::Deferred => "is deferred",
        State::LeftOut => "is missing, and not of a --table that was asked for",
        State::TakenOver | State::Reused | State::Ambiguous => "is in quarantine",
    };
    Some((format!("its row of {name} {what}"), format!("{name} {}", cells::show_key(&parent.key))))
}

pub(super) fn names(shape: &Shape, places: &[usize]) -> String {
    places.iter().map(|place| shape.columns[*place].as_str()).collect::<Vec<_>>().join(", ")
}

fn both_sides(shape: &Shape, snapshot: &[Arg], live: &[Arg]) -> String {
    format!("snapshot: {}; live: {}", show_row(shape, snapshot), show_row(shape, live))
}

/// The beginning of a row, for people.
pub(super) fn show_row(shape: &Shape, row: &[Arg]) -> String {
    let columns =
        shape.columns.iter().zip(row).take(SHOWN).map(|(name, cell)| format!("{name}={}", cells::show_short(cell)));
    columns.collect::<Vec<_>>().join(" ")
}
