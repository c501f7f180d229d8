//! Whether a vanished row was entered again.
//!
//! If its identity (as declared, or any unique key) is held by a live row that is *not* in the snapshot, it was: the
//! live row replaces it. If the live row *is* in the snapshot, it was a different one when the snapshot was taken,
//! and a person has to decide. The same goes if two vanished rows claim the same live row: neither claim is accepted,
//! whichever came first. A row that still exists under its own key, with the same identity once its references are
//! rewritten, is itself: an earlier run inserted it, or somebody changed it to refer to a row that was entered again.

use super::{
    Context,
    candidates::{Candidate, State},
    plan::{BY_HAND, Views, both_sides, names, rows_of, same_identity, tables_in_order},
    remap::{Decision, Remap},
    strangers,
};
use crate::{
    db::Arg,
    snapshot::{
        SnapshotError,
        cells::{self, Cells},
        side::Shape,
    },
};

/// The result of judging candidates.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Judged {
    /// How many are in another state now.
    pub(super) changed: usize,
    /// Whether a live row turned out to be claimed twice: verdicts based on the first claim no longer hold.
    pub(super) is_contested: bool,
}

/// Judges the candidates of a table that are in a given state.
pub(super) async fn judge(
    context: &Context,
    views: &mut Views,
    table: usize,
    state: State,
    is_mapped_by_hand: bool,
) -> Result<Judged, SnapshotError> {
    let mut done = Judged::default();
    let mut after = 0;
    loop {
        let page = context.work.page(table, state, after).await?;
        let Some(last) = page.last() else { return Ok(done) };
        after = last.place;
        let Written { candidates: page, rows, written } = written(context, views, table, page).await?;
        let holders = holders(context, views, table, &page, &written).await?;
        let own = match state {
            State::Reused => themselves(context, views, table, &page, &rows, &written).await?,
            _ => vec![None; page.len()],
        };
        let mut judged = Vec::new();
        for (((candidate, row), holders), own) in page.into_iter().zip(&written).zip(holders).zip(own) {
            if let Some(mut own) = own {
                done.is_contested |= claim(context, views, table, &judged, &mut own, true).await?;
                judged.push(own);
                continue;
            }
            let Some(mut verdict) = judge_one(context, table, &candidate, row, &holders).await? else {
                judged.extend(moved(context, table, candidate, row));
                continue;
            };
            let is_back = holders.first().is_some_and(|first| first.is_back);
            if verdict.state == State::Mapped && is_mapped_by_hand && !is_back {
                verdict.state = State::Ambiguous;
                verdict.reason = format!("{}, but the given map has no line for it", verdict.reason);
            }
            // Without a declared identity, nothing says that the row under its key is another one but its unique keys,
            // which somebody may have corrected: only its very likeness may stand for it then.
            let is_doubtful = state == State::Reused && context.identities[table].is_none();
            if verdict.state == State::Mapped && is_doubtful && !is_likeness(&context.shapes[table], row, &holders) {
                verdict.state = State::Ambiguous;
                verdict.reason = format!("{}, but it may still be there under its own key", verdict.reason);
            }
            if verdict.state == State::Mapped {
                done.is_contested |= claim(context, views, table, &judged, &mut verdict, is_back).await?;
            }
            judged.push(verdict);
        }
        done.changed += judged.len();
        context.work.judge(table, &judged).await?;
        // Going in under another key is not a verdict, and a row that is itself says nothing about another one.
        let is_lifted = |judged: &&Candidate| judged.state != State::Missing && !judged.is_itself();
        for candidate in judged.iter().filter(is_lifted) {
            done.is_contested |= lift(context, views, table, candidate).await?;
        }
    }
}

/// Leaves to a person what the given map leaves open, even if no live row is in the way.
pub(super) async fn leave_open(context: &Context, views: &mut Views, remap: &Remap) -> Result<(), SnapshotError> {
    for table in tables_in_order(context) {
        let mut after = 0;
        loop {
            let mut page = context.work.page(table, State::Missing, after).await?;
            let Some(last) = page.last() else { break };
            after = last.place;
            page.retain(|candidate| remap.get(&context.shapes[table].table, &candidate.key) == Decision::Open);
            for candidate in &mut page {
                candidate.state = State::Ambiguous;
                candidate.reason = "the map leaves it open".to_owned();
                candidate.holder = None;
            }
            context.work.set(table, &page).await?;
            for candidate in &page {
                lift(context, views, table, candidate).await?;
            }
        }
    }
    Ok(())
}

/// Candidates with their rows.
struct Written {
    candidates: Vec<Candidate>,
    /// As in the snapshot.
    rows: Vec<Cells>,
    /// As they would be inserted.
    written: Vec<Cells>,
}

/// Candidates, and each row as it would be inserted: references to rows that have other keys now are rewritten.
async fn written(
    context: &Context,
    views: &mut Views,
    table: usize,
    candidates: Vec<Candidate>,
) -> Result<Written, SnapshotError> {
    let (candidates, rows) = rows_of(context, &mut views.snapshot, table, candidates).await?;
    let mut written = rows.clone();
    for link in context.links_of(table) {
        let parents = context.parents(&mut views.snapshot, link, &rows).await?;
        context.redirect(&mut views.live, link, &mut written, &parents).await?;
    }
    Ok(Written { candidates, rows, written })
}

