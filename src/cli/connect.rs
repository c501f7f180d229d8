//! Connecting a command to its database: the URL, the schema, and whether the rollup definitions fit.

use std::sync::Arc;

use anyhow::Context as _;

use super::Global;
use crate::{
    db::{self, ConnectOptions, Db, DbError},
    error::{chain, usage},
    recompute::stored::{self, Access},
    rollup::{Rollups, misfit::Misfit, source},
    snapshot::database_error,
};

impl Global {
    pub(super) fn rollups(&self) -> anyhow::Result<Rollups> {
        Rollups::load(self.jobs_dir.as_deref()).map_err(|errors| {
            let lines: Vec<String> = errors.iter().map(ToString::to_string).collect();
            usage(format!("the rollup definitions are broken (see `daymend rollups check`): {}", lines.join("; ")))
        })
    }

    /// The same error; for a read-only SQLite file, or a missing table of daymend's own, with advice on what to do.
    pub(super) fn explained(&self, error: anyhow::Error) -> anyhow::Error {
        if database_error(&error).is_some_and(DbError::is_own_table_absent) {
            return error.context("a table of daymend's own is missing: run `daymend doctor`");
        }
        let why = self.database_url.as_deref().zip(database_error(&error));
        match why.and_then(|(url, error)| db::explain_read_only(url, error)) {
            Some(why) => error.context(why),
            None => error,
        }
    }

    /// A pool to the database, which may not be reachable yet.
    pub(super) fn pool(&self, options: impl Into<ConnectOptions>) -> anyhow::Result<Db> {
        let url = self
            .database_url
            .as_deref()
            .ok_or_else(|| usage("no database is given: use --database-url or DAYMEND_DATABASE_URL"))?;
        db::connect(url, options.into()).map_err(|error| usage(chain(error.as_ref())))
    }

    /// A pool to the database, once it has answered; its tables are not checked.
    pub(super) async fn connect_bare(&self, options: impl Into<ConnectOptions>) -> anyhow::Result<Db> {
        let db = self.pool(options)?;
        db.ping().await?;
        Ok(db)
    }

    /// A pool to the database, once its schema has been checked.
    pub(super) async fn connect(&self, options: impl Into<ConnectOptions>) -> anyhow::Result<Db> {
        let db = self.connect_bare(options).await?;
        db::migrate::check(&db).await?;
        Ok(db)
    }

    /// Like [`connect`](Self::connect), and also checks that the rollup definitions fit the database, for
    /// recomputing.
    pub(super) async fn connect_checked(
        &self,
        options: impl Into<ConnectOptions>,
    ) -> anyhow::Result<(Db, Arc<Rollups>)> {
        self.connect_checked_for(Access::Write, options).await
    }

    /// Like [`connect_checked`](Self::connect_checked), for recomputing or only for reading.
    pub(super) async fn connect_checked_for(
        &self,
        access: Access,
        options: impl Into<ConnectOptions>,
    ) -> anyhow::Result<(Db, Arc<Rollups>)> {
        let rollups = self.rollups()?;
        let db = self.connect(options).await?;
        require_fit(&db, &rollups, access).await?;
        Ok((db, Arc::new(rollups)))
    }
}

/// A pool to the database at `url`, given by `option`; the database may not be reachable yet.
pub(super) fn pool_to(option: &'static str, url: &str, options: impl Into<ConnectOptions>) -> anyhow::Result<Db> {
    db::connect(url, options.into()).map_err(|error| usage(format!("{option}: {}", chain(error.as_ref()))))
}

/// Like [`pool_to`], once the database has answered.
pub(super) async fn connect_to(
    option: &'static str,
    url: &str,
    options: impl Into<ConnectOptions>,
) -> anyhow::Result<Db> {
    let db = pool_to(option, url, options)?;
    db.ping().await.context(option)?;
    Ok(db)
}

/// Checks every rollup against the database, for reading or for recomputing, and for recomputing also the tables that
/// runs write to; one line per problem.
pub(super) async fn check_rollups(db: &Db, rollups: &Rollups, access: Access) -> Result<Vec<String>, DbError> {
    let mut problems: Vec<Misfit> = Vec::new();
    for rollup in rollups.iter() {
        problems.extend(source::check(db, rollup).await?);
        problems.extend(stored::check(db, rollup, access).await?);
    }
    if access == Access::Write {
        problems.extend(crate::runs::check(db).await?);
    }
    Ok(problems.iter().map(ToString::to_string).collect())
}

/// Fails if the rollups do not fit the database.
pub(super) async fn require_fit(db: &Db, rollups: &Rollups, access: Access) -> anyhow::Result<()> {
    let checked = db::retry("check rollups", || check_rollups(db, rollups, access)).await;
    let problems = checked.context("cannot check whether the database fits the rollup definitions")?;
    if problems.is_empty() {
        Ok(())
    } else {
        Err(usage(format!("the database does not fit the rollup definitions: {}", problems.join("; "))))
    }
}
