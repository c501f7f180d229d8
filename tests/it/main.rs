//! The integration tests: one file a capability, on both databases.

#![allow(clippy::unwrap_used, clippy::print_stdout, missing_docs, reason = "a failed unwrap is a failed test")]

mod support;

mod admin;
mod at_size;
mod calendar;
mod cli;
mod doctor;
mod doctor_fixes;
mod doctor_server;
mod explain;
mod fair;
mod faults;
mod grants;
mod hostile;
mod kills;
mod limits;
mod metrics;
mod outages;
mod processes;
mod queue;
mod queue_model;
mod recompute_property;
mod runbooks;
mod scheduler;
mod statements;
mod storm;
