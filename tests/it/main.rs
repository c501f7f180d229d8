//! The integration tests: one file a capability, on both databases.

#![allow(clippy::unwrap_used, clippy::print_stdout, missing_docs, reason = "a failed unwrap is a failed test")]

mod support;

mod admin;
mod at_size;
mod calendar;
mod cli;
mod explain;
mod fair;
mod faults;
mod grants;
mod hostile;
mod kills;
mod metrics;
mod outages;
mod processes;
mod queue;
mod queue_model;
mod recompute_property;
mod restore;
mod scheduler;
mod snapshot;
mod statements;
mod storm;
