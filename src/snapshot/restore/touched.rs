//! Which days of which labs a restore touches: they have to be recomputed.
//!
//! References lead from every restored row up to the table of facts (a sample to its bill), or, failing that, down
//! one step and up again (a test to the bills that ordered it, a lab to its bills). A lab whose summary nobody
//! maintains is left out.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use chrono::{DateTime, NaiveDate, Utc};

use super::{
    Link,
    relations::Facts,
    undo_file::{Reader, Record},
};
use crate::{
    calendar::Zone,
    db::{DbError, Mode, Query, Tx},
    rollup::{Rollup, source},
    runs::repair::{self, LeftOut},
    snapshot::{
        cells::Cells,
        schema::quote,
        side::{Shape, Side},
    },
};

/// How many facts with an unknown day are named.
const UNKNOWN_MAX: usize = 20;

/// The way from a table to the facts: a chain of JOINs.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Way {
    /// Each table on the path, beginning with the restored one, and the condition that joins it.
    joins: Vec<(usize, String)>,
}

/// The days touched by the rows of an undo file, and the touched labs that are left out; days that are not over are
/// left out too.
pub async fn days(
    live: &Side,
    shapes: &[Shape],
    links: &[Link],
    facts: &Facts,
    rollup: &Rollup,
    reader: &mut Reader,
    now: DateTime<Utc>,
) -> anyhow::Result<repair::Plan> {
    let Some(target) = shapes.iter().position(|shape| shape.table == facts.table) else {
        return Ok(repair::Plan::default());
    };
    let mut tx = live.db.begin(Mode::Snapshot).await?;
    let mut plan = repair::Plan::default();
    let labs: BTreeMap<i64, Result<Zone, String>> = source::labs(&mut tx, rollup)
        .await?
        .into_iter()
        .map(|lab| {
            let zone = lab.zone().map_err(|error| error.to_string());
            (lab.id, if lab.enabled { zone } else { Err("its Historical View is off".to_owned()) })
        })
        .collect();
    let ways: Vec<Option<Way>> = (0..shapes.len()).map(|table| way(live, shapes, links, table, target)).collect();
    let mut days: BTreeMap<i64, BTreeSet<NaiveDate>> = BTreeMap::new();
    for page in reader.pages() {
        let mut keys: BTreeMap<usize, Vec<Cells>> = BTreeMap::new();
        for record in reader.read(page)? {
            let (table, row) = match record {
                Record::Insert { table, row, .. } => (table, row.0),
                Record::Fill { table, after, .. } => (table, after.0),
                Record::End | Record::Empty { .. } => continue,
                Record::Days { labs } => {
                    labs.into_iter().for_each(|(lab, more)| days.entry(lab).or_default().extend(more));
                    continue;
                }
            };
            if let Some(number) = shapes.iter().position(|shape| shape.table == table) {
                keys.entry(number).or_default().push(shapes[number].key_of(&row));
            }
        }
        for (table, keys) in keys {
            let Some(way) = &ways[table] else { continue };
            add(live, shapes, facts, &mut tx, way, &keys, |fact| match fact {
                Ok((lab, at)) => {
                    let days = days.entry(lab).or_default();
                    days.extend(labs.get(&lab).and_then(|zone| zone.as_ref().ok()).map(|zone| zone.date_of(at)));
                }
                Err(why) => {
                    if plan.unknown.len() < UNKNOWN_MAX && !plan.unknown.contains(&why) {
                        plan.unknown.push(why);
                    }
                }
            })
            .await?;
        }
    }
    tx.commit().await?;
    for (lab, mut days) in days {
        match labs.get(&lab) {
            Some(Ok(zone)) => {
                let yesterday = zone.yesterday(now);
                days.retain(|day| *day <= yesterday);
                if !days.is_empty() {
                    plan.labs.push((lab, days.into_iter().collect()));
                }
            }
            Some(Err(why)) => plan.left_out.push(LeftOut { lab, why: why.clone() }),
            None => plan.left_out.push(LeftOut { lab, why: "there is no such lab".to_owned() }),
        }
    }
    Ok(plan)
}

