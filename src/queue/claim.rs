//! Claiming jobs for a worker.
//!
//! A claim is one short transaction that ends before any work starts. For each kind it reads two ranges of one index
//! without sorting: jobs that are due again, then jobs by their turn. `FOR UPDATE SKIP LOCKED` lets claims run side
//! by side; SQLite's writers exclude each other.

use std::time::{Duration, Instant};

use strum::{EnumCount as _, IntoEnumIterator as _};

use super::{FIRST_DUE_US, Job, JobKind, PAUSED, lease};
use crate::{
    args,
    db::{Arg, Db, DbError, Mode, Row, Statement, Tx, retry},
    statement,
};

/// The size of the groups that jobs are claimed in if a claim contains jobs for days that are already running.
const GROUP: usize = 16;

statement!(
    CLAIM_DUE,
    "claim due",
    "SELECT id, kind, rollup, lab_id, day, attempt, attempts_max, sort_key FROM daymend_jobs {force_claim}
     WHERE kind = ? AND state = 'available' AND sort_key >= ? AND sort_key <= {now_us}
     ORDER BY sort_key, id LIMIT ? {skip_locked}"
);

statement!(
    CLAIM_TURN,
    "claim turn",
    "SELECT id, kind, rollup, lab_id, day, attempt, attempts_max, sort_key FROM daymend_jobs {force_claim}
     WHERE kind = ? AND state = 'available' AND sort_key >= ? AND sort_key < ?
     ORDER BY sort_key, id LIMIT ? {skip_locked}"
);

statement!(
    CLAIM,
    "claim",
    "UPDATE daymend_jobs
     SET state = 'running', sort_key = ?, worker_id = ?, attempt = attempt + 1, claimed_at = {now}
     WHERE state = 'available' AND id IN ({list})"
);

// A job is postponed by a second if another job for the same lab and day is running.
statement!(
    CLAIM_POSTPONE,
    "claim postpone",
    "UPDATE daymend_jobs SET sort_key = {now_us} + 1000000 WHERE id = ? AND state = 'available'"
);

// A worker that lost its lease must not claim more: the jobs would only have to be rescued again.
statement!(
    LEASE_HOLDS,
    "lease holds",
    "SELECT {now_us} FROM daymend_workers WHERE id = ? AND lease_until_us > {now_us}"
);

// When its turn comes, a job of a paused lab is set aside until the lab is resumed.
statement!(
    CLAIM_PARK,
    "claim park",
    "UPDATE daymend_jobs SET sort_key = ? WHERE state = 'available' AND id IN ({list})"
);

// Resuming a lab deletes its pause first and then looks for jobs that were set aside. A pause that is share-locked here
// cannot be deleted before the jobs set aside are visible, and a pause that is being deleted is skipped. Each server
// reads its own syntax out of the comments; SQLite's writers exclude each other.
statement!(
    PAUSED_LABS_HELD,
    "hold paused labs",
    "SELECT lab_id FROM daymend_pauses WHERE lab_id IS NOT NULL
     /*M! LOCK IN SHARE MODE SKIP LOCKED */ /*!80000 FOR SHARE SKIP LOCKED */"
);

// The only statement that an idle worker sends.
statement!(
    WAITING,
    "jobs waiting",
    "SELECT EXISTS (SELECT 1 FROM daymend_jobs
                    WHERE kind = 'nightly' AND state = 'available' AND sort_key <= {now_us}),
            EXISTS (SELECT 1 FROM daymend_pauses WHERE what = 'kind:nightly'),
            EXISTS (SELECT 1 FROM daymend_jobs
                    WHERE kind = 'repair' AND state = 'available' AND sort_key <= {now_us}),
            EXISTS (SELECT 1 FROM daymend_pauses WHERE what = 'kind:repair'),
            EXISTS (SELECT 1 FROM daymend_jobs
                    WHERE kind = 'rebuild' AND state = 'available' AND sort_key <= {now_us}),
            EXISTS (SELECT 1 FROM daymend_pauses WHERE what = 'kind:rebuild'),
            EXISTS (SELECT 1 FROM daymend_pauses WHERE lab_id IS NOT NULL),
            EXISTS (SELECT 1 FROM daymend_jobs AS jobs
                    LEFT JOIN daymend_workers AS workers
                           ON workers.id = jobs.sort_key AND workers.lease_until_us > {now_us}
                    WHERE jobs.kind IN ('nightly', 'repair', 'rebuild') AND jobs.state = 'running'
                      AND workers.id IS NULL)"
);

statement!(
    OPEN,
    "jobs open",
    "SELECT EXISTS (SELECT 1 FROM daymend_jobs WHERE kind = ? AND state = 'running')
         OR EXISTS (SELECT 1 FROM daymend_jobs WHERE kind = ? AND state = 'available' AND sort_key < ?)
            AND NOT EXISTS (SELECT 1 FROM daymend_pauses WHERE what = ?)"
);

/// For how long a claimer trusts what it has seen of the queue.
const FRESH: Duration = Duration::from_secs(1);

