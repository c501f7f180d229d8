//! daymend keeps a pre-aggregated table true: each (lab, calendar day) is one retriable job
//! of a durable queue in the same database, worked off by any number of replicas.
//!
//! Everything that changes data is the same three steps: read what should be, read what is,
//! write only the difference. `ARCHITECTURE.md` is the map; the modules, from the bottom up:
//!
//! - [`calendar`], [`rollup`], [`recompute::diff`]: what a day is, what counts, what differs. Pure.
//! - [`db`]: MySQL, MariaDB and SQLite behind one interface.
//! - [`recompute`]: the difference of some days of a lab, written in few transactions.
//! - [`queue`], [`runs`]: jobs, and what asked for them.
//! - [`audit`]: what differs, and why; nothing is written.
//! - [`worker`]: the apalis runtime that works the queue off.
//! - [`triggers`]: what marks the days whose source changes.
//! - [`scheduler`]: reconciles what should be enqueued with what is.
//! - [`doctor`]: what is wrong with a site, and what to do about it.
//! - [`snapshot`]: consistent copies of tables, kept and read back.
//! - [`metrics`], [`health`], [`http`]: what a process shows of itself.
//! - [`cli`]: one file a command.

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
