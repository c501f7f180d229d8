//! Rows whose live key belongs to something else, because it contains the key of another row.
//!
//! For example, the key of an order consists of its client's key and a number. If the client's key is now used by
//! another client, the orders found under it belong to that client too, whatever they look like: none of them is the
//! vanished order, and references to the vanished order must not point to them. An identity of the order that does
//! not include the client is still trusted.

use super::{
    Context, Link,
    candidates::{Candidate, State},
    exclude::Exclusions,
    parents::Parent,
    plan::{self, Views},
    remap::Remap,
};
use crate::snapshot::{SnapshotError, cells::Cells};

/// The states that candidates whose own key is live may have before any is judged.
const STATES: [State; 4] = [State::Reused, State::Excluded, State::Mapped, State::Ambiguous];

impl Link {
    /// Whether the key of a child row contains the key of its parent. If an identity is declared, it must include some
    /// of these columns too: any other identity is trusted.
    fn is_part_of_key(&self, context: &Context) -> bool {
        let child = &context.shapes[self.child];
        let identity = context.identities[self.child].as_deref().unwrap_or_default();
        self.parent_columns == context.shapes[self.parent].key
            && self.columns.iter().all(|place| child.key.contains(place))
            && (identity.is_empty() || self.columns.iter().any(|place| identity.contains(place)))
    }
}

/// Adds the rows whose key contains that of a row whose key is now used by another row, directly or indirectly.
pub(super) async fn find(
    context: &Context,
    views: &mut Views,
    exclusions: &Exclusions,
    remap: Option<&Remap>,
) -> Result<(), SnapshotError> {
    let judged = context.judged();
    // Tables that refer to each other need more than one round.
    loop {
        let mut found = 0;
        for parent in plan::tables_in_order(context).filter(|table| judged[*table]) {
            let links = context.links.iter().filter(|link| link.parent == parent && judged[link.child]);
            for link in links.filter(|link| link.is_part_of_key(context)) {
                for state in STATES {
                    found += below(context, views, link, state, exclusions, remap).await?;
                }
            }
        }
        if found == 0 {
            return Ok(());
        }
    }
}

/// Whether the key of each row contains that of a row which is no longer itself.
pub(super) async fn depend_on_reused(
    context: &Context,
    views: &mut Views,
    table: usize,
    rows: &[Cells],
) -> Result<Vec<bool>, SnapshotError> {
    let mut depends = vec![false; rows.len()];
    for link in context.links_of(table).filter(|link| link.is_part_of_key(context)) {
        let parents = context.parents(&mut views.snapshot, link, rows).await?;
        for (depends, parent) in depends.iter_mut().zip(parents) {
            *depends |= matches!(parent, Parent::Candidate(parent) if !parent.is_itself());
        }
    }
    Ok(depends)
}

/// Adds the rows whose keys contain those of the parent's candidates in a state; returns how many.
async fn below(
    context: &Context,
    views: &mut Views,
    link: &Link,
    state: State,
    exclusions: &Exclusions,
    remap: Option<&Remap>,
) -> Result<usize, SnapshotError> {
    let (mut found, mut after) = (0, 0);
    loop {
        let mut page = context.work.page(link.parent, state, after).await?;
        let Some(last) = page.last() else { return Ok(found) };
        after = last.place;
        // A person may have mapped the row to itself.
        page.retain(|parent| !parent.is_itself());
        let new = dependents(context, views, link, page).await?;
        found += new.len();
        plan::enter(context, views, link.child, new, exclusions, remap).await?;
    }
}

/// The rows whose keys contain those of these candidates, if the keys of both are live; without those that are
/// candidates already.
async fn dependents(
    context: &Context,
    views: &mut Views,
    link: &Link,
    parents: Vec<Candidate>,
) -> Result<Vec<Candidate>, SnapshotError> {
    let (parent, child) = (&context.shapes[link.parent], &context.shapes[link.child]);
    let (_, rows) = plan::rows_of(context, &mut views.snapshot, link.parent, parents).await?;
    let keys: Vec<Cells> = rows.iter().map(|row| parent.key_of(row)).collect();
    let live = context.live.lookup(&mut views.live, parent, &parent.key, &keys, false).await?;
    let taken = rows.iter().zip(&live).filter(|(_, live)| !live.is_empty());
    let sought: Vec<Cells> = taken.filter_map(|(row, _)| link.sought(row)).collect();
    let below = context.snapshot.lookup(&mut views.snapshot, child, &link.columns, &sought, false).await?;
    let mut below: Vec<Cells> = below.into_iter().flatten().filter(|row| link.target(row).is_some()).collect();
    let mut keys: Vec<Cells> = below.iter().map(|row| child.key_of(row)).collect();
    let known = context.work.find(link.child, &keys).await?;
    let mut is_new = known.iter().map(Option::is_none);
    below.retain(|_| is_new.next().unwrap_or(false));
    keys = below.iter().map(|row| child.key_of(row)).collect();
    let live = context.live.lookup(&mut views.live, child, &child.key, &keys, false).await?;
    let reason = format!("the key of the row of {} that it refers to is now used by another row", parent.table);
    let live = below.iter().zip(live).filter_map(|(row, live)| Some((row, live.into_iter().next()?)));
    Ok(live.map(|(row, live)| plan::reused(child, row, &live, reason.clone())).collect())
}