/// Claims at most `limit` jobs for `worker_id`: nightly first, then repairs, then rebuilds. Jobs of dead workers are
/// rescued first.
pub async fn claim(db: &Db, worker_id: i64, limit: usize) -> Result<Vec<Job>, DbError> {
    let claimed = Claimer::default().claim(db, worker_id, limit).await?.unwrap_or_default();
    Ok(claimed.jobs.into_iter().map(|(job, _)| job).collect())
}

/// The result of a claim.
#[derive(Debug, Default)]
pub struct Claimed {
    /// The jobs, each with its sort key: its turn, or, from [`FIRST_DUE_US`] on, the moment at which it was due
    /// again.
    pub jobs: Vec<(Job, i64)>,
    /// The time of the claim, in microseconds since 1970 by the database's clock.
    pub at_us: i64,
    /// How many jobs of paused labs were set aside.
    parked: usize,
}

/// Claims repeatedly, caching what it knows of the queue for a second at a time.
///
/// It remembers the turn at which it last claimed, and continues there: before it lie the index entries of jobs that
/// are no longer available, which InnoDB keeps for as long as any snapshot is open, and which would otherwise be
/// scanned every time.
#[derive(Debug, Default)]
pub struct Claimer {
    seen: Option<(Instant, Waiting)>,
    /// The turn at which the next claim starts, by kind.
    turns: [i64; JobKind::COUNT],
}

impl Claimer {
    /// Like [`claim`]; `None` if there were jobs, but the worker's lease has expired.
    pub async fn claim(&mut self, db: &Db, worker_id: i64, limit: usize) -> Result<Option<Claimed>, DbError> {
        if limit == 0 {
            return Ok(Some(Claimed::default()));
        }
        let mut is_fresh = false;
        loop {
            let remembered = self.seen.take_if(|(at, _)| at.elapsed() < FRESH);
            is_fresh |= remembered.is_none();
            let (at, waiting) = match remembered {
                Some(seen) => seen,
                None => {
                    let mut waiting = look(db).await?;
                    // Its COMMIT is not that of the claim, which may leave jobs with this worker.
                    let named = |error: DbError| DbError { statement: format!("rescue: {}", error.statement), ..error };
                    if waiting.is_lapsed && lease::rescue(db).await.map_err(named)? > 0 {
                        waiting = look(db).await?;
                    }
                    self.turns = Default::default();
                    (Instant::now(), waiting)
                }
            };
            if is_fresh && !waiting.is_due {
                return Ok(Some(Claimed::default()));
            }
            let claimed = retry("claim", || claim_once(db, worker_id, limit, &waiting, self.turns)).await?;
            let Some(claimed) = claimed else {
                return Ok(None);
            };
            if claimed.jobs.is_empty() && claimed.parked == 0 {
                if is_fresh {
                    return Ok(Some(claimed));
                }
                continue;
            }
            self.seen = Some((at, waiting));
            for (job, turn) in &claimed.jobs {
                if *turn < FIRST_DUE_US {
                    self.turns[job.kind as usize] = *turn;
                }
            }
            if !claimed.jobs.is_empty() {
                return Ok(Some(claimed));
            }
        }
    }
}

/// Whether any job is left to run: running, on any worker, or waiting and not paused.
pub async fn any_open(db: &Db) -> Result<bool, DbError> {
    for kind in JobKind::iter() {
        let args = args![kind.name(), kind.name(), PAUSED, pause_name(kind)];
        if db.fetch_one(&OPEN, args, |row| row.flag(0)).await? {
            return Ok(true);
        }
    }
    Ok(false)
}

/// The name of a kind in `daymend_pauses`.
pub(crate) fn pause_name(kind: JobKind) -> String {
    format!("kind:{kind}")
}

/// What can be claimed.
#[derive(Debug)]
struct Waiting {
    /// Whether a job of a kind that is not paused is due.
    is_due: bool,
    /// The kinds that are not paused.
    kinds: Vec<JobKind>,
    /// Whether any lab is paused.
    is_lab_paused: bool,
    /// Whether any running job belongs to a worker whose lease has expired.
    is_lapsed: bool,
}

async fn look(db: &Db) -> Result<Waiting, DbError> {
    db.fetch_one(&WAITING, args![], |row| {
        let mut waiting =
            Waiting { is_due: false, kinds: Vec::new(), is_lab_paused: row.flag(6)?, is_lapsed: row.flag(7)? };
        for (place, kind) in JobKind::iter().enumerate() {
            let [is_due, is_paused] = [row.flag(2 * place)?, row.flag(2 * place + 1)?];
            if !is_paused {
                waiting.kinds.push(kind);
                waiting.is_due |= is_due;
            }
        }
        Ok(waiting)
    })
    .await
}

