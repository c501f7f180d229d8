//! The stage, and the acts themselves: what is made, and what daymend then does.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use anyhow::Context as _;
use chrono::{DateTime, NaiveTime, Utc};
use rand::{SeedableRng as _, rngs::StdRng};
use tokio_util::sync::CancellationToken;

use super::{
    check::{self, Comparison, Record},
    data::{LABS, Lab},
    drift::{self, Wrong},
    file, follow,
    report::Corrected,
};
use crate::{
    args, calendar,
    clock::Clock,
    db::{self, ConnectOptions, Db, Mode, Query},
    rollup::{HISTORICAL_SUMMARY, Rollups},
    runs::{self, JobLimits, close, records},
    scheduler::{self, Report, Scheduler, nightly::NightlyAt},
    worker::{self, throttle::Limits},
};

/// Every demo on the same day makes the same bills and the same drift.
const SEED: u64 = 20_260_315;

/// The lab that loses a whole day near the end of its history, and the lab that is rebuilt.
const DAY_GONE: &Lab = &LABS[1];
pub(super) const REBUILT: &Lab = &LABS[2];

/// How many groups of days are recomputed concurrently, and how many connections the pool has.
const CONCURRENCY: usize = 2;
const CONNECTIONS: u32 = 6;

/// What the acts of the demo share.
#[derive(Debug)]
pub(super) struct Stage {
    db: Db,
    lease_db: Db,
    rollups: Arc<Rollups>,
    /// The demo's present, fixed because midnight may pass while it runs.
    pub(super) now: DateTime<Utc>,
}

/// What was made, by lab, and how much of it is wrong.
#[derive(Debug, Default)]
pub(super) struct Made {
    pub(super) bills: BTreeMap<i64, usize>,
    /// Number of summary rows while they were still correct.
    pub(super) rows: BTreeMap<i64, u64>,
    /// What the nightly repair should correct.
    pub(super) nights: BTreeMap<i64, Wrong>,
    /// What remains for the rebuild of [`REBUILT`].
    pub(super) history: Wrong,
}

impl Stage {
    /// Creates the file with all tables. The mark comes first, so that the next demo can replace the file even if
    /// this one is interrupted.
    pub(super) async fn set(url: &str) -> anyhow::Result<Self> {
        let rollups =
            Rollups::load(None).map_err(|errors| anyhow::anyhow!("the compiled-in rollup is broken: {errors:?}"))?;
        let db = db::connect(url, ConnectOptions { create: true, ..ConnectOptions::new(CONNECTIONS) })?;
        let mut tx = db.begin(Mode::Write).await?;
        tx.execute(Query::new("demo mark", file::MARK), args![]).await?;
        tx.execute(Query::new("source schema", include_str!("source-schema.sqlite.sql")), args![]).await?;
        tx.commit().await?;
        db::migrate::migrate(&db).await?;
        let lease_db = db::connect(url, ConnectOptions::new(1))?;
        Ok(Self { db, lease_db, rollups: Arc::new(rollups), now: Clock::System.now() })
    }

    /// Makes the bills and a correct summary, and then makes the summary wrong.
    pub(super) async fn make_data(&self) -> anyhow::Result<Made> {
        let mut rng = StdRng::seed_from_u64(SEED);
        let mut made = Made::default();
        follow::note("making six labs and a year of bills for each");
        let mut tx = self.db.begin(Mode::Write).await?;
        for lab in &LABS {
            made.bills.insert(lab.id, lab.fill(&mut tx, &mut rng, self.now).await?);
        }
        tx.commit().await?;

        follow::note("filling the summary, and making it wrong");
        let mut tx = self.db.begin(Mode::Write).await?;
        for lab in LABS.iter().filter(|lab| lab.clock.is_some()) {
            made.rows.insert(lab.id, drift::fill(&mut tx, lab).await?);
            let day_gone = (lab.id == DAY_GONE.id).then(|| calendar::previous(lab.history(self.now).1));
            let wrong = drift::last_nights(&mut tx, &mut rng, lab, self.now, day_gone).await?;
            made.nights.insert(lab.id, wrong);
        }
        made.history = drift::history(&mut tx, &mut rng, REBUILT, self.now).await?;
        tx.commit().await?;
        Ok(made)
    }

