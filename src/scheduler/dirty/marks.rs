//! A batch of marks: read, merged by day, enqueued, and deleted, in one transaction.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use chrono::{DateTime, NaiveDate, TimeDelta, Utc};

use super::super::{Enqueued, Tick, nightly};
use crate::{
    args,
    calendar::Zone,
    db::{Db, DbError, Mode, Query, Row, Tx, json_list, repeat},
    queue::JobKind,
    rollup::{Rollup, watch::Watch},
    runs::{self, LATE_CHANGES, LabDays, NewRun},
    statement,
};

/// How many marks one transaction takes.
const MARKS_A_BATCH: usize = 5000;

/// How many ids one statement names.
const VALUES_A_STATEMENT: usize = 1000;

/// The requester of the runs for marked days.
const REQUESTED_BY: &str = "dirty days";

statement!(MARKS_ANY, "any marks", "SELECT EXISTS (SELECT 1 FROM daymend_dirty WHERE id > ?)");

// Locked, so that two schedulers share the marks instead of both repairing every day. No writer ever waits for this:
// rows that are being appended are skipped. Zero dates, and others before the first that a DATETIME can hold, belong to
// no day.
statement!(
    MARKS_READ,
    "read marks",
    "SELECT id, lab_id, CASE WHEN bill_time >= '1000-01-01' THEN bill_time END, bill_id FROM daymend_dirty
     WHERE test_id IS NULL AND id > ? ORDER BY id LIMIT ? {skip_locked}"
);

statement!(
    MARKS_OLDEST,
    "oldest mark",
    "SELECT {now_us} - CAST({as_us}(marked_at) AS SIGNED) FROM daymend_dirty ORDER BY id LIMIT 1"
);

// By the ranges of the primary key that are the open runs' jobs: by lab and day, every job that a day ever had would be
// read. The runs are told by the names of their events; who asked for them may be anybody's name.
statement!(
    JOBS_WAITING,
    "jobs waiting for marked days",
    "SELECT jobs.lab_id, jobs.day FROM daymend_runs AS runs
     JOIN daymend_jobs AS jobs ON jobs.id BETWEEN runs.id * 100000000 AND runs.id * 100000000 + 99999999
     WHERE runs.state = 'running' AND runs.event_name LIKE ? AND jobs.rollup = ? AND jobs.state = 'available'"
);

/// The result of a batch.
#[derive(Debug, Default)]
pub(super) struct Batch {
    /// The run that it enqueued.
    pub(super) run: Option<Enqueued>,
    /// How many marks had which outcome, in the order of [`super::OUTCOMES`].
    pub(super) outcomes: [u64; 4],
    /// The last id that was read.
    pub(super) last_read: Option<i64>,
    /// The same, if there may be more after it.
    pub(super) more_after: Option<i64>,
}

/// What a mark points to.
enum Place {
    Moment(i64, DateTime<Utc>),
    Bill(i64),
    Nowhere,
}

/// What to do about a mark.
enum Verdict {
    Repair(NaiveDate),
    NotOver,
    Keep,
    Drop,
}

/// Whether there is any mark after that id.
pub(super) async fn any(db: &Db, floor: i64) -> Result<bool, DbError> {
    db.fetch_one(&MARKS_ANY, args![floor], |row| row.flag(0)).await
}

/// How long ago the oldest mark was made, in microseconds, by the database's clock.
pub(crate) async fn oldest_us(tx: &mut Tx) -> Result<Option<i64>, DbError> {
    Ok(tx.fetch_optional(&MARKS_OLDEST, args![], |row| row.int_or_null(0)).await?.flatten())
}

/// Takes the first marks after that id, and enqueues the repair of their days.
pub(super) async fn enqueue(tick: &Tick<'_>, watch: &Watch, floor: i64) -> Result<Batch, DbError> {
    let mut tx = tick.db.begin(Mode::Write).await?;
    let marks = read(&mut tx, floor).await?;
    let mut batch = Batch::default();
    // From here on, each statement sees at least the changes that the marks stand for.
    let bills = moments(&mut tx, watch, &marks).await?;
    let labs = Labs::read(&mut tx, tick.rollup).await?;
    let mut days: BTreeMap<i64, BTreeSet<NaiveDate>> = BTreeMap::new();
    let mut done = Vec::new();
    for (id, place) in &marks {
        let place = match place {
            Place::Bill(bill) => bills.get(bill).copied(),
            Place::Moment(lab, at) => Some((*lab, *at)),
            Place::Nowhere => None,
        };
        let verdict = place.map_or(Verdict::Drop, |(lab, at)| labs.judge(lab, at, tick.now));
        match verdict {
            Verdict::Keep => continue,
            Verdict::Repair(day) => {
                if let Some((lab, _)) = place {
                    days.entry(lab).or_default().insert(day);
                }
                batch.outcomes[0] += 1;
            }
            Verdict::NotOver => batch.outcomes[1] += 1,
            Verdict::Drop => batch.outcomes[2] += 1,
        }
        done.push(*id);
    }
    // Marks that stay are passed as well: however many there are, they must not keep others waiting.
    batch.last_read = marks.last().map(|(id, _)| *id);
    batch.more_after = batch.last_read.filter(|_| marks.len() == MARKS_A_BATCH);
    let labs = without_waiting(&mut tx, tick.rollup, days).await?;
    if !labs.is_empty() {
        let (whose, days) = runs::describe(&labs);
        let run = NewRun {
            reason: format!("late changes of {whose}, {days}"),
            requested_by: REQUESTED_BY.to_owned(),
            event: LATE_CHANGES,
            ..tick.new_run(JobKind::Repair, labs)
        };
        batch.run = Some(Enqueued::create(&mut tx, run).await?);
    }
    delete(&mut tx, &done).await?;
    tx.commit().await?;
    Ok(batch)
}

