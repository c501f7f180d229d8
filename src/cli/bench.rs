//! `daymend bench`: figures that anyone can measure on their own database.

use std::{
    process::{Command as Process, ExitCode, Stdio},
    time::{Duration, Instant},
};

use anyhow::Context as _;
use chrono::NaiveDate;
use clap::{Args, Subcommand};

use super::{Exit, Global, connect::connect_to, print_json, usage};
use crate::{
    args, calendar,
    db::{ConnectOptions, Db, DbError, Dialect, Mode, migrate},
    output::{table::table, tell},
    queue::{JobKind, claim, ids_of, lease, settle},
    recompute::Changes,
    runs::{self, JobLimits, NewRun, Which},
    statement,
    worker::NOTHING_TO_DO,
};

/// Number of days of each made-up lab.
const DAYS_A_LAB: usize = 1000;

/// Jobs per claim, and number of claims, when measuring claim latency.
const CLAIM: usize = 100;
const CLAIMS: usize = 51;

/// The backlog in the `--beside-url` database.
const SMALL_BACKLOG: u32 = 1000;

/// How long a statement may take: some read or delete millions of jobs.
const STATEMENT_MAX: Duration = Duration::from_secs(3600);

/// The server has nothing left to flush if it writes less than this within the poll interval.
const QUIET_BYTES: u64 = 256 * 1024;
const QUIET_FOR: Duration = Duration::from_secs(2);
const SETTLED_WITHIN: Duration = Duration::from_secs(600);

statement!(
    Bench: BENCH_SPAN,
    "bench span",
    "SELECT CAST(COALESCE(MAX(sort_key) - {as_us}(MIN(claimed_at)), 0) AS SIGNED), COUNT(*) FROM daymend_jobs
     WHERE id BETWEEN ? AND ? AND state = 'completed'"
);

// A DELETE would leave the server purging for minutes, and distort the next figure.
statement!(
    Bench: BENCH_CLEAN_JOBS,
    "bench clean jobs",
    mysql: "TRUNCATE TABLE daymend_jobs",
    sqlite: "DELETE FROM daymend_jobs"
);

// How much InnoDB has written since it started, in bytes; grows by the megabyte.
statement!(Bench: BENCH_WRITTEN, "bench written", mysql only: "SHOW GLOBAL STATUS LIKE 'Innodb_data_written'");

statement!(Bench: BENCH_CLEAN_RUN, "bench clean run", "DELETE FROM daymend_runs WHERE id = ?");

/// Measures daymend on a scratch database.
#[derive(Debug, Subcommand)]
pub(super) enum Command {
    /// Measure the queue alone, with jobs that do nothing: enqueue, claim and ack rates, claim latency by backlog
    Queue(QueueOptions),
}

impl Command {
    pub(super) async fn run(self, global: &Global) -> anyhow::Result<ExitCode> {
        match self {
            Self::Queue(options) => options.run(global).await,
        }
    }
}

/// Options of `daymend bench queue`.
#[derive(Debug, Args)]
pub(super) struct QueueOptions {
    /// How many jobs to enqueue and run in each round
    #[arg(long, default_value_t = 100_000, value_name = "N", value_parser = clap::value_parser!(u32).range(1000..=10_000_000))]
    jobs: u32,

    /// How many rounds to run; medians are shown
    #[arg(long, default_value_t = 5, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=100))]
    rounds: u32,

    /// How many worker processes to start
    #[arg(long, default_value_t = 2, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=64))]
    processes: u32,

    /// The backlogs at which claims are timed
    #[arg(long, default_value = "1000,100000,1000000", value_delimiter = ',', value_name = "N,N")]
    backlogs: Vec<u32>,

    /// A second scratch database on the same server, with a backlog of 1,000: claims alternate between the two, so
    /// that both see the same disk
    #[arg(long, value_name = "URL", hide_env_values = true, env = "DAYMEND_BENCH_BESIDE_URL")]
    beside_url: Option<String>,
}

/// What was measured: rates in jobs per second, latencies in milliseconds.
#[derive(Debug, Default, serde::Serialize)]
struct Figures {
    enqueue: Vec<f64>,
    work: Vec<f64>,
    claims: Vec<Claims>,
}

/// Claim times at a backlog and, alternating with them, at [`SMALL_BACKLOG`] in another database.
#[derive(Debug, serde::Serialize)]
struct Claims {
    backlog: u32,
    median: f64,
    longest: f64,
    beside_median: Option<f64>,
    beside_longest: Option<f64>,
}