/// The verdict on each candidate that still exists under its own key; `None` for the others.
async fn themselves(
    context: &Context,
    views: &mut Views,
    table: usize,
    candidates: &[Candidate],
    rows: &[Cells],
    written: &[Cells],
) -> Result<Vec<Option<Candidate>>, SnapshotError> {
    let shape = &context.shapes[table];
    let identity = context.identities[table].as_deref().unwrap_or_default();
    let keys: Vec<Cells> = candidates.iter().map(|candidate| candidate.key.clone()).collect();
    let live = context.live.lookup(&mut views.live, shape, &shape.key, &keys, false).await?;
    let depend = strangers::depend_on_reused(context, views, table, rows).await?;
    let why = |((row, live), depends): ((&Cells, Vec<Cells>), bool)| {
        let live = live.first().filter(|_| !depends)?;
        let is_same = same_identity(context, table, row, live);
        if is_same && !identity.is_empty() {
            return Some(format!("{} is the same", names(shape, identity)));
        }
        (is_same || is_back(context, table, row, live)).then(|| "it is still there".to_owned())
    };
    let are = written.iter().zip(live).zip(depend).map(why);
    let verdict = |candidate: &Candidate, reason| Candidate {
        state: State::Mapped,
        reason,
        detail: String::new(),
        holder: Some(candidate.key.clone()),
        ..candidate.clone()
    };
    Ok(candidates.iter().zip(are).map(|(candidate, why)| why.map(|why| verdict(candidate, why))).collect())
}

/// Lets a candidate be mapped to its holder only if no other candidate is mapped to it. A candidate that an earlier run
/// inserted has a better claim than one with the same identity; what a person decided is not questioned. Returns
/// whether an earlier mapping no longer holds.
async fn claim(
    context: &Context,
    views: &mut Views,
    table: usize,
    judged: &[Candidate],
    verdict: &mut Candidate,
    is_back: bool,
) -> Result<bool, SnapshotError> {
    let Some(holder) = verdict.holder.clone() else { return Ok(false) };
    let mut refuse = |why: &str| {
        verdict.state = State::Ambiguous;
        verdict.reason = format!("{}, {why}", verdict.reason);
    };
    const TWICE: &str = "but another vanished row matches the same live row";
    if let Some(winner) = context.work.contested(table, &holder).await? {
        if winner.as_ref() == Some(&verdict.key) {
            return Ok(false);
        }
        refuse(TWICE);
        return Ok(false);
    }
    // The verdicts of this page have not been recorded yet.
    let is_other = |other: &&Candidate| other.state == State::Mapped && other.holder.as_ref() == Some(&holder);
    let other = match judged.iter().find(is_other) {
        Some(other) => Some(other.clone()),
        None => context.work.mapped_to(table, &holder).await?,
    };
    let Some(other) = other.filter(|other| other.key != verdict.key) else { return Ok(false) };
    if other.reason == BY_HAND {
        refuse("but the map gives its live row to another row");
        return Ok(false);
    }
    let winner = match (is_back, is_back_as(context, views, table, &other, &holder).await?) {
        (true, false) => Some(verdict.key.clone()),
        (false, true) => Some(other.key),
        _ => None,
    };
    let is_verdict = winner.as_ref() == Some(&verdict.key);
    if !is_verdict {
        refuse(TWICE);
    }
    context.work.contest(table, &holder, winner.as_ref()).await?;
    Ok(is_verdict || winner.is_none())
}

/// Whether a live row equals a candidate as it would be inserted.
async fn is_back_as(
    context: &Context,
    views: &mut Views,
    table: usize,
    candidate: &Candidate,
    holder: &Cells,
) -> Result<bool, SnapshotError> {
    let shape = &context.shapes[table];
    let Written { written, .. } = written(context, views, table, vec![candidate.clone()]).await?;
    let live = context.live.lookup(&mut views.live, shape, &shape.key, std::slice::from_ref(holder), false).await?;
    let live = live.into_iter().flatten().next();
    Ok(written.first().zip(live).is_some_and(|(row, live)| is_back(context, table, row, &live)))
}

/// How many live rows per value are looked at: one may have the candidate's own key, and two others are several.
const HOLDERS_MAX: usize = 3;

/// A live row with the value that a vanished row had in a key.
struct Holder {
    /// The columns of the key.
    by: Vec<usize>,
    row: Cells,
    is_in_snapshot: bool,
    /// Whether it equals the vanished row as it would be inserted: an earlier run inserted it.
    is_back: bool,
}