/// The shortest path up; otherwise the first one that begins with one step down.
fn way(live: &Side, shapes: &[Shape], links: &[Link], table: usize, target: usize) -> Option<Way> {
    if let Some(joins) = up(live, shapes, links, table, target, 0) {
        return Some(Way { joins });
    }
    links.iter().filter(|link| link.parent == table && link.when.is_none()).find_map(|link| {
        let first = (link.child, condition(live, shapes, link, 0, 1, true));
        let rest = up(live, shapes, links, link.child, target, 1)?;
        Some(Way { joins: [(table, String::new()), first].into_iter().chain(rest.into_iter().skip(1)).collect() })
    })
}

/// The JOINs from a table up to another; `depth` is the number of the first one's alias.
fn up(
    live: &Side,
    shapes: &[Shape],
    links: &[Link],
    from: usize,
    to: usize,
    depth: usize,
) -> Option<Vec<(usize, String)>> {
    let mut before: BTreeMap<usize, &Link> = BTreeMap::new();
    let mut seen = BTreeSet::from([from]);
    let mut queue = VecDeque::from([from]);
    while let Some(table) = queue.pop_front() {
        if table == to {
            let mut chain = Vec::new();
            let mut at = to;
            while at != from {
                let link = before[&at];
                chain.push(link);
                at = link.child;
            }
            chain.reverse();
            let joins = chain.iter().enumerate().map(|(step, link)| {
                (link.parent, condition(live, shapes, link, depth + step, depth + step + 1, false))
            });
            return Some(std::iter::once((from, String::new())).chain(joins).collect());
        }
        for link in links.iter().filter(|link| link.child == table && link.when.is_none()) {
            if seen.insert(link.parent) {
                before.insert(link.parent, link);
                queue.push_back(link.parent);
            }
        }
    }
    None
}

/// The condition that joins the tables with these aliases; `is_down` if the first one is the parent.
fn condition(live: &Side, shapes: &[Shape], link: &Link, first: usize, second: usize, is_down: bool) -> String {
    let dialect = live.db.dialect();
    let (child, parent) = if is_down { (second, first) } else { (first, second) };
    let terms = link.columns.iter().zip(&link.parent_columns).map(|(column, parent_column)| {
        let column = quote(dialect, &shapes[link.child].columns[*column]);
        let parent_column = quote(dialect, &shapes[link.parent].columns[*parent_column]);
        format!("w{child}.{column} = w{parent}.{parent_column}")
    });
    terms.collect::<Vec<_>>().join(" AND ")
}

async fn add(
    live: &Side,
    shapes: &[Shape],
    facts: &Facts,
    tx: &mut Tx,
    way: &Way,
    keys: &[Cells],
    mut each: impl FnMut(Result<(i64, DateTime<Utc>), String>) + Send,
) -> Result<(), DbError> {
    let dialect = live.db.dialect();
    let last = way.joins.len() - 1;
    let table = &shapes[way.joins[0].0];
    // No DISTINCT: the server's internal temporary table may not keep an invalid date as it is.
    let mut sql = format!(
        "SELECT w{last}.{}, w{last}.{} FROM {} AS w0",
        quote(dialect, &facts.lab),
        quote(dialect, &facts.time),
        quote(dialect, &table.table)
    );
    for (number, (place, condition)) in way.joins.iter().enumerate().skip(1) {
        sql += &format!(" JOIN {} AS w{number} ON {condition}", quote(dialect, &shapes[*place].table));
    }
    for keys in keys.chunks(live.lookups_max(table, &table.key)) {
        let any: Vec<String> = keys.iter().map(|key| format!("({})", live.has_key(table, "w0.", key))).collect();
        let query = Query::named("restore days", format!("{sql} WHERE {}", any.join(" OR ")));
        tx.for_each(query, keys.iter().flatten().cloned().collect(), |row| {
            // A value that cannot be read only concerns its own row: the days of the others are recomputed.
            match row.int_or_null(0).and_then(|lab| Ok((lab, row.instant_or_null(1)?))) {
                Ok((Some(lab), Some(at))) => each(Ok((lab, at))),
                Ok(_) => {}
                Err(error) => {
                    let lab = row.int_or_null(0).ok().flatten().map_or_else(String::new, |lab| format!("lab {lab}, "));
                    each(Err(format!("{lab}{}: {error}", facts.time)));
                }
            }
            Ok(())
        })
        .await?;
    }
    Ok(())
}