impl QueueOptions {
    async fn run(self, global: &Global) -> anyhow::Result<ExitCode> {
        // The workers will check the source's tables as well: fail now, before there are jobs.
        let (db, _) = global.connect_checked(4).await?;
        let db = scratch(db).await?;
        let beside = match &self.beside_url {
            Some(url) => Some(scratch(connect_to("--beside-url", url, 4).await?).await?),
            None => None,
        };
        let mut figures = Figures::default();
        for round in 1..=self.rounds {
            tell(format_args!("round {round} of {}: {} jobs", self.rounds, self.jobs));
            let begun = Instant::now();
            let run = enqueue(&db, self.jobs).await?;
            figures.enqueue.push(f64::from(self.jobs) / begun.elapsed().as_secs_f64());
            self.work(global).await?;
            figures.work.push(rate(&db, run).await?);
            clean(&db, run).await?;
        }
        for backlog in &self.backlogs {
            tell(format_args!("claims at a backlog of {backlog}"));
            figures.claims.push(time_claims(&db, *backlog, beside.as_ref()).await?);
        }
        print(global, &self, figures)
    }

    /// Drains the queue with worker processes of this binary, as an operator would.
    async fn work(&self, global: &Global) -> anyhow::Result<()> {
        let binary = std::env::current_exe()?;
        let url = global.database_url.clone().unwrap_or_default();
        let jobs_dir = global.jobs_dir.clone();
        let processes = self.processes;
        tokio::task::spawn_blocking(move || {
            let workers: Vec<_> = (0..processes)
                .map(|_| {
                    let mut worker = Process::new(&binary);
                    worker.args(["worker", "--drain", "--log", "error"]).env("DAYMEND_DATABASE_URL", &url);
                    worker.envs(jobs_dir.as_ref().map(|dir| ("DAYMEND_JOBS_DIR", dir)));
                    // An address that is given explicitly has to be free, and only one worker could have it.
                    worker.env_remove("DAYMEND_HTTP_ADDR").stdin(Stdio::null()).spawn()
                })
                .collect::<Result<_, _>>()?;
            for mut worker in workers {
                let status = worker.wait()?;
                anyhow::ensure!(status.success(), "a worker ended with {status}");
            }
            Ok(())
        })
        .await?
    }
}

/// The database, provided that it is a scratch database, in which nothing can be lost.
async fn scratch(db: Db) -> anyhow::Result<Db> {
    migrate::check(&db).await?;
    if !runs::list(&db, Which::default(), 1).await?.is_empty() {
        return Err(usage("this database has runs: measure on a scratch database, after `daymend migrate`"));
    }
    let options = ConnectOptions { statement_max: STATEMENT_MAX, ..ConnectOptions::new(4) };
    let db = db.reopened(options).with_limit(STATEMENT_MAX);
    // Fail now, before there are jobs.
    clean_jobs(&db).await.context("this needs a user who may empty daymend_jobs: DROP on that table")?;
    Ok(db)
}

/// Enqueues a run of jobs that do nothing, and returns its id.
async fn enqueue(db: &Db, jobs: u32) -> anyhow::Result<i64> {
    let first = NaiveDate::from_ymd_opt(2000, 1, 1).unwrap_or_default();
    let days: Vec<NaiveDate> = first.iter_days().take(DAYS_A_LAB).collect();
    let mut left = jobs as usize;
    let mut labs = Vec::new();
    for lab in 1.. {
        if left == 0 {
            break;
        }
        let count = left.min(DAYS_A_LAB);
        labs.push((lab, days[..count].to_vec()));
        left -= count;
    }
    let (as_of, limits) = (calendar::EARLIEST.and_utc(), JobLimits::any_shrink(5));
    let run = NewRun {
        reason: "bench queue".to_owned(),
        requested_by: super::who(),
        ..NewRun::new(JobKind::Rebuild, NOTHING_TO_DO, as_of, labs, limits)
    };
    let mut tx = db.begin(Mode::Write).await?;
    let id = runs::create(&mut tx, &run).await?;
    tx.commit().await?;
    Ok(id)
}

/// Jobs per second, from the first claim to the last ack, by the database's clock.
async fn rate(db: &Db, run: i64) -> anyhow::Result<f64> {
    let (first, last) = ids_of(run);
    let span = db.fetch_one(&BENCH_SPAN, args![first, last], |row| Ok((row.int(0)?, row.int(1)?)));
    let (micros, jobs) = span.await?;
    Ok(jobs as f64 / (micros as f64 / 1e6))
}

async fn clean_jobs(db: &Db) -> Result<u64, DbError> {
    db.execute(&BENCH_CLEAN_JOBS, args![]).await
}

async fn clean(db: &Db, run: i64) -> anyhow::Result<()> {
    clean_jobs(db).await?;
    db.execute(&BENCH_CLEAN_RUN, args![run]).await?;
    Ok(())
}