/// The live rows that hold the identity of each candidate, or its key after its references have been rewritten.
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
            if !is_own_key && cells::identify(&values) {
                asked.push((index, values));
            }
        }
        let values: Vec<Cells> = asked.iter().map(|(_, values)| values.clone()).collect();
        let found = context.live.lookup_some(&mut views.live, shape, by, &values, HOLDERS_MAX, false).await?;
        for ((index, _), rows) in asked.iter().zip(found) {
            for row in rows {
                // A row that reused the candidate's own key is not in its way by itself.
                if shape.key_of(&row) != candidates[*index].key {
                    let is_back = is_back(context, table, &written[*index], &row);
                    holders[*index].push(Holder { by: by.to_vec(), row, is_in_snapshot: false, is_back });
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

/// Whether the first holder equals the row but for its key.
fn is_likeness(shape: &Shape, row: &[Arg], holders: &[Holder]) -> bool {
    let is_same = |holder: &Holder| (0..row.len()).all(|at| shape.key.contains(&at) || row[at] == holder.row[at]);
    holders.first().is_some_and(is_same)
}

/// What a candidate becomes; `None` if there is nothing new.
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
        return verdict(State::Ambiguous, format!("several live rows have its {}", shared_columns(shape, holders)));
    }
    if first.is_in_snapshot {
        return verdict(State::TakenOver, format!("{column} belongs to a live row that is in the snapshot too"));
    }
    if let Some(why) = disagreement(context, table, candidate, row, holders).await? {
        return verdict(State::Ambiguous, format!("{column} is the same, but {why}"));
    }
    verdict(State::Mapped, format!("{column} is the same"))
}

/// Why a live row that holds a key of a candidate is a different row all the same; `None` if it is the same.
async fn disagreement(
    context: &Context,
    table: usize,
    candidate: &Candidate,
    row: &[Arg],
    holders: &[Holder],
) -> Result<Option<String>, SnapshotError> {
    let shape = &context.shapes[table];
    let Some(first) = holders.first().filter(|first| !first.is_back) else { return Ok(None) };
    let is_by = |places: &[usize]| holders.iter().any(|holder| holder.by == places);
    let (own, live) = (|by: &[usize]| shape.values(row, by), |by: &[usize]| shape.values(&first.row, by));
    let is_extension = is_extension(context, table, candidate, &shape.key_of(&first.row)).await?;
    let Some(identity) = context.identities[table].as_deref() else {
        // Without a declared identity, all keys of the row have to agree.
        let is_other = |by: &&Vec<usize>| {
            let (own, live) = (own(by), live(by));
            own != live && cells::identify(&own) && cells::identify(&live) && !is_by(by)
        };
        let other = shape.unique_keys.iter().find(is_other).filter(|_| !is_extension || first.by != shape.key);
        return Ok(other.map(|by| format!("{} is not: declare its identity", names(shape, by))));
    };
    // A rewritten key says nothing by itself: another row may have it.
    if is_by(identity) || is_extension && own(identity) == live(identity) {
        return Ok(None);
    }
    Ok(Some(match identity {
        [] => "nothing identifies its rows".to_owned(),
        _ => format!("{} is not", names(shape, identity)),
    }))
}

/// Whether a live row equals a row as it would be inserted, except for references that may still have to be filled in.
fn is_back(context: &Context, table: usize, row: &[Arg], live: &[Arg]) -> bool {
    let may_be_empty = |place| context.links_of(table).any(|link| link.nullable.contains(&place));
    (0..row.len()).all(|place| row[place] == live[place] || live[place] == Arg::Null && may_be_empty(place))
}

/// Whether a candidate shares its key with a row that is mapped to the live row with this key.
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

/// A candidate that no live row stands for, with the key that it would be inserted under, if its references give it
/// another one: then no live row is in its way. `None` if there is nothing new.
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

/// The names of the keys by which live rows were found.
fn shared_columns(shape: &Shape, holders: &[Holder]) -> String {
    let mut keys: Vec<String> = holders.iter().map(|holder| names(shape, &holder.by)).collect();
    keys.dedup();
    keys.join(" and ")
}

/// Applies the verdict on a row to the row whose key it shares: the client is the partner. Returns whether another row
/// is already mapped to the same live row.
async fn lift(
    context: &Context,
    views: &mut Views,
    table: usize,
    candidate: &Candidate,
) -> Result<bool, SnapshotError> {
    let mut above = vec![(table, candidate.clone())];
    while let Some((table, candidate)) = above.pop() {
        for link in context.links_of(table).filter(|link| link.shares_key(context)) {
            let found = context.work.find(link.parent, std::slice::from_ref(&candidate.key)).await?.pop().flatten();
            let Some(parent) = found.filter(|parent| matches!(parent.state, State::Missing | State::Reused)) else {
                continue;
            };
            let reason = format!("as its {}: {}", context.shapes[table].table, candidate.reason);
            let mut lifted = Candidate {
                state: candidate.state,
                reason,
                detail: candidate.detail.clone(),
                holder: candidate.holder.clone(),
                ..parent
            };
            if let (State::Mapped, Some(holder)) = (lifted.state, lifted.holder.clone()) {
                claim(context, views, link.parent, &[], &mut lifted, false).await?;
                if lifted.state != State::Mapped {
                    // A live row that is not the client is not the partner either.
                    context.work.contest(table, &holder, None).await?;
                    return Ok(true);
                }
            }
            context.work.judge(link.parent, std::slice::from_ref(&lifted)).await?;
            above.push((link.parent, lifted));
        }
    }
    Ok(false)
}
