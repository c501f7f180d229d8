//! daymend keeps a pre-aggregated table true: each (lab, calendar day) is one retriable job of a durable queue in the
//! same database, processed by any number of replicas.
//!
//! Everything that changes data follows the same three steps: read what should be there, read what is there, write
//! only the difference. `ARCHITECTURE.md` gives an overview; the modules, from the bottom up:
//!
//! - [`calendar`], [`rollup`], [`recompute::diff`]: what a day is, what is counted, what differs. Pure.
//! - [`db`]: one interface to MySQL, MariaDB and SQLite.
//! - [`recompute`]: corrects some days of a lab in few transactions.
//! - [`queue`], [`runs`]: jobs, and the requests they belong to.
//! - [`audit`]: which rows differ, and why; writes nothing.
//! - [`worker`]: the apalis runtime that runs the jobs.
//! - [`triggers`]: mark the days whose source changes.
//! - [`scheduler`]: reconciles what should be enqueued with what is.
//! - [`doctor`]: what is wrong with a site, and what to do about it.
//! - [`snapshot`]: consistent copies of tables, kept and read back.
//! - [`metrics`], [`health`], [`http`]: what a process exposes about itself.
//! - [`cli`]: one file per command.

#![allow(rustdoc::private_intra_doc_links, reason = "module docs are maps, for readers of the code too")]

pub mod audit;
pub mod calendar;
pub mod cli;
pub mod clock;
pub mod db;
pub mod demo;
pub mod doctor;
pub mod error;
pub mod health;
pub mod http;
pub mod metrics;
mod output;
pub mod queue;
pub mod recompute;
pub mod rollup;
pub mod runs;
pub mod scheduler;
pub mod snapshot;
pub mod triggers;
pub mod worker;