/// Waits until the server has flushed what was enqueued, so that the next figure measures only the claims.
async fn settled(db: &Db) -> anyhow::Result<()> {
    if db.dialect() == Dialect::Sqlite {
        return Ok(());
    }
    let begun = Instant::now();
    let mut before = None;
    while begun.elapsed() < SETTLED_WITHIN {
        let written: u64 = db.fetch_one(&BENCH_WRITTEN, args![], |row| row.text(1)).await?.parse()?;
        if before.is_some_and(|before| written - before < QUIET_BYTES) {
            return Ok(());
        }
        before = Some(written);
        tokio::time::sleep(QUIET_FOR).await;
    }
    let waited = SETTLED_WITHIN.as_secs();
    tell(format_args!("the server is still writing after {waited} s: these claims are of a busy server"));
    Ok(())
}

/// A scratch database with this many jobs waiting, and a worker that claims them.
struct Backlog<'a> {
    db: &'a Db,
    run: i64,
    worker: i64,
    /// What each claim took, in milliseconds.
    latencies: Vec<f64>,
}

impl<'a> Backlog<'a> {
    async fn new(db: &'a Db, jobs: u32) -> anyhow::Result<Self> {
        // The claims take jobs off the backlog: enqueue enough to leave as many as were asked for. The first, which
        // prepares the statements, does not count.
        let run = enqueue(db, jobs + u32::try_from(CLAIM * (1 + CLAIMS))?).await?;
        let worker = lease::register(db, "bench", Duration::from_secs(3600)).await?;
        Ok(Self { db, run, worker, latencies: Vec::new() })
    }

    async fn time_a_claim(&mut self) -> anyhow::Result<()> {
        let begun = Instant::now();
        let jobs = claim::claim(self.db, self.worker, CLAIM).await?;
        self.latencies.push(begun.elapsed().as_secs_f64() * 1000.0);
        let mut tx = self.db.begin(Mode::Write).await?;
        settle::complete(&mut tx, self.worker, &jobs.iter().collect::<Vec<_>>(), Changes::default()).await?;
        tx.commit().await?;
        Ok(())
    }

    /// The median and the maximum.
    async fn end(mut self) -> anyhow::Result<(f64, f64)> {
        lease::sign_off(self.db, self.worker).await?;
        clean(self.db, self.run).await?;
        self.latencies.sort_by(f64::total_cmp);
        Ok((median(&self.latencies), self.latencies[CLAIMS - 1]))
    }
}

/// Times claims at a backlog, alternating with claims at a small one in another database of the same server, so that
/// disk noise affects both.
async fn time_claims(db: &Db, backlog: u32, beside: Option<&Db>) -> anyhow::Result<Claims> {
    let mut measured = Backlog::new(db, backlog).await?;
    let mut small = match beside {
        Some(beside) => Some(Backlog::new(beside, SMALL_BACKLOG).await?),
        None => None,
    };
    settled(db).await?;
    for backlog in [Some(&mut measured), small.as_mut()].into_iter().flatten() {
        backlog.time_a_claim().await?;
        backlog.latencies.clear();
    }
    for _ in 0..CLAIMS {
        measured.time_a_claim().await?;
        if let Some(small) = &mut small {
            small.time_a_claim().await?;
        }
    }
    let (median, longest) = measured.end().await?;
    let beside = match small {
        Some(small) => Some(small.end().await?),
        None => None,
    };
    Ok(Claims {
        backlog,
        median,
        longest,
        beside_median: beside.map(|(median, _)| median),
        beside_longest: beside.map(|(_, longest)| longest),
    })
}

/// The median of sorted numbers.
fn median(sorted: &[f64]) -> f64 {
    sorted[sorted.len() / 2]
}

fn print(global: &Global, options: &QueueOptions, mut figures: Figures) -> anyhow::Result<ExitCode> {
    figures.enqueue.sort_by(f64::total_cmp);
    figures.work.sort_by(f64::total_cmp);
    if global.json {
        print_json(&figures)?;
        return Ok(Exit::Ok.into());
    }
    let mut rates_table = table(&["figure", ">median", ">lowest", ">highest"]);
    let work = format!("work off, {} processes, jobs/s", options.processes);
    for (name, rates) in [("enqueue, jobs/s", &figures.enqueue), (work.as_str(), &figures.work)] {
        let [median, lowest, highest] =
            [median(rates), rates[0], rates[rates.len() - 1]].map(|rate| format!("{rate:.0}"));
        rates_table.add_row([name.to_owned(), median, lowest, highest]);
    }
    println!("{rates_table}");
    let mut claims =
        table(&[">backlog", ">claim of 100, median ms", ">longest ms", ">beside: median ms", ">longest ms", ">ratio"]);
    for figures in &figures.claims {
        let text = |number: Option<f64>| number.map_or_else(String::new, |number| format!("{number:.2}"));
        let ratio = figures.beside_median.map(|beside| figures.median / beside);
        let numbers =
            [Some(figures.median), Some(figures.longest), figures.beside_median, figures.beside_longest, ratio];
        claims.add_row([figures.backlog.to_string()].into_iter().chain(numbers.map(text)));
    }
    println!("{claims}");
    Ok(Exit::Ok.into())
}