    /// The nightly repair of the days that have closed since the last scheduler tick; also returns the scheduler's
    /// report.
    pub(super) async fn nightly(&self, made: &Made) -> anyhow::Result<(Vec<Corrected>, Report)> {
        let (tick, closed) = self.tick_and_work("nightly repair").await?;
        let planted = |lab| made.nights.get(&lab).copied().unwrap_or_default();
        Ok((self.corrected(&closed, planted).await?, tick))
    }

    /// A rebuild, requested as the Support Dashboard does; also returns its record afterwards.
    pub(super) async fn rebuild(&self, made: &Made) -> anyhow::Result<(Vec<Corrected>, Record)> {
        let mut tx = self.db.begin(Mode::Write).await?;
        let record = records::request(&mut tx, REBUILT.id, 1).await?;
        tx.commit().await?;
        let (_, closed) = self.tick_and_work("rebuild").await?;
        let corrected = self.corrected(&closed, |_| made.history).await?;
        let mut tx = self.db.begin(Mode::Snapshot).await?;
        let record = check::record(&mut tx, record).await?;
        tx.commit().await?;
        Ok((corrected, record))
    }

    /// Compares every summary row of every lab with the source.
    pub(super) async fn compare(&self) -> anyhow::Result<Vec<Comparison>> {
        follow::note("comparing every summary row with the source");
        let mut comparisons = Vec::new();
        let mut tx = self.db.begin(Mode::Snapshot).await?;
        for lab in &LABS {
            comparisons.push(check::compare(&mut tx, lab).await?);
        }
        tx.commit().await?;
        Ok(comparisons)
    }

    /// Closes the file, so that no other files remain next to it.
    pub(super) async fn clear(&self) {
        self.lease_db.close().await;
        self.db.close().await;
    }

    /// Runs one tick of the scheduler, then a worker until the queue is empty; returns the reports of the tick and of
    /// the closed runs.
    async fn tick_and_work(&self, title: &'static str) -> anyhow::Result<(Report, close::Report)> {
        let rollup = self.rollups.get(HISTORICAL_SUMMARY).context("the compiled-in rollup is missing")?;
        let clock = Clock::Fixed(self.now);
        let config = scheduler::Config {
            nightly_at: NightlyAt::Local(NaiveTime::MIN),
            catch_up_days: 7,
            lookback_days: 0,
            limits: JobLimits::any_shrink(5),
            rebuild_limits: JobLimits::any_shrink(5),
            retention: None,
            audit: None,
        };
        let mut tick = Report::default();
        Scheduler { db: &self.db, rollup, config: &config, clock }.tick(&mut tick).await?;
        let run_ids: Vec<i64> = tick.enqueued.iter().map(|enqueued| enqueued.run).collect();
        let config = worker::Config {
            name: "demo".to_owned(),
            concurrency: CONCURRENCY,
            lease: Duration::from_secs(60),
            heartbeat: Duration::from_secs(15),
            grace: Duration::ZERO,
            job_timeout: Duration::from_secs(60),
            backoff: Duration::from_secs(1),
            drain: true,
            limits: Limits::default(),
        };
        let shutdown = CancellationToken::new();
        let pulse = Arc::default();
        let work = worker::run(&self.db, &self.lease_db, Arc::clone(&self.rollups), &config, clock, &pulse, &shutdown);
        let closed = follow::follow(&self.db, title, &run_ids, work).await?;
        Ok((tick, closed))
    }

    /// Each closed run, with what had been planted for it.
    async fn corrected(
        &self,
        closed: &close::Report,
        planted: impl Fn(i64) -> Wrong,
    ) -> anyhow::Result<Vec<Corrected>> {
        let mut corrected = Vec::new();
        let mut tx = self.db.begin(Mode::Snapshot).await?;
        for (run_id, state, progress) in &closed.closed {
            let run = runs::get(&mut tx, *run_id).await?.context("a run has disappeared")?;
            // A nightly run covers one zone, and no two labs of the demo share theirs.
            let lab =
                LABS.iter().find(|lab| run.lab_id == Some(lab.id) || run.time_zone.as_deref() == Some(lab.time_zone));
            let lab = lab.context("a run is of no lab")?;
            let (state, progress) = (*state, *progress);
            corrected.push(Corrected { run_id: *run_id, lab, state, planted: planted(lab.id), progress });
        }
        tx.commit().await?;
        corrected.sort_by_key(|corrected| corrected.lab.id);
        Ok(corrected)
    }
}