/// Deletes exactly these marks; returns how many there were.
pub(super) async fn delete(tx: &mut Tx, ids: &[i64]) -> Result<u64, DbError> {
    let sql = tx.dialect().delete_by_key("daymend_dirty", "id");
    let mut deleted = 0;
    for ids in ids.chunks(VALUES_A_STATEMENT) {
        deleted += tx.execute(Query::new("delete marks", &sql), args![json_list(ids)]).await?;
    }
    Ok(deleted)
}

async fn read(tx: &mut Tx, floor: i64) -> Result<Vec<(i64, Place)>, DbError> {
    tx.fetch_all(&MARKS_READ, args![floor, MARKS_A_BATCH], |row| {
        Ok((row.int(0)?, place(&row).unwrap_or(Place::Nowhere)))
    })
    .await
}

/// Reads what a mark points to. A value that cannot be read is an error, which affects only that mark.
fn place(row: &Row) -> Result<Place, sqlx::Error> {
    Ok(match (row.int_or_null(1)?, row.instant_or_null(2)?, row.int_or_null(3)?) {
        (Some(lab), Some(at), _) => Place::Moment(lab, at),
        (_, _, Some(bill)) => Place::Bill(bill),
        _ => Place::Nowhere,
    })
}

/// The lab and the moment of each marked bill that exists.
async fn moments(
    tx: &mut Tx,
    watch: &Watch,
    marks: &[(i64, Place)],
) -> Result<HashMap<i64, (i64, DateTime<Utc>)>, DbError> {
    let bills: BTreeSet<i64> =
        marks.iter().filter_map(|(_, place)| if let Place::Bill(bill) = place { Some(*bill) } else { None }).collect();
    let bills: Vec<i64> = bills.into_iter().collect();
    let bill = &watch.bill;
    let mut moments = HashMap::new();
    for bills in bills.chunks(VALUES_A_STATEMENT) {
        let (key, lab, time, table) = (&bill.key, &bill.lab, &bill.time, &bill.table);
        let sql = format!(
            "SELECT {key}, {lab}, CASE WHEN {time} >= '1000-01-01' THEN {time} END FROM {table} WHERE {key} IN ({})",
            repeat("?", bills.len())
        );
        tx.for_each(Query::new("marked bills", sql).once(), args![; bills], |row| {
            if let (Ok(id), Ok(lab), Ok(at)) = (row.int(0), row.int(1), row.instant(2)) {
                moments.insert(id, (lab, at));
            }
            Ok(())
        })
        .await?;
    }
    Ok(moments)
}

/// The labs that have the Historical View.
#[derive(Debug)]
pub(super) struct Labs {
    /// Those that the nightly run maintains, with the day up to which each has been enqueued.
    maintained: HashMap<i64, (Zone, Option<NaiveDate>)>,
    /// Those that it will maintain once their zone is set right, and what is wrong with it.
    unusable: BTreeMap<i64, String>,
}

impl Labs {
    pub(super) async fn read(tx: &mut Tx, rollup: &Rollup) -> Result<Self, DbError> {
        let outlook = nightly::look_at_labs(tx, rollup).await?;
        let labs = outlook.zones.into_iter();
        let maintained = labs.flat_map(|(zone, labs)| labs.into_iter().map(move |(lab, to)| (lab, (zone, to))));
        Ok(Self { maintained: maintained.collect(), unusable: outlook.unusable })
    }

    /// The zone in which to look at a lab's days: its own, or UTC until it has a usable one; `None` for a lab without
    /// the Historical View.
    pub(super) fn zone(&self, lab: i64) -> Option<Zone> {
        let zone = self.maintained.get(&lab).map(|(zone, _)| *zone);
        zone.or_else(|| self.unusable.contains_key(&lab).then_some(Zone::UTC))
    }

    /// The moments that mark a day of [`Labs::zone`], given one within it. For a lab without a usable zone they are the
    /// ends of the UTC day: in whatever zone, one of them lies in the day that is meant.
    pub(super) fn moments(&self, lab: i64, day: NaiveDate, at: DateTime<Utc>) -> Vec<DateTime<Utc>> {
        if !self.unusable.contains_key(&lab) {
            return vec![at];
        }
        let day = Zone::UTC.day(day);
        vec![day.from, day.until - TimeDelta::seconds(1)]
    }

    fn judge(&self, lab: i64, at: DateTime<Utc>, now: DateTime<Utc>) -> Verdict {
        let Some((zone, enqueued_through)) = self.maintained.get(&lab) else {
            return if self.unusable.contains_key(&lab) { Verdict::Keep } else { Verdict::Drop };
        };
        let day = zone.date_of(at);
        if zone.is_closed(day, now) {
            Verdict::Repair(day)
        } else if enqueued_through.is_none_or(|through| through < day) {
            Verdict::NotOver
        } else {
            Verdict::Keep
        }
    }
}

/// Leaves out the days for which a job of an earlier batch is still waiting.
async fn without_waiting(
    tx: &mut Tx,
    rollup: &Rollup,
    mut days: BTreeMap<i64, BTreeSet<NaiveDate>>,
) -> Result<LabDays, DbError> {
    if !days.is_empty() {
        let args = args![runs::late_changes(), rollup.name.as_str()];
        tx.for_each(&JOBS_WAITING, args, |row| {
            if let Some(days) = days.get_mut(&row.int(0)?) {
                days.remove(&row.date(1)?);
            }
            Ok(())
        })
        .await?;
    }
    let left = days.into_iter().filter(|(_, days)| !days.is_empty());
    Ok(left.map(|(lab, days)| (lab, days.into_iter().collect())).collect())
}