/// Makes one claim; `None` if the worker's lease has expired.
async fn claim_once(
    db: &Db,
    worker_id: i64,
    limit: usize,
    waiting: &Waiting,
    turns: [i64; JobKind::COUNT],
) -> Result<Option<Claimed>, DbError> {
    let mut tx = db.begin(Mode::Write).await?;
    let Some(at_us) = tx.fetch_optional(&LEASE_HOLDS, args![worker_id], |row| row.int(0)).await? else {
        tx.rollback().await?;
        return Ok(None);
    };
    let mut jobs = pick(&mut tx, limit, &waiting.kinds, turns).await?;
    let parked = if waiting.is_lab_paused { park(&mut tx, &mut jobs).await? } else { 0 };
    if !jobs.is_empty() && !try_stamp(&mut tx, worker_id, &jobs).await? {
        jobs = stamp_in_groups(&mut tx, worker_id, &jobs).await?;
    }
    tx.commit().await?;
    for (job, _) in &mut jobs {
        job.attempt += 1;
    }
    Ok(Some(Claimed { jobs, at_us, parked }))
}

/// Locks the jobs to claim, and returns each with its sort key.
///
/// At most half of them are jobs that are due again, unless nothing else waits: jobs for days locked by somebody else
/// come back again and again, and would starve the others.
async fn pick(
    tx: &mut Tx,
    limit: usize,
    kinds: &[JobKind],
    turns: [i64; JobKind::COUNT],
) -> Result<Vec<(Job, i64)>, DbError> {
    let mut picked: Vec<(Job, i64)> = Vec::new();
    let mut due_again = limit.div_ceil(2);
    for kind in kinds {
        let due = range(tx, &CLAIM_DUE, args![kind.name(), FIRST_DUE_US], due_again.min(limit - picked.len())).await?;
        due_again -= due.len();
        picked.extend(due);
        let turn = args![kind.name(), turns[*kind as usize], FIRST_DUE_US];
        picked.extend(range(tx, &CLAIM_TURN, turn, limit - picked.len()).await?);
    }
    if due_again == 0 {
        for kind in kinds {
            let room = limit - picked.len();
            let mut due =
                range(tx, &CLAIM_DUE, args![kind.name(), FIRST_DUE_US], if room > 0 { limit } else { 0 }).await?;
            due.retain(|(job, _)| picked.iter().all(|(known, _)| known.id != job.id));
            picked.extend(due.into_iter().take(room));
        }
    }
    Ok(picked)
}

/// The first jobs of a range.
async fn range(tx: &mut Tx, range: &Statement, mut args: Vec<Arg>, limit: usize) -> Result<Vec<(Job, i64)>, DbError> {
    if limit == 0 {
        return Ok(Vec::new());
    }
    args.push(limit.into());
    tx.fetch_all(range, args, |row| job(&row)).await
}

/// Sets the jobs of paused labs aside and removes them from `jobs`; returns how many.
async fn park(tx: &mut Tx, jobs: &mut Vec<(Job, i64)>) -> Result<usize, DbError> {
    let paused = tx.fetch_all(&PAUSED_LABS_HELD, args![], |row| row.int(0)).await?;
    let of_paused = jobs.iter().map(|(job, _)| job).filter(|job| paused.contains(&job.lab_id));
    let parked: Vec<i64> = of_paused.map(|job| job.id).collect();
    if parked.is_empty() {
        return Ok(0);
    }
    tx.execute(CLAIM_PARK.with_list(parked.len()), args![PAUSED; &parked]).await?;
    jobs.retain(|(job, _)| !parked.contains(&job.id));
    Ok(parked.len())
}

/// Claims the jobs; returns false, having claimed none, if one of them is for a (lab, day) that is already running.
async fn try_stamp(tx: &mut Tx, worker_id: i64, jobs: &[(Job, i64)]) -> Result<bool, DbError> {
    let ids = jobs.iter().map(|(job, _)| job.id);
    match tx.execute(CLAIM.with_list(jobs.len()), args![worker_id, worker_id; ids]).await {
        Err(error) if error.is_duplicate() => Ok(false),
        stamped => stamped.map(|_| true),
    }
}

/// The rare case: some of the jobs are for a (lab, day) that is running, in this worker or another. Trying groups first
/// avoids a thousand statements for a claim of a thousand jobs.
async fn stamp_in_groups(tx: &mut Tx, worker_id: i64, jobs: &[(Job, i64)]) -> Result<Vec<(Job, i64)>, DbError> {
    let mut claimed = Vec::new();
    for group in jobs.chunks(GROUP) {
        if try_stamp(tx, worker_id, group).await? {
            claimed.extend_from_slice(group);
            continue;
        }
        for one in group {
            if try_stamp(tx, worker_id, std::slice::from_ref(one)).await? {
                claimed.push(one.clone());
            } else {
                tx.execute(&CLAIM_POSTPONE, args![one.0.id]).await?;
            }
        }
    }
    Ok(claimed)
}

/// Reads a job and its sort key.
fn job(row: &Row) -> Result<(Job, i64), sqlx::Error> {
    let job = Job {
        id: row.int(0)?,
        kind: row.text(1)?.parse()?,
        rollup: row.text(2)?,
        lab_id: row.int(3)?,
        day: row.date(4)?,
        attempt: row.int(5)?,
        attempts_max: row.int(6)?,
    };
    Ok((job, row.int(7)?))
}
