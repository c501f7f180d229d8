//! Rows whose live key belongs to something else, because it contains the key of another row.
//!
//! For example, the key of an order consists of its client's key and a number. If the client's key is now used by
//! another client, the orders found under it belong to that client too, whatever they look like: none of them is the
//! vanished order, and references to the vanished order must not point to them. An identity of the order that does
//! not include the client is still trusted.

use super::{Context, Link, candidates::State, graph::Group, parents::Parent, plan::Views};
use crate::snapshot::{SnapshotError, cells::Cells};

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

/// Whether keys of some of these tables contain those of others of them.
pub(super) fn is_within(context: &Context, group: &Group) -> bool {
    let has = |table: &usize| group.tables.contains(table);
    context.links.iter().any(|link| has(&link.child) && has(&link.parent) && link.is_part_of_key(context))
}

/// For each row of a page, why the live row with its key is a stranger's, if it is: its key contains that of a row
/// whose key is now used by another row, directly or indirectly. The candidates above it have to be known.
pub(super) async fn why(
    context: &Context,
    views: &mut Views,
    table: usize,
    rows: &[Cells],
) -> Result<Vec<Option<String>>, SnapshotError> {
    let mut why = vec![None; rows.len()];
    for link in context.links_of(table).filter(|link| link.is_part_of_key(context)) {
        let shape = &context.shapes[link.parent];
        let parents = context.parents(&mut views.snapshot, link, rows).await?.into_iter().enumerate();
        let lost = parents.filter_map(|(index, parent)| match parent {
            // The key of a missing row is free. A person may have mapped a row to itself.
            Parent::Candidate(parent) if parent.state != State::Missing && !parent.is_itself() => {
                Some((index, parent.key))
            }
            _ => None,
        });
        let (places, keys): (Vec<usize>, Vec<Cells>) = lost.unzip();
        let live = context.live.keys(&mut views.live, shape, &shape.key, &keys, false).await?;
        for (place, _) in places.into_iter().zip(live).filter(|(_, live)| !live.is_empty()) {
            let parent = &shape.table;
            why[place] = Some(format!("the key of the row of {parent} that it refers to is now used by another row"));
        }
    }
    Ok(why)
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
