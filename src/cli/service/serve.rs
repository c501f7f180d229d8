//! `daymend serve`.

use std::{process::ExitCode, sync::Arc};

use clap::Args;

use super::{
    CONNECTIONS_SPARE, TICK_FRESH,
    scheduler::{SchedulerArgs, SnapshotArgs, take_daily},
    worker::WorkerArgs,
};
use crate::{
    cli::{
        Exit, Global, historical_summary,
        process::{HttpArgs, once_reachable, shutdown_on_signal},
        usage,
    },
    db::{ConnectOptions, Db},
    health::Health,
    metrics,
    scheduler::Scheduler,
    worker,
};

/// Options of `daymend serve`.
#[derive(Debug, Args)]
pub(in crate::cli) struct ServeOptions {
    #[command(flatten)]
    scheduler: SchedulerArgs,

    #[command(flatten)]
    snapshot: SnapshotArgs,

    #[command(flatten)]
    worker: WorkerArgs,

    #[command(flatten)]
    http: HttpArgs,
}

impl ServeOptions {
    pub(in crate::cli) async fn run(self, global: &Global) -> anyhow::Result<ExitCode> {
        let (config, daily) = (self.worker.config(false)?, self.snapshot.daily(global)?);
        let health = Arc::new(Health::default());
        let [worker_pulse, scheduler_pulse] =
            [("worker", config.lease), ("scheduler", TICK_FRESH)].map(|(name, fresh)| health.part(name, fresh));
        let shutdown = shutdown_on_signal(&health)?;
        self.http.serve(global, "serve", &health).await?;
        self.scheduler.log(daily.as_ref());
        self.worker.log();
        metrics::scheduler_starts();
        metrics::worker_starts(&global.rollups()?);
        let connect = async || {
            let (db, rollups) = global.connect_checked(self.worker.connect()).await?;
            config.limits.check(&db).await.map_err(usage)?;
            global.warn_of_future(&db).await?;
            Ok((db, rollups))
        };
        let Some((db, rollups)) = once_reachable(&shutdown, connect).await? else {
            return Ok(Exit::Ok.into());
        };
        let (rollup, lease_db) = (historical_summary(&rollups)?, db.reopened(ConnectOptions::new(1)));
        // A time limit that suits jobs is too long for a tick.
        let ticking_db = db.reopened(CONNECTIONS_SPARE.into());
        let (clock, scheduling) = (global.clock(), self.scheduler.config());
        let scheduler = Scheduler { db: &ticking_db, rollup, config: &scheduling, clock };
        let snapshots = take_daily(&daily, &ticking_db, clock, &shutdown);
        let working = worker::run(&db, &lease_db, rollups.clone(), &config, clock, &worker_pulse, &shutdown);
        let ticking = scheduler.run(&scheduler_pulse, &shutdown);
        let (worked, ()) = tokio::join!(working, ticking);
        let _ = snapshots.await;
        close(&[&db, &lease_db, &ticking_db]).await;
        worked?;
        Ok(Exit::Ok.into())
    }
}

async fn close(pools: &[&Db]) {
    for db in pools {
        db.close().await;
    }
}
