//! The integration tests: one file per capability, on both databases.

#![allow(clippy::unwrap_used, clippy::print_stdout, missing_docs, reason = "a failed unwrap is a failed test")]

mod support;

mod admin;
mod at_size;
mod audit;
mod audit_command;
mod audit_standing;
mod calendar;
mod cli;
mod closing;
mod corrections;
mod dashboards;
mod digest;
mod dirty;
mod dirty_catalogue;
mod doctor;
mod doctor_fixes;
mod doctor_labs;
mod doctor_server;
mod explain;
mod fair;
mod faults;
mod gauges;
mod grants;
mod held;
mod hostile;
mod kills;
mod late;
mod limits;
mod metric_values;
mod metrics;
mod migrate;
mod observed;
mod outages;
mod parts;
mod probes;
mod processes;
mod queue;
mod queue_model;
mod recompute_property;
mod records;
mod restore;
mod rules;
mod runbooks;
mod scheduler;
mod snapshot;
mod snapshot_bucket;
mod snapshot_daily;
mod snapshot_store;
mod snapshot_take;
mod statements;
mod storm;
mod traps;
mod triggers;
